//! Builds an account from its settings. Sends nothing.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::domain::clock::Clock;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::ids::ProviderKind;
use crate::domain::money::Currency;
use crate::domain::place::Place;
use crate::http::client::{HttpClient, HttpSettings, Transport};
use crate::providers::debitsuccess::{self, Debitsuccess, DebitsuccessService};
use crate::providers::defaults::ProviderDefaults;
use crate::providers::instrumented::Instrumented;
use crate::providers::namecom::{self, Namecom};
use crate::providers::secret::Secret;
use crate::providers::sectigo::{self, Sectigo};
use crate::providers::{
    Account, AccountSettings, ConnectError, FormerPlace, ProviderSettings, RefundProvider, Url, ValidationProvider,
};
use crate::telemetry::metrics::Metrics;

impl Account {
    /// Builds the account: retry contract, place, HTTP client and adapter, all measured by
    /// `metrics`. Opens no connection.
    ///
    /// # Errors
    /// [`ConnectError`], in a sentence that names the setting or the file but not the account.
    pub fn connect(
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Account, ConnectError> {
        let contract = settings.provider_settings.contract(settings.settle_time);
        let http = HttpClient::new(&HttpSettings {
            endpoint: &settings.endpoint,
            ca_file: settings.ca_file.as_ref(),
            connect_timeout: settings.connect_timeout,
            total_timeout: settings.total_timeout,
            // At a provider that does not deduplicate, a pooled connection that the server has just
            // closed would cause a doubt that only a person can resolve.
            reuse_connections: settings.reuse_connections && contract.deduplication != Deduplication::None,
        })?;
        Self::with_client(settings, clock, http, contract, metrics)
    }

    /// Builds the account over the caller's transport, with the real adapters.
    ///
    /// # Errors
    /// As [`Account::connect`].
    pub fn connect_with_transport(
        transport: Arc<dyn Transport>,
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Account, ConnectError> {
        let contract = settings.provider_settings.contract(settings.settle_time);
        let http = HttpClient::with_transport(transport, &settings.endpoint)?;
        Self::with_client(settings, clock, http, contract, &Metrics::off())
    }

    fn with_client(
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
        http: HttpClient,
        contract: RetryContract,
        metrics: &Metrics,
    ) -> Result<Account, ConnectError> {
        let provider = settings.provider_settings.provider();
        let (place, former) = (settings.place(), settings.former_places());
        let name = settings.name.clone();
        let (host, port) = (settings.endpoint.host_str(), settings.endpoint.port_or_known_default());
        let account_metrics = metrics.for_account(&name, provider, host.unwrap_or_default(), port.unwrap_or_default());
        let http = http.with_metrics(account_metrics.clone());
        let secret = Secret::new(settings.provider_settings.secret().clone());
        let provider_settings = settings.provider_settings.clone();
        let (refunds, validation): (Arc<dyn RefundProvider>, Option<Arc<dyn ValidationProvider>>) =
            match provider_settings {
                ProviderSettings::Sectigo { login_name, login_password: _ } => {
                    let sectigo = Arc::new(Sectigo::new(http, login_name, secret.clone()));
                    (
                        Arc::new(Instrumented::new(sectigo.clone(), name, provider, account_metrics.clone())),
                        Some(sectigo),
                    )
                }
                ProviderSettings::Namecom { username, token: _, key_lifetime: _ } => {
                    let namecom = Arc::new(Namecom::new(http, username, secret.clone(), clock)?);
                    (Arc::new(Instrumented::new(namecom, name, provider, account_metrics.clone())), None)
                }
                ProviderSettings::Debitsuccess {
                    username,
                    password: _,
                    path,
                    service_namespace,
                    data_namespace,
                    action_prefix,
                } => {
                    let password = secret.clone();
                    let service = DebitsuccessService {
                        username,
                        password,
                        path,
                        service_namespace,
                        data_namespace,
                        action_prefix,
                    };
                    let debitsuccess = Arc::new(Debitsuccess::new(http, service)?);
                    (Arc::new(Instrumented::new(debitsuccess, name, provider, account_metrics.clone())), None)
                }
            };
        Ok(Account {
            name: settings.name,
            provider,
            place,
            former,
            contract,
            max_in_flight: settings.max_in_flight,
            requests_per_second: settings.requests_per_second,
            requests_per_hour: settings.requests_per_hour,
            pending_limit: settings.pending_limit,
            total_timeout: settings.total_timeout,
            secret,
            refunds,
            validation,
            metrics: account_metrics,
        })
    }
}

impl AccountSettings {
    pub fn place(&self) -> Place {
        self.place_of(&self.endpoint, self.provider_settings.name())
    }

    pub fn former_places(&self) -> Vec<Place> {
        let place = |former: &FormerPlace| {
            let endpoint = former.endpoint.as_ref().unwrap_or(&self.endpoint);
            self.place_of(endpoint, former.login.as_deref().unwrap_or(self.provider_settings.name()))
        };
        self.former.iter().map(place).collect()
    }

    fn place_of(&self, endpoint: &Url, login_name: &str) -> Place {
        place_of(self.provider_settings.provider(), endpoint, login_name, self.currency)
    }
}

impl ProviderSettings {
    /// The provider that the settings are for.
    pub fn provider(&self) -> ProviderKind {
        match self {
            ProviderSettings::Sectigo { .. } => ProviderKind::Sectigo,
            ProviderSettings::Namecom { .. } => ProviderKind::Namecom,
            ProviderSettings::Debitsuccess { .. } => ProviderKind::Debitsuccess,
        }
    }

    fn name(&self) -> &str {
        match self {
            ProviderSettings::Sectigo { login_name, .. } => login_name,
            ProviderSettings::Namecom { username, .. } | ProviderSettings::Debitsuccess { username, .. } => username,
        }
    }

    fn secret(&self) -> &SecretString {
        match self {
            ProviderSettings::Sectigo { login_password: secret, .. }
            | ProviderSettings::Namecom { token: secret, .. }
            | ProviderSettings::Debitsuccess { password: secret, .. } => secret,
        }
    }

    /// What the provider documents about a repeated request.
    fn contract(&self, settle_time: Duration) -> RetryContract {
        let (deduplication, lookup) = match self {
            ProviderSettings::Sectigo { .. } => (Deduplication::None, LookupKind::TargetState),
            ProviderSettings::Namecom { key_lifetime, .. } => {
                (Deduplication::Replay { key_lifetime: *key_lifetime }, LookupKind::TargetState)
            }
            ProviderSettings::Debitsuccess { .. } => (Deduplication::Reject, LookupKind::Refund),
        };
        RetryContract { deduplication, lookup, settle_time }
    }
}

/// The place of the login `login_name` at `endpoint`.
pub fn place_of(provider: ProviderKind, endpoint: &Url, login_name: &str, currency: Currency) -> Place {
    let endpoint = endpoint.origin().ascii_serialization();
    Place { endpoint, login: login_digest(provider, login_name), currency }
}

/// The defaults of a provider's accounts.
pub const fn defaults_of(provider: ProviderKind) -> ProviderDefaults {
    match provider {
        ProviderKind::Sectigo => sectigo::DEFAULTS,
        ProviderKind::Namecom => namecom::DEFAULTS,
        ProviderKind::Debitsuccess => debitsuccess::DEFAULTS,
    }
}

/// A digest of provider and login name, so that the ledger contains no login names. The NUL
/// separates the two.
fn login_digest(provider: ProviderKind, login_name: &str) -> String {
    let digest = Sha256::digest(format!("{provider}\0{login_name}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::domain::clock::ManualClock;
    use crate::domain::ids::AccountName;
    use crate::providers::testing::fixtures::NOW;

    fn sectigo() -> ProviderSettings {
        ProviderSettings::Sectigo { login_name: "demo".to_owned(), login_password: SecretString::from("demo-password") }
    }

    fn namecom(username: &str) -> ProviderSettings {
        let (token, key_lifetime) = (SecretString::from("demo-token"), Duration::from_secs(3_000));
        ProviderSettings::Namecom { username: username.to_owned(), token, key_lifetime }
    }

    fn debitsuccess(path: &str, password: &str, action_prefix: &str) -> ProviderSettings {
        ProviderSettings::Debitsuccess {
            username: "demo".to_owned(),
            password: SecretString::from(password),
            path: path.to_owned(),
            service_namespace: "http://tempuri.org/".to_owned(),
            data_namespace: "http://tempuri.org/data".to_owned(),
            action_prefix: action_prefix.to_owned(),
        }
    }

    fn connect(login: ProviderSettings) -> Result<Account, String> {
        let settings = AccountSettings {
            name: AccountName::parse("main").unwrap(),
            endpoint: "http://127.0.0.1:7101/".parse().unwrap(),
            currency: Currency::USD,
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(60),
            reuse_connections: true,
            max_in_flight: 8,
            requests_per_second: 0,
            requests_per_hour: 0,
            pending_limit: Duration::from_secs(86_400),
            settle_time: Duration::from_secs(600),
            provider_settings: login,
            former: vec![FormerPlace { endpoint: None, login: Some("before".to_owned()) }],
        };
        Account::connect(settings, Arc::new(ManualClock::new(NOW)), &Metrics::off()).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(sectigo(), Deduplication::None, LookupKind::TargetState, true)]
    #[case(
        namecom("demo"),
        Deduplication::Replay { key_lifetime: Duration::from_secs(3_000) },
        LookupKind::TargetState,
        false
    )]
    #[case(debitsuccess("/s.svc", "p", "http://a/"), Deduplication::Reject, LookupKind::Refund, false)]
    fn each_provider_has_its_retry_contract(
        #[case] login: ProviderSettings,
        #[case] deduplication: Deduplication,
        #[case] lookup: LookupKind,
        #[case] has_validation: bool,
    ) {
        let account = connect(login).unwrap();
        let settle_time = Duration::from_secs(600);
        assert_eq!(account.contract, RetryContract { deduplication, lookup, settle_time });
        assert_eq!(account.validation.is_some(), has_validation);
        assert_eq!(account.place.endpoint, "http://127.0.0.1:7101");
        let [former] = account.former.as_slice() else { panic!("{:?}", account.former) };
        assert_eq!(account.place.differing_fields(former), ["login"], "what is left out is the present one");
    }

    #[test]
    fn a_login_digest_distinguishes_logins_without_their_name() {
        let digest = |login| connect(login).unwrap().place.login;
        assert_eq!(digest(sectigo()), digest(sectigo()));
        assert_ne!(digest(sectigo()), digest(namecom("demo")));
        assert_ne!(digest(namecom("demo")), digest(namecom("demo-test")));
        assert_eq!(digest(sectigo()).len(), 32);
    }

    #[rstest]
    #[case(namecom("de:mo"), "username must contain no \":\" (HTTP Basic)")]
    #[case(debitsuccess("s.svc", "p", "http://a/"), "path must begin with \"/\"")]
    #[case(
        debitsuccess("/s.svc", "p\u{1}", "http://a/"),
        "password must contain no control character: XML cannot represent it"
    )]
    #[case(debitsuccess("/s.svc", "p", "a b"), "action_prefix must be a URI: ASCII, no blank, no quotation mark")]
    fn an_unusable_setting_is_named(#[case] login: ProviderSettings, #[case] sentence: &str) {
        assert_eq!(connect(login).err().as_deref(), Some(sentence));
    }
}
