//! An event as a line of JSON, with everything that its hash covers, so that the chain can be
//! recomputed without the ledger.
//!
//! The members are the fields of [`hash_chain`], as it describes them, and `chain_hash`. An absent
//! field is left out; a blob is in Base64.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use crate::ledger::encoding::{ColumnValue, StoredEvent};
use crate::ledger::hash_chain::{self, EVENT_FIELDS, EventHashInput, Hash};

/// One event of an exported history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedEvent {
    /// What the hash covers; absent fields are left out.
    fields: BTreeMap<&'static str, ColumnValue<'static>>,
    sequence: u64,
    previous: Hash,
    chain_hash: Hash,
}

const CHAIN_HASH: &str = "chain_hash";

impl ExportedEvent {
    pub(super) fn of(event: &StoredEvent, previous: Hash) -> Self {
        let (sequence, chain_hash) = (event.record.sequence, event.record.chain_hash);
        let fields = EventHashInput::of(event).fields(sequence, &previous);
        let owned = |value: ColumnValue<'_>| match value {
            ColumnValue::Null => ColumnValue::Null,
            ColumnValue::Integer(number) => ColumnValue::Integer(number),
            ColumnValue::Text(text) => ColumnValue::Text(Cow::Owned(text.into_owned())),
            ColumnValue::Blob(bytes) => ColumnValue::Blob(Cow::Owned(bytes.into_owned())),
        };
        let present = fields.into_iter().filter(|(_, value)| **value != ColumnValue::Null);
        let fields = present.map(|(name, value)| (name, owned(value.into_owned()))).collect();
        Self { fields, sequence, previous, chain_hash }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut object: Map<String, Json> =
            serde_json::from_str(line).map_err(|error| format!("is no JSON object of an event: {error}"))?;
        let blob = |name: &str, value: &Json| {
            let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
            bytes.ok_or_else(|| format!("{name} is no Base64"))
        };
        let hash = |name: &str, value: Option<&Json>| {
            let bytes = blob(name, value.ok_or_else(|| format!("{name} is missing"))?)?;
            Hash::try_from(bytes).map_err(|_| format!("{name} is not 32 bytes long"))
        };
        let chain_hash = hash(CHAIN_HASH, object.remove(CHAIN_HASH).as_ref())?;
        let previous = hash("previous", object.get("previous"))?;
        let sequence = object.get("sequence").and_then(Json::as_u64).ok_or("sequence is no number")?;
        let mut fields = BTreeMap::new();
        for name in EVENT_FIELDS {
            let value = match (name, object.remove(name)) {
                (_, None) => continue,
                ("previous" | "refund_digest", Some(value)) => ColumnValue::Blob(Cow::Owned(blob(name, &value)?)),
                (_, Some(Json::String(text))) => ColumnValue::Text(Cow::Owned(text)),
                (_, Some(Json::Number(number))) => {
                    ColumnValue::Integer(number.as_i64().ok_or_else(|| format!("{name} is no whole number"))?)
                }
                (_, Some(_)) => return Err(format!("{name} is neither a text nor a number")),
            };
            fields.insert(name, value);
        }
        match object.keys().next() {
            Some(unknown) => Err(format!("{unknown:?} is no field of an event")),
            None => Ok(Self { fields, sequence, previous, chain_hash }),
        }
    }

    /// The line, without its end.
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        let names = EVENT_FIELDS.iter().filter_map(|name| Some((*name, self.fields.get(name)?)));
        for (name, value) in names {
            let value = match value {
                ColumnValue::Null => continue,
                ColumnValue::Integer(number) => Json::from(*number),
                ColumnValue::Text(text) => Json::from(text.as_ref()),
                ColumnValue::Blob(bytes) => Json::from(STANDARD.encode(bytes)),
            };
            object.insert(name.to_owned(), value);
        }
        object.insert(CHAIN_HASH.to_owned(), Json::from(STANDARD.encode(self.chain_hash)));
        Json::Object(object).to_string()
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The chain hash of the event before, as this event covers it.
    pub fn previous(&self) -> &[u8; 32] {
        &self.previous
    }

    /// As it was exported.
    pub fn chain_hash(&self) -> &[u8; 32] {
        &self.chain_hash
    }

    /// The chain hash that follows from the fields.
    pub fn computed_hash(&self) -> [u8; 32] {
        hash_chain::event_hash(
            EVENT_FIELDS.into_iter().filter_map(|name| Some((name, Cow::Borrowed(self.fields.get(name)?)))),
        )
    }
}
