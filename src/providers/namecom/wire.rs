//! Process Refund, as the specification has it: the body that is sent, and what each answer means.
//!
//! Where an answer lists items, its rows decide ([`super::rows`]), with any status. Where it lists
//! none, an error is a definite no only with a documented status *and* the documented body
//! `{"message", "details"}`; a proxy's HTML page with the same status says nothing of the refund.
//! 401 and 429 alone say enough: nothing was processed.

use http::HeaderName;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::domain::clock::Timestamp;
use crate::domain::outcome::{DoubtReason, ErrorCategory, Outcome, ProviderError};
use crate::domain::target::NamecomTarget;
use crate::http::client::HttpResponse;
use crate::providers::json_object::Object;
use crate::providers::namecom::fields::moment;
use crate::providers::namecom::listing::Listing;
use crate::providers::namecom::rows::{ItemizedReply, another_key, read_rows};
use crate::providers::redact::Redactor;
use crate::providers::text;

/// What makes a second send the same request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");
/// Present where the answer is a cached one.
pub(super) const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("x-idempotent-replay");
/// When the rate limit ends: UTC epoch seconds.
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The limit is 20 a second; a reset further ahead than this, in seconds, is a mistake and not a
/// date.
const MAX_PAUSE_SECONDS: i64 = 3_600;

/// The request's body: the same bytes for the same target, whatever the order in which its items
/// were named.
pub(crate) fn refund_body(target: &NamecomTarget) -> String {
    let items: Vec<String> = target.order_item_ids().iter().map(i32::to_string).collect();
    format!("{{\"orderId\":{},\"orderItemIds\":[{}]}}", target.order_id(), items.join(","))
}

/// What an answer to Process Refund means, read at `now`.
pub(crate) fn read_refund(
    answer: &HttpResponse,
    key: &str,
    target: &NamecomTarget,
    now: Timestamp,
    redactor: &Redactor,
) -> Outcome {
    // Only a text that decodes without loss is believed. Rows are searched for in the raw bytes
    // too, since the claimed charset may be wrong.
    let text = text::read(answer);
    let body = text.as_deref().unwrap_or_default();
    let listing = match Listing::of(body) {
        nothing if nothing.is_empty() => Listing::of(&String::from_utf8_lossy(&answer.body)),
        listing => listing,
    };
    let listed = ItemizedReply { status: answer.status, headers: &answer.headers, body, listing: &listing };
    if answer.headers.get_all(IDEMPOTENCY_KEY).iter().any(|echo| echo.as_bytes() != key.as_bytes()) {
        return another_key(&listed, redactor);
    }
    if answer.status == 200 || !listing.is_empty() {
        return read_rows(&listed, target, redactor);
    }
    let said = ErrorBody::read(body, redactor);
    if answer.status >= 500 {
        let said = said.map(|said| format!(" {said}")).unwrap_or_default();
        return Outcome::Unknown {
            reason: DoubtReason::ProviderServerError,
            evidence: format!("HTTP {}{said}", answer.status),
        };
    }
    read_refusal(answer, said, now)
}

/// The body of every error; its message is always there.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    message: String,
    details: Option<String>,
}

impl ErrorBody {
    /// `message: details`, where the body is the documented one and says something.
    pub(super) fn read(body: &str, redactor: &Redactor) -> Option<String> {
        let Object(body) = serde_json::from_str::<Object<ErrorBody>>(body).ok()?;
        let details = body.details.unwrap_or_default();
        let said: Vec<&str> = [body.message.as_str(), &details].into_iter().filter(|part| !part.is_empty()).collect();
        Some(redactor.text(&said.join(": "))).filter(|said| !said.is_empty())
    }
}

/// Whether an answer with this status and message is about the login or the account, or of
/// something in front of the provider, and not about the request.
pub(super) fn refuses_the_login(status: u16, said: Option<&str>) -> bool {
    match status {
        401 => true,
        403 => said.is_none_or(is_failed_authentication),
        _ => false,
    }
}

/// What a status below 500 means where the answer lists no item; `said` is there where its body is
/// the documented one.
fn read_refusal(answer: &HttpResponse, said: Option<String>, now: Timestamp) -> Outcome {
    let status = answer.status;
    let error = |category, message| ProviderError { code: status.to_string(), message, http_status: status, category };
    let not_sent = |category, retry_at| {
        let message = said.clone().unwrap_or_else(|| format!("HTTP {status}, without the documented words"));
        Outcome::NotSent { error: error(category, message), retry_at }
    };
    // These are documented as "not processed" by the status alone, and are seen without their body.
    if refuses_the_login(status, said.as_deref()) {
        return not_sent(ErrorCategory::CredentialsRefused, None);
    }
    if status == 429 {
        return not_sent(ErrorCategory::LimitReached, retry_at(answer, now));
    }
    let Some(message) = said else {
        return Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: format!("HTTP {status} and not the documented error in JSON"),
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

fn is_failed_authentication(said: &str) -> bool {
    said.to_lowercase().contains("failed authentication")
}

/// A hint in the details, for people and for their dashboards.
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

/// When the provider says that it will listen again; none where it names no moment, or none within
/// the hour.
fn retry_at(answer: &HttpResponse, now: Timestamp) -> Option<Timestamp> {
    let text = |name: HeaderName| Some(answer.headers.get(name)?.to_str().ok()?.trim());
    let seconds = |name: HeaderName| text(name)?.parse::<i64>().ok();
    let reset = seconds(RATELIMIT_RESET).map(Timestamp::from_seconds);
    // A moment in place of a number of seconds: HTTP has both.
    let date = text(http::header::RETRY_AFTER).and_then(http_date);
    let after = seconds(http::header::RETRY_AFTER)
        .filter(|pause| (0..=MAX_PAUSE_SECONDS).contains(pause))
        .map(|pause| Timestamp::from_micros(now.as_micros().saturating_add(pause.saturating_mul(1_000_000))));
    let latest = Timestamp::from_micros(now.as_micros().saturating_add(MAX_PAUSE_SECONDS * 1_000_000));
    [reset, after, date].into_iter().flatten().filter(|moment| *moment > now && *moment <= latest).max()
}

/// "Wed, 04 Mar 2026 05:07:00 GMT", the one form of a moment that HTTP lets a server write.
fn http_date(text: &str) -> Option<Timestamp> {
    OffsetDateTime::parse(text, &Rfc2822).ok().and_then(moment)
}

#[cfg(test)]
mod tests;
