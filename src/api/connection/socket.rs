//! A socket that another task can close, and that fails where it takes no byte for a while.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};

use super::registry::{CloseReason, CloseSignal, ConnectionPlace};

/// Time in which a socket must take a byte. What waits is the peer's whole connection, not one slow
/// reader on it: HTTP/2 has a window of its own for each stream.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// An accepted socket. Holds the connection's place until it is dropped.
pub(super) struct ClientSocket {
    socket: Socket,
    /// Runs while the socket takes no byte.
    stalled: Option<Pin<Box<Sleep>>>,
    signal: Arc<CloseSignal>,
    place: ConnectionPlace,
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    pub(super) fn new(socket: Socket, place: ConnectionPlace) -> Self {
        Self { socket, stalled: None, signal: place.signal(), place }
    }

    pub(super) fn place(&self) -> &ConnectionPlace {
        &self.place
    }

    /// Completes when another task has closed the connection.
    pub(super) async fn closed(&self) {
        poll_fn(|context| if self.signal.is_closed(context) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn fail_if_closed(&self, context: &Context<'_>) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::ConnectionAborted, "the gateway has closed the connection");
        if self.signal.is_closed(context) { Err(closed()) } else { Ok(()) }
    }

    /// Fails a write that has been pending for too long.
    fn limit_stall<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.place.mark_closed(CloseReason::Stalled);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fail_if_closed(context)?;
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fail_if_closed(context)?;
        let written = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.limit_stall(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fail_if_closed(context)?;
        let written = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        };
        self.limit_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The kernel's buffer is flushed by the kernel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance, timeout};

    use super::*;
    use crate::api::connection::registry::{ConnectionRegistry, Source};
    use crate::telemetry::metrics::Metrics;

    fn socket() -> (ClientSocket, UnixStream, ConnectionRegistry) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let registry = ConnectionRegistry::new(1, Metrics::off());
        let place = registry.register(&"listen".into(), Source::V6([0; 4]), 0);
        (ClientSocket::new(Socket::Unix(ours), place), theirs, registry)
    }

    async fn write(socket: &mut ClientSocket) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *socket).poll_write(context, &[0; 4096])).await
    }

    /// Writes until the kernel takes no more.
    async fn fill(socket: &mut ClientSocket) {
        while let Some(written) = futures_util::FutureExt::now_or_never(write(socket)) {
            written.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_no_byte_fails() {
        let (mut socket, _theirs, _registry) = socket();
        fill(&mut socket).await;
        let began = Instant::now();
        let error = write(&mut socket).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_keeps_its_socket() {
        let (mut socket, theirs, _registry) = socket();
        fill(&mut socket).await;
        for _ in 0..5 {
            advance(WRITE_TIMEOUT - Duration::from_secs(1)).await;
            // A unix socket is writable again when most of it has been read.
            while theirs.try_read(&mut [0; 4096]).is_ok() {}
            timeout(Duration::from_millis(500), write(&mut socket)).await.unwrap().unwrap();
            fill(&mut socket).await;
        }
    }

    #[tokio::test]
    async fn another_task_can_close_a_socket_that_waits() {
        let (mut socket, _theirs, registry) = socket();
        let reading = async {
            let mut bytes = [0; 8];
            let mut buffer = ReadBuf::new(&mut bytes);
            poll_fn(|context| Pin::new(&mut socket).poll_read(context, &mut buffer)).await
        };
        let closing = async {
            tokio::task::yield_now().await;
            // A place for one: the newcomer takes it.
            registry.register(&"listen".into(), Source::V6([0; 4]), 0)
        };
        let (read, _newcomer) = tokio::join!(reading, closing);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
