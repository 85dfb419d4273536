//! The approval of a refund by a second person.

use crate::domain::clock::Timestamp;

/// The approval that a refund needs, frozen when the refund was recorded, and what was decided
/// since.
///
/// Owners are frozen too: an access file that is edited later makes no one a second person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The rule that asks for it.
    pub rule: String,
    /// How many distinct owners must approve.
    pub needed: u32,
    /// The refund fails if it is not approved by then.
    pub expire_time: Timestamp,
    /// The owner of the caller who asked for the refund.
    pub creator_owner: String,
    /// Oldest first.
    pub decisions: Vec<ApprovalDecision>,
}

/// One person's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalDecision {
    pub by: Approver,
    pub verdict: Verdict,
    /// Empty: none.
    pub comment: String,
    pub time: Timestamp,
}

/// Who decides: a caller, and the owner that the caller had then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    pub caller: String,
    pub owner: String,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Approved,
    Rejected,
}

impl Approval {
    /// Whether this owner asked for the refund or has approved it. No one counts twice.
    pub fn involves(&self, owner: &str) -> bool {
        self.creator_owner == owner || self.approved().any(|decision| decision.by.owner == owner)
    }

    /// Whether the caller has decided this already.
    pub fn repeats(&self, caller: &str, verdict: Verdict) -> bool {
        self.decisions.iter().any(|decision| decision.by.caller == caller && decision.verdict == verdict)
    }

    /// Whether one more approval is the last one.
    pub fn lacks_one(&self) -> bool {
        self.approval_count().saturating_add(1) >= self.needed
    }

    /// Whether all have approved.
    pub fn is_complete(&self) -> bool {
        self.approval_count() >= self.needed
    }

    pub fn approval_count(&self) -> u32 {
        u32::try_from(self.approved().count()).unwrap_or(u32::MAX)
    }

    /// When the last one that was needed approved. None: not all have.
    pub fn complete_time(&self) -> Option<Timestamp> {
        self.approved().last().map(|decision| decision.time).filter(|_| self.is_complete())
    }

    fn approved(&self) -> impl Iterator<Item = &ApprovalDecision> {
        self.decisions.iter().filter(|decision| decision.verdict == Verdict::Approved)
    }
}

impl Verdict {
    /// The name used in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
        }
    }

    /// The inverse of [`Verdict::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Verdict::Approved, Verdict::Rejected].into_iter().find(|one| one.as_str() == text)
    }
}
