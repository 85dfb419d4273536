//! Sectigo, name.com and Debitsuccess, wire for wire and with memory.

pub mod exchange;
pub mod namecom;
