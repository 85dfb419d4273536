//! Fault rules, the random mode and gates.

use axum::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::{ApiError, Created, EmptyBody, JsonBody, JsonOf, PathParam, QueryParams, WorldParam};
use crate::{
    faults::gates::{Gate, GateError, GateId, GateStatus},
    faults::{ArmedRule, Random, Rule, RuleError, RuleId},
};

/// Fault rules in the order in which they were armed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ArmedFaults")]
pub(super) struct RuleList {
    entries: Vec<ArmedRule>,
}

pub(super) async fn list(WorldParam(world): WorldParam) -> Json<RuleList> {
    Json(RuleList { entries: world.lock().faults.list().to_vec() })
}

pub(super) async fn arm(
    WorldParam(world): WorldParam,
    JsonBody(rule): JsonBody<Rule>,
) -> Result<Created<ArmedRule>, ApiError> {
    let mut world = world.lock();
    let id = world.arm(rule)?;
    world.faults.get(id).cloned().map(Created).ok_or_else(|| no_rule(id))
}

pub(super) async fn show(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<RuleId>,
) -> Result<Json<ArmedRule>, ApiError> {
    world.lock().faults.get(id).cloned().map(Json).ok_or_else(|| no_rule(id))
}

/// Deletes a rule and returns its last state, so that a test sees in one call whether it fired.
pub(super) async fn disarm(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<RuleId>,
) -> Result<Json<ArmedRule>, ApiError> {
    world.lock().faults.disarm(id).map(Json).ok_or_else(|| no_rule(id))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UnfiredQuery {
    /// Whether it is an error that any of them never fired.
    #[serde(default)]
    strict: bool,
}

/// The rules that never fired; an error where the query or one of the rules is strict.
pub(super) async fn unfired(
    WorldParam(world): WorldParam,
    QueryParams(UnfiredQuery { strict }): QueryParams<UnfiredQuery>,
) -> Result<Json<RuleList>, ApiError> {
    let entries: Vec<ArmedRule> = world.lock().faults.unfired().cloned().collect();
    let strict_ids: Vec<String> =
        entries.iter().filter(|armed| strict || armed.rule.strict).map(|armed| armed.id.0.to_string()).collect();
    match strict_ids.as_slice() {
        [] => Ok(Json(RuleList { entries })),
        [one] => Err(ApiError::conflict(format!("fault {one} never fired"))),
        several => Err(ApiError::conflict(format!("faults {} never fired", several.join(", ")))),
    }
}

pub(super) async fn random(WorldParam(world): WorldParam) -> Result<Json<Random>, ApiError> {
    let off = || ApiError::not_found("the random mode is off");
    world.lock().faults.random().cloned().map(Json).ok_or_else(off)
}

/// Without a seed in the body it draws from the world's number, which comes from the seed of the
/// start.
pub(super) async fn set_random(
    WorldParam(world): WorldParam,
    JsonBody(mut body): JsonBody<JsonOf<Random>>,
) -> Result<Json<Random>, ApiError> {
    let mut world = world.lock();
    let number = world.number();
    if let Some(fields) = body.value.as_object_mut() {
        fields.entry("seed").or_insert(number.into());
    }
    let random: Random = serde_json::from_value(body.value).map_err(|error| ApiError::invalid_body(&error))?;
    world.faults.set_random(Some(random.clone()))?;
    Ok(Json(random))
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct RandomEnded {
    #[schemars(extend("const" = false))]
    random: bool,
}

pub(super) async fn end_random(
    WorldParam(world): WorldParam,
    EmptyBody: EmptyBody,
) -> Result<Json<RandomEnded>, ApiError> {
    world.lock().faults.set_random(None)?;
    Ok(Json(RandomEnded { random: false }))
}

/// All gates.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Gates")]
pub(super) struct GateStatuses {
    entries: Vec<GateStatus>,
}

pub(super) async fn list_gates(WorldParam(world): WorldParam) -> Json<GateStatuses> {
    Json(GateStatuses { entries: world.lock().gates.list() })
}

pub(super) async fn add_gate(
    WorldParam(world): WorldParam,
    JsonBody(gate): JsonBody<Gate>,
) -> Result<Created<GateStatus>, ApiError> {
    let world = world.lock();
    let id = world.gates.add(gate).map_err(|error| match error {
        GateError::TooMany => ApiError::conflict(error),
        invalid => ApiError::bad_request(invalid),
    })?;
    world.gates.get(id).map(Created).ok_or_else(|| no_gate(id))
}

pub(super) async fn show_gate(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<GateId>,
) -> Result<Json<GateStatus>, ApiError> {
    world.lock().gates.get(id).map(Json).ok_or_else(|| no_gate(id))
}

/// Removes a gate and returns its last state; all requests that wait there continue.
pub(super) async fn remove_gate(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<GateId>,
) -> Result<Json<GateStatus>, ApiError> {
    world.lock().gates.remove(id).map(Json).ok_or_else(|| no_gate(id))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Release {
    /// The journal id of the request that continues; left out: all that wait there.
    #[serde(default)]
    #[schemars(range(min = 1))]
    request: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Released {
    /// Journal ids.
    released: Vec<u64>,
}

pub(super) async fn release(
    WorldParam(world): WorldParam,
    PathParam(id): PathParam<GateId>,
    JsonBody(Release { request }): JsonBody<Release>,
) -> Result<Json<Released>, ApiError> {
    let world = world.lock();
    let released = match request {
        None => world.gates.release_all(id).ok_or_else(|| no_gate(id))?,
        Some(request) => {
            world.gates.get(id).ok_or_else(|| no_gate(id))?;
            if !world.gates.release(id, request) {
                let GateId(gate) = id;
                return Err(ApiError::conflict(format!("request {request} does not wait at gate {gate}")));
            }
            vec![request]
        }
    };
    Ok(Json(Released { released }))
}

impl From<RuleError> for ApiError {
    fn from(error: RuleError) -> Self {
        match error {
            RuleError::TooMany => ApiError::conflict(error),
            invalid => ApiError::bad_request(invalid),
        }
    }
}

fn no_rule(RuleId(id): RuleId) -> ApiError {
    ApiError::not_found(format!("there is no fault {id}"))
}

fn no_gate(GateId(id): GateId) -> ApiError {
    ApiError::not_found(format!("there is no gate {id}"))
}
