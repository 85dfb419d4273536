//! The client for outgoing HTTP requests. It knows no provider.

pub mod client;

#[cfg(test)]
pub(crate) mod testing;
