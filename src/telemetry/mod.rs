//! What an operator sees: logs, metrics and traces.
//!
//! ```text
//! logs     to standard error: one line an event, as text for people or as JSON for machines
//! metrics  every metric, declared once
//! process  figures of the process itself
//! scrape   the port that Prometheus reads
//! traces   spans, to a collector
//! ```
//!
//! No secret gets here, and no word of a provider but its codes: its words may name people.

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

use self::logs::Lines;
use self::traces::Exporting;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Why there are no logs or no traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The filter cannot be replaced any more.
    #[error("the log filter cannot be replaced: {0}")]
    Reload(#[from] reload::Error),
    /// Somebody was here before.
    #[error("logs are written already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The exporter cannot be made.
    #[error("traces cannot be sent: {0}")]
    Traces(String),
}

type AnyFilter = Box<dyn Filter<Registry> + Send + Sync>;

/// Logs and traces of the process, as they were begun.
pub struct Telemetry {
    /// Which events are logged.
    pub filter: LogFilter,
    /// The traces' way out.
    pub exporting: Exporting,
}

/// Which events are logged. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<AnyFilter, Registry>);

impl LogFilter {
    /// Another filter from now on.
    ///
    /// # Errors
    /// [`TelemetryError`]: the filter is not one, and the one before stays.
    pub fn replace(&self, filter: &str) -> Result<(), TelemetryError> {
        self.0.reload(filter_of(filter)?)?;
        // What libraries write to the `log` crate is weighed by a level of its own first.
        let most = LevelFilter::current();
        tracing_log::log::set_max_level(tracing_log::AsLog::as_log(&most));
        Ok(())
    }
}

/// Begins to write logs, panics included, for the whole process, and to send traces where
/// `collector` names somebody who takes them.
///
/// In a runtime.
///
/// # Errors
/// [`TelemetryError`]
pub fn init(format: LogFormat, filter: &str, collector: Option<&str>) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter_of(filter)?);
    let is_coloured = std::io::stderr().is_terminal();
    let lines = Lines { format, is_coloured, writer: std::io::stderr }.with_filter(filter);
    let (exporting, tracer) = collector.map(traces::begin).transpose()?.unzip();
    // Our own spans alone: those of the exporter's connection would have to be exported too.
    let ours = Targets::new().with_target("recoup", LevelFilter::DEBUG);
    let spans = tracer.map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(ours)
    });
    Registry::default().with(lines).with(spans).try_init()?;
    // The message of a panic can hold whatever was being handled, secrets included: only its place
    // is told.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "a task panicked: this is a bug");
    }));
    Ok(Telemetry { filter: LogFilter(handle), exporting: exporting.unwrap_or_default() })
}

fn filter_of(directives: &str) -> Result<AnyFilter, TelemetryError> {
    // What the exporter has to say is said once, by traces.rs.
    let filter = EnvFilter::try_new(directives)?.add_directive("opentelemetry=off".parse()?);
    // A line says which refund it is about however few lines there are, unless there are none.
    let is_off = filter.max_level_hint() == Some(LevelFilter::OFF);
    let most = if is_off { LevelFilter::OFF } else { LevelFilter::INFO };
    let spans = filter_fn(move |metadata| {
        metadata.is_span() && metadata.target().starts_with("recoup") && *metadata.level() <= most
    });
    Ok(filter.or(spans.with_max_level_hint(most)).boxed())
}

/// Who it is that is measured and traced.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name("recoup").with_attribute(version).build()
}
