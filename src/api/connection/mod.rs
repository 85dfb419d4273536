//! Connections to the gRPC server: which ones are open, which one is closed for a newcomer, and
//! what a call knows about its own.
//!
//! ```text
//! accept    listeners -> ClientConnection, for http2
//! listener  TCP ports with and without TLS, unix sockets
//! handshakes  TLS handshakes side by side
//! stream    what http2 reads and writes: the HTTP/2 preface has a time limit
//! socket    a socket that another task can close, and that closes where it takes no byte
//! handle    what a call knows of its connection, and tells about it
//! registry  every open connection; closes one where there are too many
//! ```
//!
//! Nothing waits for a place: a connection is accepted, and then another one is closed for it.

mod accept;
mod handle;
mod handshakes;
mod listener;
mod registry;
mod socket;
mod stream;

pub(super) use self::accept::accept;
pub(in crate::api) use self::handle::{ConnectionHandle, PeerTransport, StreamGuard};
pub use self::listener::{
    BoundListener, EndpointSettings, ListenError, ListenerSettings, ProtocolSettings, ReflectionSettings, WebSettings,
};
pub use self::registry::ConnectionRegistry;
pub(in crate::api) use self::stream::ClientConnection;
