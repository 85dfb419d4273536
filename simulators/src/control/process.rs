//! The OpenAPI document, health, the certificate, reset, clock and settings.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    extract::{ApiError, JsonBody, JsonOf, WorldParam},
    operation::{OperationDoc, Output},
};
use crate::{
    clock::{ClockError, ClockStatus},
    worlds::{Settings, Worlds},
};

/// A certificate in PEM.
pub(super) struct Pem(String);

/// The certificate that a client of the TLS ports has to trust; never a key.
pub(super) async fn ca_pem(State(worlds): State<Worlds>) -> Pem {
    Pem(worlds.ca_pem().to_owned())
}

const PEM: &str = "application/x-pem-file";

impl IntoResponse for Pem {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, PEM)], self.0).into_response()
    }
}

impl Output for Pem {
    fn describe(operation: &mut OperationDoc<'_>) {
        operation.answers_with(200, PEM, &json!({ "type": "string" }));
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Health {
    #[schemars(extend("const" = "ok"))]
    status: &'static str,
    version: &'static str,
}

pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Reset {
    to: ResetTo,
}

/// The state that a reset leads to.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum ResetTo {
    /// The demo data.
    #[default]
    Demo,
    /// What the world was created from: its seed, its snapshot or the world file.
    Start,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct ResetDone {
    #[schemars(extend("const" = true))]
    reset: bool,
}

pub(super) async fn reset(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    JsonBody(Reset { to }): JsonBody<Reset>,
) -> Json<ResetDone> {
    // A reset can bring back accounts; `with` registers their usernames for this world again.
    worlds.with(&world, |world| match to {
        ResetTo::Demo => world.reset(),
        ResetTo::Start => world.reset_to_start(),
    });
    Json(ResetDone { reset: true })
}

pub(super) async fn clock(WorldParam(world): WorldParam) -> Json<ClockStatus> {
    Json(world.lock().clock.read())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Advance {
    seconds: u64,
}

pub(super) async fn advance(
    WorldParam(world): WorldParam,
    JsonBody(Advance { seconds }): JsonBody<Advance>,
) -> Result<Json<ClockStatus>, ApiError> {
    world.lock().advance(Duration::from_secs(seconds)).map(Json).map_err(ApiError::bad_request)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct SetClock {
    /// The time to set; not before what the clock shows.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    now: Option<OffsetDateTime>,
    /// `false` pauses the clock; `true` lets it run on from what it shows.
    running: Option<bool>,
}

pub(super) async fn set_clock(
    WorldParam(world): WorldParam,
    JsonBody(SetClock { now, running }): JsonBody<SetClock>,
) -> Result<Json<ClockStatus>, ApiError> {
    let mut world = world.lock();
    if let Some(now) = now {
        world.clock.set(now).map_err(|error| match error {
            ClockError::Backward => ApiError::conflict(error),
            ClockError::TooFar => ApiError::bad_request(error),
        })?;
    }
    match running {
        Some(true) => world.clock.run(),
        Some(false) => world.clock.stop(),
        None => {}
    }
    world.now();
    Ok(Json(world.clock.read()))
}

pub(super) async fn settings(WorldParam(world): WorldParam) -> Json<Settings> {
    Json(world.lock().settings.clone())
}

/// Changes the fields in the body, and returns all settings.
pub(super) async fn change_settings(
    WorldParam(world): WorldParam,
    JsonBody(change): JsonBody<JsonOf<Settings>>,
) -> Result<Json<Settings>, ApiError> {
    let mut world = world.lock();
    world.settings = changed(&world.settings, change.value)?;
    Ok(Json(world.settings.clone()))
}

/// The settings with the fields of `change` replaced.
pub(super) fn changed(settings: &Settings, change: Value) -> Result<Settings, ApiError> {
    if !change.is_object() {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    }
    let mut settings = serde_json::to_value(settings).map_err(ApiError::bad_request)?;
    merge(&mut settings, change);
    serde_json::from_value(settings)
        .map_err(|error| ApiError::bad_request(format!("the settings cannot be changed to that: {error}")))
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
