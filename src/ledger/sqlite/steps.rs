//! What the writer does inside a transaction: record a new refund, apply events to one, take up what a stopped process left.
//!
//! Each works on the row as it is there, and refuses to build on a row that the history did not record so. All that may be refused is looked
//! at before anything is written.

use std::sync::LazyLock;

use rusqlite::{Connection, params, params_from_iter};

use super::chain::{self, Line, Tail, integer};
use super::halt::Fault;
use super::reads;
use super::recent::Recent;
use super::rows::{self, INTENT_COLUMNS, Place, STANDING_COLUMNS, Stored, Value};
use super::tally::Move;
use crate::domain::clock::Timestamp;
use crate::domain::outcome::{DoubtReason, ProviderError};
use crate::domain::refund::{Event, Refund, Resolution};
use crate::domain::state::State;
use crate::ledger::{Create, Created, GATEWAY, LedgerError, Record};

/// What a transaction is done with.
pub(super) struct Desk<'a> {
    pub(super) connection: &'a Connection,
    /// Where the history ends, with all that the transaction has written.
    pub(super) tail: &'a mut Tail,
    pub(super) moves: &'a mut Vec<Move>,
    pub(super) recent: &'a mut Recent,
}

/// One line of a refund's history, about to be written. The refund after it stands beside it.
struct Moment<'a> {
    from: Option<State>,
    kind: &'static str,
    actor: &'a str,
    note: String,
    attempt: AttemptChange,
}

/// What an event does to the `attempts` table.
enum AttemptChange {
    Unchanged,
    Begins,
    Ends { outcome: &'static str, doubt: Option<(DoubtReason, String)>, http_status: Option<u16> },
}

static INSERT_REFUND: LazyLock<String> = LazyLock::new(|| {
    let columns: Vec<&str> = INTENT_COLUMNS.into_iter().chain(STANDING_COLUMNS).collect();
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
    format!("INSERT INTO refunds ({}) VALUES ({})", columns.join(", "), places.join(", "))
});

static UPDATE_REFUND: LazyLock<String> = LazyLock::new(|| {
    let assignments: Vec<String> =
        STANDING_COLUMNS.into_iter().zip(3..).map(|(column, place)| format!("{column} = ?{place}")).collect();
    format!("UPDATE refunds SET {} WHERE ordinal = ?1 AND revision = ?2", assignments.join(", "))
});

/// Before a refund that was created at ?1 is inserted.
const KEEP_DISORDER: &str = "UPDATE disorder SET most_micros = (SELECT max(create_time) FROM refunds) - ?1 \
     WHERE most_micros < (SELECT max(create_time) FROM refunds) - ?1";

pub(super) fn create(desk: &mut Desk<'_>, create: &Create) -> Result<Created, Fault> {
    let connection = desk.connection;
    let created = match reads::verdict(connection, create)? {
        Created::New(refund) => refund,
        known @ Created::Known(_) => return Ok(known),
    };
    let mut history = Vec::with_capacity(2);
    let line = Moment {
        from: None,
        kind: "created",
        actor: &create.actor,
        note: "Recorded.".to_owned(),
        attempt: AttemptChange::Unchanged,
    };
    let refund = if create.dispatch {
        let after = created.apply(&Event::Dispatched, create.now)?;
        let next = Moment::of(&created, &Event::Dispatched, &after, GATEWAY);
        history.push((line, created));
        history.push((next, after.clone()));
        after
    } else {
        history.push((line, created.clone()));
        created
    };

    // Not a trigger: a statement with one keeps a journal of its own.
    connection.prepare_cached(KEEP_DISORDER)?.execute([refund.create_time.as_micros()])?;
    let intent = rows::intent_values(&create.scope, &refund.intent, refund.create_time);
    let standing = rows::standing_values(&refund);
    connection.prepare_cached(&INSERT_REFUND)?.execute(params_from_iter(intent.iter().chain(&standing)))?;
    let ordinal = connection.last_insert_rowid();
    append(connection, desk.tail, ordinal, &intent, history)?;

    let target = &refund.intent.target;
    let mut reference =
        connection.prepare_cached("INSERT INTO refund_references (reference, ordinal) VALUES (?1, ?2)")?;
    let mut references = target.references();
    references.sort_unstable();
    references.dedup();
    for text in references {
        reference.execute(params![text, ordinal])?;
    }
    let mut reservation =
        connection.prepare_cached("INSERT INTO reservations (scope, key, ordinal) VALUES (?1, ?2, ?3)")?;
    for key in refund.held_keys() {
        reservation.execute(params![create.scope, key, ordinal])?;
    }
    let similar = target.similarity_keys();
    if !similar.is_empty() {
        let mut similarity = connection
            .prepare_cached("INSERT INTO similarity (scope, key, create_time, ordinal) VALUES (?1, ?2, ?3, ?4)")?;
        for key in similar {
            similarity.execute(params![create.scope, key, refund.create_time.as_micros(), ordinal])?;
        }
    }
    if let Some(trace_parent) = &create.trace_parent {
        let sql = "INSERT INTO refund_traces (ordinal, trace_parent) VALUES (?1, ?2)";
        connection.prepare_cached(sql)?.execute(params![ordinal, trace_parent])?;
    }
    desk.moves.push(Move { account: refund.intent.account.clone(), from: None, to: refund.state });
    desk.recent.keep(Stored { ordinal, scope: create.scope.clone(), refund: refund.clone() });
    Ok(Created::New(refund))
}

pub(super) fn record(desk: &mut Desk<'_>, record: &Record) -> Result<Refund, Fault> {
    let known = desk.recent.take(&record.id);
    let is_proven = known.is_some();
    let stored = match known {
        Some(stored) => stored,
        None => reads::find(desk.connection, &record.id)?.ok_or_else(|| LedgerError::NotFound(record.id.clone()))?,
    };
    if stored.refund.revision != record.revision {
        return Err(LedgerError::StaleRevision { present: Box::new(stored.refund) }.into());
    }
    if !is_proven {
        reads::matches_history(desk.connection, &stored)?;
    }
    apply(desk, stored, &record.events, record.next_check, &record.actor, record.now)
}

/// At most `limit` refunds from [`State::Dispatching`] to [`State::InDoubt`]; how many.
pub(super) fn interrupt(desk: &mut Desk<'_>, now: Timestamp, limit: u32) -> Result<usize, Fault> {
    let running = reads::dispatching(desk.connection, limit)?;
    let count = running.len();
    for stored in running {
        reads::matches_history(desk.connection, &stored)?;
        apply(desk, stored, &[Event::Interrupted], None, GATEWAY, now)?;
    }
    Ok(count)
}

/// The events of one refund, whose row is as the history recorded it.
fn apply(
    desk: &mut Desk<'_>,
    stored: Stored,
    events: &[Event],
    next_check: Option<Timestamp>,
    actor: &str,
    now: Timestamp,
) -> Result<Refund, Fault> {
    let connection = desk.connection;
    let Stored { ordinal, scope, refund: before } = stored;
    let mut history: Vec<(Moment<'_>, Refund)> = Vec::with_capacity(events.len());
    for (event, left) in events.iter().zip((0..events.len()).rev()) {
        let present = history.last().map_or(&before, |(_, refund)| refund);
        let mut after = present.apply(event, now)?;
        if left == 0 && matches!(after.state, State::InDoubt | State::Submitted) {
            after.next_check = next_check;
        }
        let moment = Moment::of(present, event, &after, actor);
        history.push((moment, after));
    }
    let Some((_, refund)) = history.last() else { return Ok(before) };
    let refund = refund.clone();
    let keys = [Value::Integer(ordinal), Value::Integer(integer(before.revision))];
    let standing = rows::standing_values(&refund);
    let updated = connection.prepare_cached(&UPDATE_REFUND)?.execute(params_from_iter(keys.iter().chain(&standing)))?;
    if updated != 1 {
        let problem = format!("was {} a moment ago", before.revision);
        return Err(Place::refund(ordinal).corrupt("revision", problem).into());
    }
    let intent = rows::intent_values(&scope, &refund.intent, refund.create_time);
    append(connection, desk.tail, ordinal, &intent, history)?;

    // A key that was once let go is never taken again: by then it may be another refund's.
    let held = refund.held_keys();
    for key in before.held_keys().into_iter().filter(|key| !held.contains(key)) {
        let sql = "DELETE FROM reservations WHERE scope = ?1 AND key = ?2 AND ordinal = ?3";
        connection.prepare_cached(sql)?.execute(params![scope, key, ordinal])?;
    }
    let account = refund.intent.account.clone();
    desk.moves.push(Move { account, from: Some(before.state), to: refund.state });
    desk.recent.keep(Stored { ordinal, scope, refund: refund.clone() });
    Ok(refund)
}

/// Writes the lines of a history, their hashes, and what they say of attempts.
fn append(
    connection: &Connection,
    tail: &mut Tail,
    ordinal: i64,
    intent: &[Value<'_>],
    history: Vec<(Moment<'_>, Refund)>,
) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (sequence, ordinal, revision, event_time, from_state, to_state, kind, actor, note, refund_digest, chain_hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for (moment, after) in history {
        let Moment { from, kind, actor, note, .. } = &moment;
        let refund_digest = chain::refund_digest(ordinal, intent, &rows::standing_values(&after));
        let time_micros = after.update_time.as_micros();
        let next = tail.after(&Line {
            refund: after.id(),
            revision: after.revision,
            time_micros,
            from: *from,
            to: after.state,
            kind,
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
            kind,
            actor,
            note,
            refund_digest,
            next.hash,
        ])?;
        *tail = next;
        keep_attempt(connection, ordinal, &moment, &after)?;
    }
    Ok(())
}

fn keep_attempt(connection: &Connection, ordinal: i64, moment: &Moment<'_>, after: &Refund) -> Result<(), Fault> {
    let number = after.attempt_count;
    let time = after.update_time.as_micros();
    match &moment.attempt {
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
                let place = Place::attempt(ordinal, number);
                return Err(place.corrupt("end_time", "is not that of an attempt on its way").into());
            }
        }
    }
    Ok(())
}

impl<'a> Moment<'a> {
    fn of(before: &Refund, event: &Event, after: &Refund, actor: &'a str) -> Self {
        Self {
            from: Some(before.state),
            kind: event.name(),
            actor,
            note: event.note(after),
            attempt: AttemptChange::of(before, event, after),
        }
    }
}

impl AttemptChange {
    /// Only what is heard while an attempt is on its way is its answer; what a later look shows is told by the history alone.
    fn of(before: &Refund, event: &Event, after: &Refund) -> Self {
        let status = |error: &ProviderError| (error.http_status != 0).then_some(error.http_status);
        let ends = |outcome, http_status| AttemptChange::Ends { outcome, doubt: None, http_status };
        match event {
            Event::Dispatched | Event::Resolved { resolution: Resolution::SendAgain, .. } => AttemptChange::Begins,
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
            Event::Checked { .. }
            | Event::Escalated { .. }
            | Event::Cancelled
            | Event::Expired
            | Event::Resolved { .. } => AttemptChange::Unchanged,
        }
    }
}
