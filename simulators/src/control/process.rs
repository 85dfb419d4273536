//! Health, reset, clock, settings.

use std::time::Duration;

use axum::{Json, extract::State, response::IntoResponse};
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    extract::{Body, Of, Refused},
    openapi,
};
use crate::{
    clock::{ClockError, ClockStatus},
    worlds::{Settings, Worlds},
};

pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::bytes())
}

/// What a client of the TLS ports has to trust; never a key.
pub(super) async fn ca_pem(State(worlds): State<Worlds>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], worlds.ca_pem())
}

pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reset {
    to: Beginning,
}

/// What a reset leads to.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Beginning {
    #[default]
    Demo,
    Start,
}

pub(super) async fn reset(Of(world): Of, State(worlds): State<Worlds>, Body(Reset { to }): Body<Reset>) -> Json<Value> {
    // Accounts that were not there come back with it, and their usernames are the world's again.
    worlds.with(&world, |world| match to {
        Beginning::Demo => world.reset(),
        Beginning::Start => world.reset_to_start(),
    });
    Json(json!({ "reset": true }))
}

pub(super) async fn clock(Of(world): Of) -> Json<ClockStatus> {
    Json(world.lock().clock.read())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Advance {
    seconds: u64,
}

pub(super) async fn advance(
    Of(world): Of,
    Body(Advance { seconds }): Body<Advance>,
) -> Result<Json<ClockStatus>, Refused> {
    world.lock().advance(Duration::from_secs(seconds)).map(Json).map_err(Refused::bad_request)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetClock {
    #[serde(default, with = "time::serde::rfc3339::option")]
    now: Option<OffsetDateTime>,
    running: Option<bool>,
}

/// Sets the clock to a time, lets it stand still there, or lets it run on.
pub(super) async fn set_clock(
    Of(world): Of,
    Body(SetClock { now, running }): Body<SetClock>,
) -> Result<Json<ClockStatus>, Refused> {
    let mut world = world.lock();
    if let Some(now) = now {
        world.clock.set(now).map_err(|error| match error {
            ClockError::Backward => Refused::conflict(error),
            ClockError::TooFar => Refused::bad_request(error),
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

pub(super) async fn settings(Of(world): Of) -> Json<Settings> {
    Json(world.lock().settings.clone())
}

/// Changes the settings that are named, down to single fields, and shows them all.
pub(super) async fn change_settings(Of(world): Of, Body(change): Body<Value>) -> Result<Json<Settings>, Refused> {
    let mut world = world.lock();
    world.settings = changed(&world.settings, change)?;
    Ok(Json(world.settings.clone()))
}

/// The settings with those changed that are named.
pub(super) fn changed(settings: &Settings, change: Value) -> Result<Settings, Refused> {
    if !change.is_object() {
        return Err(Refused::bad_request("the body must be a JSON object"));
    }
    let mut settings = serde_json::to_value(settings).map_err(Refused::bad_request)?;
    merge(&mut settings, change);
    serde_json::from_value(settings)
        .map_err(|error| Refused::bad_request(format!("the settings cannot be that: {error}")))
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
