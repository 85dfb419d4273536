//! The durable record: refunds, attempts, events.
//!
//! One method is one business step and one transaction, and its doc says what is true once it
//! returns. The transition table of [`crate::domain::state`] is applied inside the transaction,
//! against the row as it is there: a stale writer is refused, never obeyed.
//!
//! What must hold whatever the process does:
//! - [`Ledger::create`] and [`Ledger::record`] have synced the disk when they return `Ok`; before
//!   that, nobody is told anything.
//! - An error of theirs other than [`LedgerError::CommitFailed`] means that nothing of the call is
//!   on disk.
//! - After the first failed write or sync nothing is written any more until the process has been
//!   started again ([`Ledger::health`]): what a failed `fsync` left behind is not knowable from
//!   inside.

pub mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::history::EventRecord;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::place::{Destination, Place};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::{IllegalTransition, State};

/// The actor of what nobody asked for.
pub const GATEWAY: &str = "gateway";

/// The durable record. See the module's doc for what every method promises.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Records a new refund, with its first attempt where `dispatch` says so, or finds the one that
    /// has this id.
    ///
    /// The reservation against a second refund of the same target and the search for a similar one
    /// happen in the same transaction.
    ///
    /// # Errors
    /// [`LedgerError::RefundIdReused`], [`LedgerError::TargetHasRefund`],
    /// [`LedgerError::SimilarRefund`], [`LedgerError::Abandoned`], [`LedgerError::Overloaded`],
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn create(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError>;

    /// What [`Ledger::create`] would answer now. Records nothing.
    ///
    /// # Errors
    /// As [`Ledger::create`].
    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError>;

    /// Applies events, in order, to the refund at exactly `revision`, and records each.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::StaleRevision`],
    /// [`LedgerError::IllegalTransition`], [`LedgerError::Overloaded`],
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn record(&self, record: RecordEvents) -> Result<Refund, LedgerError>;

    /// Start-up: every refund that was [`State::Dispatching`] when the last process ended becomes
    /// [`State::InDoubt`]. How many there were.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError>;

    /// One refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError>;

    /// A page of refunds, newest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn list(&self, query: ListQuery) -> Result<Vec<Listed>, LedgerError>;

    /// The history of one refund after `revision`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError>;

    /// The history of the whole ledger after `sequence`, oldest first, without gaps.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError>;

    /// Lets a refund at exactly `revision` go on at another account or place. It is an event, after
    /// the same checks of reservation and similarity as for a new refund there.
    ///
    /// # Errors
    /// As [`Ledger::record`], and [`LedgerError::TargetHasRefund`], [`LedgerError::SimilarRefund`].
    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError>;

    /// Sets when a refund at exactly `revision` is looked up next, after a lookup that showed
    /// nothing new. No event: the revision stays.
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
    /// not. Refunds at no place of `configured` wait from `now` on, and those at one of them stop
    /// waiting: see [`Ledger::standstills`].
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError>;

    /// How many refunds still need their account, by account and place.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError>;

    /// The times during which refunds of an account and place waited because the configuration
    /// differed, oldest first. They do not count towards expiry.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError>;

    /// Refunds at one account and place that still need them, in the order of recording, after
    /// `after_ordinal`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn open_at(&self, at: &Destination, after_ordinal: u64, limit: u32) -> Result<Vec<Listed>, LedgerError>;

    /// [`State::Pending`] refunds of one account and place that may be sent at `now`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn due(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError>;

    /// When the next [`State::Pending`] refund of one account and place may be sent; none where
    /// there is no such refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_due(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError>;

    /// Refunds of one account and place that are to be looked up at `now`: what was never looked up
    /// first, then by the moment that was set.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn due_for_lookup(&self, at: &Destination, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError>;

    /// When the next of them is due; none where there is no such refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_lookup_time(&self, at: &Destination) -> Result<Option<Timestamp>, LedgerError>;

    /// [`State::Pending`] refunds of one account and place that were created at `created_until` or
    /// before, oldest first, after the first `skip`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn pending_before(
        &self,
        at: &Destination,
        created_until: Timestamp,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<Refund>, LedgerError>;

    /// When the [`State::Pending`] refund of one account that has waited longest was created,
    /// wherever it belongs.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn oldest_pending(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// When the refund last came to be in `state`, from another one; none where it never did.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn entered_state_at(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError>;

    /// The [`NewRefund::trace_parent`] of one refund, where it had one.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn trace_parent_of(&self, _id: &RefundId) -> Result<Option<String>, LedgerError> {
        Ok(None)
    }

    /// The last committed event's sequence number, as it rises. 0 in an empty ledger.
    fn committed(&self) -> watch::Receiver<u64>;

    /// Whether the ledger still writes, as it changes.
    fn health(&self) -> watch::Receiver<Health>;
}

/// A refund to be recorded.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// What is asked for.
    pub intent: Intent,
    /// Where the account is. The target's keys are reserved under its login.
    pub place: Place,
    /// Further accounts and logins whose reservations count here.
    pub related: RelatedLogins,
    /// Record the first attempt in the same transaction, because a slot is free to send it at once.
    pub dispatch: Option<FirstAttempt>,
    /// Record it although a similar one was recorded within a day.
    pub allow_similar: bool,
    /// Who asks: a line of the history.
    pub actor: String,
    /// When.
    pub now: Timestamp,
    /// Lets the caller withdraw the request as long as nobody has begun it.
    pub claim: Ticket,
    /// The span that it is recorded in, where that is sent to a collector, and else the caller's
    /// own where it named one: what happens to the refund later is linked to it. No part of what
    /// the history and its hashes cover.
    pub trace_parent: Option<String>,
}

/// The first attempt of a refund that is sent as soon as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAttempt {
    /// As of [`Event::Dispatched`].
    pub credential: Option<String>,
}

/// Accounts and logins under which a target may already be reserved, besides an account's present
/// login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelatedLogins {
    /// The accounts with the same login, this one among them: a target that one of them holds under
    /// an earlier login is taken for all.
    pub accounts: Arc<[AccountName]>,
    /// The earlier logins that the configuration names. Those that a refund was reassigned from are
    /// known to the ledger.
    pub former_logins: Arc<[String]>,
}

/// A refund that goes on at another account or place.
#[derive(Debug, Clone)]
pub struct Reassign {
    /// Which refund.
    pub id: RefundId,
    /// The revision that the decision was made on.
    pub revision: u64,
    /// Where it goes on.
    pub to: Destination,
    /// As of [`NewRefund::related`], of that account.
    pub related: RelatedLogins,
    /// Refuse it too where a similar refund was recorded within a day, or may still have an effect.
    pub judge_similar: bool,
    /// The evidence that both are the same books.
    pub evidence: String,
    /// Who says so.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

/// When a refund is looked up next.
#[derive(Debug, Clone)]
pub struct Reschedule {
    /// Which refund.
    pub id: RefundId,
    /// The revision that the lookup was made on.
    pub revision: u64,
    /// When it is looked up next; none: never.
    pub next_check: Option<Timestamp>,
    /// The lookup had no usable answer.
    pub unheard: bool,
}

/// Refunds of one account and place that still need them: PENDING, SUBMITTED, IN_DOUBT or
/// NEEDS_REVIEW.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRefunds {
    /// Whose refunds.
    pub provider: ProviderKind,
    /// Where they belong.
    pub at: Destination,
    /// How many.
    pub count: u64,
}

/// What [`Ledger::create`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is on disk now.
    New(Refund),
    /// It was there before, with the same content.
    Known(Refund),
}

/// `refund` again, where a request under its id asks for the same.
///
/// # Errors
/// [`LedgerError::RefundIdReused`]
pub(crate) fn match_existing(refund: Refund, asked: &Intent) -> Result<Refund, LedgerError> {
    let fields = refund.differing_fields(asked);
    let is_same = *refund.id() == asked.id;
    match fields.is_empty() && is_same {
        true => Ok(refund),
        false => {
            let fields = if is_same { fields } else { Vec::new() };
            Err(LedgerError::RefundIdReused { id: refund.intent.id, fields })
        }
    }
}

/// Events to be recorded.
#[derive(Debug, Clone)]
pub struct RecordEvents {
    /// Whose.
    pub id: RefundId,
    /// The revision that the decision was made on.
    pub revision: u64,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// When the refund is to be looked up next, where lookups go on after the events. None: at once
    /// where it is [`State::InDoubt`] or [`State::Submitted`], never elsewhere.
    pub next_check: Option<Timestamp>,
    /// Who did it: a line of the history.
    pub actor: String,
    /// When.
    pub now: Timestamp,
}

/// Which refunds, and from where on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Any of these; empty: any at all.
    pub states: Vec<State>,
    /// Of this account.
    pub account: Option<AccountName>,
    /// With this among [`crate::domain::target::Target::references`].
    pub target_reference: Option<String>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// Only refunds recorded before the one with this ordinal: where the page before ended.
    pub before_ordinal: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// One refund of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The order of recording, from 1: never reused, the same for ever.
    pub ordinal: u64,
    /// The refund.
    pub refund: Refund,
}

/// Whether the ledger still writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Writing,
    /// A write or a sync failed: nothing is written until the next start.
    Failed(String),
    /// It does not verify: nothing is sent until a person has looked.
    Corrupt(String),
}

/// A request that can be withdrawn as long as nobody has begun it, and not after.
///
/// A caller whose deadline passes may say "nothing was recorded" only where [`Ticket::withdraw`]
/// says so.
#[derive(Debug, Clone, Default)]
pub struct Ticket(Arc<AtomicU8>);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Ticket {
    /// The ledger begins. False: it was withdrawn, leave it.
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up. False: too late, it has begun; wait for what comes of it.
    pub fn withdraw(&self) -> bool {
        self.0.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What can go wrong with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The id is known with other content, or in another case.
    #[error("refund {id} exists {}", if fields.is_empty() { "and differs in upper and lower case alone".to_owned() }
        else { format!("with other content: {}", fields.join(", ")) })]
    RefundIdReused {
        /// The refund that is there.
        id: RefundId,
        /// The fields that differ; none where the ids themselves do.
        fields: Vec<&'static str>,
    },
    /// Another refund of the target is open, in doubt or done.
    #[error("refund {conflicting} of the same target is open, in doubt or done")]
    TargetHasRefund {
        /// Which refund.
        conflicting: RefundId,
    },
    /// The same account had a refund of the same amount within a day.
    #[error("refund {conflicting} gave the same amount to the same account within a day")]
    SimilarRefund {
        /// Which refund.
        conflicting: RefundId,
        /// Until then it is refused even with `allow_similar`: that refund may still have an
        /// effect.
        firm_until: Option<Timestamp>,
    },
    /// No such refund.
    #[error("there is no refund {0}")]
    NotFound(RefundId),
    /// The refund has changed since the decision was made.
    #[error("refund {} is at revision {} by now", present.id(), present.revision)]
    StaleRevision {
        /// As it is.
        present: Box<Refund>,
    },
    /// The state does not allow the event.
    #[error(transparent)]
    IllegalTransition(#[from] IllegalTransition),
    /// The caller withdrew before it was begun. Nothing was recorded.
    #[error("the request was withdrawn before it was recorded")]
    Abandoned,
    /// The writer's queue is full, or another program holds the file for now. Nothing was recorded;
    /// the same call may succeed soon.
    #[error("the ledger's queue is full")]
    Overloaded,
    /// Reading failed, or writing before its commit. Nothing was recorded.
    #[error("the ledger cannot be used: {0}")]
    Unavailable(String),
    /// The commit itself failed. Whether the write is on disk is not known before the next start.
    #[error("the ledger failed in the middle of a commit: {0}")]
    CommitFailed(String),
    /// A row that this program did not write so.
    #[error("the ledger is corrupt: table {table}, column {column}, row {row}: {problem}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// What is strange about it.
        problem: String,
    },
}

impl LedgerError {
    /// Whether another refund is in the way of this one.
    pub fn is_conflict(&self) -> bool {
        matches!(self, LedgerError::TargetHasRefund { .. } | LedgerError::SimilarRefund { .. })
    }
}
