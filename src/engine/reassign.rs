//! ReassignRefund: continues a refund, whose account is gone or has changed, at a configured
//! account.

use std::sync::Arc;

use crate::domain::clock::Clock as _;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::FieldViolation;
use crate::engine::commands::ReassignCommand;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::engine::{second_person, visibility};
use crate::ledger::{LedgerError, Reassign};

/// See [`crate::engine::Engine::reassign`].
pub(super) async fn reassign(core: Arc<EngineCore>, command: ReassignCommand) -> Result<Refund, EngineError> {
    let refund = core.get_for(&command.by, &command.id).await?;
    // One of the accounts is enough to see it, and not enough to move it.
    if !command.by.sees(&refund.account) || !command.by.sees(&refund.intent.account) {
        return Err(LedgerError::NotFound(command.id).into());
    }
    if command.etag != refund.etag() {
        return Err(EngineError::EtagMismatch { present: refund.etag() });
    }
    let is_open = refund.state == State::Pending || refund.state.is_in_question();
    if !is_open || core.account_of(&refund).is_ok() {
        return Err(EngineError::NotReassignable(refund.state));
    }
    let account = core.account_for(&command.by, &command.account)?.clone();
    match second_person::is_ruled_at(&refund, &command.account, &command.by) {
        true => second_person::check_not_involved(&refund, &command.by)?,
        false => second_person::check_not_creator(&refund, &command.by)?,
    }
    let (of, target) = (account.configured.provider, refund.provider());
    if of != target {
        return Err(EngineError::AccountMismatch { account: command.account, of, target });
    }
    if account.configured.place.currency != refund.place.currency {
        let right = format!("must be an account in {}, as the refund is", refund.place.currency);
        return Err(EngineError::Invalid(vec![FieldViolation::new("account", right)]));
    }
    let reassign = Reassign {
        id: command.id,
        revision: refund.revision,
        to: account.destination(),
        related: account.related.clone(),
        reject_similar: true,
        evidence: command.evidence,
        actor: command.by.actor.clone(),
        now: core.clock.now(),
    };
    match core.ledger.reassign(reassign).await {
        Ok(reassigned) => {
            core.waiters.notify(&reassigned);
            account.dispatch_notify.notify_one();
            account.reconcile_notify.notify_one();
            Ok(reassigned)
        }
        Err(LedgerError::StaleRevision { present }) => Err(EngineError::EtagMismatch { present: present.etag() }),
        Err(error) => Err(visibility::conceal(&core, &command.by, error).await),
    }
}
