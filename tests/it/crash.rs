//! `kill -9` at any time: every acknowledged refund is recorded, every attempt on the wire is in
//! doubt or done, and no money moved twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::request::{Deduplication, Provider};
use simulators::{JournalEntry, Simulators};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::support::process::Gateway;
use crate::support::{
    FAST_LOOKUPS, LIMIT, channel, configuration, debitsuccess, effects, micros, namecom, reason, sectigo,
    simulators_in, wait_until, without_wait,
};

const REFUNDS: usize = 200;

/// A request, and its target in the simulators' books and in their journal.
fn request(index: usize) -> (proto::CreateRefundRequest, String, String) {
    let (id, number) = (format!("crash-{index}"), 1 + index);
    match index % 3 {
        0 => {
            let order = format!("{}", 1_000_000 + number);
            (sectigo(&id, &order), order.clone(), order)
        }
        1 => {
            let order = 200_000 + i32::try_from(number).unwrap();
            let item = order + 3_000_000;
            (namecom(&id, order, &[item]), item.to_string(), order.to_string())
        }
        _ => {
            let account = format!("DS{number:06}");
            (debitsuccess(&id, &account, 1000), account.clone(), account)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_among_two_hundred_refunds_lose_nothing_and_refund_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, configuration(&simulators, dir.path(), "")).unwrap();
    // Without deduplication at the providers, only the gateway, and the key at name.com, prevent a
    // second effect.
    simulators.with_world(|world| {
        world.settings.sectigo.deduplication = Deduplication::Off;
        world.settings.namecom.deduplication = Deduplication::Off;
        world.settings.debitsuccess.deduplication = Deduplication::Off;
    });
    // Slow answers, so that the kill finds many attempts between their effect and their answer.
    for provider in [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess] {
        let effect = FaultEffect::Delay { milliseconds: 30 };
        let point = Point::AfterEffect;
        let rule = Rule { repeat: Repeat::Standing, ..Rule::new(provider, point, effect) };
        simulators.arm(rule).unwrap();
    }

    let mut acknowledged = HashSet::new();
    for kill_after in [20, 60, 120] {
        let gateway = Gateway::start(&config);
        let known = run_until(&gateway, kill_after).await;
        gateway.kill();
        acknowledged.extend(known);
    }

    let gateway = Gateway::start(&config);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let settled = tokio::time::timeout(LIMIT, wait_until_none_open(&mut refunds)).await.unwrap();
    let known: HashSet<&str> = settled.iter().map(|refund| refund.refund_id.as_str()).collect();
    for id in &acknowledged {
        assert!(known.contains(id.as_str()), "{id} was acknowledged and is gone");
    }
    for refund in &settled {
        let allowed = [State::Succeeded, State::Submitted, State::InDoubt];
        assert!(allowed.contains(&refund.state()), "{} is {:?}", refund.refund_id, refund.state());
    }
    // Many lookups follow, which the provider's rate limit would refuse.
    simulators.with_world(|world| world.settings.namecom.requests_per_second = 0);
    for refund in settled.iter().filter(|refund| refund.state() == State::InDoubt) {
        let request = proto::ReconcileRefundRequest { name: refund.name.clone() };
        // The gateway's own lookup may have come first.
        match refunds.reconcile_refund(request).await {
            Ok(_) => {}
            Err(refusal) => assert_eq!(reason(&refusal), "NOT_IN_DOUBT"),
        }
    }

    // The books: never twice, and exactly once where the refund succeeded.
    let mut interrupted = 0;
    for index in 0..REFUNDS {
        let (request, target, in_journal) = request(index);
        let times = effects(&simulators, &target);
        assert!(times <= 1, "{target} was refunded {times} times");
        let requests = sent(&simulators, &in_journal);
        if request.account != "namecom" {
            assert!(requests <= 1, "{target} was requested {requests} times, and a resend is not known to be safe");
        }
        let name = format!("refunds/{}", request.refund_id);
        match refunds.get_refund(proto::GetRefundRequest { name }).await {
            Ok(found) => {
                let refund = found.into_inner().refund.unwrap();
                let on_disk = usize::try_from(refund.attempt_count).unwrap();
                assert!(
                    requests <= on_disk,
                    "{target} was requested {requests} times, and {on_disk} attempts are on disk"
                );
                interrupted += usize::from(was_interrupted(&mut refunds, refund.name.clone()).await);
                match refund.state() {
                    State::Succeeded | State::Submitted => assert_eq!(times, 1, "{target}: a false success"),
                    State::InDoubt => {
                        assert_eq!(times, 0, "{target}: a lookup should have found it: {:?}", refund.doubt)
                    }
                    other => panic!("{target} is {other:?}"),
                }
            }
            Err(_) => assert_eq!((times, requests), (0, 0), "{target} was sent and is not in the ledger"),
        }
    }
    assert!(interrupted > 0, "no kill came during an attempt");
}

/// How many requests arrived that could move money of `target`.
fn sent(simulators: &Simulators, target: &str) -> usize {
    let journal = simulators.journal();
    journal.iter().filter(|entry| entry.moves_money && entry.target.as_deref() == Some(target)).count()
}

/// Whether an attempt of the refund was on the wire at a kill.
async fn was_interrupted(refunds: &mut RefundServiceClient<Channel>, name: String) -> bool {
    let request = proto::ListRefundEventsRequest { name, ..Default::default() };
    let events = refunds.list_refund_events(request).await.unwrap().into_inner().events;
    events.iter().any(|event| event.kind() == Kind::Interrupted && event.attempt > 0)
}

/// Creates all refunds from several clients; returns the ids that were acknowledged once `enough`
/// have been.
async fn run_until(gateway: &Gateway, enough: usize) -> Vec<String> {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for client in 0..4 {
        let channel = channel(gateway.addr).await;
        for index in (0..REFUNDS).filter(|index| index % 4 == client) {
            let (mut client, answered) = (RefundServiceClient::new(channel.clone()), answered.clone());
            calls.spawn(async move {
                let (request, ..) = request(index);
                let id = request.refund_id.clone();
                let is_acknowledged = client.create_refund(request).await.is_ok();
                answered.fetch_add(usize::from(is_acknowledged), Ordering::SeqCst);
                is_acknowledged.then_some(id)
            });
        }
    }
    let mut acknowledged = Vec::new();
    while let Some(call) = calls.join_next().await {
        acknowledged.extend(call.unwrap());
        if answered.load(Ordering::SeqCst) >= enough {
            break;
        }
    }
    // Calls that are still open are abandoned with the process.
    calls.abort_all();
    while let Some(call) = calls.join_next().await {
        acknowledged.extend(call.ok().flatten());
    }
    acknowledged
}

/// All refunds, once none of them is PENDING or DISPATCHING.
async fn wait_until_none_open(refunds: &mut RefundServiceClient<Channel>) -> Vec<proto::Refund> {
    loop {
        let request = proto::ListRefundsRequest { page_size: 1000, ..Default::default() };
        let listed = refunds.list_refunds(request).await.unwrap().into_inner().refunds;
        let Some(open) =
            listed.iter().find(|refund| matches!(refund.state(), State::Pending | State::Dispatching)).cloned()
        else {
            return listed;
        };
        let timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        let wait = proto::WaitRefundRequest { name: open.name, after_revision: open.revision, timeout };
        refunds.wait_refund(wait).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_interrupted_by_a_kill_is_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, configuration(&simulators, dir.path(), "")).unwrap();
    let effect = FaultEffect::Delay { milliseconds: 60_000 };
    simulators.arm(Rule::new(Provider::Sectigo, Point::AfterEffect, effect)).unwrap();

    let gateway = Gateway::start(&config);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let impatient = proto::CreateRefundRequest {
        wait: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
        ..sectigo("cut", "1000001")
    };
    let refund = refunds.create_refund(impatient).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::Dispatching);
    tokio::time::timeout(LIMIT, async {
        while effects(&simulators, "1000001") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    gateway.kill();

    let gateway = Gateway::start(&config);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let name = "refunds/cut".to_owned();
    let refund =
        refunds.get_refund(proto::GetRefundRequest { name: name.clone() }).await.unwrap().into_inner().refund.unwrap();
    assert!(matches!(refund.state(), State::InDoubt | State::Succeeded), "{refund:?}");
    // The gateway looks it up immediately, without a call.
    let settled = tokio::time::timeout(LIMIT, async {
        let mut refund = refund;
        while refund.state() == State::InDoubt {
            let timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
            let wait = proto::WaitRefundRequest { name: name.clone(), after_revision: refund.revision, timeout };
            refund = refunds.wait_refund(wait).await.unwrap().into_inner().refund.unwrap();
        }
        refund
    })
    .await
    .unwrap();
    assert!(was_interrupted(&mut refunds, name).await);
    assert_eq!(settled.state(), State::Succeeded);
    assert_eq!((effects(&simulators, "1000001"), sent(&simulators, "1000001")), (1, 1));
    assert!(gateway.terminate().success(), "SIGTERM stops it cleanly");
}

/// The process may have ended a moment after the request left, and name.com does not document what
/// a second request does while the first is processed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_attempt_is_looked_up_at_once_and_sent_again_when_its_request_has_ended() {
    const TOTAL_TIMEOUT_MS: i64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let limited = format!("username = \"demo-test\"\ntotal_timeout_ms = {TOTAL_TIMEOUT_MS}");
    let configuration =
        configuration(&simulators, dir.path(), FAST_LOOKUPS).replace("username = \"demo-test\"", &limited);
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, configuration).unwrap();
    let operation = Some("ProcessRefund".to_owned());
    let gate = Gate { operation, ..Gate::new(Provider::Namecom, Point::BeforeEffect) };
    let gate = simulators.gate(gate).unwrap();

    let gateway = Gateway::start(&config);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(without_wait(namecom("cut", 200_001, &[3_200_001]))).await.unwrap();
    gate.wait_for(1).await.unwrap();
    gateway.kill();

    let gateway = Gateway::start(&config);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let name = "refunds/cut".to_owned();
    // The first request is still held at the provider. A lookup that an operator asks for sends
    // nothing either.
    let looked_up = refunds.reconcile_refund(proto::ReconcileRefundRequest { name: name.clone() }).await.unwrap();
    let refund = looked_up.into_inner().refund.unwrap();
    assert_eq!((refund.state(), refund.attempt_count), (State::InDoubt, 1));
    assert!(!refund.doubt.unwrap().resend_safe);
    wait_until(|| sent(&simulators, "200001") == 2).await;
    gate.release_all();

    let events = proto::ListRefundEventsRequest { name, ..Default::default() };
    let events = refunds.list_refund_events(events).await.unwrap().into_inner().events;
    let recorded = events.iter().find(|event| event.kind() == Kind::Dispatched).unwrap();
    let recorded_at = micros(recorded.event_time.as_ref().unwrap());
    let journal = simulators.journal();
    let micros_of = |entry: &JournalEntry| i64::try_from(entry.time.unix_timestamp_nanos() / 1_000).unwrap();
    let second = journal.iter().rposition(|entry| entry.moves_money).unwrap();
    assert!(
        micros_of(&journal[second]) >= recorded_at + TOTAL_TIMEOUT_MS * 1_000,
        "sent again {} us after the first attempt was recorded",
        micros_of(&journal[second]) - recorded_at
    );
    let first_lookup = journal.iter().find(|entry| !entry.moves_money).unwrap();
    assert!(micros_of(first_lookup) < recorded_at + TOTAL_TIMEOUT_MS * 1_000, "looked up at once");
    wait_until(|| effects(&simulators, "3200001") == 1).await;
    assert_eq!(sent(&simulators, "200001"), 2);
    assert!(gateway.terminate().success());
}
