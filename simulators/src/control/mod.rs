//! The control port: put and read what the providers know, see what really happened, arm faults,
//! move the clock. JSON without a password, and no web page but its own.
//!
//! [`routes`] lists every call; [`openapi`] generates the OpenAPI document from that list and the
//! handlers' types. Every refusal is `{"error": "one sentence"}`; unknown fields are refused
//! everywhere.

mod extract;
mod faults;
mod guard;
mod listener;
mod openapi;
mod operation;
mod page;
mod process;
mod provider_state;
mod records;
mod route;
mod routes;
#[cfg(test)]
mod tests;
mod worlds;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
};
use http::{Method, Uri};
use tokio::{net::TcpListener, sync::watch};

use self::{
    extract::{ApiError, WorldInPath},
    guard::{Hosts, guard},
    route::RouteScope,
    routes::routes,
};
use crate::worlds::Worlds;

/// A snapshot with full books and a full journal fits.
const MAX_BODY_BYTES: usize = 128 * 1024 * 1024;

/// Serves the control port until shutdown is requested.
pub(crate) async fn serve(listener: TcpListener, worlds: Worlds, hosts: &[String], stopping: watch::Receiver<bool>) {
    listener::serve(listener, app(worlds, Hosts::new(hosts)), stopping).await;
}

/// The path is rewritten before the router reads it; the guard runs before everything else.
fn app(worlds: Worlds, hosts: Hosts) -> Router {
    let inner = Router::new().fallback_service(router(worlds)).layer(middleware::map_request(take_world_from_path));
    inner.layer(middleware::from_fn_with_state(hosts, guard))
}

fn router(worlds: Worlds) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, route| {
        let router = router.route(route.path, route.handler.clone());
        match (route.scope, route.path.strip_prefix("/v1")) {
            (RouteScope::World, Some(call)) => router.route(&format!("{IN_A_WORLD}{call}"), route.handler),
            _ => router,
        }
    });
    let path = |uri: &Uri| uri.path().trim_start_matches(IN_A_WORLD).to_owned();
    routes
        .fallback(
            move |uri: Uri| async move { ApiError::not_found(format!("there is no control call {}", path(&uri))) },
        )
        .method_not_allowed_fallback(move |method: Method, uri: Uri| async move {
            ApiError::method_not_allowed(format!("there is no {method} on {}", path(&uri)))
        })
        .merge(page::router())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(worlds)
}

/// Where the router has the calls about a world whose id was taken out of the path, so that
/// handlers do not depend on which of the two paths was used.
const IN_A_WORLD: &str = "/in-a-world";

/// Turns `/v1/worlds/{world}/books` into `books`, with the world as an extension of the request.
async fn take_world_from_path(mut request: Request) -> Request {
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
