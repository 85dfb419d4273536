//! What a refund holds of its target and its payee, for how long, and what releases it.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::clock::Timestamp;
use crate::domain::event::{Decided, Event, ItemResolution, Observation, RecordSeen, Resolution};
use crate::domain::ids::AccountName;
use crate::domain::outcome::{Acceptance, Confirmation};
use crate::domain::place::Destination;
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget, Target};
use crate::ledger::{CreateOutcome, LedgerError, NewRefund, Reassign, RelatedLogins};

fn second(second: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(second))
}

fn not_refunded(reserve_until: Option<u64>, follow_until: Option<u64>) -> Event {
    Event::Resolved(Decided {
        reserve_until: reserve_until.map(second),
        follow_until: follow_until.map(second),
        ..Decided::new(Resolution::NotRefunded, "ticket")
    })
}

fn corrected() -> Event {
    let confirmation = Confirmation { status: Some("refunded".to_owned()), ..Confirmation::default() };
    Event::Corrected { confirmation, caution_until: second(9_000) }
}

fn to(login: &str, refund: &Refund) -> Reassign {
    Reassign {
        id: refund.id().clone(),
        revision: refund.revision,
        to: Destination { account: AccountName::parse("certs").unwrap(), place: place(login) },
        related: RelatedLogins::default(),
        reject_similar: true,
        evidence: "the same account".to_owned(),
        actor: actor("operator"),
        now: NOW,
    }
}

/// A refund that an operator resolved as not refunded, as [`not_refunded`].
async fn resolved(
    bench: &LedgerBench,
    intent: Intent,
    reserve_until: Option<u64>,
    follow_until: Option<u64>,
) -> Refund {
    let refund = bench.new_refund(intent).await;
    let mut events = events_to(State::NeedsReview);
    events.push(not_refunded(reserve_until, follow_until));
    bench.record(&refund, &events).await.unwrap()
}

fn debits(id: &str, own: &str, external: &str) -> Intent {
    let fields = DebitsuccessFields {
        account_reference_no: own,
        external_account_reference_no: external,
        amount: Some(("AUD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    };
    intent(id, "debits", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()))
}

#[rstest]
#[tokio::test]
async fn a_target_is_reserved_until_an_effect_is_ruled_out(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let first = resolved(&bench, sectigo("first", "777"), Some(600), None).await;
    let request = |id: &str, now| NewRefund { now, ..create(sectigo(id, "0777")) };
    let conflict = Err(LedgerError::TargetHasRefund { conflicting: first.id().clone() });
    let just_before = Timestamp::from_micros(second(600).as_micros() - 1);
    assert_eq!(bench.create(request("second", just_before)).await, conflict);
    let second_refund = match bench.create(request("second", second(600))).await {
        Ok(CreateOutcome::New(refund)) => refund,
        other => panic!("{other:?}"),
    };
    // From then on the second one holds it.
    let conflict = Err(LedgerError::TargetHasRefund { conflicting: second_refund.id().clone() });
    assert_eq!(bench.create(request("third", second(601))).await, conflict);
    assert_eq!(bench.count("SELECT count(*) FROM reservations WHERE until_time IS NULL"), 1);
    assert_eq!(bench.count("SELECT count(*) FROM reservations"), 1);
    bench.ledger.verify().await.unwrap();
}

#[rstest]
#[tokio::test]
async fn an_item_that_was_not_refunded_is_reserved_as_long(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(namecom("first", &[1, 2])).await;
    let items = [("1", true), ("2", false)]
        .map(|(item_id, refunded)| ItemResolution { item_id: item_id.to_owned(), refunded, amount: None })
        .to_vec();
    let decided = Decided {
        reserve_until: Some(second(600)),
        ..Decided::new(Resolution::Refunded { amount: None, items }, "ticket")
    };
    let mut events = events_to(State::NeedsReview);
    events.push(Event::Resolved(decided));
    let after = bench.record(&refund, &events).await.unwrap();
    assert_eq!(after.state, State::PartiallySucceeded);
    for (item, at, is_free) in [(1, 599, false), (2, 599, false), (1, 600, false), (2, 600, true)] {
        let request = NewRefund { now: second(at), ..create(namecom("second", &[item])) };
        assert_eq!(bench.ledger.dry_run(request).await.is_ok(), is_free, "item {item} after {at} s");
    }
}

/// First while the earlier one may still be queued at the provider, then while it is followed up.
#[rstest]
#[case(599, false, Some(Some(600)))]
#[case(599, true, Some(Some(600)))]
#[case(600, false, Some(None))]
#[case(600, true, None)]
#[case(899, false, Some(None))]
#[case(900, false, None)]
#[tokio::test]
async fn a_similar_refund_is_rejected_in_two_steps(
    #[case] at: u64,
    #[case] allow_similar: bool,
    #[case] refused: Option<Option<u64>>,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let first = resolved(&bench, debits("first", "DS1", ""), Some(600), Some(900)).await;
    let request = NewRefund { now: second(at), allow_similar, ..create(debits("second", "DS1", "")) };
    let answer = bench.create(request).await;
    match refused {
        Some(firm_until) => {
            let (conflicting, firm_until) = (first.id().clone(), firm_until.map(second));
            assert_eq!(answer, Err(LedgerError::SimilarRefund { conflicting, firm_until }));
        }
        None => assert!(matches!(answer, Ok(CreateOutcome::New(_))), "{answer:?}"),
    }
}

/// The first refund gave both references of its payee, the second its own and another one.
#[rstest]
#[case::both("DS1", "M-1", true)]
#[case::one("DS1", "", true)]
#[case::the_other("", "m-1", true)]
#[case::with_one_more("DS1", "M-9", true)]
#[case::from_one_to_the_next("", "M-2", true)]
#[case::another_payee("DS7", "M-7", false)]
#[case::an_own_reference_is_not_an_external_one("M-1", "", false)]
#[tokio::test]
async fn two_references_name_one_payee(
    #[case] own: &str,
    #[case] external: &str,
    #[case] is_similar: bool,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let first = bench.new_refund(debits("first", "ds1", "M-1")).await;
    bench.record(&first, &events_to(State::Succeeded)).await.unwrap();
    let links = NewRefund { allow_similar: true, ..create(debits("links", "DS1", "M-2")) };
    let Ok(CreateOutcome::New(links)) = bench.create(links).await else { panic!("it was recorded before") };
    bench.record(&links, &[Event::Cancelled]).await.unwrap();

    let request = create(debits("second", own, external));
    let similar = Err(LedgerError::SimilarRefund { conflicting: first.id().clone(), firm_until: None });
    let answer = bench.ledger.dry_run(request.clone()).await;
    assert_eq!(answer == similar, is_similar, "{answer:?}");
    assert_eq!(answer.is_ok(), !is_similar);
    // Under another login it is another payee, unless that is a former login.
    let elsewhere = NewRefund { place: place("other"), ..request };
    assert!(bench.ledger.dry_run(elsewhere.clone()).await.is_ok());
    let related = RelatedLogins { former_logins: ["demo".to_owned()].into(), ..RelatedLogins::default() };
    assert_eq!(bench.ledger.dry_run(NewRefund { related, ..elsewhere }).await.is_ok(), !is_similar);
}

#[rstest]
#[tokio::test]
async fn an_id_that_differs_in_case_alone_is_reserved(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let first = bench.new_refund(sectigo("Order-7", "777")).await;
    for intent in [sectigo("order-7", "777"), sectigo("ORDER-7", "999")] {
        let reused = Err(LedgerError::RefundIdReused { id: first.id().clone(), fields: Vec::new() });
        assert_eq!(bench.ledger.get(&intent.id).await, Ok(None), "it names another refund");
        assert_eq!(bench.ledger.dry_run(create(intent.clone())).await, reused);
        assert_eq!(bench.create(create(intent)).await, reused);
    }
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 1);
}

#[rstest]
#[tokio::test]
async fn a_corrected_refund_reserves_its_target_again(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let failed = resolved(&bench, sectigo("first", "777"), None, Some(900)).await;
    let after = bench.record(&failed, &[corrected()]).await.unwrap();
    assert_eq!((after.state, after.corrected_time), (State::Failed, Some(second(1))));
    let conflict = Err(LedgerError::TargetHasRefund { conflicting: failed.id().clone() });
    assert_eq!(bench.create(create(sectigo("second", "777"))).await, conflict);
    bench.ledger.verify().await.unwrap();
}

/// The order does not show whose refund it was.
#[rstest]
#[case(State::Pending)]
#[case(State::Succeeded)]
#[case(State::Failed)]
#[tokio::test]
async fn a_later_refund_of_the_target_prevents_a_correction(
    #[case] later: State,
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let failed = resolved(&bench, sectigo("first", "777"), None, Some(900)).await;
    let second = bench.new_refund(sectigo("second", "00777")).await;
    bench.record(&second, &events_to(later)).await.unwrap();
    let events = bench.count("SELECT count(*) FROM events");
    let refused = Err(LedgerError::TargetHasRefund { conflicting: second.id().clone() });
    assert_eq!(bench.record(&failed, &[corrected()]).await, refused);
    assert_eq!(bench.count("SELECT count(*) FROM events"), events);
    assert_eq!(bench.ledger.get(failed.id()).await.unwrap(), Some(failed));
}

/// Debitsuccess keeps a record under each refund's own identifier.
#[rstest]
#[tokio::test]
async fn a_later_refund_of_the_payee_does_not_prevent_a_correction(
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let failed = resolved(&bench, debits("first", "DS1", ""), None, Some(900)).await;
    let allowed = NewRefund { allow_similar: true, ..create(debits("second", "DS1", "")) };
    bench.ledger.create(allowed).await.unwrap();
    assert!(bench.record(&failed, &[corrected()]).await.unwrap().corrected_time.is_some());
}

/// An earlier refund, reassigned from another login, holds the target.
#[rstest]
#[tokio::test]
async fn a_reserved_target_is_not_reserved_again(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let request = NewRefund { place: place("old"), ..create(sectigo("first", "777")) };
    let Ok(CreateOutcome::New(first)) = bench.create(request).await else { panic!("it was recorded before") };
    let failed = resolved(&bench, sectigo("second", "777"), None, Some(900)).await;
    bench.ledger.reassign(to("demo", &first)).await.unwrap();
    let refused = Err(LedgerError::TargetHasRefund { conflicting: first.id().clone() });
    assert_eq!(bench.record(&failed, &[corrected()]).await, refused);
    assert_eq!(bench.ledger.get(failed.id()).await.unwrap(), Some(failed));
    bench.ledger.verify().await.unwrap();
}

#[rstest]
#[tokio::test]
async fn an_empty_status_note_is_recorded_as_none(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(debits("a", "DS1", "")).await;
    let empty = || Some(String::new());
    let accepted = Event::Accepted(Acceptance {
        status: Some("Submitted".to_owned()),
        status_note: empty(),
        ..Acceptance::default()
    });
    let seen = Observation {
        status: Some("Odd".to_owned()),
        status_note: empty(),
        ..Observation::new("odd", RecordSeen::Present)
    };
    let after = bench.record(&refund, &[Event::Dispatched { credential: None }, accepted, Event::Checked(seen)]).await;
    assert_eq!(after.unwrap().provider_status_note, None);
}
