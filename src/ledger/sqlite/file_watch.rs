//! Whether the names of the ledger's files still lead to the files that are open.
//!
//! A file that was removed or replaced can be written to and synced as before, and all of it is
//! lost with the process. So the writer looks before each transaction, and again after the commit
//! and before anybody hears of it: what is acknowledged was in a file that has its name. A thread
//! looks in between, so that a gateway with nothing to write says so too, within
//! [`CHECK_INTERVAL`].

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::failure::LedgerState;
use super::open::sibling;

/// Which file each name led to when the ledger was opened.
#[derive(Debug)]
pub(super) struct FileSet {
    files: Vec<(PathBuf, Identity)>,
}

/// The thread that looks in between; ends when dropped.
#[derive(Debug)]
pub(super) struct FileWatcher {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What stays the same however a file is written to.
type Identity = (u64, u64);

/// Four looks at names that the system has in memory: nothing sibling a sync, and a second is soon
/// enough for a health word.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl FileSet {
    /// Of the ledger at `path`, which is open: the file, its log, the log's index and the lock.
    pub(super) fn of(path: &Path) -> Self {
        let names = ["", "-wal", "-shm", ".lock"].map(|suffix| sibling(path, suffix));
        let present = |name: PathBuf| name.metadata().ok().map(|metadata| (name, identity(&metadata)));
        Self { files: names.into_iter().filter_map(present).collect() }
    }

    /// The sentence for a file that is not there any more.
    pub(super) fn fault(&self) -> Option<String> {
        self.files.iter().find_map(|(name, known)| match name.metadata() {
            Ok(metadata) if identity(&metadata) == *known => None,
            Ok(_) => Some(format!("{} was replaced while it was open", name.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some(format!("{} was removed while it was open", name.display()))
            }
            Err(error) => Some(format!("{} cannot be found any more: {error}", name.display())),
        })
    }
}

impl FileWatcher {
    /// Looks until dropped, or until the ledger has stopped writing.
    pub(super) fn start(shared: Arc<LedgerState>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let look = move || {
            while stopped.recv_timeout(CHECK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                if shared.verify_files().is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ledger-watch".to_owned()).spawn(look)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It holds nothing that could be left half done.
            drop(thread.join());
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

/// Elsewhere a file that is open cannot be replaced; only its absence is seen.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}
