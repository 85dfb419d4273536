//! Deserialization of JSON objects only.
//!
//! serde's derived readers also accept an array for a struct, member by member. If a provider
//! documents an object and sends an array, the answer means something else and must not be read as
//! a success.

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// A `T` that was written as a JSON object.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&'de RawValue>::deserialize(deserializer)?.get();
        if !text.starts_with('{') {
            return Err(de::Error::custom("not an object"));
        }
        serde_json::from_str(text).map(Object).map_err(de::Error::custom)
    }
}
