//! InitiateRefund and GetRefundStatus, by the documentation and WCF's rules: the envelopes and the
//! meaning of each answer.
//!
//! A business error comes as HTTP 200 with `Status` and `ResponseNotes`; a SOAP fault is a protocol
//! error and says nothing about the refund. The service silently drops members that are out of
//! order: those of the base class come first, each class sorted alphabetically.

use std::sync::Once;

use quick_xml::escape::escape;

use crate::domain::ids::RefundId;
use crate::domain::money::Comparison;
use crate::domain::outcome::{
    Acceptance, AccountSignal, Confirmation, DoubtReason, ErrorCategory, Lookup, MAX_PROVIDER_TEXT_BYTES, Outcome,
    ProviderError, sanitize_provider_text,
};
use crate::domain::refund::Refund;
use crate::domain::target::DebitsuccessTarget;
use crate::http::client::HttpResponse;
use crate::providers::debitsuccess::document;
use crate::providers::debitsuccess::xml::{Element, XmlError};
use crate::providers::redact::Redactor;

/// The operation that requests a refund.
pub(crate) const INITIATE_REFUND: &str = "InitiateRefund";
/// The operation that reports a refund's state.
pub(crate) const GET_REFUND_STATUS: &str = "GetRefundStatus";

/// Maximum number of remarks that are kept from one answer.
const MAX_REMARKS: usize = 16;
/// Maximum length of a namespace in a text, in characters.
const MAX_NAMESPACE_CHARS: usize = 120;

/// What every envelope contains besides the refund.
pub(crate) struct EnvelopeContext<'a> {
    /// XML namespace of the operations.
    pub service_namespace: &'a str,
    /// XML namespace of the data members.
    pub data_namespace: &'a str,
    /// `User.Username`.
    pub username: &'a str,
    /// `User.Password`.
    pub password: &'a str,
}

/// The envelope of InitiateRefund. It always contains the identifier, because without it a lost
/// answer could never be recovered.
pub(crate) fn refund_envelope(context: &EnvelopeContext<'_>, id: &RefundId, target: &DebitsuccessTarget) -> String {
    let amount = target.amount().decimal();
    context.envelope(
        INITIATE_REFUND,
        target,
        &[
            ("AccountReferenceNo", target.account_reference_no()),
            ("Amount", Some(amount.as_str())),
            ("Description", Some(target.description())),
            ("ExternalAccountReferenceNo", target.external_account_reference_no()),
            ("ExternalRefundIdentifier", Some(id.as_str())),
        ],
    )
}

/// The envelope of GetRefundStatus. It asks by our own identifier, because the provider's number
/// may never have arrived.
pub(crate) fn status_envelope(context: &EnvelopeContext<'_>, id: &RefundId, target: &DebitsuccessTarget) -> String {
    context.envelope(
        GET_REFUND_STATUS,
        target,
        &[
            ("AccountReferenceNo", target.account_reference_no()),
            ("ExternalAccountReferenceNo", target.external_account_reference_no()),
            ("ExternalRefundIdentifier", Some(id.as_str())),
        ],
    )
}

/// The namespaces from the account's settings. The provider does not publish them.
#[derive(Clone, Copy)]
pub(crate) struct Namespaces<'a> {
    /// XML namespace of the operations.
    pub service_namespace: &'a str,
    /// XML namespace of the data members.
    pub data_namespace: &'a str,
}

/// Interprets an answer to InitiateRefund for the refund `id`.
pub(crate) fn read_refund(
    answer: &HttpResponse,
    id: &RefundId,
    namespaces: Namespaces<'_>,
    redactor: &Redactor,
) -> Outcome {
    let reply = match OperationReply::read(answer, INITIATE_REFUND, namespaces, redactor) {
        Ok(reply) => reply,
        Err(ReplyError::NotDispatched(error)) => return Outcome::NotSent { error, retry_at: None },
        Err(ReplyError::UnknownReply(doubt)) => return doubt.into(),
    };
    match reply.status {
        ServiceStatus::Succeed => {
            if let Some(error) = reply.errors().next() {
                return contradiction(&format!("Status is Succeed with the error {}", error.to_text()));
            }
            if reply.identifier.as_deref() != Some(id.as_str()) {
                let shown = shown(reply.identifier.as_deref(), redactor);
                return contradiction(&format!(
                    "Status is Succeed for another ExternalRefundIdentifier, {shown}, and ours is \"{id}\""
                ));
            }
            for note in reply.warnings() {
                tracing::warn!(refund = %id, code = note.code, "debitsuccess accepted the refund with a warning");
            }
            let remarks = reply.remarks();
            Outcome::Accepted(Acceptance {
                reference: reply.number,
                status: Some("Submitted".to_owned()),
                status_note: reply.note,
                remarks,
                ..Acceptance::default()
            })
        }
        // A service that refuses before it reads the request (02) returns an identifier of its own
        // making, so the identifier proves nothing here.
        ServiceStatus::Failed => reply.refusal(answer.status),
        ServiceStatus::Unknown => {
            UnknownReply::new(DoubtReason::ProviderSaysUnknown, format!("Status is Unknown{}", reply.errors_suffix()))
                .into()
        }
    }
}

/// Interprets an answer to GetRefundStatus.
pub(crate) fn read_status(
    answer: &HttpResponse,
    refund: &Refund,
    target: &DebitsuccessTarget,
    namespaces: Namespaces<'_>,
    redactor: &Redactor,
) -> Lookup {
    let reply = match OperationReply::read(answer, GET_REFUND_STATUS, namespaces, redactor) {
        Ok(reply) => reply,
        Err(ReplyError::NotDispatched(error)) => {
            // The service answers. That it did not process the request is a matter of the settings,
            // not of the circuit breaker.
            return Lookup::Unavailable { evidence: error.message, signal: AccountSignal::Healthy };
        }
        Err(ReplyError::UnknownReply(doubt)) => return Lookup::unavailable(doubt.evidence),
    };
    let errors: Vec<&ResponseNote> = reply.errors().collect();
    match (reply.status, errors.as_slice()) {
        (ServiceStatus::Succeed, []) => {}
        (ServiceStatus::Failed, [error]) if error.code == "08" => {
            return Lookup::not_found(error.to_text());
        }
        (status, _) => {
            let evidence = format!("Status is {}{}", status.as_str(), reply.errors_suffix());
            let is_login = reply.refuses_the_login() && reply.namespace_difference.is_none();
            let signal = if is_login { AccountSignal::CredentialsRefused } else { AccountSignal::Failure };
            return Lookup::Unavailable { evidence, signal };
        }
    }
    if reply.identifier.as_deref() != Some(refund.id().as_str()) {
        let shown = shown(reply.identifier.as_deref(), redactor);
        let ours = refund.id();
        return Lookup::unavailable(format!(
            "the answer is for another ExternalRefundIdentifier, {shown}, and ours is \"{ours}\""
        ));
    }
    let Some(refund_status) = reply.refund_status.clone() else {
        return Lookup::unavailable("the answer has no RefundStatus");
    };
    if let (Some(known), Some(reported)) = (&refund.provider_reference, &reply.number)
        && number_of(known) != number_of(reported)
    {
        let evidence = format!("the identifier is that of refund \"{reported}\", and ours is \"{known}\"");
        return Lookup::Found(contradiction(&evidence));
    }
    // A record under our identifier with an amount that cannot be ours is not our refund. A less
    // precise amount is no contradiction: the documentation calls it an Integer.
    let comparison = reply.refund_amount.as_deref().map(|reported| target.amount().compare(reported));
    if comparison == Some(Comparison::Different) {
        let shown = shown(reply.refund_amount.as_deref(), redactor);
        let evidence = format!("RefundAmount is {shown}, and ours is \"{}\"", target.amount().decimal());
        return Lookup::Found(contradiction(&evidence));
    }
    let remarks = reply.remarks();
    // The number from the first answer stays, even if this answer formats it differently.
    let (reference, status_note) = (refund.provider_reference.clone().or(reply.number), reply.note);
    let status = Some(quote_if_changed(&refund_status, redactor));
    Lookup::Found(match refund_status.as_str() {
        "Completed" => Outcome::Refunded(Confirmation {
            reference,
            status,
            // Only the amount that the provider confirms exactly.
            amount: (comparison == Some(Comparison::Same)).then(|| target.amount()),
            status_note,
            remarks,
            ..Confirmation::default()
        }),
        "Rejected" => Outcome::Refused {
            error: ProviderError {
                code: refund_status,
                message: status_note.unwrap_or_default(),
                http_status: answer.status,
                category: ErrorCategory::RejectedOnReview,
            },
            items: Vec::new(),
        },
        _ => Outcome::Accepted(Acceptance { reference, status, status_note, remarks, ..Acceptance::default() }),
    })
}

/// `InitiateRefundResult` and `GetRefundStatusResult`, which share a base class. Texts are redacted
/// and bounded.
#[derive(Debug)]
struct OperationReply {
    status: ServiceStatus,
    notes: Vec<ResponseNote>,
    /// As received, because it is compared: redaction would change an identifier that contains the
    /// password.
    identifier: Option<String>,
    /// None if it is zero, which a service without a number sends.
    number: Option<String>,
    /// As received, because it is compared.
    refund_status: Option<String>,
    /// As received, because it is compared.
    refund_amount: Option<String>,
    note: Option<String>,
    /// The id of the provider's message, for questions to the provider.
    message_id: Option<String>,
    /// The fields that were left out because their form is undocumented.
    irregular: Vec<&'static str>,
    /// A sentence about the answer's namespaces, if they differ from the account's settings.
    namespace_difference: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceStatus {
    Succeed,
    Failed,
    Unknown,
}

/// One of `ResponseNotes`.
#[derive(Debug)]
struct ResponseNote {
    code: String,
    text: String,
    kind: NoteKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoteKind {
    Error,
    Warning,
    Info,
}

/// The meaning of an Error note's code.
enum Meaning {
    /// Definitely refused.
    Refused(ErrorCategory),
    /// The login was not accepted, so nothing was processed.
    CredentialsRefused,
    /// Documented as inconclusive, or not documented.
    Ambiguous,
}

/// Why an answer proves nothing.
struct UnknownReply {
    reason: DoubtReason,
    evidence: String,
}

/// Why an answer contains no reply of the operation.
enum ReplyError {
    /// The service says that it did not dispatch the request.
    NotDispatched(ProviderError),
    UnknownReply(UnknownReply),
}

impl EnvelopeContext<'_> {
    fn envelope(&self, operation: &str, target: &DebitsuccessTarget, members: &[(&str, Option<&str>)]) -> String {
        let mut body = String::new();
        if let Some(initiator) = target.request_initiator() {
            body.push_str(&member("RequestInitiator", initiator));
        }
        let user = format!("{}{}", member("Password", self.password), member("Username", self.username));
        body.push_str(&format!("<d:User>{user}</d:User>"));
        for (name, value) in members {
            if let Some(value) = value {
                body.push_str(&member(name, value));
            }
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
             <{operation} xmlns=\"{}\"><request xmlns:d=\"{}\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">\
             {body}</request></{operation}></s:Body></s:Envelope>",
            escape(self.service_namespace),
            escape(self.data_namespace),
        )
    }
}

impl OperationReply {
    fn read(
        answer: &HttpResponse,
        operation: &str,
        namespaces: Namespaces<'_>,
        redactor: &Redactor,
    ) -> Result<OperationReply, ReplyError> {
        let unreadable = |error: XmlError| {
            UnknownReply::new(DoubtReason::UnreadableReply, format!("HTTP {} with a body that {error}", answer.status))
        };
        // A lookup's answer may be multipart and may repeat a member; a refund's answer may not.
        let is_lookup = operation == GET_REFUND_STATUS;
        let root = if is_lookup { document::read_with_parts(answer) } else { document::read(answer) };
        let fault = root.as_ref().ok().and_then(SoapFault::of);
        if let Some(fault) = &fault
            && let Some(error) = fault.not_dispatched(answer.status, redactor)
        {
            return Err(ReplyError::NotDispatched(error));
        }
        let fault_text = fault.map(|fault| fault.describe(namespaces, redactor)).unwrap_or_default();
        if answer.status != 200 || !fault_text.is_empty() {
            let is_server = answer.status >= 500;
            let reason = if is_server { DoubtReason::ProviderServerError } else { DoubtReason::UnreadableReply };
            return Err(UnknownReply::new(reason, format!("HTTP {}{fault_text}", answer.status)).into());
        }
        let root = root.map_err(unreadable)?;
        let (response, result) = result_of(&root, operation).map_err(unreadable)?.ok_or_else(|| {
            UnknownReply::new(
                DoubtReason::UnreadableReply,
                format!("HTTP 200 without {operation}Result in an envelope"),
            )
        })?;
        let value = |name: &str| if is_lookup { result.same_value(name) } else { result.value(name) };
        let mut irregular = Vec::new();
        let mut remark = |name: &'static str| {
            let text = value(name).unwrap_or_else(|_| {
                irregular.push(name);
                None
            });
            // A text of Unicode blanks, which XML does not trim, is also empty.
            text.map(|text| redactor.text(text)).filter(|text| !text.is_empty())
        };
        let (note, message_id) = (remark("Note"), remark("Id"));
        let fields = || -> Result<OperationReply, XmlError> {
            Ok(OperationReply {
                status: ServiceStatus::Unknown,
                notes: Vec::new(),
                identifier: value("ExternalRefundIdentifier")?.map(str::to_owned),
                number: value("RefundRequestNumber")?
                    .filter(|number| !number_of(number).is_empty())
                    .map(|number| redactor.text(number)),
                refund_status: value("RefundStatus")?.map(str::to_owned),
                refund_amount: value("RefundAmount")?.map(str::to_owned),
                note,
                message_id,
                irregular,
                namespace_difference: namespaces.difference(response, result).map(|sentence| redactor.text(&sentence)),
            })
        };
        let mut reply = fields().map_err(unreadable)?;
        reply.notes = ResponseNote::read_all(result, is_lookup, redactor)?;
        reply.status = match value("Status").map_err(unreadable)? {
            // One of the provider's pages writes "Success".
            Some("Succeed" | "Success") => ServiceStatus::Succeed,
            Some("Failed") => ServiceStatus::Failed,
            Some("Unknown") => ServiceStatus::Unknown,
            Some(other) => {
                let evidence = format!("Status is {}", shown(Some(other), redactor));
                return Err(UnknownReply::new(DoubtReason::UnreadableReply, evidence).into());
            }
            None => {
                let evidence = "the answer has no Status".to_owned();
                return Err(UnknownReply::new(DoubtReason::UnreadableReply, evidence).into());
            }
        };
        static LOGGED: Once = Once::new();
        warn_of_irregular(&reply.irregular, &LOGGED);
        Ok(reply)
    }

    fn warnings(&self) -> impl Iterator<Item = &ResponseNote> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Warning)
    }

    /// The remarks beside a success, for the refund's history.
    fn remarks(&self) -> Vec<String> {
        let warnings = self.warnings().map(|note| sanitize_provider_text(&format!("warning {}", note.to_text())));
        let id = self.message_id.iter().map(|id| sanitize_provider_text(&format!("message Id {id}")));
        let left_out = self.irregular.iter().map(|field| format!("{field} was ignored: its form is not documented"));
        warnings.chain(id).chain(left_out).take(MAX_REMARKS).collect()
    }

    fn errors(&self) -> impl Iterator<Item = &ResponseNote> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Error)
    }

    /// `: 06 Unknown exception ...; 08 ...`, or nothing if there is no error.
    fn errors_suffix(&self) -> String {
        let names = self.refuses_the_login().then_some(self.namespace_difference.as_deref()).flatten();
        let names = names.map(|names| format!(" ({names})")).unwrap_or_default();
        if self.errors().next().is_none() {
            String::new()
        } else {
            sanitize_provider_text(&format!("{names}: {}", self.all_errors()))
        }
    }

    /// Every code with its text. Texts are shortened so that the bound cuts off no code.
    fn all_errors(&self) -> String {
        let room = MAX_PROVIDER_TEXT_BYTES / self.errors().count().max(1);
        let texts = self.errors().map(|note| {
            let text = note.to_text();
            let end =
                (0..=text.len().min(room.saturating_sub("; ".len()))).rev().find(|end| text.is_char_boundary(*end));
            text.get(..end.unwrap_or_default()).unwrap_or_default().trim_end().to_owned()
        });
        texts.collect::<Vec<String>>().join("; ")
    }

    fn refuses_the_login(&self) -> bool {
        self.errors().any(|note| matches!(note.meaning(), Meaning::CredentialsRefused))
    }

    /// Interprets `Failed` by its errors. One ambiguous error makes the whole answer ambiguous.
    fn refusal(&self, http_status: u16) -> Outcome {
        let Some(first) = self.errors().next() else {
            return UnknownReply::new(DoubtReason::ProviderSaysUnknown, "Status is Failed without an error".to_owned())
                .into();
        };
        if self.errors().any(|note| matches!(note.meaning(), Meaning::Ambiguous)) {
            return UnknownReply::new(
                DoubtReason::ProviderSaysUnknown,
                format!("Status is Failed{}", self.errors_suffix()),
            )
            .into();
        }
        let login = self.errors().find(|note| matches!(note.meaning(), Meaning::CredentialsRefused));
        // That a refund with our identifier exists outweighs other errors of this request.
        let in_use = |note: &&ResponseNote| matches!(note.meaning(), Meaning::Refused(ErrorCategory::IdentifierInUse));
        let decisive = login.or(self.errors().find(in_use)).unwrap_or(first);
        let message = if self.errors().count() == 1 { first.text.clone() } else { self.all_errors() };
        let error = |category, message: &str| ProviderError {
            code: decisive.code.clone(),
            message: sanitize_provider_text(message),
            http_status,
            category,
        };
        match (decisive.meaning(), &self.namespace_difference) {
            (Meaning::Refused(category), _) => Outcome::Refused { error: error(category, &message), items: Vec::new() },
            // A service that finds no member in its namespace sees no login, so the password may be
            // right.
            (Meaning::CredentialsRefused, Some(names)) => {
                let error = error(ErrorCategory::InvalidRequest, &format!("{names}: {message}"));
                Outcome::NotSent { error, retry_at: None }
            }
            (Meaning::CredentialsRefused, None) => {
                Outcome::NotSent { error: error(ErrorCategory::CredentialsRefused, &message), retry_at: None }
            }
            (Meaning::Ambiguous, _) => {
                UnknownReply::new(DoubtReason::ProviderSaysUnknown, format!("Status is Failed{}", self.errors_suffix()))
                    .into()
            }
        }
    }
}

impl Namespaces<'_> {
    /// A sentence that names the settings which the answer contradicts; None if there are none, or
    /// the answer names no namespace.
    fn difference(self, response: &Element, result: &Element) -> Option<String> {
        let of_members: Vec<&str> = result.children().iter().filter_map(Element::namespace).collect();
        let other_data = of_members.first().filter(|_| !of_members.contains(&self.data_namespace));
        let other_service = response.namespace().filter(|namespace| *namespace != self.service_namespace);
        let settings = [
            ("data_namespace", other_data.copied(), self.data_namespace),
            ("service_namespace", other_service, self.service_namespace),
        ];
        let sentences: Vec<String> = settings
            .into_iter()
            .filter_map(|(setting, theirs, ours)| {
                let theirs: String = theirs?.chars().take(MAX_NAMESPACE_CHARS).collect();
                Some(format!("{setting} is \"{ours}\", and the service answers in \"{theirs}\""))
            })
            .collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

impl ServiceStatus {
    const fn as_str(self) -> &'static str {
        match self {
            ServiceStatus::Succeed => "Succeed",
            ServiceStatus::Failed => "Failed",
            ServiceStatus::Unknown => "Unknown",
        }
    }
}

impl ResponseNote {
    /// `is_lookup`: the answer belongs to a lookup.
    fn read_all(result: &Element, is_lookup: bool, redactor: &Redactor) -> Result<Vec<ResponseNote>, UnknownReply> {
        let unreadable =
            |problem: &str| UnknownReply::new(DoubtReason::UnreadableReply, format!("a note of the answer {problem}"));
        let malformed = |error: XmlError| unreadable(&error.to_string());
        let Some(list) = result.child("ResponseNotes").map_err(malformed)? else { return Ok(Vec::new()) };
        let mut notes = Vec::new();
        for note in list.children() {
            let kind = match note.value("NoteType").map_err(malformed)? {
                Some("Error") => NoteKind::Error,
                Some("Warning") => NoteKind::Warning,
                Some("Info") => NoteKind::Info,
                // A note of an unknown type counts as an error: beside a success it leaves the
                // outcome open.
                _ if is_lookup => NoteKind::Error,
                _ => return Err(unreadable("is neither Error, Warning nor Info")),
            };
            notes.push(ResponseNote {
                code: redactor.text(note.value("Code").map_err(malformed)?.unwrap_or_default()),
                text: redactor.text(note.value("Note").map_err(malformed)?.unwrap_or_default()),
                kind,
            });
        }
        Ok(notes)
    }

    fn to_text(&self) -> String {
        format!("{} {}", self.code, self.text).trim().to_owned()
    }

    /// By the code alone: two pages have different texts for one code.
    fn meaning(&self) -> Meaning {
        use ErrorCategory as Category;
        Meaning::Refused(match self.code.as_str() {
            "02" => return Meaning::CredentialsRefused,
            "13012" | "12017" | "12016" | "13203" | "13204" | "04" | "100" => Category::InvalidRequest,
            "08" => Category::TargetNotFound,
            "07" => Category::TargetAmbiguous,
            "13040" => Category::AmountTooLarge,
            "14143" => Category::IdentifierInUse,
            "10" => Category::NotEligible,
            // 01, 05, 06, 09 and 11 are returned when processing broke off, and an undocumented
            // code may mean the same.
            _ => return Meaning::Ambiguous,
        })
    }
}

impl UnknownReply {
    fn new(reason: DoubtReason, evidence: String) -> Self {
        Self { reason, evidence: sanitize_provider_text(&evidence) }
    }
}

impl From<UnknownReply> for Outcome {
    fn from(doubt: UnknownReply) -> Self {
        Outcome::Unknown { reason: doubt.reason, evidence: doubt.evidence }
    }
}

impl From<UnknownReply> for ReplyError {
    fn from(doubt: UnknownReply) -> Self {
        ReplyError::UnknownReply(doubt)
    }
}

struct SoapFault<'a> {
    code: &'a str,
    text: &'a str,
    /// The envelope contains nothing else.
    is_alone: bool,
}

impl<'a> SoapFault<'a> {
    fn of(root: &'a Element) -> Option<SoapFault<'a>> {
        let body = body_of(root).ok()??;
        let fault = body.children().iter().find(|child| child.name() == "Fault")?;
        let part = |name: &str| fault.value(name).ok().flatten().unwrap_or_default();
        Some(SoapFault { code: part("faultcode"), text: part("faultstring"), is_alone: body.children().len() == 1 })
    }

    /// `a:ActionNotSupported`: WCF returns it before it passes the message to any operation.
    fn not_dispatched(&self, http_status: u16, redactor: &Redactor) -> Option<ProviderError> {
        let is_one = self.local_code() == "ActionNotSupported" && self.is_alone && matches!(http_status, 200 | 500);
        is_one.then(|| ProviderError {
            code: redactor.text(self.code),
            message: redactor.text(&format!(
                "the service does not know the SOAPAction and did nothing: the account's action_prefix is wrong ({})",
                self.text
            )),
            http_status,
            category: ErrorCategory::InvalidRequest,
        })
    }

    /// ` and a fault: s:Client ...`
    fn describe(&self, namespaces: Namespaces<'_>, redactor: &Redactor) -> String {
        let is_about_namespaces = self.local_code() == "DeserializationFailed" && self.text.contains("namespace");
        let hint = if is_about_namespaces {
            format!(
                " that may be caused by the account's service_namespace \"{}\" or data_namespace \"{}\"",
                namespaces.service_namespace, namespaces.data_namespace
            )
        } else {
            String::new()
        };
        let text = redactor.text(&format!("and a fault{hint}: {} {}", self.code, self.text));
        format!(" {text}")
    }

    fn local_code(&self) -> &str {
        self.code.rsplit(':').next().unwrap_or_default()
    }
}

fn warn_of_irregular(fields: &[&str], logged: &Once) {
    if !fields.is_empty() {
        let fields = fields.join(", ");
        logged.call_once(|| {
            tracing::warn!(fields, "debitsuccess answer has fields in an undocumented form; ignoring them");
        });
    }
}

fn contradiction(evidence: &str) -> Outcome {
    UnknownReply::new(DoubtReason::Contradiction, evidence.to_owned()).into()
}

/// The value in quotation marks, so that blanks and case are visible; or "absent".
fn shown(value: Option<&str>, redactor: &Redactor) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| redactor.text(&format!("\"{value}\"")))
}

/// The text as it is, or in quotation marks if redaction changes it.
fn quote_if_changed(text: &str, redactor: &Redactor) -> String {
    let redacted = redactor.text(text);
    if redacted == text { redacted } else { shown(Some(text), redactor) }
}

/// A number without leading zeros and without decimals that are zero. Empty for zero.
fn number_of(text: &str) -> &str {
    let whole =
        text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0')).map_or(text, |(whole, _)| whole);
    if whole.bytes().all(|byte| byte.is_ascii_digit()) { whole.trim_start_matches('0') } else { text }
}

fn member(name: &str, value: &str) -> String {
    format!("<d:{name}>{}</d:{name}>", escape(value))
}

/// `Envelope/Body/{operation}Response` and the `{operation}Result` in it.
fn result_of<'a>(root: &'a Element, operation: &str) -> Result<Option<(&'a Element, &'a Element)>, XmlError> {
    let Some(body) = body_of(root)? else { return Ok(None) };
    let Some(response) = body.child(&format!("{operation}Response"))? else { return Ok(None) };
    Ok(response.child(&format!("{operation}Result"))?.map(|result| (response, result)))
}

fn body_of(root: &Element) -> Result<Option<&Element>, XmlError> {
    if root.name() == "Envelope" { root.child("Body") } else { Ok(None) }
}

#[cfg(test)]
mod tests;
