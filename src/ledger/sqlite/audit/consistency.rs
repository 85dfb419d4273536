//! Every refund's row, attempts and holdings against its history.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

use super::{Findings, RefundsRead};
use crate::domain::clock::Timestamp;
use crate::domain::event::EventKind;
use crate::domain::history;
use crate::domain::limits;
use crate::domain::refund::{Refund, Reservation, SimilarityWindow};
use crate::domain::state::State;
use crate::ledger::encoding::StoredRefund;
use crate::ledger::hash_chain;
use crate::ledger::sqlite::rows;
use crate::ledger::sqlite::spending::{self, Sums};

/// An event of a refund, read leniently: the check of the chain reports values that do not parse.
struct EventRow {
    sequence: i64,
    revision: i64,
    time: i64,
    from: Option<String>,
    to: String,
    kind: String,
    attempt: i64,
    note: Option<String>,
    refund_digest: Option<Vec<u8>>,
}

/// The attempts of a refund as its events record them.
#[derive(Default)]
struct Attempts {
    /// When each attempt began.
    begun: Vec<i64>,
    is_in_flight: bool,
    /// See [`crate::domain::refund::Refund::unanswered_attempts`].
    unanswered: u32,
}

/// A table of what refunds hold, and the rows that a refund must have there.
struct IndexTable {
    name: &'static str,
    /// Columns besides `ordinal`.
    columns: &'static [&'static str],
    expected: fn(&StoredRefund) -> Vec<IndexRow>,
}

/// A row of an [`IndexTable`].
struct IndexRow {
    values: Vec<Value>,
    /// It holds until a set time, so a later refund may have replaced it.
    is_temporary: bool,
}

const INDEX_TABLES: [IndexTable; 3] = [
    IndexTable { name: "reservations", columns: &["key", "login", "until_time"], expected: reservations_of },
    IndexTable { name: "refund_references", columns: &["reference"], expected: references_of },
    IndexTable {
        name: "similarity",
        columns: &["key", "login", "until_time", "firm_until_time"],
        expected: similarities_of,
    },
];

const DISPATCHING: &str = State::Dispatching.as_str();

pub(super) fn check(connection: &Connection, findings: &mut Findings) -> RefundsRead {
    let mut read = RefundsRead::default();
    let mut spent = Spent::default();
    findings.pass("spending_subjects", |_| spent.read_subjects(connection));
    findings.pass("refunds", |findings| check_refunds(connection, findings, &mut read, &mut spent));
    findings.pass("spending", |findings| spent.check(connection, findings));
    for table in &INDEX_TABLES {
        findings.pass(table.name, |findings| check_no_extra_rows(connection, table, findings));
    }
    findings.pass("clock_disorder", |findings| check_clock_disorder(connection, findings));
    findings.pass("access_files", |findings| check_access_files(connection, findings));
    findings.pass("ledger_identity", |findings| check_identity(connection, findings));
    read
}

fn check_identity(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let rows: i64 = connection.query_row("SELECT count(*) FROM ledger_identity", [], |row| row.get(0))?;
    if rows != 1 {
        findings.add("ledger_identity", "only_row 1", "id", "is missing");
    }
    Ok(())
}

/// Each access file under its own digest.
fn check_access_files(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut files = connection.prepare("SELECT digest, text FROM access_files ORDER BY digest")?;
    let mut rows = files.query([])?;
    while let Some(row) = rows.next()? {
        let (digest, text): (String, String) = (row.get(0)?, row.get(1)?);
        if hex(&Sha256::digest(text.as_bytes())) != digest {
            findings.add("access_files", format!("digest {digest}"), "text", "is not the text of this digest");
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// If it is too small, pages by time miss refunds.
fn check_clock_disorder(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let (kept, latest): (Option<i64>, Option<i64>) = connection.query_row(
        "SELECT (SELECT max_micros FROM clock_disorder), \
         max((SELECT overtaken FROM clock_disorder), (SELECT create_time FROM refunds ORDER BY ordinal DESC LIMIT 1))",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (found, latest_found): (i64, Option<i64>) = connection.query_row(
        "SELECT coalesce(max(latest - create_time), 0), max(latest) \
         FROM (SELECT create_time, max(create_time) OVER (ORDER BY ordinal) AS latest FROM refunds) AS walked",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut add = |column, problem| findings.add("clock_disorder", "only_row 1", column, problem);
    match kept {
        None => add("max_micros", format!("is missing, and refunds are {found} out of order")),
        Some(kept) if kept < found => add("max_micros", format!("is {kept}, and refunds are {found} out of order")),
        Some(_) if found > 0 && latest != latest_found => {
            add("overtaken", format!("does not lead to the latest create_time, {}", text_or_null(latest_found)));
        }
        Some(_) => {}
    }
    Ok(())
}

/// What the refunds of each subject in `spending_subjects` count, computed again.
#[derive(Default)]
struct Spent(BTreeMap<String, (i64, Sums)>);

impl Spent {
    fn read_subjects(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut subjects = connection.prepare("SELECT subject, from_hour FROM spending_subjects")?;
        let mut rows = subjects.query([])?;
        while let Some(row) = rows.next()? {
            self.0.insert(row.get(0)?, (row.get(1)?, Sums::new()));
        }
        Ok(())
    }

    fn add(&mut self, refund: &Refund) {
        if self.0.is_empty() {
            return;
        }
        for subject in spending::subjects(refund.created_by.as_deref(), &refund.intent.account) {
            if let Some((from, sums)) = self.0.get_mut(&subject.key())
                && *from <= limits::hour_of(refund.create_time)
            {
                spending::add_to(sums, refund);
            }
        }
    }

    fn check(mut self, connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
        let mut kept = connection.prepare("SELECT subject, hour, currency, refunds, minor_units FROM spending")?;
        let mut rows = kept.query([])?;
        while let Some(row) = rows.next()? {
            let (subject, hour, currency): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (refunds, minor_units): (i64, i64) = (row.get(3)?, row.get(4)?);
            let place = format!("subject {subject}, hour {hour}, currency {currency}");
            let Some((_, sums)) = self.0.get_mut(&subject) else {
                findings.add("spending", place, "subject", "is not in spending_subjects");
                continue;
            };
            let (expected, sum) = sums.remove(&(hour, currency)).unwrap_or_default();
            if u64::try_from(refunds) != Ok(expected) {
                findings.add("spending", &place, "refunds", format!("is {refunds}, and the refunds are {expected}"));
            }
            if minor_units != sum {
                let problem = format!("is {minor_units}, and the refunds count {sum}");
                findings.add("spending", &place, "minor_units", problem);
            }
        }
        for (subject, (_, missing)) in self.0 {
            for ((hour, currency), (refunds, _)) in missing {
                let place = format!("subject {subject}, hour {hour}, currency {currency}");
                findings.add("spending", place, "hour", format!("is missing, and {refunds} refunds count there"));
            }
        }
        Ok(())
    }
}

fn check_refunds(
    connection: &Connection,
    findings: &mut Findings,
    read: &mut RefundsRead,
    spent: &mut Spent,
) -> rusqlite::Result<()> {
    let mut refunds = connection.prepare(&format!("SELECT {} FROM refunds ORDER BY ordinal", rows::refund_select()))?;
    let mut rows = refunds.query([])?;
    let mut last = 0_i64;
    while let Some(row) = rows.next()? {
        let ordinal: i64 = row.get(0)?;
        let place = format!("ordinal {ordinal}");
        if ordinal != last.saturating_add(1) {
            findings.add("refunds", &place, "ordinal", format!("follows {last}: refunds are missing"));
        }
        last = ordinal;
        read.refunds = read.refunds.saturating_add(1);
        let stored = match rows::refund(row) {
            Ok(stored) => {
                spent.add(&stored.refund);
                Some(stored)
            }
            Err(error) => {
                findings.add_error("refunds", &place, error);
                None
            }
        };
        // One refund whose events cannot be read does not hide the next.
        findings.pass("events", |findings| {
            let attempts = check_refund(connection, ordinal, stored.as_ref(), findings)?;
            read.attempts = read.attempts.saturating_add(attempts);
            Ok(())
        });
    }
    Ok(())
}

/// Returns how many attempts the refund's events begin.
fn check_refund(
    connection: &Connection,
    ordinal: i64,
    stored: Option<&StoredRefund>,
    findings: &mut Findings,
) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, revision, event_time, from_state, to_state, kind, attempt, note, refund_digest FROM events \
         WHERE ordinal = ?1 ORDER BY revision",
    )?;
    let events: Result<Vec<EventRow>, rusqlite::Error> =
        statement.query_map(params![ordinal], EventRow::read)?.collect();
    let events = match events {
        Ok(events) => events,
        // The check of the chain reports a value of another type.
        Err(rusqlite::Error::InvalidColumnType(..)) => return Ok(0),
        Err(error) => return Err(error),
    };
    check_continuity(&events, findings);
    let attempts = check_attempts(&events, findings);
    if let Some(stored) = stored {
        check_row(&events, &attempts, stored, findings);
        for table in &INDEX_TABLES {
            check_expected_rows(connection, table, stored, findings)?;
        }
    }
    Ok(u64::try_from(attempts.begun.len()).unwrap_or(u64::MAX))
}

/// A refund's history has no gaps, and each event begins in the state where the one before it
/// ended.
fn check_continuity(events: &[EventRow], findings: &mut Findings) {
    let mut before: Option<&EventRow> = None;
    for event in events {
        let row = format!("sequence {}", event.sequence);
        let (revision, state, time) = match before {
            None => (1, None, i64::MIN),
            Some(before) => (before.revision.saturating_add(1), Some(before.to.as_str()), before.time),
        };
        if event.revision != revision {
            let problem =
                format!("is {}, where {revision} is expected: events of this refund are missing", event.revision);
            findings.add("events", &row, "revision", problem);
        } else if event.from.as_deref() != state {
            let (is, was) = (event.from.as_deref().unwrap_or("NULL"), state.unwrap_or("NULL"));
            findings.add("events", &row, "from_state", format!("is {is}, and the event before ended with {was}"));
        }
        if event.time < time {
            findings.add("events", &row, "event_time", "is earlier than that of the event before");
        }
        if let Some(before) = before
            && before.refund_digest.is_none()
            && before.sequence.saturating_add(1) != event.sequence
        {
            let row = format!("sequence {}", before.sequence);
            findings.add("events", row, "refund_digest", "is NULL, and the next event is not of the same transaction");
        }
        if before.is_some_and(|before| before.sequence >= event.sequence) {
            findings.add("events", &row, "sequence", "is lower than that of an earlier revision");
        }
        before = Some(event);
    }
}

fn check_row(events: &[EventRow], attempts: &Attempts, stored: &StoredRefund, findings: &mut Findings) {
    let refund = &stored.refund;
    let place = format!("ordinal {}", stored.ordinal);
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return findings.add("refunds", place, "ordinal", "has no history");
    };
    let mut is_reported = false;
    let mut compare = |column: &str, found: String, expected: String| {
        if found != expected {
            is_reported = true;
            findings.add("refunds", &place, column, format!("is {found}, and the history has {expected}"));
        }
    };
    compare("state", refund.state.to_string(), last.to.clone());
    compare("revision", refund.revision.to_string(), last.revision.to_string());
    compare("update_time", refund.update_time.as_micros().to_string(), last.time.to_string());
    compare("create_time", refund.create_time.as_micros().to_string(), first.time.to_string());
    compare("attempt_count", refund.attempt_count.to_string(), attempts.begun.len().to_string());
    compare("unanswered_attempts", refund.unanswered_attempts.to_string(), attempts.unanswered.to_string());
    let last_dispatch = refund.last_dispatch_time.map(Timestamp::as_micros);
    if usize::try_from(refund.attempt_count) == Ok(attempts.begun.len()) {
        compare("last_dispatch_time", text_or_null(last_dispatch), text_or_null(attempts.begun.last().copied()));
    }
    if let Some(first) = refund.dispatch_time.map(Timestamp::as_micros)
        && !attempts.begun.is_empty()
        && !attempts.begun.contains(&first)
    {
        compare("dispatch_time", first.to_string(), "no attempt that began then".to_owned());
    }
    if let Some(complete) = refund.complete_time {
        // A refund that is corrected later was complete before.
        let ended = events.iter().find(|event| State::parse(&event.to).is_some_and(State::is_terminal)).unwrap_or(last);
        compare("complete_time", complete.as_micros().to_string(), ended.time.to_string());
    }
    if !is_reported && last.refund_digest.as_deref() != Some(hash_chain::digest_of(stored).as_slice()) {
        let problem = format!("is not what the history recorded at revision {}", last.revision);
        findings.add("refunds", &place, "(row)", problem);
    }
}

/// Each attempt begins once and ends once, and both events name it. That it ends before another
/// begins follows from [`check_continuity`]. Replays what the events say about attempts.
fn check_attempts(events: &[EventRow], findings: &mut Findings) -> Attempts {
    let mut attempts = Attempts::default();
    for event in events {
        let row = format!("sequence {}", event.sequence);
        let (ends, begins) = (event.from.as_deref() == Some(DISPATCHING), event.to == DISPATCHING);
        let kind = EventKind::parse(&event.kind);
        if ends && !kind.is_some_and(EventKind::ends_attempt) {
            findings.add("events", &row, "kind", format!("is {}, which ends no attempt", event.kind));
        }
        if begins && attempts.is_in_flight {
            findings.add("events", &row, "to_state", "is DISPATCHING, and an attempt was in flight already");
        }
        if begins && !kind.is_some_and(EventKind::begins_attempt) {
            findings.add("events", &row, "kind", format!("is {}, which begins no attempt", event.kind));
        }
        if begins {
            attempts.begun.push(event.time);
        }
        attempts.is_in_flight = begins;
        let number = if ends || begins { i64::try_from(attempts.begun.len()).unwrap_or(i64::MAX) } else { 0 };
        if event.attempt != number {
            findings.add("events", &row, "attempt", format!("is {}, where {number} is expected", event.attempt));
        }
        attempts.unanswered = match kind {
            Some(EventKind::Doubted) if event.note.as_deref().is_some_and(history::says_not_processed) => {
                attempts.unanswered
            }
            Some(EventKind::Doubted | EventKind::Interrupted) => attempts.unanswered.saturating_add(1),
            Some(EventKind::Resolved) if begins => attempts.unanswered.max(1),
            Some(EventKind::Accepted | EventKind::Refunded | EventKind::Refused | EventKind::Corrected) => 0,
            _ => attempts.unanswered,
        };
    }
    attempts
}

/// Reports what a refund should hold and does not.
fn check_expected_rows(
    connection: &Connection,
    table: &IndexTable,
    stored: &StoredRefund,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let conditions: Vec<String> =
        table.columns.iter().zip(1..).map(|(column, number)| format!("{column} IS ?{number}")).collect();
    let last = table.columns.len() + 1;
    let sql = format!("SELECT count(*) FROM {} WHERE {} AND ordinal = ?{last}", table.name, conditions.join(" AND "));
    let mut statement = connection.prepare_cached(&sql)?;
    for IndexRow { values, is_temporary } in (table.expected)(stored) {
        let row = row_text(table, &values, stored.ordinal);
        let key = values.first().cloned().unwrap_or(Value::Null);
        let values = values.into_iter().chain([Value::Integer(stored.ordinal)]);
        let found: i64 = statement.query_row(rusqlite::params_from_iter(values), |row| row.get(0))?;
        if found == 0 && !(is_temporary && is_held_by_a_later_one(connection, &key, stored.ordinal)?) {
            findings.add(table.name, row, "ordinal", format!("is missing, and refund {} needs it", stored.ordinal));
        }
    }
    Ok(())
}

fn is_held_by_a_later_one(connection: &Connection, key: &Value, ordinal: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM reservations WHERE key = ?1 AND ordinal > ?2) \
               OR EXISTS (SELECT 1 FROM refund_references a JOIN refund_references b ON a.reference = b.reference \
               WHERE a.ordinal = ?2 AND b.ordinal > ?2)";
    connection.prepare_cached(sql)?.query_row(params![key, ordinal], |row| row.get(0))
}

/// Reports what is held and should not be.
fn check_no_extra_rows(connection: &Connection, table: &IndexTable, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut all = connection.prepare(&format!("SELECT ordinal, {} FROM {}", table.columns.join(", "), table.name))?;
    let mut holder =
        connection.prepare(&format!("SELECT {} FROM refunds WHERE ordinal = ?1", rows::refund_select()))?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let ordinal: i64 = row.get(0)?;
        let values: Vec<Value> =
            (1..=table.columns.len()).map(|column| row.get(column)).collect::<rusqlite::Result<_>>()?;
        let mut found = holder.query(params![ordinal])?;
        // A refund that is missing or cannot be decoded is reported already.
        let Some(Ok(stored)) = found.next()?.map(rows::refund) else { continue };
        if !(table.expected)(&stored).iter().any(|row| row.values == values) {
            let problem = format!("refund {ordinal} ({}) does not hold this", stored.refund.state);
            findings.add(table.name, row_text(table, &values, ordinal), "ordinal", problem);
        }
    }
    Ok(())
}

/// The row's key, without the login.
fn row_text(table: &IndexTable, key: &[Value], ordinal: i64) -> String {
    let parts =
        table.columns.iter().zip(key).filter(|(column, _)| **column != "login").map(|(column, value)| match value {
            Value::Text(text) => format!("{column} {text}, "),
            Value::Integer(number) => format!("{column} {number}, "),
            Value::Null => String::new(),
            _ => format!("{column} (unreadable), "),
        });
    format!("{}ordinal {ordinal}", parts.collect::<String>())
}

fn reservations_of(stored: &StoredRefund) -> Vec<IndexRow> {
    let row = |Reservation { key, until }| IndexRow {
        values: vec![Value::Text(key), login_of(stored), time_or_null(until)],
        is_temporary: until.is_some(),
    };
    stored.refund.reservations().into_iter().map(row).collect()
}

fn references_of(stored: &StoredRefund) -> Vec<IndexRow> {
    let references = stored.refund.intent.target.index_references();
    references.into_iter().map(|text| IndexRow { values: vec![Value::Text(text)], is_temporary: false }).collect()
}

fn similarities_of(stored: &StoredRefund) -> Vec<IndexRow> {
    let target = &stored.refund.intent.target;
    let SimilarityWindow { until, firm_until } = stored.refund.similarity_window();
    let row = |reference: String| IndexRow {
        values: vec![
            Value::Text(target.similarity_key(&reference)),
            login_of(stored),
            Value::Integer(until.as_micros()),
            time_or_null(firm_until),
        ],
        is_temporary: false,
    };
    target.payee_references().into_iter().map(row).collect()
}

fn text_or_null(number: Option<i64>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}

fn login_of(stored: &StoredRefund) -> Value {
    Value::Text(stored.refund.place.login.clone())
}

fn time_or_null(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Null, |time| Value::Integer(time.as_micros()))
}

impl EventRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sequence: row.get(0)?,
            revision: row.get(1)?,
            time: row.get(2)?,
            from: row.get(3)?,
            to: row.get(4)?,
            kind: row.get(5)?,
            attempt: row.get(6)?,
            note: row.get(7)?,
            refund_digest: row.get(8)?,
        })
    }
}
