//! Checkpoints: signed notes that say how far the ledger's history reaches. A copy that is kept
//! elsewhere shows a ledger that was rewritten, or put back to an older state.
//!
//! ```text
//! settings  what the configuration says
//! key       Ed25519 keys: the private one in a file, the public one as a verifier key
//! note      one checkpoint as a signed note (c2sp.org/signed-note)
//! file      the file that notes are appended to
//! history   at a start: does the newest note fit the ledger?
//! writer    the task that signs and appends, and the newest note for callers
//! check     an exported history against itself and against notes, offline
//! ```
//!
//! A compromised host can sign anything, so only a copy of the notes on another machine proves
//! anything against an intruder on this one. The file on this machine protects against mistakes:
//! an old copy of the ledger that is put back would send again what it has forgotten.

mod check;
mod file;
mod history;
mod key;
mod note;
mod settings;
#[cfg(test)]
mod tests;
mod writer;

pub use self::check::{CheckError, HistoryCheck, check};
pub use self::file::CheckpointFileError;
pub use self::history::{CheckpointError, LedgerHistory, LostHistory};
pub use self::key::{InvalidKey, KeyFile, KeyFileError, VerifierKey};
pub use self::note::{Checkpoint, SignedCheckpoint};
pub use self::settings::CheckpointSettings;
pub use self::writer::{CheckpointTask, Checkpoints};
