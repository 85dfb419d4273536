//! Attempts: records each one before it is sent, sends it, and records its outcome.
//!
//! The only caller of `RefundProvider::refund`. It is called for a refund whose attempt is already
//! on disk. From there, either the attempt ends in an event, or the process ends and the next start
//! finds the refund DISPATCHING.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument as _, error};

use crate::domain::authority::Actor;
use crate::domain::clock::Clock as _;
use crate::domain::event::Event;
use crate::domain::outcome::{AttemptReport, DoubtReason, Outcome};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::Generation;
use crate::engine::core::EngineCore;
use crate::engine::decide::{self, Decision};
use crate::engine::error::EngineError;
use crate::engine::outcome_log::log_outcome;
use crate::engine::spans;
use crate::ledger::LedgerError;

/// Sends the attempt of a refund that is DISPATCHING on disk, and records its outcome. The slot is
/// free again when the outcome is on disk.
///
/// Runs in a task of the engine: no caller's future may contain it.
pub(super) async fn carry_out(
    core: &Arc<EngineCore>,
    account: &AccountRuntime,
    refund: Refund,
    slot: OwnedSemaphorePermit,
    generation: Generation,
) {
    let span = spans::attempt_span(account, &refund);
    send(core, account, refund, generation).instrument(span).await;
    drop(slot);
}

/// As [`carry_out`], in a task of its own.
pub(super) fn spawn(
    core: &Arc<EngineCore>,
    account: &Arc<AccountRuntime>,
    refund: Refund,
    slot: OwnedSemaphorePermit,
    generation: Generation,
) {
    let (task_core, account) = (core.clone(), account.clone());
    core.spawn(async move { carry_out(&task_core, &account, refund, slot, generation).await });
}

/// Records one more attempt of a refund, permitted in `generation`, whose key is bound to
/// `credential`. None if the refund has changed in the meantime.
///
/// # Errors
/// Those of the ledger. The permission is released then.
pub(super) async fn begin(
    core: &EngineCore,
    account: &AccountRuntime,
    refund: &Refund,
    generation: Generation,
    credential: Option<String>,
) -> Result<Option<Refund>, LedgerError> {
    // An attempt belongs to one place: it is never made from an account that has moved elsewhere.
    if account.destination() != refund.destination() {
        account.release_permission(generation);
        return Ok(None);
    }
    match core.record(refund, vec![Event::Dispatched { credential }], None, &Actor::gateway()).await {
        Ok(dispatched) => Ok(Some(dispatched.outcome)),
        Err(error) => {
            account.release_permission(generation);
            match error {
                LedgerError::StaleRevision { .. }
                | LedgerError::IllegalTransition(_)
                | LedgerError::AccountPaused(_) => Ok(None),
                error => Err(error),
            }
        }
    }
}

/// Sends the same request once more, if that is still safe when a slot and the rate limiter allow
/// it: by the retry contract, or (`is_proven`) because a lookup has just proven that no attempt had
/// an effect.
///
/// # Errors
/// Those of the ledger.
pub(super) async fn resend(
    core: &Arc<EngineCore>,
    account: &Arc<AccountRuntime>,
    refund: Refund,
    is_proven: bool,
) -> Result<(), EngineError> {
    let slot = tokio::select! {
        biased;
        () = core.draining.cancelled() => return Ok(()),
        slot = account.attempt_slots.clone().acquire_owned() => slot.map_err(|_| EngineError::Draining)?,
    };
    account.rate_limiter.acquire().await;
    if !(is_proven || core.may_resend(account, &refund)) || core.draining.is_cancelled() {
        return Ok(());
    }
    let Some(generation) = account.try_acquire_permission() else { return Ok(()) };
    // Records and sends the credential that was compared: with a secret that is renewed in between
    // the key would be another one.
    let credential =
        if is_proven { account.configured.refunds.credential(refund.id()) } else { refund.credential.clone() };
    let begun = begin(core, account, &refund, generation, credential).await?;
    let Some(dispatched) = begun else { return Ok(()) };
    let span = spans::attempt_span(account, &dispatched);
    // After a long stall of the disk or the machine, or with a renewed secret, what was safe when
    // the attempt began may no longer be so.
    if !is_proven && !core.may_resend(account, &dispatched) {
        account.release_permission(generation);
        return Ok(abandon(core, account, dispatched, refund).instrument(span).await?);
    }
    send(core, account, dispatched, generation).instrument(span).await;
    drop(slot);
    Ok(())
}

/// Puts a refund back in doubt whose attempt is on disk and must not be sent any more.
async fn abandon(
    core: &EngineCore,
    account: &AccountRuntime,
    dispatched: Refund,
    before: Refund,
) -> Result<(), LedgerError> {
    let reason = before.doubt.map_or(DoubtReason::Contradiction, |doubt| doubt.reason);
    let Decision { events, next_check, .. } =
        decide::after_delay(&dispatched, reason, core.rules(account, &dispatched), core.clock.now());
    log_outcome(&core.record(&dispatched, events, next_check, &Actor::gateway()).await?);
    Ok(())
}

/// Sends the attempt that is on disk and records its outcome.
async fn send(core: &Arc<EngineCore>, account: &AccountRuntime, refund: Refund, generation: Generation) {
    // A panic in an adapter is an unknown outcome and not a lost attempt.
    let sending = account.configured.refunds.refund(&refund.intent, refund.credential.as_deref());
    let report = match AssertUnwindSafe(sending).catch_unwind().await {
        Ok(report) => report,
        Err(_) => AttemptReport::from(Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: "the adapter panicked; what the provider did is not known".to_owned(),
        }),
    };
    let has_opened = account.record_result(generation, report.signal, &refund);
    let Decision { events, next_check, .. } =
        decide::after_attempt(&refund, report.outcome, core.rules(account, &refund), core.clock.now());
    match core.record(&refund, events, next_check, &Actor::gateway()).await {
        Ok(recorded) => {
            // The workers may sleep until later than this refund is due.
            match recorded.outcome.state {
                State::Pending => account.dispatch_notify.notify_one(),
                State::InDoubt | State::Submitted | State::NeedsReview => account.reconcile_notify.notify_one(),
                _ => {}
            }
            log_outcome(&recorded);
            if has_opened {
                // Callers do not wait for a suspended account.
                core.waiters.notify_all();
            }
        }
        Err(problem) => {
            error!(%problem, "could not record the outcome of an attempt: the refund stays DISPATCHING, and the next start puts it IN_DOUBT");
        }
    }
}
