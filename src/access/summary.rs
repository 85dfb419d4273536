//! What `recoup access check` prints: what each caller may do, for people.

use super::callers::{Caller, TokenEntry};
use super::policy::AccessPolicy;
use super::scope::Scope;
use crate::domain::authority::{AccountLimits, AccountSet, Amounts, ApprovalRule};
use crate::domain::clock::Timestamp;
use crate::domain::money::Money;

impl AccessPolicy {
    /// What the file says, one line each, without anything that could be used to call.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = vec![format!("policy {}", self.name())];
        for caller in self.callers() {
            lines.push(String::new());
            lines.extend(caller_lines(caller));
        }
        let rules = self.rules();
        if !rules.accounts.is_empty() || !rules.approvals.is_empty() {
            lines.push(String::new());
        }
        for (account, limits) in &rules.accounts {
            lines.push(format!("account {account}: {}", account_limits(limits)));
        }
        lines.extend(rules.approvals.iter().map(approval));
        lines
    }
}

fn caller_lines(caller: &Caller) -> Vec<String> {
    let row = |name: &str, value: String| format!("  {name:<12}{value}");
    let Caller { name, scopes, rate, rules, .. } = caller;
    let mut lines = vec![format!("caller {name}")];
    if rules.owner != *name {
        lines.push(row("owner", rules.owner.clone()));
    }
    lines.push(row("accounts", account_set(&rules.accounts)));
    for scope in Scope::ALL.into_iter().filter(|scope| scopes.contains(scope)) {
        let methods: Vec<&str> = scope.methods().collect();
        let opens = if methods.is_empty() { "the upload token".to_owned() } else { methods.join(", ") };
        lines.push(format!("  {:<20}{opens}", scope.as_str()));
    }
    if scopes.is_empty() {
        lines.push(row("scopes", "none".to_owned()));
    }
    lines.extend(caller.tokens.iter().map(|token| row("token", token_text(token))));
    lines.extend(caller.certificates.iter().map(|name| row("certificate", name.to_string())));
    lines.extend(caller.unix_users.iter().map(|uid| row("unix user", uid.to_string())));
    lines.extend(caller.unix_groups.iter().map(|gid| row("unix group", gid.to_string())));
    let limits = &rules.limits;
    if !limits.refund_max.is_empty() {
        lines.push(row("one refund", format!("at most {}", amounts(&limits.refund_max))));
    }
    if !limits.daily_max.is_empty() {
        lines.push(row("24 hours", format!("at most {}", amounts(&limits.daily_max))));
    }
    if let Some(count) = limits.daily_count {
        lines.push(row("24 hours", format!("at most {count} refunds")));
    }
    lines.push(row(
        "rate",
        format!(
            "{} calls a second, {} after a pause, {} at once, {} waits, {} event streams, {} watches, {} reconciles a minute",
            rate.calls_per_second,
            rate.burst,
            rate.calls_at_once,
            rate.waits,
            rate.event_streams,
            rate.watches,
            rate.reconciles_per_minute
        ),
    ));
    lines
}

fn token_text(token: &TokenEntry) -> String {
    match token.expires {
        Some(expires) => format!("{}, until {}", token.id, time_text(expires)),
        None => format!("{}, without an end", token.id),
    }
}

fn time_text(time: Timestamp) -> String {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    let time = OffsetDateTime::from_unix_timestamp(time.as_micros() / 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "an unknown time".to_owned())
}

fn account_limits(limits: &AccountLimits) -> String {
    let mut parts = Vec::new();
    if !limits.daily_max.is_empty() {
        parts.push(format!("at most {} in 24 hours", amounts(&limits.daily_max)));
    }
    parts.extend(limits.daily_count.map(|count| format!("at most {count} refunds in 24 hours")));
    parts.extend(
        limits
            .assumed_amount
            .map(|amount| format!("an item without an amount counts {}.{:02}", amount / 100, amount % 100)),
    );
    if parts.is_empty() { "no limits".to_owned() } else { parts.join(", ") }
}

fn approval(rule: &ApprovalRule) -> String {
    let mut fits = Vec::new();
    if !rule.at_least.is_empty() {
        fits.push(format!("of at least {}", amounts(&rule.at_least)));
    }
    if rule.similar {
        fits.push("recorded although a similar one exists".to_owned());
    }
    format!(
        "approval {}: refunds of {}, {}, need {} other owners within {} s",
        rule.name,
        account_set(&rule.accounts),
        fits.join(" or "),
        rule.needed,
        rule.expire_after.as_secs()
    )
}

fn account_set(accounts: &AccountSet) -> String {
    match accounts {
        AccountSet::All => "all accounts".to_owned(),
        AccountSet::Named(names) if names.is_empty() => "none".to_owned(),
        AccountSet::Named(names) => names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn amounts(amounts: &Amounts) -> String {
    let amounts = amounts.iter().map(|(currency, amount)| Money { currency: *currency, minor_units: *amount });
    amounts.map(|amount| amount.to_string()).collect::<Vec<_>>().join(", ")
}
