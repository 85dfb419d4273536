//! The ledger's history as a stream: what was, and then what comes, without a gap between the two.
//!
//! It reads pages only as its reader asks, so a slow reader costs nothing but its own time.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::refund::EventRecord;
use crate::engine::{EngineError, Shared};
use crate::ledger::{Health, Ledger, LedgerError};

/// Events read at once.
const PAGE: u32 = 256;

/// One reader of the history.
pub struct EventFeed {
    ledger: Arc<dyn Ledger>,
    committed: watch::Receiver<u64>,
    draining: CancellationToken,
    page: VecDeque<EventRecord>,
    /// The last event that was read from the ledger.
    after: u64,
    _place: OwnedSemaphorePermit,
}

impl EventFeed {
    pub(super) fn open(shared: &Shared, after: u64) -> Result<EventFeed, EngineError> {
        if shared.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let committed = shared.ledger.committed();
        let last = *committed.borrow();
        if after > last {
            return Err(EngineError::BeyondLastEvent { last });
        }
        let place = shared.feeds.clone().try_acquire_owned().map_err(|_| EngineError::TooManyFeeds)?;
        Ok(EventFeed {
            ledger: shared.ledger.clone(),
            committed,
            draining: shared.draining.clone(),
            page: VecDeque::new(),
            after,
            _place: place,
        })
    }

    /// The next event, as soon as there is one.
    ///
    /// # Errors
    /// [`EngineError::Draining`] at shutdown; those of the ledger. The feed has ended then.
    pub async fn next(&mut self) -> Result<EventRecord, EngineError> {
        loop {
            if let Some(event) = self.page.pop_front() {
                return Ok(event);
            }
            if self.draining.is_cancelled() {
                return Err(EngineError::Draining);
            }
            // Marked as seen before the read: a commit during the read wakes us again.
            let behind = *self.committed.borrow_and_update() > self.after;
            if behind {
                let read = self.ledger.events_after(self.after, PAGE).await?;
                self.after = read.last().map_or(self.after, |event| event.sequence);
                self.page = read.into();
                if !self.page.is_empty() {
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Err(EngineError::Draining),
                stopped = stopped(self.ledger.health()) => return Err(stopped.into()),
                changed = self.committed.changed() => if changed.is_err() { return Err(EngineError::Draining) },
            }
        }
    }
}

/// Returns when the ledger writes no more, and why: nothing new comes before the next start.
async fn stopped(mut health: watch::Receiver<Health>) -> LedgerError {
    match health.wait_for(|health| *health != Health::Writing).await.as_deref() {
        Ok(Health::Failed(problem) | Health::Corrupt(problem)) => LedgerError::Unavailable(problem.clone()),
        Ok(Health::Writing) | Err(_) => LedgerError::Unavailable("it is closed".to_owned()),
    }
}
