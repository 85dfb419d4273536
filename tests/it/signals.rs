//! Signals from supervisors and terminals: which ones stop the gateway, and what SIGHUP reloads.

use std::path::Path;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Rule};
use simulators::providers::namecom::Account;
use simulators::request::Provider;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::support::{
    LIMIT, channel, configuration, effects, namecom, sectigo, simulators_in, wait_until, without_wait,
};
use crate::telemetry::{Log, launch};

/// The attempt on the wire is finished, and its caller gets the answer.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_stops_the_gateway_drains_it(#[values("TERM", "INT", "QUIT")] signal: &str) {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let (gateway, log) = launch(&configuration(&simulators, dir.path(), ""), dir.path(), &[]);
    let gate = simulators.gate(Gate::new(Provider::Sectigo, Point::AfterEffect)).unwrap();
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let call = tokio::spawn(async move { refunds.create_refund(sectigo("last", "1000001")).await });
    gate.wait_for(1).await.unwrap();
    gateway.signal(signal);
    wait_until(|| log.count("shutting down") == 1).await;
    gateway.signal("HUP");
    gate.release_all();
    let answer = call.await.unwrap().unwrap().into_inner().refund.unwrap();
    assert_eq!(answer.state(), State::Succeeded);
    assert!(gateway.end().success(), "{}", log.text());
    assert_eq!(log.count("recoup stopped"), 1, "{}", log.text());
}

/// name.com's token in a file, and a wrong one in it.
fn with_files(configuration: &str, dir: &Path) -> String {
    std::fs::write(dir.join("token"), "wrong-token\n").unwrap();
    let file = format!("token_file = \"{}\"", dir.join("token").display());
    configuration.replace("token_env = \"DEMO_TOKEN\"", &file)
}

async fn state_of(refunds: &RefundServiceClient<Channel>, id: &str) -> State {
    let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
    refunds.clone().get_refund(request).await.unwrap().into_inner().refund.unwrap().state()
}

async fn until_succeeded(refunds: &RefundServiceClient<Channel>, id: &str) {
    let wait = async {
        while state_of(refunds, id).await != State::Succeeded {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}

fn warned(log: &Log, key: &str) -> usize {
    let is_it = |line: &&serde_json::Value| (&line["level"], &line["key"]) == (&"WARN".into(), &key.into());
    log.lines().iter().filter(is_it).count()
}

/// The breaker would stay open for an hour, so only the changed file can close it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_secret_is_read_again_immediately_and_the_account_is_probed() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let settings = "engine.circuit_pause_min_ms = 3600000\nengine.circuit_pause_max_ms = 3600000";
    let begin = Instant::now();
    let (gateway, log) =
        launch(&with_files(&configuration(&simulators, dir.path(), settings), dir.path()), dir.path(), &[]);
    std::fs::write(dir.path().join("token"), "demo-token\n").unwrap();
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(without_wait(namecom("refused", 200_001, &[3_200_001]))).await.unwrap();
    until_succeeded(&refunds, "refused").await;
    assert!(begin.elapsed() < Duration::from_secs(10), "before the file is read again in any case");
    assert_eq!(log.count("account secret changed"), 1, "{}", log.text());
    for secret in ["wrong-token", "demo-token"] {
        assert!(!log.text().contains(secret), "{}", log.text());
    }
    assert!(gateway.terminate().success());
}

/// No refund is pending, so only a lookup can be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_a_lookup_was_refused_with_is_read_again_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let settings = "engine.lookups_after_ms = \"500\"\nengine.lookups_every_ms = 3600000";
    let configuration = with_files(&configuration(&simulators, dir.path(), settings), dir.path());
    std::fs::write(dir.path().join("token"), "demo-token\n").unwrap();
    let begin = Instant::now();
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    let lost = Rule {
        operation: Some("ProcessRefund".to_owned()),
        ..Rule::new(Provider::Namecom, Point::AfterEffect, FaultEffect::Close)
    };
    simulators.arm(lost).unwrap();
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(namecom("lost", 200_001, &[3_200_001])).await.unwrap();
    assert_eq!(state_of(&refunds, "lost").await, State::InDoubt);
    simulators.with_world(|world| world.providers.namecom.put_account(Account::new("demo-test", "renewed-token")));
    std::fs::write(dir.path().join("token"), "renewed-token\n").unwrap();
    wait_until(|| log.count("account secret changed") == 1).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "before the file is read again in any case");
    assert!(gateway.terminate().success());
    assert_eq!(effects(&simulators, "3200001"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_reloads_only_secrets_and_the_log_filter() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let settings =
        "log.filter = \"info\"\nengine.circuit_pause_min_ms = 3600000\nengine.circuit_pause_max_ms = 3600000";
    let before = with_files(&configuration(&simulators, dir.path(), settings), dir.path());
    let (gateway, log) = launch(&before, dir.path(), &[]);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(without_wait(namecom("waits", 200_001, &[3_200_001]))).await.unwrap();
    wait_until(|| log.count("refuses the account's credentials") == 1).await;
    assert_eq!(log.count("call answered"), 0, "a line of another filter");

    // Two invalid settings and a valid one: none of them is applied.
    let path = dir.path().join("recoup.toml");
    let wrong = before
        .replace("\"info\"", "\"debug\"")
        .replace("listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:1\"\nlegder = 1");
    std::fs::write(&path, wrong).unwrap();
    gateway.signal("HUP");
    wait_until(|| log.count("could not reload the configuration") == 1).await;
    let lines = log.lines();
    let line = lines
        .iter()
        .find(|line| line["message"].as_str().unwrap().contains("could not reload the configuration"))
        .unwrap();
    let errors = line["errors"].as_str().unwrap();
    assert!(line["level"] == "ERROR" && errors.contains("listen: ") && errors.contains("legder: "), "{line}");
    assert_eq!(state_of(&refunds, "waits").await, State::Pending);
    assert_eq!(log.count("call answered"), 0);

    // A new file for the secret, another filter, and two settings that need a restart.
    std::fs::write(dir.path().join("new-token"), "demo-token").unwrap();
    let changed = before
        .replace("/token\"", "/new-token\"")
        .replace("\"info\"", "\"info,recoup::api=debug\"")
        .replace("[accounts.sectigo]", "server.drain_ms = 7000\n[accounts.sectigo]\nmax_in_flight = 3");
    std::fs::write(&path, &changed).unwrap();
    gateway.signal("HUP");
    wait_until(|| log.count("configuration reloaded") == 1).await;
    until_succeeded(&refunds, "waits").await;
    wait_until(|| log.count("call answered") > 0).await;
    assert_eq!(warned(&log, "server.drain_ms"), 1, "{}", log.text());
    assert_eq!(warned(&log, "accounts.sectigo.max_in_flight"), 1, "{}", log.text());
    let keys = log.lines().iter().filter(|line| line.get("key").is_some()).count();
    assert_eq!(keys, 2, "{}", log.text());

    // Many signals in a row do no harm.
    for _ in 0..20 {
        gateway.signal("HUP");
    }
    wait_until(|| log.count("configuration reloaded") >= 2).await;
    refunds.create_refund(sectigo("after", "1000001")).await.unwrap();
    assert!(gateway.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_of_the_gateway_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let settings = "metrics.listen = \"127.0.0.1:0\"";
    let (gateway, log) = launch(&configuration(&simulators, dir.path(), settings), dir.path(), &[]);
    let lines = log.lines();
    let one = |message: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
        assert_eq!(found.len(), 1, "{message}: {}", log.text());
        found[0]
    };
    assert_eq!(one("starting recoup")["version"], env!("CARGO_PKG_VERSION"));
    let ledger = one("ledger opened");
    assert!(ledger["ledger"].as_str().unwrap().ends_with("/recoup.db") && ledger["schema"].as_u64().unwrap() > 0);
    let accounts: Vec<_> = lines.iter().filter(|line| line["message"] == "account configured").collect();
    let fields_of = |account: &serde_json::Value| {
        [&account["account"], &account["provider"], &account["endpoint"]].map(|text| text.as_str().unwrap().to_owned())
    };
    let expected = [
        ("debitsuccess", "debitsuccess", format!("http://{}", simulators.debitsuccess_plaintext_addr())),
        ("namecom", "namecom", format!("http://{}", simulators.namecom_plaintext_addr())),
        ("sectigo", "sectigo", format!("https://{}", simulators.sectigo_addr())),
    ];
    let expected = expected.map(|(name, provider, endpoint)| [name.to_owned(), provider.to_owned(), endpoint]);
    assert_eq!(accounts.into_iter().map(fields_of).collect::<Vec<_>>(), expected);
    assert_eq!(one("gRPC server listening")["addr"], gateway.addr.to_string());
    assert!(one("metrics endpoint listening")["metrics_addr"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(gateway.terminate().success());
}
