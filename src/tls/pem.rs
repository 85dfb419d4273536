//! Certificates and keys in PEM files.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Far above any chain, and above the CRL of a private authority.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A file that TLS needs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// The problem, without any part of the content.
    pub problem: String,
}

impl TlsError {
    pub(super) fn new(file: &Path, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), problem: problem.into() }
    }
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: std::io::Error| TlsError::new(path, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    File::open(path).map_err(unreadable)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::new(path, "is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// All certificates, at least one.
pub(super) fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = all(path, bytes, "certificate")?;
    if certificates.is_empty() {
        return Err(TlsError::new(path, "contains no certificate in PEM form"));
    }
    Ok(certificates)
}

/// All certificate revocation lists, at least one.
pub(super) fn revocation_lists(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = all(path, bytes, "certificate revocation list")?;
    if lists.is_empty() {
        return Err(TlsError::new(path, "contains no certificate revocation list in PEM form"));
    }
    Ok(lists)
}

/// The one private key.
pub(super) fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|_| TlsError::new(path, "contains no private key in PEM form"))
}

fn all<T: PemObject>(path: &Path, bytes: &[u8], what: &str) -> Result<Vec<T>, TlsError> {
    T::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|_| TlsError::new(path, format!("has a broken {what}")))
}
