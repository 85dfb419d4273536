//! What every backend of the ledger must do, each test run on every backend.
//!
//! A new backend adds a variant to [`Backend`] and its name to the tests' `#[values]`, opens its
//! ledger in [`LedgerBench::new`] and [`LedgerBench::reopened`], and implements [`TestedLedger`].

mod administration;
mod approving;
mod creating;
mod history;
mod holding;
mod limiting;
mod reading;
mod reassigning;
mod recording;
mod roundtrip;
pub(in crate::ledger) mod samples;

use tempfile::TempDir;

use self::Backend::{SqliteFile, SqliteMemory};
use self::samples::{create, create_for, events_to, record, sectigo};
use crate::domain::event::Event;
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::ledger::sqlite::{SimulatedDisk, SqliteLedger, SqliteSettings};
use crate::ledger::{CreateOutcome, Ledger, LedgerAdmin, LedgerError, NewRefund};

/// The backends.
#[derive(Debug, Clone, Copy)]
enum Backend {
    SqliteFile,
    SqliteMemory,
}

/// A ledger, and what the tests need to see of its tables, which all backends name alike.
pub(in crate::ledger) trait TestedLedger: Ledger + LedgerAdmin {
    /// The number that `sql` selects.
    fn count(&self, sql: &str) -> i64;
}

/// What outlives a process.
enum Storage {
    File(TempDir),
    Memory(SimulatedDisk),
}

/// A new ledger of one backend.
struct LedgerBench {
    storage: Storage,
    ledger: Box<dyn TestedLedger>,
}

impl Storage {
    fn open(&self) -> Box<dyn TestedLedger> {
        Box::new(match self {
            Storage::File(directory) => {
                SqliteLedger::open(&directory.path().join("ledger.db"), SqliteSettings::default()).unwrap()
            }
            Storage::Memory(disk) => SqliteLedger::open_inline(disk).unwrap(),
        })
    }
}

impl LedgerBench {
    fn new(backend: Backend) -> Self {
        let storage = match backend {
            SqliteFile => Storage::File(tempfile::tempdir().unwrap()),
            SqliteMemory => Storage::Memory(SimulatedDisk::new(|| true).unwrap()),
        };
        let ledger = storage.open();
        Self { storage, ledger }
    }

    /// Restarts the process, so to speak.
    fn reopened(self) -> Self {
        let LedgerBench { storage, ledger } = self;
        drop(ledger);
        let ledger = storage.open();
        Self { storage, ledger }
    }

    fn count(&self, sql: &str) -> i64 {
        self.ledger.count(sql)
    }

    /// As [`Ledger::create`], without the number of the last event.
    async fn create(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        self.ledger.create(create).await.map(|recorded| recorded.outcome)
    }

    async fn new_refund(&self, intent: Intent) -> Refund {
        self.new_refund_by(create(intent)).await
    }

    async fn new_refund_by(&self, create: NewRefund) -> Refund {
        match self.create(create).await.unwrap() {
            CreateOutcome::New(refund) => refund,
            CreateOutcome::Known(refund) => panic!("{} was there already", refund.id()),
        }
    }

    async fn record(&self, refund: &Refund, events: &[Event]) -> Result<Refund, LedgerError> {
        self.ledger.record(record(refund, events)).await.map(|recorded| recorded.outcome)
    }

    /// A new refund with a target of its own, led to `state`.
    async fn refund_in(&self, state: State, id: &str) -> Refund {
        let refund = self.new_refund_by(create_for(state, sectigo(id, id))).await;
        self.record(&refund, &events_to(state)).await.unwrap()
    }
}
