//! Sectigo's Validation Manager page as typed data, through the real gRPC API, from the simulator's
//! real JSON.

use std::collections::HashSet;
use std::net::SocketAddr;

use axum::http::header::CONTENT_TYPE;
use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::doubt::Reason;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::validation_status::{MasterAccountState, OrderState, Section};
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use recoup::proto::v1::{Step, StepState, ValidationStatus};
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::request::Provider;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{self, Stack, metadata, reason, wrong_fields};

async fn get(stack: &Stack, request: proto::GetValidationStatusRequest) -> Result<ValidationStatus, Status> {
    let answer = stack.validation().await.get_validation_status(request).await?;
    Ok(answer.into_inner().validation_status.unwrap())
}

fn status_request(order_number: &str) -> proto::GetValidationStatusRequest {
    proto::GetValidationStatusRequest {
        account: "sectigo".to_owned(),
        order_number: order_number.to_owned(),
        ..Default::default()
    }
}

fn step(title: &str, state: StepState, text: &str, description: &str, actions: &[&str]) -> Option<Step> {
    Some(Step {
        title: title.to_owned(),
        state: state.into(),
        state_text: text.to_owned(),
        description: description.to_owned(),
        available_actions: actions.iter().map(|action| (*action).to_owned()).collect(),
    })
}

fn lookups(stack: &Stack) -> usize {
    stack.simulators.journal().iter().filter(|entry| entry.operation == "!getPostPaymentStatus").count()
}

#[tokio::test]
async fn the_documented_sample_is_returned_field_by_field() {
    let stack = Stack::start().await;
    let status = get(&stack, status_request("3000001")).await.unwrap();
    let not_applicable = |title| step(title, StepState::NotApplicable, "NotApplicable", "", &[]);
    let expected = ValidationStatus {
        order_number: "3000001".to_owned(),
        order_state: OrderState::Pending.into(),
        order_status_text: "Pending".to_owned(),
        product_type: 801,
        product_name: "Verified Mark Certificate (VMC)".to_owned(),
        certificate_duration_days: 365,
        product_term_days: 365,
        domain_name: "Multiple domains".to_owned(),
        max_domains: 2,
        csr: Some(proto::CsrStatus {
            step: step(
                "Submit your CSR",
                StepState::Completed,
                "Completed",
                "You have already submitted your CSR.",
                &[],
            ),
        }),
        agreement: Some(proto::AgreementStatus {
            step: step(
                "Agreement Execution",
                StepState::ActionRequired,
                "ActionRequired",
                "",
                &["canUpdateEmailAddress", "resendAgreementEmail"],
            ),
            click_through_state: proto::agreement_status::ClickThroughState::NotExecuted.into(),
            click_through_status_text: "notExecuted".to_owned(),
            click_through_email_address: String::new(),
            last_email_sent_date: "2025-06-11".to_owned(),
            last_open_date: "2025-06-12".to_owned(),
        }),
        callback: Some(proto::CallbackStatus {
            step: not_applicable("Order Authorization"),
            phone_number: String::new(),
        }),
        organization: Some(proto::OrganizationStatus {
            step: not_applicable("Organization Validation"),
            ..Default::default()
        }),
        second_approval: not_applicable("Second Approval"),
        fast_service: not_applicable("Fast Service Certificate"),
        caa_check: Some(proto::CaaCheckStatus { step: not_applicable("CAA Check"), latest_errors: Vec::new() }),
        action_required: vec![Section::Agreement.into()],
        fetch_time: status.fetch_time,
        fingerprint: status.fingerprint.clone(),
        ..Default::default()
    };
    assert_eq!(status, expected);
    assert!(status.fetch_time.is_some() && !status.fingerprint.is_empty());
}

#[tokio::test]
async fn every_section_and_sub_object_is_typed() {
    let stack = Stack::start().await;
    let status =
        get(&stack, proto::GetValidationStatusRequest { include_upload_token: true, ..status_request("3000002") })
            .await
            .unwrap();
    assert_eq!(status.primary_domain_name, "shop.example.com");
    assert_eq!((status.max_domains, status.max_wildcard_domains), (4, 1));
    assert_eq!(status.master_account_state(), MasterAccountState::InProgress);
    assert_eq!(status.master_account_status, Some(2));
    assert_eq!(status.irregular_fields, Vec::<String>::new());
    assert!(status.upload_document_url.starts_with("https://"));
    assert_eq!(status.upload_document_token.split('.').count(), 3);
    assert_eq!(status.csr.unwrap().step.unwrap().available_actions, ["needProvideCSR", "canReplaceCSR"]);

    let dcv = status.dcv.unwrap();
    assert_eq!(dcv.csr_md5, "9E107D9D372BB6826BD81D3542A419D6");
    assert_eq!(dcv.csr_sha256, "D7A8FBB307D7809469CA9ABCB0082E4F8D5651E46D3CDB762D02D0BF37C9E592");
    assert_eq!(dcv.unique_value, "s3000002u1");
    let domains: Vec<_> = dcv.domains.iter().map(|one| (one.domain_name.as_str(), one.state())).collect();
    assert_eq!(domains, [("shop.example.com", StepState::InProgress), ("pay.example.net", StepState::Completed)]);
    for domain in &dcv.domains {
        let types: HashSet<_> = domain.methods.iter().map(proto::DcvMethod::r#type).collect();
        assert_eq!(types.len(), 4);
        assert!(domain.methods.iter().all(|method| !method.options.is_empty() && !method.title.is_empty()));
        let email = domain.methods.iter().find(|one| one.r#type() == proto::dcv_method::Type::Email).unwrap();
        assert!(!email.level.is_empty() && !email.selected_method.is_empty());
    }

    let agreement = status.agreement.unwrap();
    assert_eq!(agreement.click_through_email_address, "legal@example.com");
    let callback = status.callback.unwrap();
    assert_eq!(callback.phone_number, "+1 202-555-0143");
    assert_eq!(callback.step.unwrap().available_actions.len(), 5);
    let organization = status.organization.unwrap();
    for requirement in [
        organization.step,
        organization.organization_name,
        organization.legal_existence,
        organization.assumed_name,
        organization.physical_existence,
        organization.operational_existence,
        organization.trademark_check,
    ] {
        let requirement = requirement.unwrap();
        assert!(!requirement.title.is_empty() && !requirement.description.is_empty());
        assert!(requirement.state() != StepState::Unspecified && requirement.state() != StepState::Unrecognized);
    }
    assert_eq!(status.second_approval.unwrap().state(), StepState::Unknown);
    assert!(status.fast_service.is_some());

    use proto::caa_check_error::Result as Caa;
    let caa = status.caa_check.unwrap();
    let results: Vec<_> = caa.latest_errors.iter().map(proto::CaaCheckError::result).collect();
    assert_eq!(results, [Caa::NotAuthorized, Caa::Timeout, Caa::UnrecognizedCriticalTag]);
    assert_eq!(caa.latest_errors[0].lookup_datetime, "2025-06-12 14:03:22");
    let sections = [Section::Csr, Section::Agreement, Section::Callback, Section::CaaCheck].map(i32::from);
    assert_eq!(status.action_required, sections);
}

#[tokio::test]
async fn the_upload_token_is_left_out_unless_requested() {
    let stack = Stack::start().await;
    let without = get(&stack, status_request("3000002")).await.unwrap();
    assert_eq!(without.upload_document_token, "");
    let with =
        get(&stack, proto::GetValidationStatusRequest { include_upload_token: true, ..status_request("3000002") })
            .await
            .unwrap();
    assert_ne!(with.upload_document_token, "");
    assert_eq!(with.fingerprint, without.fingerprint);
}

#[tokio::test]
async fn a_cached_answer_is_returned_where_max_age_allows_it() {
    let stack = Stack::start().await;
    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let cached = || proto::GetValidationStatusRequest { max_age: hour, ..status_request("1000001") };
    let first = get(&stack, cached()).await.unwrap();
    assert_eq!(get(&stack, cached()).await.unwrap(), first);
    assert_eq!(lookups(&stack), 1);
    // Without max_age the provider is asked.
    get(&stack, status_request("1000001")).await.unwrap();
    assert_eq!(lookups(&stack), 2);
}

#[tokio::test]
async fn a_refund_changes_the_status_and_the_fingerprint() {
    let stack = Stack::start().await;
    let before = get(&stack, status_request("1000001")).await.unwrap();
    stack.refund(crate::support::sectigo("r", "1000001")).await;
    let after = get(&stack, status_request("1000001")).await.unwrap();
    assert_eq!((before.order_state(), after.order_state()), (OrderState::Processed, OrderState::Refunded));
    assert_ne!(before.fingerprint, after.fingerprint);
}

#[rstest]
#[case(proto::GetValidationStatusRequest { account: "unknown".into(), ..status_request("1000001") }, Code::NotFound, "ACCOUNT_NOT_FOUND")]
#[case(proto::GetValidationStatusRequest { account: "namecom".into(), ..status_request("1000001") }, Code::FailedPrecondition, "ACCOUNT_MISMATCH")]
#[case(status_request("7777777"), Code::NotFound, "ORDER_NOT_FOUND")]
#[tokio::test]
async fn an_unknown_order_or_account_is_refused_with_a_reason(
    #[case] request: proto::GetValidationStatusRequest,
    #[case] code: Code,
    #[case] expected: &str,
) {
    let stack = Stack::start().await;
    let refusal = get(&stack, request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, expected));
}

#[tokio::test]
async fn every_invalid_field_is_named() {
    let stack = Stack::start().await;
    #[expect(deprecated, reason = "certificate_id is read for callers that do not use certificate_number yet")]
    let request = proto::GetValidationStatusRequest {
        order_number: "x".repeat(65),
        max_age: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        certificate_id: 5,
        certificate_number: "6".to_owned(),
        ..Default::default()
    };
    let refusal = get(&stack, request).await.unwrap_err();
    assert_eq!(wrong_fields(&refusal), ["account", "certificate_id", "certificate_number", "max_age", "order_number"]);
    assert_eq!(lookups(&stack), 0);
}

#[rstest]
#[case(FaultEffect::Close, Code::Unavailable, "PROVIDER_UNREACHABLE")]
#[case(FaultEffect::Answer { status: 200, body: "<html>".into(), headers: Default::default() }, Code::Internal, "PROVIDER_PROTOCOL")]
#[case(FaultEffect::Answer { status: 200, body: "{\"errorCode\":-16,\"errorMessage\":\"locked\"}".into(), headers: Default::default() }, Code::FailedPrecondition, "PROVIDER_CREDENTIALS_REFUSED")]
#[tokio::test]
async fn an_unusable_answer_of_the_provider_is_not_the_callers_fault(
    #[case] effect: FaultEffect,
    #[case] code: Code,
    #[case] expected: &str,
) {
    let stack = Stack::start().await;
    let rule = Rule::new(Provider::Sectigo, Point::BeforeEffect, effect);
    stack.simulators.arm(Rule { repeat: Repeat::Standing, ..rule }).unwrap();
    let refusal = get(&stack, status_request("3000001")).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, expected));
}

/// Sets the provider's answer to every status request, as UTF-8.
fn answers(stack: &Stack, body: &str) {
    answers_with_repeat(stack, body, Repeat::Standing);
}

fn answers_with_repeat(stack: &Stack, body: &str, repeat: Repeat) {
    let effect = FaultEffect::Answer { status: 200, body: body.to_owned(), headers: Default::default() };
    let operation = Some("!getPostPaymentStatus".to_owned());
    let rule = Rule { repeat, operation, ..Rule::new(Provider::Sectigo, Point::BeforeEffect, effect) };
    stack.simulators.arm(rule).unwrap();
}

fn page(order: &str, members: &str) -> String {
    format!(r#"{{"errorCode":0,"errorMessage":"","data":{{"orderNumber":{order},{members}}}}}"#)
}

#[rstest]
#[case(-14, "An unknown error occurred!", 5)]
#[case(-42, "Call limit reached", 60)]
#[case(-160, "General error", 5)]
#[tokio::test]
async fn a_temporary_error_is_returned_with_the_providers_code(
    #[case] code: i32,
    #[case] message: &str,
    #[case] seconds: u64,
) {
    let stack = Stack::start().await;
    answers(&stack, &format!(r#"{{"errorCode":{code},"errorMessage":"{message}"}}"#));
    let refusal = get(&stack, status_request("3000001")).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::Unavailable, "PROVIDER_UNREACHABLE"));
    assert_eq!(metadata(&refusal, "provider_code"), code.to_string());
    assert_eq!(metadata(&refusal, "provider_message"), message);
    let wait = refusal.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(wait.as_secs(), seconds);
}

/// Every kind of undocumented field on one page, after a byte order mark.
#[tokio::test]
async fn irregular_fields_are_left_out_and_named() {
    let stack = Stack::start().await;
    let members = r#"
        "orderStatus":"Somewhat New","productType":"801","certificateDuration":99999999999,"productTerm":{},
        "productName":801,"domainName":["a.example"],"maStatus":7,"uploadDocumentUrl":"http://upload.example",
        "csrStatus":[],
        "dcvStatus":{"title":"a\u0007\u200bb","status":"Done","domains":
            {"domainName":"b.example","dcvStatus":"Soon","methods":[{"type":"dns","options":"one"},7]}},
        "agreementStatus":{"clickThroughStatus":"Later"},
        "callbackStatus":"Completed",
        "fsupStatus":{"description":"LONG","availableActions":["a",["b"]]}"#;
    let long = "x".repeat(5_000);
    answers(&stack, &format!("\u{feff}{}", page("3000002", &members.replace("LONG", &long))));
    let status = get(&stack, status_request("3000002")).await.unwrap();

    assert_eq!((status.order_state(), status.order_status_text.as_str()), (OrderState::Unrecognized, "Somewhat New"));
    assert_eq!((status.product_type, status.product_name.as_str()), (801, "801"));
    assert_eq!((status.certificate_duration_days, status.product_term_days), (0, 0));
    assert_eq!((status.domain_name.as_str(), status.upload_document_url.as_str()), ("", ""));
    assert_eq!(status.master_account_state(), MasterAccountState::Unrecognized);
    assert_eq!(status.master_account_status, Some(7));
    assert_eq!((status.csr, status.callback), (None, None));
    let agreement = status.agreement.unwrap();
    assert_eq!(agreement.click_through_status_text, "Later");
    let dcv = status.dcv.unwrap();
    let step = dcv.step.unwrap();
    assert_eq!((step.title.as_str(), step.state_text.as_str()), ("a\\u{7}\\u{200b}b", "Done"));
    let domain = &dcv.domains[0];
    assert_eq!((domain.domain_name.as_str(), domain.state_text.as_str()), ("b.example", "Soon"));
    assert_eq!((domain.methods.len(), domain.methods[0].type_text.as_str()), (1, "dns"));
    assert_eq!(domain.methods[0].options, ["one"]);
    let fast = status.fast_service.unwrap();
    assert_eq!((fast.description, fast.available_actions), (long[..512].to_owned(), vec!["a".to_owned()]));
    let expected = [
        "orderNumber",
        "productType",
        "productName",
        "certificateDuration",
        "productTerm",
        "domainName",
        "uploadDocumentUrl",
        "csrStatus",
        "dcvStatus.domains",
        "dcvStatus.domains.methods[0].options",
        "dcvStatus.domains.methods[1]",
        "callbackStatus",
        "fsupStatus.description",
        "fsupStatus.availableActions[1]",
    ];
    assert_eq!(status.irregular_fields, expected.map(|path| format!("data.{path}")));
}

#[tokio::test]
async fn the_fingerprint_changes_exactly_when_the_answer_does() {
    let stack = Stack::start().await;
    let mut seen = Vec::new();
    let first = r#""orderStatus":"Pending","productName":"NAME","maStatus":99999999999"#;
    let long = "x".repeat(600);
    for (members, is_new) in [
        (first.to_owned(), true),
        (first.replace(",", " ,\n"), false),
        (first.replace("NAME", &long), true),
        // Beyond the part that is returned.
        (first.replace("NAME", &format!("{long}y")), true),
        // Left out in both cases.
        (first.replace("9999", "8888"), true),
        (first.replace("NAME", "A\\u0007"), true),
        (first.replace("NAME", "A\\\\u{7}"), true),
        (r#""unknown":1,"#.to_owned() + first, false),
    ] {
        answers_with_repeat(&stack, &page("\"3000001\"", &members), Repeat::Times(1));
        let fingerprint = get(&stack, status_request("3000001")).await.unwrap().fingerprint;
        assert_eq!(!seen.contains(&fingerprint), is_new, "{members}");
        seen.push(fingerprint);
    }
}

/// A provider that answers every request with these bytes.
async fn provider_answering(content_type: &'static str, body: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(move || async move { ([(CONTENT_TYPE, content_type)], body) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

#[rstest]
#[case::named("application/json; charset=windows-1252", "Stra\u{df}e \u{20ac}", &[])]
#[case::not_named("application/json", "", &["data.productName"])]
#[tokio::test]
async fn a_page_is_decoded_with_the_charset_that_it_names(
    #[case] content_type: &'static str,
    #[case] name: &str,
    #[case] irregular: &[&str],
) {
    let body = b"{\"errorCode\":0,\"data\":{\"orderNumber\":\"1\",\"orderStatus\":\"Pending\",\"productName\":\"Stra\xDFe \x80\"}}";
    let provider = provider_answering(content_type, body).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), "").unwrap();
    let configuration = support::configuration_at(provider, provider, provider, dir.path(), "")
        .replace(&format!("https://{provider}"), &format!("http://{provider}"))
        .lines()
        .filter(|line| !line.starts_with("ca_file"))
        .collect::<Vec<_>>()
        .join("\n");
    let app = App::start(support::settings_of(&configuration, dir.path())).await.unwrap();
    let mut client = ValidationStatusServiceClient::new(support::channel(app.addr()).await);
    let status =
        client.get_validation_status(status_request("1")).await.unwrap().into_inner().validation_status.unwrap();
    assert_eq!((status.order_state(), status.product_name.as_str()), (OrderState::Pending, name));
    assert_eq!(status.irregular_fields, irregular);
}

#[tokio::test]
async fn a_large_certificate_number_is_sent_exactly() {
    let stack = Stack::start().await;
    let request = proto::GetValidationStatusRequest {
        certificate_number: "9007199254740993".to_owned(),
        ..status_request("3000002")
    };
    get(&stack, request).await.unwrap();
    let journal = stack.simulators.journal();
    let sent = format!("{:?}", journal.last().unwrap());
    assert!(sent.contains("9007199254740993"), "{sent}");
}

/// A refund whose answer is lost, at a provider with this answer to lookups.
async fn lost(stack: &Stack, order: &str, members: &str) -> proto::Refund {
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Times(1));
    let refund = stack.refund(support::sectigo("lost", "1000001")).await;
    assert_eq!(refund.state(), State::InDoubt);
    answers(stack, &page(order, members));
    stack.reconcile("lost").await.unwrap()
}

#[rstest]
#[case::in_the_order(
    "[1],\"maStatus\":1e999,\"csrStatus\":\"\\ud800\",\"productType\":4294967296,\"domainName\":{\"a\":1}"
)]
#[case::sections(
    "1,\"dcvStatus\":[{},{}],\"organizationStatus\":7,\"csrStatus\":{\"status\":{}},\"uploadDocumentToken\":[]"
)]
#[tokio::test]
async fn an_irregular_field_does_not_make_a_lookup_inconclusive(#[case] irregular: &str) {
    let stack = Stack::start().await;
    let refund = lost(&stack, "1000001", &format!(r#""orderStatus":"Refunded","productName":{irregular}"#)).await;
    assert_eq!((refund.state(), refund.provider_status.as_str()), (State::Succeeded, "Refunded"));
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (1, 1));
}

#[rstest]
#[case::another_order("1000002", "Refunded", "not for this order")]
#[case::no_order("null", "Refunded", "not for this order")]
#[case::a_blank("1000001", "Refunded ", "orderStatus is \"Refunded \"")]
#[case::another_case("1000001", "REFUNDED", "orderStatus is \"REFUNDED\"")]
#[case::an_invisible_character("1000001", "Refunded\\u200b", "orderStatus is \"Refunded\\u{200b}\"")]
#[tokio::test]
async fn the_evidence_shows_the_unexpected_answer(#[case] order: &str, #[case] status: &str, #[case] evidence: &str) {
    let stack = Stack::start().await;
    let refund = lost(&stack, order, &format!(r#""orderStatus":"{status}""#)).await;
    assert_eq!(refund.state(), State::InDoubt);
    let seen = refund.doubt.unwrap().last_evidence;
    assert!(seen.contains(evidence), "{seen}");
    assert_eq!(stack.attempts("1000001"), 1);
}

#[rstest]
#[case::on_its_line("0 Refund refused")]
#[case::on_the_next_line("0\nRefund refused")]
#[tokio::test]
async fn a_zero_with_more_text_is_in_doubt_and_looked_up_immediately(#[case] body: &str) {
    let stack = Stack::start().await;
    let effect = FaultEffect::Answer { status: 200, body: body.to_owned(), headers: Default::default() };
    stack.arm(Provider::Sectigo, Point::BeforeEffect, effect, Repeat::Times(1));
    let refund = stack.refund(support::sectigo("r", "1000001")).await;
    assert_eq!((refund.state(), refund.doubt.unwrap().reason()), (State::InDoubt, Reason::UnreadableReply));
    // The first scheduled lookup would be after ten seconds.
    let seen = stack.until("r", |refund| refund.doubt.as_ref().is_some_and(|doubt| doubt.check_count > 0)).await;
    let waited = seen.update_time.unwrap().seconds - refund.update_time.unwrap().seconds;
    assert!(waited < 5, "{waited} s");
    assert_eq!(seen.doubt.unwrap().last_evidence, "orderStatus is \"Processed\"");
    assert_eq!((stack.effects("1000001"), stack.attempts("1000001")), (0, 1));
}

#[tokio::test]
async fn a_blank_after_a_code_is_ignored() {
    let stack = Stack::start().await;
    let body = "-18 \r\nThe applicable refund period is over.".to_owned();
    let effect = FaultEffect::Answer { status: 200, body, headers: Default::default() };
    stack.arm(Provider::Sectigo, Point::BeforeEffect, effect, Repeat::Times(1));
    let refund = stack.refund(support::sectigo("r", "1000001")).await;
    assert_eq!((refund.state(), refund.provider_error.unwrap().code.as_str()), (State::Failed, "-18"));
    assert_eq!(stack.effects("1000001"), 0);
}

#[tokio::test]
async fn invisible_characters_are_refused_in_every_field() {
    let stack = Stack::start().await;
    let mut request = support::debitsuccess("r", "DS\u{200b}1", 100);
    request.labels.insert("team".to_owned(), "a\u{202e}b".to_owned());
    let Some(proto::create_refund_request::Target::Debitsuccess(target)) = &mut request.target else { unreachable!() };
    target.description = "line\nbreak\tand tab".to_owned();
    target.request_initiator = "a\nb".to_owned();
    let refusal = stack.create(request).await.unwrap_err();
    let wrong = [
        "debitsuccess.account_reference_no",
        "debitsuccess.description",
        "debitsuccess.request_initiator",
        "labels[\"team\"]",
    ];
    assert_eq!(wrong_fields(&refusal), wrong);
    assert_eq!(stack.attempts("DS\u{200b}1"), 0);
}
