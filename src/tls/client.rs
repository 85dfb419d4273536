//! What a command trusts, and what it shows of itself.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use super::pem::{self, TlsError};

/// Files of a command that calls a gateway.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsSettings {
    /// The authorities that may sign the gateway's certificate. None: those of the system.
    pub ca_file: Option<PathBuf>,
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
    let builder = match &settings.ca_file {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in pem::certificates(path, &pem::read(path)?)? {
                roots.add(certificate).map_err(|error| TlsError::new(path, error.to_string()))?;
            }
            builder.with_root_certificates(roots)
        }
        None => {
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
