//! Finds what is due of one account: refunds to be sent, refunds to be given up, refunds to be
//! asked for. Two tasks for each account.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Instrument, warn};

use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::event::Event;
use crate::domain::place::Destination;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::Permission;
use crate::engine::{EngineCore, LEDGER_ERROR_BACKOFF, places, step};
use crate::ledger::{DueKind, DueQuery, GATEWAY, Health, LedgerError, ListQuery};

/// Looked for again at least so often, however quiet it is: a clock set forward rings no bell.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How long after a jump of the clock expiry is checked again.
const CLOCK_RECHECK: Duration = Duration::from_secs(61);
/// Refunds that are given up, or from which the next probe is taken, at once.
const EXPIRY_BATCH: u32 = 64;

/// Sends what is PENDING. Runs until the drain begins or the ledger has failed.
///
/// The drain ends what only waits, never a dispatch: an attempt that is on disk and that nobody
/// sends would be doubt for nothing.
pub(super) async fn run_dispatcher(shared: Arc<EngineCore>, lane: Arc<AccountRuntime>) {
    let mut expiry = Timestamp::MIN;
    while !should_stop(&shared) {
        let found = dispatch_due(&shared, &lane, &mut expiry).await;
        let pause = pause_after(&shared, &lane, found);
        wait(&shared, &lane.bell, pause).await;
    }
}

/// Settles what is IN_DOUBT or SUBMITTED. Runs until the drain begins or the ledger has failed: a
/// look that cannot be recorded would be asked for again and again.
pub(super) async fn run_reconciler(shared: Arc<EngineCore>, lane: Arc<AccountRuntime>) {
    while !should_stop(&shared) {
        let found = reconcile_due(&shared, &lane).await;
        let pause = pause_after(&shared, &lane, found);
        wait(&shared, &lane.reconcile_notify, pause).await;
    }
}

fn should_stop(shared: &EngineCore) -> bool {
    shared.draining.is_cancelled() || shared.stopped.is_cancelled()
}

fn pause_after(shared: &EngineCore, lane: &AccountRuntime, found: Result<Duration, LedgerError>) -> Duration {
    found.unwrap_or_else(|problem| {
        // That the ledger has failed is said once, and not by each account.
        if *shared.ledger.health().borrow() == Health::Writing {
            warn!(account = %lane.account.name, %problem, "the ledger could not be asked for what is due");
        }
        LEDGER_ERROR_BACKOFF
    })
}

async fn wait(shared: &EngineCore, bell: &Notify, pause: Duration) {
    tokio::select! {
        biased;
        () = shared.draining.cancelled() => {}
        () = shared.stopped.cancelled() => {}
        () = bell.notified() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Sends what is due, as slots become free, until the drain begins. How long nothing will be due
/// for.
async fn dispatch_due(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    expiry: &mut Timestamp,
) -> Result<Duration, LedgerError> {
    let handful = u32::try_from(lane.account.max_in_flight).unwrap_or(u32::MAX).saturating_mul(2);
    while !should_stop(shared) {
        let now = shared.clock.now();
        if *expiry <= now {
            *expiry = expire_overdue(shared, lane, now).await?;
        }
        let oldest_expires = until(Some(*expiry), now);
        match lane.stance() {
            Permission::All | Permission::One => {}
            Permission::None => return Ok(oldest_expires),
            Permission::Until(until) => return Ok(until.duration_since(Instant::now()).min(oldest_expires)),
            Permission::ProbeDue => {
                if probe(shared, lane).await? {
                    continue;
                }
                return Ok(oldest_expires);
            }
        }
        let destination = lane.account.destination();
        let query = DueQuery { kind: DueKind::Dispatch, destination, at: now, skip: 0, limit: handful };
        let due = shared.ledger.due(query).await?;
        // While older ones wait, newcomers line up behind them. One that was recorded since the
        // query has rung the bell.
        lane.backlog.store(!due.is_empty(), Ordering::Release);
        if due.is_empty() {
            let next = until(shared.ledger.next_due(DueKind::Dispatch, &lane.account.destination()).await?, now);
            return Ok(next.min(oldest_expires));
        }
        dispatch_batch(shared, lane, due, *expiry).await?;
    }
    Ok(MAX_IDLE)
}

/// Begins an attempt of each, one as soon as there is a slot for it, without waiting for the
/// commits of those before: else a long queue would go out no faster than one commit follows
/// another. Returns when all that were begun are on disk; before that, they still look due.
async fn dispatch_batch(
    shared: &Arc<EngineCore>,
    lane: &Arc<AccountRuntime>,
    due: Vec<Refund>,
    expiry: Timestamp,
) -> Result<(), LedgerError> {
    let mut begun = Vec::with_capacity(due.len());
    for refund in due {
        let slot = tokio::select! {
            biased;
            () = shared.draining.cancelled() => break,
            slot = lane.slots.clone().acquire_owned() => slot,
        };
        // Never closed, so it can only be waited for.
        let Ok(slot) = slot else { break };
        tokio::select! {
            biased;
            () = shared.draining.cancelled() => break,
            () = lane.turn() => {}
        }
        // It may have waited long for both: others are to be given up by now, or the account has
        // been shut.
        if expiry <= shared.clock.now() {
            break;
        }
        let Some(era) = lane.try_acquire_probe() else { break };
        let (owner, owned_lane) = (shared.clone(), lane.clone());
        // A task of its own: the drain ends what only waits, never a dispatch.
        begun.push(shared.tasks.spawn(async move {
            let span = step::span_of_dispatch(&owner, &refund).await;
            let dispatch = async {
                // Intent before act: the attempt is on disk when its task begins.
                let credential = owned_lane.account.adapter.credential(refund.id());
                if let Some(dispatched) = step::begin_attempt(&owner, &owned_lane, &refund, era, credential).await? {
                    step::spawn_attempt(&owner, &owned_lane, dispatched, slot, era);
                }
                Ok(())
            };
            dispatch.instrument(span).await
        }));
    }
    let mut result = Ok(());
    for dispatch in begun {
        // One that panicked has recorded nothing, or what the next start takes up.
        result = result.and(dispatch.await.unwrap_or(Ok(())));
    }
    result
}

/// Expires refunds that have waited to be sent longer than the account allows. Returns when the
/// next one can expire.
///
/// Expiry is final, so it uses a clock that accepts a jump only once a minute has confirmed it.
async fn expire_overdue(shared: &EngineCore, lane: &AccountRuntime, now: Timestamp) -> Result<Timestamp, LedgerError> {
    let Some(confirmed) = shared.clock.confirmed_now() else { return Ok(now.saturating_add(CLOCK_RECHECK)) };
    let (at, limit) = (lane.account.destination(), lane.account.pending_limit);
    // How far that clock is behind the engine's: its deadlines come that much later on the
    // engine's.
    let behind = now.saturating_duration_since(confirmed);
    let expiry_of =
        |since: Timestamp| since.saturating_add(limit).saturating_add(places::stood_still(&lane.standstills, since));
    let (mut next, mut skipped) = (now.saturating_add(limit), 0_u32);
    loop {
        let oldest = shared.ledger.due(oldest_pending(&at, skipped)).await?;
        for refund in &oldest {
            let expiry = expiry_of(refund.pending_since());
            if expiry > confirmed {
                skipped = skipped.saturating_add(1);
                next = next.min(expiry.saturating_add(behind));
                continue;
            }
            match shared.record(refund, vec![Event::Expired], None, GATEWAY).await {
                Ok(refund) => {
                    let span = step::span_about(shared, &refund).await;
                    span.in_scope(|| warn!("the refund has waited too long: it is FAILED, and was never processed"));
                }
                // Cancelled, or moved to another account, in the meantime.
                Err(LedgerError::StaleRevision { .. } | LedgerError::IllegalTransition(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // All others are younger, and no younger one expires before an older one.
        match oldest.last().map(|refund| expiry_of(refund.create_time)) {
            Some(next_check_time_of) if next_check_time_of > confirmed => {
                return Ok(next.min(next_check_time_of.saturating_add(behind)));
            }
            Some(_) => {}
            None => return Ok(next),
        }
    }
}

/// Tries an account that is shut by asking for a refund that waits. False: none waits.
///
/// The refunds take turns, the oldest and the newest: a wrong order number may be answered like a
/// wrong password, and a crowd of them must not keep all others waiting.
async fn probe(shared: &Arc<EngineCore>, lane: &Arc<AccountRuntime>) -> Result<bool, LedgerError> {
    let at = lane.account.destination();
    let count = lane.probes.fetch_add(1, Ordering::Relaxed);
    let waiting: Vec<Refund> = if count.is_multiple_of(2) {
        shared.ledger.due(oldest_pending(&at, 0)).await?
    } else {
        let (account, states) = (Some(at.account.clone()), vec![State::Pending]);
        let newest = ListQuery { account, states, limit: EXPIRY_BATCH, ..ListQuery::default() };
        let newest = shared.ledger.list(newest).await?.into_iter().map(|listed| listed.refund);
        newest.filter(|refund| refund.destination() == at).collect()
    };
    let turn = (count / 2).checked_rem(waiting.len()).unwrap_or(0);
    let Some(refund) = waiting.get(turn) else { return Ok(false) };
    tokio::select! {
        biased;
        () = shared.draining.cancelled() => {}
        () = step::probe(shared, lane, refund) => {}
    }
    Ok(true)
}

/// Begins to settle what is due, as places become free. How long nothing will be due for.
async fn reconcile_due(shared: &Arc<EngineCore>, lane: &Arc<AccountRuntime>) -> Result<Duration, LedgerError> {
    let limit = u32::try_from(lane.account.max_in_flight).unwrap_or(u32::MAX).saturating_mul(2);
    while !should_stop(shared) {
        let (now, at) = (shared.clock.now(), lane.account.destination());
        if lane.has_recovered.swap(false, Ordering::AcqRel)
            && let Err(error) = hasten(shared, &at, now).await
        {
            // Not all are due yet: the mark stays for the next round.
            lane.has_recovered.store(true, Ordering::Release);
            return Err(error);
        }
        let query = DueQuery { kind: DueKind::Lookup, destination: at.clone(), at: now, skip: 0, limit };
        let due = shared.ledger.due(query).await?;
        let mut begun = false;
        for refund in due {
            let Some(reconciling) = lane.try_begin_reconcile(refund.id()) else { continue };
            let place = tokio::select! {
                biased;
                () = shared.draining.cancelled() => return Ok(MAX_IDLE),
                () = shared.stopped.cancelled() => return Ok(MAX_IDLE),
                place = lane.lookups.clone().acquire_owned() => place,
            };
            let Ok(place) = place else { return Ok(MAX_IDLE) };
            begun = true;
            let span = step::span_of_reconcile(lane, &refund);
            let (owner, owned_lane) = (shared.clone(), lane.clone());
            let work = async move {
                let _in_hand = reconciling;
                step::reconcile(&owner, &owned_lane, refund, place).await;
            };
            shared.tasks.spawn(work.instrument(span));
        }
        if begun {
            continue;
        }
        if lane.is_reconciling() {
            // The bell rings as each of them ends.
            return Ok(MAX_IDLE);
        }
        return Ok(until(shared.ledger.next_due(DueKind::Lookup, &at).await?, now));
    }
    Ok(MAX_IDLE)
}

/// A batch of the oldest PENDING refunds, whatever the clock says.
fn oldest_pending(at: &Destination, skip: u32) -> DueQuery {
    DueQuery { kind: DueKind::Expiry, destination: at.clone(), at: Timestamp::MAX, skip, limit: EXPIRY_BATCH }
}

/// Makes every refund due whose last lookup had no usable answer.
async fn hasten(shared: &EngineCore, at: &Destination, now: Timestamp) -> Result<(), LedgerError> {
    while shared.ledger.hasten(at, now).await? > 0 {}
    Ok(())
}

fn until(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.map_or(MAX_IDLE, |at| at.saturating_duration_since(now)).clamp(Duration::from_millis(1), MAX_IDLE)
}
