//! name.com Core API: Process Refund and the order reads.
//!
//! ```text
//! route -> authenticate -> rate limit -> maintenance? -> call
//! 404,405      401            429            503
//!
//! POST /core/v1/refund                            refund.rs, keys.rs
//! GET  /core/v1/orders[/{id}]                     reads.rs
//! GET  /core/v1/domains/{name}, /core/v1/hello    domains.rs
//! orders, items, accounts                         orders.rs, state.rs
//! ```
//!
//! Every refusal follows from the request and the state; `refusals.rs` holds the table of them.
//! Sources: OpenAPI v1.27.1 and v1.33.2 of the Core API, the page "Process Refund" and the guide
//! "Refunds flow". Money is kept in cents and written as JSON numbers with two decimals.

mod domains;
mod emulation;
mod item_index;
mod keys;
mod orders;
mod reads;
mod refund;
mod refusals;
mod settings;
mod state;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) use self::emulation::Namecom;
pub use self::emulation::NamecomLogin;
pub use self::orders::{
    Account, Item, ItemStatus, Order, OrderStatus, Outcome, Pending, PutError, RegistryCondition, SettleError,
    TldDeletes,
};
use self::refund::ParsedBody;
use self::refusals::Refusal;
pub use self::settings::{
    AllItemsRefused, CachedAnswers, CreateDateEnd, DeletedDomain, EmptyKey, FirstCheck, HalfWayAnswer, KeyComparison,
    KeyInFlight, LinkHeader, NoDetails, Obstacles, RepeatedItem, Settings, TooLargePage, UnknownMembers,
    UnknownOrderStatus, UnreadableQuery,
};
pub use self::state::State;
use crate::{
    record::parameters::Parameters,
    request::{Handled, Request, RequestInfo},
};

/// Reads what a request says about itself. Never fails and changes nothing; the token is left out.
pub fn inspect(request: &Request) -> RequestInfo {
    inspect_parsed(request, &ParsedBody::parse(&request.body))
}

fn inspect_parsed(request: &Request, body: &ParsedBody) -> RequestInfo {
    let username = basic_credentials(&request.headers).map(|(username, _)| username);
    let named = |operation: &str, target, parameters| RequestInfo {
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
            let (target, parameters) = refund::outline(body, request.body.len());
            RequestInfo {
                identifier: keys::key_in(&request.headers, EmptyKey::NoKey),
                moves_money: true,
                ..named("ProcessRefund", target, parameters)
            }
        }
        Ok(Call::GetOrder(id)) => named("GetOrder", Some(id.to_owned()), json!({ "orderId": id }).into()),
        Ok(Call::ListOrders) => {
            let query = request.query.as_deref().unwrap_or_default();
            let parameters = form_urlencoded::parse(query.as_bytes())
                .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())));
            named("ListOrders", None, parameters.collect())
        }
        Ok(Call::GetDomain(name)) => {
            named("GetDomain", Some(name.to_ascii_lowercase()), json!({ "domainName": name }).into())
        }
        Ok(Call::Hello) => named("Hello", None, Parameters::default()),
        Err(_) => named("", None, Parameters::default()),
    }
}

/// Answers one request and changes the state as name.com would.
pub fn handle(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request) -> Handled {
    handle_parsed(state, settings, now, request, &ParsedBody::parse(&request.body), false)
}

/// As [`handle`]. With `half_way` a refund stops half-way: the domain of each requested
/// registration is deleted, and nothing is refunded.
fn handle_parsed(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    body: &ParsedBody,
    half_way: bool,
) -> Handled {
    admit_and_answer(state, settings, now, request, body, half_way)
        .unwrap_or_else(|refusal| Handled { response: refusal.answer(settings), effects: Vec::new() })
}

fn admit_and_answer(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &Request,
    body: &ParsedBody,
    half_way: bool,
) -> Result<Handled, Refusal> {
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
        Call::ProcessRefund => refund::process(state, settings, now, &username, (request, body), half_way),
        Call::GetOrder(id) => reads::get_order(state, settings, now, &username, id),
        Call::ListOrders => reads::list_orders(state, settings, now, &username, request),
        Call::GetDomain(name) => domains::get_domain(state, settings, &username, name),
        Call::Hello => Ok(domains::hello(now, &username)),
    }
}

enum Call<'a> {
    ProcessRefund,
    GetOrder(&'a str),
    ListOrders,
    GetDomain(&'a str),
    Hello,
}

impl<'a> Call<'a> {
    /// Which call a request is.
    fn of(request: &'a Request) -> Result<Self, Refusal> {
        let (call, method) = match request.path.as_str() {
            "/core/v1/refund" => (Self::ProcessRefund, Method::POST),
            "/core/v1/orders" => (Self::ListOrders, Method::GET),
            "/core/v1/hello" => (Self::Hello, Method::GET),
            path => {
                let one_of = |all| path.strip_prefix(all).filter(|id| !id.is_empty() && !id.contains(['/', ':']));
                match (one_of("/core/v1/orders/"), one_of("/core/v1/domains/")) {
                    (Some(id), _) => (Self::GetOrder(id), Method::GET),
                    (None, Some(name)) => (Self::GetDomain(name), Method::GET),
                    (None, None) => return Err(Refusal::NoSuchPath),
                }
            }
        };
        if request.method == method { Ok(call) } else { Err(Refusal::MethodNotAllowed { allowed: method }) }
    }
}

/// Username and token from `Authorization: Basic ...`; none if it is missing or unreadable.
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
