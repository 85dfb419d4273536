//! Compares the configuration that a gateway runs with to a later read of it.
//!
//! A running gateway applies the log filter and the secrets from files. Everything else requires
//! a restart.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::accounts::{SECRETS, SecretFile};
use crate::domain::ids::AccountName;

use super::Settings;

/// The settings as text by key, without defaults. Contains no secret: secrets have files and
/// variables of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(pub(super) BTreeMap<String, String>);

/// The part of the settings that a running gateway compares and applies.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// All settings as text.
    pub entries: Entries,
    /// Selects the logged events.
    pub filter: String,
    /// The accounts whose secret comes from a file.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
}

/// Differences between the running configuration and a later read.
#[derive(Debug, Clone)]
pub struct ConfigChanges {
    /// The new log filter, if it has changed.
    pub filter: Option<String>,
    /// The file of every secret from now on, changed or not.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
    /// Changed keys that require a restart.
    pub require_restart: Vec<String>,
}

const FILTER_KEY: &str = "log.filter";

impl Reloadable {
    /// The reloadable part of `settings`.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            entries: settings.entries.clone(),
            filter: settings.telemetry.log_filter.clone(),
            secret_files: settings.secret_files.clone(),
        }
    }

    /// Changes from `self` to `newer`.
    ///
    /// An account whose other settings have changed keeps its present file: the new secret may
    /// belong to the new login or host.
    pub fn changes_to(&self, newer: &Reloadable) -> ConfigChanges {
        let require_restart = self.entries.changed(&newer.entries);
        let is_untouched = |account: &AccountName| {
            let prefix = format!("accounts.{account}.");
            !require_restart.iter().any(|key| key.starts_with(&prefix))
        };
        let file_of = |(account, running): (&AccountName, &SecretFile)| {
            let file = newer.secret_files.get(account).filter(|_| is_untouched(account)).unwrap_or(running);
            (account.clone(), file.clone())
        };
        ConfigChanges {
            filter: (self.filter != newer.filter).then(|| newer.filter.clone()),
            secret_files: self.secret_files.iter().map(file_of).collect(),
            require_restart,
        }
    }
}

impl Entries {
    /// Keys that require a restart and whose value differs in `newer`, or that only one of the two
    /// sets.
    fn changed(&self, newer: &Entries) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(newer.0.keys()).collect();
        let is_changed = |key: &&&String| match (self.0.get(**key), newer.0.get(**key)) {
            (Some(_), Some(_)) if is_secret_file(key) => false,
            (before, after) => before != after && key.as_str() != FILTER_KEY,
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
        Reloadable::from_settings(&Settings::load(Some(&path), variables).unwrap())
    }

    /// The filter, the file of account `one`, and the keys that require a restart.
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
    fn a_later_read_changes_the_filter_and_secret_files_and_reports_the_rest(
        #[case] before: &str,
        #[case] after: &str,
        #[case] variables: &[(&str, &str)],
        #[case] filter: Option<&str>,
        #[case] file: &str,
        #[case] require_restart: &[&str],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let running = read(dir.path(), BASE, &[]);
        let changes = running.changes_to(&read(dir.path(), &BASE.replacen(before, after, 1), variables));
        assert_eq!(changes.filter.as_deref(), filter);
        let one = AccountName::parse("one").unwrap();
        assert_eq!(changes.secret_files[&one].path(), dir.path().join(file));
        assert_eq!(changes.require_restart, require_restart);
    }

    #[test]
    fn the_compared_settings_contain_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{:?}", read(dir.path(), BASE, &[]));
        assert!(text.contains("accounts.two.token_env") && !text.contains("t0p-secret"), "{text}");
    }
}
