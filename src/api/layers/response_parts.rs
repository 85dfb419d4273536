//! Sends a large message in the parts in which its handler has encoded it.
//!
//! tonic encodes a message into one buffer, which grows by being copied. Pages of lists are a
//! megabyte each, and many callers may ask for one at the same time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use prost::Message;
use tonic::Status;
use tonic::body::Body;

/// An encoded message in parts, sent instead of the message of the response that has it in its
/// extensions.
#[derive(Clone, Default)]
pub(in crate::api) struct ResponseParts {
    full: Vec<Bytes>,
    last: BytesMut,
}

/// Sends the parts as one gRPC message.
struct PartsBody {
    parts: VecDeque<Bytes>,
    is_over: bool,
}

/// A larger block of memory would be one of its own for the allocator, and be kept for a while.
const PART_BYTES: usize = 64 * 1024;

impl ResponseParts {
    /// Adds some of the message's fields: encoded messages in a row are one message.
    pub(in crate::api) fn push(&mut self, fields: &impl Message) {
        let length = fields.encoded_len();
        if self.last.len() + length > PART_BYTES {
            self.full.push(self.last.split().freeze());
        }
        self.last.reserve(length.max(if self.last.is_empty() { PART_BYTES } else { 0 }));
        fields.encode_raw(&mut self.last);
    }

    /// Flag, length, and the parts. None for a message that gRPC cannot send.
    fn frame(self) -> Option<VecDeque<Bytes>> {
        let mut parts = VecDeque::from(self.full);
        parts.push_back(self.last.freeze());
        let mut prefix = BytesMut::with_capacity(5);
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(parts.iter().map(Bytes::len).sum::<usize>()).ok()?);
        parts.push_front(prefix.freeze());
        parts.retain(|part| !part.is_empty());
        Some(parts)
    }
}

/// The response with the parts in its extensions as its message. As a whole for a layer that
/// changes messages.
pub(in crate::api) fn send(mut response: Response<Body>, as_a_whole: bool) -> Response<Body> {
    let parts = response.extensions_mut().remove::<ResponseParts>();
    let Some(mut parts) = parts.and_then(ResponseParts::frame) else { return response };
    if as_a_whole {
        parts = VecDeque::from([parts.make_contiguous().concat().into()]);
    }
    response.map(|_| Body::new(PartsBody { parts, is_over: false }))
}

impl http_body::Body for PartsBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(part) = self.parts.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    use rstest::rstest;

    use super::*;
    use crate::proto::v1::{ListRefundsResponse, Refund};

    fn one(number: usize) -> ListRefundsResponse {
        let refund = Refund { refund_id: format!("{number:030000}"), ..Refund::default() };
        ListRefundsResponse { refunds: vec![refund], ..ListRefundsResponse::default() }
    }

    #[rstest]
    #[case::nothing(0, 1)]
    #[case::one(1, 2)]
    #[case::several(9, 6)]
    #[tokio::test]
    async fn the_parts_are_one_message(#[case] refunds: usize, #[case] frames: usize) {
        let mut expected = ListRefundsResponse::default();
        let mut parts = ResponseParts::default();
        for number in 0..refunds {
            parts.push(&one(number));
            expected.refunds.extend(one(number).refunds);
        }
        for as_a_whole in [false, true] {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(parts.clone());
            let mut body = send(response, as_a_whole).into_body();
            let (mut bytes, mut count) = (Vec::new(), 0);
            let mut left = body.size_hint().exact().unwrap();
            let trailers = loop {
                match body.frame().await.unwrap().unwrap().into_data() {
                    Ok(data) => {
                        left -= data.len() as u64;
                        assert_eq!(body.size_hint().exact(), Some(left));
                        bytes.extend(data);
                        count += 1;
                    }
                    Err(frame) => break frame.into_trailers().unwrap(),
                }
            };
            assert_eq!(trailers.get("grpc-status").unwrap(), "0");
            assert!(body.is_end_stream());
            assert_eq!(count, if as_a_whole { 1 } else { frames });
            let (prefix, message) = bytes.split_at(5);
            assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
            assert_eq!(ListRefundsResponse::decode(message).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_response_without_parts_stays_as_it_is() {
        let body = send(Response::new(Body::new("x".to_owned().map_err(|never| match never {}))), false).into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x");
    }
}
