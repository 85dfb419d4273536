//! One run: a ledger, the providers, the callers, and a gateway that is killed again and again;
//! then quiescence, and the oracle.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use simulators::request::{Deduplication, Provider};
use tokio::runtime::Runtime;

use crate::access;
use crate::callers::{self, CallerState};
use crate::oracle::{self, Evidence};
use crate::oracle_self_test;
use crate::plans::Plans;
use crate::providers::{self, ProviderRecords, Providers};
use crate::quiescence;
use crate::rng::SeededRng;
use crate::rows;
use crate::setups::Places;
use crate::support::demo_accounts::SECRETS;
use crate::support::process::Gateway;

/// Unrequested refunds at the beginning of a round: more than the callers get through.
const MIN_UNREQUESTED: usize = 400;
const SIGKILL: i32 = 9;
/// How far all jumps of the providers' clock may add up to in a run. Less than the hour that
/// name.com keeps a key, so that a key that the gateway trusts has not expired.
const MAX_CLOCK_JUMPS: Duration = Duration::from_secs(3_000);

/// The figures of one run, or of many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures {
    pub(crate) runs: u64,
    /// SIGKILLs of a gateway.
    pub(crate) kills: u64,
    /// Kills before the gateway took calls.
    pub(crate) kills_at_start: u64,
    pub(crate) terminations: u64,
    pub(crate) provider_kills: u64,
    pub(crate) full_disks: u64,
    pub(crate) clock_jumps: u64,
    /// Starts with another configuration than the start before.
    pub(crate) changes: u64,
    pub(crate) starts_with_access: u64,
    /// Approvals and rejections in the ledger.
    pub(crate) approved: usize,
    pub(crate) rejected: usize,
    /// Calls that the daily limit refused.
    pub(crate) over_the_limit: usize,
    pub(crate) pauses: usize,
    /// Refunds that were reassigned.
    pub(crate) moves: usize,
    pub(crate) calls: usize,
    /// Calls whose outcome the caller does not know.
    pub(crate) unknown_calls: usize,
    pub(crate) refunds: usize,
    pub(crate) attempts: usize,
    pub(crate) requests: usize,
    /// Refunds with more than one request at the provider.
    pub(crate) sent_again: usize,
    pub(crate) effects: usize,
    /// Refunds that were in doubt at any time.
    pub(crate) doubts: usize,
    /// Refunds that the operator resolved.
    pub(crate) resolved: usize,
    /// Refunds in doubt or in review at the end.
    pub(crate) open: usize,
    /// The number of refunds by their last state.
    pub(crate) states: BTreeMap<String, usize>,
    pub(crate) violations: Vec<String>,
    /// The folders with the evidence of violations.
    pub(crate) kept: Vec<PathBuf>,
}

/// What happens in a round before the SIGKILL that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KillMode {
    Kill,
    KillAtStart,
    Terminate,
    KillProviders,
    FullDisk,
}

/// The environment of the gateway: its binary, configuration, ledger and log.
pub(crate) struct Environment {
    pub(crate) folder: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    pub(crate) ledger: PathBuf,
    log: PathBuf,
}

/// One run with this many kills.
pub(crate) fn run(base: &Path, seed: u64, number: u64, kills: u64) -> Figures {
    let mut rng = SeededRng::new(seed, &[number]);
    let folder = base.join(format!("kill-{seed}-{number}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    // Deduplication hides a second send; without it the books show the send.
    let deduplication = rng.weighted(&[(1, Deduplication::On), (2, Deduplication::Off)]);
    let mut providers = Providers::start(&folder, providers::settings(deduplication));
    let mut places = Places::new(&folder, &providers, deduplication);
    let environment = Environment::create(&folder, &format!("{SETTINGS}{}", places.settings(&providers)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let caller_state = CallerState::new([providers.world(), places.other.world()]);
    let callers = {
        let _entered = runtime.enter();
        callers::spawn(&caller_state, seed, number)
    };
    let mut plans = Plans::new(format!("k{number}"), SeededRng::new(seed, &[number, 2]));
    let mut figures = Figures { runs: 1, ..Figures::default() };
    let mut places_rng = SeededRng::new(seed, &[number, 3]);
    let mut access_rng = SeededRng::new(seed, &[number, 4]);
    let mut clock_is_true = true;
    let mut jumped = Duration::ZERO;

    while figures.kills < kills {
        top_up(&caller_state, &mut plans, [&providers, &places.other]);
        match rng.between(0, 3) {
            0 => providers.disarm(),
            _ => providers.arm(&mut rng),
        }
        match places_rng.between(0, 3) {
            0 => places.other.disarm(),
            _ => places.other.arm(&mut places_rng),
        }
        places.draw(&mut places_rng, &providers);
        let has_access = access_rng.percent(65);
        figures.starts_with_access += u64::from(has_access);
        let has_debitsuccess = places.is_configured(Provider::Debitsuccess);
        let access = if has_access { access::settings(&folder, has_debitsuccess) } else { String::new() };
        environment.configure(&format!("{SETTINGS}{access}{}", places.settings(&providers)));
        let mode = rng.weighted(&[
            (60, KillMode::Kill),
            (8, KillMode::KillAtStart),
            (10, KillMode::Terminate),
            (12, KillMode::KillProviders),
            (10, KillMode::FullDisk),
        ]);
        if mode == KillMode::KillAtStart {
            environment.kill_at_start(Duration::from_micros(rng.between(0, 60_000)));
            figures.kills += 1;
            figures.kills_at_start += 1;
            continue;
        }
        let gateway = match environment.start() {
            Ok(gateway) => gateway,
            Err(log) => {
                figures.violations.push(format!("starts again: the gateway did not: {log:?}"));
                break;
            }
        };
        caller_state.address.send_replace(Some(gateway.addr));
        let pause = |rng: &mut SeededRng| Duration::from_micros(rng.between(1_000, 500_000));
        std::thread::sleep(pause(&mut rng));
        if rng.percent(15) {
            let jump = Duration::from_secs(rng.between(1, 600));
            if jumped + jump <= MAX_CLOCK_JUMPS {
                providers.advance(jump);
                places.other.advance(jump);
                jumped += jump;
                clock_is_true = false;
                figures.clock_jumps += 1;
                std::thread::sleep(pause(&mut rng));
            }
        }
        match mode {
            KillMode::Kill | KillMode::KillAtStart => {}
            KillMode::Terminate => {
                figures.terminations += 1;
                if rng.percent(50) {
                    // The kill comes in the middle of the drain.
                    gateway.signal("TERM");
                    std::thread::sleep(Duration::from_micros(rng.between(0, 400_000)));
                } else {
                    let status = gateway.terminate();
                    caller_state.address.send_replace(None);
                    if !status.success() {
                        figures.violations.push(format!("SIGTERM stops it cleanly: it ended with {status}"));
                    }
                    continue;
                }
            }
            KillMode::KillProviders => {
                providers.kill();
                figures.provider_kills += 1;
                clock_is_true = false;
                std::thread::sleep(pause(&mut rng) / 2);
                providers.restart();
                caller_state.set_worlds([providers.world(), places.other.world()]);
                std::thread::sleep(pause(&mut rng) / 2);
            }
            KillMode::FullDisk => {
                figures.full_disks += u64::from(environment.fill_disk(&gateway, &mut rng));
                std::thread::sleep(pause(&mut rng));
            }
        }
        providers.collect_journal();
        places.other.collect_journal();
        let was_killed = gateway.kill().signal() == Some(SIGKILL);
        figures.kills += u64::from(was_killed);
        caller_state.address.send_replace(None);
    }

    caller_state.ended.cancel();
    runtime.block_on(callers.join_all());
    if !figures.violations.is_empty() {
        keep(&environment, &caller_state, &mut figures);
        return figures;
    }
    figures.changes = places.changes;
    judge(&environment, &providers, &mut places, &caller_state, &runtime, &mut rng, clock_is_true, &mut figures);
    figures
}

/// Reaches quiescence, and lets the oracle judge.
#[expect(clippy::too_many_arguments, reason = "the whole state of a run")]
fn judge(
    environment: &Environment,
    providers: &Providers,
    places: &mut Places,
    caller_state: &Arc<CallerState>,
    runtime: &Runtime,
    rng: &mut SeededRng,
    clock_is_true: bool,
    figures: &mut Figures,
) {
    for each in [providers, &places.other] {
        each.disarm();
    }
    // The providers do now what they would do later, so that their books are complete.
    let finish_late_effects = |other: &Providers| {
        for each in [providers, other] {
            each.advance(Duration::from_secs(5));
        }
    };
    finish_late_effects(&places.other);
    let mut quiescent = Err("reaches quiescence: it was not tried".to_owned());
    // First the refunds that belong to the other books, and then the rest.
    for other in [true, false] {
        places.move_all_to(other);
        let access = access::settings(&environment.folder, true);
        environment.configure(&format!("{SETTINGS}{access}{}", places.settings(providers)));
        let gateway = match environment.start() {
            Ok(gateway) => gateway,
            Err(log) => {
                figures.violations.push(format!("starts again: the gateway did not, at the end: {log:?}"));
                keep(environment, caller_state, figures);
                return;
            }
        };
        quiescent = runtime.block_on(async {
            tokio::select! {
                quiescent = quiescence::reach(gateway.addr, caller_state, rng, || finish_late_effects(&places.other)) => quiescent,
                never = collect_journals(providers) => match never {},
                never = collect_journals(&places.other) => match never {},
            }
        });
        let status = gateway.terminate();
        if !status.success() {
            figures.violations.push(format!("SIGTERM stops it cleanly: it ended with {status} at quiescence"));
        }
        if quiescent.is_err() {
            break;
        }
    }
    match quiescent {
        Ok(quiescent) => {
            let records = [providers.records(), places.other.records()];
            let evidence = Evidence {
                by_books: [0, 1].map(|books: usize| records[books].journal.clone()),
                endpoints_of_other: places.endpoints_of_other(),
                account_was_removed: places.account_was_removed,
                plans: caller_state.plans(),
                history: caller_state.history.entries(),
                pauses: caller_state.pauses.lock().unwrap().clone(),
                followed: caller_state.followed.lock().unwrap().clone(),
                quiescent,
                records: ProviderRecords::of_both(records),
                ledger: rows::read(&environment.ledger),
                verified: runtime.block_on(rows::verify(&environment.ledger)),
                clock_is_true,
            };
            oracle::judge(&evidence, figures);
            figures.violations.extend(oracle_self_test::undetected(&evidence));
            figures.violations.extend(oracle::secrets_in(&environment.folder, &environment.texts()));
            if !figures.violations.is_empty() {
                oracle::keep(&evidence, &environment.folder);
            }
        }
        Err(problem) => figures.violations.push(problem),
    }
    if figures.violations.is_empty() {
        let _ = fs::remove_dir_all(&environment.folder);
    } else {
        keep(environment, caller_state, figures);
    }
}

/// Copies the journal more often than it can fill up: at quiescence every open refund is looked up
/// at the same time.
async fn collect_journals(providers: &Providers) -> Infallible {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        providers.collect_journal();
    }
}

/// Keeps what is needed to understand a violation; ledger and log are in the folder already.
fn keep(environment: &Environment, caller_state: &CallerState, figures: &mut Figures) {
    let mut history = File::create(environment.folder.join("history.txt")).unwrap();
    for entry in caller_state.history.entries() {
        writeln!(history, "{entry:?}").unwrap();
    }
    fs::write(environment.folder.join("violations.txt"), figures.violations.join("\n")).unwrap();
    figures.kept.push(environment.folder.clone());
}

fn top_up(caller_state: &CallerState, plans: &mut Plans, worlds: [&Providers; 2]) {
    let mut stock = caller_state.unrequested.lock().unwrap();
    let fresh: Vec<_> = (stock.len()..MIN_UNREQUESTED).map(|_| plans.next()).collect();
    for world in worlds {
        world.put(&fresh);
        world.collect_journal();
    }
    stock.extend(fresh);
}

/// Short times: a run lasts seconds, not days.
const SETTINGS: &str = "\
    server.max_wait_ms = 3000\n\
    server.drain_ms = 2000\n\
    engine.reconcile_interval_ms = 0\n\
    engine.retry_backoff_min_ms = 10\n\
    engine.retry_backoff_max_ms = 200\n\
    engine.lookups_after_ms = \"150 400 1000 2000\"\n\
    engine.lookups_every_ms = 1500\n\
    engine.circuit_pause_min_ms = 20\n\
    engine.circuit_pause_max_ms = 300\n";

/// The settings of every account.
pub(crate) const ACCOUNT_SETTINGS: &str = "\
    max_in_flight = 8\n\
    requests_per_second = 0\nrequests_per_hour = 0\n\
    connect_timeout_ms = 250\n\
    total_timeout_ms = 600\n\
    settle_time_s = 2\n";

pub(crate) const PROVIDERS: [Provider; 3] = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];

/// A copy of the binary, so that a build during a long run does not change it.
fn binary() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    let copy = || {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recoup-{}", std::process::id()));
        fs::copy(env!("CARGO_BIN_EXE_recoup"), &copy).unwrap();
        copy
    };
    COPY.get_or_init(copy).clone()
}

/// Removes that copy.
pub(crate) fn remove_binary_copy() {
    let _ = fs::remove_file(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recoup-{}", std::process::id())));
}

impl Environment {
    /// Creates the folder and a configuration with these settings, which include the accounts.
    pub(crate) fn create(folder: &Path, settings: &str) -> Environment {
        let environment = Environment {
            folder: folder.to_owned(),
            binary: binary(),
            config: folder.join("recoup.toml"),
            ledger: folder.join("ledger").join("recoup.db"),
            log: folder.join("gateway.log"),
        };
        fs::create_dir_all(folder.join("ledger")).unwrap();
        environment.configure(settings);
        environment
    }

    /// Writes the configuration of the next start.
    fn configure(&self, settings: &str) {
        let common = format!("listen = \"127.0.0.1:0\"\nledger.path = \"{}\"\n", self.ledger.display());
        fs::write(&self.config, format!("{common}{settings}")).unwrap();
    }

    /// Starts the gateway. The error is its log, where it could not start.
    pub(crate) fn start(&self) -> Result<Gateway, Vec<String>> {
        let mut log = File::options().create(true).append(true).open(&self.log).unwrap();
        Gateway::launch(self.command(), move |line| writeln!(log, "{line}").unwrap())
    }

    /// Starts the gateway and kills it so soon that it may not listen yet.
    fn kill_at_start(&self, after: Duration) {
        let mut child = self.command().stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Limits the size of every file, so that a write that grows a file fails as on a full disk.
    /// False where the system has no prlimit (util-linux).
    fn fill_disk(&self, gateway: &Gateway, rng: &mut SeededRng) -> bool {
        let mut log = self.ledger.clone().into_os_string();
        log.push("-wal");
        let written = fs::metadata(log).map_or(0, |metadata| metadata.len());
        let limit = rng.between(written / 2, written + 40_000);
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", gateway.id()))
            .arg(format!("--fsize={limit}:{limit}"))
            .status();
        match status {
            Ok(status) => {
                assert!(status.success(), "prlimit sets the limit");
                true
            }
            Err(_) => false,
        }
    }

    /// A shell that ignores the signal for an oversized file and becomes the gateway: the write
    /// then fails with an error, as on a full disk.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve --config \"$1\""]).arg(&self.binary).arg(&self.config);
        command.envs(SECRETS);
        command
    }

    /// The files that must not contain a secret.
    fn texts(&self) -> Vec<PathBuf> {
        let ledger = fs::read_dir(self.folder.join("ledger")).unwrap();
        ledger.map(|entry| entry.unwrap().path()).chain([self.log.clone()]).collect()
    }
}

impl Figures {
    pub(crate) fn add(&mut self, other: Figures) {
        self.runs += other.runs;
        self.kills += other.kills;
        self.kills_at_start += other.kills_at_start;
        self.terminations += other.terminations;
        self.provider_kills += other.provider_kills;
        self.full_disks += other.full_disks;
        self.clock_jumps += other.clock_jumps;
        self.changes += other.changes;
        self.starts_with_access += other.starts_with_access;
        self.approved += other.approved;
        self.rejected += other.rejected;
        self.over_the_limit += other.over_the_limit;
        self.pauses += other.pauses;
        self.moves += other.moves;
        self.calls += other.calls;
        self.unknown_calls += other.unknown_calls;
        self.refunds += other.refunds;
        self.attempts += other.attempts;
        self.requests += other.requests;
        self.sent_again += other.sent_again;
        for (state, refunds) in other.states {
            *self.states.entry(state).or_default() += refunds;
        }
        self.effects += other.effects;
        self.doubts += other.doubts;
        self.resolved += other.resolved;
        self.open += other.open;
        self.violations.extend(other.violations);
        self.kept.extend(other.kept);
    }
}
