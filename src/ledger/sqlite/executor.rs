//! Where reads and writes run: on the ledger's threads, or all on the caller's thread.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::failure::{LedgerState, StepError, closed};
use super::file_watch::FileWatcher;
use super::in_memory::InlineWriter;
use super::open::{self, LedgerLock, OpenError};
use super::writer::Job;
use crate::ledger::LedgerError;

/// Chosen when the ledger is opened.
#[derive(Debug)]
pub(super) enum Executor {
    Threads(Threads),
    Inline(InlineWriter),
}

/// One writer thread, and connections for reads. Dropping it blocks until the queued writes are
/// done.
#[derive(Debug)]
pub(super) struct Threads {
    /// For reads on blocking threads; they wait for another program that has the file locked.
    pub(super) readers: Arc<Readers>,
    /// For reads by primary key on the caller's thread, if the runtime has several workers; their
    /// busy timeout is 0.
    pub(super) inline_readers: Arc<Readers>,
    /// None: closed.
    pub(super) writer: Mutex<Option<WriterHandle>>,
}

/// What closing the ledger ends.
#[derive(Debug)]
pub(super) struct WriterHandle {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) thread: JoinHandle<()>,
    pub(super) watcher: FileWatcher,
    pub(super) lock: LedgerLock,
}

/// Read-only connections, lent one at a time.
#[derive(Debug)]
pub(super) struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection of [`Readers`]. Dropping it gives it back.
pub(super) struct PooledConnection {
    pub(super) connection: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Executor {
    /// Queues a job without waiting for room.
    pub(super) fn submit(&self, job: Job) -> Result<(), LedgerError> {
        match self {
            Executor::Inline(inline) => inline.serve(job),
            Executor::Threads(threads) => threads.jobs()?.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => LedgerError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => closed(),
            }),
        }
    }

    /// Queues a job as soon as there is room.
    pub(super) async fn submit_when_free(&self, job: Job) -> Result<(), LedgerError> {
        match self {
            Executor::Inline(inline) => inline.serve(job),
            Executor::Threads(threads) => threads.jobs()?.send(job).await.map_err(|_| closed()),
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        state: &Arc<LedgerState>,
        work: impl FnOnce(&Connection) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let threads = match self {
            Executor::Inline(inline) => return inline.read(work).map_err(|error| state.step_failed(error)),
            Executor::Threads(threads) => threads,
        };
        let lease = threads.readers.lease().await?;
        let state = state.clone();
        let reading = move || match &lease.connection {
            Some(connection) => work(connection).map_err(|error| state.step_failed(error)),
            None => Err(closed()),
        };
        let unfinished = |error| LedgerError::Unavailable(format!("a read did not finish: {error}"));
        tokio::task::spawn_blocking(reading).await.unwrap_or_else(|error| Err(unfinished(error)))
    }

    /// Reads a row by its key on the caller's thread, which takes less time than waking another
    /// one. Falls back to [`Executor::read`] if that thread is the runtime's only worker, another
    /// program has the file locked or every connection is lent.
    pub(super) async fn read_row<T: Send + 'static>(
        &self,
        state: &Arc<LedgerState>,
        work: impl Fn(&Connection) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let read = match self {
            Executor::Inline(_) => None,
            Executor::Threads(_) if is_only_worker() => None,
            Executor::Threads(threads) => {
                let lease = threads.inline_readers.try_lease();
                lease.as_ref().and_then(|lease| lease.connection.as_ref()).map(&work)
            }
        };
        match read {
            Some(Ok(row)) => Ok(row),
            Some(Err(error)) if !error.is_busy() => Err(state.step_failed(error)),
            Some(Err(_)) | None => self.read(state, work).await,
        }
    }

    pub(super) fn queue_length(&self) -> usize {
        match self {
            Executor::Inline(_) => 0,
            Executor::Threads(threads) => {
                threads.jobs().map_or(0, |jobs| jobs.max_capacity().saturating_sub(jobs.capacity()))
            }
        }
    }

    pub(super) async fn close(&self) {
        let threads = match self {
            Executor::Inline(inline) => return inline.close(),
            Executor::Threads(threads) => threads,
        };
        threads.readers.close();
        threads.inline_readers.close();
        if let Some(writer) = threads.take_writer() {
            // It has ended either way; `health` says if it ended badly.
            drop(tokio::task::spawn_blocking(move || writer.end()).await);
        }
    }
}

/// Whether the runtime has one worker: a read that waits for its disk there would stop every other
/// task.
fn is_only_worker() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() == 1)
}

impl Threads {
    fn take_writer(&self) -> Option<WriterHandle> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job>, LedgerError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.as_ref().map(|writer| writer.jobs.clone()).ok_or_else(closed)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(writer) = self.take_writer() {
            writer.end();
        }
    }
}

impl WriterHandle {
    /// Finishes the queue, then releases the lock.
    fn end(self) {
        drop(self.watcher);
        drop(self.jobs);
        // A panic of the thread is in `health` already.
        drop(self.thread.join());
        drop(self.lock);
    }
}

impl Readers {
    /// Opens `count` connections to the ledger at `path`.
    pub(super) fn open(path: &Path, count: usize, busy_timeout: Duration) -> Result<Arc<Self>, OpenError> {
        let connections = (0..count.max(1)).map(|_| open::reader(path, busy_timeout));
        let connections: Vec<Connection> = connections.collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { permits: Arc::new(Semaphore::new(connections.len())), idle: Mutex::new(connections) }))
    }

    async fn lease(self: &Arc<Self>) -> Result<PooledConnection, LedgerError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        Ok(self.take(permit))
    }

    pub(super) fn try_lease(self: &Arc<Self>) -> Option<PooledConnection> {
        self.permits.clone().try_acquire_owned().ok().map(|permit| self.take(permit))
    }

    fn take(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> PooledConnection {
        let connection = self.idle().pop();
        PooledConnection { connection, readers: self.clone(), _permit: permit }
    }

    fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.readers.permits.is_closed()
        {
            self.readers.idle().push(connection);
        }
    }
}
