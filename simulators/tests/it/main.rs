//! The simulators over real sockets, as any client sees them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what is wrong by failing there")]

mod binary;
mod control;
mod faults;
mod fidelity;
mod gates;
mod ports;
mod process;
mod raw;
mod readme;
mod records;
mod schema;
mod support;
mod wire;
mod worlds;
