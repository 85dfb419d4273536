//! The HTTP endpoint that Prometheus reads: only `GET /metrics`, with or without TLS.
//!
//! It has a port of its own, so that load on one port does not affect the other. Its connections
//! are bounded in number and time, and where there are too many the oldest is closed: connections
//! that are held do not keep Prometheus out. One rendering a second serves all.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::telemetry::metrics::{GaugeSnapshot, Metrics, MetricsError};
use crate::tls::ServerTls;

/// Supplies the present values of the gauges.
#[async_trait]
pub trait GaugeSource: Send + Sync + 'static {
    /// Reads all gauges.
    async fn snapshot(&self) -> GaugeSnapshot;
}

/// What all scrapes share.
struct Renderer {
    metrics: Metrics,
    gauges: Arc<dyn GaugeSource>,
    /// The last text, and when it was rendered. Locked while the next one is rendered.
    last: Mutex<Option<(Instant, String)>>,
}

const MAX_CONNECTIONS: usize = 64;
/// Time for a client to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request and its response.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(10);
/// Scrapes within this time get the same text.
const RENDERING_INTERVAL: Duration = Duration::from_secs(1);
/// Between two attempts to accept, for example when the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers scrapes until `closing` is cancelled.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    metrics: Metrics,
    gauges: Arc<dyn GaugeSource>,
    closing: CancellationToken,
) {
    let renderer = Arc::new(Renderer { metrics, gauges, last: Mutex::default() });
    let serve = async {
        // The oldest first.
        let mut open: VecDeque<CancellationToken> = VecDeque::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    open.retain(|connection| !connection.is_cancelled());
                    if open.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.cancel();
                    }
                    let (renderer, connection) = (renderer.clone(), closing.child_token());
                    open.push_back(connection.clone());
                    let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
                    tokio::spawn(async move {
                        // Cancelled at the end, so that it no longer counts.
                        let _ended = connection.clone().drop_guard();
                        tokio::select! {
                            () = connection.cancelled() => {}
                            () = open_connection(stream, acceptor, renderer) => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection to the metrics port");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = serve => {}
    }
}

async fn open_connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, renderer: Arc<Renderer>) {
    match acceptor {
        None => serve_connection(stream, renderer).await,
        // Errors of a connection concern only its client.
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await {
                serve_connection(stream, renderer).await;
            }
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, renderer: Arc<Renderer>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let renderer = renderer.clone();
        async move { Ok::<_, Infallible>(reply(&request, &renderer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Errors of a connection concern only its client.
    drop(tokio::time::timeout(MAX_CONNECTION_AGE, connection).await);
}

async fn reply<B>(request: &Request<B>, renderer: &Renderer) -> Response<String> {
    let text_response = |status: StatusCode, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return text_response(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET"));
        return response;
    }
    match renderer.text().await {
        Ok(text) => {
            let mut response = Response::new(text);
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(TEXT_FORMAT));
            response
        }
        Err(problem) => {
            warn!(%problem, "could not answer a scrape");
            text_response(StatusCode::INTERNAL_SERVER_ERROR, "could not render the metrics; see the log\n")
        }
    }
}

impl Renderer {
    /// The metrics as they were at most [`RENDERING_INTERVAL`] ago.
    async fn text(&self) -> Result<String, MetricsError> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = last.as_ref()
            && at.elapsed() < RENDERING_INTERVAL
        {
            return Ok(text.clone());
        }
        let text = self.metrics.render(self.gauges.snapshot().await)?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rstest::rstest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[derive(Default)]
    struct CountingSource(AtomicUsize);

    #[async_trait]
    impl GaugeSource for CountingSource {
        async fn snapshot(&self) -> GaugeSnapshot {
            self.0.fetch_add(1, Ordering::SeqCst);
            GaugeSnapshot::default()
        }
    }

    fn renderer(gauges: Arc<CountingSource>) -> Renderer {
        Renderer { metrics: Metrics::on().unwrap(), gauges, last: Mutex::default() }
    }

    fn get() -> Request<()> {
        Request::builder().uri("/metrics").body(()).unwrap()
    }

    #[rstest]
    #[case(Method::GET, "/metrics", StatusCode::OK)]
    #[case(Method::GET, "/metrics?x=1", StatusCode::OK)]
    #[case(Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED)]
    #[case(Method::GET, "/", StatusCode::NOT_FOUND)]
    #[tokio::test]
    async fn only_get_metrics_is_answered(#[case] method: Method, #[case] path: &str, #[case] status: StatusCode) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = reply(&request, &renderer(Arc::default())).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.body().contains("recoup_ledger_writing 0"), status == StatusCode::OK);
    }

    /// A scrape reads the ledger, and anybody on the machine can scrape.
    #[tokio::test(start_paused = true)]
    async fn scrapes_within_a_second_share_one_rendering() {
        let source = Arc::new(CountingSource::default());
        let renderer = renderer(source.clone());
        for _ in 0..20 {
            assert_eq!(reply(&get(), &renderer).await.status(), StatusCode::OK);
        }
        assert_eq!(source.0.load(Ordering::SeqCst), 1);
        tokio::time::advance(RENDERING_INTERVAL).await;
        reply(&get(), &renderer).await;
        assert_eq!(source.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn connections_that_are_held_do_not_keep_others_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let source = Arc::new(CountingSource::default());
        let server = tokio::spawn(serve(listener, None, Metrics::on().unwrap(), source, closing.clone()));
        let mut held = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let mut scrape = TcpStream::connect(address).await.unwrap();
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: gateway\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        // Ends, because the connection is not kept.
        scrape.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let mut end = [0; 1];
        assert_eq!(held[0].read(&mut end).await.unwrap_or_default(), 0, "the oldest was closed");
        closing.cancel();
        server.await.unwrap();
    }
}
