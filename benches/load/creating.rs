//! CreateRefund beside the bare proxy: saturated, one at a time, and what it costs in CPU.

use std::time::Duration;

use recoup::proto::v1::CreateRefundRequest;
use tokio::time::Instant;

use crate::Stage;
use crate::callers::{Gate, Way};
use crate::growing::Large;
use crate::processes::Usage;
use crate::report::{Figure, Reach, Row, Spread, Yardstick, median, micros};
use crate::yardsticks::SyncedFile;

/// The server that creates the refunds of a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Proxy,
    JournalingProxy,
    Gateway,
    /// The gateway on the large ledger.
    OnLarge,
}

/// The turns of one contestant.
#[derive(Default)]
struct Turns {
    rates: Vec<f64>,
    cpu: Duration,
    refunds: usize,
}

/// The texts and the target of the rows of one way.
struct WayRows {
    way: Way,
    what: &'static str,
    proxy: &'static str,
    min_ratio: f64,
}

const WAYS: [WayRows; 3] = [
    WayRows { way: Way::Fresh, what: "a fresh connection per POST", proxy: "bare proxy, fresh", min_ratio: 0.9 },
    WayRows { way: Way::Tls, what: "a fresh TLS connection per POST", proxy: "bare proxy, fresh TLS", min_ratio: 0.9 },
    WayRows { way: Way::Pooled, what: "connection reuse allowed", proxy: "bare proxy, pool", min_ratio: 0.75 },
];

/// Every contestant in every way, in alternating turns.
pub(crate) async fn saturated(stage: &mut Stage, large: &Large) -> Vec<Row> {
    let (mut rates, mut growth, mut costs, mut proxy_rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for WayRows { way, what, proxy, min_ratio } in WAYS {
        let [bare, journaling, ours, grown] = turns(stage, large, way).await;
        let row = |name: String, mine: &Turns, yardstick, theirs: &Turns, reach| {
            Row::paired(name, "/s", &mine.rates, yardstick, &theirs.rates, reach)
        };
        rates.push(row(format!("CreateRefund, saturated, {what}"), &ours, proxy, &bare, Reach::AtLeast(min_ratio)));
        growth.push(row(
            format!("growth: the same on {} refunds, {what}", stage.extent.large),
            &grown,
            "on an empty ledger",
            &ours,
            Reach::AtLeast(0.9),
        ));
        let cost = |name: String, mine: &Turns, reach| {
            let (mine, theirs) = (mine.cpu_each(), bare.cpu_each());
            Row {
                what: name,
                figure: Figure { value: mine, unit: "us" },
                yardstick: Yardstick::Measured { name: proxy, value: theirs, ratio: Spread::single(mine / theirs) },
                reach,
                note: String::new(),
            }
        };
        costs.push(cost(format!("CPU per refund, {what}"), &ours, Reach::AtMost(1.5)));
        proxy_rows.push(row(format!("journaling proxy, saturated, {what}"), &journaling, proxy, &bare, Reach::Nothing));
        proxy_rows.push(cost(format!("journaling proxy, CPU per refund, {what}"), &journaling, Reach::Nothing));
    }
    rates.into_iter().chain(growth).chain(costs).chain(proxy_rows).collect()
}

/// Runs the turns of one way. The first round warms up and is not counted.
async fn turns(stage: &mut Stage, large: &Large, way: Way) -> [Turns; 4] {
    let mut turns: [Turns; 4] = Default::default();
    let mut order =
        [(0, Contestant::Proxy), (1, Contestant::JournalingProxy), (2, Contestant::Gateway), (3, Contestant::OnLarge)];
    for round in 0..=stage.extent.rounds {
        for (index, contestant) in order {
            let requests = stage.targets.requests(&stage.providers, way, stage.extent.refunds).await;
            let refunds = requests.len();
            let (took, cpu) = turn(stage, large, contestant, requests).await;
            if round > 0 {
                turns[index].rates.push(refunds as f64 / took.as_secs_f64());
                turns[index].cpu += cpu;
                turns[index].refunds += refunds;
            }
        }
        order.reverse();
    }
    turns
}

async fn turn(
    stage: &Stage,
    large: &Large,
    contestant: Contestant,
    requests: Vec<CreateRefundRequest>,
) -> (Duration, Duration) {
    let (gate, usage): (&Gate, Box<dyn Fn() -> Usage>) = match contestant {
        Contestant::Proxy => (&stage.bare, Box::new(|| stage.yardsticks.usage())),
        Contestant::JournalingProxy => (&stage.journaling, Box::new(|| stage.yardsticks.usage())),
        Contestant::Gateway => (&stage.gate, Box::new(|| stage.small.usage())),
        Contestant::OnLarge => (&large.gate, Box::new(|| large.gateway.usage())),
    };
    let before = usage().cpu;
    let took = gate.create(requests).await;
    (took, usage().cpu - before)
}

impl Turns {
    /// Microseconds.
    fn cpu_each(&self) -> f64 {
        micros(self.cpu) / self.refunds as f64
    }
}

/// One call at a time, alternating between the gateway, the proxy and the disk.
pub(crate) async fn one_at_a_time(stage: &mut Stage) -> Option<Row> {
    let count = stage.extent.singles;
    let mut file = SyncedFile::make(&stage.folder);
    let requests = stage.targets.requests(&stage.providers, Way::Fresh, 2 * count).await;
    let (mut ours, mut bare, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    for pair in requests.chunks_exact(2) {
        ours.push(single(&stage.gate, &pair[0]).await);
        synced.push(micros(file.write_page()));
        bare.push(single(&stage.bare, &pair[1]).await);
    }
    let (mine, proxy, sync) = (median(&ours), median(&bare), median(&synced));
    let row = Row::below("CreateRefund, one at a time, median", mine, "us", proxy + 3.0 * sync);
    let note = format!("the bare proxy's median is {proxy:.0} us, that of one 4 KiB write + fdatasync {sync:.0} us");
    Some(row.noting(note))
}

async fn single(gate: &Gate, request: &CreateRefundRequest) -> f64 {
    let began = Instant::now();
    gate.refunds(0).create_refund(request.clone()).await.unwrap();
    micros(began.elapsed())
}
