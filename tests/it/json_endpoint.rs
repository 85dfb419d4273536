//! The JSON endpoint: who may call, in which forms, and that a refused request records nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{Buf as _, Bytes};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::Request;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::refund_service_server::RefundServiceServer;
use rstest::rstest;
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::server::NamedService as _;

use crate::caller_access::{AccessText, refunds};
use crate::support::{LIMIT, Stack, sectigo, with_settings};

const ORDER: &str = "1000001";
const JSON: &str = "application/json";

/// A gateway with the endpoint, and one caller.
struct Endpoint {
    stack: Stack,
    address: SocketAddr,
    token: String,
    access: AccessText,
}

/// A response over HTTP/1.1.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Endpoint {
    async fn start(settings: &str) -> Self {
        let mut access = AccessText::new();
        let token = access.caller(
            "shop",
            "scopes = [\"refunds:create\", \"refunds:read\", \"events:read\", \"accounts:read\"]\naccounts = [\"*\"]",
        );
        let setting = access.setting();
        let settings = format!("{setting}http.listen = \"127.0.0.1:0\"\n{settings}");
        let stack = Stack::start_as(|configuration| with_settings(&configuration, &settings)).await;
        let address = stack.app.listener_addr("http").unwrap();
        Self { stack, address, token, access }
    }

    fn bearer(&self) -> (&'static str, String) {
        ("authorization", format!("Bearer {}", self.token))
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let host = self.address.to_string();
        let mut all = vec![("host", host.as_str())];
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        all.extend_from_slice(headers);
        send(self.address, method, path, &all, body).await
    }

    /// A call with the token, as JSON.
    async fn call(&self, method: &str, body: &Value) -> Answer {
        let (name, token) = self.bearer();
        let path = format!("/{}/{method}", RefundServiceServer::<()>::NAME);
        self.send("POST", &path, &[(name, &token), ("content-type", JSON)], body.to_string().as_bytes()).await
    }

    /// Nothing was recorded, and nothing refunded.
    async fn assert_nothing_recorded(&self, id: &str) {
        let mut client = refunds(&self.stack, &self.token).await;
        let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
        assert_eq!(client.get_refund(request).await.unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(self.stack.attempts(ORDER), 0);
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The readable form of one error detail.
    fn debug(&self, name: &str) -> Value {
        detail(&self.json(), name)
    }

    fn reason(&self) -> Value {
        self.debug("ErrorInfo")["reason"].clone()
    }
}

fn detail(error: &Value, name: &str) -> Value {
    let details = error["details"].as_array().unwrap_or_else(|| panic!("no details: {error}"));
    let found = details.iter().find(|detail| detail["type"] == format!("google.rpc.{name}"));
    found.unwrap_or_else(|| panic!("no {name}: {error}"))["debug"].clone()
}

async fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    // The answer may come before the body has been read.
    let _sent = stream.write_all(body).await;
    let mut read = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut read)).await.unwrap().unwrap();
    parse(&read)
}

fn parse(read: &[u8]) -> Answer {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = std::str::from_utf8(&read[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let rest = &read[end + 4..];
    let is_chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
    let body = if is_chunked { unchunked(rest) } else { rest.to_vec() };
    Answer { status, headers, body }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
}

fn create(id: &str) -> Value {
    json!({
        "refund_id": id, "account": "sectigo",
        "sectigo": {"order_number": ORDER, "reason": "SECTIGO_REFUND_REASON_OTHER"},
    })
}

fn path(method: &str) -> String {
    format!("/{}/{method}", RefundServiceServer::<()>::NAME)
}

fn envelope(flags: u8, content: &[u8]) -> Vec<u8> {
    let mut framed = vec![flags];
    framed.extend_from_slice(&u32::try_from(content.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(content);
    framed
}

/// Flags and content of each.
fn envelopes(body: &[u8]) -> Vec<(u8, Bytes)> {
    let mut rest = Bytes::copy_from_slice(body);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (flags, length) = (rest.get_u8(), rest.get_u32());
        found.push((flags, rest.split_to(usize::try_from(length).unwrap())));
    }
    found
}

#[tokio::test]
async fn a_refund_is_created_replayed_and_read() {
    let endpoint = Endpoint::start("").await;
    let created = endpoint.call("CreateRefund", &create("a")).await;
    assert_eq!((created.status, created.headers["content-type"].as_str()), (200, JSON));
    let refund = &created.json()["refund"];
    assert_eq!((&refund["state"], &refund["createdBy"]), (&json!("STATE_SUCCEEDED"), &json!("shop")));
    assert_eq!(endpoint.call("CreateRefund", &create("a")).await.json()["replayed"], true);
    let got = endpoint.call("GetRefund", &json!({"name": "refunds/a"})).await;
    assert_eq!(got.json()["refund"]["refundId"], "a");
    let conflict = endpoint.call("CreateRefund", &create("b")).await;
    assert_eq!((conflict.status, conflict.json()["code"].as_str()), (400, Some("failed_precondition")));
    assert_eq!(conflict.reason(), "TARGET_HAS_REFUND");
    let invalid = endpoint.call("CreateRefund", &json!({"account": "sectigo"})).await;
    assert_eq!((invalid.status, invalid.json()["code"].as_str()), (400, Some("invalid_argument")));
    let fields = invalid.debug("BadRequest")["fieldViolations"].clone();
    assert!(fields.as_array().unwrap().iter().any(|violation| violation["field"] == "refund_id"), "{fields}");
    assert_eq!(endpoint.stack.attempts(ORDER), 1);
}

/// The history names the caller, as on the gRPC port.
#[tokio::test]
async fn the_history_names_the_caller_and_its_token() {
    let endpoint = Endpoint::start("").await;
    endpoint.call("CreateRefund", &create("a")).await;
    let events = endpoint.call("ListRefundEvents", &json!({"name": "refunds/a"})).await.json();
    assert_eq!(
        (&events["events"][0]["actor"], &events["events"][0]["credential"]),
        (&json!("shop"), &json!("token:shop-1"))
    );
}

#[rstest]
#[case::no_token(&[("content-type", JSON)], "POST", "CreateRefund", 401, "unauthenticated")]
#[case::a_wrong_token(&[("content-type", JSON), ("authorization", "Bearer recoup_x")], "POST", "CreateRefund", 401, "unauthenticated")]
#[case::another_scheme(&[("content-type", JSON), ("authorization", "Basic TOKEN")], "POST", "CreateRefund", 401, "unauthenticated")]
#[case::a_foreign_page(&[("content-type", JSON), ("origin", "https://evil.example"), ("TOKEN", "")], "POST", "CreateRefund", 403, "permission_denied")]
#[case::a_local_file(&[("content-type", JSON), ("origin", "null"), ("TOKEN", "")], "POST", "CreateRefund", 403, "permission_denied")]
#[case::a_foreign_host(&[("content-type", JSON), ("host", "evil.example"), ("TOKEN", "")], "POST", "CreateRefund", 403, "permission_denied")]
#[case::text(&[("content-type", "text/plain"), ("TOKEN", "")], "POST", "CreateRefund", 415, "invalid_argument")]
#[case::a_form(&[("content-type", "application/x-www-form-urlencoded"), ("TOKEN", "")], "POST", "CreateRefund", 415, "invalid_argument")]
#[case::grpc(&[("content-type", "application/grpc"), ("TOKEN", "")], "POST", "CreateRefund", 415, "invalid_argument")]
#[case::a_stream_that_is_none(&[("content-type", "application/connect+json"), ("TOKEN", "")], "POST", "CreateRefund", 415, "invalid_argument")]
#[case::no_type(&[("TOKEN", "")], "POST", "CreateRefund", 415, "invalid_argument")]
#[case::a_get(&[("content-type", JSON), ("TOKEN", "")], "GET", "CreateRefund?connect=v1&encoding=json&message=%7B%7D", 405, "invalid_argument")]
#[case::a_put(&[("content-type", JSON), ("TOKEN", "")], "PUT", "CreateRefund", 405, "invalid_argument")]
#[case::a_delete(&[("content-type", JSON), ("TOKEN", "")], "DELETE", "CreateRefund", 405, "invalid_argument")]
#[case::no_such_call(&[("content-type", JSON), ("TOKEN", "")], "POST", "Nothing", 501, "unimplemented")]
#[case::a_scope_that_is_missing(&[("content-type", JSON), ("TOKEN", "")], "POST", "CancelRefund", 403, "permission_denied")]
#[case::a_version(&[("content-type", JSON), ("connect-protocol-version", "2"), ("TOKEN", "")], "POST", "CreateRefund", 400, "invalid_argument")]
#[case::a_timeout(&[("content-type", JSON), ("connect-timeout-ms", "1s"), ("TOKEN", "")], "POST", "CreateRefund", 400, "invalid_argument")]
#[case::an_encoding(&[("content-type", JSON), ("content-encoding", "br"), ("TOKEN", "")], "POST", "CreateRefund", 501, "unimplemented")]
#[case::an_encoding_that_it_has_not(&[("content-type", JSON), ("content-encoding", "gzip"), ("TOKEN", "")], "POST", "CreateRefund", 400, "invalid_argument")]
#[tokio::test]
async fn what_is_refused_records_nothing(
    #[case] headers: &[(&str, &str)],
    #[case] method: &str,
    #[case] call: &str,
    #[case] status: u16,
    #[case] code: &str,
) {
    let endpoint = Endpoint::start("").await;
    let (name, token) = endpoint.bearer();
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|header| if header.0 == "TOKEN" { (name, token.as_str()) } else { *header }).collect();
    let answer = endpoint.send(method, &path(call), &headers, create("a").to_string().as_bytes()).await;
    assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (status, code));
    assert!(answer.reason().as_str().is_some(), "an ErrorInfo says that nothing was recorded");
    assert_eq!(answer.headers.contains_key("allow"), status == 405);
    assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    endpoint.assert_nothing_recorded("a").await;
}

#[rstest]
#[case::not_json("{", "")]
#[case::misspelt(r#"{"refundid": "a"}"#, "refundid")]
#[case::too_large(&format!(r#"{{"refund_id": "{}"}}"#, "a".repeat(70_000)), "")]
#[case::another_type(r#"{"refund_id": {}}"#, "")]
#[tokio::test]
async fn a_message_that_cannot_be_read_is_named(#[case] body: &str, #[case] field: &str) {
    let endpoint = Endpoint::start("").await;
    let (name, token) = endpoint.bearer();
    let headers = [(name, token.as_str()), ("content-type", JSON)];
    let answer = endpoint.send("POST", &path("CreateRefund"), &headers, body.as_bytes()).await;
    assert_eq!((answer.status, answer.reason()), (400, json!("INVALID_REQUEST")));
    assert_eq!(
        answer.debug("BadRequest")["fieldViolations"][0].get("field").and_then(Value::as_str).unwrap_or(""),
        field
    );
}

/// A page of an allowed origin asks first, then calls.
#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call() {
    let endpoint =
        Endpoint::start("http.allowed_origins = [\"https://desk.example\"]\nhttp.hosts = [\"api.example\"]\n").await;
    let origin = ("origin", "https://desk.example");
    let asks = [origin, ("host", "api.example"), ("access-control-request-method", "POST")];
    let preflight = endpoint.send("OPTIONS", &path("CreateRefund"), &asks, b"").await;
    assert_eq!((preflight.status, preflight.headers["access-control-allow-origin"].as_str()), (204, origin.1));
    assert_eq!(preflight.headers["access-control-allow-methods"], "POST");
    for header in ["authorization", "content-type", "connect-protocol-version", "connect-timeout-ms", "x-grpc-web"] {
        assert!(
            preflight.headers["access-control-allow-headers"].split(", ").any(|allowed| allowed == header),
            "{header}"
        );
    }
    let (name, token) = endpoint.bearer();
    let headers = [(name, token.as_str()), ("content-type", JSON), origin];
    let created = endpoint.send("POST", &path("CreateRefund"), &headers, create("a").to_string().as_bytes()).await;
    assert_eq!((created.status, created.headers["access-control-allow-origin"].as_str()), (200, origin.1));
    assert!(created.headers["vary"].contains("origin"));
    let foreign = endpoint.send("OPTIONS", &path("CreateRefund"), &[("origin", "https://evil.example")], b"").await;
    assert_eq!(foreign.status, 403);
    assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    assert_eq!(endpoint.stack.attempts(ORDER), 1);
}

#[rstest]
#[case::proto("application/proto", false)]
#[case::proto_with_gzip("application/proto", true)]
#[case::json_with_a_charset("application/json; charset=utf-8", false)]
#[case::json_with_gzip("application/json", true)]
#[tokio::test]
async fn unary_calls_have_their_message_as_the_body(#[case] content_type: &str, #[case] is_gzip: bool) {
    let endpoint = Endpoint::start("").await;
    let is_proto = content_type.contains("proto");
    let mut body = if is_proto { sectigo("a", ORDER).encode_to_vec() } else { create("a").to_string().into_bytes() };
    let (name, token) = endpoint.bearer();
    let mut headers = vec![(name, token.as_str()), ("content-type", content_type), ("connect-protocol-version", "1")];
    if is_gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut encoder, &body).unwrap();
        body = encoder.finish().unwrap();
        headers.push(("content-encoding", "gzip"));
    }
    let answer = endpoint.send("POST", &path("CreateRefund"), &headers, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let id = match is_proto {
        true => proto::CreateRefundResponse::decode(answer.body.as_slice()).unwrap().refund.unwrap().refund_id,
        false => answer.json()["refund"]["refundId"].as_str().unwrap().to_owned(),
    };
    assert_eq!((id.as_str(), endpoint.stack.attempts(ORDER)), ("a", 1));
}

#[tokio::test]
async fn large_responses_are_compressed_where_the_client_accepts_it() {
    let endpoint = Endpoint::start("").await;
    let document = endpoint.send("GET", "/openapi.json", &[], b"").await;
    assert_eq!((document.status, document.json()["openapi"].as_str()), (200, Some("3.1.0")));
    let mut client = refunds(&endpoint.stack, &endpoint.token).await;
    for number in 0..40 {
        let request = proto::CreateRefundRequest {
            validate_only: false,
            ..sectigo(&format!("r{number}"), &format!("1{number:06}"))
        };
        client.create_refund(request).await.unwrap();
    }
    let (name, token) = endpoint.bearer();
    let headers = [(name, token.as_str()), ("content-type", JSON), ("accept-encoding", "br, gzip;q=0.5")];
    let answer = endpoint.send("POST", &path("ListRefunds"), &headers, b"{}").await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    let list: Value = serde_json::from_reader(GzDecoder::new(answer.body.as_slice())).unwrap();
    assert_eq!(list["refunds"].as_array().unwrap().len(), 40);
}

/// Streams of the ledger's events end with an error when the gateway stops.
#[rstest]
#[case::json("application/connect+json")]
#[case::proto("application/connect+proto")]
#[tokio::test]
async fn streams_are_envelopes_and_end_with_one(#[case] content_type: &str) {
    let endpoint = Endpoint::start("").await;
    endpoint.call("CreateRefund", &create("a")).await;
    let (name, token) = endpoint.bearer();
    let is_json = content_type.ends_with("json");
    let message = if is_json {
        json!({"after_sequence": "1"}).to_string().into_bytes()
    } else {
        proto::StreamRefundEventsRequest { after_sequence: 1 }.encode_to_vec()
    };
    let request = envelope(0, &message);
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\n{name}: {token}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        path("StreamRefundEvents"),
        request.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut read = Vec::new();
    let both = |read: &[u8]| read.windows(4).any(|window| window == b"\r\n\r\n") && seen(read) >= 2;
    fn seen(read: &[u8]) -> usize {
        let text = String::from_utf8_lossy(read);
        text.matches("refunds/a").count()
    }
    while !both(&read) {
        assert_ne!(tokio::time::timeout(LIMIT, stream.read_buf(&mut read)).await.unwrap().unwrap(), 0);
    }
    let Endpoint { stack, access, .. } = endpoint;
    stack.app.stop().await;
    drop(access);
    stream.read_to_end(&mut read).await.unwrap();
    let answer = parse(&read);
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, content_type));
    let mut found = envelopes(&answer.body);
    let (flags, end) = found.pop().unwrap();
    assert_eq!(flags, 2, "the last envelope is the end");
    let end: Value = serde_json::from_slice(&end).unwrap();
    assert_eq!(end["error"]["code"], "unavailable");
    let sequences: Vec<i64> = found
        .iter()
        .map(|(flags, content)| {
            assert_eq!(*flags, 0);
            match is_json {
                true => serde_json::from_slice::<Value>(content).unwrap()["event"]["sequence"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap(),
                false => {
                    let pool = DescriptorPool::decode(
                        &include_bytes!(concat!(env!("OUT_DIR"), "/recoup_descriptors.bin"))[..],
                    );
                    let descriptor = pool.unwrap().get_message_by_name("recoup.v1.StreamRefundEventsResponse").unwrap();
                    let message = prost_reflect::DynamicMessage::decode(descriptor, content.clone()).unwrap();
                    let event = message.get_field_by_name("event").unwrap();
                    event.as_message().unwrap().get_field_by_name("sequence").unwrap().as_i64().unwrap()
                }
            }
        })
        .collect();
    assert_eq!(sequences, [2, 3]);
}

/// Failures before the first message, in the form of each format.
#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_last_envelope() {
    let endpoint = Endpoint::start("").await;
    let (name, token) = endpoint.bearer();
    let headers = [(name, token.as_str()), ("content-type", "application/connect+json")];
    let beyond = json!({"after_sequence": "7000"}).to_string();
    let answer = endpoint.send("POST", &path("StreamRefundEvents"), &headers, &envelope(0, beyond.as_bytes())).await;
    let found = envelopes(&answer.body);
    assert_eq!((answer.status, found.len(), found[0].0), (200, 1, 2));
    let end: Value = serde_json::from_slice(&found[0].1).unwrap();
    assert!(detail(&end["error"], "ErrorInfo")["reason"].is_string(), "{end}");
    let two = [envelope(0, b"{}"), envelope(0, b"{}")].concat();
    let answer = endpoint.send("POST", &path("StreamRefundEvents"), &headers, &two).await;
    let end: Value = serde_json::from_slice(&envelopes(&answer.body)[0].1).unwrap();
    assert_eq!(end["error"]["code"], "unimplemented");
    let without = [("content-type", "application/connect+json")];
    let answer = endpoint.send("POST", &path("StreamRefundEvents"), &without, &envelope(0, b"{}")).await;
    assert_eq!((answer.status, answer.reason()), (401, json!("CREDENTIALS_MISSING")));
}

#[rstest]
#[case::binary("application/grpc-web+proto", false)]
#[case::short("application/grpc-web", false)]
#[case::text("application/grpc-web-text", true)]
#[case::text_with_its_codec("application/grpc-web-text+proto", true)]
#[tokio::test]
async fn grpc_web_clients_get_messages_and_trailers(#[case] content_type: &str, #[case] is_text: bool) {
    let endpoint = Endpoint::start("").await;
    let (name, token) = endpoint.bearer();
    let encode = |bytes: Vec<u8>| if is_text { STANDARD.encode(bytes).into_bytes() } else { bytes };
    let decode = |bytes: &[u8]| {
        if !is_text {
            return bytes.to_vec();
        }
        let text = std::str::from_utf8(bytes).unwrap();
        // Each part is padded by itself.
        let parts = text.split_inclusive('=').filter(|part| *part != "=");
        parts.flat_map(|part| STANDARD_NO_PAD.decode(part.trim_end_matches('=')).unwrap()).collect()
    };
    let headers = [(name, token.as_str()), ("content-type", content_type), ("x-grpc-web", "1")];
    let request = encode(envelope(0, &sectigo("a", ORDER).encode_to_vec()));
    let answer = endpoint.send("POST", &path("CreateRefund"), &headers, &request).await;
    let frames = envelopes(&decode(&answer.body));
    assert_eq!((answer.status, frames.len(), frames[0].0, frames[1].0), (200, 2, 0, 0x80));
    let created = proto::CreateRefundResponse::decode(frames[0].1.clone()).unwrap();
    assert_eq!(created.refund.unwrap().refund_id, "a");
    assert!(String::from_utf8_lossy(&frames[1].1).contains("grpc-status: 0\r\n"));

    let conflict = encode(envelope(0, &sectigo("b", ORDER).encode_to_vec()));
    let answer = endpoint.send("POST", &path("CreateRefund"), &headers, &conflict).await;
    let frames = envelopes(&decode(&answer.body));
    let trailers = String::from_utf8_lossy(&frames[0].1).into_owned();
    assert_eq!((answer.status, frames[0].0), (200, 0x80));
    assert!(trailers.contains("grpc-status: 9\r\n") && trailers.contains("grpc-status-details-bin: "), "{trailers}");

    let refused = endpoint.send("POST", &path("CreateRefund"), &headers[1..], &conflict).await;
    assert_eq!(refused.status, 401);
    assert!(String::from_utf8_lossy(&decode(&refused.body)).contains("grpc-status: 16\r\n"));
    assert_eq!(endpoint.stack.attempts(ORDER), 1);
}

/// A refund that Debitsuccess reviews, and a call that would wait for its end.
#[tokio::test]
async fn the_deadline_of_a_call_holds() {
    let endpoint = Endpoint::start("").await;
    let refund = json!({
        "refund_id": "a", "account": "debitsuccess",
        "debitsuccess": {"account_reference_no": "DS000002", "amount": {"currency_code": "AUD", "minor_units": "1250"}, "description": "x"},
    });
    let created = endpoint.call("CreateRefund", &refund).await.json();
    assert_eq!(created["refund"]["state"], "STATE_SUBMITTED", "{created}");
    let (name, token) = endpoint.bearer();
    let headers = [(name, token.as_str()), ("content-type", JSON), ("connect-timeout-ms", "200")];
    let body = json!({"name": "refunds/a", "after_revision": "9", "timeout": "50s"}).to_string();
    let path = path("WaitRefund");
    let waiting = endpoint.send("POST", &path, &headers, body.as_bytes());
    let answer = tokio::time::timeout(Duration::from_secs(40), waiting).await.expect("it ends before its timeout");
    assert_eq!(answer.json()["refund"]["state"], "STATE_SUBMITTED");
}

/// The same services over HTTP/2, and several calls on one connection of HTTP/1.1.
#[tokio::test]
async fn both_versions_of_http_are_served() {
    let endpoint = Endpoint::start("").await;
    let stream = TcpStream::connect(endpoint.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (name, token) = endpoint.bearer();
    let request = Request::post(format!("http://{}{}", endpoint.address, path("CreateRefund")))
        .header(name, token.as_str())
        .header("content-type", JSON)
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(create("a").to_string().into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        read.extend_from_slice(&data.unwrap());
    }
    assert_eq!(serde_json::from_slice::<Value>(&read).unwrap()["refund"]["refundId"], "a");

    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let body = json!({"name": "refunds/a"}).to_string();
    let call = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\n{name}: {token}\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n{body}",
        path("GetRefund"),
        body.len()
    );
    let mut read = Vec::new();
    for calls in 1..=3 {
        stream.write_all(call.as_bytes()).await.unwrap();
        while String::from_utf8_lossy(&read).matches("\"refundId\":\"a\"").count() < calls {
            assert_ne!(tokio::time::timeout(LIMIT, stream.read_buf(&mut read)).await.unwrap().unwrap(), 0);
        }
    }
}

/// With a certificate the client chooses the version of HTTP, and needs no word about it for
/// HTTP/1.1.
#[rstest]
#[case::http2(&["h2"], Some("h2"))]
#[case::the_server_prefers_http2(&["http/1.1", "h2"], Some("h2"))]
#[case::http1(&["http/1.1"], Some("http/1.1"))]
#[case::nothing(&[], None)]
#[tokio::test]
async fn with_a_certificate_both_versions_are_offered(#[case] offered: &[&str], #[case] chosen: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("tls.crt", &cert.pem()), file("tls.key", &signing_key.serialize_pem()));
    let settings = format!("http.certificate_file = \"{certificate}\"\nhttp.key_file = \"{key}\"\n");
    let endpoint = Endpoint::start(&settings).await;

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(endpoint.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));

    let (header, token) = endpoint.bearer();
    let body = create("a").to_string();
    if chosen == Some("h2") {
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("https://localhost{}", path("CreateRefund")))
            .header(header, token)
            .header("content-type", JSON)
            .body(())
            .unwrap();
        let (response, mut sender) = client.send_request(request, false).unwrap();
        sender.send_data(body.into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    } else {
        let call = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}: {token}\r\ncontent-type: {JSON}\r\n\
             content-length: {}\r\n\r\n{body}",
            path("CreateRefund"),
            body.len()
        );
        stream.write_all(call.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut read)).await.unwrap().unwrap();
        assert_eq!(parse(&read).status, 200);
    }
    assert_eq!(endpoint.stack.attempts(ORDER), 1);
}

/// A client that sends half a request takes no permit, and does not keep the gateway from stopping.
#[tokio::test]
async fn a_request_that_never_ends_is_answered_in_time() {
    let endpoint = Endpoint::start("").await;
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let (name, token) = endpoint.bearer();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\n{name}: {token}\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n{{",
        path("CreateRefund")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = [0; 4096];
    let length = tokio::time::timeout(LIMIT, stream.read(&mut read)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&read[..length]).into_owned();
    assert!(text.starts_with("HTTP/1.1 504 ") && text.contains("DEADLINE"), "{text}");
    let stopped = tokio::time::timeout(Duration::from_secs(30), endpoint.stack.app.stop());
    stopped.await.unwrap();
}

/// A gRPC client that is given the endpoint's address.
#[tokio::test]
async fn plain_grpc_is_refused() {
    let endpoint = Endpoint::start("").await;
    let created: Result<_, _> = RefundServiceClient::connect(format!("http://{}", endpoint.address)).await;
    let mut client = created.unwrap();
    let refused = client.create_refund(sectigo("a", ORDER)).await.unwrap_err();
    assert!(refused.message().contains("415"), "{refused:?}");
    endpoint.assert_nothing_recorded("a").await;
}
