//! The chain of events, line by line. Each line is held against the one before it as that stands in
//! the file, so one edited line is one finding and not one for every line after it.

use rusqlite::{Connection, Row};

use super::{Findings, HistorySeen};
use crate::ledger::sqlite::chain::{ChainHead, EventHashInput, Hash};
use crate::ledger::sqlite::rows::{self, EVENT_COLUMNS, StoredEvent};

pub(super) fn check(connection: &Connection, findings: &mut Findings) -> HistorySeen {
    let mut seen = HistorySeen { events: 0, last_sequence: 0, last_hash: ChainHead::EMPTY.hash };
    findings.pass("events", |findings| follow(connection, findings, &mut seen));
    seen
}

fn follow(connection: &Connection, findings: &mut Findings, seen: &mut HistorySeen) -> rusqlite::Result<()> {
    // A line whose refund is gone is still a line.
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM events e LEFT JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence"
    );
    let mut lines = connection.prepare(&sql)?;
    let mut rows = lines.query([])?;
    // None: what stands before this line is not what the chain was made of.
    let mut before = Some(ChainHead::EMPTY);
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let place = format!("sequence {sequence}");
        let number = u64::try_from(sequence).unwrap_or(0);
        let expected = seen.last_sequence.saturating_add(1);
        if number != expected {
            findings.add(
                "events",
                &place,
                "sequence",
                format!("verify_link on {}: lines are missing", seen.last_sequence),
            );
            before = None;
        }
        seen.events = seen.events.saturating_add(1);
        seen.last_sequence = number;
        let orphaned = row.get_ref(1)?.data_type() == rusqlite::types::Type::Null;
        let hash = stored_hash(row);
        match rows::event(row) {
            Ok(event) => {
                if before.is_some_and(|before| hash_of(&event, before) != event.record.chain_hash) {
                    findings.add(
                        "events",
                        &place,
                        "chain_hash",
                        "does not follow from this line and the one before it",
                    );
                }
            }
            // That its refund is not there has been told with the foreign keys.
            Err(_) if orphaned => {}
            Err(fault) => findings.add_fault("events", &place, fault),
        }
        before = hash.map(|hash| ChainHead { sequence: number, hash });
        seen.last_hash = hash.unwrap_or(ChainHead::EMPTY.hash);
    }
    Ok(())
}

fn hash_of(event: &StoredEvent, before: ChainHead) -> Hash {
    let record = &event.record;
    let line = EventHashInput {
        refund: &record.refund,
        revision: record.revision,
        time_micros: record.time.as_micros(),
        from: record.from,
        to: record.to,
        kind: record.kind,
        attempt: record.attempt,
        actor: &record.actor,
        note: &record.note,
        refund_digest: &event.refund_digest,
    };
    before.after(&line).hash
}

fn stored_hash(row: &Row<'_>) -> Option<Hash> {
    let bytes: Vec<u8> = row.get(11).ok()?;
    bytes.try_into().ok()
}
