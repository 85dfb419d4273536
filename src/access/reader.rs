//! Reads values of an access file. Collects errors instead of stopping at the first.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{AccessError, AccessErrors};
use crate::domain::authority::{AccountSet, Amounts};
use crate::domain::clock::Timestamp;
use crate::domain::ids::AccountName;
use crate::domain::money::{Currency, parse_minor_units};

/// Where the lines of a file begin, and the errors found so far.
pub(super) struct Problems {
    line_starts: Vec<usize>,
    errors: Vec<AccessError>,
}

/// A value of the file, with its path and its place.
#[derive(Clone)]
pub(super) struct FileValue<'t> {
    /// The last segment of the path; for an item of an array that of the array.
    pub(super) name: &'t str,
    pub(super) path: String,
    /// From 1.
    pub(super) line: usize,
    value: &'t DeValue<'t>,
}

/// An account that the file names, for the comparison with those that are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccountMention {
    pub(super) account: AccountName,
    pub(super) path: String,
    pub(super) line: usize,
}

const TIME_FORM: &str = "must be a time with its offset, such as \"2027-02-01T00:00:00Z\"";

impl Problems {
    pub(super) fn new(text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { line_starts: std::iter::once(0).chain(after).collect(), errors: Vec::new() }
    }

    /// Parses the text.
    ///
    /// # Errors
    /// Each place where it is not TOML.
    pub(super) fn parse<'t>(&self, text: &'t str) -> Result<Spanned<DeTable<'t>>, AccessErrors> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(table);
        }
        // Only the message: the error's Display also shows the line.
        let error = |error: &toml::de::Error| AccessError {
            key: String::new(),
            sentence: format!("is not TOML: {}", error.message()),
            line: self.line_at(error.span().map_or(0, |span| span.start)),
        };
        Err(AccessErrors::new(errors.iter().map(error).collect()))
    }

    /// The values of a table.
    pub(super) fn entries<'t>(&self, path: &str, table: &'t DeTable<'t>) -> Vec<FileValue<'t>> {
        let entry = |(key, value): (&'t Spanned<Cow<'t, str>>, &'t Spanned<DeValue<'t>>)| FileValue {
            name: key.get_ref(),
            path: joined(path, key.get_ref()),
            line: self.line_at(key.span().start),
            value: value.get_ref(),
        };
        table.iter().map(entry).collect()
    }

    /// Records an error. The sentence is printed after the path and must not repeat a value.
    pub(super) fn error(&mut self, at: &FileValue<'_>, sentence: impl Into<String>) {
        self.errors.push(AccessError { key: at.path.clone(), sentence: sentence.into(), line: at.line });
    }

    /// Records an error that no single key has.
    pub(super) fn error_of_file(&mut self, sentence: &str) {
        self.errors.push(AccessError { key: String::new(), sentence: sentence.to_owned(), line: 1 });
    }

    /// Records a key that is none of `known`.
    pub(super) fn unknown_key(&mut self, at: &FileValue<'_>, known: &[&str]) {
        self.error(at, format!("is not a key of this table, which has {}", known.join(", ")));
    }

    /// # Errors
    /// All that were recorded.
    pub(super) fn finish(self) -> Result<(), AccessErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(AccessErrors::new(self.errors)) }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }
}

impl<'t> FileValue<'t> {
    /// The values of this table; none, and an error, if it is something else.
    pub(super) fn table(&self, problems: &mut Problems) -> Vec<FileValue<'t>> {
        match self.value {
            DeValue::Table(table) => problems.entries(&self.path, table),
            _ => {
                problems.error(self, "must be a table");
                Vec::new()
            }
        }
    }

    /// The items of this array; none, and an error, if it is something else.
    pub(super) fn array(&self, problems: &mut Problems) -> Vec<FileValue<'t>> {
        let DeValue::Array(items) = self.value else {
            problems.error(self, "must be an array");
            return Vec::new();
        };
        let item = |(index, item): (usize, &'t Spanned<DeValue<'t>>)| FileValue {
            name: self.name,
            path: format!("{}[{index}]", self.path),
            line: problems.line_at(item.span().start),
            value: item.get_ref(),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// Parses a text.
    pub(super) fn parsed<T, E: Into<String>>(
        &self,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = match self.value {
            DeValue::String(text) => parse(text).map_err(Into::into),
            _ => Err("must be text".to_owned()),
        };
        parsed.map_err(|sentence| problems.error(self, sentence)).ok()
    }

    /// A whole number.
    pub(super) fn number<T: TryFrom<u64>>(&self, problems: &mut Problems, range: RangeInclusive<u64>) -> Option<T> {
        let number = match self.value {
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            problems.error(self, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn flag(&self, problems: &mut Problems) -> Option<bool> {
        let DeValue::Boolean(flag) = self.value else {
            problems.error(self, "must be true or false");
            return None;
        };
        Some(*flag)
    }

    /// A point in time, as text or as a date-time of TOML.
    pub(super) fn time(&self, problems: &mut Problems) -> Option<Timestamp> {
        let time = match self.value {
            DeValue::String(text) => parse_time(text),
            DeValue::Datetime(time) => parse_time(&time.to_string()),
            _ => None,
        };
        if time.is_none() {
            problems.error(self, TIME_FORM);
        }
        time
    }

    /// An amount as text, in hundredths.
    pub(super) fn amount(&self, problems: &mut Problems) -> Option<i64> {
        self.parsed(problems, parse_amount)
    }

    /// Amounts by currency.
    pub(super) fn amounts(&self, problems: &mut Problems) -> Amounts {
        let entries = self.table(problems);
        if entries.is_empty() && matches!(self.value, DeValue::Table(_)) {
            problems.error(self, "names no currency");
        }
        let mut amounts = Amounts::new();
        for entry in entries {
            let amount = entry.amount(problems);
            match (Currency::parse(entry.name), amount) {
                (Ok(currency), Some(amount)) => {
                    amounts.insert(currency, amount);
                }
                (Err(why), _) => problems.error(&entry, format!("the key {why}")),
                (_, None) => {}
            }
        }
        amounts
    }

    /// Names of accounts, or `["*"]` for all.
    pub(super) fn accounts(&self, problems: &mut Problems, mentions: &mut Vec<AccountMention>) -> AccountSet {
        let items = self.array(problems);
        let is_all = |item: &FileValue<'_>| matches!(item.value, DeValue::String(text) if text == "*");
        if items.iter().any(is_all) {
            if items.len() > 1 {
                problems.error(self, "names accounts besides \"*\", which is all of them");
            }
            return AccountSet::All;
        }
        let mut names = BTreeSet::new();
        for item in items {
            let Some(account) = item.parsed(problems, |text| AccountName::parse(text).map_err(|why| why.to_string()))
            else {
                continue;
            };
            mentions.push(AccountMention { account: account.clone(), path: item.path.clone(), line: item.line });
            if !names.insert(account) {
                problems.error(&item, "is named twice");
            }
        }
        AccountSet::Named(names)
    }
}

/// The form of a token's end, which is returned as it is.
///
/// # Errors
/// A sentence about the form.
pub fn parse_expiry(text: &str) -> Result<String, &'static str> {
    parse_time(text).map(|_| text.to_owned()).ok_or(TIME_FORM)
}

/// A time with its offset, RFC 3339.
fn parse_time(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(Timestamp::from_micros)
}

/// A decimal above zero with at most two places: a third one would have to be rounded.
fn parse_amount(text: &str) -> Result<i64, &'static str> {
    let places = text.split_once('.').map_or(0, |(_, places)| places.len());
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match parse_minor_units(text) {
        Ok(hundredths) if hundredths > 0 && is_plain && places <= 2 => Ok(hundredths),
        _ => Err("must be text with a decimal number above zero and at most two places, such as \"500.00\""),
    }
}

/// A path whose last segment is quoted unless it is a TOML bare key.
fn joined(parent: &str, name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let segment = if is_bare { name.to_owned() } else { format!("\"{}\"", name.escape_debug()) };
    if parent.is_empty() { segment } else { format!("{parent}.{segment}") }
}
