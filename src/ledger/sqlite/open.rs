//! Opens the file of a ledger for writing: the lock, the file, its checks, its migrations.
//!
//! Nothing in a file is changed before it is known to be a ledger or empty.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tracing::info;

/// The settings of a ledger, each at least 1 where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteSettings {
    /// Writes that may wait; one more is [`crate::ledger::LedgerError::Overloaded`].
    pub queue_length: usize,
    /// Writes that share one transaction and one sync.
    pub batch_size: usize,
    /// Simultaneous reads on blocking threads, and as many again on the callers' threads.
    pub readers: usize,
    /// How long to wait while another program has the file locked, such as a backup. At most a
    /// minute; may be 0.
    pub busy_timeout: Duration,
    /// The largest size of the file, in pages of 4 KiB. At that size a write fails as on a full
    /// disk. None: no limit.
    pub max_pages: Option<u32>,
}

/// Why a ledger cannot be opened. One sentence each; `path` is the ledger's.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is missing. The operator creates it, with the right owner, on the right disk.
    #[error("the directory of the ledger {} does not exist", path.display())]
    NoDirectory { path: PathBuf },
    #[error("there is no ledger {}", path.display())]
    Missing { path: PathBuf },
    #[error("the ledger {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    /// The file is something else.
    #[error("{} is not a ledger of recoup: {what}", path.display())]
    NotALedger { path: PathBuf, what: &'static str },
    /// A later program wrote it.
    #[error("the ledger {} has version {found}, and this program knows versions up to {known}", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// An earlier program created it, with a schema that this one does not read.
    #[error(
        "the ledger {} has version {found}, which this program does not read: it reads version {known}",
        path.display()
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    /// The ledger was here before and is missing now. To create a new one would be to forget every
    /// refund in it, and each could be sent again.
    #[error(
        "the ledger {} is gone, and {} shows that it was here: put it back, or a copy as docs/operations.md says (Restoring a copy); \
         to remove that file too begins anew and forgets every refund, so that each could be sent again",
        path.display(), witness.display()
    )]
    Gone {
        path: PathBuf,
        /// The file that shows it.
        witness: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} the ledger {}: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },
    /// The database refused.
    #[error("cannot open the ledger {}: {problem}", path.display())]
    Database { path: PathBuf, problem: String },
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self { queue_length: 4_096, batch_size: 64, readers: 4, busy_timeout: Duration::from_secs(5), max_pages: None }
    }
}

impl OpenError {
    pub(super) fn older(path: &Path, found: usize) -> Self {
        OpenError::Older { path: path.to_owned(), found: signed(found), known: signed(VERSION) }
    }
}

/// A ledger's file, locked for this process, with the newest schema.
#[derive(Debug)]
pub(super) struct OpenedLedger {
    /// Held as long as anything may be written.
    pub(super) lock: LedgerLock,
    /// The only connection that writes.
    pub(super) writer: Connection,
    /// The canonical path.
    pub(super) path: PathBuf,
}

/// "rcup": identifies the file to this program and to `file(1)`.
pub(super) const APPLICATION_ID: i64 = 0x7263_7570;

/// The locked file beside a ledger. Dropping it unlocks it: a process that is being started has a
/// copy of each open file for a moment, and closing this one alone would leave the ledger locked
/// for as long.
#[derive(Debug)]
pub(super) struct LedgerLock(pub(super) File);

/// The content of the lock file once a ledger has been created beside it.
const LOCK_MARKER: &[u8] =
    b"A ledger of recoup is kept beside this file, which locks it. If the ledger is missing, it was removed.\n";

/// The version that the first of [`MIGRATIONS`] creates in an empty file. Earlier ones are not
/// read.
const FIRST_VERSION: usize = 10;

/// The first creates the tables; each of the others takes a ledger one version further. Never
/// edited once released.
pub(super) const MIGRATIONS: [&str; 1] = [include_str!("migrations/0010_ledger.sql")];

/// The version of every ledger that this program has open.
pub(super) const VERSION: usize = FIRST_VERSION + MIGRATIONS.len() - 1;

/// Prepared statements that one connection caches: all that there are, including those of the usual
/// page queries.
const PREPARED_STATEMENTS: usize = 64;

pub(super) fn open(path: &Path, settings: &SqliteSettings) -> Result<OpenedLedger, OpenError> {
    let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
    let (path, directory) = canonical(path)?;
    let lock = lock(&path)?;
    check_not_gone(&path, &lock.0)?;
    match private_file().create_new(true).open(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io("create")(error)),
    }
    let writer = connect(&path, settings).map_err(|error| refusal(&path, &error))??;
    // A ledger that was just created must be found again after a loss of power.
    File::open(&directory).and_then(|directory| directory.sync_all()).map_err(io("sync the directory of"))?;
    if !has_marker(&lock.0) {
        // Without it, only the next start's check that the ledger still exists is missing.
        let mut file = &lock.0;
        drop(file.write_all(LOCK_MARKER).and_then(|()| file.sync_all()));
    }
    Ok(OpenedLedger { lock, writer, path })
}

/// A connection that cannot write.
pub(super) fn reader(path: &Path, busy_timeout: Duration) -> Result<Connection, OpenError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        prepare(&connection, busy_timeout)?;
        Ok(connection)
    };
    open().map_err(|error| refusal(path, &error))
}

/// An empty ledger in memory, with the newest schema.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    prepare(&connection, Duration::ZERO)?;
    connection.execute_batch("PRAGMA foreign_keys = ON;")?;
    migrate(&mut connection, 0, &MIGRATIONS)?;
    Ok(connection)
}

/// Empties a ledger in memory. Its triggers, which forbid that, and its hook are switched off
/// meanwhile.
pub(super) fn wipe(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.commit_hook(None::<fn() -> bool>)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.execute_batch("PRAGMA foreign_keys = OFF;")?;
    let tables: Vec<String> = {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'";
        let mut statement = connection.prepare(sql)?;
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    let transaction = connection.unchecked_transaction()?;
    for table in tables {
        // A name of our own schema, so it needs no quotes.
        transaction.execute_batch(&format!("DELETE FROM {table};"))?;
    }
    // A new ledger has these rows.
    transaction.execute_batch(
        "INSERT INTO clock_disorder (only_row, max_micros) VALUES (1, 0); \
         INSERT INTO ledger_identity (only_row, id) VALUES (1, lower(hex(randomblob(16))));",
    )?;
    transaction.commit()?;
    connection.execute_batch("PRAGMA foreign_keys = ON;")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    Ok(())
}

/// The file's path without links, and its directory.
fn canonical(path: &Path) -> Result<(PathBuf, PathBuf), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), doing: "find", source };
    let existing = match path.canonicalize() {
        Ok(existing) => existing,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let directory = directory.canonicalize().map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => OpenError::NoDirectory { path: path.to_owned() },
                _ => io(error),
            })?;
            let name = path.file_name().ok_or_else(|| io(ErrorKind::InvalidFilename.into()))?;
            directory.join(name)
        }
        Err(error) => return Err(io(error)),
    };
    if existing.is_dir() {
        return Err(OpenError::NotALedger { path: path.to_owned(), what: "it is a directory" });
    }
    let directory = existing.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    Ok((existing, directory))
}

/// Refuses to create a new ledger where there was one.
fn check_not_gone(path: &Path, lock: &File) -> Result<(), OpenError> {
    let gone = |suffix| Err(OpenError::Gone { path: path.to_owned(), witness: sibling(path, suffix) });
    let length = |path: &Path| path.metadata().map(|metadata| metadata.len()).ok();
    match length(path) {
        // SQLite deletes a log that it finds without its file.
        None if length(&sibling(path, "-wal")).is_some_and(|length| length > 0) => gone("-wal"),
        None | Some(0) if has_marker(lock) => gone(".lock"),
        _ => Ok(()),
    }
}

fn has_marker(lock: &File) -> bool {
    lock.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// The path of one of the files beside a ledger.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

impl LedgerLock {
    /// None: another process has it.
    pub(super) fn try_acquire(file: File) -> std::io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for LedgerLock {
    fn drop(&mut self) {
        // The end of the process unlocks it too.
        drop(self.0.unlock());
    }
}

fn lock(path: &Path) -> Result<LedgerLock, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), doing: "lock", source };
    let file = private_file().create(true).truncate(false).open(sibling(path, ".lock")).map_err(io)?;
    LedgerLock::try_acquire(file).map_err(io)?.ok_or_else(|| OpenError::InUse { path: path.to_owned() })
}

/// Readable only by the owner; SQLite gives its log the same mode.
pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The outer error is SQLite's, the inner one is ours.
fn connect(path: &Path, settings: &SqliteSettings) -> rusqlite::Result<Result<Connection, OpenError>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, settings.busy_timeout)?;
    let version = match version(path, &connection)? {
        Ok(version) => version,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let problem = format!("its file system does not allow a write-ahead log (journal mode {mode})");
        return Ok(Err(OpenError::Database { path: path.to_owned(), problem }));
    }
    // FULL: every commit is synced. The writer makes the checkpoints, so that it sees them fail. On
    // macOS a plain sync leaves data in the drive's cache, which both `fullfsync` settings flush;
    // on other systems they change nothing.
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; \
         PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0; PRAGMA cell_size_check = ON;",
    )?;
    migrate(&mut connection, version, &MIGRATIONS)?;
    info!(ledger = %path.display(), schema = VERSION, "ledger opened");
    if let Some(pages) = settings.max_pages {
        connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))?;
    }
    Ok(Ok(connection))
}

/// Settings of every connection.
pub(super) fn prepare(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout.min(Duration::from_secs(60)))?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // After a failed write nothing more is written, not even when the connection is closed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Without it, every new value of a parameter makes SQLite plan the statement again, which takes
    // longer than running it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A container may have nowhere to put temporary files.
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")
}

/// The version of a ledger; 0 for an empty file. Reads only.
pub(super) fn version(path: &Path, connection: &Connection) -> rusqlite::Result<Result<usize, OpenError>> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, objects) == (0, 0, 0) {
        return Ok(Ok(0));
    }
    if application != APPLICATION_ID {
        let what = "it is a database of another program";
        return Ok(Err(OpenError::NotALedger { path: path.to_owned(), what }));
    }
    Ok(match usize::try_from(version) {
        Ok(known) if (FIRST_VERSION..=VERSION).contains(&known) => Ok(known),
        Ok(older) if older < FIRST_VERSION => Err(OpenError::older(path, older)),
        _ => Err(OpenError::Newer { path: path.to_owned(), found: version, known: signed(VERSION) }),
    })
}

/// Applies all missing `migrations` in one transaction: the ledger has the old schema or the new
/// one.
pub(super) fn migrate(connection: &mut Connection, version: usize, migrations: &[&str]) -> rusqlite::Result<()> {
    let applied = if version == 0 { 0 } else { version + 1 - FIRST_VERSION };
    let missing = migrations.get(applied..).unwrap_or_default();
    let newest = FIRST_VERSION + migrations.len() - 1;
    if missing.is_empty() {
        return Ok(());
    }
    // Only a migration may rewrite a constraint.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", signed(newest))?;
    transaction.commit()?;
    if version > 0 {
        info!(from = version, to = newest, "ledger migrated to a newer schema");
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map(drop)
}

/// As SQLite counts versions.
pub(super) fn signed(version: usize) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

pub(super) fn refusal(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotALedger { path, what: "it is not a database" },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
        _ => OpenError::Database { path, problem: error.to_string() },
    }
}
