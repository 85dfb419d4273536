//! The command line as a careless user meets it: each mistake ends in one clear sentence and a status that a script can act on.

use std::path::Path;

use crate::support::process::{Gateway, run};
use crate::support::{configuration, simulators_in};

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

#[tokio::test]
async fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_simulators, path) = valid_configuration(dir.path()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:0\"", &format!("{addr}\""));
    std::fs::write(&path, text).unwrap();
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
