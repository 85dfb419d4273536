//! The ledger's promises, each against a real file.

mod auditing;
mod creating;
mod failing;
mod history;
mod holding;
mod in_memory;
mod moving;
mod opening;
mod reading;
mod recording;
mod roundtrip;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::domain::event::{Decided, Event, Observation, RecordSeen, Resolution};
use crate::domain::money::{Currency, Money};
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError,
};
use crate::domain::place::Place;
use crate::domain::refund::Intent;
use crate::domain::state::State;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, NamecomTarget, SectigoTarget, Target};
use crate::ledger::{FirstAttempt, RelatedLogins, Ticket};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// A ledger in a directory of its own.
struct Bench {
    directory: TempDir,
    settings: SqliteSettings,
    ledger: SqliteLedger,
}

impl Bench {
    fn new() -> Self {
        Self::with(SqliteSettings::default())
    }

    fn with(settings: SqliteSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db"), settings.clone()).unwrap();
        Self { directory, settings, ledger }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    /// Stops the process, so to speak, and starts it again.
    fn reopened(self) -> Self {
        let Bench { directory, settings, ledger } = self;
        drop(ledger);
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db"), settings.clone()).unwrap();
        Self { directory, settings, ledger }
    }

    /// Somebody else's hand on the file.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Edits without the triggers and checks in the way.
    fn tamper(&self, sql: &str) {
        let raw = self.raw();
        raw.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;").unwrap();
        let names: Vec<String> = {
            let mut triggers = raw.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").unwrap();
            let names = triggers.query_map([], |row| row.get(0)).unwrap();
            names.map(Result::unwrap).collect()
        };
        for name in names {
            raw.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
        }
        raw.execute_batch(sql).unwrap();
    }

    fn count(&self, sql: &str) -> i64 {
        self.raw().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    async fn new_refund(&self, intent: Intent) -> Refund {
        match self.ledger.create(create(intent)).await.unwrap() {
            CreateOutcome::New(refund) => refund,
            CreateOutcome::Known(refund) => panic!("{} was there already", refund.id()),
        }
    }

    async fn record(&self, refund: &Refund, events: &[Event]) -> Result<Refund, LedgerError> {
        self.ledger.record(record(refund, events)).await
    }

    /// A new refund of a target of its own, led to `state`.
    async fn refund_in(&self, state: State, id: &str) -> Refund {
        let refund = self.new_refund(sectigo(id, id)).await;
        self.record(&refund, &way_to(state)).await.unwrap()
    }
}

/// A place under this login.
fn place(login: &str) -> Place {
    Place { endpoint: "https://provider.example".to_owned(), login: login.to_owned(), currency: Currency::USD }
}

fn first_attempt(dispatch: bool) -> Option<FirstAttempt> {
    dispatch.then_some(FirstAttempt { credential: None })
}

fn at(account: &str) -> Destination {
    Destination { account: AccountName::parse(account).unwrap(), place: place("books") }
}

fn create(intent: Intent) -> NewRefund {
    NewRefund {
        intent,
        place: place("books"),
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: false,
        actor: "caller".to_owned(),
        now: NOW,
        claim: Ticket::default(),
        trace_parent: None,
    }
}

fn record(refund: &Refund, events: &[Event]) -> RecordEvents {
    RecordEvents {
        id: refund.id().clone(),
        revision: refund.revision,
        events: events.to_vec(),
        next_check: None,
        actor: "gateway".to_owned(),
        now: NOW.saturating_add(Duration::from_secs(1)),
    }
}

fn intent(id: &str, account: &str, target: Target) -> Intent {
    Intent {
        id: RefundId::parse(id).unwrap(),
        account: AccountName::parse(account).unwrap(),
        target,
        labels: BTreeMap::from([("ticket".to_owned(), "T-1".to_owned())]),
    }
}

fn sectigo(id: &str, order: &str) -> Intent {
    intent(id, "certs", Target::Sectigo(SectigoTarget::new(order, 11).unwrap()))
}

fn namecom(id: &str, items: &[i32]) -> Intent {
    intent(id, "domains", Target::Namecom(NamecomTarget::new(77, items).unwrap()))
}

fn debitsuccess(id: &str, account_reference_no: &str, minor_units: i64) -> Intent {
    let fields = DebitsuccessFields {
        account_reference_no,
        external_account_reference_no: "",
        amount: Some(("AUD", minor_units)),
        description: "Charged twice",
        request_initiator: "",
    };
    intent(id, "debits", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()))
}

fn way_to(state: State) -> Vec<Event> {
    let mut way = match state {
        State::Pending | State::Cancelled => Vec::new(),
        _ => vec![Event::Dispatched { credential: None }],
    };
    way.extend(match state {
        State::Pending | State::Dispatching => Vec::new(),
        State::Submitted => vec![Event::Accepted(Acceptance::default())],
        State::InDoubt => vec![doubted()],
        State::NeedsReview => {
            vec![doubted(), Event::Escalated { evidence: "nothing more to ask".to_owned(), foreign_record: false }]
        }
        State::Succeeded => vec![Event::Refunded(Confirmation::default())],
        State::PartiallySucceeded => vec![Event::Refunded(partial())],
        State::Failed => vec![refused()],
        State::Cancelled => vec![Event::Cancelled],
    });
    way
}

fn one_of_each_event() -> Vec<Event> {
    vec![
        Event::Dispatched { credential: None },
        Event::NotSent { error: error(0), retry_at: NOW.saturating_add(Duration::from_secs(60)) },
        Event::Refunded(Confirmation::default()),
        Event::Refunded(partial()),
        Event::Accepted(Acceptance::default()),
        refused(),
        doubted(),
        Event::Interrupted,
        Event::Checked(Observation::new("nothing there", RecordSeen::Absent)),
        Event::Escalated { evidence: "nothing more to ask".to_owned(), foreign_record: false },
        Event::Cancelled,
    ]
}

fn doubted() -> Event {
    Event::Doubted {
        reason: DoubtReason::Timeout,
        evidence: "no answer within 60 s".to_owned(),
        error: None,
        not_processed: false,
    }
}

fn refused() -> Event {
    Event::Refused { error: error(400), items: Vec::new(), follow_until: None }
}

fn partial() -> Confirmation {
    let amount = Some(Money { currency: Currency::USD, minor_units: 1299 });
    Confirmation {
        amount,
        items: vec![item(1, ItemState::Succeeded), item(2, ItemState::Failed)],
        ..Default::default()
    }
}

fn item(id: i32, state: ItemState) -> ItemResult {
    ItemResult { item_id: id.to_string(), state, refunded_amount: None, message: String::new(), requested: true }
}

fn error(http_status: u16) -> ProviderError {
    ProviderError {
        code: "-18".to_owned(),
        message: "no".to_owned(),
        http_status,
        category: ErrorCategory::AlreadyRefunded,
    }
}
