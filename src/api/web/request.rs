//! A request as a call of the gRPC services.
//!
//! Its message is read and converted as the services read it, within their limits of size and time.

use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body::{Frame, SizeHint};
use prost_reflect::MethodDescriptor;
use tonic::Status;
use tonic::body::Body;

use super::contract;
use super::format::{Codec, Format};
use crate::api::{MAX_REQUEST_BYTES, status};
use crate::domain::target::FieldViolation;

/// What a request's body is read with.
#[derive(Clone)]
pub(super) struct MessageReader {
    format: Format,
    is_gzip: bool,
    method: MethodDescriptor,
}

/// The body of a gRPC request: one message, converted when the whole body has arrived.
struct ConvertedBody {
    inner: Body,
    read: BytesMut,
    /// None after the message was given.
    reader: Option<MessageReader>,
}

const CONNECT_VERSION: &str = "connect-protocol-version";
const CONNECT_TIMEOUT: &str = "connect-timeout-ms";
const CONNECT_ENCODING: &str = "connect-content-encoding";
const CONNECT_ACCEPT_ENCODING: &str = "connect-accept-encoding";
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The flag and the length before each message, of gRPC and of Connect's envelopes.
pub(super) const PREFIX_BYTES: usize = 5;
const FLAG_COMPRESSED: u8 = 1;
/// gRPC's timeouts have at most eight digits.
const MAX_TIMEOUT_MS: u64 = 99_999_999;
/// Connect's timeouts have at most ten digits.
const MAX_TIMEOUT_DIGITS: usize = 10;
/// gRPC-Web's text is a third longer than its messages.
const MAX_TEXT_BYTES: usize = (MAX_REQUEST_BYTES + PREFIX_BYTES) / 3 * 4 + 8;

/// The request as a gRPC call.
///
/// # Errors
/// A header is wrong, or asks for what the endpoint does not offer.
pub(super) fn to_grpc(
    request: Request<Body>,
    format: Format,
    method: MethodDescriptor,
) -> Result<Request<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let is_gzip = match format {
        Format::Unary(_) => is_gzip(&head.headers, &CONTENT_ENCODING)?,
        Format::Stream(_) => is_gzip(&head.headers, &HeaderName::from_static(CONNECT_ENCODING))?,
        Format::GrpcWeb { .. } => false,
    };
    if !matches!(format, Format::GrpcWeb { .. }) {
        check_version(&head.headers)?;
        if let Some(timeout) = timeout(&head.headers)? {
            head.headers.insert(GRPC_TIMEOUT, timeout);
        } else {
            head.headers.remove(GRPC_TIMEOUT);
        }
        head.headers.remove(GRPC_ENCODING);
    }
    // Responses are converted as they are; gRPC-Web's own could be compressed, and no browser
    // client asks for that.
    for name in [ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    head.headers.remove(GRPC_ACCEPT_ENCODING);
    for name in [CONNECT_VERSION, CONNECT_TIMEOUT, CONNECT_ENCODING, CONNECT_ACCEPT_ENCODING] {
        head.headers.remove(name);
    }
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    head.version = Version::HTTP_2;
    let body = match format {
        Format::GrpcWeb { is_text: false } => body,
        _ => {
            let reader = Some(MessageReader { format, is_gzip, method });
            Body::new(ConvertedBody { inner: body, read: BytesMut::new(), reader })
        }
    };
    Ok(Request::from_parts(head, body))
}

fn is_gzip(headers: &HeaderMap, name: &HeaderName) -> Result<bool, Status> {
    match headers.get(name).map(HeaderValue::to_str) {
        None | Some(Ok("" | "identity")) => Ok(false),
        Some(Ok("gzip")) => Ok(true),
        Some(_) => Err(status::not_offered("the request may be compressed with gzip and nothing else")),
    }
}

fn check_version(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(CONNECT_VERSION) {
        None => Ok(()),
        Some(version) if version == "1" => Ok(()),
        Some(_) => Err(invalid(CONNECT_VERSION, "must be 1")),
    }
}

/// As gRPC writes it.
fn timeout(headers: &HeaderMap) -> Result<Option<HeaderValue>, Status> {
    let Some(value) = headers.get(CONNECT_TIMEOUT) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| {
        (1..=MAX_TIMEOUT_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    });
    let millis: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| invalid(CONNECT_TIMEOUT, "must be a whole number of milliseconds with at most ten digits"))?;
    let text = if millis <= MAX_TIMEOUT_MS { format!("{millis}m") } else { format!("{}S", millis / 1000) };
    Ok(HeaderValue::try_from(text).ok())
}

fn invalid(field: &str, sentence: &str) -> Status {
    status::invalid(vec![FieldViolation::new(field, sentence.to_owned())])
}

fn too_large() -> Status {
    invalid("", &format!("is larger than {MAX_REQUEST_BYTES} bytes"))
}

impl MessageReader {
    fn max_bytes(&self) -> usize {
        match self.format {
            Format::GrpcWeb { is_text: true } => MAX_TEXT_BYTES,
            _ => MAX_REQUEST_BYTES + PREFIX_BYTES,
        }
    }

    /// The message as gRPC frames it.
    fn read(&self, body: Bytes) -> Result<Bytes, Status> {
        let (codec, message) = match self.format {
            Format::GrpcWeb { .. } => return from_text(&body),
            Format::Unary(codec) => (codec, if self.is_gzip { inflate(&body)? } else { body }),
            Format::Stream(codec) => (codec, self.message_in(body)?),
        };
        if message.len() > MAX_REQUEST_BYTES {
            return Err(too_large());
        }
        let message = match codec {
            Codec::Proto => message,
            Codec::Json => contract::from_json(self.method.input(), &message)?.into(),
        };
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).map_err(|_| too_large())?);
        framed.extend_from_slice(&message);
        Ok(framed.freeze())
    }

    /// The message of the one envelope that a call has.
    fn message_in(&self, mut body: Bytes) -> Result<Bytes, Status> {
        let not_one = || status::not_offered("the request must be one whole message in one envelope");
        if body.len() < PREFIX_BYTES {
            return Err(not_one());
        }
        let (flags, length) = (body.get_u8(), body.get_u32());
        if usize::try_from(length) != Ok(body.len()) {
            return Err(not_one());
        }
        match (flags, self.is_gzip) {
            (0, _) => Ok(body),
            (FLAG_COMPRESSED, true) => inflate(&body),
            _ => Err(invalid("", "has an envelope with flags that its headers do not announce")),
        }
    }
}

/// gRPC-Web's text: base64, in one part or in several that are padded each.
fn from_text(text: &[u8]) -> Result<Bytes, Status> {
    let not_base64 = |_| invalid("", "is not base64");
    let mut message = BytesMut::new();
    for part in text.split_inclusive(|byte| *byte == b'=').collect::<Vec<_>>() {
        // The second character of a padding.
        if part == b"=" {
            continue;
        }
        let unpadded = part.strip_suffix(b"=").unwrap_or(part);
        let mut padded = unpadded.to_vec();
        padded.resize(unpadded.len().next_multiple_of(4), b'=');
        message.extend_from_slice(&STANDARD.decode(padded).map_err(not_base64)?);
    }
    Ok(message.freeze())
}

fn inflate(compressed: &[u8]) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let limit = u64::try_from(MAX_REQUEST_BYTES + 1).unwrap_or(u64::MAX);
    GzDecoder::new(compressed).take(limit).read_to_end(&mut message).map_err(|_| invalid("", "is not gzip"))?;
    if message.len() > MAX_REQUEST_BYTES { Err(too_large()) } else { Ok(message.into()) }
}

impl http_body::Body for ConvertedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(max_bytes) = self.reader.as_ref().map(MessageReader::max_bytes) else { return Poll::Ready(None) };
        loop {
            let data = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    self.reader = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => break,
            };
            if self.read.len() + data.len() > max_bytes {
                self.reader = None;
                return Poll::Ready(Some(Err(too_large())));
            }
            self.read.extend_from_slice(&data);
        }
        let body = std::mem::take(&mut self.read).freeze();
        let Some(reader) = self.reader.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(reader.read(body).map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
