//! What follows from an answer. Pure: nothing here waits, asks or writes.

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

/// How refunds that were provably not processed are spread over time: twice as long after each
/// attempt, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first attempt.
    pub shortest: Duration,
    /// However many there were.
    pub longest: Duration,
}

/// When the gateway asks a provider by itself what became of a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// So long after the doubt began, in rising order.
    pub first: Vec<Duration>,
    /// After the last of them, so far apart. Above zero.
    pub then_every: Duration,
}

/// What every decision is made by.
#[derive(Debug, Clone, Copy)]
pub struct RetryRules<'a> {
    /// What the account's provider promises.
    pub contract: &'a RetryContract,
    /// When to ask.
    pub schedule: &'a Schedule,
    /// When to send what was not processed.
    pub backoff: Backoff,
    /// Whether the key of the refund's earlier attempts may still count: its age is known, and the
    /// credential that it is bound to has not changed.
    pub key_is_bound: bool,
    /// How long a rejection is followed, since the provider may correct it.
    pub follow_up: Duration,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What happened, to be recorded. Empty: a lookup showed nothing new, and only the next one is
    /// to be set.
    pub events: Vec<Event>,
    /// When the refund is to be looked up next, where lookups go on then.
    pub next_check: Option<Timestamp>,
    /// What was seen proves that one more attempt is safe, now and only now.
    pub resend: bool,
}

/// How the gateway goes on with a refund that is IN_DOUBT or SUBMITTED, once it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask what became of it.
    LookUp,
    /// Send the same request once more: its provider keeps it from a second effect, and its answer
    /// is the first one's.
    Resend,
}

/// So many attempts without an answer, and a person must look: whatever the contract says,
/// something is wrong.
const MAX_UNANSWERED_ATTEMPTS: u32 = 5;

const TOO_MANY_UNANSWERED: &str = "too many attempts were left without an answer";

const NEVER_TAKEN: &str = "for days no attempt was taken";

const ELSEWHERE: &str = "it was attempted at another host or under another login, and is not sent again from here";

/// So long a doubt is left to looks that are not answered: longer than any outage that is still
/// being worked on.
const MAX_DOUBT_WITHOUT_LOOKUP: Duration = Duration::from_secs(3 * 24 * 3_600);

/// So long a refund that the provider has taken is followed: longer than any bank's transfer.
const MAX_SUBMITTED: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How to go on with a refund that is due.
pub fn next_step(refund: &Refund, rules: RetryRules<'_>, now: Timestamp) -> Step {
    let Deduplication::Replay { .. } = rules.contract.deduplication else {
        // Sectigo is never sent again, and Debitsuccess only when a lookup has just shown that it
        // has no record.
        return Step::LookUp;
    };
    let more = refund.unanswered_attempts > 0 && refund.unanswered_attempts < MAX_UNANSWERED_ATTEMPTS;
    let is_open = refund.state == State::InDoubt && more;
    if is_open
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
    // Earlier attempts of this refund of which nobody knows the outcome. While there are any, no
    // "no" is definite.
    let unanswered = refund.unanswered_attempts > 0;
    let doubted =
        |reason, evidence: String, error| vec![Event::Doubted { reason, evidence, error, not_processed: false }];
    match outcome {
        Outcome::Refunded(Confirmation { replayed: true, .. })
        | Outcome::Accepted(Acceptance { replayed: true, .. })
            if !unanswered =>
        {
            let evidence =
                "the provider says that it repeats an earlier answer, but this gateway has sent nothing before";
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
            // "Already refunded" and 14143 may well be the trace of our own earlier attempt: a look
            // tells, and at once. What is asked for again has its schedule.
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
            // PENDING could be cancelled, as if nothing had ever been sent.
            let evidence =
                format!("an earlier attempt is unanswered, and this one was not processed: {}", error.to_text());
            // By the age of what is in doubt: it was there before this attempt.
            let since = refund.dispatch_time.unwrap_or(now);
            let next_check = Some(rules.next_check_time_of(refund, since, 0, now)).max(retry_at);
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
            // The provider has answered, so its work is done; only a lookup shows what its answer
            // means.
            let is_answered =
                reason == DoubtReason::UnreadableReply && rules.contract.deduplication == Deduplication::None;
            if is_answered { Decision { next_check: None, ..decision } } else { decision }
        }
    }
}

/// What follows where an attempt of a refund in doubt is on disk, and it has taken so long that
/// sending it is not safe any more: another one is unanswered, and this one never left.
pub fn after_delay(refund: &Refund, reason: DoubtReason, rules: RetryRules<'_>, now: Timestamp) -> Decision {
    let evidence = "an earlier attempt is unanswered, and this one was not sent: until it was recorded the provider may have \
                    forgotten the key, or the credentials that it is bound to have changed";
    let doubted = Event::Doubted { reason, evidence: evidence.to_owned(), error: None, not_processed: true };
    rules.decision(refund, vec![doubted], now)
}

/// What follows from a lookup, for a refund that is IN_DOUBT, SUBMITTED or NEEDS_REVIEW, or FAILED
/// and followed.
///
/// The lookup was sent at `asked` and answered at `now`: what it does not show was not there at the
/// earlier of the two. `taken` is when the provider took a refund that [`may_take_too_long`].
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

/// A person ends a review. Only the provider's record under our own identifier ends it without one:
/// a refunded order or item does not show whose refund it was. A lookup that shows nothing new is
/// no event, so that the etag that a person holds stays valid.
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
            // A review begins with what a lookup showed, and why that is not enough.
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

/// A refund that failed by the provider's rejection or a person's decision may have been paid all
/// the same.
fn after_lookup_of_failed(refund: &Refund, lookup: Lookup, rules: RetryRules<'_>, now: Timestamp) -> Vec<Event> {
    let corrected =
        |confirmation| vec![Event::Corrected { confirmation, caution_until: now.saturating_add(rules.follow_up) }];
    match lookup {
        Lookup::Found(Outcome::Refunded(confirmation)) => corrected(confirmation),
        // Some of the items.
        Lookup::NotFound { items, .. } if items.iter().any(|item| item.state == ItemState::Succeeded) => {
            let status = Some("refunded".to_owned());
            let given_back = items.iter().filter(|item| item.state == ItemState::Succeeded);
            let amount = Money::total(given_back.map(|item| item.refunded_amount));
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
                let status = acceptance.status.as_deref().unwrap_or("taken");
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
            AfterAbsence::NotYet => checked(&lookup),
            AfterAbsence::SendAgain => {
                return Decision { resend: true, ..rules.decision(refund, checked(&lookup), now) };
            }
            // What was seen of the items matters more than the sentence.
            AfterAbsence::PastAllMeans(why) => {
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
        // Lookups show no end within the allowed time: a person must find out what became of it.
        [Event::Checked(seen)] if taken.is_some_and(|since| now.saturating_duration_since(since) >= MAX_SUBMITTED) => {
            escalated(format!("{}; it was taken long ago, and is not finished", seen.evidence))
        }
        _ => events,
    };
    rules.decision(refund, events, now)
}

/// Whether it matters, and its history is to be asked, since when the provider has had it.
pub fn may_take_too_long(refund: &Refund, now: Timestamp) -> bool {
    let is_old = refund.dispatch_time.is_none_or(|first| now.saturating_duration_since(first) >= MAX_SUBMITTED);
    refund.state == State::Submitted && is_old
}

/// What it means that the provider was asked and shows no trace of the refund.
enum AfterAbsence {
    /// Nothing: time may still show it.
    NotYet,
    /// It never arrived, and will be kept from a second effect.
    SendAgain,
    /// Nothing that the gateway can find out any more.
    PastAllMeans(&'static str),
}

fn after_absence(refund: &Refund, absence: Absence, rules: RetryRules<'_>, asked: Timestamp) -> AfterAbsence {
    let contract = rules.contract;
    let settled = |since: Timestamp| asked.saturating_duration_since(since) >= contract.settle_time;
    // Neither the last attempt nor a change of its place is younger than the settle time.
    let has_settled = refund.settling_since().is_some_and(settled);
    match (contract.lookup, refund.state) {
        (LookupKind::TargetState, State::Submitted) if refund.attempted_elsewhere && has_settled => {
            AfterAbsence::PastAllMeans(ELSEWHERE)
        }
        // The order's state lags behind by an unknown time, and the provider has said that it took
        // the refund.
        (LookupKind::TargetState, State::Submitted) => AfterAbsence::NotYet,
        (LookupKind::TargetState, _) => {
            let doubt_settled = has_settled && refund.doubt.as_ref().is_some_and(|doubt| settled(doubt.since));
            if !doubt_settled {
                return AfterAbsence::NotYet;
            }
            let is_stuck = last_attempt_refused(refund, contract) || is_contradicted(refund);
            // Where nothing is sent again, nothing but time could still show it.
            let should_stop = !rules.may_resend(refund, asked) || is_stuck;
            match absence {
                Absence::HalfDone => {
                    AfterAbsence::PastAllMeans("the settle time is over, and the refund may still come")
                }
                _ if refund.attempted_elsewhere => AfterAbsence::PastAllMeans(ELSEWHERE),
                _ if refund.unanswered_attempts >= MAX_UNANSWERED_ATTEMPTS => {
                    AfterAbsence::PastAllMeans(TOO_MANY_UNANSWERED)
                }
                // As below: unprocessed attempts do not count, so time must end it.
                Absence::Untouched
                    if should_stop && was_not_processed(refund) && is_past_resend_deadline(refund, contract, asked) =>
                {
                    AfterAbsence::PastAllMeans(NEVER_TAKEN)
                }
                Absence::Untouched if contract.deduplication != Deduplication::None && should_stop && !is_stuck => {
                    AfterAbsence::SendAgain
                }
                _ if should_stop => {
                    AfterAbsence::PastAllMeans("the settle time is over, and the state of the order proves no absence")
                }
                _ => AfterAbsence::NotYet,
            }
        }
        // The first of two: the second counts only a settle time later.
        (LookupKind::Refund, _) if !refund.absent_since.is_some_and(settled) => AfterAbsence::NotYet,
        (LookupKind::Refund, State::Submitted) => {
            AfterAbsence::PastAllMeans("the provider took the refund, and has no record of it any more")
        }
        (LookupKind::Refund, _) if refund.attempted_elsewhere => AfterAbsence::PastAllMeans(ELSEWHERE),
        (LookupKind::Refund, _) if last_attempt_refused(refund, contract) => {
            AfterAbsence::PastAllMeans("the provider refused to take it again, and has no record of it")
        }
        (LookupKind::Refund, _) if refund.unanswered_attempts >= MAX_UNANSWERED_ATTEMPTS => {
            AfterAbsence::PastAllMeans(TOO_MANY_UNANSWERED)
        }
        // Unprocessed attempts do not count against the limit, so time must end it: a person cannot
        // have the refund sent again while the gateway does so.
        (LookupKind::Refund, _) if is_past_resend_deadline(refund, contract, asked) => {
            AfterAbsence::PastAllMeans(NEVER_TAKEN)
        }
        (LookupKind::Refund, _) => AfterAbsence::SendAgain,
    }
}

/// A lookup that is not answered proves nothing. After days without an answer one more helps no
/// further, and a person is asked. A refund that has moved was looked up at its new place only
/// since then.
fn lookups_timed_out(refund: &Refund, contract: &RetryContract, now: Timestamp) -> bool {
    let since = refund.doubt.as_ref().map(|doubt| refund.placed_time.map_or(doubt.since, |at| at.max(doubt.since)));
    since
        .is_some_and(|since| now.saturating_duration_since(since) >= MAX_DOUBT_WITHOUT_LOOKUP.max(contract.settle_time))
}

/// The refund had time for several attempts, each after two lookups a settle time apart.
fn is_past_resend_deadline(refund: &Refund, contract: &RetryContract, asked: Timestamp) -> bool {
    let patience = MAX_DOUBT_WITHOUT_LOOKUP.saturating_add(contract.settle_time.saturating_mul(2));
    refund.dispatch_time.is_some_and(|first| asked.saturating_duration_since(first) >= patience)
}

/// Whether the last attempt was provably not processed.
fn was_not_processed(refund: &Refund) -> bool {
    refund.doubt.as_ref().is_some_and(|doubt| doubt.not_processed)
}

/// The last attempt was answered with a no, which cannot be believed while another attempt is
/// unanswered; asking again would change nothing.
fn last_attempt_refused(refund: &Refund, contract: &RetryContract) -> bool {
    !was_not_processed(refund) && refund.provider_error.as_ref().is_some_and(|error| is_final(error, contract))
}

/// The last answer cannot be the one to this refund: the same key would get it again, and then pass
/// for our own. Only the target tells.
fn is_contradicted(refund: &Refund) -> bool {
    let by_an_answer = |doubt: &Doubt| doubt.reason == DoubtReason::Contradiction && refund.provider_error.is_none();
    refund.doubt.as_ref().is_some_and(by_an_answer)
}

/// A no that the same request would get again.
fn is_final(error: &ProviderError, contract: &RetryContract) -> bool {
    // Our key with our bytes is refused only while the first request that had them is still being
    // worked on.
    let replays = matches!(contract.deduplication, Deduplication::Replay { .. });
    match error.category {
        ErrorCategory::LimitReached | ErrorCategory::CredentialsRefused => false,
        ErrorCategory::IdentifierInUse => !replays,
        // No answer was read.
        _ => error.http_status != 0,
    }
}

impl RetryRules<'_> {
    /// `events`, and when to ask next once they are recorded.
    fn decision(&self, refund: &Refund, events: Vec<Event>, now: Timestamp) -> Decision {
        let after = events.iter().try_fold(refund.clone(), |refund, event| refund.apply(event, now));
        // What the table refuses, the ledger will refuse too.
        let next_check = after.ok().and_then(|after| self.next_check(&after, now));
        Decision { events, next_check, resend: false }
    }

    /// None: nothing is to be looked up.
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
        Some(self.next_check_time_of(refund, since, skipped, now))
    }

    /// Whether the provider itself would keep a second send from a second effect now.
    pub fn may_resend(&self, refund: &Refund, now: Timestamp) -> bool {
        let expires = matches!(self.contract.deduplication, Deduplication::Replay { .. });
        !refund.attempted_elsewhere
            && (self.key_is_bound || !expires)
            && refund.dispatch_time.is_some_and(|first| self.contract.resend_safe(first, now))
    }

    /// The provider's rejection of a refund that it had taken: followed for a while, since it may
    /// be corrected.
    fn rejection(&self, error: ProviderError, items: Vec<ItemResult>, now: Timestamp) -> Event {
        let follow = error.category == ErrorCategory::RejectedOnReview && !self.follow_up.is_zero();
        Event::Refused { error, items, follow_until: follow.then(|| now.saturating_add(self.follow_up)) }
    }

    /// By the schedule, and not later than the moment at which what is seen will mean more, or the
    /// last one at which a resend is safe.
    fn next_check_time_of(&self, refund: &Refund, since: Timestamp, skipped: u32, now: Timestamp) -> Timestamp {
        let scheduled = self.schedule.next(since, skipped, now);
        let moved = refund.placed_time.filter(|_| refund.attempted_elsewhere);
        let settled = [Some(since), refund.absent_since, moved].into_iter().flatten();
        let settled = settled.map(|at| at.saturating_add(self.contract.settle_time));
        let ahead = settled.chain(self.last_resend(refund)).filter(|at| *at > now);
        ahead.fold(scheduled, Timestamp::min)
    }

    /// A provider that was out of reach for most of a key's life is asked once more before it dies.
    fn last_resend(&self, refund: &Refund) -> Option<Timestamp> {
        let Deduplication::Replay { key_lifetime } = self.contract.deduplication else { return None };
        let first = refund.dispatch_time.filter(|_| refund.state != State::Submitted)?;
        Some(first.saturating_add(key_lifetime / 10 * 9))
    }
}

impl Schedule {
    /// The first moment after `now`; of the first ones so many are `skipped`, since every attempt
    /// without an answer makes the next rarer.
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
    /// How long after attempt number `attempt`. Up to a quarter less, by refund, so that a crowd
    /// does not come back as one.
    fn after(&self, attempt: u32, refund: &RefundId) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let full = self.shortest.saturating_mul(1 << doublings).min(self.longest);
        // FNV-1a: any spread will do, the same for the same refund and attempt.
        let hash = refund
            .as_str()
            .bytes()
            .chain(attempt.to_be_bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        full - full / 4 * (hash % 1024) / 1024
    }
}

/// 14143 on a first send: somebody else's refund has our identifier. Not ours to take for a yes,
/// nor for a no.
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
        Lookup::Found(Outcome::Refunded(_)) => "the provider says that the money was given back".to_owned(),
        Lookup::Found(Outcome::Accepted(acceptance)) => {
            format!("the provider has the refund: {}", acceptance.status.as_deref().unwrap_or("taken"))
        }
        Lookup::Found(Outcome::Refused { error, .. }) => format!("the provider says no: {}", error.to_text()),
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
