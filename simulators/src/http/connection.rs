//! The socket of a connection: when bytes are read from it, and how it is disconnected.
//!
//! ```text
//! TcpStream <- GuardedStream (delays reads) <- [TLS] <- MaybeTls (ends after a flush) <- HTTP
//! ```
//!
//! If a socket is closed with unread bytes, the system sends RST instead of FIN. So an orderly
//! close reads and drops what the client still sends.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Sleep, timeout},
};
use tokio_rustls::server::TlsStream;

/// How long a closed connection still reads.
const MAX_DRAIN: Duration = Duration::from_secs(5);
/// How much it still reads.
const MAX_DRAIN_BYTES: usize = 4 * 1024 * 1024;
/// The type of TLS records with application data. In TLS 1.3 alerts have the same type.
const APPLICATION_DATA: u8 = 0x17;
/// The maximum length of an alert's record in TLS 1.3, in bytes.
const MAX_ALERT: usize = 24;
/// The fatal alert `handshake_failure` in a record of TLS 1.2.
const HANDSHAKE_FAILURE: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// How a rule ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disconnect {
    /// FIN; with TLS after a `close_notify`.
    Fin,
    /// FIN, without `close_notify`.
    FinWithoutCloseNotify,
    /// RST.
    Reset,
    /// Not at all: nothing more is sent, and the connection stays open.
    Hang,
}

/// The decision to end a connection, shared by all that can make it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DisconnectSignal(Arc<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    disconnect: Mutex<Option<When>>,
    decided: Notify,
}

#[derive(Debug, Clone, Copy)]
enum When {
    WhenFlushed(Disconnect),
    Now(Disconnect),
}

impl DisconnectSignal {
    /// Ends the connection now.
    pub(crate) fn decide(&self, disconnect: Disconnect) {
        *self.0.disconnect.lock().unwrap_or_else(PoisonError::into_inner) = Some(When::Now(disconnect));
        self.0.decided.notify_one();
    }

    /// Ends the connection as soon as everything written so far is flushed.
    pub(crate) fn decide_when_flushed(&self, disconnect: Disconnect) {
        *self.0.disconnect.lock().unwrap_or_else(PoisonError::into_inner) = Some(When::WhenFlushed(disconnect));
    }

    /// Waits for the decision.
    pub(crate) async fn decided(&self) -> Disconnect {
        loop {
            if let Some(When::Now(disconnect)) = *self.0.disconnect.lock().unwrap_or_else(PoisonError::into_inner) {
                return disconnect;
            }
            self.0.decided.notified().await;
        }
    }

    fn is_due(&self) -> bool {
        self.0.disconnect.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn flushed(&self) {
        let due = *self.0.disconnect.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(When::WhenFlushed(disconnect)) = due {
            self.decide(disconnect);
        }
    }
}

/// An action before a request is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReadAction {
    Delay(Duration),
    Disconnect(Disconnect),
}

/// Decides before each request whether it is read.
pub(crate) struct ReadGuard {
    /// Whether there can be actions at all. Cheaper than to check for a request.
    pub(crate) is_needed: Box<dyn Fn() -> bool + Send>,
    /// The actions before the next request.
    pub(crate) actions: Box<dyn Fn() -> Vec<ReadAction> + Send>,
    pub(crate) tls: bool,
}

/// A TCP connection from which a request is read only after its guard's actions.
pub(crate) struct GuardedStream {
    stream: TcpStream,
    signal: DisconnectSignal,
    guard: Option<ReadGuard>,
    /// Whether the next bytes begin a request.
    at_request_start: Arc<AtomicBool>,
    actions: VecDeque<ReadAction>,
    sleep: Option<Pin<Box<Sleep>>>,
    held: bool,
}

impl GuardedStream {
    pub(crate) fn new(stream: TcpStream, signal: DisconnectSignal) -> GuardedStream {
        GuardedStream {
            stream,
            signal,
            guard: None,
            at_request_start: Arc::default(),
            actions: VecDeque::new(),
            sleep: None,
            held: false,
        }
    }

    /// Sets the guard. Returns the flag to set when the next bytes begin a request.
    pub(crate) fn guard(&mut self, guard: ReadGuard) -> Arc<AtomicBool> {
        self.guard = Some(guard);
        self.at_request_start.clone()
    }

    /// Ready when reading is allowed.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.held {
                return Poll::Pending;
            }
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.actions.pop_front() {
                Some(ReadAction::Delay(delay)) => {
                    self.sleep = Some(Box::pin(tokio::time::sleep(delay)));
                    continue;
                }
                Some(ReadAction::Disconnect(disconnect)) => {
                    self.held = true;
                    self.signal.decide(disconnect);
                    continue;
                }
                None => {}
            }
            let Some(guard) = &self.guard else { return Poll::Ready(()) };
            if !self.at_request_start.load(Ordering::Relaxed) || !(guard.is_needed)() {
                return Poll::Ready(());
            }
            if !ready!(poll_request(&self.stream, guard.tls, cx)) {
                return Poll::Ready(());
            }
            self.at_request_start.store(false, Ordering::Relaxed);
            self.actions = (guard.actions)().into();
        }
    }

    /// Ends the connection. Returns when the client has had time to receive everything.
    pub(crate) async fn end(mut self, disconnect: Disconnect) {
        let ended = match disconnect {
            Disconnect::Reset => self.stream.set_zero_linger(),
            Disconnect::Fin | Disconnect::FinWithoutCloseNotify => match self.stream.shutdown().await {
                Ok(()) => self.drain(MAX_DRAIN, MAX_DRAIN_BYTES).await,
                failed => failed,
            },
            Disconnect::Hang => self.drain(Duration::MAX, usize::MAX).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "could not end the connection: the client has ended it");
        }
    }

    /// Refuses the handshake with a TLS alert.
    pub(crate) async fn refuse_handshake(mut self) {
        if self.stream.write_all(&HANDSHAKE_FAILURE).await.is_ok() {
            self.end(Disconnect::FinWithoutCloseNotify).await;
        }
    }

    async fn drain(&mut self, within: Duration, mut left: usize) -> io::Result<()> {
        let mut dropped = [0; 4096];
        let all = async {
            while left > 0 {
                match self.stream.read(&mut dropped).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        };
        timeout(within, all).await.unwrap_or(Ok(()))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_allowed(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.at_request_start.store(false, Ordering::Relaxed);
        }
        read
    }
}

/// Whether a request can be read. An end or an error is left to the reader.
fn poll_request(stream: &TcpStream, tls: bool, cx: &mut Context<'_>) -> Poll<bool> {
    let mut head = [0; 5];
    let mut head = ReadBuf::new(&mut head);
    let Ok(length) = ready!(stream.poll_peek(cx, &mut head)) else { return Poll::Ready(false) };
    let is_request = match head.filled() {
        _ if !tls => length > 0,
        [kind, _, _, high, low] => {
            *kind == APPLICATION_DATA && usize::from(u16::from_be_bytes([*high, *low])) > MAX_ALERT
        }
        _ => false,
    };
    Poll::Ready(is_request)
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The stream under HTTP.
pub(crate) enum MaybeTls {
    Plain(GuardedStream),
    Tls(Box<TlsStream<GuardedStream>>),
}

impl MaybeTls {
    pub(crate) fn stream(&mut self) -> &mut GuardedStream {
        match self {
            MaybeTls::Plain(stream) => stream,
            MaybeTls::Tls(stream) => stream.get_mut().0,
        }
    }

    pub(crate) fn signal(&mut self) -> &DisconnectSignal {
        &self.stream().signal
    }

    /// Ends the connection. Returns when the client has had time to receive everything.
    pub(crate) async fn end(self, disconnect: Disconnect) {
        let stream = match self {
            MaybeTls::Plain(stream) => stream,
            MaybeTls::Tls(mut stream) => {
                if disconnect == Disconnect::Fin
                    && let Err(error) = stream.shutdown().await
                {
                    tracing::debug!(%error, "could not send close_notify");
                }
                stream.into_inner().0
            }
        };
        stream.end(disconnect).await;
    }
}

impl AsyncRead for MaybeTls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for MaybeTls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            MaybeTls::Plain(stream) => stream.is_write_vectored(),
            MaybeTls::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut *self {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_flush(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_flush(cx),
        })?;
        self.signal().flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The rule decides how the connection ends, not HTTP.
        if self.signal().is_due() {
            return Poll::Pending;
        }
        match &mut *self {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for GuardedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream").field("stream", &self.stream).field("held", &self.held).finish_non_exhaustive()
    }
}
