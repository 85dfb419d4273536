//! The promises of recoup, each proved through the real gRPC port, real files and the real
//! simulators.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where, and its names are its documentation"
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
mod history;
mod limits;
mod moved;
mod operator;
mod places;
mod port;
mod probing;
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
mod watching;
mod wire;
