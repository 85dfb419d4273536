//! The rate limiter and the circuit breaker: every request waits for permission, and one that is
//! not sent gives its permission back.

use std::sync::atomic::Ordering;

use super::*;
use crate::domain::authority::Authority;
use crate::domain::outcome::AccountSignal;
use crate::engine::circuit_breaker::Permission;

fn order(number: u32) -> Intent {
    let target = SectigoTarget::new(&format!("{}", 1_000_001 + number), 11).unwrap();
    intent(&format!("r{number}"), Target::Sectigo(target))
}

/// The engine's account with a half-open circuit breaker: one refund may be sent.
fn half_open(engine: &Engine) -> Arc<AccountRuntime> {
    let account = only_account(engine);
    account.record_result(
        account.generation(),
        AccountSignal::CredentialsRefused,
        &Refund::new(order(0), place(), NOW),
    );
    assert!(account.is_open());
    account.record_lookup(AccountSignal::Healthy, true);
    assert_eq!(account.permission(), Permission::One);
    account
}

#[tokio::test]
async fn no_request_is_sent_before_the_rate_limiter_permits_it() {
    let bench = Bench::new();
    let doubtful = bench.refund(sectigo("doubtful"), &doubted()).await;
    let begin = Instant::now();
    let engine =
        bench.engine_with(ProviderKind::Sectigo, Currency::USD, |account| account.requests_per_second = 20).await;
    let creates = (1..=6).map(|number| {
        engine.create(CreateCommand {
            intent: order(number),
            allow_similar: false,
            by: Authority::unrestricted(),
            answer_by: Instant::now() + LIMIT,
            wait_until: Instant::now() + LIMIT,
            trace_parent: None,
        })
    });
    for created in futures_util::future::join_all(creates).await {
        assert_eq!(created.unwrap().refund.state, State::Succeeded);
    }
    let answer = bench.next_lookup();
    answer.send(Lookup::not_found("Processed")).unwrap();
    engine.reconcile(doubtful.id(), Authority::unrestricted()).await.unwrap();

    let calls = bench.provider.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 7, "six refunds and a lookup");
    // Twenty a second: a slow machine makes them later, never earlier.
    for (number, at) in (0..).zip(calls) {
        let (after, least) = (at - begin, Duration::from_millis(50) * number);
        assert!(after >= least, "request {number} was sent after {after:?} instead of {least:?}");
    }
}

/// Otherwise a new refund is sent in the commit that records it.
#[tokio::test]
async fn a_new_refund_does_not_overtake_older_ones() {
    let bench = Bench::new();
    let one_slot = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, one_slot).await;
    let account = only_account(&engine);
    // Nothing is awaited from here on, so the workers do not run.
    account.has_backlog.store(false, Ordering::Release);
    let slot = account.try_acquire_for_new();
    assert!(slot.is_some());
    assert!(account.try_acquire_for_new().is_none(), "the only slot is taken");
    drop(slot);
    account.has_backlog.store(true, Ordering::Release);
    assert!(account.try_acquire_for_new().is_none(), "older refunds wait");
    account.has_backlog.store(false, Ordering::Release);
    assert!(account.try_acquire_for_new().is_some());
    half_open(&engine);
    assert!(account.try_acquire_for_new().is_none(), "one refund may be sent, and that is the oldest");

    let slowly = |account: &mut Account| account.requests_per_second = 1;
    let account = only_account(&Bench::new().engine_with(ProviderKind::Sectigo, Currency::USD, slowly).await);
    account.has_backlog.store(false, Ordering::Release);
    let slots = [account.try_acquire_for_new(), account.try_acquire_for_new()];
    assert_eq!(slots.map(|slot| slot.is_some()), [true, false], "one a second");
}

/// Otherwise no refund would be sent until the next start.
#[tokio::test]
async fn an_attempt_that_could_not_begin_releases_its_permission() {
    let bench = Bench::new();
    let refund = bench.refund(order(1), &backed_off()).await;
    let engine = bench.engine().await;
    let account = half_open(&engine);
    engine.cancel(refund.id(), None, Authority::unrestricted()).await.unwrap();
    for (refund, expected) in [
        // It was cancelled after it was read.
        (refund, Ok(None)),
        (Refund::new(order(2), place(), NOW), Err(LedgerError::NotFound(order(2).id))),
    ] {
        let generation = account.try_acquire_permission().unwrap();
        assert_eq!(account.permission(), Permission::None);
        assert_eq!(attempt::begin(&engine.0, &account, &refund, generation, None).await, expected);
        assert_eq!(account.permission(), Permission::One, "the next attempt may have it");
    }
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
}

/// The disk stalled while one more attempt was recorded, until the key had expired.
#[tokio::test]
async fn an_attempt_that_must_not_be_sent_any_more_releases_its_permission() {
    let key_lifetime = Duration::from_secs(3_000);
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let replays = |account: &mut Account| account.contract.deduplication = Deduplication::Replay { key_lifetime };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, replays).await;
    let account = half_open(&engine);
    bench.ledger.holding.send_replace(true);
    bench.clock.advance(Duration::from_secs(10));
    account.reconcile_notify.notify_one();
    reaches(&bench.ledger.held, 1).await;
    assert_eq!(account.permission(), Permission::None);
    assert_eq!(engine.get(refund.id()).await.unwrap().state, State::Dispatching, "on disk before it is sent");

    bench.clock.advance(key_lifetime);
    bench.ledger.holding.send_replace(false);
    let after = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count, after.unanswered_attempts), (State::InDoubt, 2, 1));
    assert_eq!(account.permission(), Permission::One, "the next attempt may have it");
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0, "nothing was sent");
}
