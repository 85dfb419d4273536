//! Pages of refunds, for lists: newest first, by state, account, reference and time.

use std::sync::LazyLock;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::failure::StepError;
use super::queries::{self, ACCOUNTS, SELECT_REFUND};
use super::rows;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::ledger::encoding::integer;
use crate::ledger::{ListQuery, ListedRefund};

/// What a page may hold: ordinals and times of creation, as [`PAGE`] binds them.
struct PageBounds {
    after: i64,
    before: i64,
    created_from: i64,
    created_before: i64,
    limit: i64,
}

static BY_ORDINAL: LazyLock<String> = LazyLock::new(|| format!("{} WHERE ordinal = ?1", *SELECT_REFUND));

/// Of a page: the ordinals between ?1 and ?2, without either, of refunds created between ?3 and ?4,
/// without ?4. At most ?5, newest first.
const PAGE: &str = "r.ordinal > ?1 AND r.ordinal < ?2 AND +r.create_time >= ?3 AND +r.create_time < ?4 \
     ORDER BY r.ordinal DESC LIMIT ?5";

/// A page of all refunds.
pub(super) static PAGE_OF_ALL: LazyLock<String> =
    LazyLock::new(|| format!("SELECT r.ordinal FROM refunds r WHERE {PAGE}"));

/// A page of account ?6 in state ?7. Reads the index alone.
pub(super) static PAGE_OF_STATE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT r.ordinal FROM refunds r WHERE r.account = ?6 AND r.state = ?7 AND {PAGE}"));

/// A page of refunds that were recorded for account ?6 and are at another one, in state ?7; at
/// account ?8 if that is not null.
pub(super) static PAGE_OF_FIRST_ACCOUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT r.ordinal FROM refunds r WHERE r.first_account = ?6 AND r.state = ?7 \
         AND (?8 IS NULL OR r.account = ?8) AND {PAGE}"
    )
});

/// The filters that a page reads from the row: account ?7, the states in the JSON list ?8, the
/// caller ?9, and the visible accounts in the JSON list ?10, each if it is not null.
const ROW_FILTERS: &str = "(?7 IS NULL OR r.account = ?7) \
     AND (?8 IS NULL OR r.state IN (SELECT value FROM json_each(?8))) AND (?9 IS NULL OR r.created_by = ?9) \
     AND (?10 IS NULL OR r.account IN (SELECT value FROM json_each(?10)) \
     OR r.first_account IN (SELECT value FROM json_each(?10)))";

/// A page of refunds with reference ?6.
pub(super) static PAGE_OF_REFERENCE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT r.ordinal FROM refund_references f JOIN refunds r ON r.ordinal = f.ordinal WHERE f.reference = ?6 \
         AND {ROW_FILTERS} AND {PAGE}"
    )
});

/// A page of refunds that caller ?6 asked for.
pub(super) static PAGE_OF_CALLER: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT r.ordinal FROM refunds r INDEXED BY refunds_by_caller WHERE r.created_by = ?6 \
         AND {ROW_FILTERS} AND {PAGE}"
    )
});

pub(super) fn list(connection: &Connection, query: &ListQuery) -> Result<Vec<ListedRefund>, StepError> {
    // One snapshot for the bounds, the walks and the rows.
    let snapshot = connection.unchecked_transaction()?;
    let mut row = snapshot.prepare_cached(&BY_ORDINAL)?;
    let mut found = Vec::new();
    for ordinal in page(&snapshot, query)? {
        found.push(row.query_and_then([ordinal], rows::refund)?.next().ok_or(rusqlite::Error::QueryReturnedNoRows)??);
    }
    Ok(queries::listed(found))
}

/// Between which ordinals a page is searched, without either.
#[cfg(test)]
pub(super) fn page_range(connection: &Connection, query: &ListQuery) -> Result<(i64, i64), StepError> {
    let PageBounds { after, before, .. } = PageBounds::of(connection, query)?;
    Ok((after, before))
}

/// The ordinals of a page, newest first.
///
/// Each variant walks an index in the order of recording and stops at the limit: the rows with a
/// reference, the rows of each state of each account (merged), or the table itself. Times are
/// turned into ordinals first, so that a walk begins and ends there.
fn page(connection: &Connection, query: &ListQuery) -> Result<Vec<i64>, StepError> {
    let ListQuery { states, account, visible_accounts, target_reference, created_by, .. } = query;
    let mut bounds = PageBounds::of(connection, query)?;
    let text = |text: &str| Value::Text(text.to_owned());
    if let Some((sql, key)) = match (target_reference, created_by) {
        (Some(reference), _) => Some((&PAGE_OF_REFERENCE, reference)),
        (None, Some(caller)) => Some((&PAGE_OF_CALLER, caller)),
        (None, None) => None,
    } {
        let list = |names: Vec<&str>| Value::Text(serde_json::json!(names).to_string());
        let account = account.as_ref().map_or(Value::Null, |account| text(account.as_str()));
        let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let states = if names.is_empty() { Value::Null } else { list(names) };
        let caller = created_by.as_deref().map_or(Value::Null, text);
        let visible = visible_accounts.as_ref();
        let visible = visible.map_or(Value::Null, |names| list(names.iter().map(AccountName::as_str).collect()));
        return ordinals(connection, sql, &bounds, [text(key), account, states, caller, visible]);
    }
    if states.is_empty() && account.is_none() && visible_accounts.is_none() {
        return ordinals(connection, &PAGE_OF_ALL, &bounds, []);
    }
    let walks = walks(connection, account.as_ref(), visible_accounts.as_deref())?;
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let is_requested = |state: &State| states.is_empty() || states.contains(state);
    let mut merged: Vec<i64> = Vec::new();
    for Walk { sql, account, present } in &walks {
        for state in State::ALL.into_iter().filter(is_requested) {
            let walk = [text(account), text(state.as_str())].into_iter().chain(present.clone());
            merged.extend(ordinals(connection, sql, &bounds, walk)?);
            merged.sort_unstable_by_key(|ordinal| std::cmp::Reverse(*ordinal));
            // A refund may be visible by both of its accounts.
            merged.dedup();
            merged.truncate(limit);
            if let Some(last) = merged.last().filter(|_| merged.len() == limit) {
                // The page is full: the next walk stops where it could add nothing.
                bounds.after = *last;
            }
        }
    }
    Ok(merged)
}

/// A walk through the refunds of one account, state by state.
struct Walk {
    sql: &'static LazyLock<String>,
    account: String,
    /// The further parameter of [`PAGE_OF_FIRST_ACCOUNT`].
    present: Option<Value>,
}

/// The walks that together reach the refunds at `account`, or at any, which are visible.
fn walks(
    connection: &Connection,
    account: Option<&AccountName>,
    visible: Option<&[AccountName]>,
) -> Result<Vec<Walk>, StepError> {
    let at = |account: &str| Walk { sql: &PAGE_OF_STATE, account: account.to_owned(), present: None };
    let Some(visible) = visible else {
        return Ok(match account {
            Some(account) => vec![at(account.as_str())],
            None => accounts(connection)?.iter().map(|account| at(account)).collect(),
        });
    };
    let recorded_for = |first: &AccountName| Walk {
        sql: &PAGE_OF_FIRST_ACCOUNT,
        account: first.to_string(),
        present: Some(account.map_or(Value::Null, |account| Value::Text(account.to_string()))),
    };
    Ok(match account {
        Some(account) if visible.contains(account) => vec![at(account.as_str())],
        Some(_) => visible.iter().map(recorded_for).collect(),
        None => visible.iter().map(|one| at(one.as_str())).chain(visible.iter().map(recorded_for)).collect(),
    })
}

impl PageBounds {
    fn of(connection: &Connection, query: &ListQuery) -> Result<Self, StepError> {
        let ListQuery { created_from, created_before, before_ordinal, limit, .. } = query;
        let mut bounds = Self {
            after: 0,
            before: before_ordinal.map_or(i64::MAX, integer),
            created_from: created_from.map_or(i64::MIN, Timestamp::as_micros),
            created_before: created_before.map_or(i64::MAX, Timestamp::as_micros),
            limit: i64::from(*limit),
        };
        if created_from.is_none() && created_before.is_none() {
            return Ok(bounds);
        }
        let (last, disorder): (i64, i64) = connection
            .prepare_cached("SELECT (SELECT coalesce(max(ordinal), 0) FROM refunds), max_micros FROM clock_disorder")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        // No refund up to one that was created this much before a time was created at that time or
        // later, and none from one that was created this much after it was created before it.
        if created_from.is_some() {
            let time = bounds.created_from.saturating_sub(disorder);
            bounds.after = last_created_before(connection, last, time)?;
        }
        if created_before.is_some() {
            let time = bounds.created_before.saturating_add(disorder);
            let after = last_created_before(connection, last, time)?;
            bounds.before = bounds.before.min(after.saturating_add(1));
        }
        Ok(bounds)
    }
}

/// Refunds after this ordinal include all that were created at `time` or later.
pub(super) fn ordinal_before(connection: &Connection, time: Timestamp) -> Result<i64, StepError> {
    let query = ListQuery { created_from: Some(time), ..ListQuery::default() };
    Ok(PageBounds::of(connection, &query)?.after)
}

/// An ordinal of a refund created before `time` whose successor was not, or that is the `last` one.
/// 0: the first was not created before it.
fn last_created_before(connection: &Connection, last: i64, time: i64) -> Result<i64, StepError> {
    // Where a row is missing, the next one decides for it.
    let mut create_time =
        connection.prepare_cached("SELECT create_time FROM refunds WHERE ordinal >= ?1 ORDER BY ordinal LIMIT 1")?;
    let (mut before, mut after) = (0, last.saturating_add(1));
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        match create_time.query_row([middle], |row| row.get::<_, i64>(0))? < time {
            true => before = middle,
            false => after = middle,
        }
    }
    Ok(before)
}

/// The ordinals that a page query selects within `bounds`; `more` are its values from ?6 on.
fn ordinals(
    connection: &Connection,
    sql: &str,
    bounds: &PageBounds,
    more: impl IntoIterator<Item = Value>,
) -> Result<Vec<i64>, StepError> {
    let PageBounds { after, before, created_from, created_before, limit } = *bounds;
    let values = [after, before, created_from, created_before, limit].map(Value::Integer).into_iter().chain(more);
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_map(params_from_iter(values), |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn accounts(connection: &Connection) -> Result<Vec<String>, StepError> {
    let mut statement = connection.prepare_cached(ACCOUNTS)?;
    let found = statement.query_map([], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}
