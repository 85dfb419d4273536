//! A person's decision: what of it is accepted, and until when it keeps what it decides on.

use rstest::rstest;

use super::*;
use crate::domain::event::{ItemResolution, Resolution};
use crate::domain::money::Money;
use crate::domain::target::NamecomTarget;

fn usd(minor_units: i64) -> Money {
    Money { currency: Currency::USD, minor_units }
}

fn aud(minor_units: i64) -> Money {
    Money { currency: Currency::parse("AUD").unwrap(), minor_units }
}

fn given(id: &str, amount: Option<Money>) -> ItemResolution {
    ItemResolution { item_id: id.to_owned(), refunded: true, amount }
}

fn kept(id: &str) -> ItemResolution {
    ItemResolution { item_id: id.to_owned(), refunded: false, amount: None }
}

fn namecom() -> Intent {
    intent("r", Target::Namecom(NamecomTarget::new(9, &[71, 72]).unwrap()))
}

fn debitsuccess() -> Intent {
    let fields = DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("USD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    };
    intent("r", Target::Debitsuccess(DebitsuccessTarget::new(fields).unwrap()))
}

fn escalated() -> [Event; 3] {
    let [dispatched, doubted] = doubted();
    [dispatched, doubted, Event::Escalated { evidence: "nobody knows".to_owned(), foreign_record: false }]
}

fn command(refund: &Refund, resolution: Resolution) -> ResolveCommand {
    ResolveCommand {
        id: refund.id().clone(),
        etag: refund.etag(),
        resolution,
        evidence: "ticket 7".to_owned(),
        take_over: false,
        actor: "operator".to_owned(),
    }
}

/// The wrong fields of a decision; none where it is taken.
async fn faults_of(intent: Intent, amount: Option<Money>, items: Vec<ItemResolution>) -> Vec<String> {
    let bench = Bench::new();
    let provider = intent.target.provider();
    let refund = bench.refund(intent, &escalated()).await;
    let engine = bench.engine_for(provider, Currency::USD).await;
    match engine.resolve(command(&refund, Resolution::Refunded { amount, items })).await {
        Ok(_) => Vec::new(),
        Err(EngineError::Invalid(faults)) => {
            assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
            faults.into_iter().map(|fault| fault.field).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[rstest]
#[case::nothing(None, &[])]
#[case::all_of_it(Some(usd(1250)), &[])]
#[case::a_part(Some(usd(1)), &[])]
#[case::too_much(Some(usd(1251)), &["refunded_amount.minor_units"])]
#[case::none_of_it(Some(usd(0)), &["refunded_amount.minor_units"])]
#[case::another_currency(Some(aud(1250)), &["refunded_amount.currency_code"])]
#[case::nothing_in_another_currency(
    Some(aud(-1)),
    &["refunded_amount.minor_units", "refunded_amount.currency_code"]
)]
#[tokio::test]
async fn an_amount_is_at_most_what_was_asked_for(#[case] amount: Option<Money>, #[case] wrong: &[&str]) {
    assert_eq!(faults_of(debitsuccess(), amount, Vec::new()).await, wrong);
}

#[rstest]
#[case::one_of_two(None, vec![given("71", None), kept("72")], &[])]
#[case::both(None, vec![given("72", Some(usd(5))), given("71", Some(usd(6)))], &[])]
#[case::none_refunded(None, vec![kept("71"), kept("72")], &["items"])]
#[case::one_missing(None, vec![given("71", None)], &["items"])]
#[case::a_strange_one(None, vec![given("71", None), kept("73")], &["items[1].item_id", "items"])]
#[case::twice(None, vec![given("71", None), kept("72"), kept("71")], &["items[2].item_id"])]
#[case::an_amount_not_refunded(
    None,
    vec![given("71", None), ItemResolution { amount: Some(usd(5)), ..kept("72") }],
    &["items[1].refunded_amount"]
)]
#[case::an_amount_in_another_currency(
    None,
    vec![given("71", Some(aud(5))), kept("72")],
    &["items[0].refunded_amount.currency_code"]
)]
#[case::an_amount_below_zero(None, vec![given("71", Some(usd(-5))), kept("72")], &["items[0].refunded_amount.minor_units"])]
#[case::the_sum(Some(usd(11)), vec![given("71", Some(usd(5))), given("72", Some(usd(6)))], &[])]
#[case::another_sum(Some(usd(12)), vec![given("71", Some(usd(5))), given("72", Some(usd(6)))], &["refunded_amount"])]
#[case::a_sum_of_which_a_part_is_not_known(Some(usd(12)), vec![given("71", Some(usd(5))), given("72", None)], &[])]
#[case::a_sum_beyond_all_bounds(
    Some(usd(12)),
    vec![given("71", Some(usd(i64::MAX))), given("72", Some(usd(i64::MAX)))],
    &["refunded_amount"]
)]
#[tokio::test]
async fn every_item_is_named_once(
    #[case] amount: Option<Money>,
    #[case] items: Vec<ItemResolution>,
    #[case] wrong: &[&str],
) {
    assert_eq!(faults_of(namecom(), amount, items).await, wrong);
}

#[tokio::test]
async fn only_a_refund_of_name_com_has_items() {
    for intent in [debitsuccess(), sectigo("r")] {
        assert_eq!(faults_of(intent, None, vec![given("71", None)]).await, ["items"]);
    }
}

/// Sixty seconds are the settle time of the account.
#[rstest]
#[case::too_early(59, Resolution::NotRefunded, Some(60))]
#[case::in_time(60, Resolution::NotRefunded, None)]
#[case::an_item(0, Resolution::Refunded { amount: None, items: vec![given("71", None), kept("72")] }, Some(60))]
#[case::all_of_it(0, Resolution::Refunded { amount: None, items: Vec::new() }, None)]
#[case::every_item(0, Resolution::Refunded { amount: None, items: vec![given("71", None), given("72", None)] }, None)]
#[tokio::test]
async fn what_was_not_given_back_is_held_until_an_effect_is_ruled_out(
    #[case] seconds: u64,
    #[case] resolution: Resolution,
    #[case] held: Option<u64>,
    #[values(false, true)] take_over: bool,
) {
    let bench = Bench::new();
    let events = if take_over { doubted().to_vec() } else { escalated().to_vec() };
    let refund = bench.refund(namecom(), &events).await;
    // Looked up by nobody: its account has the only place in use.
    let engine = bench.engine_with(ProviderKind::Namecom, Currency::USD, |account| account.max_in_flight = 1).await;
    let lane = engine.0.lanes.values().next().unwrap().clone();
    let place = lane.lookups.clone().acquire_owned().await.unwrap();
    bench.clock.advance(Duration::from_secs(seconds));
    let early = engine.resolve(command(&refund, resolution.clone())).await;
    let decided = if take_over {
        assert_eq!(early, Err(EngineError::NotInReview(State::InDoubt)));
        engine.resolve(ResolveCommand { take_over, ..command(&refund, resolution.clone()) }).await
    } else {
        early
    };
    let decided = decided.unwrap();
    assert_eq!(decided.reserved_until, held.map(|seconds| NOW.saturating_add(Duration::from_secs(seconds))));
    let now = NOW.saturating_add(Duration::from_secs(seconds));
    let is_followed = resolution == Resolution::NotRefunded;
    assert_eq!(decided.caution_until, is_followed.then(|| now.saturating_add(Duration::from_secs(7 * 86_400))));
    assert_eq!(decided.next_check, is_followed.then(|| now.saturating_add(Duration::from_secs(86_400))));
    drop(place);
}

/// A record that may be another caller's would correct the wrong refund.
#[tokio::test]
async fn what_may_be_another_callers_record_is_not_followed() {
    let bench = Bench::new();
    let [dispatched, doubted] = doubted();
    let foreign = Event::Escalated { evidence: "14143".to_owned(), foreign_record: true };
    let refund = bench.refund(debitsuccess(), &[dispatched, doubted, foreign]).await;
    let engine = bench.engine_for(ProviderKind::Debitsuccess, Currency::USD).await;
    let failed = engine.resolve(command(&refund, Resolution::NotRefunded)).await.unwrap();
    assert_eq!((failed.caution_until, failed.next_check), (None, None));
}

/// Lookups are a day apart: where the time ends with the first of them, there is none.
#[rstest]
#[case::no_time(0, None)]
#[case::a_day(86_400, None)]
#[case::a_little_longer(86_401, Some(86_400))]
#[tokio::test]
async fn what_a_person_found_not_refunded_is_looked_up_within_its_time(
    #[case] seconds: u64,
    #[case] next: Option<u64>,
) {
    let bench = Bench { follow_up: Duration::from_secs(seconds), ..Bench::new() };
    let refund = bench.refund(sectigo("r"), &escalated()).await;
    let engine = bench.engine().await;
    let failed = engine.resolve(command(&refund, Resolution::NotRefunded)).await.unwrap();
    assert_eq!(failed.next_check, next.map(|seconds| NOW.saturating_add(Duration::from_secs(seconds))));
    assert_eq!(failed.caution_until.is_some(), seconds > 0);
}

/// Nothing is sent before a review, by whatever word.
#[tokio::test]
async fn a_doubt_is_not_sent_again_by_a_take_over() {
    let bench = Bench::new();
    let refund = bench.refund(sectigo("r"), &doubted()).await;
    let engine = bench.engine().await;
    let again = ResolveCommand { take_over: true, ..command(&refund, Resolution::SendAgain) };
    let answer = engine.resolve(again).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
    assert_eq!(bench.provider.calls.lock().unwrap().len(), 0);
    let stale = ResolveCommand { etag: "0-0".to_owned(), ..command(&refund, Resolution::NotRefunded) };
    assert_eq!(engine.resolve(stale).await, Err(EngineError::EtagMismatch { present: refund.etag() }));
}
