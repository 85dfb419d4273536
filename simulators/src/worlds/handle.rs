//! A world in the hands of a Rust test.

use std::time::Duration;

use super::{Credentials, NewWorld, NotRestored, SharedWorld, Snapshot, World, WorldCard, WorldError, Worlds};
use crate::{
    faults::{Rule, RuleError, RuleId},
    http::listener::PortAddresses,
    record::audit::{Audit, Claim},
    record::books::BookEntry,
    record::journal::JournalEntry,
};

/// One world, from Rust. It is there until it is deleted, whoever holds this.
#[derive(Debug, Clone)]
pub struct WorldHandle {
    pub(crate) worlds: Worlds,
    pub(crate) world: SharedWorld,
}

impl WorldHandle {
    /// Its id, as the control port names it.
    pub fn id(&self) -> &str {
        self.world.id()
    }

    /// What the control port tells of it.
    pub fn card(&self) -> WorldCard {
        self.worlds.card(&self.world)
    }

    /// What a client logs in with.
    pub fn credentials(&self) -> Credentials {
        Credentials::of(&self.world.lock())
    }

    /// Where the providers listen for it.
    pub fn ports(&self) -> PortAddresses {
        self.card().ports
    }

    /// What really happened so far, oldest first.
    pub fn books(&self) -> Vec<BookEntry> {
        self.with_world(|world| world.books.entries().collect())
    }

    /// What came over the wire so far, oldest first.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.with_world(|world| world.journal.entries().collect())
    }

    /// What is wrong, if anything, by the books alone, or also by what a caller says of its
    /// refunds.
    pub fn audit(&self, claims: Option<&[Claim]>) -> Audit {
        self.with_world(|world| Audit::of(world, claims))
    }

    /// Arms a fault.
    ///
    /// # Errors
    /// What is wrong with the rule.
    pub fn arm(&self, rule: Rule) -> Result<RuleId, RuleError> {
        self.with_world(|world| world.arm(rule))
    }

    /// Moves the clock forward; false, and nothing moved, where that would lead beyond
    /// [`crate::clock::MAX_AHEAD`].
    pub fn advance(&self, by: Duration) -> bool {
        self.with_world(|world| world.advance(by).is_ok())
    }

    /// Looks into the world, or changes it. Its requests wait meanwhile: be quick.
    pub fn with_world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        self.worlds.with(&self.world, look)
    }

    /// The whole world, to be taken up again.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&mut self.world.lock())
    }

    /// Puts a snapshot in the place of what is in the world. The world keeps its credentials; the
    /// demo world takes the snapshot's.
    ///
    /// # Errors
    /// The snapshot is of another version, or would give the demo world a username of another
    /// world.
    pub fn restore(&self, snapshot: Snapshot) -> Result<(), WorldError> {
        self.worlds.restore(&self.world, snapshot)
    }

    /// Makes a world that is as this one is now, under credentials of its own, and with ports of
    /// its own where this one has them.
    ///
    /// # Errors
    /// There are too many worlds, the name is too long, or a rule is about connections and the copy
    /// would have no ports.
    pub fn fork(&self, name: Option<String>) -> Result<WorldHandle, WorldError> {
        let world = self.worlds.fork(&self.world, name, None)?;
        Ok(Self { worlds: self.worlds.clone(), world })
    }

    /// Throws the world away.
    ///
    /// # Errors
    /// It is the demo world, or gone already.
    pub fn delete(self) -> Result<(), WorldError> {
        self.worlds.delete(self.world.id())
    }
}

impl Worlds {
    /// A new world, in the hand.
    pub(crate) fn create_handle(&self, new: NewWorld) -> Result<WorldHandle, WorldError> {
        Ok(self.handle(self.create(new)?))
    }

    /// A world, in the hand.
    pub(crate) fn handle(&self, world: SharedWorld) -> WorldHandle {
        WorldHandle { worlds: self.clone(), world }
    }
}

impl World {
    /// A world of a snapshot, as the demo world of a start.
    ///
    /// # Errors
    /// It is of another version.
    pub fn from_snapshot(snapshot: Snapshot) -> Result<World, NotRestored> {
        snapshot.into_world()
    }
}
