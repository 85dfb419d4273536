//! The subset of XML that SOAP needs: a bounded reader.
//!
//! No document types, so no entities except XML's own five. Elements are found by their local
//! names, because the provider's namespaces are not public; each element's namespace is kept as a
//! hint.

use std::sync::Arc;

use crate::domain::target::is_xml_text;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// Far deeper than any answer of the provider.
const MAX_DEPTH: usize = 32;

/// An element with its text and children, by local names.
#[derive(Debug, Default)]
pub(super) struct Element {
    name: String,
    /// None if it is not declared or empty.
    namespace: Option<Arc<str>>,
    /// `xsi:nil`: the element has no value.
    nil: bool,
    text: String,
    children: Vec<Element>,
}

/// Why a document is not readable. Completes a sentence that begins with the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum XmlError {
    #[error("is not text in the charset that it names")]
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
    /// Parses a document that is already decoded, so the charset in its declaration is ignored.
    pub(super) fn parse(text: &str) -> Result<Element, XmlError> {
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Element> = Vec::new();
        let mut scope = NamespaceScope::default();
        let mut root: Option<Element> = None;
        loop {
            match reader.read_event().map_err(|_| XmlError::Malformed)? {
                Event::Start(tag) => {
                    if root.is_some() {
                        return Err(XmlError::Malformed);
                    }
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(Element::opened(&tag, open.len(), &mut scope)?);
                }
                Event::Empty(tag) => {
                    let element = Element::opened(&tag, open.len(), &mut scope)?;
                    scope.leave(open.len());
                    close(element, &mut open, &mut root)?;
                }
                Event::End(_) => {
                    scope.leave(open.len().saturating_sub(1));
                    let element = open.pop().ok_or(XmlError::Malformed)?;
                    close(element, &mut open, &mut root)?;
                }
                Event::Text(text) => append(&text.xml10_content(), &mut open)?,
                Event::CData(text) => append(&text.xml10_content(), &mut open)?,
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(|_| XmlError::Malformed)?;
                    match character {
                        Some(character) => append(character.encode_utf8(&mut [0; 4]), &mut open)?,
                        None => append(predefined(&reference)?, &mut open)?,
                    }
                }
                Event::DocType(_) => return Err(XmlError::DocumentType),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if !open.is_empty() {
            return Err(XmlError::CutOff);
        }
        root.ok_or(XmlError::Malformed)
    }

    /// The local name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The URI of the namespace; None if there is none, or the prefix is not declared.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// In document order.
    pub(super) fn children(&self) -> &[Element] {
        &self.children
    }

    /// The only child of this name.
    ///
    /// # Errors
    /// There are several children of this name, so it is unknown which one is meant.
    pub(super) fn child(&self, name: &str) -> Result<Option<&Element>, XmlError> {
        let mut named = self.children.iter().filter(|child| child.name == name);
        match (named.next(), named.next()) {
            (found, None) => Ok(found),
            (_, Some(_)) => Err(XmlError::Malformed),
        }
    }

    /// The trimmed text of the only child of this name; None if it is absent, nil or empty.
    ///
    /// # Errors
    /// There are several, or it contains elements.
    pub(super) fn value(&self, name: &str) -> Result<Option<&str>, XmlError> {
        self.child(name)?.map_or(Ok(None), Element::own_value)
    }

    /// As [`Element::value`], but the child may be repeated with the same text.
    ///
    /// # Errors
    /// Their texts differ, or one contains elements.
    pub(super) fn same_value(&self, name: &str) -> Result<Option<&str>, XmlError> {
        let mut values = self.children.iter().filter(|child| child.name == name).map(Element::own_value);
        let first = values.next().unwrap_or(Ok(None))?;
        values.try_fold(first, |first, next| if next? == first { Ok(first) } else { Err(XmlError::Malformed) })
    }

    fn own_value(&self) -> Result<Option<&str>, XmlError> {
        if !self.children.is_empty() {
            return Err(XmlError::Malformed);
        }
        let text = self.text.trim_matches([' ', '\t', '\r', '\n']);
        Ok((!self.nil && !text.is_empty()).then_some(text))
    }

    fn opened(tag: &BytesStart<'_>, depth: usize, scope: &mut NamespaceScope) -> Result<Element, XmlError> {
        let mut element = Element { name: tag.local_name().as_ref().to_owned(), ..Element::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|_| XmlError::Malformed)?;
            let (prefix, name) = (attribute.key.prefix(), attribute.key.local_name());
            match prefix.as_ref().map(|prefix| prefix.as_ref()) {
                None if name.as_ref() == "xmlns" => scope.declare(depth, "", &attribute.value),
                Some("xmlns") => scope.declare(depth, name.as_ref(), &attribute.value),
                _ if name.as_ref() == "nil" => element.nil = matches!(attribute.value.trim(), "true" | "1"),
                _ => {}
            }
        }
        element.namespace = scope.of(tag.name().prefix().as_ref().map_or("", |prefix| prefix.as_ref()));
        Ok(element)
    }
}

/// The namespace declarations in scope, the innermost last.
#[derive(Default)]
struct NamespaceScope(Vec<NamespaceDeclaration>);

struct NamespaceDeclaration {
    depth: usize,
    prefix: String,
    /// Shared by the elements in it, so that a long one is in memory once.
    namespace: Arc<str>,
}

impl NamespaceScope {
    fn declare(&mut self, depth: usize, prefix: &str, namespace: &str) {
        self.0.push(NamespaceDeclaration { depth, prefix: prefix.to_owned(), namespace: Arc::from(namespace) });
    }

    /// Removes the declarations of the element at `depth`, which has ended.
    fn leave(&mut self, depth: usize) {
        while self.0.last().is_some_and(|declaration| declaration.depth >= depth) {
            self.0.pop();
        }
    }

    fn of(&self, prefix: &str) -> Option<Arc<str>> {
        let declared = self.0.iter().rev().find(|declaration| declaration.prefix == prefix)?;
        (!declared.namespace.is_empty()).then(|| declared.namespace.clone())
    }
}

/// The charset in the document's XML declaration.
pub(super) fn charset_of(bytes: &[u8]) -> Option<String> {
    let head = bytes.get(..bytes.len().min(200)).unwrap_or_default();
    let head: String = head.iter().map(|byte| char::from(*byte)).collect();
    let declaration = head.strip_prefix("<?xml")?.split("?>").next()?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    value.strip_prefix(quote)?.split(quote).next().map(str::to_owned)
}

/// Whether XML 1.0 can represent the text.
pub(super) fn is_xml_representable(text: &str) -> bool {
    text.chars().all(is_xml_text)
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Element>) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None if root.is_none() => *root = Some(element),
        None => return Err(XmlError::Malformed),
    }
    Ok(())
}

fn append(text: &str, open: &mut [Element]) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(XmlError::Malformed),
    }
    Ok(())
}

fn predefined(name: &str) -> Result<&'static str, XmlError> {
    match name {
        "amp" => Ok("&"),
        "lt" => Ok("<"),
        "gt" => Ok(">"),
        "quot" => Ok("\""),
        "apos" => Ok("'"),
        _ => Err(XmlError::DocumentType),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use quick_xml::escape::escape;

    use super::*;

    fn value_of_a(document: &str) -> Result<Option<String>, XmlError> {
        Element::parse(document)?.value("a").map(|value| value.map(str::to_owned))
    }

    #[rstest]
    #[case("<r><a>x</a></r>", Ok(Some("x")))]
    #[case("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<r><a> x </a></r>\r\n", Ok(Some("x")))]
    #[case("<p:r xmlns:p=\"u\"><q:a xmlns:q=\"v\">x</q:a></p:r>", Ok(Some("x")))]
    #[case("<r><a>&lt;&amp;&gt;&quot;&apos;&#48;&#x31;</a></r>", Ok(Some("<&>\"'01")))]
    #[case("<r><a>x<!-- y --><![CDATA[<z>]]></a></r>", Ok(Some("x<z>")))]
    #[case("<r><a i:nil=\"true\" xmlns:i=\"u\"/></r>", Ok(None))]
    #[case("<r><a i:nil=\"true\" xmlns:i=\"u\">x</a></r>", Ok(None))]
    #[case("<r><a i:nil=\"false\" xmlns:i=\"u\">x</a></r>", Ok(Some("x")))]
    #[case("<r><a/></r>", Ok(None))]
    #[case("<r/>", Ok(None))]
    #[case("<r><a>x</a><a>y</a></r>", Err(XmlError::Malformed))]
    #[case("<r><a><b/></a></r>", Err(XmlError::Malformed))]
    #[case("<r><a>x</a>", Err(XmlError::CutOff))]
    #[case("<r><a>x</a", Err(XmlError::Malformed))]
    #[case("<r><a>x</b></r>", Err(XmlError::Malformed))]
    #[case("<r/><r/>", Err(XmlError::Malformed))]
    #[case("<r/>x", Err(XmlError::Malformed))]
    #[case("x<r/>", Err(XmlError::Malformed))]
    #[case("", Err(XmlError::Malformed))]
    #[case("  ", Err(XmlError::Malformed))]
    #[case("<r><a>&other;</a></r>", Err(XmlError::DocumentType))]
    #[case("<r><a>&#0;</a></r>", Err(XmlError::Malformed))]
    #[case("<!DOCTYPE r [<!ENTITY l \"lol\">]><r><a>&l;</a></r>", Err(XmlError::DocumentType))]
    #[case("<!DOCTYPE r SYSTEM \"file:///etc/passwd\"><r/>", Err(XmlError::DocumentType))]
    fn a_document_is_parsed_or_refused(#[case] document: &str, #[case] expected: Result<Option<&str>, XmlError>) {
        assert_eq!(value_of_a(document), expected.map(|value| value.map(str::to_owned)));
    }

    #[rstest]
    #[case("<a/>", None)]
    #[case("<a xmlns='u'/>", Some("u"))]
    #[case("<p:a xmlns:p='u' xmlns='v'/>", Some("u"))]
    #[case("<p:a xmlns='v'/>", None)]
    #[case("<r xmlns='u'><a/></r>", Some("u"))]
    #[case("<r xmlns='u'><a xmlns=''/></r>", None)]
    #[case("<r xmlns='u'><b xmlns='v'/><a/></r>", Some("u"))]
    #[case("<r xmlns='u'><b xmlns='v'><c xmlns='w'/></b><a/></r>", Some("u"))]
    #[case("<r xmlns:p='u'><p:a xmlns:p='v'/></r>", Some("v"))]
    fn an_element_inherits_the_namespace_around_it(#[case] document: &str, #[case] expected: Option<&str>) {
        let root = Element::parse(document).unwrap();
        let element = if root.name() == "a" { &root } else { root.child("a").unwrap().unwrap() };
        assert_eq!(element.namespace(), expected);
    }

    #[rstest]
    #[case(b"<?xml version=\"1.0\" encoding=\"utf-16\"?><r/>", Some("utf-16"))]
    #[case(b"<?xml version='1.0' encoding = 'ISO-8859-1' standalone='yes'?>", Some("ISO-8859-1"))]
    #[case(b"<?xml version='1.0'?><r encoding='x'/>", None)]
    #[case(b"<r encoding='x'/>", None)]
    #[case(b"<?xml encoding=x?>", None)]
    #[case(b"", None)]
    fn the_declared_charset_is_found(#[case] document: &[u8], #[case] expected: Option<&str>) {
        assert_eq!(charset_of(document).as_deref(), expected);
    }

    #[test]
    fn the_nesting_depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(Element::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Element::parse(&nested(MAX_DEPTH + 1)).err(), Some(XmlError::TooDeep));
        assert_eq!(Element::parse(&"<a>".repeat(20_000)).err(), Some(XmlError::TooDeep));
    }

    proptest! {
        #[test]
        fn text_stays_inside_its_element(text in "[\\t\\n\\r -\u{D7FF}]{0,60}") {
            prop_assert!(is_xml_representable(&text));
            let read = value_of_a(&format!("<r><a>{}</a></r>", escape(&text)));
            let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
            prop_assert_eq!(read, Ok((!trimmed.is_empty()).then(|| trimmed.to_owned())));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = charset_of(&bytes);
        }

        #[test]
        fn no_markup_panics(text in "[<>/a-c!?\\[\\]&;#x0-9 =\"']{0,80}") {
            let _ = Element::parse(&text);
        }
    }
}
