//! Refunds per second of the simulators, compared with a bare axum handler that reads the same
//! bytes and answers with the same number of bytes.
//!
//! ```text
//! cargo bench -p simulators --bench refunds                    all three providers
//! cargo bench -p simulators --bench refunds -- debitsuccess    one of them
//!
//! for each provider: one warm-up round of each, then rounds in pairs, in alternating order:
//!   load client --keep-alive--> simulators    refunds that are carried out; checked with the books
//!   load client --keep-alive--> bare handler  the same requests; a fixed answer of the same length
//! ```
//!
//! Sectigo's pair runs over TLS on both sides, with the same library. The ratio is the median of
//! the pairs' ratios: other load on the machine affects both halves of a pair. It fails if a
//! provider's ratio is below 0.5.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark says what is wrong by failing there")]

mod bare;
mod load;

use std::{process::ExitCode, time::Duration};

use mimalloc::MiMalloc;
use simulators::{Config, Provider, Simulators};
use tokio::runtime::{Builder, Runtime};

use crate::load::{Endpoint, Load};

/// The allocator of the binary, for both servers and the load client.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measured pairs: odd, so that the median is one of them; many and short, so that other load on
/// the machine affects few of them.
const PAIRS: usize = 61;
/// Requests of one half of a pair.
const REQUESTS: usize = 1_000;
/// Connections of the load client.
const CONNECTIONS: usize = 16;
/// The minimum share of the bare handler's rate.
const LEAST: f64 = 0.5;
/// Threads of each server, as in the binary.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let (served, bare) = (runtime("simulators"), runtime("bare axum"));
    let config = Config::free_ports();
    let simulators = served.block_on(Simulators::start(config)).unwrap();
    let client = Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(load::lift_limits(simulators.control_addr()));

    println!("{CONNECTIONS} connections, {PAIRS} pairs of {REQUESTS} requests; requests a second, median");
    println!("{:<14}{:>12}{:>12}{:>8}   (least and most of the pairs)", "", "simulators", "bare axum", "ratio");
    let mut all_above = true;
    for provider in [Provider::Namecom, Provider::Debitsuccess, Provider::Sectigo] {
        if !asked_for(provider) {
            continue;
        }
        let pairs = measure(provider, &simulators, &client, &bare);
        let ratios = sorted(pairs.iter().map(|pair| pair.simulators / pair.bare));
        let ratio = middle(&ratios);
        println!(
            "{:<14}{:>12.0}{:>12.0}{:>8.2}   ({:.2} to {:.2})",
            format!("{provider:?}"),
            middle(&sorted(pairs.iter().map(|pair| pair.simulators))),
            middle(&sorted(pairs.iter().map(|pair| pair.bare))),
            ratio,
            ratios[0],
            ratios[ratios.len() - 1],
        );
        all_above &= ratio >= LEAST;
    }
    served.block_on(simulators.stop());
    if all_above {
        return ExitCode::SUCCESS;
    }
    println!("a ratio is below {LEAST}");
    ExitCode::FAILURE
}

/// Whether the command line names it, or names none. Cargo adds its own `--bench`.
fn asked_for(provider: Provider) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    named.peek().is_none() || named.any(|name| name.eq_ignore_ascii_case(&format!("{provider:?}")))
}

/// Requests per second, one server after the other.
struct Pair {
    simulators: f64,
    bare: f64,
}

fn measure(provider: Provider, simulators: &Simulators, client: &Runtime, bare: &Runtime) -> Vec<Pair> {
    let address = match provider {
        Provider::Sectigo => simulators.sectigo_addr(),
        Provider::Namecom => simulators.namecom_plaintext_addr(),
        Provider::Debitsuccess => simulators.debitsuccess_plaintext_addr(),
    };
    let ca_pem = (provider == Provider::Sectigo).then(|| simulators.ca_pem());
    let mut load = Load::new(provider, simulators.control_addr());
    let ours = Endpoint::new(address, ca_pem);

    let warm = client.block_on(load.prepare(REQUESTS));
    let answered = client.block_on(ours.send(&warm, CONNECTIONS));
    let (bare_address, bare_ca) = bare.block_on(bare::serve(provider, answered.last_answer));
    let theirs = Endpoint::new(bare_address, bare_ca.as_deref());
    client.block_on(theirs.send(&warm, CONNECTIONS));

    let effects_before = simulators.with_world(|world| world.books.entries().count() as u64 + world.books.dropped());
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let requests = client.block_on(load.prepare(REQUESTS));
        let run = |endpoint: &Endpoint| rate(client.block_on(endpoint.send(&requests, CONNECTIONS)).took);
        let (simulators, bare) = if pair % 2 == 0 {
            let simulators = run(&ours);
            (simulators, run(&theirs))
        } else {
            let bare = run(&theirs);
            (run(&ours), bare)
        };
        pairs.push(Pair { simulators, bare });
    }
    let effects = simulators.with_world(|world| world.books.entries().count() as u64 + world.books.dropped());
    assert_eq!(
        effects - effects_before,
        (PAIRS * REQUESTS) as u64,
        "{provider:?}: a refund that was not done was measured"
    );
    pairs
}

/// Named threads, for profilers.
fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(WORKERS).thread_name(name).enable_all().build().unwrap()
}

fn rate(took: Duration) -> f64 {
    REQUESTS as f64 / took.as_secs_f64()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
