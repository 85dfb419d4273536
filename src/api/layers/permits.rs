//! How much is served at once: permits for calls that work, for calls that wait, and for streams.
//!
//! ```text
//! headers --> arriving --> message is there --> calls  --> response taken
//!             1,024,                            256, 32 of them for reads, cancel, reconcile, ...
//!             the oldest                        |
//!             is cut                            +--> waits --> response taken
//!                                                    4,096
//! ```
//!
//! A call that has sent headers and no message holds none of `calls`. A call that only waits, for a
//! provider or for a change, returns its permit. A permit is held until the peer has taken the
//! response. Where all are in use, the response that has not been taken for longest is cut, and a
//! call waits for a second at most.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::api::http2::StreamCut;
use crate::api::layers::caller_share::{CallerSlot, RETRY_HELD};
use crate::api::status;
use crate::telemetry::metrics::Metrics;

/// Who calls. Not in a request's extensions: there is one caller, and no share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::api) struct CallerKey(pub(in crate::api) Arc<str>);

/// What a call takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::api) enum CallClass {
    HealthCheck,
    HealthWatch,
    Reflection,
    EventStream,
    StatusWatch,
    /// Creates, or asks a provider: none of the kept permits.
    Ordinary,
    /// Reads, cancels, reconciles, decides: what a person needs while the gateway is full.
    Kept,
    /// A [`CallClass::Kept`] call whose response may be large.
    List,
    /// No method of the server: refused without reading it.
    Unknown,
}

/// The bounds of [`Permits`].
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct PermitLimits {
    pub(in crate::api) calls: usize,
    pub(in crate::api) waits: usize,
    pub(in crate::api) event_streams: usize,
    pub(in crate::api) status_watches: usize,
}

/// All permits of the server. Clones share them.
#[derive(Clone)]
pub(in crate::api) struct Permits(Arc<Pools>);

struct Pools {
    calls: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    /// Calls that wait for one of these permits.
    queued: Semaphore,
    /// Lists that wait for room for a page.
    queued_lists: Semaphore,
    waits: Arc<Semaphore>,
    health_watches: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
    /// In units of [`UNIT_BYTES`].
    unsent: Arc<Semaphore>,
    arriving: EvictionQueue,
    health_checks: EvictionQueue,
    unread: EvictionQueue,
    shares: Mutex<HashMap<(CallClass, CallerKey), usize>>,
    limits: PermitLimits,
    metrics: Metrics,
}

/// What one call holds until its response has been taken; in the extensions of its request. Clones
/// share it.
#[derive(Clone)]
pub(in crate::api) struct CallPermit(Arc<HeldPermits>);

struct HeldPermits {
    pools: Arc<Pools>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    unsent: Mutex<Option<OwnedSemaphorePermit>>,
    share: Option<(CallClass, CallerKey)>,
    _health_check: Option<QueueEntry>,
}

/// The permit of a call, as its handler sees it.
pub(in crate::api) struct OptionalPermit {
    permit: Option<CallPermit>,
    /// The caller, and its own share. None where callers are not told apart.
    caller: Option<(CallerKey, CallerSlot)>,
}

/// Why a call is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Refusal {
    /// The gateway is full: the name of the limit, and what there is too much of.
    Full(&'static str, &'static str),
    /// The caller has its share.
    Share(&'static str),
}

/// Streams in the order of their arrival. Where there are too many, the oldest is cut.
#[derive(Clone)]
struct EvictionQueue {
    max: usize,
    entries: Arc<Mutex<QueueEntries>>,
}

#[derive(Default)]
struct QueueEntries {
    last_number: u64,
    by_number: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// A place in an [`EvictionQueue`]; dropping it leaves.
pub(in crate::api) struct QueueEntry {
    queue: EvictionQueue,
    number: u64,
}

const MAX_KEPT: usize = 32;
const MAX_HEALTH_WATCHES: usize = 64;
const MAX_REFLECTIONS: usize = 16;
/// Calls whose message has not arrived.
const MAX_ARRIVING: usize = 1024;
const MAX_HEALTH_CHECKS: usize = 256;
/// Of responses of lists over all connections.
const MAX_UNSENT_BYTES: usize = 24 * 1024 * 1024;
const UNIT_BYTES: usize = 1024;
/// What a list reserves before its size is known: the largest page with its last entry as bytes,
/// and a part of it as rows and as messages.
const LIST_UNITS: u32 = 1088 + 2 * 16 * 25;
/// A response is cut to make room only after this.
const MIN_UNREAD_TIME: Duration = Duration::from_secs(1);
/// How long a call waits for a permit: a burst of callers is served, and none has to come again.
const MAX_QUEUED_TIME: Duration = Duration::from_secs(1);
const MAX_QUEUED: usize = 1024;
const MAX_QUEUED_LISTS: usize = 64;
/// One caller has at most this part of the event streams and of the watches.
const SHARE_DIVISOR: usize = 4;

impl CallClass {
    pub(in crate::api) fn of(path: &str) -> CallClass {
        match path {
            "/grpc.health.v1.Health/Check" => CallClass::HealthCheck,
            "/grpc.health.v1.Health/Watch" => CallClass::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => CallClass::Reflection,
            "/recoup.v1.RefundService/StreamRefundEvents" => CallClass::EventStream,
            "/recoup.v1.ValidationStatusService/WatchValidationStatus" => CallClass::StatusWatch,
            "/recoup.v1.RefundService/CreateRefund" | "/recoup.v1.ValidationStatusService/GetValidationStatus" => {
                CallClass::Ordinary
            }
            _ => match path.strip_prefix("/recoup.v1.").and_then(|call| call.split_once('/')) {
                Some((_, method)) if method.starts_with("List") => CallClass::List,
                Some(_) => CallClass::Kept,
                None => CallClass::Unknown,
            },
        }
    }
}

impl Permits {
    pub(in crate::api) fn new(limits: PermitLimits, metrics: Metrics) -> Self {
        // Of a small limit too, most are for every call.
        let kept = MAX_KEPT.min(limits.calls / 8);
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Pools {
            calls: semaphore(limits.calls - kept),
            kept: semaphore(kept),
            queued: Semaphore::new(MAX_QUEUED),
            queued_lists: Semaphore::new(MAX_QUEUED_LISTS),
            waits: semaphore(limits.waits),
            health_watches: semaphore(MAX_HEALTH_WATCHES),
            reflections: semaphore(MAX_REFLECTIONS),
            unsent: semaphore(MAX_UNSENT_BYTES / UNIT_BYTES),
            arriving: EvictionQueue::new(MAX_ARRIVING),
            health_checks: EvictionQueue::new(MAX_HEALTH_CHECKS),
            // As many as hold permits, so it never overflows.
            unread: EvictionQueue::new(usize::MAX),
            shares: Mutex::default(),
            limits,
            metrics,
        }))
    }

    /// A call whose message is still to come.
    pub(in crate::api) fn arrive(&self, cut: &StreamCut) -> QueueEntry {
        self.0.arriving.enter(cut)
    }

    /// A response that the peer is still to take. None for one that may stay open: a stream.
    pub(in crate::api) fn begin_response(&self, class: CallClass, cut: &StreamCut) -> Option<QueueEntry> {
        let holds_call = matches!(class, CallClass::Ordinary | CallClass::Kept | CallClass::List);
        holds_call.then(|| self.0.unread.enter(cut))
    }

    /// What a call of this class needs before its handler runs.
    ///
    /// # Errors
    /// [`Refusal`]
    pub(in crate::api) async fn acquire(
        &self,
        class: CallClass,
        caller: Option<&CallerKey>,
        cut: &StreamCut,
    ) -> Result<CallPermit, Refusal> {
        let pools = &self.0;
        let mut held = HeldPermits {
            pools: pools.clone(),
            permit: Mutex::new(None),
            unsent: Mutex::new(None),
            share: None,
            _health_check: None,
        };
        let refusal = match class {
            CallClass::Unknown => None,
            CallClass::HealthCheck => {
                held._health_check = Some(pools.health_checks.enter(cut));
                None
            }
            CallClass::HealthWatch => held.take(&pools.health_watches, "health_watches", "too many health watches"),
            CallClass::Reflection => held.take(&pools.reflections, "reflections", "too many reflection streams"),
            CallClass::EventStream | CallClass::StatusWatch => held.take_share(class, caller),
            CallClass::Ordinary | CallClass::Kept | CallClass::List => {
                // Before it waits for a permit: of many lists, those that are refused do not wait.
                let full = if class == CallClass::List { held.reserve_page().await } else { None };
                match full {
                    None => held.take_call(class != CallClass::Ordinary).await,
                    Some(full) => Some(full),
                }
            }
        };
        match refusal {
            None => Ok(CallPermit(Arc::new(held))),
            Some(refusal) => {
                let (Refusal::Full(limit, _) | Refusal::Share(limit)) = refusal;
                pools.metrics.record_limited(limit);
                Err(refusal)
            }
        }
    }
}

impl HeldPermits {
    fn take(&mut self, pool: &Arc<Semaphore>, limit: &'static str, what: &'static str) -> Option<Refusal> {
        match pool.clone().try_acquire_owned() {
            Ok(permit) => {
                *lock(&self.permit) = Some(permit);
                None
            }
            Err(_) => Some(Refusal::Full(limit, what)),
        }
    }

    async fn take_call(&mut self, may_use_kept: bool) -> Option<Refusal> {
        const FULL: Refusal = Refusal::Full("calls", "too many concurrent calls");
        let pools = self.pools.clone();
        let free = pools.calls.clone().try_acquire_owned().ok();
        let free = free.or_else(|| pools.kept.clone().try_acquire_owned().ok().filter(|_| may_use_kept));
        if let Some(permit) = free {
            *lock(&self.permit) = Some(permit);
            return None;
        }
        let Ok(_queued) = pools.queued.try_acquire() else { return Some(FULL) };
        pools.unread.cut_oldest(MIN_UNREAD_TIME);
        let released = async {
            tokio::select! {
                permit = pools.calls.clone().acquire_owned() => permit.ok(),
                permit = pools.kept.clone().acquire_owned(), if may_use_kept => permit.ok(),
            }
        };
        match timeout(MAX_QUEUED_TIME, released).await {
            Ok(Some(permit)) => {
                *lock(&self.permit) = Some(permit);
                None
            }
            Ok(None) | Err(_) => Some(FULL),
        }
    }

    async fn reserve_page(&mut self) -> Option<Refusal> {
        const FULL: Refusal = Refusal::Full("unsent_bytes", "too many bytes of responses are not taken");
        let pools = self.pools.clone();
        let mut units = pools.unsent.clone().try_acquire_many_owned(LIST_UNITS).ok();
        if units.is_none() {
            let Ok(_queued) = pools.queued_lists.try_acquire() else { return Some(FULL) };
            let released = pools.unsent.clone().acquire_many_owned(LIST_UNITS);
            units = timeout(MAX_QUEUED_TIME, released).await.ok().and_then(Result::ok);
        }
        let is_full = units.is_none();
        *lock(&self.unsent) = units;
        is_full.then_some(FULL)
    }

    fn take_share(&mut self, class: CallClass, caller: Option<&CallerKey>) -> Option<Refusal> {
        let caller = caller?;
        let (all, limit) = match class {
            CallClass::EventStream => (self.pools.limits.event_streams, "event_streams"),
            _ => (self.pools.limits.status_watches, "watches"),
        };
        let key = (class, caller.clone());
        let mut shares = lock(&self.pools.shares);
        let held = shares.entry(key.clone()).or_default();
        if *held >= (all / SHARE_DIVISOR).max(1) {
            return Some(Refusal::Share(limit));
        }
        *held += 1;
        drop(shares);
        self.share = Some(key);
        None
    }
}

impl Drop for HeldPermits {
    fn drop(&mut self) {
        let Some(key) = self.share.take() else { return };
        let mut shares = lock(&self.pools.shares);
        if let Some(held) = shares.get_mut(&key) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                shares.remove(&key);
            }
        }
    }
}

impl CallPermit {
    /// The one that the layer has put into the request. A call without one, as in a test, may wait.
    pub(in crate::api) fn of<T>(request: &Request<T>) -> OptionalPermit {
        let extensions = request.extensions();
        let caller = extensions.get::<CallerKey>().cloned().zip(extensions.get::<CallerSlot>().cloned());
        OptionalPermit { permit: extensions.get::<CallPermit>().cloned(), caller }
    }

    /// From now on the call only waits: it returns its permit and holds one for waiting. False if
    /// none of those is free, and the call must not wait.
    pub(in crate::api) fn release_for_wait(&self) -> bool {
        match self.0.pools.waits.clone().try_acquire_owned() {
            Ok(wait) => {
                *lock(&self.0.permit) = Some(wait);
                true
            }
            Err(_) => {
                self.0.pools.metrics.record_limited("waits");
                false
            }
        }
    }

    /// The response of a list is as large as this: returns what was reserved beyond it.
    pub(in crate::api) fn set_unsent(&self, bytes: usize) {
        let mut unsent = lock(&self.0.unsent);
        let needed = bytes.div_ceil(UNIT_BYTES);
        if let Some(units) = unsent.as_mut() {
            drop(units.split(units.num_permits().saturating_sub(needed)));
        }
    }
}

impl OptionalPermit {
    /// See [`CallPermit::release_for_wait`].
    pub(in crate::api) fn release_for_wait(&self) -> bool {
        let is_within_share = self.caller.as_ref().is_none_or(|(_, slot)| slot.begin_wait());
        is_within_share && self.permit.as_ref().is_none_or(CallPermit::release_for_wait)
    }

    /// The same for a call that cannot be answered without waiting.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too many calls of this caller wait. UNAVAILABLE: too many of all.
    pub(in crate::api) fn begin_wait(&self) -> Result<(), Status> {
        match &self.caller {
            Some((caller, slot)) if !slot.begin_wait() => Err(status::quota_exceeded(&caller.0, "waits", RETRY_HELD)),
            _ if self.release_for_wait() => Ok(()),
            _ => Err(status::overloaded("too many calls wait")),
        }
    }
}

impl EvictionQueue {
    fn new(max: usize) -> Self {
        Self { max, entries: Arc::default() }
    }

    fn enter(&self, cut: &StreamCut) -> QueueEntry {
        let mut entries = lock(&self.entries);
        if entries.by_number.len() >= self.max
            && let Some((_, (_, oldest))) = entries.by_number.pop_first()
        {
            oldest.cancel();
        }
        entries.last_number += 1;
        let number = entries.last_number;
        entries.by_number.insert(number, (Instant::now(), cut.0.clone()));
        QueueEntry { queue: self.clone(), number }
    }

    /// Cuts the oldest, if it has been here for `min_time`.
    fn cut_oldest(&self, min_time: Duration) {
        let mut entries = lock(&self.entries);
        if let Some(oldest) = entries.by_number.first_entry()
            && oldest.get().0.elapsed() >= min_time
        {
            oldest.remove().1.cancel();
        }
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        lock(&self.queue.entries).by_number.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
