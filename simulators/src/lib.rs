//! Sectigo, name.com and Debitsuccess emulated on the wire, with state: for tests and staging
//! without an account.
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
//! ```text
//! request, clock, seeded_rng, shutdown   basic types; nothing below them
//! providers/   one folder per provider behind one trait; the registry is providers/mod.rs
//! record/      books (what happened), journal (requests and answers), audit (what is wrong)
//! faults/      rules at exact points, gates, the random mode, magic targets, stale reads
//! http/        sockets: listeners, connections and bodies, to which rules apply faults
//! worlds/      credentials select a world; each has its own providers, records, faults and clock
//! pipeline     one request: gates and rules of each point, the provider, the journal
//! control/     the control port: JSON and a page for people
//! config/      addresses, TLS and settings
//! ```
//!
//! A request arrives at `http::server`, passes the fault points in `pipeline`, and is answered by
//! its provider in `providers`.

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
mod seeded_rng;
mod shutdown;
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
    config::{Config, PortAddresses},
    faults::gates::{Gate, GateError, GateHandle},
    faults::{ArmedRule, FaultEffect, Point, Repeat, Rule, RuleError, RuleId},
    http::certificates::CertificateError,
    http::listener::MAX_WITH_OWN_PORTS,
    record::books::BookEntry,
    record::journal::{Ending, JournalEntry},
    record::parameters::Parameters,
    request::Provider,
    worlds::{Credentials, NewWorld, Seed, Settings, Snapshot, World, WorldError, WorldHandle},
};
use self::{
    http::certificates::Certificates,
    http::listener::{PausableListener, ProviderListeners, ServerContext},
    http::server::Port,
    worlds::{ServePort, Worlds},
};

/// The running simulators. Dropping them stops them immediately; [`Simulators::stop`] first
/// finishes the responses in progress.
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
    /// The port is already in use.
    #[error("port {port} (--{flag}) is taken: {source}")]
    Taken {
        /// The port.
        port: u16,
        /// The flag that changes it; the key in a configuration file has `_` for `-`.
        flag: String,
        /// The system's error.
        source: io::Error,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that changes it; the key in a configuration file has `_` for `-`.
        flag: String,
        /// The system's error.
        source: io::Error,
    },
    /// There is no certificate for the TLS ports.
    #[error("cannot create the certificate of the TLS ports: {0}")]
    Certificate(#[from] CertificateError),
    /// The world file cannot be read, or contains no valid snapshot.
    #[error("cannot start with the world in {}: {reason}", path.display())]
    WorldFile {
        /// The file.
        path: PathBuf,
        /// The reason, in one line.
        reason: String,
    },
    /// The authority's certificate or its key cannot be written.
    #[error("cannot write the authority of the TLS ports to {}: {source}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// How long [`Simulators::stop`] waits for responses in progress.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Simulators {
    /// Starts all ports. When it returns, all of them accept connections and the authority's
    /// certificate is on disk.
    ///
    /// # Errors
    /// A port is taken, a name is invalid in a certificate, or a file cannot be read or written.
    /// Then nothing listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listen = config.ports();
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
        let control_failed = |source| not_bound(config.control, "control".to_owned(), source);
        let control = TcpListener::bind(config.control).await.map_err(control_failed)?;
        let control_addr = control.local_addr().map_err(control_failed)?;
        let listeners = ProviderListeners::open(|provider, tls| {
            let address = listen.get(provider, tls);
            let flag = if tls { provider.name().to_owned() } else { format!("{}-plaintext", provider.name()) };
            PausableListener::open(provider, tls, address, &runtime).map_err(|source| not_bound(address, flag, source))
        })?;
        certificates.write().map_err(|(path, source)| StartError::CaFile { path, source })?;

        let ports = listeners.addresses();
        let Certificates { acceptor, ca_pem, .. } = certificates;
        let context = ServerContext { runtime: runtime.clone(), first: ports, ca_pem: ca_pem.as_str().into() };
        let connections = Arc::new(AtomicU64::new(0));
        let serve: ServePort = Arc::new(move |worlds, owner, listener, stopping| {
            let port = Port {
                provider: listener.provider(),
                tls: listener.tls().then(|| acceptor.clone()),
                worlds: worlds.clone(),
                owner: owner.cloned(),
                connections: connections.clone(),
                stopping,
            };
            runtime.spawn(port.serve(listener.clone()))
        });
        let worlds = Worlds::new(demo, config.seed, listeners, context, serve);
        let (stopping, stopped) = watch::channel(false);
        let (served, hosts) = (worlds.clone(), config.control_hosts);
        let control_task = Some(tokio::spawn(async move { control::serve(control, served, &hosts, stopped).await }));
        Ok(Self { worlds, control: control_addr, ports, ca_pem, stopping, control_task })
    }

    /// The addresses of the provider ports.
    pub fn ports(&self) -> PortAddresses {
        self.ports
    }

    /// The address of the control port.
    pub fn control_addr(&self) -> SocketAddr {
        self.control
    }

    /// The address of Sectigo over TLS.
    pub fn sectigo_addr(&self) -> SocketAddr {
        self.ports.sectigo
    }

    /// The address of Sectigo in plaintext, which answers -1 to everything.
    pub fn sectigo_plaintext_addr(&self) -> SocketAddr {
        self.ports.sectigo_plaintext
    }

    /// The address of name.com over TLS.
    pub fn namecom_addr(&self) -> SocketAddr {
        self.ports.namecom
    }

    /// The address of name.com in plaintext: the same without TLS.
    pub fn namecom_plaintext_addr(&self) -> SocketAddr {
        self.ports.namecom_plaintext
    }

    /// The address of Debitsuccess over TLS.
    pub fn debitsuccess_addr(&self) -> SocketAddr {
        self.ports.debitsuccess
    }

    /// The address of Debitsuccess in plaintext: the same without TLS.
    pub fn debitsuccess_plaintext_addr(&self) -> SocketAddr {
        self.ports.debitsuccess_plaintext
    }

    /// The certificate that clients of the TLS ports have to trust, PEM: the authority's, or the
    /// one from the configuration.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What really happened so far, oldest first.
    pub fn books(&self) -> Vec<BookEntry> {
        self.with_world(|world| world.books.entries().collect())
    }

    /// The requests so far, oldest first.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.with_world(|world| world.journal.entries().collect())
    }

    /// Arms a fault rule in the demo world.
    ///
    /// # Errors
    /// What is wrong with the rule.
    pub fn arm(&self, rule: Rule) -> Result<RuleId, RuleError> {
        self.with_world(|world| world.arm(rule))
    }

    /// Adds a gate in the demo world. It is removed when the handle is dropped.
    ///
    /// # Errors
    /// What is wrong with the gate.
    pub fn gate(&self, gate: Gate) -> Result<GateHandle, GateError> {
        self.with_world(|world| world.gates.add_with_handle(gate))
    }

    /// Moves the clock of the demo world forward. False, without an effect, if it would be more
    /// than [`clock::MAX_AHEAD`] ahead.
    pub fn advance(&self, by: Duration) -> bool {
        self.with_world(|world| world.advance(by).is_ok())
    }

    /// Reads or changes the demo world. Its requests wait meanwhile.
    pub fn with_world<T>(&self, use_world: impl FnOnce(&mut World) -> T) -> T {
        self.worlds.with(self.worlds.demo(), use_world)
    }

    /// The demo world.
    pub fn demo(&self) -> WorldHandle {
        self.worlds.handle(self.worlds.demo().clone())
    }

    /// Creates a world with credentials of its own.
    ///
    /// # Errors
    /// There are too many worlds, or its contents are invalid.
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

    /// Stops listening, finishes the responses in progress, and returns when everything is closed,
    /// at most after two seconds.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        let mut tasks = self.worlds.close_ports();
        tasks.extend(self.control_task.take());
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                // The panic hook has reported a task that panicked; it has stopped too.
                drop(task.await);
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
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

fn not_bound(address: SocketAddr, flag: String, source: io::Error) -> StartError {
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
