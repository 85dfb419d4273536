//! Entries by their path, from the file and the variables over it; a reader that notes what is
//! wrong and goes on.
//!
//! What has been asked for is known; what is left over at the end is an unknown key. So there is no
//! second list of keys to forget.

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
    /// Variables that hold a secret: theirs is any name.
    secret_variables: BTreeSet<String>,
    known: BTreeSet<String>,
    faults: Vec<ConfigError>,
    warnings: Vec<String>,
}

struct Entry {
    /// Path of the table that it stands in; empty at the top.
    parent: String,
    /// The last segment.
    name: String,
    value: Value,
    source: ErrorSource,
}

#[derive(Clone)]
enum Value {
    Text(String),
    /// A variable's value: text that may stand for anything.
    Variable(String),
    Integer(i64),
    Boolean(bool),
    /// An array of tables whose values are all text, and the text by which it is compared.
    Tables(Vec<BTreeMap<String, String>>, String),
    Table,
    /// A value that no setting can have; its text.
    Other(String),
}

const PREFIX: &str = "RECOUP_";

/// Where `recoup refunds` and `recoup health` find a running gateway: no setting of one.
const CLIENT_VARIABLE: &str = "RECOUP_SERVER";

/// Far above any configuration, so that a wrong path (a log, a device) is told and not read whole.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// No key is half as long; comparing longer names is work for nothing.
const MAX_HINTED: usize = 64;

/// `accounts.<name>.<key>`: below that, nothing is a setting.
const MAX_DEPTH: usize = 3;

/// Reads the configuration file.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    read_bounded(path).map_err(|why| ConfigError {
        key: String::new(),
        sentence: why,
        source: ErrorSource::File { path: path.to_owned(), line: None },
    })
}

/// Reads a file that holds text and is small; or says why not, without naming it.
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
    /// Takes the file's text, and lays the variables over it.
    ///
    /// # Errors
    /// Each place where the text is no TOML.
    pub(super) fn new(
        path: &Path,
        text: &str,
        variables: &'a BTreeMap<OsString, OsString>,
    ) -> Result<Self, ConfigErrors> {
        let lines = Lines::of(path, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // Only the message: the error's own display shows the line, which may hold what was
            // meant as a secret.
            let fault = |error: &toml::de::Error| ConfigError {
                key: String::new(),
                sentence: format!("is not TOML: {}", error.message()),
                source: lines.source(error.span().map_or(0, |span| span.start)),
            };
            return Err(ConfigErrors::new(errors.iter().map(fault).collect()));
        }
        let mut read = Self {
            entries: BTreeMap::new(),
            variables,
            secret_variables: BTreeSet::new(),
            known: BTreeSet::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        read.add_table("", table.get_ref(), &lines, 1);
        for (name, value) in variables {
            read.add_variable(name, value);
        }
        Ok(read)
    }

    /// A table of settings may stand here.
    pub(super) fn section(&mut self, key: &str) {
        if !matches!(self.value(key), None | Some(Value::Table)) {
            self.fault(key, "must be a table of settings");
        }
    }

    /// What stands in a section: each name with its path.
    pub(super) fn names_in(&self, section: &str) -> Vec<(String, String)> {
        let inside = self.entries.iter().filter(|(_, entry)| entry.parent == section);
        inside.map(|(path, entry)| (entry.name.clone(), path.clone())).collect()
    }

    /// Text that must parse; `into` is left alone where there is none.
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

    /// Text that must parse where there is one.
    pub(super) fn optional<T, E: Into<String>>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = match self.value(key)? {
            Value::Text(text) | Value::Variable(text) => parse(&text).map_err(Into::into),
            Value::Integer(_) | Value::Boolean(_) | Value::Tables(..) | Value::Table | Value::Other(_) => {
                Err("must be text".to_owned())
            }
        };
        parsed.map_err(|sentence| self.fault(key, sentence)).ok()
    }

    /// An array of tables with text values, from the file only. None if it is absent.
    pub(super) fn tables(&mut self, key: &str) -> Option<Vec<BTreeMap<String, String>>> {
        match self.value(key)? {
            Value::Tables(tables, _) => Some(tables),
            Value::Variable(_) => {
                self.fault(key, "is read from the file alone");
                None
            }
            _ => {
                self.fault(key, "must be an array of tables, their values text");
                None
            }
        }
    }

    /// Text that must be there and must parse. `hint` is what a person needs to know who has not
    /// set it.
    pub(super) fn required<T, E: Into<String>>(
        &mut self,
        key: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.is_set(key) {
            self.fault(key, format!("is required: {hint}"));
        }
        self.optional(key, parse)
    }

    /// A whole number; `into` is left alone where there is none.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut T) {
        // Every range lies within its type, so that nothing is lost here.
        if let Some(number) = self.whole(key, range).and_then(|number| T::try_from(number).ok()) {
            *into = number;
        }
    }

    /// A number of milliseconds.
    pub(super) fn millis(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut Duration) {
        if let Some(millis) = self.whole(key, range) {
            *into = Duration::from_millis(millis);
        }
    }

    /// A number of seconds.
    pub(super) fn seconds(&mut self, key: &str, range: RangeInclusive<u64>, into: &mut Duration) {
        if let Some(seconds) = self.whole(key, range) {
            *into = Duration::from_secs(seconds);
        }
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str, into: &mut bool) {
        match self.value(key) {
            None => {}
            Some(Value::Boolean(flag)) => *into = flag,
            Some(Value::Variable(text)) if text == "true" => *into = true,
            Some(Value::Variable(text)) if text == "false" => *into = false,
            Some(_) => self.fault(key, "must be true or false"),
        }
    }

    /// The key is a setting, whether it is read now or not.
    pub(super) fn know(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Whether anything stands there.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether what stands there came from a variable.
    pub(super) fn is_from_variable(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| matches!(entry.source, ErrorSource::Variable(_)))
    }

    /// The variable that a secret's key names. None where it is not set or is no text.
    pub(super) fn secret_variable(&mut self, name: &str) -> Option<&'a str> {
        self.secret_variables.insert(name.to_owned());
        self.variables.get(OsStr::new(name))?.to_str()
    }

    /// Notes a fault; the sentence is read after the key and repeats no value.
    pub(super) fn fault(&mut self, key: &str, sentence: impl Into<String>) {
        self.known.insert(key.to_owned());
        let source = self.entries.get(key).map_or(ErrorSource::Absent, |entry| entry.source.clone());
        self.faults.push(ConfigError { key: key.to_owned(), sentence: sentence.into(), source });
    }

    /// Notes what is allowed and still unwise.
    pub(super) fn warn(&mut self, key: &str, sentence: &str) {
        self.warnings.push(format!("{key}: {sentence}"));
    }

    /// The settings as texts by path, without the variables that hold a secret. Call it once all
    /// secrets have been read: only then are those variables known.
    pub(super) fn texts(&self) -> BTreeMap<String, String> {
        let is_secret = |entry: &Entry| matches!(&entry.source, ErrorSource::Variable(name) if self.secret_variables.contains(name));
        let set = self.entries.iter().filter(|(_, entry)| !is_secret(entry));
        set.filter_map(|(path, entry)| Some((path.clone(), entry.value.text()?))).collect()
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Every key that has been asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    /// Every path that something stands at.
    #[cfg(test)]
    pub(super) fn paths(&self) -> BTreeSet<String> {
        self.entries.keys().cloned().collect()
    }

    /// # Errors
    /// Everything that was noted, and every key that nobody asked for.
    pub(super) fn finish(mut self) -> Result<(), ConfigErrors> {
        self.add_unknown_keys();
        self.finish_early()
    }

    /// Where not every key was asked for.
    ///
    /// # Errors
    /// Everything that was noted.
    pub(super) fn finish_early(self) -> Result<(), ConfigErrors> {
        if self.faults.is_empty() { Ok(()) } else { Err(ConfigErrors::new(self.faults)) }
    }

    /// What stands there; from now on the key is known.
    fn value(&mut self, key: &str) -> Option<Value> {
        self.known.insert(key.to_owned());
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    fn whole(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.value(key)? {
            Value::Integer(number) => u64::try_from(number).ok(),
            Value::Variable(text) => text.parse().ok(),
            Value::Text(_) | Value::Boolean(_) | Value::Tables(..) | Value::Table | Value::Other(_) => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(key, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    fn add_table(&mut self, parent: &str, table: &DeTable<'_>, lines: &Lines<'_>, depth: usize) {
        for (key, value) in table {
            let path = joined(parent, key.get_ref());
            let entry = Entry {
                parent: parent.to_owned(),
                name: key.get_ref().to_string(),
                value: Value::of(value.get_ref()),
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
        if name == super::FILE_VARIABLE || name == CLIENT_VARIABLE {
            return;
        }
        let source = ErrorSource::Variable(shown(&name));
        let value =
            value.to_str().map_or_else(|| Value::Other(format!("{value:?}")), |text| Value::Variable(text.to_owned()));
        if !rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
            // Nothing can be set so: under a path that no setting has, it is found at the end as
            // every unknown key is.
            let entry = Entry { parent: String::new(), name: rest.to_ascii_lowercase(), value, source };
            self.entries.insert(joined("", &name), entry);
            return;
        }
        let mut parent = String::new();
        let mut segments = rest.split("__").peekable();
        while let Some(segment) = segments.next() {
            let mut segment = segment.to_ascii_lowercase();
            if parent == "accounts" {
                segment = segment.replace('_', "-");
            }
            let path = joined(&parent, &segment);
            let entry = |value| Entry { parent: parent.clone(), name: segment.clone(), value, source: source.clone() };
            if segments.peek().is_some() {
                self.entries.entry(path.clone()).or_insert_with(|| entry(Value::Table));
            } else {
                self.entries.insert(path.clone(), entry(value.clone()));
            }
            parent = path;
        }
    }

    fn add_unknown_keys(&mut self) {
        let mut told: BTreeSet<String> = self.faults.iter().map(|fault| fault.key.clone()).collect();
        let mut unknown = Vec::new();
        for (path, entry) in &self.entries {
            let is_secret =
                matches!(&entry.source, ErrorSource::Variable(name) if self.secret_variables.contains(name));
            if told.contains(&entry.parent) {
                // What stands in a table that is told of already is not told of again.
                told.insert(path.clone());
            } else if !self.known.contains(path) && !is_secret {
                told.insert(path.clone());
                unknown.push((path.clone(), format!("is no setting{}", self.hint(entry))));
            }
        }
        for (path, sentence) in unknown {
            self.fault(&path, sentence);
        }
    }

    /// The nearest key that exists beside an unknown one.
    fn hint(&self, unknown: &Entry) -> String {
        let beside = self.known.iter().filter_map(|path| {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
            (parent == unknown.parent && unknown.name.len() <= MAX_HINTED).then_some((path, name))
        });
        let nearest = beside.map(|(path, name)| (distance(name, &unknown.name), name, path)).min();
        match (nearest, &unknown.source) {
            (Some((distance, ..)), _) if distance > 2.max(unknown.name.len() / 3) => String::new(),
            (Some((_, _, path)), ErrorSource::Variable(_)) => format!("; is `{}` meant?", variable_of(path)),
            (Some((_, name, _)), _) => format!("; is `{name}` meant?"),
            (None, _) => String::new(),
        }
    }
}

impl Value {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other(digits.as_str().to_owned()),
            },
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Table(_) => Value::Table,
            DeValue::Array(items) => match tables_in(items) {
                Some(tables) => Value::Tables(tables, written(value)),
                None => Value::Other(written(value)),
            },
            DeValue::Float(_) | DeValue::Datetime(_) => Value::Other(written(value)),
        }
    }

    /// The value as text, the same for a file and a variable. None for a table: its entries have
    /// texts of their own.
    fn text(&self) -> Option<String> {
        match self {
            Value::Text(text) | Value::Variable(text) | Value::Tables(_, text) | Value::Other(text) => {
                Some(text.clone())
            }
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(flag) => Some(flag.to_string()),
            Value::Table => None,
        }
    }
}

/// A value of the file as text.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(digits) => digits.to_string(),
        DeValue::Float(digits) => digits.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| written(value.get_ref())).collect();
            format!("[{}]", values.join(", "))
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                format!("{key:?} = {}", written(value.get_ref()))
            };
            format!("{{{}}}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// None if any element is something else.
fn tables_in(items: &DeArray<'_>) -> Option<Vec<BTreeMap<String, String>>> {
    let text_of = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    };
    let table_of = |value: &DeValue<'_>| match value {
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| Some((key.get_ref().to_string(), text_of(value.get_ref())?)))
            .collect::<Option<BTreeMap<String, String>>>(),
        _ => None,
    };
    items.iter().map(|item| table_of(item.get_ref())).collect()
}

/// Where each line of the file begins.
struct Lines<'a> {
    path: &'a Path,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(path: &'a Path, text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path, starts: std::iter::once(0).chain(after).collect() }
    }

    fn source(&self, offset: usize) -> ErrorSource {
        let line = self.starts.partition_point(|start| *start <= offset);
        ErrorSource::File { path: self.path.to_owned(), line: Some(line) }
    }
}

/// A path, with a segment in quotes where it is none of TOML's bare keys.
fn joined(parent: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let segment = if bare { name.to_owned() } else { format!("\"{}\"", shown(name)) };
    if parent.is_empty() { segment } else { format!("{parent}.{segment}") }
}

/// The variable that sets what stands at a path.
fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

/// Fit to be printed: no control character reaches a terminal.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Edits between two words (Levenshtein).
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
