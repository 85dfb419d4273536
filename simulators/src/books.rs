//! The books: what really happened at the emulated providers, whatever any client was told.
//!
//! An entry is written in the same moment as the effect itself, under the same lock; a fault that swallows the answer cannot touch it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::exchange::{Effect, Provider};

/// How many entries the books keep; the oldest go first, and [`Books::dropped`] says how many went.
pub const KEPT: usize = 100_000;

/// One effect: a line of the books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BookEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When it happened, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Where.
    pub provider: Provider,
    /// The wire request that caused it: an id of the journal; none where the control port did.
    pub journal_id: Option<u64>,
    /// Which attempt that request was, where there was one.
    #[serde(default)]
    pub attempt: Option<Attempt>,
    /// What happened.
    #[serde(flatten)]
    pub effect: Effect,
}

/// A request among others: how the journal counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Which request for its operation and target, counted from 1.
    pub number: u64,
    /// The connection that it came on.
    pub connection: u64,
    /// Which request on that connection.
    pub ordinal: u64,
}

/// Every effect since the start or the last reset, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Books {
    entries: VecDeque<BookEntry>,
    written: u64,
}

impl Books {
    /// Writes one effect down and tells its id.
    pub fn write(
        &mut self,
        time: OffsetDateTime,
        provider: Provider,
        cause: Option<(u64, Option<Attempt>)>,
        effect: Effect,
    ) -> u64 {
        let (journal_id, attempt) = cause.map_or((None, None), |(id, attempt)| (Some(id), attempt));
        self.written += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(BookEntry { id: self.written, time, provider, journal_id, attempt, effect });
        self.written
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &BookEntry> {
        self.entries.iter()
    }

    /// How many entries were written and are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.written.saturating_sub(self.entries.len() as u64)
    }
}
