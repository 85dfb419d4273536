//! A refund is created once, returned truly, and never done twice.

use std::collections::HashMap;

use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::provider_error::Category;
use recoup::proto::v1::refund::{MoneyVerdict, SideEffect, State};
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Stack, debitsuccess, metadata, namecom, reason, sample_request, sectigo, wrong_fields};

#[rstest]
#[case(Provider::Sectigo, State::Succeeded)]
#[case(Provider::Namecom, State::Succeeded)]
#[case(Provider::Debitsuccess, State::Submitted)]
#[tokio::test]
async fn a_first_refund_reaches_its_provider_once(#[case] provider: Provider, #[case] end: State) {
    let stack = Stack::start().await;
    let (request, target, in_journal) = sample_request(provider, "first");
    let answer = stack.create(request.clone()).await.unwrap();
    assert!(!answer.replayed);
    let refund = answer.refund.unwrap();
    assert_eq!(refund.state(), end);
    assert_eq!(refund.name, "refunds/first");
    assert_eq!(refund.attempt_count, 1);
    assert!(refund.doubt.is_none() && refund.provider_error.is_none());
    assert!(refund.dispatch_time.is_some());
    assert_eq!(refund.complete_time.is_some(), end == State::Succeeded);

    // The same id and content again: the same refund, and no request to the provider.
    for _ in 0..3 {
        let again = stack.create(request.clone()).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.refund.unwrap(), refund);
    }
    assert_eq!((stack.effects(target), stack.attempts(in_journal)), (1, 1));
}

#[tokio::test]
async fn a_refund_shows_what_its_provider_answered() {
    let stack = Stack::start().await;
    let by_sectigo = stack.refund(sectigo("s", "1000002")).await;
    assert_eq!(by_sectigo.refunded_amount, None, "Sectigo never returns an amount");
    assert_eq!(by_sectigo.money_verdict(), MoneyVerdict::Moved);
    assert_eq!(by_sectigo.side_effects().collect::<Vec<_>>(), [SideEffect::OrderCancelled]);

    let by_namecom = stack.refund(namecom("n", 123_456, &[987_654])).await;
    assert_eq!(by_namecom.refunded_amount, Some(proto::Money { currency_code: "USD".into(), minor_units: 1598 }));
    let items: Vec<_> = by_namecom.items.iter().map(|item| (item.item_id.as_str(), item.requested)).collect();
    assert_eq!(
        items,
        [("987654", true), ("987655", false)],
        "the privacy item is refunded together with its registration"
    );

    let by_debitsuccess = stack.refund(debitsuccess("d", "DS000002", 1250)).await;
    assert_eq!(by_debitsuccess.provider_status, "Submitted");
    assert!(!by_debitsuccess.provider_reference.is_empty());
    assert_eq!(by_debitsuccess.money_verdict(), MoneyVerdict::MayHaveMoved);
    let book = stack.simulators.books().into_iter().find(|entry| entry.effect.target == "DS000002").unwrap();
    assert_eq!((book.effect.amount_minor, book.effect.identifier.as_deref()), (Some(1250), Some("d")));
}

#[tokio::test]
async fn other_content_under_a_known_id_is_refused_with_the_differing_fields() {
    let stack = Stack::start().await;
    stack.refund(sectigo("known", "1000001")).await;
    let mut other = sectigo("known", "1000002");
    other.labels = HashMap::from([("ticket".to_owned(), "7".to_owned())]);
    let refusal = stack.create(other).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::AlreadyExists, "REFUND_ID_REUSED"));
    assert_eq!(metadata(&refusal, "differing_fields"), "sectigo.order_number,labels");
    assert_eq!(stack.effects("1000002"), 0);
}

/// Every refusal in the demo data: the provider's code, the category, and no effect in the books.
#[rstest]
#[case::multi_domain(sectigo("r", "2000001"), "-18", Category::NotEligible)]
#[case::period_over(sectigo("r", "2000002"), "-18", Category::RefundPeriodOver)]
#[case::already_refunded(sectigo("r", "2000003"), "-18", Category::AlreadyRefunded)]
#[case::no_such_sectigo_order(sectigo("r", "7777777"), "-16", Category::PermissionDenied)]
#[case::renewal(namecom("r", 300_001, &[3_300_001]), "400", Category::NotEligible)]
#[case::agp_over(namecom("r", 300_002, &[3_300_002]), "423", Category::RefundPeriodOver)]
#[case::over_threshold(namecom("r", 300_003, &[3_300_003]), "409", Category::LimitReached)]
#[case::no_such_order(namecom("r", 999, &[1]), "404", Category::TargetNotFound)]
#[case::foreign_item(namecom("r", 200_001, &[3_200_002]), "404", Category::TargetNotFound)]
#[case::no_such_account(debitsuccess("r", "UNKNOWN", 100), "08", Category::TargetNotFound)]
#[case::too_much(debitsuccess("r", "DS000001", 50_001), "13040", Category::AmountTooLarge)]
#[tokio::test]
async fn a_providers_refusal_is_a_state_of_the_refund_and_not_an_error_of_the_call(
    #[case] request: proto::CreateRefundRequest,
    #[case] code: &str,
    #[case] category: Category,
) {
    let stack = Stack::start().await;
    let refund = stack.refund(request).await;
    assert_eq!(refund.state(), State::Failed);
    let error = refund.provider_error.unwrap();
    assert_eq!((error.code.as_str(), error.category()), (code, category));
    assert!(!error.message.is_empty());
    assert_eq!(stack.simulators.books().len(), 0);
}

#[tokio::test]
async fn an_external_reference_that_names_two_accounts_is_ambiguous() {
    let stack = Stack::start().await;
    let mut request = debitsuccess("twice", "", 100);
    if let Some(Target::Debitsuccess(target)) = request.target.as_mut() {
        target.external_account_reference_no = "EXT-TWICE".to_owned();
    }
    let refund = stack.refund(request).await;
    assert_eq!(refund.state(), State::Failed);
    let error = refund.provider_error.unwrap();
    assert_eq!((error.code.as_str(), error.category()), ("07", Category::TargetAmbiguous));
    assert_eq!(stack.simulators.books().len(), 0);
}

#[tokio::test]
async fn every_invalid_field_is_named_and_nothing_is_recorded() {
    let stack = Stack::start().await;
    let request = proto::CreateRefundRequest {
        refund_id: "not a name".to_owned(),
        account: "Not An Account".to_owned(),
        target: Some(Target::Debitsuccess(proto::DebitsuccessTarget::default())),
        labels: HashMap::from([(String::new(), "x".repeat(257))]),
        wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    let refusal = stack.create(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let expected = [
        "account",
        "debitsuccess.account_reference_no",
        "debitsuccess.amount",
        "debitsuccess.description",
        "labels[\"\"]",
        "labels[\"\"]",
        "refund_id",
        "wait",
    ];
    assert_eq!(wrong_fields(&refusal), expected);

    let nothing = proto::CreateRefundRequest::default();
    assert_eq!(wrong_fields(&stack.create(nothing).await.unwrap_err()), ["account", "refund_id", "target"]);
    let listed = stack.refunds.clone().list_refunds(proto::ListRefundsRequest::default()).await.unwrap().into_inner();
    assert!(listed.refunds.is_empty());
    assert!(stack.simulators.journal().is_empty());
}

#[rstest]
#[case::unknown_account(proto::CreateRefundRequest { account: "unknown".into(), ..sectigo("x", "1000001") }, Code::NotFound, "ACCOUNT_NOT_FOUND")]
#[case::other_provider(proto::CreateRefundRequest { account: "namecom".into(), ..sectigo("x", "1000001") }, Code::FailedPrecondition, "ACCOUNT_MISMATCH")]
#[tokio::test]
async fn an_unknown_or_unsuitable_account_is_refused(
    #[case] request: proto::CreateRefundRequest,
    #[case] code: Code,
    #[case] expected: &str,
) {
    let stack = Stack::start().await;
    let refusal = stack.create(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, expected));
    assert_eq!(stack.find("x").await, None);
    assert!(stack.simulators.journal().is_empty());
}

#[tokio::test]
async fn an_amount_in_another_currency_is_refused() {
    let stack = Stack::start().await;
    let mut request = debitsuccess("usd", "DS000001", 100);
    if let Some(Target::Debitsuccess(target)) = request.target.as_mut() {
        target.amount = Some(proto::Money { currency_code: "USD".into(), minor_units: 100 });
    }
    let refusal = stack.create(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(wrong_fields(&refusal), ["debitsuccess.amount.currency_code"]);
    assert_eq!(stack.find("usd").await, None);
    assert!(stack.simulators.journal().is_empty());
}

#[rstest]
#[case(sectigo("second", "1000001"))]
#[case(sectigo("second", "0001000001"))]
#[tokio::test]
async fn a_target_with_a_refund_gets_no_second_one(#[case] second: proto::CreateRefundRequest) {
    let stack = Stack::start().await;
    stack.refund(sectigo("first", "1000001")).await;
    let refusal = stack.create(second).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "TARGET_HAS_REFUND"));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/first");
    assert_eq!(stack.find("second").await, None);
    assert_eq!((stack.simulators.books().len(), stack.simulators.journal().len()), (1, 1));
}

#[tokio::test]
async fn a_refused_refund_releases_its_target() {
    let stack = Stack::start().await;
    for id in ["one", "two"] {
        assert_eq!(stack.refund(sectigo(id, "2000001")).await.state(), State::Failed);
    }
    assert_eq!((stack.effects("2000001"), stack.attempts("2000001")), (0, 2), "each was sent");
}

#[tokio::test]
async fn a_similar_refund_needs_allow_similar() {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("a", "DS000003", 700)).await;
    let refusal = stack.create(debitsuccess("b", "DS000003", 700)).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "SIMILAR_REFUND"));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/a");
    stack.refund(debitsuccess("c", "DS000003", 701)).await;
    let allowed = proto::CreateRefundRequest { allow_similar: true, ..debitsuccess("b", "DS000003", 700) };
    assert_eq!(stack.refund(allowed).await.state(), State::Submitted);
    assert_eq!(stack.effects("DS000003"), 3);
}

/// A refund of a payee by one or both of its references at Debitsuccess.
fn payee(id: &str, account: &str, external: &str, minor_units: i64) -> proto::CreateRefundRequest {
    let mut request = debitsuccess(id, account, minor_units);
    if let Some(Target::Debitsuccess(target)) = request.target.as_mut() {
        target.external_account_reference_no = external.to_owned();
    }
    request
}

/// A refund with both references shows that they name one payee.
#[rstest]
#[case::by_its_own(payee("later", "DS000003", "", 700), "first")]
#[case::by_ours(payee("later", "", "EXT-000003", 700), "first")]
#[case::by_both(payee("later", "DS000003", "EXT-000003", 700), "first")]
#[case::one_that_gave_the_other_alone(payee("later", "", "EXT-000003", 900), "before")]
#[tokio::test]
async fn a_payee_is_recognised_by_either_reference(#[case] later: proto::CreateRefundRequest, #[case] like: &str) {
    let stack = Stack::start().await;
    stack.refund(payee("before", "DS000003", "", 900)).await;
    stack.refund(payee("first", "DS000003", "EXT-000003", 700)).await;
    let refusal = stack.create(later).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "SIMILAR_REFUND"));
    assert_eq!(metadata(&refusal, "conflicting_refund"), format!("refunds/{like}"));
    assert_eq!(stack.refund(payee("other", "", "EXT-000003", 701)).await.state(), State::Submitted);
    assert_eq!(stack.effects("DS000003"), 3);
}

/// The payee does not depend on the login.
#[rstest]
#[case::the_same_account("debitsuccess", "")]
#[case::another_account("moved", "former = [{ login = \"demo\" }]\n")]
#[tokio::test]
async fn a_similar_refund_is_recognised_under_another_login(#[case] account: &str, #[case] former: &str) {
    let stack = Stack::start().await;
    stack.refund(debitsuccess("first", "DS000003", 700)).await;
    let stack = stack
        .restart_as(|configuration| {
            let named = configuration.replace("[accounts.debitsuccess]", &format!("[accounts.{account}]"));
            named.replace("username = \"demo\"", &format!("username = \"demo-2\"\n{former}"))
        })
        .await;
    let like = proto::CreateRefundRequest { account: account.to_owned(), ..debitsuccess("later", "DS000003", 700) };
    let refusal = stack.create(like).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "SIMILAR_REFUND"));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/first");
    assert_eq!((stack.effects("DS000003"), stack.attempts("DS000003")), (1, 1));
}

/// Providers may compare keys case-insensitively, and so do people.
#[rstest]
#[case::the_same_refund(sectigo("case-a", "1000001"))]
#[case::another_refund(sectigo("CASE-A", "1000002"))]
#[case::at_another_provider(namecom("case-A", 200_001, &[3_200_001]))]
#[tokio::test]
async fn an_id_that_differs_only_in_case_is_in_use(#[case] request: proto::CreateRefundRequest) {
    let stack = Stack::start().await;
    stack.refund(sectigo("Case-A", "1000001")).await;
    let id = request.refund_id.clone();
    for validate_only in [true, false] {
        let refusal = stack.create(proto::CreateRefundRequest { validate_only, ..request.clone() }).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::AlreadyExists, "REFUND_ID_REUSED"));
        let details = refusal.get_error_details();
        assert!(!details.error_info().unwrap().metadata.contains_key("differing_fields"), "{details:?}");
        assert_eq!(details.resource_info().unwrap().resource_name, "refunds/Case-A");
    }
    assert_eq!(stack.find(&id).await, None, "the id is found only as it was written");
    assert_eq!((stack.simulators.books().len(), stack.simulators.journal().len()), (1, 1));
}

/// Only side effects that happened or may have happened, not those that the provider is able to
/// have.
#[rstest]
#[case::sectigo_refunded(sectigo("r", "1000001"), None, State::Succeeded, &[SideEffect::OrderCancelled])]
#[case::sectigo_refused(sectigo("r", "2000001"), None, State::Failed, &[])]
#[case::sectigo_in_doubt(
    sectigo("r", "1000001"),
    Some(Provider::Sectigo),
    State::InDoubt,
    &[SideEffect::OrderCancelled]
)]
#[case::domain_alone(namecom("r", 200_001, &[3_200_001]), None, State::Succeeded, &[SideEffect::DomainDeleted])]
#[case::domain_with_its_privacy(
    namecom("r", 123_456, &[987_654]),
    None,
    State::Succeeded,
    &[SideEffect::DomainDeleted, SideEffect::AttachedItemsRefunded]
)]
#[case::domain_refused(namecom("r", 300_001, &[3_300_001]), None, State::Failed, &[])]
#[case::domain_in_doubt(
    namecom("r", 200_001, &[3_200_001]),
    Some(Provider::Namecom),
    State::InDoubt,
    &[SideEffect::DomainDeleted, SideEffect::AttachedItemsRefunded]
)]
#[case::not_processed(namecom("r", 400_401, &[3_400_401]), None, State::Pending, &[])]
#[case::debit_taken(debitsuccess("r", "DS000001", 700), None, State::Submitted, &[SideEffect::ServiceFeeCharged])]
#[case::debit_refused(debitsuccess("r", "DSCODE13040", 700), None, State::Failed, &[])]
#[case::debit_in_doubt(
    debitsuccess("r", "DS000001", 700),
    Some(Provider::Debitsuccess),
    State::InDoubt,
    &[SideEffect::ServiceFeeCharged]
)]
#[tokio::test]
async fn side_effects_are_those_that_happened_or_may_have_happened(
    #[case] request: proto::CreateRefundRequest,
    #[case] lost: Option<Provider>,
    #[case] state: State,
    #[case] expected: &[SideEffect],
) {
    let stack = Stack::start_with("engine.lookups_after_ms = \"3600000\"").await;
    let would_be = stack.refund(proto::CreateRefundRequest { validate_only: true, ..request.clone() }).await;
    let possible: &[SideEffect] = match request.target.as_ref().unwrap() {
        Target::Sectigo(_) => &[SideEffect::OrderCancelled],
        Target::Namecom(_) => &[SideEffect::DomainDeleted, SideEffect::AttachedItemsRefunded],
        Target::Debitsuccess(_) => &[SideEffect::ServiceFeeCharged],
    };
    assert_eq!(
        would_be.side_effects().collect::<Vec<_>>(),
        possible,
        "a dry run shows every side effect that can happen"
    );
    if let Some(provider) = lost {
        stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    }
    let refund = stack.refund(request).await;
    assert_eq!((refund.state(), refund.side_effects().collect::<Vec<_>>().as_slice()), (state, expected));
    let moved = matches!(state, State::Succeeded | State::Submitted);
    assert_eq!(stack.simulators.books().iter().any(|entry| entry.effect.kind == "refund"), moved);
}

#[tokio::test]
async fn validate_only_checks_everything_and_records_nothing() {
    let stack = Stack::start().await;
    let ask = |request| proto::CreateRefundRequest { validate_only: true, ..request };
    let would_be = stack.refund(ask(sectigo("v", "1000001"))).await;
    assert_eq!((would_be.state(), would_be.attempt_count), (State::Pending, 0));
    assert!(stack.simulators.journal().is_empty());
    let request = proto::GetRefundRequest { name: "refunds/v".to_owned() };
    let refusal = stack.refunds.clone().get_refund(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::NotFound, "REFUND_NOT_FOUND"));

    stack.refund(sectigo("first", "1000001")).await;
    let refusal = stack.create(ask(sectigo("v", "1000001"))).await.unwrap_err();
    assert_eq!(reason(&refusal), "TARGET_HAS_REFUND");
    let known = stack.create(ask(sectigo("first", "1000001"))).await.unwrap();
    assert!(known.replayed);
    let wrong = stack.create(ask(sectigo("not a name", ""))).await.unwrap_err();
    assert_eq!(wrong_fields(&wrong), ["refund_id", "sectigo.order_number"]);
    assert_eq!((stack.effects("1000001"), stack.simulators.journal().len()), (1, 1));
}

#[tokio::test]
async fn a_hundred_concurrent_calls_with_one_id_make_one_refund() {
    let stack = Stack::start().await;
    let calls = (0..100).map(|_| stack.create(sectigo("crowd", "1000005")));
    let answers: Vec<_> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.refund.as_ref().unwrap().state() == State::Succeeded));
    assert_eq!((stack.effects("1000005"), stack.attempts("1000005")), (1, 1));
}

#[tokio::test]
async fn a_hundred_concurrent_refunds_of_one_order_have_one_effect() {
    let stack = Stack::start().await;
    let calls = (0..100).map(|index| stack.create(sectigo(&format!("racer-{index}"), "1000006")));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(
        answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| reason(error) == "TARGET_HAS_REFUND")
    );
    assert_eq!((stack.effects("1000006"), stack.attempts("1000006")), (1, 1));
}

#[tokio::test]
async fn accounts_are_listed_without_a_secret() {
    let stack = Stack::start().await;
    let listed = stack.accounts().await.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner();
    let shown = format!("{listed:?}");
    assert!(!shown.contains("demo-password") && !shown.contains("demo-token"));
    let names: Vec<_> = listed.accounts.iter().map(|one| (one.account.as_str(), one.currency_code.as_str())).collect();
    assert_eq!(names, [("debitsuccess", "AUD"), ("namecom", "USD"), ("sectigo", "USD")]);
    let sectigo = listed.accounts.iter().find(|one| one.account == "sectigo").unwrap();
    assert_eq!(sectigo.endpoint, format!("https://{}", stack.simulators.sectigo_addr()));
    assert_eq!(sectigo.health(), proto::account::Health::Serving);
    let contract = sectigo.retry_contract.as_ref().unwrap();
    assert_eq!(contract.deduplication(), proto::retry_contract::Deduplication::None);
}
