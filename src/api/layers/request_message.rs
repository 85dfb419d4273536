//! Reads the message of a call before its handler runs, within a size and a time.
//!
//! A call that is opened and then sends nothing, or very little, takes up no permit, and a message
//! that is too long is refused by its length, before its bytes are read.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;

use crate::api::status;

/// What was read of a request, and the rest of it.
struct ReadBody {
    read: Bytes,
    rest: Body,
    /// When the next part must be there.
    due: Instant,
    /// When the request must have ended.
    end: Instant,
    /// None until the rest has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Limits callers that open a call and then send nothing, or very slowly.
pub(in crate::api) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a reflection stream: between two messages, and in all.
const NEXT_MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_STREAM_TIME: Duration = Duration::from_secs(600);
/// The flag and the length before each message.
const PREFIX_BYTES: usize = 5;

/// The request's body with its one message read, which has at most `max_bytes`. A longer one is
/// left to the handler's decoder, which refuses it.
///
/// # Errors
/// The message did not arrive in time, or the caller left.
pub(in crate::api) async fn read_one(body: Body, max_bytes: usize) -> Result<Body, Status> {
    let deadline = Instant::now() + MESSAGE_TIMEOUT;
    read(body, max_bytes, true, deadline, deadline).await
}

/// The body of a stream of requests with its first message read.
///
/// # Errors
/// As [`read_one`].
pub(in crate::api) async fn read_first(body: Body, max_bytes: usize) -> Result<Body, Status> {
    let start = Instant::now();
    read(body, max_bytes, false, start + MESSAGE_TIMEOUT, start + MAX_STREAM_TIME).await
}

async fn read(mut body: Body, max_bytes: usize, to_end: bool, due: Instant, end: Instant) -> Result<Body, Status> {
    let mut read = Bytes::new();
    while !(body.is_end_stream() || is_decided(&read, max_bytes, to_end)) {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout_at(due, frame).await.map_err(|_| status::message_missing(MESSAGE_TIMEOUT))?;
        match frame.transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => read = joined(read, data),
            // Trailers mean nothing in a request.
            Some(Err(_)) => {}
            None => break,
        }
    }
    let next = if to_end { due } else { Instant::now() + NEXT_MESSAGE_TIMEOUT };
    Ok(Body::new(ReadBody { read, rest: body, due: next.min(end), end, timer: None }))
}

/// Whether no more needs to be read: the message is too long, or there and the only one needed.
fn is_decided(read: &Bytes, max_bytes: usize, to_end: bool) -> bool {
    let Some(mut length) = read.get(1..PREFIX_BYTES) else { return false };
    let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
    let is_whole = read.len().saturating_sub(PREFIX_BYTES) >= length;
    // More than one message is more than a call may send.
    length > max_bytes || read.len() > PREFIX_BYTES + max_bytes || (is_whole && !to_end)
}

fn joined(read: Bytes, data: Bytes) -> Bytes {
    if read.is_empty() {
        return data;
    }
    let mut both = BytesMut::from(read);
    both.extend_from_slice(&data);
    both.freeze()
}

impl http_body::Body for ReadBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        // A body that always has more ends in time, too.
        if Instant::now() < self.end
            && let frame @ Poll::Ready(_) = Pin::new(&mut self.rest).poll_frame(context)
        {
            self.due = (Instant::now() + NEXT_MESSAGE_TIMEOUT).min(self.end);
            self.timer = None;
            return frame;
        }
        let due = self.due;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        timer.as_mut().poll(context).map(|()| Some(Err(status::message_missing(MESSAGE_TIMEOUT))))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use rstest::rstest;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    fn body(parts: impl tokio_stream::Stream<Item = Bytes> + Send + 'static) -> Body {
        use tokio_stream::StreamExt as _;
        Body::new(StreamBody::new(parts.map(|part| Ok::<_, Status>(Frame::data(part)))))
    }

    fn silence() -> impl tokio_stream::Stream<Item = Bytes> + Send + 'static {
        tokio_stream::pending()
    }

    fn message(declared: u32, sent: usize) -> Bytes {
        let mut message = BytesMut::from(&[0][..]);
        message.extend_from_slice(&declared.to_be_bytes());
        message.extend_from_slice(&vec![7; sent]);
        message.freeze()
    }

    /// Otherwise a few slow callers could occupy what all share for as long as they like.
    #[rstest]
    #[case::silent(Duration::from_secs(3_600))]
    #[case::a_little_at_a_time(Duration::from_secs(3))]
    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_in_time_ends_the_call(#[case] interval: Duration) {
        let parts = tokio_stream::iter(std::iter::repeat_with(|| Bytes::from_static(b"\0")));
        let begin = Instant::now();
        let status = read_one(body(tokio_stream::StreamExt::throttle(parts, interval)), 64).await.map(drop);
        let status = status.unwrap_err();
        assert_eq!(begin.elapsed().as_secs(), MESSAGE_TIMEOUT.as_secs());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
        assert_eq!(reason.as_deref(), Some("DEADLINE"), "nothing was recorded");
    }

    /// A message that is too long is not waited for: its length is enough.
    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_too_long_is_passed_on_at_once() {
        use tokio_stream::StreamExt as _;
        let begin = Instant::now();
        let parts = tokio_stream::once(message(4 * 1024 * 1024, 10)).chain(silence());
        let mut passed = read_one(body(parts), 1024).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(passed.frame().await.unwrap().unwrap().into_data().unwrap().len(), 15);
    }

    #[tokio::test]
    async fn a_message_in_parts_is_whole_for_the_handler() {
        let whole = message(20, 20);
        let parts = [whole.slice(..3), whole.slice(3..9), whole.slice(9..)];
        let read = read_one(body(tokio_stream::iter(parts)), 64).await.unwrap();
        assert_eq!(read.collect().await.unwrap().to_bytes(), whole);
    }

    #[rstest]
    #[case::a_silent_one(Duration::from_secs(3_600), 60)]
    #[case::a_slow_one(Duration::from_secs(50), 600)]
    #[tokio::test(start_paused = true)]
    async fn a_stream_of_requests_ends(#[case] interval: Duration, #[case] seconds: u64) {
        use tokio_stream::StreamExt as _;
        let begin = Instant::now();
        let more = tokio_stream::iter(std::iter::repeat_with(|| message(1, 1))).throttle(interval).skip(1);
        let first = tokio_stream::once(message(1, 1));
        let read = read_first(body(first.chain(more)), 64).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "the first message is there");
        assert_eq!(read.collect().await.map(drop).unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(begin.elapsed().as_secs(), seconds);
    }
}
