//! From settings to an account that is ready to be used. Nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::domain::clock::Clock;
use crate::domain::contract::{Deduplication, LookupKind, RetryContract};
use crate::domain::ids::Provider as ProviderKind;
use crate::providers::debitsuccess::{Debitsuccess, Service};
use crate::providers::http::{ConnectError, HttpClient, HttpSettings, Wire};
use crate::providers::namecom::Namecom;
use crate::providers::observed::Observed;
use crate::providers::sectigo::Sectigo;
use crate::providers::{Account, AccountSettings, Login, Provider, StatusSource};
use crate::telemetry::metrics::Metrics;

impl Account {
    /// Makes the account: its contract, its scope and its wire, all measured by `metrics`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ConnectError`], in a sentence that names the setting or the file but not the account.
    pub fn connect(
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Account, ConnectError> {
        let contract = settings.login.contract(settings.settle_time);
        let http = HttpClient::new(&HttpSettings {
            endpoint: &settings.endpoint,
            ca_file: settings.ca_file.as_ref(),
            connect_timeout: settings.connect_timeout,
            total_timeout: settings.total_timeout,
            // Where nothing deduplicates, a connection that the peer has just closed is doubt that only a person can settle.
            reuse_connections: settings.reuse_connections && contract.deduplication != Deduplication::None,
        })?;
        Self::with_client(settings, clock, http, contract, metrics)
    }

    /// Makes the account over a wire that the caller brings: the adapters are the real ones, down to the bytes.
    ///
    /// # Errors
    /// As [`Account::connect`].
    pub fn connect_over(
        wire: Arc<dyn Wire>,
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Account, ConnectError> {
        let contract = settings.login.contract(settings.settle_time);
        let http = HttpClient::over(wire, &settings.endpoint)?;
        Self::with_client(settings, clock, http, contract, &Metrics::off())
    }

    fn with_client(
        settings: AccountSettings,
        clock: Arc<dyn Clock>,
        http: HttpClient,
        contract: RetryContract,
        metrics: &Metrics,
    ) -> Result<Account, ConnectError> {
        let provider = settings.login.provider();
        let scope = scope_of(provider, settings.login.name());
        let name = settings.name.clone();
        let (host, port) = (settings.endpoint.host_str(), settings.endpoint.port_or_known_default());
        let meter = metrics.of_account(&name, provider, host.unwrap_or_default(), port.unwrap_or_default());
        let http = http.measured(meter.clone());
        let (adapter, status): (Arc<dyn Provider>, Option<Arc<dyn StatusSource>>) = match settings.login.clone() {
            Login::Sectigo { login_name, login_password } => {
                let sectigo = Arc::new(Sectigo::new(http, login_name, login_password));
                (Arc::new(Observed::new(sectigo.clone(), name, provider, meter.clone())), Some(sectigo))
            }
            Login::Namecom { username, token, key_lifetime: _ } => {
                let namecom = Arc::new(Namecom::new(http, &username, &token, clock)?);
                (Arc::new(Observed::new(namecom, name, provider, meter.clone())), None)
            }
            Login::Debitsuccess { username, password, path, service_namespace, data_namespace, action_prefix } => {
                let service = Service { username, password, path, service_namespace, data_namespace, action_prefix };
                let debitsuccess = Arc::new(Debitsuccess::new(http, service)?);
                (Arc::new(Observed::new(debitsuccess, name, provider, meter.clone())), None)
            }
        };
        Ok(Account {
            name: settings.name,
            provider,
            endpoint: settings.endpoint.origin().ascii_serialization(),
            currency: settings.currency,
            contract,
            scope,
            max_in_flight: settings.max_in_flight,
            requests_per_second: settings.requests_per_second,
            requests_per_hour: settings.requests_per_hour,
            pending_limit: settings.pending_limit,
            adapter,
            status,
            meter,
        })
    }
}

impl Login {
    fn provider(&self) -> ProviderKind {
        match self {
            Login::Sectigo { .. } => ProviderKind::Sectigo,
            Login::Namecom { .. } => ProviderKind::Namecom,
            Login::Debitsuccess { .. } => ProviderKind::Debitsuccess,
        }
    }

    fn name(&self) -> &str {
        match self {
            Login::Sectigo { login_name, .. } => login_name,
            Login::Namecom { username, .. } | Login::Debitsuccess { username, .. } => username,
        }
    }

    /// What the provider is documented to do about a second send.
    fn contract(&self, settle_time: Duration) -> RetryContract {
        let (deduplication, lookup) = match self {
            Login::Sectigo { .. } => (Deduplication::None, LookupKind::TargetState),
            Login::Namecom { key_lifetime, .. } => {
                (Deduplication::Replay { key_lifetime: *key_lifetime }, LookupKind::TargetState)
            }
            Login::Debitsuccess { .. } => (Deduplication::Reject, LookupKind::Refund),
        };
        RetryContract { deduplication, lookup, settle_time }
    }
}

/// A digest of provider and login name, so that two accounts with one login share their reservations. The NUL keeps the two apart.
fn scope_of(provider: ProviderKind, login_name: &str) -> String {
    let digest = Sha256::digest(format!("{provider}\0{login_name}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::domain::clock::ManualClock;
    use crate::domain::ids::AccountName;
    use crate::domain::money::Currency;
    use crate::providers::samples::NOW;

    fn sectigo() -> Login {
        Login::Sectigo { login_name: "demo".to_owned(), login_password: SecretString::from("demo-password") }
    }

    fn namecom(username: &str) -> Login {
        let (token, key_lifetime) = (SecretString::from("demo-token"), Duration::from_secs(3_000));
        Login::Namecom { username: username.to_owned(), token, key_lifetime }
    }

    fn debitsuccess(path: &str, password: &str, action_prefix: &str) -> Login {
        Login::Debitsuccess {
            username: "demo".to_owned(),
            password: SecretString::from(password),
            path: path.to_owned(),
            service_namespace: "http://tempuri.org/".to_owned(),
            data_namespace: "http://tempuri.org/data".to_owned(),
            action_prefix: action_prefix.to_owned(),
        }
    }

    fn connect(login: Login) -> Result<Account, String> {
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
            login,
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
    fn each_provider_has_its_contract(
        #[case] login: Login,
        #[case] deduplication: Deduplication,
        #[case] lookup: LookupKind,
        #[case] tells_status: bool,
    ) {
        let account = connect(login).unwrap();
        let settle_time = Duration::from_secs(600);
        assert_eq!(account.contract, RetryContract { deduplication, lookup, settle_time });
        assert_eq!(account.status.is_some(), tells_status);
        assert_eq!(account.endpoint, "http://127.0.0.1:7101");
    }

    #[test]
    fn one_login_is_one_scope() {
        let scope = |login| connect(login).unwrap().scope;
        assert_eq!(scope(sectigo()), scope(sectigo()));
        assert_ne!(scope(sectigo()), scope(namecom("demo")));
        assert_ne!(scope(namecom("demo")), scope(namecom("demo-test")));
        assert_eq!(scope(sectigo()).len(), 32);
    }

    #[rstest]
    #[case(namecom("de:mo"), "username must hold no \":\" (HTTP Basic)")]
    #[case(debitsuccess("s.svc", "p", "http://a/"), "path must begin with \"/\"")]
    #[case(
        debitsuccess("/s.svc", "p\u{1}", "http://a/"),
        "password must hold no control character: XML cannot carry it"
    )]
    #[case(debitsuccess("/s.svc", "p", "a b"), "action_prefix must be a URI: ASCII, no blank, no quotation mark")]
    fn a_setting_that_does_not_fit_is_named(#[case] login: Login, #[case] sentence: &str) {
        assert_eq!(connect(login).err().as_deref(), Some(sentence));
    }
}
