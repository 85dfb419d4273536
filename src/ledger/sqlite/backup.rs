//! A copy of a ledger as it stood at one moment, taken while a gateway may be writing to it.
//!
//! The copy is one read transaction of the database (`VACUUM INTO`): neither do writes wait for it, nor does it begin anew whenever there is
//! one, as a copy page by page would. It needs no lock of the gateway's. The database does not sync what it writes so; that is done here, and
//! only then does the copy get its name.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::audit::{Audit, AuditError, audit};
use super::opening::{self, OpenError, VERSION, beside, private_file};

/// Why there is no copy. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no such file.
    #[error("there is no ledger {}", path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// A copy never takes the place of anything, and least of all beside the log of another one.
    #[error("{} is there already: a copy is given a new name", path.display())]
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
    /// An earlier program's ledger, which this one could not verify a copy of.
    #[error("the ledger {} has version {found}, and this program copies version {known}: use the program that runs on it", path.display())]
    Older {
        /// The ledger.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The one that this program makes.
        known: usize,
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

/// Another program that has the whole file to itself lets go of it soon.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Copies the ledger at `ledger` to `to`, readable by its owner alone, and looks at the copy.
///
/// # Errors
/// [`BackupError`] where there is no copy: what is in it and does not fit is a finding.
pub fn backup(ledger: &Path, to: &Path) -> Result<Audit, BackupError> {
    let io = |source| BackupError::Io { path: to.to_owned(), source };
    let source = ledger.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => BackupError::Missing { path: ledger.to_owned() },
        _ => OpenError::Io { path: ledger.to_owned(), doing: "find", source: error }.into(),
    })?;
    for name in ["", "-wal", "-journal"].map(|suffix| beside(to, suffix)) {
        if name.symlink_metadata().is_ok() {
            return Err(BackupError::Occupied { path: name });
        }
    }
    let connection = opening::reader(&source, BUSY_TIMEOUT)?;
    let version = opening::version(&source, &connection).map_err(|error| opening::refusal(&source, &error))??;
    match version {
        0 => return Err(OpenError::NotALedger { path: source, what: "it is empty" }.into()),
        VERSION => {}
        found => return Err(BackupError::Older { path: source, found, known: VERSION }),
    }

    let unfinished = beside(to, ".unfinished");
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
