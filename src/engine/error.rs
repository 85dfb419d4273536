//! Why the engine did not do what it was asked to do.

use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::ledger::LedgerError;

/// Why the engine did not do what it was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No account of this name is configured.
    #[error("there is no account \"{0}\"")]
    AccountNotFound(AccountName),
    /// The account is one of another provider than the target.
    #[error("account \"{account}\" is a {of} account, and the target is of {target}")]
    AccountMismatch {
        /// The account.
        account: AccountName,
        /// Its provider.
        of: ProviderKind,
        /// The target's provider.
        target: ProviderKind,
    },
    /// Fields that can only be judged with the configuration or the refund at hand.
    #[error("{} field(s) of the request are invalid", .0.len())]
    Invalid(Vec<FieldViolation>),
    /// Some of it was sent, or it has ended.
    #[error("a refund that is {0} cannot be cancelled")]
    NotCancellable(State),
    /// The refund is neither in doubt nor being processed by its provider.
    #[error("a refund that is {0} has nothing to reconcile")]
    NotInDoubt(State),
    /// The refund is not in a state that a person decides.
    #[error("a refund that is {0} cannot be resolved by a person")]
    NotInReview(State),
    /// The refund does not wait for an approval.
    #[error("a refund that is {0} does not wait for an approval")]
    NotAwaitingApproval(State),
    /// The caller's owner asked for the refund or has approved it, or callers are not told apart.
    #[error("another owner than those who asked for the refund or have approved it must do this")]
    OwnRefund,
    /// The caller who asked for the refund is gone from the access file, or may not create refunds
    /// any more.
    #[error("the caller {0}, who asked for the refund, may not create refunds any more")]
    CreatorRevoked(String),
    /// The account is not the one that the refund was recorded for, so nothing can be sent or
    /// looked up there.
    #[error("the refund was recorded for another account than is configured now: {} differ(s)", .differing.join(", "))]
    AccountChanged {
        /// The settings that differ; `account` if it is gone.
        differing: Vec<&'static str>,
    },
    /// An operator has paused the account, so nothing is sent there.
    #[error("account \"{0}\" is paused")]
    AccountPaused(AccountName),
    /// The refund does not wait for an account.
    #[error("a refund that is {0} and does not wait for its account cannot be reassigned")]
    NotReassignable(State),
    /// The id is one of a refund that the caller may not know of.
    #[error("refund {0} exists, at an account that the caller may not use")]
    RefundIdTaken(RefundId),
    /// [`LedgerError::TargetHasRefund`] by a refund that the caller may not know of.
    #[error("a refund of the same target is open, in doubt or done")]
    HiddenConflict,
    /// [`LedgerError::SimilarRefund`] by a refund that the caller may not know of.
    #[error("a refund gave the same amount to the same account within a day")]
    HiddenSimilar {
        /// The conflict holds even with `allow_similar`.
        is_firm: bool,
    },
    /// The refund has changed since the caller read it.
    #[error("the refund has changed: its etag is {present} now")]
    EtagMismatch {
        /// The present etag.
        present: String,
    },
    /// The caller's deadline passed before the ledger began. Nothing was recorded.
    #[error("the deadline passed before anything was recorded")]
    Deadline,
    /// The gateway is shutting down. Nothing was recorded.
    #[error("the gateway is shutting down")]
    Draining,
    /// Too many operations are running whose callers may have left. Nothing was recorded.
    #[error("too many refunds are being cancelled, approved, rejected, looked up, resolved or reassigned")]
    TooManyOperations,
    /// Too many event streams are open.
    #[error("too many event streams are open")]
    TooManyEventStreams,
    /// The sequence number is beyond the last event.
    #[error("the last event is {last}")]
    BeyondLastEvent {
        /// The last event's number.
        last: u64,
    },
    /// The ledger refused or failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A bug.
    #[error("a task of the engine panicked")]
    Panicked,
}
