//! Raw requests without their secrets: what the journal may keep of headers, query and body.
//!
//! It works on bytes, whatever they are, and takes too much away rather than too little: where it
//! cannot tell what a secret's bounds are, all that could be it goes.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

use crate::request::Provider;

/// In the place of a secret.
const MASK: &str = "***";
/// What the name of a secret has in it.
const SECRET: [&str; 3] = ["password", "secret", "token"];
/// The same for headers, which say more in their names.
const SECRET_HEADER: [&str; 8] = ["auth", "cookie", "password", "secret", "token", "api-key", "apikey", "signature"];
/// The headers of one request that are kept, and how much of each.
const HEADERS_KEPT: usize = 64;
const HEADER_KEPT: usize = 1024;

/// Each header as it was sent, in its order, its credentials masked.
pub(crate) fn headers(headers: &HeaderMap) -> Vec<(&str, Cow<'_, str>)> {
    let shown = headers.iter().map(|(name, value)| {
        let text = String::from_utf8_lossy(value.as_bytes());
        (name.as_str(), if is_secret_header(name) { Cow::Owned(credentials(name, &text)) } else { shortened(text) })
    });
    shown.take(HEADERS_KEPT).collect()
}

fn is_secret_header(name: &HeaderName) -> bool {
    SECRET_HEADER.iter().any(|part| name.as_str().contains(part))
}

/// The scheme of credentials is no secret.
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
    if text.len() <= HEADER_KEPT {
        return text;
    }
    Cow::Owned(text.get(..text.floor_char_boundary(HEADER_KEPT)).unwrap_or_default().to_owned())
}

/// So much of a body, without the secrets in it.
pub(crate) fn body(provider: Provider, body: &[u8], kept: usize) -> Cow<'_, [u8]> {
    let body = body.get(..kept).unwrap_or(body);
    if !names_a_secret(body) {
        return Cow::Borrowed(body);
    }
    match provider {
        // What is written with a byte of nothing beside each letter is no form and no XML that
        // could be taken apart here.
        _ if body.contains(&0) => Cow::Borrowed(MASK.as_bytes()),
        Provider::Sectigo => Cow::Owned(form(body)),
        Provider::Debitsuccess => Cow::Owned(xml(body)),
        // A refund has no credentials in its body: nothing says where one that is there ends.
        Provider::Namecom => Cow::Borrowed(MASK.as_bytes()),
    }
}

/// A query, without the secrets in it.
pub(crate) fn query(query: &str, kept: usize) -> String {
    let query = query.get(..query.floor_char_boundary(kept)).unwrap_or_default();
    String::from_utf8_lossy(&form(query.as_bytes())).into_owned()
}

/// Whether the name of a secret is in it, written out or with escapes, whatever stands between its
/// letters.
fn names_a_secret(bytes: &[u8]) -> bool {
    has_secret_name(bytes) || (bytes.iter().any(|byte| b"%\0".contains(byte)) && has_secret_name(&decoded(bytes)))
}

fn has_secret_name(bytes: &[u8]) -> bool {
    SECRET.iter().any(|name| find(bytes, name.as_bytes()).is_some())
}

/// Percent-decoded, and without bytes of nothing.
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

/// Pairs between ampersands: the value of a secret goes, or all of a pair in which a secret's name
/// is not where a name stands.
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

/// What stands in an element of a secret's name goes, and any other markup that has such a name in
/// it.
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
        // To the end of the element, whatever is in it; without an end, to the end of all.
        shown.extend_from_slice(MASK.as_bytes());
        rest = closing(behind, name).and_then(|at| behind.get(at..)).unwrap_or_default();
    }
    // A secret's name in the text between tags says nothing of where the secret is.
    shown.extend_from_slice(rest);
    shown
}

/// Where the element of this name ends.
fn closing(bytes: &[u8], name: &[u8]) -> Option<usize> {
    let wanted = [b"</", name].concat();
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where a text begins, in whatever letters it is written.
fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let first = text.first()?;
    let is_first = |byte: &u8| byte.eq_ignore_ascii_case(first);
    let mut from = 0;
    while let Some(place) = bytes.get(from..)?.iter().position(is_first) {
        let at = from + place;
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
        Provider::Sectigo,
        "loginName=demo&loginPassword=hunter2&orderNumber=7",
        "loginName=demo&loginPassword=***&orderNumber=7"
    )]
    #[case::capitals(Provider::Sectigo, "LOGINPASSWORD=hunter2&a=b", "LOGINPASSWORD=***&a=b")]
    #[case::escaped_name(Provider::Sectigo, "login%50assword=hunter2", "login%50assword=***")]
    #[case::json(Provider::Sectigo, r#"{"loginPassword":"hunter2"}"#, "***")]
    #[case::twice(Provider::Sectigo, "password=hunter2&password=hunter2", "password=***&password=***")]
    #[case::nothing(Provider::Sectigo, "orderNumber=1", "orderNumber=1")]
    #[case::xml(
        Provider::Debitsuccess,
        "<d:User><d:Password>hunter2</d:Password><d:Username>demo</d:Username></d:User>",
        "<d:User><d:Password>***</d:Password><d:Username>demo</d:Username></d:User>"
    )]
    #[case::cdata(Provider::Debitsuccess, "<Password><![CDATA[hunter2]]></Password>", "<Password>***</Password>")]
    #[case::markup_inside(Provider::Debitsuccess, "<Password>a<b>hunter2</b></Password>x", "<Password>***</Password>x")]
    #[case::attribute(Provider::Debitsuccess, "<User Password='hunter2'>x</User>", "<***>***</User>")]
    #[case::attributes_of_it(Provider::Debitsuccess, "<Password a='hunter2'>hunter2</Password>", "<***>***</Password>")]
    #[case::without_an_end(Provider::Debitsuccess, "<a/><PASSWORD>hunter2", "<a/><PASSWORD>***")]
    #[case::closed_at_once(Provider::Debitsuccess, "<Password/><a>x</a>", "<Password/><a>x</a>")]
    #[case::refund(Provider::Namecom, r#"{"orderId":1,"orderItemIds":[2]}"#, r#"{"orderId":1,"orderItemIds":[2]}"#)]
    #[case::token(Provider::Namecom, r#"{"orderId":1,"token":"hunter2"}"#, "***")]
    fn secrets_go_and_all_else_stays(#[case] provider: Provider, #[case] sent: &str, #[case] kept: &str) {
        assert_eq!(String::from_utf8_lossy(&body(provider, sent.as_bytes(), ALL)), kept);
    }

    #[test]
    fn what_is_not_utf_8_is_masked_all_the_same() {
        let wide: Vec<u8> = "<Password>hunter2</Password>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(&*body(Provider::Debitsuccess, &wide, ALL), b"***");
        assert_eq!(&*body(Provider::Sectigo, b"\xFF&password=hunter2", ALL), b"\xFF&password=***");
        assert_eq!(query("loginPassword=hunter2&a=b", ALL), "loginPassword=***&a=b");
    }

    #[test]
    fn headers_keep_their_values_but_for_credentials() {
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
            for (provider, text) in [(Provider::Sectigo, form), (Provider::Debitsuccess, xml)] {
                // However much of it is kept.
                let shown = body(provider, text.as_bytes(), at);
                prop_assert!(!String::from_utf8_lossy(&shown).contains(&secret[..4.min(secret.len())]) || shown.len() < 4);
            }
        }

        #[test]
        fn nothing_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..300), kept in 0..400_usize) {
            for provider in Provider::ALL {
                body(provider, &bytes, kept);
            }
        }
    }
}
