//! The hash chain over the whole history, in a form that an auditor can recompute from the tables
//! alone.
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
//! Both cover the fields that are present: for each field that is not null its name, a text, and
//! its value. A field that a later version adds leaves the hashes of older rows unchanged.
//!
//! `events.refund_digest` covers the text `recoup refund 2`, then `ordinal` and every column of the
//! refund's row after the event, in the order in which the table declares them. The columns that
//! schedule lookups (`next_check`, `unheard`, `doubt_check_count`) are not covered. The target is
//! one column of JSON that leaves absent fields out, so it follows the same rule.
//!
//! `events.chain_hash` covers the text `recoup event 2`, then these:
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
//! actor          text      absent if it is the gateway
//! actor_credential, actor_policy   texts, absent for the gateway and without an access file
//! note           text      absent for the kinds created and dispatched, which say it all
//! refund_digest  blob      absent if the next event is of the same refund and transaction
//! ```
//!
//! So no event can be changed, dropped, added or moved without changing every later hash, and a
//! refund's row cannot be edited without ceasing to match its last event. The last hash, kept
//! elsewhere, makes even a ledger visible that was rewritten as a whole.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::domain::authority::Actor;
use crate::domain::event::EventKind;
use crate::domain::ids::RefundId;
use crate::domain::state::State;
use crate::ledger::encoding::{self, ColumnValue, INTENT_COLUMNS, STATE_COLUMNS, StoredEvent, StoredRefund, integer};

pub(super) type Hash = [u8; 32];

/// The last event of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainHead {
    /// 0 for an empty history.
    pub(super) sequence: u64,
    /// Zeros for an empty history.
    pub(super) hash: Hash,
}

/// What the hash of one event covers besides its place in the chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventHashInput<'a> {
    pub(super) refund: &'a RefundId,
    pub(super) revision: u64,
    pub(super) time_micros: i64,
    pub(super) from: Option<State>,
    pub(super) to: State,
    pub(super) kind: EventKind,
    pub(super) attempt: u32,
    pub(super) actor: &'a Actor,
    pub(super) note: Option<&'a str>,
    pub(super) refund_digest: Option<&'a Hash>,
}

/// Collects the bytes to hash: feeding a hash byte by byte takes longer than hashing them.
struct HashEncoder(Vec<u8>);

/// Most rows and events fit.
const USUAL_BYTES: usize = 2048;

impl ChainHead {
    pub(super) const EMPTY: ChainHead = ChainHead { sequence: 0, hash: [0; 32] };

    /// The head after one more event.
    pub(super) fn after(&self, event: &EventHashInput<'_>) -> ChainHead {
        let sequence = self.sequence.saturating_add(1);
        ChainHead { sequence, hash: event_hash(event.fields(sequence, &self.hash)) }
    }

    /// The head that an event records.
    pub(super) fn at(event: &StoredEvent) -> ChainHead {
        ChainHead { sequence: event.record.sequence, hash: event.record.chain_hash }
    }
}

/// What the hash of an event covers, in this order: see the module's doc.
pub(super) const EVENT_FIELDS: [&str; 14] = [
    "previous",
    "sequence",
    "refund",
    "revision",
    "event_time",
    "from_state",
    "to_state",
    "kind",
    "attempt",
    "actor",
    "actor_credential",
    "actor_policy",
    "note",
    "refund_digest",
];

const PURPOSE_EVENT: &str = "recoup event 2";
const PURPOSE_REFUND: &str = "recoup refund 2";

/// The chain hash of an event with these fields, in the order of [`EVENT_FIELDS`].
pub(super) fn event_hash<'a>(fields: impl IntoIterator<Item = (&'static str, Cow<'a, ColumnValue<'a>>)>) -> Hash {
    hash_of(PURPOSE_EVENT, fields)
}

/// The digest of a refund's row: `intent` are the values of [`INTENT_COLUMNS`], `state` those of
/// [`STATE_COLUMNS`].
pub(super) fn refund_digest(ordinal: i64, intent: &[ColumnValue<'_>], state: &[ColumnValue<'_>]) -> Hash {
    hash_of(PURPOSE_REFUND, refund_fields(ordinal, intent, state))
}

/// The digest that the last event of a refund must have recorded.
pub(super) fn digest_of(StoredRefund { ordinal, refund }: &StoredRefund) -> Hash {
    refund_digest(*ordinal, &encoding::intent_values(refund), &encoding::state_values(refund))
}

fn refund_fields<'a>(
    ordinal: i64,
    intent: &'a [ColumnValue<'_>],
    state: &'a [ColumnValue<'_>],
) -> impl Iterator<Item = (&'static str, Cow<'a, ColumnValue<'a>>)> {
    let columns = INTENT_COLUMNS.into_iter().chain(STATE_COLUMNS);
    let values = intent.iter().chain(state).map(Cow::Borrowed);
    [("ordinal", Cow::Owned(ColumnValue::Integer(ordinal)))].into_iter().chain(columns.zip(values))
}

/// Hashes the fields that are present, each as its name and its value.
fn hash_of<'a>(purpose: &str, fields: impl IntoIterator<Item = (&'static str, Cow<'a, ColumnValue<'a>>)>) -> Hash {
    let mut encoder = HashEncoder(Vec::with_capacity(USUAL_BYTES));
    encoder.text(purpose);
    for (name, value) in fields {
        encoder.field(name, &value);
    }
    Sha256::digest(&encoder.0).into()
}

impl<'a> EventHashInput<'a> {
    pub(super) fn of(event: &'a StoredEvent) -> Self {
        let record = &event.record;
        Self {
            refund: &record.refund,
            revision: record.revision,
            time_micros: record.time.as_micros(),
            from: record.from,
            to: record.to,
            kind: record.kind,
            attempt: record.attempt,
            actor: &record.actor,
            note: encoding::stored_note(record.kind, &record.note),
            refund_digest: event.refund_digest.as_ref(),
        }
    }

    pub(super) fn fields(&self, sequence: u64, previous: &'a Hash) -> [(&'static str, Cow<'a, ColumnValue<'a>>); 14] {
        let integer_value = |number| ColumnValue::Integer(number);
        let text = |text: &'a str| ColumnValue::Text(Cow::Borrowed(text));
        let blob = |hash: &'a Hash| ColumnValue::Blob(Cow::Borrowed(hash.as_slice()));
        [
            ("previous", blob(previous)),
            ("sequence", integer_value(integer(sequence))),
            ("refund", text(self.refund.as_str())),
            ("revision", integer_value(integer(self.revision))),
            ("event_time", integer_value(self.time_micros)),
            ("from_state", self.from.map_or(ColumnValue::Null, |state| text(state.as_str()))),
            ("to_state", text(self.to.as_str())),
            ("kind", text(self.kind.as_str())),
            ("attempt", integer_value(i64::from(self.attempt))),
            ("actor", encoding::stored_actor(self.actor).map_or(ColumnValue::Null, text)),
            ("actor_credential", self.actor.credential.as_deref().map_or(ColumnValue::Null, text)),
            ("actor_policy", self.actor.policy.as_deref().map_or(ColumnValue::Null, text)),
            ("note", self.note.map_or(ColumnValue::Null, text)),
            ("refund_digest", self.refund_digest.map_or(ColumnValue::Null, blob)),
        ]
        .map(|(name, value)| (name, Cow::Owned(value)))
    }
}

impl HashEncoder {
    fn field(&mut self, name: &str, value: &ColumnValue<'_>) {
        match value {
            ColumnValue::Null => {}
            ColumnValue::Integer(number) => {
                self.text(name);
                self.0.push(1);
                self.0.extend_from_slice(&number.to_be_bytes());
            }
            ColumnValue::Text(text) => {
                self.text(name);
                self.text(text);
            }
            ColumnValue::Blob(bytes) => {
                self.text(name);
                self.sized(3, bytes);
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.sized(2, text.as_bytes());
    }

    fn sized(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: [(&str, i64); 2] = [("one", 1), ("two", 2)];

    fn hash_with(later: ColumnValue<'static>) -> Hash {
        let fields = PRESENT.map(|(name, number)| (name, Cow::Owned(ColumnValue::Integer(number))));
        hash_of("test", fields.into_iter().chain([("later", Cow::Owned(later))]))
    }

    /// An exported history has all that a hash covers.
    #[test]
    fn the_fields_of_an_event_are_those_that_are_exported() {
        let (refund, actor) = (RefundId::parse("one").unwrap(), Actor::gateway());
        let input = EventHashInput {
            refund: &refund,
            revision: 1,
            time_micros: 1,
            from: None,
            to: State::Pending,
            kind: EventKind::Created,
            attempt: 0,
            actor: &actor,
            note: None,
            refund_digest: None,
        };
        assert_eq!(input.fields(1, &[0; 32]).map(|(name, _)| name), EVENT_FIELDS);
    }

    #[test]
    fn an_absent_field_of_a_later_version_does_not_change_a_hash() {
        let fields = PRESENT.map(|(name, number)| (name, Cow::Owned(ColumnValue::Integer(number))));
        assert_eq!(hash_of("test", fields), hash_with(ColumnValue::Null));
        assert_ne!(hash_with(ColumnValue::Null), hash_with(ColumnValue::Text(Cow::Borrowed(""))));
    }
}
