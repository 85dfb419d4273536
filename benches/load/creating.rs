//! CreateRefund by many callers, beside the one-table gateway: the rate, and the CPU per refund.

use std::time::Duration;

use recoup::proto::v1::CreateRefundRequest;

use crate::Stage;
use crate::callers::{CALLERS, Gate, Way};
use crate::growing::Large;
use crate::one_table::ONE_TABLE;
use crate::processes::Usage;
use crate::report::{Reach, Row, micros};

/// The server that creates the refunds of a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Gateway,
    OneTable,
    Proxy,
    JournalingProxy,
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

const WAYS: [(Way, &str); 3] = [
    (Way::Fresh, "a fresh connection per POST"),
    (Way::Tls, "a fresh TLS connection per POST"),
    (Way::Pooled, "connection reuse allowed"),
];

/// As many callers as a busy service has.
const FEW_CALLERS: usize = 16;
const PROXY: &str = "bare proxy";

/// The gateway and the one-table gateway with a few callers, in alternating turns.
pub(crate) async fn few_callers(stage: &mut Stage, large: &Large) -> Vec<Row> {
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for (way, what) in WAYS {
        let reach = match way {
            Way::Fresh => Reach::AtLeast(0.75),
            Way::Pooled => Reach::AtLeast(0.58),
            Way::Tls => continue,
        };
        let contestants = [Contestant::Gateway, Contestant::OneTable];
        let [ours, table] = turns(stage, large, way, FEW_CALLERS, contestants).await;
        rates.push(rate(format!("CreateRefund, {FEW_CALLERS} callers, {what}"), &ours, ONE_TABLE, &table, reach));
        costs.push(cost(format!("CPU per refund, {FEW_CALLERS} callers, {what}"), &ours, ONE_TABLE, &table));
    }
    rates.into_iter().chain(costs).collect()
}

/// Every contestant in every way with all callers, in alternating turns.
pub(crate) async fn saturated(stage: &mut Stage, large: &Large) -> Vec<Row> {
    let (mut rates, mut growth, mut costs, mut yardsticks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (way, what) in WAYS {
        let contestants = [
            Contestant::Proxy,
            Contestant::JournalingProxy,
            Contestant::OneTable,
            Contestant::Gateway,
            Contestant::OnLarge,
        ];
        let [bare, journaling, table, ours, grown] = turns(stage, large, way, CALLERS, contestants).await;
        let saturated = format!("{CALLERS} callers, {what}");
        rates.push(rate(format!("CreateRefund, {saturated}"), &ours, ONE_TABLE, &table, Reach::Nothing));
        growth.push(rate(
            format!("growth: the same on {} refunds, {what}", stage.extent.large),
            &grown,
            "on an empty ledger",
            &ours,
            Reach::AtLeast(0.9),
        ));
        costs.push(cost(format!("CPU per refund, {saturated}"), &ours, ONE_TABLE, &table));
        for (name, turns) in [(ONE_TABLE, &table), ("journaling proxy", &journaling)] {
            yardsticks.push(rate(format!("{name}, {saturated}"), turns, PROXY, &bare, Reach::Nothing));
            yardsticks.push(cost(format!("{name}, CPU per refund, {what}"), turns, PROXY, &bare));
        }
    }
    rates.into_iter().chain(growth).chain(costs).chain(yardsticks).collect()
}

fn rate(what: String, mine: &Turns, yardstick: &'static str, theirs: &Turns, reach: Reach) -> Row {
    Row::paired(what, "/s", &mine.rates, yardstick, &theirs.rates, reach)
}

/// CPU per refund, for information.
fn cost(what: String, mine: &Turns, name: &'static str, theirs: &Turns) -> Row {
    Row::paired(what, "us", &[mine.cpu_each()], name, &[theirs.cpu_each()], Reach::Nothing)
}

/// Runs the turns of one way. The first round warms up and is not counted.
async fn turns<const N: usize>(
    stage: &mut Stage,
    large: &Large,
    way: Way,
    callers: usize,
    contestants: [Contestant; N],
) -> [Turns; N] {
    let mut turns: [Turns; N] = std::array::from_fn(|_| Turns::default());
    let mut order: [(usize, Contestant); N] = std::array::from_fn(|index| (index, contestants[index]));
    for round in 0..=stage.extent.rounds {
        for (index, contestant) in order {
            let requests = stage.targets.requests(&stage.providers, way, stage.extent.refunds).await;
            let refunds = requests.len();
            let (took, cpu) = turn(stage, large, contestant, requests, callers).await;
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
    callers: usize,
) -> (Duration, Duration) {
    let (gate, usage): (&Gate, Box<dyn Fn() -> Usage>) = match contestant {
        Contestant::Gateway => (&stage.gate, Box::new(|| stage.small.usage())),
        Contestant::OneTable => (&stage.one_table, Box::new(|| stage.one_table_server.usage())),
        Contestant::Proxy => (&stage.bare, Box::new(|| stage.yardsticks.usage())),
        Contestant::JournalingProxy => (&stage.journaling, Box::new(|| stage.yardsticks.usage())),
        Contestant::OnLarge => (&large.gate, Box::new(|| large.gateway.usage())),
    };
    let before = usage().cpu;
    let took = gate.create(requests, callers).await;
    (took, usage().cpu - before)
}

impl Turns {
    /// Microseconds.
    fn cpu_each(&self) -> f64 {
        micros(self.cpu) / self.refunds as f64
    }
}
