//! Callers that wait for a refund to change.
//!
//! A waiter registers before it reads or writes the ledger, so that it misses no change. Each
//! waiter has a channel of its own, and all are notified in the order of their registration: the
//! receivers of one channel would be woken in an arbitrary order, and the simulation could not
//! repeat a run.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;

/// All waiting callers, by refund.
#[derive(Default)]
pub(super) struct Waiters(Arc<WaitersInner>);

#[derive(Default)]
struct WaitersInner(Mutex<WaiterMap>);

/// To one waiter: the newest revision of its refund.
type ChangeSender = watch::Sender<Option<Arc<Refund>>>;

#[derive(Default)]
struct WaiterMap {
    by_refund: HashMap<RefundId, BTreeMap<u64, ChangeSender>>,
    /// The number of the last registered waiter.
    last_number: u64,
}

/// One registered waiter; dropping it removes it.
pub(super) struct Waiter {
    waiters: Arc<WaitersInner>,
    id: RefundId,
    number: u64,
    changes: watch::Receiver<Option<Arc<Refund>>>,
}

impl Waiters {
    /// Notifies the waiters of this refund of a change that is on disk.
    pub(super) fn notify(&self, refund: &Refund) {
        let map = self.0.lock();
        let Some(senders) = map.by_refund.get(refund.id()) else { return };
        let changed = Arc::new(refund.clone());
        for sender in senders.values() {
            // Two changes may arrive here out of order; the later revision counts.
            sender.send_if_modified(|last| {
                let newer = last.as_ref().is_none_or(|last| last.revision < changed.revision);
                if newer {
                    *last = Some(changed.clone());
                }
                newer
            });
        }
    }

    /// Wakes every waiter to re-evaluate its condition (e.g. after a circuit breaker opened), in
    /// the order of registration.
    pub(super) fn notify_all(&self) {
        let map = self.0.lock();
        let mut senders: Vec<(&u64, &ChangeSender)> = map.by_refund.values().flatten().collect();
        senders.sort_unstable_by_key(|(number, _)| **number);
        for (_, sender) in senders {
            sender.send_modify(|_| {});
        }
    }

    /// Waits until `done` holds for the refund, at most until `until`. Returns the refund as last
    /// seen.
    pub(super) async fn until<E, F>(
        &self,
        id: &RefundId,
        until: Instant,
        done: impl Fn(&Refund) -> bool,
        read: impl FnOnce() -> F,
    ) -> Result<Refund, E>
    where
        F: Future<Output = Result<Refund, E>>,
    {
        let mut waiter = self.register(id);
        let refund = read().await?;
        Ok(waiter.until(refund, until, done).await)
    }

    /// Registers a waiter, which misses no change of the refund from now on.
    pub(super) fn register(&self, id: &RefundId) -> Waiter {
        let (sender, changes) = watch::channel(None);
        let mut map = self.0.lock();
        map.last_number = map.last_number.saturating_add(1);
        let number = map.last_number;
        map.by_refund.entry(id.clone()).or_default().insert(number, sender);
        Waiter { waiters: self.0.clone(), id: id.clone(), number, changes }
    }
}

impl Waiter {
    /// Waits until `done` holds for the refund, at most until `until`. Returns the refund as last
    /// seen. `refund` was read after the registration.
    pub(super) async fn until(&mut self, mut refund: Refund, until: Instant, done: impl Fn(&Refund) -> bool) -> Refund {
        loop {
            if let Some(newer) =
                self.changes.borrow_and_update().as_deref().filter(|changed| changed.revision > refund.revision)
            {
                refund = newer.clone();
            }
            if done(&refund) || !matches!(timeout_at(until, self.changes.changed()).await, Ok(Ok(()))) {
                return refund;
            }
        }
    }
}

impl WaitersInner {
    fn lock(&self) -> MutexGuard<'_, WaiterMap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut map = self.waiters.lock();
        let Some(senders) = map.by_refund.get_mut(&self.id) else { return };
        senders.remove(&self.number);
        if senders.is_empty() {
            map.by_refund.remove(&self.id);
        }
    }
}
