//! Compares where refunds belong with the configuration: which wait for their account, and how they
//! go on.
//!
//! ```text
//! recorded at a place --> the account is still there            sent, looked up
//!                     --> gone, or provider, host, login,
//!                         currency differ                       waits: neither sent nor looked up
//!                           --> `former` names the old place    moved here once, at the start
//!                           --> ReassignRefund                  moved by a person
//! ```
//!
//! A refund that was attempted before it moved to another host or login is only looked up from then
//! on, never sent again.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tracing::{info, warn};

use crate::domain::clock::{Clock as _, Timestamp};
use crate::domain::ids::AccountName;
use crate::domain::refund::Refund;
use crate::domain::state::State;
use crate::domain::target::FieldFault;
use crate::engine::{AccountHealth, EngineError, ReassignCommand, Shared, WaitingFor};
use crate::ledger::{GATEWAY, Ledger, LedgerError, Listed, OpenRefunds, Reassign, RelatedLogins};
use crate::providers::{Account, Accounts};

/// Refunds that a start moves concurrently, so that they share commits.
const MOVE_BATCH: usize = 64;
/// Refunds in one read of the ledger.
const PAGE: u32 = 1_000;
/// At most this many refunds that could not be moved are logged, one line each.
const MAX_NAMED: usize = 100;

/// Start-up: moves refunds from the former places that the configuration names, and logs how many
/// wait for their account.
pub(super) async fn take_up(ledger: &dyn Ledger, accounts: &Accounts, now: Timestamp) -> Result<(), LedgerError> {
    for open in ledger.open_refunds().await? {
        if let (Some(StartEffect::Moves), Some(account)) =
            (start_effect(accounts, &open), accounts.get(&open.at.account))
        {
            move_here(ledger, accounts, account, &open, now).await?;
        }
    }
    let configured = accounts.iter().map(|account| (account.provider, account.destination())).collect();
    for open in ledger.note_places(configured, now).await? {
        let OpenRefunds { at, count: refunds, .. } = &open;
        let differing = differing(accounts, &open).join(",");
        if !differing.is_empty() {
            warn!(
                account = %at.account, refunds, differing, endpoint = at.place.endpoint,
                "refunds wait for the account that they were recorded for: nothing of them is sent or looked up"
            );
        }
    }
    Ok(())
}

/// Moves the refunds of an account from an earlier place to its present one.
async fn move_here(
    ledger: &dyn Ledger,
    accounts: &Accounts,
    account: &Arc<Account>,
    open: &OpenRefunds,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let related = &related_logins_of(account, accounts);
    let (mut moved, mut left) = (0_u64, 0_usize);
    // Refunds that are yet to be sent go first: they are checked while those that they were
    // recorded beside are still at the former place.
    for to_be_sent in [true, false] {
        let mut after = 0;
        loop {
            let page = ledger.open_at(&open.at, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.ordinal;
            let page = page.into_iter().map(|Listed { refund, .. }| refund);
            let page = page.filter(|refund| (refund.state == State::Pending) == to_be_sent);
            let moves = page.map(|refund| async move {
                match ledger.reassign(reassign_to_present_place(account, related, &refund, now)).await {
                    Ok(_) => Ok(None),
                    Err(problem) if problem.is_conflict() => Ok(Some((refund, problem))),
                    Err(error) => Err(error),
                }
            });
            let mut moves = stream::iter(moves).buffered(MOVE_BATCH);
            while let Some(done) = moves.next().await {
                let Some((refund, problem)) = done? else {
                    moved += 1;
                    continue;
                };
                left += 1;
                if left <= MAX_NAMED {
                    let (account, state) = (&refund.account, refund.state.as_str());
                    warn!(
                        refund = %refund.id(), %account, state, %problem,
                        "the refund stays at its former place and goes on waiting: another one stands in its way"
                    );
                }
            }
        }
    }
    let (account, endpoint) = (&account.name, &open.at.place.endpoint);
    info!(%account, endpoint, moved, left, "refunds of a former place go on at the account's present one");
    Ok(())
}

/// What a start does with refunds whose account has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartEffect {
    /// The configuration names their place as a former one: they go on at the present one.
    Moves,
    /// They wait: the account is gone, or differs in these of `differing_fields`.
    Waits(Vec<&'static str>),
}

/// What a start with these accounts does with refunds at one account and place. None: they are
/// where their account is.
pub fn start_effect(accounts: &Accounts, open: &OpenRefunds) -> Option<StartEffect> {
    let differing = differing(accounts, open);
    let account = accounts.get(&open.at.account);
    match differing.is_empty() {
        true => None,
        false if account.is_some_and(|account| account.was_at(open.provider, &open.at.place)) => {
            Some(StartEffect::Moves)
        }
        false => Some(StartEffect::Waits(differing)),
    }
}

/// The move of a refund to the account whose configuration names the refund's place as a former
/// one.
pub fn reassign_to_present_place(
    account: &Account,
    related: &RelatedLogins,
    refund: &Refund,
    now: Timestamp,
) -> Reassign {
    Reassign {
        id: refund.id().clone(),
        revision: refund.revision,
        to: account.destination(),
        related: related.clone(),
        // Only a refund that is yet to be sent can pay twice.
        judge_similar: refund.state == State::Pending,
        evidence: "the configuration names its former place".to_owned(),
        actor: GATEWAY.to_owned(),
        now,
    }
}

/// Whether refunds are where a configured account is.
pub(super) fn is_configured(accounts: &Accounts, open: &OpenRefunds) -> bool {
    differing(accounts, open).is_empty()
}

/// The settings in which the configured account differs from the refunds' place, named as in
/// `differing_fields`.
fn differing(accounts: &Accounts, open: &OpenRefunds) -> Vec<&'static str> {
    match accounts.get(&open.at.account) {
        Some(account) => {
            let provider = (account.provider != open.provider).then_some("provider");
            provider.into_iter().chain(account.place.differing_fields(&open.at.place)).collect()
        }
        None => vec!["account"],
    }
}

/// Further accounts and logins whose reservations count for an account.
pub fn related_logins_of(account: &Account, accounts: &Accounts) -> RelatedLogins {
    let same_login: Vec<&Arc<Account>> =
        accounts.iter().filter(|other| other.place.login == account.place.login).collect();
    let former = same_login.iter().flat_map(|other| &other.former).map(|place| place.login.clone());
    RelatedLogins {
        accounts: same_login.iter().map(|other| other.name.clone()).collect::<Vec<AccountName>>().into(),
        former_logins: former.filter(|login| *login != account.place.login).collect::<Vec<String>>().into(),
    }
}

/// See [`crate::engine::Engine::reassign`].
pub(super) async fn reassign(shared: Arc<Shared>, command: ReassignCommand) -> Result<Refund, EngineError> {
    let refund = shared.get(&command.id).await?;
    if command.etag != refund.etag() {
        return Err(EngineError::EtagMismatch { present: refund.etag() });
    }
    let is_open = refund.state == State::Pending || refund.state.is_in_question();
    if !is_open || shared.lane_of(&refund).is_ok() {
        return Err(EngineError::NotReassignable(refund.state));
    }
    let lane = shared.lanes.get(&command.account).cloned();
    let lane = lane.ok_or_else(|| EngineError::AccountNotFound(command.account.clone()))?;
    let (of, target) = (lane.account.provider, refund.provider());
    if of != target {
        return Err(EngineError::AccountMismatch { account: command.account, of, target });
    }
    if lane.account.place.currency != refund.place.currency {
        let right = format!("must be an account in {}, as the refund is", refund.place.currency);
        return Err(EngineError::Invalid(vec![FieldFault::new("account", right)]));
    }
    let reassign = Reassign {
        id: command.id,
        revision: refund.revision,
        to: lane.account.destination(),
        related: lane.related.clone(),
        judge_similar: true,
        evidence: command.evidence,
        actor: command.actor,
        now: shared.clock.now(),
    };
    match shared.ledger.reassign(reassign).await {
        Ok(reassigned) => {
            shared.waiters.tell(&reassigned);
            lane.bell.notify_one();
            lane.settle_bell.notify_one();
            Ok(reassigned)
        }
        Err(LedgerError::StaleRevision { present }) => Err(EngineError::EtagMismatch { present: present.etag() }),
        Err(error) => Err(error.into()),
    }
}

/// See [`crate::engine::Engine::waiting_for`].
pub(super) fn waiting_for(shared: &Shared, refund: &Refund) -> Option<WaitingFor> {
    if refund.state != State::Pending && !refund.state.is_in_question() {
        return None;
    }
    let Ok(lane) = shared.lane_of(refund) else { return Some(WaitingFor::Account) };
    let suspended = match lane.health() {
        AccountHealth::Serving => None,
        AccountHealth::Suspended => Some(WaitingFor::Provider),
        AccountHealth::CredentialsRefused => Some(WaitingFor::Credentials),
    };
    match refund.state {
        State::Pending if suspended.is_some() => suspended,
        State::Pending if refund.not_before.is_some_and(|at| at > shared.clock.now()) => Some(WaitingFor::Backoff),
        State::Pending => Some(WaitingFor::Turn),
        // Lookups continue while an account is suspended, so the refund waits only if its last one
        // had no answer.
        State::InDoubt | State::Submitted if refund.unheard => suspended,
        _ => None,
    }
}

/// How much of the wait since `since` does not count towards expiry.
pub(super) fn stood_still(standstills: &[(Timestamp, Timestamp)], since: Timestamp) -> std::time::Duration {
    standstills.iter().map(|(begin, end)| end.since((*begin).max(since))).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::before_it_was_recorded(500, 0)]
    #[case::all_of_it(100, 100)]
    #[case::from_its_middle(250, 50)]
    fn expiry_stands_still_while_the_account_is_another(#[case] since: i64, #[case] seconds: u64) {
        let at = Timestamp::from_seconds;
        assert_eq!(stood_still(&[(at(200), at(300))], at(since)), Duration::from_secs(seconds));
    }
}
