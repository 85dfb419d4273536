//! Sectigo: `!AutoRefund`, `!getPostPaymentStatus`, and the trap `!AutoReject`.
//!
//! ```text
//! TLS? -> path -> POST? -> arguments -> login -> call limit -> the order
//!  -1     404     -17    -2, -3, -4     -16        -42         -16 (status: -4), -14, -18
//! ```
//!
//! Every response but 404 has HTTP status 200. There are two dialects: the refund calls answer
//! `code` newline `message` as `text/plain`; the status call answers JSON in its own wording.
//! Sources: the pages AutoRefund, AutoReject and getPostPaymentStatus of the SPS guide,
//! "Unsuccessful responses" of the mark-certificates guide, the SiteLock page for -42 and the
//! "already refunded" sentence.

mod arguments;
mod emulation;
mod orders;
mod settings;
#[cfg(test)]
mod tests;
pub mod validation;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use time::OffsetDateTime;

use self::arguments::{Argument, Form};
pub(crate) use self::emulation::Sectigo;
use self::orders::StatusData;
pub use self::{
    emulation::SectigoLogin,
    orders::{Account, Order, Processing, PutError, State},
    settings::{
        AlreadyRefunded, ArgumentNames, ArgumentsInQuery, AutoReject, CertificateId, CheckOrder, EmptyArgument,
        FirstCheck, InvalidUtf8, NoData, OtherContentTypes, OtherMethods, RepeatedArgument, ResponseFormat, Settings,
        StatusAfterRefund, Texts, UnknownOrder,
    },
};
use crate::request::{Effect, Handled, Request, RequestInfo, Response};

/// Reads what a request says about itself. Never fails and changes nothing; passwords are masked.
pub fn inspect(request: &Request) -> RequestInfo {
    let form = Form::outline(request);
    let operation = Call::of(&request.path).map_or("", Call::operation);
    RequestInfo {
        operation: operation.to_owned(),
        target: form.first_in_any_case("orderNumber"),
        username: form.first_in_any_case("loginName"),
        identifier: None,
        parameters: form.masked(),
        moves_money: operation == Call::AutoRefund.operation() && request.method == Method::POST,
        destructive: operation == Call::AutoReject.operation(),
    }
}

/// Answers one request and changes the state as Sectigo would.
pub fn handle(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> Handled {
    let call = Call::of(&request.path);
    let wording = wording(call, settings);
    let is_method_first = settings.first_check == FirstCheck::Method && request.method != Method::POST;
    if !request.tls && !is_method_first {
        return refused(call, settings, Refusal { code: -1, message: wording.not_https.to_owned() });
    }
    let Some(call) = call else { return without_code(settings, StatusCode::NOT_FOUND, "Not Found") };
    let outcome = if request.method == Method::POST {
        match call {
            Call::AutoRefund => auto_refund(state, settings, now, request),
            Call::AutoReject => auto_reject(state, settings, now, request),
            Call::GetPostPaymentStatus => post_payment_status(state, settings, now, request),
        }
    } else if request.method != Method::GET && settings.other_methods == OtherMethods::NotAllowed {
        return without_code(settings, StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    } else {
        Err(Refusal { code: -17, message: GET.to_owned() })
    };
    let mut handled = outcome.unwrap_or_else(|refusal| refused(Some(call), settings, refusal));
    if call == Call::AutoRefund && settings.response_format == ResponseFormat::Honoured {
        let form = Form::of(request, settings);
        if form.first(RESPONSE_FORMAT.name()).as_deref() == Some("1") {
            handled.response.body = as_pairs(&handled.response.body).into();
        }
    }
    handled
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    AutoRefund,
    AutoReject,
    GetPostPaymentStatus,
}

/// A refusal: its code and message.
#[derive(Debug)]
struct Refusal {
    code: i32,
    message: String,
}

/// The answer of the status call. An error has no `data`, or `null`, as the settings say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusAnswer<'a> {
    error_code: i32,
    error_message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Option<StatusData<'a>>>,
}

/// The texts that differ between the pages of the two calls.
struct Wording {
    not_https: &'static str,
    unrecognized: &'static str,
    wrong_login: &'static str,
}

const AUTO_REFUND: Wording = Wording {
    not_https: "Request was not made over HTTPS!",
    unrecognized: "is an unrecognized argument!",
    wrong_login: "Permission denied!",
};

const MARK_CERTIFICATES: Wording = Wording {
    not_https: "Request was not made over https!",
    unrecognized: "is an unrecognised argument!",
    wrong_login: "Incorrect login details, account is locked, password has expired or your source IP is blocked.",
};

const GET: &str = "Request used GET rather than POST!";
const UNKNOWN_ERROR: &str = "An unknown error occurred!";
const CALL_LIMIT: &str = "Call limit reached, please try again later";

const LOGIN_NAME: Argument = Argument::required("loginName", 64);
const LOGIN_PASSWORD: Argument = Argument::required("loginPassword", 128);
const REFUND_REASON_CODE: Argument = Argument::required("refundReasonCode", 128).meaning(is_refund_reason);
const TEST: Argument = Argument::optional("test", 1).meaning(|value| matches!(value, "Y" | "N"));
const RESPONSE_FORMAT: Argument = Argument::optional("responseFormat", 1).meaning(|value| matches!(value, "0" | "1"));
const CERTIFICATE_ID: Argument = Argument::optional("CertificateID", 16).meaning(is_digits);

impl Call {
    fn of(path: &str) -> Option<Call> {
        // `!` may be sent as `%21`. Nothing else in these paths is decoded.
        match path.replace("%21", "!").as_str() {
            "/products/!AutoRefund" => Some(Call::AutoRefund),
            "/products/!AutoReject" => Some(Call::AutoReject),
            "/products/!getPostPaymentStatus" | "/products/download/!getPostPaymentStatus" => {
                Some(Call::GetPostPaymentStatus)
            }
            _ => None,
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Call::AutoRefund => "!AutoRefund",
            Call::AutoReject => "!AutoReject",
            Call::GetPostPaymentStatus => "!getPostPaymentStatus",
        }
    }
}

fn auto_refund(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
) -> Result<Handled, Refusal> {
    let more = match settings.response_format {
        ResponseFormat::Unrecognized => &[REFUND_REASON_CODE][..],
        ResponseFormat::Honoured => &[REFUND_REASON_CODE, RESPONSE_FORMAT],
    };
    let (form, account) = admit(state, settings, now, Call::AutoRefund, more, request)?;
    let order = own_order(state, &form, &account).ok_or_else(|| no_such_order(settings))?;
    if let Some((code, sentence)) = order.obstacle(settings, state.since(), now) {
        return Err(Refusal { code, message: sentence.to_owned() });
    }
    if let Some(code) = order.refund_answer {
        return Err(Refusal { code, message: sentence_of(code) });
    }
    let processing = match order.processing {
        Processing::Works => settings.processing,
        its_own => its_own,
    };
    if processing == Processing::FailsBeforeRefund {
        return Err(Refusal { code: -14, message: UNKNOWN_ERROR.to_owned() });
    }
    let number = order.order_number.clone();
    let refunded = state.change_order(&number, |order| order.refund(settings, now));
    let effects = refunded.map(|effect| of_account(effect, &account)).into_iter().collect();
    let answer = if processing == Processing::FailsAfterRefund {
        plain(settings, -14, UNKNOWN_ERROR)
    } else {
        plain(settings, 0, "")
    };
    Ok(Handled { response: answer, effects })
}

/// The destructive call. It answers as the real one would, so that a client that calls it by
/// mistake sees the consequences.
fn auto_reject(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
) -> Result<Handled, Refusal> {
    let (form, account) = admit(state, settings, now, Call::AutoReject, &[TEST], request)?;
    let order = own_order(state, &form, &account).ok_or_else(|| no_such_order(settings))?;
    if settings.auto_reject == AutoReject::Refused {
        return Err(permission_denied());
    }
    if order.is_closed() {
        return Err(Refusal { code: -18, message: settings.not_rejectable_text.clone() });
    }
    let only_a_test = form.first("test").as_deref() == Some("Y");
    let number = order.order_number.clone();
    let rejected = if only_a_test { None } else { state.change_order(&number, Order::reject) };
    let effects = rejected.map(|effect| of_account(effect, &account)).into_iter().collect();
    Ok(Handled { response: plain(settings, 0, ""), effects })
}

fn post_payment_status(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
) -> Result<Handled, Refusal> {
    let more = match settings.certificate_id {
        CertificateId::Accepted | CertificateId::Invalid => &[CERTIFICATE_ID][..],
        CertificateId::Unrecognized => &[],
    };
    let (form, account) = admit(state, settings, now, Call::GetPostPaymentStatus, more, request)?;
    let wording = wording(Some(Call::GetPostPaymentStatus), settings);
    let order = own_order(state, &form, &account).ok_or_else(|| match settings.unknown_order_to_status_call {
        UnknownOrder::InvalidValue => invalid("orderNumber"),
        UnknownOrder::PermissionDenied => Refusal { code: -16, message: wording.wrong_login.to_owned() },
    })?;
    if settings.certificate_id == CertificateId::Invalid && form.first(CERTIFICATE_ID.name()).is_some() {
        return Err(invalid(CERTIFICATE_ID.name()));
    }
    if order.status_fails {
        return Err(Refusal { code: -14, message: UNKNOWN_ERROR.to_owned() });
    }
    let data = order.status_data(settings, now);
    Ok(Handled {
        response: json(settings, &StatusAnswer { error_code: 0, error_message: "", data: Some(Some(data)) }),
        effects: Vec::new(),
    })
}

/// Checks the arguments (`more` are the call's own) and the login, which all calls have in common.
/// Returns the form and the login name.
fn admit(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    call: Call,
    more: &[Argument],
    request: &Request,
) -> Result<(Form, String), Refusal> {
    let form = Form::of(request, settings);
    let wording = wording(Some(call), settings);
    let mut takes = vec![LOGIN_NAME, LOGIN_PASSWORD, order_number(settings)];
    takes.extend(more);
    if settings.check_order == CheckOrder::ArgumentsFirst {
        form.check(&takes, settings, wording)?;
    }
    let account = log_in(state, settings, now, &form, wording)?;
    if settings.check_order == CheckOrder::LoginFirst {
        form.check(&takes, settings, wording)?;
    }
    Ok((form, account))
}

fn wording(call: Option<Call>, settings: &Settings) -> &'static Wording {
    match (settings.texts, call) {
        (Texts::OfEachPage, Some(Call::GetPostPaymentStatus)) | (Texts::MarkCertificatesPage, _) => &MARK_CERTIFICATES,
        (Texts::OfEachPage | Texts::AutoRefundPage, _) => &AUTO_REFUND,
    }
}

/// The text of a code that an order is set to answer a refund with, if one is documented.
fn sentence_of(code: i32) -> String {
    match code {
        -1 => AUTO_REFUND.not_https.to_owned(),
        -2 => format!("'orderNumber' {}", AUTO_REFUND.unrecognized),
        -3 => "The 'orderNumber' argument is missing!".to_owned(),
        -4 => invalid("orderNumber").message,
        -14 => UNKNOWN_ERROR.to_owned(),
        -16 => AUTO_REFUND.wrong_login.to_owned(),
        -17 => GET.to_owned(),
        -18 => "This order cannot be refunded".to_owned(),
        -20 => orders::CANCELED.to_owned(),
        -42 => CALL_LIMIT.to_owned(),
        -76 => "The SiteLock partner account is not activated".to_owned(),
        _ => format!("An error of code {code} occurred!"),
    }
}

fn order_number(settings: &Settings) -> Argument {
    let number = Argument::required("orderNumber", usize::from(settings.max_order_number_chars));
    if settings.order_numbers_are_digits { number.meaning(is_digits) } else { number }
}

fn log_in(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    form: &Form,
    wording: &Wording,
) -> Result<String, Refusal> {
    let login_name = form.first("loginName").unwrap_or_default();
    let password = form.first("loginPassword").unwrap_or_default();
    if !state.knows(&login_name, &password) {
        return Err(Refusal { code: settings.wrong_login_code, message: wording.wrong_login.to_owned() });
    }
    if !state.count_call(&login_name, settings, now) {
        return Err(Refusal { code: -42, message: CALL_LIMIT.to_owned() });
    }
    Ok(login_name)
}

fn of_account(effect: Effect, account: &str) -> Effect {
    Effect { account: Some(account.to_owned()), ..effect }
}

/// The refusal of an order that does not exist or belongs to another account.
fn no_such_order(settings: &Settings) -> Refusal {
    match settings.unknown_order {
        UnknownOrder::InvalidValue => invalid("orderNumber"),
        UnknownOrder::PermissionDenied => permission_denied(),
    }
}

fn own_order(state: &State, form: &Form, account: &str) -> Option<Order> {
    state.order_of(&form.first("orderNumber")?, account)
}

fn permission_denied() -> Refusal {
    Refusal { code: -16, message: AUTO_REFUND.wrong_login.to_owned() }
}

fn invalid(argument: &str) -> Refusal {
    Refusal { code: -4, message: format!("The value of the '{argument}' argument is invalid!") }
}

fn is_digits(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_refund_reason(value: &str) -> bool {
    is_digits(value) && value.parse::<u8>().is_ok_and(|code| (1..=11).contains(&code))
}

/// A refusal in the dialect of its call. An unknown call gets the plain one.
fn refused(call: Option<Call>, settings: &Settings, Refusal { code, message }: Refusal) -> Handled {
    let mut answer = match call {
        Some(Call::GetPostPaymentStatus) => {
            let data = (settings.no_data == NoData::Null).then_some(None);
            json(settings, &StatusAnswer { error_code: code, error_message: &message, data })
        }
        Some(Call::AutoRefund | Call::AutoReject) | None => plain(settings, code, &message),
    };
    // An invalid HTTP status is replaced by the usual one.
    answer.status = StatusCode::from_u16(settings.refusal_http_status).unwrap_or(StatusCode::OK);
    Handled { response: answer, effects: Vec::new() }
}

fn plain(settings: &Settings, code: i32, message: &str) -> Response {
    let newline = if settings.crlf { "\r\n" } else { "\n" };
    let mut body = code.to_string();
    if !message.is_empty() {
        body.push_str(newline);
        body.push_str(message);
    }
    if settings.trailing_newline {
        body.push_str(newline);
    }
    answer(StatusCode::OK, &settings.plain_content_type, body)
}

/// The two lines of a plain answer as URL-encoded parameters.
fn as_pairs(lines: &[u8]) -> String {
    let lines = String::from_utf8_lossy(lines);
    let mut lines = lines.lines();
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("errorCode", lines.next().unwrap_or_default());
    if let Some(message) = lines.next() {
        pairs.append_pair("errorMessage", message);
    }
    pairs.finish()
}

fn json(settings: &Settings, body: &StatusAnswer<'_>) -> Response {
    let body = serde_json::to_string(body).expect("texts and numbers alone always make JSON");
    answer(StatusCode::OK, &settings.status_content_type, body)
}

/// A refusal without one of Sectigo's own codes.
fn without_code(settings: &Settings, status: StatusCode, text: &str) -> Handled {
    Handled { response: answer(status, &settings.plain_content_type, text.to_owned()), effects: Vec::new() }
}

fn answer(status: StatusCode, content_type: &str, body: String) -> Response {
    // The setting's values are checked when they are read.
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("text/plain"));
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
    Response { status, headers, body: body.into() }
}
