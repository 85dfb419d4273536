//! One run: processes that start, work, crash and start again on one disk, until the faults are off
//! and the run reaches quiescence.

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
use crate::people;
use crate::places;
use crate::plan::{Op, PROVIDERS, Plan, ProviderKind};
use crate::setups::{self, ConfiguredAccount, SimulatedProvider as _};
use crate::sim::{Figures, Process, Sim, SimClock, lock};
use crate::wire::{SimTransport, TOTAL_TIMEOUT};
use crate::world;

/// The result of a run.
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) trace: String,
    pub(crate) figures: Figures,
    /// Writes of the ledger. A process can end at each of them.
    pub(crate) writes: u32,
}

/// Why a process ended.
enum End {
    Crash,
    Stopped { down_s: u64 },
    Quiescent,
}

/// A run with more starts than this does not reach quiescence.
const MAX_STARTS: u64 = 60;

/// Runs a plan.
pub(crate) fn run(plan: &Plan) -> Report {
    let sim = Arc::new(Sim::new(plan.clone()));
    let syncs = sim.syncs.clone();
    let disk = empty_disk(move || syncs.load(Ordering::Relaxed));
    let logs = Logs::of(plan.seed);
    let mut next_step = 0;
    let all = AssertUnwindSafe(|| run_processes(&sim, &disk, &mut next_step));
    if let Err(panic) = std::panic::catch_unwind(all) {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        sim.violation("no panic", format_args!("{what}"));
        sim.set_ledger(None);
    }
    for panic in crate::panics::take() {
        sim.violation("no panic", format_args!("{panic}"));
    }
    if let Some(line) = logs.and_then(|logs| logs.find(oracle::contains_secret)) {
        sim.violation("no secret anywhere", format_args!("{line}"));
    }
    USED.set(Some(disk));
    let writes = sim.writes();
    Report { violations: sim.take_violations(), trace: sim.take_trace(), figures: sim.take_figures(), writes }
}

thread_local! {
    /// The disk of this thread's last run.
    static USED: Cell<Option<SimulatedDisk>> = const { Cell::new(None) };
}

/// Creating a disk is a quarter of the work of a run, so each thread has one and wipes it.
fn empty_disk(sync_succeeds: impl Fn() -> bool + Clone + Send + 'static) -> SimulatedDisk {
    // A disk whose ledger was leaked by a panic stays in use and cannot be wiped.
    let wiped = USED.take().and_then(|used| used.wiped(sync_succeeds.clone()).ok());
    wiped.unwrap_or_else(|| SimulatedDisk::new(sync_succeeds).unwrap())
}

/// Runs one process after another.
fn run_processes(sim: &Arc<Sim>, disk: &SimulatedDisk, next_step: &mut usize) {
    for start in 0.. {
        if start > MAX_STARTS {
            sim.violation("comes to rest", format_args!("{MAX_STARTS} starts were not enough"));
            return;
        }
        let process = Arc::new(Process::default());
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let end = runtime.block_on(async {
            sim.begin_process();
            sim.trace(format_args!("START {start}"));
            let end = run_process(sim, disk, &process, next_step, start).await;
            sim.end_process();
            end
        });
        sim.set_ledger(None);
        drop(runtime);
        sim.count(|figures| figures.starts += 1);
        let down_s = match end {
            End::Quiescent => return,
            End::Crash => {
                // The last bytes of a request in flight may never have left.
                let mut world = lock(&sim.world);
                world.drop_in_flight(|sent| sim.rng(&[3, sent as u64]).percent(30));
                process.down_s()
            }
            End::Stopped { down_s } => down_s,
        };
        sim.advance(Duration::from_secs(down_s));
        lock(&sim.world).deliver(sim, sim.now());
    }
}

async fn run_process(
    sim: &Arc<Sim>,
    disk: &SimulatedDisk,
    process: &Arc<Process>,
    next_step: &mut usize,
    start: u64,
) -> End {
    let inner = Arc::new(SqliteLedger::open_inline(disk).unwrap());
    if *inner.health().borrow() != Health::Writing {
        sim.violation("the chain verifies", format_args!("at a start: {:?}", *inner.health().borrow()));
        return End::Quiescent;
    }
    sim.set_ledger(Some(inner.clone()));
    let configured = setups::accounts(&sim.plan, start, sim.accounts_restored());
    places::note_start(sim, &inner, &configured).await;
    let ledger = Arc::new(SimLedger::new(inner, sim.clone(), process.clone()));
    let accounts: Vec<Account> = configured.iter().map(|one| account(sim, process, one)).collect();
    let clock = Arc::new(SimClock(sim.clone()));
    let work = async {
        let started = Engine::start(ledger.clone(), Arc::new(Accounts::new(accounts)), clock, engine_settings()).await;
        match started {
            Ok(engine) => {
                places::note_started(sim);
                work(sim, &engine, next_step).await
            }
            Err(problem) => {
                sim.trace(format_args!("could not start: {problem}"));
                End::Stopped { down_s: 5 }
            }
        }
    };
    let mut health = ledger.health();
    let failed = async {
        // The operator or a supervisor restarts it.
        if health.wait_for(|health| *health != Health::Writing).await.is_ok() {
            let down_s = sim.rng(&[4, u64::from(sim.writes())]).between(1, 60);
            tokio::time::sleep(Duration::from_secs(down_s)).await;
            sim.crash(process, "the ledger has failed", down_s);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = process.wait_for_end() => End::Crash,
        end = work => end,
        () = failed => End::Crash,
    }
}

/// Runs the remaining steps of the plan, and then reaches quiescence.
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
            | Op::DryRun { .. }
            | Op::Wait { .. }
            | Op::Cancel { .. }
            | Op::Reconcile { .. }
            | Op::Resolve { .. }
            | Op::Reassign { .. }
            | Op::Decide { .. }
            | Op::Get { .. }
            | Op::Pause { .. }
            | Op::Resume { .. }
            | Op::List => {
                tokio::spawn(callers::call(sim.clone(), engine.clone(), step.op));
            }
            other => callers::perform(sim, other).await,
        }
    }
    // Requests in flight may still meet the faults that are planned for them.
    tokio::time::sleep(Duration::from_secs(130)).await;
    if sim.plan.restores_accounts && !sim.accounts_restored() {
        sim.restore_accounts();
        engine.drain(Duration::from_secs(5)).await;
        return End::Stopped { down_s: 5 };
    }
    reach_quiescence(sim, engine).await;
    End::Quiescent
}

/// Reads the event stream from where its reader last was.
fn follow(sim: &Arc<Sim>, engine: &Engine) {
    let after = lock(&sim.history).streamed.last().map_or(0, |event| event.sequence);
    match engine.stream_events(after) {
        Ok(mut feed) => {
            let sim = sim.clone();
            tokio::spawn(async move {
                while let Ok(events) = feed.next().await {
                    lock(&sim.history).streamed.extend(events.iter().map(|event| event.record.clone()));
                }
            });
        }
        Err(error) => sim.violation("streams resume", format_args!("after {after}: {error}")),
    }
}

/// Turns the faults off, advances the clock and lets people resolve what they are asked to, until
/// every refund is done. Then the oracle judges.
async fn reach_quiescence(sim: &Arc<Sim>, engine: &Engine) {
    sim.turn_faults_off();
    for provider in PROVIDERS {
        for account in [provider.account_name(), provider.second_account()] {
            callers::resume(sim, engine, account).await;
        }
    }
    let arrival = {
        let mut world = lock(&sim.world);
        world.end_outages(&sim.plan, sim.now());
        world.last_arrival()
    };
    sim.trace(format_args!("FAULTS OFF"));
    if let Some(wait) = arrival.and_then(|at| u64::try_from(at - sim.now()).ok()) {
        callers::advance_clock(sim, Duration::from_micros(wait + 1)).await;
    }
    const HOUR: u64 = 3_600;
    let advances =
        [0, 5, 60, 300, 11 * 60, 11 * 60, HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR, 25 * HOUR];
    for seconds in advances {
        callers::advance_clock(sim, Duration::from_secs(seconds)).await;
        lock(&sim.world).settle(&sim.plan, None, true, sim.now());
        tokio::time::sleep(Duration::from_secs(65)).await;
        for refund in all(engine).await {
            if refund.state == State::AwaitingApproval {
                people::decide_at_rest(sim, engine, &refund).await;
            } else if engine.waiting_for(&refund) == Some(WaitingFor::Account) {
                callers::unblock(sim, engine, &refund).await;
            } else if refund.state == State::NeedsReview {
                callers::resolve(sim, engine, refund.id(), false, false, false).await;
            }
        }
        if all(engine).await.iter().all(|refund| refund.state.is_terminal()) {
            break;
        }
    }
    // A payment after a rejection is found by the daily lookup, or by ReconcileRefund.
    for refund in all(engine).await {
        let reconciled = engine.reconcile(refund.id(), people::authority(sim, "operator")).await;
        sim.trace(format_args!("reconciled at the end: {} {}", refund.id().as_str(), state_or_error(&reconciled)));
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
        reconcile_interval: Duration::ZERO,
        max_event_streams: 4,
    }
}

/// Setting `key_lifetime`: how long the gateway trusts a key of name.com.
pub(crate) const KEY_LIFETIME: Duration = Duration::from_secs(3_000);

fn state_or_error(reconciled: &Result<Refund, EngineError>) -> String {
    reconciled.as_ref().map_or_else(EngineError::to_string, |refund| refund.state.to_string())
}

fn account(sim: &Arc<Sim>, process: &Arc<Process>, configured: &ConfiguredAccount) -> Account {
    let behaviour = &sim.plan.behaviour;
    let ConfiguredAccount { site, at, former } = configured;
    let (name, password) = (site.login_name().to_owned(), site.password().into());
    let login = match site.provider {
        ProviderKind::Sectigo => ProviderSettings::Sectigo { login_name: name, login_password: password },
        ProviderKind::Namecom => {
            ProviderSettings::Namecom { username: name, token: password, key_lifetime: KEY_LIFETIME }
        }
        ProviderKind::Debitsuccess => ProviderSettings::Debitsuccess {
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
        endpoint: site.endpoint(),
        currency: site.currency(),
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        total_timeout: TOTAL_TIMEOUT,
        reuse_connections: false,
        max_in_flight: behaviour.max_in_flight,
        requests_per_second: if behaviour.rate_limited && site.provider == ProviderKind::Namecom { 20 } else { 0 },
        requests_per_hour: if behaviour.rate_limited && site.provider == ProviderKind::Namecom { 3_000 } else { 0 },
        pending_limit: PENDING_LIMIT,
        settle_time: settle_time(site.provider),
        provider_settings: login,
        former: former.iter().map(|one| one.place.clone()).collect(),
    };
    let wire = Arc::new(SimTransport { site: *site, at: at.clone(), sim: sim.clone(), process: process.clone() });
    Account::connect_with_transport(wire, settings, Arc::new(SimClock(sim.clone())))
        .map_err(|error| error.to_string())
        .unwrap()
}

/// The default of the setting `pending_limit`: how long a refund may wait to be sent.
pub(crate) const PENDING_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// The default of the setting `settle_time`: how long "not refunded" may lag behind the truth.
pub(crate) fn settle_time(provider: ProviderKind) -> Duration {
    match provider {
        ProviderKind::Sectigo => Duration::from_secs(24 * 3_600),
        ProviderKind::Namecom | ProviderKind::Debitsuccess => Duration::from_secs(600),
    }
}
