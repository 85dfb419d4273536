//! Worlds: a set of credentials is a world, with its own orders, books, journal, faults, clock and
//! settings.
//!
//! ```text
//! request -> inspect -> username -> Worlds::of -> WorldRef (one lock each)
//!                       unknown  -> the demo world, whose provider answers as to a wrong login
//! ```
//!
//! The registry maps each username to one world. It is never locked while a world is locked. A
//! request to a port of a world's own belongs to that world, whatever its username.

mod credentials;
mod handle;
mod key_locks;
mod snapshot;
mod world;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinHandle};

pub(crate) use self::key_locks::{KeyGuard, KeyLocks};
pub use self::{
    handle::WorldHandle,
    snapshot::{RestoreError, Snapshot},
    world::{Seed, World},
};
pub use crate::providers::{Credentials, Settings};
use crate::{
    clock::system_now,
    config::PortAddresses,
    faults::PointKind,
    http::listener::{MAX_WITH_OWN_PORTS, PausableListener, ProviderListeners, ServerContext},
    request::{Provider, RequestInfo},
    seeded_rng::SeededRng,
};

/// The maximum number of worlds.
pub const MAX_WORLDS: usize = 1_000;
/// The id of the demo world, which always exists.
pub const DEMO: &str = "demo";
/// The maximum length of a world's name, in characters.
const MAX_NAME_CHARS: usize = 100;

/// The contents of a new world. Everything may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewWorld {
    /// A name for people; at most 100 characters.
    pub name: Option<String>,
    /// The data of the start. Default `demo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// A snapshot instead of a seed. The world gets new credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// The settings. Default: those with which the demo world was created.
    pub settings: Option<Settings>,
    /// Whether it gets ports of its own. Connections to them belong to it, so that its rules can be
    /// about connections too. Default false.
    pub own_ports: bool,
}

/// The description of a world.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "World")]
pub struct WorldInfo {
    /// Its id, for paths.
    pub id: String,
    /// A name for people.
    pub name: Option<String>,
    /// When it was created, in the system's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created: OffsetDateTime,
    /// The logins of clients, which are valid in this world only.
    pub credentials: Credentials,
    /// Whether it has ports of its own.
    pub own_ports: bool,
    /// The addresses at which the providers listen for it.
    pub ports: PortAddresses,
}

/// Why an operation on worlds fails.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorldError {
    /// No world has this id.
    #[error("there is no world {0}")]
    NoSuchWorld(String),
    /// The demo world cannot be deleted.
    #[error("the demo world cannot be deleted: reset it instead")]
    DemoStays,
    /// Too many worlds.
    #[error("there are already {MAX_WORLDS} worlds: delete some")]
    TooMany,
    /// Too many worlds with ports of their own.
    #[error("there are already {MAX_WITH_OWN_PORTS} worlds with ports of their own: delete some")]
    TooManyPorts,
    /// The system provides no ports.
    #[error("cannot open ports for the world: {0}")]
    NoPorts(String),
    /// Both a seed and a snapshot are given.
    #[error("`seed` and `snapshot` exclude each other")]
    TwoBeginnings,
    /// The snapshot cannot be restored.
    #[error(transparent)]
    Snapshot(#[from] RestoreError),
    /// The name is too long.
    #[error("`name` is at most {MAX_NAME_CHARS} characters")]
    Name,
    /// Another world has this username.
    #[error("`{name}` belongs to world {world}: requests find their world by username, so no two worlds can share one")]
    Taken {
        /// The username.
        name: String,
        /// The other world.
        world: String,
    },
}

/// A shared reference to a world.
#[derive(Debug, Clone)]
pub(crate) struct WorldRef(Arc<WorldEntry>);

#[derive(Debug)]
struct WorldEntry {
    id: String,
    name: Option<String>,
    created: OffsetDateTime,
    world: Mutex<World>,
    key_locks: KeyLocks,
    /// Its own listeners. Those of the demo world are those of the start.
    listeners: Option<ProviderListeners>,
    /// Whether a rule applies before requests are read. Checked before each read without locking
    /// the world.
    has_unread_rule: AtomicBool,
}

/// A locked world. When it is unlocked, its ports are opened and closed as its rules say.
pub(crate) struct WorldGuard<'a> {
    world: MutexGuard<'a, World>,
    entry: &'a WorldEntry,
}

/// All worlds.
#[derive(Clone)]
pub(crate) struct Worlds {
    demo: WorldRef,
    context: ServerContext,
    serve: ServePort,
    registry: Arc<RwLock<Registry>>,
}

/// Serves one listener until the signal; the world is the owner of all its connections, if it has
/// one.
pub(crate) type ServePort = Arc<
    dyn Fn(&Worlds, Option<&WorldRef>, &Arc<PausableListener>, watch::Receiver<bool>) -> JoinHandle<()> + Send + Sync,
>;

#[derive(Debug)]
struct Registry {
    worlds: BTreeMap<u64, WorldRef>,
    /// The world of each username, per provider.
    owners: HashMap<Provider, HashMap<String, WorldRef>>,
    /// The number of worlds ever created: ids are not reused.
    created: u64,
    rng: SeededRng,
}

impl WorldRef {
    fn new(id: String, name: Option<String>, world: World, listeners: Option<ProviderListeners>) -> Self {
        let world = Self(Arc::new(WorldEntry {
            id,
            name,
            created: system_now(),
            world: Mutex::new(world),
            key_locks: KeyLocks::default(),
            listeners,
            has_unread_rule: AtomicBool::default(),
        }));
        // Applies the rules of a restored world.
        drop(world.lock());
        world
    }

    /// Locks the world. Ignores poisoning: the state stays readable and resettable after a panic.
    pub(crate) fn lock(&self) -> WorldGuard<'_> {
        WorldGuard { world: self.0.world.lock().unwrap_or_else(PoisonError::into_inner), entry: &self.0 }
    }

    /// Whether a rule applies before requests are read.
    pub(crate) fn has_unread_rule(&self) -> bool {
        self.0.has_unread_rule.load(Ordering::Acquire)
    }

    /// The locks on idempotency keys, which are independent of the lock of the world.
    pub(crate) fn key_locks(&self) -> &KeyLocks {
        &self.0.key_locks
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether it has ports of its own. Those of the demo world are shared.
    fn has_own_ports(&self) -> bool {
        self.0.listeners.is_some() && self.id() != DEMO
    }

    pub(crate) fn is(&self, other: &WorldRef) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for WorldGuard<'_> {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for WorldGuard<'_> {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Drop for WorldGuard<'_> {
    fn drop(&mut self) {
        if let Some(listeners) = &self.entry.listeners {
            listeners.apply_refusals(self.world.faults.refused());
        }
        self.entry.has_unread_rule.store(self.world.faults.awaits(PointKind::BeforeRead), Ordering::Release);
    }
}

impl Worlds {
    /// The demo world. The seed determines everything that looks random in it and in all worlds
    /// that are created later.
    pub(crate) fn new(
        mut demo: World,
        seed: u64,
        listeners: ProviderListeners,
        context: ServerContext,
        serve: ServePort,
    ) -> Self {
        if demo.origin.is_none() {
            demo.reseed(seed);
        }
        demo.number = seed;
        demo.has_ports = true;
        let names = demo.providers.usernames();
        let demo = WorldRef::new(DEMO.to_owned(), Some("Demo data".to_owned()), demo, Some(listeners));
        let registry =
            Registry { worlds: BTreeMap::new(), owners: HashMap::new(), created: 0, rng: SeededRng::new(seed) };
        let worlds = Self { demo, context, serve, registry: Arc::new(RwLock::new(registry)) };
        worlds.write().own(&worlds.demo, names);
        worlds.serve(&worlds.demo, None);
        worlds
    }

    /// Serves a world's ports.
    fn serve(&self, world: &WorldRef, owner: Option<&WorldRef>) {
        if let Some(listeners) = &world.0.listeners {
            listeners.serve(|listener, stopping| (self.serve)(self, owner, listener, stopping));
        }
        // A restored world may have a rule that closes a port.
        drop(world.lock());
    }

    /// Closes all ports. Returns the tasks that serve them.
    pub(crate) fn close_ports(&self) -> Vec<JoinHandle<()>> {
        self.list().iter().filter_map(|world| world.0.listeners.as_ref()).flat_map(ProviderListeners::close).collect()
    }

    /// The description of a world.
    pub(crate) fn info(&self, world: &WorldRef) -> WorldInfo {
        let ports = world.0.listeners.as_ref().map_or(self.context.first, ProviderListeners::addresses);
        WorldInfo {
            id: world.0.id.clone(),
            name: world.0.name.clone(),
            created: world.0.created,
            credentials: world.lock().credentials(),
            own_ports: world.has_own_ports(),
            ports,
        }
    }

    /// The demo world.
    pub(crate) fn demo(&self) -> &WorldRef {
        &self.demo
    }

    /// The world of the username in a request. A request without a known username belongs to the
    /// demo world, which refuses it as a wrong login and shows it in its journal.
    pub(crate) fn of(&self, provider: Provider, info: &RequestInfo) -> WorldRef {
        let owner = |name: &String| self.read().owners.get(&provider)?.get(name).cloned();
        info.username.as_ref().and_then(owner).unwrap_or_else(|| self.demo.clone())
    }

    /// The world of an id.
    pub(crate) fn get(&self, id: &str) -> Result<WorldRef, WorldError> {
        let numbered = |id: &str| self.read().worlds.get(&number(id)?).cloned();
        let found = if id == DEMO { Some(self.demo.clone()) } else { numbered(id) };
        found.ok_or_else(|| WorldError::NoSuchWorld(id.to_owned()))
    }

    /// The demo world, then all others, oldest first.
    pub(crate) fn list(&self) -> Vec<WorldRef> {
        let others: Vec<WorldRef> = self.read().worlds.values().cloned().collect();
        std::iter::once(self.demo.clone()).chain(others).collect()
    }

    /// What a client of the TLS ports has to trust, PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.context.ca_pem.as_ref().to_owned()
    }

    /// The settings with which the demo world was created.
    pub(crate) fn start_settings(&self) -> Settings {
        self.demo.lock().created_with().clone()
    }

    /// Creates a world with credentials of its own.
    pub(crate) fn create(&self, new: NewWorld) -> Result<WorldRef, WorldError> {
        let world = match (new.snapshot, new.seed) {
            (Some(_), Some(_)) => return Err(WorldError::TwoBeginnings),
            (Some(snapshot), None) => {
                let world = snapshot.into_world()?;
                World { settings: new.settings.unwrap_or_else(|| world.settings.clone()), ..world }
            }
            (None, seed) => {
                let settings = new.settings.unwrap_or_else(|| self.start_settings());
                let mut world = World::new(seed.unwrap_or_default(), settings);
                world.reseed(self.write().rng.next());
                world
            }
        };
        self.add(new.name, world, new.own_ports)
    }

    /// Creates a copy of a world with credentials of its own. By default it has ports of its own if
    /// the original has them.
    pub(crate) fn fork(
        &self,
        world: &WorldRef,
        name: Option<String>,
        own_ports: Option<bool>,
    ) -> Result<WorldRef, WorldError> {
        let copy = Snapshot::of(&mut world.lock());
        self.add(name, copy.into_world()?, own_ports.unwrap_or_else(|| world.has_own_ports()))
    }

    /// Replaces the contents of a world with a snapshot. The world keeps its credentials; the demo
    /// world takes those of the snapshot.
    pub(crate) fn restore(&self, world: &WorldRef, snapshot: Snapshot) -> Result<(), WorldError> {
        let other = snapshot.into_world()?;
        if world.id() == DEMO {
            for (provider, name) in other.providers.usernames() {
                self.claim(world, provider, &name)?;
            }
        }
        let mut locked = world.lock();
        check_connection_rules(&other, locked.has_ports)?;
        locked.replace_with(other);
        let names = locked.providers.usernames();
        drop(locked);
        // The usernames of a registered world contain its id, so no other world has them.
        self.write().own(world, names);
        Ok(())
    }

    /// Registers a world, with an id and credentials of its own.
    fn add(&self, name: Option<String>, mut world: World, own_ports: bool) -> Result<WorldRef, WorldError> {
        if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME_CHARS) {
            return Err(WorldError::Name);
        }
        check_connection_rules(&world, own_ports)?;
        world.has_ports = own_ports;
        let mut registry = self.write();
        if registry.worlds.len() + 1 >= MAX_WORLDS {
            return Err(WorldError::TooMany);
        }
        if own_ports && registry.worlds.values().filter(|world| world.has_own_ports()).count() >= MAX_WITH_OWN_PORTS {
            return Err(WorldError::TooManyPorts);
        }
        let listeners = own_ports.then(|| self.context.open_listeners()).transpose();
        let listeners = listeners.map_err(|error| WorldError::NoPorts(error.to_string()))?;
        let (number, id) = registry.next_id();
        let credentials = Credentials::generate(&id, &mut registry.rng);
        world.take_credentials(&credentials, &id);
        let names = world.providers.usernames();
        let world = WorldRef::new(id, name, world, listeners);
        registry.own(&world, names);
        registry.worlds.insert(number, world.clone());
        drop(registry);
        self.serve(&world, Some(&world));
        Ok(world)
    }

    /// Deletes a world and closes its own ports. Requests in progress end without an effect.
    pub(crate) fn delete(&self, id: &str) -> Result<(), WorldError> {
        if id == DEMO {
            return Err(WorldError::DemoStays);
        }
        let deleted = {
            let mut registry = self.write();
            let deleted = number(id).and_then(|number| registry.worlds.remove(&number));
            let deleted = deleted.ok_or_else(|| WorldError::NoSuchWorld(id.to_owned()))?;
            for owners in registry.owners.values_mut() {
                owners.retain(|_, owner| !owner.is(&deleted));
            }
            deleted
        };
        // The tasks end without being awaited.
        drop(deleted.0.listeners.as_ref().map(ProviderListeners::close));
        deleted.lock().clear();
        Ok(())
    }

    /// Reserves a username for a world, before it is put there.
    pub(crate) fn claim(&self, world: &WorldRef, provider: Provider, name: &str) -> Result<(), WorldError> {
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

    /// Reads or changes a world. New usernames are registered, unless they belong to another world.
    pub(crate) fn with<T>(&self, world: &WorldRef, use_world: impl FnOnce(&mut World) -> T) -> T {
        let mut locked = world.lock();
        locked.now();
        let before = locked.providers.usernames();
        let result = use_world(&mut locked);
        let after = locked.providers.usernames();
        drop(locked);
        for (provider, name) in after.into_iter().filter(|name| !before.contains(name)) {
            if let Err(error) = self.claim(world, provider, &name) {
                tracing::warn!(%error, "could not register a username");
            }
        }
        result
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// The next number and id. Skips ids that occur in usernames, which a world file may contain
    /// from another run.
    fn next_id(&mut self) -> (u64, String) {
        loop {
            self.created += 1;
            let id = format!("w{}", self.created);
            let (begins, ends) = (format!("{id}-"), format!("@{id}"));
            let mut names = self.owners.values().flat_map(HashMap::keys);
            if !names.any(|name| name.starts_with(&begins) || name.ends_with(&ends)) {
                return (self.created, id);
            }
        }
    }

    fn own(&mut self, world: &WorldRef, names: Vec<(Provider, String)>) {
        for (provider, name) in names {
            self.owners.entry(provider).or_default().insert(name, world.clone());
        }
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix('w')?.parse().ok()
}

/// Refuses a world with rules about connections if it has no ports.
fn check_connection_rules(world: &World, has_ports: bool) -> Result<(), RestoreError> {
    match world.connection_rule_error().filter(|_| !has_ports) {
        Some((id, error)) => Err(RestoreError::Rule { id: id.0, error }),
        None => Ok(()),
    }
}

impl fmt::Debug for Worlds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worlds").field("registry", &self.registry).finish_non_exhaustive()
    }
}
