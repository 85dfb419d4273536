//! The durable record: refunds and events.
//!
//! One method is one business step and one transaction, and its doc says what is true once it
//! returns. The transition table of [`crate::domain::state`] is applied inside the transaction,
//! against the row as it is stored: a decision on an older revision is rejected.
//!
//! What holds whatever the process does:
//! - [`Ledger::create`] and [`Ledger::record`] have synced the disk when they return `Ok`. Nothing
//!   is published or answered before that.
//! - Any error of theirs except [`LedgerError::CommitFailed`] means that nothing of the call is on
//!   disk.
//! - After the first failed write or sync nothing more is written until the process restarts
//!   ([`Ledger::health`]): the process cannot know what a failed `fsync` left behind.
//!
//! ```text
//! mod             the trait that the engine uses, its requests and its errors
//! admin           the trait for metrics, verification and backup
//! encoding        refunds and events as columns; names no database
//! hash_chain      digests and the chain of events; names no database
//! export          events as lines of JSON, for an audit elsewhere
//! sqlite/         the embedded backend
//! contract_tests/ what every backend must do, run on each
//! ```
//!
//! A new backend implements [`Ledger`] and [`LedgerAdmin`] with the columns of `encoding` and the
//! hashes of `hash_chain`, and joins `contract_tests::Backend`.

pub mod admin;
#[cfg(test)]
mod contract_tests;
mod encoding;
pub mod export;
mod hash_chain;
pub mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::admin::{LedgerAdmin, ORIGIN_PREFIX};
use crate::domain::authority::{Actor, Authority};
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::limits::Limit;
use crate::domain::place::{Destination, Place};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::{IllegalTransition, State};

/// The durable record. The module's doc says what every method promises.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Records a new refund, with its first attempt if `dispatch` is set and the account is not
    /// paused, or returns the refund that has this id.
    ///
    /// The reservation against a second refund of the same target, the search for a similar one,
    /// and then the limits happen in the same transaction. A refund that a rule wants approved is
    /// recorded without an attempt.
    ///
    /// # Errors
    /// [`LedgerError::RefundIdReused`], [`LedgerError::TargetHasRefund`],
    /// [`LedgerError::SimilarRefund`], [`LedgerError::LimitExceeded`],
    /// [`LedgerError::QuotaExceeded`], [`LedgerError::Cancelled`], [`LedgerError::Overloaded`],
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn create(&self, create: NewRefund) -> Result<Recorded<CreateOutcome>, LedgerError>;

    /// Returns what [`Ledger::create`] would return now. Records nothing.
    ///
    /// # Errors
    /// As [`Ledger::create`].
    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError>;

    /// Applies events, in order, to the refund at exactly `revision`, and records each.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::StaleRevision`],
    /// [`LedgerError::IllegalTransition`], [`LedgerError::AccountPaused`] for an event that begins
    /// an attempt, [`LedgerError::Overloaded`],
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn record(&self, record: RecordEvents) -> Result<Recorded<Refund>, LedgerError>;

    /// Start-up: moves every refund that was [`State::Dispatching`] when the last process ended to
    /// [`State::InDoubt`]. Returns how many there were.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError>;

    /// Returns one refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError>;

    /// Returns a page of refunds, newest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, LedgerError>;

    /// Returns the events of one refund after `after_revision`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError>;

    /// Returns the events of the whole ledger after `sequence`, oldest first, without gaps.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError>;

    /// Moves a refund at exactly `revision` to another account or place. Records an event, after
    /// the same checks of reservation and similarity as for a new refund there.
    ///
    /// # Errors
    /// As [`Ledger::record`], and [`LedgerError::TargetHasRefund`], [`LedgerError::SimilarRefund`].
    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError>;

    /// Sets when a refund at exactly `revision` is looked up next, after a lookup that showed
    /// nothing new. Records no event, so the revision stays.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::StaleRevision`], and those of every write.
    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError>;

    /// Makes refunds of one account and place due at `now` if their last lookup had no usable
    /// answer. Returns how many; there may be more until it returns 0.
    ///
    /// # Errors
    /// [`LedgerError::Overloaded`], [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`],
    /// [`LedgerError::Corrupt`]
    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError>;

    /// Start-up: returns where refunds are that still need their account, whether configured or
    /// not. A standstill begins at `now` for places outside `configured` and ends for those in it:
    /// see [`Ledger::standstills`].
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError>;

    /// Returns how many refunds still need their account, by account and place.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError>;

    /// Returns how many refunds each account has in each state of [`OpenRefunds`].
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn open_states(&self) -> Result<Vec<(AccountName, State, u64)>, LedgerError>;

    /// Returns the ended periods in which the configuration had no such account and place, oldest
    /// first. They do not count towards expiry.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError>;

    /// Pauses an account: from now on no attempt of its refunds is recorded, no matter who decided
    /// it and when. Returns the pause; if the account is in one already, that one, unchanged.
    ///
    /// # Errors
    /// [`LedgerError::Overloaded`], [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`],
    /// [`LedgerError::Corrupt`]
    async fn pause(&self, pause: NewPause) -> Result<AccountPause, LedgerError>;

    /// Ends the pause of an account. Changes nothing if it is in none.
    ///
    /// # Errors
    /// As [`Ledger::pause`].
    async fn resume(&self, account: &AccountName, actor: &Actor, now: Timestamp) -> Result<(), LedgerError>;

    /// Returns all pauses, by account, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn pauses(&self) -> Result<Vec<AccountPause>, LedgerError>;

    /// Returns open refunds at one account and place, in the order of recording, after
    /// `after_ordinal`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn open_at(&self, at: &Destination, after_ordinal: u64, limit: u32)
    -> Result<Vec<ListedRefund>, LedgerError>;

    /// Returns refunds of one account and place that are due.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn due(&self, query: DueQuery) -> Result<Vec<Refund>, LedgerError>;

    /// Returns when the next refund of this kind is due at one account and place. None: there is no
    /// such refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_due(&self, kind: DueKind, at: &Destination) -> Result<Option<Timestamp>, LedgerError>;

    /// Returns refunds of any account that wait for an approval and expire at `at` or before, those
    /// that expire first at the beginning.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn unapproved(&self, at: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError>;

    /// Returns when the next refund that waits for an approval expires. None: none waits.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_approval_expiry(&self) -> Result<Option<Timestamp>, LedgerError>;

    /// Returns when the refund last entered `state` from another one. None: it never did.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn entered_state_at(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError>;

    /// Returns the [`NewRefund::trace_parent`] of one refund, if it has one.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn trace_parent_of(&self, _id: &RefundId) -> Result<Option<String>, LedgerError> {
        Ok(None)
    }

    /// Follows the sequence number of the last committed event. 0 in an empty ledger.
    fn committed(&self) -> watch::Receiver<u64>;

    /// Follows whether the ledger still writes.
    fn health(&self) -> watch::Receiver<Health>;
}

/// A refund to record.
#[derive(Debug, Clone)]
pub struct NewRefund {
    pub intent: Intent,
    /// Where the account is. The target's keys are reserved under its login.
    pub place: Place,
    /// Further accounts and logins whose reservations block this refund.
    pub related: RelatedLogins,
    /// Records the first attempt in the same transaction. Set if an attempt slot is free.
    pub dispatch: Option<FirstAttempt>,
    /// Records it although a similar refund was recorded within a day.
    pub allow_similar: bool,
    /// Who asks for it, under which limits. The actor of the first event.
    pub by: Authority,
    pub now: Timestamp,
    /// Lets the caller cancel the request until the ledger starts it.
    pub ticket: Ticket,
    /// The span that records the refund if it is exported, else the caller's span if it sent one.
    /// Later work on the refund links to it. No hash covers it.
    pub trace_parent: Option<String>,
}

/// The first attempt of a refund that is sent as soon as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAttempt {
    /// As of [`Event::Dispatched`].
    pub credential: Option<String>,
}

/// Accounts and logins under which a target may already be reserved, besides the account's present
/// login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelatedLogins {
    /// All accounts that use the same login, including this one. A reservation that one of them
    /// made under an earlier login also blocks the others.
    pub accounts: Arc<[AccountName]>,
    /// Earlier logins that the configuration names. The ledger itself knows those that a refund was
    /// reassigned from.
    pub former_logins: Arc<[String]>,
}

/// A reassignment of a refund to another account or place.
#[derive(Debug, Clone)]
pub struct Reassign {
    pub id: RefundId,
    /// The revision that the decision was made on.
    pub revision: u64,
    pub to: Destination,
    /// As of [`NewRefund::related`], for the new account.
    pub related: RelatedLogins,
    /// Also rejects the move if a similar refund was recorded within a day or may still have an
    /// effect.
    pub reject_similar: bool,
    /// Why both places are the same account at the provider.
    pub evidence: String,
    pub actor: Actor,
    pub now: Timestamp,
}

/// A new time for the next lookup of a refund.
#[derive(Debug, Clone)]
pub struct Reschedule {
    pub id: RefundId,
    /// The revision that the lookup was made on.
    pub revision: u64,
    /// None: never.
    pub next_check: Option<Timestamp>,
    /// The lookup had no usable answer.
    pub unheard: bool,
}

/// Why a refund is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueKind {
    /// A [`State::Pending`] refund that may be sent. Due at once unless it was put off; oldest
    /// first.
    Dispatch,
    /// A refund to look up. First those without a time for their next lookup, which are due at
    /// once, then by that time.
    Lookup,
    /// A [`State::Pending`] refund, put off or not. Due from its creation; oldest first.
    Expiry,
}

/// Which due refunds of one account and place to return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueQuery {
    pub kind: DueKind,
    pub destination: Destination,
    /// Refunds that are due at this time or before.
    pub at: Timestamp,
    /// How many to leave out at the beginning.
    pub skip: u32,
    pub limit: u32,
}

/// Refunds at one account and place that still need it: AWAITING_APPROVAL, PENDING, SUBMITTED,
/// IN_DOUBT or NEEDS_REVIEW.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRefunds {
    pub provider: ProviderKind,
    pub at: Destination,
    pub count: u64,
}

/// A pause to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPause {
    pub account: AccountName,
    /// Why, in the operator's words.
    pub reason: String,
    pub actor: Actor,
    pub now: Timestamp,
}

/// A period in which an account sends nothing. It does not count towards expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPause {
    pub account: AccountName,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who began it.
    pub by: Actor,
    pub begin: Timestamp,
    /// None: the account is in it.
    pub end: Option<Timestamp>,
}

/// What a write led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<T> {
    pub outcome: T,
    /// The sequence number of the ledger's last event after the write: the last event that it
    /// recorded, if it recorded any.
    pub sequence: u64,
}

/// What [`Ledger::create`] recorded or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    /// Recorded now.
    New(Refund),
    /// Recorded before, with the same content.
    Known(Refund),
}

/// Returns `refund` if a request under its id has the same content.
///
/// # Errors
/// [`LedgerError::RefundIdReused`]
pub(crate) fn match_existing(refund: Refund, intent: &Intent) -> Result<Refund, LedgerError> {
    let fields = refund.differing_fields(intent);
    let is_same = *refund.id() == intent.id;
    match fields.is_empty() && is_same {
        true => Ok(refund),
        false => {
            let fields = if is_same { fields } else { Vec::new() };
            Err(LedgerError::RefundIdReused { id: refund.intent.id, fields })
        }
    }
}

/// Events to record.
#[derive(Debug, Clone)]
pub struct RecordEvents {
    pub id: RefundId,
    /// The revision that the decision was made on.
    pub revision: u64,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// When the refund is looked up next, if it is still looked up after the events. None: at once
    /// in [`State::InDoubt`] and [`State::Submitted`], never in any other state.
    pub next_check: Option<Timestamp>,
    pub actor: Actor,
    pub now: Timestamp,
}

/// Which refunds to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// In one of these states. Empty: in any state.
    pub states: Vec<State>,
    pub account: Option<AccountName>,
    /// At one of these accounts, or recorded for one of them. None: at any account.
    pub visible_accounts: Option<Vec<AccountName>>,
    /// With this among [`crate::domain::target::Target::references`].
    pub target_reference: Option<String>,
    /// As of [`Refund::created_by`].
    pub created_by: Option<String>,
    /// Created at this time or later.
    pub created_from: Option<Timestamp>,
    /// Created before this time.
    pub created_before: Option<Timestamp>,
    /// Recorded before the refund with this ordinal, where the previous page ended.
    pub before_ordinal: Option<u64>,
    pub limit: u32,
}

/// One refund of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRefund {
    /// Its place in the order of recording, from 1. Never reused and never changed.
    pub ordinal: u64,
    pub refund: Refund,
}

/// Whether the ledger still writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Writing,
    /// A write or a sync failed. Nothing is written until the next start.
    Failed(String),
    /// Stored data does not verify. Nothing is written or sent until an operator has repaired it.
    Corrupt(String),
}

/// Lets a caller cancel a request until the ledger starts it, and not after.
///
/// A caller whose deadline passes may say "nothing was recorded" only if [`Ticket::cancel`] returns
/// true.
#[derive(Debug, Clone, Default)]
pub struct Ticket(Arc<AtomicU8>);

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const CANCELLED: u8 = 2;

impl Ticket {
    /// Called by the ledger. False: the caller has cancelled the request, so it is not executed.
    pub fn start(&self) -> bool {
        self.0.compare_exchange(WAITING, STARTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Called by the caller. False: the ledger has started the request, so its result must be
    /// awaited.
    pub fn cancel(&self) -> bool {
        self.0.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Why the ledger did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The id exists with other content, or in another case.
    #[error("refund {id} exists {}", if fields.is_empty() { "and differs in upper and lower case alone".to_owned() }
        else { format!("with other content: {}", fields.join(", ")) })]
    RefundIdReused {
        /// The existing refund.
        id: RefundId,
        /// The fields that differ. Empty: only the case of the id differs.
        fields: Vec<&'static str>,
    },
    /// Another refund of the target is open, in doubt or done.
    #[error("refund {conflicting} of the same target is open, in doubt or done")]
    TargetHasRefund { conflicting: RefundId },
    /// The same account had a refund of the same amount within a day.
    #[error("refund {conflicting} gave the same amount to the same account within a day")]
    SimilarRefund {
        conflicting: RefundId,
        /// Until then the conflict holds even with `allow_similar`: that refund may still have an
        /// effect.
        firm_until: Option<Timestamp>,
    },
    /// The refund by itself is more than a limit allows, or nothing says how much it is.
    #[error("the refund by itself is more than {} allows", .limit.as_str())]
    LimitExceeded { limit: Limit },
    /// A limit over a day leaves no room for the refund now.
    #[error("{} leaves no room for {subject} before {} s from now", .limit.as_str(), .retry_after.as_secs())]
    QuotaExceeded {
        limit: Limit,
        /// `caller:NAME` or `account:NAME`.
        subject: String,
        /// When there is room again if nothing else is recorded meanwhile.
        retry_after: Duration,
    },
    #[error("there is no refund {0}")]
    NotFound(RefundId),
    /// The refund has changed since the decision was made.
    #[error("refund {} is now at revision {}", present.id(), present.revision)]
    StaleRevision { present: Box<Refund> },
    /// The state does not allow the event.
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// The account is paused, so no attempt of its refunds begins.
    #[error("the account \"{0}\" is paused")]
    AccountPaused(AccountName),
    /// The caller cancelled the request before it was started. Nothing was recorded.
    #[error("the request was cancelled before it was recorded")]
    Cancelled,
    /// The writer's queue is full, or another program has locked the file. Nothing was recorded; a
    /// retry may succeed soon.
    #[error("the ledger's queue is full")]
    Overloaded,
    /// Reading failed, or writing before its commit. Nothing was recorded.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// The commit itself failed. Only the next start can tell whether the write is on disk.
    #[error("the ledger's commit failed: {0}")]
    CommitFailed(String),
    /// A stored value that this program did not write.
    #[error("the ledger is corrupt: table {table}, column {column}, row {row}: {problem}")]
    Corrupt {
        table: &'static str,
        column: &'static str,
        /// The row's key.
        row: String,
        problem: String,
    },
}

impl LedgerError {
    /// Whether another refund is in the way of this one.
    pub fn is_conflict(&self) -> bool {
        matches!(self, LedgerError::TargetHasRefund { .. } | LedgerError::SimilarRefund { .. })
    }
}
