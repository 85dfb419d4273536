//! Which failures end all writing, and how that is published.
//!
//! The first failure wins and is final. The process cannot know what a failed write or sync left
//! behind, so only the next start, which reads the disk again, can continue.

use std::sync::OnceLock;

use rusqlite::ErrorCode;
use tokio::sync::watch;

use super::file_watch::FileSet;
use super::state_counts::StateCounts;
use crate::domain::state::IllegalTransition;
use crate::ledger::{Health, LedgerError};

/// Why one step of a transaction, or one read, failed.
#[derive(Debug)]
pub(super) enum StepError {
    Ledger(LedgerError),
    Sqlite(rusqlite::Error),
}

/// The state that the writer, the readers and the callers share.
#[derive(Debug)]
pub(super) struct LedgerState {
    committed: watch::Sender<u64>,
    health: watch::Sender<Health>,
    halted: OnceLock<LedgerError>,
    /// None: the ledger has no files.
    files: OnceLock<FileSet>,
    /// None: metrics are off.
    counts: OnceLock<StateCounts>,
}

/// What a database error means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// Another program has the file locked; nothing was written.
    Busy,
    /// This one statement was rejected; the transaction goes on.
    Statement,
    /// Bytes on the disk are not what was written.
    Corrupt,
    /// Everything else: disk full, a failed write or sync, a read-only file, no memory.
    Broken,
}

impl LedgerState {
    pub(super) fn new(committed: u64) -> Self {
        Self {
            committed: watch::Sender::new(committed),
            health: watch::Sender::new(Health::Writing),
            halted: OnceLock::new(),
            files: OnceLock::new(),
            counts: OnceLock::new(),
        }
    }

    pub(super) fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Publishes the last committed event. Called after the commit and before any reply.
    pub(super) fn publish(&self, sequence: u64) {
        self.committed.send_if_modified(|present| {
            let rises = sequence > *present;
            *present = sequence.max(*present);
            rises
        });
    }

    /// From now on these files must keep their names. Called once.
    pub(super) fn set_files(&self, files: FileSet) {
        drop(self.files.set(files));
    }

    /// From now on transitions and commits are counted in `counts`. Called once, before anything is
    /// written.
    pub(super) fn set_counts(&self, counts: StateCounts) {
        drop(self.counts.set(counts));
    }

    pub(super) fn counts(&self) -> Option<&StateCounts> {
        self.counts.get()
    }

    /// Ends all writing if one of the files has lost its name.
    pub(super) fn verify_files(&self) -> Result<(), LedgerError> {
        match self.files.get().and_then(FileSet::problem) {
            None => Ok(()),
            Some(problem) => Err(self.halt(LedgerError::Unavailable(problem))),
        }
    }

    /// Why writing has ended. None while the ledger writes.
    pub(super) fn halted(&self) -> Option<&LedgerError> {
        self.halted.get()
    }

    /// Ends all writing and returns the reason, which is the first one if writing had ended before.
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
        match severity(error) {
            // Nothing was recorded, and a retry may succeed soon.
            Severity::Busy => LedgerError::Overloaded,
            Severity::Corrupt => self.halt(malformed(error)),
            Severity::Statement | Severity::Broken => self.halt(unavailable(error)),
        }
    }

    /// A failure of one step whose transaction goes on. Returns its caller's error.
    pub(super) fn step_failed(&self, error: StepError) -> LedgerError {
        match error {
            StepError::Ledger(error @ LedgerError::Corrupt { .. }) => {
                self.halt(error.clone());
                error
            }
            StepError::Ledger(error) => error,
            StepError::Sqlite(error) if severity(&error) == Severity::Corrupt => {
                let error = malformed(&error);
                self.halt(error.clone());
                error
            }
            StepError::Sqlite(error) => unavailable(&error),
        }
    }
}

impl StepError {
    /// Whether a retry may succeed soon, because another program has the file locked.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, StepError::Sqlite(error) if severity(error) == Severity::Busy)
    }

    /// Whether the writer's transaction can go on.
    pub(super) fn is_statement_local(&self) -> bool {
        match self {
            StepError::Ledger(_) => true,
            StepError::Sqlite(error) => severity(error) == Severity::Statement,
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

fn severity(error: &rusqlite::Error) -> Severity {
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

/// SQLite reports a malformed file without saying where.
fn malformed(error: &rusqlite::Error) -> LedgerError {
    LedgerError::Corrupt { table: "(file)", column: "(page)", row: "(unknown)".to_owned(), problem: error.to_string() }
}

/// The error of every call after the ledger was closed.
pub(super) fn closed() -> LedgerError {
    LedgerError::Unavailable("it is closed".to_owned())
}
