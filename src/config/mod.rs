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
//! listeners  where the gateway listens besides `listen`
//! changes   what a later read changes in a running gateway
//! permissions  files that others may write
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
//! name begins or ends with `-`, or contains two in a row, can be set in the file only.) An
//! empty variable is a value like any other. An unknown `RECOUP_` variable is an error.
//! Exceptions are `RECOUP_CONFIG`, which names the file if the command line does not,
//! `RECOUP_SERVER`, `RECOUP_TOKEN_FILE` and `RECOUP_CONTEXT`, which commands on a running
//! gateway read, and variables that hold a secret and are named by its key.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::{ApiSettings, ListenerSettings, ProtocolSettings};
use crate::checkpoint::CheckpointSettings;
use crate::domain::ids::AccountName;
use crate::engine::EngineSettings;
use crate::ledger::sqlite::SqliteSettings;
use crate::providers::{AccountSettings, Url};
use crate::telemetry::{LogFormat, TelemetrySettings};
use crate::tls::TlsSettings;
use crate::validation::ValidationSettings;

mod accounts;
pub mod changes;
mod errors;
mod listeners;
mod permissions;
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
    /// Address of the gRPC server's plaintext port; loopback only. Port 0 takes any free port. None
    /// where only `listeners` are set.
    pub listen: Option<SocketAddr>,
    /// `[listeners]`, by name, and `[http]`.
    pub listeners: Vec<ListenerSettings>,
    /// The ledger's database file; relative to the working directory.
    pub ledger_path: PathBuf,
    /// `[access] file`: who may call. None: every caller may do everything.
    pub access_file: Option<PathBuf>,
    /// `[ledger]`
    pub ledger: SqliteSettings,
    /// `[checkpoint]`. None: no checkpoints are signed.
    pub checkpoint: Option<CheckpointSettings>,
    /// From the command line: starts, with every account paused, although the ledger does not fit
    /// its newest checkpoint.
    pub accept_lost_history: bool,
    /// `[log]` and `[traces]`
    pub telemetry: TelemetrySettings,
    /// Address of the metrics endpoint. None: no endpoint, and nothing is measured.
    pub metrics_listen: Option<SocketAddr>,
    /// TLS of the metrics endpoint.
    pub metrics_tls: Option<TlsSettings>,
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
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Some(DEFAULT_LISTEN),
            listeners: Vec::new(),
            ledger_path: PathBuf::from("recoup.db"),
            access_file: None,
            ledger: SqliteSettings::default(),
            checkpoint: None,
            accept_lost_history: false,
            telemetry: TelemetrySettings::default(),
            metrics_listen: None,
            metrics_tls: None,
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

    /// [`Settings::listeners_alone`] with the environment of this process.
    ///
    /// # Errors
    /// Errors of that one setting, or of the file as a whole.
    pub fn listeners_from_process(path: Option<&Path>) -> Result<Vec<ListenerSettings>, ConfigErrors> {
        Self::listeners_alone(path, std::env::vars_os())
    }

    /// The listeners of a gateway with the configuration of [`Settings::load`], the short form
    /// first. Reads no other setting: no account, and no secret.
    ///
    /// # Errors
    /// Errors of these settings, or of the file as a whole.
    pub fn listeners_alone(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<ListenerSettings>, ConfigErrors> {
        let variables: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let (path, text) = read_named_file(path, &variables)?;
        let mut read = Reader::new(path, &text, &variables)?;
        let mut listen = read.names_in("listeners").is_empty().then_some(DEFAULT_LISTEN);
        read.parsed("listen", |text| parse_listen_address(text).map(Some), &mut listen);
        let needs_credentials = read.is_set("access.file");
        let listeners = listeners::read(&mut read, needs_credentials);
        read.finish_early()?;
        Ok(listeners_of(listen, &listeners, needs_credentials))
    }

    /// Every listener, the short form first.
    pub fn all_listeners(&self) -> Vec<ListenerSettings> {
        listeners_of(self.listen, &self.listeners, self.access_file.is_some())
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
            format!(
                "ledger: {}, a queue of {} writes, at most {} writes in one commit",
                self.ledger_path.display(),
                ledger.queue_length,
                ledger.batch_size
            ),
            match &self.access_file {
                Some(path) => format!("access: the callers of {}", path.display()),
                None => "access: every caller may do everything".to_owned(),
            },
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
                Some(address) => {
                    let scheme = if self.metrics_tls.is_some() { "https" } else { "http" };
                    format!("metrics: at {scheme}://{address}/metrics")
                }
                None => "metrics: none".to_owned(),
            },
            match &telemetry.traces_endpoint {
                Some(endpoint) => format!("traces: to {endpoint}"),
                None => "traces: none".to_owned(),
            },
            format!(
                "server: {} worker threads, {} calls at work and {} waiting, {} event streams, {} streams per connection; waits up to \
                 {}, drains for {}",
                self.worker_threads(),
                api.max_calls,
                api.max_waits,
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
                "validation: {} orders cached, {} concurrent requests per account and {} a second, {} watches, at most one poll every {}",
                validation.cache_entries,
                validation.max_concurrent_fetches,
                validation.requests_per_second,
                validation.max_watches,
                seconds(validation.watch_interval_min)
            ),
        ];
        lines.splice(0..0, self.all_listeners().iter().map(listener_line));
        lines.extend(self.accounts.iter().map(account_line));
        lines
    }

    /// Reads `text` as the content of the file at `path`.
    fn read(path: &Path, text: &str, variables: &BTreeMap<OsString, OsString>) -> Result<Self, ConfigErrors> {
        let mut read = Reader::new(path, text, variables)?;
        let settings = Self::from_reader(&mut read, path);
        read.finish()?;
        Ok(settings)
    }

    /// The settings as far as they can be read. Errors are recorded in the reader, and the default
    /// takes the place of a faulty setting.
    fn from_reader(read: &mut Reader<'_>, path: &Path) -> Self {
        let mut settings = Self::default();
        let Self {
            listen,
            listeners,
            metrics_tls,
            ledger_path,
            access_file,
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

        read.section("access");
        *access_file = read.optional("access.file", parse_file_path);
        *listeners = listeners::read(read, read.is_set("access.file"));
        if !read.names_in("listeners").is_empty() {
            *listen = None;
        }
        read.parsed("listen", |text| parse_listen_address(text).map(Some), listen);
        if access_file.is_none() && listeners.is_empty() {
            read.warn("listen", "every user of this machine may refund: set `access.file` to tell callers apart");
        }

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
        let is_taken = |address: &SocketAddr| {
            address.port() != 0
                && (*listen == Some(*address)
                    || listeners.iter().any(|listener| listeners::address_of(listener) == Some(*address)))
        };
        if metrics_listen.is_some_and(|metrics| is_taken(&metrics)) {
            read.error("metrics.listen", "must be another address than that of a gRPC listener");
        }
        *metrics_tls = listeners::metrics_tls(read);
        let mut is_plaintext = false;
        read.flag("metrics.plaintext", &mut is_plaintext);
        match metrics_listen {
            Some(address) if !address.ip().is_loopback() && metrics_tls.is_none() => {
                if is_plaintext {
                    read.warn("metrics.plaintext", "everyone on the network can read the metrics");
                } else {
                    let hint = "is not loopback: set `metrics.certificate_file` and `metrics.key_file`, or \
                                `metrics.plaintext` = true";
                    read.error("metrics.listen", hint);
                }
            }
            _ => {}
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
        read.number("server.max_calls", 1..=100_000, &mut api.max_calls);
        read.number("server.max_waits", 1..=1_000_000, &mut api.max_waits);
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
        read.millis("engine.reconcile_interval_ms", 0..=3_600_000, &mut engine.reconcile_interval);
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
        read.number("validation.requests_per_second", 0..=10_000, &mut validation.requests_per_second);
        read.number("validation.max_watches", 1..=100_000, &mut validation.max_watches);
        read.millis("validation.watch_interval_min_ms", 1..=86_400_000, &mut validation.watch_interval_min);

        (settings.accounts, settings.secret_files) = accounts::read(read);
        settings.report_foreign_writers(read, path);
        settings.entries = Entries(read.texts());
        settings.warnings = read.take_warnings();
        settings
    }
}

impl Settings {
    /// Reports files that others may write.
    fn report_foreign_writers(&self, read: &mut Reader<'_>, path: &Path) {
        if let Some(problem) = permissions::foreign_writer_of(path).filter(|_| !path.as_os_str().is_empty()) {
            match self.listeners.is_empty() {
                true => read.warn_about_file(path, &problem),
                false => read.error_about_file(path, problem),
            }
        }
        let is_reachable = !self.listeners.is_empty();
        let ledger = ("ledger.path".to_owned(), self.ledger_path.as_path());
        let access = self.access_file.iter().map(|path| ("access.file".to_owned(), path.as_path()));
        let secrets = self.secret_files.iter().map(|(name, file)| (format!("accounts.{name}"), file.path()));
        let listeners = self.listeners.iter().flat_map(listeners::files_of);
        let checkpoint = self.checkpoint.iter().flat_map(|checkpoint| {
            let files = [("file", &checkpoint.file), ("key_file", &checkpoint.key_file)];
            files.map(|(name, path)| (format!("checkpoint.{name}"), path.as_path()))
        });
        let metrics = self.metrics_tls.iter().flat_map(|tls| {
            let files = [("certificate_file", &tls.certificate_file), ("key_file", &tls.key_file)];
            files.map(|(name, path)| (format!("metrics.{name}"), path.as_path()))
        });
        let files = std::iter::once(ledger).chain(access).chain(secrets).chain(listeners).chain(checkpoint);
        for (key, path) in files.chain(metrics) {
            match permissions::foreign_writer_of(path) {
                // Who may do what is never left to others.
                Some(problem) if is_reachable || key == "access.file" => read.error(&key, problem),
                Some(problem) => read.warn(&key, &problem),
                None => {}
            }
        }
    }
}

fn listeners_of(
    listen: Option<SocketAddr>,
    listeners: &[ListenerSettings],
    needs_credentials: bool,
) -> Vec<ListenerSettings> {
    let short_form =
        listen.map(|address| ListenerSettings { needs_credentials, ..ListenerSettings::short_form(address) });
    short_form.into_iter().chain(listeners.iter().cloned()).collect()
}

fn listener_line(listener: &ListenerSettings) -> String {
    let (name, place) = (&listener.name, &listener.endpoint);
    let limit = match listener.connections_per_source {
        0 => "any number of connections per source".to_owned(),
        limit => format!("{limit} connections per source"),
    };
    match (name.as_str(), &listener.protocol) {
        (ListenerSettings::SHORT_FORM, _) => format!("listen: {place}, {limit}"),
        (_, ProtocolSettings::Grpc) => format!("listener {name}: {place}, {limit}"),
        (_, ProtocolSettings::Http(http)) => {
            let origins =
                if http.allowed_origins.is_empty() { "none".to_owned() } else { http.allowed_origins.join(" ") };
            format!("JSON endpoint: {place}, {limit}, allowed origins: {origins}")
        }
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
            "must be a loopback address: a port that others reach is a table `[listeners.NAME]`, with a certificate and `access.file`",
        )
    }
}

fn parse_scrape_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:9464\"")?;
    Ok(address)
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
