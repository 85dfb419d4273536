//! The state of one run: time, the world, the trace, the violations, and the process that runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoup::domain::clock::{Clock, Timestamp};
use recoup::ledger::Ledger as _;
use recoup::ledger::sqlite::SqliteLedger;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::History;
use crate::places::Start;
use crate::plan::Plan;
use crate::rng::SeededRng;
use crate::world::World;

/// One run.
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) world: Mutex<World>,
    pub(crate) history: Mutex<History>,
    time: Mutex<Time>,
    trace: Mutex<String>,
    violations: Mutex<Vec<String>>,
    figures: Mutex<Figures>,
    /// The ledger of the process that runs now.
    ledger: Mutex<Option<Arc<SqliteLedger>>>,
    /// Whether the next sync succeeds.
    pub(crate) syncs: Arc<AtomicBool>,
    writes: AtomicU32,
    busy: AtomicU32,
    /// No more faults happen.
    faults_off: AtomicBool,
    /// The accounts are configured as usual again.
    accounts_restored: AtomicBool,
    pub(crate) starts: Mutex<Vec<Start>>,
}

/// One process, from its start to its end.
#[derive(Default)]
pub(crate) struct Process {
    ended: AtomicBool,
    end_notify: Notify,
    /// The time until the next one starts.
    down_s: Mutex<u64>,
}

/// The counts of one run, or of many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) operations: BTreeMap<&'static str, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
    pub(crate) refunds: u64,
    pub(crate) attempts: u64,
    pub(crate) effects: u64,
    pub(crate) doubts: u64,
    pub(crate) reviews: u64,
    /// Starts with another configuration than the start before.
    pub(crate) changes: u64,
    /// Refunds that waited for their account.
    pub(crate) waits: u64,
    /// Refunds that were reassigned.
    pub(crate) moves: u64,
    /// Refunds that were paid after the provider had rejected them.
    pub(crate) corrections: u64,
    /// Refunds that waited for an approval, and approvals.
    pub(crate) awaited: u64,
    pub(crate) approvals: u64,
    /// Requests that a limit refused.
    pub(crate) refused_by_limit: u64,
    pub(crate) commits: u64,
    /// How long each doubt lasted, in seconds of the gateway's clock.
    pub(crate) doubt_s: Vec<u64>,
    pub(crate) ends: BTreeMap<&'static str, u64>,
}

struct Time {
    /// The world's time at `began`.
    base: i64,
    began: Option<Instant>,
    /// How far the gateway's clock is ahead.
    skew: i64,
    /// How far the gateway's clock has been set forward in all.
    set_forward: i64,
    last_change: ClockChange,
}

/// When the gateway's clock was set, and how far.
struct ClockChange {
    at: i64,
    by: i64,
}

/// A number of microseconds that is known to lie between two bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MicrosRange {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// The gateway's clock.
pub(crate) struct SimClock(pub(crate) Arc<Sim>);

/// While it exists, something is in progress during which the clocks must not be advanced.
pub(crate) struct Busy<'a>(&'a Sim);

/// When every run begins.
pub(crate) const BEGIN: i64 = 1_800_000_000_000_000;

impl Sim {
    pub(crate) fn new(plan: Plan) -> Sim {
        let world = World::new(&plan, BEGIN);
        Sim {
            plan,
            world: Mutex::new(world),
            history: Mutex::default(),
            time: Mutex::new(Time {
                base: BEGIN,
                began: None,
                skew: 0,
                set_forward: 0,
                last_change: ClockChange { at: 0, by: 0 },
            }),
            trace: Mutex::default(),
            violations: Mutex::default(),
            figures: Mutex::default(),
            ledger: Mutex::default(),
            syncs: Arc::new(AtomicBool::new(true)),
            writes: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            faults_off: AtomicBool::new(false),
            accounts_restored: AtomicBool::new(false),
            starts: Mutex::default(),
        }
    }

    // Time.

    /// The world's time, in microseconds.
    pub(crate) fn now(&self) -> i64 {
        lock(&self.time).now()
    }

    /// The time on the gateway's clock.
    pub(crate) fn gateway_now(&self) -> Timestamp {
        let time = lock(&self.time);
        Timestamp::from_micros(time.now() + time.skew)
    }

    /// A process starts, with a runtime of its own.
    pub(crate) fn begin_process(&self) {
        lock(&self.time).began = Some(Instant::now());
    }

    /// Its runtime is about to end.
    pub(crate) fn end_process(&self) {
        let mut time = lock(&self.time);
        time.base = time.now();
        time.began = None;
    }

    /// Moves all clocks forward together.
    pub(crate) fn advance(&self, by: Duration) {
        lock(&self.time).base += micros(by);
    }

    /// Changes the gateway's clock only.
    pub(crate) fn skew_clock(&self, seconds: i64) {
        let mut time = lock(&self.time);
        let by = seconds * 1_000_000;
        time.skew += by;
        time.set_forward += by.max(0);
        time.last_change = ClockChange { at: time.now(), by };
    }

    /// How far the gateway's clock is ahead.
    ///
    /// A range, since the gateway may not have read its clock since the last change.
    pub(crate) fn ahead(&self) -> MicrosRange {
        let time = lock(&self.time);
        let before = time.skew - time.set_just_now();
        MicrosRange { min: before.min(time.skew), max: before.max(time.skew) }
    }

    /// How far the gateway's clock has been set forward in all.
    ///
    /// The gateway follows its clock forward and never back. So this plus the world's time is the
    /// most that the gateway can have seen pass.
    pub(crate) fn set_forward(&self) -> MicrosRange {
        let time = lock(&self.time);
        MicrosRange { min: time.set_forward - time.set_just_now().max(0), max: time.set_forward }
    }

    // Chance.

    /// The random numbers of this run for one purpose.
    pub(crate) fn rng(&self, purpose: &[u64]) -> SeededRng {
        SeededRng::new(self.plan.seed, purpose)
    }

    // Trace, violations and counts.

    pub(crate) fn trace(&self, line: std::fmt::Arguments<'_>) {
        let at = self.now() - BEGIN;
        let mut trace = lock(&self.trace);
        let _ = writeln!(trace, "{:>8}.{:06} {line}", at / 1_000_000, at % 1_000_000);
    }

    pub(crate) fn take_trace(&self) -> String {
        std::mem::take(&mut lock(&self.trace))
    }

    /// Records that a promise is broken.
    pub(crate) fn violation(&self, promise: &str, what: std::fmt::Arguments<'_>) {
        self.trace(format_args!("VIOLATION {promise}: {what}"));
        lock(&self.violations).push(format!("{promise}: {what}"));
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.violations))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut lock(&self.figures));
    }

    /// How many processes have ended.
    pub(crate) fn ended_processes(&self) -> u64 {
        lock(&self.figures).starts
    }

    pub(crate) fn take_figures(&self) -> Figures {
        std::mem::take(&mut lock(&self.figures))
    }

    // The process that runs.

    pub(crate) fn set_ledger(&self, ledger: Option<Arc<SqliteLedger>>) {
        *lock(&self.ledger) = ledger;
    }

    pub(crate) fn ledger(&self) -> Option<Arc<SqliteLedger>> {
        lock(&self.ledger).clone()
    }

    /// The ledger's last event; 0 if no process has it open.
    pub(crate) fn last_event(&self) -> u64 {
        self.ledger().map_or(0, |ledger| *ledger.committed().borrow())
    }

    pub(crate) fn next_write(&self) -> u32 {
        self.writes.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn turn_faults_off(&self) {
        self.faults_off.store(true, Ordering::Relaxed);
    }

    pub(crate) fn are_faults_off(&self) -> bool {
        self.faults_off.load(Ordering::Relaxed)
    }

    pub(crate) fn restore_accounts(&self) {
        self.accounts_restored.store(true, Ordering::Relaxed);
    }

    pub(crate) fn accounts_restored(&self) -> bool {
        self.accounts_restored.load(Ordering::Relaxed)
    }

    pub(crate) fn crash(&self, process: &Process, why: &str, down_s: u64) {
        if !process.ended.swap(true, Ordering::Relaxed) {
            self.trace(format_args!("CRASH {why}"));
            self.count(|figures| figures.crashes += 1);
            *lock(&process.down_s) = down_s;
            process.end_notify.notify_one();
        }
    }
}

impl Process {
    /// Never returns once the process has ended.
    pub(crate) async fn stop_if_ended(&self) {
        if self.ended.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) async fn wait_for_end(&self) {
        while !self.has_ended() {
            self.end_notify.notified().await;
        }
    }

    pub(crate) fn down_s(&self) -> u64 {
        *lock(&self.down_s)
    }
}

impl Time {
    fn now(&self) -> i64 {
        self.base + self.began.map_or(0, |began| micros(Instant::now() - began))
    }

    /// How far the gateway's clock has been set at exactly this time. The gateway may have read it
    /// before or after that.
    fn set_just_now(&self) -> i64 {
        let ClockChange { at, by } = self.last_change;
        if at == self.now() { by } else { 0 }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.gateway_now()
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Figures {
    pub(crate) fn add(&mut self, other: Figures) {
        for (name, count) in other.operations {
            *self.operations.entry(name).or_default() += count;
        }
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in other.ends {
            *self.ends.entry(name).or_default() += count;
        }
        self.crashes += other.crashes;
        self.starts += other.starts;
        self.refunds += other.refunds;
        self.attempts += other.attempts;
        self.effects += other.effects;
        self.doubts += other.doubts;
        self.reviews += other.reviews;
        self.changes += other.changes;
        self.waits += other.waits;
        self.moves += other.moves;
        self.corrections += other.corrections;
        self.awaited += other.awaited;
        self.approvals += other.approvals;
        self.refused_by_limit += other.refused_by_limit;
        self.commits += other.commits;
        self.doubt_s.extend(other.doubt_s);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
