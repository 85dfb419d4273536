//! ApproveRefund and RejectRefund: a second person's decision on a refund that waits for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::info;

use crate::domain::approval::Verdict;
use crate::domain::authority::Actor;
use crate::domain::event::Event;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::engine::commands::ApprovalCommand;
use crate::engine::core::EngineCore;
use crate::engine::error::EngineError;
use crate::engine::outcome_log::event_number;
use crate::engine::second_person;
use crate::ledger::{LedgerError, Recorded};

/// See [`crate::engine::Engine::decide_approval`].
pub(super) async fn decide(core: Arc<EngineCore>, command: ApprovalCommand) -> Result<Refund, EngineError> {
    loop {
        let refund = core.get_for(&command.by, &command.id).await?;
        let (event, actor) = match judge(&core, &refund, &command)? {
            DecisionStep::Repeated => return Ok(refund),
            DecisionStep::Record(event) => (*event, command.by.actor.clone()),
            // Late, and the gateway has not come to it yet.
            DecisionStep::Expire => (Event::Expired, Actor::gateway()),
        };
        match core.record(&refund, vec![event], None, &actor).await {
            Ok(recorded) if recorded.outcome.state == State::Failed => {
                return Err(EngineError::NotAwaitingApproval(State::Failed));
            }
            Ok(Recorded { outcome, sequence }) => {
                report(&core, &outcome, sequence);
                return Ok(outcome);
            }
            // It changed after it was read: judge again.
            Err(LedgerError::StaleRevision { .. }) => {}
            Err(LedgerError::IllegalTransition(refused)) => {
                return Err(EngineError::NotAwaitingApproval(refused.from));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a decision leads to.
enum DecisionStep {
    /// The same caller has decided the same before.
    Repeated,
    Record(Box<Event>),
    Expire,
}

/// Judges a decision on the refund at exactly this revision, which the ledger compares inside its
/// transaction.
fn judge(core: &EngineCore, refund: &Refund, command: &ApprovalCommand) -> Result<DecisionStep, EngineError> {
    let ApprovalCommand { etag, verdict, comment, by, .. } = command;
    let approval = refund.approval.as_ref().ok_or(EngineError::NotAwaitingApproval(refund.state))?;
    if by.is_restricted() && approval.repeats(&by.actor.name, *verdict) {
        return Ok(DecisionStep::Repeated);
    }
    // Before the etag: who lost a race learns that, and not that the refund has changed.
    if refund.state != State::AwaitingApproval {
        return Err(EngineError::NotAwaitingApproval(refund.state));
    }
    if *etag != refund.etag() {
        return Err(EngineError::EtagMismatch { present: refund.etag() });
    }
    if core.clock.confirmed_now().is_some_and(|now| approval.expire_time <= now) {
        return Ok(DecisionStep::Expire);
    }
    let (approver, comment) = (by.approver(), comment.clone());
    Ok(DecisionStep::Record(Box::new(match verdict {
        Verdict::Approved => {
            second_person::check_may_approve(refund, by)?;
            Event::Approved { by: approver, comment, is_last: approval.lacks_one() }
        }
        Verdict::Rejected => Event::Rejected { by: approver, comment },
    })))
}

fn report(core: &EngineCore, refund: &Refund, sequence: u64) {
    let (id, account, sequence) = (refund.id(), &refund.account, event_number(sequence));
    match refund.state {
        State::Cancelled => info!(refund = %id, %account, sequence, "the refund was rejected: it is CANCELLED"),
        State::Pending => {
            info!(refund = %id, %account, sequence, "the refund was approved: it is PENDING");
            // Where its account is gone or has changed, it waits for that.
            if let Ok(account) = core.account_of(refund) {
                account.has_backlog.store(true, Ordering::Release);
                account.dispatch_notify.notify_one();
            }
        }
        _ => info!(refund = %id, %account, sequence, "the refund was approved: it needs further approvals"),
    }
}
