//! The file itself: the lock, its pages, its tables' definitions, its foreign keys.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{AuditError, Findings};
use crate::ledger::admin::MAX_FINDINGS;
use crate::ledger::sqlite::open::{self, APPLICATION_ID, LedgerLock, MIGRATIONS, OpenError, VERSION, sibling, signed};

/// A ledger that can be audited.
pub(super) struct AuditedFile {
    /// One snapshot. None: it is a ledger, but not even its tables' definitions can be read, which
    /// is reported.
    pub(super) connection: Option<Connection>,
    pub(super) version: i64,
    /// Keeps a gateway from starting meanwhile. None: no gateway was ever started on this file, for
    /// example a copy.
    pub(super) lock: Option<LedgerLock>,
}

/// What the first bytes of every SQLite file say about its program.
struct Header {
    user_version: i64,
    application_id: i64,
}

/// Any other program that has the file locked is no gateway and releases it soon.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn open(path: &Path, findings: &mut Findings) -> Result<AuditedFile, AuditError> {
    let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(AuditError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(io("find")(error).into()),
    };
    let lock = lock(&path)?;
    // Before SQLite has it open: closing a second handle would release SQLite's own locks.
    let header = header(&path)?;
    let refused = |error: rusqlite::Error| -> Result<Option<Connection>, AuditError> {
        let broken = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt));
        if broken && header.as_ref().is_some_and(|header| header.application_id == APPLICATION_ID) {
            return Ok(None);
        }
        Err(open::refusal(&path, &error).into())
    };
    let opened = match connect(&path) {
        Ok(connection) => Ok((Some(connection.0), connection.1)),
        Err(error) => {
            let problem = error.to_string();
            let connection = refused(error)?;
            findings.add("(file)", "(the first page)", "(page)", format!("the tables cannot be found: {problem}"));
            Ok::<_, AuditError>((connection, header.as_ref().map_or(0, |header| header.user_version)))
        }
    };
    let (connection, version) = opened?;
    if let Some(connection) = &connection {
        let known = signed(VERSION);
        match open::version(&path, connection) {
            Ok(Ok(0)) => return Err(OpenError::NotALedger { path, what: "it is empty" }.into()),
            Ok(Ok(_)) if version < known => return Err(AuditError::Older { path, found: version, known }),
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => return Err(refusal.into()),
            Err(error) => return Err(open::refusal(&path, &error).into()),
        }
    }
    Ok(AuditedFile { connection, version, lock })
}

/// Reports every page, definition and foreign key that is not as it should be.
pub(super) fn check(connection: &Connection, findings: &mut Findings) {
    findings.pass("(file)", |findings| length(connection, findings));
    findings.pass("(file)", |findings| pages(connection, findings));
    findings.pass("sqlite_schema", |findings| definitions(connection, findings));
    findings.pass("(file)", |findings| foreign_keys(connection, findings));
}

/// Takes the gateway's lock if there is a lock file. Creates none: that would litter the folder of
/// a backup.
fn lock(path: &Path) -> Result<Option<LedgerLock>, AuditError> {
    let name = sibling(path, ".lock");
    let opened = OpenOptions::new().read(true).write(true).open(&name).or_else(|error| match error.kind() {
        // Read-only is enough for a lock.
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => File::open(&name),
        _ => Err(error),
    });
    let io = |source| OpenError::Io { path: path.to_owned(), doing: "lock", source };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error).into()),
    };
    match LedgerLock::try_acquire(file).map_err(io)? {
        Some(lock) => Ok(Some(lock)),
        None => Err(AuditError::Running { path: path.to_owned() }),
    }
}

/// None: the file is too short for one.
fn header(path: &Path) -> Result<Option<Header>, AuditError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(100).read_to_end(&mut bytes));
    if let Err(source) = read {
        let what = "it is a directory";
        return Err(match source.kind() {
            ErrorKind::IsADirectory => OpenError::NotALedger { path: path.to_owned(), what },
            _ => OpenError::Io { path: path.to_owned(), doing: "read", source },
        }
        .into());
    }
    let number = |at: usize| {
        let four = bytes.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok());
        four.map(|four| i64::from(i32::from_be_bytes(four)))
    };
    Ok(number(60).zip(number(68)).map(|(user_version, application_id)| Header { user_version, application_id }))
}

/// One snapshot of the file, and its version.
fn connect(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match path.to_str() {
        // There is no log, so no program is writing: the file can be read without creating a lock
        // or index file beside it.
        Some(text) if !has_log(path) => {
            let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let address = format!("file:{escaped}?immutable=1");
            Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI)?
        }
        _ => Connection::open_with_flags(path, flags)?,
    };
    open::prepare(&connection, BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cell_size_check = ON; BEGIN")?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    Ok((connection, version))
}

/// SQLite reads the missing part of a truncated last page as zeros, without an error.
fn length(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let pages = number("page_count")?.saturating_mul(number("page_size")?);
    let Some(path) = connection.path().map(Path::new) else { return Ok(()) };
    let length = path.metadata().ok().and_then(|metadata| i64::try_from(metadata.len()).ok());
    // Pages that are still in the log need not be in the file.
    if !has_log(path) && length.is_some_and(|length| length != pages) {
        let problem = format!("is {} bytes long, and its pages need {pages}", length.unwrap_or(0));
        findings.add("(file)", "(the end)", "(page)", problem);
    }
    Ok(())
}

fn pages(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut roots: BTreeMap<String, String> = BTreeMap::new();
    {
        let mut objects = connection.prepare("SELECT name, tbl_name, rootpage FROM sqlite_schema")?;
        let mut rows = objects.query([])?;
        while let Some(row) = rows.next()? {
            let (name, table): (String, String) = (row.get(0)?, row.get(1)?);
            let root: Option<i64> = row.get(2)?;
            if let Some(root) = root.filter(|root| *root > 0) {
                roots.insert(root.to_string(), table.clone());
            }
            owners.insert(name, table);
        }
    }
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_FINDINGS})"))?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let report: String = row.get(0)?;
        for line in report.lines().filter(|line| *line != "ok" && !line.starts_with("***")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let owner = |name: &str| owners.get(name).cloned().unwrap_or_else(|| "(file)".to_owned());
            match words.as_slice() {
                ["Tree", root, "page", page, ..] => {
                    let table = roots.get(*root).cloned().unwrap_or_else(|| "(file)".to_owned());
                    findings.add(table, format!("page {}", page.trim_end_matches(':')), "(page)", line);
                }
                ["row", row, "missing", "from", "index", index] => {
                    findings.add(owner(index), format!("rowid {row}"), format!("(index {index})"), line);
                }
                ["wrong", "#", "of", "entries", "in", "index", index] => {
                    findings.add(owner(index), "(all)", format!("(index {index})"), line);
                }
                ["non-unique", "entry", "in", "index", index] => {
                    findings.add(owner(index), "(unknown)", format!("(index {index})"), line);
                }
                ["CHECK", "constraint", "failed", "in", table] => {
                    findings.add(*table, "(unknown)", "(check)", line);
                }
                [.., place] if place.contains('.') && owners.contains_key(place.split('.').next().unwrap_or("")) => {
                    let (table, column) = place.split_once('.').unwrap_or((place, "(unknown)"));
                    findings.add(table, "(unknown)", column, line);
                }
                _ => findings.add("(file)", "(unknown)", "(page)", line),
            }
        }
    }
    Ok(())
}

/// Compares the definitions with those that this program creates: a dropped trigger guards nothing.
fn definitions(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let fresh = Connection::open_in_memory()?;
    for migration in MIGRATIONS {
        fresh.execute_batch(migration)?;
    }
    let (expected, found) = (definitions_of(&fresh)?, definitions_of(connection)?);
    for (name, sql) in &expected {
        match found.get(name) {
            None => findings.add("sqlite_schema", name, "sql", "is missing"),
            Some(other) if other != sql => {
                findings.add("sqlite_schema", name, "sql", "is not as this program created it")
            }
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        findings.add("sqlite_schema", name, "sql", "was not created by this program");
    }
    Ok(())
}

fn definitions_of(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Option<String>>> {
    let mut objects = connection.prepare(
        "SELECT type || ' ' || name || ' of ' || tbl_name, sql FROM sqlite_schema WHERE name <> 'sqlite_stat1'",
    )?;
    let rows = objects.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn foreign_keys(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut check = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let table: String = row.get(0)?;
        let rowid: Option<i64> = row.get(1)?;
        let parent: String = row.get(2)?;
        let key = if table == "events" { "sequence" } else { "rowid" };
        let row = rowid.map_or_else(|| "(unknown)".to_owned(), |rowid| format!("{key} {rowid}"));
        // Every foreign key of the ledger is this column.
        findings.add(table, row, "ordinal", format!("names a row of {parent} that does not exist"));
    }
    Ok(())
}

fn has_log(path: &Path) -> bool {
    sibling(path, "-wal").metadata().is_ok_and(|log| log.len() > 0)
}
