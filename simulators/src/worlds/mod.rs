//! Worlds: a set of credentials is a world, with its own orders, books, journal, faults, clock and
//! settings.
//!
//! ```text
//! request -> identify -> username -> Worlds::of -> SharedWorld (one lock each: a hundred run side by side)
//!                        unknown  -> the demo world, whose provider answers as to a wrong login
//! ```
//!
//! A registry knows which name belongs to which world; no name belongs to two. Nobody asks the
//! registry while holding a world. What comes in at ports of a world's own belongs to that world,
//! whatever username it has.

mod credentials;
mod handle;
mod key_locks;
mod snapshot;
mod world;

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use self::credentials::{Dice, names};
pub(crate) use self::key_locks::{Flights, InFlight};
pub use self::{
    credentials::{Credentials, DebitsuccessLogin, NamecomLogin, SectigoLogin},
    handle::WorldHandle,
    snapshot::{NotRestored, Snapshot},
    world::{Seed, Settings, World},
};
use crate::{
    clock::system_now,
    faults::Moment,
    http::listener::{Harbour, MAX_WITH_OWN_PORTS, PortAddresses, Ports},
    providers::debitsuccess,
    providers::namecom,
    providers::sectigo,
    request::{Identified, Provider, Request},
};

/// How many worlds there may be at once.
pub const MAX_WORLDS: usize = 1_000;
/// The id of the world that is always there.
pub const DEMO: &str = "demo";
/// How often a locked world is asked for before sleeping on it. A request holds it for
/// microseconds, and less than it costs to be woken.
const SPINS: usize = 400;
/// How often a request lets others go first before it asks like that.
const TURNS: usize = 16;
/// The longest name of a world, in characters.
const MAX_NAME_CHARS: usize = 100;

/// What a new world is made from; everything may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewWorld {
    /// What people call it; at most 100 characters.
    pub name: Option<String>,
    /// What is in it at the start. Default `demo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// What it is taken up from, instead of a seed. Its credentials are new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// The choices that the documents leave open. Default as in the demo world's start.
    pub settings: Option<Settings>,
    /// Whether it gets ports of its own: whatever connects there belongs to it, so that its rules
    /// can be about connections, too. Default false.
    pub own_ports: bool,
}

/// What is told of a world.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "World")]
pub struct WorldCard {
    /// Its id, for paths.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// When it was made, in the system's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created: OffsetDateTime,
    /// What a client logs in with. Made up for this world, and worth nothing elsewhere.
    pub credentials: Credentials,
    /// Whether the ports are its own.
    pub own_ports: bool,
    /// Where the providers listen for it.
    pub ports: PortAddresses,
}

/// Why there is no such world.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorldError {
    /// No world has this id.
    #[error("there is no world {0}")]
    NoSuchWorld(String),
    /// The demo world stays.
    #[error("the demo world is always there: reset it instead")]
    DemoStays,
    /// Too many.
    #[error("{MAX_WORLDS} worlds are there already: delete some")]
    TooMany,
    /// Too many that have ports of their own.
    #[error("{MAX_WITH_OWN_PORTS} worlds with ports of their own are there already: delete some")]
    TooManyPorts,
    /// The system has no ports for it.
    #[error("cannot open ports for the world: {0}")]
    NoPorts(String),
    /// Both a seed and a snapshot.
    #[error("`seed` and `snapshot` exclude each other")]
    TwoBeginnings,
    /// Not a snapshot of this version.
    #[error(transparent)]
    Snapshot(#[from] NotRestored),
    /// The name is too long.
    #[error("`name` is at most {MAX_NAME_CHARS} characters")]
    Name,
    /// Another world has this username.
    #[error("`{name}` belongs to world {world}: by its username a request finds its world, so no two worlds share one")]
    Taken {
        /// The username.
        name: String,
        /// The other world.
        world: String,
    },
}

/// A world that many can hold.
#[derive(Debug, Clone)]
pub(crate) struct SharedWorld(Arc<Place>);

#[derive(Debug)]
struct Place {
    id: String,
    name: Option<String>,
    created: OffsetDateTime,
    world: Mutex<World>,
    flights: Flights,
    /// Its own; the demo world's are those of the start.
    ports: Option<Ports>,
    /// Whether a rule waits for requests that nobody has read: asked before each read, when nobody
    /// wants to wait for the world.
    awaits_unread: AtomicBool,
}

/// A world, held for a moment. When it is let go, its ports follow its rules.
pub(crate) struct Held<'a> {
    world: MutexGuard<'a, World>,
    place: &'a Place,
}

/// All worlds.
#[derive(Debug, Clone)]
pub(crate) struct Worlds {
    demo: SharedWorld,
    harbour: Harbour,
    registry: Arc<RwLock<Registry>>,
}

#[derive(Debug)]
struct Registry {
    worlds: BTreeMap<u64, SharedWorld>,
    /// Whose a username is, for each provider.
    owners: HashMap<Provider, HashMap<String, SharedWorld>>,
    /// How many worlds were ever made: ids never come back.
    made: u64,
    dice: Dice,
}

impl SharedWorld {
    fn new(id: String, name: Option<String>, world: World, ports: Option<Ports>) -> Self {
        let (world, flights) = (Mutex::new(world), Flights::default());
        let shared = Self(Arc::new(Place {
            id,
            name,
            created: system_now(),
            world,
            flights,
            ports,
            awaits_unread: AtomicBool::default(),
        }));
        // It may have been taken up with its rules.
        drop(shared.lock());
        shared
    }

    /// The world, for a moment. Whoever panicked while holding it has left it whole enough to be
    /// looked at and reset.
    pub(crate) fn lock(&self) -> Held<'_> {
        for _ in 0..SPINS {
            match self.0.world.try_lock() {
                Ok(world) => return Held { world, place: &self.0 },
                Err(TryLockError::Poisoned(world)) => return Held { world: world.into_inner(), place: &self.0 },
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        Held { world: self.0.world.lock().unwrap_or_else(PoisonError::into_inner), place: &self.0 }
    }

    /// Lets the thread do something else while somebody has the world in hand, for a while at most:
    /// there is nearly always another connection to be read from, and that costs less than to sleep
    /// and be woken.
    pub(crate) async fn when_free(&self) {
        for _ in 0..TURNS {
            if !matches!(self.0.world.try_lock(), Err(TryLockError::WouldBlock)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether a rule waits for requests that nobody has read.
    pub(crate) fn awaits_unread(&self) -> bool {
        self.0.awaits_unread.load(Ordering::Acquire)
    }

    /// The keys in flight, behind a lock of their own.
    pub(crate) fn flights(&self) -> &Flights {
        &self.0.flights
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether it has ports that are no other world's. Those of the demo world are everybody's.
    fn has_own_ports(&self) -> bool {
        self.0.ports.is_some() && self.id() != DEMO
    }

    pub(crate) fn is(&self, other: &SharedWorld) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Held<'_> {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(ports) = &self.place.ports {
            ports.follow(self.world.faults.refused());
        }
        self.place.awaits_unread.store(self.world.faults.awaits(Moment::BeforeRead), Ordering::Release);
    }
}

impl Worlds {
    /// The demo world alone. The seed decides over everything that looks random in it, and in all
    /// worlds that are made later.
    pub(crate) fn new(mut demo: World, seed: u64, ports: Ports, harbour: Harbour) -> Self {
        if demo.origin.is_none() {
            demo.count_from(seed);
        }
        demo.number = seed;
        demo.has_ports = true;
        let names = names(&demo);
        let demo = SharedWorld::new(DEMO.to_owned(), Some("Demo data".to_owned()), demo, Some(ports));
        let registry = Registry { worlds: BTreeMap::new(), owners: HashMap::new(), made: 0, dice: Dice::new(seed) };
        let worlds = Self { demo, harbour, registry: Arc::new(RwLock::new(registry)) };
        worlds.write().own(&worlds.demo, names);
        worlds.serve(&worlds.demo, None);
        worlds
    }

    /// Serves at a world's ports, as its rules have them.
    fn serve(&self, world: &SharedWorld, owner: Option<&SharedWorld>) {
        if let Some(ports) = &world.0.ports {
            ports.serve(&self.harbour, self, owner);
        }
        // A world that was taken up again may have a rule that shuts a port.
        drop(world.lock());
    }

    /// Closes all ports and gives what serves them to be waited for.
    pub(crate) fn close_ports(&self) -> Vec<JoinHandle<()>> {
        self.list().iter().filter_map(|world| world.0.ports.as_ref()).flat_map(Ports::close).collect()
    }

    /// What is told of a world.
    pub(crate) fn card(&self, world: &SharedWorld) -> WorldCard {
        let ports = world.0.ports.as_ref().map_or(self.harbour.first, Ports::addresses);
        WorldCard {
            id: world.0.id.clone(),
            name: world.0.name.clone(),
            created: world.0.created,
            credentials: Credentials::of(&world.lock()),
            own_ports: world.has_own_ports(),
            ports,
        }
    }

    /// The world that is always there.
    pub(crate) fn demo(&self) -> &SharedWorld {
        &self.demo
    }

    /// The world that the username in a request belongs to. What belongs to none comes to the demo
    /// world, which refuses it as a wrong login, and whose journal shows it.
    pub(crate) fn of(&self, provider: Provider, identified: &Identified) -> SharedWorld {
        let owner = |name: &String| self.read().owners.get(&provider)?.get(name).cloned();
        identified.username.as_ref().and_then(owner).unwrap_or_else(|| self.demo.clone())
    }

    /// The world of an id.
    pub(crate) fn get(&self, id: &str) -> Result<SharedWorld, WorldError> {
        let numbered = |id: &str| self.read().worlds.get(&number(id)?).cloned();
        let found = if id == DEMO { Some(self.demo.clone()) } else { numbered(id) };
        found.ok_or_else(|| WorldError::NoSuchWorld(id.to_owned()))
    }

    /// The demo world, then all others, oldest first.
    pub(crate) fn list(&self) -> Vec<SharedWorld> {
        let others: Vec<SharedWorld> = self.read().worlds.values().cloned().collect();
        std::iter::once(self.demo.clone()).chain(others).collect()
    }

    /// What a client of the TLS ports has to trust, PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.harbour.ca_pem.as_ref().to_owned()
    }

    /// The settings of the start.
    pub(crate) fn start_settings(&self) -> Settings {
        self.demo.lock().made_with().clone()
    }

    /// Makes a world with credentials of its own.
    pub(crate) fn create(&self, new: NewWorld) -> Result<SharedWorld, WorldError> {
        let world = match (new.snapshot, new.seed) {
            (Some(_), Some(_)) => return Err(WorldError::TwoBeginnings),
            (Some(snapshot), None) => {
                let world = snapshot.into_world()?;
                World { settings: new.settings.unwrap_or_else(|| world.settings.clone()), ..world }
            }
            (None, seed) => {
                let settings = new.settings.unwrap_or_else(|| self.start_settings());
                let mut world = World::new(seed.unwrap_or_default(), settings);
                world.count_from(self.write().dice.next());
                world
            }
        };
        self.add(new.name, world, new.own_ports)
    }

    /// Makes a world that is as this one is now, under credentials of its own; with ports of its
    /// own where this one has them, if nothing else is said.
    pub(crate) fn fork(
        &self,
        world: &SharedWorld,
        name: Option<String>,
        own_ports: Option<bool>,
    ) -> Result<SharedWorld, WorldError> {
        let copy = Snapshot::of(&mut world.lock());
        self.add(name, copy.into_world()?, own_ports.unwrap_or_else(|| world.has_own_ports()))
    }

    /// Puts a snapshot in the place of what is in a world. The world keeps its credentials; the
    /// demo world takes the snapshot's.
    pub(crate) fn restore(&self, world: &SharedWorld, snapshot: Snapshot) -> Result<(), WorldError> {
        let other = snapshot.into_world()?;
        if world.id() == DEMO {
            for (provider, name) in names(&other) {
                self.claim(world, provider, &name)?;
            }
        }
        let mut locked = world.lock();
        other.check_connection_rules(locked.has_ports)?;
        locked.become_another(other);
        let names = names(&locked);
        drop(locked);
        // Those of a world in the registry end in its id, so they can be nobody else's.
        self.write().own(world, names);
        Ok(())
    }

    /// Takes a world in, under an id and credentials of its own.
    fn add(&self, name: Option<String>, mut world: World, own_ports: bool) -> Result<SharedWorld, WorldError> {
        if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME_CHARS) {
            return Err(WorldError::Name);
        }
        world.check_connection_rules(own_ports)?;
        world.has_ports = own_ports;
        let mut registry = self.write();
        if registry.worlds.len() + 1 >= MAX_WORLDS {
            return Err(WorldError::TooMany);
        }
        if own_ports && registry.worlds.values().filter(|world| world.has_own_ports()).count() >= MAX_WITH_OWN_PORTS {
            return Err(WorldError::TooManyPorts);
        }
        let ports = own_ports.then(|| self.harbour.open()).transpose();
        let ports = ports.map_err(|error| WorldError::NoPorts(error.to_string()))?;
        let (made, id) = registry.next_id();
        Credentials::made(&id, &mut registry.dice).give_to(&mut world, &id);
        let names = names(&world);
        let shared = SharedWorld::new(id, name, world, ports);
        registry.own(&shared, names);
        registry.worlds.insert(made, shared.clone());
        drop(registry);
        self.serve(&shared, Some(&shared));
        Ok(shared)
    }

    /// Takes a world away, and closes ports of its own. A request that is under way in it ends
    /// without an effect.
    pub(crate) fn delete(&self, id: &str) -> Result<(), WorldError> {
        if id == DEMO {
            return Err(WorldError::DemoStays);
        }
        let gone = {
            let mut registry = self.write();
            let gone = number(id).and_then(|number| registry.worlds.remove(&number));
            let gone = gone.ok_or_else(|| WorldError::NoSuchWorld(id.to_owned()))?;
            for owners in registry.owners.values_mut() {
                owners.retain(|_, owner| !owner.is(&gone));
            }
            gone
        };
        // They end by themselves.
        drop(gone.0.ports.as_ref().map(Ports::close));
        gone.lock().end();
        Ok(())
    }

    /// Says that a username is a world's before it is put there.
    pub(crate) fn claim(&self, world: &SharedWorld, provider: Provider, name: &str) -> Result<(), WorldError> {
        let mut registry = self.write();
        match registry.owners.get(&provider).and_then(|owners| owners.get(name)) {
            Some(owner) if !owner.is(world) => {
                Err(WorldError::Taken { name: name.to_owned(), world: owner.id().to_owned() })
            }
            Some(_) => Ok(()),
            None => {
                registry.own(world, vec![(provider, name.to_owned())]);
                Ok(())
            }
        }
    }

    /// Looks into a world or changes it; usernames that came in are its from then on, but for those
    /// that are another's already.
    pub(crate) fn with<T>(&self, world: &SharedWorld, look: impl FnOnce(&mut World) -> T) -> T {
        let mut locked = world.lock();
        locked.now();
        let before = names(&locked);
        let looked = look(&mut locked);
        let after = names(&locked);
        drop(locked);
        for (provider, name) in after.into_iter().filter(|name| !before.contains(name)) {
            if let Err(error) = self.claim(world, provider, &name) {
                tracing::warn!(%error, "a username of two worlds");
            }
        }
        looked
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// The next number and its id. A world file may have brought names that belonged to such an id
    /// in another run: then it is passed over.
    fn next_id(&mut self) -> (u64, String) {
        loop {
            self.made += 1;
            let id = format!("w{}", self.made);
            let (begins, ends) = (format!("{id}-"), format!("@{id}"));
            let mut names = self.owners.values().flat_map(HashMap::keys);
            if !names.any(|name| name.starts_with(&begins) || name.ends_with(&ends)) {
                return (self.made, id);
            }
        }
    }

    fn own(&mut self, world: &SharedWorld, names: Vec<(Provider, String)>) {
        for (provider, name) in names {
            self.owners.entry(provider).or_default().insert(name, world.clone());
        }
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix('w')?.parse().ok()
}

/// What can be told of a request before anything is done.
pub(crate) fn identify(provider: Provider, request: &Request) -> Identified {
    match provider {
        Provider::Sectigo => sectigo::identify(request),
        Provider::Namecom => namecom::identify(request),
        Provider::Debitsuccess => debitsuccess::identify(request),
    }
}
