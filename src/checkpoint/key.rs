//! Ed25519 keys of checkpoints.
//!
//! The private key is a line of a file that only the gateway's user can read. The public one is a
//! verifier key of c2sp.org/signed-note, which anybody may know: it contains the key's name, which
//! is the id of the ledger whose notes it verifies.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tracing::warn;

/// A public key, under a name, as a signed note needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

/// The text is no verifier key of Ed25519.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no verifier key: it must be a name, 8 hex digits and a public Ed25519 key in Base64, joined by \"+\"")]
pub struct InvalidKey;

/// The private keys of one gateway: the key that signs, and those that signed before it.
///
/// The file has one key on a line. The first one signs. Notes of the others are still accepted at a
/// start, so that a key can be replaced: put the new line on top.
pub struct KeyFile {
    signing: SigningKey,
    former: Vec<SigningKey>,
}

/// A private key.
pub(super) struct SigningKey(Ed25519KeyPair);

/// Why a file with a private key cannot be used or made. One sentence each, without its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot {doing} the key file {}: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },
    #[error("the key file {}, line {line}: is no private key of `recoup audit keygen`", path.display())]
    Invalid { path: PathBuf, line: usize },
    #[error("the key file {} has no key: make one with `recoup audit keygen`", path.display())]
    Empty { path: PathBuf },
    #[error("the operating system gives no random numbers")]
    Random,
}

/// The type of Ed25519 keys in signed notes.
const ED25519_TYPE: u8 = 1;
/// The beginning of a private key's line, by which scanners for secrets can find it.
const PRIVATE_PREFIX: &str = "recoup-checkpoint-private-key:";
/// Some hundred keys.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

impl VerifierKey {
    /// Parses `name+hash+key`.
    ///
    /// # Errors
    /// [`InvalidKey`], also if the hash is that of another name or key.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidKey);
        };
        let key = STANDARD.decode(key).map_err(|_| InvalidKey)?;
        let public = match key.split_first() {
            Some((&ED25519_TYPE, public)) => public.try_into().map_err(|_| InvalidKey)?,
            _ => return Err(InvalidKey),
        };
        let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
        let parsed = Self { name: name.to_owned(), public };
        // Compares the hash too, which protects against typing errors.
        if is_name && parsed.to_string() == text { Ok(parsed) } else { Err(InvalidKey) }
    }

    /// The name: the origin of the notes that the key verifies.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's type and its 32 bytes, as signed notes encode them.
    fn typed_key(&self) -> Vec<u8> {
        [&[ED25519_TYPE], self.public.as_slice()].concat()
    }

    /// What a signature names the key by, besides its name.
    pub(super) fn id(&self) -> [u8; 4] {
        let hash = Sha256::digest([self.name.as_bytes(), b"\n", &self.typed_key()].concat());
        hash.first_chunk().copied().unwrap_or_default()
    }

    pub(super) fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(self.typed_key()))
    }
}

impl KeyFile {
    /// Makes a new key, in a new file that only its owner can read, and syncs it.
    ///
    /// # Errors
    /// [`KeyFileError`], also if the file exists: it may hold the key of notes that are in use.
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyFileError::Random)?;
        let line = SecretString::from(format!("{PRIVATE_PREFIX}{}\n", STANDARD.encode(seed)));
        let io = |doing| move |source| KeyFileError::Io { path: path.to_owned(), doing, source };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io("create"))?;
        file.write_all(line.expose_secret().as_bytes()).and_then(|()| file.sync_all()).map_err(io("write"))?;
        Self::parse(path, &line)
    }

    /// # Errors
    /// [`KeyFileError`]
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_owned(), doing: "read", source };
        let file = File::open(path).map_err(io)?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::mode(&file.metadata().map_err(io)?) & 0o004 != 0 {
            warn!(file = %path.display(), "every user of this machine can read the private key of checkpoints");
        }
        let mut text = String::new();
        file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(io)?;
        Self::parse(path, &SecretString::from(text))
    }

    fn parse(path: &Path, text: &SecretString) -> Result<Self, KeyFileError> {
        let lines = text.expose_secret().lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let mut keys = lines.map(|(line, number)| {
            SigningKey::parse(line.trim()).ok_or_else(|| KeyFileError::Invalid { path: path.to_owned(), line: number })
        });
        let signing = keys.next().ok_or_else(|| KeyFileError::Empty { path: path.to_owned() })??;
        Ok(Self { signing, former: keys.collect::<Result<_, _>>()? })
    }

    /// The public part of the key that signs, for the notes of the ledger `origin`.
    pub fn verifier(&self, origin: &str) -> VerifierKey {
        self.signing.verifier(origin)
    }

    /// As [`KeyFile::verifier`], of every key whose notes are accepted.
    pub(super) fn verifiers(&self, origin: &str) -> Vec<VerifierKey> {
        std::iter::once(&self.signing).chain(&self.former).map(|key| key.verifier(origin)).collect()
    }

    pub(super) fn signing(&self) -> &SigningKey {
        &self.signing
    }
}

impl SigningKey {
    fn parse(line: &str) -> Option<Self> {
        let seed = STANDARD.decode(line.strip_prefix(PRIVATE_PREFIX)?).ok()?;
        Ed25519KeyPair::from_seed_unchecked(&seed).ok().map(Self)
    }

    pub(super) fn verifier(&self, name: &str) -> VerifierKey {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        VerifierKey { name: name.to_owned(), public }
    }

    pub(super) fn sign(&self, text: &str) -> Vec<u8> {
        self.0.sign(text.as_bytes()).as_ref().to_vec()
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile([REDACTED])")
    }
}
