//! Accepts connections, and hands them to tonic.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::handle::{Peer, PeerTransport};
use super::registry::ConnectionRegistry;
use super::socket::{ClientSocket, Socket};
use super::stream::ClientConnection;

/// Between two attempts to accept, for example when the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Connections of one source.
const CONNECTIONS_PER_SOURCE: usize = 256;
/// The listener's name of the short form.
const SHORT_FORM: &str = "listen";

/// Accepts connections until `closing` is cancelled, and closes idle ones meanwhile.
pub(in crate::api) fn accept(
    listener: TcpListener,
    registry: ConnectionRegistry,
    closing: CancellationToken,
) -> impl Stream<Item = io::Result<ClientConnection>> + Send {
    let (idle, ended) = (registry.clone(), closing.clone());
    tokio::spawn(async move { ended.run_until_cancelled(idle.close_idle()).await });
    let name: Arc<str> = SHORT_FORM.into();
    registry.add_listener(&name);
    stream::unfold((listener, registry, closing, name), |(listener, registry, closing, name)| async move {
        loop {
            let accepted = async {
                registry.wait_for_ending().await;
                listener.accept().await
            };
            match closing.run_until_cancelled(accepted).await? {
                Ok((stream, address)) => {
                    // Answers are small, and callers wait for them.
                    if let Err(error) = stream.set_nodelay(true) {
                        warn!(%error, "could not set TCP_NODELAY on a connection");
                    }
                    let place = registry.register(&name, address.ip().into(), CONNECTIONS_PER_SOURCE);
                    let socket = ClientSocket::new(Socket::Tcp(stream), place);
                    let transport = PeerTransport::Plaintext { address };
                    let peer = Peer { listener: name.clone(), needs_credentials: false, transport };
                    let connection = ClientConnection::plain(socket, peer);
                    return Some((Ok(connection), (listener, registry, closing, name)));
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    })
}
