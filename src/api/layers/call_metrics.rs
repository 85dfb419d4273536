//! How long each call took and with which code it ended: at its last byte, or when its caller left.

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

/// The methods that there are, as `package.Service/Method`. A metric that held what callers make up
/// would have no end.
#[derive(Clone, Default)]
pub(in crate::api) struct Methods(Arc<BTreeSet<String>>);

/// A call under way. Left in the middle, it is CANCELLED.
pub(in crate::api) struct Timed {
    metrics: Metrics,
    method: String,
    /// Disabled where spans are not sent.
    span: Span,
    start: Instant,
    has_ended: bool,
}

/// An answer whose end is waited for.
struct TimedBody {
    inner: Body,
    call: Timed,
}

/// What the conventions call a method that there is not.
const OTHER: &str = "_OTHER";

impl Methods {
    /// Those of these descriptor sets.
    pub(in crate::api) fn of(descriptors: &[&[u8]]) -> Self {
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

impl Timed {
    /// A call of `path` begins.
    pub(in crate::api) fn begin(metrics: &Metrics, methods: &Methods, path: &str) -> Self {
        let method = methods.name_of(path).to_owned();
        Self { metrics: metrics.clone(), method, span: Span::none(), start: Instant::now(), has_ended: false }
    }

    /// Its name, which is none that the caller has made up.
    pub(in crate::api) fn method(&self) -> &str {
        &self.method
    }

    /// Supervisors ask every few seconds.
    pub(in crate::api) fn is_health(&self) -> bool {
        self.method.starts_with("grpc.health.v1.")
    }

    /// Where spans are sent, the call's has its method's name, is told how the call ends, and ends
    /// no earlier.
    ///
    /// The span has the fields that the conventions name, and has not been entered.
    pub(in crate::api) fn tell(&mut self, span: &Span) {
        if traces::is_on() {
            let method = self.method.as_str();
            span.record("otel.name", method).record("rpc.system.name", "grpc").record("rpc.method", method);
            self.span = span.clone();
        }
    }

    /// It has been answered; where the answer says in its head how it ended, that was the end.
    pub(in crate::api) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        if !self.metrics.is_on() && self.span.is_disabled() {
            return response;
        }
        match code_in(response.headers()) {
            Some(code) => {
                self.end(code);
                response
            }
            None => response.map(|inner| Body::new(TimedBody { inner, call: self })),
        }
    }

    fn end(&mut self, code: Code) {
        if !self.has_ended {
            self.has_ended = true;
            self.metrics.call_ended(&self.method, code_name(code), self.start.elapsed());
            self.span.record("rpc.response.status_code", code_name(code));
            if is_ours(code) {
                self.span.record("otel.status_code", "ERROR");
            }
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.call.end(code);
                }
            }
            Some(Err(status)) => self.call.end(status.code()),
            None => self.call.end(Code::Ok),
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

/// How a call ended whose head says so.
pub(in crate::api) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// What a caller did wrong is no failure of the gateway's.
const fn is_ours(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Standing;

    const NAMED: &str = "recoup.v1.RefundService/CreateRefund";

    fn counted(metrics: &Metrics, method: &str, code: &str) -> bool {
        let text = metrics.scraped(Standing::default()).unwrap();
        let labels = [format!("rpc_method=\"{method}\""), format!("rpc_response_status_code=\"{code}\"")];
        let count = |line: &&str| line.starts_with("rpc_server_call_duration_seconds_count");
        text.lines().filter(count).any(|line| labels.iter().all(|label| line.contains(label)) && line.ends_with(" 1"))
    }

    #[test]
    fn a_call_ends_once_and_under_a_name_that_there_is() {
        let methods = Methods::of(&[crate::api::DESCRIPTORS]);
        let metrics = Metrics::on().unwrap();
        let begin = |path: &str| Timed::begin(&metrics, &methods, path);
        drop(begin("/recoup.v1.RefundService/CreateRefund"));
        assert!(counted(&metrics, NAMED, "CANCELLED"), "its caller has left");
        drop(begin("/made.up/Path").answered(Status::unimplemented("").into_http()));
        assert!(counted(&metrics, "_OTHER", "UNIMPLEMENTED"));
        let streaming = begin("/recoup.v1.RefundService/CreateRefund").answered(Response::new(Body::empty()));
        assert!(!counted(&metrics, NAMED, "OK"));
        drop(streaming);
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_trailers() {
        let metrics = Metrics::on().unwrap();
        let methods = Methods::of(&[crate::api::DESCRIPTORS]);
        let trailers = Status::not_found("").into_http::<Body>().headers().clone();
        let body = http_body_util::StreamBody::new(tokio_stream::iter([
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ]));
        let call = Timed::begin(&metrics, &methods, &format!("/{NAMED}"));
        let mut answer = call.answered(Response::new(Body::new(body))).into_body();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut answer).await {
            frame.unwrap();
        }
        assert!(counted(&metrics, NAMED, "NOT_FOUND"));
    }
}
