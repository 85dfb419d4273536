//! The sockets: listeners, connections, TLS, and bodies that faults cut, slow down or change.

pub(crate) mod certificates;
pub(crate) mod connection;
pub(crate) mod connection_limit;
pub(crate) mod listener;
pub(crate) mod response_body;
pub(crate) mod server;
