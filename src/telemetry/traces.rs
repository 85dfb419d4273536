//! Traces: which one a call belongs to, and how they get to a collector.
//!
//! ```text
//! call (the caller's traceparent)          settle, look (days later), way_back
//!   commit                                   a trace of their own, linked to the call's
//!   (dispatch, where it had to wait)
//!   attempt
//!     provider
//!       http        no traceparent leaves for a provider
//!     commit
//! ```
//!
//! Spans wait in a bounded queue and are sent by a thread of their own; where the queue is full
//! they are dropped. So a collector that is slow or gone costs no refund anything. That it is gone
//! is said once, and once that it is back.

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

/// The sending of spans. Ended by [`Exporting::end`], or without a word where it is dropped.
#[derive(Debug, Default)]
pub struct Exporting(Option<SdkTracerProvider>);

/// What waits to be sent: a few seconds of a busy gateway, some megabytes.
const QUEUE: usize = 8_192;
const BATCH: usize = 512;
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// A collector that takes longer has lost the batch.
const SENT_WITHIN: Duration = Duration::from_secs(3);
/// For what is still in the queue at the very end.
const ENDED_WITHIN: Duration = Duration::from_secs(2);

/// Spans are sent. It is the process's, as its log is.
static ON: AtomicBool = AtomicBool::new(false);

/// Begins to send spans to the collector at `endpoint`, over gRPC. In a runtime.
pub(super) fn begin(endpoint: &str) -> Result<(Exporting, SdkTracer), TelemetryError> {
    let exporter = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(SENT_WITHIN).build();
    let exporter = exporter.map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let queue = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(BATCH_EVERY)
        .build();
    let told = Told { inner: exporter, is_gone: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(told).with_batch_config(queue).build())
        // A caller that does not record its trace does not have ours recorded either.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(resource())
        .build();
    let tracer = provider.tracer("recoup");
    ON.store(true, Ordering::Relaxed);
    Ok((Exporting(Some(provider)), tracer))
}

impl Exporting {
    /// Sends what waits, within two seconds.
    pub async fn end(self) {
        if let Some(provider) = self.0 {
            ON.store(false, Ordering::Relaxed);
            let end = move || provider.shutdown_with_timeout(ENDED_WITHIN);
            // What the collector did not take is lost, and that it takes nothing has been said.
            drop(tokio::task::spawn_blocking(end).await);
        }
    }
}

/// Whether spans are sent.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Makes `span`, which has not been entered, part of the trace that the caller names in
/// `traceparent`, and notes the trace's id in it.
///
/// The span has the fields `trace_id` and `otel.kind`.
pub fn accept(span: &Span, headers: &HeaderMap) {
    let caller = context_of(&Headers(headers));
    if is_on() {
        span.record("otel.kind", "server");
        if let Some(caller) = caller {
            // An earlier parent would be a bug, and costs no more than a trace that is torn.
            drop(span.set_parent(Context::new().with_remote_span_context(caller)));
        }
        note_trace(span);
    } else if let Some(caller) = caller {
        span.record("trace_id", display(caller.trace_id()));
    }
}

/// The span that is entered now, as a `traceparent`. None where spans are not sent, or this one is
/// not recorded.
pub fn current() -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span();
    let present = span.span_context();
    (present.is_valid() && present.is_sampled()).then(|| traceparent_of(present))
}

/// Makes `span`, which has not been entered, a part of the trace that a refund was recorded in, and
/// notes the trace's id in it.
///
/// The span has the field `trace_id`.
pub fn continue_from(span: &Span, traceparent: Option<&str>, refund: &RefundId) {
    if !is_on() {
        return note_trace_of(span, traceparent, refund);
    }
    if let Some(origin) = traceparent.and_then(|text| context_of(&Text(text))) {
        drop(span.set_parent(Context::new().with_remote_span_context(origin)));
    }
    note_trace(span);
}

/// What a caller named, if it is as W3C Trace Context writes it: in the form of version 00,
/// whatever a later one adds.
pub fn traceparent_in(text: &str) -> Option<String> {
    context_of(&Text(text)).as_ref().map(traceparent_of)
}

fn traceparent_of(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// Where spans are not sent: notes in `span` which trace the log lines about a refund belong to.
/// That is the one which its caller named, and else one of its own, made from its id: the same in
/// every line and after every start, and nothing has to be kept for it.
///
/// The span has the field `trace_id`.
pub fn note_trace_of(span: &Span, traceparent: Option<&str>, refund: &RefundId) {
    if !is_on() {
        let told = traceparent.and_then(|text| context_of(&Text(text))).map(|origin| origin.trace_id());
        span.record("trace_id", display(told.unwrap_or_else(|| own_trace_of(refund))));
    }
}

fn own_trace_of(refund: &RefundId) -> trace::TraceId {
    let mut first = [0; 16];
    first.iter_mut().zip(Sha256::digest(refund.as_str())).for_each(|(kept, byte)| *kept = byte);
    trace::TraceId::from_bytes(first)
}

/// Links the span that is entered now to the one that `traceparent` names, and notes its own
/// trace's id in it.
pub fn link(traceparent: Option<&str>) {
    if !is_on() {
        return;
    }
    let span = Span::current();
    note_trace(&span);
    if let Some(origin) = traceparent.and_then(|text| context_of(&Text(text))) {
        span.add_link(origin);
    }
}

fn note_trace(span: &Span) {
    let trace_id = span.context().span().span_context().trace_id();
    if trace_id != trace::TraceId::INVALID {
        span.record("trace_id", display(trace_id));
    }
}

/// What a caller said, if it is as W3C Trace Context writes it.
fn context_of(carrier: &dyn Extractor) -> Option<SpanContext> {
    carrier.get("traceparent")?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), carrier);
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

struct Headers<'a>(&'a HeaderMap);

struct Text<'a>(&'a str);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(http::HeaderName::from_str(key).ok()?)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Extractor for Text<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// An exporter that says once when nobody takes its spans, and not with every batch.
struct Told<E> {
    inner: E,
    is_gone: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.inner.export(batch).await;
        match &sent {
            Ok(()) if self.is_gone.swap(false, Ordering::Relaxed) => {
                info!("the collector takes traces again");
            }
            Err(problem) if !self.is_gone.swap(true, Ordering::Relaxed) => {
                warn!(%problem, "the collector takes no traces: they are dropped until it does");
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

impl<E> fmt::Debug for Told<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("is_gone", &self.is_gone).finish_non_exhaustive()
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
    fn a_traceparent_is_read_as_it_is_meant(#[case] text: &str, #[case] trace_id: Option<&str>) {
        let found = context_of(&Text(text)).map(|context| context.trace_id().to_string());
        assert_eq!(found.as_deref(), trace_id);
        let kept = trace_id.map(|id| format!("00-{id}-b7ad6b7169203331-01"));
        assert_eq!(traceparent_in(text), kept, "in a form that fits where it is kept");
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", http::HeaderValue::from_str(text).unwrap());
        assert_eq!(context_of(&Headers(&headers)).map(|context| context.trace_id().to_string()).as_deref(), trace_id);
    }
}
