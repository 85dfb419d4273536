//! The socket under a connection: what is taken from it when, and how it ends on the wire.
//!
//! ```text
//! TcpStream <- Line (holds bytes back while nothing may be read) <- [TLS] <- Wire (knows when all is flushed) <- HTTP
//! ```
//!
//! A FIN is a FIN only where nothing unread is left behind: the system sends a reset instead. So
//! whoever closes in an orderly way takes in, and throws away, what the client still sends.

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

use crate::faults::Step;

/// How long a closed connection still takes in what the client sends.
const DRAIN: Duration = Duration::from_secs(5);
/// How much of it.
const DRAIN_BYTES: usize = 4 * 1024 * 1024;
/// A TLS record of application data; from TLS 1.3 on alerts look like it from outside, but are no
/// longer than this.
const APPLICATION_DATA: u8 = 0x17;
const MAX_ALERT: usize = 24;
/// The alert `handshake_failure`, fatal, in a record of TLS 1.2, as a server sends it to a
/// `ClientHello` that it does not like.
const HANDSHAKE_FAILURE: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// How a connection ends on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// FIN, on TLS behind a `close_notify`.
    Close,
    /// FIN, and on TLS no `close_notify`.
    BreakOff,
    /// RST.
    Reset,
    /// Not at all: nothing more is said, and the client may stay as long as it likes.
    Silence,
}

/// What is to become of a connection; shared by all who may decide it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<FateState>);

#[derive(Debug, Default)]
struct FateState {
    cut: Mutex<Option<Due>>,
    decided: Notify,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    WhenFlushed(Cut),
    Now(Cut),
}

impl Fate {
    /// Ends the connection now.
    pub(crate) fn decide(&self, cut: Cut) {
        *self.0.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(Due::Now(cut));
        self.0.decided.notify_one();
    }

    /// Ends the connection as soon as all that was said so far has gone out.
    pub(crate) fn decide_when_flushed(&self, cut: Cut) {
        *self.0.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(Due::WhenFlushed(cut));
    }

    /// Waits for the decision.
    pub(crate) async fn decided(&self) -> Cut {
        loop {
            if let Some(Due::Now(cut)) = *self.0.cut.lock().unwrap_or_else(PoisonError::into_inner) {
                return cut;
            }
            self.0.decided.notified().await;
        }
    }

    fn is_due(&self) -> bool {
        self.0.cut.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn flushed(&self) {
        let due = *self.0.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Due::WhenFlushed(cut)) = due {
            self.decide(cut);
        }
    }
}

/// Who is asked before a request is read.
pub(crate) struct Guard {
    /// Whether any rule could have something to say: it is cheaper to know than whether there is a
    /// request.
    pub(crate) is_needed: Box<dyn Fn() -> bool + Send>,
    /// What the rules say to the next request.
    pub(crate) ask: Box<dyn Fn() -> Vec<Step> + Send>,
    pub(crate) tls: bool,
}

/// A TCP connection from which nothing is read before the rules have had their say.
pub(crate) struct Line {
    stream: TcpStream,
    fate: Fate,
    guard: Option<Guard>,
    /// Whether the next bytes are a request's first.
    next_is_due: Arc<AtomicBool>,
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    held: bool,
}

impl Line {
    pub(crate) fn new(stream: TcpStream, fate: Fate) -> Line {
        Line {
            stream,
            fate,
            guard: None,
            next_is_due: Arc::default(),
            steps: VecDeque::new(),
            sleep: None,
            held: false,
        }
    }

    /// From now on the guard is asked before each request; tells whom to tell that the next bytes
    /// are a request's first.
    pub(crate) fn guard(&mut self, guard: Guard) -> Arc<AtomicBool> {
        self.guard = Some(guard);
        self.next_is_due.clone()
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
            match self.steps.pop_front() {
                Some(Step::Delay(delay)) => {
                    self.sleep = Some(Box::pin(tokio::time::sleep(delay)));
                    continue;
                }
                Some(Step::Cut(cut)) => {
                    self.held = true;
                    self.fate.decide(cut);
                    continue;
                }
                // Nothing else can be armed for this point.
                Some(_) => continue,
                None => {}
            }
            let Some(guard) = &self.guard else { return Poll::Ready(()) };
            if !self.next_is_due.load(Ordering::Relaxed) || !(guard.is_needed)() {
                return Poll::Ready(());
            }
            if !ready!(poll_request(&self.stream, guard.tls, cx)) {
                return Poll::Ready(());
            }
            self.next_is_due.store(false, Ordering::Relaxed);
            self.steps = (guard.ask)().into();
        }
    }

    /// Ends the connection; returns when the client has been given what there is to give.
    pub(crate) async fn end(mut self, cut: Cut) {
        let ended = match cut {
            Cut::Reset => self.stream.set_zero_linger(),
            Cut::Close | Cut::BreakOff => match self.stream.shutdown().await {
                Ok(()) => self.drain(DRAIN, DRAIN_BYTES).await,
                failed => failed,
            },
            Cut::Silence => self.drain(Duration::MAX, usize::MAX).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "the client was quicker to end the connection");
        }
    }

    /// Refuses the handshake in TLS's own words.
    pub(crate) async fn refuse_handshake(mut self) {
        if self.stream.write_all(&HANDSHAKE_FAILURE).await.is_ok() {
            self.end(Cut::BreakOff).await;
        }
    }

    async fn drain(&mut self, within: Duration, mut left: usize) -> io::Result<()> {
        let mut thrown_away = [0; 4096];
        let all = async {
            while left > 0 {
                match self.stream.read(&mut thrown_away).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        };
        timeout(within, all).await.unwrap_or(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_allowed(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.next_is_due.store(false, Ordering::Relaxed);
        }
        read
    }
}

/// Whether what can be read is a request; an end or an error is for the reader.
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

impl AsyncWrite for Line {
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

/// What HTTP is spoken over.
pub(crate) enum Wire {
    Plain(Line),
    Tls(Box<TlsStream<Line>>),
}

impl Wire {
    pub(crate) fn line(&mut self) -> &mut Line {
        match self {
            Wire::Plain(line) => line,
            Wire::Tls(stream) => stream.get_mut().0,
        }
    }

    pub(crate) fn fate(&mut self) -> &Fate {
        &self.line().fate
    }

    /// Ends the connection; returns when the client has been given what there is to give.
    pub(crate) async fn end(self, cut: Cut) {
        let line = match self {
            Wire::Plain(line) => line,
            Wire::Tls(mut stream) => {
                if cut == Cut::Close
                    && let Err(error) = stream.shutdown().await
                {
                    tracing::debug!(%error, "no close_notify");
                }
                stream.into_inner().0
            }
        };
        line.end(cut).await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(line) => Pin::new(line).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Plain(line) => Pin::new(line).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Plain(line) => Pin::new(line).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(line) => line.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut *self {
            Wire::Plain(line) => Pin::new(line).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        })?;
        self.fate().flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // HTTP has no say in how this one ends.
        if self.fate().is_due() {
            return Poll::Pending;
        }
        match &mut *self {
            Wire::Plain(line) => Pin::new(line).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("stream", &self.stream).field("held", &self.held).finish_non_exhaustive()
    }
}
