//! Answers a call: reads its message, acquires its permits, gives it a span, and replaces the
//! answers of the transport and of panics by statuses of the contract.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info_span};

use crate::api::connection::{ConnectionHandle, StreamGuard};
use crate::api::http2::StreamCut;
use crate::api::layers::call_metrics::{CallRecorder, KnownMethods, code_in};
use crate::api::layers::caller_share::RETRY_HELD;
use crate::api::layers::compression;
use crate::api::layers::permits::{CallClass, CallPermit, CallerKey, PermitLimits, Permits, QueueEntry, Refusal};
use crate::api::layers::{grpc_only, request_message, response_parts};
use crate::api::{MAX_HEALTH_BYTES, MAX_REFLECTION_BYTES, MAX_REQUEST_BYTES, status};
use crate::proto::code_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

/// Wraps services in a [`CallLimit`].
#[derive(Clone)]
pub(in crate::api) struct CallLimitLayer {
    permits: Permits,
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

/// The body of a response, which holds the call's permits until the peer has taken it.
struct PermitBody {
    inner: Body,
    permit: CallPermit,
    /// Whether the permit knows the size.
    is_sized: bool,
    _unread: Option<QueueEntry>,
    connection: Option<CallConnection>,
}

/// The connection of a call in progress, which is not closed for another one.
struct CallConnection {
    handle: ConnectionHandle,
    _stream: StreamGuard,
}

impl CallLimitLayer {
    pub(in crate::api) fn new(limits: PermitLimits, metrics: Metrics, methods: KnownMethods) -> Self {
        Self {
            permits: Permits::new(limits, metrics.clone()),
            next_request_id: Arc::new(AtomicU64::new(1)),
            metrics,
            methods,
        }
    }

    /// Reads the call's message and acquires its permits.
    ///
    /// # Errors
    /// The answer of a call that is not served.
    async fn admit(
        &self,
        class: CallClass,
        request: Request<Body>,
    ) -> Result<(Request<Body>, CallPermit, Option<CallConnection>), Status> {
        let (mut head, body) = request.into_parts();
        let cut = head.extensions.get_or_insert_default::<StreamCut>().clone();
        let body = if class == CallClass::Unknown {
            body
        } else {
            let _arriving = self.permits.arrive(&cut);
            match class {
                CallClass::Reflection => request_message::read_first(body, MAX_REFLECTION_BYTES).await?,
                CallClass::HealthCheck | CallClass::HealthWatch => {
                    request_message::read_one(body, MAX_HEALTH_BYTES).await?
                }
                _ => request_message::read_one(body, MAX_REQUEST_BYTES).await?,
            }
        };
        // Only now: a connection whose calls have sent no message may be closed for another one.
        let connection = match head.extensions.get::<ConnectionHandle>() {
            Some(handle) => {
                let stream = handle.begin_stream().ok_or_else(|| status::overloaded("too many connections"))?;
                Some(CallConnection { handle: handle.clone(), _stream: stream })
            }
            None => None,
        };
        let permit = self.permits.acquire(class, head.extensions.get::<CallerKey>(), &cut).await;
        let permit = permit.map_err(|refusal| match refusal {
            Refusal::Full(_, what) => status::overloaded(what),
            Refusal::Share(limit) => {
                let caller = head.extensions.get::<CallerKey>().map_or("", |caller| &caller.0);
                status::quota_exceeded(caller, limit, RETRY_HELD)
            }
        })?;
        head.extensions.insert(permit.clone());
        Ok((Request::from_parts(head, body), permit, connection))
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
        let call = request.uri().path().to_owned();
        let class = if recorder.is_known() { CallClass::of(&call) } else { CallClass::Unknown };
        let layer = self.layer.clone();
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let (request, permit, connection) = match layer.admit(class, request).await {
                Ok(admitted) => admitted,
                Err(refusal) => return Ok(recorder.record_answer(refusal.into_http())),
            };
            let cut = request.extensions().get::<StreamCut>().cloned().unwrap_or_default();
            let request_id = format!("{:08x}", layer.next_request_id.fetch_add(1, Ordering::Relaxed));
            let is_health = recorder.is_health_check();
            let span = if is_health { Span::none() } else { call_span(&mut recorder, &request_id, &request) };
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
                let answer = answer.map(|response| normalize_transport_error(response, &call));
                let answer = answer.map(|response| response_parts::send(response, accepts_gzip));
                let answer = if accepts_gzip { answer.map(compression::compress) } else { answer };
                if let Ok(response) = &answer {
                    // Headers without a status start a successful answer.
                    let code = code_in(response.headers()).unwrap_or(Code::Ok);
                    debug!(code = code_name(code), "call answered");
                }
                answer.map(|response| recorder.record_answer(response))
            };
            let answer = work.instrument(span).await;
            answer.map(|response| {
                response.map(|inner| match http_body::Body::is_end_stream(&inner) {
                    true => {
                        if let Some(connection) = &connection
                            && class != CallClass::Unknown
                        {
                            connection.handle.mark_completed_call();
                        }
                        inner
                    }
                    false => {
                        let unread = layer.permits.begin_response(class, &cut);
                        Body::new(PermitBody { inner, permit, is_sized: false, _unread: unread, connection })
                    }
                })
            })
        })
    }
}

impl http_body::Body for PermitBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            if !std::mem::replace(&mut self.is_sized, true) {
                // A body that knows its size has the rest of it in memory. It stays counted to the
                // end: the JSON endpoint takes it as a whole before the peer does.
                let rest = self.inner.size_hint().exact().and_then(|rest| usize::try_from(rest).ok());
                self.permit.set_unsent(data.len().saturating_add(rest.unwrap_or_default()));
            }
        } else if frame.is_ready()
            && let Some(connection) = &self.connection
        {
            connection.handle.mark_completed_call();
        }
        frame
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
    use std::time::Duration;

    use http_body_util::{BodyExt as _, StreamBody};
    use rstest::rstest;
    use tonic_types::StatusExt;
    use tower::service_fn;

    use super::*;

    async fn panics(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        panic!("a handler's bug")
    }

    /// Reads its request to the end, and answers with a message.
    async fn answers(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        drop(request.into_body().collect().await);
        Ok(Response::new(Body::new(
            http_body_util::Full::new(Bytes::from_static(b"x")).map_err(|never| match never {}),
        )))
    }

    /// Only waits, as soon as it begins.
    async fn waits(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        match request.extensions().get::<CallPermit>().unwrap().release_for_wait() {
            true => std::future::pending().await,
            false => Ok(status::overloaded("too many wait").into_http()),
        }
    }

    const GET: &str = "/recoup.v1.RefundService/GetRefund";
    const CREATE: &str = "/recoup.v1.RefundService/CreateRefund";
    const LIST: &str = "/recoup.v1.RefundService/ListRefunds";
    const STREAM: &str = "/recoup.v1.RefundService/StreamRefundEvents";
    const CHECK: &str = "/grpc.health.v1.Health/Check";

    fn layer(calls: usize, waits: usize) -> CallLimitLayer {
        CallLimitLayer::new(
            PermitLimits { calls, waits, event_streams: 8, status_watches: 8 },
            Metrics::off(),
            KnownMethods::from_descriptors(&[crate::api::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]),
        )
    }

    fn request(path: &str, body: Body) -> Request<Body> {
        let request = Request::post(path).header("content-type", "application/grpc");
        request.body(body).unwrap()
    }

    fn silence() -> Body {
        Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>()))
    }

    async fn call<S>(request: Request<Body>, service: &mut S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        service.call(request).await.unwrap_or_else(|never| match never {})
    }

    /// None if the answer's headers contain no status.
    async fn answer_to<S>(path: &str, service: &mut S) -> Option<Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        Status::from_header_map(call(request(path, Body::empty()), service).await.headers())
    }

    fn reason_of(status: &Status) -> Option<String> {
        status.get_error_details().error_info().map(|info| info.reason.clone())
    }

    #[tokio::test]
    async fn a_panic_is_answered_without_guarantees() {
        let mut service = layer(1, 1).layer(service_fn(panics));
        for request_id in ["00000001", "00000002"] {
            let answer = answer_to(GET, &mut service).await.unwrap();
            assert_eq!(answer.code(), Code::Internal);
            let details = answer.get_error_details();
            assert_eq!(details.request_info().map(|info| info.request_id.as_str()), Some(request_id));
            assert!(details.error_info().is_none(), "the handler may have recorded a refund before");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_above_the_limit_is_asked_to_retry() {
        let answer = answer_to(GET, &mut layer(0, 1).layer(service_fn(panics))).await.unwrap();
        assert_eq!(answer.code(), Code::Unavailable);
        assert_eq!(reason_of(&answer).as_deref(), Some("OVERLOADED"));
        assert!(answer.get_error_details().retry_info().is_some());
    }

    /// Headers alone take up nothing that a call with a message needs, and too many of them cut the
    /// oldest.
    #[tokio::test]
    async fn calls_without_a_message_hold_no_permit() {
        let mut service = layer(1, 1).layer(service_fn(answers));
        let (mut cuts, mut silent) = (Vec::new(), Vec::new());
        for _ in 0..1_025 {
            let (cut, mut headers_only) = (StreamCut::default(), request(CREATE, silence()));
            headers_only.extensions_mut().insert(cut.clone());
            let mut call = service.call(headers_only);
            assert!(futures_util::poll!(&mut call).is_pending());
            cuts.push(cut);
            silent.push(call);
        }
        assert!(answer_to(GET, &mut service).await.is_none(), "it was admitted");
        let cut = cuts.iter().filter(|cut| cut.0.is_cancelled()).count();
        assert_eq!(cut, 2, "one for the last silent call and one for the call with a message");
        assert!(cuts[0].0.is_cancelled() && cuts[1].0.is_cancelled(), "the oldest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_held_until_the_response_has_been_taken() {
        let mut service = layer(1, 1).layer(service_fn(answers));
        let response = call(request(GET, Body::empty()), &mut service).await;
        let refused = answer_to(GET, &mut service).await.unwrap();
        assert_eq!(reason_of(&refused).as_deref(), Some("OVERLOADED"));
        drop(response);
        assert!(answer_to(GET, &mut service).await.is_none());
    }

    /// Callers that do not read their responses do not keep others out.
    #[tokio::test(start_paused = true)]
    async fn where_all_permits_are_in_use_the_oldest_unread_response_is_cut() {
        let mut service = layer(2, 1).layer(service_fn(answers));
        let mut unread = Vec::new();
        for _ in 0..2 {
            let (cut, mut request) = (StreamCut::default(), request(GET, Body::empty()));
            request.extensions_mut().insert(cut.clone());
            unread.push((cut, call(request, &mut service).await));
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        let (cut, response) = unread.remove(0);
        // As the server does with the stream.
        tokio::spawn(async move {
            cut.0.cancelled().await;
            drop(response);
        });
        assert!(answer_to(GET, &mut service).await.is_none(), "it got the permit");
        assert!(!unread[0].0.0.is_cancelled(), "one was enough");
    }

    /// A burst is served, and no caller has to come again.
    #[tokio::test]
    async fn a_call_waits_a_moment_for_a_permit() {
        let mut service = layer(1, 1).layer(service_fn(answers));
        let unread = call(request(CREATE, Body::empty()), &mut service).await;
        let mut queued = service.call(request(CREATE, Body::empty()));
        assert!(futures_util::poll!(&mut queued).is_pending());
        drop(unread);
        assert!(Status::from_header_map(queued.await.unwrap().headers()).is_none());
    }

    #[tokio::test]
    async fn a_call_that_waits_returns_its_permit_and_holds_one_for_waiting() {
        let mut service = layer(1, 2).layer(service_fn(waits));
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let mut call = service.call(request(CREATE, Body::empty()));
            assert!(futures_util::poll!(&mut call).is_pending());
            waiting.push(call);
        }
        let answer = answer_to(CREATE, &mut service).await.unwrap();
        assert_eq!(answer.message(), "too many wait", "it had a permit to work");
        drop(waiting.pop());
        assert!(futures_util::poll!(&mut service.call(request(CREATE, Body::empty()))).is_pending());
    }

    /// Of 16 permits, 2 are kept.
    #[rstest]
    #[case::creations(CREATE, false)]
    #[case::reads(GET, true)]
    #[case::cancellations("/recoup.v1.RefundService/CancelRefund", true)]
    #[case::lookups("/recoup.v1.RefundService/ReconcileRefund", true)]
    #[case::decisions("/recoup.v1.RefundService/ResolveRefund", true)]
    #[case::statuses("/recoup.v1.ValidationStatusService/GetValidationStatus", false)]
    #[tokio::test(start_paused = true)]
    async fn some_permits_are_kept_for_what_a_person_needs(#[case] path: &str, #[case] is_admitted: bool) {
        let mut service = layer(16, 1).layer(service_fn(answers));
        let mut unread = Vec::new();
        for _ in 0..14 {
            unread.push(call(request(CREATE, Body::empty()), &mut service).await);
        }
        assert_eq!(answer_to(path, &mut service).await.is_none(), is_admitted);
    }

    /// What is reserved for a list shrinks to its response, which is small here.
    #[tokio::test(start_paused = true)]
    async fn lists_are_refused_while_too_many_bytes_are_unsent() {
        let mut service = layer(1_000, 1).layer(service_fn(answers));
        let mut unread = Vec::new();
        while unread.len() < 13 {
            let response = call(request(LIST, Body::empty()), &mut service).await;
            assert!(Status::from_header_map(response.headers()).is_none());
            unread.push(response);
        }
        let refused = answer_to(LIST, &mut service).await.unwrap();
        assert_eq!(reason_of(&refused).as_deref(), Some("OVERLOADED"));
        // For a second it waits for room.
        let mut waiting = service.call(request(LIST, Body::empty()));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(unread.pop().is_some());
        assert!(Status::from_header_map(waiting.await.unwrap().headers()).is_none());
        assert!(answer_to(GET, &mut service).await.is_none(), "other calls are served");
        assert!(unread[0].body_mut().frame().await.is_some());
        assert!(unread[1].body_mut().frame().await.is_some());
        assert!(answer_to(LIST, &mut service).await.is_none());
    }

    #[tokio::test]
    async fn one_caller_has_at_most_a_quarter_of_the_streams() {
        let mut service = layer(1, 1).layer(service_fn(answers));
        let open = |caller: &'static str| {
            let mut request = request(STREAM, Body::empty());
            request.extensions_mut().insert(CallerKey(caller.into()));
            request
        };
        let held = [call(open("shop"), &mut service).await, call(open("shop"), &mut service).await];
        let refused = Status::from_header_map(call(open("shop"), &mut service).await.headers()).unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason_of(&refused).as_deref(), Some("QUOTA_EXCEEDED"));
        let other = call(open("office"), &mut service).await;
        assert!(Status::from_header_map(other.headers()).is_none());
        drop(held);
        assert!(Status::from_header_map(call(open("shop"), &mut service).await.headers()).is_none());
    }

    #[tokio::test]
    async fn a_full_gateway_answers_health_checks() {
        let answer = answer_to(CHECK, &mut layer(0, 0).layer(service_fn(panics))).await.unwrap();
        assert_eq!(answer.code(), Code::Internal, "its handler ran");
    }

    #[tokio::test]
    async fn a_request_that_is_not_grpc_is_read_before_it_is_answered() {
        let mut service = layer(1, 1).layer(service_fn(answers));
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
