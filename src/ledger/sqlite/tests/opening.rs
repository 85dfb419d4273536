//! One process has one ledger, and no other program's file is changed.

use rstest::rstest;

use super::*;
use crate::ledger::sqlite::open::{self, APPLICATION_ID, VERSION};

const KNOWN: i64 = VERSION as i64;

#[test]
fn a_second_open_is_refused_under_any_name() {
    let bench = SqliteBench::new();
    let sentence = |path: &Path| SqliteLedger::open(path, SqliteSettings::default()).unwrap_err().to_string();
    let path = bench.path();
    assert!(sentence(&path).ends_with("ledger.db is in use by another process"), "{}", sentence(&path));
    let link = bench.directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(sentence(&link).ends_with("is in use by another process"), "{}", sentence(&link));
    drop(bench.reopened());
}

/// A process that is being started has a copy of the lock's file until its program begins.
#[test]
fn a_copy_of_the_lock_in_another_process_does_not_keep_the_ledger_locked() {
    let bench = SqliteBench::new();
    let copy = {
        let Executor::Threads(threads) = &bench.ledger.executor else { panic!() };
        threads.writer.lock().unwrap().as_ref().unwrap().lock.0.try_clone().unwrap()
    };
    drop(bench.reopened());
    drop(copy);
}

#[test]
fn only_the_owner_can_read_a_ledger() {
    use std::os::unix::fs::PermissionsExt;
    let bench = SqliteBench::new();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let file = bench.directory.path().join(format!("ledger.db{suffix}"));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{suffix}");
    }
}

#[test]
fn every_commit_is_synced() {
    let bench = SqliteBench::new();
    let settings = bench.settings.clone();
    let path = bench.path();
    drop(bench.ledger);
    let opened = open::open(&path, &settings).unwrap();
    let pragma = |name| opened.writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(pragma("synchronous"), 2);
    assert_eq!((pragma("fullfsync"), pragma("checkpoint_fullfsync")), (1, 1));
    assert_eq!(pragma("foreign_keys"), 1);
    assert_eq!(pragma("application_id"), APPLICATION_ID);
    assert_eq!(pragma("user_version"), KNOWN);
    // No list in a check is long enough for a table in memory, which would be made for each row
    // that is checked.
    let mut tables = opened.writer.prepare("SELECT sql FROM sqlite_schema WHERE type = 'table'").unwrap();
    for sql in tables.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let sql = sql.unwrap();
        for list in sql.split(" IN (").skip(1) {
            let words = list.split(')').next().unwrap();
            assert!(words.split(',').count() <= 3, "{words}");
        }
    }
    let by_hand = opened.writer.execute_batch("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = ''");
    assert!(by_hand.is_err(), "only a migration may");
    let mode: String = opened.writer.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn a_missing_directory_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("ledger.db");
    let error = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err();
    assert!(matches!(error, OpenError::NoDirectory { .. }), "{error}");
    assert!(!directory.path().join("missing").exists());
}

#[test]
fn a_directory_is_not_a_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let error = SqliteLedger::open(directory.path(), SqliteSettings::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotALedger { .. }), "{error}");
}

#[test]
fn a_newer_ledger_is_refused() {
    let bench = SqliteBench::new();
    let path = bench.path();
    drop(bench.ledger);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", KNOWN + 1).unwrap();
    let error = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err();
    let words = format!("has version {}, and this program knows versions up to {KNOWN}", KNOWN + 1);
    assert!(error.to_string().ends_with(&words), "{error}");
}

/// In every way to open it, and without a change.
#[rstest]
#[case::the_first(1)]
#[case::the_last_that_is_not_read(7)]
fn an_older_ledger_is_refused_in_one_sentence(#[case] version: i64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE refunds (ordinal INTEGER PRIMARY KEY)").unwrap();
    raw.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    raw.pragma_update(None, "user_version", version).unwrap();
    drop(raw);
    let before = std::fs::read(&path).unwrap();
    let refused = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err().to_string();
    let words = format!("has version {version}, which this program does not read: it reads version {KNOWN}");
    assert!(refused.ends_with(&words), "{refused}");
    assert_eq!(audit(&path).unwrap_err().to_string(), refused);
    assert_eq!(Survey::open(&path).unwrap_err().to_string(), refused);
    assert_eq!(backup(&path, &directory.path().join("copy.db")).unwrap_err().to_string(), refused);
    assert!(!directory.path().join("copy.db").exists());
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Collects log lines.
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// With an artificial next version: there is one schema so far.
#[tokio::test]
async fn a_migration_changes_the_schema_and_logs_both_versions() {
    let bench = SqliteBench::new();
    bench.new_refund(sectigo("a", "100")).await;
    bench.ledger.close().await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let buffer = log.clone();
    let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || LogBuffer(buffer.clone())).finish();
    let next = [open::MIGRATIONS[0], "CREATE TABLE later (thing TEXT) STRICT;"];
    let mut raw = bench.raw();
    tracing::subscriber::with_default(lines, || open::migrate(&mut raw, VERSION, &next).unwrap());
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(log.contains(&format!("from={KNOWN} to={}", KNOWN + 1)), "{log}");
    let version: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, KNOWN + 1);
    assert_eq!(raw.query_row("SELECT count(*) FROM later", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    assert_eq!(raw.query_row("SELECT count(*) FROM refunds", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn another_programs_database_is_refused_and_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err();
    assert!(error.to_string().ends_with("is not a ledger of recoup: it is a database of another program"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    for content in ["remember the milk\n".to_owned(), "remember the milk\n".repeat(1_000)] {
        std::fs::write(&path, &content).unwrap();
        let error = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err();
        assert!(error.to_string().ends_with("is not a ledger of recoup: it is not a database"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn an_empty_file_becomes_a_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    std::fs::write(&path, "").unwrap();
    SqliteLedger::open(&path, SqliteSettings::default()).unwrap();
}

#[tokio::test]
async fn a_closed_ledger_rejects_calls_and_leaves_one_file() {
    let bench = SqliteBench::new();
    let refund = bench.new_refund(sectigo("a", "100")).await;
    bench.ledger.close().await;
    bench.ledger.close().await;
    let closed = LedgerError::Unavailable("it is closed".to_owned());
    assert_eq!(bench.create(create(sectigo("b", "200"))).await, Err(closed.clone()));
    assert_eq!(bench.ledger.get(refund.id()).await, Err(closed));
    let log = std::fs::metadata(bench.directory.path().join("ledger.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "everything is in the file itself");
    // The old value is still alive, and the lock is free all the same.
    let again = SqliteLedger::open(&bench.path(), SqliteSettings::default()).unwrap();
    assert_eq!(*again.committed().borrow(), 1);
    assert_eq!(again.get(refund.id()).await, Ok(Some(refund)));
}

#[tokio::test]
async fn a_last_event_that_does_not_follow_is_found_at_start() {
    for sql in [
        "UPDATE events SET note = 'nothing happened' WHERE sequence = 3",
        "UPDATE events SET refund_digest = zeroblob(32) WHERE sequence = 3",
        "DELETE FROM events WHERE sequence = 2",
        "UPDATE refunds SET provider_status = 'x'",
    ] {
        let bench = SqliteBench::new();
        let refund = bench.refund_in(State::Succeeded, "a").await;
        bench.tamper(sql);
        let bench = bench.reopened();
        assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)), "{sql}");
        assert!(matches!(bench.ledger.mark_interrupted(NOW).await, Err(LedgerError::Corrupt { .. })), "{sql}");
        let answer = bench.create(create(sectigo("b", "200"))).await;
        assert!(matches!(answer, Err(LedgerError::Corrupt { .. })), "{sql}");
        assert!(bench.ledger.get(refund.id()).await.unwrap().is_some(), "it can still be read");
    }
}

/// What a killed process leaves behind, at every step of a refund.
#[tokio::test]
async fn acknowledged_writes_are_in_the_files_at_once() {
    let bench = SqliteBench::new();
    let mut refund = bench.new_refund(sectigo("a", "100")).await;
    for event in [Event::Dispatched { credential: None }, doubted(), Event::Refunded(Confirmation::default())] {
        refund = bench.record(&refund, &[event]).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        for file in ["ledger.db", "ledger.db-wal"] {
            std::fs::copy(bench.directory.path().join(file), copy.path().join(file)).unwrap();
        }
        let after_the_crash = SqliteLedger::open(&copy.path().join("ledger.db"), SqliteSettings::default()).unwrap();
        assert_eq!(after_the_crash.get(refund.id()).await, Ok(Some(refund.clone())));
        assert_eq!(after_the_crash.verify().await, Ok(refund.revision));
    }
}

#[tokio::test]
async fn a_missing_ledger_is_not_replaced_by_a_new_one() {
    let bench = SqliteBench::new();
    bench.new_refund(sectigo("a", "100")).await;
    let path = bench.path();
    let kept = bench.directory.path().join("kept.db");
    let SqliteBench { directory, ledger, settings } = bench;
    ledger.close().await;
    let sentence = || SqliteLedger::open(&path, settings.clone()).unwrap_err().to_string();
    std::fs::rename(&path, &kept).unwrap();
    assert!(sentence().contains("is gone") && sentence().contains("ledger.db.lock"), "{}", sentence());
    for warning in ["forgets every refund", "sent again", "docs/operations.md"] {
        assert!(sentence().contains(warning), "what it means to begin anew: {}", sentence());
    }
    assert!(!path.exists(), "no new file was created");
    std::fs::write(&path, "").unwrap();
    assert!(sentence().contains("is gone"), "an empty file is not it: {}", sentence());

    std::fs::rename(&kept, &path).unwrap();
    let ledger = SqliteLedger::open(&path, settings.clone()).unwrap();
    assert!(ledger.get(&RefundId::parse("a").unwrap()).await.unwrap().is_some());
    drop(ledger);

    // Its log alone says so too, and the database would throw it away.
    let lock = directory.path().join("ledger.db.lock");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&lock).unwrap();
    std::fs::write(directory.path().join("ledger.db-wal"), "what was written last").unwrap();
    assert!(sentence().contains("ledger.db-wal"), "{}", sentence());
    std::fs::remove_file(directory.path().join("ledger.db-wal")).unwrap();
    drop(SqliteLedger::open(&path, settings.clone()).unwrap());
}
