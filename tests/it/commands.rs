//! Mistakes on the command line: each one ends with one clear sentence and a status for scripts.

use std::path::Path;

use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;

use crate::support::process::{Gateway, run};
use crate::support::{channel, configuration, sectigo, simulators_in};

/// The output of a command on stdout and stderr, and its exit status.
fn output_of(arguments: &[&str]) -> (String, Option<i32>) {
    let output = run(arguments);
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

async fn valid_configuration(dir: &Path) -> (simulators::Simulators, String) {
    let simulators = simulators_in(dir).await;
    let path = dir.join("recoup.toml");
    std::fs::write(&path, configuration(&simulators, dir, "")).unwrap();
    (simulators, path.display().to_string())
}

#[test]
fn a_missing_configuration_file_is_named() {
    for command in ["serve", "check"] {
        let (text, code) = output_of(&[command, "--config", "/nowhere/recoup.toml"]);
        assert!(text.contains("/nowhere/recoup.toml"), "{text}");
        assert_eq!(code, Some(2));
    }
}

#[test]
fn a_wrong_flag_is_explained() {
    let (text, code) = output_of(&["serve", "--confg", "x"]);
    assert!(text.contains("--config"), "{text}");
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn a_valid_configuration_is_summarised_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let (text, code) = output_of(&["check", "--config", &path]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("namecom") && !text.contains("demo-password") && !text.contains("demo-token"), "{text}");
}

#[test]
fn every_error_of_a_configuration_is_reported_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recoup.toml");
    let text = "listen = \"0.0.0.0:50051\"\nlegder.path = \"x\"\n\
                [accounts.n]\nprovider = \"namecom\"\nendpoint = \"http://api.name.com\"\nusername = \"u\"\ntoken = \"top-secret\"\n";
    std::fs::write(&path, text).unwrap();
    let (text, code) = output_of(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    for key in ["listen", "legder", "accounts.n.endpoint", "accounts.n.token"] {
        assert!(text.contains(key), "{key} is missing in {text}");
    }
    assert!(!text.contains("top-secret"), "{text}");
}

#[rstest]
#[case::in_the_log("info")]
#[case::without_a_log("off")]
#[tokio::test]
async fn a_port_in_use_is_named(#[case] filter: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:0\"", &format!("{addr}\""));
    std::fs::write(&path, format!("log.filter = \"{filter}\"\n{text}")).unwrap();
    let (text, code) = output_of(&["serve", "--config", &path]);
    assert!(text.contains(&addr), "{text}");
    assert_eq!(text.matches("os error").count(), 1, "the cause is printed once: {text}");
    assert_eq!(code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_another_process_has_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let first = Gateway::start(Path::new(&path));
    let (text, code) = output_of(&["serve", "--config", &path]);
    assert!(text.contains("recoup.db"), "{text}");
    assert_eq!(code, Some(1));
    assert!(first.terminate().success());
}

#[tokio::test]
async fn a_file_that_is_not_a_ledger_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let not_a_ledger = dir.path().join("recoup.db");
    let content = "a letter, much longer than the header of a database would be, and not to be overwritten";
    std::fs::write(&not_a_ledger, content).unwrap();
    let (text, code) = output_of(&["serve", "--config", &path]);
    assert!(text.contains("recoup.db"), "{text}");
    assert_eq!(code, Some(1));
    assert_eq!(std::fs::read_to_string(&not_a_ledger).unwrap(), content);
}

/// The gateway handles signals before it reports that it takes calls.
#[tokio::test]
async fn a_signal_right_after_the_start_stops_it_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    for _ in 0..20 {
        assert!(Gateway::start(Path::new(&path)).terminate().success());
    }
}

/// `recoup verify` on the ledger in `dir`: its JSON, and its exit status.
fn verified(dir: &Path) -> (serde_json::Value, Option<i32>) {
    let output = run(&["verify", "--json", dir.join("recoup.db").to_str().unwrap()]);
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (serde_json::from_slice(&text).unwrap(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_verified_when_no_process_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let (report, code) = verified(dir.path());
    assert!(report["error"]["message"].as_str().unwrap().starts_with("there is no ledger"), "{report}");
    assert_eq!(code, Some(2));

    let gateway = Gateway::start(Path::new(&path));
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(sectigo("one", "1000001")).await.unwrap();
    let (report, code) = verified(dir.path());
    assert!(report["error"]["message"].as_str().unwrap().starts_with("a gateway is running on the ledger"), "{report}");
    assert_eq!(code, Some(2));
    assert!(gateway.terminate().success());

    let (report, code) = verified(dir.path());
    assert_eq!(
        (&report["clean"], &report["refunds"], &report["events"]),
        (&true.into(), &1.into(), &3.into()),
        "{report}"
    );
    assert_eq!(code, Some(0));

    // Changes one letter of the last event's note in the file.
    let ledger = dir.path().join("recoup.db");
    let mut bytes = std::fs::read(&ledger).unwrap();
    let note = b"sectigo refunded the money";
    let at = bytes.windows(note.len()).position(|window| window == note).unwrap();
    bytes[at] = b'S';
    std::fs::write(&ledger, bytes).unwrap();
    let (report, code) = verified(dir.path());
    assert_eq!((&report["clean"], &report["findingCount"]), (&false.into(), &1.into()), "{report}");
    let finding = &report["findings"][0];
    assert_eq!((&finding["table"], &finding["row"]), (&"events".into(), &"sequence 3".into()), "{report}");
    assert_eq!(finding["column"], "chain_hash");
    assert_eq!(code, Some(1));
    let (text, _) = output_of(&["verify", ledger.to_str().unwrap()]);
    assert!(text.contains("table events, row sequence 3, column chain_hash") && text.contains("1 problem found"));
}
