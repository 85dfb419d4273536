//! The one thread that writes.
//!
//! It takes all waiting requests as one transaction, so that one sync serves them all. A request is
//! rejected before it writes anything, so that it does not undo its neighbours. If a request fails
//! half-way all the same, the batch is rolled back and repeated with a savepoint for each request;
//! savepoints are not the rule, because each copies every page that changes under it. No caller
//! gets an answer before the commit has returned. The first failure that does not belong to one
//! request ends all writing.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::failure::{LedgerState, StepError};
use super::queries;
use super::row_cache::RowCache;
use super::state_counts::Transition;
use super::transaction::WriteTxn;
use crate::ledger::hash_chain::ChainHead;
use crate::ledger::{LedgerError, Ticket};

pub(super) type ReplySender<T> = oneshot::Sender<Result<T, LedgerError>>;

/// One request to the writer.
pub(super) struct Job {
    /// Lets the caller cancel it until it is started.
    ticket: Option<Ticket>,
    request: Box<dyn Request>,
}

/// A step, and the reply that is sent after the commit.
trait Request: Send {
    fn run(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StepError>;
    fn reject(&mut self, error: LedgerError);
    fn reply(self: Box<Self>);
}

struct WriteRequest<Step, A> {
    step: Step,
    reply: ReplySender<A>,
    result: Option<Result<A, LedgerError>>,
}

/// The state of the writer thread.
pub(super) struct LedgerWriter {
    connection: Connection,
    state: Arc<LedgerState>,
    batch_size: usize,
    head: ChainHead,
    /// The file's [`queries::version`] in the last transaction. None before the first.
    version: Option<i64>,
    row_cache: RowCache,
    events_since_checkpoint: u64,
}

/// What a transaction has done so far.
struct BatchResult {
    head: ChainHead,
    transitions: Vec<Transition>,
}

/// Halts the ledger if the thread panics.
struct HaltOnPanic(Arc<LedgerState>);

/// An event dirties about five pages: this keeps the log near 20 MB, and checkpoints rare.
const EVENTS_PER_CHECKPOINT: u64 = 1_000;
/// Pages of log (256 MB) above which the writer waits for the readers, so that the log can start
/// over.
const WAL_RESTART_PAGES: i64 = 65_536;

/// Starts the thread. It ends, with a checkpoint, when the last sender is dropped and the queue is
/// empty.
pub(super) fn start(
    connection: Connection,
    state: Arc<LedgerState>,
    head: ChainHead,
    jobs: mpsc::Receiver<Job>,
    batch_size: usize,
) -> std::io::Result<JoinHandle<()>> {
    let writer = LedgerWriter::new(connection, state, head, batch_size);
    thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || writer.run(jobs))
}

impl LedgerWriter {
    /// Appends to the chain that ends at `head`.
    pub(super) fn new(connection: Connection, state: Arc<LedgerState>, head: ChainHead, batch_size: usize) -> Self {
        let row_cache = RowCache::default();
        Self { connection, state, batch_size, head, version: None, row_cache, events_since_checkpoint: 0 }
    }

    /// The writer's own connection, for reads between two transactions.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Gives up the connection.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let _halt_on_panic = HaltOnPanic(self.state.clone());
        let mut batch = Vec::new();
        while jobs.blocking_recv_many(&mut batch, self.batch_size) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
        if self.state.halted().is_none() {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    /// Executes a batch as one transaction and replies to every job in it.
    pub(super) fn serve(&mut self, mut batch: Vec<Job>) {
        let outcome = match self.state.halted() {
            Some(error) => Err(error.clone()),
            None => self.transact(&mut batch),
        };
        match outcome {
            Ok(BatchResult { head, transitions }) => {
                let events = head.sequence.saturating_sub(self.head.sequence);
                self.head = head;
                if let Some(counts) = self.state.counts() {
                    counts.record(head.sequence, transitions);
                }
                self.state.publish(head.sequence);
                batch.into_iter().for_each(Job::reply);
                self.checkpoint_if_due(events);
            }
            Err(error) => {
                self.roll_back();
                batch.into_iter().for_each(|job| job.fail(&error));
            }
        }
    }

    /// Executes all jobs as one transaction, committed when this returns `Ok`. Removes cancelled
    /// jobs from `batch`.
    fn transact(&mut self, batch: &mut Vec<Job>) -> Result<BatchResult, LedgerError> {
        self.begin()?;
        let (started, cancelled): (Vec<Job>, Vec<Job>) = std::mem::take(batch).into_iter().partition(Job::start);
        cancelled.into_iter().for_each(|job| job.fail(&LedgerError::Cancelled));
        *batch = started;
        let done = match self.run_batch(batch)? {
            Some(done) => done,
            None => {
                self.roll_back();
                self.begin()?;
                self.run_with_savepoints(batch)?
            }
        };
        let start = Instant::now();
        let synced = self.execute("COMMIT");
        if let Some(counts) = self.state.counts() {
            counts.metrics.record_commit(batch.len(), start.elapsed());
        }
        // A write into a file that has lost its name is lost when this process ends. It is on disk
        // after all if the name is put back.
        match synced.and_then(|()| self.state.verify_files()) {
            Ok(()) => Ok(done),
            Err(LedgerError::Overloaded) => Err(LedgerError::Overloaded),
            // The log may hold the whole transaction, and the next start would find it there.
            Err(error) => Err(LedgerError::CommitFailed(error.to_string())),
        }
    }

    /// Begins a transaction, and halts if the history does not end where this process left it.
    fn begin(&mut self) -> Result<(), LedgerError> {
        self.execute("BEGIN IMMEDIATE")?;
        let version = queries::version(&self.connection).map_err(|error| self.transaction_failed(error))?;
        if self.version == Some(version) {
            return Ok(());
        }
        // Another program has written: cached rows may be wrong, and the head is read again.
        self.row_cache.clear();
        let head = queries::head(&self.connection).map_err(|error| self.transaction_failed(error))?;
        if head != self.head {
            return Err(self.state.halt(LedgerError::Corrupt {
                table: "events",
                column: "chain_hash",
                row: format!("sequence {}", head.sequence),
                problem: "the history does not end where this process left it: another program has written".to_owned(),
            }));
        }
        self.version = Some(version);
        Ok(())
    }

    /// None: a step failed half-way.
    fn run_batch(&mut self, batch: &mut [Job]) -> Result<Option<BatchResult>, LedgerError> {
        let mut done = BatchResult { head: self.head, transitions: Vec::with_capacity(batch.len()) };
        for job in batch {
            let written = self.connection.total_changes();
            match self.step(&mut done, job) {
                Ok(()) => {}
                Err(error) if !error.is_statement_local() => return Err(self.transaction_failed(error)),
                Err(_) if self.connection.total_changes() != written => return Ok(None),
                Err(error) => job.reject(self.state.step_failed(error)),
            }
        }
        Ok(Some(done))
    }

    fn run_with_savepoints(&mut self, batch: &mut [Job]) -> Result<BatchResult, LedgerError> {
        let mut done = BatchResult { head: self.head, transitions: Vec::with_capacity(batch.len()) };
        for job in batch {
            self.execute("SAVEPOINT step")?;
            let (head, length) = (done.head, done.transitions.len());
            match self.step(&mut done, job) {
                Ok(()) => {}
                Err(error) if !error.is_statement_local() => return Err(self.transaction_failed(error)),
                Err(error) => {
                    done.head = head;
                    done.transitions.truncate(length);
                    self.row_cache.clear();
                    self.execute("ROLLBACK TO step")?;
                    job.reject(self.state.step_failed(error));
                }
            }
            self.execute("RELEASE step")?;
        }
        Ok(done)
    }

    fn step(&mut self, done: &mut BatchResult, job: &mut Job) -> Result<(), StepError> {
        let BatchResult { head, transitions } = done;
        let row_cache = &mut self.row_cache;
        job.request.run(&mut WriteTxn { connection: &self.connection, head, transitions, row_cache })
    }

    fn execute(&self, sql: &str) -> Result<(), LedgerError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| self.state.transaction_failed(&error))
    }

    fn transaction_failed(&self, error: StepError) -> LedgerError {
        match error {
            StepError::Sqlite(error) => self.state.transaction_failed(&error),
            StepError::Ledger(error) => self.state.halt(error),
        }
    }

    fn roll_back(&mut self) {
        // The cached rows were never committed.
        self.row_cache.clear();
        // Some failures have ended the transaction already.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            self.state.halt(LedgerError::Unavailable(error.to_string()));
        }
    }

    fn checkpoint_if_due(&mut self, events: u64) {
        self.events_since_checkpoint = self.events_since_checkpoint.saturating_add(events);
        if self.events_since_checkpoint < EVENTS_PER_CHECKPOINT {
            return;
        }
        self.events_since_checkpoint = 0;
        let pages = self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)");
        if pages.is_some_and(|pages| pages > WAL_RESTART_PAGES) {
            self.checkpoint("PRAGMA wal_checkpoint(RESTART)");
        }
    }

    /// Returns the number of pages in the log. SQLite's own automatic checkpoint is off because it
    /// does not report failures, and a failed sync must end all writing here too.
    fn checkpoint(&self, sql: &str) -> Option<i64> {
        match self.connection.query_row(sql, [], |row| row.get(1)) {
            Ok(pages) => Some(pages),
            Err(error) => {
                self.state.transaction_failed(&error);
                None
            }
        }
    }
}

impl Drop for HaltOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.halt(LedgerError::Unavailable("the ledger's writer has died".to_owned()));
        }
    }
}

impl Job {
    /// `step` may run twice; the effects of the first run are rolled back.
    pub(super) fn new<A: Send + 'static>(
        step: impl FnMut(&mut WriteTxn<'_>) -> Result<A, StepError> + Send + 'static,
        reply: ReplySender<A>,
    ) -> Self {
        Self { ticket: None, request: Box::new(WriteRequest { step, reply, result: None }) }
    }

    /// A job that its caller may cancel.
    pub(super) fn with_ticket(self, ticket: Ticket) -> Self {
        Self { ticket: Some(ticket), ..self }
    }

    /// False: the caller has cancelled it.
    fn start(&self) -> bool {
        self.ticket.as_ref().is_none_or(Ticket::start)
    }

    fn reject(&mut self, error: LedgerError) {
        self.request.reject(error);
    }

    fn reply(self) {
        self.request.reply();
    }

    /// Replies with the error that undid its transaction.
    fn fail(mut self, error: &LedgerError) {
        self.reject(error.clone());
        self.reply();
    }
}

impl<A, Step> Request for WriteRequest<Step, A>
where
    A: Send,
    Step: FnMut(&mut WriteTxn<'_>) -> Result<A, StepError> + Send,
{
    fn run(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StepError> {
        self.result = Some(Ok((self.step)(txn)?));
        Ok(())
    }

    fn reject(&mut self, error: LedgerError) {
        self.result = Some(Err(error));
    }

    fn reply(self: Box<Self>) {
        // The caller may be gone; the write stays recorded.
        drop(self.reply.send(self.result.unwrap_or_else(|| Err(writer_died()))));
    }
}

/// The writer ends with an unanswered request only by a panic, which may have come after the
/// commit.
pub(super) fn writer_died() -> LedgerError {
    LedgerError::CommitFailed("the writer has died".to_owned())
}
