//! The configuration: one TOML file, overridden by environment variables, validated as a whole
//! before anything starts.
//!
//! ```text
//! recoup.toml --+
//!               +--> entries --> Settings, or all errors, each with its key and its source
//! RECOUP_... ---+
//!
//! reader    types and unknown keys
//! accounts  accounts and their secrets
//! changes   what a later read changes in a running gateway
//! ```
//!
//! Each layer declares its own settings and their defaults ([`ApiSettings`], [`EngineSettings`],
//! ...); this module fills them in and names nothing else of a layer.
//!
//! Guarantees: no error is corrected silently, no error hides another, no error message repeats a
//! value, and a secret comes from a file or an environment variable of its own, never from the
//! configuration's text. `docker/recoup.toml` shows every setting; a test keeps it complete.
//!
//! # Environment variables
//!
//! `RECOUP_` and the key in capitals, with two underscores for each dot: `RECOUP_LISTEN`,
//! `RECOUP_LEDGER__PATH`, `RECOUP_ACCOUNTS__NAMECOM__ENDPOINT`. Account names contain no
//! underscore, so a single one inside an account's name stands for `-`:
//! `RECOUP_ACCOUNTS__NAMECOM_EU__CURRENCY` is `accounts.namecom-eu.currency`. (An account whose
//! name begins or ends with `-`, or contains two in a row, can be set in the file only.) An empty
//! variable is a value like any other. An unknown `RECOUP_` variable is an error. Exceptions are
//! `RECOUP_CONFIG`, which names the file if the command line does not, `RECOUP_SERVER`, which
//! `recoup refunds` and `recoup health` read, and variables that hold a secret and are named by its
//! key.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::ApiSettings;
use crate::checkpoint::CheckpointSettings;
use crate::domain::ids::AccountName;
use crate::engine::EngineSettings;
use crate::ledger::sqlite::SqliteSettings;
use crate::providers::{AccountSettings, Url};
use crate::telemetry::{LogFormat, TelemetrySettings};
use crate::validation::ValidationSettings;

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

/// All settings, validated. [`Settings::default`] has no account.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the gRPC server; loopback only. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The ledger's database file; relative to the working directory.
    pub ledger_path: PathBuf,
    /// `[ledger]`
    pub ledger: SqliteSettings,
    /// `[checkpoint]`. None: no checkpoints are signed.
    pub checkpoint: Option<CheckpointSettings>,
    /// From the command line: starts, with every account paused, although the ledger does not fit
    /// its newest checkpoint.
    pub accept_lost_history: bool,
    /// `[log]` and `[traces]`
    pub telemetry: TelemetrySettings,
    /// Address of the metrics endpoint; loopback only. None: no endpoint, and nothing is measured.
    pub metrics_listen: Option<SocketAddr>,
    /// `[server]`
    pub api: ApiSettings,
    /// How many threads run the gateway's tasks. 0: one for each core but one, which the ledger's
    /// writer uses; at least two, because a single one may not read the ledger itself, and waking
    /// another thread for each read takes longer than sharing a core.
    pub worker_threads: usize,
    /// How long calls in progress may continue after the signal to stop.
    pub drain: Duration,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[validation]`
    pub validation: ValidationSettings,
    /// At least one, by name.
    pub accounts: Vec<AccountSettings>,
    /// The accounts whose secret comes from a file, which may be read again.
    pub secret_files: BTreeMap<AccountName, SecretFile>,
    /// All settings as text, for comparison with a later read.
    pub entries: Entries,
    /// What is allowed but unwise: one sentence each, with its key. To be logged at start-up.
    pub warnings: Vec<String>,
}

/// Names the file where the command line does not.
const FILE_VARIABLE: &str = "RECOUP_CONFIG";

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            ledger_path: PathBuf::from("recoup.db"),
            ledger: SqliteSettings::default(),
            checkpoint: None,
            accept_lost_history: false,
            telemetry: TelemetrySettings::default(),
            metrics_listen: None,
            api: ApiSettings::default(),
            worker_threads: 0,
            drain: Duration::from_secs(20),
            engine: EngineSettings::default(),
            validation: ValidationSettings::default(),
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
    /// All errors of the configuration.
    pub fn from_process(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        Self::load(path, std::env::vars_os())
    }

    /// Reads the file at `path`, or the one that `RECOUP_CONFIG` names, or none, and overrides it
    /// with the variables of `environment`.
    ///
    /// # Errors
    /// All errors of the configuration. If the file cannot be read or is not TOML, only that.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigErrors> {
        let variables: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let (path, text) = read_named_file(path, &variables)?;
        Self::read(path, &text, &variables)
    }

    /// [`Settings::listen_address`] with the environment of this process.
    ///
    /// # Errors
    /// Errors of that one setting, or of the file as a whole.
    pub fn listen_address_from_process(path: Option<&Path>) -> Result<SocketAddr, ConfigErrors> {
        Self::listen_address(path, std::env::vars_os())
    }

    /// The address on which a gateway with the configuration of [`Settings::load`] listens. Reads
    /// no other setting: no account, and no secret.
    ///
    /// # Errors
    /// Errors of that one setting, or of the file as a whole.
    pub fn listen_address(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<SocketAddr, ConfigErrors> {
        let variables: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let (path, text) = read_named_file(path, &variables)?;
        let mut read = Reader::new(path, &text, &variables)?;
        let mut listen = Self::default().listen;
        read.parsed("listen", parse_listen_address, &mut listen);
        read.finish_early()?;
        Ok(listen)
    }

    /// See [`Settings::worker_threads`]; with its default for this machine.
    pub fn worker_threads(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, Into::into).saturating_sub(1).max(2),
            threads => threads,
        }
    }

    /// What `recoup check` prints for a valid configuration: one line each, without secrets.
    pub fn summary(&self) -> Vec<String> {
        let Self { api, ledger, telemetry, engine, validation, .. } = self;
        let mut lines = vec![
            format!("listen: {}", self.listen),
            format!(
                "ledger: {}, a queue of {} writes, at most {} writes in one commit",
                self.ledger_path.display(),
                ledger.queue_length,
                ledger.batch_size
            ),
            match &self.checkpoint {
                Some(checkpoint) => format!(
                    "checkpoints: to {}, every {} if there is something new",
                    checkpoint.file.display(),
                    seconds(checkpoint.every)
                ),
                None => "checkpoints: none".to_owned(),
            },
            format!("log: {} as {}", telemetry.log_filter, log_format_name(telemetry.log_format)),
            match self.metrics_listen {
                Some(address) => format!("metrics: at http://{address}/metrics"),
                None => "metrics: none".to_owned(),
            },
            match &telemetry.traces_endpoint {
                Some(endpoint) => format!("traces: to {endpoint}"),
                None => "traces: none".to_owned(),
            },
            format!(
                "server: {} worker threads, {} concurrent calls, {} event streams, {} streams per connection; waits up to \
                 {}, drains for {}",
                self.worker_threads(),
                api.max_concurrent_calls,
                engine.max_event_streams,
                api.max_streams_per_connection,
                seconds(api.max_wait),
                seconds(self.drain)
            ),
            format!(
                "engine: sends again after {} to {}; looks up doubt after {}, then every {}; looks up rejections for {}",
                seconds(engine.backoff.min),
                seconds(engine.backoff.max),
                engine.schedule.first.iter().copied().map(seconds).collect::<Vec<_>>().join(", "),
                seconds(engine.schedule.then_every),
                seconds(engine.rejection_follow_up)
            ),
            format!(
                "engine: suspends an account after {} consecutive failures or {} consecutive foreign targets, and probes it after {} to {}",
                engine.circuit.failure_threshold,
                engine.circuit.foreign_target_threshold,
                seconds(engine.circuit.open_min),
                seconds(engine.circuit.open_max)
            ),
            format!(
                "validation: {} orders cached, {} concurrent requests per account, {} watches, at most one poll every {}",
                validation.cache_entries,
                validation.max_concurrent_fetches,
                validation.max_watches,
                seconds(validation.watch_interval_min)
            ),
        ];
        lines.extend(self.accounts.iter().map(account_line));
        lines
    }

    /// Reads `text` as the content of the file at `path`.
    fn read(path: &Path, text: &str, variables: &BTreeMap<OsString, OsString>) -> Result<Self, ConfigErrors> {
        let mut read = Reader::new(path, text, variables)?;
        let settings = Self::from_reader(&mut read);
        read.finish()?;
        Ok(settings)
    }

    /// The settings as far as they can be read. Errors are recorded in the reader, and the default
    /// takes the place of a faulty setting.
    fn from_reader(read: &mut Reader<'_>) -> Self {
        let mut settings = Self::default();
        let Self {
            listen,
            ledger_path,
            ledger,
            checkpoint,
            telemetry,
            metrics_listen,
            api,
            worker_threads,
            drain,
            engine,
            validation,
            ..
        } = &mut settings;

        read.parsed("listen", parse_listen_address, listen);

        read.section("ledger");
        read.parsed("ledger.path", parse_file_path, ledger_path);
        read.number("ledger.queue_length", 1..=1_000_000, &mut ledger.queue_length);
        read.number("ledger.batch_size", 1..=10_000, &mut ledger.batch_size);

        *checkpoint = read_checkpoint(read);

        read.section("log");
        read.parsed("log.format", parse_log_format, &mut telemetry.log_format);
        read.parsed("log.filter", parse_log_filter, &mut telemetry.log_filter);

        read.section("metrics");
        read.parsed("metrics.listen", |text| parse_scrape_address(text).map(Some), metrics_listen);
        if metrics_listen.is_some_and(|metrics| metrics == *listen && metrics.port() != 0) {
            read.error("metrics.listen", "must be another address than `listen`");
        }

        read.section("traces");
        let endpoint = &mut telemetry.traces_endpoint;
        read.parsed("traces.endpoint", |text| parse_collector(text).map(Some), endpoint);
        if endpoint.as_deref().is_some_and(|endpoint| !is_this_machine(endpoint)) {
            read.warn("traces.endpoint", "is another machine, and traces go there unencrypted");
        }

        read.section("server");
        read.number("server.worker_threads", 0..=256, worker_threads);
        read.millis("server.max_wait_ms", 1..=3_600_000, &mut api.max_wait);
        read.millis("server.drain_ms", 0..=600_000, drain);
        read.number("server.max_concurrent_calls", 1..=100_000, &mut api.max_concurrent_calls);
        read.number("server.max_streams_per_connection", 1..=10_000, &mut api.max_streams_per_connection);
        read.number("server.max_event_streams", 1..=100_000, &mut engine.max_event_streams);

        read.section("engine");
        let backoff = &mut engine.backoff;
        read.millis("engine.retry_backoff_min_ms", 1..=3_600_000, &mut backoff.min);
        read.millis("engine.retry_backoff_max_ms", 1..=86_400_000, &mut backoff.max);
        if backoff.max < backoff.min {
            read.error("engine.retry_backoff_max_ms", "must not be below `engine.retry_backoff_min_ms`");
        }
        read.parsed("engine.lookups_after_ms", parse_durations, &mut engine.schedule.first);
        read.millis("engine.lookups_every_ms", 100..=30 * 86_400_000, &mut engine.schedule.then_every);
        read.seconds("engine.rejection_follow_up_s", 0..=90 * 86_400, &mut engine.rejection_follow_up);
        let circuit = &mut engine.circuit;
        read.number("engine.circuit_failures", 1..=1_000_000, &mut circuit.failure_threshold);
        read.number("engine.circuit_foreign_targets", 1..=10_000, &mut circuit.foreign_target_threshold);
        read.millis("engine.circuit_pause_min_ms", 1..=3_600_000, &mut circuit.open_min);
        read.millis("engine.circuit_pause_max_ms", 1..=86_400_000, &mut circuit.open_max);
        if circuit.open_max < circuit.open_min {
            read.error("engine.circuit_pause_max_ms", "must not be below `engine.circuit_pause_min_ms`");
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

/// Either both files are set or neither.
fn read_checkpoint(read: &mut Reader<'_>) -> Option<CheckpointSettings> {
    read.section("checkpoint");
    let file = read.optional("checkpoint.file", parse_file_path);
    let key_file = read.optional("checkpoint.key_file", parse_file_path);
    let mut every = CheckpointSettings::EVERY;
    read.seconds("checkpoint.every_s", 1..=86_400, &mut every);
    for (key, other) in [("checkpoint.file", "checkpoint.key_file"), ("checkpoint.key_file", "checkpoint.file")] {
        if !read.is_set(key) && read.is_set(other) {
            read.error(key, format!("is required where `{other}` is set"));
        }
    }
    if file.is_some() && file == key_file {
        read.error("checkpoint.key_file", "must be another file than `checkpoint.file`");
    }
    Some(CheckpointSettings { file: file?, key_file: key_file?, every })
}

/// Path and text of the file that the command line or its variable names; both empty if none does.
fn read_named_file<'a>(
    path: Option<&'a Path>,
    variables: &'a BTreeMap<OsString, OsString>,
) -> Result<(&'a Path, String), ConfigErrors> {
    let from_variable = || variables.get(OsStr::new(FILE_VARIABLE)).map(Path::new);
    match path.or_else(from_variable) {
        Some(path) => Ok((path, reader::read_file(path)?)),
        None => Ok((Path::new(""), String::new())),
    }
}

fn parse_listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:50051\"")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(
            "must be a loopback address: there is no TLS and no authentication yet, so any client that reaches the port could refund",
        )
    }
}

fn parse_scrape_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:9464\"")?;
    let problem = "must be a loopback address: there is no TLS and no authentication";
    if address.ip().is_loopback() { Ok(address) } else { Err(problem) }
}

/// OTLP over gRPC, without TLS.
fn parse_collector(text: &str) -> Result<String, &'static str> {
    let problem = "must be http:// and a host with its port, such as \"http://127.0.0.1:4317\"";
    let url: Url = text.parse().map_err(|_| problem)?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let is_anonymous = url.username().is_empty() && url.password().is_none();
    match (url.scheme(), url.host_str(), url.port()) {
        ("http", Some(host), Some(port)) if is_bare && is_anonymous => Ok(format!("http://{host}:{port}")),
        _ => Err(problem),
    }
}

/// Whether an endpoint that [`parse_collector`] returned is on this machine.
fn is_this_machine(endpoint: &str) -> bool {
    let authority = endpoint.trim_start_matches("http://");
    authority.starts_with("localhost:") || authority.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback())
}

/// Milliseconds in rising order, separated by blanks.
fn parse_durations(text: &str) -> Result<Vec<Duration>, &'static str> {
    let problem = "must be 1 to 20 numbers of milliseconds from 1 to 2592000000, each above the one before, such as \"10000 30000\"";
    let numbers: Vec<u64> =
        text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| problem)?;
    let rising = numbers.is_sorted_by(|one, next| one < next);
    let bounded = numbers.iter().all(|number| (1..=30 * 86_400_000).contains(number));
    if rising && bounded && (1..=20).contains(&numbers.len()) {
        Ok(numbers.into_iter().map(Duration::from_millis).collect())
    } else {
        Err(problem)
    }
}

fn parse_file_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("must name a file") } else { Ok(PathBuf::from(text)) }
}

const fn log_format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn parse_log_format(name: &str) -> Result<LogFormat, &'static str> {
    let format = [LogFormat::Text, LogFormat::Json].into_iter().find(|format| log_format_name(*format) == name);
    format.ok_or("must be \"text\" or \"json\"")
}

/// The levels that a filter may name.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Each directive must end in an exact level. The library would take a misspelt level, or one with
/// a blank beside it, for the name of a target, and silence all others.
fn parse_log_filter(text: &str) -> Result<String, &'static str> {
    let ends_in_level = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if text.split(',').all(ends_in_level) => Ok(text.to_owned()),
        _ => Err(
            "must be a level (off, error, warn, info, debug, trace), alone or after a module and =, such as \"info\" or \"info,recoup::engine=debug\"",
        ),
    }
}

fn account_line(account: &AccountSettings) -> String {
    let provider = account.provider_settings.provider().display_name();
    format!(
        "account {}: {provider} at {}, {}, {} in flight, {}, {} connections for refunds, settled after {}, waits up to {}{}",
        account.name,
        account.endpoint,
        account.currency,
        account.max_in_flight,
        match (account.requests_per_second, account.requests_per_hour) {
            (0, 0) => "no rate limit".to_owned(),
            (rate, 0) => format!("{rate} requests per second"),
            (0, rate) => format!("{rate} requests per hour"),
            (second, hour) => format!("{second} requests per second and {hour} per hour"),
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
