//! Which connection is closed for which, with the clock under control.

use futures_util::FutureExt as _;
use rstest::rstest;
use tokio::time::advance;

use super::*;

const MAX: usize = 4;

fn registry() -> ConnectionRegistry {
    ConnectionRegistry::new(MAX, Metrics::off())
}

fn source(number: u8) -> Source {
    Source::V4(Ipv4Addr::new(127, 0, 0, number))
}

/// A connection of a source of its own, a second after the one before.
async fn open(registry: &ConnectionRegistry, number: u8, phase: Phase) -> ConnectionPlace {
    let opened = registry.register(&"listen".into(), source(number), 0);
    if phase != Phase::Opening {
        opened.mark_open();
    }
    if phase == Phase::Authenticated {
        registry.mark_authenticated(opened.id);
    }
    advance(Duration::from_secs(1)).await;
    opened
}

fn is_closed(place: &ConnectionPlace) -> bool {
    place.signal.is_closed.load(Ordering::SeqCst)
}

fn closed(places: &[ConnectionPlace]) -> Vec<usize> {
    (0..places.len()).filter(|at| is_closed(&places[*at])).collect()
}

/// Four connections, then a newcomer, some seconds later.
#[rstest]
#[case::the_first_in_its_handshake(
    [Phase::Authenticated, Phase::Opening, Phase::Opening, Phase::Anonymous], 0, &[1])]
#[case::one_that_does_not_call([Phase::Authenticated, Phase::Authenticated, Phase::Anonymous, Phase::Anonymous], 10, &[2])]
#[case::the_longest_idle([Phase::Authenticated, Phase::Authenticated, Phase::Anonymous, Phase::Authenticated], 0, &[0])]
#[case::many_that_have_not_called(
    [Phase::Authenticated, Phase::Anonymous, Phase::Anonymous, Phase::Anonymous], 0, &[1])]
#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_the_place_of_the_least_useful(
    #[case] phases: [Phase; MAX],
    #[case] wait_s: u64,
    #[case] expected: &[usize],
) {
    let registry = registry();
    let mut connections = Vec::new();
    for (number, phase) in (1..).zip(phases) {
        connections.push(open(&registry, number, phase).await);
    }
    assert!(closed(&connections).is_empty());
    advance(Duration::from_secs(wait_s)).await;
    let newcomer = open(&registry, 9, Phase::Opening).await;
    assert_eq!((closed(&connections).as_slice(), is_closed(&newcomer)), (expected, false));
}

/// In a flood, a client that is just sending its preface keeps its place.
#[tokio::test(start_paused = true)]
async fn of_many_newcomers_the_oldest_is_closed_and_not_the_one_that_is_opening() {
    let registry = registry();
    let mut connections = Vec::new();
    for number in 1..=3 {
        connections.push(open(&registry, number, Phase::Anonymous).await);
    }
    let listener = Arc::<str>::from("listen");
    connections.push(registry.register(&listener, source(8), 0));
    advance(OPENING_TIME / 2).await;
    let newcomer = registry.register(&listener, source(9), 0);
    assert_eq!((closed(&connections), is_closed(&newcomer)), (vec![0], false));
    advance(OPENING_TIME).await;
    let _next = registry.register(&listener, source(10), 0);
    assert_eq!(closed(&connections), [0, 3], "it had its time");
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_call_in_progress_is_never_closed_for_another() {
    let registry = registry();
    let mut connections = Vec::new();
    for number in 1..=4 {
        connections.push(open(&registry, number, Phase::Anonymous).await);
        assert!(registry.begin_stream(connections.last().unwrap().id));
    }
    let newcomer = open(&registry, 9, Phase::Opening).await;
    assert_eq!((closed(&connections), is_closed(&newcomer)), (vec![], true), "there is no other");
    drop(newcomer);
    // One of its two calls has ended.
    assert!(registry.begin_stream(connections[0].id));
    registry.end_stream(connections[0].id);
    registry.end_stream(connections[2].id);
    let newcomer = open(&registry, 10, Phase::Opening).await;
    assert_eq!((closed(&connections), is_closed(&newcomer)), (vec![2], false));
    assert!(!registry.begin_stream(connections[2].id), "its answer could not be delivered");
}

/// What is idle longest counts from the end of the last call.
#[tokio::test(start_paused = true)]
async fn a_call_makes_a_connection_young_again() {
    let registry = registry();
    let mut connections = Vec::new();
    for number in 1..=4 {
        connections.push(open(&registry, number, Phase::Authenticated).await);
    }
    registry.begin_stream(connections[0].id);
    registry.end_stream(connections[0].id);
    let _newcomer = open(&registry, 9, Phase::Opening).await;
    assert_eq!(closed(&connections), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_opens_too_many_closes_its_own() {
    let registry = ConnectionRegistry::new(10_000, Metrics::off());
    let (one, two) = (Arc::<str>::from("one"), Arc::<str>::from("two"));
    let known = registry.register(&one, source(1), 3);
    known.mark_open();
    registry.mark_authenticated(known.id);
    let others: Vec<_> = (0..3).map(|_| registry.register(&one, source(2), 3)).collect();
    let elsewhere: Vec<_> = (0..3).map(|_| registry.register(&two, source(1), 3)).collect();
    let own: Vec<_> = (0..5).map(|_| registry.register(&one, source(1), 3)).collect();
    assert_eq!(closed(&own), [0, 1, 2]);
    assert!(!is_closed(&known));
    assert_eq!((closed(&others), closed(&elsewhere)), (vec![], vec![]));
    let without_limit: Vec<_> = (0..100).map(|_| registry.register(&one, source(3), 0)).collect();
    assert!(closed(&without_limit).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quarter_of_a_source_may_be_without_an_authenticated_call() {
    let registry = ConnectionRegistry::new(10_000, Metrics::off());
    let listener = Arc::<str>::from("listen");
    let mut known = Vec::new();
    for _ in 0..100 {
        let one = registry.register(&listener, source(1), 256);
        one.mark_open();
        registry.mark_authenticated(one.id);
        known.push(one);
    }
    // A first call that takes long does not count: it holds a permit of its own.
    let first = registry.register(&listener, source(1), 256);
    first.mark_open();
    assert!(registry.begin_stream(first.id));
    let mut anonymous: Vec<_> = (0..64).map(|_| registry.register(&listener, source(1), 256)).collect();
    assert!(closed(&anonymous).is_empty());
    anonymous.push(registry.register(&listener, source(1), 256));
    assert_eq!(closed(&anonymous), [0]);
    assert_eq!((closed(&known), is_closed(&first)), (vec![], false));
}

#[rstest]
#[case("10.0.0.1", "10.0.0.2", false)]
#[case("10.0.0.1", "::ffff:10.0.0.1", true)]
#[case("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true)]
#[case("2001:db8:1:2::1", "2001:db8:1:3::1", false)]
fn a_source_is_an_address_or_a_network_of_64_bits(#[case] one: &str, #[case] other: &str, #[case] same: bool) {
    let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(source(one) == source(other), same);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_and_those_in_a_call_are_not() {
    let registry = registry();
    let sweeping = tokio::spawn({
        let registry = registry.clone();
        async move { registry.close_idle().await }
    });
    let idle = open(&registry, 1, Phase::Anonymous).await;
    let busy = open(&registry, 2, Phase::Authenticated).await;
    let opening = open(&registry, 3, Phase::Opening).await;
    assert!(registry.begin_stream(busy.id));
    tokio::time::sleep(IDLE_TIME - Duration::from_secs(5)).await;
    assert!(!is_closed(&idle));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(is_closed(&idle) && !is_closed(&busy) && !is_closed(&opening));
    tokio::time::sleep(IDLE_TIME).await;
    assert!(!is_closed(&busy));
    registry.end_stream(busy.id);
    tokio::time::sleep(IDLE_TIME - Duration::from_secs(5)).await;
    assert!(!is_closed(&busy), "it was idle from the end of its call on");
    tokio::time::sleep(IDLE_TIME).await;
    assert!(is_closed(&busy));
    sweeping.abort();
}

/// Closed sockets are open until their task has dropped them: they must not use up the files.
#[tokio::test(start_paused = true)]
async fn accepting_waits_until_closed_connections_have_ended() {
    let registry = registry();
    let listener = Arc::<str>::from("listen");
    let mut connections: Vec<_> =
        (0..MAX + MAX_ENDING + 1).map(|_| registry.register(&listener, source(1), 0)).collect();
    assert_eq!(closed(&connections).len(), MAX_ENDING + 1);
    let mut waiting = std::pin::pin!(registry.wait_for_ending());
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(connections.remove(0));
    assert!(waiting.now_or_never().is_some());
    assert_eq!(registry.counts()[&listener], MAX + MAX_ENDING);
}
