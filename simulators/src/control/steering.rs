//! Health, reset, clock, settings, faults.

use std::time::Duration;

use axum::{Json, response::IntoResponse};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    document,
    reading::{Body, Named, NoBody, Of, Refused},
};
use crate::{
    clock::{FURTHEST, Reading},
    faults::{ArmedRule, Rule, RuleError, RuleId},
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
    let too_far = || Refused::bad_request(format!("the clock moves at most {} s in total", FURTHEST.as_secs()));
    world.lock().advance(Duration::from_secs(seconds)).map(Json).ok_or_else(too_far)
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

#[derive(Serialize)]
pub(super) struct Armed {
    entries: Vec<ArmedRule>,
}

pub(super) async fn faults(Of(world): Of) -> Json<Armed> {
    Json(Armed { entries: world.lock().faults.list().to_vec() })
}

pub(super) async fn arm(Of(world): Of, Body(rule): Body<Rule>) -> Result<(StatusCode, Json<ArmedRule>), Refused> {
    let mut world = world.lock();
    let id = world.faults.arm(rule).map_err(|error| match error {
        RuleError::TooMany => Refused::conflict(error),
        wrong => Refused::bad_request(wrong),
    })?;
    let armed = world.faults.get(id).cloned();
    armed.map(|armed| (StatusCode::CREATED, Json(armed))).ok_or_else(|| no_rule(id))
}

pub(super) async fn fault(Of(world): Of, Named(id): Named<RuleId>) -> Result<Json<ArmedRule>, Refused> {
    world.lock().faults.get(id).cloned().map(Json).ok_or_else(|| no_rule(id))
}

/// Deletes a rule and shows how it stood, so that a test sees in one call whether it ever fired.
pub(super) async fn disarm(Of(world): Of, Named(id): Named<RuleId>) -> Result<Json<ArmedRule>, Refused> {
    world.lock().faults.disarm(id).map(Json).ok_or_else(|| no_rule(id))
}

fn no_rule(RuleId(id): RuleId) -> Refused {
    Refused::not_found(format!("there is no fault {id}"))
}
