//! The names that a client certificate proves.
//!
//! A certificate reaches this module after the listener has verified its chain, its validity and
//! its revocation. What is left is who it names: the `spiffe://` URI among its subject alternative
//! names, compared byte for byte; without one its DNS names. The common name never counts: nothing
//! constrains it. A wildcard never counts: it names many.

use std::fmt;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

use super::token::hex;

/// A name of the access file that a certificate may prove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateName {
    /// `spiffe://acme.example/ns/shop/sa/refunds`
    Spiffe(String),
    /// In lower case.
    Dns(String),
}

/// Who a verified client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// One SPIFFE URI, or any number of DNS names.
    names: Vec<CertificateName>,
    /// The first 16 hex digits of the certificate's SHA-256.
    fingerprint: String,
}

/// Why a certificate names no caller, whatever the access file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the client certificate cannot be parsed")]
    Unreadable,
    #[error("the client certificate names two SPIFFE identities")]
    TwoSpiffe,
    #[error("the client certificate has neither a SPIFFE URI nor a DNS name without a wildcard")]
    NoName,
}

const SPIFFE_SCHEME: &str = "spiffe://";
const MAX_NAME_BYTES: usize = 2048;

impl CertificateIdentity {
    /// Reads the names of a certificate that has been verified.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn from_verified(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = CertificateDer::from(der);
        let parsed = EndEntityCert::try_from(&certificate).map_err(|_| CertificateError::Unreadable)?;
        let spiffe: Vec<&str> = parsed.valid_uri_names().filter(|uri| is_spiffe(uri)).collect();
        let names: Vec<CertificateName> = match spiffe.as_slice() {
            [] => {
                let dns = parsed.valid_dns_names().filter(|name| !name.contains('*'));
                dns.map(|name| CertificateName::Dns(name.to_ascii_lowercase())).collect()
            }
            [one] => vec![CertificateName::Spiffe((*one).to_owned())],
            _ => return Err(CertificateError::TwoSpiffe),
        };
        if names.is_empty() {
            return Err(CertificateError::NoName);
        }
        let fingerprint = Sha256::digest(der).iter().take(8).copied().collect::<Vec<u8>>();
        Ok(Self { names, fingerprint: hex(&fingerprint) })
    }

    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }

    /// As the history records it: `x509:9f2c41d07b3a55e8`.
    pub fn credential(&self) -> String {
        format!("x509:{}", self.fingerprint)
    }
}

impl CertificateName {
    /// # Errors
    /// A sentence about the form.
    pub fn parse_spiffe(text: &str) -> Result<Self, &'static str> {
        let path = text.strip_prefix(SPIFFE_SCHEME).unwrap_or_default();
        let fits = text.len() <= MAX_NAME_BYTES
            && path.split_once('/').is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*' | b'%'));
        fits.then(|| Self::Spiffe(text.to_owned()))
            .ok_or("must be \"spiffe://\" with a trust domain and a path, without \"*\", \"?\", \"#\" and \"%\"")
    }

    /// # Errors
    /// A sentence about the form.
    pub fn parse_dns(text: &str) -> Result<Self, &'static str> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        };
        let fits = text.len() <= 253 && text.split('.').all(is_label);
        fits.then(|| Self::Dns(text.to_owned())).ok_or("must be a DNS name in lower case, without \"*\"")
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateName::Spiffe(uri) => f.write_str(uri),
            CertificateName::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// A scheme is the same in any case, so one in capitals must not go unnoticed.
fn is_spiffe(uri: &str) -> bool {
    uri.get(..SPIFFE_SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SPIFFE_SCHEME))
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use rstest::rstest;

    use super::*;

    const SHOP: &str = "spiffe://acme.example/ns/shop/sa/refunds";

    /// A certificate with these names: `uri:...` or a DNS name.
    fn certificate(names: &[&str], common_name: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let san = |name: &&str| match name.strip_prefix("uri:") {
            Some(uri) => SanType::URI(Ia5String::try_from(uri).unwrap()),
            None => SanType::DnsName(Ia5String::try_from(*name).unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[rstest]
    #[case::spiffe(&["uri:spiffe://acme.example/ns/shop/sa/refunds"], Ok(vec![CertificateName::Spiffe(SHOP.to_owned())]))]
    #[case::spiffe_before_dns(&["shop.example", "uri:spiffe://acme.example/ns/shop/sa/refunds"], Ok(vec![CertificateName::Spiffe(SHOP.to_owned())]))]
    #[case::dns(&["Shop.example", "uri:https://shop.example"], Ok(vec![CertificateName::Dns("shop.example".to_owned())]))]
    #[case::a_wildcard_beside_a_name(&["*.example", "shop.example"], Ok(vec![CertificateName::Dns("shop.example".to_owned())]))]
    #[case::wildcard(&["*.example"], Err(CertificateError::NoName))]
    #[case::common_name_only(&[], Err(CertificateError::NoName))]
    #[case::two_spiffe(&["uri:spiffe://acme.example/a", "uri:spiffe://acme.example/b"], Err(CertificateError::TwoSpiffe))]
    #[case::two_spiffe_in_capitals(&["uri:spiffe://acme.example/a", "uri:SPIFFE://acme.example/b"], Err(CertificateError::TwoSpiffe))]
    fn a_certificate_names(#[case] names: &[&str], #[case] expected: Result<Vec<CertificateName>, CertificateError>) {
        let der = certificate(names, "shop.example");
        assert_eq!(CertificateIdentity::from_verified(&der).map(|identity| identity.names), expected);
    }

    #[test]
    fn what_is_no_certificate_names_no_caller() {
        assert_eq!(CertificateIdentity::from_verified(b"no"), Err(CertificateError::Unreadable));
    }

    #[test]
    fn the_credential_is_the_beginning_of_the_digest() {
        let der = certificate(&["shop.example"], "");
        let credential = CertificateIdentity::from_verified(&der).unwrap().credential();
        assert_eq!(credential.len(), "x509:".len() + 16);
        assert!(hex(&Sha256::digest(&der)).starts_with(credential.strip_prefix("x509:").unwrap()));
    }

    #[rstest]
    #[case("spiffe://acme.example/a", true)]
    #[case("spiffe://acme.example", false)]
    #[case("spiffe:///a", false)]
    #[case("SPIFFE://acme.example/a", false)]
    #[case("https://acme.example/a", false)]
    #[case("spiffe://acme.example/*", false)]
    fn a_spiffe_id_has_a_domain_and_a_path(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(CertificateName::parse_spiffe(text).is_ok(), fits);
    }

    #[rstest]
    #[case("shop.example", true)]
    #[case("Shop.example", false)]
    #[case("*.example", false)]
    #[case("shop..example", false)]
    #[case("", false)]
    fn a_dns_name_is_exact(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(CertificateName::parse_dns(text).is_ok(), fits);
    }
}
