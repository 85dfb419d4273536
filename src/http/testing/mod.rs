//! Test support of the HTTP client and of its users.

pub(crate) mod scripted_server;
