//! Arguments that several subcommands share, and how each of them reads and prints a refund.

use std::io::{BufRead as _, Write as _};

use clap::{Args, ValueEnum};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;

use crate::cli::client::{Connection, READ_TIMEOUT, failure_of, with_timeout};
use crate::cli::{Failure, output};

#[derive(Args)]
pub(super) struct RefundArg {
    /// The refund's id.
    #[arg(value_name = "ID")]
    id: String,
}

/// A refund's state on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
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
    #[value(alias = "awaiting_approval")]
    AwaitingApproval,
}

impl RefundArg {
    /// The resource name. The argument may be one already.
    pub(super) fn name(&self) -> String {
        if self.id.starts_with("refunds/") { self.id.clone() } else { format!("refunds/{}", self.id) }
    }
}

impl StateArg {
    pub(super) fn to_proto(self) -> State {
        match self {
            StateArg::Pending => State::Pending,
            StateArg::Dispatching => State::Dispatching,
            StateArg::Submitted => State::Submitted,
            StateArg::InDoubt => State::InDoubt,
            StateArg::NeedsReview => State::NeedsReview,
            StateArg::Succeeded => State::Succeeded,
            StateArg::PartiallySucceeded => State::PartiallySucceeded,
            StateArg::Failed => State::Failed,
            StateArg::Cancelled => State::Cancelled,
            StateArg::AwaitingApproval => State::AwaitingApproval,
        }
    }
}

/// Reads the refund's present state.
pub(super) async fn get(
    client: &mut RefundServiceClient<Connection>,
    refund: &RefundArg,
) -> Result<proto::Refund, Failure> {
    let request = with_timeout(READ_TIMEOUT, proto::GetRefundRequest { name: refund.name() });
    let answer = client.get_refund(request).await.map_err(|status| failure_of(&status))?.into_inner();
    required(answer.refund)
}

/// The refund of an answer, as text or JSON.
pub(super) fn render(refund: Option<proto::Refund>, json: bool) -> Result<String, Failure> {
    let refund = required(refund)?;
    if json {
        return output::json(&output::RefundOutput {
            refund: output::Json::from_message("recoup.v1.Refund", &refund)?,
            events: None,
        });
    }
    Ok(output::refund(&refund))
}

/// Asks the user at the terminal. True if the answer is yes.
pub(super) fn ask(question: &str) -> bool {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "\n{question}").and_then(|()| stderr.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}

fn required(refund: Option<proto::Refund>) -> Result<proto::Refund, Failure> {
    refund.ok_or_else(|| {
        Failure::new("the gateway's answer contains no refund: the gateway and this program have different versions")
    })
}
