//! Turns at the provider: each request waits for its own, and one that comes to nothing gives it
//! back.

use super::*;
use crate::engine::circuit_breaker::{Permission, Signal};

fn order(number: u32) -> Intent {
    let target = SectigoTarget::new(&format!("{}", 1_000_001 + number), 11).unwrap();
    intent(&format!("r{number}"), Target::Sectigo(target))
}

fn configured_account(engine: &Engine) -> Arc<AccountRuntime> {
    engine.0.lanes.values().next().unwrap().clone()
}

/// The lane of the engine's account, half open: one refund may be sent.
fn half_open(engine: &Engine) -> Arc<AccountRuntime> {
    let lane = configured_account(engine);
    lane.note(lane.era(), Signal::CredentialsRefused);
    assert!(lane.is_open());
    lane.record_probe(&Signal::Healthy, true);
    assert_eq!(lane.stance(), Permission::One);
    lane
}

#[tokio::test]
async fn no_request_leaves_before_its_turn() {
    let bench = Bench::new();
    let doubtful = bench.refund(sectigo("doubtful"), &doubted()).await;
    let begin = Instant::now();
    let engine =
        bench.engine_with(ProviderKind::Sectigo, Currency::USD, |account| account.requests_per_second = 20).await;
    let creates = (1..=6).map(|number| {
        engine.create(CreateCommand {
            intent: order(number),
            allow_similar: false,
            actor: "caller".to_owned(),
            answer_by: Instant::now() + LIMIT,
            wait_until: Instant::now() + LIMIT,
            trace_parent: None,
        })
    });
    for created in futures_util::future::join_all(creates).await {
        assert_eq!(created.unwrap().refund.state, State::Succeeded);
    }
    let answer = bench.next_look();
    answer.send(Lookup::not_found("Processed")).unwrap();
    engine.reconcile(doubtful.id(), "caller").await.unwrap();

    let calls = bench.provider.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 7, "six refunds and a lookup");
    // Twenty a second: a slow machine makes them later, and nothing earlier.
    for (turn, at) in (0..).zip(calls) {
        let (after, least) = (at - begin, Duration::from_millis(50) * turn);
        assert!(after >= least, "request {turn} left after {after:?} and not {least:?}");
    }
}

/// It is sent in the commit that records it, where nothing speaks against that.
#[tokio::test]
async fn a_newcomer_overtakes_no_other() {
    let bench = Bench::new();
    let one_slot = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, one_slot).await;
    let lane = configured_account(&engine);
    // Nothing is awaited from here on, so the drivers do not move.
    lane.backlog.store(false, Ordering::Release);
    let slot = lane.try_acquire_for_new();
    assert!(slot.is_some());
    assert!(lane.try_acquire_for_new().is_none(), "the only slot is taken");
    drop(slot);
    lane.backlog.store(true, Ordering::Release);
    assert!(lane.try_acquire_for_new().is_none(), "older ones wait");
    lane.backlog.store(false, Ordering::Release);
    assert!(lane.try_acquire_for_new().is_some());
    half_open(&engine);
    assert!(lane.try_acquire_for_new().is_none(), "one refund may be sent, and the oldest is");

    let slowly = |account: &mut Account| account.requests_per_second = 1;
    let lane = configured_account(&Bench::new().engine_with(ProviderKind::Sectigo, Currency::USD, slowly).await);
    lane.backlog.store(false, Ordering::Release);
    let slots = [lane.try_acquire_for_new(), lane.try_acquire_for_new()];
    assert_eq!(slots.map(|slot| slot.is_some()), [true, false], "one a second");
}

/// What is sent next needs the turn, or nothing is sent until the next start.
#[tokio::test]
async fn an_attempt_that_could_not_begin_gives_its_turn_back() {
    let bench = Bench::new();
    let refund = bench.refund(order(1), &put_off()).await;
    let engine = bench.engine().await;
    let lane = half_open(&engine);
    engine.cancel(refund.id(), None, "caller").await.unwrap();
    for (refund, expected) in [
        // It has been withdrawn since it was read.
        (refund, Ok(None)),
        (Refund::new(order(2), place(), NOW), Err(LedgerError::NotFound(order(2).id))),
    ] {
        let era = lane.try_acquire_probe().unwrap();
        assert_eq!(lane.stance(), Permission::None);
        assert_eq!(step::begin_attempt(&engine.0, &lane, &refund, era, None).await, expected);
        assert_eq!(lane.stance(), Permission::One, "the next one may have it");
    }
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
}

/// The disk stood still while one more attempt was recorded, for so long that the key has died.
#[tokio::test]
async fn an_attempt_that_must_not_be_sent_any_more_gives_its_turn_back() {
    let key_lifetime = Duration::from_secs(3_000);
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let replays = |account: &mut Account| account.contract.deduplication = Deduplication::Replay { key_lifetime };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, replays).await;
    let lane = half_open(&engine);
    bench.ledger.holding.send_replace(true);
    bench.clock.advance(Duration::from_secs(10));
    lane.reconcile_notify.notify_one();
    reaches(&bench.ledger.held, 1).await;
    assert_eq!(lane.stance(), Permission::None);
    assert_eq!(engine.get(refund.id()).await.unwrap().state, State::Dispatching, "on disk before it is sent");

    bench.clock.advance(key_lifetime);
    bench.ledger.holding.send_replace(false);
    let after = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count, after.unanswered_attempts), (State::InDoubt, 2, 1));
    assert_eq!(lane.stance(), Permission::One, "the next one may have it");
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0, "nothing was sent");
}
