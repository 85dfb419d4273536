//! How fast the gateway is and what it costs, with each figure beside a yardstick of the same run.
//!
//! ```text
//! cargo bench --bench load               everything, about six minutes; the first run also
//!                                        creates a ledger of 1,000,000 refunds
//! cargo bench --bench load -- --quick    the same rows with fewer rounds, on a ledger of 100,000
//!
//! this process: callers --gRPC--> gateway, the real binary     --HTTP--> simulators, zero delay
//!                       --gRPC--> one-table gateway            --HTTP--> the same simulators
//!                       --gRPC--> yardsticks: echo, bare proxy --HTTP--> the same simulators
//! ```
//!
//! Each server is a process of its own, so that `/proc` shows what it uses. Figures that are
//! compared are measured in short turns, one directly after the other and in alternating order, and
//! the ratio is the median of the turns' ratios: other load on the machine then disturbs both sides
//! of a turn. The benchmark prints a table and writes it with a plot to `target/load/`; exit status
//! 1: a figure misses its target.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails should show where")]

mod arriving;
mod callers;
mod creating;
#[allow(dead_code, reason = "the tests share this file, and each program uses a part of it")]
#[path = "../../tests/support/demo_accounts.rs"]
mod demo_accounts;
mod growing;
mod ledgers;
mod lone;
mod one_table;
mod plot;
mod processes;
mod providers;
mod reading;
mod report;
mod secured;
mod strace;
mod streaming;
mod yardsticks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::runtime::Builder;

use crate::callers::{Gate, Targets};
use crate::processes::{Gateway, Role, Server};
use crate::providers::Providers;
use crate::report::Report;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) is_quick: bool,
    /// Turns of each comparison.
    pub(crate) rounds: usize,
    /// Refunds per turn.
    pub(crate) refunds: usize,
    /// Cheap calls of one turn.
    pub(crate) reads: usize,
    /// Calls one at a time.
    pub(crate) singles: usize,
    /// Refunds in the large ledger.
    pub(crate) large: usize,
    /// Starts of a gateway on it.
    pub(crate) starts: usize,
    /// Turns of refunds that arrive at fixed times.
    pub(crate) open_turns: usize,
    /// Refunds of such a turn.
    pub(crate) open_refunds: usize,
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) extent: Extent,
    pub(crate) folder: PathBuf,
    pub(crate) providers: Providers,
    pub(crate) targets: Targets,
    pub(crate) small: Gateway,
    pub(crate) gate: Gate,
    pub(crate) yardsticks: Server,
    pub(crate) bare: Gate,
    /// The proxy that keeps a journal.
    pub(crate) journaling: Gate,
    pub(crate) one_table_server: Server,
    pub(crate) one_table: Gate,
}

const WHOLE: Extent = Extent {
    is_quick: false,
    rounds: 31,
    refunds: 800,
    reads: 4_000,
    singles: 600,
    large: 1_000_000,
    starts: 3,
    open_turns: 8,
    open_refunds: 600,
};
const QUICK: Extent = Extent {
    is_quick: true,
    rounds: 7,
    refunds: 500,
    reads: 2_000,
    singles: 150,
    large: 100_000,
    starts: 1,
    open_turns: 3,
    open_refunds: 400,
};

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(role) = Role::of(&arguments) {
        runtime.block_on(role.run());
        return ExitCode::SUCCESS;
    }
    let extent = if arguments.iter().any(|argument| argument == "--quick") { QUICK } else { WHOLE };
    runtime.block_on(run(extent))
}

async fn run(extent: Extent) -> ExitCode {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("load");
    std::fs::create_dir_all(&folder).unwrap();
    let cached = ledgers::large(&folder, extent.large).await;
    let run = tempfile::tempdir_in(&folder).unwrap();
    let mut report = Report::begin(extent.is_quick);
    let mut stage = Stage::start(extent, run.path()).await;

    report.add(reading::idle_memory(&stage.small).await);
    report.extend(reading::beside_the_echo(&mut stage).await);
    report.extend(lone::one_at_a_time(&mut stage).await);
    report.extend(arriving::open_loop(&mut stage).await);
    report.extend(lone::costs(&mut stage).await);
    report.extend(reading::one_request_for_all(&mut stage).await);
    report.extend(streaming::with_readers(&mut stage).await);
    let (large, rows) = growing::started(&mut stage, &cached).await;
    report.extend(rows);
    report.extend(creating::few_callers(&mut stage, &large).await);
    report.extend(creating::saturated(&mut stage, &large).await);
    report.extend(secured::beside_plaintext(&mut stage).await);
    report.extend(growing::pages(&mut stage, &large).await);
    report.extend(reading::memory(&[&stage.small, &large.gateway]));
    report.extend(yardsticks::on_this_machine(&mut stage).await);

    large.gateway.stop();
    stage.stop();
    report.finish(&folder)
}

impl Stage {
    /// Starts simulators, a gateway on an empty ledger, and the yardsticks, which repeat that
    /// gateway's answers.
    async fn start(extent: Extent, folder: &Path) -> Stage {
        let providers = Providers::start(folder);
        let mut targets = Targets::default();
        let (small, _) = Gateway::start(folder, "small", &providers).await;
        let gate = Gate::open(small.address).await;
        yardsticks::sample_answers(folder, &gate, &providers, &mut targets).await;
        let yardsticks = Server::start(Role::Yardsticks, folder, &[providers.addresses_text()]);
        let bare = Gate::open(yardsticks.address("grpc")).await;
        let journaling = Gate::open(yardsticks.address("journaling")).await;
        let one_table_server = Server::start(Role::OneTable, folder, &[providers.addresses_text()]);
        let one_table = Gate::open(one_table_server.address("grpc")).await;
        Stage {
            extent,
            folder: folder.to_owned(),
            providers,
            targets,
            small,
            gate,
            yardsticks,
            bare,
            journaling,
            one_table_server,
            one_table,
        }
    }

    /// Stops everything, and verifies the small ledger, so that the measured work was real.
    fn stop(self) {
        let ledger = self.small.ledger.clone();
        self.small.stop();
        processes::verify(&ledger);
    }
}
