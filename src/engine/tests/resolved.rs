//! An operator's decision: what is accepted, and how long it keeps the target reserved.

use rstest::rstest;

use super::*;
use crate::domain::authority::Authority;
use crate::domain::event::{ItemResolution, Resolution};
use crate::domain::money::Money;
use crate::domain::target::NamecomTarget;

fn usd(minor_units: i64) -> Money {
    Money { currency: Currency::USD, minor_units }
}

fn aud(minor_units: i64) -> Money {
    Money { currency: Currency::parse("AUD").unwrap(), minor_units }
}

fn refunded(id: &str, amount: Option<Money>) -> ItemResolution {
    ItemResolution { item_id: id.to_owned(), refunded: true, amount }
}

fn not_refunded(id: &str) -> ItemResolution {
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
    [dispatched, doubted, Event::Escalated { evidence: "outcome unknown".to_owned(), foreign_record: false }]
}

fn command(refund: &Refund, resolution: Resolution) -> ResolveCommand {
    ResolveCommand {
        id: refund.id().clone(),
        etag: refund.etag(),
        resolution,
        evidence: "ticket 7".to_owned(),
        take_over: false,
        by: Authority::unrestricted(),
    }
}

/// The invalid fields of a decision; none if it is accepted.
async fn violations_of(intent: Intent, amount: Option<Money>, items: Vec<ItemResolution>) -> Vec<String> {
    let bench = Bench::new();
    let provider = intent.target.provider();
    let refund = bench.refund(intent, &escalated()).await;
    let engine = bench.engine_for(provider, Currency::USD).await;
    match engine.resolve(command(&refund, Resolution::Refunded { amount, items })).await {
        Ok(_) => Vec::new(),
        Err(EngineError::Invalid(violations)) => {
            assert_eq!(engine.get(refund.id()).await.unwrap(), refund);
            violations.into_iter().map(|violation| violation.field).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[rstest]
#[case::no_amount(None, &[])]
#[case::all(Some(usd(1250)), &[])]
#[case::a_part(Some(usd(1)), &[])]
#[case::too_much(Some(usd(1251)), &["refunded_amount.minor_units"])]
#[case::zero(Some(usd(0)), &["refunded_amount.minor_units"])]
#[case::another_currency(Some(aud(1250)), &["refunded_amount.currency_code"])]
#[case::negative_in_another_currency(
    Some(aud(-1)),
    &["refunded_amount.minor_units", "refunded_amount.currency_code"]
)]
#[tokio::test]
async fn an_amount_is_at_most_the_requested_one(#[case] amount: Option<Money>, #[case] wrong: &[&str]) {
    assert_eq!(violations_of(debitsuccess(), amount, Vec::new()).await, wrong);
}

#[rstest]
#[case::one_of_two(None, vec![refunded("71", None), not_refunded("72")], &[])]
#[case::both(None, vec![refunded("72", Some(usd(5))), refunded("71", Some(usd(6)))], &[])]
#[case::none_refunded(None, vec![not_refunded("71"), not_refunded("72")], &["items"])]
#[case::one_missing(None, vec![refunded("71", None)], &["items"])]
#[case::an_unknown_one(None, vec![refunded("71", None), not_refunded("73")], &["items[1].item_id", "items"])]
#[case::twice(None, vec![refunded("71", None), not_refunded("72"), not_refunded("71")], &["items[2].item_id"])]
#[case::an_amount_not_refunded(
    None,
    vec![refunded("71", None), ItemResolution { amount: Some(usd(5)), ..not_refunded("72") }],
    &["items[1].refunded_amount"]
)]
#[case::an_amount_in_another_currency(
    None,
    vec![refunded("71", Some(aud(5))), not_refunded("72")],
    &["items[0].refunded_amount.currency_code"]
)]
#[case::an_amount_below_zero(None, vec![refunded("71", Some(usd(-5))), not_refunded("72")], &["items[0].refunded_amount.minor_units"])]
#[case::the_sum(Some(usd(11)), vec![refunded("71", Some(usd(5))), refunded("72", Some(usd(6)))], &[])]
#[case::another_sum(Some(usd(12)), vec![refunded("71", Some(usd(5))), refunded("72", Some(usd(6)))], &["refunded_amount"])]
#[case::a_partly_unknown_sum(Some(usd(12)), vec![refunded("71", Some(usd(5))), refunded("72", None)], &[])]
#[case::an_overflowing_sum(
    Some(usd(12)),
    vec![refunded("71", Some(usd(i64::MAX))), refunded("72", Some(usd(i64::MAX)))],
    &["refunded_amount"]
)]
#[tokio::test]
async fn a_decision_names_every_item_once(
    #[case] amount: Option<Money>,
    #[case] items: Vec<ItemResolution>,
    #[case] wrong: &[&str],
) {
    assert_eq!(violations_of(namecom(), amount, items).await, wrong);
}

#[tokio::test]
async fn a_decision_on_a_refund_without_items_names_none() {
    for intent in [debitsuccess(), sectigo("r")] {
        assert_eq!(violations_of(intent, None, vec![refunded("71", None)]).await, ["items"]);
    }
}

/// The account's settle time is sixty seconds.
#[rstest]
#[case::too_early(59, Resolution::NotRefunded, Some(60))]
#[case::in_time(60, Resolution::NotRefunded, None)]
#[case::an_item(0, Resolution::Refunded { amount: None, items: vec![refunded("71", None), not_refunded("72")] }, Some(60))]
#[case::all_of_it(0, Resolution::Refunded { amount: None, items: Vec::new() }, None)]
#[case::every_item(0, Resolution::Refunded { amount: None, items: vec![refunded("71", None), refunded("72", None)] }, None)]
#[tokio::test]
async fn what_was_not_refunded_stays_reserved_until_an_effect_is_ruled_out(
    #[case] seconds: u64,
    #[case] resolution: Resolution,
    #[case] held: Option<u64>,
    #[values(false, true)] take_over: bool,
) {
    let bench = Bench::new();
    let events = if take_over { doubted().to_vec() } else { escalated().to_vec() };
    let refund = bench.refund(namecom(), &events).await;
    // It is not looked up: the account's only lookup slot is taken.
    let engine = bench.engine_with(ProviderKind::Namecom, Currency::USD, |account| account.max_in_flight = 1).await;
    let account = only_account(&engine);
    let place = account.lookup_slots.clone().acquire_owned().await.unwrap();
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

/// Another caller's record would correct the wrong refund.
#[tokio::test]
async fn a_decision_about_a_foreign_record_is_not_followed() {
    let bench = Bench::new();
    let [dispatched, doubted] = doubted();
    let foreign = Event::Escalated { evidence: "14143".to_owned(), foreign_record: true };
    let refund = bench.refund(debitsuccess(), &[dispatched, doubted, foreign]).await;
    let engine = bench.engine_for(ProviderKind::Debitsuccess, Currency::USD).await;
    let failed = engine.resolve(command(&refund, Resolution::NotRefunded)).await.unwrap();
    assert_eq!((failed.caution_until, failed.next_check), (None, None));
}

/// Lookups are a day apart: if the follow-up time ends with the first one, there is none.
#[rstest]
#[case::no_time(0, None)]
#[case::a_day(86_400, None)]
#[case::a_little_longer(86_401, Some(86_400))]
#[tokio::test]
async fn a_refund_decided_as_not_refunded_is_looked_up_within_the_follow_up_time(
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

#[tokio::test]
async fn a_take_over_cannot_send_a_refund_again() {
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
