//! The way of one request: past the gates and rules of each point, through the provider, into the
//! journal.
//!
//! ```text
//! inspect
//! journal opens              one lock
//! before the effect          gate, rules; waits without a lock
//! handle, books              one lock, together with the rules after the effect
//! after the effect           gate, rules; waits without a lock
//! during the answer          gate, rules; the journal closes, at the latest when the body is sent
//! response
//! ```
//!
//! If no rule, gate, magic target or idempotency key can affect the request, everything from
//! opening to closing the journal happens under one lock.
//!
//! ```text
//! RoutedRequest::run -> RequestRun::admit -> fast path | RequestRun::run
//! ```
//!
//! It runs on the connection's task. If the client disconnects, a detached task finishes it: the
//! provider still does what it was asked.

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
    faults::magic_targets,
    faults::{Coordinates, FaultAction, FaultEffect, Faults, FiredRules, Point, PointKind, RuleId},
    http::connection::Disconnect,
    http::response_body::{BodyFault, BodyScript, OnSent, SendResult},
    providers::{Inspected, ProviderSnapshot, emulated::KeyInProgress},
    record::journal::{Arrival, Ending},
    request::{Handled, Provider, Request, RequestInfo, Response},
    shutdown,
    worlds::{KeyGuard, World, WorldGuard, WorldRef, Worlds},
};

/// What the connection has to do for a request.
pub(crate) enum Action {
    Reply(Box<Reply>),
    /// Sends nothing, and ends the connection.
    Disconnect(Disconnect),
}

/// A response and how it is sent.
pub(crate) struct Reply {
    pub(crate) response: Response,
    pub(crate) script: BodyScript,
    /// Called when the response has been sent; none if the journal is already closed.
    pub(crate) on_sent: Option<OnSent>,
}

/// The state of the client, shared by its connection and its request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    gone: Arc<AtomicBool>,
    /// Whether it wants the connection to be closed after the response.
    closes: bool,
}

/// A request in progress.
struct RequestRun {
    world: WorldRef,
    provider: Provider,
    request: Request,
    inspected: Inspected,
    client: Client,
    stopping: watch::Receiver<bool>,
    coordinates: Coordinates,
    journal_id: u64,
    generation: u64,
    /// The faults in the response that rules have added, each from a byte of its body on.
    body_faults: Vec<(usize, BodyFault)>,
    /// The idempotency key that it holds until it is answered.
    key: Option<KeyGuard>,
}

/// How a request continues after a point.
enum Flow {
    Continue,
    Respond(Response),
    Disconnect(Disconnect),
}

impl Reply {
    /// A response without faults that the journal does not wait for.
    pub(crate) fn plain(response: Response) -> Reply {
        Reply { script: BodyScript::plain(response.body.clone()), response, on_sent: None }
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

    /// The ending of a request without faults.
    fn normal_ending(&self) -> Ending {
        if self.closes { Ending::ClosedAfterAnswer } else { Ending::KeptAlive }
    }
}

/// A request that has been read, and its world.
pub(crate) struct RoutedRequest {
    world: WorldRef,
    provider: Provider,
    arrival: Arrival,
    /// The rules of that world that fired on its connection.
    rules: Vec<RuleId>,
    request: Request,
    inspected: Inspected,
}

impl RoutedRequest {
    /// Inspects a request and finds its world: the owner of the port, or else the world of its
    /// username. `rules` fired on its connection.
    pub(crate) fn new(
        (worlds, owner): (&Worlds, Option<&WorldRef>),
        provider: Provider,
        (arrival, mut rules): (Arrival, Vec<RuleId>),
        request: Request,
    ) -> RoutedRequest {
        let inspected = provider.inspect(&request);
        let world = owner.cloned().unwrap_or_else(|| worlds.of(provider, &inspected.info));
        // On shared ports the rules of connections are those of the demo world, whose numbers mean
        // nothing in another world's journal.
        if owner.is_none() && !world.is(worlds.demo()) {
            rules.clear();
        }
        RoutedRequest { world, provider, arrival, rules, request, inspected }
    }

    /// Runs the request to its end.
    pub(crate) async fn run(self, client: Client, stopping: watch::Receiver<bool>) -> Action {
        match RequestRun::admit(self, client, stopping) {
            Admitted::Done(action) => action,
            Admitted::Running(run) => run.run().await,
        }
    }
}

/// The state of a request after its journal entry is opened.
enum Admitted {
    Running(Box<RequestRun>),
    Done(Action),
}

impl RequestRun {
    /// Opens the journal entry. On the fast path it also handles the request and closes the entry,
    /// under the same lock.
    fn admit(routed: RoutedRequest, client: Client, stopping: watch::Receiver<bool>) -> Admitted {
        let RoutedRequest { world, provider, arrival, rules, request, inspected } = routed;
        let info = &inspected.info;
        let mut locked = world.lock();
        let now = locked.now();
        let coordinates = locked.faults.locate(provider, arrival.ordinal, info);
        let journal_id = locked.journal.open(now, provider, arrival, &request, info, coordinates.attempt);
        if !rules.is_empty() {
            locked.journal.rules(journal_id, rules);
        }
        if takes_fast_path(&locked, &world, provider, info) {
            let handled = answer_from_past(&mut locked, provider, &request, &inspected);
            let handled = handled.unwrap_or_else(|| locked.handle_at(now, provider, journal_id, &request, &inspected));
            locked.journal.close(journal_id, Some(&handled.response), client.normal_ending());
            return Admitted::Done(Action::Reply(Box::new(Reply::plain(handled.response))));
        }
        let generation = locked.generation();
        drop(locked);
        Admitted::Running(Box::new(RequestRun {
            world,
            provider,
            request,
            inspected,
            client,
            stopping,
            coordinates,
            journal_id,
            generation,
            body_faults: Vec::new(),
            key: None,
        }))
    }

    async fn run(mut self) -> Action {
        match self.respond().await {
            Flow::Respond(response) => self.send(response),
            Flow::Disconnect(disconnect) => self.end(disconnect),
            // The world was reset or deleted meanwhile.
            Flow::Continue => Action::Disconnect(Disconnect::Fin),
        }
    }

    /// Finds the response. [`Flow::Continue`] if the world was reset or deleted meanwhile.
    async fn respond(&mut self) -> Flow {
        match self.lock_key().await {
            Flow::Continue => {}
            end => return end,
        }
        if let Flow::Disconnect(disconnect) = self.wait_at_gate(PointKind::BeforeEffect).await {
            return Flow::Disconnect(disconnect);
        }
        let Some((before, fired)) = self.fire_before_effect() else { return Flow::Continue };
        match self.apply_actions(fired, before, None).await {
            Flow::Continue => {}
            end => return end,
        }
        let Some((handled, before, fired)) = self.handle() else { return Flow::Continue };
        let fired = match fired {
            Some(fired) => fired,
            None => {
                if let Flow::Disconnect(disconnect) = self.wait_at_gate(PointKind::AfterEffect).await {
                    return Flow::Disconnect(disconnect);
                }
                let Some(mut world) = self.lock_if_current() else { return Flow::Continue };
                self.fire(&mut world, PointKind::AfterEffect)
            }
        };
        self.apply_actions(fired, before, Some(handled.response)).await
    }

    /// Locks the idempotency key of the request, if it has one: waits for an earlier request under
    /// the key or is refused, as the settings say.
    async fn lock_key(&mut self) -> Flow {
        let info = &self.inspected.info;
        let (Some(username), Some(key)) = (&info.username, &info.identifier) else { return Flow::Continue };
        let Some(settings) = self.lock_if_current().map(|world| world.settings.clone()) else {
            return Flow::Continue;
        };
        let Some(rule) = self.provider.key_in_progress(&settings, info) else { return Flow::Continue };
        let locks = self.world.key_locks();
        match rule {
            KeyInProgress::Refused(refusal) => match locks.try_lock(self.provider, username, key) {
                Some(guard) => self.key = Some(guard),
                None => return Flow::Respond(refusal),
            },
            KeyInProgress::Waits => {
                tokio::select! {
                    guard = locks.lock(self.provider, username, key) => self.key = Some(guard),
                    () = shutdown::requested(&mut self.stopping) => return Flow::Disconnect(Disconnect::Fin),
                }
            }
        }
        Flow::Continue
    }

    fn fire_before_effect(&self) -> Option<(Option<ProviderSnapshot>, FiredRules)> {
        let mut world = self.lock_if_current()?;
        let fired = self.fire(&mut world, PointKind::BeforeEffect);
        let before = (!fired.actions.is_empty()).then(|| world.providers.snapshot(self.provider));
        Some((before, fired))
    }

    /// Handles the request, and fires the rules after the effect under the same lock unless a gate
    /// stops the request there. None if the world was reset meanwhile.
    fn handle(&self) -> Option<(Handled, Option<ProviderSnapshot>, Option<FiredRules>)> {
        let mut world = self.lock_if_current()?;
        let needs_snapshot = world.faults.needs_snapshot(&self.coordinates);
        let before = needs_snapshot.then(|| world.providers.snapshot(self.provider));
        let handled = answer_from_past(&mut world, self.provider, &self.request, &self.inspected);
        let handled =
            handled.unwrap_or_else(|| world.handle(self.provider, self.journal_id, &self.request, &self.inspected));
        let is_gated = world.gates.matches(&self.coordinates, PointKind::AfterEffect);
        let fired = (!is_gated).then(|| self.fire(&mut world, PointKind::AfterEffect));
        Some((handled, before, fired))
    }

    fn fire(&self, world: &mut World, kind: PointKind) -> FiredRules {
        let mut fired = world.faults.fire(&self.coordinates, kind);
        if fired.actions.is_empty()
            && self.inspected.info.moves_money
            && let Some((point, effect)) = magic_rule(world, self.provider, &self.inspected.info)
        {
            fired = Faults::magic(*point, effect, kind);
        }
        if !fired.rules.is_empty() {
            world.journal.rules(self.journal_id, fired.rules.iter().copied());
        }
        fired
    }

    /// Locks the world. None if it was reset or deleted since the request came.
    fn lock_if_current(&self) -> Option<WorldGuard<'_>> {
        Some(self.world.lock()).filter(|world| world.generation() == self.generation)
    }

    /// Waits until a gate releases the request. [`Flow::Disconnect`] if the simulators stop first.
    async fn wait_at_gate(&mut self, kind: PointKind) -> Flow {
        let ticket = self.lock_if_current().and_then(|world| {
            let now = world.clock.now();
            world.gates.enter(&self.coordinates, kind, self.journal_id, now)
        });
        let Some(ticket) = ticket else { return Flow::Continue };
        tokio::select! {
            () = ticket.wait() => Flow::Continue,
            () = shutdown::requested(&mut self.stopping) => Flow::Disconnect(Disconnect::Fin),
        }
    }

    /// Applies the actions of one point in order, without holding a lock while waiting.
    async fn apply_actions(
        &mut self,
        fired: FiredRules,
        before: Option<ProviderSnapshot>,
        mut response: Option<Response>,
    ) -> Flow {
        let before = before.as_ref();
        for (at, action) in fired.actions {
            match action {
                FaultAction::Delay(delay) => {
                    if timeout(delay, shutdown::requested(&mut self.stopping)).await.is_ok() {
                        return Flow::Disconnect(Disconnect::Fin);
                    }
                }
                FaultAction::Answer(other) => return Flow::Respond(other),
                // Before the effect, faults in the response apply to the one that the provider
                // would give.
                FaultAction::Corrupt(bytes) => {
                    self.body_faults.push((at, BodyFault::Corrupt(bytes)));
                    response = response.or_else(|| self.dry_run(before));
                }
                FaultAction::Slice { bytes, every } => {
                    self.body_faults.push((at, BodyFault::Slice { bytes, every }));
                    response = response.or_else(|| self.dry_run(before));
                }
                FaultAction::LimitData { after_bytes } => {
                    let disconnect = BodyFault::Disconnect(Disconnect::FinWithoutCloseNotify);
                    self.body_faults.push((after_bytes, disconnect));
                    response = response.or_else(|| self.dry_run(before));
                }
                FaultAction::Disconnect(disconnect) => return Flow::Disconnect(disconnect),
                FaultAction::HalfWay => response = self.handle_half_way().or(response),
                FaultAction::CommitLate { seconds } => response = self.commit_late(before, seconds).or(response),
                FaultAction::Stale { rule, seconds } => response = self.stale(before, rule, seconds).or(response),
                FaultAction::Forge(answer) => {
                    let forged = self.with_settings(|world, now| {
                        before?.forge(answer, &world.settings, now, &self.request, &self.inspected)
                    });
                    response = forged.or(response);
                }
                // Cannot be armed at these points.
                FaultAction::RefuseTls => {}
            }
        }
        response.map_or(Flow::Continue, Flow::Respond)
    }

    fn with_settings<T>(&self, run: impl FnOnce(&World, time::OffsetDateTime) -> Option<T>) -> Option<T> {
        let mut world = self.lock_if_current()?;
        let now = world.now();
        run(&world, now)
    }

    fn dry_run(&self, before: Option<&ProviderSnapshot>) -> Option<Response> {
        self.with_settings(|world, now| before?.dry_run(&world.settings, now, &self.request, &self.inspected))
    }

    /// Does the first half of a refund and returns the response to that.
    fn handle_half_way(&self) -> Option<Response> {
        let mut world = self.lock_if_current()?;
        Some(world.handle_half_way(self.provider, self.journal_id, &self.request, &self.inspected).response)
    }

    /// Defers the request and returns a time-out.
    fn commit_late(&self, before: Option<&ProviderSnapshot>, seconds: u64) -> Option<Response> {
        let mut world = self.lock_if_current()?;
        let now = world.now();
        let response = before?.time_out(&world.settings, now, &self.request, &self.inspected)?;
        world.handle_later(Duration::from_secs(seconds), self.provider, self.journal_id, self.request.clone());
        Some(response)
    }

    /// For a refund: lets later lookups show the state before it. For a lookup: its response from
    /// the state when the rule was armed.
    fn stale(&self, before: Option<&ProviderSnapshot>, rule: RuleId, seconds: u64) -> Option<Response> {
        let mut world = self.lock_if_current()?;
        let now = world.now();
        let info = &self.inspected.info;
        if info.moves_money {
            world.stale_reads.show_before(info.target.clone(), before?.clone(), now, seconds);
            return None;
        }
        let armed = world.stale_reads.when_armed(rule, now, seconds)?;
        armed.dry_run(&world.settings, now, &self.request, &self.inspected)
    }

    /// Fires the rules of the last point, and closes the journal if the ending is already known.
    fn send(mut self, response: Response) -> Action {
        let Some(mut world) = self.lock_if_current() else { return Action::Disconnect(Disconnect::Fin) };
        let fired = self.fire(&mut world, PointKind::DuringAnswer);
        let now = world.clock.now();
        let ticket = world.gates.enter(&self.coordinates, PointKind::DuringAnswer, self.journal_id, now);
        drop(world);

        let mut faults = std::mem::take(&mut self.body_faults);
        faults.extend(ticket.map(|ticket| (ticket.after_bytes, BodyFault::Hold(Box::pin(ticket.wait())))));
        faults.extend(fired.actions.into_iter().filter_map(|(at, action)| Some((at, body_fault(action)?))));
        let script = BodyScript::new(response.body.clone(), faults);
        let ending = self.ending(&script);
        let on_sent = if script.is_plain() {
            self.close(Some(&response), ending);
            None
        } else {
            let sent = Response { body: script.sent().clone(), ..response.clone() };
            if script.is_slow() {
                Some(self.close_when_sent(sent, ending))
            } else {
                self.close(Some(&sent), ending);
                None
            }
        };
        Action::Reply(Box::new(Reply { response, script, on_sent }))
    }

    fn ending(&self, script: &BodyScript) -> Ending {
        match script.disconnect() {
            _ if self.client.is_gone() => Ending::ClientGone,
            Some(Disconnect::Fin | Disconnect::FinWithoutCloseNotify) if script.is_short() => Ending::Truncated,
            Some(Disconnect::Reset) if script.is_short() => Ending::ResetInAnswer,
            Some(Disconnect::Hang) if script.is_short() => Ending::StalledInAnswer,
            Some(Disconnect::Fin | Disconnect::FinWithoutCloseNotify) => Ending::ClosedAfterAnswer,
            Some(Disconnect::Reset) => Ending::ResetAfterAnswer,
            Some(Disconnect::Hang) | None => self.client.normal_ending(),
        }
    }

    /// Closes the journal when the response has been sent.
    fn close_when_sent(&self, sent: Response, ending: Ending) -> OnSent {
        let (world, generation, journal_id) = (self.world.clone(), self.generation, self.journal_id);
        Box::new(move |result| {
            let mut world = world.lock();
            if world.generation() != generation {
                return;
            }
            match result {
                SendResult::Completed => world.journal.close(journal_id, Some(&sent), ending),
                SendResult::ClientGone { sent: bytes } => {
                    let body: Bytes = sent.body.slice(..bytes.min(sent.body.len()));
                    world.journal.close(journal_id, Some(&Response { body, ..sent }), Ending::ClientGone);
                }
            }
        })
    }

    fn end(self, disconnect: Disconnect) -> Action {
        let ending = match disconnect {
            _ if self.client.is_gone() => Ending::ClientGone,
            Disconnect::Fin | Disconnect::FinWithoutCloseNotify => Ending::ClosedWithoutAnswer,
            Disconnect::Reset => Ending::ResetWithoutAnswer,
            Disconnect::Hang => Ending::NeverAnswered,
        };
        self.close(None, ending);
        Action::Disconnect(disconnect)
    }

    fn close(&self, response: Option<&Response>, ending: Ending) {
        if let Some(mut world) = self.lock_if_current() {
            let response = response.filter(|_| ending != Ending::ClientGone);
            world.journal.close(self.journal_id, response, ending);
        }
    }
}

/// Whether no rule, gate, magic target or locked key can affect the request.
fn takes_fast_path(world: &World, shared: &WorldRef, provider: Provider, info: &RequestInfo) -> bool {
    let has_locked_key = || match (&info.username, &info.identifier) {
        (Some(username), Some(key)) => shared.key_locks().is_locked(provider, username, key),
        _ => false,
    };
    world.faults.is_empty()
        && world.gates.is_empty()
        && (!info.moves_money || (magic_rule(world, provider, info).is_none() && !has_locked_key()))
}

/// The fault of a magic target.
fn magic_rule(world: &World, provider: Provider, info: &RequestInfo) -> Option<&'static (Point, FaultEffect)> {
    let target = info.target.as_deref().filter(|_| world.has_demo_data())?;
    magic_targets::rule_for(provider, target)
}

/// The answer to a lookup for which a rule on an earlier refund shows the state before it.
fn answer_from_past(
    world: &mut World,
    provider: Provider,
    request: &Request,
    inspected: &Inspected,
) -> Option<Handled> {
    let info = &inspected.info;
    if info.moves_money || info.destructive {
        return None;
    }
    let now = world.now();
    // The lookup of a domain does not name its order: like a list it is answered from the past.
    let target = info.target.as_ref().filter(|_| info.operation != "GetDomain");
    let snapshot = world.stale_reads.for_lookup(provider, target, now)?;
    let response = snapshot.dry_run(&world.settings, now, request, inspected)?;
    Some(Handled { response, effects: Vec::new() })
}

/// The fault in the body of a response that an action within the response stands for.
fn body_fault(action: FaultAction) -> Option<BodyFault> {
    match action {
        FaultAction::Delay(wait) => Some(BodyFault::Wait(wait)),
        FaultAction::Corrupt(bytes) => Some(BodyFault::Corrupt(bytes)),
        FaultAction::Slice { bytes, every } => Some(BodyFault::Slice { bytes, every }),
        FaultAction::LimitData { .. } => Some(BodyFault::Disconnect(Disconnect::FinWithoutCloseNotify)),
        FaultAction::Disconnect(disconnect) => Some(BodyFault::Disconnect(disconnect)),
        // Cannot be armed at this point.
        FaultAction::RefuseTls
        | FaultAction::Answer(_)
        | FaultAction::CommitLate { .. }
        | FaultAction::HalfWay
        | FaultAction::Stale { .. }
        | FaultAction::Forge(_) => None,
    }
}

/// Whether a request asks for the connection to be closed after its response.
pub(crate) fn wants_close(version: http::Version, headers: &http::HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = tokens.flat_map(|value| value.split(',')).map(str::trim);
    if version == http::Version::HTTP_11 {
        tokens.any(|token| token.eq_ignore_ascii_case("close"))
    } else {
        !tokens.any(|token| token.eq_ignore_ascii_case("keep-alive"))
    }
}
