//! Which decisions about a refund are not for those who asked for it or approved it.

use crate::domain::authority::{Authority, JudgedRefund};
use crate::domain::ids::AccountName;
use crate::domain::limits;
use crate::domain::refund::Refund;
use crate::engine::error::EngineError;

/// Refuses the owner who asked for the refund: once the access file has any rule about approvals,
/// no one resolves or reassigns a refund of their own.
///
/// # Errors
/// [`EngineError::OwnRefund`]
pub(super) fn check_not_creator(refund: &Refund, by: &Authority) -> Result<(), EngineError> {
    let is_own = !by.rules.approvals.is_empty() && is_creator(refund, by);
    if is_own { Err(EngineError::OwnRefund) } else { Ok(()) }
}

/// As [`check_not_creator`], and refuses to those who approved the refund: it is to be sent another
/// time, or elsewhere, and they are not a second person for that.
///
/// # Errors
/// [`EngineError::OwnRefund`]
pub(super) fn check_not_involved(refund: &Refund, by: &Authority) -> Result<(), EngineError> {
    check_not_creator(refund, by)?;
    let is_involved = refund.approval.as_ref().is_some_and(|approval| approval.involves(by.owner()));
    if is_involved { Err(EngineError::OwnRefund) } else { Ok(()) }
}

/// Whether the caller may be the second person of a refund that waits for an approval.
///
/// # Errors
/// [`EngineError::OwnRefund`], also without an access file: who cannot be told from the creator is
/// no second person. [`EngineError::CreatorRevoked`]
pub(super) fn check_may_approve(refund: &Refund, by: &Authority) -> Result<(), EngineError> {
    let is_involved = refund.approval.as_ref().is_none_or(|approval| approval.involves(by.owner()));
    if !by.is_restricted() || is_involved || is_creator(refund, by) {
        return Err(EngineError::OwnRefund);
    }
    match &refund.created_by {
        Some(creator) if !by.rules.may_create(creator) => Err(EngineError::CreatorRevoked(creator.clone())),
        _ => Ok(()),
    }
}

/// Whether a rule would ask for an approval of this refund at another account.
pub(super) fn is_ruled_at(refund: &Refund, account: &AccountName, by: &Authority) -> bool {
    let (intent, currency) = (&refund.intent, refund.place.currency);
    let assumed = by.rules.accounts.get(account).and_then(|limits| limits.assumed_amount);
    let there = limits::counted_amount(&intent.target, intent.expected_amount, assumed, currency);
    let amount = there
        .zip(refund.counted_amount())
        .map(|(there, here)| if there.minor_units < here.minor_units { here } else { there });
    by.rules.approval_rule(&JudgedRefund { account, currency, amount, has_similar: false }).is_some()
}

/// The owner of that time and the present one: an access file that is edited later makes no one a
/// second person.
fn is_creator(refund: &Refund, by: &Authority) -> bool {
    let was = refund.approval.as_ref().is_some_and(|approval| approval.creator_owner == by.owner());
    was || refund.created_by.as_deref().is_some_and(|creator| by.rules.owner_of(creator) == by.owner())
}
