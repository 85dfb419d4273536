//! `[callers.NAME]`: who may call, by which credentials, how much and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::certificate::CertificateName;
use super::reader::{AccountMention, FileValue, Problems};
use super::scope::{Requirement, Scope};
use super::token::TokenHash;
use crate::domain::authority::{ANY_CALLER, AccountSet, CallerLimits, CallerRules, GATEWAY};
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;

/// One caller of the access file.
pub struct Caller {
    pub name: String,
    pub scopes: BTreeSet<Scope>,
    pub rate: CallerRate,
    pub(super) rules: CallerRules,
    pub(super) tokens: Vec<TokenEntry>,
    pub(super) certificates: Vec<CertificateName>,
    pub(super) unix_users: Vec<u32>,
    pub(super) unix_groups: Vec<u32>,
}

/// How much of the port one caller may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerRate {
    pub calls_per_second: u32,
    /// Calls at once after a pause.
    pub burst: u32,
    pub calls_at_once: u32,
    /// Calls that only wait for a refund.
    pub waits: u32,
    pub event_streams: u32,
    /// WatchValidationStatus streams.
    pub watches: u32,
    pub reconciles_per_minute: u32,
}

/// One token of a caller.
pub(super) struct TokenEntry {
    pub(super) id: String,
    pub(super) hash: TokenHash,
    pub(super) expires: Option<Timestamp>,
}

/// Enough to rotate: the old, the new, and two more.
const MAX_TOKENS: usize = 4;
const MAX_ID_CHARS: usize = 63;
const CALLER_KEYS: [&str; 9] =
    ["owner", "scopes", "accounts", "certificates", "tokens", "unix_users", "unix_groups", "rate", "limits"];
const RATE_KEYS: [&str; 7] =
    ["calls_per_second", "burst", "calls_at_once", "waits", "event_streams", "watches", "reconciles_per_minute"];

impl Default for CallerRate {
    fn default() -> Self {
        Self {
            calls_per_second: 50,
            burst: 100,
            calls_at_once: 64,
            waits: 1024,
            event_streams: 16,
            watches: 100,
            reconciles_per_minute: 60,
        }
    }
}

impl CallerRate {
    /// The time in which one further call is earned.
    pub fn interval(self) -> Duration {
        Duration::from_secs(1) / self.calls_per_second.max(1)
    }
}

impl Caller {
    /// What the caller's rules about money are.
    pub fn rules(&self) -> &CallerRules {
        &self.rules
    }

    /// Whether the caller may call a method with this requirement.
    pub fn may(&self, requirement: Requirement) -> bool {
        match requirement {
            Requirement::Nothing | Requirement::Caller => true,
            Requirement::Scope(scope) => self.scopes.contains(&scope),
        }
    }
}

/// Reads `[callers]`. A faulty caller is read as far as possible, so that no error hides another.
pub(super) fn read(
    section: &FileValue<'_>,
    problems: &mut Problems,
    mentions: &mut Vec<AccountMention>,
) -> BTreeMap<String, Caller> {
    let mut callers = BTreeMap::new();
    let mut seen = Seen::default();
    for entry in section.table(problems) {
        if let Err(why) = parse_name(entry.name) {
            problems.error(&entry, format!("a caller's name {why}"));
        }
        let caller = caller(&entry, problems, mentions, &mut seen);
        callers.insert(caller.name.clone(), caller);
    }
    callers
}

/// The form of callers, owners and rules: that of account names. The history's own names for actors
/// are no callers.
///
/// # Errors
/// A sentence about the form.
pub fn parse_name(text: &str) -> Result<String, String> {
    if [GATEWAY, ANY_CALLER].contains(&text) {
        return Err(format!("must not be \"{GATEWAY}\" or \"{ANY_CALLER}\", which the history uses"));
    }
    AccountName::parse(text).map(|name| name.as_str().to_owned()).map_err(|why| why.to_string())
}

/// ShownCredentials that were read before, and the callers that have them.
#[derive(Default)]
struct Seen {
    tokens: BTreeMap<TokenHash, String>,
    certificates: BTreeMap<CertificateName, String>,
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

fn caller(
    entry: &FileValue<'_>,
    problems: &mut Problems,
    mentions: &mut Vec<AccountMention>,
    seen: &mut Seen,
) -> Caller {
    let mut caller = Caller {
        name: entry.name.to_owned(),
        scopes: BTreeSet::new(),
        rate: CallerRate::default(),
        rules: CallerRules {
            owner: entry.name.to_owned(),
            may_create: false,
            accounts: AccountSet::Named(BTreeSet::new()),
            limits: CallerLimits::default(),
        },
        tokens: Vec::new(),
        certificates: Vec::new(),
        unix_users: Vec::new(),
        unix_groups: Vec::new(),
    };
    for value in entry.table(problems) {
        match value.name {
            "owner" => {
                if let Some(owner) = value.parsed(problems, parse_name) {
                    caller.rules.owner = owner;
                }
            }
            "scopes" => caller.scopes = scopes(&value, problems),
            "accounts" => caller.rules.accounts = value.accounts(problems, mentions),
            "certificates" => {
                for item in value.array(problems) {
                    if let Some(name) = certificate(&item, problems) {
                        note(&mut seen.certificates, name.clone(), &caller.name, &item, problems);
                        caller.certificates.push(name);
                    }
                }
            }
            "tokens" => caller.tokens = tokens(&value, &caller.name, problems, seen),
            "unix_users" => caller.unix_users = ids(&value, &caller.name, problems, &mut seen.users),
            "unix_groups" => caller.unix_groups = ids(&value, &caller.name, problems, &mut seen.groups),
            "rate" => caller.rate = rate(&value, problems),
            "limits" => caller.rules.limits = limits(&value, problems),
            _ => problems.unknown_key(&value, &CALLER_KEYS),
        }
    }
    caller.rules.may_create = caller.scopes.contains(&Scope::RefundsCreate);
    caller
}

/// Records who has a credential. Each names one caller.
fn note<C: Ord>(
    seen: &mut BTreeMap<C, String>,
    credential: C,
    caller: &str,
    at: &FileValue<'_>,
    problems: &mut Problems,
) {
    if let Some(other) = seen.insert(credential, caller.to_owned()) {
        problems.error(at, format!("is already a credential of the caller \"{}\"", other.escape_debug()));
    }
}

fn scopes(value: &FileValue<'_>, problems: &mut Problems) -> BTreeSet<Scope> {
    let mut scopes = BTreeSet::new();
    for item in value.array(problems) {
        let names = || Scope::ALL.map(Scope::as_str).join(", ");
        let scope = item
            .parsed(problems, |text| Scope::parse(text).ok_or_else(|| format!("is no scope; there are {}", names())));
        if scope.is_some_and(|scope| !scopes.insert(scope)) {
            problems.error(&item, "is named twice");
        }
    }
    scopes
}

/// `{ spiffe = "..." }` or `{ dns = "..." }`.
fn certificate(item: &FileValue<'_>, problems: &mut Problems) -> Option<CertificateName> {
    let mut names = Vec::new();
    let values = item.table(problems);
    for value in &values {
        let name = match value.name {
            "spiffe" => value.parsed(problems, CertificateName::parse_spiffe),
            "dns" => value.parsed(problems, CertificateName::parse_dns),
            _ => {
                problems.unknown_key(value, &["spiffe", "dns"]);
                None
            }
        };
        names.extend(name);
    }
    if values.len() != 1 {
        problems.error(item, "must have either spiffe or dns");
        return None;
    }
    names.pop()
}

/// `[{ id = "2026-11", sha256 = "9f86d0...", expires = "2027-02-01T00:00:00Z" }]`
fn tokens(value: &FileValue<'_>, caller: &str, problems: &mut Problems, seen: &mut Seen) -> Vec<TokenEntry> {
    let mut tokens: Vec<TokenEntry> = Vec::new();
    let items = value.array(problems);
    if items.len() > MAX_TOKENS {
        problems.error(value, format!("has more than {MAX_TOKENS} tokens"));
    }
    for item in items {
        let (mut id, mut hash, mut expires, mut names) = (None, None, None, BTreeSet::new());
        for value in item.table(problems) {
            names.insert(value.name);
            match value.name {
                "id" => {
                    id = value.parsed(problems, parse_token_id);
                    if id.as_ref().is_some_and(|id| tokens.iter().any(|token| token.id == *id)) {
                        problems.error(&value, "is the id of another token of this caller");
                    }
                }
                "sha256" => {
                    hash = value.parsed(problems, |text| {
                        TokenHash::from_hex(text)
                            .ok_or("must be the SHA-256 of a token: 64 of 0-9 and a-f, as `recoup token new` prints it")
                    });
                    if let Some(hash) = hash {
                        note(&mut seen.tokens, hash, caller, &value, problems);
                    }
                }
                "expires" => expires = value.time(problems),
                _ => problems.unknown_key(&value, &["id", "sha256", "expires"]),
            }
        }
        for required in ["id", "sha256"].into_iter().filter(|required| !names.contains(required)) {
            problems.error(&item, format!("has no {required}"));
        }
        if let Some((id, hash)) = id.zip(hash) {
            tokens.push(TokenEntry { id, hash, expires });
        }
    }
    tokens
}

/// The form of a token's id.
///
/// # Errors
/// A sentence about the form.
pub fn parse_token_id(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_ID_CHARS).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'));
    fits.then(|| text.to_owned()).ok_or_else(|| format!("must be 1 to {MAX_ID_CHARS} of a-z 0-9 \"-\" \".\" \"_\""))
}

fn ids(value: &FileValue<'_>, caller: &str, problems: &mut Problems, seen: &mut BTreeMap<u32, String>) -> Vec<u32> {
    let mut ids = Vec::new();
    for item in value.array(problems) {
        // The last number means "no id" to the kernel.
        if let Some(id) = item.number::<u32>(problems, 0..=u64::from(u32::MAX) - 1) {
            note(seen, id, caller, &item, problems);
            ids.push(id);
        }
    }
    ids
}

fn rate(value: &FileValue<'_>, problems: &mut Problems) -> CallerRate {
    let mut rate = CallerRate::default();
    for value in value.table(problems) {
        let into = match value.name {
            "calls_per_second" => &mut rate.calls_per_second,
            "burst" => &mut rate.burst,
            "calls_at_once" => &mut rate.calls_at_once,
            "waits" => &mut rate.waits,
            "event_streams" => &mut rate.event_streams,
            "watches" => &mut rate.watches,
            "reconciles_per_minute" => &mut rate.reconciles_per_minute,
            _ => {
                problems.unknown_key(&value, &RATE_KEYS);
                continue;
            }
        };
        if let Some(number) = value.number(problems, 1..=100_000) {
            *into = number;
        }
    }
    rate
}

fn limits(value: &FileValue<'_>, problems: &mut Problems) -> CallerLimits {
    let mut limits = CallerLimits::default();
    for value in value.table(problems) {
        match value.name {
            "refund_max" => limits.refund_max = value.amounts(problems),
            "daily_max" => limits.daily_max = value.amounts(problems),
            "daily_count" => limits.daily_count = value.number(problems, 1..=1_000_000_000),
            _ => problems.unknown_key(&value, &["refund_max", "daily_max", "daily_count"]),
        }
    }
    limits
}
