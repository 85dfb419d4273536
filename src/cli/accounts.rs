//! `recoup accounts`: pauses and resumes accounts through the gRPC API of a running gateway.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use recoup::proto::v1 as proto;
use recoup::proto::v1::account_service_client::AccountServiceClient;

use super::client::{READ_TIMEOUT, connection, failure_of, with_timeout};
use super::context::ClientArguments;
use super::{Failure, output, print_line};

/// The arguments of `recoup accounts`.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done, 1 the gateway refused or cannot be reached, 2 the command line is wrong.")]
pub(crate) struct AccountsArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Print JSON with the contract's field names (an error too, on standard error).
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: AccountAction,
}

#[derive(Subcommand)]
enum AccountAction {
    /// Stop sending refunds of an account, until it is resumed; lookups go on.
    Pause(PauseArguments),
    /// Let a paused account go on.
    Resume(AccountArg),
}

#[derive(Args)]
struct AccountArg {
    /// The account's name in the configuration.
    #[arg(value_name = "NAME")]
    account: String,
}

#[derive(Args)]
struct PauseArguments {
    #[command(flatten)]
    account: AccountArg,
    /// Why: shown to everyone who lists the accounts.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs `recoup accounts`.
pub(crate) async fn accounts(arguments: AccountsArguments) -> ExitCode {
    let AccountsArguments { client, json, action } = arguments;
    let result = async {
        let mut client = AccountServiceClient::new(connection(&client.resolve(None)?).await?);
        let account = match action {
            AccountAction::Pause(PauseArguments { account, reason }) => {
                let request = proto::PauseAccountRequest { account: account.account, reason };
                client
                    .pause_account(with_timeout(READ_TIMEOUT, request))
                    .await
                    .map(|paused| paused.into_inner().account)
            }
            AccountAction::Resume(AccountArg { account }) => {
                let request = proto::ResumeAccountRequest { account };
                let resumed = client.resume_account(with_timeout(READ_TIMEOUT, request)).await;
                resumed.map(|resumed| resumed.into_inner().account)
            }
        };
        let account = account.map_err(|status| failure_of(&status))?;
        let account = account.ok_or_else(|| Failure::new("the gateway's answer has no account"))?;
        if json {
            return output::json(&output::Json::from_message("recoup.v1.Account", &account)?);
        }
        Ok(sentence(&account))
    };
    match result.await {
        Ok(text) => {
            print_line(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(json),
    }
}

/// What the account does now.
fn sentence(account: &proto::Account) -> String {
    let (name, waiting) = (&account.account, account.pending_count);
    match account.health() {
        proto::account::Health::Paused => {
            let (by, reason) = (&account.paused_by, &account.pause_reason);
            format!("{name} is paused by {by}: {reason}. {waiting} refunds wait.")
        }
        health => format!("{name} is not paused; its health is {}. {waiting} refunds wait.", health.as_str_name()),
    }
}
