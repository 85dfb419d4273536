//! What the configuration says about checkpoints.

use std::path::PathBuf;
use std::time::Duration;

/// `[checkpoint]`, if it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// The file that checkpoints are appended to.
    pub file: PathBuf,
    /// The file of the private key: see [`super::KeyFile`].
    pub key_file: PathBuf,
    /// How often a checkpoint is written, if there is something new.
    pub every: Duration,
}

impl CheckpointSettings {
    /// The default of [`CheckpointSettings::every`].
    pub const EVERY: Duration = Duration::from_secs(60);
}
