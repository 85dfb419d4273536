//! The chain of events. Each event is compared with the one before it as it is stored, so one
//! edited event is one finding and not one for every event after it.

use rusqlite::{Connection, Row};

use super::{Findings, HistoryRead};
use crate::ledger::hash_chain::{ChainHead, EventHashInput, Hash};
use crate::ledger::sqlite::rows::{self, EVENT_SELECT};

pub(super) fn check(connection: &Connection, findings: &mut Findings) -> HistoryRead {
    let mut read = HistoryRead { events: 0, last_sequence: 0, last_hash: ChainHead::EMPTY.hash };
    findings.pass("events", |findings| check_chain(connection, findings, &mut read));
    read
}

fn check_chain(connection: &Connection, findings: &mut Findings, read: &mut HistoryRead) -> rusqlite::Result<()> {
    // An event whose refund is missing is read too.
    let sql =
        format!("SELECT {EVENT_SELECT} FROM events e LEFT JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    // None: the event before this one is missing or unreadable.
    let mut before = Some(ChainHead::EMPTY);
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let place = format!("sequence {sequence}");
        let number = u64::try_from(sequence).unwrap_or(0);
        let expected = read.last_sequence.saturating_add(1);
        if number != expected {
            findings.add("events", &place, "sequence", format!("follows {}: events are missing", read.last_sequence));
            before = None;
        }
        read.events = read.events.saturating_add(1);
        read.last_sequence = number;
        let orphaned = row.get_ref(1)?.data_type() == rusqlite::types::Type::Null;
        let hash = stored_hash(row);
        match rows::event(row) {
            Ok(event) => {
                if before
                    .is_some_and(|before| before.after(&EventHashInput::of(&event)).hash != event.record.chain_hash)
                {
                    findings.add(
                        "events",
                        &place,
                        "chain_hash",
                        "does not follow from this event and the one before it",
                    );
                }
            }
            // The check of the foreign keys reports the missing refund.
            Err(_) if orphaned => {}
            Err(error) => findings.add_error("events", &place, error),
        }
        before = hash.map(|hash| ChainHead { sequence: number, hash });
        read.last_hash = hash.unwrap_or(ChainHead::EMPTY.hash);
    }
    Ok(())
}

fn stored_hash(row: &Row<'_>) -> Option<Hash> {
    let bytes: Vec<u8> = row.get("chain_hash").ok()?;
    bytes.try_into().ok()
}
