//! What a call knows of its connection, and tells about it. `http2` adds it to each
//! request's extensions.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use super::listener::{ReflectionSettings, WebSettings};
use super::registry::{CloseSignal, ConnectionPlace, ConnectionRegistry};
use crate::tls::ClientChain;

/// Who is at the other end of a connection, and how it is reached.
#[derive(Clone)]
pub(in crate::api) struct Peer {
    /// The listener's name; `listen` for the short form.
    pub(in crate::api) listener: Arc<str>,
    /// Whether calls need a credential.
    pub(in crate::api) needs_credentials: bool,
    pub(in crate::api) reflection: ReflectionSettings,
    /// Whether its source is one peer. False behind a proxy, where all peers share one source.
    pub(in crate::api) is_own_source: bool,
    /// Of the JSON endpoint. None for gRPC.
    pub(in crate::api) http: Option<Arc<WebSettings>>,
    pub(in crate::api) transport: PeerTransport,
}

/// How a peer is connected, with what the transport proves about it.
#[derive(Clone)]
pub(in crate::api) enum PeerTransport {
    /// Without encryption; loopback only.
    Plaintext { address: SocketAddr },
    Tls {
        address: SocketAddr,
        /// The chain that the handshake has verified. None if the peer has shown none.
        client: Option<Arc<ClientChain>>,
    },
    /// A unix socket, whose kernel names the peer.
    Unix { user: u32, group: u32 },
}

/// A connection, as its calls see it.
#[derive(Clone)]
pub(in crate::api) struct ConnectionHandle {
    registry: ConnectionRegistry,
    id: u64,
    signal: Arc<CloseSignal>,
    peer: Arc<Peer>,
}

/// A call in progress: its connection is not closed for another one. To be kept until the end of
/// the response body.
pub(in crate::api) struct StreamGuard {
    registry: ConnectionRegistry,
    id: u64,
}

impl ConnectionHandle {
    pub(super) fn new(place: &ConnectionPlace, peer: Peer) -> Self {
        Self { registry: place.registry().clone(), id: place.id(), signal: place.signal(), peer: Arc::new(peer) }
    }

    /// Completes when the connection is closed for another one. For the task that owns its socket:
    /// no other one is woken then.
    pub(in crate::api) async fn closed(&self) {
        poll_fn(|context| if self.signal.is_closed(context) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Begins a call. None if the connection has just been closed: no answer can be
    /// delivered, so nothing must be done.
    pub(in crate::api) fn begin_stream(&self) -> Option<StreamGuard> {
        self.registry.begin_stream(self.id).then(|| StreamGuard { registry: self.registry.clone(), id: self.id })
    }

    /// A call with a valid credential has been made.
    pub(in crate::api) fn mark_authenticated(&self) {
        self.registry.mark_authenticated(self.id);
    }

    /// Whether a call with a valid credential has been made.
    pub(in crate::api) fn is_authenticated(&self) -> bool {
        self.registry.is_authenticated(self.id)
    }

    /// A call has been answered. This counts as authenticated where no call needs a credential, and
    /// over a unix socket.
    pub(in crate::api) fn mark_completed_call(&self) {
        if !self.peer.needs_credentials || matches!(self.peer.transport, PeerTransport::Unix { .. }) {
            self.mark_authenticated();
        }
    }

    /// The certificates that the peer has shown.
    pub(in crate::api) fn client_chain(&self) -> Option<&Arc<ClientChain>> {
        match &self.peer.transport {
            PeerTransport::Tls { client, .. } => client.as_ref(),
            PeerTransport::Plaintext { .. } | PeerTransport::Unix { .. } => None,
        }
    }

    pub(in crate::api) fn peer(&self) -> &Peer {
        &self.peer
    }
}

#[cfg(test)]
impl ConnectionHandle {
    /// Of a plaintext connection.
    pub(in crate::api) fn of_test() -> Self {
        use super::registry::Source;
        use crate::telemetry::metrics::Metrics;
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let place =
            ConnectionRegistry::new(1, Metrics::off()).register(&"listen".into(), Source::from(address.ip()), 0);
        let peer = Peer {
            listener: "listen".into(),
            needs_credentials: true,
            reflection: ReflectionSettings::Open,
            is_own_source: true,
            http: None,
            transport: PeerTransport::Plaintext { address },
        };
        Self::new(&place, peer)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.registry.end_stream(self.id);
    }
}
