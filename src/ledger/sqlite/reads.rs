//! Every question to the tables. Each works on any connection, so that [`verdict`] answers alike inside the writer's transaction and outside.

use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Params, params, params_from_iter};

use super::chain::{Line, Tail, integer};
use super::halt::Fault;
use super::rows::{self, EVENT_COLUMNS, Place, Stored, StoredEvent};
use super::tally::Counts;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::refund::{EventRecord, Refund};
use crate::domain::state::State;
use crate::ledger::{self, Create, Created, LedgerError, ListQuery, Listed};

/// Two equal Debitsuccess refunds of one account within this time look like one sent twice.
const SIMILAR_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Rows that [`verify`] holds in memory at once.
const VERIFY_PAGE: u32 = 1_000;

static SELECT_REFUND: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM refunds", rows::refund_columns()));

/// Of id ?1.
static FIND: LazyLock<String> = LazyLock::new(|| format!("{} WHERE id = ?1", *SELECT_REFUND));

/// Of account ?1, at ?2, at most ?3. The states and NULLs are literals, so that the partial indexes fit.
pub(super) static DUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds \
                 WHERE account = ?1 AND state = 'PENDING' AND not_before IS NULL ORDER BY create_time, ordinal LIMIT ?3\
             ) AS waiting \
             UNION ALL SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds \
                 WHERE account = ?1 AND state = 'PENDING' AND not_before <= ?2 ORDER BY create_time, ordinal LIMIT ?3\
             ) AS put_off\
         ) AS due ORDER BY create_time, ordinal LIMIT ?3) ORDER BY create_time, ordinal",
        *SELECT_REFUND
    )
});

/// Of account ?1.
pub(super) const NEXT_DUE: &str = "SELECT min(due) FROM (\
         SELECT min(create_time) AS due FROM refunds WHERE account = ?1 AND state = 'PENDING' AND not_before IS NULL \
         UNION ALL \
         SELECT min(not_before) FROM refunds WHERE account = ?1 AND state = 'PENDING' AND not_before IS NOT NULL\
     ) AS each";

/// Of account ?1.
pub(super) const OLDEST_DOUBT: &str =
    "SELECT min(doubt_since) FROM refunds WHERE account = ?1 AND doubt_since IS NOT NULL";

/// Who holds key ?1, and in whose books.
pub(super) const HOLDERS: &str =
    "SELECT r.id, r.account, h.scope FROM reservations h JOIN refunds r ON r.ordinal = h.ordinal WHERE h.key = ?1";

/// Of account ?1, at ?2, at most ?3.
pub(super) static UNSETTLED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, next_check FROM (\
                 SELECT ordinal, next_check FROM refunds \
                 WHERE account = ?1 AND state IN ('IN_DOUBT', 'SUBMITTED') AND next_check IS NULL \
                 ORDER BY update_time, ordinal LIMIT ?3\
             ) AS never_asked \
             UNION ALL SELECT ordinal, next_check FROM (\
                 SELECT ordinal, next_check FROM refunds \
                 WHERE account = ?1 AND state IN ('IN_DOUBT', 'SUBMITTED') AND next_check <= ?2 \
                 ORDER BY next_check, ordinal LIMIT ?3\
             ) AS asked_before\
         ) AS due ORDER BY next_check IS NOT NULL, next_check, ordinal LIMIT ?3) \
         ORDER BY next_check IS NOT NULL, next_check, ordinal",
        *SELECT_REFUND
    )
});

/// Of account ?1. One that is to be asked at once counts from its last change.
pub(super) const NEXT_UNSETTLED: &str = "SELECT min(due) FROM (\
         SELECT min(update_time) AS due FROM refunds \
         WHERE account = ?1 AND state IN ('IN_DOUBT', 'SUBMITTED') AND next_check IS NULL \
         UNION ALL \
         SELECT min(next_check) FROM refunds \
         WHERE account = ?1 AND state IN ('IN_DOUBT', 'SUBMITTED') AND next_check IS NOT NULL\
     ) AS each";

/// Of account ?1, created until ?2, at most ?3.
pub(super) static WAITING_SINCE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds \
                 WHERE account = ?1 AND state = 'PENDING' AND not_before IS NULL AND create_time <= ?2 \
                 ORDER BY create_time, ordinal LIMIT ?3\
             ) AS waiting \
             UNION ALL SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds \
                 WHERE account = ?1 AND state = 'PENDING' AND not_before IS NOT NULL AND create_time <= ?2 \
                 ORDER BY create_time, ordinal LIMIT ?3\
             ) AS put_off\
         ) AS old ORDER BY create_time, ordinal LIMIT ?3) ORDER BY create_time, ordinal",
        *SELECT_REFUND
    )
});

/// Of account ?1.
pub(super) const OLDEST_WAITING: &str = "SELECT min(oldest) FROM (\
         SELECT min(create_time) AS oldest FROM refunds WHERE account = ?1 AND state = 'PENDING' AND not_before IS NULL \
         UNION ALL \
         SELECT min(create_time) FROM refunds WHERE account = ?1 AND state = 'PENDING' AND not_before IS NOT NULL\
     ) AS each";

/// What `create` comes to, without recording anything: the refund as it would be, or the one that is there.
pub(super) fn verdict(connection: &Connection, create: &Create) -> Result<Created, Fault> {
    let Create { intent, scope, allow_similar, now, .. } = create;
    if let Some(Stored { refund, .. }) = find(connection, &intent.id)? {
        return Ok(Created::Known(ledger::repeated(refund, intent)?));
    }
    for key in intent.target.reservation_keys() {
        if let Some(conflicting) = holder_of(connection, &key, create)? {
            return Err(LedgerError::TargetHasRefund { conflicting }.into());
        }
    }
    let keys = if *allow_similar { Vec::new() } else { intent.target.similarity_keys() };
    let mut similar = connection.prepare_cached(
        "SELECT r.id FROM similarity s JOIN refunds r ON r.ordinal = s.ordinal \
         WHERE s.scope = ?1 AND s.key = ?2 AND s.create_time > ?3 AND r.state NOT IN ('FAILED', 'CANCELLED') \
         ORDER BY s.ordinal DESC LIMIT 1",
    )?;
    for key in keys {
        let since = now.minus(SIMILAR_WITHIN).as_micros();
        let id: Option<String> = similar.query_row(params![scope, key, since], |row| row.get(0)).optional()?;
        if let Some(id) = id {
            let conflicting = id_in("similarity", &key, &id)?;
            return Err(LedgerError::SimilarRefund { conflicting }.into());
        }
    }
    Ok(Created::New(Refund::new(intent.clone(), *now)))
}

/// The refund in the same books that holds `key`, or that of an account which these books are shared with: then it is in the books of a former
/// login. Elsewhere the same number is another order.
fn holder_of(connection: &Connection, key: &str, create: &Create) -> Result<Option<RefundId>, Fault> {
    let mut holders = connection.prepare_cached(HOLDERS)?;
    let mut rows = holders.query([key])?;
    while let Some(row) = rows.next()? {
        let (id, account, scope): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if scope == create.scope || create.sharers.iter().any(|sharer| sharer.as_str() == account) {
            return Ok(Some(id_in("reservations", key, &id)?));
        }
    }
    Ok(None)
}

pub(super) fn find(connection: &Connection, id: &RefundId) -> Result<Option<Stored>, Fault> {
    Ok(refunds(connection, &FIND, params![id.as_str()])?.pop())
}

/// Refunds in [`State::Dispatching`], oldest first.
pub(super) fn dispatching(connection: &Connection, limit: u32) -> Result<Vec<Stored>, Fault> {
    let sql = format!("{} WHERE state = 'DISPATCHING' ORDER BY ordinal LIMIT ?1", *SELECT_REFUND);
    refunds(connection, &sql, params![limit])
}

pub(super) fn list(connection: &Connection, query: &ListQuery) -> Result<Vec<Listed>, Fault> {
    let (ordinals, values) = page(query);
    let sql = format!("{} WHERE ordinal IN ({ordinals}) ORDER BY ordinal DESC", *SELECT_REFUND);
    let stored = refunds(connection, &sql, params_from_iter(values))?;
    let listed = |Stored { ordinal, refund, .. }| Listed { ordinal: u64::try_from(ordinal).unwrap_or(0), refund };
    Ok(stored.into_iter().map(listed).collect())
}

/// What `sql` ([`DUE`], [`UNSETTLED`], [`WAITING_SINCE`]) finds of an account at a moment.
pub(super) fn of_account(
    connection: &Connection,
    sql: &str,
    account: &AccountName,
    at: Timestamp,
    limit: u32,
) -> Result<Vec<Refund>, Fault> {
    let stored = refunds(connection, sql, params![account.as_str(), at.as_micros(), limit])?;
    Ok(stored.into_iter().map(|stored| stored.refund).collect())
}

/// The moment that `sql` ([`NEXT_DUE`], [`NEXT_UNSETTLED`], [`OLDEST_WAITING`]) finds of an account.
pub(super) fn moment_of(connection: &Connection, sql: &str, account: &AccountName) -> Result<Option<Timestamp>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let micros: Option<i64> = statement.query_row(params![account.as_str()], |row| row.get(0))?;
    Ok(micros.map(Timestamp::from_micros))
}

pub(super) fn events_of(
    connection: &Connection,
    id: &RefundId,
    after_revision: u64,
    limit: u32,
) -> Result<Vec<EventRecord>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM refunds r JOIN events e ON e.ordinal = r.ordinal \
         WHERE r.id = ?1 AND e.revision > ?2 ORDER BY e.revision LIMIT ?3"
    );
    let events = events(connection, &sql, params![id.as_str(), integer(after_revision), limit])?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

pub(super) fn events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, Fault> {
    let events = stored_events_after(connection, sequence, limit)?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

/// Rises when somebody else has committed to the file: exactly then, and as this transaction sees it.
pub(super) fn version(connection: &Connection) -> Result<i64, Fault> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Where the history ends.
pub(super) fn tail(connection: &Connection) -> Result<Tail, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM events e JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence DESC LIMIT 1"
    );
    let last = events(connection, &sql, [])?.pop();
    Ok(last.map_or(Tail::EMPTY, |last| Tail { sequence: last.record.sequence, hash: last.record.chain_hash }))
}

/// Whether the last line of the history follows from the one before it, and its refund's row from it.
pub(super) fn verify_tail(connection: &Connection) -> Result<Tail, Fault> {
    let end = tail(connection)?;
    let Some(before_last) = end.sequence.checked_sub(1) else { return Ok(end) };
    let events = stored_events_after(connection, before_last.saturating_sub(1), 2)?;
    let before = match events.as_slice() {
        [before, _] => Tail { sequence: before.record.sequence, hash: before.record.chain_hash },
        _ => Tail::EMPTY,
    };
    if let Some(last) = events.last() {
        last.follows(&before)?;
        if let Some(stored) = find(connection, &last.record.refund)? {
            matches_history(connection, &stored)?;
        }
    }
    Ok(end)
}

/// Computes the whole chain again, and compares every refund's row with its last line. How many lines there are.
pub(super) fn verify(connection: &Connection) -> Result<u64, Fault> {
    let mut tail = Tail::EMPTY;
    loop {
        let page = stored_events_after(connection, tail.sequence, VERIFY_PAGE)?;
        for event in &page {
            tail = event.follows(&tail)?;
        }
        if page.is_empty() {
            break;
        }
    }
    let sql = format!("{} WHERE ordinal > ?1 ORDER BY ordinal LIMIT ?2", *SELECT_REFUND);
    let mut after = 0;
    loop {
        // One snapshot for a row and its last line, and not for longer: a reader that stays keeps the log from being cleared.
        let snapshot = connection.unchecked_transaction()?;
        let page = refunds(&snapshot, &sql, params![after, VERIFY_PAGE])?;
        for stored in &page {
            matches_history(&snapshot, stored)?;
        }
        match page.last() {
            Some(stored) => after = stored.ordinal,
            None => return Ok(tail.sequence),
        }
    }
}

/// Refuses to build on a row that is not the one which the history recorded last.
pub(super) fn matches_history(connection: &Connection, stored: &Stored) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, refund_digest FROM events WHERE ordinal = ?1 ORDER BY revision DESC LIMIT 1",
    )?;
    let last: Option<(i64, Vec<u8>)> =
        statement.query_row(params![stored.ordinal], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let place = Place::refund(stored.ordinal);
    let Some((revision, digest)) = last else {
        return Err(place.corrupt("ordinal", "has no history").into());
    };
    if revision != integer(stored.refund.revision) {
        let problem = format!("is {}, and the history ends at {revision}", stored.refund.revision);
        return Err(place.corrupt("revision", problem).into());
    }
    if digest != stored.digest() {
        return Err(place.corrupt("(row)", format!("is not what the history recorded at revision {revision}")).into());
    }
    Ok(())
}

impl StoredEvent {
    /// The history's end after this line, which must be the one that it says.
    fn follows(&self, before: &Tail) -> Result<Tail, Fault> {
        let EventRecord { sequence, refund, revision, time, from, to, actor, note, chain_hash } = &self.record;
        let line = Line {
            refund,
            revision: *revision,
            time_micros: time.as_micros(),
            from: *from,
            to: *to,
            kind: &self.kind,
            actor,
            note,
            refund_digest: &self.refund_digest,
        };
        let after = before.after(&line);
        if after == (Tail { sequence: *sequence, hash: *chain_hash }) {
            return Ok(after);
        }
        Err(Place::event(integer(*sequence)).corrupt("chain_hash", "does not follow from the line before").into())
    }
}

/// How a page is asked for, for a look at its plan.
#[cfg(test)]
pub(super) fn page_sql(query: &ListQuery) -> String {
    page(query).0
}

/// The ordinals of a page, newest first, as SQL and its values.
///
/// Every way walks an index in the order of recording and stops at the limit: the rows with a reference, the rows of each asked-for state
/// (merged), or the table itself. Moments are turned into ordinals first, so that a walk begins and ends where they are.
fn page(query: &ListQuery) -> (String, Vec<Value>) {
    let ListQuery { states, account, target_reference, created_from, created_before, before_ordinal, limit } = query;
    let mut values = Vec::new();
    let mut bind = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let limit = bind(Value::Integer(i64::from(*limit)));
    let mut conditions = Vec::new();
    if let Some(ordinal) = before_ordinal {
        conditions.push(format!("r.ordinal < {}", bind(Value::Integer(integer(*ordinal)))));
    }
    if let Some(time) = created_from {
        let from = bind(Value::Integer(time.as_micros()));
        conditions.push(format!("+r.create_time >= {from}"));
        conditions.push(format!("r.ordinal > coalesce(({}), 0)", last_before(&from)));
    }
    if let Some(time) = created_before {
        let before = bind(Value::Integer(time.as_micros()));
        conditions.push(format!("+r.create_time < {before}"));
        conditions.push(format!("r.ordinal < coalesce(({}), {})", first_after(&before), i64::MAX));
    }
    if let Some(account) = account {
        conditions.push(format!("r.account = {}", bind(text(account.as_str()))));
    }
    let asked_for: Vec<State> = State::ALL.into_iter().filter(|state| states.contains(state)).collect();
    let words = |states: &[State]| states.iter().map(|state| format!("'{state}'")).collect::<Vec<_>>().join(", ");

    let select = |from: &str, conditions: &[String]| {
        let clause = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        format!(
            "SELECT ordinal FROM (SELECT r.ordinal FROM {from} {clause} ORDER BY r.ordinal DESC LIMIT {limit}) AS one"
        )
    };
    if let Some(reference) = target_reference {
        conditions.push(format!("f.reference = {}", bind(text(reference))));
        if !asked_for.is_empty() {
            conditions.push(format!("r.state IN ({})", words(&asked_for)));
        }
        let sql = select("refund_references f JOIN refunds r ON r.ordinal = f.ordinal", &conditions);
        return (sql, values);
    }
    let walked: &[State] = if asked_for.is_empty() && account.is_some() { &State::ALL } else { &asked_for };
    if walked.is_empty() {
        return (select("refunds r", &conditions), values);
    }
    let walks: Vec<String> = walked
        .iter()
        .map(|state| {
            let mut conditions = conditions.clone();
            conditions.push(format!("r.state = '{state}'"));
            select("refunds r", &conditions)
        })
        .collect();
    let merged =
        format!("SELECT ordinal FROM ({}) AS merged ORDER BY ordinal DESC LIMIT {limit}", walks.join(" UNION ALL "));
    (merged, values)
}

/// An ordinal below those of all refunds that were created at `moment` or later: refunds are recorded nearly as they are created, and how
/// nearly is kept.
fn last_before(moment: &str) -> String {
    format!(
        "SELECT ordinal FROM refunds WHERE create_time < {moment} - (SELECT most_micros FROM disorder) \
         ORDER BY create_time DESC, ordinal DESC LIMIT 1"
    )
}

/// An ordinal above those of all refunds that were created before `moment`.
fn first_after(moment: &str) -> String {
    format!(
        "SELECT ordinal FROM refunds WHERE create_time >= {moment} + (SELECT most_micros FROM disorder) \
         ORDER BY create_time, ordinal LIMIT 1"
    )
}

fn refunds(connection: &Connection, sql: &str, values: impl Params) -> Result<Vec<Stored>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::stored(row)?);
    }
    Ok(found)
}

fn events(connection: &Connection, sql: &str, values: impl Params) -> Result<Vec<StoredEvent>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::event(row)?);
    }
    Ok(found)
}

/// Refuses a history with a gap.
fn stored_events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<StoredEvent>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM events e JOIN refunds r ON r.ordinal = e.ordinal \
         WHERE e.sequence > ?1 ORDER BY e.sequence LIMIT ?2"
    );
    let found = events(connection, &sql, params![integer(sequence), limit])?;
    let mut before = sequence;
    for event in &found {
        let expected = before.saturating_add(1);
        before = event.record.sequence;
        if before != expected {
            let problem = format!("should be {expected}: lines are missing");
            return Err(Place::event(integer(before)).corrupt("sequence", problem).into());
        }
    }
    Ok(found)
}

fn id_in(table: &'static str, key: &str, id: &str) -> Result<RefundId, Fault> {
    RefundId::parse(id).map_err(|problem| {
        let row = format!("key {key}");
        LedgerError::Corrupt { table, column: "ordinal", row, problem: problem.to_string() }.into()
    })
}

/// How many refunds of each account are in each state, and where the history ends that made them so: one walk through an index.
pub(super) fn counts(connection: &Connection) -> Result<(Counts, u64), Fault> {
    let snapshot = connection.unchecked_transaction()?;
    let sequence: i64 = snapshot.query_row("SELECT coalesce(max(sequence), 0) FROM events", [], |row| row.get(0))?;
    let mut grouped = snapshot.prepare("SELECT account, state, count(*) FROM refunds GROUP BY account, state")?;
    let mut rows = grouped.query([])?;
    let mut counts = Counts::new();
    while let Some(row) = rows.next()? {
        let (account, state, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let strange = |column| Place::refund(0).corrupt(column, "is no value of its kind");
        let account = AccountName::parse(&account).map_err(|_| strange("account"))?;
        let state = State::parse(&state).ok_or_else(|| strange("state"))?;
        counts.insert((account, state), u64::try_from(count).unwrap_or_default());
    }
    Ok((counts, u64::try_from(sequence).unwrap_or_default()))
}

pub(super) fn last_entry(connection: &Connection, id: &RefundId, state: State) -> Result<Option<Timestamp>, Fault> {
    let sql = "SELECT max(event_time) FROM events WHERE ordinal = (SELECT ordinal FROM refunds WHERE id = ?1) \
               AND to_state = ?2 AND from_state IS NOT to_state";
    let mut statement = connection.prepare_cached(sql)?;
    let micros: Option<i64> = statement.query_row([id.as_str(), state.as_str()], |row| row.get(0))?;
    Ok(micros.map(Timestamp::from_micros))
}

pub(super) fn trace_of(connection: &Connection, id: &RefundId) -> Result<Option<String>, Fault> {
    let sql = "SELECT trace_parent FROM refund_traces WHERE ordinal = (SELECT ordinal FROM refunds WHERE id = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
}
