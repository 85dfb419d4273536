//! Callers that disconnect, wait, cancel or reach their deadline: none of them can lose a refund or
//! send it twice.

use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{LIMIT, Stack, debitsuccess, namecom, reason, sectigo, without_wait};

fn delay(milliseconds: u64) -> FaultEffect {
    FaultEffect::Delay { milliseconds }
}

/// A gateway with a PENDING refund: the provider has answered 429, and the refund is sent again in
/// nearly an hour.
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
async fn a_caller_that_disconnects_does_not_stop_its_refund() {
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
async fn a_call_is_answered_before_its_deadline_and_the_refund_continues() {
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
async fn a_wait_lasts_as_long_as_requested_and_no_longer() {
    let stack = Stack::start().await;
    // While the answers are held back, only its own time ends a wait.
    let gate = stack.simulators.gate(Gate::new(Provider::Sectigo, Point::AfterEffect)).unwrap();
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let create = async |id: &str, order: &str, wait: i64| {
        stack.refund(proto::CreateRefundRequest { wait: seconds(wait), ..sectigo(id, order) }).await
    };
    let wait = async |after_revision: i64, wait: i64| {
        let request = proto::WaitRefundRequest { name: "refunds/w".to_owned(), after_revision, timeout: seconds(wait) };
        stack.refunds.clone().wait_refund(request).await.unwrap().into_inner().refund.unwrap()
    };
    // It returns, so it has not waited for the answer.
    create("w", "1000001", 0).await;
    gate.wait_for(1).await.unwrap();
    let sent = stack.get("w").await;
    assert_eq!(sent.state(), State::Dispatching);

    // One second ends before five do, however slow the machine is.
    let begin = Instant::now();
    let five_seconds = async {
        let waited = wait(sent.revision, 5).await;
        (waited, begin.elapsed())
    };
    let one_second = async {
        let waited = (wait(sent.revision, 1).await, begin.elapsed());
        let created = (create("x", "1000002", 1).await, begin.elapsed());
        (waited, created)
    };
    let mut five_seconds = std::pin::pin!(five_seconds);
    let ((waited, first), (created, both)) = tokio::select! {
        biased;
        one_second = one_second => one_second,
        longer = &mut five_seconds => panic!("five seconds ended before one: {longer:?}"),
    };
    assert_eq!(waited, sent);
    assert_eq!(created.state(), State::Dispatching);
    assert!(first >= Duration::from_secs(1) && both >= Duration::from_secs(2), "{first:?} {both:?}");
    let (waited, elapsed) = five_seconds.await;
    assert_eq!(waited, sent);
    assert!(elapsed >= Duration::from_secs(5), "{elapsed:?}");

    // The awaited outcome ends a wait before its time.
    let follow = futures_util::future::join(wait(sent.revision, 50), async { gate.release_all() });
    let (answered, _) = tokio::time::timeout(Duration::from_secs(40), follow).await.unwrap();
    assert_eq!(answered.state(), State::Succeeded);
    // A wait for a terminal refund returns immediately, whatever the revision.
    let again = tokio::time::timeout(Duration::from_secs(40), wait(1000, 50)).await.unwrap();
    assert_eq!(again, answered);
    stack.until("x", |refund| refund.state() == State::Succeeded).await;
    for order in ["1000001", "1000002"] {
        assert_eq!((stack.effects(order), stack.attempts(order)), (1, 1));
    }
}

#[tokio::test]
async fn a_refund_that_was_not_sent_can_be_cancelled() {
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
async fn a_refund_that_was_sent_cannot_be_cancelled() {
    let stack = Stack::start().await;
    stack.refund(sectigo("done", "1000001")).await;
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(sectigo("doubtful", "1000002")).await;
    stack.refund(debitsuccess("taken", "DS000001", 100)).await;
    let gate = stack.simulators.gate(Gate::new(Provider::Namecom, Point::BeforeEffect)).unwrap();
    let flying = without_wait(namecom("flying", 200_001, &[3_200_001]));
    stack.refund(flying).await;
    gate.wait_for(1).await.unwrap();
    let states = [
        ("done", State::Succeeded),
        ("doubtful", State::InDoubt),
        ("taken", State::Submitted),
        ("flying", State::Dispatching),
    ];
    for (id, state) in states {
        let before = stack.get(id).await;
        assert_eq!(before.state(), state);
        let request = proto::CancelRefundRequest { name: format!("refunds/{id}"), etag: String::new() };
        let refusal = stack.refunds.clone().cancel_refund(request).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_CANCELLABLE"));
        assert_eq!(stack.get(id).await, before, "a refused cancel changes nothing");
    }
    gate.release_all();
    stack.until("flying", |refund| refund.state() == State::Succeeded).await;
    for target in ["1000001", "1000002", "DS000001", "3200001"] {
        assert_eq!(stack.effects(target), 1, "{target}");
    }
}

#[tokio::test]
async fn a_pending_refund_survives_a_restart() {
    let stack = pending("patient").await.restart().await;
    let refund = stack.get("patient").await;
    assert_eq!((refund.state(), refund.provider_error.unwrap().code.as_str()), (State::Pending, "429"));
    assert_eq!((stack.effects("3200001"), stack.attempts("200001")), (0, 1));
}
