//! One run: processes that start, work, crash and start again on one disk, until everything has
//! healed and come to rest.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::engine::circuit_breaker::CircuitBreakerSettings;
use recoup::engine::decide::{Backoff, Schedule};
use recoup::engine::{Engine, EngineError, EngineSettings, WaitingFor};
use recoup::ledger::sqlite::{SimulatedDisk, SqliteLedger};
use recoup::ledger::{Health, Ledger, ListQuery};
use recoup::providers::{Account, AccountSettings, Accounts, ProviderSettings};
use tokio::runtime::Builder;

use crate::callers;
use crate::disk::SimLedger;
use crate::logs::Logs;
use crate::oracle;
use crate::places;
use crate::plan::{Op, Plan, Who};
use crate::setups::{self, Configured};
use crate::sim::{Figures, Life, Sim, SimClock, lock};
use crate::wire::{SimWire, TOTAL_TIMEOUT};
use crate::world;

/// What a run came to.
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) trace: String,
    pub(crate) figures: Figures,
    /// Writes of the ledger: the places where a process can end.
    pub(crate) writes: u32,
}

/// Why a process ended.
enum End {
    Crash,
    Stopped { down_s: u64 },
    AtRest,
}

/// More starts than this, and the run does not come to rest.
const MAX_STARTS: u64 = 60;

/// Runs a plan.
pub(crate) fn run(plan: &Plan) -> Report {
    let sim = Arc::new(Sim::new(plan.clone()));
    let syncs = sim.syncs.clone();
    let disk = empty_disk(move || syncs.load(Ordering::Relaxed));
    let logs = Logs::of(plan.seed);
    let mut next_step = 0;
    let lives = AssertUnwindSafe(|| live(&sim, &disk, &mut next_step));
    if let Err(panic) = std::panic::catch_unwind(lives) {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        sim.wrong("no panic", format_args!("{what}"));
        sim.set_ledger(None);
    }
    for panic in crate::panics::take() {
        sim.wrong("no panic", format_args!("{panic}"));
    }
    if let Some(line) = logs.and_then(|logs| logs.told(oracle::tells_a_secret)) {
        sim.wrong("no secret anywhere", format_args!("{line}"));
    }
    USED.set(Some(disk));
    let writes = sim.writes();
    Report { violations: sim.take_violations(), trace: sim.take_trace(), figures: sim.take_figures(), writes }
}

thread_local! {
    /// The disk of this thread's last run.
    static USED: Cell<Option<SimulatedDisk>> = const { Cell::new(None) };
}

/// Making one is a quarter of the work of a run, so each thread has one and wipes it.
fn empty_disk(comes_through: impl Fn() -> bool + Clone + Send + 'static) -> SimulatedDisk {
    // One whose ledger was lost in a panic is in use for ever.
    let wiped = USED.take().and_then(|used| used.wiped(comes_through.clone()).ok());
    wiped.unwrap_or_else(|| SimulatedDisk::new(comes_through).unwrap())
}

/// One process after another.
fn live(sim: &Arc<Sim>, disk: &SimulatedDisk, next_step: &mut usize) {
    for start in 0.. {
        if start > MAX_STARTS {
            sim.wrong("comes to rest", format_args!("{MAX_STARTS} starts were not enough"));
            return;
        }
        let life = Arc::new(Life::default());
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let end = runtime.block_on(async {
            sim.begin_life();
            sim.trace(format_args!("START {start}"));
            let end = process(sim, disk, &life, next_step, start).await;
            sim.end_life();
            end
        });
        sim.set_ledger(None);
        drop(runtime);
        sim.count(|figures| figures.starts += 1);
        let down_s = match end {
            End::AtRest => return,
            End::Crash => {
                // The last bytes of what was on its way may never have left.
                let mut world = lock(&sim.world);
                world.lose(|sent| sim.dice(&[3, sent as u64]).percent(30));
                life.down_s()
            }
            End::Stopped { down_s } => down_s,
        };
        sim.leap(Duration::from_secs(down_s));
        lock(&sim.world).deliver(sim, sim.now());
    }
}

async fn process(sim: &Arc<Sim>, disk: &SimulatedDisk, life: &Arc<Life>, next_step: &mut usize, start: u64) -> End {
    let inner = Arc::new(SqliteLedger::open_inline(disk).unwrap());
    if *inner.health().borrow() != Health::Writing {
        sim.wrong("the chain verifies", format_args!("at a start: {:?}", *inner.health().borrow()));
        return End::AtRest;
    }
    sim.set_ledger(Some(inner.clone()));
    let configured = setups::accounts(&sim.plan, start, sim.came_back());
    places::note_start(sim, &inner, &configured).await;
    let ledger = Arc::new(SimLedger::new(inner, sim.clone(), life.clone()));
    let accounts: Vec<Account> = configured.iter().map(|one| account(sim, life, one)).collect();
    let clock = Arc::new(SimClock(sim.clone()));
    let work = async {
        let started = Engine::start(ledger.clone(), Arc::new(Accounts::new(accounts)), clock, engine_settings()).await;
        match started {
            Ok(engine) => {
                places::note_started(sim);
                work(sim, &engine, next_step).await
            }
            Err(problem) => {
                sim.trace(format_args!("does not start: {problem}"));
                End::Stopped { down_s: 5 }
            }
        }
    };
    let mut health = ledger.health();
    let failed = async {
        // The operator, or what watches for them, starts it again.
        if health.wait_for(|health| *health != Health::Writing).await.is_ok() {
            let down_s = sim.dice(&[4, u64::from(sim.writes())]).between(1, 60);
            tokio::time::sleep(Duration::from_secs(down_s)).await;
            sim.crash(life, "the ledger has failed", down_s);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = life.over() => End::Crash,
        end = work => end,
        () = failed => End::Crash,
    }
}

/// The rest of the plan, and then the way to rest.
async fn work(sim: &Arc<Sim>, engine: &Engine, next_step: &mut usize) -> End {
    follow(sim, engine);
    while let Some(step) = sim.plan.steps.get(*next_step) {
        tokio::time::sleep(Duration::from_millis(step.after_ms)).await;
        *next_step += 1;
        sim.count(|figures| *figures.operations.entry(step.op.name()).or_default() += 1);
        match step.op {
            Op::Crash { down_s } => {
                sim.trace(format_args!("CRASH as planned"));
                sim.count(|figures| figures.crashes += 1);
                return End::Stopped { down_s };
            }
            Op::Restart { drain_s, down_s } => {
                sim.trace(format_args!("drain for {drain_s} s"));
                engine.drain(Duration::from_secs(drain_s)).await;
                sim.trace(format_args!("stopped"));
                return End::Stopped { down_s };
            }
            Op::Create { .. }
            | Op::Check { .. }
            | Op::Wait { .. }
            | Op::Cancel { .. }
            | Op::Reconcile { .. }
            | Op::Resolve { .. }
            | Op::Reassign { .. }
            | Op::Get { .. }
            | Op::List => {
                tokio::spawn(callers::call(sim.clone(), engine.clone(), step.op));
            }
            other => callers::happen(sim, other).await,
        }
    }
    // What is under way may still meet what is planned for it.
    tokio::time::sleep(Duration::from_secs(130)).await;
    if sim.plan.comes_back && !sim.came_back() {
        sim.come_back();
        engine.drain(Duration::from_secs(5)).await;
        return End::Stopped { down_s: 5 };
    }
    rest(sim, engine).await;
    End::AtRest
}

/// Reads the event feed from where its reader last was.
fn follow(sim: &Arc<Sim>, engine: &Engine) {
    let after = lock(&sim.history).feed.last().map_or(0, |event| event.sequence);
    match engine.stream_events(after) {
        Ok(mut feed) => {
            let sim = sim.clone();
            tokio::spawn(async move {
                while let Ok(events) = feed.next().await {
                    lock(&sim.history).feed.extend(events.iter().map(|event| event.record.clone()));
                }
            });
        }
        Err(error) => sim.wrong("streams resume", format_args!("after {after}: {error}")),
    }
}

/// No more harm; time goes on; people answer what they are asked. In the end the oracle is asked.
async fn rest(sim: &Arc<Sim>, engine: &Engine) {
    sim.heal();
    let arrival = {
        let mut world = lock(&sim.world);
        world.heal(&sim.plan, sim.now());
        world.last_arrival()
    };
    sim.trace(format_args!("HEAL"));
    if let Some(wait) = arrival.and_then(|at| u64::try_from(at - sim.now()).ok()) {
        callers::leap(sim, Duration::from_micros(wait + 1)).await;
    }
    const HOUR: u64 = 3_600;
    let leaps =
        [0, 5, 60, 300, 11 * 60, 11 * 60, HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR];
    for seconds in leaps {
        callers::leap(sim, Duration::from_secs(seconds)).await;
        lock(&sim.world).settle(&sim.plan, None, true, sim.now());
        tokio::time::sleep(Duration::from_secs(65)).await;
        for refund in all(engine).await {
            if engine.waiting_for(&refund) == Some(WaitingFor::Account) {
                callers::unblock(sim, engine, &refund).await;
            } else if refund.state == State::NeedsReview {
                callers::resolve(sim, engine, refund.id(), false, false).await;
            }
        }
        if all(engine).await.iter().all(|refund| refund.state.is_terminal()) {
            break;
        }
    }
    // What is paid after a no, the daily lookup finds, or ReconcileRefund.
    for refund in all(engine).await {
        let reconciled = engine.reconcile(refund.id(), "operator").await;
        sim.trace(format_args!("asked at rest: {} {}", refund.id().as_str(), told(&reconciled)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    oracle::judge_views(sim, engine).await;
    let refunds = all(engine).await;
    places::judge(sim, &refunds).await;
    oracle::judge(sim, refunds).await;
    engine.drain(Duration::from_secs(5)).await;
}

pub(crate) async fn all(engine: &Engine) -> Vec<Refund> {
    let query = ListQuery { limit: 1_000, ..ListQuery::default() };
    engine.list(query).await.unwrap_or_default().into_iter().map(|listed| listed.refund).collect()
}

fn engine_settings() -> EngineSettings {
    EngineSettings {
        backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) },
        schedule: Schedule {
            first: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
            then_every: Duration::from_secs(24 * 3_600),
        },
        circuit: CircuitBreakerSettings {
            failure_threshold: 5,
            foreign_target_threshold: 5,
            open_min: Duration::from_secs(5),
            open_max: Duration::from_secs(300),
        },
        rejection_follow_up: Duration::from_secs(7 * 24 * 3_600),
        max_event_streams: 4,
    }
}

/// How long a key of name.com is trusted.
pub(crate) const KEY_LIFETIME: Duration = Duration::from_secs(3_000);

fn told(reconciled: &Result<Refund, EngineError>) -> String {
    reconciled.as_ref().map_or_else(EngineError::to_string, |refund| refund.state.to_string())
}

fn account(sim: &Arc<Sim>, life: &Arc<Life>, configured: &Configured) -> Account {
    let habits = &sim.plan.habits;
    let Configured { spot, at, former } = configured;
    let (name, password) = (spot.login_name().to_owned(), spot.password().into());
    let login = match spot.who {
        Who::Sectigo => ProviderSettings::Sectigo { login_name: name, login_password: password },
        Who::Namecom => ProviderSettings::Namecom { username: name, token: password, key_lifetime: KEY_LIFETIME },
        Who::Debitsuccess => ProviderSettings::Debitsuccess {
            username: name,
            password,
            path: world::DEBITSUCCESS_PATH.to_owned(),
            service_namespace: "http://tempuri.org/".to_owned(),
            data_namespace: "http://schemas.datacontract.org/2004/07/DSWebService".to_owned(),
            action_prefix: "http://tempuri.org/IDSServices/".to_owned(),
        },
    };
    let settings = AccountSettings {
        name: at.account.clone(),
        endpoint: spot.endpoint(),
        currency: spot.currency(),
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        total_timeout: TOTAL_TIMEOUT,
        reuse_connections: false,
        max_in_flight: habits.in_flight,
        requests_per_second: if habits.paced && spot.who == Who::Namecom { 20 } else { 0 },
        requests_per_hour: if habits.paced && spot.who == Who::Namecom { 3_000 } else { 0 },
        pending_limit: PENDING_LIMIT,
        settle_time: settle_time(spot.who),
        provider_settings: login,
        former: former.iter().map(|(place, _)| place.clone()).collect(),
    };
    let wire = Arc::new(SimWire { spot: *spot, at: at.clone(), sim: sim.clone(), life: life.clone() });
    Account::connect_with_transport(wire, settings, Arc::new(SimClock(sim.clone())))
        .map_err(|error| error.to_string())
        .unwrap()
}

/// As configured by default: how long a refund may wait to be sent.
pub(crate) const PENDING_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// As configured by default: how long "not refunded" may lag behind the truth.
pub(crate) fn settle_time(who: Who) -> Duration {
    match who {
        Who::Sectigo => Duration::from_secs(24 * 3_600),
        Who::Namecom | Who::Debitsuccess => Duration::from_secs(600),
    }
}
