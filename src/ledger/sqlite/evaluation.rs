//! What a new refund would lead to: the refund that has its id, a conflict, a limit, an approval,
//! or the refund as it would be recorded.

use rusqlite::Connection;

use super::failure::StepError;
use super::queries::{self, ConflictCheck, Similar};
use super::spending;
use crate::domain::authority::JudgedRefund;
use crate::domain::limits::{self, Claim};
use crate::domain::refund::Refund;
use crate::ledger::encoding::StoredRefund;
use crate::ledger::{self, CreateOutcome, LedgerError, NewRefund};

/// The result of `create` without recording anything: the refund as it would be, or the existing
/// one.
pub(super) fn evaluate_create(connection: &Connection, create: &NewRefund) -> Result<CreateOutcome, StepError> {
    let NewRefund { intent, place, related, allow_similar, by, now, .. } = create;
    if let Some(StoredRefund { refund, .. }) = queries::find_in_any_case(connection, &intent.id)? {
        return Ok(CreateOutcome::Known(ledger::match_existing(refund, intent)?));
    }
    let (target, login) = (&intent.target, place.login.as_str());
    let similar = if *allow_similar { Similar::Firm } else { Similar::Any };
    let check = ConflictCheck { target, login, related, similar, now: *now, itself: None };
    queries::check_conflicts(connection, &check)?;
    let limits = by.rules.accounts.get(&intent.account);
    let (currency, assumed) = (place.currency, limits.and_then(|limits| limits.assumed_amount));
    let amount = limits::counted_amount(target, intent.expected_amount, assumed, currency);
    spending::check(connection, create, &Claim { currency, amount })?;
    let has_similar = *allow_similar && by.rules.approvals.iter().any(|rule| rule.similar) && {
        match queries::check_conflicts(connection, &ConflictCheck { similar: Similar::Any, ..check }) {
            Err(StepError::Ledger(LedgerError::SimilarRefund { .. })) => true,
            checked => checked.map(|()| false)?,
        }
    };
    let judged = JudgedRefund { account: &intent.account, currency, amount, has_similar };
    let created = Refund {
        created_by: by.actor.created_by(),
        assumed_amount: amount.filter(|_| target.requested_amount().is_none()),
        ..Refund::new(intent.clone(), place.clone(), *now)
    };
    Ok(CreateOutcome::New(created.awaiting(by.approval_for(&judged, *now))))
}
