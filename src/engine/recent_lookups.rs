//! When refunds of an account were last looked up, so that callers who ask for a lookup again and
//! again do not pass that on to the provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::domain::ids::RefundId;

/// The lookups of one account that ended within the interval, and those that callers asked for.
pub(super) struct RecentLookups {
    interval: Duration,
    ended: Mutex<HashMap<RefundId, Instant>>,
    requested: Mutex<HashMap<RefundId, Arc<tokio::sync::Mutex<()>>>>,
}

/// One caller's turn to look a refund up; the others wait until it is dropped.
pub(super) struct Turn<'a> {
    lookups: &'a RecentLookups,
    refund: RefundId,
    guard: Option<OwnedMutexGuard<()>>,
}

/// With fewer entries, none is removed.
const MIN_PRUNED: usize = 256;

impl RecentLookups {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, ended: Mutex::default(), requested: Mutex::default() }
    }

    /// A lookup of this refund has ended.
    pub(super) fn record(&self, refund: &RefundId) {
        if self.interval.is_zero() {
            return;
        }
        let mut ended = lock(&self.ended);
        if ended.len() >= MIN_PRUNED {
            ended.retain(|_, at| at.elapsed() < self.interval);
        }
        ended.insert(refund.clone(), Instant::now());
    }

    /// Whether a lookup of this refund ended within the interval.
    pub(super) fn is_recent(&self, refund: &RefundId) -> bool {
        lock(&self.ended).get(refund).is_some_and(|at| at.elapsed() < self.interval)
    }

    /// Waits until no other caller looks this refund up; not at all without an interval.
    pub(super) async fn turn(&self, refund: &RefundId) -> Turn<'_> {
        // Made first: a caller that leaves while it waits removes its entry, too.
        let mut turn = Turn { lookups: self, refund: refund.clone(), guard: None };
        if self.interval.is_zero() {
            return turn;
        }
        let mutex = lock(&self.requested).entry(refund.clone()).or_default().clone();
        turn.guard = Some(mutex.lock_owned().await);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut requested = lock(&self.lookups.requested);
        if requested.get(&self.refund).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            requested.remove(&self.refund);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> RefundId {
        RefundId::parse(&format!("refund-{number}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_is_recent_for_the_interval_and_forgotten_after_it() {
        let lookups = RecentLookups::new(Duration::from_secs(5));
        assert!(!lookups.is_recent(&id(0)));
        (0..MIN_PRUNED).for_each(|number| lookups.record(&id(number)));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(lookups.is_recent(&id(0)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lookups.is_recent(&id(0)));
        lookups.record(&id(MIN_PRUNED));
        assert_eq!(lock(&lookups.ended).len(), 1);
    }

    #[tokio::test]
    async fn callers_take_turns_and_leave_nothing_behind() {
        let lookups = RecentLookups::new(Duration::from_secs(5));
        let asked = id(1);
        let first = lookups.turn(&asked).await;
        let mut second = Box::pin(lookups.turn(&asked));
        let mut third = Box::pin(lookups.turn(&asked));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(lookups.turn(&id(2)).await);
        drop(second);
        drop(first);
        drop(third.await);
        assert!(lock(&lookups.requested).is_empty());
    }
}
