//! Resolutions in detail: item by item, and before the gateway has finished reconciling. A request
//! that may still arrive cannot lead to a second payment.
//!
//! Each test ends with a look at the simulators' books.

use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::item_result::State as ItemState;
use recoup::proto::v1::refund::{MoneyVerdict, SideEffect, State};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::{ItemResolution, Resolution};
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::namecom::{Item, Order, RegistryCondition};
use simulators::request::Provider;
use tonic::{Code, Status};

use crate::support::{
    LIMIT, Stack, debitsuccess, metadata, micros, namecom, reason, sample_request, sectigo, without_lookups,
    wrong_fields,
};

const ORDER: i32 = 700_001;
const PAID: i32 = 7_000_001;
const UNPAID: i32 = 7_000_002;

/// A gateway that looks refunds up only at ReconcileRefund.
async fn on_demand(settle_s: u32) -> Stack {
    Stack::start_as(|configuration| without_lookups(&configuration, settle_s)).await
}

fn usd(minor_units: i64) -> Option<proto::Money> {
    Some(proto::Money { currency_code: "USD".to_owned(), minor_units })
}

fn item(id: i32, refunded: bool) -> ItemResolution {
    ItemResolution { item_id: id.to_string(), refunded, refunded_amount: None }
}

/// A refund of two domains: the first item is refunded, then the registry of the second one does
/// not answer, and the request ends with the documented 502.
async fn half_refunded(settle_s: u32) -> Stack {
    let stack = on_demand(settle_s).await;
    stack.simulators.with_world(|world| {
        let now = world.now();
        let paid = Item::new(PAID, "registration", "paid.com".to_owned(), 1299);
        let unpaid = Item {
            registry: RegistryCondition::Unreachable,
            ..Item::new(UNPAID, "registration", "unpaid.com".to_owned(), 1099)
        };
        world.providers.namecom.put_order(Order::new(ORDER, "demo-test", vec![paid, unpaid]), now).unwrap();
    });
    let refund = stack.refund(namecom("r-1", ORDER, &[PAID, UNPAID])).await;
    assert_eq!((refund.state(), refund.money_verdict()), (State::InDoubt, MoneyVerdict::MayHaveMoved));
    stack
}

/// Makes the registry of the second domain answer again.
fn repair_registry(stack: &Stack) {
    stack.simulators.with_world(|world| {
        let now = world.now();
        let mut order = world.providers.namecom.order(ORDER).unwrap();
        order.items.iter_mut().for_each(|item| item.registry = RegistryCondition::Reachable);
        world.providers.namecom.put_order(order, now).unwrap();
    });
}

fn states(refund: &proto::Refund) -> Vec<(i32, ItemState)> {
    refund.items.iter().map(|item| (item.item_id.parse().unwrap(), item.state())).collect()
}

/// Resolves before the gateway has finished reconciling.
fn take_over(request: &mut proto::ResolveRefundRequest, resolution: Resolution) {
    request.resolution = resolution.into();
    request.take_over = true;
}

/// Resolves both items before the settle time is over: one is refunded.
fn one_of_two(request: &mut proto::ResolveRefundRequest) {
    take_over(request, Resolution::Refunded);
    request.items = vec![ItemResolution { refunded_amount: usd(1299), ..item(PAID, true) }, item(UNPAID, false)];
}

fn holder(refusal: &Status) -> String {
    assert_eq!((refusal.code(), reason(refusal).as_str()), (Code::FailedPrecondition, "TARGET_HAS_REFUND"));
    metadata(refusal, "conflicting_refund")
}

/// Requests a refund until it is no longer refused because of the first one, for this reason.
async fn created_at_last(stack: &Stack, request: proto::CreateRefundRequest, why: &str) -> proto::Refund {
    let free = async {
        loop {
            match stack.create(request.clone()).await {
                Ok(created) => return created.refund.unwrap(),
                Err(refusal) => assert_eq!(
                    (reason(&refusal).as_str(), metadata(&refusal, "conflicting_refund").as_str()),
                    (why, "refunds/r-1")
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, free).await.unwrap()
}

#[tokio::test]
async fn an_operator_resolves_each_item() {
    let stack = half_refunded(600).await;
    // While the refund is in doubt, it shows what a lookup saw of each item.
    let doubted = stack.reconcile("r-1").await.unwrap();
    assert_eq!(doubted.state(), State::InDoubt);
    assert_eq!(states(&doubted), [(PAID, ItemState::Succeeded), (UNPAID, ItemState::InDoubt)]);
    assert!(doubted.items.iter().all(|item| item.requested));

    let refund = stack.resolve_as("r-1", one_of_two).await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::PartiallySucceeded, MoneyVerdict::Moved));
    assert_eq!(states(&refund), [(PAID, ItemState::Succeeded), (UNPAID, ItemState::Failed)]);
    assert_eq!(refund.side_effects().collect::<Vec<_>>(), [SideEffect::DomainDeleted]);
    assert_eq!((refund.refunded_amount, refund.doubt), (usd(1299), None));
    let last = stack.events("r-1").await.pop().unwrap();
    assert_eq!((last.kind(), last.from_state(), last.actor.as_str()), (Kind::Resolved, State::InDoubt, "caller"));
    assert!(last.note.contains(&PAID.to_string()) && last.note.contains("ticket 7"), "{}", last.note);

    // The first item was paid; the second one may still be paid until the settle time is over.
    repair_registry(&stack);
    for id in [PAID, UNPAID] {
        let refusal = stack.create(namecom("r-2", ORDER, &[id])).await.unwrap_err();
        assert_eq!(holder(&refusal), "refunds/r-1");
    }
    assert_eq!((stack.effects(&PAID.to_string()), stack.effects(&UNPAID.to_string())), (1, 0));
    assert_eq!(stack.attempts(&ORDER.to_string()), 1);
}

#[tokio::test]
async fn an_item_that_was_not_refunded_is_free_after_the_settle_time() {
    let stack = half_refunded(1).await;
    let before = stack.resolve_as("r-1", one_of_two).await.unwrap();
    assert_eq!(before.state(), State::PartiallySucceeded);
    repair_registry(&stack);
    let refund = created_at_last(&stack, namecom("r-2", ORDER, &[UNPAID]), "TARGET_HAS_REFUND").await;
    assert_eq!(refund.state(), State::Succeeded);
    let apart = micros(&refund.create_time.unwrap()) - micros(&before.dispatch_time.unwrap());
    assert!(apart >= 1_000_000, "{apart}");
    // The item that was refunded is still reserved.
    assert_eq!(holder(&stack.create(namecom("r-3", ORDER, &[PAID])).await.unwrap_err()), "refunds/r-1");
    assert_eq!((stack.effects(&PAID.to_string()), stack.effects(&UNPAID.to_string())), (1, 1));
}

#[tokio::test]
async fn a_refund_with_all_items_refunded_succeeds() {
    let stack = half_refunded(600).await;
    let change = |request: &mut proto::ResolveRefundRequest| {
        take_over(request, Resolution::Refunded);
        request.refunded_amount = usd(2398);
        request.items = vec![
            ItemResolution { refunded_amount: usd(1099), ..item(UNPAID, true) },
            ItemResolution { refunded_amount: usd(1299), ..item(PAID, true) },
        ];
    };
    let refund = stack.resolve_as("r-1", change).await.unwrap();
    assert_eq!((refund.state(), refund.refunded_amount), (State::Succeeded, usd(2398)));
    assert_eq!(
        (stack.effects(&PAID.to_string()), stack.attempts(&ORDER.to_string())),
        (1, 1),
        "resolving moves no money"
    );
}

#[rstest]
#[case::missing(vec![item(PAID, true)], &["items"])]
#[case::given_twice(vec![item(PAID, true), item(UNPAID, false), item(PAID, true)], &["items[2].item_id"])]
#[case::contradicting(vec![item(PAID, true), item(PAID, false)], &["items", "items[1].item_id"])]
#[case::unknown(vec![item(PAID, true), item(UNPAID, false), item(1, true)], &["items[2].item_id"])]
#[case::none_was(vec![item(PAID, false), item(UNPAID, false)], &["items"])]
#[case::paid_though_it_was_not(
    vec![item(PAID, true), ItemResolution { refunded_amount: usd(1), ..item(UNPAID, false) }],
    &["items[1].refunded_amount"]
)]
#[case::another_currency(
    vec![
        ItemResolution {
            refunded_amount: Some(proto::Money { currency_code: "EUR".to_owned(), minor_units: 1299 }),
            ..item(PAID, true)
        },
        item(UNPAID, false),
    ],
    &["items[0].refunded_amount.currency_code"]
)]
#[tokio::test]
async fn a_resolution_names_each_requested_item_exactly_once(
    #[case] items: Vec<ItemResolution>,
    #[case] fields: &[&str],
) {
    let stack = half_refunded(600).await;
    let before = stack.get("r-1").await;
    let change = |request: &mut proto::ResolveRefundRequest| {
        one_of_two(request);
        request.items = items;
    };
    let refusal = stack.resolve_as("r-1", change).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(wrong_fields(&refusal), fields);
    assert_eq!(stack.get("r-1").await, before);
    assert_eq!((stack.effects(&PAID.to_string()), stack.attempts(&ORDER.to_string())), (1, 1));
}

/// Items belong to orders with items, and to a resolution as refunded.
#[rstest]
#[case::no_items(sectigo("r-1", "1000001"), Resolution::Refunded)]
#[case::not_refunded(sample_request(Provider::Namecom, "r-1").0, Resolution::NotRefunded)]
#[tokio::test]
async fn items_are_refused_where_they_do_not_apply(
    #[case] request: proto::CreateRefundRequest,
    #[case] resolution: Resolution,
) {
    let stack = on_demand(600).await;
    for provider in [Provider::Sectigo, Provider::Namecom] {
        stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    }
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    let change = |request: &mut proto::ResolveRefundRequest| {
        take_over(request, resolution);
        request.items = vec![item(3_200_001, true)];
    };
    assert_eq!(wrong_fields(&stack.resolve_as("r-1", change).await.unwrap_err()), ["items"]);
    assert_eq!(stack.get("r-1").await.state(), State::InDoubt);
    assert!(stack.simulators.books().is_empty());
}

/// An operator with proof need not wait.
#[rstest]
#[case(Provider::Sectigo, Resolution::Refunded, State::Succeeded)]
#[case(Provider::Namecom, Resolution::Refunded, State::Succeeded)]
#[case(Provider::Debitsuccess, Resolution::Refunded, State::Succeeded)]
#[case(Provider::Sectigo, Resolution::NotRefunded, State::Failed)]
#[case(Provider::Namecom, Resolution::NotRefunded, State::Failed)]
#[case(Provider::Debitsuccess, Resolution::NotRefunded, State::Failed)]
#[tokio::test]
async fn an_operator_takes_over_a_refund_in_doubt(
    #[case] provider: Provider,
    #[case] resolution: Resolution,
    #[case] end: State,
) {
    let stack = on_demand(600).await;
    let point = if end == State::Succeeded { Point::AfterEffect } else { Point::BeforeEffect };
    stack.arm(provider, point, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "r-1");
    let doubted = stack.refund(request).await;
    assert_eq!(doubted.state(), State::InDoubt);
    let refusal = stack.resolve("r-1", resolution).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_REVIEW"));
    assert_eq!(metadata(&refusal, "state"), "IN_DOUBT");
    assert_eq!(stack.get("r-1").await, doubted);
    let refund = stack.resolve_as("r-1", |request| take_over(request, resolution)).await.unwrap();
    assert_eq!((refund.state(), refund.attempt_count), (end, 1));
    assert_eq!(refund.side_effects.is_empty(), end == State::Failed);
    let last = stack.events("r-1").await.pop().unwrap();
    assert_eq!((last.kind(), last.from_state(), last.to_state()), (Kind::Resolved, State::InDoubt, end));
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (usize::from(end == State::Succeeded), 1));
}

#[tokio::test]
async fn an_operator_takes_over_a_submitted_refund() {
    let stack = on_demand(600).await;
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "r-1");
    assert_eq!(stack.refund(request).await.state(), State::Submitted);
    let refusal = stack.resolve("r-1", Resolution::Refunded).await.unwrap_err();
    assert_eq!((reason(&refusal).as_str(), metadata(&refusal, "state").as_str()), ("NOT_IN_REVIEW", "SUBMITTED"));
    let change = |request: &mut proto::ResolveRefundRequest| {
        take_over(request, Resolution::Refunded);
        request.refunded_amount = Some(proto::Money { currency_code: "AUD".to_owned(), minor_units: 1250 });
    };
    let refund = stack.resolve_as("r-1", change).await.unwrap();
    assert_eq!((refund.state(), refund.refunded_amount.unwrap().minor_units), (State::Succeeded, 1250));
    assert_eq!(stack.events("r-1").await.pop().unwrap().from_state(), State::Submitted);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// The earlier attempt may still have an effect, so no other attempt is sent.
#[rstest]
#[case::in_doubt(true)]
#[case::submitted(false)]
#[tokio::test]
async fn a_refund_that_is_taken_over_is_not_sent_again(#[case] is_lost: bool) {
    let stack = on_demand(600).await;
    if is_lost {
        stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    }
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "r-1");
    let before = stack.refund(request).await;
    let refusal = stack.resolve_as("r-1", |request| take_over(request, Resolution::SendAgain)).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(wrong_fields(&refusal), ["resolution", "take_over"]);
    assert_eq!(stack.get("r-1").await, before);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (usize::from(!is_lost), 1));
}

/// The request may still be queued at the provider.
#[rstest]
#[case(Provider::Sectigo)]
#[case(Provider::Namecom)]
#[tokio::test]
async fn a_target_resolved_as_not_refunded_is_free_after_the_settle_time(
    #[case] provider: Provider,
    #[values(1, 600)] settle_s: u32,
) {
    let stack = on_demand(settle_s).await;
    stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "r-1");
    let doubted = stack.refund(request).await;
    assert_eq!(
        stack.resolve_as("r-1", |request| take_over(request, Resolution::NotRefunded)).await.unwrap().state(),
        State::Failed
    );
    let (again, ..) = sample_request(provider, "r-2");
    if settle_s == 600 {
        assert_eq!(holder(&stack.create(again).await.unwrap_err()), "refunds/r-1");
        assert_eq!((stack.effects(target), stack.attempts(in_journal)), (0, 1));
        return;
    }
    let refund = created_at_last(&stack, again, "TARGET_HAS_REFUND").await;
    assert_eq!(refund.state(), State::Succeeded);
    let apart = micros(&refund.create_time.unwrap()) - micros(&doubted.dispatch_time.unwrap());
    assert!(apart >= 1_000_000, "{apart}");
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 2));
}

/// At Debitsuccess nothing is reserved; until then a similar refund is refused even with
/// `allow_similar`.
#[tokio::test]
async fn allow_similar_has_no_effect_before_the_settle_time() {
    let stack = on_demand(600).await;
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(debitsuccess("r-1", "DS000001", 1250)).await;
    assert_eq!(
        stack.resolve_as("r-1", |request| take_over(request, Resolution::NotRefunded)).await.unwrap().state(),
        State::Failed
    );
    for allow_similar in [false, true] {
        let similar = proto::CreateRefundRequest { allow_similar, ..debitsuccess("r-2", "DS000001", 1250) };
        let refusal = stack.create(similar).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "SIMILAR_REFUND"));
        assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/r-1");
    }
    assert_eq!(stack.refund(debitsuccess("r-3", "DS000001", 1251)).await.state(), State::Submitted, "another amount");
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 2));
}

/// After the settle time, `allow_similar` counts.
#[tokio::test]
async fn allow_similar_has_its_effect_after_the_settle_time() {
    let stack = on_demand(1).await;
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let doubted = stack.refund(debitsuccess("r-1", "DS000001", 1250)).await;
    stack.resolve_as("r-1", |request| take_over(request, Resolution::NotRefunded)).await.unwrap();
    let allowed = proto::CreateRefundRequest { allow_similar: true, ..debitsuccess("r-2", "DS000001", 1250) };
    let refund = created_at_last(&stack, allowed, "SIMILAR_REFUND").await;
    let apart = micros(&refund.create_time.unwrap()) - micros(&doubted.dispatch_time.unwrap());
    assert!(apart >= 1_000_000, "{apart}");
    let refusal = stack.create(debitsuccess("r-3", "DS000001", 1250)).await.unwrap_err();
    assert_eq!(
        reason(&refusal),
        "SIMILAR_REFUND",
        "refused without it: the first refund is followed, and there is a later one"
    );
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 2));
}

#[rstest]
#[case::more_than_requested(Some(("AUD", 1251)), &["refunded_amount.minor_units"])]
#[case::another_currency(Some(("NZD", 1250)), &["refunded_amount.currency_code"])]
#[case::none(Some(("AUD", 0)), &["refunded_amount.minor_units"])]
#[case::below_none(Some(("AUD", -1)), &["refunded_amount.minor_units"])]
#[case::all(Some(("AUD", 1250)), &[])]
#[case::less(Some(("AUD", 1)), &[])]
#[case::not_known(None, &[])]
#[tokio::test]
async fn a_resolution_is_at_most_the_requested_amount(#[case] amount: Option<(&str, i64)>, #[case] fields: &[&str]) {
    let stack = on_demand(600).await;
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "r-1");
    let before = stack.refund(request).await;
    let amount = amount.map(|(code, minor_units)| proto::Money { currency_code: code.to_owned(), minor_units });
    let change = |request: &mut proto::ResolveRefundRequest| {
        take_over(request, Resolution::Refunded);
        request.refunded_amount = amount.clone();
    };
    match stack.resolve_as("r-1", change).await {
        Ok(refund) => {
            assert!(fields.is_empty());
            assert_eq!((refund.state(), refund.refunded_amount), (State::Succeeded, amount));
        }
        Err(refusal) => {
            assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
            assert_eq!(wrong_fields(&refusal), fields);
            assert_eq!(stack.get("r-1").await, before);
        }
    }
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}
