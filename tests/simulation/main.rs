//! Engine, ledger and clock under a seeded scheduler, against simulated providers whose books hold
//! the truth: one seed determines the whole run.
//!
//! ```text
//! plan (drawn from a seed, printable, shrinkable)
//!   |
//! callers -> Engine -> adapters -> SimTransport -> World: the simulators' pure functions, books,
//!               |                                    |    outages, requests in flight
//!           SimLedger -> SqliteLedger inline -> SimulatedDisk (outlives every process)
//!               +--------------- oracle -------------+
//! ```
//!
//! One process is one tokio runtime on one thread with paused time; a crash drops it whole.
//! Adapters, engine, SQL and hash chain are the real ones.
//!
//! In most runs the providers obey their documents, whatever the wire does to their answers: losses
//! at each point, late and stale answers within the settle time, outages, refusals, 5xx, garbage,
//! redirects, wrong identifiers, and requests of other clients of the same account. Where the
//! documents leave a choice, [`plan::ProviderBehaviour`] makes it. About one run in sixteen has a
//! **liar** that gives Byzantine answers ([`plan::Lie`]): a yes, a replay, an "accepted" or an
//! "already" where nothing was done. No gateway can tell such an answer from a true one, so in
//! these runs the outcome of a refund is not compared with the books; everything else is checked.
//!
//! In every second run the configuration changes from start to start: hosts, logins, tokens,
//! currencies and account names. A plan says which sites have the same books
//! ([`setups::SharedBooks`]); the operator claims that only where it is true.
//!
//! In part of the runs there is an access file: callers with owners and limits, and refunds that
//! others approve, reject or leave to expire ([`people::RulesPlan`]).
//!
//! `cargo test --test simulation` runs a thousand seeds, every bug that was found, and a crash at
//! every single write. `cargo test --release --test simulation -- --seeds 1000000` runs a million
//! seeds and prints the figures. `-- --seed 7` prints the trace of one. `tests/planted/run.sh`
//! plants bugs into a copy of the tree and checks that the oracle detects each.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should show where, and its output is its result"
)]

mod callers;
mod disk;
mod draw;
mod exhaustive;
mod history;
mod logs;
mod oracle;
mod panics;
mod people;
mod places;
mod plan;
mod reproductions;
#[path = "../support/rng.rs"]
mod rng;
mod run;
mod setups;
mod shrink;
mod sim;
mod summary;
mod wire;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::plan::Plan;
use crate::sim::{Figures, lock};

/// The gateway's allocator. Runs allocate many small strings, so it saves a tenth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line.
struct Arguments {
    seeds: u64,
    first: u64,
    threads: usize,
    one: Option<u64>,
    /// No reproductions and no exhaustive runs.
    seeds_only: bool,
    /// Continues after a violation, and counts the violations.
    count: bool,
}

/// The default number of seeds.
const SEEDS: u64 = 1_000;
/// One seed in this many is run twice, and the traces are compared.
const SEEDS_PER_REPEAT: u64 = 50;
/// Seeds between two progress reports of a long run.
const SEEDS_PER_REPORT: u64 = 50_000;

const USAGE: &str = "\
simulation [--seeds N] [--first N] [--threads N] [--seeds-only] [--count]   N seeds from the first on
simulation --seed N                                                       the trace of one seed
A violation is printed with its seed and a short plan that shows it; the exit code is 1.
With --count every seed is run, and the seeds with violations are counted, not shrunk.";

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    panics::record();
    if let Some(seed) = arguments.one {
        return show(seed);
    }
    let mut passed = true;
    if !arguments.seeds_only {
        passed &= reproductions::run_all();
        passed &= exhaustive::run_all(arguments.threads);
    }
    passed &= seeds(&arguments);
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Arguments {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut read = Arguments { seeds: SEEDS, first: 0, threads, one: None, seeds_only: false, count: false };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let text = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
                text.parse::<u64>().map_err(|_| format!("{argument} needs a number, and not {text}"))
            };
            match argument.as_str() {
                "--seeds" => read.seeds = number()?,
                "--first" => read.first = number()?,
                "--threads" => read.threads = usize::try_from(number()?).unwrap_or(1).max(1),
                "--seed" => read.one = Some(number()?),
                "--seeds-only" => read.seeds_only = true,
                "--count" => read.count = true,
                // The flags of the usual test harness.
                "--list" => return Ok(None),
                "--nocapture" | "--no-capture" | "-q" | "--quiet" | "--include-ignored" => {}
                text if text.starts_with("--test-threads") || text.starts_with("--color") => {}
                // A filter by test names.
                text if !text.starts_with('-') && !"simulation".contains(text) => return Ok(None),
                text if !text.starts_with('-') => {}
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(Some(read))
    }
}

/// Prints the plan and the trace of one seed.
fn show(seed: u64) -> ExitCode {
    let plan = draw::draw(seed);
    println!("{}", plan.as_source());
    let report = run::run(&plan);
    println!("{}", report.trace);
    print_violations(seed, &report.violations);
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_violations(seed: u64, violations: &[String]) {
    for violation in violations {
        println!("seed {seed}: {violation}");
    }
}

/// Runs many seeds, on all cores.
#[expect(clippy::disallowed_methods, reason = "the report says how long the runs took")]
fn seeds(arguments: &Arguments) -> bool {
    let begun = std::time::Instant::now();
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first.saturating_add(arguments.seeds);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Figures::default(), Vec::<(u64, Vec<String>)>::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut figures = Figures::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let ran = seed - arguments.first;
                    if ran > 0 && ran.is_multiple_of(SEEDS_PER_REPORT) {
                        let broken: Vec<u64> = lock(&total).1.iter().map(|(seed, _)| *seed).collect();
                        eprintln!("{ran} seeds in {:.0} s, with violations: {broken:?}", begun.elapsed().as_secs_f64());
                    }
                    let plan = draw::draw(seed);
                    let mut report = run::run(&plan);
                    if seed.is_multiple_of(SEEDS_PER_REPEAT) && run::run(&plan).trace != report.trace {
                        report.violations.push("one seed, one trace: two runs differ".to_owned());
                    }
                    figures.add(report.figures);
                    if !report.violations.is_empty() {
                        lock(&total).1.push((seed, report.violations));
                        if !arguments.count {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                lock(&total).0.add(figures);
            });
        }
    });
    let (figures, mut broken) = total.into_inner().unwrap();
    broken.sort();
    let ran = next.into_inner().min(end) - arguments.first;
    println!("{}", summary::of(&figures, ran, &broken, begun.elapsed()));
    if arguments.count {
        return broken.is_empty();
    }
    if let Some((seed, violations)) = broken.first() {
        print_violations(*seed, violations);
        let promise = violations[0].split(':').next().unwrap_or_default().to_owned();
        show_short(&draw::draw(*seed), &promise);
    }
    broken.is_empty()
}

/// Prints a short plan that breaks the same promise, and its trace.
pub(crate) fn show_short(plan: &Plan, promise: &str) {
    let short = shrink::shrink(plan, promise);
    println!("{}", short.as_source());
    println!("{}", run::run(&short).trace);
}
