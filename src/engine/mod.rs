//! The engine: takes refunds in, sends each at most once, and tells what became of it.
//!
//! ```text
//! PENDING      -> DISPATCHING   an attempt is on disk, its first byte may leave
//!              -> CANCELLED     by the caller, nothing was processed
//!              -> FAILED        it waited too long, nothing was processed
//! DISPATCHING  -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | SUBMITTED   the provider said so
//!              -> PENDING       proof that nothing was processed; sent again with backoff
//!              -> IN_DOUBT      anything else, always
//! SUBMITTED    -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED               the provider finished
//!              -> NEEDS_REVIEW  the provider has forgotten it, has another one on record, or does not finish within 30 days
//! IN_DOUBT     -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | SUBMITTED   a look showed it
//!              -> DISPATCHING   sent again, while the retry contract makes that safe
//!              -> NEEDS_REVIEW  no look can show it, or none is answered for days
//! NEEDS_REVIEW -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED | DISPATCHING a person said so
//!              -> SUCCEEDED | FAILED   the record under our own identifier (Debitsuccess)
//! IN_DOUBT, SUBMITTED -> SUCCEEDED | PARTIALLY_SUCCEEDED | FAILED        a person took over
//! start-up     : DISPATCHING -> IN_DOUBT
//! ```
//!
//! [`decide`] says what follows from an answer and waits for nothing; [`step`] does it and decides
//! nothing; [`driver`] finds what is due; [`lane`] is what one account has of it all, and
//! [`circuit`] whether it is sent anything at all. No work lives in a caller's future: whoever
//! stops listening stops nothing.

mod account;
pub mod circuit_breaker;
mod commands;
pub mod decide;
mod event_stream;
mod monotonic_clock;
pub mod places;
pub mod probe;
mod rate_limit;
mod resolve;
mod step;
mod waiters;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug_span, info, warn};

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::{Event, EventRecord};
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{FieldViolation, Target};
use crate::engine::account::AccountRuntime;
use crate::engine::circuit_breaker::CircuitBreakerSettings;
use crate::engine::decide::{Backoff, RetryRules, Schedule};
use crate::engine::event_stream::EventBuffer;
use crate::engine::monotonic_clock::MonotonicClock;
use crate::engine::waiters::{Waiter, Waiters};
use crate::ledger::{
    self, CreateOutcome, FirstAttempt, Health, Ledger, LedgerError, ListQuery, ListedRefund, NewRefund, RecordEvents,
    Reschedule, Ticket,
};
use crate::providers::{Account, Accounts};
use crate::telemetry::traces;

pub use crate::engine::commands::{
    AccountHealth, CreateCommand, CreateResult, EngineError, ReassignCommand, ResolveCommand, WaitingFor,
};
pub use crate::engine::event_stream::{EventStream, SharedEvent};

/// The engine. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Engine(Arc<EngineCore>);

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// How refunds that were provably not processed are spread over time.
    pub backoff: Backoff,
    /// When providers are asked what became of a refund.
    pub schedule: Schedule,
    /// How long a rejection is looked up once a day, since the provider may correct it. Zero: not
    /// at all.
    pub rejection_follow_up: Duration,
    /// When an account is sent nothing any more, and when it is tried again.
    pub circuit: CircuitBreakerSettings,
    /// Readers of the event feed at once.
    pub max_feeds: usize,
}

pub(crate) struct EngineCore {
    ledger: Arc<dyn Ledger>,
    accounts: Arc<Accounts>,
    clock: Arc<MonotonicClock>,
    /// How old a key from before this moment is cannot be known.
    keys_trusted_from: Timestamp,
    settings: EngineSettings,
    lanes: BTreeMap<AccountName, Arc<AccountRuntime>>,
    waiters: Waiters,
    feeds: Arc<Semaphore>,
    recent: Arc<EventBuffer>,
    detached_operations: Arc<Semaphore>,
    tasks: TaskTracker,
    draining: CancellationToken,
    /// The ledger writes no more.
    stopped: CancellationToken,
}

/// After an error of the ledger.
const LEDGER_ERROR_BACKOFF: Duration = Duration::from_secs(1);
/// Withdrawals and looks under way at once: their callers may have left, so the port's bound on
/// calls does not hold them.
const MAX_DETACHED_OPERATIONS: usize = 1_024;

impl Engine {
    /// Takes up where the last process ended: what was on its way is in doubt, what waited is sent.
    ///
    /// # Errors
    /// [`LedgerError`] where the ledger cannot be brought in order.
    pub async fn start(
        ledger: Arc<dyn Ledger>,
        accounts: Arc<Accounts>,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
    ) -> Result<Engine, LedgerError> {
        let committed = *ledger.committed().borrow();
        let last_event = ledger.events_after(committed.saturating_sub(1), 1).await?.pop().map(|event| event.time);
        let behind = last_event.is_some_and(|last| clock.now() < last);
        let clock = Arc::new(MonotonicClock::new(clock, last_event.unwrap_or(Timestamp::MIN)));
        let keys_trusted_from = if behind { clock.now() } else { Timestamp::MIN };
        if behind {
            warn!("the machine's clock is behind the ledger's last event: no key from before this start is used again");
        }
        let interrupted = ledger.mark_interrupted(clock.now()).await?;
        places::take_up(&*ledger, &accounts, clock.now()).await?;
        let mut lanes = BTreeMap::new();
        for account in accounts.iter() {
            let standstills = ledger.standstills(&account.destination()).await?;
            let related = places::related_logins_of(account, &accounts);
            let lane = AccountRuntime::new(account.clone(), related, standstills, settings.circuit);
            lanes.insert(account.name.clone(), Arc::new(lane));
        }
        let shared = Arc::new(EngineCore {
            ledger,
            accounts,
            clock,
            keys_trusted_from,
            feeds: Arc::new(Semaphore::new(settings.max_feeds)),
            recent: Arc::default(),
            detached_operations: Arc::new(Semaphore::new(MAX_DETACHED_OPERATIONS)),
            settings,
            lanes,
            waiters: Waiters::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        if interrupted > 0 {
            warn!(
                refunds = interrupted,
                "attempts were on their way when the gateway last stopped: they are IN_DOUBT now"
            );
            log_interrupted(&shared, committed).await?;
        }
        // One listens for all who wait: those who hear it from the word itself are woken in any
        // order, and no two runs would be alike. Not a task of the drain, which lets callers wait
        // for as long as the ledger writes.
        tokio::spawn(cancel_on_ledger_failure(shared.ledger.health(), shared.stopped.clone()));
        for lane in shared.lanes.values() {
            shared.tasks.spawn(workers::run_dispatcher(shared.clone(), lane.clone()));
            shared.tasks.spawn(workers::run_reconciler(shared.clone(), lane.clone()));
        }
        shared.tasks.spawn(event_stream::follow(shared.clone()));
        Ok(Engine(shared))
    }

    /// Records a refund and sends it, or finds the one that has this id; then waits for an outcome.
    ///
    /// # Errors
    /// Nothing was recorded and nothing sent.
    pub async fn create(&self, command: CreateCommand) -> Result<CreateResult, EngineError> {
        let (answer_by, wait_until) = (command.answer_by, command.wait_until);
        let claim = Ticket::default();
        // Before anything is recorded: so the refund need not be read again in order to wait for
        // it.
        let waiter = self.0.waiters.register(&command.intent.id);
        // A task of its own: between the commit and the send nobody may be able to drop the work.
        let mut recording = self.spawn(self.0.clone().create_refund_detached(command, claim.clone()));
        let recorded = match timeout_at(answer_by, &mut recording).await {
            Ok(joined) => joined,
            Err(_) if claim.cancel() => return Err(EngineError::Deadline),
            // The ledger has begun: what it did decides, not the clock.
            Err(_) => recording.await,
        };
        let recorded = match recorded {
            Ok(recorded) => recorded?,
            // It may have died after the commit. The same call again finds out.
            Err(_) => return Err(EngineError::Panicked),
        };
        let refund = self.0.wait_for_outcome(recorded.refund, waiter, wait_until).await;
        Ok(CreateResult { refund, replayed: recorded.replayed })
    }

    /// What [`Engine::create`] would record. Records and sends nothing.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn dry_run(&self, command: CreateCommand) -> Result<CreateResult, EngineError> {
        if let Some(known) = self.0.known(&command.intent).await? {
            return Ok(CreateResult { refund: known, replayed: true });
        }
        let lane = self.0.account_for(&command.intent)?;
        match self.0.ledger.dry_run(self.0.create_of(lane, command, false, Ticket::default())).await? {
            CreateOutcome::New(refund) => Ok(CreateResult { refund, replayed: false }),
            CreateOutcome::Known(refund) => Ok(CreateResult { refund, replayed: true }),
        }
    }

    /// One refund.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn get(&self, id: &RefundId) -> Result<Refund, EngineError> {
        self.0.get(id).await
    }

    /// A page of refunds, newest first.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, EngineError> {
        Ok(self.0.ledger.list(query).await?)
    }

    /// Waits until the refund has passed `after_revision`, is terminal, or `until` has come.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn wait(&self, id: &RefundId, after_revision: u64, until: Instant) -> Result<Refund, EngineError> {
        let passed = move |refund: &Refund| refund.revision > after_revision || refund.state.is_terminal();
        let wait = self.0.waiters.until(id, until, passed, || self.0.get(id));
        tokio::select! {
            biased;
            waited = wait => waited,
            // A caller that waits must not hold the shutdown up.
            () = self.0.draining.cancelled() => self.0.get(id).await,
            () = self.0.ledger_stopped() => self.0.get(id).await,
        }
    }

    /// Withdraws a refund of which nothing was processed. Done again, it changes nothing.
    ///
    /// # Errors
    /// [`EngineError::NotCancellable`], [`EngineError::EtagMismatch`], those of the ledger.
    pub async fn cancel(&self, id: &RefundId, etag: Option<&str>, actor: &str) -> Result<Refund, EngineError> {
        let (shared, id, etag, actor) = (self.0.clone(), id.clone(), etag.map(str::to_owned), actor.to_owned());
        // A task of its own: those who wait for the refund are told, though the caller may have
        // gone.
        self.run_detached(async move { shared.cancel_detached(&id, etag.as_deref(), &actor).await }).await
    }

    /// Asks the provider now what became of a refund, and records what it shows.
    ///
    /// # Errors
    /// [`EngineError::NotInDoubt`] where nothing is open at the provider,
    /// [`EngineError::AccountChanged`], those of the ledger.
    pub async fn reconcile(&self, id: &RefundId, actor: &str) -> Result<Refund, EngineError> {
        if self.0.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let (shared, id, actor) = (self.0.clone(), id.clone(), actor.to_owned());
        let look = async move {
            let refund = shared.get(&id).await?;
            if !refund.state.is_in_question() && !refund.is_followed(shared.clock.now()) {
                return Err(EngineError::NotInDoubt(refund.state));
            }
            let lane = shared.configured_account(&refund)?.clone();
            step::reconcile_now(&shared, &lane, refund, &actor).await
        };
        self.run_detached(look).await
    }

    /// A person's decision on a refund that the gateway cannot find out about.
    ///
    /// With [`crate::domain::event::Resolution::SendAgain`] it returns once the attempt is on disk
    /// and on its way.
    ///
    /// # Errors
    /// [`EngineError::NotInReview`], [`EngineError::EtagMismatch`], [`EngineError::Invalid`],
    /// [`EngineError::AccountChanged`], those of the ledger.
    pub async fn resolve(&self, command: ResolveCommand) -> Result<Refund, EngineError> {
        if self.0.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        self.run_detached(resolve::resolve(self.0.clone(), command)).await
    }

    /// Lets a refund whose account is gone or has changed go on at a configured one.
    ///
    /// # Errors
    /// [`EngineError::NotReassignable`], [`EngineError::EtagMismatch`],
    /// [`EngineError::AccountNotFound`], [`EngineError::AccountMismatch`],
    /// [`EngineError::Invalid`], and those of the ledger: another refund may hold the target there,
    /// or look like this one sent twice.
    pub async fn reassign(&self, command: ReassignCommand) -> Result<Refund, EngineError> {
        if self.0.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        self.run_detached(places::reassign(self.0.clone(), command)).await
    }

    /// What keeps a refund from going on; none where nothing does.
    pub fn waiting_for(&self, refund: &Refund) -> Option<WaitingFor> {
        places::waiting_for(&self.0, refund)
    }

    /// How many refunds wait for their account, by its name: it is not configured, or not as it
    /// was.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn waiting_for_account(&self) -> Result<BTreeMap<AccountName, u64>, LedgerError> {
        let mut waiting = BTreeMap::new();
        for open in self.0.ledger.open_refunds().await? {
            if !places::is_configured(&self.0.accounts, &open) {
                let count: &mut u64 = waiting.entry(open.at.account).or_default();
                *count = count.saturating_add(open.count);
            }
        }
        Ok(waiting)
    }

    /// The engine's own time: never behind the ledger's.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How far the ledger's times are ahead of the machine's clock.
    pub fn clock_ahead(&self) -> Duration {
        self.0.clock.ahead()
    }

    /// The history of one refund after `revision`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] among others of the ledger.
    pub async fn events_of(
        &self,
        id: &RefundId,
        after_revision: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, EngineError> {
        self.0.get(id).await?;
        Ok(self.0.ledger.events_of(id, after_revision, limit).await?)
    }

    /// Follows the ledger after `sequence`: history and then what comes, without a gap. Ends with
    /// [`EngineError::Draining`].
    ///
    /// # Errors
    /// [`EngineError::TooManyFeeds`], [`EngineError::BeyondLastEvent`]
    pub fn feed(&self, after_sequence: u64) -> Result<EventStream, EngineError> {
        EventStream::open(&self.0, after_sequence)
    }

    /// All accounts with their health.
    pub fn accounts(&self) -> Vec<(Arc<Account>, AccountHealth)> {
        self.0.lanes.values().map(|lane| (lane.account.clone(), lane.health())).collect()
    }

    /// In which of [`crate::telemetry::metrics::BREAKER_STATES`] each account's circuit is.
    pub fn circuits(&self) -> Vec<(AccountName, &'static str)> {
        let position = |lane: &Arc<AccountRuntime>| (lane.account.name.clone(), lane.position());
        self.0.lanes.values().map(position).collect()
    }

    /// An account logs in with a new secret from now on. If the previous one was refused, the
    /// account is tried again at once.
    pub fn credentials_changed(&self, account: &AccountName) {
        if let Some(lane) = self.0.lanes.get(account) {
            lane.credentials_changed();
        }
    }

    /// Readers of the event feed at present.
    pub fn feed_count(&self) -> usize {
        self.0.settings.max_feeds.saturating_sub(self.0.feeds.available_permits())
    }

    /// The account's retry contract says whether a second send is safe for a refund now; false for
    /// accounts no longer configured.
    pub fn resend_safe(&self, refund: &Refund) -> bool {
        self.0.configured_account(refund).is_ok_and(|lane| self.0.may_resend(lane, refund))
    }

    /// Takes nothing new, ends the feeds, and waits for what is on the wire, at most `limit` long.
    ///
    /// What is still on its way then stays DISPATCHING on disk; the next start shows its doubt.
    pub async fn drain(&self, limit: Duration) {
        self.0.draining.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(limit, self.0.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.0.tasks.len(),
                "work is still on its way at the end of the drain; the next start shows its doubt"
            );
        }
    }

    /// Runs what a caller asked for to its end, though the caller may leave.
    async fn run_detached(
        &self,
        errand: impl Future<Output = Result<Refund, EngineError>> + Send + 'static,
    ) -> Result<Refund, EngineError> {
        let place =
            self.0.detached_operations.clone().try_acquire_owned().map_err(|_| EngineError::TooManyOperations)?;
        let work = async move {
            let _place = place;
            errand.await
        };
        self.spawn(work).await.map_err(|_| EngineError::Panicked)?
    }

    /// Runs work that must go on whoever stops listening, and that the drain waits for.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.0.tasks.spawn(work.in_current_span())
    }
}

impl EngineCore {
    /// One commit: the refund, its reservation, and its first attempt where a slot is free.
    async fn create_refund_detached(
        self: Arc<Self>,
        command: CreateCommand,
        claim: Ticket,
    ) -> Result<CreateResult, EngineError> {
        // Before everything that may refuse the call: what is on disk is told, whatever else is the
        // matter.
        if let Some(known) = self.known(&command.intent).await? {
            return Ok(CreateResult { refund: known, replayed: true });
        }
        if self.draining.is_cancelled() {
            return Err(EngineError::Draining);
        }
        let lane = self.account_for(&command.intent)?.clone();
        let era = lane.era();
        let slot = lane.try_acquire_for_new();
        let create = self.create_of(&lane, command, slot.is_some(), claim);
        match self.ledger.create(create).instrument(debug_span!("commit", step = "create")).await? {
            CreateOutcome::Known(refund) => Ok(CreateResult { refund, replayed: true }),
            CreateOutcome::New(refund) => {
                info!(refund = %refund.id(), account = %lane.account.name, "refund recorded");
                match slot {
                    Some(slot) => step::spawn_attempt(&self, &lane, refund.clone(), slot, era),
                    None => {
                        lane.backlog.store(true, Ordering::Release);
                        lane.bell.notify_one();
                    }
                }
                Ok(CreateResult { refund, replayed: false })
            }
        }
    }

    async fn cancel_detached(&self, id: &RefundId, etag: Option<&str>, actor: &str) -> Result<Refund, EngineError> {
        loop {
            let refund = self.get(id).await?;
            if refund.state == State::Cancelled {
                return Ok(refund);
            }
            if etag.is_some_and(|etag| etag != refund.etag()) {
                return Err(EngineError::EtagMismatch { present: refund.etag() });
            }
            match self.record(&refund, vec![Event::Cancelled], None, actor).await {
                Ok(cancelled) => return Ok(cancelled),
                // It changed under our hands; look again whether it may still be withdrawn.
                Err(LedgerError::StaleRevision { .. }) => {}
                Err(LedgerError::IllegalTransition(refused)) => return Err(EngineError::NotCancellable(refused.from)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the provider itself would keep a second send from a second effect now.
    fn may_resend(&self, lane: &AccountRuntime, refund: &Refund) -> bool {
        self.rules(lane, refund).may_resend(refund, self.clock.now())
    }

    /// The rules for decisions on a refund of this account.
    fn rules<'a>(&'a self, lane: &'a AccountRuntime, refund: &Refund) -> RetryRules<'a> {
        let EngineSettings { schedule, backoff, rejection_follow_up: follow_up, .. } = &self.settings;
        let age_is_known = refund.dispatch_time.is_some_and(|first| first >= self.keys_trusted_from);
        RetryRules {
            contract: &lane.account.contract,
            schedule,
            backoff: *backoff,
            key_is_bound: age_is_known && refund.credential == lane.account.adapter.credential(refund.id()),
            follow_up: *follow_up,
        }
    }

    /// The account that a refund is sent from and looked up at.
    ///
    /// # Errors
    /// [`EngineError::AccountChanged`] if that account is gone or at another place, where nothing
    /// is known of the refund.
    fn configured_account(&self, refund: &Refund) -> Result<&Arc<AccountRuntime>, EngineError> {
        let gone = || EngineError::AccountChanged { differing: vec!["account"] };
        let lane = self.lanes.get(&refund.account).ok_or_else(gone)?;
        let differing = lane.account.differing_fields(refund);
        if differing.is_empty() { Ok(lane) } else { Err(EngineError::AccountChanged { differing }) }
    }

    fn create_of(&self, lane: &AccountRuntime, command: CreateCommand, dispatch: bool, claim: Ticket) -> NewRefund {
        NewRefund {
            dispatch: dispatch
                .then(|| FirstAttempt { credential: lane.account.adapter.credential(&command.intent.id) }),
            intent: command.intent,
            place: lane.account.place.clone(),
            related: lane.related.clone(),
            allow_similar: command.allow_similar,
            actor: command.actor,
            now: self.clock.now(),
            ticket: claim,
            trace_parent: traces::current().or(command.trace_parent),
        }
    }

    /// Which lane an intent belongs to, if the configuration allows the intent at all.
    fn account_for(&self, intent: &Intent) -> Result<&Arc<AccountRuntime>, EngineError> {
        let lane =
            self.lanes.get(&intent.account).ok_or_else(|| EngineError::AccountNotFound(intent.account.clone()))?;
        let (of, target) = (lane.account.provider, intent.target.provider());
        if of != target {
            return Err(EngineError::AccountMismatch { account: intent.account.clone(), of, target });
        }
        match &intent.target {
            Target::Debitsuccess(target) if target.amount().currency != lane.account.place.currency => {
                let right = format!("must be the account's currency, {}", lane.account.place.currency);
                Err(EngineError::Invalid(vec![FieldViolation::new("debitsuccess.amount.currency_code", right)]))
            }
            _ => Ok(lane),
        }
    }

    /// The refund that a request is a repetition of. It is answered without a turn of the writer,
    /// and even when the configuration would refuse it by now: its account has left, or its
    /// currency changed. A ledger that has stopped is asked too, for an error would say that
    /// nothing was recorded; but not one that does not verify: whoever writes says why.
    async fn known(&self, intent: &Intent) -> Result<Option<Refund>, EngineError> {
        if matches!(*self.ledger.health().borrow(), Health::Corrupt(_)) && self.account_for(intent).is_ok() {
            return Ok(None);
        }
        let Some(refund) = self.ledger.get(&intent.id).await? else { return Ok(None) };
        Ok(Some(ledger::match_existing(refund, intent)?))
    }

    async fn get(&self, id: &RefundId) -> Result<Refund, EngineError> {
        Ok(self.ledger.get(id).await?.ok_or_else(|| LedgerError::NotFound(id.clone()))?)
    }

    /// Waits for an outcome: until the refund has left PENDING and DISPATCHING, or cannot do so
    /// before `until`, or its account is shut: nobody knows for how long, and callers who wait for
    /// one provider must not keep others out.
    ///
    /// Where the ledger cannot be read, what the caller has is what it gets: the refund is on disk.
    async fn wait_for_outcome(&self, refund: Refund, mut waiter: Waiter, until: Instant) -> Refund {
        let done = |refund: &Refund| match refund.state {
            State::Dispatching => false,
            State::Pending => {
                let waits_longer =
                    |at: Timestamp| Instant::now() + at.saturating_duration_since(self.clock.now()) > until;
                // A missing or changed account holds it up like a suspended one.
                let is_open = self.configured_account(refund).map_or(true, |lane| lane.is_open());
                is_open || self.draining.is_cancelled() || refund.not_before.is_some_and(waits_longer)
            }
            _ => true,
        };
        if done(&refund) || Instant::now() >= until {
            return refund;
        }
        let mut wait = async || {
            tokio::select! {
                biased;
                seen = waiter.until(refund.clone(), until, done) => seen,
                () = self.ledger_stopped() => self.get(refund.id()).await.unwrap_or_else(|_| refund.clone()),
            }
        };
        tokio::select! {
            biased;
            seen = wait() => seen,
            // What is PENDING now stays so until the next start; what is on the wire has the
            // drain's time.
            () = self.draining.cancelled() => wait().await,
        }
    }

    /// Returns when the ledger writes no more: from then on nothing changes before the next start.
    async fn ledger_stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Records events and tells whoever waits. A full queue is waited for: what has happened must
    /// not be lost for want of room.
    async fn record(
        &self,
        refund: &Refund,
        events: Vec<Event>,
        next_check: Option<Timestamp>,
        actor: &str,
    ) -> Result<Refund, LedgerError> {
        let mut pause = Duration::from_millis(1);
        loop {
            let record = RecordEvents {
                id: refund.id().clone(),
                revision: refund.revision,
                events: events.clone(),
                next_check,
                actor: actor.to_owned(),
                now: self.clock.now(),
            };
            match self.ledger.record(record).instrument(debug_span!("commit", step = "record")).await {
                Err(LedgerError::Overloaded) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Ok(recorded) => {
                    self.measure(refund, &recorded);
                    self.waiters.tell(&recorded);
                    return Ok(recorded);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl EngineCore {
    /// Sets when a refund is looked up next, after a lookup that showed nothing new.
    async fn reschedule(
        &self,
        refund: &Refund,
        next_check: Option<Timestamp>,
        unheard: bool,
    ) -> Result<Refund, LedgerError> {
        let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check, unheard };
        loop {
            match self.ledger.reschedule(reschedule.clone()).await {
                Err(LedgerError::Overloaded) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    }

    /// How long it was not known what became of a refund: since its doubt began, or since it was
    /// first sent where it was sent again. Counts a correction too.
    fn measure(&self, before: &Refund, after: &Refund) {
        let Some(lane) = self.lanes.get(&before.account) else { return };
        if after.corrected_time != before.corrected_time {
            lane.account.meter.corrected();
        }
        let is_open = matches!(after.state, State::Pending | State::Dispatching | State::InDoubt | State::NeedsReview);
        let begin = before.doubt.as_ref().map(|doubt| doubt.since).or(before.dispatch_time);
        if before.unanswered_attempts > 0
            && !is_open
            && let Some(begin) = begin
        {
            lane.account.meter.cleared(after.state, after.update_time.saturating_duration_since(begin));
        }
    }
}

async fn cancel_on_ledger_failure(mut health: watch::Receiver<Health>, stopped: CancellationToken) {
    // An error means that the ledger itself is gone, which comes to the same.
    drop(health.wait_for(|health| *health != Health::Writing).await);
    stopped.cancel();
}

/// So that the log of a refund shows its doubt. `before` is the last event before they were taken
/// up; of very many the first are named, and the others found by ListRefunds.
async fn log_interrupted(shared: &EngineCore, before: u64) -> Result<(), LedgerError> {
    for event in shared.ledger.events_after(before, INTERRUPTED_NAMED).await? {
        let Some(refund) = shared.ledger.get(&event.refund).await? else { continue };
        let state = refund.state.as_str();
        let span = step::span_about(shared, &refund).await;
        span.in_scope(|| warn!(state, "the attempt was on its way when the gateway last stopped"));
    }
    Ok(())
}

/// A line for each of so many at the most.
const INTERRUPTED_NAMED: u32 = 100;

#[cfg(test)]
mod tests;
