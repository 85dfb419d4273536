//! What a provider knew at an earlier moment: for lookups that a rule has answered from the past,
//! and for answers that are not so.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::{
    faults::RuleId,
    providers::debitsuccess,
    providers::namecom,
    providers::sectigo,
    request::{Performed, Provider, Request},
    worlds::{Settings, World},
};

/// How many moments a world remembers for lookups; the oldest go first.
const MAX_KEPT: usize = 1_000;

/// What one provider knew at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    Sectigo(Box<sectigo::State>),
    Namecom(Box<namecom::State>),
    Debitsuccess(Box<debitsuccess::State>),
}

/// The moments from which lookups are answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Past {
    /// What was known before a refund: what lookups of its target show until then.
    before: Vec<Before>,
    /// What was known when a rule was armed.
    armed: Vec<Armed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    target: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    memory: Memory,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Armed {
    rule: RuleId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    memory: Memory,
}

impl Memory {
    /// What the provider knows now.
    pub(crate) fn of(world: &World, provider: Provider) -> Memory {
        match provider {
            Provider::Sectigo => Memory::Sectigo(Box::new(world.sectigo.clone())),
            Provider::Namecom => Memory::Namecom(Box::new(world.namecom.clone())),
            Provider::Debitsuccess => Memory::Debitsuccess(Box::new(world.debitsuccess.clone())),
        }
    }

    /// Has the provider answer as if this were now. Whatever it does, it does to this memory alone.
    pub(crate) fn perform(&mut self, settings: &Settings, now: OffsetDateTime, request: &Request) -> Performed {
        match self {
            Memory::Sectigo(state) => sectigo::perform(state, &settings.sectigo, now, request),
            Memory::Namecom(state) => namecom::perform(state, &settings.namecom, now, request),
            Memory::Debitsuccess(state) => debitsuccess::perform(state, &settings.debitsuccess, now, request),
        }
    }

    fn provider(&self) -> Provider {
        match self {
            Memory::Sectigo(_) => Provider::Sectigo,
            Memory::Namecom(_) => Provider::Namecom,
            Memory::Debitsuccess(_) => Provider::Debitsuccess,
        }
    }
}

impl Past {
    /// Keeps what was known when a rule was armed.
    pub(crate) fn keep_for(&mut self, rule: RuleId, now: OffsetDateTime, memory: Memory) {
        if self.armed.len() >= MAX_KEPT {
            self.armed.remove(0);
        }
        self.armed.push(Armed { rule, at: now, memory });
    }

    /// From now on, and until then, lookups of this target show what was known before.
    pub(crate) fn show_before(&mut self, target: Option<String>, memory: Memory, now: OffsetDateTime, seconds: u64) {
        self.before.retain(|before| before.until > now);
        if self.before.len() >= MAX_KEPT {
            self.before.remove(0);
        }
        if let Some(until) = later(now, seconds) {
            self.before.push(Before { target, until, memory });
        }
    }

    /// What a lookup is to be answered from, where that is not the present. A lookup without a
    /// target is a list.
    pub(crate) fn for_lookup(
        &self,
        provider: Provider,
        target: Option<&String>,
        now: OffsetDateTime,
    ) -> Option<&Memory> {
        let is_shown = |before: &&Before| {
            before.memory.provider() == provider
                && before.until > now
                && (target.is_none() || before.target.is_none() || before.target.as_ref() == target)
        };
        self.before.iter().find(is_shown).map(|before| &before.memory)
    }

    /// All that is remembered: whoever asks from now on has other credentials.
    pub(crate) fn memories_mut(&mut self) -> impl Iterator<Item = &mut Memory> {
        let before = self.before.iter_mut().map(|before| &mut before.memory);
        before.chain(self.armed.iter_mut().map(|armed| &mut armed.memory))
    }

    /// What was known when a rule was armed, where that is not longer ago.
    pub(crate) fn when_armed(&self, rule: RuleId, now: OffsetDateTime, seconds: u64) -> Option<&Memory> {
        let Armed { at, memory, .. } = self.armed.iter().find(|armed| armed.rule == rule)?;
        later(*at, seconds).filter(|until| *until > now).map(|_| memory)
    }
}

fn later(now: OffsetDateTime, seconds: u64) -> Option<OffsetDateTime> {
    now.checked_add(Duration::seconds(i64::try_from(seconds).ok()?))
}
