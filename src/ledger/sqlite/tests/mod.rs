//! What the SQLite backend does beyond the contract that every backend is tested for.

mod auditing;
mod failing;
mod history;
mod in_memory;
mod opening;
mod reading;
mod writing;

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::domain::event::Event;
use crate::domain::outcome::Confirmation;
use crate::domain::refund::Intent;
use crate::domain::state::State;
use crate::domain::target::{NamecomTarget, Target};
use crate::ledger::FirstAttempt;
use crate::ledger::contract_tests::TestedLedger;
use crate::ledger::contract_tests::samples::*;

/// A ledger in a directory of its own.
struct SqliteBench {
    directory: TempDir,
    settings: SqliteSettings,
    ledger: SqliteLedger,
}

impl SqliteBench {
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

    /// Restarts the process, so to speak.
    fn reopened(self) -> Self {
        let SqliteBench { directory, settings, ledger } = self;
        drop(ledger);
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db"), settings.clone()).unwrap();
        Self { directory, settings, ledger }
    }

    /// Another program's connection to the file.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Edits the file without its triggers and checks.
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

impl TestedLedger for SqliteLedger {
    fn count(&self, sql: &str) -> i64 {
        let select = |connection: &Connection| Ok(connection.query_row(sql, [], |row| row.get(0))?);
        let counted = match &self.executor {
            Executor::Inline(inline) => inline.read(select),
            Executor::Threads(threads) => {
                select(threads.inline_readers.try_lease().unwrap().connection.as_ref().unwrap())
            }
        };
        counted.unwrap()
    }
}
