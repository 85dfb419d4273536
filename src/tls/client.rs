//! What a command trusts, and what it shows of itself.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::pem::{self, TlsError};

/// Files of a command that calls a gateway.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsSettings {
    /// The authorities that may sign the gateway's certificate. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The file with the gateway's own chain: only this certificate is trusted, and those that its
    /// authorities in the file have signed, whatever their names are. Counts before `ca_file`.
    pub gateway_certificate_file: Option<PathBuf>,
    /// The command's own certificate chain and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The configuration of a connection to a gateway: HTTP/2 alone.
///
/// # Errors
/// [`TlsError`]: a file cannot be used.
pub fn client_config(settings: &ClientTlsSettings) -> Result<ClientConfig, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let own = settings.ca_file.clone().unwrap_or_default();
    let refused = |problem: &dyn std::fmt::Display| TlsError::new(&own, problem.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| refused(&error))?;
    let builder = match (&settings.gateway_certificate_file, &settings.ca_file) {
        (Some(path), _) => {
            let chain = pem::certificates(path, &pem::read(path)?)?;
            let verifier = OwnGateway::new(chain, provider);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        (None, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for certificate in pem::certificates(path, &pem::read(path)?)? {
                roots.add(certificate).map_err(|error| TlsError::new(path, error.to_string()))?;
            }
            builder.with_root_certificates(roots)
        }
        (None, None) => {
            let verifier = Verifier::new(provider).map_err(|error| refused(&error))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match &settings.certificate {
        Some((certificate, key)) => {
            let chain = pem::certificates(certificate, &pem::read(certificate)?)?;
            let private_key = pem::private_key(key, &pem::read(key)?)?;
            builder.with_client_auth_cert(chain, private_key).map_err(|error| TlsError::new(key, error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Trusts the certificate that the gateway itself is configured with, and one that replaces it.
#[derive(Debug)]
struct OwnGateway {
    chain: Vec<CertificateDer<'static>>,
    authorities: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl OwnGateway {
    fn new(chain: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Self {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(chain.iter().skip(1).cloned());
        Self { chain, authorities, provider }
    }
}

impl ServerCertVerifier for OwnGateway {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.chain.first().is_some_and(|own| own == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.authorities, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
