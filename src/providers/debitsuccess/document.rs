//! The XML document of an answer. WCF sends one with attachments, and sometimes one without, as
//! `multipart/related`.

use crate::http::client::HttpResponse;
use crate::providers::debitsuccess::xml::{Element, XmlError, charset_of};
use crate::providers::text;

/// Maximum length of a multipart boundary, by RFC 2046.
const MAX_BOUNDARY: usize = 70;

/// The root element of an answer that is one document. The charset is taken from the byte order
/// mark, the header or the XML declaration, in this order.
pub(super) fn read(answer: &HttpResponse) -> Result<Element, XmlError> {
    let content_type = content_type_of(answer);
    parse(&answer.body, content_type)
}

/// As [`read`], and accepts a multipart answer with one XML part.
pub(super) fn read_with_parts(answer: &HttpResponse) -> Result<Element, XmlError> {
    let content_type = content_type_of(answer).unwrap_or_default();
    if !essence(content_type).eq_ignore_ascii_case("multipart/related") {
        return read(answer);
    }
    let boundary = parameter(content_type, "boundary").ok_or(XmlError::Malformed)?;
    let parts = parts(&answer.body, boundary).ok_or(XmlError::Malformed)?;
    let mut documents = parts.iter().filter(|part| part.is_xml());
    match (documents.next(), documents.next()) {
        (Some(part), None) => parse(part.body, Some(&part.content_type)),
        _ => Err(XmlError::Malformed),
    }
}

fn content_type_of(answer: &HttpResponse) -> Option<&str> {
    answer.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

fn parse(body: &[u8], content_type: Option<&str>) -> Result<Element, XmlError> {
    let is_named = content_type.is_some_and(|value| parameter(value, "charset").is_some());
    let of_the_document = charset_of(body).filter(|_| !is_named).map(|charset| format!("text/xml; charset={charset}"));
    let text = text::decode(body, of_the_document.as_deref().or(content_type)).map_err(|_| XmlError::Charset)?;
    Element::parse(&text)
}

/// One part of a multipart answer.
struct MimePart<'a> {
    content_type: String,
    /// The part has no transfer encoding.
    is_plain: bool,
    body: &'a [u8],
}

impl MimePart<'_> {
    fn is_xml(&self) -> bool {
        let kind = essence(&self.content_type).to_ascii_lowercase();
        self.is_plain && matches!(kind.as_str(), "text/xml" | "application/xml" | "application/xop+xml")
    }
}

/// The parts between the lines `--boundary`, up to `--boundary--`; None if that is missing.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<MimePart<'a>>> {
    if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
        return None;
    }
    let line = format!("--{boundary}");
    let mut parts = Vec::new();
    let (mut at, mut begin) = (0, None);
    while at < body.len() {
        let rest = body.get(at..)?;
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let this = rest.get(..length)?.trim_ascii_end();
        let after = this.strip_prefix(line.as_bytes());
        if let Some(after) = after.filter(|after| after.is_empty() || *after == b"--") {
            if let Some(begin) = begin {
                parts.push(part(without_line_end(body.get(begin..at)?))?);
            }
            if after == b"--" {
                return Some(parts);
            }
            begin = Some(at + length);
        }
        at += length;
    }
    None
}

/// Headers, an empty line, and the body.
fn part(bytes: &[u8]) -> Option<MimePart<'_>> {
    let mut part = MimePart { content_type: String::new(), is_plain: true, body: b"" };
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(rest.get(..end)?).ok()?.trim_end();
        rest = rest.get(end + 1..)?;
        if line.is_empty() {
            part.body = rest;
            return Some(part);
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.trim().eq_ignore_ascii_case("content-type") {
            part.content_type = value.trim().to_owned();
        } else if name.trim().eq_ignore_ascii_case("content-transfer-encoding") {
            part.is_plain = matches!(value.trim().to_ascii_lowercase().as_str(), "binary" | "8bit" | "7bit");
        }
    }
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn parameter<'a>(content_type: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(given, _)| given.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::providers::testing::fixtures::{self, apply_mutations, mutations};

    fn text_of(content_type: &'static str, body: &[u8]) -> Result<String, XmlError> {
        let answer = fixtures::answer(200, &[("content-type", content_type)], body);
        read_with_parts(&answer).map(|root| root.value("a").ok().flatten().unwrap_or_default().to_owned())
    }

    #[rstest]
    #[case::plain("text/xml", b"<r><a>\xC3\xA9</a></r>", Ok("\u{e9}"))]
    #[case::mark(
        "text/xml; charset=utf-8",
        b"\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?><r><a>\xC3\xA9</a></r>",
        Ok("\u{e9}")
    )]
    #[case::named_in_the_header("text/xml; charset=iso-8859-1", b"<r><a>\xE9</a></r>", Ok("\u{e9}"))]
    #[case::header_before_document(
        "text/xml; charset=\"utf-8\"",
        b"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><r><a>\xC3\xA9</a></r>",
        Ok("\u{e9}")
    )]
    #[case::named_in_the_document(
        "text/xml",
        b"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><r><a>\xE9</a></r>",
        Ok("\u{e9}")
    )]
    #[case::sixteen_bits("text/xml", b"\xFF\xFE<\0r\0>\0<\0a\0>\0\xE9\0<\0/\0a\0>\0<\0/\0r\0>\0", Ok("\u{e9}"))]
    #[case::not_as_named("text/xml; charset=utf-8", b"<r><a>\xE9</a></r>", Err(XmlError::Charset))]
    #[case::one_part("multipart/related; type=\"text/xml\"; boundary=\"b\"", b"--b\r\nContent-Type: text/xml; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<r><a>\xE9</a></r>\r\n--b--\r\n", Ok("\u{e9}"))]
    #[case::as_wcf_writes_it("multipart/related; type=\"application/xop+xml\";start=\"<http://tempuri.org/0>\";boundary=\"uuid:1+id=1\";start-info=\"text/xml\"", b"\r\n--uuid:1+id=1\r\nContent-ID: <http://tempuri.org/0>\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: application/xop+xml;charset=utf-8;type=\"text/xml\"\r\n\r\n<r><a>x</a></r>\r\n--uuid:1+id=1--", Ok("x"))]
    #[case::beside_an_image(
        "multipart/related; boundary=b",
        b"--b\nContent-Type: image/png\n\n\xFF\n--b\nContent-Type: text/xml\n\n<r><a>x</a></r>\n--b--",
        Ok("x")
    )]
    #[case::two_documents(
        "multipart/related; boundary=b",
        b"--b\nContent-Type: text/xml\n\n<r/>\n--b\nContent-Type: text/xml\n\n<r/>\n--b--",
        Err(XmlError::Malformed)
    )]
    #[case::no_document("multipart/related; boundary=b", b"--b\n\n<r/>\n--b--", Err(XmlError::Malformed))]
    #[case::encoded(
        "multipart/related; boundary=b",
        b"--b\nContent-Type: text/xml\nContent-Transfer-Encoding: base64\n\nPHIvPg==\n--b--",
        Err(XmlError::Malformed)
    )]
    #[case::cut_off(
        "multipart/related; boundary=b",
        b"--b\nContent-Type: text/xml\n\n<r><a>x</a></r>\n",
        Err(XmlError::Malformed)
    )]
    #[case::no_boundary("multipart/related", b"<r/>", Err(XmlError::Malformed))]
    #[case::empty_boundary("multipart/related; boundary=\"\"", b"--\n\n<r/>\n----", Err(XmlError::Malformed))]
    fn the_document_of_an_answer_is_read(
        #[case] content_type: &'static str,
        #[case] body: &[u8],
        #[case] expected: Result<&str, XmlError>,
    ) {
        assert_eq!(text_of(content_type, body), expected.map(str::to_owned));
    }

    #[test]
    fn a_multipart_answer_is_read_only_on_request() {
        let body = b"--b\nContent-Type: text/xml\n\n<r><a>x</a></r>\n--b--";
        let answer = fixtures::answer(200, &[("content-type", "multipart/related; boundary=b")], body);
        assert!(read(&answer).is_err());
    }

    proptest! {
        #[test]
        fn no_parts_panic(mutations in mutations()) {
            let body = b"--b\r\nContent-Type: text/xml\r\n\r\n<r><a>x</a></r>\r\n--b\r\nContent-Type: image/png\r\n\r\n\xFF\r\n--b--\r\n";
            let _ = text_of("multipart/related; boundary=b", &apply_mutations(body, &mutations));
        }
    }
}
