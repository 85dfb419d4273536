//! Snapshots: a world as JSON, to be taken up again here or elsewhere, now or later.
//!
//! What is in it: data, credentials, settings, books, journal, faults, requests that will be done later, and what the clock shows. What is not:
//! gates and whoever waits there, and the past from which lookups are answered.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    World,
    world::{Due, Seed, Settings},
};
use crate::{books::Books, clock::Clock, debitsuccess, faults::Faults, journal::Journal, namecom, sectigo};

/// The form of this version.
const VERSION: u32 = 1;

/// A whole world in JSON. It holds credentials and requests, passwords and tokens in them too: its `Debug` shows none of that.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The form: 1.
    version: u32,
    /// When it was taken, in the system's time.
    #[serde(default, with = "time::serde::rfc3339::option")]
    taken: Option<OffsetDateTime>,
    seed: Seed,
    clock: Clock,
    settings: Settings,
    first_settings: Settings,
    sectigo: sectigo::State,
    namecom: namecom::State,
    debitsuccess: debitsuccess::State,
    books: Books,
    journal: Journal,
    faults: Faults,
    due: Vec<Due>,
}

/// Why a snapshot cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// Of another version.
    #[error("the snapshot is of version {0}, and this is version {VERSION}")]
    Version(u32),
}

impl Snapshot {
    /// A world as it is, with everything done that is due.
    pub fn of(world: &mut World) -> Self {
        world.now();
        let World { clock, settings, sectigo, namecom, debitsuccess, books, journal, faults, .. } = world.clone();
        Self {
            version: VERSION,
            taken: Some(crate::clock::system_now()),
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
            due: world.due.clone(),
        }
    }

    /// The world of it, under the credentials that it was taken with. A reset of it leads back to here.
    ///
    /// # Errors
    /// It is of another version.
    pub fn into_world(self) -> Result<World, NotRestored> {
        if self.version != VERSION {
            return Err(NotRestored::Version(self.version));
        }
        let origin = Arc::new(self.clone());
        let Self { seed, clock, settings, first_settings, sectigo, namecom, debitsuccess, books, journal, .. } = self;
        let mut world = World::new(Seed::Empty, first_settings);
        world.seed = seed;
        world.clock = clock;
        world.settings = settings;
        world.sectigo = sectigo;
        world.namecom = namecom;
        world.debitsuccess = debitsuccess;
        world.books = books;
        world.journal = journal;
        world.faults = self.faults;
        world.origin = Some(origin);
        world.due = self.due;
        world.due.sort_by_key(|due| due.at);
        Ok(world)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version).field("taken", &self.taken).finish_non_exhaustive()
    }
}
