//! The error table of name.com with exact messages and details.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use time::OffsetDateTime;

use super::orders::Item;
use super::{NoDetails, Settings};
use crate::request::Response;

/// Why a call was not answered with 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400, with a sentence from `orders.rs` or `refund.rs`.
    BadRequest(String),
    /// 400 for a violation of the schema. All sentences but one are inferred.
    Malformed(String),
    /// 401: no credentials, unreadable ones, an unknown account or a wrong token.
    Unauthorized,
    /// 403: the account is no approved reseller.
    PermissionDenied,
    /// 404 for a path that is no endpoint here; the details are inferred.
    NoSuchPath,
    /// 404: there is no such order, or it belongs to another account.
    NoSuchOrder(i32),
    /// 404: there is no such item, or it belongs to another order.
    NoSuchItem { order: i32, item: i32 },
    /// 404: there is no such domain, it was deleted, or it belongs to another account; the details
    /// are inferred.
    NoSuchDomain(String),
    /// 405.
    MethodNotAllowed { allowed: Method },
    /// 409: an idempotency key for a different request.
    KeyReused,
    /// 409: the account has reached its threshold of deletions within the grace period.
    ThresholdExceeded,
    /// 415.
    WrongContentType,
    /// 423: the grace period is over.
    WindowExpired { domain: String, days: u32 },
    /// 409: the first request under the idempotency key is in progress; the details are a guess.
    KeyInFlight,
    /// 429; `reset` is in seconds since the epoch, UTC, and `wait` in seconds from now.
    RateLimited { reset: i64, wait: i64, limit: u32, window: &'static str },
    /// 500.
    Internal,
    /// 502: the registry cannot be reached.
    RegistryUnavailable,
    /// 503.
    Maintenance,
    /// 504.
    UpstreamTimeout,
}

/// The details of the documented 409, also the message of an item that reaches the threshold within
/// a call.
pub(super) const THRESHOLD_DETAILS: &str =
    "AGP delete threshold has been exceeded for this account. Please contact support.";

impl Refusal {
    /// The refusal with an HTTP status, for an item that is set to refuse its refund; none if the
    /// table has no such status.
    pub(super) fn of_status(status: u16, order: i32, item: &Item, now: OffsetDateTime) -> Option<Refusal> {
        Some(match status {
            400 => Self::BadRequest(format!("Order item {} is not eligible for refund.", item.id)),
            401 => Self::Unauthorized,
            403 => Self::PermissionDenied,
            404 => Self::NoSuchItem { order, item: item.id },
            409 => Self::ThresholdExceeded,
            415 => Self::WrongContentType,
            423 => Self::WindowExpired { domain: item.name.clone().unwrap_or_default(), days: 5 },
            429 => Self::RateLimited { reset: now.unix_timestamp() + 1, wait: 1, limit: 20, window: "second" },
            500 => Self::Internal,
            502 => Self::RegistryUnavailable,
            503 => Self::Maintenance,
            504 => Self::UpstreamTimeout,
            _ => return None,
        })
    }

    /// The answer.
    pub(super) fn answer(&self, settings: &Settings) -> Response {
        let (status, message, usual) = self.row();
        let other = match self {
            Self::Malformed(_) => settings.malformed_details.clone(),
            Self::RateLimited { .. } => settings.rate_limit_details.clone(),
            _ => None,
        };
        let details = other.or(usual);
        let is_bare = matches!(self, Self::RateLimited { .. }) && !settings.rate_limit_message;
        let mut answer = match (settings.no_details, &details) {
            _ if is_bare => json_answer(status, &BareBody { details: "" }),
            (NoDetails::Null, None) => json_answer(status, &NullDetails { message, details: () }),
            _ => json_answer(status, &ErrorBody { message, details }),
        };
        match self {
            Self::MethodNotAllowed { allowed } => {
                if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
                    answer.headers.insert(header::ALLOW, value);
                }
            }
            Self::RateLimited { reset, wait, .. } => {
                answer.headers.insert("x-ratelimit-reset", HeaderValue::from(*reset));
                if settings.retry_after {
                    answer.headers.insert(header::RETRY_AFTER, HeaderValue::from(*wait));
                }
            }
            _ => {}
        }
        answer
    }

    /// Its details.
    pub(super) fn details(&self) -> Option<String> {
        self.row().2
    }

    fn row(&self) -> (StatusCode, &'static str, Option<String>) {
        match self {
            Self::BadRequest(details) | Self::Malformed(details) => {
                (StatusCode::BAD_REQUEST, "Bad Request", Some(details.clone()))
            }
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized", None),
            Self::PermissionDenied => {
                (StatusCode::FORBIDDEN, "Permission denied", Some("Failed authentication".to_owned()))
            }
            Self::NoSuchPath => {
                (StatusCode::NOT_FOUND, "Not Found", Some("The requested resource does not exist.".to_owned()))
            }
            Self::NoSuchOrder(order) => {
                (StatusCode::NOT_FOUND, "Not Found", Some(format!("Order with ID {order} does not exist.")))
            }
            Self::NoSuchItem { order, item } => {
                let details = format!("Order item {item} does not exist or does not belong to order {order}.");
                (StatusCode::NOT_FOUND, "Not Found", Some(details))
            }
            Self::NoSuchDomain(name) => {
                (StatusCode::NOT_FOUND, "Not Found", Some(format!("Domain {name} does not exist.")))
            }
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", None),
            Self::KeyReused => {
                let details = "Idempotency key has been reused for a different request.";
                (StatusCode::CONFLICT, "Conflict", Some(details.to_owned()))
            }
            Self::KeyInFlight => {
                let details = "A request with this idempotency key is still being processed.";
                (StatusCode::CONFLICT, "Conflict", Some(details.to_owned()))
            }
            Self::ThresholdExceeded => (StatusCode::CONFLICT, "Conflict", Some(THRESHOLD_DETAILS.to_owned())),
            Self::WrongContentType => {
                let message = "The 'Content-Type' header must be 'application/json' for this request.";
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, message, None)
            }
            Self::WindowExpired { domain, days } => {
                let details = format!(
                    "The Add Grace Period (AGP) deletion window has expired for domain {domain}. AGP deletes are only allowed \
                     within {days} days of registration."
                );
                (StatusCode::LOCKED, "Resource Locked", Some(details))
            }
            // Details are documented, but not their text.
            Self::RateLimited { limit, window, .. } => {
                let details = format!("The limit of {limit} requests per {window} has been exceeded.");
                (StatusCode::TOO_MANY_REQUESTS, "Rate Limit Exceeded", Some(details))
            }
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", Some("Something went wrong.".to_owned()))
            }
            Self::RegistryUnavailable => (StatusCode::BAD_GATEWAY, "Registry Connection Unavailable", None),
            Self::Maintenance => {
                let details =
                    "The API is offline for scheduled maintenance. See https://status.name.com for updates.".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", Some(details))
            }
            Self::UpstreamTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, "The upstream server is taking too long to respond.", None)
            }
        }
    }
}

/// A JSON answer.
pub(super) fn json_answer(status: StatusCode, body: &impl Serialize) -> Response {
    // Structs of strings and numbers can always be serialized.
    let body = serde_json::to_vec(body).unwrap_or_default();
    json_bytes(status, body.into())
}

/// A JSON answer with a serialized body.
pub(super) fn json_bytes(status: StatusCode, body: Bytes) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response { status, headers, body }
}

#[derive(Serialize)]
struct NullDetails {
    message: &'static str,
    details: (),
}

/// The other form of 429, whose `message` is optional.
#[derive(Serialize)]
struct BareBody {
    details: &'static str,
}

#[derive(Serialize)]
struct ErrorBody {
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
}
