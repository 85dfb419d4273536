//! The ledger of a run: the real one without threads, with commits that take time, crashes before
//! and after a commit, and disk faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use recoup::domain::authority::Actor;
use recoup::domain::clock::Timestamp;
use recoup::domain::event::{Event, Observation, RecordSeen};
use recoup::domain::history::EventRecord;
use recoup::domain::ids::{AccountName, ProviderKind, RefundId};
use recoup::domain::place::Destination;
use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::ledger::sqlite::SqliteLedger;
use recoup::ledger::{
    AccountPause, CreateOutcome, DueKind, DueQuery, Health, Ledger, LedgerError, ListQuery, ListedRefund, NewPause,
    NewRefund, OpenRefunds, Reassign, RecordEvents, Recorded, Reschedule,
};
use tokio::sync::watch;

use crate::plan::WriteFault;
use crate::sim::{Process, Sim, lock};

/// The ledger of one process.
pub(crate) struct SimLedger {
    inner: Arc<SqliteLedger>,
    sim: Arc<Sim>,
    process: Arc<Process>,
    committed: watch::Sender<u64>,
    health: watch::Sender<Health>,
}

impl SimLedger {
    pub(crate) fn new(inner: Arc<SqliteLedger>, sim: Arc<Sim>, process: Arc<Process>) -> Self {
        let committed = watch::Sender::new(*inner.committed().borrow());
        let health = watch::Sender::new(inner.health().borrow().clone());
        Self { inner, sim, process, committed, health }
    }

    async fn write<T>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, LedgerError>> + Send,
    ) -> Result<T, LedgerError> {
        self.process.stop_if_ended().await;
        let _busy = self.sim.busy();
        let nth = self.sim.next_write();
        let planned =
            self.sim.plan.disk_faults.iter().find(|fault| fault.nth == nth).filter(|_| !self.sim.are_faults_off());
        let fault = planned.map(|planned| planned.fault);
        let mut rng = self.sim.rng(&[2, u64::from(nth)]);
        let longest = self.sim.plan.behaviour.commit_ms;
        let mut before = Duration::from_millis(rng.between(0, longest));
        let after = Duration::from_millis(rng.between(0, longest));
        if let Some(fault) = fault {
            self.sim.count(|figures| *figures.faults.entry(fault.class()).or_default() += 1);
            self.sim.trace(format_args!("  disk {nth}: {fault:?}"));
        }
        match fault {
            Some(WriteFault::Busy) => return Err(LedgerError::Overloaded),
            Some(WriteFault::Slow { ms }) => before += Duration::from_millis(ms),
            _ => {}
        }
        tokio::time::sleep(before).await;
        self.process.stop_if_ended().await;
        if fault == Some(WriteFault::CrashBefore) {
            self.crash("before a commit", &mut rng).await;
        }
        if let Health::Failed(why) = &*self.health.borrow() {
            return Err(LedgerError::Unavailable(why.clone()));
        }
        let first = *self.inner.committed().borrow();
        if fault == Some(WriteFault::FailsAndIsLost) {
            self.sim.syncs.store(false, Ordering::Relaxed);
        }
        let done = work.await;
        self.sim.syncs.store(true, Ordering::Relaxed);
        let last = *self.inner.committed().borrow();
        let result = done.as_ref().map_or_else(LedgerError::to_string, |_| "ok".to_owned());
        self.sim.trace(format_args!("write {nth} {what}: {result}, events {first} to {last}"));
        self.crashes_at(fault, nth, &mut rng).await;
        if fault == Some(WriteFault::FailsAndIsKept) {
            self.health.send_replace(Health::Failed("disk I/O error".to_owned()));
            return Err(LedgerError::CommitFailed("disk I/O error".to_owned()));
        }
        if *self.inner.health().borrow() != Health::Writing {
            self.health.send_replace(self.inner.health().borrow().clone());
        }
        if last > first {
            self.sim.count(|figures| figures.commits += 1);
            self.committed.send_replace(last);
        }
        tokio::time::sleep(after).await;
        self.process.stop_if_ended().await;
        done
    }

    async fn crashes_at(&self, fault: Option<WriteFault>, _nth: u32, rng: &mut crate::rng::SeededRng) {
        if fault == Some(WriteFault::CrashAfter) {
            self.crash("after a commit", rng).await;
        }
    }

    async fn crash(&self, why: &str, rng: &mut crate::rng::SeededRng) {
        self.sim.crash(&self.process, why, rng.between(0, 900));
        std::future::pending::<()>().await;
    }
}

impl WriteFault {
    pub(crate) fn class(self) -> &'static str {
        match self {
            WriteFault::CrashBefore => "crash before a commit",
            WriteFault::CrashAfter => "crash after a commit",
            WriteFault::FailsAndIsLost => "failed sync, lost",
            WriteFault::FailsAndIsKept => "failed sync, kept",
            WriteFault::Busy => "ledger busy",
            WriteFault::Slow { .. } => "slow commit",
        }
    }
}

#[async_trait]
impl Ledger for SimLedger {
    async fn create(&self, create: NewRefund) -> Result<Recorded<CreateOutcome>, LedgerError> {
        let what = format!("create {} dispatch {}", create.intent.id.as_str(), create.dispatch.is_some());
        let work = async {
            let created = self.inner.create(create.clone()).await;
            if let Ok(Recorded { outcome: CreateOutcome::New(refund), .. }) = &created {
                crate::places::note_wait(&self.sim, refund);
                crate::people::note_creation(&self.sim, refund);
            }
            crate::people::judge_creation(&self.sim, &self.inner, &create, &created).await;
            created
        };
        self.write(what, work).await
    }

    async fn dry_run(&self, create: NewRefund) -> Result<CreateOutcome, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.dry_run(create).await
    }

    async fn record(&self, record: RecordEvents) -> Result<Recorded<Refund>, LedgerError> {
        let events: Vec<&str> = record.events.iter().map(|event| event.kind().as_str()).collect();
        let what = format!("record {} at {} {}", record.id.as_str(), record.revision, events.join("+"));
        let is_absence =
            |event: &Event| matches!(event, Event::Checked(Observation { record: RecordSeen::Absent, .. }));
        let shows_absence = record.events.iter().any(is_absence);
        let work = async {
            // As soon as it is on the disk: the process may crash before it replies.
            let (id, facts) = (record.id.clone(), record.events.clone());
            let before = self.inner.get(&id).await.ok().flatten();
            let recorded = self.inner.record(record).await;
            if let (Ok(after), Some(before)) = (&recorded, before) {
                crate::places::judge_events(&self.sim, &before, &after.outcome, &facts);
            }
            // Before the reply: another task may already act on what is on the disk.
            if let (Ok(after), true) = (&recorded, shows_absence) {
                crate::oracle::judge_absence(&self.sim, &lock(&self.sim.world).wire, &after.outcome);
            }
            recorded
        };
        let recorded = self.write(what, work).await;
        if let Ok(after) = &recorded {
            lock(&self.sim.history).record(&after.outcome);
        }
        recorded
    }

    async fn mark_interrupted(&self, now: Timestamp) -> Result<usize, LedgerError> {
        self.write("interrupt".to_owned(), self.inner.mark_interrupted(now)).await
    }

    async fn get(&self, id: &RefundId) -> Result<Option<Refund>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.get(id).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<ListedRefund>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.list(query).await
    }

    async fn events_of(&self, id: &RefundId, after_revision: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.events_of(id, after_revision, limit).await
    }

    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.events_after(sequence, limit).await
    }

    async fn reassign(&self, reassign: Reassign) -> Result<Refund, LedgerError> {
        let what = format!("reassign {} to {}", reassign.id.as_str(), reassign.to.account);
        let work = async {
            let reassigned = self.inner.reassign(reassign).await;
            if let Ok(refund) = &reassigned {
                crate::places::note_wait(&self.sim, refund);
                lock(&self.sim.history).absent_since.remove(refund.id().as_str());
            }
            reassigned
        };
        let reassigned = self.write(what, work).await;
        if let Ok(refund) = &reassigned {
            lock(&self.sim.history).record(refund);
        }
        reassigned
    }

    async fn reschedule(&self, reschedule: Reschedule) -> Result<Refund, LedgerError> {
        let what = format!("reschedule {}", reschedule.id.as_str());
        self.write(what, self.inner.reschedule(reschedule)).await
    }

    async fn hasten(&self, at: &Destination, now: Timestamp) -> Result<usize, LedgerError> {
        self.write(format!("hasten {}", at.account), self.inner.hasten(at, now)).await
    }

    async fn note_places(
        &self,
        configured: Vec<(ProviderKind, Destination)>,
        now: Timestamp,
    ) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.write("note places".to_owned(), self.inner.note_places(configured, now)).await
    }

    async fn open_refunds(&self) -> Result<Vec<OpenRefunds>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.open_refunds().await
    }

    async fn open_states(&self) -> Result<Vec<(AccountName, State, u64)>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.open_states().await
    }

    async fn standstills(&self, at: &Destination) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.standstills(at).await
    }

    async fn pause(&self, pause: NewPause) -> Result<AccountPause, LedgerError> {
        self.write(format!("pause {}", pause.account), self.inner.pause(pause)).await
    }

    async fn resume(&self, account: &AccountName, actor: &Actor, now: Timestamp) -> Result<(), LedgerError> {
        self.write(format!("resume {account}"), self.inner.resume(account, actor, now)).await
    }

    async fn pauses(&self) -> Result<Vec<AccountPause>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.pauses().await
    }

    async fn open_at(
        &self,
        at: &Destination,
        after_ordinal: u64,
        limit: u32,
    ) -> Result<Vec<ListedRefund>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.open_at(at, after_ordinal, limit).await
    }

    async fn due(&self, query: DueQuery) -> Result<Vec<Refund>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.due(query).await
    }

    async fn next_due(&self, kind: DueKind, at: &Destination) -> Result<Option<Timestamp>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.next_due(kind, at).await
    }

    async fn unapproved(&self, at: Timestamp, limit: u32) -> Result<Vec<Refund>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.unapproved(at, limit).await
    }

    async fn next_approval_expiry(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.next_approval_expiry().await
    }

    async fn entered_state_at(&self, id: &RefundId, state: State) -> Result<Option<Timestamp>, LedgerError> {
        self.process.stop_if_ended().await;
        self.inner.entered_state_at(id, state).await
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}
