//! Doubt that the gateway reconciles by itself, accounts that are suspended and serve again, and
//! the operator's resolutions.
//!
//! Each test ends with a look at the simulators' books.

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::doubt::Reason;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::providers::debitsuccess::RefundStatus;
use simulators::request::Provider;
use tonic::Code;

use crate::support::{
    FAST_LOOKUPS, Stack, is_processed, metadata, micros, namecom, reason, sample_request, sectigo, with_settings,
    with_settle_time, without_wait, wrong_fields,
};

const HOUR_MICROS: i64 = 3_600_000_000;

/// Lookups follow each other quickly, with this settle time.
fn fast_lookups(configuration: String, settle_s: u32) -> String {
    with_settings(&with_settle_time(&configuration, settle_s), FAST_LOOKUPS)
}

async fn fast_stack(settle_s: u32) -> Stack {
    Stack::start_as(|configuration| fast_lookups(configuration, settle_s)).await
}

/// The money moved and the answer was lost: a lookup finds the refund, or name.com repeats its
/// answer for the same key.
#[rstest]
#[case(Provider::Sectigo, State::Succeeded, 1)]
#[case(Provider::Namecom, State::Succeeded, 2)]
#[case(Provider::Debitsuccess, State::Submitted, 1)]
#[tokio::test]
async fn a_refund_whose_answer_was_lost_is_found(#[case] provider: Provider, #[case] end: State, #[case] sent: usize) {
    let stack =
        Stack::start_as(|configuration| fast_lookups(configuration, 600).replace("\"40 80\"", "\"1000\"")).await;
    stack.arm(provider, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "lost");
    let doubted = stack.refund(request).await;
    assert_eq!(doubted.state(), State::InDoubt);
    let doubt = doubted.doubt.unwrap();
    let (since, next_check) = (micros(&doubt.since_time.unwrap()), micros(&doubt.next_check_time.unwrap()));
    // The second counts from the decision, which is just before the event is recorded.
    assert!(
        next_check > since && next_check <= since + 1_000_000,
        "the doubt shows the time of the next lookup: {doubt:?}"
    );
    let settled = stack.until("lost", is_processed).await;
    assert_eq!(settled.state(), end);
    assert!(micros(&settled.update_time.unwrap()) >= next_check, "not before its time");
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, sent));
}

/// The request was lost before anything was done. It is sent again only where the provider would
/// prevent a second effect.
#[rstest]
#[case(Provider::Sectigo, State::NeedsReview, 0, 1)]
#[case(Provider::Namecom, State::Succeeded, 1, 2)]
#[case(Provider::Debitsuccess, State::Submitted, 1, 2)]
#[tokio::test]
async fn a_lost_request_is_sent_again_where_that_is_safe(
    #[case] provider: Provider,
    #[case] end: State,
    #[case] effects: usize,
    #[case] sent: usize,
) {
    let stack = fast_stack(1).await;
    stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    assert_eq!(stack.until("gone", is_processed).await.state(), end);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (effects, sent));
}

/// Without an answer, every send of a refund at name.com has the same key and the same bytes.
#[tokio::test]
async fn a_resend_is_an_identical_request() {
    let stack = fast_stack(600).await;
    stack.arm(Provider::Namecom, Point::AfterEffect, FaultEffect::Close, Repeat::Times(3));
    let (request, target, in_journal) = sample_request(Provider::Namecom, "again");
    stack.create(request).await.unwrap();
    assert_eq!(stack.until("again", is_processed).await.state(), State::Succeeded);
    let sent: Vec<_> = stack
        .simulators
        .journal()
        .into_iter()
        .filter(|entry| entry.moves_money && entry.target.as_deref() == Some(in_journal))
        .map(|entry| (entry.identifier, entry.parameters.get().to_owned()))
        .collect();
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|one| one == &sent[0]), "{sent:?}");
    assert_eq!(stack.effects(target), 1);
}

/// name.com without idempotency keys refuses the second send, since our own attempt has refunded
/// the item.
#[tokio::test]
async fn already_refunded_after_our_own_lost_attempt_is_a_success() {
    let stack = fast_stack(600).await;
    stack.simulators.with_world(|world| world.settings.namecom.idempotency_keys = false);
    stack.arm(Provider::Namecom, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, _) = sample_request(Provider::Namecom, "mine");
    stack.create(request).await.unwrap();
    let refund = stack.until("mine", is_processed).await;
    assert_eq!((refund.state(), refund.attempt_count), (State::Succeeded, 2));
    assert_eq!(stack.effects(target), 1);
}

#[rstest]
#[case(RefundStatus::Completed, State::Succeeded)]
#[case(RefundStatus::Rejected, State::Failed)]
#[tokio::test]
async fn a_submitted_refund_is_looked_up_until_it_is_decided(#[case] status: RefundStatus, #[case] end: State) {
    let stack = fast_stack(600).await;
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "taken");
    let refund = stack.refund(request).await;
    assert_eq!(refund.state(), State::Submitted);
    let number = refund.provider_reference;
    stack.simulators.with_world(|world| world.providers.debitsuccess.set_refund_status(&number, status, None).unwrap());
    assert_eq!(stack.until("taken", |refund| refund.state() != State::Submitted).await.state(), end);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// While the password is refused, refunds wait, the account shows it, and lookups probe the
/// account. Once the password is accepted again, the refunds are sent.
#[rstest]
#[case(Provider::Namecom, "namecom", "401", "{\"message\":\"Unauthorized\",\"details\":\"\"}")]
#[tokio::test]
async fn a_suspended_account_serves_again_after_a_successful_probe(
    #[case] provider: Provider,
    #[case] account: &str,
    #[case] status: &str,
    #[case] body: &str,
) {
    let stack = fast_stack(600).await;
    let effect =
        FaultEffect::Answer { status: status.parse().unwrap(), body: body.to_owned(), headers: Default::default() };
    let rule = Rule { repeat: Repeat::Standing, ..Rule::new(provider, Point::BeforeEffect, effect) };
    let rule = stack.simulators.arm(rule).unwrap();
    let (request, target, in_journal) = sample_request(provider, "waits");
    stack.create(without_wait(request)).await.unwrap();
    let refund = stack.until("waits", |refund| refund.provider_error.is_some()).await;
    assert_eq!(refund.state(), State::Pending);
    assert_eq!(stack.health_of(account).await, Health::CredentialsRefused);
    // Lookups probe the account, not refunds.
    let lookups = || stack.simulators.journal().iter().filter(|entry| !entry.moves_money).count();
    tokio::time::timeout(crate::support::LIMIT, async {
        while lookups() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(stack.attempts(in_journal), 1, "no further attempts");
    // The end of the suspension is unknown, so a waiting caller is answered immediately.
    let behind = namecom("behind", 200_002, &[3_200_002]);
    let behind = tokio::time::timeout(crate::support::LIMIT / 2, stack.refund(behind)).await.unwrap();
    assert_eq!(behind.state(), State::Pending);
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    for waited in ["waits", "behind"] {
        assert_eq!(stack.until(waited, is_processed).await.state(), State::Succeeded, "{waited}");
    }
    assert_eq!(stack.health_of(account).await, Health::Serving);
    assert_eq!((stack.effects(target), stack.effects("3200002")), (1, 1));
}

/// While the account is suspended, it is probed with orders that the provider does not have. Their
/// answers show that the login is accepted again.
#[tokio::test]
async fn many_unknown_orders_do_not_block_the_other_refunds() {
    let without_rate_limit = |configuration: String| {
        fast_lookups(configuration, 600).replace(
            "username = \"demo-test\"",
            "requests_per_second = 0\nrequests_per_hour = 0\nusername = \"demo-test\"",
        )
    };
    let stack = Stack::start_as(without_rate_limit).await;
    let body = "{\"message\":\"Unauthorized\",\"details\":\"\"}".to_owned();
    let effect = FaultEffect::Answer { status: 401, body, headers: Default::default() };
    let rule = Rule { repeat: Repeat::Standing, ..Rule::new(Provider::Namecom, Point::BeforeEffect, effect) };
    let rule = stack.simulators.arm(rule).unwrap();
    let wrong = |order: i32| without_wait(namecom(&format!("wrong-{order}"), 900_000 + order, &[9_000_000 + order]));
    for order in 0..130 {
        stack.create(wrong(order)).await.unwrap();
    }
    let (good, target, _) = sample_request(Provider::Namecom, "good");
    stack.create(without_wait(good)).await.unwrap();
    // More unknown orders, so that the good one is neither among the oldest nor among the newest.
    for order in 130..260 {
        stack.create(wrong(order)).await.unwrap();
    }
    assert_eq!(stack.health_of("namecom").await, Health::CredentialsRefused);
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    assert_eq!(stack.until("good", is_processed).await.state(), State::Succeeded);
    assert_eq!(stack.until("wrong-259", is_processed).await.state(), State::Failed);
    assert_eq!(stack.effects(target), 1);
}

/// At Sectigo the answer for an unknown order may also mean a wrong login, so it does not close the
/// breaker. The newest refunds are probed as well as the oldest.
#[tokio::test]
async fn a_good_order_behind_many_unknown_ones_closes_the_breaker() {
    let stack = fast_stack(600).await;
    for order in 0..5 {
        let refund = stack.refund(sectigo(&format!("shuts-{order}"), &format!("999000{order}"))).await;
        assert_eq!(refund.state(), State::Failed);
    }
    assert_eq!(stack.health_of("sectigo").await, Health::CredentialsRefused);
    for order in 0..100 {
        stack.create(without_wait(sectigo(&format!("wrong-{order}"), &format!("998{order:04}")))).await.unwrap();
    }
    stack.create(without_wait(sectigo("good", "1000001"))).await.unwrap();
    assert_eq!(stack.until("good", is_processed).await.state(), State::Succeeded);
    assert_eq!(stack.effects("1000001"), 1);
}

/// A lookup without a usable answer would be repeated a day later; it becomes due when the provider
/// answers again.
#[tokio::test]
async fn an_account_that_recovers_repeats_its_failed_lookups() {
    let settings =
        "engine.lookups_after_ms = \"40\"\nengine.circuit_pause_min_ms = 40\nengine.circuit_pause_max_ms = 100";
    let stack = Stack::start_with(settings).await;
    let broken = FaultEffect::Answer { status: 500, body: String::new(), headers: Default::default() };
    let rule = Rule {
        operation: Some("!getPostPaymentStatus".to_owned()),
        repeat: Repeat::Standing,
        ..Rule::new(Provider::Sectigo, Point::BeforeEffect, broken)
    };
    let rule = stack.simulators.arm(rule).unwrap();
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Times(5));
    let lost = [("r-1", "1000001"), ("r-2", "1000002"), ("r-3", "1000003"), ("r-4", "1000004"), ("r-5", "1000005")];
    for (id, order) in lost {
        assert_eq!(stack.refund(sectigo(id, order)).await.state(), State::InDoubt);
    }
    for (id, _) in lost {
        let is_left_alone = |refund: &proto::Refund| {
            let doubt = refund.doubt.as_ref().unwrap();
            micros(&doubt.next_check_time.unwrap()) > micros(&doubt.since_time.unwrap()) + HOUR_MICROS
        };
        assert!(stack.polled_until(id, is_left_alone).await.doubt.unwrap().check_count > 0);
    }
    assert_eq!(stack.health_of("sectigo").await, Health::Suspended);
    // Its lookup probes the account.
    let behind = without_wait(sectigo("behind", "1000006"));
    assert_eq!(stack.refund(behind).await.state(), State::Pending);
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    for (id, order) in lost.into_iter().chain([("behind", "1000006")]) {
        assert_eq!(stack.until(id, is_processed).await.state(), State::Succeeded, "{id}");
        assert_eq!((stack.effects(order), stack.attempts(order)), (1, 1));
    }
    assert_eq!(stack.health_of("sectigo").await, Health::Serving);
}

/// Callers that wait behind stalled attempts are answered as soon as the breaker opens.
#[tokio::test]
async fn waiting_callers_are_answered_when_the_breaker_opens() {
    let stack = Stack::start_as(|configuration| {
        configuration.replace("username = \"demo-test\"", "max_in_flight = 1\nusername = \"demo-test\"")
    })
    .await;
    let body = "{\"message\":\"Unauthorized\",\"details\":\"\"}".to_owned();
    let effect = FaultEffect::Answer { status: 401, body, headers: Default::default() };
    let rule = Rule { repeat: Repeat::Standing, ..Rule::new(Provider::Namecom, Point::BeforeEffect, effect) };
    stack.simulators.arm(rule).unwrap();
    let gate = stack.simulators.gate(Gate::new(Provider::Namecom, Point::BeforeEffect)).unwrap();
    let mut client = stack.refunds.clone();
    let first = tokio::spawn(async move { client.create_refund(namecom("first", 200_001, &[3_200_001])).await });
    gate.wait_for(1).await.unwrap();
    let mut client = stack.refunds.clone();
    let behind = tokio::spawn(async move { client.create_refund(namecom("behind", 200_002, &[3_200_002])).await });
    let recorded = async {
        while stack.find("behind").await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, recorded).await.unwrap();
    gate.release_all();
    for call in [first, behind] {
        let answer = tokio::time::timeout(crate::support::LIMIT / 2, call).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.into_inner().refund.unwrap().state(), State::Pending);
    }
    assert_eq!((stack.effects("3200001"), stack.effects("3200002")), (0, 0));
}

/// The order stays the same under another login.
#[tokio::test]
async fn a_target_stays_reserved_when_the_login_of_its_account_changes() {
    let stack = Stack::start().await;
    assert_eq!(stack.refund(sectigo("first", "1000001")).await.state(), State::Succeeded);
    let stack = stack.restart_as(|configuration| configuration.replace("\"demo\"", "\"demo-2\"")).await;
    let refusal = stack.create(sectigo("second", "1000001")).await.unwrap_err();
    assert_eq!(reason(&refusal), "TARGET_HAS_REFUND");
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/first");
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (1, 1));
}

/// Sectigo's -16 means a wrong login or an order of another account.
#[tokio::test]
async fn only_consecutive_different_orders_open_the_breaker() {
    let stack = fast_stack(600).await;
    for attempt in 0..8 {
        let refund = stack.refund(sectigo(&format!("same-{attempt}"), "9999999")).await;
        assert_eq!(refund.state(), State::Failed);
    }
    assert_eq!(stack.health_of("sectigo").await, Health::Serving, "one wrong order, however often");
    for order in 0..4 {
        let refund = stack.refund(sectigo(&format!("other-{order}"), &format!("999000{order}"))).await;
        assert_eq!(refund.state(), State::Failed);
    }
    assert_eq!(stack.health_of("sectigo").await, Health::CredentialsRefused);
    let refund = stack.refund(without_wait(sectigo("wrong", "9990009"))).await;
    assert_eq!(refund.state(), State::Pending);
    // A good order closes the breaker, although a wrong one waits before it.
    stack.refund(sectigo("good", "1000001")).await;
    assert_eq!(stack.until("good", is_processed).await.state(), State::Succeeded);
    assert_eq!(stack.until("wrong", is_processed).await.state(), State::Failed);
    assert_eq!(stack.health_of("sectigo").await, Health::Serving);
    assert_eq!(stack.effects("1000001"), 1);
}

#[tokio::test]
async fn a_refund_that_waits_too_long_expires_and_was_never_sent() {
    let stack = Stack::start_as(|configuration| {
        let configuration = configuration.replace("https://127.0.0.1", "https://127.0.0.2");
        fast_lookups(configuration, 600).replace("login_name =", "pending_limit_s = 1\nlogin_name =")
    })
    .await;
    let (request, target, in_journal) = sample_request(Provider::Sectigo, "old");
    stack.create(without_wait(request)).await.unwrap();
    let refund = stack.until("old", |refund| refund.state() == State::Failed).await;
    assert!(refund.dispatch_time.is_none(), "never sent");
    let last = stack.events("old").await.pop().unwrap();
    assert_eq!((last.kind(), last.attempt), (Kind::Expired, 0));
    // Once the provider can be reached it stays expired, and its order is free.
    let stack = stack.restart().await;
    let (again, ..) = sample_request(Provider::Sectigo, "new");
    assert_eq!(stack.refund(again).await.state(), State::Succeeded);
    assert_eq!(stack.get("old").await, refund);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// A gateway with a refund in review.
async fn in_review() -> Stack {
    let stack = fast_stack(0).await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    stack.create(sectigo("review", "1000001")).await.unwrap();
    stack.until("review", |refund| refund.state() == State::NeedsReview).await;
    stack
}

#[rstest]
#[case(Resolution::Refunded, State::Succeeded, 0)]
#[case(Resolution::NotRefunded, State::Failed, 0)]
#[case(Resolution::SendAgain, State::Succeeded, 1)]
#[tokio::test]
async fn a_resolution_ends_a_review(#[case] resolution: Resolution, #[case] end: State, #[case] effects: usize) {
    let stack = in_review().await;
    stack.resolve("review", resolution).await.unwrap();
    let refund = stack.until("review", is_processed).await;
    assert_eq!(refund.state(), end);
    assert_eq!(refund.attempt_count, 1 + i32::try_from(effects).unwrap(), "one new attempt, where it was authorised");
    let request = proto::ListRefundEventsRequest { name: refund.name, ..Default::default() };
    let events = stack.refunds.clone().list_refund_events(request).await.unwrap().into_inner().events;
    let resolved = events.iter().find(|event| event.kind() == Kind::Resolved).unwrap();
    assert!(resolved.note.contains("ticket 7") && resolved.actor == "caller", "{resolved:?}");
    assert_eq!(stack.effects("1000001"), effects);
}

#[tokio::test]
async fn an_invalid_resolution_is_refused_with_every_reason() {
    let stack = in_review().await;
    let before = stack.get("review").await;
    let resolve = |request: proto::ResolveRefundRequest| {
        let mut refunds = stack.refunds.clone();
        async move { refunds.resolve_refund(request).await.unwrap_err() }
    };
    let wrong = resolve(proto::ResolveRefundRequest {
        name: "review".to_owned(),
        refunded_amount: Some(proto::Money { currency_code: "x".to_owned(), minor_units: 1 }),
        ..Default::default()
    })
    .await;
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(wrong_fields(&wrong), ["etag", "evidence", "name", "refunded_amount", "resolution"]);
    let request = proto::ResolveRefundRequest {
        name: before.name.clone(),
        etag: "old".to_owned(),
        resolution: Resolution::Refunded.into(),
        evidence: "ticket 7".to_owned(),
        refunded_amount: None,
        ..Default::default()
    };
    let stale = resolve(request.clone()).await;
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(metadata(&stale, "etag"), before.etag);
    assert_eq!(stack.get("review").await, before, "a refused resolution changes nothing");

    let settled = stack.resolve("review", Resolution::NotRefunded).await.unwrap();
    let late = resolve(proto::ResolveRefundRequest { etag: settled.etag, ..request }).await;
    assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "NOT_IN_REVIEW"));
    assert_eq!(stack.effects("1000001"), 0);
}

/// The next process looks up a refund in doubt at the time that the first one has set.
#[tokio::test]
async fn a_restart_continues_to_reconcile() {
    let stack = Stack::start_with("engine.lookups_after_ms = \"1000\"").await;
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    // No lookup of the first process is answered, however long the process takes to end.
    let unanswered = Rule {
        operation: Some("!getPostPaymentStatus".to_owned()),
        repeat: Repeat::Standing,
        ..Rule::new(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close)
    };
    let unanswered = stack.simulators.arm(unanswered).unwrap();
    let (request, target, in_journal) = sample_request(Provider::Sectigo, "lost");
    assert_eq!(stack.refund(request).await.doubt.unwrap().reason(), Reason::ConnectionLost);
    let stack = stack.restart_as(|configuration| fast_lookups(configuration, 600)).await;
    assert_eq!(stack.get("lost").await.state(), State::InDoubt);
    stack.simulators.with_world(|world| world.faults.disarm(unanswered));
    // Without ReconcileRefund.
    assert_eq!(stack.until("lost", is_processed).await.state(), State::Succeeded);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}
