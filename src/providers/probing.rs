//! A probe under way: what its requests have shown so far, and the sentences for a provider that is
//! not reached.

use crate::domain::outcome::DoubtReason;
use crate::domain::probe::{Credentials, Finding, ProbeReport};
use crate::http::client::{HttpClient, HttpOutcome, HttpResponse};

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

    /// Further requests would show nothing new.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The answer to a request that refunds depend on. Where there is none, that is noted.
    pub(super) fn answer_to(&mut self, request: &str, exchange: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, exchange, Finding::failure)
    }

    /// The answer to a request that refunds do not depend on. Where there is none, that is noted.
    pub(super) fn answer_beside(&mut self, request: &str, exchange: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, exchange, Finding::remark)
    }

    pub(super) fn end(self) -> ProbeReport {
        ProbeReport { reached: self.reached, credentials: self.credentials, findings: self.findings }
    }

    fn answer(&mut self, request: &str, exchange: HttpOutcome, finding: fn(String) -> Finding) -> Option<HttpResponse> {
        let origin = &self.origin;
        let found = match exchange {
            HttpOutcome::Answered(answer) => {
                self.reached = true;
                return Some(answer);
            }
            HttpOutcome::NotSent { why } => {
                self.is_over = true;
                Finding::failure(format!("{origin} cannot be reached: {}", cause_of(&why)))
            }
            HttpOutcome::Lost { reason: DoubtReason::Timeout, evidence } => {
                self.is_over = true;
                Finding::failure(format!("{origin} does not answer {request} within total_timeout ({evidence})"))
            }
            HttpOutcome::Lost { reason: DoubtReason::UnreadableReply, evidence } => {
                self.reached = true;
                finding(format!("the answer of {origin} to {request} cannot be read ({evidence})"))
            }
            HttpOutcome::Lost { evidence, .. } => {
                finding(format!("{origin} ends the connection without an answer to {request} ({evidence})"))
            }
        };
        self.findings.push(found);
        None
    }
}

/// Why there is no connection: plain words, then those of the HTTP client. The client's words are
/// not documented; if they change one day, only they are shown.
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use rstest::rstest;

    use super::*;
    use crate::http::client::{HttpRequest, HttpSettings, REFUND_REPLY_BYTES};
    use crate::providers::testing::fixtures;
    use crate::providers::testing::scripted_server::{Script, ScriptedServer};

    fn get() -> HttpRequest {
        HttpRequest { method: Method::GET, path: "/".to_owned(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    fn client(endpoint: &str, total_ms: u64) -> HttpClient {
        let settings = HttpSettings {
            endpoint: &endpoint.parse().unwrap(),
            ca_file: None,
            connect_timeout: std::time::Duration::from_millis(200),
            total_timeout: std::time::Duration::from_millis(total_ms),
            reuse_connections: false,
        };
        HttpClient::new(&settings).map_err(|error| error.to_string()).unwrap()
    }

    async fn seen(http: &HttpClient) -> (bool, ProbeReport) {
        let mut probing = Probing::of(http);
        let exchange = http.read(get(), REFUND_REPLY_BYTES).await;
        assert!(probing.answer_beside("Hello", exchange).is_none());
        (probing.is_over(), probing.end())
    }

    /// The client's own words, as it says them today.
    #[rstest]
    #[case::nothing_is_said(
        Script::Silence,
        "https",
        true,
        "cannot be reached: no connection within connect_timeout ("
    )]
    #[case::no_tls(Script::Say("HTTP/1.1 400 No\r\n\r\n"), "https", true, "cannot be reached: TLS fails (")]
    #[case::no_answer(Script::Silence, "http", true, "does not answer Hello within total_timeout (")]
    #[case::closed(Script::Close, "http", false, "ends the connection without an answer to Hello (")]
    #[tokio::test]
    async fn a_provider_that_is_not_heard_is_named_with_the_cause(
        #[case] script: Script,
        #[case] scheme: &str,
        #[case] over: bool,
        #[case] words: &str,
    ) {
        let peer = ScriptedServer::start_raw(script).await;
        let http = client(&peer.endpoint().replace("http", scheme), 500);
        let (is_over, report) = seen(&http).await;
        let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
        assert!(finding.sentence.starts_with(&format!("{} {words}", http.origin())), "{report:?}");
        // If one request is answered, one that is not is only a remark.
        assert_eq!((is_over, finding.breaks_refunds, report.reached), (over, over, false), "{report:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_came_from_a_provider_that_is_there() {
        let peer = ScriptedServer::start(Script::Flood { claim_length: false }).await;
        let (is_over, report) = seen(&fixtures::http_of(&peer)).await;
        assert!(!is_over && report.reached, "{report:?}");
        assert!(report.findings[0].sentence.contains("cannot be read (HTTP 200 with a body longer"), "{report:?}");
    }

    #[test]
    fn words_that_are_not_known_stand_alone() {
        assert_eq!(cause_of("no connection: something new"), "no connection: something new");
    }
}
