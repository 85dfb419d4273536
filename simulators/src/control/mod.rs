//! The control port: put and read what the providers know, see what really happened, arm faults, move the clock. JSON, no password.
//!
//! [`routes`] is the contents page; `openapi.json` beside this file describes each of them, and a test keeps the two alike. Whatever is
//! refused is refused as `{"error": "one sentence"}`; unknown fields are refused everywhere.

mod reading;
mod steering;
mod stock;
#[cfg(test)]
mod tests;
mod truth;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, delete, get, post, put},
};
use http::{Method, Uri};
use tokio::{net::TcpListener, sync::watch};

use self::reading::Refused;
use crate::{
    server::told,
    worlds::{SharedWorld, Worlds},
};

/// The largest body of a control call: a fault's answer may have to be larger than any client takes.
const LARGEST_BODY: usize = 32 * 1024 * 1024;

/// One control call.
struct Route {
    /// The method, in lower case as OpenAPI has it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test against openapi.json reads it"))]
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<SharedWorld>,
}

/// Every control call.
fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route { method, path, handler };
    vec![
        route("get", "/openapi.json", get(steering::openapi)),
        route("get", "/v1/health", get(steering::health)),
        route("post", "/v1/reset", post(steering::reset)),
        route("get", "/v1/clock", get(steering::clock)),
        route("post", "/v1/clock/advance", post(steering::advance)),
        route("get", "/v1/settings", get(steering::settings)),
        route("patch", "/v1/settings", axum::routing::patch(steering::change_settings)),
        route("get", "/v1/faults", get(steering::faults)),
        route("post", "/v1/faults", post(steering::arm)),
        route("get", "/v1/faults/{id}", get(steering::fault)),
        route("delete", "/v1/faults/{id}", delete(steering::disarm)),
        route("get", "/v1/books", get(truth::books)),
        route("get", "/v1/journal", get(truth::journal)),
        route("get", "/v1/journal/{id}", get(truth::journal_entry)),
        route("get", "/v1/sectigo/accounts", get(stock::sectigo_accounts)),
        route("get", "/v1/sectigo/accounts/{login_name}", get(stock::sectigo_account)),
        route("put", "/v1/sectigo/accounts/{login_name}", put(stock::put_sectigo_account)),
        route("get", "/v1/sectigo/orders", get(stock::sectigo_orders)),
        route("get", "/v1/sectigo/orders/{order_number}", get(stock::sectigo_order)),
        route("put", "/v1/sectigo/orders/{order_number}", put(stock::put_sectigo_order)),
        route("get", "/v1/namecom/accounts", get(stock::namecom_accounts)),
        route("get", "/v1/namecom/accounts/{username}", get(stock::namecom_account)),
        route("put", "/v1/namecom/accounts/{username}", put(stock::put_namecom_account)),
        route("get", "/v1/namecom/orders", get(stock::namecom_orders)),
        route("get", "/v1/namecom/orders/{order_id}", get(stock::namecom_order)),
        route("put", "/v1/namecom/orders/{order_id}", put(stock::put_namecom_order)),
        route("get", "/v1/namecom/orders/{order_id}/items/{item_id}", get(stock::namecom_item)),
        route("put", "/v1/namecom/orders/{order_id}/items/{item_id}", put(stock::put_namecom_item)),
        route("post", "/v1/namecom/orders/{order_id}/items/{item_id}/settle", post(stock::settle_namecom_item)),
        route("get", "/v1/debitsuccess/logins", get(stock::debitsuccess_logins)),
        route("put", "/v1/debitsuccess/logins/{username}", put(stock::put_debitsuccess_login)),
        route("get", "/v1/debitsuccess/accounts", get(stock::debitsuccess_accounts)),
        route("get", "/v1/debitsuccess/accounts/{reference}", get(stock::debitsuccess_account)),
        route("put", "/v1/debitsuccess/accounts/{reference}", put(stock::put_debitsuccess_account)),
        route("get", "/v1/debitsuccess/refunds", get(stock::debitsuccess_refunds)),
        route("get", "/v1/debitsuccess/refunds/{identifier}", get(stock::debitsuccess_refund)),
        route("post", "/v1/debitsuccess/refunds/{identifier}/status", post(stock::move_debitsuccess_refund)),
    ]
}

/// Serves the control port until told to stop.
pub(crate) async fn serve(listener: TcpListener, worlds: Worlds, mut stopping: watch::Receiver<bool>) {
    let router = router(worlds.demo().clone());
    let stopped = async move { told(&mut stopping).await };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the control port ended");
    }
}

fn router(world: SharedWorld) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler));
    routes
        .fallback(|uri: Uri| async move { Refused::not_found(format!("there is no control call {}", uri.path())) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            Refused::method_not_allowed(format!("there is no {method} on {}", uri.path()))
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(world)
}
