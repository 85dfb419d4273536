//! Whether the names of the ledger's files still lead to the files that are open.
//!
//! A file that was removed or replaced can be written to and synced as before, and all of it is
//! lost with the process. So the writer checks after each commit and before any reply: what is
//! acknowledged was in a file that has its name. A check before the transaction as well would add
//! nothing to that. A thread checks in between, so that a gateway with nothing to write notices
//! too, within [`CHECK_INTERVAL`].
//!
//! No name implies another: without the log's index or the lock, a second gateway could start on
//! the same file, and neither would see the other's writes. So no attempt may leave then.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::open::sibling;

/// The file that each name led to when the ledger was opened.
#[derive(Debug)]
pub(super) struct FileSet {
    files: Vec<(PathBuf, Identity)>,
}

/// The thread that checks in between. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct FileWatcher {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Device and inode: what a write to a file does not change.
type Identity = (u64, u64);

/// A check reads four cached inodes, which costs nothing next to a sync; a second is soon enough
/// for a health status.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl FileSet {
    /// Of the ledger at `path`, which is open: the file, its log, the log's index and the lock.
    pub(super) fn of(path: &Path) -> Self {
        let names = ["", "-wal", "-shm", ".lock"].map(|suffix| sibling(path, suffix));
        let present = |name: PathBuf| name.metadata().ok().map(|metadata| (name, identity(&metadata)));
        Self { files: names.into_iter().filter_map(present).collect() }
    }

    /// What happened to a file that has lost its name. None: all have theirs.
    pub(super) fn problem(&self) -> Option<String> {
        self.files.iter().find_map(|(name, known)| match name.metadata() {
            Ok(metadata) if identity(&metadata) == *known => None,
            Ok(_) => Some(format!("{} was replaced while it was open", name.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some(format!("{} was removed while it was open", name.display()))
            }
            Err(error) => Some(format!("{} can no longer be found: {error}", name.display())),
        })
    }
}

impl FileWatcher {
    /// Calls `check` until it returns false, or until dropped.
    pub(super) fn start(check: impl Fn() -> bool + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let watch = move || {
            while stopped.recv_timeout(CHECK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                if !check() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ledger-watch".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread leaves nothing half done.
            drop(thread.join());
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

/// On other systems an open file cannot be replaced; only its absence is noticed.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}
