//! What follows from an answer. Pure: nothing here waits, asks or writes.

use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::contract::{Deduplication, RetryContract};
use crate::domain::ids::RefundId;
use crate::domain::outcome::{DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError};
use crate::domain::refund::{Event, Refund};
use crate::domain::state::State;

/// How refunds that were provably not processed are spread over time: twice as long after each attempt, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first attempt.
    pub shortest: Duration,
    /// However many there were.
    pub longest: Duration,
}

/// What follows from the answer to an attempt of a refund that is DISPATCHING.
pub fn after_attempt(
    refund: &Refund,
    contract: &RetryContract,
    outcome: Outcome,
    backoff: Backoff,
    now: Timestamp,
) -> Vec<Event> {
    // Earlier attempts of this refund of which nobody knows the outcome. While there are any, no "no" is definite.
    let unanswered = refund.unanswered_attempts > 0;
    match outcome {
        Outcome::Refunded(confirmation) if confirmation.replayed && !unanswered => vec![unexplained_replay()],
        Outcome::Accepted(acceptance) if acceptance.replayed && !unanswered => vec![unexplained_replay()],
        Outcome::Refunded(confirmation) => vec![Event::Refunded(confirmation)],
        Outcome::Accepted(acceptance) => vec![Event::Accepted(acceptance)],
        Outcome::Refused { error, .. } if unanswered => {
            let evidence = format!("an earlier attempt is unanswered, and this one was refused: {}", error.said());
            vec![Event::Doubted { reason: DoubtReason::Contradiction, evidence, error: Some(error) }]
        }
        Outcome::Refused { error, .. } if is_foreign_identifier(contract, &error) => {
            let evidence = format!(
                "the provider knows this identifier, but this gateway has not used it before: {}",
                error.said()
            );
            vec![
                Event::Doubted { reason: DoubtReason::Contradiction, evidence: evidence.clone(), error: Some(error) },
                Event::Escalated { evidence },
            ]
        }
        Outcome::Refused { error, items } => vec![Event::Refused { error, items }],
        Outcome::NotSent { error, .. } if unanswered => {
            // PENDING could be cancelled, as if nothing had ever been sent.
            let evidence =
                format!("an earlier attempt is unanswered, and this one was not processed: {}", error.said());
            vec![Event::Doubted { reason: DoubtReason::Contradiction, evidence, error: Some(error) }]
        }
        Outcome::NotSent { error, retry_at } => {
            let earliest = now.plus(backoff.after(refund.attempt_count, refund.id()));
            vec![Event::NotSent { error, retry_at: retry_at.map_or(earliest, |at| at.max(earliest)) }]
        }
        Outcome::Unknown { reason, evidence } => vec![Event::Doubted { reason, evidence, error: None }],
    }
}

/// What follows from a look at the provider, for a refund that is IN_DOUBT, SUBMITTED or NEEDS_REVIEW.
pub fn after_lookup(refund: &Refund, lookup: Lookup) -> Vec<Event> {
    if refund.state == State::NeedsReview {
        // Only a person moves it; what was seen helps them.
        return vec![Event::Checked { evidence: evidence_of(&lookup) }];
    }
    match lookup {
        Lookup::Found(Outcome::Refunded(confirmation)) => vec![Event::Refunded(confirmation)],
        Lookup::Found(Outcome::Accepted(acceptance)) => {
            let unchanged = refund.state == State::Submitted
                && (acceptance.status.is_none() || acceptance.status == refund.provider_status)
                && (acceptance.reference.is_none() || acceptance.reference == refund.provider_reference)
                && (acceptance.items.is_empty() || acceptance.items == refund.items);
            if unchanged {
                let status = acceptance.status.as_deref().unwrap_or("taken");
                vec![Event::Checked { evidence: format!("the provider has not finished: {status}") }]
            } else {
                vec![Event::Accepted(acceptance)]
            }
        }
        Lookup::Found(Outcome::Refused { error, items }) => vec![Event::Refused { error, items }],
        // What the provider has on record is not what was asked for: no further look can mend that.
        Lookup::Found(Outcome::Unknown { reason: DoubtReason::Contradiction, evidence }) => {
            vec![Event::Escalated { evidence }]
        }
        other => vec![Event::Checked { evidence: evidence_of(&other) }],
    }
}

impl Backoff {
    /// How long after attempt number `attempt`. Up to a quarter less, by refund, so that a crowd does not come back as one.
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

/// 14143 on a first send: somebody else's refund has our identifier. Not ours to take for a yes, nor for a no.
fn is_foreign_identifier(contract: &RetryContract, error: &ProviderError) -> bool {
    contract.deduplication == Deduplication::Reject && error.category == ErrorCategory::IdentifierInUse
}

fn unexplained_replay() -> Event {
    let evidence =
        "the provider says that it repeats an earlier answer, but this gateway has sent nothing before".to_owned();
    Event::Doubted { reason: DoubtReason::Contradiction, evidence, error: None }
}

fn evidence_of(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Found(Outcome::Refunded(_)) => "the provider says that the money was given back".to_owned(),
        Lookup::Found(Outcome::Accepted(acceptance)) => {
            format!("the provider has the refund: {}", acceptance.status.as_deref().unwrap_or("taken"))
        }
        Lookup::Found(Outcome::Refused { error, .. }) => format!("the provider says no: {}", error.said()),
        Lookup::Found(Outcome::NotSent { error, .. }) => format!("the provider could not be asked: {}", error.said()),
        Lookup::Found(Outcome::Unknown { evidence, .. })
        | Lookup::NotFound { evidence, .. }
        | Lookup::Unavailable { evidence } => evidence.clone(),
    }
}

#[cfg(test)]
mod tests;
