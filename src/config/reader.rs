//! Reads entries by their path, from the file and the environment variables that override it.
//! Collects errors instead of stopping at the first.
//!
//! A key that is read is known; at the end, an entry that was never read is an unknown key. So
//! there is no separate list of keys to maintain.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeArray, DeTable, DeValue};

use super::errors::{ConfigError, ConfigErrors, ErrorSource};

/// Reads entries, each by its dotted path.
pub(super) struct Reader<'a> {
    entries: BTreeMap<String, Entry>,
    variables: &'a BTreeMap<OsString, OsString>,
    /// Variables that hold a secret: these may have any name.
    secret_variables: BTreeSet<String>,
    known: BTreeSet<String>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

struct Entry {
    /// Path of the table that contains it; empty at the top.
    parent: String,
    /// The last segment.
    name: String,
    value: SettingValue,
    source: ErrorSource,
}

#[derive(Clone)]
enum SettingValue {
    Text(String),
    /// A variable's value: text that is parsed as whatever type the setting has.
    Variable(String),
    Integer(i64),
    Boolean(bool),
    /// An array of tables whose values are all text, and its text form for comparison.
    Tables(Vec<BTreeMap<String, String>>, String),
    /// An array of texts, and its text form for comparison.
    Texts(Vec<String>, String),
    Table,
    /// A value that no setting can have, as text.
    Other(String),
}

const PREFIX: &str = "RECOUP_";

/// How commands and the programs of `examples` find a running gateway, and show who calls. Not
/// settings of the gateway.
const CLIENT_VARIABLES: [&str; 5] =
    ["RECOUP_CA_FILE", "RECOUP_CONTEXT", "RECOUP_SERVER", "RECOUP_TOKEN_FILE", "RECOUP_URL"];

/// Far above any configuration. A wrong path (a log, a device) is an error and not read whole.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Longer names get no suggestion: no key is half as long.
const MAX_SUGGESTION_LENGTH: usize = 64;

/// `accounts.<name>.<key>`: deeper keys are not settings.
const MAX_DEPTH: usize = 3;

/// Reads the configuration file.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    read_bounded(path).map_err(|problem| ConfigError {
        key: String::new(),
        sentence: problem,
        source: ErrorSource::File { path: path.to_owned(), line: None },
    })
}

/// Reads a small text file. The error does not name the file.
pub(super) fn read_bounded(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

impl<'a> Reader<'a> {
    /// Parses the file's text, and overrides it with the variables.
    ///
    /// # Errors
    /// Each place where the text is not TOML.
    pub(super) fn new(
        path: &Path,
        text: &str,
        variables: &'a BTreeMap<OsString, OsString>,
    ) -> Result<Self, ConfigErrors> {
        let lines = LineIndex::new(path, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // Only the message: the error's Display also shows the line, which may contain a
            // secret.
            let config_error = |error: &toml::de::Error| ConfigError {
                key: String::new(),
                sentence: format!("is not TOML: {}", error.message()),
                source: lines.source(error.span().map_or(0, |span| span.start)),
            };
            return Err(ConfigErrors::new(errors.iter().map(config_error).collect()));
        }
        let mut read = Self {
            entries: BTreeMap::new(),
            variables,
            secret_variables: BTreeSet::new(),
            known: BTreeSet::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        read.add_table("", table.get_ref(), &lines, 1);
        for (name, value) in variables {
            read.add_variable(name, value);
        }
        Ok(read)
    }

    /// Declares that a table of settings may be here.
    pub(super) fn section(&mut self, key: &str) {
        if !matches!(self.value(key), None | Some(SettingValue::Table)) {
            self.error(key, "must be a table of settings");
        }
    }

    /// The names in a section, each with its path.
    pub(super) fn names_in(&self, section: &str) -> Vec<(String, String)> {
        let inside = self.entries.iter().filter(|(_, entry)| entry.parent == section);
        inside.map(|(path, entry)| (entry.name.clone(), path.clone())).collect()
    }

    /// Parses a text. Leaves `into` unchanged if the key is not set.
    pub(super) fn parsed<T, E: Into<String>>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        into: &mut T,
    ) {
        if let Some(value) = self.optional(key, parse) {
            *into = value;
        }
    }

    /// Parses a text. None if the key is not set or the text is wrong.
    pub(super) fn optional<T, E: Into<String>>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = match self.value(key)? {
            SettingValue::Text(text) | SettingValue::Variable(text) => parse(&text).map_err(Into::into),
            SettingValue::Integer(_)
            | SettingValue::Boolean(_)
            | SettingValue::Tables(..)
            | SettingValue::Texts(..)
            | SettingValue::Table
            | SettingValue::Other(_) => Err("must be text".to_owned()),
        };
        parsed.map_err(|sentence| self.error(key, sentence)).ok()
    }

    /// An array of tables with text values, from the file only. None if it is absent.
    pub(super) fn tables(&mut self, key: &str) -> Option<Vec<BTreeMap<String, String>>> {
        match self.value(key)? {
            SettingValue::Tables(tables, _) => Some(tables),
            SettingValue::Variable(_) => {
                self.error(key, "can be set in the file only");
                None
            }
            _ => {
                self.error(key, "must be an array of tables with text values");
                None
            }
        }
    }

    /// An array of texts; a variable separates them by commas. Empty if it is absent. Reports all
    /// that are wrong.
    pub(super) fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Vec<T> {
        let texts = match self.value(key) {
            None => return Vec::new(),
            Some(SettingValue::Texts(texts, _)) => texts,
            // What is empty has no type.
            Some(SettingValue::Tables(tables, _)) if tables.is_empty() => return Vec::new(),
            Some(SettingValue::Variable(text)) => {
                text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
            }
            Some(_) => {
                self.error(key, "must be an array of texts");
                return Vec::new();
            }
        };
        let mut values = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(sentence) => self.error(key, format!("has a wrong entry at position {}: {sentence}", at + 1)),
            }
        }
        values
    }

    /// Parses a required text. `hint` tells the user what to set.
    pub(super) fn required<T, E: Into<String>>(
        &mut self,
        key: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.is_set(key) {
            self.error(key, format!("is required: {hint}"));
        }
        self.optional(key, parse)
    }

    /// A whole number. Leaves `into` unchanged if the key is not set.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut T) {
        // Every range lies within its type, so the conversion does not fail.
        if let Some(number) = self.whole_number(key, range).and_then(|number| T::try_from(number).ok()) {
            *into = number;
        }
    }

    /// A number of milliseconds.
    pub(super) fn millis(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut Duration) {
        if let Some(millis) = self.whole_number(key, range) {
            *into = Duration::from_millis(millis);
        }
    }

    /// A number of seconds.
    pub(super) fn seconds(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut Duration) {
        if let Some(seconds) = self.whole_number(key, range) {
            *into = Duration::from_secs(seconds);
        }
    }

    /// A boolean. Leaves `into` unchanged if the key is not set.
    pub(super) fn flag(&mut self, key: &str, into: &mut bool) {
        match self.value(key) {
            None => {}
            Some(SettingValue::Boolean(flag)) => *into = flag,
            Some(SettingValue::Variable(text)) if text == "true" => *into = true,
            Some(SettingValue::Variable(text)) if text == "false" => *into = false,
            Some(_) => self.error(key, "must be true or false"),
        }
    }

    /// Declares that the key is a setting, whether or not it is read.
    pub(super) fn mark_known(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Whether the file or a variable sets the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether a variable sets the key.
    pub(super) fn is_from_variable(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| matches!(entry.source, ErrorSource::Variable(_)))
    }

    /// The variable that a secret's key names. None if it is not set or is not text.
    pub(super) fn secret_variable(&mut self, name: &str) -> Option<&'a str> {
        self.secret_variables.insert(name.to_owned());
        self.variables.get(OsStr::new(name))?.to_str()
    }

    /// Records an error. The sentence is printed after the key and must not repeat a value.
    pub(super) fn error(&mut self, key: &str, sentence: impl Into<String>) {
        self.known.insert(key.to_owned());
        let source = self.entries.get(key).map_or(ErrorSource::Absent, |entry| entry.source.clone());
        self.errors.push(ConfigError { key: key.to_owned(), sentence: sentence.into(), source });
    }

    /// Records a warning: the setting is allowed but unwise.
    pub(super) fn warn(&mut self, key: &str, sentence: &str) {
        self.warnings.push(format!("{key}: {sentence}"));
    }

    /// Records an error of a file as a whole.
    pub(super) fn error_about_file(&mut self, path: &Path, sentence: String) {
        let source = ErrorSource::File { path: path.to_owned(), line: None };
        self.errors.push(ConfigError { key: String::new(), sentence, source });
    }

    /// Records a warning about a file as a whole.
    pub(super) fn warn_about_file(&mut self, path: &Path, sentence: &str) {
        self.warnings.push(format!("{}: {sentence}", path.display()));
    }

    /// The settings as text by path, without the variables that hold a secret. Call it after all
    /// secrets have been read: only then are those variables known.
    pub(super) fn texts(&self) -> BTreeMap<String, String> {
        let is_secret = |entry: &Entry| matches!(&entry.source, ErrorSource::Variable(name) if self.secret_variables.contains(name));
        let set = self.entries.iter().filter(|(_, entry)| !is_secret(entry));
        set.filter_map(|(path, entry)| Some((path.clone(), entry.value.text()?))).collect()
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Every key that has been read.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    /// Every path that is set.
    #[cfg(test)]
    pub(super) fn paths(&self) -> BTreeSet<String> {
        self.entries.keys().cloned().collect()
    }

    /// # Errors
    /// All recorded errors, and every key that was never read.
    pub(super) fn finish(mut self) -> Result<(), ConfigErrors> {
        self.add_unknown_keys();
        self.finish_early()
    }

    /// [`Reader::finish`] without the check for unknown keys, for a caller that reads only some.
    ///
    /// # Errors
    /// All recorded errors.
    pub(super) fn finish_early(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigErrors::new(self.errors)) }
    }

    /// The value, if any. Marks the key as known.
    fn value(&mut self, key: &str) -> Option<SettingValue> {
        self.known.insert(key.to_owned());
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    fn whole_number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.value(key)? {
            SettingValue::Integer(number) => u64::try_from(number).ok(),
            SettingValue::Variable(text) => text.parse().ok(),
            SettingValue::Text(_)
            | SettingValue::Boolean(_)
            | SettingValue::Tables(..)
            | SettingValue::Texts(..)
            | SettingValue::Table
            | SettingValue::Other(_) => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.error(key, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    fn add_table(&mut self, parent: &str, table: &DeTable<'_>, lines: &LineIndex<'_>, depth: usize) {
        for (key, value) in table {
            let path = joined(parent, key.get_ref());
            let entry = Entry {
                parent: parent.to_owned(),
                name: key.get_ref().to_string(),
                value: SettingValue::of(value.get_ref()),
                source: lines.source(key.span().start),
            };
            if let DeValue::Table(inner) = value.get_ref()
                && depth < MAX_DEPTH
            {
                self.add_table(&path, inner, lines, depth + 1);
            }
            self.entries.insert(path, entry);
        }
    }

    fn add_variable(&mut self, name: &OsStr, value: &OsStr) {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        if name == super::FILE_VARIABLE || CLIENT_VARIABLES.contains(&&*name) {
            return;
        }
        let source = ErrorSource::Variable(printable(&name));
        let value = value
            .to_str()
            .map_or_else(|| SettingValue::Other(format!("{value:?}")), |text| SettingValue::Variable(text.to_owned()));
        if !rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
            // No setting has such a path, so `finish` reports it as an unknown key.
            let entry = Entry { parent: String::new(), name: rest.to_ascii_lowercase(), value, source };
            self.entries.insert(joined("", &name), entry);
            return;
        }
        let mut parent = String::new();
        let mut segments = rest.split("__").peekable();
        while let Some(segment) = segments.next() {
            let mut segment = segment.to_ascii_lowercase();
            if parent == "accounts" || parent == "listeners" {
                segment = segment.replace('_', "-");
            }
            let path = joined(&parent, &segment);
            let entry = |value| Entry { parent: parent.clone(), name: segment.clone(), value, source: source.clone() };
            if segments.peek().is_some() {
                self.entries.entry(path.clone()).or_insert_with(|| entry(SettingValue::Table));
            } else {
                self.entries.insert(path.clone(), entry(value.clone()));
            }
            parent = path;
        }
    }

    fn add_unknown_keys(&mut self) {
        let mut reported: BTreeSet<String> = self.errors.iter().map(|error| error.key.clone()).collect();
        let mut unknown = Vec::new();
        for (path, entry) in &self.entries {
            let is_secret =
                matches!(&entry.source, ErrorSource::Variable(name) if self.secret_variables.contains(name));
            if reported.contains(&entry.parent) {
                // Report a faulty table once, without its content.
                reported.insert(path.clone());
            } else if !self.known.contains(path) && !is_secret {
                reported.insert(path.clone());
                unknown.push((path.clone(), format!("is not a setting{}", self.suggestion(entry))));
            }
        }
        for (path, sentence) in unknown {
            self.error(&path, sentence);
        }
    }

    /// Suggests the most similar known key of the same table.
    fn suggestion(&self, unknown: &Entry) -> String {
        let siblings = self.known.iter().filter_map(|path| {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
            (parent == unknown.parent && unknown.name.len() <= MAX_SUGGESTION_LENGTH).then_some((path, name))
        });
        let nearest = siblings.map(|(path, name)| (distance(name, &unknown.name), name, path)).min();
        match (nearest, &unknown.source) {
            (Some((distance, ..)), _) if distance > 2.max(unknown.name.len() / 3) => String::new(),
            (Some((_, _, path)), ErrorSource::Variable(_)) => format!("; did you mean `{}`?", variable_of(path)),
            (Some((_, name, _)), _) => format!("; did you mean `{name}`?"),
            (None, _) => String::new(),
        }
    }
}

impl SettingValue {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => SettingValue::Text(text.to_string()),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => SettingValue::Integer(number),
                Err(_) => SettingValue::Other(digits.as_str().to_owned()),
            },
            DeValue::Boolean(flag) => SettingValue::Boolean(*flag),
            DeValue::Table(_) => SettingValue::Table,
            DeValue::Array(items) => match tables_in(items) {
                Some(tables) => SettingValue::Tables(tables, to_text(value)),
                None => match texts_in(items) {
                    Some(texts) => SettingValue::Texts(texts, to_text(value)),
                    None => SettingValue::Other(to_text(value)),
                },
            },
            DeValue::Float(_) | DeValue::Datetime(_) => SettingValue::Other(to_text(value)),
        }
    }

    /// The value as text, identical for the file and a variable. None for a table, whose entries
    /// have texts of their own.
    fn text(&self) -> Option<String> {
        match self {
            SettingValue::Text(text)
            | SettingValue::Variable(text)
            | SettingValue::Tables(_, text)
            | SettingValue::Texts(_, text)
            | SettingValue::Other(text) => Some(text.clone()),
            SettingValue::Integer(number) => Some(number.to_string()),
            SettingValue::Boolean(flag) => Some(flag.to_string()),
            SettingValue::Table => None,
        }
    }
}

/// A TOML value as text.
fn to_text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(digits) => digits.to_string(),
        DeValue::Float(digits) => digits.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| to_text(value.get_ref())).collect();
            format!("[{}]", values.join(", "))
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                format!("{key:?} = {}", to_text(value.get_ref()))
            };
            format!("{{{}}}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// None if any element is something else.
fn tables_in(items: &DeArray<'_>) -> Option<Vec<BTreeMap<String, String>>> {
    let table_of = |value: &DeValue<'_>| match value {
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| Some((key.get_ref().to_string(), text_of(value.get_ref())?)))
            .collect::<Option<BTreeMap<String, String>>>(),
        _ => None,
    };
    items.iter().map(|item| table_of(item.get_ref())).collect()
}

/// None if any element is something else.
fn texts_in(items: &DeArray<'_>) -> Option<Vec<String>> {
    items.iter().map(|item| text_of(item.get_ref())).collect()
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Maps offsets in the file to lines.
struct LineIndex<'a> {
    path: &'a Path,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    fn new(path: &'a Path, text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path, starts: std::iter::once(0).chain(after).collect() }
    }

    fn source(&self, offset: usize) -> ErrorSource {
        let line = self.starts.partition_point(|start| *start <= offset);
        ErrorSource::File { path: self.path.to_owned(), line: Some(line) }
    }
}

/// A path whose last segment is quoted unless it is a TOML bare key.
fn joined(parent: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let segment = if bare { name.to_owned() } else { format!("\"{}\"", printable(name)) };
    if parent.is_empty() { segment } else { format!("{parent}.{segment}") }
}

/// The environment variable that sets a path.
fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

/// Escapes control characters, so that none reaches a terminal.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.bytes().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (b, cell) in other.bytes().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
