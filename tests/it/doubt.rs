//! An unknown outcome is shown as doubt, and a lookup at the provider ends it. Each test ends with
//! a look at the simulators' books.

use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::doubt::Reason;
use recoup::proto::v1::provider_error::Category;
use recoup::proto::v1::refund::{MoneyVerdict, State};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::providers::debitsuccess::RefundStatus;
use simulators::request::Provider;
use tonic::Code;

use crate::support::{
    self, Stack, channel, configuration, configuration_at, debitsuccess, namecom, reason, sample_request, sectigo,
    settings_of, simulators_in, without_lookups,
};

fn answer(status: u16, body: &str) -> FaultEffect {
    FaultEffect::Answer { status, body: body.to_owned(), headers: Default::default() }
}

/// The answer is lost after the money has moved.
#[rstest]
#[case(Provider::Sectigo, State::Succeeded)]
#[case(Provider::Namecom, State::Succeeded)]
#[case(Provider::Debitsuccess, State::Submitted)]
#[tokio::test]
async fn a_lost_yes_is_in_doubt_until_a_lookup_finds_it(#[case] provider: Provider, #[case] end: State) {
    let stack = Stack::start().await;
    stack.arm(provider, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "lost");
    let refund = stack.refund(request.clone()).await;
    assert_eq!((refund.state(), refund.money_verdict()), (State::InDoubt, MoneyVerdict::MayHaveMoved));
    assert_eq!(refund.doubt.as_ref().unwrap().reason(), Reason::ConnectionLost);

    // A repeated request with the same id sends nothing.
    let again = stack.create(request).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.refund.unwrap().state(), State::InDoubt);

    let settled = stack.reconcile("lost").await.unwrap();
    assert_eq!(settled.state(), end);
    assert!(settled.doubt.is_none());
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// The request is lost before anything was done. No lookup may turn the doubt into a failure.
#[rstest]
#[case(Provider::Sectigo)]
#[case(Provider::Namecom)]
#[case(Provider::Debitsuccess)]
#[tokio::test]
async fn a_lookup_without_a_record_is_no_proof(#[case] provider: Provider) {
    let stack = Stack::start().await;
    stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    for lookups in 1..=2 {
        let refund = stack.reconcile("gone").await.unwrap();
        let doubt = refund.doubt.clone().unwrap();
        assert_eq!((refund.state(), doubt.check_count), (State::InDoubt, lookups));
        assert!(!doubt.last_evidence.is_empty());
    }
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (0, 1));
}

/// Answers without a certain meaning, whether or not the refund was done.
#[rstest]
#[case(Provider::Sectigo, answer(500, ""), Reason::ProviderServerError)]
#[case(Provider::Sectigo, answer(200, ""), Reason::UnreadableReply)]
#[case(Provider::Sectigo, answer(200, "<html>try later</html>"), Reason::UnreadableReply)]
#[case(Provider::Sectigo, answer(200, "-14\nAn unknown error occurred!"), Reason::ProviderSaysUnknown)]
#[case(
    Provider::Namecom,
    answer(502, "{\"message\":\"Registry Connection Unavailable\"}"),
    Reason::ProviderServerError
)]
#[case(Provider::Namecom, answer(200, "{\"results\":"), Reason::UnreadableReply)]
#[case(Provider::Debitsuccess, answer(500, "<s:Fault/>"), Reason::ProviderServerError)]
#[case(Provider::Debitsuccess, answer(200, "not xml"), Reason::UnreadableReply)]
#[tokio::test]
async fn an_answer_without_a_certain_meaning_leads_to_doubt(
    #[case] provider: Provider,
    #[case] effect: FaultEffect,
    #[case] why: Reason,
    #[values(Point::BeforeEffect, Point::AfterEffect)] point: Point,
) {
    let stack = Stack::start().await;
    stack.arm(provider, point, effect, Repeat::Once);
    let (request, target, _) = sample_request(provider, "odd");
    let refund = stack.refund(request).await;
    assert_eq!((refund.state(), refund.doubt.unwrap().reason()), (State::InDoubt, why));
    assert_eq!(stack.effects(target), usize::from(point == Point::AfterEffect));
}

#[tokio::test]
async fn a_timeout_leads_to_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let effect = FaultEffect::Delay { milliseconds: 60_000 };
    let rule = Rule {
        operation: Some("ProcessRefund".to_owned()),
        ..Rule::new(Provider::Namecom, Point::AfterEffect, effect)
    };
    simulators.arm(rule).unwrap();
    let impatient = "username = \"demo-test\"\nconnect_timeout_ms = 400\ntotal_timeout_ms = 500";
    let configuration = configuration(&simulators, dir.path(), "").replace("username = \"demo-test\"", impatient);
    let app = App::start(settings_of(&configuration, dir.path())).await.unwrap();
    let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
    let request = namecom("late", 200_001, &[3_200_001]);
    let refund = refunds.create_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.doubt.unwrap().reason()), (State::InDoubt, Reason::Timeout));
    let request = proto::ReconcileRefundRequest { name: refund.name };
    let settled = refunds.reconcile_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((settled.state(), settled.attempt_count), (State::Succeeded, 1));
    assert_eq!(support::effects(&simulators, "3200001"), 1);
}

#[tokio::test]
async fn a_refund_on_the_wire_is_dispatching_and_not_looked_up() {
    let stack = Stack::start().await;
    let gate = stack.simulators.gate(Gate::new(Provider::Namecom, Point::AfterEffect)).unwrap();
    let impatient = proto::CreateRefundRequest {
        wait: Some(prost_types::Duration::default()),
        ..namecom("slow", 200_001, &[3_200_001])
    };
    // The caller stops waiting; the attempt continues.
    stack.refund(impatient).await;
    gate.wait_for(1).await.unwrap();
    let refund = stack.get("slow").await;
    assert_eq!((refund.state(), refund.money_verdict()), (State::Dispatching, MoneyVerdict::MayHaveMoved));
    let refusal = stack.reconcile("slow").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_DOUBT"));
    assert_eq!((stack.effects("3200001"), stack.simulators.journal().len()), (1, 1), "nothing but the one request");
    gate.release_all();
    assert_eq!(stack.until("slow", |refund| refund.state() != State::Dispatching).await.state(), State::Succeeded);
}

/// With proof that nothing was processed, the refund waits with the reason and is sent again: one
/// effect in the end.
#[rstest]
#[case(Provider::Sectigo, answer(200, "-42\nCall limit reached, please try again later"), "-42")]
#[case(Provider::Namecom, answer(429, "{\"message\":\"Rate Limit Exceeded\",\"details\":\"\"}"), "429")]
#[case(Provider::Namecom, answer(401, "{\"message\":\"Unauthorized\"}"), "401")]
#[tokio::test]
async fn an_attempt_that_was_not_processed_is_sent_again(
    #[case] provider: Provider,
    #[case] effect: FaultEffect,
    #[case] code: &str,
) {
    let stack = Stack::start().await;
    stack.arm(provider, Point::BeforeEffect, effect, Repeat::Times(2));
    let (request, target, in_journal) = sample_request(provider, "again");
    stack.create(request).await.unwrap();
    let refund = stack.until("again", |refund| refund.complete_time.is_some()).await;
    assert_eq!((refund.state(), refund.attempt_count), (State::Succeeded, 3));
    let request = proto::ListRefundEventsRequest { name: refund.name, ..Default::default() };
    let events = stack.refunds.clone().list_refund_events(request).await.unwrap().into_inner().events;
    let states: Vec<_> = events.iter().map(|event| event.to_state()).collect();
    let (pending, dispatching) = (State::Pending, State::Dispatching);
    assert_eq!(states, [pending, dispatching, pending, dispatching, pending, dispatching, State::Succeeded]);
    assert_eq!(events[2].kind(), Kind::NotSent);
    assert!(events[2].note.contains(code), "{}", events[2].note);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 3));
}

#[tokio::test]
async fn a_refund_with_refused_credentials_is_pending_and_the_account_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let wrong = configuration(&simulators, dir.path(), "").replace("username = \"demo\"", "username = \"mistyped\"");
    let app = App::start(settings_of(&wrong, dir.path())).await.unwrap();
    let channel = channel(app.addr()).await;
    let request = proto::CreateRefundRequest {
        wait: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..debitsuccess("typo", "DS000001", 100)
    };
    let refund =
        RefundServiceClient::new(channel.clone()).create_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.money_verdict()), (State::Pending, MoneyVerdict::NotMoved));
    let error = refund.provider_error.unwrap();
    assert_eq!((error.code.as_str(), error.category()), ("02", Category::CredentialsRefused));
    let accounts = proto::account_service_client::AccountServiceClient::new(channel)
        .list_accounts(proto::ListAccountsRequest {})
        .await
        .unwrap()
        .into_inner()
        .accounts;
    let account = accounts.iter().find(|one| one.account == "debitsuccess").unwrap();
    assert_eq!(account.health(), proto::account::Health::CredentialsRefused);

    // The right login after a restart, with the mistyped one in `former`: the refund is sent once.
    app.stop().await;
    let right = configuration(&simulators, dir.path(), "")
        .replace("username = \"demo\"", "username = \"demo\"\nformer = [{ login = \"mistyped\" }]");
    let app = App::start(settings_of(&right, dir.path())).await.unwrap();
    let refunds = RefundServiceClient::new(support::channel(app.addr()).await);
    let request = debitsuccess("typo", "DS000001", 100);
    let refund = refunds.clone().create_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::Submitted);
    assert_eq!(support::effects(&simulators, "DS000001"), 1);
}

/// The refund waits with the reason, and is sent when the provider can be reached.
#[tokio::test]
async fn a_provider_that_cannot_be_reached_has_not_seen_the_refund() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    // A port without a listener.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = unused.local_addr().unwrap();
    drop(unused);
    let addr = simulators.namecom_plaintext_addr();
    let unreachable =
        configuration_at(simulators.sectigo_addr(), down, simulators.debitsuccess_plaintext_addr(), dir.path(), "");
    let app = App::start(settings_of(&unreachable, dir.path())).await.unwrap();
    let refunds = RefundServiceClient::new(channel(app.addr()).await);
    let request = proto::CreateRefundRequest {
        wait: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..namecom("patient", 200_001, &[3_200_001])
    };
    let refund = refunds.clone().create_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.dispatch_time), (State::Pending, None), "nothing was ever sent");
    let error = refund.provider_error.unwrap();
    assert_eq!((error.code.as_str(), error.http_status), ("", 0));
    assert!(!error.message.is_empty());
    app.stop().await;

    let reachable =
        configuration_at(simulators.sectigo_addr(), addr, simulators.debitsuccess_plaintext_addr(), dir.path(), "")
            .replace(
                "username = \"demo-test\"",
                &format!("username = \"demo-test\"\nformer = [{{ endpoint = \"http://{down}\" }}]"),
            );
    let app = App::start(settings_of(&reachable, dir.path())).await.unwrap();
    let refunds = RefundServiceClient::new(channel(app.addr()).await);
    let refund = refunds
        .clone()
        .create_refund(namecom("patient", 200_001, &[3_200_001]))
        .await
        .unwrap()
        .into_inner()
        .refund
        .unwrap();
    assert_eq!(refund.state(), State::Succeeded);
    assert_eq!(support::effects(&simulators, "3200001"), 1);
}

/// 14143 on a first send: a refund of another client has our identifier. Neither a yes nor a no.
#[tokio::test]
async fn an_identifier_that_another_client_used_leads_to_review() {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("mine", "DS000010", 100)).await;
    // A gateway with an empty ledger does not know that the identifier is its own.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(stack.dir.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let empty_gateway =
        App::start(settings_of(&configuration(&stack.simulators, dir.path(), ""), dir.path())).await.unwrap();
    let refunds = RefundServiceClient::new(channel(empty_gateway.addr()).await);
    let refund = refunds
        .clone()
        .create_refund(debitsuccess("mine", "DS000010", 100))
        .await
        .unwrap()
        .into_inner()
        .refund
        .unwrap();
    assert_eq!(refund.state(), State::NeedsReview);
    let error = refund.provider_error.unwrap();
    assert_eq!((error.code.as_str(), error.category()), ("14143", Category::IdentifierInUse));
    assert_eq!(refund.doubt.unwrap().reason(), Reason::Contradiction);
    assert_eq!(stack.effects("DS000010"), 1);
}

/// A replayed answer to a first send is no success of this refund, until a lookup confirms it.
#[tokio::test]
async fn a_replayed_answer_to_a_first_send_leads_to_doubt() {
    let stack = Stack::start().await;
    stack.refund(namecom("key", 200_001, &[3_200_001])).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(stack.dir.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let empty_gateway =
        App::start(settings_of(&configuration(&stack.simulators, dir.path(), ""), dir.path())).await.unwrap();
    let mut refunds = RefundServiceClient::new(channel(empty_gateway.addr()).await);
    let refund =
        refunds.create_refund(namecom("key", 200_001, &[3_200_001])).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.doubt.as_ref().unwrap().reason()), (State::InDoubt, Reason::Contradiction));
    // The gateway looks it up by itself, and finds it.
    let request = proto::WaitRefundRequest {
        name: "refunds/key".to_owned(),
        after_revision: refund.revision,
        timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
    };
    let settled = refunds.wait_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((settled.state(), settled.attempt_count), (State::Succeeded, 1));
    assert_eq!((stack.effects("3200001"), stack.attempts("200001")), (1, 2));
}

#[rstest]
#[case(RefundStatus::Completed, "Completed", State::Succeeded, None)]
#[case(RefundStatus::Rejected, "Rejected", State::Failed, Some(Category::RejectedOnReview))]
#[case(RefundStatus::AwaitingReview, "Awaiting Review", State::Submitted, None)]
#[case(RefundStatus::Approved, "Approved", State::Submitted, None)]
#[tokio::test]
async fn a_submitted_refund_follows_its_provider(
    #[case] status: RefundStatus,
    #[case] provider_status: &str,
    #[case] end: State,
    #[case] category: Option<Category>,
) {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("review", "DS000004", 2500)).await;
    stack
        .simulators
        .with_world(|world| world.providers.debitsuccess.set_refund_status("review", status, None).unwrap());
    let refund = stack.reconcile("review").await.unwrap();
    assert_eq!(refund.state(), end);
    assert_eq!(refund.provider_error.as_ref().map(proto::ProviderError::category), category);
    assert_eq!(refund.provider_status, provider_status);
    if end == State::Succeeded {
        assert_eq!(refund.refunded_amount.unwrap().minor_units, 2500);
    }
    assert_eq!((stack.effects("DS000004"), stack.attempts("DS000004")), (1, 1));
}

#[tokio::test]
async fn a_refund_that_is_done_cannot_be_reconciled() {
    let stack = Stack::start().await;
    stack.refund(sectigo("done", "1000001")).await;
    let refusal = stack.reconcile("done").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_DOUBT"));
    let refusal = stack.reconcile("unknown").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::NotFound, "REFUND_NOT_FOUND"));
    assert_eq!((stack.effects("1000001"), stack.simulators.journal().len()), (1, 1), "no request was sent");
}

#[tokio::test]
async fn an_inconclusive_lookup_changes_only_the_evidence() {
    let stack = Stack::start().await;
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Standing);
    let before = stack.refund(sectigo("blind", "1000001")).await;
    let rule = Rule {
        operation: Some("!getPostPaymentStatus".to_owned()),
        ..Rule::new(Provider::Sectigo, Point::BeforeEffect, answer(500, ""))
    };
    stack.simulators.arm(rule).unwrap();
    let refund = stack.reconcile("blind").await.unwrap();
    let (doubt, doubt_before) = (refund.doubt.clone().unwrap(), before.doubt.clone().unwrap());
    assert_eq!((refund.state(), doubt.check_count), (State::InDoubt, 1));
    assert_ne!(doubt.last_evidence, doubt_before.last_evidence);
    let otherwise = proto::Doubt {
        check_count: 0,
        last_evidence: doubt_before.last_evidence,
        next_check_time: doubt_before.next_check_time,
        ..doubt
    };
    let otherwise = proto::Refund {
        doubt: Some(otherwise),
        revision: before.revision,
        etag: before.etag.clone(),
        update_time: before.update_time,
        ..refund
    };
    assert_eq!(otherwise, before);
    assert_eq!(stack.reconcile("blind").await.unwrap().state(), State::Succeeded);
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (1, 1));
}

/// A record that a lookup shows existed before, too: only two lookups in a row without a record
/// count.
#[tokio::test]
async fn absence_counts_only_twice_in_a_row() {
    let stack = Stack::start_as(|configuration| without_lookups(&configuration, 0)).await;
    for lookup in [1, 3, 4] {
        stack.make_lookups_stale(Some(lookup));
    }
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "seen");
    assert_eq!(stack.refund(request).await.state(), State::Submitted);
    for lookup in 1..=3 {
        assert_eq!(stack.reconcile("seen").await.unwrap().state(), State::Submitted, "lookup {lookup}");
    }
    assert_eq!(stack.reconcile("seen").await.unwrap().state(), State::NeedsReview);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// ReconcileRefund does not wait for the next scheduled lookup.
#[tokio::test]
async fn a_refund_is_sent_again_as_soon_as_reconciling_proves_its_absence() {
    let stack = Stack::start_as(|configuration| without_lookups(&configuration, 0)).await;
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    // The first of two lookups.
    assert_eq!(stack.reconcile("gone").await.unwrap().state(), State::InDoubt);
    assert_eq!(stack.attempts(in_journal), 1);
    stack.reconcile("gone").await.unwrap();
    let refund = stack.until("gone", |refund| refund.state() == State::Submitted).await;
    assert_eq!(refund.attempt_count, 2);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 2));
}

/// The key has expired, and the domain, which name.com deletes first, still exists.
#[tokio::test]
async fn a_refund_is_sent_again_as_soon_as_its_domain_proves_its_absence() {
    let stack = Stack::start_as(|configuration| {
        without_lookups(&configuration, 0).replace("token_env", "key_lifetime_s = 1\ntoken_env")
    })
    .await;
    // The gateway makes the second attempt by itself, just before the key expires.
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Close, Repeat::Times(2));
    let (request, target, in_journal) = sample_request(Provider::Namecom, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    let is_expired = |refund: &proto::Refund| {
        refund.attempt_count == 2 && refund.doubt.as_ref().is_some_and(|doubt| !doubt.resend_safe)
    };
    assert_eq!(stack.polled_until("gone", is_expired).await.state(), State::InDoubt);
    stack.reconcile("gone").await.unwrap();
    let refund = stack.until("gone", |refund| refund.state() == State::Succeeded).await;
    assert_eq!(refund.attempt_count, 3);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 3));
}

#[tokio::test]
async fn a_clean_restart_changes_nothing() {
    let stack = Stack::start().await;
    stack.arm(Provider::Namecom, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    let before = [
        stack.refund(sectigo("s", "1000001")).await,
        stack.refund(namecom("n", 200_001, &[3_200_001])).await,
        stack.refund(debitsuccess("d", "DS000001", 500)).await,
    ];
    let stack = stack.restart().await;
    for refund in before {
        assert_eq!(stack.get(&refund.refund_id).await, refund);
    }
    assert_eq!(stack.reconcile("n").await.unwrap().state(), State::Succeeded);
    assert_eq!(stack.simulators.books().len(), 3);
}
