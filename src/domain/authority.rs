//! Who acts, and under which rules about money.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::AccountName;
use crate::domain::money::Currency;
use crate::domain::refund::Refund;

/// Who caused an event, as the history records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `gateway`, a caller of the access file, or `caller` if there is no access file.
    pub name: String,
    /// What the caller showed: `token:2026-11`, `x509:9f2c41d07b3a55e8`, `uid:1001`. None for the
    /// gateway, and if there is no access file.
    pub credential: Option<String>,
    /// The access file that allowed it: the first 8 hex digits of its SHA-256.
    pub policy: Option<String>,
}

/// One caller's right to act, under the rules of one access file.
///
/// A call is judged by the file that was in force when the call was authenticated, however often
/// the file changes while the call runs.
#[derive(Debug, Clone)]
pub struct Authority {
    pub actor: Actor,
    pub rules: Arc<Rules>,
}

/// What an access file says about money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// By name. Empty without an access file: every caller may do everything.
    pub callers: BTreeMap<String, CallerRules>,
    /// Limits of all callers together.
    pub accounts: BTreeMap<AccountName, AccountLimits>,
    pub approvals: Vec<ApprovalRule>,
}

/// What the rules say about one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerRules {
    /// Callers of one owner are one person for approvals.
    pub owner: String,
    /// Whether the caller may still create refunds. One whose right is gone cannot have them
    /// approved.
    pub may_create: bool,
    pub accounts: AccountSet,
    pub limits: CallerLimits,
}

/// The accounts that a caller may use, or that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountSet {
    All,
    Named(BTreeSet<AccountName>),
}

/// Amounts in hundredths, by currency.
pub type Amounts = BTreeMap<Currency, i64>;

/// Limits of one caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallerLimits {
    /// The largest single refund. A currency that is missing here is refused, unless all are.
    pub refund_max: Amounts,
    /// The largest sum in any 24 hours. A currency that is missing here is refused, unless all are.
    pub daily_max: Amounts,
    /// How many refunds in any 24 hours.
    pub daily_count: Option<u64>,
}

/// Limits of one account, for all callers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// As [`CallerLimits::daily_max`].
    pub daily_max: Amounts,
    pub daily_count: Option<u64>,
    /// What one item counts, in hundredths of the account's currency, where the target names no
    /// amount.
    pub assumed_amount: Option<i64>,
}

/// A rule that asks for a second person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRule {
    pub name: String,
    pub accounts: AccountSet,
    /// The rule fits a refund of this amount or more. Empty: it fits by amount none.
    pub at_least: Amounts,
    /// The rule fits a refund that is recorded although a similar one exists.
    pub similar: bool,
    /// How many distinct owners must approve.
    pub needed: u32,
    /// How long the refund waits for them.
    pub expire_after: Duration,
}

/// The name of the gateway's own actor.
pub const GATEWAY: &str = "gateway";
/// The name of every caller if there is no access file.
pub const ANY_CALLER: &str = "caller";

impl Actor {
    /// The gateway itself.
    pub fn gateway() -> Self {
        Self::without_credential(GATEWAY)
    }

    fn without_credential(name: &str) -> Self {
        Self { name: name.to_owned(), credential: None, policy: None }
    }

    /// The caller's name, if callers are told apart.
    pub fn created_by(&self) -> Option<String> {
        self.policy.as_ref().map(|_| self.name.clone())
    }
}

impl Authority {
    /// The authority of every caller if there is no access file.
    pub fn unrestricted() -> Self {
        Self { actor: Actor::without_credential(ANY_CALLER), rules: Arc::default() }
    }

    /// Whether callers are told apart.
    pub fn is_restricted(&self) -> bool {
        !self.rules.callers.is_empty()
    }

    /// The rules about this caller. None if callers are not told apart.
    pub fn caller(&self) -> Option<&CallerRules> {
        self.rules.callers.get(&self.actor.name)
    }

    /// Who counts as one person with this caller.
    pub fn owner(&self) -> &str {
        self.caller().map_or(self.actor.name.as_str(), |caller| caller.owner.as_str())
    }

    /// Whether the caller may know of refunds of this account.
    pub fn sees(&self, account: &AccountName) -> bool {
        match self.caller() {
            Some(caller) => caller.accounts.contains(account),
            None => !self.is_restricted(),
        }
    }

    /// Whether the caller may know of this refund: by its present account, or by the one that it
    /// was asked for.
    pub fn sees_refund(&self, refund: &Refund) -> bool {
        self.sees(&refund.account) || self.sees(&refund.intent.account)
    }

    /// Whether the caller sees every refund, of whatever account.
    pub fn sees_all(&self) -> bool {
        match self.caller() {
            Some(caller) => caller.accounts == AccountSet::All,
            None => !self.is_restricted(),
        }
    }
}

impl AccountSet {
    pub fn contains(&self, account: &AccountName) -> bool {
        match self {
            AccountSet::All => true,
            AccountSet::Named(names) => names.contains(account),
        }
    }
}
