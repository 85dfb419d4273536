//! When the ledger stops writing: which failures end it, and how everybody learns of it.
//!
//! The first failure wins and is final. What a failed write or sync left behind is not knowable
//! from inside the process, so the next start, which reads the disk afresh, is the only way on.

use std::sync::OnceLock;

use rusqlite::ErrorCode;
use tokio::sync::watch;

use super::file_watch::FileSet;
use super::state_counts::StateCounts;
use crate::domain::state::IllegalTransition;
use crate::ledger::{Health, LedgerError};

/// What can stop one step: an answer for the caller, or the database.
#[derive(Debug)]
pub(super) enum StepError {
    /// The caller's answer.
    Ledger(LedgerError),
    /// The database's own words.
    Sqlite(rusqlite::Error),
}

/// What the writer, the readers and the callers share.
#[derive(Debug)]
pub(super) struct LedgerState {
    committed: watch::Sender<u64>,
    health: watch::Sender<Health>,
    halted: OnceLock<LedgerError>,
    /// None for a ledger without files.
    presence: OnceLock<FileSet>,
    /// None where nobody measures.
    tally: OnceLock<StateCounts>,
}

/// What a database error means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// Another program holds the file for now; nothing was written.
    Busy,
    /// This one statement was refused; its neighbours are unharmed.
    Statement,
    /// Bytes on the disk are not what was written.
    Corrupt,
    /// Everything else: disk full, a failed write or sync, a file gone read-only, no memory.
    Broken,
}

impl LedgerState {
    pub(super) fn new(committed: u64) -> Self {
        Self {
            committed: watch::Sender::new(committed),
            health: watch::Sender::new(Health::Writing),
            halted: OnceLock::new(),
            presence: OnceLock::new(),
            tally: OnceLock::new(),
        }
    }

    pub(super) fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Tells the followers of the history. Called after the commit and before any caller is
    /// answered.
    pub(super) fn publish(&self, sequence: u64) {
        self.committed.send_if_modified(|present| {
            let rises = sequence > *present;
            *present = sequence.max(*present);
            rises
        });
    }

    /// From now on these files must keep their names.
    pub(super) fn set_file_watch(&self, presence: FileSet) {
        // Said once, when they have been opened.
        drop(self.presence.set(presence));
    }

    /// From now on everything is counted here.
    pub(super) fn set_counts(&self, tally: StateCounts) {
        // Said once, before anything is written.
        drop(self.tally.set(tally));
    }

    pub(super) fn tally(&self) -> Option<&StateCounts> {
        self.tally.get()
    }

    /// Ends all writing where one of them has not.
    pub(super) fn verify_files(&self) -> Result<(), LedgerError> {
        match self.presence.get().and_then(FileSet::fault) {
            None => Ok(()),
            Some(problem) => Err(self.halt(LedgerError::Unavailable(problem))),
        }
    }

    /// Why nothing is written any more; none while the ledger writes.
    pub(super) fn halted(&self) -> Option<&LedgerError> {
        self.halted.get()
    }

    /// Ends all writing, and gives back the reason: the first one, where there was one before.
    pub(super) fn halt(&self, error: LedgerError) -> LedgerError {
        let first = self.halted.get_or_init(|| error).clone();
        let health = match &first {
            LedgerError::Corrupt { .. } => Health::Corrupt(first.to_string()),
            other => Health::Failed(other.to_string()),
        };
        self.health.send_if_modified(|present| {
            let changes = *present == Health::Writing;
            if changes {
                *present = health;
            }
            changes
        });
        first
    }

    /// A failure that ends the writer's whole transaction.
    pub(super) fn transaction_failed(&self, error: &rusqlite::Error) -> LedgerError {
        match gravity(error) {
            // Nothing was recorded, and the same call may succeed in a moment.
            Severity::Busy => LedgerError::Overloaded,
            Severity::Corrupt => self.halt(malformed(error)),
            Severity::Statement | Severity::Broken => self.halt(unavailable(error)),
        }
    }

    /// A failure of one step whose transaction stands: what its caller is told.
    pub(super) fn step_failed(&self, fault: StepError) -> LedgerError {
        match fault {
            StepError::Ledger(error @ LedgerError::Corrupt { .. }) => {
                self.halt(error.clone());
                error
            }
            StepError::Ledger(error) => error,
            StepError::Sqlite(error) if gravity(&error) == Severity::Corrupt => {
                let error = malformed(&error);
                self.halt(error.clone());
                error
            }
            StepError::Sqlite(error) => unavailable(&error),
        }
    }
}

impl StepError {
    /// Whether the same may succeed in a moment: another program holds the file.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, StepError::Sqlite(error) if gravity(error) == Severity::Busy)
    }

    /// Whether the writer's transaction outlives it.
    pub(super) fn is_statement_local(&self) -> bool {
        match self {
            StepError::Ledger(_) => true,
            StepError::Sqlite(error) => gravity(error) == Severity::Statement,
        }
    }
}

impl From<LedgerError> for StepError {
    fn from(error: LedgerError) -> Self {
        StepError::Ledger(error)
    }
}

impl From<IllegalTransition> for StepError {
    fn from(error: IllegalTransition) -> Self {
        StepError::Ledger(LedgerError::IllegalTransition(error))
    }
}

impl From<rusqlite::Error> for StepError {
    fn from(error: rusqlite::Error) -> Self {
        StepError::Sqlite(error)
    }
}

fn gravity(error: &rusqlite::Error) -> Severity {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Severity::Busy,
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => Severity::Statement,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Severity::Corrupt,
        Some(_) | None => Severity::Broken,
    }
}

fn unavailable(error: &rusqlite::Error) -> LedgerError {
    LedgerError::Unavailable(error.to_string())
}

/// SQLite found the file itself malformed and does not say where.
fn malformed(error: &rusqlite::Error) -> LedgerError {
    LedgerError::Corrupt { table: "(file)", column: "(page)", row: "(unknown)".to_owned(), problem: error.to_string() }
}
