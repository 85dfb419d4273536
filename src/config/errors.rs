//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a configuration; never empty. Displays as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One thing that is wrong. It repeats no value, so that it can be printed whatever was pasted
/// where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key's path, such as `accounts.namecom.endpoint`; empty where the file itself is meant.
    pub key: String,
    /// What is wrong with it, to be read after the key.
    pub sentence: String,
    /// Where it stands.
    pub source: ErrorSource,
}

/// Where a faulty value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorSource {
    /// In the file.
    File {
        /// Which file.
        path: PathBuf,
        /// The line, from 1; none where the file as a whole is meant.
        line: Option<usize>,
    },
    /// In this environment variable.
    Variable(String),
    /// Nowhere: that is what is wrong.
    Absent,
}

impl ConfigErrors {
    /// Sorted as a person mends them: down the file, then what is missing, then the variables.
    pub(super) fn new(mut faults: Vec<ConfigError>) -> Self {
        faults.sort_by_key(|fault| match &fault.source {
            ErrorSource::File { line, .. } => (0, line.unwrap_or(0)),
            ErrorSource::Absent => (1, 0),
            ErrorSource::Variable(_) => (2, 0),
        });
        Self(faults)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(fault: ConfigError) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
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
