//! Reads the validation status of orders: one request to the provider serves all callers that wait
//! for it.
//!
//! ```text
//! caller --\                 young enough: from the cache
//! caller ---> Validation --<
//! caller --/                 else: one fetch per order --- a slot of the account --- the provider
//! ```
//!
//! A fetch is a task of its own. It outlives callers that leave. However it ends, even by a panic,
//! all waiting callers get the same result and nothing of it stays behind. Errors are not cached;
//! answers are kept for callers who accept an older one.
//!
//! Callers who want to learn about changes do not poll: `watch.rs` polls for all of them.

mod cache;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as watch_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error, warn};

use crate::domain::clock::Clock;
use crate::domain::ids::{AccountName, ProviderKind};
use crate::domain::validation::{OrderKey, ValidationStatus};
use crate::providers::rate_limit::RateLimiter;
use crate::providers::{Accounts, StatusError, ValidationProvider};
use crate::telemetry::metrics::AccountMeter;
use crate::validation::cache::Cache;
use crate::validation::watch::Polls;

pub use crate::validation::watch::{Watch, WatchRequest};

/// Reads validation statuses for all accounts. Clones share everything.
#[derive(Clone)]
pub struct Validation(Arc<ValidationCore>);

#[derive(Debug, Clone, Copy)]
pub struct ValidationSettings {
    /// Maximum number of cached answers, one per order; the oldest is evicted first. 0 disables the
    /// cache.
    pub cache_entries: usize,
    /// Maximum number of concurrent requests per account.
    pub max_concurrent_fetches: usize,
    /// Requests per second per account, evenly spaced. 0: no limit.
    pub requests_per_second: u32,
    /// Maximum number of concurrent watchers of all orders together.
    pub max_watches: usize,
    /// Minimum time between two polls of a watched order.
    pub watch_interval_min: Duration,
}

/// A request for one status.
#[derive(Debug, Clone)]
pub struct StatusRequest {
    pub account: AccountName,
    pub order: OrderKey,
    /// Maximum age of an acceptable answer; at most a day. Zero: ask the provider, or join a
    /// request that is already running.
    pub max_age: Duration,
}

/// Why there is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidationError {
    #[error("there is no account \"{0}\"")]
    AccountNotFound(AccountName),
    /// Only certificates have a validation status.
    #[error("account \"{account}\" is one at {provider}: only Sectigo's orders have a validation status")]
    NotSectigo {
        account: AccountName,
        /// The provider of the account.
        provider: ProviderKind,
    },
    /// Too many fetches are queued for this account.
    #[error("too many validation statuses of this account are being requested")]
    Overloaded,
    /// `max_watches` watchers are connected.
    #[error("too many watchers")]
    TooManyWatches,
    /// The gateway is shutting down. Only watches end with it.
    #[error("the gateway is shutting down")]
    Draining,
    /// A bug; the log has details.
    #[error("the request ended without an answer")]
    Panicked,
    /// The provider did not answer with a status.
    #[error(transparent)]
    Provider(#[from] StatusError),
}

/// Maximum number of queued fetches per account. More would wait longer than any caller does.
const MAX_QUEUED_FETCHES: usize = 1_000;

type AccountOrder = (AccountName, OrderKey);
type StatusResult = Result<Arc<ValidationStatus>, ValidationError>;
type FetchReceiver = watch_channel::Receiver<Option<StatusResult>>;

struct ValidationCore {
    accounts: Arc<Accounts>,
    clock: Arc<dyn Clock>,
    fetch_slots: BTreeMap<AccountName, FetchSlots>,
    state: Mutex<FetchState>,
    polls: Mutex<Polls>,
    watch_slots: Arc<Semaphore>,
    max_watches: usize,
    watch_interval_min: Duration,
    draining: CancellationToken,
    /// The callers that wait for an answer.
    calls: TaskTracker,
}

/// The limits of one account.
struct FetchSlots {
    /// For all fetches, queued ones included.
    queue: Arc<Semaphore>,
    /// For fetches that are on the wire.
    wire: Arc<Semaphore>,
    pace: Arc<RateLimiter>,
}

struct FetchState {
    cache: Cache,
    in_flight: HashMap<AccountOrder, FetchReceiver>,
}

/// One request to the provider. Publishes its result when it is dropped, whatever ended it.
struct Fetch {
    core: Arc<ValidationCore>,
    key: AccountOrder,
    provider: Arc<dyn ValidationProvider>,
    wire_slots: Arc<Semaphore>,
    pace: Arc<RateLimiter>,
    sender: watch_channel::Sender<Option<StatusResult>>,
    answer: StatusResult,
    _queue_slot: OwnedSemaphorePermit,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            // An entry takes a few KiB: a full cache stays under 10 MiB.
            cache_entries: 1_000,
            max_concurrent_fetches: 8,
            requests_per_second: 20,
            max_watches: 1_000,
            watch_interval_min: Duration::from_secs(30),
        }
    }
}

impl Validation {
    pub fn new(accounts: Arc<Accounts>, clock: Arc<dyn Clock>, settings: ValidationSettings) -> Self {
        // With zero slots every caller would wait for ever.
        let slots = settings.max_concurrent_fetches.clamp(1, Semaphore::MAX_PERMITS / 2);
        let slots_of_account = || FetchSlots {
            queue: Arc::new(Semaphore::new(slots + MAX_QUEUED_FETCHES)),
            wire: Arc::new(Semaphore::new(slots)),
            pace: Arc::new(RateLimiter::new(settings.requests_per_second, 0, AccountMeter::off())),
        };
        let fetch_slots = accounts.iter().map(|account| (account.name.clone(), slots_of_account())).collect();
        let state = Mutex::new(FetchState { cache: Cache::new(settings.cache_entries), in_flight: HashMap::new() });
        Self(Arc::new(ValidationCore {
            accounts,
            clock,
            fetch_slots,
            state,
            polls: Mutex::default(),
            watch_slots: Arc::new(Semaphore::new(settings.max_watches.min(Semaphore::MAX_PERMITS))),
            max_watches: settings.max_watches.min(Semaphore::MAX_PERMITS),
            watch_interval_min: settings.watch_interval_min,
            draining: CancellationToken::new(),
            calls: TaskTracker::new(),
        }))
    }

    /// The status of one order: from the cache if the caller accepts its age, else from the
    /// provider.
    ///
    /// The future may be dropped at any time: the fetch continues for other callers and for the
    /// cache.
    ///
    /// # Errors
    /// Every [`ValidationError`]. All callers of one fetch get the same error.
    pub async fn get(&self, request: StatusRequest) -> StatusResult {
        let _call = self.0.calls.token();
        let mut receiver = match self.join_or_start(request)? {
            Answer::Cached(status) => return Ok(status),
            Answer::InFlight(receiver) => receiver,
        };
        match receiver.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(ValidationError::Panicked)),
            Err(_) => Err(ValidationError::Panicked),
        }
    }

    /// The number of watchers that may be connected at the same time.
    pub fn max_watches(&self) -> usize {
        self.0.max_watches
    }

    /// The number of connected watchers.
    pub fn watch_count(&self) -> usize {
        self.0.max_watches.saturating_sub(self.0.watch_slots.available_permits())
    }

    /// Ends every watch and accepts no new one. Single requests are still answered.
    ///
    /// Returns when no caller waits for an answer any more, or after `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.0.draining.cancel();
        self.0.calls.close();
        if tokio::time::timeout(limit, self.0.calls.wait()).await.is_err() {
            warn!(calls = self.0.calls.len(), "drain ended while callers still wait for validation statuses");
        }
    }

    /// Finds a cached answer, joins a running fetch, or starts one.
    fn join_or_start(&self, request: StatusRequest) -> Result<Answer, ValidationError> {
        let StatusRequest { account, order, max_age } = request;
        let core = &self.0;
        let (provider, slots) = core.provider_of(&account)?;
        let key = (account, order);
        let mut state = core.fetch_state();
        if let Some(status) = state.cache.get(&key, max_age, core.clock.now()) {
            return Ok(Answer::Cached(status));
        }
        if let Some(receiver) = state.in_flight.get(&key) {
            return Ok(Answer::InFlight(receiver.clone()));
        }
        let queue_slot = slots.queue.clone().try_acquire_owned().map_err(|_| ValidationError::Overloaded)?;
        let (sender, receiver) = watch_channel::channel(None);
        state.in_flight.insert(key.clone(), receiver.clone());
        // A fetch locks the state when it is dropped. During a shutdown of the runtime, `spawn`
        // drops it immediately.
        drop(state);
        let fetch = Fetch {
            core: core.clone(),
            key,
            provider,
            wire_slots: slots.wire.clone(),
            pace: slots.pace.clone(),
            sender,
            answer: Err(ValidationError::Panicked),
            _queue_slot: queue_slot,
        };
        // The fetch belongs to the trace of the first caller.
        tokio::spawn(fetch.run().in_current_span());
        Ok(Answer::InFlight(receiver))
    }
}

/// How a caller gets its answer.
enum Answer {
    Cached(Arc<ValidationStatus>),
    InFlight(FetchReceiver),
}

impl Fetch {
    async fn run(mut self) {
        // The semaphore is never closed, so this only waits.
        let Ok(_slot) = self.wire_slots.clone().acquire_owned().await else { return };
        self.pace.acquire().await;
        // Read before the provider is asked: the answer can only be younger than this, so no caller
        // gets an older one than it accepts.
        let fetch_time = self.core.clock.now();
        let (account, order) = &self.key;
        self.answer = match self.provider.validation_status(order).await {
            Ok(answer) => Ok(Arc::new(ValidationStatus::new(answer, fetch_time))),
            Err(problem) => {
                if concerns_operator(&problem) {
                    let (order_number, problem) = (order.order_number(), problem.redacted());
                    warn!(%account, order_number, problem, "could not read validation status");
                }
                Err(ValidationError::Provider(problem))
            }
        };
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let (account, order) = &self.key;
        // The end of the process drops fetches that only watchers wait for, or that take longer
        // than the drain.
        let is_shutdown = self.core.draining.is_cancelled();
        if matches!(self.answer, Err(ValidationError::Panicked)) && !is_shutdown {
            error!(%account, order_number = order.order_number(), "validation status task ended without a result");
        }
        let mut state = self.core.fetch_state();
        state.in_flight.remove(&self.key);
        if let Ok(status) = &self.answer {
            state.cache.insert(self.key.clone(), status.clone(), self.core.clock.now());
        }
        drop(state);
        self.sender.send_replace(Some(self.answer.clone()));
    }
}

impl ValidationCore {
    /// The provider and the limits of an account.
    fn provider_of(
        &self,
        account: &AccountName,
    ) -> Result<(Arc<dyn ValidationProvider>, &FetchSlots), ValidationError> {
        let (Some(found), Some(slots)) = (self.accounts.get(account), self.fetch_slots.get(account)) else {
            return Err(ValidationError::AccountNotFound(account.clone()));
        };
        match found.validation.clone() {
            Some(provider) => Ok((provider, slots)),
            None => Err(ValidationError::NotSectigo { account: account.clone(), provider: found.provider }),
        }
    }

    /// No code panics while it holds the lock; even then the state would be consistent.
    fn fetch_state(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A missing order concerns the caller. The other errors concern the account or the network.
fn concerns_operator(problem: &StatusError) -> bool {
    match problem {
        StatusError::Unreachable { .. }
        | StatusError::NotNow { .. }
        | StatusError::Timeout
        | StatusError::Protocol { .. }
        | StatusError::CredentialsRefused { .. } => true,
        StatusError::OrderNotFound { .. } | StatusError::Refused { .. } => false,
    }
}

#[cfg(test)]
mod tests;
