//! A reassigned refund moves with all that it holds, or not at all.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::event::{Decided, Event, Resolution};
use crate::domain::ids::{AccountName, ProviderKind};
use crate::domain::place::Destination;
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::ledger::{
    CreateOutcome, DueKind, DueQuery, LedgerError, NewRefund, OpenRefunds, Reassign, RelatedLogins, Reschedule,
};

fn to(account: &str, login: &str) -> Destination {
    Destination { account: AccountName::parse(account).unwrap(), place: place(login) }
}

fn move_to(refund: &Refund, to: Destination) -> Reassign {
    Reassign {
        id: refund.id().clone(),
        revision: refund.revision,
        to,
        related: RelatedLogins::default(),
        reject_similar: true,
        evidence: "the same account".to_owned(),
        actor: actor("operator"),
        now: NOW.saturating_add(Duration::from_secs(5)),
    }
}

fn at_login(login: &str, intent: Intent) -> NewRefund {
    NewRefund { place: place(login), ..create(intent) }
}

async fn created(bench: &LedgerBench, create: NewRefund) -> Refund {
    match bench.create(create).await.unwrap() {
        CreateOutcome::New(refund) => refund,
        CreateOutcome::Known(refund) => panic!("{} was recorded before", refund.id()),
    }
}

async fn is_reserved(bench: &LedgerBench, create: NewRefund) -> bool {
    match bench.ledger.dry_run(create).await {
        Ok(_) => false,
        Err(LedgerError::TargetHasRefund { .. } | LedgerError::SimilarRefund { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

#[rstest]
#[case(State::Pending, false, None)]
#[case(State::Submitted, true, Some(5))]
#[case(State::InDoubt, true, Some(5))]
#[case(State::NeedsReview, true, Some(5))]
#[tokio::test]
async fn a_refund_moves_with_what_it_holds(
    #[case] state: State,
    #[case] attempted_elsewhere: bool,
    #[case] next_check: Option<u64>,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let refund = bench.refund_in(state, "777").await;
    let moved = bench.ledger.reassign(move_to(&refund, to("other", "new"))).await.unwrap();
    let now = NOW.saturating_add(Duration::from_secs(5));
    assert_eq!((moved.state, moved.revision), (state, refund.revision + 1));
    assert_eq!((moved.destination(), &moved.intent), (to("other", "new"), &refund.intent));
    assert_eq!((moved.placed_time, moved.attempted_elsewhere), (Some(now), attempted_elsewhere));
    assert_eq!(moved.next_check, next_check.map(|seconds| NOW.saturating_add(Duration::from_secs(seconds))));
    assert_eq!(bench.count("SELECT count(*) FROM reservations WHERE login = 'new'"), 1);
    assert_eq!(bench.count("SELECT count(*) FROM reservations"), 1);
    let event = bench.ledger.events_of(refund.id(), refund.revision, 9).await.unwrap().pop().unwrap();
    assert_eq!((event.kind.as_str(), event.actor.name.as_str(), event.attempt), ("reassigned", "operator", 0));
    for login in ["demo", "new"] {
        assert!(is_reserved(&bench, at_login(login, sectigo("second", "777"))).await, "under {login}");
    }
    assert!(!is_reserved(&bench, at_login("unrelated", sectigo("second", "777"))).await);

    let bench = bench.reopened();
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(moved.clone()));
    bench.ledger.verify().await.unwrap();
    let due = async |kind, destination: Destination| {
        let query = DueQuery { kind, destination, at: now, skip: 0, limit: 9 };
        bench.ledger.due(query).await.unwrap().len()
    };
    let here = (due(DueKind::Dispatch, moved.destination()).await, due(DueKind::Lookup, moved.destination()).await);
    assert_eq!(here, if state == State::Pending { (1, 0) } else { (0, 1) });
    assert_eq!((due(DueKind::Dispatch, at("certs")).await, due(DueKind::Lookup, at("certs")).await), (0, 0));
}

/// Only the host differs: an attempt at the former one may still have had an effect.
#[rstest]
#[tokio::test]
async fn a_refund_does_not_conflict_with_itself(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.refund_in(State::InDoubt, "777").await;
    let mut there = at("certs");
    there.place.endpoint = "https://other.example".to_owned();
    let moved = bench.ledger.reassign(move_to(&refund, there.clone())).await.unwrap();
    assert_eq!((moved.attempted_elsewhere, moved.destination()), (true, there));
    assert_eq!(bench.count("SELECT count(*) FROM reservations WHERE login = 'demo'"), 1);
    assert_eq!(bench.count("SELECT count(*) FROM login_links"), 0);
}

/// The first refund is at the login "demo", and another refund holds its target.
#[rstest]
#[case::under_the_same_login("new", RelatedLogins::default(), true)]
#[case::under_a_former_login("older", RelatedLogins { former_logins: ["older".to_owned()].into(), ..RelatedLogins::default() }, true)]
#[case::of_an_account_with_that_login(
    "older",
    RelatedLogins { accounts: [AccountName::parse("certs").unwrap()].into(), ..RelatedLogins::default() },
    true
)]
#[case::under_an_unrelated_login("older", RelatedLogins::default(), false)]
#[tokio::test]
async fn a_reserved_target_prevents_a_reassignment(
    #[case] login: &str,
    #[case] related: RelatedLogins,
    #[case] is_conflict: bool,
    #[values(State::Pending, State::InDoubt)] state: State,
    #[values(State::InDoubt, State::Succeeded)] other_state: State,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let refund = bench.refund_in(state, "777").await;
    let other = created(&bench, at_login(login, sectigo("other", "777"))).await;
    bench.record(&other, &events_to(other_state)).await.unwrap();
    let events = bench.count("SELECT count(*) FROM events");
    let reassign = Reassign { related, ..move_to(&refund, to("more-certs", "new")) };
    let answer = bench.ledger.reassign(reassign).await;
    if !is_conflict {
        assert!(answer.is_ok(), "{answer:?}");
        return;
    }
    assert_eq!(answer, Err(LedgerError::TargetHasRefund { conflicting: other.id().clone() }));
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund));
    assert_eq!(bench.count("SELECT count(*) FROM events"), events);
    assert_eq!(bench.count("SELECT count(*) FROM login_links"), 0);
}

/// One writer checks and moves both: the second sees the first.
#[rstest]
#[tokio::test]
async fn of_two_refunds_of_one_target_one_is_reassigned(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refunds = [
        created(&bench, at_login("one", sectigo("first", "777"))).await,
        created(&bench, at_login("two", sectigo("second", "0777"))).await,
    ];
    let moves = refunds.iter().map(|refund| bench.ledger.reassign(move_to(refund, to("certs", "new"))));
    let answers = futures_util::future::join_all(moves).await;
    let conflicting = refunds[0].id().clone();
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(answers[1], Err(LedgerError::TargetHasRefund { conflicting }));
    bench.ledger.verify().await.unwrap();
}

#[rstest]
#[case::rejected(true, None, Some(None))]
#[case::not_rejected(false, None, None)]
#[case::rejected_and_its_effect_not_ruled_out(true, Some(60), Some(Some(60)))]
#[case::not_rejected_and_its_effect_not_ruled_out(false, Some(60), None)]
#[tokio::test]
async fn a_likely_duplicate_is_reassigned_unless_it_is_rejected(
    #[case] reject_similar: bool,
    #[case] reserved: Option<u64>,
    #[case] refused: Option<Option<u64>>,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let after = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
    let refund = bench.new_refund(debitsuccess("a", "DS1", 1250)).await;
    let other = created(&bench, at_login("new", debitsuccess("b", "ds1", 1250))).await;
    let mut events = events_to(State::NeedsReview);
    if let Some(seconds) = reserved {
        let reserve_until = Some(after(seconds));
        let decided = Decided { reserve_until, ..Decided::new(Resolution::NotRefunded, "ticket") };
        events.push(Event::Resolved(decided));
    }
    bench.record(&other, &events).await.unwrap();
    let reassign = Reassign { reject_similar, ..move_to(&refund, to("debits", "new")) };
    let answer = bench.ledger.reassign(reassign).await;
    match refused {
        Some(firm_until) => {
            let (conflicting, firm_until) = (other.id().clone(), firm_until.map(after));
            assert_eq!(answer, Err(LedgerError::SimilarRefund { conflicting, firm_until }));
        }
        None => {
            // Later ones are compared with it under its new login.
            answer.unwrap();
            assert_eq!(bench.count("SELECT count(*) FROM similarity WHERE ordinal = 1 AND login = 'new'"), 1);
        }
    }
}

/// A new host makes no new conflict: refunds that were allowed under one login stay allowed.
#[rstest]
#[tokio::test]
async fn similar_refunds_that_were_allowed_move_to_another_host(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let mut refunds = vec![bench.new_refund(debitsuccess("a", "DS1", 1250)).await];
    for id in ["b", "c"] {
        refunds.push(created(&bench, NewRefund { allow_similar: true, ..create(debitsuccess(id, "DS1", 1250)) }).await);
    }
    for refund in refunds {
        let login = refund.place.login.clone();
        let moved = bench.ledger.reassign(move_to(&refund, to("debits", &login))).await.unwrap();
        assert_eq!(moved.account.as_str(), "debits");
    }
}

#[rstest]
#[tokio::test]
async fn a_changed_or_completed_refund_is_not_reassigned(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "1")).await;
    let present = bench.record(&refund, &[Event::Dispatched { credential: None }]).await.unwrap();
    let stale = LedgerError::StaleRevision { present: Box::new(present.clone()) };
    assert_eq!(bench.ledger.reassign(move_to(&refund, to("other", "new"))).await, Err(stale));
    for state in [State::Dispatching, State::Succeeded, State::PartiallySucceeded, State::Failed, State::Cancelled] {
        let refund = bench.refund_in(state, state.as_str().replace('_', "-").as_str()).await;
        let answer = bench.ledger.reassign(move_to(&refund, to("other", "new"))).await;
        assert!(matches!(answer, Err(LedgerError::IllegalTransition(_))), "{state}: {answer:?}");
    }
    assert_eq!(bench.count("SELECT count(*) FROM login_links"), 0);
}

/// Links between logins are followed from one to the next, both ways.
#[rstest]
#[case::the_last("d", true)]
#[case::the_first("a", true)]
#[case::in_between("b", true)]
#[case::another("z", false)]
#[tokio::test]
async fn linked_logins_share_their_reservations(
    #[case] login: &str,
    #[case] expected: bool,
    #[values("a", "c", "d")] holder: &str,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    for (number, (before, after)) in [("a", "b"), ("c", "d"), ("b", "c")].into_iter().enumerate() {
        let id = format!("r{number}");
        let refund = created(&bench, at_login(before, sectigo(&id, &id))).await;
        bench.ledger.reassign(move_to(&refund, to("certs", after))).await.unwrap();
    }
    let done = created(&bench, at_login(holder, sectigo("done", "777"))).await;
    bench.record(&done, &events_to(State::Succeeded)).await.unwrap();
    assert_eq!(is_reserved(&bench, at_login(login, sectigo("new", "777"))).await, expected);
    // A former login of the configuration is followed too.
    let related = RelatedLogins { former_logins: ["b".to_owned()].into(), ..RelatedLogins::default() };
    assert!(is_reserved(&bench, NewRefund { related, ..at_login("y", sectigo("new", "777")) }).await);
}

/// It records no event: neither the revision nor the chain changes.
#[rstest]
#[case(State::Submitted, None)]
#[case(State::InDoubt, Some(1))]
#[case(State::NeedsReview, Some(1))]
#[tokio::test]
async fn a_schedule_is_not_part_of_the_history(
    #[case] state: State,
    #[case] check_count: Option<u32>,
    #[values(true, false)] unheard: bool,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let refund = bench.refund_in(state, "a").await;
    let events = bench.count("SELECT count(*) FROM events");
    let next_check = Some(NOW.saturating_add(Duration::from_secs(77)));
    let reschedule = Reschedule { id: refund.id().clone(), revision: refund.revision, next_check, unheard };
    let after = bench.ledger.reschedule(reschedule.clone()).await.unwrap();
    assert_eq!((after.next_check, after.unheard, after.etag()), (next_check, unheard, refund.etag()));
    assert_eq!(after.doubt.as_ref().map(|doubt| doubt.check_count), check_count);
    assert_eq!(bench.count("SELECT count(*) FROM events"), events);
    let bench = bench.reopened();
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(after.clone()));
    bench.ledger.verify().await.unwrap();

    let present = Box::new(after);
    let stale = Reschedule { revision: refund.revision + 1, ..reschedule };
    assert_eq!(bench.ledger.reschedule(stale).await, Err(LedgerError::StaleRevision { present }));
}

#[rstest]
#[tokio::test]
async fn an_unanswered_lookup_becomes_due_at_its_place_alone(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let late = NOW.saturating_add(Duration::from_secs(86_400));
    let unheard = async |refund: Refund, unheard| {
        let reschedule =
            Reschedule { id: refund.id().clone(), revision: refund.revision, next_check: Some(late), unheard };
        bench.ledger.reschedule(reschedule).await.unwrap();
    };
    for state in [State::InDoubt, State::Submitted, State::NeedsReview] {
        unheard(bench.refund_in(state, state.as_str().replace('_', "-").as_str()).await, true).await;
    }
    unheard(bench.refund_in(State::InDoubt, "heard").await, false).await;
    let elsewhere = created(&bench, at_login("elsewhere", sectigo("elsewhere", "9"))).await;
    unheard(bench.record(&elsewhere, &events_to(State::InDoubt)).await.unwrap(), true).await;

    let now = NOW.saturating_add(Duration::from_secs(9));
    let query = DueQuery { kind: DueKind::Lookup, destination: at("certs"), at: now, skip: 0, limit: 9 };
    assert_eq!(bench.ledger.due(query.clone()).await, Ok(Vec::new()));
    assert_eq!(bench.ledger.hasten(&at("certs"), now).await, Ok(3));
    let due = bench.ledger.due(query).await.unwrap();
    assert_eq!(due.len(), 3);
    assert!(due.iter().all(|refund| refund.next_check == Some(now) && !refund.unheard), "{due:#?}");
    assert_eq!(bench.ledger.hasten(&at("certs"), now).await, Ok(0), "once");
    assert_eq!(bench.count("SELECT count(*) FROM refunds WHERE unheard = 1"), 1);
    bench.ledger.verify().await.unwrap();
}

#[rstest]
#[tokio::test]
async fn open_refunds_are_counted_and_read_by_their_place(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for state in State::ALL {
        bench.refund_in(state, state.as_str().replace('_', "-").as_str()).await;
    }
    bench.new_refund(namecom("n", &[1])).await;
    created(&bench, at_login("elsewhere", sectigo("elsewhere", "9"))).await;
    let counted = |provider, at: Destination, count| OpenRefunds { provider, at, count };
    let expected = [
        counted(ProviderKind::Sectigo, at("certs"), 5),
        counted(ProviderKind::Sectigo, to("certs", "elsewhere"), 1),
        counted(ProviderKind::Namecom, at("domains"), 1),
    ];
    assert_eq!(bench.ledger.open_refunds().await.unwrap(), expected);
    let certs = |state, count| (at("certs").account, state, count);
    let by_state = [
        certs(State::AwaitingApproval, 1),
        certs(State::InDoubt, 1),
        certs(State::NeedsReview, 1),
        certs(State::Pending, 2),
        certs(State::Submitted, 1),
        (at("domains").account, State::Pending, 1),
    ];
    assert_eq!(bench.ledger.open_states().await.unwrap(), by_state, "at any place");
    let page = bench.ledger.open_at(&at("certs"), 0, 3).await.unwrap();
    let rest = bench.ledger.open_at(&at("certs"), page.last().unwrap().ordinal, 3).await.unwrap();
    let states: Vec<State> = page.iter().chain(&rest).map(|listed| listed.refund.state).collect();
    let open = [State::Pending, State::Submitted, State::InDoubt, State::NeedsReview, State::AwaitingApproval];
    assert_eq!((page.len(), states), (3, open.to_vec()));
}

/// A standstill lasts from the first start without this account and place until one with it.
#[rstest]
#[tokio::test]
async fn a_standstill_begins_and_ends_with_the_configuration(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.new_refund(sectigo("waits", "1")).await;
    bench.refund_in(State::Succeeded, "done").await;
    let second = |second| NOW.saturating_add(Duration::from_secs(second));
    let here = (ProviderKind::Sectigo, at("certs"));
    let elsewhere = (ProviderKind::Sectigo, to("certs", "new"));
    let mut expected = Vec::new();
    for (configured, at_second, ended) in [
        (vec![here.clone()], 10, None),
        (vec![elsewhere.clone()], 20, None),
        (vec![], 30, None),
        (vec![elsewhere.clone(), here.clone()], 40, Some((20, 40))),
        (vec![here.clone()], 50, None),
        (vec![elsewhere.clone()], 60, None),
        // A clock that was set back makes no period negative.
        (vec![here.clone()], 55, Some((60, 60))),
    ] {
        let open = bench.ledger.note_places(configured, second(at_second)).await.unwrap();
        assert_eq!(open.iter().map(|open| open.count).sum::<u64>(), 1);
        expected.extend(ended.map(|(begin, end)| (second(begin), second(end))));
        let found = bench.ledger.standstills(&at("certs")).await.unwrap();
        assert_eq!(found, expected, "after {at_second} s");
        assert_eq!(bench.ledger.standstills(&to("certs", "new")).await, Ok(Vec::new()));
    }
}
