//! `recoup refunds resolve`: a person's word on a refund that needs one.
//!
//! The word is given on a state that the person has looked at: its etag goes along, and the gateway
//! refuses the word where the refund has changed since. Who has no etag at hand is shown the refund
//! first, and must confirm that this is what the word is about.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use recoup::domain::money::{Currency, parse_minor_units};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::{ItemResolution, Resolution};
use tonic::transport::Channel;

use super::{Which, get, told};
use crate::cli::client::{ASKING, refusal, within};
use crate::cli::{Failure, output, say};

/// The arguments of `recoup refunds resolve`.
#[derive(Args)]
pub(super) struct ResolveArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    word: Word,
    /// Decide a refund that is still IN_DOUBT or SUBMITTED, before the gateway has finished finding
    /// out. A late effect of an attempt may still arrive.
    #[arg(long, conflicts_with = "send_again")]
    take_over: bool,
    /// How much was given back, where known: 12.50.
    #[arg(long, conflicts_with_all = ["not_refunded", "send_again"], requires = "currency", value_name = "DECIMAL", value_parser = amount)]
    amount: Option<i64>,
    /// The amount's currency: AUD.
    #[arg(long, requires = "amount", value_name = "CODE", value_parser = currency)]
    currency: Option<Currency>,
    /// Where the evidence is: a ticket, the provider's own reference.
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    /// The etag of the state that the decision is based on. Left out: the present state is shown
    /// and must be confirmed.
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    /// Confirm the state that is shown without being asked.
    #[arg(long, conflicts_with = "etag")]
    yes: bool,
}

/// What the person found out.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Word {
    /// The money was given back.
    #[arg(long)]
    refunded: bool,
    /// It was not, and is not to be.
    #[arg(long)]
    not_refunded: bool,
    /// It was not, and is to be sent once more: this authorises one new attempt.
    #[arg(long)]
    send_again: bool,
    /// What became of each requested item of a name.com order, some given back and some not:
    /// 71=refunded,72=not.
    #[arg(long, value_name = "ID=refunded|not", value_delimiter = ',', value_parser = item)]
    items: Vec<ItemArgument>,
}

/// A person's decision on one item.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ItemArgument {
    id: String,
    refunded: bool,
}

/// Printed before a decision that does not wait for the gateway's lookups.
const MAY_STILL_ARRIVE: &str = "recoup: the gateway has not finished finding out: an attempt that is still on its way at \
                                the provider may take effect after this decision";

/// Runs `recoup refunds resolve`.
pub(super) async fn resolve(
    client: &mut RefundServiceClient<Channel>,
    arguments: ResolveArguments,
    json: bool,
) -> Result<String, Failure> {
    let resolution = arguments.word.resolution();
    if arguments.take_over {
        say(&mut std::io::stderr(), MAY_STILL_ARRIVE);
    }
    let etag = match &arguments.etag {
        Some(etag) => etag.clone(),
        None => {
            let refund = get(client, &arguments.which).await?;
            // Standard output is for the result.
            say(&mut std::io::stderr(), &output::refund(&refund));
            confirm(&refund, &arguments.word, arguments.yes)?;
            refund.etag
        }
    };
    let refunded_amount = arguments
        .currency
        .zip(arguments.amount)
        .map(|(currency, minor_units)| proto::Money { currency_code: currency.code().to_owned(), minor_units });
    let request = proto::ResolveRefundRequest {
        name: arguments.which.name(),
        etag,
        resolution: resolution.into(),
        evidence: arguments.evidence,
        refunded_amount,
        items: arguments.word.items.into_iter().map(ItemArgument::into_proto).collect(),
        take_over: arguments.take_over,
    };
    let answer = client.resolve_refund(within(ASKING, request)).await.map_err(|status| refusal(&status))?.into_inner();
    told(answer.refund, json)
}

/// Asks on a terminal; elsewhere only `--yes` confirms.
fn confirm(refund: &proto::Refund, word: &Word, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let sentence = format!(
            "nothing was changed: without --etag the state above must be confirmed, by --yes or on a terminal (its etag is {})",
            refund.etag
        );
        return Err(Failure::usage(sentence));
    }
    match asked(&format!("Your decision on this refund: {}. Type yes to give it: ", word.in_words())) {
        true => Ok(()),
        false => Err(Failure::new("nothing was changed")),
    }
}

/// Whether the person at the terminal types yes.
pub(super) fn asked(question: &str) -> bool {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "\n{question}").and_then(|()| stderr.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}

impl Word {
    fn resolution(&self) -> Resolution {
        if self.refunded || !self.items.is_empty() {
            Resolution::Refunded
        } else if self.not_refunded {
            Resolution::NotRefunded
        } else {
            Resolution::SendAgain
        }
    }

    fn in_words(&self) -> String {
        let with = |refunded: bool| {
            let ids = self.items.iter().filter(|item| item.refunded == refunded).map(|item| item.id.as_str());
            ids.collect::<Vec<&str>>().join(", ")
        };
        match self.resolution() {
            _ if !self.items.is_empty() => {
                format!("items given back: {}; items not given back: {}", with(true), with(false))
            }
            Resolution::Refunded => "the money was given back".to_owned(),
            Resolution::NotRefunded => "no money was given back, and none is to be".to_owned(),
            _ => "no money was given back, and it is to be sent once more".to_owned(),
        }
    }
}

impl ItemArgument {
    fn into_proto(self) -> ItemResolution {
        ItemResolution { item_id: self.id, refunded: self.refunded, refunded_amount: None }
    }
}

fn item(text: &str) -> Result<ItemArgument, String> {
    let form = || "must be an item with what became of it, such as 71=refunded or 72=not".to_owned();
    let (id, word) = text.trim().split_once('=').ok_or_else(form)?;
    let refunded = match word {
        "refunded" => true,
        "not" => false,
        _ => return Err(form()),
    };
    if id.is_empty() { Err(form()) } else { Ok(ItemArgument { id: id.to_owned(), refunded }) }
}

/// A decimal above zero with at most two places: a third one would be rounded, and a person's word
/// is not.
fn amount(text: &str) -> Result<i64, String> {
    let places = text.split_once('.').map_or(0, |(_, places)| places.len());
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match parse_minor_units(text) {
        Ok(hundredths) if hundredths > 0 && plain && places <= 2 => Ok(hundredths),
        _ => Err("must be a decimal number above zero with at most two places, such as 12.50".to_owned()),
    }
}

fn currency(text: &str) -> Result<Currency, String> {
    Currency::parse(text).map_err(|problem| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_comes_with_what_became_of_it() {
        assert_eq!(item("71=refunded"), Ok(ItemArgument { id: "71".to_owned(), refunded: true }));
        assert_eq!(item("72=not"), Ok(ItemArgument { id: "72".to_owned(), refunded: false }));
        for wrong in ["", "71", "71=", "=not", "71=yes", "71=refunded=not"] {
            assert!(item(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_amount_is_read_to_the_cent_or_not_at_all() {
        assert_eq!(amount("12.50"), Ok(1250));
        assert_eq!(amount("7"), Ok(700));
        for wrong in ["", "0", "-1", "1.005", "1e3", "12,50", "NaN", ".5."] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(amount("0.05"), Ok(5));
    }
}
