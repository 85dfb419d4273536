//! The worlds themselves: create, read, copy and delete them.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::{ApiError, Created, JsonBody, JsonOf, PathParam, WorldParam};
use super::process::changed;
use crate::faults::magic_targets::{self, Magic};
use crate::worlds::{NewWorld, Seed, Settings, Snapshot, WorldInfo, Worlds};

/// All worlds.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Worlds")]
pub(super) struct WorldList {
    entries: Vec<WorldInfo>,
}

pub(super) async fn list(State(worlds): State<Worlds>) -> Json<WorldList> {
    Json(WorldList { entries: worlds.list().iter().map(|world| worlds.info(world)).collect() })
}

/// What a new world is made from: a [`NewWorld`] whose settings can be partial.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "NewWorld")]
pub(super) struct WorldRequest {
    /// A name for people.
    #[schemars(length(max = 100))]
    name: Option<String>,
    /// The content at the start. Default `demo`.
    seed: Option<Seed>,
    /// The world is created from this snapshot instead of a seed. Its credentials are new.
    snapshot: Option<Snapshot>,
    /// Settings that are left out are those of the snapshot, or else those of the demo world at the
    /// start.
    settings: Option<JsonOf<Settings>>,
    /// Whether the world gets its own ports: every connection to them belongs to it, so that its
    /// rules can act on connections. At most 100 worlds have their own ports.
    own_ports: bool,
}

/// Creates a world. Settings in the body change those of the snapshot, or else those of the start.
pub(super) async fn create(
    State(worlds): State<Worlds>,
    JsonBody(request): JsonBody<WorldRequest>,
) -> Result<Created<WorldInfo>, ApiError> {
    let WorldRequest { name, seed, snapshot, settings, own_ports } = request;
    let default = || snapshot.as_ref().map_or_else(|| worlds.start_settings(), |snapshot| snapshot.settings().clone());
    let change = settings.map(|settings| settings.value);
    if change.as_ref().is_some_and(|change| !change.is_object()) {
        return Err(ApiError::bad_request("`settings` must be a JSON object"));
    }
    let settings = change.map(|change| changed(&default(), change)).transpose()?;
    let created = worlds.create(NewWorld { name, seed, snapshot, settings, own_ports })?;
    Ok(Created(worlds.info(&created)))
}

pub(super) async fn show(
    State(worlds): State<Worlds>,
    PathParam(id): PathParam<String>,
) -> Result<Json<WorldInfo>, ApiError> {
    Ok(Json(worlds.info(&worlds.get(&id)?)))
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Deleted {
    /// The id of the world.
    deleted: String,
}

pub(super) async fn delete(
    State(worlds): State<Worlds>,
    PathParam(id): PathParam<String>,
) -> Result<Json<Deleted>, ApiError> {
    worlds.delete(&id)?;
    Ok(Json(Deleted { deleted: id }))
}

pub(super) async fn snapshot(WorldParam(world): WorldParam) -> Json<Snapshot> {
    Json(Snapshot::of(&mut world.lock()))
}

pub(super) async fn restore(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    JsonBody(snapshot): JsonBody<Snapshot>,
) -> Result<Json<WorldInfo>, ApiError> {
    worlds.restore(&world, snapshot)?;
    Ok(Json(worlds.info(&world)))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Fork {
    /// A name for people.
    #[schemars(length(max = 100))]
    name: Option<String>,
    /// Whether the new world gets its own ports; left out: as the old one.
    own_ports: Option<bool>,
}

pub(super) async fn fork(
    WorldParam(world): WorldParam,
    State(worlds): State<Worlds>,
    JsonBody(Fork { name, own_ports }): JsonBody<Fork>,
) -> Result<Created<WorldInfo>, ApiError> {
    let created = worlds.fork(&world, name, own_ports)?;
    Ok(Created(worlds.info(&created)))
}

/// All magic values.
#[derive(Serialize, JsonSchema)]
pub(super) struct MagicValues {
    entries: Vec<Magic>,
}

pub(super) async fn magic() -> Json<MagicValues> {
    Json(MagicValues { entries: magic_targets::all() })
}
