//! Compares the configuration that a gateway runs with to a later reading of it.
//!
//! A running gateway applies the log filter and the secrets from files. Everything else takes a
//! restart.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::accounts::{SECRETS, SecretFile};
use crate::domain::ids::AccountName;

use super::Settings;

/// The settings as texts by key, without defaults. No secret is among them: secrets have files and
/// variables of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(pub(super) BTreeMap<String, String>);

/// The part of the settings that a running gateway compares and applies.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// Everything that is set.
    pub entries: Entries,
    /// Which events are logged.
    pub filter: String,
    /// The accounts whose secret comes from a file.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
}

/// What a later reading of the configuration changes.
#[derive(Debug, Clone)]
pub struct Changes {
    /// Which events are logged from now on, where that has changed.
    pub filter: Option<String>,
    /// The files to read secrets from now on, all of them.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
    /// Keys that have changed and take a restart.
    pub need_a_restart: Vec<String>,
}

const FILTER: &str = "log.filter";

impl Reloadable {
    /// Of these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            entries: settings.entries.clone(),
            filter: settings.log.filter.clone(),
            secret_files: settings.secret_files.clone(),
        }
    }

    /// What follows from `newer`.
    ///
    /// An account whose other settings changed keeps its present file: the new secret may belong to
    /// the new login or host.
    pub fn changes_to(&self, newer: &Reloadable) -> Changes {
        let need_a_restart = self.entries.changed(&newer.entries);
        let is_untouched = |account: &AccountName| {
            let prefix = format!("accounts.{account}.");
            !need_a_restart.iter().any(|key| key.starts_with(&prefix))
        };
        let file_of = |(account, running): (&AccountName, &SecretFile)| {
            let file = newer.secret_files.get(account).filter(|_| is_untouched(account)).unwrap_or(running);
            (account.clone(), file.clone())
        };
        Changes {
            filter: (self.filter != newer.filter).then(|| newer.filter.clone()),
            secret_files: self.secret_files.iter().map(file_of).collect(),
            need_a_restart,
        }
    }
}

impl Entries {
    /// The keys that take a restart and whose value differs in `newer`, or that only one of the two
    /// sets.
    fn changed(&self, newer: &Entries) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(newer.0.keys()).collect();
        let is_changed = |key: &&&String| match (self.0.get(**key), newer.0.get(**key)) {
            (Some(_), Some(_)) if is_secret_file(key) => false,
            (before, after) => before != after && key.as_str() != FILTER,
        };
        keys.iter().filter(is_changed).map(|key| (*key).clone()).collect()
    }
}

fn is_secret_file(key: &str) -> bool {
    let last = key.rsplit_once('.').map_or(key, |(_, last)| last);
    last.strip_suffix("_file").is_some_and(|stem| SECRETS.contains(&stem))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;

    const BASE: &str = "listen = \"127.0.0.1:0\"\nlog.filter = \"info\"\nengine.circuit_failures = 3\n\
                        [accounts.one]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"A\"\n\
                        [accounts.two]\nprovider = \"namecom\"\nusername = \"v\"\ntoken_env = \"RECOUP_TWO\"\n";

    fn read(dir: &Path, text: &str, variables: &[(&str, &str)]) -> Reloadable {
        for name in ["a", "b"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        let quoted = |name: &str| format!("\"{}\"", dir.join(name).display());
        let text = text.replace("\"A\"", &quoted("a")).replace("\"B\"", &quoted("b"));
        let path = dir.join("recoup.toml");
        std::fs::write(&path, text).unwrap();
        let secret = [("RECOUP_TWO", "t0p-secret")];
        let variables =
            variables.iter().chain(&secret).map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Reloadable::of(&Settings::load(Some(&path), variables).unwrap())
    }

    /// The filter, the file of account `one`, and what takes a restart.
    #[rstest::rstest]
    #[case::nothing("", "", &[], None, "a", &[])]
    #[case::order_and_form("circuit_failures = 3", "circuit_failures = 0x3", &[], None, "a", &[])]
    #[case::a_variable_with_the_same("", "", &[("RECOUP_ENGINE__CIRCUIT_FAILURES", "3")], None, "a", &[])]
    #[case::a_variable("", "", &[("RECOUP_ENGINE__CIRCUIT_FAILURES", "4")], None, "a", &["engine.circuit_failures"])]
    #[case::the_filter("\"info\"", "\"debug\"", &[], Some("debug"), "a", &[])]
    #[case::no_filter("log.filter = \"info\"\n", "", &[], None, "a", &[])]
    #[case::another_file("\"A\"", "\"B\"", &[], None, "b", &[])]
    #[case::another_login("\"u\"", "\"w\"", &[], None, "a", &["accounts.one.username"])]
    #[case::another_login_and_its_file("\"u\"\ntoken_file = \"A\"", "\"w\"\ntoken_file = \"B\"", &[], None, "a", &["accounts.one.username"])]
    #[case::another_file_and_something_else(
        "circuit_failures = 3\n[accounts.one]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"A\"",
        "circuit_failures = 5\n[accounts.one]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"B\"",
        &[], None, "b", &["engine.circuit_failures"]
    )]
    #[case::from_a_file_to_a_variable("token_file = \"A\"", "token_env = \"RECOUP_TWO\"", &[], None, "a",
        &["accounts.one.token_env", "accounts.one.token_file"])]
    #[case::a_key_more("[accounts.one]", "server.drain_ms = 5\n[accounts.one]", &[], None, "a", &["server.drain_ms"])]
    #[case::a_key_less("engine.circuit_failures = 3\n", "", &[], None, "a", &["engine.circuit_failures"])]
    fn what_follows_from_another_reading(
        #[case] before: &str,
        #[case] after: &str,
        #[case] variables: &[(&str, &str)],
        #[case] filter: Option<&str>,
        #[case] file: &str,
        #[case] need_a_restart: &[&str],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let running = read(dir.path(), BASE, &[]);
        let changes = running.changes_to(&read(dir.path(), &BASE.replacen(before, after, 1), variables));
        assert_eq!(changes.filter.as_deref(), filter);
        let one = AccountName::parse("one").unwrap();
        assert_eq!(changes.secret_files[&one].path(), dir.path().join(file));
        assert_eq!(changes.need_a_restart, need_a_restart);
    }

    #[test]
    fn no_secret_is_among_what_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{:?}", read(dir.path(), BASE, &[]));
        assert!(text.contains("accounts.two.token_env") && !text.contains("t0p-secret"), "{text}");
    }
}
