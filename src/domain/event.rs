//! What can happen to a refund, and how its history says so.
//!
//! An event is a fact; [`crate::domain::state`] says where it leads, and
//! [`crate::domain::refund::Refund::apply`] what it changes. The ledger keeps each as one line with
//! its kind, so that programs need not read the sentence for people.

use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::money::Money;
use crate::domain::outcome::{Acceptance, Confirmation, DoubtReason, ItemResult, ProviderError};
use crate::domain::place::Place;

/// What can happen to a refund. Each is one line of its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An attempt is recorded; from now on its first byte may leave.
    Dispatched {
        /// A digest of the credential that the attempt's deduplication key is bound to, where there
        /// is one.
        credential: Option<String>,
    },
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
        /// Until when the provider is asked whether it has corrected itself; none: never.
        follow_until: Option<Timestamp>,
    },
    /// The outcome of an attempt is not known.
    Doubted {
        /// In which way.
        reason: DoubtReason,
        /// What was seen.
        evidence: String,
        /// The provider's words, where the doubt is about them.
        error: Option<ProviderError>,
        /// The attempt itself was not processed: the doubt is an earlier one's.
        not_processed: bool,
    },
    /// The gateway stopped while an attempt was on its way.
    Interrupted,
    /// An inconclusive lookup.
    Checked(Observation),
    /// The gateway cannot find out: a person must.
    Escalated {
        /// Why not.
        evidence: String,
        /// The provider had a record under our identifier before anything was sent: it may be
        /// another caller's, so no record ever settles this refund.
        foreign_record: bool,
    },
    /// The caller withdrew it before the provider had processed anything.
    Cancelled,
    /// It waited longer than its account allows. Nothing of it was processed.
    Expired,
    /// A person found out.
    Resolved(Decided),
    /// It goes on at another account or place.
    Reassigned {
        /// At which account.
        account: AccountName,
        /// Where that account is.
        place: Place,
        /// The evidence that both are the same books at the provider.
        evidence: String,
    },
    /// The provider reports a refund after it, or a person, had said no. The state stays.
    Corrected {
        /// The provider's yes.
        confirmation: Confirmation,
        /// Until when a similar refund needs `allow_similar`.
        caution_until: Timestamp,
    },
}

/// What an inconclusive lookup showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What was seen, in words.
    pub evidence: String,
    /// What it says about the provider's record of the refund.
    pub record: RecordSeen,
    /// name.com: what was seen of each item. Empty: nothing new.
    pub items: Vec<ItemResult>,
    /// The provider's own word for the state, where it showed one.
    pub status: Option<String>,
    /// The provider's own remark beside it.
    pub status_note: Option<String>,
}

impl Observation {
    /// An observation with nothing besides these two.
    pub fn new(evidence: impl Into<String>, record: RecordSeen) -> Self {
        Self { evidence: evidence.into(), record, items: Vec::new(), status: None, status_note: None }
    }
}

impl Decided {
    /// A decision that takes nothing over, reserves nothing and is not followed.
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
    /// The provider answered, and shows no record.
    Absent,
    /// The provider shows a record.
    Present,
}

/// What a person found out about a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What it is.
    pub resolution: Resolution,
    /// Where the evidence is.
    pub evidence: String,
    /// The person decides before the gateway has finished finding out.
    pub take_over: bool,
    /// What was not refunded stays reserved until then: an earlier attempt may still have an
    /// effect. None: it is free.
    pub reserve_until: Option<Timestamp>,
    /// Until when the provider is asked whether the person was wrong; none: never.
    pub follow_until: Option<Timestamp>,
    /// As of [`Event::Dispatched`], where the resolution begins an attempt.
    pub credential: Option<String>,
}

/// What a person can find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The money was given back.
    Refunded {
        /// How much, where known.
        amount: Option<Money>,
        /// name.com: what became of each requested item. Empty: all of them were given back.
        items: Vec<ItemResolution>,
    },
    /// It was not, and is not to be.
    NotRefunded,
    /// It was not: one more attempt is authorised.
    SendAgain,
}

/// What a person found out about one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResolution {
    /// The provider's number of the item.
    pub item_id: String,
    /// Whether it was given back.
    pub refunded: bool,
    /// How much, where known.
    pub amount: Option<Money>,
}

/// The kinds of event.
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
}

impl EventKind {
    /// All of them, in the order of their numbers in the public contract.
    pub const ALL: [EventKind; 15] = [
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
        }
    }

    /// Parses that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl Event {
    /// The kind of its line.
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
        }
    }
}
