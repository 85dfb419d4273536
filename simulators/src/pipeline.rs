//! The course of one request: past the gates and rules of each point, through the provider, into
//! the journal.
//!
//! ```text
//! identify -> journal opens -> before the effect -> perform, books -> after the effect -> during the answer -> journal closes -> answer
//!             `------ one lock -----´   (waits)     `-------- one lock --------´ (waits)
//!             `---------------------------- one lock where nothing can stand in its way ---------------------------´
//! ```
//!
//! Its connection's task takes it along, and a task of its own the rest of the way where that one
//! ends: a client that goes away in the middle has asked all the same, and a provider does what it
//! was asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::header;
use tokio::{sync::watch, time::timeout};

use crate::{
    faults::forged_answers,
    faults::magic_targets,
    faults::stale_state::Memory,
    faults::{Coordinates, FaultEffect, Faults, Fired, Moment, Point, RuleId, Step},
    http::connection::Cut,
    http::response_body::{Act, Plan, Report, Went},
    http::server::told,
    providers::namecom::{self, KeyInFlight},
    record::journal::{Arrival, Ending},
    request::{Answer, Identified, Performed, Provider, Request},
    worlds::{Held, InFlight, SharedWorld, World, Worlds, identify},
};

/// What the connection is to do at the end.
pub(crate) enum Verdict {
    /// Send this, in this way.
    Answer(Box<Sending>),
    /// Send nothing, and end like this.
    Cut(Cut),
}

/// An answer and the way in which it goes out.
pub(crate) struct Sending {
    pub(crate) answer: Answer,
    pub(crate) plan: Plan,
    /// Whom to tell how it went; none where the journal knows already.
    pub(crate) report: Option<Report>,
}

/// Whether the client is still there to be answered; the connection says so, the journal tells it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    gone: Arc<AtomicBool>,
    /// Whether it wants the connection closed behind the answer.
    closes: bool,
}

/// One request under way.
struct Course {
    world: SharedWorld,
    provider: Provider,
    request: Request,
    identified: Identified,
    client: Client,
    stopping: watch::Receiver<bool>,
    coordinates: Coordinates,
    journal_id: u64,
    life: u64,
    /// What the rules so far want done to the answer, each from one byte of its body on.
    acts: Vec<(usize, Act)>,
    /// The idempotency key that it holds until it is answered.
    in_flight: Option<InFlight>,
}

/// Where a point leaves a request.
enum Turn {
    /// It goes on.
    On,
    /// There is nothing more to do but to send this.
    Answer(Answer),
    /// There is nothing to send.
    Cut(Cut),
}

impl Sending {
    /// An answer that goes out as it is, and of which the journal knows, or is not to know.
    pub(crate) fn plainly(answer: Answer) -> Sending {
        Sending { plan: Plan::plain(answer.body.clone()), answer, report: None }
    }
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

    /// How it ends where nothing is done to the answer.
    fn usual_ending(&self) -> Ending {
        if self.closes { Ending::ClosedAfterAnswer } else { Ending::KeptAlive }
    }
}

/// A request that has been read, and the world that it is for.
pub(crate) struct Addressed {
    world: SharedWorld,
    provider: Provider,
    arrival: Arrival,
    /// The rules of that world that its connection has met.
    met: Vec<RuleId>,
    request: Request,
    identified: Identified,
}

impl Addressed {
    /// Reads what a request is, and finds its world: the one that the port belongs to, or else the
    /// one that its username does. `met` are the rules that its connection has met.
    pub(crate) fn new(
        (worlds, owner): (&Worlds, Option<&SharedWorld>),
        provider: Provider,
        (arrival, mut met): (Arrival, Vec<RuleId>),
        request: Request,
    ) -> Addressed {
        let identified = identify(provider, &request);
        let world = owner.cloned().unwrap_or_else(|| worlds.of(provider, &identified));
        // Behind everybody's ports a connection meets the demo world's rules, whose numbers mean
        // nothing in another world's journal.
        if owner.is_none() && !world.is(worlds.demo()) {
            met.clear();
        }
        Addressed { world, provider, arrival, met, request, identified }
    }

    /// Takes the request to its end.
    pub(crate) async fn answered(self, client: Client, stopping: watch::Receiver<bool>) -> Verdict {
        self.world.when_free().await;
        match Course::enter(self, client, stopping) {
            Entered::Answered(verdict) => verdict,
            Entered::UnderWay(course) => course.run().await,
        }
    }
}

/// Where a request is once it is in the journal.
enum Entered {
    UnderWay(Box<Course>),
    /// It has been answered already.
    Answered(Verdict),
}

impl Course {
    /// Opens a request's journal entry. Where nothing can stand in its way, it goes the whole way
    /// at once.
    fn enter(addressed: Addressed, client: Client, stopping: watch::Receiver<bool>) -> Entered {
        let Addressed { world, provider, arrival, met, request, identified } = addressed;
        let mut locked = world.lock();
        let now = locked.now();
        let coordinates = locked.faults.locate(provider, arrival.ordinal, &identified);
        let journal_id = locked.journal.open(now, provider, arrival, &request, &identified, coordinates.attempt);
        if !met.is_empty() {
            locked.journal.rules(journal_id, met);
        }
        if is_clear(&locked, &world, provider, &identified) {
            let performed = look_back(&mut locked, provider, &request, &identified);
            let performed = performed.unwrap_or_else(|| locked.perform_at(now, provider, journal_id, &request));
            locked.journal.close(journal_id, Some(&performed.answer), client.usual_ending());
            return Entered::Answered(Verdict::Answer(Box::new(Sending::plainly(performed.answer))));
        }
        let life = locked.life();
        drop(locked);
        Entered::UnderWay(Box::new(Course {
            world,
            provider,
            request,
            identified,
            client,
            stopping,
            coordinates,
            journal_id,
            life,
            acts: Vec::new(),
            in_flight: None,
        }))
    }

    /// Takes the request to its end, past all that could be in its way.
    async fn run(mut self) -> Verdict {
        match self.turn().await {
            Turn::Answer(answer) => self.send(answer),
            Turn::Cut(cut) => self.end(cut),
            // A world that was reset or deleted meanwhile has nothing to say.
            Turn::On => Verdict::Cut(Cut::Close),
        }
    }

    /// The way to the answer; [`Turn::On`] where the request's world has gone meanwhile.
    async fn turn(&mut self) -> Turn {
        match self.wait_for_key().await {
            Turn::On => {}
            over => return over,
        }
        if let Turn::Cut(cut) = self.wait_at_gate(Moment::BeforeEffect).await {
            return Turn::Cut(cut);
        }
        let Some((before, fired)) = self.before() else { return Turn::On };
        match self.suffer(fired, before, None).await {
            Turn::On => {}
            over => return over,
        }
        let Some((performed, before, fired)) = self.perform() else { return Turn::On };
        let fired = match fired {
            Some(fired) => fired,
            None => {
                if let Turn::Cut(cut) = self.wait_at_gate(Moment::AfterEffect).await {
                    return Turn::Cut(cut);
                }
                let Some(fired) = self.world_of_this_life().map(|mut world| self.fire(&mut world, Moment::AfterEffect))
                else {
                    return Turn::On;
                };
                fired
            }
        };
        self.suffer(fired, before, Some(performed.answer)).await
    }

    /// A second request under a key that is in flight waits for the first one's answer, or is
    /// refused, as the settings say.
    async fn wait_for_key(&mut self) -> Turn {
        let (Provider::Namecom, true, Some(username), Some(key)) =
            (self.provider, self.identified.moves_money, &self.identified.username, &self.identified.identifier)
        else {
            return Turn::On;
        };
        let Some(settings) = self.world_of_this_life().map(|world| world.settings.namecom.clone()) else {
            return Turn::On;
        };
        if !settings.idempotency_keys {
            return Turn::On;
        }
        let turn = self.world.flights().turn(username, key);
        let held = match settings.key_in_flight {
            KeyInFlight::Refuse => InFlight::now(turn),
            KeyInFlight::Hold => {
                tokio::select! {
                    held = InFlight::when_free(turn) => Some(held),
                    () = told(&mut self.stopping) => return Turn::Cut(Cut::Close),
                }
            }
        };
        self.in_flight = held;
        if self.in_flight.is_some() { Turn::On } else { Turn::Answer(namecom::key_in_flight(&settings)) }
    }

    fn before(&self) -> Option<(Option<Memory>, Fired)> {
        let mut world = self.world_of_this_life()?;
        let fired = self.fire(&mut world, Moment::BeforeEffect);
        let before = (!fired.steps.is_empty()).then(|| Memory::of(&world, self.provider));
        Some((before, fired))
    }

    /// Does what was asked, and reads the rules of the point behind it in the same moment, unless a
    /// gate stands there. None where the world was reset meanwhile.
    fn perform(&self) -> Option<(Performed, Option<Memory>, Option<Fired>)> {
        let mut world = self.world_of_this_life()?;
        let before = world.faults.wants_what_was(&self.coordinates).then(|| Memory::of(&world, self.provider));
        let performed = look_back(&mut world, self.provider, &self.request, &self.identified);
        let performed = performed.unwrap_or_else(|| world.perform(self.provider, self.journal_id, &self.request));
        let is_gated = world.gates.stands_at(&self.coordinates, Moment::AfterEffect);
        let fired = (!is_gated).then(|| self.fire(&mut world, Moment::AfterEffect));
        Some((performed, before, fired))
    }

    fn fire(&self, world: &mut World, moment: Moment) -> Fired {
        let mut fired = world.faults.fire(&self.coordinates, moment);
        if fired.steps.is_empty()
            && self.identified.moves_money
            && let Some((point, effect)) = magic_rule(world, self.provider, &self.identified)
        {
            fired = Faults::unarmed(*point, effect, moment);
        }
        if !fired.rules.is_empty() {
            world.journal.rules(self.journal_id, fired.rules.iter().copied());
        }
        fired
    }

    fn world_of_this_life(&self) -> Option<Held<'_>> {
        Some(self.world.lock()).filter(|world| world.life() == self.life)
    }

    /// Waits until a gate lets the request go on; a cut where the simulators stop first.
    async fn wait_at_gate(&mut self, moment: Moment) -> Turn {
        let place = self.world_of_this_life().and_then(|mut world| {
            let now = world.clock.now();
            world.gates.park(&self.coordinates, moment, self.journal_id, now)
        });
        let Some(place) = place else { return Turn::On };
        let parked = place.wait_in(self.world.clone());
        tokio::select! {
            () = parked => Turn::On,
            () = told(&mut self.stopping) => Turn::Cut(Cut::Close),
        }
    }

    /// Does what the rules of one point say, in their order, holding nothing.
    async fn suffer(&mut self, fired: Fired, before: Option<Memory>, mut answer: Option<Answer>) -> Turn {
        for (at, step) in fired.steps {
            match step {
                Step::Delay(delay) => {
                    if timeout(delay, told(&mut self.stopping)).await.is_ok() {
                        return Turn::Cut(Cut::Close);
                    }
                }
                Step::Answer(other) => return Turn::Answer(other),
                // What is done to an answer before the effect is done to the one that the provider
                // would give.
                Step::Corrupt(bytes) => {
                    self.acts.push((at, Act::Corrupt(bytes)));
                    answer = answer.or_else(|| self.rehearsed(before.as_ref()));
                }
                Step::Drip { bytes, every } => {
                    self.acts.push((at, Act::Drip { bytes, every }));
                    answer = answer.or_else(|| self.rehearsed(before.as_ref()));
                }
                Step::Truncate { after_bytes } => {
                    self.acts.push((after_bytes, Act::Cut(Cut::BreakOff)));
                    answer = answer.or_else(|| self.rehearsed(before.as_ref()));
                }
                Step::Cut(cut) => return Turn::Cut(cut),
                Step::HalfWay => answer = self.half_way().or(answer),
                Step::CommitLate { seconds } => answer = self.commit_late(before.as_ref(), seconds).or(answer),
                Step::Stale { rule, seconds } => {
                    if let Some(old) = self.stale(before.as_ref(), rule, seconds) {
                        answer = Some(old);
                    }
                }
                Step::Pretend(pretence) => {
                    let told = before.clone().and_then(|before| {
                        let mut world = self.world_of_this_life()?;
                        let now = world.now();
                        Some(forged_answers::told(
                            pretence,
                            before,
                            &world.settings,
                            now,
                            &self.request,
                            &self.identified,
                        ))
                    });
                    answer = told.or(answer);
                }
                // Nothing else can be armed for these points.
                Step::RefuseTls => {}
            }
        }
        answer.map_or(Turn::On, Turn::Answer)
    }

    fn rehearsed(&self, before: Option<&Memory>) -> Option<Answer> {
        let mut world = self.world_of_this_life()?;
        let now = world.now();
        Some(forged_answers::rehearsed(before?.clone(), &world.settings, now, &self.request))
    }

    /// Has the first half of a refund done, and tells what is answered to that.
    fn half_way(&self) -> Option<Answer> {
        let mut world = self.world_of_this_life()?;
        Some(world.perform_half_way(self.journal_id, &self.request).answer)
    }

    /// Puts the request off, and answers a time-out.
    fn commit_late(&self, before: Option<&Memory>, seconds: u64) -> Option<Answer> {
        let mut world = self.world_of_this_life()?;
        let now = world.now();
        let answer = forged_answers::timed_out(before?.clone(), &world.settings, now, &self.request, &self.identified);
        world.perform_later(Duration::from_secs(seconds), self.provider, self.journal_id, self.request.clone());
        Some(answer)
    }

    /// Has later lookups see what was before a refund; a lookup itself is answered from the moment
    /// in which the rule was armed.
    fn stale(&self, before: Option<&Memory>, rule: RuleId, seconds: u64) -> Option<Answer> {
        let mut world = self.world_of_this_life()?;
        let now = world.now();
        if self.identified.moves_money {
            world.past.show_before(self.identified.target.clone(), before?.clone(), now, seconds);
            return None;
        }
        let memory = world.past.when_armed(rule, now, seconds)?.clone();
        Some(forged_answers::rehearsed(memory, &world.settings, now, &self.request))
    }

    /// Has the rules of the last point say how the answer goes out, and closes the journal where
    /// that is clear.
    fn send(mut self, answer: Answer) -> Verdict {
        let Some(mut world) = self.world_of_this_life() else { return Verdict::Cut(Cut::Close) };
        let fired = self.fire(&mut world, Moment::DuringAnswer);
        let now = world.clock.now();
        let place = world.gates.park(&self.coordinates, Moment::DuringAnswer, self.journal_id, now);
        drop(world);

        let mut acts = std::mem::take(&mut self.acts);
        acts.extend(place.map(|place| (place.after_bytes, Act::Gate(place.wait_in(self.world.clone())))));
        acts.extend(fired.steps.into_iter().filter_map(|(at, step)| Some((at, act(step)?))));
        let plan = Plan::new(answer.body.clone(), acts);
        let ending = self.ending(&plan);
        let report = if plan.is_plain() {
            self.close(Some(&answer), ending);
            None
        } else {
            let sent = Answer { body: plan.sent().clone(), ..answer.clone() };
            if plan.is_slow() {
                Some(self.report(sent, ending))
            } else {
                self.close(Some(&sent), ending);
                None
            }
        };
        Verdict::Answer(Box::new(Sending { answer, plan, report }))
    }

    fn ending(&self, plan: &Plan) -> Ending {
        match plan.cut() {
            _ if self.client.is_gone() => Ending::ClientGone,
            Some(Cut::Close | Cut::BreakOff) if plan.is_short() => Ending::Truncated,
            Some(Cut::Reset) if plan.is_short() => Ending::ResetInAnswer,
            Some(Cut::Silence) if plan.is_short() => Ending::StalledInAnswer,
            Some(Cut::Close | Cut::BreakOff) => Ending::ClosedAfterAnswer,
            Some(Cut::Reset) => Ending::ResetAfterAnswer,
            Some(Cut::Silence) | None => self.client.usual_ending(),
        }
    }

    /// Closes the journal when it is clear how it went.
    fn report(&self, sent: Answer, ending: Ending) -> Report {
        let (world, life, journal_id) = (self.world.clone(), self.life, self.journal_id);
        Box::new(move |went| {
            let mut world = world.lock();
            if world.life() != life {
                return;
            }
            match went {
                Went::AsPlanned => world.journal.close(journal_id, Some(&sent), ending),
                Went::ClientGone { sent: bytes } => {
                    let body: Bytes = sent.body.slice(..bytes.min(sent.body.len()));
                    world.journal.close(journal_id, Some(&Answer { body, ..sent }), Ending::ClientGone);
                }
            }
        })
    }

    fn end(self, cut: Cut) -> Verdict {
        self.close(
            None,
            match cut {
                _ if self.client.is_gone() => Ending::ClientGone,
                Cut::Close | Cut::BreakOff => Ending::ClosedWithoutAnswer,
                Cut::Reset => Ending::ResetWithoutAnswer,
                Cut::Silence => Ending::NeverAnswered,
            },
        );
        Verdict::Cut(cut)
    }

    fn close(&self, answer: Option<&Answer>, ending: Ending) {
        if let Some(mut world) = self.world_of_this_life() {
            let answer = answer.filter(|_| ending != Ending::ClientGone);
            world.journal.close(self.journal_id, answer, ending);
        }
    }
}

/// Whether nothing is armed, put up or under way that a request could meet before it is answered.
fn is_clear(world: &World, shared: &SharedWorld, provider: Provider, identified: &Identified) -> bool {
    let has_key_in_flight = || match (&identified.username, &identified.identifier) {
        (Some(username), Some(key)) => provider == Provider::Namecom && shared.flights().holds(username, key),
        _ => false,
    };
    world.faults.is_empty()
        && world.gates.is_empty()
        && (!identified.moves_money || (magic_rule(world, provider, identified).is_none() && !has_key_in_flight()))
}

/// What happens by itself to a refund of this target.
fn magic_rule(world: &World, provider: Provider, identified: &Identified) -> Option<&'static (Point, FaultEffect)> {
    let target = identified.target.as_deref().filter(|_| world.has_demo_data())?;
    magic_targets::rule_for(provider, target)
}

/// The answer to a lookup that a rule on an earlier refund has shown the past.
fn look_back(world: &mut World, provider: Provider, request: &Request, identified: &Identified) -> Option<Performed> {
    if identified.moves_money || identified.destructive {
        return None;
    }
    let now = world.now();
    // A domain is looked up without a word of the order that it was bought in: that is shown the
    // past like a list.
    let target = identified.target.as_ref().filter(|_| identified.operation != "GetDomain");
    let mut memory = world.past.for_lookup(provider, target, now)?.clone();
    Some(memory.perform(&world.settings, now, request))
}

/// What a rule in the middle of an answer does to it.
fn act(step: Step) -> Option<Act> {
    match step {
        Step::Delay(wait) => Some(Act::Wait(wait)),
        Step::Corrupt(bytes) => Some(Act::Corrupt(bytes)),
        Step::Drip { bytes, every } => Some(Act::Drip { bytes, every }),
        Step::Truncate { .. } => Some(Act::Cut(Cut::BreakOff)),
        Step::Cut(cut) => Some(Act::Cut(cut)),
        // Nothing else can be armed for this point.
        Step::RefuseTls
        | Step::Answer(_)
        | Step::CommitLate { .. }
        | Step::HalfWay
        | Step::Stale { .. }
        | Step::Pretend(_) => None,
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
