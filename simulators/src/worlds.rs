//! Worlds: everything the emulated providers know and remember, behind one lock each, found by the credentials in a request.
//!
//! There is one world now, the demo world, and every request is its. What a request does to a world it does under one lock, in no time and
//! without waiting: a fault's delay is waited for outside.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    books::Books,
    clock::{Clock, Reading},
    debitsuccess,
    exchange::{Effect, Identified, Performed, Provider, Request},
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
    /// Which life of the world this is: a request that waited through a reset must do nothing in the next one.
    life: u64,
    /// The settings of its start, which a reset brings back.
    first_settings: Settings,
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

impl World {
    /// The demo data as of now, nothing done, nothing armed.
    pub fn demo(settings: Settings) -> Self {
        let clock = Clock::default();
        let now = clock.now();
        Self {
            clock,
            settings: settings.clone(),
            sectigo: sectigo::State::demo(now),
            namecom: namecom::State::demo(now),
            debitsuccess: debitsuccess::State::demo(now),
            books: Books::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            life: 0,
            first_settings: settings,
        }
    }

    /// Back to how it started: demo data, settings, clock; books, journal and faults empty.
    pub fn reset(&mut self) {
        let life = self.life + 1;
        *self = Self { life, ..Self::demo(self.first_settings.clone()) };
    }

    /// The world's time, with everything settled that was due by then.
    pub fn now(&mut self) -> OffsetDateTime {
        let now = self.clock.now();
        let settled = self.debitsuccess.advance(&self.settings.debitsuccess, now);
        self.write_books(now, Provider::Debitsuccess, None, settled);
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
}

/// A world that many can hold.
#[derive(Debug, Clone)]
pub(crate) struct SharedWorld(Arc<Mutex<World>>);

impl SharedWorld {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// The world, for a moment. Whoever panicked while holding it has left it whole enough to be looked at and reset.
    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All worlds.
#[derive(Debug, Clone)]
pub(crate) struct Worlds {
    demo: SharedWorld,
}

impl Worlds {
    pub(crate) fn new(demo: World) -> Self {
        Self { demo: SharedWorld::new(demo) }
    }

    /// The world that is always there.
    pub(crate) fn demo(&self) -> &SharedWorld {
        &self.demo
    }

    /// The world that the credentials in a request belong to; those that belong to none get the demo world's refusal.
    pub(crate) fn of(&self, _provider: Provider, _identified: &Identified) -> &SharedWorld {
        &self.demo
    }
}

/// What can be told of a request before anything is done.
pub(crate) fn identify(provider: Provider, request: &Request) -> Identified {
    match provider {
        Provider::Sectigo => sectigo::identify(request),
        Provider::Namecom => namecom::identify(request),
        Provider::Debitsuccess => debitsuccess::identify(request),
    }
}
