//! The response of a gRPC call as the endpoint's formats have it: as a whole, as envelopes, or as
//! gRPC-Web.

use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use prost_reflect::MethodDescriptor;
use serde_json::json;
use tonic::body::Body;
use tonic::{Code, Status};

use super::contract::{self, Contract};
use super::error;
use super::format::{Codec, Format};
use super::request::PREFIX_BYTES;
use crate::api::status;

/// A body that is known as a whole, given in pieces: a client that does not read holds little.
pub(super) struct WholeBody {
    rest: Bytes,
    /// The gRPC response: it holds the call's permits until the client has taken the last piece.
    _held: Option<Body>,
}

/// The messages of a stream in envelopes, and its end in the last one.
struct EnvelopeBody {
    /// None after its end.
    inner: Option<Body>,
    unread: BytesMut,
    codec: Codec,
    method: MethodDescriptor,
    contract: Contract,
}

/// The frames of a gRPC response, and its trailers in the last one.
struct GrpcWebBody {
    /// None after its end.
    inner: Option<Body>,
    /// What a response without a body says in its headers.
    trailers: HeaderMap,
    is_text: bool,
}

/// As large as a frame of HTTP/2.
const PIECE_BYTES: usize = 16 * 1024;
/// Smaller responses gain nothing from compression.
const MIN_COMPRESSED_BYTES: usize = 8 * 1024;
const FLAG_END: u8 = 0x02;
const FLAG_TRAILERS: u8 = 0x80;
const TRAILER_PREFIX: &str = "trailer-";

/// The response of a unary call, with its message converted.
pub(super) async fn unary(
    response: Response<Body>,
    contract: &Contract,
    method: &MethodDescriptor,
    codec: Codec,
    accepted: &HeaderMap,
) -> Response<Body> {
    let (head, mut body) = response.into_parts();
    let mut trailers = HeaderMap::new();
    let read = match failure_in(&head.headers) {
        Some(failure) => Err(failure),
        None => message_in(&mut body, &mut trailers).await,
    };
    let converted = read.and_then(|message| match codec {
        Codec::Proto => Ok(message),
        Codec::Json => contract::to_json(method.output(), message).map(Bytes::from),
    });
    let mut response = match converted {
        Err(failure) => error::response(contract, &failure),
        Ok(message) => {
            let compressed = accepts_gzip(accepted).then(|| gzip(&message)).flatten();
            let is_compressed = compressed.is_some();
            let mut response = Response::new(WholeBody::boxed(compressed.unwrap_or(message), Some(body)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, Format::Unary(codec).content_type());
            headers.append(VARY, HeaderValue::from_static("accept-encoding"));
            if is_compressed {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
    };
    for (name, value) in metadata_in(&trailers) {
        if let Ok(name) = HeaderName::try_from(format!("{TRAILER_PREFIX}{name}")) {
            response.headers_mut().append(name, value.clone());
        }
    }
    copy_metadata(&head.headers, response.headers_mut());
    response
}

/// The response of a stream, as envelopes.
pub(super) fn stream(
    response: Response<Body>,
    contract: &Contract,
    method: &MethodDescriptor,
    codec: Codec,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let mut response = match failure_in(&head.headers) {
        Some(failure) => refused_stream(contract, &failure, codec),
        None => Response::new(Body::new(EnvelopeBody {
            inner: Some(body),
            unread: BytesMut::new(),
            codec,
            method: method.clone(),
            contract: contract.clone(),
        })),
    };
    response.headers_mut().entry(CONTENT_TYPE).or_insert(Format::Stream(codec).content_type());
    copy_metadata(&head.headers, response.headers_mut());
    response
}

/// A stream that fails before its first message: its one envelope says so. Who has not shown a
/// valid credential gets no stream.
pub(super) fn refused_stream(contract: &Contract, failure: &Status, codec: Codec) -> Response<Body> {
    if error::is_credentials_refusal(failure) {
        return error::response(contract, failure);
    }
    let mut response = Response::new(WholeBody::boxed(end_envelope(contract, Some(failure), &HeaderMap::new()), None));
    response.headers_mut().insert(CONTENT_TYPE, Format::Stream(codec).content_type());
    response
}

/// The response of a call in gRPC-Web.
pub(super) fn grpc_web(response: Response<Body>, is_text: bool) -> Response<Body> {
    let (head, body) = response.into_parts();
    let mut trailers = HeaderMap::new();
    let failure = failure_in(&head.headers);
    if failure.is_some() {
        trailers.extend(head.headers.iter().filter(|(name, _)| is_status(name)).map(|(k, v)| (k.clone(), v.clone())));
    }
    let inner = Some(body).filter(|_| failure.is_none());
    let mut response = Response::new(Body::new(GrpcWebBody { inner, trailers, is_text }));
    let refusal = failure.filter(error::is_credentials_refusal);
    if let Some(refusal) = refusal {
        // Clients of gRPC-Web take it for UNAUTHENTICATED, and all others know it.
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        error::add_hints(&refusal, response.headers_mut());
    }
    response.headers_mut().insert(CONTENT_TYPE, Format::GrpcWeb { is_text }.content_type());
    copy_metadata(&head.headers, response.headers_mut());
    response
}

/// The status of a response that is nothing but a failure.
fn failure_in(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The one message of a response. Its trailers are added to those given.
async fn message_in(body: &mut Body, trailers: &mut HeaderMap) -> Result<Bytes, Status> {
    let mut read = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        match frame?.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => *trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    if let Some(failure) = failure_in(trailers) {
        return Err(failure);
    }
    next_message(&mut read).filter(|_| read.is_empty()).ok_or_else(status::internal)
}

/// Splits off the first message. None if it is not whole.
fn next_message(read: &mut BytesMut) -> Option<Bytes> {
    let mut length = read.get(1..PREFIX_BYTES)?;
    let length = usize::try_from(length.get_u32()).ok()?;
    if read.len() - PREFIX_BYTES < length {
        return None;
    }
    read.advance(PREFIX_BYTES);
    Some(read.split_to(length).freeze())
}

fn envelope(flags: u8, content: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + content.len());
    framed.put_u8(flags);
    framed.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(content);
    framed.freeze()
}

fn end_envelope(contract: &Contract, failure: Option<&Status>, trailers: &HeaderMap) -> Bytes {
    let mut end = json!({});
    if let Some(fields) = end.as_object_mut() {
        if let Some(failure) = failure {
            fields.insert("error".to_owned(), error::to_json(contract, failure));
        }
        let mut metadata = serde_json::Map::new();
        for (name, value) in metadata_in(trailers) {
            let values = metadata.entry(name.as_str()).or_insert_with(|| json!([]));
            if let (Some(values), Ok(value)) = (values.as_array_mut(), value.to_str()) {
                values.push(json!(value));
            }
        }
        if !metadata.is_empty() {
            fields.insert("metadata".to_owned(), metadata.into());
        }
    }
    envelope(FLAG_END, end.to_string().as_bytes())
}

fn is_status(name: &HeaderName) -> bool {
    matches!(name.as_str(), "grpc-status" | "grpc-message" | "grpc-status-details-bin")
}

/// The headers or trailers that belong to the call and not to its transport.
fn metadata_in(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        !is_status(name) && !matches!(name.as_str(), "content-type" | "grpc-encoding" | "grpc-accept-encoding" | "date")
    })
}

fn copy_metadata(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in metadata_in(from) {
        to.append(name.clone(), value.clone());
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(|part| part == "q=0")
    })
}

/// None where it does not pay off.
fn gzip(message: &Bytes) -> Option<Bytes> {
    if message.len() < MIN_COMPRESSED_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4), Compression::fast());
    encoder.write_all(message).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < message.len()).then(|| compressed.into())
}

impl WholeBody {
    pub(super) fn boxed(bytes: Bytes, held: Option<Body>) -> Body {
        Body::new(Self { rest: bytes, _held: held })
    }
}

impl http_body::Body for WholeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}

impl EnvelopeBody {
    fn converted(&self, message: Bytes) -> Result<Bytes, Status> {
        match self.codec {
            Codec::Proto => Ok(envelope(0, &message)),
            Codec::Json => contract::to_json(self.method.output(), message).map(|json| envelope(0, &json)),
        }
    }

    fn end(&mut self, failure: Option<&Status>, trailers: &HeaderMap) -> Bytes {
        self.inner = None;
        end_envelope(&self.contract, failure, trailers)
    }
}

impl http_body::Body for EnvelopeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let envelope = loop {
            if let Some(message) = next_message(&mut self.unread) {
                break self.converted(message).unwrap_or_else(|failure| self.end(Some(&failure), &HeaderMap::new()));
            }
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            match ready!(Pin::new(inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        break self.end(failure_in(&trailers).as_ref(), &trailers);
                    }
                },
                Some(Err(failure)) => break self.end(Some(&failure), &HeaderMap::new()),
                None => break self.end(None, &HeaderMap::new()),
            }
        };
        Poll::Ready(Some(Ok(Frame::data(envelope))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() && self.unread.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl GrpcWebBody {
    fn written(&self, bytes: Bytes) -> Bytes {
        if self.is_text { STANDARD.encode(bytes).into() } else { bytes }
    }

    /// The last frame: the trailers as text, as HTTP/1.1 writes headers.
    fn end(&mut self, trailers: &HeaderMap) -> Bytes {
        self.inner = None;
        let mut text = BytesMut::new();
        let has_status = trailers.contains_key("grpc-status");
        if !has_status {
            text.extend_from_slice(b"grpc-status: 13\r\n");
        }
        for (name, value) in trailers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        let framed = envelope(FLAG_TRAILERS, &text);
        self.written(framed)
    }
}

impl http_body::Body for GrpcWebBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            if self.trailers.is_empty() {
                return Poll::Ready(None);
            }
            let trailers = std::mem::take(&mut self.trailers);
            let end = self.end(&trailers);
            return Poll::Ready(Some(Ok(Frame::data(end))));
        };
        let data = match ready!(Pin::new(inner).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.written(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.end(&trailers)
                }
            },
            Some(Err(failure)) => {
                let mut trailers = HeaderMap::new();
                // A status that is no header is one without its text.
                let _added = failure.add_header(&mut trailers);
                self.end(&trailers)
            }
            None => self.end(&HeaderMap::new()),
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() && self.trailers.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
