//! `[accounts.NAME.limits]` and `[approvals.NAME]`: rules that are about all callers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::callers::parse_name;
use super::reader::{AccountMention, FileValue, Problems};
use crate::domain::authority::{AccountLimits, AccountSet, Amounts, ApprovalRule};
use crate::domain::ids::AccountName;

const APPROVAL_KEYS: [&str; 5] = ["accounts", "at_least", "similar", "needed", "expire_s"];
const MAX_NEEDED: u64 = 10;
const DEFAULT_EXPIRY: Duration = Duration::from_secs(24 * 3600);
const MAX_EXPIRY_S: u64 = 30 * 24 * 3600;

/// Reads `[accounts]`.
pub(super) fn accounts(
    section: &FileValue<'_>,
    problems: &mut Problems,
    mentions: &mut Vec<AccountMention>,
) -> BTreeMap<AccountName, AccountLimits> {
    let mut accounts = BTreeMap::new();
    for entry in section.table(problems) {
        let name = AccountName::parse(entry.name);
        if let Err(why) = &name {
            problems.error(&entry, format!("an account name {why}"));
        }
        let mut limits = AccountLimits::default();
        for value in entry.table(problems) {
            match value.name {
                "limits" => limits = account_limits(&value, problems),
                _ => problems.unknown_key(&value, &["limits"]),
            }
        }
        if let Ok(account) = name {
            mentions.push(AccountMention { account: account.clone(), path: entry.path.clone(), line: entry.line });
            accounts.insert(account, limits);
        }
    }
    accounts
}

/// Reads `[approvals]`.
pub(super) fn approvals(
    section: &FileValue<'_>,
    problems: &mut Problems,
    mentions: &mut Vec<AccountMention>,
) -> Vec<ApprovalRule> {
    section.table(problems).iter().map(|entry| approval(entry, problems, mentions)).collect()
}

fn account_limits(value: &FileValue<'_>, problems: &mut Problems) -> AccountLimits {
    let mut limits = AccountLimits::default();
    for value in value.table(problems) {
        match value.name {
            "daily_max" => limits.daily_max = value.amounts(problems),
            "daily_count" => limits.daily_count = value.number(problems, 1..=1_000_000_000),
            "assumed_amount" => limits.assumed_amount = value.amount(problems),
            _ => problems.unknown_key(&value, &["daily_count", "daily_max", "assumed_amount"]),
        }
    }
    limits
}

fn approval(entry: &FileValue<'_>, problems: &mut Problems, mentions: &mut Vec<AccountMention>) -> ApprovalRule {
    if let Err(why) = parse_name(entry.name) {
        problems.error(entry, format!("a rule's name {why}"));
    }
    let mut rule = ApprovalRule {
        name: entry.name.to_owned(),
        accounts: AccountSet::All,
        at_least: Amounts::new(),
        similar: false,
        needed: 1,
        expire_after: DEFAULT_EXPIRY,
    };
    let (mut has_accounts, mut has_condition) = (false, false);
    for value in entry.table(problems) {
        match value.name {
            "accounts" => {
                rule.accounts = value.accounts(problems, mentions);
                has_accounts = true;
            }
            "at_least" => {
                rule.at_least = value.amounts(problems);
                has_condition = true;
            }
            "similar" => {
                rule.similar = value.flag(problems).unwrap_or_default();
                has_condition |= rule.similar;
            }
            "needed" => rule.needed = value.number(problems, 1..=MAX_NEEDED).unwrap_or(1),
            "expire_s" => {
                if let Some(seconds) = value.number(problems, 60..=MAX_EXPIRY_S) {
                    rule.expire_after = Duration::from_secs(seconds);
                }
            }
            _ => problems.unknown_key(&value, &APPROVAL_KEYS),
        }
    }
    if !has_accounts {
        problems.error(entry, "has no accounts; [\"*\"] names all");
    } else if matches!(&rule.accounts, AccountSet::Named(names) if names.is_empty()) {
        problems.error(entry, "names no account, so it fits no refund");
    }
    if !has_condition {
        problems.error(entry, "has no condition: set at_least or similar = true");
    }
    rule
}
