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
        let policy = self.check(&read(self.path.clone()).await?)?;
        self.keep(&policy).await?;
        self.report(&policy);
        Ok(policy)
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
        let mut is_kept = true;
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                changed = reload.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(READ_INTERVAL) => {}
            }
            let present = in_force.borrow().clone();
            let (content, result) = match read(self.path.clone()).await {
                Ok(text) if text == present.text() => {
                    reported = None;
                    is_kept = is_kept || self.keep(&present).await.is_ok();
                    continue;
                }
                Ok(text) if reported.as_ref() == Some(&text) => continue,
                Ok(text) => {
                    let checked = self.check(&text);
                    (text, checked)
                }
                Err(problem) => (problem.to_string(), Err(problem)),
            };
            match result {
                Ok(policy) => {
                    // Before it is in force, so before an event names it. A caller that was removed
                    // is refused even if the ledger cannot write.
                    let kept = self.keep(&policy).await;
                    if let Err(problem) = &kept {
                        warn!(%problem, "could not keep the access file in the ledger yet: it is in force");
                    }
                    is_kept = kept.is_ok();
                    self.report(&policy);
                    in_force.send_replace(Arc::new(policy));
                    reported = None;
                }
                Err(problem) if reported.as_ref() != Some(&content) => {
                    warn!(%problem, "could not use the access file: the one before stays in force");
                    reported = Some(content);
                }
                Err(_) => {}
            }
        }
    }

    /// # Errors
    /// [`AccessFileError::Invalid`]
    fn check(&self, text: &str) -> Result<AccessPolicy, AccessFileError> {
        let path = self.path.display();
        let invalid = |errors: AccessErrors| {
            let lines: Vec<String> = errors.iter().map(|error| format!("{path}: {error}")).collect();
            AccessFileError::Invalid(lines.join("\n"))
        };
        let policy = AccessPolicy::parse(text).map_err(invalid)?;
        policy.check_accounts(&self.accounts).map_err(invalid)?;
        Ok(policy)
    }

    async fn keep(&self, policy: &AccessPolicy) -> Result<(), LedgerError> {
        self.ledger.keep_access_file(&policy.digest(), policy.text(), self.clock.now()).await
    }

    fn report(&self, policy: &AccessPolicy) {
        for warning in policy.warnings(Some(&self.accounts)) {
            warn!(warning, "access file: allowed, but likely a mistake");
        }
        info!(policy = policy.name(), callers = policy.callers().count(), "access file in force");
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::domain::clock::SystemClock;
    use crate::ledger::sqlite::{SqliteLedger, SqliteSettings};

    const ONE: &str = "[callers.one]\nunix_users = [1]\naccounts = [\"*\"]\n";
    const TWO: &str = "[callers.two]\nunix_users = [2]\naccounts = [\"*\"]\n";

    struct Following {
        dir: tempfile::TempDir,
        in_force: watch::Receiver<Arc<AccessPolicy>>,
        ledger: Arc<SqliteLedger>,
        _reload: watch::Sender<u64>,
    }

    async fn following() -> Following {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        std::fs::write(&path, ONE).unwrap();
        let ledger = SqliteLedger::open(&dir.path().join("recoup.db"), SqliteSettings::default()).unwrap();
        let ledger = Arc::new(ledger);
        let file = AccessFile { path, accounts: BTreeSet::new(), ledger: ledger.clone(), clock: Arc::new(SystemClock) };
        let (in_force, reload) = (watch::Sender::new(Arc::new(file.load().await.unwrap())), watch::Sender::new(0));
        let following = Following { dir, in_force: in_force.subscribe(), ledger, _reload: reload.clone() };
        tokio::spawn(file.follow(in_force, reload.subscribe(), CancellationToken::new()));
        following
    }

    impl Following {
        fn write(&self, text: &str) {
            std::fs::write(self.dir.path().join("access.toml"), text).unwrap();
        }

        async fn next(&mut self) -> String {
            self.in_force.changed().await.unwrap();
            self.in_force.borrow_and_update().text().to_owned()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_content_is_in_force_without_a_signal_and_a_broken_one_never() {
        let mut it = following().await;
        for (content, expected) in [(TWO, TWO), ("[callers", ""), (ONE, ONE)] {
            it.write(content);
            let begin = Instant::now();
            if expected.is_empty() {
                tokio::time::timeout(READ_INTERVAL * 5, it.next()).await.unwrap_err();
                assert_eq!(it.in_force.borrow().text(), TWO);
            } else {
                assert_eq!(it.next().await, expected);
                assert!(begin.elapsed() <= Duration::from_secs(15), "{:?}", begin.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_removed_even_if_the_ledger_cannot_write() {
        let mut it = following().await;
        it.ledger.close().await;
        it.write(TWO);
        assert_eq!(it.next().await, TWO);
    }
}
