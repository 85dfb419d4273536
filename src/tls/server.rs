//! Certificate, key, client authorities and revocation lists of a port, read again while it runs.
//!
//! ```text
//! every 10 s, SIGHUP -> read the files -> other bytes? parse, compare key and certificate
//!                                      -> new connections take them
//!                                      -> open ones: their client's chain is judged again
//! ```
//!
//! Contents are compared, not times: Kubernetes swaps symbolic links, and network file systems
//! notify of nothing. What cannot be used changes nothing, and is one WARN for each content.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, version};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pem::{self, TlsError};
use super::validity;
use crate::domain::clock::{Clock, Timestamp};

/// How often the files are read without another trigger.
const READ_INTERVAL: Duration = Duration::from_secs(10);
/// Files that are being replaced are read again, so that a key does not meet the other certificate.
const MAX_READS: usize = 3;

/// `[listeners.NAME]` and `[metrics]`, as far as they are about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The port's own chain, its certificate first.
    pub certificate_file: PathBuf,
    /// The key of the certificate.
    pub key_file: PathBuf,
    /// The authorities of client certificates. None: clients are not asked for one.
    pub client_ca_file: Option<PathBuf>,
    /// Revocation lists of these authorities.
    pub client_crl_file: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub requires_client_certificate: bool,
    /// Whether TLS 1.2 is accepted beside 1.3.
    pub allows_tls12: bool,
    /// The protocols of ALPN.
    pub protocols: Vec<&'static str>,
}

/// The TLS of one port. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<TlsState>);

/// What a port shows at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// When the first certificate of the chain expires.
    pub expires: Timestamp,
    /// When the first revocation list should have been replaced, if there are any that say so.
    pub next_revocation_list: Option<Timestamp>,
    /// Whether the files have changed to something that cannot be used.
    pub is_outdated: bool,
}

pub(super) type ClientVerifier = Arc<dyn ClientCertVerifier>;

struct TlsState {
    settings: TlsSettings,
    clock: Arc<dyn Clock>,
    current: Mutex<LoadedCertificates>,
    /// How often `current` has changed.
    generation: watch::Sender<u64>,
}

/// Usable contents, and what was made of them.
struct LoadedCertificates {
    contents: Contents,
    config: Arc<ServerConfig>,
    /// None: clients are not asked for a certificate.
    client_verifier: Option<ClientVerifier>,
    status: CertificateStatus,
    /// The WARN about an expired revocation list has been written.
    is_expiry_reported: bool,
}

/// The bytes of the files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

/// Contents that could not be used, and why.
type Rejected = (Option<Contents>, TlsError);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`]: a file cannot be used, the key is not the certificate's, or it has expired.
    pub fn load(settings: TlsSettings, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let contents = Contents::read(&settings)?;
        let current = Mutex::new(LoadedCertificates::new(contents, &settings, clock.now())?);
        let generation = watch::Sender::new(0);
        Ok(Self(Arc::new(TlsState { settings, clock, current, generation })))
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.lock().config.clone()
    }

    /// What the port shows at present.
    pub fn status(&self) -> CertificateStatus {
        self.lock().status.clone()
    }

    pub(super) fn client_verifier(&self) -> Option<ClientVerifier> {
        self.lock().client_verifier.clone()
    }

    pub(super) fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Reads the files again until `closing`: periodically, and whenever `reload` changes.
    pub async fn follow(self, listener: Arc<str>, mut reload: watch::Receiver<u64>, closing: CancellationToken) {
        let mut rejected = None;
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                changed = reload.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(READ_INTERVAL) => {}
            }
            let (tls, before) = (self.clone(), rejected.take());
            let name = listener.clone();
            // Runtime threads must not block on the disk.
            if let Ok(after) = tokio::task::spawn_blocking(move || tls.reload(&name, before)).await {
                rejected = after;
            }
        }
    }

    /// Takes the files' present contents if they can be used. Returns them if they cannot.
    fn reload(&self, listener: &str, before: Option<Rejected>) -> Option<Rejected> {
        let settings = &self.0.settings;
        let now = self.0.clock.now();
        let rejected = match Contents::read(settings) {
            Err(problem) => Some((None, problem)),
            Ok(contents) if contents == self.lock().contents => None,
            Ok(contents) => match LoadedCertificates::new(contents.clone(), settings, now) {
                Ok(loaded) => {
                    *self.lock() = loaded;
                    // After the change: a reader of the number finds the new files.
                    self.0.generation.send_modify(|generation| *generation += 1);
                    info!(listener, "certificates changed");
                    None
                }
                Err(problem) => Some((Some(contents), problem)),
            },
        };
        if let Some((_, problem)) = rejected.as_ref().filter(|rejected| before.as_ref() != Some(*rejected)) {
            warn!(listener, %problem, "could not use the new certificates: keeping the previous ones");
        }
        let mut current = self.lock();
        current.status.is_outdated = rejected.is_some();
        current.report_expiry(listener, now);
        rejected
    }

    fn lock(&self) -> MutexGuard<'_, LoadedCertificates> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Reads all files, until two reads in a row agree.
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let mut last = Self::read_once(settings)?;
        for _ in 1..MAX_READS {
            let next = Self::read_once(settings)?;
            if next == last {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    fn read_once(settings: &TlsSettings) -> Result<Self, TlsError> {
        let optional = |path: &Option<PathBuf>| path.as_deref().map(pem::read).transpose();
        Ok(Self {
            certificate: pem::read(&settings.certificate_file)?,
            key: pem::read(&settings.key_file)?,
            client_ca: optional(&settings.client_ca_file)?,
            client_crl: optional(&settings.client_crl_file)?,
        })
    }
}

impl LoadedCertificates {
    fn new(contents: Contents, settings: &TlsSettings, now: Timestamp) -> Result<Self, TlsError> {
        let file = &settings.certificate_file;
        let chain = pem::certificates(file, &contents.certificate)?;
        let key = pem::private_key(&settings.key_file, &contents.key)?;
        let mut expires = None;
        for certificate in &chain {
            let (begin, end) = validity::of_certificate(certificate)
                .ok_or_else(|| TlsError::new(file, "has a certificate without a validity"))?;
            if end <= now {
                return Err(TlsError::new(file, "has an expired certificate"));
            }
            if begin > now {
                return Err(TlsError::new(file, "has a certificate that is not yet valid"));
            }
            expires = Some(expires.map_or(end, |earliest: Timestamp| earliest.min(end)));
        }
        let provider = Arc::new(ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if settings.allows_tls12 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS13] };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::new(file, error.to_string()))?;
        let mut next_revocation_list = None;
        let mut client_verifier = None;
        let builder = match (&settings.client_ca_file, &contents.client_ca) {
            (Some(path), Some(bytes)) => {
                let mut roots = RootCertStore::empty();
                for certificate in pem::certificates(path, bytes)? {
                    roots.add(certificate).map_err(|error| TlsError::new(path, error.to_string()))?;
                }
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let mut last_file: &Path = path;
                if let (Some(path), Some(bytes)) = (&settings.client_crl_file, &contents.client_crl) {
                    let lists = pem::revocation_lists(path, bytes)?;
                    next_revocation_list = lists.iter().filter_map(|list| validity::of_revocation_list(list)).min();
                    verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
                    last_file = path;
                }
                if !settings.requires_client_certificate {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier: ClientVerifier =
                    verifier.build().map_err(|error| TlsError::new(last_file, error.to_string()))?;
                client_verifier = Some(verifier.clone());
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        // It also compares the key with the certificate.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::new(&settings.key_file, error.to_string()))?;
        config.alpn_protocols = settings.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // A client that was revoked must not resume.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let expires = expires.unwrap_or(now);
        let status = CertificateStatus { expires, next_revocation_list, is_outdated: false };
        Ok(Self { contents, config: Arc::new(config), client_verifier, status, is_expiry_reported: false })
    }

    /// An expired list goes on counting: whom it revokes stays revoked.
    fn report_expiry(&mut self, listener: &str, now: Timestamp) {
        let is_expired = self.status.next_revocation_list.is_some_and(|next| next <= now);
        if is_expired && !self.is_expiry_reported {
            warn!(listener, "the revocation list of client certificates has expired: it goes on counting");
        }
        self.is_expiry_reported = is_expired;
    }
}
