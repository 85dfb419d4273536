//! The ledger's history as a stream: what was, and then what comes, without a gap between the two.
//!
//! ```text
//! commits --> follow: one read for all, 10 times a second at most --> EventBuffer --> the feeds that keep up
//!                                                                 ledger --> a feed that has fallen behind, page by page
//! ```
//!
//! A feed takes its next events only as its reader asks, so a slow reader costs nothing but its own
//! time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::history::EventRecord;
use crate::engine::{EngineCore, EngineError};
use crate::ledger::{Health, Ledger, LedgerError};

/// One reader of the history.
pub struct EventStream {
    ledger: Arc<dyn Ledger>,
    recent: Arc<EventBuffer>,
    committed: watch::Receiver<u64>,
    draining: CancellationToken,
    /// The last event that was given to the reader.
    after: u64,
    _place: OwnedSemaphorePermit,
}

/// A line of the history, shared by all who read it.
#[derive(Debug)]
pub struct SharedEvent {
    /// The line.
    pub record: EventRecord,
    encoded: OnceLock<Bytes>,
}

/// The end of the history, for the feeds that keep up with it.
#[derive(Default)]
pub(super) struct EventBuffer {
    held: Mutex<Held>,
    /// There is more of it.
    grown: Notify,
    /// There is a reader.
    opened: Notify,
}

#[derive(Default)]
struct Held {
    readers: usize,
    /// Without gaps, up to `end`.
    events: VecDeque<Arc<SharedEvent>>,
    end: u64,
}

/// What a feed finds of the events after its last one.
enum Found {
    Events(Vec<Arc<SharedEvent>>),
    /// They have left already: the ledger has them.
    Gone,
    Nothing,
}

/// Events given at once.
const PAGE: u32 = 256;
/// Events held: a second of a busy ledger, some megabytes.
const HELD: u32 = 4_096;
/// Between two reads for all. A commit after a rest is shown at once; of a stream of commits each
/// wakes nobody by itself.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(100);

impl EventStream {
    pub(super) fn open(shared: &EngineCore, after: u64) -> Result<EventStream, EngineError> {
        if shared.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let committed = shared.ledger.committed();
        let last = *committed.borrow();
        if after > last {
            return Err(EngineError::BeyondLastEvent { last });
        }
        let place = shared.feeds.clone().try_acquire_owned().map_err(|_| EngineError::TooManyFeeds)?;
        shared.recent.enter(last);
        Ok(EventStream {
            ledger: shared.ledger.clone(),
            recent: shared.recent.clone(),
            committed,
            draining: shared.draining.clone(),
            after,
            _place: place,
        })
    }

    /// The next events, at least one, as soon as there are any.
    ///
    /// # Errors
    /// [`EngineError::Draining`] at shutdown; those of the ledger. The feed has ended then.
    pub async fn next(&mut self) -> Result<Vec<Arc<SharedEvent>>, EngineError> {
        loop {
            let grown = self.recent.grown.notified();
            tokio::pin!(grown);
            // Before the look: what comes after it wakes us.
            grown.as_mut().enable();
            if self.draining.is_cancelled() {
                return Err(EngineError::Draining);
            }
            let events = match self.recent.after(self.after) {
                Found::Events(events) => events,
                Found::Gone => self.read_page().await?,
                Found::Nothing => {
                    tokio::select! {
                        biased;
                        () = self.draining.cancelled() => return Err(EngineError::Draining),
                        stopped = stopped(self.ledger.health()) => {
                            // What was committed before is still shown.
                            let events = self.read_page().await?;
                            if events.is_empty() {
                                return Err(stopped.into());
                            }
                            events
                        }
                        () = grown => continue,
                    }
                }
            };
            if let Some(last) = events.last() {
                self.after = last.record.sequence;
                return Ok(events);
            }
        }
    }

    async fn read_page(&self) -> Result<Vec<Arc<SharedEvent>>, LedgerError> {
        let committed = *self.committed.borrow();
        read(&*self.ledger, self.after, committed, PAGE).await
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.recent.leave();
    }
}

impl SharedEvent {
    /// What its first reader made of it, for all.
    pub fn encoded(&self, encode: impl FnOnce(&EventRecord) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(&self.record)).clone()
    }
}

impl From<EventRecord> for SharedEvent {
    fn from(record: EventRecord) -> Self {
        Self { record, encoded: OnceLock::new() }
    }
}

impl EventBuffer {
    /// A reader has come, when the last event was `committed`.
    fn enter(&self, committed: u64) {
        let mut held = self.lock();
        if held.readers == 0 {
            held.restart(committed);
        }
        held.readers = held.readers.saturating_add(1);
        self.opened.notify_one();
    }

    fn leave(&self) {
        let mut held = self.lock();
        held.readers = held.readers.saturating_sub(1);
        if held.readers == 0 {
            held.events = VecDeque::new();
        }
    }

    fn after(&self, sequence: u64) -> Found {
        let held = self.lock();
        let Some(missing) = held.end.checked_sub(sequence).filter(|missing| *missing > 0) else {
            return Found::Nothing;
        };
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let Some(passed) = held.events.len().checked_sub(missing) else { return Found::Gone };
        Found::Events(held.events.iter().skip(passed).take(PAGE as usize).cloned().collect())
    }

    /// Reads for all what was committed up to `committed`.
    async fn grow(&self, ledger: &dyn Ledger, committed: u64) {
        let end = self.lock().end;
        let read = match committed.saturating_sub(end) <= u64::from(HELD) {
            true => read(ledger, end, committed, HELD).await,
            // Whoever is there reads it page by page.
            false => Ok(Vec::new()),
        };
        let mut held = self.lock();
        // The last reader may have left during the read, and another one have come.
        if held.end == end {
            match read.as_ref().ok().and_then(|events| events.last()).map(|last| last.record.sequence) {
                Some(last) => {
                    held.events.extend(read.unwrap_or_default());
                    held.end = last;
                    let surplus = held.events.len().saturating_sub(HELD as usize);
                    held.events.drain(..surplus);
                }
                // Each finds out by itself what is wrong with the ledger.
                None => held.restart(committed),
            }
        }
        drop(held);
        self.grown.notify_waiters();
    }

    fn has_readers(&self) -> bool {
        self.lock().readers > 0
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Nothing is held of what was until `end`.
    fn restart(&mut self, end: u64) {
        self.events.clear();
        self.end = self.end.max(end);
    }
}

/// Reads the end of the history for all feeds, while there are any. Runs until the drain begins.
pub(super) async fn follow(shared: Arc<EngineCore>) {
    let mut committed = shared.ledger.committed();
    let follow = async {
        loop {
            while !shared.recent.has_readers() {
                shared.recent.opened.notified().await;
            }
            // Marked as seen before the read: a commit during the read is the next one.
            let last = *committed.borrow_and_update();
            if last > shared.recent.lock().end {
                shared.recent.grow(&*shared.ledger, last).await;
                tokio::time::sleep(MIN_READ_INTERVAL).await;
            }
            if committed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = shared.draining.cancelled() => {}
        () = follow => {}
    }
}

/// At most `limit` events after `after`, and none whose commit has not returned.
async fn read(
    ledger: &dyn Ledger,
    after: u64,
    committed: u64,
    limit: u32,
) -> Result<Vec<Arc<SharedEvent>>, LedgerError> {
    let read = ledger.events_after(after, limit).await?;
    let shown = read.into_iter().take_while(|event| event.sequence <= committed);
    Ok(shown.map(|event| Arc::new(event.into())).collect())
}

/// Returns when the ledger writes no more, and why: nothing new comes before the next start.
async fn stopped(mut health: watch::Receiver<Health>) -> LedgerError {
    match health.wait_for(|health| *health != Health::Writing).await.as_deref() {
        Ok(Health::Failed(problem) | Health::Corrupt(problem)) => LedgerError::Unavailable(problem.clone()),
        Ok(Health::Writing) | Err(_) => LedgerError::Unavailable("it is closed".to_owned()),
    }
}
