//! What the end of an HTTP request means for a refund or a lookup.

use crate::domain::outcome::{ErrorCategory, Lookup, Outcome, ProviderError, sanitize_provider_text};
use crate::http::client::{HttpOutcome, HttpResponse};

impl HttpOutcome {
    /// The outcome of a refund request: `read` interprets a response; without one, NotSent is
    /// proof that nothing happened and everything else is doubt.
    pub(super) fn into_outcome(self, read: impl FnOnce(&HttpResponse) -> Outcome) -> Outcome {
        match self {
            HttpOutcome::Answered(answer) => read(&answer),
            HttpOutcome::NotSent { evidence } => not_sent(&evidence),
            HttpOutcome::Unknown { reason, evidence } => Outcome::Unknown { reason, evidence },
        }
    }

    /// The result of a lookup: `read` interprets a response; without one the lookup is unavailable.
    pub(super) fn into_lookup(self, read: impl FnOnce(&HttpResponse) -> Lookup) -> Lookup {
        match self {
            HttpOutcome::Answered(answer) => read(&answer),
            HttpOutcome::NotSent { evidence } | HttpOutcome::Unknown { evidence, .. } => Lookup::unavailable(evidence),
        }
    }
}

/// The outcome of a request that was not sent, with the reason.
pub(super) fn not_sent(evidence: &str) -> Outcome {
    Outcome::NotSent {
        error: ProviderError {
            code: String::new(),
            message: sanitize_provider_text(evidence),
            http_status: 0,
            category: ErrorCategory::Other,
        },
        retry_at: None,
    }
}
