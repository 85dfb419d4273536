//! The certificates that a client has shown on one connection, judged for as long as it is open.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tracing::debug;

use super::server::{ClientVerifier, ServerTls};
use super::validity;
use crate::domain::clock::Timestamp;

/// The chain of one connection. It is judged once for each state of the port's files, and when one
/// of its certificates expires.
pub struct ClientChain {
    tls: ServerTls,
    own: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    judgement: Mutex<Option<Judgement>>,
}

#[derive(Clone, Copy)]
struct Judgement {
    /// Of the port's files.
    generation: u64,
    /// Until the next certificate of the chain expires.
    until: Option<Timestamp>,
    is_accepted: bool,
}

/// Certificates are valid until the end of the second that they name.
const PRECISION: Duration = Duration::from_secs(1);

impl ClientChain {
    /// None: the client has shown no certificate.
    pub fn new(tls: ServerTls, certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let mut certificates = certificates.iter().map(|certificate| certificate.clone().into_owned());
        let own = certificates.next()?;
        Some(Self { tls, own, intermediates: certificates.collect(), judgement: Mutex::default() })
    }

    /// The client's own certificate.
    pub fn own(&self) -> &[u8] {
        &self.own
    }

    /// Whether a new handshake would accept it: its authority, revocation and validity.
    pub fn is_accepted(&self) -> bool {
        let now = self.tls.now();
        let generation = self.tls.generation();
        let last = *self.judgement.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |last: &Judgement| last.generation == generation && last.until.is_none_or(|until| now < until);
        if let Some(last) = last.filter(counts) {
            return last.is_accepted;
        }
        // A verifier that is newer than its generation is asked once more.
        let verifier = self.tls.client_verifier();
        let is_accepted = verifier.is_some_and(|verifier| self.is_accepted_by(&verifier, now));
        let until = self.next_expiry(now);
        let judgement = Judgement { generation, until, is_accepted };
        *self.judgement.lock().unwrap_or_else(PoisonError::into_inner) = Some(judgement);
        is_accepted
    }

    /// How long until a certificate of the chain expires. None: none will.
    pub fn remaining(&self) -> Option<Duration> {
        let now = self.tls.now();
        self.next_expiry(now).map(|until| until.saturating_duration_since(now))
    }

    /// Changes when the port's files have changed.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.tls.generations()
    }

    fn is_accepted_by(&self, verifier: &ClientVerifier, now: Timestamp) -> bool {
        let seconds = u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match verifier.verify_client_cert(&self.own, &self.intermediates, time) {
            Ok(_) => true,
            Err(error) => {
                debug!(%error, "the client certificate of an open connection is not accepted any more");
                false
            }
        }
    }

    fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let all = std::iter::once(&self.own).chain(&self.intermediates);
        let ends = all.filter_map(|certificate| validity::of_certificate(certificate));
        ends.map(|(_, end)| end.saturating_add(PRECISION)).filter(|end| *end > now).min()
    }
}
