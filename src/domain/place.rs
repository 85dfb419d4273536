//! Where a refund belongs: one login at one host of a provider, in one currency.
//!
//! A refund is recorded with its place. Nothing is sent, looked up or concluded at any other: what
//! one host or login knows of a refund says nothing about another.

use crate::domain::ids::AccountName;
use crate::domain::money::Currency;

/// One login at one host of a provider, in one currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The endpoint's origin: scheme, host and port, such as `https://api.name.com`.
    pub endpoint: String,
    /// A digest of provider and login name, so that no login name stands in the ledger.
    pub login: String,
    /// The currency of the account's amounts.
    pub currency: Currency,
}

/// A configured account by its name and its place: what its refunds must match before anything is
/// sent or looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The account's name.
    pub account: AccountName,
    /// Its present place.
    pub place: Place,
}

impl Place {
    /// The parts in which two places of one provider differ, by the names of the settings.
    pub fn differing_fields(&self, other: &Place) -> Vec<&'static str> {
        let parts = [
            ("endpoint", self.endpoint != other.endpoint),
            ("login", self.login != other.login),
            ("currency", self.currency != other.currency),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Whether a request that was made at one of the two reached the same host under the same login
    /// as at the other.
    pub fn is_same_host_and_login(&self, other: &Place) -> bool {
        self.endpoint == other.endpoint && self.login == other.login
    }
}
