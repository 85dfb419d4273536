//! The hash chain over the whole history, in a form that an auditor can compute again from the tables alone.
//!
//! Both hashes are SHA-256 over a sequence of items, each encoded so that no two sequences of items share their bytes:
//!
//! ```text
//! null      00
//! integer   01, then 8 bytes, two's complement, most significant first
//! text      02, then the length in bytes as 8 bytes, most significant first, then the UTF-8 bytes
//! blob      03, then the length as for a text, then the bytes
//! ```
//!
//! `events.refund_digest` is taken over the text `recoup refund 1`, then every column of the refund's row as it stands after the event, in
//! the order in which the table declares them, `ordinal` first. A column that a later version added counts only where it is not null: then
//! its name, as a text, and its value.
//!
//! `events.chain_hash` is taken over the text `recoup event 1`, then these items:
//!
//! ```text
//! blob      chain_hash of the event before; 32 zero bytes for the first
//! integer   sequence
//! text      id of the refund
//! integer   revision
//! integer   event_time, microseconds since 1970-01-01T00:00:00Z
//! text      from_state; null for the creation
//! text      to_state
//! text      kind
//! text      actor
//! text      note
//! blob      refund_digest
//! ```
//!
//! So a line of the history cannot be changed, dropped, added or moved without every later hash changing, and a refund's row cannot be
//! edited without ceasing to match its last line. The last hash, kept elsewhere, makes even a rewritten whole visible.

use sha2::{Digest, Sha256};

use super::rows::{STANDING_COLUMNS, Value};
use crate::domain::ids::RefundId;
use crate::domain::state::State;

pub(super) type Hash = [u8; 32];

/// Where the history ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// 0 for an empty history.
    pub(super) sequence: u64,
    /// Zeros for an empty history.
    pub(super) hash: Hash,
}

/// What the hash of one event covers besides the hash before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) refund: &'a RefundId,
    pub(super) revision: u64,
    pub(super) time_micros: i64,
    pub(super) from: Option<State>,
    pub(super) to: State,
    pub(super) kind: &'a str,
    pub(super) actor: &'a str,
    pub(super) note: &'a str,
    pub(super) refund_digest: &'a Hash,
}

/// The columns of the first version that change with every event.
const FIRST_STANDING_COLUMNS: usize = 21;

/// What is to be hashed. Gathered first: a hash that is fed byte by byte takes longer over the feeding than over the hashing.
struct Items(Vec<u8>);

/// Most rows and lines fit.
const USUAL_BYTES: usize = 1024;

impl Tail {
    pub(super) const EMPTY: Tail = Tail { sequence: 0, hash: [0; 32] };

    /// The history's end after one more line.
    pub(super) fn after(&self, line: &Line<'_>) -> Tail {
        let sequence = self.sequence.saturating_add(1);
        let mut items = Items::of("recoup event 1");
        items.blob(&self.hash);
        items.integer(integer(sequence));
        items.text(line.refund.as_str());
        items.integer(integer(line.revision));
        items.integer(line.time_micros);
        match line.from {
            Some(from) => items.text(from.as_str()),
            None => items.null(),
        }
        items.text(line.to.as_str());
        items.text(line.kind);
        items.text(line.actor);
        items.text(line.note);
        items.blob(line.refund_digest);
        Tail { sequence, hash: items.finish() }
    }
}

/// The digest of a refund's row.
///
/// A column of a later version counts only where it holds something: rows that were written before it keep their digest.
pub(super) fn refund_digest(ordinal: i64, intent: &[Value<'_>], standing: &[Value<'_>]) -> Hash {
    let mut items = Items::of("recoup refund 1");
    items.integer(ordinal);
    let (first, later) = standing.split_at(FIRST_STANDING_COLUMNS.min(standing.len()));
    for value in intent.iter().chain(first) {
        items.value(value);
    }
    for (column, value) in STANDING_COLUMNS.into_iter().skip(FIRST_STANDING_COLUMNS).zip(later) {
        if *value != Value::Null {
            items.text(column);
            items.value(value);
        }
    }
    items.finish()
}

/// As SQL counts. No ledger comes near the end of the range.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Items {
    fn of(purpose: &str) -> Self {
        let mut items = Self(Vec::with_capacity(USUAL_BYTES));
        items.text(purpose);
        items
    }

    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Null => self.null(),
            Value::Integer(number) => self.integer(*number),
            Value::Text(text) => self.text(text),
        }
    }

    fn null(&mut self) {
        self.0.push(0);
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
