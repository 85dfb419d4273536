//! Errors of an access file, each with its key and its line.

use std::fmt;

/// All errors of an access file, in the order of its lines; never empty. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessErrors(Vec<AccessError>);

/// One error. It repeats no value: a token may have been pasted where its hash belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// The key's path, such as `callers.shop.scopes[1]`; empty if the error is about the file.
    pub key: String,
    /// The problem, to be printed after the key.
    pub sentence: String,
    /// From 1.
    pub line: usize,
}

impl AccessErrors {
    pub(super) fn new(mut errors: Vec<AccessError>) -> Self {
        errors.sort_by_key(|error| error.line);
        Self(errors)
    }

    /// In the order in which they are displayed.
    pub fn iter(&self) -> impl Iterator<Item = &AccessError> {
        self.0.iter()
    }
}

impl fmt::Display for AccessErrors {
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

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "line {}: {}", self.line, self.sentence),
            key => write!(f, "line {}: {key}: {}", self.line, self.sentence),
        }
    }
}

impl std::error::Error for AccessErrors {}
