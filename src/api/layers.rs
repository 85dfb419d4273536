//! Around every call: a bound on calls at once, a span, and an answer in our words where the transport or a panic gave one.

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

/// A request of one message, which is not waited for longer than [`MESSAGE_WITHIN`]: until it is there, no handler is, nor its deadline.
struct Prompt {
    of: Body,
    late_at: Instant,
    /// None as long as nothing had to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Calls of the public contract: each asks with one message.
const OURS: &str = "/recoup.v1.";
/// A caller who says which call it is and then nothing, or very little at a time, holds a place all the same.
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
        // A gateway full of callers who wait is well, and must not be taken for dead; nor may those who ask for its health fill it.
        let permit = match timed.is_health() {
            true => None,
            false => match self.guard.calls.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let refusal = status::overloaded("too many calls at once").into_http();
                    return Box::pin(std::future::ready(Ok(timed.answered(refusal))));
                }
            },
        };
        let request_id = format!("{:08x}", self.guard.numbers.fetch_add(1, Ordering::Relaxed));
        let span = if timed.is_health() { Span::none() } else { span_of_call(&mut timed, &request_id, &request) };
        let call = request.uri().path().to_owned();
        // Reflection is a conversation, which may rest.
        let asks_once = timed.is_health() || call.starts_with(OURS);
        let request = request.map(|body| if asks_once { Prompt::body(body) } else { body });
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

impl Prompt {
    fn body(of: Body) -> Body {
        Body::new(Self { of, late_at: Instant::now() + MESSAGE_WITHIN, alarm: None })
    }
}

impl http_body::Body for Prompt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let frame @ Poll::Ready(_) = Pin::new(&mut self.of).poll_frame(context) {
            return frame;
        }
        let late_at = self.late_at;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(late_at)));
        alarm.as_mut().poll(context).map(|()| Some(Err(status::message_missing(MESSAGE_WITHIN))))
    }

    fn is_end_stream(&self) -> bool {
        self.of.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.of.size_hint()
    }
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
    use http_body_util::{BodyExt as _, StreamBody};
    use rstest::rstest;
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
    #[rstest]
    #[case::silent(Duration::from_secs(3_600))]
    #[case::a_little_at_a_time(Duration::from_secs(3))]
    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_is_not_waited_for(#[case] apart: Duration) {
        let parts =
            tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))));
        let parts = tokio_stream::StreamExt::throttle(parts, apart);
        let begin = Instant::now();
        let status = Prompt::body(Body::new(StreamBody::new(parts))).collect().await.map(drop).unwrap_err();
        assert_eq!(begin.elapsed().as_secs(), MESSAGE_WITHIN.as_secs());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
        assert_eq!(reason.as_deref(), Some("DEADLINE"), "nothing was recorded");
    }

    /// Reads its request to the end, which may never come.
    #[derive(Clone)]
    struct Listens;

    impl Service<Request<Body>> for Listens {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            Box::pin(async move {
                drop(request.into_body().collect().await);
                Ok(Response::new(Body::empty()))
            })
        }
    }

    #[tokio::test]
    async fn those_who_ask_for_its_health_do_not_fill_it() {
        let methods = Methods::of(&[tonic_health::pb::FILE_DESCRIPTOR_SET]);
        let mut service = Guard::new(1, Metrics::off(), methods).layer(Listens);
        let silence = || Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>()));
        let request = Request::builder().uri("/grpc.health.v1.Health/Check").body(silence()).unwrap();
        let asks = tokio::spawn(service.call(request));
        let request = Request::builder().uri("/recoup.v1.RefundService/GetRefund").body(Body::empty()).unwrap();
        let answer = service.call(request).await.unwrap_or_else(|never| match never {});
        assert!(Status::from_header_map(answer.headers()).is_none(), "it was let in");
        asks.abort();
    }

    #[tokio::test]
    async fn a_gateway_that_is_full_can_be_asked_for_its_health() {
        let methods = Methods::of(&[tonic_health::pb::FILE_DESCRIPTOR_SET]);
        let mut full = Guard::new(0, Metrics::off(), methods).layer(Panics);
        let answer = answer_to("/grpc.health.v1.Health/Check", &mut full).await;
        assert_eq!(answer.code(), Code::Internal, "its handler was asked");
    }
}
