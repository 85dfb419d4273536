//! The durable record: refunds, attempts, events.
//!
//! One method is one business step and one transaction, and its doc says what is true once it returns. The transition table of
//! [`crate::domain::state`] is applied inside the transaction, against the row as it is there: a stale writer is refused, never obeyed.
//!
//! What must hold whatever the process does:
//! - [`Ledger::create`] and [`Ledger::record`] have synced the disk when they return `Ok`; before that, nobody is told anything.
//! - An error of theirs other than [`LedgerError::CommitFailed`] means that nothing of the call is on disk.
//! - After the first failed write or sync nothing is written any more until the process has been started again ([`Ledger::health`]):
//!   what a failed `fsync` left behind is not knowable from inside.

pub mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::clock::Timestamp;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::refund::{Event, EventRecord, Intent, Refund};
use crate::domain::state::{MoveRefused, State};

/// The actor of what nobody asked for.
pub const GATEWAY: &str = "gateway";

/// The durable record. See the module's doc for what every method promises.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Records a new refund, with its first attempt where `dispatch` says so, or finds the one that has this id.
    ///
    /// The reservation against a second refund of the same target and the search for a similar one happen in the same transaction.
    ///
    /// # Errors
    /// [`LedgerError::RefundIdReused`], [`LedgerError::TargetHasRefund`], [`LedgerError::SimilarRefund`],
    /// [`LedgerError::Abandoned`], [`LedgerError::Overloaded`], [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`],
    /// [`LedgerError::Corrupt`]
    async fn create(&self, create: Create) -> Result<Created, LedgerError>;

    /// What [`Ledger::create`] would answer now. Records nothing.
    ///
    /// # Errors
    /// As [`Ledger::create`].
    async fn check(&self, create: Create) -> Result<Created, LedgerError>;

    /// Applies events, in order, to the refund at exactly `revision`, and records each.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::StaleRevision`], [`LedgerError::MoveRefused`], [`LedgerError::Overloaded`],
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn record(&self, record: Record) -> Result<Refund, LedgerError>;

    /// Start-up: every refund that was [`State::Dispatching`] when the last process ended becomes [`State::InDoubt`]. How many there were.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::CommitFailed`], [`LedgerError::Corrupt`]
    async fn interrupt_running(&self, now: Timestamp) -> Result<usize, LedgerError>;

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

    /// [`State::Pending`] refunds of one account that may be sent at `now`, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn due(&self, account: &AccountName, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError>;

    /// When the next [`State::Pending`] refund of one account may be sent; none where there is no such refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_due(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// [`State::InDoubt`] and [`State::Submitted`] refunds of one account that the provider is to be asked of at `now`: what was never asked
    /// for first, then by the moment that was set.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn unsettled(&self, account: &AccountName, now: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError>;

    /// When the next of them is due; none where there is no such refund.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn next_unsettled(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// [`State::Pending`] refunds of one account that were created at `created_until` or before, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn waiting_since(
        &self,
        account: &AccountName,
        created_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Refund>, LedgerError>;

    /// When the [`State::Pending`] refund of one account that has waited longest was created.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn oldest_waiting(&self, account: &AccountName) -> Result<Option<Timestamp>, LedgerError>;

    /// When the refund last came to be in `state`, from another one; none where it never did.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], [`LedgerError::Corrupt`]
    async fn last_entry(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError>;

    /// The [`Create::trace_parent`] of one refund, where it had one.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]
    async fn trace_of(&self, _id: &RefundId) -> Result<Option<String>, LedgerError> {
        Ok(None)
    }

    /// The last committed event's sequence number, as it rises. 0 in an empty ledger.
    fn committed(&self) -> watch::Receiver<u64>;

    /// Whether the ledger still writes, as it changes.
    fn health(&self) -> watch::Receiver<Health>;
}

/// A refund to be recorded.
#[derive(Debug, Clone)]
pub struct Create {
    /// What is asked for.
    pub intent: Intent,
    /// Whose books the target's keys are counted in: two accounts with one login at one provider share it.
    pub scope: String,
    /// The accounts whose books they are, the intent's own among them: what one of them holds under a former login, none of the others gets.
    pub sharers: Arc<[AccountName]>,
    /// Record the first attempt in the same transaction, because a slot is free to send it at once.
    pub dispatch: bool,
    /// Record it although a similar one was recorded within a day.
    pub allow_similar: bool,
    /// Who asks: a line of the history.
    pub actor: String,
    /// When.
    pub now: Timestamp,
    /// Lets the caller withdraw the request as long as nobody has begun it.
    pub claim: Claim,
    /// The span that it is recorded in, where that is sent to a collector, and else the caller's own where it named one: what happens to the
    /// refund later is linked to it. No part of what the history and its hashes cover.
    pub trace_parent: Option<String>,
}

/// What [`Ledger::create`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is on disk now.
    New(Refund),
    /// It was there before, with the same content.
    Known(Refund),
}

/// `refund` again, where a request under its id asks for the same.
///
/// # Errors
/// [`LedgerError::RefundIdReused`]
pub(crate) fn repeated(refund: Refund, asked: &Intent) -> Result<Refund, LedgerError> {
    let fields = refund.differing_fields(asked);
    if fields.is_empty() { Ok(refund) } else { Err(LedgerError::RefundIdReused { id: asked.id.clone(), fields }) }
}

/// Events to be recorded.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose.
    pub id: RefundId,
    /// The revision that the decision was made on.
    pub revision: u64,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// When the provider is to be asked next, where the refund is [`State::InDoubt`] or [`State::Submitted`] after them; none: at once.
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
/// A caller whose deadline passes may say "nothing was recorded" only where [`Claim::withdraw`] says so.
#[derive(Debug, Clone, Default)]
pub struct Claim(Arc<AtomicU8>);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
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
    /// The id is known with other content.
    #[error("refund {id} exists with other content: {}", fields.join(", "))]
    RefundIdReused {
        /// Which id.
        id: RefundId,
        /// The fields that differ.
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
    MoveRefused(#[from] MoveRefused),
    /// The caller withdrew before it was begun. Nothing was recorded.
    #[error("the request was withdrawn before it was recorded")]
    Abandoned,
    /// The writer's queue is full, or another program holds the file for now. Nothing was recorded; the same call may succeed soon.
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
