//! Debitsuccess DSServices: InitiateRefund and GetRefundStatus over SOAP 1.1, as a WCF service gives them.
//!
//! ```text
//! GET  .svc?wsdl -> the service's description      (wsdl.rs)
//! POST .svc      -> media type -> XML -> Envelope -> SOAPAction -> members  (xml.rs, soap.rs)
//!                      415             SOAP fault, HTTP 500          |
//!                                                       checks, notes, refunds  (calls.rs, notes.rs, state.rs)
//!                                                       HTTP 200 with Status and ResponseNotes
//! ```
//!
//! Facts: the pages InitiateRefund, GetRefundStatus and "SOAP API Error Codes". Namespaces, SOAPAction and the WSDL are not
//! public: they follow the defaults of WCF and are settings.

mod calls;
mod notes;
mod slip;
mod soap;
mod state;
#[cfg(test)]
mod tests;
mod wsdl;
mod xml;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) use self::soap::Envelope;
use self::soap::{Call, Fault, Operation};
pub use self::state::{Account, Condition, Decision, Login, NotMoved, NotPut, Refund, RefundStatus, State};
use crate::exchange::{Answer, Deduplication, Effect, Identified, Performed, Request};

/// Where the documentation leaves a choice.
///
/// Each setting is marked: *documented* (and where), *inferred* (reasoned from documents and public clients), *unknown* (a
/// guess that a client must not rest on).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The namespace of the operations. Default `http://tempuri.org/`. *Inferred* (WCF default).
    pub service_namespace: String,
    /// The name of the service contract, part of each SOAPAction. Default `IDSServices`. *Unknown*.
    pub contract: String,
    /// The namespace of the members. Default `http://schemas.datacontract.org/2004/07/DSWebService`. *Unknown*.
    pub data_namespace: String,
    /// Whether both namespaces and the SOAPAction must be exactly right; if not, any namespace is taken, and any SOAPAction that
    /// ends in the operation's name. Default false. *Inferred*: WCF is strict, but the right names are not public.
    pub strict_names: bool,
    /// Whether members that stand out of the contract's order (base class first, then by name) are dropped without a word.
    /// Default false. *Inferred*: what WCF's DataContractSerializer does.
    pub strict_order: bool,
    /// What 13040 measures an amount against. Default `remaining`. *Documented*: "up to the total amount collected"; that
    /// earlier refunds count is *inferred*.
    pub refund_limit: RefundLimit,
    /// What happens to a Description above 4000 or a RequestInitiator above 100 characters. Default `refuse`. The lengths are
    /// *documented*, the consequence is *unknown*.
    pub over_length: OverLength,
    /// What RefundRequestNumber is in a failed answer. Default `zero`. *Inferred*.
    pub failed_number: FailedNumber,
    /// How XML that cannot be read is answered. Default `fault`. *Inferred* both ways: some WCF bindings answer a plain 400.
    pub unreadable_xml: UnreadableXml,
    /// The offset of every date in an answer, in minutes east of UTC. Default 720 (New Zealand without summer time).
    /// *Inferred*.
    pub utc_offset_minutes: i16,
    /// How many seconds after its creation a refund becomes `Awaiting Review`; none is by hand only. Default none. *Unknown*.
    pub awaiting_review_after_seconds: Option<u64>,
    /// How many seconds after its creation a refund is decided: `Approved`, or `Rejected` where its account says so; none is by
    /// hand only. Default none. *Unknown*.
    pub approved_after_seconds: Option<u64>,
    /// How many seconds after its creation a refund becomes `Completed`; none is by hand only. Default none. *Unknown*.
    pub completed_after_seconds: Option<u64>,
    /// Whether an identifier that an account has already is refused with 14143. Default on. *Documented*; off is for finding mistakes.
    pub deduplication: Deduplication,
    /// What is charged for a refund, in hundredths of the account's currency; it stands in the books alone. Default 0. *Documented*
    /// without a size, and on no wire.
    pub service_fee_minor: i64,
    /// Whether a known identifier is refused before an amount is held against what was collected, or after. Default `identifier_first`.
    /// *Inferred*: a re-send has to hear 14143 although its first try has used up the money.
    pub check_order: CheckOrder,
    /// What both references given are that name different accounts. Default `08`. *Inferred*.
    pub differing_references: DifferingReferences,
    /// How an Amount of zero, below zero or of more than 8 whole digits is answered. Default `13012`. *Inferred*.
    pub amount_out_of_range: AmountOutOfRange,
    /// Whether all errors that the request shows by itself are noted, or the first alone. Default `all`. *Unknown*.
    pub notes: Notes,
    /// In whose wording 00 and 02 are. Default `method_page`. Both *documented*.
    pub texts: Texts,
    /// The word of Status for success. Default `Succeed`. *Documented*; a sibling page has `Success`.
    pub success_word: SuccessWord,
    /// How RefundAmount is written. Default `decimal`. *Documented* as an integer, which could not tell cents: *inferred*.
    pub refund_amount: RefundAmount,
}

/// Which errors are noted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notes {
    /// All that apply.
    #[default]
    All,
    /// The first alone.
    First,
}

/// Which of an identifier and an amount is looked at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOrder {
    /// 14143 before 13040.
    #[default]
    IdentifierFirst,
    /// 13040 before 14143.
    AmountFirst,
}

/// What two references are that name different accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DifferingReferences {
    /// 08: there is no such account.
    #[default]
    #[serde(rename = "08")]
    NoRecord,
    /// 07: there are several.
    #[serde(rename = "07")]
    Several,
    /// AccountReferenceNo counts, and the other one is not looked at.
    #[serde(rename = "account_reference")]
    AccountReference,
}

/// How an amount is answered that is a number, but none to refund.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AmountOutOfRange {
    /// 13012 `Invalid Amount value`.
    #[default]
    #[serde(rename = "13012")]
    InvalidAmount,
    /// The system-wide code 100, `SOAP message validation error`.
    #[serde(rename = "100")]
    MessageValidation,
}

/// In whose wording 00 and 02 are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// `Success`, `Invalid user credentials`.
    #[default]
    MethodPage,
    /// `Success!`, `Invalid credentials provided`.
    SystemPage,
}

/// The word of Status for success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words themselves")]
pub enum SuccessWord {
    #[default]
    Succeed,
    Success,
}

/// How RefundAmount is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundAmount {
    /// `12.34`.
    #[default]
    Decimal,
    /// `12`: what is behind the point is dropped.
    Integer,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_namespace: "http://tempuri.org/".to_owned(),
            contract: "IDSServices".to_owned(),
            data_namespace: "http://schemas.datacontract.org/2004/07/DSWebService".to_owned(),
            strict_names: false,
            strict_order: false,
            refund_limit: RefundLimit::default(),
            over_length: OverLength::default(),
            failed_number: FailedNumber::default(),
            unreadable_xml: UnreadableXml::default(),
            utc_offset_minutes: 720,
            awaiting_review_after_seconds: None,
            approved_after_seconds: None,
            completed_after_seconds: None,
            deduplication: Deduplication::default(),
            service_fee_minor: 0,
            check_order: CheckOrder::default(),
            differing_references: DifferingReferences::default(),
            amount_out_of_range: AmountOutOfRange::default(),
            notes: Notes::default(),
            texts: Texts::default(),
            success_word: SuccessWord::default(),
            refund_amount: RefundAmount::default(),
        }
    }
}

/// What 13040 measures an amount against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundLimit {
    /// The collected sum less all refunds that are not Rejected.
    #[default]
    Remaining,
    /// The collected sum, literally: each refund on its own.
    Collected,
}

/// What happens to a text that is longer than documented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// The system-wide code 100, `SOAP message validation error`.
    #[default]
    Refuse,
    /// It is cut.
    Truncate,
}

/// What RefundRequestNumber is in a failed answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedNumber {
    /// `0`.
    #[default]
    Zero,
    /// `i:nil="true"`.
    Nil,
}

/// How XML that cannot be read is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadableXml {
    /// A SOAP fault with HTTP 500.
    #[default]
    Fault,
    /// HTTP 400 without a body.
    BadRequest,
}

/// The path of the service; upper and lower case are the same to it.
const SERVICE_PATH: &str = "/DSWebService/DSServices.svc";

/// Reads what can be told of a request without doing anything. Never fails; the password is masked.
pub fn identify(request: &Request) -> Identified {
    let at_service = request.path.eq_ignore_ascii_case(SERVICE_PATH);
    if !at_service || request.method != Method::POST {
        return Identified::default();
    }
    let wrapper = match request.envelope.open(&request.body) {
        Ok(wrapper) => wrapper,
        Err(_) => {
            let operation = Operation::of_action(soap::action(&request.headers));
            return Identified {
                operation: operation.map(|operation| operation.name().to_owned()).unwrap_or_default(),
                parameters: json!({ "unreadable_bytes": request.body.len() }),
                ..Identified::default()
            };
        }
    };
    // Names are read leniently here: this only tells what a caller meant, not what the service makes of it.
    let members = wrapper.child("request");
    let text = |name: &str| members.and_then(|members| members.child(name)?.value());
    let operation = Operation::of_name(&wrapper.name).or_else(|| Operation::of_action(soap::action(&request.headers)));
    Identified {
        operation: operation.map(|operation| operation.name().to_owned()).unwrap_or_default(),
        target: text("AccountReferenceNo").or_else(|| text("ExternalAccountReferenceNo")).map(str::to_owned),
        username: members.and_then(|members| members.child("User")?.child("Username")?.value()).map(str::to_owned),
        identifier: text("ExternalRefundIdentifier").map(str::to_owned),
        parameters: members.map_or(Value::Null, soap::masked),
        moves_money: operation == Some(Operation::InitiateRefund),
        destructive: false,
    }
}

/// Answers one request and changes the state as Debitsuccess would.
///
/// Refunds that the settings move on are moved on first, so that an answer never lags behind `now`.
pub fn perform(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> Performed {
    let mut effects: Vec<Effect> = state.advance(settings, now).into_iter().map(|(_, effect)| effect).collect();
    if !request.path.eq_ignore_ascii_case(SERVICE_PATH) {
        return Performed { answer: plain(StatusCode::NOT_FOUND), effects };
    }
    let answer = match request.method {
        Method::GET => wsdl::page(settings, request),
        Method::POST => {
            let (answer, done) = post(state, settings, now, request);
            effects.extend(done);
            answer
        }
        _ => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
            answer.headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            answer
        }
    };
    Performed { answer, effects }
}

fn post(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> (Answer, Option<Effect>) {
    if !soap::is_text_xml(&request.headers) {
        return (plain(StatusCode::UNSUPPORTED_MEDIA_TYPE), None);
    }
    match Call::read(settings, request) {
        Ok(call) => {
            let (reply, effect) = calls::answer(state, settings, now, &call);
            (xml_answer(StatusCode::OK, reply.envelope(settings, call.operation)), effect)
        }
        Err(Fault::NotXml(_)) if settings.unreadable_xml == UnreadableXml::BadRequest => {
            (plain(StatusCode::BAD_REQUEST), None)
        }
        Err(fault) => (xml_answer(StatusCode::INTERNAL_SERVER_ERROR, fault.envelope()), None),
    }
}

fn xml_answer(status: StatusCode, body: String) -> Answer {
    typed(status, "text/xml; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    Answer { status, headers, body: body.into() }
}

fn plain(status: StatusCode) -> Answer {
    Answer { status, headers: HeaderMap::new(), body: bytes::Bytes::new() }
}
