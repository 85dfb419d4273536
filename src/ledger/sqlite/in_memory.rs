//! The ledger without threads, on a disk in memory: for simulations, where one seed must always
//! give the same run.
//!
//! The same SQL, transactions, chain and queries run on the caller's own thread, one transaction
//! per call. A [`SimulatedDisk`] outlives the ledger on it, as a real disk outlives a process:
//! dropping the ledger is the crash, opening it again is the restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::failure::{LedgerState, StepError, closed};
use super::open::{self, OpenError};
use super::writer::{Job, LedgerWriter};
use crate::ledger::LedgerError;
use crate::ledger::hash_chain::ChainHead;

/// The file of a ledger in memory, which outlives the ledger. All clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<Option<Connection>>>);

/// The writer, called on the caller's thread, and the disk that its connection returns to on drop.
pub(super) struct InlineWriter {
    writer: Mutex<Option<LedgerWriter>>,
    disk: SimulatedDisk,
}

impl SimulatedDisk {
    /// An empty disk. `syncs` is called at each commit: on false the sync fails, and nothing of the
    /// transaction is on the disk.
    ///
    /// # Errors
    /// [`OpenError::Database`]
    pub fn new(syncs: impl FnMut() -> bool + Send + 'static) -> Result<SimulatedDisk, OpenError> {
        SimulatedDisk::of(open::in_memory(), syncs)
    }

    /// Empties the disk, with a fraction of the work of a new one.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while a ledger on it lives, [`OpenError::Database`]
    pub fn wiped(self, syncs: impl FnMut() -> bool + Send + 'static) -> Result<SimulatedDisk, OpenError> {
        let mut connection = self.take()?;
        SimulatedDisk::of(open::wipe(&mut connection).map(|()| connection), syncs)
    }

    fn of(
        connection: rusqlite::Result<Connection>,
        mut syncs: impl FnMut() -> bool + Send + 'static,
    ) -> Result<SimulatedDisk, OpenError> {
        let hooked = connection.and_then(|mut connection| {
            connection.commit_hook(Some(move || !syncs()))?;
            Ok(connection)
        });
        let connection = hooked.map_err(|error| database_error(error.to_string()))?;
        Ok(Self(Arc::new(Mutex::new(Some(connection)))))
    }

    /// Takes the connection until its [`InlineWriter`] is closed.
    pub(super) fn take(&self) -> Result<Connection, OpenError> {
        self.lock().take().ok_or_else(|| OpenError::InUse { path: NAME.into() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the path in errors.
const NAME: &str = "(memory)";

impl InlineWriter {
    pub(super) fn new(connection: Connection, state: &Arc<LedgerState>, head: ChainHead, disk: SimulatedDisk) -> Self {
        Self { writer: Mutex::new(Some(LedgerWriter::new(connection, state.clone(), head, 1))), disk }
    }

    pub(super) fn serve(&self, job: Job) -> Result<(), LedgerError> {
        self.lock().as_mut().ok_or_else(closed)?.serve(vec![job]);
        Ok(())
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StepError>) -> Result<T, StepError> {
        let writer = self.lock();
        work(writer.as_ref().ok_or_else(closed)?.connection())
    }

    /// Returns the connection to its disk, for the next ledger.
    pub(super) fn close(&self) {
        if let Some(writer) = self.lock().take() {
            *self.disk.lock() = Some(writer.into_connection());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<LedgerWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InlineWriter {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for InlineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InlineWriter").field("disk", &self.disk).finish_non_exhaustive()
    }
}

pub(super) fn database_error(problem: String) -> OpenError {
    OpenError::Database { path: NAME.into(), problem }
}
