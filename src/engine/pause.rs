//! PauseAccount and ResumeAccount: an operator keeps an account from sending, and lets it go on.
//!
//! The ledger decides: it records no attempt of a paused account, so nothing is sent after the
//! pause is on disk but an attempt that was recorded before it. What the account's run-time state
//! knows of the pause only spares the workers a futile try.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::authority::Authority;
use crate::domain::clock::Clock as _;
use crate::domain::ids::AccountName;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::ledger::NewPause;

/// See [`crate::engine::Engine::pause`].
pub(super) async fn pause(
    core: Arc<EngineCore>,
    account: AccountName,
    reason: String,
    by: Authority,
) -> Result<(), EngineError> {
    let runtime = core.account_for(&by, &account)?.clone();
    // One after the other, so that the run-time state is that of the last commit.
    let _one_at_a_time = runtime.pausing.lock().await;
    let (actor, now) = (by.actor, core.clock.now());
    let pause = core.ledger.pause(NewPause { account: account.clone(), reason, actor, now }).await?;
    if !runtime.is_paused() {
        warn!(%account, by = pause.by.name, reason = pause.reason, "account paused: its refunds stay PENDING");
        runtime.set_pause(pause);
        // Callers do not wait for a paused account.
        core.waiters.notify_all();
    }
    Ok(())
}

/// See [`crate::engine::Engine::resume`].
pub(super) async fn resume(core: Arc<EngineCore>, account: AccountName, by: Authority) -> Result<(), EngineError> {
    let runtime = core.account_for(&by, &account)?.clone();
    let _one_at_a_time = runtime.pausing.lock().await;
    let now = core.clock.now();
    core.ledger.resume(&account, &by.actor, now).await?;
    if runtime.end_pause(now) {
        info!(%account, by = by.actor.name, "account resumed");
        runtime.dispatch_notify.notify_one();
        runtime.reconcile_notify.notify_one();
    }
    Ok(())
}
