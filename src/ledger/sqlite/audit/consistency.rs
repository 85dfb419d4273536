//! Every refund's row, attempts and holdings against its history.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Findings, StandingSeen, count};
use crate::domain::clock::Timestamp;
use crate::domain::refund::{Reservation, SimilarityWindow};
use crate::domain::state::State;
use crate::ledger::sqlite::rows::{self, StoredRefund};

/// One line of a refund's history, read leniently: what is strange about it has been told with the
/// chain.
struct EventLine {
    sequence: i64,
    revision: i64,
    time: i64,
    from: Option<String>,
    to: String,
    kind: String,
    note: String,
    refund_digest: Vec<u8>,
}

/// One attempt as the history has it.
struct AttemptFromEvents<'a> {
    begins: &'a EventLine,
    ends: Option<&'a EventLine>,
}

/// One attempt as its row has it.
struct Attempt {
    number: i64,
    dispatch_time: i64,
    end_time: Option<i64>,
    outcome: Option<String>,
    doubt_reason: Option<String>,
    doubt_evidence: Option<String>,
}

/// A table of what refunds hold: its rows, and those that a refund must have there.
struct IndexTable {
    table: &'static str,
    /// Columns besides `ordinal`.
    columns: &'static [&'static str],
    held: fn(&StoredRefund) -> Vec<Row>,
}

/// What one refund holds: a row of a [`IndexTable`].
struct Row {
    values: Vec<Value>,
    /// It holds until a set time: a later refund may have taken its place since.
    gives_way: bool,
}

const HOLDINGS: [IndexTable; 3] = [
    IndexTable { table: "reservations", columns: &["key", "login", "until_time"], held: reservations_of },
    IndexTable { table: "refund_references", columns: &["reference"], held: references_of },
    IndexTable {
        table: "similarity",
        columns: &["key", "login", "until_time", "firm_until_time"],
        held: similarities_of,
    },
];

const DISPATCHING: &str = State::Dispatching.as_str();

pub(super) fn check(connection: &Connection, findings: &mut Findings) -> StandingSeen {
    let mut refunds = 0_u64;
    findings.pass("refunds", |findings| each_refund(connection, findings, &mut refunds));
    for holding in &HOLDINGS {
        findings.pass(holding.table, |findings| each_holding(connection, holding, findings));
    }
    findings.pass("disorder", |findings| disorder(connection, findings));
    StandingSeen { refunds, attempts: count(connection, "attempts") }
}

/// Pages by time rest on it: were it too small, they would miss refunds.
fn disorder(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let (kept, found): (Option<i64>, i64) = connection.query_row(
        "SELECT (SELECT most_micros FROM disorder), coalesce(max(latest - create_time), 0) \
         FROM (SELECT create_time, max(create_time) OVER (ORDER BY ordinal) AS latest FROM refunds) AS walked",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if kept.is_none_or(|kept| kept < found) {
        let kept = kept.map_or_else(|| "missing".to_owned(), |kept| kept.to_string());
        findings.add(
            "disorder",
            "only_row 1",
            "most_micros",
            format!("is {kept}, and refunds are {found} out of order"),
        );
    }
    Ok(())
}

fn each_refund(connection: &Connection, findings: &mut Findings, seen: &mut u64) -> rusqlite::Result<()> {
    let mut refunds =
        connection.prepare(&format!("SELECT {} FROM refunds ORDER BY ordinal", rows::refund_columns()))?;
    let mut rows = refunds.query([])?;
    let mut last = 0_i64;
    while let Some(row) = rows.next()? {
        let ordinal: i64 = row.get(0)?;
        let place = format!("ordinal {ordinal}");
        if ordinal != last.saturating_add(1) {
            findings.add("refunds", &place, "ordinal", format!("verify_link on {last}: refunds are missing"));
        }
        last = ordinal;
        *seen = seen.saturating_add(1);
        let stored = match rows::stored(row) {
            Ok(stored) => Some(stored),
            Err(fault) => {
                findings.add_fault("refunds", &place, fault);
                None
            }
        };
        // One refund whose lines or attempts cannot be read does not hide the next.
        findings.pass("events", |findings| one_refund(connection, ordinal, stored.as_ref(), findings));
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

fn one_refund(
    connection: &Connection,
    ordinal: i64,
    stored: Option<&StoredRefund>,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, revision, event_time, from_state, to_state, kind, note, refund_digest FROM events \
         WHERE ordinal = ?1 ORDER BY revision",
    )?;
    let lines: Result<Vec<EventLine>, rusqlite::Error> =
        statement.query_map(params![ordinal], EventLine::read)?.collect();
    let lines = match lines {
        Ok(lines) => lines,
        // A value of another type: told with the chain.
        Err(rusqlite::Error::InvalidColumnType(..)) => return Ok(()),
        Err(error) => return Err(error),
    };
    continuity(&lines, findings);
    if let Some(stored) = stored {
        row_against(&lines, stored, findings);
        for holding in &HOLDINGS {
            holds(connection, holding, stored, findings)?;
        }
    }
    attempts_against(connection, ordinal, &lines, findings)
}

/// A history without gaps, each line of which begins where the one before it ended.
fn continuity(lines: &[EventLine], findings: &mut Findings) {
    let mut before: Option<&EventLine> = None;
    for line in lines {
        let place = format!("sequence {}", line.sequence);
        let (revision, state, time) = match before {
            None => (1, None, i64::MIN),
            Some(before) => (before.revision.saturating_add(1), Some(before.to.as_str()), before.time),
        };
        if line.revision != revision {
            let problem =
                format!("is {}, where {revision} verify_link: lines of this refund are missing", line.revision);
            findings.add("events", &place, "revision", problem);
        } else if line.from.as_deref() != state {
            let (is, was) = (line.from.as_deref().unwrap_or("NULL"), state.unwrap_or("NULL"));
            findings.add("events", &place, "from_state", format!("is {is}, and the line before ended with {was}"));
        }
        if line.time < time {
            findings.add("events", &place, "event_time", "lies before that of the line before");
        }
        if before.is_some_and(|before| before.sequence >= line.sequence) {
            findings.add("events", &place, "sequence", "lies before that of an earlier revision");
        }
        before = Some(line);
    }
}

fn row_against(lines: &[EventLine], stored: &StoredRefund, findings: &mut Findings) {
    let refund = &stored.refund;
    let place = format!("ordinal {}", stored.ordinal);
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return findings.add("refunds", place, "ordinal", "has no history");
    };
    let mut named = false;
    let mut compare = |column: &str, is: String, told: String| {
        if is != told {
            named = true;
            findings.add("refunds", &place, column, format!("is {is}, and the history has {told}"));
        }
    };
    compare("state", refund.state.to_string(), last.to.clone());
    compare("revision", refund.revision.to_string(), last.revision.to_string());
    compare("update_time", refund.update_time.as_micros().to_string(), last.time.to_string());
    compare("create_time", refund.create_time.as_micros().to_string(), first.time.to_string());
    compare("attempt_count", refund.attempt_count.to_string(), told_attempts(lines).len().to_string());
    if let Some(complete) = refund.complete_time {
        // What is corrected later was complete before.
        let ended = lines.iter().find(|line| State::parse(&line.to).is_some_and(State::is_terminal)).unwrap_or(last);
        compare("complete_time", complete.as_micros().to_string(), ended.time.to_string());
    }
    if !named && last.refund_digest != stored.digest() {
        let problem = format!("is not what the history recorded at revision {}", last.revision);
        findings.add("refunds", &place, "(row)", problem);
    }
}

fn attempts_against(
    connection: &Connection,
    ordinal: i64,
    lines: &[EventLine],
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT number, dispatch_time, end_time, outcome, doubt_reason, doubt_evidence FROM attempts \
         WHERE ordinal = ?1 ORDER BY number",
    )?;
    let mut rows = statement.query(params![ordinal])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        match Attempt::read(row) {
            Ok(attempt) => attempts.push(attempt),
            Err(rusqlite::Error::InvalidColumnType(_, column, found)) => {
                let number: i64 = row.get(0).unwrap_or(0);
                let place = format!("ordinal {ordinal}, number {number}");
                findings.add("attempts", place, column, format!("is {found}, which it never is"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    let told = told_attempts(lines);
    for (told, number) in told.iter().zip(1_i64..) {
        let place = format!("ordinal {ordinal}, number {number}");
        match attempts.iter().find(|attempt| attempt.number == number) {
            Some(attempt) => attempt.against(told, &place, findings),
            None => {
                let problem = format!("is missing: the history has it begin at sequence {}", told.begins.sequence);
                findings.add("attempts", place, "number", problem);
            }
        }
    }
    let known = i64::try_from(told.len()).unwrap_or(i64::MAX);
    for attempt in attempts.iter().filter(|attempt| !(1..=known).contains(&attempt.number)) {
        let place = format!("ordinal {ordinal}, number {}", attempt.number);
        findings.add("attempts", place, "number", "no line of the history has it begin");
    }
    Ok(())
}

/// Each line that leads to DISPATCHING begins an attempt, and the next one from there ends it.
fn told_attempts(lines: &[EventLine]) -> Vec<AttemptFromEvents<'_>> {
    let mut told = Vec::new();
    for line in lines {
        if line.from.as_deref() == Some(DISPATCHING)
            && let Some(AttemptFromEvents { ends, .. }) = told.last_mut()
        {
            *ends = Some(line);
        }
        if line.to == DISPATCHING {
            told.push(AttemptFromEvents { begins: line, ends: None });
        }
    }
    told
}

/// Notes what a refund should hold and does not.
fn holds(
    connection: &Connection,
    holding: &IndexTable,
    stored: &StoredRefund,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let conditions: Vec<String> =
        holding.columns.iter().zip(1..).map(|(column, place)| format!("{column} IS ?{place}")).collect();
    let place = holding.columns.len() + 1;
    let sql =
        format!("SELECT count(*) FROM {} WHERE {} AND ordinal = ?{place}", holding.table, conditions.join(" AND "));
    let mut statement = connection.prepare_cached(&sql)?;
    for Row { values, gives_way } in (holding.held)(stored) {
        let row = row_text(holding, &values, stored.ordinal);
        let key = values.first().cloned().unwrap_or(Value::Null);
        let values = values.into_iter().chain([Value::Integer(stored.ordinal)]);
        let found: i64 = statement.query_row(rusqlite::params_from_iter(values), |row| row.get(0))?;
        if found == 0 && !(gives_way && is_held_by_a_later_one(connection, &key, stored.ordinal)?) {
            findings.add(holding.table, row, "ordinal", format!("is missing, and refund {} needs it", stored.ordinal));
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

/// Notes what is held and should not be.
fn each_holding(connection: &Connection, holding: &IndexTable, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut all =
        connection.prepare(&format!("SELECT ordinal, {} FROM {}", holding.columns.join(", "), holding.table))?;
    let mut holder =
        connection.prepare(&format!("SELECT {} FROM refunds WHERE ordinal = ?1", rows::refund_columns()))?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let ordinal: i64 = row.get(0)?;
        let values: Vec<Value> =
            (1..=holding.columns.len()).map(|column| row.get(column)).collect::<rusqlite::Result<_>>()?;
        let mut found = holder.query(params![ordinal])?;
        // A refund that is not there or is strange has been told already.
        let Some(Ok(stored)) = found.next()?.map(rows::stored) else { continue };
        if !(holding.held)(&stored).iter().any(|row| row.values == values) {
            let problem = format!("refund {ordinal} ({}) does not hold this", stored.refund.state);
            findings.add(holding.table, row_text(holding, &values, ordinal), "ordinal", problem);
        }
    }
    Ok(())
}

/// Without the login.
fn row_text(holding: &IndexTable, key: &[Value], ordinal: i64) -> String {
    let shown =
        holding.columns.iter().zip(key).filter(|(column, _)| **column != "login").map(|(column, value)| match value {
            Value::Text(text) => format!("{column} {text}, "),
            Value::Integer(number) => format!("{column} {number}, "),
            Value::Null => String::new(),
            _ => format!("{column} (strange), "),
        });
    format!("{}ordinal {ordinal}", shown.collect::<String>())
}

fn reservations_of(stored: &StoredRefund) -> Vec<Row> {
    let row = |Reservation { key, until }| Row {
        values: vec![Value::Text(key), login_of(stored), time_or_null(until)],
        gives_way: until.is_some(),
    };
    stored.refund.reservations().into_iter().map(row).collect()
}

fn references_of(stored: &StoredRefund) -> Vec<Row> {
    let references = stored.refund.intent.target.index_references();
    references.into_iter().map(|text| Row { values: vec![Value::Text(text)], gives_way: false }).collect()
}

fn similarities_of(stored: &StoredRefund) -> Vec<Row> {
    let target = &stored.refund.intent.target;
    let SimilarityWindow { until, firm_until } = stored.refund.similarity_window();
    let row = |reference: String| Row {
        values: vec![
            Value::Text(target.similarity_key(&reference)),
            login_of(stored),
            Value::Integer(until.as_micros()),
            time_or_null(firm_until),
        ],
        gives_way: false,
    };
    target.payee_references().into_iter().map(row).collect()
}

fn login_of(stored: &StoredRefund) -> Value {
    Value::Text(stored.refund.place.login.clone())
}

fn time_or_null(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Null, |time| Value::Integer(time.as_micros()))
}

impl EventLine {
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

impl Attempt {
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

    fn against(&self, told: &AttemptFromEvents<'_>, place: &str, findings: &mut Findings) {
        let mut finding = |column: &str, problem: String| findings.add("attempts", place, column, problem);
        if self.dispatch_time != told.begins.time {
            let problem = format!("is {}, and the history has it begin at {}", self.dispatch_time, told.begins.time);
            finding("dispatch_time", problem);
        }
        let Some(ends) = told.ends else {
            if self.end_time.is_some() {
                finding("end_time", "is set, and the history has it on its way".to_owned());
            }
            return;
        };
        match self.end_time {
            None => {
                return finding("end_time", format!("is NULL, and the history ended it at sequence {}", ends.sequence));
            }
            Some(time) if time != ends.time => {
                finding("end_time", format!("is {time}, and the history has it end at {}", ends.time));
            }
            Some(_) => {}
        }
        let expected = match ends.kind.as_str() {
            "doubted" | "interrupted" => "unknown",
            other => other,
        };
        let outcome = self.outcome.as_deref().unwrap_or("NULL");
        if outcome != expected {
            finding("outcome", format!("is {outcome}, and the history ended it with {}", ends.kind));
        }
        if ends.kind == "interrupted" && self.doubt_reason.as_deref() != Some("gateway_restarted") {
            finding("doubt_reason", "is not that of a gateway that stopped".to_owned());
        }
        if ends.kind == "doubted"
            && self.doubt_evidence.as_ref().is_some_and(|evidence| !ends.note.contains(evidence.as_str()))
        {
            finding("doubt_evidence", format!("is not what the history tells at sequence {}", ends.sequence));
        }
    }
}
