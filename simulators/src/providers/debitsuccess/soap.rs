//! SOAP 1.1 as in WCF: envelopes in and out, the choice of the operation, faults.

use http::{HeaderMap, header};
use quick_xml::escape::{escape, partial_escape};
use serde_json::Value;

use super::notes::{Note, NoteType};
use super::xml::{self, Element, SOAP_NAMESPACE, XmlError};
use super::{Settings, SuccessWord, UnfinishedStatus};
use crate::{record::parameters::Parameters, request::Request};

/// One operation of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    InitiateRefund,
    GetRefundStatus,
}

/// The first element in the body of a request's envelope: the operation with its parameters.
pub(crate) struct ParsedEnvelope(pub(super) Result<Element, Fault>);

/// A request with a valid envelope, action and wrapper.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    /// The members of `request` that the contract has, by name.
    members: BoundMembers<'a>,
    user: BoundMembers<'a>,
}

type BoundMembers<'a> = Vec<(&'static str, &'a Element)>;

/// Why a request is no SOAP call of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The body is no acceptable XML.
    NotXml(String),
    /// XML, but no envelope with a body with an element.
    NotSoap(String),
    /// An envelope of another SOAP version.
    VersionMismatch { namespace: String },
    /// A `mustUnderstand` header that is not understood.
    NotUnderstood { header: String },
    /// A SOAPAction that names no operation.
    ActionNotSupported { action: String },
    /// The element in the body is not the operation's.
    WrongElement { operation: Operation, namespace: String, found: String, found_namespace: String },
}

/// An answer: the base members and those of the operation, in the order of the contract.
#[derive(Debug)]
pub(super) struct OperationReply {
    /// `xs:dateTime` with seven decimals and an offset.
    pub(super) date_created: String,
    pub(super) id: String,
    pub(super) notes: Vec<Note>,
    pub(super) outcome: OperationOutcome,
    /// None stands for nil.
    pub(super) members: Vec<(&'static str, Option<String>)>,
}

/// The value of `Status`; the settings choose the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperationOutcome {
    Succeeded,
    Failed,
    /// Processing failed.
    Unfinished,
}

/// The members of a request in the order in which a DataContractSerializer reads them: the base
/// class, then the derived class, each sorted by name.
const USER_MEMBERS: &[&str] = &["Password", "Username"];
const INITIATE_MEMBERS: &[&str] = &[
    "RequestInitiator",
    "User",
    "AccountReferenceNo",
    "Amount",
    "Description",
    "ExternalAccountReferenceNo",
    "ExternalRefundIdentifier",
];
const STATUS_MEMBERS: &[&str] = &[
    "RequestInitiator",
    "User",
    "AccountReferenceNo",
    "ExternalAccountReferenceNo",
    "ExternalRefundIdentifier",
    "RefundRequestNo",
    "RefundRequestNumber",
];

impl Operation {
    pub(super) const ALL: [Self; 2] = [Self::InitiateRefund, Self::GetRefundStatus];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InitiateRefund => "InitiateRefund",
            Self::GetRefundStatus => "GetRefundStatus",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The operation whose name a SOAPAction ends in.
    pub(super) fn of_action(action: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| action.ends_with(operation.name()))
    }

    /// The SOAPAction in the WSDL, as WCF builds it.
    pub(super) fn action(self, settings: &Settings) -> String {
        let separator = if settings.service_namespace.ends_with('/') { "" } else { "/" };
        format!("{}{separator}{}/{}", settings.service_namespace, settings.contract, self.name())
    }

    fn members(self) -> &'static [&'static str] {
        match self {
            Self::InitiateRefund => INITIATE_MEMBERS,
            Self::GetRefundStatus => STATUS_MEMBERS,
        }
    }
}

impl ParsedEnvelope {
    pub(super) fn parse(body: &[u8]) -> ParsedEnvelope {
        ParsedEnvelope(open(body))
    }
}

impl<'a> Call<'a> {
    /// Reads a call as the service would.
    pub(super) fn read(
        settings: &Settings,
        request: &Request,
        ParsedEnvelope(envelope): &'a ParsedEnvelope,
    ) -> Result<Self, Fault> {
        let wrapper = envelope.as_ref().map_err(Fault::clone)?;
        let action = action(&request.headers);
        let operation = if settings.strict_names {
            Operation::ALL.into_iter().find(|operation| operation.action(settings) == action)
        } else {
            Operation::of_action(action)
        };
        let operation = operation.ok_or_else(|| Fault::ActionNotSupported { action: action.to_owned() })?;
        let namespace = wrapper.namespace.as_deref().unwrap_or_default();
        let right_namespace = !settings.strict_names || namespace == settings.service_namespace;
        if wrapper.name != operation.name() || !right_namespace {
            return Err(Fault::WrongElement {
                operation,
                namespace: settings.service_namespace.clone(),
                found: wrapper.name.clone(),
                found_namespace: namespace.to_owned(),
            });
        }
        let service_namespace = Some(settings.service_namespace.as_str()).filter(|_| settings.strict_names);
        let request = wrapper
            .children
            .iter()
            .find(|child| child.name == "request" && in_namespace(child, service_namespace))
            .filter(|request| !request.nil);
        let mut members = request.map(|request| bind(request, operation.members(), settings)).unwrap_or_default();
        let user = members.iter().position(|(name, _)| *name == "User").map(|at| members.swap_remove(at).1);
        let user = user.map(|user| bind(user, USER_MEMBERS, settings)).unwrap_or_default();
        Ok(Self { operation, members, user })
    }

    /// A member's text; none if it is absent, nil or empty.
    pub(super) fn member(&self, name: &str) -> Option<&'a str> {
        value_in(&self.members, name)
    }

    /// Username and password, if present.
    pub(super) fn credentials(&self) -> (Option<&'a str>, Option<&'a str>) {
        (value_in(&self.user, "Username"), value_in(&self.user, "Password"))
    }
}

/// The first element in the body of the envelope: the operation with its parameters.
pub(super) fn open(body: &[u8]) -> Result<Element, Fault> {
    let envelope = xml::parse(body).map_err(|XmlError(sentence)| Fault::NotXml(sentence))?;
    if envelope.name != "Envelope" {
        let sentence = format!("Expected the element 'Envelope' but found '{}'.", shortened(&envelope.name));
        return Err(Fault::NotSoap(sentence));
    }
    if envelope.namespace.as_deref() != Some(SOAP_NAMESPACE) {
        return Err(Fault::VersionMismatch { namespace: envelope.namespace.as_deref().unwrap_or_default().to_owned() });
    }
    let mut body = None;
    for part in envelope.children.into_iter().filter(|part| part.namespace.as_deref() == Some(SOAP_NAMESPACE)) {
        match part.name.as_str() {
            "Header" => understand(&part)?,
            "Body" if body.is_none() => body = Some(part),
            _ => {}
        }
    }
    let body = body.ok_or_else(|| Fault::NotSoap("The envelope has no 'Body'.".to_owned()))?;
    let wrapper = body.children.into_iter().next();
    wrapper.ok_or_else(|| Fault::NotSoap("The body of the envelope is empty.".to_owned()))
}

/// The SOAPAction without its quotes; empty if there is none.
pub(super) fn action(headers: &HeaderMap) -> &str {
    let value = headers.get("soapaction").and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.trim().trim_matches('"')
}

/// Whether the content type is `text/xml` in UTF-8.
pub(super) fn is_text_xml(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let is_xml = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("text/xml"));
    let charset =
        parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    is_xml && charset.is_none_or(|(_, charset)| charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"))
}

/// The members of a request for the journal: known names with their texts, the password masked;
/// unknown names without their texts.
pub(super) fn masked(request: &Element) -> Parameters {
    let mut members = Parameters::empty();
    for member in &request.children {
        let shown = match member.name.as_str() {
            "User" => {
                members.push_members(member.name.clone(), masked(member));
                continue;
            }
            "Password" => Value::String("***".to_owned()),
            name if is_known(name) => member.value().map_or(Value::Null, |text| Value::String(text.to_owned())),
            // It may contain a secret.
            _ => Value::String("(no member of the contract)".to_owned()),
        };
        members.push(member.name.clone(), shown);
    }
    members
}

impl OperationReply {
    /// The whole answer to an operation.
    pub(super) fn envelope(&self, settings: &Settings, operation: Operation) -> String {
        let name = operation.name();
        let mut xml = String::with_capacity(1200);
        let mut write = |parts: &[&str]| parts.iter().for_each(|part| xml.push_str(part));
        let (service, data) = (settings.service_namespace.as_str(), settings.data_namespace.as_str());
        write(&[
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><",
            name,
            "Response xmlns=\"",
        ]);
        write(&[&escape(service), "\"><", name, "Result xmlns:a=\"", &escape(data)]);
        write(&["\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">"]);
        member(&mut xml, "DateCreated", Some(&self.date_created));
        member(&mut xml, "Id", Some(&self.id));
        xml.push_str("<a:ResponseNotes>");
        for note in &self.notes {
            xml.push_str("<a:ResponseMessageNote>");
            member(&mut xml, "Code", Some(note.code));
            member(&mut xml, "Note", Some(&note.text));
            member(&mut xml, "NoteType", Some(note.kind.word()));
            xml.push_str("</a:ResponseMessageNote>");
        }
        xml.push_str("</a:ResponseNotes>");
        let status = match (self.outcome, settings.unfinished_status) {
            (OperationOutcome::Succeeded, _) => settings.success_word.word(),
            (OperationOutcome::Unfinished, UnfinishedStatus::Unknown) => "Unknown",
            (OperationOutcome::Failed | OperationOutcome::Unfinished, _) => "Failed",
        };
        member(&mut xml, "Status", Some(status));
        for (name, value) in &self.members {
            member(&mut xml, name, value.as_deref());
        }
        for part in ["</", name, "Result></", name, "Response></s:Body></s:Envelope>"] {
            xml.push_str(part);
        }
        xml
    }
}

impl SuccessWord {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Succeed => "Succeed",
            Self::Success => "Success",
        }
    }
}

impl NoteType {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Warning => "Warning",
            Self::Info => "Info",
        }
    }
}

impl Fault {
    /// The fault as sent.
    pub(super) fn envelope(&self) -> String {
        const DISPATCHER: &str = "http://schemas.microsoft.com/net/2005/12/windowscommunicationfoundation/dispatcher";
        const ADDRESSING: &str = "http://schemas.microsoft.com/ws/2005/05/addressing/none";
        let (code, namespace, sentence) = match self {
            Self::NotXml(why) | Self::NotSoap(why) => {
                ("s:Client", None, format!("The message could not be read as a SOAP 1.1 envelope. {why}"))
            }
            Self::VersionMismatch { namespace } => (
                "s:VersionMismatch",
                None,
                format!(
                    "The message version is not supported: the envelope is in namespace '{}', expected '{SOAP_NAMESPACE}'.",
                    shortened(namespace)
                ),
            ),
            Self::NotUnderstood { header } => (
                "s:MustUnderstand",
                None,
                format!("The header '{}' was not understood, but it says that it must be.", shortened(header)),
            ),
            Self::ActionNotSupported { action } => (
                "a:ActionNotSupported",
                Some(ADDRESSING),
                format!(
                    "The message with Action '{}' cannot be processed at the receiver, due to a ContractFilter mismatch at the \
                     EndpointDispatcher. This may be because of either a contract mismatch (mismatched Actions between sender \
                     and receiver) or a binding/security mismatch between the sender and the receiver.  Check that sender and \
                     receiver have the same contract and the same binding (including security requirements, e.g. Message, \
                     Transport, None).",
                    action.chars().take(200).collect::<String>()
                ),
            ),
            Self::WrongElement { operation, namespace, found, found_namespace } => (
                "a:DeserializationFailed",
                Some(DISPATCHER),
                format!(
                    "Error in deserializing body of request message for operation '{name}'. Expected to find node type 'Element' \
                     with name '{name}' and namespace '{namespace}'. Found node type 'Element' with name '{}' and namespace '{}'",
                    shortened(found),
                    shortened(found_namespace),
                    name = operation.name(),
                ),
            ),
        };
        let declaration = namespace.map(|namespace| format!(" xmlns:a=\"{namespace}\"")).unwrap_or_default();
        format!(
            "<s:Envelope xmlns:s=\"{SOAP_NAMESPACE}\"><s:Body><s:Fault><faultcode{declaration}>{code}</faultcode>\
             <faultstring xml:lang=\"en-US\">{}</faultstring></s:Fault></s:Body></s:Envelope>",
            partial_escape(sentence)
        )
    }
}

/// Refuses every `mustUnderstand` header but WCF's own copy of the action.
fn understand(header: &Element) -> Result<(), Fault> {
    match header.children.iter().find(|block| block.must_understand && block.name != "Action") {
        Some(block) => Err(Fault::NotUnderstood { header: block.name.clone() }),
        None => Ok(()),
    }
}

/// Reads the members of a contract from an element: the first of each name. In strict order, as
/// WCF's serializer does, a member that does not come after the last one taken is skipped.
fn bind<'a>(parent: &'a Element, contract: &'static [&'static str], settings: &Settings) -> BoundMembers<'a> {
    let namespace = Some(settings.data_namespace.as_str()).filter(|_| settings.strict_names);
    let mut bound = BoundMembers::with_capacity(contract.len());
    let mut next = 0;
    for child in &parent.children {
        let place = contract.iter().position(|name| *name == child.name);
        let Some((place, name)) = place.and_then(|place| Some((place, *contract.get(place)?))) else { continue };
        let in_order =
            if settings.strict_order { place >= next } else { bound.iter().all(|(taken, _)| *taken != name) };
        if in_order && in_namespace(child, namespace) {
            next = place + 1;
            bound.push((name, child));
        }
    }
    bound
}

fn in_namespace(element: &Element, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| element.namespace.as_deref() == Some(wanted))
}

fn value_in<'a>(members: &[(&'static str, &'a Element)], name: &str) -> Option<&'a str> {
    members.iter().find(|(member, _)| *member == name)?.1.value()
}

fn is_known(name: &str) -> bool {
    [USER_MEMBERS, INITIATE_MEMBERS, STATUS_MEMBERS].iter().any(|contract| contract.contains(&name))
}

fn member(xml: &mut String, name: &str, value: Option<&str>) {
    let mut write = |parts: &[&str]| parts.iter().for_each(|part| xml.push_str(part));
    match value {
        Some("") => write(&["<a:", name, "/>"]),
        Some(value) => write(&["<a:", name, ">", &partial_escape(value), "</a:", name, ">"]),
        None => write(&["<a:", name, " i:nil=\"true\"/>"]),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
