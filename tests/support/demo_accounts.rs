//! Accounts under the logins of the simulators' demo world, as sections of a configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use simulators::request::Provider;

/// The environment variables that the sections name, with the demo world's secrets.
///
/// The last one is a token that name.com accepts once the token has been renewed.
pub(crate) const SECRETS: [(&str, &str); 3] =
    [("DEMO_PASSWORD", "demo-password"), ("DEMO_TOKEN", "demo-token"), ("RENEWED_TOKEN", "renewed-token")];

/// One section `[accounts.<name>]`.
#[derive(Debug, Clone)]
pub(crate) struct AccountSection {
    pub(crate) name: String,
    pub(crate) provider: Provider,
    pub(crate) endpoint: String,
    /// The authority of Sectigo's certificate; unused at the other providers.
    pub(crate) ca_file: PathBuf,
    pub(crate) login: &'static str,
    /// The environment variable with the password or the token.
    pub(crate) secret: &'static str,
}

impl AccountSection {
    /// The demo account of a provider that listens at `address`.
    pub(crate) fn new(provider: Provider, address: SocketAddr, ca_file: &Path) -> AccountSection {
        AccountSection {
            name: account_name(provider).to_owned(),
            provider,
            endpoint: endpoint(provider, address),
            ca_file: ca_file.to_owned(),
            login: login(provider),
            secret: match provider {
                Provider::Namecom => "DEMO_TOKEN",
                Provider::Sectigo | Provider::Debitsuccess => "DEMO_PASSWORD",
            },
        }
    }

    pub(crate) fn to_toml(&self) -> String {
        let AccountSection { name, provider, endpoint, ca_file, login, secret } = self;
        let kind = account_name(*provider);
        let own = match provider {
            Provider::Sectigo => format!(
                "ca_file = \"{}\"\nlogin_name = \"{login}\"\nlogin_password_env = \"{secret}\"\n",
                ca_file.display()
            ),
            Provider::Namecom => format!("username = \"{login}\"\ntoken_env = \"{secret}\"\n"),
            Provider::Debitsuccess => {
                format!("currency = \"AUD\"\nusername = \"{login}\"\npassword_env = \"{secret}\"\n")
            }
        };
        format!("[accounts.{name}]\nprovider = \"{kind}\"\nendpoint = \"{endpoint}\"\n{own}")
    }
}

/// The usual name of a provider's account, which is also the provider's name in the configuration.
pub(crate) fn account_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Sectigo => "sectigo",
        Provider::Namecom => "namecom",
        Provider::Debitsuccess => "debitsuccess",
    }
}

/// The login of a provider's account.
pub(crate) fn login(provider: Provider) -> &'static str {
    match provider {
        Provider::Namecom => "demo-test",
        Provider::Sectigo | Provider::Debitsuccess => "demo",
    }
}

/// The endpoint of a provider that listens at `address`: Sectigo is only reached over TLS.
pub(crate) fn endpoint(provider: Provider, address: SocketAddr) -> String {
    let scheme = if provider == Provider::Sectigo { "https" } else { "http" };
    format!("{scheme}://{address}")
}
