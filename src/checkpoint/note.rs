//! One checkpoint as a signed note (c2sp.org/signed-note).
//!
//! ```text
//! recoup/ledger/9f86d081884c7d659a2feaa0c55ad015      origin: the id of the ledger
//! 1234                                                sequence of the last event that it covers
//! qk0nd2nlzjUM5BPg0TsKIso5Ggk7h1935HqH...             that event's chain_hash, in Base64
//! 2026-12-01T06:00:00.123456Z                         when it was signed
//!
//! — recoup/ledger/9f86d081884c7d659a2feaa0c55ad015 Zg7BGA...    key name, key id and signature
//! ```
//!
//! The signature covers the four lines with their line ends, without the empty line. Base64 is that
//! of RFC 4648 with padding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::key::{SigningKey, VerifierKey};
use crate::domain::clock::Timestamp;

/// How far a ledger's history reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The id of the ledger.
    pub origin: String,
    /// The last event that it covers. 0: the history was empty.
    pub sequence: u64,
    /// That event's chain hash. Zeros: the history was empty.
    pub chain_hash: [u8; 32],
    /// When it was signed.
    pub time: Timestamp,
}

/// A checkpoint and its note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    pub checkpoint: Checkpoint,
    /// The whole note, which ends with a line end.
    pub note: String,
}

/// The em dash and the blank before a signature.
pub(super) const SIGNATURE_PREFIX: &str = "\u{2014} ";
/// Lines of a note's text.
pub(super) const TEXT_LINES: usize = 4;

impl Checkpoint {
    fn to_text(&self) -> String {
        let Self { origin, sequence, chain_hash, .. } = self;
        format!("{origin}\n{sequence}\n{}\n{}\n", STANDARD.encode(chain_hash), self.time_text())
    }

    /// When it was signed, as RFC 3339 writes it.
    pub fn time_text(&self) -> String {
        let nanos = i128::from(self.time.as_micros()) * 1_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|time| time.format(&Rfc3339).ok());
        time.unwrap_or_else(|| "a time without a form".to_owned())
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let [origin, sequence, chain_hash, time] = lines.as_slice() else { return None };
        let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
        let checkpoint = Self {
            origin: (*origin).to_owned(),
            sequence: sequence.parse().ok()?,
            chain_hash: STANDARD.decode(chain_hash).ok()?.try_into().ok()?,
            time: Timestamp::from_micros(i64::try_from(time.unix_timestamp_nanos() / 1_000).ok()?),
        };
        // One checkpoint has one text.
        (checkpoint.to_text() == text).then_some(checkpoint)
    }
}

impl SignedCheckpoint {
    pub(super) fn sign(checkpoint: Checkpoint, key: &SigningKey) -> Self {
        let text = checkpoint.to_text();
        let origin = &checkpoint.origin;
        let signature = [key.verifier(origin).id().as_slice(), &key.sign(&text)].concat();
        let note = format!("{text}\n{SIGNATURE_PREFIX}{origin} {}\n", STANDARD.encode(signature));
        Self { checkpoint, note }
    }

    /// Reads a note. Whether a signature is right is asked with [`SignedCheckpoint::is_signed_by`].
    pub(super) fn parse(note: &str) -> Option<Self> {
        let (text, _) = split(note)?;
        Some(Self { checkpoint: Checkpoint::parse(text)?, note: note.to_owned() })
    }

    /// Whether the note has a right signature of this key. Signatures of other keys do not matter.
    pub fn is_signed_by(&self, key: &VerifierKey) -> bool {
        let Some((text, signatures)) = split(&self.note) else { return false };
        let mut of_key = signatures.lines().filter_map(|line| {
            let (name, encoded) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
            let bytes = STANDARD.decode(encoded).ok().filter(|_| name == key.name())?;
            let (id, signature) = bytes.split_first_chunk::<4>()?;
            (*id == key.id()).then(|| signature.to_vec())
        });
        of_key.next().is_some_and(|signature| key.verifies(text, &signature))
    }
}

/// The text with its last line end, and the signatures.
fn split(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    Some((note.get(..=at)?, note.get(at + 2..)?))
}
