//! One row per documented answer, and the state that follows it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use proptest::prelude::*;
use rstest::rstest;
use time::Duration;
use time::macros::datetime;

use super::*;
use crate::request::{Deduplication, Effect, PaidTo};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const JSON: (&str, &str) = ("content-type", "application/json");

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect();
    let body = Bytes::copy_from_slice(body);
    Request { query, ..Request::new(method.parse().unwrap(), path, headers, body, false) }
}

fn basic(username: &str, token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{token}")))
}

fn refund(body: &str, extra: &[(&str, &str)]) -> Request {
    let authorization = basic("demo-test", "demo-token");
    let mut headers = vec![JSON, ("authorization", authorization.as_str())];
    headers.extend_from_slice(extra);
    request("POST", "/core/v1/refund", &headers, body.as_bytes())
}

fn get(target: &str) -> Request {
    request("GET", target, &[("authorization", &basic("demo-test", "demo-token"))], b"")
}

fn text(handled: &Handled) -> &str {
    assert_eq!(handled.response.headers["content-type"], "application/json");
    std::str::from_utf8(&handled.response.body).unwrap()
}

fn parsed(handled: &Handled) -> Value {
    serde_json::from_slice(&handled.response.body).unwrap()
}

/// A world of one call: demo data, then what the row changes, then one request.
fn refund_in(change: impl FnOnce(&mut State), body: &str) -> (State, Handled) {
    let mut state = State::demo(NOW);
    change(&mut state);
    let handled = handle(&mut state, &Settings::default(), NOW, &refund(body, &[]));
    (state, handled)
}

fn with_item(state: &mut State, order: i32, change: impl FnOnce(&mut Item)) {
    let mut order = state.order(order).unwrap().clone();
    change(&mut order.items[0]);
    state.put_order(order, NOW).unwrap();
}

fn with_account(state: &mut State, change: impl FnOnce(&mut Account)) {
    let mut account = state.accounts()[0].clone();
    change(&mut account);
    state.put_account(account);
}

#[test]
fn a_refund_of_a_registration_includes_its_privacy_item() {
    let mut state = State::demo(NOW);
    let body = r#"{"orderId":123456,"orderItemIds":[987654]}"#;
    let handled = handle(&mut state, &Settings::default(), NOW, &refund(body, &[("x-idempotency-key", "key-1")]));
    assert_eq!(handled.response.status, StatusCode::OK);
    assert_eq!(handled.response.headers["x-idempotency-key"], "key-1");
    assert!(!handled.response.headers.contains_key("x-idempotent-replay"));
    assert_eq!(
        text(&handled),
        r#"{"results":[{"orderId":123456,"orderItemId":987654,"orderItemStatus":"refunded","refundAmount":10.99,"message":"Domain successfully deleted and refund processed."},{"orderId":123456,"orderItemId":987655,"orderItemStatus":"refunded","refundAmount":4.99,"message":"Whois privacy successfully deleted and refund processed."}],"totalRefundAmount":15.98}"#
    );
    let effect = |target: &str, amount| Effect {
        kind: "refund".to_owned(),
        target: target.to_owned(),
        amount_minor: Some(amount),
        currency: Some("USD".to_owned()),
        identifier: Some("key-1".to_owned()),
        reference: None,
        account: Some("demo-test".to_owned()),
        fee_minor: None,
        paid_to: Some(PaidTo::PaymentMethod),
    };
    assert_eq!(handled.effects, [effect("987654", 1099), effect("987655", 499)]);

    let order = parsed(&handle(&mut state, &Settings::default(), NOW, &get("/core/v1/orders/123456")));
    assert_eq!(order["totalRefund"], json!(15.98));
    assert_eq!(order["orderItems"][0]["status"], "refunded");
    assert_eq!(order["orderItems"][1]["status"], "refunded");
    assert_eq!(order["orderItems"][0]["isRefundable"], false);
}

#[test]
fn an_order_shows_every_field_with_money_to_the_cent() {
    let mut state = State::demo(NOW);
    let handled = handle(&mut state, &Settings::default(), NOW, &get("/core/v1/orders/123456"));
    assert_eq!(
        text(&handled),
        r#"{"id":123456,"createDate":"2026-03-01T12:00:00Z","status":"success","currency":"USD","currencyRate":0,"authAmount":15.98,"totalCapture":15.98,"totalRefund":0.00,"finalAmount":15.98,"registrar":"name.com","orderItems":[{"id":987654,"status":"success","name":"example.com","tld":"com","type":"registration","price":10.99,"originalPrice":10.99,"priceNonUsd":0,"taxAmount":null,"quantity":1,"duration":1,"interval":"year","isRefundable":true},{"id":987655,"status":"success","name":"example.com","tld":"com","type":"whois_privacy","price":4.99,"originalPrice":4.99,"priceNonUsd":0,"taxAmount":null,"quantity":1,"duration":1,"interval":"year","isRefundable":true}]}"#
    );
    let legacy = Settings { final_amount_as_text: true, ..Settings::default() };
    let handled = handle(&mut state, &legacy, NOW, &get("/core/v1/orders/200001"));
    assert!(text(&handled).contains(r#""finalAmount":"12.99""#));
}

#[rstest]
#[case::already(200_001, |state: &mut State| with_item(state, 200_001, |item| item.status = ItemStatus::Refunded),
    400, "Bad Request", Some("Order item 3200001 has already been refunded."))]
#[case::renewal(300_001, |_: &mut State| {},
    400, "Bad Request", Some("Order item 3300001 is not eligible for refund. Only 'registration' and 'whois_privacy' product types are supported."))]
#[case::not_bought(200_001, |state: &mut State| with_item(state, 200_001, |item| item.status = ItemStatus::Failed),
    400, "Bad Request", Some("Order item 3200001 is not eligible for refund."))]
#[case::in_progress(200_001, |state: &mut State| with_item(state, 200_001, |item| item.pending = Some(Pending { since: NOW, identifier: None, amount_minor: None })),
    400, "Bad Request", Some("Order item 3200001 already has a refund in progress."))]
#[case::window_over(300_002, |_: &mut State| {},
    423, "Resource Locked", Some("The Add Grace Period (AGP) deletion window has expired for domain demo-300002.com. AGP deletes are only allowed within 5 days of registration."))]
#[case::window_over_by_item(200_001, |state: &mut State| with_item(state, 200_001, |item| item.agp_expires = Some(NOW)),
    423, "Resource Locked", Some("The Add Grace Period (AGP) deletion window has expired for domain demo-200001.com. AGP deletes are only allowed within 5 days of registration."))]
#[case::tld_threshold(300_003, |_: &mut State| {},
    409, "Conflict", Some("AGP delete threshold has been exceeded for this account. Please contact support."))]
#[case::account_threshold(200_001, |state: &mut State| with_account(state, |account| account.agp_delete_threshold = Some(0)),
    409, "Conflict", Some("AGP delete threshold has been exceeded for this account. Please contact support."))]
#[case::no_reseller(200_001, |state: &mut State| with_account(state, |account| account.approved_reseller = false),
    403, "Permission denied", Some("Failed authentication"))]
#[case::broken(200_001, |state: &mut State| with_item(state, 200_001, |item| item.registry = RegistryCondition::Broken),
    500, "Internal Server Error", Some("Something went wrong."))]
#[case::registry(200_001, |state: &mut State| with_item(state, 200_001, |item| item.registry = RegistryCondition::Unreachable),
    502, "Registry Connection Unavailable", None)]
#[case::maintenance(200_001, |state: &mut State| with_account(state, |account| account.maintenance = true),
    503, "Service Unavailable", Some("The API is offline for scheduled maintenance. See https://status.name.com for updates."))]
#[case::upstream(200_001, |state: &mut State| with_item(state, 200_001, |item| item.registry = RegistryCondition::Slow),
    504, "The upstream server is taking too long to respond.", None)]
#[case::other_account(200_001, |state: &mut State| {
        state.put_account(Account::new("other", "token"));
        state.put_order(Order::new(200_001, "other", vec![Item::new(3_200_001, "registration", "a.com".to_owned(), 100)]), NOW).unwrap();
    }, 404, "Not Found", Some("Order with ID 200001 does not exist."))]
fn a_refusal_follows_from_the_state(
    #[case] order: i32,
    #[case] change: fn(&mut State),
    #[case] status: u16,
    #[case] message: &str,
    #[case] details: Option<&str>,
) {
    let body = format!(r#"{{"orderId":{order},"orderItemIds":[{}]}}"#, order + 3_000_000);
    let (_, handled) = refund_in(change, &body);
    assert_eq!(handled.response.status, status);
    assert_eq!(parsed(&handled), error_body(message, details));
    assert!(handled.effects.is_empty());
}

fn error_body(message: &str, details: Option<&str>) -> Value {
    match details {
        Some(details) => json!({ "message": message, "details": details }),
        None => json!({ "message": message }),
    }
}

#[rstest]
#[case::empty(r#"{"orderId":123456,"orderItemIds":[]}"#, 400, "orderItemIds array must contain at least one item.")]
#[case::no_order(r#"{"orderId":42,"orderItemIds":[987654]}"#, 404, "Order with ID 42 does not exist.")]
#[case::no_item(
    r#"{"orderId":123456,"orderItemIds":[3200001]}"#,
    404,
    "Order item 3200001 does not exist or does not belong to order 123456."
)]
#[case::not_json("{", 400, "The request body is not valid JSON.")]
#[case::nothing("", 400, "The request body is not valid JSON.")]
#[case::array("[]", 400, "The request body must be a JSON object.")]
#[case::missing_order(r#"{"orderItemIds":[1]}"#, 400, "'orderId' cannot be null")]
#[case::null_items(r#"{"orderId":1,"orderItemIds":null}"#, 400, "'orderItemIds' cannot be null")]
#[case::text_order(r#"{"orderId":"123456","orderItemIds":[1]}"#, 400, "orderId must be a 32-bit integer.")]
#[case::overflow(r#"{"orderId":2147483648,"orderItemIds":[1]}"#, 400, "orderId must be a 32-bit integer.")]
#[case::huge(
    r#"{"orderId":1,"orderItemIds":[99999999999999999999999]}"#,
    400,
    "orderItemIds must be a 32-bit integer."
)]
#[case::fraction(r#"{"orderId":1,"orderItemIds":[1.5]}"#, 400, "orderItemIds must be a 32-bit integer.")]
#[case::no_array(r#"{"orderId":1,"orderItemIds":7}"#, 400, "orderItemIds must be an array of 32-bit integers.")]
fn a_refusal_follows_from_the_request(#[case] body: &str, #[case] status: u16, #[case] details: &str) {
    let (state, handled) = refund_in(|_| {}, body);
    assert_eq!(handled.response.status, status);
    assert_eq!(parsed(&handled)["details"], details);
    assert!(handled.effects.is_empty());
    assert_eq!(state.order(123_456), State::demo(NOW).order(123_456));
}

#[rstest]
#[case::missing(None)]
#[case::garbage(Some("Basic %%%".to_owned()))]
#[case::bearer(Some("Bearer demo-token".to_owned()))]
#[case::no_colon(Some(format!("Basic {}", BASE64_STANDARD.encode("demo-test"))))]
#[case::wrong_token(Some(basic("demo-test", "demo-tokem")))]
#[case::unknown(Some(basic("unknown", "demo-token")))]
fn requests_without_credentials_are_refused(#[case] authorization: Option<String>) {
    let mut headers = vec![JSON];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    for (method, path) in [("POST", "/core/v1/refund"), ("GET", "/core/v1/orders/123456"), ("GET", "/core/v1/orders")] {
        let request = request(method, path, &headers, br#"{"orderId":123456,"orderItemIds":[987654]}"#);
        let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
        assert_eq!(handled.response.status, StatusCode::UNAUTHORIZED);
        assert_eq!(text(&handled), r#"{"message":"Unauthorized"}"#);
    }
}

#[rstest]
#[case::refund_get("GET", "/core/v1/refund", 405)]
#[case::order_post("POST", "/core/v1/orders/123456", 405)]
#[case::orders_delete("DELETE", "/core/v1/orders", 405)]
#[case::elsewhere("GET", "/core/v1/domains", 404)]
#[case::domain_post("POST", "/core/v1/domains/example.com", 405)]
#[case::hello_post("POST", "/core/v1/hello", 405)]
#[case::domain_action("GET", "/core/v1/domains/example.com:lock", 404)]
#[case::deeper("GET", "/core/v1/orders/1/items", 404)]
#[case::id_is_text("GET", "/core/v1/orders/abc", 400)]
#[case::no_order("GET", "/core/v1/orders/42", 404)]
fn other_calls_are_refused(#[case] method: &str, #[case] path: &str, #[case] status: u16) {
    let authorization = basic("demo-test", "demo-token");
    let request = request(method, path, &[("authorization", &authorization)], b"");
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
    assert_eq!(handled.response.status, status);
    if status == 405 {
        assert_eq!(text(&handled), r#"{"message":"Method Not Allowed"}"#);
    }
}

#[rstest]
#[case::none(None, 415)]
#[case::form(Some("application/x-www-form-urlencoded"), 415)]
#[case::prefix(Some("application/jsonp"), 415)]
#[case::charset(Some("Application/JSON; charset=utf-8"), 200)]
fn only_json_is_accepted(#[case] content_type: Option<&str>, #[case] status: u16) {
    let authorization = basic("demo-test", "demo-token");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(content_type.map(|value| ("content-type", value)));
    let body = br#"{"orderId":200001,"orderItemIds":[3200001]}"#;
    let handled =
        handle(&mut State::demo(NOW), &Settings::default(), NOW, &request("POST", "/core/v1/refund", &headers, body));
    assert_eq!(handled.response.status, status);
    if status == 415 {
        assert_eq!(
            text(&handled),
            r#"{"message":"The 'Content-Type' header must be 'application/json' for this request."}"#
        );
    }
}

#[test]
fn a_key_replays_its_first_answer_until_it_expires() {
    let mut state = State::demo(NOW);
    let settings = Settings::default();
    let key = [("X-Idempotency-Key", "k")];
    let body = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;
    let first = handle(&mut state, &settings, NOW, &refund(body, &key));
    let spaced = r#"{ "orderItemIds": [3200001], "orderId": 200001 }"#;
    let replay = handle(&mut state, &settings, NOW + Duration::seconds(3599), &refund(spaced, &key));
    assert_eq!(replay.response.status, StatusCode::OK);
    assert_eq!(replay.response.body, first.response.body);
    assert_eq!(replay.response.headers["x-idempotent-replay"], "1");
    assert_eq!(replay.response.headers["x-idempotency-key"], "k");
    assert!(replay.effects.is_empty());

    let other = r#"{"orderId":200002,"orderItemIds":[3200002]}"#;
    let conflict = handle(&mut state, &settings, NOW, &refund(other, &key));
    assert_eq!(conflict.response.status, StatusCode::CONFLICT);
    assert_eq!(
        text(&conflict),
        r#"{"message":"Conflict","details":"Idempotency key has been reused for a different request."}"#
    );
    let bytes = Settings { key_comparison: KeyComparison::Bytes, ..Settings::default() };
    assert_eq!(handle(&mut state, &bytes, NOW, &refund(spaced, &key)).response.status, StatusCode::CONFLICT);

    let later = handle(&mut state, &settings, NOW + Duration::seconds(3600), &refund(body, &key));
    assert_eq!(later.response.status, StatusCode::BAD_REQUEST);
}

#[test]
fn a_refusal_is_stored_under_its_key_only_if_the_settings_say_so() {
    let body = r#"{"orderId":300003,"orderItemIds":[3300003]}"#;
    let key = [("x-idempotency-key", "k")];
    for (cached_answers, second) in [(CachedAnswers::Success, 200), (CachedAnswers::All, 409)] {
        let mut state = State::demo(NOW);
        let settings = Settings { cached_answers, ..Settings::default() };
        assert_eq!(handle(&mut state, &settings, NOW, &refund(body, &key)).response.status, 409);
        with_account(&mut state, |account| account.tlds = BTreeMap::new());
        assert_eq!(handle(&mut state, &settings, NOW, &refund(body, &key)).response.status, second);
    }
}

#[test]
fn the_twenty_first_request_of_a_second_is_refused() {
    let mut state = State::demo(NOW);
    let settings = Settings::default();
    for _ in 0..20 {
        assert_eq!(handle(&mut state, &settings, NOW, &get("/core/v1/orders/200001")).response.status, 200);
    }
    let handled = handle(&mut state, &settings, NOW, &get("/core/v1/orders/200001"));
    assert_eq!(handled.response.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(handled.response.headers["x-ratelimit-reset"], (NOW.unix_timestamp() + 1).to_string());
    assert_eq!(parsed(&handled)["message"], "Rate Limit Exceeded");
    assert!(parsed(&handled)["details"].is_string());
    let next_second = NOW + Duration::SECOND;
    assert_eq!(handle(&mut state, &settings, next_second, &get("/core/v1/orders/200001")).response.status, 200);
}

#[rstest]
#[case::failed(Outcome::Failed, "failed", true)]
#[case::initialized(Outcome::Initialized, "initialized", false)]
#[case::canceled(Outcome::Canceled, "canceled", true)]
fn one_item_can_have_another_outcome_than_the_others(
    #[case] outcome: Outcome,
    #[case] word: &str,
    #[case] still_refundable: bool,
) {
    let change = |state: &mut State| {
        let mut order = state.order(123_456).unwrap().clone();
        order.items[1].refund_outcome = outcome;
        order.items[1].refund_message = Some("so it is".to_owned());
        state.put_order(order, NOW).unwrap();
    };
    let (mut state, handled) = refund_in(change, r#"{"orderId":123456,"orderItemIds":[987655,987654]}"#);
    assert_eq!(handled.response.status, StatusCode::OK);
    let answer = parsed(&handled);
    assert_eq!(answer["results"][0]["orderItemStatus"], word);
    assert_eq!(answer["results"][0]["refundAmount"], json!(0.0));
    assert_eq!(answer["results"][0]["message"], "so it is");
    assert_eq!(answer["results"][1]["orderItemStatus"], "refunded");
    assert_eq!(answer["results"].as_array().unwrap().len(), 2);
    assert_eq!(answer["totalRefundAmount"], json!(10.99));
    assert_eq!(handled.effects.len(), 1);
    let order = parsed(&handle(&mut state, &Settings::default(), NOW, &get("/core/v1/orders/123456")));
    assert_eq!(order["orderItems"][1]["isRefundable"], still_refundable);
}

#[rstest]
#[case::settled(|state: &mut State| state.settle_item(200_001, 3_200_001, Outcome::Refunded).unwrap())]
#[case::put(|state: &mut State| {
    let mut order = state.order(200_001).unwrap().clone();
    order.items[0].status = ItemStatus::Refunded;
    state.put_order(order, NOW).unwrap()
})]
fn an_initialized_refund_moves_money_when_it_is_completed(#[case] complete: fn(&mut State) -> Vec<Effect>) {
    let mut state = State::demo(NOW);
    with_item(&mut state, 200_001, |item| item.refund_outcome = Outcome::Initialized);
    let body = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;
    let key = [("x-idempotency-key", "k")];
    let handled = handle(&mut state, &Settings::default(), NOW, &refund(body, &key));
    assert!(handled.effects.is_empty());
    let effects = complete(&mut state);
    assert_eq!(effects.len(), 1);
    assert_eq!(effects[0].identifier.as_deref(), Some("k"));
    assert_eq!(effects[0].amount_minor, Some(1299));
    let order = state.order(200_001).unwrap();
    assert_eq!((order.items[0].status, &order.items[0].pending), (ItemStatus::Refunded, &None));
    assert_eq!(
        state.settle_item(200_001, 3_200_001, Outcome::Refunded),
        Err(SettleError::NotPending { order: 200_001, item: 3_200_001 })
    );
}

#[test]
fn a_later_payout_uses_the_settings_of_the_time_of_the_request() {
    let mut state = State::demo(NOW);
    with_item(&mut state, 200_001, |item| {
        item.refund_outcome = Outcome::Initialized;
        item.tax_minor = Some(100);
    });
    let settings = Settings { tax_refunded: false, ..Settings::default() };
    handle(&mut state, &settings, NOW, &refund(r#"{"orderId":200001,"orderItemIds":[3200001]}"#, &[]));
    let effects = state.settle_item(200_001, 3_200_001, Outcome::Refunded).unwrap();
    assert_eq!(effects[0].amount_minor, Some(1299));
    let order = parsed(&handle(&mut state, &settings, NOW, &get("/core/v1/orders/200001")));
    assert_eq!((&order["totalCapture"], &order["totalRefund"]), (&json!(13.99), &json!(12.99)));
}

#[test]
fn items_before_a_registry_error_stay_refunded() {
    let change = |state: &mut State| {
        let mut order = state.order(123_456).unwrap().clone();
        order.items[1].registry = RegistryCondition::Unreachable;
        state.put_order(order, NOW).unwrap();
    };
    let (state, handled) = refund_in(change, r#"{"orderId":123456,"orderItemIds":[987654,987655]}"#);
    assert_eq!(handled.response.status, StatusCode::BAD_GATEWAY);
    assert_eq!(handled.effects.len(), 1);
    assert_eq!(state.order(123_456).unwrap().items[0].status, ItemStatus::Refunded);
}

#[test]
fn an_account_cannot_exceed_its_deletions_within_one_call() {
    let change = |state: &mut State| {
        with_account(state, |account| account.agp_delete_threshold = Some(1));
        let items = [1, 2].map(|id| Item::new(id, "registration", format!("a{id}.com"), 100));
        state.put_order(Order::new(7, "demo-test", items.to_vec()), NOW).unwrap();
    };
    let (state, handled) = refund_in(change, r#"{"orderId":7,"orderItemIds":[1,2]}"#);
    let answer = parsed(&handled);
    assert_eq!(answer["results"][0]["orderItemStatus"], "refunded");
    assert_eq!(answer["results"][1]["orderItemStatus"], "failed");
    assert_eq!(state.accounts()[0].agp_deletes, 1);
}

#[rstest]
#[case::one(r#"{"orderId":200001,"orderItemIds":[3200001]}"#, &[3_200_001])]
#[case::both(r#"{"orderId":123456,"orderItemIds":[987654,987655]}"#, &[987_654, 987_655])]
fn if_all_items_are_refused_the_rows_come_with_409_and_no_message(#[case] body: &str, #[case] items: &[i32]) {
    for (outcome, word) in [(Outcome::Failed, "failed"), (Outcome::Canceled, "canceled")] {
        let mut state = State::demo(NOW);
        for order in [200_001, 123_456] {
            let mut order = state.order(order).unwrap();
            order.items.iter_mut().for_each(|item| item.refund_outcome = outcome);
            state.put_order(order, NOW).unwrap();
        }
        for (all_items_refused, status) in [(AllItemsRefused::Conflict, 409), (AllItemsRefused::Ok, 200)] {
            let settings = Settings { all_items_refused, ..Settings::default() };
            let handled = handle(&mut state, &settings, NOW, &refund(body, &[]));
            assert_eq!(handled.response.status, status);
            let answer = parsed(&handled);
            let rows = answer["results"].as_array().unwrap();
            let rows_of_items: Vec<_> = rows.iter().map(|row| row["orderItemId"].as_i64().unwrap()).collect();
            assert_eq!(rows_of_items, items.iter().map(|item| i64::from(*item)).collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row["orderItemStatus"] == word && row["message"].is_string()));
            assert_eq!((answer.get("message"), &answer["totalRefundAmount"]), (None, &json!(0.0)));
            assert!(handled.effects.is_empty());
        }
    }
}

#[test]
fn an_item_requested_twice_is_refunded_once_and_fails_the_second_time() {
    let body = r#"{"orderId":200001,"orderItemIds":[3200001,3200001]}"#;
    let (_, handled) = refund_in(|_| {}, body);
    let answer = parsed(&handled);
    assert_eq!((handled.response.status, handled.effects.len()), (StatusCode::OK, 1));
    assert_eq!(answer["results"][0]["orderItemStatus"], "refunded");
    assert_eq!(answer["results"][1]["orderItemStatus"], "failed");
    assert_eq!(answer["results"][1]["message"], "Order item 3200001 has already been refunded.");
    let pending = |state: &mut State| with_item(state, 200_001, |item| item.refund_outcome = Outcome::Initialized);
    let (_, handled) = refund_in(pending, body);
    let answer = parsed(&handled);
    assert_eq!(
        (&answer["results"][0]["orderItemStatus"], &answer["results"][1]["orderItemStatus"]),
        (&json!("initialized"), &json!("failed"))
    );

    for (repeated_item, deduplication, status, effects) in [
        (RepeatedItem::Refused, Deduplication::On, 400, 0),
        (RepeatedItem::Once, Deduplication::On, 200, 1),
        (RepeatedItem::SecondFails, Deduplication::Off, 200, 2),
    ] {
        let settings = Settings { repeated_item, deduplication, ..Settings::default() };
        let handled = handle(&mut State::demo(NOW), &settings, NOW, &refund(body, &[]));
        assert_eq!((handled.response.status.as_u16(), handled.effects.len()), (status, effects));
    }
}

#[test]
fn a_domain_exists_until_its_registration_is_refunded() {
    let mut state = State::demo(NOW);
    let settings = Settings::default();
    let shown = handle(&mut state, &settings, NOW, &get("/core/v1/domains/Example.COM"));
    assert_eq!(
        text(&shown),
        r#"{"domainName":"example.com","createDate":"2026-03-01T12:00:00Z","expireDate":"2027-03-01T12:00:00Z","autorenewEnabled":false,"locked":true,"transferLockExpiresAt":"2026-04-30T12:00:00Z","privacyEnabled":true,"nameservers":["ns1.name.com","ns2.name.com","ns3.name.com","ns4.name.com"],"renewalPrice":10.99,"locks":["clientTransferProhibited"]}"#
    );
    handle(&mut state, &settings, NOW, &refund(r#"{"orderId":123456,"orderItemIds":[987655]}"#, &[]));
    let shown = parsed(&handle(&mut state, &settings, NOW, &get("/core/v1/domains/example.com")));
    assert_eq!(shown["privacyEnabled"], false);
    handle(&mut state, &settings, NOW, &refund(r#"{"orderId":123456,"orderItemIds":[987654]}"#, &[]));
    let gone = handle(&mut state, &settings, NOW, &get("/core/v1/domains/example.com"));
    assert_eq!(gone.response.status, StatusCode::NOT_FOUND);
    assert_eq!(text(&gone), r#"{"message":"Not Found","details":"Domain example.com does not exist."}"#);
    let shown = Settings { deleted_domain: DeletedDomain::Shown, ..Settings::default() };
    assert_eq!(handle(&mut state, &shown, NOW, &get("/core/v1/domains/example.com")).response.status, 200);
    // A renewal is of a domain that was there before; no other domain is this account's.
    assert_eq!(handle(&mut state, &settings, NOW, &get("/core/v1/domains/demo-300001.com")).response.status, 200);
    state.put_account(Account::new("other", "token"));
    let others = Item::new(8, "registration", "other.com".to_owned(), 1);
    state.put_order(Order::new(8, "other", vec![others]), NOW).unwrap();
    for name in ["nothing.com", "other.com"] {
        let handled = handle(&mut state, &settings, NOW, &get(&format!("/core/v1/domains/{name}")));
        assert_eq!(handled.response.status, StatusCode::NOT_FOUND);
    }

    // Registered anew, it is younger than the first order; an item may say when by itself.
    let anew = Item::new(9, "registration", "example.com".to_owned(), 1099);
    state.put_order(Order::new(9, "demo-test", vec![anew.clone()]), NOW + Duration::days(1)).unwrap();
    let created = |state: &mut State| parsed(&handle(state, &settings, NOW, &get("/core/v1/domains/example.com")));
    assert_eq!(created(&mut state)["createDate"], "2026-03-02T12:00:00Z");
    let dated = Item { domain_created: Some(NOW + Duration::days(2)), ..anew };
    state.put_order(Order::new(9, "demo-test", vec![dated]), NOW).unwrap();
    assert_eq!(created(&mut state)["createDate"], "2026-03-03T12:00:00Z");
}

#[test]
fn a_half_way_refund_deletes_the_domain_and_stays_pending() {
    let body = r#"{"orderId":123456,"orderItemIds":[987654]}"#;
    for (half_way_answer, status) in [
        (HalfWayAnswer::Broken, 500),
        (HalfWayAnswer::Unreachable, 502),
        (HalfWayAnswer::Slow, 504),
        (HalfWayAnswer::Failed, 409),
    ] {
        let settings = Settings { half_way_answer, ..Settings::default() };
        let mut state = State::demo(NOW);
        let handled = half_way(&mut state, &settings, &refund(body, &[("x-idempotency-key", "k")]));
        assert_eq!(handled.response.status, status);
        let [deleted] = &handled.effects[..] else { panic!("{:?}", handled.effects) };
        assert_eq!(
            (deleted.kind.as_str(), deleted.target.as_str(), deleted.amount_minor),
            ("domain_deleted", "987654", None)
        );
        assert_eq!(state.accounts()[0].agp_deletes, 1);
        let order = parsed(&handle(&mut state, &settings, NOW, &get("/core/v1/orders/123456")));
        assert_eq!(
            (&order["orderItems"][0]["status"], &order["orderItems"][0]["isRefundable"]),
            (&json!("success"), &json!(false))
        );
        assert_eq!((&order["orderItems"][1]["status"], &order["totalRefund"]), (&json!("success"), &json!(0.0)));
        assert_eq!(handle(&mut state, &settings, NOW, &get("/core/v1/domains/example.com")).response.status, 404);
        let again = handle(&mut state, &settings, NOW, &refund(body, &[("x-idempotency-key", "k")]));
        assert_eq!(parsed(&again)["details"], "Order item 987654 already has a refund in progress.");
        assert!(again.effects.is_empty());

        // Paid after all, the deletion is not counted a second time; called off, the domain stays
        // deleted.
        let mut called_off = state.clone();
        let paid = state.settle_item(123_456, 987_654, Outcome::Refunded).unwrap();
        assert_eq!((paid[0].kind.as_str(), paid[0].amount_minor), ("refund", Some(1099)));
        assert_eq!(state.accounts()[0].agp_deletes, 1);
        called_off.settle_item(123_456, 987_654, Outcome::Failed).unwrap();
        assert_eq!(handle(&mut called_off, &settings, NOW, &get("/core/v1/domains/example.com")).response.status, 404);
        let again = handle(&mut called_off, &settings, NOW, &refund(body, &[]));
        assert_eq!(parsed(&again)["details"], "The domain of order item 987654 has been deleted.");
    }
}

#[test]
fn an_item_can_be_set_to_stop_half_way_and_be_paid_later() {
    let mut state = State::demo(NOW);
    with_item(&mut state, 200_001, |item| {
        item.refund_outcome = Outcome::Deleted;
        item.settles_after_seconds = Some(60);
    });
    let settings = Settings::default();
    let body = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;
    assert_eq!(handle(&mut state, &settings, NOW, &refund(body, &[])).response.status, StatusCode::BAD_GATEWAY);
    assert!(state.order(200_001).unwrap().items[0].domain_deleted);
    assert!(state.advance(NOW + Duration::seconds(59)).is_empty());
    let paid = state.advance(NOW + Duration::seconds(60));
    assert_eq!((paid.len(), paid[0].1.kind.as_str()), (1, "refund"));
    // Put as deleted, it is deleted.
    with_item(&mut state, 200_002, |item| item.domain_deleted = true);
    assert_eq!(handle(&mut state, &settings, NOW, &get("/core/v1/domains/demo-200002.com")).response.status, 404);
}

#[test]
fn a_refund_goes_to_the_account_balance_if_the_item_or_the_settings_say_so() {
    let mut state = State::demo(NOW);
    let settings = Settings::default();
    let refunded = |state: &mut State, settings: &Settings, order: i32| {
        let body = format!(r#"{{"orderId":{order},"orderItemIds":[{}]}}"#, order + 3_000_000);
        handle(state, settings, NOW, &refund(&body, &[])).effects[0].paid_to
    };
    assert_eq!(refunded(&mut state, &settings, 200_001), Some(PaidTo::PaymentMethod));
    with_item(&mut state, 200_002, |item| item.refund_to = Some(PaidTo::AccountBalance));
    assert_eq!(refunded(&mut state, &settings, 200_002), Some(PaidTo::AccountBalance));
    let credited = Settings { refund_to: PaidTo::AccountBalance, ..Settings::default() };
    assert_eq!(refunded(&mut state, &credited, 200_003), Some(PaidTo::AccountBalance));
    assert_eq!(state.accounts()[0].balance_minor, 2 * 1299);
    // What is paid later goes where it would have gone when it was asked for.
    with_item(&mut state, 200_004, |item| item.refund_outcome = Outcome::Initialized);
    handle(&mut state, &credited, NOW, &refund(r#"{"orderId":200004,"orderItemIds":[3200004]}"#, &[]));
    let paid = state.settle_item(200_004, 3_200_004, Outcome::Refunded).unwrap();
    assert_eq!((paid[0].paid_to, state.accounts()[0].balance_minor), (Some(PaidTo::AccountBalance), 3 * 1299));
}

#[test]
fn more_than_three_thousand_requests_an_hour_are_refused() {
    let mut state = State::demo(NOW);
    let settings = Settings { requests_per_second: 0, ..Settings::default() };
    for _ in 0..3000 {
        assert_eq!(handle(&mut state, &settings, NOW, &get("/core/v1/hello")).response.status, 200);
    }
    let handled = handle(&mut state, &settings, NOW + Duration::seconds(3599), &get("/core/v1/hello"));
    assert_eq!(handled.response.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(handled.response.headers["x-ratelimit-reset"], (NOW.unix_timestamp() + 3600).to_string());
    let next_hour = NOW + Duration::HOUR;
    assert_eq!(handle(&mut state, &settings, next_hour, &get("/core/v1/hello")).response.status, 200);
}

#[test]
fn hello_returns_the_username_and_the_time() {
    let handled = handle(&mut State::demo(NOW), &Settings::default(), NOW, &get("/core/v1/hello"));
    assert_eq!(
        text(&handled),
        r#"{"serverName":"simulators","motd":"","username":"demo-test","serverTime":"2026-03-01T12:00:00Z"}"#
    );
}

#[test]
fn the_list_has_pages_and_filters() {
    let mut state = State::demo(NOW);
    let settings = Settings { requests_per_second: 0, ..Settings::default() };
    let mut list = |query: &str| handle(&mut state, &settings, NOW, &get(&format!("/core/v1/orders{query}")));
    let all = list("");
    let body = parsed(&all);
    assert_eq!((&body["totalCount"], &body["from"], &body["to"]), (&json!(1027), &json!(1), &json!(500)));
    assert_eq!((&body["nextPage"], &body["lastPage"], &body["parentAccountId"]), (&json!(2), &json!(3), &json!(0)));
    assert_eq!(body["orders"][0]["id"], 123_456);
    assert_eq!(
        all.response.headers["link"],
        "<http://api.name.com/core/v1/orders?page=2&perPage=500; rel=\"next\">,\
         <http://api.name.com/core/v1/orders?page=3&perPage=500; rel=\"last\">"
    );
    let second = parsed(&list("?page=2&perPage=1000"));
    assert_eq!((&second["from"], &second["to"], &second["nextPage"]), (&json!(1001), &json!(1027), &json!(0)));
    let beyond = parsed(&list("?page=9"));
    assert_eq!((&beyond["from"], &beyond["orders"]), (&json!(0), &json!([])));

    let ids = |body: &Value| -> Vec<i64> {
        body["orders"].as_array().unwrap().iter().map(|order| order["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids(&parsed(&list("?dir=desc&perPage=2"))), [410_205, 410_204]);
    assert_eq!(ids(&parsed(&list("?domainName=Example.com"))), [123_456]);
    assert_eq!(ids(&parsed(&list("?domainName=*300002.com"))), [300_002]);
    assert_eq!(ids(&parsed(&list("?tld=limited"))), [300_003]);
    assert_eq!(ids(&parsed(&list("?type=renewal"))), [300_001]);
    // Order 300002 was placed on the 19th of February at noon.
    assert_eq!(ids(&parsed(&list("?createDateEnd=2026-02-20"))), [300_002]);
    assert_eq!(parsed(&list("?createDateEnd=2026-02-19"))["totalCount"], 0);
    assert_eq!(parsed(&list("?createDateEnd=2026-02-19T12:00:00Z"))["totalCount"], 0);
    assert_eq!(parsed(&list("?orderStatus=odd"))["totalCount"], 1027);
    assert_eq!(parsed(&list("?createDateStart=2026-03-01T12:00:00Z"))["totalCount"], 1026);
    assert_eq!(parsed(&list("?orderStatus=failed"))["totalCount"], 0);
    for wrong in ["?page=x", "?perPage=-1", "?dir=up", "?createDateStart=soon"] {
        assert_eq!(list(wrong).response.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[test]
fn an_invalid_order_is_not_put() {
    let mut state = State::demo(NOW);
    let item = |id, price| Item::new(id, "registration", "a.com".to_owned(), price);
    let mut put = |id, account: &str, items| state.put_order(Order::new(id, account, items), NOW).unwrap_err();
    assert_eq!(put(0, "demo-test", vec![item(1, 1)]), PutError::IdNotPositive { order: 0 });
    assert_eq!(put(1, "demo-test", vec![]), PutError::NoItems { order: 1 });
    assert_eq!(put(1, "demo-test", vec![item(1, 1), item(1, 1)]), PutError::ItemTaken { item: 1 });
    assert_eq!(put(1, "demo-test", vec![item(987_654, 1)]), PutError::ItemTaken { item: 987_654 });
    assert_eq!(put(1, "demo-test", vec![item(1, -1)]), PutError::AmountOutOfRange { item: 1 });
    assert_eq!(put(1, "who", vec![item(1, 1)]), PutError::NoSuchAccount { order: 1, account: "who".to_owned() });

    let order: Order = serde_json::from_value(json!({"id": 9, "items": [{"id": 8, "price_minor": 5}]})).unwrap();
    state.put_order(order, NOW).unwrap();
    let put = state.order(9).unwrap();
    assert_eq!((put.account.as_deref(), put.created), (Some("demo-test"), Some(NOW)));
    assert!(serde_json::from_value::<Order>(json!({"id": 9, "items": [], "colour": 1})).is_err());
}

#[test]
fn inspection_returns_the_call_without_secrets() {
    let request = refund(r#"{"orderId":123456,"orderItemIds":[987654],"token":"s"}"#, &[("x-idempotency-key", "k")]);
    let info = inspect(&request);
    assert_eq!(info.operation, "ProcessRefund");
    assert_eq!(info.target.as_deref(), Some("123456"));
    assert_eq!(info.username.as_deref(), Some("demo-test"));
    assert_eq!(info.identifier.as_deref(), Some("k"));
    assert_eq!(info.parameters, json!({"orderId": 123_456, "orderItemIds": [987_654]}));
    assert!(info.moves_money && !info.destructive);
    assert_eq!(inspect(&get("/core/v1/domains/Example.com")).target.as_deref(), Some("example.com"));
    assert_eq!(inspect(&get("/core/v1/hello")).operation, "Hello");
    assert_eq!(inspect(&get("/core/v1/orders?page=2")).parameters, json!({"page": "2"}));
    assert!(!format!("{:?}", State::demo(NOW)).contains("demo-token"));
}

#[test]
fn the_state_survives_a_round_trip_through_json() {
    let mut state = State::demo(NOW);
    let body = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;
    handle(&mut state, &Settings::default(), NOW, &refund(body, &[("x-idempotency-key", "k")]));
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}

proptest! {
    #[test]
    fn any_body_is_answered(body in proptest::collection::vec(any::<u8>(), 0..300), key in "[ -~]{0,20}") {
        let mut request = refund("", &[("x-idempotency-key", key.as_str())]);
        request.body = body.into();
        inspect(&request);
        let mut state = State::default();
        state.put_account(Account::new("demo-test", "demo-token"));
        let handled = handle(&mut state, &Settings::default(), NOW, &request);
        prop_assert!(handled.effects.is_empty());
        prop_assert_eq!(handled.response.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn any_order_and_items_are_answered(order in any::<i64>(), items in proptest::collection::vec(any::<i64>(), 0..5)) {
        let request = refund(&json!({"orderId": order, "orderItemIds": items}).to_string(), &[]);
        let mut state = State::default();
        state.put_account(Account::new("demo-test", "demo-token"));
        prop_assert!(handle(&mut state, &Settings::default(), NOW, &request).response.status.is_client_error());
    }

    #[test]
    fn any_path_query_and_credentials_are_answered(path in "\\PC{0,40}", query in "\\PC{0,40}", authorization in any::<Vec<u8>>()) {
        let mut request = request("GET", "/", &[], b"");
        if let Ok(value) = HeaderValue::from_bytes(&authorization) {
            request.headers.insert("authorization", value);
        }
        for path in [path, format!("/core/v1/orders/{query}"), format!("/core/v1/domains/{query}")] {
            request.path = path;
            request.query = Some(query.clone());
            inspect(&request);
            handle(&mut State::demo(NOW), &Settings::default(), NOW, &request);
        }
        let mut listing = get("/core/v1/orders");
        listing.query = Some(query);
        let mut state = State::default();
        state.put_account(Account::new("demo-test", "demo-token"));
        handle(&mut state, &Settings::default(), NOW, &listing);
    }
}

fn half_way(state: &mut State, settings: &Settings, request: &Request) -> Handled {
    handle_parsed(state, settings, NOW, request, &ParsedBody::parse(&request.body), true)
}
