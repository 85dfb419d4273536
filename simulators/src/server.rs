//! The providers' ports: connections, requests on them, and nothing about what they mean.
//!
//! HTTP/1.1 on a loop of its own for each port, so that connections and the requests on them have numbers that the journal can tell, and so
//! that a fault can close a connection. Every part has a bound: connections, the handshake, the head, the body and the time it may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    course::{Client, Course, Verdict, wants_close},
    exchange::{Answer, Provider, Request},
    journal::Arrival,
    worlds::Worlds,
};

/// How many connections one port holds; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 10_000;
/// The largest body of a request.
const LARGEST_BODY: usize = 1024 * 1024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a head may take, and a connection may stay idle.
const HEAD: Duration = Duration::from_secs(75);
/// How long a body may take.
const BODY: Duration = Duration::from_secs(30);
/// How long a connection may take to finish its last answer when the simulators stop.
const LAST_ANSWER: Duration = Duration::from_millis(500);
/// Before the next try where the system has no more descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// One provider's port.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) provider: Provider,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) worlds: Worlds,
    /// Counts connections over all ports.
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// What ends a connection without an answer.
#[derive(Debug, Error)]
#[error("closed without an answer, by a rule or because the simulators stop")]
struct ClosedOnPurpose;

impl Port {
    /// Serves until told to stop; then gives every connection a moment.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            };
            tokio::select! {
                (slot, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let port = self.clone();
                        connections.spawn(async move {
                            port.connection(stream).await;
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = told(&mut stopping) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(self, stream: TcpStream) {
        let id = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // Without this a small answer could wait for the client's acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(connection = id, %error, "cannot switch off Nagle's algorithm");
        }
        let Some(acceptor) = self.tls.clone() else { return self.requests(id, stream).await };
        let mut stopping = self.stopping.clone();
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE, acceptor.accept(stream)) => handshake,
            () = told(&mut stopping) => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.requests(id, stream).await,
            Ok(Err(error)) => tracing::debug!(connection = id, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(connection = id, "the TLS handshake took too long"),
        }
    }

    async fn requests(self, id: u64, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let ordinals = AtomicU64::new(0);
        let mut stopping = self.stopping.clone();
        let service = service_fn(|request: http::Request<Incoming>| {
            let arrival = Arrival { connection: id, ordinal: ordinals.fetch_add(1, Ordering::Relaxed) + 1 };
            self.answer(arrival, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                match timeout(LAST_ANSWER, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(connection = id, %error, "the connection ended early");
        }
    }

    async fn answer(
        &self,
        arrival: Arrival,
        request: http::Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, ClosedOnPurpose> {
        let (head, body) = request.into_parts();
        let closes = wants_close(head.version, &head.headers);
        let request = Request {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            body: Bytes::new(),
            tls: self.tls.is_some(),
        };
        let request = match read(body).await {
            Ok(body) => Request { body, ..request },
            Err(unread) => return Ok(refused(unread)),
        };
        let client = Client::new(closes);
        let leaving = Leaving(client.clone());
        let stopping = self.stopping.clone();
        let course = Course::enter(&self.worlds, self.provider, arrival, request, client, stopping);
        let verdict = tokio::spawn(course.run()).await;
        drop(leaving);
        match verdict {
            Ok(Verdict::Answer(answer)) => Ok(response(answer)),
            Ok(Verdict::Close) => Err(ClosedOnPurpose),
            Err(error) => {
                tracing::error!(provider = ?self.provider, %error, "a fault of the simulators themselves");
                let body = Bytes::from_static(b"a fault of the simulators themselves");
                Ok(response(Answer { status: StatusCode::INTERNAL_SERVER_ERROR, headers: HeaderMap::new(), body }))
            }
        }
    }
}

/// Waits until the simulators are told to stop; a sender that is gone says the same.
pub(crate) async fn told(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Says that the client has gone when the connection, and with it the wait for the answer, is dropped.
struct Leaving(Client);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    TooSlow,
    Broken,
}

async fn read(body: Incoming) -> Result<Bytes, Unread> {
    // A length that is too large by its own account need not be waited for.
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(Unread::TooLarge);
    }
    match timeout(BODY, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Ok(Err(_)) => Err(Unread::Broken),
        Err(_) => Err(Unread::TooSlow),
    }
}

/// Such a request reaches no provider and no journal: nothing was read of it that could be told.
fn refused(unread: Unread) -> Response<Full<Bytes>> {
    let (status, text) = match unread {
        Unread::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Unread::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        Unread::Broken => (StatusCode::BAD_REQUEST, "the body broke off"),
    };
    let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("close"))]);
    response(Answer { status, headers, body: Bytes::from_static(text.as_bytes()) })
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
