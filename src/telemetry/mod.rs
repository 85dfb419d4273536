//! What an operator sees: logs, metrics and traces.
//!
//! ```text
//! (here)   logs, to standard error: one line an event, as text for people or as JSON for machines
//! metrics  every metric, declared once
//! process  figures of the process itself
//! scrape   the port that Prometheus reads
//! traces   spans, to a collector
//! ```
//!
//! No secret gets here, and no word of a provider but its codes: its words may name people.

pub mod metrics;
mod process;
pub mod scrape;
pub mod traces;

use std::io::IsTerminal;

use opentelemetry_sdk::Resource;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

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
    /// Somebody was here before.
    #[error("logs are written already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The exporter cannot be made.
    #[error("traces cannot be sent: {0}")]
    Traces(String),
}

/// Begins to write logs, panics included, for the whole process, and to send traces where `collector` names somebody who takes them.
///
/// In a runtime.
///
/// # Errors
/// [`TelemetryError`]
pub fn init(format: LogFormat, filter: &str, collector: Option<&str>) -> Result<Exporting, TelemetryError> {
    // What the exporter has to say is said once, by traces.rs.
    let filter = EnvFilter::try_new(filter)?.add_directive("opentelemetry=off".parse()?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.compact().with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let (exporting, tracer) = collector.map(traces::begin).transpose()?.unzip();
    // Our own spans alone: those of the exporter's connection would have to be exported too.
    let ours = Targets::new().with_target("recoup", LevelFilter::DEBUG);
    let spans = tracer.map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(ours)
    });
    Registry::default().with(lines).with(spans).try_init()?;
    // The message of a panic can hold whatever was being handled, secrets included: only its place is told.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "a task panicked: this is a bug");
    }));
    Ok(exporting.unwrap_or_default())
}

/// Who it is that is measured and traced.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name("recoup").with_attribute(version).build()
}
