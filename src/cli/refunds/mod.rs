//! `recoup refunds`: list, show, reconcile, resolve, reassign, cancel, approve and
//! reject refunds through the gRPC API of a running gateway.

mod approval;
mod arguments;
mod resolve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use recoup::proto::v1 as proto;
use recoup::proto::v1::approval_decision::Verdict;
use recoup::proto::v1::refund_service_client::RefundServiceClient;

use self::approval::{ApprovalArguments, decide};
use self::arguments::{RefundArg, StateArg, ask, get, render};
use self::resolve::{ResolveArguments, resolve};
use super::client::{Connection, PROVIDER_TIMEOUT, READ_TIMEOUT, connect, failure_of, with_timeout};
use super::context::ClientArguments;
use super::{Failure, output, print_line};

/// The arguments of `recoup refunds`.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done, 1 the gateway refused or cannot be reached, 2 the command line is wrong.")]
pub(crate) struct RefundsArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Print JSON with the contract's field names (an error too, on standard error).
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List refunds, newest first.
    List(ListArguments),
    /// Show one refund: its state, its doubt, its history.
    Show(RefundArg),
    /// Look up a refund at its provider now.
    Reconcile(RefundArg),
    /// Decide a refund that needs an operator's decision.
    Resolve(ResolveArguments),
    /// Continue a refund whose account is gone or has changed at a configured account.
    Reassign(ReassignArguments),
    /// Cancel a refund that is PENDING or AWAITING_APPROVAL, which its provider has not processed.
    Cancel(CancelArguments),
    /// Approve a refund that waits for a second person.
    Approve(ApprovalArguments),
    /// Reject a refund that waits for a second person.
    Reject(ApprovalArguments),
}

#[derive(Args)]
struct ListArguments {
    /// Only refunds in one of these states (repeat it, or separate them by commas).
    #[arg(long, value_name = "STATE", value_enum, ignore_case = true, value_delimiter = ',')]
    state: Vec<StateArg>,
    /// Only refunds of this account.
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only refunds of this Sectigo order number, name.com order id or Debitsuccess account
    /// reference.
    #[arg(long, value_name = "REFERENCE")]
    target: Option<String>,
    /// Maximum of refunds to list.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Args)]
struct CancelArguments {
    #[command(flatten)]
    refund: RefundArg,
    /// Only if the refund still has this etag.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
}

#[derive(Args)]
struct ReassignArguments {
    #[command(flatten)]
    refund: RefundArg,
    /// The configured account, of the same provider and currency, at which the refund continues.
    #[arg(long, value_name = "ACCOUNT")]
    account: String,
    /// The evidence that both accounts are the same account at the provider.
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    /// The etag of the state on which the decision is based. Default: the present state, which is
    /// shown at a terminal and must be confirmed there.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long, conflicts_with = "etag")]
    yes: bool,
}

/// The gateway's maximum page size.
const MAX_PAGE_SIZE: u32 = 1_000;

/// Runs `recoup refunds`.
pub(crate) async fn refunds(arguments: RefundsArguments) -> ExitCode {
    let RefundsArguments { client, json, action } = arguments;
    let result = async {
        let mut client = connect(&client.resolve(None)?).await?;
        match action {
            Action::List(arguments) => list(&mut client, arguments, json).await,
            Action::Show(refund) => show(&mut client, &refund, json).await,
            Action::Reconcile(refund) => reconcile(&mut client, &refund, json).await,
            Action::Resolve(arguments) => resolve(&mut client, arguments, json).await,
            Action::Reassign(arguments) => reassign(&mut client, arguments, json).await,
            Action::Cancel(arguments) => cancel(&mut client, arguments, json).await,
            Action::Approve(arguments) => decide(&mut client, arguments, Verdict::Approved, json).await,
            Action::Reject(arguments) => decide(&mut client, arguments, Verdict::Rejected, json).await,
        }
    };
    match result.await {
        Ok(text) => {
            print_line(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(json),
    }
}

async fn list(
    client: &mut RefundServiceClient<Connection>,
    arguments: ListArguments,
    json: bool,
) -> Result<String, Failure> {
    let filter = proto::RefundFilter {
        states: arguments.state.iter().map(|state| state.to_proto().into()).collect(),
        account: arguments.account.unwrap_or_default(),
        target_reference: arguments.target.unwrap_or_default(),
        ..Default::default()
    };
    let mut all = proto::ListRefundsResponse::default();
    let mut remaining = arguments.limit;
    while remaining > 0 {
        let request = proto::ListRefundsRequest {
            page_size: i32::try_from(remaining.min(MAX_PAGE_SIZE)).unwrap_or(i32::MAX),
            page_token: std::mem::take(&mut all.next_page_token),
            filter: Some(filter.clone()),
        };
        let page = client
            .list_refunds(with_timeout(READ_TIMEOUT, request))
            .await
            .map_err(|status| failure_of(&status))?
            .into_inner();
        remaining = remaining.saturating_sub(u32::try_from(page.refunds.len()).unwrap_or(u32::MAX));
        all.refunds.extend(page.refunds);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    if json {
        return output::json(&output::Json::from_message("recoup.v1.ListRefundsResponse", &all)?);
    }
    let more = if all.next_page_token.is_empty() {
        String::new()
    } else {
        format!("\nThere are more refunds; --limit sets how many are shown (now {}).", all.refunds.len())
    };
    if all.refunds.is_empty() {
        return Ok("No refunds found.".to_owned());
    }
    Ok(format!("{}{more}", output::table(&all.refunds)))
}

async fn show(
    client: &mut RefundServiceClient<Connection>,
    refund_arg: &RefundArg,
    json: bool,
) -> Result<String, Failure> {
    let refund = get(client, refund_arg).await?;
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListRefundEventsRequest {
            name: refund_arg.name(),
            page_size: i32::try_from(MAX_PAGE_SIZE).unwrap_or(i32::MAX),
            page_token,
        };
        let page = client
            .list_refund_events(with_timeout(READ_TIMEOUT, request))
            .await
            .map_err(|status| failure_of(&status))?
            .into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !json {
        return Ok(format!("{}\n\n{}", output::refund(&refund), output::history(&events)));
    }
    output::json(&output::RefundOutput {
        refund: output::Json::from_message("recoup.v1.Refund", &refund)?,
        events: Some(
            events
                .iter()
                .map(|event| output::Json::from_message("recoup.v1.RefundEvent", event))
                .collect::<Result<_, Failure>>()?,
        ),
    })
}

async fn reconcile(
    client: &mut RefundServiceClient<Connection>,
    refund_arg: &RefundArg,
    json: bool,
) -> Result<String, Failure> {
    let request = with_timeout(PROVIDER_TIMEOUT, proto::ReconcileRefundRequest { name: refund_arg.name() });
    let answer = client.reconcile_refund(request).await.map_err(|status| failure_of(&status))?.into_inner();
    render(answer.refund, json)
}

async fn reassign(
    client: &mut RefundServiceClient<Connection>,
    arguments: ReassignArguments,
    json: bool,
) -> Result<String, Failure> {
    let ReassignArguments { refund: refund_arg, account, evidence, etag, yes } = arguments;
    let etag = match etag {
        Some(etag) => etag,
        None => {
            let refund = get(client, &refund_arg).await?;
            if !yes && std::io::stdin().is_terminal() {
                print_line(&mut std::io::stderr(), &output::refund(&refund));
                if !ask(&format!("Continue this refund at the account {account}? Type yes to confirm: ")) {
                    return Err(Failure::new("nothing was changed"));
                }
            }
            refund.etag
        }
    };
    let request = proto::ReassignRefundRequest { name: refund_arg.name(), etag, account, evidence };
    let answer =
        client.reassign_refund(with_timeout(READ_TIMEOUT, request)).await.map_err(|status| failure_of(&status))?;
    render(answer.into_inner().refund, json)
}

async fn cancel(
    client: &mut RefundServiceClient<Connection>,
    arguments: CancelArguments,
    json: bool,
) -> Result<String, Failure> {
    let CancelArguments { refund, etag } = arguments;
    let request = proto::CancelRefundRequest { name: refund.name(), etag: etag.unwrap_or_default() };
    let answer = client
        .cancel_refund(with_timeout(READ_TIMEOUT, request))
        .await
        .map_err(|status| failure_of(&status))?
        .into_inner();
    render(answer.refund, json)
}
