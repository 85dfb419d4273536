use proptest::prelude::*;
use rstest::rstest;
use secrecy::SecretString;

use super::*;

const TOKEN: &str = "canary-token-eyJhbGciOi";

fn status(page: ValidationPage) -> ValidationStatus {
    ValidationStatus::new(StatusAnswer { page, upload_document_token: None }, Timestamp::from_seconds(0))
}

fn value<M: KnownValues>(text: &str) -> Option<OpenEnum<M>> {
    OpenEnum::read(text, str::to_owned)
}

fn step(state: &str) -> SectionStep {
    SectionStep { state: value(state), ..SectionStep::default() }
}

#[rstest]
#[case("1000001", 0, &[])]
#[case("1000001", 9_999_999_999_999_999, &[])]
#[case("1000001", 10_000_000_000_000_000, &["certificate_id"])]
#[case("1000001", -1, &["certificate_id"])]
#[case("", -1, &["order_number", "certificate_id"])]
#[case("1 OR 1", 5, &["order_number"])]
fn every_wrong_field_of_an_order_key_is_named(#[case] order: &str, #[case] certificate: i64, #[case] wrong: &[&str]) {
    let violations = OrderKey::new(order, certificate, "").err().unwrap_or_default();
    assert_eq!(violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), wrong);
}

#[test]
fn certificate_zero_is_the_order_itself() {
    assert_eq!(OrderKey::new("1", 0, "").unwrap().certificate_id(), None);
    assert_eq!(OrderKey::new("1", 7, "").unwrap().certificate_id(), Some(7));
}

fn documented_words_mean_what_they_say<M: KnownValues>(documented: &[(&str, M)]) {
    assert_eq!(M::VALUES.len(), documented.len());
    for (text, meaning) in documented {
        let parsed: OpenEnum<M> = value(text).unwrap();
        assert_eq!((parsed.meaning(), parsed.text()), (*meaning, *text));
        for other in [text.to_lowercase(), text.to_uppercase(), format!("{text} "), format!(" {text}")] {
            if other != *text {
                let parsed: OpenEnum<M> = OpenEnum::read(&other, str::to_owned).unwrap();
                assert_eq!((parsed.meaning(), parsed.text()), (M::UNRECOGNIZED, other.as_str()));
            }
        }
    }
    assert_eq!(value::<M>("Somewhat new").unwrap().meaning(), M::UNRECOGNIZED);
    assert_eq!(value::<M>(""), None);
}

#[test]
fn order_states() {
    documented_words_mean_what_they_say(&[
        ("Current", OrderState::Current),
        ("Awaiting Payment", OrderState::AwaitingPayment),
        ("Payment Promised", OrderState::PaymentPromised),
        ("Pending", OrderState::Pending),
        ("Awaiting Authorization", OrderState::AwaitingAuthorization),
        ("Processed", OrderState::Processed),
        ("Rejected", OrderState::Rejected),
        ("Refunded", OrderState::Refunded),
        ("ERROR!!!", OrderState::ProviderError),
    ]);
}

#[test]
fn step_states() {
    documented_words_mean_what_they_say(&[
        ("NotApplicable", StepState::NotApplicable),
        ("ActionRequired", StepState::ActionRequired),
        ("Completed", StepState::Completed),
        ("InProgress", StepState::InProgress),
        ("Unknown", StepState::Unknown),
    ]);
}

#[test]
fn kinds_of_methods() {
    documented_words_mean_what_they_say(&[
        ("whoisEmail", DcvMethodKind::WhoisEmail),
        ("email", DcvMethodKind::Email),
        ("csrHash", DcvMethodKind::CsrHash),
        ("manual", DcvMethodKind::Manual),
    ]);
}

#[test]
fn click_through_states() {
    documented_words_mean_what_they_say(&[
        ("notExecuted", ClickThroughState::NotExecuted),
        ("Executed", ClickThroughState::Executed),
    ]);
}

#[test]
fn caa_results() {
    documented_words_mean_what_they_say(&[
        ("Empty", CaaCheckResult::Empty),
        ("Authorized", CaaCheckResult::Authorized),
        ("Not Authorized", CaaCheckResult::NotAuthorized),
        ("ERROR!", CaaCheckResult::Error),
        ("Timeout!", CaaCheckResult::Timeout),
        ("Unrecognized Critical Tag", CaaCheckResult::UnrecognizedCriticalTag),
        ("Malformed Response", CaaCheckResult::MalformedResponse),
    ]);
}

#[rstest]
#[case(-1, MasterAccountState::NotRequired)]
#[case(0, MasterAccountState::NotCompleted)]
#[case(1, MasterAccountState::Completed)]
#[case(2, MasterAccountState::InProgress)]
#[case(3, MasterAccountState::Rejected)]
#[case(4, MasterAccountState::Unrecognized(4))]
#[case(-2, MasterAccountState::Unrecognized(-2))]
fn master_account_states(#[case] number: i32, #[case] state: MasterAccountState) {
    assert_eq!(MasterAccountState::read(number), state);
    assert_eq!(state.number(), number);
}

#[test]
fn sections_that_require_action_are_listed_in_page_order() {
    let mut page = ValidationPage {
        csr: Some(CsrStatus { step: step("ActionRequired") }),
        dcv: Some(DcvStatus { step: step("ActionRequired"), ..DcvStatus::default() }),
        agreement: Some(AgreementStatus { step: step("ActionRequired"), ..AgreementStatus::default() }),
        callback: Some(CallbackStatus { step: step("ActionRequired"), ..CallbackStatus::default() }),
        organization: Some(OrganizationStatus { step: step("ActionRequired"), ..OrganizationStatus::default() }),
        second_approval: Some(step("ActionRequired")),
        fast_service: Some(step("ActionRequired")),
        caa_check: Some(CaaCheckStatus { step: step("ActionRequired"), ..CaaCheckStatus::default() }),
        ..ValidationPage::default()
    };
    assert_eq!(
        page.action_required(),
        [
            Section::Csr,
            Section::Dcv,
            Section::Agreement,
            Section::Callback,
            Section::Organization,
            Section::SecondApproval,
            Section::FastService,
            Section::CaaCheck,
        ]
    );
    page.csr = None;
    page.agreement = Some(AgreementStatus { step: step("InProgress"), ..AgreementStatus::default() });
    page.fast_service = Some(step("actionrequired"));
    page.caa_check = Some(CaaCheckStatus::default());
    assert_eq!(
        page.action_required(),
        [Section::Dcv, Section::Callback, Section::Organization, Section::SecondApproval]
    );
}

#[test]
fn the_fingerprint_ignores_time_and_token_and_the_token_is_never_shown() {
    let page = ValidationPage { order_number: "1".to_owned(), ..ValidationPage::default() };
    let token = Some(SecretString::from(TOKEN));
    let with = StatusAnswer { page: page.clone(), upload_document_token: token };
    let later = ValidationStatus::new(with.clone(), Timestamp::from_seconds(99));
    assert_eq!(later.fingerprint(), status(page).fingerprint());
    assert_eq!(later.fingerprint().len(), 64);
    assert!(!format!("{later:?}{with:?}").contains("canary"));
}

#[test]
fn the_fingerprints_encoding_is_stable() {
    // Clients keep fingerprints: a new encoding would show every order as changed once, so it must
    // be deliberate.
    assert_eq!(
        status(ValidationPage::default()).fingerprint(),
        "29b6554340f468b89039c2d7b1765a8841614b45f6f2180321451efd94046ff9"
    );
}

#[test]
fn a_value_is_interpreted_before_it_is_escaped() {
    let parsed: OpenEnum<OrderState> = OpenEnum::read("Refunded ", |text| text.trim().to_owned()).unwrap();
    assert_eq!((parsed.meaning(), parsed.text()), (OrderState::Unrecognized, "Refunded"));
}

#[test]
fn data_outside_all_fields_changes_the_fingerprint() {
    let page = ValidationPage { order_number: "1".to_owned(), ..ValidationPage::default() };
    let with = |paths: &[&str], lossy_digest| {
        let irregular_fields = paths.iter().map(|path| (*path).to_owned()).collect();
        status(ValidationPage { irregular_fields, lossy_digest, ..page.clone() }).fingerprint().to_owned()
    };
    let all = [with(&[], None), with(&["data.a"], None), with(&["data.a"], Some([1; 32])), with(&[], Some([2; 32]))];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}

fn texts() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "ab", "Pending", "Completed", "\0"]).prop_map(str::to_owned)
}

fn steps() -> impl Strategy<Value = SectionStep> {
    (texts(), texts(), texts(), prop::collection::vec(texts(), 0..3)).prop_map(
        |(title, state, description, available_actions)| SectionStep {
            title,
            state: value(&state),
            description,
            available_actions,
        },
    )
}

fn methods() -> impl Strategy<Value = DcvMethod> {
    (texts(), texts(), texts(), texts(), prop::collection::vec(texts(), 0..3)).prop_map(
        |(kind, title, level, selected_method, options)| DcvMethod {
            kind: value(&kind),
            title,
            level,
            selected_method,
            options,
        },
    )
}

fn domains() -> impl Strategy<Value = DomainValidation> {
    (texts(), texts(), texts(), prop::collection::vec(methods(), 0..3)).prop_map(
        |(domain_name, state, selected_method, methods)| DomainValidation {
            domain_name,
            state: value(&state),
            selected_method,
            methods,
        },
    )
}

/// Small pages over few texts, so that two of them often differ in one field only, or in which
/// field contains a text.
fn pages() -> impl Strategy<Value = ValidationPage> {
    let dcv = (steps(), prop::collection::vec(domains(), 0..3), texts(), texts()).prop_map(
        |(step, domains, csr_md5, csr_sha256)| DcvStatus {
            step,
            domains,
            csr_md5,
            csr_sha256,
            unique_value: String::new(),
        },
    );
    let requirements = prop::array::uniform6(prop::option::of(steps()));
    let organization =
        (steps(), requirements).prop_map(|(step, [name, legal, assumed, physical, operational, mark])| {
            OrganizationStatus {
                step,
                organization_name: name,
                legal_existence: legal,
                assumed_name: assumed,
                physical_existence: physical,
                operational_existence: operational,
                trademark_check: mark,
            }
        });
    (
        (texts(), texts(), -1..2_i32, -1..2_i32, prop::option::of(-2..5_i32)),
        prop::option::of(dcv),
        prop::option::of(organization),
        prop::option::of(steps()),
        prop::option::of(steps()),
    )
        .prop_map(|((order, state, first, second, master), dcv, organization, second_approval, fast_service)| {
            ValidationPage {
                order_number: order,
                order_state: value(&state),
                max_domains: first,
                max_wildcard_domains: second,
                master_account_state: master.map(MasterAccountState::read),
                dcv,
                organization,
                second_approval,
                fast_service,
                ..ValidationPage::default()
            }
        })
}

proptest! {
    #[test]
    fn two_pages_have_the_same_fingerprint_only_if_they_are_equal(one in pages(), other in pages()) {
        let (one_status, other_status) = (status(one.clone()), status(other.clone()));
        prop_assert_eq!(one == other, one_status.fingerprint() == other_status.fingerprint());
        prop_assert!(ValidationStatus::is_fingerprint(one_status.fingerprint()));
    }

    #[test]
    fn a_text_that_moves_to_the_next_field_changes_the_fingerprint(text in "[a-z]{1,4}") {
        let here = ValidationPage { domain_name: text.clone(), ..ValidationPage::default() };
        let there = ValidationPage { primary_domain_name: text, ..ValidationPage::default() };
        prop_assert_ne!(status(here).fingerprint().to_owned(), status(there).fingerprint().to_owned());
    }
}
