//! ReassignRefund: the operator moves refunds to another account, and nothing moves where another
//! refund is in the way.
//!
//! Each test ends with a look at the simulators' books.

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::Point;
use simulators::providers::debitsuccess::RefundStatus;
use simulators::request::Provider;
use tonic::Code;

use crate::support::account_changes::*;
use crate::support::demo_accounts::{account_name, login};
use crate::support::*;
use crate::telemetry::launch;

#[rstest]
#[tokio::test]
async fn an_operator_moves_refunds_to_another_account(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
) {
    let name = account_name(provider);
    let [review, lost, pending, done] =
        [("review", 1), ("lost", 2), ("pending", 3), ("done", 4)].map(|(id, number)| refund_of(provider, id, number));
    let stack = stack_with_review(provider, &review).await.restart_as(|text| slow_lookups(&text, 1)).await;
    assert_eq!(stack.refund(done.request.clone()).await.state(), accepted(provider));
    lose(&stack, provider, &lost, Point::AfterEffect).await;
    stack.refund(without_wait(pending.request.clone())).await;
    let witness = refund_of(witness_of(provider), "witness", 1);
    lose(&stack, witness_of(provider), &witness, Point::AfterEffect).await;
    let attempts = stack.attempts(&review.in_journal);

    let stack = stack
        .restart_as(|text| {
            let text = with_other_currency(&text, provider);
            let text = section(&text, name, |section| other_host(&renamed(section, name, "other")));
            section(&fast_lookups(&text, 1, 1_000), account_name(witness_of(provider)), |section| {
                section.replace("settle_time_s = 1\n", "settle_time_s = 600\n")
            })
        })
        .await;
    let mut open = vec!["review", "lost", "pending"];
    if provider == Provider::Debitsuccess {
        open.push("done");
    } else {
        let done = stack.get("done").await;
        let refusal = reassign(&stack, reassigning(&done, "other")).await.unwrap_err();
        assert_eq!(
            (reason(&refusal).as_str(), metadata(&refusal, "state").as_str()),
            ("NOT_REASSIGNABLE", "SUCCEEDED")
        );
    }
    // The place of its account has not changed.
    let refusal = reassign_to(&stack, "witness", account_name(witness_of(provider))).await.unwrap_err();
    is_reason(&refusal, "NOT_REASSIGNABLE");
    for id in &open {
        let before = stack.get(id).await;
        assert_eq!(before.waiting_for(), WaitingFor::Account);
        let valid = reassigning(&before, "other");
        let refused = |request: proto::ReassignRefundRequest| {
            let stack = &stack;
            async move { reassign(stack, request).await.unwrap_err() }
        };
        let empty = refused(proto::ReassignRefundRequest { name: before.name.clone(), ..Default::default() }).await;
        assert_eq!(wrong_fields(&empty), ["account", "etag", "evidence"]);
        let blank = refused(proto::ReassignRefundRequest { evidence: " \u{200b}".to_owned(), ..valid.clone() }).await;
        assert_eq!(wrong_fields(&blank), ["evidence"]);
        let stale = refused(proto::ReassignRefundRequest { etag: "1-1".to_owned(), ..valid.clone() }).await;
        assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
        assert_eq!(metadata(&stale, "etag"), before.etag);
        is_reason(&refused(reassigning(&before, "unknown")).await, "ACCOUNT_NOT_FOUND");
        // The account that it was recorded for does not exist any more.
        is_reason(&refused(reassigning(&before, name)).await, "ACCOUNT_NOT_FOUND");
        is_reason(&refused(reassigning(&before, account_name(witness_of(provider)))).await, "ACCOUNT_MISMATCH");
        if provider != Provider::Namecom {
            assert_eq!(wrong_fields(&refused(reassigning(&before, "other-currency")).await), ["account"]);
        }
        assert_eq!(stack.get(id).await, before, "a refused call changes nothing");

        let moved = reassign(&stack, valid.clone()).await.unwrap();
        assert_eq!((moved.account.as_str(), moved.revision), ("other", before.revision + 1));
        assert_ne!(moved.waiting_for(), WaitingFor::Account);
        let moves = moves_of(&stack, id).await;
        assert_eq!((moves.len(), moves[0].actor.as_str(), moves[0].from_state), (1, "caller", moves[0].to_state));
        assert!(moves[0].note.contains("ticket 8"), "{}", moves[0].note);
        is_reason(&reassign(&stack, valid).await.unwrap_err(), "ETAG_MISMATCH");
        is_reason(&reassign_to(&stack, id, "other").await.unwrap_err(), "NOT_REASSIGNABLE");
    }
    assert_eq!(stack.until("lost", is_processed).await.state(), accepted(provider));
    let sent = stack.until("pending", is_processed).await;
    assert_eq!((sent.state(), sent.attempt_count), (accepted(provider), 1));
    if provider == Provider::Debitsuccess {
        let number = stack.get("done").await.provider_reference;
        stack.simulators.with_world(|world| {
            world.providers.debitsuccess.set_refund_status(&number, RefundStatus::Completed, None).unwrap();
        });
        assert_eq!(stack.until("done", |refund| refund.complete_time.is_some()).await.state(), State::Succeeded);
    }

    // A repeated request is compared with the account that was given first, although it was
    // removed.
    for one in [&review, &lost, &pending, &done] {
        let again = stack.create(one.request.clone()).await.unwrap();
        assert!(again.replayed);
        let is_moved = open.contains(&one.request.refund_id.as_str());
        assert_eq!(again.refund.unwrap().account, if is_moved { "other" } else { name });
        let elsewhere = proto::CreateRefundRequest { account: "other".to_owned(), ..one.request.clone() };
        let refusal = stack.create(elsewhere).await.unwrap_err();
        assert_eq!(
            (reason(&refusal).as_str(), metadata(&refusal, "differing_fields").as_str()),
            ("REFUND_ID_REUSED", "account")
        );
    }
    assert_eq!(stack.get("review").await.state(), State::NeedsReview);
    assert_eq!([&review, &lost, &pending, &done].map(|one| stack.effects(&one.target)), [0, 1, 1, 1]);
    assert_eq!([&lost, &pending, &done].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
    assert_eq!(stack.attempts(&review.in_journal), attempts, "attempts from another place are only looked up");

    // The operator has it sent again: once, from the new account.
    stack.until("review", |refund| refund.waiting_for() == WaitingFor::Unspecified).await;
    resolve(&stack, "review", Resolution::SendAgain, false).await.unwrap();
    let sent = stack.until("review", |refund| is_processed(refund) && refund.state() != State::NeedsReview).await;
    assert_eq!((sent.state(), stack.effects(&review.target)), (accepted(provider), 1));
}

/// Two accounts that are not known to have the same books may each refund one target. Then none of
/// the refunds can move to the other account.
#[rstest]
#[case(Provider::Sectigo, "TARGET_HAS_REFUND")]
#[case(Provider::Namecom, "TARGET_HAS_REFUND")]
#[case(Provider::Debitsuccess, "SIMILAR_REFUND")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_does_not_move_where_another_refund_is_in_the_way(#[case] provider: Provider, #[case] why: &str) {
    let name = account_name(provider);
    let [lost, gone, pending] =
        [("lost", 1), ("gone", 2), ("pending", 3)].map(|(id, number)| refund_of(provider, id, number));
    let stack = stack_with_open_refunds(provider, [&lost, &gone, &pending]).await;
    move_login(&stack.simulators);
    let elsewhere = |text: &str| section(text, name, |section| other_login(&renamed(section, name, "other")));
    let stack = stack.restart_as(|text| fast_lookups(&elsewhere(&text), 1, 1_000)).await;
    let rival = |one: &RequestedRefund, id: &str| proto::CreateRefundRequest {
        refund_id: id.to_owned(),
        account: "other".to_owned(),
        ..one.request.clone()
    };
    assert_eq!(stack.refund(rival(&pending, "rival")).await.state(), accepted(provider));
    let before = stack.get("pending").await;
    let refusal = reassign(&stack, reassigning(&before, "other")).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, why));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/rival");
    assert_eq!(stack.get("pending").await, before);

    // Once one refund has moved, both logins are known to have the same books: refunds that ended
    // under the first login count, too.
    let ended = refund_of(provider, "ended", 2);
    let free = proto::CreateRefundRequest { validate_only: true, ..rival(&ended, "late") };
    stack.create(free.clone()).await.unwrap();
    assert_eq!(resolve(&stack, "gone", Resolution::Refunded, true).await.unwrap().state(), State::Succeeded);
    stack.create(free).await.unwrap();
    assert_eq!(reassign_to(&stack, "lost", "other").await.unwrap().account, "other");
    let refusal = stack.create(rival(&ended, "late")).await.unwrap_err();
    is_reason(&refusal, why);
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/gone");
    assert_eq!(stack.until("lost", is_processed).await.state(), accepted(provider));

    // With the former login in the configuration instead, the refund that would be sent stays where
    // it is, too.
    let Stack { simulators, app, dir, refunds } = stack;
    drop(refunds);
    app.stop().await;
    let base = configuration(&simulators, dir.path(), "");
    let former_login = login(provider);
    let text = copied(&base, name, "other", other_login);
    let text =
        section(&text, name, |section| former(&other_login(section), &format!("{{ login = \"{former_login}\" }}")));
    let (gateway, log) = launch(&fast_lookups(&text, 1, 1_000), dir.path(), &[]);
    let mut client = RefundServiceClient::new(channel(gateway.addr).await);
    let request = proto::GetRefundRequest { name: "refunds/pending".to_owned() };
    let left = client.get_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(left, before, "it still waits");
    let is_about_pending = |line: &serde_json::Value| {
        line["level"] == "WARN"
            && line["refund"] == "pending"
            && line.to_string().contains("another refund conflicts, and it waits")
    };
    assert_eq!(log.lines().iter().filter(|line| is_about_pending(line)).count(), 1, "{}", log.text());
    assert_eq!(
        log.count("refunds of an account that is gone or has changed are neither sent nor looked up"),
        1,
        "{}",
        log.text()
    );
    assert!(gateway.terminate().success());
    assert_eq!(effects(&simulators, &pending.target), 1, "the effect of the other refund");
    assert_eq!(effects(&simulators, &lost.target), 1);
    assert_eq!(effects(&simulators, &gone.target), 0);
}

/// A caller that has allowed a similar refund need not allow it again at the new place.
#[rstest]
#[tokio::test]
async fn a_refund_moves_where_its_caller_has_allowed_the_similar_refund(
    #[values(false, true)] by_the_operator: bool,
    #[values(Moved::Host, Moved::Login)] how: Moved,
) {
    let provider = Provider::Debitsuccess;
    let stack = Stack::start_as(|text| slow_lookups(&text, 1)).await;
    let [first, lost, second] = [("first", 1), ("lost", 2), ("second", 1)].map(|(id, n)| refund_of(provider, id, n));
    assert_eq!(stack.refund(first.request.clone()).await.state(), State::Submitted);
    lose(&stack, provider, &lost, Point::BeforeEffect).await;
    let request = without_wait(second.request.clone());
    is_reason(&stack.create(request.clone()).await.unwrap_err(), "SIMILAR_REFUND");
    let request = proto::CreateRefundRequest { allow_similar: true, ..request };
    assert_eq!(stack.refund(request).await.state(), State::Pending);
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, "debitsuccess", |text| match by_the_operator {
        true => renamed(&moved(text, provider, how, &stack.simulators, false), "debitsuccess", "other"),
        false => moved(text, provider, how, &stack.simulators, true),
    });
    move_login(&stack.simulators);
    let stack = stack.restart_as(|_| fast_lookups(&text, 600, 1_000)).await;
    if by_the_operator {
        reassign_to(&stack, "second", "other").await.unwrap();
    }
    assert_eq!(stack.until("second", is_processed).await.state(), State::Submitted);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (2, 2));
}
