//! Snapshots: a world as JSON, to be taken up again here or elsewhere, now or later.
//!
//! What is in it: data, credentials, settings, books, journal, faults, gates, what lookups are
//! shown of the past, requests that will be done later, and what the clock shows. What is not:
//! requests that are under way or parked at a gate, for they belong to connections; `left_out`
//! counts them. What comes in is checked as strictly as what is armed and put up.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{
    World,
    world::{Due, Seed, Settings},
};
use crate::{
    clock::Clock,
    faults::gates::{GateError, Gates},
    faults::stale_state::Past,
    faults::{Faults, RuleError},
    providers::debitsuccess,
    providers::namecom,
    providers::sectigo,
    record::books::Books,
    record::journal::{Ending, Journal},
};

/// The form of this version.
const VERSION: u32 = 1;

/// A whole world in JSON. It holds credentials and requests, passwords and tokens in them too: its
/// `Debug` shows none of that.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(description = "A whole world in JSON. It contains credentials.")]
pub struct Snapshot(Written);

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The form: 1.
    #[schemars(extend("const" = 1))]
    version: u32,
    /// When it was taken, in the system's time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    taken: Option<OffsetDateTime>,
    /// For whoever reads it; taken up again it means nothing.
    #[serde(default)]
    left_out: LeftOut,
    seed: Seed,
    clock: Clock,
    settings: Settings,
    first_settings: Settings,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    sectigo: sectigo::State,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    namecom: namecom::State,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    debitsuccess: debitsuccess::State,
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
    past: Past,
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    due: Vec<Due>,
}

/// What a snapshot does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(default, deny_unknown_fields)]
struct LeftOut {
    /// Requests that waited at a gate. In the copy nobody waits there.
    parked_requests: usize,
    /// Requests that were not answered yet, parked ones too. In the copy they stay `open` in the
    /// journal.
    open_requests: usize,
}

/// Why a snapshot cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// Of another version.
    #[error("the snapshot is of version {0}, and this is version {VERSION}")]
    Version(u64),
    /// Not one at all.
    #[error("it is no snapshot: {0}")]
    Unreadable(String),
    /// A rule that could not be armed.
    #[error("the snapshot's fault {id} could not be armed: {error}")]
    Rule {
        /// Its number; 0 is the random mode.
        id: u64,
        /// What is wrong with it.
        error: RuleError,
    },
    /// A gate that could not be put up.
    #[error("the snapshot's gate {id} could not be put up: {error}")]
    Gate {
        /// Its number.
        id: u64,
        /// What is wrong with it.
        error: GateError,
    },
}

/// All that is read of a snapshot before its version is known.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Snapshot {
    /// A world as it is, with everything done that is due.
    pub fn of(world: &mut World) -> Self {
        world.now();
        let left_out = LeftOut {
            parked_requests: world.gates.parked(),
            open_requests: world.journal.entries().filter(|entry| entry.ending == Ending::Open).count(),
        };
        let World { clock, settings, sectigo, namecom, debitsuccess, books, journal, faults, gates, past, .. } =
            world.clone();
        Self(Written {
            version: VERSION,
            taken: Some(crate::clock::system_now()),
            left_out,
            seed: world.seed,
            clock,
            settings,
            first_settings: world.first_settings.clone(),
            sectigo,
            namecom,
            debitsuccess,
            books,
            journal,
            faults,
            gates,
            past,
            due: world.due.clone(),
        })
    }

    /// The settings in it.
    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Reads one, its version first: of another version nothing else can be told.
    ///
    /// # Errors
    /// It is of another version, or none.
    pub fn from_json(json: &[u8]) -> Result<Snapshot, NotRestored> {
        let unreadable = |error: serde_json::Error| NotRestored::Unreadable(error.to_string());
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version != u64::from(VERSION) {
            return Err(NotRestored::Version(version));
        }
        serde_json::from_slice(json).map(Snapshot).map_err(unreadable)
    }

    /// The world of it, under the credentials that it was taken with. A reset of it leads back to
    /// here.
    ///
    /// # Errors
    /// It has a rule or a gate that could not be armed or put up.
    pub fn into_world(self) -> Result<World, NotRestored> {
        let origin = Arc::new(self.clone());
        let Written { seed, clock, settings, first_settings, sectigo, namecom, debitsuccess, .. } = self.0;
        let Written { books, journal, faults, gates, past, mut due, .. } = self.0;
        faults.check().map_err(|(id, error)| NotRestored::Rule { id: id.0, error })?;
        gates.check().map_err(|(id, error)| NotRestored::Gate { id: id.0, error })?;
        due.sort_by_key(|due| due.at);
        let mut world = World::new(Seed::Empty, first_settings);
        world.seed = seed;
        world.clock = clock;
        world.settings = settings;
        world.sectigo = sectigo;
        world.namecom = namecom;
        world.debitsuccess = debitsuccess;
        world.books = books;
        world.journal = journal;
        world.faults = faults;
        world.gates = gates;
        world.past = past;
        world.origin = Some(origin);
        world.due = due;
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
        let Written { version, taken, .. } = &self.0;
        f.debug_struct("Snapshot").field("version", version).field("taken", taken).finish_non_exhaustive()
    }
}
