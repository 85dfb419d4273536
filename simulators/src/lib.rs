//! Sectigo, name.com and Debitsuccess, wire for wire and with memory: for tests and staging without
//! an account anywhere.
//!
//! ```no_run
//! # async fn example() -> Result<(), simulators::StartError> {
//! use simulators::{Config, Simulators};
//!
//! let simulators = Simulators::start(Config::free_ports()).await?;
//! let url = format!("https://{}/products/!AutoRefund", simulators.sectigo_addr());
//! // ... refund order 1000001 there, as demo / demo-password, trusting simulators.ca_pem() ...
//! assert_eq!(simulators.books().len(), 1);
//! # simulators.stop().await; Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! A request comes in at `server`, goes its `course` past the fault points, and is answered by one
//! of three providers.

#![warn(missing_docs)]

pub mod clock;
pub mod config;
mod control;
pub mod faults;
mod http;
mod pipeline;
pub mod providers;
pub mod record;
pub mod request;
pub mod worlds;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};

pub use self::{
    config::Config,
    faults::gates::{Gate, GateError, GateHandle},
    faults::{ArmedRule, FaultEffect, Point, Repeat, Rule, RuleError, RuleId},
    http::certificates::CertificateError,
    http::listener::{MAX_WITH_OWN_PORTS, PortAddresses},
    record::books::BookEntry,
    record::journal::{Ending, JournalEntry},
    record::parameters::Parameters,
    request::Provider,
    worlds::{Credentials, NewWorld, Seed, Settings, Snapshot, World, WorldError, WorldHandle},
};
use self::{
    http::certificates::Certificates,
    http::listener::{Doorway, Harbour, Ports},
    worlds::Worlds,
};

/// The running simulators. Dropped, they stop at once; [`Simulators::stop`] lets answers under way
/// go out.
#[derive(Debug)]
pub struct Simulators {
    worlds: Worlds,
    control: SocketAddr,
    ports: PortAddresses,
    ca_pem: String,
    stopping: watch::Sender<bool>,
    control_task: Option<JoinHandle<()>>,
}

/// Why the simulators do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("port {port} (--{flag}) is taken: {source}")]
    Taken {
        /// The port.
        port: u16,
        /// The flag that says otherwise; in a configuration file, with `_` for `-`.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that says otherwise; in a configuration file, with `_` for `-`.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate for the TLS ports.
    #[error("cannot make the certificate of the TLS ports: {0}")]
    Certificate(#[from] CertificateError),
    /// The world file cannot be read, or holds no world.
    #[error("cannot start with the world in {}: {reason}", path.display())]
    WorldFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, in one line.
        reason: String,
    },
    /// The authority's certificate or its key cannot be written.
    #[error("cannot write the authority of the TLS ports to {}: {source}", path.display())]
    CaFile {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How long [`Simulators::stop`] waits for what is under way.
const STOP_WITHIN: Duration = Duration::from_secs(2);

impl Simulators {
    /// Starts all ports. When it returns, each of them accepts connections and the authority's
    /// certificate is on disk.
    ///
    /// # Errors
    /// A port that is taken, a name that no certificate can hold, a file that cannot be written.
    /// Then nothing listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let demo = match config.world_file {
            Some(path) => read_world(&path).map_err(|reason| StartError::WorldFile { path, reason })?,
            None => World::demo(config.settings),
        };
        let mut names: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(str::to_owned).into();
        names.extend(config.tls_names);
        let certificates = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Certificates::given(certificate, key)?,
            (None, None) => Certificates::make(names, config.ca_file.as_deref(), clock::system_now())?,
            _ => return Err(CertificateError::Half.into()),
        };

        let runtime = Handle::current();
        let door = |provider, tls, address, flag| {
            Doorway::open(provider, tls, address, &runtime).map_err(|source| not_bound(address, flag, source))
        };
        let control_failed = |source| not_bound(config.control, "control", source);
        let control = TcpListener::bind(config.control).await.map_err(control_failed)?;
        let control_addr = control.local_addr().map_err(control_failed)?;
        let ports = Ports::new([
            door(Provider::Sectigo, true, config.sectigo, "sectigo")?,
            door(Provider::Sectigo, false, config.sectigo_plaintext, "sectigo-plaintext")?,
            door(Provider::Namecom, true, config.namecom, "namecom")?,
            door(Provider::Namecom, false, config.namecom_plaintext, "namecom-plaintext")?,
            door(Provider::Debitsuccess, true, config.debitsuccess, "debitsuccess")?,
            door(Provider::Debitsuccess, false, config.debitsuccess_plaintext, "debitsuccess-plaintext")?,
        ]);
        certificates.write().map_err(|(path, source)| StartError::CaFile { path, source })?;

        let addresses = ports.addresses();
        let Certificates { acceptor, ca_pem, .. } = certificates;
        let connections = Arc::new(AtomicU64::new(0));
        let harbour = Harbour { acceptor, connections, runtime, first: addresses, ca_pem: ca_pem.as_str().into() };
        let worlds = Worlds::new(demo, config.seed, ports, harbour);
        let (stopping, stopped) = watch::channel(false);
        let (served, hosts) = (worlds.clone(), config.control_hosts);
        let control_task = Some(tokio::spawn(async move { control::serve(control, served, &hosts, stopped).await }));
        Ok(Self { worlds, control: control_addr, ports: addresses, ca_pem, stopping, control_task })
    }

    /// Where the control port listens.
    pub fn control_addr(&self) -> SocketAddr {
        self.control
    }

    /// Where Sectigo listens, over TLS.
    pub fn sectigo_addr(&self) -> SocketAddr {
        self.ports.sectigo
    }

    /// Where Sectigo listens in plaintext, to answer -1.
    pub fn sectigo_plaintext_addr(&self) -> SocketAddr {
        self.ports.sectigo_plaintext
    }

    /// Where name.com listens, over TLS.
    pub fn namecom_addr(&self) -> SocketAddr {
        self.ports.namecom
    }

    /// Where name.com listens in plaintext: the same without TLS.
    pub fn namecom_plaintext_addr(&self) -> SocketAddr {
        self.ports.namecom_plaintext
    }

    /// Where Debitsuccess listens, over TLS.
    pub fn debitsuccess_addr(&self) -> SocketAddr {
        self.ports.debitsuccess
    }

    /// Where Debitsuccess listens in plaintext: the same without TLS.
    pub fn debitsuccess_plaintext_addr(&self) -> SocketAddr {
        self.ports.debitsuccess_plaintext
    }

    /// What a client of the TLS ports has to trust: the authority's certificate, or the certificate
    /// that was given.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What really happened so far, oldest first.
    pub fn books(&self) -> Vec<BookEntry> {
        self.with_world(|world| world.books.entries().collect())
    }

    /// What came over the wire so far, oldest first.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.with_world(|world| world.journal.entries().collect())
    }

    /// Arms a fault.
    ///
    /// # Errors
    /// What is wrong with the rule.
    pub fn arm(&self, rule: Rule) -> Result<RuleId, RuleError> {
        self.with_world(|world| world.arm(rule))
    }

    /// Puts up a gate in the demo world; it stands for as long as the handle is held.
    ///
    /// # Errors
    /// What is wrong with the gate.
    pub fn gate(&self, gate: Gate) -> Result<GateHandle, GateError> {
        GateHandle::put_up(self.worlds.demo().clone(), gate)
    }

    /// Moves the clock forward; false, and nothing moved, where that would lead beyond
    /// [`clock::MAX_AHEAD`].
    pub fn advance(&self, by: Duration) -> bool {
        self.with_world(|world| world.advance(by).is_ok())
    }

    /// Looks into the demo world, or changes it. Requests wait meanwhile: be quick.
    pub fn with_world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        self.worlds.with(self.worlds.demo(), look)
    }

    /// The world that is always there.
    pub fn demo(&self) -> WorldHandle {
        self.worlds.handle(self.worlds.demo().clone())
    }

    /// Makes a world with credentials of its own.
    ///
    /// # Errors
    /// There are too many, or what it should be made from does not make one.
    pub fn create_world(&self, new: NewWorld) -> Result<WorldHandle, WorldError> {
        self.worlds.create_handle(new)
    }

    /// A world by its id.
    pub fn world(&self, id: &str) -> Option<WorldHandle> {
        self.worlds.get(id).ok().map(|world| self.worlds.handle(world))
    }

    /// All worlds, the demo world first.
    pub fn worlds(&self) -> Vec<WorldHandle> {
        self.worlds.list().into_iter().map(|world| self.worlds.handle(world)).collect()
    }

    /// Stops listening, lets answers under way go out, and returns when all is closed or two
    /// seconds are over.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        let mut tasks = self.worlds.close_ports();
        tasks.extend(self.control_task.take());
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                // A task that panicked has been told of by the panic hook and is as stopped as any.
                drop(task.await);
            }
        };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

impl Drop for Simulators {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        let tasks = self.worlds.close_ports();
        tasks.iter().chain(&self.control_task).for_each(JoinHandle::abort);
    }
}

fn not_bound(address: SocketAddr, flag: &'static str, source: io::Error) -> StartError {
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::Taken { port: address.port(), flag, source },
        _ => StartError::Listen { address, flag, source },
    }
}

fn read_world(path: &Path) -> Result<World, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let snapshot = Snapshot::from_json(&text).map_err(|error| error.to_string())?;
    snapshot.into_world().map_err(|error| error.to_string())
}
