//! Every metric, declared once: name, kind, unit, attributes and help text. `docs/metrics.md` has
//! the same list; a test compares the two.
//!
//! ```text
//! counters, histograms  recorded when it happens, through Metrics and AccountMeter
//! gauges                read at each scrape from a GaugeSnapshot
//! ```
//!
//! Names follow OpenTelemetry's semantic conventions if there is one. No attribute contains text
//! from a caller or a provider, so accounts, methods, codes and states bound the number of series.
//!
//! To add a metric: declare a `MetricSpec`, list it in `METRICS`, record it or add it to the
//! snapshot, and add its row to `docs/metrics.md`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use crate::domain::ids::{AccountName, ProviderKind};
use crate::domain::state::State;
use crate::telemetry::process;

/// Instrument of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// A sum that only rises.
    Counter,
    /// The present value.
    Gauge,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// Declaration of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricSpec {
    /// OpenTelemetry name, with dots.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// UCUM unit.
    pub unit: &'static str,
    /// Attribute names; Prometheus calls them labels.
    pub attributes: &'static [&'static str],
    /// One sentence about what is measured.
    pub help: &'static str,
}

/// From the shortest ledger read to the longest wait of a caller.
const CALL_SECONDS: MetricKind =
    MetricKind::Histogram(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
/// From an idle disk to a badly overloaded one.
const SYNC_SECONDS: MetricKind =
    MetricKind::Histogram(&[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0]);
/// From an early lookup to a month of an operator's delay.
const DOUBT_SECONDS: MetricKind = MetricKind::Histogram(&[
    1.0,
    10.0,
    30.0,
    60.0,
    120.0,
    600.0,
    3_600.0,
    21_600.0,
    86_400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
]);
const WRITE_COUNTS: MetricKind = MetricKind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]);

const RPC_CALLS: MetricSpec = MetricSpec {
    name: "rpc.server.call.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["rpc.system.name", "rpc.method", "rpc.response.status_code"],
    help: "Calls of the gRPC server, until their last byte: a stream lasts as long as it is open.",
};
const LIMITED: MetricSpec = MetricSpec {
    name: "recoup.calls.limited",
    kind: MetricKind::Counter,
    unit: "{call}",
    attributes: &["limit"],
    help: "Calls of the gRPC server that one of its limits refused, kept from waiting, or cut.",
};
const HTTP_REQUESTS: MetricSpec = MetricSpec {
    name: "http.client.request.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &[
        "account",
        "error.type",
        "http.request.method",
        "http.response.status_code",
        "kind",
        "server.address",
        "server.port",
    ],
    help: "Requests to providers: kind refund may move money, read does not; error.type not_sent proves that no byte was sent.",
};
const ATTEMPTS: MetricSpec = MetricSpec {
    name: "recoup.attempt.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account", "provider", "outcome"],
    help: "Attempts to refund, by outcome: refunded, accepted, refused, not_sent, unknown.",
};
const LOOKUPS: MetricSpec = MetricSpec {
    name: "recoup.lookup.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account", "provider", "outcome"],
    help: "Lookups of a refund at its provider, by result: an attempt's outcomes, or not_found, unavailable.",
};
const PACING: MetricSpec = MetricSpec {
    name: "recoup.pacing.wait.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account"],
    help: "Waits for the account's rate limiter (requests_per_second, requests_per_hour); accounts without a limit have none.",
};
const DOUBT: MetricSpec = MetricSpec {
    name: "recoup.doubt.duration",
    kind: DOUBT_SECONDS,
    unit: "s",
    attributes: &["account", "state"],
    help: "Time from the start of a refund's doubt to the state that ended it; from the first dispatch if it was sent again.",
};
const REFUNDS: MetricSpec = MetricSpec {
    name: "recoup.refunds",
    kind: MetricKind::Gauge,
    unit: "{refund}",
    attributes: &["account", "state"],
    help: "Refunds in each state, as ListRefunds shows them. PENDING refunds wait to be sent.",
};
const OLDEST_DOUBT: MetricSpec = MetricSpec {
    name: "recoup.doubt.oldest.age",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &["account"],
    help: "Age of the oldest doubt, IN_DOUBT or NEEDS_REVIEW; 0 if there is none.",
};
const OLDEST_PENDING: MetricSpec = MetricSpec {
    name: "recoup.pending.oldest.age",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &["account"],
    help: "Time since the oldest PENDING refund was recorded; 0 if there is none.",
};
const OLDEST_UNAPPROVED: MetricSpec = MetricSpec {
    name: "recoup.approval.oldest.age",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &["account"],
    help: "Time since the oldest AWAITING_APPROVAL refund was recorded; 0 if there is none.",
};
const WAITING: MetricSpec = MetricSpec {
    name: "recoup.refunds.waiting_for_account",
    kind: MetricKind::Gauge,
    unit: "{refund}",
    attributes: &["account"],
    help: "Open refunds whose account is not configured, or has another provider, endpoint, login or currency.",
};
const PAUSED: MetricSpec = MetricSpec {
    name: "recoup.account.paused",
    kind: MetricKind::Gauge,
    unit: "{account}",
    attributes: &["account"],
    help: "1 while the account is paused and sends nothing, else 0.",
};
const CORRECTIONS: MetricSpec = MetricSpec {
    name: "recoup.corrections",
    kind: MetricKind::Counter,
    unit: "{refund}",
    attributes: &["account"],
    help: "FAILED refunds for which the provider later reported that money moved.",
};
const CIRCUIT: MetricSpec = MetricSpec {
    name: "recoup.account.circuit",
    kind: MetricKind::Gauge,
    unit: "{account}",
    attributes: &["account", "state"],
    help: "1 for the present state of the account's circuit breaker, 0 for the others: closed, half_open, open.",
};
const WRITE_QUEUE: MetricSpec = MetricSpec {
    name: "recoup.ledger.queue.length",
    kind: MetricKind::Gauge,
    unit: "{write}",
    attributes: &[],
    help: "Writes that wait for the ledger's writer; at ledger.queue_length CreateRefund answers UNAVAILABLE.",
};
const WRITING: MetricSpec = MetricSpec {
    name: "recoup.ledger.writing",
    kind: MetricKind::Gauge,
    unit: "{ledger}",
    attributes: &[],
    help: "1 while the ledger can write; 0 after it has failed, until the gateway restarts.",
};
const BATCH_SIZE: MetricSpec = MetricSpec {
    name: "recoup.ledger.batch.size",
    kind: WRITE_COUNTS,
    unit: "{write}",
    attributes: &[],
    help: "Writes in one commit.",
};
const COMMITS: MetricSpec = MetricSpec {
    name: "recoup.ledger.commit.duration",
    kind: SYNC_SECONDS,
    unit: "s",
    attributes: &[],
    help: "Commits, including the disk sync.",
};
const CLOCK_AHEAD: MetricSpec = MetricSpec {
    name: "recoup.clock.ahead",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &[],
    help: "How far the times in the ledger are ahead of the machine's clock; 0 unless that clock was set back.",
};
const STREAMS: MetricSpec = MetricSpec {
    name: "recoup.streams",
    kind: MetricKind::Gauge,
    unit: "{stream}",
    attributes: &["method"],
    help: "Open readers of StreamRefundEvents and WatchValidationStatus.",
};
const CONNECTIONS: MetricSpec = MetricSpec {
    name: "recoup.connections",
    kind: MetricKind::Gauge,
    unit: "{connection}",
    attributes: &["listener"],
    help: "Open connections of the gRPC server; 1,024 at most, or fewer where the process may open few files.",
};
const REFUSED_CALLS: MetricSpec = MetricSpec {
    name: "recoup.calls.refused",
    kind: MetricKind::Counter,
    unit: "{call}",
    attributes: &["listener", "reason"],
    help: "Calls refused before their handler: credentials_missing, credentials_invalid, scope_missing, quota_exceeded.",
};
const CLOSED_CONNECTIONS: MetricSpec = MetricSpec {
    name: "recoup.connections.closed",
    kind: MetricKind::Counter,
    unit: "{connection}",
    attributes: &["listener", "reason"],
    help: "Connections that the gateway closed: full, source_full (for another one), idle, silent, stalled.",
};
const FAILED_HANDSHAKES: MetricSpec = MetricSpec {
    name: "recoup.tls.handshakes.failed",
    kind: MetricKind::Counter,
    unit: "{handshake}",
    attributes: &["listener"],
    help: "TLS handshakes that failed, for example because of the client's certificate.",
};
const CERTIFICATE_EXPIRY: MetricSpec = MetricSpec {
    name: "recoup.tls.certificate.remaining",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &["listener"],
    help: "Time until the first certificate of the listener's chain expires.",
};
const CERTIFICATE_OUTDATED: MetricSpec = MetricSpec {
    name: "recoup.tls.certificate.outdated",
    kind: MetricKind::Gauge,
    unit: "{listener}",
    attributes: &["listener"],
    help: "1 while the listener's files hold something that it cannot use, and it goes on with the previous.",
};
const CRL_REMAINING: MetricSpec = MetricSpec {
    name: "recoup.tls.crl.remaining",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &["listener"],
    help: "Time until a revocation list of client certificates expires; negative afterwards, when it goes on counting.",
};
const BUILD: MetricSpec = MetricSpec {
    name: "recoup.build.info",
    kind: MetricKind::Gauge,
    unit: "{process}",
    attributes: &["version"],
    help: "1 for the running version.",
};
const MEMORY: MetricSpec = MetricSpec {
    name: "process.memory.usage",
    kind: MetricKind::Gauge,
    unit: "By",
    attributes: &[],
    help: "Resident memory of the process.",
};
const CPU: MetricSpec = MetricSpec {
    name: "process.cpu.time",
    kind: MetricKind::Counter,
    unit: "s",
    attributes: &["cpu.mode"],
    help: "CPU time of the process: user, system.",
};
const FILES: MetricSpec = MetricSpec {
    name: "process.unix.file_descriptor.count",
    kind: MetricKind::Gauge,
    unit: "{file_descriptor}",
    attributes: &[],
    help: "Open file descriptors of the process.",
};
const UPTIME: MetricSpec = MetricSpec {
    name: "process.uptime",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &[],
    help: "Age of the process.",
};
const START_TIME: MetricSpec = MetricSpec {
    name: "process.start_time",
    kind: MetricKind::Gauge,
    unit: "s",
    attributes: &[],
    help: "Start of the process, in seconds since 1970-01-01T00:00:00Z.",
};

/// All metrics.
pub const METRICS: [MetricSpec; 34] = [
    RPC_CALLS,
    LIMITED,
    HTTP_REQUESTS,
    ATTEMPTS,
    LOOKUPS,
    PACING,
    DOUBT,
    REFUNDS,
    OLDEST_DOUBT,
    OLDEST_PENDING,
    OLDEST_UNAPPROVED,
    WAITING,
    PAUSED,
    CORRECTIONS,
    CIRCUIT,
    WRITE_QUEUE,
    WRITING,
    BATCH_SIZE,
    COMMITS,
    CLOCK_AHEAD,
    STREAMS,
    CONNECTIONS,
    REFUSED_CALLS,
    CLOSED_CONNECTIONS,
    FAILED_HANDSHAKES,
    CERTIFICATE_EXPIRY,
    CERTIFICATE_OUTDATED,
    CRL_REMAINING,
    BUILD,
    MEMORY,
    CPU,
    FILES,
    UPTIME,
    START_TIME,
];

/// The values of all gauges at one moment.
#[derive(Debug, Clone, Default)]
pub struct GaugeSnapshot {
    /// Number of refunds by account and state.
    pub refunds: Vec<(AccountName, State, u64)>,
    /// Age of each account's oldest doubt. None: no refund is in doubt.
    pub oldest_doubts: Vec<(AccountName, Option<Duration>)>,
    /// Age of each account's oldest PENDING refund. None: there is none.
    pub oldest_pending: Vec<(AccountName, Option<Duration>)>,
    /// Age of each account's oldest AWAITING_APPROVAL refund. None: there is none.
    pub oldest_unapproved: Vec<(AccountName, Option<Duration>)>,
    /// Number of each account's refunds that wait for its configuration.
    pub waiting_for_account: Vec<(AccountName, u64)>,
    /// Whether each account is paused.
    pub paused: Vec<(AccountName, bool)>,
    /// State of each account's circuit breaker, one of [`BREAKER_STATES`].
    pub circuits: Vec<(AccountName, &'static str)>,
    /// Writes that wait for the ledger's writer.
    pub write_queue: usize,
    /// Whether the ledger can write.
    pub writing: bool,
    /// How far the engine's clock is ahead of the machine's.
    pub clock_ahead: Duration,
    /// Open readers of the event stream.
    pub event_readers: usize,
    /// Open watches of validation statuses.
    pub watchers: usize,
    /// Open connections by listener.
    pub connections: BTreeMap<Arc<str>, usize>,
    /// Certificates by listener.
    pub certificates: BTreeMap<Arc<str>, CertificateSnapshot>,
}

/// The certificates of a listener at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateSnapshot {
    /// Seconds until the first certificate expires.
    pub remaining_s: f64,
    /// Seconds until the first revocation list expires, if there is one that says so.
    pub crl_remaining_s: Option<f64>,
    /// Whether the files hold something that cannot be used.
    pub is_outdated: bool,
}

/// The limits that [`Metrics::record_limited`] names.
pub const CALL_LIMITS: [&str; 9] = [
    "arriving",
    "calls",
    "event_streams",
    "health_watches",
    "reflections",
    "unread_response",
    "unsent_bytes",
    "waits",
    "watches",
];

/// States of a circuit breaker.
pub const BREAKER_STATES: [&str; 3] = ["closed", "half_open", "open"];

/// Records metrics of the process. Clones share their instruments. Switched off, a call costs one
/// comparison.
#[derive(Clone, Default)]
pub struct Metrics(Option<Arc<Instruments>>);

/// Records metrics of one account.
#[derive(Clone, Default)]
pub struct AccountMeter(Option<Arc<AccountLabels>>);

/// The metrics cannot be set up or rendered.
#[derive(Debug, thiserror::Error)]
#[error("could not set up or render the metrics: {0}")]
pub struct MetricsError(String);

/// How one request to a provider ended.
#[derive(Debug, Clone, Copy)]
pub enum RequestEnd {
    /// With a complete answer of this HTTP status.
    Answered(u16),
    /// Without a complete answer, because of this kind of failure.
    Failed(&'static str),
}

/// HTTP statuses from here on are errors.
const MIN_ERROR_STATUS: u16 = 400;

impl RequestEnd {
    /// OpenTelemetry's `error.type`: the status itself, or the kind of failure.
    pub fn error_type(self) -> Option<Cow<'static, str>> {
        match self {
            RequestEnd::Answered(status) => (status >= MIN_ERROR_STATUS).then(|| status.to_string().into()),
            RequestEnd::Failed(kind) => Some(kind.into()),
        }
    }
}

struct Instruments {
    registry: Registry,
    provider: SdkMeterProvider,
    gauges: Arc<Mutex<GaugeSnapshot>>,
    rpc_calls: Histogram<f64>,
    limited: Counter<u64>,
    http_requests: Histogram<f64>,
    attempts: Histogram<f64>,
    lookups: Histogram<f64>,
    pacing: Histogram<f64>,
    doubt: Histogram<f64>,
    corrections: Counter<u64>,
    refused_calls: Counter<u64>,
    closed_connections: Counter<u64>,
    failed_handshakes: Counter<u64>,
    batch_size: Histogram<u64>,
    commits: Histogram<f64>,
}

/// The instruments with the attributes of one account.
struct AccountLabels {
    instruments: Arc<Instruments>,
    account: KeyValue,
    provider: KeyValue,
    server: [KeyValue; 2],
}

impl Metrics {
    /// Records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Records, to be rendered by [`Metrics::render`].
    ///
    /// # Errors
    /// [`MetricsError`]: a bug, such as two metrics of one name.
    pub fn on() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        // Only the metrics declared here.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build();
        let exporter = exporter.map_err(|error| MetricsError(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("recoup");
        let gauges = Arc::new(Mutex::new(GaugeSnapshot::default()));
        observe_gauges(&meter, &gauges);
        observe_process(&meter);
        let limited = LIMITED.counter(&meter);
        // The series must exist before the first refusal for rate() to see that one.
        CALL_LIMITS.iter().for_each(|limit| limited.add(0, &[KeyValue::new("limit", *limit)]));
        Ok(Self(Some(Arc::new(Instruments {
            rpc_calls: RPC_CALLS.seconds(&meter),
            limited,
            http_requests: HTTP_REQUESTS.seconds(&meter),
            attempts: ATTEMPTS.seconds(&meter),
            lookups: LOOKUPS.seconds(&meter),
            pacing: PACING.seconds(&meter),
            doubt: DOUBT.seconds(&meter),
            corrections: CORRECTIONS.counter(&meter),
            refused_calls: REFUSED_CALLS.counter(&meter),
            closed_connections: CLOSED_CONNECTIONS.counter(&meter),
            failed_handshakes: FAILED_HANDSHAKES.counter(&meter),
            batch_size: BATCH_SIZE.numbers(&meter),
            commits: COMMITS.seconds(&meter),
            registry,
            provider,
            gauges,
        }))))
    }

    /// Whether metrics are recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records metrics of one account, whose provider is at this host and port.
    pub fn for_account(&self, account: &AccountName, provider: ProviderKind, host: &str, port: u16) -> AccountMeter {
        AccountMeter(self.0.as_ref().map(|instruments| {
            let account = KeyValue::new("account", account.to_string());
            // The series must exist before the first correction for rate() to see that one.
            instruments.corrections.add(0, std::slice::from_ref(&account));
            Arc::new(AccountLabels {
                instruments: instruments.clone(),
                account,
                provider: KeyValue::new("provider", provider.as_str()),
                server: [
                    KeyValue::new("server.address", host.to_owned()),
                    KeyValue::new("server.port", i64::from(port)),
                ],
            })
        }))
    }

    /// Records a finished call of the gRPC server. `method` is one of the contract's, or `_OTHER`.
    pub fn record_call(&self, method: &str, code: &'static str, after: Duration) {
        if let Some(instruments) = &self.0 {
            let attributes = [
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", method.to_owned()),
                KeyValue::new("rpc.response.status_code", code),
            ];
            instruments.rpc_calls.record(after.as_secs_f64(), &attributes);
        }
    }

    /// Records calls that were refused before their handler.
    pub fn record_refused_calls(&self, listener: &str, reason: &'static str, count: u64) {
        if let Some(instruments) = &self.0 {
            let attributes = [KeyValue::new("listener", listener.to_owned()), KeyValue::new("reason", reason)];
            instruments.refused_calls.add(count, &attributes);
        }
    }

    /// Records a call that this limit refused, kept from waiting, or cut.
    pub fn record_limited(&self, limit: &'static str) {
        if let Some(instruments) = &self.0 {
            instruments.limited.add(1, &[KeyValue::new("limit", limit)]);
        }
    }

    /// Records that the gateway closed connections.
    pub fn record_closed_connections(&self, listener: &str, reason: &'static str, count: u64) {
        if let Some(instruments) = &self.0 {
            let attributes = [KeyValue::new("listener", listener.to_owned()), KeyValue::new("reason", reason)];
            instruments.closed_connections.add(count, &attributes);
        }
    }

    /// Records TLS handshakes that failed.
    pub fn record_failed_handshakes(&self, listener: &str, count: u64) {
        if let Some(instruments) = &self.0 {
            instruments.failed_handshakes.add(count, &[KeyValue::new("listener", listener.to_owned())]);
        }
    }

    /// Records one commit of the ledger.
    pub fn record_commit(&self, writes: usize, sync: Duration) {
        if let Some(instruments) = &self.0 {
            instruments.batch_size.record(u64::try_from(writes).unwrap_or(u64::MAX), &[]);
            instruments.commits.record(sync.as_secs_f64(), &[]);
        }
    }

    /// Renders all metrics in Prometheus's text format, with the gauges of this snapshot.
    ///
    /// # Errors
    /// [`MetricsError`]: a bug.
    pub fn render(&self, gauges: GaugeSnapshot) -> Result<String, MetricsError> {
        let Some(instruments) = &self.0 else { return Ok(String::new()) };
        *lock(&instruments.gauges) = gauges;
        let mut text = String::new();
        let encoded = TextEncoder::new().encode_utf8(&instruments.registry.gather(), &mut text);
        encoded.map_err(|error| MetricsError(error.to_string()))?;
        Ok(text)
    }
}

impl AccountMeter {
    /// Records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Records an attempt to refund.
    pub fn record_attempt(&self, outcome: &'static str, after: Duration) {
        self.with(|labels| labels.instruments.attempts.record(after.as_secs_f64(), &labels.outcome(outcome)));
    }

    /// Records a lookup.
    pub fn record_lookup(&self, outcome: &'static str, after: Duration) {
        self.with(|labels| labels.instruments.lookups.record(after.as_secs_f64(), &labels.outcome(outcome)));
    }

    /// Records a wait for the rate limiter.
    pub fn record_pacing(&self, wait: Duration) {
        self.with(|labels| labels.instruments.pacing.record(wait.as_secs_f64(), std::slice::from_ref(&labels.account)));
    }

    /// Records a doubt that ended in `state`.
    pub fn record_doubt(&self, state: State, after: Duration) {
        self.with(|labels| {
            let attributes = [labels.account.clone(), KeyValue::new("state", state.as_str())];
            labels.instruments.doubt.record(after.as_secs_f64(), &attributes);
        });
    }

    /// Records that the provider reported a FAILED refund as refunded.
    pub fn record_correction(&self) {
        self.with(|labels| labels.instruments.corrections.add(1, std::slice::from_ref(&labels.account)));
    }

    /// Records an HTTP request to the provider.
    pub fn record_http(&self, method: &str, kind: &'static str, end: RequestEnd, after: Duration) {
        self.with(|labels| {
            let [address, port] = labels.server.clone();
            let mut attributes = vec![
                labels.account.clone(),
                address,
                port,
                KeyValue::new("http.request.method", method.to_owned()),
                KeyValue::new("kind", kind),
            ];
            if let RequestEnd::Answered(status) = end {
                attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            attributes.extend(end.error_type().map(|kind| KeyValue::new("error.type", kind)));
            labels.instruments.http_requests.record(after.as_secs_f64(), &attributes);
        });
    }

    fn with(&self, record: impl FnOnce(&AccountLabels)) {
        if let Some(labels) = &self.0 {
            record(labels);
        }
    }
}

impl AccountLabels {
    fn outcome(&self, outcome: &'static str) -> [KeyValue; 3] {
        [self.account.clone(), self.provider.clone(), KeyValue::new("outcome", outcome)]
    }
}

impl MetricSpec {
    /// The Prometheus name. A histogram's series have the suffixes `_bucket`, `_sum` and `_count`.
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == MetricKind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    fn seconds(&self, meter: &Meter) -> Histogram<f64> {
        let builder = meter.f64_histogram(self.name).with_unit(self.unit).with_description(self.help);
        builder.with_boundaries(self.boundaries()).build()
    }

    fn numbers(&self, meter: &Meter) -> Histogram<u64> {
        let builder = meter.u64_histogram(self.name).with_unit(self.unit).with_description(self.help);
        builder.with_boundaries(self.boundaries()).build()
    }

    fn counter(&self, meter: &Meter) -> Counter<u64> {
        meter.u64_counter(self.name).with_unit(self.unit).with_description(self.help).build()
    }

    fn boundaries(&self) -> Vec<f64> {
        match self.kind {
            MetricKind::Histogram(boundaries) => boundaries.to_vec(),
            MetricKind::Counter | MetricKind::Gauge => Vec::new(),
        }
    }

    /// Registers a gauge whose values come from the last [`GaugeSnapshot`].
    fn observe_gauge(
        &self,
        meter: &Meter,
        gauges: &Arc<Mutex<GaugeSnapshot>>,
        read: impl Fn(&GaugeSnapshot, &mut dyn FnMut(f64, &[KeyValue])) + Send + Sync + 'static,
    ) {
        let gauges = gauges.clone();
        let gauge = meter.f64_observable_gauge(self.name).with_unit(self.unit).with_description(self.help);
        gauge
            .with_callback(move |observer| {
                read(&lock(&gauges), &mut |value, attributes| observer.observe(value, attributes))
            })
            .build();
    }

    /// Registers a gauge of the process; absent if the system does not supply it.
    fn observe_process_value(&self, meter: &Meter, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        let gauge = meter.f64_observable_gauge(self.name).with_unit(self.unit).with_description(self.help);
        gauge.with_callback(move |observer| read().into_iter().for_each(|value| observer.observe(value, &[]))).build();
    }
}

fn observe_gauges(meter: &Meter, gauges: &Arc<Mutex<GaugeSnapshot>>) {
    let account = |name: &AccountName| KeyValue::new("account", name.to_string());
    REFUNDS.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, state, count) in &snapshot.refunds {
            observe(number(*count), &[account(name), KeyValue::new("state", state.as_str())]);
        }
    });
    OLDEST_DOUBT.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, age) in &snapshot.oldest_doubts {
            observe(age.unwrap_or_default().as_secs_f64(), &[account(name)]);
        }
    });
    OLDEST_PENDING.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, age) in &snapshot.oldest_pending {
            observe(age.unwrap_or_default().as_secs_f64(), &[account(name)]);
        }
    });
    OLDEST_UNAPPROVED.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, age) in &snapshot.oldest_unapproved {
            observe(age.unwrap_or_default().as_secs_f64(), &[account(name)]);
        }
    });
    WAITING.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, count) in &snapshot.waiting_for_account {
            observe(number(*count), &[account(name)]);
        }
    });
    PAUSED.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, is_paused) in &snapshot.paused {
            observe(f64::from(u8::from(*is_paused)), &[account(name)]);
        }
    });
    CLOCK_AHEAD.observe_gauge(meter, gauges, |snapshot, observe| observe(snapshot.clock_ahead.as_secs_f64(), &[]));
    CIRCUIT.observe_gauge(meter, gauges, move |snapshot, observe| {
        for (name, present) in &snapshot.circuits {
            for state in BREAKER_STATES {
                observe(f64::from(u8::from(state == *present)), &[account(name), KeyValue::new("state", state)]);
            }
        }
    });
    WRITE_QUEUE.observe_gauge(meter, gauges, |snapshot, observe| observe(number(snapshot.write_queue as u64), &[]));
    WRITING.observe_gauge(meter, gauges, |snapshot, observe| observe(f64::from(u8::from(snapshot.writing)), &[]));
    CONNECTIONS.observe_gauge(meter, gauges, |snapshot, observe| {
        for (listener, count) in &snapshot.connections {
            observe(number(*count as u64), &[KeyValue::new("listener", listener.to_string())]);
        }
    });
    let certificate = |spec: MetricSpec, read: fn(&CertificateSnapshot) -> Option<f64>| {
        spec.observe_gauge(meter, gauges, move |snapshot, observe| {
            for (listener, certificate) in &snapshot.certificates {
                if let Some(value) = read(certificate) {
                    observe(value, &[KeyValue::new("listener", listener.to_string())]);
                }
            }
        });
    };
    certificate(CERTIFICATE_EXPIRY, |certificate| Some(certificate.remaining_s));
    certificate(CERTIFICATE_OUTDATED, |certificate| Some(f64::from(u8::from(certificate.is_outdated))));
    certificate(CRL_REMAINING, |certificate| certificate.crl_remaining_s);
    STREAMS.observe_gauge(meter, gauges, |snapshot, observe| {
        observe(number(snapshot.event_readers as u64), &[KeyValue::new("method", "StreamRefundEvents")]);
        observe(number(snapshot.watchers as u64), &[KeyValue::new("method", "WatchValidationStatus")]);
    });
}

fn observe_process(meter: &Meter) {
    let build = meter.f64_observable_gauge(BUILD.name).with_unit(BUILD.unit).with_description(BUILD.help);
    let version = [KeyValue::new("version", env!("CARGO_PKG_VERSION"))];
    build.with_callback(move |observer| observer.observe(1.0, &version)).build();
    MEMORY.observe_process_value(meter, process::resident_bytes);
    FILES.observe_process_value(meter, process::open_files);
    UPTIME.observe_process_value(meter, || process::start_and_uptime().map(|(_, uptime)| uptime));
    START_TIME.observe_process_value(meter, || process::start_and_uptime().map(|(start, _)| start));
    let counter = meter.f64_observable_counter(CPU.name).with_unit(CPU.unit).with_description(CPU.help);
    let read = |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
        if let Some((user, system)) = process::cpu_seconds() {
            observer.observe(user, &[KeyValue::new("cpu.mode", "user")]);
            observer.observe(system, &[KeyValue::new("cpu.mode", "system")]);
        }
    };
    counter.with_callback(read).build();
}

/// Exact up to 2^53.
fn number(count: u64) -> f64 {
    count as f64
}

fn lock(gauges: &Mutex<GaugeSnapshot>) -> MutexGuard<'_, GaugeSnapshot> {
    gauges.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Instruments {
    fn drop(&mut self) {
        // Only frees memory: no exporter has to flush.
        drop(self.provider.shutdown());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Metrics(on)" } else { "Metrics(off)" })
    }
}

impl fmt::Debug for AccountMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "AccountMeter(on)" } else { "AccountMeter(off)" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_a_unique_prometheus_name_and_a_sentence() {
        let names: BTreeSet<String> = METRICS.iter().map(MetricSpec::prometheus_name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.help.ends_with('.'), "{} has no sentence", metric.name);
        }
    }

    #[test]
    fn gauges_show_the_last_snapshot() {
        let metrics = Metrics::on().unwrap();
        let account = AccountName::parse("main").unwrap();
        for count in [1, 2] {
            let refunds = vec![(account.clone(), State::InDoubt, count)];
            let circuits = vec![(account.clone(), "open")];
            let text = metrics.render(GaugeSnapshot { refunds, circuits, ..GaugeSnapshot::default() }).unwrap();
            for line in [
                format!("recoup_refunds{{account=\"main\",state=\"IN_DOUBT\"}} {count}"),
                "recoup_account_circuit{account=\"main\",state=\"open\"} 1".to_owned(),
                "recoup_account_circuit{account=\"main\",state=\"closed\"} 0".to_owned(),
                "recoup_ledger_writing 0".to_owned(),
            ] {
                assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
            }
        }
    }

    #[test]
    fn metrics_that_are_off_render_nothing() {
        let metrics = Metrics::off();
        metrics.record_commit(1, Duration::ZERO);
        assert_eq!(metrics.render(GaugeSnapshot::default()).unwrap(), "");
    }
}
