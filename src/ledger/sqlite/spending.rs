//! What callers and accounts have asked for, by the hour, for limits over a day.
//!
//! Sums are kept of a subject from the first refund that is judged by such a limit of it on. That
//! refund adds up the past day from the refunds themselves, so a limit that is new counts what was
//! recorded before it. The first refund of the subject that no such limit judges ends it: from then
//! on its refunds write nothing here. Both happen in the transaction that records the refund.
//!
//! Nothing is deleted while sums are kept. By a clock that was set forward everything would be a
//! day old.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::failure::StepError;
use super::pages;
use super::queries::SELECT_REFUND;
use super::rows;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::limits::{self, Claim, DailyLimits, Full, HourSum};
use crate::domain::money::Currency;
use crate::domain::refund::Refund;
use crate::ledger::{LedgerError, NewRefund};

/// Whose refunds are counted together.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    Caller(&'a str),
    /// The account that the callers named: a reassignment moves no count.
    Account(&'a AccountName),
}

/// The sums of a subject: for each hour and currency the number of refunds and their hundredths.
/// The currency is empty where nothing said how much the refunds are.
pub(super) type Sums = BTreeMap<(i64, String), (u64, i64)>;

const ADD: &str = "INSERT INTO spending (subject, hour, currency, refunds, minor_units) VALUES (?1, ?2, ?3, 1, ?4) \
     ON CONFLICT (subject, hour, currency) \
     DO UPDATE SET refunds = refunds + 1, minor_units = minor_units + excluded.minor_units";

const TAKE: &str = "UPDATE spending SET refunds = refunds - 1, minor_units = minor_units - ?4 \
     WHERE subject = ?1 AND hour = ?2 AND currency = ?3";

/// Refunds that caller ?2 asked for, after ordinal ?1.
pub(super) fn of_caller_sql() -> String {
    format!("{} INDEXED BY refunds_by_caller WHERE ordinal > ?1 AND created_by = ?2 ORDER BY ordinal", *SELECT_REFUND)
}

/// Refunds that were asked for at account ?2, after ordinal ?1.
pub(super) fn of_account_sql() -> String {
    format!("{} WHERE ordinal > ?1 AND coalesce(first_account, account) = ?2 ORDER BY ordinal", *SELECT_REFUND)
}

/// Rejects a refund that the limits of its caller or account leave no room for.
pub(super) fn check(connection: &Connection, create: &NewRefund, claim: &Claim) -> Result<(), StepError> {
    let NewRefund { intent, by, now, .. } = create;
    let caller = by.caller().map(|caller| &caller.limits);
    if let Some(limit) = limits::exceeded(claim, caller, by.rules.accounts.get(&intent.account)) {
        return Err(LedgerError::LimitExceeded { limit }.into());
    }
    for (subject, limits) in judges(create) {
        let Some(limits) = limits else { continue };
        let hours = hours(connection, subject, claim.currency, *now)?;
        if let Err(Full { limit, free_at }) = limits::check_day(claim, &limits, &hours) {
            let retry_after = free_at.saturating_duration_since(*now);
            return Err(LedgerError::QuotaExceeded { limit, subject: subject.key(), retry_after }.into());
        }
    }
    Ok(())
}

/// Counts a refund that has just been inserted.
pub(super) fn record_created(connection: &Connection, create: &NewRefund, refund: &Refund) -> Result<(), StepError> {
    for (subject, limits) in judges(create) {
        match limits {
            Some(_) => count(connection, subject, refund)?,
            None => forget(connection, subject)?,
        }
    }
    Ok(())
}

/// Gives back what never left, or counts it again.
pub(super) fn record_change(connection: &Connection, before: &Refund, after: &Refund) -> Result<(), StepError> {
    if before.is_counted() == after.is_counted() {
        return Ok(());
    }
    let mut change = connection.prepare_cached(if after.is_counted() { ADD } else { TAKE })?;
    for subject in subjects(after.created_by.as_deref(), &after.intent.account) {
        if first_kept_hour(connection, subject)?.is_some_and(|from| from <= limits::hour_of(after.create_time)) {
            change.execute(row_of(subject, after))?;
        }
    }
    Ok(())
}

/// Who a new refund counts for, each with its limits over a day, if it has any.
fn judges(create: &NewRefund) -> impl Iterator<Item = (Subject<'_>, Option<DailyLimits<'_>>)> {
    let NewRefund { intent, by, .. } = create;
    let of_account = by.rules.accounts.get(&intent.account).map(|limits| limits.daily());
    // Without an access file, callers are not told apart.
    let caller = by.actor.policy.as_ref().map(|_| Subject::Caller(&by.actor.name));
    let of_caller = by.caller().map(|caller| caller.limits.daily());
    let caller = caller.map(|caller| (caller, of_caller));
    let judges = caller.into_iter().chain([(Subject::Account(&intent.account), of_account)]);
    judges.map(|(subject, limits)| (subject, limits.filter(|limits| !limits.is_empty())))
}

/// Who a recorded refund counts for.
pub(super) fn subjects<'a>(
    created_by: Option<&'a str>,
    account: &'a AccountName,
) -> impl Iterator<Item = Subject<'a>> + use<'a> {
    created_by.map(Subject::Caller).into_iter().chain([Subject::Account(account)])
}

/// The hours that count at `now`, oldest first.
fn hours(
    connection: &Connection,
    subject: Subject<'_>,
    currency: Currency,
    now: Timestamp,
) -> Result<Vec<HourSum>, StepError> {
    let from = limits::first_hour(now);
    if first_kept_hour(connection, subject)?.is_none_or(|kept| kept > from) {
        return Ok(by_hour(&added_up(connection, subject, from)?, currency));
    }
    let mut statement = connection.prepare_cached(
        "SELECT hour, sum(refunds), coalesce(sum(minor_units) FILTER (WHERE currency = ?3), 0) FROM spending \
         WHERE subject = ?1 AND hour >= ?2 GROUP BY hour ORDER BY hour",
    )?;
    let mut rows = statement.query(params![subject.key(), from, currency.code()])?;
    let mut hours = Vec::new();
    while let Some(row) = rows.next()? {
        let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
        hours.push(HourSum { hour: row.get(0)?, count, minor_units: row.get(2)? });
    }
    Ok(hours)
}

fn by_hour(sums: &Sums, currency: Currency) -> Vec<HourSum> {
    let mut hours: BTreeMap<i64, HourSum> = BTreeMap::new();
    for ((hour, code), (refunds, minor_units)) in sums {
        let sum = hours.entry(*hour).or_insert(HourSum { hour: *hour, count: 0, minor_units: 0 });
        sum.count = sum.count.saturating_add(*refunds);
        if code == currency.code() {
            sum.minor_units = *minor_units;
        }
    }
    hours.into_values().collect()
}

/// Counts a refund for a subject that a limit judges.
fn count(connection: &Connection, subject: Subject<'_>, refund: &Refund) -> Result<(), StepError> {
    let from = limits::first_hour(refund.create_time);
    if first_kept_hour(connection, subject)?.is_some_and(|kept| kept <= from) {
        connection.prepare_cached(ADD)?.execute(row_of(subject, refund))?;
        return Ok(());
    }
    // The refund itself is among those that are added up.
    let sums = added_up(connection, subject, from)?;
    forget(connection, subject)?;
    let key = subject.key();
    connection.execute("INSERT INTO spending_subjects (subject, from_hour) VALUES (?1, ?2)", params![key, from])?;
    let sql = "INSERT INTO spending (subject, hour, currency, refunds, minor_units) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut insert = connection.prepare_cached(sql)?;
    for ((hour, currency), (refunds, minor_units)) in sums {
        insert.execute(params![key, hour, currency, i64::try_from(refunds).unwrap_or(i64::MAX), minor_units])?;
    }
    Ok(())
}

/// Ends the sums of a subject that no limit judges. Usually there are none, and nothing is written.
fn forget(connection: &Connection, subject: Subject<'_>) -> Result<(), StepError> {
    let key = subject.key();
    if connection.prepare_cached("DELETE FROM spending_subjects WHERE subject = ?1")?.execute([&key])? > 0 {
        connection.prepare_cached("DELETE FROM spending WHERE subject = ?1")?.execute([&key])?;
    }
    Ok(())
}

/// The oldest hour that the sums of a subject are complete for. None: none are kept.
fn first_kept_hour(connection: &Connection, subject: Subject<'_>) -> Result<Option<i64>, StepError> {
    let mut statement = connection.prepare_cached("SELECT from_hour FROM spending_subjects WHERE subject = ?1")?;
    Ok(statement.query_row([subject.key()], |row| row.get(0)).optional()?)
}

/// The sums of a subject from an hour on, from the refunds themselves.
fn added_up(connection: &Connection, subject: Subject<'_>, from_hour: i64) -> Result<Sums, StepError> {
    let after = pages::ordinal_before(connection, limits::begin_of(from_hour))?;
    let (sql, name) = match subject {
        Subject::Caller(name) => (of_caller_sql(), name),
        Subject::Account(name) => (of_account_sql(), name.as_str()),
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after, name])?;
    let mut sums = Sums::new();
    while let Some(row) = rows.next()? {
        let refund = rows::refund(row)?.refund;
        if limits::hour_of(refund.create_time) >= from_hour {
            add_to(&mut sums, &refund);
        }
    }
    Ok(sums)
}

/// Adds a refund if it counts.
pub(super) fn add_to(sums: &mut Sums, refund: &Refund) {
    if refund.is_counted() {
        let (hour, currency, amount) = counted(refund);
        let (refunds, minor_units) = sums.entry((hour, currency)).or_default();
        *refunds = refunds.saturating_add(1);
        *minor_units = minor_units.saturating_add(amount);
    }
}

/// The hour, currency and hundredths that a refund counts.
fn counted(refund: &Refund) -> (i64, String, i64) {
    let hour = limits::hour_of(refund.create_time);
    match refund.counted_amount() {
        Some(amount) => (hour, amount.currency.code().to_owned(), amount.minor_units),
        None => (hour, String::new(), 0),
    }
}

fn row_of(subject: Subject<'_>, refund: &Refund) -> impl rusqlite::Params {
    let (hour, currency, minor_units) = counted(refund);
    params_from_iter([
        Value::Text(subject.key()),
        Value::Integer(hour),
        Value::Text(currency),
        Value::Integer(minor_units),
    ])
}

impl Subject<'_> {
    /// The key in the tables, which is also the subject of the answer to the caller.
    pub(super) fn key(self) -> String {
        match self {
            Subject::Caller(name) => format!("caller:{name}"),
            Subject::Account(name) => format!("account:{name}"),
        }
    }
}
