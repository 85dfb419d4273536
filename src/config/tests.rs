//! Every error has its key and source, all are reported together, none repeats a value, and the
//! reference file is complete.

use std::collections::BTreeSet;
use std::ffi::OsString;

use proptest::prelude::*;
use rstest::rstest;
use secrecy::ExposeSecret as _;

use super::*;
use crate::api::WebSettings;
use crate::providers::ProviderSettings;

const REFERENCE: &str = include_str!("../../docker/recoup.toml");
const SECRET: &str = "hunter2-canary";

const SECTIGO: &str = r#"
    [accounts.s]
    provider = "sectigo"
    login_name = "demo"
    login_password_env = "SECRET"
"#;
const NAMECOM: &str = r#"
    [accounts.n]
    provider = "namecom"
    username = "demo-test"
    token_env = "SECRET"
"#;
const DEBITSUCCESS: &str = r#"
    [accounts.d]
    provider = "debitsuccess"
    endpoint = "https://example.com"
    currency = "AUD"
    username = "demo"
    password_env = "SECRET"
"#;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
    let secret = [("SECRET", SECRET), ("EMPTY", ""), ("TWO_LINES", "a\nb"), ("LONG", LONG)];
    secret.iter().chain(pairs).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Longer than the longest allowed secret.
const LONG: &str = match std::str::from_utf8(&[b'x'; 256]) {
    Ok(text) => text,
    Err(_) => "",
};

fn read(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    Settings::read(Path::new("recoup.toml"), text, &variables(pairs))
}

fn keys(result: Result<Settings, ConfigErrors>) -> Vec<String> {
    result.err().iter().flat_map(ConfigErrors::iter).map(|error| error.key.clone()).collect()
}

/// The only error of a text, as it is printed.
fn only_error(text: &str, pairs: &[(&str, &str)]) -> String {
    let errors = read(text, pairs).unwrap_err();
    assert_eq!(errors.iter().count(), 1, "{errors}");
    errors.to_string()
}

#[rstest]
#[case::the_file_alone("checkpoint.file = \"c\"", &["checkpoint.key_file"])]
#[case::the_key_alone("checkpoint.key_file = \"k\"", &["checkpoint.file"])]
#[case::one_file_for_both("checkpoint.file = \"c\"\ncheckpoint.key_file = \"c\"", &["checkpoint.key_file"])]
#[case::too_seldom("checkpoint.file = \"\"\ncheckpoint.key_file = \"k\"\ncheckpoint.every_s = 0", &["checkpoint.file", "checkpoint.every_s"])]
fn checkpoints_need_both_files(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(keys(read(&format!("{text}\n{SECTIGO}"), &[])), expected);
    let both = "checkpoint.file = \"c\"\ncheckpoint.key_file = \"k\"\n";
    let checkpoint = read(&format!("{both}{SECTIGO}"), &[]).unwrap().checkpoint.unwrap();
    assert_eq!(checkpoint.every, Duration::from_secs(60));
}

#[test]
fn a_minimal_configuration_gets_the_defaults() {
    let settings = read(&format!("{SECTIGO}{NAMECOM}{DEBITSUCCESS}"), &[]).unwrap();
    let accounts: Vec<_> = settings
        .accounts
        .iter()
        .map(|account| (account.name.as_str(), account.endpoint.as_str(), account.currency.code()))
        .collect();
    assert_eq!(
        accounts,
        [
            ("d", "https://example.com/", "AUD"),
            ("n", "https://api.name.com/", "USD"),
            ("s", "https://secure.trust-provider.com/", "USD")
        ]
    );
    let passwords: Vec<_> = settings
        .accounts
        .iter()
        .map(|account| match &account.provider_settings {
            ProviderSettings::Sectigo { login_password: secret, .. }
            | ProviderSettings::Namecom { token: secret, .. }
            | ProviderSettings::Debitsuccess { password: secret, .. } => secret.expose_secret(),
        })
        .collect();
    assert_eq!(passwords, [SECRET; 3]);
    assert_eq!(
        settings.accounts.iter().map(|account| account.settle_time.as_secs()).collect::<Vec<_>>(),
        [600, 600, 86400]
    );
    assert_eq!(settings.warnings.len(), 1, "that every user of the machine may refund");
}

#[rstest]
#[case("listen = 50051", "listen")]
#[case("listen = '127.0.0.1'", "listen")]
#[case("listen = 'localhost:50051'", "listen")]
#[case("listen = '0.0.0.0:50051'", "listen")]
#[case("listen = '[::]:50051'", "listen")]
#[case("listen = '192.0.2.1:50051'", "listen")]
#[case("ledger = 'recoup.db'", "ledger")]
#[case("ledger.path = ''", "ledger.path")]
#[case("ledger.queue_length = 0", "ledger.queue_length")]
#[case("ledger.batch_size = 1.5", "ledger.batch_size")]
#[case("log.format = 'JSON'", "log.format")]
#[case("log.filter = 'a=b=c'", "log.filter")]
#[case("log.filter = ''", "log.filter")]
#[case("log.filter = 'inof'", "log.filter")]
#[case("log.filter = 'warning'", "log.filter")]
#[case("log.filter = 'info '", "log.filter")]
#[case("log.filter = ' warn'", "log.filter")]
#[case("log.filter = 'recoup::engine=debug, info'", "log.filter")]
#[case("log.filter = 'info,recoup::engine'", "log.filter")]
#[case("log.filter = 'info,recoup::engine='", "log.filter")]
#[case("log.filter = 'info,recoup::engine=debgu'", "log.filter")]
#[case("log.filter = 'info,recoup[{refund=r-1}]'", "log.filter")]
#[case("log.filter = 'info,'", "log.filter")]
#[case("metrics.listen = '0.0.0.0:9464'", "metrics.listen")]
#[case("metrics = { listen = '0.0.0.0:9464', plaintext = false }", "metrics.listen")]
#[case("metrics = { listen = '0.0.0.0:9464', plaintext = true, certificate_file = 'a' }", "metrics.key_file")]
#[case("listeners = 1", "listeners")]
#[case("listeners.listen = { address = '127.0.0.1:1' }\naccess.file = 'a'", "listeners.listen")]
#[case("listeners.Public = { address = '127.0.0.1:1' }\naccess.file = 'a'", "listeners.Public")]
#[case("listeners.a = {}\naccess.file = 'a'", "listeners.a")]
#[case("listeners.a = { address = '127.0.0.1:1', unix = 'a' }\naccess.file = 'a'", "listeners.a")]
#[case("listeners.a = { address = 'localhost:1' }\naccess.file = 'a'", "listeners.a.address")]
#[case("listeners.a = { address = '0.0.0.0:1' }\naccess.file = 'a'", "listeners.a.address")]
#[case("listeners.a = { address = '192.0.2.1:1' }\naccess.file = 'a'", "listeners.a.address")]
#[case("listeners.a = { address = '127.0.0.1:1' }", "listeners.a")]
#[case("listeners.a = { unix = 'a' }", "listeners.a")]
#[case("listeners.a = { address = '127.0.0.1:1', adress = 'a' }\naccess.file = 'a'", "listeners.a.adress")]
#[case("listeners.a = { address = '0.0.0.0:1', certificate_file = 'a' }\naccess.file = 'a'", "listeners.a.key_file")]
#[case("listeners.a = { address = '127.0.0.1:1', mode = '0600' }\naccess.file = 'a'", "listeners.a.mode")]
#[case("listeners.http = { address = '127.0.0.1:1' }\naccess.file = 'a'", "listeners.http")]
#[case("http = 1\naccess.file = 'a'", "http")]
#[case("http.listen = '127.0.0.1:8080'", "http.listen")]
#[case("http.listen = 'localhost:8080'\naccess.file = 'a'", "http.listen")]
#[case("http.listen = '0.0.0.0:8080'\naccess.file = 'a'", "http.listen")]
#[case("http.listen = '192.0.2.1:8080'\nhttp.certificate_file = 'a'\naccess.file = 'a'", "http.key_file")]
#[case("http.hosts = ['a.example']\naccess.file = 'a'", "http.listen")]
#[case("http = { listen = '127.0.0.1:1', hosts = 'a.example' }\naccess.file = 'a'", "http.hosts")]
#[case("http = { listen = '127.0.0.1:1', hosts = ['https://a.example'] }\naccess.file = 'a'", "http.hosts")]
#[case("http = { listen = '127.0.0.1:1', hosts = ['a.example:8080'] }\naccess.file = 'a'", "http.hosts")]
#[case("http = { listen = '127.0.0.1:1', hosts = [''] }\naccess.file = 'a'", "http.hosts")]
#[case("http = { listen = '127.0.0.1:1', allowed_origins = ['*'] }\naccess.file = 'a'", "http.allowed_origins")]
#[case(
    "http = { listen = '127.0.0.1:1', allowed_origins = ['https://a.example/'] }\naccess.file = 'a'",
    "http.allowed_origins"
)]
#[case("http = { listen = '127.0.0.1:1', allowed_origins = ['null'] }\naccess.file = 'a'", "http.allowed_origins")]
#[case("http = { listen = '127.0.0.1:1', reflection = 'callers' }\naccess.file = 'a'", "http.reflection")]
#[case("listeners.a = { unix = 'a', mode = '0666' }\naccess.file = 'a'", "listeners.a.mode")]
#[case("listeners.a = { unix = 'a', mode = 'rw' }\naccess.file = 'a'", "listeners.a.mode")]
#[case("listeners.a = { unix = 'a', key_file = 'a' }\naccess.file = 'a'", "listeners.a.key_file")]
#[case("listeners.a = { unix = 'a', reflection = 'open' }\naccess.file = 'a'", "listeners.a.reflection")]
#[case(
    "listeners.a = { address = '127.0.0.1:1', client_crl_file = 'a' }\naccess.file = 'a'",
    "listeners.a.client_crl_file"
)]
#[case(
    "listeners.a = { address = '127.0.0.1:1', client_certificates = 'required' }\naccess.file = 'a'",
    "listeners.a.client_certificates"
)]
#[case("listeners.a = { address = '127.0.0.1:1', min_tls = '1.1' }\naccess.file = 'a'", "listeners.a.min_tls")]
#[case(
    "listeners.a = { address = '127.0.0.1:1', connections_per_source = -1 }\naccess.file = 'a'",
    "listeners.a.connections_per_source"
)]
#[case("listeners = { a = { unix = 'a' }, b = { unix = 'a' } }\naccess.file = 'a'", "listeners.b.unix")]
#[case("metrics.port = 9464", "metrics.port")]
#[case("traces.endpoint = '127.0.0.1:4317'", "traces.endpoint")]
#[case("traces.endpoint = 'http://127.0.0.1'", "traces.endpoint")]
#[case("traces.endpoint = 'https://127.0.0.1:4317'", "traces.endpoint")]
#[case("traces.endpoint = 'http://demo:x@127.0.0.1:4317'", "traces.endpoint")]
#[case("traces.endpoint = 'http://127.0.0.1:4317/v1/traces'", "traces.endpoint")]
#[case("server.max_wait_ms = -1", "server.max_wait_ms")]
#[case("server.max_wait_ms = 9223372036854775808", "server.max_wait_ms")]
#[case("server.drain_ms = '20000'", "server.drain_ms")]
#[case("server.drain_ms = 600001", "server.drain_ms")]
#[case("server.max_calls = true", "server.max_calls")]
#[case("server.max_streams_per_connection = []", "server.max_streams_per_connection")]
#[case("server.max_event_streams = 2024-01-01", "server.max_event_streams")]
#[case("server.worker_threads = 257", "server.worker_threads")]
#[case("engine.retry_backoff_min_ms = 300001", "engine.retry_backoff_max_ms")]
#[case("validation.cache_entries.x = 1", "validation.cache_entries")]
#[case("validation.max_concurrent_fetches = 257", "validation.max_concurrent_fetches")]
#[case("validation.max_watches = 0", "validation.max_watches")]
#[case("validation.watch_interval_min_ms = 86400001", "validation.watch_interval_min_ms")]
#[case("account.s.provider = 'sectigo'", "account")]
#[case("ledger.paths = 'x'", "ledger.paths")]
#[case("'a.b' = 1", "\"a.b\"")]
#[case("accounts.x = 'sectigo'", "accounts.x accounts.x.provider")]
#[case("accounts.Upper.provider = 'sectigo'", "accounts.Upper")]
#[case("accounts.'a.b'.provider = 'sectigo'", "accounts.\"a.b\"")]
fn every_error_has_its_key(#[case] line: &str, #[case] expected: &str) {
    let found = keys(read(&format!("{line}\n{SECTIGO}"), &[]));
    assert_eq!(found, expected.split(' ').collect::<Vec<_>>());
}

#[rstest]
#[case(SECTIGO, "provider = 1", "provider")]
#[case(SECTIGO, "provider = 'Sectigo'", "provider")]
#[case(SECTIGO, "endpoint = 'secure.trust-provider.com'", "endpoint")]
#[case(SECTIGO, "endpoint = 'http://secure.trust-provider.com'", "endpoint")]
#[case(SECTIGO, "endpoint = 'http://localhost.example.com'", "endpoint")]
#[case(SECTIGO, "endpoint = 'http://192.168.0.1'", "endpoint")]
#[case(SECTIGO, "endpoint = 'http://[::ffff:127.0.0.1]'", "endpoint")]
#[case(SECTIGO, "endpoint = 'ftp://127.0.0.1'", "endpoint")]
#[case(SECTIGO, "endpoint = 'https://demo@example.com'", "endpoint")]
#[case(SECTIGO, "endpoint = 'https://:x@example.com'", "endpoint")]
#[case(SECTIGO, "endpoint = 'https://example.com/products'", "endpoint")]
#[case(SECTIGO, "endpoint = 'https://example.com?'", "endpoint")]
#[case(SECTIGO, "endpoint = 'https://example.com#x'", "endpoint")]
#[case(SECTIGO, "currency = 'usd'", "currency")]
#[case(SECTIGO, "currency = 'JPY'", "currency")]
#[case(NAMECOM, "currency = 'EUR'", "currency")]
#[case(SECTIGO, "ca_file = '/nowhere/ca.pem'", "ca_file")]
#[case(SECTIGO, "ca_file = 'Cargo.toml'", "ca_file")]
#[case(SECTIGO, "connect_timeout_ms = 9", "connect_timeout_ms")]
#[case(SECTIGO, "total_timeout_ms = 600001", "total_timeout_ms")]
#[case(SECTIGO, "connect_timeout_ms = 5000\ntotal_timeout_ms = 4999", "total_timeout_ms")]
#[case(SECTIGO, "connect_timeout_ms = 5000\ntotal_timeout_ms = 5000", "total_timeout_ms")]
#[case(SECTIGO, "reuse_connections = true", "reuse_connections")]
#[case(NAMECOM, "reuse_connections = 'true'", "reuse_connections")]
#[case(SECTIGO, "max_in_flight = 0", "max_in_flight")]
#[case(SECTIGO, "max_in_flight = 257", "max_in_flight")]
#[case(SECTIGO, "settle_time_s = 2592001", "settle_time_s")]
#[case(SECTIGO, "login_name = ''", "login_name")]
#[case(SECTIGO, "login_name = \"a\\nb\"", "login_name")]
#[case(NAMECOM, "username = 'a:b'", "username")]
#[case(NAMECOM, "key_lifetime_s = 43201", "key_lifetime_s")]
#[case(NAMECOM, "path = '/x'", "path")]
#[case(SECTIGO, "username = 'demo'", "username")]
#[case(DEBITSUCCESS, "key_lifetime_s = 1", "key_lifetime_s")]
#[case(DEBITSUCCESS, "path = 'DSServices.svc'", "path")]
#[case(DEBITSUCCESS, "path = '/x?wsdl'", "path")]
#[case(DEBITSUCCESS, "service_namespace = ''", "service_namespace")]
#[case(DEBITSUCCESS, "data_namespace = 'a\"b'", "data_namespace")]
#[case(DEBITSUCCESS, "action_prefix = 'a b'", "action_prefix")]
#[case(SECTIGO, "login_password_env = 'MISSING'", "login_password_env")]
#[case(SECTIGO, "login_password_env = 'EMPTY'", "login_password_env")]
#[case(SECTIGO, "login_password_env = 'TWO_LINES'", "login_password_env")]
#[case(SECTIGO, "login_password_env = 'LONG'", "login_password_env")]
#[case(SECTIGO, "login_password_env = 'no name'", "login_password_env")]
#[case(SECTIGO, "login_password_env = 5", "login_password_env")]
#[case(SECTIGO, "login_password_file = 'x'", "login_password_file")]
#[case(SECTIGO, "login_passwort_file = 'x'", "login_passwort_file")]
#[case(NAMECOM, "token = 'x'", "token")]
fn every_error_of_an_account_has_its_key(#[case] account: &str, #[case] line: &str, #[case] key: &str) {
    let set = format!("{key} =");
    let kept: Vec<&str> = account.lines().filter(|line| !line.trim().starts_with(&set)).collect();
    let name = account.trim().chars().nth("[accounts.".len()).unwrap();
    let errors = only_error(&format!("{}\n{line}\n", kept.join("\n")), &[]);
    assert!(errors.starts_with(&format!("accounts.{name}.{key}: ")), "{errors}");
    assert!(errors.contains("recoup.toml:"), "{errors}");
}

#[rstest]
#[case(SECTIGO, &["provider"], &["provider"])]
#[case(SECTIGO, &["login_name", "login_password_env"], &["login_name", "login_password_file"])]
#[case(NAMECOM, &["username", "token_env"], &["username", "token_file"])]
#[case(DEBITSUCCESS, &["endpoint", "currency", "username", "password_env"], &["endpoint", "currency", "username", "password_file"])]
fn a_missing_setting_is_named(#[case] account: &str, #[case] left_out: &[&str], #[case] expected: &[&str]) {
    let kept = account.lines().filter(|line| !left_out.iter().any(|key| line.trim().starts_with(&format!("{key} ="))));
    let name = account.trim().chars().nth("[accounts.".len()).unwrap();
    let errors = read(&kept.collect::<Vec<_>>().join("\n"), &[]).unwrap_err();
    let found: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(found, expected.iter().map(|key| format!("accounts.{name}.{key}")).collect::<Vec<_>>());
    assert!(
        errors.iter().all(|error| error.source == ErrorSource::Absent && error.sentence.starts_with("is required: "))
    );
}

#[test]
fn at_least_one_account_is_required() {
    assert_eq!(keys(read("", &[])), ["accounts"]);
    assert_eq!(keys(read("accounts = {}", &[])), ["accounts"]);
}

#[test]
fn all_errors_are_reported_together_sorted_by_source() {
    let text = "listen = '0.0.0.0:1'\nlgo.format = 'text'\n[log]\nformat = 'xml'\n[accounts.s]\nprovider = 'sectigo'\nlogin_name = ''\n";
    let printed = read(text, &[("RECOUP_LEDGER__BATCH_SIZE", "many")]).unwrap_err().to_string();
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        [
            "listen: must be a loopback address: a port that others reach is a table `[listeners.NAME]`, with a certificate and `access.file` \
             (recoup.toml:1)",
            "lgo: is not a setting; did you mean `log`? (recoup.toml:2)",
            "log.format: must be \"text\" or \"json\" (recoup.toml:4)",
            "accounts.s.login_name: must be 1 to 64 characters without control characters (recoup.toml:7)",
            "accounts.s.login_password_file: is required: the file that holds the secret; or `login_password_env`, the environment variable that holds it",
            "ledger.batch_size: must be a whole number from 1 to 10000 (RECOUP_LEDGER__BATCH_SIZE)",
        ]
    );
}

#[test]
fn invalid_toml_is_an_error_that_does_not_show_it() {
    let errors = read(&format!("listen = '127.0.0.1:0'\ntoken = {SECRET}\n[x\n"), &[]).unwrap_err();
    let lines: Vec<_> = errors.iter().map(|error| error.to_string()).collect();
    assert!(lines[0].starts_with("recoup.toml:2: is not TOML: "), "{lines:?}");
    assert!(lines.len() > 1, "{lines:?}");
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
}

#[test]
fn variables_override_the_file() {
    let text = format!("listen = '127.0.0.1:1'\nledger = {{ path = 'file.db', batch_size = 3 }}\n{SECTIGO}");
    let settings = read(
        &text,
        &[
            ("RECOUP_LISTEN", "[::1]:0"),
            ("RECOUP_LEDGER__PATH", "variable.db"),
            ("RECOUP_ACCOUNTS__S__MAX_IN_FLIGHT", "7"),
            ("RECOUP_ACCOUNTS__NAME_COM__PROVIDER", "namecom"),
            ("RECOUP_ACCOUNTS__NAME_COM__USERNAME", "demo-test"),
            ("RECOUP_ACCOUNTS__NAME_COM__TOKEN_ENV", "SECRET"),
            ("RECOUP_ACCOUNTS__NAME_COM__REUSE_CONNECTIONS", "true"),
            ("RECOUP_CONFIG", "/some/file"),
            ("RECOUP_SERVER", "http://127.0.0.1:50051"),
            ("RECOUP_TOKEN_FILE", "/some/token"),
            ("RECOUP_CA_FILE", "/some/ca.pem"),
            ("RECOUP_URL", "http://127.0.0.1:8080"),
            ("RECOUP_CONTEXT", "prod"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(settings.listen.unwrap().to_string(), "[::1]:0");
    assert_eq!(settings.ledger_path, Path::new("variable.db"));
    assert_eq!(settings.ledger.batch_size, 3);
    let accounts: Vec<_> = settings
        .accounts
        .iter()
        .map(|account| (account.name.as_str(), account.max_in_flight, account.reuse_connections))
        .collect();
    assert_eq!(accounts, [("name-com", 16, true), ("s", 7, false)]);
}

#[rstest]
#[case("RECOUP_LISTE", "127.0.0.1:0", "liste: is not a setting; did you mean `RECOUP_LISTEN`? (RECOUP_LISTE)")]
#[case(
    "RECOUP_listen",
    "127.0.0.1:0",
    "RECOUP_listen: is not a setting; did you mean `RECOUP_LISTEN`? (RECOUP_listen)"
)]
#[case("RECOUP_LEDGER_PATH", "x", "ledger_path: is not a setting (RECOUP_LEDGER_PATH)")]
#[case(
    "RECOUP_LEDGER__PATHS",
    "x",
    "ledger.paths: is not a setting; did you mean `RECOUP_LEDGER__PATH`? (RECOUP_LEDGER__PATHS)"
)]
#[case("RECOUP_LEDGER__PATH__X", "x", "ledger.path: must be text (RECOUP_LEDGER__PATH__X)")]
#[case("RECOUP_LEDGER", "x", "ledger: must be a table of settings (RECOUP_LEDGER)")]
#[case("RECOUP_", "x", "\"\": is not a setting (RECOUP_)")]
#[case("RECOUP___", "x", "\"\": is not a setting (RECOUP___)")]
#[case("RECOUP_LISTEN", "", "listen: must be an IP address and a port, such as \"127.0.0.1:50051\" (RECOUP_LISTEN)")]
#[case(
    "RECOUP_ACCOUNTS__S__LOGIN_NAMES",
    "x",
    "accounts.s.login_names: is not a setting; did you mean `RECOUP_ACCOUNTS__S__LOGIN_NAME`? (RECOUP_ACCOUNTS__S__LOGIN_NAMES)"
)]
fn an_unknown_variable_is_an_error(#[case] name: &str, #[case] value: &str, #[case] expected: &str) {
    assert_eq!(only_error(SECTIGO, &[(name, value)]), expected);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_an_error_only_if_it_is_ours() {
    use std::os::unix::ffi::OsStringExt as _;
    let not_utf8 = || OsString::from_vec(vec![0xff, b'x']);
    let mut environment = variables(&[]);
    environment.insert(not_utf8(), not_utf8());
    environment.insert("OTHER".into(), not_utf8());
    assert!(Settings::read(Path::new(""), SECTIGO, &environment).is_ok());
    environment.insert("RECOUP_LISTEN".into(), not_utf8());
    assert_eq!(keys(Settings::read(Path::new(""), SECTIGO, &environment)), ["listen"]);
    environment.remove(OsStr::new("RECOUP_LISTEN"));
    environment.insert("SECRET".into(), not_utf8());
    assert_eq!(keys(Settings::read(Path::new(""), SECTIGO, &environment)), ["accounts.s.login_password_env"]);
}

#[test]
fn a_secrets_own_variable_may_have_any_name() {
    let text = SECTIGO.replace("\"SECRET\"", "\"RECOUP_SECTIGO_PASSWORD\"");
    assert!(read(&text, &[("RECOUP_SECTIGO_PASSWORD", "x")]).is_ok());
    assert_eq!(keys(read(SECTIGO, &[("RECOUP_SECTIGO_PASSWORD", "x")])), ["sectigo_password"]);
}

#[rstest]
#[case(SECTIGO, "login_password")]
#[case(SECTIGO, "password")]
#[case(NAMECOM, "token")]
#[case(DEBITSUCCESS, "password")]
#[case(DEBITSUCCESS, "passwd")]
#[case(DEBITSUCCESS, "endpoint")]
#[case(DEBITSUCCESS, "path")]
fn a_secret_in_the_file_is_refused_and_never_repeated(#[case] account: &str, #[case] key: &str) {
    let kept: Vec<&str> = account.lines().filter(|line| !line.trim().starts_with(&format!("{key} ="))).collect();
    let errors = read(&format!("{}\n{key} = '{SECRET}'\n", kept.join("\n")), &[]).unwrap_err();
    assert!(errors.to_string().contains(&format!(".{key}: ")), "{errors}");
    assert!(!format!("{errors} {errors:?}").contains(SECRET), "{errors:?}");
}

#[test]
fn a_file_holds_one_secret_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let text = format!(
        "[accounts.s]\nprovider = 'sectigo'\nlogin_name = 'demo'\nlogin_password_file = '{}'\n",
        path.display()
    );
    assert_eq!(keys(read(&text, &[])), ["accounts.s.login_password_file"], "there is no such file");
    for (content, expected) in [("x y\n", Some("x y")), ("x\r\n", Some("x")), ("x", Some("x")), (" x ", Some(" x "))]
        .into_iter()
        .chain(["", "\n", "x\n\n", "x\ny\n", "x\t", LONG].map(|content| (content, None)))
    {
        std::fs::write(&path, content).unwrap();
        let found = read(&text, &[]).ok().map(|settings| match &settings.accounts[0].provider_settings {
            ProviderSettings::Sectigo { login_password, .. } => login_password.expose_secret().to_owned(),
            _ => String::new(),
        });
        assert_eq!(found.as_deref(), expected, "{content:?}");
    }
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(keys(read(&text, &[])), ["accounts.s.login_password_file"], "it is not text");
}

#[cfg(unix)]
#[test]
fn a_world_readable_secret_file_causes_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let text = SECTIGO
        .replace("login_password_env = \"SECRET\"", &format!("login_password_file = '{}'", file.path().display()));
    for (mode, warnings) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let settings = read(&text, &[]).unwrap();
        let of_file = settings.warnings.iter().filter(|warning| !warning.starts_with("listen: "));
        assert_eq!(of_file.clone().count(), warnings, "{mode:o}");
        assert!(of_file.into_iter().all(|warning| warning.starts_with("accounts.s.login_password_file: ")));
    }
}

#[test]
fn a_secret_has_one_source_and_a_variable_overrides_the_file() {
    assert_eq!(
        keys(read(&format!("{SECTIGO}login_password_file = '/nowhere'"), &[])),
        ["accounts.s.login_password_file"]
    );
    let in_file = SECTIGO.replace("login_password_env = \"SECRET\"", "login_password_file = '/nowhere'");
    assert!(read(&in_file, &[("RECOUP_ACCOUNTS__S__LOGIN_PASSWORD_ENV", "SECRET")]).is_ok());
    let over = read(SECTIGO, &[("RECOUP_ACCOUNTS__S__LOGIN_PASSWORD_FILE", "/nowhere")]);
    assert_eq!(keys(over), ["accounts.s.login_password_file"], "the file is meant, and it is not there");
}

#[rstest]
#[case("http://localhost:7101")]
#[case("http://127.0.0.1")]
#[case("http://127.8.9.10:1/")]
#[case("http://[::1]:7101")]
#[case("https://example.com:8443")]
#[case("HTTPS://EXAMPLE.COM")]
fn an_endpoint_is_https_or_on_this_machine(#[case] endpoint: &str) {
    assert!(read(&format!("{SECTIGO}endpoint = '{endpoint}'"), &[]).is_ok());
}

#[test]
fn an_account_without_a_provider_gets_no_guessed_errors() {
    let text = SECTIGO.replace("provider = \"sectigo\"", "token_env = 'SECRET'\nusername = 'x'\nstrange = 1");
    assert_eq!(keys(read(&text, &[])), ["accounts.s.strange", "accounts.s.provider"]);
}

#[test]
fn the_command_line_or_the_variable_names_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("ledger.path = 'named.db'\n{SECTIGO}")).unwrap();
    let environment = |pairs: &[(&str, &str)]| variables(pairs).into_iter();
    let named = file.path().to_str().unwrap();
    for settings in [
        Settings::load(Some(file.path()), environment(&[("RECOUP_CONFIG", "/nowhere")])),
        Settings::load(None, environment(&[("RECOUP_CONFIG", named)])),
    ] {
        assert_eq!(settings.unwrap().ledger_path, Path::new("named.db"));
    }
    let errors = Settings::load(Some(Path::new("/nowhere/recoup.toml")), environment(&[])).unwrap_err();
    assert!(errors.to_string().starts_with("/nowhere/recoup.toml: cannot be read: "), "{errors}");
    assert!(keys(Settings::load(None, environment(&[]))) == ["accounts"]);
}

/// A variable separates what the file has as an array.
#[test]
fn the_json_endpoint_is_read_from_the_file_and_from_variables() {
    let in_file = "access.file = 'a'\n[http]\nlisten = '127.0.0.1:8080'\nhosts = ['Api.example', '[::1]']\n\
                   allowed_origins = ['https://desk.example', 'http://localhost:3000']\n";
    let variables = [
        ("RECOUP_ACCESS__FILE", "a"),
        ("RECOUP_HTTP__LISTEN", "127.0.0.1:8080"),
        ("RECOUP_HTTP__HOSTS", "Api.example, [::1]"),
        ("RECOUP_HTTP__ALLOWED_ORIGINS", "https://desk.example,http://localhost:3000"),
    ];
    for settings in [read(&format!("{in_file}{SECTIGO}"), &[]), read(SECTIGO, &variables)] {
        let settings = settings.unwrap();
        let [short_form, endpoint] = settings.all_listeners().try_into().unwrap();
        assert!(short_form.needs_credentials && endpoint.needs_credentials);
        let expected = WebSettings {
            hosts: vec!["api.example".to_owned(), "[::1]".to_owned()],
            allowed_origins: vec!["https://desk.example".to_owned(), "http://localhost:3000".to_owned()],
        };
        assert_eq!((endpoint.name.as_str(), endpoint.protocol), ("http", ProtocolSettings::Http(expected)));
    }
}

#[test]
fn no_secret_is_in_the_summary() {
    let settings = read(&format!("{SECTIGO}{NAMECOM}{DEBITSUCCESS}"), &[]).unwrap();
    let summary = settings.summary().join("\n");
    assert!(!format!("{settings:?} {summary}").contains(SECRET));
    assert!(
        summary.contains("account d: Debitsuccess at https://example.com/, AUD, 16 in flight, no rate limit, fresh"),
        "{summary}"
    );
}

/// The reference with every commented-out setting set, except those that `keep_out` names.
fn reference_in_full(keep_out: &[&str]) -> String {
    let set = |line: &str| {
        let setting = line.strip_prefix('#').filter(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()));
        let setting = setting
            .filter(|rest| !keep_out.iter().any(|key| rest.split(' ').next().unwrap().ends_with(key) || rest == key));
        setting.unwrap_or(line).to_owned()
    };
    REFERENCE.lines().map(set).collect::<Vec<_>>().join("\n")
}

/// As [`reference_in_full`], with its listeners and JSON endpoint or without.
fn reference_with_listeners(keep_out: &[&str], with_listeners: bool) -> String {
    let text = reference_in_full(keep_out);
    let mut in_listeners = false;
    let lines = text.lines().filter_map(|line| {
        in_listeners = match line.trim_start_matches('#') {
            header if header.starts_with("[listeners.") || header == "[http]" => true,
            header if header.starts_with('[') => false,
            _ => in_listeners,
        };
        let line = if in_listeners && line.starts_with("#[") { &line[1..] } else { line };
        (with_listeners || !in_listeners).then_some(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

const REFERENCE_SECRETS: [(&str, &str); 3] =
    [("SECTIGO_LOGIN_PASSWORD", "x"), ("NAMECOM_TOKEN", "x"), ("DEBITSUCCESS_PASSWORD", "x")];

#[test]
fn the_reference_is_valid_and_its_comments_show_the_defaults() {
    let settings_of = |text: &str| {
        // The set entries differ by design; the resulting settings must not.
        let settings = read(text, &REFERENCE_SECRETS).unwrap();
        Settings { entries: changes::Entries::default(), ..settings }
    };
    let as_written = settings_of(REFERENCE);
    let no_default =
        ["former", "ca_file", "file", "listen = \"127.0.0.1:9464\"", "endpoint = \"http://127.0.0.1:4317\""];
    let in_full = settings_of(&reference_with_listeners(&no_default, false));
    assert_eq!(format!("{as_written:?}"), format!("{in_full:?}"));
}

#[test]
fn the_reference_shows_every_setting_and_nothing_else() {
    let text = reference_with_listeners(&[], true);
    let environment = variables(&REFERENCE_SECRETS);
    let mut reader = Reader::new(Path::new(""), &text, &environment).unwrap();
    Settings::from_reader(&mut reader, Path::new(""));
    let known = reader.known().clone();
    let shown = reader.paths();
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "shown, but not a setting");
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "a setting, but not shown");
}

#[test]
fn the_declared_keys_of_a_provider_are_those_that_are_read() {
    let own = |account: &str| -> BTreeSet<String> {
        let environment = variables(&[]);
        let mut reader = Reader::new(Path::new(""), account, &environment).unwrap();
        Settings::from_reader(&mut reader, Path::new(""));
        let known = reader.known().iter().filter(|path| path.matches('.').count() == 2);
        known.map(|path| path.rsplit('.').next().unwrap().to_owned()).collect()
    };
    let [sectigo, namecom, debitsuccess] = [SECTIGO, NAMECOM, DEBITSUCCESS].map(own);
    let common: BTreeSet<String> = &(&sectigo & &namecom) & &debitsuccess;
    for (keys, (_, declared)) in [sectigo, namecom, debitsuccess].iter().zip(accounts::OWN_KEYS) {
        assert_eq!(keys - &common, declared.iter().map(|key| (*key).to_owned()).collect());
    }
}

/// Plausible TOML: known and unknown keys with values of every kind, in any order.
fn arbitrary_toml() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "listen",
            "ledger",
            "ledger.path",
            "log.filter",
            "server.drain_ms",
            "accounts",
            "accounts.s",
            "accounts.s.provider",
            "accounts.s.endpoint",
            "accounts.s.token",
            "accounts.s.login_password_env",
            "accounts.s.login_password_file",
            "accounts.s.reuse_connections",
            "[accounts.n]\nprovider",
            "token_env",
            "path",
            "[log]\nformat",
            "\"\"",
            "'a.b'.c.d.e",
        ])
        .prop_map(str::to_owned),
        "[a-z_]{1,8}(\\.[a-z]{1,4}){0,6}",
    ];
    let value = prop_oneof![
        Just(format!("'{SECRET}'")),
        Just(format!("[ '{SECRET}', {{ x = '{SECRET}' }} ]")),
        Just(format!("{{ x.y.z = '{SECRET}' }}")),
        Just(format!("'https://demo:{SECRET}@example.com'")),
        Just(SECRET.to_owned()),
        Just(format!("\"{SECRET}")),
        proptest::sample::select(vec![
            "1",
            "-0x1",
            "0xffffffffffffffff",
            "1e400",
            "nan",
            "true",
            "1979-05-27",
            "'sectigo'",
            "'namecom'",
            "{}"
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec((key, value), 0..12)
        .prop_map(|lines| lines.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}", name in "RECOUP_[A-Z_.a-zé]{0,20}", value in "\\PC{0,20}") {
        let _ = read(&text, &[(&name, &value)]);
    }

    #[test]
    fn no_error_repeats_a_value(text in arbitrary_toml(), name in "RECOUP_(LISTEN|ACCOUNTS__S__(TOKEN|PROVIDER|ENDPOINT)|[A-Z_]{0,9})") {
        if let Err(errors) = read(&text, &[(&name, SECRET)]) {
            prop_assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");
        }
    }
}

#[test]
fn deep_nesting_is_rejected_without_recursion() {
    let deep = |count: usize| format!("{}x = 1", "a.".repeat(count));
    assert_eq!(keys(read(&format!("{}\n{SECTIGO}", deep(50)), &[])), ["a"]);
    assert!(read(&deep(50_000), &[]).is_err());
    assert!(read(&format!("x = {}", "[".repeat(50_000)), &[]).is_err());
    assert!(read(&format!("[{}x]", "a.".repeat(50_000)), &[]).is_err());
}

#[test]
fn metrics_and_traces_are_off_by_default_and_configurable() {
    let settings = read(SECTIGO, &[]).unwrap();
    assert_eq!((settings.metrics_listen, settings.telemetry.traces_endpoint), (None, None));
    for (endpoint, warnings) in [("http://localhost:4317/", 0), ("http://[::1]:4317", 0), ("http://collector:4317", 1)]
    {
        let text = format!("metrics.listen = '[::1]:0'\ntraces.endpoint = '{endpoint}'\n{SECTIGO}");
        let settings = read(&text, &[]).unwrap();
        assert_eq!(settings.metrics_listen.unwrap().to_string(), "[::1]:0");
        assert_eq!(settings.telemetry.traces_endpoint.as_deref(), Some(endpoint.trim_end_matches('/')));
        let unwise = settings.warnings.iter().filter(|warning| !warning.starts_with("listen: ")).count();
        assert_eq!(unwise, warnings, "{:?}", settings.warnings);
    }
}

#[test]
fn a_short_total_timeout_shortens_the_connect_timeout() {
    let settings = read(&format!("{SECTIGO}\ntotal_timeout_ms = 2000"), &[]).unwrap();
    assert_eq!(settings.accounts[0].connect_timeout, Duration::from_secs(1));
}

/// One core is left to the ledger's writer, where there are three or more.
#[rstest]
#[case::not_set("", None)]
#[case::as_many_as_fit("server.worker_threads = 0", None)]
#[case::one("server.worker_threads = 1", Some(1))]
#[case::many("server.worker_threads = 256", Some(256))]
fn the_number_of_worker_threads_follows_the_machine_unless_it_is_set(#[case] line: &str, #[case] set: Option<usize>) {
    let settings = read(&format!("{line}\n{SECTIGO}"), &[]).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(settings.worker_threads(), set.unwrap_or((cores - 1).max(2)));
}
