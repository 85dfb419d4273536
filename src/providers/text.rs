//! Decodes the body of an answer, in any charset.
//!
//! ```text
//! a byte order mark       UTF-8 or UTF-16, even against the header; not part of the text
//! a charset in the        as named; ISO-8859-1 and US-ASCII are decoded as windows-1252,
//! Content-Type              as the Encoding Standard prescribes
//! neither, or a charset   UTF-8
//!   that is not known
//! ```
//!
//! A body that does not fit its charset is an error: a replacement character could be mistaken for
//! something that the provider sent. [`decode_damaged`] is for readers that can tell the
//! difference.

use std::borrow::Cow;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8};
use http::header::CONTENT_TYPE;

use crate::http::client::HttpResponse;

/// A body that does not fit the charset that it names, or UTF-8 if it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not {charset}")]
pub(crate) struct TextError {
    /// The name of the charset: `UTF-8`, `UTF-16LE`, `windows-1252`.
    charset: &'static str,
}

/// Decodes the body of an answer.
pub(crate) fn read(answer: &HttpResponse) -> Result<Cow<'_, str>, TextError> {
    decode(&answer.body, content_type(answer))
}

/// As [`decode`], with U+FFFD instead of what does not fit the charset: for people, and for a
/// reader of single fields that drops only the damaged ones.
pub(crate) fn decode_damaged<'a>(body: &'a [u8], content_type: Option<&str>) -> Cow<'a, str> {
    let (encoding, text) = encoding_of(body, content_type);
    encoding.decode_without_bom_handling(text).0
}

/// Decodes `body`, which was sent as `content_type`: the body of an answer, or one part of it. The
/// text is at most three times as long as `body`.
pub(crate) fn decode<'a>(body: &'a [u8], content_type: Option<&str>) -> Result<Cow<'a, str>, TextError> {
    let (encoding, text) = encoding_of(body, content_type);
    // The Encoding Standard maps charsets whose bytes can hide ASCII from a reader to
    // "replacement".
    let charset = if encoding == REPLACEMENT { "in a charset that is safe to read" } else { encoding.name() };
    encoding.decode_without_bom_handling_and_without_replacement(text).ok_or(TextError { charset })
}

/// The charset of `body`, and `body` without a byte order mark.
fn encoding_of<'a>(body: &'a [u8], content_type: Option<&str>) -> (&'static Encoding, &'a [u8]) {
    let named = || content_type.and_then(charset).and_then(|label| Encoding::for_label(label.as_bytes()));
    let (encoding, mark) = Encoding::for_bom(body).unwrap_or_else(|| (named().unwrap_or(UTF_8), 0));
    (encoding, body.get(mark..).unwrap_or_default())
}

/// The header `Content-Type`, if it is text.
pub(crate) fn content_type(answer: &HttpResponse) -> Option<&str> {
    answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

/// The value of the parameter `charset`.
fn charset(content_type: &str) -> Option<&str> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Some(value.trim().trim_matches(['"', '\'']).trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::providers::testing::fixtures;

    #[rstest]
    #[case::plain(b"caf\xC3\xA9", None, Ok("café"))]
    #[case::named(b"caf\xC3\xA9", Some("application/json; charset=utf-8"), Ok("café"))]
    #[case::mark(b"\xEF\xBB\xBFcaf\xC3\xA9", None, Ok("café"))]
    #[case::mark_alone(b"\xEF\xBB\xBF", None, Ok(""))]
    #[case::second_mark_is_text(b"\xEF\xBB\xBF\xEF\xBB\xBF0", None, Ok("\u{FEFF}0"))]
    #[case::mark_wins(b"\xEF\xBB\xBF\xC3\xA9", Some("text/xml; charset=iso-8859-1"), Ok("é"))]
    #[case::sixteen_little(b"\xFF\xFE{\0\xE9\0", None, Ok("{é"))]
    #[case::sixteen_big(b"\xFE\xFF\0{\0\xE9", Some("text/xml; charset=utf-8"), Ok("{é"))]
    #[case::sixteen_named(b"{\0", Some("application/json; charset=UTF-16LE"), Ok("{"))]
    #[case::sixteen_odd(b"\xFF\xFE{\0}", None, Err("the body is not UTF-16LE"))]
    #[case::half_a_pair(b"\xFF\xFE\0\xD8", None, Err("the body is not UTF-16LE"))]
    #[case::latin(b"caf\xE9", Some("text/xml; charset=ISO-8859-1"), Ok("café"))]
    #[case::latin_quoted(b"caf\xE9", Some("text/xml;x=y; Charset = \"iso-8859-1\""), Ok("café"))]
    #[case::windows(b"\x80 5", Some("text/plain;charset=windows-1252"), Ok("€ 5"))]
    #[case::not_eight(b"caf\xE9", None, Err("the body is not UTF-8"))]
    #[case::not_eight_as_named(b"caf\xE9", Some("text/xml; charset=utf-8"), Err("the body is not UTF-8"))]
    #[case::nothing_known(b"caf\xC3\xA9", Some("text/xml; charset=x-secret"), Ok("café"))]
    #[case::nothing_known_nor_eight(b"\xE9", Some("text/xml; charset=x-secret"), Err("the body is not UTF-8"))]
    #[case::no_value(b"0", Some("text/xml; charset"), Ok("0"))]
    #[case::unsafe_by_design(
        b"0",
        Some("text/xml; charset=iso-2022-kr"),
        Err("the body is not in a charset that is safe to read")
    )]
    fn a_body_is_decoded_in_its_charset(
        #[case] body: &[u8],
        #[case] content_type: Option<&'static str>,
        #[case] expected: Result<&str, &str>,
    ) {
        let headers = content_type.map(|value| ("content-type", value));
        let answer = fixtures::answer(200, headers.as_slice(), body);
        let read = read(&answer).map_err(|error| error.to_string());
        assert_eq!(read.as_deref().map_err(String::as_str), expected);
    }

    proptest! {
        #[test]
        fn encoded_text_is_decoded_unchanged(text in any::<String>()) {
            let sixteen: Vec<u16> = std::iter::once(0xFEFF).chain(text.encode_utf16()).collect();
            let little: Vec<u8> = sixteen.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let big: Vec<u8> = sixteen.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            let eight = format!("\u{FEFF}{text}").into_bytes();
            for body in [little, big, eight] {
                let read = decode(&body, None);
                prop_assert_eq!(read.as_deref(), Ok(text.as_str()));
            }
        }

        #[test]
        fn no_bytes_panic_and_the_text_is_bounded(
            body in prop::collection::vec(any::<u8>(), 0..200),
            charset in prop::sample::select(vec!["utf-8", "utf-16", "iso-8859-1", "shift_jis", "gb18030", "x"]),
        ) {
            if let Ok(text) = decode(&body, Some(&format!("text/plain; charset={charset}"))) {
                prop_assert!(text.len() <= 3 * body.len());
            }
        }
    }
}
