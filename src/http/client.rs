//! The only HTTP client: what every outgoing call has in common, and what a broken one proves.
//!
//! A call ends in one of three ways, and the line between the last two is where money is won or
//! lost:
//!
//! ```text
//! Answered   a whole answer was read; the adapter says what it means
//! NotSent    proof that no byte of the request left: DNS, connect, TLS handshake
//! Lost       anything else: the provider may have acted
//! ```
//!
//! The proof rests on hyper-util: it marks an error as "connect" only while its connector runs
//! (resolve, TCP, TLS), and hands the request to the connection after that. A request that found a
//! pooled connection closed is sent on another one only while hyper still holds it whole.
//!
//! No redirects (a 307 would carry the password to another host), no proxy from the environment, no
//! retry, no decompression.

use std::error::Error as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::{Certificate, Client, ClientBuilder, Response, Url};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, debug_span};

use crate::domain::outcome::{DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError, provider_text};
use crate::telemetry::metrics::{AccountMeter, RequestEnd};

/// The longest answer to a refund or to a small read, in bytes.
pub const REFUND_REPLY_BYTES: usize = 64 * 1024;
/// The longest answer to a validation status read, in bytes.
pub const STATUS_REPLY_BYTES: usize = 1024 * 1024;

/// How one call ended.
#[derive(Debug)]
pub enum HttpOutcome {
    /// A whole answer was read.
    Answered(HttpResponse),
    /// Proof that no byte of the request left.
    NotSent {
        /// Why, in a short sentence without secrets.
        why: String,
    },
    /// The request may have arrived, and no usable answer came.
    Lost {
        /// In which way.
        reason: DoubtReason,
        /// What was seen, in a short sentence without secrets.
        evidence: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// HTTP status.
    pub status: u16,
    /// As received.
    pub headers: HeaderMap,
    /// As received, within the bound.
    pub body: Bytes,
}

/// One call to be made. Holds credentials: not to be shown.
#[derive(Clone)]
pub struct HttpRequest {
    /// GET or POST.
    pub method: Method,
    /// From the host's root: `/core/v1/refund`.
    pub path: String,
    /// All of them besides `Host`, `Accept`, `User-Agent` and `Content-Length`.
    pub headers: HeaderMap,
    /// The exact bytes.
    pub body: Bytes,
}

/// What a client is made from.
pub struct HttpSettings<'a> {
    /// Scheme, host and port.
    pub endpoint: &'a Url,
    /// The only certificate authorities to be trusted, in place of the system's.
    pub ca_file: Option<&'a PathBuf>,
    /// Until the connection stands, TLS included.
    pub connect_timeout: Duration,
    /// Until the answer is read whole.
    pub total_timeout: Duration,
    /// Allow pooled connections for requests that move money.
    pub reuse_connections: bool,
}

/// What one account sends, and to which endpoint.
pub struct HttpClient {
    endpoint: Url,
    wire: Arc<dyn Transport>,
    meter: AccountMeter,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// It may move money: sent once, and by default on a connection of its own.
    Refund,
    /// It moves nothing, so a pooled connection may carry it.
    Read,
}

/// What carries one call to its provider and brings the answer back: sockets, or a simulation of
/// them.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `call` to `url` once and reads the answer whole. One that is longer than `longest`
    /// bytes is unreadable.
    async fn exchange(&self, url: Url, call: HttpRequest, kind: RequestKind, longest: usize) -> HttpOutcome;
}

/// The real wire: two clients, one for requests that move money, one for reads.
///
/// They share no pool. A pooled connection may have been closed by the peer a moment ago, which a
/// POST finds out only by failing: doubt for nothing.
struct ReqwestTransport {
    moving: Client,
    reading: Client,
}

/// Why an account cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not one that credentials may be sent to.
    #[error("endpoint {endpoint} {fault}")]
    Endpoint {
        /// Scheme and host only.
        endpoint: String,
        /// To be read after it.
        fault: &'static str,
    },
    /// The total timeout would run out first, and nothing could prove that no byte had left.
    #[error("connect_timeout must be above zero and shorter than total_timeout")]
    Timeouts,
    /// The file with certificate authorities cannot be read.
    #[error("cannot read the certificate authorities in {}: {fault}", path.display())]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// A setting that does not fit where it travels.
    #[error("{setting} {fault}")]
    Setting {
        /// Its name in [`super::AccountSettings`].
        setting: &'static str,
        /// To be read after it.
        fault: &'static str,
    },
    /// The client library refuses.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

impl HttpClient {
    /// Checks the endpoint, reads the certificate authorities. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub fn new(settings: &HttpSettings<'_>) -> Result<Self, ConnectError> {
        let endpoint = parse_endpoint(settings.endpoint)?;
        if settings.connect_timeout.is_zero() || settings.connect_timeout >= settings.total_timeout {
            return Err(ConnectError::Timeouts);
        }
        let trusted = trusted_authorities(&endpoint, settings.ca_file)?;
        let build = |builder: ClientBuilder| builder.build().map_err(|error| ConnectError::Client(chain_of(error)));
        let base = || {
            let base = base_client(settings);
            match &trusted {
                Some(authorities) => base.tls_certs_only(authorities.iter().cloned()),
                None => base,
            }
        };
        let moving = if settings.reuse_connections { base() } else { base().pool_max_idle_per_host(0) };
        let wire = Arc::new(ReqwestTransport { moving: build(moving)?, reading: build(base())? });
        Ok(Self { endpoint, wire, meter: AccountMeter::off() })
    }

    /// A client whose calls another wire carries.
    ///
    /// # Errors
    /// [`ConnectError::Endpoint`]
    pub fn over(wire: Arc<dyn Transport>, endpoint: &Url) -> Result<Self, ConnectError> {
        Ok(Self { endpoint: parse_endpoint(endpoint)?, wire, meter: AccountMeter::off() })
    }

    /// The same, and every call is measured.
    #[must_use]
    pub fn measured(self, meter: AccountMeter) -> Self {
        Self { meter, ..self }
    }

    /// Sends a request that moves money: once, and by default on a connection of its own.
    pub async fn send_once(&self, call: HttpRequest) -> HttpOutcome {
        self.exchange(self.url_of(&call), call, RequestKind::Refund, REFUND_REPLY_BYTES).await
    }

    /// Sends a request that moves nothing, on a pooled connection; an answer longer than `longest`
    /// bytes is unreadable.
    pub async fn read(&self, call: HttpRequest, longest: usize) -> HttpOutcome {
        self.exchange(self.url_of(&call), call, RequestKind::Read, longest).await
    }

    /// As [`HttpClient::read`], with a query. A query may be logged on its way: it never holds a
    /// credential.
    pub async fn read_with_query(&self, call: HttpRequest, query: &'static str, longest: usize) -> HttpOutcome {
        let mut url = self.url_of(&call);
        url.set_query(Some(query));
        self.exchange(url, call, RequestKind::Read, longest).await
    }

    /// Scheme, host and port of the provider.
    pub fn origin(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }

    /// The span and the measurement of one call. Neither adds anything to what is sent, and neither
    /// holds a path: it may name an order.
    async fn exchange(&self, url: Url, call: HttpRequest, kind: RequestKind, longest: usize) -> HttpOutcome {
        let method = call.method.clone();
        let span = debug_span!(
            "http",
            otel.kind = "client",
            otel.name = %method,
            http.request.method = %method,
            server.address = url.host_str(),
            server.port = url.port_or_known_default().map(i64::from),
            http.response.status_code = Empty,
            "error.type" = Empty,
            otel.status_code = Empty
        );
        let start = Instant::now();
        let exchange = self.wire.exchange(url, call, kind, longest).instrument(span.clone()).await;
        let end = exchange.end();
        if let RequestEnd::Answered(status) = end {
            span.record("http.response.status_code", i64::from(status));
        }
        if let Some(kind) = end.error_type() {
            span.record("error.type", kind.as_ref()).record("otel.status_code", "ERROR");
        }
        self.meter.record_http(method.as_str(), kind.as_str(), end, start.elapsed());
        exchange
    }

    fn url_of(&self, call: &HttpRequest) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&call.path);
        url
    }
}

impl RequestKind {
    /// The word used in the metrics.
    const fn as_str(self) -> &'static str {
        match self {
            RequestKind::Refund => "refund",
            RequestKind::Read => "read",
        }
    }
}

#[async_trait]
impl Transport for ReqwestTransport {
    async fn exchange(&self, url: Url, call: HttpRequest, kind: RequestKind, longest: usize) -> HttpOutcome {
        let client = match kind {
            RequestKind::Refund => &self.moving,
            RequestKind::Read => &self.reading,
        };
        let sent = client.request(call.method, url).headers(call.headers).body(call.body).send().await;
        match sent {
            Ok(response) => whole_answer(response, longest).await,
            Err(error) if error.is_connect() => {
                HttpOutcome::NotSent { why: format!("no connection: {}", chain_of(error)) }
            }
            Err(error) => lost("no answer", error),
        }
    }
}

impl HttpOutcome {
    /// What the call means for a refund: what the adapter reads in the answer, or what the answer's
    /// absence means.
    pub fn into_outcome(self, read: impl FnOnce(&HttpResponse) -> Outcome) -> Outcome {
        match self {
            HttpOutcome::Answered(answer) => read(&answer),
            HttpOutcome::NotSent { why } => not_sent(&why),
            HttpOutcome::Lost { reason, evidence } => Outcome::Unknown { reason, evidence },
        }
    }

    fn end(&self) -> RequestEnd {
        match self {
            HttpOutcome::Answered(answer) => RequestEnd::Answered(answer.status),
            HttpOutcome::NotSent { .. } => RequestEnd::Failed("not_sent"),
            HttpOutcome::Lost { reason, .. } => RequestEnd::Failed(reason.as_str()),
        }
    }

    /// What a look showed: what the adapter reads in the answer, or why nothing was learnt.
    pub fn into_lookup(self, read: impl FnOnce(&HttpResponse) -> Lookup) -> Lookup {
        match self {
            HttpOutcome::Answered(answer) => read(&answer),
            HttpOutcome::NotSent { why: evidence } | HttpOutcome::Lost { evidence, .. } => {
                Lookup::unavailable(evidence)
            }
        }
    }
}

/// The outcome of a request of which no byte left.
pub(crate) fn not_sent(why: &str) -> Outcome {
    Outcome::NotSent {
        error: ProviderError {
            code: String::new(),
            message: provider_text(why),
            http_status: 0,
            category: ErrorCategory::Other,
        },
        retry_at: None,
    }
}

async fn whole_answer(mut response: Response, longest: usize) -> HttpOutcome {
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    // Counted as it comes: a Content-Length is only what the peer says.
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return HttpOutcome::Answered(HttpResponse { status, headers, body: body.freeze() }),
            Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > longest => {
                return HttpOutcome::Lost {
                    reason: DoubtReason::UnreadableReply,
                    evidence: format!("HTTP {status} with a body longer than {longest} bytes"),
                };
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return lost(&format!("HTTP {status}, and the body never came whole"), error),
        }
    }
}

fn lost(seen: &str, error: reqwest::Error) -> HttpOutcome {
    let reason = if error.is_timeout() { DoubtReason::Timeout } else { DoubtReason::ConnectionLost };
    HttpOutcome::Lost { reason, evidence: provider_text(&format!("{seen}: {}", chain_of(error))) }
}

/// The error and its causes in one line, each said once. Without the URL, which says nothing that
/// the account does not.
fn chain_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Some causes end in the address of a manual, which helps nobody who reads of a refund.
        let words = inner.to_string();
        let words = words.split(": https://").next().unwrap_or_default().to_owned();
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
        cause = inner.source();
    }
    provider_text(&said.join(": "))
}

fn base_client(settings: &HttpSettings<'_>) -> ClientBuilder {
    // `main` installs the provider first thing; a test that builds a client alone has no `main`.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = Client::builder()
        .user_agent(concat!("recoup/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.total_timeout)
        // Most servers close an idle connection after 15 s or more; one that is closed at that
        // moment fails a read for nothing.
        .pool_idle_timeout(Duration::from_secs(10));
    if settings.endpoint.scheme() == "http" {
        // What the word resolves to is not ours to know; the password goes nowhere but to this
        // machine.
        let loopback = [([127, 0, 0, 1], 0).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 0).into()];
        return builder.resolve_to_addrs("localhost", &loopback);
    }
    builder.https_only(true)
}

fn parse_endpoint(endpoint: &Url) -> Result<Url, ConnectError> {
    let fault = |fault| ConnectError::Endpoint { endpoint: endpoint.origin().ascii_serialization(), fault };
    match endpoint.scheme() {
        "https" => {}
        "http" if is_loopback(endpoint) => {}
        "http" => return Err(fault("must be https: plain http is for loopback alone")),
        _ => return Err(fault("must be an https URL")),
    }
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(fault("must hold no user and no password"));
    }
    if !matches!(endpoint.path(), "" | "/") || endpoint.query().is_some() || endpoint.fragment().is_some() {
        return Err(fault("must hold no path, no query and no fragment"));
    }
    Ok(endpoint.clone())
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// None where the system's own are to be trusted.
fn trusted_authorities(endpoint: &Url, file: Option<&PathBuf>) -> Result<Option<Vec<Certificate>>, ConnectError> {
    let Some(path) = file else {
        // Plain http needs none, and a machine without any must still be able to use it.
        return Ok((endpoint.scheme() == "http").then(Vec::new));
    };
    let fault = |fault: String| ConnectError::CaFile { path: path.clone(), fault };
    let pem = fs::read(path).map_err(|error| fault(error.to_string()))?;
    authorities_in(&pem).map(Some).map_err(fault)
}

/// The certificates in a PEM text: at least one.
///
/// # Errors
/// In which way it is none, in words.
pub(crate) fn authorities_in(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let authorities = Certificate::from_pem_bundle(pem).map_err(chain_of)?;
    if authorities.is_empty() { Err("it holds no PEM certificate".to_owned()) } else { Ok(authorities) }
}

#[cfg(test)]
mod tests;
