//! What follows from a provider's answer: the events to record, the next lookup, and whether one
//! more attempt is safe. Pure: nothing here waits, does I/O or reads a clock.

use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::event::{Event, Observation, RecordSeen};
use crate::domain::ids::RefundId;
use crate::domain::money::Money;
use crate::domain::outcome::{
    Absence, Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, Lookup, Outcome,
    ProviderError,
};
use crate::domain::refund::{Doubt, Refund};
use crate::domain::state::State;

/// How long a refund that was provably not processed waits before it is sent again: twice as long
/// after each attempt, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first attempt.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// When the gateway looks refunds up by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The times of the first lookups, counted from the beginning of the doubt, in rising order.
    pub first: Vec<Duration>,
    /// The time between later lookups. Above zero.
    pub then_every: Duration,
}

/// What the decisions on one refund depend on, besides the refund itself.
#[derive(Debug, Clone, Copy)]
pub struct RetryRules<'a> {
    /// What the account's provider promises.
    pub contract: &'a RetryContract,
    /// When to look up.
    pub schedule: &'a Schedule,
    /// When to send again what was not processed.
    pub backoff: Backoff,
    /// Whether the deduplication key of the earlier attempts can still be relied on: its age is
    /// known, and the credential that it is bound to has not changed.
    pub key_is_bound: bool,
    /// How long a rejection is looked up, since the provider may correct it. Zero: not at all.
    pub follow_up: Duration,
    /// How long a request may be on its way: the account's `total_timeout`.
    pub total_timeout: Duration,
    /// The present time without the machine's jumps forward since the start, so that no jump makes
    /// a request look older than it is.
    pub jumpless_now: Timestamp,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What happened, to be recorded. Empty if a lookup showed nothing new: then only the next
    /// lookup is set.
    pub events: Vec<Event>,
    /// When the refund is looked up next; none if lookups have ended.
    pub next_check: Option<Timestamp>,
    /// The lookup proves that one more attempt is safe, now and only now.
    pub resend: bool,
}

/// The next step of reconciling a refund that is IN_DOUBT or SUBMITTED, and due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look it up at the provider.
    LookUp,
    /// Send the same request once more: the provider prevents a second effect, and repeats the
    /// first answer.
    Resend,
}

/// After this many unanswered attempts the refund needs a review, regardless of the retry contract.
const MAX_UNANSWERED_ATTEMPTS: u32 = 5;

const TOO_MANY_UNANSWERED: &str = "too many attempts were not answered";

const NEVER_ACCEPTED: &str = "no attempt was accepted for days";

const ELSEWHERE: &str = "it was attempted at another host or under another login, so it is not sent again from here";

/// After a doubt of this length without an answered lookup, the refund needs a review: longer than
/// any outage that a provider is still working on.
const MAX_DOUBT_WITHOUT_LOOKUP: Duration = Duration::from_secs(3 * 24 * 3_600);

/// A refund that its provider has accepted needs a review after this time: longer than any bank
/// transfer.
const MAX_SUBMITTED: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The next step for a refund that is due.
pub fn next_step(refund: &Refund, rules: RetryRules<'_>, now: Timestamp) -> Step {
    let Deduplication::Replay { .. } = rules.contract.deduplication else {
        // Without deduplication nothing is sent again. A provider that rejects a used identifier is
        // sent it again only after a lookup has just shown that it has no record.
        return Step::LookUp;
    };
    let is_unanswered = refund.unanswered_attempts > 0 && refund.unanswered_attempts < MAX_UNANSWERED_ATTEMPTS;
    if refund.state == State::InDoubt
        && is_unanswered
        && rules.may_resend(refund, now)
        && !last_attempt_refused(refund, rules.contract)
        && !is_contradicted(refund)
    {
        Step::Resend
    } else {
        Step::LookUp
    }
}

/// What follows from the answer to an attempt of a refund that is DISPATCHING.
pub fn after_attempt(refund: &Refund, outcome: Outcome, rules: RetryRules<'_>, now: Timestamp) -> Decision {
    // While the outcome of an earlier attempt is unknown, no refusal is definite.
    let unanswered = refund.unanswered_attempts > 0;
    let doubted =
        |reason, evidence: String, error| vec![Event::Doubted { reason, evidence, error, not_processed: false }];
    match outcome {
        Outcome::Refunded(Confirmation { replayed: true, .. })
        | Outcome::Accepted(Acceptance { replayed: true, .. })
            if !unanswered =>
        {
            let evidence =
                "the provider says that it repeats an earlier answer, but this gateway has not sent the refund before";
            let events = doubted(DoubtReason::Contradiction, evidence.to_owned(), None);
            Decision { events, next_check: None, resend: false }
        }
        Outcome::Refunded(confirmation) => rules.decision(refund, vec![Event::Refunded(confirmation)], now),
        Outcome::Accepted(acceptance) => rules.decision(refund, vec![Event::Accepted(acceptance)], now),
        Outcome::Refused { error, .. } if unanswered => {
            let evidence = format!("an earlier attempt is unanswered, and this one was refused: {}", error.to_text());
            let is_final = is_final(&error, rules.contract);
            let events = doubted(DoubtReason::Contradiction, evidence, Some(error));
            let decision = rules.decision(refund, events, now);
            // "Already refunded" and "identifier in use" may be the trace of our own earlier
            // attempt: an immediate lookup decides. A refusal that is not final follows the
            // schedule.
            if is_final { Decision { next_check: None, ..decision } } else { decision }
        }
        Outcome::Refused { error, .. } if is_foreign_identifier(rules.contract, &error) => {
            let evidence = format!(
                "the provider knows this identifier, but this gateway has not used it before: {}",
                error.to_text()
            );
            let mut events = doubted(DoubtReason::Contradiction, evidence.clone(), Some(error));
            events.push(Event::Escalated { evidence, foreign_record: true });
            rules.decision(refund, events, now)
        }
        Outcome::Refused { error, items } => {
            rules.decision(refund, vec![Event::Refused { error, items, follow_until: None }], now)
        }
        Outcome::NotSent { error, retry_at } if unanswered => {
            // Not PENDING: that could be cancelled, as if nothing had ever been sent.
            let evidence =
                format!("an earlier attempt is unanswered, and this one was not processed: {}", error.to_text());
            // By the age of the unanswered attempt, which was there before this one.
            let since = refund.dispatch_time.unwrap_or(now);
            let next_check = Some(rules.next_check_time(refund, since, 0, now)).max(retry_at);
            let reason = DoubtReason::Contradiction;
            let event = Event::Doubted { reason, evidence, error: Some(error), not_processed: true };
            Decision { events: vec![event], next_check, resend: false }
        }
        Outcome::NotSent { error, retry_at } => {
            let earliest = now.saturating_add(rules.backoff.after(refund.attempt_count, refund.id()));
            let retry_at = retry_at.map_or(earliest, |at| at.max(earliest));
            rules.decision(refund, vec![Event::NotSent { error, retry_at }], now)
        }
        Outcome::Unknown { reason, evidence } => {
            let decision = rules.decision(refund, doubted(reason, evidence, None), now);
            // The provider has answered, so it is done; an immediate lookup shows what its answer
            // means.
            let is_answered =
                reason == DoubtReason::UnreadableReply && rules.contract.deduplication == Deduplication::None;
            if is_answered { Decision { next_check: None, ..decision } } else { decision }
        }
    }
}

/// What follows if recording an attempt of a refund in doubt took so long that sending it is no
/// longer safe: an earlier attempt is unanswered, and this one was not sent.
pub fn after_delay(refund: &Refund, reason: DoubtReason, rules: RetryRules<'_>, now: Timestamp) -> Decision {
    let evidence = "an earlier attempt is unanswered, and this one was not sent: when it was recorded, the provider may \
                    have forgotten the key, or the credentials that it is bound to had changed";
    let doubted = Event::Doubted { reason, evidence: evidence.to_owned(), error: None, not_processed: true };
    rules.decision(refund, vec![doubted], now)
}

/// What follows from a lookup, for a refund that is IN_DOUBT, SUBMITTED or NEEDS_REVIEW, or FAILED
/// and followed.
///
/// The lookup was sent at `asked` and answered at `now`: what it does not show was not there at
/// `asked`. `taken` is when the provider accepted the refund, if it [`may_take_too_long`].
pub fn after_lookup(
    refund: &Refund,
    lookup: Lookup,
    taken: Option<Timestamp>,
    rules: RetryRules<'_>,
    asked: Timestamp,
    now: Timestamp,
) -> Decision {
    match refund.state {
        State::NeedsReview => rules.decision(refund, after_lookup_in_review(refund, lookup, rules, now), now),
        State::Failed => rules.decision(refund, after_lookup_of_failed(refund, lookup, rules, now), now),
        _ => after_lookup_in_question(refund, lookup, taken, rules, asked, now),
    }
}

/// A review ends by an operator's decision, or by the provider's record under our own identifier; a
/// refunded order or item does not show whose refund it was. A lookup that shows nothing new is no
/// event, so that an etag that an operator holds stays valid.
fn after_lookup_in_review(refund: &Refund, lookup: Lookup, rules: RetryRules<'_>, now: Timestamp) -> Vec<Event> {
    let is_ours = rules.contract.lookup == LookupKind::Refund && !refund.foreign_record;
    match lookup {
        Lookup::Found(Outcome::Refunded(confirmation)) if is_ours => vec![Event::Refunded(confirmation)],
        Lookup::Found(Outcome::Refused { error, items }) if is_ours => {
            vec![rules.rejection(error, items, now)]
        }
        Lookup::Unavailable { .. } => Vec::new(),
        seen => {
            let observation = observation_of(&seen);
            let known = refund.doubt.as_ref().map_or("", |doubt| doubt.last_evidence.as_str());
            // A review begins with what a lookup showed, followed by why that decides nothing.
            let is_known = known == observation.evidence || known.starts_with(&format!("{}; ", observation.evidence));
            let has_items = !observation.items.is_empty() && observation.items != refund.items;
            if is_known && !has_items && !is_another_status(refund, &observation) {
                Vec::new()
            } else {
                vec![Event::Checked(observation)]
            }
        }
    }
}

/// A refund that failed by the provider's rejection or an operator's decision may have been paid
/// nevertheless.
fn after_lookup_of_failed(refund: &Refund, lookup: Lookup, rules: RetryRules<'_>, now: Timestamp) -> Vec<Event> {
    let corrected =
        |confirmation| vec![Event::Corrected { confirmation, caution_until: now.saturating_add(rules.follow_up) }];
    match lookup {
        Lookup::Found(Outcome::Refunded(confirmation)) => corrected(confirmation),
        // Some of the items were refunded.
        Lookup::NotFound { items, .. } if items.iter().any(|item| item.state == ItemState::Succeeded) => {
            let status = Some("refunded".to_owned());
            let refunded = items.iter().filter(|item| item.state == ItemState::Succeeded);
            let amount = Money::total(refunded.map(|item| item.refunded_amount));
            corrected(Confirmation { status, amount, items, ..Confirmation::default() })
        }
        seen @ Lookup::Found(_) => {
            let observation = observation_of(&seen);
            let is_new = is_another_status(refund, &observation);
            if is_new { vec![Event::Checked(observation)] } else { Vec::new() }
        }
        Lookup::NotFound { .. } | Lookup::Unavailable { .. } => Vec::new(),
    }
}

fn is_another_status(refund: &Refund, seen: &Observation) -> bool {
    seen.status.is_some() && (seen.status != refund.provider_status || seen.status_note != refund.provider_status_note)
}

fn after_lookup_in_question(
    refund: &Refund,
    lookup: Lookup,
    taken: Option<Timestamp>,
    rules: RetryRules<'_>,
    asked: Timestamp,
    now: Timestamp,
) -> Decision {
    let checked = |lookup: &Lookup| vec![Event::Checked(observation_of(lookup))];
    let escalated = |evidence: String| vec![Event::Escalated { evidence, foreign_record: false }];
    let events = match lookup {
        Lookup::Found(Outcome::Refunded(_) | Outcome::Accepted(_) | Outcome::Refused { .. })
            if refund.foreign_record =>
        {
            escalated(format!("{}; the record may be another caller's", evidence_of(&lookup)))
        }
        Lookup::Found(Outcome::Refunded(confirmation)) => vec![Event::Refunded(confirmation)],
        Lookup::Found(Outcome::Accepted(acceptance)) => {
            let unchanged = refund.state == State::Submitted
                && (acceptance.status.is_none() || acceptance.status == refund.provider_status)
                && (acceptance.status_note.is_none() || acceptance.status_note == refund.provider_status_note)
                && (acceptance.reference.is_none() || acceptance.reference == refund.provider_reference)
                && (acceptance.items.is_empty() || acceptance.items == refund.items);
            if unchanged {
                let status = acceptance.status.as_deref().unwrap_or("accepted");
                let evidence = format!("the provider has not finished: {status}");
                vec![Event::Checked(Observation::new(evidence, RecordSeen::Present))]
            } else {
                vec![Event::Accepted(acceptance)]
            }
        }
        Lookup::Found(Outcome::Refused { error, items }) => vec![rules.rejection(error, items, now)],
        // The provider's record contradicts the request: no further lookup can change that.
        Lookup::Found(Outcome::Unknown { reason: DoubtReason::Contradiction, evidence }) => escalated(evidence),
        Lookup::NotFound { ref evidence, absence, .. } => match after_absence(refund, absence, rules, asked) {
            AfterAbsence::Inconclusive => checked(&lookup),
            // It is looked up again when that request has ended.
            AfterAbsence::SafeToResend if rules.in_flight_for(refund).is_some() => checked(&lookup),
            AfterAbsence::SafeToResend => {
                return Decision { resend: true, ..rules.decision(refund, checked(&lookup), now) };
            }
            // What was seen of the items is recorded besides the sentence.
            AfterAbsence::Exhausted(why) => {
                let mut events = match &lookup {
                    Lookup::NotFound { items, .. } if !items.is_empty() && *items != refund.items => checked(&lookup),
                    _ => Vec::new(),
                };
                events.extend(escalated(format!("{evidence}; {why}")));
                events
            }
        },
        Lookup::Unavailable { ref evidence, .. } if lookups_timed_out(refund, rules.contract, now) => {
            escalated(format!("{evidence}; and the doubt is days old"))
        }
        other => checked(&other),
    };
    let events = match events.as_slice() {
        // The provider does not finish within the allowed time: a person must find out the outcome.
        [Event::Checked(seen)] if taken.is_some_and(|since| now.saturating_duration_since(since) >= MAX_SUBMITTED) => {
            escalated(format!("{}; it was accepted long ago, and is not finished", seen.evidence))
        }
        _ => events,
    };
    rules.decision(refund, events, now)
}

/// Whether the refund is so old that [`after_lookup`] needs the time at which the provider accepted
/// it.
pub fn may_take_too_long(refund: &Refund, now: Timestamp) -> bool {
    let is_old = refund.dispatch_time.is_none_or(|first| now.saturating_duration_since(first) >= MAX_SUBMITTED);
    refund.state == State::Submitted && is_old
}

/// What a lookup that shows no trace of the refund proves.
enum AfterAbsence {
    /// Nothing: the refund may still show later.
    Inconclusive,
    /// No attempt has had an effect, and the provider prevents a second one.
    SafeToResend,
    /// Nothing, and no further lookup can: a person must find out, for this reason.
    Exhausted(&'static str),
}

fn after_absence(refund: &Refund, absence: Absence, rules: RetryRules<'_>, asked: Timestamp) -> AfterAbsence {
    let contract = rules.contract;
    let settled = |since: Timestamp| asked.saturating_duration_since(since) >= contract.settle_time;
    // Both the last attempt and the last change of place are older than the settle time.
    let has_settled = refund.settling_since().is_some_and(settled);
    match (contract.lookup, refund.state) {
        (LookupKind::TargetState, State::Submitted) if refund.attempted_elsewhere && has_settled => {
            AfterAbsence::Exhausted(ELSEWHERE)
        }
        // The order's state lags behind by an unknown time, and the provider has said that it
        // accepted the refund.
        (LookupKind::TargetState, State::Submitted) => AfterAbsence::Inconclusive,
        (LookupKind::TargetState, _) => {
            let doubt_settled = has_settled && refund.doubt.as_ref().is_some_and(|doubt| settled(doubt.since));
            if !doubt_settled {
                return AfterAbsence::Inconclusive;
            }
            let is_stuck = last_attempt_refused(refund, contract) || is_contradicted(refund);
            // If the refund cannot be sent again, only a later lookup could still show it.
            let cannot_resend = !rules.is_deduplicated(refund, asked) || is_stuck;
            match absence {
                Absence::HalfDone => AfterAbsence::Exhausted("the settle time is over, and the refund may still come"),
                _ if refund.attempted_elsewhere => AfterAbsence::Exhausted(ELSEWHERE),
                _ if refund.unanswered_attempts >= MAX_UNANSWERED_ATTEMPTS => {
                    AfterAbsence::Exhausted(TOO_MANY_UNANSWERED)
                }
                // As below: unprocessed attempts do not count, so a deadline must end it.
                Absence::Untouched
                    if cannot_resend
                        && was_not_processed(refund)
                        && is_past_resend_deadline(refund, contract, asked) =>
                {
                    AfterAbsence::Exhausted(NEVER_ACCEPTED)
                }
                Absence::Untouched if contract.deduplication != Deduplication::None && cannot_resend && !is_stuck => {
                    AfterAbsence::SafeToResend
                }
                _ if cannot_resend => {
                    AfterAbsence::Exhausted("the settle time is over, and the state of the order proves no absence")
                }
                _ => AfterAbsence::Inconclusive,
            }
        }
        // Absence must be seen twice, a settle time apart.
        (LookupKind::Refund, _) if !refund.absent_since.is_some_and(settled) => AfterAbsence::Inconclusive,
        (LookupKind::Refund, State::Submitted) => {
            AfterAbsence::Exhausted("the provider accepted the refund, and has no record of it any more")
        }
        (LookupKind::Refund, _) if refund.attempted_elsewhere => AfterAbsence::Exhausted(ELSEWHERE),
        (LookupKind::Refund, _) if last_attempt_refused(refund, contract) => {
            AfterAbsence::Exhausted("the provider refused to take it again, and has no record of it")
        }
        (LookupKind::Refund, _) if refund.unanswered_attempts >= MAX_UNANSWERED_ATTEMPTS => {
            AfterAbsence::Exhausted(TOO_MANY_UNANSWERED)
        }
        // Unprocessed attempts do not count towards the limit, so a deadline must end it: an
        // operator cannot have the refund sent again while the gateway does so.
        (LookupKind::Refund, _) if is_past_resend_deadline(refund, contract, asked) => {
            AfterAbsence::Exhausted(NEVER_ACCEPTED)
        }
        (LookupKind::Refund, _) => AfterAbsence::SafeToResend,
    }
}

/// Whether the doubt has lasted for days: then an unanswered lookup, which proves nothing, ends in
/// a review. For a refund that has moved, only the time at its new place counts.
fn lookups_timed_out(refund: &Refund, contract: &RetryContract, now: Timestamp) -> bool {
    let since = refund.doubt.as_ref().map(|doubt| refund.placed_time.map_or(doubt.since, |at| at.max(doubt.since)));
    since
        .is_some_and(|since| now.saturating_duration_since(since) >= MAX_DOUBT_WITHOUT_LOOKUP.max(contract.settle_time))
}

/// Whether the refund had time for several attempts, each after two lookups a settle time apart.
fn is_past_resend_deadline(refund: &Refund, contract: &RetryContract, asked: Timestamp) -> bool {
    let deadline = MAX_DOUBT_WITHOUT_LOOKUP.saturating_add(contract.settle_time.saturating_mul(2));
    refund.dispatch_time.is_some_and(|first| asked.saturating_duration_since(first) >= deadline)
}

/// Whether the last attempt was provably not processed.
fn was_not_processed(refund: &Refund) -> bool {
    refund.doubt.as_ref().is_some_and(|doubt| doubt.not_processed)
}

/// Whether the last attempt was refused. The refusal is not definite while another attempt is
/// unanswered, but sending again would get the same one.
fn last_attempt_refused(refund: &Refund, contract: &RetryContract) -> bool {
    !was_not_processed(refund) && refund.provider_error.as_ref().is_some_and(|error| is_final(error, contract))
}

/// Whether the last answer contradicts our record. Resending the same key would replay that answer
/// and look like ours, so only a lookup of the target can decide.
fn is_contradicted(refund: &Refund) -> bool {
    let is_by_answer = |doubt: &Doubt| doubt.reason == DoubtReason::Contradiction && refund.provider_error.is_none();
    refund.doubt.as_ref().is_some_and(is_by_answer)
}

/// Whether the same request would be refused again.
fn is_final(error: &ProviderError, contract: &RetryContract) -> bool {
    // A provider that replays answers refuses our key with our bytes only while it still processes
    // the first such request.
    let replays = matches!(contract.deduplication, Deduplication::Replay { .. });
    match error.category {
        ErrorCategory::LimitReached | ErrorCategory::CredentialsRefused => false,
        ErrorCategory::IdentifierInUse => !replays,
        // Status 0: no answer was read.
        _ => error.http_status != 0,
    }
}

impl RetryRules<'_> {
    /// The decision to record `events`, with the next lookup after them.
    fn decision(&self, refund: &Refund, events: Vec<Event>, now: Timestamp) -> Decision {
        let after = events.iter().try_fold(refund.clone(), |refund, event| refund.apply(event, now));
        // If the transition is illegal, the ledger will refuse the events too.
        let next_check = after.ok().and_then(|after| self.next_check(&after, now));
        Decision { events, next_check, resend: false }
    }

    /// The next lookup of a refund; none if there is none.
    fn next_check(&self, refund: &Refund, now: Timestamp) -> Option<Timestamp> {
        let (since, skipped) = match (refund.state, &refund.doubt) {
            (State::InDoubt, Some(doubt)) => (doubt.since, refund.unanswered_attempts.saturating_sub(1)),
            (State::Submitted, _) => (refund.dispatch_time.unwrap_or(refund.update_time), 0),
            (State::NeedsReview, _) => return Some(now.saturating_add(self.schedule.then_every)),
            (State::Failed, _) => {
                let next = now.saturating_add(self.schedule.then_every);
                return Some(next).filter(|next| refund.is_followed(*next));
            }
            _ => return None,
        };
        Some(self.next_check_time(refund, since, skipped, now))
    }

    /// Whether a second attempt is safe now: the provider itself would prevent a second effect, and
    /// the request of an interrupted attempt has ended.
    pub fn may_resend(&self, refund: &Refund, now: Timestamp) -> bool {
        self.is_deduplicated(refund, now) && self.in_flight_for(refund).is_none()
    }

    /// For how much longer the request of an interrupted attempt may be on its way; none if it
    /// cannot be. The process that sent it may have ended a moment later, and name.com does not
    /// document what a second request does while the first is processed.
    fn in_flight_for(&self, refund: &Refund) -> Option<Duration> {
        let is_interrupted = |doubt: &Doubt| doubt.reason == DoubtReason::GatewayRestarted && !doubt.not_processed;
        let sent = refund.last_dispatch_time.filter(|_| refund.doubt.as_ref().is_some_and(is_interrupted))?;
        let left = sent.saturating_add(self.total_timeout).saturating_duration_since(self.jumpless_now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// Whether the provider itself would prevent a second effect of a second attempt.
    fn is_deduplicated(&self, refund: &Refund, now: Timestamp) -> bool {
        let expires = matches!(self.contract.deduplication, Deduplication::Replay { .. });
        !refund.attempted_elsewhere
            && (self.key_is_bound || !expires)
            && refund.dispatch_time.is_some_and(|first| self.contract.resend_safe(first, now))
    }

    /// The provider's rejection of a refund that it had accepted: looked up for a while, since it
    /// may be corrected.
    fn rejection(&self, error: ProviderError, items: Vec<ItemResult>, now: Timestamp) -> Event {
        let is_followed = error.category == ErrorCategory::RejectedOnReview && !self.follow_up.is_zero();
        Event::Refused { error, items, follow_until: is_followed.then(|| now.saturating_add(self.follow_up)) }
    }

    /// The next lookup by the schedule, but not later than the time at which a lookup proves more
    /// because a settle time is over, the end of an interrupted request, or the last time at which
    /// a resend is safe.
    fn next_check_time(&self, refund: &Refund, since: Timestamp, skipped: u32, now: Timestamp) -> Timestamp {
        let scheduled = self.schedule.next(since, skipped, now);
        let moved = refund.placed_time.filter(|_| refund.attempted_elsewhere);
        let settled = [Some(since), refund.absent_since, moved].into_iter().flatten();
        let settled = settled.map(|at| at.saturating_add(self.contract.settle_time));
        let request_ends = self.in_flight_for(refund).map(|left| now.saturating_add(left));
        let ahead = settled.chain(request_ends).chain(self.last_resend(refund)).filter(|at| *at > now);
        ahead.fold(scheduled, Timestamp::min)
    }

    /// The time of the last resend, shortly before the key expires: the provider may have been out
    /// of reach for most of the key's life.
    fn last_resend(&self, refund: &Refund) -> Option<Timestamp> {
        let Deduplication::Replay { key_lifetime } = self.contract.deduplication else { return None };
        let first = refund.dispatch_time.filter(|_| refund.state != State::Submitted)?;
        Some(first.saturating_add(key_lifetime / 10 * 9))
    }
}

impl Schedule {
    /// The first scheduled time after `now`. The first `skipped` entries are left out, since every
    /// unanswered attempt makes the next one rarer.
    fn next(&self, since: Timestamp, skipped: u32, now: Timestamp) -> Timestamp {
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX).min(self.first.len().saturating_sub(1));
        let elapsed = now.saturating_duration_since(since);
        let first = self.first.iter().skip(skipped).find(|after| **after > elapsed);
        if let Some(after) = first {
            return since.saturating_add(*after);
        }
        let begin = self.first.last().copied().unwrap_or_default();
        let every = self.then_every.max(Duration::from_millis(1));
        let rounds = elapsed.saturating_sub(begin).as_micros() / every.as_micros() + 1;
        since.saturating_add(begin).saturating_add(every.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX)))
    }
}

impl Backoff {
    /// The wait after attempt number `attempt`: up to a quarter shorter, depending on the refund,
    /// so that refunds that failed together are not sent again together.
    fn after(&self, attempt: u32, refund: &RefundId) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let full = self.min.saturating_mul(1 << doublings).min(self.max);
        // FNV-1a: any hash that is the same for the same refund and attempt.
        let hash = refund
            .as_str()
            .bytes()
            .chain(attempt.to_be_bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        full - full / 4 * (hash % 1024) / 1024
    }
}

/// Whether the first attempt was refused because another refund has our identifier: that is neither
/// a success nor a definite refusal of ours.
fn is_foreign_identifier(contract: &RetryContract, error: &ProviderError) -> bool {
    contract.deduplication == Deduplication::Reject && error.category == ErrorCategory::IdentifierInUse
}

/// What a lookup showed, for the history.
fn observation_of(lookup: &Lookup) -> Observation {
    let (record, status, status_note, items) = match lookup {
        Lookup::Found(Outcome::Refunded(Confirmation { status, status_note, items, .. }))
        | Lookup::Found(Outcome::Accepted(Acceptance { status, status_note, items, .. })) => {
            (RecordSeen::Present, status.clone(), status_note.clone(), items.clone())
        }
        Lookup::Found(_) => (RecordSeen::Present, None, None, Vec::new()),
        Lookup::NotFound { items, .. } => (RecordSeen::Absent, None, None, items.clone()),
        Lookup::Unavailable { .. } => (RecordSeen::Unanswered, None, None, Vec::new()),
    };
    Observation { evidence: evidence_of(lookup), record, items, status, status_note }
}

fn evidence_of(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Found(Outcome::Refunded(_)) => "the provider says that the money was refunded".to_owned(),
        Lookup::Found(Outcome::Accepted(acceptance)) => {
            format!("the provider has the refund: {}", acceptance.status.as_deref().unwrap_or("accepted"))
        }
        Lookup::Found(Outcome::Refused { error, .. }) => format!("the provider refused it: {}", error.to_text()),
        Lookup::Found(Outcome::NotSent { error, .. }) => {
            format!("the provider could not be asked: {}", error.to_text())
        }
        Lookup::Found(Outcome::Unknown { evidence, .. })
        | Lookup::NotFound { evidence, .. }
        | Lookup::Unavailable { evidence, .. } => evidence.clone(),
    }
}

#[cfg(test)]
mod tests;
