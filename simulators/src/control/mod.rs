//! The control port: put and read what the providers know, see what really happened, arm faults,
//! move the clock. JSON, no password, and no web page but its own.
//!
//! [`routes`] is the contents page; `openapi.json` beside this file describes each of them, and a
//! test keeps the two alike. Whatever is refused is refused as `{"error": "one sentence"}`; unknown
//! fields are refused everywhere.

mod extract;
mod faults;
mod guard;
mod listener;
mod openapi;
mod page;
mod process;
mod provider_state;
mod records;
#[cfg(test)]
mod tests;
mod worlds;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
    routing::{MethodRouter, delete, get, post, put},
};
use http::{Method, Uri};
use tokio::{net::TcpListener, sync::watch};

use self::{
    extract::{Refused, WorldInPath},
    guard::{Hosts, guard},
};
use crate::worlds::Worlds;

/// The largest body of a control call: a snapshot with full books and a full journal goes in.
const MAX_BODY_BYTES: usize = 128 * 1024 * 1024;

/// One control call.
struct Route {
    /// The method, in lower case as OpenAPI has it.
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Worlds>,
    about: About,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The process, or all worlds.
    Process,
    /// One world: the demo world by this path, any other one by `/v1/worlds/{world}` in place of
    /// `/v1`.
    World,
}

/// Every control call.
fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route { method, path, handler, about: About::World };
    let process = |method, path, handler| Route { method, path, handler, about: About::Process };
    vec![
        process("get", "/openapi.json", get(process::openapi)),
        process("get", "/v1/health", get(process::health)),
        process("get", "/v1/ca.pem", get(process::ca_pem)),
        process("get", "/v1/magic", get(worlds::magic)),
        process("get", "/v1/worlds", get(worlds::list)),
        process("post", "/v1/worlds", post(worlds::create)),
        process("get", "/v1/worlds/{world}", get(worlds::show)),
        process("delete", "/v1/worlds/{world}", delete(worlds::delete)),
        route("get", "/v1/snapshot", get(worlds::snapshot)),
        route("put", "/v1/snapshot", put(worlds::restore)),
        route("post", "/v1/fork", post(worlds::fork)),
        route("post", "/v1/reset", post(process::reset)),
        route("get", "/v1/clock", get(process::clock)),
        route("put", "/v1/clock", put(process::set_clock)),
        route("post", "/v1/clock/advance", post(process::advance)),
        route("get", "/v1/settings", get(process::settings)),
        route("patch", "/v1/settings", axum::routing::patch(process::change_settings)),
        route("get", "/v1/faults", get(faults::list)),
        route("post", "/v1/faults", post(faults::arm)),
        route("get", "/v1/faults/unfired", get(faults::unfired)),
        route("get", "/v1/faults/random", get(faults::random)),
        route("put", "/v1/faults/random", put(faults::set_random)),
        route("delete", "/v1/faults/random", delete(faults::end_random)),
        route("get", "/v1/faults/{id}", get(faults::show)),
        route("delete", "/v1/faults/{id}", delete(faults::disarm)),
        route("get", "/v1/gates", get(faults::gates)),
        route("post", "/v1/gates", post(faults::put_up)),
        route("get", "/v1/gates/{id}", get(faults::gate)),
        route("delete", "/v1/gates/{id}", delete(faults::take_away)),
        route("post", "/v1/gates/{id}/release", post(faults::release)),
        route("get", "/v1/audit", get(records::audit)),
        route("post", "/v1/audit", post(records::audit_claims)),
        route("get", "/v1/books", get(records::books)),
        route("get", "/v1/journal", get(records::journal)),
        route("get", "/v1/journal/{id}", get(records::journal_entry)),
        route("get", "/v1/sectigo/accounts", get(provider_state::sectigo_accounts)),
        route("get", "/v1/sectigo/accounts/{login_name}", get(provider_state::sectigo_account)),
        route("put", "/v1/sectigo/accounts/{login_name}", put(provider_state::put_sectigo_account)),
        route("get", "/v1/sectigo/orders", get(provider_state::sectigo_orders)),
        route("get", "/v1/sectigo/orders/{order_number}", get(provider_state::sectigo_order)),
        route("put", "/v1/sectigo/orders/{order_number}", put(provider_state::put_sectigo_order)),
        route("get", "/v1/namecom/accounts", get(provider_state::namecom_accounts)),
        route("get", "/v1/namecom/accounts/{username}", get(provider_state::namecom_account)),
        route("put", "/v1/namecom/accounts/{username}", put(provider_state::put_namecom_account)),
        route("get", "/v1/namecom/orders", get(provider_state::namecom_orders)),
        route("get", "/v1/namecom/orders/{order_id}", get(provider_state::namecom_order)),
        route("put", "/v1/namecom/orders/{order_id}", put(provider_state::put_namecom_order)),
        route("get", "/v1/namecom/orders/{order_id}/items/{item_id}", get(provider_state::namecom_item)),
        route("put", "/v1/namecom/orders/{order_id}/items/{item_id}", put(provider_state::put_namecom_item)),
        route(
            "post",
            "/v1/namecom/orders/{order_id}/items/{item_id}/settle",
            post(provider_state::settle_namecom_item),
        ),
        route("get", "/v1/debitsuccess/logins", get(provider_state::debitsuccess_logins)),
        route("put", "/v1/debitsuccess/logins/{username}", put(provider_state::put_debitsuccess_login)),
        route("get", "/v1/debitsuccess/accounts", get(provider_state::debitsuccess_accounts)),
        route("get", "/v1/debitsuccess/accounts/{reference}", get(provider_state::debitsuccess_account)),
        route("put", "/v1/debitsuccess/accounts/{reference}", put(provider_state::put_debitsuccess_account)),
        route("get", "/v1/debitsuccess/refunds", get(provider_state::debitsuccess_refunds)),
        route("get", "/v1/debitsuccess/refunds/{identifier}", get(provider_state::debitsuccess_refund)),
        route("post", "/v1/debitsuccess/refunds/{identifier}/status", post(provider_state::move_debitsuccess_refund)),
    ]
}

/// Serves the control port until told to stop.
pub(crate) async fn serve(listener: TcpListener, worlds: Worlds, hosts: &[String], stopping: watch::Receiver<bool>) {
    listener::serve(listener, app(worlds, Hosts::new(hosts)), stopping).await;
}

/// In front of the router, because it changes what the router reads; and in front of all, the
/// guard, which refuses what may not call.
fn app(worlds: Worlds, hosts: Hosts) -> Router {
    let inner = Router::new().fallback_service(router(worlds)).layer(middleware::map_request(out_of_the_path));
    inner.layer(middleware::from_fn_with_state(hosts, guard))
}

fn router(worlds: Worlds) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, route| {
        let router = router.route(route.path, route.handler.clone());
        match (route.about, route.path.strip_prefix("/v1")) {
            (About::World, Some(call)) => router.route(&format!("{IN_A_WORLD}{call}"), route.handler),
            _ => router,
        }
    });
    let path = |uri: &Uri| uri.path().trim_start_matches(IN_A_WORLD).to_owned();
    routes
        .fallback(move |uri: Uri| async move { Refused::not_found(format!("there is no control call {}", path(&uri))) })
        .method_not_allowed_fallback(move |method: Method, uri: Uri| async move {
            Refused::method_not_allowed(format!("there is no {method} on {}", path(&uri)))
        })
        .merge(page::router())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(worlds)
}

/// Where the router has the calls about a world whose id has been taken out of the path: handlers
/// need not know which way they were asked.
const IN_A_WORLD: &str = "/in-a-world";

/// `/v1/worlds/{world}/books` is `books` with the world beside it.
async fn out_of_the_path(mut request: Request) -> Request {
    let uri = request.uri();
    let Some((id, call)) = uri.path().strip_prefix("/v1/worlds/").and_then(|rest| rest.split_once('/')) else {
        return request;
    };
    let id = id.to_owned();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(path) = format!("{IN_A_WORLD}/{call}{query}").parse() else { return request };
    *request.uri_mut() = path;
    request.extensions_mut().insert(WorldInPath(id));
    request
}
