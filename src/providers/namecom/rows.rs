//! The rows of an answer to a refund: the result of each item. Only the rows decide, neither the
//! status nor the rest of the body: a 200 with refused rows is not a success, and a 409 with
//! refunded rows is not a refusal.
//!
//! Rows are read strictly. Anything that does not fit is a doubt whose evidence quotes the rows.
//! [`Listing`] ensures that no row with refunded or initialized is lost in a refusal.
//!
//! Amounts are JSON floats (`9.9900000000000002`) and are parsed from their decimal text.

use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::money::{Currency, Money, parse_minor_units};
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, Outcome, ProviderError,
    sanitize_provider_text,
};
use crate::domain::target::NamecomTarget;
use crate::providers::json_object::Object;
use crate::providers::namecom::listing::Listing;
use crate::providers::namecom::wire::{ErrorBody, IDEMPOTENT_REPLAY, category_of};
use crate::providers::redact::Redactor;

/// An answer that reports on items.
pub(super) struct ItemizedReply<'a> {
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a str,
    /// Everything that `body` says about items, in any form.
    pub(super) listing: &'a Listing,
}

/// Parses an amount from the decimal text of a JSON number, or from a JSON string of one. None for
/// anything else.
pub(super) fn dollars_of(raw: &RawValue) -> Option<Money> {
    let text = raw.get();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let minor_units = parse_minor_units(text).ok().filter(|minor_units| *minor_units >= 0)?;
    Some(Money { currency: Currency::USD, minor_units })
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

/// Interprets the rows for the refund of `target`.
pub(super) fn read_rows(answer: &ItemizedReply<'_>, target: &NamecomTarget, redactor: &Redactor) -> Outcome {
    match interpret_rows(answer, target, redactor) {
        // Either the strict reader missed a row of money that moved, or the row belongs to another
        // item: not a refusal.
        Ok(Outcome::Refused { .. }) if answer.listing.has_moved() => {
            contradiction("every requested item was refused, but a row says that an item is refunded or will be")
        }
        Ok(outcome) => return outcome,
        Err(doubt) => doubt,
    }
    .about(answer, redactor)
}

/// Why the rows decide nothing.
struct RowsDoubt {
    reason: DoubtReason,
    why: String,
}

impl RowsDoubt {
    /// Adds the rows themselves, for the person who resolves the doubt.
    fn about(self, answer: &ItemizedReply<'_>, redactor: &Redactor) -> Outcome {
        let rows = if answer.listing.is_empty() { String::new() } else { format!(", {}", answer.listing) };
        let evidence = redactor.text(&format!("{}: HTTP {}{rows}", self.why, answer.status));
        Outcome::Unknown { reason: self.reason, evidence }
    }
}

fn contradiction(why: impl Into<String>) -> RowsDoubt {
    RowsDoubt { reason: DoubtReason::Contradiction, why: why.into() }
}

fn unreadable(why: impl Into<String>) -> RowsDoubt {
    RowsDoubt { reason: DoubtReason::UnreadableReply, why: why.into() }
}

/// The doubt about an answer to another request.
pub(super) fn another_key(answer: &ItemizedReply<'_>, redactor: &Redactor) -> Outcome {
    contradiction("the answer is for another idempotency key").about(answer, redactor)
}

fn interpret_rows(
    answer: &ItemizedReply<'_>,
    target: &NamecomTarget,
    redactor: &Redactor,
) -> Result<Outcome, RowsDoubt> {
    let Ok(Object(response)) = serde_json::from_str::<Object<RefundResponse<'_>>>(answer.body) else {
        let has_rows = !answer.listing.is_empty();
        let why = if has_rows { "the rows are not written as documented" } else { "the answer lists no items in JSON" };
        return Err(unreadable(why));
    };
    let mut rows = strict_rows(&response, target, redactor)?;
    if !rows.iter().any(|row| row.requested) {
        return Err(contradiction("the answer is about none of the items"));
    }
    let unlisted = target.order_item_ids().iter().map(i32::to_string);
    let unlisted: Vec<String> = unlisted.filter(|item| !rows.iter().any(|row| row.item_id == *item)).collect();
    if !unlisted.is_empty() && answer.status != 200 {
        // A 200 accepts the request, so unlisted items are on their way. An error does not.
        return Err(contradiction(format!("the answer is not a 200 and does not list item {}", unlisted.join(", "))));
    }
    rows.extend(unlisted.into_iter().map(|item_id| ItemResult {
        item_id,
        state: ItemState::Submitted,
        refunded_amount: None,
        message: String::new(),
        requested: true,
    }));
    let beside = ErrorBody::read(answer.body, redactor).unwrap_or_default();
    let was_refunded_before = |row: &ItemResult| {
        let is_done = row.requested && row.state == ItemState::Succeeded;
        is_done && [&row.message, &beside].into_iter().any(|text| category_of(text) == ErrorCategory::AlreadyRefunded)
    };
    if rows.iter().any(was_refunded_before) {
        return Err(contradiction("an item is refunded, and the answer says that it was refunded before"));
    }
    let amount = Money::total(rows.iter().map(|row| row.refunded_amount).filter(Option::is_some));
    warn_if_total_differs(response.total_refund_amount, amount);
    let replayed = is_replay(answer.headers);
    let any = |state: ItemState| rows.iter().any(|row| row.requested && row.state == state);
    if any(ItemState::Submitted) {
        let status = Some("initialized".to_owned());
        return Ok(Outcome::Accepted(Acceptance { status, amount, items: rows, replayed, ..Acceptance::default() }));
    }
    let error = refused_status(&response, target).map(|status| refusal_of(status, &rows, &beside, answer.status));
    Ok(match error {
        Some(error) if !any(ItemState::Succeeded) => Outcome::Refused { error, items: rows },
        error => {
            let status = Some("refunded".to_owned());
            Outcome::Refunded(Confirmation { status, amount, items: rows, error, replayed, ..Confirmation::default() })
        }
    })
}

fn strict_rows(
    response: &RefundResponse<'_>,
    target: &NamecomTarget,
    redactor: &Redactor,
) -> Result<Vec<ItemResult>, RowsDoubt> {
    let mut rows: Vec<ItemResult> = Vec::with_capacity(response.results.len());
    for Object(result) in &response.results {
        if result.order_id != i64::from(target.order_id()) {
            return Err(contradiction(format!("the answer is about another order, {}", result.order_id)));
        }
        let item_id = result.order_item_id.to_string();
        if rows.iter().any(|row| row.item_id == item_id) {
            return Err(contradiction(format!("the answer lists item {item_id} twice")));
        }
        let mut refunded_amount = None;
        let state = match result.order_item_status.as_str() {
            "refunded" => {
                refunded_amount = result.refund_amount.and_then(dollars_of);
                if refunded_amount.is_none() {
                    return Err(unreadable(format!("item {item_id} is refunded without a readable amount")));
                }
                ItemState::Succeeded
            }
            "initialized" => ItemState::Submitted,
            "failed" | "canceled" => ItemState::Failed,
            other => return Err(unreadable(format!("item {item_id} has the status \"{other}\""))),
        };
        let message = redactor.text(result.message.as_deref().unwrap_or_default());
        let requested = is_requested(result.order_item_id, target);
        rows.push(ItemResult { item_id, state, refunded_amount, message, requested });
    }
    Ok(rows)
}

/// The status of the first requested item that was refused.
fn refused_status<'a>(response: &'a RefundResponse<'_>, target: &NamecomTarget) -> Option<&'a str> {
    let requested =
        response.results.iter().map(|Object(row)| row).filter(|row| is_requested(row.order_item_id, target));
    requested.map(|row| row.order_item_status.as_str()).find(|status| matches!(*status, "failed" | "canceled"))
}

pub(super) fn is_requested(item: i64, target: &NamecomTarget) -> bool {
    i32::try_from(item).is_ok_and(|id| target.order_item_ids().contains(&id))
}

/// The refusal of the requested items. The code is the status of the first one; `beside` is the
/// body's error text, used if the rows contain none.
fn refusal_of(status: &str, rows: &[ItemResult], beside: &str, http_status: u16) -> ProviderError {
    let refused: Vec<&ItemResult> = rows.iter().filter(|row| row.requested && row.state == ItemState::Failed).collect();
    let message = match refused.as_slice() {
        all if all.iter().all(|row| row.message.is_empty()) => beside.to_owned(),
        [one] => one.message.clone(),
        several => {
            let messages: Vec<String> = several
                .iter()
                .filter(|row| !row.message.is_empty())
                .map(|row| format!("item {}: {}", row.item_id, row.message))
                .collect();
            sanitize_provider_text(&messages.join("; "))
        }
    };
    ProviderError { code: status.to_owned(), category: category_of(&message), message, http_status }
}

/// Whether the provider says that it replays an earlier answer. The documented value is a number,
/// 1; a value that says "no" counts as absent.
fn is_replay(headers: &HeaderMap) -> bool {
    let says_no = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or("?").trim();
        text.is_empty() || text.eq_ignore_ascii_case("false") || parse_minor_units(text) == Ok(0)
    };
    headers.get_all(IDEMPOTENT_REPLAY).iter().any(|value| !says_no(value))
}

/// The items decide. A different total is a matter for people.
fn warn_if_total_differs(total: Option<&RawValue>, sum: Option<Money>) {
    let sum = sum.map_or(0, |sum| sum.minor_units);
    if total.and_then(dollars_of).is_none_or(|total| total.minor_units != sum) {
        tracing::warn!(sum_of_items = sum, "name.com totalRefundAmount differs from the sum of the items");
    }
}
