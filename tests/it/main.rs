//! The promises of recoup, each tested through the real gRPC API, with real files and the real
//! simulators.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails should show where, and the names of tests are their documentation"
)]

mod answers;
mod callers;
mod canary;
mod commands;
mod containers;
mod corrections;
mod crash;
mod decisions;
mod domains;
mod doubt;
mod former_places;
mod history;
mod limits;
mod moved;
mod operator;
mod port;
mod probing;
mod reassigning;
mod refunds;
mod review;
mod settling;
mod signals;
mod support;
mod telemetry;
mod tidy;
mod trouble;
mod upkeep;
mod validation;
mod waiting_for_account;
mod watching;
mod wire;
