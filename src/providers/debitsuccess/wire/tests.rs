use proptest::prelude::*;
use rstest::rstest;
use secrecy::SecretString;

use super::*;
use crate::domain::target::{DebitsuccessFields, Target};
use crate::providers::testing::fixtures::{self, answer, apply_mutations, mutations, outcome_summary};
use crate::providers::testing::log_capture::logged;

fn target() -> DebitsuccessTarget {
    DebitsuccessTarget::new(DebitsuccessFields {
        account_reference_no: "DS000001",
        external_account_reference_no: "",
        amount: Some(("AUD", 1250)),
        description: "Charged twice",
        request_initiator: "",
    })
    .unwrap()
}

fn redactor() -> Redactor {
    Redactor::new("demo", &SecretString::from("c4nary-secret"))
}

const NAMES: Namespaces<'static> = Namespaces { service_namespace: "http://tempuri.org/", data_namespace: "DATA-NS" };

fn read(status: u16, body: &[u8]) -> Outcome {
    read_refund(&answer(status, &[], body), &RefundId::parse("r-1").unwrap(), NAMES, &redactor())
}

fn lookup(status: u16, body: &[u8]) -> Lookup {
    let refund = fixtures::refund("r-1", Target::Debitsuccess(target()));
    read_status(&answer(status, &[], body), &refund, &target(), NAMES, &redactor())
}

fn lookup_summary(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Found(outcome) => format!("found {}", outcome_summary(outcome)),
        Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
        Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
    }
}

/// As WCF writes it, with `inner` as the result's members.
fn envelope(operation: &str, inner: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <{operation}Response xmlns=\"http://tempuri.org/\"><{operation}Result xmlns:a=\"DATA-NS\" xmlns:i=\"XSI\">\
         {inner}</{operation}Result></{operation}Response></s:Body></s:Envelope>"
    )
}

/// Notes from `Error 08 No record`.
fn notes(notes: &[&str]) -> String {
    let notes: Vec<String> = notes
        .iter()
        .map(|note| {
            let mut parts = note.splitn(3, ' ');
            let (kind, code, text) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or("text"));
            format!("<a:ResponseMessageNote><a:Code>{code}</a:Code><a:Note>{text}</a:Note><a:NoteType>{kind}</a:NoteType></a:ResponseMessageNote>")
        })
        .collect();
    format!("<a:ResponseNotes>{}</a:ResponseNotes>", notes.concat())
}

fn reply(status: &str, notes_given: &[&str], identifier: &str) -> String {
    let inner = format!(
        "<a:DateCreated>2022-05-10T14:03:22.1234567+12:00</a:DateCreated><a:Id>guid</a:Id>{}<a:Status>{status}</a:Status>\
         <a:ExternalRefundIdentifier>{identifier}</a:ExternalRefundIdentifier><a:RefundRequestNumber>1001</a:RefundRequestNumber>",
        notes(notes_given)
    );
    envelope("InitiateRefund", &inner)
}

#[rstest]
#[case::taken("Succeed", &["Info 00 Success"], "r-1", "accepted Submitted #1001")]
#[case::success_spelled_differently("Success", &["Info 00 Success"], "r-1", "accepted Submitted #1001")]
#[case::no_notes("Succeed", &[], "r-1", "accepted Submitted #1001")]
#[case::warned("Succeed", &["Info 00 Success", "Warning 14021 Decimal field 'Amount' contains more"], "r-1", "accepted Submitted #1001")]
#[case::unknown_warning("Succeed", &["Warning 99999 unusual"], "r-1", "accepted Submitted #1001")]
#[case::another_identifier("Succeed", &["Info 00 Success"], "r-2", "unknown contradiction")]
#[case::no_identifier("Succeed", &["Info 00 Success"], "", "unknown contradiction")]
#[case::success_with_an_error("Succeed", &["Error 13040 Refund amount exceeds"], "r-1", "unknown contradiction")]
#[case::amount("Failed", &["Error 13012 Invalid Amount value"], "", "refused 13012 invalid_request")]
#[case::description("Failed", &["Error 12017 Missing Description"], "", "refused 12017 invalid_request")]
#[case::reference("Failed", &["Error 12016 Missing required reference number."], "", "refused 12016 invalid_request")]
#[case::long_identifier("Failed", &["Error 13203 cannot be more"], "r-1", "refused 13203 invalid_request")]
#[case::identifier_signs("Failed", &["Error 13204 unallowed"], "r-1", "refused 13204 invalid_request")]
#[case::duplicate_account("Failed", &["Error 04 Account already exists"], "", "refused 04 invalid_request")]
#[case::validation("Failed", &["Error 100 SOAP message validation error"], "", "refused 100 invalid_request")]
#[case::no_record("Failed", &["Error 08 There is no record found with this criteria"], "r-1", "refused 08 target_not_found")]
#[case::several("Failed", &["Error 07 Multiple accounts found with this criteria"], "r-1", "refused 07 target_ambiguous")]
#[case::too_much("Failed", &["Error 13040 Refund amount exceeds amount that has been paid"], "r-1", "refused 13040 amount_too_large")]
#[case::in_use("Failed", &["Error 14143 ExternalRefundIdentifier already exists"], "r-1", "refused 14143 identifier_in_use")]
#[case::in_use_among_others("Failed", &["Error 13040 Refund amount exceeds", "Error 14143 already exists"], "r-1", "refused 14143 identifier_in_use")]
#[case::not_active("Failed", &["Error 10 Account is not active"], "r-1", "refused 10 not_eligible")]
#[case::credentials("Failed", &["Error 02 Invalid user credentials"], "", "not_sent 02 credentials_refused")]
#[case::credentials_among_others("Failed", &["Error 12017 Missing", "Error 02 Invalid"], "", "not_sent 02 credentials_refused")]
#[case::several_errors("Failed", &["Warning 14021 w", "Error 12016 one", "Error 13012 two"], "", "refused 12016 invalid_request")]
#[case::unavailable("Failed", &["Error 01 The server is not available"], "", "unknown provider_says_unknown")]
#[case::time_out("Failed", &["Error 05 Request Time out"], "", "unknown provider_says_unknown")]
#[case::exception("Failed", &["Error 06 Unknown exception"], "", "unknown provider_says_unknown")]
#[case::not_completed("Failed", &["Error 09 Failed to complete the process"], "", "unknown provider_says_unknown")]
#[case::deadlock("Failed", &["Error 11 Timeout/Deadlock Error - Please retry"], "", "unknown provider_says_unknown")]
#[case::undocumented("Failed", &["Error 99999 New"], "", "unknown provider_says_unknown")]
#[case::without_its_zero("Failed", &["Error 8 There is no record"], "", "unknown provider_says_unknown")]
#[case::one_that_says_nothing("Failed", &["Error 13012 one", "Error 06 two"], "", "unknown provider_says_unknown")]
#[case::no_error("Failed", &["Info 00 Success"], "", "unknown provider_says_unknown")]
#[case::warning_alone("Failed", &["Warning 14021 w"], "", "unknown provider_says_unknown")]
#[case::no_notes_at_all("Failed", &[], "", "unknown provider_says_unknown")]
#[case::failed_with_an_identifier_of_its_own("Failed", &["Error 02 Invalid user credentials"], "6f1c", "not_sent 02 credentials_refused")]
#[case::unknown("Unknown", &["Error 13040 Refund amount"], "r-1", "unknown provider_says_unknown")]
#[case::no_status("", &["Info 00 Success"], "r-1", "unknown unreadable_reply")]
#[case::foreign_status("Queued", &["Info 00 Success"], "r-1", "unknown unreadable_reply")]
#[case::status_in_another_case("SUCCEED", &["Info 00 Success"], "r-1", "unknown unreadable_reply")]
#[case::foreign_note_type("Succeed", &["Fatal 00 Success"], "r-1", "unknown unreadable_reply")]
#[case::foreign_note_type_of_a_failure("Failed", &["Fatal 13040 x", "Error 13040 x"], "r-1", "unknown unreadable_reply")]
fn every_answer_has_one_meaning(
    #[case] status: &str,
    #[case] notes_given: &[&str],
    #[case] identifier: &str,
    #[case] expected: &str,
) {
    assert_eq!(outcome_summary(&read(200, reply(status, notes_given, identifier).as_bytes())), expected);
}

#[rstest]
#[case::fault(
    500,
    "<s:Envelope xmlns:s=\"u\"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring xml:lang=\"en-US\">Bad c4nary-secret</faultstring></s:Fault></s:Body></s:Envelope>",
    "unknown provider_server_error"
)]
#[case::fault_as_200(
    200,
    "<s:Envelope xmlns:s=\"u\"><s:Body><s:Fault><faultcode>s:Server</faultcode><faultstring>c4nary-secret</faultstring></s:Fault></s:Body></s:Envelope>",
    "unknown unreadable_reply"
)]
#[case::busy(503, "busy", "unknown provider_server_error")]
#[case::not_found(404, "<html></html>", "unknown unreadable_reply")]
#[case::unauthorized(401, "", "unknown unreadable_reply")]
#[case::redirect(307, "", "unknown unreadable_reply")]
#[case::accepted(202, "", "unknown unreadable_reply")]
#[case::empty(200, "", "unknown unreadable_reply")]
#[case::html(200, "<html><body>Succeed</body></html>", "unknown unreadable_reply")]
#[case::broken_html(200, "<html><body><br>Succeed</body></html>", "unknown unreadable_reply")]
#[case::json(200, "{\"Status\":\"Succeed\"}", "unknown unreadable_reply")]
#[case::no_envelope(
    200,
    "<InitiateRefundResponse><InitiateRefundResult><Status>Succeed</Status><ExternalRefundIdentifier>r-1</ExternalRefundIdentifier></InitiateRefundResult></InitiateRefundResponse>",
    "unknown unreadable_reply"
)]
#[case::document_type(
    200,
    "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><Envelope><Body>&b;</Body></Envelope>",
    "unknown unreadable_reply"
)]
fn an_answer_without_a_result_proves_nothing(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
    let outcome = read(status, body.as_bytes());
    assert_eq!(outcome_summary(&outcome), expected);
    assert!(!format!("{outcome:?}").contains("c4nary"), "{outcome:?}");
}

/// A proxy may have answered, or the service twice: Debitsuccess documents no status but 200.
#[test]
fn another_http_status_proves_nothing_whatever_its_body() {
    let bodies = [
        reply("Succeed", &["Info 00 Success"], "r-1"),
        reply("Failed", &["Error 13040 too much"], "r-1"),
        reply("Failed", &["Error 02 Invalid user credentials"], "r-1"),
        "{\"message\":\"Unauthorized\"}".to_owned(),
        String::new(),
    ];
    for status in [201, 202, 204, 302, 400, 401, 403, 404, 408, 413, 423, 429, 500, 502, 503, 504] {
        for body in &bodies {
            assert!(outcome_summary(&read(status, body.as_bytes())).starts_with("unknown"), "{status} {body}");
            let body = body.replace("InitiateRefund", "GetRefundStatus");
            assert!(lookup_summary(&lookup(status, body.as_bytes())).starts_with("unavailable"), "{status} {body}");
        }
    }
}

#[test]
fn the_answer_of_another_operation_proves_nothing() {
    let body = reply("Succeed", &[], "r-1").replace("InitiateRefund", "GetRefundStatus");
    assert_eq!(outcome_summary(&read(200, body.as_bytes())), "unknown unreadable_reply");
}

#[test]
fn members_may_be_nil_and_in_any_order() {
    let inner = "<RefundRequestNumber i:nil=\"true\"/><ExternalRefundIdentifier>r-1</ExternalRefundIdentifier>\
                 <Status>Succeed</Status><ResponseNotes i:nil=\"true\"/><Strange><Deep/></Strange>";
    assert_eq!(outcome_summary(&read(200, envelope("InitiateRefund", inner).as_bytes())), "accepted Submitted");
    let twice =
        "<Status>Succeed</Status><Status>Failed</Status><ExternalRefundIdentifier>r-1</ExternalRefundIdentifier>";
    assert_eq!(outcome_summary(&read(200, envelope("InitiateRefund", twice).as_bytes())), "unknown unreadable_reply");
}

#[test]
fn the_codes_and_texts_are_kept() {
    let body = reply("Failed", &["Error 08 There is no record", "Error 13012 Invalid &amp; c4nary-secret"], "r-1");
    let Outcome::Refused { error, .. } = read(200, body.as_bytes()) else { panic!("no refusal") };
    assert_eq!(
        (error.code.as_str(), error.message.as_str(), error.http_status),
        ("08", "08 There is no record; 13012 Invalid & ***", 200)
    );
}

#[test]
fn hostile_documents_prove_nothing() {
    let latin_1 = reply("Succeed", &["Info 00 Succ\u{e8}s"], "r-1").chars().map(|c| c as u8).collect::<Vec<u8>>();
    let sixteen_bit: Vec<u8> = reply("Succeed", &[], "r-1").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = format!("<Envelope><Body>{}{}</Body></Envelope>", "<a>".repeat(9_000), "</a>".repeat(9_000));
    // UTF-16 without a mark, and without a header that says so, cannot be decoded without loss.
    for body in [latin_1, sixteen_bit, deep.into_bytes(), vec![0; 64 * 1024], b"<a>".repeat(20_000)] {
        assert_eq!(outcome_summary(&read(200, &body)), "unknown unreadable_reply");
    }
}

fn found(refund_status: &str, amount: &str, identifier: &str) -> String {
    let inner = format!(
        "{}<a:Status>Succeed</a:Status><a:ExternalRefundIdentifier>{identifier}</a:ExternalRefundIdentifier>\
         <a:Note>Closed account</a:Note><a:RefundAmount>{amount}</a:RefundAmount>\
         <a:RefundRequestNumber>1001</a:RefundRequestNumber><a:RefundStatus>{refund_status}</a:RefundStatus>",
        notes(&["Info 00 Success"])
    );
    envelope("GetRefundStatus", &inner)
}

#[rstest]
#[case::submitted("Submitted", "12.50", "r-1", "found accepted Submitted #1001")]
#[case::awaiting("Awaiting Review", "12.50", "r-1", "found accepted Awaiting Review #1001")]
#[case::approved("Approved", "12.50", "r-1", "found accepted Approved #1001")]
#[case::undocumented_status("On Hold", "12.50", "r-1", "found accepted On Hold #1001")]
#[case::completed("Completed", "12.50", "r-1", "found refunded 12.50 AUD")]
#[case::completed_in_four_decimals("Completed", "12.5000", "r-1", "found refunded 12.50 AUD")]
#[case::rejected("Rejected", "12.50", "r-1", "found refused Rejected rejected_on_review")]
#[case::rejected_less_precise("Rejected", "12", "r-1", "found refused Rejected rejected_on_review")]
#[case::approved_less_precise("Approved", "13", "r-1", "found accepted Approved #1001")]
#[case::another_amount("Completed", "12.51", "r-1", "found unknown contradiction")]
#[case::another_amount_rejected("Rejected", "11", "r-1", "found unknown contradiction")]
#[case::another_amount_approved("Approved", "1250", "r-1", "found unknown contradiction")]
#[case::whole_number("Completed", "12", "r-1", "found refunded")]
#[case::whole_number_rounded("Completed", "13", "r-1", "found refunded")]
#[case::one_decimal("Completed", "12.5", "r-1", "found refunded 12.50 AUD")]
#[case::no_number("Completed", "NaN", "r-1", "found unknown contradiction")]
#[case::comma("Completed", "12,50", "r-1", "found unknown contradiction")]
#[case::no_amount("Completed", "", "r-1", "found refunded")]
#[case::value_with_a_blank("Completed\u{a0}", "12.50", "r-1", "found accepted \"Completed\u{a0}\" #1001")]
#[case::value_in_another_case("completed", "12.50", "r-1", "found accepted completed #1001")]
#[case::another_identifier(
    "Completed",
    "12.50",
    "r-2",
    "unavailable the answer is for another ExternalRefundIdentifier, \"r-2\", and ours is \"r-1\""
)]
#[case::identifier_in_another_case(
    "Completed",
    "12.50",
    "R-1",
    "unavailable the answer is for another ExternalRefundIdentifier, \"R-1\", and ours is \"r-1\""
)]
#[case::no_identifier(
    "Completed",
    "12.50",
    "",
    "unavailable the answer is for another ExternalRefundIdentifier, absent, and ours is \"r-1\""
)]
#[case::no_status("", "12.50", "r-1", "unavailable the answer has no RefundStatus")]
fn a_found_refund_reports_its_state(
    #[case] refund_status: &str,
    #[case] amount: &str,
    #[case] identifier: &str,
    #[case] expected: &str,
) {
    assert_eq!(lookup_summary(&lookup(200, found(refund_status, amount, identifier).as_bytes())), expected);
}

#[rstest]
#[case::no_record("Failed", &["Error 08 There is no record found with this criteria"], "not_found 08 There is no record found with this criteria")]
#[case::no_record_and_more("Failed", &["Error 08 None", "Error 06 Exception"], "unavailable Status is Failed: 08 None; 06 Exception")]
#[case::credentials("Failed", &["Error 02 Invalid user credentials"], "unavailable Status is Failed: 02 Invalid user credentials")]
#[case::several("Failed", &["Error 07 Multiple accounts"], "unavailable Status is Failed: 07 Multiple accounts")]
#[case::no_error("Failed", &[], "unavailable Status is Failed")]
#[case::success_with_an_error("Succeed", &["Error 08 None"], "unavailable Status is Succeed: 08 None")]
#[case::unknown("Unknown", &[], "unavailable Status is Unknown")]
#[case::foreign("Maybe", &[], "unavailable Status is \"Maybe\"")]
fn a_missing_refund_is_not_found(#[case] status: &str, #[case] notes_given: &[&str], #[case] expected: &str) {
    let body = reply(status, notes_given, "r-1").replace("InitiateRefund", "GetRefundStatus");
    assert_eq!(lookup_summary(&lookup(200, body.as_bytes())), expected);
}

#[rstest]
#[case(500, "", "unavailable HTTP 500")]
#[case(404, "", "unavailable HTTP 404")]
#[case(200, "", "unavailable HTTP 200 with a body that is not well-formed XML")]
#[case(200, "<html/>", "unavailable HTTP 200 without GetRefundStatusResult in an envelope")]
fn an_unreadable_answer_is_unavailable(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
    assert_eq!(lookup_summary(&lookup(status, body.as_bytes())), expected);
}

#[test]
fn the_note_of_a_rejection_is_its_message() {
    let Lookup::Found(Outcome::Refused { error, .. }) = lookup(200, found("Rejected", "12.50", "r-1").as_bytes())
    else {
        panic!("no refusal")
    };
    assert_eq!(error.message, "Closed account");
}

#[rstest]
#[case::ours("1000", "found refunded 12.50 AUD")]
#[case::with_zeros("001000", "found refunded 12.50 AUD")]
#[case::with_decimals("1000.0", "found refunded 12.50 AUD")]
#[case::zero("0", "found refunded 12.50 AUD")]
#[case::zeros("000", "found refunded 12.50 AUD")]
#[case::absent("", "found refunded 12.50 AUD")]
#[case::another("1001", "found unknown contradiction")]
#[case::longer("10000", "found unknown contradiction")]
#[case::decimals_of_another("1000.5", "found unknown contradiction")]
#[case::beyond_an_integer("99999999999999999999", "found unknown contradiction")]
#[case::no_number("abc", "found unknown contradiction")]
#[case::negative("-1000", "found unknown contradiction")]
fn another_refund_number_is_a_contradiction(#[case] number: &str, #[case] expected: &str) {
    let mut refund = fixtures::refund("r-1", Target::Debitsuccess(target()));
    let lookup_of = |refund: &Refund| {
        let body = found("Completed", "12.50", "r-1").replace(">1001<", &format!(">{number}<"));
        read_status(&answer(200, &[], body.as_bytes()), refund, &target(), NAMES, &redactor())
    };
    refund.provider_reference = Some("1000".to_owned());
    assert_eq!(lookup_summary(&lookup_of(&refund)), expected);
    refund.provider_reference = Some("0001000".to_owned());
    let found_by = lookup_of(&refund);
    assert_eq!(lookup_summary(&found_by), expected);
    if let Lookup::Found(Outcome::Refunded(confirmation)) = found_by {
        assert_eq!(confirmation.reference, refund.provider_reference, "it stays as it was first written");
    }
    refund.provider_reference = None;
    assert_eq!(lookup_summary(&lookup_of(&refund)), "found refunded 12.50 AUD");
}

#[test]
fn a_refund_number_of_zero_is_not_a_reference() {
    let body = reply("Succeed", &[], "r-1").replace(">1001<", ">0<");
    assert_eq!(outcome_summary(&read(200, body.as_bytes())), "accepted Submitted");
    let members = ["ExternalRefundIdentifier>r-1</a:ExternalRefundIdentifier", "Status>Succeed</a:Status"];
    let body = format!(
        "<a:{}><a:{}><a:RefundRequestNumber i:nil=\"true\"/><a:RefundAmount i:nil=\"true\"/><a:RefundStatus>Completed</a:RefundStatus>",
        members[0], members[1]
    );
    assert_eq!(lookup_summary(&lookup(200, envelope("GetRefundStatus", &body).as_bytes())), "found refunded");
}

#[test]
fn a_differing_value_is_quoted_as_received() {
    let evidence = |body: String| match lookup(200, body.as_bytes()) {
        Lookup::Found(Outcome::Unknown { evidence, .. }) | Lookup::Unavailable { evidence, .. } => evidence,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        evidence(found("Completed", "12.5\u{a0}", "r-1")),
        "RefundAmount is \"12.5\u{a0}\", and ours is \"12.50\""
    );
    let unknown_status = found("Completed", "12.50", "r-1").replace(">Succeed<", ">succeed<");
    assert_eq!(evidence(unknown_status), "Status is \"succeed\"");
    let Outcome::Unknown { evidence, .. } = read(200, reply("Succeed", &[], "R-1").as_bytes()) else {
        panic!("no doubt")
    };
    assert_eq!(evidence, "Status is Succeed for another ExternalRefundIdentifier, \"R-1\", and ours is \"r-1\"");
}

#[test]
fn remarks_beside_a_success_are_kept() {
    let body = reply("Succeed", &["Info 00 Success", "Warning 14021 Decimal field", "Warning 9 c4nary-secret"], "r-1");
    let Outcome::Accepted(taken) = read(200, body.as_bytes()) else { panic!("not taken") };
    assert_eq!(taken.remarks, ["warning 14021 Decimal field", "warning 9 ***", "message Id guid"]);
    assert_eq!(taken.status_note, None);

    let body = found("Approved", "12.50", "r-1").replace("<a:Status>", "<a:Id>guid</a:Id><a:Status>");
    let Lookup::Found(Outcome::Accepted(taken)) = lookup(200, body.as_bytes()) else { panic!("not found") };
    assert_eq!(
        (taken.status_note.as_deref(), taken.remarks.as_slice()),
        (Some("Closed account"), ["message Id guid".to_owned()].as_slice())
    );
    let Lookup::Found(Outcome::Refunded(yes)) = lookup(200, found("Completed", "12.50", "r-1").as_bytes()) else {
        panic!("not found")
    };
    assert_eq!(yes.status_note.as_deref(), Some("Closed account"));

    // Blanks of every kind: there is no remark.
    for blank in ["&#160;", " &#8195;\n", ""] {
        let body = found("Approved", "12.50", "r-1").replace("Closed account", blank);
        let Lookup::Found(Outcome::Accepted(taken)) = lookup(200, body.as_bytes()) else { panic!("not found") };
        assert_eq!(taken.status_note, None, "{blank:?}");
    }
}

#[test]
fn the_bound_cuts_off_no_code() {
    let codes: Vec<String> = (0..20).map(|code| format!("Error 12016 {code}{}", "\u{e9}".repeat(400))).collect();
    let mut all_notes: Vec<&str> = codes.iter().map(String::as_str).collect();
    all_notes.push("Error 13040 last");
    let Outcome::Refused { error, .. } = read(200, reply("Failed", &all_notes, "r-1").as_bytes()) else {
        panic!("no refusal")
    };
    assert_eq!(error.message.matches("12016 ").count(), 20, "{}", error.message);
    assert!(error.message.ends_with("13040 last"), "{}", error.message);
}

fn fault(code: &str, text: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode xmlns:a=\"u\">{code}</faultcode>\
         <faultstring xml:lang=\"en-US\">{text}</faultstring></s:Fault></s:Body></s:Envelope>"
    )
}

#[test]
fn an_unsupported_action_means_not_dispatched() {
    let body = fault("a:ActionNotSupported", "The message with Action 'urn:x' cannot be processed");
    for status in [500, 200] {
        let Outcome::NotSent { error, retry_at: None } = read(status, body.as_bytes()) else { panic!("{status}") };
        assert_eq!((error.code.as_str(), error.http_status), ("a:ActionNotSupported", status));
        assert_ne!(error.category, ErrorCategory::CredentialsRefused);
        assert!(error.message.contains("action_prefix") && error.message.contains("'urn:x'"), "{}", error.message);
        let Lookup::Unavailable { evidence, signal } = lookup(status, body.as_bytes()) else { panic!("{status}") };
        assert!(evidence.contains("action_prefix"), "{evidence}");
        assert_eq!(signal, AccountSignal::Healthy);
    }
    let with_a_result = body.replace("</s:Fault>", "</s:Fault><InitiateRefundResponse/>");
    let in_another_part = fault("s:Server", "a:ActionNotSupported");
    for (status, body) in [
        (502, &body),
        (400, &body),
        (500, &with_a_result),
        (500, &in_another_part),
        (500, &fault("ActionNotSupportedX", "")),
    ] {
        assert!(outcome_summary(&read(status, body.as_bytes())).starts_with("unknown"), "{status} {body}");
    }
}

#[test]
fn a_lookup_reports_a_refused_login() {
    let refused = reply("Failed", &["Error 02 Invalid user credentials"], "6f1c");
    let body = refused.replace("InitiateRefund", "GetRefundStatus");
    let signal = |body: &str| match lookup(200, body.as_bytes()) {
        Lookup::Unavailable { signal, .. } => signal,
        other => panic!("{other:?}"),
    };
    assert_eq!(signal(&body), AccountSignal::CredentialsRefused);
    assert_eq!(signal(&body.replace("DATA-NS", "urn:data")), AccountSignal::Failure, "the service saw no login");
    let broken = reply("Failed", &["Error 09 Other"], "6f1c").replace("InitiateRefund", "GetRefundStatus");
    assert_eq!(signal(&broken), AccountSignal::Failure);
}

#[test]
fn a_wrong_namespace_is_not_taken_for_a_wrong_password() {
    let refused = reply("Failed", &["Error 02 Invalid user credentials"], "6f1c");
    for (ours, theirs, setting) in
        [("DATA-NS", "urn:data", "data_namespace"), ("http://tempuri.org/", "urn:x", "service_namespace")]
    {
        let body = refused.replace(ours, theirs);
        let Outcome::NotSent { error, .. } = read(200, body.as_bytes()) else { panic!("{body}") };
        assert_eq!((error.code.as_str(), error.category), ("02", ErrorCategory::InvalidRequest));
        let names = format!("{setting} is \"{ours}\", and the service answers in \"{theirs}\": Invalid user");
        assert!(error.message.starts_with(&names), "{}", error.message);
        let body = body.replace("InitiateRefund", "GetRefundStatus");
        assert!(lookup_summary(&lookup(200, body.as_bytes())).contains(setting));
    }
    // Other refusals, and answers without a namespace, keep their meaning.
    for body in [
        refused.replace(" xmlns:a=\"DATA-NS\"", ""),
        refused.replace("<a:Id>", "<b:Id xmlns:b=\"urn:b\">").replace("</a:Id>", "</b:Id>"),
    ] {
        assert_eq!(outcome_summary(&read(200, body.as_bytes())), "not_sent 02 credentials_refused");
    }
    let too_much = reply("Failed", &["Error 13040 too much"], "r-1").replace("DATA-NS", "urn:data");
    assert_eq!(outcome_summary(&read(200, too_much.as_bytes())), "refused 13040 amount_too_large");
    let element = fault(
        "a:DeserializationFailed",
        "Expected to find node type 'Element' with name 'InitiateRefund' and namespace 'urn:x'.",
    );
    let Outcome::Unknown { evidence, .. } = read(500, element.as_bytes()) else { panic!("no doubt") };
    assert!(
        evidence.contains("service_namespace \"http://tempuri.org/\"") && evidence.contains("'urn:x'"),
        "{evidence}"
    );
}

#[test]
fn a_lookup_is_read_in_every_lossless_form() {
    let body = found("Completed", "12.50", "r-1");
    let lookup_as = |content_type: &'static str, body: &[u8]| {
        let refund = fixtures::refund("r-1", Target::Debitsuccess(target()));
        lookup_summary(&read_status(
            &answer(200, &[("content-type", content_type)], body),
            &refund,
            &target(),
            NAMES,
            &redactor(),
        ))
    };
    let parts = format!("--b\r\nContent-Type: text/xml; charset=utf-8\r\n\r\n{body}\r\n--b--");
    let sixteen: Vec<u8> = format!("\u{FEFF}{body}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin: Vec<u8> = body.replace("Closed", "Ferm\u{e9}").chars().map(|character| character as u8).collect();
    assert_eq!(lookup_as("multipart/related; boundary=\"b\"", parts.as_bytes()), "found refunded 12.50 AUD");
    assert_eq!(lookup_as("text/xml", &sixteen), "found refunded 12.50 AUD");
    assert_eq!(lookup_as("text/xml; charset=iso-8859-1", &latin), "found refunded 12.50 AUD");

    let member = |name: &str, value: &str| format!("<a:{name}>{value}</a:{name}>");
    let amount = member("RefundAmount", "12.50");
    for (from, to, expected) in [
        (amount.as_str(), amount.repeat(2), "found refunded 12.50 AUD"),
        (
            &amount,
            amount.clone() + &member("RefundAmount", "12.51"),
            "unavailable HTTP 200 with a body that is not well-formed XML",
        ),
        ("<a:Note>Closed account</a:Note>", member("Note", "<b/>"), "found refunded 12.50 AUD"),
        ("<a:Note>Closed account</a:Note>", member("Note", "x").repeat(2), "found refunded 12.50 AUD"),
        ("Closed account", "x".repeat(40_000), "found refunded 12.50 AUD"),
        (">Info<", ">Notice<".to_owned(), "unavailable Status is Succeed: 00 Success"),
        ("<a:ResponseNotes>", "<a:ResponseNotes i:nil=\"true\">".to_owned(), "found refunded 12.50 AUD"),
    ] {
        let changed = body.replacen(from, &to, 1);
        assert_eq!(lookup_as("text/xml", changed.as_bytes()), expected, "{changed}");
    }
    let changed = body.replace("Closed account", "<b/>");
    let Lookup::Found(Outcome::Refunded(yes)) = lookup(200, changed.as_bytes()) else { panic!("not found") };
    assert_eq!(yes.remarks, ["Note was ignored: its form is not documented"]);

    // A refund's answer is read strictly, but a byte order mark or a declared charset is accepted.
    let taken = reply("Succeed", &["Info 00 Success"], "r-1");
    let marked = format!("\u{FEFF}{taken}");
    assert_eq!(outcome_summary(&read(200, marked.as_bytes())), "accepted Submitted #1001");
    let parts = format!("--b\r\nContent-Type: text/xml\r\n\r\n{taken}\r\n--b--");
    let answer = answer(200, &[("content-type", "multipart/related; boundary=b")], parts.as_bytes());
    let outcome = read_refund(&answer, &RefundId::parse("r-1").unwrap(), NAMES, &redactor());
    assert_eq!(outcome_summary(&outcome), "unknown unreadable_reply");
}

proptest! {
    /// From a refusal, from a fault, and from another refund's success.
    #[test]
    fn no_mutation_makes_a_success(mutations in mutations(), which in 0..4_usize, status in prop_oneof![Just(200), 100..600_u16]) {
        let no = [
            reply("Failed", &["Error 13040 Refund amount exceeds"], "r-1"),
            reply("Unknown", &["Info 00 Success"], "r-1"),
            reply("Succeed", &["Info 00 Success"], "q-27"),
            fault("a:InternalServiceFault", "The server was unable to process the request"),
        ];
        let body = apply_mutations(no[which].as_bytes(), &mutations);
        // A change may turn another's identifier into ours.
        let is_ours = which == 2 && String::from_utf8_lossy(&body).contains(">r-1<");
        let outcome = read(status, &body);
        prop_assert!(is_ours || !matches!(outcome, Outcome::Refunded(_) | Outcome::Accepted(_)), "{outcome:?}");
        let as_lookup = String::from_utf8_lossy(&body).replace("InitiateRefund", "GetRefundStatus");
        let found = lookup(status, as_lookup.as_bytes());
        prop_assert!(!matches!(found, Lookup::Found(_)), "{found:?}");
    }

    #[test]
    fn no_mutation_turns_a_success_into_a_refusal(mutations in mutations(), status in prop_oneof![Just(200), 100..600_u16]) {
        let body = apply_mutations(reply("Succeed", &["Info 00 Success"], "r-1").as_bytes(), &mutations);
        let outcome = read(status, &body);
        prop_assert!(!matches!(outcome, Outcome::Refused { .. } | Outcome::NotSent { .. }), "{outcome:?}");
    }

    #[test]
    fn a_mutated_lookup_proves_only_what_it_contains(
        mutations in mutations(), which in 0..3_usize, status in prop_oneof![Just(200), 100..600_u16],
    ) {
        let refund_status = ["Submitted", "Completed", "Rejected"][which];
        let body = apply_mutations(found(refund_status, "12.50", "r-1").as_bytes(), &mutations);
        let lookup = lookup(status, &body);
        let fits = match &lookup {
            Lookup::Found(Outcome::Refunded(yes)) => refund_status == "Completed" && yes.amount.is_none_or(|amount| amount == target().amount()),
            Lookup::Found(Outcome::Refused { .. }) => refund_status == "Rejected",
            Lookup::NotFound { .. } | Lookup::Found(Outcome::NotSent { .. }) => false,
            _ => true,
        };
        prop_assert!(fits && (status == 200 || matches!(lookup, Lookup::Unavailable { .. })), "{lookup:?}");
    }

    #[test]
    fn a_truncated_success_is_doubt(cut in 0..1_000_usize) {
        let whole = reply("Succeed", &["Info 00 Success"], "r-1");
        let cut = cut.min(whole.len() - 1);
        let summary = outcome_summary(&read(200, &whole.as_bytes()[..cut]));
        prop_assert!(summary.starts_with("unknown"), "{summary}");
    }
}

#[test]
fn an_identifier_that_contains_the_password_is_compared_unchanged() {
    let body = reply("Succeed", &["Info 00 Success"], "r-1");
    let redactor = Redactor::new("demo", &SecretString::from("r-1"));
    let outcome = read_refund(&answer(200, &[], body.as_bytes()), &RefundId::parse("r-1").unwrap(), NAMES, &redactor);
    assert_eq!(outcome_summary(&outcome), "accepted Submitted #1001");
}

/// The note that comes with the number, and the status and the note that a lookup shows.
#[test]
fn the_providers_status_and_note_are_kept_with_the_refund() {
    let inner = "<a:Status>Succeed</a:Status><a:ExternalRefundIdentifier>r-1</a:ExternalRefundIdentifier>\
                 <a:Note>Closed account</a:Note>";
    let Outcome::Accepted(acceptance) = read(200, envelope("InitiateRefund", inner).as_bytes()) else {
        panic!("not accepted")
    };
    let (status, note) = (acceptance.status.as_deref(), acceptance.status_note.as_deref());
    assert_eq!((status, note), (Some("Submitted"), Some("Closed account")));
    let Lookup::Found(Outcome::Refunded(yes)) = lookup(200, found("Completed", "12.50", "r-1").as_bytes()) else {
        panic!("not refunded")
    };
    assert_eq!((yes.status.as_deref(), yes.status_note.as_deref()), (Some("Completed"), Some("Closed account")));
}

/// The hint at the account's settings appears only if they are likely to be at fault.
#[rstest]
#[case::about_a_namespace("a:DeserializationFailed", "The namespace is not expected", true)]
#[case::about_something_else("a:DeserializationFailed", "The input was not in a correct format", false)]
#[case::another_fault("s:Server", "The namespace cannot be reached", false)]
fn a_fault_hints_at_the_namespace_settings(#[case] code: &str, #[case] text: &str, #[case] hints: bool) {
    let Outcome::Unknown { evidence, .. } = read(500, fault(code, text).as_bytes()) else { panic!("{code}") };
    assert_eq!(evidence.contains("data_namespace"), hints, "{evidence}");
    assert!(evidence.contains(text), "{evidence}");
}

#[test]
fn irregular_fields_are_logged_once() {
    let has_logged = Once::new();
    for (fields, lines) in [(&[] as &[&str], 0), (&["Note", "Id"], 1), (&["Note"], 0)] {
        let log = logged(|| warn_of_irregular(fields, &has_logged));
        assert_eq!(log.lines().count(), lines, "{log}");
        assert_eq!(log.contains("fields=\"Note, Id\""), lines == 1, "{log}");
    }
}
