//! Snapshots: a world as JSON, from which a world can be restored.
//!
//! A snapshot contains data, credentials, settings, books, journal, faults, gates, the states of
//! stale reads, deferred requests, and the time. It does not contain requests in progress or
//! waiting at a gate, because they belong to connections; `omitted` counts them. Rules and gates of
//! a snapshot are checked like new ones.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::world::{Due, Seed, World};
use crate::{
    clock::Clock,
    faults::gates::{GateError, Gates},
    faults::stale_state::StaleReads,
    faults::{Faults, RuleError},
    providers::{ProviderStates, Settings},
    record::books::Books,
    record::journal::{Ending, Journal},
};

/// The version of the format.
const VERSION: u32 = 1;

/// A whole world in JSON. It contains credentials and requests with their secrets: its `Debug`
/// shows none of them.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(description = "A whole world in JSON. It contains credentials.")]
pub struct Snapshot(SnapshotV1);

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct SnapshotV1 {
    /// The format: 1.
    #[schemars(extend("const" = 1))]
    version: u32,
    /// When it was taken, in the system's time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    taken: Option<OffsetDateTime>,
    /// For information only.
    #[serde(default)]
    omitted: Omitted,
    seed: Seed,
    clock: Clock,
    settings: Settings,
    first_settings: Settings,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    providers: ProviderStates,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    books: Books,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    journal: Journal,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    faults: Faults,
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    gates: Gates,
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    stale_reads: StaleReads,
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    due: Vec<Due>,
}

/// What a snapshot does not contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(default, deny_unknown_fields)]
struct Omitted {
    /// The number of requests that waited at a gate.
    waiting_requests: usize,
    /// The number of requests that were not answered yet, including the waiting ones. In the copy
    /// they stay `open` in the journal.
    open_requests: usize,
}

/// Why a snapshot cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot is of another version.
    #[error("the snapshot is of version {0}, and this is version {VERSION}")]
    Version(u64),
    /// It is no snapshot.
    #[error("it is no snapshot: {0}")]
    Unreadable(String),
    /// A rule that could not be armed.
    #[error("the snapshot's fault {id} could not be armed: {error}")]
    Rule {
        /// Its number; 0 for the random mode.
        id: u64,
        /// What is wrong with it.
        error: RuleError,
    },
    /// A gate that could not be added.
    #[error("the snapshot's gate {id} could not be added: {error}")]
    Gate {
        /// Its number.
        id: u64,
        /// What is wrong with it.
        error: GateError,
    },
}

/// The part of a snapshot that is read first.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Snapshot {
    /// A snapshot of a world. First does everything that is due.
    pub fn of(world: &mut World) -> Self {
        world.now();
        let omitted = Omitted {
            waiting_requests: world.gates.waiting(),
            open_requests: world.journal.entries().filter(|entry| entry.ending == Ending::Open).count(),
        };
        let World { clock, settings, providers, books, journal, faults, gates, stale_reads, .. } = world.clone();
        Self(SnapshotV1 {
            version: VERSION,
            taken: Some(crate::clock::system_now()),
            omitted,
            seed: world.seed,
            clock,
            settings,
            first_settings: world.first_settings.clone(),
            providers,
            books,
            journal,
            faults,
            gates,
            stale_reads,
            due: world.due.clone(),
        })
    }

    /// The settings in it.
    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Parses a snapshot, its version first.
    ///
    /// # Errors
    /// It is of another version, or no snapshot.
    pub fn from_json(json: &[u8]) -> Result<Snapshot, RestoreError> {
        let unreadable = |error: serde_json::Error| RestoreError::Unreadable(error.to_string());
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version != u64::from(VERSION) {
            return Err(RestoreError::Version(version));
        }
        serde_json::from_slice(json).map(Snapshot).map_err(unreadable)
    }

    /// The world in it, with its credentials. [`World::reset_to_start`] returns to this state.
    ///
    /// # Errors
    /// It has a rule or a gate that could not be armed or added.
    pub fn into_world(self) -> Result<World, RestoreError> {
        let SnapshotV1 { seed, clock, settings, first_settings, providers, .. } = self.0;
        let SnapshotV1 { books, journal, faults, gates, stale_reads, mut due, .. } = self.0;
        faults.check().map_err(|(id, error)| RestoreError::Rule { id: id.0, error })?;
        gates.check().map_err(|(id, error)| RestoreError::Gate { id: id.0, error })?;
        due.sort_by_key(|due| due.at);
        let mut world = World::new(Seed::Empty, first_settings);
        world.seed = seed;
        world.clock = clock;
        world.settings = settings;
        world.providers = providers;
        world.books = books;
        world.journal = journal;
        world.faults = faults;
        world.gates = gates;
        world.stale_reads = stale_reads;
        world.due = due;
        world.origin = Some(Arc::new(world.clone()));
        Ok(world)
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        Snapshot::from_json(json.get().as_bytes()).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotV1 { version, taken, .. } = &self.0;
        f.debug_struct("Snapshot").field("version", version).field("taken", taken).finish_non_exhaustive()
    }
}
