//! One world: everything the emulated providers know and remember, behind one lock.
//!
//! What a request does to a world it does under that lock, in no time and without waiting: a
//! fault's delay is waited for outside.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Credentials, NotRestored, Snapshot};
use crate::{
    clock::{Clock, NotMoved, Reading},
    faults::gates::Gates,
    faults::stale_state::{Memory, Past},
    faults::{FaultEffect, Faults, Rule, RuleError, RuleId},
    providers::debitsuccess,
    providers::namecom,
    providers::sectigo,
    record::books::Books,
    record::journal::Journal,
    request::{Effect, Performed, Provider, Request},
};

/// What the three providers know and remember, what happened there, and what is to go wrong.
#[derive(Debug, Clone)]
pub struct World {
    /// Its time.
    pub clock: Clock,
    /// What the documents leave open.
    pub settings: Settings,
    /// Sectigo's memory.
    pub sectigo: sectigo::State,
    /// name.com's memory.
    pub namecom: namecom::State,
    /// Debitsuccess' memory.
    pub debitsuccess: debitsuccess::State,
    /// What really happened.
    pub books: Books,
    /// What came over the wire, and what went out.
    pub journal: Journal,
    /// What is to go wrong.
    pub faults: Faults,
    /// Where requests are parked.
    pub gates: Gates,
    /// What lookups are told instead of the present.
    pub(crate) past: Past,
    /// What will have happened by then, in the order of its time.
    pub(super) due: Vec<Due>,
    /// Which life of the world this is: a request that waited through a reset must do nothing in
    /// the next one.
    pub(super) life: u64,
    /// What it was made with, which a reset brings back.
    pub(super) seed: Seed,
    pub(super) first_settings: Settings,
    /// The settings that it was made with, whatever snapshot was put into it since: a reset to the
    /// demo data brings them back.
    pub(super) made_with: Settings,
    /// What everything that looks random in it is computed from.
    pub(super) number: u64,
    /// What it was taken up from; none where that was a seed.
    pub(super) origin: Option<Arc<Snapshot>>,
    /// Whether connections belong to it, so that rules can be about them.
    pub(super) has_ports: bool,
    /// What was made up for it, and for which id; none for the demo world.
    pub(super) credentials: Option<(Credentials, String)>,
}

/// What is in a new world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Seed {
    /// The demo data.
    #[default]
    Demo,
    /// Nothing but the accounts of its credentials.
    Empty,
}

/// The choices that the documents leave open, per provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Sectigo's.
    pub sectigo: sectigo::Settings,
    /// name.com's.
    pub namecom: namecom::Settings,
    /// Debitsuccess'.
    pub debitsuccess: debitsuccess::Settings,
}

/// A request that has been read and will be done at its time, whatever was answered to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Due {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
    pub(super) provider: Provider,
    journal_id: u64,
    pub(super) request: Request,
}

/// How many requests may wait for their time; further ones are done at once.
const MAX_DUE: usize = 10_000;

impl World {
    /// The demo data as of now, nothing done, nothing armed.
    pub fn demo(settings: Settings) -> Self {
        Self::new(Seed::Demo, settings)
    }

    /// A world as of now, nothing done, nothing armed.
    pub fn new(seed: Seed, settings: Settings) -> Self {
        let clock = Clock::default();
        let now = clock.now();
        let (sectigo, namecom, debitsuccess) = match seed {
            Seed::Demo => (sectigo::State::demo(now), namecom::State::demo(now), debitsuccess::State::demo(now)),
            Seed::Empty => (sectigo::State::empty(now), namecom::State::empty(now), debitsuccess::State::empty()),
        };
        Self {
            clock,
            settings: settings.clone(),
            sectigo,
            namecom,
            debitsuccess,
            books: Books::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            gates: Gates::default(),
            past: Past::default(),
            due: Vec::new(),
            life: 0,
            seed,
            number: 0,
            first_settings: settings.clone(),
            made_with: settings,
            origin: None,
            has_ports: true,
            credentials: None,
        }
    }

    /// To the demo data as of now, always: whatever the world was made from, and whatever snapshot
    /// was put into it, one without any accounts too. Settings as it was made with; books, journal
    /// and faults empty. Its credentials stay.
    pub fn reset(&mut self) {
        self.begin_again(Self::new(Seed::Demo, self.made_with.clone()), None);
    }

    /// Back to what it last came from: its seed, or the snapshot that it was made of, or that was
    /// put into it. Its credentials stay.
    pub fn reset_to_start(&mut self) {
        let origin = self.origin.take();
        // A snapshot that made a world once makes it again.
        let restored = origin.as_ref().and_then(|origin| Snapshot::clone(origin).into_world().ok());
        let fresh = restored.unwrap_or_else(|| Self::new(self.seed, self.first_settings.clone()));
        self.begin_again(fresh, origin);
    }

    fn begin_again(&mut self, fresh: Self, origin: Option<Arc<Snapshot>>) {
        let (life, number, made_with) = (self.life + 1, self.number, self.made_with.clone());
        let credentials = self.credentials.take();
        *self = Self { life, number, made_with, origin, has_ports: self.has_ports, ..fresh };
        if self.origin.is_none() {
            self.count_from(number);
        }
        if let Some((credentials, id)) = credentials {
            credentials.give_to(self, &id);
        }
    }

    /// Gives it the number from which everything that looks random in it is computed.
    pub(super) fn count_from(&mut self, number: u64) {
        self.number = number;
        self.debitsuccess.begin_guids(number);
    }

    /// What everything that looks random in it is computed from: the seed of the start, or, in a
    /// world made later, a number drawn from it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The world's time, with everything done that was due by then.
    pub fn now(&mut self) -> OffsetDateTime {
        let now = self.clock.now();
        while self.due.first().is_some_and(|due| due.at <= now) {
            let Due { at, provider, journal_id, request } = self.due.remove(0);
            self.settle(at);
            self.perform_at(at, provider, journal_id, &request);
        }
        self.settle(now);
        now
    }

    /// Moves the world's clock forward.
    ///
    /// # Errors
    /// That leads too far; then nothing moved.
    pub fn advance(&mut self, by: Duration) -> Result<Reading, NotMoved> {
        let reading = self.clock.advance(by);
        self.now();
        reading
    }

    /// Arms a rule; one that has lookups answered from the past remembers what is so now.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is armed.
    pub fn arm(&mut self, rule: Rule) -> Result<RuleId, RuleError> {
        let is_stale = matches!(rule.effect, FaultEffect::Stale { .. });
        let provider = rule.provider;
        if rule.is_for_ports() && !self.has_ports {
            return Err(RuleError::NoPorts(rule.point.word()));
        }
        let id = self.faults.arm(rule)?;
        if is_stale {
            let now = self.now();
            self.past.keep_for(id, now, Memory::of(self, provider));
        }
        Ok(id)
    }

    /// Has a provider answer a request, and writes down what it did.
    pub(crate) fn perform(&mut self, provider: Provider, journal_id: u64, request: &Request) -> Performed {
        let now = self.now();
        self.perform_at(now, provider, journal_id, request)
    }

    /// Has a provider do what was asked so much later: when the world's clock shows it, whether it
    /// runs there or jumps. What the provider answers then, nobody hears.
    pub(crate) fn perform_later(&mut self, after: Duration, provider: Provider, journal_id: u64, request: Request) {
        let now = self.now();
        let at = time::Duration::try_from(after).ok().and_then(|after| now.checked_add(after));
        match at {
            Some(at) if self.due.len() < MAX_DUE => {
                let place = self.due.partition_point(|due| due.at <= at);
                self.due.insert(place, Due { at, provider, journal_id, request });
            }
            _ => drop(self.perform_at(now, provider, journal_id, &request)),
        }
    }

    /// As [`World::perform`], at a time that has been asked for already.
    pub(crate) fn perform_at(
        &mut self,
        now: OffsetDateTime,
        provider: Provider,
        journal_id: u64,
        request: &Request,
    ) -> Performed {
        let settings = &self.settings;
        let mut performed = match provider {
            Provider::Sectigo => sectigo::perform(&mut self.sectigo, &settings.sectigo, now, request),
            Provider::Namecom => namecom::perform(&mut self.namecom, &settings.namecom, now, request),
            Provider::Debitsuccess => {
                debitsuccess::perform(&mut self.debitsuccess, &settings.debitsuccess, now, request)
            }
        };
        let effects = self.write_books(now, provider, Some(journal_id), std::mem::take(&mut performed.effects));
        self.journal.effects(journal_id, effects);
        performed
    }

    /// Has name.com do the first half of a refund, the deletion, and writes that down.
    pub(crate) fn perform_half_way(&mut self, journal_id: u64, request: &Request) -> Performed {
        let now = self.now();
        let mut performed = namecom::perform_half_way(&mut self.namecom, &self.settings.namecom, now, request);
        let effects = std::mem::take(&mut performed.effects);
        let effects = self.write_books(now, Provider::Namecom, Some(journal_id), effects);
        self.journal.effects(journal_id, effects);
        performed
    }

    fn settle(&mut self, now: OffsetDateTime) {
        let paid = self.namecom.advance(now).into_iter().map(|(at, effect)| (at, Provider::Namecom, effect));
        let decided = self.debitsuccess.advance(&self.settings.debitsuccess, now).into_iter();
        let decided = decided.map(|(at, effect)| (at, Provider::Debitsuccess, effect));
        let mut settled: Vec<_> = paid.chain(decided).collect();
        settled.sort_by_key(|(at, ..)| *at);
        for (at, provider, effect) in settled {
            self.write_books(at, provider, None, vec![effect]);
        }
    }

    /// Writes effects into the books and tells their ids.
    pub(crate) fn write_books(
        &mut self,
        now: OffsetDateTime,
        provider: Provider,
        journal_id: Option<u64>,
        effects: Vec<Effect>,
    ) -> Vec<u64> {
        let cause = journal_id.map(|id| (id, self.journal.attempt(id)));
        effects.iter().map(|effect| self.books.write(now, provider, cause, effect)).collect()
    }

    /// Whether the demo data stands behind what was put: only there are magic values.
    pub(crate) fn has_demo_data(&self) -> bool {
        self.seed == Seed::Demo
    }

    /// Says which of its rules could not be armed where no connections belong to it.
    pub(super) fn check_connection_rules(&self, has_ports: bool) -> Result<(), NotRestored> {
        let lost = self.faults.list().iter().find(|armed| armed.rule.is_for_ports() && !has_ports);
        lost.map_or(Ok(()), |armed| {
            Err(NotRestored::Rule { id: armed.id.0, error: RuleError::NoPorts(armed.rule.point.word()) })
        })
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// The settings that it was made with.
    pub(crate) fn made_with(&self) -> &Settings {
        &self.made_with
    }

    /// Becomes another world, under its own credentials; whatever was under way in it ends without
    /// an effect.
    pub(super) fn become_another(&mut self, mut other: World) {
        other.life = self.life + 1;
        other.has_ports = self.has_ports;
        other.number = self.number;
        other.made_with = self.made_with.clone();
        let credentials = self.credentials.take();
        *self = other;
        if let Some((credentials, id)) = credentials {
            credentials.give_to(self, &id);
        }
    }

    /// Empties it for good: whoever still holds it finds nothing, and nothing of it takes up
    /// memory.
    pub(super) fn end(&mut self) {
        let life = self.life + 1;
        *self = Self { life, ..Self::new(Seed::Empty, Settings::default()) };
    }
}
