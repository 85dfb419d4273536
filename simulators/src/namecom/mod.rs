//! name.com Core API: Process Refund and the order reads.
//!
//! ```text
//! route -> authenticate -> count against the rate -> maintenance? -> POST /core/v1/refund        (refund.rs, keys.rs)
//!  404,405     401              429                     503          GET /core/v1/orders[/{id}]  (reads.rs)
//!                                                                             |
//!                                                                 orders, items, accounts        (orders.rs)
//! ```
//!
//! Every refusal comes from what was asked and from the state; `refusals.rs` holds the table of them. Facts: OpenAPI v1.27.1 and
//! v1.33.2 of the Core API, the page "Process Refund" and the guide "Refunds flow". Money is kept in cents and written as JSON
//! numbers with two decimals.

mod keys;
mod orders;
mod places;
mod reads;
mod refund;
mod refusals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub use self::orders::{
    Account, Item, ItemStatus, NotPut, NotSettled, Order, OrderStatus, Outcome, Pending, Registry, State, TldDeletes,
};
use self::refusals::Refusal;
use crate::exchange::{Answer, Deduplication, Identified, Performed, Request};

/// Where the documentation leaves a choice, or names a number.
///
/// Each setting is marked: *documented* (and where), *inferred* (reasoned from documents), *unknown* (a guess that a client
/// must not rest on).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long an idempotency key is remembered, in seconds. Default 3600. *Documented*: 1 hour in v1.33.2; 12 hours (43200)
    /// in v1.27.1 and the older page.
    pub key_life_seconds: u64,
    /// What makes two requests under one key "different". Default `parsed_json`. *Unknown*.
    pub key_comparison: KeyComparison,
    /// Which answers are remembered under a key. Default `success`. *Unknown*: the replay header is documented on 200 only.
    pub cached_answers: CachedAnswers,
    /// Length of the Add Grace Period in days. Default 5. *Documented*: "typically 5 days".
    pub agp_days: u32,
    /// Length of the Add Grace Period for single TLDs (without a dot, lower case), over `agp_days`. Default none.
    /// *Documented* that it varies by TLD; the numbers are *unknown*.
    pub agp_days_by_tld: BTreeMap<String, u32>,
    /// Authenticated requests per account within one second of the clock; 0 is no limit. Default 20. *Documented*; that the
    /// window is the second of the clock is *inferred* from `x-ratelimit-reset` being in whole seconds.
    pub requests_per_second: u32,
    /// Whether a privacy item that is refunded along with its registration has a row of its own in `results`. Default true.
    /// *Inferred*: that it is refunded is documented, the row is not.
    pub cascade_rows: bool,
    /// Whether an order's `finalAmount` is a JSON string (`"12.99"`). Default false. *Documented*: a number in Core v1, a
    /// string in the legacy v4 pages.
    pub final_amount_as_text: bool,
    /// How the `Link` header of List Orders is written. Default `as_documented`. *Documented* by one example, which is not
    /// the form of RFC 8288.
    pub link_header: LinkHeader,
    /// Whether an item that was refunded, or whose refund is under way, is refused a second refund. Default on. *Documented*; off is for
    /// finding mistakes. A key that is remembered is replayed either way.
    pub deduplication: Deduplication,
    /// Whether `X-Idempotency-Key` is honoured at all. Default true. *Documented*; without it every request is a new one.
    pub idempotency_keys: bool,
    /// What a second request under a key meets while the first one is not answered. Default `hold`. *Unknown*.
    pub key_in_flight: KeyInFlight,
    /// Authenticated requests per account within one hour of the clock; 0, the default, is no limit. *Unknown*: 3000 is told of and in no
    /// document at hand.
    pub requests_per_hour: u32,
    /// How the body of a refusal without details is written. Default `left_out`. *Unknown*: documented as string or null.
    pub no_details: NoDetails,
    /// Members of a request's body that its schema does not name. Default `ignored`. *Inferred*: the schema does not forbid them.
    pub unknown_members: UnknownMembers,
    /// Whether path and method are looked at before the credentials, or behind them. Default `path`. *Inferred*.
    pub first_check: FirstCheck,
    /// What becomes of a request one of whose items cannot be refunded. Default `refuse_request`. *Inferred* from the error table.
    pub obstacles: Obstacles,
}

/// Members of a request's body that its schema does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownMembers {
    /// They change nothing.
    #[default]
    Ignored,
    /// 400.
    Refused,
}

/// What is looked at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstCheck {
    /// 404 and 405 before 401.
    #[default]
    Path,
    /// 401 (and 429, 503) before 404 and 405.
    Credentials,
}

/// What becomes of a request one of whose items cannot be refunded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacles {
    /// It is refused as a whole, by the gravest.
    #[default]
    RefuseRequest,
    /// 200: that item is `failed`, with the sentence as its message, and the others go on.
    FailItems,
}

/// What a second request under a key meets while the first one is not answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyInFlight {
    /// It waits, and gets the first one's answer.
    #[default]
    Hold,
    /// 409 `Conflict`.
    Refuse,
}

/// How the body of a refusal without details is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoDetails {
    /// Without the property.
    #[default]
    LeftOut,
    /// With `"details": null`.
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_life_seconds: 3600,
            key_comparison: KeyComparison::default(),
            cached_answers: CachedAnswers::default(),
            agp_days: 5,
            agp_days_by_tld: BTreeMap::new(),
            requests_per_second: 20,
            cascade_rows: true,
            final_amount_as_text: false,
            link_header: LinkHeader::default(),
            deduplication: Deduplication::default(),
            idempotency_keys: true,
            key_in_flight: KeyInFlight::default(),
            requests_per_hour: 0,
            no_details: NoDetails::default(),
            unknown_members: UnknownMembers::default(),
            first_check: FirstCheck::default(),
            obstacles: Obstacles::default(),
        }
    }
}

/// What makes two requests under one key "different".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyComparison {
    /// Another JSON value: white space and the order of members do not matter.
    #[default]
    ParsedJson,
    /// Any other byte in the body.
    Bytes,
}

/// Which answers of Process Refund are remembered under a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachedAnswers {
    /// Only 2xx: a refused request can be sent again under its key.
    #[default]
    Success,
    /// Every answer to a request whose body was understood, refusals and server errors too.
    All,
}

/// How the `Link` header of List Orders is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkHeader {
    /// `<https://host/path?page=3; rel="next">,<...>`: the relation inside the brackets, as in the documented example.
    #[default]
    AsDocumented,
    /// `<https://host/path?page=3>; rel="next", <...>; ...`, which stock parsers read.
    Rfc8288,
}

/// Reads what can be told of a request without doing anything. Never fails; the token is not part of the outcome.
pub fn identify(request: &Request) -> Identified {
    let username = basic_credentials(&request.headers).map(|(username, _)| username);
    let named = |operation: &str, target, parameters| Identified {
        operation: operation.to_owned(),
        target,
        username: username.clone(),
        identifier: None,
        parameters,
        moves_money: false,
        destructive: false,
    };
    match Call::of(request) {
        Ok(Call::ProcessRefund) => {
            let (target, parameters) = refund::outline(&request.body);
            Identified {
                identifier: keys::key_in(&request.headers),
                moves_money: true,
                ..named("ProcessRefund", target, parameters)
            }
        }
        Ok(Call::GetOrder(id)) => named("GetOrder", Some(id.to_owned()), json!({ "orderId": id })),
        Ok(Call::ListOrders) => {
            let query = request.query.as_deref().unwrap_or_default();
            let parameters = form_urlencoded::parse(query.as_bytes())
                .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
                .collect::<serde_json::Map<_, _>>();
            named("ListOrders", None, Value::Object(parameters))
        }
        Err(_) => named("", None, Value::Null),
    }
}

/// The answer to a request under a key whose first request is not answered yet, where the settings refuse it.
pub(crate) fn key_in_flight(settings: &Settings) -> Answer {
    Refusal::KeyInFlight.answer(settings)
}

/// Answers one request and changes the state as name.com would.
pub fn perform(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> Performed {
    admit_and_answer(state, settings, now, request)
        .unwrap_or_else(|refusal| Performed { answer: refusal.answer(settings), effects: Vec::new() })
}

fn admit_and_answer(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
) -> Result<Performed, Refusal> {
    let call = match settings.first_check {
        FirstCheck::Path => Ok(Call::of(request)?),
        FirstCheck::Credentials => Call::of(request),
    };
    let (username, token) = basic_credentials(&request.headers).ok_or(Refusal::Unauthorized)?;
    let account = state.authenticated(&username, &token).ok_or(Refusal::Unauthorized)?;
    let maintenance = account.maintenance;
    state.count_request(&username, settings, now)?;
    if maintenance {
        return Err(Refusal::Maintenance);
    }
    match call? {
        Call::ProcessRefund => refund::process(state, settings, now, &username, request),
        Call::GetOrder(id) => reads::get_order(state, settings, now, &username, id),
        Call::ListOrders => reads::list_orders(state, settings, now, &username, request),
    }
}

enum Call<'a> {
    ProcessRefund,
    GetOrder(&'a str),
    ListOrders,
}

impl<'a> Call<'a> {
    /// Which call a request is.
    fn of(request: &'a Request) -> Result<Self, Refusal> {
        let (call, method) = match request.path.as_str() {
            "/core/v1/refund" => (Self::ProcessRefund, Method::POST),
            "/core/v1/orders" => (Self::ListOrders, Method::GET),
            path => match path.strip_prefix("/core/v1/orders/") {
                Some(id) if !id.is_empty() && !id.contains('/') => (Self::GetOrder(id), Method::GET),
                _ => return Err(Refusal::NoSuchPath),
            },
        };
        if request.method == method { Ok(call) } else { Err(Refusal::MethodNotAllowed { allowed: method }) }
    }
}

/// Username and token out of `Authorization: Basic ...`; none where it is missing or cannot be read.
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (username, token) = decoded.split_once(':')?;
    Some((username.to_owned(), token.to_owned()))
}
