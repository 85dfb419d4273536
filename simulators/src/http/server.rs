//! The server of a provider's port: connections and the requests on them.
//!
//! Each port has its own HTTP/1.1 loop, so that the journal can number connections and requests,
//! and so that a rule can end a connection in its own way (`connection`). Everything is bounded:
//! the number of connections, the sizes of head and body, and the time for handshake, head and
//! body.

use std::{
    convert::Infallible,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, runtime::Handle, sync::watch, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{
    faults::{ConnectionCoordinates, FaultAction, PointKind, RuleId},
    http::connection::{Disconnect, DisconnectSignal, GuardedStream, MaybeTls, ReadAction, ReadGuard},
    http::connection_limit::{ActiveFlag, ConnectionSet},
    http::listener::PausableListener,
    http::response_body::{ConnectionControl, FaultyBody},
    pipeline::{Action, Client, Reply, RoutedRequest, wants_close},
    record::journal::{Arrival, Ending},
    request::{Provider, Request, Response},
    shutdown,
    worlds::{WorldRef, Worlds},
};

/// The maximum number of connections to one port. A further one replaces the oldest idle one, or
/// waits.
pub(crate) const MAX_CONNECTIONS: usize = 10_000;
/// The maximum size of a request body.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The maximum time for a TLS handshake.
const MAX_HANDSHAKE: Duration = Duration::from_secs(10);
/// The maximum time for a request head, and for a connection to be idle.
pub(crate) const MAX_HEAD_TIME: Duration = Duration::from_secs(75);
/// The maximum time for a request body.
const MAX_BODY_TIME: Duration = Duration::from_secs(30);
/// The time for a connection to finish its last response when the simulators stop.
pub(crate) const STOP_GRACE: Duration = Duration::from_millis(500);
/// The wait before the next accept if the system has no more descriptors.
pub(crate) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// One provider's port.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) provider: Provider,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) worlds: Worlds,
    /// The world of all connections; none if each request finds its own.
    pub(crate) owner: Option<WorldRef>,
    /// The counter of connections over all ports.
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Port {
    /// Serves until the signal to stop. Then gives the connections time to finish.
    pub(crate) async fn serve(self, listener: Arc<PausableListener>) {
        let mut connections = ConnectionSet::new(MAX_CONNECTIONS);
        let mut stopping = self.stopping.clone();
        loop {
            let has_room = connections.make_room();
            tokio::select! {
                accepted = listener.accept(), if has_room => match accepted {
                    Ok(stream) => connections.spawn(|active| self.clone().connection(stream, active)),
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        connections.evict_idle();
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                true = connections.join_next() => {}
                () = shutdown::requested(&mut stopping) => break,
            }
        }
        while connections.join_next().await {}
    }

    /// The world whose rules and journal apply to connections.
    fn journal_world(&self) -> &WorldRef {
        self.owner.as_ref().unwrap_or_else(|| self.worlds.demo())
    }

    async fn connection(self, stream: TcpStream, active: ActiveFlag) {
        let id = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // Otherwise a small response could wait for the acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(connection = id, %error, "could not disable Nagle's algorithm");
        }
        let connection = self.journal_world().lock().faults.count_connection(self.provider);
        let at = ConnectionCoordinates { provider: self.provider, tls: self.tls.is_some(), connection, ordinal: 1 };
        let stream = GuardedStream::new(stream, DisconnectSignal::default());
        let mut stopping = self.stopping.clone();
        let context = ConnectionContext { active, rules: Arc::default() };
        let served = async {
            let Some(stream) = self.admit(id, stream, at, &context).await else { return };
            let Some(stream) = self.handshake(id, stream).await else { return };
            self.requests(id, stream, at, &context).await;
        };
        tokio::pin!(served);
        tokio::select! {
            () = served.as_mut() => {}
            // Requests in progress are finished by detached tasks.
            () = shutdown::requested(&mut stopping) => drop(timeout(STOP_GRACE, served).await),
        }
    }

    /// Applies the rules for a new connection. None if they end it.
    async fn admit(
        &self,
        id: u64,
        stream: GuardedStream,
        at: ConnectionCoordinates,
        context: &ConnectionContext,
    ) -> Option<GuardedStream> {
        for action in self.fire_connection_rules(id, at, PointKind::Connect, context) {
            match action {
                FaultAction::Delay(delay) => tokio::time::sleep(delay).await,
                FaultAction::RefuseTls => {
                    stream.refuse_handshake().await;
                    return None;
                }
                FaultAction::Disconnect(disconnect) => {
                    stream.end(disconnect).await;
                    return None;
                }
                _ => {}
            }
        }
        Some(stream)
    }

    async fn handshake(&self, id: u64, stream: GuardedStream) -> Option<MaybeTls> {
        let Some(acceptor) = &self.tls else { return Some(MaybeTls::Plain(stream)) };
        match timeout(MAX_HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(MaybeTls::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(connection = id, %error, "could not complete the TLS handshake"),
            Err(_) => tracing::debug!(connection = id, "TLS handshake timed out"),
        }
        None
    }

    async fn requests(&self, id: u64, mut stream: MaybeTls, at: ConnectionCoordinates, context: &ConnectionContext) {
        for action in self.fire_connection_rules(id, at, PointKind::BeforeRead, context) {
            match action {
                FaultAction::Delay(delay) => tokio::time::sleep(delay).await,
                FaultAction::Disconnect(disconnect) => return stream.end(disconnect).await,
                _ => {}
            }
        }
        let ordinals = Arc::new(AtomicU64::new(0));
        let guard = {
            let (port, ordinals, context) = (self.clone(), ordinals.clone(), context.clone());
            let world = self.journal_world().clone();
            ReadGuard {
                is_needed: Box::new(move || world.has_unread_rule()),
                actions: Box::new(move || {
                    let at = ConnectionCoordinates { ordinal: ordinals.load(Ordering::Relaxed) + 1, ..at };
                    let actions = port.fire_connection_rules(id, at, PointKind::BeforeRead, &context);
                    actions.into_iter().filter_map(read_action).collect()
                }),
                tls: at.tls,
            }
        };
        let signal = stream.signal().clone();
        let at_request_start = stream.stream().guard(guard);
        let control = ConnectionControl { signal: signal.clone(), at_request_start };
        let service = service_fn(|request: http::Request<Incoming>| {
            let arrival = Arrival { connection: id, ordinal: ordinals.fetch_add(1, Ordering::Relaxed) + 1 };
            context.active.set();
            self.answer(arrival, request, control.clone(), context.take_rules())
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_HEAD_TIME)
            .serve_connection(TokioIo::new(stream), service);
        let mut stopping = self.stopping.clone();
        let mut is_stopping = false;
        let ended = loop {
            tokio::select! {
                biased;
                disconnect = signal.decided() => {
                    connection.into_parts().io.into_inner().end(disconnect).await;
                    return;
                }
                ended = &mut connection => break ended,
                () = shutdown::requested(&mut stopping), if !is_stopping => {
                    is_stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(connection = id, %error, "could not finish the connection");
        }
    }

    /// Fires the rules before anything is read. If they end the connection, this writes a journal
    /// entry; otherwise they appear in the entry of the next request.
    fn fire_connection_rules(
        &self,
        id: u64,
        at: ConnectionCoordinates,
        kind: PointKind,
        context: &ConnectionContext,
    ) -> Vec<FaultAction> {
        let mut world = self.journal_world().lock();
        let fired = world.faults.fire_for_connection(&at, kind);
        if !fired.actions.is_empty() {
            // A test keeps it open on purpose, however idle it is.
            context.active.set();
        }
        let actions: Vec<FaultAction> = fired.actions.into_iter().map(|(_, action)| action).collect();
        let ending = actions.iter().find_map(|action| match action {
            FaultAction::RefuseTls => Some(Ending::TlsRefused),
            FaultAction::Disconnect(Disconnect::Reset) if kind == PointKind::Connect => Some(Ending::Refused),
            FaultAction::Disconnect(Disconnect::Reset) => Some(Ending::ResetWithoutAnswer),
            FaultAction::Disconnect(Disconnect::Fin | Disconnect::FinWithoutCloseNotify) => {
                Some(Ending::ClosedWithoutAnswer)
            }
            FaultAction::Disconnect(Disconnect::Hang) => Some(Ending::NeverAnswered),
            _ => None,
        });
        if let Some(ending) = ending {
            let now = world.now();
            let arrival = Arrival { connection: id, ordinal: at.ordinal };
            let journal_id = world.journal.open_unread(now, self.provider, arrival, at.tls);
            world.journal.rules(journal_id, context.take_rules().into_iter().chain(fired.rules));
            world.journal.close(journal_id, None, ending);
        } else if !fired.rules.is_empty() {
            context.rules().extend(fired.rules);
        }
        actions
    }

    async fn answer(
        &self,
        arrival: Arrival,
        request: http::Request<Incoming>,
        control: ConnectionControl,
        rules: Vec<RuleId>,
    ) -> Result<http::Response<FaultyBody>, Infallible> {
        let (head, body) = request.into_parts();
        let closes = wants_close(head.version, &head.headers);
        let body = match read(body).await {
            Ok(body) => body,
            Err(error) => return Ok(response(refused(error), control)),
        };
        let query = head.uri.query().map(str::to_owned);
        let request =
            Request { query, ..Request::new(head.method, head.uri.path(), head.headers, body, self.tls.is_some()) };
        let client = Client::new(closes);
        let stopping = self.stopping.clone();
        let worlds = (&self.worlds, self.owner.as_ref());
        let action = match caught(|| RoutedRequest::new(worlds, self.provider, (arrival, rules), request)) {
            Some(routed) => FinishOnDrop { run: Some(Box::pin(routed.run(client.clone(), stopping))), client }.await,
            None => None,
        };
        match action {
            Some(Action::Reply(reply)) => Ok(response(*reply, control)),
            Some(Action::Disconnect(disconnect)) => {
                if disconnect != Disconnect::Hang {
                    control.signal.decide(disconnect);
                }
                // The signal or the client ends the connection.
                pending().await
            }
            None => {
                tracing::error!(provider = ?self.provider, "could not handle a request: the simulators panicked");
                let body = Bytes::from_static(b"the simulators panicked");
                let failure = Response { status: StatusCode::INTERNAL_SERVER_ERROR, headers: HeaderMap::new(), body };
                Ok(response(Reply::plain(failure), control))
            }
        }
    }
}

/// The action before a read that a fault action stands for.
fn read_action(action: FaultAction) -> Option<ReadAction> {
    match action {
        FaultAction::Delay(delay) => Some(ReadAction::Delay(delay)),
        FaultAction::Disconnect(disconnect) => Some(ReadAction::Disconnect(disconnect)),
        // Nothing else can be armed at this point.
        _ => None,
    }
}

/// The state of a connection between its requests.
#[derive(Clone)]
struct ConnectionContext {
    active: ActiveFlag,
    /// The rules that fired since the last request without ending the connection.
    rules: Arc<Mutex<Vec<RuleId>>>,
}

impl ConnectionContext {
    fn take_rules(&self) -> Vec<RuleId> {
        std::mem::take(&mut *self.rules())
    }

    fn rules(&self) -> MutexGuard<'_, Vec<RuleId>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of `work`; none if it panicked, which the panic hook has reported.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// A request in progress. If its connection ends first, a detached task finishes it.
struct FinishOnDrop {
    run: Option<Pin<Box<dyn Future<Output = Action> + Send>>>,
    client: Client,
}

impl Future for FinishOnDrop {
    /// None if it panicked, which the panic hook has reported.
    type Output = Option<Action>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Action>> {
        let Some(run) = &mut self.run else { return Poll::Ready(None) };
        let polled = match caught(|| run.as_mut().poll(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(action)) => Some(action),
            None => None,
        };
        self.run = None;
        Poll::Ready(polled)
    }
}

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.client.leave();
        // Without a runtime the process is about to end.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(run);
        }
    }
}

/// Why a body could not be read.
enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

async fn read(body: Incoming) -> Result<Bytes, BodyError> {
    // The announced length may already be too large.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(BodyError::TooLarge);
    }
    match timeout(MAX_BODY_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::TooSlow),
    }
}

/// The response to an incomplete request, which reaches neither a provider nor the journal.
fn refused(error: BodyError) -> Reply {
    let (status, text) = match error {
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        BodyError::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        BodyError::Broken => (StatusCode::BAD_REQUEST, "the body is incomplete"),
    };
    let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("close"))]);
    Reply::plain(Response { status, headers, body: Bytes::from_static(text.as_bytes()) })
}

fn response(Reply { response, script, on_sent }: Reply, control: ConnectionControl) -> http::Response<FaultyBody> {
    let Response { status, headers, .. } = response;
    let mut response = http::Response::new(FaultyBody::new(script, on_sent, control));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
