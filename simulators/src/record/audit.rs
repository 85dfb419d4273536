//! The audit: what is wrong according to the books, the journal, and a caller's claims.
//!
//! ```text
//! books   -> duplicate refunds, refunds of more than was paid, destructive calls
//! journal -> refunds that no answer reported: neither their own nor a later one about the target
//! claims  -> compared with the books: false success, false failure, another amount,
//!            refunds unknown to the caller
//! ```
//!
//! It changes nothing, and its findings are sorted: two audits of one state are equal.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    providers::{ProviderStates, Settings, emulated::RecordedAnswer},
    record::books::{BookEntry, Books},
    record::journal::{Ending, Journal, JournalEntry},
    request::Provider,
};

/// The maximum number of claims in one audit.
pub const MAX_CLAIMS: usize = 100_000;

/// One refund as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = claim_schema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The provider.
    pub provider: Provider,
    /// A Sectigo order number, a name.com *item* id, a Debitsuccess account reference (its own or
    /// the external one).
    #[serde(deserialize_with = "text_or_number")]
    #[schemars(extend("type" = ["string", "integer"]))]
    pub target: String,
    /// The key or identifier of the request, if any.
    #[serde(default)]
    pub identifier: Option<String>,
    /// The amount that the caller believes was refunded, in hundredths; not compared if left out.
    #[serde(default)]
    pub amount_minor: Option<i64>,
    /// The state that the caller believes it is in.
    #[serde(alias = "outcome", deserialize_with = "in_any_case")]
    #[schemars(with = "String")]
    pub state: ClaimedState,
}

/// What a caller believes about a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimedState {
    /// It happened.
    #[serde(alias = "success", alias = "refunded", alias = "completed", alias = "approved")]
    Succeeded,
    /// It was accepted and may still be rejected.
    #[serde(alias = "initialized", alias = "accepted", alias = "awaiting review")]
    Submitted,
    /// It did not happen.
    #[serde(alias = "failure", alias = "refused", alias = "rejected", alias = "cancelled", alias = "canceled")]
    Failed,
    /// The caller does not know.
    #[serde(alias = "in_doubt", alias = "doubt", alias = "pending", alias = "dispatching", alias = "timeout")]
    Unknown,
}

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Audit {
    /// `clean` if there is no violation.
    pub verdict: Verdict,
    /// The time of the audit, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: OffsetDateTime,
    /// The violations.
    pub violations: Vec<Violation>,
    /// The refunds per account and currency.
    pub totals: Vec<Total>,
    /// Journal ids of requests that look like a hidden re-send of an earlier one. No violation in
    /// themselves.
    pub suspected_resends: Vec<u64>,
    /// Claims that the caller is in doubt about, and what the books say. No violation.
    pub in_doubt: Vec<InDoubt>,
    /// The number of effects in the books.
    pub effects: usize,
    /// The number of claims; none if the audit had none.
    pub claims: Option<usize>,
    /// The number of older effects that the books no longer have. Above 0 the audit is incomplete.
    pub dropped: u64,
}

/// The overall result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Verdict {
    Clean,
    Violations,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Violation {
    /// The kind of violation.
    pub kind: Kind,
    /// The finding in one sentence.
    pub sentence: String,
    /// The provider.
    pub provider: Provider,
    /// The target.
    pub target: String,
    /// The key or identifier, if there is one.
    pub identifier: Option<String>,
    /// The amount, in hundredths.
    pub amount_minor: Option<i64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// The effects, as ids of the books.
    pub books: Vec<u64>,
    /// The requests that caused them, as ids of the journal.
    pub journal: Vec<u64>,
    /// The index of the claim, counted from 0, if there is one.
    pub claim: Option<usize>,
}

/// The kinds of violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Several refunds of something that can be refunded once: an order, an item.
    DuplicateTarget,
    /// Several refunds under one key or identifier.
    DuplicateIdentifier,
    /// More was refunded than was paid.
    OverRefund,
    /// A destructive call was carried out that no refund client should make.
    Destructive,
    /// A refund happened, and no answer reported it.
    Unreported,
    /// The caller claims a refund that did not happen.
    FalseSuccess,
    /// The caller claims that a refund did not happen, but it did.
    FalseFailure,
    /// The amount differs from the claimed one.
    AmountDiffers,
    /// A refund happened that no claim mentions.
    UnknownToCaller,
}

/// The refunds of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Total {
    /// The provider.
    pub provider: Provider,
    /// A Sectigo login, a name.com username, a Debitsuccess account reference.
    pub account: Option<String>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// The number of refunds, without those that were rejected later.
    pub refunds: u64,
    /// Their sum, in hundredths.
    pub refunded_minor: i64,
    /// The number of refunds that were rejected later.
    pub rejected: u64,
    /// The provider's fees, also for rejected refunds, in hundredths.
    pub fees_minor: i64,
}

/// A claim that the caller is in doubt about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct InDoubt {
    /// The index of the claim, counted from 0.
    pub claim: usize,
    /// Whether the refund happened.
    pub happened: bool,
    /// The effect, as an id of the books.
    pub book: Option<u64>,
}

/// A refund in the books, and whether it was rejected later.
struct BookedRefund<'a> {
    entry: &'a BookEntry,
    rejected: bool,
}

/// What is audited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Audited<'a> {
    pub(crate) providers: &'a ProviderStates,
    pub(crate) settings: &'a Settings,
    pub(crate) books: &'a Books,
    pub(crate) journal: &'a Journal,
}

impl Audit {
    /// Audits a world and, if there are claims, the caller's view.
    pub(crate) fn of(audited: Audited<'_>, time: OffsetDateTime, claims: Option<&[Claim]>) -> Audit {
        let books: Vec<BookEntry> = audited.books.entries().collect();
        let refunds = refunds(&books);
        let mut violations = duplicates(&refunds);
        violations.extend(over_refunds(audited.providers, &refunds));
        violations.extend(destroyed(&books));
        violations.extend(unreported(audited, &refunds));
        let mut in_doubt = Vec::new();
        if let Some(claims) = claims {
            let Comparison { violations: found, in_doubt: doubts, known } =
                compare(audited.providers, &refunds, claims);
            // A refund that the caller claims or doubts was reported to it in some way.
            violations.retain(|violation| {
                violation.kind != Kind::Unreported || !violation.books.iter().all(|book| known.contains(book))
            });
            violations.extend(found);
            in_doubt = doubts;
        }
        violations
            .sort_by(|one, other| (one.kind, &one.books, one.claim).cmp(&(other.kind, &other.books, other.claim)));
        let suspected = audited.journal.entries().filter(|entry| entry.suspected_resend_of.is_some());
        Audit {
            verdict: if violations.is_empty() { Verdict::Clean } else { Verdict::Violations },
            time,
            violations,
            totals: totals(&refunds),
            suspected_resends: suspected.map(|entry| entry.id).collect(),
            in_doubt,
            effects: books.len(),
            claims: claims.map(<[Claim]>::len),
            dropped: audited.books.dropped(),
        }
    }
}

fn refunds(books: &[BookEntry]) -> Vec<BookedRefund<'_>> {
    let rejections = books.iter().filter(|entry| entry.effect.kind == "refund_rejected");
    let rejected: BTreeMap<_, u64> = rejections.map(|entry| (reference(entry), entry.id)).collect();
    let refunds = books.iter().filter(|entry| entry.effect.kind == "refund");
    let paid_last: BTreeMap<_, u64> = refunds.clone().map(|entry| (reference(entry), entry.id)).collect();
    let is_before = |ids: &BTreeMap<_, u64>, entry| ids.get(&reference(entry)).is_some_and(|id| *id > entry.id);
    let refunds = refunds.map(|entry: &BookEntry| BookedRefund { entry, rejected: is_before(&rejected, entry) });
    // A refund that was rejected and then paid after all counts once, as paid.
    refunds.filter(|refund| !(refund.rejected && is_before(&paid_last, refund.entry))).collect()
}

/// What a rejection and its refund have in common.
fn reference(entry: &BookEntry) -> (Provider, &str, Option<&str>) {
    (entry.provider, entry.effect.target.as_str(), entry.effect.reference.as_deref())
}

fn duplicates(refunds: &[BookedRefund<'_>]) -> Vec<Violation> {
    let mut by_target: BTreeMap<(Provider, &str), Vec<&BookEntry>> = BTreeMap::new();
    let mut by_identifier: BTreeMap<(Provider, &str, &str), Vec<&BookEntry>> = BTreeMap::new();
    for BookedRefund { entry, .. } in refunds.iter().filter(|refund| !refund.rejected) {
        if !entry.provider.has_several_refunds_per_target() {
            by_target.entry((entry.provider, &entry.effect.target)).or_default().push(entry);
        }
        if let Some(identifier) = &entry.effect.identifier {
            // An identifier of a refund is unique per target. A key belongs to one request, which
            // may refund several targets.
            let several = entry.provider.has_several_refunds_per_target();
            let within = if several { entry.effect.target.as_str() } else { "" };
            by_identifier.entry((entry.provider, within, identifier)).or_default().push(entry);
        }
    }
    let targets = by_target.into_iter().filter(|(_, entries)| entries.len() > 1).map(|((_, target), entries)| {
        let sentence = format!("{target} was refunded {} times", entries.len());
        violation(Kind::DuplicateTarget, sentence, &entries)
    });
    let identifiers = by_identifier.into_iter().filter_map(|((provider, _, identifier), entries)| {
        let requests: BTreeSet<_> = entries.iter().map(|entry| entry.journal_id).collect();
        let times = if provider.has_several_refunds_per_target() { entries.len() } else { requests.len() };
        let sentence = format!("{times} requests under the identifier {identifier} were carried out");
        (times > 1).then(|| violation(Kind::DuplicateIdentifier, sentence, &entries))
    });
    targets.chain(identifiers).collect()
}

fn over_refunds(providers: &ProviderStates, refunds: &[BookedRefund<'_>]) -> Vec<Violation> {
    let mut by_target: BTreeMap<(Provider, &str), Vec<&BookEntry>> = BTreeMap::new();
    for BookedRefund { entry, .. } in refunds.iter().filter(|refund| !refund.rejected) {
        by_target.entry((entry.provider, &entry.effect.target)).or_default().push(entry);
    }
    let paid: BTreeMap<Provider, _> =
        Provider::ALL.into_iter().map(|provider| (provider, providers.amounts_paid(provider))).collect();
    let over = by_target.into_iter().filter_map(|((provider, target), entries)| {
        let paid = paid.get(&provider)?(target)?;
        let given = entries.iter().filter_map(|entry| entry.effect.amount_minor).fold(0, i64::saturating_add);
        let sentence = || format!("{given} was refunded for {target}, and {paid} was paid (in hundredths)");
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

fn unreported(Audited { settings, journal, .. }: Audited<'_>, refunds: &[BookedRefund<'_>]) -> Vec<Violation> {
    let mut answers: BTreeMap<(Provider, &str), Vec<&JournalEntry>> = BTreeMap::new();
    let mut lists: Vec<&JournalEntry> = Vec::new();
    let all_answered: Vec<JournalEntry> = journal.entries().filter(was_answered).collect();
    for answered in &all_answered {
        let several = answered.provider.has_several_refunds_per_target();
        let about = if several { &answered.identifier } else { &answered.target };
        match about {
            Some(about) => answers.entry((answered.provider, about)).or_default().push(answered),
            None if answered.provider.is_list(&answered.operation) => lists.push(answered),
            None => {}
        }
    }
    let unreported = refunds.iter().filter_map(|BookedRefund { entry, .. }| {
        // Effects of the control port or a setting need no answer. Of a request that the journal
        // has dropped nothing is known.
        let cause = journal.get(entry.journal_id?)?;
        if cause.ending == Ending::Open
            || (was_answered(&cause) && entry.provider.confirms_refund(&recorded(&cause), &entry.effect))
        {
            return None;
        }
        let identifier = entry.effect.identifier.as_ref();
        let several = entry.provider.has_several_refunds_per_target();
        let about = if several { identifier } else { cause.target.as_ref() };
        let later = about.and_then(|about| answers.get(&(entry.provider, about.as_str())));
        let mut later = later.into_iter().flatten().chain(&lists);
        let shows = |answer: &JournalEntry| entry.provider.shows_refund(settings, &recorded(answer), &entry.effect);
        if later.any(|answer| answer.id > cause.id && shows(answer)) {
            return None;
        }
        let sentence = format!("{} was refunded, and no answer reported it", entry.effect.target);
        Some(violation(Kind::Unreported, sentence, &[entry]))
    });
    unreported.collect()
}

/// Whether a whole answer reached the client, as far as a server can know.
fn was_answered(entry: &JournalEntry) -> bool {
    matches!(entry.ending, Ending::KeptAlive | Ending::ClosedAfterAnswer)
}

fn recorded(entry: &JournalEntry) -> RecordedAnswer<'_> {
    RecordedAnswer {
        operation: &entry.operation,
        text: entry.answer.as_deref().unwrap_or_default(),
        has_effects: !entry.effects.is_empty(),
    }
}

/// The result of comparing claims with the books.
struct Comparison {
    violations: Vec<Violation>,
    in_doubt: Vec<InDoubt>,
    /// The effects of claims that do not deny them, as ids of the books.
    known: BTreeSet<u64>,
}

fn compare(providers: &ProviderStates, refunds: &[BookedRefund<'_>], claims: &[Claim]) -> Comparison {
    let mut open: BTreeMap<(Provider, String), Vec<&BookedRefund<'_>>> = BTreeMap::new();
    for refund in refunds {
        open.entry((refund.entry.provider, refund.entry.effect.target.clone())).or_default().push(refund);
    }
    let mut violations = Vec::new();
    let mut in_doubt = Vec::new();
    let mut known = BTreeSet::new();
    // Claims with an identifier choose first; then those of success, so that a failed first attempt
    // does not take the effect of a successful second one.
    let mut order: Vec<(usize, &Claim)> = claims.iter().enumerate().collect();
    order.sort_by_key(|(_, claim)| {
        (claim.identifier.is_none(), claim.state == ClaimedState::Failed, claim.amount_minor.is_none())
    });
    for (index, claim) in order {
        let candidates = open.get_mut(&(claim.provider, providers.canonical_target(claim.provider, &claim.target)));
        let found = candidates.and_then(|candidates| {
            let fits = |refund: &&&BookedRefund<'_>| match (&refund.entry.effect.identifier, &claim.identifier) {
                (Some(booked), Some(claimed)) => booked == claimed,
                _ => true,
            };
            let same_amount = candidates
                .iter()
                .position(|refund| fits(&refund) && refund.entry.effect.amount_minor == claim.amount_minor);
            let index = same_amount.or_else(|| candidates.iter().position(|refund| fits(&refund)))?;
            Some(candidates.remove(index))
        });
        known.extend(found.filter(|_| claim.state != ClaimedState::Failed).map(|refund| refund.entry.id));
        let paid = found.filter(|refund| !refund.rejected);
        let about = |kind, sentence: String| Violation {
            claim: Some(index),
            ..match found {
                Some(refund) => violation(kind, sentence, &[refund.entry]),
                None => unfounded(kind, sentence, claim),
            }
        };
        match (claim.state, paid, found) {
            (ClaimedState::Succeeded, None, _) | (ClaimedState::Submitted, None, None) => {
                let sentence = format!("the caller says that {} was refunded, and it was not", claim.target);
                violations.push(about(Kind::FalseSuccess, sentence));
            }
            (ClaimedState::Failed, Some(_), _) => {
                let sentence = format!("the caller says that {} was not refunded, and it was", claim.target);
                violations.push(about(Kind::FalseFailure, sentence));
            }
            (ClaimedState::Succeeded | ClaimedState::Submitted, Some(refund), _) => {
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
            (ClaimedState::Unknown, paid, _) => {
                let book = paid.map(|refund| refund.entry.id);
                in_doubt.push(InDoubt { claim: index, happened: book.is_some(), book });
            }
            (ClaimedState::Submitted, None, Some(_)) | (ClaimedState::Failed, None, _) => {}
        }
    }
    for refund in open.into_values().flatten().filter(|refund| !refund.rejected) {
        let sentence = format!("{} was refunded, and the caller does not know of it", refund.entry.effect.target);
        violations.push(violation(Kind::UnknownToCaller, sentence, &[refund.entry]));
    }
    in_doubt.sort_by_key(|doubt| doubt.claim);
    Comparison { violations, in_doubt, known }
}

fn totals(refunds: &[BookedRefund<'_>]) -> Vec<Total> {
    let mut totals: BTreeMap<(Provider, Option<&String>, Option<&String>), Total> = BTreeMap::new();
    for BookedRefund { entry, rejected } in refunds {
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

/// A violation by effects of one provider: one effect or more.
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

/// A violation by a claim without an effect in the books.
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

/// A claim names its state by one of two names, in any case, and knows more words than are written.
fn claim_schema(schema: &mut Schema) {
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name != "state");
    }
    schema.insert("oneOf".to_owned(), json!([{ "required": ["state"] }, { "required": ["outcome"] }]));
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let words = "`succeeded`, `submitted`, `failed` or `unknown`, in any case. Accepted as well: success, refunded, \
                 completed, approved; initialized, accepted, awaiting review; failure, refused, rejected, cancelled, \
                 canceled; in_doubt, doubt, pending, dispatching, timeout.";
    properties.insert("state".to_owned(), json!({ "type": "string", "description": words }));
    properties.insert("outcome".to_owned(), json!({ "type": "string", "description": "Another name for `state`." }));
}

/// Some callers write states in capitals.
fn in_any_case<'de, D: Deserializer<'de>>(from: D) -> Result<ClaimedState, D::Error> {
    let word = String::deserialize(from)?.to_ascii_lowercase();
    ClaimedState::deserialize(serde::de::value::StringDeserializer::new(word))
}

/// Some callers write order numbers and item ids as numbers.
fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("`target` is a text or a number, not {other}"))),
    }
}
