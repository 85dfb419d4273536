//! A copy of a ledger as of one moment, taken while a gateway may be writing to it.
//!
//! The copy is one read transaction of the database (`VACUUM INTO`): writes do not wait for it, and
//! unlike a copy page by page it does not start over after each write. It does not need the
//! gateway's lock. The copy is marked as one: it may be old when it is put in place, so a gateway
//! that starts on it pauses every account. The database does not sync the new file; this does, and
//! only then gives the copy its name.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use rusqlite::Connection;

use super::audit::audit;
use super::identity;
use super::open::{private_file, sibling};
use super::survey;
use crate::ledger::admin::{Audit, BackupError};

/// Copies the ledger at `ledger`, which a gateway may have open, to the new file `to`, and audits
/// the copy.
///
/// # Errors
/// [`BackupError`] if there is no copy. What is wrong inside the copy is a finding.
pub fn backup(ledger: &Path, to: &Path) -> Result<Audit, BackupError> {
    let (_, connection) = survey::connect(ledger).map_err(|error| BackupError::Other(Box::new(error)))?;
    copy(&connection, to)
}

/// Marks the copy, so that a gateway that starts on it pauses every account.
fn mark(copy: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(copy)?;
    // No file beside it: an unfinished copy is useless anyway.
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
    identity::mark_backup_copy(&connection)
}

/// As [`backup`], of the ledger that `connection` reads.
pub(super) fn copy(connection: &Connection, to: &Path) -> Result<Audit, BackupError> {
    let io = |source| BackupError::Io { path: to.to_owned(), source };
    for name in ["", "-wal", "-journal"].map(|suffix| sibling(to, suffix)) {
        if name.symlink_metadata().is_ok() {
            return Err(BackupError::Occupied { path: name });
        }
    }
    let unfinished = sibling(to, ".unfinished");
    let name = unfinished.to_str().ok_or_else(|| io(ErrorKind::InvalidFilename.into()))?;
    let file = private_file().create_new(true).open(&unfinished).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => BackupError::Occupied { path: unfinished.clone() },
        _ => io(error),
    })?;
    let copied = connection.execute("VACUUM INTO ?1", [name]);
    let copied = copied.and_then(|_| mark(&unfinished));
    let copied = copied.map_err(|error| BackupError::Copy { path: to.to_owned(), problem: error.to_string() });
    let kept = copied.and_then(|()| file.sync_all().and_then(|()| std::fs::rename(&unfinished, to)).map_err(io));
    if let Err(error) = kept {
        // An unfinished copy is useless, and would block the next one.
        drop(std::fs::remove_file(&unfinished));
        return Err(error);
    }
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    audit(to).map_err(|error| BackupError::Other(Box::new(error)))
}
