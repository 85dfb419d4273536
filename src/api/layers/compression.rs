//! Compresses answers with gzip, message by message, if the caller accepts gzip and the message
//! is large enough to gain from it.
//!
//! tonic compresses all messages of an answer or none, and most answers are too small to gain
//! anything.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::api::layers::call_metrics::code_in;

const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const GZIP: &str = "gzip";

/// Compression takes about 0.3 ms even for a small message; at 100 Mbit/s a smaller message arrives
/// sooner uncompressed.
const MIN_COMPRESSED_BYTES: usize = 8192;
/// The flag and the length before each message.
const PREFIX_BYTES: usize = 5;

/// The body of an answer; compresses its messages as they are sent.
struct CompressedBody {
    inner: Body,
    /// tonic yields whole messages. If it ever does not, the rest is sent unchanged.
    is_whole: bool,
}

/// Whether the caller accepts gzip.
pub(in crate::api) fn is_accepted(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| coding.trim() == GZIP)
}

/// The answer with its large messages compressed. One without messages, and one that is compressed
/// already, stays as it is.
pub(in crate::api) fn compress(mut answer: Response<Body>) -> Response<Body> {
    if code_in(answer.headers()).is_some() || answer.headers().contains_key(ENCODING) {
        return answer;
    }
    // The header may be set although no message is compressed: each message has its own flag.
    answer.headers_mut().insert(ENCODING, HeaderValue::from_static(GZIP));
    answer.map(|inner| Body::new(CompressedBody { inner, is_whole: true }))
}

impl http_body::Body for CompressedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) if self.is_whole => Frame::data(self.compress_messages(data)),
                Ok(data) => Frame::data(data),
                Err(frame) => frame,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl CompressedBody {
    /// The same messages, the large ones compressed.
    fn compress_messages(&mut self, mut data: Bytes) -> Bytes {
        if data.len() < PREFIX_BYTES + MIN_COMPRESSED_BYTES {
            self.is_whole = is_whole(&data);
            return data;
        }
        let mut output = BytesMut::with_capacity(data.len());
        while !data.is_empty() {
            let Some(message) = first_message(&mut data) else {
                self.is_whole = false;
                output.extend_from_slice(&data);
                break;
            };
            match gzip(&message) {
                Some(smaller) => output.extend_from_slice(&smaller),
                None => output.extend_from_slice(&message),
            }
        }
        output.freeze()
    }
}

fn is_whole(data: &Bytes) -> bool {
    let mut rest = data.clone();
    while !rest.is_empty() {
        if first_message(&mut rest).is_none() {
            return false;
        }
    }
    true
}

/// Splits off the first message with its prefix. None if it is incomplete.
fn first_message(data: &mut Bytes) -> Option<Bytes> {
    let mut head = data.get(1..PREFIX_BYTES)?;
    let length = usize::try_from(head.get_u32()).ok()?.checked_add(PREFIX_BYTES)?;
    (data.len() >= length).then(|| data.split_to(length))
}

/// Compresses the message. None if it is small, compressed already, or does not get smaller.
fn gzip(message: &Bytes) -> Option<Bytes> {
    let (prefix, content) = message.split_at_checked(PREFIX_BYTES)?;
    if content.len() < MIN_COMPRESSED_BYTES || prefix.first() != Some(&0) {
        return None;
    }
    let mut smaller = BytesMut::with_capacity(message.len() / 2);
    smaller.put_bytes(0, PREFIX_BYTES);
    // The fastest level achieves most of the gain.
    let mut encoder = GzEncoder::new(smaller.writer(), Compression::fast());
    encoder.write_all(content).ok()?;
    let mut smaller = encoder.finish().ok()?.into_inner();
    let length = u32::try_from(smaller.len().checked_sub(PREFIX_BYTES)?).ok()?;
    let mut head = smaller.get_mut(..PREFIX_BYTES)?;
    head.put_u8(1);
    head.put_u32(length);
    (smaller.len() < message.len()).then(|| smaller.freeze())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn message(content: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
    }

    /// What a client reads, and how many of the messages were compressed.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let (mut data, mut messages, mut compressed) = (Bytes::copy_from_slice(bytes), Vec::new(), 0);
        while !data.is_empty() {
            let whole = first_message(&mut data).unwrap();
            let mut content = whole[PREFIX_BYTES..].to_vec();
            if whole[0] == 1 {
                compressed += 1;
                let packed = std::mem::take(&mut content);
                GzDecoder::new(packed.as_slice()).read_to_end(&mut content).unwrap();
            }
            messages.push(content);
        }
        (messages, compressed)
    }

    async fn sent(frames: Vec<Vec<u8>>) -> (HeaderMap, Vec<u8>) {
        let frames = frames.into_iter().map(|frame| Ok::<_, Status>(Frame::data(Bytes::from(frame))));
        let answer = compress(Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames)))));
        let headers = answer.headers().clone();
        (headers, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn only_large_messages_are_compressed() {
        let (small, large) = (vec![7; MIN_COMPRESSED_BYTES - 1], b"recoup ".repeat(4_000));
        let frames = vec![[message(&small), message(&large), message(b"")].concat(), message(&small), message(&large)];
        let plain = frames.concat().len();
        let (headers, bytes) = sent(frames).await;
        assert_eq!(headers[ENCODING], GZIP);
        let expected = vec![small.clone(), large.clone(), Vec::new(), small, large];
        assert_eq!(read(&bytes), (expected, 2));
        assert!(bytes.len() < plain / 3, "{} of {plain}", bytes.len());
    }

    #[tokio::test]
    async fn incomplete_messages_are_sent_unchanged() {
        let whole = message(&b"recoup ".repeat(4_000));
        let (head, tail) = whole.split_at(9_000);
        for frames in [vec![head.to_vec(), tail.to_vec()], vec![head[..3].to_vec(), head[3..].to_vec(), tail.to_vec()]]
        {
            assert_eq!(sent(frames).await.1, whole);
        }
    }

    #[tokio::test]
    async fn an_error_is_not_compressed() {
        let answer = compress(Status::not_found("x").into_http());
        assert!(!answer.headers().contains_key(ENCODING));
        assert_eq!(code_in(answer.headers()), Some(tonic::Code::NotFound));
    }

    #[rstest]
    #[case(&["gzip"], true)]
    #[case(&["identity, deflate,gzip"], true)]
    #[case(&["identity", "gzip"], true)]
    #[case(&["identity,deflate"], false)]
    #[case(&["x-gzip"], false)]
    #[case(&[], false)]
    fn gzip_is_used_only_if_the_caller_accepts_it(#[case] lists: &[&str], #[case] expected: bool) {
        let value =
            |list: &&str| (http::HeaderName::from_static(ACCEPT_ENCODING), HeaderValue::from_str(list).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lists.iter().map(value) {
            headers.append(name, value);
        }
        assert_eq!(is_accepted(&headers), expected);
    }

    proptest! {
        #[test]
        fn compressed_messages_have_the_same_content(contents in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..20_000), 0..5)) {
            let frame: Vec<u8> = contents.iter().flat_map(|content| message(content)).collect();
            let output = CompressedBody { inner: Body::empty(), is_whole: true }.compress_messages(frame.into());
            prop_assert_eq!(read(&output).0, contents);
        }
    }
}
