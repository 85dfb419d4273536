//! The one thread that writes.
//!
//! It takes whatever waits as one transaction, with a savepoint for each, so that one refusal does not undo its neighbours and one sync serves
//! them all. Nobody is answered before the commit has returned. The first failure that is not one caller's own ends all writing.

use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::chain::Tail;
use super::halt::{Fault, Shared};
use super::tally::Move;
use super::{reads, steps};
use crate::domain::clock::Timestamp;
use crate::domain::refund::Refund;
use crate::ledger::{Create, Created, LedgerError, Record};

pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// One request to the writer.
pub(super) enum Job {
    Create(Box<Create>, Reply<Created>),
    Record(Box<Record>, Reply<Refund>),
    /// At most so many refunds that were on their way.
    Interrupt(Timestamp, u32, Reply<usize>),
}

/// The thread's own things.
pub(super) struct Writer {
    connection: Connection,
    shared: std::sync::Arc<Shared>,
    batch_size: usize,
    tail: Tail,
    events_since_checkpoint: u64,
}

/// Tells everybody where the thread dies.
struct Alarm(std::sync::Arc<Shared>);

/// An answer that waits for the commit.
trait Answer {
    fn send(self: Box<Self>);
    fn fail(self: Box<Self>, error: &LedgerError);
}

struct Pending<T> {
    reply: Reply<T>,
    answer: Result<T, LedgerError>,
}

/// One event dirties about ten pages when it has a commit of its own: this keeps the log near 20 MB, and checkpoints rare.
const EVENTS_PER_CHECKPOINT: u64 = 500;
/// Pages of log (256 MB) above which the writer waits for the readers, so that the log can start over.
const LONG_LOG_PAGES: i64 = 65_536;

/// Starts the thread. It ends, with a checkpoint, when the last sender is gone and the queue is empty.
pub(super) fn start(
    connection: Connection,
    shared: std::sync::Arc<Shared>,
    tail: Tail,
    jobs: mpsc::Receiver<Job>,
    batch_size: usize,
) -> std::io::Result<JoinHandle<()>> {
    let writer = Writer::new(connection, shared, tail, batch_size);
    thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || writer.run(jobs))
}

impl Writer {
    /// Goes on from `tail`, where the history ends.
    pub(super) fn new(connection: Connection, shared: std::sync::Arc<Shared>, tail: Tail, batch_size: usize) -> Self {
        Self { connection, shared, batch_size, tail, events_since_checkpoint: 0 }
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
        let _alarm = Alarm(self.shared.clone());
        let mut batch = Vec::new();
        while jobs.blocking_recv_many(&mut batch, self.batch_size) > 0 {
            self.serve(std::mem::take(&mut batch));
        }
        if self.shared.halted().is_none() {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    /// One transaction; everybody in it has an answer when this returns.
    pub(super) fn serve(&mut self, batch: Vec<Job>) {
        let mut jobs = batch.into_iter();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut moves = Vec::new();
        let outcome = match self.shared.halted() {
            Some(error) => Err(error.clone()),
            None => self.transact(&mut jobs, &mut answers, &mut moves),
        };
        match outcome {
            Ok(tail) => {
                let events = tail.sequence.saturating_sub(self.tail.sequence);
                self.tail = tail;
                if let Some(tally) = self.shared.tally() {
                    tally.note(tail.sequence, moves);
                }
                self.shared.publish(tail.sequence);
                answers.into_iter().for_each(Answer::send);
                self.checkpoint_now_and_then(events);
            }
            Err(error) => {
                self.roll_back();
                answers.into_iter().for_each(|answer| answer.fail(&error));
                jobs.for_each(|job| job.fail(&error));
            }
        }
    }

    /// All jobs as one transaction, committed when this returns `Ok`. On `Err` the jobs that were not begun are still in `jobs`.
    fn transact(
        &self,
        jobs: &mut impl Iterator<Item = Job>,
        answers: &mut Vec<Box<dyn Answer>>,
        moves: &mut Vec<Move>,
    ) -> Result<Tail, LedgerError> {
        self.shared.files_are_there()?;
        self.execute("BEGIN IMMEDIATE")?;
        let mut tail = reads::tail(&self.connection).map_err(|fault| self.transaction_failed(fault))?;
        if tail != self.tail {
            return Err(self.shared.halt(LedgerError::Corrupt {
                table: "events",
                column: "chain_hash",
                row: format!("sequence {}", tail.sequence),
                problem: "the history does not end where this process left it: somebody else has written".to_owned(),
            }));
        }
        for job in jobs {
            answers.push(match job {
                Job::Create(create, reply) if !create.claim.begin() => {
                    Box::new(Pending { reply, answer: Err(LedgerError::Abandoned) })
                }
                Job::Create(create, reply) => self.step(&mut tail, moves, reply, |tail, moves| {
                    steps::create(&self.connection, tail, moves, &create)
                })?,
                Job::Record(record, reply) => self.step(&mut tail, moves, reply, |tail, moves| {
                    steps::record(&self.connection, tail, moves, &record)
                })?,
                Job::Interrupt(now, limit, reply) => {
                    let work = |tail: &mut Tail, moves: &mut Vec<Move>| {
                        steps::interrupt(&self.connection, tail, moves, now, limit)
                    };
                    self.step(&mut tail, moves, reply, work)?
                }
            });
        }
        let start = Instant::now();
        let synced = self.execute("COMMIT");
        if let Some(tally) = self.shared.tally() {
            tally.metrics.committed(answers.len(), start.elapsed());
        }
        // What went into a file that has lost its name is gone with this process.
        match synced.and_then(|()| self.shared.files_are_there()) {
            Ok(()) => Ok(tail),
            Err(LedgerError::Overloaded) => Err(LedgerError::Overloaded),
            // The log may hold it whole, and the next start would find it there.
            Err(error) => Err(LedgerError::CommitFailed(error.to_string())),
        }
    }

    /// One job in its own savepoint. `Err`: the whole transaction is lost, and this caller has been told.
    fn step<T: 'static>(
        &self,
        tail: &mut Tail,
        moves: &mut Vec<Move>,
        reply: Reply<T>,
        work: impl FnOnce(&mut Tail, &mut Vec<Move>) -> Result<T, Fault>,
    ) -> Result<Box<dyn Answer>, LedgerError> {
        match self.in_savepoint(tail, moves, work) {
            Ok(answer) => Ok(Box::new(Pending { reply, answer })),
            Err(error) => {
                Box::new(Pending { reply, answer: Err(error.clone()) }).send();
                Err(error)
            }
        }
    }

    fn in_savepoint<T>(
        &self,
        tail: &mut Tail,
        moves: &mut Vec<Move>,
        work: impl FnOnce(&mut Tail, &mut Vec<Move>) -> Result<T, Fault>,
    ) -> Result<Result<T, LedgerError>, LedgerError> {
        self.execute("SAVEPOINT step")?;
        let (mut after, moved) = (*tail, moves.len());
        match work(&mut after, moves) {
            Ok(done) => {
                self.execute("RELEASE step")?;
                *tail = after;
                Ok(Ok(done))
            }
            Err(fault) if fault.spares_the_transaction() => {
                moves.truncate(moved);
                self.execute("ROLLBACK TO step")?;
                self.execute("RELEASE step")?;
                Ok(Err(self.shared.step_failed(fault)))
            }
            Err(fault) => Err(self.transaction_failed(fault)),
        }
    }

    fn execute(&self, sql: &str) -> Result<(), LedgerError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| self.shared.transaction_failed(&error))
    }

    fn transaction_failed(&self, fault: Fault) -> LedgerError {
        match fault {
            Fault::Sqlite(error) => self.shared.transaction_failed(&error),
            Fault::Ledger(error) => self.shared.halt(error),
        }
    }

    fn roll_back(&self) {
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
        if pages.is_some_and(|pages| pages > LONG_LOG_PAGES) {
            self.checkpoint("PRAGMA wal_checkpoint(RESTART)");
        }
    }

    /// Pages in the log. SQLite's own automatic checkpoint is off because it keeps its failures to itself, and a sync that failed must end
    /// all writing here too.
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

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.halt(LedgerError::Unavailable("the ledger's writer has died".to_owned()));
        }
    }
}

impl Job {
    fn fail(self, error: &LedgerError) {
        // A caller that has gone does not need the answer.
        match self {
            Job::Create(_, reply) => drop(reply.send(Err(error.clone()))),
            Job::Record(_, reply) => drop(reply.send(Err(error.clone()))),
            Job::Interrupt(_, _, reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

impl<T> Answer for Pending<T> {
    fn send(self: Box<Self>) {
        let Pending { reply, answer } = *self;
        // A caller that has gone does not need the answer: what was recorded is recorded.
        drop(reply.send(answer));
    }

    fn fail(self: Box<Self>, error: &LedgerError) {
        drop(self.reply.send(Err(error.clone())));
    }
}
