//! `ValidationStatusService`: each handler converts the request, calls [`Validation`], and converts
//! the answer.

use futures_util::stream::{self, BoxStream};
use secrecy::ExposeSecret;
use tonic::{Request, Response, Status};

use crate::access::scope::Scope;
use crate::api::convert::{self, Violations};
use crate::api::deadline::Deadline;
use crate::api::layers::authentication::Grant;
use crate::api::layers::permits::CallPermit;
use crate::api::status;
use crate::domain::authority::Authority;
use crate::domain::ids::AccountName;
use crate::domain::validation::{
    AgreementStatus, CaaCheckError, CaaCheckResult, CaaCheckStatus, CallbackStatus, ClickThroughState, CsrStatus,
    DcvMethod, DcvMethodKind, DcvStatus, DomainValidation, KnownValues, MasterAccountState, OpenEnum, OrderKey,
    OrderState, OrganizationStatus, Section, SectionStep, StepState, ValidationStatus,
};
use crate::proto::v1 as proto;
use crate::proto::v1::validation_status_service_server::ValidationStatusService;
use crate::validation::{StatusRequest, Validation, WatchRequest};

pub(super) struct ValidationApi {
    validation: Validation,
}

impl ValidationApi {
    pub(super) fn new(validation: Validation) -> Self {
        Self { validation }
    }
}

#[tonic::async_trait]
impl ValidationStatusService for ValidationApi {
    async fn get_validation_status(
        &self,
        request: Request<proto::GetValidationStatusRequest>,
    ) -> Result<Response<proto::GetValidationStatusResponse>, Status> {
        let deadline = Deadline::from_metadata(request.metadata());
        let Grant { by, may_get_upload_token, .. } = Grant::of(&request)?;
        let permit = CallPermit::of(&request);
        let request = request.into_inner();
        let include_upload_token = request.include_upload_token;
        if include_upload_token && !may_get_upload_token {
            return Err(status::scope_missing(Scope::ValidationToken));
        }
        let request = status_request(request)?;
        check_visible(&by, &request.account)?;
        permit.begin_wait()?;
        let answer = async { self.validation.get(request).await.map_err(|error| status::from_validation(&error)) };
        let status = deadline.bound(answer).await?;
        let validation_status = Some(to_proto(&status, include_upload_token));
        Ok(Response::new(proto::GetValidationStatusResponse { validation_status }))
    }

    type WatchValidationStatusStream = BoxStream<'static, Result<proto::WatchValidationStatusResponse, Status>>;

    async fn watch_validation_status(
        &self,
        request: Request<proto::WatchValidationStatusRequest>,
    ) -> Result<Response<Self::WatchValidationStatusStream>, Status> {
        let deadline = Deadline::for_stream(request.metadata());
        let by = Grant::of(&request)?.by;
        let request = watch_request(request.into_inner())?;
        check_visible(&by, &request.account)?;
        let watch = self.validation.watch(request).map_err(|error| status::from_validation(&error))?;
        let changes = stream::unfold(Some(watch), move |watch| async move {
            let mut watch = watch?;
            let next = async { watch.next().await.map_err(|error| status::from_validation(&error)) };
            match deadline.bound(next).await {
                Ok(status) => {
                    let validation_status = Some(to_proto(&status, false));
                    Some((Ok(proto::WatchValidationStatusResponse { validation_status }), Some(watch)))
                }
                // Ends the stream.
                Err(end) => Some((Err(end), None)),
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// An account that the caller may not use is answered as one that does not exist.
fn check_visible(by: &Authority, account: &AccountName) -> Result<(), Status> {
    match by.sees(account) {
        true => Ok(()),
        false => Err(status::account_not_found(account.as_str())),
    }
}

fn status_request(request: proto::GetValidationStatusRequest) -> Result<StatusRequest, Status> {
    let mut violations = Violations::default();
    let account = violations.ok_or_record("account", AccountName::parse(&request.account));
    #[expect(deprecated, reason = "certificate_id is read for callers that do not use certificate_number yet")]
    let certificate_id = request.certificate_id;
    let order = OrderKey::new(&request.order_number, certificate_id, &request.certificate_number);
    let order = order.map_err(|wrong| wrong.into_iter().for_each(|one| violations.add(&one.field, one.description)));
    let max_age = convert::duration("max_age", request.max_age, &mut violations);
    let (account, order) = violations.into_result(account.zip(order.ok()))?;
    Ok(StatusRequest { account, order, max_age: max_age.unwrap_or_default() })
}

fn watch_request(request: proto::WatchValidationStatusRequest) -> Result<WatchRequest, Status> {
    let mut violations = Violations::default();
    let account = violations.ok_or_record("account", AccountName::parse(&request.account));
    let order = OrderKey::new(&request.order_number, 0, "");
    let order = order.map_err(|wrong| wrong.into_iter().for_each(|one| violations.add(&one.field, one.description)));
    let after = request.after_fingerprint;
    if !after.is_empty() && !ValidationStatus::is_fingerprint(&after) {
        violations.add("after_fingerprint", "must be the fingerprint of a validation status, or empty");
    }
    let interval = convert::duration("interval", request.interval, &mut violations);
    let (account, order) = violations.into_result(account.zip(order.ok()))?;
    Ok(WatchRequest { account, order, after_fingerprint: Some(after).filter(|after| !after.is_empty()), interval })
}

fn to_proto(status: &ValidationStatus, include_upload_token: bool) -> proto::ValidationStatus {
    let page = status.page();
    let token = status.upload_document_token().filter(|_| include_upload_token);
    proto::ValidationStatus {
        order_number: page.order_number.clone(),
        order_state: meaning(page.order_state.as_ref(), order_state).into(),
        order_status_text: text(page.order_state.as_ref()),
        product_type: page.product_type,
        product_name: page.product_name.clone(),
        certificate_duration_days: page.certificate_duration_days,
        product_term_days: page.product_term_days,
        domain_name: page.domain_name.clone(),
        primary_domain_name: page.primary_domain_name.clone(),
        max_domains: page.max_domains,
        max_wildcard_domains: page.max_wildcard_domains,
        master_account_state: page.master_account_state.map(master_account_state).unwrap_or_default().into(),
        upload_document_url: page.upload_document_url.clone(),
        upload_document_token: token.map(|token| token.expose_secret().to_owned()).unwrap_or_default(),
        csr: page.csr.as_ref().map(csr),
        dcv: page.dcv.as_ref().map(dcv),
        agreement: page.agreement.as_ref().map(agreement),
        callback: page.callback.as_ref().map(callback),
        organization: page.organization.as_ref().map(organization),
        second_approval: page.second_approval.as_ref().map(step),
        fast_service: page.fast_service.as_ref().map(step),
        caa_check: page.caa_check.as_ref().map(caa_check),
        action_required: page.action_required().into_iter().map(|one| section(one).into()).collect(),
        fetch_time: Some(convert::timestamp(status.fetch_time())),
        fingerprint: status.fingerprint().to_owned(),
        master_account_status: page.master_account_state.map(MasterAccountState::number),
        irregular_fields: page.irregular_fields.clone(),
    }
}

fn csr(csr: &CsrStatus) -> proto::CsrStatus {
    proto::CsrStatus { step: Some(step(&csr.step)) }
}

fn dcv(dcv: &DcvStatus) -> proto::DcvStatus {
    proto::DcvStatus {
        step: Some(step(&dcv.step)),
        domains: dcv.domains.iter().map(domain).collect(),
        csr_md5: dcv.csr_md5.clone(),
        csr_sha256: dcv.csr_sha256.clone(),
        unique_value: dcv.unique_value.clone(),
    }
}

fn domain(domain: &DomainValidation) -> proto::DomainValidation {
    proto::DomainValidation {
        domain_name: domain.domain_name.clone(),
        state: meaning(domain.state.as_ref(), step_state).into(),
        state_text: text(domain.state.as_ref()),
        selected_method: domain.selected_method.clone(),
        methods: domain.methods.iter().map(method).collect(),
    }
}

fn method(method: &DcvMethod) -> proto::DcvMethod {
    proto::DcvMethod {
        r#type: meaning(method.kind.as_ref(), method_type).into(),
        type_text: text(method.kind.as_ref()),
        title: method.title.clone(),
        level: method.level.clone(),
        selected_method: method.selected_method.clone(),
        options: method.options.clone(),
    }
}

fn agreement(agreement: &AgreementStatus) -> proto::AgreementStatus {
    proto::AgreementStatus {
        step: Some(step(&agreement.step)),
        click_through_state: meaning(agreement.click_through_state.as_ref(), click_through_state).into(),
        click_through_email_address: agreement.click_through_email_address.clone(),
        last_email_sent_date: agreement.last_email_sent_date.clone(),
        last_open_date: agreement.last_open_date.clone(),
        click_through_status_text: text(agreement.click_through_state.as_ref()),
    }
}

fn callback(callback: &CallbackStatus) -> proto::CallbackStatus {
    proto::CallbackStatus { step: Some(step(&callback.step)), phone_number: callback.phone_number.clone() }
}

fn organization(organization: &OrganizationStatus) -> proto::OrganizationStatus {
    proto::OrganizationStatus {
        step: Some(step(&organization.step)),
        organization_name: organization.organization_name.as_ref().map(step),
        legal_existence: organization.legal_existence.as_ref().map(step),
        assumed_name: organization.assumed_name.as_ref().map(step),
        physical_existence: organization.physical_existence.as_ref().map(step),
        operational_existence: organization.operational_existence.as_ref().map(step),
        trademark_check: organization.trademark_check.as_ref().map(step),
    }
}

fn caa_check(check: &CaaCheckStatus) -> proto::CaaCheckStatus {
    proto::CaaCheckStatus {
        step: Some(step(&check.step)),
        latest_errors: check.latest_errors.iter().map(caa_error).collect(),
    }
}

fn caa_error(error: &CaaCheckError) -> proto::CaaCheckError {
    proto::CaaCheckError {
        lookup_datetime: error.lookup_datetime.clone(),
        queried_fqdn: error.queried_fqdn.clone(),
        domain_name: error.domain_name.clone(),
        result: meaning(error.result.as_ref(), caa_result).into(),
        result_text: text(error.result.as_ref()),
    }
}

fn step(step: &SectionStep) -> proto::Step {
    proto::Step {
        title: step.title.clone(),
        state: meaning(step.state.as_ref(), step_state).into(),
        state_text: text(step.state.as_ref()),
        description: step.description.clone(),
        available_actions: step.available_actions.clone(),
    }
}

/// Unspecified if the provider sent no value.
fn meaning<M: KnownValues, P: Default>(value: Option<&OpenEnum<M>>, to_proto: impl FnOnce(M) -> P) -> P {
    value.map(|value| to_proto(value.meaning())).unwrap_or_default()
}

fn text<M: KnownValues>(value: Option<&OpenEnum<M>>) -> String {
    value.map(|value| value.text().to_owned()).unwrap_or_default()
}

fn order_state(state: OrderState) -> proto::validation_status::OrderState {
    use proto::validation_status::OrderState as Proto;
    match state {
        OrderState::Unrecognized => Proto::Unrecognized,
        OrderState::Current => Proto::Current,
        OrderState::AwaitingPayment => Proto::AwaitingPayment,
        OrderState::PaymentPromised => Proto::PaymentPromised,
        OrderState::Pending => Proto::Pending,
        OrderState::AwaitingAuthorization => Proto::AwaitingAuthorization,
        OrderState::Processed => Proto::Processed,
        OrderState::Rejected => Proto::Rejected,
        OrderState::Refunded => Proto::Refunded,
        OrderState::ProviderError => Proto::ProviderError,
    }
}

fn master_account_state(state: MasterAccountState) -> proto::validation_status::MasterAccountState {
    use proto::validation_status::MasterAccountState as Proto;
    match state {
        MasterAccountState::Unrecognized(_) => Proto::Unrecognized,
        MasterAccountState::NotRequired => Proto::NotRequired,
        MasterAccountState::NotCompleted => Proto::NotCompleted,
        MasterAccountState::Completed => Proto::Completed,
        MasterAccountState::InProgress => Proto::InProgress,
        MasterAccountState::Rejected => Proto::Rejected,
    }
}

fn section(section: Section) -> proto::validation_status::Section {
    use proto::validation_status::Section as Proto;
    match section {
        Section::Csr => Proto::Csr,
        Section::Dcv => Proto::Dcv,
        Section::Agreement => Proto::Agreement,
        Section::Callback => Proto::Callback,
        Section::Organization => Proto::Organization,
        Section::SecondApproval => Proto::SecondApproval,
        Section::FastService => Proto::FastService,
        Section::CaaCheck => Proto::CaaCheck,
    }
}

fn step_state(state: StepState) -> proto::StepState {
    match state {
        StepState::Unrecognized => proto::StepState::Unrecognized,
        StepState::NotApplicable => proto::StepState::NotApplicable,
        StepState::ActionRequired => proto::StepState::ActionRequired,
        StepState::InProgress => proto::StepState::InProgress,
        StepState::Completed => proto::StepState::Completed,
        StepState::Unknown => proto::StepState::Unknown,
    }
}

fn method_type(kind: DcvMethodKind) -> proto::dcv_method::Type {
    match kind {
        DcvMethodKind::Unrecognized => proto::dcv_method::Type::Unrecognized,
        DcvMethodKind::WhoisEmail => proto::dcv_method::Type::WhoisEmail,
        DcvMethodKind::Email => proto::dcv_method::Type::Email,
        DcvMethodKind::CsrHash => proto::dcv_method::Type::CsrHash,
        DcvMethodKind::Manual => proto::dcv_method::Type::Manual,
    }
}

fn click_through_state(state: ClickThroughState) -> proto::agreement_status::ClickThroughState {
    use proto::agreement_status::ClickThroughState as Proto;
    match state {
        ClickThroughState::Unrecognized => Proto::Unrecognized,
        ClickThroughState::NotExecuted => Proto::NotExecuted,
        ClickThroughState::Executed => Proto::Executed,
    }
}

fn caa_result(result: CaaCheckResult) -> proto::caa_check_error::Result {
    use proto::caa_check_error::Result as Proto;
    match result {
        CaaCheckResult::Unrecognized => Proto::Unrecognized,
        CaaCheckResult::Empty => Proto::Empty,
        CaaCheckResult::Authorized => Proto::Authorized,
        CaaCheckResult::NotAuthorized => Proto::NotAuthorized,
        CaaCheckResult::Error => Proto::Error,
        CaaCheckResult::Timeout => Proto::Timeout,
        CaaCheckResult::UnrecognizedCriticalTag => Proto::UnrecognizedCriticalTag,
        CaaCheckResult::MalformedResponse => Proto::MalformedResponse,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;
    use tonic_types::StatusExt;

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::validation::{StatusAnswer, ValidationPage};

    fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    fn request() -> proto::GetValidationStatusRequest {
        proto::GetValidationStatusRequest {
            account: "sectigo".to_owned(),
            order_number: "3000001".to_owned(),
            ..Default::default()
        }
    }

    /// The fields that the answer reports as invalid.
    fn invalid_fields<T>(read: Result<T, Status>) -> Vec<String> {
        let Err(status) = read else { return Vec::new() };
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[expect(deprecated, reason = "certificate_id is read for callers that do not use certificate_number yet")]
    fn certificate(id: i64, number: &str) -> proto::GetValidationStatusRequest {
        proto::GetValidationStatusRequest { certificate_id: id, certificate_number: number.to_owned(), ..request() }
    }

    #[rstest]
    #[case(0, "", None)]
    #[case(7, "", Some(7))]
    #[case(0, "9999999999999999", Some(9_999_999_999_999_999))]
    #[case(7, "7", Some(7))]
    #[case(7, "0000000000000007", Some(7))]
    fn a_certificate_has_one_number(#[case] id: i64, #[case] number: &str, #[case] expected: Option<u64>) {
        assert_eq!(status_request(certificate(id, number)).unwrap().order.certificate_id(), expected);
    }

    #[rstest]
    #[case(request(), &[])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(86_400, 1), ..certificate(1, "") }, &[])]
    #[case(certificate(1, "2"), &["certificate_id", "certificate_number"])]
    #[case(certificate(9_007_199_254_740_992, "9007199254740993"), &["certificate_id", "certificate_number"])]
    #[case(certificate(-1, "2"), &["certificate_id"])]
    #[case(certificate(1, "2x"), &["certificate_number"])]
    #[case(certificate(0, "0"), &["certificate_number"])]
    #[case(certificate(0, "12345678901234567"), &["certificate_number"])]
    #[case(certificate(0, "+5"), &["certificate_number"])]
    #[case(certificate(0, " 5"), &["certificate_number"])]
    #[case(certificate(-1, "\u{665}"), &["certificate_id", "certificate_number"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(-1, 0), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(0, -1), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(i64::MIN, 0), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(i64::MIN, i32::MIN), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(0, 1_000_000_000), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(5, -1), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(i64::MAX, i32::MAX), ..request() }, &["max_age"])]
    #[case(proto::GetValidationStatusRequest { max_age: seconds(315_576_000_001, 0), ..request() }, &["max_age"])]
    #[case(certificate(10_000_000_000_000_000, ""), &["certificate_id"])]
    #[case(
        proto::GetValidationStatusRequest {
            account: "No Account".to_owned(),
            order_number: "x".repeat(65),
            max_age: seconds(-5, 0),
            include_upload_token: true,
            ..certificate(-1, "")
        },
        &["account", "order_number", "certificate_id", "max_age"]
    )]
    #[case(proto::GetValidationStatusRequest::default(), &["account", "order_number"])]
    fn all_invalid_fields_are_reported_together(
        #[case] request: proto::GetValidationStatusRequest,
        #[case] wrong: &[&str],
    ) {
        assert_eq!(invalid_fields(status_request(request)), wrong);
    }

    fn watch() -> proto::WatchValidationStatusRequest {
        proto::WatchValidationStatusRequest {
            account: "sectigo".to_owned(),
            order_number: "3000001".to_owned(),
            ..Default::default()
        }
    }

    #[rstest]
    #[case(watch(), &[])]
    #[case(proto::WatchValidationStatusRequest { interval: seconds(0, 0), after_fingerprint: "0f".repeat(32), ..watch() }, &[])]
    #[case(proto::WatchValidationStatusRequest { interval: seconds(315_576_000_000, 0), ..watch() }, &[])]
    #[case(proto::WatchValidationStatusRequest { interval: seconds(-1, 0), ..watch() }, &["interval"])]
    #[case(proto::WatchValidationStatusRequest { interval: seconds(1, 1_000_000_000), ..watch() }, &["interval"])]
    #[case(proto::WatchValidationStatusRequest { interval: seconds(i64::MIN, i32::MIN), ..watch() }, &["interval"])]
    #[case(proto::WatchValidationStatusRequest { after_fingerprint: "0F".repeat(32), ..watch() }, &["after_fingerprint"])]
    #[case(proto::WatchValidationStatusRequest { after_fingerprint: "0f".repeat(31), ..watch() }, &["after_fingerprint"])]
    #[case(
        proto::WatchValidationStatusRequest {
            account: "No Account".to_owned(),
            order_number: "x".repeat(65),
            after_fingerprint: "yesterday's".to_owned(),
            interval: seconds(-5, 0),
        },
        &["account", "order_number", "after_fingerprint", "interval"]
    )]
    #[case(proto::WatchValidationStatusRequest::default(), &["account", "order_number"])]
    fn all_invalid_fields_of_a_watch_are_reported_together(
        #[case] request: proto::WatchValidationStatusRequest,
        #[case] wrong: &[&str],
    ) {
        assert_eq!(invalid_fields(watch_request(request)), wrong);
    }

    #[test]
    fn the_upload_token_is_included_only_on_request() {
        let token = Some(SecretString::from("eyJ.token"));
        let answer = StatusAnswer { page: ValidationPage::default(), upload_document_token: token };
        let status = ValidationStatus::new(answer, Timestamp::from_micros(1_750_000_000_500_000));
        assert_eq!(to_proto(&status, true).upload_document_token, "eyJ.token");
        let without = to_proto(&status, false);
        assert_eq!(without.upload_document_token, "");
        assert_eq!(without.fetch_time, Some(prost_types::Timestamp { seconds: 1_750_000_000, nanos: 500_000_000 }));
        assert_eq!(without.fingerprint, status.fingerprint());
    }

    /// Compares the domain's names with the contract's: `AwaitingPayment` and
    /// `ORDER_STATE_AWAITING_PAYMENT`.
    fn assert_same_names<M: KnownValues>(prefix: &str, name_of: impl Fn(M) -> &'static str) {
        let meanings = M::VALUES.iter().map(|(_, meaning)| *meaning).chain([M::UNRECOGNIZED]);
        for meaning in meanings {
            let name = name_of(meaning).strip_prefix(prefix).unwrap().replace('_', "").to_lowercase();
            assert_eq!(name, format!("{meaning:?}").to_lowercase());
        }
    }

    #[test]
    fn every_known_value_has_the_same_name_in_the_contract() {
        assert_same_names("ORDER_STATE_", |state| order_state(state).as_str_name());
        assert_same_names("STEP_STATE_", |state| step_state(state).as_str_name());
        assert_same_names("TYPE_", |kind| method_type(kind).as_str_name());
        assert_same_names("CLICK_THROUGH_STATE_", |state| click_through_state(state).as_str_name());
        assert_same_names("RESULT_", |result| caa_result(result).as_str_name());
    }

    #[rstest]
    #[case(-1, "NOT_REQUIRED")]
    #[case(0, "NOT_COMPLETED")]
    #[case(1, "COMPLETED")]
    #[case(2, "IN_PROGRESS")]
    #[case(3, "REJECTED")]
    #[case(4, "UNRECOGNIZED")]
    fn every_master_account_state_has_its_name_in_the_contract(#[case] number: i32, #[case] name: &str) {
        let state = master_account_state(MasterAccountState::read(number));
        assert_eq!(state.as_str_name(), format!("MASTER_ACCOUNT_STATE_{name}"));
    }

    #[test]
    fn an_unknown_value_keeps_its_text_in_every_field() {
        fn unknown<M: KnownValues>() -> Option<OpenEnum<M>> {
            OpenEnum::read("Somewhat New", str::to_owned)
        }
        let step = SectionStep { state: unknown(), ..SectionStep::default() };
        let method = DcvMethod { kind: unknown(), ..DcvMethod::default() };
        let domain = DomainValidation { state: unknown(), methods: vec![method], ..DomainValidation::default() };
        let error = CaaCheckError { result: unknown(), ..CaaCheckError::default() };
        let page = ValidationPage {
            order_state: unknown(),
            master_account_state: Some(MasterAccountState::read(77)),
            csr: Some(CsrStatus { step: step.clone() }),
            dcv: Some(DcvStatus { domains: vec![domain], ..DcvStatus::default() }),
            agreement: Some(AgreementStatus { click_through_state: unknown(), ..AgreementStatus::default() }),
            organization: Some(OrganizationStatus { legal_existence: Some(step), ..OrganizationStatus::default() }),
            caa_check: Some(CaaCheckStatus { latest_errors: vec![error], ..CaaCheckStatus::default() }),
            ..ValidationPage::default()
        };
        let answer = StatusAnswer { page, upload_document_token: None };
        let converted = to_proto(&ValidationStatus::new(answer, Timestamp::from_seconds(0)), false);
        assert_eq!((converted.master_account_state, converted.master_account_status), (1, Some(77)));
        let (dcv, agreement) = (converted.dcv.unwrap(), converted.agreement.unwrap());
        let (step, legal) =
            (converted.csr.unwrap().step.unwrap(), converted.organization.unwrap().legal_existence.unwrap());
        let error = &converted.caa_check.unwrap().latest_errors[0];
        let (domain, method) = (&dcv.domains[0], &dcv.domains[0].methods[0]);
        for (number, text) in [
            (converted.order_state, &converted.order_status_text),
            (step.state, &step.state_text),
            (legal.state, &legal.state_text),
            (domain.state, &domain.state_text),
            (method.r#type, &method.type_text),
            (agreement.click_through_state, &agreement.click_through_status_text),
            (error.result, &error.result_text),
        ] {
            assert_eq!((number, text.as_str()), (1, "Somewhat New"), "1 is UNRECOGNIZED everywhere");
        }
    }

    #[test]
    fn values_that_the_provider_omits_are_unset() {
        let page = ValidationPage { dcv: Some(DcvStatus::default()), ..ValidationPage::default() };
        let status =
            ValidationStatus::new(StatusAnswer { page, upload_document_token: None }, Timestamp::from_seconds(0));
        let expected = proto::ValidationStatus {
            dcv: Some(proto::DcvStatus { step: Some(proto::Step::default()), ..Default::default() }),
            fetch_time: Some(prost_types::Timestamp::default()),
            fingerprint: status.fingerprint().to_owned(),
            ..Default::default()
        };
        assert_eq!(to_proto(&status, true), expected);
    }
}
