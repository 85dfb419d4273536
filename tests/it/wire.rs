//! The bytes of a call: a request that is not gRPC is refused before any handler runs, and messages
//! may be compressed in both directions.

use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use std::io::{Read as _, Write as _};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use crate::support::process::Gateway;
use crate::support::{Stack, channel, configuration, reason, sectigo, simulators_in};

const CREATE: &str = "/recoup.v1.RefundService/CreateRefund";
const GET: &str = "/recoup.v1.RefundService/GetRefund";
const LIST: &str = "/recoup.v1.RefundService/ListRefunds";
/// The port's limit of a message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A message with its frame header.
fn framed(flag: u8, content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap();
    Bytes::from([&[flag][..], &length.to_be_bytes(), content].concat())
}

fn gzipped(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    framed(1, &encoder.finish().unwrap())
}

/// An answer: its head, the bytes of its messages, and the status in its head or its trailers.
struct Answer {
    head: Response<()>,
    data: Bytes,
    status: Option<Status>,
}

async fn call(channel: &Channel, method: &str, path: &str, headers: &[(&str, &str)], message: Bytes) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Full::new(message))).unwrap();
    let mut channel = channel.clone();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let status = [&head.headers, &trailers].into_iter().find_map(Status::from_header_map);
    Answer { head: Response::from_parts(head, ()), data: collected.to_bytes(), status }
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[rstest]
#[case::grpc_web("POST", Some("application/grpc-web+proto"), 415)]
#[case::text("POST", Some("text/plain"), 415)]
#[case::json("POST", Some("application/grpc+json"), 415)]
#[case::nothing("POST", None, 415)]
#[case::put("PUT", Some("application/grpc"), 405)]
#[case::get("GET", Some("application/grpc"), 405)]
#[tokio::test]
async fn a_request_that_is_not_grpc_moves_no_money(
    #[case] method: &str,
    #[case] content: Option<&str>,
    #[case] http: u16,
) {
    let stack = Stack::start().await;
    let channel = channel(stack.app.addr()).await;
    let message = framed(0, &sectigo("smuggled", "1000001").encode_to_vec());
    let headers: Vec<(&str, &str)> = content.iter().map(|content| (CONTENT_TYPE.as_str(), *content)).collect();
    let paths =
        [CREATE, GET, "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/"];
    for path in paths {
        let answer = call(&channel, method, path, &headers, message.clone()).await;
        assert_eq!(answer.head.status(), http, "{path}");
        assert!(answer.data.is_empty(), "{path}");
        let refusal = answer.status.unwrap();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"), "{path}");
    }
    let request = proto::GetRefundRequest { name: "refunds/smuggled".to_owned() };
    assert_eq!(stack.refunds.clone().get_refund(request).await.unwrap_err().code(), Code::NotFound);
    assert!(stack.simulators.journal().is_empty());

    // The same bytes as gRPC are accepted, also without `te`, which a proxy may have removed.
    let answer = call(&channel, "POST", CREATE, &[("content-type", "application/grpc+proto")], message).await;
    assert_eq!(answer.status.map(|status| status.code()), Some(Code::Ok));
    assert_eq!(stack.effects("1000001"), 1);
}

/// A request for an unknown refund, of this length because of an unknown field.
fn get_of(bytes: usize) -> Vec<u8> {
    let mut message = proto::GetRefundRequest { name: "refunds/none".to_owned() }.encode_to_vec();
    // Field 15, a text, with its length always in three bytes.
    let rest = bytes - message.len() - 4;
    let length = [rest & 0x7f | 0x80, (rest >> 7) & 0x7f | 0x80, rest >> 14].map(|byte| u8::try_from(byte).unwrap());
    message.push(0x7a);
    message.extend(length);
    message.resize(bytes, b'a');
    message
}

#[tokio::test]
async fn a_compressed_request_is_accepted_and_limited_by_its_inflated_size() {
    let stack = Stack::start().await;
    let channel = channel(stack.app.addr()).await;
    let mut client = RefundServiceClient::new(channel.clone()).send_compressed(CompressionEncoding::Gzip);
    client.create_refund(sectigo("squeezed", "1000001")).await.unwrap();
    assert_eq!(stack.effects("1000001"), 1);

    let gzip = [GRPC, ("grpc-encoding", "gzip")];
    let small_and_plain = framed(0, &get_of(1_000));
    for (message, expected) in [
        (small_and_plain, Code::NotFound),
        (gzipped(&get_of(MAX_MESSAGE_BYTES)), Code::NotFound),
        (gzipped(&get_of(MAX_MESSAGE_BYTES + 1)), Code::InvalidArgument),
        (gzipped(&vec![0; 60 << 20]), Code::InvalidArgument),
        (framed(1, b"no gzip at all"), Code::InvalidArgument),
        (gzipped(&get_of(5_000)).slice(..20), Code::InvalidArgument),
    ] {
        let refusal = call(&channel, "POST", GET, &gzip, message).await.status.unwrap();
        assert_eq!(refusal.code(), expected, "{refusal:?}");
        if expected == Code::InvalidArgument {
            assert_eq!(reason(&refusal), "INVALID_REQUEST");
        }
    }
    for path in [CREATE, "/grpc.health.v1.Health/Check"] {
        let bomb = gzipped(&vec![0; 60 << 20]);
        let answer = call(&channel, "POST", path, &gzip, bomb).await;
        assert_eq!(answer.status.unwrap().code(), Code::InvalidArgument, "{path}");
    }

    let unknown = [GRPC, ("grpc-encoding", "deflate")];
    let answer = call(&channel, "POST", GET, &unknown, framed(1, b"x")).await;
    let refusal = answer.status.unwrap();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::Unimplemented, "NOT_OFFERED"));
    assert_eq!(answer.head.headers()["grpc-accept-encoding"], "gzip,identity", "the accepted encodings");
}

/// In a process of its own, whose memory nothing else uses: `VmHWM` is the most that it ever had.
fn most_memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bombs_at_once_need_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let path = dir.path().join("recoup.toml");
    std::fs::write(&path, configuration(&simulators, dir.path(), "")).unwrap();
    let gateway = Gateway::start(Path::new(&path));
    let channel = channel(gateway.addr).await;
    let before = most_memory_kib(gateway.id());
    let bomb = gzipped(&vec![0; 60 << 20]);
    assert!(bomb.len() < MAX_MESSAGE_BYTES, "it is let in as it comes");
    let headers = [GRPC, ("grpc-encoding", "gzip")];
    let calls = (0..100).map(|_| call(&channel, "POST", CREATE, &headers, bomb.clone()));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status.unwrap().code(), Code::InvalidArgument);
    }
    let grown = most_memory_kib(gateway.id()).saturating_sub(before);
    // One of them inflated would be 60 MiB, and all of them 6 GiB.
    assert!(grown < 50 * 1024, "{grown} KiB more for 100 bombs");
    assert!(gateway.terminate().success());
}

fn encoding(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-encoding").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn only_a_large_answer_is_compressed_and_only_for_clients_that_accept_it() {
    let stack = Stack::start().await;
    for number in 1..=80 {
        stack.refund(sectigo(&format!("r-{number}"), &format!("{}", 1_000_000 + number))).await;
    }
    let channel = channel(stack.app.addr()).await;
    let list = framed(0, &proto::ListRefundsRequest { page_size: 80, ..Default::default() }.encode_to_vec());
    let plain = call(&channel, "POST", LIST, &[GRPC], list.clone()).await;
    assert_eq!((encoding(plain.head.headers()), plain.data[0]), (None, 0));
    let takes_gzip = [GRPC, ("grpc-accept-encoding", "identity, deflate, gzip")];
    let packed = call(&channel, "POST", LIST, &takes_gzip, list).await;
    assert_eq!((encoding(packed.head.headers()), packed.data[0]), (Some("gzip"), 1));
    assert!(packed.data.len() * 3 < plain.data.len(), "{} of {}", packed.data.len(), plain.data.len());
    let mut inflated = Vec::new();
    GzDecoder::new(&packed.data[5..]).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated, plain.data[5..]);

    let get = framed(0, &proto::GetRefundRequest { name: "refunds/r-1".to_owned() }.encode_to_vec());
    let small = call(&channel, "POST", GET, &takes_gzip, get).await;
    assert_eq!((small.data[0], small.status.unwrap().code()), (0, Code::Ok));

    // With a real client: pages, and a stream of many messages.
    let mut client = RefundServiceClient::new(channel).accept_compressed(CompressionEncoding::Gzip);
    let request = proto::ListRefundsRequest { page_size: 80, ..Default::default() };
    assert_eq!(client.list_refunds(request).await.unwrap().into_inner().refunds.len(), 80);
    let request = proto::StreamRefundEventsRequest::default();
    let mut events = client.stream_refund_events(request).await.unwrap().into_inner();
    for _ in 0..240 {
        assert!(events.message().await.unwrap().is_some());
    }
}
