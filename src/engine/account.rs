//! What the engine keeps for one account at run time: its slots, rate limiter, circuit breaker and
//! queue state.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{error, info};

use crate::domain::clock::Timestamp;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::outcome::AccountSignal;
use crate::domain::place::Destination;
use crate::domain::refund::Refund;
use crate::engine::circuit_breaker::{AccountHealth, CircuitBreaker, CircuitBreakerSettings, Generation, Permission};
use crate::engine::probe_queue::ProbeQueue;
use crate::engine::recent_lookups::RecentLookups;
use crate::ledger::{AccountPause, RelatedLogins};
use crate::providers::Account;
use crate::providers::rate_limit::RateLimiter;

/// The run-time state of one account.
pub(super) struct AccountRuntime {
    pub(super) configured: Arc<Account>,
    /// Further accounts and logins whose reservations count for this one.
    pub(super) related: RelatedLogins,
    /// Times during which its refunds waited for a changed account. They do not count towards
    /// expiry.
    standstills: Vec<(Timestamp, Timestamp)>,
    pauses: Mutex<Pauses>,
    /// Held while a pause begins or ends.
    pub(super) pausing: tokio::sync::Mutex<()>,
    /// One permit for each attempt that may be on the wire.
    pub(super) attempt_slots: Arc<Semaphore>,
    /// One permit for each lookup that may be on the wire.
    pub(super) lookup_slots: Arc<Semaphore>,
    /// Wakes the dispatcher: a refund has become due, or the circuit breaker has changed.
    pub(super) dispatch_notify: Notify,
    /// Wakes the reconciler: a refund has become due for a lookup.
    pub(super) reconcile_notify: Notify,
    /// Older refunds wait to be sent: a new one may not overtake them.
    pub(super) has_backlog: AtomicBool,
    /// How many probes the circuit breaker has asked for; selects the refund that the next one
    /// looks up.
    pub(super) probe_count: AtomicUsize,
    /// The account has recovered: refunds whose last lookup had no usable answer become due now.
    pub(super) has_recovered: AtomicBool,
    /// Probes that callers ask for.
    pub(super) requested_probes: ProbeQueue,
    /// When the next request may be sent.
    pub(super) rate_limiter: Arc<RateLimiter>,
    pub(super) recent_lookups: RecentLookups,
    breaker: Mutex<CircuitBreaker>,
    /// When its health was last [`AccountHealth::Serving`], if it is not now.
    unhealthy_since: Mutex<Option<Instant>>,
    /// The refunds that are being reconciled.
    reconciling: Mutex<BTreeSet<RefundId>>,
}

/// An account as callers see it.
#[derive(Clone)]
pub struct AccountStatus {
    pub account: Arc<Account>,
    /// By the provider's last answers.
    pub health: AccountHealth,
    /// Since when the health is not [`AccountHealth::Serving`].
    pub unhealthy_since: Option<Timestamp>,
    /// The pause that the account is in.
    pub pause: Option<AccountPause>,
}

/// The pauses of one account.
#[derive(Default)]
struct Pauses {
    /// The pause that the account is in.
    running: Option<AccountPause>,
    ended: Vec<(Timestamp, Timestamp)>,
}

/// Marks a refund as being reconciled until it is dropped.
pub(super) struct ReconcileGuard {
    account: Arc<AccountRuntime>,
    refund: RefundId,
}

impl AccountRuntime {
    pub(super) fn new(
        configured: Arc<Account>,
        related: RelatedLogins,
        standstills: Vec<(Timestamp, Timestamp)>,
        breaker: CircuitBreakerSettings,
        reconcile_interval: Duration,
    ) -> Self {
        let (second, hour) = (configured.requests_per_second, configured.requests_per_hour);
        let rate_limiter = Arc::new(RateLimiter::new(second, hour, configured.metrics.clone()));
        Self {
            attempt_slots: Arc::new(Semaphore::new(configured.max_in_flight)),
            lookup_slots: Arc::new(Semaphore::new(configured.max_in_flight)),
            dispatch_notify: Notify::new(),
            reconcile_notify: Notify::new(),
            has_backlog: AtomicBool::new(true),
            probe_count: AtomicUsize::new(0),
            // Whether the account was suspended when the last process ended is not known any more.
            has_recovered: AtomicBool::new(true),
            requested_probes: ProbeQueue::default(),
            rate_limiter,
            recent_lookups: RecentLookups::new(reconcile_interval),
            breaker: Mutex::new(CircuitBreaker::new(breaker)),
            unhealthy_since: Mutex::default(),
            reconciling: Mutex::default(),
            related,
            standstills,
            pauses: Mutex::default(),
            pausing: tokio::sync::Mutex::default(),
            configured,
        }
    }

    pub(super) fn name(&self) -> &AccountName {
        &self.configured.name
    }

    pub(super) fn destination(&self) -> Destination {
        self.configured.destination()
    }

    /// A slot for a refund that is only now being recorded. None while older refunds wait for
    /// theirs.
    pub(super) fn try_acquire_for_new(&self) -> Option<OwnedSemaphorePermit> {
        if self.has_backlog.load(Ordering::Acquire) || !self.allows_all() {
            return None;
        }
        let slot = self.attempt_slots.clone().try_acquire_owned().ok()?;
        self.rate_limiter.try_acquire().then_some(slot)
    }

    /// How much of the wait since `since` does not count towards expiry: the account was gone or at
    /// another place, or paused.
    pub(super) fn standstill_since(&self, since: Timestamp) -> Duration {
        let pauses = self.pauses();
        overlap_since(self.standstills.iter().chain(&pauses.ended).copied().collect(), since)
    }

    /// The pause that the account is in.
    pub(super) fn pause(&self) -> Option<AccountPause> {
        self.pauses().running.clone()
    }

    /// Nothing is sent before an operator resumes the account.
    pub(super) fn is_paused(&self) -> bool {
        self.pauses().running.is_some()
    }

    /// Takes note of a pause that the ledger has recorded.
    pub(super) fn set_pause(&self, pause: AccountPause) {
        let mut pauses = self.pauses();
        match pause.end {
            Some(end) => pauses.ended.push((pause.begin, end)),
            None => pauses.running = Some(pause),
        }
    }

    /// Takes note that the pause has ended. Returns whether there was one.
    pub(super) fn end_pause(&self, now: Timestamp) -> bool {
        let mut pauses = self.pauses();
        let Some(ended) = pauses.running.take() else { return false };
        pauses.ended.push((ended.begin, now.max(ended.begin)));
        true
    }

    pub(super) fn health(&self) -> AccountHealth {
        self.breaker().health()
    }

    pub(super) fn status(&self, now: Timestamp) -> AccountStatus {
        let health = self.health();
        let since = self.unhealthy_since.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = since.filter(|_| health != AccountHealth::Serving).map(|since| since.elapsed());
        AccountStatus {
            account: self.configured.clone(),
            health,
            unhealthy_since: elapsed.map(|elapsed| now.saturating_sub(elapsed)),
            pause: self.pause(),
        }
    }

    /// What may be sent now. A paused account is still probed while its circuit breaker is open.
    pub(super) fn permission(&self) -> Permission {
        match self.breaker().permission(Instant::now()) {
            Permission::All | Permission::One if self.is_paused() => Permission::None,
            permission => permission,
        }
    }

    /// The breaker state's label in the metrics.
    pub(super) fn breaker_state(&self) -> &'static str {
        self.breaker().state_label(Instant::now())
    }

    /// Any number of refunds may be sent.
    pub(super) fn allows_all(&self) -> bool {
        self.permission() == Permission::All
    }

    /// At least one refund may be sent.
    pub(super) fn allows_one(&self) -> bool {
        matches!(self.permission(), Permission::All | Permission::One)
    }

    /// The circuit breaker is open: no refund may be sent.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.permission(), Permission::ProbeDue | Permission::Until(_))
    }

    /// The account is paused or its circuit breaker is open: no refund is sent, and for how long is
    /// not known.
    pub(super) fn is_held(&self) -> bool {
        self.is_paused() || self.is_open()
    }

    /// The circuit breaker's present generation, to be kept with what is sent now.
    pub(super) fn generation(&self) -> Generation {
        self.breaker().generation()
    }

    /// Permits one attempt, which is about to be recorded. None if no attempt is allowed.
    pub(super) fn try_acquire_permission(&self) -> Option<Generation> {
        if self.is_paused() { None } else { self.breaker().try_acquire() }
    }

    /// The permitted attempt was not sent after all: another one may be.
    pub(super) fn release_permission(&self, generation: Generation) {
        self.update_breaker(|breaker| breaker.release(generation));
    }

    /// Records what the answer to an attempt, sent in `generation`, says about the account. Returns
    /// whether that has opened the circuit breaker.
    pub(super) fn record_result(&self, generation: Generation, signal: AccountSignal, refund: &Refund) -> bool {
        let target = refund.intent.target.references().concat();
        self.update_breaker(|breaker| {
            let was_present = breaker.generation() == generation;
            breaker.record_result(generation, signal, &target, Instant::now());
            was_present && breaker.generation() != generation
        })
    }

    /// Records what the answer to a lookup says about the account. `is_probe`: the lookup was made
    /// because the circuit breaker is open.
    pub(super) fn record_lookup(&self, signal: AccountSignal, is_probe: bool) {
        self.update_breaker(|breaker| breaker.record_lookup(signal, is_probe, Instant::now()));
    }

    /// The account has a new secret. If the previous one was refused, the account is probed
    /// immediately.
    pub(super) fn credentials_changed(&self) {
        self.update_breaker(|breaker| breaker.credentials_changed(Instant::now()));
    }

    /// Marks the refund as being reconciled. None if it is already.
    pub(super) fn try_begin_reconcile(self: &Arc<Self>, refund: &RefundId) -> Option<ReconcileGuard> {
        let is_new = self.reconciling().insert(refund.clone());
        is_new.then(|| ReconcileGuard { account: self.clone(), refund: refund.clone() })
    }

    pub(super) fn is_reconciling(&self) -> bool {
        !self.reconciling().is_empty()
    }

    /// Changes the circuit breaker, logs a change of the account's health, and wakes the workers
    /// that wait for it.
    fn update_breaker<T>(&self, update: impl FnOnce(&mut CircuitBreaker) -> T) -> T {
        let (before, result, after) = {
            let mut breaker = self.breaker();
            let before = (breaker.health(), breaker.permission(Instant::now()));
            let result = update(&mut breaker);
            (before, result, (breaker.health(), breaker.permission(Instant::now()), breaker.is_read_only()))
        };
        let ((health_before, permission_before), (health, permission, is_read_only)) = (before, after);
        if permission_before != permission {
            self.dispatch_notify.notify_one();
        }
        if health == AccountHealth::CredentialsRefused {
            self.configured.secret.report_refusal();
        }
        if (health_before == AccountHealth::Serving) != (health == AccountHealth::Serving) {
            let since = (health != AccountHealth::Serving).then(Instant::now);
            *self.unhealthy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        }
        let account = self.name();
        match (health_before, health) {
            (AccountHealth::Serving, AccountHealth::CredentialsRefused) if is_read_only => {
                error!(%account, "the provider answers the account's lookups and refuses its refunds: they stay PENDING");
            }
            (AccountHealth::Serving, AccountHealth::CredentialsRefused) => {
                error!(%account, "the provider refuses the account's credentials: its refunds stay PENDING");
            }
            (AccountHealth::Serving, AccountHealth::Suspended) => {
                error!(%account, "provider not responding: account suspended, its refunds stay PENDING");
            }
            (AccountHealth::CredentialsRefused | AccountHealth::Suspended, AccountHealth::Serving) => {
                info!(%account, "the provider answers the account again");
                self.has_recovered.store(true, Ordering::Release);
                self.reconcile_notify.notify_one();
            }
            _ => {}
        }
        result
    }

    fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconciling(&self) -> MutexGuard<'_, BTreeSet<RefundId>> {
        self.reconciling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of the time since `since` lies in one or more of these intervals.
fn overlap_since(mut intervals: Vec<(Timestamp, Timestamp)>, since: Timestamp) -> Duration {
    intervals.sort_unstable();
    let (mut counted_until, mut overlap) = (since, Duration::ZERO);
    for (begin, end) in intervals {
        overlap += end.saturating_duration_since(begin.max(counted_until));
        counted_until = counted_until.max(end);
    }
    overlap
}

impl Drop for ReconcileGuard {
    fn drop(&mut self) {
        self.account.reconciling().remove(&self.refund);
        self.account.reconcile_notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::recorded_after_it(500, 0)]
    #[case::recorded_before_it(100, 100)]
    #[case::recorded_in_its_middle(250, 50)]
    fn a_standstill_does_not_count_towards_expiry(#[case] since: i64, #[case] seconds: u64) {
        let at = Timestamp::from_seconds;
        let intervals = vec![(at(250), at(260)), (at(200), at(270)), (at(260), at(300))];
        assert_eq!(overlap_since(intervals, at(since)), Duration::from_secs(seconds));
    }
}
