//! JSON read strictly: what is there twice, of another kind or beyond a bound is refused by its path, and never shown.
//!
//! [`Fields::root`] turns bytes into a tree, one [`Fields`] an object. Each getter names the one kind that it accepts; `null` stands for
//! "not there". A derived reader would not do: it takes an array for an object, and prints the text that it refuses, which may be a credential.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Texts longer than this are refused, in bytes. The longest documented are sentences, and a token of a few hundred characters.
const TEXT_BYTES: usize = 4 * 1024;
/// Lists longer than this are refused.
const LIST_ITEMS: usize = 1_000;
/// Answers of more values than this are refused: one of 1,000 domains with all their methods has about 50,000, and a mebibyte of `{},` would
/// take a hundred times its size in memory.
const VALUES: usize = 100_000;

/// What is wrong with an answer, and where: never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem(String);

/// An object of the answer.
pub(super) struct Fields<'a> {
    path: String,
    entries: &'a [(String, Value)],
}

/// A whole answer, of which [`Fields`] are views.
pub(super) struct Document(Value);

enum Value {
    Null,
    Boolean,
    Integer(i64),
    /// With a fraction, or beyond 64 bits: nothing that we read.
    Number,
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Document {
    /// Reads one JSON text and nothing after it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Problem("the body is empty".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Problem("the body is not UTF-8".to_owned()))?;
        let mut values = VALUES;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let seed = Reader { values: &mut values };
        let root = seed.deserialize(&mut deserializer).and_then(|root| deserializer.end().map(|()| root));
        root.map(Document).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Problem(match error.classify() {
                // The tree takes every kind of value, so its own bound is all that it can refuse.
                serde_json::error::Category::Data => format!("the body holds more than {VALUES} values"),
                serde_json::error::Category::Eof => {
                    format!("the body ends in the middle, at line {line} column {column}")
                }
                serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                    format!("the body is not JSON, at line {line} column {column}")
                }
            })
        })
    }

    /// The object that the whole answer must be.
    pub(super) fn root(&self) -> Result<Fields<'_>, Problem> {
        match &self.0 {
            Value::Object(entries) => Ok(Fields { path: String::new(), entries }),
            other => Err(Problem(format!("the body must be an object and is {}", other.kind()))),
        }
    }
}

impl<'a> Fields<'a> {
    /// A text; empty where there is none.
    pub(super) fn text(&self, name: &str) -> Result<String, Problem> {
        self.get(name)?.map_or(Ok(String::new()), |value| text_at(&self.path_of(name), value))
    }

    /// A number that fits 32 bits.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i32>, Problem> {
        match self.get(name)? {
            None => Ok(None),
            Some(Value::Integer(number)) => match i32::try_from(*number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.problem(name, "does not fit 32 bits")),
            },
            Some(other) => Err(self.wrong_kind(name, "an integer of 32 bits", other)),
        }
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Problem> {
        self.get(name)?.map(|value| object_at(self.path_of(name), value)).transpose()
    }

    /// A list of texts; empty where there is none.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, Problem> {
        self.list(name)?.into_iter().map(|(path, value)| text_at(&path, value)).collect()
    }

    /// A list of objects; empty where there is none.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>, Problem> {
        self.list(name)?.into_iter().map(|(path, value)| object_at(path, value)).collect()
    }

    /// A list of objects, or one object in its place.
    pub(super) fn object_or_objects(&self, name: &str) -> Result<Vec<Fields<'a>>, Problem> {
        match self.get(name)? {
            Some(Value::Object(_)) => Ok(Vec::from_iter(self.object(name)?)),
            Some(Value::List(_)) | None => self.objects(name),
            Some(other) => Err(self.wrong_kind(name, "an object or an array", other)),
        }
    }

    /// A fault of one field.
    pub(super) fn problem(&self, name: &str, fault: &str) -> Problem {
        Problem(format!("{} {fault}", self.path_of(name)))
    }

    fn list(&self, name: &str) -> Result<Vec<(String, &'a Value)>, Problem> {
        match self.get(name)? {
            None => Ok(Vec::new()),
            Some(Value::List(values)) if values.len() > LIST_ITEMS => {
                Err(self.problem(name, &format!("holds more than {LIST_ITEMS} items")))
            }
            Some(Value::List(values)) => {
                let items = values.iter().enumerate().filter(|(_, value)| !matches!(value, Value::Null));
                Ok(items.map(|(index, value)| (format!("{}[{index}]", self.path_of(name)), value)).collect())
            }
            Some(other) => Err(self.wrong_kind(name, "an array", other)),
        }
    }

    /// None for `null` too. Twice is refused: nobody knows which of the two is meant.
    fn get(&self, name: &str) -> Result<Option<&'a Value>, Problem> {
        let mut found = self.entries.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let first = found.next();
        if found.next().is_some() {
            return Err(self.problem(name, "is there twice"));
        }
        Ok(first.filter(|value| !matches!(value, Value::Null)))
    }

    fn wrong_kind(&self, name: &str, expected: &str, found: &Value) -> Problem {
        wrong_kind(&self.path_of(name), expected, found)
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn text_at(path: &str, value: &Value) -> Result<String, Problem> {
    match value {
        Value::Text(text) if text.len() > TEXT_BYTES => {
            Err(Problem(format!("{path} is longer than {TEXT_BYTES} bytes")))
        }
        Value::Text(text) => Ok(text.clone()),
        other => Err(wrong_kind(path, "a string", other)),
    }
}

fn object_at(path: String, value: &Value) -> Result<Fields<'_>, Problem> {
    match value {
        Value::Object(entries) => Ok(Fields { path, entries }),
        other => Err(wrong_kind(&path, "an object", other)),
    }
}

fn wrong_kind(path: &str, expected: &str, found: &Value) -> Problem {
    Problem(format!("{path} must be {expected} and is {}", found.kind()))
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Boolean => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Number => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Builds the tree, and counts what it builds.
struct Reader<'a> {
    values: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.values.checked_sub(1) {
            Some(left) => *self.values = left,
            None => return Err(de::Error::custom("too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Boolean)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Number, Value::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Reader { values: self.values })? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            fields.push((name, entries.next_value_seed(Reader { values: self.values })?));
        }
        Ok(Value::Object(fields))
    }
}
