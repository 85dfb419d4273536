//! The offline verification of a ledger that no gateway has open: everything that does not match,
//! named by table, row and column.
//!
//! ```text
//! file         the file itself: the lock, the pages, the tables' definitions, foreign keys
//! history      the chain of events
//! consistency  every refund's row, attempts and holdings against its history
//! ```
//!
//! The audit reads one snapshot and changes nothing in the file. If the ledger's log is there too
//! (`<path>-wal`, after a crash), it is read along with the file; SQLite then keeps its index of it
//! in `<path>-shm`.
//!
//! Some values are stored only once and cannot be compared with anything: which logins are linked,
//! and the standstills. Everything else is stored at least twice, or covered by a hash.

mod consistency;
mod file;
mod history;

use std::path::{Path, PathBuf};

use super::failure::StepError;
use super::open::OpenError;
use crate::ledger::LedgerError;
use crate::ledger::admin::{Audit, AuditFinding, MAX_FINDINGS};
use crate::ledger::hash_chain::Hash;

/// Why a ledger could not be audited. One sentence each; `path` is the ledger's.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("there is no ledger {}", path.display())]
    Missing { path: PathBuf },
    /// Its gateway has it open.
    #[error("a gateway is running on the ledger {}: stop it first, or verify a copy", path.display())]
    Running { path: PathBuf },
    /// An earlier program's ledger, which only the start of a gateway migrates.
    #[error(
        "the ledger {} has version {found}, and this program verifies version {known}: start the gateway on it once, or on a copy",
        path.display()
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

#[derive(Debug, Default)]
struct Findings {
    listed: Vec<AuditFinding>,
    count: u64,
}

/// Audits the ledger at `path`, which no other process may have open meanwhile.
///
/// # Errors
/// [`AuditError`] if the ledger cannot be audited at all. What can be read and does not match is a
/// [`AuditFinding`].
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
    // The lock, if there is one, is held to the end.
    let file::AuditedFile { connection, version, lock: _lock } = file::open(path, &mut findings)?;
    audit.schema_version = version;
    if let Some(connection) = connection {
        file::check(&connection, &mut findings);
        let read = history::check(&connection, &mut findings);
        (audit.events, audit.last_sequence, audit.last_chain_hash) = (read.events, read.last_sequence, read.last_hash);
        let read = consistency::check(&connection, &mut findings);
        (audit.refunds, audit.attempts) = (read.refunds, read.attempts);
    }
    (audit.findings, audit.finding_count) = (findings.listed, findings.count);
    Ok(audit)
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
            self.listed.push(AuditFinding { table, row, column, problem });
        }
    }

    /// Adds why a row could not be decoded.
    fn add_error(&mut self, table: &str, row: &str, error: StepError) {
        match error {
            StepError::Ledger(LedgerError::Corrupt { table, column, row, problem }) => {
                self.add(table, row, column, problem);
            }
            StepError::Ledger(other) => self.add(table, row, "(row)", other.to_string()),
            StepError::Sqlite(error) => self.add(table, row, "(page)", format!("cannot be read: {error}")),
        }
    }

    /// Runs one pass over a table. If it breaks off, that is a finding too.
    fn pass(&mut self, table: &str, work: impl FnOnce(&mut Self) -> rusqlite::Result<()>) {
        if let Err(error) = work(self) {
            self.add(table, "(the rest)", "(page)", format!("cannot be read to its end: {error}"));
        }
    }
}

/// What [`history::check`] has read.
struct HistoryRead {
    events: u64,
    last_sequence: u64,
    last_hash: Hash,
}

/// What [`consistency::check`] has read.
#[derive(Default)]
struct RefundsRead {
    refunds: u64,
    attempts: u64,
}
