//! One world: everything that the emulated providers remember, behind one lock.
//!
//! A request changes a world under that lock, without waiting: a fault's delay is waited for
//! outside of it.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    clock::{Clock, ClockError, ClockStatus},
    faults::gates::Gates,
    faults::stale_state::StaleReads,
    faults::{FaultEffect, Faults, Rule, RuleError, RuleId},
    providers::{Credentials, Inspected, ProviderStates, Settings},
    record::audit::{Audit, Audited, Claim},
    record::books::Books,
    record::journal::Journal,
    request::{Effect, Handled, Provider, Request},
};

/// The state of the providers, what happened there, and what is to go wrong.
#[derive(Debug, Clone)]
pub struct World {
    /// Its time.
    pub clock: Clock,
    /// The choices that the providers' documentation leaves open.
    pub settings: Settings,
    /// The state of each provider.
    pub providers: ProviderStates,
    /// What really happened.
    pub books: Books,
    /// The requests and their answers.
    pub journal: Journal,
    /// What is to go wrong.
    pub faults: Faults,
    /// Where requests wait.
    pub gates: Gates,
    /// The earlier states from which rules answer lookups.
    pub(crate) stale_reads: StaleReads,
    /// The requests that will be handled later, in order of time.
    pub(super) due: Vec<Due>,
    /// Increments with each reset: a request that waited through a reset must do nothing
    /// afterwards.
    pub(super) generation: u64,
    /// The data of the start, which a reset brings back.
    pub(super) seed: Seed,
    /// The settings of the seed or of the last snapshot that was put into it.
    pub(super) first_settings: Settings,
    /// The settings with which it was created, which a reset to the demo data brings back.
    pub(super) created_with: Settings,
    /// The seed of everything that looks random in it.
    pub(super) number: u64,
    /// The world that the last snapshot contained; none if it came from a seed.
    pub(super) origin: Option<Arc<World>>,
    /// Whether connections belong to it, so that rules can be about them.
    pub(super) has_ports: bool,
    /// The generated credentials and the id that they were generated for; none for the demo world.
    pub(super) own_credentials: Option<(Credentials, String)>,
}

/// The data of a new world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Seed {
    /// The demo data.
    #[default]
    Demo,
    /// Nothing but the main accounts.
    Empty,
}

/// A request that has been answered and will be handled later.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Due {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
    pub(super) provider: Provider,
    journal_id: u64,
    pub(super) request: Request,
}

/// The maximum number of deferred requests; further ones are handled immediately.
const MAX_DUE: usize = 10_000;

impl World {
    /// The demo data as of now, without requests and rules.
    pub fn demo(settings: Settings) -> Self {
        Self::new(Seed::Demo, settings)
    }

    /// A world as of now, without requests and rules.
    pub fn new(seed: Seed, settings: Settings) -> Self {
        let clock = Clock::default();
        let now = clock.now();
        let providers = match seed {
            Seed::Demo => ProviderStates::demo(now),
            Seed::Empty => ProviderStates::empty(now),
        };
        Self {
            clock,
            settings: settings.clone(),
            providers,
            books: Books::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            gates: Gates::default(),
            stale_reads: StaleReads::default(),
            due: Vec::new(),
            generation: 0,
            seed,
            number: 0,
            first_settings: settings.clone(),
            created_with: settings,
            origin: None,
            has_ports: true,
            own_credentials: None,
        }
    }

    /// Resets to the demo data as of now, whatever the world was made from, with the settings with
    /// which it was created. Books, journal and faults are empty. Its credentials stay.
    pub fn reset(&mut self) {
        self.replace(Self::new(Seed::Demo, self.created_with.clone()), None);
    }

    /// Resets to the world's origin: its seed, or the last snapshot that was put into it. Its
    /// credentials stay.
    pub fn reset_to_start(&mut self) {
        let origin = self.origin.take();
        let fresh = match &origin {
            Some(origin) => World::clone(origin),
            None => Self::new(self.seed, self.first_settings.clone()),
        };
        self.replace(fresh, origin);
    }

    /// Replaces the contents. Requests in progress end without an effect.
    fn replace(&mut self, contents: Self, origin: Option<Arc<World>>) {
        let (generation, number, created_with) = (self.generation + 1, self.number, self.created_with.clone());
        let credentials = self.own_credentials.take();
        *self = Self { generation, number, created_with, origin, has_ports: self.has_ports, ..contents };
        if self.origin.is_none() {
            self.reseed(number);
        }
        if let Some((credentials, id)) = credentials {
            self.take_credentials(&credentials, &id);
        }
    }

    /// Sets the seed of everything that looks random in it.
    pub(super) fn reseed(&mut self, number: u64) {
        self.number = number;
        self.providers.reseed(number);
    }

    /// The seed of everything that looks random in it: the seed of the start, or, in a world
    /// created later, a number drawn from it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The world's time. First does everything that was due by then.
    pub fn now(&mut self) -> OffsetDateTime {
        let now = self.clock.now();
        while self.due.first().is_some_and(|due| due.at <= now) {
            let Due { at, provider, journal_id, request } = self.due.remove(0);
            self.settle(at);
            let inspected = provider.inspect(&request);
            self.handle_at(at, provider, journal_id, &request, &inspected);
        }
        self.settle(now);
        now
    }

    /// Moves the world's clock forward.
    ///
    /// # Errors
    /// It would be too far ahead. Then it is not moved.
    pub fn advance(&mut self, by: Duration) -> Result<ClockStatus, ClockError> {
        let status = self.clock.advance(by);
        self.now();
        status
    }

    /// Arms a rule. A stale rule keeps a snapshot of the present state.
    ///
    /// # Errors
    /// What is wrong with it. Then it is not armed.
    pub fn arm(&mut self, rule: Rule) -> Result<RuleId, RuleError> {
        let is_stale = matches!(rule.effect, FaultEffect::Stale { .. });
        let provider = rule.provider;
        if rule.is_for_ports() && !self.has_ports {
            return Err(RuleError::NoPorts(rule.point.name()));
        }
        let id = self.faults.arm(rule)?;
        if is_stale {
            let now = self.now();
            self.stale_reads.keep_for(id, now, self.providers.snapshot(provider));
        }
        Ok(id)
    }

    /// Has a provider handle a request, and records its effects.
    pub(crate) fn handle(
        &mut self,
        provider: Provider,
        journal_id: u64,
        request: &Request,
        inspected: &Inspected,
    ) -> Handled {
        let now = self.now();
        self.handle_at(now, provider, journal_id, request, inspected)
    }

    /// As [`World::handle`], at a time that [`World::now`] has returned.
    pub(crate) fn handle_at(
        &mut self,
        now: OffsetDateTime,
        provider: Provider,
        journal_id: u64,
        request: &Request,
        inspected: &Inspected,
    ) -> Handled {
        let handled = self.providers.handle(&self.settings, now, request, &inspected.parsed);
        self.record(now, provider, journal_id, handled)
    }

    /// Has a provider do the first half of a refund, and records its effects.
    pub(crate) fn handle_half_way(
        &mut self,
        provider: Provider,
        journal_id: u64,
        request: &Request,
        inspected: &Inspected,
    ) -> Handled {
        let now = self.now();
        let handled = self.providers.handle_half_way(&self.settings, now, request, &inspected.parsed);
        self.record(now, provider, journal_id, handled)
    }

    /// Has a provider handle a request when the world's clock shows the later time, whether it runs
    /// there or jumps. The answer is dropped.
    pub(crate) fn handle_later(&mut self, after: Duration, provider: Provider, journal_id: u64, request: Request) {
        let now = self.now();
        let at = time::Duration::try_from(after).ok().and_then(|after| now.checked_add(after));
        match at {
            Some(at) if self.due.len() < MAX_DUE => {
                let index = self.due.partition_point(|due| due.at <= at);
                self.due.insert(index, Due { at, provider, journal_id, request });
            }
            _ => {
                let inspected = provider.inspect(&request);
                drop(self.handle_at(now, provider, journal_id, &request, &inspected));
            }
        }
    }

    /// Records the effects of a request in the books and the journal.
    fn record(&mut self, now: OffsetDateTime, provider: Provider, journal_id: u64, mut handled: Handled) -> Handled {
        let effects = self.write_books(now, provider, Some(journal_id), std::mem::take(&mut handled.effects));
        self.journal.effects(journal_id, effects);
        handled
    }

    /// Does what has become due at the providers without a request.
    fn settle(&mut self, now: OffsetDateTime) {
        for (at, provider, effect) in self.providers.advance(&self.settings, now) {
            self.write_books(at, provider, None, vec![effect]);
        }
    }

    /// Writes effects into the books and returns their ids.
    pub(crate) fn write_books(
        &mut self,
        now: OffsetDateTime,
        provider: Provider,
        journal_id: Option<u64>,
        effects: Vec<Effect>,
    ) -> Vec<u64> {
        let cause = journal_id.map(|id| (id, self.journal.attempt(id)));
        effects.into_iter().map(|effect| self.books.write(now, provider, cause, effect)).collect()
    }

    /// Audits the world and, if there are claims, the caller's view.
    pub fn audit(&mut self, claims: Option<&[Claim]>) -> Audit {
        let now = self.now();
        let World { providers, settings, books, journal, .. } = &*self;
        Audit::of(Audited { providers, settings, books, journal }, now, claims)
    }

    /// Whether it contains the demo data, and with it the magic targets.
    pub(crate) fn has_demo_data(&self) -> bool {
        self.seed == Seed::Demo
    }

    /// A rule that could not be armed without ports.
    pub(super) fn connection_rule_error(&self) -> Option<(RuleId, RuleError)> {
        let lost = self.faults.list().iter().find(|armed| armed.rule.is_for_ports())?;
        Some((lost.id, RuleError::NoPorts(lost.rule.point.name())))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The settings with which it was created.
    pub(crate) fn created_with(&self) -> &Settings {
        &self.created_with
    }

    /// Replaces the contents with those of another world. Its credentials stay.
    pub(super) fn replace_with(&mut self, mut other: World) {
        let origin = other.origin.take();
        self.replace(other, origin);
    }

    /// Empties it for good, so that a deleted world that is still referenced takes up no memory.
    pub(super) fn clear(&mut self) {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::new(Seed::Empty, Settings::default()) };
    }
}
