//! Attempts after the first one: when they are made, and when they are not.

use super::*;
use crate::domain::authority::Authority;
use crate::domain::event::{Observation, RecordSeen};

const KEY_LIFETIME: Duration = Duration::from_secs(3_000);

/// The provider answers a key again that it has seen.
fn replays(account: &mut Account) {
    account.contract.deduplication = Deduplication::Replay { key_lifetime: KEY_LIFETIME };
}

/// The provider refuses an identifier that it has on record.
fn by_record(account: &mut Account) {
    account.contract.deduplication = Deduplication::Reject;
    account.contract.lookup = LookupKind::Refund;
    account.max_in_flight = 1;
}

/// A refund in doubt that one lookup has not found: the next one, a settle time later, proves that
/// one more attempt is safe.
async fn absent_once(bench: &Bench) -> Refund {
    let [dispatched, doubted] = doubted();
    let absent = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let refund = bench.refund(sectigo("r"), &[dispatched, doubted, absent]).await;
    bench.next_lookup().send(Lookup::not_found("no record")).unwrap();
    bench.clock.advance(Duration::from_secs(60));
    refund
}

#[tokio::test]
async fn a_refund_whose_key_is_alive_is_sent_again_as_the_next_attempt() {
    let log = Log::begin();
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    bench.clock.advance(Duration::from_secs(10));
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, replays).await;
    let after = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::Succeeded, 2));
    until("it is logged", || !log.lines_with("the provider answered").is_empty()).await;
    let lines = log.lines_with("the provider answered");
    assert!(lines[0].contains("attempt=2"), "{lines:?}");
}

#[tokio::test]
async fn a_refund_that_two_lookups_have_not_found_is_sent_again() {
    let bench = Bench::new();
    let refund = absent_once(&bench).await;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, by_record).await;
    let after = engine.wait(refund.id(), refund.revision + 2, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::Succeeded, 2));
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 2, "a lookup and an attempt");
}

/// It is looked up again later, and holds neither a permission nor a slot until then.
#[tokio::test]
async fn no_refund_waits_to_be_sent_again_while_its_account_is_suspended() {
    let bench = Bench::new();
    let refund = absent_once(&bench).await;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, by_record).await;
    let account = only_account(&engine);
    for _ in 0..5 {
        record_signal(&account, AccountSignal::Failure);
    }
    // It is half open, and the trial is another refund's.
    account.record_lookup(AccountSignal::Healthy, true);
    let trial = account.try_acquire_permission();
    assert!(trial.is_some() && !account.allows_one());
    let slot = account.attempt_slots.clone().acquire_owned().await.unwrap();
    let looked = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((looked.state, looked.attempt_count), (State::InDoubt, 1));
    until("the refund is released", || !account.is_reconciling()).await;
    drop(slot);
}

/// The rate limiter would permit it after the drain has begun.
#[tokio::test]
async fn the_drain_ends_the_wait_of_a_refund_for_its_next_attempt() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let slowly = |account: &mut Account| {
        replays(account);
        account.requests_per_second = 1;
    };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, slowly).await;
    let account = only_account(&engine);
    assert!(account.rate_limiter.try_acquire(), "the next request may be sent a second later");
    bench.clock.advance(Duration::from_secs(10));
    account.reconcile_notify.notify_one();
    until("it waits for the rate limiter", || account.attempt_slots.available_permits() == 3).await;
    engine.drain(LIMIT).await;
    assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0, "nothing was sent");
}

#[tokio::test]
async fn an_attempt_that_an_operator_asks_for_is_bound_to_the_present_secret() {
    let bench = Bench::new();
    let [dispatched, doubted] = doubted();
    let escalated = Event::Escalated { evidence: "outcome unknown".to_owned(), foreign_record: false };
    let refund = bench.refund(sectigo("r"), &[dispatched, doubted, escalated]).await;
    *bench.provider.credentials.lock().unwrap() = ["new".to_owned()].into();
    let engine = bench.engine().await;
    let command = ResolveCommand {
        id: refund.id().clone(),
        etag: refund.etag(),
        resolution: Resolution::SendAgain,
        evidence: "ticket 7".to_owned(),
        take_over: false,
        by: Authority::unrestricted(),
    };
    let sent = engine.resolve(command).await.unwrap();
    assert_eq!((sent.attempt_count, sent.credential.as_deref()), (2, Some("new")));
}

/// Its worker sleeps, because nothing was due at its last query.
#[tokio::test]
async fn a_refund_that_was_not_processed_is_sent_again_after_its_pause() {
    let bench = Bench::new();
    let answer = bench.next_outcome();
    let refund = bench.refund(sectigo("r"), &[]).await;
    let engine = bench.engine().await;
    let sent = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Dispatching);
    reaches(&bench.ledger.next_dispatch_queries, 1).await;
    let [_, not_sent] = backed_off();
    let Event::NotSent { error, .. } = not_sent else { panic!("{not_sent:?}") };
    answer.send(Outcome::NotSent { error, retry_at: None }).unwrap();
    let pending = engine.wait(sent.id(), sent.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(pending.state, State::Pending);
    bench.clock.advance(Duration::from_secs(1));
    let after = engine.wait(pending.id(), pending.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count), (State::Succeeded, 2));
}

#[tokio::test]
async fn an_unreadable_answer_leads_to_an_immediate_lookup() {
    let bench = Bench::new();
    let answer = bench.next_outcome();
    let refund = bench.refund(sectigo("r"), &[]).await;
    let engine = bench.engine().await;
    let sent = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(sent.state, State::Dispatching);
    reaches(&bench.ledger.next_lookup_queries, 1).await;
    let lookup = bench.next_lookup();
    answer.send(Outcome::Unknown { reason: DoubtReason::UnreadableReply, evidence: "odd".to_owned() }).unwrap();
    reaches(&bench.provider.asked, 1).await;
    lookup.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    let after = engine.wait(sent.id(), sent.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(after.state, State::Succeeded);
}
