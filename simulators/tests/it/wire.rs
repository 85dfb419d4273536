//! Every effect at every point of every provider, as a bare socket sees it, on new connections and
//! on reused ones, over TLS where the provider has it, at the demo world's ports and at ports of a
//! world's own; and what the books and the journal say of each.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{Ending, NewWorld, Provider, Rule, World, WorldHandle};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    raw::{self, End, Raw},
    support::{Account, Bench, PROVIDERS, word},
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

/// What has to be seen.
struct Expected {
    end: End,
    /// How often the refund is in the books.
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
        // Of that nobody knows anything: there is no entry whose ending could be looked at.
        "refuse" if point == "connect" => expected(End::Refused, Ending::Refused),
        "refuse_tls" if point == "connect" && tls => expected(End::Closed, Ending::TlsRefused),
        "refuse" | "refuse_tls" => None,
        "delay" => expected(End::Whole, Ending::KeptAlive),
        "never_answer" if in_answer => expected(End::Silent, Ending::StalledInAnswer),
        "never_answer" => expected(End::Silent, Ending::NeverAnswered),
        "close" if in_answer => expected(End::Closed, Ending::Truncated),
        // Before the handshake there is no TLS that could say goodbye.
        "close" if point == "connect" && tls => expected(End::BrokenOff, Ending::ClosedWithoutAnswer),
        "close" => expected(End::Closed, Ending::ClosedWithoutAnswer),
        "reset_peer" if in_answer => expected(End::Reset, Ending::ResetInAnswer),
        "reset_peer" if point == "connect" => expected(End::Reset, Ending::Refused),
        "reset_peer" => expected(End::Reset, Ending::ResetWithoutAnswer),
        _ if early => None,
        "limit_data" => expected(if tls { End::BrokenOff } else { End::Closed }, Ending::Truncated),
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
    let bench = Bench::start().await;
    for (point, effect) in coordinates(provider, reused) {
        walk(&bench, &bench.simulators.demo(), provider, reused, &point, &effect).await;
    }
}

/// With a world and ports for each, nobody need wait for anybody.
#[rstest]
#[tokio::test]
async fn every_effect_at_every_point_of_worlds_side_by_side(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(false, true)] reused: bool,
) {
    let bench = Arc::new(Bench::start().await);
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
    // A connection that is reused has been accepted long ago.
    let points = points(provider).into_iter().filter(|point| !(reused && point == "connect"));
    let all = points.flat_map(|point| effects().map(|effect| (point.clone(), effect)));
    // Where there is no handshake, a rule that refuses it has nothing to do.
    let has_meaning = |(point, effect): &(Value, Value)| {
        !(provider == Provider::Namecom && point == "connect" && effect == "refuse_tls")
    };
    all.filter(has_meaning).collect()
}

async fn walk(bench: &Bench, world: &WorldHandle, provider: Provider, reused: bool, point: &Value, effect: &Value) {
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
        let mut raw = Raw::connect_in(simulators, world, provider).await.unwrap();
        assert_eq!(raw.ask(&raw::lookup_by(&account, provider, 8)).await.end, End::Whole);
        connected = Some(raw);
    }
    let id = world.arm(rule).unwrap();
    let started = Instant::now();
    let connected = match connected {
        Some(raw) => Ok(raw),
        None => Raw::connect_in(simulators, world, provider).await,
    };
    let lookup = raw::lookup_by(&account, provider, 7);
    let (end, heard) = match connected {
        Err(end) => (end, None),
        Ok(mut raw) => {
            let heard = raw.ask(&raw::refund_by(&account, provider, 7)).await;
            (heard.end, Some((raw, heard)))
        }
    };
    assert_eq!(end, expected.end, "{place}: {heard:?}", heard = heard.as_ref().map(|(_, heard)| heard));
    assert_eq!(world.with_world(|world| world.faults.get(id).unwrap().fired), 1, "{place}");

    // What the books say.
    let refunded = || world.books().iter().filter(|entry| entry.provider == provider).count();
    assert_eq!(refunded(), expected.effects, "{place}");
    // What the journal says: connections of which nothing was read have an entry of their own,
    // without a path.
    bench.settled(world, |journal| journal.iter().all(|entry| entry.ending != Ending::Open)).await;
    let journal = world.journal();
    if effect == "refuse" {
        assert!(journal.is_empty(), "{place}");
        world.with_world(|world| world.faults.disarm(id)).unwrap();
        let mut raw = Raw::connect_in(simulators, world, provider).await.unwrap();
        assert!(raw::says_done(provider, &raw.ask(&raw::refund_by(&account, provider, 7)).await.text()), "{place}");
        return;
    }
    let entry = journal.iter().rfind(|entry| entry.moves_money || entry.path.is_empty()).unwrap();
    assert_eq!(entry.ending, expected.ending, "{place}");
    let early = matches!(name(point), "connect" | "before_read");
    assert!(entry.rules == [id] || (early && name(effect) == "delay"), "{place}");
    assert_eq!(entry.ordinal, if reused { 2 } else { 1 }, "{place}");

    let Some((mut raw, heard)) = heard else { return };
    let at = point["during_answer"]["after_bytes"].as_u64().unwrap_or_default() as usize;
    match name(effect) {
        "delay" => {
            assert!(raw::says_done(provider, &heard.text()) && started.elapsed() >= DELAY, "{place}");
        }
        "never_answer" | "close" | "reset_peer" | "limit_data"
            if name(point) == "during_answer" || name(effect) == "limit_data" =>
        {
            assert_eq!(heard.body.len(), at, "{place}");
            assert!(heard.told_length().unwrap() > at, "{place}");
            assert_eq!(entry.answer_bytes, at, "{place}");
        }
        "never_answer" | "close" | "reset_peer" => {
            assert_eq!((heard.head.as_str(), heard.body.len()), ("", 0), "{place}")
        }
        "corrupt" => {
            let mut body = heard.body.clone();
            assert!(!raw::says_done(provider, &heard.text()) || provider != Provider::Sectigo, "{place}");
            body[at] = !body[at];
            assert!(raw::says_done(provider, &String::from_utf8(body).unwrap()), "{place}");
        }
        "slicer" => {
            assert!(raw::says_done(provider, &heard.text()), "{place}");
            assert!(heard.pieces > (heard.body.len() - at) / 64, "{place}: {} pieces", heard.pieces);
        }
        "answer" => assert_eq!((heard.status(), heard.text().as_str()), (Some(503), "later"), "{place}"),
        "commit_late" => {
            let told = match provider {
                Provider::Sectigo => heard.status() == Some(504),
                Provider::Namecom => heard.status() == Some(504) && heard.text().contains("taking too long"),
                Provider::Debitsuccess => heard.text().contains("<a:Code>05</a:Code>"),
            };
            assert!(told, "{place}: {heard:?}");
            assert!(!raw::shows_refund(provider, &raw.ask(&lookup).await.text()), "{place}");
            assert!(world.advance(Duration::from_secs(3601)));
            assert_eq!(refunded(), 1, "{place}");
            assert!(raw::shows_refund(provider, &raw.ask(&lookup).await.text()), "{place}");
        }
        "stale" => {
            assert!(raw::says_done(provider, &heard.text()), "{place}");
            assert!(!raw::shows_refund(provider, &raw.ask(&lookup).await.text()), "{place}");
            assert!(world.advance(Duration::from_secs(3601)));
            assert!(raw::shows_refund(provider, &raw.ask(&lookup).await.text()), "{place}");
        }
        "forged_answer" => assert!(raw::says_done(provider, &heard.text()), "{place}"),
        other => panic!("{other} is not looked at"),
    }
}

#[tokio::test]
async fn an_answer_can_be_cut_at_each_of_its_bytes_and_behind_them() {
    let bench = Bench::start().await;
    for provider in [Provider::Sectigo, Provider::Namecom] {
        for after_bytes in [0, 1, 2, 19, 60, 100_000] {
            for (effect, cut) in [("close", End::Closed), ("reset_peer", End::Reset)] {
                bench.simulators.with_world(World::reset);
                let point = json!({ "during_answer": { "after_bytes": after_bytes } });
                bench.arm(json!({ "provider": word(provider), "point": point, "effect": effect }));
                let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
                // Sectigo's answer to a refund is one byte long.
                let request = if provider == Provider::Sectigo { raw::lookup } else { raw::refund };
                let heard = raw.ask(&request(provider, 7)).await;
                let whole = heard.told_length().unwrap();
                assert_eq!((heard.body.len(), heard.end), (after_bytes.min(whole), cut));
                let ending = bench.simulators.journal().pop().unwrap().ending;
                let short = after_bytes < whole;
                let told = match cut {
                    End::Closed if short => Ending::Truncated,
                    End::Closed => Ending::ClosedAfterAnswer,
                    _ if short => Ending::ResetInAnswer,
                    _ => Ending::ResetAfterAnswer,
                };
                assert_eq!(ending, told);
            }
        }
    }
}

#[tokio::test]
async fn a_close_is_a_fin_even_where_the_client_still_sends() {
    let bench = Bench::start().await;
    for provider in PROVIDERS {
        bench.arm(json!({ "provider": word(provider), "point": "before_read", "effect": "close", "ordinal": 2 }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        assert_eq!(raw.ask(&raw::lookup(provider, 8)).await.end, End::Whole);
        // Nobody has read any of these when the connection is closed.
        raw.send(&raw::refund(provider, 7).repeat(50)).await;
        assert_eq!(raw.hear().await.end, End::Closed, "{provider:?}");
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
async fn a_provider_can_say_what_is_not_so(#[case] provider: Provider, #[case] pretence: &str, #[case] said: &str) {
    let bench = Bench::start().await;
    for (point, effects) in [("before_effect", 0), ("after_effect", 1)] {
        bench.simulators.with_world(World::reset);
        bench.arm(json!({ "provider": word(provider), "point": point, "effect": { "forged_answer": pretence } }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        let heard = raw.ask(&raw::refund(provider, 7)).await;
        assert!(heard.text().contains(said), "{}", heard.text());
        assert_eq!(heard.head.contains("x-idempotent-replay: 1"), pretence == "replay");
        assert_eq!(bench.simulators.books().len(), effects, "{point}");
    }
}

#[tokio::test]
async fn a_lookup_can_show_what_was_when_its_rule_was_armed() {
    let bench = Bench::start().await;
    let operations = ["!getPostPaymentStatus", "GetOrder", "GetRefundStatus"];
    for (provider, operation) in PROVIDERS.into_iter().zip(operations) {
        bench.arm(json!({
            "provider": word(provider), "operation": operation, "point": "before_effect",
            "effect": { "stale": { "seconds": 60 } }, "repeat": "standing",
        }));
        let mut raw = Raw::connect(&bench.simulators, provider).await.unwrap();
        raw.ask(&raw::refund(provider, 7)).await;
        assert!(!raw::shows_refund(provider, &raw.ask(&raw::lookup(provider, 7)).await.text()));
        assert!(bench.simulators.advance(Duration::from_secs(61)));
        assert!(raw::shows_refund(provider, &raw.ask(&raw::lookup(provider, 7)).await.text()));
    }
}

#[tokio::test]
async fn a_rule_can_be_for_reused_connections_only_and_flap() {
    let bench = Bench::start().await;
    bench.arm(json!({ "provider": "namecom", "point": "after_effect", "effect": "reset_peer", "ordinal": 2 }));
    bench.arm(json!({ "provider": "sectigo", "point": "connect", "effect": "reset_peer", "repeat": { "flap": {} } }));
    let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
    assert_eq!(raw.ask(&raw::refund(Provider::Namecom, 1)).await.end, End::Whole);
    assert_eq!(raw.ask(&raw::refund(Provider::Namecom, 2)).await.end, End::Reset);
    let mut ends = Vec::new();
    for _ in 0..4 {
        ends.push(Raw::connect(&bench.simulators, Provider::Sectigo).await.err());
    }
    assert_eq!(ends, [Some(End::Reset), None, Some(End::Reset), None]);
}

#[tokio::test]
async fn a_rule_that_only_delays_a_connection_stands_with_its_next_request() {
    let bench = Bench::start().await;
    let delay = |point: &str| json!({ "provider": "namecom", "point": point, "effect": { "delay": { "milliseconds": 1 } }, "repeat": { "times": 2 } });
    let rules = [bench.arm(delay("connect")), bench.arm(delay("before_read"))];
    let mut raw = Raw::connect(&bench.simulators, Provider::Namecom).await.unwrap();
    for number in 1..=3 {
        assert_eq!(raw.ask(&raw::refund(Provider::Namecom, number)).await.end, End::Whole);
    }
    let journal = bench.simulators.journal();
    let told: Vec<&[_]> = journal.iter().map(|entry| entry.rules.as_slice()).collect();
    assert_eq!(told, [&rules[..], &rules[1..], &[]]);
}

#[tokio::test]
async fn a_port_is_shut_as_long_as_its_rule_stands_and_keeps_its_number() {
    let bench = Bench::start().await;
    let simulators = &bench.simulators;
    let refuse = |world: &WorldHandle, provider: Provider| {
        let rule = json!({ "provider": word(provider), "point": "connect", "effect": "refuse", "repeat": "standing" });
        world.arm(serde_json::from_value(rule).unwrap()).unwrap()
    };
    let own = simulators.create_world(NewWorld { own_ports: true, ..NewWorld::default() }).unwrap();
    for world in [simulators.demo(), own] {
        let account = Account::of(&world.credentials());
        let ports = world.ports();
        let mut standing = Raw::connect_in(simulators, &world, Provider::Namecom).await.unwrap();
        // What nobody has accepted yet goes down with the port.
        assert_eq!(standing.ask(&raw::lookup_by(&account, Provider::Namecom, 8)).await.end, End::Whole);
        let [first, second] = [(); 2].map(|()| refuse(&world, Provider::Namecom));
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Namecom).await.err(), Some(End::Refused));
        // Of one provider, and of new connections.
        Raw::connect_in(simulators, &world, Provider::Debitsuccess).await.unwrap();
        assert_eq!(standing.ask(&raw::lookup_by(&account, Provider::Namecom, 8)).await.end, End::Whole);
        world.with_world(|world| world.faults.disarm(first)).unwrap();
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Namecom).await.err(), Some(End::Refused));
        world.with_world(|world| world.faults.disarm(second)).unwrap();
        Raw::connect_in(simulators, &world, Provider::Namecom).await.unwrap();

        // Each provider has two ports.
        refuse(&world, Provider::Sectigo);
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Sectigo).await.err(), Some(End::Refused));
        assert!(tokio::net::TcpStream::connect(ports.sectigo_plaintext).await.is_err());
        let snapshot = world.snapshot();
        world.with_world(World::reset);
        Raw::connect_in(simulators, &world, Provider::Sectigo).await.unwrap();
        world.restore(snapshot).unwrap();
        assert_eq!(Raw::connect_in(simulators, &world, Provider::Sectigo).await.err(), Some(End::Refused));
        assert_eq!(world.ports(), ports);
        world.with_world(World::reset);
    }
}

#[tokio::test]
async fn ports_of_its_own_belong_to_a_world_and_go_with_it() {
    let bench = Bench::start().await;
    let (status, card) = bench.control(Method::POST, "/v1/worlds", r#"{"own_ports":true}"#).await;
    assert_eq!((status.as_u16(), &card["own_ports"]), (201, &json!(true)));
    let world = bench.simulators.world(card["id"].as_str().unwrap()).unwrap();
    let ports = world.ports();
    assert_eq!(card["ports"]["namecom"], ports.namecom.to_string());
    let (_, demo) = bench.control(Method::GET, "/v1/worlds/demo", "").await;
    assert_eq!(demo["ports"]["namecom"], bench.simulators.namecom_addr().to_string());
    assert_eq!(demo["ports"]["namecom_plaintext"], bench.simulators.namecom_plaintext_addr().to_string());

    // Whoever comes there is the world's, by whatever name: a stranger is refused there, and its
    // journal shows it.
    let mut raw = Raw::connect_in(&bench.simulators, &world, Provider::Namecom).await.unwrap();
    assert_eq!(raw.ask(&raw::refund(Provider::Namecom, 7)).await.status(), Some(401));
    assert_eq!((world.journal().len(), bench.simulators.journal().len()), (1, 0));
    // Its client is welcome at everybody's ports as well.
    assert_eq!(bench.refund_as(&Account::of(&world.credentials()), Provider::Sectigo, 7).await.1, "0");
    assert_eq!(world.books().len(), 1);

    // A copy has ports of its own, too; one without cannot have its rules about connections.
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
    assert_ne!(raw.hear().await.end, End::Silent);
}

#[tokio::test]
async fn worlds_with_ports_of_their_own_have_a_bound() {
    let bench = Bench::start().await;
    let made = || bench.simulators.create_world(NewWorld { own_ports: true, ..NewWorld::default() });
    let worlds: Vec<WorldHandle> = (0..simulators::MAX_WITH_OWN_PORTS).map(|_| made().unwrap()).collect();
    let (status, refused) = bench.control(Method::POST, "/v1/worlds", r#"{"own_ports":true}"#).await;
    assert_eq!((status.as_u16(), refused["error"].as_str().unwrap().contains("ports of their own")), (409, true));
    worlds.into_iter().next().unwrap().delete().unwrap();
    made().unwrap();
}
