//! The binary's command line: every mistake gives one sentence and an exit status, and correct
//! arguments start it.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use reqwest::{Client, Method};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{SimulatorsProcess, command};

async fn call(running: &SimulatorsProcess, method: Method, path: &str, body: &str) -> Value {
    // Only the first test installs the provider; the error of the others is ignored.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{path}", running.origin("control"));
    let response = client.request(method, url).body(body.to_owned()).send().await.unwrap();
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// Runs it with arguments that cannot work; returns its exit status and standard error.
fn run_to_failure(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = command(folder, arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[rstest]
#[case::a_missing_configuration(&["--config", "none.toml"], "cannot read the configuration none.toml: No such file")]
#[case::an_unknown_key(&["--config", "key.toml"], "the configuration key.toml, line 2: unknown field `colour`")]
#[case::a_missing_world(&["--world-file", "none.json"], "cannot start with the world in none.json: No such file")]
#[case::a_broken_world(&["--world-file", "bad.json"], "cannot start with the world in bad.json: it is no snapshot: ")]
#[case::a_folder_that_is_a_file(&["--ca-file", "bad.json/ca.pem"], "cannot write the authority of the TLS ports")]
#[case::a_missing_folder(&["--ca-file", "no/such/folder/ca.pem"], "cannot write the authority of the TLS ports to no/such/folder/ca.pem.key: No such file")]
#[case::a_certificate_without_its_key(&["--tls-certificate", "bad.json"], "cannot create the certificate of the TLS ports: --tls-certificate and --tls-key belong together")]
#[case::a_missing_certificate(&["--tls-certificate", "none.pem", "--tls-key", "none.key"], "cannot create the certificate of the TLS ports: cannot read none.pem: No such file")]
#[case::an_invalid_certificate(&["--tls-certificate", "bad.json", "--tls-key", "bad.json"], "cannot create the certificate of the TLS ports: bad.json contains no certificate in PEM")]
#[case::a_foreign_authority(&["--ca-file", "bad.json"], "cannot create the certificate of the TLS ports: bad.json contains a certificate that the simulators did not make")]
#[case::an_invalid_name(&["--tls-name", "ä"], "cannot create the certificate of the TLS ports: `ä` is neither a host name nor an address (--tls-name)")]
#[case::a_name_of_two_words(&["--tls-name", "bad name!"], "cannot create the certificate of the TLS ports: `bad name!` is neither")]
#[case::a_world_of_another_version(&["--world-file", "version.json"], "cannot start with the world in version.json: the snapshot is of version 2, and this is version 1")]
fn a_start_that_fails_gives_the_reason_in_one_line(#[case] arguments: &[&str], #[case] sentence: &str) {
    let folder = folder();
    let (status, message) = run_to_failure(folder.path(), arguments);
    assert_eq!(status, 1, "{message}");
    assert!(message.starts_with(&format!("simulators: {sentence}")), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!folder.path().join("no").exists());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (status, message) = run_to_failure(folder().path(), &["--namecom", &address.to_string()]);
    assert_eq!(status, 1);
    assert!(message.starts_with(&format!("simulators: port {} (--namecom) is taken: ", address.port())), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn health_checks_running_simulators() {
    let folder = folder();
    let check_health = |control: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
        let Output { status, stdout, stderr } = command.args(["--health", "--control", control]).output().unwrap();
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    };
    let running = SimulatorsProcess::start(folder.path(), &[]);
    let control = running.address("control").to_string();
    let yes = format!("the simulators answer at http://{control}\n");
    assert_eq!(check_health(&control), (0, yes.clone()));
    // For an address that listens on all interfaces, localhost is checked.
    assert_eq!(check_health(&control.replace("127.0.0.1", "0.0.0.0")), (0, yes));
    let another = running.address("name.com plaintext").to_string();
    assert_eq!(
        check_health(&another),
        (1, format!("simulators: the server at http://{another} is not healthy simulators\n"))
    );
    drop(running);
    let (status, message) = check_health(&control);
    assert_eq!(status, 1);
    assert!(message.starts_with(&format!("simulators: no simulators answer at http://{control}: ")), "{message}");
}

#[rstest]
#[case(&["--no-such-flag"], "unexpected argument '--no-such-flag'")]
#[case(&["--sed", "7"], "unexpected argument '--sed' found\n  a similar argument exists: '--seed'; --help")]
#[case(&["--seed"], "a value is required for '--seed <NUMBER>'")]
#[case(&["world.json"], "unexpected argument 'world.json'")]
#[case(&["--seed", "seven"], "invalid value 'seven' for '--seed <NUMBER>'")]
#[case(&["--control", "7100"], "invalid value '7100' for '--control <ADDRESS>'")]
fn a_wrong_command_line_is_refused(#[case] arguments: &[&str], #[case] sentence: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
    let Output { status, stderr, .. } = command.args(arguments).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code().unwrap(), 2);
    assert!(message.starts_with(&format!("simulators: {sentence}")) && message.contains("--help"), "{message}");
    assert_eq!(message.lines().count(), 2, "{message}");
}

#[test]
fn help_names_every_flag_and_has_examples() {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_simulators")).arg("--help").output().unwrap();
    let help = String::from_utf8(stdout).unwrap();
    assert!(status.success());
    for part in
        ["--config", "--seed", "--world-file", "--control", "--ca-file", "--tls-name", "Examples:", "Exit status:"]
    {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    // The README describes the keys of the configuration file.
    assert!(include_str!("../../README.md").contains("world_file ="));
}

#[tokio::test]
async fn a_flag_wins_over_the_file_and_the_file_over_the_defaults() {
    let folder = folder();
    fs::write(folder.path().join("some.toml"), "namecom = '192.0.2.1:1'\n[settings.sectigo]\nrefund_period_days = 3")
        .unwrap();
    let running = SimulatorsProcess::start(folder.path(), &["--config", "some.toml"]);
    assert!(running.origin("name.com").starts_with("https://127.0.0.1:"));
    let settings = call(&running, Method::GET, "/v1/settings", "").await;
    assert_eq!(settings["sectigo"]["refund_period_days"], 3);
    assert!(folder.path().join("sectigo-ca.pem").exists());
}

#[tokio::test]
async fn the_same_seed_gives_the_same_credentials_and_another_seed_gives_others() {
    let folder = folder();
    let (mut credentials, mut random) = (Vec::new(), Vec::new());
    for seed in ["7", "7", "8"] {
        let running = SimulatorsProcess::start(folder.path(), &["--seed", seed]);
        let world = call(&running, Method::POST, "/v1/worlds", "{}").await;
        credentials.push(world["credentials"].clone());
        // The random mode uses it if it has no seed of its own.
        let path = format!("/v1/worlds/{}/faults/random", world["id"].as_str().unwrap());
        random.push(call(&running, Method::PUT, &path, r#"{"share":0.5}"#).await["seed"].clone());
    }
    assert!(random[0].is_u64() && random[0] == random[1] && random[0] != random[2], "{random:?}");
    assert!(credentials[0]["namecom"]["token"].is_string());
    assert_eq!(credentials[0], credentials[1]);
    assert_ne!(credentials[0], credentials[2]);
}

#[tokio::test]
async fn a_saved_world_is_restored_with_its_credentials_and_new_worlds_get_others() {
    let folder = folder();
    let saved = {
        let running = SimulatorsProcess::start(folder.path(), &[]);
        let world = call(&running, Method::POST, "/v1/worlds", r#"{"seed":"empty"}"#).await;
        let path = format!("/v1/worlds/{}", world["id"].as_str().unwrap());
        call(&running, Method::PUT, &format!("{path}/sectigo/orders/7"), r#"{"price_minor":5}"#).await;
        let snapshot = call(&running, Method::GET, &format!("{path}/snapshot"), "").await;
        fs::write(folder.path().join("world.json"), snapshot.to_string()).unwrap();
        world["credentials"].clone()
    };
    let running = SimulatorsProcess::start(folder.path(), &["--world-file", "world.json"]);
    let demo = call(&running, Method::GET, "/v1/worlds/demo", "").await;
    assert_eq!(demo["credentials"], saved);
    for _ in 0..2 {
        assert_eq!(call(&running, Method::GET, "/v1/sectigo/orders", "").await["total"], 1);
        call(&running, Method::POST, "/v1/reset", r#"{"to":"start"}"#).await;
    }
    // A plain reset restores the demo data; the credentials stay.
    call(&running, Method::POST, "/v1/reset", "").await;
    assert_eq!(call(&running, Method::GET, "/v1/sectigo/orders", "").await["total"], 1026);
    let new = call(&running, Method::POST, "/v1/worlds", "{}").await;
    assert_ne!(new["credentials"]["namecom"]["username"], saved["namecom"]["username"]);
}

#[test]
fn the_script_of_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let script = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: there is no python3 to run the README's script");
        return;
    }
    let folder = folder();
    let running = SimulatorsProcess::start(folder.path(), &[]);
    let script = script.replace("http://127.0.0.1:7100", &running.origin("control"));
    let script = script.replace("https://127.0.0.1:7102", &running.origin("name.com"));
    let Output { status, stdout, stderr } = Command::new("python3").arg("-c").arg(script).output().unwrap();
    let message = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && message.contains("audit: violations"), "{message}");
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.json"), "{\"version\": 1").unwrap();
    fs::write(folder.path().join("version.json"), r#"{"colour": "red", "version": 2}"#).unwrap();
    fs::write(folder.path().join("key.toml"), "seed = 1\ncolour = 'red'\n").unwrap();
    folder
}

/// A client that trusted the authority before a restart still trusts it.
#[test]
fn the_authority_is_kept_across_starts_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    drop(SimulatorsProcess::start(folder.path(), &[]));
    let (ca, key) = (read("sectigo-ca.pem"), read("sectigo-ca.pem.key"));
    let mode = fs::metadata(folder.path().join("sectigo-ca.pem.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(SimulatorsProcess::start(folder.path(), &[]));
    assert_eq!((read("sectigo-ca.pem"), read("sectigo-ca.pem.key")), (ca, key));
}

/// The expired authority of an old start.
#[test]
fn an_expired_authority_is_replaced_with_a_warning() {
    use rcgen::{CertificateParams, DnType, KeyPair};
    let folder = folder();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "recoup simulators CA");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = params.self_signed(&key).unwrap().pem();
    let file = folder.path().join("sectigo-ca.pem");
    fs::write(&file, &expired).unwrap();
    fs::write(folder.path().join("sectigo-ca.pem.key"), key.serialize_pem()).unwrap();

    let message = SimulatorsProcess::spawn(command(folder.path(), &[]).stderr(Stdio::piped())).kill();
    assert!(
        message.contains("WARN") && message.contains("replaced the authority") && message.contains("it has expired"),
        "{message}"
    );
    assert!(!message.contains("PRIVATE"), "{message}");
    assert_ne!(fs::read_to_string(&file).unwrap(), expired);
}
