//! The requests that callers and operators make of the engine, and its answer to a creation.

use tokio::time::Instant;

use crate::domain::approval::Verdict;
use crate::domain::authority::Authority;
use crate::domain::event::Resolution;
use crate::domain::ids::{AccountName, RefundId};
use crate::domain::refund::{Intent, Refund};

/// A refund to be created.
#[derive(Debug, Clone)]
pub struct CreateCommand {
    /// What is asked for.
    pub intent: Intent,
    /// Record it although a similar refund was recorded within a day.
    pub allow_similar: bool,
    /// Who asks.
    pub by: Authority,
    /// When the caller must have an answer; nothing is recorded after it.
    pub answer_by: Instant,
    /// How long to wait for an outcome; not later than `answer_by`.
    pub wait_until: Instant,
    /// The caller's own span, in W3C Trace Context format.
    pub trace_parent: Option<String>,
}

/// A refund, and whether the call repeated an earlier one.
#[derive(Debug, Clone)]
pub struct CreateResult {
    /// The refund as it is now.
    pub refund: Refund,
    /// The refund existed already: nothing new was recorded or sent.
    pub replayed: bool,
}

/// An operator's decision on a refund whose outcome the gateway cannot find out.
#[derive(Debug, Clone)]
pub struct ResolveCommand {
    /// The refund.
    pub id: RefundId,
    /// The etag of the state that the decision is based on.
    pub etag: String,
    /// What the operator found out.
    pub resolution: Resolution,
    /// Where the evidence is.
    pub evidence: String,
    /// Decide a refund that is still IN_DOUBT or SUBMITTED, before the gateway has finished
    /// reconciling it.
    pub take_over: bool,
    /// Who decides.
    pub by: Authority,
}

/// A second person's decision on a refund that waits for an approval.
#[derive(Debug, Clone)]
pub struct ApprovalCommand {
    /// The refund.
    pub id: RefundId,
    /// The etag of the state that the decision is based on.
    pub etag: String,
    /// What is decided.
    pub verdict: Verdict,
    /// Why. Empty: no comment.
    pub comment: String,
    /// Who decides.
    pub by: Authority,
}

/// A refund to be continued at another account or place.
#[derive(Debug, Clone)]
pub struct ReassignCommand {
    /// The refund.
    pub id: RefundId,
    /// The etag of the state that the decision is based on.
    pub etag: String,
    /// The configured account where it continues.
    pub account: AccountName,
    /// The evidence that both places share one set of records at the provider.
    pub evidence: String,
    /// Who decides.
    pub by: Authority,
}
