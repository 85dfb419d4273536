//! Callers that wait for a refund to change.
//!
//! A waiter registers first and reads the ledger then, so that no change falls between the two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;

/// All waiting callers, by refund.
#[derive(Default)]
pub(super) struct Waiters(Arc<Registry>);

#[derive(Default)]
struct Registry(Mutex<HashMap<RefundId, watch::Sender<Option<Arc<Refund>>>>>);

/// One registered waiter; leaving removes it.
struct Waiter {
    registry: Arc<Registry>,
    id: RefundId,
    changes: watch::Receiver<Option<Arc<Refund>>>,
}

impl Waiters {
    /// A change is on disk: tell whoever waits for it.
    pub(super) fn tell(&self, refund: &Refund) {
        if let Some(sender) = self.0.lock().get(refund.id()) {
            let told = Arc::new(refund.clone());
            // Two changes may arrive here out of order; the later one counts.
            sender.send_if_modified(|last| {
                let newer = last.as_ref().is_none_or(|last| last.revision < told.revision);
                if newer {
                    *last = Some(told);
                }
                newer
            });
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
        let mut refund = read().await?;
        while !done(&refund) {
            match timeout_at(until, waiter.changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
            if let Some(newer) =
                waiter.changes.borrow_and_update().as_deref().filter(|told| told.revision > refund.revision)
            {
                refund = newer.clone();
            }
        }
        Ok(refund)
    }

    fn register(&self, id: &RefundId) -> Waiter {
        let changes = self.0.lock().entry(id.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Waiter { registry: self.0.clone(), id: id.clone(), changes }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<RefundId, watch::Sender<Option<Arc<Refund>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.registry.lock();
        // This receiver is still counted.
        if waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.id);
        }
    }
}
