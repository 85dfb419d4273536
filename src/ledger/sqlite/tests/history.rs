//! The history: without gaps, chained, and appended to only.

use super::*;
use rstest::rstest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sequence_has_no_gaps_whatever_is_refused_in_between() {
    let bench = Bench::new();
    let ledger = &bench.ledger;
    let creations = (0..200).map(|number| async move {
        // Every third asks for an order that another has; every seventh reuses an id.
        let order = if number % 3 == 0 { "contested".to_owned() } else { format!("order-{number}") };
        let id = if number % 7 == 0 { "reused".to_owned() } else { format!("r{number}") };
        let answer =
            ledger.create(NewRefund { dispatch: first_attempt(number % 2 == 0), ..create(sectigo(&id, &order)) }).await;
        if let Ok(CreateOutcome::New(refund)) = &answer {
            // AttemptFromEvents only of what the followers of the history can see.
            let events = ledger.events_of(refund.id(), 0, 10).await.unwrap();
            assert!(events.iter().all(|event| event.sequence <= *ledger.committed().borrow()));
        }
        answer.is_ok()
    });
    let made = futures_util::future::join_all(creations).await;
    assert!(made.contains(&true) && made.contains(&false));
    let events = ledger.events_after(0, 1_000).await.unwrap();
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    assert_eq!(ledger.verify().await, Ok(sequences.len() as u64));
    assert_eq!(*ledger.committed().borrow(), sequences.len() as u64);
}

#[tokio::test]
async fn a_history_is_read_in_pages() {
    let bench = Bench::new();
    let refund = bench.refund_in(State::Succeeded, "a").await;
    bench.refund_in(State::Failed, "b").await;
    let revisions = |events: Vec<EventRecord>| events.into_iter().map(|event| event.revision).collect::<Vec<_>>();
    assert_eq!(revisions(bench.ledger.events_of(refund.id(), 0, 2).await.unwrap()), [1, 2]);
    assert_eq!(revisions(bench.ledger.events_of(refund.id(), 2, 2).await.unwrap()), [3]);
    let sequences = |events: Vec<EventRecord>| events.into_iter().map(|event| event.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(bench.ledger.events_after(0, 4).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(sequences(bench.ledger.events_after(4, 4).await.unwrap()), [5, 6]);
    assert_eq!(sequences(bench.ledger.events_after(u64::MAX, 4).await.unwrap()), Vec::<u64>::new());
}

#[rstest]
#[case::an_event_edited("UPDATE events SET note = 'nothing happened' WHERE sequence = 2", "events", "chain_hash")]
#[case::an_actor_edited("UPDATE events SET actor = 'somebody' WHERE sequence = 1", "events", "chain_hash")]
#[case::a_kind_edited("UPDATE events SET kind = 'cancelled' WHERE sequence = 3", "events", "chain_hash")]
#[case::an_event_dropped("DELETE FROM events WHERE sequence = 2", "events", "sequence")]
#[case::the_last_event_dropped("DELETE FROM events WHERE sequence = 6", "refunds", "revision")]
#[case::a_history_dropped("DELETE FROM events WHERE sequence > 3", "refunds", "ordinal")]
#[case::a_refund_dropped("DELETE FROM refunds WHERE id = 'a'", "events", "sequence")]
#[case::a_reference_edited("UPDATE refunds SET provider_reference = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::a_login_edited("UPDATE refunds SET login = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::an_account_edited("UPDATE refunds SET account = 'x' WHERE id = 'a'", "refunds", "(row)")]
#[case::a_label_edited("UPDATE refunds SET labels = '{}' WHERE id = 'b'", "refunds", "(row)")]
#[case::a_row_set_back(
    "UPDATE refunds SET state = 'DISPATCHING', revision = 2, complete_time = NULL WHERE id = 'a'",
    "refunds",
    "revision"
)]
#[tokio::test]
async fn whatever_is_edited_breaks_the_chain(#[case] sql: &str, #[case] table: &str, #[case] column: &str) {
    let bench = Bench::new();
    bench.refund_in(State::Succeeded, "a").await;
    bench.refund_in(State::Succeeded, "b").await;
    assert_eq!(bench.ledger.verify().await, Ok(6));
    bench.tamper(sql);
    match bench.ledger.verify().await {
        Err(LedgerError::Corrupt { table: found, column: at, .. }) => assert_eq!((found, at), (table, column)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(&*bench.ledger.health().borrow(), Health::Corrupt(_)));
}

#[rstest]
#[case("UPDATE events SET note = ''")]
#[case("DELETE FROM events")]
#[case(
    "INSERT INTO events SELECT sequence + 2, ordinal, revision + 9, event_time, 'FAILED', to_state, 'x', 0, actor, note, refund_digest, chain_hash FROM events WHERE sequence = 3"
)]
#[case("UPDATE refunds SET provider = 'namecom'")]
#[case("DELETE FROM refunds")]
#[case("UPDATE attempts SET outcome = 'refused'")]
#[case("DELETE FROM attempts")]
#[case("UPDATE refunds SET state = 'IN_DOUBT'")]
#[case("UPDATE refunds SET state = 'DONE'")]
#[tokio::test]
async fn the_tables_refuse_what_the_program_never_does(#[case] sql: &str) {
    let bench = Bench::new();
    bench.refund_in(State::Succeeded, "a").await;
    let refusal = bench.raw().execute_batch(sql).unwrap_err();
    assert_eq!(refusal.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation), "{refusal}");
    assert_eq!(bench.ledger.verify().await, Ok(3));
}

/// The encoding that the documentation describes, written down a second time.
#[tokio::test]
async fn an_auditor_computes_the_same_hashes_from_the_tables() {
    use sha2::{Digest, Sha256};
    fn item(cell: rusqlite::types::ValueRef<'_>) -> Vec<u8> {
        use rusqlite::types::ValueRef::{Blob, Integer, Null, Real, Text};
        match cell {
            Null => vec![0],
            Integer(number) => [&[1][..], &number.to_be_bytes()].concat(),
            Text(bytes) => [&[2][..], &(bytes.len() as u64).to_be_bytes(), bytes].concat(),
            Blob(bytes) => [&[3][..], &(bytes.len() as u64).to_be_bytes(), bytes].concat(),
            Real(_) => panic!("no column is a float"),
        }
    }
    let text = |text: &str| item(rusqlite::types::ValueRef::Text(text.as_bytes()));
    // Each item that is present, by its name.
    let named = |name: &str, cell: rusqlite::types::ValueRef<'_>| match cell {
        rusqlite::types::ValueRef::Null => Vec::new(),
        cell => [text(name), item(cell)].concat(),
    };
    let bench = Bench::new();
    bench.refund_in(State::NeedsReview, "a").await;
    let raw = bench.raw();

    let mut statement = raw.prepare("SELECT * FROM refunds").unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let row = rows.next().unwrap().unwrap();
    let schedule = ["next_check", "unheard", "doubt_check_count"];
    let of_column = |index: usize| match row.as_ref().column_name(index).unwrap() {
        name if schedule.contains(&name) => Vec::new(),
        name => named(name, row.get_ref(index).unwrap()),
    };
    let cells: Vec<u8> = (0..columns).flat_map(of_column).collect();
    let digest: [u8; 32] = Sha256::digest([text("recoup refund 2"), cells].concat()).into();

    let mut before = vec![0_u8; 32];
    let mut last_digest = Vec::new();
    let names = [
        "sequence",
        "refund",
        "revision",
        "event_time",
        "from_state",
        "to_state",
        "kind",
        "attempt",
        "actor",
        "note",
        "refund_digest",
    ];
    let columns = names.join(", ").replace("refund,", "'a',");
    let mut statement = raw.prepare(&format!("SELECT {columns}, chain_hash FROM events ORDER BY sequence")).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let cells: Vec<u8> =
            (0..names.len()).flat_map(|index| named(names[index], row.get_ref(index).unwrap())).collect();
        let previous = named("previous", rusqlite::types::ValueRef::Blob(&before));
        let hash = Sha256::digest([text("recoup event 2"), previous, cells].concat()).to_vec();
        assert_eq!(row.get::<_, Vec<u8>>(names.len()).unwrap(), hash);
        before = hash;
        last_digest = row.get::<_, Vec<u8>>(names.len() - 1).unwrap();
    }
    assert_eq!(last_digest, digest);
}
