//! Logs, metrics and traces for the operator.
//!
//! ```text
//! logs     to standard error: one line per event, as text or as JSON
//! metrics  every metric, declared once
//! process  memory, CPU time and files of the process
//! scrape   the endpoint that Prometheus reads
//! traces   spans, sent to a collector
//! ```
//!
//! Contains no secret, and of a provider's answers only the codes: its messages may name people.

mod logs;
pub mod metrics;
mod process;
pub mod scrape;
pub mod traces;

use std::io::IsTerminal;

use opentelemetry_sdk::Resource;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::logs::LogLayer;
use self::traces::TraceExporter;

/// The settings of logs and traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// The form of a log line.
    pub log_format: LogFormat,
    /// Selects the logged events: directives of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// The collector that receives traces, as `http://host:port`. None: no traces.
    pub traces_endpoint: Option<String>,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log_format: LogFormat::Text, log_filter: "info".to_owned(), traces_endpoint: None }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `TIME LEVEL spans: message field=value`
    Text,
    /// One JSON object.
    Json,
}

/// Why there are no logs or no traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The subscriber is gone.
    #[error("the log filter cannot be replaced: {0}")]
    Reload(#[from] reload::Error),
    /// The process has a subscriber already.
    #[error("logging is set up already: {0}")]
    AlreadyInitialized(#[from] tracing_subscriber::util::TryInitError),
    /// The exporter cannot be created.
    #[error("could not set up the trace exporter: {0}")]
    Traces(String),
}

type AnyFilter = Box<dyn Filter<Registry> + Send + Sync>;

/// Handles on the logs and traces of the process.
pub struct Telemetry {
    /// Selects the logged events.
    pub filter: LogFilter,
    /// To be ended before the process exits.
    pub exporter: TraceExporter,
}

/// Replaces the log filter while the process runs. Clones share the filter.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<AnyFilter, Registry>);

impl LogFilter {
    /// Applies another filter from now on.
    ///
    /// # Errors
    /// [`TelemetryError`]: the filter cannot be parsed, and the previous one stays.
    pub fn replace(&self, filter: &str) -> Result<(), TelemetryError> {
        self.0.reload(parse_filter(filter)?)?;
        // Records of libraries that use the `log` crate are filtered by that crate's level first.
        let most = LevelFilter::current();
        tracing_log::log::set_max_level(tracing_log::AsLog::as_log(&most));
        Ok(())
    }
}

/// Sets up the logs of the process, panics included, and traces if `settings` name a collector.
/// Must be called within a Tokio runtime.
///
/// # Errors
/// [`TelemetryError`]
pub fn init(settings: &TelemetrySettings) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&settings.log_filter)?);
    let is_coloured = std::io::stderr().is_terminal();
    let logs = LogLayer { format: settings.log_format, is_coloured, writer: std::io::stderr }.with_filter(filter);
    let (exporter, tracer) = settings.traces_endpoint.as_deref().map(traces::start).transpose()?.unzip();
    // Only our own spans: exporting the spans of the exporter's connection would never end.
    let ours = Targets::new().with_target("recoup", LevelFilter::DEBUG);
    let spans = tracer.map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(ours)
    });
    Registry::default().with(logs).with(spans).try_init()?;
    // A panic's message can contain the data being processed, secrets included: log only the place.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "a task panicked: this is a bug");
    }));
    Ok(Telemetry { filter: LogFilter(handle), exporter: exporter.unwrap_or_default() })
}

fn parse_filter(directives: &str) -> Result<AnyFilter, TelemetryError> {
    // traces.rs reports problems of the exporter, once each.
    let filter = EnvFilter::try_new(directives)?.add_directive("opentelemetry=off".parse()?);
    // It warns of each connection that floods it: a peer could fill the log.
    let filter = if directives.contains("h2") { filter } else { filter.add_directive("h2=off".parse()?) };
    // Spans are kept at every log level, so that each line names its refund; not if logs are off.
    let is_off = filter.max_level_hint() == Some(LevelFilter::OFF);
    let most = if is_off { LevelFilter::OFF } else { LevelFilter::INFO };
    let spans = filter_fn(move |metadata| {
        metadata.is_span() && metadata.target().starts_with("recoup") && *metadata.level() <= most
    });
    Ok(filter.or(spans.with_max_level_hint(most)).boxed())
}

/// Names this service and its version in traces.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name("recoup").with_attribute(version).build()
}
