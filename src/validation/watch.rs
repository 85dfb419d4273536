//! Watching an order: one poll, told to everybody who watches it, and only what is new.
//!
//! ```text
//! watcher --\          join: how often                      as a caller of Validation::get would
//! watcher ---> Subscription ----------------> Poll (a task) ------------------------------------------> cache, flight, provider
//! watcher --/    ^                        |
//!                +------ the last look ---+   the newest alone: a slow reader misses what is past, and nothing piles up
//! ```
//!
//! The poll runs at the shortest interval that a present watcher asked for, and ends with the last
//! one. A provider that cannot be asked for the moment ends nothing: the poll takes longer steps
//! until it can. Only a lasting failure is reported, to all watchers, and ends the watch; a page
//! that could not be read five times in a row is one. No state of an order ends it: a rejected
//! order may be taken up again, and a refund of a processed one is news.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::debug;

use super::{Answer, Key, StatusRequest, Validation, ValidationCore, ValidationError};
use crate::domain::ids::AccountName;
use crate::domain::validation::{OrderKey, ValidationStatus};
use crate::providers::StatusError;

/// What is to be watched.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// Whose order.
    pub account: AccountName,
    /// Which.
    pub order: OrderKey,
    /// Nothing is told until the status differs from the one with this fingerprint. None: the
    /// present status is told first.
    pub after_fingerprint: Option<String>,
    /// How often the provider is to be asked; brought within the operator's floor and a day. None:
    /// as often as the floor allows.
    pub interval: Option<Duration>,
}

/// One watcher. Leaves when it is dropped.
pub struct Watch {
    shared: Arc<ValidationCore>,
    key: Key,
    poll: u64,
    interval: Duration,
    joined: Instant,
    looks: watch::Receiver<Look>,
    told: Option<String>,
    _place: OwnedSemaphorePermit,
}

/// Every poll, by its order.
#[derive(Default)]
pub(super) struct Polls {
    polls: HashMap<Key, Subscription>,
    next_number: u64,
}

/// A poll as its watchers see it.
struct Subscription {
    number: u64,
    /// How often those who are present want it, and how many want it so.
    intervals: BTreeMap<Duration, usize>,
    /// Closed when nobody is left.
    shortest: watch::Sender<Duration>,
    looks: watch::Receiver<Look>,
}

/// What the poll saw last.
#[derive(Clone, Default)]
struct Look {
    seen: Option<Seen>,
    end: Option<ValidationError>,
}

#[derive(Clone)]
struct Seen {
    status: Arc<ValidationStatus>,
    at: Instant,
}

/// The task that asks. Whatever ends it, its watchers are told when it is dropped.
struct Poll {
    validation: Validation,
    key: Key,
    number: u64,
    shortest: watch::Receiver<Duration>,
    looks: watch::Sender<Look>,
    /// When the last look ended; for one that the cache answered, as long ago as the answer is old.
    looked: Option<Instant>,
    failures: u32,
    /// Consecutive polls whose answer was no readable page.
    unreadable: u32,
    /// How long the provider asked to wait after the last poll.
    pause: Duration,
    turn: u64,
    end: ValidationError,
}

/// What is true for a day is no news: as with the age of a cached answer.
const MAX_INTERVAL: Duration = super::cache::MAX_AGE;
/// A provider that is down for hours is asked so often at least, or at the interval where that is
/// longer.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// An unreadable page may be a passing notice. This many in a row are the provider's new page, and
/// the watch ends instead of waiting in silence.
pub(super) const MAX_UNREADABLE: u32 = 5;
/// A rest is longer than the interval by up to a tenth, and never shorter: orders whose watchers
/// all came at once drift apart.
const JITTER_DIVISOR: u32 = 10;

impl Validation {
    /// Joins the watchers of an order; the first one starts its poll.
    ///
    /// # Errors
    /// [`ValidationError::AccountNotFound`], [`ValidationError::NotSectigo`],
    /// [`ValidationError::TooManyWatches`], [`ValidationError::Draining`]: what can be said without
    /// the provider.
    pub fn watch(&self, request: WatchRequest) -> Result<Watch, ValidationError> {
        let WatchRequest { account, order, after_fingerprint, interval } = request;
        let shared = &self.0;
        if shared.draining.is_cancelled() {
            return Err(ValidationError::Draining);
        }
        shared.source(&account)?;
        let place = shared.watch_places.clone().try_acquire_owned().map_err(|_| ValidationError::TooManyWatches)?;
        let floor = shared.watch_interval_min;
        let interval = interval.unwrap_or(floor).min(MAX_INTERVAL).max(floor);
        let key = (account, order);
        let mut watches = shared.watches();
        let (number, looks, poll) = match watches.polls.get_mut(&key) {
            Some(watched) => (watched.join(interval), watched.looks.clone(), None),
            None => {
                let poll = watches.open(self, &key, interval);
                (poll.number, poll.looks.subscribe(), Some(poll))
            }
        };
        // A poll locks the watches when it ends, which it does at once where the runtime takes no
        // task any more.
        drop(watches);
        let watch = Watch {
            shared: shared.clone(),
            key,
            poll: number,
            interval,
            joined: Instant::now(),
            looks,
            told: after_fingerprint,
            _place: place,
        };
        if let Some(poll) = poll {
            tokio::spawn(poll.run());
        }
        Ok(watch)
    }
}

impl Watch {
    /// The next status that differs from the one told before, as soon as it is seen.
    ///
    /// # Errors
    /// [`ValidationError::Draining`] at shutdown; what the provider says where waiting does not
    /// mend it. The watch has ended then.
    pub async fn next(&mut self) -> Answer {
        loop {
            if self.shared.draining.is_cancelled() {
                return Err(ValidationError::Draining);
            }
            // Marked as seen before it is judged: a look that ends meanwhile wakes us again.
            let Look { seen, end } = self.looks.borrow_and_update().clone();
            if let Some(status) = seen.and_then(|seen| self.news(seen)) {
                self.told = Some(status.fingerprint().to_owned());
                return Ok(status);
            }
            if let Some(end) = end {
                return Err(end);
            }
            tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => return Err(ValidationError::Draining),
                // The poll says its last word before it goes.
                changed = self.looks.changed() => if changed.is_err() { return Err(ValidationError::Panicked) },
            }
        }
    }

    /// None for what was told before, and for what was seen longer before this watcher came than it
    /// would let pass between two looks: then its own interval has brought the next look forward.
    fn news(&self, seen: Seen) -> Option<Arc<ValidationStatus>> {
        let is_present = self.joined.saturating_duration_since(seen.at) <= self.interval;
        let is_new = self.told.as_deref() != Some(seen.status.fingerprint());
        (is_present && is_new).then_some(seen.status)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watches().leave(&self.key, self.poll, self.interval);
    }
}

impl Polls {
    fn open(&mut self, validation: &Validation, key: &Key, interval: Duration) -> Poll {
        let number = self.next_number;
        self.next_number += 1;
        let (shortest, pace) = watch::channel(interval);
        let (looks, seen) = watch::channel(Look::default());
        let watched = Subscription { number, intervals: BTreeMap::from([(interval, 1)]), shortest, looks: seen };
        self.polls.insert(key.clone(), watched);
        Poll {
            validation: validation.clone(),
            key: key.clone(),
            number,
            shortest: pace,
            looks,
            looked: None,
            failures: 0,
            unreadable: 0,
            pause: Duration::ZERO,
            turn: 0,
            end: ValidationError::Panicked,
        }
    }

    /// A poll that has ended is not there any more, though another of the same order may be.
    fn leave(&mut self, key: &Key, poll: u64, interval: Duration) {
        let Some(watched) = self.polls.get_mut(key).filter(|watched| watched.number == poll) else { return };
        watched.part(interval);
        if watched.intervals.is_empty() {
            self.polls.remove(key);
        }
    }

    fn close(&mut self, key: &Key, poll: u64) {
        if self.polls.get(key).is_some_and(|watched| watched.number == poll) {
            self.polls.remove(key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.polls.len()
    }
}

impl Subscription {
    fn join(&mut self, interval: Duration) -> u64 {
        *self.intervals.entry(interval).or_default() += 1;
        self.tell_pace();
        self.number
    }

    fn part(&mut self, interval: Duration) {
        if let Some(present) = self.intervals.get_mut(&interval) {
            *present -= 1;
            if *present == 0 {
                self.intervals.remove(&interval);
            }
        }
        self.tell_pace();
    }

    fn tell_pace(&self) {
        if let Some((shortest, _)) = self.intervals.first_key_value() {
            self.shortest.send_if_modified(|told| std::mem::replace(told, *shortest) != *shortest);
        }
    }
}

impl Poll {
    async fn run(mut self) {
        let (account, order) = self.key.clone();
        debug!(%account, order_number = order.order_number(), "an order is watched");
        let draining = self.validation.0.draining.clone();
        tokio::select! {
            biased;
            () = draining.cancelled() => self.end = ValidationError::Draining,
            end = self.ask() => match end {
                Some(problem) => self.end = problem,
                None => debug!(%account, order_number = order.order_number(), "an order is watched no more"),
            },
        }
    }

    /// Asks and rests by turns, until there is nothing to ask any more or, for none, nobody to ask
    /// for.
    async fn ask(&mut self) -> Option<ValidationError> {
        loop {
            self.rest().await?;
            let (request, asked) = (self.request(), self.validation.0.clock.now());
            let answer = tokio::select! {
                biased;
                // The flight goes on without us, for others who wait for it and for the cache.
                () = gone(&mut self.shortest) => return None,
                answer = self.validation.get(request) => answer,
            };
            let ended = Instant::now();
            self.turn += 1;
            self.looked = Some(ended);
            let is_unreadable = matches!(answer, Err(ValidationError::Provider(StatusError::Protocol { .. })));
            self.unreadable = if is_unreadable { self.unreadable + 1 } else { 0 };
            self.pause = pause_after(&answer).unwrap_or_default();
            match answer {
                Ok(status) => {
                    let age = asked.saturating_duration_since(status.fetch_time());
                    let at = ended.checked_sub(age).unwrap_or(ended);
                    self.looked = Some(at);
                    self.failures = 0;
                    self.looks.send_modify(|look| look.seen = Some(Seen { status, at }));
                }
                Err(problem) if is_transient(&problem) && self.unreadable < MAX_UNREADABLE => {
                    self.failures = self.failures.saturating_add(1)
                }
                Err(problem) => return Some(problem),
            }
        }
    }

    /// Until the next look is due, whoever comes and goes meanwhile. None when everybody has gone.
    async fn rest(&mut self) -> Option<()> {
        while let Some(looked) = self.looked {
            let interval = *self.shortest.borrow_and_update();
            let rest = poll_delay(interval, self.failures, dice(&self.key, self.turn)).max(self.pause);
            tokio::select! {
                biased;
                changed = self.shortest.changed() => changed.ok()?,
                () = tokio::time::sleep_until(looked + rest) => break,
            }
        }
        Some(())
    }

    /// The first look takes an answer from the cache that the floor would not let be newer, so that
    /// who comes and goes all the time does not get below it.
    fn request(&self) -> StatusRequest {
        let (account, order) = self.key.clone();
        let max_age = if self.turn == 0 { self.validation.0.watch_interval_min } else { Duration::ZERO };
        StatusRequest { account, order, max_age }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // First out of the way: who comes from here on has a poll of its own.
        self.validation.0.watches().close(&self.key, self.number);
        let end = self.end.clone();
        self.looks.send_modify(|look| look.end = Some(end));
    }
}

impl ValidationCore {
    /// Nothing panics while it is held; were it so, what is in it would still be whole.
    pub(super) fn watches(&self) -> MutexGuard<'_, Polls> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the last watcher has left.
async fn gone(shortest: &mut watch::Receiver<Duration>) {
    while shortest.changed().await.is_ok() {}
}

/// Whether asking again later may go better. A page that cannot be read may be a notice that says
/// so.
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

fn pause_after(answer: &Answer) -> Option<Duration> {
    match answer {
        Err(ValidationError::Provider(
            StatusError::Unreachable { retry_after, .. } | StatusError::NotNow { retry_after, .. },
        )) => *retry_after,
        _ => None,
    }
}

/// How long to rest after a look: the interval, doubled with each failure after the first, and up
/// to a tenth more as the dice fall.
pub(super) fn poll_delay(interval: Duration, failures: u32, dice: u16) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let rest = interval.saturating_mul(1 << doublings).min(MAX_BACKOFF.max(interval));
    rest.saturating_add(rest / JITTER_DIVISOR * u32::from(dice) / u32::from(u16::MAX))
}

/// Even over orders and turns, and the same in each run.
fn dice(key: &Key, turn: u64) -> u16 {
    let mut hasher = DefaultHasher::new();
    (key, turn).hash(&mut hasher);
    let [first, second, ..] = hasher.finish().to_be_bytes();
    u16::from_be_bytes([first, second])
}
