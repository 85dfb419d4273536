//! Limits the number of connections, and the time to send the HTTP/2 preface.
//!
//! Without the time limit, the server's shutdown would wait forever for a client that never sends
//! anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

/// Time for a client to send the HTTP/2 connection preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
/// Between two attempts to accept, for example when the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// One accepted connection.
pub(super) struct ClientConnection {
    stream: TcpStream,
    /// None after the preface has been read.
    preface_timeout: Option<Pin<Box<Sleep>>>,
    bytes_read: usize,
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections until `closing` is cancelled, and keeps at most `max_connections` open.
pub(super) fn accept(
    listener: TcpListener,
    max_connections: usize,
    closing: CancellationToken,
) -> impl Stream<Item = io::Result<ClientConnection>> + Send {
    let permits = Arc::new(Semaphore::new(max_connections));
    stream::unfold((listener, permits, closing), |(listener, permits, closing)| async move {
        let permit = tokio::select! {
            () = closing.cancelled() => return None,
            // The semaphore is never closed.
            permit = permits.clone().acquire_owned() => permit.ok()?,
        };
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Answers are small, and callers wait for them.
                    if let Err(error) = stream.set_nodelay(true) {
                        warn!(%error, "could not set TCP_NODELAY on a connection");
                    }
                    let preface_timeout = Some(Box::pin(sleep(PREFACE_TIMEOUT)));
                    let connection = ClientConnection { stream, preface_timeout, bytes_read: 0, _permit: permit };
                    return Some((Ok(connection), (listener, permits, closing)));
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    })
}

impl Connected for ClientConnection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.bytes_read = self.bytes_read.saturating_add(buffer.filled().len() - before);
            if self.bytes_read >= PREFACE_BYTES {
                self.preface_timeout = None;
            }
            return Poll::Ready(read);
        }
        if let Some(timeout) = self.preface_timeout.as_mut() {
            ready!(timeout.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client did not send the HTTP/2 preface",
            )));
        }
        Poll::Pending
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
