//! What one call showed about its caller: the seam between connections and the access file.

use super::certificate::CertificateIdentity;
use super::token::TokenHash;

/// What a call showed. It holds no secret, so a stream keeps it to be judged again.
#[derive(Clone, Default)]
pub struct ShownCredentials {
    /// The hash of the token in its metadata.
    pub token: Option<TokenHash>,
    /// Whom the verified client certificate of its connection names.
    pub certificate: Option<CertificateIdentity>,
    /// Who is at the other end of the unix socket.
    pub peer: Option<UnixPeer>,
}

/// The process at the other end of a unix socket, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    pub uid: u32,
    pub gid: u32,
}

/// Why a call has no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    #[error("the call shows no credential")]
    Missing,
    /// One sentence for all: it must not help to guess which part was right.
    #[error("the credential is not valid")]
    Invalid(InvalidCredential),
}

/// What is wrong with a credential: for the log, never for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidCredential {
    /// Not a token at all, or mistyped; or shown where no token is taken.
    Malformed,
    /// No caller has it.
    Unknown,
    /// The token's time is over.
    Expired,
    /// The certificate names no one, or two.
    Certificate,
    /// The certificate was accepted when its connection began, and is not any more: it has expired,
    /// or it or its authority has been removed.
    CertificateNotAccepted,
    /// A token of one caller and a certificate of another one.
    Contradictory,
}

/// A caller that a call has proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerIdentity {
    /// The caller's name.
    pub caller: String,
    /// What it showed, as the history records it: `token:2026-11`.
    pub credential: String,
}

impl InvalidCredential {
    /// As the log names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            InvalidCredential::Malformed => "malformed",
            InvalidCredential::Unknown => "unknown",
            InvalidCredential::Expired => "expired",
            InvalidCredential::Certificate => "certificate",
            InvalidCredential::CertificateNotAccepted => "certificate_not_accepted",
            InvalidCredential::Contradictory => "contradictory",
        }
    }
}

impl UnixPeer {
    /// As the history records it.
    pub fn credential(self) -> String {
        format!("uid:{}", self.uid)
    }
}
