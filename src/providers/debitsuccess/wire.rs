//! InitiateRefund and GetRefundStatus, as the documents and WCF have them: the envelopes that are sent, and what each answer means.
//!
//! A business error comes as HTTP 200 with `Status` and `ResponseNotes`; a SOAP fault is a protocol error and says nothing of the refund.
//! The service drops members that come out of its order without a word: those of the base class first, each class by its alphabet.

use quick_xml::escape::escape;

use crate::domain::ids::RefundId;
use crate::domain::money::hundredths_of;
use crate::domain::outcome::{
    Acceptance, Confirmation, DoubtReason, ErrorCategory, Lookup, Outcome, ProviderError, provider_text,
};
use crate::domain::refund::Refund;
use crate::domain::target::DebitsuccessTarget;
use crate::providers::debitsuccess::xml::{BadXml, Element};
use crate::providers::http::Answer;
use crate::providers::mask::Mask;

/// What asks for a refund.
pub(crate) const INITIATE_REFUND: &str = "InitiateRefund";
/// What tells where one stands.
pub(crate) const GET_REFUND_STATUS: &str = "GetRefundStatus";

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

/// What an answer to InitiateRefund means for the refund `id`.
pub(crate) fn read_refund(answer: &Answer, id: &RefundId, mask: &Mask) -> Outcome {
    let reply = match Reply::read(answer, INITIATE_REFUND, mask) {
        Ok(reply) => reply,
        Err(doubt) => return doubt.into(),
    };
    match reply.status {
        Status::Succeed => {
            if let Some(error) = reply.errors().next() {
                return contradiction(&format!("it succeeded, with the error {}", error.said()));
            }
            if reply.identifier.as_deref() != Some(id.as_str()) {
                return contradiction("it succeeded for another ExternalRefundIdentifier");
            }
            for note in reply.notes.iter().filter(|note| note.kind == NoteKind::Warning) {
                tracing::warn!(refund = %id, code = note.code, "debitsuccess took the refund with a warning");
            }
            Outcome::Accepted(Acceptance {
                reference: reply.number,
                status: Some("Submitted".to_owned()),
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
pub(crate) fn read_status(answer: &Answer, refund: &Refund, target: &DebitsuccessTarget, mask: &Mask) -> Lookup {
    let reply = match Reply::read(answer, GET_REFUND_STATUS, mask) {
        Ok(reply) => reply,
        Err(doubt) => return Lookup::unavailable(doubt.evidence),
    };
    let errors: Vec<&Note> = reply.errors().collect();
    match (reply.status, errors.as_slice()) {
        (Status::Succeed, []) => {}
        (Status::Failed, [error]) if error.code == "08" => {
            return Lookup::not_found(error.said());
        }
        (status, _) => return Lookup::unavailable(format!("the Status is {}{}", status.as_str(), reply.said())),
    }
    if reply.identifier.as_deref() != Some(refund.id().as_str()) {
        return Lookup::unavailable("the answer is for another ExternalRefundIdentifier");
    }
    let Some(word) = reply.refund_status.clone() else {
        return Lookup::unavailable("the answer has no RefundStatus");
    };
    if let (Some(known), Some(told)) = (&refund.provider_reference, &reply.number)
        && known != told
    {
        let evidence = format!("the identifier is that of refund {told}, and ours is {known}");
        return Lookup::Found(contradiction(&evidence));
    }
    // Found under our identifier with another amount, it is not the refund that we sent.
    let amount = reply.refund_amount.as_deref().and_then(|text| hundredths_of(text).ok());
    if amount != Some(target.amount().minor_units) {
        let told = reply.refund_amount.as_deref().unwrap_or("absent");
        let evidence = format!("RefundAmount is {}, and ours is {}", mask.text(told), target.amount().decimal());
        return Lookup::Found(contradiction(&evidence));
    }
    let reference = reply.number.clone();
    let status = Some(word.clone());
    Lookup::Found(match word.as_str() {
        "Completed" => Outcome::Refunded(Confirmation {
            reference,
            status,
            amount: Some(target.amount()),
            ..Confirmation::default()
        }),
        "Rejected" => Outcome::Refused {
            error: ProviderError {
                code: word,
                message: reply.note.unwrap_or_default(),
                http_status: answer.status,
                category: ErrorCategory::RejectedOnReview,
            },
            items: Vec::new(),
        },
        _ => Outcome::Accepted(Acceptance { reference, status, ..Acceptance::default() }),
    })
}

/// `InitiateRefundResult` and `GetRefundStatusResult`, which share their base. Texts are masked and bounded.
#[derive(Debug)]
struct Reply {
    status: Status,
    notes: Vec<Note>,
    /// As it came, for it is compared and never shown: masked, an identifier that holds the password would be another one.
    identifier: Option<String>,
    number: Option<String>,
    refund_status: Option<String>,
    refund_amount: Option<String>,
    note: Option<String>,
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
    fn read(answer: &Answer, operation: &str, mask: &Mask) -> Result<Reply, Doubt> {
        let unreadable = |fault: BadXml| {
            Doubt::new(DoubtReason::UnreadableReply, format!("HTTP {} with a body that {fault}", answer.status))
        };
        if answer.status >= 500 {
            let fault = Element::parse(&answer.body).ok().and_then(|root| fault_of(&root, mask)).unwrap_or_default();
            return Err(Doubt::new(DoubtReason::ProviderServerError, format!("HTTP {}{fault}", answer.status)));
        }
        if answer.status != 200 {
            return Err(Doubt::new(DoubtReason::UnreadableReply, format!("HTTP {}", answer.status)));
        }
        let root = Element::parse(&answer.body).map_err(unreadable)?;
        if let Some(fault) = fault_of(&root, mask) {
            return Err(Doubt::new(DoubtReason::UnreadableReply, format!("HTTP 200{fault}")));
        }
        let result = result_of(&root, operation).map_err(unreadable)?.ok_or_else(|| {
            Doubt::new(DoubtReason::UnreadableReply, format!("HTTP 200 and no {operation}Result in an envelope"))
        })?;
        let text = |name: &str| Ok(result.value(name)?.map(|value| mask.text(value)));
        let fields = || -> Result<Reply, BadXml> {
            Ok(Reply {
                status: Status::Unknown,
                notes: Vec::new(),
                identifier: result.value("ExternalRefundIdentifier")?.map(str::to_owned),
                number: text("RefundRequestNumber")?,
                refund_status: text("RefundStatus")?,
                refund_amount: text("RefundAmount")?,
                note: text("Note")?,
            })
        };
        let mut reply = fields().map_err(unreadable)?;
        reply.notes = Note::read_all(result, mask)?;
        reply.status = match result.value("Status").map_err(unreadable)? {
            // One of the provider's pages writes "Success".
            Some("Succeed" | "Success") => Status::Succeed,
            Some("Failed") => Status::Failed,
            Some("Unknown") => Status::Unknown,
            Some(other) => {
                let evidence = format!("the Status is \"{}\"", mask.text(other));
                return Err(Doubt::new(DoubtReason::UnreadableReply, evidence));
            }
            None => return Err(Doubt::new(DoubtReason::UnreadableReply, "the answer has no Status".to_owned())),
        };
        Ok(reply)
    }

    fn errors(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Error)
    }

    /// `: 06 Unknown exception ...; 08 ...`, or nothing where there is no error.
    fn said(&self) -> String {
        let said: Vec<String> = self.errors().map(Note::said).collect();
        if said.is_empty() { String::new() } else { provider_text(&format!(": {}", said.join("; "))) }
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
        let texts: Vec<&str> = self.errors().map(|note| note.text.as_str()).collect();
        let error = |category| ProviderError {
            code: decisive.code.clone(),
            message: provider_text(&texts.join("; ")),
            http_status,
            category,
        };
        match decisive.meaning() {
            Meaning::Refused(category) => Outcome::Refused { error: error(category), items: Vec::new() },
            Meaning::CredentialsRefused => {
                Outcome::NotSent { error: error(ErrorCategory::CredentialsRefused), retry_at: None }
            }
            Meaning::Ambiguous => {
                Doubt::new(DoubtReason::ProviderSaysUnknown, format!("it failed{}", self.said())).into()
            }
        }
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
    fn read_all(result: &Element, mask: &Mask) -> Result<Vec<Note>, Doubt> {
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
        format!("{} {}", self.code, self.text)
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

fn contradiction(evidence: &str) -> Outcome {
    Doubt::new(DoubtReason::Contradiction, evidence.to_owned()).into()
}

fn member(name: &str, value: &str) -> String {
    format!("<d:{name}>{}</d:{name}>", escape(value))
}

/// `Envelope/Body/{operation}Response/{operation}Result`.
fn result_of<'a>(root: &'a Element, operation: &str) -> Result<Option<&'a Element>, BadXml> {
    let Some(body) = body_of(root)? else { return Ok(None) };
    let Some(response) = body.child(&format!("{operation}Response"))? else { return Ok(None) };
    response.child(&format!("{operation}Result"))
}

fn body_of(root: &Element) -> Result<Option<&Element>, BadXml> {
    if root.name() == "Envelope" { root.child("Body") } else { Ok(None) }
}

/// ` and a fault: s:Client ...`, where the answer is one.
fn fault_of(root: &Element, mask: &Mask) -> Option<String> {
    let fault = body_of(root).ok()??.child("Fault").ok()??;
    let part = |name: &str| fault.value(name).ok().flatten().unwrap_or_default();
    Some(mask.text(&format!(" and a fault: {} {}", part("faultcode"), part("faultstring"))))
        .map(|said| format!(" {said}"))
}

#[cfg(test)]
mod tests;
