//! What the adapters' tests share: a server that answers as a script says, and sample refunds.

pub(crate) mod fixtures;
pub(crate) mod scripted_server;
