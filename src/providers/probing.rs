//! A probe under way: what its requests have shown so far, and the sentences for a provider that is not reached.

use crate::domain::outcome::DoubtReason;
use crate::domain::probe::{Credentials, Finding, ProbeReport};
use crate::providers::http::{Answer, Exchange, HttpClient};

/// What the requests of one probe have shown.
pub(super) struct Probing {
    origin: String,
    reached: bool,
    /// The next request would end as the last one did.
    is_over: bool,
    pub(super) credentials: Credentials,
    findings: Vec<Finding>,
}

impl Probing {
    /// A probe of the provider behind `http`.
    pub(super) fn of(http: &HttpClient) -> Self {
        Self {
            origin: http.origin(),
            reached: false,
            is_over: false,
            credentials: Credentials::Unknown,
            findings: Vec::new(),
        }
    }

    /// Notes something that makes refunds or lookups fail.
    pub(super) fn failure(&mut self, sentence: impl Into<String>) {
        self.findings.push(Finding::failure(sentence));
    }

    /// Notes something that refunds can work without.
    pub(super) fn remark(&mut self, sentence: impl Into<String>) {
        self.findings.push(Finding::remark(sentence));
    }

    /// Asking on shows nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The answer to a request that refunds depend on. Where there is none, that is noted.
    pub(super) fn answer_to(&mut self, request: &str, exchange: Exchange) -> Option<Answer> {
        self.answer(request, exchange, Finding::failure)
    }

    /// The answer to a request that refunds do not depend on. Where there is none, that is noted.
    pub(super) fn answer_beside(&mut self, request: &str, exchange: Exchange) -> Option<Answer> {
        self.answer(request, exchange, Finding::remark)
    }

    pub(super) fn end(self) -> ProbeReport {
        ProbeReport { reached: self.reached, credentials: self.credentials, findings: self.findings }
    }

    fn answer(&mut self, request: &str, exchange: Exchange, finding: fn(String) -> Finding) -> Option<Answer> {
        let origin = &self.origin;
        let found = match exchange {
            Exchange::Answered(answer) => {
                self.reached = true;
                return Some(answer);
            }
            Exchange::NotSent { why } => {
                self.is_over = true;
                Finding::failure(format!("{origin} cannot be reached: {}", cause_of(&why)))
            }
            Exchange::Lost { reason: DoubtReason::Timeout, evidence } => {
                self.is_over = true;
                Finding::failure(format!("{origin} does not answer {request} within total_timeout ({evidence})"))
            }
            Exchange::Lost { reason: DoubtReason::UnreadableReply, evidence } => {
                self.reached = true;
                finding(format!("the answer of {origin} to {request} cannot be read ({evidence})"))
            }
            Exchange::Lost { evidence, .. } => {
                finding(format!("{origin} ends the connection without an answer to {request} ({evidence})"))
            }
        };
        self.findings.push(found);
        None
    }
}

/// Why there is no connection, in plain words before those of the HTTP client. The client's words are not documented:
/// where they are others one day, they stand alone.
fn cause_of(why: &str) -> String {
    let lower = why.to_ascii_lowercase();
    let causes = [
        ("dns error", "its name cannot be resolved"),
        ("connection refused", "it refuses the connection"),
        ("certificate", "TLS fails on its certificate"),
        ("timed out", "no connection within connect_timeout"),
        ("deadline has elapsed", "no connection within connect_timeout"),
        ("unreachable", "there is no route to it"),
        ("tls", "TLS fails"),
        ("corrupt message", "TLS fails"),
        ("handshake", "TLS fails"),
    ];
    match causes.iter().find(|(mark, _)| lower.contains(mark)) {
        Some((_, cause)) => format!("{cause} ({why})"),
        None => why.to_owned(),
    }
}
