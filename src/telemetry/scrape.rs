//! The HTTP endpoint that Prometheus reads: only `GET /metrics`, with or without TLS.
//!
//! It has a port of its own, so that load on one port does not affect the other, and its
//! connections, header times and connection times are bounded.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::telemetry::metrics::{GaugeSnapshot, Metrics};
use crate::tls::ServerTls;

/// Supplies the present values of the gauges.
#[async_trait]
pub trait GaugeSource: Send + Sync + 'static {
    /// Reads all gauges.
    async fn snapshot(&self) -> GaugeSnapshot;
}

/// Further connections wait to be accepted.
const MAX_CONNECTIONS: usize = 16;
/// Time for a client to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Lifetime of a connection. A scraper that keeps its connection opens a new one afterwards.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
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
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let serve = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (metrics, gauges, closing) = (metrics.clone(), gauges.clone(), closing.clone());
                    let acceptor = tls.as_ref().map(ServerTls::acceptor);
                    tokio::spawn(async move {
                        tokio::select! {
                            () = closing.cancelled() => {}
                            () = open_connection(stream, acceptor, metrics, gauges, permit) => {}
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

async fn open_connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    metrics: Metrics,
    gauges: Arc<dyn GaugeSource>,
    permit: OwnedSemaphorePermit,
) {
    match acceptor {
        None => serve_connection(stream, metrics, gauges, permit).await,
        // Errors of a connection concern only its client.
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await {
                serve_connection(stream, metrics, gauges, permit).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    metrics: Metrics,
    gauges: Arc<dyn GaugeSource>,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (metrics, gauges) = (metrics.clone(), gauges.clone());
        async move { Ok::<_, Infallible>(reply(&request, &metrics, &*gauges).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // Errors of a connection concern only its client.
    drop(tokio::time::timeout(MAX_CONNECTION_AGE, connection).await);
}

async fn reply<B>(request: &Request<B>, metrics: &Metrics, gauges: &dyn GaugeSource) -> Response<String> {
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
    match metrics.render(gauges.snapshot().await) {
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    struct EmptySource;

    #[async_trait]
    impl GaugeSource for EmptySource {
        async fn snapshot(&self) -> GaugeSnapshot {
            GaugeSnapshot::default()
        }
    }

    #[rstest]
    #[case(Method::GET, "/metrics", StatusCode::OK)]
    #[case(Method::GET, "/metrics?x=1", StatusCode::OK)]
    #[case(Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED)]
    #[case(Method::GET, "/", StatusCode::NOT_FOUND)]
    #[tokio::test]
    async fn only_get_metrics_is_answered(#[case] method: Method, #[case] path: &str, #[case] status: StatusCode) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = reply(&request, &Metrics::on().unwrap(), &EmptySource).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.body().contains("recoup_ledger_writing 0"), status == StatusCode::OK);
    }
}
