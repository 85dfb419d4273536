//! Process Refund, as the specification has it: the body that is sent, and what each answer means.
//!
//! A 200 is no yes: it is judged item by item. An error is a definite no only with a documented status *and* the documented body
//! `{"message", "details"}`; a proxy's HTML page with the same status says nothing of the refund.
//!
//! Amounts are JSON floats (`9.9900000000000002`) and are read from their decimal text.

use http::HeaderName;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::clock::Timestamp;
use crate::domain::money::{Currency, Money, hundredths_of};
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, Outcome, ProviderError,
};
use crate::domain::target::NamecomTarget;
use crate::providers::http::Answer;
use crate::providers::mask::Mask;
use crate::providers::object::Object;

/// What makes a second send the same request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");
/// Present where the answer is a cached one.
const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("x-idempotent-replay");
/// When the rate limit ends: UTC epoch seconds.
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The limit is 20 a second; a reset further ahead than this, in seconds, is a mistake and not a date.
const LONGEST_PAUSE_SECONDS: i64 = 3_600;

/// The request's body: the same bytes for the same target, whatever the order in which its items were named.
pub(crate) fn refund_body(target: &NamecomTarget) -> String {
    let items: Vec<String> = target.order_item_ids().iter().map(i32::to_string).collect();
    format!("{{\"orderId\":{},\"orderItemIds\":[{}]}}", target.order_id(), items.join(","))
}

/// What an answer to Process Refund means, read at `now`.
pub(crate) fn read_refund(answer: &Answer, key: &str, target: &NamecomTarget, now: Timestamp, mask: &Mask) -> Outcome {
    match answer.status {
        200 => read_results(answer, key, target, mask),
        500.. => {
            let said = ErrorBody::read(answer, mask).map(|said| format!(" {said}")).unwrap_or_default();
            Outcome::Unknown {
                reason: DoubtReason::ProviderServerError,
                evidence: format!("HTTP {}{said}", answer.status),
            }
        }
        _ => read_refusal(answer, now, mask),
    }
}

/// Reads an amount from its decimal text, a JSON number or a JSON string of one. None for whatever else.
pub(super) fn dollars_of(raw: &RawValue) -> Option<Money> {
    let text = raw.get();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let minor_units = hundredths_of(text).ok().filter(|minor_units| *minor_units >= 0)?;
    Some(Money { currency: Currency::USD, minor_units })
}

/// The sum; none where there is nothing to add or it is beyond all sums.
pub(super) fn total_of(amounts: impl Iterator<Item = Money>) -> Option<Money> {
    amounts.map(Some).reduce(|sum, next| {
        let (sum, next) = (sum?, next?);
        Some(Money { minor_units: sum.minor_units.checked_add(next.minor_units)?, ..sum })
    })?
}

/// `RefundResponse`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefundResponse<'a> {
    #[serde(borrow)]
    results: Vec<Object<RefundItemResult<'a>>>,
    #[serde(borrow)]
    total_refund_amount: Option<&'a RawValue>,
}

/// `RefundItemResult`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefundItemResult<'a> {
    order_id: i64,
    order_item_id: i64,
    order_item_status: String,
    #[serde(borrow)]
    refund_amount: Option<&'a RawValue>,
    message: Option<String>,
}

/// The body of every error; its message is always there.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    message: String,
    details: Option<String>,
}

impl ErrorBody {
    /// `message: details`, where the body is the documented one.
    pub(super) fn read(answer: &Answer, mask: &Mask) -> Option<String> {
        let Object(body) = serde_json::from_slice::<Object<ErrorBody>>(&answer.body).ok()?;
        Some(match body.details {
            Some(details) if !details.is_empty() => mask.text(&format!("{}: {details}", body.message)),
            _ => mask.text(&body.message),
        })
    }
}

fn read_results(answer: &Answer, key: &str, target: &NamecomTarget, mask: &Mask) -> Outcome {
    let contradiction =
        |evidence: &str| Outcome::Unknown { reason: DoubtReason::Contradiction, evidence: evidence.to_owned() };
    let unreadable = |evidence: String| Outcome::Unknown { reason: DoubtReason::UnreadableReply, evidence };
    let Ok(Object(response)) = serde_json::from_slice::<Object<RefundResponse<'_>>>(&answer.body) else {
        return unreadable("HTTP 200 and not the results of a refund in JSON".to_owned());
    };
    if answer.headers.get(IDEMPOTENCY_KEY).is_some_and(|echo| echo.as_bytes() != key.as_bytes()) {
        return contradiction("the answer is for another idempotency key");
    }
    let mut rows: Vec<ItemResult> = Vec::with_capacity(response.results.len());
    let mut refused_words = Vec::new();
    for Object(result) in &response.results {
        if result.order_id != i64::from(target.order_id()) {
            return contradiction("the answer tells of another order");
        }
        let item_id = result.order_item_id.to_string();
        if rows.iter().any(|row| row.item_id == item_id) {
            return contradiction("the answer tells of one item twice");
        }
        let requested = i32::try_from(result.order_item_id).is_ok_and(|item| target.order_item_ids().contains(&item));
        let word = result.order_item_status.as_str();
        let mut refunded_amount = None;
        let state = match word {
            "refunded" => {
                refunded_amount = result.refund_amount.and_then(dollars_of);
                if refunded_amount.is_none() {
                    return unreadable(format!("item {item_id} is refunded, by no amount that can be read"));
                }
                ItemState::Succeeded
            }
            "initialized" => ItemState::Submitted,
            "failed" | "canceled" => {
                if requested {
                    refused_words.push(word.to_owned());
                }
                ItemState::Failed
            }
            other => return unreadable(format!("item {item_id} has the status \"{}\"", mask.text(other))),
        };
        let message = mask.text(result.message.as_deref().unwrap_or_default());
        rows.push(ItemResult { item_id, state, refunded_amount, message, requested });
    }
    if !rows.iter().any(|row| row.requested) {
        return contradiction("the answer tells of none of the items");
    }
    for item in target.order_item_ids().iter().map(i32::to_string) {
        if !rows.iter().any(|row| row.item_id == item) {
            rows.push(ItemResult {
                item_id: item,
                state: ItemState::Submitted,
                refunded_amount: None,
                message: String::new(),
                requested: true,
            });
        }
    }
    let amount = total_of(rows.iter().filter_map(|row| row.refunded_amount));
    warn_of_another_total(response.total_refund_amount, amount);
    let replayed = answer.headers.contains_key(IDEMPOTENT_REPLAY);
    let any = |state: ItemState| rows.iter().any(|row| row.requested && row.state == state);
    if any(ItemState::Submitted) {
        let status = Some("initialized".to_owned());
        return Outcome::Accepted(Acceptance {
            reference: None,
            status,
            amount,
            items: rows,
            replayed,
            ..Acceptance::default()
        });
    }
    let error = refused_words.first().map(|word| refusal_of(word, &rows));
    match error {
        Some(error) if !any(ItemState::Succeeded) => {
            if amount.is_some() {
                return contradiction("every item was refused, and money was given back for another");
            }
            Outcome::Refused { error, items: rows }
        }
        error => {
            let status = Some("refunded".to_owned());
            Outcome::Refunded(Confirmation {
                reference: None,
                status,
                amount,
                items: rows,
                error,
                replayed,
                ..Confirmation::default()
            })
        }
    }
}

/// What was said of the requested items that were refused; the code is the first one's own word.
fn refusal_of(word: &str, rows: &[ItemResult]) -> ProviderError {
    let refused: Vec<&ItemResult> = rows.iter().filter(|row| row.requested && row.state == ItemState::Failed).collect();
    let message = match refused.as_slice() {
        [one] => one.message.clone(),
        several => {
            let said: Vec<String> =
                several.iter().map(|row| format!("item {}: {}", row.item_id, row.message)).collect();
            crate::domain::outcome::provider_text(&said.join("; "))
        }
    };
    ProviderError { code: word.to_owned(), category: category_of(&message), message, http_status: 200 }
}

fn read_refusal(answer: &Answer, now: Timestamp, mask: &Mask) -> Outcome {
    let status = answer.status;
    let Some(message) = ErrorBody::read(answer, mask) else {
        return Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: format!("HTTP {status} and not the documented error in JSON"),
        };
    };
    let error =
        |category| ProviderError { code: status.to_string(), message: message.clone(), http_status: status, category };
    let refused = |category| Outcome::Refused { error: error(category), items: Vec::new() };
    match status {
        400 => refused(match category_of(&message) {
            ErrorCategory::Other => ErrorCategory::InvalidRequest,
            hinted => hinted,
        }),
        401 => Outcome::NotSent { error: error(ErrorCategory::CredentialsRefused), retry_at: None },
        403 => refused(ErrorCategory::PermissionDenied),
        404 => refused(ErrorCategory::TargetNotFound),
        405 | 415 => refused(ErrorCategory::InvalidRequest),
        409 => refused(conflict_of(&message)),
        423 => refused(ErrorCategory::RefundPeriodOver),
        429 => Outcome::NotSent { error: error(ErrorCategory::LimitReached), retry_at: retry_at(answer, now) },
        _ => Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: format!("HTTP {status}, which is not documented: {message}"),
        },
    }
}

/// A hint in the details, for people and for their dashboards.
fn category_of(message: &str) -> ErrorCategory {
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

/// When the provider says that it will listen again; none where it names no moment, or none within the hour.
fn retry_at(answer: &Answer, now: Timestamp) -> Option<Timestamp> {
    let seconds = |name: HeaderName| answer.headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let reset = seconds(RATELIMIT_RESET).map(Timestamp::from_seconds);
    let after = seconds(http::header::RETRY_AFTER)
        .filter(|pause| (0..=LONGEST_PAUSE_SECONDS).contains(pause))
        .map(|pause| Timestamp::from_micros(now.as_micros().saturating_add(pause.saturating_mul(1_000_000))));
    let latest = Timestamp::from_micros(now.as_micros().saturating_add(LONGEST_PAUSE_SECONDS * 1_000_000));
    [reset, after].into_iter().flatten().filter(|moment| *moment > now && *moment <= latest).max()
}

/// The items decide; a total that says something else is for people to look at.
fn warn_of_another_total(total: Option<&RawValue>, sum: Option<Money>) {
    let sum = sum.map_or(0, |sum| sum.minor_units);
    if total.and_then(dollars_of).is_none_or(|total| total.minor_units != sum) {
        tracing::warn!(sum_of_items = sum, "name.com's totalRefundAmount is not the sum of its items");
    }
}

#[cfg(test)]
mod tests;
