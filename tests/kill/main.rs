//! The real binary under SIGKILL at random times, with the real simulators, real files, and callers
//! that record a history.
//!
//! ```text
//! callers --gRPC--> recoup (a process:     --HTTP--> simulators (killed, too, their clock
//!    |              SIGKILL, SIGTERM,                |           moved, faults armed)
//!    |              full disk)                       |
//!    |                 |                             |
//! history            ledger                    books, journal
//!    +-----------------+------- the oracle ----------+
//! ```
//!
//! The configuration changes between kills: see [`setups`], and [`access`] for the access file that
//! some starts have.
//!
//! `cargo test --test kill` kills a hundred times.
//! `cargo test --release --test kill -- --kills 2000` kills two thousand times and prints the
//! figures. The same seed decides the same kills, faults and calls; the timing of the processes is
//! not reproducible. On a violation, the folder with ledger, log, books, journal and history is
//! kept and its path printed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should show where, and its output is its result"
)]

mod access;
mod callers;
mod history;
mod idle_closing;
mod in_flight;
mod oracle;
mod oracle_self_test;
mod plans;
mod providers;
mod quiescence;
#[path = "../support/rng.rs"]
mod rng;
mod rows;
mod run;
mod setups;
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::run::Figures;

/// The command line.
struct Arguments {
    mode: Mode,
    seed: u64,
    /// Only this run of the seed.
    only: Option<u64>,
}

enum Mode {
    /// This many kills.
    Kills(u64),
    /// Refunds at providers that close idle connections.
    IdleClosing,
    /// This many refunds in flight at one kill.
    InFlight(usize),
    /// Nothing: the filters exclude this test.
    Nothing,
    /// Prints the name of the test.
    List,
}

/// The default number of kills.
const KILLS: u64 = 100;
/// Kills on one ledger: the books and the journal of the simulators hold no more.
const KILLS_PER_RUN: u64 = 25;

fn main() -> ExitCode {
    let arguments = match read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            println!("{problem}");
            return ExitCode::from(2);
        }
    };
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let code = match arguments.mode {
        Mode::List => {
            println!("kill: test");
            ExitCode::SUCCESS
        }
        Mode::Nothing => ExitCode::SUCCESS,
        Mode::IdleClosing => idle_closing::run(base, arguments.seed),
        Mode::InFlight(refunds) => in_flight::run(base, arguments.seed, refunds),
        Mode::Kills(kills) => kill(base, kills, arguments.seed, arguments.only),
    };
    run::remove_binary_copy();
    code
}

fn kill(base: &Path, kills: u64, seed: u64, only: Option<u64>) -> ExitCode {
    println!("kill: {kills} kills, --seed {seed}");
    let began = now();
    let mut figures = Figures::default();
    for number in 0.. {
        let left = kills.saturating_sub(number * KILLS_PER_RUN).min(KILLS_PER_RUN);
        if left == 0 {
            break;
        }
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let of_run = run::run(base, seed, number, left);
        println!("run {number}: {}", line(&of_run));
        figures.add(of_run);
    }
    println!("all: {}, {:.0} s, --seed {seed}", line(&figures), began.elapsed().as_secs_f64());
    let states: Vec<_> = figures.states.iter().map(|(state, refunds)| format!("{refunds} {state}")).collect();
    println!("at the end: {}", states.join(", "));
    print_violations(&figures)
}

/// Prints violations; success where there are none.
fn print_violations(figures: &Figures) -> ExitCode {
    for violation in figures.violations.iter().take(40) {
        let short: String = violation.chars().take(2_000).collect();
        println!("VIOLATION {short}");
    }
    for folder in &figures.kept {
        println!("kept: {}", folder.display());
    }
    if figures.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(figures: &Figures) -> String {
    format!(
        "{} kills ({} at the start), {} SIGTERM, {} provider kills, {} full disks, {} clock jumps, {} changed configurations; {} calls ({} unknown), {} refunds, \
         {} attempts, {} requests ({} refunds sent again), {} effects, {} doubts ({} resolved by the operator, {} open at the end), {} reassigned, \
         {} starts with an access file, {} approved, {} rejected, {} refused by a limit, {} pauses, {} violations",
        figures.kills,
        figures.kills_at_start,
        figures.terminations,
        figures.provider_kills,
        figures.full_disks,
        figures.clock_jumps,
        figures.changes,
        figures.calls,
        figures.unknown_calls,
        figures.refunds,
        figures.attempts,
        figures.requests,
        figures.sent_again,
        figures.effects,
        figures.doubts,
        figures.resolved,
        figures.open,
        figures.moves,
        figures.starts_with_access,
        figures.approved,
        figures.rejected,
        figures.over_the_limit,
        figures.pauses,
        figures.violations.len()
    )
}

/// Reads the command line: the flags above, and those that `cargo test` passes to every test.
fn read(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut read = Arguments { mode: Mode::Kills(KILLS), seed: fresh_seed(), only: None };
    let mut arguments = arguments.peekable();
    let mut filters = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let number = arguments.next().and_then(|text| text.parse().ok());
            number.ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--kills" => read.mode = Mode::Kills(number()?),
            "--idle-closing" => read.mode = Mode::IdleClosing,
            "--in-flight" => read.mode = Mode::InFlight(usize::try_from(number()?).unwrap_or(usize::MAX)),
            "--seed" => read.seed = number()?,
            "--run" => read.only = Some(number()?),
            "--list" => read.mode = Mode::List,
            "--test-threads" | "--format" | "--color" | "--skip" | "-Z" => drop(arguments.next()),
            flag if flag.starts_with('-') && HARNESS_FLAGS.contains(&flag.split('=').next().unwrap_or(flag)) => {}
            flag if flag.starts_with('-') => {
                return Err(format!(
                    "unknown: {flag}; known: --kills N, --idle-closing, --in-flight N, --seed S, --run N"
                ));
            }
            filter => filters.push(filter.to_owned()),
        }
    }
    if !filters.is_empty() && !filters.iter().any(|filter| "kill".contains(filter.as_str())) {
        read.mode = Mode::Nothing;
    }
    Ok(read)
}

/// Flags of the usual test harness that have no meaning here.
const HARNESS_FLAGS: [&str; 9] = [
    "--nocapture",
    "--no-capture",
    "--quiet",
    "-q",
    "--exact",
    "--show-output",
    "--include-ignored",
    "--ignored",
    "--test-threads",
];

/// Another seed each time; it is printed.
#[expect(clippy::disallowed_methods, reason = "a seed that is printed may come from anywhere")]
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis() % 1_000_000_000).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the report says how long the test took")]
fn now() -> Instant {
    Instant::now()
}
