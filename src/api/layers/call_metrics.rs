//! Records the duration and the status code of each call, at its last byte or when its caller
//! leaves.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use crate::proto::code_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// The methods of the server, as `package.Service/Method`. Metrics name only these, so that callers
/// cannot create series without bound.
#[derive(Clone, Default)]
pub(in crate::api) struct KnownMethods(Arc<BTreeSet<String>>);

/// Records one call. A call that is dropped before its end is CANCELLED.
pub(in crate::api) struct CallRecorder {
    metrics: Metrics,
    method: String,
    /// Disabled if spans are not sent.
    span: Span,
    start: Instant,
    is_recorded: bool,
}

/// The body of an answer; records the call at the end.
struct RecordedBody {
    inner: Body,
    recorder: CallRecorder,
}

/// The semantic conventions' name for an unknown method.
const OTHER: &str = "_OTHER";

impl KnownMethods {
    /// All methods in these descriptor sets.
    pub(in crate::api) fn from_descriptors(descriptors: &[&[u8]]) -> Self {
        let files = descriptors.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok()).flat_map(|set| set.file);
        let methods = files.flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let service_name = format!("{package}.{}", service.name());
                let methods = service.method.into_iter();
                methods.map(move |method| format!("{service_name}/{}", method.name())).collect::<Vec<_>>()
            })
        });
        Self(Arc::new(methods.collect()))
    }

    fn name_of(&self, path: &str) -> &str {
        self.0.get(path.trim_start_matches('/')).map_or(OTHER, String::as_str)
    }
}

impl CallRecorder {
    /// Starts to record a call of `path`.
    pub(in crate::api) fn start(metrics: &Metrics, methods: &KnownMethods, path: &str) -> Self {
        let method = methods.name_of(path).to_owned();
        Self { metrics: metrics.clone(), method, span: Span::none(), start: Instant::now(), is_recorded: false }
    }

    /// The method's name, or [`OTHER`].
    pub(in crate::api) fn method(&self) -> &str {
        &self.method
    }

    /// Whether the server has the method.
    pub(in crate::api) fn is_known(&self) -> bool {
        self.method != OTHER
    }

    /// Whether the call is a health check. Supervisors send one every few seconds.
    pub(in crate::api) fn is_health_check(&self) -> bool {
        self.method.starts_with("grpc.health.v1.")
    }

    /// If spans are sent, names the call's span after the method, and keeps it open until the call
    /// ends, whose status is recorded in it.
    ///
    /// The span must declare the `otel.*` and `rpc.*` fields, and must not have been entered.
    pub(in crate::api) fn attach_span(&mut self, span: &Span) {
        if traces::is_on() {
            let method = self.method.as_str();
            span.record("otel.name", method).record("rpc.system.name", "grpc").record("rpc.method", method);
            self.span = span.clone();
        }
    }

    /// Records the call's end: now if the headers contain the status, else at the end of the body.
    pub(in crate::api) fn record_answer(mut self, response: Response<Body>) -> Response<Body> {
        if !self.metrics.is_on() && self.span.is_disabled() {
            return response;
        }
        match code_in(response.headers()) {
            Some(code) => {
                self.record_end(code);
                response
            }
            None => response.map(|inner| Body::new(RecordedBody { inner, recorder: self })),
        }
    }

    fn record_end(&mut self, code: Code) {
        if !self.is_recorded {
            self.is_recorded = true;
            self.metrics.record_call(&self.method, code_name(code), self.start.elapsed());
            self.span.record("rpc.response.status_code", code_name(code));
            if is_server_error(code) {
                self.span.record("otel.status_code", "ERROR");
            }
        }
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        self.record_end(Code::Cancelled);
    }
}

impl http_body::Body for RecordedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.recorder.record_end(code);
                }
            }
            Some(Err(status)) => self.recorder.record_end(status.code()),
            None => self.recorder.record_end(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The status code, if the headers contain it.
pub(in crate::api) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// Whether the code means a failure of the gateway, not of the caller.
const fn is_server_error(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::GaugeSnapshot;

    const NAMED: &str = "recoup.v1.RefundService/CreateRefund";

    fn counted(metrics: &Metrics, method: &str, code: &str) -> bool {
        let text = metrics.render(GaugeSnapshot::default()).unwrap();
        let labels = [format!("rpc_method=\"{method}\""), format!("rpc_response_status_code=\"{code}\"")];
        let count = |line: &&str| line.starts_with("rpc_server_call_duration_seconds_count");
        text.lines().filter(count).any(|line| labels.iter().all(|label| line.contains(label)) && line.ends_with(" 1"))
    }

    #[test]
    fn a_call_is_recorded_once_under_a_known_name() {
        let methods = KnownMethods::from_descriptors(&[crate::api::DESCRIPTORS]);
        let metrics = Metrics::on().unwrap();
        let start = |path: &str| CallRecorder::start(&metrics, &methods, path);
        drop(start("/recoup.v1.RefundService/CreateRefund"));
        assert!(counted(&metrics, NAMED, "CANCELLED"), "its caller left");
        drop(start("/made.up/Path").record_answer(Status::unimplemented("").into_http()));
        assert!(counted(&metrics, "_OTHER", "UNIMPLEMENTED"));
        let streaming = start("/recoup.v1.RefundService/CreateRefund").record_answer(Response::new(Body::empty()));
        assert!(!counted(&metrics, NAMED, "OK"));
        drop(streaming);
    }

    #[tokio::test]
    async fn a_stream_is_recorded_with_the_status_in_its_trailers() {
        let metrics = Metrics::on().unwrap();
        let methods = KnownMethods::from_descriptors(&[crate::api::DESCRIPTORS]);
        let trailers = Status::not_found("").into_http::<Body>().headers().clone();
        let body = http_body_util::StreamBody::new(tokio_stream::iter([
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ]));
        let call = CallRecorder::start(&metrics, &methods, &format!("/{NAMED}"));
        let mut answer = call.record_answer(Response::new(Body::new(body))).into_body();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut answer).await {
            frame.unwrap();
        }
        assert!(counted(&metrics, NAMED, "NOT_FOUND"));
    }
}
