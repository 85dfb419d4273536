//! What a write does inside a transaction.
//!
//! Each write works on the row as it is stored, and rejects a row that differs from what the
//! history recorded. Everything that can be rejected is checked before anything is written.

use std::sync::LazyLock;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params, params_from_iter};

use super::evaluation;
use super::failure::StepError;
use super::pauses;
use super::queries::{self, ConflictCheck, Similar};
use super::row_cache::RowCache;
use super::rows::RowRef;
use super::spending;
use super::state_counts::Transition;
use crate::domain::authority::Actor;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, EventKind};
use crate::domain::history;
use crate::domain::ids::{ProviderKind, RefundId};
use crate::domain::place::Destination;
use crate::domain::refund::{Refund, Reservation, SimilarityWindow};
use crate::domain::state::State;
use crate::ledger::encoding::{self, ColumnValue, SCHEDULE_COLUMNS, STATE_COLUMNS, StoredRefund, integer};
use crate::ledger::hash_chain::{self, ChainHead, EventHashInput};
use crate::ledger::{
    CreateOutcome, FirstAttempt, LedgerError, NewRefund, OpenRefunds, Reassign, RecordEvents, Reschedule,
};

/// Everything that a write transaction needs.
pub(super) struct WriteTxn<'a> {
    pub(super) connection: &'a Connection,
    /// The head of the chain, including what this transaction has written.
    pub(super) head: &'a mut ChainHead,
    pub(super) transitions: &'a mut Vec<Transition>,
    pub(super) row_cache: &'a mut RowCache,
}

/// An event to write. The refund after it is kept beside it.
struct NewEvent<'a> {
    from: Option<State>,
    kind: EventKind,
    attempt: u32,
    actor: &'a Actor,
    /// As it is stored.
    note: Option<String>,
}

static INSERT_REFUND: LazyLock<String> = LazyLock::new(|| {
    let columns: Vec<&str> = encoding::columns().collect();
    let parameters: Vec<String> = (1..=columns.len()).map(|number| format!("?{number}")).collect();
    format!("INSERT INTO refunds ({}) VALUES ({})", columns.join(", "), parameters.join(", "))
});

static UPDATE_REFUND: LazyLock<String> = LazyLock::new(|| {
    let columns = STATE_COLUMNS.into_iter().chain(SCHEDULE_COLUMNS);
    let assignments: Vec<String> = columns.zip(3..).map(|(column, number)| format!("{column} = ?{number}")).collect();
    format!("UPDATE refunds SET {} WHERE ordinal = ?1 AND revision = ?2", assignments.join(", "))
});

/// Reserves key ?1 under login ?2 for refund ?3 until ?4. Replaces a reservation of another refund
/// that has ended by ?5.
const RESERVE: &str = "INSERT INTO reservations (key, login, ordinal, until_time) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT (key, login) DO UPDATE SET ordinal = excluded.ordinal, until_time = excluded.until_time \
     WHERE ordinal = excluded.ordinal OR until_time <= ?5";

/// Makes refunds at the account and place of ?1 to ?4 due at ?5, at most ?6 of them.
pub(super) const HASTEN: &str = "UPDATE refunds SET next_check = ?5, unheard = NULL WHERE ordinal IN (\
     SELECT ordinal FROM refunds INDEXED BY refunds_unheard \
     WHERE account = ?1 AND endpoint = ?2 AND login = ?3 AND currency = ?4 AND unheard = 1 \
     ORDER BY next_check LIMIT ?6)";

/// How many refunds become due in one transaction.
const HASTEN_BATCH: u32 = 1_000;

/// Runs before a refund that was created at ?1 is inserted. Only a create_time before that of the
/// last refund changes anything, so usually nothing is written.
const UPDATE_CLOCK_DISORDER: &str = "UPDATE clock_disorder SET overtaken = max(coalesce(overtaken, last), last), \
     max_micros = max(max_micros, max(coalesce(overtaken, last), last) - ?1) \
     FROM (SELECT create_time AS last FROM refunds ORDER BY ordinal DESC LIMIT 1) WHERE ?1 < last";

pub(super) fn create(txn: &mut WriteTxn<'_>, create: &NewRefund) -> Result<CreateOutcome, StepError> {
    let connection = txn.connection;
    let created = match evaluation::evaluate_create(connection, create)? {
        CreateOutcome::New(refund) => refund,
        known @ CreateOutcome::Known(_) => return Ok(known),
    };
    let gateway = Actor::gateway();
    let mut history = Vec::with_capacity(2);
    let recorded = NewEvent { from: None, kind: EventKind::Created, attempt: 0, actor: &create.by.actor, note: None };
    // A refund that waits for an approval has no attempt, nor has one of a paused account.
    let dispatch = match &create.dispatch {
        Some(first) if created.state == State::Pending && !pauses::is_paused(connection, &created.account)? => {
            Some(first)
        }
        _ => None,
    };
    let refund = if let Some(FirstAttempt { credential }) = dispatch {
        let dispatched = Event::Dispatched { credential: credential.clone() };
        let after = created.apply(&dispatched, create.now)?;
        let next = NewEvent::of(&created, &dispatched, &after, &gateway);
        history.push((recorded, created));
        history.push((next, after.clone()));
        after
    } else {
        history.push((recorded, created.clone()));
        created
    };

    // Not a trigger: a statement with a trigger keeps a journal of its own.
    connection.prepare_cached(UPDATE_CLOCK_DISORDER)?.execute([refund.create_time.as_micros()])?;
    let intent = encoding::intent_values(&refund);
    let state = encoding::state_values(&refund);
    let schedule = encoding::schedule_values(&refund);
    let values = intent.iter().chain(&state).chain(&schedule);
    connection.prepare_cached(&INSERT_REFUND)?.execute(params_from_iter(values))?;
    let ordinal = connection.last_insert_rowid();
    append(connection, txn.head, ordinal, &intent, history)?;

    let target = &refund.intent.target;
    let mut reference =
        connection.prepare_cached("INSERT INTO refund_references (reference, ordinal) VALUES (?1, ?2)")?;
    for text in target.index_references() {
        reference.execute(params![text, ordinal])?;
    }
    for reservation in refund.reservations() {
        reserve(connection, ordinal, &reservation, &create.place.login, create.now)?;
    }
    record_payee(connection, ordinal, &refund)?;
    spending::record_created(connection, create, &refund)?;
    if let Some(trace_parent) = &create.trace_parent {
        let sql = "INSERT INTO refund_traces (ordinal, trace_parent) VALUES (?1, ?2)";
        connection.prepare_cached(sql)?.execute(params![ordinal, trace_parent])?;
    }
    txn.transitions.push(Transition { from: None, to: (refund.account.clone(), refund.state) });
    txn.row_cache.put(StoredRefund { ordinal, refund: refund.clone() });
    Ok(CreateOutcome::New(refund))
}

/// Reserves a key of a refund's target.
///
/// # Errors
/// [`LedgerError::TargetHasRefund`] if another refund holds it. If two held it, the end of one
/// would free it for both.
fn reserve(
    connection: &Connection,
    ordinal: i64,
    Reservation { key, until }: &Reservation,
    login: &str,
    now: Timestamp,
) -> Result<(), StepError> {
    let values = params![key, login, ordinal, until.map(Timestamp::as_micros), now.as_micros()];
    match connection.prepare_cached(RESERVE)?.execute(values)? {
        0 => Err(LedgerError::TargetHasRefund { conflicting: queries::holder(connection, key, login)? }.into()),
        _ => Ok(()),
    }
}

/// Records what later refunds of the same payee are compared with.
fn record_payee(connection: &Connection, ordinal: i64, refund: &Refund) -> Result<(), StepError> {
    let target = &refund.intent.target;
    let references = target.payee_references();
    if references.is_empty() {
        return Ok(());
    }
    let mut similarity = connection.prepare_cached(
        "INSERT INTO similarity (key, ordinal, login, until_time, firm_until_time) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let SimilarityWindow { until, firm_until } = refund.similarity_window();
    for reference in &references {
        let (key, firm_until) = (target.similarity_key(reference), firm_until.map(Timestamp::as_micros));
        similarity.execute(params![key, ordinal, refund.place.login, until.as_micros(), firm_until])?;
    }
    let sql = "INSERT INTO payee_references (reference, other) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    let mut link = connection.prepare_cached(sql)?;
    for one in &references {
        for other in references.iter().filter(|other| *other != one) {
            link.execute(params![one, other])?;
        }
    }
    Ok(())
}

pub(super) fn record(txn: &mut WriteTxn<'_>, record: &RecordEvents) -> Result<Refund, StepError> {
    let stored = load_verified(txn, &record.id, record.revision)?;
    if record.events.iter().any(Event::begins_attempt) {
        pauses::refuse_if_paused(txn.connection, &stored.refund.account)?;
    }
    let corrects = record.events.iter().any(|event| matches!(event, Event::Corrected { .. }));
    if corrects
        && let Some(conflicting) =
            queries::later_refund_of_target(txn.connection, stored.ordinal, &stored.refund.intent.target)?
    {
        // The order or item does not show whose refund it was: it may be the later one's.
        return Err(LedgerError::TargetHasRefund { conflicting }.into());
    }
    apply(txn, stored, &record.events, record.next_check, &record.actor, record.now)
}

/// Loads the refund at exactly `revision`, its row as the history recorded it.
fn load_verified(txn: &mut WriteTxn<'_>, id: &RefundId, revision: u64) -> Result<StoredRefund, StepError> {
    let cached = txn.row_cache.take(id);
    let is_verified = cached.is_some();
    let stored = match cached {
        Some(stored) => stored,
        None => queries::find(txn.connection, id)?.ok_or_else(|| LedgerError::NotFound(id.clone()))?,
    };
    if stored.refund.revision != revision {
        return Err(LedgerError::StaleRevision { present: Box::new(stored.refund) }.into());
    }
    if !is_verified {
        queries::verify_row(txn.connection, &stored)?;
    }
    Ok(stored)
}

pub(super) fn reassign(txn: &mut WriteTxn<'_>, reassign: &Reassign) -> Result<Refund, StepError> {
    let Reassign { id, revision, to, related, reject_similar, evidence, actor, now } = reassign;
    let stored = load_verified(txn, id, *revision)?;
    let before = stored.refund.place.login.clone();
    let check = ConflictCheck {
        target: &stored.refund.intent.target,
        login: &to.place.login,
        related,
        similar: if *reject_similar { Similar::Any } else { Similar::None },
        now: *now,
        itself: Some((stored.ordinal, &before)),
    };
    queries::check_conflicts(txn.connection, &check)?;
    let Destination { account, place } = to.clone();
    // An open refund is looked up immediately at its new place.
    let next_check = Some(*now);
    let event = Event::Reassigned { account, place, evidence: evidence.clone() };
    let connection = txn.connection;
    let refund = apply(txn, stored, &[event], next_check, actor, *now)?;
    if before != to.place.login {
        let sql = "INSERT INTO login_links (login, other) VALUES (?1, ?2), (?2, ?1) ON CONFLICT DO NOTHING";
        connection.prepare_cached(sql)?.execute(params![before, to.place.login])?;
    }
    Ok(refund)
}

/// Records no event, so neither the revision nor the chain changes.
pub(super) fn reschedule(txn: &mut WriteTxn<'_>, reschedule: &Reschedule) -> Result<Refund, StepError> {
    let Reschedule { id, revision, next_check, unheard } = reschedule;
    let StoredRefund { ordinal, mut refund } = load_verified(txn, id, *revision)?;
    refund.next_check = *next_check;
    refund.unheard = *unheard;
    if let Some(doubt) = refund.doubt.as_mut() {
        doubt.check_count = doubt.check_count.saturating_add(1);
    }
    let assignments: Vec<String> =
        SCHEDULE_COLUMNS.into_iter().zip(2..).map(|(column, number)| format!("{column} = ?{number}")).collect();
    let sql = format!("UPDATE refunds SET {} WHERE ordinal = ?1", assignments.join(", "));
    let schedule = encoding::schedule_values(&refund);
    let key = ColumnValue::Integer(ordinal);
    txn.connection.prepare_cached(&sql)?.execute(params_from_iter([&key].into_iter().chain(&schedule)))?;
    txn.row_cache.put(StoredRefund { ordinal, refund: refund.clone() });
    Ok(refund)
}

/// Makes refunds at `at` due `now` if their last lookup had no usable answer, at most
/// [`HASTEN_BATCH`]. Returns how many.
pub(super) fn hasten(txn: &mut WriteTxn<'_>, at: &Destination, now: Timestamp) -> Result<usize, StepError> {
    let more = [now.as_micros(), i64::from(HASTEN_BATCH)].map(SqlValue::Integer);
    let values = queries::place_values(at).into_iter().chain(more);
    txn.row_cache.clear();
    Ok(txn.connection.prepare_cached(HASTEN)?.execute(params_from_iter(values))?)
}

/// See [`crate::ledger::LedgerAdmin::keep_access_file`].
pub(super) fn keep_access_file(
    txn: &mut WriteTxn<'_>,
    digest: &str,
    text: &str,
    now: Timestamp,
) -> Result<(), StepError> {
    let mut insert = txn.connection.prepare_cached(
        "INSERT INTO access_files (digest, text, load_time) VALUES (?1, ?2, ?3) ON CONFLICT (digest) DO NOTHING",
    )?;
    insert.execute(params![digest, text, now.as_micros()])?;
    Ok(())
}

/// Begins and ends the standstills of places that the configuration has left or come back to, and
/// returns where open refunds are.
pub(super) fn note_places(
    txn: &mut WriteTxn<'_>,
    configured: &[(ProviderKind, Destination)],
    now: Timestamp,
) -> Result<Vec<OpenRefunds>, StepError> {
    let connection = txn.connection;
    let is_configured =
        |provider: ProviderKind, at: &Destination| configured.iter().any(|(of, one)| *of == provider && one == at);
    let open = queries::open_refunds(connection)?;
    let mut begin = connection.prepare_cached(
        "INSERT INTO standstills (account, endpoint, login, currency, begin_time) SELECT ?1, ?2, ?3, ?4, ?5 \
         WHERE NOT EXISTS (SELECT 1 FROM standstills WHERE account = ?1 AND endpoint = ?2 AND login = ?3 \
         AND currency = ?4 AND end_time IS NULL)",
    )?;
    for OpenRefunds { provider, at, .. } in &open {
        if !is_configured(*provider, at) {
            let values = queries::place_values(at).into_iter().chain([SqlValue::Integer(now.as_micros())]);
            begin.execute(params_from_iter(values))?;
        }
    }
    let mut running = connection
        .prepare_cached("SELECT account, endpoint, login, currency FROM standstills WHERE end_time IS NULL")?;
    let mut rows = running.query([])?;
    let mut ended = Vec::new();
    while let Some(row) = rows.next()? {
        let at = queries::destination_in(row)?;
        if configured.iter().any(|(_, one)| *one == at) {
            ended.push(at);
        }
    }
    let mut end = connection.prepare_cached(
        "UPDATE standstills SET end_time = max(begin_time, ?5) WHERE account = ?1 AND endpoint = ?2 AND login = ?3 \
         AND currency = ?4 AND end_time IS NULL",
    )?;
    for at in ended {
        let values = queries::place_values(&at).into_iter().chain([SqlValue::Integer(now.as_micros())]);
        end.execute(params_from_iter(values))?;
    }
    Ok(open)
}

/// Moves at most `limit` refunds from [`State::Dispatching`] to [`State::InDoubt`], and returns how
/// many.
pub(super) fn interrupt(txn: &mut WriteTxn<'_>, now: Timestamp, limit: u32) -> Result<usize, StepError> {
    let interrupted = queries::dispatching(txn.connection, limit)?;
    let count = interrupted.len();
    for stored in interrupted {
        queries::verify_row(txn.connection, &stored)?;
        apply(txn, stored, &[Event::Interrupted], None, &Actor::gateway(), now)?;
    }
    Ok(count)
}

/// Applies events to a refund whose row is verified.
fn apply(
    txn: &mut WriteTxn<'_>,
    stored: StoredRefund,
    events: &[Event],
    next_check: Option<Timestamp>,
    actor: &Actor,
    now: Timestamp,
) -> Result<Refund, StepError> {
    let connection = txn.connection;
    let StoredRefund { ordinal, refund: before } = stored;
    let mut history: Vec<(NewEvent<'_>, Refund)> = Vec::with_capacity(events.len());
    for (event, remaining) in events.iter().zip((0..events.len()).rev()) {
        let present = history.last().map_or(&before, |(_, refund)| refund);
        let mut after = present.apply(event, now)?;
        if remaining == 0 && (after.state.is_in_question() || after.is_followed(now)) {
            after.next_check = next_check;
        }
        let new_event = NewEvent::of(present, event, &after, actor);
        history.push((new_event, after));
    }
    let Some((_, refund)) = history.last() else { return Ok(before) };
    let refund = refund.clone();
    let keys = [ColumnValue::Integer(ordinal), ColumnValue::Integer(integer(before.revision))];
    let state = encoding::state_values(&refund);
    let schedule = encoding::schedule_values(&refund);
    let values = keys.iter().chain(&state).chain(&schedule);
    let updated = connection.prepare_cached(&UPDATE_REFUND)?.execute(params_from_iter(values))?;
    if updated != 1 {
        let problem = format!("was {} before this transaction", before.revision);
        return Err(RowRef::refund(ordinal).corrupt("revision", problem).into());
    }
    let intent = encoding::intent_values(&refund);
    append(connection, txn.head, ordinal, &intent, history)?;
    update_holdings(connection, ordinal, &before, &refund, now)?;
    spending::record_change(connection, &before, &refund)?;

    let from = Some((before.account, before.state));
    txn.transitions.push(Transition { from, to: (refund.account.clone(), refund.state) });
    txn.row_cache.put(StoredRefund { ordinal, refund: refund.clone() });
    Ok(refund)
}

/// Updates what the refund holds of its target and its payee.
fn update_holdings(
    connection: &Connection,
    ordinal: i64,
    before: &Refund,
    after: &Refund,
    now: Timestamp,
) -> Result<(), StepError> {
    let (held, holds) = (before.reservations(), after.reservations());
    let has_moved = before.place.login != after.place.login;
    for Reservation { key, .. } in
        held.iter().filter(|one| has_moved || !holds.iter().any(|other| other.key == one.key))
    {
        let sql = "DELETE FROM reservations WHERE key = ?1 AND login = ?2 AND ordinal = ?3";
        connection.prepare_cached(sql)?.execute(params![key, before.place.login, ordinal])?;
    }
    for reservation in holds.iter().filter(|one| has_moved || !held.contains(one)) {
        reserve(connection, ordinal, reservation, &after.place.login, now)?;
    }
    let target = &after.intent.target;
    let SimilarityWindow { until, firm_until } = after.similarity_window();
    if has_moved || before.similarity_window() != after.similarity_window() {
        for reference in target.payee_references() {
            let sql = "UPDATE similarity SET login = ?3, until_time = ?4, firm_until_time = ?5 \
                       WHERE key = ?1 AND ordinal = ?2";
            let (key, firm_until) = (target.similarity_key(&reference), firm_until.map(Timestamp::as_micros));
            let values = params![key, ordinal, after.place.login, until.as_micros(), firm_until];
            connection.prepare_cached(sql)?.execute(values)?;
        }
    }
    Ok(())
}

/// Writes events with their hashes.
fn append(
    connection: &Connection,
    head: &mut ChainHead,
    ordinal: i64,
    intent: &[ColumnValue<'_>],
    history: Vec<(NewEvent<'_>, Refund)>,
) -> Result<(), StepError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (sequence, ordinal, revision, event_time, from_state, to_state, kind, attempt, actor, \
         actor_credential, actor_policy, note, refund_digest, chain_hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    let last = history.len();
    for ((new_event, after), number) in history.into_iter().zip(1..) {
        let NewEvent { from, kind, attempt, actor, note } = &new_event;
        // The row is stored as it is after the last event alone.
        let digest = || hash_chain::refund_digest(ordinal, intent, &encoding::state_values(&after));
        let refund_digest = (number == last).then(digest);
        let time_micros = after.update_time.as_micros();
        let next = head.after(&EventHashInput {
            refund: after.id(),
            revision: after.revision,
            time_micros,
            from: *from,
            to: after.state,
            kind: *kind,
            attempt: *attempt,
            actor,
            note: note.as_deref(),
            refund_digest: refund_digest.as_ref(),
        });
        insert.execute(params![
            integer(next.sequence),
            ordinal,
            integer(after.revision),
            time_micros,
            from.map(State::as_str),
            after.state.as_str(),
            kind.as_str(),
            attempt,
            encoding::stored_actor(actor),
            actor.credential,
            actor.policy,
            note,
            refund_digest,
            next.hash,
        ])?;
        *head = next;
    }
    Ok(())
}

impl<'a> NewEvent<'a> {
    fn of(before: &Refund, event: &Event, after: &Refund, actor: &'a Actor) -> Self {
        Self {
            from: Some(before.state),
            kind: event.kind(),
            attempt: event.attempt(before, after),
            actor,
            note: (!history::has_usual_note(event.kind())).then(|| event.note(after)),
        }
    }
}
