//! Watches orders: one poll per order notifies all its watchers, and only of changes.
//!
//! ```text
//! watcher --\       subscribes with an interval            as a caller of Validation::get
//! watcher ---> Subscription ------------------> Poll (task) ---------------------> cache, fetch
//! watcher --/     ^                               |
//!                 +--- PollState, only the newest-+   a slow reader misses older states
//! ```
//!
//! The poll runs at the shortest interval of its present watchers and ends with the last one. A
//! temporary failure does not end it: it backs off until the provider answers again. Only a
//! permanent failure is reported to all watchers and ends the watch; so do five unreadable pages in
//! a row. No order state ends a watch: a rejected order may be reopened, and a processed one
//! refunded.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::debug;

use super::{AccountOrder, StatusRequest, StatusResult, Validation, ValidationCore, ValidationError};
use crate::domain::ids::AccountName;
use crate::domain::validation::{OrderKey, ValidationStatus};
use crate::providers::StatusError;

/// A request to watch one order.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    pub account: AccountName,
    pub order: OrderKey,
    /// Nothing is returned until the status differs from the one with this fingerprint. None: the
    /// present status is returned first.
    pub after_fingerprint: Option<String>,
    /// How often to poll; clamped between the operator's minimum and a day. None: the minimum.
    pub interval: Option<Duration>,
}

/// One watcher. Unsubscribes when it is dropped.
pub struct Watch {
    core: Arc<ValidationCore>,
    key: AccountOrder,
    poll: u64,
    interval: Duration,
    joined: Instant,
    state: watch::Receiver<PollState>,
    last_fingerprint: Option<String>,
    _slot: OwnedSemaphorePermit,
}

/// All polls, by order.
#[derive(Default)]
pub(super) struct Polls {
    by_order: HashMap<AccountOrder, Subscription>,
    next_number: u64,
}

/// One poll as its watchers see it.
struct Subscription {
    number: u64,
    /// The intervals of the present watchers, and how many want each.
    intervals: BTreeMap<Duration, usize>,
    /// Closed when the last watcher has left.
    min_interval: watch::Sender<Duration>,
    state: watch::Receiver<PollState>,
}

/// The last result of a poll.
#[derive(Clone, Default)]
struct PollState {
    last: Option<PolledStatus>,
    end: Option<ValidationError>,
}

#[derive(Clone)]
struct PolledStatus {
    status: Arc<ValidationStatus>,
    at: Instant,
}

/// The task that polls. When it is dropped, however it ended, its watchers are notified.
struct Poll {
    validation: Validation,
    key: AccountOrder,
    number: u64,
    min_interval: watch::Receiver<Duration>,
    state: watch::Sender<PollState>,
    /// When the last poll ended. For a cached answer: when the provider had given it.
    last_polled: Option<Instant>,
    failures: u32,
    /// Consecutive polls whose answer was unreadable.
    unreadable: u32,
    /// How long the provider asked to wait after the last poll.
    pause: Duration,
    poll_count: u64,
    end: ValidationError,
}

/// As the maximum age of a cached answer.
const MAX_INTERVAL: Duration = super::cache::MAX_AGE;
/// Maximum delay after failures, or the interval if that is longer.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// One unreadable page may be a temporary notice. This many in a row mean that the provider has
/// changed its page, so the watch ends instead of waiting silently.
pub(super) const MAX_UNREADABLE: u32 = 5;
/// A delay is longer than the interval by up to a tenth, never shorter, so that polls that began
/// together drift apart.
const JITTER_DIVISOR: u32 = 10;

impl Validation {
    /// Subscribes to an order. The first subscriber starts the poll.
    ///
    /// # Errors
    /// [`ValidationError::AccountNotFound`], [`ValidationError::NotSectigo`],
    /// [`ValidationError::TooManyWatches`], [`ValidationError::Draining`]: whatever is known
    /// without asking the provider.
    pub fn watch(&self, request: WatchRequest) -> Result<Watch, ValidationError> {
        let WatchRequest { account, order, after_fingerprint, interval } = request;
        let core = &self.0;
        if core.draining.is_cancelled() {
            return Err(ValidationError::Draining);
        }
        core.provider_of(&account)?;
        let slot = core.watch_slots.clone().try_acquire_owned().map_err(|_| ValidationError::TooManyWatches)?;
        let minimum = core.watch_interval_min;
        let interval = interval.unwrap_or(minimum).min(MAX_INTERVAL).max(minimum);
        let key = (account, order);
        let mut polls = core.polls();
        let (number, state, new_poll) = match polls.by_order.get_mut(&key) {
            Some(subscription) => (subscription.subscribe(interval), subscription.state.clone(), None),
            None => {
                let poll = polls.start(self, &key, interval);
                (poll.number, poll.state.subscribe(), Some(poll))
            }
        };
        // A poll locks the polls when it is dropped. During a shutdown of the runtime, `spawn`
        // drops it immediately.
        drop(polls);
        let watch = Watch {
            core: core.clone(),
            key,
            poll: number,
            interval,
            joined: Instant::now(),
            state,
            last_fingerprint: after_fingerprint,
            _slot: slot,
        };
        if let Some(poll) = new_poll {
            tokio::spawn(poll.run());
        }
        Ok(watch)
    }
}

impl Watch {
    /// Waits for the next status that differs from the one returned before.
    ///
    /// # Errors
    /// [`ValidationError::Draining`] at shutdown, or a permanent error of the provider. The watch
    /// has ended then.
    pub async fn next(&mut self) -> StatusResult {
        loop {
            if self.core.draining.is_cancelled() {
                return Err(ValidationError::Draining);
            }
            // Marked as seen before it is evaluated, so a poll that ends meanwhile wakes this
            // watcher again.
            let PollState { last, end } = self.state.borrow_and_update().clone();
            if let Some(status) = last.and_then(|polled| self.changed(polled)) {
                self.last_fingerprint = Some(status.fingerprint().to_owned());
                return Ok(status);
            }
            if let Some(end) = end {
                return Err(end);
            }
            tokio::select! {
                biased;
                () = self.core.draining.cancelled() => return Err(ValidationError::Draining),
                // The poll publishes its end before it closes the channel.
                changed = self.state.changed() => if changed.is_err() { return Err(ValidationError::Panicked) },
            }
        }
    }

    /// None if the status is unchanged, or was polled longer before this watcher subscribed than
    /// its interval: then that interval has already brought the next poll forward.
    fn changed(&self, polled: PolledStatus) -> Option<Arc<ValidationStatus>> {
        let is_present = self.joined.saturating_duration_since(polled.at) <= self.interval;
        let is_new = self.last_fingerprint.as_deref() != Some(polled.status.fingerprint());
        (is_present && is_new).then_some(polled.status)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.core.polls().unsubscribe(&self.key, self.poll, self.interval);
    }
}

impl Polls {
    fn start(&mut self, validation: &Validation, key: &AccountOrder, interval: Duration) -> Poll {
        let number = self.next_number;
        self.next_number += 1;
        let (sender, min_interval) = watch::channel(interval);
        let (state, state_receiver) = watch::channel(PollState::default());
        let subscription = Subscription {
            number,
            intervals: BTreeMap::from([(interval, 1)]),
            min_interval: sender,
            state: state_receiver,
        };
        self.by_order.insert(key.clone(), subscription);
        Poll {
            validation: validation.clone(),
            key: key.clone(),
            number,
            min_interval,
            state,
            last_polled: None,
            failures: 0,
            unreadable: 0,
            pause: Duration::ZERO,
            poll_count: 0,
            end: ValidationError::Panicked,
        }
    }

    /// A poll that has ended is not in the map, although another poll of the same order may be.
    fn unsubscribe(&mut self, key: &AccountOrder, poll: u64, interval: Duration) {
        let Some(subscription) = self.by_order.get_mut(key).filter(|subscription| subscription.number == poll) else {
            return;
        };
        subscription.unsubscribe(interval);
        if subscription.intervals.is_empty() {
            self.by_order.remove(key);
        }
    }

    fn remove(&mut self, key: &AccountOrder, poll: u64) {
        if self.by_order.get(key).is_some_and(|subscription| subscription.number == poll) {
            self.by_order.remove(key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_order.len()
    }
}

impl Subscription {
    fn subscribe(&mut self, interval: Duration) -> u64 {
        *self.intervals.entry(interval).or_default() += 1;
        self.update_min_interval();
        self.number
    }

    fn unsubscribe(&mut self, interval: Duration) {
        if let Some(present) = self.intervals.get_mut(&interval) {
            *present -= 1;
            if *present == 0 {
                self.intervals.remove(&interval);
            }
        }
        self.update_min_interval();
    }

    fn update_min_interval(&self) {
        if let Some((min_interval, _)) = self.intervals.first_key_value() {
            self.min_interval.send_if_modified(|current| std::mem::replace(current, *min_interval) != *min_interval);
        }
    }
}

impl Poll {
    async fn run(mut self) {
        let (account, order) = self.key.clone();
        debug!(%account, order_number = order.order_number(), "started watching order");
        let draining = self.validation.0.draining.clone();
        tokio::select! {
            biased;
            () = draining.cancelled() => self.end = ValidationError::Draining,
            end = self.poll_until_end() => match end {
                Some(problem) => self.end = problem,
                None => debug!(%account, order_number = order.order_number(), "stopped watching order"),
            },
        }
    }

    /// Polls and waits alternately. Returns the error that ended the poll, or None if the last
    /// watcher has left.
    async fn poll_until_end(&mut self) -> Option<ValidationError> {
        loop {
            self.wait_next().await?;
            let (request, request_time) = (self.request(), self.validation.0.clock.now());
            let answer = tokio::select! {
                biased;
                // The fetch continues without this poll, for other callers and for the cache.
                () = all_unsubscribed(&mut self.min_interval) => return None,
                answer = self.validation.get(request) => answer,
            };
            let ended = Instant::now();
            self.poll_count += 1;
            self.last_polled = Some(ended);
            let is_unreadable = matches!(answer, Err(ValidationError::Provider(StatusError::Protocol { .. })));
            self.unreadable = if is_unreadable { self.unreadable + 1 } else { 0 };
            self.pause = pause_after(&answer).unwrap_or_default();
            match answer {
                Ok(status) => {
                    let age = request_time.saturating_duration_since(status.fetch_time());
                    let at = ended.checked_sub(age).unwrap_or(ended);
                    self.last_polled = Some(at);
                    self.failures = 0;
                    self.state.send_modify(|state| state.last = Some(PolledStatus { status, at }));
                }
                Err(problem) if is_transient(&problem) && self.unreadable < MAX_UNREADABLE => {
                    self.failures = self.failures.saturating_add(1)
                }
                Err(problem) => return Some(problem),
            }
        }
    }

    /// Waits until the next poll is due, even if watchers come and go. None if the last one has
    /// left.
    async fn wait_next(&mut self) -> Option<()> {
        while let Some(last_polled) = self.last_polled {
            let interval = *self.min_interval.borrow_and_update();
            let delay = poll_delay(interval, self.failures, jitter(&self.key, self.poll_count)).max(self.pause);
            tokio::select! {
                biased;
                changed = self.min_interval.changed() => changed.ok()?,
                () = tokio::time::sleep_until(last_polled + delay) => break,
            }
        }
        Some(())
    }

    /// The first poll accepts a cached answer younger than the minimum interval, so reconnecting
    /// clients cannot poll faster than that.
    fn request(&self) -> StatusRequest {
        let (account, order) = self.key.clone();
        let max_age = if self.poll_count == 0 { self.validation.0.watch_interval_min } else { Duration::ZERO };
        StatusRequest { account, order, max_age }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // Removed first, so that a watcher who subscribes from here on starts a new poll.
        self.validation.0.polls().remove(&self.key, self.number);
        let end = self.end.clone();
        self.state.send_modify(|state| state.end = Some(end));
    }
}

impl ValidationCore {
    /// No code panics while it holds the lock; even then the state would be consistent.
    pub(super) fn polls(&self) -> MutexGuard<'_, Polls> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the last watcher has left.
async fn all_unsubscribed(min_interval: &mut watch::Receiver<Duration>) {
    while min_interval.changed().await.is_ok() {}
}

/// Whether a later poll may succeed. An unreadable page may be a temporary notice.
fn is_transient(problem: &ValidationError) -> bool {
    match problem {
        ValidationError::Provider(problem) => match problem {
            StatusError::Unreachable { .. }
            | StatusError::NotNow { .. }
            | StatusError::Timeout
            | StatusError::Protocol { .. } => true,
            StatusError::CredentialsRefused { .. }
            | StatusError::OrderNotFound { .. }
            | StatusError::Refused { .. } => false,
        },
        ValidationError::Overloaded => true,
        ValidationError::AccountNotFound(_)
        | ValidationError::NotSectigo { .. }
        | ValidationError::TooManyWatches
        | ValidationError::Draining
        | ValidationError::Panicked => false,
    }
}

fn pause_after(answer: &StatusResult) -> Option<Duration> {
    match answer {
        Err(ValidationError::Provider(
            StatusError::Unreachable { retry_after, .. } | StatusError::NotNow { retry_after, .. },
        )) => *retry_after,
        _ => None,
    }
}

/// How long to wait after a poll: the interval, doubled with each failure after the first, plus up
/// to a tenth by `jitter`.
pub(super) fn poll_delay(interval: Duration, failures: u32, jitter: u16) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let delay = interval.saturating_mul(1 << doublings).min(MAX_BACKOFF.max(interval));
    delay.saturating_add(delay / JITTER_DIVISOR * u32::from(jitter) / u32::from(u16::MAX))
}

/// Evenly distributed over orders and polls, and the same in each run.
fn jitter(key: &AccountOrder, poll_count: u64) -> u16 {
    let mut hasher = DefaultHasher::new();
    (key, poll_count).hash(&mut hasher);
    let [first, second, ..] = hasher.finish().to_be_bytes();
    u16::from_be_bytes([first, second])
}
