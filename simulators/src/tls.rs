//! The certificates of the TLS port: an authority and a leaf, both made at start-up and gone with the process.

use std::{net::IpAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;

/// How long a certificate holds: what clients that are strict about it still take.
const VALID: Duration = Duration::days(397);
/// So that a client whose clock is a little slow takes it too.
const VALID_BEFORE: Duration = Duration::days(1);

/// What the TLS port needs, and what its clients need to trust it.
pub(crate) struct Certificates {
    pub(crate) acceptor: TlsAcceptor,
    /// The authority's certificate, PEM.
    pub(crate) ca_pem: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// What no client could ever ask for.
    #[error("`{0}` is neither a host name nor an address (--tls-name)")]
    Name(String),
    /// It cannot be made: a name that is none.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// It cannot be served.
    #[error(transparent)]
    Serve(#[from] rustls::Error),
}

impl Certificates {
    /// Makes an authority and a leaf for these names and addresses. P-256, because an RSA key would take longer than all the rest.
    pub(crate) fn make(names: Vec<String>, now: OffsetDateTime) -> Result<Certificates, CertificateError> {
        if let Some(wrong) = names.iter().find(|name| name.parse::<IpAddr>().is_err() && !is_host_name(name)) {
            return Err(CertificateError::Name(wrong.clone()));
        }
        let authority = Issuer::new(authority_params(now), KeyPair::generate()?);
        let ca = authority_params(now).self_signed(authority.key())?;
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf_params(names, now)?.signed_by(&leaf_key, &authority)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));

        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone(), ca.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Certificates { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem: ca.pem() })
    }
}

/// Labels of letters, digits, hyphens and underscores between dots; the first one may be `*`.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.strip_prefix("*.").unwrap_or(name).split('.').all(is_label)
}

fn authority_params(now: OffsetDateTime) -> CertificateParams {
    let mut params = named("recoup simulators CA", now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// With all that strict clients ask for (Python from 3.13 on, for one): the authority's key identifier and both key usages.
fn leaf_params(names: Vec<String>, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named("recoup simulators Sectigo", now);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - VALID_BEFORE;
    params.not_after = now + VALID;
    params
}
