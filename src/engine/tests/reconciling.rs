//! Reconciling: what a renewed secret, a recovery of the account, a later refund of the target or
//! an operator's decision changes.

use rstest::rstest;

use super::*;
use crate::domain::authority::Authority;
use crate::domain::event::{Decided, Observation, RecordSeen, Resolution};

const DAY: Duration = Duration::from_secs(86_400);

fn doubted_under(credential: &str) -> [Event; 2] {
    let [_, doubted] = doubted();
    [Event::Dispatched { credential: Some(credential.to_owned()) }, doubted]
}

/// A refund whose last lookup had no usable answer, and whose next one is a day away.
async fn unheard(bench: &Bench) -> Refund {
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let next_check = Some(NOW.saturating_add(DAY));
    let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check, unheard: true };
    bench.ledger.inner.reschedule(reschedule).await.unwrap()
}

/// The key of the attempt in doubt belongs to the old secret: under a new one the provider does not
/// know the key.
#[tokio::test]
async fn an_attempt_is_made_under_the_secret_that_was_compared() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted_under("old")).await;
    // Asked for when the next step is decided and before the attempt begins; renewed directly after
    // that.
    *bench.provider.credentials.lock().unwrap() = ["old", "old", "new"].map(str::to_owned).into();
    let key_lifetime = Duration::from_secs(3_000);
    let replays = |account: &mut Account| account.contract.deduplication = Deduplication::Replay { key_lifetime };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, replays).await;
    bench.clock.advance(Duration::from_secs(10));
    only_account(&engine).reconcile_notify.notify_one();
    let after = engine.wait(refund.id(), refund.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((after.state, after.attempt_count, after.unanswered_attempts), (State::InDoubt, 2, 1));
    assert_eq!(after.credential.as_deref(), Some("old"), "the secret of the attempt in doubt");
    assert!(!engine.resend_safe(&after));
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0, "nothing was sent");
}

/// Whether the account had recovered when the last process ended is not known.
#[tokio::test]
async fn a_refund_without_a_usable_lookup_is_looked_up_at_the_next_start() {
    let bench = Bench::new();
    let refund = unheard(&bench).await;
    let answer = bench.next_lookup();
    let engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    let after = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(after.state, State::Succeeded);
}

/// The queue is full for one call.
#[tokio::test]
async fn a_recovery_is_not_lost_to_a_full_queue() {
    let bench = Bench::new();
    unheard(&bench).await;
    *bench.ledger.full.lock().unwrap() = 1;
    let answer = bench.next_lookup();
    let _engine = bench.engine().await;
    reaches(&bench.provider.asked, 1).await;
    drop(answer);
}

/// A later refund of the order rules a correction out for ever, but the follow-up time still ends.
#[rstest]
#[case::refunded(Lookup::Found(Outcome::Refunded(Confirmation::default())), false)]
#[case::no_answer(Lookup::unavailable("no connection"), true)]
#[tokio::test]
async fn a_failed_refund_is_looked_up_only_for_its_follow_up_time(#[case] seen: Lookup, #[case] is_unheard: bool) {
    for (asked, next) in [(5, Some(6)), (6, None)] {
        let bench = Bench::new();
        let [dispatched, doubted] = doubted();
        let found = Decided {
            take_over: true,
            follow_until: Some(NOW.saturating_add(7 * DAY)),
            ..Decided::new(Resolution::NotRefunded, "ticket")
        };
        let failed = bench.refund(sectigo("r"), &[dispatched, doubted, Event::Resolved(found)]).await;
        bench.refund(sectigo("later"), &backed_off()).await;
        let answer = bench.next_lookup();
        bench.clock.advance(asked * DAY);
        let engine = bench.engine().await;
        answer.send(seen.clone()).unwrap();
        reaches(&bench.provider.asked, 1).await;
        let due = Some(NOW.saturating_add(Duration::from_secs(10)));
        let looked_up = async {
            loop {
                let refund = engine.get(failed.id()).await.unwrap();
                if refund.next_check != due {
                    break refund;
                }
                tokio::task::yield_now().await;
            }
        };
        let after = tokio::time::timeout(LIMIT, looked_up).await.unwrap();
        assert_eq!((after.state, after.corrected_time, after.revision), (State::Failed, None, failed.revision));
        assert_eq!(after.next_check, next.map(|day| NOW.saturating_add(day * DAY)), "asked after {asked} days");
        assert_eq!(after.unheard, is_unheard && next.is_some(), "asked after {asked} days");
    }
}

/// Once an operator has decided, the lookup that proved one more attempt safe no longer counts.
#[tokio::test]
async fn a_decision_before_the_resend_prevents_it() {
    let bench = Bench::new();
    let [dispatched, doubted] = doubted();
    let absent = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let refund = bench.refund(sectigo("r"), &[dispatched, doubted, absent]).await;
    let by_record = |account: &mut Account| {
        account.contract.deduplication = Deduplication::Reject;
        account.contract.lookup = LookupKind::Refund;
        account.max_in_flight = 1;
    };
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, by_record).await;
    let account = only_account(&engine);
    let slot = account.attempt_slots.clone().acquire_owned().await.unwrap();
    bench.next_lookup().send(Lookup::not_found("no record")).unwrap();
    bench.clock.advance(Duration::from_secs(60));
    account.reconcile_notify.notify_one();
    let looked_up = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((looked_up.state, looked_up.revision), (State::InDoubt, refund.revision + 1));
    let failed = engine.resolve(take_over(&looked_up)).await.unwrap();
    assert_eq!(failed.state, State::Failed);
    drop(slot);
    // The attempt has waited for the slot for longer.
    drop(account.attempt_slots.clone().acquire_owned().await.unwrap());
    assert_eq!(engine.get(refund.id()).await.unwrap(), failed);
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 1, "only the lookup");
}

#[tokio::test]
async fn a_decision_during_a_lookup_stands() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let answer = bench.next_lookup();
    let (asking, id) = (engine.clone(), refund.id().clone());
    let lookup = tokio::spawn(async move { asking.reconcile(&id, Authority::unrestricted()).await.unwrap() });
    reaches(&bench.provider.asked, 1).await;
    let failed = engine.resolve(take_over(&refund)).await.unwrap();
    answer.send(Lookup::Found(Outcome::Refunded(Confirmation::default()))).unwrap();
    assert_eq!(lookup.await.unwrap(), failed, "the caller gets what is on disk");
}

fn take_over(refund: &Refund) -> ResolveCommand {
    ResolveCommand {
        id: refund.id().clone(),
        etag: refund.etag(),
        resolution: Resolution::NotRefunded,
        evidence: "ticket 7".to_owned(),
        take_over: true,
        by: Authority::unrestricted(),
    }
}

/// Callers who ask again and again pass nothing on to the provider.
#[tokio::test]
async fn a_lookup_answers_all_callers_for_a_while() {
    let bench = Bench { reconcile_interval: Duration::from_secs(3_600), ..Bench::new() };
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let reconcile = || {
        let (engine, id) = (engine.clone(), refund.id().clone());
        tokio::spawn(async move { engine.reconcile(&id, Authority::unrestricted()).await.unwrap() })
    };
    let answer = bench.next_lookup();
    let (first, second) = (reconcile(), reconcile());
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::not_found("Processed")).unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.revision, second.revision), (refund.revision + 1, refund.revision + 1));
    assert_eq!(reconcile().await.unwrap().revision, first.revision, "as it is");
    assert_eq!(*bench.provider.asked.borrow(), 1);
}

/// Where too many callers wait, a creation is answered at once, with the refund that is on disk.
#[tokio::test]
async fn a_creation_that_must_not_wait_returns_the_refund_as_it_is() {
    let bench = Bench::new();
    let engine = bench.engine().await;
    let until = Instant::now() + LIMIT;
    let mut command = CreateCommand {
        intent: sectigo("r"),
        allow_similar: false,
        by: Authority::unrestricted(),
        answer_by: until,
        wait_until: until,
        trace_parent: None,
    };
    let created = engine.create_and_wait(command.clone(), || false).await.unwrap();
    assert_eq!((created.refund.state, created.replayed), (State::Dispatching, false));
    command.wait_until = Instant::now();
    let again = engine.create_and_wait(command, || panic!("nothing is waited for")).await.unwrap();
    assert!(again.replayed);
}
