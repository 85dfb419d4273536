//! What the service says about itself: in its WSDL, and by the namespaces of its answers.
//!
//! Only names are read, and only to compare them with the settings. Nothing here changes a request.

use std::collections::{BTreeMap, BTreeSet};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{NamespaceResolver, QName, ResolveResult};
use quick_xml::reader::NsReader;

use super::DebitsuccessService;
use super::wire::{GET_REFUND_STATUS, INITIATE_REFUND};
use super::xml::XmlError;

/// A schema inside a WSDL is nested more deeply than an answer.
const MAX_DEPTH: usize = 64;
/// Maximum number of the service's names in one sentence.
const SHOWN: usize = 3;
const OPERATIONS: [&str; 2] = [INITIATE_REFUND, GET_REFUND_STATUS];

/// The names in a WSDL.
#[derive(Debug, Default)]
pub(super) struct ServiceDescription {
    /// Namespaces of the elements that the operations' messages consist of.
    service: BTreeSet<String>,
    /// Namespaces of the types of their `request` elements.
    data: BTreeSet<String>,
    /// Every namespace that the document defines or imports. Used if the document leaves the rest
    /// to other documents.
    named: BTreeSet<String>,
    operations: BTreeSet<String>,
    /// The SOAPActions, by operation.
    actions: BTreeMap<String, BTreeSet<String>>,
}

/// The namespaces in an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerNamespaces {
    service: BTreeSet<String>,
    data: BTreeSet<String>,
}

/// A difference between a setting and what the service says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingDifference {
    /// The setting that would have to change; None if no setting can.
    pub(super) setting: Option<ServiceSetting>,
    /// One sentence, without a full stop.
    pub(super) sentence: String,
}

/// A setting that names something of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceSetting {
    ServiceNamespace,
    DataNamespace,
    ActionPrefix,
}

impl ServiceSetting {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            ServiceSetting::ServiceNamespace => "service_namespace",
            ServiceSetting::DataNamespace => "data_namespace",
            ServiceSetting::ActionPrefix => "action_prefix",
        }
    }
}

/// An element that has not ended yet.
struct OpenElement {
    local: String,
    /// The value of its `name` attribute.
    label: String,
}

impl ServiceDescription {
    /// Reads a WSDL 1.1 document; None if the document is something else.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, XmlError> {
        let mut description = Self::default();
        let mut is_one = false;
        each_tag(bytes, |open, tag, resolver| {
            let local = tag.local_name().into_inner();
            if open.is_empty() {
                is_one = local == "definitions";
            }
            description.see(open, local, tag, resolver)
        })?;
        Ok(is_one.then_some(description))
    }

    fn see(
        &mut self,
        open: &[OpenElement],
        local: &str,
        tag: &BytesStart<'_>,
        resolver: &NamespaceResolver,
    ) -> Result<(), XmlError> {
        let named = match local {
            "definitions" | "schema" => attribute(tag, "targetNamespace")?,
            "import" => attribute(tag, "namespace")?,
            _ => None,
        };
        self.named.extend(named);
        match local {
            "part" => {
                if let Some((namespace, element)) =
                    attribute(tag, "element")?.and_then(|name| resolved(&name, resolver))
                    && OPERATIONS.contains(&element.as_str())
                {
                    self.service.insert(namespace);
                }
            }
            "element" => {
                let is_ours =
                    open.iter().any(|outer| outer.local == "element" && OPERATIONS.contains(&outer.label.as_str()));
                if is_ours
                    && attribute(tag, "name")?.as_deref() == Some("request")
                    && let Some((namespace, _)) = attribute(tag, "type")?.and_then(|name| resolved(&name, resolver))
                {
                    self.data.insert(namespace);
                }
            }
            "operation" => {
                self.operations.extend(attribute(tag, "name")?);
                let action = attribute(tag, "soapAction")?.filter(|action| !action.is_empty());
                if let (Some(action), Some(outer)) = (action, open.last().filter(|outer| outer.local == "operation")) {
                    self.actions.entry(outer.label.clone()).or_default().insert(action);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the document names operations. One that imports all of them does not.
    pub(super) fn has_operations(&self) -> bool {
        !self.operations.is_empty()
    }

    /// Every setting that the WSDL contradicts, once.
    pub(super) fn differences(&self, service: &DebitsuccessService) -> Vec<SettingDifference> {
        let mut differences = Vec::new();
        for operation in OPERATIONS.into_iter().filter(|_| self.has_operations()) {
            if !self.operations.contains(operation) {
                let sentence = format!("the service's description has no operation {operation}");
                differences.push(SettingDifference { setting: None, sentence });
            }
        }
        let exact = |exact: &BTreeSet<String>| if exact.is_empty() { self.named.clone() } else { exact.clone() };
        let of_service =
            by_namespace(ServiceSetting::ServiceNamespace, &service.service_namespace, &exact(&self.service));
        let of_data = by_namespace(ServiceSetting::DataNamespace, &service.data_namespace, &exact(&self.data));
        differences.extend(of_service.into_iter().chain(of_data));
        let of_action = OPERATIONS.into_iter().find_map(|operation| {
            let action = format!("{}{operation}", service.action_prefix);
            let actions = self.actions.get(operation).filter(|actions| !actions.contains(&action))?;
            let sentence = format!(
                "action_prefix makes the SOAPAction \"{action}\", and the service's description has {}",
                quoted(actions)
            );
            Some(SettingDifference { setting: Some(ServiceSetting::ActionPrefix), sentence })
        });
        differences.extend(of_action);
        differences
    }
}

impl AnswerNamespaces {
    /// Reads the namespaces of an answer to `operation`.
    pub(super) fn read(bytes: &[u8], operation: &str) -> Result<Self, XmlError> {
        let (response, result) = (format!("{operation}Response"), format!("{operation}Result"));
        let mut namespaces = Self::default();
        each_tag(bytes, |open, tag, resolver| {
            let (namespace, local) = resolver.resolve_element(tag.name());
            let ResolveResult::Bound(namespace) = namespace else { return Ok(()) };
            let path: Vec<&str> = open.iter().map(|outer| outer.local.as_str()).collect();
            match path.as_slice() {
                ["Envelope", "Body"] if local.into_inner() == response => {
                    namespaces.service.insert(namespace.into_inner().to_owned());
                }
                ["Envelope", "Body", outer, inner] if *outer == response && *inner == result => {
                    namespaces.data.insert(namespace.into_inner().to_owned());
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(namespaces)
    }

    /// The settings that the answer contradicts.
    pub(super) fn differences(&self, service: &DebitsuccessService) -> Vec<SettingDifference> {
        let of_service = by_namespace(ServiceSetting::ServiceNamespace, &service.service_namespace, &self.service);
        let of_data = by_namespace(ServiceSetting::DataNamespace, &service.data_namespace, &self.data);
        of_service.into_iter().chain(of_data).collect()
    }
}

/// The difference between a configured namespace and those of the service, if it has any.
fn by_namespace(setting: ServiceSetting, configured: &str, present: &BTreeSet<String>) -> Option<SettingDifference> {
    if present.is_empty() || present.contains(configured) {
        return None;
    }
    let sentence = format!("{} is \"{configured}\", and the service has {}", setting.as_str(), quoted(present));
    Some(SettingDifference { setting: Some(setting), sentence })
}

/// `"a", "b" and 3 more`.
fn quoted(names: &BTreeSet<String>) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("\"{name}\"")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Calls `see` with each opening tag, the elements around it, and the namespaces in scope.
fn each_tag(
    bytes: &[u8],
    mut see: impl FnMut(&[OpenElement], &BytesStart<'_>, &NamespaceResolver) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Charset)?;
    let mut reader = NsReader::from_str(text.strip_prefix('\u{FEFF}').unwrap_or(text));
    let mut open: Vec<OpenElement> = Vec::new();
    loop {
        match reader.read_event().map_err(|_| XmlError::Malformed)? {
            Event::Start(tag) => {
                see(&open, &tag, reader.resolver())?;
                if open.len() >= MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                let label = attribute(&tag, "name")?.unwrap_or_default();
                open.push(OpenElement { local: tag.local_name().into_inner().to_owned(), label });
            }
            Event::Empty(tag) => see(&open, &tag, reader.resolver())?,
            Event::End(_) => {
                open.pop().ok_or(XmlError::Malformed)?;
            }
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Eof if open.is_empty() => return Ok(()),
            Event::Eof => return Err(XmlError::CutOff),
            _ => {}
        }
    }
}

/// The value of an attribute without a prefix.
fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, XmlError> {
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_| XmlError::Malformed)?;
        if attribute.key == QName(name) {
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| XmlError::Malformed)?;
            return Ok(Some(value.trim().to_owned()));
        }
    }
    Ok(None)
}

/// Namespace and local name of a qualified name in an attribute's value.
fn resolved(name: &str, resolver: &NamespaceResolver) -> Option<(String, String)> {
    match resolver.resolve(QName(name), true) {
        (ResolveResult::Bound(namespace), local) => {
            Some((namespace.into_inner().to_owned(), local.into_inner().to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;

    /// As WCF writes `?wsdl`: the contract in this document, its schemas in others.
    const IMPORTING: &str = r#"<?xml version="1.0" encoding="utf-8"?>
        <wsdl:definitions name="DSServices" targetNamespace="http://tempuri.org/" xmlns:tns="http://tempuri.org/"
            xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/">
          <wsdl:types><xsd:schema targetNamespace="http://tempuri.org/Imports" xmlns:xsd="http://www.w3.org/2001/XMLSchema">
            <xsd:import schemaLocation="http://h/s.svc?xsd=xsd0" namespace="http://tempuri.org/"/>
            <xsd:import schemaLocation="http://h/s.svc?xsd=xsd2" namespace="http://data/"/>
          </xsd:schema></wsdl:types>
          <wsdl:message name="I"><wsdl:part name="parameters" element="tns:InitiateRefund"/></wsdl:message>
          <wsdl:message name="G"><wsdl:part name="parameters" element="tns:GetRefundStatus"/></wsdl:message>
          <wsdl:message name="O"><wsdl:part name="parameters" element="other:Ping" xmlns:other="http://other/"/></wsdl:message>
          <wsdl:binding name="B" type="tns:IDSServices">
            <wsdl:operation name="InitiateRefund"><soap:operation soapAction="http://tempuri.org/I/InitiateRefund"/></wsdl:operation>
            <wsdl:operation name="GetRefundStatus"><soap:operation soapAction="http://tempuri.org/I/GetRefundStatus"/></wsdl:operation>
          </wsdl:binding>
        </wsdl:definitions>"#;

    fn service(service_namespace: &str, data_namespace: &str, action_prefix: &str) -> DebitsuccessService {
        DebitsuccessService {
            username: "demo".to_owned(),
            password: crate::providers::secret::Secret::new(SecretString::from("demo-password")),
            path: "/s.svc".to_owned(),
            service_namespace: service_namespace.to_owned(),
            data_namespace: data_namespace.to_owned(),
            action_prefix: action_prefix.to_owned(),
        }
    }

    fn sentences(differences: Vec<SettingDifference>) -> Vec<String> {
        differences.into_iter().map(|difference| difference.sentence).collect()
    }

    #[rstest]
    #[case::all_right("http://tempuri.org/", "http://data/", "http://tempuri.org/I/", &[])]
    #[case::another_service("http://x/", "http://data/", "http://tempuri.org/I/",
        &["service_namespace is \"http://x/\", and the service has \"http://tempuri.org/\""])]
    #[case::other_data("http://tempuri.org/", "http://x/", "http://tempuri.org/I/",
        &["data_namespace is \"http://x/\", and the service has \"http://data/\", \"http://tempuri.org/\", \"http://tempuri.org/Imports\""])]
    #[case::another_action("http://tempuri.org/", "http://data/", "urn:",
        &["action_prefix makes the SOAPAction \"urn:InitiateRefund\", and the service's description has \"http://tempuri.org/I/InitiateRefund\""])]
    fn each_differing_setting_is_named_once(
        #[case] service_namespace: &str,
        #[case] data_namespace: &str,
        #[case] action_prefix: &str,
        #[case] expected: &[&str],
    ) {
        let description = ServiceDescription::read(IMPORTING.as_bytes()).unwrap().unwrap();
        assert!(description.has_operations());
        let differences = description.differences(&service(service_namespace, data_namespace, action_prefix));
        assert_eq!(sentences(differences), expected);
    }

    /// A WSDL that contains its schemas says exactly which namespace the request's members have.
    #[test]
    fn the_type_of_the_request_shows_the_data_namespace() {
        let document = r#"<definitions targetNamespace="http://s/" xmlns:d="http://data/">
            <types><schema targetNamespace="http://s/"><element name="InitiateRefund"><complexType><sequence>
            <element name="request" type="d:InitiateRefundRequest"/></sequence></complexType></element></schema></types>
            </definitions>"#;
        let description = ServiceDescription::read(document.as_bytes()).unwrap().unwrap();
        let differences = description.differences(&service("http://s/", "http://s/", "urn:"));
        assert_eq!(sentences(differences), ["data_namespace is \"http://s/\", and the service has \"http://data/\""]);
    }

    #[test]
    fn a_missing_operation_is_named() {
        let document = IMPORTING.replace("name=\"InitiateRefund\"", "name=\"Refund\"");
        let description = ServiceDescription::read(document.as_bytes()).unwrap().unwrap();
        let differences =
            description.differences(&service("http://tempuri.org/", "http://data/", "http://tempuri.org/I/"));
        assert_eq!(sentences(differences), ["the service's description has no operation InitiateRefund"]);
    }

    #[rstest]
    #[case::a_page("<html><body>DSServices Service</body></html>", Ok(false))]
    #[case::text("no XML", Ok(false))]
    #[case::cut_off("<definitions>", Err(XmlError::CutOff))]
    #[case::with_a_document_type("<!DOCTYPE html><html></html>", Err(XmlError::DocumentType))]
    fn a_document_without_a_description_is_none(#[case] document: &str, #[case] expected: Result<bool, XmlError>) {
        assert_eq!(ServiceDescription::read(document.as_bytes()).map(|read| read.is_some()), expected);
    }

    #[test]
    fn the_nesting_depth_is_bounded() {
        assert_eq!(ServiceDescription::read("<a>".repeat(20_000).as_bytes()).err(), Some(XmlError::TooDeep));
    }

    #[test]
    fn the_namespaces_of_an_answer_are_compared() {
        let answer = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
            <GetRefundStatusResponse xmlns="http://s/"><GetRefundStatusResult xmlns:a="http://data/">
            <a:Status>Failed</a:Status><b:Note xmlns:b="http://base/"/></GetRefundStatusResult></GetRefundStatusResponse>
            </s:Body></s:Envelope>"#;
        let namespaces = AnswerNamespaces::read(answer.as_bytes(), GET_REFUND_STATUS).unwrap();
        assert_eq!(namespaces.differences(&service("http://s/", "http://data/", "urn:")), []);
        assert_eq!(namespaces.differences(&service("http://s/", "http://base/", "urn:")), []);
        let settings: Vec<_> = namespaces
            .differences(&service("http://x/", "http://x/", "urn:"))
            .into_iter()
            .map(|one| one.setting)
            .collect();
        assert_eq!(settings, [Some(ServiceSetting::ServiceNamespace), Some(ServiceSetting::DataNamespace)]);
    }

    proptest! {
        #[test]
        fn no_markup_panics(text in "[<>/a-c!?\\[\\]&;#x0-9 :=\"']{0,120}") {
            let _ = ServiceDescription::read(text.as_bytes());
            let _ = AnswerNamespaces::read(text.as_bytes(), GET_REFUND_STATUS);
        }
    }
}
