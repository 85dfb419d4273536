use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::domain::clock::Timestamp;
use crate::domain::validation::*;
use crate::http::client::{HttpClient, HttpSettings};
use crate::http::testing::scripted_server::{Script, ScriptedServer};
use crate::providers::redact::Redactor;
use crate::providers::testing::fixtures::answer;
use crate::providers::testing::log_capture::LogCapture;

/// Sectigo's own sample.
const MARK_CERTIFICATE: &str = include_str!("../testdata/mark_certificate.json");
/// Every documented member at least once.
const EVERY_SECTION: &str = include_str!("../testdata/every_section.json");
const EVERY_SECTION_ORDER: &str = "3000002";
const PASSWORD: &str = "c4nary-secret";

fn read_as(status: u16, body: &[u8], order_number: &str) -> Result<StatusAnswer, StatusError> {
    read_answer(&answer(status, &[], body), order_number)
}

fn read_answer(answer: &HttpResponse, order_number: &str) -> Result<StatusAnswer, StatusError> {
    let pages = PageReader::new(Redactor::new("demo", &SecretString::from(PASSWORD)));
    read_validation_status(answer, &OrderKey::new(order_number, 0, "").unwrap(), &pages)
}

fn read(body: impl AsRef<[u8]>) -> Result<StatusAnswer, StatusError> {
    read_as(200, body.as_ref(), EVERY_SECTION_ORDER)
}

/// An answer for the order with these members besides its number.
fn page_with(members: &str) -> Result<ValidationPage, String> {
    let body = format!("{{\"errorCode\":0,\"data\":{{\"orderNumber\":\"{EVERY_SECTION_ORDER}\",{members}}}}}");
    match read(body) {
        Ok(answer) => Ok(answer.page),
        Err(StatusError::Protocol { problem }) => Err(problem),
        Err(other) => panic!("{other:?}"),
    }
}

fn value<M: KnownValues>(text: &str) -> Option<OpenEnum<M>> {
    OpenEnum::read(text, str::to_owned)
}

fn step(title: &str, state: &str, description: &str, actions: &[&str]) -> SectionStep {
    SectionStep {
        title: title.to_owned(),
        state: value(state),
        description: description.to_owned(),
        available_actions: actions.iter().map(|action| (*action).to_owned()).collect(),
    }
}

fn method(kind: &str, title: &str, level: &str, selected: &str, options: &[&str]) -> DcvMethod {
    DcvMethod {
        kind: value(kind),
        title: title.to_owned(),
        level: level.to_owned(),
        selected_method: selected.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn sectigos_sample_is_read_into_the_right_fields() {
    let answer = read_as(200, MARK_CERTIFICATE.as_bytes(), "yourOrderNumber").unwrap();
    assert!(answer.upload_document_token.is_none());
    let expected = ValidationPage {
        order_number: "yourOrderNumber".to_owned(),
        product_type: 801,
        product_name: "Verified Mark Certificate (VMC)".to_owned(),
        certificate_duration_days: 365,
        product_term_days: 365,
        order_state: value("Pending"),
        domain_name: "Multiple domains".to_owned(),
        max_domains: 2,
        csr: Some(CsrStatus {
            step: step("Submit your CSR", "Completed", "You have already submitted your CSR.", &[]),
        }),
        agreement: Some(AgreementStatus {
            step: step("Agreement Execution", "ActionRequired", "", &["canUpdateEmailAddress", "resendAgreementEmail"]),
            click_through_state: value("notExecuted"),
            click_through_email_address: String::new(),
            last_email_sent_date: "2025-06-11".to_owned(),
            last_open_date: "2025-06-12".to_owned(),
        }),
        callback: Some(CallbackStatus {
            step: step("Order Authorization", "NotApplicable", "", &[]),
            phone_number: String::new(),
        }),
        organization: Some(OrganizationStatus {
            step: step("Organization Validation", "NotApplicable", "", &[]),
            ..OrganizationStatus::default()
        }),
        second_approval: Some(step("Second Approval", "NotApplicable", "", &[])),
        fast_service: Some(step("Fast Service Certificate", "NotApplicable", "", &[])),
        caa_check: Some(CaaCheckStatus {
            step: step("CAA Check", "NotApplicable", "", &[]),
            latest_errors: Vec::new(),
        }),
        ..ValidationPage::default()
    };
    assert_eq!(answer.page, expected);
    assert_eq!(answer.page.action_required(), [Section::Agreement]);
}

#[test]
fn an_order_with_every_member_is_read_into_the_right_fields() {
    let answer = read(EVERY_SECTION).unwrap();
    assert_eq!(answer.upload_document_token.as_ref().unwrap().expose_secret(), "canary-upload-token");
    assert!(!format!("{answer:?}").contains("canary"));
    let methods = |domain: &str, mail: &str, hash: &str| {
        let (admin, hostmaster) = (format!("admin@{domain}"), format!("hostmaster@{domain}"));
        vec![
            method("whoisEmail", "WHOIS e-mail", "", "", &[format!("registrant@{domain}").as_str()]),
            method("email", "E-mail", "2", mail, &[admin.as_str(), hostmaster.as_str()]),
            method("csrHash", "CSR hash", "", hash, &["CNAME CSR Hash", "HTTP CSR Hash", "HTTPS CSR Hash"]),
            method("manual", "Manual", "", "", &["Manual"]),
        ]
    };
    let expected = ValidationPage {
        order_number: "3000002".to_owned(),
        order_state: value("Awaiting Authorization"),
        product_type: 287,
        product_name: "EV Multi-Domain SSL".to_owned(),
        certificate_duration_days: 396,
        product_term_days: 730,
        domain_name: "Multiple domains".to_owned(),
        primary_domain_name: "example.com".to_owned(),
        max_domains: 5,
        max_wildcard_domains: 2,
        master_account_state: Some(MasterAccountState::InProgress),
        upload_document_url: "https://upload.example.com/orders/3000002".to_owned(),
        csr: Some(CsrStatus {
            step: step(
                "Submit your CSR",
                "ActionRequired",
                "Please submit a CSR.",
                &["needProvideCSR", "canReplaceCSR"],
            ),
        }),
        dcv: Some(DcvStatus {
            step: step(
                "Domain Control Validation",
                "InProgress",
                "Please prove control of your domains.",
                &["selectDCVMethod", "canChangeDCVMethod", "enterDCVCode"],
            ),
            domains: vec![
                DomainValidation {
                    domain_name: "example.com".to_owned(),
                    state: value("Completed"),
                    selected_method: "CNAME CSR Hash".to_owned(),
                    methods: methods("example.com", "", "CNAME CSR Hash"),
                },
                DomainValidation {
                    domain_name: "www.example.net".to_owned(),
                    state: value("InProgress"),
                    selected_method: "admin@example.net".to_owned(),
                    methods: methods("example.net", "admin@example.net", ""),
                },
            ],
            csr_md5: "4F2C9E5A1B7D8C3E6F0A9B8C7D6E5F41".to_owned(),
            csr_sha256: "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08".to_owned(),
            unique_value: "q1w2e3r4t5".to_owned(),
        }),
        agreement: Some(AgreementStatus {
            step: step(
                "Agreement Execution",
                "Completed",
                "The agreement is executed.",
                &["canUpdateEmailAddress", "resendAgreementEmail", "needUpdateEmailAddress"],
            ),
            click_through_state: value("Executed"),
            click_through_email_address: "legal@example.com".to_owned(),
            last_email_sent_date: "2025-06-11".to_owned(),
            last_open_date: "2025-06-12".to_owned(),
        }),
        callback: Some(CallbackStatus {
            step: step(
                "Order Authorization",
                "ActionRequired",
                "Please take our call.",
                &[
                    "callMeNow",
                    "callMeLater",
                    "provideCorrectPhoneNumber",
                    "enterCallbackCode",
                    "requestManualCallback",
                ],
            ),
            phone_number: "+1 555 0100".to_owned(),
        }),
        organization: Some(OrganizationStatus {
            step: step(
                "Organization Validation",
                "InProgress",
                "We are looking into your organization.",
                &["uploadDocument"],
            ),
            organization_name: Some(step("Organization Name", "Completed", "The name is confirmed.", &[])),
            legal_existence: Some(step("Legal Existence", "InProgress", "We are checking the register.", &[])),
            assumed_name: Some(step("Assumed Name", "NotApplicable", "There is none.", &[])),
            physical_existence: Some(step("Physical Existence", "Completed", "The address is confirmed.", &[])),
            operational_existence: Some(step(
                "Operational Existence",
                "InProgress",
                "We are checking the operation.",
                &[],
            )),
            trademark_check: Some(step("Brand Validation", "NotApplicable", "There is no brand.", &[])),
        }),
        second_approval: Some(step("Second Approval", "Unknown", "We do not know yet.", &[])),
        fast_service: Some(step("Fast Service Certificate", "NotApplicable", "Not ordered.", &[])),
        caa_check: Some(CaaCheckStatus {
            step: step("CAA Check", "ActionRequired", "A record forbids us to issue.", &[]),
            latest_errors: vec![
                CaaCheckError {
                    lookup_datetime: "2025-06-12 13:45:10".to_owned(),
                    queried_fqdn: "www.example.net".to_owned(),
                    domain_name: "example.net".to_owned(),
                    result: value("Not Authorized"),
                },
                CaaCheckError {
                    lookup_datetime: "2025-06-12 13:45:11".to_owned(),
                    queried_fqdn: "example.com".to_owned(),
                    domain_name: "example.com".to_owned(),
                    result: value("Timeout!"),
                },
            ],
        }),
        ..ValidationPage::default()
    };
    assert_eq!(answer.page, expected);
    assert_eq!(answer.page.action_required(), [Section::Csr, Section::Callback, Section::CaaCheck]);
}

#[rstest]
#[case::nothing_else("\"x\":1", "")]
#[case::null_is_absent("\"orderStatus\":null,\"csrStatus\":null,\"productType\":null,\"maStatus\":null", "")]
#[case::null_in_a_list("\"csrStatus\":{\"availableActions\":[null,null]}", "?")]
#[case::not_documented("\"nextYear\":{\"a\":[1,2.5,true,{}]},\"nextYear\":[]", "")]
#[case::empty_texts("\"orderStatus\":\"\",\"domainName\":\"\"", "")]
fn an_absent_member_is_not_an_irregularity(#[case] members: &str, #[case] section: &str) {
    let mut expected = ValidationPage { order_number: EVERY_SECTION_ORDER.to_owned(), ..ValidationPage::default() };
    if !section.is_empty() {
        expected.csr = Some(CsrStatus::default());
    }
    assert_eq!(page_with(members), Ok(expected));
}

#[rstest]
#[case::one("{\"result\":\"Empty\"}", &["Empty"])]
#[case::many("[{\"result\":\"ERROR!\"},{\"result\":\"Malformed Response\"}]", &["ERROR!", "Malformed Response"])]
#[case::none("[]", &[])]
#[case::null("null", &[])]
fn caa_errors_are_an_object_or_a_list(#[case] errors: &str, #[case] expected: &[&str]) {
    let page = page_with(&format!("\"caaCheckStatus\":{{\"latestCAACheckErrors\":{errors}}}")).unwrap();
    let errors = page.caa_check.unwrap().latest_errors;
    assert_eq!(errors.iter().map(|error| error.result.as_ref().unwrap().text()).collect::<Vec<_>>(), expected);
}

#[rstest]
#[case("Somewhat New", OrderState::Unrecognized)]
#[case("processed", OrderState::Unrecognized)]
#[case("Processed", OrderState::Processed)]
#[case("ERROR!!!", OrderState::ProviderError)]
fn an_order_state_is_kept_as_sent(#[case] text: &str, #[case] meaning: OrderState) {
    let state = page_with(&format!("\"orderStatus\":\"{text}\"")).unwrap().order_state.unwrap();
    assert_eq!((state.meaning(), state.text()), (meaning, text));
}

/// What the reader keeps of a page with these members, in Rust's debug form, and the paths that it
/// lists.
fn read_members(members: &str) -> (String, Vec<String>) {
    let mut page = page_with(members).unwrap();
    page.lossy_digest = None;
    let paths = std::mem::take(&mut page.irregular_fields);
    let empty = ValidationPage { order_number: EVERY_SECTION_ORDER.to_owned(), ..ValidationPage::default() };
    (if page == empty { "nothing".to_owned() } else { format!("{page:?}") }, paths)
}

#[rstest]
#[case::number_for_text(r#""productName":7"#, r#"product_name: "7""#, "productName")]
#[case::long_number(r#""productName":12345678901234567890123.50"#, r#""12345678901234567890123.50""#, "productName")]
#[case::boolean_for_text(r#""productName":true"#, r#"product_name: "true""#, "productName")]
#[case::list_for_text(r#""productName":["canary"]"#, "nothing", "productName")]
#[case::object_for_text(r#""productName":{"a":"canary"}"#, "nothing", "productName")]
#[case::empty_list_for_text(r#""productName":[ ]"#, "nothing", "productName")]
#[case::half_a_surrogate(r#""productName":"\ud83d","domainName":"a""#, r#"domain_name: "a""#, "productName")]
#[case::number_for_value(r#""orderStatus":5"#, r#"Unrecognized("5")"#, "orderStatus")]
#[case::text_for_number(r#""productType":" 801 ""#, "product_type: 801", "productType")]
#[case::fraction_of_nothing(r#""productType":801.00"#, "product_type: 801", "productType")]
#[case::text_of_a_fraction(r#""productType":"801.0""#, "product_type: 801", "productType")]
#[case::fraction(r#""productType":801.5"#, "nothing", "productType")]
#[case::exponent(r#""productType":1e3"#, "nothing", "productType")]
#[case::beyond_every_float(r#""productType":1e999"#, "nothing", "productType")]
#[case::beyond_32_bits(r#""productType":2147483648"#, "nothing", "productType")]
#[case::text_beyond_32_bits(r#""productType":"2147483648""#, "nothing", "productType")]
#[case::beyond_64_bits(r#""productTerm":-99999999999999999999"#, "nothing", "productTerm")]
#[case::value_for_number(r#""maStatus":"canary""#, "nothing", "maStatus")]
#[case::boolean_for_number(r#""maStatus":true"#, "nothing", "maStatus")]
#[case::empty_text_for_number(r#""maStatus":"""#, "nothing", "maStatus")]
#[case::text_for_object(r#""csrStatus":"canary""#, "nothing", "csrStatus")]
#[case::empty_for_object(r#""csrStatus":[],"fsupStatus":"""#, "nothing", "csrStatus fsupStatus")]
#[case::list_of_one_object(r#""csrStatus":[{"title":"a"}]"#, r#"title: "a""#, "csrStatus")]
#[case::list_of_two_objects(r#""csrStatus":[{},{}]"#, "nothing", "csrStatus")]
#[case::list_for_object(r#""csrStatus":["title","canary"]"#, "nothing", "csrStatus")]
#[case::value_for_list(r#""csrStatus":{"availableActions":"a"}"#, r#"actions: ["a"]"#, "csrStatus.availableActions")]
#[case::empty_for_list(r#""csrStatus":{"availableActions":""}"#, "actions: []", "csrStatus.availableActions")]
#[case::object_for_list(r#""csrStatus":{"availableActions":{"a":1}}"#, "actions: []", "csrStatus.availableActions")]
#[case::irregular_items(
    r#""csrStatus":{"availableActions":["a",{},7,["canary"]]}"#,
    r#"actions: ["a", "7"]"#,
    "csrStatus.availableActions[1] csrStatus.availableActions[2] csrStatus.availableActions[3]"
)]
#[case::one_for_list(
    r#""dcvStatus":{"domains":{"domainName":"a"}}"#,
    r#"domain_name: "a", state"#,
    "dcvStatus.domains"
)]
#[case::deep(
    r#""dcvStatus":{"domains":[{},null,{"methods":[{},{"options":[7]}]}]}"#,
    r#"options: ["7"]"#,
    "dcvStatus.domains[2].methods[1].options[0]"
)]
#[case::no_object(
    r#""caaCheckStatus":{"latestCAACheckErrors":[3,{"result":"Empty"}]}"#,
    r#"Empty("Empty")"#,
    "caaCheckStatus.latestCAACheckErrors[0]"
)]
#[case::text_for_object_or_list(
    r#""caaCheckStatus":{"latestCAACheckErrors":"canary"}"#,
    "latest_errors: []",
    "caaCheckStatus.latestCAACheckErrors"
)]
#[case::twice_alike(r#""domainName":"a","domainName":"a""#, r#"domain_name: "a""#, "domainName")]
#[case::twice(r#""domainName":"canary","domainName":"b""#, "nothing", "domainName")]
#[case::null_and_a_text(r#""domainName":null,"domainName":"canary""#, "nothing", "domainName")]
#[case::two_sections(r#""fsupStatus":{},"fsupStatus":{"title":"canary"}"#, "nothing", "fsupStatus")]
fn an_irregular_field_loses_only_itself_and_is_listed(#[case] members: &str, #[case] left: &str, #[case] paths: &str) {
    let (page, named) = read_members(members);
    assert!(page.contains(left), "{page}");
    let expected: Vec<_> = paths.split(' ').map(|path| format!("data.{path}")).collect();
    assert_eq!(named, expected);
    assert!(!page.contains("canary"), "{page}");
}

#[rstest]
#[case(r#""uploadDocumentToken":["canary"]"#)]
#[case(r#""uploadDocumentToken":7"#)]
#[case(r#""uploadDocumentToken":"canary","uploadDocumentToken":"other""#)]
#[case(&format!(r#""uploadDocumentToken":"{}""#, "x".repeat(4097)))]
fn a_token_in_another_form_is_left_out(#[case] members: &str) {
    let body = format!(r#"{{"errorCode":0,"data":{{"orderNumber":"{EVERY_SECTION_ORDER}",{members}}}}}"#);
    let answer = read(body).unwrap();
    assert!(answer.upload_document_token.is_none());
    assert_eq!(answer.page.irregular_fields, ["data.uploadDocumentToken"]);
    assert_eq!(answer.page.lossy_digest, None, "nothing of a credential is counted");
}

#[rstest]
#[case("https://upload.example.com/orders/1?x=%20", true)]
#[case("HTTPS://[::1]:8443", true)]
#[case("http://upload.example.com/orders/1", false)]
#[case("javascript:alert(1)", false)]
#[case("upload.example.com", false)]
#[case("https:/upload.example.com", false)]
#[case("https:upload.example.com", false)]
#[case("https:///upload.example.com", false)]
#[case("https://", false)]
#[case("https://sectigo.com@evil.example", false)]
#[case("https://@evil.example", false)]
#[case("https://a:b@evil.example/", false)]
#[case("https://sectigo.com\\\\@evil.example", false)]
#[case("https://evil.example/\\u000ax", false)]
#[case(" https://upload.example.com", false)]
#[case("https://upload.example.com/a b", false)]
#[case("https://\u{443}pload.example", false)]
#[case("https://a:99999/", false)]
fn an_address_is_shown_only_if_it_is_safe_to_open(#[case] address: &str, #[case] is_shown: bool) {
    let (page, named) = read_members(&format!(r#""uploadDocumentUrl":"{address}""#));
    assert_eq!(page.contains(&format!(r#"upload_document_url: "{address}""#)), is_shown, "{page}");
    assert_eq!(named.is_empty(), is_shown);
    assert!(is_shown || page == "nothing", "{page}");
}

#[test]
fn texts_are_escaped_bounded_and_without_secrets() {
    let long = "x".repeat(600);
    let page = page_with(&format!(
        r#""domainName":"a\u0007\u200b","productName":"{long}","orderStatus":"Refunded \u202e",
           "csrStatus":{{"description":"the password {PASSWORD}"}}"#
    ))
    .unwrap();
    assert_eq!(page.domain_name, "a\\u{7}\\u{200b}");
    assert_eq!(page.product_name, long[..512]);
    let state = page.order_state.unwrap();
    assert_eq!((state.meaning(), state.text()), (OrderState::Unrecognized, "Refunded \\u{202e}"));
    assert_eq!(page.csr.unwrap().step.description, "the password ***");
    assert_eq!(page.irregular_fields, ["data.productName"], "a text that is cut is irregular");
}

#[test]
fn lists_and_whole_texts_are_bounded() {
    let actions = vec!["\"a\""; 1001].join(",");
    let address = format!("https://a/{}", "x".repeat(4096));
    let members = format!(r#""uploadDocumentUrl":"{address}","csrStatus":{{"availableActions":[{actions}]}}"#);
    let page = page_with(&members).unwrap();
    assert_eq!(page.upload_document_url, "");
    assert_eq!(page.csr.unwrap().step.available_actions.len(), 1000);
    assert_eq!(page.irregular_fields, ["data.uploadDocumentUrl", "data.csrStatus.availableActions"]);
}

#[test]
fn all_lists_together_and_the_listed_paths_are_bounded() {
    let domain = format!("{{\"methods\":[{}]}}", vec!["{}"; 1000].join(","));
    let page = page_with(&format!(r#""dcvStatus":{{"domains":[{}]}}"#, vec![domain; 200].join(","))).unwrap();
    let domains = page.dcv.unwrap().domains;
    let items = domains.len() + domains.iter().map(|domain| domain.methods.len()).sum::<usize>();
    assert!((99_000..=100_000).contains(&items), "{items}");
    assert!(!page.irregular_fields.is_empty());

    let irregular = vec![r#"{"domainName":1}"#; 1000].join(",");
    let page = page_with(&format!(r#""dcvStatus":{{"domains":[{irregular}]}}"#)).unwrap();
    assert_eq!(page.irregular_fields.len(), 100);
}

#[test]
fn undocumented_members_cost_nothing() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (page, named) = read_members(&format!(r#""x":{deep},"y":[{}]"#, vec!["0"; 200_000].join(",")));
    assert_eq!((page.as_str(), named.len()), ("nothing", 0));
}

#[test]
fn each_kind_of_irregular_field_is_logged_once() {
    let log = LogCapture::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let pages = PageReader::new(Redactor::new("demo", &SecretString::from(PASSWORD)));
    let body =
        r#"{"errorCode":0,"data":{"orderNumber":1,"dcvStatus":{"domains":[{"domainName":1},{"domainName":2}]}}}"#;
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..3 {
            pages.read(&answer(200, &[], body.as_bytes())).unwrap();
        }
    });
    let text = log.text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("data.orderNumber") && text.contains("data.dcvStatus.domains[].domainName"), "{text}");
}

#[rstest]
#[case::mark(None, "\u{feff}".as_bytes(), "é".as_bytes())]
#[case::latin(Some("application/json; charset=ISO-8859-1"), b"", b"\xE9")]
fn a_page_is_decoded_in_its_charset(
    #[case] content_type: Option<&'static str>,
    #[case] mark: &[u8],
    #[case] letter: &[u8],
) {
    let (before, after) = EVERY_SECTION.split_once("EV Multi-Domain").unwrap();
    let body = [mark, before.as_bytes(), letter, after.as_bytes()].concat();
    let headers = content_type.map(|value| ("content-type", value));
    let page = read_answer(&answer(200, headers.as_slice(), &body), EVERY_SECTION_ORDER).unwrap().page;
    assert_eq!((page.product_name.as_str(), page.irregular_fields.len()), ("é SSL", 0));
}

#[test]
fn a_field_that_does_not_fit_the_charset_loses_only_itself() {
    let (before, after) = EVERY_SECTION.split_once("EV Multi-Domain").unwrap();
    let page = read([before.as_bytes(), b"\xE9", after.as_bytes()].concat()).unwrap().page;
    assert_eq!((page.product_name.as_str(), page.product_type), ("", 287));
    assert_eq!(page.irregular_fields, ["data.productName"]);
}

#[rstest]
#[case::empty(b"".to_vec(), "the body is empty")]
#[case::blank(b" \r\n\t".to_vec(), "the body is empty")]
#[case::html(b"<html><body>502 Bad Gateway</body></html>".to_vec(), "the body is not JSON at line 1 column 1")]
#[case::newline_text(b"-16\nPermission denied!".to_vec(), "the body is not JSON at line 2 column 1")]
#[case::truncated(EVERY_SECTION.as_bytes()[..EVERY_SECTION.len() / 2].to_vec(), "the body is cut off")]
#[case::nan(b"{\"errorCode\":NaN}".to_vec(), "the body is not JSON at line 1")]
#[case::infinity(b"{\"errorCode\":1e999}".to_vec(), "errorCode must be an integer of 32 bits and is a number")]
#[case::deep([b"{\"errorCode\":0,\"x\":".as_slice(), &[b'['; 100_000]].concat(), "the body is cut off")]
#[case::not_utf8(b"{\"errorCode\":0\xFF}".to_vec(), "the body is not UTF-8")]
#[case::order_is_not_utf8(
    b"{\"errorCode\":0,\"data\":{\"orderNumber\":\"3000002\xFF\"}}".to_vec(),
    "data.orderNumber: the answer is not for this order"
)]
#[case::utf16(b"\xFF\xFE{\0}\0".to_vec(), "errorCode is missing")]
#[case::half_utf16(b"\xFF\xFE{\0}".to_vec(), "the body is not UTF-16LE")]
#[case::two_texts(b"{\"errorCode\":0}{\"errorCode\":0}".to_vec(), "the body is not JSON at line 1 column 16")]
#[case::array(b"[{\"errorCode\":0}]".to_vec(), "the body must be an object and is an array")]
#[case::null(b"null".to_vec(), "the body must be an object and is null")]
#[case::no_code(b"{\"data\":{\"orderNumber\":\"3000002\"}}".to_vec(), "errorCode is missing")]
#[case::code_as_value(b"{\"errorCode\":\"zero\"}".to_vec(), "errorCode must be an integer of 32 bits and is a string")]
#[case::code_as_empty_text(b"{\"errorCode\":\"\"}".to_vec(), "errorCode must be an integer of 32 bits and is a string")]
#[case::two_codes(b"{\"errorCode\":0,\"errorCode\":-16}".to_vec(), "errorCode occurs twice")]
#[case::huge_code(b"{\"errorCode\":-99999999999}".to_vec(), "errorCode must be an integer of 32 bits and is an integer")]
#[case::no_data(b"{\"errorCode\":0,\"errorMessage\":\"\"}".to_vec(), "data is missing")]
#[case::null_data(b"{\"errorCode\":0,\"data\":null}".to_vec(), "data is missing")]
#[case::data_as_list(b"{\"errorCode\":0,\"data\":[\"3000002\"]}".to_vec(), "data must be an object and is an array")]
#[case::no_order(b"{\"errorCode\":0,\"data\":{}}".to_vec(), "data.orderNumber: the answer is not for this order")]
#[case::other_order(
    b"{\"errorCode\":0,\"data\":{\"orderNumber\":\"3000003\"}}".to_vec(),
    "data.orderNumber: the answer is not for this order"
)]
#[case::other_order_as_number(
    b"{\"errorCode\":0,\"data\":{\"orderNumber\":3000003}}".to_vec(),
    "data.orderNumber: the answer is not for this order"
)]
#[case::two_orders(
    b"{\"errorCode\":0,\"data\":{\"orderNumber\":\"3000002\",\"orderNumber\":\"3000003\"}}".to_vec(),
    "data.orderNumber: the answer is not for this order"
)]
#[case::data_as_text(b"{\"errorCode\":0,\"data\":\"\"}".to_vec(), "data must be an object and is a string")]
fn an_undocumented_answer_is_not_believed(#[case] body: Vec<u8>, #[case] expected: &str) {
    match read(&body) {
        Err(StatusError::Protocol { problem }) => assert!(problem.starts_with(expected), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::order_as_number("{\"errorCode\":0,\"data\":{\"orderNumber\":3000002}}", "data.orderNumber")]
#[case::order_with_blanks("{\"errorCode\":0,\"data\":{\"orderNumber\":\" 3000002 \"}}", "")]
#[case::code_as_text("{\"errorCode\":\"0\",\"data\":{\"orderNumber\":\"3000002\"}}", "errorCode")]
#[case::message_as_list("{\"errorCode\":0,\"errorMessage\":[],\"data\":{\"orderNumber\":\"3000002\"}}", "")]
#[case::one_code_twice("{\"errorCode\":0,\"errorCode\":0,\"data\":{\"orderNumber\":\"3000002\"}}", "errorCode")]
fn an_envelope_in_another_form_is_accepted(#[case] body: &str, #[case] paths: &str) {
    assert_eq!(read(body).unwrap().page.irregular_fields.join(" "), paths);
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or(String::new(), |wait| format!(" ({} s)", wait.as_secs()))
}

/// One line for a table of expectations.
fn kind(error: &StatusError) -> String {
    match error {
        StatusError::Unreachable { why, retry_after } => format!("unreachable, {why}{}", wait(*retry_after)),
        StatusError::NotNow { code, message, retry_after } => {
            format!("not now {code}, {message}{}", wait(*retry_after))
        }
        StatusError::Timeout => "timeout".to_owned(),
        StatusError::Protocol { problem } => format!("protocol, {problem}"),
        StatusError::CredentialsRefused { code, message } => format!("credentials {code}, {message}"),
        StatusError::OrderNotFound { order_number, code, message } => {
            format!("not found {order_number} {code}, {message}")
        }
        StatusError::Refused { code, message } => format!("refused {code}, {message}"),
    }
}

#[rstest]
#[case(-1, "Request was not made over https!", "refused -1, Request was not made over https!")]
#[case(-2, "'x' is an unrecognised argument!", "refused -2, 'x' is an unrecognised argument!")]
#[case(-3, "The 'orderNumber' argument is missing!", "refused -3, The 'orderNumber' argument is missing!")]
#[case(
    -4,
    "The value of the 'orderNumber' argument is invalid!",
    "not found 3000002 -4, The value of the 'orderNumber' argument is invalid!"
)]
#[case(
    -4,
    "The value of the 'CertificateID' argument is invalid!",
    "refused -4, The value of the 'CertificateID' argument is invalid!"
)]
#[case(-4, "", "not found 3000002 -4, ")]
#[case(
    -14,
    "An unknown error occurred!",
    "not now -14, An unknown error occurred!"
)]
#[case(-16, "Incorrect login details", "credentials -16, Incorrect login details")]
#[case(-16, "c4nary-secret\u{7}", "credentials -16, ***\\u{7}")]
#[case(-17, "Request used GET rather than POST!", "refused -17, Request used GET rather than POST!")]
#[case(-20, "rejected", "refused -20, rejected")]
#[case(-42, "maximum calls reached", "not now -42, maximum calls reached (60 s)")]
#[case(-91, "Permission denied Context", "refused -91, Permission denied Context")]
#[case(-160, "General error", "not now -160, General error")]
#[case(-9999, "Something new", "refused -9999, Something new")]
#[case(1, "Payment required", "refused 1, Payment required")]
fn every_code_has_one_meaning(#[case] code: i32, #[case] message: &str, #[case] expected: &str) {
    let body = serde_json::json!({ "errorCode": code, "errorMessage": message, "data": 7 }).to_string();
    assert_eq!(kind(&read(body).unwrap_err()), expected);
}

#[rstest]
#[case(500, "unreachable, HTTP 500")]
#[case(503, "unreachable, HTTP 503")]
#[case(429, "unreachable, HTTP 429 (60 s)")]
#[case(201, "protocol, HTTP 201")]
#[case(302, "protocol, HTTP 302")]
#[case(403, "protocol, HTTP 403")]
#[case(404, "protocol, HTTP 404")]
fn another_http_status_is_not_a_page(#[case] status: u16, #[case] expected: &str) {
    let error = read_as(status, EVERY_SECTION.as_bytes(), EVERY_SECTION_ORDER).unwrap_err();
    assert_eq!(kind(&error), expected);
}

fn fingerprint(body: &str) -> String {
    ValidationStatus::new(read(body).unwrap(), Timestamp::from_seconds(0)).fingerprint().to_owned()
}

/// Changes every leaf of the fixture, one at a time. A member that the reader ignores would leave
/// the fingerprint unchanged.
#[test]
fn the_fingerprint_changes_with_every_member() {
    let whole: serde_json::Value = serde_json::from_str(EVERY_SECTION).unwrap();
    let before = fingerprint(EVERY_SECTION);
    let mut fingerprints = std::collections::BTreeSet::from([before.clone()]);
    let mut leaves = Vec::new();
    collect_leaves(&whole["data"], "/data", &mut leaves);
    assert!(leaves.len() > 110, "{}", leaves.len());
    for leaf in leaves {
        let mut changed = whole.clone();
        let value = changed.pointer_mut(&leaf).unwrap();
        *value = match value {
            serde_json::Value::String(text) => format!("{text}x").into(),
            ref number => (number.as_i64().unwrap() + 1).into(),
        };
        if leaf == "/data/orderNumber" {
            continue;
        }
        let after = fingerprint(&changed.to_string());
        if leaf == "/data/uploadDocumentToken" {
            assert_eq!(after, before);
        } else {
            assert!(fingerprints.insert(after), "{leaf} does not change the fingerprint");
        }
    }
}

#[test]
fn the_fingerprint_ignores_formatting() {
    let whole: serde_json::Value = serde_json::from_str(EVERY_SECTION).unwrap();
    // Compact, with its members in alphabetical order.
    assert_eq!(fingerprint(&whole.to_string()), fingerprint(EVERY_SECTION));
    assert_eq!(
        fingerprint(&EVERY_SECTION.replace("\"data\": {", "\"data\": { \"new\": 1,")),
        fingerprint(EVERY_SECTION)
    );
}

fn collect_leaves(value: &serde_json::Value, path: &str, leaves: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            members.iter().for_each(|(name, inner)| collect_leaves(inner, &format!("{path}/{name}"), leaves));
        }
        serde_json::Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, inner)| collect_leaves(inner, &format!("{path}/{index}"), leaves));
        }
        _ => leaves.push(path.to_owned()),
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(body);
    }

    #[test]
    fn no_damage_panics(at in 0..EVERY_SECTION.len(), byte in any::<u8>(), length in 0..EVERY_SECTION.len()) {
        let mut body = EVERY_SECTION.as_bytes().to_vec();
        body[at] = byte;
        let _ = read(&body);
        body.truncate(length);
        let _ = read(&body);
    }

    #[test]
    fn no_member_loses_the_page_and_no_path_shows_a_value(members in json_members()) {
        match page_with(&members) {
            Ok(page) => prop_assert!(!page.irregular_fields.join(" ").contains("canary"), "{:?}", page.irregular_fields),
            Err(problem) => prop_assert!(false, "{}", problem),
        }
    }
}

/// Documented members with values of any kind.
fn json_members() -> impl Strategy<Value = String> {
    let leaf =
        prop::sample::select(vec!["null", "true", "0", "-7", "1.5", "\"canary\"", "[]", "{}", "[null,\"canary\"]"]);
    let value = leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((member_name(), inner), 0..4).prop_map(|members| format!("{{{}}}", joined(&members))),
        ]
    });
    prop::collection::vec((member_name(), value), 1..6).prop_map(|members| joined(&members))
}

fn joined(members: &[(&'static str, String)]) -> String {
    members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(",")
}

fn member_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "orderStatus",
        "productType",
        "maStatus",
        "csrStatus",
        "dcvStatus",
        "organizationStatus",
        "legalExistence",
        "caaCheckStatus",
        "latestCAACheckErrors",
        "domains",
        "methods",
        "options",
        "availableActions",
        "status",
        "title",
    ])
}

fn source(server: &ScriptedServer) -> Sectigo {
    let http = HttpClient::new(&HttpSettings {
        endpoint: &server.endpoint().parse().unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_millis(200),
        total_timeout: Duration::from_millis(400),
        reuse_connections: false,
    });
    Sectigo::new(
        http.unwrap_or_else(|error| panic!("{error}")),
        "demo".to_owned(),
        SecretString::from("p&ss word!").into(),
    )
}

#[rstest]
#[case(0, "loginName=demo&loginPassword=p%26ss+word%21&orderNumber=1000001")]
#[case(42, "loginName=demo&loginPassword=p%26ss+word%21&orderNumber=1000001&CertificateID=42")]
#[tokio::test]
async fn the_request_has_exactly_these_bytes(#[case] certificate_id: i64, #[case] form: &str) {
    let server = ScriptedServer::start(Script::Send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")).await;
    let order = OrderKey::new("1000001", certificate_id, "").unwrap();
    let error = source(&server).validation_status(&order).await.unwrap_err();
    assert_eq!(kind(&error), "unreachable, HTTP 503");
    let request = server.requests().remove(0);
    assert!(request.starts_with("POST /products/!getPostPaymentStatus HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("content-type: application/x-www-form-urlencoded\r\n"), "{request}");
    assert!(request.ends_with(&format!("\r\n\r\n{form}")), "{request}");
}

#[rstest]
#[case::silent(Script::Hang, "timeout")]
#[case::silent_inside_the_body(Script::SendAndHold("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "timeout")]
#[case::closed(Script::Close, "unreachable")]
#[case::cut_off(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "unreachable")]
#[case::endless(Script::Flood { claim_length: false }, "protocol, HTTP 200 with a body longer than 1048576 bytes")]
#[case::not_a_page(
    Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0"),
    "protocol, the body must be an object"
)]
#[tokio::test]
async fn a_call_fails_in_every_possible_way(#[case] script: Script, #[case] expected: &str) {
    let server = ScriptedServer::start(script).await;
    let order = OrderKey::new("1000001", 0, "").unwrap();
    let error = source(&server).validation_status(&order).await.unwrap_err();
    assert!(kind(&error).starts_with(expected), "{error:?}");
}

#[tokio::test]
async fn a_provider_that_refuses_connections_is_unreachable() {
    let server = ScriptedServer::start(Script::Close).await;
    let source = source(&server);
    server.stopped().await;
    let order = OrderKey::new("1000001", 0, "").unwrap();
    let error = source.validation_status(&order).await.unwrap_err();
    assert!(kind(&error).starts_with("unreachable, no connection"), "{error:?}");
}
