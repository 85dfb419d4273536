//! Every metric, declared once: its name, what it counts, in what unit, told apart by what.
//! `docs/metrics.md` holds the same list; a test compares.
//!
//! ```text
//! what happens      recorded where it happens, through Metrics and AccountMeter
//! how things stand  asked for at each scrape, and handed over as a Standing
//! ```
//!
//! Names follow the semantic conventions of OpenTelemetry where there is one. No attribute holds
//! what a caller or a provider wrote: the number of series is bounded by accounts, methods, codes
//! and states.

use std::borrow::Cow;
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

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// How it stands now.
    Gauge,
    /// How often which size was seen, in buckets up to these.
    Histogram(&'static [f64]),
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Declared {
    /// The name, as OpenTelemetry writes names.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// The unit, as UCUM writes units.
    pub unit: &'static str,
    /// What its series are told apart by.
    pub attributes: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// From the shortest read of a ledger to the longest wait of a caller.
const CALL_SECONDS: Kind =
    Kind::Histogram(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
/// From an idle disk to one that is hardly there.
const SYNC_SECONDS: Kind =
    Kind::Histogram(&[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0]);
/// From a look that was lucky to a week of a person's time.
const DOUBT_SECONDS: Kind = Kind::Histogram(&[
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
const WRITES: Kind = Kind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]);

const RPC_CALLS: Declared = Declared {
    name: "rpc.server.call.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["rpc.system.name", "rpc.method", "rpc.response.status_code"],
    help: "Calls of the gRPC port, until their last byte: a stream lasts as long as it is open.",
};
const HTTP_REQUESTS: Declared = Declared {
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
    help: "Requests to providers: kind refund may move money, read does not; error.type not_sent is proof that no byte left.",
};
const ATTEMPTS: Declared = Declared {
    name: "recoup.attempt.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account", "provider", "outcome"],
    help: "Attempts to refund, by what the provider's answer means: refunded, accepted, refused, not_sent, unknown.",
};
const LOOKUPS: Declared = Declared {
    name: "recoup.lookup.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account", "provider", "outcome"],
    help: "Looks at what became of a refund: an attempt's outcomes, or not_found, unavailable.",
};
const PACING: Declared = Declared {
    name: "recoup.pacing.wait.duration",
    kind: CALL_SECONDS,
    unit: "s",
    attributes: &["account"],
    help: "Waits for a request's turn under the account's requests_per_second and requests_per_hour; accounts without either have none.",
};
const DOUBT: Declared = Declared {
    name: "recoup.doubt.duration",
    kind: DOUBT_SECONDS,
    unit: "s",
    attributes: &["account", "state"],
    help: "From the beginning of a refund's doubt to the state that ended it; from its first dispatch where it was sent again.",
};
const REFUNDS: Declared = Declared {
    name: "recoup.refunds",
    kind: Kind::Gauge,
    unit: "{refund}",
    attributes: &["account", "state"],
    help: "Refunds in each state, as ListRefunds shows them. PENDING is what waits to be sent.",
};
const OLDEST_DOUBT: Declared = Declared {
    name: "recoup.doubt.oldest.age",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &["account"],
    help: "How long the oldest doubt has lasted, IN_DOUBT or NEEDS_REVIEW; 0 where there is none.",
};
const OLDEST_PENDING: Declared = Declared {
    name: "recoup.pending.oldest.age",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &["account"],
    help: "How long ago the oldest refund was recorded that still waits to be sent, PENDING; 0 where there is none.",
};
const WAITING: Declared = Declared {
    name: "recoup.refunds.waiting_for_account",
    kind: Kind::Gauge,
    unit: "{refund}",
    attributes: &["account"],
    help: "Open refunds whose account is not configured, or has another provider, endpoint, login or currency.",
};
const CORRECTIONS: Declared = Declared {
    name: "recoup.corrections",
    kind: Kind::Counter,
    unit: "{refund}",
    attributes: &["account"],
    help: "FAILED refunds for which the provider reported later that money moved.",
};
const CIRCUIT: Declared = Declared {
    name: "recoup.account.circuit",
    kind: Kind::Gauge,
    unit: "{account}",
    attributes: &["account", "state"],
    help: "1 for the state that the account's circuit breaker is in, 0 for the others: closed, half_open, open.",
};
const WRITE_QUEUE: Declared = Declared {
    name: "recoup.ledger.queue.length",
    kind: Kind::Gauge,
    unit: "{write}",
    attributes: &[],
    help: "Writes that wait for the ledger's writer; at ledger.queue_length CreateRefund answers UNAVAILABLE.",
};
const WRITING: Declared = Declared {
    name: "recoup.ledger.writing",
    kind: Kind::Gauge,
    unit: "{ledger}",
    attributes: &[],
    help: "1 while the ledger writes; 0 after it has failed, until the gateway is started again.",
};
const BATCH_SIZE: Declared = Declared {
    name: "recoup.ledger.batch.size",
    kind: WRITES,
    unit: "{write}",
    attributes: &[],
    help: "Writes that shared one commit.",
};
const COMMITS: Declared = Declared {
    name: "recoup.ledger.commit.duration",
    kind: SYNC_SECONDS,
    unit: "s",
    attributes: &[],
    help: "Commits, each with its sync of the disk.",
};
const CLOCK_AHEAD: Declared = Declared {
    name: "recoup.clock.ahead",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &[],
    help: "How far the times in the ledger are ahead of the machine's clock; 0 unless that clock was set back.",
};
const STREAMS: Declared = Declared {
    name: "recoup.streams",
    kind: Kind::Gauge,
    unit: "{stream}",
    attributes: &["method"],
    help: "Open readers of StreamRefundEvents and WatchValidationStatus.",
};
const BUILD: Declared = Declared {
    name: "recoup.build.info",
    kind: Kind::Gauge,
    unit: "{process}",
    attributes: &["version"],
    help: "1 for the version of the program that runs.",
};
const MEMORY: Declared = Declared {
    name: "process.memory.usage",
    kind: Kind::Gauge,
    unit: "By",
    attributes: &[],
    help: "Memory of the process that is in RAM.",
};
const CPU: Declared = Declared {
    name: "process.cpu.time",
    kind: Kind::Counter,
    unit: "s",
    attributes: &["cpu.mode"],
    help: "CPU time of the whole process: user, system.",
};
const FILES: Declared = Declared {
    name: "process.unix.file_descriptor.count",
    kind: Kind::Gauge,
    unit: "{file_descriptor}",
    attributes: &[],
    help: "Open file descriptors of the process.",
};
const UPTIME: Declared = Declared {
    name: "process.uptime",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &[],
    help: "How long the process has run.",
};
const START_TIME: Declared = Declared {
    name: "process.start_time",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &[],
    help: "When the process began, in seconds since 1970-01-01T00:00:00Z.",
};

/// Every metric there is.
pub const DECLARED: [Declared; 24] = [
    RPC_CALLS,
    HTTP_REQUESTS,
    ATTEMPTS,
    LOOKUPS,
    PACING,
    DOUBT,
    REFUNDS,
    OLDEST_DOUBT,
    OLDEST_PENDING,
    WAITING,
    CORRECTIONS,
    CIRCUIT,
    WRITE_QUEUE,
    WRITING,
    BATCH_SIZE,
    COMMITS,
    CLOCK_AHEAD,
    STREAMS,
    BUILD,
    MEMORY,
    CPU,
    FILES,
    UPTIME,
    START_TIME,
];

/// How things stand at one moment.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// How many refunds of an account are in a state.
    pub refunds: Vec<(AccountName, State, u64)>,
    /// Since when an account has been in doubt. None: it is not.
    pub oldest_doubts: Vec<(AccountName, Option<Duration>)>,
    /// How long ago an account's oldest refund was recorded that is PENDING. None: none is.
    pub oldest_pending: Vec<(AccountName, Option<Duration>)>,
    /// How many refunds of an account wait for its configuration.
    pub waiting_for_account: Vec<(AccountName, u64)>,
    /// In which of [`BREAKER_STATES`] each account's circuit is.
    pub circuits: Vec<(AccountName, &'static str)>,
    /// Writes that wait for the writer.
    pub write_queue: usize,
    /// The ledger writes.
    pub writing: bool,
    /// How far the engine's clock is ahead of the machine's.
    pub clock_ahead: Duration,
    /// Readers of the event feed.
    pub event_readers: usize,
    /// Watchers of validation statuses.
    pub watchers: usize,
}

/// Where a circuit can be.
pub const BREAKER_STATES: [&str; 3] = ["closed", "half_open", "open"];

/// What measures. Cheap to clone; all clones are one. Switched off, it costs a comparison.
#[derive(Clone, Default)]
pub struct Metrics(Option<Arc<Instruments>>);

/// What measures one account.
#[derive(Clone, Default)]
pub struct AccountMeter(Option<Arc<OfAccount>>);

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be set up: {0}")]
pub struct MetricsError(String);

/// How one request to a provider ended.
#[derive(Debug, Clone, Copy)]
pub enum RequestEnd {
    /// With this HTTP status.
    Answered(u16),
    /// With a fault of this kind.
    Failed(&'static str),
}

/// From this HTTP status on, an answer is an error to whoever asked.
const ERRORS_FROM: u16 = 400;

impl RequestEnd {
    /// The kind of error, as the conventions name it: the status itself, or the fault.
    pub fn error_type(self) -> Option<Cow<'static, str>> {
        match self {
            RequestEnd::Answered(status) => (status >= ERRORS_FROM).then(|| status.to_string().into()),
            RequestEnd::Failed(kind) => Some(kind.into()),
        }
    }
}

struct Instruments {
    registry: Registry,
    provider: SdkMeterProvider,
    standing: Arc<Mutex<Standing>>,
    rpc_calls: Histogram<f64>,
    http_requests: Histogram<f64>,
    attempts: Histogram<f64>,
    lookups: Histogram<f64>,
    pacing: Histogram<f64>,
    doubt: Histogram<f64>,
    corrections: Counter<u64>,
    batch_size: Histogram<u64>,
    commits: Histogram<f64>,
}

struct OfAccount {
    instruments: Arc<Instruments>,
    account: KeyValue,
    provider: KeyValue,
    server: [KeyValue; 2],
}

impl Metrics {
    /// Measures nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Measures, for [`Metrics::scraped`].
    ///
    /// # Errors
    /// [`MetricsError`]: a bug, two metrics of one name.
    pub fn on() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        // Nothing but what is declared here.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build();
        let exporter = exporter.map_err(|error| MetricsError(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("recoup");
        let standing = Arc::new(Mutex::new(Standing::default()));
        observe(&meter, &standing);
        observe_process(&meter);
        Ok(Self(Some(Arc::new(Instruments {
            rpc_calls: RPC_CALLS.seconds(&meter),
            http_requests: HTTP_REQUESTS.seconds(&meter),
            attempts: ATTEMPTS.seconds(&meter),
            lookups: LOOKUPS.seconds(&meter),
            pacing: PACING.seconds(&meter),
            doubt: DOUBT.seconds(&meter),
            corrections: CORRECTIONS.counter(&meter),
            batch_size: BATCH_SIZE.numbers(&meter),
            commits: COMMITS.seconds(&meter),
            registry,
            provider,
            standing,
        }))))
    }

    /// Whether anything is measured.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What measures one account, whose provider is at this host and port.
    pub fn of_account(&self, account: &AccountName, provider: ProviderKind, host: &str, port: u16) -> AccountMeter {
        AccountMeter(self.0.as_ref().map(|instruments| {
            let account = KeyValue::new("account", account.to_string());
            // The series exists from the start, so that a rate sees the first correction.
            instruments.corrections.add(0, std::slice::from_ref(&account));
            Arc::new(OfAccount {
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

    /// A call of the gRPC port has ended. `method` is one of the contract's, or `_OTHER`.
    pub fn call_ended(&self, method: &str, code: &'static str, after: Duration) {
        if let Some(instruments) = &self.0 {
            let attributes = [
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", method.to_owned()),
                KeyValue::new("rpc.response.status_code", code),
            ];
            instruments.rpc_calls.record(after.as_secs_f64(), &attributes);
        }
    }

    /// The ledger has committed so many writes at once.
    pub fn committed(&self, writes: usize, sync: Duration) {
        if let Some(instruments) = &self.0 {
            instruments.batch_size.record(u64::try_from(writes).unwrap_or(u64::MAX), &[]);
            instruments.commits.record(sync.as_secs_f64(), &[]);
        }
    }

    /// Everything, in the text format of Prometheus; how things stand is as told here.
    ///
    /// # Errors
    /// [`MetricsError`]: a bug.
    pub fn scraped(&self, standing: Standing) -> Result<String, MetricsError> {
        let Some(instruments) = &self.0 else { return Ok(String::new()) };
        *lock(&instruments.standing) = standing;
        let mut text = String::new();
        let encoded = TextEncoder::new().encode_utf8(&instruments.registry.gather(), &mut text);
        encoded.map_err(|error| MetricsError(error.to_string()))?;
        Ok(text)
    }
}

impl AccountMeter {
    /// Measures nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// The provider answered an attempt, or did not.
    pub fn attempted(&self, outcome: &'static str, after: Duration) {
        self.with(|of| of.instruments.attempts.record(after.as_secs_f64(), &of.outcome(outcome)));
    }

    /// The provider answered a look, or did not.
    pub fn looked(&self, outcome: &'static str, after: Duration) {
        self.with(|of| of.instruments.lookups.record(after.as_secs_f64(), &of.outcome(outcome)));
    }

    /// A request has waited for its turn.
    pub fn paced(&self, wait: Duration) {
        self.with(|of| of.instruments.pacing.record(wait.as_secs_f64(), std::slice::from_ref(&of.account)));
    }

    /// A doubt has ended in `state`.
    pub fn cleared(&self, state: State, after: Duration) {
        self.with(|of| {
            let attributes = [of.account.clone(), KeyValue::new("state", state.as_str())];
            of.instruments.doubt.record(after.as_secs_f64(), &attributes);
        });
    }

    /// The provider reported a refund that had failed.
    pub fn corrected(&self) {
        self.with(|of| of.instruments.corrections.add(1, std::slice::from_ref(&of.account)));
    }

    /// A request to the provider has ended. `method` is HTTP's.
    pub fn requested(&self, method: &str, kind: &'static str, end: RequestEnd, after: Duration) {
        self.with(|of| {
            let [address, port] = of.server.clone();
            let mut attributes = vec![
                of.account.clone(),
                address,
                port,
                KeyValue::new("http.request.method", method.to_owned()),
                KeyValue::new("kind", kind),
            ];
            if let RequestEnd::Answered(status) = end {
                attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            attributes.extend(end.error_type().map(|kind| KeyValue::new("error.type", kind)));
            of.instruments.http_requests.record(after.as_secs_f64(), &attributes);
        });
    }

    fn with(&self, measure: impl FnOnce(&OfAccount)) {
        if let Some(of) = &self.0 {
            measure(of);
        }
    }
}

impl OfAccount {
    fn outcome(&self, outcome: &'static str) -> [KeyValue; 3] {
        [self.account.clone(), self.provider.clone(), KeyValue::new("outcome", outcome)]
    }
}

impl Declared {
    /// The name under which Prometheus sees it; a histogram's series have `_bucket`, `_sum` and
    /// `_count` after it.
    pub fn scraped_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
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
            Kind::Histogram(boundaries) => boundaries.to_vec(),
            Kind::Counter | Kind::Gauge => Vec::new(),
        }
    }

    /// A gauge whose values are read from the last [`Standing`].
    fn of_standing(
        &self,
        meter: &Meter,
        standing: &Arc<Mutex<Standing>>,
        read: impl Fn(&Standing, &mut dyn FnMut(f64, &[KeyValue])) + Send + Sync + 'static,
    ) {
        let standing = standing.clone();
        let gauge = meter.f64_observable_gauge(self.name).with_unit(self.unit).with_description(self.help);
        gauge.with_callback(move |seen| read(&lock(&standing), &mut |value, of| seen.observe(value, of))).build();
    }

    /// A gauge of the whole process, absent where the system does not tell.
    fn of_process(&self, meter: &Meter, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        let gauge = meter.f64_observable_gauge(self.name).with_unit(self.unit).with_description(self.help);
        gauge.with_callback(move |seen| read().into_iter().for_each(|value| seen.observe(value, &[]))).build();
    }
}

fn observe(meter: &Meter, standing: &Arc<Mutex<Standing>>) {
    let account = |name: &AccountName| KeyValue::new("account", name.to_string());
    REFUNDS.of_standing(meter, standing, move |standing, see| {
        for (name, state, count) in &standing.refunds {
            see(number(*count), &[account(name), KeyValue::new("state", state.as_str())]);
        }
    });
    OLDEST_DOUBT.of_standing(meter, standing, move |standing, see| {
        for (name, age) in &standing.oldest_doubts {
            see(age.unwrap_or_default().as_secs_f64(), &[account(name)]);
        }
    });
    OLDEST_PENDING.of_standing(meter, standing, move |standing, see| {
        for (name, age) in &standing.oldest_pending {
            see(age.unwrap_or_default().as_secs_f64(), &[account(name)]);
        }
    });
    WAITING.of_standing(meter, standing, move |standing, see| {
        for (name, count) in &standing.waiting_for_account {
            see(number(*count), &[account(name)]);
        }
    });
    CLOCK_AHEAD.of_standing(meter, standing, |standing, see| see(standing.clock_ahead.as_secs_f64(), &[]));
    CIRCUIT.of_standing(meter, standing, move |standing, see| {
        for (name, present) in &standing.circuits {
            for position in BREAKER_STATES {
                see(f64::from(u8::from(position == *present)), &[account(name), KeyValue::new("state", position)]);
            }
        }
    });
    WRITE_QUEUE.of_standing(meter, standing, |standing, see| see(number(standing.write_queue as u64), &[]));
    WRITING.of_standing(meter, standing, |standing, see| see(f64::from(u8::from(standing.writing)), &[]));
    STREAMS.of_standing(meter, standing, |standing, see| {
        see(number(standing.event_readers as u64), &[KeyValue::new("method", "StreamRefundEvents")]);
        see(number(standing.watchers as u64), &[KeyValue::new("method", "WatchValidationStatus")]);
    });
}

fn observe_process(meter: &Meter) {
    let build = meter.f64_observable_gauge(BUILD.name).with_unit(BUILD.unit).with_description(BUILD.help);
    let version = [KeyValue::new("version", env!("CARGO_PKG_VERSION"))];
    build.with_callback(move |seen| seen.observe(1.0, &version)).build();
    MEMORY.of_process(meter, process::resident_bytes);
    FILES.of_process(meter, process::open_files);
    UPTIME.of_process(meter, || process::start_and_uptime().map(|(_, uptime)| uptime));
    START_TIME.of_process(meter, || process::start_and_uptime().map(|(start, _)| start));
    let counter = meter.f64_observable_counter(CPU.name).with_unit(CPU.unit).with_description(CPU.help);
    let read = |seen: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
        if let Some((user, system)) = process::cpu_seconds() {
            seen.observe(user, &[KeyValue::new("cpu.mode", "user")]);
            seen.observe(system, &[KeyValue::new("cpu.mode", "system")]);
        }
    };
    counter.with_callback(read).build();
}

/// Exact up to 2^53, which nothing here comes near.
fn number(count: u64) -> f64 {
    count as f64
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Instruments {
    fn drop(&mut self) {
        // It holds nothing that is not in memory.
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
    fn every_name_is_there_once_and_can_be_scraped() {
        let names: BTreeSet<String> = DECLARED.iter().map(Declared::scraped_name).collect();
        assert_eq!(names.len(), DECLARED.len());
        for metric in DECLARED {
            assert!(metric.help.ends_with('.'), "{} has no sentence", metric.name);
        }
    }

    #[test]
    fn how_things_stand_is_what_was_told_last() {
        let metrics = Metrics::on().unwrap();
        let account = AccountName::parse("main").unwrap();
        for count in [1, 2] {
            let refunds = vec![(account.clone(), State::InDoubt, count)];
            let circuits = vec![(account.clone(), "open")];
            let text = metrics.scraped(Standing { refunds, circuits, ..Standing::default() }).unwrap();
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
    fn switched_off_nothing_is_said() {
        let metrics = Metrics::off();
        metrics.committed(1, Duration::ZERO);
        assert_eq!(metrics.scraped(Standing::default()).unwrap(), "");
    }
}
