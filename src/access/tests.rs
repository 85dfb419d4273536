use std::collections::BTreeSet;

use rstest::rstest;

use super::certificate::CertificateIdentity;
use super::credentials::{IdentifyError, InvalidCredential, ShownCredentials, UnixPeer};
use super::scope::{Requirement, Scope};
use super::token::TokenHash;
use super::*;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::money::Currency;

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const EXPIRES: Timestamp = Timestamp::from_seconds(1_801_440_000); // 2027-02-01

/// The example of the manual.
fn example() -> String {
    format!(
        r#"
[callers.shop]
owner = "team-shop"
scopes = ["refunds:create", "refunds:read", "accounts:read"]
accounts = ["certificates", "domains"]
certificates = [{{ spiffe = "spiffe://acme.example/ns/shop/sa/refunds" }}, {{ dns = "shop.example" }}]
tokens = [{{ id = "2026-11", sha256 = "{ONE}", expires = "2027-02-01T00:00:00Z" }}]
unix_users = [1001]
rate = {{ calls_per_second = 5, burst = 7 }}

[callers.shop.limits]
refund_max = {{ AUD = "500.00", USD = "500" }}
daily_max = {{ AUD = "5000.00" }}
daily_count = 200

[callers.lead]
scopes = ["refunds:approve", "refunds:read"]
accounts = ["*"]
tokens = [{{ id = "a", sha256 = "{TWO}" }}]
certificates = [{{ dns = "lead.example" }}]
unix_groups = [50]

[accounts.certificates.limits]
daily_count = 500
assumed_amount = "99.00"

[approvals.large]
accounts = ["*"]
at_least = {{ AUD = "200.00" }}
"#
    )
}

fn policy() -> AccessPolicy {
    AccessPolicy::parse(&example()).unwrap()
}

/// What the file's errors say, one line each.
fn errors(text: &str) -> Vec<String> {
    AccessPolicy::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A file with a caller that has these further lines.
fn with_caller(lines: &str) -> String {
    format!("[callers.shop]\n{lines}\n")
}

fn identified(
    policy: &AccessPolicy,
    shown: &ShownCredentials,
    now: Timestamp,
) -> Result<(String, String), IdentifyError> {
    policy.identify(shown, now).map(|identity| (identity.caller, identity.credential))
}

fn token(hex: &str) -> Option<TokenHash> {
    Some(TokenHash::from_hex(hex).unwrap())
}

fn certificate(name: &str) -> Option<CertificateIdentity> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let names = name.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let params = rcgen::CertificateParams::new(names).unwrap();
    Some(CertificateIdentity::from_verified(params.self_signed(&key).unwrap().der()).unwrap())
}

fn accounts(names: &[&str]) -> BTreeSet<AccountName> {
    names.iter().map(|name| AccountName::parse(name).unwrap()).collect()
}

#[test]
fn the_example_says_what_it_says() {
    let policy = policy();
    assert_eq!(policy.warnings(None), Vec::<String>::new());
    let rules = policy.rules();
    let shop = &rules.callers["shop"];
    assert_eq!(shop.owner, "team-shop");
    assert!(shop.may_create);
    let aud = Currency::parse("AUD").unwrap();
    assert_eq!(shop.limits.refund_max[&aud], 50_000);
    assert_eq!(shop.limits.refund_max[&Currency::USD], 50_000);
    assert_eq!(shop.limits.daily_max[&aud], 500_000);
    assert_eq!(shop.limits.daily_count, Some(200));
    assert_eq!(rules.callers["lead"].owner, "lead");
    assert!(!rules.callers["lead"].may_create);
    let certificates = &rules.accounts[&AccountName::parse("certificates").unwrap()];
    assert_eq!((certificates.daily_count, certificates.assumed_amount), (Some(500), Some(9_900)));
    let large = &rules.approvals[0];
    assert_eq!((large.name.as_str(), large.needed, large.similar), ("large", 1, false));
    assert_eq!(large.at_least[&aud], 20_000);
    let caller = policy.caller("shop").unwrap();
    assert_eq!((caller.rate.calls_per_second, caller.rate.burst, caller.rate.calls_at_once), (5, 7, 64));
    assert!(caller.may(Requirement::Scope(Scope::RefundsCreate)));
    assert!(!caller.may(Requirement::Scope(Scope::RefundsCancel)));
    assert!(caller.may(Requirement::Caller));
}

#[test]
fn the_name_is_the_beginning_of_the_digest_of_the_very_text() {
    let policy = policy();
    assert_eq!((policy.name().len(), policy.digest().len()), (8, 64));
    assert!(policy.digest().starts_with(&policy.name()));
    let other = AccessPolicy::parse(&format!("{}\n", example())).unwrap();
    assert_ne!(other.digest(), policy.digest());
    let identity = policy.identify(&ShownCredentials { token: token(TWO), ..Default::default() }, EXPIRES).unwrap();
    let authority = policy.authority(identity);
    assert_eq!(authority.actor.policy, Some(policy.name()));
    assert_eq!((authority.actor.name.as_str(), authority.owner()), ("lead", "lead"));
}

#[rstest]
#[case::token(ShownCredentials { token: token(ONE), ..Default::default() }, Some(("shop", "token:2026-11")))]
#[case::unknown_token(ShownCredentials { token: token(&ONE.replace("11", "12")), ..Default::default() }, None)]
#[case::same_first_bytes(ShownCredentials { token: token(&format!("{}00", &ONE[..62])), ..Default::default() }, None)]
#[case::certificate(ShownCredentials { certificate: certificate("shop.example"), ..Default::default() }, Some(("shop", "x509:")))]
#[case::another_name(ShownCredentials { certificate: certificate("x.shop.example"), ..Default::default() }, None)]
#[case::a_name_more(ShownCredentials { certificate: certificate("x.example shop.example"), ..Default::default() }, Some(("shop", "x509:")))]
#[case::of_two_callers(ShownCredentials { certificate: certificate("lead.example shop.example"), ..Default::default() }, None)]
#[case::both(ShownCredentials { token: token(ONE), certificate: certificate("shop.example"), ..Default::default() }, Some(("shop", "token:2026-11")))]
#[case::of_different_callers(ShownCredentials { token: token(ONE), certificate: certificate("lead.example"), ..Default::default() }, None)]
#[case::a_good_token_and_an_unknown_certificate(ShownCredentials { token: token(ONE), certificate: certificate("x.example"), ..Default::default() }, None)]
#[case::an_unknown_token_and_a_good_certificate(ShownCredentials { token: token(&ONE.replace("11", "12")), certificate: certificate("shop.example"), ..Default::default() }, None)]
#[case::uid(ShownCredentials { peer: Some(UnixPeer { uid: 1001, gid: 9 }), ..Default::default() }, Some(("shop", "uid:1001")))]
#[case::gid(ShownCredentials { peer: Some(UnixPeer { uid: 7, gid: 50 }), ..Default::default() }, Some(("lead", "uid:7")))]
#[case::uid_before_gid(ShownCredentials { peer: Some(UnixPeer { uid: 1001, gid: 50 }), ..Default::default() }, Some(("shop", "uid:1001")))]
#[case::another_user(ShownCredentials { peer: Some(UnixPeer { uid: 7, gid: 7 }), ..Default::default() }, None)]
#[case::a_token_of_another_user(ShownCredentials { token: token(TWO), peer: Some(UnixPeer { uid: 1001, gid: 9 }), ..Default::default() }, Some(("lead", "token:a")))]
#[case::a_wrong_token_of_a_known_user(ShownCredentials { token: token(&ONE.replace("11", "12")), peer: Some(UnixPeer { uid: 1001, gid: 9 }), ..Default::default() }, None)]
fn credentials_name_a_caller_or_none(#[case] shown: ShownCredentials, #[case] expected: Option<(&str, &str)>) {
    let before = Timestamp::from_seconds(0);
    match (identified(&policy(), &shown, before), expected) {
        (Ok((caller, credential)), Some((name, start))) => {
            assert_eq!(caller, name);
            assert!(credential.starts_with(start), "{credential}");
        }
        (Err(IdentifyError::Invalid(_)), None) => {}
        (found, expected) => panic!("{found:?}, not {expected:?}"),
    }
}

#[test]
fn without_a_credential_there_is_no_caller_and_an_expired_token_is_like_any_wrong_one() {
    let policy = policy();
    assert_eq!(identified(&policy, &ShownCredentials::default(), EXPIRES), Err(IdentifyError::Missing));
    let shown = ShownCredentials { token: token(ONE), ..Default::default() };
    let just_before = Timestamp::from_micros(EXPIRES.as_micros() - 1);
    assert!(policy.identify(&shown, just_before).is_ok());
    let expired = identified(&policy, &shown, EXPIRES).unwrap_err();
    assert_eq!(expired, IdentifyError::Invalid(InvalidCredential::Expired));
    let unknown = IdentifyError::Invalid(InvalidCredential::Unknown);
    assert_eq!(expired.to_string(), unknown.to_string(), "the caller is not told which");
}

#[rstest]
#[case::not_toml("[callers", &["line 1: is not TOML"])]
#[case::no_caller("", &["line 1: names no caller"])]
#[case::a_section("[caller.shop]\n[callers.shop]\n", &["line 1: caller: is not a key"])]
#[case::a_key(&with_caller("scope = []"), &["line 2: callers.shop.scope: is not a key of this table, which has owner, scopes"])]
#[case::types(&with_caller("scopes = \"refunds:read\"\naccounts = [1]\nunix_users = [\"root\"]\nrate = 5"), &["line 2: callers.shop.scopes: must be an array", "line 3: callers.shop.accounts[0]: must be text", "line 4: callers.shop.unix_users[0]: must be a whole number", "line 5: callers.shop.rate: must be a table"])]
#[case::scopes(&with_caller("scopes = [\n  \"refunds:read\",\n  \"refunds:write\",\n  \"refunds:read\",\n]"), &["line 4: callers.shop.scopes[1]: is no scope; there are refunds:create,", "line 5: callers.shop.scopes[2]: is named twice"])]
#[case::names("[callers.Shop]\nowner = \"Team\"\n[callers.gateway]\n[callers.caller]\n", &["line 1: callers.Shop: a caller's name must be 1 to 63", "line 2: callers.Shop.owner: must be 1 to 63", "line 3: callers.gateway: a caller's name must not be \"gateway\"", "line 4: callers.caller: a caller's name must not"])]
#[case::accounts(&with_caller("accounts = [\"*\", \"a\"]"), &["line 2: callers.shop.accounts: names accounts besides"])]
#[case::accounts_twice(&with_caller("accounts = [\"a\", \"A\", \"a\"]"), &["line 2: callers.shop.accounts[1]: must be 1 to 63", "line 2: callers.shop.accounts[2]: is named twice"])]
#[case::tokens(&with_caller("tokens = [{ id = \"A\", sha256 = \"recoup_x\" }, { id = \"a\" }, { sha256 = 1, expires = \"soon\" }]"), &["line 2: callers.shop.tokens[0].id: must be 1 to 63", "line 2: callers.shop.tokens[0].sha256: must be the SHA-256", "line 2: callers.shop.tokens[1]: has no sha256", "line 2: callers.shop.tokens[2].expires: must be a time", "line 2: callers.shop.tokens[2].sha256: must be text", "line 2: callers.shop.tokens[2]: has no id"])]
#[case::many_tokens(&with_caller("tokens = [{},{},{},{},{}]"), &["line 2: callers.shop.tokens: has more than 4 tokens"])]
#[case::certificates(&with_caller("certificates = [{ dns = \"*.a\" }, { spiffe = \"a\" }, { cn = \"a\" }, {}]"), &["line 2: callers.shop.certificates[0].dns: must be a DNS name", "line 2: callers.shop.certificates[1].spiffe: must be", "line 2: callers.shop.certificates[2].cn: is not a key", "line 2: callers.shop.certificates[3]: must have either spiffe or dns"])]
#[case::rate(&with_caller("rate = { burst = 0, calls = 1 }"), &["line 2: callers.shop.rate.burst: must be a whole number", "line 2: callers.shop.rate.calls: is not a key"])]
#[case::money(&with_caller("[callers.shop.limits]\nrefund_max = { AUD = \"1.005\", usd = \"1\", JPY = \"1\" }\ndaily_max = {}\ndaily_count = 0\nmax = 1"), &["line 3: callers.shop.limits.refund_max.AUD: must be text with a decimal", "line 3: callers.shop.limits.refund_max.JPY: the key must be a currency with two", "line 3: callers.shop.limits.refund_max.usd: the key must be a currency code", "line 4: callers.shop.limits.daily_max: names no currency", "line 5: callers.shop.limits.daily_count: must be a whole", "line 6: callers.shop.limits.max: is not a key"])]
#[case::a_number_for_money("[callers.a]\n[accounts.a.limits]\nassumed_amount = 99.0\n[accounts.A]\nx = 1", &["line 3: accounts.a.limits.assumed_amount: must be text", "line 4: accounts.A: an account name must be", "line 5: accounts.A.x: is not a key"])]
#[case::approvals("[callers.a]\n[approvals.one]\naccounts = []\nneeded = 0\n[approvals.two]\nsimilar = false\nexpire_s = 5", &["line 2: approvals.one: has no condition", "line 2: approvals.one: names no account", "line 4: approvals.one.needed: must be", "line 5: approvals.two: has no accounts", "line 5: approvals.two: has no condition", "line 7: approvals.two.expire_s: must be"])]
fn every_wrong_key_is_named_with_its_line(#[case] text: &str, #[case] expected: &[&str]) {
    let found = errors(text);
    for expected in expected {
        assert!(found.iter().any(|found| found.starts_with(expected)), "{expected}\n{found:#?}");
    }
}

#[test]
fn all_errors_are_named_at_once_in_the_order_of_the_lines() {
    let text = "[callers.shop]\nscopes = [\"x\"]\nkey = 1\n[approvals.a]\n[extra]\n";
    let found = errors(text);
    let lines: Vec<&str> = found.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["line 2", "line 3", "line 4", "line 4", "line 5"], "{found:#?}");
}

#[rstest]
#[case("tokens = [{ id = \"a\", sha256 = \"HASH\" }]", "tokens[0].sha256")]
#[case("certificates = [{ dns = \"a.example\" }]", "certificates[0]")]
#[case("certificates = [{ spiffe = \"spiffe://a/b\" }]", "certificates[0]")]
#[case("unix_users = [7]", "unix_users[0]")]
#[case("unix_groups = [7]", "unix_groups[0]")]
fn a_credential_is_one_callers(#[case] line: &str, #[case] key: &str) {
    let line = line.replace("HASH", ONE);
    let found = errors(&format!("[callers.a]\n{line}\n[callers.b]\n{line}\n"));
    assert_eq!(found, [format!("line 4: callers.b.{key}: is already a credential of the caller \"a\"")]);
}

#[test]
fn two_tokens_of_a_caller_have_two_ids() {
    let tokens = format!("tokens = [{{ id = \"a\", sha256 = \"{ONE}\" }}, {{ id = \"a\", sha256 = \"{TWO}\" }}]");
    let found = errors(&with_caller(&tokens));
    assert_eq!(found, ["line 2: callers.shop.tokens[1].id: is the id of another token of this caller"]);
}

/// A token may have been pasted where its hash belongs.
#[test]
fn no_error_repeats_a_value() {
    let secret = "recoup_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_8b2a4689";
    let values = ["owner = S", "scopes = [S]", "accounts = [S]", "tokens = [{ id = S, sha256 = S, expires = S }]"];
    for value in values {
        let text = with_caller(&value.replace('S', &format!("\"{secret}\"")));
        let found = errors(&text).join("\n");
        assert!(!found.contains("AAECAwQF"), "{found}");
    }
    let broken = format!("[callers.shop]\ntokens = [{{ sha256 = \"{secret}\n");
    assert!(!errors(&broken).join("\n").contains("AAECAwQF"));
}

#[test]
fn a_rule_about_an_account_that_is_not_configured_is_an_error_and_a_callers_account_a_warning() {
    let policy = policy();
    policy.check_accounts(&accounts(&["certificates"])).unwrap();
    let problem = policy.check_accounts(&accounts(&["domains"])).unwrap_err().to_string();
    assert!(problem.starts_with("line 23: accounts.certificates: names an account that is not"), "{problem}");
    let warnings = policy.warnings(Some(&accounts(&["certificates"])));
    assert_eq!(warnings, ["line 5: callers.shop.accounts[1]: names an account that is not configured"]);
}

#[rstest]
#[case("[callers.a]\naccounts = [\"*\"]\n", "callers.a: has no credential")]
#[case("[callers.a]\nunix_users = [1]\n", "callers.a: names no accounts")]
#[case(
    "[callers.a]\naccounts=[\"*\"]\nunix_users=[1]\nscopes=[\"refunds:create\",\"refunds:approve\"]\n[approvals.x]\naccounts=[\"*\"]\nsimilar=true\n",
    "approvals.x: needs 1 owners besides the creator's with the scope refunds:approve, and there are fewer for refunds of a"
)]
fn what_is_unwise_is_a_warning(#[case] text: &str, #[case] expected: &str) {
    let warnings = AccessPolicy::parse(text).unwrap().warnings(None);
    assert!(warnings.iter().any(|warning| warning.starts_with(expected)), "{warnings:#?}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = AccessPolicy::parse(&text);
    }
}
