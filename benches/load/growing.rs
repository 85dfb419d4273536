//! A gateway on a ledger of a million refunds: it starts, processes unfinished refunds, and is no
//! slower than on an empty ledger.

use std::path::Path;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use tokio::time::Instant;

use crate::Stage;
use crate::callers::{Gate, Way};
use crate::ledgers;
use crate::processes::Gateway;
use crate::report::{Reach, Row, median, micros, percentile};

/// The gateway on the large ledger.
pub(crate) struct Large {
    pub(crate) gateway: Gateway,
    pub(crate) gate: Gate,
}

/// The call that is measured.
#[derive(Clone, Copy)]
enum Read {
    Get,
    Newest,
    /// A page before some refund of the history.
    Older,
}

/// Unfinished refunds at each start.
const UNFINISHED: usize = 10_000;
const PAGE: i32 = 100;
/// Turns of reads, each with a p99 of its own: a single p99 varies by half from run to run.
const TURNS: usize = 7;
/// The allowed growth.
const FLAT: Reach = Reach::AtMost(1.25);
/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Starts the gateway several times, each time with unfinished refunds. It runs when this returns.
pub(crate) async fn started(stage: &mut Stage, cached: &Path) -> (Large, Vec<Row>) {
    let path = stage.folder.join("large.db");
    ledgers::copy(cached, &path);
    let account = stage.providers.account(Way::Fresh);
    let (mut ready, mut recover) = (Vec::new(), Vec::new());
    let mut running: Option<Large> = None;
    for _ in 0..stage.extent.starts {
        if let Some(before) = running.take() {
            before.gateway.stop();
        }
        let orders = stage.targets.numbers(UNFINISHED);
        stage.providers.put(Way::Fresh, orders.clone()).await;
        ledgers::add_unfinished(&path, &account, orders).await;
        let began = Instant::now();
        let (gateway, took) = Gateway::start(&stage.folder, "large", &stage.providers).await;
        let gate = Gate::open(gateway.address).await;
        while is_any_unfinished(&gate).await {
            assert!(began.elapsed() < LIMIT, "unfinished refunds are left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ready.push(took.as_secs_f64() * 1e3);
        recover.push(began.elapsed().as_secs_f64());
        running = Some(Large { gateway, gate });
    }
    let what = format!("start on {} refunds, {UNFINISHED} unfinished: ready", stage.extent.large);
    let row = Row::below(what, median(&ready), "ms", 1_000.0);
    let note = format!("all {UNFINISHED} were done {:.1} s after the start, each sent or looked up", median(&recover));
    (running.unwrap(), vec![row.noting(note)])
}

async fn is_any_unfinished(gate: &Gate) -> bool {
    let states = [State::Pending, State::Dispatching, State::InDoubt, State::Submitted];
    let filter = proto::RefundFilter { states: states.map(Into::into).to_vec(), ..Default::default() };
    let request = proto::ListRefundsRequest { page_size: 1, filter: Some(filter), ..Default::default() };
    !gate.refunds(0).list_refunds(request).await.unwrap().into_inner().refunds.is_empty()
}

/// Reads of both ledgers, alternating after each call: medians, and the slowest of a hundred.
pub(crate) async fn pages(stage: &mut Stage, large: &Large) -> Vec<Row> {
    let grown = History {
        gate: &large.gate,
        ids: (0..997).map(|nth| ledgers::id_of(nth * 7_919 % stage.extent.large)).collect(),
    };
    let small = History { gate: &stage.gate, ids: newest_ids(&stage.gate).await };
    let reads = [
        (Read::Get, "GetRefund, p99"),
        (Read::Newest, "ListRefunds, the newest 100, p99"),
        (Read::Older, "ListRefunds, 100 older ones, p99"),
    ];
    let mut rows = Vec::new();
    for (read, what) in reads {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut our_slowest, mut their_slowest) = (Vec::new(), Vec::new());
        for turn in 0..TURNS {
            let begin = turn * stage.extent.singles;
            for nth in begin..begin + stage.extent.singles {
                ours.push(grown.measure(read, nth).await);
                theirs.push(small.measure(read, nth).await);
            }
            our_slowest.push(percentile(&ours[begin..], 0.99));
            their_slowest.push(percentile(&theirs[begin..], 0.99));
        }
        let medians = format!("the medians are {:.0} us and {:.0} us", median(&ours), median(&theirs));
        let row = Row::paired(format!("growth: {what}"), "us", &our_slowest, "on a small ledger", &their_slowest, FLAT);
        rows.push(row.noting(medians));
    }
    rows
}

/// A gateway, and refunds in its ledger.
struct History<'a> {
    gate: &'a Gate,
    ids: Vec<String>,
}

impl History<'_> {
    /// Makes one call. Returns how many microseconds it took.
    async fn measure(&self, read: Read, nth: usize) -> f64 {
        let id = &self.ids[nth % self.ids.len()];
        match read {
            Read::Get => {
                let began = Instant::now();
                get(self.gate, id).await;
                micros(began.elapsed())
            }
            Read::Newest => page_until(self.gate, None).await.0,
            Read::Older => {
                let until = get(self.gate, id).await.create_time;
                page_until(self.gate, until).await.0
            }
        }
    }
}

async fn get(gate: &Gate, id: &str) -> proto::Refund {
    let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
    gate.refunds(0).get_refund(request).await.unwrap().into_inner().refund.unwrap()
}

/// A page of refunds that were created before a time, and how many microseconds it took.
async fn page_until(gate: &Gate, create_time_end: Option<prost_types::Timestamp>) -> (f64, Vec<proto::Refund>) {
    let filter = Some(proto::RefundFilter { create_time_end, ..Default::default() });
    let request = proto::ListRefundsRequest { page_size: PAGE, filter, ..Default::default() };
    let began = Instant::now();
    let answer = gate.refunds(0).list_refunds(request).await.unwrap();
    (micros(began.elapsed()), answer.into_inner().refunds)
}

async fn newest_ids(gate: &Gate) -> Vec<String> {
    page_until(gate, None).await.1.into_iter().map(|refund| refund.refund_id).collect()
}
