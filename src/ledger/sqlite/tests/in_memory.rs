//! The ledger without threads, on a disk that outlives it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::ledger::sqlite::SimulatedDisk;

/// The call must be done when first polled, or the simulation would depend on another thread.
fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().unwrap()
}

#[test]
fn recorded_refunds_outlive_the_ledger() {
    let disk = SimulatedDisk::new(|| true).unwrap();
    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    assert!(matches!(SqliteLedger::open_inline(&disk), Err(OpenError::InUse { .. })));
    let CreateOutcome::New(refund) = now(
        ledger.create(NewRefund { dispatch: Some(FirstAttempt { credential: None }), ..create(sectigo("r", "1")) })
    )
    .unwrap()
    .outcome
    else {
        panic!("it was recorded before")
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
fn a_failed_sync_leaves_nothing_and_ends_all_writing() {
    let syncs = Arc::new(AtomicBool::new(true));
    let hook = syncs.clone();
    let disk = SimulatedDisk::new(move || hook.load(Ordering::Relaxed)).unwrap();
    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    now(ledger.create(create(sectigo("kept", "1")))).unwrap();
    syncs.store(false, Ordering::Relaxed);
    assert!(matches!(now(ledger.create(create(sectigo("lost", "2")))), Err(LedgerError::CommitFailed(_))));
    syncs.store(true, Ordering::Relaxed);
    assert!(matches!(now(ledger.create(create(sectigo("later", "3")))), Err(LedgerError::Unavailable(_))));
    assert!(matches!(&*ledger.health().borrow(), Health::Failed(_)));
    drop(ledger);

    let ledger = SqliteLedger::open_inline(&disk).unwrap();
    assert_eq!(*ledger.health().borrow(), Health::Writing);
    let listed = now(ledger.list(ListQuery { limit: 9, ..ListQuery::default() })).unwrap();
    assert_eq!(listed.iter().map(|one| one.refund.id().as_str()).collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn a_wiped_disk_is_like_a_new_one() {
    let run = |disk: &SimulatedDisk| {
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
    let first = run(&disk);
    let disk = disk.wiped(|| true).unwrap();
    assert_eq!(run(&disk), first, "numbers, times and hashes begin anew");
    // The triggers work again.
    let disk = disk.wiped(|| true).unwrap();
    run(&disk);
    let _lives = SqliteLedger::open_inline(&disk).unwrap();
    assert!(matches!(disk.wiped(|| true), Err(OpenError::InUse { .. })));
}
