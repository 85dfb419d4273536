//! Engine, ledger and clock under a seeded scheduler, against providers that hold the truth: one
//! seed is one course of events.
//!
//! ```text
//! plan (drawn from a seed, printable, shrinkable)
//!   |
//! callers -> Engine -> adapters -> SimWire -> World: the simulators' pure functions, books, outages, what is on its way
//!               |                                |
//!           SimLedger -> SqliteLedger inline -> SimulatedDisk (outlives every process)
//!               +--------------- oracle ---------+
//! ```
//!
//! One process is one tokio runtime on one thread with paused time; a crash drops it whole.
//! Adapters, engine, SQL and chain are the real ones.
//!
//! In most runs the providers obey their documents, whatever the wire does to their answers: losses
//! at each point, late and stale answers within the settle time, outages, refusals, 5xx, garbage,
//! redirects, wrong identifiers, and what other clients of the same account do. Where they choose
//! among what is documented, a plan's [`plan::Habits`] say how. About one run in sixteen has a
//! **liar** ([`plan::Lie`]): a yes, a replay, a "taken" or an "already" where nothing was done. No
//! gateway can tell such an answer from a true one, so there the books are not compared with what a
//! refund says of itself; all else is asked all the same.
//!
//! In every second run the configuration changes from start to start: hosts, logins, tokens,
//! currencies and account names. A plan says which places have the same books behind them
//! ([`setups::Behind`]); people claim that only where it is true.
//!
//! `cargo test --test simulation` runs a thousand seeds, every found bug again, and a crash at
//! every single write. `cargo test --release --test simulation -- --seeds 1000000` runs a million
//! and prints what it came to. `-- --seed 7` prints the course of one. `tests/planted/run.sh`
//! plants bugs into a copy of the tree and asks whether the oracle hears each.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on should say where, and what it prints is its result"
)]

mod callers;
mod disk;
mod draw;
mod exhaustive;
mod history;
mod logs;
mod oracle;
mod panics;
mod places;
mod plan;
mod reproductions;
#[path = "../kill/rng.rs"]
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

/// The gateway's own. A run is a great many small texts, so it takes a tenth of the time off.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is asked for on the command line.
struct Arguments {
    seeds: u64,
    first: u64,
    threads: usize,
    one: Option<u64>,
    /// The seeds alone.
    seeds_only: bool,
    /// Goes on after a violation, and counts.
    count: bool,
}

/// Seeds of a change.
const SEEDS: u64 = 1_000;
/// Every so many seeds are run twice, and their traces compared.
const TWICE: u64 = 50;
/// After so many seeds a long run says how far it is.
const PROGRESS: u64 = 50_000;

const USAGE: &str = "\
simulation [--seeds N] [--first N] [--threads N] [--seeds-only] [--count]   N seeds from the first on
simulation --seed N                                                       the course of one seed
A violation is printed with its seed and a short plan that shows it; the exit code is 1.
With --count every seed is run, and the seeds with violations are counted, not shrunk.";

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(fault) => {
            println!("{fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    panics::listen();
    if let Some(seed) = arguments.one {
        return show(seed);
    }
    let mut fine = true;
    if !arguments.seeds_only {
        fine &= reproductions::run_all();
        fine &= exhaustive::run_all(arguments.threads);
    }
    fine &= seeds(&arguments);
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
                // What the other test programs are told, too.
                "--list" => return Ok(None),
                "--nocapture" | "--no-capture" | "-q" | "--quiet" | "--include-ignored" => {}
                text if text.starts_with("--test-threads") || text.starts_with("--color") => {}
                // A filter, which is for the tests with names.
                text if !text.starts_with('-') && !"simulation".contains(text) => return Ok(None),
                text if !text.starts_with('-') => {}
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(Some(read))
    }
}

/// The course of one seed.
fn show(seed: u64) -> ExitCode {
    let plan = draw::draw(seed);
    println!("{}", plan.as_source());
    let report = run::run(&plan);
    println!("{}", report.trace);
    report_broken(seed, &report.violations);
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_broken(seed: u64, violations: &[String]) {
    for violation in violations {
        println!("seed {seed}: {violation}");
    }
}

/// Many seeds, on all cores.
#[expect(clippy::disallowed_methods, reason = "what a run took is what is told of it")]
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
                    if ran > 0 && ran.is_multiple_of(PROGRESS) {
                        let broken: Vec<u64> = lock(&total).1.iter().map(|(seed, _)| *seed).collect();
                        eprintln!("{ran} seeds in {:.0} s, with violations: {broken:?}", begun.elapsed().as_secs_f64());
                    }
                    let plan = draw::draw(seed);
                    let mut report = run::run(&plan);
                    if seed.is_multiple_of(TWICE) && run::run(&plan).trace != report.trace {
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
        report_broken(*seed, violations);
        let line = violations[0].split(':').next().unwrap_or_default().to_owned();
        show_short(&draw::draw(*seed), &line);
    }
    broken.is_empty()
}

/// The shortest plan that breaks the same line, and its course.
pub(crate) fn show_short(plan: &Plan, line: &str) {
    let short = shrink::shrink(plan, line);
    println!("{}", short.as_source());
    println!("{}", run::run(&short).trace);
}
