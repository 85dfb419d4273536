//! Lists that stay stable while refunds are created, and an event stream without a gap.

use std::collections::HashSet;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::debitsuccess::{FinalStatuses, RefundStatus};
use simulators::request::Provider;
use tonic::Code;

use crate::support::{LIMIT, Stack, debitsuccess, namecom, reason, sectigo, without_lookups, wrong_fields};

async fn page(stack: &Stack, request: proto::ListRefundsRequest) -> proto::ListRefundsResponse {
    stack.refunds.clone().list_refunds(request).await.unwrap().into_inner()
}

async fn all_ids(stack: &Stack, filter: proto::RefundFilter) -> Vec<String> {
    let request = proto::ListRefundsRequest { filter: Some(filter), ..Default::default() };
    page(stack, request).await.refunds.into_iter().map(|refund| refund.refund_id).collect()
}

#[tokio::test]
async fn pages_are_stable_while_refunds_are_created() {
    let stack = Stack::start().await;
    for index in 0..7 {
        stack.refund(sectigo(&format!("old-{index}"), &format!("{}", 1_000_001 + index))).await;
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    for round in 0.. {
        let request = proto::ListRefundsRequest { page_size: 3, page_token: token, filter: None };
        let answer = page(&stack, request).await;
        seen.extend(answer.refunds.into_iter().map(|refund| refund.refund_id));
        stack.refund(sectigo(&format!("new-{round}"), &format!("{}", 1_000_101 + round))).await;
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..7).rev().map(|index| format!("old-{index}")).collect();
    assert_eq!(seen, expected, "newest first, none twice, none missing");
}

#[tokio::test]
async fn filters_are_combined() {
    let stack = Stack::start().await;
    stack.refund(sectigo("good", "1000001")).await;
    stack.refund(sectigo("bad", "2000001")).await;
    stack.refund(namecom("items", 123_456, &[987_654])).await;
    stack.refund(debitsuccess("debit", "DS000001", 100)).await;
    let by = |filter| all_ids(&stack, filter);
    let failed = proto::RefundFilter { states: vec![State::Failed.into()], ..Default::default() };
    assert_eq!(by(failed.clone()).await, ["bad"]);
    assert_eq!(by(proto::RefundFilter { account: "namecom".into(), ..failed }).await, Vec::<String>::new());
    assert_eq!(by(proto::RefundFilter { account: "sectigo".into(), ..Default::default() }).await, ["bad", "good"]);
    for (reference, id) in [("123456", "items"), ("DS000001", "debit"), ("1000001", "good")] {
        let filter = proto::RefundFilter { target_reference: reference.into(), ..Default::default() };
        assert_eq!(by(filter).await, [id]);
    }
    let first = stack.get("good").await.create_time;
    let before = proto::RefundFilter { create_time_end: first, ..Default::default() };
    assert_eq!(by(before).await, Vec::<String>::new(), "the end is exclusive");
    let from = proto::RefundFilter { create_time_start: first, ..Default::default() };
    assert_eq!(by(from).await.len(), 4, "the start is inclusive");
    let (second, last) = (stack.get("bad").await.create_time, stack.get("debit").await.create_time);
    let between =
        proto::RefundFilter { create_time_start: second, create_time_end: last, ..proto::RefundFilter::default() };
    assert_eq!(by(between.clone()).await, ["items", "bad"]);
    assert_eq!(by(proto::RefundFilter { account: "namecom".into(), ..between }).await, ["items"]);
}

#[tokio::test]
async fn a_page_token_is_valid_only_for_its_request() {
    let stack = Stack::start().await;
    for index in 0..3 {
        stack.refund(sectigo(&format!("r-{index}"), &format!("{}", 1_000_001 + index))).await;
    }
    let token = page(&stack, proto::ListRefundsRequest { page_size: 1, ..Default::default() }).await.next_page_token;
    let filter = Some(proto::RefundFilter { account: "sectigo".into(), ..Default::default() });
    for request in [
        proto::ListRefundsRequest { page_token: token, filter, ..Default::default() },
        proto::ListRefundsRequest { page_token: "nonsense".into(), ..Default::default() },
    ] {
        let refusal = stack.refunds.clone().list_refunds(request).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_PAGE_TOKEN"));
    }
}

#[rstest]
#[case(proto::ListRefundsRequest { page_size: -1, ..Default::default() }, &["page_size"])]
#[case(proto::ListRefundsRequest { filter: Some(proto::RefundFilter { states: vec![0, 99], account: "A".into(), ..Default::default() }), page_size: -5, ..Default::default() },
    &["filter.account", "filter.states[0]", "filter.states[1]", "page_size"])]
#[case(proto::ListRefundsRequest { page_size: -1, page_token: "nonsense".into(), ..Default::default() }, &["page_size", "page_token"])]
#[tokio::test]
async fn invalid_list_requests_name_their_fields(#[case] request: proto::ListRefundsRequest, #[case] fields: &[&str]) {
    let stack = Stack::start().await;
    assert_eq!(wrong_fields(&stack.refunds.clone().list_refunds(request).await.unwrap_err()), fields);
}

#[tokio::test]
async fn a_stream_has_no_gap_between_history_and_live() {
    let stack = Stack::start().await;
    stack.refund(sectigo("before", "1000001")).await;
    let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
    let mut events = stack.refunds.clone().stream_refund_events(request).await.unwrap().into_inner();
    let work = async {
        let calls =
            (0..30).map(|index| stack.refund(sectigo(&format!("live-{index}"), &format!("{}", 1_000_101 + index))));
        futures_util::future::join_all(calls).await;
    };
    let read = async {
        let (mut next, mut done) = (1, HashSet::new());
        while done.len() < 31 {
            let event = events.message().await.unwrap().unwrap().event.unwrap();
            assert_eq!(event.sequence, next, "no gap, nothing twice");
            assert_eq!(event.chain_hash.len(), 32);
            next += 1;
            if event.to_state() == State::Succeeded {
                assert!(done.insert(event.refund));
            }
        }
        next
    };
    let ((), next) = tokio::time::timeout(LIMIT, futures_util::future::join(work, read)).await.unwrap();

    // A stream from a later event returns the same events.
    let request = proto::StreamRefundEventsRequest { after_sequence: next - 3 };
    let mut again = stack.refunds.clone().stream_refund_events(request).await.unwrap().into_inner();
    for sequence in [next - 2, next - 1] {
        assert_eq!(again.message().await.unwrap().unwrap().event.unwrap().sequence, sequence);
    }
    let request = proto::StreamRefundEventsRequest { after_sequence: next + 5 };
    let refusal = stack.refunds.clone().stream_refund_events(request).await.unwrap_err();
    assert_eq!(wrong_fields(&refusal), ["after_sequence"]);
}

#[tokio::test]
async fn a_stream_ends_at_shutdown_with_a_reason() {
    let stack = Stack::start().await;
    let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
    let mut events = stack.refunds.clone().stream_refund_events(request).await.unwrap().into_inner();
    let Stack { app, simulators: _simulators, .. } = stack;
    let (ended, ()) = futures_util::future::join(events.message(), app.stop()).await;
    let ended = ended.unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "DRAINING"));
}

#[tokio::test]
async fn the_history_of_a_refund_is_paged() {
    let stack = Stack::start().await;
    let refund = stack.refund(sectigo("story", "1000001")).await;
    let (mut events, mut pages, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = proto::ListRefundEventsRequest { name: refund.name.clone(), page_size: 2, page_token: token };
        let answer = stack.refunds.clone().list_refund_events(request).await.unwrap().into_inner();
        pages.push(answer.events.len());
        events.extend(answer.events.into_iter().map(|event| (event.revision, event.from_state(), event.to_state())));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected = [
        (1, State::Unspecified, State::Pending),
        (2, State::Pending, State::Dispatching),
        (3, State::Dispatching, State::Succeeded),
    ];
    assert_eq!((events.as_slice(), pages.as_slice()), (expected.as_slice(), [2, 1].as_slice()));
    let request = proto::ListRefundEventsRequest { name: "refunds/none".into(), ..Default::default() };
    assert_eq!(reason(&stack.refunds.clone().list_refund_events(request).await.unwrap_err()), "REFUND_NOT_FOUND");
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let stack = Stack::start().await;
    let mut request = tonic::Request::new(proto::StreamRefundEventsRequest { after_sequence: 0 });
    // Set by hand: with `set_timeout` the client would end the stream before the server does.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let mut events = stack.refunds.clone().stream_refund_events(request).await.unwrap().into_inner();
    let end = tokio::time::timeout(LIMIT, events.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::DeadlineExceeded, "DEADLINE"));
}

type Line = (Kind, i32, State);

/// The kind, the attempt and the new state of each event. ListRefundEvents and the stream must
/// agree.
async fn lines(stack: &Stack, id: &str) -> Vec<Line> {
    let listed = stack.events(id).await;
    let request = proto::StreamRefundEventsRequest { after_sequence: 0 };
    let mut stream = stack.refunds.clone().stream_refund_events(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while streamed.len() < listed.len() {
        let event = tokio::time::timeout(LIMIT, stream.message()).await.unwrap().unwrap().unwrap().event.unwrap();
        streamed.extend(Some(event).filter(|event| event.refund == format!("refunds/{id}")));
    }
    assert_eq!(streamed, listed);
    listed.iter().map(|event| (event.kind(), event.attempt, event.to_state())).collect()
}

async fn on_demand() -> Stack {
    Stack::start_as(|configuration| without_lookups(&configuration, 0)).await
}

#[tokio::test]
async fn a_history_has_the_kind_and_the_attempt_of_each_event() {
    let stack = on_demand().await;
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(debitsuccess("r", "DS000001", 1250)).await;
    stack.reconcile("r").await.unwrap();
    stack.reconcile("r").await.unwrap();
    stack.until("r", |refund| refund.state() == State::Submitted).await;
    for status in [RefundStatus::AwaitingReview, RefundStatus::Rejected, RefundStatus::Completed] {
        stack.simulators.with_world(|world| {
            world.providers.debitsuccess.move_refund("r", status, None, FinalStatuses::CanBeLeft).unwrap();
        });
        stack.reconcile("r").await.unwrap();
    }
    let expected = [
        (Kind::Created, 0, State::Pending),
        (Kind::Dispatched, 1, State::Dispatching),
        (Kind::Doubted, 1, State::InDoubt),
        (Kind::Checked, 0, State::InDoubt),
        (Kind::Checked, 0, State::InDoubt),
        (Kind::Dispatched, 2, State::Dispatching),
        (Kind::Accepted, 2, State::Submitted),
        (Kind::Accepted, 0, State::Submitted),
        (Kind::Refused, 0, State::Failed),
        (Kind::Corrected, 0, State::Failed),
    ];
    assert_eq!(lines(&stack, "r").await, expected);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 2));
}

#[tokio::test]
async fn a_history_has_the_resolutions_of_the_operator() {
    let stack = on_demand().await;
    assert_eq!(stack.refund(debitsuccess("r", "DSCODE14143", 1250)).await.state(), State::NeedsReview);
    stack.resolve("r", Resolution::SendAgain).await.unwrap();
    stack.until("r", |refund| refund.state() == State::InDoubt).await;
    let not_refunded = |request: &mut proto::ResolveRefundRequest| {
        request.resolution = Resolution::NotRefunded.into();
        request.take_over = true;
    };
    stack.until("r", |refund| refund.doubt.as_ref().is_some_and(|doubt| doubt.check_count > 0)).await;
    stack.resolve_as("r", not_refunded).await.unwrap();
    let expected = [
        (Kind::Created, 0, State::Pending),
        (Kind::Dispatched, 1, State::Dispatching),
        (Kind::Doubted, 1, State::InDoubt),
        (Kind::Escalated, 0, State::NeedsReview),
        (Kind::Resolved, 2, State::Dispatching),
        (Kind::Doubted, 2, State::InDoubt),
        (Kind::Checked, 0, State::InDoubt),
        (Kind::Resolved, 0, State::Failed),
    ];
    assert_eq!(lines(&stack, "r").await, expected);
    assert_eq!((stack.effects("DSCODE14143"), stack.attempts("DSCODE14143")), (0, 2));
}

#[rstest]
#[case::refunded(
    sectigo("r", "1000001"),
    &[(Kind::Dispatched, 1, State::Dispatching), (Kind::Refunded, 1, State::Succeeded)],
    1
)]
#[case::refused(
    sectigo("r", "2000001"),
    &[(Kind::Dispatched, 1, State::Dispatching), (Kind::Refused, 1, State::Failed)],
    0
)]
#[case::not_sent(
    namecom("r", 400_401, &[3_400_401]),
    &[
        (Kind::Dispatched, 1, State::Dispatching),
        (Kind::NotSent, 1, State::Pending),
        (Kind::Cancelled, 0, State::Cancelled),
    ],
    0
)]
#[tokio::test]
async fn a_history_has_the_end_of_each_attempt(
    #[case] request: proto::CreateRefundRequest,
    #[case] after_creation: &[Line],
    #[case] effects: usize,
) {
    let stack = on_demand().await;
    let refund = stack.refund(request).await;
    if refund.state() == State::Pending {
        let request = proto::CancelRefundRequest { name: refund.name, etag: String::new() };
        stack.refunds.clone().cancel_refund(request).await.unwrap();
    }
    let created = (Kind::Created, 0, State::Pending);
    assert_eq!(lines(&stack, "r").await, [&[created], after_creation].concat());
    assert_eq!(stack.simulators.books().iter().filter(|entry| entry.effect.kind == "refund").count(), effects);
}
