//! The refund: one intent to give money back, and how events change it.
//!
//! [`Refund::apply`] is the only way to change a refund. It is pure, so live operation, recovery at
//! start-up and the tests run the same code, and the ledger can apply it inside its transaction.

use std::collections::BTreeMap;

use crate::domain::approval::{Approval, ApprovalDecision, Approver, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::event::{Decided, Event, RecordSeen, Resolution};
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Money;
use crate::domain::outcome::{Confirmation, DoubtReason, ErrorCategory, ItemResult, ItemState, ProviderError};
use crate::domain::place::{Destination, Place};
use crate::domain::state::{self, IllegalTransition, State};
use crate::domain::target::{SIMILAR_WITHIN, Target};

/// A validated request of a caller. Two intents with one id are the same refund if and only if they
/// are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The caller's idempotency key.
    pub id: RefundId,
    /// The account that the caller named. [`Refund::account`] is the present one.
    pub account: AccountName,
    pub target: Target,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// What the caller expects to be refunded, where the target names no amount. Never sent.
    pub expected_amount: Option<Money>,
}

/// One refund in its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// The caller's request. Never changes.
    pub intent: Intent,
    /// The caller who asked for it. None if callers were not told apart.
    pub created_by: Option<String>,
    /// The present account: the one in the intent, unless the refund was reassigned.
    pub account: AccountName,
    /// The account's place when the refund was recorded there. Nothing is sent or looked up
    /// anywhere else.
    pub place: Place,
    /// When it was last reassigned.
    pub placed_time: Option<Timestamp>,
    /// An attempt that may have had an effect was made at another host or under another login. No
    /// provider documents whether its key or identifier still counts here, so the gateway never
    /// resends.
    pub attempted_elsewhere: bool,
    pub state: State,
    /// Set if and only if the state is [`State::InDoubt`] or [`State::NeedsReview`].
    pub doubt: Option<Doubt>,
    /// The provider's last error: a refusal, the refused part of a partial refund, or a temporary
    /// refusal.
    pub provider_error: Option<ProviderError>,
    /// The amount that the provider reports as refunded.
    pub refunded_amount: Option<Money>,
    /// name.com: one entry per item.
    pub items: Vec<ItemResult>,
    /// The provider's number of this refund.
    pub provider_reference: Option<String>,
    /// The provider's name of the present state.
    pub provider_status: Option<String>,
    /// The provider's remark on it.
    pub provider_status_note: Option<String>,
    /// Wire attempts so far.
    pub attempt_count: u32,
    /// Attempts without a known outcome, and attempts that were refused while there was such an
    /// attempt. While it is above 0, no refusal is definite.
    pub unanswered_attempts: u32,
    /// Increments with every event; 1 for a new refund.
    pub revision: u64,
    pub create_time: Timestamp,
    /// When the last event happened.
    pub update_time: Timestamp,
    /// When the first attempt that may have left the gateway was recorded, whatever its answer.
    pub dispatch_time: Option<Timestamp>,
    /// When the last attempt was recorded.
    pub last_dispatch_time: Option<Timestamp>,
    /// The digest of the credential that the last attempt's deduplication key is bound to. None
    /// before the first attempt, and where keys are not bound to a credential.
    pub credential: Option<String>,
    /// When a terminal state was reached.
    pub complete_time: Option<Timestamp>,
    /// [`State::Pending`]: not sent before this time.
    pub not_before: Option<Timestamp>,
    /// When the gateway next looks it up, or resends it where that is safe. None: immediately in
    /// [`State::InDoubt`] and [`State::Submitted`], never in any other state. Part of the schedule,
    /// not of the history.
    pub next_check: Option<Timestamp>,
    /// The last lookup had no usable answer. Part of the schedule, like [`Refund::next_check`].
    pub unheard: bool,
    /// When consecutive lookups began to show no record, at a provider that keeps one for each
    /// refund. None after a lookup that showed one.
    pub absent_since: Option<Timestamp>,
    /// The provider had a record under our identifier before anything was sent, so a record does
    /// not prove a refund of ours.
    pub foreign_record: bool,
    /// Until when targets stay reserved that an operator found not refunded.
    pub reserved_until: Option<Timestamp>,
    /// [`State::Failed`]: until when the provider may still correct itself, or has just done so. A
    /// similar refund needs `allow_similar`.
    pub caution_until: Option<Timestamp>,
    /// [`State::Failed`]: when the provider reported a refund after all.
    pub corrected_time: Option<Timestamp>,
    /// What it counts against limits in money, where the target names no amount. None there:
    /// nothing said how much it is. Never changes.
    pub assumed_amount: Option<Money>,
    /// The approval that it needs or needed. None: no rule asked for one.
    pub approval: Option<Approval>,
}

/// A reserved key of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// One of [`Target::reservation_keys`].
    pub key: String,
    /// None: as long as the refund stays in this state.
    pub until: Option<Timestamp>,
}

/// How long another refund of the same account and amount counts as a likely duplicate of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimilarityWindow {
    /// Until then, a similar refund needs `allow_similar`.
    pub until: Timestamp,
    /// Until then, a similar refund is refused even with `allow_similar`.
    pub firm_until: Option<Timestamp>,
}

/// Why an outcome is unknown, and what lookups have shown since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    pub reason: DoubtReason,
    pub since: Timestamp,
    /// Lookups so far.
    pub check_count: u32,
    /// What the last lookup showed, in a sentence without secrets.
    pub last_evidence: String,
    /// The last attempt was provably not processed. Its answer says nothing about an earlier
    /// attempt.
    pub not_processed: bool,
}

impl Refund {
    /// A new refund of an account at `place`.
    pub fn new(intent: Intent, place: Place, now: Timestamp) -> Self {
        Self {
            account: intent.account.clone(),
            intent,
            created_by: None,
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
            assumed_amount: None,
            approval: None,
        }
    }

    /// The refund as it is recorded if it needs an approval.
    #[must_use]
    pub fn awaiting(self, approval: Option<Approval>) -> Self {
        let state = if approval.is_some() { State::AwaitingApproval } else { self.state };
        Self { state, approval, ..self }
    }

    pub fn id(&self) -> &RefundId {
        &self.intent.id
    }

    /// What it counts against limits in money. None: nothing said how much it is.
    pub fn counted_amount(&self) -> Option<Money> {
        self.intent.target.requested_amount().or(self.assumed_amount)
    }

    /// Whether it counts against limits. What never left the gateway is given back; a refusal, and
    /// doubt, stay counted.
    pub fn is_counted(&self) -> bool {
        match self.state {
            State::Cancelled => false,
            State::Failed => self.dispatch_time.is_some(),
            _ => true,
        }
    }

    pub fn provider(&self) -> ProviderKind {
        self.intent.target.provider()
    }

    /// The account and place where it may be sent and looked up.
    pub fn destination(&self) -> Destination {
        Destination { account: self.account.clone(), place: self.place.clone() }
    }

    /// Identifies this version of the refund; every event changes it.
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.create_time.as_micros(), self.revision)
    }

    /// The names of the fields in which a second request differs from the recorded intent; empty if
    /// it is the same refund.
    pub fn differing_fields(&self, intent: &Intent) -> Vec<&'static str> {
        let mut fields = self.intent.target.differing_fields(&intent.target);
        if self.intent.account != intent.account {
            fields.insert(0, "account");
        }
        if self.intent.labels != intent.labels {
            fields.push("labels");
        }
        if self.intent.expected_amount != intent.expected_amount {
            fields.push("expected_amount");
        }
        fields
    }

    /// Whether no event between the two changed what a lookup means.
    pub fn has_same_attempt(&self, earlier: &Refund) -> bool {
        self.state == earlier.state
            && self.attempt_count == earlier.attempt_count
            && self.account == earlier.account
            && self.place == earlier.place
            && self.corrected_time == earlier.corrected_time
    }

    /// When the present settle time began. A refund that lookups do not show after it did not
    /// happen.
    pub fn settling_since(&self) -> Option<Timestamp> {
        self.last_dispatch_time.max(self.placed_time.filter(|_| self.attempted_elsewhere))
    }

    /// Since when it has been waiting to be sent: not as long as it waited for an approval.
    pub fn pending_since(&self) -> Timestamp {
        let approved = self.approval.as_ref().and_then(Approval::complete_time);
        self.placed_time.max(approved).unwrap_or(self.create_time)
    }

    /// Whether it failed and lookups still check whether the provider corrects that.
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
            // This attempt's refusal says nothing about the earlier attempt: a PENDING refund could
            // be cancelled, and FAILED would be a promise.
            return Err(refused());
        }
        if self.state == State::Failed && (self.caution_until.is_none() || self.corrected_time.is_some()) {
            return Err(refused());
        }
        let mut next = self.clone();
        next.state = state;
        next.revision = self.revision.saturating_add(1);
        // A clock set back must not reverse the order of the history.
        next.update_time = now.max(self.update_time);
        next.not_before = None;
        next.next_check = None;
        next.unheard = false;
        if !matches!(event, Event::Checked(_)) {
            // After any other event, an earlier absence says nothing about the present.
            next.absent_since = None;
        }
        match event {
            Event::Dispatched { credential } => next.begin_attempt(credential),
            Event::NotSent { error, retry_at } => {
                next.provider_error = Some(error.clone());
                next.not_before = Some(*retry_at);
                // No answer was read, so the proof stands that no byte of this attempt left: the
                // first dispatch has not happened.
                if error.http_status == 0 && self.dispatch_time == Some(self.update_time) {
                    next.dispatch_time = None;
                }
            }
            Event::Refunded(confirmation) => {
                next.provider_error = confirmation.error.clone();
                if !confirmation.items.is_empty() {
                    // Amounts reported so far are not the final amount.
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
                // The provider's name of an earlier state says nothing about this one. The code of
                // a review's rejection is itself the name of the state.
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
            Event::Checked(observation) => {
                match observation.record {
                    RecordSeen::Absent => next.absent_since = self.absent_since.or(Some(next.update_time)),
                    RecordSeen::Present => next.absent_since = None,
                    RecordSeen::Unanswered => next.unheard = true,
                }
                if !observation.items.is_empty() {
                    next.items.clone_from(&observation.items);
                }
                if observation.status.is_some() {
                    next.provider_status.clone_from(&observation.status);
                    next.provider_status_note = non_empty(observation.status_note.as_ref());
                }
                if let Some(doubt) = next.doubt.as_mut() {
                    doubt.check_count = doubt.check_count.saturating_add(1);
                    doubt.last_evidence.clone_from(&observation.evidence);
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
                next.attempted_elsewhere |= moved && !self.state.is_unsent();
                next.account = account.clone();
                next.place = place.clone();
                next.placed_time = Some(next.update_time);
            }
            Event::Corrected { confirmation, caution_until } => {
                next.adopt_provider_state(&Reported::from(confirmation));
                next.corrected_time = Some(next.update_time);
                next.caution_until = Some(*caution_until);
            }
            Event::Approved { by, comment, is_last } => {
                let is_allowed = |one: &Approval| !one.involves(&by.owner) && one.lacks_one() == *is_last;
                if !next.approval.as_ref().is_some_and(is_allowed) {
                    return Err(refused());
                }
                next.adopt_decision(by, Verdict::Approved, comment);
            }
            Event::Rejected { by, comment } => next.adopt_decision(by, Verdict::Rejected, comment),
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

    /// The reserved targets. While the refund is open, in doubt or done, all of them are. A target
    /// that failed, was cancelled or was refused within a partial success is free, unless an
    /// operator decided so before an effect of an earlier attempt could be ruled out.
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

    /// How long similar refunds are refused because of this one.
    pub fn similarity_window(&self) -> SimilarityWindow {
        let until = match self.state {
            State::Cancelled => self.create_time,
            State::Failed => self.caution_until.max(self.reserved_until).unwrap_or(self.create_time),
            _ => self.create_time.saturating_add(SIMILAR_WITHIN),
        };
        SimilarityWindow { until, firm_until: self.reserved_until }
    }

    /// Records that from now on the first byte of one more attempt may leave.
    fn begin_attempt(&mut self, credential: &Option<String>) {
        self.attempt_count = self.attempt_count.saturating_add(1);
        self.dispatch_time = self.dispatch_time.or(Some(self.update_time));
        self.last_dispatch_time = Some(self.update_time);
        self.credential.clone_from(credential);
        self.provider_error = None;
    }

    fn adopt_decision(&mut self, by: &Approver, verdict: Verdict, comment: &str) {
        let (by, comment, time) = (by.clone(), comment.to_owned(), self.update_time);
        if let Some(approval) = self.approval.as_mut() {
            approval.decisions.push(ApprovalDecision { by, verdict, comment, time });
        }
    }

    /// Adopts what the provider reports about the refund. What it leaves out keeps its last value.
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

    /// Adopts an operator resolution.
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
                // A refund that an operator had to resolve has an attempt without a definite
                // answer, so a later refusal is not definite either.
                self.unanswered_attempts = self.unanswered_attempts.max(1);
                self.begin_attempt(&decided.credential);
            }
        }
    }

    /// Sets for each requested item whether it was refunded, and the amount if known.
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

/// What a provider reports about a refund; None or empty where it says nothing.
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
