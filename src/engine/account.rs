//! What one account has of the engine: its slots on the wire, its pace, its circuit, and its place
//! in the queue.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{error, info};

use crate::domain::clock::Timestamp;
use crate::domain::ids::RefundId;
use crate::engine::AccountHealth;
use crate::engine::circuit_breaker::{CircuitBreaker, CircuitBreakerSettings, Generation, Permission, Signal};
use crate::engine::probe::Probes;
use crate::engine::rate_limit::RateLimiter;
use crate::ledger::RelatedLogins;
use crate::providers::Account;

/// One account's lane.
pub(super) struct AccountRuntime {
    pub(super) account: Arc<Account>,
    /// Further accounts and logins whose reservations count for this one.
    pub(super) related: RelatedLogins,
    /// Times during which its refunds waited for a changed account. They do not count towards
    /// expiry.
    pub(super) standstills: Vec<(Timestamp, Timestamp)>,
    /// One permit for each attempt that may be on the wire.
    pub(super) slots: Arc<Semaphore>,
    /// One permit for each look that may be on the wire.
    pub(super) lookups: Arc<Semaphore>,
    /// Rung when a refund has become due, a slot free, or the circuit has moved.
    pub(super) bell: Notify,
    /// Rung when a refund is to be asked for.
    pub(super) reconcile_notify: Notify,
    /// Older refunds wait: a new one may not overtake them.
    pub(super) backlog: AtomicBool,
    /// Which of the waiting refunds is looked up when the account is tried next.
    pub(super) probes: AtomicUsize,
    /// The account has recovered: refunds whose last lookup had no usable answer are to be due at
    /// once.
    pub(super) has_recovered: AtomicBool,
    /// Probes that callers ask for.
    pub(super) requested_probes: Probes,
    /// When its next request may be sent.
    pub(super) limiter: Arc<RateLimiter>,
    circuit: Mutex<CircuitBreaker>,
    reconciling: Mutex<BTreeSet<RefundId>>,
}

/// A refund that somebody is settling; let go of when dropped.
pub(super) struct ReconcileGuard {
    lane: Arc<AccountRuntime>,
    refund: RefundId,
}

impl AccountRuntime {
    pub(super) fn new(
        account: Arc<Account>,
        related: RelatedLogins,
        standstills: Vec<(Timestamp, Timestamp)>,
        circuit: CircuitBreakerSettings,
    ) -> Self {
        let (second, hour) = (account.requests_per_second, account.requests_per_hour);
        let limiter = Arc::new(RateLimiter::new(second, hour, account.metrics.clone()));
        Self {
            slots: Arc::new(Semaphore::new(account.max_in_flight)),
            lookups: Arc::new(Semaphore::new(account.max_in_flight)),
            bell: Notify::new(),
            reconcile_notify: Notify::new(),
            backlog: AtomicBool::new(true),
            probes: AtomicUsize::new(0),
            // Whether it was suspended when the last process ended is not known any more.
            has_recovered: AtomicBool::new(true),
            requested_probes: Probes::default(),
            limiter,
            circuit: Mutex::new(CircuitBreaker::new(circuit)),
            reconciling: Mutex::default(),
            related,
            standstills,
            account,
        }
    }

    /// A slot for a refund that is only now being recorded: none while older ones wait for theirs.
    pub(super) fn try_acquire_for_new(&self) -> Option<OwnedSemaphorePermit> {
        if self.backlog.load(Ordering::Acquire) || !self.is_free() {
            return None;
        }
        let slot = self.slots.clone().try_acquire_owned().ok()?;
        self.limiter.try_acquire().then_some(slot)
    }

    /// Waits for this request's turn on the wire.
    pub(super) async fn turn(&self) {
        self.limiter.acquire().await;
    }

    pub(super) fn health(&self) -> AccountHealth {
        self.circuit().health()
    }

    pub(super) fn stance(&self) -> Permission {
        self.circuit().stance(Instant::now())
    }

    /// The label used in the metrics.
    pub(super) fn position(&self) -> &'static str {
        self.circuit().position(Instant::now())
    }

    /// Any number of refunds may be sent.
    pub(super) fn is_free(&self) -> bool {
        self.stance() == Permission::All
    }

    /// No refund may be sent.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stance(), Permission::ProbeDue | Permission::Until(_))
    }

    /// A refund may be sent, or one at least.
    pub(super) fn may_send(&self) -> bool {
        matches!(self.stance(), Permission::All | Permission::One)
    }

    /// To be noted with what is sent now.
    pub(super) fn era(&self) -> Generation {
        self.circuit().era()
    }

    /// A refund is about to be recorded as sent; none where it may not be.
    pub(super) fn try_acquire_probe(&self) -> Option<Generation> {
        self.circuit().try_acquire_probe()
    }

    /// The refund that took its turn was not sent after all: another one may have it.
    pub(super) fn release(&self, era: Generation) {
        self.moved(|circuit| circuit.release(era));
    }

    /// Remembers what the answer to an attempt that was sent in `era` told of the account. Whether
    /// that has shut it.
    pub(super) fn note(&self, era: Generation, sign: Signal) -> bool {
        self.moved(|circuit| {
            let was_present = circuit.era() == era;
            circuit.note(era, sign, Instant::now());
            was_present && circuit.era() != era
        })
    }

    /// Remembers what a look told of the account. `is_due`: it was made to try the account.
    pub(super) fn record_probe(&self, sign: &Signal, is_due: bool) {
        self.moved(|circuit| circuit.record_probe(sign, is_due, Instant::now()));
    }

    /// The account has a new secret. If the previous one was refused, the account is tried again at
    /// once.
    pub(super) fn credentials_changed(&self) {
        self.moved(|circuit| circuit.credentials_changed(Instant::now()));
    }

    /// Takes a refund in hand; none where somebody has it already.
    pub(super) fn try_begin_reconcile(self: &Arc<Self>, refund: &RefundId) -> Option<ReconcileGuard> {
        let taken = self.reconciling().insert(refund.clone());
        taken.then(|| ReconcileGuard { lane: self.clone(), refund: refund.clone() })
    }

    pub(super) fn is_reconciling(&self) -> bool {
        !self.reconciling().is_empty()
    }

    /// Moves the circuit, logs a change of health once, and wakes who waits for it.
    fn moved<T>(&self, move_it: impl FnOnce(&mut CircuitBreaker) -> T) -> T {
        let (before, told, after) = {
            let mut circuit = self.circuit();
            let before = (circuit.health(), circuit.stance(Instant::now()), circuit.is_read_only());
            let told = move_it(&mut circuit);
            (before, told, (circuit.health(), circuit.stance(Instant::now()), circuit.is_read_only()))
        };
        if before.1 != after.1 {
            self.bell.notify_one();
        }
        if after.0 == AccountHealth::CredentialsRefused {
            self.account.secret.report_refusal();
        }
        let account = &self.account.name;
        match (before.0, after.0) {
            (AccountHealth::Serving, AccountHealth::CredentialsRefused) if after.2 => {
                error!(%account, "the provider answers the account's lookups and refuses its refunds: they wait as PENDING");
            }
            (AccountHealth::Serving, AccountHealth::CredentialsRefused) => {
                error!(%account, "the provider refuses the account's credentials: its refunds wait as PENDING");
            }
            (AccountHealth::Serving, AccountHealth::Suspended) => {
                error!(%account, "nothing usable is heard of the provider: the account's refunds wait as PENDING");
            }
            (AccountHealth::CredentialsRefused | AccountHealth::Suspended, AccountHealth::Serving) => {
                info!(%account, "the provider answers the account again");
                self.has_recovered.store(true, Ordering::Release);
                self.reconcile_notify.notify_one();
            }
            _ => {}
        }
        told
    }

    fn circuit(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconciling(&self) -> MutexGuard<'_, BTreeSet<RefundId>> {
        self.reconciling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReconcileGuard {
    fn drop(&mut self) {
        self.lane.reconciling().remove(&self.refund);
        self.lane.reconcile_notify.notify_one();
    }
}
