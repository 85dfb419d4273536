//! Around every call: a bound on calls at once, a span, and an answer in our words where the
//! transport or a panic gave one.

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

use crate::api::layers::call_metrics::{Methods, Timed, code_in};
use crate::api::layers::compression;
use crate::api::{layers::grpc_only, status};
use crate::proto::code_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// Puts a [`Guarded`] around a service.
#[derive(Clone)]
pub(in crate::api) struct Guard {
    calls: Arc<Semaphore>,
    numbers: Arc<AtomicU64>,
    metrics: Metrics,
    methods: Methods,
}

/// A service behind the guard.
#[derive(Clone)]
pub(in crate::api) struct Guarded<S> {
    inner: S,
    guard: Guard,
}

/// A request of one message, which is not waited for longer than [`MESSAGE_WITHIN`]: until it is
/// there, no handler is, nor its deadline.
struct Prompt {
    of: Body,
    late_at: Instant,
    /// None as long as nothing had to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Calls of the public contract: each asks with one message.
const OURS: &str = "/recoup.v1.";
/// A caller who says which call it is and then nothing, or very little at a time, holds a place all
/// the same.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);

impl Guard {
    /// At most `calls` at once, but for those that ask for its health; streams count only while
    /// they are being opened.
    pub(in crate::api) fn new(calls: usize, metrics: Metrics, methods: Methods) -> Self {
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
        if let Some(refusal) = grpc_only::refusal(&request) {
            let answer = timed.answered(refusal);
            return Box::pin(async move {
                grpc_only::read_off(request.into_body()).await;
                Ok(answer)
            });
        }
        let takes_gzip = compression::is_accepted(request.headers());
        // The permit is taken here and not in `poll_ready`, where an idle connection would hold one
        // for ever. A gateway full of callers who wait is well, and must not be taken for dead; nor
        // may those who ask for its health fill it.
        let is_health = timed.is_health();
        let permit = if is_health {
            None
        } else if let Ok(permit) = self.guard.calls.clone().try_acquire_owned() {
            Some(permit)
        } else {
            let refusal = status::overloaded("too many calls at once").into_http();
            return Box::pin(std::future::ready(Ok(timed.answered(refusal))));
        };
        let request_id = format!("{:08x}", self.guard.numbers.fetch_add(1, Ordering::Relaxed));
        let span = if is_health { Span::none() } else { span_of_call(&mut timed, &request_id, &request) };
        let call = request.uri().path().to_owned();
        // Reflection is a conversation, which may rest.
        let asks_once = is_health || call.starts_with(OURS);
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
            let answer = if takes_gzip { answer.map(compression::compress) } else { answer };
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
    use tower::service_fn;

    use super::*;

    async fn panics(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        panic!("a handler's bug")
    }

    /// Reads its request to the end, which may never come.
    async fn listens(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        drop(request.into_body().collect().await);
        Ok(Response::new(Body::empty()))
    }

    const GET: &str = "/recoup.v1.RefundService/GetRefund";
    const CHECK: &str = "/grpc.health.v1.Health/Check";

    fn guard(calls: usize) -> Guard {
        Guard::new(calls, Metrics::off(), Methods::of(&[tonic_health::pb::FILE_DESCRIPTOR_SET]))
    }

    fn request(path: &str, body: Body) -> Request<Body> {
        let request = Request::post(path).header("content-type", "application/grpc");
        request.body(body).unwrap()
    }

    /// None where the answer's head does not say how the call ended.
    async fn answer_to<S>(path: &str, service: &mut S) -> Option<Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let answer = service.call(request(path, Body::empty())).await.unwrap_or_else(|never| match never {});
        Status::from_header_map(answer.headers())
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_promises_nothing() {
        let mut service = guard(1).layer(service_fn(panics));
        for request_id in ["00000001", "00000002"] {
            let answer = answer_to(GET, &mut service).await.unwrap();
            assert_eq!(answer.code(), Code::Internal);
            let details = answer.get_error_details();
            assert_eq!(details.request_info().map(|info| info.request_id.as_str()), Some(request_id));
            assert!(details.error_info().is_none(), "the handler may have recorded a refund before");
        }
    }

    #[tokio::test]
    async fn one_call_too_many_is_told_to_come_back() {
        let answer = answer_to(GET, &mut guard(0).layer(service_fn(panics))).await.unwrap();
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

    #[tokio::test]
    async fn those_who_ask_for_its_health_do_not_fill_it() {
        let mut service = guard(1).layer(service_fn(listens));
        let silence = Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>()));
        let asks = tokio::spawn(service.call(request(CHECK, silence)));
        assert!(answer_to(GET, &mut service).await.is_none(), "it was let in");
        asks.abort();
    }

    #[tokio::test]
    async fn a_gateway_that_is_full_can_be_asked_for_its_health() {
        let answer = answer_to(CHECK, &mut guard(0).layer(service_fn(panics))).await.unwrap();
        assert_eq!(answer.code(), Code::Internal, "its handler was asked");
    }

    #[tokio::test]
    async fn what_is_not_grpc_is_read_before_it_is_answered() {
        let mut service = guard(1).layer(service_fn(listens));
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
