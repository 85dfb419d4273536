//! Stale reads: lookups that a rule answers from an earlier state of the provider.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::{faults::RuleId, providers::ProviderSnapshot, request::Provider};

/// The maximum number of snapshots of each kind. The oldest are dropped first.
const MAX_SNAPSHOTS: usize = 1_000;

/// The snapshots from which lookups are answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StaleReads {
    /// The states before refunds.
    before: Vec<Before>,
    /// The states when rules were armed.
    armed: Vec<Armed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    target: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    snapshot: ProviderSnapshot,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Armed {
    rule: RuleId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    snapshot: ProviderSnapshot,
}

impl StaleReads {
    /// Keeps the state at the time at which a rule was armed.
    pub(crate) fn keep_for(&mut self, rule: RuleId, now: OffsetDateTime, snapshot: ProviderSnapshot) {
        if self.armed.len() >= MAX_SNAPSHOTS {
            self.armed.remove(0);
        }
        self.armed.push(Armed { rule, at: now, snapshot });
    }

    /// Lets lookups of a target show a snapshot for some seconds.
    pub(crate) fn show_before(
        &mut self,
        target: Option<String>,
        snapshot: ProviderSnapshot,
        now: OffsetDateTime,
        seconds: u64,
    ) {
        self.before.retain(|before| before.until > now);
        if self.before.len() >= MAX_SNAPSHOTS {
            self.before.remove(0);
        }
        if let Some(until) = later(now, seconds) {
            self.before.push(Before { target, until, snapshot });
        }
    }

    /// The snapshot from which a lookup is answered, if it is not answered from the present. A
    /// lookup without a target is a list.
    pub(crate) fn for_lookup(
        &self,
        provider: Provider,
        target: Option<&String>,
        now: OffsetDateTime,
    ) -> Option<&ProviderSnapshot> {
        let is_shown = |before: &&Before| {
            before.snapshot.provider() == provider
                && before.until > now
                && (target.is_none() || before.target.is_none() || before.target.as_ref() == target)
        };
        self.before.iter().find(is_shown).map(|before| &before.snapshot)
    }

    /// All snapshots, for a change of credentials.
    pub(crate) fn snapshots_mut(&mut self) -> impl Iterator<Item = &mut ProviderSnapshot> {
        let before = self.before.iter_mut().map(|before| &mut before.snapshot);
        before.chain(self.armed.iter_mut().map(|armed| &mut armed.snapshot))
    }

    /// The state at the time at which a rule was armed, if that is at most `seconds` ago.
    pub(crate) fn when_armed(&self, rule: RuleId, now: OffsetDateTime, seconds: u64) -> Option<&ProviderSnapshot> {
        let Armed { at, snapshot, .. } = self.armed.iter().find(|armed| armed.rule == rule)?;
        later(*at, seconds).filter(|until| *until > now).map(|_| snapshot)
    }
}

fn later(now: OffsetDateTime, seconds: u64) -> Option<OffsetDateTime> {
    now.checked_add(Duration::seconds(i64::try_from(seconds).ok()?))
}
