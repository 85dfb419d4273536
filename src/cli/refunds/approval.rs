//! `recoup refunds approve` and `reject`: a second person's decision on a refund.
//!
//! The decision is about a state that the person has seen: as for `resolve`, the command shows the
//! refund and asks, unless `--etag` names the state.

use std::io::IsTerminal as _;

use clap::Args;
use recoup::proto::v1 as proto;
use recoup::proto::v1::approval_decision::Verdict;
use recoup::proto::v1::refund_service_client::RefundServiceClient;

use super::arguments::{RefundArg, ask, get, render};
use crate::cli::client::{Connection, READ_TIMEOUT, failure_of, with_timeout};
use crate::cli::{Failure, output, print_line};

/// The arguments of `recoup refunds approve` and `reject`.
#[derive(Args)]
pub(super) struct ApprovalArguments {
    #[command(flatten)]
    refund: RefundArg,
    /// Why; a rejection needs one.
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    /// The etag of the state on which the decision is based. Default: the present state, which is
    /// shown and must be confirmed.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Confirm the shown state without being asked.
    #[arg(long, conflicts_with = "etag")]
    yes: bool,
}

/// Runs `recoup refunds approve` or `reject`.
pub(super) async fn decide(
    client: &mut RefundServiceClient<Connection>,
    arguments: ApprovalArguments,
    verdict: Verdict,
    json: bool,
) -> Result<String, Failure> {
    let ApprovalArguments { refund: refund_arg, comment, etag, yes } = arguments;
    let etag = match etag {
        Some(etag) => etag,
        None => {
            let refund = get(client, &refund_arg).await?;
            // Standard output is for the result.
            print_line(&mut std::io::stderr(), &output::refund(&refund));
            confirm(&refund, verdict, yes)?;
            refund.etag
        }
    };
    let name = refund_arg.name();
    let refund = if verdict == Verdict::Rejected {
        let request = with_timeout(READ_TIMEOUT, proto::RejectRefundRequest { name, etag, comment });
        client.reject_refund(request).await.map_err(|status| failure_of(&status))?.into_inner().refund
    } else {
        let request = with_timeout(READ_TIMEOUT, proto::ApproveRefundRequest { name, etag, comment });
        client.approve_refund(request).await.map_err(|status| failure_of(&status))?.into_inner().refund
    };
    render(refund, json)
}

/// Asks at a terminal; elsewhere only `--yes` confirms.
fn confirm(refund: &proto::Refund, verdict: Verdict, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let sentence = format!(
            "nothing was changed: without --etag the state above must be confirmed, with --yes or at a terminal (its etag is {})",
            refund.etag
        );
        return Err(Failure::usage(sentence));
    }
    let decision = if verdict == Verdict::Rejected { "reject it" } else { "approve it" };
    match ask(&format!("Your decision on this refund: {decision}. Type yes to confirm: ")) {
        true => Ok(()),
        false => Err(Failure::new("nothing was changed")),
    }
}
