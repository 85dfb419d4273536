//! Ten thousand refunds in flight at a kill: each one is done or visibly in doubt within ten
//! seconds of the restart.
//!
//! Measured twice: with every refund on the wire, each on a connection of its own and without an
//! answer; and with a few on the wire while the others wait on disk and must then be sent.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::faults::{FaultEffect, Point};
use simulators::request::{Deduplication, Provider};

use crate::access::Client;
use crate::callers;
use crate::oracle;
use crate::plans::{Plan, Plans};
use crate::providers::{self, Providers};
use crate::quiescence;
use crate::rng::SeededRng;
use crate::rows;
use crate::run::{Environment, PROVIDERS};
use crate::support::demo_accounts::{AccountSection, account_name};

/// The promised time.
const MAX_RECOVERY: Duration = Duration::from_secs(10);
/// The attempts that one account may have on the wire.
const SLOTS: usize = 256;
/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What was measured.
struct Measured {
    on_the_wire: usize,
    waiting: usize,
    /// From the start of the new process until it takes calls.
    ready: Duration,
    /// Until every refund is done or visibly in doubt.
    known: Duration,
    /// Until no refund waits or is on the wire, not even to resolve a doubt.
    quiet: Duration,
    states: String,
    problems: Vec<String>,
}

/// Measures and prints both. A failure where one took too long or broke a promise.
pub(crate) fn run(base: &Path, seed: u64, refunds: usize) -> ExitCode {
    allow_many_connections();
    let mut code = ExitCode::SUCCESS;
    let all_at_once = refunds.div_ceil(SLOTS * PROVIDERS.len());
    for (what, accounts) in [("all on the wire", all_at_once), ("three accounts", 1)] {
        let measured = measure(base, seed, refunds, accounts);
        println!(
            "in-flight {refunds}, {what}: at the kill {} on the wire and {} waiting; after the restart calls were taken after {:.2} s, all refunds \
             were done or in doubt after {:.2} s, and none was on the wire any more after {:.2} s: {}",
            measured.on_the_wire,
            measured.waiting,
            measured.ready.as_secs_f64(),
            measured.known.as_secs_f64(),
            measured.quiet.as_secs_f64(),
            measured.states
        );
        for problem in &measured.problems {
            println!("VIOLATION {problem}");
        }
        if measured.known > MAX_RECOVERY || !measured.problems.is_empty() {
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn measure(base: &Path, seed: u64, refunds: usize, accounts: usize) -> Measured {
    let folder = base.join(format!("kill-in-flight-{accounts}-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let providers = Providers::start(&folder, providers::settings(Deduplication::Off));
    // Half of the requests are processed and never answered, half are never processed.
    let halves = [Point::AfterEffect, Point::BeforeEffect];
    providers.arm_flapping(PROVIDERS.into_iter().map(|provider| (provider, halves, FaultEffect::NeverAnswer)));
    let more =
        format!("requests_per_second = 0\nrequests_per_hour = 0\nmax_in_flight = {SLOTS}\ntotal_timeout_ms = 600000\n");
    let names = |provider: Provider| (0..accounts).map(move |number| format!("{}-{number}", account_name(provider)));
    let settings: String = PROVIDERS
        .into_iter()
        .flat_map(|provider| names(provider).map(move |name| (provider, name)))
        .map(|(provider, name)| AccountSection { name, ..providers.account(provider) }.to_toml() + &more)
        .collect();
    let environment = Environment::create(&folder, &format!("engine.circuit_failures = 1000000\n{settings}"));

    let mut plans = Plans::new("flight".to_owned(), SeededRng::new(seed, &[0]));
    let plans: Vec<Plan> = (0..refunds).map(|number| plans.plain(PROVIDERS[number % PROVIDERS.len()])).collect();
    providers.put(&plans);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let gateway = environment.start().unwrap();
    let slots = accounts * PROVIDERS.len() * SLOTS;
    let (on_the_wire, waiting) = runtime.block_on(async {
        let client = callers::client(gateway.addr);
        let calls = stream::iter(plans.iter().enumerate()).map(|(number, plan)| {
            let mut client = client.clone();
            let account = format!("{}-{}", account_name(plan.provider), number / PROVIDERS.len() % accounts);
            let wait = Some(callers::milliseconds(0));
            let request = proto::CreateRefundRequest { account, wait, ..plan.request() };
            async move { client.create_refund(request).await.unwrap() }
        });
        calls.buffer_unordered(64).for_each(|_| async {}).await;
        let until = tokio::time::Instant::now() + LIMIT;
        while providers.requests() < slots.min(refunds) && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let count = async |state| quiescence::list(&client, &[state]).await.unwrap().len();
        (count(State::Dispatching).await, count(State::Pending).await)
    });
    gateway.kill();

    providers.disarm();
    let (began, began_at) = (now(), providers::now());
    let gateway = environment.start().unwrap();
    let ready = began.elapsed();
    let (quiet, all) = runtime.block_on(async {
        let client = callers::client(gateway.addr);
        while is_any_under_way(&client).await && began.elapsed() < LIMIT {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (began.elapsed(), quiescence::list(&client, &[]).await.unwrap())
    });
    assert!(gateway.terminate().success());

    let mut problems = Vec::new();
    let ledger = rows::read(&environment.ledger);
    let began_micros = i64::try_from(began_at.unix_timestamp_nanos() / 1000).unwrap();
    let last = ledger.known_after(began_micros).and_then(|known| known.into_values().max());
    let known = last.map(|last| Duration::from_micros((last - began_micros).try_into().unwrap_or_default()));
    if known.is_none() {
        problems.push("done or visibly in doubt: some refunds never were".to_owned());
    }
    if all.len() != refunds {
        problems.push(format!("acknowledged is durable: {} of {refunds} refunds are left", all.len()));
    }
    for refund in &all {
        let wrong = matches!(refund.state(), State::InDoubt | State::NeedsReview) != refund.doubt.is_some();
        if wrong || matches!(refund.state(), State::Failed | State::Cancelled) {
            problems.push(format!("done or visibly in doubt: {refund:?}"));
        }
    }
    problems.extend(oracle::twice_refunded(&providers.records().books));
    if let Err(problem) = runtime.block_on(rows::verify(&environment.ledger)) {
        problems.push(format!("the chain verifies: {problem}"));
    }
    if problems.is_empty() {
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        println!("kept: {}", folder.display());
    }
    let count = |state: State| all.iter().filter(|refund| refund.state() == state).count();
    let states = [State::Succeeded, State::Submitted, State::InDoubt, State::NeedsReview, State::Failed];
    let states = states.map(|state| format!("{} {}", count(state), state.as_str_name().trim_start_matches("STATE_")));
    Measured {
        on_the_wire,
        waiting,
        ready,
        known: known.unwrap_or(LIMIT).max(ready),
        quiet,
        states: states.join(", "),
        problems,
    }
}

async fn is_any_under_way(client: &Client) -> bool {
    let states = vec![State::Pending.into(), State::Dispatching.into()];
    let filter = Some(proto::RefundFilter { states, ..Default::default() });
    let request = proto::ListRefundsRequest { page_size: 1, filter, ..Default::default() };
    !client.clone().list_refunds(request).await.unwrap().into_inner().refunds.is_empty()
}

/// Ten thousand connections need as many files, here and in the gateway, which inherits the limit.
fn allow_many_connections() {
    let status = Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg("--nofile=20000:")
        .status()
        .expect("prlimit (util-linux) is there");
    assert!(status.success(), "a process may have 20,000 files open; `ulimit -Hn` shows how many");
}

#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
fn now() -> Instant {
    Instant::now()
}
