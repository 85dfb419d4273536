//! One run: a ledger, the providers, the callers, and a gateway that is killed again and again;
//! then rest, and the oracle.

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

use crate::callers::{self, Board};
use crate::oracle::{self, Evidence};
use crate::oracle_self_test;
use crate::plans::Plans;
use crate::providers::{self, Providers, Truth};
use crate::quiescence;
use crate::rng::Dice;
use crate::rows;
use crate::setups::Places;
use crate::support::SECRETS;
use crate::support::process::Gateway;

/// Refunds that callers find ready when a round begins: more than they get through.
const STOCK: usize = 400;
const SIGKILL: i32 = 9;
/// How far all jumps of the providers' clock may lead in a run: less than what name.com's key lives
/// longer there (an hour) than here, so that a key that the gateway takes for alive is.
const JUMPS: Duration = Duration::from_secs(3_000);

/// What a run came to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures {
    pub(crate) runs: u64,
    /// SIGKILLs of a gateway.
    pub(crate) kills: u64,
    /// Of these, before it took calls.
    pub(crate) kills_at_start: u64,
    pub(crate) terminations: u64,
    pub(crate) provider_kills: u64,
    pub(crate) full_disks: u64,
    pub(crate) clock_jumps: u64,
    /// Starts with another configuration than the one before.
    pub(crate) changes: u64,
    /// Refunds that went on at another place.
    pub(crate) moves: usize,
    pub(crate) calls: usize,
    /// Calls of which the caller does not know what they came to.
    pub(crate) unknown_calls: usize,
    pub(crate) refunds: usize,
    pub(crate) attempts: usize,
    pub(crate) requests: usize,
    /// Refunds of which more than one request came to the provider.
    pub(crate) sent_again: usize,
    pub(crate) effects: usize,
    /// Refunds that were in doubt at some time.
    pub(crate) doubts: usize,
    /// Refunds that a person settled by the evidence.
    pub(crate) resolved: usize,
    /// Refunds in doubt, or left to a person, at the end.
    pub(crate) open: usize,
    /// How all refunds ended.
    pub(crate) states: BTreeMap<String, usize>,
    pub(crate) violations: Vec<String>,
    /// Where the evidence of violations is.
    pub(crate) kept: Vec<PathBuf>,
}

/// How a round ends, besides the SIGKILL that ends it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Kill,
    KillAtStart,
    Terminate,
    KillProviders,
    FullDisk,
}

/// The gateway as it is run: the binary, its configuration, its ledger and its log.
pub(crate) struct House {
    pub(crate) folder: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    pub(crate) ledger: PathBuf,
    log: PathBuf,
}

/// One run with so many kills.
pub(crate) fn run(base: &Path, seed: u64, number: u64, kills: u64) -> Figures {
    let mut dice = Dice::new(seed, &[number]);
    let folder = base.join(format!("kill-{seed}-{number}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    // Kind providers hide a second send, the others book it.
    let deduplication = dice.weighted(&[(1, Deduplication::On), (2, Deduplication::Off)]);
    let mut providers = Providers::start(&folder, providers::settings(deduplication));
    let mut places = Places::new(&folder, &providers, deduplication);
    let house = House::furnish(&folder, &format!("{SETTINGS}{}", places.settings(&providers)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let board = Board::new([providers.world(), places.other.world()]);
    let callers = {
        let _entered = runtime.enter();
        callers::set_to_work(&board, seed, number)
    };
    let mut plans = Plans::new(format!("k{number}"), Dice::new(seed, &[number, 2]));
    let mut figures = Figures { runs: 1, ..Figures::default() };
    let mut of_places = Dice::new(seed, &[number, 3]);
    let mut clock_is_true = true;
    let mut jumped = Duration::ZERO;

    while figures.kills < kills {
        top_up(&board, &mut plans, [&providers, &places.other]);
        match dice.between(0, 3) {
            0 => providers.disarm(),
            _ => providers.arm(&mut dice),
        }
        match of_places.between(0, 3) {
            0 => places.other.disarm(),
            _ => places.other.arm(&mut of_places),
        }
        places.draw(&mut of_places, &providers);
        house.configure(&format!("{SETTINGS}{}", places.settings(&providers)));
        let manner = dice.weighted(&[
            (60, Manner::Kill),
            (8, Manner::KillAtStart),
            (10, Manner::Terminate),
            (12, Manner::KillProviders),
            (10, Manner::FullDisk),
        ]);
        if manner == Manner::KillAtStart {
            house.kill_at_start(Duration::from_micros(dice.between(0, 60_000)));
            figures.kills += 1;
            figures.kills_at_start += 1;
            continue;
        }
        let gateway = match house.start() {
            Ok(gateway) => gateway,
            Err(said) => {
                figures.violations.push(format!("starts again: the gateway did not: {said:?}"));
                break;
            }
        };
        board.address.send_replace(Some(gateway.addr));
        let moment = |dice: &mut Dice| Duration::from_micros(dice.between(1_000, 500_000));
        std::thread::sleep(moment(&mut dice));
        if dice.percent(15) {
            let jump = Duration::from_secs(dice.between(1, 600));
            if jumped + jump <= JUMPS {
                providers.advance(jump);
                places.other.advance(jump);
                jumped += jump;
                clock_is_true = false;
                figures.clock_jumps += 1;
                std::thread::sleep(moment(&mut dice));
            }
        }
        match manner {
            Manner::Kill | Manner::KillAtStart => {}
            Manner::Terminate => {
                figures.terminations += 1;
                if dice.percent(50) {
                    // In the middle of the drain comes the kill.
                    gateway.signal("TERM");
                    std::thread::sleep(Duration::from_micros(dice.between(0, 400_000)));
                } else {
                    let status = gateway.terminate();
                    board.address.send_replace(None);
                    if !status.success() {
                        figures.violations.push(format!("SIGTERM ends it in order: it ended with {status}"));
                    }
                    continue;
                }
            }
            Manner::KillProviders => {
                providers.kill();
                figures.provider_kills += 1;
                clock_is_true = false;
                std::thread::sleep(moment(&mut dice) / 2);
                providers.restart();
                board.show([providers.world(), places.other.world()]);
                std::thread::sleep(moment(&mut dice) / 2);
            }
            Manner::FullDisk => {
                figures.full_disks += u64::from(house.fill_disk(&gateway, &mut dice));
                std::thread::sleep(moment(&mut dice));
            }
        }
        providers.gather();
        places.other.gather();
        let was_killed = gateway.kill().signal() == Some(SIGKILL);
        figures.kills += u64::from(was_killed);
        board.address.send_replace(None);
    }

    board.ended.cancel();
    runtime.block_on(callers.join_all());
    if !figures.violations.is_empty() {
        keep(&house, &board, &mut figures);
        return figures;
    }
    figures.changes = places.changes;
    judge(&house, &providers, &mut places, &board, &runtime, &mut dice, clock_is_true, &mut figures);
    figures
}

/// Brings everything to rest and asks the oracle.
#[expect(clippy::too_many_arguments, reason = "all that a run has")]
fn judge(
    house: &House,
    providers: &Providers,
    places: &mut Places,
    board: &Arc<Board>,
    runtime: &Runtime,
    dice: &mut Dice,
    clock_is_true: bool,
    figures: &mut Figures,
) {
    for each in [providers, &places.other] {
        each.disarm();
    }
    // What the providers were to do later they do now: their books show all to a person.
    let go_on = |other: &Providers| {
        for each in [providers, other] {
            each.advance(Duration::from_secs(5));
        }
    };
    go_on(&places.other);
    let mut at_rest = Err("comes to rest: it was not tried".to_owned());
    // First what belongs to the other books, and then the rest, wherever it was before.
    for other in [true, false] {
        places.gather_at(other);
        house.configure(&format!("{SETTINGS}{}", places.settings(providers)));
        let gateway = match house.start() {
            Ok(gateway) => gateway,
            Err(said) => {
                figures.violations.push(format!("starts again: the gateway did not, at the end: {said:?}"));
                keep(house, board, figures);
                return;
            }
        };
        at_rest = runtime.block_on(async {
            tokio::select! {
                at_rest = quiescence::bring(gateway.addr, board, dice, || go_on(&places.other)) => at_rest,
                never = gather(providers) => match never {},
                never = gather(&places.other) => match never {},
            }
        });
        let status = gateway.terminate();
        if !status.success() {
            figures.violations.push(format!("SIGTERM ends it in order: it ended with {status} when at rest"));
        }
        if at_rest.is_err() {
            break;
        }
    }
    match at_rest {
        Ok(at_rest) => {
            let truths = [providers.truth(), places.other.truth()];
            let evidence = Evidence {
                by_books: [0, 1].map(|books: usize| truths[books].journal.clone()),
                origins_of_other: places.origins_of_other(),
                was_one_gone: places.was_one_gone,
                plans: board.plans(),
                history: board.history.entries(),
                followed: board.followed.lock().unwrap().clone(),
                at_rest,
                truth: Truth::of_both(truths),
                ledger: rows::read(&house.ledger),
                verified: runtime.block_on(rows::verify(&house.ledger)),
                clock_is_true,
            };
            oracle::judge(&evidence, figures);
            figures.violations.extend(oracle_self_test::asleep(&evidence));
            figures.violations.extend(oracle::secrets_in(&house.folder, &house.texts()));
            if !figures.violations.is_empty() {
                oracle::keep(&evidence, &house.folder);
            }
        }
        Err(problem) => figures.violations.push(problem),
    }
    if figures.violations.is_empty() {
        let _ = fs::remove_dir_all(&house.folder);
    } else {
        keep(house, board, figures);
    }
}

/// Takes over what the journal has, oftener than it can fill: at rest every open refund is looked
/// up at once.
async fn gather(providers: &Providers) -> Infallible {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        providers.gather();
    }
}

/// Keeps what a person needs to understand a violation: ledger and log are there already.
fn keep(house: &House, board: &Board, figures: &mut Figures) {
    let mut history = File::create(house.folder.join("history.txt")).unwrap();
    for entry in board.history.entries() {
        writeln!(history, "{entry:?}").unwrap();
    }
    fs::write(house.folder.join("violations.txt"), figures.violations.join("\n")).unwrap();
    figures.kept.push(house.folder.clone());
}

fn top_up(board: &Board, plans: &mut Plans, worlds: [&Providers; 2]) {
    let mut stock = board.stock.lock().unwrap();
    let fresh: Vec<_> = (stock.len()..STOCK).map(|_| plans.next()).collect();
    for world in worlds {
        world.put(&fresh);
        world.gather();
    }
    stock.extend(fresh);
}

/// Everything soon: a run has seconds, not days.
const SETTINGS: &str = "\
    server.max_wait_ms = 3000\n\
    server.drain_ms = 2000\n\
    engine.retry_backoff_min_ms = 10\n\
    engine.retry_backoff_max_ms = 200\n\
    engine.lookups_after_ms = \"150 400 1000 2000\"\n\
    engine.lookups_every_ms = 1500\n\
    engine.circuit_pause_min_ms = 20\n\
    engine.circuit_pause_max_ms = 300\n";

/// The same for every account.
pub(crate) const OF_EACH_ACCOUNT: &str = "\
    max_in_flight = 8\n\
    requests_per_second = 0\nrequests_per_hour = 0\n\
    connect_timeout_ms = 250\n\
    total_timeout_ms = 600\n\
    settle_time_s = 2\n";

pub(crate) const PROVIDERS: [Provider; 3] = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];

/// What its account is called where it has one.
pub(crate) fn word(provider: Provider) -> &'static str {
    match provider {
        Provider::Sectigo => "sectigo",
        Provider::Namecom => "namecom",
        Provider::Debitsuccess => "debitsuccess",
    }
}

/// An account in the configuration, under the demo world's login.
pub(crate) fn account(providers: &Providers, provider: Provider, name: &str, more: &str) -> String {
    let (address, word) = (providers.address(provider), word(provider));
    let own = match provider {
        Provider::Sectigo => format!(
            "endpoint = \"https://{address}\"\nca_file = \"{}\"\n\
             login_name = \"demo\"\nlogin_password_env = \"DEMO_PASSWORD\"\n",
            providers.ca_file().display()
        ),
        Provider::Namecom => {
            format!("endpoint = \"http://{address}\"\nusername = \"demo-test\"\ntoken_env = \"DEMO_TOKEN\"\n")
        }
        Provider::Debitsuccess => format!(
            "endpoint = \"http://{address}\"\ncurrency = \"AUD\"\n\
             username = \"demo\"\npassword_env = \"DEMO_PASSWORD\"\n"
        ),
    };
    format!("[accounts.{name}]\nprovider = \"{word}\"\n{own}{more}")
}

/// A copy of the binary, so that a build during a long run changes nothing.
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
pub(crate) fn tidy_up() {
    let _ = fs::remove_file(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recoup-{}", std::process::id())));
}

impl House {
    /// A configuration: these settings, accounts among them, and where it listens and keeps its
    /// ledger.
    pub(crate) fn furnish(folder: &Path, settings: &str) -> House {
        let house = House {
            folder: folder.to_owned(),
            binary: binary(),
            config: folder.join("recoup.toml"),
            ledger: folder.join("ledger").join("recoup.db"),
            log: folder.join("gateway.log"),
        };
        fs::create_dir_all(folder.join("ledger")).unwrap();
        house.configure(settings);
        house
    }

    /// What the next start reads.
    fn configure(&self, settings: &str) {
        let common = format!("listen = \"127.0.0.1:0\"\nledger.path = \"{}\"\n", self.ledger.display());
        fs::write(&self.config, format!("{common}{settings}")).unwrap();
    }

    /// Starts the gateway; an error is what it said instead of starting.
    pub(crate) fn start(&self) -> Result<Gateway, Vec<String>> {
        let mut log = File::options().create(true).append(true).open(&self.log).unwrap();
        Gateway::launch(self.command(), move |line| writeln!(log, "{line}").unwrap())
    }

    /// Starts the gateway and kills it so soon that it may not have come to listen.
    fn kill_at_start(&self, after: Duration) {
        let mut child = self.command().stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// From some byte on nothing more can be written to any file: as on a full disk, each write
    /// that grows a file fails. False where the system has no prlimit (util-linux) to set that from
    /// outside.
    fn fill_disk(&self, gateway: &Gateway, dice: &mut Dice) -> bool {
        let mut log = self.ledger.clone().into_os_string();
        log.push("-wal");
        let written = fs::metadata(log).map_or(0, |metadata| metadata.len());
        let limit = dice.between(written / 2, written + 40_000);
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

    /// By way of a shell that has the signal of an over-long file ignored: the write fails with an
    /// error instead, as on a full disk.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve --config \"$1\""]).arg(&self.binary).arg(&self.config);
        command.envs(SECRETS);
        command
    }

    /// The files in which no secret may be.
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
