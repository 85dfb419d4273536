//! The audit, the books and the journal, settings and magic values.

use std::time::Duration;

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{Ending, NewWorld, Provider, Rule, WorldHandle};

use crate::support::{Account, PROVIDERS, TestBench, word};

/// A test bench with one world.
struct Case {
    bench: TestBench,
    world: WorldHandle,
    account: Account,
}

impl Case {
    async fn start() -> Case {
        let bench = TestBench::start().await;
        let world = bench.simulators.create_world(NewWorld::default()).unwrap();
        let account = Account::of(&world.credentials());
        Case { bench, world, account }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let path = format!("/v1/worlds/{}/{path}", self.world.id());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.bench.control(method, &path, &body).await;
        (status.as_u16(), answer)
    }

    /// The kinds of violations, with or without a caller's list.
    async fn kinds(&self, refunds: Option<Value>) -> Vec<String> {
        let (status, audit) = match refunds {
            Some(refunds) => self.call(Method::POST, "audit", json!({ "refunds": refunds })).await,
            None => self.call(Method::GET, "audit", Value::Null).await,
        };
        assert_eq!(status, 200, "{audit}");
        let violations = audit["violations"].as_array().unwrap();
        assert_eq!(audit["verdict"], if violations.is_empty() { "clean" } else { "violations" });
        violations.iter().map(|violation| violation["kind"].as_str().unwrap().to_owned()).collect()
    }

    async fn settings(&self, change: Value) {
        assert_eq!(self.call(Method::PATCH, "settings", change).await.0, 200);
    }

    fn arm(&self, rule: Value) {
        self.world.arm(serde_json::from_value::<Rule>(rule).unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_refund_with_a_lost_answer_is_unreported_until_a_later_answer_reports_it() {
    let case = Case::start().await;
    for provider in PROVIDERS {
        case.bench.refund_as(&case.account, provider, 1).await;
    }
    assert_eq!(case.kinds(None).await, Vec::<String>::new());
    for (provider, target) in
        [(Provider::Sectigo, "1000002"), (Provider::Namecom, "200002"), (Provider::Debitsuccess, "DS000002")]
    {
        case.arm(json!({ "provider": word(provider), "point": "after_effect", "effect": "reset_peer" }));
        assert!(case.bench.refund_of(&case.account, provider, target, "id-2").await.is_err());
    }
    assert_eq!(case.kinds(None).await, ["unreported", "unreported", "unreported"]);
    let (status, strict) = case.call(Method::GET, "audit?strict=true", Value::Null).await;
    assert_eq!((status, &strict["verdict"]), (409, &json!("violations")));
    // The refusal of a second refund reports the first one to the caller.
    for provider in PROVIDERS {
        case.bench.refund_as(&case.account, provider, 2).await;
    }
    assert_eq!(case.kinds(None).await, Vec::<String>::new());
    assert_eq!(case.call(Method::GET, "audit?strict=true", Value::Null).await.0, 200);
}

#[tokio::test]
async fn without_deduplication_a_repeated_refund_is_two_effects_and_a_violation() {
    let case = Case::start().await;
    let off = json!({ "deduplication": "off" });
    case.settings(json!({ "sectigo": off, "namecom": off, "debitsuccess": off })).await;
    for provider in PROVIDERS {
        for _ in 0..2 {
            assert_eq!(case.bench.refund_as(&case.account, provider, 1).await.0, 200);
        }
    }
    assert_eq!(case.world.books().len(), 6);
    let kinds = case.kinds(None).await;
    assert_eq!(kinds, ["duplicate_target", "duplicate_target", "duplicate_identifier", "over_refund", "over_refund"]);
    let (_, audit) = case.call(Method::GET, "audit", Value::Null).await;
    // Each second request looks like a re-send, except the one with an identifier.
    assert_eq!(audit["suspected_resends"], json!([2, 4]));
    assert_eq!(audit["totals"][0]["refunded_minor"], 2 * 9900);
    assert_eq!(audit["totals"][2]["account"], "DS000001");
}

#[tokio::test]
async fn a_replay_after_the_lifetime_of_its_key_is_a_second_effect_without_deduplication() {
    let case = Case::start().await;
    case.settings(json!({ "namecom": { "deduplication": "off" } })).await;
    let refund = async || {
        let request = case.bench.request_for(&case.account, Provider::Namecom, "200001", "");
        let response = request.header("x-idempotency-key", "my-key").send().await.unwrap();
        response.headers().contains_key("x-idempotent-replay")
    };
    assert!(!refund().await);
    assert!(refund().await);
    assert_eq!(case.world.books().len(), 1);
    case.world.advance(Duration::from_secs(3601));
    assert!(!refund().await);
    assert_eq!(case.world.books().len(), 2);
    assert!(case.kinds(None).await.contains(&"duplicate_target".to_owned()));
}

#[rstest]
#[case::agreed(json!([{"provider": "sectigo", "target": "1000001", "amount_minor": 9900, "state": "SUCCEEDED"}]), &[])]
#[case::number(json!([{"provider": "sectigo", "target": 1000001, "state": "refunded"}]), &[])]
#[case::amount(json!([{"provider": "sectigo", "target": "1000001", "amount_minor": 9901, "state": "succeeded"}]), &["amount_differs"])]
#[case::false_failure(json!([{"provider": "sectigo", "target": "1000001", "state": "failed"}]), &["false_failure"])]
#[case::false_success(json!([{"provider": "sectigo", "target": "1000001", "state": "succeeded"}, {"provider": "sectigo", "target": "1000009", "outcome": "succeeded"}]), &["false_success"])]
#[case::unknown(json!([]), &["unknown_to_caller"])]
#[case::in_doubt(json!([{"provider": "sectigo", "target": "1000001", "state": "IN_DOUBT"}]), &[])]
#[case::second_try(json!([{"provider": "sectigo", "target": "1000001", "state": "failed"}, {"provider": "sectigo", "target": "1000001", "state": "succeeded"}]), &[])]
#[tokio::test]
async fn the_audit_compares_the_claims_of_a_caller_with_the_books(#[case] refunds: Value, #[case] kinds: &[&str]) {
    let case = Case::start().await;
    case.bench.refund_as(&case.account, Provider::Sectigo, 1).await;
    assert_eq!(case.kinds(Some(refunds)).await, kinds);
}

#[tokio::test]
async fn debitsuccess_claims_are_matched_by_identifier_and_a_rejected_refund_is_no_success() {
    let case = Case::start().await;
    case.settings(json!({ "debitsuccess": { "service_fee_minor": 250 } })).await;
    for identifier in ["one", "two"] {
        case.bench.refund_of(&case.account, Provider::Debitsuccess, "DS000001", identifier).await.unwrap();
    }
    case.call(Method::POST, "debitsuccess/refunds/two/status", json!({ "status": "Rejected" })).await;
    let claim = |identifier: &str, state: &str| json!({ "provider": "debitsuccess", "target": "EXT-000001", "identifier": identifier, "amount_minor": 1234, "state": state });
    assert_eq!(
        case.kinds(Some(json!([claim("one", "submitted"), claim("two", "rejected")]))).await,
        Vec::<String>::new()
    );
    let kinds = case.kinds(Some(json!([claim("one", "failed"), claim("two", "succeeded")]))).await;
    assert_eq!(kinds, ["false_success", "false_failure"]);
    let (_, audit) = case.call(Method::GET, "audit", Value::Null).await;
    let total = &audit["totals"][0];
    assert_eq!((&total["refunds"], &total["rejected"], &total["fees_minor"]), (&json!(1), &json!(1), &json!(500)));
    assert_eq!(case.world.books().first().unwrap().attempt.unwrap().number, 1);

    // If the settings allow it, a rejected refund is paid after all: that is still one refund.
    case.settings(json!({ "debitsuccess": { "final_statuses": "can_be_left" } })).await;
    case.call(Method::POST, "debitsuccess/refunds/two/status", json!({ "status": "Completed" })).await;
    let kinds = case.kinds(Some(json!([claim("one", "submitted"), claim("two", "succeeded")]))).await;
    assert_eq!(kinds, Vec::<String>::new());
}

#[tokio::test]
async fn books_and_journal_are_filtered_by_call_and_time() {
    let case = Case::start().await;
    case.call(Method::PUT, "clock", json!({ "now": "2090-01-01T00:00:00Z", "running": false })).await;
    case.settings(json!({ "sectigo": { "refund_period_days": 40_000 }, "namecom": { "agp_days": 40_000 } })).await;
    for provider in PROVIDERS {
        case.bench.refund_as(&case.account, provider, 1).await;
        case.world.advance(Duration::from_secs(60));
    }
    for path in ["books", "journal"] {
        for (query, ids) in [
            ("operation=ProcessRefund", json!([2])),
            ("from=2090-01-01T00:01:00Z", json!([2, 3])),
            ("until=2090-01-01T00:01:00Z", json!([1])),
            ("from=2090-01-01T00:01:00Z&until=2090-01-01T00:02:00Z&provider=namecom", json!([2])),
            ("after=0&limit=2", json!([1, 2])),
        ] {
            let (status, listed) = case.call(Method::GET, &format!("{path}?{query}"), Value::Null).await;
            assert_eq!(status, 200, "{listed}");
            let entries = listed["entries"].as_array().unwrap();
            let found: Vec<&Value> = entries.iter().map(|entry| &entry["id"]).collect();
            assert_eq!(json!(found), ids, "{path}?{query}");
            assert_eq!(&listed["next_after"], found[found.len() - 1]);
        }
    }
    let (status, _) = case.call(Method::PUT, "clock", json!({ "now": "2080-01-01T00:00:00Z" })).await;
    assert_eq!(status, 409);
}

#[tokio::test]
async fn a_second_request_under_a_key_waits_or_is_refused_while_the_first_is_delayed() {
    let case = Case::start().await;
    let delay = json!({ "provider": "namecom", "operation": "ProcessRefund", "attempt": 1, "point": "before_effect", "effect": { "delay": { "milliseconds": 400 } }, "repeat": "standing" });
    case.arm(delay);
    let refund = |order: &'static str| {
        let request = case.bench.request_for(&case.account, Provider::Namecom, order, "");
        let request = request.header("x-idempotency-key", format!("key-{order}"));
        async move {
            let response = request.send().await.unwrap();
            let replayed = response.headers().contains_key("x-idempotent-replay");
            (response.status().as_u16(), replayed)
        }
    };
    let second = async |order: &'static str| {
        case.bench
            .journal_of_world_once(&case.world, |journal| {
                journal.iter().any(|entry| entry.target.as_deref() == Some(order))
            })
            .await;
        refund(order).await
    };
    let (first, held) = tokio::join!(refund("200001"), second("200001"));
    assert_eq!((first, held), ((200, false), (200, true)));
    case.settings(json!({ "namecom": { "key_in_flight": "refuse" } })).await;
    let (first, refused) = tokio::join!(refund("200002"), second("200002"));
    assert_eq!((first, refused), ((200, false), (409, false)));
    assert_eq!(case.world.books().len(), 2);
}

#[tokio::test]
async fn every_magic_value_behaves_as_listed() {
    let case = Case::start().await;
    let (_, listed) = case.bench.control(Method::GET, "/v1/magic", "").await;
    for magic in listed["entries"].as_array().unwrap() {
        let provider: Provider = serde_json::from_value(magic["provider"].clone()).unwrap();
        let target = magic["target"].as_str().unwrap();
        let does = magic["does"].as_str().unwrap();
        let refund = case.bench.refund_of(&case.account, provider, target, target);
        let answer =
            tokio::time::timeout(Duration::from_millis(if does.contains("never") { 300 } else { 20_000 }), refund)
                .await;
        let booked = || {
            case.world
                .books()
                .iter()
                .filter(|entry| {
                    let of_item = magic["item"].as_i64().is_some_and(|item| entry.effect.target == item.to_string());
                    (of_item || entry.effect.target == target) && entry.effect.kind == "refund"
                })
                .count()
        };
        let happens = usize::from(does.starts_with("is done") || does.starts_with("is Submitted"));
        case.bench
            .journal_of_world_once(&case.world, |journal| journal.iter().all(|entry| entry.ending != Ending::Open))
            .await;
        assert_eq!(booked(), happens, "{target} {does}");
        match does {
            _ if does.contains("never") => assert!(answer.is_err(), "{target}"),
            _ if does.contains("closes") || does.contains("connection is") || does.contains("breaks off") => {
                assert!(answer.unwrap().is_err(), "{target}");
            }
            _ => {
                let (status, text) = answer.unwrap().unwrap();
                if let Some(code) = does
                    .strip_prefix("is answered with ")
                    .and_then(|rest| rest.split(',').next())
                    .filter(|code| !code.contains(' '))
                {
                    let message = match provider {
                        Provider::Sectigo => text.lines().next() == Some(code),
                        Provider::Namecom => status.as_u16().to_string() == code,
                        Provider::Debitsuccess => text.contains(&format!("<a:Code>{code}</a:Code>")),
                    };
                    assert!(message, "{target} {does}: {status} {text}");
                }
            }
        }
        if does.contains("60 seconds later") {
            case.world.advance(Duration::from_secs(61));
            assert_eq!(booked(), 1, "{target} {does}");
        }
    }
    let statuses: Vec<_> = case.world.with_world(|world| {
        world
            .providers
            .debitsuccess
            .refunds()
            .iter()
            .map(|refund| (refund.account.clone(), refund.status.word()))
            .collect()
    });
    assert!(statuses.contains(&("DSSETTLES".to_owned(), "Completed")));
    assert!(statuses.contains(&("DSREJECTS".to_owned(), "Rejected")));
}

/// Every discrepancy in one world: each has its own kind, and the status shows the verdict.
#[tokio::test]
async fn every_kind_of_violation_is_reported() {
    let case = Case::start().await;
    case.settings(json!({ "sectigo": { "deduplication": "off" }, "debitsuccess": { "refund_limit": "collected" } }))
        .await;
    // 1 and 2 happen; 3 happens twice; 4 is not claimed; 5 never happens; for one account more is
    // refunded than was collected.
    for number in [1, 2, 3, 3, 4] {
        case.bench.refund_as(&case.account, Provider::Sectigo, number).await;
    }
    case.call(Method::PUT, "debitsuccess/accounts/DS000001", json!({ "collected_minor": 2000 })).await;
    for identifier in ["one", "two"] {
        case.bench.refund_of(&case.account, Provider::Debitsuccess, "DS000001", identifier).await.unwrap();
    }
    let claim = |target: &str, amount: i64, state: &str| json!({ "provider": "sectigo", "target": target, "amount_minor": amount, "state": state });
    let given = |identifier: &str| json!({ "provider": "debitsuccess", "target": "DS000001", "identifier": identifier, "amount_minor": 1234, "state": "submitted" });
    let refunds = json!([
        claim("1000001", 9900, "failed"),
        claim("1000002", 9901, "succeeded"),
        claim("1000003", 9900, "succeeded"),
        claim("1000003", 9900, "succeeded"),
        claim("1000005", 9900, "succeeded"),
        given("one"),
        given("two"),
    ]);
    let (status, audit) = case.call(Method::POST, "audit?strict=true", json!({ "refunds": refunds })).await;
    assert_eq!((status, &audit["verdict"]), (409, &json!("violations")));
    let reported = audit["violations"].as_array().unwrap().iter().map(|violation| {
        (violation["kind"].as_str().unwrap(), violation["target"].as_str().unwrap(), violation["claim"].as_u64())
    });
    let mut reported: Vec<_> = reported.collect();
    reported.sort_unstable();
    let expected = [
        ("amount_differs", "1000002", Some(1)),
        ("duplicate_target", "1000003", None),
        ("false_failure", "1000001", Some(0)),
        ("false_success", "1000005", Some(4)),
        ("over_refund", "1000003", None),
        ("over_refund", "DS000001", None),
        ("unknown_to_caller", "1000004", None),
    ];
    assert_eq!(reported, expected);
    // A caller whose claims are all correct, in a world without violations.
    let case = Case::start().await;
    case.bench.refund_as(&case.account, Provider::Sectigo, 1).await;
    let refunds = json!([claim("1000001", 9900, "succeeded")]);
    let (status, audit) = case.call(Method::POST, "audit?strict=true", json!({ "refunds": refunds })).await;
    assert_eq!((status, &audit["verdict"]), (200, &json!("clean")));
}

/// Go's `net/http` repeats a POST with a key if its connection dies before an answer.
#[rstest]
#[case::without_an_answer("reset_peer", 0, true)]
#[case::closed("close", 0, true)]
#[case::later("reset_peer", 2, false)]
#[case::answered("answer", 0, false)]
#[tokio::test]
async fn an_immediate_repetition_under_the_same_key_is_a_suspected_resend(
    #[case] effect: &str,
    #[case] seconds_later: u64,
    #[case] suspected: bool,
) {
    let bench = TestBench::start().await;
    bench.simulators.with_world(|world| world.clock.stop());
    let account = Account::demo();
    let effect = if effect == "answer" { json!({ "answer": { "status": 503 } }) } else { json!(effect) };
    bench.arm(json!({ "provider": "namecom", "point": "after_effect", "effect": effect }));
    let refund = |key: &'static str, order: &'static str| {
        bench.request_for(&account, Provider::Namecom, order, "").header("x-idempotency-key", key).send()
    };
    assert!(refund("key-1", "200001").await.map_or(true, |response| response.status() == 503));
    bench.simulators.advance(std::time::Duration::from_secs(seconds_later));
    refund("key-1", "200001").await.unwrap();
    // Another key or another body is another request.
    refund("key-2", "200001").await.unwrap();
    refund("key-2", "200002").await.unwrap();
    let resends: Vec<_> = bench.simulators.journal().iter().map(|entry| entry.suspected_resend_of).collect();
    assert_eq!(resends, [None, suspected.then_some(1), None, None]);
}

#[tokio::test]
async fn a_debitsuccess_refund_is_matched_by_its_own_identifier() {
    let bench = TestBench::start().await;
    bench.arm(json!({ "provider": "debitsuccess", "point": "before_effect", "effect": "reset_peer" }));
    assert!(bench.refund(Provider::Debitsuccess).await.is_err());
    bench.refund(Provider::Debitsuccess).await.unwrap();
    assert_eq!(bench.simulators.journal()[1].suspected_resend_of, Some(1));
    let (_, audit) = bench.control(Method::GET, "/v1/audit", "").await;
    assert_eq!(audit["suspected_resends"], json!([2]));
}

#[tokio::test]
async fn the_journal_keeps_requests_without_their_secrets() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.refund(provider).await.unwrap();
    }
    let body = r#"{"orderItemIds":[3200008],"orderId":200008}"#;
    let url = format!("http://{}/core/v1/refund", bench.simulators.namecom_plaintext_addr());
    let request = bench.client.post(url).basic_auth("demo-test", Some("demo-token")).header("x-idempotency-key", "k");
    request.header("content-type", "application/json").body(body).send().await.unwrap();
    let url =
        format!("https://{}/products/!AutoRefund?z=1&LoginPassword=demo-password&a=2", bench.simulators.sectigo_addr());
    bench.client.post(url).header("cookie", "demo-password").body("\u{0}binary").send().await.unwrap();
    let url = format!("http://{}/core/v1/orders?tld=com&page=2&dir=asc", bench.simulators.namecom_plaintext_addr());
    bench.client.get(url).basic_auth("demo-test", Some("demo-token")).send().await.unwrap();

    let (_, journal) = bench.control(Method::GET, "/v1/journal", "").await;
    assert_eq!(journal["total"], 6);
    let text = journal.to_string();
    for secret in ["demo-password", "demo-token", "ZGVtby10ZXN0OmRlbW8tdG9rZW4="] {
        assert!(!text.contains(secret), "{secret}");
    }
    let entry = |index: usize| &journal["entries"][index];
    assert_eq!(entry(0)["body"], "loginName=demo&loginPassword=***&orderNumber=1000007&refundReasonCode=11");
    assert_eq!(entry(0)["body_bytes"], 82);
    let body_of_debitsuccess = entry(2)["body"].as_str().unwrap();
    assert!(body_of_debitsuccess.contains("<d:Password>***</d:Password><d:Username>demo</d:Username>"));
    assert_eq!(entry(3)["body"], body);
    let header = |index: usize, wanted: &str| {
        let headers = entry(index)["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == wanted).map(|header| header[1].clone())
    };
    assert_eq!(header(3, "authorization"), Some(json!("Basic ***")));
    assert_eq!(header(3, "x-idempotency-key"), Some(json!("k")));
    assert_eq!(header(3, "content-type"), Some(json!("application/json")));
    assert_eq!(header(4, "cookie"), Some(json!("***")));
    assert_eq!(entry(4)["query"], "z=1&LoginPassword=***&a=2");

    // Parameters keep their order, which a JSON map in Rust would lose.
    let raw = bench.client.get(format!("http://{}/v1/journal", bench.simulators.control_addr()));
    let raw = raw.send().await.unwrap().text().await.unwrap();
    for parameters in [
        r#""parameters":{"loginName":"demo","loginPassword":"***","orderNumber":"1000007","refundReasonCode":"11"}"#,
        r#""parameters":{"User":{"Password":"***","Username":"demo"},"AccountReferenceNo":"DS000007","Amount":"12.34","#,
        r#""parameters":{"orderItemIds":[3200008],"orderId":200008}"#,
        r#""parameters":{"tld":"com","page":"2","dir":"asc"}"#,
    ] {
        assert!(raw.contains(parameters), "{parameters}\n{raw}");
    }
    // A copy of the world has the same entries.
    let fork = bench.simulators.demo().fork(None).unwrap();
    assert_eq!(serde_json::to_value(fork.journal()).unwrap(), journal["entries"]);
}

#[tokio::test]
async fn the_journal_counts_all_requests_and_cuts_long_bodies() {
    let bench = TestBench::start().await;
    let url = format!("http://{}/core/v1/refund", bench.simulators.namecom_plaintext_addr());
    for size in [20_000, 10] {
        let request = bench.client.post(&url).basic_auth("demo-test", Some("demo-token"));
        request.body("\u{e9}".repeat(size / 2)).send().await.unwrap();
    }
    let request = bench.client.post(&url).body(&b"\xFF\x00"[..]);
    request.send().await.unwrap();
    let journal = bench.simulators.journal();
    assert_eq!((journal[0].body_bytes, journal[0].body.as_ref().unwrap().len()), (20_000, 8 * 1024));
    assert_eq!((journal[1].body_bytes, journal[1].body.as_deref()), (10, Some("\u{e9}".repeat(5).as_str())));
    assert_eq!((&journal[2].body, journal[2].body_base64.as_deref()), (&None, Some("/wA=")));
    let (_, asked) = bench.control(Method::GET, "/v1/journal?limit=1&target=none", "").await;
    assert_eq!((&asked["entries"], &asked["total"]), (&json!([]), &json!(3)));
    bench.control(Method::POST, "/v1/reset", "").await;
    assert_eq!(bench.control(Method::GET, "/v1/journal", "").await.1["total"], 0);
}
