//! What operators need of a ledger besides [`Ledger`]: figures for metrics, verification, backup.
//!
//! [`Ledger`]: crate::ledger::Ledger

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::ledger::{AccountPause, LedgerError};
use crate::telemetry::metrics::Metrics;

/// The administration of a ledger that a gateway has open.
#[async_trait]
pub trait LedgerAdmin: Send + Sync + 'static {
    /// Starts to count refunds and to report the duration of commits to `metrics`. Called before
    /// anything is written.
    ///
    /// Returns before the refunds of a large ledger are counted; [`LedgerAdmin::counts`] is None
    /// until then.
    async fn enable_metrics(&self, metrics: Metrics);

    /// Returns how many refunds of each account are in each state, as of the last commit. None: not
    /// counted yet, or metrics are off.
    fn counts(&self) -> Option<Vec<(AccountName, State, u64)>>;

    /// Returns how many writes wait in the queue.
    fn queue_length(&self) -> usize;

    /// Returns when the oldest present doubt of an account began. None: it has none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn oldest_doubt(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// Returns when the oldest [`State::Pending`] refund of an account was created, at whatever
    /// place it is. None: it has none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn oldest_pending(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// Returns when the oldest refund of an account that waits for an approval was created. None:
    /// there is none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn oldest_unapproved(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// Keeps an access file under its digest, so that the `policy` of an event can be looked up.
    /// Does nothing if it is kept already.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn keep_access_file(&self, digest: &str, text: &str, now: Timestamp) -> Result<(), LedgerError>;

    /// Recomputes the whole hash chain and compares every refund with its last event. Returns the
    /// number of events.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] for the first value that does not match,
    /// [`LedgerError::Unavailable`]
    async fn verify(&self) -> Result<u64, LedgerError>;

    /// Copies the ledger to the new file `to`, readable only by its owner, without stopping writes,
    /// and audits the copy.
    ///
    /// # Errors
    /// [`BackupError`] if there is no copy. What is wrong inside the copy is a [`AuditFinding`].
    async fn backup(&self, to: &Path) -> Result<Audit, BackupError>;

    /// Returns what the ledger says about itself.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn identity(&self) -> Result<LedgerIdentity, LedgerError>;

    /// Remembers for ever that a checkpoint of this ledger is on disk.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn remember_checkpoints(&self) -> Result<(), LedgerError>;

    /// Start-up: pauses every configured account, and every account with open refunds, if history
    /// is lost or the ledger is a copy of [`LedgerAdmin::backup`], whose mark is removed in the
    /// same transaction. As long as one of these pauses runs, each start pauses accounts that are
    /// configured since.
    ///
    /// Returns the pauses of this start; none if there was no reason.
    ///
    /// # Errors
    /// As [`LedgerAdmin::remember_checkpoints`].
    async fn pause_if_restored(&self, start: StartPause) -> Result<Vec<AccountPause>, LedgerError>;

    /// Finishes the queued writes and releases the ledger. Every later call returns
    /// [`LedgerError::Unavailable`].
    async fn close(&self);
}

/// What a ledger says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerIdentity {
    /// 32 hex digits, drawn when the ledger was created. Copies keep it.
    pub id: String,
    /// It was made by [`LedgerAdmin::backup`], and no gateway has started on it.
    pub is_backup_copy: bool,
    /// A checkpoint of it was written once.
    pub has_checkpoints: bool,
}

/// What a start knows about a ledger that may be a restored one.
#[derive(Debug, Clone)]
pub struct StartPause {
    /// The ledger does not fit its checkpoints, and the operator has accepted that.
    pub lost_history: bool,
    pub configured: Vec<AccountName>,
    pub now: Timestamp,
}

/// What the origin of every ledger's checkpoints begins with.
pub const ORIGIN_PREFIX: &str = "recoup/ledger/";

impl LedgerIdentity {
    /// The origin of the ledger's checkpoints, and the name of the keys that sign them.
    pub fn origin(&self) -> String {
        format!("{ORIGIN_PREFIX}{}", self.id)
    }
}

/// The result of an audit: every stored value that does not match, named by table, row and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub schema_version: i64,
    pub refunds: u64,
    pub events: u64,
    pub attempts: u64,
    /// The sequence number of the last event. 0 in an empty ledger.
    pub last_sequence: u64,
    /// The hash of the last event; zeros in an empty ledger. Kept elsewhere, it makes even a ledger
    /// visible that was rewritten as a whole.
    pub last_chain_hash: [u8; 32],
    /// In the order in which they were found, at most [`MAX_FINDINGS`].
    pub findings: Vec<AuditFinding>,
    /// How many there are, including those beyond [`MAX_FINDINGS`].
    pub finding_count: u64,
}

/// One value that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFinding {
    /// `(file)` if the table is not known.
    pub table: String,
    /// The row's key, or the page.
    pub row: String,
    /// `(row)` if only the row's digest shows it, `(page)` for the form of the file.
    pub column: String,
    pub problem: String,
}

/// Why there is no copy. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A copy replaces no file, and is never put beside the log of another ledger.
    #[error("{} exists: choose a new name for the copy", path.display())]
    Occupied { path: PathBuf },
    /// The operating system refused.
    #[error("cannot write the copy {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The database refused: the ledger cannot be read whole, or the disk is full.
    #[error("cannot copy the ledger to {}: {problem}", path.display())]
    Copy { path: PathBuf, problem: String },
    /// The ledger cannot be opened, or the copy cannot be audited.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Findings that are listed; further ones are counted.
pub const MAX_FINDINGS: usize = 1_000;

impl Audit {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}

impl fmt::Display for AuditFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}, row {}, column {}: {}", self.table, self.row, self.column, self.problem)
    }
}
