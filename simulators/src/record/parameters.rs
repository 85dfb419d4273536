//! The parameters of a request as the journal shows them: in the order sent, which a map would
//! lose.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

/// The parameters of a request, with secrets masked; none if the request is no call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters(Option<Vec<(String, Parameter)>>);

/// One parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Parameter {
    Value(Value),
    Members(Parameters),
}

impl Parameters {
    /// The empty list of a call without parameters.
    pub(crate) fn empty() -> Parameters {
        Parameters(Some(Vec::new()))
    }

    /// Adds a parameter. Parameters of one name become a list at the place of the first.
    pub(crate) fn push(&mut self, name: String, value: Value) {
        let all = self.0.get_or_insert_default();
        let same = all.iter_mut().find(|(known, _)| *known == name);
        match same.map(|(_, parameter)| parameter) {
            Some(Parameter::Value(Value::Array(values))) => values.push(value),
            Some(Parameter::Value(first)) => *first = Value::Array(vec![first.take(), value]),
            Some(members @ Parameter::Members(_)) => *members = Parameter::Value(value),
            None => all.push((name, Parameter::Value(value))),
        }
    }

    /// Adds a parameter with members.
    pub(crate) fn push_members(&mut self, name: String, members: Parameters) {
        self.0.get_or_insert_default().push((name, Parameter::Members(members)));
    }

    /// The parameters as JSON, with texts cut to `max_text` bytes, and at most `max_values` values.
    pub(crate) fn text(&self, max_text: usize, max_values: usize) -> String {
        let written = if self.is_short(max_text, &mut { max_values }) {
            serde_json::to_string(self)
        } else {
            serde_json::to_string(&self.shortened(max_text, &mut { max_values }))
        };
        // Values that were parsed can always be serialized.
        written.unwrap_or_default()
    }

    fn is_short(&self, max_text: usize, left: &mut usize) -> bool {
        self.0.iter().flatten().all(|(name, parameter)| {
            name.len() <= max_text
                && take(left).is_some_and(|left| match parameter {
                    Parameter::Value(value) => is_short(value, max_text, left),
                    Parameter::Members(members) => members.is_short(max_text, left),
                })
        })
    }

    fn shortened(&self, max_text: usize, left: &mut usize) -> Parameters {
        let Some(all) = &self.0 else { return Parameters(None) };
        let kept = all.iter().map_while(|(name, parameter)| {
            let left = take(left)?;
            let kept = match parameter {
                Parameter::Value(value) => Parameter::Value(shortened(value, max_text, left)),
                Parameter::Members(members) => Parameter::Members(members.shortened(max_text, left)),
            };
            Some((cut(name, max_text).to_owned(), kept))
        });
        Parameters(Some(kept.collect()))
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Some(all) = &self.0 else { return to.serialize_none() };
        let mut map = to.serialize_map(Some(all.len()))?;
        for (name, parameter) in all {
            map.serialize_entry(name, parameter)?;
        }
        map.end()
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(usize::MAX, usize::MAX))
    }
}

/// Compares with the JSON form, in which the order of names does not count.
impl PartialEq<Value> for Parameters {
    fn eq(&self, other: &Value) -> bool {
        serde_json::to_value(self).is_ok_and(|value| value == *other)
    }
}

/// The members of an object, sorted by name; none for any other value.
impl From<Value> for Parameters {
    fn from(value: Value) -> Parameters {
        match value {
            Value::Object(members) => {
                Parameters(Some(members.into_iter().map(|(name, value)| (name, Parameter::Value(value))).collect()))
            }
            _ => Parameters(None),
        }
    }
}

impl FromIterator<(String, Value)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Parameters {
        let mut parameters = Parameters::empty();
        pairs.into_iter().for_each(|(name, value)| parameters.push(name, value));
        parameters
    }
}

fn is_short(value: &Value, max_text: usize, left: &mut usize) -> bool {
    match value {
        Value::String(text) => text.len() <= max_text,
        Value::Array(values) => {
            values.iter().all(|value| take(left).is_some_and(|left| is_short(value, max_text, left)))
        }
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            name.len() <= max_text && take(left).is_some_and(|left| is_short(value, max_text, left))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The value with long texts cut and at most `left` values.
fn shortened(value: &Value, max_text: usize, left: &mut usize) -> Value {
    match value {
        Value::String(text) => cut(text, max_text).into(),
        Value::Array(values) => {
            let kept = values.iter().map_while(|value| take(left).map(|left| shortened(value, max_text, left)));
            kept.collect()
        }
        Value::Object(fields) => {
            let kept = fields.iter().map_while(|(name, value)| {
                take(left).map(|left| (cut(name, max_text).to_owned(), shortened(value, max_text, left)))
            });
            Value::Object(kept.collect())
        }
        plain => plain.clone(),
    }
}

fn take(left: &mut usize) -> Option<&mut usize> {
    *left = left.checked_sub(1)?;
    Some(left)
}

pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_is_kept_and_values_of_one_name_become_a_list() {
        let sent = [("z", 1), ("a", 2), ("z", 3), ("m", 4), ("z", 5)];
        let mut parameters: Parameters =
            sent.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        parameters.push_members("User".to_owned(), [("Username".to_owned(), json!("x"))].into_iter().collect());
        assert_eq!(parameters.to_string(), r#"{"z":[1,3,5],"a":2,"m":4,"User":{"Username":"x"}}"#);
        assert_eq!(parameters.text(4, 4), r#"{"z":[1,3,5]}"#);
        assert_eq!(Parameters::default().to_string(), "null");
        assert_eq!(Parameters::empty().to_string(), "{}");
    }
}
