//! An operator pauses an account: nothing is sent, what is in doubt is still looked up, and all of
//! it goes on when the account is resumed.
//!
//! Each test ends with a look at the simulators' books.

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;
use tonic::{Code, Status};

use crate::support::demo_accounts::account_name;
use crate::support::process::run;
use crate::support::*;

async fn pause(stack: &Stack, account: &str, reason: &str) -> Result<proto::Account, Status> {
    let request = proto::PauseAccountRequest { account: account.to_owned(), reason: reason.to_owned() };
    Ok(stack.accounts().await.pause_account(request).await?.into_inner().account.unwrap())
}

async fn resume(stack: &Stack, account: &str) -> Result<proto::Account, Status> {
    let request = proto::ResumeAccountRequest { account: account.to_owned() };
    Ok(stack.accounts().await.resume_account(request).await?.into_inner().account.unwrap())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_created_during_a_pause_is_sent_once_after_it(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
) {
    let stack = Stack::start().await;
    let account = account_name(provider);
    let paused = pause(&stack, account, "prices are wrong").await.unwrap();
    assert_eq!((paused.health(), paused.pause_reason.as_str()), (Health::Paused, "prices are wrong"));
    assert_eq!((paused.paused_by.as_str(), paused.health_since_time.is_some()), ("caller", true));
    // The first pause stays as it is.
    let again = pause(&stack, account, "another reason").await.unwrap();
    assert_eq!(again, paused);

    let (request, in_books, target) = sample_request(provider, "r");
    let waiting = stack.refund(request).await;
    assert_eq!((waiting.state(), waiting.waiting_for()), (State::Pending, WaitingFor::Resume));
    let stack = stack.restart().await;
    assert_eq!(stack.health_of(account).await, Health::Paused);
    assert_eq!((stack.get("r").await.state(), stack.attempts(target)), (State::Pending, 0));

    let resumed = resume(&stack, account).await.unwrap();
    assert_eq!((resumed.health(), resumed.pause_reason.as_str()), (Health::Serving, ""));
    assert_eq!(resume(&stack, account).await.unwrap().health(), Health::Serving, "once more is no error");
    stack.until("r", is_processed).await;
    assert_eq!((stack.attempts(target), stack.effects(in_books)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_is_looked_up_during_a_pause_and_not_sent_again() {
    let stack = Stack::start_as(|configuration| without_lookups(&configuration, 1)).await;
    let (request, in_books, target) = sample_request(Provider::Debitsuccess, "lost");
    stack.arm(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(request).await.state(), State::InDoubt);
    pause(&stack, "debitsuccess", "a wrong price list").await.unwrap();
    // Two absences a settle time apart would lead to another attempt.
    let refund = stack.reconcile("lost").await.unwrap();
    assert_eq!(refund.state(), State::InDoubt);
    let looked_up = async {
        while stack.reconcile("lost").await.unwrap().doubt.unwrap().check_count < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        }
    };
    tokio::time::timeout(LIMIT, looked_up).await.unwrap();
    assert_eq!((stack.attempts(target), stack.effects(in_books)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_cannot_send_again_during_a_pause() {
    let stack = Stack::start().await;
    let id = "review";
    let refund = stack.refund(debitsuccess(id, "DSCODE14143", 1250)).await;
    assert_eq!(refund.state(), State::NeedsReview);
    pause(&stack, "debitsuccess", "investigating").await.unwrap();
    let refused = stack.resolve(id, Resolution::SendAgain).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "ACCOUNT_PAUSED".to_owned()));
    assert_eq!(metadata(&refused, "account"), "debitsuccess");
    assert_eq!(stack.get(id).await.revision, refund.revision);
    assert_eq!(stack.resolve(id, Resolution::NotRefunded).await.unwrap().state(), State::Failed);
    assert_eq!((stack.attempts("DSCODE14143"), stack.effects("DSCODE14143")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_request_names_every_field() {
    let stack = Stack::start().await;
    let refused = pause(&stack, "No such!", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(wrong_fields(&refused), ["account", "reason"]);
    for refused in [pause(&stack, "unknown", "x").await, resume(&stack, "unknown").await] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "ACCOUNT_NOT_FOUND".to_owned()));
    }
    assert_eq!(stack.health_of("sectigo").await, Health::Serving);
    assert_eq!(stack.effects("1000001"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_pauses_and_resumes() {
    let stack = Stack::start().await;
    let server = format!("http://{}", stack.app.addr());
    let accounts = async |arguments: &[&str]| {
        let all: Vec<String> =
            ["accounts", "--server", &server].iter().chain(arguments).map(|text| (*text).to_owned()).collect();
        let output = tokio::task::spawn_blocking(move || run(&all.iter().map(String::as_str).collect::<Vec<_>>()));
        output.await.unwrap()
    };
    let paused = accounts(&["pause", "sectigo", "--reason", "a wrong price list"]).await;
    let line = String::from_utf8(paused.stdout).unwrap();
    assert_eq!(line, "sectigo is paused by caller: a wrong price list. 0 refunds wait.\n");
    assert_eq!(stack.refund(sectigo("r", "1000001")).await.waiting_for(), WaitingFor::Resume);
    let resumed = accounts(&["resume", "sectigo"]).await;
    assert!(resumed.status.success());
    stack.until("r", is_processed).await;
    let refused = accounts(&["pause", "sectigo"]).await;
    assert_eq!(refused.status.code(), Some(2), "--reason is required");
    assert_eq!(stack.effects("1000001"), 1);
}
