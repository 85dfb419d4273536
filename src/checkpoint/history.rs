//! At a start: does the newest checkpoint fit the ledger?
//!
//! | checkpoint.file | the start |
//! |---|---|
//! | a note of this ledger, not beyond its last event, with the hash of its event | goes on |
//! | a note of another ledger, of a later event, with another hash or a wrong signature | refused |
//! | no note, and the ledger has never had a checkpoint | goes on: checkpoints begin |
//! | no note, and the ledger has had one | refused |
//!
//! The last one is refused too: a machine that lost its disk has lost both, and a copy of the
//! ledger that is put in place then is an old one. A note is on disk before the ledger remembers
//! that there is one, so a crash between the two leads to no refusal.

use std::path::PathBuf;

use super::file::{CheckpointFile, CheckpointFileError};
use super::key::{KeyFile, KeyFileError};
use super::note::SignedCheckpoint;
use super::settings::CheckpointSettings;
use crate::ledger::{Ledger, LedgerAdmin, LedgerError};

/// A ledger's history beside its newest checkpoint.
#[derive(Debug)]
pub struct LedgerHistory {
    pub(super) keys: KeyFile,
    pub(super) file: CheckpointFile,
    pub(super) origin: String,
    pub(super) has_checkpoints: bool,
    /// The newest checkpoint, if it fits.
    pub(super) newest: Option<SignedCheckpoint>,
    /// What does not fit.
    pub lost: Option<LostHistory>,
}

/// Why checkpoints cannot be used. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    File(#[from] CheckpointFileError),
    #[error("could not read the ledger's history: {0}")]
    Ledger(#[from] LedgerError),
    /// The file's task was aborted.
    #[error("the write was aborted")]
    Aborted,
}

/// The ledger is not the one that the checkpoints were written for, or has lost a part of it. One
/// sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostHistory {
    #[error(
        "the ledger ends at event {last}, but the newest checkpoint in {}, of {time}, covers event {sequence}: \
         this is an old copy, and refunds that it has forgotten could be sent again; {ADVICE}",
        file.display()
    )]
    Older { file: PathBuf, last: u64, sequence: u64, time: String },
    #[error(
        "event {sequence} of the ledger is not the one that the newest checkpoint in {}, of {time}, covers: \
         the ledger is an old copy that went on, or was rewritten; {ADVICE}",
        file.display()
    )]
    Different { file: PathBuf, sequence: u64, time: String },
    #[error("the newest checkpoint in {} is of the ledger {found}, and this one is {origin}; {ADVICE}", file.display())]
    Foreign { file: PathBuf, found: String, origin: String },
    #[error(
        "the newest checkpoint in {} has no right signature of a key in {}; {ADVICE}",
        file.display(), key_file.display()
    )]
    Unsigned { file: PathBuf, key_file: PathBuf },
    #[error(
        "the ledger had checkpoints before, and {} has none: it cannot be known whether this is an old copy; {ADVICE}",
        file.display()
    )]
    NoCheckpoint { file: PathBuf },
}

/// What every refusal ends with.
const ADVICE: &str =
    "see docs/operations.md (Restoring a copy), or start with --accept-lost-history, which pauses every account";

impl LedgerHistory {
    /// Reads the key, the newest checkpoint and the event that it covers.
    ///
    /// # Errors
    /// [`CheckpointError`] if one of them cannot be read. That they do not fit is
    /// [`LedgerHistory::lost`].
    pub async fn open(
        settings: &CheckpointSettings,
        ledger: &dyn Ledger,
        admin: &dyn LedgerAdmin,
    ) -> Result<Self, CheckpointError> {
        let keys = KeyFile::read(&settings.key_file)?;
        let file = CheckpointFile::new(&settings.file);
        let identity = admin.identity().await?;
        let (origin, has_checkpoints) = (identity.origin(), identity.has_checkpoints);
        let newest = file.newest()?;
        let path = file.path().to_owned();
        let lost = match &newest {
            None if has_checkpoints => Some(LostHistory::NoCheckpoint { file: path }),
            None => None,
            Some(signed) => {
                let (checkpoint, last) = (&signed.checkpoint, *ledger.committed().borrow());
                let (sequence, time) = (checkpoint.sequence, checkpoint.time_text());
                let verifiers = keys.verifiers(&checkpoint.origin);
                if !verifiers.iter().any(|key| signed.is_signed_by(key)) {
                    Some(LostHistory::Unsigned { file: path, key_file: settings.key_file.clone() })
                } else if checkpoint.origin != origin {
                    let found = checkpoint.origin.clone();
                    Some(LostHistory::Foreign { file: path, found, origin: origin.clone() })
                } else if sequence > last {
                    Some(LostHistory::Older { file: path, last, sequence, time })
                } else if chain_hash_at(ledger, sequence).await? != checkpoint.chain_hash {
                    Some(LostHistory::Different { file: path, sequence, time })
                } else {
                    None
                }
            }
        };
        let newest = newest.filter(|_| lost.is_none());
        Ok(Self { keys, file, origin, has_checkpoints, newest, lost })
    }
}

/// The chain hash of event `sequence`; zeros for 0.
pub(super) async fn chain_hash_at(ledger: &dyn Ledger, sequence: u64) -> Result<[u8; 32], LedgerError> {
    let Some(before) = sequence.checked_sub(1) else { return Ok([0; 32]) };
    let event = ledger.events_after(before, 1).await?.pop();
    let missing = || LedgerError::Corrupt {
        table: "events",
        column: "sequence",
        row: format!("sequence {sequence}"),
        problem: "is missing".to_owned(),
    };
    event.filter(|event| event.sequence == sequence).map(|event| event.chain_hash).ok_or_else(missing)
}
