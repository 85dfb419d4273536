//! The ledger without threads, on a disk in memory: for simulations, where one seed must give one
//! course of events.
//!
//! The same SQL, steps, chain and reads run on the caller's own thread, one transaction a call. A
//! [`SimulatedDisk`] outlives the ledger on it, as a real one outlives a process: dropping the
//! ledger is the crash, opening it again is the restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::chain::ChainHead;
use super::failure::{LedgerState, StepError};
use super::writer::{Job, Writer};
use super::{OpenError, Readers, SqliteLedger, closed, open, recover};
use crate::ledger::LedgerError;

/// What outlives a ledger: its file. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<Option<Connection>>>);

/// The writer, on whose thread soever, and the disk that its connection goes back to.
pub(super) struct InlineWriter {
    writer: Mutex<Option<Writer>>,
    disk: SimulatedDisk,
}

impl SimulatedDisk {
    /// An empty one. `comes_through` is asked at each commit: on false its sync fails, and nothing
    /// of the transaction is on the disk.
    ///
    /// # Errors
    /// [`OpenError::Database`]
    pub fn new(comes_through: impl FnMut() -> bool + Send + 'static) -> Result<SimulatedDisk, OpenError> {
        SimulatedDisk::of(open::in_memory(), comes_through)
    }

    /// An empty one again, whatever was on it: a fraction of the work of a new one, for who needs
    /// very many.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while a ledger on it lives, [`OpenError::Database`]
    pub fn wiped(self, comes_through: impl FnMut() -> bool + Send + 'static) -> Result<SimulatedDisk, OpenError> {
        let mut connection = self.lock().take().ok_or_else(|| OpenError::InUse { path: NAME.into() })?;
        SimulatedDisk::of(open::wipe(&mut connection).map(|()| connection), comes_through)
    }

    fn of(
        connection: rusqlite::Result<Connection>,
        mut comes_through: impl FnMut() -> bool + Send + 'static,
    ) -> Result<SimulatedDisk, OpenError> {
        let hooked = connection.and_then(|mut connection| {
            connection.commit_hook(Some(move || !comes_through()))?;
            Ok(connection)
        });
        let connection = hooked.map_err(|error| refused(error.to_string()))?;
        Ok(Self(Arc::new(Mutex::new(Some(connection)))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SqliteLedger {
    /// The ledger on `disk`, without a thread: every call is done when it is first polled.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another ledger on it lives, [`OpenError::Database`]
    pub fn open_inline(disk: &SimulatedDisk) -> Result<SqliteLedger, OpenError> {
        let connection = disk.lock().take().ok_or_else(|| OpenError::InUse { path: NAME.into() })?;
        let (shared, tail) = recover(&connection).map_err(refused)?;
        let inline = InlineWriter::new(connection, &shared, tail, disk.clone());
        let none = || Arc::new(Readers::new(Vec::new()));
        Ok(Self { shared, readers: none(), hasty: none(), writing: Mutex::default(), inline: Some(inline) })
    }
}

/// In place of a path.
const NAME: &str = "(memory)";

impl InlineWriter {
    fn new(connection: Connection, shared: &Arc<LedgerState>, tail: ChainHead, disk: SimulatedDisk) -> Self {
        Self { writer: Mutex::new(Some(Writer::new(connection, shared.clone(), tail, 1))), disk }
    }

    pub(super) fn serve(&self, job: Job) -> Result<(), LedgerError> {
        self.lock().as_mut().ok_or_else(closed)?.serve(vec![job]);
        Ok(())
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StepError>) -> Result<T, StepError> {
        let writer = self.lock();
        work(writer.as_ref().ok_or_else(closed)?.connection())
    }

    /// The connection goes back to its disk, for the next ledger.
    pub(super) fn close(&self) {
        if let Some(writer) = self.lock().take() {
            *self.disk.lock() = Some(writer.into_connection());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
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

fn refused(problem: String) -> OpenError {
    OpenError::Database { path: NAME.into(), problem }
}
