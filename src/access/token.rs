//! Tokens: made once, checked for typing errors before any lookup, and kept as a hash only.
//!
//! ```text
//! recoup_  43 characters of base64url  _  8 hex digits
//!          32 random bytes                CRC-32 of all before the last "_"
//! ```
//!
//! The fixed form lets secret scanners find a leaked token. 256 random bits cannot be guessed, so a
//! fast hash is enough: a slow one would let anyone burn this machine's time with wrong tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A token as its caller holds it. It has no `Debug`, and its memory is cleared when it is dropped.
pub struct Token(SecretString);

/// The SHA-256 of a whole token: it can check a token, and cannot be sent as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("is not a token: \"recoup_\", 43 letters, digits, \"-\" or \"_\", \"_\" and 8 hex digits")]
    Form,
    #[error("is not a token: its last 8 digits do not fit the rest, so it is mistyped or cut")]
    Checksum,
    #[error("could not get random bytes from the operating system")]
    Random,
}

const PREFIX: &str = "recoup_";
const RANDOM_BYTES: usize = 32;
const ENCODED_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 8;

impl Token {
    /// # Errors
    /// [`TokenError::Random`]
    pub fn generate() -> Result<Self, TokenError> {
        let mut bytes = [0; RANDOM_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| TokenError::Random)?;
        let body = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let checksum = checksum(&body);
        Ok(Self(SecretString::from(format!("{body}_{checksum}"))))
    }

    /// Checks form and checksum.
    ///
    /// # Errors
    /// [`TokenError::Form`], [`TokenError::Checksum`]
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body_chars = PREFIX.len() + ENCODED_CHARS;
        let is_token = text.is_ascii() && text.len() == body_chars + 1 + CHECKSUM_CHARS && text.starts_with(PREFIX);
        let (body, rest) = text.split_at_checked(body_chars).filter(|_| is_token).ok_or(TokenError::Form)?;
        let encoded = body.strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let given = rest.strip_prefix('_').ok_or(TokenError::Form)?;
        if !is_hex(given) || URL_SAFE_NO_PAD.decode(encoded).is_err() {
            return Err(TokenError::Form);
        }
        if checksum(body) != given {
            return Err(TokenError::Checksum);
        }
        Ok(Self(SecretString::from(text)))
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.expose_secret().as_bytes()).into())
    }
}

impl secrecy::ExposeSecret<str> for Token {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl TokenHash {
    /// From 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !is_hex(text) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Whether both are the same, in a time that does not depend on how they differ.
    pub fn matches(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The first bytes, by which a table finds candidates.
    pub(super) fn prefix(&self) -> u64 {
        self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

/// Bytes as lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32fast::hash(body.as_bytes()))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[test]
    fn a_new_token_has_the_form_and_is_parsed_again() {
        let token = Token::generate().ok().unwrap();
        let text = token.expose_secret();
        assert_eq!(text.len(), 59);
        let parsed = Token::parse(text).ok().unwrap();
        assert!(parsed.hash().matches(&token.hash()));
        assert!(TokenHash::from_hex(&token.hash().hex()).unwrap().matches(&token.hash()));
        assert!(!Token::generate().ok().unwrap().hash().matches(&token.hash()));
    }

    /// The form is public: tools outside recognise tokens by it.
    #[test]
    fn the_form_stays_as_it_is() {
        let text = "recoup_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_8b2a4689";
        assert!(Token::parse(text).is_ok());
        let wrong = text.replace("8b2a4689", "8b2a4688");
        assert_eq!(Token::parse(&wrong).err(), Some(TokenError::Checksum));
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let token = Token::generate().ok().unwrap();
        let text = token.expose_secret();
        for at in 0..text.len() {
            let mut other: Vec<u8> = text.bytes().collect();
            let letter = other.get_mut(at).unwrap();
            *letter = if *letter == b'a' { b'b' } else { b'a' };
            assert!(Token::parse(std::str::from_utf8(&other).unwrap()).is_err(), "at {at}");
        }
    }

    #[rstest]
    #[case("")]
    #[case("recoup_")]
    #[case("recoup_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")]
    #[case("RECOUP_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_00000000")]
    #[case("recoup_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_0000000G")]
    #[case("recoup_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+_00000000")]
    fn what_is_no_token_is_refused(#[case] text: &str) {
        assert_eq!(Token::parse(text).err(), Some(TokenError::Form));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,70}") {
            let _ = Token::parse(&text);
            let _ = TokenHash::from_hex(&text);
        }
    }
}
