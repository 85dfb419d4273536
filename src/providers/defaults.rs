//! Defaults of [`AccountSettings`], for accounts in general and for those of each provider.
//!
//! [`AccountSettings`]: super::AccountSettings

use std::time::Duration;

/// `connect_timeout`, unless half of `total_timeout` is shorter.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `total_timeout`
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);
/// `max_in_flight`
pub const MAX_IN_FLIGHT: usize = 16;
/// `pending_limit`
pub const PENDING_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// name.com's `key_lifetime`: 50 minutes. name.com documents 12 hours and, in newer text, 1 hour.
/// This is the shorter one, less a margin for clocks that differ.
pub const NAMECOM_KEY_LIFETIME: Duration = Duration::from_secs(3000);

/// Debitsuccess's `path`.
pub const DEBITSUCCESS_PATH: &str = "/DSWebService/DSServices.svc";
/// Debitsuccess's `service_namespace`. This and the next two are what WCF writes by default; the
/// provider's own values are not public.
pub const DEBITSUCCESS_SERVICE_NAMESPACE: &str = "http://tempuri.org/";
/// Debitsuccess's `data_namespace`.
pub const DEBITSUCCESS_DATA_NAMESPACE: &str = "http://schemas.datacontract.org/2004/07/DSWebService";
/// Debitsuccess's `action_prefix`.
pub const DEBITSUCCESS_ACTION_PREFIX: &str = "http://tempuri.org/IDSServices/";

/// What an account has where its configuration does not say otherwise. Each adapter declares its
/// own as `DEFAULTS`; [`super::defaults_of`] finds them.
#[derive(Debug, Clone, Copy)]
pub struct ProviderDefaults {
    /// `endpoint`: the production host, if there is a public one.
    pub endpoint: Option<&'static str>,
    /// `requests_per_second`: as the provider documents. 0: no limit.
    pub requests_per_second: u32,
    /// `requests_per_hour`: as the provider documents. 0: no limit.
    pub requests_per_hour: u32,
    /// `settle_time`: how long a read of the provider may lag behind a refund.
    pub settle_time: Duration,
}
