//! The log lines about what attempts and lookups led to.
//!
//! No line quotes the provider: its texts may name people. Its code and the category say enough,
//! and the refund itself has the rest.

use tracing::{error, info, warn};

use crate::domain::outcome::Lookup;
use crate::domain::refund::Refund;
use crate::domain::state::State;

/// Logs what an attempt led to. If no byte left, there is neither code nor category, and the text
/// is the gateway's own.
pub(super) fn log_outcome(refund: &Refund) {
    let (code, state) = (code_of(refund), refund.state.as_str());
    let (category, error) = match &refund.provider_error {
        Some(error) if error.http_status == 0 => (None, Some(error.message.as_str())),
        Some(error) => (Some(error.category.as_str()), None),
        None => (None, None),
    };
    match refund.state {
        State::Pending => warn!(state, code, category, error, "the refund was not processed and will be sent again"),
        State::InDoubt => {
            let reason = reason_of(refund);
            warn!(state, reason, code, category, error, "the outcome of the refund is unknown");
        }
        State::NeedsReview => log_review(refund),
        State::Failed => info!(state, code, category, "the provider refused the refund"),
        _ => info!(state, "the provider answered"),
    }
}

/// Logs what a lookup led to.
pub(super) fn log_lookup(before: &Refund, refund: &Refund, lookup: &Lookup) {
    let state = refund.state.as_str();
    // The number of lookups before this one, in the present doubt.
    let lookups = before.doubt.as_ref().map(|doubt| i64::from(doubt.check_count));
    match lookup {
        _ if refund.state == State::NeedsReview && before.state != State::NeedsReview => log_review(refund),
        _ if refund.corrected_time != before.corrected_time => {
            let status = refund.provider_status.as_deref();
            error!(state, status, "money moved: the provider reports a refund that was recorded as refused");
        }
        Lookup::Unavailable { .. } => warn!(state, lookups, "lookup inconclusive"),
        _ => info!(state, lookups, "looked the refund up at its provider"),
    }
}

fn log_review(refund: &Refund) {
    let state = refund.state.as_str();
    let (reason, code) = (reason_of(refund), code_of(refund));
    error!(state, reason, code, "the gateway cannot find out the outcome of the refund: a person must resolve it");
}

fn reason_of(refund: &Refund) -> Option<&'static str> {
    refund.doubt.as_ref().map(|doubt| doubt.reason.as_str())
}

/// The provider's error code, if it gave one.
fn code_of(refund: &Refund) -> Option<&str> {
    refund.provider_error.as_ref().map(|error| error.code.as_str()).filter(|code| !code.is_empty())
}
