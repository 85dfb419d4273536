//! The ledger's file, read without the gateway: its tables with SQL, and its hash chain with the
//! ledger's own check.

use std::collections::BTreeMap;
use std::path::Path;

use recoup::domain::event::EventKind;
use recoup::ledger::LedgerAdmin as _;
use recoup::ledger::sqlite::{SqliteLedger, SqliteSettings};
use recoup::proto::v1::refund::State;
use rusqlite::{Connection, OpenFlags};

/// The ledger's tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) refunds: BTreeMap<String, RefundRow>,
    /// The origin that each refund belongs to.
    pub(crate) endpoints: BTreeMap<String, String>,
    pub(crate) attempts: BTreeMap<String, Vec<Attempt>>,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RefundRow {
    pub(crate) state: State,
    pub(crate) revision: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) number: i64,
    pub(crate) dispatched_micros: i64,
    pub(crate) ended: bool,
    pub(crate) unsent: Unsent,
}

/// Whether an attempt is recorded as one that nothing can have come of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    No,
    /// No byte of it left.
    NotSent,
    /// The provider answered that it processed nothing.
    NotProcessed,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) sequence: i64,
    pub(crate) refund: String,
    pub(crate) revision: i64,
    pub(crate) time_micros: i64,
    pub(crate) kind: EventKind,
    /// None: the gateway.
    pub(crate) actor: Option<String>,
    pub(crate) to: State,
    pub(crate) chain_hash: Vec<u8>,
}

/// Verifies the hash chain, and returns how many events it has.
pub(crate) async fn verify(ledger: &Path) -> Result<u64, String> {
    let ledger = SqliteLedger::open(ledger, SqliteSettings::default()).map_err(|error| error.to_string())?;
    let verified = ledger.verify().await.map_err(|error| error.to_string());
    ledger.close().await;
    verified
}

/// Reads the tables, from a read-only connection.
pub(crate) fn read(ledger: &Path) -> Rows {
    let connection = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows = Rows::default();
    let mut statement = connection.prepare("SELECT id, state, revision, endpoint FROM refunds").unwrap();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let refund = RefundRow { state: state(&row.get::<_, String>(1).unwrap()), revision: row.get(2).unwrap() };
        rows.refunds.insert(row.get(0).unwrap(), refund);
        rows.endpoints.insert(row.get(0).unwrap(), row.get(3).unwrap());
    }
    let mut statement = connection
        .prepare(
            "SELECT e.sequence, r.id, e.revision, e.event_time, e.to_state, e.chain_hash, e.kind, e.attempt, \
             e.from_state IS 'DISPATCHING', coalesce(e.note, ''), e.actor \
             FROM events e JOIN refunds r ON r.ordinal = e.ordinal ORDER BY e.sequence",
        )
        .unwrap();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let event = Event {
            sequence: row.get(0).unwrap(),
            refund: row.get(1).unwrap(),
            revision: row.get(2).unwrap(),
            time_micros: row.get(3).unwrap(),
            to: state(&row.get::<_, String>(4).unwrap()),
            chain_hash: row.get(5).unwrap(),
            kind: EventKind::parse(&row.get::<_, String>(6).unwrap()).unwrap(),
            actor: row.get(10).unwrap(),
        };
        let (number, ends): (i64, bool) = (row.get(7).unwrap(), row.get(8).unwrap());
        let attempts = rows.attempts.entry(event.refund.clone()).or_default();
        if ends {
            let attempt = attempts.iter_mut().find(|attempt| attempt.number == number && !attempt.ended).unwrap();
            attempt.ended = true;
            attempt.unsent = match event.kind {
                EventKind::NotSent if row.get::<_, String>(9).unwrap().contains(" was not sent: ") => Unsent::NotSent,
                EventKind::NotSent => Unsent::NotProcessed,
                _ => Unsent::No,
            };
        }
        if event.to == State::Dispatching {
            let dispatched_micros = event.time_micros;
            attempts.push(Attempt { number, dispatched_micros, ended: false, unsent: Unsent::No });
        }
        rows.events.push(event);
    }
    rows
}

/// The state with this name in the ledger.
fn state(name: &str) -> State {
    State::from_str_name(&format!("STATE_{name}")).unwrap()
}

impl Rows {
    /// When each refund was first in another state than PENDING or DISPATCHING after that time;
    /// none where one refund never was.
    pub(crate) fn known_after(&self, micros: i64) -> Option<BTreeMap<&str, i64>> {
        let mut known = BTreeMap::new();
        for event in self.events.iter().filter(|event| ![State::Pending, State::Dispatching].contains(&event.to)) {
            if event.time_micros >= micros {
                known.entry(event.refund.as_str()).or_insert(event.time_micros);
            }
        }
        (known.len() == self.refunds.len()).then_some(known)
    }

    /// Whether a refund was in doubt at any time.
    pub(crate) fn was_in_doubt(&self, id: &str) -> bool {
        self.events.iter().any(|event| event.refund == id && event.to == State::InDoubt)
    }
}
