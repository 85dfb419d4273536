//! The history has no gaps and is appended to only.

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::history::EventRecord;
use crate::domain::state::State;
use crate::ledger::{CreateOutcome, NewRefund};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sequence_has_no_gaps_when_requests_are_rejected(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let ledger = &bench.ledger;
    let creations = (0..200).map(|number| async move {
        // Every third asks for an order that another has; every seventh reuses an id.
        let order = if number % 3 == 0 { "contested".to_owned() } else { format!("order-{number}") };
        let id = if number % 7 == 0 { "reused".to_owned() } else { format!("r{number}") };
        let answer = ledger
            .create(NewRefund { dispatch: first_attempt(number % 2 == 0), ..create(sectigo(&id, &order)) })
            .await
            .map(|recorded| recorded.outcome);
        if let Ok(CreateOutcome::New(refund)) = &answer {
            // A caller gets its reply only after the events are published.
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

#[rstest]
#[tokio::test]
async fn a_history_is_read_in_pages(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
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
