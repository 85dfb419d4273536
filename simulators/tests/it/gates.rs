//! Gates, the random mode, and rules that never fired: what lets a test decide the order of things,
//! and repeat it.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use simulators::{Ending, Gate, Point, Provider};

use crate::{
    raw::{self, Raw},
    support::{Bench, PROVIDERS, word},
};

#[tokio::test]
async fn requests_wait_at_a_gate_and_go_on_in_the_order_of_choice() {
    let bench = Bench::start().await;
    for point in [Point::BeforeEffect, Point::AfterEffect, Point::DuringAnswer { after_bytes: 0 }] {
        bench.simulators.with_world(simulators::World::reset);
        let gate = bench.simulators.gate(Gate::new(Provider::Namecom, point)).unwrap();
        let mut asked = Vec::new();
        for number in 1..=3 {
            let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
            asked.push(tokio::spawn(async move {
                raw.send(&raw::refund(Provider::Namecom, number)).await;
                loop {
                    let heard = raw.hear().await;
                    if !heard.body.is_empty() {
                        return heard.text();
                    }
                }
            }));
            gate.wait_for(number as usize).await.unwrap();
        }
        let waiting = gate.waiting();
        assert_eq!(waiting.iter().map(|waiting| waiting.request).collect::<Vec<_>>(), [1, 2, 3]);
        let happened = if point == Point::BeforeEffect { 0 } else { 3 };
        assert_eq!(bench.simulators.books().len(), happened);
        assert!(bench.simulators.journal().iter().all(|entry| entry.ending == Ending::Open));

        assert!(gate.release(3) && !gate.release(3));
        assert!(asked.pop().unwrap().await.unwrap().contains("refunded"));
        assert!(gate.release(1));
        assert!(asked.remove(0).await.unwrap().contains("refunded"));
        assert_eq!(gate.waiting().len(), 1);
        drop(gate);
        assert!(asked.pop().unwrap().await.unwrap().contains("refunded"));
        if point == Point::BeforeEffect {
            let order: Vec<_> = bench.simulators.books().into_iter().map(|entry| entry.effect.target).collect();
            assert_eq!(order, ["3200003", "3200001", "3200002"]);
        }
    }
}

#[tokio::test]
async fn a_wait_at_a_gate_has_an_end() {
    let bench = Bench::start().await;
    let gate = Gate { max_wait_seconds: 1, ..Gate::new(Provider::Sectigo, Point::BeforeEffect) };
    let gate = bench.simulators.gate(gate).unwrap();
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "0");
    let standing = bench.simulators.with_world(|world| world.gates.get(gate.id())).unwrap();
    assert_eq!((standing.timed_out, standing.released, standing.waiting.len()), (1, 0, 0));
    assert_eq!(gate.wait_for(1).await.unwrap_err().waiting, []);
}

#[tokio::test]
async fn a_gate_over_the_control_port() {
    let bench = Bench::start().await;
    let put = r#"{"provider":"sectigo","operation":"!AutoRefund","point":"after_effect"}"#;
    let (status, gate) = bench.control(Method::POST, "/v1/gates", put).await;
    assert_eq!((status.as_u16(), &gate["id"]), (201, &json!(1)));
    let refund = async { bench.refund(Provider::Sectigo).await.unwrap().1 };
    let release = async {
        loop {
            let (_, gates) = bench.control(Method::GET, "/v1/gates", "").await;
            if gates["entries"][0]["waiting"][0]["request"] == 1 {
                break;
            }
        }
        assert_eq!(bench.control(Method::POST, "/v1/gates/1/release", r#"{"request":7}"#).await.0, 409);
        let (_, released) = bench.control(Method::POST, "/v1/gates/1/release", r#"{"request":1}"#).await;
        assert_eq!(released, json!({ "released": [1] }));
    };
    let (answer, ()) = tokio::join!(refund, release);
    assert_eq!(answer, "0");
    assert_eq!(bench.control(Method::DELETE, "/v1/gates/1", "").await.1["released"], 1);
    assert_eq!(bench.control(Method::GET, "/v1/gates/1", "").await.0, 404);
}

/// What happened to each target on each attempt, told by its journal.
async fn drawn(order: impl Iterator<Item = u32>, at_once: bool) -> BTreeMap<(String, u64), Vec<Ending>> {
    let bench = Bench::start().await;
    let random = json!({ "seed": 20, "share": 0.5, "effects": [
        { "point": "before_effect", "effect": "reset" },
        { "point": "after_effect", "effect": "close" },
        { "point": { "during_answer": { "after_bytes": 3 } }, "effect": "reset" },
    ] });
    let (status, set) = bench.control(Method::PUT, "/v1/faults/random", &random.to_string()).await;
    assert_eq!((status.as_u16(), set), (200, random));
    let mut asked = tokio::task::JoinSet::new();
    for number in order {
        let mut requests = Vec::new();
        for provider in PROVIDERS {
            requests.push((provider, Raw::connect(&bench.simulators, provider).await.unwrap()));
            requests.push((provider, Raw::connect(&bench.simulators, provider).await.unwrap()));
        }
        asked.spawn(async move {
            for (provider, mut raw) in requests {
                raw.ask(&raw::refund(provider, number)).await;
            }
        });
        if !at_once {
            asked.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
    let mut happened: BTreeMap<(String, u64), Vec<Ending>> = BTreeMap::new();
    for entry in bench.simulators.journal() {
        happened.entry((entry.target.unwrap(), entry.attempt)).or_default().push(entry.ending);
    }
    happened
}

#[tokio::test]
async fn one_seed_is_one_run_however_the_clients_interleave() {
    let one_by_one = drawn(1..=12, false).await;
    let all_at_once = drawn((1..=12).rev(), true).await;
    assert_eq!(one_by_one, all_at_once);
    assert_eq!(one_by_one.len(), 72);
    let hit = one_by_one.values().flatten().filter(|ending| **ending != Ending::KeptAlive).count();
    assert!((20..52).contains(&hit), "{hit}");
}

#[tokio::test]
async fn a_rule_that_never_fired_is_told_and_in_strict_mode_an_error() {
    let bench = Bench::start().await;
    for (provider, strict) in PROVIDERS.into_iter().zip([false, false, true]) {
        bench.arm(json!({ "provider": word(provider), "point": "after_effect", "effect": "close", "strict": strict }));
    }
    let unfired = async |query: &str| bench.control(Method::GET, &format!("/v1/faults/unfired{query}"), "").await;
    let (status, refusal) = unfired("").await;
    assert_eq!((status.as_u16(), refusal), (409, json!({ "error": "fault 3 never fired" })));
    bench.refund(Provider::Debitsuccess).await.unwrap_err();
    let (status, told) = unfired("").await;
    let ids: Vec<&Value> = told["entries"].as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!((status.as_u16(), ids), (200, vec![&json!(1), &json!(2)]));
    assert_eq!(unfired("?strict=true").await.1, json!({ "error": "faults 1, 2 never fired" }));
    bench.refund(Provider::Sectigo).await.unwrap_err();
    bench.refund(Provider::Namecom).await.unwrap_err();
    assert_eq!(unfired("?strict=true").await, (reqwest::StatusCode::OK, json!({ "entries": [] })));
}

#[tokio::test]
async fn a_second_request_under_a_key_in_flight_waits_or_is_refused() {
    for (setting, told) in [("hold", "refunded"), ("refuse", "Conflict")] {
        let bench = Bench::start().await;
        let settings = json!({ "namecom": { "key_in_flight": setting } }).to_string();
        assert_eq!(bench.control(Method::PATCH, "/v1/settings", &settings).await.0, 200);
        let gate = Gate { attempt: Some(1), ..Gate::new(Provider::Namecom, Point::BeforeEffect) };
        let gate = bench.simulators.gate(gate).unwrap();
        let mut first = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
        first.send(&raw::refund(Provider::Namecom, 1)).await;
        gate.wait_for(1).await.unwrap();
        let mut second = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
        second.send(&raw::refund(Provider::Namecom, 1)).await;
        bench.journal_once(|journal| journal.len() == 2).await;
        if setting == "hold" {
            // It says nothing until the first one has its answer.
            assert_eq!(second.hear().await.end, raw::End::Silent);
            assert!(gate.release(1));
        }
        let heard = second.hear().await;
        assert!(heard.text().contains(told), "{setting}: {heard:?}");
        assert_eq!(heard.head.contains("x-idempotent-replay: 1"), setting == "hold");
        drop(gate);
        assert!(first.hear().await.text().contains("refunded"));
        assert_eq!(bench.simulators.books().len(), 1);
    }
}

#[tokio::test]
async fn a_rule_about_connections_needs_a_world_that_has_some() {
    let bench = Bench::start().await;
    let (_, made) = bench.control(Method::POST, "/v1/worlds", "{}").await;
    let rule = r#"{"provider":"sectigo","point":"connect","effect":"refuse","repeat":"standing"}"#;
    let path = format!("/v1/worlds/{}/faults", made["id"].as_str().unwrap());
    let (status, refused) = bench.control(Method::POST, &path, rule).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("this world has no ports of its own"), "{refused}");
    let (status, armed) = bench.control(Method::POST, "/v1/faults", rule).await;
    assert_eq!((status.as_u16(), &armed["fired"], &armed["met"]), (201, &json!(1), &json!(0)));
    for counted in [r#""repeat":"once""#, r#""repeat":{"times":2}"#, r#""repeat":"standing","connection":2"#] {
        let rule = rule.replace(r#""repeat":"standing""#, counted);
        let (status, refused) = bench.control(Method::POST, "/v1/faults", &rule).await;
        assert_eq!(status, 400);
        assert!(refused["error"].as_str().unwrap().contains("`reset` at `connect` can be"), "{refused}");
    }
}
