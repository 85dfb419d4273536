//! What the writer does inside a transaction: record a new refund, apply events to one, take up
//! what a stopped process left.
//!
//! Each works on the row as it is there, and refuses to build on a row that the history did not
//! record so. All that may be refused is looked at before anything is written.

use std::sync::LazyLock;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params, params_from_iter};

use super::chain::{self, ChainHead, EventHashInput, integer};
use super::failure::StepError;
use super::queries::{self, Judgement, Similar};
use super::row_cache::RowCache;
use super::rows::{self, RowRef, SCHEDULE_COLUMNS, STATE_COLUMNS, StoredRefund, Value};
use super::state_counts::Transition;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, EventKind, Resolution};
use crate::domain::ids::{ProviderKind, RefundId};
use crate::domain::outcome::{DoubtReason, ProviderError};
use crate::domain::place::Destination;
use crate::domain::refund::{Refund, Reservation, SimilarityWindow};
use crate::domain::state::State;
use crate::ledger::{
    CreateOutcome, FirstAttempt, GATEWAY, LedgerError, NewRefund, OpenRefunds, Reassign, RecordEvents, Reschedule,
};

/// What a transaction is done with.
pub(super) struct WriteTxn<'a> {
    pub(super) connection: &'a Connection,
    /// Where the history ends, with all that the transaction has written.
    pub(super) tail: &'a mut ChainHead,
    pub(super) moves: &'a mut Vec<Transition>,
    pub(super) recent: &'a mut RowCache,
}

/// One line of a refund's history, about to be written. The refund after it stands sibling it.
struct NewEvent<'a> {
    from: Option<State>,
    kind: EventKind,
    attempt: u32,
    actor: &'a str,
    note: String,
    change: AttemptChange,
}

/// What an event does to the `attempts` table.
enum AttemptChange {
    Unchanged,
    Begins,
    Ends { outcome: &'static str, doubt: Option<(DoubtReason, String)>, http_status: Option<u16> },
}

static INSERT_REFUND: LazyLock<String> = LazyLock::new(|| {
    let columns: Vec<&str> = rows::columns().collect();
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
    format!("INSERT INTO refunds ({}) VALUES ({})", columns.join(", "), places.join(", "))
});

static UPDATE_REFUND: LazyLock<String> = LazyLock::new(|| {
    let columns = STATE_COLUMNS.into_iter().chain(SCHEDULE_COLUMNS);
    let assignments: Vec<String> = columns.zip(3..).map(|(column, place)| format!("{column} = ?{place}")).collect();
    format!("UPDATE refunds SET {} WHERE ordinal = ?1 AND revision = ?2", assignments.join(", "))
});

/// Takes key ?1 under login ?2 for refund ?3 until ?4. A reservation of another refund that ended
/// by ?5 is replaced.
const RESERVE: &str = "INSERT INTO reservations (key, login, ordinal, until_time) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT (key, login) DO UPDATE SET ordinal = excluded.ordinal, until_time = excluded.until_time \
     WHERE ordinal = excluded.ordinal OR until_time <= ?5";

/// Makes refunds at the account and place of ?1 to ?4 due at ?5, at most ?6 of them.
pub(super) const HASTEN: &str = "UPDATE refunds SET next_check = ?5, unheard = NULL WHERE ordinal IN (\
     SELECT ordinal FROM refunds INDEXED BY refunds_unheard \
     WHERE account = ?1 AND endpoint = ?2 AND login = ?3 AND currency = ?4 AND unheard = 1 \
     ORDER BY next_check LIMIT ?6)";

/// At most this many refunds become due in one transaction.
const HASTENED_AT_ONCE: u32 = 1_000;

/// Before a refund that was created at ?1 is inserted.
const UPDATE_CLOCK_DISORDER: &str = "UPDATE disorder SET most_micros = (SELECT max(create_time) FROM refunds) - ?1 \
     WHERE most_micros < (SELECT max(create_time) FROM refunds) - ?1";

pub(super) fn create(desk: &mut WriteTxn<'_>, create: &NewRefund) -> Result<CreateOutcome, StepError> {
    let connection = desk.connection;
    let created = match queries::evaluate_create(connection, create)? {
        CreateOutcome::New(refund) => refund,
        known @ CreateOutcome::Known(_) => return Ok(known),
    };
    let mut history = Vec::with_capacity(2);
    let line = NewEvent {
        from: None,
        kind: EventKind::Created,
        attempt: 0,
        actor: &create.actor,
        note: "Recorded.".to_owned(),
        change: AttemptChange::Unchanged,
    };
    let refund = if let Some(FirstAttempt { credential }) = &create.dispatch {
        let dispatched = Event::Dispatched { credential: credential.clone() };
        let after = created.apply(&dispatched, create.now)?;
        let next = NewEvent::of(&created, &dispatched, &after, GATEWAY);
        history.push((line, created));
        history.push((next, after.clone()));
        after
    } else {
        history.push((line, created.clone()));
        created
    };

    // Not a trigger: a statement with one keeps a journal of its own.
    connection.prepare_cached(UPDATE_CLOCK_DISORDER)?.execute([refund.create_time.as_micros()])?;
    let intent = rows::intent_values(&refund.intent, refund.create_time);
    let state = rows::state_values(&refund);
    let schedule = rows::schedule_values(&refund);
    let values = intent.iter().chain(&state).chain(&schedule);
    connection.prepare_cached(&INSERT_REFUND)?.execute(params_from_iter(values))?;
    let ordinal = connection.last_insert_rowid();
    append(connection, desk.tail, ordinal, &intent, history)?;

    let target = &refund.intent.target;
    let mut reference =
        connection.prepare_cached("INSERT INTO refund_references (reference, ordinal) VALUES (?1, ?2)")?;
    for text in target.index_references() {
        reference.execute(params![text, ordinal])?;
    }
    for reservation in refund.reservations() {
        reserve(connection, ordinal, &reservation, &create.place.login, create.now)?;
    }
    remember_payee(connection, ordinal, &refund)?;
    if let Some(trace_parent) = &create.trace_parent {
        let sql = "INSERT INTO refund_traces (ordinal, trace_parent) VALUES (?1, ?2)";
        connection.prepare_cached(sql)?.execute(params![ordinal, trace_parent])?;
    }
    desk.moves.push(Transition { from: None, to: (refund.account.clone(), refund.state) });
    desk.recent.keep(StoredRefund { ordinal, refund: refund.clone() });
    Ok(CreateOutcome::New(refund))
}

/// Takes what a refund holds of its target.
///
/// # Errors
/// [`LedgerError::TargetHasRefund`] where another refund holds it: if two held it, the end of one
/// would free it.
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

/// What later refunds of the same payee are compared with.
fn remember_payee(connection: &Connection, ordinal: i64, refund: &Refund) -> Result<(), StepError> {
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

pub(super) fn record(desk: &mut WriteTxn<'_>, record: &RecordEvents) -> Result<Refund, StepError> {
    let stored = proven(desk, &record.id, record.revision)?;
    let corrects = record.events.iter().any(|event| matches!(event, Event::Corrected { .. }));
    if corrects
        && let Some(conflicting) =
            queries::later_refund_of_target(desk.connection, stored.ordinal, &stored.refund.intent.target)?
    {
        // The order or item cannot say whose refund it was: it may well be the later one's.
        return Err(LedgerError::TargetHasRefund { conflicting }.into());
    }
    apply(desk, stored, &record.events, record.next_check, &record.actor, record.now)
}

/// The refund at exactly `revision`, its row as the history recorded it.
fn proven(desk: &mut WriteTxn<'_>, id: &RefundId, revision: u64) -> Result<StoredRefund, StepError> {
    let known = desk.recent.take(id);
    let is_proven = known.is_some();
    let stored = match known {
        Some(stored) => stored,
        None => queries::find(desk.connection, id)?.ok_or_else(|| LedgerError::NotFound(id.clone()))?,
    };
    if stored.refund.revision != revision {
        return Err(LedgerError::StaleRevision { present: Box::new(stored.refund) }.into());
    }
    if !is_proven {
        queries::matches_history(desk.connection, &stored)?;
    }
    Ok(stored)
}

pub(super) fn reassign(desk: &mut WriteTxn<'_>, reassign: &Reassign) -> Result<Refund, StepError> {
    let Reassign { id, revision, to, related, judge_similar, evidence, actor, now } = reassign;
    let stored = proven(desk, id, *revision)?;
    let before = stored.refund.place.login.clone();
    let judgement = Judgement {
        target: &stored.refund.intent.target,
        login: &to.place.login,
        related,
        similar: if *judge_similar { Similar::Any } else { Similar::None },
        now: *now,
        itself: Some((stored.ordinal, &before)),
    };
    queries::judge(desk.connection, &judgement)?;
    let Destination { account, place } = to.clone();
    // An open refund is looked up at once at its new place.
    let next_check = Some(*now);
    let event = Event::Reassigned { account, place, evidence: evidence.clone() };
    let connection = desk.connection;
    let refund = apply(desk, stored, &[event], next_check, actor, *now)?;
    if before != to.place.login {
        let sql = "INSERT INTO login_links (login, other) VALUES (?1, ?2), (?2, ?1) ON CONFLICT DO NOTHING";
        connection.prepare_cached(sql)?.execute(params![before, to.place.login])?;
    }
    Ok(refund)
}

/// No event, so neither the revision nor the digest of the history changes.
pub(super) fn reschedule(desk: &mut WriteTxn<'_>, reschedule: &Reschedule) -> Result<Refund, StepError> {
    let Reschedule { id, revision, next_check, unheard } = reschedule;
    let StoredRefund { ordinal, mut refund } = proven(desk, id, *revision)?;
    refund.next_check = *next_check;
    refund.unheard = *unheard;
    if let Some(doubt) = refund.doubt.as_mut() {
        doubt.check_count = doubt.check_count.saturating_add(1);
    }
    let assignments: Vec<String> =
        SCHEDULE_COLUMNS.into_iter().zip(2..).map(|(column, place)| format!("{column} = ?{place}")).collect();
    let sql = format!("UPDATE refunds SET {} WHERE ordinal = ?1", assignments.join(", "));
    let schedule = rows::schedule_values(&refund);
    let key = Value::Integer(ordinal);
    desk.connection.prepare_cached(&sql)?.execute(params_from_iter([&key].into_iter().chain(&schedule)))?;
    desk.recent.keep(StoredRefund { ordinal, refund: refund.clone() });
    Ok(refund)
}

/// Makes refunds at `at` due `now` if their last lookup had no usable answer, at most
/// [`HASTENED_AT_ONCE`]. Returns how many.
pub(super) fn hasten(desk: &mut WriteTxn<'_>, at: &Destination, now: Timestamp) -> Result<usize, StepError> {
    let more = [now.as_micros(), i64::from(HASTENED_AT_ONCE)].map(SqlValue::Integer);
    let values = queries::at_place(at).into_iter().chain(more);
    desk.recent.forget();
    Ok(desk.connection.prepare_cached(HASTEN)?.execute(params_from_iter(values))?)
}

/// Starts and ends the waiting of refunds whose account is at another place now, and returns where
/// open refunds are.
pub(super) fn note_places(
    desk: &mut WriteTxn<'_>,
    configured: &[(ProviderKind, Destination)],
    now: Timestamp,
) -> Result<Vec<OpenRefunds>, StepError> {
    let connection = desk.connection;
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
            let values = queries::at_place(at).into_iter().chain([SqlValue::Integer(now.as_micros())]);
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
        let values = queries::at_place(&at).into_iter().chain([SqlValue::Integer(now.as_micros())]);
        end.execute(params_from_iter(values))?;
    }
    Ok(open)
}

/// At most `limit` refunds from [`State::Dispatching`] to [`State::InDoubt`]; how many.
pub(super) fn interrupt(desk: &mut WriteTxn<'_>, now: Timestamp, limit: u32) -> Result<usize, StepError> {
    let running = queries::dispatching(desk.connection, limit)?;
    let count = running.len();
    for stored in running {
        queries::matches_history(desk.connection, &stored)?;
        apply(desk, stored, &[Event::Interrupted], None, GATEWAY, now)?;
    }
    Ok(count)
}

/// The events of one refund, whose row is as the history recorded it.
fn apply(
    desk: &mut WriteTxn<'_>,
    stored: StoredRefund,
    events: &[Event],
    next_check: Option<Timestamp>,
    actor: &str,
    now: Timestamp,
) -> Result<Refund, StepError> {
    let connection = desk.connection;
    let StoredRefund { ordinal, refund: before } = stored;
    let mut history: Vec<(NewEvent<'_>, Refund)> = Vec::with_capacity(events.len());
    for (event, left) in events.iter().zip((0..events.len()).rev()) {
        let present = history.last().map_or(&before, |(_, refund)| refund);
        let mut after = present.apply(event, now)?;
        if left == 0 && (after.state.is_in_question() || after.is_followed(now)) {
            after.next_check = next_check;
        }
        let moment = NewEvent::of(present, event, &after, actor);
        history.push((moment, after));
    }
    let Some((_, refund)) = history.last() else { return Ok(before) };
    let refund = refund.clone();
    let keys = [Value::Integer(ordinal), Value::Integer(integer(before.revision))];
    let state = rows::state_values(&refund);
    let schedule = rows::schedule_values(&refund);
    let values = keys.iter().chain(&state).chain(&schedule);
    let updated = connection.prepare_cached(&UPDATE_REFUND)?.execute(params_from_iter(values))?;
    if updated != 1 {
        let problem = format!("was {} a moment ago", before.revision);
        return Err(RowRef::refund(ordinal).corrupt("revision", problem).into());
    }
    let intent = rows::intent_values(&refund.intent, refund.create_time);
    append(connection, desk.tail, ordinal, &intent, history)?;
    keep_holdings(connection, ordinal, &before, &refund, now)?;

    let from = Some((before.account, before.state));
    desk.moves.push(Transition { from, to: (refund.account.clone(), refund.state) });
    desk.recent.keep(StoredRefund { ordinal, refund: refund.clone() });
    Ok(refund)
}

/// What the refund held before and holds now, of its target and of its payee.
fn keep_holdings(
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

/// Writes the lines of a history, their hashes, and what they say of attempts.
fn append(
    connection: &Connection,
    tail: &mut ChainHead,
    ordinal: i64,
    intent: &[Value<'_>],
    history: Vec<(NewEvent<'_>, Refund)>,
) -> Result<(), StepError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (sequence, ordinal, revision, event_time, from_state, to_state, kind, attempt, actor, note, \
         refund_digest, chain_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for (moment, after) in history {
        let NewEvent { from, kind, attempt, actor, note, .. } = &moment;
        let refund_digest = chain::refund_digest(ordinal, intent, &rows::state_values(&after));
        let time_micros = after.update_time.as_micros();
        let next = tail.after(&EventHashInput {
            refund: after.id(),
            revision: after.revision,
            time_micros,
            from: *from,
            to: after.state,
            kind: *kind,
            attempt: *attempt,
            actor,
            note,
            refund_digest: &refund_digest,
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
            actor,
            note,
            refund_digest,
            next.hash,
        ])?;
        *tail = next;
        update_attempt(connection, ordinal, &moment, &after)?;
    }
    Ok(())
}

fn update_attempt(
    connection: &Connection,
    ordinal: i64,
    moment: &NewEvent<'_>,
    after: &Refund,
) -> Result<(), StepError> {
    let number = after.attempt_count;
    let time = after.update_time.as_micros();
    match &moment.change {
        AttemptChange::Unchanged => {}
        AttemptChange::Begins => {
            let sql = "INSERT INTO attempts (ordinal, number, dispatch_time) VALUES (?1, ?2, ?3)";
            connection.prepare_cached(sql)?.execute(params![ordinal, number, time])?;
        }
        AttemptChange::Ends { outcome, doubt, http_status } => {
            let mut statement = connection.prepare_cached(
                "UPDATE attempts SET end_time = ?3, outcome = ?4, doubt_reason = ?5, doubt_evidence = ?6, http_status = ?7 \
                 WHERE ordinal = ?1 AND number = ?2 AND end_time IS NULL",
            )?;
            let reason = doubt.as_ref().map(|(reason, _)| reason.as_str());
            let evidence = doubt.as_ref().map(|(_, evidence)| evidence);
            let ended = statement.execute(params![ordinal, number, time, outcome, reason, evidence, http_status])?;
            if ended != 1 {
                let place = RowRef::attempt(ordinal, number);
                return Err(place.corrupt("end_time", "is not that of an attempt on its way").into());
            }
        }
    }
    Ok(())
}

impl<'a> NewEvent<'a> {
    fn of(before: &Refund, event: &Event, after: &Refund, actor: &'a str) -> Self {
        Self {
            from: Some(before.state),
            kind: event.kind(),
            attempt: event.attempt(before, after),
            actor,
            note: event.note(after),
            change: AttemptChange::of(before, event, after),
        }
    }
}

impl AttemptChange {
    /// Only what is heard while an attempt is on its way is its answer; what a later look shows is
    /// told by the history alone.
    fn of(before: &Refund, event: &Event, after: &Refund) -> Self {
        let status = |error: &ProviderError| (error.http_status != 0).then_some(error.http_status);
        let ends = |outcome, http_status| AttemptChange::Ends { outcome, doubt: None, http_status };
        match event {
            Event::Dispatched { .. } => AttemptChange::Begins,
            Event::Resolved(decided) if decided.resolution == Resolution::SendAgain => AttemptChange::Begins,
            _ if before.state != State::Dispatching => AttemptChange::Unchanged,
            Event::NotSent { error, .. } => ends("not_sent", status(error)),
            Event::Refunded(confirmation) => ends("refunded", confirmation.error.as_ref().and_then(status)),
            Event::Accepted(_) => ends("accepted", None),
            Event::Refused { error, .. } => ends("refused", status(error)),
            Event::Doubted { reason, evidence, error, .. } => AttemptChange::Ends {
                outcome: "unknown",
                doubt: Some((*reason, evidence.clone())),
                http_status: error.as_ref().and_then(status),
            },
            Event::Interrupted => AttemptChange::Ends {
                outcome: "unknown",
                doubt: after.doubt.as_ref().map(|doubt| (doubt.reason, doubt.last_evidence.clone())),
                http_status: None,
            },
            Event::Checked(_)
            | Event::Escalated { .. }
            | Event::Cancelled
            | Event::Expired
            | Event::Resolved(_)
            | Event::Reassigned { .. }
            | Event::Corrected { .. } => AttemptChange::Unchanged,
        }
    }
}
