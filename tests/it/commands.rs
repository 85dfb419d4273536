//! The command line as a careless user meets it: each mistake ends in one clear sentence and a
//! status that a script can act on.

use std::path::Path;

use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;

use crate::support::process::{Gateway, run};
use crate::support::{channel, configuration, sectigo, simulators_in};

/// What it said on both channels, and how it ended.
fn said(arguments: &[&str]) -> (String, Option<i32>) {
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
fn a_missing_file_is_named() {
    for command in ["serve", "check"] {
        let (text, code) = said(&[command, "--config", "/nowhere/recoup.toml"]);
        assert!(text.contains("/nowhere/recoup.toml"), "{text}");
        assert_eq!(code, Some(2));
    }
}

#[test]
fn a_wrong_flag_is_explained() {
    let (text, code) = said(&["serve", "--confg", "x"]);
    assert!(text.contains("--config"), "{text}");
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn a_good_configuration_is_summed_up_without_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let (text, code) = said(&["check", "--config", &path]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("namecom") && !text.contains("demo-password") && !text.contains("demo-token"), "{text}");
}

#[test]
fn every_fault_of_a_configuration_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recoup.toml");
    let text = "listen = \"0.0.0.0:50051\"\nlegder.path = \"x\"\n\
                [accounts.n]\nprovider = \"namecom\"\nendpoint = \"http://api.name.com\"\nusername = \"u\"\ntoken = \"top-secret\"\n";
    std::fs::write(&path, text).unwrap();
    let (text, code) = said(&["check", "--config", path.to_str().unwrap()]);
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
async fn a_taken_port_is_named(#[case] filter: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:0\"", &format!("{addr}\""));
    std::fs::write(&path, format!("log.filter = \"{filter}\"\n{text}")).unwrap();
    let (text, code) = said(&["serve", "--config", &path]);
    assert!(text.contains(&addr), "{text}");
    assert_eq!(text.matches("os error").count(), 1, "the cause is told once: {text}");
    assert_eq!(code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_another_process_has_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let first = Gateway::start(Path::new(&path));
    let (text, code) = said(&["serve", "--config", &path]);
    assert!(text.contains("recoup.db"), "{text}");
    assert_eq!(code, Some(1));
    assert!(first.terminate().success());
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let not_a_ledger = dir.path().join("recoup.db");
    let content = "a letter to somebody, much longer than the header of a database would be, and not to be overwritten";
    std::fs::write(&not_a_ledger, content).unwrap();
    let (text, code) = said(&["serve", "--config", &path]);
    assert!(text.contains("recoup.db"), "{text}");
    assert_eq!(code, Some(1));
    assert_eq!(std::fs::read_to_string(&not_a_ledger).unwrap(), content);
}

/// A supervisor that changes its mind: the moment between "takes calls" and listening for signals
/// must not exist.
#[tokio::test]
async fn a_signal_right_after_the_start_ends_it_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    for _ in 0..20 {
        assert!(Gateway::start(Path::new(&path)).terminate().success());
    }
}

/// `recoup verify` on the ledger in `dir`, its JSON from whichever channel it is on, and how it
/// ended.
fn verified(dir: &Path) -> (serde_json::Value, Option<i32>) {
    let output = run(&["verify", "--json", dir.join("recoup.db").to_str().unwrap()]);
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (serde_json::from_slice(&text).unwrap(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_verified_when_nobody_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let (told, code) = verified(dir.path());
    assert!(told["error"]["message"].as_str().unwrap().starts_with("there is no ledger"), "{told}");
    assert_eq!(code, Some(2));

    let gateway = Gateway::start(Path::new(&path));
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(sectigo("one", "1000001")).await.unwrap();
    let (told, code) = verified(dir.path());
    assert!(told["error"]["message"].as_str().unwrap().starts_with("a gateway is running on the ledger"), "{told}");
    assert_eq!(code, Some(2));
    assert!(gateway.terminate().success());

    let (told, code) = verified(dir.path());
    assert_eq!((&told["clean"], &told["refunds"], &told["events"]), (&true.into(), &1.into(), &3.into()), "{told}");
    assert_eq!(code, Some(0));

    // One letter of the first line's note, where it stands in the file.
    let ledger = dir.path().join("recoup.db");
    let mut bytes = std::fs::read(&ledger).unwrap();
    let at = bytes.windows(9).position(|window| window == b"Recorded.").unwrap();
    bytes[at] = b'r';
    std::fs::write(&ledger, bytes).unwrap();
    let (told, code) = verified(dir.path());
    assert_eq!((&told["clean"], &told["findingCount"]), (&false.into(), &1.into()), "{told}");
    let finding = &told["findings"][0];
    assert_eq!((&finding["table"], &finding["row"]), (&"events".into(), &"sequence 1".into()), "{told}");
    assert_eq!(finding["column"], "chain_hash");
    assert_eq!(code, Some(1));
    let (text, _) = said(&["verify", ledger.to_str().unwrap()]);
    assert!(text.contains("table events, row sequence 1, column chain_hash") && text.contains("1 problem found"));
}
