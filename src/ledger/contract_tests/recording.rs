//! The transition table is applied to the row as it is stored; a rejected write leaves no trace.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::event::{Event, EventKind};
use crate::domain::ids::RefundId;
use crate::domain::outcome::{Confirmation, DoubtReason};
use crate::domain::refund::Refund;
use crate::domain::state::{self, IllegalTransition, State};
use crate::ledger::{FirstAttempt, LedgerError, NewRefund};

#[rstest]
#[tokio::test]
async fn every_state_allows_the_events_of_the_table_and_no_other(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for from in State::ALL {
        for (number, event) in one_event_of_each_kind().into_iter().enumerate() {
            let id = format!("{}-{number}", from.as_str().replace('_', "-"));
            let refund = bench.refund_in(from, &id).await;
            let events = bench.count("SELECT count(*) FROM events");
            let answer = bench.record(&refund, std::slice::from_ref(&event)).await;
            match refund.apply(&event, NOW).and_then(|_| state::transition(from, &event)) {
                Ok(to) => {
                    let after = refund.apply(&event, NOW.saturating_add(Duration::from_secs(1))).unwrap();
                    assert_eq!(after.state, to);
                    assert_eq!(answer, Ok(after), "{from} {event:?}");
                }
                Err(refusal) => {
                    assert_eq!(answer, Err(LedgerError::IllegalTransition(refusal)));
                    assert_eq!(bench.count("SELECT count(*) FROM events"), events, "{from} {event:?}");
                    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund));
                }
            }
        }
    }
    bench.ledger.verify().await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_rejected_event_undoes_the_events_before_it(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let answer = bench.record(&refund, &[Event::Dispatched { credential: None }, doubted(), Event::Cancelled]).await;
    let refusal = IllegalTransition { from: State::InDoubt, event: "cancelled" };
    assert_eq!(answer, Err(LedgerError::IllegalTransition(refusal)));
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(refund));
    assert_eq!(bench.count(ATTEMPTS), 0);
}

#[rstest]
#[tokio::test]
async fn a_refund_that_may_have_happened_never_becomes_pending_or_failed(
    #[values(SqliteFile, SqliteMemory)] backend: Backend,
) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let not_sent = Event::NotSent { error: error(0), retry_at: NOW };
    let again = bench
        .record(&refund, &[Event::Dispatched { credential: None }, doubted(), Event::Dispatched { credential: None }])
        .await
        .unwrap();
    for no in [not_sent, refused()] {
        let refusal = IllegalTransition { from: State::Dispatching, event: no.kind().as_str() };
        assert_eq!(bench.record(&again, &[no]).await, Err(LedgerError::IllegalTransition(refusal)));
    }
}

#[rstest]
#[tokio::test]
async fn a_stale_decision_returns_the_present_refund(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let present = bench.record(&refund, &[Event::Dispatched { credential: None }]).await.unwrap();
    let stale = LedgerError::StaleRevision { present: Box::new(present.clone()) };
    assert_eq!(bench.record(&refund, &[Event::Cancelled]).await, Err(stale));
    assert_eq!(bench.ledger.get(refund.id()).await.unwrap(), Some(present));
}

#[rstest]
#[tokio::test]
async fn of_two_decisions_on_one_revision_one_is_recorded(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let decisions = (0..10).map(|_| bench.record(&refund, &[Event::Dispatched { credential: None }]));
    let answers = futures_util::future::join_all(decisions).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(bench.count(ATTEMPTS), 1);
}

#[rstest]
#[tokio::test]
async fn an_unknown_refund_is_not_found(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = Refund::new(sectigo("a", "100"), place("demo"), NOW);
    let answer = bench.record(&refund, &[Event::Dispatched { credential: None }]).await;
    assert_eq!(answer, Err(LedgerError::NotFound(refund.id().clone())));
    assert_eq!(bench.ledger.get(refund.id()).await, Ok(None));
    assert_eq!(bench.ledger.events_of(refund.id(), 0, 10).await, Ok(Vec::new()));
}

#[rstest]
#[tokio::test]
async fn only_its_own_answer_ends_an_attempt(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let refund = bench.new_refund(sectigo("a", "100")).await;
    let server_error = Event::Doubted {
        reason: DoubtReason::ProviderServerError,
        evidence: "500".to_owned(),
        error: Some(error(500)),
        not_processed: false,
    };
    let events = [
        Event::Dispatched { credential: None },
        server_error,
        Event::Dispatched { credential: None },
        doubted(),
        Event::Refunded(Confirmation::default()),
    ];
    bench.record(&refund, &events).await.unwrap();
    let events = bench.ledger.events_of(refund.id(), 0, 10).await.unwrap();
    let attempts: Vec<(EventKind, u32)> = events.iter().map(|event| (event.kind, event.attempt)).collect();
    let expected = [
        (EventKind::Created, 0),
        (EventKind::Dispatched, 1),
        (EventKind::Doubted, 1),
        (EventKind::Dispatched, 2),
        (EventKind::Doubted, 2),
        // What a later lookup shows ends no attempt.
        (EventKind::Refunded, 0),
    ];
    assert_eq!(attempts, expected);
}

#[rstest]
#[tokio::test]
async fn a_refund_in_flight_when_the_process_ended_is_in_doubt(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    // More than one transaction moves.
    let count = 2_505;
    let creates = (0..count).map(|number| {
        let id = format!("r{number}");
        bench
            .ledger
            .create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo(&id, &id)) })
    });
    futures_util::future::try_join_all(creates).await.unwrap();
    let waiting = bench.new_refund(sectigo("waiting", "waiting")).await;
    let bench = bench.reopened();
    let later = NOW.saturating_add(Duration::from_secs(60));
    assert_eq!(bench.ledger.mark_interrupted(later).await, Ok(count));
    assert_eq!(bench.ledger.mark_interrupted(later).await, Ok(0));
    let refund = bench.ledger.get(&RefundId::parse("r7").unwrap()).await.unwrap().unwrap();
    assert_eq!((refund.state, refund.unanswered_attempts), (State::InDoubt, 1));
    assert_eq!(refund.doubt.unwrap().reason, DoubtReason::GatewayRestarted);
    assert_eq!(bench.ledger.get(waiting.id()).await.unwrap(), Some(waiting));
    let ended = "SELECT count(*) FROM events WHERE kind = 'interrupted' AND attempt = 1";
    assert_eq!(usize::try_from(bench.count(ended)), Ok(count));
    bench.ledger.verify().await.unwrap();
}
