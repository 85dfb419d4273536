//! InitiateRefund and GetRefundStatus, as the documents and WCF have them: the envelopes that are sent, and what each answer means.
//!
//! A business error comes as HTTP 200 with `Status` and `ResponseNotes`; a SOAP fault is a protocol error and says nothing of the refund.
//! The service drops members that come out of its order without a word: those of the base class first, each class by its alphabet.

use std::sync::Once;

use quick_xml::escape::escape;

use crate::domain::ids::RefundId;
use crate::domain::money::Comparison;
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, Heard, Lookup, Outcome, PROVIDER_TEXT_BYTES, ProviderError,
    provider_text,
};
use crate::domain::refund::Refund;
use crate::domain::target::DebitsuccessTarget;
use crate::providers::debitsuccess::document;
use crate::providers::debitsuccess::xml::{BadXml, Element};
use crate::providers::http::Answer;
use crate::providers::mask::Mask;

/// What asks for a refund.
pub(crate) const INITIATE_REFUND: &str = "InitiateRefund";
/// What tells where one stands.
pub(crate) const GET_REFUND_STATUS: &str = "GetRefundStatus";

/// At most this many remarks of one answer are kept.
const MOST_REMARKS: usize = 16;
/// At most this much of a foreign namespace is shown.
const NAMESPACE_CHARS: usize = 120;

/// What stands in every envelope besides the refund itself.
pub(crate) struct Frame<'a> {
    /// XML namespace of the operations.
    pub service_namespace: &'a str,
    /// XML namespace of the data members.
    pub data_namespace: &'a str,
    /// `User.Username`.
    pub username: &'a str,
    /// `User.Password`.
    pub password: &'a str,
}

/// The envelope of InitiateRefund. The identifier is always sent: without it a lost answer could never be found again.
pub(crate) fn refund_envelope(frame: &Frame<'_>, id: &RefundId, target: &DebitsuccessTarget) -> String {
    let amount = target.amount().decimal();
    frame.envelope(
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

/// The envelope of GetRefundStatus, by our own identifier: the provider's number may never have reached us.
pub(crate) fn status_envelope(frame: &Frame<'_>, id: &RefundId, target: &DebitsuccessTarget) -> String {
    frame.envelope(
        GET_REFUND_STATUS,
        target,
        &[
            ("AccountReferenceNo", target.account_reference_no()),
            ("ExternalAccountReferenceNo", target.external_account_reference_no()),
            ("ExternalRefundIdentifier", Some(id.as_str())),
        ],
    )
}

/// What the account's settings call the namespaces that the provider does not publish.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    /// XML namespace of the operations.
    pub service_namespace: &'a str,
    /// XML namespace of the data members.
    pub data_namespace: &'a str,
}

/// What an answer to InitiateRefund means for the refund `id`.
pub(crate) fn read_refund(answer: &Answer, id: &RefundId, names: Names<'_>, mask: &Mask) -> Outcome {
    let reply = match Reply::read(answer, INITIATE_REFUND, names, mask) {
        Ok(reply) => reply,
        Err(NoReply::NotDispatched(error)) => return Outcome::NotSent { error, retry_at: None },
        Err(NoReply::Doubt(doubt)) => return doubt.into(),
    };
    match reply.status {
        Status::Succeed => {
            if let Some(error) = reply.errors().next() {
                return contradiction(&format!("it succeeded, with the error {}", error.said()));
            }
            if reply.identifier.as_deref() != Some(id.as_str()) {
                let shown = shown(reply.identifier.as_deref(), mask);
                return contradiction(&format!(
                    "it succeeded for another ExternalRefundIdentifier, {shown}, and ours is \"{id}\""
                ));
            }
            for note in reply.warnings() {
                tracing::warn!(refund = %id, code = note.code, "debitsuccess took the refund with a warning");
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
        // Refused before it looked at the request (02), the service echoes an identifier of its own making: it says nothing here.
        Status::Failed => reply.refusal(answer.status),
        Status::Unknown => {
            Doubt::new(DoubtReason::ProviderSaysUnknown, format!("the Status is Unknown{}", reply.said())).into()
        }
    }
}

/// What an answer to GetRefundStatus says of the refund.
pub(crate) fn read_status(
    answer: &Answer,
    refund: &Refund,
    target: &DebitsuccessTarget,
    names: Names<'_>,
    mask: &Mask,
) -> Lookup {
    let reply = match Reply::read(answer, GET_REFUND_STATUS, names, mask) {
        Ok(reply) => reply,
        Err(NoReply::NotDispatched(error)) => {
            return Lookup::Unavailable { evidence: error.message, heard: Heard::NotDispatched };
        }
        Err(NoReply::Doubt(doubt)) => return Lookup::unavailable(doubt.evidence),
    };
    let errors: Vec<&Note> = reply.errors().collect();
    match (reply.status, errors.as_slice()) {
        (Status::Succeed, []) => {}
        (Status::Failed, [error]) if error.code == "08" => {
            return Lookup::not_found(error.said());
        }
        (status, _) => {
            let evidence = format!("the Status is {}{}", status.as_str(), reply.said());
            let is_login = reply.refuses_the_login() && reply.other_names.is_none();
            let heard = if is_login { Heard::LoginRefused } else { Heard::Nothing };
            return Lookup::Unavailable { evidence, heard };
        }
    }
    if reply.identifier.as_deref() != Some(refund.id().as_str()) {
        let shown = shown(reply.identifier.as_deref(), mask);
        let ours = refund.id();
        return Lookup::unavailable(format!(
            "the answer is for another ExternalRefundIdentifier, {shown}, and ours is \"{ours}\""
        ));
    }
    let Some(word) = reply.refund_status.clone() else {
        return Lookup::unavailable("the answer has no RefundStatus");
    };
    if let (Some(known), Some(told)) = (&refund.provider_reference, &reply.number)
        && number_of(known) != number_of(told)
    {
        let evidence = format!("the identifier is that of refund \"{told}\", and ours is \"{known}\"");
        return Lookup::Found(contradiction(&evidence));
    }
    // A record under our identifier whose amount cannot be ours is not our refund. A less precise
    // amount is no contradiction: the documents call it an Integer.
    let told = reply.refund_amount.as_deref().map(|told| target.amount().compare(told));
    if told == Some(Comparison::Different) {
        let shown = shown(reply.refund_amount.as_deref(), mask);
        let evidence = format!("RefundAmount is {shown}, and ours is \"{}\"", target.amount().decimal());
        return Lookup::Found(contradiction(&evidence));
    }
    let remarks = reply.remarks();
    // The number that the refund was taken under stays, however it is written here.
    let (reference, status_note) = (refund.provider_reference.clone().or(reply.number), reply.note);
    let status = Some(exactly(&word, mask));
    Lookup::Found(match word.as_str() {
        "Completed" => Outcome::Refunded(Confirmation {
            reference,
            status,
            // What the provider says, and no more than that.
            amount: (told == Some(Comparison::Same)).then(|| target.amount()),
            status_note,
            remarks,
            ..Confirmation::default()
        }),
        "Rejected" => Outcome::Refused {
            error: ProviderError {
                code: word,
                message: status_note.unwrap_or_default(),
                http_status: answer.status,
                category: ErrorCategory::RejectedOnReview,
            },
            items: Vec::new(),
        },
        _ => Outcome::Accepted(Acceptance { reference, status, status_note, remarks, ..Acceptance::default() }),
    })
}

/// `InitiateRefundResult` and `GetRefundStatusResult`, which share their base. Texts are masked and bounded.
#[derive(Debug)]
struct Reply {
    status: Status,
    notes: Vec<Note>,
    /// As it came, for it is compared: masked, an identifier that holds the password would be
    /// another one.
    identifier: Option<String>,
    /// None where it is zero, which a service without a number writes.
    number: Option<String>,
    /// As it came, for it is compared.
    refund_status: Option<String>,
    /// As it came, for it is compared.
    refund_amount: Option<String>,
    note: Option<String>,
    /// Of the provider's message, for questions to the provider.
    message_id: Option<String>,
    /// What was left out, for it was not written as its field is.
    irregular: Vec<&'static str>,
    /// In which namespaces the answer is, where they are not those of the account's settings.
    other_names: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Succeed,
    Failed,
    Unknown,
}

/// One of `ResponseNotes`.
#[derive(Debug)]
struct Note {
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

/// What the code of an Error note means.
enum Meaning {
    /// A definite no.
    Refused(ErrorCategory),
    /// The login was not accepted, so nothing was looked at.
    CredentialsRefused,
    /// Documented to say nothing, or not documented.
    Ambiguous,
}

/// Why an answer is none.
struct Doubt {
    reason: DoubtReason,
    evidence: String,
}

/// What is no reply of the operation.
enum NoReply {
    /// The service says that it has dispatched nothing.
    NotDispatched(ProviderError),
    Doubt(Doubt),
}

impl Frame<'_> {
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

impl Reply {
    fn read(answer: &Answer, operation: &str, names: Names<'_>, mask: &Mask) -> Result<Reply, NoReply> {
        let unreadable = |fault: BadXml| {
            Doubt::new(DoubtReason::UnreadableReply, format!("HTTP {} with a body that {fault}", answer.status))
        };
        // An answer that is only read may be multipart and may repeat a member; the answer to a
        // refund may not.
        let is_read = operation == GET_REFUND_STATUS;
        let root = if is_read { document::read_with_parts(answer) } else { document::read(answer) };
        let fault = root.as_ref().ok().and_then(Fault::of);
        if let Some(fault) = &fault
            && let Some(error) = fault.not_dispatched(answer.status, mask)
        {
            return Err(NoReply::NotDispatched(error));
        }
        let said = fault.map(|fault| fault.said(names, mask)).unwrap_or_default();
        if answer.status != 200 || !said.is_empty() {
            let is_server = answer.status >= 500;
            let reason = if is_server { DoubtReason::ProviderServerError } else { DoubtReason::UnreadableReply };
            return Err(Doubt::new(reason, format!("HTTP {}{said}", answer.status)).into());
        }
        let root = root.map_err(unreadable)?;
        let (response, result) = result_of(&root, operation).map_err(unreadable)?.ok_or_else(|| {
            Doubt::new(DoubtReason::UnreadableReply, format!("HTTP 200 and no {operation}Result in an envelope"))
        })?;
        let value = |name: &str| if is_read { result.same_value(name) } else { result.value(name) };
        let mut irregular = Vec::new();
        let mut remark = |name: &'static str| {
            let text = value(name).unwrap_or_else(|_| {
                irregular.push(name);
                None
            });
            // A text of blanks that XML does not count as blanks is empty, too.
            text.map(|text| mask.text(text)).filter(|text| !text.is_empty())
        };
        let (note, message_id) = (remark("Note"), remark("Id"));
        let fields = || -> Result<Reply, BadXml> {
            Ok(Reply {
                status: Status::Unknown,
                notes: Vec::new(),
                identifier: value("ExternalRefundIdentifier")?.map(str::to_owned),
                number: value("RefundRequestNumber")?
                    .filter(|number| !number_of(number).is_empty())
                    .map(|told| mask.text(told)),
                refund_status: value("RefundStatus")?.map(str::to_owned),
                refund_amount: value("RefundAmount")?.map(str::to_owned),
                note,
                message_id,
                irregular,
                other_names: names.differ_from(response, result).map(|said| mask.text(&said)),
            })
        };
        let mut reply = fields().map_err(unreadable)?;
        reply.notes = Note::read_all(result, is_read, mask)?;
        reply.status = match value("Status").map_err(unreadable)? {
            // One of the provider's pages writes "Success".
            Some("Succeed" | "Success") => Status::Succeed,
            Some("Failed") => Status::Failed,
            Some("Unknown") => Status::Unknown,
            Some(other) => {
                let evidence = format!("the Status is {}", shown(Some(other), mask));
                return Err(Doubt::new(DoubtReason::UnreadableReply, evidence).into());
            }
            None => {
                let evidence = "the answer has no Status".to_owned();
                return Err(Doubt::new(DoubtReason::UnreadableReply, evidence).into());
            }
        };
        static SAID: Once = Once::new();
        warn_of_irregular(&reply.irregular, &SAID);
        Ok(reply)
    }

    fn warnings(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Warning)
    }

    /// Remarks of a success, for the refund's history.
    fn remarks(&self) -> Vec<String> {
        let warnings = self.warnings().map(|note| provider_text(&format!("warning {}", note.said())));
        let id = self.message_id.iter().map(|id| provider_text(&format!("message Id {id}")));
        let left_out =
            self.irregular.iter().map(|field| format!("{field} was left out: it is not written as documented"));
        warnings.chain(id).chain(left_out).take(MOST_REMARKS).collect()
    }

    fn errors(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Error)
    }

    /// `: 06 Unknown exception ...; 08 ...`, or nothing where there is no error.
    fn said(&self) -> String {
        let names = self.refuses_the_login().then_some(self.other_names.as_deref()).flatten();
        let names = names.map(|names| format!(" ({names})")).unwrap_or_default();
        if self.errors().next().is_none() {
            String::new()
        } else {
            provider_text(&format!("{names}: {}", self.all_errors()))
        }
    }

    /// Every code with its text. Texts are shortened so that no code is cut off by the bound.
    fn all_errors(&self) -> String {
        let room = PROVIDER_TEXT_BYTES / self.errors().count().max(1);
        let said = self.errors().map(|note| {
            let said = note.said();
            let end =
                (0..=said.len().min(room.saturating_sub("; ".len()))).rev().find(|end| said.is_char_boundary(*end));
            said.get(..end.unwrap_or_default()).unwrap_or_default().trim_end().to_owned()
        });
        said.collect::<Vec<String>>().join("; ")
    }

    fn refuses_the_login(&self) -> bool {
        self.errors().any(|note| matches!(note.meaning(), Meaning::CredentialsRefused))
    }

    /// What `Failed` means, by its errors: one that says nothing takes the meaning from all of them.
    fn refusal(&self, http_status: u16) -> Outcome {
        let Some(first) = self.errors().next() else {
            return Doubt::new(DoubtReason::ProviderSaysUnknown, "it failed, without an error".to_owned()).into();
        };
        if self.errors().any(|note| matches!(note.meaning(), Meaning::Ambiguous)) {
            return Doubt::new(DoubtReason::ProviderSaysUnknown, format!("it failed{}", self.said())).into();
        }
        let login = self.errors().find(|note| matches!(note.meaning(), Meaning::CredentialsRefused));
        // That there is a refund under our identifier weighs more than what else is wrong with this request.
        let in_use = |note: &&Note| matches!(note.meaning(), Meaning::Refused(ErrorCategory::IdentifierInUse));
        let decisive = login.or(self.errors().find(in_use)).unwrap_or(first);
        let message = if self.errors().count() == 1 { first.text.clone() } else { self.all_errors() };
        let error = |category, message: &str| ProviderError {
            code: decisive.code.clone(),
            message: provider_text(message),
            http_status,
            category,
        };
        match (decisive.meaning(), &self.other_names) {
            (Meaning::Refused(category), _) => Outcome::Refused { error: error(category, &message), items: Vec::new() },
            // A service that finds no member in its namespace sees no login, so the password need
            // not be wrong.
            (Meaning::CredentialsRefused, Some(names)) => {
                let error = error(ErrorCategory::InvalidRequest, &format!("{names}: {message}"));
                Outcome::NotSent { error, retry_at: None }
            }
            (Meaning::CredentialsRefused, None) => {
                Outcome::NotSent { error: error(ErrorCategory::CredentialsRefused, &message), retry_at: None }
            }
            (Meaning::Ambiguous, _) => {
                Doubt::new(DoubtReason::ProviderSaysUnknown, format!("it failed{}", self.said())).into()
            }
        }
    }
}

impl Names<'_> {
    /// A sentence that names the settings which the answer does not confirm; none where it does, or
    /// names no namespace.
    fn differ_from(self, response: &Element, result: &Element) -> Option<String> {
        let of_members: Vec<&str> = result.children().iter().filter_map(Element::namespace).collect();
        let other_data = of_members.first().filter(|_| !of_members.contains(&self.data_namespace));
        let other_service = response.namespace().filter(|told| *told != self.service_namespace);
        let settings = [
            ("data_namespace", other_data.copied(), self.data_namespace),
            ("service_namespace", other_service, self.service_namespace),
        ];
        let said: Vec<String> = settings
            .into_iter()
            .filter_map(|(setting, told, ours)| {
                let told: String = told?.chars().take(NAMESPACE_CHARS).collect();
                Some(format!("{setting} is \"{ours}\", and the service answers in \"{told}\""))
            })
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Status::Succeed => "Succeed",
            Status::Failed => "Failed",
            Status::Unknown => "Unknown",
        }
    }
}

impl Note {
    /// `is_read`: the answer is one that is only read.
    fn read_all(result: &Element, is_read: bool, mask: &Mask) -> Result<Vec<Note>, Doubt> {
        let unreadable =
            |fault: &str| Doubt::new(DoubtReason::UnreadableReply, format!("a note of the answer {fault}"));
        let malformed = |fault: BadXml| unreadable(&fault.to_string());
        let Some(list) = result.child("ResponseNotes").map_err(malformed)? else { return Ok(Vec::new()) };
        let mut notes = Vec::new();
        for note in list.children() {
            let kind = match note.value("NoteType").map_err(malformed)? {
                Some("Error") => NoteKind::Error,
                Some("Warning") => NoteKind::Warning,
                Some("Info") => NoteKind::Info,
                // A note of an unknown type counts as an error: with a success it leaves the
                // outcome open.
                _ if is_read => NoteKind::Error,
                _ => return Err(unreadable("is neither Error, Warning nor Info")),
            };
            notes.push(Note {
                code: mask.text(note.value("Code").map_err(malformed)?.unwrap_or_default()),
                text: mask.text(note.value("Note").map_err(malformed)?.unwrap_or_default()),
                kind,
            });
        }
        Ok(notes)
    }

    fn said(&self) -> String {
        format!("{} {}", self.code, self.text).trim().to_owned()
    }

    /// By the code alone: two pages word one code differently.
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
            // 01, 05, 06, 09 and 11 are given when processing broke off, and a code that is not documented could be.
            _ => return Meaning::Ambiguous,
        })
    }
}

impl Doubt {
    fn new(reason: DoubtReason, evidence: String) -> Self {
        Self { reason, evidence: provider_text(&evidence) }
    }
}

impl From<Doubt> for Outcome {
    fn from(doubt: Doubt) -> Self {
        Outcome::Unknown { reason: doubt.reason, evidence: doubt.evidence }
    }
}

impl From<Doubt> for NoReply {
    fn from(doubt: Doubt) -> Self {
        NoReply::Doubt(doubt)
    }
}

/// A SOAP fault.
struct Fault<'a> {
    code: &'a str,
    text: &'a str,
    /// The envelope holds nothing besides.
    is_alone: bool,
}

impl<'a> Fault<'a> {
    fn of(root: &'a Element) -> Option<Fault<'a>> {
        let body = body_of(root).ok()??;
        let fault = body.children().iter().find(|child| child.name() == "Fault")?;
        let part = |name: &str| fault.value(name).ok().flatten().unwrap_or_default();
        Some(Fault { code: part("faultcode"), text: part("faultstring"), is_alone: body.children().len() == 1 })
    }

    /// `a:ActionNotSupported`: WCF says so before it gives the message to any operation.
    fn not_dispatched(&self, http_status: u16, mask: &Mask) -> Option<ProviderError> {
        let is_one = self.local_code() == "ActionNotSupported" && self.is_alone && matches!(http_status, 200 | 500);
        is_one.then(|| ProviderError {
            code: mask.text(self.code),
            message: mask.text(&format!(
                "the service knows no such SOAPAction and did nothing: the account's action_prefix is another one ({})",
                self.text
            )),
            http_status,
            category: ErrorCategory::InvalidRequest,
        })
    }

    /// ` and a fault: s:Client ...`
    fn said(&self, names: Names<'_>, mask: &Mask) -> String {
        let is_about_names = self.local_code() == "DeserializationFailed" && self.text.contains("namespace");
        let hint = if is_about_names {
            format!(
                " that may be due to the account's service_namespace \"{}\" or data_namespace \"{}\"",
                names.service_namespace, names.data_namespace
            )
        } else {
            String::new()
        };
        let said = mask.text(&format!("and a fault{hint}: {} {}", self.code, self.text));
        format!(" {said}")
    }

    fn local_code(&self) -> &str {
        self.code.rsplit(':').next().unwrap_or_default()
    }
}

fn warn_of_irregular(fields: &[&str], said: &Once) {
    if !fields.is_empty() {
        let fields = fields.join(", ");
        said.call_once(|| tracing::warn!(fields, "debitsuccess wrote fields otherwise than documented: left out"));
    }
}

fn contradiction(evidence: &str) -> Outcome {
    Doubt::new(DoubtReason::Contradiction, evidence.to_owned()).into()
}

/// A value in quotation marks, so that blanks and capitals show; or that there is none.
fn shown(value: Option<&str>, mask: &Mask) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| mask.text(&format!("\"{value}\"")))
}

/// A text as it is; in quotation marks where it would not be kept as it is.
fn exactly(word: &str, mask: &Mask) -> String {
    let kept = mask.text(word);
    if kept == word { kept } else { shown(Some(word), mask) }
}

/// A number without what does not change its value: zeros in front, decimals that are zero. Empty
/// for zero.
fn number_of(text: &str) -> &str {
    let whole =
        text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0')).map_or(text, |(whole, _)| whole);
    if whole.bytes().all(|byte| byte.is_ascii_digit()) { whole.trim_start_matches('0') } else { text }
}

fn member(name: &str, value: &str) -> String {
    format!("<d:{name}>{}</d:{name}>", escape(value))
}

/// `Envelope/Body/{operation}Response` and the `{operation}Result` in it.
fn result_of<'a>(root: &'a Element, operation: &str) -> Result<Option<(&'a Element, &'a Element)>, BadXml> {
    let Some(body) = body_of(root)? else { return Ok(None) };
    let Some(response) = body.child(&format!("{operation}Response"))? else { return Ok(None) };
    Ok(response.child(&format!("{operation}Result"))?.map(|result| (response, result)))
}

fn body_of(root: &Element) -> Result<Option<&Element>, BadXml> {
    if root.name() == "Envelope" { root.child("Body") } else { Ok(None) }
}

#[cfg(test)]
mod tests;
