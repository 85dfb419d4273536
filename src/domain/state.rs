//! The states of a refund and the only transitions between them: one table for live operation,
//! recovery and the ledger.

use crate::domain::event::{Decided, Event, Resolution};

/// The state of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Recorded on disk; the provider has processed nothing.
    Pending,
    /// An attempt is recorded and may be on the wire.
    Dispatching,
    /// The provider accepted it and has not finished.
    Submitted,
    /// It is not known whether the provider acted.
    InDoubt,
    /// It is not known, and only a person can find out.
    NeedsReview,
    /// Terminal: the money was refunded.
    Succeeded,
    /// Terminal: some items were refunded, others not.
    PartiallySucceeded,
    /// Terminal: nothing was refunded. The provider refused, a person found so, or it was never
    /// processed.
    Failed,
    /// Terminal: cancelled before the provider had processed anything.
    Cancelled,
    /// Recorded on disk. It is not sent before a second person has approved it.
    AwaitingApproval,
}

/// A transition that the table does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a refund that is {from} cannot take the event \"{event}\"")]
pub struct IllegalTransition {
    pub from: State,
    /// The kind of the event that was rejected.
    pub event: &'static str,
}

/// The state after `event`. Every pair that is not listed is an error: a terminal state is never
/// left, and doubt is never forgotten.
///
/// # Errors
/// [`IllegalTransition`]
pub fn transition(from: State, event: &Event) -> Result<State, IllegalTransition> {
    use State::{
        AwaitingApproval, Cancelled, Dispatching, Failed, InDoubt, NeedsReview, PartiallySucceeded, Pending, Submitted,
        Succeeded,
    };
    match (from, event) {
        // The retry contract, not this table, decides whether a second send out of doubt is safe.
        (Pending | InDoubt, Event::Dispatched { .. }) => Ok(Dispatching),
        (Dispatching, Event::NotSent { .. }) => Ok(Pending),
        (Pending | AwaitingApproval, Event::Cancelled) | (AwaitingApproval, Event::Rejected { .. }) => Ok(Cancelled),
        (Pending | AwaitingApproval, Event::Expired) => Ok(Failed),
        // Nothing else leads on, and not one step leads to an attempt.
        (AwaitingApproval, Event::Approved { is_last, .. }) => Ok(if *is_last { Pending } else { AwaitingApproval }),

        // Out of a review only a record under our own identifier leads here; the caller checks
        // that.
        (Dispatching | Submitted | InDoubt | NeedsReview, Event::Refunded(confirmation)) => {
            Ok(if confirmation.is_partial() { PartiallySucceeded } else { Succeeded })
        }
        (Dispatching | Submitted | InDoubt | NeedsReview, Event::Refused { .. }) => Ok(Failed),
        (Dispatching | InDoubt | Submitted, Event::Accepted(_)) => Ok(Submitted),

        (Dispatching, Event::Doubted { .. } | Event::Interrupted) => Ok(InDoubt),
        // A failed refund is still followed for a while; a lookup does not change its state.
        (Submitted | InDoubt | NeedsReview | Failed, Event::Checked(_)) | (Failed, Event::Corrected { .. }) => Ok(from),
        (InDoubt | Submitted, Event::Escalated { .. }) => Ok(NeedsReview),
        (AwaitingApproval | Pending | Submitted | InDoubt | NeedsReview, Event::Reassigned { .. }) => Ok(from),
        (NeedsReview, Event::Resolved(decided)) => Ok(resolved_state(decided)),
        // A person with proof need not wait for the gateway's lookups, but must not have the refund
        // sent again while they are running.
        (InDoubt | Submitted, Event::Resolved(decided))
            if decided.take_over && decided.resolution != Resolution::SendAgain =>
        {
            Ok(resolved_state(decided))
        }

        (from, event) => Err(IllegalTransition { from, event: event.kind().as_str() }),
    }
}

/// The state after an operator's resolution.
fn resolved_state(decided: &Decided) -> State {
    match &decided.resolution {
        Resolution::Refunded { items, .. } if items.iter().any(|item| !item.refunded) => State::PartiallySucceeded,
        Resolution::Refunded { .. } => State::Succeeded,
        Resolution::NotRefunded => State::Failed,
        Resolution::SendAgain => State::Dispatching,
    }
}

impl State {
    /// All states, in the order of their numbers in the public contract.
    pub const ALL: [State; 10] = [
        State::Pending,
        State::Dispatching,
        State::Submitted,
        State::InDoubt,
        State::NeedsReview,
        State::Succeeded,
        State::PartiallySucceeded,
        State::Failed,
        State::Cancelled,
        State::AwaitingApproval,
    ];

    /// Whether the state is final.
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Succeeded | State::PartiallySucceeded | State::Failed | State::Cancelled)
    }

    /// Whether the provider may have the refund, so that lookups make sense.
    pub const fn is_in_question(self) -> bool {
        matches!(self, State::Submitted | State::InDoubt | State::NeedsReview)
    }

    /// Whether the refund is still to be sent for the first time, or again: the provider has
    /// processed nothing.
    pub const fn is_unsent(self) -> bool {
        matches!(self, State::Pending | State::AwaitingApproval)
    }

    /// Whether a refund in this state reserves its target: it is open, in doubt or done.
    pub const fn holds_target(self) -> bool {
        !matches!(self, State::Failed | State::Cancelled)
    }

    /// The name used in the ledger, the logs and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "PENDING",
            State::Dispatching => "DISPATCHING",
            State::Submitted => "SUBMITTED",
            State::InDoubt => "IN_DOUBT",
            State::NeedsReview => "NEEDS_REVIEW",
            State::Succeeded => "SUCCEEDED",
            State::PartiallySucceeded => "PARTIALLY_SUCCEEDED",
            State::Failed => "FAILED",
            State::Cancelled => "CANCELLED",
            State::AwaitingApproval => "AWAITING_APPROVAL",
        }
    }

    /// The inverse of [`State::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
