//! Debitsuccess DSServices: InitiateRefund and GetRefundStatus over SOAP 1.1, as a WCF service
//! gives them.
//!
//! ```text
//! GET  .svc?wsdl -> the service's description      (wsdl.rs)
//! POST .svc      -> media type -> XML -> Envelope -> SOAPAction -> members  (xml.rs, soap.rs)
//!                      415             SOAP fault, HTTP 500          |
//!                                                       checks, notes, refunds  (calls.rs, notes.rs, state.rs)
//!                                                       HTTP 200 with Status and ResponseNotes
//! ```
//!
//! Facts: the pages InitiateRefund, GetRefundStatus and "SOAP API Error Codes". Namespaces,
//! SOAPAction and the WSDL are not public: they follow the defaults of WCF and are settings.

mod calls;
mod notes;
mod review;
mod settings;
mod soap;
mod state;
mod stored_refund;
#[cfg(test)]
mod tests;
mod wsdl;
mod xml;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use time::OffsetDateTime;

pub use self::settings::{
    AmountOutOfRange, CheckOrder, DifferingReferences, FailedNumber, FinalStatuses, MissingRefund, Notes, OverLength,
    RefundAmount, RefundLimit, Settings, StatusWithoutIdentifier, SuccessWord, Texts, UnfinishedStatus, UnreadableXml,
    WrongCredentials,
};
pub(crate) use self::soap::Envelope;
use self::soap::{Call, Fault, Operation, Outcome};
pub use self::state::{Account, Condition, Decision, Login, NotMoved, NotPut, Refund, RefundStatus, State};
use crate::{
    record::parameters::Parameters,
    request::{Answer, Effect, Identified, Performed, Request},
};

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
                parameters: json!({ "unreadable_bytes": request.body.len() }).into(),
                ..Identified::default()
            };
        }
    };
    // Names are read leniently here: this only tells what a caller meant, not what the service
    // makes of it.
    let members = wrapper.child("request");
    let text = |name: &str| members.and_then(|members| members.child(name)?.value());
    let operation = Operation::of_name(&wrapper.name).or_else(|| Operation::of_action(soap::action(&request.headers)));
    Identified {
        operation: operation.map(|operation| operation.name().to_owned()).unwrap_or_default(),
        target: text("AccountReferenceNo").or_else(|| text("ExternalAccountReferenceNo")).map(str::to_owned),
        username: members.and_then(|members| members.child("User")?.child("Username")?.value()).map(str::to_owned),
        identifier: text("ExternalRefundIdentifier").map(str::to_owned),
        parameters: members.map_or_else(Parameters::default, soap::masked),
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
            let refused = StatusCode::from_u16(settings.business_error_http_status).unwrap_or(StatusCode::OK);
            let status = if reply.outcome == Outcome::Succeeded { StatusCode::OK } else { refused };
            (xml_answer(status, reply.envelope(settings, call.operation)), effect)
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
