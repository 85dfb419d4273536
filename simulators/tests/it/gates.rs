//! Gates, the random mode, and rules that never fired.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use simulators::{Ending, Gate, Point, Provider};

use crate::{
    raw::{self, Raw},
    support::{PROVIDERS, TestBench, word},
};

#[tokio::test]
async fn requests_wait_at_a_gate_and_are_released_in_any_order() {
    let bench = TestBench::start().await;
    for point in [Point::BeforeEffect, Point::AfterEffect, Point::DuringAnswer { after_bytes: 0 }] {
        bench.simulators.with_world(simulators::World::reset);
        let gate = bench.simulators.gate(Gate::new(Provider::Namecom, point)).unwrap();
        let mut clients = Vec::new();
        for number in 1..=3 {
            let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
            clients.push(tokio::spawn(async move {
                raw.send(&raw::refund(Provider::Namecom, number)).await;
                loop {
                    let answer = raw.read_answer().await;
                    if !answer.body.is_empty() {
                        return answer.text();
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
        assert!(clients.pop().unwrap().await.unwrap().contains("refunded"));
        assert!(gate.release(1));
        assert!(clients.remove(0).await.unwrap().contains("refunded"));
        assert_eq!(gate.waiting().len(), 1);
        drop(gate);
        assert!(clients.pop().unwrap().await.unwrap().contains("refunded"));
        if point == Point::BeforeEffect {
            let order: Vec<_> = bench.simulators.books().into_iter().map(|entry| entry.effect.target).collect();
            assert_eq!(order, ["3200003", "3200001", "3200002"]);
        }
    }
}

#[tokio::test]
async fn a_request_continues_after_the_maximum_wait() {
    let bench = TestBench::start().await;
    let gate = Gate { max_wait_seconds: 1, ..Gate::new(Provider::Sectigo, Point::BeforeEffect) };
    let gate = bench.simulators.gate(gate).unwrap();
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "0");
    let status = bench.simulators.with_world(|world| world.gates.get(gate.id())).unwrap();
    assert_eq!((status.timed_out, status.released, status.waiting.len()), (1, 0, 0));
    assert_eq!(gate.wait_for(1).await.unwrap_err().waiting, []);
}

#[tokio::test]
async fn a_gate_is_used_over_the_control_port() {
    let bench = TestBench::start().await;
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

/// The endings of each attempt on each target, from the journal.
async fn run_random(order: impl Iterator<Item = u32>, in_parallel: bool) -> BTreeMap<(String, u64), Vec<Ending>> {
    let bench = TestBench::start().await;
    let random = json!({ "seed": 20, "share": 0.5, "effects": [
        { "point": "before_effect", "effect": "reset_peer" },
        { "point": "after_effect", "effect": "close" },
        { "point": { "during_answer": { "after_bytes": 3 } }, "effect": "reset_peer" },
    ] });
    let (status, set) = bench.control(Method::PUT, "/v1/faults/random", &random.to_string()).await;
    assert_eq!((status.as_u16(), set), (200, random));
    let mut clients = tokio::task::JoinSet::new();
    for number in order {
        let mut requests = Vec::new();
        for provider in PROVIDERS {
            requests.push((provider, Raw::connect(&bench.simulators, provider).await.unwrap()));
            requests.push((provider, Raw::connect(&bench.simulators, provider).await.unwrap()));
        }
        clients.spawn(async move {
            for (provider, mut raw) in requests {
                raw.call(&raw::refund(provider, number)).await;
            }
        });
        if !in_parallel {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let mut happened: BTreeMap<(String, u64), Vec<Ending>> = BTreeMap::new();
    for entry in bench.simulators.journal() {
        happened.entry((entry.target.unwrap(), entry.attempt)).or_default().push(entry.ending);
    }
    happened
}

#[tokio::test]
async fn one_seed_gives_the_same_faults_however_the_clients_interleave() {
    let one_by_one = run_random(1..=12, false).await;
    let in_parallel = run_random((1..=12).rev(), true).await;
    assert_eq!(one_by_one, in_parallel);
    assert_eq!(one_by_one.len(), 72);
    let hit = one_by_one.values().flatten().filter(|ending| **ending != Ending::KeptAlive).count();
    assert!((20..52).contains(&hit), "{hit}");
}

#[tokio::test]
async fn a_rule_that_never_fired_is_listed_and_in_strict_mode_an_error() {
    let bench = TestBench::start().await;
    for (provider, strict) in PROVIDERS.into_iter().zip([false, false, true]) {
        bench.arm(json!({ "provider": word(provider), "point": "after_effect", "effect": "close", "strict": strict }));
    }
    let unfired = async |query: &str| bench.control(Method::GET, &format!("/v1/faults/unfired{query}"), "").await;
    let (status, refusal) = unfired("").await;
    assert_eq!((status.as_u16(), refusal), (409, json!({ "error": "fault 3 never fired" })));
    bench.refund(Provider::Debitsuccess).await.unwrap_err();
    let (status, listed) = unfired("").await;
    let ids: Vec<&Value> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!((status.as_u16(), ids), (200, vec![&json!(1), &json!(2)]));
    assert_eq!(unfired("?strict=true").await.1, json!({ "error": "faults 1, 2 never fired" }));
    bench.refund(Provider::Sectigo).await.unwrap_err();
    bench.refund(Provider::Namecom).await.unwrap_err();
    assert_eq!(unfired("?strict=true").await, (reqwest::StatusCode::OK, json!({ "entries": [] })));
}

#[tokio::test]
async fn a_second_request_under_a_key_waits_or_is_refused_while_the_first_is_at_a_gate() {
    for (setting, expected) in [("hold", "refunded"), ("refuse", "Conflict")] {
        let bench = TestBench::start().await;
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
            // It is not answered before the first one.
            assert_eq!(second.read_until(raw::End::Silent).await.end, raw::End::Silent);
            assert!(gate.release(1));
        }
        let answer = second.read_answer().await;
        assert!(answer.text().contains(expected), "{setting}: {answer:?}");
        assert_eq!(answer.head.contains("x-idempotent-replay: 1"), setting == "hold");
        drop(gate);
        assert!(first.read_answer().await.text().contains("refunded"));
        assert_eq!(bench.simulators.books().len(), 1);
    }
}

#[tokio::test]
async fn a_rule_about_connections_needs_a_world_with_own_ports() {
    let bench = TestBench::start().await;
    let (_, made) = bench.control(Method::POST, "/v1/worlds", "{}").await;
    let rule = r#"{"provider":"sectigo","point":"connect","effect":"refuse","repeat":"standing"}"#;
    let path = format!("/v1/worlds/{}/faults", made["id"].as_str().unwrap());
    let (status, refused) = bench.control(Method::POST, &path, rule).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("this world has no ports of its own"), "{refused}");
    let (status, armed) = bench.control(Method::POST, "/v1/faults", rule).await;
    assert_eq!((status.as_u16(), &armed["fired"], &armed["matched"]), (201, &json!(1), &json!(0)));
    for counted in [r#""repeat":"once""#, r#""repeat":{"times":2}"#, r#""repeat":"standing","connection":2"#] {
        let rule = rule.replace(r#""repeat":"standing""#, counted);
        let (status, refused) = bench.control(Method::POST, "/v1/faults", &rule).await;
        assert_eq!(status, 400);
        assert!(refused["error"].as_str().unwrap().contains("`reset_peer` at `connect` can be"), "{refused}");
    }
}
