//! The providers: one trait over three very different protocols, and the configured accounts.
//!
//! An adapter translates a provider's answer into an [`AttemptReport`], which says what the answer
//! *means* for the refund and for the account. It decides nothing: the engine decides what follows,
//! by the account's [`RetryContract`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
/// The type of an endpoint, re-exported so that other layers need not name the HTTP crate.
pub use reqwest::Url;
use secrecy::SecretString;

use crate::domain::contract::RetryContract;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Currency;
use crate::domain::outcome::{AttemptReport, Lookup};
use crate::domain::place::{Destination, Place};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{FieldViolation, Target};
use crate::domain::validation::{OrderKey, StatusAnswer};
use crate::http::client::HttpClientError;
use crate::providers::secret::Secret;
use crate::telemetry::metrics::AccountMeter;

pub use account::{defaults_of, place_of};

mod account;
pub mod debitsuccess;
pub mod defaults;
mod http_outcome;
pub mod instrumented;
mod json_object;
pub mod namecom;
mod probe_run;
pub mod rate_limit;
mod redact;
pub mod secret;
pub mod sectigo;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;

/// Refunds and lookups of one account at its provider.
#[async_trait]
pub trait RefundProvider: Send + Sync + 'static {
    /// Sends one refund request: one call is one wire request, never more. Only the engine's
    /// attempt calls this, after the attempt is on disk. `credential` is the digest recorded with
    /// the attempt; with another secret in use nothing is sent.
    async fn refund(&self, intent: &Intent, credential: Option<&str>) -> AttemptReport;

    /// Looks up what became of a refund. Moves nothing. The caller has acquired a permit for the
    /// first request; each further request acquires one from `limiter`.
    async fn lookup(&self, refund: &Refund, limiter: &dyn RequestLimiter) -> Lookup;

    /// A digest, keyed by the secret that binds the refund's deduplication keys: with another
    /// secret, earlier keys count as expired. None where keys are not bound to a secret.
    fn credential(&self, _refund: &RefundId) -> Option<String> {
        None
    }

    /// Whether an account in `currency` can refund the target. Asked before anything is recorded.
    ///
    /// # Errors
    /// The field of the request that does not fit the account.
    fn check_target(&self, _target: &Target, _currency: Currency) -> Result<(), FieldViolation> {
        Ok(())
    }

    /// Checks that the provider is reachable, accepts the login and is the service that the
    /// configuration describes. Moves nothing. Each of its few requests acquires a permit.
    async fn probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport;
}

/// The account's rate limiter, as an adapter sees it.
#[async_trait]
pub trait RequestLimiter: Send + Sync {
    /// Waits until one more request may be sent.
    async fn acquire(&self);
}

/// Reads the validation status of certificate orders.
#[async_trait]
pub trait ValidationProvider: Send + Sync + 'static {
    /// Asks the provider once. Moves nothing, so repeating it is always safe.
    ///
    /// # Errors
    /// Every [`StatusError`].
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError>;
}

/// Why an account cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Endpoint, certificate authorities or timeouts.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// A setting that cannot be put into a request.
    #[error("{setting} {problem}")]
    Setting {
        /// Its name in [`ProviderSettings`].
        setting: &'static str,
        /// Completes a sentence that begins with the setting's name.
        problem: &'static str,
    },
}

/// Why there is no validation status. No text in it contains a secret; the provider's texts are
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The provider was not reached, or something in front of it answered: ask again later.
    #[error("the provider cannot be asked now: {why}")]
    Unreachable {
        /// What happened.
        why: String,
        /// How long to wait before asking again, if known.
        retry_after: Option<Duration>,
    },
    /// The provider itself answered that it cannot answer now: ask again later.
    #[error("the provider cannot be asked now ({code}: {message})")]
    NotNow {
        /// The provider's code, verbatim.
        code: String,
        /// The provider's text.
        message: String,
        /// How long to wait before asking again, if known.
        retry_after: Option<Duration>,
    },
    /// The provider did not answer within `total_timeout`.
    #[error("the provider did not answer in time")]
    Timeout,
    /// The answer is not one that the provider documents, so nothing in it is believed.
    #[error("the provider's answer cannot be read: {problem}")]
    Protocol {
        /// What is wrong at which JSON path; never the content.
        problem: String,
    },
    /// The provider refused the account's credentials, or the address that the request came from.
    #[error("the provider refused the account's credentials ({code}: {message})")]
    CredentialsRefused {
        /// The provider's code, verbatim.
        code: String,
        /// The provider's text.
        message: String,
    },
    /// The provider has no such order, or it belongs to another account.
    #[error("the provider shows this account no order {order_number} ({code}: {message})")]
    OrderNotFound {
        /// As requested.
        order_number: String,
        /// The provider's code, verbatim.
        code: String,
        /// The provider's text.
        message: String,
    },
    /// Any other refusal.
    #[error("the provider refused ({code}: {message})")]
    Refused {
        /// The provider's code, verbatim.
        code: String,
        /// The provider's text.
        message: String,
    },
}

impl StatusError {
    /// The error for a log: without the provider's texts, which may name people.
    pub fn redacted(&self) -> String {
        match self {
            Self::Unreachable { why, .. } => format!("the provider cannot be asked now: {why}"),
            Self::NotNow { code, .. } => format!("the provider cannot be asked now ({code})"),
            Self::Timeout | Self::Protocol { .. } => self.to_string(),
            Self::CredentialsRefused { code, .. } => format!("the provider refused the account's credentials ({code})"),
            Self::OrderNotFound { code, .. } => format!("the provider shows this account no such order ({code})"),
            Self::Refused { code, .. } => format!("the provider refused ({code})"),
        }
    }
}

/// A configured account, ready for use.
pub struct Account {
    /// The name from the configuration, by which callers address it.
    pub name: AccountName,
    /// The provider that it belongs to.
    pub provider: ProviderKind,
    /// Endpoint, login and currency. Accounts with one login share their reservations.
    pub place: Place,
    /// Earlier places of the same account at the provider.
    pub former: Vec<Place>,
    /// What the provider promises about a repeated request.
    pub contract: RetryContract,
    /// Maximum number of concurrent attempts; as many concurrent lookups are allowed besides.
    pub max_in_flight: usize,
    /// Attempts and lookups per second, evenly spaced; 0: no limit. Reads of a validation status do
    /// not count.
    pub requests_per_second: u32,
    /// The same in any one hour; 0: no limit.
    pub requests_per_hour: u32,
    /// How long a refund may stay PENDING before it expires.
    pub pending_limit: Duration,
    /// How long a request may take, until its answer is read.
    pub total_timeout: Duration,
    /// The secret that it logs in with. A replaced secret is used from the next request on.
    pub secret: Secret,
    /// Sends refunds and looks them up.
    pub refunds: Arc<dyn RefundProvider>,
    /// Reads the validation status of its orders. Only Sectigo accounts have it.
    pub validation: Option<Arc<dyn ValidationProvider>>,
    /// Metrics with the account's labels.
    pub metrics: AccountMeter,
}

/// All configured accounts, by name.
#[derive(Default)]
pub struct Accounts(BTreeMap<AccountName, Arc<Account>>);

/// The settings of one account, as the configuration checked them. They contain secrets, which
/// their `Debug` hides.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// The name by which callers address the account.
    pub name: AccountName,
    /// Base URL: `https`, or `http` to loopback only. No path besides `/`, no user, no query.
    pub endpoint: Url,
    /// Currency of all its amounts.
    pub currency: Currency,
    /// PEM file with the only certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Limit for DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Limit until the whole answer is read.
    pub total_timeout: Duration,
    /// Allow pooled connections for requests that move money. Has no effect where the retry
    /// contract does not deduplicate.
    pub reuse_connections: bool,
    /// Maximum number of concurrent attempts; as many concurrent lookups are allowed besides.
    pub max_in_flight: usize,
    /// Attempts and lookups per second, evenly spaced; 0: no limit. Reads of a validation status do
    /// not count.
    pub requests_per_second: u32,
    /// The same in any one hour; 0: no limit.
    pub requests_per_hour: u32,
    /// How long a refund may stay PENDING before it expires.
    pub pending_limit: Duration,
    /// How long the provider may show "not refunded" after it has refunded.
    pub settle_time: Duration,
    /// Credentials, and what only this provider needs.
    pub provider_settings: ProviderSettings,
    /// Earlier places of the same account at the provider.
    pub former: Vec<FormerPlace>,
}

/// An earlier place of an account. A part that is None is the present one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormerPlace {
    /// Base URL.
    pub endpoint: Option<Url>,
    /// Login name.
    pub login: Option<String>,
}

/// Credentials and other settings that only one provider needs.
#[derive(Debug, Clone)]
pub enum ProviderSettings {
    /// Form fields of every request.
    Sectigo {
        /// `loginName`.
        login_name: String,
        /// `loginPassword`.
        login_password: SecretString,
    },
    /// HTTP Basic authentication.
    Namecom {
        /// Account name; ends in `-test` in the sandbox.
        username: String,
        /// API token.
        token: SecretString,
        /// How long the provider honours an idempotency key.
        key_lifetime: Duration,
    },
    /// Body fields of every request.
    Debitsuccess {
        /// `User.Username`.
        username: String,
        /// `User.Password`.
        password: SecretString,
        /// Path of the service, which is not part of the endpoint: `/DSWebService/DSServices.svc`.
        path: String,
        /// XML namespace of the operations. The provider does not publish it.
        service_namespace: String,
        /// XML namespace of the data members. The provider does not publish it.
        data_namespace: String,
        /// Prefix of the operation's name in `SOAPAction`, with the final slash.
        action_prefix: String,
    },
}

impl Account {
    /// Whether the account can refund the target.
    ///
    /// # Errors
    /// The field of the request that does not fit the account.
    pub fn check_target(&self, target: &Target) -> Result<(), FieldViolation> {
        self.refunds.check_target(target, self.place.currency)
    }

    /// The account's name and place.
    pub fn destination(&self) -> Destination {
        Destination { account: self.name.clone(), place: self.place.clone() }
    }

    /// The names of the settings in which the account differs from the refund's place; empty where
    /// none does.
    pub fn differing_fields(&self, refund: &Refund) -> Vec<&'static str> {
        let mut fields = self.place.differing_fields(&refund.place);
        if self.provider != refund.provider() {
            fields.insert(0, "provider");
        }
        fields
    }

    /// Whether the configuration names `place` as an earlier place of this account.
    pub fn was_at(&self, provider: ProviderKind, place: &Place) -> bool {
        self.provider == provider && self.former.contains(place)
    }
}

impl Accounts {
    /// All of these accounts. Of two with one name, the later one stays.
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        Self(accounts.into_iter().map(|account| (account.name.clone(), Arc::new(account))).collect())
    }

    pub fn get(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.0.get(name)
    }

    /// All accounts, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.0.values()
    }
}
