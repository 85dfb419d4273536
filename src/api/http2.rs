//! Serves HTTP/2 connections: one task for each stream, which gives its response to the transport
//! only as fast as the peer takes it.
//!
//! Not tonic's own server: there a response that is not taken waits inside the library, where a
//! single stream cannot be reset, and what was taken from a response is kept in memory until the
//! peer reads it. Here a response keeps its permits until the peer has room for its last byte.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::Service;
use tracing::debug;

use crate::api::connection::ConnectionHandle;
use crate::telemetry::metrics::Metrics;

/// In the extensions of each request: cancelled by the call that needs the stream's place. The
/// stream is reset then, which a gRPC client reports as RESOURCE_EXHAUSTED.
#[derive(Clone, Default)]
pub(super) struct StreamCut(pub(super) CancellationToken);

/// In the extensions of each request: a call that is refused makes its connection wait.
#[derive(Clone, Default)]
pub(super) struct ConnectionPause(Arc<Notify>);

/// A connection that tells whether its socket takes bytes.
struct Gauged<C> {
    inner: C,
    is_blocked: watch::Sender<bool>,
}

/// The body of a request.
struct RequestBody {
    stream: RecvStream,
    is_data_over: bool,
}

const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// Protects against clients that open and reset streams faster than they can be served.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 1024;
/// A peer that vanishes without closing is detected after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer has [`MAX_TAKING_TIME`] for each piece of this size: the largest frame of HTTP/2.
const PIECE_BYTES: usize = 16 * 1024;
/// Streams of a connection whose call has not begun. Beyond them it lets others run: most calls of
/// a flood are refused at once, and their memory is used again for the next ones.
const MAX_UNBEGUN: usize = 8;
const MAX_TAKING_TIME: Duration = Duration::from_secs(30);
/// How long a [`ConnectionPause`] is. From one to the next, some [`MAX_UNBEGUN`] calls are
/// answered.
pub(super) const PAUSE_TIME: Duration = Duration::from_secs(1);

/// Serves each connection by `serve_one` until `closing` is cancelled and the calls in progress
/// have ended.
pub(super) async fn serve<C, F>(
    incoming: impl Stream<Item = io::Result<C>>,
    serve_one: impl Fn(C) -> F,
    closing: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    // A block: the port is closed before the calls in progress have ended.
    {
        let mut incoming = pin!(incoming);
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.cancelled() => break,
                accepted = incoming.next() => accepted,
            };
            match accepted {
                Some(Ok(connection)) => drop(connections.spawn(serve_one(connection))),
                Some(Err(error)) => debug!(%error, "could not accept a connection"),
                None => break,
            }
        }
    }
    connections.close();
    connections.wait().await;
}

pub(super) async fn serve_connection<C, S>(
    connection: C,
    service: S,
    max_streams: u32,
    metrics: Metrics,
    closing: CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = ConnectionHandle> + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let info = connection.connect_info();
    let pause = ConnectionPause::default();
    let unbegun = Arc::new(AtomicUsize::new(0));
    let (is_blocked, blocked) = watch::channel(false);
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(PIECE_BYTES)
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS));
    let Ok(mut connection) = builder.handshake(Gauged { inner: connection, is_blocked }).await else { return };
    let mut lost = pin!(until_lost(connection.ping_pong()));
    // Made once, and not for each call: they register where they wait.
    let mut closed = pin!(closing.cancelled());
    let mut paused = pin!(pause.requested());
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            () = &mut closed, if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            () = &mut paused, if !is_closing => {
                // Nothing is read, and no answer is written.
                tokio::select! {
                    () = sleep(PAUSE_TIME) => {}
                    () = closing.cancelled() => {}
                    () = info.closed() => {}
                }
                pause.forget();
                paused.set(pause.requested());
            }
            accepted = connection.accept() => match accepted {
                Some(Ok((mut request, respond))) => {
                    request.extensions_mut().insert(info.clone());
                    request.extensions_mut().insert(pause.clone());
                    let serving = serve_stream(request, respond, service.clone(), blocked.clone(), metrics.clone());
                    unbegun.fetch_add(1, Ordering::Relaxed);
                    let begins = unbegun.clone();
                    tokio::spawn(async move {
                        begins.fetch_sub(1, Ordering::Relaxed);
                        serving.await;
                    });
                    while unbegun.load(Ordering::Relaxed) >= MAX_UNBEGUN {
                        yield_now().await;
                    }
                }
                Some(Err(error)) => {
                    debug!(%error, "a connection failed");
                    return;
                }
                None => return,
            },
            () = &mut lost => return,
        }
    }
}

impl ConnectionPause {
    /// Lets the connection wait, once for all calls of the same moment: what it has received is
    /// answered after that, and what it has not received is not read before.
    pub(super) fn request(&self) {
        self.0.notify_one();
    }

    async fn requested(&self) {
        self.0.notified().await;
    }

    /// Whether it was requested.
    pub(super) fn take(&self) -> bool {
        self.0.notified().now_or_never().is_some()
    }

    /// Forgets a request from the time of the pause, so that its answer is written.
    fn forget(&self) {
        let _requested = self.0.notified().now_or_never();
    }
}

/// Returns when the peer no longer answers.
async fn until_lost(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(KEEPALIVE_INTERVAL).await;
        if !matches!(timeout(KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Answers one request. Ends early, and drops the call, where the peer resets the stream.
async fn serve_stream<S>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut service: S,
    blocked: watch::Receiver<bool>,
    metrics: Metrics,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let cut = StreamCut::default();
    let mut request = request.map(|stream| match stream.is_end_stream() {
        true => Body::empty(),
        false => Body::new(RequestBody { stream, is_data_over: false }),
    });
    request.extensions_mut().insert(cut.clone());
    if poll_fn(|context| service.poll_ready(context)).await.is_err() {
        return;
    }
    let call = service.call(request);
    let response = tokio::select! {
        biased;
        Ok(response) = call => response,
        () = cut.0.cancelled() => {
            metrics.record_limited("arriving");
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return;
        }
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let (head, body) = response.into_parts();
    let is_empty = body.is_end_stream();
    let Ok(mut sender) = respond.send_response(Response::from_parts(head, ()), is_empty) else { return };
    if is_empty {
        return;
    }
    let sent = tokio::select! {
        biased;
        sent = send_body(body, &mut sender, blocked) => sent,
        () = cut.0.cancelled() => Err(Reason::ENHANCE_YOUR_CALM),
    };
    if let Err(reason) = sent {
        if reason == Reason::ENHANCE_YOUR_CALM {
            metrics.record_limited("unread_response");
        }
        sender.send_reset(reason);
    }
}

/// Sends a body as fast as the peer takes it.
///
/// # Errors
/// The reason to reset the stream.
async fn send_body(
    body: Body,
    sender: &mut SendStream<Bytes>,
    mut blocked: watch::Receiver<bool>,
) -> Result<(), Reason> {
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            biased;
            frame = poll_fn(|context| body.as_mut().poll_frame(context)) => frame,
            // The peer no longer wants the response.
            _ = poll_fn(|context| sender.poll_reset(context)) => return Ok(()),
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(Reason::INTERNAL_ERROR),
            None => return sender.send_data(Bytes::new(), true).map_err(|_| Reason::CANCEL),
        };
        match frame.into_data() {
            Ok(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE_BYTES));
                    // Most peers have room, and need no time limit.
                    if let Some(sent) = try_send_piece(&piece, sender, &blocked) {
                        sent?;
                        continue;
                    }
                    let taken = timeout(MAX_TAKING_TIME, send_piece(piece, sender, &mut blocked)).await;
                    taken.map_err(|_| Reason::ENHANCE_YOUR_CALM)??;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return sender.send_trailers(trailers).map_err(|_| Reason::CANCEL);
                }
            }
        }
    }
}

/// Sends the piece if the peer's window and the socket have room for it now.
fn try_send_piece(
    piece: &Bytes,
    sender: &mut SendStream<Bytes>,
    blocked: &watch::Receiver<bool>,
) -> Option<Result<(), Reason>> {
    if *blocked.borrow() {
        return None;
    }
    sender.reserve_capacity(piece.len());
    (sender.capacity() >= piece.len()).then(|| sender.send_data(piece.clone(), false).map_err(|_| Reason::CANCEL))
}

/// Waits until the peer's window and the socket have room for the piece, and sends it.
///
/// # Errors
/// The stream has ended.
async fn send_piece(
    mut piece: Bytes,
    sender: &mut SendStream<Bytes>,
    blocked: &mut watch::Receiver<bool>,
) -> Result<(), Reason> {
    while !piece.is_empty() {
        // The connection has ended where the sender is gone.
        blocked.wait_for(|blocked| !blocked).await.map_err(|_| Reason::CANCEL)?;
        sender.reserve_capacity(piece.len());
        let mut capacity = sender.capacity();
        while capacity == 0 {
            capacity = match poll_fn(|context| sender.poll_capacity(context)).await {
                Some(Ok(capacity)) => capacity,
                Some(Err(_)) | None => return Err(Reason::CANCEL),
            };
        }
        let part = piece.split_to(capacity.min(piece.len()));
        sender.send_data(part, false).map_err(|_| Reason::CANCEL)?;
    }
    Ok(())
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let lost = |_: h2::Error| Status::cancelled("the request was reset, or its connection was lost");
        if !self.is_data_over {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // A failure means that the stream has ended, which the next call shows.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(lost(error)))),
                None => self.is_data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(context)).map_err(lost);
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

impl<C> Gauged<C> {
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_pending = written.is_pending();
        self.is_blocked.send_if_modified(|blocked| std::mem::replace(blocked, is_pending) != is_pending);
        written
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Gauged<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Gauged<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::stream;
    use h2::client::SendRequest;
    use tokio::io::DuplexStream;
    use tokio::time::Instant;
    use tower::service_fn;

    use super::*;

    struct Wire(DuplexStream);

    impl Connected for Wire {
        type ConnectInfo = ConnectionHandle;

        fn connect_info(&self) -> ConnectionHandle {
            ConnectionHandle::of_test()
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    async fn answers(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        if request.uri().path() == "/refused" {
            request.extensions().get::<ConnectionPause>().unwrap().request();
        }
        Ok(Response::new(Body::empty()))
    }

    /// A client whose calls to `/refused` pause its connection.
    async fn client(closing: &CancellationToken) -> SendRequest<Bytes> {
        client_of(service_fn(answers), closing).await
    }

    async fn client_of<S>(service: S, closing: &CancellationToken) -> SendRequest<Bytes>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let incoming = stream::once(std::future::ready(Ok(Wire(ours))));
        let ending = closing.clone();
        let serve_one = move |wire| serve_connection(wire, service.clone(), 100, Metrics::off(), ending.clone());
        tokio::spawn(serve(incoming, serve_one, closing.clone()));
        let (client, connection) = h2::client::handshake(theirs).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Until a call is answered.
    async fn time_of(client: &SendRequest<Bytes>, path: &str) -> Duration {
        let began = Instant::now();
        let request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
        let mut client = client.clone().ready().await.unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert!(answer.await.unwrap().status().is_success());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_calls_at_once_only_some_are_in_memory_before_they_begin() {
        static MOST: AtomicUsize = AtomicUsize::new(0);
        async fn counts(request: Request<Body>) -> Result<Response<Body>, Infallible> {
            // One of the connection, and one of each of its requests.
            let requests = Arc::strong_count(&request.extensions().get::<ConnectionPause>().unwrap().0) - 1;
            MOST.fetch_max(requests, Ordering::Relaxed);
            Ok(Response::new(Body::empty()))
        }
        let client = client_of(service_fn(counts), &CancellationToken::new()).await;
        join_all((0..100).map(|_| time_of(&client, "/"))).await;
        assert!((1..=MAX_UNBEGUN).contains(&MOST.load(Ordering::Relaxed)), "{MOST:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_delays_the_answers_and_the_next_calls_of_its_connection() {
        let closing = CancellationToken::new();
        let (paused, other) = (client(&closing).await, client(&closing).await);
        assert_eq!(time_of(&paused, "/").await, Duration::ZERO);
        let refused = join_all((0..2 * MAX_UNBEGUN).map(|_| time_of(&paused, "/refused"))).await;
        let (first, second) = refused.split_at(MAX_UNBEGUN);
        assert_eq!((first, second), (&[PAUSE_TIME; MAX_UNBEGUN][..], &[PAUSE_TIME * 2; MAX_UNBEGUN][..]));
        assert_eq!(time_of(&paused, "/").await, Duration::ZERO);
        let (refused, behind, beside) =
            tokio::join!(time_of(&paused, "/refused"), time_of(&paused, "/"), time_of(&other, "/"));
        assert_eq!([refused, behind, beside], [PAUSE_TIME, PAUSE_TIME, Duration::ZERO]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_delay_the_end_of_the_server() {
        let closing = CancellationToken::new();
        let client = client(&closing).await;
        let ends = async {
            sleep(PAUSE_TIME / 10).await;
            closing.cancel();
        };
        let (refused, ()) = tokio::join!(time_of(&client, "/refused"), ends);
        assert_eq!(refused, PAUSE_TIME / 10);
    }
}
