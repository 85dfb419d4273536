//! Telemetry: metrics that agree with the ledger, traces for a real collector, and log lines that
//! are complete by themselves.

mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use recoup::app::{App, StartError};
use recoup::ledger::sqlite::OpenError;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::telemetry::metrics::{METRICS, MetricKind};
use rstest::rstest;
use simulators::Simulators;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::request::Provider;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::process::Gateway;
use crate::support::{
    LIMIT, SECRETS, Stack, channel, configuration_at, namecom, sample_request, sectigo, settings_of, simulators_in,
    wait_until, without_wait,
};

const METRICS_AND_FAST_LOOKUPS: &str =
    "metrics.listen = \"127.0.0.1:0\"\nengine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 100\n";
const CALLERS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLERS_SPAN: &str = "b7ad6b7169203331";
const CREATE: &str = "recoup.v1.RefundService/CreateRefund";

// Metrics

/// Absent without a listener that has a certificate, and without a refused call.
const ABSENT_METRICS: [&str; 4] = [
    "recoup.calls.refused",
    "recoup.tls.certificate.remaining",
    "recoup.tls.certificate.outdated",
    "recoup.tls.crl.remaining",
];

/// The text of the metrics endpoint.
pub(crate) async fn scrape(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

/// The value of the one series of `name` that has all these labels.
pub(crate) fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
        rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
    };
    let mut found = text.lines().filter(is_it);
    let value = found.next()?.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(found.next(), None, "{name} {labels:?} is several series");
    Some(value)
}

async fn listed(stack: &Stack) -> BTreeMap<(String, String), f64> {
    let request = proto::ListRefundsRequest { page_size: 100, ..Default::default() };
    let page = stack.refunds.clone().list_refunds(request).await.unwrap().into_inner();
    let mut counts = BTreeMap::new();
    for account in ["sectigo", "namecom", "debitsuccess"] {
        for state in recoup::domain::state::State::ALL {
            counts.insert((account.to_owned(), state.to_string()), 0.0);
        }
    }
    for refund in page.refunds {
        let state = refund.state().as_str_name().trim_start_matches("STATE_").to_owned();
        *counts.get_mut(&(refund.account, state)).unwrap() += 1.0;
    }
    counts
}

fn gauged(text: &str) -> BTreeMap<(String, String), f64> {
    let series = text.lines().filter_map(|line| line.strip_prefix("recoup_refunds{"));
    let read = |series: &str| {
        let part = |key: &str| {
            let (_, rest) = series.split_once(&format!("{key}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        ((part("account"), part("state")), series.rsplit(' ').next().unwrap().parse().unwrap())
    };
    series.map(read).collect()
}

#[tokio::test]
async fn every_metric_is_exported_and_the_gauges_agree_with_the_list() {
    let with =
        |configuration: String| configuration.replacen("[accounts", &format!("{METRICS_AND_FAST_LOOKUPS}[accounts"), 1);
    let stack = Stack::start_as(with).await;
    for provider in [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess] {
        stack.refund(sample_request(provider, &format!("plain-{provider:?}")).0).await;
    }
    // A refund whose answer was lost is found; one whose request was lost stays in doubt, since
    // Sectigo's settle time is a day.
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(sectigo("found", "1000002")).await.state(), State::InDoubt);
    stack.until("found", |refund| refund.state() == State::Succeeded).await;
    stack.arm(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(sectigo("lost", "1000003")).await.state(), State::InDoubt);
    assert_eq!(stack.refund(sectigo("again", "1000001-x")).await.state(), State::Failed);
    stack.create(sectigo("same", "1000003")).await.unwrap_err();
    stack.arm(Provider::Namecom, Point::BeforeEffect, unavailable(), Repeat::Once);
    assert_eq!(stack.refund(namecom("unavailable", 200_002, &[3_200_002])).await.state(), State::InDoubt);
    stack.until("unavailable", |refund| refund.state() == State::Succeeded).await;
    let stream = stack.refunds.clone().stream_refund_events(proto::StreamRefundEventsRequest::default()).await.unwrap();

    let text = scrape(stack.app.metrics_addr().unwrap()).await;
    // Certificates have theirs in listeners.rs, callers in caller_access.rs.
    for metric in METRICS.into_iter().filter(|metric| !ABSENT_METRICS.contains(&metric.name)) {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        for line in [
            format!("# TYPE {} {kind}", metric.prometheus_name()),
            format!("# HELP {} {}", metric.prometheus_name(), metric.help),
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\nin\n{text}");
        }
    }
    let undeclared: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| METRICS.iter().all(|metric| metric.prometheus_name() != *name))
        .collect();
    assert!(undeclared.is_empty(), "{undeclared:?}");
    assert_eq!(gauged(&text), listed(&stack).await);
    let is = |name: &str, labels: &[(&str, &str)]| value(&text, name, labels);
    let lost = ("account", "sectigo");
    assert_eq!(is("recoup_attempt_duration_seconds_count", &[lost, ("outcome", "unknown")]), Some(2.0));
    assert_eq!(is("recoup_attempt_duration_seconds_count", &[lost, ("outcome", "refunded")]), Some(1.0));
    assert!(is("recoup_lookup_duration_seconds_count", &[lost, ("outcome", "refunded")]).unwrap() >= 1.0);
    assert_eq!(is("recoup_doubt_duration_seconds_count", &[lost, ("state", "SUCCEEDED")]), Some(1.0));
    assert!(is("recoup_doubt_oldest_age_seconds", &[lost]).unwrap() > 0.0);
    assert_eq!(is("recoup_doubt_oldest_age_seconds", &[("account", "namecom")]), Some(0.0));
    assert_eq!(is("recoup_account_circuit", &[lost, ("state", "closed")]), Some(1.0));
    assert_eq!(is("recoup_streams", &[("method", "StreamRefundEvents")]), Some(1.0));
    assert_eq!(is("recoup_ledger_writing", &[]), Some(1.0));
    assert_eq!(is("recoup_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    assert!(is("recoup_ledger_commit_duration_seconds_count", &[]).unwrap() >= 10.0);
    assert!(is("recoup_pacing_wait_duration_seconds_count", &[("account", "namecom")]).unwrap() >= 1.0);
    let create = ("rpc_method", "recoup.v1.RefundService/CreateRefund");
    let ended = |code| is("rpc_server_call_duration_seconds_count", &[create, ("rpc_response_status_code", code)]);
    assert_eq!((ended("OK"), ended("FAILED_PRECONDITION")), (Some(7.0), Some(1.0)));
    let refund_requests = [lost, ("kind", "refund"), ("error_type", "connection_lost")];
    assert_eq!(is("http_client_request_duration_seconds_count", &refund_requests), Some(2.0));
    let unavailable = [("account", "namecom"), ("http_response_status_code", "503"), ("error_type", "503")];
    assert_eq!(is("http_client_request_duration_seconds_count", &unavailable), Some(1.0));
    drop(stream);

    // Another process on the same ledger counts again, with the same result.
    let Stack { simulators, app, dir, refunds } = stack;
    let before = gauged(&text);
    drop(refunds);
    app.stop().await;
    let configuration = std::fs::read_to_string(dir.path().join("recoup.toml")).unwrap();
    let app = loop {
        match App::start(settings_of(&configuration, dir.path())).await {
            Ok(app) => break app,
            // A process that another test is just starting briefly holds all files of this process.
            Err(StartError::Ledger(OpenError::InUse { .. })) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let refunds = RefundServiceClient::new(channel(app.addr()).await);
    let stack = Stack { simulators, app, refunds, dir };
    let text = scrape(stack.app.metrics_addr().unwrap()).await;
    assert_eq!(gauged(&text), listed(&stack).await);
    assert_eq!(gauged(&text), before);
}

#[tokio::test]
async fn a_suspended_account_shows_in_the_metrics() {
    let stack = Stack::start_with("metrics.listen = \"127.0.0.1:0\"\nengine.circuit_failures = 1").await;
    stack.arm(Provider::Namecom, Point::BeforeEffect, FaultEffect::Close, Repeat::Standing);
    stack.refund(namecom("fails", 200_001, &[3_200_001])).await;
    stack.create(without_wait(namecom("waits", 200_002, &[3_200_002]))).await.unwrap();
    let text = scrape(stack.app.metrics_addr().unwrap()).await;
    assert_eq!(value(&text, "recoup_account_circuit", &[("account", "namecom"), ("state", "open")]), Some(1.0));
    assert_eq!(value(&text, "recoup_refunds", &[("account", "namecom"), ("state", "PENDING")]), Some(1.0));
    let waits = |account| value(&text, "recoup_pending_oldest_age_seconds", &[("account", account)]).unwrap();
    assert!(waits("namecom") > 0.0 && waits("sectigo") == 0.0, "{text}");
    assert_eq!(gauged(&text), listed(&stack).await);
}

#[test]
fn the_documentation_lists_every_metric_and_nothing_else() {
    let manual = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows: BTreeSet<String> = manual
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 5)
        .map(str::to_owned)
        .collect();
    let expected: BTreeSet<String> = METRICS
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram(_) => "histogram",
            };
            let attributes: Vec<String> = metric.attributes.iter().map(|attribute| format!("`{attribute}`")).collect();
            let (name, scraped, attributes) = (metric.name, metric.prometheus_name(), attributes.join(" "));
            format!("| `{name}` | `{scraped}` | {kind} | {} | {attributes} | {} |", metric.unit, metric.help)
        })
        .collect();
    assert_eq!(rows, expected);
}

// Traces

/// A collector of traces.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<watch::Sender<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.send_modify(|received| received.extend(spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector, and returns its address.
    pub(crate) async fn start() -> (Collector, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let collector = Collector::default();
        let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, addr)
    }

    /// All spans so far, once `enough` holds.
    pub(crate) async fn spans(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut received = self.0.subscribe();
        let waited = tokio::time::timeout(LIMIT, received.wait_for(|spans| enough(spans))).await;
        match waited {
            Ok(spans) => spans.unwrap().clone(),
            Err(_) => panic!("not among these: {:#?}", names(&self.0.borrow())),
        }
    }
}

fn names(spans: &[Span]) -> Vec<(&str, String, usize)> {
    spans.iter().map(|span| (span.name.as_str(), hex(&span.trace_id), span.links.len())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a gateway's log.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.0.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    pub(crate) fn count(&self, message: &str) -> usize {
        self.lines().iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message))).count()
    }
}

/// Starts the real binary with this configuration and additional environment variables. Returns its
/// log, too.
pub(crate) fn launch(configuration: &str, dir: &Path, variables: &[(&str, &str)]) -> (Gateway, Log) {
    let path = dir.join("recoup.toml");
    std::fs::write(&path, configuration).unwrap();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_recoup"));
    serve.args(["serve", "--config"]).arg(path).envs(SECRETS).envs(variables.iter().copied());
    let log = Log::default();
    let lines = log.clone();
    let gateway = Gateway::launch(serve, move |line| lines.0.lock().unwrap().push(line.to_owned()));
    (gateway.unwrap_or_else(|log| panic!("the gateway ended: {log:?}")), log)
}

/// A gateway with simulators, and a collector of its spans.
struct ObservedGateway {
    dir: TempDir,
    simulators: Simulators,
    collector: Collector,
    gateway: Gateway,
    log: Log,
    configuration: String,
}

/// Starts all of them, with more settings: top-level TOML.
async fn observed(settings: &str) -> ObservedGateway {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let (collector, addr) = Collector::start().await;
    let settings = format!("traces.endpoint = \"http://{addr}\"\n{settings}");
    let configuration = crate::support::configuration(&simulators, dir.path(), &settings);
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    ObservedGateway { dir, simulators, collector, gateway, log, configuration }
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{CALLERS_TRACE}-{CALLERS_SPAN}-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

async fn get(refunds: &RefundServiceClient<Channel>, name: &str) -> proto::Refund {
    let request = proto::GetRefundRequest { name: name.to_owned() };
    refunds.clone().get_refund(request).await.unwrap().into_inner().refund.unwrap()
}

fn arm_lost_request_at_sectigo(simulators: &Simulators) {
    let rule = Rule::new(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close);
    simulators.arm(Rule { operation: Some("!AutoRefund".to_owned()), repeat: Repeat::Once, ..rule }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_shows_a_refund_and_later_lookups_are_linked_to_it() {
    let ObservedGateway { dir, simulators, collector, gateway, configuration, .. } =
        observed(METRICS_AND_FAST_LOOKUPS).await;
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    arm_lost_request_at_sectigo(&simulators);
    let refund =
        refunds.create_refund(traced(sectigo("traced", "1000001"))).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::InDoubt);

    let of_call = |spans: &[Span]| -> Vec<Span> {
        spans.iter().filter(|span| hex(&span.trace_id) == CALLERS_TRACE).cloned().collect()
    };
    let linked = |spans: &[Span]| -> Vec<Span> {
        let is_linked = |span: &&Span| span.links.iter().any(|link| hex(&link.trace_id) == CALLERS_TRACE);
        spans.iter().filter(is_linked).cloned().collect()
    };
    let is_whole = |spans: &[Span]| {
        let own = of_call(spans);
        let count = |name: &str| own.iter().filter(|span| span.name == name).count();
        [CREATE, "attempt", "provider", "POST"].iter().all(|name| count(name) == 1) && count("commit") >= 2
    };
    let spans = collector.spans(|spans| is_whole(spans) && !linked(spans).is_empty()).await;
    let own = of_call(&spans);
    let named = |name: &str| own.iter().find(|span| span.name == name).unwrap();
    let (call, attempt, provider, post) = (named(CREATE), named("attempt"), named("provider"), named("POST"));
    assert_eq!((hex(&call.parent_span_id).as_str(), call.kind()), (CALLERS_SPAN, SpanKind::Server));
    assert_eq!(attribute(call, "rpc.system.name").as_deref(), Some("grpc"));
    assert_eq!(attribute(call, "rpc.method").as_deref(), Some(CREATE));
    assert_eq!(attribute(call, "rpc.response.status_code").as_deref(), Some("OK"));
    // A refund that had to wait, as at the start, was sent from the queue: in the same trace, with
    // one more span.
    let queued = own.iter().find(|span| span.name == "dispatch" && span.span_id == attempt.parent_span_id);
    assert_eq!(queued.map_or(&attempt.parent_span_id, |span| &span.parent_span_id), &call.span_id);
    assert_eq!(provider.parent_span_id, attempt.span_id);
    assert_eq!((&post.parent_span_id, post.kind()), (&provider.span_id, SpanKind::Client));
    assert_eq!(number(post, "server.port"), Some(simulators.sectigo_addr().port().into()));
    assert_eq!(attribute(post, "error.type").as_deref(), Some("connection_lost"));
    assert_eq!(number(attempt, "attempt"), Some(1));
    let commits: BTreeSet<_> =
        own.iter().filter(|span| span.name == "commit").map(|span| &span.parent_span_id).collect();
    assert!(commits.is_superset(&BTreeSet::from([&call.span_id, &attempt.span_id])), "intent and outcome");
    let reconcile = &linked(&spans)[0];
    assert_eq!((reconcile.name.as_str(), &reconcile.links[0].span_id), ("reconcile", &call.span_id));
    assert_ne!(hex(&reconcile.trace_id), CALLERS_TRACE, "a lookup has a trace of its own");
    let is_answered = |spans: &[Span]| {
        spans.iter().any(|span| span.name == "POST" && number(span, "http.response.status_code") == Some(200))
    };
    let has_lookups = |spans: &[Span]| {
        spans.iter().any(|span| span.events.iter().any(|event| event.attributes.iter().any(|one| one.key == "lookups")))
    };
    let spans = collector.spans(|spans| is_answered(spans) && has_lookups(spans)).await;
    assert_eq!(numbers_as_text(&spans), Vec::<String>::new());
    assert!(gateway.terminate().success());

    // Another process, perhaps days later, finds the trace in the ledger.
    collector.0.send_modify(Vec::clear);
    let (gateway, _) = launch(&configuration, dir.path(), &[]);
    let spans = collector.spans(|spans| linked(spans).iter().any(|span| span.name == "reconcile")).await;
    assert!(linked(&spans).iter().all(|span| span.links[0].span_id == call.span_id));
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let request = proto::ReconcileRefundRequest { name: "refunds/traced".to_owned() };
    refunds.reconcile_refund(request).await.unwrap();
    let reconcile = "recoup.v1.RefundService/ReconcileRefund";
    collector.spans(|spans| linked(spans).iter().any(|span| span.name == reconcile)).await;
}

fn value_of(span: &Span, key: &str) -> Option<any_value::Value> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    match value_of(span, key)? {
        any_value::Value::StringValue(text) => Some(text),
        other => panic!("{key} is {other:?}"),
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    match value_of(span, key)? {
        any_value::Value::IntValue(number) => Some(number),
        other => panic!("{key} is {other:?}"),
    }
}

/// The attributes of spans and of their events that are numbers in a text.
fn numbers_as_text(spans: &[Span]) -> Vec<String> {
    let of_events = spans.iter().flat_map(|span| &span.events).flat_map(|event| &event.attributes);
    let all = spans.iter().flat_map(|span| &span.attributes).chain(of_events);
    let is_one = |attribute: &&KeyValue| {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let ids_and_codes = ["request_id", "trace_id", "code", "detail", "error.type"];
        matches!(value, Some(any_value::Value::StringValue(text)) if text.parse::<i64>().is_ok())
            && !ids_and_codes.contains(&attribute.key.as_str())
    };
    all.filter(is_one).map(|attribute| format!("{attribute:?}")).collect()
}

/// The provider answers 503.
fn unavailable() -> FaultEffect {
    FaultEffect::Answer { status: 503, body: String::new(), headers: Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_provider_and_the_circuit_probe_are_traced() {
    let settings = format!(
        "engine.circuit_failures = 1\nengine.circuit_pause_min_ms = 20\nengine.circuit_pause_max_ms = 40\n{METRICS_AND_FAST_LOOKUPS}"
    );
    let ObservedGateway { dir: _dir, simulators, collector, gateway, log, .. } = observed(&settings).await;
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let rule = Rule::new(Provider::Namecom, Point::BeforeEffect, unavailable());
    let rule = simulators.arm(Rule { repeat: Repeat::Standing, ..rule }).unwrap();
    refunds.create_refund(namecom("fails", 200_001, &[3_200_001])).await.unwrap();
    let waits = without_wait(namecom("waits", 200_002, &[3_200_002]));
    refunds.create_refund(traced(waits)).await.unwrap();
    let is_probe = |span: &&Span| span.name == "circuit_probe" && attribute(span, "refund").as_deref() == Some("waits");
    let spans = collector.spans(|spans| spans.iter().any(|span| is_probe(&span))).await;
    let failed = spans.iter().find(|span| span.name == "POST").unwrap();
    assert_eq!(number(failed, "http.response.status_code"), Some(503));
    assert_eq!(attribute(failed, "error.type").as_deref(), Some("503"));
    assert_eq!(failed.status.as_ref().unwrap().code(), StatusCode::Error);
    let probe = spans.iter().find(is_probe).unwrap();
    assert_eq!(attribute(probe, "account").as_deref(), Some("namecom"));
    assert_eq!(probe.links.iter().map(|link| hex(&link.trace_id)).collect::<Vec<_>>(), [CALLERS_TRACE]);
    let lookups: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == probe.span_id).collect();
    assert!(matches!(lookups.as_slice(), [lookup] if lookup.name == "provider"), "{lookups:?}");
    simulators.with_world(|world| world.faults.disarm(rule));
    assert!(gateway.terminate().success());
    let probed = log.lines().into_iter().find(|line| line["message"] == "probed suspended account").unwrap();
    assert_eq!((&probed["account"], &probed["refund"]), (&"namecom".into(), &"waits".into()), "{probed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_not_a_span_name_and_health_checks_are_not_traced() {
    let ObservedGateway { dir: _dir, simulators: _simulators, collector, gateway, log, .. } =
        observed("log.filter = \"recoup=debug\"").await;
    let connection = channel(gateway.addr).await;
    HealthClient::new(connection.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let made_up = "made-up".repeat(700);
    let path = http::uri::PathAndQuery::try_from(format!("/{made_up}/Nothing")).unwrap();
    let mut grpc = tonic::client::Grpc::new(connection.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<proto::GetRefundRequest, proto::GetRefundResponse>::default();
    let refusal = grpc.unary(Request::new(proto::GetRefundRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unimplemented);
    RefundServiceClient::new(connection).create_refund(sectigo("last", "1000001")).await.unwrap();
    let spans = collector.spans(|spans| spans.iter().any(|span| span.name == CREATE)).await;
    let calls: Vec<&Span> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    assert_eq!(calls.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["_OTHER", CREATE]);
    assert_eq!(attribute(calls[0], "method").as_deref(), Some("_OTHER"));
    assert_eq!(calls[0].status.clone().unwrap_or_default().code(), StatusCode::Unset, "it is an error of the caller");
    assert!(!format!("{spans:?}").contains("made-up") && !log.text().contains("made-up"));
    assert!(gateway.terminate().success());
}

/// The head of the first request, which gets no answer.
async fn first_request(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut received = Vec::new();
    while !received.windows(4).any(|four| four == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
    }
    String::from_utf8_lossy(&received).to_lowercase()
}

#[rstest]
#[case::namecom(Provider::Namecom)]
#[case::debitsuccess(Provider::Debitsuccess)]
#[case::sectigo(Provider::Sectigo)]
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_context_is_sent_to_providers(#[case] provider: Provider) {
    let dir = tempfile::tempdir().unwrap();
    let (_collector, collecting) = Collector::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = format!("traces.endpoint = \"http://{collecting}\"");
    let configuration = configuration_at(addr, addr, addr, dir.path(), &settings);
    let configuration = configuration
        .replace("https://", "http://")
        .lines()
        .filter(|line| !line.starts_with("ca_file"))
        .collect::<Vec<_>>()
        .join("\n");
    let (gateway, _) = launch(&configuration, dir.path(), &[]);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let mut request = traced(sample_request(provider, "quiet").0);
    request.metadata_mut().insert("tracestate", "caller=1".parse().unwrap());
    request.metadata_mut().insert("baggage", "caller=1".parse().unwrap());
    let (head, answer) = tokio::join!(first_request(listener), refunds.create_refund(request));
    answer.unwrap();
    assert!(head.starts_with("post "), "{head}");
    for text in ["traceparent", "tracestate", "baggage", CALLERS_TRACE, "caller=1"] {
        assert!(!head.contains(text), "{text} in {head}");
    }
}

/// A listener in place of a collector: it closes connections, or never answers.
async fn fake_collector(closes: bool) -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            if !closes {
                held.push(stream);
            }
        }
    });
    (addr, counted)
}

#[rstest]
#[case::closes(true, 4)]
#[case::never_answers(false, 1)]
#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_there_is_one_warning_and_refunds_are_processed(
    #[case] closes: bool,
    #[case] tries: usize,
) {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let (addr, mut counted) = fake_collector(closes).await;
    let settings = format!("traces.endpoint = \"http://{addr}\"");
    let configuration = crate::support::configuration(&simulators, dir.path(), &settings);
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    let refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let create_refunds = async {
        let mut number = 0;
        loop {
            number += 1;
            let request = sectigo(&format!("r-{number}"), &format!("{}", 1_000_000 + number));
            let refund = refunds.clone().create_refund(request).await.unwrap().into_inner().refund.unwrap();
            assert_eq!(refund.state(), State::Succeeded);
            // Enough refunds, so that there are spans in every batch.
            if number > 20 && log.count("could not send traces") > 0 && *counted.borrow_and_update() >= tries {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, create_refunds).await.unwrap();
    assert!(gateway.terminate().success());
    assert_eq!(log.count("could not send traces"), 1, "{}", log.text());
}
