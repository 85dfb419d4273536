//! The end of the ledger's history in memory, shared by the event streams that keep up with it.
//!
//! The buffer is empty while no stream is open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::domain::history::EventRecord;
use crate::ledger::{Ledger, LedgerError};

/// An event of the history, shared by all its readers.
#[derive(Debug)]
pub struct SharedEvent {
    /// The event.
    pub record: EventRecord,
    encoded: OnceLock<Bytes>,
}

/// The last events of the history.
#[derive(Default)]
pub(super) struct EventBuffer {
    state: Mutex<BufferState>,
    /// Wakes the readers: events were appended.
    appended: Notify,
    /// Wakes the task that fills the buffer: a reader was added.
    reader_added: Notify,
}

#[derive(Default)]
struct BufferState {
    readers: usize,
    /// Without gaps, up to `end`.
    events: VecDeque<Arc<SharedEvent>>,
    /// The sequence number of the last event that was appended or skipped.
    end: u64,
}

/// What the buffer holds after a sequence number.
pub(super) enum Slice {
    Events(Vec<Arc<SharedEvent>>),
    /// The buffer no longer holds them; the ledger does.
    Evicted,
    /// There are none.
    Empty,
}

/// The number of events given to a reader in one piece.
pub(super) const PAGE: u32 = 256;
/// The number of events held: a second of a busy ledger, some megabytes.
const CAPACITY: u32 = 4_096;

impl SharedEvent {
    /// The event as encoded by its first reader, for all readers.
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
    /// Adds a reader. `committed` is the sequence number of the last event.
    pub(super) fn add_reader(&self, committed: u64) {
        let mut state = self.lock();
        if state.readers == 0 {
            state.skip_to(committed);
        }
        state.readers = state.readers.saturating_add(1);
        self.reader_added.notify_one();
    }

    pub(super) fn remove_reader(&self) {
        let mut state = self.lock();
        state.readers = state.readers.saturating_sub(1);
        if state.readers == 0 {
            state.events = VecDeque::new();
        }
    }

    /// Completes when events have been appended after this call, once it is polled or enabled.
    pub(super) fn appended(&self) -> Notified<'_> {
        self.appended.notified()
    }

    /// Returns when there is a reader.
    pub(super) async fn wait_for_reader(&self) {
        while self.lock().readers == 0 {
            self.reader_added.notified().await;
        }
    }

    /// The next events after this sequence number, at most [`PAGE`] of them.
    pub(super) fn after(&self, sequence: u64) -> Slice {
        let state = self.lock();
        let Some(missing) = state.end.checked_sub(sequence).filter(|missing| *missing > 0) else {
            return Slice::Empty;
        };
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let Some(passed) = state.events.len().checked_sub(missing) else { return Slice::Evicted };
        Slice::Events(state.events.iter().skip(passed).take(PAGE as usize).cloned().collect())
    }

    /// The sequence number up to which events were appended or skipped.
    pub(super) fn end(&self) -> u64 {
        self.lock().end
    }

    /// Reads from the ledger what was committed up to `committed`, once for all readers.
    pub(super) async fn append_committed(&self, ledger: &dyn Ledger, committed: u64) {
        let end = self.end();
        let read = match committed.saturating_sub(end) <= u64::from(CAPACITY) {
            true => read_committed(ledger, end, committed, CAPACITY).await,
            // Too many for the buffer: each reader reads them page by page.
            false => Ok(Vec::new()),
        };
        let mut state = self.lock();
        // During the read, the last reader may have left and another one may have come.
        if state.end == end {
            match read.as_ref().ok().and_then(|events| events.last()).map(|last| last.record.sequence) {
                Some(last) => {
                    state.events.extend(read.unwrap_or_default());
                    state.end = last;
                    let surplus = state.events.len().saturating_sub(CAPACITY as usize);
                    state.events.drain(..surplus);
                }
                // After an error each reader reads the ledger itself, and gets the error.
                None => state.skip_to(committed),
            }
        }
        drop(state);
        self.appended.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BufferState {
    /// Drops all events: the buffer continues after `end`.
    fn skip_to(&mut self, end: u64) {
        self.events.clear();
        self.end = self.end.max(end);
    }
}

/// Reads at most `limit` events after `after`, and none whose commit has not returned.
pub(super) async fn read_committed(
    ledger: &dyn Ledger,
    after: u64,
    committed: u64,
    limit: u32,
) -> Result<Vec<Arc<SharedEvent>>, LedgerError> {
    let read = ledger.events_after(after, limit).await?;
    let events = read.into_iter().take_while(|event| event.sequence <= committed);
    Ok(events.map(|event| Arc::new(event.into())).collect())
}
