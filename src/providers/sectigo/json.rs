//! Lenient reading of a JSON page: every form that loses nothing is accepted, and an irregular
//! field loses only itself.
//!
//! ```text
//! documented    also accepted                          left out
//! a text        a number or a boolean, as written      a list, an object, half a surrogate pair
//! an integer    the text of one, 801.0                 whatever is no integer of 32 bits
//! a list        one value                              items that do not fit or exceed the bound
//! an object     a list of one object                   a text, a number, a longer list
//! absent        "", [] or {} instead of another kind   (null counts as absent)
//! ```
//!
//! A member that occurs twice counts once if both are equal, and not at all if they differ.
//!
//! [`Irregularities`] lists the path of each field that is not as documented, but never a value: it
//! may be a credential.
//!
//! A value is parsed when its field is read. Undocumented members cost nothing, however deep or
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

/// Maximum length of a credential or an address, in bytes. A longer one is left out, because a part
/// of it is useless.
const MAX_WHOLE_TEXT_BYTES: usize = 4 * 1024;
/// Maximum number of items that are read from one list.
const MAX_LIST_ITEMS: usize = 1_000;
/// Maximum number of items of all lists together; 1,000 domains with all their methods have about
/// 50,000. Without it, a mebibyte of `{},` would take a hundred times its size in memory.
const MAX_ITEMS: usize = 100_000;
/// Maximum number of paths that are listed; further ones only change the digest.
const MAX_PATHS: usize = 100;

/// Why an answer cannot be read at all, and where. Never contains the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageError(String);

/// A complete answer. [`PageFields`] are views of it.
pub(super) struct JsonDocument<'a> {
    text: Cow<'a, str>,
    /// Some bytes did not fit the charset and were replaced by U+FFFD.
    damaged: Option<TextError>,
}

/// Collects what is not as documented.
pub(super) struct Irregularities<'a> {
    redactor: &'a Redactor,
    paths: RefCell<Vec<String>>,
    /// Digest of everything that the fields do not contain exactly as sent: left out, cut, escaped
    /// or converted.
    lossy_digest: RefCell<Option<Sha256>>,
    items_left: Cell<usize>,
}

/// The members of one object of the answer.
pub(super) struct PageFields<'a> {
    path: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    document: &'a JsonDocument<'a>,
    irregularities: &'a Irregularities<'a>,
}

/// A member occurs twice with two values: one of them is wrong, and nothing says which.
struct ConflictingValues;

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

/// How a value fits the field that it was read for.
enum FieldReading<T> {
    /// As documented.
    AsDocumented(T),
    /// In another form of the same value.
    Converted(T),
    /// Not at all.
    Misfit,
}

impl<'a> JsonDocument<'a> {
    /// Decodes an answer, whether or not it is JSON.
    pub(super) fn decode(answer: &'a HttpResponse) -> Self {
        match text::read(answer) {
            Ok(text) => Self { text, damaged: None },
            Err(error) => {
                let text = text::decode_damaged(&answer.body, text::content_type(answer));
                Self { text, damaged: Some(error) }
            }
        }
    }

    /// The object that is the whole answer, with nothing after it.
    pub(super) fn root(&'a self, irregularities: &'a Irregularities<'a>) -> Result<PageFields<'a>, PageError> {
        let text = self.text.as_ref();
        if text.trim_matches(is_json_whitespace).is_empty() {
            return Err(PageError("the body is empty".to_owned()));
        }
        let whole =
            serde_json::from_str::<&RawValue>(text).map(RawValue::get).map_err(|error| self.json_error(&error))?;
        match members(whole) {
            Some(members) => Ok(PageFields { path: String::new(), members, document: self, irregularities }),
            None => Err(PageError(format!("the body must be an object and is {}", JsonKind::of(whole).name()))),
        }
    }

    fn json_error(&self, error: &serde_json::Error) -> PageError {
        let (line, column) = (error.line(), error.column());
        PageError(match (&self.damaged, error.classify()) {
            (Some(error), _) => error.to_string(),
            (None, serde_json::error::Category::Eof) => {
                format!("the body is cut off at line {line} column {column}")
            }
            (None, _) => format!("the body is not JSON at line {line} column {column}"),
        })
    }
}

impl<'a> Irregularities<'a> {
    /// Texts are kept without the secrets of `redactor`.
    pub(super) fn new(redactor: &'a Redactor) -> Self {
        Self { redactor, paths: RefCell::default(), lossy_digest: RefCell::default(), items_left: Cell::new(MAX_ITEMS) }
    }

    /// The paths of the fields that are not as documented, in reading order, and the digest of what
    /// no field contains exactly as sent.
    pub(super) fn finish(self) -> (Vec<String>, Option<[u8; 32]>) {
        (self.paths.into_inner(), self.lossy_digest.into_inner().map(|digest| digest.finalize().into()))
    }

    /// Makes a text safe to keep: without secrets, escaped and bounded.
    fn sanitize(&self, path: &str, text: &str) -> String {
        let masked = self.redactor.without_secrets(text);
        let (sanitized, cut) = exact_text(&masked);
        if cut {
            self.record_path(path);
        }
        if sanitized != masked {
            self.update_digest(path, &masked);
        }
        sanitized
    }

    /// Records that a field is not as documented.
    fn record(&self, path: &str, raw: &str) {
        self.record_path(path);
        self.update_digest(path, &self.redactor.without_secrets(raw));
    }

    fn record_path(&self, path: &str) {
        let mut paths = self.paths.borrow_mut();
        if paths.len() < MAX_PATHS && paths.last().is_none_or(|last| last != path) {
            paths.push(path.to_owned());
        }
    }

    fn update_digest(&self, path: &str, content: &str) {
        let mut lossy_digest = self.lossy_digest.borrow_mut();
        let digest = lossy_digest.get_or_insert_with(Sha256::new);
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
    /// A text, safe to show; empty if absent.
    pub(super) fn text(&self, name: &str) -> String {
        let path = self.path_of(name);
        self.read(name, |raw| self.text_in(raw))
            .map_or(String::new(), |text| self.irregularities.sanitize(&path, &text))
    }

    /// A value of a documented set, matched exactly; the kept text is safe to show.
    pub(super) fn open_enum<M: KnownValues>(&self, name: &str) -> Option<OpenEnum<M>> {
        let path = self.path_of(name);
        let text = self.read(name, |raw| self.text_in(raw))?;
        OpenEnum::read(&text, |text| self.irregularities.sanitize(&path, text))
    }

    /// A text that is useful only as a whole, exactly as sent. None if absent, too long or rejected
    /// by `fits`.
    pub(super) fn whole_text(&self, name: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
        self.read(name, |raw| match self.text_in(raw) {
            FieldReading::AsDocumented(text)
                if !text.is_empty() && (text.len() > MAX_WHOLE_TEXT_BYTES || !fits(&text)) =>
            {
                FieldReading::Misfit
            }
            FieldReading::AsDocumented(text) => FieldReading::AsDocumented(text),
            FieldReading::Converted(text) if text.is_empty() => FieldReading::Converted(text),
            _ => FieldReading::Misfit,
        })
        .filter(|text| !text.is_empty())
    }

    /// As [`PageFields::whole_text`], for a credential: the digest does not include it.
    pub(super) fn credential(&self, name: &str) -> Option<String> {
        let reading = match self.find_unique(name) {
            Ok(raw) => self.text_in(raw?),
            Err(ConflictingValues) => FieldReading::Misfit,
        };
        match reading {
            FieldReading::AsDocumented(text) if text.len() <= MAX_WHOLE_TEXT_BYTES => {
                Some(text).filter(|text| !text.is_empty())
            }
            _ => {
                self.irregularities.record_path(&self.path_of(name));
                None
            }
        }
    }

    /// An integer of 32 bits.
    pub(super) fn integer(&self, name: &str) -> Option<i32> {
        self.read(name, |raw| self.integer_in(raw)).flatten()
    }

    /// An integer without which the answer means nothing.
    pub(super) fn required_integer(&self, name: &str) -> Result<i32, PageError> {
        let raw = self.required(name)?;
        let not_an_integer =
            || self.error_at(name, &format!("must be an integer of 32 bits and is {}", JsonKind::of(raw).name()));
        self.integer(name).ok_or_else(not_an_integer)
    }

    /// An object without which the answer means nothing.
    pub(super) fn required_object(&self, name: &str) -> Result<PageFields<'a>, PageError> {
        let raw = self.required(name)?;
        match self.object_in(&self.path_of(name), raw) {
            FieldReading::AsDocumented(Some(fields)) => Ok(fields),
            _ => Err(self.error_at(name, &format!("must be an object and is {}", JsonKind::of(raw).name()))),
        }
    }

    pub(super) fn object(&self, name: &str) -> Option<PageFields<'a>> {
        let path = self.path_of(name);
        let only = |raw| match items(raw)?.0.as_slice() {
            [only] => Some(self.object_in(&path, only.get())),
            _ => None,
        };
        self.read(name, |raw| match self.object_in(&path, raw) {
            FieldReading::Misfit => match only(raw) {
                Some(FieldReading::AsDocumented(fields)) => FieldReading::Converted(fields),
                _ => FieldReading::Misfit,
            },
            reading => reading,
        })
        .flatten()
    }

    /// A list of texts, safe to show; empty if absent.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let item = |path: &str, raw| match self.text_in(raw) {
            FieldReading::AsDocumented(text) => FieldReading::AsDocumented(self.irregularities.sanitize(path, &text)),
            FieldReading::Converted(text) if !text.is_empty() => {
                FieldReading::Converted(self.irregularities.sanitize(path, &text))
            }
            _ => FieldReading::Misfit,
        };
        self.list(name, false, item)
    }

    /// A list of objects, each read by `item`; empty if absent.
    pub(super) fn objects<T>(&self, name: &str, item: impl Fn(&PageFields<'_>) -> T) -> Vec<T> {
        self.list(name, false, |path, raw| self.item_in(path, raw, &item))
    }

    /// A list of objects, or one object instead: both are documented.
    pub(super) fn object_or_objects<T>(&self, name: &str, item: impl Fn(&PageFields<'_>) -> T) -> Vec<T> {
        self.list(name, true, |path, raw| self.item_in(path, raw, &item))
    }

    fn item_in<T>(&self, path: &str, raw: &'a str, item: impl Fn(&PageFields<'_>) -> T) -> FieldReading<T> {
        match self.object_in(path, raw) {
            FieldReading::AsDocumented(Some(fields)) => FieldReading::AsDocumented(item(&fields)),
            _ => FieldReading::Misfit,
        }
    }

    /// A list. A single value instead of a list becomes its only item.
    fn list<T>(&self, name: &str, or_one: bool, item: impl Fn(&str, &'a str) -> FieldReading<T>) -> Vec<T> {
        let path = self.path_of(name);
        let Some(raw) = self.value_of(name) else { return Vec::new() };
        let Some((values, cut)) = items(raw) else {
            let is_documented = or_one && JsonKind::of(raw) == JsonKind::Object;
            if is_documented {
                return Vec::from_iter(item(&path, raw).value());
            }
            self.irregularities.record(&path, raw);
            return if is_empty(raw) { Vec::new() } else { Vec::from_iter(item(&path, raw).value()) };
        };
        let mut list = Vec::new();
        let mut is_cut = cut;
        for (index, value) in values.into_iter().map(RawValue::get).enumerate() {
            if JsonKind::of(value) == JsonKind::Null {
                continue;
            }
            if !self.irregularities.take_item() {
                is_cut = true;
                break;
            }
            let path = format!("{path}[{index}]");
            let reading = item(&path, value);
            if !matches!(reading, FieldReading::AsDocumented(_)) {
                self.irregularities.record(&path, value);
            }
            list.extend(reading.value());
        }
        if is_cut {
            self.irregularities.record(&path, raw);
        }
        list
    }

    /// None if the member is absent or does not fit.
    fn read<T>(&self, name: &str, read: impl FnOnce(&'a str) -> FieldReading<T>) -> Option<T> {
        let raw = self.value_of(name)?;
        let reading = read(raw);
        if !matches!(reading, FieldReading::AsDocumented(_)) {
            self.irregularities.record(&self.path_of(name), raw);
        }
        reading.value()
    }

    /// The value of a member, if any. Records a repeated member.
    fn value_of(&self, name: &str) -> Option<&'a str> {
        let all: Vec<&str> = self.values_of(name).collect();
        if all.len() > 1 {
            self.irregularities.record(&self.path_of(name), &all.join(","));
        }
        self.find_unique(name).unwrap_or(None)
    }

    fn required(&self, name: &str) -> Result<&'a str, PageError> {
        match self.find_unique(name) {
            Ok(Some(raw)) => Ok(raw),
            Ok(None) => Err(self.error_at(name, "is missing")),
            Err(ConflictingValues) => Err(self.error_at(name, "occurs twice")),
        }
    }

    /// Also None for `null`.
    fn find_unique(&self, name: &str) -> Result<Option<&'a str>, ConflictingValues> {
        let mut all = self.values_of(name);
        let first = all.next();
        if all.any(|other| Some(other) != first) {
            return Err(ConflictingValues);
        }
        Ok(first.filter(|raw| JsonKind::of(raw) != JsonKind::Null))
    }

    fn values_of(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.members.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// A text, or a value that can stand for one. Half a surrogate pair and bytes that did not fit
    /// the charset are not text.
    fn text_in(&self, raw: &str) -> FieldReading<String> {
        match JsonKind::of(raw) {
            JsonKind::Text => match serde_json::from_str::<String>(raw) {
                Ok(text) if self.document.damaged.is_none() || !text.contains('\u{FFFD}') => {
                    FieldReading::AsDocumented(text)
                }
                _ => FieldReading::Misfit,
            },
            JsonKind::Integer | JsonKind::Number | JsonKind::Boolean => FieldReading::Converted(raw.to_owned()),
            _ if is_empty(raw) => FieldReading::Converted(String::new()),
            JsonKind::Null | JsonKind::List | JsonKind::Object => FieldReading::Misfit,
        }
    }

    fn integer_in(&self, raw: &str) -> FieldReading<Option<i32>> {
        match (JsonKind::of(raw), self.text_in(raw)) {
            (JsonKind::Integer, _) => {
                raw.parse().map_or(FieldReading::Misfit, |it| FieldReading::AsDocumented(Some(it)))
            }
            (JsonKind::Number, _) => {
                parse_integer(raw).map_or(FieldReading::Misfit, |it| FieldReading::Converted(Some(it)))
            }
            (_, FieldReading::AsDocumented(text) | FieldReading::Converted(text)) if text.is_empty() => {
                FieldReading::Converted(None)
            }
            (JsonKind::Text, FieldReading::AsDocumented(text)) => {
                parse_integer(text.trim()).map_or(FieldReading::Misfit, |it| FieldReading::Converted(Some(it)))
            }
            _ => FieldReading::Misfit,
        }
    }

    fn object_in(&self, path: &str, raw: &'a str) -> FieldReading<Option<PageFields<'a>>> {
        match members(raw) {
            Some(members) => {
                let (document, irregularities) = (self.document, self.irregularities);
                FieldReading::AsDocumented(Some(PageFields {
                    path: path.to_owned(),
                    members,
                    document,
                    irregularities,
                }))
            }
            None if is_empty(raw) => FieldReading::Converted(None),
            None => FieldReading::Misfit,
        }
    }

    fn error_at(&self, name: &str, problem: &str) -> PageError {
        PageError(format!("{} {problem}", self.path_of(name)))
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl<T> FieldReading<T> {
    fn value(self) -> Option<T> {
        match self {
            FieldReading::AsDocumented(value) | FieldReading::Converted(value) => Some(value),
            FieldReading::Misfit => None,
        }
    }
}

impl JsonKind {
    /// Of JSON text without surrounding blanks.
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

/// `801` or `801.0`.
fn parse_integer(text: &str) -> Option<i32> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, "0"));
    (!fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0')).then(|| integer.parse().ok())?
}

/// `""`, `[]` or `{}`.
fn is_empty(raw: &str) -> bool {
    let is_around = |open, close| {
        let inside = raw.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        inside.is_some_and(|inside| inside.trim_matches(is_json_whitespace).is_empty())
    };
    raw == "\"\"" || is_around('[', ']') || is_around('{', '}')
}

fn is_json_whitespace(character: char) -> bool {
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
        while items.len() < MAX_LIST_ITEMS {
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

/// The name of a member, borrowed unless it has escapes: an answer may have a hundred thousand
/// names.
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
