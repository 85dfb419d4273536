//! The promises of recoup, each tested through the real gRPC API, with real files and the real
//! simulators.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails should show where, and the names of tests are their documentation"
)]

mod access_commands;
mod account_commands;
mod answers;
mod approving;
mod caller_access;
mod caller_identities;
mod callers;
mod canary;
mod checkpoints;
mod commands;
mod connections;
mod containers;
mod corrections;
mod crash;
mod crash_rules;
mod domains;
mod doubt;
mod failing_ledger;
mod former_places;
mod history;
mod json_endpoint;
mod kubernetes;
mod limits;
mod listeners;
mod operations;
mod operator;
mod pausing;
mod port;
mod probing;
mod reassigning;
mod reconciling;
mod refunds;
mod resolutions;
mod review;
mod signals;
mod support;
mod telemetry;
mod tidy;
mod validation;
mod waiting_for_account;
mod watching;
mod wire;
