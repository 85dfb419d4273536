//! Lenient reading of a JSON object: every lossless form of a member is accepted, and an irregular
//! member counts as absent without making the others unreadable.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::clock::Timestamp;

/// The members of an object as raw JSON, borrowed from the answer.
pub(super) struct JsonFields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> JsonFields<'a> {
    /// None if the text is not an object.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The object under `name`, or in a list of one there; this object itself if it has the member
    /// `own`.
    pub(super) fn unwrapped(self, own: &str, name: &str) -> Option<Self> {
        if self.raw(own).is_some() {
            return Some(self);
        }
        match self.objects(name).as_mut_slice() {
            [Some(one)] => Some(std::mem::replace(one, JsonFields(Vec::new()))),
            _ => None,
        }
    }

    /// The raw value of `name`; None if it is absent, null, or occurs twice with different values.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let mut named = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| *value);
        let first = named.next()?;
        (first.get() != "null" && named.all(|next| next.get() == first.get())).then_some(first)
    }

    /// An integer, or the text of one.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.text(name)?.trim().parse().ok()
    }

    /// A text, or the digits of a number.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let raw = self.raw(name)?.get();
        if raw.starts_with('"') {
            return serde_json::from_str(raw).ok();
        }
        raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then(|| raw.to_owned())
    }

    /// Whether the value is `true`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| raw.get() == "true")
    }

    pub(super) fn timestamp(&self, name: &str) -> Option<Timestamp> {
        parse_timestamp(&self.text(name)?)
    }

    /// The objects of a list, or a single object as a list of one. None for each element that is
    /// not an object.
    pub(super) fn objects(&self, name: &str) -> Vec<Option<JsonFields<'a>>> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        match serde_json::from_str::<Vec<&'a RawValue>>(raw.get()) {
            Ok(list) => list.into_iter().map(|element| JsonFields::of(element.get())).collect(),
            Err(_) => vec![JsonFields::of(raw.get())],
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(FieldsVisitor).map(JsonFields)
    }
}

/// Parses `2026-03-04T05:06:40Z`, with or without a fraction, with `Z` or an offset. Digits beyond
/// microseconds are cut off.
pub(super) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    // RFC 3339 allows a blank instead of the T.
    OffsetDateTime::parse(&text.trim().replacen(' ', "T", 1), &Rfc3339).ok().and_then(to_timestamp)
}

/// Rounded down to a microsecond.
pub(super) fn to_timestamp(at: OffsetDateTime) -> Option<Timestamp> {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).ok().map(Timestamp::from_micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"a":1}"#, Some(1), Some("1"))]
    #[case(r#"{"a":"1"}"#, Some(1), Some("1"))]
    #[case(r#"{"a":" 007 "}"#, Some(7), Some(" 007 "))]
    #[case(r#"{"a":-1}"#, Some(-1), Some("-1"))]
    #[case(r#"{"a":1,"a":1}"#, Some(1), Some("1"))]
    #[case(r#"{"a":1,"a":2}"#, None, None)]
    #[case(r#"{"a":"x"}"#, None, Some("x"))]
    #[case("{\"a\":\"\\u0031\"}", Some(1), Some("1"))]
    #[case(r#"{"a":1.5}"#, None, Some("1.5"))]
    #[case(r#"{"a":99999999999999999999}"#, None, Some("99999999999999999999"))]
    #[case(r#"{"a":true}"#, None, None)]
    #[case(r#"{"a":null}"#, None, None)]
    #[case(r#"{"a":{}}"#, None, None)]
    #[case(r#"{"b":1}"#, None, None)]
    fn a_member_is_accepted_in_every_lossless_form(
        #[case] text: &str,
        #[case] integer: Option<i64>,
        #[case] as_text: Option<&str>,
    ) {
        let fields = JsonFields::of(text).unwrap();
        assert_eq!((fields.integer("a"), fields.text("a").as_deref()), (integer, as_text));
    }

    #[rstest]
    #[case(r#"{"a":[{"i":1},{"i":2}]}"#, &[Some(1), Some(2)])]
    #[case(r#"{"a":{"i":1}}"#, &[Some(1)])]
    #[case(r#"{"a":[{"i":1},null,5]}"#, &[Some(1), None, None])]
    #[case(r#"{"a":[]}"#, &[])]
    #[case(r#"{"a":null}"#, &[])]
    #[case(r#"{}"#, &[])]
    #[case(r#"{"a":5}"#, &[None])]
    fn a_single_object_may_replace_a_list(#[case] text: &str, #[case] expected: &[Option<i64>]) {
        let objects = JsonFields::of(text).unwrap().objects("a");
        let numbers: Vec<Option<i64>> =
            objects.iter().map(|one| one.as_ref().and_then(|one| one.integer("i"))).collect();
        assert_eq!(numbers, expected);
    }

    #[rstest]
    #[case(r#"{"id":1}"#, Some(1))]
    #[case(r#"{"order":{"id":1}}"#, Some(1))]
    #[case(r#"{"order":[{"id":1}]}"#, Some(1))]
    #[case(r#"{"id":1,"order":{"id":2}}"#, Some(1))]
    #[case(r#"{"order":[{"id":1},{"id":2}]}"#, None)]
    #[case(r#"{"order":null}"#, None)]
    #[case(r#"{"order":7}"#, None)]
    #[case("{}", None)]
    fn an_object_may_be_wrapped(#[case] text: &str, #[case] expected: Option<i64>) {
        let fields = JsonFields::of(text).and_then(|fields| fields.unwrapped("id", "order"));
        assert_eq!(fields.and_then(|fields| fields.integer("id")), expected);
    }

    #[rstest]
    #[case("1970-01-01T00:00:00Z", Some(0))]
    #[case("2026-03-04T05:06:40Z", Some(1_772_600_800_000_000))]
    #[case("2026-03-04T05:06:40.1234567Z", Some(1_772_600_800_123_456))]
    #[case("2026-03-04 05:06:40z", Some(1_772_600_800_000_000))]
    #[case("2026-03-04T07:06:40+02:00", Some(1_772_600_800_000_000))]
    #[case("2026-03-03T22:06:40-07:00", Some(1_772_600_800_000_000))]
    #[case("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000))]
    #[case("2000-03-01T00:00:00Z", Some(951_868_800_000_000))]
    #[case("2026-03-04T05:06:40", None)]
    #[case("2026-03-04", None)]
    #[case("2026-13-04T05:06:40Z", None)]
    #[case("2026-3-4T05:06:40Z", None)]
    #[case("2026-03-04T05:06:40.Z", None)]
    #[case("2026-03-04T05:06:40+0200", None)]
    #[case("+2026-03-04T05:06:40Z", None)]
    #[case("1772600800", None)]
    #[case("", None)]
    fn a_timestamp_is_parsed(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(parse_timestamp(text).map(Timestamp::as_micros), expected);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9TZ:.+ -]{0,40}", other in any::<String>()) {
            let _ = parse_timestamp(&text);
            let _ = parse_timestamp(&other);
        }
    }
}
