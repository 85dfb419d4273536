//! Accepts connections at every listener, and hands them to the server as one stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::handle::{Peer, PeerTransport};
use super::handshakes::Handshakes;
use super::listener::{Accepted, BoundListener, ProtocolSettings};
use super::registry::{CloseReason, ConnectionPlace, ConnectionRegistry, Source};
use super::socket::{ClientSocket, Socket};
use super::stream::ClientConnection;
use crate::tls::{ClientChain, ServerTls};

/// Between two attempts to accept, for example when the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// For a client's first message of a handshake, and for all others.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted connections that the server has not taken. It takes each at once.
const QUEUE_LENGTH: usize = 64;

/// One listener with what all share.
#[derive(Clone)]
struct Acceptor {
    listener: Arc<BoundListener>,
    registry: ConnectionRegistry,
    handshakes: Handshakes,
    accepted: mpsc::Sender<io::Result<ClientConnection>>,
}

/// Accepts connections until `closing` is cancelled, and closes idle ones meanwhile.
pub(in crate::api) fn accept(
    listeners: Vec<BoundListener>,
    registry: ConnectionRegistry,
    closing: CancellationToken,
) -> impl Stream<Item = io::Result<ClientConnection>> + Send {
    let (accepted, connections) = mpsc::channel(QUEUE_LENGTH);
    let handshakes = Handshakes::default();
    for listener in listeners {
        registry.add_listener(listener.name());
        let listener = Arc::new(listener);
        let (registry, handshakes) = (registry.clone(), handshakes.clone());
        let acceptor = Acceptor { listener, registry, handshakes, accepted: accepted.clone() };
        let closing = closing.clone();
        tokio::spawn(async move { closing.run_until_cancelled_owned(acceptor.run()).await });
    }
    tokio::spawn(closing.clone().run_until_cancelled_owned(async move { registry.close_idle().await }));
    stream::unfold((connections, closing), |(mut connections, closing)| async move {
        let next = closing.run_until_cancelled(connections.recv()).await??;
        Some((next, (connections, closing)))
    })
}

impl Acceptor {
    async fn run(self) {
        loop {
            self.registry.wait_for_ending().await;
            match self.listener.socket.accept().await {
                Ok(Accepted::Tcp(stream, address)) => {
                    // Answers are small, and callers wait for them.
                    if let Err(error) = stream.set_nodelay(true) {
                        warn!(%error, "could not set TCP_NODELAY on a connection");
                    }
                    let source = Source::from(address.ip());
                    let socket = ClientSocket::new(Socket::Tcp(stream), self.register(source));
                    match self.listener.tls() {
                        None => self.hand_over(socket, PeerTransport::Plaintext { address }).await,
                        Some(tls) => {
                            let (this, tls) = (self.clone(), tls.clone());
                            tokio::spawn(async move {
                                // Its end also ends the handshake of a server that stops.
                                let accepted = this.accepted.clone();
                                tokio::select! {
                                    () = accepted.closed() => {}
                                    () = this.shake_hands(socket, tls, source, address) => {}
                                }
                            });
                        }
                    }
                }
                Ok(Accepted::Unix(stream)) => self.accept_local(stream).await,
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn register(&self, source: Source) -> ConnectionPlace {
        self.registry.register(self.listener.name(), source, self.listener.settings.connections_per_source)
    }

    async fn hand_over(&self, socket: ClientSocket, transport: PeerTransport) {
        let connection = ClientConnection::plain(socket, self.peer(transport));
        // The server that would take it has ended.
        let _sent = self.accepted.send(Ok(connection)).await;
    }

    /// A unix socket, whose kernel names the user.
    async fn accept_local(&self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(peer) => {
                let socket = ClientSocket::new(Socket::Unix(stream), self.register(Source::User(peer.uid())));
                self.hand_over(socket, PeerTransport::Unix { user: peer.uid(), group: peer.gid() }).await;
            }
            Err(error) => warn!(%error, "could not read the user of a local connection"),
        }
    }

    async fn shake_hands(&self, socket: ClientSocket, tls: ServerTls, source: Source, address: std::net::SocketAddr) {
        let closed = socket.place().closer();
        let failed = |error: io::Error| {
            // Not where the gateway has closed it for another one.
            if error.kind() != io::ErrorKind::ConnectionAborted {
                self.registry.count_failed_handshake(self.listener.name());
            }
            debug!(%address, %error, "a TLS handshake failed");
        };
        // A client that sends nothing, or half a message, takes no place from others.
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket);
        let begun = match tokio::time::timeout(HANDSHAKE_TIMEOUT, hello).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return failed(error),
            Err(_) => return closed.close(CloseReason::Silent),
        };
        // A connection that is closed meanwhile does not wait for a place.
        let place = tokio::select! {
            place = self.handshakes.enter(source) => place,
            () = begun.io.closed() => return,
        };
        let shaking = tokio::time::timeout(HANDSHAKE_TIMEOUT, begun.into_stream(tls.config()));
        let shaken = tokio::select! {
            shaken = shaking => shaken,
            () = place.lost() => return closed.close(CloseReason::SourceFull),
        };
        drop(place);
        match shaken {
            Ok(Ok(stream)) => {
                let (_, session) = stream.get_ref();
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                // ALPN is optional in TLS, and not in gRPC.
                if !is_http2 && self.listener.settings.protocol == ProtocolSettings::Grpc {
                    debug!(%address, "a client did not ask for HTTP/2");
                    return;
                }
                let certificates = session.peer_certificates().unwrap_or_default();
                let client = ClientChain::new(tls, certificates).map(Arc::new);
                let peer = self.peer(PeerTransport::Tls { address, client });
                let _sent = self.accepted.send(Ok(ClientConnection::tls(stream, peer))).await;
            }
            Ok(Err(error)) => failed(error),
            Err(_) => closed.close(CloseReason::Silent),
        }
    }

    fn peer(&self, transport: PeerTransport) -> Peer {
        let settings = &self.listener.settings;
        Peer {
            listener: self.listener.name().clone(),
            needs_credentials: settings.needs_credentials,
            reflection: settings.reflection,
            transport,
            is_own_source: settings.connections_per_source > 0,
            http: match &settings.protocol {
                ProtocolSettings::Grpc => None,
                ProtocolSettings::Http(http) => Some(Arc::new(http.clone())),
            },
        }
    }
}
