//! A status as the Connect protocol writes it: `{"code", "message", "details"}`, and the HTTP
//! status that belongs to its code.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::contract::Contract;
use super::response::WholeBody;

/// The error of a unary call, or of a request that is no call.
pub(super) fn response(contract: &Contract, status: &Status) -> Response<Body> {
    with_code(contract, status, http_status(status.code()))
}

/// As [`response`], with another HTTP status.
pub(super) fn with_code(contract: &Contract, status: &Status, code: StatusCode) -> Response<Body> {
    let mut response = Response::new(WholeBody::boxed(to_json(contract, status).to_string().into(), None));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    add_hints(status, headers);
    response
}

/// The headers that HTTP clients know for some errors.
pub(super) fn add_hints(status: &Status, headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status.code() == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    if let Some(delay) = delay {
        // In whole seconds, and never earlier.
        headers.insert(RETRY_AFTER, HeaderValue::from(delay.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)));
    }
}

/// Each detail has its bytes, which generated clients decode, and `debug`, which everyone can read.
pub(super) fn to_json(contract: &Contract, status: &Status) -> Value {
    let mut error = Map::new();
    error.insert("code".to_owned(), json!(code_name(status.code())));
    if !status.message().is_empty() {
        error.insert("message".to_owned(), json!(status.message()));
    }
    let decoded = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    let details: Vec<Value> = decoded
        .details
        .iter()
        .map(|detail| {
            let type_name = detail.type_url.rsplit('/').next().unwrap_or_default();
            let mut entry = json!({"type": type_name, "value": STANDARD_NO_PAD.encode(&detail.value)});
            if let Some((debug, entry)) = contract.error_detail(type_name, &detail.value).zip(entry.as_object_mut()) {
                entry.insert("debug".to_owned(), debug);
            }
            entry
        })
        .collect();
    if !details.is_empty() {
        error.insert("details".to_owned(), Value::Array(details));
    }
    Value::Object(error)
}

/// Whether the call was refused before its caller was known.
pub(super) fn is_credentials_refusal(status: &Status) -> bool {
    let is_reason = |reason: &str| matches!(reason, "CREDENTIALS_MISSING" | "CREDENTIALS_INVALID");
    status.get_error_details().error_info().is_some_and(|info| is_reason(&info.reason))
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// As the Connect protocol has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // 499, which nginx made common.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status;
    use crate::domain::target::FieldViolation;

    #[test]
    fn reason_and_fields_can_be_read_without_decoding() {
        let contract = Contract::new().unwrap();
        let status = status::invalid(vec![FieldViolation::new("refund_id", "is required")]);
        let error = to_json(&contract, &status);
        assert_eq!(error["code"], "invalid_argument");
        let details = error["details"].as_array().unwrap();
        let debug = |name: &str| &details.iter().find(|detail| detail["type"] == name).unwrap()["debug"];
        assert_eq!(debug("google.rpc.ErrorInfo")["reason"], "INVALID_REQUEST");
        assert_eq!(debug("google.rpc.ErrorInfo")["domain"], "recoup.v1");
        assert_eq!(debug("google.rpc.BadRequest")["fieldViolations"][0]["field"], "refund_id");
        let value = details[0]["value"].as_str().unwrap();
        assert!(!value.contains('=') && STANDARD_NO_PAD.decode(value).is_ok());
    }

    #[test]
    fn http_clients_get_the_headers_that_they_know() {
        let contract = Contract::new().unwrap();
        let missing = response(&contract, &status::credentials_missing());
        assert_eq!(missing.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(missing.headers()[WWW_AUTHENTICATE], "Bearer");
        let quota = status::quota_exceeded("shop", "calls_per_second", std::time::Duration::from_millis(1200));
        let quota = response(&contract, &quota);
        assert_eq!(quota.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(quota.headers()[RETRY_AFTER], "2");
    }
}
