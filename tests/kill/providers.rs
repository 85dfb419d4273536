//! The real simulators on a runtime of their own, so that they can be killed like a process while
//! their memory survives.
//!
//! ```text
//! kill:    the runtime ends: every socket closes, and every request stops at its current await
//! restart: the same world, books and journal, on the same ports
//!          (and, as at every start, with another certificate)
//! ```
//!
//! A request takes effect between two awaits, so the books are never half written.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use simulators::faults::{FaultEffect, Point, Random, RandomFault, Repeat, Rule};
use simulators::request::{Deduplication, Provider};
use simulators::{BookEntry, Config, JournalEntry, Settings, Simulators, WorldHandle};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use crate::plans::Plan;
use crate::rng::SeededRng;
use crate::support::demo_accounts::AccountSection;

/// The simulators, and what is recorded of them.
pub(crate) struct Providers {
    folder: PathBuf,
    addresses: [SocketAddr; 5],
    running: Option<(Runtime, Simulators)>,
    world: WorldHandle,
    killed_at: OffsetDateTime,
    /// The journal so far.
    journal: Mutex<Vec<JournalEntry>>,
}

/// What really happened at the providers.
#[derive(Clone)]
pub(crate) struct ProviderRecords {
    pub(crate) books: Vec<BookEntry>,
    pub(crate) journal: Vec<JournalEntry>,
    /// Entries of books and journal that were dropped: above 0, the oracle cannot judge.
    pub(crate) dropped: u64,
}

impl ProviderRecords {
    /// The records of two sets of books together, the journal ordered by time.
    pub(crate) fn of_both([one, other]: [ProviderRecords; 2]) -> ProviderRecords {
        let mut records = ProviderRecords {
            books: one.books.into_iter().chain(other.books).collect(),
            journal: one.journal.into_iter().chain(other.journal).collect(),
            dropped: one.dropped + other.dropped,
        };
        records.journal.sort_by_key(|entry| entry.time);
        records
    }
}

/// No limits and no delays. Without deduplication, a provider does not hide a second send.
pub(crate) fn settings(deduplication: Deduplication) -> Settings {
    let mut settings = Settings::default();
    settings.namecom.requests_per_second = 0;
    settings.namecom.requests_per_hour = 0;
    settings.sectigo.deduplication = deduplication;
    settings.namecom.deduplication = deduplication;
    settings.debitsuccess.deduplication = deduplication;
    settings
}

impl Providers {
    /// Starts the simulators, with their certificate authority in `folder`.
    pub(crate) fn start(folder: &Path, settings: Settings) -> Providers {
        let addresses = free_addresses();
        let config = Config { settings, ..config(addresses, folder) };
        let (runtime, simulators) = launch(&config);
        let world = simulators.demo();
        Providers {
            folder: folder.to_owned(),
            addresses,
            running: Some((runtime, simulators)),
            world,
            killed_at: OffsetDateTime::UNIX_EPOCH,
            journal: Mutex::default(),
        }
    }

    /// The address of a provider.
    pub(crate) fn address(&self, provider: Provider) -> SocketAddr {
        let [_, sectigo, _, namecom, debitsuccess] = self.addresses;
        match provider {
            Provider::Sectigo => sectigo,
            Provider::Namecom => namecom,
            Provider::Debitsuccess => debitsuccess,
        }
    }

    /// The authority of Sectigo's certificate: another one after each start.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The section of a provider's account in the gateway's configuration.
    pub(crate) fn account(&self, provider: Provider) -> AccountSection {
        AccountSection::new(provider, self.address(provider), &self.ca_file())
    }

    /// The world as it is, or as it was at the kill.
    pub(crate) fn world(&self) -> WorldHandle {
        self.world.clone()
    }

    /// Kills the simulators.
    pub(crate) fn kill(&mut self) {
        let Some((runtime, simulators)) = self.running.take() else { return };
        runtime.shutdown_timeout(Duration::from_secs(10));
        drop(simulators);
        self.killed_at = now();
    }

    /// Starts the simulators again after a kill.
    pub(crate) fn restart(&mut self) {
        if self.running.is_some() {
            return;
        }
        let file = self.folder.join("world.json");
        std::fs::write(&file, serde_json::to_vec(&self.world.snapshot()).unwrap()).unwrap();
        let config = Config { world_file: Some(file), ..config(self.addresses, &self.folder) };
        let (runtime, simulators) = launch(&config);
        self.world = simulators.demo();
        // Its clock continues from the kill, so it is moved forward by the time that it missed.
        let missed = now() - self.killed_at;
        self.world.advance(missed.try_into().unwrap_or_default());
        self.running = Some((runtime, simulators));
    }

    /// Arms an effect for the second request on a connection, before it is read.
    pub(crate) fn arm_second_requests(&self, provider: Provider, effect: FaultEffect) {
        let rule =
            Rule { ordinal: Some(2), repeat: Repeat::Standing, ..Rule::new(provider, Point::BeforeRead, effect) };
        self.world.with_world(|world| world.arm(rule).unwrap());
    }

    /// Arms an effect that alternates between two points, until it is disarmed.
    pub(crate) fn arm_flapping(&self, rules: impl IntoIterator<Item = (Provider, [Point; 2], FaultEffect)>) {
        self.world.with_world(|world| {
            for (provider, [one, other], effect) in rules {
                // A request that the first rule does not match meets the second one.
                let repeat = Repeat::Flap { down: 1, up: 1 };
                world.arm(Rule { repeat, ..Rule::new(provider, other, effect.clone()) }).unwrap();
                world.arm(Rule { repeat: Repeat::Standing, ..Rule::new(provider, one, effect) }).unwrap();
            }
        });
    }

    /// How many requests have arrived.
    pub(crate) fn requests(&self) -> usize {
        let last = self.world.with_world(|world| world.journal.entries().next_back().map_or(0, |entry| entry.id));
        usize::try_from(last).unwrap()
    }

    /// Puts the targets of these refunds.
    pub(crate) fn put<'a>(&self, plans: impl IntoIterator<Item = &'a Plan>) {
        self.world.with_world(|world| plans.into_iter().for_each(|plan| plan.put(world)));
    }

    /// Arms random faults in a share of the requests, and sometimes a fault at the connections of
    /// one provider.
    pub(crate) fn arm(&self, rng: &mut SeededRng) {
        self.disarm();
        let random = Random {
            seed: rng.next(),
            share: rng.between(5, 35) as f64 / 100.0,
            effects: fault_menu(),
            provider: None,
            operation: None,
        };
        let provider = rng.weighted(&[(1, Provider::Sectigo), (1, Provider::Namecom), (1, Provider::Debitsuccess)]);
        let at_connect = [
            (Point::Connect, FaultEffect::Refuse),
            (Point::Connect, FaultEffect::ResetPeer),
            (Point::Connect, FaultEffect::Delay { milliseconds: 60 }),
            (Point::Connect, FaultEffect::Close),
            (Point::BeforeRead, FaultEffect::ResetPeer),
            (Point::BeforeRead, FaultEffect::Close),
            (Point::BeforeRead, FaultEffect::NeverAnswer),
        ];
        let (point, effect) = at_connect[rng.index(at_connect.len())].clone();
        let flap = Repeat::Flap { down: rng.between(1, 3), up: rng.between(2, 9) };
        // A refused connection is not counted, so a rule cannot alternate there.
        let repeat = if effect == FaultEffect::Refuse { Repeat::Standing } else { flap };
        let is_at_connect = rng.percent(40);
        self.world.with_world(|world| {
            world.faults.set_random(Some(random)).unwrap();
            if is_at_connect {
                world.arm(Rule { repeat, ..Rule::new(provider, point, effect) }).unwrap();
            }
        });
    }

    /// Disarms every fault.
    pub(crate) fn disarm(&self) {
        self.world.with_world(|world| {
            world.faults.set_random(None).unwrap();
            let armed: Vec<_> = world.faults.list().iter().map(|armed| armed.id).collect();
            for id in armed {
                world.faults.disarm(id);
            }
        });
    }

    /// Moves the clock of the simulators forward.
    pub(crate) fn advance(&self, by: Duration) {
        assert!(self.world.advance(by));
    }

    /// Copies new entries of the journal, which keeps only the latest.
    pub(crate) fn collect_journal(&self) {
        let mut collected = self.journal.lock().unwrap();
        let last = collected.last().map_or(0, |entry| entry.id);
        let new: Vec<JournalEntry> =
            self.world.with_world(|world| world.journal.entries().rev().take_while(|entry| entry.id > last).collect());
        collected.extend(new.into_iter().rev());
    }

    pub(crate) fn records(&self) -> ProviderRecords {
        self.collect_journal();
        let journal = self.journal.lock().unwrap().clone();
        let missing = journal.last().map_or(0, |entry| entry.id) - journal.len() as u64;
        self.world.with_world(|world| ProviderRecords {
            books: world.books.entries().collect(),
            dropped: world.books.dropped() + missing,
            journal,
        })
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What may go wrong with any request, including lookups. There are no Byzantine answers here: what
/// a provider answers as not done is not done.
fn fault_menu() -> Vec<RandomFault> {
    let draw = |point, effect| RandomFault { point, effect };
    let answer = |status| FaultEffect::Answer { status, body: String::new(), headers: Default::default() };
    let (before, after) = (Point::BeforeEffect, Point::AfterEffect);
    let during = Point::DuringAnswer { after_bytes: 1 };
    vec![
        draw(before, FaultEffect::ResetPeer),
        draw(before, FaultEffect::Close),
        draw(before, FaultEffect::Delay { milliseconds: 40 }),
        draw(before, FaultEffect::Delay { milliseconds: 250 }),
        draw(before, FaultEffect::NeverAnswer),
        draw(before, FaultEffect::LimitData { after_bytes: 0 }),
        draw(before, FaultEffect::Corrupt { bytes: 1 }),
        draw(before, FaultEffect::CommitLate { seconds: 1 }),
        draw(before, FaultEffect::Stale { seconds: 1 }),
        draw(before, answer(500)),
        draw(before, answer(429)),
        draw(after, FaultEffect::ResetPeer),
        draw(after, FaultEffect::Close),
        draw(after, FaultEffect::Delay { milliseconds: 40 }),
        draw(after, FaultEffect::Delay { milliseconds: 250 }),
        draw(after, FaultEffect::NeverAnswer),
        draw(after, FaultEffect::LimitData { after_bytes: 0 }),
        draw(after, FaultEffect::Corrupt { bytes: 1 }),
        draw(after, FaultEffect::Stale { seconds: 1 }),
        draw(after, answer(503)),
        draw(during, FaultEffect::LimitData { after_bytes: 0 }),
        draw(during, FaultEffect::ResetPeer),
        draw(during, FaultEffect::Slicer { bytes: 40, every_milliseconds: 15 }),
    ]
}

fn launch(config: &Config) -> (Runtime, Simulators) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let simulators = runtime.block_on(Simulators::start(config.clone())).unwrap();
    (runtime, simulators)
}

fn config(
    [control, sectigo, sectigo_plaintext, namecom_plaintext, debitsuccess_plaintext]: [SocketAddr; 5],
    folder: &Path,
) -> Config {
    let ca_file = Some(folder.join("ca.pem"));
    let ports = Config::free_ports();
    Config { control, sectigo, sectigo_plaintext, namecom_plaintext, debitsuccess_plaintext, ca_file, ..ports }
}

/// Ports below those of outgoing connections: a client that connects to a port without a listener
/// could otherwise get that very port as its own, and talk to itself.
fn free_addresses() -> [SocketAddr; 5] {
    let first = 12_000 + u16::try_from(std::process::id() % 2_000).unwrap() * 9;
    let mut free = (first..32_000)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .filter(|address| TcpListener::bind(address).is_ok());
    std::array::from_fn(|_| free.next().unwrap())
}

/// The system's time.
#[expect(clippy::disallowed_methods, reason = "the downtime of a server that the test kills is real")]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
