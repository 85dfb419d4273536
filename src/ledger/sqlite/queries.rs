//! All reads of the tables but pages. Each works on any connection, inside the writer's transaction
//! and outside.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params, params_from_iter};

use super::failure::StepError;
use super::rows::{self, EVENT_SELECT, RowRef};
use super::state_counts::Counts;
use crate::domain::clock::Timestamp;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Currency;
use crate::domain::place::{Destination, Place};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::Target;
use crate::ledger::encoding::{StoredEvent, StoredRefund, integer};
use crate::ledger::export::ExportedEvent;
use crate::ledger::hash_chain::{self, ChainHead, EventHashInput};
use crate::ledger::{DueKind, DueQuery, LedgerError, ListedRefund, OpenRefunds, RelatedLogins};

/// Rows that [`verify`] holds in memory at once.
const VERIFY_PAGE: u32 = 1_000;

pub(super) static SELECT_REFUND: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM refunds", rows::refund_select()));

/// The refund with id ?1, in any case of its letters.
static FIND: LazyLock<String> = LazyLock::new(|| format!("{} WHERE id = ?1", *SELECT_REFUND));

/// One account at one place, as [`place_values`] binds them: ?1 to ?4.
const AT: &str = "account = ?1 AND endpoint = ?2 AND login = ?3 AND currency = ?4";

/// Refunds that still need their account, worded like the partial index so that it applies.
const OPEN: &str = "(state = 'PENDING' OR state = 'AWAITING_APPROVAL' OR state = 'SUBMITTED' \
     OR state = 'IN_DOUBT' OR state = 'NEEDS_REVIEW')";

/// Refunds that are looked up at once because no time is set, worded like the partial index.
const UNTIMED: &str = "(state = 'IN_DOUBT' OR state = 'SUBMITTED') AND next_check IS NULL";

/// The statements of one [`DueKind`].
pub(super) struct DueStatements {
    /// Refunds at [`AT`] that are due at ?5, at most ?6 after the first ?7.
    pub(super) due: String,
    /// When the next one at [`AT`] is due.
    pub(super) next_due: String,
}

/// One of the two index ranges that refunds of a kind are in. The states and NULLs are literals, so
/// that the partial index fits, and the index is named: without statistics the planner would take
/// one that holds every refund of the account.
struct DueRange {
    index: &'static str,
    condition: &'static str,
    /// Due from the time in this column on, and in its order.
    time: &'static str,
    /// Whether a refund whose time is later than the query's is not due yet. False: it is due
    /// whatever the clock says.
    waits: bool,
}

static DISPATCH: LazyLock<DueStatements> = LazyLock::new(|| due_statements(DueKind::Dispatch));
static LOOKUP: LazyLock<DueStatements> = LazyLock::new(|| due_statements(DueKind::Lookup));
static EXPIRY: LazyLock<DueStatements> = LazyLock::new(|| due_statements(DueKind::Expiry));

/// Of account ?1, at any place.
pub(super) static OLDEST_PENDING: LazyLock<String> = LazyLock::new(|| next_due_sql(DueKind::Expiry, "account = ?1"));

pub(super) fn statements_of(kind: DueKind) -> &'static DueStatements {
    match kind {
        DueKind::Dispatch => &DISPATCH,
        DueKind::Lookup => &LOOKUP,
        DueKind::Expiry => &EXPIRY,
    }
}

fn ranges_of(kind: DueKind) -> [DueRange; 2] {
    let range = |index, condition, time, waits| DueRange { index, condition, time, waits };
    let sent_now = "state = 'PENDING' AND not_before IS NULL";
    let sent_later = "state = 'PENDING' AND not_before IS NOT NULL";
    match kind {
        DueKind::Dispatch => [
            range("refunds_due_now", sent_now, "create_time", false),
            range("refunds_due_later", sent_later, "not_before", true),
        ],
        DueKind::Lookup => [
            range("refunds_to_check_now", UNTIMED, "update_time", false),
            range("refunds_to_check_later", "next_check IS NOT NULL", "next_check", true),
        ],
        DueKind::Expiry => [
            range("refunds_due_now", sent_now, "create_time", true),
            range("refunds_put_off", sent_later, "create_time", true),
        ],
    }
}

fn due_statements(kind: DueKind) -> DueStatements {
    // `key` sorts the refunds of both ranges.
    let (key, order) = match kind {
        DueKind::Dispatch | DueKind::Expiry => ("create_time", "create_time, ordinal"),
        DueKind::Lookup => ("next_check", "next_check IS NOT NULL, next_check, ordinal"),
    };
    let [first, second] = ranges_of(kind).map(|DueRange { index, condition, time, waits }| {
        let is_due = if waits { format!("AND {time} <= ?5") } else { String::new() };
        // A refund whose lookup has no time is taken in the order of its last change.
        let inner = if key == "next_check" { time } else { key };
        format!(
            "SELECT ordinal, {key} FROM (SELECT ordinal, {key} FROM refunds INDEXED BY {index} \
             WHERE {AT} AND {condition} {is_due} ORDER BY {inner}, ordinal LIMIT ?6 + ?7) AS walked"
        )
    });
    let due = format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM ({first} UNION ALL {second}) AS due \
         ORDER BY {order} LIMIT ?6 OFFSET ?7) ORDER BY {order}",
        *SELECT_REFUND
    );
    DueStatements { due, next_due: next_due_sql(kind, AT) }
}

/// When the next refund of `kind` is due that meets the condition `scope`.
fn next_due_sql(kind: DueKind, scope: &str) -> String {
    let [first, second] = ranges_of(kind).map(|DueRange { index, condition, time, .. }| {
        format!("SELECT min({time}) AS due FROM refunds INDEXED BY {index} WHERE {scope} AND {condition}")
    });
    format!("SELECT min(due) FROM ({first} UNION ALL {second}) AS each")
}

/// Of account ?1.
pub(super) const OLDEST_DOUBT: &str =
    "SELECT min(doubt_since) FROM refunds WHERE account = ?1 AND doubt_since IS NOT NULL";

/// The first of account ?1 in the order of recording, which is nearly that of creation.
pub(super) const OLDEST_UNAPPROVED: &str = "SELECT (SELECT create_time FROM refunds INDEXED BY refunds_by_state \
     WHERE account = ?1 AND state = 'AWAITING_APPROVAL' ORDER BY ordinal LIMIT 1)";

/// Refunds that wait for an approval until ?1 or less long, at most ?2.
pub(super) static UNAPPROVED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} INDEXED BY refunds_to_approve WHERE state = 'AWAITING_APPROVAL' AND approval_expire_time <= ?1 \
         ORDER BY approval_expire_time LIMIT ?2",
        *SELECT_REFUND
    )
});

pub(super) const NEXT_APPROVAL_EXPIRY: &str =
    "SELECT min(approval_expire_time) FROM refunds INDEXED BY refunds_to_approve WHERE state = 'AWAITING_APPROVAL'";

/// The refunds that hold key ?1, with login and end of the reservation.
pub(super) const HOLDERS: &str = "SELECT r.id, r.account, h.login, h.until_time, h.ordinal FROM reservations h \
     JOIN refunds r ON r.ordinal = h.ordinal WHERE h.key = ?1";

/// Refunds that share key ?1 and still count as likely duplicates at ?2, newest first.
pub(super) const SIMILAR: &str = "SELECT r.id, r.account, s.login, s.firm_until_time, s.ordinal FROM similarity s \
     JOIN refunds r ON r.ordinal = s.ordinal WHERE s.key = ?1 AND s.until_time > ?2 ORDER BY s.ordinal DESC";

/// Every account that has refunds. Steps through the index from one account to the next.
pub(super) const ACCOUNTS: &str = "WITH RECURSIVE known (account) AS (SELECT min(account) FROM refunds UNION ALL \
     SELECT (SELECT min(account) FROM refunds WHERE account > known.account) FROM known \
     WHERE known.account IS NOT NULL) SELECT account FROM known WHERE account IS NOT NULL";

/// Refunds that have an attempt in flight, oldest first, at most ?1.
pub(super) static DISPATCHING: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM refunds WHERE account IN ({ACCOUNTS}) AND state = 'DISPATCHING' \
         ORDER BY ordinal LIMIT ?1) ORDER BY ordinal",
        *SELECT_REFUND
    )
});

/// How many open refunds each account has in each state. Reads no row.
pub(super) static OPEN_STATES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT account, state, count(*) FROM refunds INDEXED BY refunds_by_state \
         WHERE account IN ({ACCOUNTS}) AND {OPEN} GROUP BY account, state ORDER BY account, state"
    )
});

/// At [`AT`], after ordinal ?5, at most ?6. What is sorted are numbers, and not whole rows.
pub(super) static OPEN_AT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM refunds INDEXED BY refunds_open \
         WHERE {AT} AND {OPEN} AND ordinal > ?5 ORDER BY ordinal LIMIT ?6) ORDER BY ordinal",
        *SELECT_REFUND
    )
});

/// How many linked references of one payee, or linked logins, are followed.
const MAX_LINKED: u32 = 64;

/// Which similar refunds block another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Similar {
    /// Those recorded within a day, and those that may still have an effect.
    Any,
    /// Those that an operator resolved as not refunded and that may still have an effect.
    Firm,
    /// None: the refund is only looked up, and not sent.
    None,
}

/// A refund to check for conflicts where it is recorded or reassigned to.
pub(super) struct ConflictCheck<'a> {
    pub(super) target: &'a Target,
    pub(super) login: &'a str,
    pub(super) related: &'a RelatedLogins,
    pub(super) similar: Similar,
    pub(super) now: Timestamp,
    /// The refund's own ordinal and present login, if it is recorded already. It and a similar
    /// refund under that login were checked when the later of the two was recorded, and its caller
    /// may have allowed them.
    pub(super) itself: Option<(i64, &'a str)>,
}

/// Rejects a refund whose target another refund holds, or that is a likely duplicate of another.
pub(super) fn check_conflicts(connection: &Connection, check: &ConflictCheck<'_>) -> Result<(), StepError> {
    let ConflictCheck { target, login, related, similar: rejected, now, itself } = check;
    let logins = linked_logins(connection, login, related)?;
    let is_ours = |login: &String, account: &String| {
        logins.contains(login) || related.accounts.iter().any(|one| one.as_str() == account)
    };
    let mut holders = connection.prepare_cached(HOLDERS)?;
    for key in target.reservation_keys() {
        let mut rows = holders.query([&key])?;
        while let Some(row) = rows.next()? {
            let (id, account, login): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (until, ordinal): (Option<i64>, i64) = (row.get(3)?, row.get(4)?);
            let is_held = until.is_none_or(|until| until > now.as_micros());
            if is_held && itself.is_none_or(|(itself, _)| itself != ordinal) && is_ours(&login, &account) {
                let conflicting = id_in("reservations", &key, &id)?;
                return Err(LedgerError::TargetHasRefund { conflicting }.into());
            }
        }
    }
    if *rejected == Similar::None {
        return Ok(());
    }
    let mut similar = connection.prepare_cached(SIMILAR)?;
    for reference in payee_references(connection, target)? {
        let key = target.similarity_key(&reference);
        let mut rows = similar.query(params![key, now.as_micros()])?;
        while let Some(row) = rows.next()? {
            let (id, account, login): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (firm_until, ordinal): (Option<i64>, i64) = (row.get(3)?, row.get(4)?);
            let is_firm = firm_until.is_some_and(|until| until > now.as_micros());
            let is_known = itself.is_some_and(|(_, before)| login == before);
            let is_rejected = is_firm || (*rejected == Similar::Any && !is_known);
            if is_rejected && itself.is_none_or(|(itself, _)| itself != ordinal) && is_ours(&login, &account) {
                let conflicting = id_in("similarity", &key, &id)?;
                let firm_until = firm_until.filter(|until| *until > now.as_micros()).map(Timestamp::from_micros);
                return Err(LedgerError::SimilarRefund { conflicting, firm_until }.into());
            }
        }
    }
    Ok(())
}

/// The refund that holds `key` under `login`.
pub(super) fn holder(connection: &Connection, key: &str, login: &str) -> Result<RefundId, StepError> {
    let sql =
        "SELECT r.id FROM reservations h JOIN refunds r ON r.ordinal = h.ordinal WHERE h.key = ?1 AND h.login = ?2";
    let id: String = connection.prepare_cached(sql)?.query_row(params![key, login], |row| row.get(0))?;
    id_in("reservations", key, &id)
}

/// The login itself, the earlier ones that the configuration names, and all that reassignments have
/// linked to them.
fn linked_logins(connection: &Connection, login: &str, related: &RelatedLogins) -> Result<BTreeSet<String>, StepError> {
    let mut logins: BTreeSet<String> = related.former_logins.iter().cloned().chain([login.to_owned()]).collect();
    let mut linked = connection.prepare_cached("SELECT other FROM login_links WHERE login = ?1 LIMIT ?2")?;
    follow_links(&mut linked, &mut logins)?;
    Ok(logins)
}

/// Every reference of the payee of `target`: those in the target, and those that other refunds gave
/// together with them.
fn payee_references(connection: &Connection, target: &Target) -> Result<BTreeSet<String>, StepError> {
    let mut references: BTreeSet<String> = target.payee_references().into_iter().collect();
    if !references.is_empty() {
        let sql = "SELECT other FROM payee_references WHERE reference = ?1 LIMIT ?2";
        follow_links(&mut connection.prepare_cached(sql)?, &mut references)?;
    }
    Ok(references)
}

fn follow_links(links: &mut CachedStatement<'_>, found: &mut BTreeSet<String>) -> Result<(), StepError> {
    let mut open: Vec<String> = found.iter().cloned().collect();
    while let Some(one) = open.pop() {
        let mut rows = links.query(params![one, MAX_LINKED])?;
        while let Some(row) = rows.next()? {
            let other: String = row.get(0)?;
            if found.len() < MAX_LINKED as usize && found.insert(other.clone()) {
                open.push(other);
            }
        }
    }
    Ok(())
}

pub(super) fn find(connection: &Connection, id: &RefundId) -> Result<Option<StoredRefund>, StepError> {
    Ok(find_in_any_case(connection, id)?.filter(|stored| stored.refund.id() == id))
}

/// The refund whose id is `id`, or differs from it in upper and lower case alone.
pub(super) fn find_in_any_case(connection: &Connection, id: &RefundId) -> Result<Option<StoredRefund>, StepError> {
    Ok(refunds(connection, &FIND, params![id.as_str()])?.pop())
}

/// A refund of the same target that was recorded after this one, in any state.
pub(super) fn later_refund_of_target(
    connection: &Connection,
    ordinal: i64,
    target: &Target,
) -> Result<Option<RefundId>, StepError> {
    let keys = target.reservation_keys();
    if keys.is_empty() {
        // The provider's record says whose refund it is; the target does not.
        return Ok(None);
    }
    let sql = format!(
        "{} WHERE provider = ?1 AND ordinal > ?2 \
         AND ordinal IN (SELECT ordinal FROM refund_references WHERE reference = ?3) ORDER BY ordinal",
        *SELECT_REFUND
    );
    for reference in target.index_references() {
        let later = refunds(connection, &sql, params![target.provider().as_str(), ordinal, reference])?;
        let is_same = |refund: &Refund| refund.intent.target.reservation_keys().iter().any(|key| keys.contains(key));
        if let Some(stored) = later.into_iter().find(|stored| is_same(&stored.refund)) {
            return Ok(Some(stored.refund.intent.id));
        }
    }
    Ok(None)
}

/// How many refunds still need their account, by account and place.
pub(super) fn open_refunds(connection: &Connection) -> Result<Vec<OpenRefunds>, StepError> {
    counted_by_place(connection, &format!("INDEXED BY refunds_open WHERE {OPEN}"))
}

/// How many open refunds each account has in each state.
pub(super) fn open_states(connection: &Connection) -> Result<Vec<(AccountName, State, u64)>, StepError> {
    counted_by_state(connection, &OPEN_STATES)
}

/// How many refunds have an attempt in flight, by account and place.
pub(super) fn dispatching_refunds(connection: &Connection) -> Result<Vec<OpenRefunds>, StepError> {
    counted_by_place(connection, &format!("WHERE account IN ({ACCOUNTS}) AND state = 'DISPATCHING'"))
}

fn counted_by_place(connection: &Connection, selection: &str) -> Result<Vec<OpenRefunds>, StepError> {
    let sql = format!(
        "SELECT account, endpoint, login, currency, provider, count(*) FROM refunds {selection} \
         GROUP BY account, endpoint, login, currency, provider"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (provider, count): (String, i64) = (row.get(4)?, row.get(5)?);
        let provider = ProviderKind::parse(&provider).ok_or_else(|| invalid_column("provider"))?;
        let at = destination_in(row)?;
        found.push(OpenRefunds { provider, at, count: u64::try_from(count).unwrap_or_default() });
    }
    Ok(found)
}

/// For a result that is grouped from many refunds, so that none can be named.
fn invalid_column(column: &'static str) -> LedgerError {
    RowRef::refund(0).corrupt(column, "holds a value that is not allowed")
}

/// The account and place in the first four columns of a row.
pub(super) fn destination_in(row: &Row<'_>) -> Result<Destination, StepError> {
    let (account, endpoint): (String, String) = (row.get(0)?, row.get(1)?);
    let (login, currency): (String, String) = (row.get(2)?, row.get(3)?);
    let account = AccountName::parse(&account).map_err(|_| invalid_column("account"))?;
    let currency = Currency::parse(&currency).map_err(|_| invalid_column("currency"))?;
    Ok(Destination { account, place: Place { endpoint, login, currency } })
}

/// The ended standstills of an account and place, oldest first.
pub(super) fn standstills(connection: &Connection, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, StepError> {
    let sql =
        format!("SELECT begin_time, end_time FROM standstills WHERE {AT} AND end_time IS NOT NULL ORDER BY begin_time");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(place_values(at)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((Timestamp::from_micros(row.get(0)?), Timestamp::from_micros(row.get(1)?)));
    }
    Ok(found)
}

/// Open refunds at one account and place, after an ordinal.
pub(super) fn open_at(
    connection: &Connection,
    at: &Destination,
    after_ordinal: u64,
    limit: u32,
) -> Result<Vec<ListedRefund>, StepError> {
    let more = [Value::Integer(integer(after_ordinal)), Value::Integer(i64::from(limit))];
    Ok(listed(refunds(connection, &OPEN_AT, params_from_iter(place_values(at).into_iter().chain(more)))?))
}

/// The values of [`AT`].
pub(super) fn place_values(at: &Destination) -> [Value; 4] {
    let Destination { account, place: Place { endpoint, login, currency } } = at;
    [account.as_str(), endpoint, login, currency.code()].map(|text| Value::Text(text.to_owned()))
}

/// Refunds in [`State::Dispatching`], oldest first.
pub(super) fn dispatching(connection: &Connection, limit: u32) -> Result<Vec<StoredRefund>, StepError> {
    refunds(connection, &DISPATCHING, params![limit])
}

/// As lists show them.
pub(super) fn listed(stored: Vec<StoredRefund>) -> Vec<ListedRefund> {
    let listed =
        |StoredRefund { ordinal, refund }| ListedRefund { ordinal: u64::try_from(ordinal).unwrap_or(0), refund };
    stored.into_iter().map(listed).collect()
}

pub(super) fn due(connection: &Connection, query: &DueQuery) -> Result<Vec<Refund>, StepError> {
    let DueQuery { kind, destination, at, skip, limit } = query;
    let numbers = [at.as_micros(), i64::from(*limit), i64::from(*skip)].map(Value::Integer);
    let values = params_from_iter(place_values(destination).into_iter().chain(numbers));
    let stored = refunds(connection, &statements_of(*kind).due, values)?;
    Ok(stored.into_iter().map(|stored| stored.refund).collect())
}

pub(super) fn next_due(
    connection: &Connection,
    kind: DueKind,
    destination: &Destination,
) -> Result<Option<Timestamp>, StepError> {
    time(connection, &statements_of(kind).next_due, params_from_iter(place_values(destination)))
}

/// The time that `sql` ([`OLDEST_DOUBT`], [`OLDEST_PENDING`], [`OLDEST_UNAPPROVED`]) returns for an
/// account.
pub(super) fn time_of(
    connection: &Connection,
    sql: &str,
    account: &AccountName,
) -> Result<Option<Timestamp>, StepError> {
    time(connection, sql, params![account.as_str()])
}

pub(super) fn unapproved(connection: &Connection, at: Timestamp, limit: u32) -> Result<Vec<Refund>, StepError> {
    let stored = refunds(connection, &UNAPPROVED, params![at.as_micros(), limit])?;
    Ok(stored.into_iter().map(|stored| stored.refund).collect())
}

pub(super) fn next_approval_expiry(connection: &Connection) -> Result<Option<Timestamp>, StepError> {
    time(connection, NEXT_APPROVAL_EXPIRY, [])
}

fn time(connection: &Connection, sql: &str, values: impl Params) -> Result<Option<Timestamp>, StepError> {
    let mut statement = connection.prepare_cached(sql)?;
    let micros: Option<i64> = statement.query_row(values, |row| row.get(0))?;
    Ok(micros.map(Timestamp::from_micros))
}

pub(super) fn events_of(
    connection: &Connection,
    id: &RefundId,
    after_revision: u64,
    limit: u32,
) -> Result<Vec<EventRecord>, StepError> {
    let sql = format!(
        "SELECT {EVENT_SELECT} FROM refunds r JOIN events e ON e.ordinal = r.ordinal \
         WHERE r.id = ?1 AND e.revision > ?2 ORDER BY e.revision LIMIT ?3"
    );
    let events = events(connection, &sql, params![id.as_str(), integer(after_revision), limit])?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

pub(super) fn events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, StepError> {
    let events = stored_events_after(connection, sequence, limit)?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

/// As [`events_after`], with what the hash of each covers.
pub(super) fn export(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<ExportedEvent>, StepError> {
    // The event before the first one has the hash that the first one covers.
    let (from, more) = match sequence.checked_sub(1) {
        Some(before) => (before, 1),
        None => (0, 0),
    };
    let mut events = stored_events_after(connection, from, limit.saturating_add(more))?.into_iter();
    let mut previous = match more {
        0 => ChainHead::EMPTY.hash,
        _ => events.next().map_or(ChainHead::EMPTY.hash, |event| event.record.chain_hash),
    };
    let exported = |event: StoredEvent| {
        let hash = event.record.chain_hash;
        ExportedEvent::of(&event, std::mem::replace(&mut previous, hash))
    };
    Ok(events.map(exported).collect())
}

/// Changes exactly when another connection has committed to the file, as this transaction sees it.
pub(super) fn version(connection: &Connection) -> Result<i64, StepError> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// The head of the chain as it is stored.
pub(super) fn head(connection: &Connection) -> Result<ChainHead, StepError> {
    let sql = format!(
        "SELECT {EVENT_SELECT} FROM events e JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence DESC LIMIT 1"
    );
    let last = events(connection, &sql, [])?.pop();
    Ok(last.map_or(ChainHead::EMPTY, |last| ChainHead::at(&last)))
}

/// Checks that the last event follows from the one before it and matches its refund's row, and
/// returns the head of the chain.
pub(super) fn verify_head(connection: &Connection) -> Result<ChainHead, StepError> {
    let end = head(connection)?;
    let Some(before_last) = end.sequence.checked_sub(1) else { return Ok(end) };
    let events = stored_events_after(connection, before_last.saturating_sub(1), 2)?;
    let before = match events.as_slice() {
        [before, _] => ChainHead::at(before),
        _ => ChainHead::EMPTY,
    };
    if let Some(last) = events.last() {
        verify_link(&before, last)?;
        if let Some(stored) = find(connection, &last.record.refund)? {
            verify_row(connection, &stored)?;
        }
    }
    Ok(end)
}

/// Recomputes the whole chain, and compares every refund's row with its last event. Returns the
/// number of events.
pub(super) fn verify(connection: &Connection) -> Result<u64, StepError> {
    let mut head = ChainHead::EMPTY;
    loop {
        let page = stored_events_after(connection, head.sequence, VERIFY_PAGE)?;
        for event in &page {
            head = verify_link(&head, event)?;
        }
        if page.is_empty() {
            break;
        }
    }
    let sql = format!("{} WHERE ordinal > ?1 ORDER BY ordinal LIMIT ?2", *SELECT_REFUND);
    let mut after = 0;
    loop {
        // One snapshot for a page and its last events, and no longer: an open reader keeps the log
        // from being cleared.
        let snapshot = connection.unchecked_transaction()?;
        let page = refunds(&snapshot, &sql, params![after, VERIFY_PAGE])?;
        for stored in &page {
            verify_row(&snapshot, stored)?;
        }
        match page.last() {
            Some(stored) => after = stored.ordinal,
            None => return Ok(head.sequence),
        }
    }
}

/// Rejects a row that differs from what the last event of its refund recorded.
pub(super) fn verify_row(connection: &Connection, stored: &StoredRefund) -> Result<(), StepError> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, refund_digest FROM events WHERE ordinal = ?1 ORDER BY revision DESC LIMIT 1",
    )?;
    let last: Option<(i64, Option<Vec<u8>>)> =
        statement.query_row(params![stored.ordinal], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let place = RowRef::refund(stored.ordinal);
    let Some((revision, digest)) = last else {
        return Err(place.corrupt("ordinal", "has no history").into());
    };
    if revision != integer(stored.refund.revision) {
        let problem = format!("is {}, and the history ends at {revision}", stored.refund.revision);
        return Err(place.corrupt("revision", problem).into());
    }
    if digest.as_deref() != Some(hash_chain::digest_of(stored).as_slice()) {
        return Err(place.corrupt("(row)", format!("is not what the history recorded at revision {revision}")).into());
    }
    Ok(())
}

/// The chain's head after `event`, which must follow from `before`.
fn verify_link(before: &ChainHead, event: &StoredEvent) -> Result<ChainHead, StepError> {
    let after = before.after(&EventHashInput::of(event));
    if after == ChainHead::at(event) {
        return Ok(after);
    }
    let event = RowRef::event(integer(event.record.sequence));
    Err(event.corrupt("chain_hash", "does not follow from the event before").into())
}

fn refunds(connection: &Connection, sql: &str, values: impl Params) -> Result<Vec<StoredRefund>, StepError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::refund(row)?);
    }
    Ok(found)
}

fn events(connection: &Connection, sql: &str, values: impl Params) -> Result<Vec<StoredEvent>, StepError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::event(row)?);
    }
    Ok(found)
}

/// Rejects a gap in the sequence.
fn stored_events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<StoredEvent>, StepError> {
    let sql = format!(
        "SELECT {EVENT_SELECT} FROM events e JOIN refunds r ON r.ordinal = e.ordinal \
         WHERE e.sequence > ?1 ORDER BY e.sequence LIMIT ?2"
    );
    let found = events(connection, &sql, params![integer(sequence), limit])?;
    let mut before = sequence;
    for event in &found {
        let expected = before.saturating_add(1);
        before = event.record.sequence;
        if before != expected {
            let problem = format!("should be {expected}: events are missing");
            return Err(RowRef::event(integer(before)).corrupt("sequence", problem).into());
        }
    }
    Ok(found)
}

fn id_in(table: &'static str, key: &str, id: &str) -> Result<RefundId, StepError> {
    RefundId::parse(id).map_err(|problem| {
        let row = format!("key {key}");
        LedgerError::Corrupt { table, column: "ordinal", row, problem: problem.to_string() }.into()
    })
}

/// How many refunds of each account are in each state, and the last event that this counts. Walks
/// one index.
pub(super) fn counts(connection: &Connection) -> Result<(Counts, u64), StepError> {
    let snapshot = connection.unchecked_transaction()?;
    let sequence: i64 = snapshot.query_row("SELECT coalesce(max(sequence), 0) FROM events", [], |row| row.get(0))?;
    let grouped = counted_by_state(&snapshot, "SELECT account, state, count(*) FROM refunds GROUP BY account, state")?;
    let counts: Counts = grouped.into_iter().map(|(account, state, count)| ((account, state), count)).collect();
    Ok((counts, u64::try_from(sequence).unwrap_or_default()))
}

/// The rows of a query for account, state and number of refunds.
fn counted_by_state(connection: &Connection, sql: &str) -> Result<Vec<(AccountName, State, u64)>, StepError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (account, state, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let account = AccountName::parse(&account).map_err(|_| invalid_column("account"))?;
        let state = State::parse(&state).ok_or_else(|| invalid_column("state"))?;
        found.push((account, state, u64::try_from(count).unwrap_or_default()));
    }
    Ok(found)
}

pub(super) fn entered_state_at(
    connection: &Connection,
    id: &RefundId,
    state: State,
) -> Result<Option<Timestamp>, StepError> {
    let sql = "SELECT max(event_time) FROM events WHERE ordinal = (SELECT ordinal FROM refunds WHERE id = ?1) \
               AND to_state = ?2 AND from_state IS NOT to_state";
    let mut statement = connection.prepare_cached(sql)?;
    let micros: Option<i64> = statement.query_row([id.as_str(), state.as_str()], |row| row.get(0))?;
    Ok(micros.map(Timestamp::from_micros))
}

pub(super) fn trace_parent_of(connection: &Connection, id: &RefundId) -> Result<Option<String>, StepError> {
    let sql = "SELECT trace_parent FROM refund_traces WHERE ordinal = (SELECT ordinal FROM refunds WHERE id = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
}
