//! What one run shares: time, the world, the trace, what has been seen to be wrong, and how a
//! process ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use recoup::domain::clock::{Clock, Timestamp};
use recoup::ledger::sqlite::SqliteLedger;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::History;
use crate::places::Start;
use crate::plan::Plan;
use crate::rng::Dice;
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
    /// The ledger of the process that lives now.
    ledger: Mutex<Option<Arc<SqliteLedger>>>,
    /// Whether the next sync comes through.
    pub(crate) syncs: Arc<AtomicBool>,
    writes: AtomicU32,
    busy: AtomicU32,
    /// No more harm is done.
    healed: AtomicBool,
    /// The accounts are configured as usual again.
    came_back: AtomicBool,
    pub(crate) starts: Mutex<Vec<Start>>,
}

/// One process: from its start to its crash.
#[derive(Default)]
pub(crate) struct Life {
    dead: AtomicBool,
    died: Notify,
    /// How long until the next one starts.
    down_s: Mutex<u64>,
}

/// What is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) operations: BTreeMap<&'static str, u64>,
    pub(crate) harms: BTreeMap<&'static str, u64>,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
    pub(crate) refunds: u64,
    pub(crate) attempts: u64,
    pub(crate) effects: u64,
    pub(crate) doubts: u64,
    pub(crate) reviews: u64,
    /// Starts with another configuration than the one before.
    pub(crate) changes: u64,
    /// Refunds that waited for their account, refunds that went on elsewhere, and what was paid
    /// after a no.
    pub(crate) waits: u64,
    pub(crate) moves: u64,
    pub(crate) corrections: u64,
    pub(crate) commits: u64,
    /// How long each doubt lasted, in seconds of the gateway's clock.
    pub(crate) doubt_s: Vec<u64>,
    pub(crate) ends: BTreeMap<&'static str, u64>,
}

struct Time {
    /// What the world's clocks show at `began`.
    base: i64,
    began: Option<Instant>,
    /// How far the gateway's clock is ahead.
    skew: i64,
    /// How far it has been set forward in all.
    forward: i64,
    /// When it was set last, and how far.
    last_set: (i64, i64),
}

/// The gateway's clock.
pub(crate) struct SimClock(pub(crate) Arc<Sim>);

/// Something is under way that a leap of all clocks must not fall into.
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
            time: Mutex::new(Time { base: BEGIN, began: None, skew: 0, forward: 0, last_set: (0, 0) }),
            trace: Mutex::default(),
            violations: Mutex::default(),
            figures: Mutex::default(),
            ledger: Mutex::default(),
            syncs: Arc::new(AtomicBool::new(true)),
            writes: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            healed: AtomicBool::new(false),
            came_back: AtomicBool::new(false),
            starts: Mutex::default(),
        }
    }

    // Time.

    /// The world's time, in microseconds.
    pub(crate) fn now(&self) -> i64 {
        lock(&self.time).now()
    }

    /// What the gateway's clock shows.
    pub(crate) fn gateway_now(&self) -> Timestamp {
        let time = lock(&self.time);
        Timestamp::from_micros(time.now() + time.skew)
    }

    /// A process starts, with a runtime of its own.
    pub(crate) fn begin_life(&self) {
        lock(&self.time).began = Some(Instant::now());
    }

    /// Its runtime is about to end.
    pub(crate) fn end_life(&self) {
        let mut time = lock(&self.time);
        time.base = time.now();
        time.began = None;
    }

    /// All clocks go on at once.
    pub(crate) fn leap(&self, by: Duration) {
        lock(&self.time).base += micros(by);
    }

    /// The gateway's clock alone.
    pub(crate) fn skew(&self, seconds: i64) {
        let mut time = lock(&self.time);
        let by = seconds * 1_000_000;
        time.skew += by;
        time.forward += by.max(0);
        time.last_set = (time.now(), by);
    }

    /// How far the gateway's clock is ahead, at least and at most.
    ///
    /// What was set back and forth again between two looks at it, the gateway has not seen.
    pub(crate) fn ahead(&self) -> [i64; 2] {
        let time = lock(&self.time);
        let before = time.skew - time.set_just_now();
        [before.min(time.skew), before.max(time.skew)]
    }

    /// How far the gateway's clock has been set forward in all, at least and at most.
    ///
    /// The gateway follows it forward and never back, so this and the world's time are the most
    /// that it can have seen pass.
    pub(crate) fn forward(&self) -> [i64; 2] {
        let time = lock(&self.time);
        [time.forward - time.set_just_now().max(0), time.forward]
    }

    // Chance.

    /// The stream of this run for something that has a name of its own.
    pub(crate) fn dice(&self, purpose: &[u64]) -> Dice {
        Dice::new(self.plan.seed, purpose)
    }

    // What was seen.

    pub(crate) fn trace(&self, line: std::fmt::Arguments<'_>) {
        let at = self.now() - BEGIN;
        let mut trace = lock(&self.trace);
        let _ = writeln!(trace, "{:>8}.{:06} {line}", at / 1_000_000, at % 1_000_000);
    }

    pub(crate) fn take_trace(&self) -> String {
        std::mem::take(&mut lock(&self.trace))
    }

    pub(crate) fn wrong(&self, line: &str, what: std::fmt::Arguments<'_>) {
        self.trace(format_args!("VIOLATION {line}: {what}"));
        lock(&self.violations).push(format!("{line}: {what}"));
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.violations))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut lock(&self.figures));
    }

    /// How many processes have ended.
    pub(crate) fn ended(&self) -> u64 {
        lock(&self.figures).starts
    }

    pub(crate) fn take_figures(&self) -> Figures {
        std::mem::take(&mut lock(&self.figures))
    }

    // The process that lives.

    pub(crate) fn set_ledger(&self, ledger: Option<Arc<SqliteLedger>>) {
        *lock(&self.ledger) = ledger;
    }

    pub(crate) fn ledger(&self) -> Option<Arc<SqliteLedger>> {
        lock(&self.ledger).clone()
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

    pub(crate) fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    pub(crate) fn come_back(&self) {
        self.came_back.store(true, Ordering::Relaxed);
    }

    pub(crate) fn came_back(&self) -> bool {
        self.came_back.load(Ordering::Relaxed)
    }

    pub(crate) fn crash(&self, life: &Life, why: &str, down_s: u64) {
        if !life.dead.swap(true, Ordering::Relaxed) {
            self.trace(format_args!("CRASH {why}"));
            self.count(|figures| figures.crashes += 1);
            *lock(&life.down_s) = down_s;
            life.died.notify_one();
        }
    }
}

impl Life {
    /// Nobody comes back from here once the process has ended.
    pub(crate) async fn breathe(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.died.notified().await;
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

    /// How far the gateway's clock has been set at this very moment, which may have been seen or
    /// not.
    fn set_just_now(&self) -> i64 {
        let (at, by) = self.last_set;
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
        for (name, count) in other.harms {
            *self.harms.entry(name).or_default() += count;
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
