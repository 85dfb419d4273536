//! The little XML that SOAP needs: a reader that bounds what it is given, and text that cannot break out of its element.
//!
//! No document type, so no entity but the five of XML itself; names without their prefixes, for the provider's namespaces are not public.

use crate::domain::target::is_xml_text;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// Far deeper than any answer of the provider.
const DEEPEST: usize = 32;

/// An element, its text and its children, by local names.
#[derive(Debug, Default)]
pub(super) struct Element {
    name: String,
    /// `xsi:nil`: the element stands for no value.
    nil: bool,
    text: String,
    children: Vec<Element>,
}

/// A document that is none of ours, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadXml {
    #[error("is not UTF-8")]
    Charset,
    #[error("is not well-formed XML")]
    Malformed,
    #[error("ends before its last element does")]
    CutOff,
    #[error("is nested too deeply")]
    TooDeep,
    #[error("has a document type or an entity of its own")]
    DocumentType,
}

impl Element {
    /// The root element of a document.
    pub(super) fn parse(bytes: &[u8]) -> Result<Element, BadXml> {
        let text = std::str::from_utf8(bytes).map_err(|_| BadXml::Charset)?;
        let mut reader = Reader::from_str(text.strip_prefix('\u{FEFF}').unwrap_or(text));
        let mut open: Vec<Element> = Vec::new();
        let mut root: Option<Element> = None;
        loop {
            match reader.read_event().map_err(|_| BadXml::Malformed)? {
                Event::Start(tag) => {
                    if root.is_some() {
                        return Err(BadXml::Malformed);
                    }
                    if open.len() >= DEEPEST {
                        return Err(BadXml::TooDeep);
                    }
                    open.push(Element::opened(&tag)?);
                }
                Event::Empty(tag) => close(Element::opened(&tag)?, &mut open, &mut root)?,
                Event::End(_) => {
                    let element = open.pop().ok_or(BadXml::Malformed)?;
                    close(element, &mut open, &mut root)?;
                }
                Event::Text(text) => append(&text.xml10_content(), &mut open)?,
                Event::CData(text) => append(&text.xml10_content(), &mut open)?,
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(|_| BadXml::Malformed)?;
                    match character {
                        Some(character) => append(character.encode_utf8(&mut [0; 4]), &mut open)?,
                        None => append(predefined(&reference)?, &mut open)?,
                    }
                }
                Event::Decl(declaration) => {
                    let says_utf8 = match declaration.encoding() {
                        None => true,
                        Some(encoding) => encoding.map_err(|_| BadXml::Malformed)?.eq_ignore_ascii_case("utf-8"),
                    };
                    if !says_utf8 {
                        return Err(BadXml::Charset);
                    }
                }
                Event::DocType(_) => return Err(BadXml::DocumentType),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if !open.is_empty() {
            return Err(BadXml::CutOff);
        }
        root.ok_or(BadXml::Malformed)
    }

    /// Its name without a prefix.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its children, in the order of the document.
    pub(super) fn children(&self) -> &[Element] {
        &self.children
    }

    /// The one child of this name.
    ///
    /// # Errors
    /// Where there are several: which of them is meant cannot be known.
    pub(super) fn child(&self, name: &str) -> Result<Option<&Element>, BadXml> {
        let mut named = self.children.iter().filter(|child| child.name == name);
        match (named.next(), named.next()) {
            (found, None) => Ok(found),
            (_, Some(_)) => Err(BadXml::Malformed),
        }
    }

    /// The trimmed text of the one child of this name; none where it is absent, nil or empty.
    ///
    /// # Errors
    /// Where there are several, or it holds elements.
    pub(super) fn value(&self, name: &str) -> Result<Option<&str>, BadXml> {
        let Some(child) = self.child(name)? else { return Ok(None) };
        if !child.children.is_empty() {
            return Err(BadXml::Malformed);
        }
        let text = child.text.trim();
        Ok((!child.nil && !text.is_empty()).then_some(text))
    }

    fn opened(tag: &BytesStart<'_>) -> Result<Element, BadXml> {
        let mut element = Element { name: tag.local_name().as_ref().to_owned(), ..Element::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|_| BadXml::Malformed)?;
            if attribute.key.local_name().as_ref() == "nil" {
                element.nil = matches!(attribute.value.trim(), "true" | "1");
            }
        }
        Ok(element)
    }
}

/// Whether XML 1.0 can carry the text at all.
pub(super) fn is_carried(text: &str) -> bool {
    text.chars().all(is_xml_text)
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Element>) -> Result<(), BadXml> {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None if root.is_none() => *root = Some(element),
        None => return Err(BadXml::Malformed),
    }
    Ok(())
}

fn append(text: &str, open: &mut [Element]) -> Result<(), BadXml> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(BadXml::Malformed),
    }
    Ok(())
}

fn predefined(name: &str) -> Result<&'static str, BadXml> {
    match name {
        "amp" => Ok("&"),
        "lt" => Ok("<"),
        "gt" => Ok(">"),
        "quot" => Ok("\""),
        "apos" => Ok("'"),
        _ => Err(BadXml::DocumentType),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use quick_xml::escape::escape;

    use super::*;

    fn value_of_a(document: &str) -> Result<Option<String>, BadXml> {
        Element::parse(document.as_bytes())?.value("a").map(|value| value.map(str::to_owned))
    }

    #[rstest]
    #[case("<r><a>x</a></r>", Ok(Some("x")))]
    #[case("\u{FEFF}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<r><a> x </a></r>\r\n", Ok(Some("x")))]
    #[case("<p:r xmlns:p=\"u\"><q:a xmlns:q=\"v\">x</q:a></p:r>", Ok(Some("x")))]
    #[case("<r><a>&lt;&amp;&gt;&quot;&apos;&#48;&#x31;</a></r>", Ok(Some("<&>\"'01")))]
    #[case("<r><a>x<!-- y --><![CDATA[<z>]]></a></r>", Ok(Some("x<z>")))]
    #[case("<r><a i:nil=\"true\" xmlns:i=\"u\"/></r>", Ok(None))]
    #[case("<r><a i:nil=\"true\" xmlns:i=\"u\">x</a></r>", Ok(None))]
    #[case("<r><a i:nil=\"false\" xmlns:i=\"u\">x</a></r>", Ok(Some("x")))]
    #[case("<r><a/></r>", Ok(None))]
    #[case("<r/>", Ok(None))]
    #[case("<r><a>x</a><a>y</a></r>", Err(BadXml::Malformed))]
    #[case("<r><a><b/></a></r>", Err(BadXml::Malformed))]
    #[case("<r><a>x</a>", Err(BadXml::CutOff))]
    #[case("<r><a>x</a", Err(BadXml::Malformed))]
    #[case("<r><a>x</b></r>", Err(BadXml::Malformed))]
    #[case("<r/><r/>", Err(BadXml::Malformed))]
    #[case("<r/>x", Err(BadXml::Malformed))]
    #[case("x<r/>", Err(BadXml::Malformed))]
    #[case("", Err(BadXml::Malformed))]
    #[case("  ", Err(BadXml::Malformed))]
    #[case("<r><a>&other;</a></r>", Err(BadXml::DocumentType))]
    #[case("<r><a>&#0;</a></r>", Err(BadXml::Malformed))]
    #[case("<!DOCTYPE r [<!ENTITY l \"lol\">]><r><a>&l;</a></r>", Err(BadXml::DocumentType))]
    #[case("<!DOCTYPE r SYSTEM \"file:///etc/passwd\"><r/>", Err(BadXml::DocumentType))]
    #[case("<?xml version=\"1.0\" encoding=\"utf-16\"?><r/>", Err(BadXml::Charset))]
    fn a_document_is_read_or_refused(#[case] document: &str, #[case] expected: Result<Option<&str>, BadXml>) {
        assert_eq!(value_of_a(document), expected.map(|value| value.map(str::to_owned)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(Element::parse(nested(DEEPEST).as_bytes()).is_ok());
        assert_eq!(Element::parse(nested(DEEPEST + 1).as_bytes()).err(), Some(BadXml::TooDeep));
        assert_eq!(Element::parse("<a>".repeat(20_000).as_bytes()).err(), Some(BadXml::TooDeep));
    }

    proptest! {
        #[test]
        fn text_stays_inside_its_element(text in "[\\t\\n\\r -\u{D7FF}]{0,60}") {
            prop_assert!(is_carried(&text));
            let read = value_of_a(&format!("<r><a>{}</a></r>", escape(&text)));
            let trimmed = text.trim();
            prop_assert_eq!(read, Ok((!trimmed.is_empty()).then(|| trimmed.to_owned())));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Element::parse(&bytes);
        }

        #[test]
        fn no_markup_panics(text in "[<>/a-c!?\\[\\]&;#x0-9 =\"']{0,80}") {
            let _ = Element::parse(text.as_bytes());
        }
    }
}
