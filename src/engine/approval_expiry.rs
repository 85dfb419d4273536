//! Fails refunds that were not approved in time.
//!
//! One task for all accounts: an approval expires also while its account is paused, suspended or
//! not configured at all.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::domain::authority::Actor;
use crate::domain::event::Event;
use crate::engine::core::{EngineCore, LEDGER_ERROR_BACKOFF};
use crate::engine::outcome_log::event_number;
use crate::engine::spans;
use crate::ledger::{Health, LedgerError, Recorded};

/// How often to look at least: a refund that expires earlier may have been recorded meanwhile, and
/// a clock that is set forward wakes no task.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Refunds in one read of the ledger.
const BATCH: u32 = 64;

/// Runs until the drain begins or the ledger has failed.
pub(super) async fn run(core: Arc<EngineCore>) {
    while !core.draining.is_cancelled() && !core.ledger_stopped.is_cancelled() {
        let pause = expire_due(&core).await.unwrap_or_else(|problem| {
            if *core.ledger.health().borrow() == Health::Writing {
                warn!(%problem, "could not read from the ledger which approvals have expired; retrying");
            }
            LEDGER_ERROR_BACKOFF
        });
        tokio::select! {
            biased;
            () = core.draining.cancelled() => {}
            () = core.ledger_stopped.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns how long to sleep until the next one is due.
async fn expire_due(core: &EngineCore) -> Result<Duration, LedgerError> {
    // Expiry is final, so a jump of the clock counts only once a minute has confirmed it.
    let Some(now) = core.clock.confirmed_now() else { return Ok(MAX_IDLE) };
    loop {
        let due = core.ledger.unapproved(now, BATCH).await?;
        if due.is_empty() {
            let next = core.ledger.next_approval_expiry().await?;
            let pause = next.map_or(MAX_IDLE, |at| at.saturating_duration_since(now));
            return Ok(pause.clamp(Duration::from_millis(1), MAX_IDLE));
        }
        for refund in due {
            match core.record(&refund, vec![Event::Expired], None, &Actor::gateway()).await {
                Ok(Recorded { outcome, sequence }) => {
                    let sequence = event_number(sequence);
                    let span = spans::refund_span(core, &outcome).await;
                    span.in_scope(|| {
                        warn!(sequence, "the refund was not approved in time: it is FAILED, and was never processed")
                    });
                }
                // Approved, rejected or cancelled in the meantime.
                Err(LedgerError::StaleRevision { .. } | LedgerError::IllegalTransition(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
