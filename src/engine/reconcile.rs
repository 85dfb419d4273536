//! Reconciling: finds out what became of a refund that is in doubt or being processed, by a lookup
//! or by a resend that its provider deduplicates.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument as _, warn};

use crate::domain::authority::{Actor, Authority};
use crate::domain::clock::Clock as _;
use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;
use crate::engine::account::AccountRuntime;
use crate::engine::core::{EngineCore, LEDGER_ERROR_BACKOFF};
use crate::engine::decide::{self, Step};
use crate::engine::error::EngineError;
use crate::engine::{attempt, lookup, spans};

/// Reconciles a refund that is due, unless it has been reconciled since `refund` was read. Holds
/// `lookup_slot` until the lookup is recorded.
pub(super) async fn reconcile_one(
    core: &Arc<EngineCore>,
    account: &Arc<AccountRuntime>,
    refund: Refund,
    lookup_slot: OwnedSemaphorePermit,
) {
    // The query of due refunds may be older than the end of the lookup before.
    match core.get(refund.id()).await {
        Ok(current) if current.revision == refund.revision && current.next_check == refund.next_check => {}
        Ok(_) => return,
        Err(problem) => return retry_later(&problem).await,
    }
    spans::link_to_refund(core, &refund).await;
    // While the account is suspended, only lookups are made: they move no money, and show when it
    // recovers.
    let step = match account.allows_one() {
        true => decide::next_step(&refund, core.rules(account, &refund), core.clock.now()),
        false => Step::LookUp,
    };
    let reconciled = match step {
        Step::Resend => {
            drop(lookup_slot);
            attempt::resend(core, account, refund, false).await
        }
        Step::LookUp => {
            let gateway = Actor::gateway();
            let looked_up = tokio::select! {
                biased;
                // A lookup can be repeated; the drain need not wait for it.
                () = core.draining.cancelled() => return,
                looked_up = lookup::look_up_and_record(core, account, refund, &gateway) => looked_up,
            };
            drop(lookup_slot);
            match looked_up {
                Ok((refund, true)) if account.allows_one() => attempt::resend(core, account, refund, true).await,
                looked_up => looked_up.map(drop).map_err(EngineError::from),
            }
        }
    };
    if let Err(problem) = reconciled {
        retry_later(&problem).await;
    }
}

/// The refund is still due: without a pause it would be tried again immediately.
async fn retry_later(problem: &EngineError) {
    warn!(%problem, "could not reconcile the refund; retrying");
    tokio::time::sleep(LEDGER_ERROR_BACKOFF).await;
}

/// See [`crate::engine::Engine::reconcile`].
///
/// Where a lookup of it ended within the last seconds, returns the refund as it is.
///
/// If the lookup proves that one more attempt is safe, it is made immediately, as after a scheduled
/// lookup.
pub(super) async fn reconcile(core: Arc<EngineCore>, id: RefundId, by: Authority) -> Result<Refund, EngineError> {
    let refund = core.get_for(&by, &id).await?;
    if !refund.state.is_in_question() && !refund.is_followed(core.clock.now()) {
        return Err(EngineError::NotInDoubt(refund.state));
    }
    let account = core.account_of(&refund)?.clone();
    // The log lines belong to the call's own trace.
    spans::link_call_to_refund(&core, &refund).await;
    // Of callers who ask at the same time, one looks the refund up, and the others see its result.
    let turn = account.recent_lookups.turn(&id).await;
    if account.recent_lookups.is_recent(&id) {
        return core.get(&id).await;
    }
    // The semaphore is never closed, so this only waits.
    let slot = account.lookup_slots.acquire().await.map_err(|_| EngineError::Draining)?;
    let span = spans::lookup_span(&account, &refund);
    let (refund, is_safe) = lookup::look_up_and_record(&core, &account, refund, &by.actor).instrument(span).await?;
    drop((slot, turn));
    // The refund may be due at another time than before.
    account.reconcile_notify.notify_one();
    if is_safe
        && account.allows_one()
        && let Some(reconciling) = account.try_begin_reconcile(refund.id())
    {
        let (task_core, task_account, proven) = (core.clone(), account.clone(), refund.clone());
        // The caller asked for a lookup and gets its answer; the refund itself shows the attempt.
        let span = spans::reconcile_span(&account, &refund);
        let work = async move {
            let _reconciling = reconciling;
            if let Err(problem) = attempt::resend(&task_core, &task_account, proven, true).await {
                warn!(%problem, "could not send the refund again");
            }
        };
        core.tasks.spawn(work.instrument(span));
    }
    Ok(refund)
}
