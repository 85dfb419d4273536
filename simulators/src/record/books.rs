//! The books: what really happened at the emulated providers, whatever any client was answered.
//!
//! An entry is written together with the effect, under the same lock. A fault that swallows the
//! answer cannot change it.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::request::{Effect, Provider};

/// The maximum number of entries kept. The oldest are dropped first, counted by [`Books::dropped`].
pub const MAX_ENTRIES: usize = 100_000;
/// The maximum size of all entries, in bytes (approximate): that of about 25,000 refunds.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The memory of an entry besides its bytes: its place in the queue and the allocator's overhead.
const ENTRY_OVERHEAD: usize = 32;

/// One effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BookEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When it happened, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: OffsetDateTime,
    /// The provider.
    pub provider: Provider,
    /// The request that caused it, as an id of the journal; none if the control port did.
    pub journal_id: Option<u64>,
    /// The attempt that caused it, if a request did.
    #[serde(default)]
    pub attempt: Option<Attempt>,
    /// What happened.
    #[serde(flatten)]
    pub effect: Effect,
}

/// The position of a request among others, as the journal counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its number among the requests for its operation and target, counted from 1.
    pub number: u64,
    /// The connection that it came on.
    pub connection: u64,
    /// Its number on that connection, counted from 1.
    pub ordinal: u64,
}

/// Every effect since the start or the last reset, oldest first, within the bounds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "BooksJson", from = "BooksJson")]
pub struct Books {
    /// Serialized [`StoredEntry`]s: there may be tens of thousands. The index gives the id.
    entries: VecDeque<Box<[u8]>>,
    bytes: usize,
    written: u64,
}

/// The books in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BooksJson {
    entries: VecDeque<BookEntry>,
    written: u64,
}

/// An entry without its id.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    time: OffsetDateTime,
    provider: Provider,
    journal_id: Option<u64>,
    attempt: Option<Attempt>,
    effect: Effect,
}

impl Books {
    /// Writes one effect and returns its id.
    pub fn write(
        &mut self,
        time: OffsetDateTime,
        provider: Provider,
        cause: Option<(u64, Option<Attempt>)>,
        effect: Effect,
    ) -> u64 {
        let (journal_id, attempt) = cause.map_or((None, None), |(id, attempt)| (Some(id), attempt));
        self.written += 1;
        self.push(&StoredEntry { time, provider, journal_id, attempt, effect });
        self.written
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = BookEntry> {
        let first = self.dropped() + 1;
        self.entries.iter().enumerate().map(move |(index, bytes)| {
            let StoredEntry { time, provider, journal_id, attempt, effect } =
                postcard::from_bytes(bytes).expect("an entry is read as it was written");
            BookEntry { id: first + index as u64, time, provider, journal_id, attempt, effect }
        })
    }

    /// The number of entries written since the start or the last reset.
    pub fn total(&self) -> u64 {
        self.written
    }

    /// The number of entries that are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.written.saturating_sub(self.entries.len() as u64)
    }

    fn push(&mut self, entry: &StoredEntry) {
        let bytes = postcard::to_allocvec(entry).expect("numbers and texts can be serialized").into_boxed_slice();
        self.bytes += bytes.len() + ENTRY_OVERHEAD;
        self.entries.push_back(bytes);
        while self.entries.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.len() + ENTRY_OVERHEAD;
        }
    }
}

impl From<Books> for BooksJson {
    fn from(books: Books) -> BooksJson {
        BooksJson { entries: books.entries().collect(), written: books.written }
    }
}

impl From<BooksJson> for Books {
    fn from(BooksJson { entries, written }: BooksJson) -> Books {
        let written = written.max(entries.len() as u64);
        let mut books = Books { written, ..Books::default() };
        for BookEntry { time, provider, journal_id, attempt, effect, .. } in entries {
            books.push(&StoredEntry { time, provider, journal_id, attempt, effect });
        }
        books
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PaidTo;

    fn effect(target: String) -> Effect {
        Effect {
            kind: "refund".to_owned(),
            target,
            amount_minor: Some(1234),
            currency: None,
            identifier: Some("id".to_owned()),
            reference: Some(String::new()),
            account: None,
            fee_minor: Some(-1),
            paid_to: Some(PaidTo::AccountBalance),
        }
    }

    #[test]
    fn entries_are_read_as_written_and_the_oldest_are_dropped_first() {
        let mut books = Books::default();
        let attempt = Attempt { number: 1, connection: 2, ordinal: 3 };
        books.write(OffsetDateTime::UNIX_EPOCH, Provider::Namecom, Some((7, Some(attempt))), effect("1".to_owned()));
        let entry = books.entries().next().unwrap();
        assert_eq!((entry.id, entry.journal_id, entry.attempt), (1, Some(7), Some(attempt)));
        assert_eq!(entry.effect, effect("1".to_owned()));
        let again: Books = serde_json::from_value(serde_json::to_value(&books).unwrap()).unwrap();
        assert!(again.entries().eq(books.entries()));

        for _ in 0..200 {
            books.write(OffsetDateTime::UNIX_EPOCH, Provider::Sectigo, None, effect("x".repeat(MAX_BYTES / 100)));
        }
        assert!(books.bytes <= MAX_BYTES);
        assert_eq!(books.dropped() + books.entries().count() as u64, 201);
        assert_eq!(books.entries().next().unwrap().id, books.dropped() + 1);
    }
}
