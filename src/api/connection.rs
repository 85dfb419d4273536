//! Connections: how many, and how long one may say nothing before it is shown the door.
//!
//! The server's own shutdown waits for every open connection, and a peer that never says anything
//! would be waited for for ever.

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

/// A client has this long to say what every HTTP/2 client says first.
const SILENCE: Duration = Duration::from_secs(10);
/// The HTTP/2 connection preface.
const PREFACE_BYTES: usize = 24;
/// Between two attempts to accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One accepted connection.
pub(super) struct Peer {
    stream: TcpStream,
    /// Runs until the preface has been read.
    silence: Option<Pin<Box<Sleep>>>,
    heard: usize,
    _place: OwnedSemaphorePermit,
}

/// Accepted connections, at most `most` at once, until `closing`.
pub(super) fn accept(
    listener: TcpListener,
    most: usize,
    closing: CancellationToken,
) -> impl Stream<Item = io::Result<Peer>> + Send {
    let places = Arc::new(Semaphore::new(most));
    stream::unfold((listener, places, closing), |(listener, places, closing)| async move {
        let place = tokio::select! {
            () = closing.cancelled() => return None,
            // Never closed, so it can only be waited for.
            place = places.clone().acquire_owned() => place.ok()?,
        };
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Answers are small and waited for.
                    if let Err(error) = stream.set_nodelay(true) {
                        warn!(%error, "a connection keeps delaying its packets");
                    }
                    let silence = Some(Box::pin(sleep(SILENCE)));
                    return Some((Ok(Peer { stream, silence, heard: 0, _place: place }), (listener, places, closing)));
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Connected for Peer {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.heard = self.heard.saturating_add(buffer.filled().len() - before);
            if self.heard >= PREFACE_BYTES {
                self.silence = None;
            }
            return Poll::Ready(read);
        }
        if let Some(silence) = self.silence.as_mut() {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Peer {
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
