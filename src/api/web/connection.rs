//! One connection of the JSON endpoint: HTTP/2 where it begins with HTTP/2's preface, else
//! HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt as _};
use tracing::debug;

use crate::api::connection::ConnectionHandle;
use crate::api::http2::{self, ConnectionPause, PAUSE_TIME, StreamCut};
use crate::telemetry::metrics::Metrics;

/// A connection whose first bytes have been read.
struct Rewound<C> {
    read: Bytes,
    inner: C,
}

/// The body of a request over HTTP/1.1.
struct Http1Body(Incoming);

/// The body of a response that another call may cut off.
struct CutBody {
    inner: Body,
    cut: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// For the head of each request, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Holds the largest head: as much as HTTP/2's headers, and the request line.
const MAX_BUFFER_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;

/// Serves a connection until its end, or until `closing` is cancelled and its calls have ended.
pub(in crate::api) async fn serve_connection<C, S>(
    mut connection: C,
    service: S,
    max_streams: u32,
    metrics: Metrics,
    closing: CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = ConnectionHandle> + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut read = BytesMut::with_capacity(PREFACE.len());
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        let begun = tokio::select! {
            begun = connection.read_buf(&mut read) => begun,
            () = closing.cancelled() => return,
        };
        if !matches!(begun, Ok(1..)) {
            return;
        }
    }
    let is_http2 = read.starts_with(PREFACE);
    let connection = Rewound { read: read.freeze(), inner: connection };
    if is_http2 {
        http2::serve_connection(connection, service, max_streams, metrics, closing).await;
    } else {
        serve_http1(connection, service, metrics, closing).await;
    }
}

async fn serve_http1<C, S>(connection: Rewound<C>, service: S, metrics: Metrics, closing: CancellationToken)
where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = ConnectionHandle> + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let handle = connection.connect_info();
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, handle, metrics) = (service.clone(), handle.clone(), metrics.clone());
        async move {
            let (cut, pause) = (StreamCut::default(), ConnectionPause::default());
            let mut request = request.map(|body| Body::new(Http1Body(body)));
            request.extensions_mut().insert(handle.clone());
            request.extensions_mut().insert(cut.clone());
            request.extensions_mut().insert(pause.clone());
            let answered = tokio::select! {
                biased;
                Ok(answered) = service.oneshot(request) => answered,
                () = cut.0.cancelled() => {
                    metrics.record_limited("arriving");
                    return Err(io::Error::other("the gateway is full"));
                }
            };
            if pause.take() {
                tokio::select! {
                    () = sleep(PAUSE_TIME) => {}
                    () = handle.closed() => {}
                }
            }
            let cut = Box::pin(cut.0.cancelled_owned());
            Ok(answered.map(|inner| Body::new(CutBody { inner, cut })))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(connection), answer);
    let mut serving = pin!(serving);
    let mut is_closing = false;
    let served = loop {
        tokio::select! {
            biased;
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                serving.as_mut().graceful_shutdown();
            }
            served = &mut serving => break served,
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection failed");
    }
}

impl http_body::Body for Http1Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let lost = |_: hyper::Error| Status::cancelled("the request was cut off, or its connection was lost");
        Pin::new(&mut self.0).poll_frame(context).map_err(lost)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl http_body::Body for CutBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Status::resource_exhausted("the response was not read"))));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<C: Connected> Connected for Rewound<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> C::ConnectInfo {
        self.inner.connect_info()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Rewound<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Rewound<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
