//! The two workers of each account: the dispatcher sends and expires what is PENDING, the
//! reconciler reconciles what is due for a lookup.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Instrument, warn};

use crate::domain::authority::Actor;
use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::event::Event;
use crate::domain::place::Destination;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::Permission;
use crate::engine::core::{EngineCore, LEDGER_ERROR_BACKOFF};
use crate::engine::outcome_log::event_number;
use crate::engine::{attempt, lookup, reconcile, spans};
use crate::ledger::{DueKind, DueQuery, Health, LedgerError, ListQuery, Recorded};

/// A worker looks for due refunds at least this often: a wall clock that is set forward wakes no
/// worker.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How long after a jump of the clock expiry is checked again.
const CLOCK_RECHECK: Duration = Duration::from_secs(61);
/// Refunds read in one piece to expire them, or to select the next probe's from.
const EXPIRY_BATCH: u32 = 64;

/// Sends what is PENDING. Runs until the drain begins or the ledger has failed.
///
/// The drain ends waiting, never a dispatch: an attempt that is recorded and not sent would cause
/// doubt for no reason.
pub(super) async fn run_dispatcher(core: Arc<EngineCore>, account: Arc<AccountRuntime>) {
    let mut next_expiry = Timestamp::MIN;
    while !should_stop(&core) {
        let idle = dispatch_due(&core, &account, &mut next_expiry).await;
        let pause = pause_after(&core, &account, idle);
        sleep(&core, &account.dispatch_notify, pause).await;
    }
}

/// Reconciles what is due for a lookup. Runs until the drain begins or the ledger has failed: a
/// lookup that cannot be recorded would be repeated again and again.
pub(super) async fn run_reconciler(core: Arc<EngineCore>, account: Arc<AccountRuntime>) {
    while !should_stop(&core) {
        let idle = reconcile_due(&core, &account).await;
        let pause = pause_after(&core, &account, idle);
        sleep(&core, &account.reconcile_notify, pause).await;
    }
}

fn should_stop(core: &EngineCore) -> bool {
    core.draining.is_cancelled() || core.ledger_stopped.is_cancelled()
}

fn pause_after(core: &EngineCore, account: &AccountRuntime, idle: Result<Duration, LedgerError>) -> Duration {
    idle.unwrap_or_else(|problem| {
        // A ledger that has failed is logged once elsewhere, and not by each account.
        if *core.ledger.health().borrow() == Health::Writing {
            warn!(account = %account.name(), %problem, "could not read from the ledger what is due; retrying");
        }
        LEDGER_ERROR_BACKOFF
    })
}

async fn sleep(core: &EngineCore, notify: &Notify, pause: Duration) {
    tokio::select! {
        biased;
        () = core.draining.cancelled() => {}
        () = core.ledger_stopped.cancelled() => {}
        () = notify.notified() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Dispatches due refunds as slots become free, until the drain begins. Returns how long to sleep
/// until the next one is due.
async fn dispatch_due(
    core: &Arc<EngineCore>,
    account: &Arc<AccountRuntime>,
    next_expiry: &mut Timestamp,
) -> Result<Duration, LedgerError> {
    let batch = u32::try_from(account.configured.max_in_flight).unwrap_or(u32::MAX).saturating_mul(2);
    while !should_stop(core) {
        let now = core.clock.now();
        if *next_expiry <= now {
            *next_expiry = expire_overdue(core, account, now).await?;
        }
        let until_expiry = idle_until(Some(*next_expiry), now);
        match account.permission() {
            Permission::All | Permission::One => {}
            Permission::None => return Ok(until_expiry),
            Permission::Until(until) => return Ok(until.duration_since(Instant::now()).min(until_expiry)),
            Permission::ProbeDue => {
                if probe_account(core, account).await? {
                    continue;
                }
                return Ok(until_expiry);
            }
        }
        let destination = account.destination();
        let query = DueQuery { kind: DueKind::Dispatch, destination, at: now, skip: 0, limit: batch };
        let due = core.ledger.due(query).await?;
        // While older refunds wait, new ones queue behind them. A refund that was recorded since
        // the query has notified this worker.
        account.has_backlog.store(!due.is_empty(), Ordering::Release);
        if due.is_empty() {
            let next = idle_until(core.ledger.next_due(DueKind::Dispatch, &account.destination()).await?, now);
            return Ok(next.min(until_expiry));
        }
        dispatch_batch(core, account, due, *next_expiry).await?;
    }
    Ok(MAX_IDLE)
}

/// Begins an attempt of each refund as soon as there is a slot for it, without waiting for the
/// commits of the attempts before: otherwise a long queue would be sent at the rate of one commit
/// after another. Returns when all attempts that were begun are on disk, because until then their
/// refunds still look due.
async fn dispatch_batch(
    core: &Arc<EngineCore>,
    account: &Arc<AccountRuntime>,
    due: Vec<Refund>,
    next_expiry: Timestamp,
) -> Result<(), LedgerError> {
    let mut begun = Vec::with_capacity(due.len());
    for refund in due {
        let slot = tokio::select! {
            biased;
            () = core.draining.cancelled() => break,
            slot = account.attempt_slots.clone().acquire_owned() => slot,
        };
        // The semaphore is never closed, so this only waits.
        let Ok(slot) = slot else { break };
        tokio::select! {
            biased;
            () = core.draining.cancelled() => break,
            () = account.rate_limiter.acquire() => {}
        }
        // Both may have taken long: refunds may have to expire now, or the circuit breaker may have
        // opened.
        if next_expiry <= core.clock.now() {
            break;
        }
        let Some(generation) = account.try_acquire_permission() else { break };
        let (task_core, task_account) = (core.clone(), account.clone());
        // A task of its own: the drain ends waiting, never a dispatch.
        begun.push(core.tasks.spawn(async move {
            let span = spans::dispatch_span(&task_core, &refund).await;
            let dispatch = async {
                // Intent before act: the attempt is on disk when its task begins.
                let credential = task_account.configured.refunds.credential(refund.id());
                if let Some(dispatched) =
                    attempt::begin(&task_core, &task_account, &refund, generation, credential).await?
                {
                    attempt::spawn(&task_core, &task_account, dispatched, slot, generation);
                }
                Ok(())
            };
            dispatch.instrument(span).await
        }));
    }
    let mut result = Ok(());
    for dispatch in begun {
        // A dispatch that panicked has recorded nothing, or its refund is found at the next start.
        result = result.and(dispatch.await.unwrap_or(Ok(())));
    }
    result
}

/// Expires refunds that have waited to be sent longer than the account allows. Returns when the
/// next one can expire.
///
/// Expiry is final, so it uses a clock that accepts a jump only once a minute has confirmed it.
async fn expire_overdue(core: &EngineCore, account: &AccountRuntime, now: Timestamp) -> Result<Timestamp, LedgerError> {
    if account.is_paused() {
        // Nothing expires meanwhile, and the end of the pause wakes the worker.
        return Ok(now.saturating_add(MAX_IDLE));
    }
    let Some(confirmed) = core.clock.confirmed_now() else { return Ok(now.saturating_add(CLOCK_RECHECK)) };
    let (at, limit) = (account.destination(), account.configured.pending_limit);
    // How far the confirmed clock is behind the engine's: by the engine's clock, its deadlines come
    // that much later.
    let behind = now.saturating_duration_since(confirmed);
    let expiry_of = |since: Timestamp| since.saturating_add(limit).saturating_add(account.standstill_since(since));
    let (mut next, mut skipped) = (now.saturating_add(limit), 0_u32);
    loop {
        let oldest = core.ledger.due(oldest_pending(&at, skipped)).await?;
        for refund in &oldest {
            let expiry = expiry_of(refund.pending_since());
            if expiry > confirmed {
                skipped = skipped.saturating_add(1);
                next = next.min(expiry.saturating_add(behind));
                continue;
            }
            match core.record(refund, vec![Event::Expired], None, &Actor::gateway()).await {
                Ok(Recorded { outcome, sequence }) => {
                    let sequence = event_number(sequence);
                    let span = spans::refund_span(core, &outcome).await;
                    span.in_scope(|| {
                        warn!(sequence, "the refund has waited too long: it is FAILED, and was never processed")
                    });
                }
                // Cancelled, or moved to another account, in the meantime.
                Err(LedgerError::StaleRevision { .. } | LedgerError::IllegalTransition(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // All others are younger, and no younger one expires before an older one.
        match oldest.last().map(|refund| expiry_of(refund.create_time)) {
            Some(expiry) if expiry > confirmed => {
                return Ok(next.min(expiry.saturating_add(behind)));
            }
            Some(_) => {}
            None => return Ok(next),
        }
    }
}

/// Tests an account whose circuit breaker is open, by looking up a refund that waits to be sent.
/// Returns false if none waits.
///
/// The probes alternate between the oldest and the newest refunds: a wrong order number may be
/// answered like a wrong password, and a number of such refunds must not block all others.
async fn probe_account(core: &Arc<EngineCore>, account: &Arc<AccountRuntime>) -> Result<bool, LedgerError> {
    let at = account.destination();
    let count = account.probe_count.fetch_add(1, Ordering::Relaxed);
    let waiting: Vec<Refund> = if count.is_multiple_of(2) {
        core.ledger.due(oldest_pending(&at, 0)).await?
    } else {
        let (name, states) = (Some(at.account.clone()), vec![State::Pending]);
        let newest = ListQuery { account: name, states, limit: EXPIRY_BATCH, ..ListQuery::default() };
        let newest = core.ledger.list(newest).await?.into_iter().map(|listed| listed.refund);
        newest.filter(|refund| refund.destination() == at).collect()
    };
    let index = (count / 2).checked_rem(waiting.len()).unwrap_or(0);
    let Some(refund) = waiting.get(index) else { return Ok(false) };
    tokio::select! {
        biased;
        () = core.draining.cancelled() => {}
        () = lookup::probe_suspended(core, account, refund) => {}
    }
    Ok(true)
}

/// Reconciles due refunds as lookup slots become free. Returns how long to sleep until the next one
/// is due.
async fn reconcile_due(core: &Arc<EngineCore>, account: &Arc<AccountRuntime>) -> Result<Duration, LedgerError> {
    let batch = u32::try_from(account.configured.max_in_flight).unwrap_or(u32::MAX).saturating_mul(2);
    while !should_stop(core) {
        let (now, at) = (core.clock.now(), account.destination());
        if account.has_recovered.swap(false, Ordering::AcqRel)
            && let Err(error) = hasten_unheard(core, &at, now).await
        {
            // Not all are due yet: try again in the next round.
            account.has_recovered.store(true, Ordering::Release);
            return Err(error);
        }
        let query = DueQuery { kind: DueKind::Lookup, destination: at.clone(), at: now, skip: 0, limit: batch };
        let due = core.ledger.due(query).await?;
        let mut has_begun = false;
        for refund in due {
            let Some(reconciling) = account.try_begin_reconcile(refund.id()) else { continue };
            let slot = tokio::select! {
                biased;
                () = core.draining.cancelled() => return Ok(MAX_IDLE),
                () = core.ledger_stopped.cancelled() => return Ok(MAX_IDLE),
                slot = account.lookup_slots.clone().acquire_owned() => slot,
            };
            let Ok(slot) = slot else { return Ok(MAX_IDLE) };
            has_begun = true;
            let span = spans::reconcile_span(account, &refund);
            let (task_core, task_account) = (core.clone(), account.clone());
            let work = async move {
                let _reconciling = reconciling;
                reconcile::reconcile_one(&task_core, &task_account, refund, slot).await;
            };
            core.tasks.spawn(work.instrument(span));
        }
        if has_begun {
            continue;
        }
        if account.is_reconciling() {
            // Each of them notifies this worker when it ends.
            return Ok(MAX_IDLE);
        }
        return Ok(idle_until(core.ledger.next_due(DueKind::Lookup, &at).await?, now));
    }
    Ok(MAX_IDLE)
}

/// A batch of the oldest PENDING refunds, whatever the clock says.
fn oldest_pending(at: &Destination, skip: u32) -> DueQuery {
    DueQuery { kind: DueKind::Expiry, destination: at.clone(), at: Timestamp::MAX, skip, limit: EXPIRY_BATCH }
}

/// Makes every refund due whose last lookup had no usable answer.
async fn hasten_unheard(core: &EngineCore, at: &Destination, now: Timestamp) -> Result<(), LedgerError> {
    while core.ledger.hasten(at, now).await? > 0 {}
    Ok(())
}

fn idle_until(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.map_or(MAX_IDLE, |at| at.saturating_duration_since(now)).clamp(Duration::from_millis(1), MAX_IDLE)
}
