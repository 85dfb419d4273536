//! Traces: how calls and refunds join a trace, and how spans reach a collector.
//!
//! ```text
//! call (the caller's traceparent)          reconcile, lookup (days later), circuit_probe
//!   commit                                   a trace of their own, linked to the call's
//!   (dispatch, if the refund had to wait)
//!   attempt
//!     provider
//!       http        no traceparent is sent to a provider
//!     commit
//! ```
//!
//! A thread sends the spans from a bounded queue; spans that do not fit are dropped. So a collector
//! that is slow or unreachable does not delay refunds. An outage is logged once when it begins and
//! once when it ends.

use std::fmt;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, trace};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use sha2::{Digest as _, Sha256};
use tracing::field::display;
use tracing::{Span, info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::domain::ids::RefundId;
use crate::telemetry::{TelemetryError, resource};

/// Sends spans to the collector. [`TraceExporter::shutdown`] sends the rest of the queue; dropping
/// does not.
#[derive(Debug, Default)]
pub struct TraceExporter(Option<SdkTracerProvider>);

/// Spans in the queue: a few seconds of a busy gateway, some megabytes.
const MAX_QUEUED_SPANS: usize = 8_192;
const MAX_BATCH_SPANS: usize = 512;
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// A batch that takes longer is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time to send the rest of the queue at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether spans are sent. Global like the subscriber.
static ON: AtomicBool = AtomicBool::new(false);

/// Starts to send spans to the collector at `endpoint`, over gRPC. Must be called within a Tokio
/// runtime.
pub(super) fn start(endpoint: &str) -> Result<(TraceExporter, SdkTracer), TelemetryError> {
    let exporter = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build();
    let exporter = exporter.map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let queue = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED_SPANS)
        .with_max_export_batch_size(MAX_BATCH_SPANS)
        .with_scheduled_delay(BATCH_INTERVAL)
        .build();
    let exporter = ReportOutages { inner: exporter, is_down: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(queue).build())
        // Records nothing if the caller's traceparent is not sampled.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(resource())
        .build();
    let tracer = provider.tracer("recoup");
    ON.store(true, Ordering::Relaxed);
    Ok((TraceExporter(Some(provider)), tracer))
}

impl TraceExporter {
    /// Sends the rest of the queue, within two seconds.
    pub async fn shutdown(self) {
        if let Some(provider) = self.0 {
            ON.store(false, Ordering::Relaxed);
            let shutdown = move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
            // Spans that cannot be sent are lost; an outage is in the log already.
            drop(tokio::task::spawn_blocking(shutdown).await);
        }
    }
}

/// Whether spans are sent.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Puts `span` into the trace that the caller names in `traceparent`, and records the trace id in
/// it.
///
/// The span must not have been entered, and must declare the fields `trace_id` and `otel.kind`.
pub fn accept(span: &Span, headers: &HeaderMap) {
    let caller = span_context_in(&HeaderCarrier(headers));
    if is_on() {
        span.record("otel.kind", "server");
        if let Some(caller) = caller {
            // Fails only if the span has a parent already: a bug whose only cost is a split trace.
            drop(span.set_parent(Context::new().with_remote_span_context(caller)));
        }
        record_trace_id(span);
    } else if let Some(caller) = caller {
        span.record("trace_id", display(caller.trace_id()));
    }
}

/// The current span as a `traceparent`. None if spans are not sent, or this one is not sampled.
pub fn current() -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span();
    let context = span.span_context();
    (context.is_valid() && context.is_sampled()).then(|| traceparent_of(context))
}

/// Puts `span` into the trace in which a refund was created, and records the trace id in it.
///
/// The span must not have been entered, and must declare the field `trace_id`.
pub fn continue_from(span: &Span, traceparent: Option<&str>, refund: &RefundId) {
    if !is_on() {
        return record_refund_trace_id(span, traceparent, refund);
    }
    if let Some(origin) = traceparent.and_then(|text| span_context_in(&TextCarrier(text))) {
        drop(span.set_parent(Context::new().with_remote_span_context(origin)));
    }
    record_trace_id(span);
}

/// Parses a W3C Trace Context `traceparent` and returns it in the form of version 00, without the
/// additions of later versions. None if it is invalid.
pub fn parse_traceparent(text: &str) -> Option<String> {
    span_context_in(&TextCarrier(text)).as_ref().map(traceparent_of)
}

fn traceparent_of(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// If spans are not sent, records in `span` the trace id for the log lines about a refund: the one
/// of `traceparent`, or one derived from the refund's id, which is the same in every line and after
/// every restart and need not be stored.
///
/// The span must declare the field `trace_id`.
pub fn record_refund_trace_id(span: &Span, traceparent: Option<&str>, refund: &RefundId) {
    if !is_on() {
        let named = traceparent.and_then(|text| span_context_in(&TextCarrier(text))).map(|origin| origin.trace_id());
        span.record("trace_id", display(named.unwrap_or_else(|| derived_trace_id(refund))));
    }
}

fn derived_trace_id(refund: &RefundId) -> trace::TraceId {
    let mut first = [0; 16];
    first.iter_mut().zip(Sha256::digest(refund.as_str())).for_each(|(target, byte)| *target = byte);
    trace::TraceId::from_bytes(first)
}

/// Links the current span to the one that `traceparent` names, and records its own trace id in it.
pub fn link(traceparent: Option<&str>) {
    if !is_on() {
        return;
    }
    let span = Span::current();
    record_trace_id(&span);
    if let Some(origin) = traceparent.and_then(|text| span_context_in(&TextCarrier(text))) {
        span.add_link(origin);
    }
}

fn record_trace_id(span: &Span) {
    let trace_id = span.context().span().span_context().trace_id();
    if trace_id != trace::TraceId::INVALID {
        span.record("trace_id", display(trace_id));
    }
}

/// Parses the `traceparent` in `carrier`. None if there is none or it is invalid.
fn span_context_in(carrier: &dyn Extractor) -> Option<SpanContext> {
    carrier.get("traceparent")?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), carrier);
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

struct HeaderCarrier<'a>(&'a HeaderMap);

struct TextCarrier<'a>(&'a str);

impl Extractor for HeaderCarrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(http::HeaderName::from_str(key).ok()?)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Extractor for TextCarrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// An exporter that logs when the collector becomes unreachable and reachable, not for every batch.
struct ReportOutages<E> {
    inner: E,
    is_down: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for ReportOutages<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.inner.export(batch).await;
        match &sent {
            Ok(()) if self.is_down.swap(false, Ordering::Relaxed) => {
                info!("the trace collector is reachable again");
            }
            Err(problem) if !self.is_down.swap(true, Ordering::Relaxed) => {
                warn!(%problem, "could not send traces: they are dropped until the collector is reachable");
            }
            Ok(()) | Err(_) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> fmt::Debug for ReportOutages<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportOutages").field("is_down", &self.is_down).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some("0af7651916cd43dd8448eb211c80319c"))]
    #[case("00-00000000000000000000000000000000-b7ad6b7169203331-01", None)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None)]
    #[case("0af7651916cd43dd8448eb211c80319c", None)]
    #[case("", None)]
    #[case(
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings",
        Some("0af7651916cd43dd8448eb211c80319c")
    )]
    fn a_valid_traceparent_is_read_and_normalized(#[case] text: &str, #[case] trace_id: Option<&str>) {
        let found = span_context_in(&TextCarrier(text)).map(|context| context.trace_id().to_string());
        assert_eq!(found.as_deref(), trace_id);
        let normalized = trace_id.map(|id| format!("00-{id}-b7ad6b7169203331-01"));
        assert_eq!(parse_traceparent(text), normalized, "in the form of version 00");
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", http::HeaderValue::from_str(text).unwrap());
        assert_eq!(
            span_context_in(&HeaderCarrier(&headers)).map(|context| context.trace_id().to_string()).as_deref(),
            trace_id
        );
    }
}
