//! Gates: requests are parked at a point, seen waiting, and let go one by one, in the order of your
//! choice.
//!
//! A gate stands until it is taken away; whoever waits there then goes on, as does whoever has
//! waited for the gate's longest wait. Rules of the same point have their say behind the gate.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, oneshot},
    time::Sleep,
};

use crate::{
    faults::{Coordinates, FaultEffect, Moment, Point, Rule, RuleError},
    request::Provider,
    worlds::SharedWorld,
};

/// How many gates a world has at most.
pub const MAX_GATES: usize = 100;
/// How many requests wait at one gate at most; further ones go by.
pub const MAX_WAITING: usize = 10_000;
/// How long a request waits at a gate at most, in real time.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// How long it does where a gate says nothing.
const USUAL_WAIT_SECONDS: u64 = 60;

/// Where requests are parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// At which provider.
    pub provider: Provider,
    /// At which of its calls; left out: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// For which order or account reference, as it stands in the request; left out: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Only the nth request for one operation and target; left out: each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<u64>,
    /// At which point: `before_effect`, `after_effect` or `during_answer`.
    pub point: Point,
    /// After how many seconds, in real time, a request goes on by itself; 1 to 600, default 60.
    #[serde(default = "usual_wait")]
    #[schemars(range(min = 1, max = 600))]
    pub max_wait_seconds: u64,
}

/// The number of a gate, counted from 1 since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct GateId(pub u64);

/// A gate as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StandingGate {
    /// Its number.
    pub id: GateId,
    /// Where it stands.
    pub gate: Gate,
    /// Who waits, in the order of arrival.
    pub waiting: Vec<Waiting>,
    /// How many were let go.
    pub released: u64,
    /// How many went on by themselves, having waited for the longest wait.
    pub timed_out: u64,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Waiting {
    /// Its journal id.
    pub request: u64,
    /// Its call.
    pub operation: String,
    /// What it is about.
    pub target: Option<String>,
    /// Which request for this operation and target it is.
    pub attempt: u64,
    /// Since when, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: OffsetDateTime,
}

/// Why a gate cannot be put up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GateError {
    /// Its coordinates make no sense.
    #[error(transparent)]
    Where(#[from] RuleError),
    /// Nobody knows a request there.
    #[error("`point`: a gate stands at before_effect, after_effect or during_answer, where a request has been read")]
    Point,
    /// Too long a wait, or none.
    #[error("`max_wait_seconds` is 1 to {}", MAX_WAIT.as_secs())]
    Wait,
    /// Gates of a snapshot are numbered in their order.
    #[error("`id` is not behind that of the gate before it, or above `last`")]
    Number,
    /// Too many of them.
    #[error("{MAX_GATES} gates stand already: take some away")]
    TooMany,
}

/// The gates of a world, and who waits there. A copy has the gates, and nobody waits at them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    standing: Vec<Kept>,
    last: u64,
    #[serde(skip)]
    changed: Arc<Notify>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: GateId,
    gate: Gate,
    #[serde(skip)]
    waiting: Vec<(Waiting, oneshot::Sender<()>)>,
    released: u64,
    timed_out: u64,
}

/// A request's place at a gate.
pub(crate) struct Parked {
    world: SharedWorld,
    place: Place,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The same before it is waited at.
#[derive(Debug)]
pub(crate) struct Place {
    gate: GateId,
    request: u64,
    /// After how many bytes of the body.
    pub(crate) after_bytes: usize,
    released: oneshot::Receiver<()>,
    longest: Duration,
}

impl Gates {
    /// Puts up a gate, behind those that stand already.
    ///
    /// # Errors
    /// What is wrong with it; then there is none.
    pub fn put_up(&mut self, gate: Gate) -> Result<GateId, GateError> {
        gate.check()?;
        if self.standing.len() >= MAX_GATES {
            return Err(GateError::TooMany);
        }
        self.last += 1;
        let id = GateId(self.last);
        self.standing.push(Kept { id, gate, waiting: Vec::new(), released: 0, timed_out: 0 });
        Ok(id)
    }

    /// All gates, and who waits there.
    pub fn list(&self) -> Vec<StandingGate> {
        self.standing.iter().map(Kept::shown).collect()
    }

    /// One gate, and who waits there.
    pub fn get(&self, id: GateId) -> Option<StandingGate> {
        self.standing.iter().find(|kept| kept.id == id).map(Kept::shown)
    }

    /// Takes a gate away, lets all go who wait there, and tells how it stood.
    pub fn take_away(&mut self, id: GateId) -> Option<StandingGate> {
        let index = self.standing.iter().position(|kept| kept.id == id)?;
        let shown = self.standing.remove(index).shown();
        self.changed.notify_waiters();
        Some(shown)
    }

    /// Lets one request go that waits at a gate, by its journal id; false where it does not wait
    /// there.
    pub fn release(&mut self, id: GateId, request: u64) -> bool {
        let Some(kept) = self.standing.iter_mut().find(|kept| kept.id == id) else { return false };
        let Some(index) = kept.waiting.iter().position(|(waiting, _)| waiting.request == request) else { return false };
        let (_, sender) = kept.waiting.remove(index);
        kept.released += 1;
        // Whoever has gone meanwhile needs no word.
        let _ = sender.send(());
        self.changed.notify_waiters();
        true
    }

    /// Lets all go who wait at a gate, and tells who; none where there is no such gate.
    pub fn release_all(&mut self, id: GateId) -> Option<Vec<u64>> {
        let requests: Vec<u64> = self.get(id)?.waiting.iter().map(|waiting| waiting.request).collect();
        Some(requests.into_iter().filter(|request| self.release(id, *request)).collect())
    }

    /// How many requests wait, at all gates together.
    pub(crate) fn parked(&self) -> usize {
        self.standing.iter().map(|kept| kept.waiting.len()).sum()
    }

    /// Says what is wrong with gates that were not put up here, if anything is.
    pub(crate) fn check(&self) -> Result<(), (GateId, GateError)> {
        if self.standing.len() > MAX_GATES {
            return Err((GateId(self.last), GateError::TooMany));
        }
        let mut before = GateId(0);
        for kept in &self.standing {
            kept.gate.check().map_err(|error| (kept.id, error))?;
            if kept.id <= before || kept.id.0 > self.last {
                return Err((kept.id, GateError::Number));
            }
            before = kept.id;
        }
        Ok(())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.standing.is_empty()
    }

    /// Whether a gate stands in a request's way.
    pub(crate) fn stands_at(&self, at: &Coordinates, moment: Moment) -> bool {
        self.standing.iter().any(|kept| kept.gate.point.moment() == moment && kept.gate.fits(at))
    }

    /// Parks a request at the first gate that stands in its way.
    pub(crate) fn park(
        &mut self,
        at: &Coordinates,
        moment: Moment,
        request: u64,
        since: OffsetDateTime,
    ) -> Option<Place> {
        let kept = self.standing.iter_mut().find(|kept| kept.gate.point.moment() == moment && kept.gate.fits(at))?;
        if kept.waiting.len() >= MAX_WAITING {
            return None;
        }
        let (sender, released) = oneshot::channel();
        let waiting =
            Waiting { request, operation: at.operation.clone(), target: at.target.clone(), attempt: at.attempt, since };
        kept.waiting.push((waiting, sender));
        let longest = Duration::from_secs(kept.gate.max_wait_seconds);
        let place = Place { gate: kept.id, request, after_bytes: kept.gate.point.after_bytes(), released, longest };
        self.changed.notify_waiters();
        Some(place)
    }

    fn leave(&mut self, place: &Place, timed_out: bool) {
        let Some(kept) = self.standing.iter_mut().find(|kept| kept.id == place.gate) else { return };
        let before = kept.waiting.len();
        kept.waiting.retain(|(waiting, _)| waiting.request != place.request);
        if kept.waiting.len() < before {
            kept.timed_out += u64::from(timed_out);
            self.changed.notify_waiters();
        }
    }
}

impl Clone for Gates {
    fn clone(&self) -> Self {
        let kept = |kept: &Kept| Kept { gate: kept.gate.clone(), waiting: Vec::new(), ..*kept };
        Self { standing: self.standing.iter().map(kept).collect(), last: self.last, changed: Arc::default() }
    }
}

impl Kept {
    fn shown(&self) -> StandingGate {
        StandingGate {
            id: self.id,
            gate: self.gate.clone(),
            waiting: self.waiting.iter().map(|(waiting, _)| waiting.clone()).collect(),
            released: self.released,
            timed_out: self.timed_out,
        }
    }
}

impl Gate {
    /// A gate for any request at a provider.
    pub fn new(provider: Provider, point: Point) -> Self {
        Self { provider, operation: None, target: None, attempt: None, point, max_wait_seconds: USUAL_WAIT_SECONDS }
    }

    fn check(&self) -> Result<(), GateError> {
        if matches!(self.point, Point::Connect | Point::BeforeRead) {
            return Err(GateError::Point);
        }
        if !(1..=MAX_WAIT.as_secs()).contains(&self.max_wait_seconds) {
            return Err(GateError::Wait);
        }
        // What makes sense as a place for a rule makes sense as one for a gate.
        Ok(self.as_rule().check()?)
    }

    fn fits(&self, at: &Coordinates) -> bool {
        self.provider == at.provider
            && self.operation.as_ref().is_none_or(|operation| *operation == at.operation)
            && self.target.as_ref().is_none_or(|target| at.target.as_ref() == Some(target))
            && self.attempt.is_none_or(|attempt| attempt == at.attempt)
    }

    fn as_rule(&self) -> Rule {
        Rule {
            operation: self.operation.clone(),
            target: self.target.clone(),
            attempt: self.attempt,
            ..Rule::new(self.provider, self.point, FaultEffect::Close)
        }
    }
}

impl Place {
    /// Begins to wait there.
    pub(crate) fn wait_in(self, world: SharedWorld) -> Parked {
        Parked { world, place: self, sleep: None }
    }
}

impl Parked {
    /// Ready when the request may go on.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let longest = self.place.longest;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        if sleep.as_mut().poll(cx).is_ready() {
            self.world.lock().gates.leave(&self.place, true);
            return Poll::Ready(());
        }
        // A gate that is gone lets all go, too.
        Pin::new(&mut self.place.released).poll(cx).map(drop)
    }
}

impl Future for Parked {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Parked::poll(&mut self, cx)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.world.lock().gates.leave(&self.place, false);
    }
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A gate in the hands of a test; dropped, it is taken away and all who wait go on.
#[derive(Debug)]
#[must_use = "a gate that nobody holds is gone at once"]
pub struct GateHandle {
    world: SharedWorld,
    id: GateId,
    longest: Duration,
}

/// Fewer came to a gate than were waited for.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("only {} came to the gate, not {wanted}", waiting.len())]
pub struct TooFew {
    /// Those who wait there.
    pub waiting: Vec<Waiting>,
    /// How many were waited for.
    pub wanted: usize,
}

impl GateHandle {
    pub(crate) fn put_up(world: SharedWorld, gate: Gate) -> Result<GateHandle, GateError> {
        let longest = Duration::from_secs(gate.max_wait_seconds);
        let id = world.lock().gates.put_up(gate)?;
        Ok(GateHandle { world, id, longest })
    }

    /// Its number, as the control port has it.
    pub fn id(&self) -> GateId {
        self.id
    }

    /// Who waits there now, in the order of arrival.
    pub fn waiting(&self) -> Vec<Waiting> {
        self.world.lock().gates.get(self.id).map(|gate| gate.waiting).unwrap_or_default()
    }

    /// Waits until at least so many wait at the gate, and tells who; at most for as long as the
    /// gate lets a request wait.
    ///
    /// # Errors
    /// Who had come by then.
    pub async fn wait_for(&self, wanted: usize) -> Result<Vec<Waiting>, TooFew> {
        let enough = async {
            let changed = self.world.lock().gates.changed.clone();
            loop {
                // Asked for before the look, so that no change between the two is missed.
                let mut next = std::pin::pin!(changed.notified());
                next.as_mut().enable();
                let waiting = self.waiting();
                if waiting.len() >= wanted {
                    return waiting;
                }
                next.await;
            }
        };
        let came = tokio::time::timeout(self.longest, enough).await;
        came.map_err(|_| TooFew { waiting: self.waiting(), wanted })
    }

    /// Lets one request go, by its journal id; false where it does not wait here.
    pub fn release(&self, request: u64) -> bool {
        self.world.lock().gates.release(self.id, request)
    }

    /// Lets all go who wait here, and tells who.
    pub fn release_all(&self) -> Vec<u64> {
        self.world.lock().gates.release_all(self.id).unwrap_or_default()
    }
}

impl Drop for GateHandle {
    fn drop(&mut self) {
        drop(self.world.lock().gates.take_away(self.id));
    }
}

fn usual_wait() -> u64 {
    USUAL_WAIT_SECONDS
}
