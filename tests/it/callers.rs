//! Callers that leave, wait, withdraw, run out of time or ask too much: none of them can lose a refund or send it twice.

use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::exchange::Provider;
use simulators::faults::{FaultEffect, Point, Repeat};
use tonic::{Code, Request};

use crate::support::{LIMIT, Stack, namecom, reason, sectigo};

fn delay(milliseconds: u64) -> FaultEffect {
    FaultEffect::Delay { milliseconds }
}

/// A refund that waits as PENDING: its provider's credentials are refused, and it is tried again an hour from now.
async fn pending(id: &str) -> Stack {
    let stack = Stack::start_with("engine.retry_backoff_max_ms = 7200000").await;
    let body = "{\"message\":\"Rate Limit Exceeded\",\"details\":\"\"}".to_owned();
    let headers = [("retry-after".to_owned(), "3000".to_owned())].into();
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Answer { status: 429, body, headers }, Repeat::Once);
    let refund = stack.refund(namecom(id, 200_001, &[3_200_001])).await;
    assert_eq!(refund.state(), State::Pending, "nothing can happen before the wait ends, so the answer comes at once");
    stack
}

#[tokio::test]
async fn a_caller_that_leaves_stops_nothing() {
    let stack = Stack::start().await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, delay(300), Repeat::Once);
    let mut client = stack.refunds.clone();
    let call = tokio::spawn(async move { client.create_refund(sectigo("left", "1000001")).await });
    tokio::time::timeout(LIMIT, async {
        while stack.attempts("1000001") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    call.abort();
    let refund = stack.until("left", |refund| refund.state() == State::Succeeded).await;
    assert_eq!(refund.attempt_count, 1);
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (1, 1));
}

#[tokio::test]
async fn a_deadline_is_answered_and_the_refund_goes_on() {
    let stack = Stack::start().await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, delay(1500), Repeat::Once);
    let mut request = Request::new(sectigo("hasty", "1000001"));
    request.set_timeout(Duration::from_millis(700));
    let refund = stack.refunds.clone().create_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::Dispatching, "OK just before the deadline, since the refund is on disk");
    stack.until("hasty", |refund| refund.state() == State::Succeeded).await;
    assert_eq!(stack.effects("1000001"), 1);
}

#[tokio::test]
async fn wait_is_as_long_as_asked_and_no_longer() {
    let stack = Stack::start().await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, delay(500), Repeat::Once);
    let at_once =
        proto::CreateRefundRequest { wait: Some(prost_types::Duration::default()), ..sectigo("w", "1000001") };
    let refund = stack.refund(at_once).await;
    assert!(matches!(refund.state(), State::Pending | State::Dispatching), "no waiting: {:?}", refund.state());
    let request = proto::WaitRefundRequest {
        name: refund.name,
        after_revision: refund.revision,
        timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
    };
    let waited = stack.refunds.clone().wait_refund(request.clone()).await.unwrap().into_inner().refund.unwrap();
    assert!(waited.revision > refund.revision);
    let waited = stack.until("w", |refund| refund.state() == State::Succeeded).await;
    // A terminal refund is waited for by nobody, whatever the revision.
    let request = proto::WaitRefundRequest { after_revision: 1000, ..request };
    let again =
        tokio::time::timeout(Duration::from_secs(10), stack.refunds.clone().wait_refund(request)).await.unwrap();
    assert_eq!(again.unwrap().into_inner().refund.unwrap(), waited);
}

#[tokio::test]
async fn what_has_not_been_sent_can_be_withdrawn() {
    let stack = pending("regret").await;
    let before = stack.get("regret").await;
    let mut client = stack.refunds.clone();
    let stale = proto::CancelRefundRequest { name: before.name.clone(), etag: "stale".to_owned() };
    let refusal = client.cancel_refund(stale).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::Aborted, "ETAG_MISMATCH"));

    let request = proto::CancelRefundRequest { name: before.name.clone(), etag: before.etag };
    let cancelled = client.cancel_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((cancelled.state(), cancelled.complete_time.is_some()), (State::Cancelled, true));
    let again = proto::CancelRefundRequest { name: before.name, etag: String::new() };
    assert_eq!(client.cancel_refund(again).await.unwrap().into_inner().refund.unwrap(), cancelled);

    // Its target is free again.
    assert_eq!(stack.refund(namecom("other", 200_001, &[3_200_001])).await.state(), State::Succeeded);
    assert_eq!(stack.effects("3200001"), 1);
}

#[tokio::test]
async fn what_has_been_sent_cannot_be_withdrawn() {
    let stack = Stack::start().await;
    stack.refund(sectigo("done", "1000001")).await;
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(sectigo("doubtful", "1000002")).await;
    for id in ["done", "doubtful"] {
        let request = proto::CancelRefundRequest { name: format!("refunds/{id}"), etag: String::new() };
        let refusal = stack.refunds.clone().cancel_refund(request).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_CANCELLABLE"));
    }
}

#[tokio::test]
async fn a_waiting_refund_outlives_the_process() {
    let stack = pending("patient").await.restart().await;
    let refund = stack.get("patient").await;
    assert_eq!((refund.state(), refund.provider_error.unwrap().code.as_str()), (State::Pending, "429"));
    assert_eq!(stack.effects("3200001"), 0);
}
