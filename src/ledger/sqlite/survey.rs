//! Reads a ledger that a gateway may have open, without changing it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::failure::{LedgerState, StepError};
use super::identity;
use super::open::{self, OpenError, VERSION};
use super::queries::{self, ConflictCheck, Similar};
use crate::domain::place::Destination;
use crate::ledger::admin::LedgerIdentity;
use crate::ledger::export::ExportedEvent;
use crate::ledger::{LedgerError, ListedRefund, OpenRefunds, Reassign};

/// How long to wait while another program has the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A read-only connection to a ledger of this program's version.
#[derive(Debug)]
pub struct Survey {
    connection: Connection,
    /// Classifies errors; it belongs to no writer.
    state: LedgerState,
}

impl Survey {
    /// Opens the ledger at `path` to read it.
    ///
    /// # Errors
    /// [`OpenError`], for example if there is no ledger.
    pub fn open(path: &Path) -> Result<Survey, OpenError> {
        let (_, connection) = connect(path)?;
        Ok(Survey { connection, state: LedgerState::new(0) })
    }

    /// Returns how many refunds need their account, by account and place. Includes DISPATCHING
    /// refunds: a gateway that starts now finds them in doubt.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    pub fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.read(|connection| {
            let mut open = queries::open_refunds(connection)?;
            for dispatching in queries::dispatching_refunds(connection)? {
                match open.iter_mut().find(|one| (one.provider, &one.at) == (dispatching.provider, &dispatching.at)) {
                    Some(same) => same.count = same.count.saturating_add(dispatching.count),
                    None => open.push(dispatching),
                }
            }
            Ok(open)
        })
    }

    /// As [`crate::ledger::Ledger::open_at`].
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    pub fn open_at(&self, at: &Destination, after_ordinal: u64, limit: u32) -> Result<Vec<ListedRefund>, LedgerError> {
        self.read(|connection| queries::open_at(connection, at, after_ordinal, limit))
    }

    /// Checks whether a refund could be reassigned, without doing it.
    ///
    /// # Errors
    /// [`LedgerError::TargetHasRefund`], [`LedgerError::SimilarRefund`] if it could not, and
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`].
    pub fn may_be_reassigned(&self, listed: &ListedRefund, reassign: &Reassign) -> Result<(), LedgerError> {
        let check = ConflictCheck {
            target: &listed.refund.intent.target,
            login: &reassign.to.place.login,
            related: &reassign.related,
            similar: if reassign.reject_similar { Similar::Any } else { Similar::None },
            now: reassign.now,
            itself: i64::try_from(listed.ordinal).ok().map(|ordinal| (ordinal, listed.refund.place.login.as_str())),
        };
        self.read(|connection| queries::check_conflicts(connection, &check))
    }

    /// Returns what the ledger says about itself.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    pub fn identity(&self) -> Result<LedgerIdentity, LedgerError> {
        self.read(identity::read)
    }

    /// Returns at most `limit` events after `sequence`, oldest first, for an audit elsewhere.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    pub fn export(&self, sequence: u64, limit: u32) -> Result<Vec<ExportedEvent>, LedgerError> {
        self.read(|connection| queries::export(connection, sequence, limit))
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StepError>) -> Result<T, LedgerError> {
        read(&self.connection).map_err(|error| self.state.step_failed(error))
    }
}

/// The canonical path of an existing ledger, and a read-only connection to it.
pub(super) fn connect(path: &Path) -> Result<(PathBuf, Connection), OpenError> {
    let source = path.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => OpenError::Missing { path: path.to_owned() },
        _ => OpenError::Io { path: path.to_owned(), doing: "find", source: error },
    })?;
    let connection = open::reader(&source, BUSY_TIMEOUT)?;
    let version = open::version(&source, &connection).map_err(|error| open::refusal(&source, &error))??;
    match version {
        0 => Err(OpenError::NotALedger { path: source, what: "it is empty" }),
        VERSION => Ok((source, connection)),
        found => Err(OpenError::older(&source, found)),
    }
}
