//! The probe of a name.com account: Hello, and a list of at most one order, because lookups read
//! orders.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::ErrorBody;
use super::{Namecom, ORDERS_PATH};
use crate::domain::probe::{Credentials, ProbeReport};
use crate::http::client::{HttpOutcome, HttpRequest, HttpResponse, MAX_REFUND_REPLY_BYTES, MAX_STATUS_REPLY_BYTES};
use crate::providers::RequestLimiter;
use crate::providers::json_object::Object;
use crate::providers::probe_run::ProbeRun;
use crate::providers::redact::Redactor;
use crate::providers::text::{content_type, decode_damaged};

const HELLO_PATH: &str = "/core/v1/hello";
const ONE_ORDER: &str = "perPage=1";
const HELLO: &str = "Hello";
const LIST_ORDERS: &str = "List Orders";

/// `HelloResponse`. Its other members say nothing about the account.
#[derive(Deserialize)]
struct HelloResponse {
    username: Option<String>,
}

/// `ListOrdersResponse`. The orders themselves are not read.
#[derive(Deserialize)]
struct ListOrdersResponse<'a> {
    #[serde(borrow, rename = "orders")]
    _orders: Vec<&'a RawValue>,
}

/// What the status and body of an answer say about the login.
enum LoginAnswer {
    /// HTTP 200: accepted, if the body is the documented one.
    Accepted,
    /// The login was refused; with the provider's text.
    Refused(String),
    /// The login was accepted but may not make this call; with the provider's text.
    Forbidden(String),
    /// Nothing; with a description of the answer.
    Inconclusive(String),
}

impl Namecom {
    pub(super) async fn run_probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        let mut probe = ProbeRun::of(&self.http);
        limiter.acquire().await;
        let outcome = match self.read_of(HELLO_PATH) {
            Ok(call) => self.http.read(call, MAX_REFUND_REPLY_BYTES).await,
            Err(why) => HttpOutcome::NotSent { evidence: why.to_owned() },
        };
        let hello = probe.optional_answer(HELLO, outcome);
        if probe.should_stop() {
            return probe.into_report();
        }
        limiter.acquire().await;
        let outcome = match self.read_of(ORDERS_PATH) {
            Ok(call) => self.http.read_with_query(call, ONE_ORDER, MAX_STATUS_REPLY_BYTES).await,
            Err(why) => HttpOutcome::NotSent { evidence: why.to_owned() },
        };
        let orders = probe.required_answer(LIST_ORDERS, outcome);
        check_answers(&mut probe, hello.as_ref(), orders.as_ref(), &self.username, &self.redactor);
        probe.into_report()
    }

    fn read_of(&self, path: &str) -> Result<HttpRequest, &'static str> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization()?)]);
        Ok(HttpRequest { method: Method::GET, path: path.to_owned(), headers, body: Bytes::new() })
    }
}

/// Adds what both answers show. The list decides, because lookups need the same permission.
fn check_answers(
    probe: &mut ProbeRun,
    hello: Option<&HttpResponse>,
    orders: Option<&HttpResponse>,
    username: &str,
    redactor: &Redactor,
) {
    let hello = hello.map(|answer| (LoginAnswer::read(answer, redactor), answer));
    let orders = orders.map(|answer| (LoginAnswer::read(answer, redactor), answer));
    match &orders {
        Some((LoginAnswer::Accepted, answer)) if is_list(answer) => probe.credentials = Credentials::Accepted,
        Some((LoginAnswer::Accepted, _)) => {
            probe.failure(format!("{LIST_ORDERS} is answered with HTTP 200 and no list of orders"))
        }
        Some((LoginAnswer::Refused(detail), _)) => {
            probe.credentials = Credentials::Refused;
            probe.failure(format!("the provider refuses username or token ({detail})"));
        }
        Some((LoginAnswer::Forbidden(detail), _)) => {
            probe.credentials = Credentials::Accepted;
            probe.failure(format!("the account may not read orders ({detail}), so lookups cannot find refunds"));
        }
        Some((LoginAnswer::Inconclusive(detail), _)) => {
            probe.failure(format!(
                "{LIST_ORDERS} is answered with {detail}: is endpoint right? Otherwise try again later"
            ));
        }
        None => {}
    }
    match hello {
        Some((LoginAnswer::Accepted, answer)) => check_hello(probe, answer, username, redactor),
        // The same refusal is one finding.
        Some((LoginAnswer::Refused(_), _)) if probe.credentials == Credentials::Refused => {}
        Some((LoginAnswer::Refused(detail), _)) if probe.credentials == Credentials::Unknown => {
            probe.credentials = Credentials::Refused;
            probe.failure(format!("the provider refuses username or token ({detail})"));
        }
        Some((
            LoginAnswer::Refused(detail) | LoginAnswer::Forbidden(detail) | LoginAnswer::Inconclusive(detail),
            _,
        )) => {
            probe.remark(format!("{HELLO} is answered with {detail}"));
        }
        None => {}
    }
}

/// Checks that the provider names the login that was sent.
fn check_hello(probe: &mut ProbeRun, answer: &HttpResponse, username: &str, redactor: &Redactor) {
    let body = decode_damaged(&answer.body, content_type(answer));
    let Ok(Object(hello)) = serde_json::from_str::<Object<HelloResponse>>(&body) else {
        return probe.remark(format!("{HELLO} is answered with HTTP 200 without the documented JSON"));
    };
    // In the sandbox the login ends in "-test". The provider does not document which of the two
    // names Hello shows.
    let plain = |name: &str| name.strip_suffix("-test").unwrap_or(name).to_ascii_lowercase();
    if let Some(named) = hello.username.filter(|named| !named.is_empty() && plain(named) != plain(username)) {
        let (named, username) = (redactor.text(&named), redactor.text(username));
        probe.remark(format!("{HELLO} names the account \"{named}\", and username is \"{username}\""));
    }
}

fn is_list(answer: &HttpResponse) -> bool {
    let body = decode_damaged(&answer.body, content_type(answer));
    serde_json::from_str::<Object<ListOrdersResponse<'_>>>(&body).is_ok()
}

impl LoginAnswer {
    fn read(answer: &HttpResponse, redactor: &Redactor) -> LoginAnswer {
        let text = decode_damaged(&answer.body, content_type(answer));
        let body = ErrorBody::read(&text, redactor);
        let detail = match &body {
            Some(text) => format!("HTTP {}: {text}", answer.status),
            None => format!("HTTP {}", answer.status),
        };
        let is_about_login = || body.as_ref().is_none_or(|text| text.contains("Failed authentication"));
        match answer.status {
            200 => LoginAnswer::Accepted,
            401 => LoginAnswer::Refused(detail),
            403 if is_about_login() => LoginAnswer::Refused(detail),
            403 => LoginAnswer::Forbidden(detail),
            _ => LoginAnswer::Inconclusive(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures::{self, Unpaced};

    const LIST: &str = "{\"orders\":[],\"totalCount\":0,\"from\":0,\"to\":0}";
    const GREETING: &str = "{\"serverName\":\"s\",\"motd\":\"m\",\"username\":\"demo\",\"serverTime\":\"now\"}";
    const FORBIDDEN: &str = "{\"message\":\"Permission Denied\",\"details\":\"Failed authentication\"}";
    const DENIED: &str = "{\"message\":\"Permission Denied\",\"details\":null}";

    /// Expected findings: `!` for a failure, `.` for a remark.
    #[rstest]
    #[case::all_well((200, GREETING), (200, LIST), Credentials::Accepted, "")]
    #[case::no_hello((404, "{\"message\":\"Not Found\"}"), (200, LIST), Credentials::Accepted, ".")]
    #[case::another_name((200, "{\"username\":\"other\"}"), (200, LIST), Credentials::Accepted, ".")]
    #[case::refused((401, "{\"message\":\"Unauthorized\"}"), (401, ""), Credentials::Refused, "!")]
    #[case::refused_as_forbidden((403, FORBIDDEN), (403, FORBIDDEN), Credentials::Refused, "!")]
    #[case::forbidden_without_a_body((403, ""), (403, "<html>"), Credentials::Refused, "!")]
    #[case::not_allowed((200, GREETING), (403, DENIED), Credentials::Accepted, "!")]
    #[case::refused_by_hello_alone((401, ""), (503, ""), Credentials::Refused, "!!")]
    #[case::hello_is_wrong((401, ""), (200, LIST), Credentials::Accepted, ".")]
    #[case::no_list((200, GREETING), (200, "<html>"), Credentials::Unknown, "!")]
    #[case::too_many((429, ""), (429, ""), Credentials::Unknown, "!.")]
    #[case::another_service((404, ""), (404, ""), Credentials::Unknown, "!.")]
    #[tokio::test]
    async fn both_answers_together_have_one_meaning(
        #[case] hello: (u16, &str),
        #[case] orders: (u16, &str),
        #[case] credentials: Credentials,
        #[case] found: &str,
    ) {
        let server = ScriptedServer::start(Script::Close).await;
        let mut probe = ProbeRun::of(&fixtures::http_of(&server));
        let [hello, orders] = [hello, orders].map(|(status, body)| fixtures::answer(status, &[], body.as_bytes()));
        check_answers(
            &mut probe,
            Some(&hello),
            Some(&orders),
            "demo-test",
            &Redactor::new("demo", &SecretString::from("x-token")),
        );
        let report = probe.into_report();
        let marks = report.findings.iter().map(|finding| if finding.breaks_refunds { '!' } else { '.' });
        assert_eq!((report.credentials, marks.collect::<String>().as_str()), (credentials, found), "{report:?}");
    }

    #[tokio::test]
    async fn a_probe_sends_exactly_two_reads() {
        let answer = "HTTP/1.1 401 No\r\nContent-Length: 36\r\n\r\n{\"message\":\"demo-token is no token\"}";
        let server = ScriptedServer::start(Script::Send(answer)).await;
        let login = ProviderSettings::Namecom {
            username: "demo-test".to_owned(),
            token: SecretString::from("demo-token"),
            key_lifetime: std::time::Duration::from_secs(3_000),
        };
        let report = fixtures::account(&server, login).refunds.probe(&Unpaced).await;
        let lines: Vec<String> =
            server.requests().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
        assert_eq!(lines, ["GET /core/v1/hello HTTP/1.1", "GET /core/v1/orders?perPage=1 HTTP/1.1"]);
        assert_eq!(report.credentials, Credentials::Refused);
        let sentences: Vec<&str> = report.findings.iter().map(|finding| finding.sentence.as_str()).collect();
        assert_eq!(sentences, ["the provider refuses username or token (HTTP 401: *** is no token)"]);
    }

    #[rstest]
    #[case::byte_order_mark("application/json", |text: &str| format!("\u{FEFF}{text}").into_bytes())]
    #[case::utf_16("application/json; charset=utf-16le", |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect())]
    #[tokio::test]
    async fn probe_answers_are_decoded_in_every_charset(
        #[case] content: &'static str,
        #[case] bytes: fn(&str) -> Vec<u8>,
    ) {
        let server = ScriptedServer::start(Script::Close).await;
        let mut probe = ProbeRun::of(&fixtures::http_of(&server));
        let [hello, orders] =
            [GREETING, LIST].map(|text| fixtures::answer(200, &[("content-type", content)], &bytes(text)));
        let redactor = Redactor::new("demo", &SecretString::from("x-token"));
        check_answers(&mut probe, Some(&hello), Some(&orders), "demo", &redactor);
        let report = probe.into_report();
        assert_eq!((report.credentials, report.findings.len()), (Credentials::Accepted, 0), "{report:?}");
    }
}
