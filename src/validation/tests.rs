mod watch;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::*;
use crate::domain::clock::{ManualClock, Timestamp};
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::money::Currency;
use crate::domain::outcome::{AttemptReport, Lookup};
use crate::domain::place::Place;
use crate::domain::refund::{Intent, Refund};
use crate::domain::validation::{StatusAnswer, ValidationPage};
use crate::providers::{Account, RefundProvider};
use crate::telemetry::metrics::AccountMeter;

/// A provider that counts requests, answers only when permitted, and follows a script.
struct ScriptedProvider {
    requests: AtomicUsize,
    on_the_wire: AtomicUsize,
    max_on_the_wire: AtomicUsize,
    gate: Semaphore,
    script: Mutex<VecDeque<ScriptedEnd>>,
}

enum ScriptedEnd {
    Fail(StatusError),
    Panic,
}

impl ScriptedProvider {
    fn new(open: bool) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicUsize::new(0),
            on_the_wire: AtomicUsize::new(0),
            max_on_the_wire: AtomicUsize::new(0),
            gate: Semaphore::new(if open { Semaphore::MAX_PERMITS } else { 0 }),
            script: Mutex::new(VecDeque::new()),
        })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn next(&self, act: ScriptedEnd) {
        self.script.lock().unwrap().push_back(act);
    }

    fn let_answer(&self, answers: usize) {
        self.gate.add_permits(answers);
    }
}

#[async_trait]
impl ValidationProvider for ScriptedProvider {
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let on_the_wire = self.on_the_wire.fetch_add(1, Ordering::SeqCst) + 1;
        self.max_on_the_wire.fetch_max(on_the_wire, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.on_the_wire.fetch_sub(1, Ordering::SeqCst);
        let act = self.script.lock().unwrap().pop_front();
        match act {
            Some(ScriptedEnd::Fail(error)) => Err(error),
            Some(ScriptedEnd::Panic) => panic!("the provider's adapter has a bug"),
            None => {
                let page = ValidationPage {
                    order_number: order.order_number().to_owned(),
                    product_type: i32::try_from(number).unwrap(),
                    ..ValidationPage::default()
                };
                Ok(StatusAnswer { page, upload_document_token: None })
            }
        }
    }
}

struct NoRefunds;

#[async_trait]
impl RefundProvider for NoRefunds {
    async fn refund(&self, _: &Intent, _: Option<&str>) -> AttemptReport {
        unreachable!("validation sends no refund")
    }

    async fn lookup(&self, _: &Refund, _: &dyn crate::providers::RequestLimiter) -> Lookup {
        unreachable!("validation looks up no refund")
    }

    async fn probe(&self, _: &dyn crate::providers::RequestLimiter) -> crate::domain::probe::ProbeReport {
        unreachable!("validation never probes")
    }
}

fn account(name: &str, provider: ProviderKind, status: Option<Arc<dyn ValidationProvider>>) -> Account {
    Account {
        name: AccountName::parse(name).unwrap(),
        provider,
        place: Place {
            endpoint: "https://secure.trust-provider.com".to_owned(),
            login: name.to_owned(),
            currency: Currency::USD,
        },
        former: Vec::new(),
        secret: crate::providers::secret::Secret::new("s3cret".into()),
        contract: RetryContract {
            deduplication: Deduplication::None,
            lookup: LookupKind::TargetState,
            settle_time: Duration::from_secs(60),
        },
        max_in_flight: 8,
        requests_per_second: 0,
        requests_per_hour: 0,
        pending_limit: Duration::from_secs(86_400),
        total_timeout: Duration::from_secs(60),
        refunds: Arc::new(NoRefunds),
        validation: status,
        metrics: AccountMeter::off(),
    }
}

struct World {
    provider: Arc<ScriptedProvider>,
    clock: Arc<ManualClock>,
    validation: Validation,
}

fn world_with(provider: Arc<ScriptedProvider>, settings: ValidationSettings) -> World {
    let accounts = Accounts::new([
        account("sectigo", ProviderKind::Sectigo, Some(provider.clone())),
        account("namecom", ProviderKind::Namecom, None),
    ]);
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_750_000_000)));
    let validation = Validation::new(Arc::new(accounts), clock.clone(), settings);
    World { provider, clock, validation }
}

fn world(provider: Arc<ScriptedProvider>) -> World {
    world_with(provider, ValidationSettings::default())
}

fn ask(order_number: &str, max_age: u64) -> StatusRequest {
    StatusRequest {
        account: AccountName::parse("sectigo").unwrap(),
        order: OrderKey::new(order_number, 0, "").unwrap(),
        max_age: Duration::from_secs(max_age),
    }
}

impl World {
    /// The number of the provider's request that gave the answer.
    async fn number(&self, order_number: &str, max_age: u64) -> i32 {
        self.validation.get(ask(order_number, max_age)).await.unwrap().page().product_type
    }

    fn spawn(&self, request: StatusRequest) -> tokio::task::JoinHandle<StatusResult> {
        let validation = self.validation.clone();
        tokio::spawn(async move { validation.get(request).await })
    }

    async fn until_asked(&self, times: usize) {
        while self.provider.requests() < times {
            tokio::task::yield_now().await;
        }
    }

    fn is_idle(&self) -> bool {
        self.validation.0.fetch_state().in_flight.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_share_one_request() {
    let world = world(ScriptedProvider::new(false));
    let joined = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let (validation, joined) = (world.validation.clone(), joined.clone());
            tokio::spawn(async move {
                let Ok(Answer::InFlight(mut receiver)) = validation.join_or_start(ask("1", 0)) else {
                    panic!("no fetch")
                };
                joined.fetch_add(1, Ordering::SeqCst);
                receiver.wait_for(Option::is_some).await.unwrap().clone().unwrap()
            })
        })
        .collect();
    while joined.load(Ordering::SeqCst) < 1000 {
        tokio::task::yield_now().await;
    }
    world.provider.let_answer(1);
    for answer in join_all(callers).await {
        assert_eq!(answer.unwrap().unwrap().page().product_type, 1);
    }
    assert_eq!(world.provider.requests(), 1);
    assert!(world.is_idle());
}

#[tokio::test]
async fn an_answer_is_no_older_than_the_caller_accepts() {
    let world = world(ScriptedProvider::new(true));
    assert_eq!(world.number("1", 3600).await, 1);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.number("1", 60).await, 1);
    assert_eq!(world.number("1", 59).await, 2);
    assert_eq!(world.number("1", 0).await, 3);
    assert_eq!(world.number("2", 3600).await, 4);
    world.clock.advance(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(world.number("1", 10_000_000).await, 5);
}

#[tokio::test]
async fn the_fetch_time_is_when_the_provider_was_asked() {
    let world = world(ScriptedProvider::new(false));
    let request_time = world.clock.now();
    let caller = world.spawn(ask("1", 0));
    world.until_asked(1).await;
    world.clock.advance(Duration::from_secs(30));
    world.provider.let_answer(2);
    assert_eq!(caller.await.unwrap().unwrap().fetch_time(), request_time);
    assert_eq!(world.number("1", 29).await, 2, "an answer of 30 s is older than 29 s");
}

#[tokio::test]
async fn a_certificate_of_an_order_is_cached_apart_from_the_order() {
    let world = world(ScriptedProvider::new(true));
    assert_eq!(world.number("1", 3600).await, 1);
    let certificate = StatusRequest { order: OrderKey::new("1", 5, "").unwrap(), ..ask("1", 3600) };
    assert_eq!(world.validation.get(certificate).await.unwrap().page().product_type, 2);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_the_fetch() {
    let world = world(ScriptedProvider::new(false));
    let first = world.spawn(ask("1", 0));
    world.until_asked(1).await;
    let second = world.spawn(ask("1", 0));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    world.provider.let_answer(1);
    assert_eq!(second.await.unwrap().unwrap().page().product_type, 1);

    let alone = world.spawn(ask("2", 0));
    world.until_asked(2).await;
    alone.abort();
    assert!(alone.await.unwrap_err().is_cancelled());
    world.provider.let_answer(1);
    assert_eq!(world.number("2", 3600).await, 2, "the answer without a waiting caller is cached");
    assert!(world.is_idle());
}

#[tokio::test]
async fn an_error_reaches_all_callers_and_is_not_cached() {
    let world = world(ScriptedProvider::new(false));
    let error = StatusError::Unreachable { why: "HTTP 503".to_owned(), retry_after: None };
    world.provider.next(ScriptedEnd::Fail(error.clone()));
    let callers: Vec<_> = (0..10).map(|_| world.spawn(ask("1", 3600))).collect();
    world.until_asked(1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.provider.let_answer(1);
    for answer in join_all(callers).await {
        assert_eq!(answer.unwrap().err(), Some(ValidationError::Provider(error.clone())));
    }
    assert_eq!(world.provider.requests(), 1);
    world.provider.let_answer(1);
    assert_eq!(world.number("1", 3600).await, 2);
}

#[tokio::test]
async fn an_error_evicts_no_cached_answer() {
    let world = world(ScriptedProvider::new(true));
    assert_eq!(world.number("1", 0).await, 1);
    world.provider.next(ScriptedEnd::Fail(StatusError::Timeout));
    let failed = world.validation.get(ask("1", 0)).await;
    assert_eq!(failed.err(), Some(ValidationError::Provider(StatusError::Timeout)));
    assert_eq!(world.number("1", 60).await, 1);
}

#[tokio::test]
async fn a_panic_is_an_error_and_not_a_hang() {
    let world = world(ScriptedProvider::new(false));
    world.provider.next(ScriptedEnd::Panic);
    let callers = [world.spawn(ask("1", 0)), world.spawn(ask("1", 0))];
    world.until_asked(1).await;
    world.provider.let_answer(1);
    for answer in join_all(callers).await {
        assert_eq!(answer.unwrap().err(), Some(ValidationError::Panicked));
    }
    assert!(world.is_idle());
    world.provider.let_answer(1);
    assert_eq!(world.number("1", 0).await, 2);
}

#[test]
fn a_fetch_dropped_by_the_runtime_publishes_its_end() {
    let world = world(ScriptedProvider::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = runtime.block_on(async {
        let Ok(Answer::InFlight(receiver)) = world.validation.join_or_start(ask("1", 0)) else { panic!("no fetch") };
        world.until_asked(1).await;
        receiver
    });
    drop(runtime);
    assert!(matches!(&*receiver.borrow(), Some(Err(ValidationError::Panicked))));
    assert!(world.is_idle());
}

#[tokio::test]
async fn concurrent_and_queued_fetches_are_limited() {
    let settings = ValidationSettings { max_concurrent_fetches: 3, ..ValidationSettings::default() };
    let world = world_with(ScriptedProvider::new(false), settings);
    let total = 3 + MAX_QUEUED_FETCHES;
    let callers: Vec<_> = (0..total).map(|order| world.spawn(ask(&order.to_string(), 0))).collect();
    world.until_asked(3).await;
    while world.validation.0.fetch_state().in_flight.len() < total {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.validation.get(ask("one-more", 0)).await.err(), Some(ValidationError::Overloaded));
    assert_eq!(world.provider.requests(), 3);
    world.provider.let_answer(total);
    for answer in join_all(callers).await {
        assert!(answer.unwrap().is_ok());
    }
    assert_eq!(world.provider.max_on_the_wire.load(Ordering::SeqCst), 3);
    world.provider.let_answer(1);
    assert!(world.validation.get(ask("one-more", 0)).await.is_ok());
}

#[tokio::test]
async fn the_cache_keeps_the_configured_number_of_orders() {
    let settings = ValidationSettings { cache_entries: 2, ..ValidationSettings::default() };
    let world = world_with(ScriptedProvider::new(true), settings);
    for (order, number) in [("1", 1), ("2", 2), ("3", 3)] {
        assert_eq!(world.number(order, 3600).await, number);
    }
    assert_eq!(world.number("3", 3600).await, 3);
    assert_eq!(world.number("2", 3600).await, 2);
    assert_eq!(world.number("1", 3600).await, 4, "the oldest was evicted first");
}

#[tokio::test]
async fn only_sectigo_accounts_have_a_validation_status() {
    let world = world(ScriptedProvider::new(true));
    let of = |name: &str| StatusRequest { account: AccountName::parse(name).unwrap(), ..ask("1", 0) };
    assert_eq!(
        world.validation.get(of("unknown")).await.err(),
        Some(ValidationError::AccountNotFound(AccountName::parse("unknown").unwrap()))
    );
    assert_eq!(
        world.validation.get(of("namecom")).await.err(),
        Some(ValidationError::NotSectigo {
            account: AccountName::parse("namecom").unwrap(),
            provider: ProviderKind::Namecom
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_single_requests_up_to_its_limit() {
    let world = world(ScriptedProvider::new(false));
    let caller = world.spawn(ask("1", 0));
    world.until_asked(1).await;
    let began = tokio::time::Instant::now();
    world.validation.drain(Duration::from_secs(20)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(20), "the caller still waits");
    world.provider.let_answer(1);
    world.validation.drain(Duration::from_secs(20)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(20), "no caller waits any more");
    assert!(caller.await.unwrap().is_ok(), "the drain waited for its answer");
}
