//! What a caller learns of refunds that it may not know of: nothing but that an id is taken, or
//! that some refund is in the way.

use crate::domain::authority::Authority;
use crate::domain::ids::RefundId;
use crate::domain::refund::{Intent, Refund};
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::ledger::{self, LedgerError};

/// The refund that a request repeats.
///
/// # Errors
/// [`EngineError::RefundIdTaken`] if the caller may not know of it, whatever its content;
/// [`LedgerError::RefundIdReused`]
pub(super) fn match_existing(by: &Authority, refund: Refund, intent: &Intent) -> Result<Refund, EngineError> {
    match by.sees_refund(&refund) {
        true => Ok(ledger::match_existing(refund, intent)?),
        false => Err(EngineError::RefundIdTaken(intent.id.clone())),
    }
}

/// The error of a write, without the name and the content of refunds that the caller may not know
/// of.
pub(super) async fn conceal(core: &EngineCore, by: &Authority, error: LedgerError) -> EngineError {
    match error {
        LedgerError::TargetHasRefund { ref conflicting } if !is_visible(core, by, conflicting).await => {
            EngineError::HiddenConflict
        }
        LedgerError::SimilarRefund { ref conflicting, firm_until } if !is_visible(core, by, conflicting).await => {
            EngineError::HiddenSimilar { is_firm: firm_until.is_some() }
        }
        error => error.into(),
    }
}

/// As [`conceal`], for a creation.
pub(super) async fn conceal_creation(
    core: &EngineCore,
    by: &Authority,
    id: &RefundId,
    error: LedgerError,
) -> EngineError {
    match error {
        LedgerError::RefundIdReused { id: ref existing, .. } if !is_visible(core, by, existing).await => {
            EngineError::RefundIdTaken(id.clone())
        }
        error => conceal(core, by, error).await,
    }
}

/// A refund that cannot be read is not shown.
async fn is_visible(core: &EngineCore, by: &Authority, id: &RefundId) -> bool {
    by.sees_all() || core.get(id).await.is_ok_and(|refund| by.sees_refund(&refund))
}
