//! What tonic reads and writes: a connection whose HTTP/2 preface has a time limit.
//!
//! Without the time limit, the server's shutdown would wait forever for a client that never sends
//! anything.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::handle::{ConnectionHandle, Peer};
use super::registry::{CloseReason, ConnectionPlace};
use super::socket::ClientSocket;

/// Time for a client to send the HTTP/2 connection preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;

/// One accepted connection.
pub(in crate::api) struct ClientConnection {
    stream: Stream,
    /// None after the preface has been read.
    preface_timeout: Option<Pin<Box<Sleep>>>,
    bytes_read: usize,
    handle: ConnectionHandle,
}

enum Stream {
    Plain(ClientSocket),
    Tls(Box<TlsStream<ClientSocket>>),
}

impl ClientConnection {
    pub(super) fn plain(socket: ClientSocket, peer: Peer) -> Self {
        Self::new(Stream::Plain(socket), peer)
    }

    pub(super) fn tls(stream: TlsStream<ClientSocket>, peer: Peer) -> Self {
        Self::new(Stream::Tls(Box::new(stream)), peer)
    }

    fn new(stream: Stream, peer: Peer) -> Self {
        let handle = ConnectionHandle::new(stream.place(), peer);
        Self { stream, preface_timeout: Some(Box::pin(sleep(PREFACE_TIMEOUT))), bytes_read: 0, handle }
    }
}

impl Stream {
    fn place(&self) -> &ConnectionPlace {
        match self {
            Self::Plain(stream) => stream.place(),
            Self::Tls(stream) => stream.get_ref().0.place(),
        }
    }
}

impl Connected for ClientConnection {
    type ConnectInfo = ConnectionHandle;

    fn connect_info(&self) -> ConnectionHandle {
        self.handle.clone()
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if self.preface_timeout.is_none() {
            return read;
        }
        if read.is_ready() {
            self.bytes_read = self.bytes_read.saturating_add(buffer.filled().len() - before);
            if self.bytes_read >= PREFACE_BYTES {
                self.preface_timeout = None;
                self.stream.place().mark_open();
            }
            return read;
        }
        if let Some(timeout) = self.preface_timeout.as_mut() {
            ready!(timeout.as_mut().poll(context));
            self.stream.place().mark_closed(CloseReason::Silent);
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
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
