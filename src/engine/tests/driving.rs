//! What the workers find due, how far they read, and when they sleep.

use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use rstest::rstest;

use super::*;
use crate::domain::authority::Authority;
use crate::engine::circuit_breaker::Permission;

fn order(number: u32) -> Intent {
    let target = SectigoTarget::new(&(1_000_001 + number).to_string(), 11).unwrap();
    intent(&format!("r{number}"), Target::Sectigo(target))
}

/// A new refund is sent in the commit that records it, unless older ones wait for a slot.
#[tokio::test]
async fn new_refunds_queue_only_behind_those_that_wait_for_a_slot() {
    let bench = Bench::new();
    let one_slot = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, one_slot).await;
    let account = only_account(&engine);
    until("nothing waits", || !account.has_backlog.load(Ordering::Acquire)).await;
    let slot = account.attempt_slots.clone().acquire_owned().await.unwrap();
    let refund = bench.refund(order(1), &[]).await;
    account.dispatch_notify.notify_one();
    until("one waits", || account.has_backlog.load(Ordering::Acquire)).await;
    drop(slot);
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Succeeded);
    until("nothing waits any more", || !account.has_backlog.load(Ordering::Acquire)).await;
}

/// A refund that was moved here starts to wait anew, and is older than one that was not moved.
#[tokio::test]
async fn a_refund_expires_behind_any_number_of_moved_ones() {
    let (bench, limit) = (Bench::new(), Duration::from_secs(86_400));
    let mut moves = Vec::new();
    for number in 0..64 {
        moves.push(bench.refund(order(number), &backed_off()).await);
    }
    let last = bench.refund(order(64), &backed_off()).await;
    for refund in moves {
        let elsewhere = Place { login: "former".to_owned(), ..place() };
        for (to, at) in [(elsewhere, NOW), (place(), NOW.saturating_add(limit))] {
            let refund = bench.ledger.inner.get(refund.id()).await.unwrap().unwrap();
            let reassign = Reassign {
                id: refund.id().clone(),
                revision: refund.revision,
                to: Destination { account: refund.account.clone(), place: to },
                related: RelatedLogins::default(),
                reject_similar: false,
                evidence: "one set of records".to_owned(),
                actor: Authority::unrestricted().actor,
                now: at,
            };
            bench.ledger.inner.reassign(reassign).await.unwrap();
        }
    }
    bench.clock.advance(limit);
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, |account| account.requests_per_hour = 1).await;
    let after = engine.wait(last.id(), last.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::Failed, 1));
}

/// The queue may be long, and its oldest refunds show when the next one expires.
#[tokio::test]
async fn only_the_oldest_refunds_are_read_to_find_the_next_expiry() {
    let bench = Bench::new();
    for number in 0..65 {
        bench.refund(order(number), &backed_off()).await;
    }
    let engine = bench.engine().await;
    let account = only_account(&engine);
    until("nothing is due", || !account.has_backlog.load(Ordering::Acquire)).await;
    assert_eq!(*bench.ledger.expiry_skips.lock().unwrap(), [0], "one read, of the oldest");
}

/// A wrong order number may be answered like a wrong password, so the probes use every refund.
#[tokio::test]
async fn a_suspended_account_is_probed_with_each_waiting_refund() {
    let bench = Bench::new();
    for number in 1..=4 {
        bench.refund(order(number), &backed_off()).await;
    }
    let [dispatched, _] = backed_off();
    bench.refund(order(5), &[dispatched, Event::Refunded(Confirmation::default())]).await;
    // Newer ones of an account that is not configured any more.
    for number in 100..164 {
        let intent = Intent { account: AccountName::parse("other").unwrap(), ..order(number) };
        bench.refund(intent, &backed_off()).await;
    }
    let engine = bench.engine().await;
    let account = only_account(&engine);
    record_signal(&account, AccountSignal::CredentialsRefused);
    for asked in 1..=4 {
        let answer = bench.next_lookup();
        // Due now, and not only after a pause.
        account.credentials_changed();
        assert_eq!(account.permission(), Permission::ProbeDue);
        reaches(&bench.provider.asked, asked).await;
        answer.send(Lookup::unavailable("no connection")).unwrap();
        until("the probe fails", || matches!(account.permission(), Permission::Until(_))).await;
    }
    let looked_up = bench.provider.looked_up.lock().unwrap().clone();
    assert_eq!(looked_up, [1, 4, 2, 3].map(|number| order(number).id), "the oldest and the newest in turn");
}

/// The ledger makes a part of them due in each call.
#[tokio::test]
async fn a_recovery_makes_every_refund_without_a_usable_lookup_due() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let far = Some(NOW.saturating_add(Duration::from_secs(86_400)));
    let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check: far, unheard: true };
    bench.ledger.inner.reschedule(reschedule).await.unwrap();
    *bench.ledger.unfinished.lock().unwrap() = 3;
    let answer = bench.next_lookup();
    let _engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    drop(answer);
}

/// Only the passing of time wakes the worker.
#[tokio::test]
async fn a_lookup_is_made_once_it_is_due_and_not_half_a_minute_later() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let soon = Duration::from_millis(200);
    let (id, revision, next_check) = (refund.id().clone(), refund.revision, Some(NOW.saturating_add(soon)));
    let reschedule = Reschedule { id, revision, next_check, unheard: false };
    bench.ledger.inner.reschedule(reschedule).await.unwrap();
    let answer = bench.next_lookup();
    let _engine = bench.engine().await;
    reaches(&bench.ledger.next_lookup_queries, 1).await;
    bench.clock.advance(soon);
    reaches(&bench.provider.asked, 1).await;
    drop(answer);
}

/// The secret is read from its file again as soon as the provider refuses it, and only then.
/// Sectigo answers a wrong login like an order of another account.
#[rstest]
#[case::no_answer(AccountSignal::Failure, false)]
#[case::refused(AccountSignal::CredentialsRefused, true)]
#[case::foreign_target(AccountSignal::ForeignTarget, true)]
#[case::answered(AccountSignal::Healthy, false)]
#[tokio::test]
async fn a_refused_secret_is_read_again(#[case] signal: AccountSignal, #[case] is_refused: bool) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let account = only_account(&engine);
    let was_refused = || account.configured.secret.wait_for_refusal().now_or_never().is_some();
    record_signal(&account, AccountSignal::Healthy);
    assert!(!was_refused(), "it is accepted");
    let evidence = "odd".to_owned();
    bench.next_lookup().send(Lookup::Unavailable { evidence, signal }).unwrap();
    engine.reconcile(refund.id(), Authority::unrestricted()).await.unwrap();
    assert_eq!(was_refused(), is_refused);
    record_signal(&account, AccountSignal::CredentialsRefused);
    assert!(was_refused(), "by the answer to an attempt");
}

/// Reads the ledger so often that workers that do not sleep would query it many times meanwhile.
async fn read_the_ledger_meanwhile(engine: &Engine) {
    for _ in 0..50 {
        engine.list(ListQuery::default()).await.unwrap();
    }
}

#[tokio::test]
async fn workers_sleep_while_nothing_is_due() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    reaches(&bench.ledger.next_lookup_queries, 1).await;
    reaches(&bench.ledger.next_dispatch_queries, 1).await;
    read_the_ledger_meanwhile(&engine).await;
    // A notification that came before they slept wakes them once more.
    assert!(*bench.ledger.next_lookup_queries.borrow() <= 3 && *bench.ledger.next_dispatch_queries.borrow() <= 3);
}

/// The end of the lookup wakes the worker.
#[tokio::test]
async fn the_reconciler_sleeps_while_a_lookup_of_every_due_refund_is_under_way() {
    let bench = Bench::new();
    bench.refund(sectigo("r"), &doubted()).await;
    let answer = bench.next_lookup();
    bench.clock.advance(Duration::from_secs(10));
    let engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    // The second query finds only the refund that is being looked up.
    reaches(&bench.ledger.lookup_queries, 2).await;
    read_the_ledger_meanwhile(&engine).await;
    assert_eq!(*bench.ledger.next_lookup_queries.borrow(), 0, "nothing else can become due");
    answer.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    reaches(&bench.ledger.next_lookup_queries, 1).await;
}

/// The dispatcher sleeps while the account is suspended, and an answered lookup wakes it.
#[tokio::test]
async fn a_waiting_refund_is_sent_as_soon_as_the_provider_answers_again() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let account = only_account(&engine);
    reaches(&bench.ledger.next_dispatch_queries, 1).await;
    for _ in 0..5 {
        record_signal(&account, AccountSignal::Failure);
    }
    // Until the pause is longer than this test.
    for _ in 0..6 {
        account.record_lookup(AccountSignal::Failure, true);
    }
    let refund = bench.refund(order(1), &[]).await;
    read_the_ledger_meanwhile(&engine).await;
    assert_eq!(engine.get(refund.id()).await.unwrap().state, State::Pending);
    account.record_lookup(AccountSignal::Healthy, false);
    let sent = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((sent.state, account.permission()), (State::Succeeded, Permission::All));
}
