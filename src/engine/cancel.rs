//! CancelRefund: cancels a refund that was not processed.

use std::sync::Arc;

use crate::domain::authority::Authority;
use crate::domain::event::Event;
use crate::domain::ids::RefundId;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::ledger::LedgerError;

/// See [`crate::engine::Engine::cancel`].
pub(super) async fn cancel(
    core: Arc<EngineCore>,
    id: RefundId,
    etag: Option<String>,
    by: Authority,
) -> Result<Refund, EngineError> {
    loop {
        let refund = core.get_for(&by, &id).await?;
        if refund.state == State::Cancelled {
            return Ok(refund);
        }
        if etag.as_ref().is_some_and(|etag| *etag != refund.etag()) {
            return Err(EngineError::EtagMismatch { present: refund.etag() });
        }
        match core.record(&refund, vec![Event::Cancelled], None, &by.actor).await {
            Ok(cancelled) => return Ok(cancelled.outcome),
            // It changed after it was read: check again whether it may still be cancelled.
            Err(LedgerError::StaleRevision { .. }) => {}
            Err(LedgerError::IllegalTransition(refused)) => return Err(EngineError::NotCancellable(refused.from)),
            Err(error) => return Err(error.into()),
        }
    }
}
