//! Defaults of [`AccountSettings`], for accounts in general and for those of each provider.
//!
//! [`AccountSettings`]: super::AccountSettings

use std::time::Duration;

use crate::domain::ids::ProviderKind;

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

/// `endpoint`: the production host. Debitsuccess has no public one.
pub const fn endpoint(provider: ProviderKind) -> Option<&'static str> {
    match provider {
        ProviderKind::Sectigo => Some("https://secure.trust-provider.com"),
        ProviderKind::Namecom => Some("https://api.name.com"),
        ProviderKind::Debitsuccess => None,
    }
}

/// `requests_per_second` and `requests_per_hour`: what name.com documents. The other two document
/// no rate.
pub const fn rate_limits(provider: ProviderKind) -> (u32, u32) {
    match provider {
        ProviderKind::Namecom => (20, 3_000),
        ProviderKind::Sectigo | ProviderKind::Debitsuccess => (0, 0),
    }
}
