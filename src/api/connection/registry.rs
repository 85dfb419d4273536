//! Every open connection, and which one is closed where there are too many.
//!
//! In this order: one that has not finished its handshake or its HTTP/2 preface within
//! [`OPENING_TIME`]; one that has not made an authenticated call within [`AUTHENTICATION_TIME`];
//! the one that is idle longest. Never one with a call in progress. Where such connections are all
//! there are, the newcomer is closed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use crate::telemetry::metrics::Metrics;

/// A client that is not slow sends its preface within milliseconds. Until this time the connection
/// is not closed before older ones: in a flood, every newcomer would close the one before.
const OPENING_TIME: Duration = Duration::from_millis(100);
/// Time for the first authenticated call. A connection without one is closed before idle ones.
const AUTHENTICATION_TIME: Duration = Duration::from_secs(10);
/// Connections without a call in progress are closed after this time.
const IDLE_TIME: Duration = Duration::from_secs(300);
/// Connections of one source without an authenticated call.
const MAX_UNAUTHENTICATED: usize = 64;
/// Closed connections whose socket is still open. Above it, accepting waits for them to end.
const MAX_ENDING: usize = 64;
/// Between two warnings that connections are closed for others.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// An IPv4 address, also where it is mapped into IPv6.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: one customer has as many addresses as it likes.
    V6([u16; 4]),
    /// A user of this machine, over a unix socket.
    User(u32),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        let of_v6 = |address: Ipv6Addr| {
            let [one, two, three, four, ..] = address.segments();
            Source::V6([one, two, three, four])
        };
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

/// Why the gateway closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// For another connection, because the gateway has no more places.
    Full,
    /// For another connection of its source.
    SourceFull,
    Idle,
    /// Its socket took no byte for too long.
    Stalled,
    /// The HTTP/2 preface or the handshake did not arrive in time.
    Silent,
}

impl CloseReason {
    const ALL: [Self; 5] = [Self::Full, Self::SourceFull, Self::Idle, Self::Stalled, Self::Silent];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::SourceFull => "source_full",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Silent => "silent",
        }
    }
}

/// Asks the task that owns a socket to close it.
#[derive(Debug, Default)]
pub(super) struct CloseSignal {
    is_closed: AtomicBool,
    task: AtomicWaker,
}

impl CloseSignal {
    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.task.wake();
    }

    /// Whether the socket is to be closed; if not yet, the task is woken then.
    pub(super) fn is_closed(&self, context: &Context<'_>) -> bool {
        self.task.register(context.waker());
        self.is_closed.load(Ordering::SeqCst)
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its handshake or its HTTP/2 preface is not finished.
    Opening,
    /// It has made no authenticated call.
    Anonymous,
    Authenticated,
}

struct OpenConnection {
    listener: Arc<str>,
    source: Source,
    phase: Phase,
    opened: Instant,
    streams: usize,
    /// Since when it has had no stream.
    idle_since: Instant,
    is_closing: bool,
    signal: Arc<CloseSignal>,
}

/// Every open connection of the gateway. Clones share it.
#[derive(Clone)]
pub struct ConnectionRegistry(Arc<RegistryState>);

struct RegistryState {
    max_connections: usize,
    connections: Mutex<OpenConnections>,
    ended: Notify,
    metrics: Metrics,
}

#[derive(Default)]
struct OpenConnections {
    next_id: u64,
    /// By id, so the oldest comes first.
    open: BTreeMap<u64, OpenConnection>,
    last_warning: Option<Instant>,
}

/// An open connection's place. Dropped with its socket.
pub(super) struct ConnectionPlace {
    registry: ConnectionRegistry,
    id: u64,
    signal: Arc<CloseSignal>,
}

impl ConnectionRegistry {
    /// Keeps at most `max_connections` open.
    pub fn new(max_connections: usize, metrics: Metrics) -> Self {
        let connections = Mutex::new(OpenConnections::default());
        Self(Arc::new(RegistryState { max_connections, connections, ended: Notify::new(), metrics }))
    }

    /// Declares a listener, whose series exist from now on.
    pub(super) fn add_listener(&self, listener: &str) {
        self.0.metrics.record_failed_handshakes(listener, 0);
        for reason in CloseReason::ALL {
            self.0.metrics.record_closed_connections(listener, reason.as_str(), 0);
        }
    }

    /// Adds a connection, and closes another one where there are too many: of the same source, or
    /// of all. `max_of_source` is 0 where sources have no limit.
    pub(super) fn register(&self, listener: &Arc<str>, source: Source, max_of_source: usize) -> ConnectionPlace {
        let now = Instant::now();
        let signal = Arc::new(CloseSignal::default());
        let mut connections = self.lock();
        let id = connections.next_id;
        connections.next_id += 1;
        let entry = OpenConnection {
            listener: listener.clone(),
            source,
            phase: Phase::Opening,
            opened: now,
            streams: 0,
            idle_since: now,
            is_closing: false,
            signal: signal.clone(),
        };
        connections.open.insert(id, entry);
        let is_of_source = |entry: &OpenConnection| entry.source == source && entry.listener == *listener;
        if max_of_source > 0 {
            let is_anonymous = |entry: &OpenConnection| {
                is_of_source(entry) && entry.phase != Phase::Authenticated && entry.streams == 0
            };
            self.make_room(&mut connections, id, max_of_source, CloseReason::SourceFull, is_of_source);
            let max_anonymous = max_of_source.min(MAX_UNAUTHENTICATED);
            self.make_room(&mut connections, id, max_anonymous, CloseReason::SourceFull, is_anonymous);
        }
        self.make_room(&mut connections, id, self.0.max_connections, CloseReason::Full, |_| true);
        ConnectionPlace { registry: self.clone(), id, signal }
    }

    /// Closes one of the connections that `counts` where these are more than `max`.
    fn make_room(
        &self,
        connections: &mut OpenConnections,
        newcomer: u64,
        max: usize,
        reason: CloseReason,
        counts: impl Fn(&OpenConnection) -> bool,
    ) {
        let now = Instant::now();
        let counted = || connections.open.iter().filter(|(_, entry)| !entry.is_closing && counts(entry));
        let total = counted().count();
        if total <= max {
            return;
        }
        // Many at once are a flood: they must not take the places of those that are known.
        let unauthenticated = counted().filter(|(_, entry)| entry.phase != Phase::Authenticated).count();
        let is_flood = unauthenticated > total / 2;
        let others = counted().filter(|(id, entry)| **id != newcomer && entry.streams == 0);
        let rank = |entry: &OpenConnection| {
            let age = now.duration_since(entry.opened);
            match entry.phase {
                Phase::Opening if age >= OPENING_TIME => (0, entry.opened),
                Phase::Opening | Phase::Anonymous if is_flood || age >= AUTHENTICATION_TIME => (1, entry.opened),
                Phase::Opening | Phase::Anonymous | Phase::Authenticated => (2, entry.idle_since),
            }
        };
        let victim = others.min_by_key(|(_, entry)| rank(entry)).map_or(newcomer, |(id, _)| *id);
        if connections.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL) {
            connections.last_warning = Some(now);
            let open = connections.open.len();
            warn!(open, reason = reason.as_str(), "too many connections: closing those that are in no call");
        }
        if let Some(entry) = connections.open.get_mut(&victim) {
            self.close(entry, reason);
        }
    }

    /// Closes connections that have been idle too long, while the server runs.
    pub(super) async fn close_idle(&self) {
        loop {
            let now = Instant::now();
            let mut next = now + IDLE_TIME;
            let is_idle =
                |entry: &&mut OpenConnection| !entry.is_closing && entry.streams == 0 && entry.phase != Phase::Opening;
            for entry in self.lock().open.values_mut().filter(is_idle) {
                let end = entry.idle_since + IDLE_TIME;
                if end <= now {
                    self.close(entry, CloseReason::Idle);
                } else {
                    next = next.min(end);
                }
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Waits while too many closed connections still have their socket.
    pub(super) async fn wait_for_ending(&self) {
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // Before the count, so that no end is missed.
            ended.as_mut().enable();
            if self.lock().open.values().filter(|entry| entry.is_closing).count() <= MAX_ENDING {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn count_failed_handshake(&self, listener: &str) {
        self.0.metrics.record_failed_handshakes(listener, 1);
    }

    fn close(&self, entry: &mut OpenConnection, reason: CloseReason) {
        if !entry.is_closing {
            entry.is_closing = true;
            self.0.metrics.record_closed_connections(&entry.listener, reason.as_str(), 1);
            entry.signal.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: u64, act: impl FnOnce(&mut OpenConnection) -> T) -> Option<T> {
        self.lock().open.get_mut(&id).map(act)
    }

    /// The number of connections by listener.
    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for entry in self.lock().open.values() {
            *counts.entry(entry.listener.clone()).or_default() += 1;
        }
        counts
    }

    /// A call begins. False if its connection is closed: the call must not be handled.
    pub(super) fn begin_stream(&self, id: u64) -> bool {
        let begin = |entry: &mut OpenConnection| {
            if !entry.is_closing {
                entry.streams += 1;
            }
            !entry.is_closing
        };
        self.with(id, begin).unwrap_or(false)
    }

    /// A call's answer has ended.
    pub(super) fn end_stream(&self, id: u64) {
        let end = |entry: &mut OpenConnection| {
            entry.streams = entry.streams.saturating_sub(1);
            entry.idle_since = Instant::now();
        };
        self.with(id, end);
    }

    pub(super) fn is_authenticated(&self, id: u64) -> bool {
        self.with(id, |entry| matches!(entry.phase, Phase::Authenticated)).unwrap_or_default()
    }

    pub(super) fn mark_authenticated(&self, id: u64) {
        self.with(id, |entry| entry.phase = Phase::Authenticated);
    }
}

impl ConnectionPlace {
    pub(super) fn registry(&self) -> &ConnectionRegistry {
        &self.registry
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn signal(&self) -> Arc<CloseSignal> {
        self.signal.clone()
    }

    /// The handshake and the HTTP/2 preface are finished.
    pub(super) fn mark_open(&self) {
        let open = |entry: &mut OpenConnection| {
            if entry.phase == Phase::Opening {
                entry.phase = Phase::Anonymous;
                entry.idle_since = Instant::now();
            }
        };
        self.registry.with(self.id, open);
    }

    /// Closes the connection when its socket belongs to another task.
    pub(super) fn closer(&self) -> ConnectionCloser {
        ConnectionCloser { registry: self.registry.clone(), id: self.id }
    }

    /// The connection is closed by its own task.
    pub(super) fn mark_closed(&self, reason: CloseReason) {
        self.registry.with(self.id, |entry| self.registry.close(entry, reason));
    }
}

/// Closes a connection.
pub(super) struct ConnectionCloser {
    registry: ConnectionRegistry,
    id: u64,
}

impl ConnectionCloser {
    pub(super) fn close(&self, reason: CloseReason) {
        self.registry.with(self.id, |entry| self.registry.close(entry, reason));
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let ended = self.registry.lock().open.remove(&self.id);
        drop(ended);
        self.registry.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
