//! Worlds in parallel, each with its own credentials, orders, books, clock and settings; snapshots,
//! copies and deletion.

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{Config, NewWorld, Provider, Seed, WorldHandle};

use crate::{
    raw::{self, Raw},
    support::{Account, PROVIDERS, TestBench, demo_target},
};

async fn create_world(bench: &TestBench, body: Value) -> Value {
    let (status, world) = bench.control(Method::POST, "/v1/worlds", &body.to_string()).await;
    assert_eq!(status, 201, "{world}");
    world
}

fn effects(world: &WorldHandle) -> Vec<(Provider, String)> {
    world.books().into_iter().map(|entry| (entry.provider, entry.effect.target)).collect()
}

#[tokio::test]
async fn a_hundred_worlds_run_in_parallel_without_affecting_each_other() {
    let bench = TestBench::start().await;
    let worlds: Vec<WorldHandle> =
        (0..100).map(|_| bench.simulators.create_world(NewWorld::default()).unwrap()).collect();
    let refunds = worlds.iter().map(|world| async {
        let account = Account::of(&world.credentials());
        for provider in PROVIDERS {
            let (status, answer) = bench.refund_as(&account, provider, 7).await;
            assert_eq!(status, 200, "{answer}");
        }
    });
    for refund in refunds.map(Box::pin) {
        refund.await;
    }
    for world in &worlds {
        assert_eq!(effects(world).len(), 3);
        assert!(world.journal().iter().all(|entry| entry.effects.len() == 1));
        assert_eq!(world.books().first().unwrap().id, 1);
    }
    assert!(bench.simulators.books().is_empty() && bench.simulators.journal().is_empty());
    assert_eq!(bench.simulators.worlds().len(), 101);
}

#[tokio::test]
async fn a_world_is_created_used_and_deleted_over_the_control_port() {
    let bench = TestBench::start().await;
    let world =
        create_world(&bench, json!({ "name": "mine", "settings": { "sectigo": { "refund_period_days": 1 } } })).await;
    let id = world["id"].as_str().unwrap().to_owned();
    let account = Account::of(&serde_json::from_value(world["credentials"].clone()).unwrap());
    let clock = format!("/v1/worlds/{id}/clock/advance");
    assert_eq!(bench.control(Method::POST, &clock, r#"{"seconds":172800}"#).await.0, 200);
    let (_, answer) = bench.refund_as(&account, Provider::Sectigo, 7).await;
    assert_eq!(answer, "-18\nThe refund period for this order is over");
    // The demo world has its own clock and settings.
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "0");
    let (_, books) = bench.control(Method::GET, &format!("/v1/worlds/{id}/books"), "").await;
    assert_eq!(books["entries"], json!([]));
    let (_, journal) = bench.control(Method::GET, &format!("/v1/worlds/{id}/journal"), "").await;
    assert_eq!(journal["entries"].as_array().unwrap().len(), 1);

    assert_eq!(bench.control(Method::DELETE, &format!("/v1/worlds/{id}"), "").await.0, 200);
    assert_eq!(bench.control(Method::GET, &format!("/v1/worlds/{id}/books"), "").await.0, 404);
    assert_eq!(bench.control(Method::DELETE, "/v1/worlds/demo", "").await.0, 409);
    // The provider refuses the credentials of a deleted world; the demo world's journal shows
    // it.
    assert_eq!(bench.refund_as(&account, Provider::Sectigo, 7).await.1, "-16\nPermission denied!");
    assert_eq!(bench.refund_as(&account, Provider::Namecom, 7).await.0, 401);
    assert!(bench.refund_as(&account, Provider::Debitsuccess, 7).await.1.contains("Invalid user credentials"));
    assert_eq!(bench.simulators.journal().len(), 4);
}

#[tokio::test]
async fn an_empty_world_has_only_what_is_put_there_and_rejects_usernames_of_other_worlds() {
    let bench = TestBench::start().await;
    let world = create_world(&bench, json!({ "seed": "empty" })).await;
    let id = world["id"].as_str().unwrap();
    let account = Account::of(&serde_json::from_value(world["credentials"].clone()).unwrap());
    let order = format!("/v1/worlds/{id}/sectigo/orders/1000007");
    assert_eq!(bench.control(Method::GET, &order, "").await.0, 404);
    let (_, put) = bench.control(Method::PUT, &order, r#"{"price_minor":5}"#).await;
    assert_eq!(put["account"], world["credentials"]["sectigo"]["login_name"]);
    assert_eq!(bench.refund_as(&account, Provider::Sectigo, 7).await.1, "0");

    let login = |name: &str| format!("/v1/worlds/{id}/sectigo/accounts/{name}");
    let (status, taken) = bench.control(Method::PUT, &login("demo"), r#"{"password":"x"}"#).await;
    assert_eq!((status.as_u16(), taken["error"].as_str().unwrap().contains("belongs to world demo")), (409, true));
    assert_eq!(bench.control(Method::PUT, &login("new"), r#"{"password":"x"}"#).await.0, 200);
    assert_eq!(bench.control(Method::PUT, "/v1/sectigo/accounts/new", r#"{"password":"x"}"#).await.0, 409);
}

#[tokio::test]
async fn a_snapshot_restores_everything_that_was_done() {
    let bench = TestBench::start().await;
    let world = bench.simulators.create_world(NewWorld::default()).unwrap();
    let account = Account::of(&world.credentials());
    for provider in PROVIDERS {
        bench.refund_as(&account, provider, 7).await;
    }
    world.with_world(|world| world.clock.stop());
    let path = format!("/v1/worlds/{}/snapshot", world.id());
    let (_, snapshot) = bench.control(Method::GET, &path, "").await;
    for provider in PROVIDERS {
        bench.refund_as(&account, provider, 8).await;
    }
    assert_eq!(world.books().len(), 6);

    // Into the same world: later refunds are undone.
    assert_eq!(bench.control(Method::PUT, &path, &snapshot.to_string()).await.0, 200);
    assert_eq!(world.books().len(), 3);
    assert_eq!(bench.refund_as(&account, Provider::Sectigo, 8).await.1, "0");
    assert!(bench.refund_as(&account, Provider::Sectigo, 7).await.1.contains("already been refunded"));
    // Into a new world: other credentials, the same history.
    let copy = create_world(&bench, json!({ "snapshot": snapshot })).await;
    let (_, books) =
        bench.control(Method::GET, &format!("/v1/worlds/{}/books", copy["id"].as_str().unwrap()), "").await;
    assert_eq!(books["entries"].as_array().unwrap().len(), 3);
    let account = Account::of(&serde_json::from_value(copy["credentials"].clone()).unwrap());
    assert!(bench.refund_as(&account, Provider::Namecom, 7).await.1.contains("already been refunded"));
    assert_eq!(bench.refund_as(&account, Provider::Namecom, 8).await.0, 200);
    let (_, clock) =
        bench.control(Method::GET, &format!("/v1/worlds/{}/clock", copy["id"].as_str().unwrap()), "").await;
    assert_eq!((&clock["running"], &clock["now"]), (&json!(false), &snapshot["clock"]["now"]));
}

#[tokio::test]
async fn a_fork_is_independent_of_its_origin() {
    let bench = TestBench::start().await;
    bench.refund(Provider::Debitsuccess).await.unwrap();
    let fork = bench.simulators.demo().fork(Some("copy".to_owned())).unwrap();
    let account = Account::of(&fork.credentials());
    assert_eq!(effects(&fork).len(), 1);
    assert_eq!(bench.refund_as(&account, Provider::Sectigo, 9).await.1, "0");
    assert_eq!((effects(&fork).len(), bench.simulators.books().len()), (2, 1));
    // A reset of a copy to its start restores the state that was copied.
    fork.with_world(simulators::World::reset_to_start);
    assert_eq!(effects(&fork).len(), 1);
    assert_eq!(bench.refund_as(&account, Provider::Sectigo, 9).await.1, "0");
    let again = bench.simulators.create_world(NewWorld { seed: Some(Seed::Empty), ..NewWorld::default() }).unwrap();
    again.restore(fork.snapshot()).unwrap();
    assert_eq!(effects(&again).len(), 2);
}

#[tokio::test]
async fn late_commits_are_in_a_snapshot_and_happen_in_each_copy_at_their_time() {
    let bench = TestBench::start().await;
    let world = bench.simulators.create_world(NewWorld::default()).unwrap();
    let account = Account::of(&world.credentials());
    for provider in PROVIDERS {
        let rule =
            json!({ "provider": provider, "point": "before_effect", "effect": { "commit_late": { "seconds": 3600 } } });
        world.arm(serde_json::from_value(rule).unwrap()).unwrap();
        bench.refund_as(&account, provider, 7).await;
    }
    assert!(world.books().is_empty());
    let snapshot = serde_json::to_value(world.snapshot()).unwrap();
    let copy = create_world(&bench, json!({ "snapshot": snapshot })).await;
    let copy = bench.simulators.world(copy["id"].as_str().unwrap()).unwrap();
    copy.advance(std::time::Duration::from_secs(7200));
    // The pending request has the credentials of the old world; the copy carries it out anyway.
    assert_eq!((effects(&copy).len(), effects(&world).len()), (3, 0));
    let entry = copy.books().remove(0);
    assert_eq!((entry.time - copy.journal().remove(0).time).whole_seconds(), 3600);
    assert_eq!(entry.attempt.unwrap().number, 1);
}

#[tokio::test]
async fn a_snapshot_contains_gates_and_stale_reads_and_counts_parked_requests() {
    let bench = TestBench::start().await;
    let world = bench.simulators.create_world(NewWorld::default()).unwrap();
    let account = Account::of(&world.credentials());
    let operations = ["!getPostPaymentStatus", "GetOrder", "GetRefundStatus"];
    for (provider, operation) in PROVIDERS.into_iter().zip(operations) {
        let on_refund = json!({ "provider": provider, "target": demo_target(provider, 7), "point": "after_effect", "effect": { "stale": { "seconds": 3600 } } });
        let on_lookup = json!({ "provider": provider, "operation": operation, "target": demo_target(provider, 8), "point": "after_effect", "effect": { "stale": { "seconds": 3600 } }, "repeat": "standing" });
        for rule in [on_refund, on_lookup] {
            world.arm(serde_json::from_value(rule).unwrap()).unwrap();
        }
        for number in [7, 8] {
            bench.refund_as(&account, provider, number).await;
        }
    }
    let gate = json!({ "provider": "sectigo", "target": "1000009", "point": "before_effect" });
    let gates = format!("/v1/worlds/{}/gates", world.id());
    assert_eq!(bench.control(Method::POST, &gates, &gate.to_string()).await.0, 201);
    let parked = bench.refund_as(&account, Provider::Sectigo, 9);
    let copied = async {
        bench
            .journal_of_world_once(&world, |journal| {
                journal.iter().any(|entry| entry.target.as_deref() == Some("1000009"))
            })
            .await;
        let snapshot = serde_json::to_value(world.snapshot()).unwrap();
        assert_eq!(snapshot["omitted"], json!({ "waiting_requests": 1, "open_requests": 1 }));
        assert_eq!(bench.control(Method::POST, &format!("{gates}/1/release"), "").await.0, 200);
        snapshot
    };
    let ((_, answer), snapshot) = tokio::join!(parked, copied);
    assert_eq!(answer, "0");

    let copy = create_world(&bench, json!({ "snapshot": snapshot })).await;
    let copy = bench.simulators.world(copy["id"].as_str().unwrap()).unwrap();
    let account = Account::of(&copy.credentials());
    let (_, gates) = bench.control(Method::GET, &format!("/v1/worlds/{}/gates", copy.id()), "").await;
    assert_eq!(
        (&gates["entries"][0]["gate"]["target"], &gates["entries"][0]["waiting"]),
        (&json!("1000009"), &json!([]))
    );
    for (hours, shown) in [(0, false), (2, true)] {
        copy.advance(std::time::Duration::from_secs(hours * 3600));
        for provider in PROVIDERS {
            for number in [7, 8] {
                let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
                // The raw client uses its own identifiers; these refunds have others.
                let lookup = raw::lookup_by(&account, provider, number);
                let lookup = lookup.replace(&format!("raw-{number}<"), &format!("id-{number}<"));
                let length = lookup.split_once("\r\n\r\n").unwrap().1.len();
                let lookup =
                    lookup.replace(&format!("content-length: {}", length + 1), &format!("content-length: {length}"));
                let answer = raw.call(&lookup).await.text();
                assert_eq!(raw::shows_refund(provider, &answer), shown, "{provider:?} {number}: {answer}");
            }
        }
    }
}

#[rstest]
#[case::another_version_first_of_all(|snapshot: &mut Value| *snapshot = json!({ "colour": "red", "version": 2 }), "the snapshot is of version 2, and this is version 1")]
#[case::no_version(|snapshot: &mut Value| *snapshot = json!({}), "it is no snapshot: missing field `version`")]
#[case::an_unknown_field(|snapshot: &mut Value| snapshot["colour"] = json!("red"), "it is no snapshot: unknown field `colour`")]
#[case::a_rule_that_makes_no_sense(|snapshot: &mut Value| snapshot["faults"]["armed"][0]["rule"]["attempt"] = json!(0), "the snapshot's fault 1 could not be armed: `attempt` is counted from 1")]
#[case::a_rule_without_its_point(|snapshot: &mut Value| snapshot["faults"]["armed"][0]["rule"]["effect"] = json!("refuse"), "fault 1 could not be armed: `")]
#[case::a_rule_about_connections(|snapshot: &mut Value| snapshot["faults"]["armed"][0]["rule"]["point"] = json!("connect"), "fault 1 could not be armed: `point`: a rule at `connect` is about connections")]
#[case::a_rule_that_fires_too_often(|snapshot: &mut Value| snapshot["faults"]["armed"][0]["remaining"] = json!(2), "fault 1 could not be armed: `remaining` does not fit")]
#[case::two_rules_of_one_number(|snapshot: &mut Value| { let rule = snapshot["faults"]["armed"][0].clone(); snapshot["faults"]["armed"].as_array_mut().unwrap().push(rule); }, "fault 1 could not be armed: `id` is not above")]
#[case::a_random_mode(|snapshot: &mut Value| snapshot["faults"]["random"]["share"] = json!(2), "fault 0 could not be armed: `share` is a number")]
#[case::a_gate(|snapshot: &mut Value| snapshot["gates"]["standing"][0]["gate"]["max_wait_seconds"] = json!(0), "gate 1 could not be added: `max_wait_seconds` is 1 to 600")]
#[tokio::test]
async fn an_invalid_snapshot_is_refused(#[case] change: fn(&mut Value), #[case] sentence: &str) {
    let bench = TestBench::start().await;
    bench.arm(json!({ "provider": "sectigo", "point": "before_effect", "effect": "close" }));
    let random = r#"{"seed":1,"share":0.5}"#;
    assert_eq!(bench.control(Method::PUT, "/v1/faults/random", random).await.0, 200);
    let gate = r#"{"provider":"sectigo","point":"before_effect"}"#;
    assert_eq!(bench.control(Method::POST, "/v1/gates", gate).await.0, 201);
    let mut snapshot = bench.control(Method::GET, "/v1/snapshot", "").await.1;
    change(&mut snapshot);
    let world = bench.simulators.create_world(NewWorld::default()).unwrap();
    let before = world.info();
    for (method, path, body) in [
        (Method::POST, "/v1/worlds".to_owned(), json!({ "snapshot": snapshot })),
        (Method::PUT, format!("/v1/worlds/{}/snapshot", world.id()), snapshot),
    ] {
        let (status, refused) = bench.control(method, &path, &body.to_string()).await;
        assert_eq!(status, 400, "{path}");
        assert!(refused["error"].as_str().unwrap().contains(sentence), "{refused}");
    }
    assert_eq!((world.info(), world.with_world(|world| world.faults.list().len())), (before, 0));
}

#[tokio::test]
async fn a_new_world_takes_missing_settings_from_the_start_or_the_snapshot() {
    let mut config = Config::free_ports();
    config.settings.sectigo.refund_period_days = 7;
    config.settings.namecom.agp_days = 2;
    let bench = TestBench::start_as(config).await;
    // This later change does not apply.
    bench.control(Method::PATCH, "/v1/settings", r#"{"namecom":{"agp_days":9}}"#).await;
    let named = json!({ "settings": { "sectigo": { "crlf": true }, "namecom": { "key_life_seconds": 60 } } });
    let id = create_world(&bench, named).await["id"].as_str().unwrap().to_owned();
    let (_, settings) = bench.control(Method::GET, &format!("/v1/worlds/{id}/settings"), "").await;
    assert_eq!((&settings["sectigo"]["crlf"], &settings["sectigo"]["refund_period_days"]), (&json!(true), &json!(7)));
    assert_eq!((&settings["namecom"]["key_life_seconds"], &settings["namecom"]["agp_days"]), (&json!(60), &json!(2)));
    // With a snapshot, missing settings are those of the snapshot.
    let (_, snapshot) = bench.control(Method::GET, &format!("/v1/worlds/{id}/snapshot"), "").await;
    let named = json!({ "snapshot": snapshot, "settings": { "sectigo": { "refund_period_days": 3 } } });
    let id = create_world(&bench, named).await["id"].as_str().unwrap().to_owned();
    let (_, settings) = bench.control(Method::GET, &format!("/v1/worlds/{id}/settings"), "").await;
    assert_eq!((&settings["sectigo"]["crlf"], &settings["sectigo"]["refund_period_days"]), (&json!(true), &json!(3)));
    assert_eq!(settings["namecom"]["key_life_seconds"], 60);
}

/// A world that is empty by its seed, by a snapshot put into it, or by the snapshot it was created
/// from.
#[rstest]
#[case::by_its_seed(json!({ "seed": "empty" }), false)]
#[case::by_a_snapshot_that_was_put(json!({}), true)]
#[case::by_the_snapshot_that_made_it(json!({ "snapshot": EMPTY.parse::<Value>().unwrap() }), false)]
#[tokio::test]
async fn a_reset_always_restores_the_demo_data(#[case] from: Value, #[case] is_put: bool) {
    let mut config = Config::free_ports();
    config.settings.namecom.agp_days = 4;
    let bench = TestBench::start_as(config).await;
    let world = create_world(&bench, from).await;
    let here = format!("/v1/worlds/{}", world["id"].as_str().unwrap());
    if is_put {
        assert_eq!(bench.control(Method::PUT, &format!("{here}/snapshot"), EMPTY).await.0, 200);
    }
    let (_, orders) = bench.control(Method::GET, &format!("{here}/namecom/orders"), "").await;
    assert_eq!(orders["total"], 0);
    assert_eq!(bench.control(Method::POST, &format!("{here}/reset"), "").await.0, 200);
    let (_, card) = bench.control(Method::GET, &here, "").await;
    let account = Account::of(&serde_json::from_value(card["credentials"].clone()).unwrap());
    for provider in PROVIDERS {
        let (status, answer) = bench.refund_as(&account, provider, 1).await;
        assert!(status == 200 && !answer.starts_with('-') && !answer.contains(">Failed<"), "{answer}");
    }
    if is_put {
        let (_, settings) = bench.control(Method::GET, &format!("{here}/settings"), "").await;
        assert_eq!(settings["namecom"]["agp_days"], 4);
    }
    // A reset to the start still works.
    let to_start = |here: String| async move {
        bench.control(Method::POST, &format!("{here}/reset"), r#"{"to":"start"}"#).await.0
    };
    assert_eq!(to_start(here).await, 200);
}

#[tokio::test]
async fn a_reset_restores_the_demo_world_after_an_empty_snapshot() {
    let bench = TestBench::start().await;
    assert_eq!(bench.control(Method::PUT, "/v1/snapshot", EMPTY).await.0, 200);
    assert_ne!(bench.refund(Provider::Namecom).await.unwrap().0, 200);
    assert_eq!(bench.control(Method::POST, "/v1/reset", "").await.0, 200);
    for provider in PROVIDERS {
        let (status, answer) = bench.refund(provider).await.unwrap();
        assert!(status == 200 && !answer.starts_with('-') && !answer.contains(">Failed<"), "{answer}");
    }
}

/// A snapshot without any data.
const EMPTY: &str = r#"{"version":1,"seed":"empty","clock":{"now":"2026-03-02T10:00:00Z","running":true},"settings":{},"first_settings":{},"providers":{"sectigo":{},"namecom":{},"debitsuccess":{}},"books":{},"journal":{},"faults":{},"due":[]}"#;
