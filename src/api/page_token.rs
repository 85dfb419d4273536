//! Page tokens: where the page before ended, bound to the question that it was a page of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;

/// Goes on after `position` with the same `question`.
pub(super) fn token(question: &[u8], position: u64) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&position.to_be_bytes());
    bytes.extend_from_slice(&fingerprint(question));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position in a token that was given out for this very question; none for any other text.
pub(super) fn position(question: &[u8], token: &str) -> Option<u64> {
    let bytes: [u8; 17] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let [version, rest @ ..] = bytes;
    let (position, asked) = rest.split_first_chunk::<8>()?;
    (version == VERSION && *asked == fingerprint(question)).then(|| u64::from_be_bytes(*position))
}

fn fingerprint(question: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(Sha256::digest(question)).for_each(|(kept, byte)| *kept = byte);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_is_read_back_for_its_own_question_alone(at in any::<u64>(), question in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            let given = token(&question, at);
            prop_assert_eq!(position(&question, &given), Some(at));
            if question != other {
                prop_assert_eq!(position(&other, &given), None);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = position(b"question", &text);
        }
    }
}
