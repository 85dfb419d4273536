//! One row per documented answer, and the state that follows it.

use http::header::HeaderValue;
use rstest::rstest;
use serde_json::{Value, json};
use time::{Duration, macros::datetime};

use super::*;
use crate::request::Effect;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const FORM: &str = "application/x-www-form-urlencoded";
const REFUND: &str = "/products/!AutoRefund";
const REJECT: &str = "/products/!AutoReject";
const STATUS: &str = "/products/!getPostPaymentStatus";
const LOGIN: &str = "loginName=demo&loginPassword=demo-password";

fn request(method: Method, path: &str, content_type: &'static str, body: &[u8]) -> Request {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let body = bytes::Bytes::copy_from_slice(body);
    Request::new(method, path, headers, body, true)
}

fn post(path: &str, body: &str) -> Request {
    request(Method::POST, path, FORM, body.as_bytes())
}

fn refund_of(order: &str) -> Request {
    post(REFUND, &format!("{LOGIN}&orderNumber={order}&refundReasonCode=11"))
}

fn status_of(order: &str) -> Request {
    post(STATUS, &format!("{LOGIN}&orderNumber={order}"))
}

fn body(handled: &Handled) -> String {
    assert_eq!(handled.response.status, StatusCode::OK);
    String::from_utf8(handled.response.body.to_vec()).unwrap()
}

fn plain_body(handled: &Handled) -> String {
    assert_eq!(handled.response.headers[header::CONTENT_TYPE], "text/plain");
    body(handled)
}

fn json_body(handled: &Handled) -> Value {
    assert_eq!(handled.response.headers[header::CONTENT_TYPE], "application/json; charset=UTF-8");
    serde_json::from_str(&body(handled)).unwrap()
}

/// Demo data and one request.
fn asked(request: &Request) -> (State, Handled) {
    let mut state = State::demo(NOW);
    let handled = handle(&mut state, &Settings::default(), NOW, request);
    (state, handled)
}

#[rstest]
#[case::success("orderNumber=1000001&refundReasonCode=1", "0")]
#[case::success_with_reason_11("orderNumber=1000001&refundReasonCode=11", "0")]
#[case::plus_and_percent_decoded("order%4Eumber=%31000001&refundReasonCode=11", "0")]
#[case::empty_pairs("&&orderNumber=1000001&&refundReasonCode=11&", "0")]
#[case::unknown_argument(
    "orderNumber=1000001&refundReasonCode=1&responseFormat=1",
    "-2\n'responseFormat' is an unrecognized argument!"
)]
#[case::another_unknown_argument(
    "orderNumber=1000001&refundReasonCode=1&test=Y",
    "-2\n'test' is an unrecognized argument!"
)]
#[case::names_are_case_sensitive(
    "ordernumber=1000001&refundReasonCode=1",
    "-2\n'ordernumber' is an unrecognized argument!"
)]
#[case::argument_twice(
    "orderNumber=1000001&orderNumber=1000001&refundReasonCode=1",
    "-2\n'orderNumber' is an unrecognized argument!"
)]
#[case::unknown_before_missing("foo=1", "-2\n'foo' is an unrecognized argument!")]
#[case::name_on_one_line("a%0Ab=1", "-2\n'a b' is an unrecognized argument!")]
#[case::missing_order_number("refundReasonCode=1", "-3\nThe 'orderNumber' argument is missing!")]
#[case::empty_order_number("orderNumber=&refundReasonCode=1", "-3\nThe 'orderNumber' argument is missing!")]
#[case::missing_reason("orderNumber=1000001", "-3\nThe 'refundReasonCode' argument is missing!")]
#[case::reason_0(
    "orderNumber=1000001&refundReasonCode=0",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::reason_12(
    "orderNumber=1000001&refundReasonCode=12",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::reason_negative(
    "orderNumber=1000001&refundReasonCode=-1",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::reason_no_number(
    "orderNumber=1000001&refundReasonCode=other",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::reason_with_fraction(
    "orderNumber=1000001&refundReasonCode=1.0",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::reason_overflows(
    "orderNumber=1000001&refundReasonCode=99999999999999999999",
    "-4\nThe value of the 'refundReasonCode' argument is invalid!"
)]
#[case::order_number_no_number(
    "orderNumber=abc&refundReasonCode=1",
    "-4\nThe value of the 'orderNumber' argument is invalid!"
)]
#[case::order_number_not_utf8(
    "orderNumber=%FF&refundReasonCode=1",
    "-4\nThe value of the 'orderNumber' argument is invalid!"
)]
#[case::unknown_order("orderNumber=1&refundReasonCode=1", "-16\nPermission denied!")]
#[case::somebody_elses_order("orderNumber=9000001&refundReasonCode=1", "-16\nPermission denied!")]
#[case::fails_before("orderNumber=2000004&refundReasonCode=1", "-14\nAn unknown error occurred!")]
#[case::fails_after("orderNumber=2000005&refundReasonCode=1", "-14\nAn unknown error occurred!")]
#[case::multi_domain(
    "orderNumber=2000001&refundReasonCode=1",
    "-18\nMulti-domain orders cannot be refunded automatically, please submit a ticket"
)]
#[case::period_over("orderNumber=2000002&refundReasonCode=1", "-18\nThe refund period for this order is over")]
#[case::already_refunded("orderNumber=2000003&refundReasonCode=1", "-18\nThis order has already been refunded")]
fn a_refund_answers(#[case] arguments: &str, #[case] answer: &str) {
    let (state, handled) = asked(&post(REFUND, &format!("{LOGIN}&{arguments}")));
    assert_eq!(plain_body(&handled), answer);
    let refunds = usize::from(answer == "0" || arguments.contains("2000005"));
    assert_eq!(handled.effects.len(), refunds);
    let order = state.order(if arguments.contains("2000005") { "2000005" } else { "1000001" }).unwrap();
    assert_eq!(order.refunded_at.is_some(), refunds == 1);
}

#[rstest]
#[case::no_name("loginPassword=demo-password", "-3\nThe 'loginName' argument is missing!")]
#[case::no_password("loginName=demo", "-3\nThe 'loginPassword' argument is missing!")]
#[case::wrong_name("loginName=Demo&loginPassword=demo-password", "-16\nPermission denied!")]
#[case::wrong_password("loginName=demo&loginPassword=Demo-password", "-16\nPermission denied!")]
#[case::long_name(&format!("loginName={}&loginPassword=x", "ä".repeat(65)), "-4\nThe value of the 'loginName' argument is invalid!")]
#[case::longest_name(&format!("loginName={}&loginPassword=x", "ä".repeat(64)), "-16\nPermission denied!")]
#[case::long_password(&format!("loginName=demo&loginPassword={}", "x".repeat(129)), "-4\nThe value of the 'loginPassword' argument is invalid!")]
fn a_login_answers(#[case] login: &str, #[case] answer: &str) {
    let (_, handled) = asked(&post(REFUND, &format!("{login}&orderNumber=1000001&refundReasonCode=1")));
    assert_eq!(plain_body(&handled), answer);
    assert_eq!(handled.effects, []);
}

#[rstest]
#[case(128, "-16\nPermission denied!")]
#[case(129, "-4\nThe value of the 'orderNumber' argument is invalid!")]
fn an_order_number_has_at_most_128_characters(#[case] digits: usize, #[case] answer: &str) {
    assert_eq!(plain_body(&asked(&refund_of(&"1".repeat(digits))).1), answer);
}

#[rstest]
#[case::get(Method::GET)]
#[case::put(Method::PUT)]
#[case::delete(Method::DELETE)]
fn only_post_is_accepted(#[case] method: Method, #[values(REFUND, REJECT, STATUS)] path: &str) {
    let body_sent = format!("{LOGIN}&orderNumber=1000001&refundReasonCode=1");
    let (_, handled) = asked(&request(method, path, FORM, body_sent.as_bytes()));
    if path == STATUS {
        assert_eq!(json_body(&handled), json!({ "errorCode": -17, "errorMessage": GET }));
    } else {
        assert_eq!(plain_body(&handled), "-17\nRequest used GET rather than POST!");
    }
    assert_eq!(handled.effects, []);
}

#[rstest]
#[case("/")]
#[case("/products/!AutoRefund/")]
#[case("/products/!autorefund")]
#[case("/products/download/!AutoRefund")]
fn other_paths_are_404(#[case] path: &str) {
    assert_eq!(asked(&post(path, "")).1.response.status, StatusCode::NOT_FOUND);
}

#[rstest]
#[case(REFUND)]
#[case(REJECT)]
#[case("/anything")]
fn plaintext_is_always_refused(#[case] path: &str, #[values(Method::GET, Method::POST)] method: Method) {
    let sent = format!("{LOGIN}&orderNumber=1000001&refundReasonCode=11");
    let request = Request { tls: false, ..request(method, path, FORM, sent.as_bytes()) };
    let (_, handled) = asked(&request);
    assert_eq!(plain_body(&handled), "-1\nRequest was not made over HTTPS!");
    assert_eq!(handled.effects, []);
}

#[test]
fn plaintext_is_refused_in_the_wording_of_the_status_call() {
    let handled = asked(&Request { tls: false, ..status_of("1000001") }).1;
    assert_eq!(json_body(&handled), json!({ "errorCode": -1, "errorMessage": "Request was not made over https!" }));
}

#[rstest]
#[case("application/json")]
#[case("text/plain")]
#[case("multipart/form-data; boundary=x")]
fn another_content_type_has_no_arguments(#[case] content_type: &'static str) {
    let sent = refund_of("1000001").body;
    let (_, handled) = asked(&request(Method::POST, REFUND, content_type, &sent));
    assert_eq!(plain_body(&handled), "-3\nThe 'loginName' argument is missing!");
}

#[test]
fn parameters_of_the_content_type_do_not_matter() {
    let sent = refund_of("1000001").body;
    let content_type = "Application/X-WWW-Form-Urlencoded; charset=UTF-8";
    assert_eq!(plain_body(&asked(&request(Method::POST, "/products/%21AutoRefund", content_type, &sent)).1), "0");
}

#[test]
fn bytes_that_are_no_text_are_answered() {
    let (_, handled) = asked(&request(Method::POST, REFUND, FORM, b"\xff\xfe=\xff&\0\0&&&=&=="));
    assert!(plain_body(&handled).starts_with("-2\n"));
}

#[test]
fn a_refund_is_recorded_once_and_cancels_the_order() {
    let (mut state, handled) = asked(&refund_of("1000007"));
    let refund = Effect {
        kind: "refund".to_owned(),
        target: "1000007".to_owned(),
        amount_minor: Some(9900),
        currency: Some("USD".to_owned()),
        identifier: None,
        reference: None,
        account: Some("demo".to_owned()),
        fee_minor: None,
        paid_to: None,
    };
    assert_eq!(handled.effects, [refund]);
    let settings = Settings::default();
    let again = handle(&mut state, &settings, NOW, &refund_of("1000007"));
    assert_eq!(plain_body(&again), "-18\nThis order has already been refunded");
    assert_eq!(again.effects, []);
    let shown = handle(&mut state, &settings, NOW, &status_of("1000007"));
    assert_eq!(json_body(&shown)["data"]["orderStatus"], "Refunded");
}

#[test]
fn the_refund_period_is_a_setting_and_ends_with_the_day() {
    let settings = Settings { refund_period_days: 14, ..Settings::default() };
    let mut state = State::demo(NOW);
    let just_over = NOW + Duration::days(14) + Duration::SECOND;
    let over = handle(&mut state, &settings, just_over, &refund_of("1000001"));
    assert_eq!(plain_body(&over), "-18\nThe refund period for this order is over");
    let in_time = handle(&mut state, &settings, NOW + Duration::days(14), &refund_of("1000001"));
    assert_eq!(plain_body(&in_time), "0");
}

#[test]
fn a_refund_shows_after_the_lag() {
    let settings = Settings { status_lag_seconds: 60, ..Settings::default() };
    let mut state = State::demo(NOW);
    handle(&mut state, &settings, NOW, &refund_of("1000001"));
    let mut status_at =
        |now| json_body(&handle(&mut state, &settings, now, &status_of("1000001")))["data"]["orderStatus"].clone();
    assert_eq!(status_at(NOW + Duration::seconds(59)), "Processed");
    assert_eq!(status_at(NOW + Duration::seconds(60)), "Refunded");
}

#[test]
fn a_setting_limits_calls_per_account_and_minute() {
    let settings = Settings { calls_per_minute: Some(2), ..Settings::default() };
    let mut state = State::demo(NOW);
    let mut at = |now| body(&handle(&mut state, &settings, now, &refund_of("1000001")));
    assert_eq!(at(NOW), "0");
    assert!(at(NOW).starts_with("-18"));
    assert_eq!(at(NOW + Duration::seconds(59)), "-42\nCall limit reached, please try again later");
    assert!(at(NOW + Duration::seconds(60)).starts_with("-18"));
}

#[test]
fn line_endings_are_settings() {
    let settings = Settings { crlf: true, trailing_newline: true, ..Settings::default() };
    let mut state = State::demo(NOW);
    let mut ask = |order| body(&handle(&mut state, &settings, NOW, &refund_of(order)));
    assert_eq!(ask("1000001"), "0\r\n");
    assert_eq!(ask("1"), "-16\r\nPermission denied!\r\n");
}

#[test]
fn a_setting_allows_any_text_as_order_number() {
    let settings = Settings { order_numbers_are_digits: false, ..Settings::default() };
    let mut state = State::demo(NOW);
    state.put_order(Order::new("SL-7"), NOW).unwrap();
    assert_eq!(body(&handle(&mut state, &settings, NOW, &refund_of("SL-7"))), "0");
}

#[rstest]
#[case::unknown_argument("orderNumber=1000001&foo=1", -2, "'foo' is an unrecognised argument!")]
#[case::missing("", -3, "The 'orderNumber' argument is missing!")]
#[case::certificate_id_no_number("orderNumber=1000001&CertificateID=x", -4, "The value of the 'CertificateID' argument is invalid!")]
#[case::certificate_id_too_long("orderNumber=1000001&CertificateID=12345678901234567", -4, "The value of the 'CertificateID' argument is invalid!")]
#[case::unknown_order("orderNumber=1", -4, "The value of the 'orderNumber' argument is invalid!")]
#[case::somebody_elses("orderNumber=9000001", -4, "The value of the 'orderNumber' argument is invalid!")]
fn a_status_is_refused(#[case] arguments: &str, #[case] code: i32, #[case] message: &str) {
    let handled = asked(&post(STATUS, &format!("{LOGIN}&{arguments}"))).1;
    assert_eq!(json_body(&handled), json!({ "errorCode": code, "errorMessage": message }));
}

#[test]
fn a_status_is_refused_to_a_wrong_login_and_a_locked_one() {
    let wrong = asked(&post(STATUS, "loginName=demo&loginPassword=x&orderNumber=1000001")).1;
    let message = "Incorrect login details, account is locked, password has expired or your source IP is blocked.";
    assert_eq!(json_body(&wrong), json!({ "errorCode": -16, "errorMessage": message }));

    let mut state = State::demo(NOW);
    let account = Account { locked: true, ..(*state.accounts().first().unwrap()).clone() };
    state.put_account(account).unwrap();
    let locked = handle(&mut state, &Settings::default(), NOW, &status_of("1000001"));
    assert_eq!(json_body(&locked)["errorCode"], -16);
}

#[test]
fn an_order_can_be_set_to_fail_its_status() {
    let mut state = State::demo(NOW);
    state.put_order(Order { status_fails: true, ..Order::new("7") }, NOW).unwrap();
    let failed = handle(&mut state, &Settings::default(), NOW, &status_of("7"));
    assert_eq!(json_body(&failed), json!({ "errorCode": -14, "errorMessage": "An unknown error occurred!" }));
}

#[rstest]
#[case(STATUS)]
#[case("/products/%21getPostPaymentStatus")]
#[case("/products/download/!getPostPaymentStatus")]
fn the_documented_sample_is_answered_field_for_field(#[case] path: &str) {
    let sent = format!("{LOGIN}&orderNumber=3000001&CertificateID=1234567890123456");
    // Written out of the documentation, in its order; only the order number is our own.
    let sample = r#"{"errorCode":0,"errorMessage":"","data":{"orderNumber":"3000001","productType":801,"productName":"Verified Mark Certificate (VMC)","certificateDuration":365,"productTerm":365,"orderStatus":"Pending","domainName":"Multiple domains","maxMDCDomains":2,"csrStatus":{"title":"Submit your CSR","status":"Completed","description":"You have already submitted your CSR."},"agreementStatus":{"title":"Agreement Execution","status":"ActionRequired","clickThroughStatus":"notExecuted","clickThroughEmailAddress":"","lastEmailSent":"2025-06-11","lastOpenDate":"2025-06-12","availableActions":["canUpdateEmailAddress","resendAgreementEmail"]},"callbackStatus":{"title":"Order Authorization","status":"NotApplicable"},"organizationStatus":{"title":"Organization Validation","status":"NotApplicable"},"secondApprovalStatus":{"title":"Second Approval","status":"NotApplicable"},"fsupStatus":{"title":"Fast Service Certificate","status":"NotApplicable"},"caaCheckStatus":{"title":"CAA Check","status":"NotApplicable"}}}"#;
    assert_eq!(body(&asked(&post(path, &sent)).1), sample);
}

#[test]
fn order_3000002_has_every_documented_field() {
    // Every name of the page's parameter tables, wherever it stands.
    const DOCUMENTED: &[&str] = &[
        "orderNumber",
        "productType",
        "productName",
        "certificateDuration",
        "productTerm",
        "uploadDocumentUrl",
        "uploadDocumentToken",
        "orderStatus",
        "domainName",
        "primaryDomainName",
        "maxMDCDomains",
        "maxMDCWildcardDomains",
        "maStatus",
        "csrStatus.title",
        "csrStatus.status",
        "csrStatus.description",
        "csrStatus.availableActions.0",
        "dcvStatus.title",
        "dcvStatus.status",
        "dcvStatus.description",
        "dcvStatus.availableActions.2",
        "dcvStatus.MD5",
        "dcvStatus.SHA256",
        "dcvStatus.uniqueValue",
        "dcvStatus.domains.1.domainName",
        "dcvStatus.domains.1.dcvStatus",
        "dcvStatus.domains.1.selectedMethod",
        "dcvStatus.domains.0.methods.0.type",
        "dcvStatus.domains.0.methods.1.title",
        "dcvStatus.domains.0.methods.1.level",
        "dcvStatus.domains.0.methods.2.selectedMethod",
        "dcvStatus.domains.0.methods.3.options.0",
        "agreementStatus.title",
        "agreementStatus.status",
        "agreementStatus.description",
        "agreementStatus.clickThroughStatus",
        "agreementStatus.clickThroughEmailAddress",
        "agreementStatus.lastEmailSent",
        "agreementStatus.lastOpenDate",
        "agreementStatus.availableActions.2",
        "callbackStatus.title",
        "callbackStatus.status",
        "callbackStatus.description",
        "callbackStatus.phoneNumber",
        "callbackStatus.availableActions.4",
        "organizationStatus.title",
        "organizationStatus.status",
        "organizationStatus.description",
        "organizationStatus.availableActions.0",
        "organizationStatus.organizationName.title",
        "organizationStatus.legalExistence.status",
        "organizationStatus.assumedName.description",
        "organizationStatus.physicalExistence.title",
        "organizationStatus.operationalExistence.status",
        "organizationStatus.trademarkCheck.description",
        "secondApprovalStatus.title",
        "secondApprovalStatus.status",
        "secondApprovalStatus.description",
        "fsupStatus.title",
        "fsupStatus.status",
        "fsupStatus.description",
        "caaCheckStatus.title",
        "caaCheckStatus.status",
        "caaCheckStatus.latestCAACheckErrors.2.lookupDatetime",
        "caaCheckStatus.latestCAACheckErrors.1.queriedFQDN",
        "caaCheckStatus.latestCAACheckErrors.0.domainName",
        "caaCheckStatus.latestCAACheckErrors.0.result",
    ];
    let answer = json_body(&asked(&status_of("3000002")).1);
    for name in DOCUMENTED {
        let pointer = format!("/data/{}", name.replace('.', "/"));
        assert!(answer.pointer(&pointer).is_some_and(|value| *value != "" && !value.is_null()), "{name}");
    }
    let domains = answer["data"]["dcvStatus"]["domains"].as_array().unwrap();
    for domain in domains {
        let kinds: Vec<_> = domain["methods"].as_array().unwrap().iter().map(|method| &method["type"]).collect();
        assert_eq!(kinds, ["whoisEmail", "email", "csrHash", "manual"]);
    }
    assert_eq!(domains.len(), 2);
}

#[rstest]
#[case::action_required("ActionRequired", true)]
#[case::completed("Completed", false)]
#[case::in_progress("InProgress", false)]
#[case::undocumented("Whatever", false)]
fn errors_of_the_caa_check_are_shown_with_one_status_only(#[case] status: &str, #[case] shown: bool) {
    let mut state = State::demo(NOW);
    let mut order = state.order("3000002").unwrap();
    order.validation.caa_check_status.as_mut().unwrap().status = Some(status.to_owned());
    state.put_order(order, NOW).unwrap();
    let handled = handle(&mut state, &Settings::default(), NOW, &status_of("3000002"));
    let body = json_body(&handled);
    assert_eq!(body["data"]["caaCheckStatus"]["status"], status);
    assert_eq!(body["data"]["caaCheckStatus"].get("latestCAACheckErrors").is_some(), shown);
}

#[rstest]
#[case("3000001")]
#[case("3000002")]
fn the_special_orders_can_be_refunded(#[case] order: &str) {
    let (mut state, handled) = asked(&refund_of(order));
    assert_eq!(plain_body(&handled), "0");
    let before = json_body(&asked(&status_of(order)).1);
    let mut after = json_body(&handle(&mut state, &Settings::default(), NOW, &status_of(order)));
    assert_eq!(after["data"]["orderStatus"], "Refunded");
    after["data"]["orderStatus"] = before["data"]["orderStatus"].clone();
    assert_eq!(after, before);
}

#[rstest]
#[case::done("", "0", 1)]
#[case::only_a_test("&test=Y", "0", 0)]
#[case::no_test("&test=N", "0", 1)]
#[case::no_word("&test=1", "-4\nThe value of the 'test' argument is invalid!", 0)]
#[case::with_a_reason("&refundReasonCode=1", "-2\n'refundReasonCode' is an unrecognized argument!", 0)]
fn auto_reject_does_what_the_real_one_does(#[case] more: &str, #[case] answer: &str, #[case] effects: usize) {
    let sent = post(REJECT, &format!("{LOGIN}&orderNumber=1000001{more}"));
    assert!(inspect(&sent).destructive);
    let (mut state, handled) = asked(&sent);
    assert_eq!(plain_body(&handled), answer);
    assert_eq!(handled.effects.len(), effects);
    if effects == 1 {
        assert_eq!(handled.effects[0].kind, "order_rejected");
        let refused = handle(&mut state, &Settings::default(), NOW, &refund_of("1000001"));
        assert_eq!(plain_body(&refused), "-18\nThis order has been rejected");
    }
}

#[test]
fn inspection_returns_no_password() {
    let sent =
        post(REFUND, "loginName=demo&loginPassword=canary&LOGINPASSWORD=canary&loginPassword=canary&orderNumber=7");
    let info = inspect(&sent);
    assert_eq!(info.operation, "!AutoRefund");
    assert_eq!(info.target.as_deref(), Some("7"));
    assert_eq!(info.username.as_deref(), Some("demo"));
    assert!(info.moves_money && !info.destructive);
    let text = format!("{info:?} {sent:?} {:?}", State::demo(NOW).accounts());
    assert!(!text.contains("canary") && !text.contains("demo-password"), "{text}");
}

#[rstest]
#[case::in_the_query("loginName=demo&loginPassword=canary&note=canary", FORM, "")]
#[case::in_a_body_of_another_type("", "text/plain", "loginName=demo&loginPassword=canary&note=canary")]
#[case::in_json("loginName=demo", "application/json", r#"{"loginPassword":"canary"}"#)]
fn only_known_arguments_of_a_body_that_is_no_form_are_returned(
    #[case] query: &str,
    #[case] content_type: &'static str,
    #[case] body: &str,
) {
    let sent = request(Method::POST, REFUND, content_type, body.as_bytes());
    let info = inspect(&Request { query: Some(query.to_owned()), ..sent });
    // It says in whose world the request is, by whichever settings.
    assert_eq!(info.username.as_deref(), Some("demo"));
    assert!(!format!("{info:?}").contains("canary"), "{info:?}");
}

#[rstest]
#[case(Order { price_minor: -1, ..Order::new("7") }, PutError::Price)]
#[case(Order { currency: "usd".to_owned(), ..Order::new("7") }, PutError::Currency)]
#[case(Order { account: Some("unknown".to_owned()), ..Order::new("7") }, PutError::NoSuchAccount { account: "unknown".to_owned() })]
#[case(Order::new(""), PutError::OrderNumber)]
fn an_invalid_order_is_not_put(#[case] order: Order, #[case] why: PutError) {
    assert_eq!(State::demo(NOW).put_order(order, NOW), Err(why));
}

#[test]
fn a_state_survives_json() {
    let state = State::demo(NOW);
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
}
