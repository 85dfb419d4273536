//! The operator's tools for a changed account: `recoup check --ledger` before a start, the metrics
//! and the command line after it, and `recoup refunds reassign`.

use std::process::Output;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{State, WaitingFor};
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;

use crate::support::process::run;
use crate::support::{Stack, configuration, sample_request};
use crate::telemetry::{scrape, value};

const SETTINGS: &str = "metrics.listen = \"127.0.0.1:0\"\nengine.lookups_after_ms = \"3600000\"";

/// Runs the command line beside the stack's gateway.
async fn recoup(arguments: Vec<String>) -> (String, Option<i32>) {
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let Output { stdout, stderr, status } = tokio::task::spawn_blocking(run).await.unwrap();
    (String::from_utf8([stdout, stderr].concat()).unwrap(), status.code())
}

/// `recoup check --ledger` with the stack's configuration after `change`.
async fn checked(stack: &Stack, change: impl FnOnce(String) -> String) -> (String, Option<i32>) {
    let path = stack.dir.path().join("next.toml");
    std::fs::write(&path, change(configuration(&stack.simulators, stack.dir.path(), SETTINGS))).unwrap();
    recoup(["check", "--ledger", "--config", path.to_str().unwrap()].map(str::to_owned).to_vec()).await
}

async fn lost(stack: &Stack, provider: Provider, id: &str) -> proto::Refund {
    stack.arm(provider, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    stack.refund(sample_request(provider, id).0).await
}

fn renamed(configuration: String) -> String {
    configuration.replace("[accounts.debitsuccess]", "[accounts.books]")
}

#[rstest]
#[case::unchanged(|it: String| it, 0, "no refund would wait")]
#[case::removed(renamed, 1, "1 refund recorded for debitsuccess at")]
#[case::removed_with_the_reason(renamed, 1, "would wait: the account is not configured")]
#[case::currency(|it: String| it.replace("\"AUD\"", "\"NZD\""), 1, "the configured account differs in currency")]
#[case::login(|it: String| it.replace("username = \"demo\"\n", "username = \"other\"\n"), 1, "differs in login")]
#[case::endpoint_and_login(
    |it: String| it
        .replace("currency = \"AUD\"\nusername = \"demo\"\n", "currency = \"AUD\"\nusername = \"other\"\n")
        .replace("[accounts.debitsuccess]\nprovider = \"debitsuccess\"\nendpoint = \"http://127.0.0.1", "[accounts.debitsuccess]\nprovider = \"debitsuccess\"\nendpoint = \"http://localhost"),
    1,
    "differs in endpoint, login"
)]
#[case::named_as_former(
    |it: String| it.replace(
        "username = \"demo\"\n",
        "username = \"other\"\nformer = [{ login = \"demo\" }]\n"
    ),
    0,
    "would continue at the account's present place"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_reports_before_a_start_which_refunds_would_wait(
    #[case] change: fn(String) -> String,
    #[case] code: i32,
    #[case] expected: &str,
) {
    let stack = Stack::start_with(SETTINGS).await;
    let before = lost(&stack, Provider::Debitsuccess, "lost").await;
    assert_eq!(before.state(), State::InDoubt);

    let (output, status) = checked(&stack, change).await;
    assert!(output.contains(expected), "{output}");
    assert_eq!(status, Some(code), "{output}");
    assert_eq!(stack.get("lost").await, before, "a check changes nothing");
    let (_, target, _) = sample_request(Provider::Debitsuccess, "lost");
    assert_eq!((stack.attempts(target), stack.effects(target)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_without_a_ledger_prints_one_sentence() {
    let stack = Stack::start().await;
    let elsewhere = stack.dir.path().join("elsewhere.db").display().to_string();
    let (output, status) = checked(&stack, |it| it.replace(&ledger_of(&stack), &elsewhere)).await;
    assert!(output.contains(&format!("there is no ledger {elsewhere}")), "{output}");
    assert_eq!(status, Some(2));
    assert!(!std::path::Path::new(&elsewhere).exists());
}

fn ledger_of(stack: &Stack) -> String {
    stack.dir.path().join("recoup.db").display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_refunds_are_counted_and_shown_and_can_be_reassigned() {
    let stack = Stack::start_with(SETTINGS).await;
    lost(&stack, Provider::Debitsuccess, "lost").await;
    let with = |it: String| renamed(it).replacen("[accounts", &format!("{SETTINGS}\n[accounts"), 1);
    let stack = stack.restart_as(with).await;

    let text = scrape(stack.app.metrics_addr().unwrap()).await;
    let waiting = |text: &str, account| value(text, "recoup_refunds_waiting_for_account", &[("account", account)]);
    assert_eq!((waiting(&text, "debitsuccess"), waiting(&text, "books")), (Some(1.0), Some(0.0)), "{text}");
    let refund = stack.get("lost").await;
    assert_eq!((refund.state(), refund.waiting_for()), (State::InDoubt, WaitingFor::Account));

    let server = format!("http://{}", stack.app.addr());
    let refunds = |arguments: &[&str]| {
        recoup(
            ["refunds", "--server", &server].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect(),
        )
    };
    let (shown, _) = refunds(&["show", "lost"]).await;
    assert!(shown.contains("waiting for") && shown.contains("its account, which is not configured"), "{shown}");
    let (output, code) = refunds(&["reassign", "lost", "--account", "sectigo", "--evidence", "ticket 7"]).await;
    assert!(output.contains("ACCOUNT_MISMATCH"), "{output}");
    assert_eq!(code, Some(1));
    let (output, code) = refunds(&["reassign", "lost", "--account", "books"]).await;
    assert!(output.contains("--evidence"), "{output}");
    assert_eq!(code, Some(2));
    let (output, code) = refunds(&["reassign", "lost", "--account", "books", "--evidence", "ticket 7"]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("books"), "{output}");

    let found = stack.until("lost", |refund| refund.state() != State::InDoubt).await;
    assert_eq!((found.account.as_str(), found.state()), ("books", State::Submitted));
    let (output, code) = refunds(&["reassign", "lost", "--account", "books", "--evidence", "ticket 7", "--yes"]).await;
    assert!(output.contains("NOT_REASSIGNABLE"), "{output}");
    assert_eq!(code, Some(1));
    // One rendering serves all scrapes of a second.
    let none_waits = async {
        while waiting(&scrape(stack.app.metrics_addr().unwrap()).await, "debitsuccess") != Some(0.0) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, none_waits).await.unwrap();
    let (_, target, _) = sample_request(Provider::Debitsuccess, "lost");
    assert_eq!((stack.attempts(target), stack.effects(target)), (1, 1));
}
