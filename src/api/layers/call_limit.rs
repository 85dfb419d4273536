//! Limits concurrent calls, gives each call a span, and replaces the answers of the transport and
//! of panics by statuses of the contract.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info_span};

use crate::api::layers::call_metrics::{CallRecorder, KnownMethods, code_in};
use crate::api::layers::compression;
use crate::api::{layers::grpc_only, status};
use crate::proto::code_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// Wraps services in a [`CallLimit`].
#[derive(Clone)]
pub(in crate::api) struct CallLimitLayer {
    permits: Arc<Semaphore>,
    next_request_id: Arc<AtomicU64>,
    metrics: Metrics,
    methods: KnownMethods,
}

/// A service with limited calls.
#[derive(Clone)]
pub(in crate::api) struct CallLimit<S> {
    inner: S,
    layer: CallLimitLayer,
}

/// The body of a request with one message, which must arrive within [`MESSAGE_TIMEOUT`]. Handlers
/// start, and apply the caller's deadline, only after the message has arrived.
struct BodyDeadline {
    inner: Body,
    deadline: Instant,
    /// None until the body has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Prefix of the calls of the public contract. Each has one request message.
const CONTRACT_PREFIX: &str = "/recoup.v1.";
/// Limits callers that open a call and then send nothing, or very slowly: they occupy a permit.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

impl CallLimitLayer {
    /// Allows `max_calls` concurrent calls. Health checks do not count, and streams count only
    /// while they are being opened.
    pub(in crate::api) fn new(max_calls: usize, metrics: Metrics, methods: KnownMethods) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_calls)),
            next_request_id: Arc::new(AtomicU64::new(1)),
            metrics,
            methods,
        }
    }
}

impl<S> Layer<S> for CallLimitLayer {
    type Service = CallLimit<S>;

    fn layer(&self, inner: S) -> CallLimit<S> {
        CallLimit { inner, layer: self.clone() }
    }
}

impl<S> Service<Request<Body>> for CallLimit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut recorder = CallRecorder::start(&self.layer.metrics, &self.layer.methods, request.uri().path());
        if let Some(rejection) = grpc_only::rejection(&request) {
            let answer = recorder.record_answer(rejection);
            return Box::pin(async move {
                grpc_only::drain(request.into_body()).await;
                Ok(answer)
            });
        }
        let accepts_gzip = compression::is_accepted(request.headers());
        // The permit is acquired here and not in `poll_ready`, where an idle connection would hold
        // one forever. Health checks need none: a gateway full of waiting callers is healthy, and
        // health checks must not fill it.
        let is_health = recorder.is_health_check();
        let permit = if is_health {
            None
        } else if let Ok(permit) = self.layer.permits.clone().try_acquire_owned() {
            Some(permit)
        } else {
            let refusal = status::overloaded("too many concurrent calls").into_http();
            return Box::pin(std::future::ready(Ok(recorder.record_answer(refusal))));
        };
        let request_id = format!("{:08x}", self.layer.next_request_id.fetch_add(1, Ordering::Relaxed));
        let span = if is_health { Span::none() } else { call_span(&mut recorder, &request_id, &request) };
        let call = request.uri().path().to_owned();
        // Reflection is a bidirectional stream that may pause.
        let sends_one_message = is_health || call.starts_with(CONTRACT_PREFIX);
        let request = request.map(|body| if sends_one_message { BodyDeadline::wrap(body) } else { body });
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let work = async move {
            let handled = AssertUnwindSafe(async move { inner.call(request).await }).catch_unwind();
            let answer = status::with_request_id(request_id, async {
                handled.await.unwrap_or_else(|_| {
                    // The panic hook has logged the panic, in this call's span.
                    debug!("a handler panicked: answering INTERNAL");
                    Ok(status::panicked().into_http())
                })
            })
            .await;
            drop(permit);
            let answer = answer.map(|response| normalize_transport_error(response, &call));
            let answer = if accepts_gzip { answer.map(compression::compress) } else { answer };
            if let Ok(response) = &answer {
                // Headers without a status start a successful answer.
                let code = code_in(response.headers()).unwrap_or(Code::Ok);
                debug!(code = code_name(code), "call answered");
            }
            answer.map(|response| recorder.record_answer(response))
        };
        Box::pin(work.instrument(span))
    }
}

impl BodyDeadline {
    fn wrap(inner: Body) -> Body {
        Body::new(Self { inner, deadline: Instant::now() + MESSAGE_TIMEOUT, timer: None })
    }
}

impl http_body::Body for BodyDeadline {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let frame @ Poll::Ready(_) = Pin::new(&mut self.inner).poll_frame(context) {
            return frame;
        }
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(context).map(|()| Some(Err(status::message_missing(MESSAGE_TIMEOUT))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The span of a call, in its caller's trace.
fn call_span(recorder: &mut CallRecorder, request_id: &str, request: &Request<Body>) -> Span {
    let span = info_span!(
        "call",
        method = recorder.method(),
        request_id,
        trace_id = Empty,
        otel.kind = Empty,
        otel.name = Empty,
        otel.status_code = Empty,
        rpc.system.name = Empty,
        rpc.method = Empty,
        rpc.response.status_code = Empty
    );
    // Before the span joins a trace, which fixes its name.
    recorder.attach_span(&span);
    traces::accept(&span, request.headers());
    span
}

fn normalize_transport_error(response: Response<Body>, call: &str) -> Response<Body> {
    let refusal = Status::from_header_map(response.headers());
    match refusal.and_then(|refusal| status::from_transport(&refusal, call)) {
        Some(status) => status.into_http(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use rstest::rstest;
    use tonic_types::StatusExt;
    use tower::service_fn;

    use super::*;

    async fn panics(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        panic!("a handler's bug")
    }

    /// Reads its request to the end, which may never arrive.
    async fn reads_request(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        drop(request.into_body().collect().await);
        Ok(Response::new(Body::empty()))
    }

    const GET: &str = "/recoup.v1.RefundService/GetRefund";
    const CHECK: &str = "/grpc.health.v1.Health/Check";

    fn layer(max_calls: usize) -> CallLimitLayer {
        CallLimitLayer::new(
            max_calls,
            Metrics::off(),
            KnownMethods::from_descriptors(&[tonic_health::pb::FILE_DESCRIPTOR_SET]),
        )
    }

    fn request(path: &str, body: Body) -> Request<Body> {
        let request = Request::post(path).header("content-type", "application/grpc");
        request.body(body).unwrap()
    }

    /// None if the answer's headers contain no status.
    async fn answer_to<S>(path: &str, service: &mut S) -> Option<Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let answer = service.call(request(path, Body::empty())).await.unwrap_or_else(|never| match never {});
        Status::from_header_map(answer.headers())
    }

    #[tokio::test]
    async fn a_panic_is_answered_without_guarantees() {
        let mut service = layer(1).layer(service_fn(panics));
        for request_id in ["00000001", "00000002"] {
            let answer = answer_to(GET, &mut service).await.unwrap();
            assert_eq!(answer.code(), Code::Internal);
            let details = answer.get_error_details();
            assert_eq!(details.request_info().map(|info| info.request_id.as_str()), Some(request_id));
            assert!(details.error_info().is_none(), "the handler may have recorded a refund before");
        }
    }

    #[tokio::test]
    async fn a_call_above_the_limit_is_asked_to_retry() {
        let answer = answer_to(GET, &mut layer(0).layer(service_fn(panics))).await.unwrap();
        assert_eq!(answer.code(), Code::Unavailable);
        let details = answer.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("OVERLOADED"));
        assert!(details.retry_info().is_some());
    }

    /// Otherwise a few slow callers could occupy all permits as long as they like.
    #[rstest]
    #[case::silent(Duration::from_secs(3_600))]
    #[case::a_little_at_a_time(Duration::from_secs(3))]
    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_in_time_ends_the_call(#[case] interval: Duration) {
        let parts =
            tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))));
        let parts = tokio_stream::StreamExt::throttle(parts, interval);
        let begin = Instant::now();
        let status = BodyDeadline::wrap(Body::new(StreamBody::new(parts))).collect().await.map(drop).unwrap_err();
        assert_eq!(begin.elapsed().as_secs(), MESSAGE_TIMEOUT.as_secs());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
        assert_eq!(reason.as_deref(), Some("DEADLINE"), "nothing was recorded");
    }

    #[tokio::test]
    async fn health_checks_do_not_use_permits() {
        let mut service = layer(1).layer(service_fn(reads_request));
        let silence = Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>()));
        let check = tokio::spawn(service.call(request(CHECK, silence)));
        assert!(answer_to(GET, &mut service).await.is_none(), "it was admitted");
        check.abort();
    }

    #[tokio::test]
    async fn a_full_gateway_answers_health_checks() {
        let answer = answer_to(CHECK, &mut layer(0).layer(service_fn(panics))).await.unwrap();
        assert_eq!(answer.code(), Code::Internal, "its handler ran");
    }

    #[tokio::test]
    async fn a_request_that_is_not_grpc_is_read_before_it_is_answered() {
        let mut service = layer(1).layer(service_fn(reads_request));
        let (sender, frames) = tokio::sync::mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, Status>>(1);
        let frames = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
        let body = Body::new(StreamBody::new(frames));
        let request = Request::post(GET).header("content-type", "text/plain").body(body).unwrap();
        let mut answer = service.call(request);
        assert!(futures_util::poll!(&mut answer).is_pending(), "the request has not ended");
        drop(sender);
        assert_eq!(answer.await.unwrap().status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
