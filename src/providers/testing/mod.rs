//! Test support of the adapters.

pub(crate) mod fixtures;
pub(crate) mod log_capture;
