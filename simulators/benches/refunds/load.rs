//! The load client: prepared raw requests on open connections. It does little work, because it
//! shares the machine.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use simulators::Provider;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsConnector;

/// The first number of the benchmark's orders and accounts, far from the demo data.
const FIRST: u32 = 50_000_000;
/// The number of connections that put orders and accounts.
const PUT_CONNECTIONS: usize = 4;

/// Refunds of one provider, each of a target that was never refunded before.
pub(crate) struct Load {
    provider: Provider,
    control: SocketAddr,
    next: u32,
}

/// A server to measure.
pub(crate) struct Endpoint {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

/// The result of a round.
pub(crate) struct Answered {
    pub(crate) took: Duration,
    /// The body of one answer.
    pub(crate) last_answer: Vec<u8>,
}

/// name.com's documented limits, 20 requests a second and 3,000 an hour, would dominate the result.
pub(crate) async fn lift_limits(control: SocketAddr) {
    let body = json!({ "namecom": { "requests_per_second": 0, "requests_per_hour": 0 } });
    let request = Arc::new(vec![call("PATCH", "/v1/settings", &body)]);
    Endpoint::new(control, None).send(&request, 1).await;
}

impl Load {
    pub(crate) fn new(provider: Provider, control: SocketAddr) -> Load {
        Load { provider, control, next: FIRST }
    }

    /// Puts orders or accounts, and returns the requests that refund them.
    pub(crate) async fn prepare(&mut self, count: usize) -> Arc<Vec<Vec<u8>>> {
        let numbers = self.next..self.next + count as u32;
        self.next = numbers.end;
        let puts = numbers.clone().map(|number| put(self.provider, number)).collect();
        Endpoint::new(self.control, None).send(&Arc::new(puts), PUT_CONNECTIONS).await;
        Arc::new(numbers.map(|number| refund(self.provider, number)).collect())
    }
}

impl Endpoint {
    /// A server with TLS and its authority's certificate.
    pub(crate) fn new(address: SocketAddr, ca_pem: Option<&str>) -> Endpoint {
        let tls = ca_pem.map(|pem| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
        });
        Endpoint { address, tls }
    }

    /// Sends all requests over several connections, each the next one after an answer. Every answer
    /// has to be a 2xx.
    pub(crate) async fn send(&self, requests: &Arc<Vec<Vec<u8>>>, connections: usize) -> Answered {
        let mut opened = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let name = ServerName::from(self.address.ip());
            opened.push(match &self.tls {
                Some(tls) => Box::new(tls.connect(name, stream).await.unwrap()) as Box<dyn Stream>,
                None => Box::new(stream),
            });
        }
        // Handshakes are not measured.
        let began = Instant::now();
        let mut running = JoinSet::new();
        for (first, mut stream) in opened.into_iter().enumerate() {
            let requests = requests.clone();
            running.spawn(async move {
                let mut buffer = Vec::with_capacity(16 * 1024);
                for request in requests.iter().skip(first).step_by(connections) {
                    exchange(&mut stream, request, &mut buffer).await;
                }
                body(&buffer).to_vec()
            });
        }
        let answers = running.join_all().await;
        Answered { took: began.elapsed(), last_answer: answers.into_iter().max_by_key(Vec::len).unwrap() }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn exchange(stream: &mut Box<dyn Stream>, request: &[u8], buffer: &mut Vec<u8>) {
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    buffer.clear();
    while !is_whole(buffer) {
        let read = stream.read_buf(buffer).await.unwrap();
        assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(buffer));
    }
    assert!(buffer.starts_with(b"HTTP/1.1 2"), "{}\n{}", text(request), text(buffer));
    // Sectigo answers everything with 200.
    assert!(!body(buffer).starts_with(b"-"), "{}\n{}", text(request), text(buffer));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_whole(buffer: &[u8]) -> bool {
    let Some(head) = head_length(buffer) else { return false };
    let lines = std::str::from_utf8(&buffer[..head]).unwrap().split("\r\n").filter_map(|line| line.split_once(':'));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = lengths.next().unwrap().1.trim().parse().unwrap();
    buffer.len() >= head + length
}

fn body(buffer: &[u8]) -> &[u8] {
    &buffer[head_length(buffer).unwrap_or_default()..]
}

fn head_length(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The request that puts the target of a refund.
fn put(provider: Provider, number: u32) -> Vec<u8> {
    match provider {
        Provider::Sectigo => {
            call("PUT", &format!("/v1/sectigo/orders/{number}"), &json!({ "account": "demo", "price_minor": 9900 }))
        }
        Provider::Namecom => {
            let item = json!({ "id": number, "name": "a.example", "price_minor": 1299 });
            let order = json!({ "account": "demo-test", "items": [item] });
            call("PUT", &format!("/v1/namecom/orders/{number}"), &order)
        }
        Provider::Debitsuccess => {
            call("PUT", &format!("/v1/debitsuccess/accounts/B{number}"), &json!({ "collected_minor": 50_000 }))
        }
    }
}

/// The request of one refund.
fn refund(provider: Provider, number: u32) -> Vec<u8> {
    match provider {
        Provider::Sectigo => post(
            "/products/!AutoRefund",
            &["content-type: application/x-www-form-urlencoded"],
            &format!("loginName=demo&loginPassword=demo-password&orderNumber={number}&refundReasonCode=11"),
        ),
        Provider::Namecom => post(
            "/core/v1/refund",
            &[
                "authorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=",
                "content-type: application/json",
                &format!("x-idempotency-key: key-{number}"),
            ],
            &json!({ "orderId": number, "orderItemIds": [number] }).to_string(),
        ),
        Provider::Debitsuccess => post(
            "/DSWebService/DSServices.svc",
            &["content-type: text/xml; charset=utf-8", "soapaction: \"http://tempuri.org/IDSServices/InitiateRefund\""],
            &format!(
                "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
                 <InitiateRefund xmlns=\"http://tempuri.org/\">\
                 <request xmlns:d=\"http://schemas.datacontract.org/2004/07/DSWebService\">\
                 <d:User><d:Password>demo-password</d:Password><d:Username>demo</d:Username></d:User>\
                 <d:AccountReferenceNo>B{number}</d:AccountReferenceNo><d:Amount>12.34</d:Amount>\
                 <d:Description>overpaid</d:Description><d:ExternalRefundIdentifier>id-{number}</d:ExternalRefundIdentifier>\
                 </request></InitiateRefund></s:Body></s:Envelope>"
            ),
        ),
    }
}

fn call(method: &str, path: &str, body: &Value) -> Vec<u8> {
    request(method, path, &[], &body.to_string())
}

fn post(path: &str, headers: &[&str], body: &str) -> Vec<u8> {
    request("POST", path, headers, body)
}

fn request(method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}
