//! The ledger in one SQLite file: the embedded default.
//!
//! ```text
//! callers --> bounded queue --> one writer thread --> group commit, synced --> answers
//! callers --> read-only connections (each answer is one snapshot, never older than the caller's own last write);
//!             one row by its key on the spot, everything else on a thread that may wait
//! ```
//!
//! ```text
//! opening      lock, file, checks, migrations
//! writer       the thread, its transactions and checkpoints
//! steps        what happens inside a transaction
//! reads        every question
//! recent       the rows that the writer need not read again
//! rows         columns <-> domain, strictly
//! chain        the hash chain, for auditors
//! halt         what ends all writing
//! presence     whether the open files still have their names
//! tally        refunds counted by state, commits timed
//! audit/       a look at a ledger that nobody has open
//! backup       a copy of a ledger, also while it is written to
//! survey       read-only queries on a ledger that a gateway may have open
//! inline       the same without threads, on a disk in memory: for simulations
//! migrations/  the tables and their constraints
//! ```
//!
//! The file belongs to one process: an operating-system lock on `<path>.lock` is held for life.
//! `<path>-wal` and `<path>-shm` are part of the ledger while it is open, and `<path>-wal` also
//! after a crash: copy all of them or none.

mod audit;
mod backup;
mod chain;
mod failure;
mod file_watch;
mod in_memory;
mod open;
mod queries;
mod row_cache;
mod rows;
mod state_counts;
mod survey;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::warn;

pub use self::audit::{Audit, AuditError, Finding, MAX_FINDINGS, audit};
pub use self::backup::{BackupError, backup};
use self::failure::{LedgerState, StepError};
use self::file_watch::{FileSet, FileWatcher};
use self::in_memory::InlineWriter;
pub use self::in_memory::SimulatedDisk;
pub use self::open::OpenError;
use self::open::Opened;
use self::state_counts::StateCounts;
pub use self::survey::Survey;
use self::transaction::WriteTxn;
use self::writer::{Job, Reply};
use crate::domain::clock::Timestamp;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::place::Destination;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::ledger::{
    CreateOutcome, Health, Ledger, LedgerError, ListQuery, Listed, NewRefund, OpenRefunds, Reassign, RecordEvents,
    Reschedule,
};
use crate::telemetry::metrics::Metrics;

/// How a ledger is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteSettings {
    /// Writes that may wait; one more is [`LedgerError::Overloaded`]. At least 1.
    pub queue_length: usize,
    /// Writes that share one transaction and one sync. At least 1.
    pub batch_size: usize,
    /// Reads at one time, and as many rows by their key besides. At least 1.
    pub readers: usize,
    /// How long to wait for another program that holds the file, such as a backup. At most a
    /// minute.
    pub busy_timeout: Duration,
    /// The file never grows beyond so many pages of 4 KiB: the disk is full before it is. None: as
    /// large as the disk allows.
    pub max_pages: Option<u32>,
}

/// The ledger in one SQLite file. Dropped without [`SqliteLedger::close`], it blocks until what is
/// queued is written.
#[derive(Debug)]
pub struct SqliteLedger {
    shared: Arc<LedgerState>,
    readers: Arc<Readers>,
    /// For rows by their key: these never wait for another program.
    hasty: Arc<Readers>,
    writing: Mutex<Option<WriterHandle>>,
    /// In place of all these where there are no threads.
    inline: Option<InlineWriter>,
}

/// What [`SqliteLedger::close`] ends.
#[derive(Debug)]
struct WriterHandle {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
    watch: FileWatcher,
    lock: File,
}

/// Read-only connections, lent one at a time.
#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// A lent connection; comes back by itself.
struct PooledConnection {
    connection: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

/// Refunds that one transaction takes up at start-up: some thousand fit into a few megabytes of
/// memory and of log, and into one sync.
const INTERRUPTED_AT_ONCE: u32 = 2_500;
/// Enough for a ledger of some hundred thousand refunds.
const COUNTING_WAITED_FOR: Duration = Duration::from_millis(50);

impl Default for SqliteSettings {
    fn default() -> Self {
        Self { queue_length: 4_096, batch_size: 64, readers: 4, busy_timeout: Duration::from_secs(5), max_pages: None }
    }
}

impl SqliteLedger {
    /// Opens the ledger at `path`, or makes one there, readable by its owner alone, in a directory
    /// that exists.
    ///
    /// A ledger whose last line does not follow from the one before it opens with
    /// [`Health::Corrupt`]: it can be read and not written.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(path: &Path, settings: SqliteSettings) -> Result<SqliteLedger, OpenError> {
        let Opened { lock, writer, path } = open::open(path, &settings)?;
        let readers = |busy_timeout| {
            let connections = (0..settings.readers.max(1)).map(|_| open::reader(&path, busy_timeout));
            Ok::<_, OpenError>(Arc::new(Readers::new(connections.collect::<Result<_, _>>()?)))
        };
        let (hasty, readers) = (readers(Duration::ZERO)?, readers(settings.busy_timeout)?);
        let (shared, tail) = recover(&writer).map_err(|problem| OpenError::Database { path: path.clone(), problem })?;
        // Everything is open by now, the log too.
        shared.set_file_watch(FileSet::of(&path));
        let starting = |source| OpenError::Io { path: path.clone(), doing: "start the writer of", source };
        let (jobs, queue) = mpsc::channel(settings.queue_length.max(1));
        let thread =
            writer::start(writer, shared.clone(), tail, queue, settings.batch_size.max(1)).map_err(starting)?;
        let watch = FileWatcher::start(shared.clone()).map_err(starting)?;
        let writing = Mutex::new(Some(WriterHandle { jobs, thread, watch, lock }));
        Ok(Self { shared, readers, hasty, writing, inline: None })
    }

    /// Finishes what is queued, clears the log into the file, and lets go of it. Everything asked
    /// later is [`LedgerError::Unavailable`].
    pub async fn close(&self) {
        self.readers.close();
        self.hasty.close();
        if let Some(inline) = &self.inline {
            inline.close();
        }
        if let Some(writing) = self.take_writing() {
            // It has ended either way; that it ended badly stands in the health word.
            drop(tokio::task::spawn_blocking(move || writing.end()).await);
        }
    }

    /// Computes the whole hash chain again, and compares every refund with its last line. How many
    /// lines there are.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] at the first place that does not fit, [`LedgerError::Unavailable`]
    pub async fn verify(&self) -> Result<u64, LedgerError> {
        self.read(queries::verify).await
    }

    /// From now on commits are timed by `metrics`, and refunds counted. To be asked for before
    /// anything is written.
    ///
    /// In a large ledger the counting goes on after this has returned: nobody waits for a walk
    /// through a million refunds.
    ///
    pub async fn measure(&self, metrics: Metrics) {
        self.shared.set_counts(StateCounts::new(metrics));
        let shared = self.shared.clone();
        let counting = self.read(move |connection| {
            let Some(tally) = shared.tally() else { return Ok(()) };
            match queries::counts(connection) {
                Ok((counts, sequence)) => tally.begin(counts, sequence),
                // Said here, for nobody may wait for it any more; and a metric need not stop a
                // refund.
                Err(fault) => {
                    tally.give_up();
                    let problem = shared.step_failed(fault);
                    warn!(%problem, "the refunds could not be counted: their metric is absent until the next start");
                }
            }
            Ok(())
        });
        // A read that nobody waits for any more goes on to its end.
        drop(tokio::time::timeout(COUNTING_WAITED_FOR, counting).await);
    }

    /// How many refunds of each account are in each state, as of the last commit. None where nobody
    /// measures, or it has not been counted yet.
    pub fn counts(&self) -> Option<Vec<(AccountName, State, u64)>> {
        let counts = self.shared.tally().and_then(StateCounts::counts)?;
        Some(counts.into_iter().map(|((account, state), count)| (account, state, count)).collect())
    }

    /// Writes that wait for the writer.
    pub fn queue_length(&self) -> usize {
        self.jobs().map_or(0, |jobs| jobs.max_capacity().saturating_sub(jobs.capacity()))
    }

    /// Since when the oldest doubt of an account has lasted; none where there is none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    pub async fn oldest_doubt(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        let account = account.clone();
        self.read(move |connection| queries::moment_of(connection, queries::OLDEST_DOUBT, &account)).await
    }

    fn take_writing(&self) -> Option<WriterHandle> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job>, LedgerError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.as_ref().map(|writing| writing.jobs.clone()).ok_or_else(closed)
    }

    /// Queues a job without waiting for room, and waits for its answer.
    async fn write<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        match &self.inline {
            Some(inline) => inline.serve(job(reply))?,
            None => self.jobs()?.try_send(job(reply)).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => LedgerError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => closed(),
            })?,
        }
        answer.await.unwrap_or_else(|_| Err(writer_died()))
    }

    /// Reads a row by its key on the spot, which takes less time than to wake another thread. Where
    /// another program holds the file, or every connection is lent, as everything else is read.
    async fn read_row<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let read = {
            let lease = self.hasty.lease_now();
            lease.as_ref().and_then(|lease| lease.connection.as_ref()).map(&work)
        };
        match read {
            Some(Ok(row)) => Ok(row),
            Some(Err(fault)) if !fault.is_busy() => Err(self.shared.step_failed(fault)),
            Some(Err(_)) | None => self.read(work).await,
        }
    }

    /// As [`SqliteLedger::write`] for start-up: waits for room in the queue instead of refusing.
    async fn write_at_start<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut WriteTxn<'_>) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::new(step, reply);
        match &self.inline {
            Some(inline) => inline.serve(job)?,
            None => self.jobs()?.send(job).await.map_err(|_| closed())?,
        }
        match answer.await.unwrap_or_else(|_| Err(writer_died())) {
            Err(LedgerError::Overloaded) => Err(LedgerError::Unavailable("another program holds the file".to_owned())),
            answer => answer,
        }
    }

    async fn refunds_at(
        &self,
        sql: &'static str,
        at: &Destination,
        numbers: Vec<i64>,
    ) -> Result<Vec<Refund>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::refunds_at(connection, sql, &at, &numbers)).await
    }

    async fn moment_at(&self, sql: &'static str, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::moment_at(connection, sql, &at)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        if let Some(inline) = &self.inline {
            return inline.read(work).map_err(|fault| self.shared.step_failed(fault));
        }
        let lease = self.readers.lease().await?;
        let shared = self.shared.clone();
        let reading = move || match &lease.connection {
            Some(connection) => work(connection).map_err(|fault| shared.step_failed(fault)),
            None => Err(closed()),
        };
        let unfinished = |error| LedgerError::Unavailable(format!("a read was not finished: {error}"));
        tokio::task::spawn_blocking(reading).await.unwrap_or_else(|error| Err(unfinished(error)))
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn create(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        let claim = create.claim.clone();
        self.write(move |reply| Job::new(move |desk| transaction::create(desk, &create), reply).claimed(claim)).await
    }

    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        self.read(move |connection| {
            // One snapshot: the id, the reservations and the similar ones belong run_batch.
            let snapshot = connection.unchecked_transaction()?;
            queries::evaluate_create(&snapshot, &create)
        })
        .await
    }

    async fn record(&self, record: RecordEvents) -> Result<Refund, LedgerError> {
        self.write(move |reply| Job::new(move |desk| transaction::record(desk, &record), reply)).await
    }

    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let mut total = 0_usize;
        loop {
            match self.write_at_start(move |desk| transaction::interrupt(desk, now, INTERRUPTED_AT_ONCE)).await? {
                0 => return Ok(total),
                interrupted => total = total.saturating_add(interrupted),
            }
        }
    }

    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError> {
        self.write(move |reply| Job::new(move |desk| transaction::reassign(desk, &reassign), reply)).await
    }

    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError> {
        self.write(move |reply| Job::new(move |desk| transaction::reschedule(desk, &reschedule), reply)).await
    }

    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError> {
        let at = at.clone();
        self.write(move |reply| Job::new(move |desk| transaction::hasten(desk, &at, now), reply)).await
    }

    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.write_at_start(move |desk| transaction::note_places(desk, &configured, now)).await
    }

    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.read(queries::open_refunds).await
    }

    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::standstills(connection, &at)).await
    }

    async fn open_at(&self, at: &Destination, after_ordinal: u64, limit: u32) -> Result<Vec<Listed>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::open_at(connection, &at, after_ordinal, limit)).await
    }

    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError> {
        let id = id.clone();
        self.read_row(move |connection| Ok(queries::find(connection, &id)?.map(|stored| stored.refund))).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<Listed>, LedgerError> {
        self.read(move |connection| queries::list(connection, &query)).await
    }

    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        let id = id.clone();
        self.read(move |connection| queries::events_of(connection, &id, after_revision, limit)).await
    }

    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.read(move |connection| queries::events_after(connection, sequence, limit)).await
    }

    async fn due(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        self.refunds_at(&queries::DUE, at, vec![now.as_micros(), i64::from(limit)]).await
    }

    async fn next_due(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        self.moment_at(&queries::NEXT_DUE, at).await
    }

    async fn due_for_lookup(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        self.refunds_at(&queries::DUE_FOR_LOOKUP, at, vec![now.as_micros(), i64::from(limit)]).await
    }

    async fn next_lookup_time(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        self.moment_at(&queries::NEXT_LOOKUP_TIME, at).await
    }

    async fn pending_before(
        &self,
        at: &Destination,
        created_until: Timestamp,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<Refund>, LedgerError> {
        let numbers = vec![created_until.as_micros(), i64::from(limit), i64::from(skip)];
        self.refunds_at(&queries::PENDING_BEFORE, at, numbers).await
    }

    async fn oldest_pending(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        let account = account.clone();
        self.read(move |connection| queries::moment_of(connection, queries::OLDEST_PENDING_ROW, &account)).await
    }

    async fn entered_state_at(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError> {
        let id = id.clone();
        self.read(move |connection| queries::entered_state_at(connection, &id, state)).await
    }

    async fn trace_parent_of(&self, id: &RefundId) -> Result<Option<String>, LedgerError> {
        let id = id.clone();
        self.read(move |connection| queries::trace_parent_of(connection, &id)).await
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.shared.committed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health()
    }
}

impl Drop for SqliteLedger {
    fn drop(&mut self) {
        if let Some(writing) = self.take_writing() {
            writing.end();
        }
    }
}

impl WriterHandle {
    /// The queue is served to its end, then the lock is let go: in this order.
    fn end(self) {
        drop(self.watch);
        drop(self.jobs);
        // A panic of the thread stands in the health word already.
        drop(self.thread.join());
        drop(self.lock);
    }
}

impl Readers {
    fn new(connections: Vec<Connection>) -> Self {
        Self { permits: Arc::new(Semaphore::new(connections.len())), idle: Mutex::new(connections) }
    }

    async fn lease(self: &Arc<Self>) -> Result<PooledConnection, LedgerError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        Ok(self.lent(permit))
    }

    fn lease_now(self: &Arc<Self>) -> Option<PooledConnection> {
        self.permits.clone().try_acquire_owned().ok().map(|permit| self.lent(permit))
    }

    fn lent(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> PooledConnection {
        let connection = self.idle().pop();
        PooledConnection { connection, readers: self.clone(), _permit: permit }
    }

    fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
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

/// Where the history ends, and what the writer and its readers share from there on. Halted where
/// the last line does not follow.
fn recover(writer: &Connection) -> Result<(Arc<LedgerState>, chain::ChainHead), String> {
    match queries::verify_tail(writer) {
        Ok(tail) => Ok((Arc::new(LedgerState::new(tail.sequence)), tail)),
        Err(fault) => {
            let tail = queries::tail(writer).unwrap_or(chain::ChainHead::EMPTY);
            let shared = LedgerState::new(tail.sequence);
            let error = shared.step_failed(fault);
            if shared.halted().is_none() { Err(error.to_string()) } else { Ok((Arc::new(shared), tail)) }
        }
    }
}

/// It never ends with a request in hand, except by a panic, which may have come after the commit.
fn writer_died() -> LedgerError {
    LedgerError::CommitFailed("the writer has died".to_owned())
}

fn closed() -> LedgerError {
    LedgerError::Unavailable("it is closed".to_owned())
}
