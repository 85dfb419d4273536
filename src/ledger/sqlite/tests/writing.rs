//! How much one refund writes.

use super::*;

/// A page of the log, with its header.
const FRAME: u64 = 4_096 + 24;

/// Creation and outcome of a refund, each in a commit of its own. One more table or index is one to
/// three more pages.
#[tokio::test]
async fn a_refund_dirties_few_pages() {
    let bench = SqliteBench::new();
    // More than a leaf of every tree.
    for number in 1..=600 {
        record_one(&bench, number).await;
    }
    // The log begins anew, and no checkpoint comes before the end.
    let bench = bench.reopened();
    let log = bench.directory.path().join("ledger.db-wal");
    for number in 601..=640 {
        record_one(&bench, number).await;
    }
    let each = std::fs::metadata(&log).unwrap().len() as f64 / FRAME as f64 / 40.0;
    assert!((10.0..14.5).contains(&each), "{each} pages for one refund");
}

async fn record_one(bench: &SqliteBench, number: i32) {
    let target = NamecomTarget::new(number, &[number]).unwrap();
    let intent = intent(&format!("r{number}"), "domains", Target::Namecom(target));
    let created = NewRefund { dispatch: first_attempt(true), ..create(intent) };
    let CreateOutcome::New(refund) = bench.create(created).await.unwrap() else { panic!() };
    bench.record(&refund, &[Event::Refunded(Confirmation::default())]).await.unwrap();
}
