//! What the engine is asked to do, and what it answers.

use tokio::time::Instant;

use crate::domain::event::Resolution;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::refund::{Intent, Refund};
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::ledger::LedgerError;

/// A refund to be created.
#[derive(Debug, Clone)]
pub struct CreateCommand {
    /// What is asked for.
    pub intent: Intent,
    /// Record it although a similar one was recorded within a day.
    pub allow_similar: bool,
    /// Who asks.
    pub actor: String,
    /// When the caller must have an answer; nothing is recorded after it.
    pub answer_by: Instant,
    /// Until when to wait for an outcome; not later than `answer_by`.
    pub wait_until: Instant,
    /// The caller's own span, as W3C Trace Context writes it.
    pub trace_parent: Option<String>,
}

/// A refund, and whether it was known before.
#[derive(Debug, Clone)]
pub struct CreateResult {
    /// As it is now.
    pub refund: Refund,
    /// Nothing new was recorded or sent.
    pub replayed: bool,
}

/// Whether an account takes refunds, as far as its last answers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountHealth {
    /// Yes.
    Serving,
    /// Nothing usable is heard of its provider: refunds wait as PENDING.
    Suspended,
    /// Its provider refuses the credentials: refunds wait as PENDING.
    CredentialsRefused,
}

/// A person's decision on a refund in doubt.
#[derive(Debug, Clone)]
pub struct ResolveCommand {
    /// Which refund.
    pub id: RefundId,
    /// The etag of the state that the decision is based on.
    pub etag: String,
    /// What they found out.
    pub resolution: Resolution,
    /// Where the evidence is.
    pub evidence: String,
    /// Decide a refund that is still IN_DOUBT or SUBMITTED, before the gateway has finished finding
    /// out.
    pub take_over: bool,
    /// Who says so.
    pub actor: String,
}

/// A refund that goes on at another account or place.
#[derive(Debug, Clone)]
pub struct ReassignCommand {
    /// Which refund.
    pub id: RefundId,
    /// The etag of the state that the decision is based on.
    pub etag: String,
    /// The configured account where it goes on.
    pub account: AccountName,
    /// The evidence that both are the same books at the provider.
    pub evidence: String,
    /// Who says so.
    pub actor: String,
}

/// What keeps a refund from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingFor {
    /// A free slot, or its turn in the account's rate limit.
    Turn,
    /// The time after an attempt that was provably not processed.
    Backoff,
    /// The provider gives no usable answer, and the account is suspended.
    Provider,
    /// Credentials that the provider accepts.
    Credentials,
    /// The account that it was recorded for: gone, or at another place by now.
    Account,
}

/// Why the engine did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No account of this name is configured.
    #[error("there is no account \"{0}\"")]
    AccountNotFound(AccountName),
    /// The account is of another provider than the target.
    #[error("account \"{account}\" is a {of} account, and the target is of {target}")]
    AccountMismatch {
        /// The account.
        account: AccountName,
        /// Its provider.
        of: ProviderKind,
        /// The target's provider.
        target: ProviderKind,
    },
    /// Fields that only the configuration can judge.
    #[error("{} field(s) of the request are wrong", .0.len())]
    Invalid(Vec<FieldViolation>),
    /// Something of it was sent, or it has ended.
    #[error("a refund that is {0} cannot be cancelled")]
    NotCancellable(State),
    /// There is nothing to find out.
    #[error("a refund that is {0} has nothing to be reconciled")]
    NotInDoubt(State),
    /// A person cannot decide it.
    #[error("a refund that is {0} is not for a person to resolve")]
    NotInReview(State),
    /// The account is not the one that the refund was recorded for, so nothing can be sent or
    /// looked up there.
    #[error("the refund was recorded for another account than is configured now: {} differ(s)", .differing.join(", "))]
    AccountChanged {
        /// The settings that differ; `account` if it is gone.
        differing: Vec<&'static str>,
    },
    /// It waits for no account.
    #[error("a refund that is {0} and waits for no account cannot be reassigned")]
    NotReassignable(State),
    /// The refund has changed since the caller looked.
    #[error("the refund has changed: its etag is {present} now")]
    EtagMismatch {
        /// The etag as it is.
        present: String,
    },
    /// The caller's time was over before anything was begun. Nothing was recorded.
    #[error("the deadline passed before anything was recorded")]
    Deadline,
    /// The gateway is shutting down. Nothing was recorded.
    #[error("the gateway is shutting down")]
    Draining,
    /// Too much is under way for callers that may have left. Nothing was recorded.
    #[error("too many refunds are being withdrawn or looked up")]
    TooManyOperations,
    /// Too many readers of the event feed.
    #[error("too many event streams are open")]
    TooManyFeeds,
    /// The sequence number is beyond the last event.
    #[error("the last event is {last}")]
    BeyondLastEvent {
        /// The last event's number.
        last: u64,
    },
    /// The ledger's no.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A bug.
    #[error("a task of the engine panicked")]
    Panicked,
}
