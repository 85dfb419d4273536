//! Process Refund, as specified: the request's body and the meaning of each answer.
//!
//! If an answer lists items, its rows decide (`rows.rs`), whatever the status is. If it lists
//! none, an error is a definite refusal only with a documented status *and* the documented body
//! `{"message", "details"}`; a proxy's HTML page with the same status says nothing about the
//! refund. 401 and 429 prove by themselves that nothing was processed.

use http::HeaderName;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::domain::clock::Timestamp;
use crate::domain::outcome::{DoubtReason, ErrorCategory, Outcome, ProviderError};
use crate::domain::target::NamecomTarget;
use crate::http::client::HttpResponse;
use crate::providers::json_object::Object;
use crate::providers::namecom::fields::to_timestamp;
use crate::providers::namecom::listing::Listing;
use crate::providers::namecom::rows::{ItemizedReply, another_key, read_rows};
use crate::providers::redact::Redactor;
use crate::providers::text;

/// Makes a second send the same request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");
/// Present if the answer is a replay.
pub(super) const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("x-idempotent-replay");
/// When the rate limit ends, in UTC epoch seconds.
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The rate limit is 20 per second, so a reset further ahead than this, in seconds, is a mistake.
const MAX_PAUSE_SECONDS: i64 = 3_600;

/// The request's body: the same bytes for the same target, in whatever order its items were named.
pub(crate) fn refund_body(target: &NamecomTarget) -> String {
    let items: Vec<String> = target.order_item_ids().iter().map(i32::to_string).collect();
    format!("{{\"orderId\":{},\"orderItemIds\":[{}]}}", target.order_id(), items.join(","))
}

/// Interprets an answer to Process Refund, received at `now`.
pub(crate) fn read_refund(
    answer: &HttpResponse,
    key: &str,
    target: &NamecomTarget,
    now: Timestamp,
    redactor: &Redactor,
) -> Outcome {
    // Only a text that decodes without loss is believed. Rows are also searched for in the raw
    // bytes, because the claimed charset may be wrong.
    let text = text::read(answer);
    let body = text.as_deref().unwrap_or_default();
    let listing = match Listing::of(body) {
        empty if empty.is_empty() => Listing::of(&String::from_utf8_lossy(&answer.body)),
        listing => listing,
    };
    let listed = ItemizedReply { status: answer.status, headers: &answer.headers, body, listing: &listing };
    if answer.headers.get_all(IDEMPOTENCY_KEY).iter().any(|echo| echo.as_bytes() != key.as_bytes()) {
        return another_key(&listed, redactor);
    }
    if answer.status == 200 || !listing.is_empty() {
        return read_rows(&listed, target, redactor);
    }
    let error_text = ErrorBody::read(body, redactor);
    if answer.status >= 500 {
        let error_text = error_text.map(|error_text| format!(" {error_text}")).unwrap_or_default();
        return Outcome::Unknown {
            reason: DoubtReason::ProviderServerError,
            evidence: format!("HTTP {}{error_text}", answer.status),
        };
    }
    read_refusal(answer, error_text, now)
}

/// The body of every error. The message is always there.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    message: String,
    details: Option<String>,
}

impl ErrorBody {
    /// `message: details`, if the body is the documented one and not empty.
    pub(super) fn read(body: &str, redactor: &Redactor) -> Option<String> {
        let Object(body) = serde_json::from_str::<Object<ErrorBody>>(body).ok()?;
        let details = body.details.unwrap_or_default();
        let parts: Vec<&str> = [body.message.as_str(), &details].into_iter().filter(|part| !part.is_empty()).collect();
        Some(redactor.text(&parts.join(": "))).filter(|error_text| !error_text.is_empty())
    }
}

/// Whether an answer with this status and error text is about the login, the account or a proxy,
/// and not about the request.
pub(super) fn refuses_the_login(status: u16, error_text: Option<&str>) -> bool {
    match status {
        401 => true,
        403 => error_text.is_none_or(is_failed_authentication),
        _ => false,
    }
}

/// Interprets a status below 500 without rows. `error_text` is there if the body is the
/// documented one.
fn read_refusal(answer: &HttpResponse, error_text: Option<String>, now: Timestamp) -> Outcome {
    let status = answer.status;
    let error = |category, message| ProviderError { code: status.to_string(), message, http_status: status, category };
    let not_sent = |category, retry_at| {
        let message = error_text.clone().unwrap_or_else(|| format!("HTTP {status}, without the documented body"));
        Outcome::NotSent { error: error(category, message), retry_at }
    };
    // Documented as "not processed" by the status alone, and observed without the documented body.
    if refuses_the_login(status, error_text.as_deref()) {
        return not_sent(ErrorCategory::CredentialsRefused, None);
    }
    if status == 429 {
        return not_sent(ErrorCategory::LimitReached, retry_at(answer, now));
    }
    let Some(message) = error_text else {
        return Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: format!("HTTP {status} without the documented error in JSON"),
        };
    };
    let category = match status {
        400 => match category_of(&message) {
            ErrorCategory::Other => ErrorCategory::InvalidRequest,
            hinted => hinted,
        },
        403 => ErrorCategory::PermissionDenied,
        404 => ErrorCategory::TargetNotFound,
        405 | 415 => ErrorCategory::InvalidRequest,
        409 => conflict_of(&message),
        423 => ErrorCategory::RefundPeriodOver,
        _ => {
            return Outcome::Unknown {
                reason: DoubtReason::UnreadableReply,
                evidence: format!("HTTP {status}, which is not documented: {message}"),
            };
        }
    };
    Outcome::Refused { error: error(category, message), items: Vec::new() }
}

fn is_failed_authentication(error_text: &str) -> bool {
    error_text.to_lowercase().contains("failed authentication")
}

/// A hint from the error text, for people and dashboards.
pub(super) fn category_of(message: &str) -> ErrorCategory {
    let message = message.to_lowercase();
    if message.contains("already been refunded") {
        ErrorCategory::AlreadyRefunded
    } else if message.contains("not eligible") {
        ErrorCategory::NotEligible
    } else {
        ErrorCategory::Other
    }
}

fn conflict_of(message: &str) -> ErrorCategory {
    let message = message.to_lowercase();
    if message.contains("idempotency") {
        ErrorCategory::IdentifierInUse
    } else if message.contains("threshold") {
        ErrorCategory::LimitReached
    } else {
        ErrorCategory::Other
    }
}

/// When the provider says that it accepts requests again; None if it names no time, or none within
/// the hour.
fn retry_at(answer: &HttpResponse, now: Timestamp) -> Option<Timestamp> {
    let text = |name: HeaderName| Some(answer.headers.get(name)?.to_str().ok()?.trim());
    let seconds = |name: HeaderName| text(name)?.parse::<i64>().ok();
    let reset = seconds(RATELIMIT_RESET).map(Timestamp::from_seconds);
    // HTTP allows either a date or a number of seconds.
    let date = text(http::header::RETRY_AFTER).and_then(http_date);
    let after = seconds(http::header::RETRY_AFTER)
        .filter(|pause| (0..=MAX_PAUSE_SECONDS).contains(pause))
        .map(|pause| Timestamp::from_micros(now.as_micros().saturating_add(pause.saturating_mul(1_000_000))));
    let latest = Timestamp::from_micros(now.as_micros().saturating_add(MAX_PAUSE_SECONDS * 1_000_000));
    [reset, after, date].into_iter().flatten().filter(|time| *time > now && *time <= latest).max()
}

/// "Wed, 04 Mar 2026 05:07:00 GMT", the only date format that HTTP lets a server send.
fn http_date(text: &str) -> Option<Timestamp> {
    OffsetDateTime::parse(text, &Rfc2822).ok().and_then(to_timestamp)
}

#[cfg(test)]
mod tests;
