//! Health, reset, clock, settings.

use std::time::Duration;

use axum::{Json, response::IntoResponse};
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    document,
    reading::{Body, NoBody, Of, Refused},
};
use crate::{
    clock::{NotMoved, Reading},
    worlds::Settings,
};

pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document::bytes())
}

pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

pub(super) async fn reset(Of(world): Of, NoBody: NoBody) -> Json<Value> {
    world.lock().reset();
    Json(json!({ "reset": true }))
}

pub(super) async fn clock(Of(world): Of) -> Json<Reading> {
    Json(world.lock().clock.read())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Advance {
    seconds: u64,
}

pub(super) async fn advance(Of(world): Of, Body(Advance { seconds }): Body<Advance>) -> Result<Json<Reading>, Refused> {
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
) -> Result<Json<Reading>, Refused> {
    let mut world = world.lock();
    if let Some(now) = now {
        world.clock.set(now).map_err(|error| match error {
            NotMoved::Backward => Refused::conflict(error),
            NotMoved::TooFar => Refused::bad_request(error),
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
    if !change.is_object() {
        return Err(Refused::bad_request("the body must be a JSON object"));
    }
    let mut world = world.lock();
    let mut settings = serde_json::to_value(&world.settings).map_err(Refused::bad_request)?;
    merge(&mut settings, change);
    world.settings = serde_json::from_value(settings)
        .map_err(|error| Refused::bad_request(format!("the settings cannot be that: {error}")))?;
    Ok(Json(world.settings.clone()))
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
