//! Outgoing HTTP.

pub mod client;
