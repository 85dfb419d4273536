//! A review ends with the operator's resolution. Lookups continue and show what they see, but only
//! the provider's own record of this refund ends a review.
//!
//! Each test ends with a look at the simulators' books.

use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{MoneyVerdict, State};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::debitsuccess::RefundStatus;
use simulators::request::Provider;
use tonic::Code;

use crate::support::{Stack, debitsuccess, micros, namecom, reason, sample_request, sectigo, without_lookups};

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
const MINUTE_MICROS: i64 = 60 * 1_000_000;

/// A gateway that looks refunds up only at ReconcileRefund, without a settle time.
async fn on_demand() -> Stack {
    Stack::start_as(|configuration| without_lookups(&configuration, 0)).await
}

/// A lookup every tenth of a second.
fn fast_lookups(configuration: String) -> String {
    without_lookups(&configuration, 0).replace("\"3600000\"", "\"40 80\"\nengine.lookups_every_ms = 100")
}

/// Sets the status of a refund at Debitsuccess.
fn set_status(stack: &Stack, id: &str, status: RefundStatus) {
    stack.simulators.with_world(|world| world.providers.debitsuccess.set_refund_status(id, status, None).unwrap());
}

/// A refund in review: Debitsuccess accepted it, and two lookups did not find it.
async fn submitted_then_absent(stack: &Stack, id: &str) -> proto::Refund {
    stack.make_lookups_stale(Some(1));
    stack.make_lookups_stale(Some(2));
    let (request, ..) = sample_request(Provider::Debitsuccess, id);
    assert_eq!(stack.refund(request).await.state(), State::Submitted);
    assert_eq!(stack.reconcile(id).await.unwrap().state(), State::Submitted);
    let refund = stack.reconcile(id).await.unwrap();
    assert_eq!(refund.state(), State::NeedsReview);
    refund
}

/// A lookup that shows nothing new leaves no event, so that an etag that the operator has stays
/// valid.
async fn shows_nothing_new(stack: &Stack, id: &str) {
    let (before, events) = (stack.get(id).await, stack.events(id).await.len());
    let after = stack.reconcile(id).await.unwrap();
    assert_eq!((&after.etag, after.revision), (&before.etag, before.revision));
    assert_eq!(stack.events(id).await.len(), events);
    let (doubt, doubt_before) = (after.doubt.unwrap(), before.doubt.unwrap());
    assert_eq!(doubt.check_count, doubt_before.check_count + 1, "it was looked up");
    assert_eq!(doubt.last_evidence, doubt_before.last_evidence);
}

#[tokio::test]
async fn a_review_is_looked_up_again_within_a_day() {
    let stack = on_demand().await;
    let refund = submitted_then_absent(&stack, "r-1").await;
    let next = micros(&refund.doubt.unwrap().next_check_time.unwrap()) - micros(&refund.update_time.unwrap());
    assert!((DAY_MICROS - MINUTE_MICROS..=DAY_MICROS).contains(&next), "{next}");
    // Each lookup sets the next one.
    let refund = stack.reconcile("r-1").await.unwrap();
    let later = micros(&refund.doubt.unwrap().next_check_time.unwrap()) - micros(&refund.update_time.unwrap());
    assert!((DAY_MICROS - MINUTE_MICROS..=DAY_MICROS).contains(&later), "{later}");
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 1));
}

#[rstest]
#[case(RefundStatus::Completed, State::Succeeded, MoneyVerdict::Moved, Kind::Refunded)]
#[case(RefundStatus::Rejected, State::Failed, MoneyVerdict::NotMoved, Kind::Refused)]
#[tokio::test]
async fn a_final_record_under_our_identifier_ends_a_review(
    #[case] status: RefundStatus,
    #[case] end: State,
    #[case] verdict: MoneyVerdict,
    #[case] kind: Kind,
) {
    let stack = on_demand().await;
    submitted_then_absent(&stack, "r-1").await;
    for (status, expected) in [
        (RefundStatus::Submitted, "Submitted"),
        (RefundStatus::AwaitingReview, "Awaiting Review"),
        (RefundStatus::Approved, "Approved"),
    ] {
        set_status(&stack, "r-1", status);
        let events = stack.events("r-1").await.len();
        let refund = stack.reconcile("r-1").await.unwrap();
        assert_eq!((refund.state(), refund.money_verdict()), (State::NeedsReview, MoneyVerdict::MayHaveMoved));
        assert_eq!(refund.provider_status, expected);
        let evidence = refund.doubt.unwrap().last_evidence;
        assert!(evidence.contains(expected), "{evidence}");
        let history = stack.events("r-1").await;
        assert_eq!(history.len(), events + 1);
        assert_eq!(
            history.last().map(|event| (event.kind(), event.to_state())),
            Some((Kind::Checked, State::NeedsReview))
        );
        shows_nothing_new(&stack, "r-1").await;
    }
    set_status(&stack, "r-1", status);
    let refund = stack.reconcile("r-1").await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict(), refund.doubt), (end, verdict, None));
    let last = stack.events("r-1").await.pop().unwrap();
    assert_eq!((last.kind(), last.from_state(), last.to_state()), (kind, State::NeedsReview, end));
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 1));
}

/// In a review, absence leads to no attempt, however often it is seen.
#[tokio::test]
async fn a_review_is_looked_up_and_sends_nothing() {
    let stack = Stack::start_as(fast_lookups).await;
    let unseen = stack.make_lookups_stale(None);
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "r-1");
    assert_eq!(stack.refund(request).await.state(), State::Submitted);
    let review = stack.until("r-1", |refund| refund.state() == State::NeedsReview).await;
    let lookups = |refund: &proto::Refund| refund.doubt.as_ref().unwrap().check_count;
    let later = stack.polled_until("r-1", |refund| lookups(refund) >= lookups(&review) + 4).await;
    assert_eq!((&later.etag, later.state()), (&review.etag, State::NeedsReview));
    assert_eq!(stack.attempts(in_journal), 1);
    stack.simulators.with_world(|world| world.faults.disarm(unseen));
    set_status(&stack, "r-1", RefundStatus::Completed);
    assert_eq!(stack.until("r-1", |refund| refund.state() != State::NeedsReview).await.state(), State::Succeeded);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// A review that begins with an attempt has its first lookup at the time that it shows.
#[tokio::test]
async fn a_review_that_began_with_an_attempt_is_looked_up_on_time() {
    let stack = Stack::start_as(fast_lookups).await;
    let review = stack.refund(debitsuccess("r-1", "DSCODE14143", 1250)).await;
    assert_eq!(review.state(), State::NeedsReview);
    let lookups = |refund: &proto::Refund| refund.doubt.as_ref().unwrap().check_count;
    let looked_up = stack.polled_until("r-1", |refund| lookups(refund) > 0);
    // Well below the 30 s after which the reconciler wakes up in any case.
    let later = tokio::time::timeout(Duration::from_secs(20), looked_up).await.unwrap();
    assert_eq!(later.state(), State::NeedsReview);
    assert_eq!((stack.effects("DSCODE14143"), stack.attempts("DSCODE14143")), (0, 1));
}

/// 14143 on a first send: the record may belong to another client of the provider.
#[rstest]
#[case(RefundStatus::Completed)]
#[case(RefundStatus::Rejected)]
#[tokio::test]
async fn a_record_of_another_client_does_not_end_a_review(#[case] status: RefundStatus) {
    let stack = on_demand().await;
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "r-1");
    stack.refund(request.clone()).await;
    // With another ledger the gateway does not know that it has used the identifier.
    let other = |configuration: String| without_lookups(&configuration, 0).replace("recoup.db", "other.db");
    let stack = stack.restart_as(other).await;
    assert_eq!(stack.refund(request).await.state(), State::NeedsReview);
    set_status(&stack, "r-1", status);
    let refund = stack.reconcile("r-1").await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::NeedsReview, MoneyVerdict::MayHaveMoved));
    let next = refund.doubt.unwrap().next_check_time;
    assert!(next.is_some(), "it is still looked up daily");
    shows_nothing_new(&stack, "r-1").await;
    // Nor does the record correct a resolution.
    let refund = stack.resolve("r-1", Resolution::NotRefunded).await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::Failed, MoneyVerdict::NotMoved));
    let refusal = stack.reconcile("r-1").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_DOUBT"));
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 2));
}

/// The order is refunded, but not necessarily by this refund.
#[tokio::test]
async fn a_refunded_order_at_sectigo_does_not_end_a_review() {
    let stack = on_demand().await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(sectigo("r-1", "1000001")).await;
    assert_eq!(stack.reconcile("r-1").await.unwrap().state(), State::NeedsReview);
    shows_nothing_new(&stack, "r-1").await;
    stack.simulators.with_world(|world| {
        let now = world.now();
        let mut order = world.providers.sectigo.order("1000001").unwrap();
        order.validation.order_status = Some("Refunded".to_owned());
        world.providers.sectigo.put_order(order, now).unwrap();
    });
    let refund = stack.reconcile("r-1").await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::NeedsReview, MoneyVerdict::MayHaveMoved));
    assert_eq!(refund.doubt.unwrap().last_evidence, "the provider says that the money was refunded");
    shows_nothing_new(&stack, "r-1").await;
    assert_eq!(stack.resolve("r-1", Resolution::Refunded).await.unwrap().state(), State::Succeeded);
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (0, 1));
}

/// The domain was deleted and the answer lost, which leads to review. The later refund is shown,
/// and the operator decides.
#[tokio::test]
async fn a_refunded_item_at_namecom_does_not_end_a_review() {
    let stack = on_demand().await;
    stack.simulators.with_world(|world| {
        let now = world.now();
        let mut order = world.providers.namecom.order(200_001).unwrap();
        order.items.iter_mut().for_each(|item| item.settles_after_seconds = Some(600));
        world.providers.namecom.put_order(order, now).unwrap();
    });
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::HalfWay, Repeat::Once);
    assert_eq!(stack.refund(namecom("r-1", 200_001, &[3_200_001])).await.state(), State::InDoubt);
    let refund = stack.reconcile("r-1").await.unwrap();
    assert_eq!(refund.state(), State::NeedsReview);
    let evidence = &refund.doubt.as_ref().unwrap().last_evidence;
    assert!(evidence.contains("demo-200001.com is deleted") && evidence.contains("may still come"), "{evidence}");
    shows_nothing_new(&stack, "r-1").await;

    stack.simulators.advance(Duration::from_secs(601));
    let refund = stack.reconcile("r-1").await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::NeedsReview, MoneyVerdict::MayHaveMoved));
    let items: Vec<_> = refund.items.iter().map(|item| (item.item_id.as_str(), item.state(), item.requested)).collect();
    assert_eq!(items, [("3200001", proto::item_result::State::Succeeded, true)]);
    assert_eq!(refund.refunded_amount, None, "it is not known to be the amount of this refund");
    shows_nothing_new(&stack, "r-1").await;
    assert_eq!((stack.effects("3200001"), stack.attempts("200001")), (1, 1));
}
