//! Fault rules: the books show the difference between a lost request and a lost answer.

use std::{collections::BTreeMap, sync::Arc};

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{Ending, NewWorld, Point, Provider, faults::DRAWN};
use tokio::task::JoinSet;

use crate::support::{Account, PROVIDERS, TestBench, client, demo_target, word};

const SERVICE_UNAVAILABLE: u16 = 503;

fn once_at(provider: Provider, point: Point, effect: Value) -> Value {
    json!({ "provider": word(provider), "point": point, "effect": effect, "repeat": "once" })
}

#[rstest]
#[case::close_before(Point::BeforeEffect, json!("close"))]
#[case::close_after(Point::AfterEffect, json!("close"))]
#[case::answer_before(Point::BeforeEffect, json!({"answer": {"status": 503, "body": "later", "headers": {"retry-after": "7"}}}))]
#[case::answer_after(Point::AfterEffect, json!({"answer": {"status": 503, "body": "later", "headers": {"retry-after": "7"}}}))]
#[case::delay_before(Point::BeforeEffect, json!({"delay": {"milliseconds": 30}}))]
#[case::delay_after(Point::AfterEffect, json!({"delay": {"milliseconds": 30}}))]
#[tokio::test]
async fn closes_answers_and_delays_before_and_after_the_effect_at_every_provider(
    #[case] point: Point,
    #[case] effect: Value,
) {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.arm(once_at(provider, point, effect.clone()));
        let answer = bench.refund(provider).await;

        let closes = effect == "close";
        let delays = effect.get("delay").is_some();
        let books: Vec<_> = bench.simulators.books().into_iter().filter(|entry| entry.provider == provider).collect();
        let happened = point == Point::AfterEffect || delays;
        assert_eq!(books.len(), usize::from(happened), "{provider:?}");

        let entry = bench.simulators.journal().into_iter().find(|entry| entry.provider == provider).unwrap();
        assert_eq!(entry.effects, books.iter().map(|entry| entry.id).collect::<Vec<_>>());
        assert_eq!(entry.rules.len(), 1);
        assert!(entry.moves_money && !entry.destructive);
        if closes {
            assert!(answer.is_err(), "{provider:?}: {answer:?}");
            assert_eq!((entry.ending, entry.status), (Ending::ClosedWithoutAnswer, None));
        } else if delays {
            assert_eq!(answer.unwrap().0, 200);
            assert_eq!((entry.ending, entry.status), (Ending::KeptAlive, Some(200)));
        } else {
            assert_eq!(answer.unwrap(), (reqwest::StatusCode::SERVICE_UNAVAILABLE, "later".to_owned()));
            assert_eq!((entry.status, entry.answer.as_deref()), (Some(SERVICE_UNAVAILABLE), Some("later")));
        }

        // The rule fires only once: the second request sees the state that the first one left.
        let (_, second) = bench.refund(provider).await.unwrap();
        let refused = match provider {
            Provider::Sectigo => second.contains("already been refunded"),
            Provider::Namecom => second.contains("already been refunded"),
            Provider::Debitsuccess => second.contains("14143"),
        };
        assert_eq!(refused, happened, "{provider:?}: {second}");
        let booked = bench.simulators.books().into_iter().filter(|entry| entry.provider == provider).count();
        assert_eq!(booked, 1, "{provider:?}");
    }
}

#[tokio::test]
async fn a_request_has_its_effect_even_if_the_client_disconnects() {
    let bench = TestBench::start().await;
    bench.arm(once_at(Provider::Sectigo, Point::BeforeEffect, json!({"delay": {"milliseconds": 1000}})));
    let waits = async {
        bench.journal_once(|journal| journal.iter().any(|entry| !entry.rules.is_empty())).await;
    };
    tokio::select! {
        answer = bench.refund(Provider::Sectigo) => panic!("answered during the delay: {answer:?}"),
        () = waits => {}
    }
    assert!(bench.simulators.books().is_empty());
    let journal = bench.journal_once(|journal| journal.iter().all(|entry| entry.ending != Ending::Open)).await;
    assert_eq!(journal.first().unwrap().ending, Ending::ClientGone);
    assert_eq!(bench.simulators.books().len(), 1);
}

#[tokio::test]
async fn a_delay_does_not_delay_others_and_ends_when_the_simulators_stop() {
    let bench = TestBench::start().await;
    bench.arm(once_at(Provider::Sectigo, Point::BeforeEffect, json!({"delay": {"milliseconds": 600_000}})));
    let slow = {
        let client = client(&bench.simulators, 0);
        let url = format!("https://{}/products/!AutoRefund", bench.simulators.sectigo_addr());
        tokio::spawn(async move { client.post(url).send().await })
    };
    bench.journal_once(|journal| journal.iter().any(|entry| !entry.rules.is_empty())).await;
    assert_eq!(bench.refund(Provider::Sectigo).await.unwrap().1, "0");
    assert_eq!(bench.simulators.journal().first().unwrap().ending, Ending::Open);
    bench.simulators.stop().await;
    assert!(slow.await.unwrap().is_err());
}

#[tokio::test]
async fn a_request_delayed_across_a_reset_has_no_effect() {
    let bench = TestBench::start().await;
    bench.arm(once_at(Provider::Sectigo, Point::BeforeEffect, json!({"delay": {"milliseconds": 200}})));
    let waiting = bench.refund(Provider::Sectigo);
    let reset = async {
        bench.journal_once(|journal| journal.iter().any(|entry| !entry.rules.is_empty())).await;
        bench.simulators.with_world(simulators::World::reset);
    };
    let (answer, ()) = tokio::join!(waiting, reset);
    assert!(answer.is_err());
    assert!(bench.simulators.books().is_empty());
    assert!(bench.simulators.journal().is_empty());
    assert!(bench.simulators.with_world(|world| world.faults.list().is_empty()));
}

#[tokio::test]
async fn a_rule_fires_on_the_nth_attempt_and_the_journal_shows_reused_connections() {
    let bench = TestBench::start().await;
    let reusing = client(&bench.simulators, 1);
    bench.arm(json!({
        "provider": "sectigo", "operation": "!AutoRefund", "target": "1000007", "attempt": 2, "point": "after_effect", "effect": "close"
    }));
    assert_eq!(bench.refund_by(&reusing, Provider::Sectigo).await.unwrap().1, "0");
    assert!(bench.refund_by(&reusing, Provider::Sectigo).await.is_err());
    assert!(bench.refund_by(&reusing, Provider::Sectigo).await.unwrap().1.starts_with("-18"));
    let seen: Vec<_> = bench
        .simulators
        .journal()
        .iter()
        .map(|entry| (entry.connection, entry.ordinal, entry.attempt, entry.rules.len()))
        .collect();
    assert_eq!(seen, [(1, 1, 1, 0), (1, 2, 2, 1), (2, 1, 3, 0)]);
}

#[tokio::test]
async fn the_random_mode_hits_the_same_attempts_in_any_order_of_arrival() {
    let bench = Arc::new(TestBench::start().await);
    let run = async |seed: u64, order: usize| {
        let world = bench.simulators.create_world(NewWorld::default()).unwrap();
        // The rate limit must not affect the result.
        world.with_world(|world| world.settings.namecom.requests_per_second = 0);
        let path = format!("/v1/worlds/{}/faults/random", world.id());
        let random = json!({ "seed": seed, "share": 0.5 }).to_string();
        assert_eq!(bench.control(Method::PUT, &path, &random).await.0, 200);
        let mut targets: Vec<(Provider, u32)> =
            PROVIDERS.into_iter().flat_map(|provider| (1..=25).map(move |number| (provider, number))).collect();
        let middle = (order * 31) % targets.len();
        targets.rotate_left(middle);
        if order % 2 == 1 {
            targets.reverse();
        }
        // All in parallel, each three times.
        let mut clients = JoinSet::new();
        for (provider, number) in targets {
            let (bench, account) = (bench.clone(), Account::of(&world.credentials()));
            clients.spawn(async move {
                for _ in 0..3 {
                    let target = demo_target(provider, number);
                    drop(bench.refund_of(&account, provider, &target, &format!("id-{number}")).await);
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        bench
            .journal_of_world_once(&world, |journal| {
                journal.len() == 225 && journal.iter().all(|entry| entry.ending != Ending::Open)
            })
            .await;
        let met = world.journal().into_iter().map(|entry| {
            let place = (entry.provider, entry.target.unwrap(), entry.attempt);
            (place, (entry.rules == [DRAWN], entry.ending, entry.status, entry.effects.len()))
        });
        met.collect::<BTreeMap<_, _>>()
    };
    let first = run(7, 0).await;
    assert_eq!(first.len(), 225);
    let hit = first.values().filter(|(drawn, ..)| *drawn).count();
    assert!((70..155).contains(&hit), "{hit}");
    for order in 1..4 {
        assert!(first == run(7, order).await, "another order gave other faults");
    }
    assert!(first != run(8, 0).await);
}

#[tokio::test]
async fn a_half_way_rule_deletes_the_domain_without_a_refund() {
    let bench = TestBench::start().await;
    let (namecom, account) = (Provider::Namecom, Account::demo());
    let domain = |order: u32| {
        let url = format!("http://{}/core/v1/domains/demo-{order}.com", bench.simulators.namecom_plaintext_addr());
        bench.client.get(url).basic_auth("demo-test", Some("demo-token"))
    };
    let half_way =
        |target: &str| json!({"provider": "namecom", "target": target, "point": "before_effect", "effect": "half_way"});
    assert_eq!(domain(200_001).send().await.unwrap().status(), 200);

    bench.arm(half_way("200001"));
    let (status, body) = bench.refund_of(&account, namecom, "200001", "").await.unwrap();
    assert_eq!((status.as_u16(), body.as_str()), (502, r#"{"message":"Registry Connection Unavailable"}"#));
    // Another rule at the same point loses the answer.
    bench.arm(half_way("200002"));
    bench.arm(json!({"provider": "namecom", "target": "200002", "point": "before_effect", "effect": "reset_peer"}));
    assert!(bench.refund_of(&account, namecom, "200002", "").await.is_err());

    for order in [200_001, 200_002] {
        let gone = domain(order).send().await.unwrap();
        assert_eq!(gone.status(), 404);
        let body: Value = serde_json::from_str(&gone.text().await.unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"message": "Not Found", "details": format!("Domain demo-{order}.com does not exist.")})
        );
    }
    let books = bench.simulators.books();
    let seen: Vec<_> = books.iter().map(|entry| (entry.effect.kind.as_str(), entry.effect.target.as_str())).collect();
    assert_eq!(seen, [("domain_deleted", "3200001"), ("domain_deleted", "3200002")]);
    let journal = bench.simulators.journal();
    let refunds: Vec<_> = journal.iter().filter(|entry| entry.operation == "ProcessRefund").collect();
    assert_eq!((refunds[1].effects.as_slice(), refunds[1].ending), (&[2][..], Ending::ResetWithoutAnswer));
    // Nothing was refunded, so no refund is unreported.
    assert_eq!(bench.control(Method::GET, "/v1/audit", "").await.1["verdict"], "clean");

    let path = "/v1/namecom/orders/200001/items/3200001/settle";
    assert_eq!(bench.control(Method::POST, path, r#"{"outcome":"refunded"}"#).await.0, 200);
    assert_eq!(bench.simulators.books().last().unwrap().effect.amount_minor, Some(1299));

    // Put on the item: deleted and not refunded.
    let item = r#"{"name":"demo-200003.com","price_minor":1299,"domain_deleted":true}"#;
    let (status, put) = bench.control(Method::PUT, "/v1/namecom/orders/200003/items/3200003", item).await;
    assert_eq!((status.as_u16(), &put["domain_deleted"]), (200, &json!(true)));
    assert_eq!(domain(200_003).send().await.unwrap().status(), 404);

    let sectigo = json!({"provider": "sectigo", "point": "before_effect", "effect": "half_way"});
    let (status, refused) = bench.control(Method::POST, "/v1/faults", &sectigo.to_string()).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("`half_way` is for namecom"), "{refused}");
}
