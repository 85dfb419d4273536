//! The providers: three very different wires behind one trait, and the registry of configured
//! accounts.
//!
//! An adapter turns a provider's answer into an [`Outcome`], which is what the answer *means*. It
//! decides nothing: what follows from an outcome is the engine's business, by the account's
//! [`RetryContract`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
/// Where a provider is; by this name, so that nobody else needs to name the HTTP crate.
pub use reqwest::Url;
use secrecy::SecretString;

use crate::domain::contract::RetryContract;
use crate::domain::ids::{AccountName, ProviderKind, RefundId};
use crate::domain::money::Currency;
use crate::domain::outcome::{Lookup, Outcome};
use crate::domain::place::{Destination, Place};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::validation::{OrderKey, StatusAnswer};
use crate::providers::secret::Secret;
use crate::telemetry::metrics::AccountMeter;

pub use crate::http::client::ConnectError;
pub use account::place_of;

mod account;
pub mod debitsuccess;
pub mod defaults;
pub mod instrumented;
mod json_object;
pub mod namecom;
mod probing;
mod redact;
pub mod secret;
pub mod sectigo;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;

/// One account at one provider.
#[async_trait]
pub trait RefundProvider: Send + Sync + 'static {
    /// Sends one refund request: one call is one wire request, never more. `engine/step.rs` is the
    /// only caller, after the attempt is on disk. `credential` is what was recorded with the
    /// attempt: under another one nothing is sent.
    async fn refund(&self, intent: &Intent, credential: Option<&str>) -> Outcome;

    /// Asks what became of a refund. Moves nothing. The caller has taken the turn of the first
    /// request; each further one waits for one of `turns`.
    async fn lookup(&self, refund: &Refund, turns: &dyn Turns) -> Lookup;

    /// A keyed digest of the secret that the deduplication keys of a refund are bound to: under
    /// another one, an earlier key counts as expired. None where keys are not bound to a secret.
    fn credential(&self, _refund: &RefundId) -> Option<String> {
        None
    }

    /// Asks whether the provider is reached, accepts the login, and is the service that the
    /// configuration describes. Moves nothing. Each of its few requests waits for a turn of its
    /// own.
    async fn probe(&self, turns: &dyn Turns) -> ProbeReport;
}

/// The rate limiter of an account, as an adapter sees it.
#[async_trait]
pub trait Turns: Send + Sync {
    /// Returns when the next request may be sent.
    async fn turn(&self);
}

/// An account that can tell where the validation of a certificate order stands.
#[async_trait]
pub trait ValidationProvider: Send + Sync + 'static {
    /// Asks the provider once. Moves nothing, so asking again is always safe.
    ///
    /// # Errors
    /// Every [`StatusError`].
    async fn validation_status(&self, order: &OrderKey) -> Result<StatusAnswer, StatusError>;
}

/// Why there is no validation status. No text in it holds a secret; those of the provider are
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The provider was not reached, or is not able to answer now: asking again later is what to
    /// do.
    #[error("the provider cannot be asked now: {why}")]
    Unreachable {
        /// What was seen.
        why: String,
        /// How long to wait before asking again, where that is known.
        retry_after: Option<Duration>,
    },
    /// The provider's own answer is that it cannot answer now: ask again later.
    #[error("the provider cannot be asked now ({code}: {message})")]
    NotNow {
        /// The provider's own code, verbatim.
        code: String,
        /// The provider's own text.
        message: String,
        /// How long to wait before asking again, where that is known.
        retry_after: Option<Duration>,
    },
    /// The provider did not answer in time.
    #[error("the provider did not answer in time")]
    Timeout,
    /// The answer is none that the provider documents: nothing of it is believed.
    #[error("the provider's answer cannot be read: {problem}")]
    Protocol {
        /// Where and in which way, naming the JSON path but never the content.
        problem: String,
    },
    /// The account's credentials, or the address that it calls from, were not accepted.
    #[error("the provider refused the account's credentials ({code}: {message})")]
    CredentialsRefused {
        /// The provider's own code, verbatim.
        code: String,
        /// The provider's own text.
        message: String,
    },
    /// The provider knows no such order, or it belongs to someone else.
    #[error("the provider shows this account no order {order_number} ({code}: {message})")]
    OrderNotFound {
        /// As it was asked for.
        order_number: String,
        /// The provider's own code, verbatim.
        code: String,
        /// The provider's own text.
        message: String,
    },
    /// Any other refusal.
    #[error("the provider refused ({code}: {message})")]
    Refused {
        /// The provider's own code, verbatim.
        code: String,
        /// The provider's own text.
        message: String,
    },
}

impl StatusError {
    /// For a log: without the provider's words, which may name people.
    pub fn without_words(&self) -> String {
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

/// A configured account, ready to be used.
pub struct Account {
    /// As configured; callers name it.
    pub name: AccountName,
    /// Whose account it is.
    pub provider: ProviderKind,
    /// Where it is. Two accounts of one login share their reservations.
    pub place: Place,
    /// Where it was before: the same books at the provider.
    pub former: Vec<Place>,
    /// What the provider promises about a second send.
    pub contract: RetryContract,
    /// Attempts that may be under way at once, and as many looks besides.
    pub max_in_flight: usize,
    /// Attempts and looks in one second, evenly apart; 0: as they come. Validation statuses are not
    /// among them.
    pub requests_per_second: u32,
    /// The same in any hour; 0: no limit.
    pub requests_per_hour: u32,
    /// How long a refund may wait to be sent before it is given up.
    pub pending_limit: Duration,
    /// What it logs in with; a new one is used from the next request on.
    pub secret: Secret,
    /// The wire.
    pub adapter: Arc<dyn RefundProvider>,
    /// Where the validation of its orders stands: Sectigo's accounts alone.
    pub status: Option<Arc<dyn ValidationProvider>>,
    /// What measures it.
    pub meter: AccountMeter,
}

/// All configured accounts, by name.
#[derive(Default)]
pub struct Accounts(BTreeMap<AccountName, Arc<Account>>);

/// What an account is made from. Checked by the configuration; holds secrets, so it cannot be
/// shown.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// As callers name it.
    pub name: AccountName,
    /// Base URL: `https`, or `http` to loopback alone. No path besides `/`, no user, no query.
    pub endpoint: Url,
    /// What its amounts are in.
    pub currency: Currency,
    /// PEM file with the only certificate authorities to be trusted, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Until the connection stands, TLS included.
    pub connect_timeout: Duration,
    /// Until the answer is read whole.
    pub total_timeout: Duration,
    /// Allow pooled connections for requests that move money; only where the retry contract
    /// deduplicates.
    pub reuse_connections: bool,
    /// Attempts that may be under way at once, and as many looks besides.
    pub max_in_flight: usize,
    /// Attempts and looks in one second, evenly apart; 0: as they come. Validation statuses are not
    /// among them.
    pub requests_per_second: u32,
    /// The same in any hour; 0: no limit.
    pub requests_per_hour: u32,
    /// How long a refund may wait to be sent before it is given up.
    pub pending_limit: Duration,
    /// How long "not refunded" may lag behind the truth.
    pub settle_time: Duration,
    /// What is special to the provider.
    pub login: ProviderSettings,
    /// Earlier places of the same books at the provider.
    pub former: Vec<FormerPlace>,
}

/// An earlier place of an account; a part left out is the present one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormerPlace {
    /// The endpoint.
    pub endpoint: Option<Url>,
    /// The login name.
    pub login: Option<String>,
}

/// Credentials, and what else only one provider knows.
#[derive(Debug, Clone)]
pub enum ProviderSettings {
    /// Form fields of every call.
    Sectigo {
        /// `loginName`.
        login_name: String,
        /// `loginPassword`.
        login_password: SecretString,
    },
    /// HTTP Basic.
    Namecom {
        /// Account name; with `-test` in the sandbox.
        username: String,
        /// API token.
        token: SecretString,
        /// How long the provider honours an idempotency key.
        key_lifetime: Duration,
    },
    /// Body fields of every call.
    Debitsuccess {
        /// `User.Username`.
        username: String,
        /// `User.Password`.
        password: SecretString,
        /// Path of the service, which is not part of the endpoint: `/DSWebService/DSServices.svc`.
        path: String,
        /// XML namespace of the operations; the provider's is not public.
        service_namespace: String,
        /// XML namespace of the data members; the provider's is not public.
        data_namespace: String,
        /// What stands before the operation's name in `SOAPAction`, with its last slash.
        action_prefix: String,
    },
}

impl Account {
    /// The account by its name and place.
    pub fn destination(&self) -> Destination {
        Destination { account: self.name.clone(), place: self.place.clone() }
    }

    /// In what the account differs from the one that a refund belongs to; empty where it is that
    /// one.
    pub fn differing_fields(&self, refund: &Refund) -> Vec<&'static str> {
        let mut fields = self.place.differing_fields(&refund.place);
        if self.provider != refund.provider() {
            fields.insert(0, "provider");
        }
        fields
    }

    /// Whether the configuration says that a refund's place is an earlier one of this account.
    pub fn was_at(&self, provider: ProviderKind, place: &Place) -> bool {
        self.provider == provider && self.former.contains(place)
    }
}

impl Accounts {
    /// The registry of these accounts; a later one of the same name takes the place of an earlier.
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        Self(accounts.into_iter().map(|account| (account.name.clone(), Arc::new(account))).collect())
    }

    /// One account.
    pub fn get(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.0.values()
    }
}
