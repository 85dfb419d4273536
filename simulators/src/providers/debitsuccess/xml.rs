//! A small bounded XML parser: no DTD, only the five predefined entities, limited depth and number
//! of elements.

use std::sync::Arc;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Prefix, PrefixDeclaration};
use quick_xml::{Reader, XmlVersion};

/// One element, with the attributes that SOAP needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// The local name.
    pub(super) name: String,
    pub(super) namespace: Option<Arc<str>>,
    /// Whether it has `i:nil="true"`.
    pub(super) nil: bool,
    /// Whether it has `s:mustUnderstand="1"`.
    pub(super) must_understand: bool,
    /// Its own text, without that of its children.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

/// Why a text is no acceptable XML, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct XmlError(pub(super) String);

pub(super) const SOAP_NAMESPACE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const INSTANCE_NAMESPACE: &str = "http://www.w3.org/2001/XMLSchema-instance";
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// WCF's default (`MaxDepth`).
const MAX_DEPTH: usize = 32;
/// A refund has about a dozen.
const MAX_ELEMENTS: usize = 2000;
/// Per start tag. Every element searches the namespaces declared around it, so their number is
/// bounded.
const MAX_ATTRIBUTES: usize = 50;

/// Parses a whole UTF-8 document.
pub(super) fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| not_xml("The message is not valid UTF-8."))?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = true;

    let mut open: Vec<Element> = Vec::with_capacity(MAX_DEPTH);
    let mut root: Option<Element> = None;
    let mut elements = 0;
    let mut scope = Scope::default();
    let mut at_start = true;
    loop {
        let event = reader.read_event().map_err(|error| not_xml(&error.to_string()))?;
        let first = std::mem::replace(&mut at_start, false);
        match event {
            Event::Start(start) | Event::Empty(start) if root.is_some() => {
                return Err(not_xml(&format!("There is a second root element, '{}'.", shortened(start.name().0))));
            }
            Event::Start(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(not_xml("The maximum depth or number of elements has been exceeded."));
                }
                open.push(element(&mut scope, open.len(), &start)?);
            }
            Event::Empty(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(not_xml("The maximum depth or number of elements has been exceeded."));
                }
                let element = element(&mut scope, open.len(), &start)?;
                scope.leave(open.len());
                close(&mut open, &mut root, element);
            }
            Event::End(_) => match open.pop() {
                Some(element) => {
                    scope.leave(open.len());
                    close(&mut open, &mut root, element);
                }
                None => return Err(not_xml("An element ends that never began.")),
            },
            Event::Text(text) => append(&mut open, &text.xml10_content())?,
            Event::CData(data) if open.is_empty() => {
                return Err(not_xml(&format!("There is text outside the root element: '{}'.", shortened(&data))));
            }
            Event::CData(data) => append(&mut open, &data.xml10_content())?,
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character),
                    Ok(None) => predefined(&reference),
                    Err(error) => return Err(not_xml(&error.to_string())),
                };
                match character {
                    Some(character) if !open.is_empty() => append(&mut open, character.encode_utf8(&mut [0; 4]))?,
                    Some(_) => return Err(not_xml("There is a reference outside the root element.")),
                    None => {
                        let name = shortened(&reference);
                        return Err(not_xml(&format!("Reference to undeclared entity '{name}'.")));
                    }
                }
            }
            Event::Decl(declaration) => {
                if !first {
                    return Err(not_xml("The XML declaration must be the first thing in the document."));
                }
                let encoding = match declaration.encoding() {
                    Some(Ok(encoding)) => encoding.eq_ignore_ascii_case("utf-8"),
                    Some(Err(_)) => false,
                    None => true,
                };
                if !encoding {
                    return Err(not_xml("The encoding in the declaration is not 'utf-8'."));
                }
            }
            Event::PI(_) | Event::DocType(_) => {
                return Err(not_xml(
                    "Processing instructions (other than the XML declaration) and DTDs are not supported.",
                ));
            }
            Event::Comment(_) => {}
            Event::Eof if open.is_empty() => return root.ok_or_else(|| not_xml("Root element is missing.")),
            Event::Eof => return Err(not_xml("Unexpected end of file.")),
        }
    }
}

impl Element {
    /// The first child with this local name, in any namespace.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Its text, if it is neither nil nor empty.
    pub(super) fn value(&self) -> Option<&str> {
        (!self.nil && !self.text.is_empty()).then_some(self.text.as_str())
    }
}

/// The namespaces declared at one position of a document.
#[derive(Default)]
struct Scope {
    declared: Vec<Declared>,
}

struct Declared {
    /// The depth of the element that declares it.
    depth: usize,
    /// Empty for the default.
    prefix: Box<str>,
    /// None if a default is removed.
    namespace: Option<Arc<str>>,
}

impl Scope {
    fn declare(&mut self, depth: usize, prefix: &str, namespace: &str) -> Result<(), XmlError> {
        if prefix == "xml" && namespace == XML_NAMESPACE {
            return Ok(());
        }
        if matches!(prefix, "xml" | "xmlns") || (!prefix.is_empty() && namespace.is_empty()) {
            return Err(not_xml(&format!("The prefix '{}' cannot be declared like this.", shortened(prefix))));
        }
        let namespace = (!namespace.is_empty()).then(|| Arc::from(namespace));
        self.declared.push(Declared { depth, prefix: prefix.into(), namespace });
        Ok(())
    }

    /// The namespace of a prefix; the default namespace, if any, without a prefix.
    fn resolved(&self, prefix: Option<Prefix<'_>>) -> Result<Option<Arc<str>>, XmlError> {
        let prefix = prefix.map(Prefix::into_inner).unwrap_or_default();
        match self.declared.iter().rev().find(|declared| &*declared.prefix == prefix) {
            Some(declared) => Ok(declared.namespace.clone()),
            None if prefix.is_empty() => Ok(None),
            None if prefix == "xml" => Ok(Some(XML_NAMESPACE.into())),
            None => Err(not_xml(&format!("'{}' is an undeclared prefix.", shortened(prefix)))),
        }
    }

    /// Removes the declarations of the element at this depth.
    fn leave(&mut self, depth: usize) {
        while self.declared.last().is_some_and(|declared| declared.depth >= depth) {
            self.declared.pop();
        }
    }
}

/// An element at this depth, whose declarations are added to the scope.
fn element(scope: &mut Scope, depth: usize, start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut prefixed: Vec<(Prefix<'_>, &str, bool)> = Vec::new();
    for (count, attribute) in start.attributes().enumerate() {
        if count >= MAX_ATTRIBUTES {
            return Err(not_xml("The maximum number of attributes has been exceeded."));
        }
        let attribute = attribute.map_err(|error| not_xml(&error.to_string()))?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| not_xml(&error.to_string()))?;
        if !legal(&value) {
            return Err(not_xml("An attribute holds a character that XML does not allow."));
        }
        match (attribute.key.as_namespace_binding(), attribute.key.decompose()) {
            (Some(PrefixDeclaration::Default), _) => scope.declare(depth, "", &value)?,
            (Some(PrefixDeclaration::Named(prefix)), _) => scope.declare(depth, prefix, &value)?,
            (None, (name, Some(prefix))) => {
                prefixed.push((prefix, name.into_inner(), matches!(value.trim(), "1" | "true")));
            }
            (None, (_, None)) => {}
        }
    }
    let (name, prefix) = start.name().decompose();
    let name = name.into_inner();
    if name.is_empty() || !legal(name) {
        return Err(not_xml("An element has no legal name."));
    }
    let namespace = scope.resolved(prefix)?;
    let mut element = Element { name: name.to_owned(), namespace, ..Element::default() };
    for (prefix, name, says_yes) in prefixed {
        match (scope.resolved(Some(prefix))?.as_deref(), name) {
            (Some(INSTANCE_NAMESPACE), "nil") => element.nil = says_yes,
            (Some(SOAP_NAMESPACE), "mustUnderstand") => element.must_understand = says_yes,
            _ => {}
        }
    }
    Ok(element)
}

fn close(open: &mut [Element], root: &mut Option<Element>, element: Element) {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None => *root = Some(element),
    }
}

fn append(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    if !legal(text) {
        return Err(not_xml("The message holds a character that XML does not allow."));
    }
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(not_xml("Data at the root level is invalid.")),
    }
    Ok(())
}

fn predefined(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    }
}

/// Whether every character is allowed in XML 1.0.
fn legal(text: &str) -> bool {
    // The fast path for ASCII text.
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return true;
    }
    text.chars().all(|character| match character {
        '\t' | '\n' | '\r' => true,
        '\u{FFFE}' | '\u{FFFF}' => false,
        other => other >= ' ',
    })
}

/// A name from the request for a fault, shortened.
fn shortened(text: &str) -> String {
    text.chars().take(50).collect()
}

fn not_xml(sentence: &str) -> XmlError {
    XmlError(sentence.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::inherited("<a xmlns='urn:1'><b/></a>", Some("urn:1"))]
    #[case::declared_by_itself("<a xmlns='urn:1'><b xmlns='urn:2'/></a>", Some("urn:2"))]
    #[case::taken_back("<a xmlns='urn:1'><b xmlns=''/></a>", None)]
    #[case::over_once_its_element_ends(
        "<a xmlns='urn:1'><c xmlns='urn:2'><d/></c><e xmlns='urn:2'/><b/></a>",
        Some("urn:1")
    )]
    #[case::prefixed("<a xmlns:p='urn:1'><p:b/></a>", Some("urn:1"))]
    #[case::prefix_declared_again("<a xmlns:p='urn:1'><p:b xmlns:p='urn:2'/></a>", Some("urn:2"))]
    #[case::escaped("<a xmlns:p='urn:&#65;'><p:b/></a>", Some("urn:A"))]
    #[case::of_xml_itself("<a><xml:b/></a>", Some(XML_NAMESPACE))]
    fn an_element_is_in_the_namespace_that_stands_around_it(#[case] text: &str, #[case] namespace: Option<&str>) {
        let root = parse(text.as_bytes()).unwrap();
        assert_eq!(root.child("b").unwrap().namespace.as_deref(), namespace);
    }

    #[rstest]
    #[case::element("<p:a/>")]
    #[case::attribute("<a p:b=''/>")]
    #[case::declared_elsewhere("<a><b xmlns:p='urn:1'/><p:c/></a>")]
    #[case::without_a_namespace("<a xmlns:p=''/>")]
    #[case::of_xml("<a xmlns:xml='urn:1'/>")]
    #[case::of_declarations("<a xmlns:xmlns='urn:1'/>")]
    #[case::declared_twice("<a xmlns:p='urn:1' xmlns:p='urn:1'/>")]
    fn a_prefix_is_declared_once_and_where_it_is_used(#[case] text: &str) {
        parse(text.as_bytes()).unwrap_err();
    }
}
