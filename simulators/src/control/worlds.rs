//! The worlds themselves: make one, look at it, throw it away.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::{Body, Named, Of, Refused};
use super::process::changed;
use crate::faults::magic_targets::{self, Magic};
use crate::worlds::{NewWorld, Seed, Snapshot, WorldInfo, Worlds};

#[derive(Serialize)]
pub(super) struct Listed {
    entries: Vec<WorldInfo>,
}

pub(super) async fn list(State(worlds): State<Worlds>) -> Json<Listed> {
    Json(Listed { entries: worlds.list().iter().map(|world| worlds.info(world)).collect() })
}

/// A [`NewWorld`] whose settings need not be whole.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    name: Option<String>,
    seed: Option<Seed>,
    snapshot: Option<Snapshot>,
    settings: Option<Value>,
    own_ports: bool,
}

/// Makes a world. Single settings change those of the snapshot, or else those of the start.
pub(super) async fn create(
    State(worlds): State<Worlds>,
    Body(wanted): Body<Wanted>,
) -> Result<(StatusCode, Json<WorldInfo>), Refused> {
    let Wanted { name, seed, snapshot, settings, own_ports } = wanted;
    let usual = || snapshot.as_ref().map_or_else(|| worlds.start_settings(), |snapshot| snapshot.settings().clone());
    if settings.as_ref().is_some_and(|change| !change.is_object()) {
        return Err(Refused::bad_request("`settings` must be a JSON object"));
    }
    let settings = settings.map(|change| changed(&usual(), change)).transpose()?;
    let made = worlds.create(NewWorld { name, seed, snapshot, settings, own_ports })?;
    Ok((StatusCode::CREATED, Json(worlds.info(&made))))
}

pub(super) async fn show(State(worlds): State<Worlds>, Named(id): Named<String>) -> Result<Json<WorldInfo>, Refused> {
    Ok(Json(worlds.info(&worlds.get(&id)?)))
}

pub(super) async fn delete(State(worlds): State<Worlds>, Named(id): Named<String>) -> Result<Json<Value>, Refused> {
    worlds.delete(&id)?;
    Ok(Json(json!({ "deleted": id })))
}

pub(super) async fn snapshot(Of(world): Of) -> Json<Snapshot> {
    Json(Snapshot::of(&mut world.lock()))
}

pub(super) async fn restore(
    Of(world): Of,
    State(worlds): State<Worlds>,
    Body(snapshot): Body<Snapshot>,
) -> Result<Json<WorldInfo>, Refused> {
    worlds.restore(&world, snapshot)?;
    Ok(Json(worlds.info(&world)))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fork {
    name: Option<String>,
    own_ports: Option<bool>,
}

pub(super) async fn fork(
    Of(world): Of,
    State(worlds): State<Worlds>,
    Body(Fork { name, own_ports }): Body<Fork>,
) -> Result<(StatusCode, Json<WorldInfo>), Refused> {
    let made = worlds.fork(&world, name, own_ports)?;
    Ok((StatusCode::CREATED, Json(worlds.info(&made))))
}

#[derive(Serialize)]
pub(super) struct MagicValues {
    entries: Vec<Magic>,
}

pub(super) async fn magic() -> Json<MagicValues> {
    Json(MagicValues { entries: magic_targets::all() })
}
