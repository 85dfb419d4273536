//! The ledger on this machine's disk: a refund from its creation to its outcome, alone and 64 at a
//! time, and the verification of the chain.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use futures_util::future::join_all;
use recoup::domain::authority::{Actor, Authority};
use recoup::domain::event::Event;
use recoup::domain::ids::ProviderKind;
use recoup::domain::outcome::Confirmation;
use recoup::domain::refund::Refund;
use recoup::ledger::sqlite::{SqliteLedger, SqliteSettings};
use recoup::ledger::{
    CreateOutcome, FirstAttempt, Ledger as _, LedgerAdmin as _, NewRefund, RecordEvents, RelatedLogins, Ticket,
};
use tokio::runtime::{Builder, Runtime};

use crate::samples::{self, NOW};

/// Refunds in the ledger whose chain is verified.
const VERIFIED: i32 = 2_000;

pub(crate) fn all(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Not under /tmp, which may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ledger = open(&folder.path().join("steps.db"));
    let next = Cell::new(1);
    let numbers = |count: i32| {
        let first = next.replace(next.get() + count);
        first..first + count
    };
    let mut group = criterion.benchmark_group("ledger");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for batch in [1, 64] {
        group.throughput(Throughput::Elements(u64::try_from(batch).unwrap()));
        group.bench_function(format!("create, {batch} at a time"), |bencher| {
            let creates = || numbers(batch).map(create).collect::<Vec<_>>();
            bencher.iter_batched(creates, |creates| create_all(&runtime, &ledger, creates), BatchSize::PerIteration);
        });
        group.bench_function(format!("record the outcome, {batch} at a time"), |bencher| {
            let created = || create_all(&runtime, &ledger, numbers(batch).map(create).collect());
            bencher.iter_batched(created, |refunds| finish_all(&runtime, &ledger, refunds), BatchSize::PerIteration);
        });
    }
    let verified = open(&folder.path().join("verified.db"));
    let refunds = create_all(&runtime, &verified, (1..=VERIFIED).map(create).collect());
    finish_all(&runtime, &verified, refunds);
    let events = runtime.block_on(verified.verify()).unwrap();
    group.throughput(Throughput::Elements(events));
    group.bench_function("verify the chain, an event", |bencher| {
        bencher.iter(|| runtime.block_on(verified.verify()).unwrap());
    });
}

fn open(path: &Path) -> SqliteLedger {
    SqliteLedger::open(path, SqliteSettings { batch_size: 64, ..SqliteSettings::default() }).unwrap()
}

fn create(number: i32) -> NewRefund {
    NewRefund {
        intent: samples::intent(ProviderKind::Namecom, number),
        place: samples::place(),
        related: RelatedLogins::default(),
        dispatch: Some(FirstAttempt { credential: None }),
        allow_similar: false,
        by: Authority::unrestricted(),
        now: NOW,
        ticket: Ticket::default(),
        trace_parent: None,
    }
}

fn create_all(runtime: &Runtime, ledger: &SqliteLedger, creates: Vec<NewRefund>) -> Vec<Refund> {
    let created = runtime.block_on(join_all(creates.into_iter().map(|create| ledger.create(create))));
    let refund = |created| match created {
        CreateOutcome::New(refund) | CreateOutcome::Known(refund) => refund,
    };
    created.into_iter().map(|created| refund(created.unwrap().outcome)).collect()
}

fn finish_all(runtime: &Runtime, ledger: &SqliteLedger, refunds: Vec<Refund>) {
    let records = refunds.into_iter().map(|refund| RecordEvents {
        id: refund.id().clone(),
        revision: refund.revision,
        events: vec![Event::Refunded(Confirmation::default())],
        next_check: None,
        actor: Actor::gateway(),
        now: NOW,
    });
    let recorded = runtime.block_on(join_all(records.map(|record| ledger.record(record))));
    recorded.into_iter().for_each(|recorded| drop(recorded.unwrap()));
}
