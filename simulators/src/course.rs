//! The course of one request: past the fault points, through the provider, into the journal.
//!
//! ```text
//! identify -> journal opens -> faults before the effect -> perform, books -> faults after the effect -> journal closes -> answer
//!             `------ one lock ------´      (waits)        `------------ one lock -----------´  (waits)
//! ```
//!
//! It runs in a task of its own: a client that goes away in the middle has asked all the same, and a provider does what it was asked.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use http::header;
use tokio::{sync::watch, time::timeout};

use crate::{
    exchange::{Answer, Performed, Provider, Request},
    faults::{Coordinates, Fired, Point, Step},
    journal::{Arrival, Ending},
    server::told,
    worlds::{SharedWorld, World, Worlds, identify},
};

/// What the connection is to do at the end.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Send this.
    Answer(Answer),
    /// Close, and send nothing.
    Close,
}

/// Whether the client is still there to be answered; the connection says so, the journal tells it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    gone: Arc<AtomicBool>,
    /// Whether it wants the connection closed behind the answer.
    closes: bool,
}

/// One request under way.
pub(crate) struct Course {
    world: SharedWorld,
    provider: Provider,
    request: Request,
    client: Client,
    stopping: watch::Receiver<bool>,
    coordinates: Coordinates,
    journal_id: u64,
    life: u64,
}

impl Client {
    pub(crate) fn new(closes: bool) -> Client {
        Client { gone: Arc::default(), closes }
    }

    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Course {
    /// Reads what the request is and opens its journal entry.
    pub(crate) fn enter(
        worlds: &Worlds,
        provider: Provider,
        arrival: Arrival,
        request: Request,
        client: Client,
        stopping: watch::Receiver<bool>,
    ) -> Course {
        let identified = identify(provider, &request);
        let world = worlds.of(provider, &identified);
        let mut locked = world.lock();
        let now = locked.now();
        let coordinates = locked.faults.locate(provider, &identified);
        let journal_id = locked.journal.open(now, provider, arrival, &request, &identified, coordinates.attempt());
        let life = locked.life();
        drop(locked);
        Course { world, provider, request, client, stopping, coordinates, journal_id, life }
    }

    /// Takes the request to its end.
    pub(crate) async fn run(mut self) -> Verdict {
        let Some(fired) = self.before() else { return Verdict::Close };
        if let Some(verdict) = self.suffer(fired).await {
            return self.end(verdict);
        }
        let Some((performed, fired)) = self.perform() else { return Verdict::Close };
        let verdict = self.suffer(fired).await.unwrap_or(Verdict::Answer(performed.answer));
        self.end(verdict)
    }

    /// Does what was asked, and reads the rules of the point behind it in the same moment; none where the world was reset meanwhile.
    fn perform(&self) -> Option<(Performed, Fired)> {
        let mut world = self.world_of_this_life()?;
        let performed = world.perform(self.provider, self.journal_id, &self.request);
        let fired = world.faults.fire(&self.coordinates, Point::AfterEffect);
        world.journal.rules(self.journal_id, fired.rules.iter().copied());
        Some((performed, fired))
    }

    fn before(&self) -> Option<Fired> {
        let mut world = self.world_of_this_life()?;
        let fired = world.faults.fire(&self.coordinates, Point::BeforeEffect);
        world.journal.rules(self.journal_id, fired.rules.iter().copied());
        Some(fired)
    }

    fn world_of_this_life(&self) -> Option<MutexGuard<'_, World>> {
        Some(self.world.lock()).filter(|world| world.life() == self.life)
    }

    /// Does what the rules say, in their order, holding nothing; a verdict where they leave nothing more to do.
    async fn suffer(&mut self, fired: Fired) -> Option<Verdict> {
        for step in fired.steps {
            match step {
                Step::Delay(delay) => {
                    if timeout(delay, told(&mut self.stopping)).await.is_ok() {
                        return Some(Verdict::Close);
                    }
                }
                Step::Close => return Some(Verdict::Close),
                Step::Answer(answer) => return Some(Verdict::Answer(answer)),
            }
        }
        None
    }

    fn end(self, verdict: Verdict) -> Verdict {
        let Some(mut world) = self.world_of_this_life() else { return Verdict::Close };
        let (answer, ending) = match &verdict {
            Verdict::Close => (None, Ending::ClosedWithoutAnswer),
            Verdict::Answer(_) if self.client.is_gone() => (None, Ending::ClientGone),
            Verdict::Answer(answer) if self.client.closes => (Some(answer), Ending::ClosedAfterAnswer),
            Verdict::Answer(answer) => (Some(answer), Ending::KeptAlive),
        };
        world.journal.close(self.journal_id, answer, ending);
        drop(world);
        verdict
    }
}

/// Whether the request asks for the connection to be closed behind its answer.
pub(crate) fn wants_close(version: http::Version, headers: &http::HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = tokens.flat_map(|value| value.split(',')).map(str::trim);
    if version == http::Version::HTTP_11 {
        tokens.any(|token| token.eq_ignore_ascii_case("close"))
    } else {
        !tokens.any(|token| token.eq_ignore_ascii_case("keep-alive"))
    }
}
