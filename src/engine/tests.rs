//! Races, made repeatable by a ledger and a provider that are held at the decisive moment.

mod approving;
mod driving;
mod logged;
mod moved;
mod paused;
mod permission;
mod reconciling;
mod resent;
mod resolved;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tracing::Level;

use super::account::AccountRuntime;
use super::circuit_breaker::CircuitBreakerSettings;
use super::core::MAX_DETACHED_OPERATIONS;
use super::decide::{Backoff, Schedule};
use super::*;
use crate::domain::authority::{Actor, Authority};
use crate::domain::clock::ManualClock;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::event::{Decided, Event, Resolution};
use crate::domain::ids::ProviderKind;
use crate::domain::money::Currency;
use crate::domain::outcome::{
    AccountSignal, AttemptReport, Confirmation, DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError,
};
use crate::domain::place::{Destination, Place};
use crate::domain::refund::Intent;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, FieldViolation, SectigoTarget, Target};
use crate::ledger::sqlite::{SqliteLedger, SqliteSettings};
use crate::ledger::{
    AccountPause, CreateOutcome, DueKind, DueQuery, FirstAttempt, Health, NewPause, NewRefund, OpenRefunds, Reassign,
    RecordEvents, Recorded, RelatedLogins, Reschedule, Ticket,
};
use crate::providers::Account;
use crate::providers::testing::log_capture::LogCapture;
use crate::telemetry::metrics::AccountMeter;

pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// Exceeded only if something hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// A ledger whose answers can be held back after the commit.
struct HeldLedger {
    inner: SqliteLedger,
    /// Answers to `record` are held back while this is true.
    holding: watch::Sender<bool>,
    /// How many answers have been held back.
    held: watch::Sender<usize>,
    /// How many further calls of `hasten` find the queue full.
    full: Mutex<usize>,
    /// How many further calls of `hasten` make nothing due and say that there is more.
    unfinished: Mutex<usize>,
    /// How many further queries of what is due to be sent fail.
    failing_dispatch_queries: Mutex<usize>,
    /// How many further calls of `reassign` find the queue full.
    full_for_moves: Mutex<usize>,
    /// How many of the oldest PENDING refunds each query of them has skipped.
    expiry_skips: Mutex<Vec<u32>>,
    /// How many queries of due lookups have been answered.
    lookup_queries: watch::Sender<usize>,
    /// How many queries of the time of the next lookup have been answered.
    next_lookup_queries: watch::Sender<usize>,
    /// How many queries of the time of the next dispatch have been answered.
    next_dispatch_queries: watch::Sender<usize>,
}

/// A provider that refunds everything, and answers lookups one by one with prepared answers.
#[derive(Default)]
struct ScriptedProvider {
    lookups: Mutex<VecDeque<oneshot::Receiver<Lookup>>>,
    asked: watch::Sender<usize>,
    /// When it was called for a refund or a lookup.
    calls: Mutex<Vec<Instant>>,
    /// The answers to `credential`, one for each call; the last one is repeated.
    credentials: Mutex<VecDeque<String>>,
    /// The refunds that were looked up, in this order.
    looked_up: Mutex<Vec<RefundId>>,
    /// Prepared answers to the next attempts; without one it refunds.
    outcomes: Mutex<VecDeque<oneshot::Receiver<Outcome>>>,
}

struct Bench {
    _directory: TempDir,
    ledger: Arc<HeldLedger>,
    provider: Arc<ScriptedProvider>,
    clock: Arc<ManualClock>,
    /// How long a rejection is looked up.
    follow_up: Duration,
    reconcile_interval: Duration,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inner = SqliteLedger::open(&directory.path().join("ledger.db"), SqliteSettings::default()).unwrap();
        let ledger = HeldLedger {
            inner,
            holding: watch::Sender::new(false),
            held: watch::Sender::new(0),
            full: Mutex::new(0),
            unfinished: Mutex::new(0),
            failing_dispatch_queries: Mutex::new(0),
            full_for_moves: Mutex::new(0),
            expiry_skips: Mutex::default(),
            lookup_queries: watch::Sender::new(0),
            next_lookup_queries: watch::Sender::new(0),
            next_dispatch_queries: watch::Sender::new(0),
        };
        let clock = Arc::new(ManualClock::new(NOW));
        let (ledger, follow_up) = (Arc::new(ledger), Duration::from_secs(7 * 86_400));
        let reconcile_interval = Duration::ZERO;
        Self { _directory: directory, ledger, provider: Arc::default(), clock, follow_up, reconcile_interval }
    }

    async fn engine(&self) -> Engine {
        self.engine_for(ProviderKind::Sectigo, Currency::USD).await
    }

    async fn engine_for(&self, provider: ProviderKind, currency: Currency) -> Engine {
        self.engine_with(provider, currency, |_| {}).await
    }

    /// As [`Bench::engine_for`], with a changed account.
    async fn engine_with(
        &self,
        provider: ProviderKind,
        currency: Currency,
        change: impl FnOnce(&mut Account),
    ) -> Engine {
        let mut account = self.account(provider, currency);
        change(&mut account);
        self.start([account]).await.unwrap()
    }

    /// The account at [`place`].
    fn account(&self, provider: ProviderKind, currency: Currency) -> Account {
        Account {
            name: AccountName::parse("main").unwrap(),
            provider,
            place: Place { currency, ..place() },
            former: Vec::new(),
            secret: crate::providers::secret::Secret::new("s3cret".into()),
            contract: RetryContract {
                deduplication: Deduplication::None,
                lookup: LookupKind::TargetState,
                settle_time: Duration::from_secs(60),
            },
            max_in_flight: 4,
            requests_per_second: 0,
            requests_per_hour: 0,
            pending_limit: Duration::from_secs(86_400),
            total_timeout: Duration::from_secs(60),
            refunds: self.provider.clone(),
            validation: None,
            metrics: AccountMeter::off(),
        }
    }

    async fn start<const N: usize>(&self, accounts: [Account; N]) -> Result<Engine, LedgerError> {
        let settings = EngineSettings {
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) },
            schedule: Schedule { first: vec![Duration::from_secs(10)], then_every: Duration::from_secs(86_400) },
            circuit: CircuitBreakerSettings {
                failure_threshold: 5,
                foreign_target_threshold: 5,
                open_min: Duration::from_secs(5),
                open_max: Duration::from_secs(300),
            },
            rejection_follow_up: self.follow_up,
            reconcile_interval: self.reconcile_interval,
            max_event_streams: 4,
        };
        let accounts = Arc::new(Accounts::new(accounts));
        Engine::start(self.ledger.clone(), accounts, self.clock.clone(), settings).await
    }

    /// A refund on disk after these events.
    async fn refund(&self, intent: Intent, events: &[Event]) -> Refund {
        self.traced_refund(intent, events, None).await
    }

    /// As [`Bench::refund`], recorded in the trace that its caller named.
    async fn traced_refund(&self, intent: Intent, events: &[Event], trace_parent: Option<String>) -> Refund {
        let create = NewRefund {
            intent,
            place: place(),
            related: RelatedLogins::default(),
            dispatch: None,
            allow_similar: false,
            by: Authority::unrestricted(),
            now: NOW,
            ticket: Ticket::default(),
            trace_parent,
        };
        let CreateOutcome::New(refund) = self.ledger.inner.create(create).await.unwrap().outcome else {
            panic!("known")
        };
        let record = RecordEvents {
            id: refund.id().clone(),
            revision: refund.revision,
            events: events.to_vec(),
            next_check: Some(NOW.saturating_add(Duration::from_secs(10))),
            actor: Actor::gateway(),
            now: NOW,
        };
        self.ledger.inner.record(record).await.unwrap().outcome
    }

    /// The sender of the answer to the next attempt that has no prepared answer yet.
    fn next_outcome(&self) -> oneshot::Sender<Outcome> {
        let (answer, receiver) = oneshot::channel();
        self.provider.outcomes.lock().unwrap().push_back(receiver);
        answer
    }

    /// The sender of the answer to the next lookup that has no prepared answer yet.
    fn next_lookup(&self) -> oneshot::Sender<Lookup> {
        let (answer, receiver) = oneshot::channel();
        self.provider.lookups.lock().unwrap().push_back(receiver);
        answer
    }
}

/// The run-time state of the engine's account.
fn only_account(engine: &Engine) -> Arc<AccountRuntime> {
    engine.0.accounts.values().next().unwrap().clone()
}

/// Records what the answer to an attempt says about the account. Returns whether that has opened
/// the circuit breaker.
fn record_signal(account: &AccountRuntime, signal: AccountSignal) -> bool {
    account.record_result(account.generation(), signal, &Refund::new(sectigo("r"), place(), NOW))
}

/// Waits until `holds` returns true.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) fn place() -> Place {
    Place { endpoint: "https://provider.example".to_owned(), login: "login".to_owned(), currency: Currency::USD }
}

pub(super) fn sectigo(id: &str) -> Intent {
    intent(id, Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap()))
}

fn intent(id: &str, target: Target) -> Intent {
    Intent {
        id: RefundId::parse(id).unwrap(),
        account: AccountName::parse("main").unwrap(),
        target,
        labels: BTreeMap::new(),
        expected_amount: None,
    }
}

fn backed_off() -> [Event; 2] {
    let error = ProviderError {
        code: "-42".to_owned(),
        message: "later".to_owned(),
        http_status: 200,
        category: ErrorCategory::LimitReached,
    };
    [
        Event::Dispatched { credential: None },
        Event::NotSent { error, retry_at: NOW.saturating_add(Duration::from_secs(3600)) },
    ]
}

fn doubted() -> [Event; 2] {
    [
        Event::Dispatched { credential: None },
        Event::Doubted {
            reason: DoubtReason::Timeout,
            evidence: "no answer".to_owned(),
            error: None,
            not_processed: false,
        },
    ]
}

/// What this thread logs from now on.
pub(super) struct Log {
    capture: LogCapture,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub(super) fn begin() -> Self {
        Self::begin_at(Level::INFO)
    }

    /// With lines down to this level.
    pub(super) fn begin_at(level: Level) -> Self {
        let capture = LogCapture::default();
        let writer = capture.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { capture, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that contain `text`.
    pub(super) fn lines_with(&self, text: &str) -> Vec<String> {
        self.capture.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

/// Takes one off `count`. False if nothing is left.
fn takes_one(count: &Mutex<usize>) -> bool {
    let mut count = count.lock().unwrap();
    let left = count.checked_sub(1);
    *count = left.unwrap_or(0);
    left.is_some()
}

async fn reaches(count: &watch::Sender<usize>, wanted: usize) {
    let mut count = count.subscribe();
    tokio::time::timeout(LIMIT, count.wait_for(|count| *count >= wanted)).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_attempt_on_disk_is_sent_even_if_the_drain_begins() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &[]).await;
    bench.ledger.holding.send_replace(true);
    let engine = bench.engine().await;
    reaches(&bench.ledger.held, 1).await;
    let draining = engine.clone();
    let drain = tokio::spawn(async move { draining.drain(LIMIT).await });
    engine.0.draining.cancelled().await;
    tokio::task::yield_now().await;
    bench.ledger.holding.send_replace(false);
    drain.await.unwrap();
    let after = engine.get(refund.id()).await.unwrap();
    assert_eq!(
        after.state,
        State::Succeeded,
        "not left DISPATCHING, to be in doubt for no reason after the next start"
    );
}

#[tokio::test]
async fn waiters_are_notified_of_a_cancellation_whose_caller_has_left() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &backed_off()).await;
    let engine = bench.engine().await;
    let (waiting, id, revision) = (engine.clone(), refund.id().clone(), refund.revision);
    let waiter =
        tokio::spawn(async move { waiting.wait(&id, revision, Instant::now() + Duration::from_secs(5)).await });
    bench.ledger.holding.send_replace(true);
    {
        let cancel = engine.cancel(refund.id(), None, Authority::unrestricted());
        tokio::select! {
            cancelled = cancel => panic!("{cancelled:?}"),
            () = reaches(&bench.ledger.held, 1) => {}
        }
    }
    bench.ledger.holding.send_replace(false);
    assert_eq!(waiter.await.unwrap().unwrap().state, State::Cancelled);
}

#[tokio::test]
async fn a_lookup_that_found_the_refund_is_not_lost_to_one_that_found_nothing() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let (nothing, found) = (bench.next_lookup(), bench.next_lookup());
    let mut lookups = Vec::new();
    for asked in 1..=2 {
        let (engine, id) = (engine.clone(), refund.id().clone());
        lookups.push(tokio::spawn(async move { engine.reconcile(&id, Authority::unrestricted()).await.unwrap() }));
        reaches(&bench.provider.asked, asked).await;
    }
    let second = lookups.pop().unwrap();
    let first = lookups.pop().unwrap();
    nothing.send(Lookup::not_found("Processed")).unwrap();
    assert_eq!(first.await.unwrap().state, State::InDoubt);
    found.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    assert_eq!(second.await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn operations_of_callers_that_left_are_bounded() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let answers: Vec<_> = (0..MAX_DETACHED_OPERATIONS).map(|_| bench.next_lookup()).collect();
    for _ in 0..MAX_DETACHED_OPERATIONS {
        let mut lookup = Box::pin(engine.reconcile(refund.id(), Authority::unrestricted()));
        assert!(futures_util::poll!(&mut lookup).is_pending());
    }
    assert_eq!(engine.reconcile(refund.id(), Authority::unrestricted()).await, Err(EngineError::TooManyOperations));
    assert_eq!(engine.cancel(refund.id(), None, Authority::unrestricted()).await, Err(EngineError::TooManyOperations));
    drop(answers);
}

#[tokio::test]
async fn a_refund_that_the_configuration_no_longer_allows_is_still_found() {
    let bench = Bench::new();
    let fields = DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("AUD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    };
    let requested = intent("r", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()));
    let refund = bench.refund(requested.clone(), &doubted()).await;
    let other = Intent { id: RefundId::parse("new").unwrap(), ..requested.clone() };
    let currency = EngineError::Invalid(vec![FieldViolation::new("amount", "must be in NZD")]);
    let (of, target) = (ProviderKind::Sectigo, ProviderKind::Debitsuccess);
    let mismatch = EngineError::AccountMismatch { account: requested.account.clone(), of, target };
    for (provider, currency, refusal) in [(target, "NZD", currency), (of, "AUD", mismatch)] {
        let engine = bench.engine_for(provider, Currency::parse(currency).unwrap()).await;
        let command = |intent: Intent| CreateCommand {
            intent,
            allow_similar: false,
            by: Authority::unrestricted(),
            answer_by: Instant::now() + LIMIT,
            wait_until: Instant::now(),
            trace_parent: None,
        };
        for answer in
            [engine.create(command(requested.clone())).await, engine.dry_run(command(requested.clone())).await]
        {
            let known = answer.unwrap();
            assert_eq!((known.refund, known.replayed), (refund.clone(), true));
        }
        for answer in [engine.create(command(other.clone())).await, engine.dry_run(command(other.clone())).await] {
            assert_eq!(answer.unwrap_err(), refusal);
        }
    }
}

/// Reads a stream up to the event with this number, and checks that there is no gap.
async fn read_until(stream: &mut EventStream, last: u64) -> Vec<Arc<SharedEvent>> {
    let mut seen: Vec<Arc<SharedEvent>> = Vec::new();
    while seen.last().is_none_or(|event| event.record.sequence < last) {
        let more = tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap();
        assert!(!more.is_empty());
        seen.extend(more);
    }
    assert!(seen.is_sorted_by(|one, next| one.record.sequence + 1 == next.record.sequence), "no gap, no duplicate");
    seen
}

#[tokio::test]
async fn event_streams_share_new_events_and_miss_none() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    // Two events each. They are DISPATCHING, so the engine does not touch them.
    let refunds = async |numbers: std::ops::Range<u32>| {
        let creates = numbers.map(|number| {
            let target = Target::Sectigo(SectigoTarget::new(&(number + 1).to_string(), 11).unwrap());
            bench.ledger.inner.create(NewRefund {
                intent: intent(&format!("r{number}"), target),
                place: place(),
                related: RelatedLogins::default(),
                dispatch: Some(FirstAttempt { credential: None }),
                allow_similar: false,
                by: Authority::unrestricted(),
                now: NOW,
                ticket: Ticket::default(),
                trace_parent: None,
            })
        });
        futures_util::future::try_join_all(creates).await.unwrap();
    };
    let mut streams =
        [engine.stream_events(0).unwrap(), engine.stream_events(0).unwrap(), engine.stream_events(0).unwrap()];
    let [one, two, behind] = &mut streams;
    // More than the buffer holds a page of.
    let ((), of_one, of_two) =
        futures_util::future::join3(refunds(0..600), read_until(one, 1_200), read_until(two, 1_200)).await;
    assert_eq!((of_one.len(), of_two.len()), (1_200, 1_200));
    assert_eq!(read_until(behind, 1_200).await.len(), 1_200, "what the buffer no longer holds comes from the ledger");

    let next = async { futures_util::future::join(read_until(one, 1_202), read_until(two, 1_202)).await };
    let ((), (of_one, of_two)) = futures_util::future::join(refunds(600..601), next).await;
    assert!(of_one.iter().zip(&of_two).all(|(one, two)| Arc::ptr_eq(one, two)), "read once for both");
    assert_eq!(read_until(&mut engine.stream_events(1_201).unwrap(), 1_202).await.len(), 1, "from any event on");

    drop(streams);
    refunds(601..602).await;
    assert_eq!(
        read_until(&mut engine.stream_events(1_200).unwrap(), 1_204).await.len(),
        4,
        "also what was committed while no stream was open"
    );
}

/// The second probe waits for five seconds after the first.
#[tokio::test]
async fn a_waiting_probe_ends_with_the_drain() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let account = AccountName::parse("main").unwrap();
    let by = Authority::unrestricted();
    assert!(engine.probe(&by, &account).await.is_ok());
    let (waiting, ()) = futures_util::future::join(engine.probe(&by, &account), engine.drain(LIMIT)).await;
    assert_eq!(waiting.err(), Some(EngineError::Draining));
    assert_eq!(engine.probe(&by, &account).await.err(), Some(EngineError::Draining));
}

#[async_trait]
impl crate::providers::RefundProvider for ScriptedProvider {
    async fn refund(&self, _intent: &Intent, _credential: Option<&str>) -> AttemptReport {
        self.calls.lock().unwrap().push(Instant::now());
        let outcome = self.outcomes.lock().unwrap().pop_front();
        let outcome = match outcome {
            Some(outcome) => outcome.await.unwrap(),
            None => Outcome::Refunded(Confirmation::default()),
        };
        outcome.into()
    }

    async fn lookup(&self, refund: &Refund, _turns: &dyn crate::providers::RequestLimiter) -> Lookup {
        self.calls.lock().unwrap().push(Instant::now());
        self.looked_up.lock().unwrap().push(refund.id().clone());
        let answer = self.lookups.lock().unwrap().pop_front().unwrap();
        self.asked.send_modify(|asked| *asked += 1);
        answer.await.unwrap()
    }

    fn check_target(&self, target: &Target, currency: Currency) -> Result<(), FieldViolation> {
        let is_another = target.requested_amount().is_some_and(|amount| amount.currency != currency);
        let violation = || FieldViolation::new("amount", format!("must be in {currency}"));
        if is_another { Err(violation()) } else { Ok(()) }
    }

    fn credential(&self, _refund: &RefundId) -> Option<String> {
        let mut credentials = self.credentials.lock().unwrap();
        if credentials.len() > 1 { credentials.pop_front() } else { credentials.front().cloned() }
    }

    async fn probe(&self, turns: &dyn crate::providers::RequestLimiter) -> ProbeReport {
        turns.acquire().await;
        ProbeReport::unreached("this provider answers no probe")
    }
}

#[async_trait]
impl Ledger for HeldLedger {
    async fn create(&self, create: NewRefund) -> Result<Recorded<CreateOutcome>, LedgerError> {
        self.inner.create(create).await
    }

    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        self.inner.dry_run(create).await
    }

    async fn record(&self, record: RecordEvents) -> Result<Recorded<Refund>, LedgerError> {
        let recorded = self.inner.record(record).await;
        if *self.holding.borrow() {
            self.held.send_modify(|held| *held += 1);
            self.holding.subscribe().wait_for(|holding| !holding).await.unwrap();
        }
        recorded
    }

    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError> {
        self.inner.mark_interrupted(now).await
    }

    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, LedgerError> {
        self.inner.list(query).await
    }

    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events_of(id, after_revision, limit).await
    }

    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events_after(sequence, limit).await
    }

    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError> {
        if takes_one(&self.full_for_moves) {
            return Err(LedgerError::Overloaded);
        }
        self.inner.reassign(reassign).await
    }

    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError> {
        self.inner.reschedule(reschedule).await
    }

    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError> {
        if takes_one(&self.full) {
            return Err(LedgerError::Overloaded);
        }
        if takes_one(&self.unfinished) {
            return Ok(1);
        }
        self.inner.hasten(at, now).await
    }

    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.inner.note_places(configured, now).await
    }

    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.inner.open_refunds().await
    }

    async fn open_states(&self) -> Result<Vec<(AccountName, State, u64)>, LedgerError> {
        self.inner.open_states().await
    }

    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        self.inner.standstills(at).await
    }

    async fn pause(&self, pause: NewPause) -> Result<AccountPause, LedgerError> {
        self.inner.pause(pause).await
    }

    async fn resume(&self, account: &AccountName, actor: &Actor, now: Timestamp) -> Result<(), LedgerError> {
        self.inner.resume(account, actor, now).await
    }

    async fn pauses(&self) -> Result<Vec<AccountPause>, LedgerError> {
        self.inner.pauses().await
    }

    async fn open_at(
        &self,
        at: &Destination,
        after_ordinal: u64,
        limit: u32,
    ) -> Result<Vec<ListedRefund>, LedgerError> {
        self.inner.open_at(at, after_ordinal, limit).await
    }

    async fn due(&self, query: DueQuery) -> Result<Vec<Refund>, LedgerError> {
        match query.kind {
            DueKind::Dispatch if takes_one(&self.failing_dispatch_queries) => return Err(LedgerError::Overloaded),
            DueKind::Expiry => self.expiry_skips.lock().unwrap().push(query.skip),
            DueKind::Dispatch | DueKind::Lookup => {}
        }
        let kind = query.kind;
        let due = self.inner.due(query).await;
        if kind == DueKind::Lookup {
            self.lookup_queries.send_modify(|count| *count += 1);
        }
        due
    }

    async fn next_due(&self, kind: DueKind, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        let next = self.inner.next_due(kind, at).await;
        match kind {
            DueKind::Dispatch => self.next_dispatch_queries.send_modify(|count| *count += 1),
            DueKind::Lookup => self.next_lookup_queries.send_modify(|count| *count += 1),
            DueKind::Expiry => {}
        }
        next
    }

    async fn unapproved(&self, at: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        self.inner.unapproved(at, limit).await
    }

    async fn next_approval_expiry(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.inner.next_approval_expiry().await
    }

    async fn entered_state_at(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError> {
        self.inner.entered_state_at(id, state).await
    }

    async fn trace_parent_of(&self, id: &RefundId) -> Result<Option<String>, LedgerError> {
        self.inner.trace_parent_of(id).await
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.inner.committed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }
}

#[tokio::test]
async fn a_failed_refund_with_a_later_refund_of_its_target_is_looked_up_only_for_the_follow_up_time() {
    let bench = Bench::new();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let [dispatched, doubted] = doubted();
    let escalated = Event::Escalated { evidence: "no trace".to_owned(), foreign_record: false };
    let not_refunded = Event::Resolved(Decided {
        follow_until: Some(NOW.saturating_add(days(7))),
        ..Decided::new(Resolution::NotRefunded, "ticket")
    });
    let refund = bench.refund(sectigo("first"), &[dispatched, doubted, escalated, not_refunded]).await;
    bench.refund(sectigo("later"), &[]).await;
    bench.clock.advance(days(6) + Duration::from_secs(60));
    bench.next_lookup().send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    let engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    let recorded = async {
        loop {
            let now = engine.get(refund.id()).await.unwrap();
            if now.next_check != refund.next_check {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let after = tokio::time::timeout(LIMIT, recorded).await.unwrap();
    assert_eq!((after.state, after.corrected_time), (State::Failed, None), "the order may show the later refund");
    assert_eq!(after.next_check, None, "the next lookup would be after the follow-up time");
}
