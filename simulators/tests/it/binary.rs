//! The binary as a careless user meets it: every mistake is one sentence and an exit status, and
//! what is right starts.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use reqwest::{Client, Method};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

/// A binary that runs until it is dropped.
struct Running {
    process: Child,
    control: String,
    namecom: String,
    namecom_plaintext: String,
}

impl Running {
    /// Starts it on free ports in a folder, where its certificate comes to lie, and waits for its
    /// `ready`.
    fn start(folder: &Path, arguments: &[&str]) -> Running {
        let mut process = command(folder, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let lines: Vec<String> = lines.take_while(|line| line != "ready").collect();
        let listens = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let (control, namecom) = (listens("control"), listens("name.com"));
        Running { process, control, namecom, namecom_plaintext: listens("name.com plaintext") }
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Value {
        // The first test installs it, the others find it there.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder().no_proxy().build().unwrap();
        let request = client.request(method, format!("{}{path}", self.control)).body(body.to_owned());
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let free = [
        "--control",
        "--sectigo",
        "--sectigo-plaintext",
        "--namecom",
        "--namecom-plaintext",
        "--debitsuccess",
        "--debitsuccess-plaintext",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
    let given = |port: &&&str| !arguments.contains(*port);
    command.current_dir(folder).args(arguments);
    command.args(free.iter().filter(given).flat_map(|port| [*port, "127.0.0.1:0"]));
    command
}

/// Runs it with what cannot work, and tells how it ended.
fn refused(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = command(folder, arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[rstest]
#[case::a_missing_configuration(&["--config", "none.toml"], "cannot read the configuration none.toml: No such file")]
#[case::a_key_that_is_none(&["--config", "key.toml"], "the configuration key.toml, line 2: unknown field `colour`")]
#[case::a_missing_world(&["--world-file", "none.json"], "cannot start with the world in none.json: No such file")]
#[case::a_world_that_is_none(&["--world-file", "bad.json"], "cannot start with the world in bad.json: it is no snapshot: ")]
#[case::a_folder_that_is_a_file(&["--ca-file", "bad.json/ca.pem"], "cannot write the authority of the TLS ports")]
#[case::a_folder_that_is_not_there(&["--ca-file", "no/such/folder/ca.pem"], "cannot write the authority of the TLS ports to no/such/folder/ca.pem.key: No such file")]
#[case::a_certificate_without_its_key(&["--tls-certificate", "bad.json"], "cannot create the certificate of the TLS ports: --tls-certificate and --tls-key belong together")]
#[case::a_certificate_that_is_not_there(&["--tls-certificate", "none.pem", "--tls-key", "none.key"], "cannot create the certificate of the TLS ports: cannot read none.pem: No such file")]
#[case::a_certificate_that_is_none(&["--tls-certificate", "bad.json", "--tls-key", "bad.json"], "cannot create the certificate of the TLS ports: bad.json contains no certificate in PEM")]
#[case::an_authority_of_others(&["--ca-file", "bad.json"], "cannot create the certificate of the TLS ports: bad.json contains a certificate that the simulators did not make")]
#[case::a_name_that_is_none(&["--tls-name", "ä"], "cannot create the certificate of the TLS ports: `ä` is neither a host name nor an address (--tls-name)")]
#[case::a_name_of_two_words(&["--tls-name", "bad name!"], "cannot create the certificate of the TLS ports: `bad name!` is neither")]
#[case::a_world_of_another_version(&["--world-file", "version.json"], "cannot start with the world in version.json: the snapshot is of version 2, and this is version 1")]
fn what_cannot_start_says_why_in_one_line(#[case] arguments: &[&str], #[case] sentence: &str) {
    let folder = folder();
    let (status, said) = refused(folder.path(), arguments);
    assert_eq!(status, 1, "{said}");
    assert!(said.starts_with(&format!("simulators: {sentence}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!folder.path().join("no").exists());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (status, said) = refused(folder().path(), &["--namecom", &address.to_string()]);
    assert_eq!(status, 1);
    assert!(said.starts_with(&format!("simulators: port {} (--namecom) is taken: ", address.port())), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn health_is_asked_of_simulators_that_run() {
    let folder = folder();
    let asked = |control: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
        let Output { status, stdout, stderr } = command.args(["--health", "--control", control]).output().unwrap();
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    };
    let running = Running::start(folder.path(), &[]);
    let control = running.control.trim_start_matches("http://").to_owned();
    let yes = format!("the simulators answer at http://{control}\n");
    assert_eq!(asked(&control), (0, yes.clone()));
    // What listens everywhere is asked for on this machine.
    assert_eq!(asked(&control.replace("127.0.0.1", "0.0.0.0")), (0, yes));
    let another = running.namecom_plaintext.trim_start_matches("http://");
    assert_eq!(asked(another), (1, format!("simulators: the server at http://{another} is not healthy simulators\n")));
    drop(running);
    let (status, said) = asked(&control);
    assert_eq!(status, 1);
    assert!(said.starts_with(&format!("simulators: no simulators answer at http://{control}: ")), "{said}");
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
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code().unwrap(), 2);
    assert!(said.starts_with(&format!("simulators: {sentence}")) && said.contains("--help"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn help_names_every_flag_and_shows_how() {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_simulators")).arg("--help").output().unwrap();
    let help = String::from_utf8(stdout).unwrap();
    assert!(status.success());
    for part in
        ["--config", "--seed", "--world-file", "--control", "--ca-file", "--tls-name", "Examples:", "Exit status:"]
    {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    // What the README promises of the file holds for every key that the help names.
    assert!(include_str!("../../README.md").contains("world_file ="));
}

#[tokio::test]
async fn a_flag_wins_over_the_file_and_the_file_over_the_defaults() {
    let folder = folder();
    fs::write(folder.path().join("some.toml"), "namecom = '192.0.2.1:1'\n[settings.sectigo]\nrefund_period_days = 3")
        .unwrap();
    let running = Running::start(folder.path(), &["--config", "some.toml"]);
    assert!(running.namecom.starts_with("https://127.0.0.1:"));
    let settings = running.call(Method::GET, "/v1/settings", "").await;
    assert_eq!(settings["sectigo"]["refund_period_days"], 3);
    assert!(folder.path().join("sectigo-ca.pem").exists());
}

#[tokio::test]
async fn one_seed_gives_the_same_credentials_and_another_seed_gives_others() {
    let folder = folder();
    let (mut credentials, mut random) = (Vec::new(), Vec::new());
    for seed in ["7", "7", "8"] {
        let running = Running::start(folder.path(), &["--seed", seed]);
        let world = running.call(Method::POST, "/v1/worlds", "{}").await;
        credentials.push(world["credentials"].clone());
        // The random mode draws from it where it is given no seed of its own.
        let path = format!("/v1/worlds/{}/faults/random", world["id"].as_str().unwrap());
        random.push(running.call(Method::PUT, &path, r#"{"share":0.5}"#).await["seed"].clone());
    }
    assert!(random[0].is_u64() && random[0] == random[1] && random[0] != random[2], "{random:?}");
    assert!(credentials[0]["namecom"]["token"].is_string());
    assert_eq!(credentials[0], credentials[1]);
    assert_ne!(credentials[0], credentials[2]);
}

#[tokio::test]
async fn a_saved_world_is_there_again_with_its_credentials_beside_new_worlds() {
    let folder = folder();
    let saved = {
        let running = Running::start(folder.path(), &[]);
        let world = running.call(Method::POST, "/v1/worlds", r#"{"seed":"empty"}"#).await;
        let path = format!("/v1/worlds/{}", world["id"].as_str().unwrap());
        running.call(Method::PUT, &format!("{path}/sectigo/orders/7"), r#"{"price_minor":5}"#).await;
        let snapshot = running.call(Method::GET, &format!("{path}/snapshot"), "").await;
        fs::write(folder.path().join("world.json"), snapshot.to_string()).unwrap();
        world["credentials"].clone()
    };
    let running = Running::start(folder.path(), &["--world-file", "world.json"]);
    let demo = running.call(Method::GET, "/v1/worlds/demo", "").await;
    assert_eq!(demo["credentials"], saved);
    for _ in 0..2 {
        assert_eq!(running.call(Method::GET, "/v1/sectigo/orders", "").await["total"], 1);
        running.call(Method::POST, "/v1/reset", r#"{"to":"start"}"#).await;
    }
    // A plain reset leads to the demo data; the credentials are its own then, too.
    running.call(Method::POST, "/v1/reset", "").await;
    assert_eq!(running.call(Method::GET, "/v1/sectigo/orders", "").await["total"], 1026);
    let new = running.call(Method::POST, "/v1/worlds", "{}").await;
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
    let running = Running::start(folder.path(), &[]);
    let script = script.replace("http://127.0.0.1:7100", &running.control);
    let script = script.replace("https://127.0.0.1:7102", &running.namecom);
    let Output { status, stdout, stderr } = Command::new("python3").arg("-c").arg(script).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && said.contains("audit: violations"), "{said}");
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.json"), "{\"version\": 1").unwrap();
    fs::write(folder.path().join("version.json"), r#"{"colour": "red", "version": 2}"#).unwrap();
    fs::write(folder.path().join("key.toml"), "seed = 1\ncolour = 'red'\n").unwrap();
    folder
}

/// By the files alone: what a client trusted yesterday it trusts today.
#[test]
fn the_authority_is_kept_from_start_to_start_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    drop(Running::start(folder.path(), &[]));
    let (ca, key) = (read("sectigo-ca.pem"), read("sectigo-ca.pem.key"));
    let mode = fs::metadata(folder.path().join("sectigo-ca.pem.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(Running::start(folder.path(), &[]));
    assert_eq!((read("sectigo-ca.pem"), read("sectigo-ca.pem.key")), (ca, key));
}

/// An authority that has expired, as a start of long ago left it.
#[test]
fn an_expired_authority_is_made_anew_and_a_warning_says_so() {
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

    let mut process = command(folder.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.take_while(|line| line != "ready").count() > 0);
    process.kill().unwrap();
    let Output { stderr, .. } = process.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(
        said.contains("WARN") && said.contains("replaced the authority") && said.contains("it has expired"),
        "{said}"
    );
    assert!(!said.contains("PRIVATE"), "{said}");
    assert_ne!(fs::read_to_string(&file).unwrap(), expired);
}
