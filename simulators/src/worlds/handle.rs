//! A world for Rust tests.

use std::time::Duration;

use super::{NewWorld, RestoreError, Snapshot, World, WorldError, WorldInfo, WorldRef, Worlds};
use crate::{
    config::PortAddresses,
    faults::{Rule, RuleError, RuleId},
    providers::Credentials,
    record::audit::{Audit, Claim},
    record::books::BookEntry,
    record::journal::JournalEntry,
};

/// A handle of one world. The world exists until it is deleted, whether or not there are handles.
#[derive(Debug, Clone)]
pub struct WorldHandle {
    pub(crate) worlds: Worlds,
    pub(crate) world: WorldRef,
}

impl WorldHandle {
    /// Its id, as in the control API.
    pub fn id(&self) -> &str {
        self.world.id()
    }

    /// Its description, as in the control API.
    pub fn info(&self) -> WorldInfo {
        self.worlds.info(&self.world)
    }

    /// What a client logs in with.
    pub fn credentials(&self) -> Credentials {
        self.world.lock().credentials()
    }

    /// The addresses at which the providers listen for it.
    pub fn ports(&self) -> PortAddresses {
        self.info().ports
    }

    /// What really happened so far, oldest first.
    pub fn books(&self) -> Vec<BookEntry> {
        self.with_world(|world| world.books.entries().collect())
    }

    /// The requests so far, oldest first.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.with_world(|world| world.journal.entries().collect())
    }

    /// Audits the world and, if there are claims, the caller's view.
    pub fn audit(&self, claims: Option<&[Claim]>) -> Audit {
        self.with_world(|world| world.audit(claims))
    }

    /// Arms a fault rule.
    ///
    /// # Errors
    /// What is wrong with the rule.
    pub fn arm(&self, rule: Rule) -> Result<RuleId, RuleError> {
        self.with_world(|world| world.arm(rule))
    }

    /// Moves the clock forward. False, without an effect, if it would be more than
    /// [`crate::clock::MAX_AHEAD`] ahead.
    pub fn advance(&self, by: Duration) -> bool {
        self.with_world(|world| world.advance(by).is_ok())
    }

    /// Reads or changes the world. Its requests wait meanwhile.
    pub fn with_world<T>(&self, use_world: impl FnOnce(&mut World) -> T) -> T {
        self.worlds.with(&self.world, use_world)
    }

    /// A snapshot of the whole world.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&mut self.world.lock())
    }

    /// Replaces the contents of the world with a snapshot. The world keeps its credentials; the
    /// demo world takes those of the snapshot.
    ///
    /// # Errors
    /// The snapshot is of another version, or would give the demo world a username of another
    /// world.
    pub fn restore(&self, snapshot: Snapshot) -> Result<(), WorldError> {
        self.worlds.restore(&self.world, snapshot)
    }

    /// Creates a copy of the world with credentials of its own, and with ports of its own if this
    /// one has them.
    ///
    /// # Errors
    /// There are too many worlds, the name is too long, or a rule is about connections and the copy
    /// would have no ports.
    pub fn fork(&self, name: Option<String>) -> Result<WorldHandle, WorldError> {
        let world = self.worlds.fork(&self.world, name, None)?;
        Ok(Self { worlds: self.worlds.clone(), world })
    }

    /// Deletes the world.
    ///
    /// # Errors
    /// It is the demo world, or already deleted.
    pub fn delete(self) -> Result<(), WorldError> {
        self.worlds.delete(self.world.id())
    }
}

impl Worlds {
    /// Creates a world and returns a handle.
    pub(crate) fn create_handle(&self, new: NewWorld) -> Result<WorldHandle, WorldError> {
        Ok(self.handle(self.create(new)?))
    }

    /// A handle of a world.
    pub(crate) fn handle(&self, world: WorldRef) -> WorldHandle {
        WorldHandle { worlds: self.clone(), world }
    }
}

impl World {
    /// The world in a snapshot.
    ///
    /// # Errors
    /// It is of another version.
    pub fn from_snapshot(snapshot: Snapshot) -> Result<World, RestoreError> {
        snapshot.into_world()
    }
}
