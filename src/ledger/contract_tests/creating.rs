//! A refund id never expires, a target has one refund, and a likely duplicate is rejected.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::event::Event;
use crate::domain::ids::AccountName;
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::ledger::{CreateOutcome, FirstAttempt, LedgerError, NewRefund, Recorded, RelatedLogins};

#[rstest]
#[tokio::test]
async fn the_same_request_twice_is_one_refund(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let first = bench.new_refund(sectigo("a", "100")).await;
    let dispatched = bench.record(&first, &[Event::Dispatched { credential: None }]).await.unwrap();
    let again = bench
        .create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("a", "100")) })
        .await
        .unwrap();
    assert_eq!(again, CreateOutcome::Known(dispatched), "as it is now, not as it was created");
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 1);
    assert_eq!(bench.count(ATTEMPTS), 1);
}

#[rstest]
#[tokio::test]
async fn the_same_id_with_other_content_names_the_fields(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.new_refund(sectigo("a", "100")).await;
    let mut other = sectigo("a", "200");
    other.labels.clear();
    other.account = AccountName::parse("other").unwrap();
    let expected =
        LedgerError::RefundIdReused { id: other.id.clone(), fields: vec!["account", "sectigo.order_number", "labels"] };
    assert_eq!(bench.ledger.dry_run(create(other.clone())).await, Err(expected.clone()));
    assert_eq!(bench.create(create(other)).await, Err(expected));
}

#[rstest]
#[tokio::test]
async fn a_dispatched_creation_is_one_commit_with_its_attempt(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let created = bench
        .ledger
        .create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("a", "100")) })
        .await
        .unwrap();
    assert_eq!(created.sequence, 2, "the number of its last event");
    let CreateOutcome::New(refund) = created.outcome else { panic!("it was recorded before") };
    assert_eq!((refund.state, refund.revision, refund.attempt_count), (State::Dispatching, 2, 1));
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund.clone()));
    let events = bench.ledger.events_of(refund.id(), 0, 10).await.unwrap();
    let lines: Vec<_> = events.iter().map(|event| (event.from, event.to, event.actor.name.as_str())).collect();
    assert_eq!(lines, [(None, State::Pending, "caller"), (Some(State::Pending), State::Dispatching, "gateway")]);
    assert_eq!(events.iter().map(|event| event.attempt).collect::<Vec<_>>(), [0, 1]);
}

#[rstest]
#[tokio::test]
async fn of_many_simultaneous_refunds_of_one_target_exactly_one_is_recorded(
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let order = |number: usize| if number.is_multiple_of(2) { "000777" } else { "777" };
    let creations = (0..20).map(|number| {
        bench.ledger.create(NewRefund {
            dispatch: Some(FirstAttempt { credential: None }),
            ..create(sectigo(&format!("r{number}"), order(number)))
        })
    });
    let answers = futures_util::future::join_all(creations).await;
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let [Recorded { outcome: CreateOutcome::New(winner), .. }] = made.as_slice() else { panic!("{made:?}") };
    for answer in answers.iter().filter(|answer| answer.is_err()) {
        assert_eq!(*answer, Err(LedgerError::TargetHasRefund { conflicting: winner.id().clone() }));
    }
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 1);
}

#[rstest]
#[tokio::test]
async fn only_failed_and_cancelled_refunds_release_the_target(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for (number, state) in State::ALL.into_iter().enumerate() {
        let order = format!("order-{number}");
        let first = bench.refund_in(state, &order).await;
        assert_eq!(first.state, state);
        let second = create(sectigo(&format!("second-{number}"), &order));
        let checked = bench.ledger.dry_run(second.clone()).await;
        let answer = bench.create(second.clone()).await;
        if matches!(state, State::Failed | State::Cancelled) {
            assert_eq!(checked, Ok(CreateOutcome::New(Refund::new(second.intent.clone(), place("demo"), NOW))));
            assert!(matches!(answer, Ok(CreateOutcome::New(_))), "{state}");
        } else {
            let expected = LedgerError::TargetHasRefund { conflicting: first.id().clone() };
            assert_eq!((checked, answer), (Err(expected.clone()), Err(expected)), "{state}");
        }
    }
}

/// The first refund is of the account "certs", in "demo".
#[rstest]
#[case::the_login_of_the_account_has_changed("777", "certs", "other login", &["certs"], false)]
#[case::and_the_order_is_written_in_another_way("00777", "certs", "other login", &["certs"], false)]
#[case::the_login_of_both_accounts_has_changed("777", "more-certs", "other login", &["certs", "more-certs"], false)]
#[case::another_account_with_the_same_login("777", "more-certs", "demo", &["certs", "more-certs"], false)]
#[case::another_account_with_its_own_login("777", "more-certs", "other login", &["more-certs"], true)]
#[tokio::test]
async fn a_target_stays_reserved_when_the_login_of_its_account_changes(
    #[case] order: &str,
    #[case] account: &str,
    #[case] login: &str,
    #[case] login_peers: &[&str],
    #[case] is_free: bool,
    #[values(State::InDoubt, State::Succeeded)] state: State,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let first = bench.refund_in(state, "777").await;
    let named = |name: &str| AccountName::parse(name).unwrap();
    let second = Intent { account: named(account), ..sectigo("second", order) };
    let login_peers = login_peers.iter().map(|name| named(name)).collect();
    let related = RelatedLogins { accounts: login_peers, ..RelatedLogins::default() };
    let answer = bench.create(NewRefund { place: place(login), related, ..create(second) }).await;
    match is_free {
        true => assert!(matches!(answer, Ok(CreateOutcome::New(_))), "{answer:?}"),
        false => assert_eq!(answer, Err(LedgerError::TargetHasRefund { conflicting: first.id().clone() })),
    }
}

#[rstest]
#[tokio::test]
async fn a_target_released_under_a_former_login_is_free(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.refund_in(State::Failed, "777").await;
    let login_peers = [AccountName::parse("certs").unwrap()].into();
    let related = RelatedLogins { accounts: login_peers, ..RelatedLogins::default() };
    let again = NewRefund { place: place("other login"), related, ..create(sectigo("second", "777")) };
    assert!(matches!(bench.create(again).await, Ok(CreateOutcome::New(_))));
}

#[rstest]
#[tokio::test]
async fn a_partial_success_frees_only_the_refused_items(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let first = bench.new_refund(namecom("first", &[1, 2])).await;
    bench.record(&first, &[Event::Dispatched { credential: None }, Event::Refunded(partial())]).await.unwrap();
    let conflict = LedgerError::TargetHasRefund { conflicting: first.id().clone() };
    assert_eq!(bench.create(create(namecom("both", &[1, 2]))).await, Err(conflict.clone()));
    assert_eq!(bench.create(create(namecom("done", &[1]))).await, Err(conflict));
    let retried = bench.new_refund(namecom("retried", &[2])).await;
    let conflict = LedgerError::TargetHasRefund { conflicting: retried.id().clone() };
    assert_eq!(bench.create(create(namecom("again", &[2]))).await, Err(conflict));
}

#[rstest]
#[tokio::test]
async fn a_likely_duplicate_is_rejected_within_a_day(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let first = bench.new_refund(debitsuccess("first", "ds1", 1250)).await;
    let similar = Err(LedgerError::SimilarRefund { conflicting: first.id().clone(), firm_until: None });
    let day = Duration::from_secs(24 * 60 * 60);
    let later = |id: &str, reference: &str, amount, wait: Duration| NewRefund {
        now: NOW.saturating_add(wait),
        ..create(debitsuccess(id, reference, amount))
    };
    let just_within = day - Duration::from_micros(1);
    assert_eq!(bench.create(later("second", "DS1", 1250, just_within)).await, similar);
    assert_eq!(bench.ledger.dry_run(later("second", "DS1", 1250, just_within)).await, similar);
    let allowed = NewRefund { allow_similar: true, ..later("allowed", "DS1", 1250, Duration::ZERO) };
    assert!(bench.ledger.dry_run(allowed).await.is_ok());
    assert!(bench.ledger.create(later("other-amount", "DS1", 1251, Duration::ZERO)).await.is_ok());
    assert!(bench.ledger.create(later("other-account", "DS2", 1250, Duration::ZERO)).await.is_ok());
    assert!(bench.ledger.create(later("a-day-later", "DS1", 1250, day)).await.is_ok());
}

#[rstest]
#[tokio::test]
async fn a_similar_refund_that_failed_blocks_no_other(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for (number, state) in State::ALL.into_iter().enumerate() {
        let amount = 1250 + i64::try_from(number).unwrap();
        let first = debitsuccess(&format!("first-{number}"), "DS1", amount);
        let first = bench.new_refund_by(create_for(state, first)).await;
        assert_eq!(bench.record(&first, &events_to(state)).await.unwrap().state, state);
        let second = create(debitsuccess(&format!("second-{number}"), "DS1", amount));
        let answer = bench.create(second.clone()).await;
        if matches!(state, State::Failed | State::Cancelled) {
            assert_eq!(answer, Ok(CreateOutcome::New(Refund::new(second.intent, place("demo"), NOW))));
        } else {
            assert_eq!(
                answer,
                Err(LedgerError::SimilarRefund { conflicting: first.id().clone(), firm_until: None }),
                "{state}"
            );
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_dry_run_records_nothing(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let request = NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("a", "100")) };
    let checked = bench.ledger.dry_run(request.clone()).await;
    assert_eq!(checked, Ok(CreateOutcome::New(Refund::new(request.intent, place("demo"), NOW))));
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 0);
    assert_eq!(*bench.ledger.committed().borrow(), 0);
}

#[rstest]
#[tokio::test]
async fn a_cancelled_request_is_never_recorded(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let cancelled = create(sectigo("a", "100"));
    assert!(cancelled.ticket.cancel());
    assert_eq!(bench.create(cancelled).await, Err(LedgerError::Cancelled));
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 0);
    let started = create(sectigo("b", "100"));
    let ticket = started.ticket.clone();
    bench.ledger.create(started).await.unwrap();
    assert!(!ticket.cancel(), "too late");
}
