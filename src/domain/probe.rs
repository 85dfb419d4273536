//! The result of probing an account: whether its provider is reachable, accepts the login and is
//! the service that the configuration describes.

use std::fmt;

/// The result of one probe. No text in it contains a secret; the provider's texts are bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The provider's host answered at least one request.
    pub reached: bool,
    pub credentials: Credentials,
    /// What contradicts the configuration or the provider's documentation.
    pub findings: Vec<ProbeFinding>,
}

/// What a provider's answers say about the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    Accepted,
    Refused,
    /// No answer shows whether they are accepted.
    Unknown,
}

/// One contradiction of the configuration or the provider's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFinding {
    /// One sentence, without a full stop.
    pub sentence: String,
    /// Refunds or their lookups fail because of it.
    pub breaks_refunds: bool,
}

impl ProbeReport {
    /// The report where no request was answered.
    pub fn unreached(sentence: impl Into<String>) -> Self {
        Self { reached: false, credentials: Credentials::Unknown, findings: vec![ProbeFinding::failure(sentence)] }
    }

    /// Refunds can be expected to work.
    pub fn is_fine(&self) -> bool {
        let breaks = self.findings.iter().any(|finding| finding.breaks_refunds);
        self.reached && self.credentials == Credentials::Accepted && !breaks
    }
}

impl Credentials {
    /// The name shown to people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Credentials::Accepted => "accepted",
            Credentials::Refused => "refused",
            Credentials::Unknown => "unknown",
        }
    }
}

impl ProbeFinding {
    /// A problem that makes refunds or their lookups fail.
    pub fn failure(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), breaks_refunds: true }
    }

    /// A problem that refunds can work with.
    pub fn remark(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), breaks_refunds: false }
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::all_well(true, Credentials::Accepted, vec![], true)]
    #[case::with_a_remark(true, Credentials::Accepted, vec![ProbeFinding::remark("x")], true)]
    #[case::with_a_failure(true, Credentials::Accepted, vec![ProbeFinding::remark("x"), ProbeFinding::failure("y")], false)]
    #[case::refused(true, Credentials::Refused, vec![], false)]
    #[case::unknown(true, Credentials::Unknown, vec![], false)]
    #[case::not_reached(false, Credentials::Accepted, vec![], false)]
    fn an_account_is_fine_if_reached_accepted_and_without_failures(
        #[case] reached: bool,
        #[case] credentials: Credentials,
        #[case] findings: Vec<ProbeFinding>,
        #[case] fine: bool,
    ) {
        assert_eq!(ProbeReport { reached, credentials, findings }.is_fine(), fine);
    }
}
