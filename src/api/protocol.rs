//! Refuses requests that are not gRPC before any handler runs.
//!
//! tonic passes variants that it does not support (gRPC-Web, JSON) to the handler, which then runs
//! although its caller cannot read the answer. The gRPC specification asks for 415, which no HTTP
//! client takes for a success.
//!
//! `te: trailers` is not required: proxies drop it.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;

use crate::api::status;

/// The two media types of protocol buffers messages. Case does not matter, and parameters follow a
/// semicolon.
const CONTENT_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// The answer to a request that is not gRPC; none to one that is.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        let mut answer = refused(StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(answer);
    }
    if !has_grpc_content(request.headers()) {
        let message = "a gRPC call has the content-type application/grpc or application/grpc+proto";
        return Some(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    None
}

fn has_grpc_content(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let media_type = value.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default();
    CONTENT_TYPES.iter().any(|known| known.eq_ignore_ascii_case(media_type.trim()))
}

fn refused(code: StatusCode, message: &str) -> Response<Body> {
    let mut answer = status::not_grpc(message).into_http();
    *answer.status_mut() = code;
    answer
}

#[cfg(test)]
mod tests {
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
    fn only_grpc_is_let_in(#[case] method: &str, #[case] types: &[&str], #[case] expected: Option<u16>) {
        let mut request = Request::builder().method(method).uri("/recoup.v1.RefundService/CreateRefund");
        for value in types {
            request = request.header(CONTENT_TYPE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let answer = refusal(&request.body(()).unwrap());
        assert_eq!(answer.as_ref().map(|answer| answer.status().as_u16()), expected);
        if let Some(answer) = answer {
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), Code::InvalidArgument);
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            assert_eq!(reason.as_deref(), Some("INVALID_REQUEST"), "nothing was recorded");
            assert_eq!(answer.headers().contains_key(ALLOW), answer.status() == StatusCode::METHOD_NOT_ALLOWED);
        }
    }
}
