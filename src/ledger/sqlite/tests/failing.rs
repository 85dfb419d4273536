//! What happens when the disk, the queue or a row is not as it should be.

use super::*;
use rstest::rstest;

#[tokio::test]
async fn a_full_queue_rejects_at_once_and_records_nothing() {
    let bench = SqliteBench::with(SqliteSettings { queue_length: 2, batch_size: 1, ..SqliteSettings::default() });
    let raw = bench.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The writer has taken at most one, and two are in the queue.
    let mut creations: Vec<_> = Vec::new();
    for number in 0..10 {
        let id = format!("r{number}");
        creations.push(Box::pin(bench.ledger.create(create(sectigo(&id, &id)))));
    }
    let mut answers = Vec::new();
    let mut waiting = Vec::new();
    for mut creation in creations {
        match futures_util::poll!(&mut creation) {
            std::task::Poll::Ready(answer) => answers.push(answer),
            std::task::Poll::Pending => waiting.push(creation),
        }
    }
    assert!(answers.len() >= 7, "{}", answers.len());
    assert!(answers.iter().all(|answer| *answer == Err(LedgerError::Overloaded)));
    raw.execute_batch("ROLLBACK").unwrap();
    let made = waiting.len();
    for answer in futures_util::future::join_all(waiting).await {
        answer.unwrap();
    }
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), made as i64);
}

#[tokio::test]
async fn a_lock_of_another_program_is_waited_for_and_harms_nothing() {
    let bench =
        SqliteBench::with(SqliteSettings { busy_timeout: Duration::from_millis(20), ..SqliteSettings::default() });
    let raw = bench.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let request = create(sectigo("a", "100"));
    assert_eq!(bench.create(request.clone()).await, Err(LedgerError::Overloaded));
    assert!(matches!(bench.ledger.mark_interrupted(NOW).await, Err(LedgerError::Unavailable(_))));
    raw.execute_batch("ROLLBACK").unwrap();
    assert_eq!(*bench.ledger.health().borrow(), Health::Writing);
    assert!(request.ticket.cancel(), "it was never started");
    bench.new_refund(sectigo("a", "100")).await;
}

#[tokio::test]
async fn another_programs_write_to_the_history_ends_all_writing() {
    let bench = SqliteBench::new();
    bench.refund_in(State::Failed, "a").await;
    bench.tamper("DELETE FROM events WHERE sequence = 3");
    let answer = bench.create(create(sectigo("b", "200"))).await;
    assert!(matches!(answer, Err(LedgerError::Corrupt { table: "events", .. })), "{answer:?}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 1);
}

#[tokio::test]
async fn a_full_disk_ends_all_writing_and_loses_nothing_acknowledged() {
    let bench = SqliteBench::with(SqliteSettings { max_pages: Some(60), batch_size: 4, ..SqliteSettings::default() });
    let mut health = bench.ledger.health();
    let mut acknowledged = Vec::new();
    let mut refused = Vec::new();
    'full: for round in 0..1_000 {
        let ids: Vec<String> = (0..4).map(|number| format!("r{round}-{number}")).collect();
        let creations = ids.iter().map(|id| bench.ledger.create(create(sectigo(id, id))));
        for (id, answer) in ids.iter().zip(futures_util::future::join_all(creations).await) {
            match answer.map(|recorded| recorded.outcome) {
                Ok(CreateOutcome::New(refund)) => acknowledged.push(refund),
                Err(LedgerError::Unavailable(_)) => refused.push(id.clone()),
                other => panic!("{other:?}"),
            }
        }
        if !refused.is_empty() {
            break 'full;
        }
    }
    assert!(acknowledged.len() > 20 && !refused.is_empty());
    health.changed().await.unwrap();
    let Health::Failed(problem) = health.borrow().clone() else { panic!("{health:?}") };
    assert!(problem.contains("full"), "{problem}");

    // There would be room for one event, and it is not written.
    let first = acknowledged.first().unwrap().clone();
    assert!(matches!(
        bench.record(&first, &[Event::Dispatched { credential: None }]).await,
        Err(LedgerError::Unavailable(_))
    ));
    assert!(matches!(bench.ledger.mark_interrupted(NOW).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(bench.ledger.get(first.id()).await, Ok(Some(first.clone())), "it can still be read");
    let committed = *bench.ledger.committed().borrow();
    assert_eq!(committed, acknowledged.len() as u64);

    let bench = SqliteBench { settings: SqliteSettings::default(), ..bench }.reopened();
    assert_eq!(*bench.ledger.health().borrow(), Health::Writing);
    for refund in &acknowledged {
        assert_eq!(bench.ledger.get(refund.id()).await, Ok(Some(refund.clone())));
    }
    assert_eq!(bench.ledger.verify().await, Ok(committed));
    let id = refused.first().unwrap();
    bench.ledger.create(create(sectigo(id, id))).await.unwrap();
}

#[tokio::test]
async fn a_failed_commit_differs_from_a_write_that_never_happened() {
    let bench = SqliteBench::new();
    bench
        .raw()
        .execute_batch(
            "CREATE TABLE late (ordinal INTEGER REFERENCES refunds (ordinal) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER commits_fail AFTER INSERT ON refunds BEGIN INSERT INTO late VALUES (-1); END;",
        )
        .unwrap();
    let answer = bench.create(create(sectigo("a", "100"))).await;
    assert!(matches!(answer, Err(LedgerError::CommitFailed(_))), "{answer:?}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Failed(_)));
    let answer = bench.create(create(sectigo("b", "200"))).await;
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn an_overwritten_file_is_corrupt_and_not_just_unavailable() {
    let bench = SqliteBench::new();
    let refund = bench.new_refund(sectigo("a", "100")).await;
    // What was written before the last start is in the file alone.
    let bench = bench.reopened();
    let path = bench.path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let read = bench.ledger.get(refund.id()).await;
    assert!(matches!(read, Err(LedgerError::Corrupt { .. })), "{read:?}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
    let answer = bench.create(create(sectigo("b", "200"))).await;
    assert!(matches!(answer, Err(LedgerError::Corrupt { .. })), "{answer:?}");

    let SqliteBench { directory, ledger, .. } = bench;
    drop(ledger);
    let error = SqliteLedger::open(&path, SqliteSettings::default()).unwrap_err();
    assert!(matches!(&error, OpenError::Database { problem, .. } if problem.contains("malformed")), "{error}");
    drop(directory);
}

#[rstest]
#[case("state = 'DONE'", "state", "names no state")]
#[case("account = 'UPPER'", "account", "must be 1 to 63 of a-z 0-9 and \"-\"")]
#[case("provider = 'paypal'", "provider", "names no provider")]
#[case("provider = 'namecom'", "target", "order_number: is not a field of this target")]
#[case("target = '{'", "target", "EOF")]
#[case("target = '{\"order_number\":\"a\"}'", "target", "reason: must be one of the eleven")]
#[case("target = '{\"order_number\":\"\",\"reason_code\":11}'", "target", "order_number: must be 1 to 64 of A-Z")]
#[case("target = '{\"order_number\":\"a\",\"reason_code\":12}'", "target", "reason: must be one of the eleven")]
#[case("target = '{\"order_number\":7,\"reason_code\":11}'", "target", "order_number: must be a text")]
#[case("target = '{\"order_number\":\"a\",\"reason_code\":\"11\"}'", "target", "reason_code: must be an integer")]
#[case(
    "target = '{\"order_number\":\"a\",\"reason_code\":null}'",
    "target",
    "reason_code: is no text, integer or list"
)]
#[case(
    "target = '{\"odd\":1,\"order_number\":\"a\",\"reason_code\":11}'",
    "target",
    "odd: is not a field of this target"
)]
#[case("target = '{\"reason_code\":11,\"order_number\":\"a\"}'", "target", "is not in the form in which it is written")]
#[case(
    "target = '{\"order_number\":\"a\", \"reason_code\":11}'",
    "target",
    "is not in the form in which it is written"
)]
#[case("target = '[]'", "target", "expected a map")]
#[case("labels = '{'", "labels", "EOF")]
#[case("labels = '{ }'", "labels", "is not in the form in which it is written")]
#[case("labels = '{\"a\":1}'", "labels", "expected a string")]
#[case("items = '[{\"item_id\":\"1\"}]'", "items", "missing field")]
#[case("items = '[{\"item_id\":\"1\",\"state\":\"gone\",\"refunded\":null}]'", "items", "names no item state: gone")]
#[case("revision = -1", "revision", "is -1, which is out of range")]
#[case("attempt_count = 5000000000", "attempt_count", "is 5000000000, which is out of range")]
#[case("unanswered_attempts = 5", "unanswered_attempts", "is above the number of attempts")]
#[case("doubt_reason = NULL", "doubt_since", "is not in the form in which it is written")]
#[case("doubt_since = NULL", "doubt_since", "is NULL")]
#[case("state = 'SUBMITTED'", "doubt_reason", "is there exactly when the refund is in doubt: it is SUBMITTED")]
#[case("complete_time = 1", "complete_time", "is there exactly when the refund is complete")]
#[case("not_before = 1", "not_before", "is there only while the refund is pending")]
#[case("error_code = 'x'", "error_message", "is NULL")]
#[case("refunded_currency_code = 'JPY'", "refunded_currency_code", "must be a currency with two decimals")]
#[case("refunded_minor_units = 5", "refunded_minor_units", "is not in the form in which it is written")]
#[case("provider_status = CAST(x'ff' AS TEXT)", "provider_status", "is not UTF-8")]
#[tokio::test]
async fn a_corrupt_row_is_named_and_ends_all_writing(
    #[case] edit: &str,
    #[case] expected_column: &str,
    #[case] words: &str,
) {
    let bench = SqliteBench::new();
    bench.refund_in(State::Failed, "other").await;
    let refund = bench.refund_in(State::InDoubt, "a").await;
    bench.tamper(&format!("UPDATE refunds SET {edit} WHERE id = 'a'"));
    match bench.ledger.get(refund.id()).await {
        Err(LedgerError::Corrupt { table: "refunds", column, row, problem }) => {
            assert_eq!((column, row.as_str()), (expected_column, "ordinal 2"));
            assert!(problem.contains(words), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
    let answer = bench.create(create(sectigo("b", "200"))).await;
    assert!(matches!(answer, Err(LedgerError::Corrupt { .. })), "{answer:?}");
}

#[rstest]
#[case("to_state = 'DONE'", "to_state", "names no state")]
#[case("refund_digest = x'00'", "refund_digest", "is not 32 bytes long")]
#[case("revision = -3", "revision", "is -3, which is out of range")]
#[tokio::test]
async fn a_corrupt_event_is_named(#[case] edit: &str, #[case] expected_column: &str, #[case] words: &str) {
    let bench = SqliteBench::new();
    bench.refund_in(State::InDoubt, "a").await;
    bench.tamper(&format!("UPDATE events SET {edit} WHERE sequence = 2"));
    match bench.ledger.events_after(0, 10).await {
        Err(LedgerError::Corrupt { table: "events", column, row, problem }) => {
            assert_eq!((column, row.as_str()), (expected_column, "sequence 2"));
            assert!(problem.contains(words), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

/// The dangerous edit: a row that is well-formed and would send money a second time.
#[tokio::test]
async fn a_refund_set_back_by_hand_is_never_sent_again() {
    let bench = SqliteBench::new();
    let refund = bench.refund_in(State::Succeeded, "a").await;
    bench.tamper("UPDATE refunds SET state = 'PENDING', complete_time = NULL");
    let answer = bench.record(&refund, &[Event::Dispatched { credential: None }]).await;
    assert!(matches!(answer, Err(LedgerError::Corrupt { table: "refunds", column: "(row)", .. })), "{answer:?}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
    assert_eq!(bench.count(ATTEMPTS), 1);
}

#[tokio::test]
async fn a_corrupt_row_does_not_undo_its_neighbours_in_the_batch() {
    let bench = SqliteBench::new();
    let refund = bench.refund_in(State::InDoubt, "a").await;
    let neighbour = bench.new_refund(sectigo("b", "b")).await;
    bench.tamper("UPDATE refunds SET state = 'DONE' WHERE id = 'a'");
    let raw = bench.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The first occupies the writer, so that the other two wait and are taken together.
    let first = bench.ledger.create(create(sectigo("c", "c")));
    let corrupt = bench.record(&refund, &[Event::Dispatched { credential: None }]);
    let well = bench.record(&neighbour, &[Event::Dispatched { credential: None }]);
    let release = async { raw.execute_batch("ROLLBACK").unwrap() };
    let (first, corrupt, well, ()) = tokio::join!(biased; first, corrupt, well, release);
    assert!(first.is_ok());
    assert!(matches!(corrupt, Err(LedgerError::Corrupt { .. })));
    // Taken with the corrupt one or, if the writer was faster, rejected after it: never half.
    let present = bench.ledger.get(neighbour.id()).await.unwrap().unwrap();
    match well {
        Ok(dispatched) => assert_eq!(present, dispatched),
        Err(_) => assert_eq!(present, neighbour),
    }
}

#[rstest]
#[case::the_file("")]
#[case::its_log("-wal")]
#[case::the_logs_index("-shm")]
#[case::the_lock(".lock")]
#[tokio::test]
async fn a_removed_or_replaced_file_ends_all_writing(#[case] suffix: &str, #[values(false, true)] replaced: bool) {
    let bench = SqliteBench::new();
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let name = bench.directory.path().join(format!("ledger.db{suffix}"));
    std::fs::rename(&name, bench.directory.path().join("moved")).unwrap();
    if replaced {
        std::fs::copy(bench.directory.path().join("moved"), &name).unwrap();
    }
    // A name that is put back may show it after all. The watching thread may be faster.
    let answer = bench.record(&refund, &[Event::Dispatched { credential: None }]).await;
    let Err(LedgerError::CommitFailed(problem) | LedgerError::Unavailable(problem)) = answer else {
        panic!("it was acknowledged in a file that has lost its name")
    };
    let word = if replaced { "was replaced while it was open" } else { "was removed while it was open" };
    assert!(problem.contains(word) && problem.contains(&format!("ledger.db{suffix} ")), "{problem}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Failed(_)));
    let next = bench.ledger.create(create(sectigo("b", "200"))).await;
    assert!(matches!(next, Err(LedgerError::Unavailable(_))), "{next:?}");
}

#[tokio::test]
async fn a_removed_file_is_noticed_without_a_write() {
    let bench = SqliteBench::new();
    let mut health = bench.ledger.health();
    std::fs::remove_file(bench.path()).unwrap();
    let noticed = tokio::time::timeout(Duration::from_secs(30), health.wait_for(|health| *health != Health::Writing));
    let Health::Failed(problem) = noticed.await.unwrap().unwrap().clone() else {
        panic!("{:?}", bench.ledger.health())
    };
    assert!(problem.contains("was removed while it was open"), "{problem}");
}

#[tokio::test]
async fn a_row_changed_since_its_attempt_began_is_rejected() {
    let bench = SqliteBench::new();
    let dispatched = |id| NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo(id, id)) };
    let CreateOutcome::New(touched) = bench.create(dispatched("a")).await.unwrap() else { panic!() };
    bench.raw().execute("UPDATE refunds SET provider_reference = 'another''s'", []).unwrap();
    let answer = bench.record(&touched, &[Event::Refunded(Confirmation::default())]).await;
    assert!(matches!(answer, Err(LedgerError::Corrupt { table: "refunds", .. })), "{answer:?}");
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
}

#[tokio::test]
async fn a_step_that_fails_half_way_does_not_undo_its_neighbours() {
    let bench = SqliteBench::new();
    let raw = bench.raw();
    // No request can cause this: the refund's row and its first event are written by then.
    raw.execute_batch(
        "CREATE TRIGGER planted BEFORE INSERT ON refund_references WHEN NEW.reference = '102' \
         BEGIN SELECT RAISE(ABORT, 'planted'); END; BEGIN IMMEDIATE",
    )
    .unwrap();
    let orders = ["100", "101", "102", "103", "104"];
    let creations = orders
        .map(|order| NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo(order, order)) });
    let mut creations: Vec<_> = creations.map(|creation| Box::pin(bench.ledger.create(creation))).into();
    for creation in &mut creations {
        assert!(futures_util::poll!(creation).is_pending());
    }
    // The first has waited for the file, the others for the first.
    raw.execute_batch("ROLLBACK").unwrap();
    for (order, created) in orders.into_iter().zip(futures_util::future::join_all(creations).await) {
        match created.map(|recorded| recorded.outcome) {
            Ok(CreateOutcome::New(refund)) => {
                let done = bench.record(&refund, &[Event::Refunded(Confirmation::default())]).await.unwrap();
                assert_eq!(done.state, State::Succeeded);
            }
            other => {
                assert_eq!(order, "102");
                assert!(matches!(other, Err(LedgerError::Unavailable(_))), "{other:?}");
            }
        }
    }
    assert_eq!(bench.count("SELECT count(*) FROM refunds"), 4);
    assert_eq!(bench.ledger.verify().await, Ok(12));
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_not_undo_its_queued_write() {
    let bench = SqliteBench::new();
    let raw = bench.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let creation = tokio::time::timeout(Duration::from_millis(1), bench.ledger.create(create(sectigo("a", "100"))));
    assert!(creation.await.is_err());
    raw.execute_batch("ROLLBACK").unwrap();
    // The queue keeps its order, so the second answer comes after the first write.
    bench.new_refund(sectigo("b", "200")).await;
    assert!(bench.ledger.get(&RefundId::parse("a").unwrap()).await.unwrap().is_some());
}
