//! Reads Sectigo's answers: the plain text of `!AutoRefund`, and what `!getPostPaymentStatus` says
//! about a refund.
//!
//! Refusals are distinguished by their code only. The texts differ between Sectigo's pages
//! ("unrecognized", "unrecognised") and are kept for people.

use crate::domain::outcome::{AccountSignal, Confirmation, DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError};
use crate::domain::validation::OrderState;
use crate::http::client::HttpResponse;
use crate::providers::redact::Redactor;
use crate::providers::sectigo::status_wire::{OrderStatusReply, PageReader};
use crate::providers::text;

/// The code of a refusal that does not say whether the order or the login is wrong.
const FOREIGN_ORDER_OR_LOGIN: &str = "-16";

/// Maximum length of a quotation, in characters: more than any documented value or message has.
const MAX_QUOTE_CHARS: usize = 200;

/// Interprets an answer to `!AutoRefund`.
///
/// Documented: HTTP 200 and either `0`, or a negative code followed by a message on the next line.
/// Blanks after the code are ignored.
pub(crate) fn read_refund(answer: &HttpResponse, redactor: &Redactor) -> Outcome {
    if answer.status != 200 {
        let reason = if answer.status >= 500 { DoubtReason::ProviderServerError } else { DoubtReason::UnreadableReply };
        return Outcome::Unknown { reason, evidence: format!("HTTP {}", answer.status) };
    }
    let (line, rest) = first_line(&answer.body);
    // The code is ASCII in every charset that the message may use.
    let first = String::from_utf8_lossy(line);
    let Some(code) = parse_code(first.trim_ascii_end()) else {
        return unreadable("the first line of the answer is not a code", &first, redactor);
    };
    let message = text::decode_damaged(rest, text::content_type(answer));
    let message = message.trim();
    if code == 0 {
        // Checks the bytes, not what a charset makes of them.
        if rest.trim_ascii().is_empty() {
            return Outcome::Refunded(Confirmation::default());
        }
        // A documented success stands alone: more text may contradict it.
        return unreadable("the answer is 0 with further text", &format!("0 {message}"), redactor);
    }
    // A code without a message may be cut off: "-1" may be the start of "-14", a definite refusal
    // the start of an unknown outcome.
    if message.is_empty() {
        return unreadable("a code without its message", &first, redactor);
    }
    let error = |category| ProviderError {
        code: code.to_string(),
        message: redactor.text(message),
        http_status: answer.status,
        category,
    };
    let refused = |category| Outcome::Refused { error: error(category), items: Vec::new() };
    match code {
        -1 | -2 | -3 | -4 | -17 => refused(ErrorCategory::InvalidRequest),
        -16 | -76 => refused(ErrorCategory::PermissionDenied),
        -18 => refused(category_of(message)),
        -20 => refused(ErrorCategory::NotEligible),
        -42 => Outcome::NotSent { error: error(ErrorCategory::LimitReached), retry_at: None },
        -14 => Outcome::Unknown {
            reason: DoubtReason::ProviderSaysUnknown,
            evidence: format!("{code} {}", redactor.text(message)),
        },
        _ => unreadable("a code that is not documented", &format!("{code} {message}"), redactor),
    }
}

/// What the outcome of an attempt says about the account: `-16` means that the order belongs to
/// another account or that the login is wrong.
pub(crate) fn account_signal(outcome: &Outcome) -> AccountSignal {
    match outcome {
        Outcome::Refused { error, .. } if error.code == FOREIGN_ORDER_OR_LOGIN => AccountSignal::ForeignTarget,
        outcome => AccountSignal::of_attempt(outcome),
    }
}

/// What `!getPostPaymentStatus` says about the refund of `order_number`: `Refunded` proves it, and
/// nothing disproves it.
pub(crate) fn read_order_status(answer: &HttpResponse, order_number: &str, pages: &PageReader) -> Lookup {
    if answer.status != 200 {
        return Lookup::unavailable(format!("HTTP {} without an order's status", answer.status));
    }
    let page = match pages.read(answer) {
        Ok(OrderStatusReply::Page(answer)) => answer.page,
        Ok(OrderStatusReply::Error { code, message }) => {
            // A wrong order number and a wrong login get the same code.
            let signal = if matches!(code, -4 | -16) { AccountSignal::ForeignTarget } else { AccountSignal::Failure };
            return Lookup::Unavailable { evidence: format!("errorCode {code}: {message}"), signal };
        }
        Err(problem) => return Lookup::unavailable(format!("the answer is not an order's status: {problem}")),
    };
    if !page.is_of(order_number) {
        return Lookup::unavailable("the answer is not for this order");
    }
    match page.order_state {
        Some(state) if state.meaning() == OrderState::Refunded => Lookup::Found(Outcome::Refunded(Confirmation {
            status: Some(state.text().to_owned()),
            ..Confirmation::default()
        })),
        Some(other) => Lookup::not_found(format!("orderStatus is {}", quoted(other.text()))),
        None => Lookup::unavailable("errorCode 0 without a readable orderStatus"),
    }
}

/// Quotes a text exactly: blanks and case may be the only difference from the documented value.
/// Blanks other than a space look like one, so they are escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for character in text.chars().take(MAX_QUOTE_CHARS) {
        if character.is_whitespace() && character != ' ' {
            quoted.extend(character.escape_unicode());
        } else {
            quoted.push(character);
        }
    }
    format!("\"{quoted}\"")
}

/// The first line without its line end, and everything after it.
fn first_line(body: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = body.splitn(2, |byte| *byte == b'\n');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Accepts `-?[0-9]+` in canonical form only: no provider code is written "-018" or "00".
fn parse_code(line: &str) -> Option<i32> {
    line.parse::<i32>().ok().filter(|code| code.to_string() == line)
}

/// -18 is the code of many refusals. Its text only hints at which.
fn category_of(message: &str) -> ErrorCategory {
    let message = message.to_lowercase();
    let contains = |part: &str| message.contains(part);
    if contains("already") && contains("refund") {
        ErrorCategory::AlreadyRefunded
    } else if contains("period") || contains("expired") {
        ErrorCategory::RefundPeriodOver
    } else if contains("multi-domain") {
        ErrorCategory::NotEligible
    } else {
        ErrorCategory::Other
    }
}

fn unreadable(what: &str, text: &str, redactor: &Redactor) -> Outcome {
    Outcome::Unknown {
        reason: DoubtReason::UnreadableReply,
        evidence: format!("{what}: {}", quote_redacted(text, redactor)),
    }
}

/// The text as sent, cut to a length that shows what it is.
fn quote_redacted(text: &str, redactor: &Redactor) -> String {
    // Redacts before cutting: half a secret is still a secret.
    let shown: String = redactor.exact_text(text).chars().take(80).collect();
    quoted(&shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::providers::testing::fixtures::{answer, outcome_summary};

    fn redactor() -> Redactor {
        Redactor::new("demo", &SecretString::from("c4nary-secret"))
    }

    fn read_status(status: u16, body: &[u8]) -> Lookup {
        read_order_status(&answer(status, &[], body), "7", &PageReader::new(redactor()))
    }

    #[rstest]
    #[case::foreign_order_or_wrong_login(b"-16\nPermission denied!", AccountSignal::ForeignTarget)]
    #[case::another_refusal(b"-18\nNot eligible", AccountSignal::Healthy)]
    #[case::refunded(b"0", AccountSignal::Healthy)]
    #[case::unreadable(b"<html>", AccountSignal::Failure)]
    fn an_attempt_says_something_about_the_account(#[case] body: &[u8], #[case] expected: AccountSignal) {
        assert_eq!(account_signal(&read_refund(&answer(200, &[], body), &redactor())), expected);
    }

    #[rstest]
    #[case::yes(b"0", "refunded")]
    #[case::yes_with_line_end(b"0\n", "refunded")]
    #[case::yes_with_windows_line_end(b"0\r\n", "refunded")]
    #[case::yes_with_a_blank(b"0 \t\r\n", "refunded")]
    #[case::yes_and_more(b"0\nRefund accepted", "unknown unreadable_reply")]
    #[case::yes_and_more_later(b"0\r\n\r\nRefund refused", "unknown unreadable_reply")]
    #[case::yes_and_another_blank(b"0\xC2\xA0", "unknown unreadable_reply")]
    #[case::yes_after_a_lone_return(b"0\rno", "unknown unreadable_reply")]
    #[case::blank_after_the_code(b"-18 \nno", "refused -18 other")]
    #[case::blanks_after_the_code(b"-16 \t \r\nno", "refused -16 permission_denied")]
    #[case::blank_before_the_code(b" -18\nno", "unknown unreadable_reply")]
    #[case::return_inside_the_code(b"-1\r8\nno", "unknown unreadable_reply")]
    #[case::plain_http(b"-1\nRequest was not made over HTTPS!", "refused -1 invalid_request")]
    #[case::foreign_argument(b"-2\n'xxxx' is an unrecognized argument!", "refused -2 invalid_request")]
    #[case::missing_argument(b"-3\nThe 'xxxx' argument is missing!", "refused -3 invalid_request")]
    #[case::bad_value(b"-4\nThe value of the 'xxxx' argument is invalid!", "refused -4 invalid_request")]
    #[case::get(b"-17\r\nRequest used GET rather than POST!\r\n", "refused -17 invalid_request")]
    #[case::permission(b"-16\nPermission denied!", "refused -16 permission_denied")]
    #[case::text_means_nothing(b"-16\nThis order has already been refunded", "refused -16 permission_denied")]
    #[case::refused(b"-18\nDescription of why the request failed.", "refused -18 other")]
    #[case::already(b"-18\nThis order has already been refunded", "refused -18 already_refunded")]
    #[case::too_late(b"-18\nThe applicable refund period is over.", "refused -18 refund_period_over")]
    #[case::multi_domain(b"-18\nMulti-Domain orders are refunded by ticket.", "refused -18 not_eligible")]
    #[case::cancelled(b"-20\nThe order has already been canceled", "refused -20 not_eligible")]
    #[case::site_lock(b"-76\nPartner account is not activated", "refused -76 permission_denied")]
    #[case::limit(b"-42\nCall limit reached, please try again later", "not_sent -42 limit_reached")]
    #[case::unknown_error(b"-14\nAn unknown error occurred!", "unknown provider_says_unknown")]
    #[case::cut_off(b"-1", "unknown unreadable_reply")]
    #[case::cut_off_after_the_line(b"-1\n", "unknown unreadable_reply")]
    #[case::foreign_code(b"-99\nSomething new", "unknown unreadable_reply")]
    #[case::positive(b"1\nPayment required", "unknown unreadable_reply")]
    #[case::http_status_as_body(b"200", "unknown unreadable_reply")]
    #[case::two_zeros(b"00", "unknown unreadable_reply")]
    #[case::minus_zero(b"-0\nno", "unknown unreadable_reply")]
    #[case::leading_zero(b"-018\nno", "unknown unreadable_reply")]
    #[case::plus(b"+0", "unknown unreadable_reply")]
    #[case::blank_line_first(b"\n0", "unknown unreadable_reply")]
    #[case::blank_first(b" 0", "unknown unreadable_reply")]
    #[case::zero_and_more_on_the_line(b"0 OK", "unknown unreadable_reply")]
    #[case::decimal(b"0.0", "unknown unreadable_reply")]
    #[case::overflow(b"-99999999999999999999\nno", "unknown unreadable_reply")]
    #[case::empty(b"", "unknown unreadable_reply")]
    #[case::blank(b" \r\n ", "unknown unreadable_reply")]
    #[case::html(b"<html><body>0</body></html>", "unknown unreadable_reply")]
    #[case::other_format(b"errorCode=0&errorMessage=", "unknown unreadable_reply")]
    #[case::json(b"{\"errorCode\":0}", "unknown unreadable_reply")]
    #[case::byte_order_mark(b"\xEF\xBB\xBF0", "unknown unreadable_reply")]
    #[case::sixteen_bit(b"\xFF\xFE0\x00", "unknown unreadable_reply")]
    #[case::latin_1_message(b"-18\nCommande d\xE9j\xE0 pay\xE9e", "refused -18 other")]
    #[case::zero_byte(b"0\0", "unknown unreadable_reply")]
    fn every_answer_has_one_meaning(#[case] body: &[u8], #[case] expected: &str) {
        assert_eq!(outcome_summary(&read_refund(&answer(200, &[], body), &redactor())), expected);
    }

    #[rstest]
    #[case(500, "unknown provider_server_error")]
    #[case(503, "unknown provider_server_error")]
    #[case(201, "unknown unreadable_reply")]
    #[case(204, "unknown unreadable_reply")]
    #[case(302, "unknown unreadable_reply")]
    #[case(401, "unknown unreadable_reply")]
    #[case(404, "unknown unreadable_reply")]
    #[case(429, "unknown unreadable_reply")]
    fn another_http_status_proves_nothing(#[case] status: u16, #[case] expected: &str) {
        for body in [b"0".as_slice(), b"-18\nno", b""] {
            assert_eq!(outcome_summary(&read_refund(&answer(status, &[], body), &redactor())), expected);
        }
    }

    #[test]
    fn the_providers_text_is_kept_without_the_password() {
        let body = b"-4\r\nThe value 'c4nary-secret' of the 'loginPassword' argument is invalid!\r\n";
        let Outcome::Refused { error, items } = read_refund(&answer(200, &[], body), &redactor()) else {
            panic!("no refusal")
        };
        assert_eq!(error.code, "-4");
        assert_eq!(error.message, "The value '***' of the 'loginPassword' argument is invalid!");
        assert_eq!(error.http_status, 200);
        assert_eq!(items, []);
        let echo = read_refund(&answer(200, &[], b"loginPassword=c4nary-secret"), &redactor());
        assert!(!format!("{echo:?}").contains("c4nary"), "{echo:?}");
    }

    #[rstest]
    #[case::refunded(
        "{\"errorCode\":0,\"errorMessage\":\"\",\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\"}}",
        "found"
    )]
    #[case::processed(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Processed\"}}",
        "not_found orderStatus is \"Processed\""
    )]
    #[case::rejected(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Rejected\"}}",
        "not_found orderStatus is \"Rejected\""
    )]
    #[case::error(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"ERROR!!!\"}}",
        "not_found orderStatus is \"ERROR!!!\""
    )]
    #[case::blank_at_the_end(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded \"}}",
        "not_found orderStatus is \"Refunded \""
    )]
    #[case::blank_that_is_no_space(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\u{a0}\"}}",
        "not_found orderStatus is \"Refunded\\u{a0}\""
    )]
    #[case::invisible_character(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refund\u{ad}ed\"}}",
        "not_found orderStatus is \"Refund\\u{ad}ed\""
    )]
    #[case::irregular_fields_beside_it(
        "{\"errorCode\":\"0\",\"errorMessage\":{},\"data\":{\"orderNumber\":7,\"orderStatus\":\"Refunded\",\
         \"productType\":\"x\",\"maStatus\":9999999999,\"csrStatus\":[1],\"dcvStatus\":7,\"productName\":\"\\ud800\"}}",
        "found"
    )]
    #[case::status_in_a_list(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":[\"Refunded\"]}}",
        "unavailable errorCode 0 without a readable orderStatus"
    )]
    #[case::two_statuses(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\",\"orderStatus\":\"Processed\"}}",
        "unavailable errorCode 0 without a readable orderStatus"
    )]
    #[case::two_orders(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderNumber\":\"8\",\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer is not for this order"
    )]
    #[case::foreign_value(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"refunded\"}}",
        "not_found orderStatus is \"refunded\""
    )]
    #[case::other_order(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"8\",\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer is not for this order"
    )]
    #[case::no_order(
        "{\"errorCode\":0,\"data\":{\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer is not for this order"
    )]
    #[case::no_status(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\"}}",
        "unavailable errorCode 0 without a readable orderStatus"
    )]
    #[case::no_data("{\"errorCode\":0}", "unavailable the answer is not an order's status: data is missing")]
    #[case::refused(
        "{\"errorCode\":-16,\"errorMessage\":\"Incorrect login details: c4nary-secret\"}",
        "unavailable errorCode -16: Incorrect login details: ***"
    )]
    #[case::refused_with_data(
        "{\"errorCode\":-14,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\"}}",
        "unavailable errorCode -14: "
    )]
    #[case::no_code(
        "{\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer is not an order's status: errorCode is missing"
    )]
    #[case::twice(
        "{\"errorCode\":0,\"errorCode\":-1}",
        "unavailable the answer is not an order's status: errorCode occurs twice"
    )]
    #[case::newline_text(
        "-16\nPermission denied!",
        "unavailable the answer is not an order's status: the body is not JSON at line 2 column 1"
    )]
    #[case::html(
        "<html></html>",
        "unavailable the answer is not an order's status: the body is not JSON at line 1 column 1"
    )]
    #[case::empty("", "unavailable the answer is not an order's status: the body is empty")]
    #[case::cut_off(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\"}",
        "unavailable the answer is not an order's status: the body is cut off at line 1 column 66"
    )]
    #[case::array_for_object(
        "{\"errorCode\":0,\"data\":[\"7\",\"Refunded\"]}",
        "unavailable the answer is not an order's status: data must be an object and is an array"
    )]
    fn only_the_status_refunded_proves_a_refund(#[case] body: &str, #[case] expected: &str) {
        let summary = match read_status(200, body.as_bytes()) {
            Lookup::Found(outcome) => {
                assert_eq!(outcome_summary(&outcome), "refunded");
                "found".to_owned()
            }
            Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
            Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
        };
        assert_eq!(summary, expected);
    }

    proptest! {
        #[test]
        fn no_change_to_another_answer_makes_a_success(whole in other_answers(), change in change(), status in statuses()) {
            let body = change.made_to(whole);
            // The change may produce the documented success; nothing else may pass for one.
            let is_documented_yes = status == 200 && body.trim_ascii_end() == b"0";
            let outcome = read_refund(&answer(status, &[], &body), &redactor());
            let is_yes = matches!(outcome, Outcome::Refunded(_) | Outcome::Accepted(_));
            prop_assert_eq!(is_yes, is_documented_yes, "{:?}", outcome);
        }

        #[test]
        fn a_success_stands_alone(more in "[ -~\n\r\t\u{a0}\u{feff}]{1,12}", status in statuses()) {
            for body in [format!("0{more}"), format!("0\n{more}"), format!("{more}0")] {
                let outcome = read_refund(&answer(status, &[], body.as_bytes()), &redactor());
                let is_alone = status == 200 && body.trim_ascii_end() == "0";
                prop_assert_eq!(matches!(outcome, Outcome::Refunded(_)), is_alone, "{:?}", outcome);
            }
        }

        #[test]
        fn no_change_to_another_order_status_proves_a_refund(
            order in prop::sample::select(vec!["7", "8", ""]),
            status_text in prop::sample::select(vec!["Refunded", "refunded", "Refunded ", "Processed", "ERROR!!!", "Refund"]),
            code in prop::sample::select(vec!["0", "-14", "-16", "1"]),
            change in change(),
            status in statuses(),
        ) {
            let whole = format!(
                "{{\"errorCode\":{code},\"errorMessage\":\"\",\"data\":{{\"orderNumber\":\"{order}\",\
                 \"orderStatus\":\"{status_text}\"}}}}"
            );
            let body = change.made_to(whole.as_bytes());
            if let Lookup::Found(outcome) = read_status(status, &body) {
                prop_assert_eq!((status, outcome_summary(&outcome)), (200, "refunded".to_owned()));
                // Whatever the change was, an independent JSON reader finds in the body everything
                // that a proof needs.
                // The page reader ignores a byte order mark, and bytes that do not fit the charset
                // where they decide nothing.
                let text = String::from_utf8_lossy(&body);
                let read: serde_json::Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap();
                prop_assert_eq!(&read["data"]["orderStatus"], "Refunded");
                let number = read["data"]["orderNumber"].to_string();
                prop_assert_eq!(number.trim_matches('"').trim().trim_start_matches('0'), "7");
                prop_assert_eq!(read["errorCode"].as_f64(), Some(0.0));
            }
        }

        #[test]
        fn a_truncated_answer_is_never_another_answer(cut in 0..28_usize) {
            let whole = b"-14\nAn unknown error occurred!";
            let body = whole.get(..cut).unwrap_or(whole);
            prop_assert!(outcome_summary(&read_refund(&answer(200, &[], body), &redactor())).starts_with("unknown"));
        }
    }

    /// The provider's own word is kept with the refund.
    #[test]
    fn a_refunded_order_keeps_the_providers_status() {
        let body = br#"{"errorCode":0,"data":{"orderNumber":"7","orderStatus":"Refunded"}}"#;
        let lookup = read_status(200, body);
        let Lookup::Found(Outcome::Refunded(yes)) = lookup else { panic!("{lookup:?}") };
        assert_eq!(yes.status.as_deref(), Some("Refunded"));
    }

    /// Its first line as it came, for the person who resolves the doubt.
    #[rstest]
    #[case::a_word(b"OK\n", "the first line of the answer is not a code: \"OK\"")]
    #[case::no_message(b"-14\n", "a code without its message: \"-14\"")]
    #[case::not_documented(b"-99\nOdd", "a code that is not documented: \"-99 Odd\"")]
    fn an_unreadable_answer_is_shown(#[case] body: &[u8], #[case] expected: &str) {
        let Outcome::Unknown { evidence, .. } = read_refund(&answer(200, &[], body), &redactor()) else {
            panic!("{body:?}")
        };
        assert_eq!(evidence, expected);
    }

    /// Documented answers to `!AutoRefund` that are not a success, and some that contain a 0.
    fn other_answers() -> impl Strategy<Value = &'static [u8]> {
        prop::sample::select(vec![
            b"-18\nThis order has already been refunded".as_slice(),
            b"-14\nAn unknown error occurred!",
            b"-16\r\nPermission denied!\r\n",
            b"-20\nThe order has already been canceled",
            b"-42\nCall limit reached, please try again later",
            b"-1\n0",
            b"\n0",
            b"errorCode=0&errorMessage=",
            b"<html>0</html>",
            b"10\n",
        ])
    }

    fn statuses() -> impl Strategy<Value = u16> {
        prop_oneof![3 => Just(200_u16), 1 => 100..600_u16]
    }

    /// What a network, a proxy or a careless server can do to an answer.
    #[derive(Debug, Clone)]
    enum Change {
        None,
        CutOff(prop::sample::Index),
        CutOffTheBeginning(prop::sample::Index),
        Byte(prop::sample::Index, u8),
        Insert(prop::sample::Index, Vec<u8>),
        Twice(prop::sample::Index),
    }

    fn change() -> impl Strategy<Value = Change> {
        let at = any::<prop::sample::Index>;
        let bytes = prop::sample::select(b"0-1\n\r \"x{}[],:\0\xEF\xBB\xBF".to_vec());
        prop_oneof![
            Just(Change::None),
            at().prop_map(Change::CutOff),
            at().prop_map(Change::CutOffTheBeginning),
            (at(), prop_oneof![bytes.clone(), any::<u8>()]).prop_map(|(at, byte)| Change::Byte(at, byte)),
            (at(), prop::collection::vec(bytes, 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
            at().prop_map(Change::Twice),
        ]
    }

    impl Change {
        fn made_to(&self, whole: &[u8]) -> Vec<u8> {
            let at = |index: &prop::sample::Index| index.index(whole.len());
            match self {
                Change::None => whole.to_vec(),
                Change::CutOff(index) => whole[..at(index)].to_vec(),
                Change::CutOffTheBeginning(index) => whole[at(index)..].to_vec(),
                Change::Byte(index, byte) => {
                    let mut changed = whole.to_vec();
                    changed[at(index)] = *byte;
                    changed
                }
                Change::Insert(index, bytes) => [&whole[..at(index)], bytes, &whole[at(index)..]].concat(),
                Change::Twice(index) => [whole, &whole[at(index)..]].concat(),
            }
        }
    }
}
