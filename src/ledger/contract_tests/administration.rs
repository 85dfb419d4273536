//! Figures for metrics, and backups.

use std::time::Duration;

use rstest::rstest;

use super::samples::*;
use super::{Backend, LedgerBench, SqliteFile, SqliteMemory};
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::ledger::admin::BackupError;
use crate::ledger::{CreateOutcome, NewRefund};
use crate::telemetry::metrics::Metrics;

fn after(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

#[rstest]
#[tokio::test]
async fn counts_follow_every_commit(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.refund_in(State::Succeeded, "a").await;
    assert_eq!(bench.ledger.counts(), None, "metrics are off");
    bench.ledger.enable_metrics(Metrics::off()).await;
    while bench.ledger.counts().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.refund_in(State::InDoubt, "b").await;
    let certs = AccountName::parse("certs").unwrap();
    let mut counts = bench.ledger.counts().unwrap();
    counts.retain(|(_, _, count)| *count > 0);
    assert_eq!(counts, [(certs.clone(), State::InDoubt, 1), (certs, State::Succeeded, 1)]);
    assert_eq!(bench.ledger.queue_length(), 0);
}

/// They are counted once at the start, and then from the transitions of each commit.
#[rstest]
#[tokio::test]
async fn refunds_are_counted_across_a_restart(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    for (state, id) in [(State::Succeeded, "1"), (State::Succeeded, "2"), (State::InDoubt, "3")] {
        bench.refund_in(state, id).await;
    }
    assert_eq!(bench.ledger.counts(), None, "metrics are off");
    let bench = bench.reopened();
    bench.ledger.enable_metrics(Metrics::off()).await;
    while bench.ledger.counts().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let certs = AccountName::parse("certs").unwrap();
    let counts = |bench: &LedgerBench| {
        let mut counts = bench.ledger.counts().unwrap();
        counts.retain(|(_, _, count)| *count > 0);
        counts
    };
    let expected = |succeeded| [(certs.clone(), State::InDoubt, 1), (certs.clone(), State::Succeeded, succeeded)];
    assert_eq!(counts(&bench), expected(2));
    bench.refund_in(State::Succeeded, "4").await;
    assert_eq!(counts(&bench), expected(3));
}

#[rstest]
#[tokio::test]
async fn ages_are_those_of_the_oldest_refund_of_an_account(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    let certs = AccountName::parse("certs").unwrap();
    assert_eq!(bench.ledger.oldest_pending(&certs).await, Ok(None));
    assert_eq!(bench.ledger.oldest_doubt(&certs).await, Ok(None));
    bench.refund_in(State::Succeeded, "done").await;
    bench.refund_in(State::InDoubt, "doubt").await;
    bench.new_refund(namecom("elsewhere", &[1])).await;
    // At whatever place they are, and though put off.
    bench.ledger.create(NewRefund { now: after(9), ..create(sectigo("young", "young")) }).await.unwrap();
    let old = NewRefund { now: after(3), place: place("other"), ..create(sectigo("old", "old")) };
    let CreateOutcome::New(old) = bench.create(old).await.unwrap() else { panic!() };
    assert_eq!(bench.ledger.oldest_pending(&certs).await, Ok(Some(after(3))));
    let put_off = Event::NotSent { error: error(429), retry_at: after(500) };
    let dispatched = Event::Dispatched { credential: None };
    bench.record(&old, &[dispatched, put_off]).await.unwrap();
    assert_eq!(bench.ledger.oldest_pending(&certs).await, Ok(Some(after(3))));
    assert_eq!(bench.ledger.oldest_doubt(&certs).await, Ok(Some(after(1))));
}

#[rstest]
#[tokio::test]
async fn a_backup_is_a_whole_ledger_and_replaces_no_file(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    bench.refund_in(State::InDoubt, "a").await;
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.db");
    let audit = bench.ledger.backup(&copy).await.unwrap();
    assert_eq!((audit.findings, audit.refunds, audit.events, audit.attempts), (Vec::new(), 1, 3, 1));
    assert!(matches!(bench.ledger.backup(&copy).await, Err(BackupError::Occupied { .. })));
    bench.refund_in(State::InDoubt, "b").await;
}

#[rstest]
#[tokio::test]
async fn an_access_file_is_kept_once_and_survives_a_restart(#[values(SqliteFile, SqliteMemory)] backend: Backend) {
    let bench = LedgerBench::new(backend);
    // The SHA-256 of the text.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for seconds in [1, 2] {
        bench.ledger.keep_access_file(digest, "abc", after(seconds)).await.unwrap();
    }
    let bench = bench.reopened();
    bench.ledger.keep_access_file(digest, "abc", after(3)).await.unwrap();
    assert_eq!(bench.ledger.verify().await.unwrap(), 0, "it is no event");
}
