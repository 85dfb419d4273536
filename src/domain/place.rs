//! The place of a refund: one login at one host of a provider, in one currency.
//!
//! Each refund is recorded with its place, and is sent, looked up and concluded only there: what
//! one host or login knows about a refund says nothing about another.

use crate::domain::ids::AccountName;
use crate::domain::money::Currency;

/// One login at one host of a provider, in one currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The origin of the endpoint: scheme, host and port, such as `https://api.name.com`.
    pub endpoint: String,
    /// A digest of provider and login name: the ledger contains no login names.
    pub login: String,
    pub currency: Currency,
}

/// The name and present place of a configured account. A refund's destination must equal it before
/// anything is sent or looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    pub account: AccountName,
    pub place: Place,
}

impl Place {
    /// The names of the settings in which two places of one provider differ.
    pub fn differing_fields(&self, other: &Place) -> Vec<&'static str> {
        let parts = [
            ("endpoint", self.endpoint != other.endpoint),
            ("login", self.login != other.login),
            ("currency", self.currency != other.currency),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Whether requests made at the two places reached the same host under the same login.
    pub fn is_same_host_and_login(&self, other: &Place) -> bool {
        self.endpoint == other.endpoint && self.login == other.login
    }
}
