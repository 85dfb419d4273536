//! The parts by themselves: what a decision, an adapter and the ledger cost without a socket.
//!
//! ```text
//! cargo bench --bench parts                 all; behind `--` a part of a name: -- ledger
//! ```

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark says what is wrong by failing there")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod adapters;
mod decisions;
mod ledger;
mod samples;

use criterion::{criterion_group, criterion_main};

criterion_group!(parts, decisions::all, adapters::all, ledger::all);
criterion_main!(parts);
