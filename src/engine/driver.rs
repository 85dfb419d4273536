//! Finds the refunds of one account that are due, and sends them as slots become free. One task for each account.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, warn};

use crate::domain::clock::Timestamp;
use crate::domain::refund::{Event, Refund};
use crate::engine::{GATEWAY, Lane, Shared, step};
use crate::ledger::{Health, LedgerError};

/// Looked for again at least so often, however quiet it is: a clock set forward rings no bell.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// After a ledger error.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);

/// Runs until the drain begins or the ledger has failed.
///
/// The drain ends what only waits, never a dispatch: an attempt that is on disk and that nobody sends would be doubt for nothing.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>) {
    while !shared.draining.is_cancelled() {
        let pause = match pass(&shared, &lane).await {
            Ok(pause) => pause,
            Err(problem) => {
                if *shared.ledger.health().borrow() != Health::Writing {
                    error!(account = %lane.account.name, %problem, "nothing is sent any more: the ledger has failed");
                    return;
                }
                warn!(account = %lane.account.name, %problem, "the ledger could not be asked for waiting refunds");
                AFTER_TROUBLE
            }
        };
        tokio::select! {
            () = shared.draining.cancelled() => {}
            () = lane.bell.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends what is due and has a slot, until the drain begins. How long nothing will be due for.
async fn pass(shared: &Arc<Shared>, lane: &Arc<Lane>) -> Result<Duration, LedgerError> {
    loop {
        let slot = tokio::select! {
            biased;
            () = shared.draining.cancelled() => return Ok(LONGEST_SLEEP),
            slot = lane.slots.clone().acquire_owned() => slot,
        };
        // Never closed, so it can only be waited for.
        let Ok(slot) = slot else { return Ok(LONGEST_SLEEP) };
        let now = shared.clock.now();
        let limit = u32::try_from(lane.slots.available_permits()).unwrap_or(u32::MAX).saturating_add(1);
        let due = shared.ledger.due(&lane.account.name, now, limit).await?;
        // While older ones wait, newcomers line up behind them. One that was recorded since the query has rung the bell.
        lane.backlog.store(!due.is_empty(), Ordering::Release);
        if due.is_empty() {
            drop(slot);
            return Ok(until(shared.ledger.next_due(&lane.account.name).await?, now));
        }
        let mut slot = Some(slot);
        for refund in due {
            if shared.draining.is_cancelled() {
                return Ok(LONGEST_SLEEP);
            }
            let Some(slot) = slot.take().or_else(|| lane.slots.clone().try_acquire_owned().ok()) else { break };
            dispatch(shared, lane, refund, slot).await?;
        }
    }
}

/// Intent before act: the attempt is on disk when its task begins.
async fn dispatch(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    refund: Refund,
    slot: OwnedSemaphorePermit,
) -> Result<(), LedgerError> {
    match shared.record(&refund, vec![Event::Dispatched], GATEWAY).await {
        Ok(dispatched) => {
            step::spawn_attempt(shared, lane, dispatched, slot);
            Ok(())
        }
        // Cancelled in the meantime.
        Err(LedgerError::StaleRevision { .. } | LedgerError::MoveRefused(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn until(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.map_or(LONGEST_SLEEP, |at| at.since(now)).clamp(Duration::from_millis(1), LONGEST_SLEEP)
}
