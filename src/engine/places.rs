//! Compares the places of refunds with the configured accounts: which refunds wait for their
//! account, and which a start moves.
//!
//! ```text
//! recorded at a place --> the account is still there            sent, looked up
//!                     --> gone, or provider, host, login,
//!                         currency differ                       waits: neither sent nor looked up
//!                           --> `former` names the old place    moved once, at start-up
//!                           --> ReassignRefund                  moved by a person
//! ```
//!
//! A refund that was attempted before it moved to another host or login is only looked up from then
//! on, never sent again.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tracing::{info, warn};

use crate::domain::authority::Actor;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::refund::Refund;
use crate::ledger::{Ledger, LedgerError, ListedRefund, OpenRefunds, Reassign, RelatedLogins};
use crate::providers::{Account, Accounts};

/// The number of refunds that are moved concurrently, so that they share commits.
const MOVE_BATCH: usize = 64;
/// The number of refunds in one read of the ledger.
const PAGE: u32 = 1_000;
/// The number of refunds that could not be moved and are logged, one line each.
const MAX_LOGGED: usize = 100;

/// Moves refunds from the former places that the configuration names to their accounts' present
/// places, and logs how many refunds wait for their account.
///
/// # Errors
/// Those of the ledger.
pub(super) async fn move_to_present(
    ledger: &dyn Ledger,
    accounts: &Accounts,
    now: Timestamp,
) -> Result<(), LedgerError> {
    for open in ledger.open_refunds().await? {
        if let (Some(StartEffect::Moves), Some(account)) =
            (start_effect(accounts, &open), accounts.get(&open.at.account))
        {
            move_refunds(ledger, accounts, account, &open, now).await?;
        }
    }
    let configured = accounts.iter().map(|account| (account.provider, account.destination())).collect();
    for open in ledger.note_places(configured, now).await? {
        let OpenRefunds { at, count: refunds, .. } = &open;
        let differing = differing(accounts, &open).join(",");
        if !differing.is_empty() {
            warn!(
                account = %at.account, refunds, differing, endpoint = at.place.endpoint,
                "refunds of an account that is gone or has changed are neither sent nor looked up"
            );
        }
    }
    Ok(())
}

/// Moves the refunds of an account from an earlier place to its present one.
async fn move_refunds(
    ledger: &dyn Ledger,
    accounts: &Accounts,
    account: &Arc<Account>,
    open: &OpenRefunds,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let related = &related_logins_of(account, accounts);
    let (mut moved, mut left) = (0_u64, 0_usize);
    // Refunds that are yet to be sent are moved first: each is checked for similar refunds while
    // those that it was recorded beside are still at the former place.
    for to_be_sent in [true, false] {
        let mut after = 0;
        loop {
            let page = ledger.open_at(&open.at, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.ordinal;
            let page = page.into_iter().map(|ListedRefund { refund, .. }| refund);
            let page = page.filter(|refund| refund.state.is_unsent() == to_be_sent);
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
                if left <= MAX_LOGGED {
                    let (account, state) = (&refund.account, refund.state.as_str());
                    warn!(
                        refund = %refund.id(), %account, state, %problem,
                        "could not move the refund to its account's present place: another refund conflicts, and it waits"
                    );
                }
            }
        }
    }
    let (account, endpoint) = (&account.name, &open.at.place.endpoint);
    info!(%account, endpoint, moved, left, "moved refunds from a former place to the account's present one");
    Ok(())
}

/// What a start does with refunds of a changed account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartEffect {
    /// It moves them to the present place: the configuration names theirs as a former one.
    Moves,
    /// They wait: the account is gone (`account`), or differs in these settings.
    Waits(Vec<&'static str>),
}

/// What a start with these accounts does with refunds at one account and place. None if they are
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

/// The request to the ledger that moves a refund to the account whose configuration names the
/// refund's place as a former one.
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
        // Only a refund that is yet to be sent can cause a double payment.
        reject_similar: refund.state.is_unsent(),
        evidence: "the configuration names its former place".to_owned(),
        actor: Actor::gateway(),
        now,
    }
}

/// Whether refunds are at the present place of a configured account.
pub(super) fn is_configured(accounts: &Accounts, open: &OpenRefunds) -> bool {
    differing(accounts, open).is_empty()
}

/// The settings in which the configured account differs from the refunds' place; `account` if it is
/// gone.
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
