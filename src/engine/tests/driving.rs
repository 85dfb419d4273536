//! What the drivers find due, how far they read, and whether a newcomer may go before it.

use futures_util::FutureExt as _;
use rstest::rstest;

use super::*;
use crate::domain::outcome::Heard;
use crate::engine::circuit::{Sign, Stance};

fn order(number: u32) -> Intent {
    let target = SectigoTarget::new(&(1_000_001 + number).to_string(), 11).unwrap();
    intent(&format!("r{number}"), Target::Sectigo(target))
}

fn lane_of(engine: &Engine) -> Arc<Lane> {
    engine.0.lanes.values().next().unwrap().clone()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A newcomer is sent in the commit that records it, unless older refunds wait for a slot.
#[tokio::test]
async fn newcomers_queue_behind_what_waits_for_a_slot_and_behind_nothing_else() {
    let bench = Bench::new();
    let one_slot = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(Provider::Sectigo, Currency::USD, one_slot).await;
    let lane = lane_of(&engine);
    until("nothing waits", || !lane.backlog.load(Ordering::Acquire)).await;
    let slot = lane.slots.clone().acquire_owned().await.unwrap();
    let refund = bench.refund(order(1), &[]).await;
    lane.bell.notify_one();
    until("one waits", || lane.backlog.load(Ordering::Acquire)).await;
    drop(slot);
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Succeeded);
    until("nothing waits any more", || !lane.backlog.load(Ordering::Acquire)).await;
}

/// Refunds that have moved here wait anew, and are older than one that did not move.
#[tokio::test]
async fn what_has_waited_too_long_is_given_up_behind_any_number_that_moved() {
    let (bench, limit) = (Bench::new(), Duration::from_secs(86_400));
    let mut moves = Vec::new();
    for number in 0..64 {
        moves.push(bench.refund(order(number), &put_off()).await);
    }
    let last = bench.refund(order(64), &put_off()).await;
    for refund in moves {
        let elsewhere = Place { login: "former".to_owned(), ..place() };
        for (to, at) in [(elsewhere, NOW), (place(), NOW.plus(limit))] {
            let refund = bench.ledger.inner.get(refund.id()).await.unwrap().unwrap();
            let reassign = Reassign {
                id: refund.id().clone(),
                revision: refund.revision,
                to: Destination { account: refund.account.clone(), place: to },
                related: RelatedLogins::default(),
                judge_similar: false,
                evidence: "one set of books".to_owned(),
                actor: "operator".to_owned(),
                now: at,
            };
            bench.ledger.inner.reassign(reassign).await.unwrap();
        }
    }
    bench.clock.advance(limit);
    let engine = bench.engine_with(Provider::Sectigo, Currency::USD, |account| account.requests_per_hour = 1).await;
    let after = engine.wait(last.id(), last.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::Failed, 1));
}

/// The queue may be long, and its oldest tell when the next one is to be given up.
#[tokio::test]
async fn no_more_of_the_queue_is_read_than_tells_when_the_next_one_is_given_up() {
    let bench = Bench::new();
    for number in 0..65 {
        bench.refund(order(number), &put_off()).await;
    }
    let engine = bench.engine().await;
    let lane = lane_of(&engine);
    until("nothing is due", || !lane.backlog.load(Ordering::Acquire)).await;
    assert_eq!(*bench.ledger.skipped.lock().unwrap(), [0], "one read, of the oldest");
}

/// A wrong order number may be answered like a wrong password: each waiting refund has its turn.
#[tokio::test]
async fn a_suspended_account_is_tried_with_each_refund_that_waits() {
    let bench = Bench::new();
    for number in 1..=4 {
        bench.refund(order(number), &put_off()).await;
    }
    let [dispatched, _] = put_off();
    bench.refund(order(5), &[dispatched, Event::Refunded(Confirmation::default())]).await;
    // Newer ones of an account that is not configured any more.
    for number in 100..164 {
        let intent = Intent { account: AccountName::parse("other").unwrap(), ..order(number) };
        bench.refund(intent, &put_off()).await;
    }
    let engine = bench.engine().await;
    let lane = lane_of(&engine);
    lane.note(lane.era(), Sign::CredentialsRefused);
    for asked in 1..=4 {
        let answer = bench.next_look();
        // Due now, and not only after a pause.
        lane.credentials_changed();
        assert_eq!(lane.stance(), Stance::Probe);
        reaches(&bench.provider.asked, asked).await;
        answer.send(Lookup::unavailable("no connection")).unwrap();
        until("it was in vain", || matches!(lane.stance(), Stance::Shut(_))).await;
    }
    let looked_up = bench.provider.looked_up.lock().unwrap().clone();
    assert_eq!(looked_up, [1, 4, 2, 3].map(|number| order(number).id), "the oldest and the newest in turn");
}

/// They become due some at a time.
#[tokio::test]
async fn a_recovery_makes_all_due_that_had_no_usable_lookup() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let far = Some(NOW.plus(Duration::from_secs(86_400)));
    let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check: far, unheard: true };
    bench.ledger.inner.reschedule(reschedule).await.unwrap();
    *bench.ledger.begun.lock().unwrap() = 3;
    let answer = bench.next_look();
    let _engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    drop(answer);
}

/// Nothing but the time that passes wakes the driver.
#[tokio::test]
async fn a_lookup_is_made_once_it_is_due_and_not_half_a_minute_later() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let soon = Duration::from_millis(200);
    let (id, revision, next_check) = (refund.id().clone(), refund.revision, Some(NOW.plus(soon)));
    let reschedule = Reschedule { id, revision, next_check, unheard: false };
    bench.ledger.inner.reschedule(reschedule).await.unwrap();
    let answer = bench.next_look();
    let _engine = bench.engine().await;
    reaches(&bench.ledger.asked, 1).await;
    bench.clock.advance(soon);
    reaches(&bench.provider.asked, 1).await;
    drop(answer);
}

/// The file of a secret is read again at once where the provider refuses what was read before, and
/// not otherwise. Sectigo answers a wrong login like an order of another account.
#[rstest]
#[case::nothing(Heard::Nothing, false)]
#[case::refused(Heard::LoginRefused, true)]
#[case::another_accounts_order(Heard::NotOurs, true)]
#[case::no_target(Heard::NoTarget, false)]
#[case::not_dispatched(Heard::NotDispatched, false)]
#[tokio::test]
async fn a_refused_secret_is_read_again(#[case] heard: Heard, #[case] is_refused: bool) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let lane = lane_of(&engine);
    let was_refused = || lane.account.secret.was_refused().now_or_never().is_some();
    lane.note(lane.era(), Sign::Works);
    assert!(!was_refused(), "it works");
    let evidence = "odd".to_owned();
    bench.next_look().send(Lookup::Unavailable { evidence, heard }).unwrap();
    engine.reconcile(refund.id(), "caller").await.unwrap();
    assert_eq!(was_refused(), is_refused);
    lane.note(lane.era(), Sign::CredentialsRefused);
    assert!(was_refused(), "by the answer to an attempt");
}

/// So many reads of the ledger that drivers that do not sleep would ask it many times meanwhile.
async fn meanwhile(engine: &Engine) {
    for _ in 0..50 {
        engine.list(ListQuery::default()).await.unwrap();
    }
}

#[tokio::test]
async fn drivers_sleep_where_nothing_is_due() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    reaches(&bench.ledger.asked, 1).await;
    reaches(&bench.ledger.asked_to_send, 1).await;
    meanwhile(&engine).await;
    // A bell that rang before they began to sleep wakes them once more.
    assert!(*bench.ledger.asked.borrow() <= 3 && *bench.ledger.asked_to_send.borrow() <= 3);
}

/// The end of the lookup wakes the driver.
#[tokio::test]
async fn a_driver_sleeps_while_all_that_is_due_is_looked_up() {
    let bench = Bench::new();
    bench.refund(sectigo("r"), &doubted()).await;
    let answer = bench.next_look();
    bench.clock.advance(Duration::from_secs(10));
    let engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    // The second time it finds nothing but what is looked up already.
    reaches(&bench.ledger.found, 2).await;
    meanwhile(&engine).await;
    assert_eq!(*bench.ledger.asked.borrow(), 0, "nothing else can become due");
    answer.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    reaches(&bench.ledger.asked, 1).await;
}

/// The driver sleeps as long as the account is suspended, and a lookup that is answered wakes it.
#[tokio::test]
async fn what_waits_is_sent_as_soon_as_its_account_is_answered() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let lane = lane_of(&engine);
    reaches(&bench.ledger.asked_to_send, 1).await;
    for _ in 0..5 {
        lane.note(lane.era(), Sign::Fails);
    }
    // Until the pause is longer than this test.
    for _ in 0..6 {
        lane.note_look(&Sign::Fails, true);
    }
    let refund = bench.refund(order(1), &[]).await;
    meanwhile(&engine).await;
    assert_eq!(engine.get(refund.id()).await.unwrap().state, State::Pending);
    lane.note_look(&Sign::Works, false);
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((sent.state, lane.stance()), (State::Succeeded, Stance::Free));
}
