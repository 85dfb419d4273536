//! Sectigo's Validation Manager page as typed data, through the real port, from the simulator's real JSON.

use std::collections::HashSet;

use recoup::proto::v1 as proto;
use recoup::proto::v1::validation_status::{MasterAccountState, OrderState, Section};
use recoup::proto::v1::{Step, StepState, ValidationStatus};
use rstest::rstest;
use simulators::exchange::Provider;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use tonic::{Code, Status};

use crate::support::{Stack, reason, wrong_fields};

async fn get(stack: &Stack, request: proto::GetValidationStatusRequest) -> Result<ValidationStatus, Status> {
    let answer = stack.validation().await.get_validation_status(request).await?;
    Ok(answer.into_inner().validation_status.unwrap())
}

fn ask(order_number: &str) -> proto::GetValidationStatusRequest {
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
async fn the_documents_sample_comes_back_field_for_field() {
    let stack = Stack::start().await;
    let status = get(&stack, ask("3000001")).await.unwrap();
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
            click_through_email_address: String::new(),
            last_email_sent_date: "2025-06-11".to_owned(),
            last_open_date: "2025-06-12".to_owned(),
            ..Default::default()
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
async fn every_section_and_sub_object_has_its_typed_place() {
    let stack = Stack::start().await;
    let status =
        get(&stack, proto::GetValidationStatusRequest { include_upload_token: true, ..ask("3000002") }).await.unwrap();
    assert_eq!(status.primary_domain_name, "shop.example.com");
    assert_eq!((status.max_domains, status.max_wildcard_domains), (4, 1));
    assert_eq!(status.master_account_state(), MasterAccountState::InProgress);
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
async fn the_token_is_left_out_unless_asked_for() {
    let stack = Stack::start().await;
    let without = get(&stack, ask("3000002")).await.unwrap();
    assert_eq!(without.upload_document_token, "");
    let with =
        get(&stack, proto::GetValidationStatusRequest { include_upload_token: true, ..ask("3000002") }).await.unwrap();
    assert_ne!(with.upload_document_token, "");
    assert_eq!(with.fingerprint, without.fingerprint);
}

#[tokio::test]
async fn a_cached_answer_will_do_where_the_caller_says_so() {
    let stack = Stack::start().await;
    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let cached = || proto::GetValidationStatusRequest { max_age: hour, ..ask("1000001") };
    let first = get(&stack, cached()).await.unwrap();
    assert_eq!(get(&stack, cached()).await.unwrap(), first);
    assert_eq!(lookups(&stack), 1);
    // Unset means: ask the provider.
    get(&stack, ask("1000001")).await.unwrap();
    assert_eq!(lookups(&stack), 2);
}

#[tokio::test]
async fn a_refund_shows_in_the_status_and_in_the_fingerprint() {
    let stack = Stack::start().await;
    let before = get(&stack, ask("1000001")).await.unwrap();
    stack.refund(crate::support::sectigo("r", "1000001")).await;
    let after = get(&stack, ask("1000001")).await.unwrap();
    assert_eq!((before.order_state(), after.order_state()), (OrderState::Processed, OrderState::Refunded));
    assert_ne!(before.fingerprint, after.fingerprint);
}

#[rstest]
#[case(proto::GetValidationStatusRequest { account: "nobody".into(), ..ask("1000001") }, Code::NotFound, "ACCOUNT_NOT_FOUND")]
#[case(proto::GetValidationStatusRequest { account: "namecom".into(), ..ask("1000001") }, Code::FailedPrecondition, "ACCOUNT_MISMATCH")]
#[case(ask("7777777"), Code::NotFound, "ORDER_NOT_FOUND")]
#[tokio::test]
async fn what_cannot_be_told_is_explained(
    #[case] request: proto::GetValidationStatusRequest,
    #[case] code: Code,
    #[case] word: &str,
) {
    let stack = Stack::start().await;
    let refusal = get(&stack, request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, word));
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let stack = Stack::start().await;
    let request = proto::GetValidationStatusRequest {
        order_number: "x".repeat(65),
        max_age: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        certificate_id: -1,
        ..Default::default()
    };
    let refusal = get(&stack, request).await.unwrap_err();
    assert_eq!(wrong_fields(&refusal), ["account", "certificate_id", "max_age", "order_number"]);
    assert_eq!(lookups(&stack), 0);
}

#[rstest]
#[case(FaultEffect::Close, Code::Unavailable, "PROVIDER_UNREACHABLE")]
#[case(FaultEffect::Answer { status: 200, body: "<html>".into(), headers: Default::default() }, Code::Internal, "PROVIDER_PROTOCOL")]
#[case(FaultEffect::Answer { status: 200, body: "{\"errorCode\":-16,\"errorMessage\":\"locked\"}".into(), headers: Default::default() }, Code::FailedPrecondition, "PROVIDER_CREDENTIALS_REFUSED")]
#[tokio::test]
async fn a_provider_that_answers_badly_is_not_the_callers_fault(
    #[case] effect: FaultEffect,
    #[case] code: Code,
    #[case] word: &str,
) {
    let stack = Stack::start().await;
    let rule = Rule::new(Provider::Sectigo, Point::BeforeEffect, effect);
    stack.simulators.arm(Rule { repeat: Repeat::Standing, ..rule }).unwrap();
    let refusal = get(&stack, ask("3000001")).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, word));
}
