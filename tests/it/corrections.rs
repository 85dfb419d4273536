//! Corrections: a refund that the provider rejected, or that the operator resolved as not refunded,
//! is followed for a while, and a later payment is reported.
//!
//! Each test ends with a look at the simulators' books.

use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{MoneyVerdict, SideEffect, State};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::debitsuccess::{FinalStatuses, RefundStatus};
use simulators::request::Provider;
use tonic::Code;

use crate::support::{
    Stack, debitsuccess, metadata, micros, namecom, reason, sample_request, sectigo, without_lookups,
};
use crate::telemetry::{scrape, value};

/// A gateway that looks refunds up only at ReconcileRefund, without a settle time.
async fn on_demand(settings: &str) -> Stack {
    Stack::start_as(|configuration| {
        without_lookups(&configuration, 0).replacen("[accounts", &format!("{settings}\n[accounts"), 1)
    })
    .await
}

/// Sets the status of a refund at Debitsuccess, also after a final status.
fn set_status(stack: &Stack, id: &str, status: RefundStatus) {
    stack.simulators.with_world(|world| {
        world.providers.debitsuccess.move_refund(id, status, None, FinalStatuses::CanBeLeft).unwrap();
    });
}

/// Creates a refund that Debitsuccess rejects, and reconciles it.
async fn rejected(stack: &Stack, id: &str) -> proto::Refund {
    assert_eq!(stack.refund(debitsuccess(id, "DS000001", 1250)).await.state(), State::Submitted);
    set_status(stack, id, RefundStatus::Rejected);
    let refund = stack.reconcile(id).await.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::Failed, MoneyVerdict::NotMoved));
    refund
}

/// Creates another refund of the same account and amount. The error is the conflicting refund.
async fn similar(stack: &Stack, allow_similar: bool) -> Result<proto::Refund, String> {
    let request = proto::CreateRefundRequest { allow_similar, ..debitsuccess("similar", "DS000001", 1250) };
    let answer = stack.create(request).await.map_err(|refusal| {
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "SIMILAR_REFUND"));
        metadata(&refusal, "conflicting_refund")
    });
    Ok(answer?.refund.unwrap())
}

async fn is_followed_no_more(stack: &Stack, id: &str) {
    let refusal = stack.reconcile(id).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_DOUBT"));
}

/// Lookups that show nothing new leave no event.
async fn stays_as_it_is(stack: &Stack, id: &str) {
    let (before, events) = (stack.get(id).await, stack.events(id).await.len());
    for _ in 0..2 {
        assert_eq!(stack.reconcile(id).await.unwrap(), before);
    }
    assert_eq!(stack.events(id).await.len(), events);
}

async fn corrections(stack: &Stack) -> Option<f64> {
    let text = scrape(stack.app.metrics_addr().unwrap()).await;
    value(&text, "recoup_corrections_total", &[("account", "debitsuccess")])
}

fn corrected(refund: &proto::Refund) -> bool {
    (refund.state(), refund.money_verdict()) == (State::Failed, MoneyVerdict::Moved)
}

#[tokio::test]
async fn a_payment_after_a_rejection_is_reported() {
    let stack = on_demand("metrics.listen = \"127.0.0.1:0\"").await;
    let failed = rejected(&stack, "r-1").await;
    assert_eq!(corrections(&stack).await, Some(0.0), "the series exists before the first correction");
    assert_eq!((failed.refunded_amount.clone(), failed.side_effects.len()), (None, 0));
    stays_as_it_is(&stack, "r-1").await;
    assert_eq!(similar(&stack, false).await, Err("refunds/r-1".to_owned()), "it may still be corrected");

    set_status(&stack, "r-1", RefundStatus::Completed);
    let refund = stack.reconcile("r-1").await.unwrap();
    assert!(corrected(&refund), "{refund:?}");
    assert_eq!((refund.provider_status.as_str(), refund.complete_time), ("Completed", failed.complete_time));
    assert_eq!(refund.refunded_amount, Some(proto::Money { currency_code: "AUD".to_owned(), minor_units: 1250 }));
    assert_eq!(refund.side_effects().collect::<Vec<_>>(), [SideEffect::ServiceFeeCharged]);
    assert_ne!(refund.etag, failed.etag);
    let last = stack.events("r-1").await.pop().unwrap();
    assert_eq!((last.kind(), last.attempt), (Kind::Corrected, 0));
    assert_eq!((last.from_state(), last.to_state(), last.revision), (State::Failed, State::Failed, refund.revision));

    is_followed_no_more(&stack, "r-1").await;
    // One rendering serves all scrapes of a second.
    let counted = async {
        while corrections(&stack).await != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, counted).await.unwrap();
    assert_eq!(similar(&stack, false).await, Err("refunds/r-1".to_owned()), "money has moved");
    assert_eq!(stack.get("r-1").await, refund);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 1));
    assert_eq!(similar(&stack, true).await.unwrap().state(), State::Submitted);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (2, 2));
}

/// Without ReconcileRefund.
#[tokio::test]
async fn a_rejection_is_looked_up_by_itself() {
    let stack = Stack::start_with("engine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 100").await;
    stack.refund(debitsuccess("r-1", "DS000001", 1250)).await;
    set_status(&stack, "r-1", RefundStatus::Rejected);
    let failed = stack.until("r-1", |refund| refund.state() == State::Failed).await;
    let lookups = || {
        let journal = stack.simulators.journal();
        journal.iter().filter(|entry| entry.operation == "GetRefundStatus").count()
    };
    let before = lookups();
    stack.polled_until("r-1", |_| lookups() >= before + 3).await;
    assert_eq!(stack.get("r-1").await, failed, "a lookup that shows nothing new is no event");
    set_status(&stack, "r-1", RefundStatus::Completed);
    let refund = stack.polled_until("r-1", corrected).await;
    assert_eq!((refund.revision, refund.attempt_count), (failed.revision + 1, 1));
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 1));
}

#[tokio::test]
async fn a_rejection_is_followed_for_a_limited_time() {
    let stack = on_demand("engine.rejection_follow_up_s = 1").await;
    let failed = rejected(&stack, "r-1").await;
    let over = async {
        while stack.reconcile("r-1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, over).await.unwrap();
    is_followed_no_more(&stack, "r-1").await;
    assert_eq!(stack.get("r-1").await, failed);
    let second = similar(&stack, false).await.unwrap();
    let apart = micros(&second.create_time.unwrap()) - micros(&failed.complete_time.unwrap());
    // The second counts from the decision, which is just before the event is recorded.
    assert!(apart > 900_000, "{apart}");
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (2, 2));
}

#[tokio::test]
async fn a_rejection_is_not_followed_where_the_setting_says_so() {
    let stack = on_demand("engine.rejection_follow_up_s = 0").await;
    rejected(&stack, "r-1").await;
    is_followed_no_more(&stack, "r-1").await;
    assert_eq!(similar(&stack, false).await.unwrap().state(), State::Submitted);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (2, 2));
}

/// A refusal in the answer to the request is definite: nothing was accepted that could be
/// corrected.
#[tokio::test]
async fn a_refusal_of_the_request_is_not_followed() {
    let stack = on_demand("").await;
    assert_eq!(stack.refund(debitsuccess("r-1", "DSCODE13040", 1250)).await.state(), State::Failed);
    is_followed_no_more(&stack, "r-1").await;
    let again = stack.refund(debitsuccess("r-2", "DSCODE13040", 1250)).await;
    assert_eq!(again.state(), State::Failed, "it does not make another refund similar");
    assert_eq!((stack.effects("DSCODE13040"), stack.attempts("DSCODE13040")), (0, 2));
}

#[tokio::test]
async fn a_resolution_as_not_refunded_is_corrected_by_the_providers_record() {
    let stack = on_demand("").await;
    stack.refund(debitsuccess("r-1", "DS000001", 1250)).await;
    let not_refunded = |request: &mut proto::ResolveRefundRequest| {
        request.resolution = Resolution::NotRefunded.into();
        request.take_over = true;
    };
    let failed = stack.resolve_as("r-1", not_refunded).await.unwrap();
    assert_eq!((failed.state(), failed.money_verdict()), (State::Failed, MoneyVerdict::NotMoved));
    stays_as_it_is(&stack, "r-1").await;
    assert_eq!(similar(&stack, false).await, Err("refunds/r-1".to_owned()));
    // The provider continues with it: its status is shown, and it is not corrected yet.
    set_status(&stack, "r-1", RefundStatus::Approved);
    let approved = stack.reconcile("r-1").await.unwrap();
    assert_eq!((approved.state(), approved.money_verdict()), (State::Failed, MoneyVerdict::NotMoved));
    assert_eq!(approved.provider_status, "Approved");
    set_status(&stack, "r-1", RefundStatus::Completed);
    let refund = stack.reconcile("r-1").await.unwrap();
    assert!(corrected(&refund), "{refund:?}");
    assert_eq!(refund.refunded_amount.map(|amount| amount.minor_units), Some(1250));
    is_followed_no_more(&stack, "r-1").await;
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 1));
}

/// A refund of an order or an item that was resolved as not refunded, and a second one of the same
/// target.
struct Denied {
    stack: Stack,
    second: proto::CreateRefundRequest,
    target: &'static str,
    in_journal: &'static str,
}

impl Denied {
    async fn at(provider: Provider) -> Denied {
        let stack = on_demand("").await;
        let (request, target, in_journal) = sample_request(provider, "first");
        let (second, ..) = sample_request(provider, "second");
        // A refund at name.com that failed halfway may still be paid.
        let fault = if provider == Provider::Namecom { FaultEffect::HalfWay } else { FaultEffect::Close };
        stack.simulators.with_world(|world| {
            let now = world.now();
            let mut order = world.providers.namecom.order(200_001).unwrap();
            order.items.iter_mut().for_each(|item| item.settles_after_seconds = Some(600));
            world.providers.namecom.put_order(order, now).unwrap();
        });
        stack.arm(provider, Point::BeforeEffect, fault, Repeat::Once);
        assert_eq!(stack.refund(request).await.state(), State::InDoubt);
        assert_eq!(stack.reconcile("first").await.unwrap().state(), State::NeedsReview);
        let failed = stack.resolve("first", Resolution::NotRefunded).await.unwrap();
        assert_eq!((failed.state(), failed.money_verdict()), (State::Failed, MoneyVerdict::NotMoved));
        stays_as_it_is(&stack, "first").await;
        Denied { stack, second, target, in_journal }
    }

    /// Makes the provider show the target as refunded. Returns how often it was paid.
    fn show_refunded(&self, provider: Provider) -> usize {
        if provider == Provider::Namecom {
            self.stack.simulators.advance(Duration::from_secs(601));
            return 1;
        }
        self.stack.simulators.with_world(|world| {
            let now = world.now();
            let mut order = world.providers.sectigo.order("1000001").unwrap();
            order.validation.order_status = Some("Refunded".to_owned());
            world.providers.sectigo.put_order(order, now).unwrap();
        });
        0
    }
}

#[rstest]
#[case(Provider::Sectigo, "Refunded")]
#[case(Provider::Namecom, "refunded")]
#[tokio::test]
async fn a_resolution_is_corrected_where_no_other_refund_explains_the_record(
    #[case] provider: Provider,
    #[case] status: &str,
) {
    let denied = Denied::at(provider).await;
    let paid = denied.show_refunded(provider);
    let Denied { stack, second, target, in_journal } = denied;
    let refund = stack.reconcile("first").await.unwrap();
    assert!(corrected(&refund), "{refund:?}");
    assert_eq!(refund.provider_status, status);
    let items: Vec<_> = refund.items.iter().map(|item| (item.item_id.as_str(), item.state())).collect();
    let expected: &[_] =
        if provider == Provider::Namecom { &[("3200001", proto::item_result::State::Succeeded)] } else { &[] };
    assert_eq!(items, expected);
    assert_eq!(stack.events("first").await.pop().unwrap().kind(), Kind::Corrected);
    is_followed_no_more(&stack, "first").await;
    // The refund reserves its target again.
    let refusal = stack.create(second).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "TARGET_HAS_REFUND"));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/first");
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (paid, 1));
}

/// The record may be that of the later refund.
#[rstest]
#[case(sectigo("second", "1000001"), Provider::Sectigo)]
#[case(namecom("second", 200_001, &[3_200_001]), Provider::Namecom)]
#[tokio::test]
async fn a_resolution_stands_where_a_later_refund_explains_the_record(
    #[case] second: proto::CreateRefundRequest,
    #[case] provider: Provider,
) {
    let denied = Denied::at(provider).await;
    // The provider would accept it, and its answer is lost.
    denied.stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    assert_eq!(denied.stack.refund(second).await.state(), State::InDoubt, "its target was free");
    let paid = denied.show_refunded(provider);
    let Denied { stack, target, in_journal, .. } = denied;
    stays_as_it_is(&stack, "first").await;
    assert_eq!(stack.get("first").await.money_verdict(), MoneyVerdict::NotMoved);
    // The later refund takes the record as its own.
    assert_eq!(stack.reconcile("second").await.unwrap().state(), State::Succeeded);
    stays_as_it_is(&stack, "first").await;
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (paid, 2));
}
