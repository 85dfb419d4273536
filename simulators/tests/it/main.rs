//! The simulators over real sockets, as a client in any language meets them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what is wrong by failing there")]

mod binary;
mod control;
mod faults;
mod fidelity;
mod gates;
mod ports;
mod raw;
mod readme;
mod schema;
mod support;
mod truth;
mod wire;
mod worlds;
