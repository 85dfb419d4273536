//! Rows of SQLite as [`encoding::ColumnValue`]s, and what names a row that does not fit.

use std::borrow::Cow;

use rusqlite::Row;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::failure::StepError;
use crate::ledger::LedgerError;
use crate::ledger::encoding::{self, ColumnError, ColumnValue, EVENT_COLUMNS, StoredEvent, StoredRefund};

/// What [`event`] reads, from `events` as `e` and `refunds` as `r`.
pub(super) const EVENT_SELECT: &str = "e.sequence, r.id, e.revision, e.event_time, e.from_state, e.to_state, e.kind, \
     e.attempt, e.actor, e.actor_credential, e.actor_policy, e.note, e.refund_digest, e.chain_hash, r.provider";

/// The row that an error is about.
#[derive(Debug)]
pub(super) struct RowRef {
    table: &'static str,
    row: String,
}

/// What [`refund`] reads, from `refunds`.
pub(super) fn refund_select() -> String {
    let names: Vec<&str> = ["ordinal"].into_iter().chain(encoding::columns()).collect();
    names.join(", ")
}

/// Reads a row of [`refund_select`].
pub(super) fn refund(row: &Row<'_>) -> Result<StoredRefund, StepError> {
    let ordinal: i64 = row.get(0)?;
    let read = values(row, 1, encoding::columns())?.and_then(|values| encoding::decode_refund(&values));
    let refund = read.map_err(|error| RowRef::refund(ordinal).error(error))?;
    Ok(StoredRefund { ordinal, refund })
}

/// Reads a row of [`EVENT_SELECT`].
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent, StepError> {
    let sequence: i64 = row.get(0)?;
    let read = values(row, 0, EVENT_COLUMNS.into_iter())?.and_then(|values| encoding::decode_event(&values));
    Ok(read.map_err(|error| RowRef::event(sequence).error(error))?)
}

/// The values of `columns`, which begin at the row's column `first`. The outer error is the
/// database's.
fn values<'row>(
    row: &'row Row<'_>,
    first: usize,
    columns: impl Iterator<Item = &'static str>,
) -> rusqlite::Result<Result<Vec<ColumnValue<'row>>, ColumnError>> {
    let mut values = Vec::with_capacity(columns.size_hint().0);
    for (index, column) in (first..).zip(columns) {
        values.push(match row.get_ref(index)? {
            ValueRef::Null => ColumnValue::Null,
            ValueRef::Integer(number) => ColumnValue::Integer(number),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => ColumnValue::Text(Cow::Borrowed(text)),
                Err(_) => return Ok(Err(ColumnError::new(column, "is not UTF-8"))),
            },
            ValueRef::Blob(bytes) => ColumnValue::Blob(Cow::Borrowed(bytes)),
            ValueRef::Real(_) => return Ok(Err(ColumnError::new(column, "is a float, which no column is"))),
        });
    }
    Ok(Ok(values))
}

impl ToSql for ColumnValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            ColumnValue::Null => ValueRef::Null,
            ColumnValue::Integer(number) => ValueRef::Integer(*number),
            ColumnValue::Text(text) => ValueRef::Text(text.as_bytes()),
            ColumnValue::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl RowRef {
    pub(super) fn refund(ordinal: i64) -> Self {
        Self { table: "refunds", row: format!("ordinal {ordinal}") }
    }

    pub(super) fn event(sequence: i64) -> Self {
        Self { table: "events", row: format!("sequence {sequence}") }
    }

    pub(super) fn corrupt(&self, column: &'static str, problem: impl Into<String>) -> LedgerError {
        self.error(ColumnError::new(column, problem))
    }

    fn error(&self, ColumnError { column, problem }: ColumnError) -> LedgerError {
        LedgerError::Corrupt { table: self.table, column, row: self.row.clone(), problem }
    }
}
