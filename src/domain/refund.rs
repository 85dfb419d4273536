//! The refund: one intent to give money back, and how an event changes it.
//!
//! [`Refund::apply`] is the only way in which a refund changes. It is pure, so the live path, the recovery at start-up and the tests
//! run the same code, and the ledger can apply it inside its transaction.

use std::collections::BTreeMap;

use crate::domain::clock::Timestamp;
use crate::domain::ids::{AccountName, Provider, RefundId};
use crate::domain::money::Money;
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError,
};
use crate::domain::state::{self, MoveRefused, State};
use crate::domain::target::Target;

/// What a caller asks for, checked. Two intents with one id are the same refund exactly when they are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The caller's key.
    pub id: RefundId,
    /// Which configured credential set sends it.
    pub account: AccountName,
    /// What is refunded.
    pub target: Target,
    /// The caller's own labels.
    pub labels: BTreeMap<String, String>,
}

/// One refund as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// What was asked for. Never changes.
    pub intent: Intent,
    /// Where it stands.
    pub state: State,
    /// Set exactly while the state is [`State::InDoubt`] or [`State::NeedsReview`].
    pub doubt: Option<Doubt>,
    /// What the provider answered when it refused, in whole, in part, or for now.
    pub provider_error: Option<ProviderError>,
    /// What the provider says it gave back.
    pub refunded_amount: Option<Money>,
    /// name.com: one entry an item.
    pub items: Vec<ItemResult>,
    /// The provider's own number for this refund.
    pub provider_reference: Option<String>,
    /// The provider's own word for the present state.
    pub provider_status: Option<String>,
    /// Wire attempts so far.
    pub attempt_count: u32,
    /// Attempts of which nobody knows the outcome, and those that were refused while there was one: while it is above 0, no "no" is believed.
    pub unanswered_attempts: u32,
    /// Rises by one with every event. 1 for a refund just created.
    pub revision: u64,
    /// When it was recorded.
    pub create_time: Timestamp,
    /// When it last changed.
    pub update_time: Timestamp,
    /// When the first attempt was recorded of which a byte may have left, whatever was answered.
    pub dispatch_time: Option<Timestamp>,
    /// When a terminal state was reached.
    pub complete_time: Option<Timestamp>,
    /// [`State::Pending`]: not sent before this moment.
    pub not_before: Option<Timestamp>,
    /// [`State::InDoubt`] and [`State::Submitted`]: when the gateway next asks the provider, or sends again where that is safe. None there:
    /// at once.
    pub next_check: Option<Timestamp>,
    /// Since when looks at the provider have shown no record of a refund that it keeps records of. None once it showed one.
    pub absent_since: Option<Timestamp>,
}

/// Why an outcome is not known, and what has been seen since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// In which way.
    pub reason: DoubtReason,
    /// Since when.
    pub since: Timestamp,
    /// Looks at the provider so far.
    pub check_count: u32,
    /// What the last one showed, without secrets.
    pub last_evidence: String,
}

/// What can happen to a refund. Each is one line of its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An attempt is recorded; from now on its first byte may leave.
    Dispatched,
    /// Proof that nothing was processed; sent again, not before `retry_at`.
    NotSent {
        /// Why.
        error: ProviderError,
        /// Not before this moment.
        retry_at: Timestamp,
    },
    /// The provider's yes.
    Refunded(Confirmation),
    /// The provider took it and has not finished.
    Accepted(Acceptance),
    /// The provider's definite no.
    Refused {
        /// Its words.
        error: ProviderError,
        /// What it said of single items.
        items: Vec<ItemResult>,
    },
    /// The outcome of an attempt is not known.
    Doubted {
        /// In which way.
        reason: DoubtReason,
        /// What was seen.
        evidence: String,
        /// The provider's words where it is they that cannot be believed.
        error: Option<ProviderError>,
        /// The attempt itself was not processed: the doubt is an earlier one's.
        not_processed: bool,
    },
    /// The gateway stopped while an attempt was on its way.
    Interrupted,
    /// A look at the provider that settled nothing.
    Checked {
        /// What was seen.
        evidence: String,
        /// The provider answered, and shows no record of the refund.
        absent: bool,
    },
    /// The gateway cannot find out: a person must.
    Escalated {
        /// Why not.
        evidence: String,
    },
    /// The caller withdrew it before the provider had processed anything.
    Cancelled,
    /// It waited longer than its account allows. Nothing of it was processed.
    Expired,
    /// A person found out.
    Resolved {
        /// What.
        resolution: Resolution,
        /// Where the evidence is.
        evidence: String,
    },
}

/// What a person found out about a refund that needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The money was given back.
    Refunded {
        /// How much, where known.
        amount: Option<Money>,
    },
    /// It was not, and is not to be.
    NotRefunded,
    /// It was not: one more attempt is authorised.
    SendAgain,
}

/// One line of the ledger's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Rises over the whole ledger without gaps, from 1.
    pub sequence: u64,
    /// Whose history.
    pub refund: RefundId,
    /// The refund's revision after the event.
    pub revision: u64,
    /// When.
    pub time: Timestamp,
    /// None for the creation.
    pub from: Option<State>,
    /// The state after the event.
    pub to: State,
    /// "gateway", or the caller.
    pub actor: String,
    /// One sentence for a person.
    pub note: String,
    /// SHA-256 over this line and the hash before it.
    pub chain_hash: [u8; 32],
}

impl Refund {
    /// A refund just recorded.
    pub fn new(intent: Intent, now: Timestamp) -> Self {
        Self {
            intent,
            state: State::Pending,
            doubt: None,
            provider_error: None,
            refunded_amount: None,
            items: Vec::new(),
            provider_reference: None,
            provider_status: None,
            attempt_count: 0,
            unanswered_attempts: 0,
            revision: 1,
            create_time: now,
            update_time: now,
            dispatch_time: None,
            complete_time: None,
            not_before: None,
            next_check: None,
            absent_since: None,
        }
    }

    /// The caller's key.
    pub fn id(&self) -> &RefundId {
        &self.intent.id
    }

    /// Whose refund it is.
    pub fn provider(&self) -> Provider {
        self.intent.target.provider()
    }

    /// Stands for the refund as it is now; every change gives another.
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.create_time.as_micros(), self.revision)
    }

    /// What [`Intent`] fields of a second request differ from the recorded ones; empty when it is the same refund.
    pub fn differing_fields(&self, intent: &Intent) -> Vec<&'static str> {
        let mut fields = self.intent.target.differing_fields(&intent.target);
        if self.intent.account != intent.account {
            fields.insert(0, "account");
        }
        if self.intent.labels != intent.labels {
            fields.push("labels");
        }
        fields
    }

    /// Nothing has happened between the two that could change what a look at the provider means.
    pub fn is_like(&self, earlier: &Refund) -> bool {
        self.state == earlier.state && self.attempt_count == earlier.attempt_count
    }

    /// The refund after `event`.
    ///
    /// # Errors
    /// [`MoveRefused`] where the state does not allow the event.
    pub fn apply(&self, event: &Event, now: Timestamp) -> Result<Refund, MoveRefused> {
        let state = state::next(self.state, event)?;
        let attempt_says_no = matches!(event, Event::NotSent { .. } | Event::Refused { .. });
        if self.state == State::Dispatching && self.unanswered_attempts > 0 && attempt_says_no {
            // This attempt's "no" says nothing of the earlier one: PENDING could be withdrawn, and FAILED would be a promise.
            return Err(MoveRefused { from: self.state, event: event.name() });
        }
        let mut next = self.clone();
        next.state = state;
        next.revision = self.revision.saturating_add(1);
        // A clock set back must not make a history run backwards.
        next.update_time = now.max(self.update_time);
        next.not_before = None;
        next.next_check = None;
        if !matches!(event, Event::Checked { .. }) {
            // Whatever else happened, what was seen before it tells nothing of what is there now.
            next.absent_since = None;
        }
        match event {
            Event::Dispatched => next.begin_attempt(),
            Event::NotSent { error, retry_at } => {
                next.provider_error = Some(error.clone());
                next.not_before = Some(*retry_at);
                // No answer was read and the proof stands: no byte of this attempt left, so it did not begin the clock.
                if error.http_status == 0 && self.dispatch_time == Some(self.update_time) {
                    next.dispatch_time = None;
                }
            }
            Event::Refunded(confirmation) => {
                next.provider_error = confirmation.error.clone();
                if !confirmation.items.is_empty() {
                    // What had been given back until now is not what was given back in the end.
                    next.refunded_amount = None;
                }
                next.settle(&confirmation.reference, &confirmation.status, confirmation.amount, &confirmation.items);
            }
            Event::Accepted(acceptance) => {
                next.provider_error = None;
                next.settle(&acceptance.reference, &acceptance.status, acceptance.amount, &acceptance.items);
            }
            Event::Refused { error, items } => {
                next.provider_error = Some(error.clone());
                next.settle(&None, &None, None, items);
                // The word of a state that is over says nothing of this one; a review's "no" is itself the provider's word for it.
                next.provider_status = (error.category == ErrorCategory::RejectedOnReview).then(|| error.code.clone());
            }
            Event::Doubted { reason, evidence, error, not_processed } => {
                next.unanswered_attempts = self.unanswered_attempts.saturating_add(u32::from(!not_processed));
                next.provider_error = error.clone();
                next.doubt = Some(Doubt::new(*reason, next.update_time, evidence.clone()));
            }
            Event::Interrupted => {
                next.unanswered_attempts = self.unanswered_attempts.saturating_add(1);
                let evidence = "the gateway stopped while the attempt was on its way".to_owned();
                next.doubt = Some(Doubt::new(DoubtReason::GatewayRestarted, next.update_time, evidence));
            }
            Event::Checked { evidence, absent } => {
                if *absent {
                    next.absent_since = self.absent_since.or(Some(next.update_time));
                } else if self.state == State::Submitted {
                    // It was shown in between: two absences count only in a row.
                    next.absent_since = None;
                }
                if let Some(doubt) = next.doubt.as_mut() {
                    doubt.check_count = doubt.check_count.saturating_add(1);
                    doubt.last_evidence = evidence.clone();
                }
            }
            Event::Escalated { evidence } => {
                let doubt = next.doubt.get_or_insert_with(|| {
                    Doubt::new(DoubtReason::Contradiction, now.max(self.update_time), String::new())
                });
                doubt.last_evidence = evidence.clone();
            }
            Event::Resolved { resolution: Resolution::Refunded { amount }, .. } => {
                next.provider_error = None;
                next.refunded_amount = amount.or(self.refunded_amount);
            }
            Event::Resolved { resolution: Resolution::SendAgain, .. } => {
                // What a person has looked into nobody has answered for, though the provider may once have taken it: no "no" is definite.
                next.unanswered_attempts = next.unanswered_attempts.max(1);
                next.begin_attempt();
            }
            Event::Resolved { resolution: Resolution::NotRefunded, .. } | Event::Cancelled | Event::Expired => {}
        }
        if !matches!(next.state, State::InDoubt | State::NeedsReview) {
            next.doubt = None;
        }
        if next.state.is_terminal() {
            next.complete_time = Some(next.update_time);
        }
        Ok(next)
    }

    /// The [`Target::reservation_keys`] that no other refund may take now. Empty once it failed or was withdrawn; items that the
    /// provider refused inside a partial success are free again.
    pub fn held_keys(&self) -> Vec<String> {
        if !self.state.holds_target() {
            return Vec::new();
        }
        let refused = |key: &String| {
            self.state == State::PartiallySucceeded
                && self
                    .items
                    .iter()
                    .any(|item| item.state == ItemState::Failed && *key == format!("item:{}", item.item_id))
        };
        self.intent.target.reservation_keys().into_iter().filter(|key| !refused(key)).collect()
    }

    /// From now on the first byte of one more attempt may leave.
    fn begin_attempt(&mut self) {
        self.attempt_count = self.attempt_count.saturating_add(1);
        self.dispatch_time = self.dispatch_time.or(Some(self.update_time));
        self.provider_error = None;
    }

    /// Takes over what the provider says of a refund that it knows. What it leaves out keeps its last word.
    fn settle(
        &mut self,
        reference: &Option<String>,
        status: &Option<String>,
        amount: Option<Money>,
        items: &[ItemResult],
    ) {
        self.unanswered_attempts = 0;
        self.provider_reference = reference.clone().or_else(|| self.provider_reference.take());
        self.provider_status = status.clone().or_else(|| self.provider_status.take());
        self.refunded_amount = amount.or(self.refunded_amount);
        if !items.is_empty() {
            self.items = items.to_vec();
        }
    }
}

impl Doubt {
    fn new(reason: DoubtReason, since: Timestamp, last_evidence: String) -> Self {
        Self { reason, since, check_count: 0, last_evidence }
    }
}

impl Confirmation {
    /// Whether a requested item was refused while others were given back.
    pub fn is_partial(&self) -> bool {
        self.items.iter().any(|item| item.requested && item.state != ItemState::Succeeded)
    }
}

impl Event {
    /// The event's name, for refusals and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Event::Dispatched => "dispatched",
            Event::NotSent { .. } => "not_sent",
            Event::Refunded(_) => "refunded",
            Event::Accepted(_) => "accepted",
            Event::Refused { .. } => "refused",
            Event::Doubted { .. } => "doubted",
            Event::Interrupted => "interrupted",
            Event::Checked { .. } => "checked",
            Event::Escalated { .. } => "escalated",
            Event::Cancelled => "cancelled",
            Event::Expired => "expired",
            Event::Resolved { .. } => "resolved",
        }
    }

    /// One sentence for a person, told of the refund as it stands after the event.
    pub fn note(&self, after: &Refund) -> String {
        match self {
            Event::Dispatched => {
                format!("Attempt {} may leave for {} from now on.", after.attempt_count, after.provider())
            }
            Event::NotSent { error, .. } => {
                format!("Attempt {} was not processed: {}. It is sent again.", after.attempt_count, error.said())
            }
            Event::Refunded(confirmation) => match confirmation.amount {
                Some(amount) => format!("{} gave back {amount}.", after.provider()),
                None => format!("{} gave the money back.", after.provider()),
            },
            Event::Accepted(acceptance) => {
                let status = acceptance.status.as_deref().unwrap_or("taken");
                format!("{} took the refund and has not finished: {status}.", after.provider())
            }
            Event::Refused { error, .. } => format!("{} refused: {}.", after.provider(), error.said()),
            Event::Doubted { evidence, not_processed: true, .. } => {
                format!("Attempt {} was not processed, and the doubt goes on: {evidence}.", after.attempt_count)
            }
            Event::Doubted { evidence, .. } => {
                format!("It is not known what became of attempt {}: {evidence}.", after.attempt_count)
            }
            Event::Interrupted => {
                format!(
                    "The gateway stopped while attempt {} was on its way; its outcome is not known.",
                    after.attempt_count
                )
            }
            Event::Checked { evidence, .. } => format!("A look at {} settled nothing: {evidence}.", after.provider()),
            Event::Escalated { evidence } => format!("A person must find out: {evidence}."),
            Event::Cancelled => "Withdrawn before the provider had processed anything.".to_owned(),
            Event::Expired => {
                "It waited longer than its account allows. It was never processed, and is not sent any more.".to_owned()
            }
            Event::Resolved { resolution, evidence } => match resolution {
                Resolution::Refunded { .. } => format!("A person found that the money was given back: {evidence}."),
                Resolution::NotRefunded => format!("A person found that no money was given back: {evidence}."),
                Resolution::SendAgain => format!(
                    "A person found that no money was given back, and had it sent again as attempt {}: {evidence}.",
                    after.attempt_count
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests;
