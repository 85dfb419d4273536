//! The control port over its socket: every call, and refusals.

use std::collections::BTreeSet;

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::Provider;

use crate::{
    schema,
    support::{PROVIDERS, TestBench, matches_template},
};

/// Every control call once, in an order in which each finds what it needs: method, path template,
/// values of its variables, body, status.
const CALLS: &[(&str, &str, &[&str], &str, u16)] = &[
    ("get", "/openapi.json", &[], "", 200),
    ("get", "/v1/health", &[], "", 200),
    ("get", "/v1/magic", &[], "", 200),
    ("get", "/v1/worlds", &[], "", 200),
    ("post", "/v1/worlds", &[], r#"{"name":"mine","seed":"empty"}"#, 201),
    ("get", "/v1/worlds/{world}", &["w2"], "", 200),
    ("delete", "/v1/worlds/{world}", &["w2"], "", 200),
    ("get", "/v1/clock", &[], "", 200),
    ("put", "/v1/clock", &[], r#"{"running":true}"#, 200),
    ("post", "/v1/clock/advance", &[], r#"{"seconds":60}"#, 200),
    ("get", "/v1/settings", &[], "", 200),
    ("patch", "/v1/settings", &[], r#"{"sectigo":{"refund_period_days":14}}"#, 200),
    ("post", "/v1/faults", &[], r#"{"provider":"sectigo","target":"5","point":"after_effect","effect":"close"}"#, 201),
    ("get", "/v1/faults", &[], "", 200),
    ("get", "/v1/faults/{id}", &["1"], "", 200),
    ("get", "/v1/faults/unfired", &[], "", 200),
    ("delete", "/v1/faults/{id}", &["1"], "", 200),
    (
        "put",
        "/v1/faults/random",
        &[],
        r#"{"seed":1,"share":0.5,"operation":"GetOrder","effects":[{"point":"after_effect","effect":"reset_peer"}]}"#,
        200,
    ),
    ("get", "/v1/faults/random", &[], "", 200),
    ("delete", "/v1/faults/random", &[], "", 200),
    ("post", "/v1/gates", &[], r#"{"provider":"sectigo","target":"5","point":"after_effect"}"#, 201),
    ("get", "/v1/gates", &[], "", 200),
    ("get", "/v1/gates/{id}", &["1"], "", 200),
    ("post", "/v1/gates/{id}/release", &["1"], "{}", 200),
    ("delete", "/v1/gates/{id}", &["1"], "", 200),
    ("get", "/v1/audit", &[], "", 200),
    ("post", "/v1/audit", &[], r#"{"refunds":[]}"#, 200),
    ("post", "/v1/fork", &[], "", 201),
    ("get", "/v1/snapshot", &[], "", 200),
    ("put", "/v1/snapshot", &[], "snapshot", 200),
    ("get", "/v1/books", &[], "", 200),
    ("get", "/v1/journal", &[], "", 200),
    ("get", "/v1/journal/{id}", &["1"], "", 200),
    ("put", "/v1/sectigo/accounts/{login_name}", &["me"], r#"{"password":"secret"}"#, 200),
    ("get", "/v1/sectigo/accounts/{login_name}", &["me"], "", 200),
    ("get", "/v1/sectigo/accounts", &[], "", 200),
    ("put", "/v1/sectigo/orders/{order_number}", &["7"], r#"{"account":"me","price_minor":5}"#, 200),
    ("get", "/v1/sectigo/orders/{order_number}", &["7"], "", 200),
    ("get", "/v1/sectigo/orders", &[], "", 200),
    ("put", "/v1/namecom/accounts/{username}", &["me"], r#"{"token":"secret"}"#, 200),
    ("get", "/v1/namecom/accounts/{username}", &["me"], "", 200),
    ("get", "/v1/namecom/accounts", &[], "", 200),
    (
        "put",
        "/v1/namecom/orders/{order_id}",
        &["7"],
        r#"{"account":"demo-test","items":[{"id":8,"name":"a.com","price_minor":1299,"refund_outcome":"initialized"}]}"#,
        200,
    ),
    ("get", "/v1/namecom/orders/{order_id}", &["7"], "", 200),
    ("get", "/v1/namecom/orders", &[], "", 200),
    (
        "put",
        "/v1/namecom/orders/{order_id}/items/{item_id}",
        &["7", "9"],
        r#"{"type":"whois_privacy","name":"a.com","price_minor":499}"#,
        200,
    ),
    ("get", "/v1/namecom/orders/{order_id}/items/{item_id}", &["7", "9"], "", 200),
    (
        "post",
        "/v1/namecom/orders/{order_id}/items/{item_id}/settle",
        &["200007", "3200007"],
        r#"{"outcome":"refunded"}"#,
        409,
    ),
    ("put", "/v1/debitsuccess/logins/{username}", &["me"], r#"{"password":"secret"}"#, 200),
    ("get", "/v1/debitsuccess/logins", &[], "", 200),
    ("put", "/v1/debitsuccess/accounts/{reference}", &["DS7"], r#"{"collected_minor":100}"#, 200),
    ("get", "/v1/debitsuccess/accounts/{reference}", &["DS7"], "", 200),
    ("get", "/v1/debitsuccess/accounts", &[], "", 200),
    ("get", "/v1/debitsuccess/refunds", &[], "", 200),
    ("get", "/v1/debitsuccess/refunds/{identifier}", &["recoup-7"], "", 200),
    (
        "post",
        "/v1/debitsuccess/refunds/{identifier}/status",
        &["recoup-7"],
        r#"{"status":"Completed","note":"paid"}"#,
        200,
    ),
    ("post", "/v1/reset", &[], "", 200),
];

fn method(word: &str) -> Method {
    word.to_ascii_uppercase().parse().unwrap()
}

fn fill_template(template: &str, values: &[&str]) -> String {
    let mut values = values.iter();
    let parts = template.split('/').map(|part| if part.starts_with('{') { *values.next().unwrap() } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_documented_call_is_answered_as_documented() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.refund(provider).await.unwrap();
    }
    let (_, document) = bench.control(Method::GET, "/openapi.json", "").await;
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    // Calls about a world are documented twice: for the demo world and for any world.
    let is_twice = |(method, path): &(String, String)| {
        let short = path.replacen("/v1/worlds/{world}/", "/v1/", 1);
        short != *path && described.contains(&(method.clone(), short))
    };
    // One call does not answer JSON; another test covers it.
    let is_json = |(_, path): &&(String, String)| path != "/v1/ca.pem";
    let once: BTreeSet<_> = described.iter().filter(|call| !is_twice(call)).filter(is_json).cloned().collect();
    let called: BTreeSet<_> = CALLS.iter().map(|call| (call.0.to_owned(), call.1.to_owned())).collect();
    assert_eq!(called, once);

    let (_, fork) = bench.control(Method::POST, "/v1/fork", r#"{"name":"the same again"}"#).await;
    let fork = fork["id"].as_str().unwrap();
    for (word, template, values, body, expected) in CALLS {
        call(&bench, &document, (word, template, values, body, *expected)).await;
        let in_world = template.replacen("/v1/", "/v1/worlds/{world}/", 1);
        if described.contains(&((*word).to_owned(), in_world.clone())) {
            // No two worlds share a username.
            let values: Vec<&str> = std::iter::once(fork)
                .chain(values.iter().map(|value| if *value == "me" { "me-too" } else { value }))
                .collect();
            let body = body.replace("\"me\"", "\"me-too\"").replace("\"account\":\"demo-test\",", "");
            call(&bench, &document, (word, &in_world, &values, &body, *expected)).await;
        }
    }
}

async fn call(
    bench: &TestBench,
    document: &Value,
    (word, template, values, body, expected): (&str, &str, &[&str], &str, u16),
) {
    let path = fill_template(template, values);
    let snapshot =
        if body == "snapshot" { bench.control(Method::GET, &path, "").await.1.to_string() } else { String::new() };
    let body = if body == "snapshot" { &snapshot } else { body };
    let (status, answer) = bench.control(method(word), &path, body).await;
    assert_eq!(status, expected, "{word} {template}: {answer}");
    assert_described(document, word, template, expected, &answer);
    let request = &document["paths"][template][word]["requestBody"]["content"]["application/json"]["schema"];
    match serde_json::from_str::<Value>(body) {
        Ok(body) => schema::check(document, request, &body)
            .unwrap_or_else(|wrong| panic!("{word} {template} accepts a body that is not documented: body{wrong}")),
        Err(_) => assert!(body.is_empty()),
    }
}

/// Asserts that the document describes this answer.
fn assert_described(document: &Value, word: &str, template: &str, status: u16, answer: &Value) {
    let response = &document["paths"][template][word]["responses"][status.to_string()];
    assert!(response.is_object(), "{word} {template}: {status} is not documented");
    let schema = &response["content"]["application/json"]["schema"];
    if let Err(wrong) = schema::check(document, schema, answer) {
        panic!("{word} {template}: {status}: answer{wrong}");
    }
}

#[rstest]
#[case("get", "/v1/nothing", "", 404, "there is no control call /v1/nothing")]
#[case("delete", "/v1/books", "", 405, "there is no DELETE on /v1/books")]
#[case("post", "/v1/faults", "{", 400, "the body is not what this call takes: EOF")]
#[case("post", "/v1/faults", "", 400, "the body is not what this call takes: EOF")]
#[case(
    "post",
    "/v1/faults",
    r#"{"provider":"sectigo","point":"after_effect","effect":"close","nth":1}"#,
    400,
    "unknown field `nth`"
)]
#[case(
    "post",
    "/v1/faults",
    r#"{"provider":"sectigo","point":"after_effect","effect":"close","attempt":0}"#,
    400,
    "`attempt` is counted from 1"
)]
#[case(
    "post",
    "/v1/faults",
    r#"{"provider":"sectigo","point":"connect","effect":"corrupt"}"#,
    400,
    "the body is not what this call takes: "
)]
#[case(
    "post",
    "/v1/faults",
    r#"{"provider":"sectigo","point":"connect","effect":{"corrupt":{}}}"#,
    400,
    "`corrupt` cannot happen at `connect`, only at before_effect, after_effect, during_answer"
)]
#[case("put", "/v1/faults/random", r#"{"seed":1,"share":2}"#, 400, "`share` is a number from 0 to 1")]
#[case("get", "/v1/faults/random", "", 404, "the random mode is off")]
#[case("get", "/v1/faults/unfired?strikt=true", "", 400, "unknown field `strikt`")]
#[case("post", "/v1/gates", r#"{"provider":"sectigo","point":"connect"}"#, 400, "a gate stands at before_effect")]
#[case(
    "post",
    "/v1/gates",
    r#"{"provider":"sectigo","point":"after_effect","max_wait_seconds":0}"#,
    400,
    "`max_wait_seconds` is 1 to 600"
)]
#[case("get", "/v1/gates/7", "", 404, "there is no gate 7")]
#[case("delete", "/v1/gates/7", "", 404, "there is no gate 7")]
#[case("post", "/v1/gates/7/release", "{}", 404, "there is no gate 7")]
#[case("get", "/v1/faults/1", "", 404, "there is no fault 1")]
#[case("delete", "/v1/faults/x", "", 400, "Cannot parse")]
#[case("get", "/v1/books?limit=0", "", 400, "`limit` is 1 to 10000")]
#[case("get", "/v1/journal?provider=paypal", "", 400, "unknown variant `paypal`")]
#[case("get", "/v1/journal?foo=1", "", 400, "unknown field `foo`")]
#[case("get", "/v1/journal/7", "", 404, "the journal has no entry 7")]
#[case("post", "/v1/reset", r#"{"hard":true}"#, 400, "unknown field `hard`")]
#[case("post", "/v1/worlds", r#"{"settings":[]}"#, 400, "`settings` must be a JSON object")]
#[case("post", "/v1/worlds", r#"{"settings":{"namecom":{"x":1}}}"#, 400, "unknown field `x`")]
#[case("delete", "/v1/faults/random", "7", 400, "this call takes no body")]
#[case("post", "/v1/worlds", r#"{"own_ports":"yes"}"#, 400, "invalid type")]
#[case("post", "/v1/worlds", r#"{"seed":"demo","snapshot":{"version":2}}"#, 400, "the snapshot is of version 2")]
#[case("delete", "/v1/worlds/demo", "", 409, "the demo world cannot be deleted")]
#[case("get", "/v1/worlds/w9/books", "", 404, "there is no world w9")]
#[case("put", "/v1/clock", r#"{"now":"1999-01-01T00:00:00Z"}"#, 409, "the clock only moves forward")]
#[case("post", "/v1/clock/advance", r#"{"minutes":1}"#, 400, "unknown field `minutes`")]
#[case("post", "/v1/clock/advance", r#"{"seconds":-1}"#, 400, "invalid value")]
#[case("post", "/v1/clock/advance", r#"{"seconds":18446744073709551615}"#, 400, "the clock moves at most")]
#[case("patch", "/v1/settings", "7", 400, "the body must be a JSON object")]
#[case("patch", "/v1/settings", r#"{"sectigo":{"refund_days":1}}"#, 400, "unknown field `refund_days`")]
#[case(
    "put",
    "/v1/sectigo/orders/7",
    r#"{"order_number":"8"}"#,
    400,
    "`order_number` is \"8\" in the body and \"7\" in the path"
)]
#[case("put", "/v1/sectigo/orders/7", r#"{"colour":"red"}"#, 400, "unknown field `colour`")]
#[case("put", "/v1/sectigo/orders/7", r#"{"validation":{"csrStatus":{"titel":""}}}"#, 400, "unknown field `titel`")]
#[case("put", "/v1/sectigo/orders/7", r#"{"account":"missing"}"#, 400, "there is no Sectigo account `missing`")]
#[case("get", "/v1/sectigo/orders/7", "", 404, "there is no order 7")]
#[case("put", "/v1/sectigo/accounts/me", "{}", 400, "missing field `password`")]
#[case("put", "/v1/namecom/orders/7", r#"{"items":[]}"#, 400, "order 7 has no items")]
#[case("put", "/v1/namecom/orders/7", r#"{"items":[{"id":8,"price":1}]}"#, 400, "unknown field `price`")]
#[case("put", "/v1/namecom/orders/7/items/8", r#"{"price_minor":1}"#, 404, "there is no order 7")]
#[case("get", "/v1/namecom/orders/seven", "", 400, "Cannot parse")]
#[case("put", "/v1/debitsuccess/accounts/DS7", r#"{"collected":1}"#, 400, "unknown field `collected`")]
#[case("post", "/v1/debitsuccess/refunds/7/status", r#"{"status":"Completed"}"#, 404, "there is no refund")]
#[case("post", "/v1/debitsuccess/refunds/7/status", r#"{"status":"Done"}"#, 400, "unknown variant `Done`")]
#[tokio::test]
async fn a_wrong_call_is_refused_with_one_sentence(
    #[case] word: &str,
    #[case] path: &str,
    #[case] body: &str,
    #[case] status: u16,
    #[case] sentence: &str,
) {
    let bench = TestBench::start().await;
    let (answered, refusal) = bench.control(method(word), path, body).await;
    assert_eq!(answered, status, "{refusal}");
    let message = refusal["error"].as_str().unwrap();
    assert!(message.contains(sentence), "{message}");
    assert!(!message.contains('\n'));
    // Only existing calls are documented.
    let (_, document) = bench.control(Method::GET, "/openapi.json", "").await;
    let path = path.split('?').next().unwrap();
    let paths = document["paths"].as_object().unwrap();
    let template = paths
        .keys()
        .filter(|template| paths[*template][word].is_object())
        .find(|template| matches_template(path, template));
    assert_eq!(template.is_none(), message.starts_with("there is no control call") || status == 405);
    if let Some(template) = template {
        assert_described(&document, word, template, status, &refusal);
    }
}

#[tokio::test]
async fn the_provider_uses_the_order_that_was_put() {
    let bench = TestBench::start().await;
    let put = json!({ "price_minor": 12_345, "currency": "EUR", "validation": { "orderStatus": "Awaiting Payment" } });
    let (_, stored) = bench.control(Method::PUT, "/v1/sectigo/orders/1000007", &put.to_string()).await;
    assert_eq!(stored["validation"], json!({ "orderStatus": "Awaiting Payment" }));
    // An order that was read can be put back unchanged.
    let (status, _) = bench.control(Method::PUT, "/v1/sectigo/orders/1000007", &stored.to_string()).await;
    assert_eq!(status, 200);
    bench.refund(Provider::Sectigo).await.unwrap();
    let (_, books) = bench.control(Method::GET, "/v1/books?provider=sectigo&target=1000007", "").await;
    assert_eq!(books["entries"][0]["amount_minor"], 12_345);
    assert_eq!(books["entries"][0]["currency"], "EUR");
}

#[tokio::test]
async fn books_and_journal_are_filtered_and_paged() {
    let bench = TestBench::start().await;
    for provider in [Provider::Sectigo, Provider::Sectigo, Provider::Debitsuccess, Provider::Sectigo] {
        bench.refund(provider).await.unwrap();
    }
    let ids = |answer: &Value| -> Vec<u64> {
        answer["entries"].as_array().unwrap().iter().map(|entry| entry["id"].as_u64().unwrap()).collect()
    };
    for (query, expected) in [
        ("", vec![1, 2, 3, 4]),
        ("?limit=2", vec![3, 4]),
        ("?limit=2&after=1", vec![2, 3]),
        ("?provider=sectigo", vec![1, 2, 4]),
        ("?provider=sectigo&limit=1", vec![4]),
        ("?target=DS000007", vec![3]),
        ("?identifier=recoup-7", vec![3]),
        ("?target=nothing", vec![]),
    ] {
        let (_, journal) = bench.control(Method::GET, &format!("/v1/journal{query}"), "").await;
        assert_eq!(ids(&journal), expected, "{query}");
        assert_eq!(journal["dropped"], 0);
    }
    let (_, books) = bench.control(Method::GET, "/v1/books?identifier=recoup-7", "").await;
    assert_eq!(books["entries"][0]["journal_id"], 3);
}

#[tokio::test]
async fn a_reset_restores_data_settings_and_clock() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.refund(provider).await.unwrap();
    }
    bench.arm(json!({ "provider": "sectigo", "point": "after_effect", "effect": "close" }));
    bench.control(Method::POST, "/v1/clock/advance", r#"{"seconds":8640000}"#).await;
    bench.control(Method::PATCH, "/v1/settings", r#"{"sectigo":{"refund_period_days":1}}"#).await;
    bench.control(Method::PUT, "/v1/sectigo/orders/7", "{}").await;

    let (_, done) = bench.control(Method::POST, "/v1/reset", "").await;
    assert_eq!(done, json!({ "reset": true }));
    for path in ["/v1/books", "/v1/journal", "/v1/faults", "/v1/debitsuccess/refunds"] {
        assert_eq!(bench.control(Method::GET, path, "").await.1["entries"], json!([]), "{path}");
    }
    assert_eq!(bench.control(Method::GET, "/v1/clock", "").await.1["offset_seconds"], 0);
    assert_eq!(bench.control(Method::GET, "/v1/settings", "").await.1["sectigo"]["refund_period_days"], 30);
    assert_eq!(bench.control(Method::GET, "/v1/sectigo/orders/7", "").await.0, 404);
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "0");
    assert_eq!(bench.simulators.books().first().unwrap().id, 1);
}

#[tokio::test]
async fn moving_the_clock_ends_refund_periods_and_settles_refunds() {
    let bench = TestBench::start().await;
    bench.control(Method::PATCH, "/v1/settings", r#"{"debitsuccess":{"completed_after_seconds":3600}}"#).await;
    bench.refund(Provider::Debitsuccess).await.unwrap();
    let status = async || bench.control(Method::GET, "/v1/debitsuccess/refunds/recoup-7", "").await.1["status"].clone();
    assert_eq!(status().await, "Submitted");
    let (_, clock) = bench.control(Method::POST, "/v1/clock/advance", r#"{"seconds":2678401}"#).await;
    assert_eq!(clock["offset_seconds"], 2_678_401);
    assert_eq!(status().await, "Completed");
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "-18\nThe refund period for this order is over");
}

#[tokio::test]
async fn a_pending_refund_is_in_the_books_once_it_is_settled() {
    let bench = TestBench::start().await;
    let item = "/v1/namecom/orders/200007/items/3200007";
    let (_, mut known) = bench.control(Method::GET, item, "").await;
    known["refund_outcome"] = json!("initialized");
    bench.control(Method::PUT, item, &known.to_string()).await;
    bench.refund(Provider::Namecom).await.unwrap();
    assert!(bench.simulators.books().is_empty());
    let (_, settled) = bench.control(Method::POST, &format!("{item}/settle"), r#"{"outcome":"refunded"}"#).await;
    assert_eq!(settled["status"], "refunded");
    let (_, books) = bench.control(Method::GET, "/v1/books", "").await;
    assert_eq!((&books["entries"][0]["target"], &books["entries"][0]["journal_id"]), (&json!("3200007"), &Value::Null));
}

/// A web page in a browser on this machine, or another name that resolves to it, can change
/// nothing.
#[rstest]
#[case::another_host("host", "evil.example", 403)]
#[case::another_origin("origin", "http://evil.example", 403)]
#[case::a_null_origin("origin", "null", 403)]
#[case::a_configured_host("host", "sim.example:7100", 200)]
#[case::loopback("host", "localhost", 200)]
#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_for_every_method_and_path(
    #[case] name: &str,
    #[case] value: &str,
    #[case] status: u16,
) {
    let config =
        simulators::Config { control_hosts: vec!["sim.example".to_owned()], ..simulators::Config::free_ports() };
    let bench = TestBench::start_as(config).await;
    let send = async |method: &str, path: &str, body: &'static str| {
        let url = format!("http://{}{path}", bench.simulators.control_addr());
        let request = bench.client.request(method.parse().unwrap(), url).header(name, value).body(body);
        request.send().await.unwrap()
    };
    let rule = r#"{"provider":"sectigo","point":"after_effect","effect":"close"}"#;
    let armed = send("POST", "/v1/faults", rule).await;
    assert_eq!(armed.status().as_u16(), if status == 200 { 201 } else { status });
    let count = async |path: &str| bench.control(Method::GET, path, "").await.1["entries"].as_array().unwrap().len();
    assert_eq!(count("/v1/faults").await, usize::from(status == 200));
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/page/main.js"),
        ("GET", "/v1/health"),
        ("GET", "/v1/ca.pem"),
        ("GET", "/nothing"),
        ("DELETE", "/v1/books"),
        ("OPTIONS", "/v1/faults"),
        ("HEAD", "/v1/books"),
        ("POST", "/v1/worlds/demo/reset"),
    ] {
        let answer = send(method, path, "").await;
        assert_eq!(answer.status() == 403, status == 403, "{method} {path}");
        if status == 403 && method != "HEAD" {
            assert!(answer.text().await.unwrap().starts_with("{\"error\":\"the control port "), "{method} {path}");
        }
    }
}
