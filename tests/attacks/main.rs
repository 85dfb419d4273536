//! Attacks on the gRPC port: the real binary, attackers that write HTTP/2 frames as no library
//! would, and a well-behaved bystander who is measured meanwhile.
//!
//! ```text
//! attackers (child processes at nice 19, other addresses of 127.0.0.0/8)
//!      |                                     bystander (127.0.0.2)
//!      +------> recoup (a process) <-------------+
//!                  |
//!               simulators (in this process)
//! ```
//!
//! `cargo test --test attacks` runs a short form of each attack.
//! `cargo test --profile ci --test attacks -- --full` runs them at full size and prints one row for
//! each, with what it has to reach. What is asserted: answers, memory, and who was cut. Times are
//! printed, and judged only with `--full`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should show where, and its output is its result"
)]

mod attackers;
mod bystander;
mod callers;
mod floods;
mod frames;
mod rows;
mod stack;
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let [mode, name, address, size, token] = arguments.as_slice()
        && mode == attackers::MODE
    {
        runtime.block_on(attackers::run(name, address.parse().unwrap(), size.parse().unwrap(), token));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("attacks: test");
        return ExitCode::SUCCESS;
    }
    let is_full = arguments.iter().any(|argument| argument == "--full");
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    // A filter of `cargo test` that means another test.
    let chosen = |row: &&rows::Row| names.is_empty() || names.iter().any(|name| row.name.contains(name.as_str()));
    let mut faults = Vec::new();
    for row in rows::ROWS.iter().filter(chosen) {
        let report = runtime.block_on(rows::run(row, is_full));
        println!("{report}");
        faults.extend(report.faults.iter().map(|fault| format!("{}: {fault}", row.name)));
    }
    for fault in &faults {
        println!("VIOLATION {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
