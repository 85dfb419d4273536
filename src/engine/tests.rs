//! Races that only a held ledger or a held provider shows: each stands still at the moment that matters.

mod driving;
mod going_on;
mod logged;
mod moved;
mod resent;
mod resolved;
mod turns;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::event::{Decided, Resolution};
use crate::domain::ids::Provider;
use crate::domain::money::Currency;
use crate::domain::outcome::{Confirmation, DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError};
use crate::domain::place::{Destination, Place};
use crate::domain::probe::ProbeReport;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, SectigoTarget};
use crate::ledger::sqlite::{SqliteLedger, SqliteSettings};
use crate::ledger::{GATEWAY, Health, OpenRefunds, Reassign, RelatedLogins};
use crate::telemetry::metrics::AccountMeter;

pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// A ledger that can stand still between a commit and its answer.
struct HeldLedger {
    inner: SqliteLedger,
    /// Answers to `record` wait while it says so.
    holding: watch::Sender<bool>,
    /// How many have been held.
    held: watch::Sender<usize>,
    /// How many times its queue is still full for what makes lookups due.
    full: Mutex<usize>,
    /// How many times it makes none of the lookups due, and says that there are more.
    begun: Mutex<usize>,
    /// How many times it cannot be asked for what is due.
    mute: Mutex<usize>,
    /// How many times its queue is still full for a refund that is to be moved.
    closed: Mutex<usize>,
    /// How many of the oldest were skipped in each read of what waits to be sent.
    skipped: Mutex<Vec<u32>>,
    /// How many times it has said what is to be looked up.
    found: watch::Sender<usize>,
    /// How many times it has said when the next lookup is due.
    asked: watch::Sender<usize>,
    /// How many times it has said when the next refund is to be sent.
    asked_to_send: watch::Sender<usize>,
}

/// A provider that says yes to every refund, and whose looks are answered one by one, as they are told to be.
#[derive(Default)]
struct Told {
    lookups: Mutex<VecDeque<oneshot::Receiver<Lookup>>>,
    asked: watch::Sender<usize>,
    /// When it was asked for a refund or for a look.
    calls: Mutex<Vec<Instant>>,
    /// The digests of what it logs in with, one for each time that it is asked for it. The last one
    /// stays.
    credentials: Mutex<VecDeque<String>>,
    /// The refunds that it was asked for, in this order.
    looked_up: Mutex<Vec<RefundId>>,
    /// Answers to the next refunds, when they are there. Without one it says yes.
    outcomes: Mutex<VecDeque<oneshot::Receiver<Outcome>>>,
}

struct Bench {
    _directory: TempDir,
    ledger: Arc<HeldLedger>,
    provider: Arc<Told>,
    clock: Arc<ManualClock>,
    /// How long a rejection is followed.
    follow_up: Duration,
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
            begun: Mutex::new(0),
            mute: Mutex::new(0),
            closed: Mutex::new(0),
            skipped: Mutex::default(),
            found: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            asked_to_send: watch::Sender::new(0),
        };
        let clock = Arc::new(ManualClock::new(NOW));
        let (ledger, follow_up) = (Arc::new(ledger), Duration::from_secs(7 * 86_400));
        Self { _directory: directory, ledger, provider: Arc::default(), clock, follow_up }
    }

    async fn engine(&self) -> Engine {
        self.engine_for(Provider::Sectigo, Currency::USD).await
    }

    async fn engine_for(&self, provider: Provider, currency: Currency) -> Engine {
        self.engine_with(provider, currency, |_| {}).await
    }

    /// As [`Bench::engine_for`], with the account changed at will.
    async fn engine_with(&self, provider: Provider, currency: Currency, change: impl FnOnce(&mut Account)) -> Engine {
        let mut account = self.account(provider, currency);
        change(&mut account);
        self.start([account]).await.unwrap()
    }

    /// The account of [`place`].
    fn account(&self, provider: Provider, currency: Currency) -> Account {
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
            adapter: self.provider.clone(),
            status: None,
            meter: AccountMeter::off(),
        }
    }

    async fn start<const N: usize>(&self, accounts: [Account; N]) -> Result<Engine, LedgerError> {
        let settings = EngineSettings {
            backoff: Backoff { shortest: Duration::from_secs(1), longest: Duration::from_secs(60) },
            schedule: Schedule { first: vec![Duration::from_secs(10)], then_every: Duration::from_secs(86_400) },
            circuit: CircuitSettings {
                failures: 5,
                strangers: 5,
                shortest_pause: Duration::from_secs(5),
                longest_pause: Duration::from_secs(300),
            },
            rejection_follow_up: self.follow_up,
            max_feeds: 4,
        };
        let accounts = Arc::new(Accounts::new(accounts));
        Engine::start(self.ledger.clone(), accounts, self.clock.clone(), settings).await
    }

    /// A refund on disk to which these events have happened.
    async fn refund(&self, intent: Intent, events: &[Event]) -> Refund {
        self.traced_refund(intent, events, None).await
    }

    /// As [`Bench::refund`], of a caller that named its trace.
    async fn traced_refund(&self, intent: Intent, events: &[Event], trace_parent: Option<String>) -> Refund {
        let create = Create {
            intent,
            place: place(),
            related: RelatedLogins::default(),
            dispatch: None,
            allow_similar: false,
            actor: "caller".to_owned(),
            now: NOW,
            claim: Claim::default(),
            trace_parent,
        };
        let Created::New(refund) = self.ledger.inner.create(create).await.unwrap() else { panic!("known") };
        let record = Record {
            id: refund.id().clone(),
            revision: refund.revision,
            events: events.to_vec(),
            next_check: Some(NOW.plus(Duration::from_secs(10))),
            actor: GATEWAY.to_owned(),
            now: NOW,
        };
        self.ledger.inner.record(record).await.unwrap()
    }

    /// The answer to the next refund that has no answer yet.
    fn next_outcome(&self) -> oneshot::Sender<Outcome> {
        let (answer, receiver) = oneshot::channel();
        self.provider.outcomes.lock().unwrap().push_back(receiver);
        answer
    }

    /// The answer to the next look that nobody has an answer for yet.
    fn next_look(&self) -> oneshot::Sender<Lookup> {
        let (answer, receiver) = oneshot::channel();
        self.provider.lookups.lock().unwrap().push_back(receiver);
        answer
    }
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
    }
}

fn put_off() -> [Event; 2] {
    let error = ProviderError {
        code: "-42".to_owned(),
        message: "later".to_owned(),
        http_status: 200,
        category: ErrorCategory::LimitReached,
    };
    [Event::Dispatched { credential: None }, Event::NotSent { error, retry_at: NOW.plus(Duration::from_secs(3600)) }]
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
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(super) fn begin() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Lines(kept.clone())).finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that contain this text.
    pub(super) fn with(&self, text: &str) -> Vec<String> {
        let lines = String::from_utf8(self.lines.lock().unwrap().clone()).unwrap();
        lines.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

/// Whether there is one more, which is taken.
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
async fn an_attempt_on_disk_is_sent_though_the_drain_begins() {
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
    assert_eq!(after.state, State::Succeeded, "not left DISPATCHING, to be doubted for nothing at the next start");
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_withdraws_is_told_of_to_those_who_wait() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &put_off()).await;
    let engine = bench.engine().await;
    let (waiting, id, revision) = (engine.clone(), refund.id().clone(), refund.revision);
    let waiter =
        tokio::spawn(async move { waiting.wait(&id, revision, Instant::now() + Duration::from_secs(5)).await });
    bench.ledger.holding.send_replace(true);
    {
        let cancel = engine.cancel(refund.id(), None, "caller");
        tokio::select! {
            cancelled = cancel => panic!("{cancelled:?}"),
            () = reaches(&bench.ledger.held, 1) => {}
        }
    }
    bench.ledger.holding.send_replace(false);
    assert_eq!(waiter.await.unwrap().unwrap().state, State::Cancelled);
}

#[tokio::test]
async fn a_look_that_found_the_refund_is_not_lost_to_one_that_found_nothing() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let (nothing, found) = (bench.next_look(), bench.next_look());
    let mut looks = Vec::new();
    for asked in 1..=2 {
        let (engine, id) = (engine.clone(), refund.id().clone());
        looks.push(tokio::spawn(async move { engine.reconcile(&id, "caller").await.unwrap() }));
        reaches(&bench.provider.asked, asked).await;
    }
    let second = looks.pop().unwrap();
    let first = looks.pop().unwrap();
    nothing.send(Lookup::not_found("Processed")).unwrap();
    assert_eq!(first.await.unwrap().state, State::InDoubt);
    found.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    assert_eq!(second.await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn callers_that_leave_pile_nothing_up() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let answers: Vec<_> = (0..ERRANDS).map(|_| bench.next_look()).collect();
    for _ in 0..ERRANDS {
        let mut look = Box::pin(engine.reconcile(refund.id(), "caller"));
        assert!(futures_util::poll!(&mut look).is_pending());
    }
    assert_eq!(engine.reconcile(refund.id(), "caller").await, Err(EngineError::TooManyErrands));
    assert_eq!(engine.cancel(refund.id(), None, "caller").await, Err(EngineError::TooManyErrands));
    drop(answers);
}

#[tokio::test]
async fn a_refund_that_the_configuration_allows_no_more_is_still_known() {
    let bench = Bench::new();
    let fields = DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("AUD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    };
    let asked = intent("r", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()));
    let refund = bench.refund(asked.clone(), &doubted()).await;
    let other = Intent { id: RefundId::parse("new").unwrap(), ..asked.clone() };
    let right = "must be the account's currency, NZD".to_owned();
    let currency = EngineError::Invalid(vec![FieldFault::new("debitsuccess.amount.currency_code", right)]);
    let (of, target) = (Provider::Sectigo, Provider::Debitsuccess);
    let mismatch = EngineError::AccountMismatch { account: asked.account.clone(), of, target };
    for (provider, currency, refusal) in [(target, "NZD", currency), (of, "AUD", mismatch)] {
        let engine = bench.engine_for(provider, Currency::parse(currency).unwrap()).await;
        let command = |intent: Intent| CreateCommand {
            intent,
            allow_similar: false,
            actor: "caller".to_owned(),
            answer_by: Instant::now() + LIMIT,
            wait_until: Instant::now(),
            trace_parent: None,
        };
        for answer in [engine.create(command(asked.clone())).await, engine.check(command(asked.clone())).await] {
            let known = answer.unwrap();
            assert_eq!((known.refund, known.replayed), (refund.clone(), true));
        }
        for answer in [engine.create(command(other.clone())).await, engine.check(command(other.clone())).await] {
            assert_eq!(answer.unwrap_err(), refusal);
        }
    }
}

/// Events that a feed gives until the one with this number, which must come without a gap.
async fn read_until(feed: &mut EventFeed, last: u64) -> Vec<Arc<SharedEvent>> {
    let mut seen: Vec<Arc<SharedEvent>> = Vec::new();
    while seen.last().is_none_or(|event| event.record.sequence < last) {
        let more = tokio::time::timeout(LIMIT, feed.next()).await.unwrap().unwrap();
        assert!(!more.is_empty());
        seen.extend(more);
    }
    assert!(seen.is_sorted_by(|one, next| one.record.sequence + 1 == next.record.sequence), "no gap, nothing twice");
    seen
}

#[tokio::test]
async fn readers_of_the_history_share_what_is_new_and_miss_nothing() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    // Two events each. They are on their way, so the engine leaves them alone.
    let refunds = async |numbers: std::ops::Range<u32>| {
        let creates = numbers.map(|number| {
            let target = Target::Sectigo(SectigoTarget::new(&(number + 1).to_string(), 11).unwrap());
            bench.ledger.inner.create(Create {
                intent: intent(&format!("r{number}"), target),
                place: place(),
                related: RelatedLogins::default(),
                dispatch: Some(FirstAttempt { credential: None }),
                allow_similar: false,
                actor: "caller".to_owned(),
                now: NOW,
                claim: Claim::default(),
                trace_parent: None,
            })
        });
        futures_util::future::try_join_all(creates).await.unwrap();
    };
    let mut feeds = [engine.feed(0).unwrap(), engine.feed(0).unwrap(), engine.feed(0).unwrap()];
    let [one, two, behind] = &mut feeds;
    // More than is held for those who keep up.
    let ((), of_one, of_two) =
        futures_util::future::join3(refunds(0..600), read_until(one, 1_200), read_until(two, 1_200)).await;
    assert_eq!((of_one.len(), of_two.len()), (1_200, 1_200));
    assert_eq!(read_until(behind, 1_200).await.len(), 1_200, "what has left the memory comes from the ledger");

    let next = async { futures_util::future::join(read_until(one, 1_202), read_until(two, 1_202)).await };
    let ((), (of_one, of_two)) = futures_util::future::join(refunds(600..601), next).await;
    assert!(of_one.iter().zip(&of_two).all(|(one, two)| Arc::ptr_eq(one, two)), "read once for both");
    assert_eq!(read_until(&mut engine.feed(1_201).unwrap(), 1_202).await.len(), 1, "from anywhere on");

    drop(feeds);
    refunds(601..602).await;
    assert_eq!(read_until(&mut engine.feed(1_200).unwrap(), 1_204).await.len(), 4, "also what nobody was there for");
}

/// The second one waits for five seconds after the first.
#[tokio::test]
async fn a_probe_that_waits_ends_with_the_drain() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let account = AccountName::parse("main").unwrap();
    assert!(engine.probe(&account).await.is_ok());
    let (waiting, ()) = futures_util::future::join(engine.probe(&account), engine.drain(LIMIT)).await;
    assert_eq!(waiting.err(), Some(EngineError::Draining));
    assert_eq!(engine.probe(&account).await.err(), Some(EngineError::Draining));
}

#[async_trait]
impl crate::providers::Provider for Told {
    async fn refund(&self, _intent: &Intent, _credential: Option<&str>) -> Outcome {
        self.calls.lock().unwrap().push(Instant::now());
        let outcome = self.outcomes.lock().unwrap().pop_front();
        match outcome {
            Some(outcome) => outcome.await.unwrap(),
            None => Outcome::Refunded(Confirmation::default()),
        }
    }

    async fn lookup(&self, refund: &Refund, _turns: &dyn crate::providers::Turns) -> Lookup {
        self.calls.lock().unwrap().push(Instant::now());
        self.looked_up.lock().unwrap().push(refund.id().clone());
        let answer = self.lookups.lock().unwrap().pop_front().unwrap();
        self.asked.send_modify(|asked| *asked += 1);
        answer.await.unwrap()
    }

    fn credential(&self, _refund: &RefundId) -> Option<String> {
        let mut credentials = self.credentials.lock().unwrap();
        if credentials.len() > 1 { credentials.pop_front() } else { credentials.front().cloned() }
    }

    async fn probe(&self, turns: &dyn crate::providers::Turns) -> ProbeReport {
        turns.turn().await;
        ProbeReport::unreached("no probe is answered here")
    }
}

#[async_trait]
impl Ledger for HeldLedger {
    async fn create(&self, create: Create) -> Result<Created, LedgerError> {
        self.inner.create(create).await
    }

    async fn check(&self, create: Create) -> Result<Created, LedgerError> {
        self.inner.check(create).await
    }

    async fn record(&self, record: Record) -> Result<Refund, LedgerError> {
        let recorded = self.inner.record(record).await;
        if *self.holding.borrow() {
            self.held.send_modify(|held| *held += 1);
            self.holding.subscribe().wait_for(|holding| !holding).await.unwrap();
        }
        recorded
    }

    async fn interrupt_running(&self, now: Timestamp) -> Result<usize, LedgerError> {
        self.inner.interrupt_running(now).await
    }

    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<Listed>, LedgerError> {
        self.inner.list(query).await
    }

    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events_of(id, after_revision, limit).await
    }

    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events_after(sequence, limit).await
    }

    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError> {
        if takes_one(&self.closed) {
            return Err(LedgerError::Overloaded);
        }
        self.inner.reassign(reassign).await
    }

    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError> {
        self.inner.reschedule(reschedule).await
    }

    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError> {
        {
            let mut full = self.full.lock().unwrap();
            if *full > 0 {
                *full -= 1;
                return Err(LedgerError::Overloaded);
            }
        }
        if takes_one(&self.begun) {
            return Ok(1);
        }
        self.inner.hasten(at, now).await
    }

    async fn note_places(
        &self,
        configured: Vec<(Provider, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.inner.note_places(configured, now).await
    }

    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.inner.open_refunds().await
    }

    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        self.inner.standstills(at).await
    }

    async fn open_at(&self, at: &Destination, after_ordinal: u64, limit: u32) -> Result<Vec<Listed>, LedgerError> {
        self.inner.open_at(at, after_ordinal, limit).await
    }

    async fn due(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        if takes_one(&self.mute) {
            return Err(LedgerError::Overloaded);
        }
        self.inner.due(at, now, limit).await
    }

    async fn unsettled(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        let found = self.inner.unsettled(at, now, limit).await;
        self.found.send_modify(|found| *found += 1);
        found
    }

    async fn next_unsettled(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        let next = self.inner.next_unsettled(at).await;
        self.asked.send_modify(|asked| *asked += 1);
        next
    }

    async fn waiting_since(
        &self,
        at: &Destination,
        created_until: Timestamp,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<Refund>, LedgerError> {
        self.skipped.lock().unwrap().push(skip);
        self.inner.waiting_since(at, created_until, skip, limit).await
    }

    async fn last_entry(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError> {
        self.inner.last_entry(id, state).await
    }

    async fn trace_of(&self, id: &RefundId) -> Result<Option<String>, LedgerError> {
        self.inner.trace_of(id).await
    }

    async fn oldest_waiting(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError> {
        self.inner.oldest_waiting(account).await
    }

    async fn next_due(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        let next = self.inner.next_due(at).await;
        self.asked_to_send.send_modify(|asked| *asked += 1);
        next
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.inner.committed()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }
}

#[tokio::test]
async fn what_a_later_refund_explains_is_looked_up_no_longer_than_a_rejection_is_followed() {
    let bench = Bench::new();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let [dispatched, doubted] = doubted();
    let escalated = Event::Escalated { evidence: "no trace".to_owned(), foreign_record: false };
    let not_refunded = Event::Resolved(Decided {
        follow_until: Some(NOW.plus(days(7))),
        ..Decided::new(Resolution::NotRefunded, "ticket")
    });
    let refund = bench.refund(sectigo("first"), &[dispatched, doubted, escalated, not_refunded]).await;
    bench.refund(sectigo("later"), &[]).await;
    bench.clock.advance(days(6) + Duration::from_secs(60));
    bench.next_look().send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
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
    assert_eq!((after.state, after.corrected_time), (State::Failed, None), "the later refund may be the one");
    assert_eq!(after.next_check, None, "the next lookup would come when it is followed no more");
}
