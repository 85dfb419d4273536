//! Probes of accounts: the API and the command line name each problem in one sentence, and no
//! request of a probe can move money.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::probe_account_response::Credentials;
use rstest::rstest;
use simulators::Simulators;
use tempfile::TempDir;
use tonic::Code;

use crate::support::process::run;
use crate::support::{LIMIT, SECRETS, Stack, configuration, reason, simulators_in, wrong_fields};

/// The simulators, and `recoup check --online` on a configuration for them.
struct Checked {
    simulators: Simulators,
    _dir: TempDir,
    lines: Vec<String>,
    code: Option<i32>,
}

impl Checked {
    /// Runs it on a changed configuration, which must be valid.
    async fn of(prepare: impl FnOnce(&Simulators), change: impl FnOnce(String) -> String) -> Checked {
        let dir = tempfile::tempdir().unwrap();
        let simulators = simulators_in(dir.path()).await;
        prepare(&simulators);
        let (lines, code) = check(dir.path(), &change(configuration(&simulators, dir.path(), ""))).await;
        Checked { simulators, _dir: dir, lines, code }
    }

    /// The lines about one account.
    fn about(&self, account: &str) -> Vec<&str> {
        let head = format!("account {account} (");
        let lines = self.lines.iter().filter_map(|line| line.strip_prefix(&head));
        lines.map(|line| line.split_once("): ").unwrap().1).collect()
    }

    /// No effect in the books, and no request in the journal that could have caused one.
    fn moved_nothing(&self) {
        moved_nothing(&self.simulators);
    }
}

async fn check(dir: &Path, configuration: &str) -> (Vec<String>, Option<i32>) {
    let path = dir.join("recoup.toml");
    std::fs::write(&path, configuration).unwrap();
    let path = path.display().to_string();
    // The simulators run in this runtime, so it must not be blocked.
    let output = tokio::task::spawn_blocking(move || run(&["check", "--online", "--config", &path])).await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    for (_, secret) in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(!dir.join("recoup.db").exists(), "no ledger is opened");
    (text.lines().map(str::to_owned).collect(), output.status.code())
}

fn moved_nothing(simulators: &Simulators) {
    assert_eq!(simulators.books().len(), 0);
    let moves_money: Vec<_> = simulators.journal().into_iter().filter(|entry| entry.moves_money).collect();
    assert!(moves_money.is_empty(), "{moves_money:?}");
}

/// The service accepts any name, as by default.
fn lenient(_: &Simulators) {}

/// The service accepts only its own names.
fn strict(simulators: &Simulators) {
    simulators.with_world(|world| world.settings.debitsuccess.strict_names = true);
}

const ACCEPTED: &str = "reached, credentials accepted";

#[tokio::test]
async fn a_valid_configuration_is_accepted_by_every_provider() {
    let checked = Checked::of(strict, |configuration| configuration).await;
    for account in ["debitsuccess", "namecom", "sectigo"] {
        assert_eq!(checked.about(account), [ACCEPTED], "{:?}", checked.lines);
    }
    assert_eq!(checked.code, Some(0));
    checked.moved_nothing();
}

/// The other accounts are probed, too.
#[rstest]
#[case::sectigo(
    "login_password_env = \"DEMO_PASSWORD\"",
    "login_password_env = \"DEMO_TOKEN\"",
    "sectigo",
    "the provider refuses login_name, login_password or the address that it is asked from (-16: "
)]
#[case::namecom(
    "token_env = \"DEMO_TOKEN\"",
    "token_env = \"DEMO_PASSWORD\"",
    "namecom",
    "the provider refuses username or token (HTTP 401: "
)]
#[case::debitsuccess(
    "\npassword_env = \"DEMO_PASSWORD\"",
    "\npassword_env = \"DEMO_TOKEN\"",
    "debitsuccess",
    "the provider refuses username or password (02 Invalid user credentials)"
)]
#[tokio::test]
async fn a_wrong_password_is_named_in_one_sentence(
    #[case] right: &str,
    #[case] wrong: &str,
    #[case] account: &str,
    #[case] sentence: &str,
) {
    let checked = Checked::of(strict, |configuration| configuration.replacen(right, wrong, 1)).await;
    let lines = checked.about(account);
    assert_eq!((lines.len(), lines[0]), (2, "reached, credentials refused"), "{lines:?}");
    assert!(lines[1].starts_with(sentence), "{lines:?}");
    assert_eq!(checked.code, Some(1));
    let accepted =
        ["debitsuccess", "namecom", "sectigo"].into_iter().filter(|other| checked.about(other) == [ACCEPTED]);
    assert_eq!(accepted.count(), 2, "{:?}", checked.lines);
    checked.moved_nothing();
}

/// A strict service finds no password in another namespace: its 02 must not be reported as a wrong
/// password.
#[rstest]
#[case::of_the_data(
    "data_namespace",
    "http://wrong.example/data",
    "data_namespace is \"http://wrong.example/data\", and the service has \"http://schemas.datacontract.org/2004/07/DSWebService\""
)]
#[case::of_the_service(
    "service_namespace",
    "http://wrong.example/",
    "service_namespace is \"http://wrong.example/\", and the service has \"http://tempuri.org/\""
)]
#[case::of_the_action(
    "action_prefix",
    "http://wrong.example/I/",
    "action_prefix makes the SOAPAction \"http://wrong.example/I/InitiateRefund\", and the service's description has \
     \"http://tempuri.org/IDSServices/InitiateRefund\""
)]
#[tokio::test]
async fn a_wrong_name_is_named_in_one_sentence(#[case] setting: &str, #[case] wrong: &str, #[case] sentence: &str) {
    let more = format!("currency = \"AUD\"\n{setting} = \"{wrong}\"");
    let checked = Checked::of(strict, |configuration| configuration.replacen("currency = \"AUD\"", &more, 1)).await;
    assert_eq!(checked.about("debitsuccess"), ["reached, credentials unknown", sentence], "{:?}", checked.lines);
    assert_eq!(checked.code, Some(1));
    checked.moved_nothing();
}

/// A service that accepts any name is still found to have other names.
#[tokio::test]
async fn a_wrong_name_that_the_service_accepts_fails_the_check() {
    let more = "currency = \"AUD\"\ndata_namespace = \"http://wrong.example/data\"";
    let checked = Checked::of(lenient, |configuration| configuration.replacen("currency = \"AUD\"", more, 1)).await;
    let lines = checked.about("debitsuccess");
    assert_eq!((lines.len(), lines[0]), (2, ACCEPTED), "{lines:?}");
    assert!(lines[1].starts_with("data_namespace is \"http://wrong.example/data\""), "{lines:?}");
    assert_eq!(checked.code, Some(1));
    checked.moved_nothing();
}

/// An address without a listener.
fn unused_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_host_that_refuses_connections_is_named_with_its_cause() {
    for account in ["debitsuccess", "namecom", "sectigo"] {
        let unused = unused_address();
        let mut origin = String::new();
        let checked = Checked::of(lenient, |configuration| {
            let (before, after) = configuration.split_once(&format!("[accounts.{account}]")).unwrap();
            let (_, rest) = after.split_once("endpoint = \"").unwrap();
            let (present, _) = rest.split_once('"').unwrap();
            let scheme = present.split_once("://").unwrap().0;
            origin = format!("{scheme}://{unused}");
            let after = after.replacen(present, &origin, 1);
            format!("{before}[accounts.{account}]{after}")
        })
        .await;
        let lines = checked.about(account);
        assert_eq!((lines.len(), lines[0]), (2, "not reached, credentials unknown"), "{lines:?}");
        assert!(lines[1].starts_with(&format!("{origin} cannot be reached: it refuses the connection (")), "{lines:?}");
        assert_eq!(checked.code, Some(1));
        checked.moved_nothing();
    }
}

#[rstest]
#[case::a_name_that_does_not_exist("https://recoup.invalid", "its name cannot be resolved (")]
#[case::another_authority("", "TLS fails on its certificate (")]
#[tokio::test]
async fn a_host_that_cannot_be_reached_is_named_with_its_cause(#[case] endpoint: &str, #[case] cause: &str) {
    let mut origin = String::new();
    let checked = Checked::of(lenient, |configuration| {
        let present = configuration.split_once("endpoint = \"").unwrap().1.split_once('"').unwrap().0.to_owned();
        if endpoint.is_empty() {
            // The system's authorities have not signed this certificate.
            let own = without_its_authority(&configuration);
            origin = present;
            return own;
        }
        origin = endpoint.to_owned();
        configuration.replacen(&present, endpoint, 1)
    })
    .await;
    let lines = checked.about("sectigo");
    assert_eq!((lines.len(), lines[0]), (2, "not reached, credentials unknown"), "{lines:?}");
    assert!(lines[1].starts_with(&format!("{origin} cannot be reached: {cause}")), "{lines:?}");
    assert_eq!(checked.code, Some(1));
    checked.moved_nothing();
}

/// The configuration without `ca_file`: the system's authorities are trusted, and none of them has
/// signed the simulators' certificate.
fn without_its_authority(configuration: &str) -> String {
    configuration.lines().filter(|line| !line.starts_with("ca_file")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn an_invalid_configuration_is_reported_before_any_request() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let wrong = configuration(&simulators, dir.path(), "legder.path = \"x\"");
    let (lines, code) = check(dir.path(), &wrong).await;
    assert_eq!(code, Some(2), "{lines:?}");
    assert_eq!(simulators.journal().len(), 0);
}

async fn probe(stack: &Stack, account: &str) -> Result<proto::ProbeAccountResponse, tonic::Status> {
    let request = proto::ProbeAccountRequest { account: account.to_owned() };
    stack.accounts().await.probe_account(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn probe_account_reports_the_same() {
    let stack = Stack::start_as(|configuration| {
        configuration.replacen("login_password_env = \"DEMO_PASSWORD\"", "login_password_env = \"DEMO_TOKEN\"", 1)
    })
    .await;
    strict(&stack.simulators);
    let refused = probe(&stack, "sectigo").await.unwrap();
    assert_eq!((refused.reached, refused.credentials()), (true, Credentials::Refused));
    assert_eq!(refused.findings.len(), 1, "{refused:?}");
    for account in ["namecom", "debitsuccess"] {
        let accepted = probe(&stack, account).await.unwrap();
        assert_eq!(
            (accepted.reached, accepted.credentials(), accepted.findings.len()),
            (true, Credentials::Accepted, 0),
            "{accepted:?}"
        );
    }
    moved_nothing(&stack.simulators);
}

/// The probe's GET of the refund endpoint contains only its path.
#[tokio::test]
async fn the_refund_endpoint_is_probed_without_a_login() {
    let stack = Stack::start().await;
    probe(&stack, "sectigo").await.unwrap();
    let journal = stack.simulators.journal();
    let requests: Vec<(&str, &str)> =
        journal.iter().map(|entry| (entry.method.as_str(), entry.path.as_str())).collect();
    assert_eq!(requests, [("GET", "/products/!AutoRefund"), ("POST", "/products/!getPostPaymentStatus")]);
    let get = serde_json::to_string(&journal[0]).unwrap();
    assert!(!get.contains("demo-password") && !get.contains("loginName") && !get.contains('?'), "{get}");
    moved_nothing(&stack.simulators);
}

#[tokio::test]
async fn an_invalid_account_name_is_refused() {
    let stack = Stack::start().await;
    let unknown = probe(&stack, "unknown").await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "ACCOUNT_NOT_FOUND"));
    for malformed in ["", "No Name", "a/b"] {
        let refused = probe(&stack, malformed).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(wrong_fields(&refused), ["account"]);
    }
    assert_eq!(stack.simulators.journal().len(), 0);
}

/// Callers that arrive before the next probe has begun share it; a caller whose deadline has passed
/// gets DEADLINE.
#[tokio::test]
async fn two_probes_of_an_account_are_five_seconds_apart() {
    let stack = Stack::start().await;
    let begin = tokio::time::Instant::now();
    probe(&stack, "sectigo").await.unwrap();
    let mut hurried = tonic::Request::new(proto::ProbeAccountRequest { account: "sectigo".to_owned() });
    // Set by hand: with `set_timeout` a busy client would end the call before the server does.
    hurried.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let late = stack.accounts().await.probe_account(hurried).await.unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE"));
    let others = futures_util::future::join_all((0..8).map(|_| probe(&stack, "sectigo")));
    let others = tokio::time::timeout(LIMIT, others).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(others.iter().all(|report| report.as_ref().unwrap().reached));
    assert_eq!(stack.simulators.journal().len(), 4, "two probes of two requests each");
    moved_nothing(&stack.simulators);
}

/// Only a lower bound: a busy machine may take longer.
#[tokio::test]
async fn each_request_of_a_probe_waits_for_the_rate_limiter() {
    let stack = Stack::start_as(|configuration| {
        configuration.replacen("[accounts.namecom]", "[accounts.namecom]\nrequests_per_second = 1", 1)
    })
    .await;
    let begin = tokio::time::Instant::now();
    assert!(probe(&stack, "namecom").await.unwrap().reached);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    moved_nothing(&stack.simulators);
}

/// Without a pending refund nothing else probes the account.
#[tokio::test]
async fn a_probe_ends_the_suspension_of_an_account() {
    use simulators::faults::{FaultEffect, Point, Repeat};
    use simulators::request::Provider;

    let stack = Stack::start_with(
        "engine.circuit_failures = 1\nengine.circuit_pause_min_ms = 600000\nengine.circuit_pause_max_ms = 600000",
    )
    .await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let refund = stack.refund(crate::support::sectigo("r-1", "1000001")).await;
    assert_eq!(refund.state(), proto::refund::State::InDoubt);
    assert_eq!(stack.health_of("sectigo").await, Health::Suspended);
    let report = probe(&stack, "sectigo").await.unwrap();
    assert_eq!(report.credentials(), Credentials::Accepted);
    assert_eq!(stack.health_of("sectigo").await, Health::Serving);
    assert_eq!(stack.effects("1000001"), 0);
    assert_eq!(stack.attempts("1000001"), 1);
}
