//! Masks secrets in raw requests before the journal keeps them: in headers, query and body.
//!
//! It works on any bytes and removes too much rather than too little: if the bounds of a secret are
//! unclear, everything that could belong to it is removed.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

/// Replaces a secret.
const MASK: &str = "***";
/// Parts of the names of secrets.
const SECRET: [&str; 3] = ["password", "secret", "token"];
/// The same for headers.
const SECRET_HEADER: [&str; 8] = ["auth", "cookie", "password", "secret", "token", "api-key", "apikey", "signature"];
/// The maximum number of headers kept per request.
const MAX_HEADERS: usize = 64;
/// The maximum length of one header value, in bytes.
const MAX_HEADER_BYTES: usize = 1024;

/// The format of a provider's request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// XML.
    Xml,
    /// Any format without credentials. A body that names a secret all the same is masked as a
    /// whole, because nothing says where the secret ends.
    WithoutCredentials,
}

/// The headers as sent, in order, with credentials masked.
pub(crate) fn headers(headers: &HeaderMap) -> Vec<(&str, Cow<'_, str>)> {
    let shown = headers.iter().map(|(name, value)| {
        let text = String::from_utf8_lossy(value.as_bytes());
        (name.as_str(), if is_secret_header(name) { Cow::Owned(credentials(name, &text)) } else { shortened(text) })
    });
    shown.take(MAX_HEADERS).collect()
}

fn is_secret_header(name: &HeaderName) -> bool {
    SECRET_HEADER.iter().any(|part| name.as_str().contains(part))
}

/// Keeps the scheme of credentials, which is no secret.
fn credentials(name: &HeaderName, value: &str) -> String {
    let is_authorization = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION].contains(name);
    match value.split_once(' ') {
        Some((scheme, _)) if is_authorization && scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
            format!("{scheme} {MASK}")
        }
        _ => MASK.to_owned(),
    }
}

fn shortened(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_HEADER_BYTES {
        return text;
    }
    Cow::Owned(text.get(..text.floor_char_boundary(MAX_HEADER_BYTES)).unwrap_or_default().to_owned())
}

/// At most `max` bytes of a body, with secrets masked.
pub(crate) fn body(format: BodyFormat, body: &[u8], max: usize) -> Cow<'_, [u8]> {
    let body = body.get(..max).unwrap_or(body);
    if !names_a_secret(body) {
        return Cow::Borrowed(body);
    }
    match format {
        // In UTF-16 a body cannot be parsed as a form or as XML here.
        _ if body.contains(&0) => Cow::Borrowed(MASK.as_bytes()),
        BodyFormat::Form => Cow::Owned(form(body)),
        BodyFormat::Xml => Cow::Owned(xml(body)),
        BodyFormat::WithoutCredentials => Cow::Borrowed(MASK.as_bytes()),
    }
}

/// At most `max` bytes of a query, with secrets masked.
pub(crate) fn query(query: &str, max: usize) -> String {
    let query = query.get(..query.floor_char_boundary(max)).unwrap_or_default();
    String::from_utf8_lossy(&form(query.as_bytes())).into_owned()
}

/// Whether the name of a secret occurs, plain, percent-encoded or in UTF-16.
fn names_a_secret(bytes: &[u8]) -> bool {
    has_secret_name(bytes) || (bytes.iter().any(|byte| b"%\0".contains(byte)) && has_secret_name(&decoded(bytes)))
}

fn has_secret_name(bytes: &[u8]) -> bool {
    SECRET.iter().any(|name| find(bytes, name.as_bytes()).is_some())
}

/// Percent-decoded and without zero bytes.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let escape = behind.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = escape.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                rest = behind.get(2..).unwrap_or_default();
                decoded.push(byte);
            }
            None => decoded.push(*first),
        }
    }
    decoded.retain(|byte| *byte != 0);
    decoded
}

/// Masks the values of secrets in `name=value` pairs. A pair with a secret's name elsewhere is
/// masked as a whole.
fn form(bytes: &[u8]) -> Vec<u8> {
    let pairs = bytes.split(|byte| *byte == b'&').map(|pair| {
        let name_ends = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(name_ends);
        if !names_a_secret(pair) {
            pair.to_vec()
        } else if names_a_secret(name) && !value.is_empty() {
            [name, b"=", MASK.as_bytes()].concat()
        } else {
            MASK.as_bytes().to_vec()
        }
    });
    pairs.collect::<Vec<_>>().join(&b'&')
}

/// Masks the content of elements with a secret's name, and any other markup with such a name in it.
fn xml(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| *byte == b'<') {
        let (text, markup) = rest.split_at(start);
        shown.extend_from_slice(text);
        let end = markup.iter().position(|byte| *byte == b'>').map_or(markup.len(), |end| end + 1);
        let (tag, behind) = markup.split_at(end);
        rest = behind;
        if !names_a_secret(tag) {
            shown.extend_from_slice(tag);
            continue;
        }
        let name = tag.strip_prefix(b"<").unwrap_or(tag);
        let name = name.split(|byte| byte.is_ascii_whitespace() || b"/>".contains(byte)).next().unwrap_or_default();
        let is_plain = tag.len() <= name.len() + 3 && names_a_secret(name);
        if is_plain || tag.starts_with(b"</") {
            shown.extend_from_slice(tag);
        } else {
            shown.extend_from_slice(b"<");
            shown.extend_from_slice(MASK.as_bytes());
            shown.extend_from_slice(b">");
        }
        if tag.starts_with(b"</") || tag.ends_with(b"/>") {
            continue;
        }
        // Skips to the end of the element, or to the end of the text if it has none.
        shown.extend_from_slice(MASK.as_bytes());
        rest = closing(behind, name).and_then(|at| behind.get(at..)).unwrap_or_default();
    }
    shown.extend_from_slice(rest);
    shown
}

/// Where the element of this name is closed.
fn closing(bytes: &[u8], name: &[u8]) -> Option<usize> {
    let wanted = [b"</", name].concat();
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where a text begins, ignoring ASCII case.
fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let first = text.first()?;
    let is_first = |byte: &u8| byte.eq_ignore_ascii_case(first);
    let mut from = 0;
    while let Some(offset) = bytes.get(from..)?.iter().position(is_first) {
        let at = from + offset;
        if bytes.get(at..at + text.len())?.eq_ignore_ascii_case(text) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const ALL: usize = usize::MAX;

    #[rstest]
    #[case::form(
        BodyFormat::Form,
        "loginName=demo&loginPassword=hunter2&orderNumber=7",
        "loginName=demo&loginPassword=***&orderNumber=7"
    )]
    #[case::capitals(BodyFormat::Form, "LOGINPASSWORD=hunter2&a=b", "LOGINPASSWORD=***&a=b")]
    #[case::escaped_name(BodyFormat::Form, "login%50assword=hunter2", "login%50assword=***")]
    #[case::json(BodyFormat::Form, r#"{"loginPassword":"hunter2"}"#, "***")]
    #[case::twice(BodyFormat::Form, "password=hunter2&password=hunter2", "password=***&password=***")]
    #[case::nothing(BodyFormat::Form, "orderNumber=1", "orderNumber=1")]
    #[case::xml(
        BodyFormat::Xml,
        "<d:User><d:Password>hunter2</d:Password><d:Username>demo</d:Username></d:User>",
        "<d:User><d:Password>***</d:Password><d:Username>demo</d:Username></d:User>"
    )]
    #[case::cdata(BodyFormat::Xml, "<Password><![CDATA[hunter2]]></Password>", "<Password>***</Password>")]
    #[case::markup_inside(BodyFormat::Xml, "<Password>a<b>hunter2</b></Password>x", "<Password>***</Password>x")]
    #[case::attribute(BodyFormat::Xml, "<User Password='hunter2'>x</User>", "<***>***</User>")]
    #[case::attributes_of_it(BodyFormat::Xml, "<Password a='hunter2'>hunter2</Password>", "<***>***</Password>")]
    #[case::without_an_end(BodyFormat::Xml, "<a/><PASSWORD>hunter2", "<a/><PASSWORD>***")]
    #[case::closed_at_once(BodyFormat::Xml, "<Password/><a>x</a>", "<Password/><a>x</a>")]
    #[case::refund(
        BodyFormat::WithoutCredentials,
        r#"{"orderId":1,"orderItemIds":[2]}"#,
        r#"{"orderId":1,"orderItemIds":[2]}"#
    )]
    #[case::token(BodyFormat::WithoutCredentials, r#"{"orderId":1,"token":"hunter2"}"#, "***")]
    fn secrets_are_masked_and_everything_else_is_kept(
        #[case] format: BodyFormat,
        #[case] sent: &str,
        #[case] kept: &str,
    ) {
        assert_eq!(String::from_utf8_lossy(&body(format, sent.as_bytes(), ALL)), kept);
    }

    #[test]
    fn a_secret_in_other_encodings_than_utf_8_is_masked() {
        let wide: Vec<u8> = "<Password>hunter2</Password>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(&*body(BodyFormat::Xml, &wide, ALL), b"***");
        assert_eq!(&*body(BodyFormat::Form, b"\xFF&password=hunter2", ALL), b"\xFF&password=***");
        assert_eq!(query("loginPassword=hunter2&a=b", ALL), "loginPassword=***&a=b");
    }

    #[test]
    fn only_credentials_are_masked_in_headers() {
        let sent = [
            ("authorization", "Basic aHVudGVyMg==", "Basic ***"),
            ("proxy-authorization", "hunter2", "***"),
            ("cookie", "a=hunter2", "***"),
            ("x-api-key", "hunter2", "***"),
            ("x-namecom-signature", "hunter2", "***"),
            ("x-idempotency-key", "key-1", "key-1"),
            ("user-agent", "Go-http-client/1.1", "Go-http-client/1.1"),
        ];
        let map: HeaderMap =
            sent.iter().map(|(name, value, _)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let shown = headers(&map);
        for (name, _, kept) in sent {
            assert!(shown.iter().any(|(found, value)| *found == name && value == kept), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_password_of_a_documented_request_is_kept(secret in "[a-zA-Z0-9!$~]{12,20}", at in 0..400_usize) {
            let form = format!("loginName=demo&orderNumber=1&loginPassword={secret}&refundReasonCode=1");
            let xml = format!("<r xmlns:d='u'><d:User><d:Password>{secret}</d:Password><d:Username>demo</d:Username></d:User></r>");
            for (format, text) in [(BodyFormat::Form, form), (BodyFormat::Xml, xml)] {
                // Wherever the text is cut.
                let shown = body(format, text.as_bytes(), at);
                prop_assert!(!String::from_utf8_lossy(&shown).contains(&secret[..4.min(secret.len())]) || shown.len() < 4);
            }
        }

        #[test]
        fn any_bytes_are_accepted(bytes in prop::collection::vec(any::<u8>(), 0..300), kept in 0..400_usize) {
            for format in [BodyFormat::Form, BodyFormat::Xml, BodyFormat::WithoutCredentials] {
                body(format, &bytes, kept);
            }
        }
    }
}
