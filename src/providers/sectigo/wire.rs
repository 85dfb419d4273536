//! Sectigo's answers: the newline text of `!AutoRefund`, and of `!getPostPaymentStatus` the few members that a lookup needs.
//!
//! Refusals are told apart by their number alone. Texts differ between pages ("unrecognized", "unrecognised") and are kept for people.

use crate::domain::outcome::{Confirmation, DoubtReason, ErrorCategory, Heard, Lookup, Outcome, ProviderError};
use crate::domain::target::is_same_order;
use crate::providers::http::Answer;
use crate::providers::mask::Mask;
use crate::providers::sectigo::json::{Document, Problem};

/// What an answer to `!AutoRefund` means.
///
/// Documented: HTTP 200, and `0`, or a negative code and on the next line a message.
pub(crate) fn read_refund(answer: &Answer, mask: &Mask) -> Outcome {
    if answer.status != 200 {
        let reason = if answer.status >= 500 { DoubtReason::ProviderServerError } else { DoubtReason::UnreadableReply };
        return Outcome::Unknown { reason, evidence: format!("HTTP {}", answer.status) };
    }
    let text = String::from_utf8_lossy(&answer.body).replace('\r', "");
    let text = text.trim_end();
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Some(code) = code_of(first) else {
        return unreadable("the first line of the answer is not a code", first, mask);
    };
    let message = rest.trim();
    if code == 0 {
        if !message.is_empty() {
            let bytes = i64::try_from(message.len()).unwrap_or(i64::MAX);
            tracing::warn!(bytes, "sectigo answered 0 and said more");
        }
        return Outcome::Refunded(Confirmation::default());
    }
    // A code alone may be the beginning of one that was cut off: "-1" of "-14", a definite no of an unknown.
    if message.is_empty() {
        return unreadable("a code without its message", first, mask);
    }
    let error = |category| ProviderError {
        code: first.to_owned(),
        message: mask.text(message),
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
            evidence: format!("{first} {}", mask.text(message)),
        },
        _ => unreadable("a code that is not documented", text, mask),
    }
}

/// What `!getPostPaymentStatus` says of the refund of `order_number`: `Refunded` proves it, and nothing disproves it.
pub(crate) fn read_order_status(answer: &Answer, order_number: &str, mask: &Mask) -> Lookup {
    if answer.status != 200 {
        return Lookup::unavailable(format!("HTTP {} and not an order's status", answer.status));
    }
    let told = match Document::read(&answer.body).and_then(|document| Told::read(&document)) {
        Ok(told) => told,
        Err(problem) => return Lookup::unavailable(format!("the answer is not an order's status: {problem}")),
    };
    if told.error_code != 0 {
        let evidence = format!("errorCode {}: {}", told.error_code, mask.text(&told.error_message));
        // A wrong order number and a wrong login are answered alike.
        let heard = if matches!(told.error_code, -4 | -16) { Heard::NotOurs } else { Heard::Nothing };
        return Lookup::Unavailable { evidence, heard };
    }
    if !is_same_order(&told.order_number, order_number) {
        return Lookup::unavailable("the answer tells of another order");
    }
    match told.order_status.as_str() {
        "Refunded" => Lookup::Found(Outcome::Refunded(Confirmation {
            status: Some("Refunded".to_owned()),
            ..Confirmation::default()
        })),
        "" => Lookup::unavailable("errorCode 0, and no orderStatus"),
        other => Lookup::not_found(format!("orderStatus is \"{}\"", mask.text(other))),
    }
}

/// The members of an answer that a lookup needs; the whole of it is the validation status's business.
struct Told {
    error_code: i32,
    error_message: String,
    order_number: String,
    order_status: String,
}

impl Told {
    fn read(document: &Document) -> Result<Self, Problem> {
        let root = document.root()?;
        let data = root.object("data")?;
        let of_data = |name| data.as_ref().map_or(Ok(String::new()), |data| data.text(name));
        Ok(Self {
            error_code: root.integer("errorCode")?.ok_or_else(|| root.problem("errorCode", "is missing"))?,
            error_message: root.text("errorMessage")?,
            order_number: of_data("orderNumber")?,
            order_status: of_data("orderStatus")?,
        })
    }
}

/// `-?[0-9]+` in its one spelling: "-018" and "00" are nobody's codes.
fn code_of(line: &str) -> Option<i32> {
    line.parse::<i32>().ok().filter(|code| code.to_string() == line)
}

/// -18 is one number for every refusal: its text is a hint of which, and no more than a hint.
fn category_of(message: &str) -> ErrorCategory {
    let message = message.to_lowercase();
    let says = |word: &str| message.contains(word);
    if says("already") && says("refund") {
        ErrorCategory::AlreadyRefunded
    } else if says("period") || says("expired") {
        ErrorCategory::RefundPeriodOver
    } else if says("multi-domain") {
        ErrorCategory::NotEligible
    } else {
        ErrorCategory::Other
    }
}

fn unreadable(what: &str, seen: &str, mask: &Mask) -> Outcome {
    let seen = mask.text(seen.chars().take(80).collect::<String>().as_str());
    Outcome::Unknown { reason: DoubtReason::UnreadableReply, evidence: format!("{what}: \"{seen}\"") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::providers::samples::{answer, outcome_word};

    fn mask() -> Mask {
        Mask::new("demo", &SecretString::from("c4nary-secret"))
    }

    #[rstest]
    #[case::yes(b"0", "refunded")]
    #[case::yes_with_line_end(b"0\n", "refunded")]
    #[case::yes_with_windows_line_end(b"0\r\n", "refunded")]
    #[case::yes_and_more(b"0\nRefund accepted", "refunded")]
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
    fn every_answer_means_one_thing(#[case] body: &[u8], #[case] expected: &str) {
        assert_eq!(outcome_word(&read_refund(&answer(200, &[], body), &mask())), expected);
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
            assert_eq!(outcome_word(&read_refund(&answer(status, &[], body), &mask())), expected);
        }
    }

    #[test]
    fn the_providers_words_are_kept_without_the_password() {
        let body = b"-4\r\nThe value 'c4nary-secret' of the 'loginPassword' argument is invalid!\r\n";
        let Outcome::Refused { error, items } = read_refund(&answer(200, &[], body), &mask()) else {
            panic!("no refusal")
        };
        assert_eq!(error.code, "-4");
        assert_eq!(error.message, "The value '***' of the 'loginPassword' argument is invalid!");
        assert_eq!(error.http_status, 200);
        assert_eq!(items, []);
        let echo = read_refund(&answer(200, &[], b"loginPassword=c4nary-secret"), &mask());
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
    #[case::foreign_word(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"refunded\"}}",
        "not_found orderStatus is \"refunded\""
    )]
    #[case::other_order(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"8\",\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer tells of another order"
    )]
    #[case::no_order(
        "{\"errorCode\":0,\"data\":{\"orderStatus\":\"Refunded\"}}",
        "unavailable the answer tells of another order"
    )]
    #[case::no_status(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\"}}",
        "unavailable errorCode 0, and no orderStatus"
    )]
    #[case::no_data("{\"errorCode\":0}", "unavailable the answer tells of another order")]
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
        "unavailable the answer is not an order's status: errorCode is there twice"
    )]
    #[case::newline_text(
        "-16\nPermission denied!",
        "unavailable the answer is not an order's status: the body is not JSON, at line 2 column 1"
    )]
    #[case::html(
        "<html></html>",
        "unavailable the answer is not an order's status: the body is not JSON, at line 1 column 1"
    )]
    #[case::empty("", "unavailable the answer is not an order's status: the body is empty")]
    #[case::cut_off(
        "{\"errorCode\":0,\"data\":{\"orderNumber\":\"7\",\"orderStatus\":\"Refunded\"}",
        "unavailable the answer is not an order's status: the body ends in the middle, at line 1 column 66"
    )]
    #[case::array_for_object(
        "{\"errorCode\":0,\"data\":[\"7\",\"Refunded\"]}",
        "unavailable the answer is not an order's status: data must be an object and is an array"
    )]
    fn only_the_word_refunded_proves_it(#[case] body: &str, #[case] expected: &str) {
        let word = match read_order_status(&answer(200, &[], body.as_bytes()), "7", &mask()) {
            Lookup::Found(outcome) => {
                assert_eq!(outcome_word(&outcome), "refunded");
                "found".to_owned()
            }
            Lookup::NotFound { evidence, .. } => format!("not_found {evidence}"),
            Lookup::Unavailable { evidence, .. } => format!("unavailable {evidence}"),
        };
        assert_eq!(word, expected);
    }

    proptest! {
        #[test]
        fn no_noise_is_a_yes(body in proptest::collection::vec(any::<u8>(), 0..200), status in 100..600_u16) {
            prop_assume!(!body.starts_with(b"0"));
            let outcome = read_refund(&answer(status, &[], &body), &mask());
            prop_assert!(!matches!(outcome, Outcome::Refunded(_) | Outcome::Accepted(_)));
            prop_assert!(!matches!(read_order_status(&answer(status, &[], &body), "7", &mask()), Lookup::Found(_)));
        }

        #[test]
        fn an_answer_cut_off_anywhere_is_never_another_answer(cut in 0..28_usize) {
            let whole = b"-14\nAn unknown error occurred!";
            let body = whole.get(..cut).unwrap_or(whole);
            prop_assert!(outcome_word(&read_refund(&answer(200, &[], body), &mask())).starts_with("unknown"));
        }
    }
}
