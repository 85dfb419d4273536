//! The command line around callers: making tokens, checking an access file, and how a command shows
//! who calls.

use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

use crate::support::process::run;

/// The example of the manual, with a place for the hash of a token.
const ACCESS: &str = r#"[callers.shop]
owner = "team-shop"
scopes = ["refunds:create", "refunds:read"]
accounts = ["certificates"]
tokens = [
  HASH
]

[callers.shop.limits]
refund_max = { AUD = "500.00" }

[callers.lead]
scopes = ["refunds:approve"]
accounts = ["*"]
unix_users = [1001]

[approvals.large]
accounts = ["*"]
at_least = { AUD = "200.00" }
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the binary with a home directory and variables.
fn run_at_home(home: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recoup"));
    command.args(arguments).env("HOME", home).envs(variables.iter().copied()).output().unwrap()
}

/// A new token and its line for the access file.
fn new_token(arguments: &[&str]) -> (String, String) {
    let made = run(&[&["token", "new", "--caller", "shop"], arguments].concat());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let explanation = text(&made.stderr);
    let line = explanation.lines().find(|line| line.starts_with('{')).unwrap();
    (text(&made.stdout), line.to_owned())
}

#[test]
fn a_new_token_fits_its_line_in_the_access_file() {
    let (token, line) = new_token(&["--id", "2026-11", "--expires", "2027-02-01T00:00:00Z"]);
    assert_eq!(token.len(), "recoup_".len() + 43 + 1 + 8 + "\n".len());
    assert!(line.starts_with("{ id = \"2026-11\", sha256 = \""), "{line}");
    assert!(line.ends_with(", expires = \"2027-02-01T00:00:00Z\" },"), "{line}");
    assert!(!line.contains(token.trim()), "the line can be shown to anyone");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    std::fs::write(&file, ACCESS.replace("HASH", &line)).unwrap();
    let checked = run(&["access", "check", file.to_str().unwrap()]);
    let table = text(&checked.stdout);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    for expected in [
        "caller shop\n",
        "  owner       team-shop\n",
        "  accounts    certificates\n",
        "  refunds:create      CreateRefund\n",
        "  refunds:read        GetRefund, ListRefundEvents, ListRefunds, WaitRefund",
        "  token       2026-11, until 2027-02-01T00:00:00Z\n",
        "  one refund  at most 500.00 AUD\n",
        "caller lead\n",
        "  unix user   1001\n",
        "approval large: refunds of all accounts, of at least 200.00 AUD, need 1 other owners within 86400 s\n",
    ] {
        assert!(table.contains(expected), "{expected:?}\n{table}");
    }
    // Nothing in the table could be used to call.
    assert!(!table.contains("sha256") && !table.contains("recoup_"), "{table}");
}

#[test]
fn two_tokens_differ_and_without_a_time_they_do_not_expire() {
    let ((one, line), (other, _)) = (new_token(&[]), new_token(&[]));
    assert_ne!(one, other);
    assert!(!line.contains("expires"), "{line}");
}

#[rstest]
#[case(&["--caller", "Shop"], "must be 1 to 63 of a-z 0-9")]
#[case(&["--caller", "gateway"], "must not be \"gateway\"")]
#[case(&["--caller", "a", "--expires", "tomorrow"], "must be a time with its offset")]
#[case(&["--caller", "a", "--id", "A B"], "must be 1 to 63")]
fn a_wrong_argument_makes_no_token(#[case] arguments: &[&str], #[case] expected: &str) {
    let made = run(&[&["token", "new"], arguments].concat());
    assert_eq!((text(&made.stdout), made.status.code()), (String::new(), Some(2)));
    assert!(text(&made.stderr).contains(expected), "{}", text(&made.stderr));
}

#[test]
fn every_error_of_an_access_file_is_printed_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    std::fs::write(&file, "[callers.shop]\nscopes = [\"refunds:write\"]\ntoken = 1\n[approvals.a]\n").unwrap();
    let checked = run(&["access", "check", file.to_str().unwrap()]);
    assert_eq!((text(&checked.stdout), checked.status.code()), (String::new(), Some(2)));
    let errors = text(&checked.stderr);
    let lines: Vec<&str> = errors.lines().map(|line| line.strip_prefix(file.to_str().unwrap()).unwrap()).collect();
    assert!(lines[0].starts_with(": line 2: callers.shop.scopes[0]: is no scope"), "{errors}");
    assert!(lines[1].starts_with(": line 3: callers.shop.token: is not a key"), "{errors}");
    assert!(lines[2].starts_with(": line 4: approvals.a: has no"), "{errors}");
    let missing = run(&["access", "check", "/nowhere/access.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("/nowhere/access.toml cannot be read"));
}

#[test]
fn with_a_configuration_the_accounts_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (config, file) = (dir.path().join("recoup.toml"), dir.path().join("access.toml"));
    std::fs::write(dir.path().join("token"), "x").unwrap();
    let account = format!(
        "[accounts.domains]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"{}\"\n",
        dir.path().join("token").display()
    );
    std::fs::write(&config, account).unwrap();
    let check = |access: &str| {
        std::fs::write(&file, access).unwrap();
        run(&["access", "check", file.to_str().unwrap(), "--config", config.to_str().unwrap()])
    };
    let wrong = check("[callers.a]\nunix_users = [1]\naccounts = [\"x\"]\n[accounts.x.limits]\ndaily_count = 1\n");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("line 4: accounts.x: names an account that is not configured"));
    let right = check("[callers.a]\nunix_users = [1]\naccounts = [\"x\", \"domains\"]\n");
    assert!(right.status.success());
    let warning = "warning: line 3: callers.a.accounts[0]: names an account that is not configured\n";
    assert!(text(&right.stdout).ends_with(warning), "{}", text(&right.stdout));
}

/// `recoup refunds list` as far as it comes: no gateway answers.
#[rstest]
#[case::a_token_is_no_argument(&[], &["--token", "x"], "unexpected argument '--token'")]
#[case::no_such_file(&[], &["--token-file", "/nowhere/token"], "the token file /nowhere/token cannot be read")]
#[case::no_token(&[], &["--token-file", "HOME/wrong"], "HOME/wrong is not a token: \"recoup_\", 43")]
#[case::by_variable(&[("RECOUP_TOKEN_FILE", "HOME/wrong")], &[], "HOME/wrong is not a token")]
#[case::plaintext(&[], &["--token-file", "HOME/token", "--server", "http://192.0.2.1:50051"], "the token is not sent to http://192.0.2.1:50051: without TLS")]
#[case::half_a_certificate(&[], &["--cert", "HOME/cert"], "a certificate and its key belong together")]
#[case::plaintext_certificate(&[], &["--cert", "HOME/cert", "--key", "HOME/key"], "certificates need a server that begins with https://")]
#[case::an_unknown_context(&[], &["--context", "prod"], "contexts.toml: has no context \"prod\"; it has plaintext, test, typo")]
#[case::an_unknown_context_by_variable(&[("RECOUP_CONTEXT", "prod")], &[], "has no context \"prod\"")]
#[case::two_sources(&[("RECOUP_SERVER", "http://127.0.0.1:1")], &["--context", "test"], "a context names the server and all credentials")]
#[case::two_sources_of_a_token(&[], &["--context", "test", "--token-file", "HOME/token"], "a context names the server and all credentials")]
#[case::a_context(&[], &["--context", "test"], "no gateway answers at http://127.0.0.1:1")]
#[case::plaintext_of_a_context(&[], &["--context", "plaintext"], "the token is not sent to http://gateway.example:1")]
#[case::a_wrong_token_of_a_context(&[], &["--context", "typo"], "HOME/.config/recoup/wrong is not a token: its last 8 digits do not fit")]
fn a_command_finds_its_gateway_and_its_token(
    #[case] variables: &[(&str, &str)],
    #[case] arguments: &[&str],
    #[case] expected: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let folder = dir.path().join(".config/recoup");
    std::fs::create_dir_all(&folder).unwrap();
    let (token, _) = new_token(&[]);
    std::fs::write(dir.path().join("token"), &token).unwrap();
    std::fs::write(dir.path().join("wrong"), "secret-canary").unwrap();
    std::fs::write(folder.join("token"), &token).unwrap();
    let mistyped = token.trim().split_at(50).0.to_owned() + "_00000000";
    std::fs::write(folder.join("wrong"), &mistyped).unwrap();
    let contexts = "[test]\nserver = \"http://127.0.0.1:1\"\ntoken_file = \"token\"\n\n[plaintext]\nserver = \
                    \"http://gateway.example:1\"\ntoken_file = \"token\"\n\n[typo]\nserver = \
                    \"http://127.0.0.1:1\"\ntoken_file = \"wrong\"\n";
    std::fs::write(folder.join("contexts.toml"), contexts).unwrap();
    let at_home = |text: &&str| text.replace("HOME", home);
    let variables: Vec<(&str, String)> = variables.iter().map(|(name, value)| (*name, at_home(value))).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let arguments: Vec<String> = ["refunds", "list"].iter().chain(arguments).map(at_home).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = run_at_home(dir.path(), &variables, &arguments);
    let errors = text(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains(&at_home(&expected)), "{errors}");
    // An error never shows what a token file holds.
    assert!(!errors.contains("canary") && !errors.contains(token.trim()) && !errors.contains(&mistyped), "{errors}");
}
