//! A probe under way: what its requests have shown so far, and the sentences for a provider that is
//! not reached.

use crate::domain::outcome::DoubtReason;
use crate::domain::probe::{Credentials, ProbeFinding, ProbeReport};
use crate::http::client::{HttpClient, HttpOutcome, HttpResponse};

/// What the requests of one probe have shown.
pub(super) struct ProbeRun {
    origin: String,
    reached: bool,
    /// The next request would end as the last one did.
    should_stop: bool,
    pub(super) credentials: Credentials,
    findings: Vec<ProbeFinding>,
}

impl ProbeRun {
    /// A probe of the provider behind `http`.
    pub(super) fn of(http: &HttpClient) -> Self {
        Self {
            origin: http.origin(),
            reached: false,
            should_stop: false,
            credentials: Credentials::Unknown,
            findings: Vec::new(),
        }
    }

    /// Notes something that makes refunds or lookups fail.
    pub(super) fn failure(&mut self, sentence: impl Into<String>) {
        self.findings.push(ProbeFinding::failure(sentence));
    }

    /// Notes something that refunds can work without.
    pub(super) fn remark(&mut self, sentence: impl Into<String>) {
        self.findings.push(ProbeFinding::remark(sentence));
    }

    /// Further requests would show nothing new.
    pub(super) fn should_stop(&self) -> bool {
        self.should_stop
    }

    /// The answer to a request that refunds depend on. Where there is none, that is noted.
    pub(super) fn required_answer(&mut self, request: &str, exchange: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, exchange, ProbeFinding::failure)
    }

    /// The answer to a request that refunds do not depend on. Where there is none, that is noted.
    pub(super) fn optional_answer(&mut self, request: &str, exchange: HttpOutcome) -> Option<HttpResponse> {
        self.answer(request, exchange, ProbeFinding::remark)
    }

    pub(super) fn into_report(self) -> ProbeReport {
        ProbeReport { reached: self.reached, credentials: self.credentials, findings: self.findings }
    }

    fn answer(
        &mut self,
        request: &str,
        exchange: HttpOutcome,
        finding: fn(String) -> ProbeFinding,
    ) -> Option<HttpResponse> {
        let origin = &self.origin;
        let found = match exchange {
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
    use crate::http::client::{HttpRequest, HttpSettings, MAX_REFUND_REPLY_BYTES};
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
        let mut probe = ProbeRun::of(http);
        let exchange = http.read(get(), MAX_REFUND_REPLY_BYTES).await;
        assert!(probe.optional_answer("Hello", exchange).is_none());
        (probe.should_stop(), probe.into_report())
    }

    /// The client's own words, as it says them today.
    #[rstest]
    #[case::nothing_is_said(Script::Hang, "https", true, "cannot be reached: no connection within connect_timeout (")]
    #[case::no_tls(Script::Send("HTTP/1.1 400 No\r\n\r\n"), "https", true, "cannot be reached: TLS fails (")]
    #[case::no_answer(Script::Hang, "http", true, "does not answer Hello within total_timeout (")]
    #[case::closed(Script::Close, "http", false, "ends the connection without an answer to Hello (")]
    #[tokio::test]
    async fn a_provider_that_is_not_heard_is_named_with_the_cause(
        #[case] script: Script,
        #[case] scheme: &str,
        #[case] over: bool,
        #[case] words: &str,
    ) {
        let server = ScriptedServer::start_raw(script).await;
        let http = client(&server.endpoint().replace("http", scheme), 500);
        let (should_stop, report) = seen(&http).await;
        let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
        assert!(finding.sentence.starts_with(&format!("{} {words}", http.origin())), "{report:?}");
        // If one request is answered, one that is not is only a remark.
        assert_eq!((should_stop, finding.breaks_refunds, report.reached), (over, over, false), "{report:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_came_from_a_provider_that_is_there() {
        let server = ScriptedServer::start(Script::Flood { claim_length: false }).await;
        let (should_stop, report) = seen(&fixtures::http_of(&server)).await;
        assert!(!should_stop && report.reached, "{report:?}");
        assert!(report.findings[0].sentence.contains("cannot be read (HTTP 200 with a body longer"), "{report:?}");
    }

    #[test]
    fn words_that_are_not_known_stand_alone() {
        assert_eq!(cause_of("no connection: something new"), "no connection: something new");
    }
}
