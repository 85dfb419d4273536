//! How much of the port each caller uses: its rate of calls, and what it holds at the same time.
//!
//! Callers that are not named share nothing with others: one caller at its limits delays no other
//! caller. What a caller may use comes from the access file, and changes with it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::access::{Caller, CallerRate};

/// What all callers use.
#[derive(Default)]
pub(in crate::api) struct CallerShares(Mutex<HashMap<String, Arc<CallerUsage>>>);

/// What one caller uses.
struct CallerUsage {
    rate: CallerRate,
    calls: Rate,
    reconciles: Rate,
    /// Survives a change of the rate.
    held: Arc<HeldShares>,
}

/// What one caller holds at present.
#[derive(Default)]
struct HeldShares {
    calls: AtomicU32,
    waits: AtomicU32,
    event_streams: AtomicU32,
    watches: AtomicU32,
}

/// What a call holds of its caller's share; in the extensions of its request. Clones share it.
#[derive(Clone)]
pub(in crate::api) struct CallerSlot(Arc<HeldSlot>);

struct HeldSlot {
    held: Arc<HeldShares>,
    max_waits: u32,
    kind: Mutex<ShareKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShareKind {
    Call,
    Wait,
    EventStream,
    Watch,
}

/// A limit of a caller that a call would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct ShareExceeded {
    /// The limit's name in the access file.
    pub(in crate::api) what: &'static str,
    pub(in crate::api) retry_after: Duration,
}

type Rate = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Nanos>>;

/// The clock of the runtime, so that a test can skip a minute.
#[derive(Debug, Clone)]
struct RuntimeClock(Instant);

/// Until something that the caller holds is likely to be free.
pub(in crate::api) const RETRY_HELD: Duration = Duration::from_secs(1);

impl CallerShares {
    /// Takes what a call of the method at this path needs.
    ///
    /// # Errors
    /// [`ShareExceeded`]
    pub(in crate::api) fn acquire(&self, caller: &Caller, path: &str) -> Result<CallerSlot, ShareExceeded> {
        let usage = self.usage_of(caller);
        let (kind, max, what) = match path.rsplit('/').next() {
            Some("StreamRefundEvents") => (ShareKind::EventStream, usage.rate.event_streams, "event_streams"),
            Some("WatchValidationStatus") => (ShareKind::Watch, usage.rate.watches, "watches"),
            _ => (ShareKind::Call, usage.rate.calls_at_once, "calls_at_once"),
        };
        check(&usage.calls, "calls_per_second")?;
        if path.ends_with("/ReconcileRefund") {
            check(&usage.reconciles, "reconciles_per_minute")?;
        }
        if !try_increment(usage.held.of(kind), max) {
            return Err(ShareExceeded { what, retry_after: RETRY_HELD });
        }
        let slot = HeldSlot { held: usage.held.clone(), max_waits: usage.rate.waits, kind: Mutex::new(kind) };
        Ok(CallerSlot(Arc::new(slot)))
    }

    fn usage_of(&self, caller: &Caller) -> Arc<CallerUsage> {
        let mut usages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = usages.get(&caller.name).filter(|usage| usage.rate == caller.rate) {
            return usage.clone();
        }
        let held = usages.get(&caller.name).map(|usage| usage.held.clone()).unwrap_or_default();
        let usage = Arc::new(CallerUsage::new(caller.rate, held));
        usages.insert(caller.name.clone(), usage.clone());
        usage
    }
}

impl CallerUsage {
    fn new(rate: CallerRate, held: Arc<HeldShares>) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let clock = RuntimeClock(Instant::now());
        let calls = Quota::per_second(at_least_one(rate.calls_per_second)).allow_burst(at_least_one(rate.burst));
        let reconciles = Quota::per_minute(at_least_one(rate.reconciles_per_minute));
        Self {
            rate,
            calls: RateLimiter::direct_with_clock(calls, clock.clone()),
            reconciles: RateLimiter::direct_with_clock(reconciles, clock),
            held,
        }
    }
}

impl CallerSlot {
    /// From now on the call only waits, which takes from another share. False if the caller has
    /// none of it left, and the call must not wait.
    pub(in crate::api) fn begin_wait(&self) -> bool {
        let HeldSlot { held, max_waits, .. } = &*self.0;
        let mut kind = self.0.lock();
        if *kind != ShareKind::Call {
            return true;
        }
        if !try_increment(&held.waits, *max_waits) {
            return false;
        }
        held.calls.fetch_sub(1, Ordering::AcqRel);
        *kind = ShareKind::Wait;
        true
    }
}

impl HeldShares {
    fn of(&self, kind: ShareKind) -> &AtomicU32 {
        match kind {
            ShareKind::Call => &self.calls,
            ShareKind::Wait => &self.waits,
            ShareKind::EventStream => &self.event_streams,
            ShareKind::Watch => &self.watches,
        }
    }
}

impl HeldSlot {
    fn lock(&self) -> MutexGuard<'_, ShareKind> {
        self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        let kind = *self.lock();
        self.held.of(kind).fetch_sub(1, Ordering::AcqRel);
    }
}

impl Clock for RuntimeClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

fn check(limiter: &Rate, what: &'static str) -> Result<(), ShareExceeded> {
    limiter.check().map_err(|not_until| {
        let now = limiter.clock().now();
        let wait = not_until.earliest_possible().duration_since(now);
        ShareExceeded { what, retry_after: wait.into() }
    })
}

fn try_increment(count: &AtomicU32, max: u32) -> bool {
    let next = |held: u32| (held < max).then(|| held + 1);
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessPolicy;

    const GET: &str = "/recoup.v1.RefundService/GetRefund";

    fn policy(rate: &str) -> AccessPolicy {
        AccessPolicy::parse(&format!("[callers.a]\nunix_users=[1]\naccounts=[\"*\"]\nrate={{{rate}}}\n[callers.b]\nunix_users=[2]\naccounts=[\"*\"]\n")).unwrap()
    }

    fn what(result: Result<CallerSlot, ShareExceeded>) -> Option<&'static str> {
        result.err().map(|exceeded| exceeded.what)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_and_then_the_rate_holds() {
        let (shares, policy) = (CallerShares::default(), policy("calls_per_second = 10, burst = 3"));
        let (a, b) = (policy.caller("a").unwrap(), policy.caller("b").unwrap());
        for _ in 0..3 {
            assert_eq!(what(shares.acquire(a, GET)), None);
        }
        let exceeded = shares.acquire(a, GET).err().unwrap();
        assert_eq!((exceeded.what, exceeded.retry_after), ("calls_per_second", Duration::from_millis(100)));
        assert_eq!(what(shares.acquire(b, GET)), None, "another caller");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(what(shares.acquire(a, GET)), None);
        assert_eq!(what(shares.acquire(a, GET)), Some("calls_per_second"));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!((0..10).filter(|_| what(shares.acquire(a, GET)).is_none()).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_have_a_rate_of_their_own() {
        let (shares, policy) = (CallerShares::default(), policy("reconciles_per_minute = 2"));
        let caller = policy.caller("a").unwrap();
        let reconcile = || what(shares.acquire(caller, "/recoup.v1.RefundService/ReconcileRefund"));
        assert_eq!([reconcile(), reconcile(), reconcile()], [None, None, Some("reconciles_per_minute")]);
        assert_eq!(what(shares.acquire(caller, GET)), None);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!([reconcile(), reconcile()], [None, Some("reconciles_per_minute")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_bounded_by_kind_and_freed_at_the_end() {
        let rate = "calls_at_once = 1, waits = 1, event_streams = 1, watches = 1";
        let (shares, policy) = (CallerShares::default(), policy(rate));
        let caller = policy.caller("a").unwrap();
        let kinds = [
            (GET, "calls_at_once"),
            ("/recoup.v1.RefundService/StreamRefundEvents", "event_streams"),
            ("/recoup.v1.ValidationStatusService/WatchValidationStatus", "watches"),
        ];
        let slots = kinds.map(|(path, _)| shares.acquire(caller, path).ok().unwrap());
        for (path, limit) in kinds {
            assert_eq!(what(shares.acquire(caller, path)), Some(limit));
        }
        drop(slots);
        for (path, _) in kinds {
            assert_eq!(what(shares.acquire(caller, path)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_makes_room_for_one_that_works() {
        let (shares, policy) = (CallerShares::default(), policy("calls_at_once = 1, waits = 1"));
        let caller = policy.caller("a").unwrap();
        let waiting = shares.acquire(caller, GET).ok().unwrap();
        assert!(waiting.begin_wait() && waiting.begin_wait(), "it is one wait");
        let working = shares.acquire(caller, GET).ok().unwrap();
        assert!(!working.begin_wait(), "there is no other wait");
        assert_eq!(what(shares.acquire(caller, GET)), Some("calls_at_once"));
        drop(waiting);
        assert!(working.begin_wait());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_counts_what_is_held_already() {
        let shares = CallerShares::default();
        let before = policy("calls_at_once = 2");
        let held = shares.acquire(before.caller("a").unwrap(), GET).ok().unwrap();
        let after = policy("calls_at_once = 1");
        assert_eq!(what(shares.acquire(after.caller("a").unwrap(), GET)), Some("calls_at_once"));
        drop(held);
        assert_eq!(what(shares.acquire(after.caller("a").unwrap(), GET)), None);
    }
}
