//! The providers' ports: connections, requests on them, and nothing about what they mean.
//!
//! HTTP/1.1 on a loop of its own for each port, so that connections and the requests on them have
//! numbers that the journal can tell, and so that a rule can end a connection in its own way
//! (`wire`). Every part has a bound: connections, the handshake, the head, the body and the time it
//! may take.

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
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
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
    faults::{Door, Moment, RuleId, Step},
    http::connection::{Cut, Fate, Guard, Line, Wire},
    http::connection_limit::{Crowd, Stays},
    http::listener::Doorway,
    http::response_body::{LineEnd, Outgoing},
    pipeline::{Addressed, Client, Sending, Verdict, wants_close},
    record::journal::{Arrival, Ending},
    request::{Answer, Provider, Request},
    worlds::{SharedWorld, Worlds},
};

/// How many connections one port holds; for a further one the oldest goes that has asked for
/// nothing, or it waits.
pub(crate) const MAX_CONNECTIONS: usize = 10_000;
/// The largest body of a request.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a head may take, and a connection may stay idle.
pub(crate) const HEAD: Duration = Duration::from_secs(75);
/// How long a body may take.
const BODY: Duration = Duration::from_secs(30);
/// How long a connection may take to finish its last answer when the simulators stop.
pub(crate) const LAST_ANSWER: Duration = Duration::from_millis(500);
/// Before the next try where the system has no more descriptors.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// One provider's port.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) provider: Provider,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) worlds: Worlds,
    /// The world that all connections here belong to; none where each request finds its own.
    pub(crate) owner: Option<SharedWorld>,
    /// Counts connections over all ports.
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Port {
    /// Serves until told to stop; then gives every connection a moment.
    pub(crate) async fn serve(self, doorway: Arc<Doorway>) {
        let mut crowd = Crowd::new(MAX_CONNECTIONS);
        let mut stopping = self.stopping.clone();
        loop {
            let has_room = crowd.has_room();
            tokio::select! {
                accepted = doorway.accept(), if has_room => match accepted {
                    Ok(stream) => crowd.welcome(|stays| self.clone().connection(stream, stays)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        crowd.send_one_away();
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                true = crowd.one_ended() => {}
                () = told(&mut stopping) => break,
            }
        }
        while crowd.one_ended().await {}
    }

    /// The world whose rules and journal are those of the connections here.
    fn house(&self) -> &SharedWorld {
        self.owner.as_ref().unwrap_or_else(|| self.worlds.demo())
    }

    async fn connection(self, stream: TcpStream, stays: Stays) {
        let id = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // Without this a small answer could wait for the client's acknowledgement of the one
        // before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(connection = id, %error, "cannot switch off Nagle's algorithm");
        }
        let connection = self.house().lock().faults.count_connection(self.provider);
        let door = Door { provider: self.provider, tls: self.tls.is_some(), connection, ordinal: 1 };
        let line = Line::new(stream, Fate::default());
        let mut stopping = self.stopping.clone();
        let met = Met { stays, rules: Arc::default() };
        let served = async {
            let Some(line) = self.accepted(id, line, door, &met).await else { return };
            let Some(wire) = self.handshake(id, line).await else { return };
            self.requests(id, wire, door, &met).await;
        };
        tokio::pin!(served);
        tokio::select! {
            () = served.as_mut() => {}
            // The requests under way look after themselves.
            () = told(&mut stopping) => drop(timeout(LAST_ANSWER, served).await),
        }
    }

    /// Past the rules for a new connection; none where they left nothing of it.
    async fn accepted(&self, id: u64, line: Line, door: Door, met: &Met) -> Option<Line> {
        for step in self.ask(id, door, Moment::Connect, met) {
            match step {
                Step::Delay(delay) => tokio::time::sleep(delay).await,
                Step::RefuseTls => {
                    line.refuse_handshake().await;
                    return None;
                }
                Step::Cut(cut) => {
                    line.end(cut).await;
                    return None;
                }
                _ => {}
            }
        }
        Some(line)
    }

    async fn handshake(&self, id: u64, line: Line) -> Option<Wire> {
        let Some(acceptor) = &self.tls else { return Some(Wire::Plain(line)) };
        match timeout(HANDSHAKE, acceptor.accept(line)).await {
            Ok(Ok(stream)) => return Some(Wire::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(connection = id, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(connection = id, "the TLS handshake took too long"),
        }
        None
    }

    async fn requests(&self, id: u64, mut wire: Wire, door: Door, met: &Met) {
        for step in self.ask(id, door, Moment::BeforeRead, met) {
            match step {
                Step::Delay(delay) => tokio::time::sleep(delay).await,
                Step::Cut(cut) => return wire.end(cut).await,
                _ => {}
            }
        }
        let ordinals = Arc::new(AtomicU64::new(0));
        let guard = {
            let (port, ordinals, met) = (self.clone(), ordinals.clone(), met.clone());
            let house = self.house().clone();
            Guard {
                is_needed: Box::new(move || house.awaits_unread()),
                ask: Box::new(move || {
                    let ordinal = ordinals.load(Ordering::Relaxed) + 1;
                    port.ask(id, Door { ordinal, ..door }, Moment::BeforeRead, &met)
                }),
                tls: door.tls,
            }
        };
        let fate = wire.fate().clone();
        let next_is_due = wire.line().guard(guard);
        let end = LineEnd { fate: fate.clone(), next_is_due };
        let service = service_fn(|request: http::Request<Incoming>| {
            let arrival = Arrival { connection: id, ordinal: ordinals.fetch_add(1, Ordering::Relaxed) + 1 };
            met.stays.set();
            self.answer(arrival, request, end.clone(), met.take())
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(wire), service);
        let mut stopping = self.stopping.clone();
        let mut is_stopping = false;
        let ended = loop {
            tokio::select! {
                biased;
                cut = fate.decided() => {
                    connection.into_parts().io.into_inner().end(cut).await;
                    return;
                }
                ended = &mut connection => break ended,
                () = told(&mut stopping), if !is_stopping => {
                    is_stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(connection = id, %error, "the connection ended early");
        }
    }

    /// What the rules say before anything is read. Where that ends the connection, the journal
    /// tells it; else the next request's entry does.
    fn ask(&self, id: u64, door: Door, moment: Moment, met: &Met) -> Vec<Step> {
        let mut house = self.house().lock();
        let fired = house.faults.fire_at_door(&door, moment);
        if !fired.steps.is_empty() {
            // It is there on somebody's purpose, however silent.
            met.stays.set();
        }
        let steps: Vec<Step> = fired.steps.into_iter().map(|(_, step)| step).collect();
        let ending = steps.iter().find_map(|step| match step {
            Step::RefuseTls => Some(Ending::TlsRefused),
            Step::Cut(Cut::Reset) if moment == Moment::Connect => Some(Ending::Refused),
            Step::Cut(Cut::Reset) => Some(Ending::ResetWithoutAnswer),
            Step::Cut(Cut::Close | Cut::BreakOff) => Some(Ending::ClosedWithoutAnswer),
            Step::Cut(Cut::Silence) => Some(Ending::NeverAnswered),
            _ => None,
        });
        if let Some(ending) = ending {
            let now = house.now();
            let arrival = Arrival { connection: id, ordinal: door.ordinal };
            let journal_id = house.journal.open_unread(now, self.provider, arrival, door.tls);
            house.journal.rules(journal_id, met.take().into_iter().chain(fired.rules));
            house.journal.close(journal_id, None, ending);
        } else if !fired.rules.is_empty() {
            met.rules().extend(fired.rules);
        }
        steps
    }

    async fn answer(
        &self,
        arrival: Arrival,
        request: http::Request<Incoming>,
        end: LineEnd,
        met: Vec<RuleId>,
    ) -> Result<Response<Outgoing>, Infallible> {
        let (head, body) = request.into_parts();
        let closes = wants_close(head.version, &head.headers);
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return Ok(response(refused(unread), end)),
        };
        let query = head.uri.query().map(str::to_owned);
        let request =
            Request { query, ..Request::new(head.method, head.uri.path(), head.headers, body, self.tls.is_some()) };
        let client = Client::new(closes);
        let stopping = self.stopping.clone();
        let whose = (&self.worlds, self.owner.as_ref());
        let verdict = match caught(|| Addressed::new(whose, self.provider, (arrival, met), request)) {
            Some(addressed) => {
                Taken { course: Some(Box::pin(addressed.answered(client.clone(), stopping))), client }.await
            }
            None => None,
        };
        match verdict {
            Some(Verdict::Answer(sending)) => Ok(response(*sending, end)),
            Some(Verdict::Cut(cut)) => {
                if cut != Cut::Silence {
                    end.fate.decide(cut);
                }
                // The connection is ended from outside, by its fate or by the client.
                pending().await
            }
            None => {
                tracing::error!(provider = ?self.provider, "a fault of the simulators themselves");
                let body = Bytes::from_static(b"a fault of the simulators themselves");
                let answer = Answer { status: StatusCode::INTERNAL_SERVER_ERROR, headers: HeaderMap::new(), body };
                Ok(response(Sending::plainly(answer), end))
            }
        }
    }
}

/// What a connection has met before its next request is read.
#[derive(Clone)]
struct Met {
    stays: Stays,
    /// The rules that fired, and let it go on.
    rules: Arc<Mutex<Vec<RuleId>>>,
}

impl Met {
    fn take(&self) -> Vec<RuleId> {
        std::mem::take(&mut *self.rules())
    }

    fn rules(&self) -> MutexGuard<'_, Vec<RuleId>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this gives; none where it panicked, which the panic hook has told of.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// A request on its way to its end, which it reaches whatever becomes of its connection: where that
/// goes away in the middle, a task of its own takes it the rest of the way.
struct Taken {
    course: Option<Pin<Box<dyn Future<Output = Verdict> + Send>>>,
    client: Client,
}

impl Future for Taken {
    /// None where it panicked, which the panic hook has told of.
    type Output = Option<Verdict>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Verdict>> {
        let Some(course) = &mut self.course else { return Poll::Ready(None) };
        let polled = match caught(|| course.as_mut().poll(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(verdict)) => Some(verdict),
            None => None,
        };
        self.course = None;
        Poll::Ready(polled)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(course) = self.course.take() else { return };
        self.client.leave();
        // Without a runtime the process is about to end, and the request with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(course);
        }
    }
}

/// Waits until the simulators are told to stop; a sender that is gone says the same.
pub(crate) async fn told(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    TooSlow,
    Broken,
}

async fn read(body: Incoming) -> Result<Bytes, Unread> {
    // A length that is too large by its own account need not be waited for.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(Unread::TooLarge);
    }
    match timeout(BODY, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Ok(Err(_)) => Err(Unread::Broken),
        Err(_) => Err(Unread::TooSlow),
    }
}

/// Such a request reaches no provider and no journal: nothing was read of it that could be told.
fn refused(unread: Unread) -> Sending {
    let (status, text) = match unread {
        Unread::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Unread::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        Unread::Broken => (StatusCode::BAD_REQUEST, "the body broke off"),
    };
    let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("close"))]);
    Sending::plainly(Answer { status, headers, body: Bytes::from_static(text.as_bytes()) })
}

fn response(Sending { answer, plan, report }: Sending, end: LineEnd) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::new(plan, report, end));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
