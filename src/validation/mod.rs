//! Validation status: asked for once, told to everybody who waits for it.
//!
//! ```text
//! caller --\                 young enough: the cache answers
//! caller ---> Validation --<
//! caller --/                 else: one flight per order --- a slot of the account --- the provider
//! ```
//!
//! A flight is a task of its own: it outlives callers that leave, and whatever ends it, a panic
//! too, it lands: everybody who waits is told the same, and nothing of it stays behind. Errors are
//! told and forgotten, answers are kept for callers who say how old one may be.
//!
//! Who wants to hear of changes does not ask again and again: `watching.rs` does it for all of
//! them.

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
use crate::providers::{Accounts, StatusError, ValidationProvider};
use crate::validation::cache::Cache;
use crate::validation::watch::Polls;

pub use crate::validation::watch::{Watch, WatchRequest};

/// The validation status of every account's orders. Clones share everything.
#[derive(Clone)]
pub struct Validation(Arc<ValidationCore>);

/// What the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct ValidationSettings {
    /// Orders whose last answer is kept; the oldest goes first. 0 keeps none.
    pub cache_entries: usize,
    /// Requests of one account that may be on the wire at once.
    pub max_concurrent_fetches: usize,
    /// Watchers at once, over all orders.
    pub max_watches: usize,
    /// The shortest rest between two looks at a watched order.
    pub watch_interval_min: Duration,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct StatusRequest {
    /// Whose order.
    pub account: AccountName,
    /// Which.
    pub order: OrderKey,
    /// An answer no older than this will do, up to a day. Zero: ask the provider, or wait with
    /// those who ask it already.
    pub max_age: Duration,
}

/// Why there is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidationError {
    /// No such account.
    #[error("there is no account \"{0}\"")]
    AccountNotFound(AccountName),
    /// Only certificates are validated.
    #[error("account \"{account}\" is one at {provider}: only Sectigo's orders have a validation status")]
    NotSectigo {
        /// The account.
        account: AccountName,
        /// Whose account it is.
        provider: ProviderKind,
    },
    /// More orders are being asked for than may wait.
    #[error("too many orders of this account are being asked for")]
    Overloaded,
    /// More watchers than there may be.
    #[error("too many watchers at once")]
    TooManyWatches,
    /// The gateway is shutting down; only a watch is told.
    #[error("the gateway is shutting down")]
    Draining,
    /// A bug: the log has more.
    #[error("the request ended without an answer")]
    Panicked,
    /// The provider was asked in vain.
    #[error(transparent)]
    Provider(#[from] StatusError),
}

/// Flights of one account that may wait for a slot: beyond it they would wait longer than any
/// caller.
const WAITING_FLIGHTS_PER_ACCOUNT: usize = 1_000;

type Key = (AccountName, OrderKey);
type Answer = Result<Arc<ValidationStatus>, ValidationError>;
type FetchReceiver = watch_channel::Receiver<Option<Answer>>;

struct ValidationCore {
    accounts: Arc<Accounts>,
    clock: Arc<dyn Clock>,
    lanes: BTreeMap<AccountName, FetchSlots>,
    air: Mutex<FetchState>,
    watches: Mutex<Polls>,
    watch_places: Arc<Semaphore>,
    max_watches: usize,
    watch_interval_min: Duration,
    draining: CancellationToken,
    /// Calls that wait for an answer.
    calls: TaskTracker,
}

/// The bounds of one account.
struct FetchSlots {
    /// Flights at all, waiting ones among them.
    places: Arc<Semaphore>,
    /// Flights on the wire.
    slots: Arc<Semaphore>,
}

struct FetchState {
    cache: Cache,
    in_flight: HashMap<Key, FetchReceiver>,
}

/// One request on its way. Lands when it is dropped, with what it has by then.
struct Fetch {
    shared: Arc<ValidationCore>,
    key: Key,
    source: Arc<dyn ValidationProvider>,
    slots: Arc<Semaphore>,
    callers: watch_channel::Sender<Option<Answer>>,
    answer: Answer,
    _place: OwnedSemaphorePermit,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            // An entry takes a few KiB: a full cache stays under 10 MiB.
            cache_entries: 1_000,
            max_concurrent_fetches: 8,
            max_watches: 1_000,
            watch_interval_min: Duration::from_secs(30),
        }
    }
}

impl Validation {
    /// Of these accounts.
    pub fn new(accounts: Arc<Accounts>, clock: Arc<dyn Clock>, settings: ValidationSettings) -> Self {
        // No slot at all would make every caller wait for ever.
        let slots = settings.max_concurrent_fetches.clamp(1, Semaphore::MAX_PERMITS / 2);
        let lane = || FetchSlots {
            places: Arc::new(Semaphore::new(slots + WAITING_FLIGHTS_PER_ACCOUNT)),
            slots: Arc::new(Semaphore::new(slots)),
        };
        let lanes = accounts.iter().map(|account| (account.name.clone(), lane())).collect();
        let air = Mutex::new(FetchState { cache: Cache::new(settings.cache_entries), in_flight: HashMap::new() });
        Self(Arc::new(ValidationCore {
            accounts,
            clock,
            lanes,
            air,
            watches: Mutex::default(),
            watch_places: Arc::new(Semaphore::new(settings.max_watches.min(Semaphore::MAX_PERMITS))),
            max_watches: settings.max_watches.min(Semaphore::MAX_PERMITS),
            watch_interval_min: settings.watch_interval_min,
            draining: CancellationToken::new(),
            calls: TaskTracker::new(),
        }))
    }

    /// The status of one order: from the cache where the caller allows it, else from the provider.
    ///
    /// May be dropped at any time: the request to the provider goes on for the others, and for the
    /// cache.
    ///
    /// # Errors
    /// Every [`ValidationError`]; all callers of one flight get the same.
    pub async fn get(&self, request: StatusRequest) -> Answer {
        let _call = self.0.calls.token();
        let mut landing = match self.join_or_start(request)? {
            Way::Cached(status) => return Ok(status),
            Way::Fetch(landing) => landing,
        };
        match landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Err(ValidationError::Panicked)),
            Err(_) => Err(ValidationError::Panicked),
        }
    }

    /// Polls that are open now.
    pub fn watch_count(&self) -> usize {
        self.0.max_watches.saturating_sub(self.0.watch_places.available_permits())
    }

    /// Ends every watch and takes no new one; what is asked for once is answered as before.
    ///
    /// Returns when no caller waits for an answer any more, or at the limit.
    pub async fn drain(&self, limit: Duration) {
        self.0.draining.cancel();
        self.0.calls.close();
        if tokio::time::timeout(limit, self.0.calls.wait()).await.is_err() {
            warn!(calls = self.0.calls.len(), "validation statuses are still being read at the end of the drain");
        }
    }

    /// Finds an answer, or joins the flight that will bring one, or starts it.
    fn join_or_start(&self, request: StatusRequest) -> Result<Way, ValidationError> {
        let StatusRequest { account, order, max_age } = request;
        let shared = &self.0;
        let (source, lane) = shared.source(&account)?;
        let key = (account, order);
        let mut air = shared.air();
        if let Some(status) = air.cache.get(&key, max_age, shared.clock.now()) {
            return Ok(Way::Cached(status));
        }
        if let Some(landing) = air.in_flight.get(&key) {
            return Ok(Way::Fetch(landing.clone()));
        }
        let place = lane.places.clone().try_acquire_owned().map_err(|_| ValidationError::Overloaded)?;
        let (callers, landing) = watch_channel::channel(None);
        air.in_flight.insert(key.clone(), landing.clone());
        // A flight locks the air when it lands, which it does at once where the runtime takes no
        // task any more.
        drop(air);
        let flight = Fetch {
            shared: shared.clone(),
            key,
            source,
            slots: lane.slots.clone(),
            callers,
            answer: Err(ValidationError::Panicked),
            _place: place,
        };
        // In the trace of whoever asked first.
        tokio::spawn(flight.run().in_current_span());
        Ok(Way::Fetch(landing))
    }
}

/// How a caller gets its answer.
enum Way {
    Cached(Arc<ValidationStatus>),
    Fetch(FetchReceiver),
}

impl Fetch {
    async fn run(mut self) {
        // The semaphore is never closed, so the slot can only be waited for.
        let Ok(_slot) = self.slots.clone().acquire_owned().await else { return };
        // Before the provider is asked: its answer can only be younger, so no caller gets an older
        // one than it allows.
        let fetch_time = self.shared.clock.now();
        let (account, order) = &self.key;
        self.answer = match self.source.validation_status(order).await {
            Ok(answer) => Ok(Arc::new(ValidationStatus::new(answer, fetch_time))),
            Err(problem) => {
                if is_for_the_operator(&problem) {
                    let (order_number, problem) = (order.order_number(), problem.without_words());
                    warn!(%account, order_number, problem, "a validation status could not be read");
                }
                Err(ValidationError::Provider(problem))
            }
        };
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let (account, order) = &self.key;
        // The end of the process drops what is still in the air: a read that only watchers wanted,
        // or one that takes longer than the drain.
        let is_cut = self.shared.draining.is_cancelled();
        if matches!(self.answer, Err(ValidationError::Panicked)) && !is_cut {
            error!(%account, order_number = order.order_number(), "the task that read a validation status died");
        }
        let mut air = self.shared.air();
        air.in_flight.remove(&self.key);
        if let Ok(status) = &self.answer {
            air.cache.insert(self.key.clone(), status.clone(), self.shared.clock.now());
        }
        drop(air);
        self.callers.send_replace(Some(self.answer.clone()));
    }
}

impl ValidationCore {
    /// Whom to ask about an account's orders, and within which bounds.
    fn source(&self, account: &AccountName) -> Result<(Arc<dyn ValidationProvider>, &FetchSlots), ValidationError> {
        let (Some(found), Some(lane)) = (self.accounts.get(account), self.lanes.get(account)) else {
            return Err(ValidationError::AccountNotFound(account.clone()));
        };
        match found.status.clone() {
            Some(source) => Ok((source, lane)),
            None => Err(ValidationError::NotSectigo { account: account.clone(), provider: found.provider }),
        }
    }

    /// Nothing panics while it is held; were it so, what is in it would still be whole.
    fn air(&self) -> MutexGuard<'_, FetchState> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An order that is not there is between the caller and the provider; the rest is about the account
/// or the wire.
fn is_for_the_operator(problem: &StatusError) -> bool {
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
