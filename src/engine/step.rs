//! Performs one step: call, then record what it meant. Decides nothing.
//!
//! The only caller of `Provider::refund`. It is given a refund whose attempt is on disk already; whatever happens from here on, the attempt
//! ends in an event, or the process ends and the next start finds it DISPATCHING.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, error, info, info_span, warn};

use crate::domain::outcome::{DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError};
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::{AccountHealth, EngineError, GATEWAY, Lane, Shared, decide};
use crate::ledger::LedgerError;

/// Sends the attempt of a refund that is DISPATCHING on disk, in a task of its own. The slot is free again when its outcome is on disk.
pub(super) fn spawn_attempt(shared: &Arc<Shared>, lane: &Arc<Lane>, refund: Refund, slot: OwnedSemaphorePermit) {
    let span =
        info_span!("attempt", refund = %refund.id(), account = %lane.account.name, attempt = refund.attempt_count);
    let (owner, lane) = (shared.clone(), lane.clone());
    let work = async move {
        attempt(&owner, &lane, refund).await;
        drop(slot);
    };
    shared.tasks.spawn(work.instrument(span));
}

/// Asks the provider what became of a refund and records what it shows.
pub(super) async fn look(shared: &Shared, lane: &Lane, refund: Refund, actor: &str) -> Result<Refund, EngineError> {
    // Never closed, so it can only be waited for.
    let _slot = lane.lookups.acquire().await.map_err(|_| EngineError::Draining)?;
    let (adapter, asked) = (lane.account.adapter.clone(), refund.clone());
    let lookup = match tokio::spawn(async move { adapter.lookup(&asked).await }.in_current_span()).await {
        Ok(lookup) => lookup,
        Err(_) => {
            Lookup::Unavailable { evidence: "the adapter panicked while reading the provider's answer".to_owned() }
        }
    };
    let mut refund = refund;
    loop {
        match shared.record(&refund, decide::after_lookup(&refund, lookup.clone()), actor).await {
            Ok(recorded) => {
                info!(refund = %recorded.id(), state = %recorded.state, "looked the refund up at its provider");
                return Ok(recorded);
            }
            // Another look was recorded first and settled nothing: what this one found must not be lost.
            Err(LedgerError::StaleRevision { present }) if present.state == refund.state => refund = *present,
            // Somebody else settled it in the meantime.
            Err(LedgerError::StaleRevision { present }) => return Ok(*present),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn attempt(shared: &Arc<Shared>, lane: &Lane, refund: Refund) {
    let (adapter, intent) = (lane.account.adapter.clone(), refund.intent.clone());
    // A task of its own, so that a panic in an adapter is an unknown outcome and not a lost attempt.
    let outcome = match tokio::spawn(async move { adapter.refund(&intent).await }.in_current_span()).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown {
            reason: DoubtReason::UnreadableReply,
            evidence: "the adapter panicked; what the provider did is not known".to_owned(),
        },
    };
    note_health(lane, &outcome);
    let events =
        decide::after_attempt(&refund, &lane.account.contract, outcome, shared.settings.backoff, shared.clock.now());
    match shared.record(&refund, events, GATEWAY).await {
        Ok(recorded) => {
            if recorded.state == State::Pending {
                // The driver's next look must not come later than this refund is due.
                lane.bell.notify_one();
            }
            log_outcome(&recorded);
        }
        Err(problem) => {
            error!(%problem, "the outcome of an attempt could not be recorded: it stays DISPATCHING, and the next start shows its doubt");
        }
    }
}

fn note_health(lane: &Lane, outcome: &Outcome) {
    match outcome {
        Outcome::NotSent { error: ProviderError { category: ErrorCategory::CredentialsRefused, .. }, .. } => {
            lane.note_health(AccountHealth::CredentialsRefused);
        }
        // The provider looked at the request itself, so it has taken the credentials.
        Outcome::Refunded(_) | Outcome::Accepted(_) | Outcome::Refused { .. } => {
            lane.note_health(AccountHealth::Serving)
        }
        Outcome::NotSent { .. } | Outcome::Unknown { .. } => {}
    }
}

/// No word of the provider: it may name people. Its code and kind say enough, and the refund itself has the rest.
fn log_outcome(refund: &Refund) {
    let error = refund.provider_error.as_ref();
    let (code, category) = error.map_or(("", ""), |error| (error.code.as_str(), error.category.as_str()));
    let state = refund.state.as_str();
    match refund.state {
        State::Pending => warn!(state, code, category, "the refund was not processed and will be sent again"),
        State::InDoubt | State::NeedsReview => {
            let reason = refund.doubt.as_ref().map_or("", |doubt| doubt.reason.as_str());
            warn!(state, reason, code, category, "it is not known what became of the refund");
        }
        State::Failed => info!(state, code, category, "the provider refused the refund"),
        _ => info!(state, "the provider answered"),
    }
}
