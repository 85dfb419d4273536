//! The operator's command line on a running gateway: its output, its errors, and what scripts can
//! rely on.

use std::process::Output;

use recoup::proto::v1::refund::State;
use serde_json::Value;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;

use crate::support::process::run;
use crate::support::{Stack, debitsuccess, namecom, sample_request, sectigo, without_wait};

/// No lookup happens by itself.
const NO_LOOKUPS: &str = "engine.lookups_after_ms = \"3600000\"";

async fn stack() -> Stack {
    Stack::start_with(NO_LOOKUPS).await
}

/// Runs `recoup refunds` on the stack's gateway.
async fn refunds(stack: &Stack, arguments: &[&str]) -> Output {
    let server = format!("http://{}", stack.app.addr());
    let all: Vec<String> =
        ["refunds", "--server", &server].iter().chain(arguments).map(|text| (*text).to_owned()).collect();
    tokio::task::spawn_blocking(move || run(&all.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The result of a command that must succeed, as JSON.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The error of a command that must fail, and its exit status.
fn failure(output: &Output) -> (String, Option<i32>) {
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    (text(&output.stderr), output.status.code())
}

async fn lost(stack: &Stack, provider: Provider, id: &str) {
    stack.arm(provider, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(sample_request(provider, id).0).await.state(), State::InDoubt);
}

/// Creates a refund whose identifier the provider already knows on a first send, which leads to
/// review. The amounts differ: two equal refunds would be similar.
async fn in_review(stack: &Stack, id: &str) {
    let minor_units = 1250 + i64::try_from(id.len()).unwrap();
    assert_eq!(stack.refund(debitsuccess(id, "DSCODE14143", minor_units)).await.state(), State::NeedsReview);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_in_doubt_is_listed_shown_and_reconciled() {
    let stack = stack().await;
    stack.refund(sectigo("done", "1000002")).await;
    lost(&stack, Provider::Sectigo, "lost").await;

    let listed = text(&refunds(&stack, &["list", "--state", "in-doubt"]).await.stdout);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].starts_with("REFUND  STATE     ACCOUNT"), "{listed}");
    assert!(lines[1].starts_with("lost    IN_DOUBT  sectigo  order 1000001"), "{listed}");
    assert!(lines[1].contains("CONNECTION_LOST"), "{listed}");

    let shown = text(&refunds(&stack, &["show", "lost"]).await.stdout);
    for expected in ["IN_DOUBT: the money may have moved", "next check", "CONNECTION_LOST since", "not safe", "etag"] {
        assert!(shown.contains(expected), "{expected} is missing in {shown}");
    }
    assert!(shown.contains("SEQUENCE") && shown.contains("It is not known what became of attempt 1"), "{shown}");

    let shown = json(&refunds(&stack, &["show", "refunds/lost", "--json"]).await);
    assert_eq!(shown["refund"]["state"], "STATE_IN_DOUBT");
    assert!(shown["refund"]["doubt"]["nextCheckTime"].is_string());
    assert_eq!(shown["refund"]["labels"], serde_json::json!({}), "empty fields are printed, too");
    let states: Vec<&str> =
        shown["events"].as_array().unwrap().iter().map(|event| event["toState"].as_str().unwrap()).collect();
    assert_eq!(states, ["STATE_PENDING", "STATE_DISPATCHING", "STATE_IN_DOUBT"]);

    let settled = json(&refunds(&stack, &["reconcile", "lost", "--json"]).await);
    assert_eq!(settled["refund"]["state"], "STATE_SUCCEEDED");
    assert_eq!(text(&refunds(&stack, &["list", "--state", "in-doubt"]).await.stdout), "No refunds found.\n");
    assert_eq!(stack.effects("1000001"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_resolves_each_item() {
    let stack = stack().await;
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    let request = namecom("halves", 200_001, &[3_200_001, 3_200_011]);
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    let resolve = ["resolve", "halves", "--evidence", "ticket 7", "--yes"];
    let with = |more: &[&'static str]| [&resolve[..], more].concat();

    let early = with(&["--items", "3200001=refunded,3200011=not"]);
    let (output, code) = failure(&refunds(&stack, &early).await);
    assert!(output.contains("NOT_IN_REVIEW"), "{output}");
    assert_eq!(code, Some(1));
    let decided = refunds(&stack, &with(&["--items", "3200001=refunded,3200011=not", "--take-over"])).await;
    assert!(
        text(&decided.stderr).contains("may still take effect at the provider after this decision"),
        "{}",
        text(&decided.stderr)
    );
    assert!(decided.status.success(), "{}", text(&decided.stderr));
    let shown = text(&decided.stdout);
    assert!(
        shown.contains("PARTIALLY_SUCCEEDED")
            && shown.contains("3200001 SUCCEEDED")
            && shown.contains("3200011 FAILED"),
        "{shown}"
    );
    assert_eq!(stack.get("halves").await.state(), State::PartiallySucceeded);
    assert_eq!(stack.effects("200001"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_filtered_limited_and_stable_as_json() {
    let stack = stack().await;
    for number in 1..=5 {
        let (id, order) = (format!("s{number}"), format!("{}", 1_000_000 + number));
        stack.refund(sectigo(&id, &order)).await;
    }
    stack.refund(namecom("n1", 200_001, &[3_200_001])).await;

    let all = json(&refunds(&stack, &["--json", "list"]).await);
    let ids = |list: &Value| -> Vec<String> {
        list["refunds"].as_array().unwrap().iter().map(|one| one["refundId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&all), ["n1", "s5", "s4", "s3", "s2", "s1"]);
    assert_eq!(all["nextPageToken"], "");
    let of_account = json(&refunds(&stack, &["list", "--account", "namecom", "--json"]).await);
    assert_eq!(ids(&of_account), ["n1"]);
    let of_target = json(&refunds(&stack, &["list", "--target", "1000003", "--json"]).await);
    assert_eq!(ids(&of_target), ["s3"]);
    let several =
        json(&refunds(&stack, &["list", "--state", "SUCCEEDED,needs_review", "--limit", "2", "--json"]).await);
    assert_eq!(ids(&several), ["n1", "s5"]);
    let two = text(&refunds(&stack, &["list", "--limit", "2"]).await.stdout);
    assert!(two.ends_with("There are more refunds; --limit sets how many are shown (now 2).\n"), "{two}");
    let none = json(&refunds(&stack, &["list", "--state", "failed", "--json"]).await);
    assert_eq!(none, serde_json::json!({ "refunds": [], "nextPageToken": "" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolution_needs_the_state_that_the_operator_saw() {
    let stack = stack().await;
    in_review(&stack, "review").await;
    let resolve =
        ["resolve", "review", "--refunded", "--amount", "12.50", "--currency", "AUD", "--evidence", "ticket 7"];

    // Without a terminal and without --yes the refund is shown and not resolved.
    let (output, code) = failure(&refunds(&stack, &resolve).await);
    assert!(output.contains("NEEDS_REVIEW: the money may have moved") && output.contains("--yes"), "{output}");
    assert_eq!(code, Some(2));
    assert_eq!(stack.get("review").await.state(), State::NeedsReview);

    let (output, code) = failure(&refunds(&stack, &[&resolve[..], &["--etag", "stale"]].concat()).await);
    assert!(output.contains("ETAG_MISMATCH"), "{output}");
    assert_eq!(code, Some(1));
    assert_eq!(stack.get("review").await.state(), State::NeedsReview);

    let resolved = refunds(&stack, &[&resolve[..], &["--yes", "--json"]].concat()).await;
    assert!(text(&resolved.stderr).contains("NEEDS_REVIEW"), "the refund that was confirmed is shown");
    let resolved = json(&resolved);
    assert_eq!(resolved["refund"]["state"], "STATE_SUCCEEDED");
    assert_eq!(
        resolved["refund"]["refundedAmount"],
        serde_json::json!({ "currencyCode": "AUD", "minorUnits": "1250" })
    );
    let history = text(&refunds(&stack, &["show", "review"]).await.stdout);
    assert!(history.contains("ticket 7"), "{history}");

    let (output, code) =
        failure(&refunds(&stack, &["resolve", "review", "--not-refunded", "--evidence", "x", "--yes"]).await);
    assert!(output.contains("(NOT_IN_REVIEW"), "{output}");
    assert_eq!(code, Some(1));
    assert_eq!(stack.get("review").await.state(), State::Succeeded);
    assert_eq!((stack.effects("DSCODE14143"), stack.attempts("DSCODE14143")), (0, 1), "resolving moves no money");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolved_refund_is_done_or_is_sent_again_once() {
    let stack = stack().await;
    in_review(&stack, "no").await;
    let etag = stack.get("no").await.etag;
    let no = ["resolve", "no", "--not-refunded", "--evidence", "asked the provider", "--etag", &etag, "--json"];
    assert_eq!(json(&refunds(&stack, &no).await)["refund"]["state"], "STATE_FAILED");

    in_review(&stack, "again").await;
    let again = ["resolve", "again", "--send-again", "--evidence", "asked the provider", "--yes", "--json"];
    assert_eq!(json(&refunds(&stack, &again).await)["refund"]["attemptCount"], 2);
    stack.until("again", |refund| refund.state() != State::Dispatching).await;
    assert_eq!(stack.attempts("DSCODE14143"), 3, "two refunds sent first, one of them again");
    assert_eq!(stack.effects("DSCODE14143"), 0);
}

/// `script` runs a command at a terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolution_is_confirmed_at_a_terminal() {
    let stack = stack().await;
    in_review(&stack, "typed").await;
    let command = format!(
        "{} refunds --server http://{} resolve typed --not-refunded --evidence phone",
        env!("CARGO_BIN_EXE_recoup"),
        stack.app.addr()
    );
    for (typed, state) in [("no", State::NeedsReview), ("yes", State::Failed)] {
        let command = command.clone();
        let output = tokio::task::spawn_blocking(move || at_a_terminal(&command, typed)).await.unwrap();
        let Some(output) = output else {
            eprintln!("skipped: there is no script(1) here to make a terminal with");
            return;
        };
        assert!(output.contains("Type yes to confirm:"), "{output}");
        assert_eq!(stack.get("typed").await.state(), state, "{output}");
    }
}

fn at_a_terminal(command: &str, typed: &str) -> Option<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().ok()?;
    writeln!(child.stdin.take()?, "{typed}").ok()?;
    let output = child.wait_with_output().ok()?;
    Some(text(&output.stdout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_refund_is_cancelled() {
    let stack = stack().await;
    // The simulators refuse the credentials for this order, and meanwhile the account sends
    // nothing.
    let request = namecom("waits", 400_401, &[3_400_401]);
    stack.create(without_wait(request)).await.unwrap();
    stack.until("waits", |refund| refund.state() == State::Pending && refund.provider_error.is_some()).await;
    let cancelled = refunds(&stack, &["cancel", "waits", "--json"]).await;
    assert_eq!(json(&cancelled)["refund"]["state"], "STATE_CANCELLED");
    assert_eq!((stack.effects("3400401"), stack.attempts("400401")), (0, 1));
    let (output, code) = failure(&refunds(&stack, &["cancel", "unknown"]).await);
    assert!(output.contains("(REFUND_NOT_FOUND)"), "{output}");
    assert_eq!(code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_invalid_field_is_printed_with_its_reason() {
    let stack = stack().await;
    let evidence = "x".repeat(2_000);
    let wrong = ["resolve", "not_an_id!", "--refunded", "--evidence", &evidence, "--etag", "e"];
    let (output, code) = failure(&refunds(&stack, &wrong).await);
    assert!(
        output.contains("(INVALID_REQUEST)") && output.contains("name ") && output.contains("evidence "),
        "{output}"
    );
    assert_eq!((output.lines().count(), code), (1, Some(1)), "{output}");

    let as_json = refunds(&stack, &[&wrong[..], &["--json"]].concat()).await;
    let error: Value = serde_json::from_slice(&as_json.stderr).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(error["error"]["reason"], "INVALID_REQUEST");
    let fields: Vec<&str> = error["error"]["fieldViolations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|violation| violation["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["name", "evidence"]);
}

#[test]
fn a_gateway_that_cannot_be_reached_is_one_sentence() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{free}");
    for command in [&["list"][..], &["show", "x"], &["reconcile", "x"], &["cancel", "x"]] {
        let (output, code) = failure(&run(&[&["refunds", "--server", &server][..], command].concat()));
        assert!(output.contains(&format!("no gateway answers at {server}")) && output.contains("refused"), "{output}");
        assert_eq!((output.lines().count(), code), (1, Some(1)));
    }
    for server in ["ftp://127.0.0.1:1", "nonsense", ""] {
        let (output, code) = failure(&run(&["refunds", "--server", server, "list"]));
        assert!(output.contains("--server"), "{output}");
        assert_eq!(code, Some(2), "{output}");
    }
}

#[test]
fn an_invalid_command_line_ends_before_any_call() {
    for wrong in [
        &["refunds"][..],
        &["refunds", "list", "--state", "doubtful"],
        &["refunds", "list", "--limit", "0"],
        &["refunds", "show"],
        &["refunds", "resolve", "x", "--evidence", "e"],
        &["refunds", "resolve", "x", "--refunded"],
        &["refunds", "resolve", "x", "--refunded", "--not-refunded", "--evidence", "e"],
        &["refunds", "resolve", "x", "--not-refunded", "--amount", "1.00", "--currency", "AUD", "--evidence", "e"],
        &["refunds", "resolve", "x", "--refunded", "--amount", "1.00", "--evidence", "e"],
        &["refunds", "resolve", "x", "--refunded", "--amount", "1.005", "--currency", "AUD", "--evidence", "e"],
        &["refunds", "resolve", "x", "--refunded", "--amount", "1.00", "--currency", "JPY", "--evidence", "e"],
        &["refunds", "resolve", "x", "--refunded", "--evidence", "e", "--etag", "e", "--yes"],
        &["refunds", "resolve", "x", "--send-again", "--take-over", "--evidence", "e", "--yes"],
        &["refunds", "resolve", "x", "--items", "71=perhaps", "--evidence", "e", "--yes"],
        &["refunds", "resolve", "x", "--items", "71=not", "--refunded", "--evidence", "e", "--yes"],
        &["refunds", "reassign", "x", "--evidence", "e"],
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
    }
    for command in [&["refunds", "--help"][..], &["verify", "--help"]] {
        let output = run(command);
        assert!(text(&output.stdout).contains("Exit status: 0"), "{}", text(&output.stdout));
    }
}
