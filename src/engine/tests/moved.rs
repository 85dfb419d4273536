//! Refunds whose account is gone or has changed: they wait until the configuration or an operator
//! moves them.

use rstest::rstest;

use super::*;
use crate::domain::authority::{Actor, Authority, GATEWAY};
use crate::domain::event::{EventKind, Observation, RecordSeen};

const HOUR: Duration = Duration::from_secs(3_600);

fn elsewhere(login: &str) -> Place {
    Place { login: login.to_owned(), ..place() }
}

fn escalated() -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    vec![dispatched, doubted, Event::Escalated { evidence: "outcome unknown".to_owned(), foreign_record: false }]
}

/// An engine whose account has another login than [`place`].
async fn engine_with_another_login(bench: &Bench, former: Vec<Place>) -> Engine {
    bench
        .engine_with(ProviderKind::Sectigo, Currency::USD, |account| {
            account.place = elsewhere("new");
            account.former = former;
        })
        .await
}

fn reassign(refund: &Refund) -> ReassignCommand {
    ReassignCommand {
        id: refund.id().clone(),
        etag: refund.etag(),
        account: AccountName::parse("main").unwrap(),
        evidence: "one set of records".to_owned(),
        by: Authority::unrestricted(),
    }
}

fn order(id: &str, number: u32) -> Intent {
    intent(id, Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap()))
}

/// It is not sent, looked up or expired; what a person may do without the account stays possible.
#[rstest]
#[case::pending(vec![])]
#[case::in_doubt(doubted().to_vec())]
#[case::in_review(escalated())]
#[tokio::test]
async fn a_refund_of_another_place_waits(#[case] events: Vec<Event>) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &events).await;
    let engine = engine_with_another_login(&bench, Vec::new()).await;
    bench.clock.advance(30 * 24 * HOUR);
    only_account(&engine).dispatch_notify.notify_one();
    only_account(&engine).reconcile_notify.notify_one();
    assert_eq!(engine.waiting_for(&refund), Some(WaitingFor::Account));
    assert_eq!(engine.waiting_for_account().await.unwrap().into_values().collect::<Vec<_>>(), [1]);
    assert!(!engine.resend_safe(&refund));
    let account_changed = Err(EngineError::AccountChanged { differing: vec!["login"] });
    match refund.state {
        State::Pending => {
            assert_eq!(
                engine.cancel(refund.id(), None, Authority::unrestricted()).await.unwrap().state,
                State::Cancelled
            );
        }
        state => {
            assert_eq!(engine.reconcile(refund.id(), Authority::unrestricted()).await, account_changed);
            let command = |resolution| ResolveCommand {
                id: refund.id().clone(),
                etag: refund.etag(),
                resolution,
                evidence: "ticket".to_owned(),
                take_over: state == State::InDoubt,
                by: Authority::unrestricted(),
            };
            if state == State::NeedsReview {
                let again = engine.resolve(command(crate::domain::event::Resolution::SendAgain)).await;
                assert_eq!(again, account_changed);
            }
            let found = crate::domain::event::Resolution::NotRefunded;
            let failed = engine.resolve(command(found)).await.unwrap();
            assert_eq!(failed.state, State::Failed);
            // The provider's default settle time: the account is gone.
            assert_eq!(failed.reserved_until, None, "thirty days are longer");
        }
    }
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn an_operator_reassigns_a_refund_to_the_present_place() {
    let bench = Bench::new();
    let pending = bench.refund(order("pending", 1), &[]).await;
    let review = bench.refund(order("review", 2), &escalated()).await;
    let engine = engine_with_another_login(&bench, Vec::new()).await;
    let wrong = ReassignCommand { etag: "0-0".to_owned(), ..reassign(&review) };
    assert_eq!(engine.reassign(wrong).await, Err(EngineError::EtagMismatch { present: review.etag() }));
    let nowhere = ReassignCommand { account: AccountName::parse("nowhere").unwrap(), ..reassign(&review) };
    assert!(matches!(engine.reassign(nowhere).await, Err(EngineError::AccountNotFound(_))));

    let sent = engine.reassign(reassign(&pending)).await.unwrap();
    let sent = engine.wait(sent.id(), sent.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((sent.state, sent.attempt_count, sent.attempted_elsewhere), (State::Succeeded, 1, false));
    assert_eq!(engine.reassign(reassign(&sent)).await, Err(EngineError::NotReassignable(State::Succeeded)));

    let answer = bench.next_lookup();
    let moved = engine.reassign(reassign(&review)).await.unwrap();
    assert_eq!((moved.state, moved.attempted_elsewhere, moved.next_check), (State::NeedsReview, true, Some(NOW)));
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::not_found("Processed")).unwrap();
    // It no longer waits for an account.
    let again = ReassignCommand { etag: moved.etag(), ..reassign(&moved) };
    let answer = engine.reassign(again).await;
    assert!(matches!(answer, Err(EngineError::NotReassignable(_) | EngineError::EtagMismatch { .. })), "{answer:?}");
    let history = engine.events_of(review.id(), review.revision, 1).await.unwrap();
    assert_eq!((history[0].kind, history[0].actor.name.as_str()), (EventKind::Reassigned, "caller"));
}

#[rstest]
#[case::another_provider(ProviderKind::Namecom, Currency::USD)]
#[case::another_currency(ProviderKind::Sectigo, Currency::parse("AUD").unwrap())]
#[tokio::test]
async fn a_refund_is_reassigned_only_within_its_provider_and_currency(
    #[case] provider: ProviderKind,
    #[case] currency: Currency,
) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &escalated()).await;
    let engine =
        bench.engine_with(provider, currency, |account| account.place = Place { currency, ..elsewhere("new") }).await;
    let answer = engine.reassign(reassign(&refund)).await;
    match provider {
        ProviderKind::Namecom => assert!(matches!(answer, Err(EngineError::AccountMismatch { .. })), "{answer:?}"),
        _ => assert!(matches!(answer, Err(EngineError::Invalid(_))), "{answer:?}"),
    }
    assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
}

/// Only once, and not if another refund conflicts.
#[tokio::test]
async fn refunds_of_a_former_place_are_moved_at_start_up() {
    let bench = Bench::new();
    let doubt = bench.refund(order("doubt", 1), &doubted()).await;
    let blocked = bench.refund(order("blocked", 2), &backed_off()).await;
    let failed = bench.refund(order("failed", 3), &[Event::Expired]).await;
    // Under the new login, another refund holds the order of the second one.
    let taken = NewRefund {
        intent: order("taken", 2),
        place: elsewhere("new"),
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: false,
        by: Authority::unrestricted(),
        now: NOW,
        ticket: Ticket::default(),
        trace_parent: None,
    };
    bench.ledger.inner.create(taken).await.unwrap();
    bench.clock.advance(HOUR);
    let mut events = 0;
    for start in 1..=2 {
        let answer = bench.next_lookup();
        let engine = engine_with_another_login(&bench, vec![place()]).await;
        if start == 1 {
            reaches(&bench.provider.asked, 1).await;
            answer.send(Lookup::not_found("Processed")).unwrap();
        }
        let moved = engine.get(doubt.id()).await.unwrap();
        assert_eq!((moved.place.login.as_str(), moved.attempted_elsewhere), ("new", true));
        let history = engine.events_of(doubt.id(), 0, 99).await.unwrap();
        let moves = history.iter().filter(|event| event.kind == EventKind::Reassigned);
        assert_eq!(moves.map(|event| event.actor.name.as_str()).collect::<Vec<_>>(), [GATEWAY], "once");
        for left in [&blocked, &failed] {
            assert_eq!(engine.get(left.id()).await.unwrap(), *left);
        }
        assert_eq!(engine.waiting_for(&blocked), Some(WaitingFor::Account));
        events = events.max(history.len());
        engine.drain(LIMIT).await;
    }
    assert!(events > 0);
    assert_eq!(bench.ledger.inner.standstills(&doubt.destination()).await, Ok(Vec::new()), "it goes on standing still");
}

/// The limit is a day; for twenty hours of two days the account was another.
#[rstest]
#[case(43, State::Pending)]
#[case(44, State::Failed)]
#[tokio::test]
async fn expiry_stands_still_while_the_account_is_another(#[case] hours: u32, #[case] expected: State) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &backed_off()).await;
    bench.clock.advance(10 * HOUR);
    engine_with_another_login(&bench, Vec::new()).await.drain(LIMIT).await;
    bench.clock.advance(20 * HOUR);
    let with_one_slot = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, with_one_slot).await;
    // Nothing is sent meanwhile: the only slot is taken.
    let slot = only_account(&engine).attempt_slots.clone().acquire_owned().await.unwrap();
    engine.drain(LIMIT).await;
    drop(slot);
    bench.clock.advance((hours - 30) * HOUR);
    let standstills = bench.ledger.inner.standstills(&refund.destination()).await.unwrap();
    assert_eq!(standstills, [(NOW.saturating_add(10 * HOUR), NOW.saturating_add(30 * HOUR))]);
    let engine = bench.engine_with(ProviderKind::Sectigo, Currency::USD, with_one_slot).await;
    let after = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    // What is not given up is sent.
    let sent = if expected == State::Pending { State::Succeeded } else { State::Failed };
    let after = engine.wait(after.id(), after.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(after.state, sent);
    assert_eq!(bench.provider.calls.lock().unwrap().len(), usize::from(expected == State::Pending));
}

/// What a lookup found at the old place does not count once the refund has moved.
#[tokio::test]
async fn a_move_makes_earlier_lookups_outdated() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let checked = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    assert!(refund.apply(&checked, NOW).unwrap().has_same_attempt(&refund));
    for (account, place) in [("main", elsewhere("new")), ("other", place())] {
        let account = AccountName::parse(account).unwrap();
        let moved = Event::Reassigned { account, place, evidence: "same".to_owned() };
        assert!(!refund.apply(&moved, NOW).unwrap().has_same_attempt(&refund));
    }
}

fn debitsuccess(id: &str) -> Intent {
    let fields = DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("USD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    };
    intent(id, Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()))
}

/// A refund whose caller allowed that it is similar to another one.
async fn allowed_refund(bench: &Bench, id: &str, place: Place, events: &[Event]) -> Refund {
    let create = NewRefund {
        intent: debitsuccess(id),
        place,
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: true,
        by: Authority::unrestricted(),
        now: NOW,
        ticket: Ticket::default(),
        trace_parent: None,
    };
    let CreateOutcome::New(refund) = bench.ledger.inner.create(create).await.unwrap().outcome else { panic!("known") };
    let next_check = Some(NOW.saturating_add(30 * 24 * HOUR));
    let (id, revision, actor) = (refund.id().clone(), refund.revision, Actor::gateway());
    let record = RecordEvents { id, revision, events: events.to_vec(), next_check, actor, now: NOW };
    bench.ledger.inner.record(record).await.unwrap().outcome
}

/// What a caller has allowed stays allowed. A pending refund that is similar to one under the new
/// login is not moved; one that was attempted is moved in any case.
#[rstest]
#[case::allowed_beside_each_other(false, ["new", "new"])]
#[case::another_is_there_already(true, ["new", "login"])]
#[tokio::test]
async fn a_start_checks_only_pending_refunds_for_similar_ones(#[case] is_one_there: bool, #[case] expected: [&str; 2]) {
    let bench = Bench::new();
    let doubt = allowed_refund(&bench, "doubt", place(), &doubted()).await;
    let pending = allowed_refund(&bench, "pending", place(), &backed_off()).await;
    if is_one_there {
        allowed_refund(&bench, "there", elsewhere("new"), &backed_off()).await;
    }
    let engine = bench
        .engine_with(ProviderKind::Debitsuccess, Currency::USD, |account| {
            account.place = elsewhere("new");
            account.former = vec![place()];
        })
        .await;
    for (refund, login) in [doubt, pending].iter().zip(expected) {
        assert_eq!(engine.get(refund.id()).await.unwrap().place.login, login, "{}", refund.id());
    }
}

/// Only a conflict with another refund leaves a refund where it is.
#[tokio::test]
async fn a_start_fails_if_the_ledger_cannot_move_its_refunds() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &backed_off()).await;
    let account = || Account {
        place: elsewhere("new"),
        former: vec![place()],
        ..bench.account(ProviderKind::Sectigo, Currency::USD)
    };
    *bench.ledger.full_for_moves.lock().unwrap() = 1;
    assert_eq!(bench.start([account()]).await.err(), Some(LedgerError::Overloaded));
    let engine = bench.start([account()]).await.unwrap();
    assert_eq!(engine.get(refund.id()).await.unwrap().place.login, "new");
}

/// Refunds of one login are one set of records, also those of its former logins.
#[tokio::test]
async fn accounts_of_one_login_share_their_reservations() {
    let bench = Bench::new();
    let account = |name: &str, login: &str, former: &[&str]| Account {
        name: AccountName::parse(name).unwrap(),
        place: elsewhere(login),
        former: former.iter().map(|login| elsewhere(login)).collect(),
        ..bench.account(ProviderKind::Sectigo, Currency::USD)
    };
    let accounts = Accounts::new([
        account("one", "login", &["old"]),
        account("two", "login", &["login", "older"]),
        account("other", "another", &["oldest"]),
    ]);
    let related = |name: &str| {
        let account = accounts.get(&AccountName::parse(name).unwrap()).unwrap();
        let RelatedLogins { accounts, former_logins } = places::related_logins_of(account, &accounts);
        (accounts.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>(), former_logins.to_vec())
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let both = (words(&["one", "two"]), words(&["old", "older"]));
    assert_eq!([related("one"), related("two")], [both.clone(), both]);
    assert_eq!(related("other"), (words(&["other"]), words(&["oldest"])));
}
