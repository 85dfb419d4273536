//! Errors of a configuration, each with its key and its source.

use std::fmt;
use std::path::PathBuf;

/// All errors of a configuration; never empty. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One error. It repeats no value, so it can be printed even if a secret was pasted into the wrong
/// place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key's path, such as `accounts.namecom.endpoint`; empty if the error is about the file.
    pub key: String,
    /// The problem, to be printed after the key.
    pub sentence: String,
    /// Where the faulty value is set.
    pub source: ErrorSource,
}

/// Where a faulty value is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorSource {
    /// The configuration file.
    File {
        /// The file's path.
        path: PathBuf,
        /// The line, from 1. None if the error is about the file as a whole.
        line: Option<usize>,
    },
    /// An environment variable of this name.
    Variable(String),
    /// Not set anywhere, although it is required.
    Absent,
}

impl ConfigErrors {
    /// Sorts by source: lines of the file in order, then missing settings, then variables.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| match &error.source {
            ErrorSource::File { line, .. } => (0, line.unwrap_or(0)),
            ErrorSource::Absent => (1, 0),
            ErrorSource::Variable(_) => (2, 0),
        });
        Self(errors)
    }

    /// In the order in which they are displayed.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.source) {
            ("", source) => write!(f, "{source}: {}", self.sentence),
            (key, ErrorSource::Absent) => write!(f, "{key}: {}", self.sentence),
            (key, source) => write!(f, "{key}: {} ({source})", self.sentence),
        }
    }
}

impl fmt::Display for ErrorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorSource::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            ErrorSource::File { path, line: None } => write!(f, "{}", path.display()),
            ErrorSource::Variable(name) => f.write_str(name),
            ErrorSource::Absent => f.write_str("not set"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
