//! The certificates of the TLS ports: one from the configuration, or a leaf issued at each start by
//! an authority, which is kept in files if the configuration names them.
//!
//! ```text
//! FILE and FILE.key exist, belong together, are ours, not expired  ->  reused
//! neither exists                                                   ->  created
//! ours, but expired or without a matching key                      ->  replaced, with a warning
//! a certificate of another authority                               ->  refused, not overwritten
//! ```

use std::{
    fs,
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime, PrimitiveDateTime, macros::format_description};
use tokio_rustls::TlsAcceptor;

/// The validity of a leaf: the maximum that strict clients accept.
const VALIDITY: Duration = Duration::days(397);
/// The validity of an authority, so that clients need to trust it only once.
const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// How much earlier the validity begins, for clients whose clock is slow.
const CLOCK_TOLERANCE: Duration = Duration::days(1);
/// The common name that identifies our authority.
const AUTHORITY: &str = "recoup simulators CA";
/// The file mode of keys: only the owner can read them.
const PRIVATE: u32 = 0o600;

/// The acceptor of the TLS ports, and what their clients have to trust.
pub(crate) struct Certificates {
    pub(crate) acceptor: TlsAcceptor,
    /// The certificate that clients have to trust, PEM: the authority's, or the configured one.
    pub(crate) ca_pem: String,
    /// A new authority that is not written yet.
    unwritten: Option<Unwritten>,
}

/// A new authority.
struct Unwritten {
    file: PathBuf,
    key_pem: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A name that is neither a host name nor an address.
    #[error("`{0}` is neither a host name nor an address (--tls-name)")]
    Name(String),
    /// The certificate cannot be generated.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// The certificate cannot be used by the server.
    #[error(transparent)]
    Serve(#[from] rustls::Error),
    /// A certificate without its key, or a key without its certificate.
    #[error("--tls-certificate and --tls-key belong together, and one of them is missing")]
    Half,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file does not contain what it should.
    #[error("{} contains no {what} in PEM", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
    },
    /// The authority's file contains a foreign certificate.
    #[error(
        "{} contains a certificate that the simulators did not make and will not replace: choose another file (--ca-file)",
        path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
}

/// An authority, with its certificate.
struct Authority {
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
    not_after: OffsetDateTime,
}

/// The content of an authority's files.
enum AuthorityFiles {
    Nothing,
    Usable(Box<Authority>),
    /// Ours but unusable, with the reason.
    Useless(&'static str),
}

impl Certificates {
    /// A leaf for these names and addresses, issued by the authority in this file, which is created
    /// if it does not exist.
    pub(crate) fn make(
        names: Vec<String>,
        ca_file: Option<&Path>,
        now: OffsetDateTime,
    ) -> Result<Certificates, CertificateError> {
        if let Some(wrong) = names.iter().find(|name| name.parse::<IpAddr>().is_err() && !is_host_name(name)) {
            return Err(CertificateError::Name(wrong.clone()));
        }
        let kept = ca_file.map_or(Ok(AuthorityFiles::Nothing), |file| Authority::kept(file, now))?;
        let (authority, is_new) = match kept {
            AuthorityFiles::Usable(authority) => (*authority, false),
            AuthorityFiles::Nothing => (Authority::make(now)?, true),
            AuthorityFiles::Useless(why) => {
                let file = ca_file.unwrap_or(Path::new("")).display();
                tracing::warn!(%file, "replaced the authority of the TLS ports, which clients have to trust again: {why}");
                (Authority::make(now)?, true)
            }
        };
        let unwritten = ca_file
            .filter(|_| is_new)
            .map(|file| Unwritten { file: file.to_owned(), key_pem: authority.key.serialize_pem() });
        let leaf_key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_params(now), authority.key);
        let leaf = leaf_params(names, now, authority.not_after)?.signed_by(&leaf_key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let acceptor = acceptor(vec![leaf.der().clone(), authority.der], key)?;
        Ok(Certificates { acceptor, ca_pem: authority.pem, unwritten })
    }

    /// The certificate with its chain in one file, and its key in another.
    pub(crate) fn given(certificate: &Path, key: &Path) -> Result<Certificates, CertificateError> {
        let pem = read(certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let no_pem = |path: &Path, what| CertificateError::NoPem { path: path.to_owned(), what };
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| no_pem(certificate, "certificate"))?;
        let key_pem = read(key)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| no_pem(key, "private key"))?;
        let ca_pem = chain.iter().map(|der| pem_of(der)).collect();
        Ok(Certificates { acceptor: acceptor(chain, key)?, ca_pem, unwritten: None })
    }

    /// Writes a new authority for the next start, its key first.
    pub(crate) fn write(&self) -> Result<(), (PathBuf, io::Error)> {
        let Some(Unwritten { file, key_pem }) = &self.unwritten else { return Ok(()) };
        let key_file = key_file(file);
        write_whole(&key_file, key_pem, Some(PRIVATE)).map_err(|error| (key_file, error))?;
        write_whole(file, &self.ca_pem, None).map_err(|error| (file.clone(), error))
    }
}

impl Authority {
    /// With a P-256 key, because generating an RSA key takes much longer.
    fn make(now: OffsetDateTime) -> Result<Authority, CertificateError> {
        let key = KeyPair::generate()?;
        let params = authority_params(now);
        let not_after = params.not_after;
        let certificate = params.self_signed(&key)?;
        Ok(Authority { key, pem: certificate.pem(), der: certificate.der().clone(), not_after })
    }

    fn kept(file: &Path, now: OffsetDateTime) -> Result<AuthorityFiles, CertificateError> {
        let key_file = key_file(file);
        let pem = match read(file) {
            Err(CertificateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // A key alone is left by a start that was interrupted between the two writes.
                return Ok(AuthorityFiles::Nothing);
            }
            // Writing the file reports this better.
            Err(CertificateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                return Ok(AuthorityFiles::Nothing);
            }
            pem => pem?,
        };
        let not_ours = || CertificateError::NotOurs { path: file.to_owned() };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| not_ours())?;
        if !contains(&der, AUTHORITY.as_bytes()) {
            return Err(not_ours());
        }
        let Some(not_after) = expiry(&der) else { return Err(not_ours()) };
        if not_after <= now {
            return Ok(AuthorityFiles::Useless("it has expired"));
        }
        let key_pem = match read(&key_file) {
            Err(CertificateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(AuthorityFiles::Useless("its key is missing"));
            }
            key_pem => key_pem?,
        };
        let Ok(key) = KeyPair::from_pem(&key_pem) else { return Ok(AuthorityFiles::Useless("its key cannot be read")) };
        if !contains(&der, key.der_bytes()) {
            return Ok(AuthorityFiles::Useless("its key does not match"));
        }
        let kept = fs::set_permissions(&key_file, fs::Permissions::from_mode(PRIVATE));
        kept.map_err(|source| CertificateError::Read { path: key_file, source })?;
        Ok(AuthorityFiles::Usable(Box::new(Authority { key, pem, der, not_after })))
    }
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<TlsAcceptor, CertificateError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// `FILE.key` beside `FILE`.
fn key_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
}

/// Writes via a temporary file, so that no reader sees an incomplete file, and a key has its mode
/// from the first byte on.
fn write_whole(path: &Path, text: &str, mode: Option<u32>) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    if let Some(mode) = mode {
        // A leftover file would keep its mode.
        drop(fs::remove_file(&unfinished));
        options.mode(mode);
    }
    options.open(&unfinished)?.write_all(text.as_bytes())?;
    fs::rename(&unfinished, path)
}

/// A certificate as PEM.
fn pem_of(der: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<String> = text.chars().collect::<Vec<_>>().chunks(64).map(|line| line.iter().collect()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

/// The end of a certificate's validity: the second time in the field after version, serial number,
/// algorithm and issuer.
fn expiry(der: &[u8]) -> Option<OffsetDateTime> {
    let (certificate, _) = element(der)?;
    let (signed, _) = element(certificate)?;
    let mut rest = signed;
    for _ in 0..4 {
        (_, rest) = element(rest)?;
    }
    let (validity, _) = element(rest)?;
    let (_, rest) = element(validity)?;
    let (not_after, _) = element(rest)?;
    let text = std::str::from_utf8(not_after).ok()?;
    // Years until 2049 have two digits, later ones four.
    let text = if text.len() == "260301120000Z".len() { format!("20{text}") } else { text.to_owned() };
    let form = format_description!("[year][month][day][hour][minute][second]Z");
    PrimitiveDateTime::parse(&text, form).ok().map(PrimitiveDateTime::assume_utc)
}

/// The content of the first DER element, and the rest.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(*first & 0x7F))?;
        if length.len() > 4 {
            return None;
        }
        (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length)
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
    let mut params = named(AUTHORITY, now);
    params.not_after = now + AUTHORITY_VALIDITY;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// With everything that strict clients require (such as Python since 3.13): the authority's key
/// identifier and both key usages.
fn leaf_params(
    names: Vec<String>,
    now: OffsetDateTime,
    authority_ends: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named("recoup simulators", now);
    params.not_after = params.not_after.min(authority_ends);
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
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + VALIDITY;
    params
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    fn made(file: &Path, now: OffsetDateTime) -> Result<String, CertificateError> {
        let certificates = Certificates::make(vec!["localhost".to_owned()], Some(file), now)?;
        certificates.write().unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), certificates.ca_pem);
        assert_eq!(fs::metadata(key_file(file)).unwrap().permissions().mode() & 0o777, PRIVATE);
        Ok(certificates.ca_pem)
    }

    #[test]
    fn an_authority_is_reused_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let first = made(&file, NOW).unwrap();
        let key = fs::read_to_string(key_file(&file)).unwrap();
        assert!(!first.contains("PRIVATE"));
        // Another user may have changed the mode.
        fs::set_permissions(key_file(&file), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(made(&file, NOW + AUTHORITY_VALIDITY - Duration::SECOND).unwrap(), first);
        assert_eq!(fs::read_to_string(key_file(&file)).unwrap(), key);
        assert_ne!(made(&file, NOW + AUTHORITY_VALIDITY).unwrap(), first);
        assert_ne!(fs::read_to_string(key_file(&file)).unwrap(), key);
    }

    #[rstest]
    #[case::without_its_key(|file: &Path| fs::remove_file(key_file(file)).unwrap())]
    #[case::with_no_key(|file: &Path| fs::write(key_file(file), "").unwrap())]
    #[case::with_another_key(|file: &Path| fs::write(key_file(file), KeyPair::generate().unwrap().serialize_pem()).unwrap())]
    fn an_unusable_authority_of_ours_is_replaced(#[case] change: fn(&Path)) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let first = made(&file, NOW).unwrap();
        change(&file);
        let second = made(&file, NOW).unwrap();
        assert_ne!(second, first);
        assert_eq!(made(&file, NOW).unwrap(), second);
    }

    #[test]
    fn a_foreign_certificate_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let theirs = named("Corporate CA", NOW).self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        for text in [theirs.as_str(), "", "no certificate"] {
            fs::write(&file, text).unwrap();
            let refused = Certificates::make(Vec::new(), Some(&file), NOW).err().unwrap().to_string();
            assert!(refused.contains("did not make"), "{refused}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn a_leaf_expires_no_later_than_its_authority() {
        let ends = NOW + Duration::days(30);
        assert_eq!(leaf_params(Vec::new(), NOW, ends).unwrap().not_after, ends);
        assert_eq!(leaf_params(Vec::new(), NOW, NOW + AUTHORITY_VALIDITY).unwrap().not_after, NOW + VALIDITY);
    }

    #[rstest]
    #[case(datetime!(2049-12-31 23:59:59 UTC))]
    #[case(datetime!(2050-01-01 0:00:00 UTC))]
    fn the_end_of_a_certificate_is_read(#[case] ends: OffsetDateTime) {
        let mut params = named("x", NOW);
        params.not_after = ends;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(expiry(certificate.der()), Some(ends));
        for length in 0..certificate.der().len() {
            // A truncated certificate does not panic.
            expiry(&certificate.der()[..length]);
        }
    }

    #[test]
    fn a_given_certificate_is_served_without_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
        let pair = KeyPair::generate().unwrap();
        let params = leaf_params(vec!["localhost".to_owned()], NOW, NOW + VALIDITY).unwrap();
        let pem = params.self_signed(&pair).unwrap().pem();
        // Some files contain both.
        fs::write(&certificate, format!("{}{pem}", pair.serialize_pem())).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        let given = Certificates::given(&certificate, &key).unwrap();
        assert_eq!(given.ca_pem.replace('\r', "").trim(), pem.replace('\r', "").trim());
        fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(Certificates::given(&certificate, &key).is_err());
        fs::write(&key, "none").unwrap();
        let refused = Certificates::given(&certificate, &key).err().unwrap().to_string();
        assert!(refused.ends_with("tls.key contains no private key in PEM"), "{refused}");
    }
}
