//! Who a caller is by its client certificate or its local user: through TLS and a unix socket, with
//! the command line as the client.

use std::path::Path;
use std::process::Output;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use recoup::access::token::Token;
use rstest::rstest;
use secrecy::ExposeSecret as _;

use crate::support::process::run;
use crate::support::{Stack, sectigo};

const SHOP: &str = "spiffe://acme.example/ns/shop/sa/refunds";

/// An authority, and certificates of it as files in a folder.
struct Authority<'d> {
    dir: &'d Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'d> Authority<'d> {
    /// Writes `NAME.pem`.
    fn new(dir: &'d Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.pem` and `NAME.key`: a certificate with these names. One with `://` is a URI.
    fn sign(&self, name: &str, names: &[&str]) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "shop.example");
        let san = |name: &&str| match name.contains("://") {
            true => SanType::URI(Ia5String::try_from(*name).unwrap()),
            false => SanType::DnsName(Ia5String::try_from(*name).unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What became of a command: nothing, or the reason in its error.
fn outcome(output: &Output) -> String {
    let errors = text(&output.stderr);
    let reason = ["CREDENTIALS_MISSING", "CREDENTIALS_INVALID", "SCOPE_MISSING", "no gateway answers"];
    reason.into_iter().find(|reason| errors.contains(reason)).map_or(errors.clone(), str::to_owned)
}

/// A gateway whose port takes certificates and tokens, with its files in `dir`.
async fn stack(dir: &Path) -> (Stack, String) {
    let server = Authority::new(dir, "server-ca");
    server.sign("server", &["localhost"]);
    let clients = Authority::new(dir, "client-ca");
    for (name, names) in [
        ("spiffe", &[SHOP][..]),
        ("spiffe-and-dns", &[SHOP, "lead.example"]),
        ("dns", &["lead.example"]),
        ("another-path", &["spiffe://acme.example/ns/shop/sa/Refunds"]),
        ("below", &["x.lead.example"]),
        ("wildcard", &["*.example"]),
        ("common-name", &[]),
        ("two-spiffe", &[SHOP, "spiffe://acme.example/other"]),
        ("two-callers", &["lead.example", "shop.example"]),
    ] {
        clients.sign(name, names);
    }
    let token = Token::generate().ok().unwrap();
    std::fs::write(dir.join("lead.token"), format!("{}\n", token.expose_secret())).unwrap();
    let access = format!(
        "[callers.shop]\nscopes = [\"refunds:read\"]\naccounts = [\"*\"]\n\
         certificates = [{{ spiffe = \"{SHOP}\" }}, {{ dns = \"shop.example\" }}]\n\
         [callers.lead]\nscopes = [\"refunds:read\"]\naccounts = [\"*\"]\n\
         certificates = [{{ dns = \"lead.example\" }}]\n\
         tokens = [{{ id = \"one\", sha256 = \"{}\" }}]\n",
        token.hash().hex()
    );
    std::fs::write(dir.join("access.toml"), access).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let settings = format!(
        "access.file = \"{}\"\n[listeners.public]\naddress = \"127.0.0.1:0\"\ncertificate_file = \"{}\"\n\
         key_file = \"{}\"\nclient_ca_file = \"{}\"\nclient_certificates = \"optional\"\n",
        at("access.toml"),
        at("server.pem"),
        at("server.key"),
        at("client-ca.pem")
    );
    let stack = Stack::start_with(&settings).await;
    let server = format!("https://localhost:{}", stack.app.listener_addr("public").unwrap().port());
    (stack, server)
}

async fn list(dir: &Path, server: &str, arguments: &[String]) -> Output {
    let ca = dir.join("server-ca.pem").display().to_string();
    let mut all: Vec<String> =
        ["refunds", "list", "--server", server, "--ca", &ca].iter().map(|text| (*text).to_owned()).collect();
    all.extend_from_slice(arguments);
    tokio::task::spawn_blocking(move || run(&all.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap()
}

#[rstest]
#[case::spiffe("spiffe", false, "")]
#[case::spiffe_before_dns("spiffe-and-dns", false, "")]
#[case::dns("dns", false, "")]
#[case::another_path("another-path", false, "CREDENTIALS_INVALID")]
#[case::below("below", false, "CREDENTIALS_INVALID")]
#[case::wildcard("wildcard", false, "CREDENTIALS_INVALID")]
#[case::common_name_alone("common-name", false, "CREDENTIALS_INVALID")]
#[case::two_spiffe("two-spiffe", false, "CREDENTIALS_INVALID")]
#[case::two_callers("two-callers", false, "CREDENTIALS_INVALID")]
#[case::token_alone("", true, "")]
#[case::token_and_certificate_of_one_caller("dns", true, "")]
#[case::token_and_certificate_of_two_callers("spiffe", true, "CREDENTIALS_INVALID")]
#[case::token_and_a_certificate_of_no_caller("wildcard", true, "CREDENTIALS_INVALID")]
#[case::nothing("", false, "CREDENTIALS_MISSING")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_proves_one_caller_or_none(
    #[case] certificate: &str,
    #[case] with_token: bool,
    #[case] expected: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let (_stack, server) = stack(dir.path()).await;
    let at = |name: String| dir.path().join(name).display().to_string();
    let mut arguments = Vec::new();
    if !certificate.is_empty() {
        arguments.extend(["--cert".to_owned(), at(format!("{certificate}.pem"))]);
        arguments.extend(["--key".to_owned(), at(format!("{certificate}.key"))]);
    }
    if with_token {
        arguments.extend(["--token-file".to_owned(), at("lead.token".to_owned())]);
    }
    let output = list(dir.path(), &server, &arguments).await;
    assert_eq!(outcome(&output), expected, "{}", text(&output.stderr));
    assert_eq!(output.status.success(), expected.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_does_not_even_connect() {
    let dir = tempfile::tempdir().unwrap();
    let (_stack, server) = stack(dir.path()).await;
    Authority::new(dir.path(), "other-ca").sign("foreign", &[SHOP]);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let arguments = ["--cert".to_owned(), at("foreign.pem"), "--key".to_owned(), at("foreign.key")];
    let output = list(dir.path(), &server, &arguments).await;
    assert!(!output.status.success());
    assert!(!text(&output.stderr).contains("CREDENTIALS"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_user_is_a_caller_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let user = rustix::process::geteuid().as_raw();
    let access = |user: u32| {
        let text = format!(
            "[callers.operator]\nscopes = [\"refunds:read\", \"refunds:create\", \"refunds:cancel\"]\naccounts = [\"*\"]\nunix_users = [{user}]\n"
        );
        std::fs::write(dir.path().join("access.toml"), text).unwrap();
    };
    access(user);
    let settings =
        format!("access.file = \"{}\"\n[listeners.local]\nunix = \"{}\"\n", at("access.toml"), at("recoup.sock"));
    let stack = Stack::start_with(&settings).await;
    let server = format!("unix:{}", at("recoup.sock"));
    let command = |arguments: &'static [&str]| {
        let all: Vec<String> =
            [&["refunds", "--server", &server][..], arguments].concat().iter().map(|text| (*text).to_owned()).collect();
        tokio::task::spawn_blocking(move || run(&all.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let listed = command(&["list"]).await.unwrap();
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let refused = command(&["reconcile", "one"]).await.unwrap();
    assert!(text(&refused.stderr).contains("SCOPE_MISSING, scope refunds:reconcile"), "{}", text(&refused.stderr));
    // The port knows no users: it asks for a credential.
    let anonymous = stack.create(sectigo("one", "1000001")).await.unwrap_err();
    assert_eq!(crate::support::reason(&anonymous), "CREDENTIALS_MISSING");
    let stack = stack.restart_as(|configuration| {
        access(user + 1);
        crate::support::with_settings(&configuration, &settings)
    });
    let _stack = stack.await;
    let unknown = command(&["list"]).await.unwrap();
    assert!(text(&unknown.stderr).contains("CREDENTIALS_INVALID"), "{}", text(&unknown.stderr));
}
