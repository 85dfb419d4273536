//! Columns to domain and back.
//!
//! A row is read strictly: whatever this program would not have written is
//! [`LedgerError::Corrupt`], with the table, the column and the row. The last check of [`stored`]
//! makes that complete: the refund that was read is written again in memory, and every column must
//! come out as it was found.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use rusqlite::Row;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

use super::chain::{self, Hash, integer};
use super::failure::StepError;
use crate::domain::clock::Timestamp;
use crate::domain::event::EventKind;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError};
use crate::domain::place::Place;
use crate::domain::refund::{Doubt, Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{
    DebitsuccessFields, DebitsuccessTarget, FieldViolation, NamecomTarget, SectigoTarget, Target,
};
use crate::ledger::LedgerError;

/// The columns of `refunds` that never change, in the table's order, after `ordinal`.
pub(super) const INTENT_COLUMNS: [&str; 14] = [
    "id",
    "provider",
    "sectigo_order_number",
    "sectigo_reason_code",
    "namecom_order_id",
    "namecom_order_item_ids",
    "debitsuccess_account_reference_no",
    "debitsuccess_external_account_reference_no",
    "debitsuccess_currency_code",
    "debitsuccess_minor_units",
    "debitsuccess_description",
    "debitsuccess_request_initiator",
    "labels",
    "create_time",
];

/// The columns of `refunds` that change with events, in the table's order.
pub(super) const STATE_COLUMNS: [&str; 36] = [
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
];

/// The columns of `refunds` that schedule lookups, in the table's order: no digest covers them.
pub(super) const SCHEDULE_COLUMNS: [&str; 3] = ["next_check", "unheard", "doubt_check_count"];

/// What [`event`] reads, from `events` as `e` and `refunds` as `r`.
pub(super) const EVENT_COLUMNS: &str = "e.sequence, r.id, e.revision, e.event_time, e.from_state, e.to_state, e.kind, \
     e.attempt, e.actor, e.note, e.refund_digest, e.chain_hash";

/// What a column is given. A text is borrowed from the refund wherever it stands there as it is
/// written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Integer(i64),
    Text(Cow<'a, str>),
}

/// A row of `refunds`.
#[derive(Debug)]
pub(super) struct StoredRefund {
    pub(super) ordinal: i64,
    pub(super) refund: Refund,
}

/// A row of `events`.
#[derive(Debug)]
pub(super) struct StoredEvent {
    pub(super) record: EventRecord,
    pub(super) refund_digest: Hash,
}

/// Which row a fault is in.
#[derive(Debug)]
pub(super) struct RowRef {
    table: &'static str,
    row: String,
}

/// The cells of one row, taken in the order in which they were asked for.
struct ColumnReader<'row, Columns> {
    row: &'row Row<'row>,
    columns: Columns,
    next: usize,
    place: RowRef,
}

/// An item in the `items` column.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemText<'a> {
    item_id: Cow<'a, str>,
    state: Cow<'a, str>,
    refunded: Option<(Cow<'a, str>, i64)>,
    message: Cow<'a, str>,
    requested: bool,
}

const IS_NULL: &str = "is NULL";

/// What [`stored`] reads, from `refunds`.
pub(super) fn refund_columns() -> String {
    let names: Vec<&str> = ["ordinal"].into_iter().chain(columns()).collect();
    names.join(", ")
}

/// All columns of a row but `ordinal`, in the table's order.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    INTENT_COLUMNS.into_iter().chain(STATE_COLUMNS).chain(SCHEDULE_COLUMNS)
}

/// The values of [`INTENT_COLUMNS`].
pub(super) fn intent_values(intent: &Intent, create_time: Timestamp) -> Vec<Value<'_>> {
    // The account is stored with the state, because a refund can go on at another one.
    let Intent { id, account: _, target, labels } = intent;
    let mut values = vec![text(id.as_str()), text(target.provider().as_str())];
    values.extend(match target {
        Target::Sectigo(order) => [
            text(order.order_number()),
            Value::Integer(i64::from(order.reason_code())),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ],
        Target::Namecom(order) => [
            Value::Null,
            Value::Null,
            Value::Integer(i64::from(order.order_id())),
            json(&order.order_item_ids()),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ],
        Target::Debitsuccess(amount) => [
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            optional_text(amount.account_reference_no()),
            optional_text(amount.external_account_reference_no()),
            Value::Text(Cow::Owned(amount.amount().currency.code().to_owned())),
            Value::Integer(amount.amount().minor_units),
            text(amount.description()),
            optional_text(amount.request_initiator()),
        ],
    });
    values.push(labels_text(labels));
    values.push(time(create_time));
    values
}

/// The values of [`STATE_COLUMNS`].
pub(super) fn state_values(refund: &Refund) -> Vec<Value<'_>> {
    let doubt = refund.doubt.as_ref();
    let error = refund.provider_error.as_ref();
    let first_account = Some(&refund.intent.account).filter(|account| **account != refund.account);
    vec![
        text(refund.account.as_str()),
        text(&refund.place.endpoint),
        text(&refund.place.login),
        text(refund.place.currency.code()),
        text(refund.state.as_str()),
        Value::Integer(integer(refund.revision)),
        time(refund.update_time),
        optional_time(refund.dispatch_time),
        optional_time(refund.complete_time),
        optional_time(refund.not_before),
        Value::Integer(i64::from(refund.attempt_count)),
        Value::Integer(i64::from(refund.unanswered_attempts)),
        optional_text(doubt.map(|doubt| doubt.reason.as_str())),
        optional_time(doubt.map(|doubt| doubt.since)),
        optional_text(doubt.map(|doubt| doubt.last_evidence.as_str())),
        optional_text(error.map(|error| error.code.as_str())),
        optional_text(error.map(|error| error.message.as_str())),
        optional_integer(error.map(|error| i64::from(error.http_status))),
        optional_text(error.map(|error| error.category.as_str())),
        optional_text(refund.refunded_amount.as_ref().map(|amount| amount.currency.code())),
        optional_integer(refund.refunded_amount.map(|amount| amount.minor_units)),
        items_text(&refund.items),
        optional_text(refund.provider_reference.as_deref()),
        optional_text(refund.provider_status.as_deref()),
        optional_text(first_account.map(AccountName::as_str)),
        optional_time(refund.placed_time),
        flag(refund.attempted_elsewhere),
        optional_text(refund.provider_status_note.as_deref()),
        optional_time(refund.last_dispatch_time),
        optional_text(refund.credential.as_deref()),
        optional_time(refund.absent_since),
        flag(refund.foreign_record),
        optional_time(refund.reserved_until),
        optional_time(refund.caution_until),
        optional_time(refund.corrected_time),
        flag(doubt.is_some_and(|doubt| doubt.not_processed)),
    ]
}

/// The values of [`SCHEDULE_COLUMNS`].
pub(super) fn schedule_values(refund: &Refund) -> [Value<'static>; 3] {
    let checks = refund.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    [optional_time(refund.next_check), flag(refund.unheard), optional_integer(checks)]
}

/// Reads a row of [`refund_columns`].
pub(super) fn stored(row: &Row<'_>) -> Result<StoredRefund, StepError> {
    let ordinal: i64 = row.get(0)?;
    let place = RowRef::refund(ordinal);
    let mut cells = ColumnReader { row, columns: columns(), next: 1, place };

    let id = cells.parsed(RefundId::parse)?;
    let target = target(&mut cells)?;
    let labels: BTreeMap<String, String> = cells.parsed(|text| serde_json::from_str(text))?;
    let create_time = cells.time()?;

    let account = cells.parsed(AccountName::parse)?;
    let place = Place { endpoint: cells.text()?, login: cells.text()?, currency: cells.parsed(Currency::parse)? };
    let state = cells.parsed(|word| State::parse(word).ok_or("names no state"))?;
    let revision = cells.number()?;
    let update_time = cells.time()?;
    let dispatch_time = cells.optional_time()?;
    let complete_time = cells.optional_time()?;
    let not_before = cells.optional_time()?;
    let attempt_count = cells.number()?;
    let unanswered_attempts = cells.number()?;
    let mut doubt = match cells.optional_parsed(|word| DoubtReason::parse(word).ok_or("names no reason"))? {
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
            category: cells.parsed(|word| ErrorCategory::parse(word).ok_or("names no category"))?,
        }),
        None => cells.skip(3),
    };
    let refunded_amount = match cells.optional_parsed(Currency::parse)? {
        Some(currency) => Some(Money { currency, minor_units: cells.number()? }),
        None => cells.skip(1),
    };
    let items = cells.parsed(items)?;
    let provider_reference = cells.optional_text()?;
    let provider_status = cells.optional_text()?;
    let first_account = cells.optional_parsed(AccountName::parse)?;
    let placed_time = cells.optional_time()?;
    let attempted_elsewhere = cells.flag()?;
    let provider_status_note = cells.optional_text()?;
    let last_dispatch_time = cells.optional_time()?;
    let credential = cells.optional_text()?;
    let absent_since = cells.optional_time()?;
    let foreign_record = cells.flag()?;
    let reserved_until = cells.optional_time()?;
    let caution_until = cells.optional_time()?;
    let corrected_time = cells.optional_time()?;
    let doubt_not_processed = cells.flag()?;

    let next_check = cells.optional_time()?;
    let unheard = cells.flag()?;
    let check_count = cells.optional_number()?;
    if let Some(doubt) = doubt.as_mut() {
        doubt.check_count = check_count.unwrap_or(0);
        doubt.not_processed = doubt_not_processed;
    }

    let intent = Intent { id, account: first_account.unwrap_or_else(|| account.clone()), target, labels };
    let refund = Refund {
        intent,
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
    };
    let stored = StoredRefund { ordinal, refund };
    stored.verify_roundtrip(row, &cells.place)?;
    Ok(stored)
}

/// Reads a row of [`EVENT_COLUMNS`].
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent, StepError> {
    let columns = [
        "sequence",
        "ordinal",
        "revision",
        "event_time",
        "from_state",
        "to_state",
        "kind",
        "attempt",
        "actor",
        "note",
        "refund_digest",
        "chain_hash",
    ];
    let sequence: i64 = row.get(0)?;
    let mut cells = ColumnReader { row, columns: columns.into_iter(), next: 0, place: RowRef::event(sequence) };
    let state = |word: &str| State::parse(word).ok_or("names no state");
    let sequence = cells.number()?;
    let refund = cells.parsed(RefundId::parse)?;
    let revision = cells.number()?;
    let time = cells.time()?;
    let from = cells.optional_parsed(state)?;
    let to = cells.parsed(state)?;
    let kind = cells.parsed(|word| EventKind::parse(word).ok_or("names no kind of event"))?;
    let attempt = cells.number()?;
    let actor = cells.text()?;
    let note = cells.text()?;
    let refund_digest = cells.hash()?;
    let chain_hash = cells.hash()?;
    let record = EventRecord { sequence, refund, revision, time, from, to, kind, attempt, actor, note, chain_hash };
    Ok(StoredEvent { record, refund_digest })
}

impl StoredRefund {
    /// What the last event's `refund_digest` must be.
    pub(super) fn digest(&self) -> Hash {
        let intent = intent_values(&self.refund.intent, self.refund.create_time);
        chain::refund_digest(self.ordinal, &intent, &state_values(&self.refund))
    }

    fn verify_roundtrip(&self, row: &Row<'_>, place: &RowRef) -> Result<(), StepError> {
        let intent = intent_values(&self.refund.intent, self.refund.create_time);
        let written = intent.into_iter().chain(state_values(&self.refund)).chain(schedule_values(&self.refund));
        for (index, (column, value)) in columns().zip(written).enumerate() {
            if row.get_ref(index + 1)? != value.as_sql() {
                return Err(place.corrupt(column, "is not in the form in which it is written").into());
            }
        }
        let Refund { state, doubt, complete_time, not_before, next_check, absent_since, attempt_count, .. } =
            &self.refund;
        let is_looked_up = matches!(state, State::InDoubt | State::Submitted | State::NeedsReview | State::Failed);
        let problem = if doubt.is_some() != matches!(state, State::InDoubt | State::NeedsReview) {
            Some(("doubt_reason", "is there exactly when the refund is in doubt"))
        } else if complete_time.is_some() != state.is_terminal() {
            Some(("complete_time", "is there exactly when the refund is complete"))
        } else if not_before.is_some() && *state != State::Pending {
            Some(("not_before", "is there only while the refund is pending"))
        } else if next_check.is_some() && !is_looked_up {
            Some(("next_check", "is there only while the provider is asked"))
        } else if absent_since.is_some() && !is_looked_up {
            Some(("absent_since", "is there only while the provider can be asked"))
        } else if self.refund.unanswered_attempts > *attempt_count {
            Some(("unanswered_attempts", "is above the number of attempts"))
        } else {
            None
        };
        problem.map_or(Ok(()), |(column, rule)| Err(place.corrupt(column, format!("{rule}: it is {state}")).into()))
    }
}

impl Value<'_> {
    fn as_sql(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_sql()))
    }
}

impl RowRef {
    pub(super) fn refund(ordinal: i64) -> Self {
        Self { table: "refunds", row: format!("ordinal {ordinal}") }
    }

    pub(super) fn event(sequence: i64) -> Self {
        Self { table: "events", row: format!("sequence {sequence}") }
    }

    pub(super) fn attempt(ordinal: i64, number: u32) -> Self {
        Self { table: "attempts", row: format!("ordinal {ordinal}, number {number}") }
    }

    pub(super) fn corrupt(&self, column: &'static str, problem: impl Into<String>) -> LedgerError {
        LedgerError::Corrupt { table: self.table, column, row: self.row.clone(), problem: problem.into() }
    }
}

impl<'row, Columns: Iterator<Item = &'static str>> ColumnReader<'row, Columns> {
    fn take(&mut self) -> Result<(&'static str, ValueRef<'row>), StepError> {
        let cell = self.row.get_ref(self.next)?;
        self.next += 1;
        Ok((self.columns.next().unwrap_or("(unnamed)"), cell))
    }

    /// ColumnReader that must be NULL, which [`StoredRefund::verify_roundtrip`] sees to.
    fn skip<T>(&mut self, count: usize) -> Option<T> {
        for _ in 0..count {
            self.columns.next();
            self.next += 1;
        }
        None
    }

    fn optional_str(&mut self) -> Result<(&'static str, Option<&'row str>), StepError> {
        let (column, cell) = self.take()?;
        match cell {
            ValueRef::Null => Ok((column, None)),
            ValueRef::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| self.place.corrupt(column, "is not UTF-8"))?;
                Ok((column, Some(text)))
            }
            other => Err(self.place.corrupt(column, format!("is {} and not text", other.data_type())).into()),
        }
    }

    fn optional_parsed<T, E: Display>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, StepError> {
        let (column, text) = self.optional_str()?;
        let parsed = text.map(parse).transpose();
        parsed.map_err(|problem| self.place.corrupt(column, problem.to_string()).into())
    }

    fn parsed<T, E: Display>(&mut self, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, StepError> {
        let (column, text) = self.optional_str()?;
        let text = text.ok_or_else(|| self.place.corrupt(column, IS_NULL))?;
        parse(text).map_err(|problem| self.place.corrupt(column, problem.to_string()).into())
    }

    fn optional_text(&mut self) -> Result<Option<String>, StepError> {
        Ok(self.optional_str()?.1.map(str::to_owned))
    }

    fn text(&mut self) -> Result<String, StepError> {
        self.parsed(|text| Ok::<_, &str>(text.to_owned()))
    }

    fn numeric<T: TryFrom<i64>>(&mut self) -> Result<(&'static str, Option<T>), StepError> {
        let (column, cell) = self.take()?;
        match cell {
            ValueRef::Null => Ok((column, None)),
            ValueRef::Integer(number) => match T::try_from(number) {
                Ok(fits) => Ok((column, Some(fits))),
                Err(_) => Err(self.place.corrupt(column, format!("is {number}, which is out of range")).into()),
            },
            other => Err(self.place.corrupt(column, format!("is {} and not an integer", other.data_type())).into()),
        }
    }

    fn optional_number<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StepError> {
        Ok(self.numeric()?.1)
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StepError> {
        let (column, number) = self.numeric()?;
        number.ok_or_else(|| self.place.corrupt(column, IS_NULL).into())
    }

    fn optional_time(&mut self) -> Result<Option<Timestamp>, StepError> {
        Ok(self.optional_number::<i64>()?.map(Timestamp::from_micros))
    }

    fn time(&mut self) -> Result<Timestamp, StepError> {
        Ok(Timestamp::from_micros(self.number()?))
    }

    /// 1 or NULL; [`StoredRefund::verify_roundtrip`] sees to it that it is nothing else.
    fn flag(&mut self) -> Result<bool, StepError> {
        Ok(self.optional_number::<i64>()?.is_some())
    }

    fn hash(&mut self) -> Result<Hash, StepError> {
        let (column, cell) = self.take()?;
        match cell {
            ValueRef::Blob(bytes) => {
                bytes.try_into().map_err(|_| self.place.corrupt(column, "is not 32 bytes long").into())
            }
            other => Err(self.place.corrupt(column, format!("is {} and not a blob", other.data_type())).into()),
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
            requested: item.requested,
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
        Ok(ItemResult { item_id, state, refunded_amount, message, requested: self.requested })
    }
}

fn items(text: &str) -> Result<Vec<ItemResult>, String> {
    let items: Vec<ItemText<'_>> = serde_json::from_str(text).map_err(|problem| problem.to_string())?;
    items.into_iter().map(ItemText::read).collect()
}

/// The ten target columns. Those of the two other providers must be NULL, which
/// [`StoredRefund::verify_roundtrip`] sees to.
fn target<Columns: Iterator<Item = &'static str>>(cells: &mut ColumnReader<'_, Columns>) -> Result<Target, StepError> {
    let provider = cells.parsed(|word| ProviderKind::parse(word).ok_or("names no provider"))?;
    let order_number = cells.optional_text()?;
    let reason_code: Option<i32> = cells.optional_number()?;
    let order_id: Option<i32> = cells.optional_number()?;
    let order_item_ids: Option<Vec<i32>> = cells.optional_parsed(|text| serde_json::from_str(text))?;
    let account_reference_no = cells.optional_text()?.unwrap_or_default();
    let external_account_reference_no = cells.optional_text()?.unwrap_or_default();
    let currency_code = cells.optional_text()?;
    let minor_units: Option<i64> = cells.optional_number()?;
    let description = cells.optional_text()?.unwrap_or_default();
    let request_initiator = cells.optional_text()?.unwrap_or_default();
    // What is absent becomes a value that the constructor refuses by name.
    let target = match provider {
        ProviderKind::Sectigo => {
            SectigoTarget::new(&order_number.unwrap_or_default(), reason_code.unwrap_or(0)).map(Target::Sectigo)
        }
        ProviderKind::Namecom => {
            NamecomTarget::new(order_id.unwrap_or(0), &order_item_ids.unwrap_or_default()).map(Target::Namecom)
        }
        ProviderKind::Debitsuccess => DebitsuccessTarget::new(DebitsuccessFields {
            account_reference_no: &account_reference_no,
            external_account_reference_no: &external_account_reference_no,
            amount: currency_code.as_deref().zip(minor_units),
            description: &description,
            request_initiator: &request_initiator,
        })
        .map(Target::Debitsuccess),
    };
    target.map_err(|faults| {
        let column = faults.first().map_or("provider", |fault| column_of(provider, &fault.field));
        let problem: Vec<String> = faults.into_iter().map(|FieldViolation { description, .. }| description).collect();
        cells.place.corrupt(column, problem.join("; ")).into()
    })
}

/// Which column holds a field of a target.
fn column_of(provider: ProviderKind, field: &str) -> &'static str {
    let field = match field {
        "reason" => "reason_code",
        "amount" | "amount.currency_code" => "currency_code",
        "amount.minor_units" => "minor_units",
        other => other,
    };
    let named = |column: &&str| column.strip_prefix(provider.as_str()) == Some(format!("_{field}").as_str());
    INTENT_COLUMNS.into_iter().find(named).unwrap_or("provider")
}

/// Most refunds have none, and a text for each of them to be made anew would be a good part of the
/// row's cost.
const NO_LABELS: Value<'static> = Value::Text(Cow::Borrowed("{}"));
/// As [`NO_LABELS`].
const NO_ITEMS: Value<'static> = Value::Text(Cow::Borrowed("[]"));

fn labels_text(labels: &BTreeMap<String, String>) -> Value<'static> {
    if labels.is_empty() { NO_LABELS } else { json(labels) }
}

fn items_text(items: &[ItemResult]) -> Value<'static> {
    if items.is_empty() { NO_ITEMS } else { json(&items.iter().map(ItemText::of).collect::<Vec<_>>()) }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

fn optional_text(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, self::text)
}

fn optional_integer(number: Option<i64>) -> Value<'static> {
    number.map_or(Value::Null, Value::Integer)
}

fn flag(is_set: bool) -> Value<'static> {
    if is_set { Value::Integer(1) } else { Value::Null }
}

fn time(time: Timestamp) -> Value<'static> {
    Value::Integer(time.as_micros())
}

fn optional_time(time: Option<Timestamp>) -> Value<'static> {
    optional_integer(time.map(Timestamp::as_micros))
}

fn json(value: &impl Serialize) -> Value<'static> {
    let text = serde_json::to_string(value);
    let text = text.expect("texts, integers, booleans and maps from text to text always have a JSON form");
    Value::Text(Cow::Owned(text))
}
