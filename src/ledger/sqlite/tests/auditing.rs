//! The audit names every edit and every fault of the disk by table, row and column.

use super::*;
use crate::domain::authority::{AccountLimits, CallerLimits};
use crate::ledger::admin::MAX_FINDINGS;
use crate::ledger::sqlite::open::VERSION;
use rstest::rstest;

/// A ledger with a refund of every state and history, closed in order.
async fn closed() -> (TempDir, PathBuf) {
    let bench = SqliteBench::new();
    for state in State::ALL {
        bench.refund_in(state, &state.as_str().replace('_', "-")).await;
    }
    bench.new_refund(namecom("items", &[1, 2])).await;
    let limits = CallerLimits { daily_count: Some(9), ..CallerLimits::default() };
    let by = ruled("desk", limits, |_| {});
    bench.new_refund_by(NewRefund { by, ..create(debitsuccess("amount", "DS1", 1250)) }).await;
    // It was on its way to the ledger when the others were recorded.
    let overtaken =
        NewRefund { now: NOW.saturating_sub(Duration::from_secs(1)), ..create(debitsuccess("late", "DS2", 1250)) };
    bench.ledger.create(overtaken).await.unwrap();
    let path = bench.path();
    let SqliteBench { directory, ledger, .. } = bench;
    ledger.close().await;
    (directory, path)
}

/// Edits a closed ledger without its triggers and checks, and puts the triggers back, so that only
/// the effect of `sql` can be found.
fn edit(path: &Path, sql: &str) {
    let raw = Connection::open(path).unwrap();
    raw.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF;").unwrap();
    let triggers: Vec<(String, String)> = {
        let mut all = raw.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").unwrap();
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    for (name, _) in &triggers {
        raw.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    raw.execute_batch(sql).unwrap();
    for (_, sql) in &triggers {
        raw.execute_batch(sql).unwrap();
    }
}

fn lines(audit: &Audit) -> Vec<String> {
    audit.findings.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_sound_ledger_has_no_findings_and_is_unchanged() {
    let (directory, path) = closed().await;
    let before = std::fs::read(&path).unwrap();
    let files = || -> Vec<_> {
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let names = files();
    let seen = audit(&path).unwrap();
    assert_eq!(lines(&seen), Vec::<String>::new());
    assert_eq!((seen.refunds, seen.schema_version), (13, VERSION as i64));
    assert!(seen.attempts >= 7 && seen.events > 20 && seen.last_sequence == seen.events, "{seen:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(files(), names);

    // A copy in a folder of its own, with a name that an address would have to escape.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy of #1?100%.db");
    std::fs::copy(&path, &copy).unwrap();
    assert_eq!(audit(&copy).unwrap(), seen);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "no file was created beside it");
}

#[tokio::test]
async fn a_running_gateway_is_reported_and_a_copy_of_its_files_can_be_audited() {
    let bench = SqliteBench::new();
    bench.refund_in(State::InDoubt, "a").await;
    let refusal = audit(&bench.path()).unwrap_err();
    assert!(matches!(refusal, AuditError::Running { .. }) && refusal.to_string().contains("a gateway is running"));

    // As a crash leaves them: most of it is in the log.
    let elsewhere = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("ledger.db{suffix}");
        std::fs::copy(bench.directory.path().join(&name), elsewhere.path().join(&name)).unwrap();
    }
    let seen = audit(&elsewhere.path().join("ledger.db")).unwrap();
    assert_eq!((lines(&seen), seen.refunds, seen.events), (Vec::new(), 1, 3));
}

#[tokio::test]
async fn a_ledger_that_cannot_be_audited_is_refused_in_one_sentence() {
    let (directory, path) = closed().await;
    let at = |name: &str| directory.path().join(name);
    let sentence = |path: &Path| audit(path).unwrap_err().to_string();
    assert!(sentence(&at("nothing.db")).starts_with("there is no ledger"));
    assert!(sentence(directory.path()).ends_with("it is a directory"), "{}", sentence(directory.path()));
    std::fs::write(at("letter.txt"), "a letter, and not a database at all").unwrap();
    assert!(sentence(&at("letter.txt")).contains("is not a ledger of recoup"), "{}", sentence(&at("letter.txt")));
    std::fs::write(at("empty.db"), "").unwrap();
    assert!(sentence(&at("empty.db")).ends_with("it is empty"), "{}", sentence(&at("empty.db")));
    Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(sentence(&at("other.db")).ends_with("a database of another program"));
    for (version, words) in [(99, "and this program knows versions up to"), (1, "which this program does not read")] {
        Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
        assert!(sentence(&path).contains(words), "{}", sentence(&path));
    }
}

#[rstest]
#[case::an_amount(
    "UPDATE refunds SET target = replace(target, '1250', '125000') WHERE id = 'amount'",
    &["refunds, row ordinal 12, column (row)", "similarity, row key"]
)]
#[case::a_state(
    "UPDATE refunds SET state = 'PENDING', complete_time = NULL WHERE id = 'SUCCEEDED'",
    &["refunds, row ordinal 6, column state: is PENDING, and the history has SUCCEEDED"]
)]
#[case::an_unknown_state("UPDATE refunds SET state = 'DONE' WHERE id = 'PENDING'", &["refunds, row ordinal 1, column state: names no state"])]
#[case::two_rows(
    "UPDATE refunds SET revision = revision + 1 WHERE id IN ('FAILED', 'items')",
    &["row ordinal 8, column revision", "row ordinal 11, column revision"]
)]
#[case::a_refund(
    "DELETE FROM refunds WHERE id = 'items'",
    &["refunds, row ordinal 12, column ordinal: follows 10", "column ordinal: names a row of refunds that does not exist"]
)]
#[case::an_event("DELETE FROM events WHERE sequence = 9", &["events, row sequence 10, column sequence: follows 8"])]
#[case::the_first_event("DELETE FROM events WHERE sequence = 1", &["events, row sequence 2, column sequence: follows 0"])]
#[case::the_last_event(
    "DELETE FROM events WHERE sequence = (SELECT max(sequence) FROM events)",
    &["refunds, row ordinal 13, column ordinal: has no history"]
)]
#[case::a_note("UPDATE events SET note = 'all is well' WHERE sequence = 6", &["events, row sequence 6, column chain_hash"])]
#[case::a_note_of_a_kind_that_says_it_all("UPDATE events SET note = 'x' WHERE sequence = 5", &["events, row sequence 5, column note: is not NULL, and the kind says it all"])]
#[case::a_missing_note("UPDATE events SET note = NULL WHERE sequence = 6", &["events, row sequence 6, column note: is NULL"])]
#[case::a_missing_digest("UPDATE events SET refund_digest = NULL WHERE sequence = 6", &["events, row sequence 6, column chain_hash", "refunds, row ordinal 3, column (row)"])]
#[case::a_hash("UPDATE events SET chain_hash = zeroblob(32) WHERE sequence = 5", &["row sequence 5, column chain_hash", "row sequence 6, column chain_hash"])]
#[case::a_short_hash("UPDATE events SET chain_hash = x'00' WHERE sequence = 5", &["row sequence 5, column chain_hash: is not 32 bytes long"])]
#[case::a_transition("UPDATE events SET from_state = 'SUBMITTED' WHERE sequence = 3", &["row sequence 3, column from_state: is SUBMITTED, and the event before"])]
#[case::an_attempt_begun_twice(
    "UPDATE events SET from_state = 'PENDING', to_state = 'DISPATCHING' WHERE ordinal = 4 AND revision = 3",
    &["row sequence 9, column to_state: is DISPATCHING, and an attempt was in flight already", "row sequence 9, column kind: is doubted, which begins no attempt", "refunds, row ordinal 4, column attempt_count: is 1, and the history has 2"]
)]
#[case::an_attempt_never_begun(
    "UPDATE events SET to_state = 'PENDING' WHERE ordinal = 4 AND revision = 2",
    &["row sequence 9, column from_state: is DISPATCHING, and the event before ended with PENDING", "row sequence 8, column attempt: is 1, where 0 is expected", "refunds, row ordinal 4, column attempt_count: is 1, and the history has 0"]
)]
#[case::an_attempt_reopened(
    "UPDATE events SET to_state = 'DISPATCHING' WHERE ordinal = 4 AND revision = 3",
    &["refunds, row ordinal 4, column state: is IN_DOUBT, and the history has DISPATCHING", "row sequence 9, column kind: is doubted, which begins no attempt"]
)]
#[case::an_attempt_not_ended(
    "UPDATE events SET from_state = 'PENDING' WHERE ordinal = 4 AND revision = 3",
    &["row sequence 9, column from_state: is PENDING, and the event before ended with DISPATCHING", "row sequence 9, column attempt: is 1, where 0 is expected"]
)]
#[case::an_end_of_another_kind("UPDATE events SET kind = 'checked' WHERE ordinal = 4 AND revision = 3", &["row sequence 9, column kind: is checked, which ends no attempt"])]
#[case::an_attempts_number("UPDATE events SET attempt = 2 WHERE ordinal = 4 AND revision = 2", &["row sequence 8, column attempt: is 2, where 1 is expected"])]
#[case::a_count_of_attempts("UPDATE refunds SET attempt_count = 2 WHERE ordinal = 4", &["refunds, row ordinal 4, column attempt_count: is 2, and the history has 1"])]
#[case::unanswered_attempts("UPDATE refunds SET unanswered_attempts = 0 WHERE ordinal = 4", &["refunds, row ordinal 4, column unanswered_attempts: is 0, and the history has 1"])]
#[case::a_dispatch_time("UPDATE refunds SET last_dispatch_time = 7 WHERE ordinal = 6", &["refunds, row ordinal 6, column last_dispatch_time: is 7"])]
#[case::the_first_dispatch_time("UPDATE refunds SET dispatch_time = 7 WHERE ordinal = 6", &["refunds, row ordinal 6, column dispatch_time: is 7"])]
#[case::a_reservation("DELETE FROM reservations WHERE ordinal = 6", &["reservations, row key order:succeeded, ordinal 6, column ordinal: is missing"])]
#[case::a_reservation_of_a_failed_refund(
    "INSERT INTO reservations VALUES ('order:FAILED', 'demo', 8, NULL)",
    &["reservations, row key order:FAILED, ordinal 8, column ordinal: refund 8 (FAILED) does not hold this"]
)]
#[case::a_reservation_of_an_unknown_refund(
    "INSERT INTO reservations VALUES ('order:x', 'demo', 99, NULL)",
    &["reservations, row", "column ordinal: names a row of refunds that does not exist"]
)]
#[case::a_reference("DELETE FROM refund_references WHERE reference = '77'", &["refund_references, row reference 77, ordinal 11"])]
#[case::a_similarity("UPDATE similarity SET until_time = 0", &["similarity, row key", "does not hold this"])]
#[case::a_count(
    "UPDATE spending SET refunds = 0",
    &["spending, row subject caller:desk, hour 500000, currency AUD, column refunds: is 0, and the refunds are 1"]
)]
#[case::a_sum(
    "UPDATE spending SET minor_units = 1",
    &["spending, row subject caller:desk, hour 500000, currency AUD, column minor_units: is 1, and the refunds count 1250"]
)]
#[case::an_hour("DELETE FROM spending", &["column hour: is missing, and 1 refunds count there"])]
#[case::a_sum_without_a_subject("DELETE FROM spending_subjects", &["spending, row subject caller:desk", "is not in spending_subjects"])]
#[case::a_decision("UPDATE refunds SET approval = replace(approval, '1', '0') WHERE id = 'AWAITING-APPROVAL'", &["refunds, row ordinal 10, column approval: lacks a decision"])]
#[case::an_owner("UPDATE refunds SET approval = replace(approval, 'team', 'none') WHERE id = 'AWAITING-APPROVAL'", &["refunds, row ordinal 10, column (row)"])]
#[case::the_disorder("DELETE FROM clock_disorder", &["clock_disorder, row only_row 1, column max_micros: is missing"])]
#[case::a_smaller_disorder("UPDATE clock_disorder SET max_micros = 1", &["clock_disorder, row only_row 1, column max_micros: is 1, and refunds are 1000000 out of order"])]
#[case::an_earlier_latest_time("UPDATE clock_disorder SET overtaken = NULL", &["clock_disorder, row only_row 1, column overtaken: does not lead to the latest create_time"])]
#[case::an_index(
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' ' WHERE name = 'refunds_due_later';",
    &["sqlite_schema, row index refunds_due_later of refunds, column sql: is not as this program created it"]
)]
#[tokio::test]
async fn every_edit_is_named(#[case] sql: &str, #[case] expected: &[&str]) {
    let (_directory, path) = closed().await;
    edit(&path, sql);
    let seen = audit(&path).unwrap();
    let found = lines(&seen);
    for words in expected {
        assert!(found.iter().any(|line| line.contains(words)), "{words} is not among {found:#?}");
    }
    assert!(found.len() <= expected.len() + 4, "too much is blamed: {found:#?}");
    assert_eq!(seen.finding_count, found.len() as u64);
}

/// An event has none only if the next one was recorded with it.
#[tokio::test]
async fn a_missing_digest_of_an_earlier_transaction_is_named() {
    let bench = SqliteBench::new();
    let first = bench.new_refund(sectigo("a", "100")).await;
    bench.new_refund(sectigo("b", "200")).await;
    bench.record(&first, &[Event::Dispatched { credential: None }, doubted()]).await.unwrap();
    let path = bench.path();
    let SqliteBench { directory: _directory, ledger, .. } = bench;
    ledger.close().await;
    assert_eq!(lines(&audit(&path).unwrap()), Vec::<String>::new());
    edit(&path, "UPDATE events SET refund_digest = NULL WHERE sequence = 1");
    let found = lines(&audit(&path).unwrap());
    let expected = "events, row sequence 1, column refund_digest: is NULL, and the next event is not of the same";
    assert!(found.iter().any(|line| line.contains(expected)), "{found:#?}");
}

/// Nothing in the file shows it. The sequence number and the hash that were kept elsewhere do.
#[tokio::test]
async fn without_its_last_refund_a_ledger_has_another_last_hash() {
    let (_directory, path) = closed().await;
    let before = audit(&path).unwrap();
    edit(
        &path,
        "DELETE FROM refunds WHERE ordinal = 13; DELETE FROM events WHERE ordinal = 13;
         DELETE FROM similarity WHERE ordinal = 13; DELETE FROM refund_references WHERE ordinal = 13",
    );
    let after = audit(&path).unwrap();
    assert_eq!(lines(&after), Vec::<String>::new());
    assert_eq!(after.last_sequence, before.last_sequence - 1);
    assert_ne!(after.last_chain_hash, before.last_chain_hash);
}

#[tokio::test]
async fn a_dropped_trigger_and_a_foreign_one_are_named() {
    let (_directory, path) = closed().await;
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("DROP TRIGGER events_are_kept; CREATE TRIGGER odd AFTER INSERT ON events BEGIN SELECT 1; END")
        .unwrap();
    drop(raw);
    let found = lines(&audit(&path).unwrap());
    assert_eq!(
        found,
        [
            "table sqlite_schema, row trigger events_are_kept of events, column sql: is missing",
            "table sqlite_schema, row trigger odd of events, column sql: was not created by this program",
        ]
    );
}

#[tokio::test]
async fn many_findings_are_counted_and_bounded() {
    let bench = SqliteBench::new();
    for number in 0..1_200 {
        bench.new_refund(sectigo(&format!("r{number}"), &format!("{number}"))).await;
    }
    let path = bench.path();
    let SqliteBench { directory, ledger, .. } = bench;
    ledger.close().await;
    edit(&path, "UPDATE refunds SET target = '[]'");
    let seen = audit(&path).unwrap();
    assert_eq!(seen.findings.len(), MAX_FINDINGS);
    assert!(seen.finding_count >= 1_200, "{}", seen.finding_count);
    drop(directory);
}

/// Everything in the tables that is stored twice or covered by a hash.
fn content(path: &Path) -> Option<String> {
    let raw = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let mut content = String::new();
    for columns in [
        "* FROM refunds ORDER BY 1",
        "* FROM events ORDER BY 1",
        "* FROM reservations ORDER BY 1, 2",
        "* FROM refund_references ORDER BY 1, 2",
        "* FROM similarity ORDER BY 1, 2, 3, 4",
        "* FROM spending ORDER BY 1, 2, 3",
        // An earlier from_hour is as true, where nothing was recorded before it.
        "subject FROM spending_subjects",
        "type, name, tbl_name, sql FROM sqlite_schema ORDER BY name",
        "* FROM pragma_user_version",
    ] {
        let mut statement = raw.prepare(&format!("SELECT {columns}")).ok()?;
        let width = statement.column_count();
        let mut rows = statement.query([]).ok()?;
        while let Some(row) = rows.next().ok()? {
            for column in 0..width {
                content += &format!("{:?} ", row.get_ref(column).ok()?);
            }
        }
    }
    Some(content)
}

/// One flipped byte anywhere either changes nothing that is covered, or is found.
#[tokio::test]
async fn one_flipped_byte_anywhere_is_found_or_harmless() {
    let (directory, path) = closed().await;
    let sound = std::fs::read(&path).unwrap();
    let before = content(&path).unwrap();
    let flipped = directory.path().join("flipped.db");
    let (mut found, mut harmless) = (0, 0);
    // A prime stride walks through all kinds of bytes of all pages; the first page's header is
    // walked whole.
    for at in (0..100).chain((100..sound.len()).step_by(211)) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&flipped, &bytes).unwrap();
        let seen = audit(&flipped);
        if seen.as_ref().is_ok_and(Audit::is_clean) {
            harmless += 1;
            let after = content(&flipped);
            assert!(after.as_deref() == Some(&before), "the byte at {at} changed something, and it was not seen");
        } else {
            found += 1;
        }
    }
    assert!(found > 100, "{found} found, {harmless} harmless");
}

#[tokio::test]
async fn a_truncated_file_is_found_wherever_it_ends() {
    let (directory, path) = closed().await;
    let sound = std::fs::read(&path).unwrap();
    let cut = directory.path().join("cut.db");
    for length in (1..sound.len()).step_by(1_531) {
        std::fs::write(&cut, &sound[..length]).unwrap();
        let seen = audit(&cut);
        assert!(!seen.as_ref().is_ok_and(Audit::is_clean), "cut at {length} of {}: {seen:?}", sound.len());
    }
}

/// Limits come and go, clocks are set back, refunds end: the sums that are kept are those of the
/// refunds.
#[tokio::test]
async fn sums_stay_those_of_the_refunds() {
    let bench = SqliteBench::new();
    let mut now = NOW;
    for number in 0..120_u64 {
        let seconds = [600, 4_000, 20, 90_000, 1][usize::try_from(number % 5).unwrap()];
        now = match number % 17 {
            16 => now.saturating_sub(Duration::from_secs(40_000)),
            _ => now.saturating_add(Duration::from_secs(seconds)),
        };
        let limits = CallerLimits { daily_count: (number % 11 != 10).then_some(500), ..CallerLimits::default() };
        let by = ruled(["shop", "desk"][usize::try_from(number % 2).unwrap()], limits, |rules| {
            let limits = AccountLimits {
                daily_max: usd(1_000_000),
                daily_count: None,
                assumed_amount: Some(100 + i64::try_from(number).unwrap()),
            };
            if number % 23 != 22 {
                rules.accounts.insert(at("certs").account, limits);
            }
        });
        let intent = sectigo(&format!("r{number}"), &format!("{number}"));
        let refund = bench.new_refund_by(NewRefund { by, now, ..create(intent) }).await;
        let events = match number % 4 {
            0 => vec![Event::Cancelled],
            1 => vec![Event::Dispatched { credential: None }, refused()],
            2 => vec![Event::Expired],
            _ => Vec::new(),
        };
        if !events.is_empty() {
            bench.record(&refund, &events).await.unwrap();
        }
    }
    assert!(bench.count("SELECT count(*) FROM spending") > 3);
    let path = bench.path();
    let SqliteBench { directory: _directory, ledger, .. } = bench;
    ledger.close().await;
    assert_eq!(lines(&audit(&path).unwrap()), Vec::<String>::new());
}

#[tokio::test]
async fn an_edited_access_file_is_found() {
    let (_directory, path) = closed().await;
    let ledger = SqliteLedger::open(&path, SqliteSettings::default()).unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    ledger.keep_access_file(digest, "abc", NOW).await.unwrap();
    ledger.close().await;
    assert!(audit(&path).unwrap().is_clean());
    edit(&path, "UPDATE access_files SET text = 'abd'");
    let problem = format!("table access_files, row digest {digest}, column text: is not the text of this digest");
    assert_eq!(lines(&audit(&path).unwrap()), [problem]);
}
