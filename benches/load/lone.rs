//! One refund at a time: how long it takes, and what it costs in CPU, system calls and bytes.

use std::path::Path;
use std::time::Duration;

use recoup::proto::v1::CreateRefundRequest;
use tokio::time::Instant;

use crate::Stage;
use crate::callers::{CALLERS, Gate, Way};
use crate::one_table::ONE_TABLE;
use crate::processes::Gateway;
use crate::report::{Reach, Row, median, micros};
use crate::strace::{Calls, Trace, Window};
use crate::yardsticks::SyncedFile;

/// Calls whose median is one value of the spread.
const CALLS_PER_TURN: usize = 25;
/// Refunds before the first that counts.
const WARM_UP: usize = 10;
/// Refunds under strace.
const TRACED: usize = 100;
/// How long the idle gateway is watched.
const IDLE: Duration = Duration::from_secs(1);
/// How long a log must stay as it is until it counts as written.
const QUIET: Duration = Duration::from_millis(500);

/// Calls that alternate between the gateway, the one-table gateway, the bare proxy and the disk.
pub(crate) async fn one_at_a_time(stage: &mut Stage) -> Vec<Row> {
    let count = stage.extent.singles;
    let mut file = SyncedFile::make(&stage.folder);
    let requests = stage.targets.requests(&stage.providers, Way::Fresh, 3 * (count + WARM_UP)).await;
    let (mut ours, mut table, mut bare, mut synced) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let usage = |stage: &Stage| [stage.small.usage().cpu, stage.one_table_server.usage().cpu];
    let mut before = usage(stage);
    for (nth, requests) in requests.chunks_exact(3).enumerate() {
        if nth == WARM_UP {
            [&mut ours, &mut table, &mut bare].into_iter().for_each(Vec::clear);
            before = usage(stage);
        }
        // Each is as often first as the other.
        if nth % 2 == 0 {
            ours.push(single(&stage.gate, &requests[0]).await);
            table.push(single(&stage.one_table, &requests[1]).await);
        } else {
            table.push(single(&stage.one_table, &requests[1]).await);
            ours.push(single(&stage.gate, &requests[0]).await);
        }
        synced.push(micros(file.write_page()));
        bare.push(single(&stage.bare, &requests[2]).await);
    }
    let after = usage(stage);
    let cpu = [0, 1].map(|index| micros(after[index] - before[index]) / count as f64);
    let medians = |values: &[f64]| -> Vec<f64> { values.chunks(CALLS_PER_TURN).map(median).collect() };
    let what = "one refund at a time, a fresh connection per POST";
    let row = |name: String, mine: &[f64], yardstick, theirs: &[f64], reach| {
        Row::paired(name, "us", &medians(mine), yardstick, &medians(theirs), reach)
    };
    vec![
        row(format!("{what}: p50"), &ours, ONE_TABLE, &table, Reach::AtMost(1.3)),
        Row::paired("one refund at a time: CPU", "us", &cpu[..1], ONE_TABLE, &cpu[1..], Reach::AtMost(1.35)),
        row("the same, p50 beside the bare proxy".to_owned(), &ours, "bare proxy", &bare, Reach::Nothing)
            .noting(format!("the median of one 4 KiB write + fdatasync is {:.0} us", median(&synced))),
    ]
}

async fn single(gate: &Gate, request: &CreateRefundRequest) -> f64 {
    let began = Instant::now();
    gate.create_one(0, request.clone()).await;
    micros(began.elapsed())
}

/// System calls and bytes written, by strace on a gateway of its own; bytes logged and kept.
pub(crate) async fn costs(stage: &mut Stage) -> Vec<Row> {
    let mut rows = traced(stage).await;
    rows.extend(logged_and_kept(stage).await);
    rows
}

async fn traced(stage: &mut Stage) -> Vec<Row> {
    let limits = [("one refund at a time: system calls", "calls", 70.0), ("one refund at a time: written", "KB", 60.0)];
    let Some(trace) = Trace::to(stage.folder.join("strace.txt")) else {
        let why = "strace is missing, or may not trace here";
        return limits.map(|(what, unit, limit)| Row::unmeasured(what, unit, limit, why)).into();
    };
    let (gateway, _) = Gateway::start_with(&stage.folder, "traced", &stage.providers, "", Some(&trace)).await;
    let gate = Gate::open(gateway.address).await;
    let mut requests = stage.targets.requests(&stage.providers, Way::Fresh, WARM_UP + TRACED).await;
    let counted = requests.split_off(WARM_UP);
    gate.create(requests, 1).await;
    tokio::time::sleep(QUIET).await;
    let idle_window = Window::of(tokio::time::sleep(IDLE)).await;
    let window = Window::of(async {
        gate.create(counted, 1).await;
    })
    .await;
    let process = gateway.process();
    drop(gate);
    gateway.stop();
    let lines = trace.read(process).await;
    // strace writes paths without symbolic links.
    let folder = stage.folder.canonicalize().unwrap();
    let within = |window| Calls::within(window, &lines, &folder);
    let calls = within(window).each(window, within(idle_window), idle_window, TRACED);
    assert!(calls.count > 0.0 && calls.bytes_to_files > 0.0, "strace's lines were not understood");
    let values = [calls.count, calls.bytes_to_files / 1e3];
    let row = |((what, unit, limit), value)| Row::below(what, value, unit, limit);
    limits.into_iter().zip(values).map(row).collect()
}

/// How the log and the ledger grow, with the log as text and as JSON.
async fn logged_and_kept(stage: &mut Stage) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut kept = 0.0;
    for (format, limit) in [("text", 250.0), ("json", 350.0)] {
        let name = format!("log-{format}");
        let settings = format!("log.format = \"{format}\"\n");
        // The first refunds fill the pages that every ledger has.
        let mut sizes = Vec::new();
        let mut logged = 0.0;
        for _ in 0..2 {
            let started = Gateway::start_with(&stage.folder, &name, &stage.providers, &settings, None).await;
            let gateway = started.0;
            let gate = Gate::open(gateway.address).await;
            let requests = stage.targets.requests(&stage.providers, Way::Fresh, stage.extent.reads).await;
            let before = size_at_rest(&gateway.log).await;
            gate.create(requests, CALLERS).await;
            logged = size_at_rest(&gateway.log).await - before;
            let ledger = gateway.ledger.clone();
            drop(gate);
            // The stop moves everything from the write-ahead log to the file.
            gateway.stop();
            sizes.push(std::fs::metadata(ledger).unwrap().len() as f64);
        }
        let refunds = stage.extent.reads as f64;
        kept = (sizes[1] - sizes[0]) / refunds;
        rows.push(Row::below(format!("bytes logged per refund, {format}"), logged / refunds, "bytes", limit));
    }
    rows.push(Row::below("bytes kept in the ledger per refund", kept, "bytes", 900.0));
    rows
}

/// The size of a log whose last line is written.
async fn size_at_rest(log: &Path) -> f64 {
    let size = || std::fs::metadata(log).unwrap().len();
    let mut last = size();
    loop {
        tokio::time::sleep(QUIET).await;
        let now = size();
        if now == last {
            return now as f64;
        }
        last = now;
    }
}
