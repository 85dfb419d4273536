//! The configuration: one TOML file, environment variables over it, checked whole before anything
//! starts.
//!
//! ```text
//! recoup.toml --+
//!               +--> entries --> Settings, or every fault at once, each with its key and where it stands
//! RECOUP_... ---+                (reader.rs: types and unknown keys; accounts.rs: accounts and their secrets)
//! ```
//!
//! Promises: what is wrong is never put right silently, no fault hides another, no fault repeats a
//! value, and a secret comes from a file or an environment variable of its own, never from the
//! configuration's text. `docker/recoup.toml` shows every setting; a test keeps it complete.
//!
//! # Environment variables
//!
//! `RECOUP_` and the key in capitals, each dot as two underscores: `RECOUP_LISTEN`,
//! `RECOUP_LEDGER__PATH`, `RECOUP_ACCOUNTS__NAMECOM__ENDPOINT`. Account names hold no underscore,
//! so one inside an account's name stands for `-`: `RECOUP_ACCOUNTS__NAMECOM_EU__CURRENCY` is
//! `accounts.namecom-eu.currency`. (A name that begins or ends with `-`, or holds two in a row, can
//! be set in the file alone.) An empty variable is a value like any other. A `RECOUP_` variable
//! that is no setting is a fault, unless it is `RECOUP_CONFIG`, which names the file where the
//! command line does not, or `RECOUP_SERVER`, which `recoup refunds` and `recoup health` read, or a
//! secret's key names it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::ids::AccountName;
use crate::providers::{AccountSettings, ProviderSettings, Url};
use crate::telemetry::LogFormat;

mod accounts;
pub mod changes;
mod errors;
mod reader;
#[cfg(test)]
mod tests;

pub use accounts::SecretFile;
use changes::Entries;
pub use errors::{ConfigError, ConfigErrors, ErrorSource};
use reader::Reader;

/// Everything that can be set, checked. The defaults are those of [`Settings::default`], which has
/// no account.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the gRPC server listens; loopback only. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The durable record.
    pub ledger: LedgerSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Where the metrics can be read; none: nowhere, and nothing is measured. Loopback only.
    pub metrics_listen: Option<SocketAddr>,
    /// The collector that traces are sent to, as `http://host:port`; none: none are made.
    pub traces_endpoint: Option<String>,
    /// The gRPC server.
    pub server: ServerSettings,
    /// When refunds are sent again.
    pub engine: EngineSettings,
    /// Reading validation status.
    pub validation: ValidationSettings,
    /// At least one, by name.
    pub accounts: Vec<AccountSettings>,
    /// The accounts whose secret comes from a file, which may be read again.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
    /// All settings, for comparison with a later reading.
    pub entries: Entries,
    /// What is allowed and still unwise: one sentence each, with its key. To be logged at start-up.
    pub warnings: Vec<String>,
}

/// `[ledger]`
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// The database file; relative to the working directory.
    pub path: PathBuf,
    /// Writes that may wait for the writer before callers are told that it is overloaded.
    pub queue_length: usize,
    /// Waiting writes that share one sync of the disk, at most.
    pub batch_size: usize,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// How an event is written.
    pub format: LogFormat,
    /// Which events are: directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The longest that CreateRefund and WaitRefund wait for an outcome.
    pub max_wait: Duration,
    /// How long calls under way may go on after the signal to stop.
    pub drain: Duration,
    /// Calls that may be under way at once; the next one is answered UNAVAILABLE.
    pub max_concurrent_calls: usize,
    /// HTTP/2 streams on one connection.
    pub max_streams_per_connection: u32,
    /// StreamRefundEvents calls that may be open at once.
    pub max_event_streams: usize,
}

/// `[engine]`
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Wait before a refund that provably was not processed is sent again; doubled each time.
    pub retry_backoff_min: Duration,
    /// Where the doubling ends.
    pub retry_backoff_max: Duration,
    /// How long after a doubt began the provider is asked about it: the first times, in rising
    /// order.
    pub lookups_after: Vec<Duration>,
    /// After the last of them, so far apart.
    pub lookups_every: Duration,
    /// How long a refund that its provider rejected, or that a person found not refunded, is still
    /// looked up once a day: the provider may correct it.
    pub rejection_follow_up: Duration,
    /// Attempts on end of which nothing usable was heard, before an account is sent nothing any
    /// more.
    pub circuit_failures: u32,
    /// Different targets on end that the provider says are not the account's, before its
    /// credentials are doubted.
    pub circuit_foreign_targets: usize,
    /// Until an account that is shut is tried for the first time; doubled each time.
    pub circuit_pause_min: Duration,
    /// Where the doubling ends.
    pub circuit_pause_max: Duration,
}

/// `[validation]`
#[derive(Debug, Clone)]
pub struct ValidationSettings {
    /// Orders whose last status is kept.
    pub cache_entries: usize,
    /// Status requests of one account that may be on the wire at once.
    pub max_concurrent_fetches: usize,
    /// WatchValidationStatus calls that may be open at once.
    pub max_watches: usize,
    /// A watched order is not asked for more often, whatever its watchers want.
    pub watch_interval_min: Duration,
}

/// Names the file where the command line does not.
const FILE_VARIABLE: &str = "RECOUP_CONFIG";

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            ledger: LedgerSettings { path: PathBuf::from("recoup.db"), queue_length: 4096, batch_size: 64 },
            log: LogSettings { format: LogFormat::Text, filter: "info".to_owned() },
            metrics_listen: None,
            traces_endpoint: None,
            server: ServerSettings {
                // Below the 60 s after which many proxies end a call that says nothing.
                max_wait: Duration::from_secs(50),
                drain: Duration::from_secs(20),
                max_concurrent_calls: 1024,
                max_streams_per_connection: 200,
                max_event_streams: 128,
            },
            engine: EngineSettings {
                retry_backoff_min: Duration::from_secs(1),
                retry_backoff_max: Duration::from_secs(300),
                lookups_after: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
                lookups_every: Duration::from_secs(24 * 3_600),
                rejection_follow_up: Duration::from_secs(7 * 24 * 3_600),
                circuit_failures: 5,
                circuit_foreign_targets: 5,
                circuit_pause_min: Duration::from_secs(5),
                circuit_pause_max: Duration::from_secs(300),
            },
            // An entry is a few KiB: a full cache stays under 10 MiB.
            validation: ValidationSettings {
                cache_entries: 1000,
                max_concurrent_fetches: 8,
                max_watches: 1000,
                watch_interval_min: Duration::from_secs(30),
            },
            accounts: Vec::new(),
            secret_files: BTreeMap::new(),
            entries: Entries::default(),
            warnings: Vec::new(),
        }
    }
}

impl Settings {
    /// [`Settings::load`] with the environment of this process.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn from_process(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        Self::load(path, std::env::vars_os())
    }

    /// Reads the file at `path`, or the one that `RECOUP_CONFIG` names, or none, and lays the
    /// variables of `environment` over it.
    ///
    /// # Errors
    /// Every fault there is. Where the file cannot be read or is no TOML, only that.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigErrors> {
        let variables: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let (path, text) = file_of(path, &variables)?;
        Self::read(path, &text, &variables)
    }

    /// [`Settings::listen_of`] with the environment of this process.
    ///
    /// # Errors
    /// What is wrong with that one setting, or with the whole file.
    pub fn listen_from_process(path: Option<&Path>) -> Result<SocketAddr, ConfigErrors> {
        Self::listen_of(path, std::env::vars_os())
    }

    /// Where a gateway with the configuration of [`Settings::load`] listens. Nothing else of it is
    /// read: no account, and no secret.
    ///
    /// # Errors
    /// What is wrong with that one setting, or with the whole file.
    pub fn listen_of(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<SocketAddr, ConfigErrors> {
        let variables: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let (path, text) = file_of(path, &variables)?;
        let mut read = Reader::new(path, &text, &variables)?;
        let mut listen = Self::default().listen;
        read.parsed("listen", listen_address, &mut listen);
        read.finish_early()?;
        Ok(listen)
    }

    /// What `recoup check` prints of a valid configuration: a line each, no secret among them.
    pub fn summary(&self) -> Vec<String> {
        let LedgerSettings { path, queue_length, batch_size } = &self.ledger;
        let (server, engine) = (&self.server, &self.engine);
        let mut lines = vec![
            format!("listen: {}", self.listen),
            format!("ledger: {}, {queue_length} writes may wait, {batch_size} share a sync", path.display()),
            format!("log: {} as {}", self.log.filter, log_format_word(self.log.format)),
            match self.metrics_listen {
                Some(address) => format!("metrics: at http://{address}/metrics"),
                None => "metrics: none".to_owned(),
            },
            match &self.traces_endpoint {
                Some(endpoint) => format!("traces: to {endpoint}"),
                None => "traces: none".to_owned(),
            },
            format!(
                "server: {} calls at once, {} event streams, {} streams a connection; waits up to {}, drains for {}",
                server.max_concurrent_calls,
                server.max_event_streams,
                server.max_streams_per_connection,
                seconds(server.max_wait),
                seconds(server.drain)
            ),
            format!(
                "engine: sends again after {} to {}; looks up doubt after {}, then every {}; looks up rejections for {}",
                seconds(engine.retry_backoff_min),
                seconds(engine.retry_backoff_max),
                engine.lookups_after.iter().copied().map(seconds).collect::<Vec<_>>().join(", "),
                seconds(engine.lookups_every),
                seconds(engine.rejection_follow_up)
            ),
            format!(
                "engine: an account is suspended after {} failures or {} targets of others in a row, and tried after {} to {}",
                engine.circuit_failures,
                engine.circuit_foreign_targets,
                seconds(engine.circuit_pause_min),
                seconds(engine.circuit_pause_max)
            ),
            format!(
                "validation: {} orders cached, {} requests of an account at once, {} watches, a request every {} at most",
                self.validation.cache_entries,
                self.validation.max_concurrent_fetches,
                self.validation.max_watches,
                seconds(self.validation.watch_interval_min)
            ),
        ];
        lines.extend(self.accounts.iter().map(account_line));
        lines
    }

    /// Reads a text that stands for the file at `path`.
    fn read(path: &Path, text: &str, variables: &BTreeMap<OsString, OsString>) -> Result<Self, ConfigErrors> {
        let mut read = Reader::new(path, text, variables)?;
        let settings = Self::from_reader(&mut read);
        read.finish()?;
        Ok(settings)
    }

    /// The settings as far as they can be read; what is wrong is noted in the reader, and a default
    /// stands in its place.
    fn from_reader(read: &mut Reader<'_>) -> Self {
        let mut settings = Self::default();
        let Self { listen, ledger, log, metrics_listen, traces_endpoint, server, engine, validation, .. } =
            &mut settings;

        read.parsed("listen", listen_address, listen);

        read.section("ledger");
        read.parsed("ledger.path", file_path, &mut ledger.path);
        read.number("ledger.queue_length", 1..=1_000_000, &mut ledger.queue_length);
        read.number("ledger.batch_size", 1..=10_000, &mut ledger.batch_size);

        read.section("log");
        read.parsed("log.format", log_format, &mut log.format);
        read.parsed("log.filter", log_filter, &mut log.filter);

        read.section("metrics");
        read.parsed("metrics.listen", |text| scrape_address(text).map(Some), metrics_listen);
        if metrics_listen.is_some_and(|metrics| metrics == *listen && metrics.port() != 0) {
            read.fault("metrics.listen", "must be another address than `listen`");
        }

        read.section("traces");
        read.parsed("traces.endpoint", |text| collector(text).map(Some), traces_endpoint);
        if traces_endpoint.as_deref().is_some_and(|endpoint| !is_this_machine(endpoint)) {
            read.warn("traces.endpoint", "is another machine, and traces go there unencrypted");
        }

        read.section("server");
        read.millis("server.max_wait_ms", 1..=3_600_000, &mut server.max_wait);
        read.millis("server.drain_ms", 0..=600_000, &mut server.drain);
        read.number("server.max_concurrent_calls", 1..=100_000, &mut server.max_concurrent_calls);
        read.number("server.max_streams_per_connection", 1..=10_000, &mut server.max_streams_per_connection);
        read.number("server.max_event_streams", 1..=100_000, &mut server.max_event_streams);

        read.section("engine");
        read.millis("engine.retry_backoff_min_ms", 1..=3_600_000, &mut engine.retry_backoff_min);
        read.millis("engine.retry_backoff_max_ms", 1..=86_400_000, &mut engine.retry_backoff_max);
        if engine.retry_backoff_max < engine.retry_backoff_min {
            read.fault("engine.retry_backoff_max_ms", "must not be below `engine.retry_backoff_min_ms`");
        }
        read.parsed("engine.lookups_after_ms", moments, &mut engine.lookups_after);
        read.millis("engine.lookups_every_ms", 100..=30 * 86_400_000, &mut engine.lookups_every);
        read.seconds("engine.rejection_follow_up_s", 0..=90 * 86_400, &mut engine.rejection_follow_up);
        read.number("engine.circuit_failures", 1..=1_000_000, &mut engine.circuit_failures);
        read.number("engine.circuit_foreign_targets", 1..=10_000, &mut engine.circuit_foreign_targets);
        read.millis("engine.circuit_pause_min_ms", 1..=3_600_000, &mut engine.circuit_pause_min);
        read.millis("engine.circuit_pause_max_ms", 1..=86_400_000, &mut engine.circuit_pause_max);
        if engine.circuit_pause_max < engine.circuit_pause_min {
            read.fault("engine.circuit_pause_max_ms", "must not be below `engine.circuit_pause_min_ms`");
        }

        read.section("validation");
        read.number("validation.cache_entries", 0..=1_000_000, &mut validation.cache_entries);
        read.number("validation.max_concurrent_fetches", 1..=256, &mut validation.max_concurrent_fetches);
        read.number("validation.max_watches", 1..=100_000, &mut validation.max_watches);
        read.millis("validation.watch_interval_min_ms", 1..=86_400_000, &mut validation.watch_interval_min);

        (settings.accounts, settings.secret_files) = accounts::read(read);
        settings.entries = Entries(read.texts());
        settings.warnings = read.take_warnings();
        settings
    }
}

/// The file that is named, here or by its variable, with its text; nothing where none is.
fn file_of<'a>(
    path: Option<&'a Path>,
    variables: &'a BTreeMap<OsString, OsString>,
) -> Result<(&'a Path, String), ConfigErrors> {
    let named = || variables.get(OsStr::new(FILE_VARIABLE)).map(Path::new);
    match path.or_else(named) {
        Some(path) => Ok((path, reader::read_file(path)?)),
        None => Ok((Path::new(""), String::new())),
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:50051\"")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(
            "must be a loopback address: there is no TLS and no authentication yet, so whoever reaches the port could refund",
        )
    }
}

fn scrape_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:9464\"")?;
    let fault = "must be a loopback address: there is no TLS and no authentication";
    if address.ip().is_loopback() { Ok(address) } else { Err(fault) }
}

/// OTLP over gRPC, without TLS.
fn collector(text: &str) -> Result<String, &'static str> {
    let fault = "must be http:// and a host with its port, such as \"http://127.0.0.1:4317\"";
    let url: Url = text.parse().map_err(|_| fault)?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let is_anonymous = url.username().is_empty() && url.password().is_none();
    match (url.scheme(), url.host_str(), url.port()) {
        ("http", Some(host), Some(port)) if is_bare && is_anonymous => Ok(format!("http://{host}:{port}")),
        _ => Err(fault),
    }
}

/// Loopback, of a text that [`collector`] has written.
fn is_this_machine(endpoint: &str) -> bool {
    let authority = endpoint.trim_start_matches("http://");
    authority.starts_with("localhost:") || authority.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback())
}

/// Milliseconds in rising order, blanks between them.
fn moments(text: &str) -> Result<Vec<Duration>, &'static str> {
    let fault = "must be 1 to 20 numbers of milliseconds from 1 to 2592000000, each above the one before, such as \"10000 30000\"";
    let numbers: Vec<u64> =
        text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| fault)?;
    let rising = numbers.is_sorted_by(|one, next| one < next);
    let bounded = numbers.iter().all(|number| (1..=30 * 86_400_000).contains(number));
    if rising && bounded && (1..=20).contains(&numbers.len()) {
        Ok(numbers.into_iter().map(Duration::from_millis).collect())
    } else {
        Err(fault)
    }
}

fn file_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("must name a file") } else { Ok(PathBuf::from(text)) }
}

const fn log_format_word(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn log_format(word: &str) -> Result<LogFormat, &'static str> {
    let format = [LogFormat::Text, LogFormat::Json].into_iter().find(|format| log_format_word(*format) == word);
    format.ok_or("must be \"text\" or \"json\"")
}

/// The levels that a filter may name.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Each directive ends in a level, to the letter. The library would take a level that is none, or
/// that has a blank beside it, for the name of a part, and silence all others.
fn log_filter(text: &str) -> Result<String, &'static str> {
    let ends_in_level = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if text.split(',').all(ends_in_level) => Ok(text.to_owned()),
        _ => Err(
            "must be a level (off, error, warn, info, debug, trace), alone or after a part and =, such as \"info\" or \"info,recoup::engine=debug\"",
        ),
    }
}

fn account_line(account: &AccountSettings) -> String {
    let provider = match account.provider_settings {
        ProviderSettings::Sectigo { .. } => "Sectigo",
        ProviderSettings::Namecom { .. } => "name.com",
        ProviderSettings::Debitsuccess { .. } => "Debitsuccess",
    };
    format!(
        "account {}: {provider} at {}, {}, {} at once, {}, {} connections for refunds, settled after {}, waits up to {}{}",
        account.name,
        account.endpoint,
        account.currency,
        account.max_in_flight,
        match (account.requests_per_second, account.requests_per_hour) {
            (0, 0) => "unpaced".to_owned(),
            (rate, 0) => format!("{rate} a second"),
            (0, rate) => format!("{rate} an hour"),
            (second, hour) => format!("{second} a second and {hour} an hour"),
        },
        if account.reuse_connections { "pooled" } else { "fresh" },
        seconds(account.settle_time),
        seconds(account.pending_limit),
        match account.former.len() {
            0 => String::new(),
            1 => ", one former place".to_owned(),
            several => format!(", {several} former places"),
        }
    )
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
