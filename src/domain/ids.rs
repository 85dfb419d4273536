//! Refund ids, account names and providers.

use std::fmt;

/// The caller's idempotency key of a refund: 1 to 50 of `A-Z a-z 0-9 -`. It never expires.
///
/// The bounds are those of the narrowest provider field that carries it (Debitsuccess
/// `ExternalRefundIdentifier`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefundId(String);

/// The name of a configured account: 1 to 63 of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProviderKind {
    /// Certificates.
    Sectigo,
    /// Domains.
    Namecom,
    /// Direct debit.
    Debitsuccess,
}

/// A name that does not have the required form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("must be 1 to 50 of A-Z a-z 0-9 and \"-\"")]
    RefundId,
    #[error("must be 1 to 63 of a-z 0-9 and \"-\"")]
    Account,
    #[error("must be \"refunds/{{refund_id}}\", the refund_id 1 to 50 of A-Z a-z 0-9 and \"-\"")]
    Resource,
}

const RESOURCE_PREFIX: &str = "refunds/";

impl RefundId {
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let fits =
            (1..=50).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        fits.then(|| Self(text.to_owned())).ok_or(InvalidName::RefundId)
    }

    /// Parses the resource name `refunds/{refund_id}`.
    ///
    /// # Errors
    /// [`InvalidName::Resource`]
    pub fn parse_resource(name: &str) -> Result<Self, InvalidName> {
        name.strip_prefix(RESOURCE_PREFIX).and_then(|id| Self::parse(id).ok()).ok_or(InvalidName::Resource)
    }

    pub fn resource(&self) -> String {
        format!("{RESOURCE_PREFIX}{}", self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AccountName {
    /// # Errors
    /// [`InvalidName::Account`]
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        fits.then(|| Self(text.to_owned())).ok_or(InvalidName::Account)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ProviderKind {
    /// The name used in the configuration, the ledger and the logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProviderKind::Sectigo => "sectigo",
            ProviderKind::Namecom => "namecom",
            ProviderKind::Debitsuccess => "debitsuccess",
        }
    }

    /// The provider's own name, for people.
    pub const fn display_name(self) -> &'static str {
        match self {
            ProviderKind::Sectigo => "Sectigo",
            ProviderKind::Namecom => "name.com",
            ProviderKind::Debitsuccess => "Debitsuccess",
        }
    }

    /// The inverse of [`ProviderKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [ProviderKind::Sectigo, ProviderKind::Namecom, ProviderKind::Debitsuccess]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

impl fmt::Display for RefundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("a", true)]
    #[case("7d0c1f1e-6a52-4d5e-9d5c-0a1b2c3d4e5f", true)]
    #[case("", false)]
    #[case("has space", false)]
    #[case("under_score", false)]
    #[case("ümlaut", false)]
    #[case("a/b", false)]
    fn refund_ids_have_one_valid_form(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(RefundId::parse(text).is_ok(), fits);
        assert_eq!(RefundId::parse_resource(&format!("refunds/{text}")).is_ok(), fits);
    }

    #[test]
    fn a_refund_id_has_at_most_fifty_characters() {
        assert!(RefundId::parse(&"x".repeat(50)).is_ok());
        assert_eq!(RefundId::parse(&"x".repeat(51)), Err(InvalidName::RefundId));
    }
}
