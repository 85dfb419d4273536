//! Page tokens: the end of the previous page, bound to the request whose page it was.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;

/// A token for the page after `position`. `request_key` identifies the call and its filter.
pub(super) fn token(request_key: &[u8], position: u64) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&position.to_be_bytes());
    bytes.extend_from_slice(&fingerprint(request_key));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position in a token that was created for the same request. None for any other text.
pub(super) fn position(request_key: &[u8], token: &str) -> Option<u64> {
    let bytes: [u8; 17] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let [version, rest @ ..] = bytes;
    let (position, key) = rest.split_first_chunk::<8>()?;
    (version == VERSION && *key == fingerprint(request_key)).then(|| u64::from_be_bytes(*position))
}

fn fingerprint(request_key: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(Sha256::digest(request_key)).for_each(|(target, byte)| *target = byte);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_is_valid_only_for_its_own_request(at in any::<u64>(), request_key in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            let given = token(&request_key, at);
            prop_assert_eq!(position(&request_key, &given), Some(at));
            if request_key != other {
                prop_assert_eq!(position(&other, &given), None);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = position(b"request_key", &text);
        }
    }
}
