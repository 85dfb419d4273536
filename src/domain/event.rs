//! The events of a refund.
//!
//! An event is a fact. [`crate::domain::state`] defines which state follows, and
//! [`crate::domain::refund::Refund::apply`] what else changes. The ledger stores each event as one
//! record with its kind, so programs need not parse the sentence for people.

use crate::domain::approval::Approver;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::money::Money;
use crate::domain::outcome::{Acceptance, Confirmation, DoubtReason, ItemResult, ProviderError};
use crate::domain::place::Place;

/// Something that happened to a refund. Each is one record of its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An attempt is recorded; from now on its first byte may leave.
    Dispatched {
        /// The digest of the credential that the attempt's deduplication key is bound to, if any.
        credential: Option<String>,
    },
    /// Proof that nothing was processed. The refund is sent again, not before `retry_at`.
    NotSent { error: ProviderError, retry_at: Timestamp },
    /// The provider confirmed the refund.
    Refunded(Confirmation),
    /// The provider accepted the refund and has not finished it.
    Accepted(Acceptance),
    /// The provider definitely refused.
    Refused {
        error: ProviderError,
        /// name.com: the result of each item.
        items: Vec<ItemResult>,
        /// Until when lookups check whether the provider corrects itself. None: no lookups.
        follow_until: Option<Timestamp>,
    },
    /// The outcome of an attempt is unknown.
    Doubted {
        reason: DoubtReason,
        /// What was seen, in a sentence without secrets.
        evidence: String,
        /// The provider's error, if the doubt is about one.
        error: Option<ProviderError>,
        /// This attempt itself was not processed: the doubt is about an earlier one.
        not_processed: bool,
    },
    /// The gateway stopped while an attempt was on its way.
    Interrupted,
    /// An inconclusive lookup.
    Checked(Observation),
    /// The gateway cannot find out what happened: a person must.
    Escalated {
        /// Why the gateway cannot.
        evidence: String,
        /// The provider had a record under our identifier before anything was sent. It may be
        /// another caller's, so no record can ever resolve this refund.
        foreign_record: bool,
    },
    /// The caller cancelled the refund before the provider had processed anything.
    Cancelled,
    /// The refund stayed PENDING longer than its account allows, or was not approved in time.
    /// Nothing of it was processed.
    Expired,
    /// A second person approved the refund.
    Approved {
        by: Approver,
        /// Empty: none.
        comment: String,
        /// No further approval is needed: the refund is PENDING.
        is_last: bool,
    },
    /// A second person rejected the refund.
    Rejected { by: Approver, comment: String },
    /// An operator resolved the refund.
    Resolved(Decided),
    /// The refund moved to another account or place.
    Reassigned {
        account: AccountName,
        /// The present place of that account.
        place: Place,
        /// The operator's evidence that both are the same account at the provider.
        evidence: String,
    },
    /// The provider reports a refund after it, or an operator, had said that there was none. The
    /// state stays FAILED.
    Corrected {
        confirmation: Confirmation,
        /// Until when a similar refund needs `allow_similar`.
        caution_until: Timestamp,
    },
}

/// The result of an inconclusive lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What was seen, in a sentence without secrets.
    pub evidence: String,
    pub record: RecordSeen,
    /// name.com: what was seen of each item. Empty: nothing new.
    pub items: Vec<ItemResult>,
    /// The provider's name of the state, if it showed one.
    pub status: Option<String>,
    /// The provider's remark on it.
    pub status_note: Option<String>,
}

impl Observation {
    /// An observation without items and without a status.
    pub fn new(evidence: impl Into<String>, record: RecordSeen) -> Self {
        Self { evidence: evidence.into(), record, items: Vec::new(), status: None, status_note: None }
    }
}

impl Decided {
    /// A decision that takes nothing over, reserves nothing and is not followed by lookups.
    pub fn new(resolution: Resolution, evidence: impl Into<String>) -> Self {
        Self {
            resolution,
            evidence: evidence.into(),
            take_over: false,
            reserve_until: None,
            follow_until: None,
            credential: None,
        }
    }
}

/// What a lookup says about the provider's record of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordSeen {
    /// Nothing: there was no usable answer.
    Unanswered,
    /// The provider answered and shows no record.
    Absent,
    /// The provider shows a record.
    Present,
}

/// An operator's decision about a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub resolution: Resolution,
    /// Where the operator found the facts.
    pub evidence: String,
    /// The operator decides before the gateway has finished its lookups.
    pub take_over: bool,
    /// Until when targets that were not refunded stay reserved, because an earlier attempt may
    /// still have an effect. None: they are free.
    pub reserve_until: Option<Timestamp>,
    /// Until when lookups check whether the operator was wrong. None: no lookups.
    pub follow_until: Option<Timestamp>,
    /// As in [`Event::Dispatched`], if the resolution begins an attempt.
    pub credential: Option<String>,
}

/// An operator resolution: what became of the money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The money was refunded.
    Refunded {
        /// How much, if known.
        amount: Option<Money>,
        /// name.com: what became of each requested item. Empty: all of them were refunded.
        items: Vec<ItemResolution>,
    },
    /// The money was not refunded, and is not to be.
    NotRefunded,
    /// The money was not refunded, and one more attempt is authorised.
    SendAgain,
}

/// An operator resolution of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResolution {
    /// The provider's number of the item.
    pub item_id: String,
    pub refunded: bool,
    /// How much, if known.
    pub amount: Option<Money>,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The refund was recorded.
    Created,
    /// [`Event::Dispatched`]
    Dispatched,
    /// [`Event::NotSent`]
    NotSent,
    /// [`Event::Refunded`]
    Refunded,
    /// [`Event::Accepted`]
    Accepted,
    /// [`Event::Refused`]
    Refused,
    /// [`Event::Doubted`]
    Doubted,
    /// [`Event::Interrupted`]
    Interrupted,
    /// [`Event::Checked`]
    Checked,
    /// [`Event::Escalated`]
    Escalated,
    /// [`Event::Cancelled`]
    Cancelled,
    /// [`Event::Expired`]
    Expired,
    /// [`Event::Resolved`]
    Resolved,
    /// [`Event::Reassigned`]
    Reassigned,
    /// [`Event::Corrected`]
    Corrected,
    /// [`Event::Approved`]
    Approved,
    /// [`Event::Rejected`]
    Rejected,
}

impl EventKind {
    /// All kinds, in the order of their numbers in the public contract.
    pub const ALL: [EventKind; 17] = [
        EventKind::Created,
        EventKind::Dispatched,
        EventKind::Refunded,
        EventKind::Accepted,
        EventKind::Refused,
        EventKind::NotSent,
        EventKind::Doubted,
        EventKind::Interrupted,
        EventKind::Checked,
        EventKind::Escalated,
        EventKind::Cancelled,
        EventKind::Expired,
        EventKind::Resolved,
        EventKind::Reassigned,
        EventKind::Approved,
        EventKind::Rejected,
        EventKind::Corrected,
    ];

    /// The name used in the ledger and the logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::Created => "created",
            EventKind::Dispatched => "dispatched",
            EventKind::NotSent => "not_sent",
            EventKind::Refunded => "refunded",
            EventKind::Accepted => "accepted",
            EventKind::Refused => "refused",
            EventKind::Doubted => "doubted",
            EventKind::Interrupted => "interrupted",
            EventKind::Checked => "checked",
            EventKind::Escalated => "escalated",
            EventKind::Cancelled => "cancelled",
            EventKind::Expired => "expired",
            EventKind::Resolved => "resolved",
            EventKind::Reassigned => "reassigned",
            EventKind::Corrected => "corrected",
            EventKind::Approved => "approved",
            EventKind::Rejected => "rejected",
        }
    }

    /// Whether an event of this kind may begin an attempt. Only a resolution may also not.
    pub(crate) const fn begins_attempt(self) -> bool {
        matches!(self, EventKind::Dispatched | EventKind::Resolved)
    }

    /// Whether an event of this kind ends the attempt in flight.
    pub(crate) const fn ends_attempt(self) -> bool {
        matches!(
            self,
            EventKind::NotSent
                | EventKind::Refunded
                | EventKind::Accepted
                | EventKind::Refused
                | EventKind::Doubted
                | EventKind::Interrupted
        )
    }

    /// The inverse of [`EventKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl Event {
    /// Whether the event begins an attempt.
    pub const fn begins_attempt(&self) -> bool {
        matches!(self, Event::Dispatched { .. } | Event::Resolved(Decided { resolution: Resolution::SendAgain, .. }))
    }

    pub const fn kind(&self) -> EventKind {
        match self {
            Event::Dispatched { .. } => EventKind::Dispatched,
            Event::NotSent { .. } => EventKind::NotSent,
            Event::Refunded(_) => EventKind::Refunded,
            Event::Accepted(_) => EventKind::Accepted,
            Event::Refused { .. } => EventKind::Refused,
            Event::Doubted { .. } => EventKind::Doubted,
            Event::Interrupted => EventKind::Interrupted,
            Event::Checked(_) => EventKind::Checked,
            Event::Escalated { .. } => EventKind::Escalated,
            Event::Cancelled => EventKind::Cancelled,
            Event::Expired => EventKind::Expired,
            Event::Resolved(_) => EventKind::Resolved,
            Event::Reassigned { .. } => EventKind::Reassigned,
            Event::Corrected { .. } => EventKind::Corrected,
            Event::Approved { .. } => EventKind::Approved,
            Event::Rejected { .. } => EventKind::Rejected,
        }
    }
}
