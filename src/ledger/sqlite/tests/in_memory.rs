//! The ledger without threads: the same promises, on a disk that outlives it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::ledger::sqlite::SimulatedDisk;

/// Done when first polled, or the simulation would depend on somebody else's thread.
fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().unwrap()
}

#[test]
fn what_was_recorded_outlives_the_ledger() {
    let disk = SimulatedDisk::new(|| true).unwrap();
    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    assert!(matches!(SqliteLedger::open_inline(&disk), Err(OpenError::InUse { .. })));
    let CreateOutcome::New(refund) = now(
        ledger.create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("r", "1")) })
    )
    .unwrap() else {
        panic!("it was there already")
    };
    assert_eq!(*ledger.committed().borrow(), 2);
    drop(ledger);

    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    assert_eq!(now(ledger.get(refund.id())).unwrap(), Some(refund.clone()));
    assert_eq!(now(ledger.mark_interrupted(NOW)), Ok(1));
    assert_eq!(now(ledger.get(refund.id())).unwrap().map(|refund| refund.state), Some(State::InDoubt));
    assert_eq!(now(ledger.verify()), Ok(3));
    now(ledger.close());
    assert!(matches!(now(ledger.get(refund.id())), Err(LedgerError::Unavailable(_))));
}

#[test]
fn a_sync_that_fails_leaves_nothing_and_ends_all_writing() {
    let comes_through = Arc::new(AtomicBool::new(true));
    let asked = comes_through.clone();
    let disk = SimulatedDisk::new(move || asked.load(Ordering::Relaxed)).unwrap();
    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    now(ledger.create(create(sectigo("kept", "1")))).unwrap();
    comes_through.store(false, Ordering::Relaxed);
    assert!(matches!(now(ledger.create(create(sectigo("lost", "2")))), Err(LedgerError::CommitFailed(_))));
    comes_through.store(true, Ordering::Relaxed);
    assert!(matches!(now(ledger.create(create(sectigo("later", "3")))), Err(LedgerError::Unavailable(_))));
    assert!(matches!(&*ledger.health().borrow(), Health::Failed(_)));
    drop(ledger);

    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    assert_eq!(*ledger.health().borrow(), Health::Writing);
    let listed = now(ledger.list(ListQuery { limit: 9, ..ListQuery::default() })).unwrap();
    assert_eq!(listed.iter().map(|one| one.refund.id().as_str()).collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn a_wiped_disk_is_a_new_one() {
    let course = |disk: &SimulatedDisk| {
        let ledger = SqliteLedger::open_inline(disk).unwrap();
        assert_eq!(*ledger.committed().borrow(), 0);
        let created =
            now(ledger
                .create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("r", "1")) }))
            .unwrap();
        assert_eq!(now(ledger.verify()), Ok(2));
        (created, now(ledger.events_after(0, 9)).unwrap())
    };
    let disk = SimulatedDisk::new(|| false).unwrap().wiped(|| true).unwrap();
    let first = course(&disk);
    let disk = disk.wiped(|| true).unwrap();
    assert_eq!(course(&disk), first, "numbers, times and hashes begin anew");
    // What keeps the history from being edited is awake again.
    let disk = disk.wiped(|| true).unwrap();
    course(&disk);
    let _lives = SqliteLedger::open_inline(&disk).unwrap();
    assert!(matches!(disk.wiped(|| true), Err(OpenError::InUse { .. })));
}
