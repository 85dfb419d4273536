//! One row per documented code, per fault and per way of writing the same call.

use http::header::HeaderName;
use proptest::prelude::*;
use rstest::rstest;
use time::Duration;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00.1234567 UTC);
const USER: &str = "<User><Password>demo-password</Password><Username>demo</Username></User>";
const ACCOUNT: &str = "<AccountReferenceNo>DS000001</AccountReferenceNo>";
const REST: &str = "<Amount>12.34</Amount><Description>why</Description>";

fn request(method: &str, query: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect();
    let body = bytes::Bytes::copy_from_slice(body);
    let query = query.map(str::to_owned);
    Request { query, ..Request::new(method.parse().unwrap(), SERVICE_PATH, headers, body, false) }
}

fn posted(action: &str, body: &str) -> Request {
    let headers = [("content-type", "text/xml; charset=utf-8"), ("soapaction", action)];
    request("POST", None, &headers, body.as_bytes())
}

fn call(operation: &str, members: &str) -> Request {
    let body = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><{operation} xmlns="http://tempuri.org/"><request xmlns:i="http://www.w3.org/2001/XMLSchema-instance">{members}</request></{operation}></s:Body></s:Envelope>"#
    );
    posted(&format!("\"http://tempuri.org/IDSServices/{operation}\""), &body)
}

fn initiate(members: &str) -> Request {
    call("InitiateRefund", &format!("{USER}{members}"))
}

/// What a client makes of an answer with HTTP 200.
#[derive(Debug)]
struct Seen {
    status: String,
    notes: Vec<(String, String)>,
    members: xml::Element,
    effects: Vec<Effect>,
}

impl Seen {
    fn of(handled: Handled, operation: &str) -> Self {
        assert_eq!(handled.response.status, StatusCode::OK);
        assert_eq!(handled.response.headers["content-type"], "text/xml; charset=utf-8");
        let response = soap::open(&handled.response.body).unwrap();
        assert_eq!(response.name, format!("{operation}Response"));
        let members = response.child(&format!("{operation}Result")).unwrap().clone();
        let text = |element: &xml::Element, name| element.child(name).unwrap().text.clone();
        let notes = members.child("ResponseNotes").unwrap().children.iter();
        let notes = notes.map(|note| (text(note, "Code"), text(note, "NoteType"))).collect();
        Self { status: text(&members, "Status"), notes, members, effects: handled.effects }
    }

    fn codes(&self) -> Vec<&str> {
        self.notes.iter().map(|(code, _)| code.as_str()).collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.members.child(name).unwrap().value()
    }
}

fn initiated(state: &mut State, members: &str) -> Seen {
    Seen::of(handle(state, &Settings::default(), NOW, &initiate(members)), "InitiateRefund")
}

fn looked_up(state: &mut State, members: &str) -> Seen {
    let request = call("GetRefundStatus", &format!("{USER}{members}"));
    Seen::of(handle(state, &Settings::default(), NOW, &request), "GetRefundStatus")
}

#[test]
fn a_refund_is_recorded_and_answered_as_wcf_writes_it() {
    let mut state = State::demo(NOW);
    let members = format!("{ACCOUNT}{REST}<ExternalRefundIdentifier>mine + 1</ExternalRefundIdentifier>");
    let handled = handle(&mut state, &Settings::default(), NOW, &initiate(&members));
    let guid = State::demo(NOW).next_guid();
    assert_eq!(
        std::str::from_utf8(&handled.response.body).unwrap(),
        format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><InitiateRefundResponse xmlns="http://tempuri.org/"><InitiateRefundResult xmlns:a="http://schemas.datacontract.org/2004/07/DSWebService" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><a:DateCreated>2026-03-02T00:00:00.1234567+12:00</a:DateCreated><a:Id>{guid}</a:Id><a:ResponseNotes><a:ResponseMessageNote><a:Code>00</a:Code><a:Note>Success</a:Note><a:NoteType>Info</a:NoteType></a:ResponseMessageNote></a:ResponseNotes><a:Status>Succeed</a:Status><a:ExternalRefundIdentifier>mine + 1</a:ExternalRefundIdentifier><a:RefundRequestNumber>1001</a:RefundRequestNumber></InitiateRefundResult></InitiateRefundResponse></s:Body></s:Envelope>"#
        )
    );
    let effect = Effect {
        kind: "refund".to_owned(),
        target: "DS000001".to_owned(),
        amount_minor: Some(1234),
        currency: Some("AUD".to_owned()),
        identifier: Some("mine + 1".to_owned()),
        reference: Some("1001".to_owned()),
        account: Some("DS000001".to_owned()),
        fee_minor: None,
        paid_to: None,
    };
    assert_eq!(handled.effects, [effect]);
    let refund = &state.refunds()[0];
    assert_eq!((refund.status, refund.description.as_str()), (RefundStatus::Submitted, "why"));
}

#[rstest]
#[case::no_reference(
    "<Amount>1</Amount><Description>d</Description>",
    "12016",
    "Missing required reference number. Must provide either ExternalAccountReferenceNo or AccountReferenceNo or both."
)]
#[case::no_description(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>1</Amount><Description> </Description>",
    "12017",
    "Missing Description"
)]
#[case::nil_description(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>1</Amount><Description i:nil='true'/>",
    "12017",
    "Missing Description"
)]
#[case::unknown_account(
    "<AccountReferenceNo>DS001000</AccountReferenceNo><Amount>1</Amount><Description>d</Description>",
    "08",
    "There is no record found with this criteria"
)]
#[case::unknown_external(
    "<ExternalAccountReferenceNo>X</ExternalAccountReferenceNo><Amount>1</Amount><Description>d</Description>",
    "08",
    "There is no record found with this criteria"
)]
#[case::references_disagree(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><ExternalAccountReferenceNo>EXT-000002</ExternalAccountReferenceNo><Amount>1</Amount><Description>d</Description>",
    "08",
    "There is no record found with this criteria"
)]
#[case::two_accounts(
    "<ExternalAccountReferenceNo>EXT-TWICE</ExternalAccountReferenceNo><Amount>1</Amount><Description>d</Description>",
    "07",
    "Multiple accounts found with this criteria"
)]
#[case::too_much(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>500.01</Amount><Description>d</Description>",
    "13040",
    "Refund amount exceeds amount that has been paid"
)]
#[case::long_identifier(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>1</Amount><Description>d</Description><ExternalRefundIdentifier>012345678901234567890123456789012345678901234567890</ExternalRefundIdentifier>",
    "13203",
    "ExternalRefundIdentifier cannot be more than 50 characters."
)]
#[case::odd_identifier(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>1</Amount><Description>d</Description><ExternalRefundIdentifier>a@b</ExternalRefundIdentifier>",
    "13204",
    "ExternalRefundIdentifier field contains unallowed characters"
)]
#[case::foreign_letter(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><Amount>1</Amount><Description>d</Description><ExternalRefundIdentifier>\u{e9}</ExternalRefundIdentifier>",
    "13204",
    "ExternalRefundIdentifier field contains unallowed characters"
)]
fn a_refusal_has_its_code_and_text(#[case] members: &str, #[case] code: &str, #[case] text: &str) {
    let mut state = State::demo(NOW);
    let seen = initiated(&mut state, members);
    assert_eq!((seen.status.as_str(), &seen.notes), ("Failed", &vec![(code.to_owned(), "Error".to_owned())]));
    assert_eq!(seen.members.child("ResponseNotes").unwrap().children[0].child("Note").unwrap().text, text);
    assert_eq!(seen.value("RefundRequestNumber"), Some("0"));
    assert!(seen.effects.is_empty() && state.refunds().is_empty());
}

#[rstest]
#[case::no_user("")]
#[case::no_password("<User><Username>demo</Username></User>")]
#[case::wrong("<User><Password>Demo-password</Password><Username>demo</Username></User>")]
#[case::an_unknown_username("<User><Password>demo-password</Password><Username>unknown</Username></User>")]
fn wrong_credentials_are_noted_alone(#[case] user: &str) {
    for operation in ["InitiateRefund", "GetRefundStatus"] {
        let handled = handle(
            &mut State::demo(NOW),
            &Settings::default(),
            NOW,
            &call(operation, &format!("{user}<Amount>x</Amount>")),
        );
        let body = String::from_utf8(handled.response.body.to_vec()).unwrap();
        assert!(
            body.contains("<a:Code>02</a:Code><a:Note>Invalid user credentials</a:Note><a:NoteType>Error</a:NoteType>")
        );
        assert_eq!(Seen::of(handled, operation).codes(), ["02"]);
    }
}

#[rstest]
#[case("0.01", Some(1), false)]
#[case("12.34", Some(1234), false)]
#[case(" 12 ", Some(1200), false)]
#[case("+5.", Some(500), false)]
#[case(".5", Some(50), false)]
#[case("000000000012.3", Some(1230), false)]
#[case("12.349", Some(1234), true)]
#[case("12.340", Some(1234), true)]
#[case("0.009", None, true)]
#[case("0", None, false)]
#[case("-1", None, false)]
#[case("-1.001", None, true)]
#[case("123456789", None, false)]
#[case("99999999999999999999999999", None, false)]
#[case("1e3", None, false)]
#[case("1,000.00", None, false)]
#[case("NaN", None, false)]
#[case("twelve", None, false)]
#[case(".", None, false)]
#[case("", None, false)]
fn an_amount_is_read_to_the_cent(#[case] amount: &str, #[case] minor: Option<i64>, #[case] warned: bool) {
    let mut state = State::demo(NOW);
    let members = format!("{ACCOUNT}<Amount>{amount}</Amount><Description>d</Description>");
    let seen = initiated(&mut state, &members);
    let mut expected = match minor {
        Some(_) => vec!["00"],
        None => vec!["13012"],
    };
    if warned {
        expected.insert(usize::from(minor.is_none()), "14021");
        let body = format!("{:?}", seen.members);
        assert!(
            body.contains("Decimal field 'Amount' contains more than 2 decimal points that were ignored by message.")
        );
        assert!(seen.notes.contains(&("14021".to_owned(), "Warning".to_owned())));
    }
    assert_eq!(seen.codes(), expected);
    assert_eq!(seen.status, if minor.is_some() { "Succeed" } else { "Failed" });
    assert_eq!(seen.effects.first().and_then(|effect| effect.amount_minor), minor);
}

#[test]
fn an_amount_has_at_most_eight_whole_digits() {
    let mut state = State::demo(NOW);
    let account = Account { collected_minor: 99_999_999_999, ..Account::new("DS000001", "EXT-000001") };
    state.put_account(account).unwrap();
    let seen = initiated(&mut state, &format!("{ACCOUNT}<Amount>99999999.99</Amount><Description>d</Description>"));
    assert_eq!(seen.effects[0].amount_minor, Some(9_999_999_999));
}

#[test]
fn all_errors_in_a_request_are_noted_together() {
    let long = "@".repeat(51);
    let members = format!("<Amount>-1.234</Amount><ExternalRefundIdentifier>{long}</ExternalRefundIdentifier>");
    let seen = initiated(&mut State::demo(NOW), &members);
    assert_eq!(seen.codes(), ["12016", "13012", "12017", "13203", "13204", "14021"]);
    let warned = format!("{ACCOUNT}<Amount>500.019</Amount><Description>d</Description>");
    assert_eq!(initiated(&mut State::demo(NOW), &warned).codes(), ["13040", "14021"]);
}

#[test]
fn an_identifier_is_unique_per_account() {
    let mut state = State::demo(NOW);
    let with = |account: &str| {
        format!(
            "<AccountReferenceNo>{account}</AccountReferenceNo>{REST}<ExternalRefundIdentifier>a</ExternalRefundIdentifier>"
        )
    };
    assert_eq!(initiated(&mut state, &with("DS000001")).codes(), ["00"]);
    let again = initiated(&mut state, &with("DS000001"));
    assert_eq!(again.notes, [("14143".to_owned(), "Error".to_owned())]);
    assert!(again.effects.is_empty());
    assert_eq!(again.value("ExternalRefundIdentifier"), Some("a"));
    assert_eq!(initiated(&mut state, &with("DS000002")).codes(), ["00"]);
    assert_eq!(state.set_refund_status("a", RefundStatus::Approved, None), Err(MoveError::SeveralRefunds));
    state.set_refund_status("1001", RefundStatus::Rejected, None).unwrap();
    assert_eq!(initiated(&mut state, &with("DS000001")).codes(), ["14143"]);
}

#[test]
fn refunds_use_up_what_was_collected_until_they_are_rejected() {
    let mut state = State::demo(NOW);
    let members = format!("{ACCOUNT}<Amount>300</Amount><Description>d</Description>");
    assert_eq!(initiated(&mut state, &members).codes(), ["00"]);
    assert_eq!(initiated(&mut state, &members).codes(), ["13040"]);
    let literal = Settings { refund_limit: RefundLimit::Collected, ..Settings::default() };
    let mut other = state.clone();
    assert_eq!(handle(&mut other, &literal, NOW, &initiate(&members)).effects.len(), 1);
    let (refund, effects) = state.set_refund_status("1001", RefundStatus::Rejected, Some("no".to_owned())).unwrap();
    assert_eq!((effects[0].kind.as_str(), effects[0].amount_minor), ("refund_rejected", Some(30_000)));
    assert_eq!(refund.note.as_deref(), Some("no"));
    assert_eq!(initiated(&mut state, &members).codes(), ["00"]);
    let moved = state.set_refund_status("1001", RefundStatus::Approved, None);
    assert_eq!(moved, Err(MoveError::Final("Rejected")));
    assert_eq!(state.set_refund_status("77", RefundStatus::Approved, None), Err(MoveError::NoSuchRefund));
}

#[test]
fn a_rejected_refund_can_be_paid_after_all_if_the_settings_allow_it() {
    let mut state = State::demo(NOW);
    let members = format!("{ACCOUNT}<Amount>300</Amount><Description>d</Description>");
    assert_eq!(initiated(&mut state, &members).codes(), ["00"]);
    let mut moved = |status| state.move_refund("1001", status, None, FinalStatuses::CanBeLeft).unwrap().1;
    let kinds = |effects: Vec<Effect>| effects.into_iter().map(|effect| effect.kind).collect::<Vec<_>>();
    assert_eq!(kinds(moved(RefundStatus::Rejected)), ["refund_rejected"]);
    assert_eq!(kinds(moved(RefundStatus::Rejected)), Vec::<String>::new());
    assert_eq!(kinds(moved(RefundStatus::Completed)), ["refund"]);
    assert_eq!(kinds(moved(RefundStatus::Submitted)), Vec::<String>::new());
    assert_eq!(initiated(&mut state, &members).codes(), ["13040"]);
}

#[test]
fn a_refund_without_an_identifier_gets_a_guid_that_can_be_looked_up() {
    let mut state = State::demo(NOW);
    let seen = initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    let guid = seen.value("ExternalRefundIdentifier").unwrap().to_owned();
    assert_eq!(guid.len(), 36);
    let found = looked_up(&mut state, &format!("{ACCOUNT}<ExternalRefundIdentifier>{guid}</ExternalRefundIdentifier>"));
    assert_eq!(found.value("RefundRequestNumber"), Some("1001"));
    let other = initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    assert_ne!(other.value("ExternalRefundIdentifier"), Some(guid.as_str()));
}

#[test]
fn a_failed_refund_without_an_identifier_gets_a_guid_but_is_not_recorded() {
    let mut state = State::demo(NOW);
    let seen = initiated(&mut state, ACCOUNT);
    assert_ne!(seen.codes(), ["00"]);
    let guid = seen.value("ExternalRefundIdentifier").unwrap().to_owned();
    assert_eq!((guid.len(), guid.matches('-').count()), (36, 4));
    let looked =
        looked_up(&mut state, &format!("{ACCOUNT}<ExternalRefundIdentifier>{guid}</ExternalRefundIdentifier>"));
    assert_eq!(looked.codes(), ["08"]);
    let given = initiated(&mut state, &format!("{ACCOUNT}<ExternalRefundIdentifier>mine</ExternalRefundIdentifier>"));
    assert_eq!(given.value("ExternalRefundIdentifier"), Some("mine"));
}

#[rstest]
#[case::by_number(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><RefundRequestNumber>1001</RefundRequestNumber>",
    "00"
)]
#[case::by_short_number(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><RefundRequestNo>1001</RefundRequestNo>",
    "00"
)]
#[case::by_identifier(
    "<ExternalAccountReferenceNo>EXT-000001</ExternalAccountReferenceNo><ExternalRefundIdentifier>a</ExternalRefundIdentifier>",
    "00"
)]
#[case::by_both(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><ExternalRefundIdentifier>a</ExternalRefundIdentifier><RefundRequestNumber>1001</RefundRequestNumber>",
    "00"
)]
#[case::disagreeing(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><ExternalRefundIdentifier>a</ExternalRefundIdentifier><RefundRequestNumber>1002</RefundRequestNumber>",
    "08"
)]
#[case::other_account(
    "<AccountReferenceNo>DS000002</AccountReferenceNo><RefundRequestNumber>1001</RefundRequestNumber>",
    "08"
)]
#[case::no_account("<RefundRequestNumber>1001</RefundRequestNumber>", "12016")]
#[case::unknown_account(
    "<AccountReferenceNo>DS9</AccountReferenceNo><RefundRequestNumber>1001</RefundRequestNumber>",
    "08"
)]
#[case::two_accounts(
    "<ExternalAccountReferenceNo>EXT-TWICE</ExternalAccountReferenceNo><RefundRequestNumber>1001</RefundRequestNumber>",
    "07"
)]
#[case::nothing_asked("<AccountReferenceNo>DS000001</AccountReferenceNo>", "08")]
#[case::no_number(
    "<AccountReferenceNo>DS000001</AccountReferenceNo><RefundRequestNumber>many</RefundRequestNumber>",
    "08"
)]
fn a_refund_is_looked_up(#[case] members: &str, #[case] code: &str) {
    let mut state = State::demo(NOW);
    initiated(&mut state, &format!("{ACCOUNT}{REST}<ExternalRefundIdentifier>a</ExternalRefundIdentifier>"));
    let seen = looked_up(&mut state, members);
    assert_eq!(seen.codes(), [code]);
    assert!(seen.effects.is_empty());
    if code == "00" {
        assert_eq!(seen.status, "Succeed");
        assert_eq!(seen.value("RefundStatus"), Some("Submitted"));
        assert_eq!(seen.value("RefundAmount"), Some("12.34"));
        assert_eq!(seen.value("ExternalRefundIdentifier"), Some("a"));
        assert!(seen.members.child("Note").unwrap().nil);
    } else {
        assert_eq!(seen.status, "Failed");
        assert!(seen.members.child("RefundStatus").unwrap().nil);
    }
}

#[test]
fn statuses_advance_with_time_if_the_settings_say_so() {
    let mut state = State::demo(NOW);
    let rejecting = Account { decision: Decision::Rejected, ..Account::new("DS000002", "EXT-000002") };
    state.put_account(rejecting).unwrap();
    initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    initiated(&mut state, &format!("<AccountReferenceNo>DS000002</AccountReferenceNo>{REST}"));
    let words = |state: &State| -> Vec<&str> { state.refunds().iter().map(|refund| refund.status.word()).collect() };
    assert!(state.advance(&Settings::default(), NOW + Duration::days(900)).is_empty());
    assert_eq!(words(&state), ["Submitted", "Submitted"]);

    let settings = Settings {
        awaiting_review_after_seconds: Some(10),
        approved_after_seconds: Some(20),
        completed_after_seconds: Some(30),
        ..Settings::default()
    };
    assert!(state.advance(&settings, NOW + Duration::seconds(9)).is_empty());
    assert_eq!(words(&state), ["Submitted", "Submitted"]);
    assert!(state.advance(&settings, NOW + Duration::seconds(10)).is_empty());
    assert_eq!(words(&state), ["Awaiting Review", "Awaiting Review"]);
    let effects = state.advance(&settings, NOW + Duration::seconds(20));
    let moved: Vec<_> = effects.iter().map(|(at, effect)| (*at, effect.target.as_str())).collect();
    assert_eq!(moved, [(NOW + Duration::seconds(20), "DS000002")]);
    assert_eq!(words(&state), ["Approved", "Rejected"]);
    assert!(state.advance(&settings, NOW + Duration::seconds(5000)).is_empty());
    assert_eq!(words(&state), ["Completed", "Rejected"]);

    // However late anybody looks: it was rejected when its review was over.
    let mut late = State::demo(NOW);
    late.put_account(Account { decision: Decision::Rejected, ..Account::new("DS000002", "EXT-000002") }).unwrap();
    initiated(&mut late, &format!("<AccountReferenceNo>DS000002</AccountReferenceNo>{REST}"));
    let effects = late.advance(&settings, NOW + Duration::seconds(5000));
    assert_eq!(effects.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [NOW + Duration::seconds(20)]);
}

/// Who moves next is reckoned once, and then follows whatever is done in between.
#[test]
fn changes_between_two_requests_advance_at_their_own_times() {
    let settings = Settings { completed_after_seconds: Some(100), ..Settings::default() };
    let words = |state: &State| -> Vec<&str> { state.refunds().iter().map(|refund| refund.status.word()).collect() };
    let mut state = State::demo(NOW);
    initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    assert!(state.advance(&settings, NOW + Duration::seconds(1)).is_empty());

    // A later refund, an account that settles sooner, a refund that is moved by hand, and a copy.
    initiated(&mut state, &format!("<AccountReferenceNo>DS000002</AccountReferenceNo>{REST}"));
    let sooner = Account { settles_after_seconds: Some(10), ..Account::new("DS000002", "EXT-000002") };
    state.put_account(sooner).unwrap();
    assert!(state.advance(&settings, NOW + Duration::seconds(10)).is_empty());
    assert_eq!(words(&state), ["Submitted", "Completed"]);
    let mut copy: State = serde_json::from_value(serde_json::to_value(&state).unwrap()).unwrap();
    let (_, effects) = state.set_refund_status("1001", RefundStatus::Rejected, None).unwrap();
    assert_eq!(effects.len(), 1);
    for state in [&mut state, &mut copy] {
        assert!(state.advance(&settings, NOW + Duration::seconds(100)).is_empty());
    }
    assert_eq!(words(&state), ["Rejected", "Completed"]);
    assert_eq!(words(&copy), ["Completed", "Completed"]);

    let back = state.move_refund("1001", RefundStatus::Submitted, None, FinalStatuses::CanBeLeft).unwrap().1;
    assert_eq!(back.len(), 1, "it is paid after all");
    assert!(state.advance(&settings, NOW + Duration::seconds(100)).is_empty());
    assert_eq!(words(&state), ["Completed", "Completed"]);
    let other = Settings { completed_after_seconds: None, ..settings };
    initiated(&mut state, &format!("{ACCOUNT}{REST}").replace("id-1", "id-2"));
    assert!(state.advance(&other, NOW + Duration::days(900)).is_empty());
    assert_eq!(state.refunds().last().unwrap().status, RefundStatus::Submitted);
}

#[rstest]
#[case(Condition::Unavailable, "01")]
#[case(Condition::TimedOut, "05")]
#[case(Condition::UnknownException, "06")]
#[case(Condition::NotCompleted, "09")]
#[case(Condition::NotActive, "10")]
#[case(Condition::Deadlock, "11")]
fn an_account_can_fail_every_refund(#[case] condition: Condition, #[case] code: &str) {
    let mut state = State::demo(NOW);
    state.put_account(Account { condition, ..Account::new("DS000001", "EXT-000001") }).unwrap();
    let seen = initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    assert_eq!((seen.codes(), seen.status.as_str()), (vec![code], "Failed"));
    assert!(state.refunds().is_empty());
}

#[test]
fn texts_that_are_too_long_are_refused_or_cut() {
    let long = "x".repeat(4001);
    let members = format!(
        "{ACCOUNT}<Amount>1</Amount><Description>{long}</Description><RequestInitiator>{long}</RequestInitiator>"
    );
    let mut state = State::demo(NOW);
    assert_eq!(initiated(&mut state, &members).codes(), ["100"]);
    let cut = Settings { over_length: OverLength::Truncate, ..Settings::default() };
    assert_eq!(handle(&mut state, &cut, NOW, &initiate(&members)).effects.len(), 1);
    let refund = &state.refunds()[0];
    assert_eq!((refund.description.len(), refund.request_initiator.as_ref().unwrap().len()), (4000, 100));
}

#[test]
fn strict_order_ignores_members_out_of_order() {
    let strict = Settings { strict_order: true, ..Settings::default() };
    let unordered = initiate(&format!("<Description>d</Description>{ACCOUNT}<Amount>1</Amount>"));
    let seen = Seen::of(handle(&mut State::demo(NOW), &strict, NOW, &unordered), "InitiateRefund");
    assert_eq!(seen.codes(), ["12016", "13012"]);
    let ordered = initiate(&format!("{ACCOUNT}<Unknown/>{REST}"));
    let seen = Seen::of(handle(&mut State::demo(NOW), &strict, NOW, &ordered), "InitiateRefund");
    assert_eq!(seen.codes(), ["00"]);
}

#[test]
fn strict_names_require_exact_namespaces_and_action() {
    let strict = Settings { strict_names: true, ..Settings::default() };
    let exact = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><InitiateRefund xmlns="http://tempuri.org/"><request xmlns:d="http://schemas.datacontract.org/2004/07/DSWebService">{}</request></InitiateRefund></s:Body></s:Envelope>"#,
        format!("{USER}{ACCOUNT}{REST}").replace("</", "</d:").replace('<', "<d:").replace("<d:/d:", "</d:")
    );
    let action = "\"http://tempuri.org/IDSServices/InitiateRefund\"";
    let handled = handle(&mut State::demo(NOW), &strict, NOW, &posted(action, &exact));
    assert_eq!(Seen::of(handled, "InitiateRefund").codes(), ["00"]);
    let other_data = handle(&mut State::demo(NOW), &strict, NOW, &initiate(&format!("{ACCOUNT}{REST}")));
    assert_eq!(Seen::of(other_data, "InitiateRefund").codes(), ["02"]);
    let other_action = handle(&mut State::demo(NOW), &strict, NOW, &posted("urn:InitiateRefund", &exact));
    assert_eq!(other_action.response.status, StatusCode::INTERNAL_SERVER_ERROR);
    let other_service = exact.replace("http://tempuri.org/", "urn:x");
    let handled = handle(&mut State::demo(NOW), &strict, NOW, &posted(action, &other_service));
    assert_eq!(handled.response.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_call_may_be_written_in_many_ways() {
    let body = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?><!-- hello -->\n<x:Envelope xmlns:x=\"http://schemas.xmlsoap.org/soap/envelope/\">\n<x:Header><Action x:mustUnderstand=\"1\">a</Action></x:Header><x:Body>\n<n:InitiateRefund xmlns:n=\"urn:other\"><n:request>{}<Description><![CDATA[<why>]]> &amp; &#65;&lt;</Description><Amount>1</Amount>{ACCOUNT}</n:request></n:InitiateRefund></x:Body></x:Envelope>\n",
        USER
    );
    let mut request = posted("urn:anything/InitiateRefund", &body);
    request.path = "/dswebservice/dsservices.SVC".to_owned();
    let mut state = State::demo(NOW);
    let handled = handle(&mut state, &Settings::default(), NOW, &request);
    assert_eq!(Seen::of(handled, "InitiateRefund").codes(), ["00"]);
    assert_eq!(state.refunds()[0].description, "<why> & A<");
}

const OPEN: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">"#;

#[rstest]
#[case::nothing("", "s:Client")]
#[case::text("hello", "s:Client")]
#[case::html("<html><body>no</body></html>", "s:Client")]
#[case::truncated("<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>", "s:Client")]
#[case::crossed("<a><b></a></b>", "s:Client")]
#[case::two_roots("<a/><b/>", "s:Client")]
#[case::undeclared_prefix("<s:Envelope/>", "s:Client")]
#[case::entity("<a>&bomb;</a>", "s:Client")]
#[case::zero("<a>&#0;</a>", "s:Client")]
#[case::control("<a>\u{1}</a>", "s:Client")]
#[case::attribute_twice("<a b='1' b='2'/>", "s:Client")]
#[case::dtd("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "s:Client")]
#[case::instruction("<?php echo ?><a/>", "s:Client")]
#[case::late_declaration(" <?xml version='1.0'?><a/>", "s:Client")]
#[case::encoding("<?xml version='1.0' encoding='utf-16'?><a/>", "s:Client")]
#[case::soap_12("<Envelope xmlns='http://www.w3.org/2003/05/soap-envelope'/>", "s:VersionMismatch")]
#[case::no_body(&format!("{OPEN}</s:Envelope>"), "s:Client")]
#[case::empty_body(&format!("{OPEN}<s:Body/></s:Envelope>"), "s:Client")]
#[case::must_understand(&format!("{OPEN}<s:Header><w s:mustUnderstand='1'/></s:Header><s:Body/></s:Envelope>"), "s:MustUnderstand")]
#[case::other_element(&format!("{OPEN}<s:Body><GetRefundStatus/></s:Body></s:Envelope>"), "a:DeserializationFailed")]
#[case::deep(&format!("{OPEN}<s:Body>{}", "<a>".repeat(100_000)), "s:Client")]
#[case::wide(&format!("{OPEN}<s:Body>{}", "<a/>".repeat(100_000)), "s:Client")]
fn a_body_that_is_no_soap_is_a_fault(#[case] body: &str, #[case] code: &str) {
    let handled = handle(
        &mut State::demo(NOW),
        &Settings::default(),
        NOW,
        &posted("http://tempuri.org/IDSServices/InitiateRefund", body),
    );
    assert_eq!(fault_code(&handled), code);
}

fn fault_code(handled: &Handled) -> String {
    assert_eq!(handled.response.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(handled.response.headers["content-type"], "text/xml; charset=utf-8");
    let fault = soap::open(&handled.response.body).unwrap();
    assert_eq!(fault.name, "Fault");
    assert!(!fault.child("faultstring").unwrap().text.is_empty());
    fault.child("faultcode").unwrap().text.clone()
}

#[rstest]
#[case::unknown("\"http://tempuri.org/IDSServices/PostCustomerAccount\"")]
#[case::empty("\"\"")]
fn an_unknown_operation_is_not_supported(#[case] action: &str) {
    let mut request = initiate(&format!("{ACCOUNT}{REST}"));
    request.headers.insert("soapaction", HeaderValue::from_str(action).unwrap());
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
    assert_eq!(fault_code(&handled), "a:ActionNotSupported");
    request.headers.remove("soapaction");
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
    assert_eq!(fault_code(&handled), "a:ActionNotSupported");
}

#[rstest]
#[case("application/json", 415)]
#[case("application/soap+xml; charset=utf-8", 415)]
#[case("text/xml; charset=iso-8859-1", 415)]
#[case("Text/XML;Charset=\"UTF-8\"", 200)]
#[case("text/xml", 200)]
fn the_media_type_decides_first(#[case] content_type: &str, #[case] status: u16) {
    let mut request = initiate(&format!("{ACCOUNT}{REST}"));
    request.headers.insert("content-type", HeaderValue::from_str(content_type).unwrap());
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
    assert_eq!(handled.response.status, status);
}

#[test]
fn unreadable_xml_can_be_a_bad_request() {
    let settings = Settings { unreadable_xml: UnreadableXml::BadRequest, ..Settings::default() };
    let handled = handle(&mut State::demo(NOW), &settings, NOW, &posted("InitiateRefund", "<a"));
    assert_eq!(handled.response.status, StatusCode::BAD_REQUEST);
}

#[rstest]
#[case("wsdl")]
#[case("WSDL")]
#[case("singleWsdl")]
#[case("singlewsdl")]
fn the_wsdl_contains_the_address_of_the_request(#[case] query: &str) {
    let request = request("GET", Some(query), &[("host", "127.0.0.1:7103")], b"");
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
    assert_eq!(handled.response.headers["content-type"], "text/xml; charset=utf-8");
    let root = xml::parse(&handled.response.body).unwrap();
    assert_eq!(root.name, "definitions");
    let text = std::str::from_utf8(&handled.response.body).unwrap();
    assert!(text.contains(r#"<soap:address location="http://127.0.0.1:7103/DSWebService/DSServices.svc"/>"#));
    assert!(text.contains(r#"soapAction="http://tempuri.org/IDSServices/GetRefundStatus""#));
    for action in [
        r#"<wsdl:input wsaw:Action="http://tempuri.org/IDSServices/InitiateRefund" "#,
        r#"<wsdl:output wsaw:Action="http://tempuri.org/IDSServices/InitiateRefundResponse" "#,
        r#"xmlns:wsaw="http://www.w3.org/2006/05/addressing/wsdl""#,
    ] {
        assert!(text.contains(action), "{action}");
    }
    assert!(text.contains(r#"<xs:enumeration value="Succeed"/>"#));
    let other = Settings { success_word: SuccessWord::Success, ..Settings::default() };
    let handled = handle(&mut State::demo(NOW), &other, NOW, &request);
    let text = std::str::from_utf8(&handled.response.body).unwrap();
    assert!(text.contains(r#"<xs:enumeration value="Success"/>"#) && !text.contains("Succeed"));
}

#[test]
fn other_methods_and_paths_are_refused() {
    let mut state = State::demo(NOW);
    let mut answered = |request: &Request| handle(&mut state, &Settings::default(), NOW, request).response;
    let page = answered(&request("GET", None, &[("host", "a<b")], b""));
    assert_eq!(
        (page.status, &page.headers["content-type"]),
        (StatusCode::OK, &HeaderValue::from_static("text/html; charset=UTF-8"))
    );
    assert!(!std::str::from_utf8(&page.body).unwrap().contains("a<b"));
    assert_eq!(answered(&request("PUT", None, &[], b"")).status, StatusCode::METHOD_NOT_ALLOWED);
    let elsewhere = Request { path: "/".to_owned(), ..request("GET", None, &[], b"") };
    assert_eq!(answered(&elsewhere).status, StatusCode::NOT_FOUND);
}

#[test]
fn inspection_returns_the_call_without_secrets() {
    let members = format!("{ACCOUNT}{REST}<ExternalRefundIdentifier>a</ExternalRefundIdentifier><Pin>1234</Pin>");
    let info = inspect(&initiate(&members));
    assert_eq!(info.operation, "InitiateRefund");
    assert_eq!(info.target.as_deref(), Some("DS000001"));
    assert_eq!(info.username.as_deref(), Some("demo"));
    assert_eq!(info.identifier.as_deref(), Some("a"));
    assert!(info.moves_money && !info.destructive);
    let text = info.parameters.to_string();
    assert!(text.contains(r#""Amount":"12.34""#) && text.contains(r#""Password":"***""#), "{text}");
    assert!(!text.contains("demo-password") && !text.contains("1234"), "{text}");
    let unreadable = inspect(&posted("urn:InitiateRefund", "<a>demo-password"));
    assert_eq!((unreadable.operation.as_str(), unreadable.moves_money), ("InitiateRefund", false));
    assert_eq!(inspect(&request("GET", Some("wsdl"), &[], b"")), RequestInfo::default());
    assert!(!format!("{:?} {:?}", State::demo(NOW), State::demo(NOW).logins()).contains("demo-password"));
}

#[test]
fn the_state_survives_a_round_trip_through_json() {
    let mut state = State::demo(NOW);
    initiated(&mut state, &format!("{ACCOUNT}{REST}"));
    state.set_refund_status("1001", RefundStatus::AwaitingReview, None).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert!(text.contains(r#""status":"Awaiting Review""#));
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    let least: Account = serde_json::from_value(json!({"account_reference_no": "DS1"})).unwrap();
    assert_eq!((least.collected_minor, least.currency.as_str()), (50_000, "AUD"));
    assert!(serde_json::from_value::<Account>(json!({"account_reference_no": "DS1", "colour": 1})).is_err());
    let long = Account { account_reference_no: "1234567890123456".to_owned(), ..least };
    assert_eq!(state.put_account(long), Err(PutError::ReferenceLength));
}

proptest! {
    #[test]
    fn any_body_is_answered(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut request = posted("urn:InitiateRefund", "");
        request.body = body.into();
        inspect(&request);
        let handled = handle(&mut State::default(), &Settings::default(), NOW, &request);
        prop_assert_eq!(handled.response.status, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn any_markup_is_answered(parts in proptest::collection::vec("<[a-z:]{0,3}( [a-z:]{1,3}='[^']{0,5}')?/?>|</[a-z]{0,2}>|&[a-z#0-9]{0,4};?|\\PC{0,5}|<!\\[CDATA\\[|\\]\\]>", 0..30)) {
        let request = posted("urn:InitiateRefund", &format!("{OPEN}<s:Body><InitiateRefund><request>{}", parts.concat()));
        inspect(&request);
        handle(&mut State::default(), &Settings::default(), NOW, &request);
    }

    #[test]
    fn any_members_are_answered_with_xml(amount in "\\PC{0,20}|[-+0-9.]{0,30}", identifier in "\\PC{0,60}", description in "\\PC{0,20}") {
        let escape = |text: &str| quick_xml::escape::escape(text.to_owned()).into_owned();
        let members = format!(
            "{ACCOUNT}<Amount>{}</Amount><Description>{}</Description><ExternalRefundIdentifier>{}</ExternalRefundIdentifier>",
            escape(&amount), escape(&description), escape(&identifier)
        );
        let mut state = State::demo(NOW);
        let handled = handle(&mut state, &Settings::default(), NOW, &initiate(&members));
        prop_assert!(soap::open(&handled.response.body).is_ok());
        prop_assert_eq!(handled.effects.len(), state.refunds().len());
    }
}
