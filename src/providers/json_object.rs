//! JSON objects, and nothing in their place.
//!
//! The derived readers also take an array for a struct, member by member. A provider that documents
//! an object and sends an array has said something else, and it must not be read as a yes.

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
