//! Refunds and events as columns and back, for every backend.
//!
//! Reading is strict: a value that this program would not have written is a [`ColumnError`]. The
//! last check of [`decode_refund`] makes that complete: it encodes the refund again, and every
//! column must come out as it was found.
//!
//! The target is one column of JSON: an object of its fields, without blanks, in the alphabetical
//! order of their names, absent fields left out. Its [`Target::fields`] are the domain's; nothing
//! here knows a provider.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::slice;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use crate::domain::approval::{Approval, ApprovalDecision, Approver, Verdict};
use crate::domain::authority::{Actor, GATEWAY};
use crate::domain::clock::Timestamp;
use crate::domain::event::EventKind;
use crate::domain::history::{self, EventRecord};
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError};
use crate::domain::place::Place;
use crate::domain::refund::{Doubt, Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::Target;
use crate::domain::target_fields::{FieldValue, TargetFields};

/// The columns of a refund that never change, in the table's order, after `ordinal`.
pub(super) const INTENT_COLUMNS: [&str; 10] = [
    "id",
    "provider",
    "target",
    "labels",
    "create_time",
    "created_by",
    "expected_currency_code",
    "expected_minor_units",
    "assumed_currency_code",
    "assumed_minor_units",
];

/// The columns of a refund that change with events, in the table's order. A later version appends
/// its columns here: the digest follows this order.
pub(super) const STATE_COLUMNS: [&str; 38] = [
    "account",
    "endpoint",
    "login",
    "currency",
    "state",
    "revision",
    "update_time",
    "dispatch_time",
    "complete_time",
    "not_before",
    "attempt_count",
    "unanswered_attempts",
    "doubt_reason",
    "doubt_since",
    "doubt_evidence",
    "error_code",
    "error_message",
    "error_http_status",
    "error_category",
    "refunded_currency_code",
    "refunded_minor_units",
    "items",
    "provider_reference",
    "provider_status",
    "first_account",
    "placed_time",
    "attempted_elsewhere",
    "provider_status_note",
    "last_dispatch_time",
    "credential",
    "absent_since",
    "foreign_record",
    "reserved_until",
    "caution_until",
    "corrected_time",
    "doubt_not_processed",
    "approval",
    "approval_expire_time",
];

/// The columns of a refund that schedule lookups, in the table's order. No digest covers them.
pub(super) const SCHEDULE_COLUMNS: [&str; 3] = ["next_check", "unheard", "doubt_check_count"];

/// What [`decode_event`] reads: the columns of an event, with the refund's id in place of its
/// ordinal, and the refund's provider.
pub(super) const EVENT_COLUMNS: [&str; 15] = [
    "sequence",
    "ordinal",
    "revision",
    "event_time",
    "from_state",
    "to_state",
    "kind",
    "attempt",
    "actor",
    "actor_credential",
    "actor_policy",
    "note",
    "refund_digest",
    "chain_hash",
    "provider",
];

/// The value of one column. It borrows from the refund or the row where it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ColumnValue<'a> {
    Null,
    Integer(i64),
    Text(Cow<'a, str>),
    Blob(Cow<'a, [u8]>),
}

/// A refund, and the order in which it was recorded.
#[derive(Debug)]
pub(super) struct StoredRefund {
    pub(super) ordinal: i64,
    pub(super) refund: Refund,
}

/// An event, and the digest of its refund's row after it.
#[derive(Debug)]
pub(super) struct StoredEvent {
    pub(super) record: EventRecord,
    /// None: the row was never stored as it was after this event.
    pub(super) refund_digest: Option<[u8; 32]>,
}

/// A column whose value this program did not write.
#[derive(Debug)]
pub(super) struct ColumnError {
    pub(super) column: &'static str,
    pub(super) problem: String,
}

/// Takes the values of one row, one column after the other.
struct ColumnReader<'row, Columns> {
    columns: Columns,
    values: slice::Iter<'row, ColumnValue<'row>>,
}

/// An item in the `items` column. An absent member is left out, so that a later version can add
/// one; so are an empty message and `unrequested: false`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemText<'a> {
    item_id: Cow<'a, str>,
    state: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refunded: Option<(Cow<'a, str>, i64)>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
    /// Most items were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unrequested: bool,
}

/// What the `approval` column holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalText<'a> {
    rule: Cow<'a, str>,
    needed: u32,
    creator_owner: Cow<'a, str>,
    decisions: Vec<DecisionText<'a>>,
}

/// A decision in the `approval` column. An empty comment is left out, and so is an owner of the
/// caller's name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionText<'a> {
    caller: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Cow<'a, str>>,
    verdict: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    comment: Cow<'a, str>,
    /// Microseconds since 1970.
    time: i64,
}

/// A field's value in the `target` column.
struct FieldJson<'a>(&'a FieldValue<'a>);

const IS_NULL: &str = "is NULL";

/// All columns of a refund but `ordinal`, in the table's order.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    INTENT_COLUMNS.into_iter().chain(STATE_COLUMNS).chain(SCHEDULE_COLUMNS)
}

/// The values of [`INTENT_COLUMNS`].
pub(super) fn intent_values(refund: &Refund) -> [ColumnValue<'_>; 10] {
    // The account is stored with the state, because a refund can be reassigned to another one.
    let Intent { id, account: _, target, labels, expected_amount } = &refund.intent;
    [
        text(id.as_str()),
        text(target.provider().as_str()),
        target_json(&target.fields()),
        labels_json(labels),
        time(refund.create_time),
        optional_text(refund.created_by.as_deref()),
        optional_text(expected_amount.as_ref().map(|amount| amount.currency.code())),
        optional_integer(expected_amount.map(|amount| amount.minor_units)),
        optional_text(refund.assumed_amount.as_ref().map(|amount| amount.currency.code())),
        optional_integer(refund.assumed_amount.map(|amount| amount.minor_units)),
    ]
}

/// The values of [`STATE_COLUMNS`].
pub(super) fn state_values(refund: &Refund) -> Vec<ColumnValue<'_>> {
    let doubt = refund.doubt.as_ref();
    let error = refund.provider_error.as_ref();
    let first_account = Some(&refund.intent.account).filter(|account| **account != refund.account);
    vec![
        text(refund.account.as_str()),
        text(&refund.place.endpoint),
        text(&refund.place.login),
        text(refund.place.currency.code()),
        text(refund.state.as_str()),
        ColumnValue::Integer(integer(refund.revision)),
        time(refund.update_time),
        optional_time(refund.dispatch_time),
        optional_time(refund.complete_time),
        optional_time(refund.not_before),
        ColumnValue::Integer(i64::from(refund.attempt_count)),
        ColumnValue::Integer(i64::from(refund.unanswered_attempts)),
        optional_text(doubt.map(|doubt| doubt.reason.as_str())),
        optional_time(doubt.map(|doubt| doubt.since)),
        optional_text(doubt.map(|doubt| doubt.last_evidence.as_str())),
        optional_text(error.map(|error| error.code.as_str())),
        optional_text(error.map(|error| error.message.as_str())),
        optional_integer(error.map(|error| i64::from(error.http_status))),
        optional_text(error.map(|error| error.category.as_str())),
        optional_text(refund.refunded_amount.as_ref().map(|amount| amount.currency.code())),
        optional_integer(refund.refunded_amount.map(|amount| amount.minor_units)),
        items_json(&refund.items),
        optional_text(refund.provider_reference.as_deref()),
        optional_text(refund.provider_status.as_deref()),
        optional_text(first_account.map(AccountName::as_str)),
        optional_time(refund.placed_time),
        flag(refund.attempted_elsewhere),
        optional_text(refund.provider_status_note.as_deref()),
        optional_time(refund.last_dispatch_time.filter(|last| Some(*last) != refund.dispatch_time)),
        optional_text(refund.credential.as_deref()),
        optional_time(refund.absent_since),
        flag(refund.foreign_record),
        optional_time(refund.reserved_until),
        optional_time(refund.caution_until),
        optional_time(refund.corrected_time),
        flag(doubt.is_some_and(|doubt| doubt.not_processed)),
        refund.approval.as_ref().map_or(ColumnValue::Null, |approval| json(&ApprovalText::of(approval))),
        optional_time(refund.approval.as_ref().map(|approval| approval.expire_time)),
    ]
}

/// The values of [`SCHEDULE_COLUMNS`].
pub(super) fn schedule_values(refund: &Refund) -> [ColumnValue<'static>; 3] {
    let checks = refund.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    [optional_time(refund.next_check), flag(refund.unheard), optional_integer(checks)]
}

/// Reads the values of [`columns`].
pub(super) fn decode_refund(values: &[ColumnValue<'_>]) -> Result<Refund, ColumnError> {
    let mut cells = ColumnReader { columns: columns(), values: values.iter() };

    let id = cells.parsed(RefundId::parse)?;
    let provider = cells.parsed(|name| ProviderKind::parse(name).ok_or("names no provider"))?;
    let target = cells.parsed(|json| parse_target(provider, json))?;
    let labels: BTreeMap<String, String> = cells.parsed(|json| serde_json::from_str(json))?;
    let create_time = cells.time()?;
    let created_by = cells.optional_text()?;
    let expected_amount = match cells.optional_parsed(Currency::parse)? {
        Some(currency) => Some(Money { currency, minor_units: cells.number()? }),
        None => cells.skip(1),
    };

    let assumed_amount = match cells.optional_parsed(Currency::parse)? {
        Some(currency) => Some(Money { currency, minor_units: cells.number()? }),
        None => cells.skip(1),
    };

    let account = cells.parsed(AccountName::parse)?;
    let place = Place { endpoint: cells.text()?, login: cells.text()?, currency: cells.parsed(Currency::parse)? };
    let state = cells.parsed(|name| State::parse(name).ok_or("names no state"))?;
    let revision = cells.number()?;
    let update_time = cells.time()?;
    let dispatch_time = cells.optional_time()?;
    let complete_time = cells.optional_time()?;
    let not_before = cells.optional_time()?;
    let attempt_count = cells.number()?;
    let unanswered_attempts = cells.number()?;
    let mut doubt = match cells.optional_parsed(|name| DoubtReason::parse(name).ok_or("names no reason"))? {
        Some(reason) => Some(Doubt {
            reason,
            since: cells.time()?,
            check_count: 0,
            last_evidence: cells.text()?,
            not_processed: false,
        }),
        None => cells.skip(2),
    };
    let provider_error = match cells.optional_text()? {
        Some(code) => Some(ProviderError {
            code,
            message: cells.text()?,
            http_status: cells.number()?,
            category: cells.parsed(|name| ErrorCategory::parse(name).ok_or("names no category"))?,
        }),
        None => cells.skip(3),
    };
    let refunded_amount = match cells.optional_parsed(Currency::parse)? {
        Some(currency) => Some(Money { currency, minor_units: cells.number()? }),
        None => cells.skip(1),
    };
    let items = cells.parsed(parse_items)?;
    let provider_reference = cells.optional_text()?;
    let provider_status = cells.optional_text()?;
    let first_account = cells.optional_parsed(AccountName::parse)?;
    let placed_time = cells.optional_time()?;
    let attempted_elsewhere = cells.flag()?;
    let provider_status_note = cells.optional_text()?;
    let last_dispatch_time = cells.optional_time()?.or(dispatch_time);
    let credential = cells.optional_text()?;
    let absent_since = cells.optional_time()?;
    let foreign_record = cells.flag()?;
    let reserved_until = cells.optional_time()?;
    let caution_until = cells.optional_time()?;
    let corrected_time = cells.optional_time()?;
    let doubt_not_processed = cells.flag()?;
    let approval = match cells.optional_parsed(|json| serde_json::from_str::<ApprovalText<'_>>(json))? {
        Some(text) => Some(text.read(cells.time()?)?),
        None => cells.skip(1),
    };

    let next_check = cells.optional_time()?;
    let unheard = cells.flag()?;
    let check_count = cells.optional_number()?;
    if let Some(doubt) = doubt.as_mut() {
        doubt.check_count = check_count.unwrap_or(0);
        doubt.not_processed = doubt_not_processed;
    }

    let first_account = first_account.unwrap_or_else(|| account.clone());
    let intent = Intent { id, account: first_account, target, labels, expected_amount };
    let refund = Refund {
        intent,
        created_by,
        account,
        place,
        placed_time,
        attempted_elsewhere,
        state,
        doubt,
        provider_error,
        refunded_amount,
        items,
        provider_reference,
        provider_status,
        provider_status_note,
        attempt_count,
        unanswered_attempts,
        revision,
        create_time,
        update_time,
        dispatch_time,
        last_dispatch_time,
        credential,
        complete_time,
        not_before,
        next_check,
        unheard,
        absent_since,
        foreign_record,
        reserved_until,
        caution_until,
        corrected_time,
        assumed_amount,
        approval,
    };
    verify_roundtrip(&refund, values)?;
    verify_state(&refund)?;
    Ok(refund)
}

/// Reads the values of [`EVENT_COLUMNS`].
pub(super) fn decode_event(values: &[ColumnValue<'_>]) -> Result<StoredEvent, ColumnError> {
    let mut cells = ColumnReader { columns: EVENT_COLUMNS.into_iter(), values: values.iter() };
    let state = |name: &str| State::parse(name).ok_or("names no state");
    let sequence = cells.number()?;
    let refund = cells.parsed(RefundId::parse)?;
    let revision = cells.number()?;
    let time = cells.time()?;
    let from = cells.optional_parsed(state)?;
    let to = cells.parsed(state)?;
    let kind = cells.parsed(|name| EventKind::parse(name).ok_or("names no kind of event"))?;
    let attempt = cells.number()?;
    let actor = Actor {
        name: cells.optional_text()?.unwrap_or_else(|| GATEWAY.to_owned()),
        credential: cells.optional_text()?,
        policy: cells.optional_text()?,
    };
    let note = cells.optional_text()?;
    let refund_digest = cells.optional_hash()?;
    let chain_hash = cells.hash()?;
    let provider = cells.parsed(|name| ProviderKind::parse(name).ok_or("names no provider"))?;
    let note = match (note, history::usual_note(kind, attempt, provider)) {
        (None, Some(usual)) => usual,
        (Some(note), None) => note,
        (None, None) => return Err(ColumnError::new("note", IS_NULL)),
        (Some(_), Some(_)) => return Err(ColumnError::new("note", "is not NULL, and the kind says it all")),
    };
    let record = EventRecord { sequence, refund, revision, time, from, to, kind, attempt, actor, note, chain_hash };
    Ok(StoredEvent { record, refund_digest })
}

/// The name of an event's actor as it is stored. None: the gateway.
pub(super) fn stored_actor(actor: &Actor) -> Option<&str> {
    Some(actor.name.as_str()).filter(|name| *name != GATEWAY)
}

/// The note of an event as it is stored. None: [`history::usual_note`] is the same.
pub(super) fn stored_note(kind: EventKind, note: &str) -> Option<&str> {
    (!history::has_usual_note(kind)).then_some(note)
}

/// As SQL counts. No ledger comes near the end of the range.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Every value must be as the refund is written.
fn verify_roundtrip(refund: &Refund, values: &[ColumnValue<'_>]) -> Result<(), ColumnError> {
    let written = intent_values(refund).into_iter().chain(state_values(refund)).chain(schedule_values(refund));
    for ((column, found), written) in columns().zip(values).zip(written) {
        if *found != written {
            return Err(ColumnError::new(column, "is not in the form in which it is written"));
        }
    }
    Ok(())
}

/// Which values go with which state.
fn verify_state(refund: &Refund) -> Result<(), ColumnError> {
    let Refund { state, doubt, complete_time, not_before, next_check, absent_since, attempt_count, .. } = refund;
    let is_looked_up = matches!(state, State::InDoubt | State::Submitted | State::NeedsReview | State::Failed);
    let problem = if doubt.is_some() != matches!(state, State::InDoubt | State::NeedsReview) {
        Some(("doubt_reason", "is there exactly when the refund is in doubt"))
    } else if complete_time.is_some() != state.is_terminal() {
        Some(("complete_time", "is there exactly when the refund is complete"))
    } else if not_before.is_some() && *state != State::Pending {
        Some(("not_before", "is there only while the refund is pending"))
    } else if next_check.is_some() && !is_looked_up {
        Some(("next_check", "is there only while the refund is looked up"))
    } else if absent_since.is_some() && !is_looked_up {
        Some(("absent_since", "is there only while the refund can be looked up"))
    } else if *state == State::AwaitingApproval && refund.approval.as_ref().is_none_or(Approval::is_complete) {
        Some(("approval", "lacks a decision while the refund waits for one"))
    } else if refund.unanswered_attempts > *attempt_count {
        Some(("unanswered_attempts", "is above the number of attempts"))
    } else {
        None
    };
    problem.map_or(Ok(()), |(column, rule)| Err(ColumnError::new(column, format!("{rule}: it is {state}"))))
}

impl ColumnError {
    pub(super) fn new(column: &'static str, problem: impl Into<String>) -> Self {
        Self { column, problem: problem.into() }
    }
}

impl ColumnValue<'_> {
    fn kind(&self) -> &'static str {
        match self {
            ColumnValue::Null => "NULL",
            ColumnValue::Integer(_) => "an integer",
            ColumnValue::Text(_) => "text",
            ColumnValue::Blob(_) => "a blob",
        }
    }
}

impl<'row, Columns: Iterator<Item = &'static str>> ColumnReader<'row, Columns> {
    fn take(&mut self) -> (&'static str, &'row ColumnValue<'row>) {
        (self.columns.next().unwrap_or("(unnamed)"), self.values.next().unwrap_or(&ColumnValue::Null))
    }

    /// Passes over columns that must be NULL, which [`verify_roundtrip`] checks.
    fn skip<T>(&mut self, count: usize) -> Option<T> {
        for _ in 0..count {
            self.take();
        }
        None
    }

    fn optional_str(&mut self) -> Result<(&'static str, Option<&'row str>), ColumnError> {
        match self.take() {
            (column, ColumnValue::Null) => Ok((column, None)),
            (column, ColumnValue::Text(text)) => Ok((column, Some(text))),
            (column, other) => Err(ColumnError::new(column, format!("is {} and not text", other.kind()))),
        }
    }

    fn optional_parsed<T, E: Display>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ColumnError> {
        let (column, text) = self.optional_str()?;
        text.map(parse).transpose().map_err(|problem| ColumnError::new(column, problem.to_string()))
    }

    fn parsed<T, E: Display>(&mut self, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, ColumnError> {
        let (column, text) = self.optional_str()?;
        let text = text.ok_or_else(|| ColumnError::new(column, IS_NULL))?;
        parse(text).map_err(|problem| ColumnError::new(column, problem.to_string()))
    }

    fn optional_text(&mut self) -> Result<Option<String>, ColumnError> {
        Ok(self.optional_str()?.1.map(str::to_owned))
    }

    fn text(&mut self) -> Result<String, ColumnError> {
        self.parsed(|text| Ok::<_, &str>(text.to_owned()))
    }

    fn numeric<T: TryFrom<i64>>(&mut self) -> Result<(&'static str, Option<T>), ColumnError> {
        match self.take() {
            (column, ColumnValue::Null) => Ok((column, None)),
            (column, ColumnValue::Integer(number)) => match T::try_from(*number) {
                Ok(fits) => Ok((column, Some(fits))),
                Err(_) => Err(ColumnError::new(column, format!("is {number}, which is out of range"))),
            },
            (column, other) => Err(ColumnError::new(column, format!("is {} and not an integer", other.kind()))),
        }
    }

    fn optional_number<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, ColumnError> {
        Ok(self.numeric()?.1)
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, ColumnError> {
        let (column, number) = self.numeric()?;
        number.ok_or_else(|| ColumnError::new(column, IS_NULL))
    }

    fn optional_time(&mut self) -> Result<Option<Timestamp>, ColumnError> {
        Ok(self.optional_number::<i64>()?.map(Timestamp::from_micros))
    }

    fn time(&mut self) -> Result<Timestamp, ColumnError> {
        Ok(Timestamp::from_micros(self.number()?))
    }

    /// 1 or NULL, which [`verify_roundtrip`] checks.
    fn flag(&mut self) -> Result<bool, ColumnError> {
        Ok(self.optional_number::<i64>()?.is_some())
    }

    fn hash(&mut self) -> Result<[u8; 32], ColumnError> {
        let (column, value) = self.take();
        Self::read_hash(column, value)?.ok_or_else(|| ColumnError::new(column, IS_NULL))
    }

    fn optional_hash(&mut self) -> Result<Option<[u8; 32]>, ColumnError> {
        let (column, value) = self.take();
        Self::read_hash(column, value)
    }

    fn read_hash(column: &'static str, value: &ColumnValue<'_>) -> Result<Option<[u8; 32]>, ColumnError> {
        match value {
            ColumnValue::Null => Ok(None),
            ColumnValue::Blob(bytes) => match <[u8; 32]>::try_from(&**bytes) {
                Ok(hash) => Ok(Some(hash)),
                Err(_) => Err(ColumnError::new(column, "is not 32 bytes long")),
            },
            other => Err(ColumnError::new(column, format!("is {} and not a blob", other.kind()))),
        }
    }
}

impl<'a> ItemText<'a> {
    fn of(item: &'a ItemResult) -> Self {
        let refunded = item.refunded_amount.as_ref();
        Self {
            item_id: Cow::Borrowed(&item.item_id),
            state: Cow::Borrowed(item.state.as_str()),
            refunded: refunded.map(|amount| (Cow::Borrowed(amount.currency.code()), amount.minor_units)),
            message: Cow::Borrowed(&item.message),
            unrequested: !item.requested,
        }
    }

    fn read(self) -> Result<ItemResult, String> {
        let state = ItemState::parse(&self.state).ok_or_else(|| format!("names no item state: {}", self.state))?;
        let refunded_amount = match self.refunded {
            Some((code, minor_units)) => {
                let currency = Currency::parse(&code).map_err(|problem| problem.to_string())?;
                Some(Money { currency, minor_units })
            }
            None => None,
        };
        let (item_id, message) = (self.item_id.into_owned(), self.message.into_owned());
        Ok(ItemResult { item_id, state, refunded_amount, message, requested: !self.unrequested })
    }
}

impl<'a> ApprovalText<'a> {
    fn of(approval: &'a Approval) -> Self {
        Self {
            rule: Cow::Borrowed(&approval.rule),
            needed: approval.needed,
            creator_owner: Cow::Borrowed(&approval.creator_owner),
            decisions: approval.decisions.iter().map(DecisionText::of).collect(),
        }
    }

    fn read(self, expire_time: Timestamp) -> Result<Approval, ColumnError> {
        let Self { rule, needed, creator_owner, decisions } = self;
        let decisions = decisions.into_iter().map(DecisionText::read).collect::<Result<_, _>>()?;
        let (rule, creator_owner) = (rule.into_owned(), creator_owner.into_owned());
        Ok(Approval { rule, needed, expire_time, creator_owner, decisions })
    }
}

impl<'a> DecisionText<'a> {
    fn of(decision: &'a ApprovalDecision) -> Self {
        let ApprovalDecision { by: Approver { caller, owner }, verdict, comment, time } = decision;
        Self {
            caller: Cow::Borrowed(caller),
            owner: Some(Cow::Borrowed(owner.as_str())).filter(|owner| *owner != caller.as_str()),
            verdict: Cow::Borrowed(verdict.as_str()),
            comment: Cow::Borrowed(comment),
            time: time.as_micros(),
        }
    }

    fn read(self) -> Result<ApprovalDecision, ColumnError> {
        let Self { caller, owner, verdict, comment, time } = self;
        let problem = || ColumnError::new("approval", format!("names no verdict: {verdict}"));
        let verdict = Verdict::parse(&verdict).ok_or_else(problem)?;
        let owner = owner.unwrap_or_else(|| caller.clone()).into_owned();
        let by = Approver { caller: caller.into_owned(), owner };
        Ok(ApprovalDecision { by, verdict, comment: comment.into_owned(), time: Timestamp::from_micros(time) })
    }
}

fn parse_items(text: &str) -> Result<Vec<ItemResult>, String> {
    let items: Vec<ItemText<'_>> = serde_json::from_str(text).map_err(|problem| problem.to_string())?;
    items.into_iter().map(ItemText::read).collect()
}

impl Serialize for FieldJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            FieldValue::Text(text) => text.serialize(serializer),
            FieldValue::Integer(number) => number.serialize(serializer),
            FieldValue::Integers(numbers) => numbers.serialize(serializer),
        }
    }
}

/// The canonical JSON of a target.
fn target_json(fields: &TargetFields<'_>) -> ColumnValue<'static> {
    json(&fields.iter().map(|(name, value)| (name, FieldJson(value))).collect::<BTreeMap<_, _>>())
}

fn parse_target(provider: ProviderKind, json: &str) -> Result<Target, String> {
    let object: serde_json::Map<String, Json> = serde_json::from_str(json).map_err(|problem| problem.to_string())?;
    let mut fields = TargetFields::new();
    for (name, value) in object {
        let value = field_value(value).ok_or_else(|| format!("{name}: is no text, integer or list of integers"))?;
        fields.insert(Cow::Owned(name), value);
    }
    Target::from_fields(provider, fields).map_err(|violations| {
        let problems: Vec<String> =
            violations.into_iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect();
        problems.join("; ")
    })
}

fn field_value(value: Json) -> Option<FieldValue<'static>> {
    match value {
        Json::String(text) => Some(FieldValue::Text(Cow::Owned(text))),
        Json::Number(number) => number.as_i64().map(FieldValue::Integer),
        Json::Array(numbers) => {
            numbers.iter().map(Json::as_i64).collect::<Option<Vec<i64>>>().map(FieldValue::Integers)
        }
        Json::Null | Json::Bool(_) | Json::Object(_) => None,
    }
}

/// Most refunds have none, and serializing an empty object each time is a good part of a row's
/// cost.
const NO_LABELS: ColumnValue<'static> = ColumnValue::Text(Cow::Borrowed("{}"));
/// As [`NO_LABELS`].
const NO_ITEMS: ColumnValue<'static> = ColumnValue::Text(Cow::Borrowed("[]"));

fn labels_json(labels: &BTreeMap<String, String>) -> ColumnValue<'static> {
    if labels.is_empty() { NO_LABELS } else { json(labels) }
}

fn items_json(items: &[ItemResult]) -> ColumnValue<'static> {
    if items.is_empty() { NO_ITEMS } else { json(&items.iter().map(ItemText::of).collect::<Vec<_>>()) }
}

fn text(text: &str) -> ColumnValue<'_> {
    ColumnValue::Text(Cow::Borrowed(text))
}

fn optional_text(text: Option<&str>) -> ColumnValue<'_> {
    text.map_or(ColumnValue::Null, self::text)
}

fn optional_integer(number: Option<i64>) -> ColumnValue<'static> {
    number.map_or(ColumnValue::Null, ColumnValue::Integer)
}

fn flag(is_set: bool) -> ColumnValue<'static> {
    if is_set { ColumnValue::Integer(1) } else { ColumnValue::Null }
}

fn time(time: Timestamp) -> ColumnValue<'static> {
    ColumnValue::Integer(time.as_micros())
}

fn optional_time(time: Option<Timestamp>) -> ColumnValue<'static> {
    optional_integer(time.map(Timestamp::as_micros))
}

fn json(value: &impl Serialize) -> ColumnValue<'static> {
    let text = serde_json::to_string(value);
    let text = text.expect("texts, integers, booleans, lists and maps with text keys always have a JSON form");
    ColumnValue::Text(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, FieldValue<'static>)]) -> TargetFields<'static> {
        fields.iter().map(|(name, value)| (Cow::Borrowed(*name), value.clone())).collect()
    }

    fn text_value(text: &'static str) -> FieldValue<'static> {
        FieldValue::Text(Cow::Borrowed(text))
    }

    /// A later version's field is absent from an old target, whose JSON and hash stay as they are.
    #[test]
    fn the_json_of_a_target_holds_the_present_fields_in_the_order_of_their_names() {
        let old = [("second", FieldValue::Integer(-2)), ("first", text_value("\"1\""))];
        let json = r#"{"first":"\"1\"","second":-2}"#;
        assert_eq!(target_json(&fields(&old)), ColumnValue::Text(Cow::Borrowed(json)));
        let later = [old.as_slice(), &[("item_ids", FieldValue::Integers(vec![1, 2]))]].concat();
        let json = r#"{"first":"\"1\"","item_ids":[1,2],"second":-2}"#;
        assert_eq!(target_json(&fields(&later)), ColumnValue::Text(Cow::Borrowed(json)));
    }
}
