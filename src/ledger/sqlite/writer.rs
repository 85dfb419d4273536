//! The one thread that writes.
//!
//! It takes whatever waits as one transaction, so that one sync serves them all. What is refused is
//! refused before anything of it is written, so that it does not undo its neighbours. Should a step
//! fail half-way all the same, everything is taken back and done again with a savepoint for each:
//! not at once so, because a savepoint copies every page that is changed under it. Nobody is
//! answered before the commit has returned. The first failure that is not one caller's own ends all
//! writing.

use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::chain::ChainHead;
use super::failure::{LedgerState, StepError};
use super::row_cache::RowCache;
use super::state_counts::Transition;
use super::transaction::WriteTxn;
use super::{queries, writer_died};
use crate::ledger::{LedgerError, Ticket};

pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// One request to the writer: a step, and who waits for its answer.
pub(super) struct Job {
    /// Lets the caller withdraw it as long as it has not begun.
    claim: Option<Ticket>,
    request: Box<dyn Request>,
}

/// A step whose answer is given when the commit has returned.
trait Request: Send {
    fn run(&mut self, desk: &mut WriteTxn<'_>) -> Result<(), StepError>;
    fn refuse(&mut self, error: LedgerError);
    fn answer(self: Box<Self>);
}

struct WriteRequest<Step, A> {
    step: Step,
    reply: Reply<A>,
    answer: Option<Result<A, LedgerError>>,
}

/// The thread's own things.
pub(super) struct Writer {
    connection: Connection,
    shared: std::sync::Arc<LedgerState>,
    batch_size: usize,
    tail: ChainHead,
    /// The file's [`queries::version`] in the last transaction; none before the first.
    version: Option<i64>,
    recent: RowCache,
    events_since_checkpoint: u64,
}

/// What a transaction has done so far.
struct BatchResult {
    tail: ChainHead,
    moves: Vec<Transition>,
}

/// Tells everybody where the thread dies.
struct HaltOnPanic(std::sync::Arc<LedgerState>);

/// One event dirties about ten pages when it has a commit of its own: this keeps the log near 20
/// MB, and checkpoints rare.
const EVENTS_PER_CHECKPOINT: u64 = 500;
/// Pages of log (256 MB) above which the writer waits for the readers, so that the log can start
/// over.
const WAL_RESTART_PAGES: i64 = 65_536;

/// Starts the thread. It ends, with a checkpoint, when the last sender is gone and the queue is
/// empty.
pub(super) fn start(
    connection: Connection,
    shared: std::sync::Arc<LedgerState>,
    tail: ChainHead,
    jobs: mpsc::Receiver<Job>,
    batch_size: usize,
) -> std::io::Result<JoinHandle<()>> {
    let writer = Writer::new(connection, shared, tail, batch_size);
    thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || writer.run(jobs))
}

impl Writer {
    /// Goes on from `tail`, where the history ends.
    pub(super) fn new(
        connection: Connection,
        shared: std::sync::Arc<LedgerState>,
        tail: ChainHead,
        batch_size: usize,
    ) -> Self {
        let recent = RowCache::default();
        Self { connection, shared, batch_size, tail, version: None, recent, events_since_checkpoint: 0 }
    }

    /// What it writes with: the same file, the same moment.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What it wrote with, for whoever goes on.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let _alarm = HaltOnPanic(self.shared.clone());
        let mut batch = Vec::new();
        while jobs.blocking_recv_many(&mut batch, self.batch_size) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
        if self.shared.halted().is_none() {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    /// One transaction; everybody in it has an answer when this returns.
    pub(super) fn serve(&mut self, mut batch: Vec<Job>) {
        let outcome = match self.shared.halted() {
            Some(error) => Err(error.clone()),
            None => self.transact(&mut batch),
        };
        match outcome {
            Ok(BatchResult { tail, moves }) => {
                let events = tail.sequence.saturating_sub(self.tail.sequence);
                self.tail = tail;
                if let Some(tally) = self.shared.tally() {
                    tally.note(tail.sequence, moves);
                }
                self.shared.publish(tail.sequence);
                batch.into_iter().for_each(Job::tell);
                self.checkpoint_now_and_then(events);
            }
            Err(error) => {
                self.roll_back();
                batch.into_iter().for_each(|job| job.fail(&error));
            }
        }
    }

    /// All jobs as one transaction, committed when this returns `Ok`. Only those that nobody has
    /// withdrawn are left in `batch`.
    fn transact(&mut self, batch: &mut Vec<Job>) -> Result<BatchResult, LedgerError> {
        self.begin()?;
        let (begun, withdrawn): (Vec<Job>, Vec<Job>) = std::mem::take(batch).into_iter().partition(Job::begin);
        withdrawn.into_iter().for_each(|job| job.fail(&LedgerError::Abandoned));
        *batch = begun;
        let work = match self.run_batch(batch)? {
            Some(work) => work,
            None => {
                self.roll_back();
                self.begin()?;
                self.run_with_savepoints(batch)?
            }
        };
        let start = Instant::now();
        let synced = self.execute("COMMIT");
        if let Some(tally) = self.shared.tally() {
            tally.metrics.record_commit(batch.len(), start.elapsed());
        }
        // What went into a file that has lost its name is gone with this process.
        match synced.and_then(|()| self.shared.verify_files()) {
            Ok(()) => Ok(work),
            Err(LedgerError::Overloaded) => Err(LedgerError::Overloaded),
            // The log may hold it whole, and the next start would find it there.
            Err(error) => Err(LedgerError::CommitFailed(error.to_string())),
        }
    }

    /// The transaction begins where this process left the file, or not at all.
    fn begin(&mut self) -> Result<(), LedgerError> {
        self.shared.verify_files()?;
        self.execute("BEGIN IMMEDIATE")?;
        let version = queries::version(&self.connection).map_err(|fault| self.transaction_failed(fault))?;
        if self.version == Some(version) {
            return Ok(());
        }
        // Somebody else has written. What is remembered of the rows may be wrong, and what the
        // history says is looked at again.
        self.recent.forget();
        let tail = queries::tail(&self.connection).map_err(|fault| self.transaction_failed(fault))?;
        if tail != self.tail {
            return Err(self.shared.halt(LedgerError::Corrupt {
                table: "events",
                column: "chain_hash",
                row: format!("sequence {}", tail.sequence),
                problem: "the history does not end where this process left it: somebody else has written".to_owned(),
            }));
        }
        self.version = Some(version);
        Ok(())
    }

    /// None: a step has failed half-way.
    fn run_batch(&mut self, batch: &mut [Job]) -> Result<Option<BatchResult>, LedgerError> {
        let mut work = BatchResult { tail: self.tail, moves: Vec::with_capacity(batch.len()) };
        for job in batch {
            let written = self.connection.total_changes();
            match self.step(&mut work, job) {
                Ok(()) => {}
                Err(fault) if !fault.is_statement_local() => return Err(self.transaction_failed(fault)),
                Err(_) if self.connection.total_changes() != written => return Ok(None),
                Err(fault) => job.refuse(self.shared.step_failed(fault)),
            }
        }
        Ok(Some(work))
    }

    fn run_with_savepoints(&mut self, batch: &mut [Job]) -> Result<BatchResult, LedgerError> {
        let mut work = BatchResult { tail: self.tail, moves: Vec::with_capacity(batch.len()) };
        for job in batch {
            self.execute("SAVEPOINT step")?;
            let (tail, moved) = (work.tail, work.moves.len());
            match self.step(&mut work, job) {
                Ok(()) => {}
                Err(fault) if !fault.is_statement_local() => return Err(self.transaction_failed(fault)),
                Err(fault) => {
                    work.tail = tail;
                    work.moves.truncate(moved);
                    self.recent.forget();
                    self.execute("ROLLBACK TO step")?;
                    job.refuse(self.shared.step_failed(fault));
                }
            }
            self.execute("RELEASE step")?;
        }
        Ok(work)
    }

    fn step(&mut self, work: &mut BatchResult, job: &mut Job) -> Result<(), StepError> {
        let BatchResult { tail, moves } = work;
        let mut desk = WriteTxn { connection: &self.connection, tail, moves, recent: &mut self.recent };
        job.request.run(&mut desk)
    }

    fn execute(&self, sql: &str) -> Result<(), LedgerError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| self.shared.transaction_failed(&error))
    }

    fn transaction_failed(&self, fault: StepError) -> LedgerError {
        match fault {
            StepError::Sqlite(error) => self.shared.transaction_failed(&error),
            StepError::Ledger(error) => self.shared.halt(error),
        }
    }

    fn roll_back(&mut self) {
        // What was remembered of the rows has not come about.
        self.recent.forget();
        // Some failures have ended the transaction already.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            self.shared.halt(LedgerError::Unavailable(error.to_string()));
        }
    }

    fn checkpoint_now_and_then(&mut self, events: u64) {
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

    /// Pages in the log. SQLite's own automatic checkpoint is off because it keeps its failures to
    /// itself, and a sync that failed must end all writing here too.
    fn checkpoint(&self, sql: &str) -> Option<i64> {
        match self.connection.query_row(sql, [], |row| row.get(1)) {
            Ok(pages) => Some(pages),
            Err(error) => {
                self.shared.transaction_failed(&error);
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
    /// `step` may run more than once: its earlier effects were rolled back.
    pub(super) fn new<A: Send + 'static>(
        step: impl FnMut(&mut WriteTxn<'_>) -> Result<A, StepError> + Send + 'static,
        reply: Reply<A>,
    ) -> Self {
        Self { claim: None, request: Box::new(WriteRequest { step, reply, answer: None }) }
    }

    /// A job that its caller may withdraw.
    pub(super) fn claimed(self, claim: Ticket) -> Self {
        Self { claim: Some(claim), ..self }
    }

    /// False: it was withdrawn, leave it.
    fn begin(&self) -> bool {
        self.claim.as_ref().is_none_or(Ticket::begin)
    }

    fn refuse(&mut self, error: LedgerError) {
        self.request.refuse(error);
    }

    fn tell(self) {
        self.request.answer();
    }

    /// Whatever it came to is not on disk.
    fn fail(mut self, error: &LedgerError) {
        self.refuse(error.clone());
        self.tell();
    }
}

impl<A, Step> Request for WriteRequest<Step, A>
where
    A: Send,
    Step: FnMut(&mut WriteTxn<'_>) -> Result<A, StepError> + Send,
{
    fn run(&mut self, desk: &mut WriteTxn<'_>) -> Result<(), StepError> {
        self.answer = Some(Ok((self.step)(desk)?));
        Ok(())
    }

    fn refuse(&mut self, error: LedgerError) {
        self.answer = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        // A caller that has gone does not need the answer: what was recorded is recorded.
        drop(self.reply.send(self.answer.unwrap_or_else(|| Err(writer_died()))));
    }
}
