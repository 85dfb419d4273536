//! A server for Connect's published conformance cases: the endpoint in front of a service that does
//! what each case asks for. `tests/conformance/run.sh` runs it.
//!
//! The service is written against descriptors that are read at run time, so that its protos need
//! not be in this tree.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::service_fn;

use super::contract::Contract;
use super::{WebEndpoint, serve_connection};
use crate::api::connection::{
    BoundListener, ConnectionRegistry, ListenerSettings, ProtocolSettings, WebSettings, accept,
};
use crate::domain::clock::SystemClock;
use crate::telemetry::metrics::Metrics;

const PACKAGE: &str = "connectrpc.conformance.v1";

/// Speaks to the runner: its request on standard input, the answer on descriptor 3, since the test
/// harness writes to standard output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is started by the conformance runner"]
#[expect(clippy::disallowed_methods, reason = "the runner's script names the descriptors")]
async fn serve() {
    let descriptors = std::fs::read(std::env::var("CONFORMANCE_DESCRIPTORS").unwrap()).unwrap();
    let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
    let mut length = [0; 4];
    std::io::stdin().read_exact(&mut length).unwrap();
    let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    std::io::stdin().read_exact(&mut request).unwrap();

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = ListenerSettings {
        name: ListenerSettings::HTTP.to_owned(),
        protocol: ProtocolSettings::Http(WebSettings::default()),
        connections_per_source: 0,
        ..ListenerSettings::short_form(free)
    };
    let listener = BoundListener::bind(settings, Arc::new(SystemClock)).await.unwrap();
    let address = listener.address().unwrap();
    let metrics = Metrics::off();
    let registry = ConnectionRegistry::new(4096, metrics.clone());
    let closing = CancellationToken::new();
    let incoming = accept(vec![listener], registry, closing.clone());
    let handler = {
        let pool = pool.clone();
        service_fn(move |request: Request<Body>| answer(pool.clone(), request))
    };
    let endpoint = WebEndpoint::of(handler, Contract::of(vec![pool.clone()]).unwrap());

    let mut response = DynamicMessage::new(message(&pool, "ServerCompatResponse"));
    response.set_field_by_name("host", Value::String(address.ip().to_string()));
    response.set_field_by_name("port", Value::U32(u32::from(address.port())));
    let bytes = response.encode_to_vec();
    let mut answer = std::fs::OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
    answer.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
    answer.write_all(&bytes).unwrap();
    drop(answer);

    // Until the runner ends this process.
    let serve_one = |connection| serve_connection(connection, endpoint.clone(), 1000, metrics.clone(), closing.clone());
    crate::api::http2::serve(incoming, serve_one, closing.clone()).await;
}

fn message(pool: &DescriptorPool, name: &str) -> prost_reflect::MessageDescriptor {
    pool.get_message_by_name(&format!("{PACKAGE}.{name}")).unwrap()
}

/// A field that is a message, if it is set.
fn part(of: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    of.has_field_by_name(name).then(|| of.get_field_by_name(name).unwrap().as_message().unwrap().clone())
}

fn headers_in(definition: Option<&DynamicMessage>, field: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let listed = definition.map(|definition| definition.get_field_by_name(field).unwrap().into_owned());
    for header in listed.iter().filter_map(Value::as_list).flatten().filter_map(Value::as_message) {
        let name: HeaderName = header.get_field_by_name("name").unwrap().as_str().unwrap().parse().unwrap();
        for value in header.get_field_by_name("value").unwrap().as_list().unwrap() {
            headers.append(&name, HeaderValue::from_str(value.as_str().unwrap()).unwrap());
        }
    }
    headers
}

/// What the service has seen of the request.
fn request_info(pool: &DescriptorPool, headers: &HeaderMap, request: &DynamicMessage) -> DynamicMessage {
    let mut info = DynamicMessage::new(message(pool, "ConformancePayload.RequestInfo"));
    let listed = headers.keys().map(|name| {
        let mut header = DynamicMessage::new(message(pool, "Header"));
        header.set_field_by_name("name", Value::String(name.to_string()));
        let values = headers.get_all(name).iter().map(|value| Value::String(value.to_str().unwrap_or("").to_owned()));
        header.set_field_by_name("value", Value::List(values.collect()));
        Value::Message(header)
    });
    info.set_field_by_name("request_headers", Value::List(listed.collect()));
    if let Some(timeout) = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()) {
        let (digits, unit) = timeout.split_at(timeout.len() - 1);
        let millis = match unit {
            "H" => 3_600_000,
            "M" => 60_000,
            "S" => 1_000,
            _ => 1,
        } * digits.parse::<i64>().unwrap();
        let millis = if unit == "u" { millis / 1_000 } else { millis };
        info.set_field_by_name("timeout_ms", Value::I64(if unit == "n" { millis / 1_000_000 } else { millis }));
    }
    let mut any = DynamicMessage::new(pool.get_message_by_name("google.protobuf.Any").unwrap());
    let url = format!("type.googleapis.com/{}", request.descriptor().full_name());
    any.set_field_by_name("type_url", Value::String(url));
    any.set_field_by_name("value", Value::Bytes(request.encode_to_vec().into()));
    info.set_field_by_name("requests", Value::List(vec![Value::Message(any)]));
    info
}

/// The error that the definition asks for. `info` is added to its details.
fn failure(error: &DynamicMessage, info: Option<&DynamicMessage>) -> Status {
    let code = error.get_field_by_name("code").unwrap().as_enum_number().unwrap();
    let text = error.get_field_by_name("message").unwrap().as_str().unwrap().to_owned();
    let mut details: Vec<prost_types::Any> = error
        .get_field_by_name("details")
        .unwrap()
        .as_list()
        .unwrap()
        .iter()
        .map(|any| prost_types::Any::decode(any.as_message().unwrap().encode_to_vec().as_slice()).unwrap())
        .collect();
    details.extend(info.map(|info| prost_types::Any {
        type_url: format!("type.googleapis.com/{}", info.descriptor().full_name()),
        value: info.encode_to_vec(),
    }));
    let status = tonic_types::pb::Status { code, message: text.clone(), details };
    Status::with_details(Code::from_i32(code), text, status.encode_to_vec().into())
}

/// A response in gRPC: the headers, the messages with a pause before each, and the end.
fn response(
    headers: HeaderMap,
    messages: Vec<Vec<u8>>,
    delay: Duration,
    end: Option<Status>,
    mut trailers: HeaderMap,
) -> Response<Body> {
    let status = end.unwrap_or_else(|| Status::ok(""));
    status.add_header(&mut trailers).unwrap();
    let is_empty = messages.is_empty();
    let frames =
        futures_util::stream::unfold((messages.into_iter(), Some(trailers)), move |(mut left, end)| async move {
            if let Some(message) = left.next() {
                tokio::time::sleep(delay).await;
                let mut framed = BytesMut::new();
                framed.put_u8(0);
                framed.put_u32(u32::try_from(message.len()).unwrap());
                framed.extend_from_slice(&message);
                return Some((Ok::<_, Status>(Frame::data(framed.freeze())), (left, end)));
            }
            let trailers = end?;
            if is_empty {
                tokio::time::sleep(delay).await;
            }
            Some((Ok(Frame::trailers(trailers)), (left, None)))
        });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    *response.headers_mut() = headers;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// What tonic does with a request: one message, plain or with gzip.
fn one_message(body: &[u8], encoding: Option<&HeaderValue>) -> Result<Vec<u8>, Status> {
    let is_gzip = match encoding.map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(_) => return Err(Status::unimplemented("another compression")),
    };
    let prefix = body.first_chunk::<5>().ok_or_else(|| Status::unimplemented("no message"))?;
    let message = &body[5..];
    if u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize != message.len() {
        return Err(Status::unimplemented("more than one message"));
    }
    match (prefix[0], is_gzip) {
        (0, _) => Ok(message.to_vec()),
        (1, true) => {
            let mut plain = Vec::new();
            let read = flate2::read::GzDecoder::new(message).read_to_end(&mut plain);
            read.map(|_| plain).map_err(|_| Status::invalid_argument("no gzip"))
        }
        _ => Err(Status::internal("compressed without a header")),
    }
}

async fn answer(pool: DescriptorPool, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let input = match method.as_str() {
        "Unary" | "IdempotentUnary" | "ServerStream" => message(&pool, &format!("{method}Request")),
        _ => return Ok(Status::unimplemented("not implemented").into_http()),
    };
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(status) => return Ok(Status::from_error(status.into()).into_http()),
    };
    let bytes = match one_message(&body, head.headers.get("grpc-encoding")) {
        Ok(bytes) => bytes,
        Err(status) => return Ok(status.into_http()),
    };
    let Ok(request) = DynamicMessage::decode(input, bytes.as_slice()) else {
        return Ok(Status::invalid_argument("not a message").into_http());
    };
    let info = request_info(&pool, &head.headers, &request);
    let definition = part(&request, "response_definition");
    let (headers, trailers) =
        (headers_in(definition.as_ref(), "response_headers"), headers_in(definition.as_ref(), "response_trailers"));
    let delay = definition
        .as_ref()
        .map_or(0, |definition| definition.get_field_by_name("response_delay_ms").unwrap().as_u32().unwrap());
    let delay = Duration::from_millis(u64::from(delay));
    let error = definition.as_ref().and_then(|definition| part(definition, "error"));
    let output = message(&pool, &format!("{method}Response"));
    let payload = |data: Option<Bytes>, info: Option<&DynamicMessage>| {
        let mut payload = DynamicMessage::new(message(&pool, "ConformancePayload"));
        if let Some(data) = data {
            payload.set_field_by_name("data", Value::Bytes(data));
        }
        if let Some(info) = info {
            payload.set_field_by_name("request_info", Value::Message(info.clone()));
        }
        let mut response = DynamicMessage::new(output.clone());
        response.set_field_by_name("payload", Value::Message(payload));
        response.encode_to_vec()
    };
    if method == "ServerStream" {
        let data =
            definition.as_ref().map(|definition| definition.get_field_by_name("response_data").unwrap().into_owned());
        let messages: Vec<Vec<u8>> = data
            .iter()
            .filter_map(Value::as_list)
            .flatten()
            .enumerate()
            .map(|(at, data)| payload(data.as_bytes().cloned(), (at == 0).then_some(&info)))
            .collect();
        let end = error.map(|error| failure(&error, messages.is_empty().then_some(&info)));
        return Ok(response(headers, messages, delay, end, trailers));
    }
    let data = definition
        .as_ref()
        .map(|definition| definition.get_field_by_name("response_data").unwrap().as_bytes().cloned());
    match error {
        Some(error) => Ok(response(headers, Vec::new(), delay, Some(failure(&error, Some(&info))), trailers)),
        None => Ok(response(headers, vec![payload(data.flatten(), Some(&info))], delay, None, trailers)),
    }
}
