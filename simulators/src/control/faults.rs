//! Rules, the random mode, gates.

use axum::Json;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::{Asked, Body, Named, NoBody, Of, Refused};
use crate::{
    faults::gates::{Gate, GateError, GateId, GateStatus},
    faults::{ArmedRule, Random, Rule, RuleError, RuleId},
};

#[derive(Serialize)]
pub(super) struct Armed {
    entries: Vec<ArmedRule>,
}

pub(super) async fn list(Of(world): Of) -> Json<Armed> {
    Json(Armed { entries: world.lock().faults.list().to_vec() })
}

pub(super) async fn arm(Of(world): Of, Body(rule): Body<Rule>) -> Result<(StatusCode, Json<ArmedRule>), Refused> {
    let mut world = world.lock();
    let id = world.arm(rule)?;
    let armed = world.faults.get(id).cloned();
    armed.map(|armed| (StatusCode::CREATED, Json(armed))).ok_or_else(|| no_rule(id))
}

pub(super) async fn show(Of(world): Of, Named(id): Named<RuleId>) -> Result<Json<ArmedRule>, Refused> {
    world.lock().faults.get(id).cloned().map(Json).ok_or_else(|| no_rule(id))
}

/// Deletes a rule and shows how it stood, so that a test sees in one call whether it ever fired.
pub(super) async fn disarm(Of(world): Of, Named(id): Named<RuleId>) -> Result<Json<ArmedRule>, Refused> {
    world.lock().faults.disarm(id).map(Json).ok_or_else(|| no_rule(id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Strictness {
    #[serde(default)]
    strict: bool,
}

/// The rules that never fired; an error where the question or one of them is strict.
pub(super) async fn unfired(
    Of(world): Of,
    Asked(Strictness { strict }): Asked<Strictness>,
) -> Result<Json<Armed>, Refused> {
    let entries: Vec<ArmedRule> = world.lock().faults.unfired().cloned().collect();
    let counted: Vec<String> =
        entries.iter().filter(|armed| strict || armed.rule.strict).map(|armed| armed.id.0.to_string()).collect();
    match counted.as_slice() {
        [] => Ok(Json(Armed { entries })),
        [one] => Err(Refused::conflict(format!("fault {one} never fired"))),
        several => Err(Refused::conflict(format!("faults {} never fired", several.join(", ")))),
    }
}

pub(super) async fn random(Of(world): Of) -> Result<Json<Random>, Refused> {
    let off = || Refused::not_found("the random mode is off");
    world.lock().faults.random().cloned().map(Json).ok_or_else(off)
}

/// Without a seed of its own it draws from the world's number, which comes from the seed of the
/// start.
pub(super) async fn set_random(Of(world): Of, Body(mut asked): Body<Value>) -> Result<Json<Random>, Refused> {
    let mut world = world.lock();
    let number = world.number();
    if let Some(asked) = asked.as_object_mut() {
        asked.entry("seed").or_insert(number.into());
    }
    let random: Random = serde_json::from_value(asked)
        .map_err(|error| Refused::bad_request(format!("the body is not what this call takes: {error}")))?;
    world.faults.set_random(Some(random.clone()))?;
    Ok(Json(random))
}

pub(super) async fn end_random(Of(world): Of, NoBody: NoBody) -> Result<Json<Value>, Refused> {
    world.lock().faults.set_random(None)?;
    Ok(Json(json!({ "random": false })))
}

#[derive(Serialize)]
pub(super) struct Gates {
    entries: Vec<GateStatus>,
}

pub(super) async fn gates(Of(world): Of) -> Json<Gates> {
    Json(Gates { entries: world.lock().gates.list() })
}

pub(super) async fn put_up(Of(world): Of, Body(gate): Body<Gate>) -> Result<(StatusCode, Json<GateStatus>), Refused> {
    let world = world.lock();
    let id = world.gates.add(gate).map_err(|error| match error {
        GateError::TooMany => Refused::conflict(error),
        wrong => Refused::bad_request(wrong),
    })?;
    let standing = world.gates.get(id);
    standing.map(|standing| (StatusCode::CREATED, Json(standing))).ok_or_else(|| no_gate(id))
}

pub(super) async fn gate(Of(world): Of, Named(id): Named<GateId>) -> Result<Json<GateStatus>, Refused> {
    world.lock().gates.get(id).map(Json).ok_or_else(|| no_gate(id))
}

/// Takes a gate away and shows how it stood; all who wait there go on.
pub(super) async fn take_away(Of(world): Of, Named(id): Named<GateId>) -> Result<Json<GateStatus>, Refused> {
    world.lock().gates.remove(id).map(Json).ok_or_else(|| no_gate(id))
}

/// Who is to go on: one request by its journal id, or, where none is named, all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    #[serde(default)]
    request: Option<u64>,
}

pub(super) async fn release(
    Of(world): Of,
    Named(id): Named<GateId>,
    Body(Release { request }): Body<Release>,
) -> Result<Json<Value>, Refused> {
    let world = world.lock();
    let released = match request {
        None => world.gates.release_all(id).ok_or_else(|| no_gate(id))?,
        Some(request) => {
            world.gates.get(id).ok_or_else(|| no_gate(id))?;
            if !world.gates.release(id, request) {
                let GateId(gate) = id;
                return Err(Refused::conflict(format!("request {request} does not wait at gate {gate}")));
            }
            vec![request]
        }
    };
    Ok(Json(json!({ "released": released })))
}

impl From<RuleError> for Refused {
    fn from(error: RuleError) -> Self {
        match error {
            RuleError::TooMany => Refused::conflict(error),
            wrong => Refused::bad_request(wrong),
        }
    }
}

fn no_rule(RuleId(id): RuleId) -> Refused {
    Refused::not_found(format!("there is no fault {id}"))
}

fn no_gate(GateId(id): GateId) -> Refused {
    Refused::not_found(format!("there is no gate {id}"))
}
