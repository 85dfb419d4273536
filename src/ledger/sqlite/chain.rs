//! The hash chain over the whole history, in a form that an auditor can compute again from the
//! tables alone.
//!
//! Both hashes are SHA-256 over a sequence of items, each encoded so that no two sequences of items
//! share their bytes:
//!
//! ```text
//! integer   01, then 8 bytes, two's complement, most significant first
//! text      02, then the length in bytes as 8 bytes, most significant first, then the UTF-8 bytes
//! blob      03, then the length as for a text, then the bytes
//! ```
//!
//! Both cover what is present: each item that is not null as its name, a text, and its value. So a
//! column that a later version adds leaves the hashes of what was written before it as they are.
//!
//! `events.refund_digest` is taken over the text `recoup refund 2`, then `ordinal` and every column
//! of the refund's row as it stands after the event, in the order in which the table declares them.
//! The columns that schedule lookups (`next_check`, `unheard`, `doubt_check_count`) are no part of
//! it.
//!
//! `events.chain_hash` is taken over the text `recoup event 2`, then these:
//!
//! ```text
//! previous       blob      chain_hash of the event before; 32 zero bytes for the first
//! sequence       integer
//! refund         text      id of the refund
//! revision       integer
//! event_time     integer   microseconds since 1970-01-01T00:00:00Z
//! from_state     text      absent for the creation
//! to_state       text
//! kind           text
//! attempt        integer
//! actor          text
//! note           text
//! refund_digest  blob
//! ```
//!
//! So a line of the history cannot be changed, dropped, added or moved without every later hash
//! changing, and a refund's row cannot be edited without ceasing to match its last line. The last
//! hash, kept elsewhere, makes even a rewritten whole visible.

use sha2::{Digest, Sha256};

use super::rows::{INTENT_COLUMNS, STATE_COLUMNS, Value};
use crate::domain::event::EventKind;
use crate::domain::ids::RefundId;
use crate::domain::state::State;

pub(super) type Hash = [u8; 32];

/// Where the history ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainHead {
    /// 0 for an empty history.
    pub(super) sequence: u64,
    /// Zeros for an empty history.
    pub(super) hash: Hash,
}

/// What the hash of one event covers besides the hash before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventHashInput<'a> {
    pub(super) refund: &'a RefundId,
    pub(super) revision: u64,
    pub(super) time_micros: i64,
    pub(super) from: Option<State>,
    pub(super) to: State,
    pub(super) kind: EventKind,
    pub(super) attempt: u32,
    pub(super) actor: &'a str,
    pub(super) note: &'a str,
    pub(super) refund_digest: &'a Hash,
}

/// What is to be hashed. Gathered first: a hash that is fed byte by byte takes longer over the
/// feeding than over the hashing.
struct HashEncoder(Vec<u8>);

/// Most rows and lines fit.
const USUAL_BYTES: usize = 2048;

impl ChainHead {
    pub(super) const EMPTY: ChainHead = ChainHead { sequence: 0, hash: [0; 32] };

    /// The history's end after one more line.
    pub(super) fn after(&self, line: &EventHashInput<'_>) -> ChainHead {
        let sequence = self.sequence.saturating_add(1);
        let mut items = HashEncoder::of("recoup event 2");
        items.named("previous", |items| items.blob(&self.hash));
        items.named("sequence", |items| items.integer(integer(sequence)));
        items.named("refund", |items| items.text(line.refund.as_str()));
        items.named("revision", |items| items.integer(integer(line.revision)));
        items.named("event_time", |items| items.integer(line.time_micros));
        if let Some(from) = line.from {
            items.named("from_state", |items| items.text(from.as_str()));
        }
        items.named("to_state", |items| items.text(line.to.as_str()));
        items.named("kind", |items| items.text(line.kind.as_str()));
        items.named("attempt", |items| items.integer(i64::from(line.attempt)));
        items.named("actor", |items| items.text(line.actor));
        items.named("note", |items| items.text(line.note));
        items.named("refund_digest", |items| items.blob(line.refund_digest));
        ChainHead { sequence, hash: items.finish() }
    }
}

/// The digest of a refund's row: `intent` are the values of [`INTENT_COLUMNS`], `state` those of
/// [`STATE_COLUMNS`].
pub(super) fn refund_digest(ordinal: i64, intent: &[Value<'_>], state: &[Value<'_>]) -> Hash {
    let mut items = HashEncoder::of("recoup refund 2");
    items.named("ordinal", |items| items.integer(ordinal));
    let columns = INTENT_COLUMNS.into_iter().chain(STATE_COLUMNS);
    for (column, value) in columns.zip(intent.iter().chain(state)) {
        match value {
            Value::Null => {}
            Value::Integer(number) => items.named(column, |items| items.integer(*number)),
            Value::Text(text) => items.named(column, |items| items.text(text)),
        }
    }
    items.finish()
}

/// As SQL counts. No ledger comes near the end of the range.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl HashEncoder {
    fn of(purpose: &str) -> Self {
        let mut items = Self(Vec::with_capacity(USUAL_BYTES));
        items.text(purpose);
        items
    }

    fn named(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.text(name);
        value(self);
    }

    fn integer(&mut self, number: i64) {
        self.0.push(1);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.sized(2, text.as_bytes());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.sized(3, bytes);
    }

    fn sized(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn finish(self) -> Hash {
        Sha256::digest(&self.0).into()
    }
}
