//! Gates: requests wait at a point until they are released one by one, in any order.
//!
//! A gate stays until it is removed. Requests that wait there then continue, as does a request that
//! has waited for the gate's maximum wait. Rules of the same point apply after the gate.
//!
//! ```text
//! Gates (in the world) --owns--> GateList <--weak-- Waiting (a request), GateHandle (a test)
//! ```
//!
//! So a world that is reset or deleted releases all its requests.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, oneshot},
    time::Sleep,
};

use crate::{
    faults::{Coordinates, FaultEffect, Point, PointKind, Rule, RuleError},
    request::Provider,
};

/// The maximum number of gates in a world.
pub const MAX_GATES: usize = 100;
/// The maximum number of requests that wait at one gate; further ones pass.
pub const MAX_WAITING: usize = 10_000;
/// The maximum time that a request waits at a gate, in real time.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
const DEFAULT_WAIT_SECONDS: u64 = 60;

/// The coordinates of the requests that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The provider.
    pub provider: Provider,
    /// The call; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The order or account reference, as in the request; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The number of the request among those for its operation and target; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<u64>,
    /// The point: `before_effect`, `after_effect` or `during_answer`.
    pub point: Point,
    /// The time in seconds (real time) after which a request continues without a release; 1 to 600,
    /// default 60.
    #[serde(default = "default_wait")]
    #[schemars(range(min = 1, max = 600))]
    pub max_wait_seconds: u64,
}

/// The number of a gate, counted from 1 since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct GateId(pub u64);

/// The current state of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GateStatus {
    /// Its number.
    pub id: GateId,
    /// The gate as added.
    pub gate: Gate,
    /// The requests that wait, in the order of arrival.
    pub waiting: Vec<WaitingRequest>,
    /// The number of requests that were released.
    pub released: u64,
    /// The number of requests that continued after the maximum wait.
    pub timed_out: u64,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WaitingRequest {
    /// Its journal id.
    pub request: u64,
    /// Its call.
    pub operation: String,
    /// Its target.
    pub target: Option<String>,
    /// Its number among the requests for this operation and target.
    pub attempt: u64,
    /// When it began to wait, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: OffsetDateTime,
}

/// Why a gate cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GateError {
    /// Its coordinates are wrong.
    #[error(transparent)]
    Coordinates(#[from] RuleError),
    /// A point before the request is read.
    #[error("`point`: a gate stands at before_effect, after_effect or during_answer, where a request has been read")]
    Point,
    /// The wait is too long, or 0.
    #[error("`max_wait_seconds` is 1 to {}", MAX_WAIT.as_secs())]
    Wait,
    /// A restored gate whose number is out of order.
    #[error("`id` is not above that of the gate before it, or is above `last`")]
    Number,
    /// Too many gates.
    #[error("there are already {MAX_GATES} gates: remove some")]
    TooMany,
}

/// The gates of a world. A copy, and the JSON form, have the gates without the waiting requests.
#[derive(Debug, Default)]
pub struct Gates(Arc<Mutex<GateList>>);

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GateList {
    standing: Vec<GateEntry>,
    last: u64,
    #[serde(skip)]
    changed: Arc<Notify>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateEntry {
    id: GateId,
    gate: Gate,
    #[serde(skip)]
    waiting: Vec<(WaitingRequest, oneshot::Sender<()>)>,
    released: u64,
    timed_out: u64,
}

/// A request that has been stopped at a gate and has not begun to wait.
#[derive(Debug)]
pub(crate) struct Ticket {
    gates: Weak<Mutex<GateList>>,
    gate: GateId,
    request: u64,
    /// The number of bytes of the answer's body before the gate.
    pub(crate) after_bytes: usize,
    released: oneshot::Receiver<()>,
    max_wait: Duration,
}

/// Waits until the request is released, the gate is gone, or the maximum wait is over.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    sleep: Pin<Box<Sleep>>,
}

impl Gates {
    /// Adds a gate after the existing ones.
    ///
    /// # Errors
    /// What is wrong with it. Then it is not added.
    pub fn add(&self, gate: Gate) -> Result<GateId, GateError> {
        gate.check()?;
        let mut list = self.list_mut();
        if list.standing.len() >= MAX_GATES {
            return Err(GateError::TooMany);
        }
        list.last += 1;
        let id = GateId(list.last);
        list.standing.push(GateEntry { id, gate, waiting: Vec::new(), released: 0, timed_out: 0 });
        Ok(id)
    }

    /// Adds a gate that is removed when its handle is dropped.
    pub(crate) fn add_with_handle(&self, gate: Gate) -> Result<GateHandle, GateError> {
        let max_wait = Duration::from_secs(gate.max_wait_seconds);
        let id = self.add(gate)?;
        Ok(GateHandle { gates: Arc::downgrade(&self.0), id, max_wait })
    }

    /// All gates with their waiting requests.
    pub fn list(&self) -> Vec<GateStatus> {
        self.list_mut().standing.iter().map(GateEntry::status).collect()
    }

    /// One gate with its waiting requests.
    pub fn get(&self, id: GateId) -> Option<GateStatus> {
        self.list_mut().get(id)
    }

    /// Removes a gate, releases the requests that wait there, and returns its last state.
    pub fn remove(&self, id: GateId) -> Option<GateStatus> {
        self.list_mut().remove(id)
    }

    /// Releases one request, by its journal id. False if it does not wait at the gate.
    pub fn release(&self, id: GateId, request: u64) -> bool {
        self.list_mut().release(id, request)
    }

    /// Releases all requests at a gate and returns their journal ids. None if there is no such
    /// gate.
    pub fn release_all(&self, id: GateId) -> Option<Vec<u64>> {
        self.list_mut().release_all(id)
    }

    /// The number of requests that wait at any gate.
    pub(crate) fn waiting(&self) -> usize {
        self.list_mut().standing.iter().map(|entry| entry.waiting.len()).sum()
    }

    /// Checks gates that were restored instead of added.
    pub(crate) fn check(&self) -> Result<(), (GateId, GateError)> {
        let list = self.list_mut();
        if list.standing.len() > MAX_GATES {
            return Err((GateId(list.last), GateError::TooMany));
        }
        let mut before = GateId(0);
        for entry in &list.standing {
            entry.gate.check().map_err(|error| (entry.id, error))?;
            if entry.id <= before || entry.id.0 > list.last {
                return Err((entry.id, GateError::Number));
            }
            before = entry.id;
        }
        Ok(())
    }

    /// Whether there are no gates.
    pub(crate) fn is_empty(&self) -> bool {
        self.list_mut().standing.is_empty()
    }

    /// Whether a gate stops a request at a point.
    pub(crate) fn matches(&self, at: &Coordinates, kind: PointKind) -> bool {
        self.list_mut().standing.iter().any(|entry| entry.stops(at, kind))
    }

    /// Stops a request at the first gate that matches it.
    pub(crate) fn enter(
        &self,
        at: &Coordinates,
        kind: PointKind,
        request: u64,
        since: OffsetDateTime,
    ) -> Option<Ticket> {
        let mut list = self.list_mut();
        let entry = list.standing.iter_mut().find(|entry| entry.stops(at, kind))?;
        if entry.waiting.len() >= MAX_WAITING {
            return None;
        }
        let (sender, released) = oneshot::channel();
        let waiting = WaitingRequest {
            request,
            operation: at.operation.clone(),
            target: at.target.clone(),
            attempt: at.attempt,
            since,
        };
        entry.waiting.push((waiting, sender));
        let ticket = Ticket {
            gates: Arc::downgrade(&self.0),
            gate: entry.id,
            request,
            after_bytes: entry.gate.point.after_bytes(),
            released,
            max_wait: Duration::from_secs(entry.gate.max_wait_seconds),
        };
        list.changed.notify_waiters();
        Some(ticket)
    }

    fn list_mut(&self) -> MutexGuard<'_, GateList> {
        lock(&self.0)
    }
}

impl GateList {
    fn get(&self, id: GateId) -> Option<GateStatus> {
        self.standing.iter().find(|entry| entry.id == id).map(GateEntry::status)
    }

    fn remove(&mut self, id: GateId) -> Option<GateStatus> {
        let index = self.standing.iter().position(|entry| entry.id == id)?;
        let status = self.standing.remove(index).status();
        self.changed.notify_waiters();
        Some(status)
    }

    fn release(&mut self, id: GateId, request: u64) -> bool {
        let Some(entry) = self.standing.iter_mut().find(|entry| entry.id == id) else { return false };
        let Some(index) = entry.waiting.iter().position(|(waiting, _)| waiting.request == request) else {
            return false;
        };
        let (_, sender) = entry.waiting.remove(index);
        entry.released += 1;
        // The request may have ended meanwhile.
        let _ = sender.send(());
        self.changed.notify_waiters();
        true
    }

    fn release_all(&mut self, id: GateId) -> Option<Vec<u64>> {
        let requests: Vec<u64> = self.get(id)?.waiting.iter().map(|waiting| waiting.request).collect();
        Some(requests.into_iter().filter(|request| self.release(id, *request)).collect())
    }

    fn leave(&mut self, ticket: &Ticket, timed_out: bool) {
        let Some(entry) = self.standing.iter_mut().find(|entry| entry.id == ticket.gate) else { return };
        let before = entry.waiting.len();
        entry.waiting.retain(|(waiting, _)| waiting.request != ticket.request);
        if entry.waiting.len() < before {
            entry.timed_out += u64::from(timed_out);
            self.changed.notify_waiters();
        }
    }
}

impl Clone for Gates {
    fn clone(&self) -> Self {
        let list = self.list_mut();
        let entry = |entry: &GateEntry| GateEntry { gate: entry.gate.clone(), waiting: Vec::new(), ..*entry };
        let standing = list.standing.iter().map(entry).collect();
        Self(Arc::new(Mutex::new(GateList { standing, last: list.last, changed: Arc::default() })))
    }
}

impl Serialize for Gates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list_mut().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Gates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(Mutex::new(GateList::deserialize(deserializer)?))))
    }
}

impl GateEntry {
    fn stops(&self, at: &Coordinates, kind: PointKind) -> bool {
        self.gate.point.kind() == kind && self.gate.matches(at)
    }

    fn status(&self) -> GateStatus {
        GateStatus {
            id: self.id,
            gate: self.gate.clone(),
            waiting: self.waiting.iter().map(|(waiting, _)| waiting.clone()).collect(),
            released: self.released,
            timed_out: self.timed_out,
        }
    }
}

impl Gate {
    /// A gate for any request to a provider.
    pub fn new(provider: Provider, point: Point) -> Self {
        Self { provider, operation: None, target: None, attempt: None, point, max_wait_seconds: DEFAULT_WAIT_SECONDS }
    }

    fn check(&self) -> Result<(), GateError> {
        if matches!(self.point, Point::Connect | Point::BeforeRead) {
            return Err(GateError::Point);
        }
        if !(1..=MAX_WAIT.as_secs()).contains(&self.max_wait_seconds) {
            return Err(GateError::Wait);
        }
        // Coordinates that are valid for a rule are valid for a gate.
        Ok(self.as_rule().check()?)
    }

    fn matches(&self, at: &Coordinates) -> bool {
        self.as_rule().matches(at)
    }

    /// A rule with the same coordinates.
    fn as_rule(&self) -> Rule {
        Rule {
            operation: self.operation.clone(),
            target: self.target.clone(),
            attempt: self.attempt,
            ..Rule::new(self.provider, self.point, FaultEffect::Close)
        }
    }
}

impl Ticket {
    /// Begins to wait.
    pub(crate) fn wait(self) -> Waiting {
        Waiting { sleep: Box::pin(tokio::time::sleep(self.max_wait)), ticket: self }
    }

    fn leave(&self, timed_out: bool) {
        if let Some(gates) = self.gates.upgrade() {
            lock(&gates).leave(self, timed_out);
        }
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.as_mut().poll(cx).is_ready() {
            self.ticket.leave(true);
            return Poll::Ready(());
        }
        // A gate that is gone has dropped the sender, which also ends the wait.
        Pin::new(&mut self.ticket.released).poll(cx).map(drop)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave(false);
    }
}

/// A gate in the hands of a test. When it is dropped, the gate is removed and all requests
/// continue.
#[derive(Debug)]
#[must_use = "a gate is removed when its handle is dropped"]
pub struct GateHandle {
    gates: Weak<Mutex<GateList>>,
    id: GateId,
    max_wait: Duration,
}

/// Fewer requests came to a gate than expected.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("only {} came to the gate, not {wanted}", waiting.len())]
pub struct WaitTimeout {
    /// The requests that wait.
    pub waiting: Vec<WaitingRequest>,
    /// The number of requests expected.
    pub wanted: usize,
}

impl GateHandle {
    /// The number of the gate, as in the control API.
    pub fn id(&self) -> GateId {
        self.id
    }

    /// The requests that wait, in the order of arrival. Empty after a reset of the world.
    pub fn waiting(&self) -> Vec<WaitingRequest> {
        let status = self.with_gates(|gates| gates.get(self.id)).flatten();
        status.map(|gate| gate.waiting).unwrap_or_default()
    }

    /// Waits until at least this many requests wait at the gate, and returns them. Waits at most
    /// for the gate's maximum wait.
    ///
    /// # Errors
    /// Fewer requests came. The error contains them.
    pub async fn wait_for(&self, wanted: usize) -> Result<Vec<WaitingRequest>, WaitTimeout> {
        let enough = async {
            let Some(changed) = self.with_gates(|gates| gates.changed.clone()) else {
                return std::future::pending().await;
            };
            loop {
                // Registered before the check, so that no change between the two is missed.
                let mut next = std::pin::pin!(changed.notified());
                next.as_mut().enable();
                let waiting = self.waiting();
                if waiting.len() >= wanted {
                    return waiting;
                }
                next.await;
            }
        };
        let came = tokio::time::timeout(self.max_wait, enough).await;
        came.map_err(|_| WaitTimeout { waiting: self.waiting(), wanted })
    }

    /// Releases one request, by its journal id. False if it does not wait here.
    pub fn release(&self, request: u64) -> bool {
        self.with_gates(|gates| gates.release(self.id, request)).unwrap_or_default()
    }

    /// Releases all requests and returns their journal ids.
    pub fn release_all(&self) -> Vec<u64> {
        self.with_gates(|gates| gates.release_all(self.id)).flatten().unwrap_or_default()
    }

    fn with_gates<T>(&self, use_gates: impl FnOnce(&mut GateList) -> T) -> Option<T> {
        let gates = self.gates.upgrade()?;
        let mut gates = lock(&gates);
        Some(use_gates(&mut gates))
    }
}

impl Drop for GateHandle {
    fn drop(&mut self) {
        self.with_gates(|gates| drop(gates.remove(self.id)));
    }
}

fn lock(gates: &Mutex<GateList>) -> MutexGuard<'_, GateList> {
    gates.lock().unwrap_or_else(PoisonError::into_inner)
}

fn default_wait() -> u64 {
    DEFAULT_WAIT_SECONDS
}
