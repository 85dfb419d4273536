//! Watchers in time that passes by itself: the runtime's clock stands still while anything can be
//! done, and jumps to the next timer.

use proptest::prelude::*;
use rstest::rstest;
use tokio::time::{Instant, timeout};

use super::*;
use crate::validation::watch::{MAX_BACKOFF, poll_delay};

/// A provider that shows what it is told to, and notes when it was asked.
struct Office {
    shows: Mutex<Result<String, StatusError>>,
    asked: Mutex<Vec<Instant>>,
    /// How long an answer takes.
    takes: Mutex<Duration>,
    panics: Mutex<bool>,
}

/// The runtime's own time, so that ages and waits agree.
struct RuntimeClock(Instant);

struct Place {
    office: Arc<Office>,
    validation: Validation,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const FLOOR: Duration = Duration::from_secs(30);

#[async_trait]
impl ValidationProvider for Office {
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError> {
        self.asked.lock().unwrap().push(Instant::now());
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

impl Place {
    fn open() -> Place {
        Place::with(ValidationSettings::default())
    }

    fn with(settings: ValidationSettings) -> Place {
        let office = Arc::new(Office {
            shows: Mutex::new(Ok("A".to_owned())),
            asked: Mutex::default(),
            takes: Mutex::default(),
            panics: Mutex::new(false),
        });
        let accounts = Accounts::new([
            account("sectigo", ProviderKind::Sectigo, Some(office.clone())),
            account("namecom", ProviderKind::Namecom, None),
        ]);
        let validation = Validation::new(Arc::new(accounts), Arc::new(RuntimeClock(Instant::now())), settings);
        Place { office, validation }
    }

    fn shows(&self, page: &str) {
        *self.office.shows.lock().unwrap() = Ok(page.to_owned());
    }

    fn fails(&self, error: StatusError) {
        *self.office.shows.lock().unwrap() = Err(error);
    }

    fn asked(&self) -> usize {
        self.office.asked.lock().unwrap().len()
    }

    /// The times between one look and the next.
    fn rests(&self) -> Vec<Duration> {
        let asked = self.office.asked.lock().unwrap();
        asked.windows(2).map(|two| two[1] - two[0]).collect()
    }

    fn watch(&self, interval: Duration) -> Watch {
        self.validation.watch(WatchRequest { interval: Some(interval), ..order("1") }).unwrap()
    }

    fn polls(&self) -> usize {
        self.validation.0.watches().len()
    }

    fn places(&self) -> usize {
        self.validation.0.watch_places.available_permits()
    }

    /// The fingerprint of what is shown.
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

/// The page that is told next.
async fn told(watch: &mut Watch) -> String {
    timeout(10_000 * HOUR, watch.next()).await.unwrap().unwrap().page().product_name.clone()
}

async fn end_of(watch: &mut Watch) -> ValidationError {
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
async fn fifty_watchers_are_one_poll_and_hear_of_changes_alone() {
    let place = Place::open();
    let mut watches: Vec<_> = (0..50).map(|_| place.watch(MINUTE)).collect();
    for watch in &mut watches {
        assert_eq!(told(watch).await, "A");
    }
    assert_eq!((place.asked(), place.polls()), (1, 1));
    for watch in &mut watches {
        assert!(is_silent(watch, Duration::from_millis(1)).await);
    }
    assert!(is_silent(&mut watches[0], 10 * MINUTE).await);
    let quiet = place.asked();
    assert!((9..=11).contains(&quiet), "{quiet} looks in ten minutes");
    place.shows("B");
    for watch in &mut watches {
        assert_eq!(told(watch).await, "B");
    }
    assert_eq!(place.asked(), quiet + 1);
    assert!(place.rests().into_iter().all(|rest| is_about(rest, MINUTE)), "{:?}", place.rests());
    assert!(place.rests().iter().any(|rest| *rest != place.rests()[0]), "no two orders keep step");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_until_it_differs_from_what_the_caller_has() {
    let place = Place::open();
    let a = place.fingerprint().await;
    let mut has_it = place.validation.watch(WatchRequest { after_fingerprint: Some(a), ..order("1") }).unwrap();
    let mut has_another =
        place.validation.watch(WatchRequest { after_fingerprint: Some("0".repeat(64)), ..order("1") }).unwrap();
    assert_eq!(told(&mut has_another).await, "A");
    assert!(is_silent(&mut has_it, HOUR).await);
    place.shows("B");
    assert_eq!(told(&mut has_it).await, "B");
    // Back again is a change too.
    place.shows("A");
    assert_eq!(told(&mut has_it).await, "A");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_newest_alone() {
    let place = Place::open();
    let mut slow = place.watch(MINUTE);
    let mut prompt = place.watch(MINUTE);
    assert_eq!((told(&mut slow).await, told(&mut prompt).await), ("A".to_owned(), "A".to_owned()));
    for page in ["B", "C", "D"] {
        place.shows(page);
        assert_eq!(told(&mut prompt).await, page);
    }
    assert_eq!(told(&mut slow).await, "D");
    for page in ["E", "D"] {
        place.shows(page);
        assert_eq!(told(&mut prompt).await, page);
    }
    assert!(is_silent(&mut slow, HOUR).await, "it has seen D, and nothing but D is to be seen");
}

#[tokio::test(start_paused = true)]
async fn the_shortest_interval_of_those_who_are_there_counts() {
    let place = Place::open();
    let mut patient = place.watch(HOUR);
    assert_eq!(told(&mut patient).await, "A");
    assert!(is_silent(&mut patient, 10 * MINUTE).await);
    assert_eq!(place.asked(), 1);

    // What was seen ten minutes ago is too old for it, so it hears of a look of its own.
    let mut eager = place.watch(MINUTE);
    assert_eq!(told(&mut eager).await, "A");
    assert_eq!(place.asked(), 2);
    assert!(is_silent(&mut eager, 10 * MINUTE).await);
    assert!(place.rests()[1..].iter().all(|rest| is_about(*rest, MINUTE)), "{:?}", place.rests());

    let before = place.asked();
    drop(eager);
    assert!(is_silent(&mut patient, 10 * HOUR).await);
    assert!((8..=10).contains(&(place.asked() - before)), "{:?}", place.rests());
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_is_told_what_was_seen_last_without_another_look() {
    let place = Place::open();
    let mut first = place.watch(MINUTE);
    assert_eq!(told(&mut first).await, "A");
    assert!(is_silent(&mut first, MINUTE / 2).await);
    let mut second = place.watch(MINUTE);
    assert_eq!(timeout(Duration::from_millis(1), told(&mut second)).await.as_deref(), Ok("A"));
    assert_eq!(place.asked(), 1);
}

#[rstest]
#[case::below_the_floor(Some(Duration::from_millis(1)), FLOOR)]
#[case::none(None, FLOOR)]
#[case::zero(Some(Duration::ZERO), FLOOR)]
#[case::above_it(Some(MINUTE), MINUTE)]
#[case::beyond_every_use(Some(Duration::MAX), 24 * HOUR)]
#[tokio::test(start_paused = true)]
async fn an_interval_is_brought_within_bounds(#[case] asked_for: Option<Duration>, #[case] kept: Duration) {
    let place = Place::open();
    let mut watch = place.validation.watch(WatchRequest { interval: asked_for, ..order("1") }).unwrap();
    assert_eq!(told(&mut watch).await, "A");
    assert!(is_silent(&mut watch, 5 * kept).await);
    assert!(place.rests().len() >= 3 && place.rests().into_iter().all(|rest| is_about(rest, kept)));
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_all_the_time_does_not_get_below_the_floor() {
    let place = Place::open();
    for _ in 0..100 {
        let mut watch = place.watch(Duration::ZERO);
        assert_eq!(told(&mut watch).await, "A");
        drop(watch);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((3..=5).contains(&place.asked()), "{:?}", place.rests());
    // Also not by staying: what the cache answered is as old as it is.
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(place.fingerprint().await.len(), 64);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let before = place.asked();
    let mut watch = place.watch(FLOOR);
    assert_eq!(told(&mut watch).await, "A");
    assert_eq!(place.asked(), before);
    assert!(is_silent(&mut watch, Duration::from_secs(15)).await);
    assert_eq!(place.asked(), before + 1);
    assert!(is_about(place.rests()[before - 1], FLOOR), "{:?}", place.rests());
}

#[tokio::test(start_paused = true)]
async fn the_last_to_leave_ends_the_poll_even_amid_a_look() {
    let place = Place::open();
    let (mut one, two) = (place.watch(MINUTE), place.watch(2 * MINUTE));
    assert_eq!(told(&mut one).await, "A");
    drop(one);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((place.polls(), place.places()), (1, 999));
    assert!(place.asked() > 3);
    drop(two);
    let asked = place.asked();
    tokio::time::sleep(HOUR).await;
    assert_eq!((place.polls(), place.places(), place.asked()), (0, 1000, asked));

    *place.office.takes.lock().unwrap() = MINUTE;
    let mut watch = place.watch(MINUTE);
    assert!(is_silent(&mut watch, MINUTE / 2).await);
    drop(watch);
    assert_eq!((place.polls(), place.places(), place.asked()), (0, 1000, asked + 1));
    tokio::time::sleep(HOUR).await;
    assert_eq!(place.asked(), asked + 1);
    assert!(place.validation.0.air().in_flight.is_empty());
}

#[rstest]
#[case::unreachable(unreachable_now())]
#[case::timeout(StatusError::Timeout)]
#[case::unknown_error(StatusError::NotNow { code: "-14".to_owned(), message: "unknown".to_owned(), retry_after: None })]
#[tokio::test(start_paused = true)]
async fn a_failure_that_mends_itself_ends_nothing(#[case] failure: StatusError) {
    let place = Place::open();
    place.fails(failure.clone());
    let mut from_the_start = place.watch(MINUTE);
    assert!(is_silent(&mut from_the_start, 2 * HOUR).await);
    let rests = place.rests();
    for (rest, minutes) in rests.iter().zip([1, 2, 4, 8, 10, 10, 10]) {
        assert!(is_about(*rest, minutes * MINUTE), "{rests:?}");
    }
    assert!(rests.len() >= 10, "it is asked again and again: {rests:?}");
    place.shows("A");
    assert_eq!(told(&mut from_the_start).await, "A");
    let mended = place.asked();
    assert!(is_silent(&mut from_the_start, 5 * MINUTE).await);
    assert!(place.asked() >= mended + 4, "the interval is as before");

    // An outage that changes nothing is not heard of either.
    place.fails(failure);
    assert!(is_silent(&mut from_the_start, HOUR).await);
    place.shows("A");
    assert!(is_silent(&mut from_the_start, HOUR).await);
}

fn unreadable() -> StatusError {
    StatusError::Protocol { problem: "no JSON".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn five_unreadable_answers_in_a_row_end_the_watch() {
    let place = Place::open();
    let (mut one, mut late) = (place.watch(MINUTE), place.watch(MINUTE));
    assert_eq!(told(&mut one).await, "A");
    let before = place.asked();
    place.fails(unreadable());
    assert_eq!(end_of(&mut one).await, ValidationError::Provider(unreadable()));
    assert_eq!(place.asked(), before + 5);
    assert_eq!(
        (told(&mut late).await, end_of(&mut late).await),
        ("A".to_owned(), ValidationError::Provider(unreadable()))
    );
}

#[rstest]
#[case::another_failure(Some(unreachable_now()))]
#[case::a_page(None)]
#[tokio::test(start_paused = true)]
async fn unreadable_answers_that_are_not_in_a_row_end_nothing(#[case] between: Option<StatusError>) {
    let place = Place::open();
    let mut watch = place.watch(MINUTE);
    assert_eq!(told(&mut watch).await, "A");
    for _ in 0..3 {
        place.fails(unreadable());
        // Four looks after the last one: a minute, another, two, four.
        let asked = place.asked();
        while place.asked() < asked + 4 {
            assert!(is_silent(&mut watch, Duration::from_secs(1)).await);
        }
        match &between {
            Some(failure) => place.fails(failure.clone()),
            None => place.shows("A"),
        }
        while place.asked() < asked + 5 {
            assert!(is_silent(&mut watch, Duration::from_secs(1)).await);
        }
    }
    place.shows("B");
    assert_eq!(told(&mut watch).await, "B");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_calls_is_waited_out() {
    let place = Place::open();
    let mut watch = place.watch(Duration::ZERO);
    let limit = StatusError::NotNow { code: "-42".to_owned(), message: "limit".to_owned(), retry_after: Some(HOUR) };
    assert_eq!(told(&mut watch).await, "A");
    place.fails(limit);
    assert!(is_silent(&mut watch, 5 * HOUR).await);
    assert!(place.rests()[1..].iter().all(|rest| is_about(*rest, HOUR)), "{:?}", place.rests());
}

#[rstest]
#[case::credentials(StatusError::CredentialsRefused { code: "-16".to_owned(), message: "locked".to_owned() })]
#[case::no_such_order(StatusError::OrderNotFound { order_number: "1".to_owned(), code: "-4".to_owned(), message: "invalid".to_owned() })]
#[case::refused(StatusError::Refused { code: "-91".to_owned(), message: "Permission denied".to_owned() })]
#[tokio::test(start_paused = true)]
async fn what_does_not_mend_itself_is_told_to_all_and_ends_the_watch(#[case] failure: StatusError) {
    let place = Place::open();
    let mut watches: Vec<_> = (0..10).map(|_| place.watch(MINUTE)).collect();
    assert_eq!(told(&mut watches[0]).await, "A");
    place.fails(failure.clone());
    assert_eq!(end_of(&mut watches[0]).await, ValidationError::Provider(failure.clone()));
    assert_eq!(place.polls(), 0);
    let asked = place.asked();
    // A reader that is late hears the last status and then the end, as one in time did.
    for watch in &mut watches[1..] {
        assert_eq!(told(watch).await, "A");
        assert_eq!(end_of(watch).await, ValidationError::Provider(failure.clone()));
    }
    assert_eq!(place.asked(), asked);

    // The next one begins anew, and those who hear of it late do not end it by leaving.
    place.shows("B");
    tokio::time::sleep(MINUTE).await;
    let mut next = place.watch(MINUTE);
    assert_eq!(told(&mut next).await, "B");
    drop(watches);
    assert_eq!((place.polls(), place.places()), (1, 999));
    place.shows("C");
    assert_eq!(told(&mut next).await, "C");
}

#[tokio::test(start_paused = true)]
async fn a_bug_is_told_and_leaves_nothing_behind() {
    let place = Place::open();
    *place.office.panics.lock().unwrap() = true;
    let mut watch = place.watch(MINUTE);
    assert_eq!(end_of(&mut watch).await, ValidationError::Panicked);
    drop(watch);
    assert_eq!((place.polls(), place.places()), (0, 1000));
}

#[test]
fn a_poll_that_the_runtime_takes_down_says_a_last_word() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (place, mut watch) = runtime.block_on(async {
        let place = Place::open();
        let mut watch = place.watch(MINUTE);
        assert_eq!(told(&mut watch).await, "A");
        (place, watch)
    });
    drop(runtime);
    assert_eq!(place.polls(), 0);
    let after = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(after.block_on(watch.next()).unwrap_err(), ValidationError::Panicked);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_watch_at_once() {
    let place = Place::with(ValidationSettings { max_watches: 2, ..ValidationSettings::default() });
    let (one, _two) = (place.watch(MINUTE), place.validation.watch(order("2")).unwrap());
    assert_eq!(place.validation.watch(order("3")).err(), Some(ValidationError::TooManyWatches));
    assert_eq!(place.polls(), 2);
    drop(one);
    assert!(place.validation.watch(order("3")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_watch_and_the_polls() {
    let place = Place::open();
    let (mut idle, unread) = (place.watch(MINUTE), place.watch(MINUTE));
    assert_eq!(told(&mut idle).await, "A");
    let (end, ()) = tokio::join!(end_of(&mut idle), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        place.validation.drain(MINUTE).await;
    });
    assert_eq!(end, ValidationError::Draining);
    let asked = place.asked();
    tokio::time::sleep(HOUR).await;
    assert_eq!((place.asked(), place.polls()), (asked, 0), "nobody is asked for one who does not listen");
    assert_eq!(place.validation.watch(order("2")).err(), Some(ValidationError::Draining));
    drop((idle, unread));
    assert_eq!(place.places(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_look_is_shared_with_who_asks_once() {
    let place = Place::open();
    *place.office.takes.lock().unwrap() = Duration::from_secs(5);
    let mut watch = place.watch(MINUTE);
    let (page, once) = tokio::join!(told(&mut watch), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        place.validation.get(ask("1", 0)).await.unwrap()
    });
    assert_eq!((page.as_str(), once.page().product_name.as_str(), place.asked()), ("A", "A", 1));
}

#[tokio::test(start_paused = true)]
async fn only_sectigos_orders_can_be_watched() {
    let place = Place::open();
    let of = |name: &str| WatchRequest { account: AccountName::parse(name).unwrap(), ..order("1") };
    let refusal = |name: &str| place.validation.watch(of(name)).err().unwrap();
    assert!(matches!(refusal("nobody"), ValidationError::AccountNotFound(_)));
    assert!(matches!(refusal("namecom"), ValidationError::NotSectigo { .. }));
    assert_eq!((place.polls(), place.places()), (0, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_they_come_and_go_nothing_stays_behind() {
    let settings =
        ValidationSettings { watch_interval_min: Duration::from_micros(50), ..ValidationSettings::default() };
    let place = Arc::new(Place::with(settings));
    let comers = (0..64_u32).map(|number| {
        let place = place.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let interval = Some(Duration::from_micros(u64::from(number * 7 + round) % 300));
                let request = WatchRequest { interval, ..order(&(number % 3).to_string()) };
                let mut watch = place.validation.watch(request).unwrap();
                if round % 3 != 0 {
                    assert_eq!(told(&mut watch).await, "A");
                }
            }
        })
    });
    for comer in join_all(comers).await {
        comer.unwrap();
    }
    assert_eq!((place.polls(), place.places()), (0, 1000));
}

#[rstest]
#[case(30, 0, 30)]
#[case(30, 1, 30)]
#[case(30, 2, 60)]
#[case(30, 5, 480)]
#[case(30, 6, 600)]
#[case(30, u32::MAX, 600)]
#[case(3600, 9, 3600)]
fn a_rest_doubles_with_each_failure_up_to_ten_minutes(#[case] interval: u64, #[case] failures: u32, #[case] rest: u64) {
    assert_eq!(poll_delay(Duration::from_secs(interval), failures, 0), Duration::from_secs(rest));
}

proptest! {
    #[test]
    fn a_rest_is_never_shorter_than_the_interval(millis in 1_u64..=86_400_000, failures: u32, dice: u16) {
        let interval = Duration::from_millis(millis);
        let rest = poll_delay(interval, failures, dice);
        prop_assert!(rest >= interval && rest <= interval.max(MAX_BACKOFF) * 11 / 10);
        prop_assert!(rest >= poll_delay(interval, failures, 0));
    }
}
