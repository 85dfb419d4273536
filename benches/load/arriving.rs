//! Refunds that arrive at fixed times, whether or not earlier ones have been answered.

use std::thread;
use std::time::Duration;

use recoup::proto::v1::CreateRefundRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Stage;
use crate::callers::{Gate, Way};
use crate::one_table::ONE_TABLE;
use crate::report::{Reach, Row, micros, percentile};

const PER_SECOND: u32 = 200;
/// The first turn warms up and is not counted.
const WARM_UP: usize = 1;

/// Turns of the gateway and of the one-table gateway.
pub(crate) async fn open_loop(stage: &mut Stage) -> Vec<Row> {
    let (turns, count) = (stage.extent.open_turns, stage.extent.open_refunds);
    let mut all = [Vec::new(), Vec::new()];
    let mut order = [0, 1];
    for turn in 0..turns + WARM_UP {
        for index in order {
            let requests = stage.targets.requests(&stage.providers, Way::Fresh, count).await;
            let gate = if index == 0 { &stage.gate } else { &stage.one_table };
            let latencies = arrive(gate, requests).await;
            if turn >= WARM_UP {
                all[index].push(latencies);
            }
        }
        order.reverse();
    }
    let row = |name: &str, share: f64, reach| {
        let of_turns = |turns: &[Vec<f64>]| -> Vec<f64> { turns.iter().map(|turn| percentile(turn, share)).collect() };
        let what = format!("open loop, {PER_SECOND} refunds/s: {name}");
        Row::paired(what, "us", &of_turns(&all[0]), ONE_TABLE, &of_turns(&all[1]), reach)
    };
    // A turn is too short for it.
    let [ours, theirs] = [0, 1].map(|index| percentile(&all[index].concat(), 0.999));
    let what = format!("open loop, {PER_SECOND} refunds/s: p99.9");
    let slowest = Row::paired(what, "us", &[ours], ONE_TABLE, &[theirs], Reach::Nothing);
    vec![row("p50", 0.5, Reach::Nothing), row("p99", 0.99, Reach::AtMost(1.4)), slowest]
}

/// Creates each refund at its time. Returns how long each took from that time on.
///
/// A thread waits for the times: tokio's timer counts whole milliseconds.
async fn arrive(gate: &Gate, requests: Vec<CreateRefundRequest>) -> Vec<f64> {
    let count = u32::try_from(requests.len()).unwrap();
    let (sender, mut due) = mpsc::unbounded_channel();
    let clock = thread::spawn(move || {
        let began = Instant::now();
        for nth in 0..count {
            let arrival = began + Duration::from_secs(1) / PER_SECOND * nth;
            thread::sleep(arrival.saturating_duration_since(Instant::now()));
            sender.send(arrival).unwrap();
        }
    });
    let mut running = JoinSet::new();
    for (caller, request) in requests.into_iter().enumerate() {
        let arrival = due.recv().await.unwrap();
        let gate = gate.clone();
        running.spawn(async move {
            gate.create_one(caller, request).await;
            micros(arrival.elapsed())
        });
    }
    clock.join().unwrap();
    running.join_all().await
}
