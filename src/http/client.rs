//! The only client for outgoing HTTP requests. It classifies how a request ended.
//!
//! A request ends in one of three ways. The line between the last two decides whether money can be
//! lost or sent twice:
//!
//! ```text
//! Answered   a complete response was read; the adapter interprets it
//! NotSent    proof that no byte of the request left: DNS, connect or TLS handshake failed
//! Unknown    anything else: the provider may have acted
//! ```
//!
//! The proof rests on hyper-util: it marks an error as "connect" only while its connector runs
//! (resolve, TCP, TLS), and hands the request to the connection after that. A request that meets a
//! closed pooled connection is sent on another one only while hyper still holds all of it.
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

use crate::domain::outcome::{DoubtReason, sanitize_provider_text};
use crate::telemetry::metrics::{AccountMeter, RequestEnd};

/// Upper bound of the body of a refund response or of a small read, in bytes.
pub const MAX_REFUND_REPLY_BYTES: usize = 64 * 1024;
/// Upper bound of the body of a large read, such as a validation status or an order, in bytes.
pub const MAX_STATUS_REPLY_BYTES: usize = 1024 * 1024;

/// How one request ended.
#[derive(Debug)]
pub enum HttpOutcome {
    /// A complete response was read.
    Answered(HttpResponse),
    /// Proof that no byte of the request left.
    NotSent {
        /// Why, in a short sentence without secrets.
        evidence: String,
    },
    /// The request may have arrived, and no usable response came back.
    Unknown {
        /// What kind of doubt this is.
        reason: DoubtReason,
        /// What happened, in a short sentence without secrets.
        evidence: String,
    },
}

/// A complete response, as received.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body, at most as long as the caller allowed.
    pub body: Bytes,
}

/// One request to send. Contains credentials, so it has no `Debug`.
#[derive(Clone)]
pub struct HttpRequest {
    /// GET or POST.
    pub method: Method,
    /// Absolute path, without a query: `/core/v1/refund`.
    pub path: String,
    /// All headers except `Host`, `Accept`, `User-Agent` and `Content-Length`.
    pub headers: HeaderMap,
    /// The exact bytes of the body.
    pub body: Bytes,
}

/// Settings of one client.
pub struct HttpSettings<'a> {
    /// Scheme, host and port.
    pub endpoint: &'a Url,
    /// PEM file with the only certificate authorities to trust, instead of the system's.
    pub ca_file: Option<&'a PathBuf>,
    /// Limit for DNS, TCP and TLS together. Must be shorter than `total_timeout`.
    pub connect_timeout: Duration,
    /// Limit until the whole response is read.
    pub total_timeout: Duration,
    /// Allow pooled connections for requests that move money.
    pub reuse_connections: bool,
}

/// Sends the requests of one account to its endpoint, and measures them.
pub struct HttpClient {
    endpoint: Url,
    transport: Arc<dyn Transport>,
    metrics: AccountMeter,
}

/// Whether a request may move money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// May move money: sent once, and by default on a fresh connection.
    Refund,
    /// Moves nothing, so it may use a pooled connection.
    Read,
}

/// Carries one request to the server and brings the response back. The simulation plugs in here.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `url` once and reads the whole response. A body longer than `max_bytes`
    /// makes the outcome unknown.
    async fn exchange(&self, url: Url, request: HttpRequest, kind: RequestKind, max_bytes: usize) -> HttpOutcome;
}

/// Sends over real sockets, with one client for requests that move money and one for reads.
///
/// They share no pool. A server may have closed a pooled connection a moment ago, which a POST
/// notices only by failing: that would be doubt for nothing.
struct ReqwestTransport {
    refund_client: Client,
    read_client: Client,
}

/// Why a client cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// Credentials must not be sent to this endpoint.
    #[error("endpoint {endpoint} {problem}")]
    Endpoint {
        /// Scheme and host only.
        endpoint: String,
        /// Completes a sentence that begins with the endpoint.
        problem: &'static str,
    },
    /// With a longer connect timeout the total timeout would end a connection attempt, and nothing
    /// would prove that no byte had left.
    #[error("connect_timeout must be above zero and shorter than total_timeout")]
    Timeouts,
    /// The file with certificate authorities cannot be read.
    #[error("cannot read the certificate authorities in {}: {problem}", path.display())]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP library cannot build a client.
    #[error("cannot create the HTTP client: {0}")]
    Client(String),
}

impl HttpClient {
    /// Checks the endpoint and reads the certificate authorities. Opens no connection.
    ///
    /// # Errors
    /// [`HttpClientError`]
    pub fn new(settings: &HttpSettings<'_>) -> Result<Self, HttpClientError> {
        let endpoint = parse_endpoint(settings.endpoint)?;
        if settings.connect_timeout.is_zero() || settings.connect_timeout >= settings.total_timeout {
            return Err(HttpClientError::Timeouts);
        }
        let trusted = trusted_authorities(&endpoint, settings.ca_file)?;
        let build =
            |builder: ClientBuilder| builder.build().map_err(|error| HttpClientError::Client(describe_error(error)));
        let base = || {
            let base = base_client(settings);
            match &trusted {
                Some(authorities) => base.tls_certs_only(authorities.iter().cloned()),
                None => base,
            }
        };
        let refund_client = if settings.reuse_connections { base() } else { base().pool_max_idle_per_host(0) };
        let transport =
            Arc::new(ReqwestTransport { refund_client: build(refund_client)?, read_client: build(base())? });
        Ok(Self { endpoint, transport, metrics: AccountMeter::off() })
    }

    /// A client that sends over another transport.
    ///
    /// # Errors
    /// [`HttpClientError::Endpoint`]
    pub fn with_transport(transport: Arc<dyn Transport>, endpoint: &Url) -> Result<Self, HttpClientError> {
        Ok(Self { endpoint: parse_endpoint(endpoint)?, transport, metrics: AccountMeter::off() })
    }

    /// The same client, with every request measured by `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: AccountMeter) -> Self {
        Self { metrics, ..self }
    }

    /// Sends a request that may move money: once, and by default on a fresh connection.
    pub async fn send_once(&self, request: HttpRequest) -> HttpOutcome {
        self.exchange(self.url_of(&request), request, RequestKind::Refund, MAX_REFUND_REPLY_BYTES).await
    }

    /// Sends a request that moves nothing. A body longer than `max_bytes` makes the outcome
    /// unknown.
    pub async fn read(&self, request: HttpRequest, max_bytes: usize) -> HttpOutcome {
        self.exchange(self.url_of(&request), request, RequestKind::Read, max_bytes).await
    }

    /// As [`HttpClient::read`], with a query. Proxies may log a query, so it never holds a
    /// credential.
    pub async fn read_with_query(&self, request: HttpRequest, query: &'static str, max_bytes: usize) -> HttpOutcome {
        let mut url = self.url_of(&request);
        url.set_query(Some(query));
        self.exchange(url, request, RequestKind::Read, max_bytes).await
    }

    /// Scheme, host and port of the endpoint.
    pub fn origin(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }

    /// Wraps one request in a span and measures it. Neither adds anything to what is sent, and
    /// neither contains the path, which may name an order.
    async fn exchange(&self, url: Url, request: HttpRequest, kind: RequestKind, max_bytes: usize) -> HttpOutcome {
        let method = request.method.clone();
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
        let outcome = self.transport.exchange(url, request, kind, max_bytes).instrument(span.clone()).await;
        let end = outcome.request_end();
        if let RequestEnd::Answered(status) = end {
            span.record("http.response.status_code", i64::from(status));
        }
        if let Some(kind) = end.error_type() {
            span.record("error.type", kind.as_ref()).record("otel.status_code", "ERROR");
        }
        self.metrics.record_http(method.as_str(), kind.as_str(), end, start.elapsed());
        outcome
    }

    fn url_of(&self, request: &HttpRequest) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&request.path);
        url
    }
}

impl RequestKind {
    /// The value of the metrics' label `kind`.
    const fn as_str(self) -> &'static str {
        match self {
            RequestKind::Refund => "refund",
            RequestKind::Read => "read",
        }
    }
}

#[async_trait]
impl Transport for ReqwestTransport {
    async fn exchange(&self, url: Url, request: HttpRequest, kind: RequestKind, max_bytes: usize) -> HttpOutcome {
        let client = match kind {
            RequestKind::Refund => &self.refund_client,
            RequestKind::Read => &self.read_client,
        };
        let sent = client.request(request.method, url).headers(request.headers).body(request.body).send().await;
        match sent {
            Ok(response) => read_response(response, max_bytes).await,
            Err(error) if error.is_connect() => {
                HttpOutcome::NotSent { evidence: format!("no connection: {}", describe_error(error)) }
            }
            Err(error) => unknown("no answer", error),
        }
    }
}

impl HttpOutcome {
    fn request_end(&self) -> RequestEnd {
        match self {
            HttpOutcome::Answered(answer) => RequestEnd::Answered(answer.status),
            HttpOutcome::NotSent { .. } => RequestEnd::Failed("not_sent"),
            HttpOutcome::Unknown { reason, .. } => RequestEnd::Failed(reason.as_str()),
        }
    }
}

async fn read_response(mut response: Response, max_bytes: usize) -> HttpOutcome {
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    // Counts the bytes received: Content-Length is only the server's claim.
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return HttpOutcome::Answered(HttpResponse { status, headers, body: body.freeze() }),
            Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > max_bytes => {
                return HttpOutcome::Unknown {
                    reason: DoubtReason::UnreadableReply,
                    evidence: format!("HTTP {status} with a body longer than {max_bytes} bytes"),
                };
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return unknown(&format!("HTTP {status} with an incomplete body"), error),
        }
    }
}

fn unknown(what: &str, error: reqwest::Error) -> HttpOutcome {
    let reason = if error.is_timeout() { DoubtReason::Timeout } else { DoubtReason::ConnectionLost };
    HttpOutcome::Unknown { reason, evidence: sanitize_provider_text(&format!("{what}: {}", describe_error(error))) }
}

/// The error and its causes in one line, without repetitions and without the URL, which adds
/// nothing to the account's name.
fn describe_error(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut messages = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Some causes end in the address of a manual for developers.
        let message = inner.to_string();
        let message = message.split(": https://").next().unwrap_or_default().to_owned();
        if !messages.iter().any(|before| before.contains(&message)) {
            messages.push(message);
        }
        cause = inner.source();
    }
    sanitize_provider_text(&messages.join(": "))
}

fn base_client(settings: &HttpSettings<'_>) -> ClientBuilder {
    // rustls needs a process-wide crypto provider. Nothing else installs one.
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
        // Most servers close an idle connection after 15 s or more. Reusing a connection just as
        // the server closes it would fail a read for nothing.
        .pool_idle_timeout(Duration::from_secs(10));
    if settings.endpoint.scheme() == "http" {
        // The resolver could map "localhost" to another machine. Pinning it to the loopback
        // addresses keeps the password on this one.
        let loopback = [([127, 0, 0, 1], 0).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 0).into()];
        return builder.resolve_to_addrs("localhost", &loopback);
    }
    builder.https_only(true)
}

fn parse_endpoint(endpoint: &Url) -> Result<Url, HttpClientError> {
    let invalid = |problem| HttpClientError::Endpoint { endpoint: endpoint.origin().ascii_serialization(), problem };
    match endpoint.scheme() {
        "https" => {}
        "http" if is_loopback(endpoint) => {}
        "http" => return Err(invalid("must be https: plain http is allowed to loopback only")),
        _ => return Err(invalid("must be an https URL")),
    }
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(invalid("must contain no user and no password"));
    }
    if !matches!(endpoint.path(), "" | "/") || endpoint.query().is_some() || endpoint.fragment().is_some() {
        return Err(invalid("must contain no path, no query and no fragment"));
    }
    Ok(endpoint.clone())
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Reads the configured CA file. None: trust the system's authorities.
fn trusted_authorities(endpoint: &Url, file: Option<&PathBuf>) -> Result<Option<Vec<Certificate>>, HttpClientError> {
    let Some(path) = file else {
        // Plain http needs no authorities, and must work on a machine that has none.
        return Ok((endpoint.scheme() == "http").then(Vec::new));
    };
    let invalid = |problem: String| HttpClientError::CaFile { path: path.clone(), problem };
    let pem = fs::read(path).map_err(|error| invalid(error.to_string()))?;
    authorities_in(&pem).map(Some).map_err(invalid)
}

/// Parses the certificates of a PEM bundle; at least one is required.
///
/// # Errors
/// What is wrong with the bundle, as half a sentence for a person.
pub(crate) fn authorities_in(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let authorities = Certificate::from_pem_bundle(pem).map_err(describe_error)?;
    if authorities.is_empty() { Err("it contains no PEM certificate".to_owned()) } else { Ok(authorities) }
}

#[cfg(test)]
mod tests;
