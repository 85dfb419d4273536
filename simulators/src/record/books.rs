//! The books: what really happened at the emulated providers, whatever any client was told.
//!
//! An entry is written in the same moment as the effect itself, under the same lock; a fault that
//! swallows the answer cannot touch it.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    record::packed::{Packer, Phrases, Unpacker},
    request::{Effect, PaidTo, Provider},
};

/// How many entries the books keep; the oldest go first, and [`Books::dropped`] says how many went.
pub const KEPT: usize = 100_000;
/// About how many bytes all kept entries may hold together: those of about 25,000 refunds.
pub const KEPT_BYTES: usize = 3 * 1024 * 1024;

/// One effect: a line of the books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BookEntry {
    /// Counted from 1 since the start or the last reset.
    pub id: u64,
    /// When it happened, in the world's time.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Which request for its operation and target, counted from 1.
    pub number: u64,
    /// The connection that it came on.
    pub connection: u64,
    /// Which request on that connection.
    pub ordinal: u64,
}

/// Every effect since the start or the last reset, in order, as far as kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Kept", from = "Kept")]
pub struct Books {
    lines: VecDeque<Line>,
    bytes: usize,
    written: u64,
}

/// The books in JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Kept {
    entries: VecDeque<BookEntry>,
    written: u64,
}

/// An entry as it is kept: small, and in one piece. Its place says its id.
#[derive(Debug, Clone)]
struct Line(Box<[u8]>);

impl Books {
    /// Writes one effect down and tells its id.
    pub fn write(
        &mut self,
        time: OffsetDateTime,
        provider: Provider,
        cause: Option<(u64, Option<Attempt>)>,
        effect: &Effect,
    ) -> u64 {
        let (journal_id, attempt) = cause.map_or((None, None), |(id, attempt)| (Some(id), attempt));
        self.written += 1;
        self.push(Line::new(time, provider, journal_id, attempt, effect));
        self.written
    }

    /// The entries still kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = BookEntry> {
        let first = self.dropped() + 1;
        self.lines.iter().enumerate().map(move |(place, line)| line.entry(first + place as u64))
    }

    /// How many lines were ever written, since the start or the last reset.
    pub fn total(&self) -> u64 {
        self.written
    }

    /// How many entries were written and are no longer kept.
    pub fn dropped(&self) -> u64 {
        self.written.saturating_sub(self.lines.len() as u64)
    }

    fn push(&mut self, line: Line) {
        self.bytes += line.weight();
        self.lines.push_back(line);
        while self.lines.len() > KEPT || (self.bytes > KEPT_BYTES && self.lines.len() > 1) {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.weight();
        }
    }
}

/// What stands in nearly every line.
static WORDS: Phrases = Phrases::new(&["refund", "USD", "AUD", "demo-test", "demo"]);

impl Line {
    fn new(
        time: OffsetDateTime,
        provider: Provider,
        journal_id: Option<u64>,
        attempt: Option<Attempt>,
        effect: &Effect,
    ) -> Self {
        let Effect { kind, target, amount_minor, currency, identifier, reference, account, fee_minor, paid_to } =
            effect;
        let attempt_numbers = |packer: Packer, Attempt { number, connection, ordinal }: Attempt| {
            packer.number(number).number(connection).number(ordinal)
        };
        let packer = Packer::default().time(time).number(provider as u64);
        let packer = packer.maybe(journal_id, Packer::number).maybe(attempt, attempt_numbers);
        let packer = packer.maybe(*amount_minor, Packer::signed).maybe(*fee_minor, Packer::signed);
        let packer = packer.maybe(paid_to.map(|paid_to| paid_to as u64), Packer::number);
        let packer = packer.phrased(&WORDS, kind).text(target);
        let texts = [currency, identifier, reference, account];
        Self(texts.into_iter().fold(packer, |packer, text| packer.maybe(text.as_deref(), put_words)).done())
    }

    fn entry(&self, id: u64) -> BookEntry {
        let mut packed = Unpacker::new(&self.0);
        let text = |packed: &mut Unpacker<'_>| packed.phrased(&WORDS);
        let time = packed.time();
        let provider = packed.number();
        let provider = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess]
            .into_iter()
            .find(|known| *known as u64 == provider);
        let journal_id = packed.maybe(Unpacker::number);
        let attempt = packed.maybe(|packed| Attempt {
            number: packed.number(),
            connection: packed.number(),
            ordinal: packed.number(),
        });
        let amount_minor = packed.maybe(Unpacker::signed);
        let fee_minor = packed.maybe(Unpacker::signed);
        let paid_to = packed.maybe(|packed| packed.one_of(&PaidTo::ALL, |paid_to| paid_to as u64));
        let (kind, target) = (text(&mut packed), packed.text().to_owned());
        let [currency, identifier, reference, account] = [(); 4].map(|()| packed.maybe(text));
        let effect =
            Effect { kind, target, amount_minor, currency, identifier, reference, account, fee_minor, paid_to };
        // It was written from one of them.
        BookEntry { id, time, provider: provider.unwrap_or(Provider::Sectigo), journal_id, attempt, effect }
    }

    /// About how many bytes it takes: its own, its place, and what an allocator needs beside.
    fn weight(&self) -> usize {
        self.0.len() + 32
    }
}

fn put_words(packer: Packer, text: &str) -> Packer {
    packer.phrased(&WORDS, text)
}

impl From<Books> for Kept {
    fn from(books: Books) -> Kept {
        Kept { entries: books.entries().collect(), written: books.written }
    }
}

impl From<Kept> for Books {
    fn from(Kept { entries, written }: Kept) -> Books {
        let written = written.max(entries.len() as u64);
        let mut books = Books { written, ..Books::default() };
        for BookEntry { time, provider, journal_id, attempt, effect, .. } in entries {
            books.push(Line::new(time, provider, journal_id, attempt, &effect));
        }
        books
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_written_is_read_again_and_the_oldest_go_first() {
        let mut books = Books::default();
        let attempt = Attempt { number: 1, connection: 2, ordinal: 3 };
        books.write(OffsetDateTime::UNIX_EPOCH, Provider::Namecom, Some((7, Some(attempt))), &effect("1".to_owned()));
        let entry = books.entries().next().unwrap();
        assert_eq!((entry.id, entry.journal_id, entry.attempt), (1, Some(7), Some(attempt)));
        assert_eq!(entry.effect, effect("1".to_owned()));
        let again: Books = serde_json::from_value(serde_json::to_value(&books).unwrap()).unwrap();
        assert!(again.entries().eq(books.entries()));

        for _ in 0..200 {
            books.write(OffsetDateTime::UNIX_EPOCH, Provider::Sectigo, None, &effect("x".repeat(KEPT_BYTES / 100)));
        }
        assert!(books.bytes <= KEPT_BYTES);
        assert_eq!(books.dropped() + books.entries().count() as u64, 201);
        assert_eq!(books.entries().next().unwrap().id, books.dropped() + 1);
    }
}
