//! The access file: read at the start, and again when its content changes.
//!
//! ```text
//! every 10 s, SIGHUP -> read -> parse, compare the accounts -> keep in the ledger -> in force
//!                                                  |
//!                       anything wrong: one WARN for each content, the file before stays in force
//! ```
//!
//! The content is polled and not watched: Kubernetes swaps symbolic links, and network file systems
//! report nothing.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::{AccessErrors, AccessPolicy};
use crate::domain::clock::Clock;
use crate::domain::ids::AccountName;
use crate::ledger::{LedgerAdmin, LedgerError};

/// The file, and what its content is compared with.
pub(super) struct AccessFile {
    pub(super) path: PathBuf,
    /// The configured accounts.
    pub(super) accounts: BTreeSet<AccountName>,
    pub(super) ledger: Arc<dyn LedgerAdmin>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Why the access file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// It cannot be read.
    #[error("{} {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// To be printed after the path.
        problem: String,
    },
    /// It has errors: one line each, with its path.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be kept in the ledger.
    #[error("could not keep the access file in the ledger: {0}")]
    Ledger(#[from] LedgerError),
}

const READ_INTERVAL: Duration = Duration::from_secs(10);
/// Far above any access file. A wrong path is an error and not read whole.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl AccessFile {
    /// Reads the file for the start.
    ///
    /// # Errors
    /// [`AccessFileError`]
    pub(super) async fn load(&self) -> Result<AccessPolicy, AccessFileError> {
        let text = read(self.path.clone()).await?;
        self.accept(&text).await
    }

    /// Puts each new content into force until `closing`. Reads the file at once when `reload`
    /// changes.
    pub(super) async fn follow(
        self,
        in_force: watch::Sender<Arc<AccessPolicy>>,
        mut reload: watch::Receiver<u64>,
        closing: CancellationToken,
    ) {
        // The content, or the problem, that a line of the log was about.
        let mut reported: Option<String> = None;
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                changed = reload.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(READ_INTERVAL) => {}
            }
            let (content, result) = match read(self.path.clone()).await {
                Ok(text) if text == in_force.borrow().text() => {
                    reported = None;
                    continue;
                }
                Ok(text) if reported.as_ref() == Some(&text) => continue,
                Ok(text) => {
                    let accepted = self.accept(&text).await;
                    (text, accepted)
                }
                Err(problem) => (problem.to_string(), Err(problem)),
            };
            match result {
                Ok(policy) => {
                    in_force.send_replace(Arc::new(policy));
                    reported = None;
                }
                // Not of the content: the next read tries again.
                Err(problem @ AccessFileError::Ledger(_)) => {
                    warn!(%problem, "could not use the access file: the one before stays in force")
                }
                Err(problem) if reported.as_ref() != Some(&content) => {
                    warn!(%problem, "could not use the access file: the one before stays in force");
                    reported = Some(content);
                }
                Err(_) => {}
            }
        }
    }

    /// Checks a content, and keeps it in the ledger before any event names it.
    async fn accept(&self, text: &str) -> Result<AccessPolicy, AccessFileError> {
        let path = self.path.display();
        let invalid = |errors: AccessErrors| {
            let lines: Vec<String> = errors.iter().map(|error| format!("{path}: {error}")).collect();
            AccessFileError::Invalid(lines.join("\n"))
        };
        let policy = AccessPolicy::parse(text).map_err(invalid)?;
        policy.check_accounts(&self.accounts).map_err(invalid)?;
        self.ledger.keep_access_file(&policy.digest(), policy.text(), self.clock.now()).await?;
        for warning in policy.warnings(Some(&self.accounts)) {
            warn!(warning, "access file: allowed, but likely a mistake");
        }
        info!(policy = policy.name(), callers = policy.callers().count(), "access file in force");
        Ok(policy)
    }
}

async fn read(path: PathBuf) -> Result<String, AccessFileError> {
    let named = path.clone();
    let unreadable = |problem: String| AccessFileError::Unreadable { path: named, problem };
    // Runtime threads must not block on the disk.
    let read = tokio::task::spawn_blocking(move || read_now(&path)).await;
    read.map_err(|error| error.to_string()).and_then(|read| read).map_err(unreadable)
}

fn read_now(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}
