//! Authenticates each call: who calls, whether the method's scope is granted, and whether the
//! caller's own rate and share allow it. Where there is no access file, every call is allowed.
//!
//! ```text
//! health passes -> credential -> caller -> scope -> its rate and share -> permit -> handler
//! ```
//!
//! A source that makes many calls without a valid credential is slowed down, and never kept out: a
//! valid credential works at once, on a new connection too, because others may have the same
//! address.
//!
//! The header with the credential is taken out first: no span, handler or log sees it. A client
//! certificate counts for a call while a new handshake would accept it. A stream is judged again
//! when the access file or the files of its listener change, when its certificate expires, and each
//! minute.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::access::AccessPolicy;
use crate::access::certificate::CertificateIdentity;
use crate::access::credentials::{IdentifyError, InvalidCredential, ShownCredentials, UnixPeer};
use crate::access::scope::{Requirement, Scope};
use crate::access::token::Token;
use crate::api::connection::{ConnectionHandle, PeerTransport};
use crate::api::http2::ConnectionPause;
use crate::api::layers::call_metrics::{CallRecorder, KnownMethods};
use crate::api::layers::caller_share::{CallerShares, CallerSlot};
use crate::api::layers::grpc_only;
use crate::api::layers::permits::CallerKey;
use crate::api::layers::refused_calls::{RefusalReason, RefusedCalls};
use crate::api::{Callers, status};
use crate::domain::authority::{AccountSet, Authority};
use crate::domain::clock::Clock;
use crate::telemetry::metrics::Metrics;
use crate::tls::ClientChain;

/// The access file that is in force. It changes while the gateway runs.
pub type PolicyReceiver = watch::Receiver<Arc<AccessPolicy>>;

/// Wraps services in an [`Authentication`].
#[derive(Clone)]
pub(in crate::api) struct AuthenticationLayer(Arc<Authenticator>);

/// A service whose callers are known.
#[derive(Clone)]
pub(in crate::api) struct Authentication<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
}

struct Authenticator {
    /// None: there is no access file.
    policy: Option<PolicyReceiver>,
    clock: Arc<dyn Clock>,
    shares: CallerShares,
    refused: RefusedCalls,
    metrics: Metrics,
    methods: KnownMethods,
}

/// What the caller of a call may do, for its handler; in the extensions of its request.
#[derive(Clone)]
pub(in crate::api) struct Grant {
    pub(in crate::api) by: Authority,
    /// Beyond the scope of the method.
    pub(in crate::api) may_get_upload_token: bool,
}

impl Grant {
    /// The grant of a call. A call without one has passed no authentication, which is a bug: it is
    /// refused.
    pub(in crate::api) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(status::internal)
    }
}

/// A call that is allowed.
struct Admission {
    grant: Grant,
    slot: CallerSlot,
    /// For streams.
    judge: Option<Judge>,
}

/// The body of an answer: holds the caller's share until its end, and ends a stream whose caller
/// may not read it any more.
struct AdmittedBody {
    inner: Body,
    _slot: CallerSlot,
    judge: Option<Judge>,
}

/// Judges a stream again.
struct Judge {
    authenticator: Arc<Authenticator>,
    shown: ShownCredentials,
    /// The certificates that were shown.
    client: Option<Arc<ClientChain>>,
    caller: String,
    requirement: Requirement,
    accounts: AccountSet,
    /// Completes when the stream is to be judged.
    due: BoxFuture<'static, ()>,
}

/// How often a stream is judged where nothing changes: its token may have expired.
const JUDGE_INTERVAL: Duration = Duration::from_secs(60);
const SCHEME: &str = "bearer ";

impl AuthenticationLayer {
    /// `listeners` are the names of the listeners that calls arrive at.
    pub(in crate::api) fn new<'a>(
        callers: Callers,
        listeners: impl Iterator<Item = &'a str>,
        metrics: Metrics,
        methods: KnownMethods,
    ) -> Self {
        let Callers { policy, clock } = callers;
        let refused = RefusedCalls::new(metrics.clone());
        listeners.for_each(|listener| refused.declare(listener));
        let shares = CallerShares::default();
        Self(Arc::new(Authenticator { policy, clock, shares, refused, metrics, methods }))
    }
}

impl<S> Layer<S> for AuthenticationLayer {
    type Service = Authentication<S>;

    fn layer(&self, inner: S) -> Authentication<S> {
        Authentication { inner, authenticator: self.0.clone() }
    }
}

impl<S> Service<Request<Body>> for Authentication<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let authenticator = &self.authenticator;
        let headers = take_authorization(request.headers_mut());
        let requirement = Requirement::of(request.uri().path());
        let Some(policy) = authenticator.policy.as_ref() else {
            let grant = Grant { by: Authority::unrestricted(), may_get_upload_token: true };
            request.extensions_mut().insert(grant);
            return Box::pin(self.inner.call(request));
        };
        // What is not gRPC is refused by the next layer, with or without a credential.
        if requirement == Some(Requirement::Nothing) || !grpc_only::is_grpc(&request) {
            return Box::pin(self.inner.call(request));
        }
        let policy = policy.borrow().clone();
        match authenticator.admit(&policy, &request, headers, requirement) {
            Ok(Admission { grant, slot, judge }) => {
                request.extensions_mut().insert(CallerKey(grant.by.actor.name.as_str().into()));
                request.extensions_mut().insert(grant);
                request.extensions_mut().insert(slot.clone());
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    Ok(answer.map(|inner| Body::new(AdmittedBody { inner, _slot: slot, judge })))
                })
            }
            Err(refusal) => {
                let path = request.uri().path();
                let recorder = CallRecorder::start(&authenticator.metrics, &authenticator.methods, path);
                let answer = recorder.record_answer(refusal.into_http());
                Box::pin(async move {
                    grpc_only::drain(request.into_body()).await;
                    Ok(answer)
                })
            }
        }
    }
}

impl Authenticator {
    fn admit(
        self: &Arc<Self>,
        policy: &AccessPolicy,
        request: &Request<Body>,
        headers: Vec<HeaderValue>,
        requirement: Option<Requirement>,
    ) -> Result<Admission, Status> {
        let connection = request.extensions().get::<ConnectionHandle>();
        let is_known = connection.is_some_and(ConnectionHandle::is_authenticated);
        let refuse = |reason| {
            let is_slowed = self.refused.record(connection, reason);
            if is_slowed
                && !is_known
                && let Some(pause) = request.extensions().get::<ConnectionPause>()
            {
                pause.request();
            }
        };
        let shown = match shown(connection, headers) {
            Ok(shown) => shown,
            Err(reason @ RefusalReason::Missing) => {
                refuse(reason);
                return Err(status::credentials_missing());
            }
            Err(reason) => {
                refuse(reason);
                return Err(status::credentials_invalid());
            }
        };
        let identity = policy.identify(&shown, self.clock.now()).map_err(|error| match error {
            IdentifyError::Missing => {
                refuse(RefusalReason::Missing);
                status::credentials_missing()
            }
            IdentifyError::Invalid(reason) => {
                refuse(RefusalReason::Invalid(reason));
                status::credentials_invalid()
            }
        })?;
        // The caller is one of this file, because the file named it.
        let caller = policy.caller(&identity.caller).ok_or_else(status::credentials_invalid)?;
        if let Some(connection) = connection {
            connection.mark_authenticated();
        }
        let path = request.uri().path();
        // A method without a row in the table is refused even if the server had it.
        let requirement = requirement.ok_or_else(|| status::not_offered(&format!("unknown method {path}")))?;
        if let Requirement::Scope(scope) = requirement
            && !caller.may(requirement)
        {
            refuse(RefusalReason::Scope);
            return Err(status::scope_missing(scope));
        }
        let slot = self.shares.acquire(caller, path).map_err(|exceeded| {
            refuse(RefusalReason::Quota);
            status::quota_exceeded(&caller.name, exceeded.what, exceeded.retry_after)
        })?;
        let judge = is_stream(path).then(|| Judge {
            authenticator: self.clone(),
            shown,
            client: connection.and_then(ConnectionHandle::client_chain).cloned(),
            caller: identity.caller.clone(),
            requirement,
            accounts: caller.rules().accounts.clone(),
            // At once, so that no change between this judgement and the first wait is missed.
            due: Box::pin(std::future::ready(())),
        });
        let may_get_upload_token = caller.may(Requirement::Scope(Scope::ValidationToken));
        let grant = Grant { by: policy.authority(identity), may_get_upload_token };
        Ok(Admission { grant, slot, judge })
    }
}

impl Judge {
    /// Waits for the changes from now on, also for those before its first poll.
    fn wait(&self) -> BoxFuture<'static, ()> {
        let mut policy = self.authenticator.policy.clone();
        policy.iter_mut().for_each(watch::Receiver::mark_unchanged);
        let generation = self.client.as_ref().map(|client| client.generations());
        let expiry = self.client.as_ref().and_then(|client| client.remaining());
        let interval = expiry.map_or(JUDGE_INTERVAL, |expiry| expiry.min(JUDGE_INTERVAL));
        Box::pin(async move {
            tokio::select! {
                () = changes(policy) => {}
                () = changes(generation) => {}
                () = tokio::time::sleep(interval) => {}
            }
        })
    }

    /// # Errors
    /// The end of the stream.
    fn judge(&mut self) -> Result<(), Status> {
        // Before the files are read: a change after that is judged next.
        self.due = self.wait();
        if self.client.as_ref().is_some_and(|client| !client.is_accepted()) {
            return Err(status::credentials_invalid());
        }
        let Some(policy) = self.authenticator.policy.as_ref().map(|policy| policy.borrow().clone()) else {
            return Ok(());
        };
        let identity = policy.identify(&self.shown, self.authenticator.clock.now()).ok();
        let caller = identity.filter(|identity| identity.caller == self.caller);
        let caller = caller.and_then(|identity| policy.caller(&identity.caller));
        let Some(caller) = caller else { return Err(status::credentials_invalid()) };
        match self.requirement {
            Requirement::Scope(scope) if !caller.may(self.requirement) => Err(status::scope_missing(scope)),
            // What it shows was chosen for other accounts.
            _ if caller.rules().accounts != self.accounts => Err(status::accounts_changed()),
            _ => Ok(()),
        }
    }
}

impl http_body::Body for AdmittedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while let Some(judge) = self.judge.as_mut() {
            if judge.due.as_mut().poll(context).is_pending() {
                break;
            }
            if let Err(end) = judge.judge() {
                self.judge = None;
                self.inner = Body::empty();
                let mut trailers = HeaderMap::new();
                return Poll::Ready(end.add_header(&mut trailers).is_ok().then(|| Ok(Frame::trailers(trailers))));
            }
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Waits for a change; for ever where there is nothing that changes.
async fn changes<T>(receiver: Option<watch::Receiver<T>>) {
    if let Some(mut receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Takes every credential out of the headers.
fn take_authorization(headers: &mut HeaderMap) -> Vec<HeaderValue> {
    let mut taken: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
    headers.remove(AUTHORIZATION);
    taken.iter_mut().for_each(|value| value.set_sensitive(true));
    taken
}

/// What a call shows: the seam between the transport and the access file.
///
/// # Errors
/// Two tokens, or none and no other credential; a token that is none; a certificate without a name,
/// or one that is not accepted any more.
fn shown(connection: Option<&ConnectionHandle>, headers: Vec<HeaderValue>) -> Result<ShownCredentials, RefusalReason> {
    let invalid = || RefusalReason::Invalid(InvalidCredential::Malformed);
    let mut shown = ShownCredentials::default();
    match connection.map(|connection| &connection.peer().transport) {
        // A token is sent without encryption on this machine only.
        Some(PeerTransport::Plaintext { address }) if !address.ip().is_loopback() => return Err(invalid()),
        Some(PeerTransport::Tls { client, .. }) => {
            if let Some(client) = client {
                if !client.is_accepted() {
                    return Err(RefusalReason::Invalid(InvalidCredential::CertificateNotAccepted));
                }
                let identity = CertificateIdentity::from_verified(client.own())
                    .map_err(|_| RefusalReason::Invalid(InvalidCredential::Certificate))?;
                shown.certificate = Some(identity);
            }
        }
        Some(PeerTransport::Unix { user, group }) => shown.peer = Some(UnixPeer { uid: *user, gid: *group }),
        Some(PeerTransport::Plaintext { .. }) | None => {}
    }
    match headers.as_slice() {
        [] => {}
        [header] => {
            let text = header.to_str().map_err(|_| invalid())?;
            let (scheme, token) = text.split_at_checked(SCHEME.len()).ok_or_else(invalid)?;
            if !scheme.eq_ignore_ascii_case(SCHEME) {
                return Err(invalid());
            }
            shown.token = Some(Token::parse(token).map_err(|_| invalid())?.hash());
        }
        _ => return Err(RefusalReason::Missing),
    }
    Ok(shown)
}

/// Whether the answer may stay open for longer than a call lasts.
fn is_stream(path: &str) -> bool {
    path.ends_with("/StreamRefundEvents")
        || path.ends_with("/WatchValidationStatus")
        || path.ends_with("/ServerReflectionInfo")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tower::service_fn;

    use super::*;
    use crate::domain::clock::SystemClock;

    /// HTTP/2 resets a stream whose answer overtakes its request. A connection with many such
    /// streams is closed, with the other calls on it.
    #[tokio::test]
    async fn a_refused_call_is_read_before_it_is_answered() {
        let (_file, policy) = watch::channel(Arc::new(
            AccessPolicy::parse("[callers.a]\nunix_users = [1]\naccounts = [\"*\"]\n").unwrap(),
        ));
        let callers = Callers { policy: Some(policy), clock: Arc::new(SystemClock) };
        let methods = KnownMethods::from_descriptors(&[]);
        let layer = AuthenticationLayer::new(callers, std::iter::empty(), Metrics::off(), methods);
        let handler = service_fn(|_: Request<Body>| async { panic!("it has no credential") });
        let (sender, frames) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
        let frames = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
        let request = Request::post("/recoup.v1.RefundService/GetRefund").header("content-type", "application/grpc");
        let request = request.body(Body::new(StreamBody::new(frames))).unwrap();
        let mut answer = layer.layer(handler).call(request);
        assert!((&mut answer).now_or_never().is_none(), "the request has not ended");
        drop(sender);
        let refused = Status::from_header_map(answer.await.unwrap().headers()).unwrap();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
}
