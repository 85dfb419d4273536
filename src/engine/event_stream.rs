//! The ledger's history as a stream: past events, then new ones, without a gap between the two.
//!
//! ```text
//! commits --> follow_ledger: one read for all, at most 10 a second --> EventBuffer
//!
//! EventBuffer          --> streams that keep up
//! ledger, page by page --> streams that have fallen behind
//! ```
//!
//! A stream takes its next events only when its reader asks for them, so a slow reader delays
//! nothing but itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::engine::event_buffer::{EventBuffer, PAGE, SharedEvent, Slice, read_committed};
use crate::ledger::{Health, Ledger, LedgerError};

/// One reader of the history.
pub struct EventStream {
    ledger: Arc<dyn Ledger>,
    buffer: Arc<EventBuffer>,
    committed: watch::Receiver<u64>,
    draining: CancellationToken,
    /// The last event that was given to the reader.
    after: u64,
    _slot: OwnedSemaphorePermit,
}

/// The least time between two reads of the ledger for all streams. A commit after an idle time is
/// read immediately; of a stream of commits, not every one wakes the readers.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(100);

impl EventStream {
    pub(super) fn open(core: &EngineCore, after: u64) -> Result<EventStream, EngineError> {
        if core.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let committed = core.ledger.committed();
        let last = *committed.borrow();
        if after > last {
            return Err(EngineError::BeyondLastEvent { last });
        }
        let slot = core.event_stream_slots.clone().try_acquire_owned().map_err(|_| EngineError::TooManyEventStreams)?;
        core.event_buffer.add_reader(last);
        Ok(EventStream {
            ledger: core.ledger.clone(),
            buffer: core.event_buffer.clone(),
            committed,
            draining: core.draining.clone(),
            after,
            _slot: slot,
        })
    }

    /// The next events, at least one, as soon as there are any.
    ///
    /// # Errors
    /// [`EngineError::Draining`] at shutdown; those of the ledger. The stream has ended then.
    pub async fn next(&mut self) -> Result<Vec<Arc<SharedEvent>>, EngineError> {
        loop {
            let appended = self.buffer.appended();
            tokio::pin!(appended);
            // Before the buffer is read: what is appended after that wakes this reader.
            appended.as_mut().enable();
            if self.draining.is_cancelled() {
                return Err(EngineError::Draining);
            }
            let events = match self.buffer.after(self.after) {
                Slice::Events(events) => events,
                Slice::Evicted => self.read_page().await?,
                Slice::Empty => {
                    tokio::select! {
                        biased;
                        () = self.draining.cancelled() => return Err(EngineError::Draining),
                        failure = ledger_failure(self.ledger.health()) => {
                            // What was committed before the failure is still given.
                            let events = self.read_page().await?;
                            if events.is_empty() {
                                return Err(failure.into());
                            }
                            events
                        }
                        () = appended => continue,
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
        read_committed(&*self.ledger, self.after, committed, PAGE).await
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.buffer.remove_reader();
    }
}

/// Fills the buffer for all streams while there are any. Runs until the drain begins.
pub(super) async fn follow_ledger(core: Arc<EngineCore>) {
    let mut committed = core.ledger.committed();
    let follow = async {
        loop {
            core.event_buffer.wait_for_reader().await;
            // Marked as seen before the read: a commit during the read is read next.
            let last = *committed.borrow_and_update();
            if last > core.event_buffer.end() {
                core.event_buffer.append_committed(&*core.ledger, last).await;
                tokio::time::sleep(MIN_READ_INTERVAL).await;
            }
            if committed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = core.draining.cancelled() => {}
        () = follow => {}
    }
}

/// Returns when the ledger stops writing, and why: nothing is committed before the next start.
async fn ledger_failure(mut health: watch::Receiver<Health>) -> LedgerError {
    match health.wait_for(|health| *health != Health::Writing).await.as_deref() {
        Ok(Health::Failed(problem) | Health::Corrupt(problem)) => LedgerError::Unavailable(problem.clone()),
        Ok(Health::Writing) | Err(_) => LedgerError::Unavailable("it is closed".to_owned()),
    }
}
