//! The ledger in one SQLite file: the embedded backend.
//!
//! ```text
//! callers --> bounded queue --> one writer thread --> group commit, synced --> answers
//! callers --> read-only connections: each answer is one snapshot, never older than the caller's
//!             own last write; one row by its key on the caller's thread, others on a blocking one
//! ```
//!
//! ```text
//! open          the lock, the file, its checks, its migrations
//! writer        the writer thread: batches, commits, checkpoints
//! executor      where reads and writes run: on threads, or on the caller's
//! transaction   what a write does inside a transaction
//! evaluation    what a new refund would lead to
//! queries       all reads but pages
//! pages         pages of refunds, for lists
//! spending      what callers and accounts have asked for, for limits over a day
//! pauses        pauses of accounts
//! row_cache     rows that the writer need not read again
//! rows          rows as values of encoding
//! failure       which errors end all writing
//! file_watch    whether the open files still have their names
//! identity      what a ledger says about itself, and restored ledgers
//! state_counts  refunds counted by state
//! audit/        the offline verification of a file
//! backup        a copy, also of a ledger that is written to
//! survey        reads of a ledger that a gateway may have open
//! in_memory     the same ledger without threads, in memory: for simulations
//! migrations/   the tables and their constraints
//! ```
//!
//! The file belongs to one process, which holds an operating-system lock on `<path>.lock` for life.
//! `<path>-wal` and `<path>-shm` are part of the ledger while it is open, and `<path>-wal` also
//! after a crash: copy all of them or none.

mod audit;
mod backup;
mod evaluation;
mod executor;
mod failure;
mod file_watch;
mod identity;
mod in_memory;
mod open;
mod pages;
mod pauses;
mod queries;
mod row_cache;
mod rows;
mod spending;
mod state_counts;
mod survey;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

pub use self::audit::{AuditError, audit};
pub use self::backup::backup;
use self::executor::{Executor, Readers, Threads, WriterHandle};
use self::failure::{LedgerState, StepError};
use self::file_watch::{FileSet, FileWatcher};
use self::in_memory::InlineWriter;
pub use self::in_memory::SimulatedDisk;
use self::open::OpenedLedger;
pub use self::open::{OpenError, SqliteSettings};
use self::state_counts::StateCounts;
pub use self::survey::Survey;
use self::transaction::WriteTxn;
use self::writer::{Job, ReplySender, writer_died};
use crate::domain::authority::Actor;
use crate::domain::clock::Timestamp;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::place::Destination;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::ledger::admin::{Audit, BackupError, LedgerAdmin, LedgerIdentity, StartPause};
use crate::ledger::hash_chain::ChainHead;
use crate::ledger::{
    AccountPause, CreateOutcome, DueKind, DueQuery, Health, Ledger, LedgerError, ListQuery, ListedRefund, NewPause,
    NewRefund, OpenRefunds, Reassign, RecordEvents, Recorded, Reschedule,
};
use crate::telemetry::metrics::Metrics;

/// The ledger in one SQLite file. Dropping it without [`LedgerAdmin::close`] blocks until the
/// queued writes are done.
#[derive(Debug)]
pub struct SqliteLedger {
    state: Arc<LedgerState>,
    executor: Executor,
}

/// Interrupted refunds in one transaction at start-up: a few megabytes of memory and of log, and
/// one sync.
const INTERRUPTED_BATCH: u32 = 2_500;
/// How long [`LedgerAdmin::enable_metrics`] waits for the count: enough for some hundred thousand
/// refunds.
const COUNT_WAIT: Duration = Duration::from_millis(50);

impl SqliteLedger {
    /// Opens the ledger at `path`, or creates one, readable only by its owner. The directory must
    /// exist.
    ///
    /// A ledger whose last event does not follow from the one before it opens with
    /// [`Health::Corrupt`]: it can be read and not written.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(path: &Path, settings: SqliteSettings) -> Result<SqliteLedger, OpenError> {
        let OpenedLedger { lock, writer, path } = open::open(path, &settings)?;
        let readers = Readers::open(&path, settings.readers, settings.busy_timeout)?;
        let inline_readers = Readers::open(&path, settings.readers, Duration::ZERO)?;
        let (state, head) = recover(&writer).map_err(|problem| OpenError::Database { path: path.clone(), problem })?;
        // All files are open by now, including the log.
        state.set_files(FileSet::of(&path));
        let start_error = |source| OpenError::Io { path: path.clone(), doing: "start the writer of", source };
        let (jobs, queue) = mpsc::channel(settings.queue_length.max(1));
        let thread =
            writer::start(writer, state.clone(), head, queue, settings.batch_size.max(1)).map_err(start_error)?;
        let watched = state.clone();
        let watcher = FileWatcher::start(move || watched.verify_files().is_ok()).map_err(start_error)?;
        let writer = Mutex::new(Some(WriterHandle { jobs, thread, watcher, lock }));
        Ok(Self { state, executor: Executor::Threads(Threads { readers, inline_readers, writer }) })
    }

    /// Opens the ledger on `disk`, without threads: every call is done when it is first polled.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another ledger on it lives, [`OpenError::Database`]
    pub fn open_inline(disk: &SimulatedDisk) -> Result<SqliteLedger, OpenError> {
        let connection = disk.take()?;
        let (state, head) = recover(&connection).map_err(in_memory::database_error)?;
        let writer = InlineWriter::new(connection, &state, head, disk.clone());
        Ok(Self { state, executor: Executor::Inline(writer) })
    }

    /// Queues a job without waiting for room, and waits for its result.
    async fn write<T>(&self, job: impl FnOnce(ReplySender<T>) -> Job) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.executor.submit(job(reply))?;
        answer.await.unwrap_or_else(|_| Err(writer_died()))
    }

    /// As [`SqliteLedger::write`], but waits for room in the queue.
    async fn write_at_start<T: Send + 'static>(
        &self,
        step: impl FnMut(&mut WriteTxn<'_>) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.executor.submit_when_free(Job::new(step, reply)).await?;
        match answer.await.unwrap_or_else(|_| Err(writer_died())) {
            Err(LedgerError::Overloaded) => {
                Err(LedgerError::Unavailable("another program has the file locked".to_owned()))
            }
            answer => answer,
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.executor.read(&self.state, work).await
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn create(&self, create: NewRefund) -> Result<Recorded<CreateOutcome>, LedgerError> {
        let ticket = create.ticket.clone();
        let step = move |txn: &mut WriteTxn<'_>| {
            let outcome = transaction::create(txn, &create)?;
            Ok(Recorded { outcome, sequence: txn.head.sequence })
        };
        self.write(move |reply| Job::new(step, reply).with_ticket(ticket)).await
    }

    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        self.read(move |connection| {
            // One snapshot for the id, the reservations and the similar refunds.
            let snapshot = connection.unchecked_transaction()?;
            evaluation::evaluate_create(&snapshot, &create)
        })
        .await
    }

    async fn record(&self, record: RecordEvents) -> Result<Recorded<Refund>, LedgerError> {
        let step = move |txn: &mut WriteTxn<'_>| {
            let outcome = transaction::record(txn, &record)?;
            Ok(Recorded { outcome, sequence: txn.head.sequence })
        };
        self.write(move |reply| Job::new(step, reply)).await
    }

    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let mut total = 0_usize;
        loop {
            match self.write_at_start(move |txn| transaction::interrupt(txn, now, INTERRUPTED_BATCH)).await? {
                0 => return Ok(total),
                interrupted => total = total.saturating_add(interrupted),
            }
        }
    }

    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError> {
        self.write(move |reply| Job::new(move |txn| transaction::reassign(txn, &reassign), reply)).await
    }

    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError> {
        self.write(move |reply| Job::new(move |txn| transaction::reschedule(txn, &reschedule), reply)).await
    }

    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError> {
        let at = at.clone();
        self.write(move |reply| Job::new(move |txn| transaction::hasten(txn, &at, now), reply)).await
    }

    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.write_at_start(move |txn| transaction::note_places(txn, &configured, now)).await
    }

    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.read(queries::open_refunds).await
    }

    async fn open_states(&self) -> Result<Vec<(AccountName, State, u64)>, LedgerError> {
        self.read(queries::open_states).await
    }

    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::standstills(connection, &at)).await
    }

    async fn pause(&self, pause: NewPause) -> Result<AccountPause, LedgerError> {
        self.write(move |reply| Job::new(move |txn| pauses::begin(txn.connection, &pause), reply)).await
    }

    async fn resume(&self, account: &AccountName, actor: &Actor, now: Timestamp) -> Result<(), LedgerError> {
        let (account, actor) = (account.clone(), actor.clone());
        self.write(move |reply| Job::new(move |txn| pauses::end(txn.connection, &account, &actor, now), reply)).await
    }

    async fn pauses(&self) -> Result<Vec<AccountPause>, LedgerError> {
        self.read(pauses::all).await
    }

    async fn open_at(
        &self,
        at: &Destination,
        after_ordinal: u64,
        limit: u32,
    ) -> Result<Vec<ListedRefund>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::open_at(connection, &at, after_ordinal, limit)).await
    }

    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError> {
        let id = id.clone();
        let find = move |connection: &Connection| Ok(queries::find(connection, &id)?.map(|stored| stored.refund));
        self.executor.read_row(&self.state, find).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, LedgerError> {
        self.read(move |connection| pages::list(connection, &query)).await
    }

    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        let id = id.clone();
        self.read(move |connection| queries::events_of(connection, &id, after_revision, limit)).await
    }

    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.read(move |connection| queries::events_after(connection, sequence, limit)).await
    }

    async fn due(&self, query: DueQuery) -> Result<Vec<Refund>, LedgerError> {
        self.read(move |connection| queries::due(connection, &query)).await
    }

    async fn next_due(&self, kind: DueKind, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        let at = at.clone();
        self.read(move |connection| queries::next_due(connection, kind, &at)).await
    }

    async fn unapproved(&self, at: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        self.read(move |connection| queries::unapproved(connection, at, limit)).await
    }

    async fn next_approval_expiry(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.read(queries::next_approval_expiry).await
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
        self.state.committed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.state.health()
    }
}

#[async_trait]
impl LedgerAdmin for SqliteLedger {
    async fn enable_metrics(&self, metrics: Metrics) {
        self.state.set_counts(StateCounts::new(metrics));
        let state = self.state.clone();
        let counting = self.read(move |connection| {
            let Some(counts) = state.counts() else { return Ok(()) };
            match queries::counts(connection) {
                Ok((counted, sequence)) => counts.begin(counted, sequence),
                // Logged here, because the caller may have stopped waiting. A metric is no reason
                // to stop refunds.
                Err(error) => {
                    counts.give_up();
                    let problem = state.step_failed(error);
                    warn!(%problem, "could not count the refunds: their metric is absent until the next start");
                }
            }
            Ok(())
        });
        // The count goes on after the timeout.
        drop(tokio::time::timeout(COUNT_WAIT, counting).await);
    }

    fn counts(&self) -> Option<Vec<(AccountName, State, u64)>> {
        let counts = self.state.counts().and_then(StateCounts::counts)?;
        Some(counts.into_iter().map(|((account, state), count)| (account, state, count)).collect())
    }

    fn queue_length(&self) -> usize {
        self.executor.queue_length()
    }

    async fn oldest_doubt(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        let account = account.clone();
        self.read(move |connection| queries::time_of(connection, queries::OLDEST_DOUBT, &account)).await
    }

    async fn oldest_pending(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        let account = account.clone();
        self.read(move |connection| queries::time_of(connection, &queries::OLDEST_PENDING, &account)).await
    }

    async fn oldest_unapproved(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        let account = account.clone();
        self.read(move |connection| queries::time_of(connection, queries::OLDEST_UNAPPROVED, &account)).await
    }

    async fn keep_access_file(&self, digest: &str, text: &str, now: Timestamp) -> Result<(), LedgerError> {
        let (digest, text) = (digest.to_owned(), text.to_owned());
        self.write_at_start(move |txn| transaction::keep_access_file(txn, &digest, &text, now)).await
    }

    async fn verify(&self) -> Result<u64, LedgerError> {
        self.read(queries::verify).await
    }

    async fn backup(&self, to: &Path) -> Result<Audit, BackupError> {
        let to = to.to_owned();
        let copied = self.read(move |connection| Ok(backup::copy(connection, &to))).await;
        copied.map_err(|error| BackupError::Other(Box::new(error)))?
    }

    async fn identity(&self) -> Result<LedgerIdentity, LedgerError> {
        self.read(identity::read).await
    }

    async fn remember_checkpoints(&self) -> Result<(), LedgerError> {
        self.write_at_start(|txn| identity::remember_checkpoints(txn.connection)).await
    }

    async fn pause_if_restored(&self, start: StartPause) -> Result<Vec<AccountPause>, LedgerError> {
        self.write_at_start(move |txn| identity::pause_if_restored(txn.connection, &start)).await
    }

    async fn close(&self) {
        self.executor.close().await;
    }
}

/// Reads the head of the chain. The ledger is halted from the start if the last event does not
/// verify.
fn recover(writer: &Connection) -> Result<(Arc<LedgerState>, ChainHead), String> {
    match queries::verify_head(writer) {
        Ok(head) => Ok((Arc::new(LedgerState::new(head.sequence)), head)),
        Err(error) => {
            let head = queries::head(writer).unwrap_or(ChainHead::EMPTY);
            let state = LedgerState::new(head.sequence);
            let error = state.step_failed(error);
            if state.halted().is_none() { Err(error.to_string()) } else { Ok((Arc::new(state), head)) }
        }
    }
}
