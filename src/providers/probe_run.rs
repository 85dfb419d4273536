//! The state of one probe: what its requests have shown so far, and the findings for an unreachable
//! provider.

use crate::domain::outcome::DoubtReason;
use crate::domain::probe::{Credentials, ProbeFinding, ProbeReport};
use crate::http::client::{HttpClient, HttpOutcome, HttpResponse};

pub(super) struct ProbeRun {
    origin: String,
    reached: bool,
    /// Further requests would end like the last one.
    should_stop: bool,
    pub(super) credentials: Credentials,
    findings: Vec<ProbeFinding>,
}

impl ProbeRun {
    /// Begins a probe of the provider behind `http`.
    pub(super) fn of(http: &HttpClient) -> Self {
        Self {
            origin: http.origin(),
            reached: false,
            should_stop: false,
            credentials: Credentials::Unknown,
            findings: Vec::new(),
        }
    }

    /// Adds a problem that makes refunds or lookups fail.
    pub(super) fn failure(&mut self, sentence: impl Into<String>) {
        self.findings.push(ProbeFinding::failure(sentence));
    }

    /// Adds a problem that refunds can work with.
    pub(super) fn remark(&mut self, sentence: impl Into<String>) {
        self.findings.push(ProbeFinding::remark(sentence));
    }

    /// Further requests would show nothing new.
    pub(super) fn should_stop(&self) -> bool {
        self.should_stop
    }

    /// The answer to a request that refunds depend on. Adds a failure if there is none.
    pub(super) fn required_answer(&mut self, request: &str, outcome: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, outcome, ProbeFinding::failure)
    }

    /// The answer to a request that refunds do not depend on. Adds a remark if there is none.
    pub(super) fn optional_answer(&mut self, request: &str, outcome: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, outcome, ProbeFinding::remark)
    }

    pub(super) fn into_report(self) -> ProbeReport {
        ProbeReport { reached: self.reached, credentials: self.credentials, findings: self.findings }
    }

    fn answer(
        &mut self,
        request: &str,
        outcome: HttpOutcome,
        finding: fn(String) -> ProbeFinding,
    ) -> Option<HttpResponse> {
        let origin = &self.origin;
        let found = match outcome {
            HttpOutcome::Answered(answer) => {
                self.reached = true;
                return Some(answer);
            }
            HttpOutcome::NotSent { evidence } => {
                self.should_stop = true;
                ProbeFinding::failure(format!("{origin} cannot be reached: {}", cause_of(&evidence)))
            }
            HttpOutcome::Unknown { reason: DoubtReason::Timeout, evidence } => {
                self.should_stop = true;
                ProbeFinding::failure(format!("{origin} does not answer {request} within total_timeout ({evidence})"))
            }
            HttpOutcome::Unknown { reason: DoubtReason::UnreadableReply, evidence } => {
                self.reached = true;
                finding(format!("the answer of {origin} to {request} cannot be read ({evidence})"))
            }
            HttpOutcome::Unknown { evidence, .. } => {
                finding(format!("{origin} closes the connection without an answer to {request} ({evidence})"))
            }
        };
        self.findings.push(found);
        None
    }
}

/// Why there is no connection: our description, then the HTTP client's message. The client's
/// messages are not documented; if they change, only the message is shown.
fn cause_of(message: &str) -> String {
    let lower = message.to_ascii_lowercase();
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
        Some((_, cause)) => format!("{cause} ({message})"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use rstest::rstest;

    use super::*;
    use crate::http::client::{HttpRequest, HttpSettings, MAX_REFUND_REPLY_BYTES};
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::testing::fixtures;

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

    async fn probe(http: &HttpClient) -> (bool, ProbeReport) {
        let mut probe = ProbeRun::of(http);
        let outcome = http.read(get(), MAX_REFUND_REPLY_BYTES).await;
        assert!(probe.optional_answer("Hello", outcome).is_none());
        (probe.should_stop(), probe.into_report())
    }

    /// The HTTP client's messages as they are today.
    #[rstest]
    #[case::no_tls_answer(Script::Hang, "https", true, "cannot be reached: no connection within connect_timeout (")]
    #[case::no_tls(Script::Send("HTTP/1.1 400 No\r\n\r\n"), "https", true, "cannot be reached: TLS fails (")]
    #[case::no_answer(Script::Hang, "http", true, "does not answer Hello within total_timeout (")]
    #[case::closed(Script::Close, "http", false, "closes the connection without an answer to Hello (")]
    #[tokio::test]
    async fn a_request_without_an_answer_yields_a_finding_with_its_cause(
        #[case] script: Script,
        #[case] scheme: &str,
        #[case] stops: bool,
        #[case] finding_text: &str,
    ) {
        let server = ScriptedServer::start_raw(script).await;
        let http = client(&server.endpoint().replace("http", scheme), 500);
        let (should_stop, report) = probe(&http).await;
        let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
        assert!(finding.sentence.starts_with(&format!("{} {finding_text}", http.origin())), "{report:?}");
        // A missing answer is a failure only if no request can be answered.
        assert_eq!((should_stop, finding.breaks_refunds, report.reached), (stops, stops, false), "{report:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_counts_as_reached() {
        let server = ScriptedServer::start(Script::Flood { claim_length: false }).await;
        let (should_stop, report) = probe(&fixtures::http_of(&server)).await;
        assert!(!should_stop && report.reached, "{report:?}");
        assert!(report.findings[0].sentence.contains("cannot be read (HTTP 200 with a body longer"), "{report:?}");
    }

    #[test]
    fn an_unknown_client_message_is_shown_alone() {
        assert_eq!(cause_of("no connection: something new"), "no connection: something new");
    }
}
