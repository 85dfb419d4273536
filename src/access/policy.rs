//! One access file, read and checked: the caller of each credential, and the rules about money.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::callers::Caller;
use super::certificate::{CertificateIdentity, CertificateName};
use super::credentials::{CallerIdentity, IdentifyError, InvalidCredential, ShownCredentials, UnixPeer};
use super::errors::{AccessError, AccessErrors};
use super::reader::{AccountMention, Problems};
use super::scope::Scope;
use super::token::{TokenHash, hex};
use super::{callers, rules};
use crate::domain::authority::{AccountSet, Actor, ApprovalRule, Authority, Rules};
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;

/// An access file without errors.
pub struct AccessPolicy {
    callers: BTreeMap<String, Caller>,
    rules: Arc<Rules>,
    /// The caller and the index of its token, by the first bytes of the token's hash.
    tokens: HashMap<u64, Vec<(String, usize)>>,
    certificates: BTreeMap<CertificateName, String>,
    unix_users: BTreeMap<u32, String>,
    unix_groups: BTreeMap<u32, String>,
    /// Accounts that callers may use, which need not be configured any more.
    used: Vec<AccountMention>,
    /// Accounts that rules are about, which must be.
    ruled: Vec<AccountMention>,
    warnings: Vec<String>,
    text: String,
    digest: [u8; 32],
}

const SECTIONS: [&str; 3] = ["callers", "accounts", "approvals"];

impl AccessPolicy {
    /// Reads an access file.
    ///
    /// # Errors
    /// Every wrong key with its line. If the text is not TOML, only that.
    pub fn parse(text: &str) -> Result<Self, AccessErrors> {
        let mut problems = Problems::new(text);
        let table = problems.parse(text)?;
        let (mut used, mut ruled) = (Vec::new(), Vec::new());
        let mut callers = BTreeMap::new();
        let mut rules = Rules::default();
        for section in problems.entries("", table.get_ref()) {
            match section.name {
                "callers" => callers = callers::read(&section, &mut problems, &mut used),
                "accounts" => rules.accounts = rules::accounts(&section, &mut problems, &mut ruled),
                "approvals" => rules.approvals = rules::approvals(&section, &mut problems, &mut ruled),
                _ => problems.unknown_key(&section, &SECTIONS),
            }
        }
        if callers.is_empty() {
            problems
                .error_of_file("names no caller, so no call would be allowed: add a section such as [callers.shop]");
        }
        problems.finish()?;
        rules.callers = callers.iter().map(|(name, caller)| (name.clone(), caller.rules.clone())).collect();
        let warnings = warnings(&callers, &rules.approvals);
        let digest = Sha256::digest(text.as_bytes()).into();
        let mut policy = Self {
            callers: BTreeMap::new(),
            rules: Arc::new(rules),
            tokens: HashMap::new(),
            certificates: BTreeMap::new(),
            unix_users: BTreeMap::new(),
            unix_groups: BTreeMap::new(),
            used,
            ruled,
            warnings,
            text: text.to_owned(),
            digest,
        };
        for (name, caller) in callers {
            policy.index(&caller);
            policy.callers.insert(name, caller);
        }
        Ok(policy)
    }

    /// Compares the accounts that the file names with the configured ones.
    ///
    /// # Errors
    /// A limit or a rule about an account that is not configured: it would limit nothing.
    pub fn check_accounts(&self, configured: &BTreeSet<AccountName>) -> Result<(), AccessErrors> {
        let unknown = self.ruled.iter().filter(|mention| !configured.contains(&mention.account));
        let error = |mention: &AccountMention| AccessError {
            key: mention.path.clone(),
            sentence: "names an account that is not configured, so the rule would limit nothing".to_owned(),
            line: mention.line,
        };
        let errors: Vec<AccessError> = unknown.map(error).collect();
        if errors.is_empty() { Ok(()) } else { Err(AccessErrors::new(errors)) }
    }

    /// What is allowed but unwise: one sentence each, with its line. A caller may keep an account
    /// that is not configured any more, to read its refunds.
    pub fn warnings(&self, configured: Option<&BTreeSet<AccountName>>) -> Vec<String> {
        let unknown = |mention: &&AccountMention| configured.is_some_and(|known| !known.contains(&mention.account));
        let unknown = self.used.iter().filter(unknown);
        let sentence = |mention: &AccountMention| {
            format!("line {}: {}: names an account that is not configured", mention.line, mention.path)
        };
        self.warnings.iter().cloned().chain(unknown.map(sentence)).collect()
    }

    /// The rules about money.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// By name.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.callers.values()
    }

    pub fn caller(&self, name: &str) -> Option<&Caller> {
        self.callers.get(name)
    }

    /// The file's text, as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of the text, as hex digits.
    pub fn digest(&self) -> String {
        hex(&self.digest)
    }

    /// What events say about the file that allowed them: the first 8 digits of the digest.
    pub fn name(&self) -> String {
        hex(self.digest.first_chunk::<4>().unwrap_or(&[0; 4]))
    }

    /// The caller that the credentials prove. Whatever a call shows must be the same caller's; who
    /// is at the other end of a unix socket counts only where nothing else is shown.
    ///
    /// # Errors
    /// [`IdentifyError`]
    pub fn identify(&self, shown: &ShownCredentials, now: Timestamp) -> Result<CallerIdentity, IdentifyError> {
        use InvalidCredential::{Contradictory, Unknown};
        let token = shown.token.as_ref().map(|hash| self.by_token(hash, now)).transpose();
        let token = token.map_err(IdentifyError::Invalid)?;
        let certificate = shown.certificate.as_ref();
        let certificate = certificate.map(|identity| self.by_certificate(identity).ok_or(Unknown)).transpose();
        let certificate = certificate.map_err(IdentifyError::Invalid)?;
        match (token, certificate) {
            (None, None) => {
                let peer = shown.peer.ok_or(IdentifyError::Missing)?;
                self.by_peer(peer).ok_or(IdentifyError::Invalid(Unknown))
            }
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (Some(token), Some(certificate)) if token.caller == certificate.caller => Ok(token),
            (Some(_), Some(_)) => Err(IdentifyError::Invalid(Contradictory)),
        }
    }

    /// The right of a caller to act under this file.
    pub fn authority(&self, identity: CallerIdentity) -> Authority {
        let CallerIdentity { caller, credential } = identity;
        let actor = Actor { name: caller, credential: Some(credential), policy: Some(self.name()) };
        Authority { actor, rules: self.rules.clone() }
    }

    fn by_token(&self, hash: &TokenHash, now: Timestamp) -> Result<CallerIdentity, InvalidCredential> {
        let candidates = self.tokens.get(&hash.prefix()).map(Vec::as_slice).unwrap_or_default();
        let mut tokens = candidates.iter().filter_map(|(caller, index)| {
            let token = self.callers.get(caller)?.tokens.get(*index)?;
            Some((caller, token))
        });
        let (caller, token) = tokens.find(|(_, token)| token.hash.matches(hash)).ok_or(InvalidCredential::Unknown)?;
        if token.expires.is_some_and(|expires| expires <= now) {
            return Err(InvalidCredential::Expired);
        }
        Ok(CallerIdentity { caller: caller.clone(), credential: format!("token:{}", token.id) })
    }

    /// None if its names are those of no caller, or of two.
    fn by_certificate(&self, identity: &CertificateIdentity) -> Option<CallerIdentity> {
        let callers: BTreeSet<&String> =
            identity.names().iter().filter_map(|name| self.certificates.get(name)).collect();
        let mut callers = callers.into_iter();
        match (callers.next(), callers.next()) {
            (Some(caller), None) => Some(CallerIdentity { caller: caller.clone(), credential: identity.credential() }),
            _ => None,
        }
    }

    fn by_peer(&self, peer: UnixPeer) -> Option<CallerIdentity> {
        let caller = self.unix_users.get(&peer.uid).or_else(|| self.unix_groups.get(&peer.gid))?;
        Some(CallerIdentity { caller: caller.clone(), credential: peer.credential() })
    }

    fn index(&mut self, caller: &Caller) {
        for (index, token) in caller.tokens.iter().enumerate() {
            self.tokens.entry(token.hash.prefix()).or_default().push((caller.name.clone(), index));
        }
        let name = || caller.name.clone();
        self.certificates.extend(caller.certificates.iter().map(|certificate| (certificate.clone(), name())));
        self.unix_users.extend(caller.unix_users.iter().map(|uid| (*uid, name())));
        self.unix_groups.extend(caller.unix_groups.iter().map(|gid| (*gid, name())));
    }
}

impl fmt::Debug for AccessPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessPolicy({})", self.name())
    }
}

fn warnings(callers: &BTreeMap<String, Caller>, approvals: &[ApprovalRule]) -> Vec<String> {
    let mut warnings = Vec::new();
    for caller in callers.values() {
        let has_credential = !(caller.tokens.is_empty()
            && caller.certificates.is_empty()
            && caller.unix_users.is_empty()
            && caller.unix_groups.is_empty());
        if !has_credential {
            warnings.push(format!("callers.{}: has no credential, so it cannot call", caller.name));
        }
        if matches!(&caller.rules.accounts, AccountSet::Named(names) if names.is_empty()) {
            warnings
                .push(format!("callers.{}: names no accounts, so it sees no refund; [\"*\"] names all", caller.name));
        }
    }
    for rule in approvals {
        let needed = usize::try_from(rule.needed).unwrap_or(usize::MAX);
        let approvers = callers.values().filter(|caller| caller.scopes.contains(&Scope::RefundsApprove));
        let owners: BTreeSet<&str> = approvers.map(|caller| caller.rules.owner.as_str()).collect();
        let creators = callers.values().filter(|caller| caller.rules.may_create);
        let creators: BTreeSet<&str> = creators.map(|caller| caller.rules.owner.as_str()).collect();
        let stuck: Vec<&str> = creators
            .into_iter()
            .filter(|creator| owners.iter().filter(|owner| *owner != creator).count() < needed)
            .collect();
        if !stuck.is_empty() {
            warnings.push(format!(
                "approvals.{}: needs {needed} owners besides the creator's with the scope refunds:approve, and there are \
                 fewer for refunds of {}",
                rule.name,
                stuck.join(", ")
            ));
        }
    }
    warnings
}
