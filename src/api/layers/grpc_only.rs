//! Rejects requests that are not gRPC before any handler runs.
//!
//! tonic passes variants that it does not support (gRPC-Web, JSON) to the handler, which then runs
//! although its caller cannot read the answer. The gRPC specification asks for 415, which no HTTP
//! client takes for a success.
//!
//! `te: trailers` is not required: proxies drop it.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::Semaphore;
use tonic::body::Body;

use crate::api::status;

/// The two media types of protocol buffers messages. Case does not matter, and parameters follow a
/// semicolon.
const CONTENT_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// Limits for reading the rest of a refused request.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
const MAX_DRAIN_TIME: Duration = Duration::from_millis(500);
static DRAINS: Semaphore = Semaphore::const_new(1024);

/// The answer to a request that is not gRPC. None if it is gRPC.
pub(in crate::api) fn rejection<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        let mut answer = rejected(StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(answer);
    }
    if !has_grpc_content(request.headers()) {
        let message = "a gRPC call has the content-type application/grpc or application/grpc+proto";
        return Some(rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    None
}

/// Whether [`rejection`] lets the request pass.
pub(in crate::api) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && has_grpc_content(request.headers())
}

fn has_grpc_content(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let media_type = value.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default();
    CONTENT_TYPES.iter().any(|known| known.eq_ignore_ascii_case(media_type.trim()))
}

fn rejected(code: StatusCode, message: &str) -> Response<Body> {
    let mut answer = status::not_grpc(message).into_http();
    *answer.status_mut() = code;
    answer
}

/// Reads the rest of a refused request, within limits. If an answer overtakes its request, HTTP/2
/// resets the stream, and some clients then report a broken connection instead of the answer.
pub(in crate::api) async fn drain(body: Body) {
    // With more than these the answer does not wait.
    let Ok(_drain) = DRAINS.try_acquire() else { return };
    let mut body = std::pin::pin!(body);
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MAX_DRAINED_BYTES {
                return;
            }
        }
    };
    // After the time limit the stream is reset; the answer is the same.
    let _is_whole = tokio::time::timeout(MAX_DRAIN_TIME, reading).await;
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use http_body::Frame;
    use rstest::rstest;
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    use super::*;

    #[rstest]
    #[case("POST", &["application/grpc"], None)]
    #[case("POST", &["application/grpc+proto"], None)]
    #[case("POST", &["Application/GRPC"], None)]
    #[case("POST", &["application/grpc; charset=utf-8"], None)]
    #[case("POST", &["application/grpc+proto ;x"], None)]
    #[case("POST", &["application/grpc+json"], Some(415))]
    #[case("POST", &["application/grpc+"], Some(415))]
    #[case("POST", &["application/grpc-web"], Some(415))]
    #[case("POST", &["application/grpc-web+proto"], Some(415))]
    #[case("POST", &["application/grpc-web-text"], Some(415))]
    #[case("POST", &["application/grpcx"], Some(415))]
    #[case("POST", &["application/json"], Some(415))]
    #[case("POST", &["text/plain"], Some(415))]
    #[case("POST", &["text/plain; application/grpc"], Some(415))]
    #[case("POST", &[""], Some(415))]
    #[case("POST", &["\u{fc}"], Some(415))]
    #[case("POST", &[], Some(415))]
    #[case("POST", &["application/grpc", "text/plain"], Some(415))]
    #[case("GET", &["application/grpc"], Some(405))]
    #[case("PUT", &["application/grpc"], Some(405))]
    #[case("OPTIONS", &[], Some(405))]
    #[case("post", &["application/grpc"], Some(405))]
    fn only_grpc_requests_are_accepted(#[case] method: &str, #[case] types: &[&str], #[case] expected: Option<u16>) {
        let mut request = Request::builder().method(method).uri("/recoup.v1.RefundService/CreateRefund");
        for value in types {
            request = request.header(CONTENT_TYPE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let answer = rejection(&request.body(()).unwrap());
        assert_eq!(answer.as_ref().map(|answer| answer.status().as_u16()), expected);
        if let Some(answer) = answer {
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), Code::InvalidArgument);
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            assert_eq!(reason.as_deref(), Some("INVALID_REQUEST"), "nothing was recorded");
            assert_eq!(answer.headers().contains_key(ALLOW), answer.status() == StatusCode::METHOD_NOT_ALLOWED);
        }
    }

    /// Frames of 1 KiB, followed by the end or by nothing.
    struct RequestBody {
        left: usize,
        ends: bool,
        read: Arc<AtomicUsize>,
    }

    impl http_body::Body for RequestBody {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.left == 0 {
                return if self.ends { Poll::Ready(None) } else { Poll::Pending };
            }
            self.left -= 1;
            self.read.fetch_add(1, Ordering::SeqCst);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 1024])))))
        }
    }

    #[rstest]
    #[case::whole(3, true, 3, Duration::ZERO)]
    #[case::too_large(1_000, true, 65, Duration::ZERO)]
    #[case::without_end(3, false, 3, MAX_DRAIN_TIME)]
    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_rejected_request_is_read_within_limits(
        #[case] left: usize,
        #[case] ends: bool,
        #[case] frames: usize,
        #[case] time: Duration,
    ) {
        let read = Arc::new(AtomicUsize::new(0));
        let began = tokio::time::Instant::now();
        drain(Body::new(RequestBody { left, ends, read: read.clone() })).await;
        // The timer counts in milliseconds.
        let took = Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap());
        assert_eq!(read.load(Ordering::SeqCst), frames);
        assert!(took >= time && took <= time + Duration::from_millis(1), "{took:?}");
    }
}
