//! Callers that wait for a refund to change.
//!
//! A waiter registers first and reads or writes the ledger then, so that no change falls between
//! the two. Each has a channel of its own and they are told in the order in which they came: the
//! receivers of one channel are woken in any order, and no two runs would be alike.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;

/// All waiting callers, by refund.
#[derive(Default)]
pub(super) struct Waiters(Arc<Registry>);

#[derive(Default)]
struct Registry(Mutex<Waiting>);

/// To one waiter: the refund as it was last told of.
type Changes = watch::Sender<Option<Arc<Refund>>>;

#[derive(Default)]
struct Waiting {
    of: HashMap<RefundId, BTreeMap<u64, Changes>>,
    /// How many have ever come.
    count: u64,
}

/// One registered waiter; leaving removes it.
pub(super) struct Waiter {
    registry: Arc<Registry>,
    id: RefundId,
    number: u64,
    changes: watch::Receiver<Option<Arc<Refund>>>,
}

impl Waiters {
    /// A change is on disk: tell whoever waits for it.
    pub(super) fn tell(&self, refund: &Refund) {
        let waiting = self.0.lock();
        let Some(senders) = waiting.of.get(refund.id()) else { return };
        let told = Arc::new(refund.clone());
        for sender in senders.values() {
            // Two changes may arrive here out of order; the later one counts.
            sender.send_if_modified(|last| {
                let newer = last.as_ref().is_none_or(|last| last.revision < told.revision);
                if newer {
                    *last = Some(told.clone());
                }
                newer
            });
        }
    }

    /// Something else than a refund has changed, on which it may depend what is waited for:
    /// everybody looks again, in the order of their coming.
    pub(super) fn wake(&self) {
        let waiting = self.0.lock();
        let mut senders: Vec<(&u64, &Changes)> = waiting.of.values().flatten().collect();
        senders.sort_unstable_by_key(|(number, _)| **number);
        for (_, sender) in senders {
            sender.send_modify(|_| {});
        }
    }

    /// Waits until `done` holds of the refund or `until` has come; the refund as last seen.
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

    /// From now on no change of this refund is missed.
    pub(super) fn register(&self, id: &RefundId) -> Waiter {
        let (sender, changes) = watch::channel(None);
        let mut waiting = self.0.lock();
        waiting.count = waiting.count.saturating_add(1);
        let number = waiting.count;
        waiting.of.entry(id.clone()).or_default().insert(number, sender);
        Waiter { registry: self.0.clone(), id: id.clone(), number, changes }
    }
}

impl Waiter {
    /// Waits until `done` holds of the refund or `until` has come; the refund as last seen.
    /// `refund` was seen after the registration.
    pub(super) async fn until(&mut self, mut refund: Refund, until: Instant, done: impl Fn(&Refund) -> bool) -> Refund {
        loop {
            if let Some(newer) =
                self.changes.borrow_and_update().as_deref().filter(|told| told.revision > refund.revision)
            {
                refund = newer.clone();
            }
            if done(&refund) || !matches!(timeout_at(until, self.changes.changed()).await, Ok(Ok(()))) {
                return refund;
            }
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.registry.lock();
        let Some(senders) = waiting.of.get_mut(&self.id) else { return };
        senders.remove(&self.number);
        if senders.is_empty() {
            waiting.of.remove(&self.id);
        }
    }
}
