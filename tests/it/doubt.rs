//! What is not known is shown as not known, and a look at the provider settles it. Each test ends
//! by asking the simulators' books.

use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::doubt::Reason;
use recoup::proto::v1::provider_error::Category;
use recoup::proto::v1::refund::{MoneyVerdict, State};
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::providers::debitsuccess::RefundStatus;
use simulators::request::Provider;
use tonic::Code;

use crate::support::{
    self, Stack, channel, configuration, configuration_at, debitsuccess, namecom, without_lookups, reason, sample_request,
    sectigo, settings_of, simulators_in,
};

fn answer(status: u16, body: &str) -> FaultEffect {
    FaultEffect::Answer { status, body: body.to_owned(), headers: Default::default() }
}

/// The answer is lost after the money has moved: doubt, and then the truth.
#[rstest]
#[case(Provider::Sectigo, State::Succeeded)]
#[case(Provider::Namecom, State::Succeeded)]
#[case(Provider::Debitsuccess, State::Submitted)]
#[tokio::test]
async fn a_lost_yes_is_doubt_until_the_provider_is_asked(#[case] provider: Provider, #[case] end: State) {
    let stack = Stack::start().await;
    stack.arm(provider, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "lost");
    let refund = stack.refund(request.clone()).await;
    assert_eq!((refund.state(), refund.money_verdict()), (State::InDoubt, MoneyVerdict::MayHaveMoved));
    assert_eq!(refund.doubt.as_ref().unwrap().reason(), Reason::ConnectionLost);

    // Asking again with the same id sends nothing.
    let again = stack.create(request).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.refund.unwrap().state(), State::InDoubt);

    let settled = stack.reconcile("lost").await.unwrap();
    assert_eq!(settled.state(), end);
    assert!(settled.doubt.is_none());
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

/// The request is lost before anything was done: the same doubt, which no lookup may turn into a
/// "no".
#[rstest]
#[case(Provider::Sectigo)]
#[case(Provider::Namecom)]
#[case(Provider::Debitsuccess)]
#[tokio::test]
async fn silence_is_no_proof(#[case] provider: Provider) {
    let stack = Stack::start().await;
    stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(provider, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    for looks in 1..=2 {
        let refund = stack.reconcile("gone").await.unwrap();
        let doubt = refund.doubt.clone().unwrap();
        assert_eq!((refund.state(), doubt.check_count), (State::InDoubt, looks));
        assert!(!doubt.last_evidence.is_empty());
    }
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (0, 1));
}

/// Answers that mean nothing certain, whatever was done behind them.
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
async fn an_answer_that_says_nothing_certain_is_doubt(
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
async fn no_answer_in_time_is_doubt() {
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
async fn what_is_on_the_wire_is_shown_as_that_and_not_looked_up() {
    let stack = Stack::start().await;
    let gate = stack.simulators.gate(Gate::new(Provider::Namecom, Point::AfterEffect)).unwrap();
    let impatient = proto::CreateRefundRequest {
        wait: Some(prost_types::Duration::default()),
        ..namecom("slow", 200_001, &[3_200_001])
    };
    // The caller stops waiting; the attempt goes on and is shown as what it is.
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

/// Proof that nothing was processed sends the refund back to wait, with the reason, and out again:
/// one effect in the end.
#[rstest]
#[case(Provider::Sectigo, answer(200, "-42\nCall limit reached, please try again later"), "-42")]
#[case(Provider::Namecom, answer(429, "{\"message\":\"Rate Limit Exceeded\",\"details\":\"\"}"), "429")]
#[case(Provider::Namecom, answer(401, "{\"message\":\"Unauthorized\"}"), "401")]
#[tokio::test]
async fn what_was_not_processed_is_sent_again(
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
    assert!(events[2].note.contains(code), "{}", events[2].note);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 3));
}

#[tokio::test]
async fn refused_credentials_wait_as_pending_and_show_on_the_account() {
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

    // The right login after a restart, and the word that the mistyped one was meant to be it: it is
    // sent, once.
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

/// A provider that cannot be reached has not seen the refund: it waits, with the reason, and goes
/// out when the provider is there.
#[tokio::test]
async fn a_provider_that_is_down_has_not_seen_the_refund() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    // A port that was free a moment ago and that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = nobody.local_addr().unwrap();
    drop(nobody);
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

/// 14143 on a first send: somebody else's refund has our identifier. Neither a yes nor a no.
#[tokio::test]
async fn an_identifier_that_somebody_else_used_needs_a_person() {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("mine", "DS000010", 100)).await;
    // The same provider with an empty ledger: this gateway does not know that the identifier is its
    // own.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(stack.dir.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let forgetful =
        App::start(settings_of(&configuration(&stack.simulators, dir.path(), ""), dir.path())).await.unwrap();
    let refunds = RefundServiceClient::new(channel(forgetful.addr()).await);
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

/// A replay on a first send is no yes for this very refund, until the order says so.
#[tokio::test]
async fn a_replay_that_nobody_sent_first_is_doubt() {
    let stack = Stack::start().await;
    stack.refund(namecom("key", 200_001, &[3_200_001])).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(stack.dir.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let forgetful =
        App::start(settings_of(&configuration(&stack.simulators, dir.path(), ""), dir.path())).await.unwrap();
    let mut refunds = RefundServiceClient::new(channel(forgetful.addr()).await);
    let refund =
        refunds.create_refund(namecom("key", 200_001, &[3_200_001])).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.doubt.as_ref().unwrap().reason()), (State::InDoubt, Reason::Contradiction));
    // A look comes by itself, and finds it.
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
    #[case] word: &str,
    #[case] end: State,
    #[case] category: Option<Category>,
) {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("review", "DS000004", 2500)).await;
    stack.simulators.with_world(|world| world.debitsuccess.set_refund_status("review", status, None).unwrap());
    let refund = stack.reconcile("review").await.unwrap();
    assert_eq!(refund.state(), end);
    assert_eq!(refund.provider_error.as_ref().map(proto::ProviderError::category), category);
    assert_eq!(refund.provider_status, word);
    if end == State::Succeeded {
        assert_eq!(refund.refunded_amount.unwrap().minor_units, 2500);
    }
    assert_eq!((stack.effects("DS000004"), stack.attempts("DS000004")), (1, 1));
}

#[tokio::test]
async fn there_is_nothing_to_reconcile_in_a_settled_refund() {
    let stack = Stack::start().await;
    stack.refund(sectigo("done", "1000001")).await;
    let refusal = stack.reconcile("done").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NOT_IN_DOUBT"));
    let refusal = stack.reconcile("unknown").await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::NotFound, "REFUND_NOT_FOUND"));
    assert_eq!((stack.effects("1000001"), stack.simulators.journal().len()), (1, 1), "nobody was asked");
}

#[tokio::test]
async fn a_lookup_that_learns_nothing_changes_nothing_but_the_evidence() {
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

/// A record that a lookup between two others shows was there all the time: only two in a row
/// without one count.
#[tokio::test]
async fn absent_twice_is_twice_in_a_row() {
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

/// Who asks for a lookup does not have to wait for the next scheduled one.
#[tokio::test]
async fn a_proof_that_was_asked_for_has_the_refund_sent_at_once() {
    let stack = Stack::start_as(|configuration| without_lookups(&configuration, 0)).await;
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let (request, target, in_journal) = sample_request(Provider::Debitsuccess, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    // The first of two.
    assert_eq!(stack.reconcile("gone").await.unwrap().state(), State::InDoubt);
    assert_eq!(stack.attempts(in_journal), 1);
    stack.reconcile("gone").await.unwrap();
    let refund = stack.until("gone", |refund| refund.state() == State::Submitted).await;
    assert_eq!(refund.attempt_count, 2);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 2));
}

/// The key is dead, and the domain that name.com deletes first is still there.
#[tokio::test]
async fn a_domain_that_is_still_there_has_the_refund_sent_at_once() {
    let stack = Stack::start_as(|configuration| {
        without_lookups(&configuration, 0).replace("token_env", "key_lifetime_s = 1\ntoken_env")
    })
    .await;
    // The second attempt is made by itself, just before the key dies.
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Close, Repeat::Times(2));
    let (request, target, in_journal) = sample_request(Provider::Namecom, "gone");
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    let is_dead = |refund: &proto::Refund| {
        refund.attempt_count == 2 && refund.doubt.as_ref().is_some_and(|doubt| !doubt.resend_safe)
    };
    assert_eq!(stack.polled_until("gone", is_dead).await.state(), State::InDoubt);
    stack.reconcile("gone").await.unwrap();
    let refund = stack.until("gone", |refund| refund.state() == State::Succeeded).await;
    assert_eq!(refund.attempt_count, 3);
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 3));
}

#[tokio::test]
async fn after_an_orderly_restart_everything_is_as_it_was() {
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
