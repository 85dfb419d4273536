//! The states of a refund and the only moves between them. One table, used live, in recovery and by
//! the ledger.

use crate::domain::event::{Decided, Event, Resolution};

/// Where a refund stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Recorded on disk; nothing has been processed by the provider.
    Pending,
    /// An attempt is recorded and may be on the wire.
    Dispatching,
    /// The provider took it and has not finished.
    Submitted,
    /// It is not known whether the provider acted.
    InDoubt,
    /// It is not known, and only a person can find out.
    NeedsReview,
    /// Terminal: the money was given back.
    Succeeded,
    /// Terminal: some items were given back, others not.
    PartiallySucceeded,
    /// Terminal: nothing was given back. The provider refused, a person found it so, or it was
    /// never processed.
    Failed,
    /// Terminal: withdrawn before the provider had processed anything.
    Cancelled,
}

/// A move that the table does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a refund that is {from} cannot take the event \"{event}\"")]
pub struct IllegalTransition {
    /// Where the refund stands.
    pub from: State,
    /// What was to happen to it.
    pub event: &'static str,
}

/// Where `event` leads from `from`. Every pair that is not listed is refused: a terminal state is
/// never left, doubt never forgotten.
///
/// # Errors
/// [`IllegalTransition`] for every pair that is not listed.
pub fn transition(from: State, event: &Event) -> Result<State, IllegalTransition> {
    use State::{
        Cancelled, Dispatching, Failed, InDoubt, NeedsReview, PartiallySucceeded, Pending, Submitted, Succeeded,
    };
    match (from, event) {
        // Whether a second send out of doubt is safe is the retry contract's to say, not this
        // table's.
        (Pending | InDoubt, Event::Dispatched { .. }) => Ok(Dispatching),
        (Dispatching, Event::NotSent { .. }) => Ok(Pending),
        (Pending, Event::Cancelled) => Ok(Cancelled),
        (Pending, Event::Expired) => Ok(Failed),

        // Out of a review only a record under our own identifier leads here; the caller checks
        // that.
        (Dispatching | Submitted | InDoubt | NeedsReview, Event::Refunded(confirmation)) => {
            Ok(if confirmation.is_partial() { PartiallySucceeded } else { Succeeded })
        }
        (Dispatching | Submitted | InDoubt | NeedsReview, Event::Refused { .. }) => Ok(Failed),
        (Dispatching | InDoubt | Submitted, Event::Accepted(_)) => Ok(Submitted),

        (Dispatching, Event::Doubted { .. } | Event::Interrupted) => Ok(InDoubt),
        // A lookup never changes a refund that failed and is followed.
        (Submitted | InDoubt | NeedsReview | Failed, Event::Checked(_)) | (Failed, Event::Corrected { .. }) => Ok(from),
        (InDoubt | Submitted, Event::Escalated { .. }) => Ok(NeedsReview),
        (Pending | Submitted | InDoubt | NeedsReview, Event::Reassigned { .. }) => Ok(from),
        (NeedsReview, Event::Resolved(decided)) => Ok(resolved_state(decided)),
        // A person with proof need not wait for the gateway's lookups, but cannot have the refund
        // sent again meanwhile.
        (InDoubt | Submitted, Event::Resolved(decided))
            if decided.take_over && decided.resolution != Resolution::SendAgain =>
        {
            Ok(resolved_state(decided))
        }

        (from, event) => Err(IllegalTransition { from, event: event.kind().as_str() }),
    }
}

/// Where a person's decision leads.
fn resolved_state(decided: &Decided) -> State {
    match &decided.resolution {
        Resolution::Refunded { items, .. } if items.iter().any(|item| !item.refunded) => State::PartiallySucceeded,
        Resolution::Refunded { .. } => State::Succeeded,
        Resolution::NotRefunded => State::Failed,
        Resolution::SendAgain => State::Dispatching,
    }
}

impl State {
    /// All of them, in the order of their numbers in the public contract.
    pub const ALL: [State; 9] = [
        State::Pending,
        State::Dispatching,
        State::Submitted,
        State::InDoubt,
        State::NeedsReview,
        State::Succeeded,
        State::PartiallySucceeded,
        State::Failed,
        State::Cancelled,
    ];

    /// The state never changes any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Succeeded | State::PartiallySucceeded | State::Failed | State::Cancelled)
    }

    /// Whether the provider is asked what became of the refund: it was taken, or may have been.
    pub const fn is_in_question(self) -> bool {
        matches!(self, State::Submitted | State::InDoubt | State::NeedsReview)
    }

    /// Whether a refund in this state keeps its target from any other: open, in doubt or done.
    pub const fn holds_target(self) -> bool {
        !matches!(self, State::Failed | State::Cancelled)
    }

    /// The word used in the ledger, the logs and the metrics.
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
        }
    }

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
