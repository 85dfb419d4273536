//! The other side: the real simulators on a runtime of their own, so that they can be killed like a
//! process and their memory survives.
//!
//! ```text
//! kill:    the runtime ends; every socket closes in that moment, every request stops at the await where it is
//! restart: the world as it was then, books and journal with it, on the same ports (and, as always, with another certificate)
//! ```
//!
//! What a request does it does between two awaits, so the books are never caught in the middle.

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
use crate::rng::Dice;

/// The emulated providers.
pub(crate) struct Providers {
    folder: PathBuf,
    addresses: [SocketAddr; 5],
    running: Option<(Runtime, Simulators)>,
    world: WorldHandle,
    went: OffsetDateTime,
    /// The journal so far.
    gathered: Mutex<Vec<JournalEntry>>,
}

/// What really happened.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) books: Vec<BookEntry>,
    pub(crate) journal: Vec<JournalEntry>,
    /// Entries of books and journal that are gone: above 0, nothing can be judged.
    pub(crate) dropped: u64,
}

impl Truth {
    /// The story of two sets of books in one, in its order.
    pub(crate) fn of_both([one, other]: [Truth; 2]) -> Truth {
        let mut truth = Truth {
            books: one.books.into_iter().chain(other.books).collect(),
            journal: one.journal.into_iter().chain(other.journal).collect(),
            dropped: one.dropped + other.dropped,
        };
        truth.journal.sort_by_key(|entry| entry.time);
        truth
    }
}

/// As the wire is best: no limits, no delays. Where the provider would hide a second send by its
/// kindness, it may be told not to.
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
    /// Starts them, their certificate authority in `folder`.
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
            went: OffsetDateTime::UNIX_EPOCH,
            gathered: Mutex::default(),
        }
    }

    /// Where a provider listens.
    pub(crate) fn address(&self, provider: Provider) -> SocketAddr {
        let [_, sectigo, _, namecom, debitsuccess] = self.addresses;
        match provider {
            Provider::Sectigo => sectigo,
            Provider::Namecom => namecom,
            Provider::Debitsuccess => debitsuccess,
        }
    }

    /// The authority of Sectigo's certificate; another one after each start.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The world, as it is or as it was when they were killed.
    pub(crate) fn world(&self) -> WorldHandle {
        self.world.clone()
    }

    /// Kills them.
    pub(crate) fn kill(&mut self) {
        let Some((runtime, simulators)) = self.running.take() else { return };
        runtime.shutdown_timeout(Duration::from_secs(10));
        drop(simulators);
        self.went = now();
    }

    /// Starts them again, where they were killed.
    pub(crate) fn restart(&mut self) {
        if self.running.is_some() {
            return;
        }
        let file = self.folder.join("world.json");
        std::fs::write(&file, serde_json::to_vec(&self.world.snapshot()).unwrap()).unwrap();
        let config = Config { world_file: Some(file), ..config(self.addresses, &self.folder) };
        let (runtime, simulators) = launch(&config);
        self.world = simulators.demo();
        // Its clock goes on from where it was: what it missed is made up for.
        let missed = now() - self.went;
        self.world.advance(missed.try_into().unwrap_or_default());
        self.running = Some((runtime, simulators));
    }

    /// Arms an effect for whatever comes in second on a connection, before anything of it is read.
    pub(crate) fn arm_second_requests(&self, provider: Provider, effect: FaultEffect) {
        let rule =
            Rule { ordinal: Some(2), repeat: Repeat::Standing, ..Rule::new(provider, Point::BeforeRead, effect) };
        self.world.with_world(|world| world.arm(rule).unwrap());
    }

    /// Arms an effect for as long as nothing disarms it, in turn at two points.
    pub(crate) fn arm_flapping(&self, rules: impl IntoIterator<Item = (Provider, [Point; 2], FaultEffect)>) {
        self.world.with_world(|world| {
            for (provider, [one, other], effect) in rules {
                // What the first lets by comes to the second.
                let repeat = Repeat::Flap { down: 1, up: 1 };
                world.arm(Rule { repeat, ..Rule::new(provider, other, effect.clone()) }).unwrap();
                world.arm(Rule { repeat: Repeat::Standing, ..Rule::new(provider, one, effect) }).unwrap();
            }
        });
    }

    /// How many requests have come in.
    pub(crate) fn requests(&self) -> usize {
        let last = self.world.with_world(|world| world.journal.entries().next_back().map_or(0, |entry| entry.id));
        usize::try_from(last).unwrap()
    }

    /// Puts the targets of these refunds.
    pub(crate) fn put<'a>(&self, plans: impl IntoIterator<Item = &'a Plan>) {
        self.world.with_world(|world| plans.into_iter().for_each(|plan| plan.put(world)));
    }

    /// Has things go wrong: in a share of the requests, by chance, and at the door of one provider.
    pub(crate) fn arm(&self, dice: &mut Dice) {
        self.disarm();
        let random = Random {
            seed: dice.next(),
            share: dice.between(5, 35) as f64 / 100.0,
            effects: menu(),
            provider: None,
            operation: None,
        };
        let provider = dice.weighted(&[(1, Provider::Sectigo), (1, Provider::Namecom), (1, Provider::Debitsuccess)]);
        let at_door = [
            (Point::Connect, FaultEffect::Refuse),
            (Point::Connect, FaultEffect::ResetPeer),
            (Point::Connect, FaultEffect::Delay { milliseconds: 60 }),
            (Point::Connect, FaultEffect::Close),
            (Point::BeforeRead, FaultEffect::ResetPeer),
            (Point::BeforeRead, FaultEffect::Close),
            (Point::BeforeRead, FaultEffect::NeverAnswer),
        ];
        let (point, effect) = at_door[dice.place(at_door.len())].clone();
        let flap = Repeat::Flap { down: dice.between(1, 3), up: dice.between(2, 9) };
        // Where nobody listens, nobody counts who knocks.
        let repeat = if effect == FaultEffect::Refuse { Repeat::Standing } else { flap };
        let is_at_door = dice.percent(40);
        self.world.with_world(|world| {
            world.faults.set_random(Some(random)).unwrap();
            if is_at_door {
                world.arm(Rule { repeat, ..Rule::new(provider, point, effect) }).unwrap();
            }
        });
    }

    /// Nothing goes wrong any more.
    pub(crate) fn disarm(&self) {
        self.world.with_world(|world| {
            world.faults.set_random(None).unwrap();
            let armed: Vec<_> = world.faults.list().iter().map(|armed| armed.id).collect();
            for id in armed {
                world.faults.disarm(id);
            }
        });
    }

    /// Moves their clock forward.
    pub(crate) fn advance(&self, by: Duration) {
        assert!(self.world.advance(by));
    }

    /// Takes over what the journal has that is new: it keeps little.
    pub(crate) fn gather(&self) {
        let mut gathered = self.gathered.lock().unwrap();
        let last = gathered.last().map_or(0, |entry| entry.id);
        let new: Vec<JournalEntry> =
            self.world.with_world(|world| world.journal.entries().rev().take_while(|entry| entry.id > last).collect());
        gathered.extend(new.into_iter().rev());
    }

    pub(crate) fn truth(&self) -> Truth {
        self.gather();
        let journal = self.gathered.lock().unwrap().clone();
        let gone = journal.last().map_or(0, |entry| entry.id) - journal.len() as u64;
        self.world.with_world(|world| Truth {
            books: world.books.entries().collect(),
            dropped: world.books.dropped() + gone,
            journal,
        })
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What may go wrong with any request, lookups too. No provider lies here: what is told as not done
/// is not done.
fn menu() -> Vec<RandomFault> {
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

/// Below the ports that a system gives to outgoing connections: a client that knocks at a port
/// where nobody listens could otherwise be given that very port, and talk to itself.
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
