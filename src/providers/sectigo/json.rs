//! JSON of a page that is only read: every form that loses nothing is accepted, and an odd field
//! loses only itself.
//!
//! ```text
//! documented      accepted besides                        left out
//! a text          a number or a boolean, as written       a list, an object, half a surrogate pair
//! an integer      a text of one, 801.0                    what is no integer of 32 bits
//! a list          one value                               items that do not fit, items too many
//! an object       a list of one                           a text, a number, a list of more
//! absent          "", [] or {} in place of another kind   (null counts as absent)
//! ```
//!
//! A member that is there twice counts once where both are alike, and not at all where they differ.
//!
//! [`Irregularities`] has the path of each field that is not as documented. No value is ever shown there: it
//! may be a credential.
//!
//! A value is parsed when its field is read, so undocumented members cost nothing, however deep or
//! long they are.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::domain::outcome::exact_text;
use crate::domain::validation::{KnownValues, OpenEnum};
use crate::http::client::HttpResponse;
use crate::providers::redact::Redactor;
use crate::providers::text::{self, TextError};

/// The most bytes of a credential or an address. A longer one is left out: a part of it is of no
/// use.
const WHOLE_TEXT_BYTES: usize = 4 * 1024;
/// Lists are read up to here.
const LIST_ITEMS: usize = 1_000;
/// Items of all lists together: those of 1,000 domains with all their methods are about 50,000. A
/// mebibyte of `{},` would take a hundred times its size in memory.
const ITEMS: usize = 100_000;
/// Paths that are named; the rest is only counted in the digest.
const MAX_PATHS: usize = 100;

/// Why an answer cannot be read at all, and where: never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageError(String);

/// A whole answer. [`PageFields`] are views of it.
pub(super) struct JsonDocument<'a> {
    text: Cow<'a, str>,
    /// Something did not fit the charset, and U+FFFD stands in its place.
    damaged: Option<TextError>,
}

/// What was seen that is not as documented.
pub(super) struct Irregularities<'a> {
    redactor: &'a Redactor,
    paths: RefCell<Vec<String>>,
    /// Of what the fields do not hold as it was sent: left out, cut, escaped or in another form.
    beyond: RefCell<Option<Sha256>>,
    items_left: Cell<usize>,
}

/// An object of the answer.
pub(super) struct PageFields<'a> {
    path: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    document: &'a JsonDocument<'a>,
    notes: &'a Irregularities<'a>,
}

/// A member is there twice, with two values: one of them is wrong, and neither says which.
struct ConflictingValues;

/// The kind of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JsonKind {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    List,
    Object,
}

/// What a value is to a field of one kind.
enum FieldReading<T> {
    /// As documented.
    Plain(T),
    /// Another form of the same.
    Other(T),
    /// Nothing that fits.
    Misfit,
}

impl<'a> JsonDocument<'a> {
    /// The text of an answer, which is JSON or not.
    pub(super) fn of(answer: &'a HttpResponse) -> Self {
        match text::read(answer) {
            Ok(text) => Self { text, damaged: None },
            Err(fault) => {
                let text = text::decode_damaged(&answer.body, text::content_type(answer));
                Self { text, damaged: Some(fault) }
            }
        }
    }

    /// The one object that the whole answer must be, with nothing after it.
    pub(super) fn root(&'a self, notes: &'a Irregularities<'a>) -> Result<PageFields<'a>, PageError> {
        let text = self.text.as_ref();
        if text.trim_matches(is_json_blank).is_empty() {
            return Err(PageError("the body is empty".to_owned()));
        }
        let whole = serde_json::from_str::<&RawValue>(text).map(RawValue::get).map_err(|error| self.no_json(&error))?;
        match members(whole) {
            Some(members) => Ok(PageFields { path: String::new(), members, document: self, notes }),
            None => Err(PageError(format!("the body must be an object and is {}", JsonKind::of(whole).name()))),
        }
    }

    fn no_json(&self, error: &serde_json::Error) -> PageError {
        let (line, column) = (error.line(), error.column());
        PageError(match (&self.damaged, error.classify()) {
            (Some(fault), _) => fault.to_string(),
            (None, serde_json::error::Category::Eof) => {
                format!("the body ends in the middle, at line {line} column {column}")
            }
            (None, _) => format!("the body is not JSON, at line {line} column {column}"),
        })
    }
}

impl<'a> Irregularities<'a> {
    /// None yet. Texts are kept without the secrets of `mask`.
    pub(super) fn new(redactor: &'a Redactor) -> Self {
        Self { redactor, paths: RefCell::default(), beyond: RefCell::default(), items_left: Cell::new(ITEMS) }
    }

    /// The paths of the fields that are not as documented, in the order in which they were read,
    /// and the digest of what no field holds as it was sent.
    pub(super) fn finish(self) -> (Vec<String>, Option<[u8; 32]>) {
        (self.paths.into_inner(), self.beyond.into_inner().map(|digest| digest.finalize().into()))
    }

    /// A fit text for a field: without secrets, escaped and bounded.
    fn fit(&self, path: &str, text: &str) -> String {
        let masked = self.redactor.without_secrets(text);
        let (kept, cut) = exact_text(&masked);
        if cut {
            self.name(path);
        }
        if kept != masked {
            self.count(path, &masked);
        }
        kept
    }

    /// The field is not as documented.
    fn note(&self, path: &str, raw: &str) {
        self.name(path);
        self.count(path, &self.redactor.without_secrets(raw));
    }

    fn name(&self, path: &str) {
        let mut paths = self.paths.borrow_mut();
        if paths.len() < MAX_PATHS && paths.last().is_none_or(|last| last != path) {
            paths.push(path.to_owned());
        }
    }

    fn count(&self, path: &str, content: &str) {
        let mut beyond = self.beyond.borrow_mut();
        let digest = beyond.get_or_insert_with(Sha256::new);
        for part in [path, content] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    }

    fn take_item(&self) -> bool {
        let left = self.items_left.get().checked_sub(1);
        self.items_left.set(left.unwrap_or(0));
        left.is_some()
    }
}

impl<'a> PageFields<'a> {
    /// A text, fit to be shown; empty where there is none.
    pub(super) fn text(&self, name: &str) -> String {
        let path = self.path_of(name);
        self.read(name, |raw| self.text_in(raw)).map_or(String::new(), |text| self.notes.fit(&path, &text))
    }

    /// A documented value, matched exactly; the text that is kept is fit to be shown.
    pub(super) fn word<M: KnownValues>(&self, name: &str) -> Option<OpenEnum<M>> {
        let path = self.path_of(name);
        let text = self.read(name, |raw| self.text_in(raw))?;
        OpenEnum::read(&text, |text| self.notes.fit(&path, text))
    }

    /// A text that is of use only as a whole, as it is. None where there is none, or one that
    /// `fits` refuses.
    pub(super) fn whole_text(&self, name: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
        self.read(name, |raw| match self.text_in(raw) {
            FieldReading::Plain(text) if !text.is_empty() && (text.len() > WHOLE_TEXT_BYTES || !fits(&text)) => {
                FieldReading::Misfit
            }
            FieldReading::Plain(text) => FieldReading::Plain(text),
            FieldReading::Other(text) if text.is_empty() => FieldReading::Other(text),
            _ => FieldReading::Misfit,
        })
        .filter(|text| !text.is_empty())
    }

    /// As [`PageFields::whole_text`], for a credential: no digest counts it.
    pub(super) fn credential(&self, name: &str) -> Option<String> {
        let reading = match self.find(name) {
            Ok(raw) => self.text_in(raw?),
            Err(ConflictingValues) => FieldReading::Misfit,
        };
        match reading {
            FieldReading::Plain(text) if text.len() <= WHOLE_TEXT_BYTES => Some(text).filter(|text| !text.is_empty()),
            _ => {
                self.notes.name(&self.path_of(name));
                None
            }
        }
    }

    /// A number that fits 32 bits.
    pub(super) fn integer(&self, name: &str) -> Option<i32> {
        self.read(name, |raw| self.integer_in(raw)).flatten()
    }

    /// A number without which the answer means nothing.
    pub(super) fn required_integer(&self, name: &str) -> Result<i32, PageError> {
        let raw = self.required(name)?;
        let misfit =
            || self.problem(name, &format!("must be an integer of 32 bits and is {}", JsonKind::of(raw).name()));
        self.integer(name).ok_or_else(misfit)
    }

    /// An object without which the answer means nothing.
    pub(super) fn required_object(&self, name: &str) -> Result<PageFields<'a>, PageError> {
        let raw = self.required(name)?;
        match self.object_in(&self.path_of(name), raw) {
            FieldReading::Plain(Some(fields)) => Ok(fields),
            _ => Err(self.problem(name, &format!("must be an object and is {}", JsonKind::of(raw).name()))),
        }
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Option<PageFields<'a>> {
        let path = self.path_of(name);
        let only = |raw| match items(raw)?.0.as_slice() {
            [only] => Some(self.object_in(&path, only.get())),
            _ => None,
        };
        self.read(name, |raw| match self.object_in(&path, raw) {
            FieldReading::Misfit => match only(raw) {
                Some(FieldReading::Plain(fields)) => FieldReading::Other(fields),
                _ => FieldReading::Misfit,
            },
            reading => reading,
        })
        .flatten()
    }

    /// A list of texts, fit to be shown; empty where there is none.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let item = |path: &str, raw| match self.text_in(raw) {
            FieldReading::Plain(text) => FieldReading::Plain(self.notes.fit(path, &text)),
            FieldReading::Other(text) if !text.is_empty() => FieldReading::Other(self.notes.fit(path, &text)),
            _ => FieldReading::Misfit,
        };
        self.list(name, false, item)
    }

    /// A list of objects, each read by `item`; empty where there is none.
    pub(super) fn objects<T>(&self, name: &str, item: impl Fn(&PageFields<'_>) -> T) -> Vec<T> {
        self.list(name, false, |path, raw| self.item_in(path, raw, &item))
    }

    /// A list of objects, or one object in its place: both are documented.
    pub(super) fn object_or_objects<T>(&self, name: &str, item: impl Fn(&PageFields<'_>) -> T) -> Vec<T> {
        self.list(name, true, |path, raw| self.item_in(path, raw, &item))
    }

    fn item_in<T>(&self, path: &str, raw: &'a str, item: impl Fn(&PageFields<'_>) -> T) -> FieldReading<T> {
        match self.object_in(path, raw) {
            FieldReading::Plain(Some(fields)) => FieldReading::Plain(item(&fields)),
            _ => FieldReading::Misfit,
        }
    }

    /// A list. Where there is a single value in its place, that is its only item.
    fn list<T>(&self, name: &str, or_one: bool, item: impl Fn(&str, &'a str) -> FieldReading<T>) -> Vec<T> {
        let path = self.path_of(name);
        let Some(raw) = self.found(name) else { return Vec::new() };
        let Some((values, cut)) = items(raw) else {
            let is_documented = or_one && JsonKind::of(raw) == JsonKind::Object;
            if is_documented {
                return Vec::from_iter(item(&path, raw).value());
            }
            self.notes.note(&path, raw);
            return if is_empty(raw) { Vec::new() } else { Vec::from_iter(item(&path, raw).value()) };
        };
        let mut list = Vec::new();
        let mut is_cut = cut;
        for (index, value) in values.into_iter().map(RawValue::get).enumerate() {
            if JsonKind::of(value) == JsonKind::Null {
                continue;
            }
            if !self.notes.take_item() {
                is_cut = true;
                break;
            }
            let path = format!("{path}[{index}]");
            let reading = item(&path, value);
            if !matches!(reading, FieldReading::Plain(_)) {
                self.notes.note(&path, value);
            }
            list.extend(reading.value());
        }
        if is_cut {
            self.notes.note(&path, raw);
        }
        list
    }

    /// None where it is not there, or does not fit.
    fn read<T>(&self, name: &str, read: impl FnOnce(&'a str) -> FieldReading<T>) -> Option<T> {
        let raw = self.found(name)?;
        let reading = read(raw);
        if !matches!(reading, FieldReading::Plain(_)) {
            self.notes.note(&self.path_of(name), raw);
        }
        reading.value()
    }

    /// The value of a member, if any.
    fn found(&self, name: &str) -> Option<&'a str> {
        let all: Vec<&str> = self.all(name).collect();
        if all.len() > 1 {
            self.notes.note(&self.path_of(name), &all.join(","));
        }
        self.find(name).unwrap_or(None)
    }

    fn required(&self, name: &str) -> Result<&'a str, PageError> {
        match self.find(name) {
            Ok(Some(raw)) => Ok(raw),
            Ok(None) => Err(self.problem(name, "is missing")),
            Err(ConflictingValues) => Err(self.problem(name, "is there twice")),
        }
    }

    /// None for `null` too.
    fn find(&self, name: &str) -> Result<Option<&'a str>, ConflictingValues> {
        let mut all = self.all(name);
        let first = all.next();
        if all.any(|other| Some(other) != first) {
            return Err(ConflictingValues);
        }
        Ok(first.filter(|raw| JsonKind::of(raw) != JsonKind::Null))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.members.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// A text, or what stands for one. Half a surrogate pair, and what did not fit the charset, is
    /// no text.
    fn text_in(&self, raw: &str) -> FieldReading<String> {
        match JsonKind::of(raw) {
            JsonKind::Text => match serde_json::from_str::<String>(raw) {
                Ok(text) if self.document.damaged.is_none() || !text.contains('\u{FFFD}') => FieldReading::Plain(text),
                _ => FieldReading::Misfit,
            },
            JsonKind::Integer | JsonKind::Number | JsonKind::Boolean => FieldReading::Other(raw.to_owned()),
            _ if is_empty(raw) => FieldReading::Other(String::new()),
            JsonKind::Null | JsonKind::List | JsonKind::Object => FieldReading::Misfit,
        }
    }

    fn integer_in(&self, raw: &str) -> FieldReading<Option<i32>> {
        match (JsonKind::of(raw), self.text_in(raw)) {
            (JsonKind::Integer, _) => raw.parse().map_or(FieldReading::Misfit, |it| FieldReading::Plain(Some(it))),
            (JsonKind::Number, _) => integer_of(raw).map_or(FieldReading::Misfit, |it| FieldReading::Other(Some(it))),
            (_, FieldReading::Plain(text) | FieldReading::Other(text)) if text.is_empty() => FieldReading::Other(None),
            (JsonKind::Text, FieldReading::Plain(text)) => {
                integer_of(text.trim()).map_or(FieldReading::Misfit, |it| FieldReading::Other(Some(it)))
            }
            _ => FieldReading::Misfit,
        }
    }

    fn object_in(&self, path: &str, raw: &'a str) -> FieldReading<Option<PageFields<'a>>> {
        match members(raw) {
            Some(members) => {
                let (document, notes) = (self.document, self.notes);
                FieldReading::Plain(Some(PageFields { path: path.to_owned(), members, document, notes }))
            }
            None if is_empty(raw) => FieldReading::Other(None),
            None => FieldReading::Misfit,
        }
    }

    fn problem(&self, name: &str, fault: &str) -> PageError {
        PageError(format!("{} {fault}", self.path_of(name)))
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl<T> FieldReading<T> {
    fn value(self) -> Option<T> {
        match self {
            FieldReading::Plain(value) | FieldReading::Other(value) => Some(value),
            FieldReading::Misfit => None,
        }
    }
}

impl JsonKind {
    /// Of JSON text without blanks around it.
    fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'n') => JsonKind::Null,
            Some(b't' | b'f') => JsonKind::Boolean,
            Some(b'"') => JsonKind::Text,
            Some(b'[') => JsonKind::List,
            Some(b'{') => JsonKind::Object,
            _ if raw.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => JsonKind::Integer,
            _ => JsonKind::Number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            JsonKind::Null => "null",
            JsonKind::Boolean => "a boolean",
            JsonKind::Integer => "an integer",
            JsonKind::Number => "a number",
            JsonKind::Text => "a string",
            JsonKind::List => "an array",
            JsonKind::Object => "an object",
        }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `801`, `801.0`: what is written as an integer or equals one in every digit.
fn integer_of(text: &str) -> Option<i32> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, "0"));
    (!fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0')).then(|| integer.parse().ok())?
}

/// `""`, `[]`, `{}`.
fn is_empty(raw: &str) -> bool {
    let is_around = |open, close| {
        let inside = raw.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        inside.is_some_and(|inside| inside.trim_matches(is_json_blank).is_empty())
    };
    raw == "\"\"" || is_around('[', ']') || is_around('{', '}')
}

fn is_json_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// The members of an object, in their order.
fn members(raw: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    if JsonKind::of(raw) != JsonKind::Object {
        return None;
    }
    serde_json::Deserializer::from_str(raw).deserialize_map(MembersVisitor).ok()
}

/// The items of a list up to the bound, and whether there are more.
fn items(raw: &str) -> Option<(Vec<&RawValue>, bool)> {
    if JsonKind::of(raw) != JsonKind::List {
        return None;
    }
    serde_json::Deserializer::from_str(raw).deserialize_seq(ItemsVisitor).ok()
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(MemberName(name)) = entries.next_key()? {
            members.push((name, entries.next_value()?));
        }
        Ok(members)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = (Vec<&'de RawValue>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < LIST_ITEMS {
            match entries.next_element()? {
                Some(item) => items.push(item),
                None => return Ok((items, false)),
            }
        }
        let mut is_cut = false;
        while entries.next_element::<IgnoredAny>()?.is_some() {
            is_cut = true;
        }
        Ok((items, is_cut))
    }
}

/// The name of a member, borrowed where it has no escapes: an answer may have a hundred thousand.
struct MemberName<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for MemberName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(MemberNameVisitor)
    }
}

struct MemberNameVisitor;

impl<'de> Visitor<'de> for MemberNameVisitor {
    type Value = MemberName<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<MemberName<'de>, E> {
        Ok(MemberName(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<MemberName<'de>, E> {
        Ok(MemberName(Cow::Owned(name.to_owned())))
    }
}
