//! The audit: what is wrong, by the books and the journal alone, and by what a caller says of its
//! refunds.
//!
//! ```text
//! books   -> two effects where there may be one, more given back than was paid, effects of calls that no refund client makes
//! journal -> effects that no caller was told of: neither by their own answer nor by a later one about the same target
//! claims  -> beside the books: success where nothing happened, failure where it did, another amount, effects the caller does not know
//! ```
//!
//! Nothing in it changes anything, and what it finds is sorted, so that two audits of one state are
//! alike.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::{
    record::books::BookEntry,
    record::journal::{Ending, JournalEntry},
    request::Provider,
    worlds::World,
};

/// How many claims one audit takes.
pub const MAX_CLAIMS: usize = 100_000;

/// One refund as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::control::claim_schema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// At which provider.
    pub provider: Provider,
    /// A Sectigo order number, a name.com *item* id, a Debitsuccess account reference (its own or
    /// the external one).
    #[serde(deserialize_with = "text_or_number")]
    #[schemars(extend("type" = ["string", "integer"]))]
    pub target: String,
    /// The key or identifier it was sent under, if any.
    #[serde(default)]
    pub identifier: Option<String>,
    /// What the caller believes was refunded, in hundredths; left out: not compared.
    #[serde(default)]
    pub amount_minor: Option<i64>,
    /// What the caller believes of it.
    #[serde(alias = "outcome", deserialize_with = "in_any_case")]
    #[schemars(with = "String")]
    pub state: Claimed,
}

/// What a caller believes of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claimed {
    /// It happened.
    #[serde(alias = "success", alias = "refunded", alias = "completed", alias = "approved")]
    Succeeded,
    /// It was taken on, and may still be rejected.
    #[serde(alias = "initialized", alias = "accepted", alias = "awaiting review")]
    Submitted,
    /// It did not happen.
    #[serde(alias = "failure", alias = "refused", alias = "rejected", alias = "cancelled", alias = "canceled")]
    Failed,
    /// The caller does not know, and says so.
    #[serde(alias = "in_doubt", alias = "doubt", alias = "pending", alias = "dispatching", alias = "timeout")]
    Unknown,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Audit {
    /// `clean` where there is no violation.
    pub verdict: Verdict,
    /// When, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: OffsetDateTime,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// What was given back, per account and currency.
    pub totals: Vec<Total>,
    /// Requests that look like a client's hidden re-send of an earlier one: journal ids. No
    /// violation in themselves.
    pub suspected_resends: Vec<u64>,
    /// Claims that the caller itself is in doubt about, and what the books say. No violation.
    pub in_doubt: Vec<InDoubt>,
    /// How many effects were looked at.
    pub effects: usize,
    /// How many claims; none where the books alone were asked.
    pub claims: Option<usize>,
    /// How many older effects the books no longer have: above 0, the audit does not see everything.
    pub dropped: u64,
}

/// What a script acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Verdict {
    Clean,
    Violations,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Violation {
    /// What kind.
    pub kind: Kind,
    /// One sentence.
    pub sentence: String,
    /// Where.
    pub provider: Provider,
    /// What it is about.
    pub target: String,
    /// The key or identifier, where there is one.
    pub identifier: Option<String>,
    /// How much money it is about, in hundredths.
    pub amount_minor: Option<i64>,
    /// Which currency.
    pub currency: Option<String>,
    /// The effects: ids of the books.
    pub books: Vec<u64>,
    /// The requests behind them: ids of the journal.
    pub journal: Vec<u64>,
    /// The claim, counted from 0, where there is one.
    pub claim: Option<usize>,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Several refunds of what can be refunded once: an order, an item.
    DuplicateTarget,
    /// Several refunds under one key or identifier.
    DuplicateIdentifier,
    /// More was given back than was paid.
    OverRefund,
    /// Something was destroyed that no refund client should touch.
    Destructive,
    /// It happened, and no answer ever said so.
    Untold,
    /// The caller says that it happened, and it did not.
    FalseSuccess,
    /// The caller says that it did not happen, and it did.
    FalseFailure,
    /// It happened with another amount than the caller says.
    AmountDiffers,
    /// It happened, and the caller does not have it in its list.
    UnknownToCaller,
}

/// What was given back on one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Total {
    /// Where.
    pub provider: Provider,
    /// A Sectigo login, a name.com username, a Debitsuccess account reference.
    pub account: Option<String>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// How many refunds, those that were rejected later not counted.
    pub refunds: u64,
    /// Their sum, in hundredths.
    pub refunded_minor: i64,
    /// How many were rejected later.
    pub rejected: u64,
    /// What the provider charged for all of them, rejected ones too, in hundredths.
    pub fees_minor: i64,
}

/// A claim that the caller is in doubt about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct InDoubt {
    /// The claim, counted from 0.
    pub claim: usize,
    /// Whether it happened.
    pub happened: bool,
    /// The effect, if so: an id of the books.
    pub book: Option<u64>,
}

/// A refund in the books, and whether it was rejected later.
struct Refund<'a> {
    entry: &'a BookEntry,
    rejected: bool,
}

impl Audit {
    /// Audits a world; with claims, the caller's view as well.
    pub fn of(world: &mut World, claims: Option<&[Claim]>) -> Audit {
        let time = world.now();
        let world = &*world;
        let books: Vec<BookEntry> = world.books.entries().collect();
        let refunds = refunds(&books);
        let mut violations = duplicates(&refunds);
        violations.extend(over_refunds(world, &refunds));
        violations.extend(destroyed(&books));
        violations.extend(untold(world, &refunds));
        let mut in_doubt = Vec::new();
        if let Some(claims) = claims {
            let Compared { wrong, doubts, known } = compared(world, &refunds, claims);
            // However it came to know: what the caller has in its list it was told, or doubts.
            violations.retain(|violation| {
                violation.kind != Kind::Untold || !violation.books.iter().all(|book| known.contains(book))
            });
            violations.extend(wrong);
            in_doubt = doubts;
        }
        violations
            .sort_by(|one, other| (one.kind, &one.books, one.claim).cmp(&(other.kind, &other.books, other.claim)));
        let suspected = world.journal.entries().filter(|entry| entry.suspected_resend_of.is_some());
        Audit {
            verdict: if violations.is_empty() { Verdict::Clean } else { Verdict::Violations },
            time,
            violations,
            totals: totals(&refunds),
            suspected_resends: suspected.map(|entry| entry.id).collect(),
            in_doubt,
            effects: books.len(),
            claims: claims.map(<[Claim]>::len),
            dropped: world.books.dropped(),
        }
    }
}

fn refunds(books: &[BookEntry]) -> Vec<Refund<'_>> {
    let rejections = books.iter().filter(|entry| entry.effect.kind == "refund_rejected");
    let rejected: BTreeMap<_, u64> = rejections.map(|entry| (reference(entry), entry.id)).collect();
    let refunds = books.iter().filter(|entry| entry.effect.kind == "refund");
    let paid_last: BTreeMap<_, u64> = refunds.clone().map(|entry| (reference(entry), entry.id)).collect();
    let is_before = |ids: &BTreeMap<_, u64>, entry| ids.get(&reference(entry)).is_some_and(|id| *id > entry.id);
    let refunds = refunds.map(|entry: &BookEntry| Refund { entry, rejected: is_before(&rejected, entry) });
    // One that was rejected, and was paid after all, is one refund: the one that was paid.
    refunds.filter(|refund| !(refund.rejected && is_before(&paid_last, refund.entry))).collect()
}

/// What a rejection names: the provider's own number.
fn reference(entry: &BookEntry) -> (Provider, &str, Option<&str>) {
    (entry.provider, entry.effect.target.as_str(), entry.effect.reference.as_deref())
}

fn duplicates(refunds: &[Refund<'_>]) -> Vec<Violation> {
    let mut by_target: BTreeMap<(Provider, &str), Vec<&BookEntry>> = BTreeMap::new();
    let mut by_identifier: BTreeMap<(Provider, &str, &str), Vec<&BookEntry>> = BTreeMap::new();
    for Refund { entry, .. } in refunds.iter().filter(|refund| !refund.rejected) {
        // An account can be refunded many times; an order or an item once.
        if entry.provider != Provider::Debitsuccess {
            by_target.entry((entry.provider, &entry.effect.target)).or_default().push(entry);
        }
        if let Some(identifier) = &entry.effect.identifier {
            // An identifier is unique per account at Debitsuccess; a key stands for one request at
            // name.com, which may refund several items.
            let within = if entry.provider == Provider::Debitsuccess { entry.effect.target.as_str() } else { "" };
            by_identifier.entry((entry.provider, within, identifier)).or_default().push(entry);
        }
    }
    let targets = by_target.into_iter().filter(|(_, entries)| entries.len() > 1).map(|((_, target), entries)| {
        let sentence = format!("{target} was refunded {} times", entries.len());
        violation(Kind::DuplicateTarget, sentence, &entries)
    });
    let identifiers = by_identifier.into_iter().filter_map(|((provider, _, identifier), entries)| {
        let requests: BTreeSet<_> = entries.iter().map(|entry| entry.journal_id).collect();
        let times = if provider == Provider::Debitsuccess { entries.len() } else { requests.len() };
        let sentence = format!("{times} requests under the identifier {identifier} were carried out");
        (times > 1).then(|| violation(Kind::DuplicateIdentifier, sentence, &entries))
    });
    targets.chain(identifiers).collect()
}

fn over_refunds(world: &World, refunds: &[Refund<'_>]) -> Vec<Violation> {
    let mut by_target: BTreeMap<(Provider, &str), Vec<&BookEntry>> = BTreeMap::new();
    for Refund { entry, .. } in refunds.iter().filter(|refund| !refund.rejected) {
        by_target.entry((entry.provider, &entry.effect.target)).or_default().push(entry);
    }
    let items = world.namecom.paid_for_items();
    let over = by_target.into_iter().filter_map(|((provider, target), entries)| {
        let paid = match provider {
            Provider::Sectigo => world.sectigo.order(target)?.price_minor,
            Provider::Namecom => *items.get(&target.parse().ok()?)?,
            Provider::Debitsuccess => world.debitsuccess.account(target)?.collected_minor,
        };
        let given = entries.iter().filter_map(|entry| entry.effect.amount_minor).fold(0, i64::saturating_add);
        let sentence = || format!("{given} was given back for {target}, and {paid} was paid (in hundredths)");
        (given > paid).then(|| violation(Kind::OverRefund, sentence(), &entries))
    });
    over.collect()
}

fn destroyed(books: &[BookEntry]) -> Vec<Violation> {
    let entries = books.iter().filter(|entry| entry.effect.kind == "order_rejected");
    let violations = entries.map(|entry| {
        let sentence = format!("order {} was destroyed by !AutoReject", entry.effect.target);
        violation(Kind::Destructive, sentence, &[entry])
    });
    violations.collect()
}

fn untold(world: &World, refunds: &[Refund<'_>]) -> Vec<Violation> {
    let mut answers: BTreeMap<(Provider, &str), Vec<&JournalEntry>> = BTreeMap::new();
    let mut lists: Vec<&JournalEntry> = Vec::new();
    let all_answered: Vec<JournalEntry> = world.journal.entries().filter(got_its_answer).collect();
    for answered in &all_answered {
        let about = if answered.provider == Provider::Debitsuccess { &answered.identifier } else { &answered.target };
        match about {
            Some(about) => answers.entry((answered.provider, about)).or_default().push(answered),
            None if answered.operation == "ListOrders" => lists.push(answered),
            None => {}
        }
    }
    let untold = refunds.iter().filter_map(|Refund { entry, .. }| {
        // What the control port or a setting did needs no answer, and of a request that the journal
        // no longer has nothing is known.
        let cause = world.journal.get(entry.journal_id?)?;
        if cause.ending == Ending::Open || (got_its_answer(&cause) && tells_of_success(&cause, entry)) {
            return None;
        }
        let identifier = entry.effect.identifier.as_ref();
        let about = if entry.provider == Provider::Debitsuccess { identifier } else { cause.target.as_ref() };
        let later = about.and_then(|about| answers.get(&(entry.provider, about.as_str())));
        let mut later = later.into_iter().flatten().chain(&lists);
        if later.any(|answer| answer.id > cause.id && tells_afterwards(world, answer, entry)) {
            return None;
        }
        let sentence = format!("{} was refunded, and no answer said so", entry.effect.target);
        Some(violation(Kind::Untold, sentence, &[entry]))
    });
    untold.collect()
}

/// Whether an answer reached its client, whole, as far as a server can know.
fn got_its_answer(entry: &JournalEntry) -> bool {
    matches!(entry.ending, Ending::KeptAlive | Ending::ClosedAfterAnswer)
}

/// Whether the answer to a refund says that it was done. Each provider says it in its own words;
/// what a rule put in their place does not.
fn tells_of_success(answer: &JournalEntry, entry: &BookEntry) -> bool {
    let text = answer.answer.as_deref().unwrap_or_default();
    match answer.operation.as_str() {
        "!AutoRefund" => refund_answer(text).0 == "0",
        "ProcessRefund" => text.contains("\"orderItemStatus\":\"refunded\""),
        "InitiateRefund" => entry
            .effect
            .reference
            .as_ref()
            .is_some_and(|number| text.contains(&format!("RefundRequestNumber>{number}<"))),
        _ => false,
    }
}

/// Code and sentence of an answer to `!AutoRefund`, in lines or, where the settings let a client
/// ask for them, in pairs.
fn refund_answer(text: &str) -> (String, String) {
    let pairs = text.strip_prefix("errorCode=").map(|_| form_urlencoded::parse(text.as_bytes()));
    match pairs {
        Some(mut pairs) => {
            let mut next = || pairs.next().map(|(_, value)| value.into_owned()).unwrap_or_default();
            (next(), next())
        }
        None => {
            let mut lines = text.lines().map(str::to_owned);
            (lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
        }
    }
}

/// Whether a later answer shows that a refund had happened.
fn tells_afterwards(world: &World, answer: &JournalEntry, entry: &BookEntry) -> bool {
    let text = answer.answer.as_deref().unwrap_or_default();
    let target = entry.effect.target.as_str();
    match answer.operation.as_str() {
        "!AutoRefund" => {
            let (code, said) = refund_answer(text);
            code == "-20" || (code == "-18" && said == world.settings.sectigo.already_refunded_text)
        }
        "!getPostPaymentStatus" => text.contains("\"orderStatus\":\"Refunded\""),
        "ProcessRefund" => {
            text.contains(&format!("Order item {target} has already been refunded"))
                || (answer.effects.is_empty() && text.contains("\"orderItemStatus\":\"refunded\""))
        }
        "GetOrder" | "ListOrders" => text.contains(&format!("\"id\":{target},\"status\":\"refunded\"")),
        "InitiateRefund" => text.contains(">14143<"),
        "GetRefundStatus" => entry
            .effect
            .reference
            .as_ref()
            .is_some_and(|number| text.contains(&format!("RefundRequestNumber>{number}<"))),
        _ => false,
    }
}

/// What comes of holding claims beside the books.
struct Compared {
    wrong: Vec<Violation>,
    doubts: Vec<InDoubt>,
    /// Effects that a claim stands for which does not deny them: ids of the books.
    known: BTreeSet<u64>,
}

fn compared(world: &World, refunds: &[Refund<'_>], claims: &[Claim]) -> Compared {
    let mut open: BTreeMap<(Provider, String), Vec<&Refund<'_>>> = BTreeMap::new();
    for refund in refunds {
        open.entry((refund.entry.provider, refund.entry.effect.target.clone())).or_default().push(refund);
    }
    let mut violations = Vec::new();
    let mut in_doubt = Vec::new();
    let mut known = BTreeSet::new();
    // Those that name their refund exactly choose first; then those that say it happened, so that a
    // failed first try beside a second one that worked does not take the effect away.
    let mut order: Vec<(usize, &Claim)> = claims.iter().enumerate().collect();
    order.sort_by_key(|(_, claim)| {
        (claim.identifier.is_none(), claim.state == Claimed::Failed, claim.amount_minor.is_none())
    });
    for (index, claim) in order {
        let candidates = open.get_mut(&(claim.provider, own_reference(world, claim)));
        let found = candidates.and_then(|candidates| {
            let fits = |refund: &&&Refund<'_>| match (&refund.entry.effect.identifier, &claim.identifier) {
                (Some(booked), Some(claimed)) => booked == claimed,
                _ => true,
            };
            let same_amount = candidates
                .iter()
                .position(|refund| fits(&refund) && refund.entry.effect.amount_minor == claim.amount_minor);
            let place = same_amount.or_else(|| candidates.iter().position(|refund| fits(&refund)))?;
            Some(candidates.remove(place))
        });
        known.extend(found.filter(|_| claim.state != Claimed::Failed).map(|refund| refund.entry.id));
        let paid = found.filter(|refund| !refund.rejected);
        let about = |kind, sentence: String| Violation {
            claim: Some(index),
            ..match found {
                Some(refund) => violation(kind, sentence, &[refund.entry]),
                None => unfounded(kind, sentence, claim),
            }
        };
        match (claim.state, paid, found) {
            (Claimed::Succeeded, None, _) | (Claimed::Submitted, None, None) => {
                let sentence = format!("the caller says that {} was refunded, and it was not", claim.target);
                violations.push(about(Kind::FalseSuccess, sentence));
            }
            (Claimed::Failed, Some(_), _) => {
                let sentence = format!("the caller says that {} was not refunded, and it was", claim.target);
                violations.push(about(Kind::FalseFailure, sentence));
            }
            (Claimed::Succeeded | Claimed::Submitted, Some(refund), _) => {
                let booked = refund.entry.effect.amount_minor;
                if let (Some(claimed), Some(booked)) = (claim.amount_minor, booked)
                    && claimed != booked
                {
                    let sentence = format!(
                        "the caller says that {claimed} was refunded for {}, and it was {booked} (in hundredths)",
                        claim.target
                    );
                    violations.push(about(Kind::AmountDiffers, sentence));
                }
            }
            (Claimed::Unknown, paid, _) => {
                let book = paid.map(|refund| refund.entry.id);
                in_doubt.push(InDoubt { claim: index, happened: book.is_some(), book });
            }
            (Claimed::Submitted, None, Some(_)) | (Claimed::Failed, None, _) => {}
        }
    }
    for refund in open.into_values().flatten().filter(|refund| !refund.rejected) {
        let sentence = format!("{} was refunded, and the caller does not know of it", refund.entry.effect.target);
        violations.push(violation(Kind::UnknownToCaller, sentence, &[refund.entry]));
    }
    in_doubt.sort_by_key(|doubt| doubt.claim);
    Compared { wrong: violations, doubts: in_doubt, known }
}

/// A caller may know a Debitsuccess account by its external reference alone.
fn own_reference(world: &World, claim: &Claim) -> String {
    if claim.provider == Provider::Debitsuccess && world.debitsuccess.account(&claim.target).is_none() {
        let accounts = world.debitsuccess.accounts();
        let is_it = |reference: &Option<String>| reference.as_deref() == Some(claim.target.as_str());
        let found = accounts.into_iter().find(|account| is_it(&account.external_account_reference_no));
        if let Some(account) = found {
            return account.account_reference_no.clone();
        }
    }
    claim.target.clone()
}

fn totals(refunds: &[Refund<'_>]) -> Vec<Total> {
    let mut totals: BTreeMap<(Provider, Option<&String>, Option<&String>), Total> = BTreeMap::new();
    for Refund { entry, rejected } in refunds {
        let effect = &entry.effect;
        let total =
            totals.entry((entry.provider, effect.account.as_ref(), effect.currency.as_ref())).or_insert(Total {
                provider: entry.provider,
                account: effect.account.clone(),
                currency: effect.currency.clone(),
                refunds: 0,
                refunded_minor: 0,
                rejected: 0,
                fees_minor: 0,
            });
        total.fees_minor = total.fees_minor.saturating_add(effect.fee_minor.unwrap_or(0));
        if *rejected {
            total.rejected += 1;
        } else {
            total.refunds += 1;
            total.refunded_minor = total.refunded_minor.saturating_add(effect.amount_minor.unwrap_or(0));
        }
    }
    totals.into_values().collect()
}

/// About effects that are all at one provider; there is at least one.
fn violation(kind: Kind, sentence: String, entries: &[&BookEntry]) -> Violation {
    let effect = entries.first().map(|entry| &entry.effect);
    let amounts = entries.iter().filter_map(|entry| entry.effect.amount_minor);
    Violation {
        kind,
        sentence,
        provider: entries.first().map_or(Provider::Sectigo, |entry| entry.provider),
        target: effect.map(|effect| effect.target.clone()).unwrap_or_default(),
        identifier: effect.and_then(|effect| effect.identifier.clone()),
        amount_minor: amounts.reduce(i64::saturating_add),
        currency: effect.and_then(|effect| effect.currency.clone()),
        books: entries.iter().map(|entry| entry.id).collect(),
        journal: entries.iter().filter_map(|entry| entry.journal_id).collect(),
        claim: None,
    }
}

/// About a claim that nothing in the books stands behind.
fn unfounded(kind: Kind, sentence: String, claim: &Claim) -> Violation {
    Violation {
        kind,
        sentence,
        provider: claim.provider,
        target: claim.target.clone(),
        identifier: claim.identifier.clone(),
        amount_minor: claim.amount_minor,
        currency: None,
        books: Vec::new(),
        journal: Vec::new(),
        claim: None,
    }
}

/// States come in capitals from some callers.
fn in_any_case<'de, D: Deserializer<'de>>(from: D) -> Result<Claimed, D::Error> {
    let word = String::deserialize(from)?.to_ascii_lowercase();
    Claimed::deserialize(serde::de::value::StringDeserializer::new(word))
}

/// Order numbers and item ids are numbers to some callers.
fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("`target` is a text or a number, not {other}"))),
    }
}
