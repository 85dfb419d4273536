//! Debitsuccess DSServices: InitiateRefund and GetRefundStatus over SOAP 1.1, as a WCF service.
//!
//! ```text
//! GET  .svc?wsdl -> the service's description      (wsdl.rs)
//! POST .svc      -> media type -> XML -> envelope -> SOAPAction -> members  (xml.rs, soap.rs)
//!                      415             SOAP fault, HTTP 500          |
//!                                     checks, notes, refunds (operations.rs, notes.rs, state.rs)
//!                                     HTTP 200 with Status and ResponseNotes
//! ```
//!
//! Sources: the pages InitiateRefund, GetRefundStatus and "SOAP API Error Codes". Namespaces,
//! SOAPAction and the WSDL are not public: they follow the defaults of WCF and are settings.

mod accounts;
mod emulation;
mod notes;
mod operations;
mod review_schedule;
mod settings;
mod soap;
mod state;
#[cfg(test)]
mod tests;
mod wsdl;
mod xml;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use time::OffsetDateTime;

pub use self::accounts::{Account, Condition, Decision, Login, MoveError, PutError, Refund, RefundStatus};
pub(crate) use self::emulation::Debitsuccess;
pub use self::emulation::DebitsuccessLogin;
pub use self::settings::{
    AmountOutOfRange, CheckOrder, DifferingReferences, FailedNumber, FinalStatuses, MissingRefund, Notes, OverLength,
    RefundAmount, RefundLimit, Settings, StatusWithoutIdentifier, SuccessWord, Texts, UnfinishedStatus, UnreadableXml,
    WrongCredentials,
};
use self::soap::{Call, Fault, Operation, OperationOutcome, ParsedEnvelope};
pub use self::state::State;
use crate::{
    record::parameters::Parameters,
    request::{Effect, Handled, Request, RequestInfo, Response},
};

/// The path of the service. It is case-insensitive.
const SERVICE_PATH: &str = "/DSWebService/DSServices.svc";

/// Reads what a request says about itself. Never fails and changes nothing; the password is masked.
pub fn inspect(request: &Request) -> RequestInfo {
    inspect_parsed(request, &ParsedEnvelope::parse(&request.body))
}

fn inspect_parsed(request: &Request, ParsedEnvelope(envelope): &ParsedEnvelope) -> RequestInfo {
    let at_service = request.path.eq_ignore_ascii_case(SERVICE_PATH);
    if !at_service || request.method != Method::POST {
        return RequestInfo::default();
    }
    let wrapper = match envelope {
        Ok(wrapper) => wrapper,
        Err(_) => {
            let operation = Operation::of_action(soap::action(&request.headers));
            return RequestInfo {
                operation: operation.map(|operation| operation.name().to_owned()).unwrap_or_default(),
                parameters: json!({ "unreadable_bytes": request.body.len() }).into(),
                ..RequestInfo::default()
            };
        }
    };
    // Names are read leniently: this says what the caller meant, not what the service accepts.
    let members = wrapper.child("request");
    let text = |name: &str| members.and_then(|members| members.child(name)?.value());
    let operation = Operation::of_name(&wrapper.name).or_else(|| Operation::of_action(soap::action(&request.headers)));
    RequestInfo {
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
/// Refunds that the settings move on are moved first, so that an answer is never behind `now`.
pub fn handle(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> Handled {
    handle_parsed(state, settings, now, request, &ParsedEnvelope::parse(&request.body))
}

fn handle_parsed(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    envelope: &ParsedEnvelope,
) -> Handled {
    let mut effects: Vec<Effect> = state.advance(settings, now).into_iter().map(|(_, effect)| effect).collect();
    if !request.path.eq_ignore_ascii_case(SERVICE_PATH) {
        return Handled { response: plain(StatusCode::NOT_FOUND), effects };
    }
    let response = match request.method {
        Method::GET => wsdl::page(settings, request),
        Method::POST => {
            let (answer, effect) = post(state, settings, now, request, envelope);
            effects.extend(effect);
            answer
        }
        _ => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
            answer.headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            answer
        }
    };
    Handled { response, effects }
}

fn post(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    envelope: &ParsedEnvelope,
) -> (Response, Option<Effect>) {
    if !soap::is_text_xml(&request.headers) {
        return (plain(StatusCode::UNSUPPORTED_MEDIA_TYPE), None);
    }
    match Call::read(settings, request, envelope) {
        Ok(call) => {
            let (reply, effect) = operations::answer(state, settings, now, &call);
            let refused = StatusCode::from_u16(settings.business_error_http_status).unwrap_or(StatusCode::OK);
            let status = if reply.outcome == OperationOutcome::Succeeded { StatusCode::OK } else { refused };
            (xml_answer(status, reply.envelope(settings, call.operation)), effect)
        }
        Err(Fault::NotXml(_)) if settings.unreadable_xml == UnreadableXml::BadRequest => {
            (plain(StatusCode::BAD_REQUEST), None)
        }
        Err(fault) => (xml_answer(StatusCode::INTERNAL_SERVER_ERROR, fault.envelope()), None),
    }
}

fn xml_answer(status: StatusCode, body: String) -> Response {
    typed(status, "text/xml; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    Response { status, headers, body: body.into() }
}

fn plain(status: StatusCode) -> Response {
    Response { status, headers: HeaderMap::new(), body: bytes::Bytes::new() }
}
