//! What one account has of the engine: its slots on the wire, its pace, its circuit, and its place in the queue.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{error, info};

use crate::domain::clock::Timestamp;
use crate::domain::ids::RefundId;
use crate::engine::AccountHealth;
use crate::engine::circuit::{Circuit, CircuitSettings, Era, Sign, Stance};
use crate::engine::probe::Probes;
use crate::engine::rate_limit::RateLimiter;
use crate::ledger::RelatedLogins;
use crate::providers::Account;

/// One account's lane.
pub(super) struct Lane {
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
    pub(super) settle_bell: Notify,
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
    circuit: Mutex<Circuit>,
    in_hand: Mutex<BTreeSet<RefundId>>,
}

/// A refund that somebody is settling; let go of when dropped.
pub(super) struct InHand {
    lane: Arc<Lane>,
    refund: RefundId,
}

impl Lane {
    pub(super) fn new(
        account: Arc<Account>,
        related: RelatedLogins,
        standstills: Vec<(Timestamp, Timestamp)>,
        circuit: CircuitSettings,
    ) -> Self {
        let (second, hour) = (account.requests_per_second, account.requests_per_hour);
        let limiter = Arc::new(RateLimiter::new(second, hour, account.meter.clone()));
        Self {
            slots: Arc::new(Semaphore::new(account.max_in_flight)),
            lookups: Arc::new(Semaphore::new(account.max_in_flight)),
            bell: Notify::new(),
            settle_bell: Notify::new(),
            backlog: AtomicBool::new(true),
            probes: AtomicUsize::new(0),
            // Whether it was suspended when the last process ended is not known any more.
            has_recovered: AtomicBool::new(true),
            requested_probes: Probes::default(),
            limiter,
            circuit: Mutex::new(Circuit::new(circuit)),
            in_hand: Mutex::default(),
            related,
            standstills,
            account,
        }
    }

    /// A slot for a refund that is only now being recorded: none while older ones wait for theirs.
    pub(super) fn slot_for_newcomer(&self) -> Option<OwnedSemaphorePermit> {
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

    pub(super) fn stance(&self) -> Stance {
        self.circuit().stance(Instant::now())
    }

    /// The label used in the metrics.
    pub(super) fn position(&self) -> &'static str {
        self.circuit().position(Instant::now())
    }

    /// Any number of refunds may be sent.
    pub(super) fn is_free(&self) -> bool {
        self.stance() == Stance::Free
    }

    /// No refund may be sent.
    pub(super) fn is_shut(&self) -> bool {
        matches!(self.stance(), Stance::Probe | Stance::Shut(_))
    }

    /// A refund may be sent, or one at least.
    pub(super) fn may_send(&self) -> bool {
        matches!(self.stance(), Stance::Free | Stance::Trial)
    }

    /// To be noted with what is sent now.
    pub(super) fn era(&self) -> Era {
        self.circuit().era()
    }

    /// A refund is about to be recorded as sent; none where it may not be.
    pub(super) fn take_turn(&self) -> Option<Era> {
        self.circuit().take_turn()
    }

    /// The refund that took its turn was not sent after all: another one may have it.
    pub(super) fn give_turn_back(&self, era: Era) {
        self.moved(|circuit| circuit.give_turn_back(era));
    }

    /// Remembers what the answer to an attempt that was sent in `era` told of the account. Whether that has shut it.
    pub(super) fn note(&self, era: Era, sign: Sign) -> bool {
        self.moved(|circuit| {
            let was_present = circuit.era() == era;
            circuit.note(era, sign, Instant::now());
            was_present && circuit.era() != era
        })
    }

    /// Remembers what a look told of the account. `is_due`: it was made to try the account.
    pub(super) fn note_look(&self, sign: &Sign, is_due: bool) {
        self.moved(|circuit| circuit.note_look(sign, is_due, Instant::now()));
    }

    /// The account has a new secret. If the previous one was refused, the account is tried again at
    /// once.
    pub(super) fn credentials_changed(&self) {
        self.moved(|circuit| circuit.credentials_changed(Instant::now()));
    }

    /// Takes a refund in hand; none where somebody has it already.
    pub(super) fn take_in_hand(self: &Arc<Self>, refund: &RefundId) -> Option<InHand> {
        let taken = self.in_hand().insert(refund.clone());
        taken.then(|| InHand { lane: self.clone(), refund: refund.clone() })
    }

    pub(super) fn has_in_hand(&self) -> bool {
        !self.in_hand().is_empty()
    }

    /// Moves the circuit, logs a change of health once, and wakes who waits for it.
    fn moved<T>(&self, move_it: impl FnOnce(&mut Circuit) -> T) -> T {
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
            self.account.secret.refused();
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
                self.settle_bell.notify_one();
            }
            _ => {}
        }
        told
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_hand(&self) -> MutexGuard<'_, BTreeSet<RefundId>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.lane.in_hand().remove(&self.refund);
        self.lane.settle_bell.notify_one();
    }
}
