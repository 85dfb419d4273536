//! Around every call: a bound on calls at once, a span, and an answer in our words where the transport or a panic gave one.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tower_http::timeout::{TimeoutBody, TimeoutError};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info_span};

use crate::api::measured::{Methods, Timed, code_in};
use crate::api::status;
use crate::proto::code_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// Puts a [`Guarded`] around a service.
#[derive(Clone)]
pub(super) struct Guard {
    calls: Arc<Semaphore>,
    numbers: Arc<AtomicU64>,
    metrics: Metrics,
    methods: Methods,
}

/// A service behind the guard.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Guard,
}

/// Calls of the public contract: each asks with one message.
const OURS: &str = "/recoup.v1.";
/// A caller who says which call it is and then nothing holds a place all the same.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);

impl Guard {
    /// At most `calls` at once, but for those that ask for its health; streams count only while they are being opened.
    pub(super) fn new(calls: usize, metrics: Metrics, methods: Methods) -> Self {
        Self { calls: Arc::new(Semaphore::new(calls)), numbers: Arc::new(AtomicU64::new(1)), metrics, methods }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
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
        let mut timed = Timed::begin(&self.guard.metrics, &self.guard.methods, request.uri().path());
        // The permit is taken here and not in `poll_ready`, where an idle connection would hold one for ever.
        let permit = self.guard.calls.clone().try_acquire_owned();
        // A gateway full of callers who wait is well, and must not be taken for dead.
        if permit.is_err() && !timed.is_health() {
            let refusal = status::overloaded("too many calls at once").into_http();
            return Box::pin(std::future::ready(Ok(timed.answered(refusal))));
        }
        let request_id = format!("{:08x}", self.guard.numbers.fetch_add(1, Ordering::Relaxed));
        let span = if timed.is_health() { Span::none() } else { span_of_call(&mut timed, &request_id, &request) };
        let call = request.uri().path().to_owned();
        let request = request.map(|body| match call.starts_with(OURS) {
            true => prompt(body),
            false => body,
        });
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let work = async move {
            let handled = AssertUnwindSafe(async move { inner.call(request).await }).catch_unwind();
            let answer = status::with_request_id(request_id, async {
                handled.await.unwrap_or_else(|_| {
                    // The panic itself has been logged, in this call's span.
                    debug!("a handler panicked: its caller is told INTERNAL");
                    Ok(status::panicked().into_http())
                })
            })
            .await;
            drop(permit);
            let answer = answer.map(|response| in_our_words(response, &call));
            if let Ok(response) = &answer {
                // A head that does not say how the call ended begins an answer.
                let code = code_in(response.headers()).unwrap_or(Code::Ok);
                debug!(code = code_name(code), "call answered");
            }
            answer.map(|response| timed.answered(response))
        };
        Box::pin(work.instrument(span))
    }
}

/// A body whose next part is not waited for longer than [`MESSAGE_WITHIN`]: until the message is there, no handler is, nor its deadline.
fn prompt(body: Body) -> Body {
    Body::new(TimeoutBody::new(MESSAGE_WITHIN, body).map_err(|error| match error.is::<TimeoutError>() {
        true => status::message_missing().into(),
        false => error,
    }))
}

/// The span of a call, as part of its caller's trace.
fn span_of_call(timed: &mut Timed, request_id: &str, request: &Request<Body>) -> Span {
    let span = info_span!(
        "call",
        method = timed.method(),
        request_id,
        trace_id = Empty,
        otel.kind = Empty,
        otel.name = Empty,
        otel.status_code = Empty,
        rpc.system.name = Empty,
        rpc.method = Empty,
        rpc.response.status_code = Empty
    );
    // Before it is part of a trace: its name is settled then.
    timed.tell(&span);
    traces::accept(&span, request.headers());
    span
}

fn in_our_words(response: Response<Body>, call: &str) -> Response<Body> {
    let refusal = Status::from_header_map(response.headers());
    match refusal.and_then(|refusal| status::of_transport(&refusal, call)) {
        Some(status) => status.into_http(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use tonic_types::StatusExt;

    use super::*;

    #[derive(Clone)]
    struct Panics;

    impl Service<Request<Body>> for Panics {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<Body>) -> Self::Future {
            Box::pin(async { panic!("a handler's bug") })
        }
    }

    async fn answer_of(service: &mut Guarded<Panics>) -> Status {
        answer_to("/recoup.v1.RefundService/GetRefund", service).await
    }

    async fn answer_to(path: &str, service: &mut Guarded<Panics>) -> Status {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = service.call(request).await.unwrap_or_else(|never| match never {});
        Status::from_header_map(answer.headers()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_promises_nothing() {
        let mut service = Guard::new(1, Metrics::off(), Methods::default()).layer(Panics);
        for request_id in ["00000001", "00000002"] {
            let answer = answer_of(&mut service).await;
            assert_eq!(answer.code(), Code::Internal);
            let details = answer.get_error_details();
            assert_eq!(details.request_info().map(|info| info.request_id.as_str()), Some(request_id));
            assert!(details.error_info().is_none(), "the handler may have recorded a refund before");
        }
    }

    #[tokio::test]
    async fn one_call_too_many_is_told_to_come_back() {
        let answer = answer_of(&mut Guard::new(0, Metrics::off(), Methods::default()).layer(Panics)).await;
        assert_eq!(answer.code(), Code::Unavailable);
        let details = answer.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("OVERLOADED"));
        assert!(details.retry_info().is_some());
    }

    /// Without it, as many callers as there are places shut everybody out for as long as they like.
    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_is_not_waited_for() {
        let silence = tokio_stream::pending::<Result<Frame<Bytes>, Status>>();
        let body = Body::new(http_body_util::StreamBody::new(silence));
        let error = prompt(body).collect().await.map(drop).unwrap_err();
        let status = Status::from_error(error.into());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
        assert_eq!(reason.as_deref(), Some("DEADLINE"), "nothing was recorded");
    }

    #[tokio::test]
    async fn a_gateway_that_is_full_can_be_asked_for_its_health() {
        let methods = Methods::of(&[tonic_health::pb::FILE_DESCRIPTOR_SET]);
        let mut full = Guard::new(0, Metrics::off(), methods).layer(Panics);
        let answer = answer_to("/grpc.health.v1.Health/Check", &mut full).await;
        assert_eq!(answer.code(), Code::Internal, "its handler was asked");
    }
}
