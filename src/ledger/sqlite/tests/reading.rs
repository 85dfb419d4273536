//! No query reads a whole table, and a row is read while the file is locked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

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
    let account = Some(AccountName::parse("certs").unwrap());
    let states = vec![State::InDoubt, State::NeedsReview];
    for (query, index) in [
        (ListQuery { states: states.clone(), limit: 9, ..ListQuery::default() }, "refunds_of_state"),
        (ListQuery { account: account.clone(), limit: 9, ..ListQuery::default() }, "refunds_of_account"),
        (
            ListQuery { account: account.clone(), states, limit: 9, before_ordinal: Some(5), ..ListQuery::default() },
            "refunds_of_account",
        ),
        (
            ListQuery { target_reference: Some("x".to_owned()), limit: 9, ..ListQuery::default() },
            "USING PRIMARY KEY (reference=?",
        ),
        (ListQuery { created_before: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
        (ListQuery { created_from: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
        (ListQuery { account, created_before: Some(NOW), limit: 9, ..ListQuery::default() }, "refunds_by_time"),
    ] {
        let details = plan(&queries::page_sql(&query));
        assert!(details.iter().any(|detail| detail.contains(index)), "{details:#?}");
        assert!(!details.iter().any(|detail| detail.starts_with("SCAN r")), "{details:#?}");
    }
    let statements = |kind| queries::statements_of(kind);
    for (sql, indexes) in [
        (&statements(DueKind::Dispatch).due, ["refunds_due_now", "refunds_due_later"]),
        (&statements(DueKind::Dispatch).next_due, ["refunds_due_now", "refunds_due_later"]),
        (&statements(DueKind::Lookup).due, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&statements(DueKind::Lookup).next_due, ["refunds_to_check_now", "refunds_to_check_later"]),
        (&statements(DueKind::Expiry).due, ["refunds_due_now", "refunds_put_off"]),
        (&statements(DueKind::Expiry).next_due, ["refunds_due_now", "refunds_put_off"]),
        (&queries::OLDEST_PENDING, ["refunds_due_now", "refunds_put_off"]),
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
