//! Watches in simulated time: the runtime's clock stands still while there is work, and jumps to
//! the next timer.

use proptest::prelude::*;
use rstest::rstest;
use tokio::time::{Instant, timeout};

use super::*;
use crate::validation::watch::{MAX_BACKOFF, poll_delay};

/// A provider that shows a set page and records when it was requests.
struct SettableProvider {
    shows: Mutex<Result<String, StatusError>>,
    requests: Mutex<Vec<Instant>>,
    /// How long an answer takes.
    takes: Mutex<Duration>,
    panics: Mutex<bool>,
}

/// The runtime's own time, so that ages and timers agree.
struct RuntimeClock(Instant);

struct WatchFixture {
    provider: Arc<SettableProvider>,
    validation: Validation,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MIN_INTERVAL: Duration = Duration::from_secs(30);

#[async_trait]
impl ValidationProvider for SettableProvider {
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError> {
        self.requests.lock().unwrap().push(Instant::now());
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        if *self.panics.lock().unwrap() {
            panic!("the provider's adapter has a bug");
        }
        let product_name = self.shows.lock().unwrap().clone()?;
        let page =
            ValidationPage { order_number: order.order_number().to_owned(), product_name, ..ValidationPage::default() };
        Ok(StatusAnswer { page, upload_document_token: None })
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_750_000_000).saturating_add(self.0.elapsed())
    }
}

impl WatchFixture {
    fn open() -> WatchFixture {
        WatchFixture::with(ValidationSettings::default())
    }

    fn with(settings: ValidationSettings) -> WatchFixture {
        let provider = Arc::new(SettableProvider {
            shows: Mutex::new(Ok("A".to_owned())),
            requests: Mutex::default(),
            takes: Mutex::default(),
            panics: Mutex::new(false),
        });
        let accounts = Accounts::new([
            account("sectigo", ProviderKind::Sectigo, Some(provider.clone())),
            account("namecom", ProviderKind::Namecom, None),
        ]);
        let validation = Validation::new(Arc::new(accounts), Arc::new(RuntimeClock(Instant::now())), settings);
        WatchFixture { provider, validation }
    }

    fn shows(&self, page: &str) {
        *self.provider.shows.lock().unwrap() = Ok(page.to_owned());
    }

    fn fails(&self, error: StatusError) {
        *self.provider.shows.lock().unwrap() = Err(error);
    }

    fn requests(&self) -> usize {
        self.provider.requests.lock().unwrap().len()
    }

    /// The times between consecutive polls.
    fn poll_intervals(&self) -> Vec<Duration> {
        let requests = self.provider.requests.lock().unwrap();
        requests.windows(2).map(|two| two[1] - two[0]).collect()
    }

    fn watch(&self, interval: Duration) -> Watch {
        self.validation.watch(WatchRequest { interval: Some(interval), ..order("1") }).unwrap()
    }

    fn polls(&self) -> usize {
        self.validation.0.polls().len()
    }

    fn free_slots(&self) -> usize {
        self.validation.0.watch_slots.available_permits()
    }

    /// The fingerprint of the shown page.
    async fn fingerprint(&self) -> String {
        self.validation.get(ask("1", 0)).await.unwrap().fingerprint().to_owned()
    }
}

fn order(order_number: &str) -> WatchRequest {
    WatchRequest {
        account: AccountName::parse("sectigo").unwrap(),
        order: OrderKey::new(order_number, 0, "").unwrap(),
        after_fingerprint: None,
        interval: None,
    }
}

/// The next page that the watch returns.
async fn next_page(watch: &mut Watch) -> String {
    timeout(10_000 * HOUR, watch.next()).await.unwrap().unwrap().page().product_name.clone()
}

async fn next_error(watch: &mut Watch) -> ValidationError {
    timeout(10_000 * HOUR, watch.next()).await.unwrap().unwrap_err()
}

async fn is_silent(watch: &mut Watch, during: Duration) -> bool {
    timeout(during, watch.next()).await.is_err()
}

fn is_about(rest: Duration, expected: Duration) -> bool {
    rest >= expected && rest <= expected + expected / 10 + Duration::from_millis(2)
}

fn unreachable_now() -> StatusError {
    StatusError::Unreachable { why: "HTTP 503".to_owned(), retry_after: None }
}

#[tokio::test(start_paused = true)]
async fn fifty_watchers_share_one_poll_and_get_only_changes() {
    let fixture = WatchFixture::open();
    let mut watches: Vec<_> = (0..50).map(|_| fixture.watch(MINUTE)).collect();
    for watch in &mut watches {
        assert_eq!(next_page(watch).await, "A");
    }
    assert_eq!((fixture.requests(), fixture.polls()), (1, 1));
    for watch in &mut watches {
        assert!(is_silent(watch, Duration::from_millis(1)).await);
    }
    assert!(is_silent(&mut watches[0], 10 * MINUTE).await);
    let quiet = fixture.requests();
    assert!((9..=11).contains(&quiet), "{quiet} polls in ten minutes");
    fixture.shows("B");
    for watch in &mut watches {
        assert_eq!(next_page(watch).await, "B");
    }
    assert_eq!(fixture.requests(), quiet + 1);
    assert!(fixture.poll_intervals().into_iter().all(|rest| is_about(rest, MINUTE)), "{:?}", fixture.poll_intervals());
    assert!(fixture.poll_intervals().iter().any(|rest| *rest != fixture.poll_intervals()[0]), "the intervals vary");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_returned_until_it_differs_from_the_callers_status() {
    let fixture = WatchFixture::open();
    let a = fixture.fingerprint().await;
    let mut has_it = fixture.validation.watch(WatchRequest { after_fingerprint: Some(a), ..order("1") }).unwrap();
    let mut has_another =
        fixture.validation.watch(WatchRequest { after_fingerprint: Some("0".repeat(64)), ..order("1") }).unwrap();
    assert_eq!(next_page(&mut has_another).await, "A");
    assert!(is_silent(&mut has_it, HOUR).await);
    fixture.shows("B");
    assert_eq!(next_page(&mut has_it).await, "B");
    // A change back is also a change.
    fixture.shows("A");
    assert_eq!(next_page(&mut has_it).await, "A");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_only_the_newest_status() {
    let fixture = WatchFixture::open();
    let mut slow = fixture.watch(MINUTE);
    let mut prompt = fixture.watch(MINUTE);
    assert_eq!((next_page(&mut slow).await, next_page(&mut prompt).await), ("A".to_owned(), "A".to_owned()));
    for page in ["B", "C", "D"] {
        fixture.shows(page);
        assert_eq!(next_page(&mut prompt).await, page);
    }
    assert_eq!(next_page(&mut slow).await, "D");
    for page in ["E", "D"] {
        fixture.shows(page);
        assert_eq!(next_page(&mut prompt).await, page);
    }
    assert!(is_silent(&mut slow, HOUR).await, "it has already returned D");
}

#[tokio::test(start_paused = true)]
async fn the_minimum_interval_of_present_watchers_counts() {
    let fixture = WatchFixture::open();
    let mut patient = fixture.watch(HOUR);
    assert_eq!(next_page(&mut patient).await, "A");
    assert!(is_silent(&mut patient, 10 * MINUTE).await);
    assert_eq!(fixture.requests(), 1);

    // A status polled ten minutes ago is too old for it, so it gets one of a new poll.
    let mut eager = fixture.watch(MINUTE);
    assert_eq!(next_page(&mut eager).await, "A");
    assert_eq!(fixture.requests(), 2);
    assert!(is_silent(&mut eager, 10 * MINUTE).await);
    assert!(fixture.poll_intervals()[1..].iter().all(|rest| is_about(*rest, MINUTE)), "{:?}", fixture.poll_intervals());

    let before = fixture.requests();
    drop(eager);
    assert!(is_silent(&mut patient, 10 * HOUR).await);
    assert!((8..=10).contains(&(fixture.requests() - before)), "{:?}", fixture.poll_intervals());
}

#[tokio::test(start_paused = true)]
async fn a_later_watcher_gets_the_last_status_without_another_poll() {
    let fixture = WatchFixture::open();
    let mut first = fixture.watch(MINUTE);
    assert_eq!(next_page(&mut first).await, "A");
    assert!(is_silent(&mut first, MINUTE / 2).await);
    let mut second = fixture.watch(MINUTE);
    assert_eq!(timeout(Duration::from_millis(1), next_page(&mut second)).await.as_deref(), Ok("A"));
    assert_eq!(fixture.requests(), 1);
}

#[rstest]
#[case::below_the_floor(Some(Duration::from_millis(1)), MIN_INTERVAL)]
#[case::none(None, MIN_INTERVAL)]
#[case::zero(Some(Duration::ZERO), MIN_INTERVAL)]
#[case::above_it(Some(MINUTE), MINUTE)]
#[case::beyond_every_use(Some(Duration::MAX), 24 * HOUR)]
#[tokio::test(start_paused = true)]
async fn an_interval_is_clamped(#[case] requested: Option<Duration>, #[case] clamped: Duration) {
    let fixture = WatchFixture::open();
    let mut watch = fixture.validation.watch(WatchRequest { interval: requested, ..order("1") }).unwrap();
    assert_eq!(next_page(&mut watch).await, "A");
    assert!(is_silent(&mut watch, 5 * clamped).await);
    assert!(
        fixture.poll_intervals().len() >= 3 && fixture.poll_intervals().into_iter().all(|rest| is_about(rest, clamped))
    );
}

#[tokio::test(start_paused = true)]
async fn a_reconnecting_watcher_does_not_poll_below_the_minimum_interval() {
    let fixture = WatchFixture::open();
    for _ in 0..100 {
        let mut watch = fixture.watch(Duration::ZERO);
        assert_eq!(next_page(&mut watch).await, "A");
        drop(watch);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((3..=5).contains(&fixture.requests()), "{:?}", fixture.poll_intervals());
    // Nor by staying: a cached answer keeps its age.
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(fixture.fingerprint().await.len(), 64);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let before = fixture.requests();
    let mut watch = fixture.watch(MIN_INTERVAL);
    assert_eq!(next_page(&mut watch).await, "A");
    assert_eq!(fixture.requests(), before);
    assert!(is_silent(&mut watch, Duration::from_secs(15)).await);
    assert_eq!(fixture.requests(), before + 1);
    assert!(is_about(fixture.poll_intervals()[before - 1], MIN_INTERVAL), "{:?}", fixture.poll_intervals());
}

#[tokio::test(start_paused = true)]
async fn the_last_watcher_ends_the_poll_even_during_a_fetch() {
    let fixture = WatchFixture::open();
    let (mut one, two) = (fixture.watch(MINUTE), fixture.watch(2 * MINUTE));
    assert_eq!(next_page(&mut one).await, "A");
    drop(one);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((fixture.polls(), fixture.free_slots()), (1, 999));
    assert!(fixture.requests() > 3);
    drop(two);
    let requests = fixture.requests();
    tokio::time::sleep(HOUR).await;
    assert_eq!((fixture.polls(), fixture.free_slots(), fixture.requests()), (0, 1000, requests));

    *fixture.provider.takes.lock().unwrap() = MINUTE;
    let mut watch = fixture.watch(MINUTE);
    assert!(is_silent(&mut watch, MINUTE / 2).await);
    drop(watch);
    assert_eq!((fixture.polls(), fixture.free_slots(), fixture.requests()), (0, 1000, requests + 1));
    tokio::time::sleep(HOUR).await;
    assert_eq!(fixture.requests(), requests + 1);
    assert!(fixture.validation.0.fetch_state().in_flight.is_empty());
}

#[rstest]
#[case::unreachable(unreachable_now())]
#[case::timeout(StatusError::Timeout)]
#[case::unknown_error(StatusError::NotNow { code: "-14".to_owned(), message: "unknown".to_owned(), retry_after: None })]
#[tokio::test(start_paused = true)]
async fn a_transient_failure_does_not_end_the_watch(#[case] failure: StatusError) {
    let fixture = WatchFixture::open();
    fixture.fails(failure.clone());
    let mut from_the_start = fixture.watch(MINUTE);
    assert!(is_silent(&mut from_the_start, 2 * HOUR).await);
    let rests = fixture.poll_intervals();
    for (rest, minutes) in rests.iter().zip([1, 2, 4, 8, 10, 10, 10]) {
        assert!(is_about(*rest, minutes * MINUTE), "{rests:?}");
    }
    assert!(rests.len() >= 10, "it is polled again and again: {rests:?}");
    fixture.shows("A");
    assert_eq!(next_page(&mut from_the_start).await, "A");
    let mended = fixture.requests();
    assert!(is_silent(&mut from_the_start, 5 * MINUTE).await);
    assert!(fixture.requests() >= mended + 4, "the interval is as before");

    // An outage without a change is not reported either.
    fixture.fails(failure);
    assert!(is_silent(&mut from_the_start, HOUR).await);
    fixture.shows("A");
    assert!(is_silent(&mut from_the_start, HOUR).await);
}

fn unreadable() -> StatusError {
    StatusError::Protocol { problem: "no JSON".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn five_unreadable_answers_in_a_row_end_the_watch() {
    let fixture = WatchFixture::open();
    let (mut one, mut late) = (fixture.watch(MINUTE), fixture.watch(MINUTE));
    assert_eq!(next_page(&mut one).await, "A");
    let before = fixture.requests();
    fixture.fails(unreadable());
    assert_eq!(next_error(&mut one).await, ValidationError::Provider(unreadable()));
    assert_eq!(fixture.requests(), before + 5);
    assert_eq!(
        (next_page(&mut late).await, next_error(&mut late).await),
        ("A".to_owned(), ValidationError::Provider(unreadable()))
    );
}

#[rstest]
#[case::another_failure(Some(unreachable_now()))]
#[case::a_page(None)]
#[tokio::test(start_paused = true)]
async fn unreadable_answers_not_in_a_row_do_not_end_the_watch(#[case] between: Option<StatusError>) {
    let fixture = WatchFixture::open();
    let mut watch = fixture.watch(MINUTE);
    assert_eq!(next_page(&mut watch).await, "A");
    for _ in 0..3 {
        fixture.fails(unreadable());
        // Four polls after the last one: after one, one, two and four minutes.
        let requests = fixture.requests();
        while fixture.requests() < requests + 4 {
            assert!(is_silent(&mut watch, Duration::from_secs(1)).await);
        }
        match &between {
            Some(failure) => fixture.fails(failure.clone()),
            None => fixture.shows("A"),
        }
        while fixture.requests() < requests + 5 {
            assert!(is_silent(&mut watch, Duration::from_secs(1)).await);
        }
    }
    fixture.shows("B");
    assert_eq!(next_page(&mut watch).await, "B");
}

#[tokio::test(start_paused = true)]
async fn the_providers_call_limit_is_waited_out() {
    let fixture = WatchFixture::open();
    let mut watch = fixture.watch(Duration::ZERO);
    let limit = StatusError::NotNow { code: "-42".to_owned(), message: "limit".to_owned(), retry_after: Some(HOUR) };
    assert_eq!(next_page(&mut watch).await, "A");
    fixture.fails(limit);
    assert!(is_silent(&mut watch, 5 * HOUR).await);
    assert!(fixture.poll_intervals()[1..].iter().all(|rest| is_about(*rest, HOUR)), "{:?}", fixture.poll_intervals());
}

#[rstest]
#[case::credentials(StatusError::CredentialsRefused { code: "-16".to_owned(), message: "locked".to_owned() })]
#[case::no_such_order(StatusError::OrderNotFound { order_number: "1".to_owned(), code: "-4".to_owned(), message: "invalid".to_owned() })]
#[case::refused(StatusError::Refused { code: "-91".to_owned(), message: "Permission denied".to_owned() })]
#[tokio::test(start_paused = true)]
async fn a_permanent_failure_reaches_all_watchers_and_ends_the_watch(#[case] failure: StatusError) {
    let fixture = WatchFixture::open();
    let mut watches: Vec<_> = (0..10).map(|_| fixture.watch(MINUTE)).collect();
    assert_eq!(next_page(&mut watches[0]).await, "A");
    fixture.fails(failure.clone());
    assert_eq!(next_error(&mut watches[0]).await, ValidationError::Provider(failure.clone()));
    assert_eq!(fixture.polls(), 0);
    let requests = fixture.requests();
    // A slow reader gets the last status and then the end, like a fast one.
    for watch in &mut watches[1..] {
        assert_eq!(next_page(watch).await, "A");
        assert_eq!(next_error(watch).await, ValidationError::Provider(failure.clone()));
    }
    assert_eq!(fixture.requests(), requests);

    // The next watcher starts a new poll, and late watchers of the old one do not end it by
    // leaving.
    fixture.shows("B");
    tokio::time::sleep(MINUTE).await;
    let mut next = fixture.watch(MINUTE);
    assert_eq!(next_page(&mut next).await, "B");
    drop(watches);
    assert_eq!((fixture.polls(), fixture.free_slots()), (1, 999));
    fixture.shows("C");
    assert_eq!(next_page(&mut next).await, "C");
}

#[tokio::test(start_paused = true)]
async fn a_panic_reaches_the_watcher_and_leaves_nothing_behind() {
    let fixture = WatchFixture::open();
    *fixture.provider.panics.lock().unwrap() = true;
    let mut watch = fixture.watch(MINUTE);
    assert_eq!(next_error(&mut watch).await, ValidationError::Panicked);
    drop(watch);
    assert_eq!((fixture.polls(), fixture.free_slots()), (0, 1000));
}

#[test]
fn a_poll_dropped_by_the_runtime_publishes_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (fixture, mut watch) = runtime.block_on(async {
        let fixture = WatchFixture::open();
        let mut watch = fixture.watch(MINUTE);
        assert_eq!(next_page(&mut watch).await, "A");
        (fixture, watch)
    });
    drop(runtime);
    assert_eq!(fixture.polls(), 0);
    let after = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(after.block_on(watch.next()).unwrap_err(), ValidationError::Panicked);
}

#[tokio::test(start_paused = true)]
async fn concurrent_watchers_are_limited() {
    let fixture = WatchFixture::with(ValidationSettings { max_watches: 2, ..ValidationSettings::default() });
    let (one, _two) = (fixture.watch(MINUTE), fixture.validation.watch(order("2")).unwrap());
    assert_eq!(fixture.validation.watch(order("3")).err(), Some(ValidationError::TooManyWatches));
    assert_eq!(fixture.polls(), 2);
    drop(one);
    assert!(fixture.validation.watch(order("3")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_watch_and_the_polls() {
    let fixture = WatchFixture::open();
    let (mut idle, unread) = (fixture.watch(MINUTE), fixture.watch(MINUTE));
    assert_eq!(next_page(&mut idle).await, "A");
    let (end, ()) = tokio::join!(next_error(&mut idle), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        fixture.validation.drain(MINUTE).await;
    });
    assert_eq!(end, ValidationError::Draining);
    let requests = fixture.requests();
    tokio::time::sleep(HOUR).await;
    assert_eq!((fixture.requests(), fixture.polls()), (requests, 0), "no order is polled without a watcher");
    assert_eq!(fixture.validation.watch(order("2")).err(), Some(ValidationError::Draining));
    drop((idle, unread));
    assert_eq!(fixture.free_slots(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_poll_shares_its_fetch_with_a_single_request() {
    let fixture = WatchFixture::open();
    *fixture.provider.takes.lock().unwrap() = Duration::from_secs(5);
    let mut watch = fixture.watch(MINUTE);
    let (page, once) = tokio::join!(next_page(&mut watch), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fixture.validation.get(ask("1", 0)).await.unwrap()
    });
    assert_eq!((page.as_str(), once.page().product_name.as_str(), fixture.requests()), ("A", "A", 1));
}

#[tokio::test(start_paused = true)]
async fn only_sectigo_orders_can_be_watched() {
    let fixture = WatchFixture::open();
    let of = |name: &str| WatchRequest { account: AccountName::parse(name).unwrap(), ..order("1") };
    let refusal = |name: &str| fixture.validation.watch(of(name)).err().unwrap();
    assert!(matches!(refusal("unknown"), ValidationError::AccountNotFound(_)));
    assert!(matches!(refusal("namecom"), ValidationError::NotSectigo { .. }));
    assert_eq!((fixture.polls(), fixture.free_slots()), (0, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_and_leaving_in_any_order_leaves_nothing_behind() {
    let settings =
        ValidationSettings { watch_interval_min: Duration::from_micros(50), ..ValidationSettings::default() };
    let fixture = Arc::new(WatchFixture::with(settings));
    let comers = (0..64_u32).map(|number| {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let interval = Some(Duration::from_micros(u64::from(number * 7 + round) % 300));
                let request = WatchRequest { interval, ..order(&(number % 3).to_string()) };
                let mut watch = fixture.validation.watch(request).unwrap();
                if round % 3 != 0 {
                    assert_eq!(next_page(&mut watch).await, "A");
                }
            }
        })
    });
    for comer in join_all(comers).await {
        comer.unwrap();
    }
    assert_eq!((fixture.polls(), fixture.free_slots()), (0, 1000));
}

#[rstest]
#[case(30, 0, 30)]
#[case(30, 1, 30)]
#[case(30, 2, 60)]
#[case(30, 5, 480)]
#[case(30, 6, 600)]
#[case(30, u32::MAX, 600)]
#[case(3600, 9, 3600)]
fn a_poll_delay_doubles_with_each_failure_up_to_ten_minutes(
    #[case] interval: u64,
    #[case] failures: u32,
    #[case] rest: u64,
) {
    assert_eq!(poll_delay(Duration::from_secs(interval), failures, 0), Duration::from_secs(rest));
}

proptest! {
    #[test]
    fn a_poll_delay_is_never_shorter_than_the_interval(millis in 1_u64..=86_400_000, failures: u32, jitter: u16) {
        let interval = Duration::from_millis(millis);
        let rest = poll_delay(interval, failures, jitter);
        prop_assert!(rest >= interval && rest <= interval.max(MAX_BACKOFF) * 11 / 10);
        prop_assert!(rest >= poll_delay(interval, failures, 0));
    }
}
