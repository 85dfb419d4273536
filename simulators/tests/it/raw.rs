//! A client on a bare socket, which sees what a connection really does.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use simulators::{Provider, Simulators, WorldHandle};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Account, TIMEOUT};

/// After this time without a byte a connection on which nothing may come counts as silent. Where a
/// test expects something, it waits [`TIMEOUT`].
const SILENCE: Duration = Duration::from_millis(500);
/// The same after a whole answer, where most tests wait.
const SILENCE_AFTER_ANSWER: Duration = Duration::from_millis(60);

/// A connection.
pub(crate) struct Raw(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

/// The state of a connection after an answer was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer is complete, and the connection is open.
    Whole,
    /// FIN, on TLS after a `close_notify`.
    Closed,
    /// FIN on TLS without a `close_notify`.
    ClosedWithoutNotify,
    /// RST.
    Reset,
    /// Nothing listens on the port.
    Refused,
    /// Nothing more arrived.
    Silent,
}

/// One answer, as far as it arrived.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The number of reads.
    pub(crate) pieces: usize,
    pub(crate) end: End,
}

impl RawAnswer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.head.split(' ').nth(1)?.parse().ok()
    }

    /// The `content-length`.
    pub(crate) fn declared_length(&self) -> Option<usize> {
        let lower = self.head.to_ascii_lowercase();
        lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
    }
}

impl Raw {
    /// Connects to a provider of the demo world; an error is how the handshake failed.
    pub(crate) async fn connect(simulators: &Simulators, provider: Provider) -> Result<Raw, End> {
        Raw::connect_in(simulators, &simulators.demo(), provider, End::Whole).await
    }

    /// Connects to a provider at the ports of a world. With [`End::Silent`] expected, it waits no
    /// longer than [`SILENCE`] for the handshake.
    pub(crate) async fn connect_in(
        simulators: &Simulators,
        world: &WorldHandle,
        provider: Provider,
        expected: End,
    ) -> Result<Raw, End> {
        let ports = world.ports();
        let address = match provider {
            Provider::Sectigo => ports.sectigo,
            Provider::Namecom => ports.namecom_plaintext,
            Provider::Debitsuccess => ports.debitsuccess,
        };
        let stream = match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(End::Refused),
            stream => stream.unwrap(),
        };
        stream.set_nodelay(true).unwrap();
        if provider == Provider::Namecom {
            return Ok(Raw(Box::new(stream)));
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(simulators.ca_pem().as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        match timeout(limit(expected), connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await {
            Ok(Ok(stream)) => Ok(Raw(Box::new(stream))),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Err(End::ClosedWithoutNotify),
            // rustls names the alert in the text of the error.
            Ok(Err(error)) if error.to_string().contains("HandshakeFailure") => Err(End::Closed),
            Ok(Err(error)) => panic!("{:?}: {error}", error.kind()),
            Err(_) => Err(End::Silent),
        }
    }

    pub(crate) async fn send(&mut self, request: &str) {
        // The error of a connection that was already reset appears when it is read.
        drop(self.0.write_all(request.as_bytes()).await);
        drop(self.0.flush().await);
    }

    /// Reads one answer, as far as it arrives.
    pub(crate) async fn read_answer(&mut self) -> RawAnswer {
        self.read_until(End::Whole).await
    }

    /// Reads one answer, as far as it arrives, where the test expects this end.
    pub(crate) async fn read_until(&mut self, expected: End) -> RawAnswer {
        let mut bytes = Vec::new();
        let mut pieces = 0;
        let mut buffer = [0; 4096];
        let end = loop {
            if let Some(end) = complete_length(&bytes) {
                // A complete answer is followed by nothing, or by the end of the connection.
                let limit = if expected == End::Whole { SILENCE_AFTER_ANSWER } else { limit(expected) };
                break timeout(limit, self.0.read(&mut buffer)).await.map_or(End::Whole, |read| match read {
                    Ok(0) => End::Closed,
                    Ok(read) => panic!("{read} bytes after an answer of {end} bytes"),
                    Err(error) => end_of(&error),
                });
            }
            match timeout(limit(expected), self.0.read(&mut buffer)).await {
                Ok(Ok(0)) => break End::Closed,
                Ok(Ok(read)) => {
                    pieces += 1;
                    bytes.extend_from_slice(buffer.get(..read).unwrap());
                }
                Ok(Err(error)) => break end_of(&error),
                Err(_) => break End::Silent,
            }
        };
        let head = head_length(&bytes).unwrap_or(bytes.len());
        let body = bytes.split_off(head);
        RawAnswer { head: String::from_utf8(bytes).unwrap(), body, pieces, end }
    }

    pub(crate) async fn call(&mut self, request: &str) -> RawAnswer {
        self.call_until(request, End::Whole).await
    }

    /// A call where the test expects this end.
    pub(crate) async fn call_until(&mut self, request: &str, expected: End) -> RawAnswer {
        self.send(request).await;
        self.read_until(expected).await
    }
}

/// How long to wait for the next byte, or the end, of a connection.
fn limit(expected: End) -> Duration {
    if expected == End::Silent { SILENCE } else { TIMEOUT }
}

fn end_of(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        ErrorKind::UnexpectedEof => End::ClosedWithoutNotify,
        kind => panic!("{kind:?}: {error}"),
    }
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
}

/// The length of the answer, if it is complete.
fn complete_length(bytes: &[u8]) -> Option<usize> {
    let head = head_length(bytes)?;
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_ascii_lowercase();
    let length: usize = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())?;
    (bytes.len() >= head + length).then_some(head + length)
}

/// The HTTP request for a refund of demo order or account `number`, 1 to 999.
pub(crate) fn refund(provider: Provider, number: u32) -> String {
    refund_by(&Account::demo(), provider, number)
}

/// The same, with the credentials of a world.
pub(crate) fn refund_by(account: &Account, provider: Provider, number: u32) -> String {
    match provider {
        Provider::Sectigo => post(
            "/products/!AutoRefund",
            "content-type: application/x-www-form-urlencoded",
            &format!("{}&orderNumber={}&refundReasonCode=11", login(account), 1_000_000 + number),
        ),
        Provider::Namecom => post(
            "/core/v1/refund",
            &format!("content-type: application/json\r\n{}\r\nx-idempotency-key: key-{number}", basic(account)),
            &format!("{{\"orderId\":{},\"orderItemIds\":[{}]}}", 200_000 + number, 3_200_000 + number),
        ),
        Provider::Debitsuccess => {
            soap(account, "InitiateRefund", number, "<d:Amount>12.34</d:Amount><d:Description>overpaid</d:Description>")
        }
    }
}

/// The HTTP request for the lookup of that refund.
pub(crate) fn lookup(provider: Provider, number: u32) -> String {
    lookup_by(&Account::demo(), provider, number)
}

/// The same, with the credentials of a world.
pub(crate) fn lookup_by(account: &Account, provider: Provider, number: u32) -> String {
    match provider {
        Provider::Sectigo => post(
            "/products/!getPostPaymentStatus",
            "content-type: application/x-www-form-urlencoded",
            &format!("{}&orderNumber={}", login(account), 1_000_000 + number),
        ),
        Provider::Namecom => {
            format!("GET /core/v1/orders/{} HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", 200_000 + number, basic(account))
        }
        Provider::Debitsuccess => soap(account, "GetRefundStatus", number, ""),
    }
}

/// Whether the lookup's answer shows the refund.
pub(crate) fn shows_refund(provider: Provider, body: &str) -> bool {
    match provider {
        Provider::Sectigo => body.contains("\"Refunded\""),
        Provider::Namecom => body.contains("\"refunded\""),
        Provider::Debitsuccess => body.contains("Submitted"),
    }
}

/// Whether the answer of a refund reports success.
pub(crate) fn says_done(provider: Provider, body: &str) -> bool {
    match provider {
        Provider::Sectigo => body == "0",
        Provider::Namecom => body.contains("\"refunded\""),
        Provider::Debitsuccess => body.contains("Succeed"),
    }
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn login(account: &Account) -> String {
    let (name, password) = &account.sectigo;
    format!("loginName={name}&loginPassword={password}")
}

fn basic(account: &Account) -> String {
    let (username, token) = &account.namecom;
    format!("authorization: Basic {}", BASE64_STANDARD.encode(format!("{username}:{token}")))
}

fn soap(account: &Account, operation: &str, number: u32, members: &str) -> String {
    let (username, password) = &account.debitsuccess;
    let body = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><{operation} xmlns=\"http://tempuri.org/\">\
         <request xmlns:d=\"http://schemas.datacontract.org/2004/07/DSWebService\"><d:User><d:Password>{password}</d:Password>\
         <d:Username>{username}</d:Username></d:User><d:AccountReferenceNo>DS{number:06}</d:AccountReferenceNo>{members}\
         <d:ExternalRefundIdentifier>raw-{number}</d:ExternalRefundIdentifier></request></{operation}></s:Body></s:Envelope>"
    );
    let headers =
        format!("content-type: text/xml; charset=utf-8\r\nsoapaction: \"http://tempuri.org/IDSServices/{operation}\"");
    post("/DSWebService/DSServices.svc", &headers, &body)
}
