//! Every effect at every point of every provider, seen from a bare socket: on new and on reused
//! connections, with and without TLS, at the common ports and at own ports of worlds; each compared
//! with the books and the journal.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{Ending, NewWorld, Provider, Rule, World, WorldHandle};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    raw::{self, End, Raw},
    support::{Account, PROVIDERS, TestBench, word},
};

const DELAY: Duration = Duration::from_millis(30);

fn points(provider: Provider) -> [Value; 5] {
    // Sectigo's `0` is one byte long.
    let after_bytes = if provider == Provider::Sectigo { 0 } else { 7 };
    [
        json!("connect"),
        json!("before_read"),
        json!("before_effect"),
        json!("after_effect"),
        json!({ "during_answer": { "after_bytes": after_bytes } }),
    ]
}

fn effects() -> [Value; 13] {
    [
        json!("refuse"),
        json!("refuse_tls"),
        json!({"delay": {"milliseconds": DELAY.as_millis() as u64}}),
        json!("never_answer"),
        json!("close"),
        json!("reset_peer"),
        json!({"limit_data": {}}),
        json!({"corrupt": {"bytes": 1}}),
        json!({"slicer": {"bytes": 16, "every_milliseconds": 2}}),
        json!({"answer": {"status": 503, "body": "later"}}),
        json!({"commit_late": {"seconds": 3600}}),
        json!({"stale": {"seconds": 3600}}),
        json!({"forged_answer": "success"}),
    ]
}

fn name(word: &Value) -> &str {
    word.as_str().unwrap_or_else(|| word.as_object().unwrap().keys().next().unwrap())
}

/// The expected observation.
struct Expected {
    end: End,
    /// The number of refunds in the books.
    effects: usize,
    ending: Ending,
}

fn expected(provider: Provider, point: &str, effect: &str) -> Option<Expected> {
    // As `Raw` connects: name.com in plaintext, the others over TLS.
    let tls = provider != Provider::Namecom;
    let early = matches!(point, "connect" | "before_read");
    let in_answer = point == "during_answer";
    let effects = usize::from(matches!(point, "after_effect" | "during_answer") || matches!(effect, "delay" | "stale"));
    let expected = |end, ending| Some(Expected { end, effects, ending });
    match effect {
        // The simulators do not see the connection: the journal has no entry, and the ending is not
        // compared.
        "refuse" if point == "connect" => expected(End::Refused, Ending::Refused),
        "refuse_tls" if point == "connect" && tls => expected(End::Closed, Ending::TlsRefused),
        "refuse" | "refuse_tls" => None,
        "delay" => expected(End::Whole, Ending::KeptAlive),
        "never_answer" if in_answer => expected(End::Silent, Ending::StalledInAnswer),
        "never_answer" => expected(End::Silent, Ending::NeverAnswered),
        "close" if in_answer => expected(End::Closed, Ending::Truncated),
        // Before the handshake there is no TLS session for a close_notify.
        "close" if point == "connect" && tls => expected(End::ClosedWithoutNotify, Ending::ClosedWithoutAnswer),
        "close" => expected(End::Closed, Ending::ClosedWithoutAnswer),
        "reset_peer" if in_answer => expected(End::Reset, Ending::ResetInAnswer),
        "reset_peer" if point == "connect" => expected(End::Reset, Ending::Refused),
        "reset_peer" => expected(End::Reset, Ending::ResetWithoutAnswer),
        _ if early => None,
        "limit_data" => expected(if tls { End::ClosedWithoutNotify } else { End::Closed }, Ending::Truncated),
        "corrupt" | "slicer" => expected(End::Whole, Ending::KeptAlive),
        _ if in_answer => None,
        "commit_late" if point == "after_effect" => None,
        "answer" | "commit_late" | "stale" | "forged_answer" => expected(End::Whole, Ending::KeptAlive),
        other => panic!("{other} is not in the table"),
    }
}

#[rstest]
#[tokio::test]
async fn every_effect_at_every_point(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(false, true)] reused: bool,
) {
    let bench = TestBench::start().await;
    for (point, effect) in coordinates(provider, reused) {
        walk(&bench, &bench.simulators.demo(), provider, reused, &point, &effect).await;
    }
}

/// Each pair in its own world with own ports, all in parallel.
#[rstest]
#[tokio::test]
async fn every_effect_at_every_point_of_worlds_in_parallel(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(false, true)] reused: bool,
) {
    let bench = Arc::new(TestBench::start().await);
    let mut walks = JoinSet::new();
    for (point, effect) in coordinates(provider, reused) {
        let bench = bench.clone();
        walks.spawn(async move {
            let world = bench.simulators.create_world(NewWorld { own_ports: true, ..NewWorld::default() }).unwrap();
            walk(&bench, &world, provider, reused, &point, &effect).await;
            world.delete().unwrap();
        });
    }
    while let Some(walked) = walks.join_next().await {
        walked.unwrap();
    }
    assert!(bench.simulators.journal().is_empty() && bench.simulators.books().is_empty());
}

fn coordinates(provider: Provider, reused: bool) -> Vec<(Value, Value)> {
    // A reused connection is already accepted.
    let points = points(provider).into_iter().filter(|point| !(reused && point == "connect"));
    let all = points.flat_map(|point| effects().map(|effect| (point.clone(), effect)));
    // Without TLS there is no handshake to refuse.
    let has_meaning = |(point, effect): &(Value, Value)| {
        !(provider == Provider::Namecom && point == "connect" && effect == "refuse_tls")
    };
    all.filter(has_meaning).collect()
}

async fn walk(bench: &TestBench, world: &WorldHandle, provider: Provider, reused: bool, point: &Value, effect: &Value) {
    let place = format!("{provider:?}, {effect} at {point}, {}", if reused { "reused" } else { "new" });
    let simulators = &bench.simulators;
    world.with_world(World::reset);
    let account = Account::of(&world.credentials());
    let rule = json!({
        "provider": word(provider), "point": point, "effect": effect,
        "repeat": if effect == "refuse" { "standing" } else { "once" },
    });
    let rule: Rule = serde_json::from_value(rule).unwrap();
    let Some(expected) = expected(provider, name(point), name(effect)) else {
        let refused = world.arm(rule).expect_err(&place).to_string();
        assert!(refused.starts_with('`') && !refused.contains('\n'), "{refused}");
        return;
    };

    let mut connected = None;
    if reused {
        let mut raw = Raw::connect_in(simulators, world, provider, End::Whole).await.unwrap();
        assert_eq!(raw.call(&raw::lookup_by(&account, provider, 8)).await.end, End::Whole);
        connected = Some(raw);
    }
    let id = world.arm(rule).unwrap();
    let started = Instant::now();
    let connected = match connected {
        Some(raw) => Ok(raw),
        None => {
            let of_handshake = if point == "connect" { expected.end } else { End::Whole };
            Raw::connect_in(simulators, world, provider, of_handshake).await
        }
    };
    let lookup = raw::lookup_by(&account, provider, 7);
    let (end, answer) = match connected {
        Err(end) => (end, None),
        Ok(mut raw) => {
            let answer = raw.call_until(&raw::refund_by(&account, provider, 7), expected.end).await;
            (answer.end, Some((raw, answer)))
        }
    };
    assert_eq!(end, expected.end, "{place}: {answer:?}", answer = answer.as_ref().map(|(_, answer)| answer));
    assert_eq!(world.with_world(|world| world.faults.get(id).unwrap().fired), 1, "{place}");

    // The books.
    let refunded = || world.books().iter().filter(|entry| entry.provider == provider).count();
    assert_eq!(refunded(), expected.effects, "{place}");
    // The journal: a connection without a request has its own entry without a path.
    bench.journal_of_world_once(world, |journal| journal.iter().all(|entry| entry.ending != Ending::Open)).await;
    let journal = world.journal();
    if effect == "refuse" {
        assert!(journal.is_empty(), "{place}");
        world.with_world(|world| world.faults.disarm(id)).unwrap();
        let mut raw = Raw::connect_in(simulators, world, provider, End::Whole).await.unwrap();
        assert!(raw::says_done(provider, &raw.call(&raw::refund_by(&account, provider, 7)).await.text()), "{place}");
        return;
    }
    let entry = journal.iter().rfind(|entry| entry.moves_money || entry.path.is_empty()).unwrap();
    assert_eq!(entry.ending, expected.ending, "{place}");
    let early = matches!(name(point), "connect" | "before_read");
    assert!(entry.rules == [id] || (early && name(effect) == "delay"), "{place}");
    assert_eq!(entry.ordinal, if reused { 2 } else { 1 }, "{place}");

    let Some((mut raw, answer)) = answer else { return };
    let at = point["during_answer"]["after_bytes"].as_u64().unwrap_or_default() as usize;
    match name(effect) {
        "delay" => {
            assert!(raw::says_done(provider, &answer.text()) && started.elapsed() >= DELAY, "{place}");
        }
        "never_answer" | "close" | "reset_peer" | "limit_data"
            if name(point) == "during_answer" || name(effect) == "limit_data" =>
        {
            assert_eq!(answer.body.len(), at, "{place}");
            assert!(answer.declared_length().unwrap() > at, "{place}");
            assert_eq!(entry.answer_bytes, at, "{place}");
        }
        "never_answer" | "close" | "reset_peer" => {
            assert_eq!((answer.head.as_str(), answer.body.len()), ("", 0), "{place}")
        }
        "corrupt" => {
            let mut body = answer.body.clone();
            assert!(!raw::says_done(provider, &answer.text()) || provider != Provider::Sectigo, "{place}");
            body[at] = !body[at];
            assert!(raw::says_done(provider, &String::from_utf8(body).unwrap()), "{place}");
        }
        "slicer" => {
            assert!(raw::says_done(provider, &answer.text()), "{place}");
            assert!(answer.pieces > (answer.body.len() - at) / 64, "{place}: {} pieces", answer.pieces);
        }
        "answer" => assert_eq!((answer.status(), answer.text().as_str()), (Some(503), "later"), "{place}"),
        "commit_late" => {
            let is_timeout = match provider {
                Provider::Sectigo => answer.status() == Some(504),
                Provider::Namecom => answer.status() == Some(504) && answer.text().contains("taking too long"),
                Provider::Debitsuccess => answer.text().contains("<a:Code>05</a:Code>"),
            };
            assert!(is_timeout, "{place}: {answer:?}");
            assert!(!raw::shows_refund(provider, &raw.call(&lookup).await.text()), "{place}");
            assert!(world.advance(Duration::from_secs(3601)));
            assert_eq!(refunded(), 1, "{place}");
            assert!(raw::shows_refund(provider, &raw.call(&lookup).await.text()), "{place}");
        }
        "stale" => {
            assert!(raw::says_done(provider, &answer.text()), "{place}");
            assert!(!raw::shows_refund(provider, &raw.call(&lookup).await.text()), "{place}");
            assert!(world.advance(Duration::from_secs(3601)));
            assert!(raw::shows_refund(provider, &raw.call(&lookup).await.text()), "{place}");
        }
        "forged_answer" => assert!(raw::says_done(provider, &answer.text()), "{place}"),
        other => panic!("{other} is not checked"),
    }
}

#[tokio::test]
async fn an_answer_can_be_cut_at_any_byte_and_after_its_end() {
    let bench = TestBench::start().await;
    for provider in [Provider::Sectigo, Provider::Namecom] {
        for after_bytes in [0, 1, 2, 19, 60, 100_000] {
            for (effect, cut) in [("close", End::Closed), ("reset_peer", End::Reset)] {
                bench.simulators.with_world(World::reset);
                let point = json!({ "during_answer": { "after_bytes": after_bytes } });
                bench.arm(json!({ "provider": word(provider), "point": point, "effect": effect }));
                let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
                // Sectigo's answer to a refund is one byte long.
                let request = if provider == Provider::Sectigo { raw::lookup } else { raw::refund };
                let answer = raw.call_until(&request(provider, 7), cut).await;
                let whole = answer.declared_length().unwrap();
                assert_eq!((answer.body.len(), answer.end), (after_bytes.min(whole), cut));
                let ending = bench.simulators.journal().pop().unwrap().ending;
                let short = after_bytes < whole;
                let expected = match cut {
                    End::Closed if short => Ending::Truncated,
                    End::Closed => Ending::ClosedAfterAnswer,
                    _ if short => Ending::ResetInAnswer,
                    _ => Ending::ResetAfterAnswer,
                };
                assert_eq!(ending, expected);
            }
        }
    }
}

#[tokio::test]
async fn a_close_is_a_fin_even_while_the_client_still_sends() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.arm(json!({ "provider": word(provider), "point": "before_read", "effect": "close", "ordinal": 2 }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        assert_eq!(raw.call(&raw::lookup(provider, 8)).await.end, End::Whole);
        // None of these is read before the connection is closed.
        raw.send(&raw::refund(provider, 7).repeat(50)).await;
        assert_eq!(raw.read_answer().await.end, End::Closed, "{provider:?}");
    }
    assert!(bench.simulators.books().is_empty());
}

#[rstest]
#[case(Provider::Sectigo, "already_refunded", "-18\nThis order has already been refunded")]
#[case(Provider::Namecom, "already_refunded", "has already been refunded.")]
#[case(Provider::Namecom, "initialized", "\"orderItemStatus\":\"initialized\"")]
#[case(Provider::Namecom, "replay", "\"orderItemStatus\":\"refunded\"")]
#[case(Provider::Debitsuccess, "14143", "<a:Code>14143</a:Code>")]
#[tokio::test]
async fn a_rule_can_give_a_false_answer(#[case] provider: Provider, #[case] pretence: &str, #[case] message: &str) {
    let bench = TestBench::start().await;
    for (point, effects) in [("before_effect", 0), ("after_effect", 1)] {
        bench.simulators.with_world(World::reset);
        bench.arm(json!({ "provider": word(provider), "point": point, "effect": { "forged_answer": pretence } }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        let answer = raw.call(&raw::refund(provider, 7)).await;
        assert!(answer.text().contains(message), "{}", answer.text());
        assert_eq!(answer.head.contains("x-idempotent-replay: 1"), pretence == "replay");
        assert_eq!(bench.simulators.books().len(), effects, "{point}");
    }
}

#[tokio::test]
async fn a_lookup_can_show_the_state_at_the_time_its_rule_was_armed() {
    let bench = TestBench::start().await;
    let operations = ["!getPostPaymentStatus", "GetOrder", "GetRefundStatus"];
    for (provider, operation) in PROVIDERS.into_iter().zip(operations) {
        bench.arm(json!({
            "provider": word(provider), "operation": operation, "point": "before_effect",
            "effect": { "stale": { "seconds": 60 } }, "repeat": "standing",
        }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        raw.call(&raw::refund(provider, 7)).await;
        assert!(!raw::shows_refund(provider, &raw.call(&raw::lookup(provider, 7)).await.text()));
        assert!(bench.simulators.advance(Duration::from_secs(61)));
        assert!(raw::shows_refund(provider, &raw.call(&raw::lookup(provider, 7)).await.text()));
    }
}

#[tokio::test]
async fn a_rule_can_fire_on_reused_connections_only_and_a_rule_can_flap() {
    let bench = TestBench::start().await;
    bench.arm(json!({ "provider": "namecom", "point": "after_effect", "effect": "reset_peer", "ordinal": 2 }));
    bench.arm(json!({ "provider": "sectigo", "point": "connect", "effect": "reset_peer", "repeat": { "flap": {} } }));
    let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
    assert_eq!(raw.call(&raw::refund(Provider::Namecom, 1)).await.end, End::Whole);
    assert_eq!(raw.call(&raw::refund(Provider::Namecom, 2)).await.end, End::Reset);
    let mut ends = Vec::new();
    for _ in 0..4 {
        ends.push(Raw::connect(&bench.simulators, Provider::Sectigo).await.err());
    }
    assert_eq!(ends, [Some(End::Reset), None, Some(End::Reset), None]);
}

#[tokio::test]
async fn a_rule_that_delays_a_connection_is_listed_in_the_entry_of_its_next_request() {
    let bench = TestBench::start().await;
    let delay = |point: &str| json!({ "provider": "namecom", "point": point, "effect": { "delay": { "milliseconds": 1 } }, "repeat": { "times": 2 } });
    let rules = [bench.arm(delay("connect")), bench.arm(delay("before_read"))];
    let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
    for number in 1..=3 {
        assert_eq!(raw.call(&raw::refund(Provider::Namecom, number)).await.end, End::Whole);
    }
    let journal = bench.simulators.journal();
    let rules_of_entries: Vec<&[_]> = journal.iter().map(|entry| entry.rules.as_slice()).collect();
    assert_eq!(rules_of_entries, [&rules[..], &rules[1..], &[]]);
}

#[tokio::test]
async fn a_port_is_closed_while_its_rule_is_armed_and_keeps_its_number() {
    let bench = TestBench::start().await;
    let simulators = &bench.simulators;
    let refuse = |world: &WorldHandle, provider: Provider| {
        let rule = json!({ "provider": word(provider), "point": "connect", "effect": "refuse", "repeat": "standing" });
        world.arm(serde_json::from_value(rule).unwrap()).unwrap()
    };
    let own = simulators.create_world(NewWorld { own_ports: true, ..NewWorld::default() }).unwrap();
    for world in [simulators.demo(), own] {
        let account = Account::of(&world.credentials());
        let ports = world.ports();
        let mut open = Raw::connect_in(simulators, &world, Provider::Namecom, End::Whole).await.unwrap();
        // A connection that is not accepted yet ends with the port.
        assert_eq!(open.call(&raw::lookup_by(&account, Provider::Namecom, 8)).await.end, End::Whole);
        let [first, second] = [(); 2].map(|()| refuse(&world, Provider::Namecom));
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Namecom, End::Whole).await.err(), Some(End::Refused));
        // Only new connections of this provider are refused.
        Raw::connect_in(simulators, &world, Provider::Debitsuccess, End::Whole).await.unwrap();
        assert_eq!(open.call(&raw::lookup_by(&account, Provider::Namecom, 8)).await.end, End::Whole);
        world.with_world(|world| world.faults.disarm(first)).unwrap();
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Namecom, End::Whole).await.err(), Some(End::Refused));
        world.with_world(|world| world.faults.disarm(second)).unwrap();
        Raw::connect_in(simulators, &world, Provider::Namecom, End::Whole).await.unwrap();

        // Each provider has two ports.
        refuse(&world, Provider::Sectigo);
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Sectigo, End::Whole).await.err(), Some(End::Refused));
        assert!(tokio::net::TcpStream::connect(ports.sectigo_plaintext).await.is_err());
        let snapshot = world.snapshot();
        world.with_world(World::reset);
        Raw::connect_in(simulators, &world, Provider::Sectigo, End::Whole).await.unwrap();
        world.restore(snapshot).unwrap();
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Sectigo, End::Whole).await.err(), Some(End::Refused));
        assert_eq!(world.ports(), ports);
        world.with_world(World::reset);
    }
}

#[tokio::test]
async fn own_ports_belong_to_one_world_and_close_with_it() {
    let bench = TestBench::start().await;
    let (status, card) = bench.control(Method::POST, "/v1/worlds", r#"{"own_ports":true}"#).await;
    assert_eq!((status.as_u16(), &card["own_ports"]), (201, &json!(true)));
    let world = bench.simulators.world(card["id"].as_str().unwrap()).unwrap();
    let ports = world.ports();
    assert_eq!(card["ports"]["namecom"], ports.namecom.to_string());
    let (_, demo) = bench.control(Method::GET, "/v1/worlds/demo", "").await;
    assert_eq!(demo["ports"]["namecom"], bench.simulators.namecom_addr().to_string());
    assert_eq!(demo["ports"]["namecom_plaintext"], bench.simulators.namecom_plaintext_addr().to_string());

    // Every connection there belongs to the world, whatever its username: an unknown one is
    // refused there and appears in its journal.
    let mut raw = Raw::connect_in(&bench.simulators, &world, Provider::Namecom, End::Whole).await.unwrap();
    assert_eq!(raw.call(&raw::refund(Provider::Namecom, 7)).await.status(), Some(401));
    assert_eq!((world.journal().len(), bench.simulators.journal().len()), (1, 0));
    // Its credentials also work at the common ports.
    assert_eq!(bench.refund_as(&Account::of(&world.credentials()), Provider::Sectigo, 7).await.1, "0");
    assert_eq!(world.books().len(), 1);

    // A copy also has own ports; a copy without them cannot have rules about connections.
    world
        .arm(
            serde_json::from_value(json!({ "provider": "sectigo", "point": "before_read", "effect": "close" }))
                .unwrap(),
        )
        .unwrap();
    let copy = world.fork(None).unwrap();
    assert_ne!(copy.ports(), ports);
    let path = format!("/v1/worlds/{}/fork", world.id());
    let (status, refused) = bench.control(Method::POST, &path, r#"{"own_ports":false}"#).await;
    assert_eq!(status, 400);
    assert!(
        refused["error"].as_str().unwrap().contains("fault 1 could not be armed: `point`: a rule at `before_read`"),
        "{refused}"
    );

    world.delete().unwrap();
    assert!(tokio::net::TcpStream::connect(ports.namecom).await.is_err());
    assert_ne!(raw.read_answer().await.end, End::Silent);
}

#[tokio::test]
async fn the_number_of_worlds_with_own_ports_is_limited() {
    let bench = TestBench::start().await;
    let made = || bench.simulators.create_world(NewWorld { own_ports: true, ..NewWorld::default() });
    let worlds: Vec<WorldHandle> = (0..simulators::MAX_WITH_OWN_PORTS).map(|_| made().unwrap()).collect();
    let (status, refused) = bench.control(Method::POST, "/v1/worlds", r#"{"own_ports":true}"#).await;
    assert_eq!((status.as_u16(), refused["error"].as_str().unwrap().contains("ports of their own")), (409, true));
    worlds.into_iter().next().unwrap().delete().unwrap();
    made().unwrap();
}
