//! The refund: one intent to give money back, and how an event changes it.
//!
//! [`Refund::apply`] is the only way in which a refund changes. It is pure, so the live path, the
//! recovery at start-up and the tests run the same code, and the ledger can apply it inside its
//! transaction.

use std::collections::BTreeMap;

use crate::domain::clock::Timestamp;
use crate::domain::event::{Decided, Event, RecordSeen, Resolution};
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Money;
use crate::domain::outcome::{Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError};
use crate::domain::place::{Destination, Place};
use crate::domain::state::{self, IllegalTransition, State};
use crate::domain::target::{SIMILAR_WITHIN, Target};

/// What a caller asks for, checked. Two intents with one id are the same refund exactly when they
/// are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The caller's key.
    pub id: RefundId,
    /// The account that the caller named. [`Refund::account`] is where it goes on.
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
    /// The account that it goes on at: the one first given, unless it was reassigned.
    pub account: AccountName,
    /// Where that account was when the refund was recorded there. Nothing is sent or looked up
    /// anywhere else.
    pub place: Place,
    /// When it was reassigned last.
    pub placed_time: Option<Timestamp>,
    /// An attempt that may have had an effect was made at another host or under another login.
    /// Whether its key or identifier counts here is documented nowhere, so the gateway never sends
    /// it again.
    pub attempted_elsewhere: bool,
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
    /// The provider's own remark beside it.
    pub provider_status_note: Option<String>,
    /// Wire attempts so far.
    pub attempt_count: u32,
    /// Attempts of which nobody knows the outcome, and those that were refused while there was one:
    /// while it is above 0, no "no" is believed.
    pub unanswered_attempts: u32,
    /// Rises by one with every event. 1 for a refund just created.
    pub revision: u64,
    /// When it was recorded.
    pub create_time: Timestamp,
    /// When it last changed.
    pub update_time: Timestamp,
    /// When the first attempt was recorded of which a byte may have left, whatever was answered.
    pub dispatch_time: Option<Timestamp>,
    /// When the last attempt was recorded.
    pub last_dispatch_time: Option<Timestamp>,
    /// A digest of the credential that the last attempt's deduplication key is bound to. None where
    /// keys are bound to none, and before the first attempt.
    pub credential: Option<String>,
    /// When a terminal state was reached.
    pub complete_time: Option<Timestamp>,
    /// [`State::Pending`]: not sent before this moment.
    pub not_before: Option<Timestamp>,
    /// When the gateway next looks it up, or sends it again where that is safe. None: at once in
    /// [`State::InDoubt`] and [`State::Submitted`], and never in any other state. Part of the
    /// schedule, not of the history.
    pub next_check: Option<Timestamp>,
    /// The last lookup had no usable answer. Part of the schedule, like [`Refund::next_check`].
    pub unheard: bool,
    /// Since when consecutive lookups have shown no record of a refund that the provider keeps
    /// records of. None once one showed it.
    pub absent_since: Option<Timestamp>,
    /// The provider had a record under our identifier before anything was sent: a record found is
    /// no proof that it is ours.
    pub foreign_record: bool,
    /// What a person found not refunded stays reserved until then.
    pub reserved_until: Option<Timestamp>,
    /// [`State::Failed`]: until then the provider may still correct itself, or has just done so. A
    /// similar refund needs `allow_similar`.
    pub caution_until: Option<Timestamp>,
    /// [`State::Failed`]: when the provider reported a refund all the same.
    pub corrected_time: Option<Timestamp>,
}

/// A key of a target that no other refund may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// One of [`Target::reservation_keys`].
    pub key: String,
    /// Until when. None: as long as the refund stays in this state.
    pub until: Option<Timestamp>,
}

/// How long another refund of the same account and amount counts as a likely duplicate of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimilarityWindow {
    /// Until then the other one needs `allow_similar`.
    pub until: Timestamp,
    /// Until then it is refused, even with `allow_similar`.
    pub firm_until: Option<Timestamp>,
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
    /// The last attempt was provably not processed: what was said of it is no answer to an earlier
    /// one.
    pub not_processed: bool,
}

impl Refund {
    /// A refund just recorded, of an account that is at `place`.
    pub fn new(intent: Intent, place: Place, now: Timestamp) -> Self {
        Self {
            account: intent.account.clone(),
            intent,
            place,
            placed_time: None,
            attempted_elsewhere: false,
            state: State::Pending,
            doubt: None,
            provider_error: None,
            refunded_amount: None,
            items: Vec::new(),
            provider_reference: None,
            provider_status: None,
            provider_status_note: None,
            attempt_count: 0,
            unanswered_attempts: 0,
            revision: 1,
            create_time: now,
            update_time: now,
            dispatch_time: None,
            last_dispatch_time: None,
            credential: None,
            complete_time: None,
            not_before: None,
            next_check: None,
            unheard: false,
            absent_since: None,
            foreign_record: false,
            reserved_until: None,
            caution_until: None,
            corrected_time: None,
        }
    }

    /// The caller's key.
    pub fn id(&self) -> &RefundId {
        &self.intent.id
    }

    /// Whose refund it is.
    pub fn provider(&self) -> ProviderKind {
        self.intent.target.provider()
    }

    /// The account and place that it may be sent from and looked up at.
    pub fn destination(&self) -> Destination {
        Destination { account: self.account.clone(), place: self.place.clone() }
    }

    /// Stands for the refund as it is now; every change gives another.
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.create_time.as_micros(), self.revision)
    }

    /// What [`Intent`] fields of a second request differ from the recorded ones; empty when it is
    /// the same refund.
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

    /// Nothing has happened between the two that could change what a lookup means.
    pub fn has_same_attempt(&self, earlier: &Refund) -> bool {
        self.state == earlier.state
            && self.attempt_count == earlier.attempt_count
            && self.account == earlier.account
            && self.place == earlier.place
            && self.corrected_time == earlier.corrected_time
    }

    /// When the present settle time began: what a lookup does not show once it is over did not
    /// happen.
    pub fn settling_since(&self) -> Option<Timestamp> {
        self.last_dispatch_time.max(self.placed_time.filter(|_| self.attempted_elsewhere))
    }

    /// Since when it waits to be sent.
    pub fn pending_since(&self) -> Timestamp {
        self.placed_time.unwrap_or(self.create_time)
    }

    /// It failed, and the provider may still correct that: it is looked up until then.
    pub fn is_followed(&self, now: Timestamp) -> bool {
        self.state == State::Failed
            && self.corrected_time.is_none()
            && self.caution_until.is_some_and(|until| now < until)
    }

    /// The refund after `event`.
    ///
    /// # Errors
    /// [`IllegalTransition`] where the state does not allow the event.
    pub fn apply(&self, event: &Event, now: Timestamp) -> Result<Refund, IllegalTransition> {
        let state = state::transition(self.state, event)?;
        let refused = || IllegalTransition { from: self.state, event: event.kind().as_str() };
        let attempt_says_no = matches!(event, Event::NotSent { .. } | Event::Refused { .. });
        if self.state == State::Dispatching && self.unanswered_attempts > 0 && attempt_says_no {
            // This attempt's "no" says nothing of the earlier one: PENDING could be withdrawn, and
            // FAILED would be a promise.
            return Err(refused());
        }
        if self.state == State::Failed && (self.caution_until.is_none() || self.corrected_time.is_some()) {
            return Err(refused());
        }
        let mut next = self.clone();
        next.state = state;
        next.revision = self.revision.saturating_add(1);
        // A clock set back must not make a history run backwards.
        next.update_time = now.max(self.update_time);
        next.not_before = None;
        next.next_check = None;
        next.unheard = false;
        if !matches!(event, Event::Checked(_)) {
            // After any other event, an earlier observation says nothing about the present.
            next.absent_since = None;
        }
        match event {
            Event::Dispatched { credential } => next.begin_attempt(credential),
            Event::NotSent { error, retry_at } => {
                next.provider_error = Some(error.clone());
                next.not_before = Some(*retry_at);
                // No answer was read and the proof stands: no byte of this attempt left, so it did
                // not begin the clock.
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
                next.adopt_provider_state(&Reported::from(confirmation));
            }
            Event::Accepted(acceptance) => {
                next.provider_error = None;
                next.adopt_provider_state(&Reported {
                    reference: &acceptance.reference,
                    status: &acceptance.status,
                    status_note: &acceptance.status_note,
                    amount: acceptance.amount,
                    items: &acceptance.items,
                });
            }
            Event::Refused { error, items, follow_until } => {
                next.provider_error = Some(error.clone());
                next.adopt_provider_state(&Reported { items, ..Reported::default() });
                // The word of a state that is over says nothing of this one; a review's "no" is
                // itself the provider's word for it.
                next.provider_status = (error.category == ErrorCategory::RejectedOnReview).then(|| error.code.clone());
                next.provider_status_note = next.provider_status.as_ref().and_then(|_| non_empty(Some(&error.message)));
                next.caution_until = *follow_until;
            }
            Event::Doubted { reason, evidence, error, not_processed } => {
                next.unanswered_attempts = self.unanswered_attempts.saturating_add(u32::from(!not_processed));
                next.provider_error = error.clone();
                let doubt = Doubt::new(*reason, next.update_time, evidence.clone());
                next.doubt = Some(Doubt { not_processed: *not_processed, ..doubt });
            }
            Event::Interrupted => {
                next.unanswered_attempts = self.unanswered_attempts.saturating_add(1);
                let evidence = "the gateway stopped while the attempt was on its way".to_owned();
                next.doubt = Some(Doubt::new(DoubtReason::GatewayRestarted, next.update_time, evidence));
            }
            Event::Checked(seen) => {
                match seen.record {
                    RecordSeen::Absent => next.absent_since = self.absent_since.or(Some(next.update_time)),
                    RecordSeen::Present => next.absent_since = None,
                    RecordSeen::Unanswered => next.unheard = true,
                }
                if !seen.items.is_empty() {
                    next.items.clone_from(&seen.items);
                }
                if seen.status.is_some() {
                    next.provider_status.clone_from(&seen.status);
                    next.provider_status_note = non_empty(seen.status_note.as_ref());
                }
                if let Some(doubt) = next.doubt.as_mut() {
                    doubt.check_count = doubt.check_count.saturating_add(1);
                    doubt.last_evidence.clone_from(&seen.evidence);
                }
            }
            Event::Escalated { evidence, foreign_record } => {
                next.foreign_record |= foreign_record;
                let doubt = next.doubt.get_or_insert_with(|| {
                    Doubt::new(DoubtReason::Contradiction, now.max(self.update_time), String::new())
                });
                doubt.last_evidence = evidence.clone();
            }
            Event::Resolved(decided) => next.adopt_resolution(decided),
            Event::Reassigned { account, place, .. } => {
                let moved = !place.is_same_host_and_login(&self.place);
                next.attempted_elsewhere |= moved && self.state != State::Pending;
                next.account = account.clone();
                next.place = place.clone();
                next.placed_time = Some(next.update_time);
            }
            Event::Corrected { confirmation, caution_until } => {
                next.adopt_provider_state(&Reported::from(confirmation));
                next.corrected_time = Some(next.update_time);
                next.caution_until = Some(*caution_until);
            }
            Event::Cancelled | Event::Expired => {}
        }
        if !matches!(next.state, State::InDoubt | State::NeedsReview) {
            next.doubt = None;
        }
        if next.state.is_terminal() && !self.state.is_terminal() {
            next.complete_time = Some(next.update_time);
        }
        Ok(next)
    }

    /// The targets that no other refund may take now: all of them while the refund is open, in
    /// doubt or done. A target that failed, was withdrawn or was refused within a partial success
    /// is free, unless a person decided so before an earlier attempt's effect could be ruled out.
    pub fn reservations(&self) -> Vec<Reservation> {
        let refused = |key: &String| {
            let is_refused = |item: &ItemResult| {
                item.requested && item.state == ItemState::Failed && *key == format!("item:{}", item.item_id)
            };
            self.state == State::PartiallySucceeded && self.items.iter().any(is_refused)
        };
        let is_held = self.state.holds_target() || self.corrected_time.is_some();
        let until = |key: &String| if is_held && !refused(key) { Some(None) } else { self.reserved_until.map(Some) };
        let keys = self.intent.target.reservation_keys().into_iter();
        keys.filter_map(|key| until(&key).map(|until| Reservation { key, until })).collect()
    }

    /// For how long a similar refund is refused because of this one.
    pub fn similarity_window(&self) -> SimilarityWindow {
        let until = match self.state {
            State::Cancelled => self.create_time,
            State::Failed => self.caution_until.max(self.reserved_until).unwrap_or(self.create_time),
            _ => self.create_time.saturating_add(SIMILAR_WITHIN),
        };
        SimilarityWindow { until, firm_until: self.reserved_until }
    }

    /// From now on the first byte of one more attempt may leave.
    fn begin_attempt(&mut self, credential: &Option<String>) {
        self.attempt_count = self.attempt_count.saturating_add(1);
        self.dispatch_time = self.dispatch_time.or(Some(self.update_time));
        self.last_dispatch_time = Some(self.update_time);
        self.credential.clone_from(credential);
        self.provider_error = None;
    }

    /// Takes over what the provider says of a refund that it knows. What it leaves out keeps its
    /// last word.
    fn adopt_provider_state(&mut self, reported: &Reported<'_>) {
        self.unanswered_attempts = 0;
        self.provider_reference = reported.reference.clone().or_else(|| self.provider_reference.take());
        if reported.status.is_some() {
            self.provider_status.clone_from(reported.status);
            self.provider_status_note = non_empty(reported.status_note.as_ref());
        }
        self.refunded_amount = reported.amount.or(self.refunded_amount);
        if !reported.items.is_empty() {
            self.items = reported.items.to_vec();
        }
    }

    /// Takes over what a person found out.
    fn adopt_resolution(&mut self, decided: &Decided) {
        self.reserved_until = decided.reserve_until;
        match &decided.resolution {
            Resolution::Refunded { amount, items } => {
                self.provider_error = None;
                let given_back = items.iter().filter(|item| item.refunded).map(|item| item.amount);
                self.refunded_amount = amount.or_else(|| Money::total(given_back)).or(self.refunded_amount);
                self.resolve_items(|id| {
                    let found = items.iter().find(|item| item.item_id == id);
                    (found.is_none_or(|item| item.refunded), found.and_then(|item| item.amount))
                });
            }
            Resolution::NotRefunded => {
                self.caution_until = decided.follow_until;
                self.resolve_items(|_| (false, None));
            }
            Resolution::SendAgain => {
                // A refund that a person had to decide has an attempt without a definite answer, so
                // a later "no" is not definite either.
                self.unanswered_attempts = self.unanswered_attempts.max(1);
                self.begin_attempt(&decided.credential);
            }
        }
    }

    /// Sets for each requested item whether it was given back, and how much if that is known.
    fn resolve_items(&mut self, found: impl Fn(&str) -> (bool, Option<Money>)) {
        for item_id in self.intent.target.item_ids() {
            let (refunded, amount) = found(&item_id);
            let state = if refunded { ItemState::Succeeded } else { ItemState::Failed };
            match self.items.iter_mut().find(|item| item.requested && item.item_id == item_id) {
                Some(item) => {
                    item.state = state;
                    item.refunded_amount = amount.or(item.refunded_amount).filter(|_| refunded);
                }
                None => self.items.push(ItemResult {
                    item_id,
                    state,
                    refunded_amount: amount,
                    message: String::new(),
                    requested: true,
                }),
            }
        }
    }
}

/// What a provider says of a refund that it knows; what it leaves out is none or empty.
struct Reported<'a> {
    reference: &'a Option<String>,
    status: &'a Option<String>,
    status_note: &'a Option<String>,
    amount: Option<Money>,
    items: &'a [ItemResult],
}

impl Default for Reported<'_> {
    fn default() -> Self {
        Self { reference: &None, status: &None, status_note: &None, amount: None, items: &[] }
    }
}

impl<'a> From<&'a Confirmation> for Reported<'a> {
    fn from(confirmation: &'a Confirmation) -> Self {
        let Confirmation { reference, status, status_note, amount, items, .. } = confirmation;
        Self { reference, status, status_note, amount: *amount, items }
    }
}

/// A remark, unless it is empty.
fn non_empty(remark: Option<&String>) -> Option<String> {
    remark.filter(|remark| !remark.is_empty()).cloned()
}

impl Doubt {
    fn new(reason: DoubtReason, since: Timestamp, last_evidence: String) -> Self {
        Self { reason, since, check_count: 0, last_evidence, not_processed: false }
    }
}

#[cfg(test)]
mod tests;
