//! One world: everything the emulated providers know and remember, behind one lock.
//!
//! What a request does to a world it does under that lock, in no time and without waiting: a fault's delay is waited for outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Credentials;
use crate::{
    books::Books,
    clock::{Clock, Reading},
    debitsuccess,
    exchange::{Effect, Performed, Provider, Request},
    faults::Faults,
    journal::Journal,
    namecom, sectigo,
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
    /// What will have happened by then, in the order of its time.
    due: Vec<Due>,
    /// Which life of the world this is: a request that waited through a reset must do nothing in the next one.
    life: u64,
    /// What it was made with, which a reset brings back.
    seed: Seed,
    first_settings: Settings,
    /// What was made up for it, and for which id; none for the demo world.
    pub(super) credentials: Option<(Credentials, String)>,
}

/// What is in a new world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seed {
    /// The demo data.
    #[default]
    Demo,
    /// Nothing but the accounts of its credentials.
    Empty,
}

/// The choices that the documents leave open, per provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone)]
struct Due {
    at: OffsetDateTime,
    provider: Provider,
    journal_id: u64,
    request: Request,
}

/// How many requests may wait for their time; further ones are done at once.
const MOST_DUE: usize = 10_000;

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
            due: Vec::new(),
            life: 0,
            seed,
            first_settings: settings,
            credentials: None,
        }
    }

    /// Back to how it started: data, settings, clock; books, journal and faults empty. Its credentials stay.
    pub fn reset(&mut self) {
        let life = self.life + 1;
        let credentials = self.credentials.take();
        *self = Self { life, ..Self::new(self.seed, self.first_settings.clone()) };
        if let Some((credentials, id)) = credentials {
            credentials.give_to(self, &id);
        }
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

    /// Moves the world's clock forward; none where that leads too far.
    pub fn advance(&mut self, by: Duration) -> Option<Reading> {
        let reading = self.clock.advance(by);
        self.now();
        reading
    }

    /// Has a provider answer a request, and writes down what it did.
    pub(crate) fn perform(&mut self, provider: Provider, journal_id: u64, request: &Request) -> Performed {
        let now = self.now();
        self.perform_at(now, provider, journal_id, request)
    }

    /// Has a provider do what was asked so much later: when the world's clock shows it, whether it runs there or jumps. What the provider
    /// answers then, nobody hears.
    #[allow(dead_code, reason = "the seam of late commits")]
    pub(crate) fn perform_later(&mut self, after: Duration, provider: Provider, journal_id: u64, request: Request) {
        let now = self.now();
        let at = time::Duration::try_from(after).ok().and_then(|after| now.checked_add(after));
        match at {
            Some(at) if self.due.len() < MOST_DUE => {
                let place = self.due.partition_point(|due| due.at <= at);
                self.due.insert(place, Due { at, provider, journal_id, request });
            }
            _ => drop(self.perform_at(now, provider, journal_id, &request)),
        }
    }

    fn perform_at(&mut self, now: OffsetDateTime, provider: Provider, journal_id: u64, request: &Request) -> Performed {
        let settings = &self.settings;
        let performed = match provider {
            Provider::Sectigo => sectigo::perform(&mut self.sectigo, &settings.sectigo, now, request),
            Provider::Namecom => namecom::perform(&mut self.namecom, &settings.namecom, now, request),
            Provider::Debitsuccess => {
                debitsuccess::perform(&mut self.debitsuccess, &settings.debitsuccess, now, request)
            }
        };
        let effects = self.write_books(now, provider, Some(journal_id), performed.effects.clone());
        self.journal.effects(journal_id, effects);
        performed
    }

    fn settle(&mut self, now: OffsetDateTime) {
        let settled = self.debitsuccess.advance(&self.settings.debitsuccess, now);
        self.write_books(now, Provider::Debitsuccess, None, settled);
    }

    /// Writes effects into the books and tells their ids.
    pub(crate) fn write_books(
        &mut self,
        now: OffsetDateTime,
        provider: Provider,
        journal_id: Option<u64>,
        effects: Vec<Effect>,
    ) -> Vec<u64> {
        effects.into_iter().map(|effect| self.books.write(now, provider, journal_id, effect)).collect()
    }

    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    pub(crate) fn first_settings(&self) -> &Settings {
        &self.first_settings
    }

    /// Empties it for good: whoever still holds it finds nothing, and nothing of it takes up memory.
    pub(super) fn end(&mut self) {
        let life = self.life + 1;
        *self = Self { life, ..Self::new(Seed::Empty, Settings::default()) };
    }
}
