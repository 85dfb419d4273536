//! A copy of a ledger as it stood at one moment, taken while a gateway may be writing to it.
//!
//! The copy is one read transaction of the database (`VACUUM INTO`): neither do writes wait for it,
//! nor does it begin anew whenever there is one, as a copy page by page would. It needs no lock of
//! the gateway's. The database does not sync what it writes so; that is done here, and only then
//! does the copy get its name.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::audit::{Audit, AuditError, audit};
use super::open::{OpenError, private_file, sibling};
use super::survey;

/// Why there is no copy. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A copy never takes the place of anything, and least of all sibling the log of another one.
    #[error("{} is there already: a copy is given a new name", path.display())]
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The operating system refused.
    #[error("cannot write the copy {}: {source}", path.display())]
    Io {
        /// The copy.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database refused: the ledger cannot be read whole, or the disk is full.
    #[error("cannot copy the ledger to {}: {problem}", path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// The database's words.
        problem: String,
    },
    /// The copy is there, and no look at it could be taken.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Copies the ledger at `ledger` to `to`, readable by its owner alone, and looks at the copy.
///
/// # Errors
/// [`BackupError`] where there is no copy: what is in it and does not fit is a finding.
pub fn backup(ledger: &Path, to: &Path) -> Result<Audit, BackupError> {
    let io = |source| BackupError::Io { path: to.to_owned(), source };
    for name in ["", "-wal", "-journal"].map(|suffix| sibling(to, suffix)) {
        if name.symlink_metadata().is_ok() {
            return Err(BackupError::Occupied { path: name });
        }
    }
    let (_, connection) = survey::connect(ledger)?;
    let unfinished = sibling(to, ".unfinished");
    let name = unfinished.to_str().ok_or_else(|| io(ErrorKind::InvalidFilename.into()))?;
    let file = private_file().create_new(true).open(&unfinished).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => BackupError::Occupied { path: unfinished.clone() },
        _ => io(error),
    })?;
    let copied = connection.execute("VACUUM INTO ?1", [name]);
    let copied = copied.map_err(|error| BackupError::Copy { path: to.to_owned(), problem: error.to_string() });
    let kept = copied.and_then(|_| file.sync_all().and_then(|()| std::fs::rename(&unfinished, to)).map_err(io));
    if let Err(error) = kept {
        // Half a copy is worth nothing, and would stand in the way of the next one.
        drop(std::fs::remove_file(&unfinished));
        return Err(error);
    }
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(audit(to)?)
}
