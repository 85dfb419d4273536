use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use secrecy::SecretString;

use super::*;
use crate::domain::outcome::ItemState;
use crate::providers::testing::fixtures::{NOW, answer, apply_mutations, mutations, outcome_summary};
use crate::providers::testing::log_capture::logged;

fn target() -> NamecomTarget {
    NamecomTarget::new(7, &[1, 2]).unwrap()
}

fn redactor() -> Redactor {
    Redactor::new("demo", &SecretString::from("c4nary-secret"))
}

fn read(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Outcome {
    read_refund(&answer(status, headers, body), "r-1", &target(), NOW, &redactor())
}

/// One row of `results`, from `1 refunded 10.99`.
fn row(text: &str) -> String {
    let mut parts = text.split(' ');
    let (item, status, amount) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or("0"));
    format!(
        "{{\"orderId\":7,\"orderItemId\":{item},\"orderItemStatus\":\"{status}\",\"refundAmount\":{amount},\"message\":\"m{item}\"}}"
    )
}

fn results(rows: &[&str], total: &str) -> String {
    let rows: Vec<String> = rows.iter().map(|text| row(text)).collect();
    format!("{{\"results\":[{}],\"totalRefundAmount\":{total}}}", rows.join(","))
}

#[rstest]
#[case::all(&["1 refunded 10.99", "2 refunded 4.99"], "15.98", "refunded 15.98 USD")]
#[case::in_any_order(&["2 refunded 4.99", "1 refunded 10.99"], "15.98", "refunded 15.98 USD")]
#[case::binary_floats(&["1 refunded 9.9900000000000002", "2 refunded 1e-2"], "10.00", "refunded 10.00 USD")]
#[case::amounts_in_strings(&["1 refunded \"10.99\"", "2 refunded \"0\""], "\"10.99\"", "refunded 10.99 USD")]
#[case::another_total(&["1 refunded 10.99", "2 refunded 4.99"], "999", "refunded 15.98 USD")]
#[case::no_total(&["1 refunded 10.99", "2 refunded 4.99"], "null", "refunded 15.98 USD")]
#[case::cascade(&["1 refunded 10.99", "2 refunded 4.99", "3 refunded 1.01"], "16.99", "refunded 16.99 USD")]
#[case::cascade_refused(&["1 refunded 10.99", "2 refunded 4.99", "3 failed"], "15.98", "refunded 15.98 USD")]
#[case::in_part(&["1 refunded 10.99", "2 failed"], "10.99", "refunded 10.99 USD (partly)")]
#[case::cancelled_in_part(&["1 canceled", "2 refunded 4.99"], "4.99", "refunded 4.99 USD (partly)")]
#[case::none(&["1 failed", "2 failed"], "0", "refused failed other")]
#[case::none_cancelled(&["1 canceled", "2 failed"], "0", "refused canceled other")]
#[case::none_but_the_cascade(&["1 failed", "2 failed", "3 refunded 1.01"], "1.01", "unknown contradiction")]
#[case::none_but_a_cascade_that_has_begun(&["1 failed", "2 failed", "3 initialized"], "0", "unknown contradiction")]
#[case::none_and_a_total(&["1 failed", "2 failed"], "15.98", "refused failed other")]
#[case::begun(&["1 initialized", "2 initialized"], "0", "accepted initialized")]
#[case::begun_in_part(&["1 refunded 10.99", "2 initialized"], "10.99", "accepted initialized 10.99 USD")]
#[case::begun_and_refused(&["1 failed", "2 initialized"], "0", "accepted initialized")]
#[case::one_missing(&["1 refunded 10.99"], "10.99", "accepted initialized 10.99 USD")]
#[case::all_missing(&["3 refunded 10.99"], "10.99", "unknown contradiction")]
#[case::no_rows(&[], "15.98", "unknown contradiction")]
#[case::twice(&["1 refunded 10.99", "1 refunded 10.99", "2 refunded 4.99"], "15.98", "unknown contradiction")]
#[case::another_status(&["1 refunded 10.99", "2 pending"], "10.99", "unknown unreadable_reply")]
#[case::value_in_another_case(&["1 Refunded 10.99", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::another_status_of_a_cascade(&["1 refunded 10.99", "2 refunded 4.99", "3 unusual"], "15.98", "unknown unreadable_reply")]
#[case::not_a_number(&["1 refunded NaN", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::not_a_number_in_a_string(&["1 refunded \"NaN\"", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::no_amount(&["1 refunded null", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::an_object(&["1 refunded {}", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::negative(&["1 refunded -10.99", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
#[case::enormous(&["1 refunded 1e400", "2 refunded 4.99"], "15.98", "unknown unreadable_reply")]
fn a_200_is_judged_item_by_item(#[case] rows: &[&str], #[case] total: &str, #[case] expected: &str) {
    assert_eq!(outcome_summary(&read(200, &[], results(rows, total).as_bytes())), expected);
}

/// Observed: if all items are refused, the answer is a 409 with rows and without a message.
#[rstest]
#[case::none(&["1 failed", "2 failed"], "refused failed other")]
#[case::cancelled(&["1 canceled", "2 failed"], "refused canceled other")]
#[case::all(&["1 refunded 10.99", "2 refunded 4.99"], "refunded 15.98 USD")]
#[case::in_part(&["1 refunded 10.99", "2 failed"], "refunded 10.99 USD (partly)")]
#[case::begun(&["1 initialized", "2 failed"], "accepted initialized")]
#[case::one_refused_and_one_missing(&["1 failed"], "unknown contradiction")]
#[case::one_refunded_and_one_missing(&["1 refunded 10.99"], "unknown contradiction")]
#[case::one_begun_and_one_missing(&["1 initialized"], "unknown contradiction")]
#[case::none_but_the_cascade(&["1 failed", "2 failed", "3 refunded 1.01"], "unknown contradiction")]
#[case::cascade_alone(&["3 refunded 1.01"], "unknown contradiction")]
#[case::refused_twice(&["1 failed", "1 failed", "2 failed"], "unknown contradiction")]
#[case::refused_and_refunded(&["1 refunded 10.99", "1 failed", "2 failed"], "unknown contradiction")]
#[case::irregular_amount(&["1 refunded \"10,99\"", "2 failed"], "unknown unreadable_reply")]
#[case::another_status(&["1 failed", "2 pending"], "unknown unreadable_reply")]
#[case::value_with_a_blank(&["1 failed", "2 \u{a0}refunded"], "unknown unreadable_reply")]
fn the_rows_decide_whatever_the_status_and_the_message(#[case] rows: &[&str], #[case] expected: &str) {
    let prefixes = [
        "",
        "\"message\":\"Conflict\",\"details\":null,",
        "\"message\":\"Bad Request\",\"details\":\"Order item 1 is not eligible for refund.\",",
        "\"message\":\"Unauthorized\",",
        "\"message\":\"Permission denied\",\"details\":\"Failed authentication\",",
        "\"code\":{\"results\":null},\"success\":false,",
        "\"message\":[],",
    ];
    for status in [201, 202, 207, 302, 400, 401, 403, 404, 405, 409, 415, 422, 423, 429, 500, 502, 503] {
        for prefix in prefixes {
            let body = results(rows, "0").replacen('{', &format!("{{{prefix}"), 1);
            let outcome = read(status, &[], body.as_bytes());
            assert_eq!(outcome_summary(&outcome), expected, "{status} {body}");
            match &outcome {
                Outcome::Refused { error, items } => {
                    assert_eq!((error.http_status, error.message.as_str()), (status, "item 1: m1; item 2: m2"));
                    assert_eq!(items.len(), 2);
                }
                Outcome::Unknown { evidence, .. } => {
                    assert!(evidence.contains(&format!("HTTP {status}, item ")), "{evidence}");
                    for row in rows {
                        let mut parts = row.split(' ');
                        let named = format!("item {} \"{}\"", parts.next().unwrap(), parts.next().unwrap());
                        assert!(evidence.contains(&named), "{named} in {evidence}");
                    }
                }
                _ => {}
            }
        }
    }
}

/// No form of a row with refunded or initialized is lost in a refusal, or in a proof that nothing
/// was processed.
#[rstest]
#[case::another_order(
    "{\"message\":\"m\",\"results\":[{\"orderId\":8,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}]}"
)]
#[case::no_order(
    "{\"message\":\"m\",\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}]}"
)]
#[case::number_in_a_text(
    "{\"message\":\"m\",\"results\":[{\"orderId\":7,\"orderItemId\":\"1\",\"orderItemStatus\":\"initialized\"}]}"
)]
#[case::one_for_a_list(
    "{\"message\":\"m\",\"results\":{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"initialized\"}}"
)]
#[case::wrapped("{\"message\":\"m\",\"data\":{\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"}]}}")]
#[case::results_twice(
    "{\"message\":\"m\",\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"}],\"results\":[]}"
)]
#[case::refused_beside_another_spelling(
    "{\"results\":[{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"failed\"},{\"orderId\":7,\"orderItemId\":2,\"orderItemStatus\":\"failed\",\"OrderItemStatus\":\"Refunded \"}]}"
)]
#[case::list_around("[{\"message\":\"m\",\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"}]}]")]
#[case::cut_off("{\"message\":\"m\",\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"")]
#[case::total_alone("{\"message\":\"m\",\"results\":[],\"totalRefundAmount\":15.98}")]
#[case::in_no_charset("{\"message\":\"m\u{e9}\",\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"}]}")]
fn no_row_of_moved_money_is_lost(#[case] body: &str) {
    let latin: Vec<u8> = body.chars().map(|character| character as u8).collect();
    for status in [200, 400, 401, 403, 404, 409, 423, 429, 500] {
        let Outcome::Unknown { evidence, .. } = read(status, &[], &latin) else { panic!("{status} {body}") };
        assert!(evidence.contains(&format!("HTTP {status}, ")), "{evidence}");
    }
}

#[rstest]
#[case::of_the_row(
    "{\"results\":[{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1,\"message\":\"Order item 1 has already been refunded.\"},{\"orderId\":7,\"orderItemId\":2,\"orderItemStatus\":\"failed\"}]}"
)]
#[case::of_the_answer(
    "{\"message\":\"Bad Request\",\"details\":\"Order item 1 has already been refunded.\",\"results\":[{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1},{\"orderId\":7,\"orderItemId\":2,\"orderItemStatus\":\"failed\"}]}"
)]
fn an_item_refunded_before_is_not_this_refund(#[case] body: &str) {
    assert_eq!(outcome_summary(&read(400, &[], body.as_bytes())), "unknown contradiction");
}

#[test]
fn rows_without_a_message_use_the_answers_message() {
    let body = results(&["1 failed", "2 failed"], "0").replace("\"m1\"", "null").replace("\"m2\"", "\"\"");
    let body = body.replacen('{', "{\"message\":\"Conflict\",\"details\":\"AGP\",", 1);
    let Outcome::Refused { error, .. } = read(409, &[], body.as_bytes()) else { panic!("no refusal") };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("failed", "Conflict: AGP"));
}

#[test]
fn a_row_without_a_message_is_left_out_of_the_refusal() {
    let body = results(&["1 failed", "2 failed"], "0").replace("\"m2\"", "\"\"");
    let Outcome::Refused { error, .. } = read(409, &[], body.as_bytes()) else { panic!("no refusal") };
    assert_eq!(error.message, "item 1: m1");
}

#[test]
fn empty_default_values_beside_an_error_are_not_rows() {
    let body = "{\"message\":\"Bad Request\",\"details\":\"x\",\"results\":[],\"totalRefundAmount\":0.0}";
    assert_eq!(outcome_summary(&read(400, &[], body.as_bytes())), "refused 400 invalid_request");
}

#[rstest]
#[case::other_order(
    "{\"results\":[{\"orderId\":8,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1},{\"orderId\":7,\"orderItemId\":2,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}],\"totalRefundAmount\":2}",
    "unknown contradiction"
)]
#[case::no_order(
    "{\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}]}",
    "unknown unreadable_reply"
)]
#[case::no_message(
    "{\"results\":[{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1},{\"orderId\":7,\"orderItemId\":2,\"orderItemStatus\":\"refunded\",\"refundAmount\":1,\"message\":null}],\"totalRefundAmount\":2.0}",
    "refunded 2.00 USD"
)]
#[case::member_twice(
    "{\"results\":[{\"orderId\":8,\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}]}",
    "unknown unreadable_reply"
)]
#[case::no_results("{\"totalRefundAmount\":15.98}", "unknown unreadable_reply")]
#[case::error_body("{\"message\":\"Bad Request\"}", "unknown unreadable_reply")]
#[case::empty("", "unknown unreadable_reply")]
#[case::html("<html><body>refunded</body></html>", "unknown unreadable_reply")]
#[case::cut_off(
    "{\"results\":[{\"orderId\":7,\"orderItemId\":1,\"orderItemStatus\":\"refunded\",\"refundAmount\":1}",
    "unknown unreadable_reply"
)]
#[case::two_documents("{\"results\":[]}{\"results\":[]}", "unknown unreadable_reply")]
fn a_200_of_another_shape_proves_nothing(#[case] body: &str, #[case] expected: &str) {
    assert_eq!(outcome_summary(&read(200, &[], body.as_bytes())), expected);
}

#[test]
fn deep_nesting_and_wrong_charsets_prove_nothing() {
    for body in [b"[".repeat(60_000), b"{\"results\":".repeat(5_000), b"\xFF\xFE{\0}\0".to_vec(), b"\"\xE9\"".to_vec()]
    {
        assert_eq!(outcome_summary(&read(200, &[], &body)), "unknown unreadable_reply");
    }
}

const PERIOD_OVER: &str = "The Add Grace Period (AGP) deletion window has expired for domain example.com. AGP deletes are only allowed within 5 days of registration.";

#[rstest]
#[case(400, "Bad Request", "Order item 987654 has already been refunded.", "refused 400 already_refunded")]
#[case(
    400,
    "Bad Request",
    "Order item 987654 is not eligible for refund. Only 'registration' and 'whois_privacy' product types are supported.",
    "refused 400 not_eligible"
)]
#[case(400, "Bad Request", "orderItemIds array must contain at least one item.", "refused 400 invalid_request")]
#[case(401, "Unauthorized", "", "not_sent 401 credentials_refused")]
#[case(403, "Permission denied", "Failed authentication", "not_sent 403 credentials_refused")]
#[case(403, "failed authentication", "", "not_sent 403 credentials_refused")]
#[case(403, "Permission denied", "", "refused 403 permission_denied")]
#[case(403, "Permission denied", "Refunds are for approved resellers.", "refused 403 permission_denied")]
#[case(404, "Not Found", "Order with ID 123456 does not exist.", "refused 404 target_not_found")]
#[case(405, "Method Not Allowed", "", "refused 405 invalid_request")]
#[case(409, "Conflict", "Idempotency key has been reused for a different request.", "refused 409 identifier_in_use")]
#[case(
    409,
    "Conflict",
    "AGP delete threshold has been exceeded for this account. Please contact support.",
    "refused 409 limit_reached"
)]
#[case(409, "Conflict", "", "refused 409 other")]
#[case(
    415,
    "The 'Content-Type' header must be 'application/json' for this request.",
    "",
    "refused 415 invalid_request"
)]
#[case(423, "Resource Locked", PERIOD_OVER, "refused 423 refund_period_over")]
#[case(429, "Rate Limit Exceeded", "Slow down.", "not_sent 429 limit_reached")]
#[case(500, "Internal Server Error", "Something went wrong.", "unknown provider_server_error")]
#[case(502, "Registry Connection Unavailable", "", "unknown provider_server_error")]
#[case(
    503,
    "Service Unavailable",
    "The API is offline for scheduled maintenance. See https://status.name.com for updates.",
    "unknown provider_server_error"
)]
#[case(504, "The upstream server is taking too long to respond.", "", "unknown provider_server_error")]
#[case(599, "Something", "", "unknown provider_server_error")]
#[case(402, "Payment Required", "", "unknown unreadable_reply")]
#[case(408, "Request Timeout", "", "unknown unreadable_reply")]
#[case(422, "Unprocessable", "", "unknown unreadable_reply")]
#[case(307, "Temporary Redirect", "", "unknown unreadable_reply")]
#[case(202, "Accepted", "", "unknown unreadable_reply")]
fn every_status_of_the_error_table(
    #[case] status: u16,
    #[case] message: &str,
    #[case] details: &str,
    #[case] expected: &str,
) {
    let detailed = format!("{{\"message\":\"{message}\",\"details\":\"{details}\"}}");
    let outcome = read(status, &[], detailed.as_bytes());
    assert_eq!(outcome_summary(&outcome), expected);
    if let Outcome::Refused { error, .. } | Outcome::NotSent { error, .. } = &outcome {
        assert_eq!(error.http_status, status);
        let expected = if details.is_empty() { message.to_owned() } else { format!("{message}: {details}") };
        assert_eq!(error.message, expected);
    }
    // The same status without the documented body: none is a definite refusal, and some prove "not
    // processed" by themselves.
    let by_itself = match status {
        401 | 403 => "not_sent",
        429 => "not_sent 429 limit_reached",
        _ => "unknown",
    };
    for body in [
        "",
        "<html><h1>Error</h1></html>",
        "{\"error\":\"x\"}",
        "{\"message\":null}",
        "{\"message\":\"\",\"details\":\"\"}",
        "{\"message\":\"cut o",
        "[]",
    ] {
        let summary = outcome_summary(&read(status, &[], body.as_bytes()));
        assert!(summary.starts_with(by_itself), "{status} {body}: {summary}");
    }
}

#[rstest]
#[case::null("{\"message\":\"Bad Request\",\"details\":null}")]
#[case::absent("{\"message\":\"Bad Request\"}")]
fn details_are_optional(#[case] body: &str) {
    assert_eq!(outcome_summary(&read(400, &[], body.as_bytes())), "refused 400 invalid_request");
}

#[rstest]
#[case::reset(&[("x-ratelimit-reset", "1772600802")], Some(2))]
#[case::after(&[("retry-after", "3")], Some(3))]
#[case::the_later(&[("x-ratelimit-reset", "1772600802"), ("retry-after", "3")], Some(3))]
#[case::none(&[], None)]
#[case::past(&[("x-ratelimit-reset", "1772600799")], None)]
#[case::now(&[("x-ratelimit-reset", "1772600800")], None)]
#[case::within_the_hour(&[("x-ratelimit-reset", "1772604400")], Some(3600))]
#[case::beyond_the_hour(&[("x-ratelimit-reset", "1772604401")], None)]
#[case::milliseconds(&[("x-ratelimit-reset", "1772600802000")], None)]
#[case::negative(&[("retry-after", "-3")], None)]
#[case::a_day(&[("retry-after", "86400")], None)]
#[case::a_date_within_the_hour(&[("retry-after", "Wed, 04 Mar 2026 05:07:00 GMT")], Some(20))]
#[case::a_date_that_is_past(&[("retry-after", "Wed, 04 Mar 2026 05:06:00 GMT")], None)]
#[case::no_date(&[("retry-after", "Wed, 04 Foo 2026 05:07:00 GMT")], None)]
#[case::a_date(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], None)]
fn a_rate_limit_sets_the_retry_time(#[case] headers: &[(&'static str, &'static str)], #[case] seconds: Option<u64>) {
    let bodies: [&[u8]; 4] =
        [b"{\"message\":\"Rate Limit Exceeded\",\"details\":\"x\"}", b"{\"details\":null}", b"<html/>", b"\xFF"];
    for body in bodies {
        let outcome = read(429, headers, body);
        let Outcome::NotSent { retry_at, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(retry_at, seconds.map(|seconds| NOW.saturating_add(Duration::from_secs(seconds))));
    }
}

#[test]
fn a_replay_is_marked_and_must_have_our_key() {
    let body = results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98");
    let replayed = read(200, &[("x-idempotent-replay", "1"), ("x-idempotency-key", "r-1")], body.as_bytes());
    assert_eq!(outcome_summary(&replayed), "refunded 15.98 USD (replayed)");
    for (status, body) in [(200, body.as_str()), (409, &body), (400, "{\"message\":\"Bad Request\"}"), (429, "")] {
        let foreign = read(status, &[("x-idempotency-key", "r-2")], body.as_bytes());
        assert_eq!(outcome_summary(&foreign), "unknown contradiction");
    }
}

#[rstest]
#[case("1", true)]
#[case(" 2", true)]
#[case("true", true)]
#[case("1, 0", true)]
#[case("unusual", true)]
#[case("0", false)]
#[case("00", false)]
#[case("0.0", false)]
#[case("", false)]
#[case("False", false)]
fn a_replay_is_recognised_by_its_header(#[case] value: &'static str, #[case] expected: bool) {
    let body = results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98");
    let Outcome::Refunded(yes) = read(200, &[("x-idempotent-replay", value)], body.as_bytes()) else {
        panic!("no refund")
    };
    assert_eq!(yes.replayed, expected);
}

#[test]
fn a_partial_refund_names_the_items_and_the_refusal() {
    let body = results(&["1 refunded 10.99", "2 failed", "3 refunded 1.01"], "12.00");
    let Outcome::Refunded(yes) = read(200, &[], body.as_bytes()) else { panic!("no refund") };
    let items: Vec<(&str, ItemState, bool)> =
        yes.items.iter().map(|item| (item.item_id.as_str(), item.state, item.requested)).collect();
    assert_eq!(
        items,
        [("1", ItemState::Succeeded, true), ("2", ItemState::Failed, true), ("3", ItemState::Succeeded, false)]
    );
    let error = yes.error.unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str(), error.http_status), ("failed", "m2", 200));
}

#[test]
fn a_refusal_of_all_items_names_each_of_them() {
    let Outcome::Refused { error, items } = read(200, &[], results(&["1 failed", "2 canceled"], "0").as_bytes()) else {
        panic!("no refusal")
    };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("failed", "item 1: m1; item 2: m2"));
    assert_eq!(items.len(), 2);
}

#[test]
fn no_token_is_kept_in_a_text() {
    let outcome =
        read(403, &[], b"{\"message\":\"Permission denied\",\"details\":\"token c4nary-secret is not allowed\"}");
    let Outcome::Refused { error, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.message, "Permission denied: token *** is not allowed");
}

#[test]
fn one_target_has_one_body() {
    let a = NamecomTarget::new(123_456, &[987_655, 987_654]).unwrap();
    let b = NamecomTarget::new(123_456, &[987_654, 987_655]).unwrap();
    assert_eq!(refund_body(&a), "{\"orderId\":123456,\"orderItemIds\":[987654,987655]}");
    assert_eq!(refund_body(&a), refund_body(&b));
}

fn statuses() -> impl Strategy<Value = u16> {
    prop_oneof![Just(200), proptest::sample::select(vec![400, 401, 403, 404, 409, 423, 429, 500]), 100..600_u16]
}

proptest! {
    #[test]
    fn no_mutation_turns_a_refusal_into_a_success(mutations in mutations(), which in 0..3_usize, status in statuses()) {
        let no = [
            results(&["1 failed", "2 canceled"], "0"),
            "{\"message\":\"Bad Request\",\"details\":\"Order item 1 has already been refunded.\"}".to_owned(),
            "{\"message\":\"Rate Limit Exceeded\",\"details\":\"x\",\"results\":[],\"totalRefundAmount\":0}".to_owned(),
        ];
        let body = apply_mutations(no[which].as_bytes(), &mutations);
        match read(status, &[], &body) {
            Outcome::Refunded(_) => prop_assert!(false, "{}", String::from_utf8_lossy(&body)),
            // A 200 may leave out items whose refund is on its way.
            Outcome::Accepted(_) => prop_assert_eq!(status, 200),
            _ => {}
        }
    }

    #[test]
    fn no_mutation_turns_a_success_into_a_refusal(mutations in mutations(), which in 0..3_usize, status in statuses()) {
        let yes = [
            results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98"),
            results(&["1 failed", "2 initialized", "3 refunded 1"], "1"),
            results(&["1 failed", "2 refunded 4.99"], "4.99").replacen('{', "{\"message\":\"Conflict\",\"details\":null,", 1),
        ];
        let body = apply_mutations(yes[which].as_bytes(), &mutations);
        let text = String::from_utf8_lossy(&body);
        let says_so = ["refunded", "initialized"]
            .into_iter()
            .any(|status| text.contains(&format!("\"orderItemStatus\":\"{status}\"")));
        let outcome = read(status, &[], &body);
        let is_no = matches!(outcome, Outcome::Refused { .. } | Outcome::NotSent { .. });
        prop_assert!(!says_so || !is_no, "{status} {text} {outcome:?}");
    }

    #[test]
    fn a_truncated_success_is_doubt(cut in 0..150_usize) {
        let whole = results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98");
        let summary = outcome_summary(&read(200, &[], &whole.as_bytes()[..cut]));
        prop_assert!(summary.starts_with("unknown"), "{summary}");
    }

    #[test]
    fn success_covers_every_requested_item_or_none(
        statuses in proptest::collection::vec(
            (1..4_i32, prop_oneof!["refunded", "failed", "canceled", "initialized", "unusual"]), 0..5,
        ),
    ) {
        let rows: Vec<String> = statuses.iter().map(|(item, status)| format!("{item} {status} 1.00")).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let outcome = read(200, &[], results(&rows, "0").as_bytes());
        let refunded = |item: i32| statuses.iter().any(|(id, status)| *id == item && status == "refunded");
        match outcome {
            Outcome::Refunded(yes) if !yes.is_partial() => prop_assert!(refunded(1) && refunded(2)),
            Outcome::Refunded(_) => prop_assert!(refunded(1) || refunded(2)),
            Outcome::Refused { .. } => prop_assert!(!refunded(1) && !refunded(2) && !refunded(3)),
            _ => {}
        }
    }
}

/// The items decide. The log line lets an operator find out what the total is about.
#[rstest]
#[case::the_sum("15.98", false)]
#[case::in_a_text("\"15.98\"", false)]
#[case::another_one("15.99", true)]
#[case::none("null", true)]
#[case::no_number("\"NaN\"", true)]
fn a_total_that_is_not_the_sum_of_its_items_is_logged(#[case] total: &str, #[case] is_logged: bool) {
    let body = results(&["1 refunded 10.99", "2 refunded 4.99"], total);
    let lines = logged(|| assert_eq!(outcome_summary(&read(200, &[], body.as_bytes())), "refunded 15.98 USD"));
    assert_eq!(lines.contains("sum_of_items=1598"), is_logged, "{lines}");
    assert_eq!(lines.lines().count(), usize::from(is_logged), "{lines}");
}

/// A charset other than UTF-8 hides no row, whatever the status says.
#[test]
fn rows_in_another_charset_are_seen() {
    let body = results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98");
    let sixteen: Vec<u8> = format!("\u{FEFF}{body}").encode_utf16().flat_map(u16::to_be_bytes).collect();
    for status in [200, 400, 500] {
        assert_eq!(outcome_summary(&read(status, &[], &sixteen)), "refunded 15.98 USD");
    }
}

/// "Refunded before" is a definite refusal of the item, and a contradiction only beside a refund.
#[test]
fn an_item_that_was_refunded_before_is_refused() {
    let body = results(&["1 failed", "2 failed"], "0").replace("m1", "Order item 1 has already been refunded.");
    assert_eq!(outcome_summary(&read(409, &[], body.as_bytes())), "refused failed already_refunded");
}

/// It keeps each item, and that the provider replays an earlier answer.
#[test]
fn an_unfinished_answer_keeps_what_it_says() {
    let body = results(&["1 refunded 10.99", "2 initialized"], "10.99");
    let Outcome::Accepted(taken) = read(200, &[("x-idempotent-replay", "1")], body.as_bytes()) else {
        panic!("not accepted")
    };
    let items: Vec<(&str, ItemState)> = taken.items.iter().map(|item| (item.item_id.as_str(), item.state)).collect();
    assert_eq!(items, [("1", ItemState::Succeeded), ("2", ItemState::Submitted)]);
    assert!(taken.replayed);
    let body = results(&["1 refunded 10.99", "2 refunded 4.99"], "15.98");
    let Outcome::Refunded(yes) = read(200, &[], body.as_bytes()) else { panic!("not refunded") };
    assert_eq!(yes.status.as_deref(), Some("refunded"));
}

/// For the person who resolves the doubt.
#[rstest]
#[case::rows(
    "{\"results\":[{\"orderItemId\":1,\"orderItemStatus\":\"refunded\"}]}",
    "the rows are not written as documented"
)]
#[case::none("<html></html>", "the answer lists no items in JSON")]
fn a_200_that_cannot_be_read_says_whether_it_lists_items(#[case] body: &str, #[case] expected: &str) {
    let Outcome::Unknown { evidence, .. } = read(200, &[], body.as_bytes()) else { panic!("{body}") };
    assert!(evidence.starts_with(expected), "{evidence}");
}
