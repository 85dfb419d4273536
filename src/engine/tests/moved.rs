//! Refunds whose account is gone or is somewhere else: they wait, and go on where the configuration
//! or a person says.

use rstest::rstest;

use super::*;
use crate::domain::event::{EventKind, Observation, RecordSeen};

const HOUR: Duration = Duration::from_secs(3_600);

fn elsewhere(login: &str) -> Place {
    Place { login: login.to_owned(), ..place() }
}

fn escalated() -> Vec<Event> {
    let [dispatched, doubted] = doubted();
    vec![dispatched, doubted, Event::Escalated { evidence: "nobody knows".to_owned(), foreign_record: false }]
}

/// The account of [`place`] is under another login by now.
async fn changed(bench: &Bench, former: Vec<Place>) -> Engine {
    bench
        .engine_with(Provider::Sectigo, Currency::USD, |account| {
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
        evidence: "one set of books".to_owned(),
        actor: "operator".to_owned(),
    }
}

fn order(id: &str, number: u32) -> Intent {
    intent(id, Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap()))
}

/// Nothing is sent, looked up or given up; what a person may do without the account stays possible.
#[rstest]
#[case::pending(vec![])]
#[case::in_doubt(doubted().to_vec())]
#[case::in_review(escalated())]
#[tokio::test]
async fn what_belongs_to_another_place_waits(#[case] events: Vec<Event>) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &events).await;
    let engine = changed(&bench, Vec::new()).await;
    bench.clock.advance(30 * 24 * HOUR);
    lane_of(&engine).bell.notify_one();
    lane_of(&engine).settle_bell.notify_one();
    assert_eq!(engine.waiting_for(&refund), Some(WaitingFor::Account));
    assert_eq!(engine.waiting_for_account().await.unwrap().into_values().collect::<Vec<_>>(), [1]);
    assert!(!engine.resend_safe(&refund));
    let account_changed = Err(EngineError::AccountChanged { differing: vec!["login"] });
    match refund.state {
        State::Pending => {
            assert_eq!(engine.cancel(refund.id(), None, "caller").await.unwrap().state, State::Cancelled);
        }
        state => {
            assert_eq!(engine.reconcile(refund.id(), "caller").await, account_changed);
            let command = |resolution| ResolveCommand {
                id: refund.id().clone(),
                etag: refund.etag(),
                resolution,
                evidence: "ticket".to_owned(),
                take_over: state == State::InDoubt,
                actor: "operator".to_owned(),
            };
            if state == State::NeedsReview {
                let again = engine.resolve(command(crate::domain::event::Resolution::SendAgain)).await;
                assert_eq!(again, account_changed);
            }
            let found = crate::domain::event::Resolution::NotRefunded;
            let failed = engine.resolve(command(found)).await.unwrap();
            assert_eq!(failed.state, State::Failed);
            // Sectigo's usual time: the account that has one of its own is gone.
            assert_eq!(failed.reserved_until, None, "thirty days are longer");
        }
    }
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_person_lets_it_go_on_where_its_account_is_now() {
    let bench = Bench::new();
    let pending = bench.refund(order("pending", 1), &[]).await;
    let review = bench.refund(order("review", 2), &escalated()).await;
    let engine = changed(&bench, Vec::new()).await;
    let wrong = ReassignCommand { etag: "0-0".to_owned(), ..reassign(&review) };
    assert_eq!(engine.reassign(wrong).await, Err(EngineError::EtagMismatch { present: review.etag() }));
    let nowhere = ReassignCommand { account: AccountName::parse("nowhere").unwrap(), ..reassign(&review) };
    assert!(matches!(engine.reassign(nowhere).await, Err(EngineError::AccountNotFound(_))));

    let sent = engine.reassign(reassign(&pending)).await.unwrap();
    let sent = engine.wait(sent.id(), sent.revision + 1, Instant::now() + LIMIT).await.unwrap();
    assert_eq!((sent.state, sent.attempt_count, sent.attempted_elsewhere), (State::Succeeded, 1, false));
    assert_eq!(engine.reassign(reassign(&sent)).await, Err(EngineError::NotReassignable(State::Succeeded)));

    let answer = bench.next_look();
    let moved = engine.reassign(reassign(&review)).await.unwrap();
    assert_eq!((moved.state, moved.attempted_elsewhere, moved.next_check), (State::NeedsReview, true, Some(NOW)));
    reaches(&bench.provider.asked, 1).await;
    answer.send(Lookup::not_found("Processed")).unwrap();
    // It waits for no account any more.
    let again = ReassignCommand { etag: moved.etag(), ..reassign(&moved) };
    let answer = engine.reassign(again).await;
    assert!(matches!(answer, Err(EngineError::NotReassignable(_) | EngineError::EtagMismatch { .. })), "{answer:?}");
    let history = engine.events_of(review.id(), review.revision, 1).await.unwrap();
    assert_eq!((history[0].kind, history[0].actor.as_str()), (EventKind::Reassigned, "operator"));
}

#[rstest]
#[case::another_provider(Provider::Namecom, Currency::USD)]
#[case::another_currency(Provider::Sectigo, Currency::parse("AUD").unwrap())]
#[tokio::test]
async fn it_goes_on_in_its_own_currency_and_at_its_own_provider(
    #[case] provider: Provider,
    #[case] currency: Currency,
) {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &escalated()).await;
    let engine =
        bench.engine_with(provider, currency, |account| account.place = Place { currency, ..elsewhere("new") }).await;
    let answer = engine.reassign(reassign(&refund)).await;
    match provider {
        Provider::Namecom => assert!(matches!(answer, Err(EngineError::AccountMismatch { .. })), "{answer:?}"),
        _ => assert!(matches!(answer, Err(EngineError::Invalid(_))), "{answer:?}"),
    }
    assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
}

/// Once, by the gateway; and not where another refund stands in the way.
#[tokio::test]
async fn what_is_at_a_former_place_is_moved_at_the_start() {
    let bench = Bench::new();
    let doubt = bench.refund(order("doubt", 1), &doubted()).await;
    let blocked = bench.refund(order("blocked", 2), &put_off()).await;
    let failed = bench.refund(order("failed", 3), &[Event::Expired]).await;
    // The order of the second is another refund's, under the new login.
    let taken = Create {
        intent: order("taken", 2),
        place: elsewhere("new"),
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: false,
        actor: "caller".to_owned(),
        now: NOW,
        claim: Claim::default(),
        trace_parent: None,
    };
    bench.ledger.inner.create(taken).await.unwrap();
    bench.clock.advance(HOUR);
    let mut events = 0;
    for start in 1..=2 {
        let answer = bench.next_look();
        let engine = changed(&bench, vec![place()]).await;
        if start == 1 {
            reaches(&bench.provider.asked, 1).await;
            answer.send(Lookup::not_found("Processed")).unwrap();
        }
        let moved = engine.get(doubt.id()).await.unwrap();
        assert_eq!((moved.place.login.as_str(), moved.attempted_elsewhere), ("new", true));
        let history = engine.events_of(doubt.id(), 0, 99).await.unwrap();
        let moves = history.iter().filter(|event| event.kind == EventKind::Reassigned);
        assert_eq!(moves.map(|event| event.actor.as_str()).collect::<Vec<_>>(), [GATEWAY], "once");
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
    let refund = bench.refund(sectigo("r"), &put_off()).await;
    bench.clock.advance(10 * HOUR);
    changed(&bench, Vec::new()).await.drain(LIMIT).await;
    bench.clock.advance(20 * HOUR);
    let shut = |account: &mut Account| account.max_in_flight = 1;
    let engine = bench.engine_with(Provider::Sectigo, Currency::USD, shut).await;
    // Nothing is sent meanwhile: the only slot is taken.
    let slot = lane_of(&engine).slots.clone().acquire_owned().await.unwrap();
    engine.drain(LIMIT).await;
    drop(slot);
    bench.clock.advance((hours - 30) * HOUR);
    let standstills = bench.ledger.inner.standstills(&refund.destination()).await.unwrap();
    assert_eq!(standstills, [(NOW.plus(10 * HOUR), NOW.plus(30 * HOUR))]);
    let engine = bench.engine_with(Provider::Sectigo, Currency::USD, shut).await;
    let after = engine.wait(refund.id(), refund.revision, Instant::now() + LIMIT).await.unwrap();
    // What is not given up is sent.
    let sent = if expected == State::Pending { State::Succeeded } else { State::Failed };
    let after = engine.wait(after.id(), after.revision, Instant::now() + LIMIT).await.unwrap();
    assert_eq!(after.state, sent);
    assert_eq!(bench.provider.calls.lock().unwrap().len(), usize::from(expected == State::Pending));
}

/// What a lookup found at the old place is of the past where the refund was moved meanwhile.
#[tokio::test]
async fn a_refund_that_moved_is_no_more_like_it_was() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let checked = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    assert!(refund.apply(&checked, NOW).unwrap().is_like(&refund));
    for (account, place) in [("main", elsewhere("new")), ("other", place())] {
        let account = AccountName::parse(account).unwrap();
        let moved = Event::Reassigned { account, place, evidence: "same".to_owned() };
        assert!(!refund.apply(&moved, NOW).unwrap().is_like(&refund));
    }
}

fn lane_of(engine: &Engine) -> Arc<Lane> {
    engine.0.lanes.values().next().unwrap().clone()
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

/// As a caller records one that looks like another and allowed it.
async fn allowed(bench: &Bench, id: &str, place: Place, events: &[Event]) -> Refund {
    let create = Create {
        intent: debitsuccess(id),
        place,
        related: RelatedLogins::default(),
        dispatch: None,
        allow_similar: true,
        actor: "caller".to_owned(),
        now: NOW,
        claim: Claim::default(),
        trace_parent: None,
    };
    let Created::New(refund) = bench.ledger.inner.create(create).await.unwrap() else { panic!("known") };
    let next_check = Some(NOW.plus(30 * 24 * HOUR));
    let (id, revision, actor) = (refund.id().clone(), refund.revision, GATEWAY.to_owned());
    let record = Record { id, revision, events: events.to_vec(), next_check, actor, now: NOW };
    bench.ledger.inner.record(record).await.unwrap()
}

/// What its caller allowed stays allowed; what looks like a refund under the new login is not sent,
/// and what was attempted moves in any case.
#[rstest]
#[case::allowed_beside_each_other(false, ["new", "new"])]
#[case::another_is_there_already(true, ["new", "login"])]
#[tokio::test]
async fn only_what_is_yet_to_be_sent_is_judged_where_a_start_moves_it(
    #[case] is_one_there: bool,
    #[case] expected: [&str; 2],
) {
    let bench = Bench::new();
    let doubt = allowed(&bench, "doubt", place(), &doubted()).await;
    let pending = allowed(&bench, "pending", place(), &put_off()).await;
    if is_one_there {
        allowed(&bench, "there", elsewhere("new"), &put_off()).await;
    }
    let engine = bench
        .engine_with(Provider::Debitsuccess, Currency::USD, |account| {
            account.place = elsewhere("new");
            account.former = vec![place()];
        })
        .await;
    for (refund, login) in [doubt, pending].iter().zip(expected) {
        assert_eq!(engine.get(refund.id()).await.unwrap().place.login, login, "{}", refund.id());
    }
}

/// Only another refund in its way leaves a refund where it is. Anything else is no start at all.
#[tokio::test]
async fn a_start_that_cannot_move_its_refunds_fails() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &put_off()).await;
    let account = || Account {
        place: elsewhere("new"),
        former: vec![place()],
        ..bench.account(Provider::Sectigo, Currency::USD)
    };
    *bench.ledger.closed.lock().unwrap() = 1;
    assert_eq!(bench.start([account()]).await.err(), Some(LedgerError::Overloaded));
    let engine = bench.start([account()]).await.unwrap();
    assert_eq!(engine.get(refund.id()).await.unwrap().place.login, "new");
}

/// One login is one set of books, under whatever name; and so are its former logins.
#[tokio::test]
async fn accounts_of_one_login_share_their_reservations() {
    let bench = Bench::new();
    let account = |name: &str, login: &str, former: &[&str]| Account {
        name: AccountName::parse(name).unwrap(),
        place: elsewhere(login),
        former: former.iter().map(|login| elsewhere(login)).collect(),
        ..bench.account(Provider::Sectigo, Currency::USD)
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
