//! Connections to the gRPC server: which ones are open, which one is closed for a newcomer, and
//! what a call knows about its own.
//!
//! ```text
//! accept    listeners -> ClientConnection, for the server
//! listener  TCP ports with and without TLS, unix sockets
//! handshakes  TLS handshakes side by side
//! stream    what tonic reads and writes: the HTTP/2 preface has a time limit
//! socket    a socket that another task can close, and that closes where it takes no byte
//! in_call   every call holds its connection open until its answer has ended
//! handle    what a call knows of its connection, and tells about it
//! registry  every open connection; closes one where there are too many
//! ```
//!
//! Nothing waits for a place: a connection is accepted, and then another one is closed for it.

mod accept;
mod handle;
mod handshakes;
mod in_call;
mod listener;
mod registry;
mod socket;
mod stream;

pub(super) use self::accept::accept;
pub(super) use self::handle::{ConnectionHandle, PeerTransport};
pub(super) use self::in_call::InCallLayer;
pub use self::listener::{BoundListener, EndpointSettings, ListenError, ListenerSettings, ReflectionSettings};
pub use self::registry::ConnectionRegistry;
