//! Every refund's row, attempts and holdings against its history.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Findings, RefundsRead, count};
use crate::domain::clock::Timestamp;
use crate::domain::refund::{Reservation, SimilarityWindow};
use crate::domain::state::State;
use crate::ledger::encoding::StoredRefund;
use crate::ledger::hash_chain;
use crate::ledger::sqlite::rows;

/// An event of a refund, read leniently: the check of the chain reports values that do not parse.
struct EventRow {
    sequence: i64,
    revision: i64,
    time: i64,
    from: Option<String>,
    to: String,
    kind: String,
    note: String,
    refund_digest: Vec<u8>,
}

/// An attempt as the history records it.
struct AttemptFromEvents<'a> {
    begun: &'a EventRow,
    ended: Option<&'a EventRow>,
}

/// A row of `attempts`.
struct AttemptRow {
    number: i64,
    dispatch_time: i64,
    end_time: Option<i64>,
    outcome: Option<String>,
    doubt_reason: Option<String>,
    doubt_evidence: Option<String>,
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
    let mut refunds = 0_u64;
    findings.pass("refunds", |findings| check_refunds(connection, findings, &mut refunds));
    for table in &INDEX_TABLES {
        findings.pass(table.name, |findings| check_no_extra_rows(connection, table, findings));
    }
    findings.pass("clock_disorder", |findings| check_clock_disorder(connection, findings));
    RefundsRead { refunds, attempts: count(connection, "attempts") }
}

/// If it is too small, pages by time miss refunds.
fn check_clock_disorder(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let (kept, found): (Option<i64>, i64) = connection.query_row(
        "SELECT (SELECT max_micros FROM clock_disorder), coalesce(max(latest - create_time), 0) \
         FROM (SELECT create_time, max(create_time) OVER (ORDER BY ordinal) AS latest FROM refunds) AS walked",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if kept.is_none_or(|kept| kept < found) {
        let kept = kept.map_or_else(|| "missing".to_owned(), |kept| kept.to_string());
        findings.add(
            "clock_disorder",
            "only_row 1",
            "max_micros",
            format!("is {kept}, and refunds are {found} out of order"),
        );
    }
    Ok(())
}

fn check_refunds(connection: &Connection, findings: &mut Findings, read: &mut u64) -> rusqlite::Result<()> {
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
        *read = read.saturating_add(1);
        let stored = match rows::refund(row) {
            Ok(stored) => Some(stored),
            Err(error) => {
                findings.add_error("refunds", &place, error);
                None
            }
        };
        // One refund whose events or attempts cannot be read does not hide the next.
        findings.pass("events", |findings| check_refund(connection, ordinal, stored.as_ref(), findings));
    }
    let issued: Option<i64> = connection
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'refunds'", [], |row| row.get(0))
        .optional()?;
    if issued.unwrap_or(0) != last {
        let problem = format!("is {}, and the last refund is {last}", issued.unwrap_or(0));
        findings.add("sqlite_sequence", "name refunds", "seq", problem);
    }
    Ok(())
}

fn check_refund(
    connection: &Connection,
    ordinal: i64,
    stored: Option<&StoredRefund>,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, revision, event_time, from_state, to_state, kind, note, refund_digest FROM events \
         WHERE ordinal = ?1 ORDER BY revision",
    )?;
    let events: Result<Vec<EventRow>, rusqlite::Error> =
        statement.query_map(params![ordinal], EventRow::read)?.collect();
    let events = match events {
        Ok(events) => events,
        // The check of the chain reports a value of another type.
        Err(rusqlite::Error::InvalidColumnType(..)) => return Ok(()),
        Err(error) => return Err(error),
    };
    check_continuity(&events, findings);
    if let Some(stored) = stored {
        check_row(&events, stored, findings);
        for table in &INDEX_TABLES {
            check_expected_rows(connection, table, stored, findings)?;
        }
    }
    check_attempts(connection, ordinal, &events, findings)
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
        if before.is_some_and(|before| before.sequence >= event.sequence) {
            findings.add("events", &row, "sequence", "is lower than that of an earlier revision");
        }
        before = Some(event);
    }
}

fn check_row(events: &[EventRow], stored: &StoredRefund, findings: &mut Findings) {
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
    compare("attempt_count", refund.attempt_count.to_string(), attempts_of(events).len().to_string());
    if let Some(complete) = refund.complete_time {
        // A refund that is corrected later was complete before.
        let ended = events.iter().find(|event| State::parse(&event.to).is_some_and(State::is_terminal)).unwrap_or(last);
        compare("complete_time", complete.as_micros().to_string(), ended.time.to_string());
    }
    if !is_reported && last.refund_digest != hash_chain::digest_of(stored) {
        let problem = format!("is not what the history recorded at revision {}", last.revision);
        findings.add("refunds", &place, "(row)", problem);
    }
}

fn check_attempts(
    connection: &Connection,
    ordinal: i64,
    events: &[EventRow],
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT number, dispatch_time, end_time, outcome, doubt_reason, doubt_evidence FROM attempts \
         WHERE ordinal = ?1 ORDER BY number",
    )?;
    let mut rows = statement.query(params![ordinal])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        match AttemptRow::read(row) {
            Ok(attempt) => attempts.push(attempt),
            Err(rusqlite::Error::InvalidColumnType(_, column, found)) => {
                let number: i64 = row.get(0).unwrap_or(0);
                let place = format!("ordinal {ordinal}, number {number}");
                findings.add("attempts", place, column, format!("is {found}, which is not its type"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    let expected = attempts_of(events);
    for (expected, number) in expected.iter().zip(1_i64..) {
        let place = format!("ordinal {ordinal}, number {number}");
        match attempts.iter().find(|attempt| attempt.number == number) {
            Some(attempt) => attempt.check(expected, &place, findings),
            None => {
                let problem = format!("is missing: the history has it begin at sequence {}", expected.begun.sequence);
                findings.add("attempts", place, "number", problem);
            }
        }
    }
    let count = i64::try_from(expected.len()).unwrap_or(i64::MAX);
    for attempt in attempts.iter().filter(|attempt| !(1..=count).contains(&attempt.number)) {
        let place = format!("ordinal {ordinal}, number {}", attempt.number);
        findings.add("attempts", place, "number", "no event has it begin");
    }
    Ok(())
}

/// An event that leads to DISPATCHING begins an attempt, and the next one from there ends it.
fn attempts_of(events: &[EventRow]) -> Vec<AttemptFromEvents<'_>> {
    let mut attempts = Vec::new();
    for event in events {
        if event.from.as_deref() == Some(DISPATCHING)
            && let Some(AttemptFromEvents { ended, .. }) = attempts.last_mut()
        {
            *ended = Some(event);
        }
        if event.to == DISPATCHING {
            attempts.push(AttemptFromEvents { begun: event, ended: None });
        }
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
            note: row.get(6)?,
            refund_digest: row.get(7)?,
        })
    }
}

impl AttemptRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            dispatch_time: row.get(1)?,
            end_time: row.get(2)?,
            outcome: row.get(3)?,
            doubt_reason: row.get(4)?,
            doubt_evidence: row.get(5)?,
        })
    }

    fn check(&self, expected: &AttemptFromEvents<'_>, row: &str, findings: &mut Findings) {
        let mut finding = |column: &str, problem: String| findings.add("attempts", row, column, problem);
        if self.dispatch_time != expected.begun.time {
            let problem = format!("is {}, and the history has it begin at {}", self.dispatch_time, expected.begun.time);
            finding("dispatch_time", problem);
        }
        let Some(ended) = expected.ended else {
            if self.end_time.is_some() {
                finding("end_time", "is set, and the history has it in flight".to_owned());
            }
            return;
        };
        match self.end_time {
            None => {
                return finding(
                    "end_time",
                    format!("is NULL, and the history ended it at sequence {}", ended.sequence),
                );
            }
            Some(time) if time != ended.time => {
                finding("end_time", format!("is {time}, and the history has it end at {}", ended.time));
            }
            Some(_) => {}
        }
        let outcome_of_kind = match ended.kind.as_str() {
            "doubted" | "interrupted" => "unknown",
            other => other,
        };
        let outcome = self.outcome.as_deref().unwrap_or("NULL");
        if outcome != outcome_of_kind {
            finding("outcome", format!("is {outcome}, and the history ended it with {}", ended.kind));
        }
        if ended.kind == "interrupted" && self.doubt_reason.as_deref() != Some("gateway_restarted") {
            finding("doubt_reason", "is not that of an interrupted attempt".to_owned());
        }
        if ended.kind == "doubted"
            && self.doubt_evidence.as_ref().is_some_and(|evidence| !ended.note.contains(evidence.as_str()))
        {
            finding("doubt_evidence", format!("is not what the history has at sequence {}", ended.sequence));
        }
    }
}
