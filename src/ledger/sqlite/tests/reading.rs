//! No query reads a whole table, and a row is read while the file is locked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::ledger::ListQuery;

/// Exceeded only if something hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// As the planner sees every statement: only the pages of the table itself read a whole table.
#[tokio::test]
async fn no_query_reads_a_whole_table() {
    let bench = SqliteBench::new();
    let raw = bench.raw();
    let plan = |sql: &str| -> Vec<String> {
        let mut statement = raw.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![rusqlite::types::Null; statement.parameter_count()];
        let details = statement.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>(3)).unwrap();
        details.map(Result::unwrap).collect()
    };
    for (sql, index) in [
        (&pages::PAGE_OF_ALL, "SEARCH r USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (
            &pages::PAGE_OF_STATE,
            "USING COVERING INDEX refunds_by_state (account=? AND state=? AND ordinal>? AND ordinal<?)",
        ),
        (&pages::PAGE_OF_REFERENCE, "USING PRIMARY KEY (reference=?"),
        (&pages::PAGE_OF_CALLER, "USING INDEX refunds_by_caller (created_by=? AND ordinal>? AND ordinal<?)"),
        (
            &pages::PAGE_OF_FIRST_ACCOUNT,
            "USING INDEX refunds_by_first_account (first_account=? AND state=? AND ordinal>?",
        ),
        (&queries::DISPATCHING, "USING COVERING INDEX refunds_by_state (account=? AND state=?)"),
        (&queries::OPEN_STATES, "USING COVERING INDEX refunds_by_state (account=? AND state=?)"),
    ] {
        let details = plan(sql);
        assert!(details.iter().any(|detail| detail.contains(index)), "{details:#?}");
        assert!(!details.iter().any(|detail| detail.starts_with("SCAN r")), "{details:#?}");
    }
    // From one account to the next, and no row in between.
    let accounts = plan(queries::ACCOUNTS);
    let steps = accounts.iter().filter(|detail| detail.contains("refunds"));
    assert!(steps.clone().all(|step| step.starts_with("SEARCH refunds USING COVERING INDEX")), "{accounts:#?}");
    assert_eq!(steps.count(), 2, "{accounts:#?}");
    let statements = |kind| queries::statements_of(kind);
    for (sql, indexes) in [
        (&statements(DueKind::Dispatch).due, ["refunds_due_now", "refunds_due_later"]),
        (&statements(DueKind::Dispatch).next_due, ["refunds_due_now", "refunds_due_later"]),
        (&statements(DueKind::Lookup).due, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&statements(DueKind::Lookup).next_due, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&statements(DueKind::Expiry).due, ["refunds_due_now", "refunds_put_off"]),
        (&statements(DueKind::Expiry).next_due, ["refunds_due_now", "refunds_put_off"]),
        (&queries::OLDEST_PENDING, ["refunds_due_now", "refunds_put_off"]),
        (&queries::UNAPPROVED, ["refunds_to_approve (approval_expire_time<?)"; 2]),
        (&queries::NEXT_APPROVAL_EXPIRY.to_owned(), ["USING COVERING INDEX refunds_to_approve"; 2]),
        (&queries::OLDEST_UNAPPROVED.to_owned(), ["refunds_by_state (account=? AND state=?)"; 2]),
        (&spending::of_caller_sql(), ["refunds_by_caller (created_by=? AND ordinal>?)"; 2]),
        (&spending::of_account_sql(), ["USING INTEGER PRIMARY KEY (rowid>?)"; 2]),
        (&queries::OPEN_AT, ["USING INDEX refunds_open (account=?", "USING INTEGER PRIMARY KEY"]),
        (&transaction::HASTEN.to_owned(), ["refunds_unheard (account=?", "USING INTEGER PRIMARY KEY"]),
        (&queries::HOLDERS.to_owned(), ["USING PRIMARY KEY (key=?)", "USING INTEGER PRIMARY KEY"]),
        (&queries::SIMILAR.to_owned(), ["USING PRIMARY KEY (key=?)", "USING INTEGER PRIMARY KEY"]),
    ] {
        let details = plan(sql);
        for index in indexes {
            assert!(details.iter().any(|detail| detail.contains(index)), "{index}: {details:#?}");
        }
        assert!(!details.iter().any(|detail| detail.contains("SCAN refunds")), "{details:#?}");
    }
}

#[tokio::test]
async fn the_disorder_of_create_times_is_recorded() {
    let bench = SqliteBench::new();
    let disorder = |raw: &Connection| {
        raw.query_row("SELECT max_micros FROM clock_disorder", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for (number, (second, most_seconds)) in
        [(10, 0), (20, 0), (15, 5), (30, 5), (27, 5), (22, 8), (31, 8)].iter().enumerate()
    {
        let id = format!("r{number}");
        let created = NewRefund { now: NOW.saturating_add(Duration::from_secs(*second)), ..create(sectigo(&id, &id)) };
        bench.ledger.create(created).await.unwrap();
        assert_eq!(disorder(&bench.raw()), most_seconds * 1_000_000, "after {second}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_read_while_another_program_has_the_file_locked() {
    let bench = SqliteBench::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let ledger = &bench.ledger;
    let row = ledger.executor.read_row(&ledger.state, move |_| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None).into()),
        time => Ok(time),
    });
    assert_eq!(row.await, Ok(1));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_read_while_every_inline_connection_is_lent() {
    let bench = SqliteBench::new();
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let Executor::Threads(threads) = &bench.ledger.executor else { panic!() };
    let lent: Vec<_> = std::iter::from_fn(|| threads.inline_readers.try_lease()).collect();
    assert_eq!(lent.len(), bench.settings.readers);
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund));
}

/// A gateway that starts now finds them in doubt.
#[tokio::test]
async fn a_survey_counts_dispatching_refunds_among_the_open_ones() {
    let bench = SqliteBench::new();
    for (state, id) in [(State::Dispatching, "1"), (State::InDoubt, "2"), (State::Succeeded, "3")] {
        bench.refund_in(state, id).await;
    }
    let elsewhere = NewRefund { dispatch: first_attempt(true), ..create(namecom("4", &[1])) };
    bench.ledger.create(elsewhere).await.unwrap();
    let survey = Survey::open(&bench.path()).unwrap();
    let open = survey.open_refunds().unwrap();
    let found: BTreeMap<&str, u64> = open.iter().map(|open| (open.at.account.as_str(), open.count)).collect();
    assert_eq!(found, BTreeMap::from([("certs", 2), ("domains", 1)]));
}

/// The pages of a period agree with a plain search, whatever the order of the times of creation.
#[test]
fn a_period_holds_the_refunds_that_a_plain_search_finds() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let times = proptest::collection::vec(prop_oneof![4 => 0_i64..40, 1 => -2_000_i64..2_000], 0..60);
    let period = (proptest::option::of(-50_i64..90), proptest::option::of(-50_i64..90));
    let cases = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(cases)
        .run(&(times, proptest::collection::vec(period, 12)), |(times, periods)| {
            let micros = |micros: i64| Timestamp::from_micros(NOW.as_micros() + micros);
            let disk = SimulatedDisk::new(|| true).unwrap();
            let ledger = SqliteLedger::open_inline(&disk).unwrap();
            // Mostly in order, as on a real clock.
            let times: Vec<i64> = times.iter().zip(0..).map(|(time, number)| time + number * 3 / 2).collect();
            for (time, number) in times.iter().zip(0..) {
                let id = format!("r{number}");
                let created = NewRefund { now: micros(*time), ..create(sectigo(&id, &id)) };
                runtime.block_on(ledger.create(created)).unwrap();
            }
            let certs = Some(AccountName::parse("certs").unwrap());
            for (from, before) in periods {
                for (account, states) in [(None, vec![]), (certs.clone(), vec![]), (None, vec![State::Pending])] {
                    let (created_from, created_before) = (from.map(micros), before.map(micros));
                    let query =
                        ListQuery { account, states, created_from, created_before, limit: 99, ..ListQuery::default() };
                    let found = runtime.block_on(ledger.list(query)).unwrap();
                    let found: Vec<u64> = found.iter().map(|listed| listed.ordinal).collect();
                    let is_within =
                        |time: i64| from.is_none_or(|from| time >= from) && before.is_none_or(|before| time < before);
                    let mut expected: Vec<u64> =
                        (1..).zip(&times).filter(|(_, time)| is_within(**time)).map(|(ordinal, _)| ordinal).collect();
                    expected.reverse();
                    prop_assert_eq!(found, expected);
                }
            }
            Ok(())
        })
        .unwrap();
}

/// The bounds of a period are found with some twenty rows, and the page reads no row outside them.
#[tokio::test]
async fn the_bounds_of_a_period_are_close() {
    let bench = SqliteBench::new();
    for number in 0..200 {
        let id = format!("r{number}");
        let created = NewRefund { now: NOW.saturating_add(Duration::from_secs(number)), ..create(sectigo(&id, &id)) };
        bench.ledger.create(created).await.unwrap();
    }
    let at = |second| Some(NOW.saturating_add(Duration::from_secs(second)));
    for (created_from, created_before, expected) in [
        (at(50), at(60), (50, 61)),
        (None, at(0), (0, 1)),
        (at(0), None, (0, i64::MAX)),
        (at(500), at(600), (200, 201)),
    ] {
        let query = ListQuery { created_from, created_before, limit: 9, ..ListQuery::default() };
        assert_eq!(pages::page_range(&bench.raw(), &query).unwrap(), expected);
    }
}

/// The disk hangs: health and the scrape must go on.
#[test]
fn a_read_that_hangs_does_not_hold_the_only_worker() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bench = SqliteBench::new();
    let (begins, begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let reading = runtime.spawn(async move {
        let hang = move |_: &Connection| {
            begins.send(()).unwrap();
            released.recv().unwrap();
            Ok(7)
        };
        bench.ledger.executor.read_row(&bench.ledger.state, hang).await
    });
    begun.recv_timeout(LIMIT).unwrap();
    let (answers, answered) = mpsc::channel();
    runtime.spawn(async move { answers.send(()).unwrap() });
    let answer = answered.recv_timeout(LIMIT);
    release.send(()).unwrap();
    assert_eq!(answer, Ok(()), "another task runs during the read");
    assert_eq!(runtime.block_on(reading).unwrap(), Ok(7));
}
