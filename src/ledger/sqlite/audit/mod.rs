//! A look at a ledger that nobody has open: everything that does not fit, named by table, row and
//! column.
//!
//! ```text
//! file      the file itself: the lock, the pages, the tables' definitions, foreign keys
//! history   the chain of events, line by line
//! standing  every refund's row, attempts and holdings against its history
//! ```
//!
//! The whole look is one snapshot, and nothing of the file is changed. Where the ledger's log is
//! there too (`<path>-wal`, after a crash), it is read along with the file; SQLite then keeps its
//! index of it in `<path>-shm`.
//!
//! Values that are stored once cannot be compared with anything: the `http_status` of an attempt,
//! the `doubt_reason` of one whose doubt is over, which logins are linked, and when refunds waited
//! for their account. Everything else is stored twice at least, or covered by a hash.

mod consistency;
mod file;
mod history;

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::chain::Hash;
use super::failure::StepError;
use super::open::OpenError;
use crate::ledger::LedgerError;

/// What a look at a ledger showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The form of its tables.
    pub schema_version: i64,
    /// How many refunds were read.
    pub refunds: u64,
    /// How many lines of history were read.
    pub events: u64,
    /// How many attempts were read.
    pub attempts: u64,
    /// Where the history ends; 0 for an empty one.
    pub last_sequence: u64,
    /// The last line's hash; zeros for an empty history. Kept elsewhere, it makes even a ledger
    /// visible that was rewritten as a whole.
    pub last_chain_hash: [u8; 32],
    /// What does not fit, in the order in which it was met, [`MAX_FINDINGS`] at most.
    pub findings: Vec<Finding>,
    /// How many there are, those that are not listed included.
    pub finding_count: u64,
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which table; `(file)` where it is not known.
    pub table: String,
    /// The row's key, or the page.
    pub row: String,
    /// Which column; `(row)` for one of them that only their digest knows, `(page)` for the form of
    /// the file.
    pub column: String,
    /// What is strange about it.
    pub problem: String,
}

/// Why no look could be taken. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is no such file.
    #[error("there is no ledger {}", path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// Its gateway has it open.
    #[error("a gateway is running on the ledger {}: stop it first, or verify a copy", path.display())]
    Running {
        /// The ledger.
        path: PathBuf,
    },
    /// An earlier program's ledger, which only a start of the gateway changes.
    #[error(
        "the ledger {} has version {found}, and this program verifies version {known}: start the gateway on it once, or on a copy",
        path.display()
    )]
    Older {
        /// The ledger.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The one that this program makes.
        known: i64,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Findings that are listed; the others are counted.
pub const MAX_FINDINGS: usize = 1_000;

/// What has been found so far.
#[derive(Debug, Default)]
struct Findings {
    listed: Vec<Finding>,
    count: u64,
}

/// Looks at the ledger at `path`, which nobody else may have open meanwhile.
///
/// # Errors
/// [`AuditError`] where no look can be taken at all: what is there to be read and does not fit is a
/// [`Finding`].
pub fn audit(path: &Path) -> Result<Audit, AuditError> {
    let mut findings = Findings::default();
    let mut audit = Audit {
        schema_version: 0,
        refunds: 0,
        events: 0,
        attempts: 0,
        last_sequence: 0,
        last_chain_hash: [0; 32],
        findings: Vec::new(),
        finding_count: 0,
    };
    // The lock, where there is one, is held to the end.
    let file::Opened { connection, version, lock: _lock } = file::open(path, &mut findings)?;
    audit.schema_version = version;
    if let Some(connection) = connection {
        file::check(&connection, &mut findings);
        let seen = history::check(&connection, &mut findings);
        (audit.events, audit.last_sequence, audit.last_chain_hash) = (seen.events, seen.last_sequence, seen.last_hash);
        let seen = consistency::check(&connection, &mut findings);
        (audit.refunds, audit.attempts) = (seen.refunds, seen.attempts);
    }
    (audit.findings, audit.finding_count) = (findings.listed, findings.count);
    Ok(audit)
}

impl Audit {
    /// Whether everything fits.
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "table {}, row {}, column {}: {}", self.table, self.row, self.column, self.problem)
    }
}

impl Findings {
    fn add(
        &mut self,
        table: impl Into<String>,
        row: impl Into<String>,
        column: impl Into<String>,
        problem: impl Into<String>,
    ) {
        self.count = self.count.saturating_add(1);
        if self.listed.len() < MAX_FINDINGS {
            let (table, row, column, problem) = (table.into(), row.into(), column.into(), problem.into());
            self.listed.push(Finding { table, row, column, problem });
        }
    }

    /// What a strict reading of a row objected to.
    fn add_fault(&mut self, table: &str, row: &str, fault: StepError) {
        match fault {
            StepError::Ledger(LedgerError::Corrupt { table, column, row, problem }) => {
                self.add(table, row, column, problem);
            }
            StepError::Ledger(other) => self.add(table, row, "(row)", other.to_string()),
            StepError::Sqlite(error) => self.add(table, row, "(page)", format!("cannot be read: {error}")),
        }
    }

    /// Runs one pass over a table; where it breaks off, that is a finding too.
    fn pass(&mut self, table: &str, work: impl FnOnce(&mut Self) -> rusqlite::Result<()>) {
        if let Err(error) = work(self) {
            self.add(table, "(the rest)", "(page)", format!("cannot be read to its end: {error}"));
        }
    }
}

/// A number of rows.
fn count(connection: &Connection, table: &str) -> u64 {
    let counted = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    counted.ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// Where the history was followed to.
struct HistorySeen {
    events: u64,
    last_sequence: u64,
    last_hash: Hash,
}

/// How much was compared.
struct StandingSeen {
    refunds: u64,
    attempts: u64,
}
