//! The port that Prometheus reads: `GET /metrics`, on loopback, and nothing else.
//!
//! It stands apart from the gRPC port, so that neither can keep the other busy, and everything
//! about it is bounded.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::telemetry::metrics::{Metrics, Standing};

/// Whoever knows how things stand.
#[async_trait]
pub trait Standings: Send + Sync + 'static {
    /// How things stand now.
    async fn standing(&self) -> Standing;
}

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// A client has this long to say what it wants.
const HEADERS: Duration = Duration::from_secs(5);
/// However long it goes on: a scraper that keeps its connection makes a new one now and then.
const CONNECTION: Duration = Duration::from_secs(300);
/// Between two attempts to accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The text format that every Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers until `closing`.
pub async fn serve(listener: TcpListener, metrics: Metrics, standings: Arc<dyn Standings>, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let serve = async {
        loop {
            // Never closed, so it can only be waited for.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (metrics, standings, closing) = (metrics.clone(), standings.clone(), closing.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = closing.cancelled() => {}
                            () = answer(stream, metrics, standings, place) => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection to the metrics port could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = serve => {}
    }
}

async fn answer(stream: TcpStream, metrics: Metrics, standings: Arc<dyn Standings>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (metrics, standings) = (metrics.clone(), standings.clone());
        async move { Ok::<_, Infallible>(reply(&request, &metrics, &*standings).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A scraper that goes away in the middle is nobody's trouble but its own.
    drop(tokio::time::timeout(CONNECTION, connection).await);
}

async fn reply<B>(request: &Request<B>, metrics: &Metrics, standings: &dyn Standings) -> Response<String> {
    let said = |status: StatusCode, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return said(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "the metrics can be read, with GET\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET"));
        return response;
    }
    match metrics.scraped(standings.standing().await) {
        Ok(text) => {
            let mut response = Response::new(text);
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(TEXT));
            response
        }
        Err(problem) => {
            warn!(%problem, "a scrape could not be answered");
            said(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; the log says why\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    struct Nothing;

    #[async_trait]
    impl Standings for Nothing {
        async fn standing(&self) -> Standing {
            Standing::default()
        }
    }

    #[rstest]
    #[case(Method::GET, "/metrics", StatusCode::OK)]
    #[case(Method::GET, "/metrics?x=1", StatusCode::OK)]
    #[case(Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED)]
    #[case(Method::GET, "/", StatusCode::NOT_FOUND)]
    #[tokio::test]
    async fn one_thing_can_be_read(#[case] method: Method, #[case] path: &str, #[case] status: StatusCode) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = reply(&request, &Metrics::on().unwrap(), &Nothing).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.body().contains("recoup_ledger_writing 0"), status == StatusCode::OK);
    }
}
