//! The composition root: builds a running gateway from settings and stops it in order. The only
//! module that knows every layer.

mod access_file;
pub mod process_limits;
mod reload;
mod start_preview;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::access_file::AccessFile;
pub use self::access_file::AccessFileError;
pub use self::reload::Reloader;
use self::reload::SecretFiles;
pub use self::start_preview::{DisplacedRefunds, PreviewError, preview_start};
use crate::api::health::Readiness;
use crate::api::{
    self, Answering, BoundListener, Callers, ConnectionRegistry, ListenError, ListenerSettings, PolicyReceiver, Port,
    ServeError,
};
use crate::checkpoint::{CheckpointError, CheckpointTask, Checkpoints, LedgerHistory, LostHistory};
use crate::config::changes::Reloadable;
use crate::config::{ConfigErrors, Settings};
use crate::domain::clock::{Clock, SystemClock, Timestamp};
use crate::domain::ids::AccountName;
use crate::domain::probe::ProbeReport;
use crate::domain::state::State;
use crate::engine::{Engine, probe};
use crate::ledger::admin::StartPause;
use crate::ledger::sqlite::{OpenError, SqliteLedger};
use crate::ledger::{Health, Ledger, LedgerAdmin, LedgerError};
use crate::providers::{Account, Accounts, ConnectError};
use crate::telemetry::LogFilter;
use crate::telemetry::metrics::{CertificateSnapshot, GaugeSnapshot, Metrics, MetricsError};
use crate::telemetry::scrape::{self, GaugeSource};
use crate::tls::{ServerTls, TlsError};
use crate::validation::Validation;

/// A running gateway.
pub struct App {
    listeners: Vec<(Arc<str>, Option<SocketAddr>)>,
    metrics_addr: Option<SocketAddr>,
    engine: Engine,
    validation: Validation,
    ledger: Arc<dyn LedgerAdmin>,
    checkpoints: Option<CheckpointTask>,
    readiness: watch::Sender<Readiness>,
    server: JoinHandle<Result<(), ServeError>>,
    closing: CancellationToken,
    ledger_watch: JoinHandle<()>,
    /// Counts the requests to read files again.
    reload: watch::Sender<u64>,
    drain: Duration,
    running: Reloadable,
    secret_files: SecretFiles,
}

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The metrics port is not available.
    #[error("cannot listen on {addr}: {source}")]
    MetricsPort {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The certificate of the metrics port cannot be used.
    #[error("metrics: {0}")]
    MetricsTls(#[from] TlsError),
    /// Listeners do not listen.
    #[error("{}", sentences(.0))]
    Listen(Vec<(String, ListenError)>),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// An account cannot be used as configured.
    #[error("account \"{account}\": {source}")]
    Account {
        /// The account's name.
        account: AccountName,
        /// The cause.
        source: ConnectError,
    },
    /// The access file cannot be used.
    #[error(transparent)]
    Access(#[from] AccessFileError),
    /// The metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ledger does not fit its newest checkpoint.
    #[error(transparent)]
    LostHistory(LostHistory),
    /// The checkpoints cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The work that the last process left cannot be recovered.
    #[error("could not recover the work in the ledger: {0}")]
    Recovery(#[from] LedgerError),
}

/// Time for load balancers to notice NOT_SERVING while the port still accepts calls.
const READINESS_GRACE: Duration = Duration::from_millis(200);
/// Accounts that `recoup check --online` probes concurrently.
const MAX_CONCURRENT_PROBES: usize = 8;
/// Time after the drain for answers that are being sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl App {
    /// Binds the port, opens the ledger, recovers what the last process left, and serves.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn start(settings: Settings) -> Result<App, StartError> {
        info!(version = env!("CARGO_PKG_VERSION"), "starting recoup");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let listeners = bind_listeners(&settings, &clock).await?;
        let scrape_listener = match settings.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let scrape_tls = settings.metrics_tls.clone().map(|tls| ServerTls::load(tls, clock.clone())).transpose()?;
        let metrics = if scrape_listener.is_some() { Metrics::on()? } else { Metrics::off() };
        let accounts = Arc::new(connect(&settings, &clock, &metrics)?);
        let (ledger, ledger_admin) = open_ledger(&settings)?;
        if metrics.is_on() {
            ledger_admin.enable_metrics(metrics.clone()).await;
        }
        for account in accounts.iter() {
            let (name, provider, endpoint) = (&account.name, account.provider, &account.place.endpoint);
            info!(account = %name, %provider, endpoint, currency = %account.place.currency, "account configured");
        }
        let checkpoints = open_history(&settings, &ledger, &ledger_admin, &clock).await?;
        let engine = Engine::start(ledger.clone(), accounts.clone(), clock.clone(), settings.engine.clone()).await?;
        let validation = Validation::new(accounts.clone(), clock.clone(), settings.validation);
        let readiness = watch::Sender::new(Readiness::Ready);
        let ledger_watch = tokio::spawn(follow_ledger(ledger.health(), readiness.clone()));
        let closing = CancellationToken::new();
        let secret_files = follow_secrets(&settings, &accounts, &engine, &closing);
        let (mut certificates, mut places) = (BTreeMap::new(), Vec::new());
        for listener in &listeners {
            certificates.extend(listener.tls().map(|tls| (listener.name().clone(), tls.clone())));
            places.push((listener.name().clone(), listener.address(), listener.path().map(PathBuf::from)));
        }
        let reload = watch::Sender::new(0);
        let max_connections = process_limits::max_connections(&settings);
        let connections = ConnectionRegistry::new(max_connections, metrics.clone());
        let policy = follow_access_file(&settings, &ledger_admin, &clock, &reload, &closing).await?;
        let serve = api::serve(
            Port { listeners, connections: connections.clone(), callers: Callers { policy, clock: clock.clone() } },
            Answering {
                engine: engine.clone(),
                validation: validation.clone(),
                checkpoints: checkpoints.as_ref().map_or_else(Checkpoints::off, CheckpointTask::checkpoints),
            },
            readiness.subscribe(),
            settings.api.clone(),
            metrics.clone(),
            closing.clone(),
        );
        let server = tokio::spawn(serve);
        for (name, tls) in &certificates {
            tokio::spawn(tls.clone().follow(name.clone(), reload.subscribe(), closing.clone()));
        }
        if let Some(tls) = &scrape_tls {
            tokio::spawn(tls.clone().follow("metrics".into(), reload.subscribe(), closing.clone()));
            certificates.insert("metrics".into(), tls.clone());
        }
        let metrics_addr = scrape_listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, address)) = scrape_listener {
            let (engine, validation, ledger_admin) = (engine.clone(), validation.clone(), ledger_admin.clone());
            let gauges = Arc::new(Gauges { engine, validation, ledger, ledger_admin, connections, certificates });
            tokio::spawn(scrape::serve(listener, scrape_tls, metrics, gauges, closing.clone()));
            info!(metrics_addr = %address, "metrics endpoint listening");
        }
        for (listener, address, path) in &places {
            match address {
                Some(addr) if &**listener == ListenerSettings::HTTP => {
                    info!(%listener, %addr, "JSON endpoint listening")
                }
                Some(addr) => info!(%listener, %addr, "gRPC server listening"),
                None => info!(%listener, path = ?path.as_deref().unwrap_or(Path::new("")), "gRPC server listening"),
            }
        }
        Ok(App {
            listeners: places.into_iter().map(|(listener, address, _)| (listener, address)).collect(),
            reload,
            metrics_addr,
            engine,
            validation,
            ledger: ledger_admin,
            checkpoints,
            readiness,
            server,
            closing,
            ledger_watch,
            drain: settings.drain,
            running: Reloadable::from_settings(&settings),
            secret_files,
        })
    }

    /// The address of the gRPC server's first TCP port; unspecified if there is none.
    pub fn addr(&self) -> SocketAddr {
        let first = self.listeners.iter().find_map(|(_, address)| *address);
        first.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// The address of a listener, if it is a TCP port.
    pub fn listener_addr(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(listener, _)| &**listener == name).and_then(|(_, address)| *address)
    }

    /// The address of the metrics endpoint, if there is one.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// A handle that reads the configuration again with `load` while the gateway runs, and applies
    /// the log filter and the secrets from files.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn reloader(
        &self,
        filter: LogFilter,
        load: impl FnMut() -> Result<Settings, ConfigErrors> + Send + 'static,
    ) -> std::io::Result<Reloader> {
        Reloader::start(self.running.clone(), self.secret_files.clone(), self.reload.clone(), filter, load)
    }

    /// Waits until the gRPC server ends, which before [`App::stop`] is a failure. Returns the cause
    /// in one sentence.
    pub async fn wait(&mut self) -> String {
        match (&mut self.server).await {
            Ok(Ok(())) => "the gRPC server ended unexpectedly".to_owned(),
            Ok(Err(problem)) => format!("the gRPC server failed: {problem}"),
            Err(problem) => format!("the gRPC server's task failed: {problem}"),
        }
    }

    /// Reports NOT_SERVING, waits for load balancers, takes no new work, finishes what is in flight
    /// within the drain time, and then closes connections and the ledger.
    pub async fn stop(self) {
        info!("shutting down");
        self.readiness.send_replace(Readiness::NotReady);
        self.ledger_watch.abort();
        tokio::time::sleep(READINESS_GRACE).await;
        self.closing.cancel();
        tokio::join!(self.validation.drain(self.drain), self.engine.drain(self.drain));
        self.readiness.send_replace(Readiness::Stopped);
        let mut server = self.server;
        if tokio::time::timeout(CLOSE_TIMEOUT, &mut server).await.is_err() {
            warn!("connections are still open after the drain: closing them");
            server.abort();
        }
        if let Some(checkpoints) = self.checkpoints {
            checkpoints.stop().await;
        }
        self.ledger.close().await;
        info!("recoup stopped");
    }
}

/// Reads the gauges of every layer.
struct Gauges {
    engine: Engine,
    validation: Validation,
    ledger: Arc<dyn Ledger>,
    ledger_admin: Arc<dyn LedgerAdmin>,
    connections: ConnectionRegistry,
    certificates: BTreeMap<Arc<str>, ServerTls>,
}

#[async_trait]
impl GaugeSource for Gauges {
    async fn snapshot(&self) -> GaugeSnapshot {
        let counted = self.ledger_admin.counts();
        let is_counted = counted.is_some();
        let counted = counted.unwrap_or_default();
        let paused: Vec<(AccountName, bool)> = self
            .engine
            .accounts()
            .into_iter()
            .map(|status| (status.account.name.clone(), status.pause.is_some()))
            .collect();
        let configured = paused.iter().map(|(name, _)| name);
        let names: BTreeSet<AccountName> = counted.iter().map(|(name, ..)| name).chain(configured).cloned().collect();
        let counts: BTreeMap<(AccountName, State), u64> =
            counted.into_iter().map(|(name, state, count)| ((name, state), count)).collect();
        let (mut refunds, mut oldest_doubts) = (Vec::new(), Vec::new());
        let (mut oldest_pending, mut oldest_unapproved) = (Vec::new(), Vec::new());
        // Times in the ledger come from the engine's clock, which may be ahead of the machine's.
        let now = self.engine.now();
        let machine_time = SystemClock.now();
        let age = |since: Option<Timestamp>| since.map(|since| now.saturating_duration_since(since));
        let waiting = self.engine.waiting_for_account().await.ok();
        let mut waiting_for_account = Vec::new();
        for name in names {
            // Omit the gauge until the initial count finishes; 0 would be wrong.
            for state in State::ALL.into_iter().filter(|_| is_counted) {
                let count = counts.get(&(name.clone(), state)).copied().unwrap_or_default();
                refunds.push((name.clone(), state, count));
            }
            // Omit an account that cannot be read, for the same reason.
            if let Ok(since) = self.ledger_admin.oldest_doubt(&name).await {
                oldest_doubts.push((name.clone(), age(since)));
            }
            if let Ok(since) = self.ledger_admin.oldest_pending(&name).await {
                oldest_pending.push((name.clone(), age(since)));
            }
            if let Ok(since) = self.ledger_admin.oldest_unapproved(&name).await {
                oldest_unapproved.push((name.clone(), age(since)));
            }
            if let Some(waiting) = &waiting {
                let count = waiting.get(&name).copied().unwrap_or_default();
                waiting_for_account.push((name, count));
            }
        }
        GaugeSnapshot {
            refunds,
            oldest_doubts,
            oldest_pending,
            oldest_unapproved,
            waiting_for_account,
            paused,
            clock_ahead: self.engine.clock_ahead(),
            circuits: self.engine.breaker_states(),
            write_queue: self.ledger_admin.queue_length(),
            writing: *self.ledger.health().borrow() == Health::Writing,
            event_readers: self.engine.event_stream_count(),
            watchers: self.validation.watch_count(),
            connections: self.connections.counts(),
            certificates: self
                .certificates
                .iter()
                .map(|(name, tls)| (name.clone(), snapshot_of(tls, machine_time)))
                .collect(),
        }
    }
}

/// Probes every configured account, ordered by name, without a ledger and without a port.
///
/// # Errors
/// [`StartError::Account`] if an account cannot be used as configured.
pub async fn probe_accounts(settings: &Settings) -> Result<Vec<(Arc<Account>, ProbeReport)>, StartError> {
    let accounts = connect(settings, &(Arc::new(SystemClock) as Arc<dyn Clock>), &Metrics::off())?;
    let circuit = settings.engine.circuit;
    let probes = accounts.iter().cloned().map(|account| async move {
        let report = probe::probe_alone(account.clone(), circuit).await;
        (account, report)
    });
    Ok(stream::iter(probes).buffered(MAX_CONCURRENT_PROBES).collect().await)
}

/// The two interfaces of one ledger.
type LedgerHandles = (Arc<dyn Ledger>, Arc<dyn LedgerAdmin>);

/// Opens the ledger. The only place that names a backend.
fn open_ledger(settings: &Settings) -> Result<LedgerHandles, OpenError> {
    let ledger = Arc::new(SqliteLedger::open(&settings.ledger_path, settings.ledger.clone())?);
    Ok((ledger.clone(), ledger))
}

/// Compares the ledger with its newest checkpoint, pauses every account if it has lost history or
/// is a restored backup, and begins to sign checkpoints. Nothing has been sent before.
async fn open_history(
    settings: &Settings,
    ledger: &Arc<dyn Ledger>,
    admin: &Arc<dyn LedgerAdmin>,
    clock: &Arc<dyn Clock>,
) -> Result<Option<CheckpointTask>, StartError> {
    let history = match &settings.checkpoint {
        Some(checkpoint) => Some(LedgerHistory::open(checkpoint, &**ledger, &**admin).await?),
        None => None,
    };
    let lost = history.as_ref().and_then(|history| history.lost.clone());
    match &lost {
        Some(lost) if !settings.accept_lost_history => return Err(StartError::LostHistory(lost.clone())),
        Some(lost) => warn!(%lost, "the ledger has lost history, and the start accepts it"),
        None if settings.accept_lost_history => warn!("--accept-lost-history is not needed: remove it"),
        None => {}
    }
    if history.is_none() && admin.identity().await?.has_checkpoints {
        warn!("the ledger had checkpoints, and none are configured: an old copy of it would not be noticed");
    }
    let configured = settings.accounts.iter().map(|account| account.name.clone()).collect();
    let start = StartPause { lost_history: lost.is_some(), configured, now: clock.now() };
    let pauses = admin.pause_if_restored(start).await?;
    if let Some(pause) = pauses.first() {
        let accounts = pauses.iter().map(|pause| pause.account.as_str()).collect::<Vec<_>>().join(" ");
        warn!(accounts, reason = pause.reason, "the ledger is a restored one: accounts were paused");
    }
    match (history, &settings.checkpoint) {
        (Some(history), Some(checkpoint)) => {
            let (ledger, admin, clock) = (ledger.clone(), admin.clone(), clock.clone());
            Ok(Some(CheckpointTask::start(history, checkpoint.every, ledger, admin, clock).await?))
        }
        _ => Ok(None),
    }
}

/// Binds every listener, or names all that do not listen.
async fn bind_listeners(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Vec<BoundListener>, StartError> {
    let (mut listeners, mut problems) = (Vec::new(), Vec::new());
    for settings in settings.all_listeners() {
        let name = settings.name.clone();
        match BoundListener::bind(settings, clock.clone()).await {
            Ok(listener) => listeners.push(listener),
            Err(problem) => problems.push((name, problem)),
        }
    }
    if problems.is_empty() { Ok(listeners) } else { Err(StartError::Listen(problems)) }
}

fn sentences(problems: &[(String, ListenError)]) -> String {
    let sentence = |(name, problem): &(String, ListenError)| match name.as_str() {
        ListenerSettings::SHORT_FORM => problem.to_string(),
        name => format!("listener \"{name}\": {problem}"),
    };
    problems.iter().map(sentence).collect::<Vec<_>>().join("; ")
}

fn snapshot_of(tls: &ServerTls, now: Timestamp) -> CertificateSnapshot {
    let status = tls.status();
    let until = |end: Timestamp| {
        end.saturating_duration_since(now).as_secs_f64() - now.saturating_duration_since(end).as_secs_f64()
    };
    CertificateSnapshot {
        remaining_s: until(status.expires),
        crl_remaining_s: status.next_revocation_list.map(until),
        is_outdated: status.is_outdated,
    }
}

async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = |source| StartError::MetricsPort { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

fn connect(settings: &Settings, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Result<Accounts, StartError> {
    let mut accounts = Vec::new();
    for account in &settings.accounts {
        let connected = Account::connect(account.clone(), clock.clone(), metrics)
            .map_err(|source| StartError::Account { account: account.name.clone(), source })?;
        accounts.push(connected);
    }
    Ok(Accounts::new(accounts))
}

/// Puts the access file into force, and each later content of it. None without one. The second part
/// requests a read.
async fn follow_access_file(
    settings: &Settings,
    ledger: &Arc<dyn LedgerAdmin>,
    clock: &Arc<dyn Clock>,
    reload: &watch::Sender<u64>,
    closing: &CancellationToken,
) -> Result<Option<PolicyReceiver>, StartError> {
    let Some(path) = settings.access_file.clone() else { return Ok(None) };
    let accounts = settings.accounts.iter().map(|account| account.name.clone()).collect();
    let file = AccessFile { path, accounts, ledger: ledger.clone(), clock: clock.clone() };
    let in_force = watch::Sender::new(Arc::new(file.load().await?));
    let receiver = in_force.subscribe();
    tokio::spawn(file.follow(in_force, reload.subscribe(), closing.clone()));
    Ok(Some(receiver))
}

/// Keeps each secret from a file equal to the file's content.
fn follow_secrets(
    settings: &Settings,
    accounts: &Accounts,
    engine: &Engine,
    closing: &CancellationToken,
) -> SecretFiles {
    let mut files = SecretFiles::new();
    for (name, file) in &settings.secret_files {
        if let Some(account) = accounts.get(name) {
            let (sender, receiver) = watch::channel(file.clone());
            let (engine, changed) = (engine.clone(), name.clone());
            let changed = move || engine.credentials_changed(&changed);
            let secret = account.secret.clone();
            tokio::spawn(reload::follow(name.clone(), secret, receiver, closing.clone(), changed));
            files.insert(name.clone(), sender);
        }
    }
    files
}

/// Ends the gateway's readiness, until the next start, when the ledger can no longer write.
async fn follow_ledger(mut health: watch::Receiver<Health>, readiness: watch::Sender<Readiness>) {
    loop {
        match &*health.borrow_and_update() {
            Health::Writing => {}
            Health::Failed(problem) | Health::Corrupt(problem) => {
                error!(problem, "the ledger has failed: nothing is recorded or sent until the gateway restarts");
                readiness.send_replace(Readiness::NotReady);
                return;
            }
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}
