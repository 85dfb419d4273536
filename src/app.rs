//! The composition root: settings in, a running gateway out, and the order in which it stops. The
//! only file that knows every layer.

mod reload;
mod start_preview;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::reload::Reloader;
use self::reload::SecretFiles;
pub use self::start_preview::{DisplacedRefunds, PreviewError, preview_start};
use crate::api::health::Serving;
use crate::api::{self, ApiSettings, ServeError};
use crate::config::changes::Reloadable;
use crate::config::{ConfigErrors, Settings};
use crate::domain::clock::{Clock, SystemClock, Timestamp};
use crate::domain::ids::AccountName;
use crate::domain::probe::ProbeReport;
use crate::domain::state::State;
use crate::engine::circuit_breaker::CircuitBreakerSettings;
use crate::engine::decide::{Backoff, Schedule};
use crate::engine::{Engine, EngineSettings, probe};
use crate::ledger::sqlite::{OpenError, SqliteLedger, SqliteSettings};
use crate::ledger::{Health, Ledger, LedgerAdmin, LedgerError};
use crate::providers::{Account, Accounts, ConnectError};
use crate::telemetry::LogFilter;
use crate::telemetry::metrics::{Metrics, MetricsError, Standing};
use crate::telemetry::scrape::{self, Standings};
use crate::validation::{Validation, ValidationSettings};

/// A running gateway.
pub struct App {
    addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    engine: Engine,
    validation: Validation,
    ledger: Arc<dyn LedgerAdmin>,
    serving: watch::Sender<Serving>,
    server: JoinHandle<Result<(), ServeError>>,
    closing: CancellationToken,
    ledger_watch: JoinHandle<()>,
    drain: Duration,
    running: Reloadable,
    secret_files: SecretFiles,
}

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is not to be had.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// An account cannot be used as configured.
    #[error("account \"{account}\": {source}")]
    Account {
        /// Which.
        account: AccountName,
        /// Why not.
        source: ConnectError,
    },
    /// The metrics cannot be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ledger cannot be brought in order.
    #[error("the ledger cannot be taken up: {0}")]
    TakeUp(#[from] LedgerError),
}

/// Balancers that watch the health word have this long to turn elsewhere while the port still takes
/// calls.
const LAST_MOMENT: Duration = Duration::from_millis(200);
/// Accounts that `recoup check --online` probes at once.
const PROBES: usize = 8;
/// After the drain, for answers already on their way out.
const HARD_STOP: Duration = Duration::from_secs(1);

impl App {
    /// Takes the port, opens the ledger, takes up what the last process left, and serves.
    ///
    /// # Errors
    /// [`StartError`]: one sentence each.
    pub async fn start(settings: Settings) -> Result<App, StartError> {
        info!(version = env!("CARGO_PKG_VERSION"), "recoup starts");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (listener, addr) = bind(settings.listen).await?;
        let scraped = match settings.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let metrics = if scraped.is_some() { Metrics::on()? } else { Metrics::off() };
        let accounts = Arc::new(connect(&settings, &clock, &metrics)?);
        let (ledger, ledger_admin) = open_ledger(&settings)?;
        if metrics.is_on() {
            ledger_admin.enable_metrics(metrics.clone()).await;
        }
        let engine_settings = EngineSettings {
            backoff: Backoff {
                shortest: settings.engine.retry_backoff_min,
                longest: settings.engine.retry_backoff_max,
            },
            schedule: Schedule {
                first: settings.engine.lookups_after.clone(),
                then_every: settings.engine.lookups_every,
            },
            circuit: circuit_of(&settings),
            rejection_follow_up: settings.engine.rejection_follow_up,
            max_feeds: settings.server.max_event_streams,
        };
        for account in accounts.iter() {
            let (name, provider, endpoint) = (&account.name, account.provider, &account.place.endpoint);
            info!(account = %name, %provider, endpoint, currency = %account.place.currency, "the account is configured");
        }
        let engine = Engine::start(ledger.clone(), accounts.clone(), clock.clone(), engine_settings).await?;
        let validation_settings = ValidationSettings {
            cache_entries: settings.validation.cache_entries,
            max_concurrent_fetches: settings.validation.max_concurrent_fetches,
            max_watches: settings.validation.max_watches,
            watch_interval_min: settings.validation.watch_interval_min,
        };
        let validation = Validation::new(accounts.clone(), clock.clone(), validation_settings);
        let api_settings = ApiSettings {
            max_wait: settings.server.max_wait,
            max_calls: settings.server.max_concurrent_calls,
            max_streams_per_connection: settings.server.max_streams_per_connection,
        };
        let serving = watch::Sender::new(Serving::Yes);
        let ledger_watch = tokio::spawn(follow_ledger(ledger.health(), serving.clone()));
        let closing = CancellationToken::new();
        let secret_files = follow_secrets(&settings, &accounts, &engine, &closing);
        let serve = api::serve(
            listener,
            engine.clone(),
            validation.clone(),
            serving.subscribe(),
            api_settings,
            metrics.clone(),
            closing.clone(),
        );
        let server = tokio::spawn(serve);
        let metrics_addr = scraped.as_ref().map(|(_, address)| *address);
        if let Some((listener, address)) = scraped {
            let (engine, validation, ledger_admin) = (engine.clone(), validation.clone(), ledger_admin.clone());
            let whole = Arc::new(Whole { engine, validation, ledger, ledger_admin });
            tokio::spawn(scrape::serve(listener, metrics, whole, closing.clone()));
            info!(metrics_addr = %address, "the metrics can be read");
        }
        info!(%addr, "recoup takes calls");
        Ok(App {
            addr,
            metrics_addr,
            engine,
            validation,
            ledger: ledger_admin,
            serving,
            server,
            closing,
            ledger_watch,
            drain: settings.server.drain,
            running: Reloadable::of(&settings),
            secret_files,
        })
    }

    /// Where the gRPC port is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the metrics can be read.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// A handle that rereads the configuration with `load` while the gateway runs, and applies the
    /// log filter and the secrets from files.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn reloader(
        &self,
        filter: LogFilter,
        load: impl FnMut() -> Result<Settings, ConfigErrors> + Send + 'static,
    ) -> std::io::Result<Reloader> {
        Reloader::start(self.running.clone(), self.secret_files.clone(), filter, load)
    }

    /// Returns when the port is served no more, which without [`App::stop`] is a failure: why, in a
    /// sentence.
    pub async fn ended(&mut self) -> String {
        match (&mut self.server).await {
            Ok(Ok(())) => "the gRPC port closed by itself".to_owned(),
            Ok(Err(problem)) => format!("the gRPC port closed: {problem}"),
            Err(problem) => format!("the gRPC port's task died: {problem}"),
        }
    }

    /// Health NOT_SERVING, a last moment, no new work, what is on the wire finished within the
    /// drain's time, then the hard stop.
    pub async fn stop(self) {
        info!("shutting down");
        self.serving.send_replace(Serving::No);
        self.ledger_watch.abort();
        tokio::time::sleep(LAST_MOMENT).await;
        self.closing.cancel();
        tokio::join!(self.validation.drain(self.drain), self.engine.drain(self.drain));
        self.serving.send_replace(Serving::Ended);
        let mut server = self.server;
        if tokio::time::timeout(HARD_STOP, &mut server).await.is_err() {
            warn!("connections are still open at the end of the drain: they are cut");
            server.abort();
        }
        self.ledger.close().await;
        info!("shut down");
    }
}

/// All that knows how things stand.
struct Whole {
    engine: Engine,
    validation: Validation,
    ledger: Arc<dyn Ledger>,
    ledger_admin: Arc<dyn LedgerAdmin>,
}

#[async_trait]
impl Standings for Whole {
    async fn standing(&self) -> Standing {
        let counted = self.ledger_admin.counts();
        let is_counted = counted.is_some();
        let counted = counted.unwrap_or_default();
        let configured: Vec<AccountName> =
            self.engine.accounts().into_iter().map(|(account, _)| account.name.clone()).collect();
        let names: BTreeSet<AccountName> = counted.iter().map(|(name, ..)| name).chain(&configured).cloned().collect();
        let counts: BTreeMap<(AccountName, State), u64> =
            counted.into_iter().map(|(name, state, count)| ((name, state), count)).collect();
        let (mut refunds, mut oldest_doubts, mut oldest_pending) = (Vec::new(), Vec::new(), Vec::new());
        // Times in the ledger come from the engine's clock, which may be ahead of the machine's.
        let now = self.engine.now();
        let age = |since: Option<Timestamp>| since.map(|since| now.saturating_duration_since(since));
        let waiting = self.engine.waiting_for_account().await.ok();
        let mut waiting_for_account = Vec::new();
        for name in names {
            // Before it has been counted, 0 would be a claim.
            for state in State::ALL.into_iter().filter(|_| is_counted) {
                let count = counts.get(&(name.clone(), state)).copied().unwrap_or_default();
                refunds.push((name.clone(), state, count));
            }
            // An account that the ledger cannot be asked for is left out, for the same reason.
            if let Ok(since) = self.ledger_admin.oldest_doubt(&name).await {
                oldest_doubts.push((name.clone(), age(since)));
            }
            if let Ok(since) = self.ledger_admin.oldest_pending(&name).await {
                oldest_pending.push((name.clone(), age(since)));
            }
            if let Some(waiting) = &waiting {
                let count = waiting.get(&name).copied().unwrap_or_default();
                waiting_for_account.push((name, count));
            }
        }
        Standing {
            refunds,
            oldest_doubts,
            oldest_pending,
            waiting_for_account,
            clock_ahead: self.engine.clock_ahead(),
            circuits: self.engine.circuits(),
            write_queue: self.ledger_admin.queue_length(),
            writing: *self.ledger.health().borrow() == Health::Writing,
            event_readers: self.engine.feed_count(),
            watchers: self.validation.watch_count(),
        }
    }
}

/// Probes every configured account, ordered by name, without a ledger and without a port.
///
/// # Errors
/// [`StartError::Account`] where an account cannot be used as configured.
pub async fn probe_accounts(settings: &Settings) -> Result<Vec<(Arc<Account>, ProbeReport)>, StartError> {
    let accounts = connect(settings, &(Arc::new(SystemClock) as Arc<dyn Clock>), &Metrics::off())?;
    let circuit = circuit_of(settings);
    let probes = accounts.iter().cloned().map(|account| async move {
        let report = probe::probe_alone(account.clone(), circuit).await;
        (account, report)
    });
    Ok(stream::iter(probes).buffered(PROBES).collect().await)
}

fn circuit_of(settings: &Settings) -> CircuitBreakerSettings {
    CircuitBreakerSettings {
        failures: settings.engine.circuit_failures,
        strangers: settings.engine.circuit_foreign_targets,
        shortest_pause: settings.engine.circuit_pause_min,
        longest_pause: settings.engine.circuit_pause_max,
    }
}

/// The two interfaces of one ledger.
type LedgerHandles = (Arc<dyn Ledger>, Arc<dyn LedgerAdmin>);

/// Opens the ledger. The only place that names a backend.
fn open_ledger(settings: &Settings) -> Result<LedgerHandles, OpenError> {
    let ledger = Arc::new(SqliteLedger::open(
        &settings.ledger.path,
        SqliteSettings {
            queue_length: settings.ledger.queue_length,
            batch_size: settings.ledger.batch_size,
            ..SqliteSettings::default()
        },
    )?);
    Ok((ledger.clone(), ledger))
}

async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = |source| StartError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    let taken = listener.local_addr().map_err(listen)?;
    Ok((listener, taken))
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

/// A ledger that writes no more ends the gateway's readiness, until the next start.
async fn follow_ledger(mut health: watch::Receiver<Health>, serving: watch::Sender<Serving>) {
    loop {
        match &*health.borrow_and_update() {
            Health::Writing => {}
            Health::Failed(problem) | Health::Corrupt(problem) => {
                error!(
                    problem,
                    "the ledger has failed: nothing is recorded or sent until the gateway is started again"
                );
                serving.send_replace(Serving::No);
                return;
            }
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}
