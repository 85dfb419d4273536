//! `recoup refunds resolve`: an operator's decision on a refund that needs one.
//!
//! The decision is about a state that the operator has seen. The request carries the etag of that
//! state, and the gateway rejects the decision if the refund has changed since. Without `--etag`
//! the command shows the refund first, and the operator must confirm.

use std::io::IsTerminal as _;

use clap::Args;
use recoup::domain::money::{Currency, parse_minor_units};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::{ItemResolution, Resolution};

use super::arguments::{RefundArg, ask, get, render};
use crate::cli::client::{Connection, PROVIDER_TIMEOUT, failure_of, with_timeout};
use crate::cli::{Failure, output, print_line};

/// The arguments of `recoup refunds resolve`.
#[derive(Args)]
pub(super) struct ResolveArguments {
    #[command(flatten)]
    refund: RefundArg,
    #[command(flatten)]
    resolution: ResolutionArg,
    /// Decide a refund that is still IN_DOUBT or SUBMITTED, before the gateway has found out the
    /// outcome. An earlier attempt may still take effect afterwards.
    #[arg(long, conflicts_with = "send_again")]
    take_over: bool,
    /// The refunded amount, if known: 12.50.
    #[arg(long, conflicts_with_all = ["not_refunded", "send_again"], requires = "currency", value_name = "DECIMAL", value_parser = parse_amount)]
    amount: Option<i64>,
    /// The amount's currency: AUD.
    #[arg(long, requires = "amount", value_name = "CODE", value_parser = parse_currency)]
    currency: Option<Currency>,
    /// The evidence: a ticket, the provider's reference.
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    /// The etag of the state on which the decision is based. Default: the present state, which is
    /// shown and must be confirmed.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Confirm the shown state without being asked.
    #[arg(long, conflicts_with = "etag")]
    yes: bool,
}

/// The operator's decision.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct ResolutionArg {
    /// The money was refunded.
    #[arg(long)]
    refunded: bool,
    /// The money was not refunded and will not be.
    #[arg(long)]
    not_refunded: bool,
    /// The money was not refunded; authorises one new attempt.
    #[arg(long)]
    send_again: bool,
    /// The outcome of each requested item of a name.com order if only some were refunded:
    /// 71=refunded,72=not.
    #[arg(long, value_name = "ID=refunded|not", value_delimiter = ',', value_parser = parse_item)]
    items: Vec<ItemArgument>,
}

/// The operator's decision on one item.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ItemArgument {
    id: String,
    refunded: bool,
}

/// Printed before a decision that does not wait for the gateway's lookups.
const TAKE_OVER_WARNING: &str = "recoup: the gateway has not found out the outcome yet: an attempt may still take effect \
                                 at the provider after this decision";

/// Runs `recoup refunds resolve`.
pub(super) async fn resolve(
    client: &mut RefundServiceClient<Connection>,
    arguments: ResolveArguments,
    json: bool,
) -> Result<String, Failure> {
    let resolution = arguments.resolution.to_proto();
    if arguments.take_over {
        print_line(&mut std::io::stderr(), TAKE_OVER_WARNING);
    }
    let etag = match &arguments.etag {
        Some(etag) => etag.clone(),
        None => {
            let refund = get(client, &arguments.refund).await?;
            // Standard output is for the result.
            print_line(&mut std::io::stderr(), &output::refund(&refund));
            confirm(&refund, &arguments.resolution, arguments.yes)?;
            refund.etag
        }
    };
    let refunded_amount = arguments
        .currency
        .zip(arguments.amount)
        .map(|(currency, minor_units)| proto::Money { currency_code: currency.code().to_owned(), minor_units });
    let request = proto::ResolveRefundRequest {
        name: arguments.refund.name(),
        etag,
        resolution: resolution.into(),
        evidence: arguments.evidence,
        refunded_amount,
        items: arguments.resolution.items.into_iter().map(ItemArgument::into_proto).collect(),
        take_over: arguments.take_over,
    };
    let answer = client
        .resolve_refund(with_timeout(PROVIDER_TIMEOUT, request))
        .await
        .map_err(|status| failure_of(&status))?
        .into_inner();
    render(answer.refund, json)
}

/// Asks at a terminal; elsewhere only `--yes` confirms.
fn confirm(refund: &proto::Refund, resolution: &ResolutionArg, yes: bool) -> Result<(), Failure> {
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
    match ask(&format!("Your decision on this refund: {}. Type yes to confirm: ", resolution.description())) {
        true => Ok(()),
        false => Err(Failure::new("nothing was changed")),
    }
}

impl ResolutionArg {
    fn to_proto(&self) -> Resolution {
        if self.refunded || !self.items.is_empty() {
            Resolution::Refunded
        } else if self.not_refunded {
            Resolution::NotRefunded
        } else {
            Resolution::SendAgain
        }
    }

    fn description(&self) -> String {
        let with = |refunded: bool| {
            let ids = self.items.iter().filter(|item| item.refunded == refunded).map(|item| item.id.as_str());
            ids.collect::<Vec<&str>>().join(", ")
        };
        match self.to_proto() {
            _ if !self.items.is_empty() => {
                format!("refunded items: {}; items not refunded: {}", with(true), with(false))
            }
            Resolution::Refunded => "the money was refunded".to_owned(),
            Resolution::NotRefunded => "no money was refunded, and none will be".to_owned(),
            _ => "no money was refunded, and the refund is to be sent once more".to_owned(),
        }
    }
}

impl ItemArgument {
    fn into_proto(self) -> ItemResolution {
        ItemResolution { item_id: self.id, refunded: self.refunded, refunded_amount: None }
    }
}

fn parse_item(text: &str) -> Result<ItemArgument, String> {
    let form = || "must be an item with what became of it, such as 71=refunded or 72=not".to_owned();
    let (id, outcome) = text.trim().split_once('=').ok_or_else(form)?;
    let refunded = match outcome {
        "refunded" => true,
        "not" => false,
        _ => return Err(form()),
    };
    if id.is_empty() { Err(form()) } else { Ok(ItemArgument { id: id.to_owned(), refunded }) }
}

/// A decimal above zero with at most two places. A third one would have to be rounded, and a
/// decision must be exact.
fn parse_amount(text: &str) -> Result<i64, String> {
    let places = text.split_once('.').map_or(0, |(_, places)| places.len());
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match parse_minor_units(text) {
        Ok(hundredths) if hundredths > 0 && plain && places <= 2 => Ok(hundredths),
        _ => Err("must be a decimal number above zero with at most two places, such as 12.50".to_owned()),
    }
}

fn parse_currency(text: &str) -> Result<Currency, String> {
    Currency::parse(text).map_err(|problem| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_needs_an_id_and_an_outcome() {
        assert_eq!(parse_item("71=refunded"), Ok(ItemArgument { id: "71".to_owned(), refunded: true }));
        assert_eq!(parse_item("72=not"), Ok(ItemArgument { id: "72".to_owned(), refunded: false }));
        for wrong in ["", "71", "71=", "=not", "71=yes", "71=refunded=not"] {
            assert!(parse_item(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_amount_is_exact_to_the_cent_or_rejected() {
        assert_eq!(parse_amount("12.50"), Ok(1250));
        assert_eq!(parse_amount("7"), Ok(700));
        for wrong in ["", "0", "-1", "1.005", "1e3", "12,50", "NaN", ".5."] {
            assert!(parse_amount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_amount("0.05"), Ok(5));
    }
}
