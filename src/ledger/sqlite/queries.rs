//! Every question to the tables. Each works on any connection, so that [`evaluate_create`] answers
//! alike inside the writer's transaction and outside.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params, params_from_iter};

use super::chain::{ChainHead, EventHashInput, integer};
use super::failure::StepError;
use super::rows::{self, EVENT_COLUMNS, RowRef, StoredEvent, StoredRefund};
use super::state_counts::Counts;
use crate::domain::clock::Timestamp;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Currency;
use crate::domain::place::{Destination, Place};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::Target;
use crate::ledger::{self, CreateOutcome, LedgerError, ListQuery, Listed, NewRefund, OpenRefunds, RelatedLogins};

/// Rows that [`verify`] holds in memory at once.
const VERIFY_PAGE: u32 = 1_000;

static SELECT_REFUND: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM refunds", rows::refund_columns()));

/// The refund with id ?1, in any case of its letters.
static FIND: LazyLock<String> = LazyLock::new(|| format!("{} WHERE id = ?1", *SELECT_REFUND));

/// One account at one place, as [`at_place`] binds them: ?1 to ?4.
const AT: &str = "account = ?1 AND endpoint = ?2 AND login = ?3 AND currency = ?4";

/// Refunds that still need their account, worded like the partial index so that it applies.
const OPEN: &str = "(state = 'PENDING' OR state = 'SUBMITTED' OR state = 'IN_DOUBT' OR state = 'NEEDS_REVIEW')";

/// Refunds that are looked up at once because no time is set, worded like the partial index.
const UNTIMED: &str = "(state = 'IN_DOUBT' OR state = 'SUBMITTED') AND next_check IS NULL";

/// At [`AT`], at time ?5, at most ?6. The states and NULLs are literals, so that the partial
/// indexes fit, and each index is named: without statistics the planner would take one that holds
/// every refund of the account.
pub(super) static DUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds INDEXED BY refunds_due_now \
                 WHERE {AT} AND state = 'PENDING' AND not_before IS NULL ORDER BY create_time, ordinal LIMIT ?6\
             ) AS waiting \
             UNION ALL SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds INDEXED BY refunds_due_later \
                 WHERE {AT} AND state = 'PENDING' AND not_before <= ?5 ORDER BY create_time, ordinal LIMIT ?6\
             ) AS put_off\
         ) AS due ORDER BY create_time, ordinal LIMIT ?6) ORDER BY create_time, ordinal",
        *SELECT_REFUND
    )
});

/// At [`AT`].
pub(super) static NEXT_DUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT min(due) FROM (\
             SELECT min(create_time) AS due FROM refunds INDEXED BY refunds_due_now \
             WHERE {AT} AND state = 'PENDING' AND not_before IS NULL \
             UNION ALL \
             SELECT min(not_before) FROM refunds INDEXED BY refunds_due_later \
             WHERE {AT} AND state = 'PENDING' AND not_before IS NOT NULL\
         ) AS each"
    )
});

/// Of account ?1.
pub(super) const OLDEST_DOUBT: &str =
    "SELECT min(doubt_since) FROM refunds WHERE account = ?1 AND doubt_since IS NOT NULL";

/// Who holds key ?1, under which login, and until when.
pub(super) const HOLDERS: &str = "SELECT r.id, r.account, h.login, h.until_time, h.ordinal FROM reservations h \
     JOIN refunds r ON r.ordinal = h.ordinal WHERE h.key = ?1";

/// Refunds that share key ?1 and still count as likely duplicates at ?2, newest first.
pub(super) const SIMILAR: &str = "SELECT r.id, r.account, s.login, s.firm_until_time, s.ordinal FROM similarity s \
     JOIN refunds r ON r.ordinal = s.ordinal WHERE s.key = ?1 AND s.until_time > ?2 ORDER BY s.ordinal DESC";

/// At [`AT`], at time ?5, at most ?6.
pub(super) static DUE_FOR_LOOKUP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, next_check FROM (\
                 SELECT ordinal, next_check FROM refunds INDEXED BY refunds_to_check_now \
                 WHERE {AT} AND {UNTIMED} ORDER BY update_time, ordinal LIMIT ?6\
             ) AS never_asked \
             UNION ALL SELECT ordinal, next_check FROM (\
                 SELECT ordinal, next_check FROM refunds INDEXED BY refunds_to_check_later \
                 WHERE {AT} AND next_check <= ?5 \
                 ORDER BY next_check, ordinal LIMIT ?6\
             ) AS asked_before\
         ) AS due ORDER BY next_check IS NOT NULL, next_check, ordinal LIMIT ?6) \
         ORDER BY next_check IS NOT NULL, next_check, ordinal",
        *SELECT_REFUND
    )
});

/// At [`AT`]. One that is to be looked up at once counts from its last change.
pub(super) static NEXT_LOOKUP_TIME: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT min(due) FROM (\
             SELECT min(update_time) AS due FROM refunds INDEXED BY refunds_to_check_now WHERE {AT} AND {UNTIMED} \
             UNION ALL \
             SELECT min(next_check) FROM refunds INDEXED BY refunds_to_check_later WHERE {AT} AND next_check IS NOT NULL\
         ) AS each"
    )
});

/// At [`AT`], created until ?5, at most ?6 after the first ?7.
pub(super) static PENDING_BEFORE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM (\
             SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds INDEXED BY refunds_due_now \
                 WHERE {AT} AND state = 'PENDING' AND not_before IS NULL AND create_time <= ?5 \
                 ORDER BY create_time, ordinal LIMIT ?6 + ?7\
             ) AS waiting \
             UNION ALL SELECT ordinal, create_time FROM (\
                 SELECT ordinal, create_time FROM refunds INDEXED BY refunds_put_off \
                 WHERE {AT} AND state = 'PENDING' AND not_before IS NOT NULL AND create_time <= ?5 \
                 ORDER BY create_time, ordinal LIMIT ?6 + ?7\
             ) AS put_off\
         ) AS old ORDER BY create_time, ordinal LIMIT ?6 OFFSET ?7) ORDER BY create_time, ordinal",
        *SELECT_REFUND
    )
});

/// Of account ?1.
pub(super) const OLDEST_PENDING_ROW: &str = "SELECT min(oldest) FROM (\
         SELECT min(create_time) AS oldest FROM refunds INDEXED BY refunds_due_now \
         WHERE account = ?1 AND state = 'PENDING' AND not_before IS NULL \
         UNION ALL \
         SELECT min(create_time) FROM refunds INDEXED BY refunds_put_off \
         WHERE account = ?1 AND state = 'PENDING' AND not_before IS NOT NULL\
     ) AS each";

/// At [`AT`], after ordinal ?5, at most ?6. What is sorted are numbers, and not whole rows.
pub(super) static OPEN_AT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} WHERE ordinal IN (SELECT ordinal FROM refunds INDEXED BY refunds_open \
         WHERE {AT} AND {OPEN} AND ordinal > ?5 ORDER BY ordinal LIMIT ?6) ORDER BY ordinal",
        *SELECT_REFUND
    )
});

/// At most this many linked references of one payee, or linked logins, are followed.
const MAX_LINKED: u32 = 64;

/// Which similar refunds block another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Similar {
    /// Each that was recorded within a day, or may still have an effect.
    Any,
    /// One that a person called not refunded and that may still have an effect.
    Firm,
    /// None: the refund is only looked up, and not sent.
    None,
}

/// What a refund must not collide with where it is recorded, or goes on.
pub(super) struct Judgement<'a> {
    pub(super) target: &'a Target,
    pub(super) login: &'a str,
    pub(super) related: &'a RelatedLogins,
    pub(super) similar: Similar,
    pub(super) now: Timestamp,
    /// The refund itself, where it is recorded already, and its login until now. It and a similar
    /// one under that login were judged when the later of the two was recorded, and its caller may
    /// have allowed them.
    pub(super) itself: Option<(i64, &'a str)>,
}

/// What `create` comes to, without recording anything: the refund as it would be, or the one that
/// is there.
pub(super) fn evaluate_create(connection: &Connection, create: &NewRefund) -> Result<CreateOutcome, StepError> {
    let NewRefund { intent, place, related, allow_similar, now, .. } = create;
    if let Some(StoredRefund { refund, .. }) = find_in_any_case(connection, &intent.id)? {
        return Ok(CreateOutcome::Known(ledger::match_existing(refund, intent)?));
    }
    let (target, login) = (&intent.target, place.login.as_str());
    let similar = if *allow_similar { Similar::Firm } else { Similar::Any };
    judge(connection, &Judgement { target, login, related, similar, now: *now, itself: None })?;
    Ok(CreateOutcome::New(Refund::new(intent.clone(), place.clone(), *now)))
}

/// Refuses a refund whose target another one holds, or that is a likely duplicate of another one.
pub(super) fn judge(connection: &Connection, judgement: &Judgement<'_>) -> Result<(), StepError> {
    let Judgement { target, login, related, similar: refusing, now, itself } = judgement;
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
    if *refusing == Similar::None {
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
            let is_refused = is_firm || (*refusing == Similar::Any && !is_known);
            if is_refused && itself.is_none_or(|(itself, _)| itself != ordinal) && is_ours(&login, &account) {
                let conflicting = id_in("similarity", &key, &id)?;
                let firm_until = firm_until.filter(|until| *until > now.as_micros()).map(Timestamp::from_micros);
                return Err(LedgerError::SimilarRefund { conflicting, firm_until }.into());
            }
        }
    }
    Ok(())
}

/// Who holds `key` under `login`.
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

/// Every reference that names the payee of `target`: those that it gives, and those that refunds
/// gave run_batch with them.
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
fn find_in_any_case(connection: &Connection, id: &RefundId) -> Result<Option<StoredRefund>, StepError> {
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
        // It is the provider's record, and not the target, that says whose refund it is.
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

/// How many refunds are on their way, by account and place.
pub(super) fn dispatching_refunds(connection: &Connection) -> Result<Vec<OpenRefunds>, StepError> {
    counted_by_place(connection, "WHERE state = 'DISPATCHING'")
}

fn counted_by_place(connection: &Connection, which: &str) -> Result<Vec<OpenRefunds>, StepError> {
    let sql = format!(
        "SELECT account, endpoint, login, currency, provider, count(*) FROM refunds {which} \
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

/// For a row of a query over many refunds: none of them is named.
fn invalid_column(column: &'static str) -> LedgerError {
    RowRef::refund(0).corrupt(column, "is no value of its kind")
}

/// The account and place in the first four columns of a row.
pub(super) fn destination_in(row: &Row<'_>) -> Result<Destination, StepError> {
    let (account, endpoint): (String, String) = (row.get(0)?, row.get(1)?);
    let (login, currency): (String, String) = (row.get(2)?, row.get(3)?);
    let account = AccountName::parse(&account).map_err(|_| invalid_column("account"))?;
    let currency = Currency::parse(&currency).map_err(|_| invalid_column("currency"))?;
    Ok(Destination { account, place: Place { endpoint, login, currency } })
}

/// The times during which refunds of an account at a place waited for it, oldest first.
pub(super) fn standstills(connection: &Connection, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, StepError> {
    let sql =
        format!("SELECT begin_time, end_time FROM standstills WHERE {AT} AND end_time IS NOT NULL ORDER BY begin_time");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(at_place(at)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((Timestamp::from_micros(row.get(0)?), Timestamp::from_micros(row.get(1)?)));
    }
    Ok(found)
}

/// Refunds at one account and place that still need them, after an ordinal.
pub(super) fn open_at(
    connection: &Connection,
    at: &Destination,
    after_ordinal: u64,
    limit: u32,
) -> Result<Vec<Listed>, StepError> {
    let more = [Value::Integer(integer(after_ordinal)), Value::Integer(i64::from(limit))];
    Ok(listed(refunds(connection, &OPEN_AT, params_from_iter(at_place(at).into_iter().chain(more)))?))
}

/// The values of [`AT`].
pub(super) fn at_place(at: &Destination) -> [Value; 4] {
    let Destination { account, place: Place { endpoint, login, currency } } = at;
    [account.as_str(), endpoint, login, currency.code()].map(|text| Value::Text(text.to_owned()))
}

/// Refunds in [`State::Dispatching`], oldest first.
pub(super) fn dispatching(connection: &Connection, limit: u32) -> Result<Vec<StoredRefund>, StepError> {
    let sql = format!("{} WHERE state = 'DISPATCHING' ORDER BY ordinal LIMIT ?1", *SELECT_REFUND);
    refunds(connection, &sql, params![limit])
}

pub(super) fn list(connection: &Connection, query: &ListQuery) -> Result<Vec<Listed>, StepError> {
    let (ordinals, values) = page(query);
    let sql = format!("{} WHERE ordinal IN ({ordinals}) ORDER BY ordinal DESC", *SELECT_REFUND);
    Ok(listed(refunds(connection, &sql, params_from_iter(values))?))
}

fn listed(stored: Vec<StoredRefund>) -> Vec<Listed> {
    let listed = |StoredRefund { ordinal, refund }| Listed { ordinal: u64::try_from(ordinal).unwrap_or(0), refund };
    stored.into_iter().map(listed).collect()
}

/// What `sql` ([`DUE`], [`DUE_FOR_LOOKUP`], [`PENDING_BEFORE`]) returns for an account and place,
/// with `numbers` from ?5 on.
pub(super) fn refunds_at(
    connection: &Connection,
    sql: &str,
    at: &Destination,
    numbers: &[i64],
) -> Result<Vec<Refund>, StepError> {
    let numbers = numbers.iter().map(|number| Value::Integer(*number));
    let stored = refunds(connection, sql, params_from_iter(at_place(at).into_iter().chain(numbers)))?;
    Ok(stored.into_iter().map(|stored| stored.refund).collect())
}

/// The time that `sql` ([`NEXT_DUE`], [`NEXT_LOOKUP_TIME`]) returns for an account and place.
pub(super) fn moment_at(connection: &Connection, sql: &str, at: &Destination) -> Result<Option<Timestamp>, StepError> {
    moment(connection, sql, params_from_iter(at_place(at)))
}

/// The time that `sql` ([`OLDEST_DOUBT`], [`OLDEST_PENDING_ROW`]) returns for an account.
pub(super) fn moment_of(
    connection: &Connection,
    sql: &str,
    account: &AccountName,
) -> Result<Option<Timestamp>, StepError> {
    moment(connection, sql, params![account.as_str()])
}

fn moment(connection: &Connection, sql: &str, values: impl Params) -> Result<Option<Timestamp>, StepError> {
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
        "SELECT {EVENT_COLUMNS} FROM refunds r JOIN events e ON e.ordinal = r.ordinal \
         WHERE r.id = ?1 AND e.revision > ?2 ORDER BY e.revision LIMIT ?3"
    );
    let events = events(connection, &sql, params![id.as_str(), integer(after_revision), limit])?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

pub(super) fn events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, StepError> {
    let events = stored_events_after(connection, sequence, limit)?;
    Ok(events.into_iter().map(|event| event.record).collect())
}

/// Rises when somebody else has committed to the file: exactly then, and as this transaction sees
/// it.
pub(super) fn version(connection: &Connection) -> Result<i64, StepError> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Where the history ends.
pub(super) fn tail(connection: &Connection) -> Result<ChainHead, StepError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM events e JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence DESC LIMIT 1"
    );
    let last = events(connection, &sql, [])?.pop();
    Ok(last.map_or(ChainHead::EMPTY, |last| ChainHead { sequence: last.record.sequence, hash: last.record.chain_hash }))
}

/// Whether the last line of the history verify_link from the one before it, and its refund's row
/// from it.
pub(super) fn verify_tail(connection: &Connection) -> Result<ChainHead, StepError> {
    let end = tail(connection)?;
    let Some(before_last) = end.sequence.checked_sub(1) else { return Ok(end) };
    let events = stored_events_after(connection, before_last.saturating_sub(1), 2)?;
    let before = match events.as_slice() {
        [before, _] => ChainHead { sequence: before.record.sequence, hash: before.record.chain_hash },
        _ => ChainHead::EMPTY,
    };
    if let Some(last) = events.last() {
        last.verify_link(&before)?;
        if let Some(stored) = find(connection, &last.record.refund)? {
            matches_history(connection, &stored)?;
        }
    }
    Ok(end)
}

/// Computes the whole chain again, and compares every refund's row with its last line. How many
/// lines there are.
pub(super) fn verify(connection: &Connection) -> Result<u64, StepError> {
    let mut tail = ChainHead::EMPTY;
    loop {
        let page = stored_events_after(connection, tail.sequence, VERIFY_PAGE)?;
        for event in &page {
            tail = event.verify_link(&tail)?;
        }
        if page.is_empty() {
            break;
        }
    }
    let sql = format!("{} WHERE ordinal > ?1 ORDER BY ordinal LIMIT ?2", *SELECT_REFUND);
    let mut after = 0;
    loop {
        // One snapshot for a row and its last line, and not for longer: a reader that stays keeps
        // the log from being cleared.
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
pub(super) fn matches_history(connection: &Connection, stored: &StoredRefund) -> Result<(), StepError> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, refund_digest FROM events WHERE ordinal = ?1 ORDER BY revision DESC LIMIT 1",
    )?;
    let last: Option<(i64, Vec<u8>)> =
        statement.query_row(params![stored.ordinal], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let place = RowRef::refund(stored.ordinal);
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
    fn verify_link(&self, before: &ChainHead) -> Result<ChainHead, StepError> {
        let EventRecord { sequence, refund, revision, time, from, to, kind, attempt, actor, note, chain_hash } =
            &self.record;
        let line = EventHashInput {
            refund,
            revision: *revision,
            time_micros: time.as_micros(),
            from: *from,
            to: *to,
            kind: *kind,
            attempt: *attempt,
            actor,
            note,
            refund_digest: &self.refund_digest,
        };
        let after = before.after(&line);
        if after == (ChainHead { sequence: *sequence, hash: *chain_hash }) {
            return Ok(after);
        }
        Err(RowRef::event(integer(*sequence)).corrupt("chain_hash", "does not follow from the line before").into())
    }
}

/// How a page is asked for, for a look at its plan.
#[cfg(test)]
pub(super) fn page_sql(query: &ListQuery) -> String {
    page(query).0
}

/// The ordinals of a page, newest first, as SQL and its values.
///
/// Every way walks an index in the order of recording and stops at the limit: the rows with a
/// reference, the rows of each asked-for state (merged), or the table itself. Moments are turned
/// into ordinals first, so that a walk begins and ends where they are.
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

/// An ordinal below those of all refunds that were created at `moment` or later: refunds are
/// recorded nearly as they are created, and how nearly is kept.
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

fn refunds(connection: &Connection, sql: &str, values: impl Params) -> Result<Vec<StoredRefund>, StepError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::stored(row)?);
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

/// Refuses a history with a gap.
fn stored_events_after(connection: &Connection, sequence: u64, limit: u32) -> Result<Vec<StoredEvent>, StepError> {
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

/// How many refunds of each account are in each state, and where the history ends that made them
/// so: one walk through an index.
pub(super) fn counts(connection: &Connection) -> Result<(Counts, u64), StepError> {
    let snapshot = connection.unchecked_transaction()?;
    let sequence: i64 = snapshot.query_row("SELECT coalesce(max(sequence), 0) FROM events", [], |row| row.get(0))?;
    let mut grouped = snapshot.prepare("SELECT account, state, count(*) FROM refunds GROUP BY account, state")?;
    let mut rows = grouped.query([])?;
    let mut counts = Counts::new();
    while let Some(row) = rows.next()? {
        let (account, state, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let account = AccountName::parse(&account).map_err(|_| invalid_column("account"))?;
        let state = State::parse(&state).ok_or_else(|| invalid_column("state"))?;
        counts.insert((account, state), u64::try_from(count).unwrap_or_default());
    }
    Ok((counts, u64::try_from(sequence).unwrap_or_default()))
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
