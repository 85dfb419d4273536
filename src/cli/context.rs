//! Where a command finds its gateway, and how it shows who calls: arguments, environment variables,
//! or a named context.
//!
//! ```text
//! ~/.config/recoup/contexts.toml
//!
//! [prod]
//! server = "https://refunds.example:50051"
//! token_file = "prod.token"                  # beside this file, unless the path is absolute
//! ca = "ca.pem"
//! cert = "me.pem"
//! key = "me.key"
//! ```
//!
//! A token is never an argument: every user of a machine can see its command lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use recoup::access::token::Token;
use serde::Deserialize;

use super::Failure;

/// The arguments of every command that calls a running gateway.
#[derive(Args)]
pub(crate) struct ClientArguments {
    /// The gateway's address: http://127.0.0.1:50051, https://HOST:PORT or unix:/PATH.
    #[arg(long, env = "RECOUP_SERVER", value_name = "URL", global = true)]
    server: Option<String>,
    /// The file with the caller's token.
    #[arg(long, env = "RECOUP_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The authorities that may sign the gateway's certificate, as PEM.
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// The caller's certificate chain, as PEM.
    #[arg(long, value_name = "FILE", global = true)]
    cert: Option<PathBuf>,
    /// The private key of --cert, as PEM.
    #[arg(long, value_name = "FILE", global = true)]
    key: Option<PathBuf>,
    /// A named set of the above in ~/.config/recoup/contexts.toml; not together with one of them.
    #[arg(long, env = "RECOUP_CONTEXT", value_name = "NAME", global = true)]
    context: Option<String>,
}

/// What a connection to a gateway needs.
pub(crate) struct ClientOptions {
    pub(crate) server: String,
    pub(crate) token: Option<Token>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// The gateway's own certificate file, where its configuration names it: the only one trusted.
    pub(crate) gateway_certificate: Option<PathBuf>,
}

/// The gateway of a configuration.
#[derive(Debug, Default)]
pub(crate) struct ConfiguredServer {
    pub(crate) server: String,
    /// Its certificate file, where it has one.
    pub(crate) certificate: Option<PathBuf>,
}

/// One table of the contexts file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    server: String,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// The address of a gateway without configuration.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
const CONTEXTS_FILE: &str = ".config/recoup/contexts.toml";
/// A token with its line end takes 60.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

impl ClientArguments {
    /// Whether they say where the gateway is.
    pub(crate) fn name_a_server(&self) -> bool {
        self.server.is_some() || self.context.is_some()
    }

    /// Reads the context and the token. `configured` is asked where nothing names a server.
    pub(crate) fn resolve(&self, configured: Option<ConfiguredServer>) -> Result<ClientOptions, Failure> {
        let Self { server, token_file, ca, cert, key, context } = self;
        let Some(name) = context else {
            let named = server.clone().map(|server| ConfiguredServer { server, certificate: None });
            let default = || ConfiguredServer { server: DEFAULT_SERVER.to_owned(), certificate: None };
            let ConfiguredServer { server, certificate } = named.or(configured).unwrap_or_else(default);
            let token = token_file.as_deref().map(read_token).transpose()?;
            let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
            let gateway_certificate = certificate.filter(|_| ca.is_none());
            return ClientOptions { server, token, ca, cert, key, gateway_certificate }.checked();
        };
        let named = [server.is_some(), token_file.is_some(), ca.is_some(), cert.is_some(), key.is_some()];
        // A token that belongs to one gateway must not reach another one.
        if named.contains(&true) {
            return Err(Failure::usage(
                "a context names the server and all credentials: use it without --server, --token-file, --ca, --cert, \
                 --key, RECOUP_SERVER and RECOUP_TOKEN_FILE",
            ));
        }
        let path = std::env::home_dir()
            .map(|home| home.join(CONTEXTS_FILE))
            .ok_or_else(|| Failure::usage("a context needs a home directory"))?;
        let Context { server, token_file, ca, cert, key } = read_context(&path, name)?;
        let beside = |file: Option<PathBuf>| file.map(|file| path.with_file_name("").join(file));
        let token = beside(token_file).as_deref().map(read_token).transpose()?;
        let (ca, cert, key) = (beside(ca), beside(cert), beside(key));
        ClientOptions { server, token, ca, cert, key, gateway_certificate: None }.checked()
    }
}

impl ClientOptions {
    fn checked(self) -> Result<Self, Failure> {
        if self.cert.is_some() != self.key.is_some() {
            return Err(Failure::usage("a certificate and its key belong together: name both, or none"));
        }
        let is_plaintext = self.server.starts_with("http://");
        if self.token.is_some() && is_plaintext && !is_this_machine(&self.server) {
            return Err(Failure::usage(format!(
                "the token is not sent to {}: without TLS everyone on the way could read it; use https://",
                self.server
            )));
        }
        if is_plaintext && (self.ca.is_some() || self.cert.is_some()) {
            return Err(Failure::usage("certificates need a server that begins with https://"));
        }
        Ok(self)
    }
}

/// Reads a token. The error repeats nothing of the file.
fn read_token(path: &Path) -> Result<Token, Failure> {
    use std::io::Read as _;
    let named = |why: String| Failure::usage(format!("the token file {} {why}", path.display()));
    let unreadable = |error: std::io::Error| named(format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = secrecy::zeroize::Zeroizing::new(String::new());
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Token::parse(text.trim_end_matches(['\r', '\n'])).map_err(|error| named(error.to_string()))
}

fn read_context(path: &Path, name: &str) -> Result<Context, Failure> {
    let named = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    let mut contexts: BTreeMap<String, Context> =
        toml::from_str(&text).map_err(|error| named(error.to_string().trim_end().to_owned()))?;
    let known = contexts.keys().cloned().collect::<Vec<_>>().join(", ");
    contexts.remove(name).ok_or_else(|| named(format!("has no context \"{name}\"; it has {known}")))
}

fn is_this_machine(server: &str) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
