//! `recoup refunds`: list, show, reconcile, resolve, reassign, cancel, through the gRPC API of a
//! running gateway.

mod resolve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tonic::transport::Channel;

use super::client::{ASKING, READING, connect, refusal, within};
use super::{Failure, output, say};
use resolve::{ResolveArguments, asked, resolve};

/// The arguments of `recoup refunds`.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done, 1 the gateway refused or cannot be reached, 2 the command line is wrong.")]
pub(crate) struct RefundsArguments {
    /// Where the gateway is.
    #[arg(long, env = "RECOUP_SERVER", default_value = "http://127.0.0.1:50051", value_name = "URL", global = true)]
    server: String,
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
    /// Show one refund: how it stands, its doubt, its history.
    Show(Which),
    /// Ask the provider now what became of a refund.
    Reconcile(Which),
    /// Give a person's word on a refund that needs one.
    Resolve(ResolveArguments),
    /// Let a refund whose account is gone or has changed go on at an account as it is configured
    /// now.
    Reassign(ReassignArguments),
    /// Withdraw a refund that is PENDING: its provider has processed nothing of it.
    Cancel(CancelArguments),
}

#[derive(Args)]
struct ListArguments {
    /// Only refunds in one of these states (repeat it, or separate them by commas).
    #[arg(long, value_name = "STATE", value_enum, ignore_case = true, value_delimiter = ',')]
    state: Vec<StateWord>,
    /// Only refunds of this account.
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only refunds of this Sectigo order number, name.com order id or Debitsuccess account
    /// reference.
    #[arg(long, value_name = "REFERENCE")]
    target: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Args)]
pub(super) struct Which {
    /// The refund's id.
    #[arg(value_name = "ID")]
    pub(super) id: String,
}

#[derive(Args)]
struct CancelArguments {
    #[command(flatten)]
    which: Which,
    /// Only if the refund still has this etag.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
}

#[derive(Args)]
struct ReassignArguments {
    #[command(flatten)]
    which: Which,
    /// The configured account of the same provider and currency where the refund goes on.
    #[arg(long, value_name = "ACCOUNT")]
    account: String,
    /// The evidence that both are the same books at the provider.
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    /// The etag of the state that the decision is based on. Left out: the present state, which a
    /// person at a terminal is shown and asked about.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Do not ask.
    #[arg(long, conflicts_with = "etag")]
    yes: bool,
}

/// A state as it is written on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateWord {
    Pending,
    Dispatching,
    Submitted,
    #[value(alias = "in_doubt")]
    InDoubt,
    #[value(alias = "needs_review")]
    NeedsReview,
    Succeeded,
    #[value(alias = "partially_succeeded")]
    PartiallySucceeded,
    Failed,
    Cancelled,
}

/// A page of the gateway, at most.
const PAGE: u32 = 1_000;

/// Runs `recoup refunds`.
pub(crate) async fn refunds(arguments: RefundsArguments) -> ExitCode {
    let RefundsArguments { server, json, action } = arguments;
    let done = async {
        let mut client = connect(&server).await?;
        match action {
            Action::List(arguments) => list(&mut client, arguments, json).await,
            Action::Show(which) => show(&mut client, &which, json).await,
            Action::Reconcile(which) => reconcile(&mut client, &which, json).await,
            Action::Resolve(arguments) => resolve(&mut client, arguments, json).await,
            Action::Reassign(arguments) => reassign(&mut client, arguments, json).await,
            Action::Cancel(arguments) => cancel(&mut client, arguments, json).await,
        }
    };
    match done.await {
        Ok(text) => {
            say(&mut std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.say(json),
    }
}

async fn list(
    client: &mut RefundServiceClient<Channel>,
    arguments: ListArguments,
    json: bool,
) -> Result<String, Failure> {
    let filter = proto::RefundFilter {
        states: arguments.state.iter().map(|state| state.number()).collect(),
        account: arguments.account.unwrap_or_default(),
        target_reference: arguments.target.unwrap_or_default(),
        ..Default::default()
    };
    let mut all = proto::ListRefundsResponse::default();
    let mut missing = arguments.limit;
    while missing > 0 {
        let request = proto::ListRefundsRequest {
            page_size: i32::try_from(missing.min(PAGE)).unwrap_or(i32::MAX),
            page_token: std::mem::take(&mut all.next_page_token),
            filter: Some(filter.clone()),
        };
        let page = client.list_refunds(within(READING, request)).await.map_err(|status| refusal(&status))?.into_inner();
        missing = missing.saturating_sub(u32::try_from(page.refunds.len()).unwrap_or(u32::MAX));
        all.refunds.extend(page.refunds);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    if json {
        return output::json(&output::Json::of("recoup.v1.ListRefundsResponse", &all)?);
    }
    let more = if all.next_page_token.is_empty() {
        String::new()
    } else {
        format!("\nThere are more: --limit says how many are shown, {} now.", all.refunds.len())
    };
    if all.refunds.is_empty() {
        return Ok("No such refund.".to_owned());
    }
    Ok(format!("{}{more}", output::table(&all.refunds)))
}

async fn show(client: &mut RefundServiceClient<Channel>, which: &Which, json: bool) -> Result<String, Failure> {
    let refund = get(client, which).await?;
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListRefundEventsRequest {
            name: which.name(),
            page_size: i32::try_from(PAGE).unwrap_or(i32::MAX),
            page_token,
        };
        let page =
            client.list_refund_events(within(READING, request)).await.map_err(|status| refusal(&status))?.into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !json {
        return Ok(format!("{}\n\n{}", output::refund(&refund), output::history(&events)));
    }
    output::json(&output::Told {
        refund: output::Json::of("recoup.v1.Refund", &refund)?,
        events: Some(
            events
                .iter()
                .map(|event| output::Json::of("recoup.v1.RefundEvent", event))
                .collect::<Result<_, Failure>>()?,
        ),
    })
}

async fn reconcile(client: &mut RefundServiceClient<Channel>, which: &Which, json: bool) -> Result<String, Failure> {
    let request = within(ASKING, proto::ReconcileRefundRequest { name: which.name() });
    let answer = client.reconcile_refund(request).await.map_err(|status| refusal(&status))?.into_inner();
    told(answer.refund, json)
}

async fn reassign(
    client: &mut RefundServiceClient<Channel>,
    arguments: ReassignArguments,
    json: bool,
) -> Result<String, Failure> {
    let ReassignArguments { which, account, evidence, etag, yes } = arguments;
    let etag = match etag {
        Some(etag) => etag,
        None => {
            let refund = get(client, &which).await?;
            if !yes && std::io::stdin().is_terminal() {
                say(&mut std::io::stderr(), &output::refund(&refund));
                if !asked(&format!("Let this refund go on at the account {account}? Type yes: ")) {
                    return Err(Failure::new("nothing was changed"));
                }
            }
            refund.etag
        }
    };
    let request = proto::ReassignRefundRequest { name: which.name(), etag, account, evidence };
    let answer = client.reassign_refund(within(READING, request)).await.map_err(|status| refusal(&status))?;
    told(answer.into_inner().refund, json)
}

async fn cancel(
    client: &mut RefundServiceClient<Channel>,
    arguments: CancelArguments,
    json: bool,
) -> Result<String, Failure> {
    let CancelArguments { which, etag } = arguments;
    let request = proto::CancelRefundRequest { name: which.name(), etag: etag.unwrap_or_default() };
    let answer = client.cancel_refund(within(READING, request)).await.map_err(|status| refusal(&status))?.into_inner();
    told(answer.refund, json)
}

/// The refund as it stands.
pub(super) async fn get(client: &mut RefundServiceClient<Channel>, which: &Which) -> Result<proto::Refund, Failure> {
    let request = within(READING, proto::GetRefundRequest { name: which.name() });
    let answer = client.get_refund(request).await.map_err(|status| refusal(&status))?.into_inner();
    present(answer.refund)
}

/// The refund of an answer, as text or JSON.
pub(super) fn told(refund: Option<proto::Refund>, json: bool) -> Result<String, Failure> {
    let refund = present(refund)?;
    if json {
        return output::json(&output::Told { refund: output::Json::of("recoup.v1.Refund", &refund)?, events: None });
    }
    Ok(output::refund(&refund))
}

fn present(refund: Option<proto::Refund>) -> Result<proto::Refund, Failure> {
    refund.ok_or_else(|| Failure::new("the gateway's answer holds no refund: its version is not this program's"))
}

impl Which {
    /// The resource's name, also where it was given whole.
    pub(super) fn name(&self) -> String {
        if self.id.starts_with("refunds/") { self.id.clone() } else { format!("refunds/{}", self.id) }
    }
}

impl StateWord {
    fn number(self) -> i32 {
        i32::from(match self {
            StateWord::Pending => State::Pending,
            StateWord::Dispatching => State::Dispatching,
            StateWord::Submitted => State::Submitted,
            StateWord::InDoubt => State::InDoubt,
            StateWord::NeedsReview => State::NeedsReview,
            StateWord::Succeeded => State::Succeeded,
            StateWord::PartiallySucceeded => State::PartiallySucceeded,
            StateWord::Failed => State::Failed,
            StateWord::Cancelled => State::Cancelled,
        })
    }
}
