//! The probe of a name.com account: Hello, and a list of at most one order, which is what lookups
//! read.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::ErrorBody;
use super::{Namecom, ORDERS_PATH};
use crate::domain::probe::{Credentials, ProbeReport};
use crate::http::client::{HttpOutcome, HttpRequest, HttpResponse, REFUND_REPLY_BYTES, STATUS_REPLY_BYTES};
use crate::providers::Turns;
use crate::providers::json_object::Object;
use crate::providers::probing::Probing;
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

/// `ListOrdersResponse`: its orders are not read.
#[derive(Deserialize)]
struct ListOrdersResponse<'a> {
    #[serde(borrow, rename = "orders")]
    _orders: Vec<&'a RawValue>,
}

/// What an answer's status and body say about the login.
enum Said {
    /// 200, which says that it was accepted if the body is the documented one.
    Yes,
    /// It was refused; in the provider's words.
    Refused(String),
    /// It was accepted, and is not allowed this call; in the provider's words.
    NotAllowed(String),
    /// Nothing; what the answer is.
    Nothing(String),
}

impl Namecom {
    pub(super) async fn ask_harmlessly(&self, turns: &dyn Turns) -> ProbeReport {
        let mut probing = Probing::of(&self.http);
        turns.turn().await;
        let exchange = match self.read_of(HELLO_PATH) {
            Ok(call) => self.http.read(call, REFUND_REPLY_BYTES).await,
            Err(why) => HttpOutcome::NotSent { why: why.to_owned() },
        };
        let hello = probing.answer_beside(HELLO, exchange);
        if probing.is_over() {
            return probing.end();
        }
        turns.turn().await;
        let exchange = match self.read_of(ORDERS_PATH) {
            Ok(call) => self.http.read_with_query(call, ONE_ORDER, STATUS_REPLY_BYTES).await,
            Err(why) => HttpOutcome::NotSent { why: why.to_owned() },
        };
        let orders = probing.answer_to(LIST_ORDERS, exchange);
        note(&mut probing, hello.as_ref(), orders.as_ref(), &self.username, &self.mask);
        probing.end()
    }

    fn read_of(&self, path: &str) -> Result<HttpRequest, &'static str> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization()?)]);
        Ok(HttpRequest { method: Method::GET, path: path.to_owned(), headers, body: Bytes::new() })
    }
}

/// Notes what both answers show. The list decides: lookups need what it needs.
fn note(
    probing: &mut Probing,
    hello: Option<&HttpResponse>,
    orders: Option<&HttpResponse>,
    username: &str,
    mask: &Redactor,
) {
    let hello = hello.map(|answer| (Said::read(answer, mask), answer));
    let orders = orders.map(|answer| (Said::read(answer, mask), answer));
    match &orders {
        Some((Said::Yes, answer)) if is_list(answer) => probing.credentials = Credentials::Accepted,
        Some((Said::Yes, _)) => {
            probing.failure(format!("{LIST_ORDERS} is answered with HTTP 200 and no list of orders"))
        }
        Some((Said::Refused(said), _)) => {
            probing.credentials = Credentials::Refused;
            probing.failure(format!("the provider refuses username or token ({said})"));
        }
        Some((Said::NotAllowed(said), _)) => {
            probing.credentials = Credentials::Accepted;
            probing.failure(format!("the account may not read orders ({said}), so no lookup shows a refund"));
        }
        Some((Said::Nothing(said), _)) => {
            probing.failure(format!("{LIST_ORDERS} is answered with {said}: is endpoint right, or is it only now?"));
        }
        None => {}
    }
    match hello {
        Some((Said::Yes, answer)) => note_hello(probing, answer, username, mask),
        // The same refusal is one finding.
        Some((Said::Refused(_), _)) if probing.credentials == Credentials::Refused => {}
        Some((Said::Refused(said), _)) if probing.credentials == Credentials::Unknown => {
            probing.credentials = Credentials::Refused;
            probing.failure(format!("the provider refuses username or token ({said})"));
        }
        Some((Said::Refused(said) | Said::NotAllowed(said) | Said::Nothing(said), _)) => {
            probing.remark(format!("{HELLO} is answered with {said}"));
        }
        None => {}
    }
}

/// The login that the provider names is the one that was sent.
fn note_hello(probing: &mut Probing, answer: &HttpResponse, username: &str, mask: &Redactor) {
    let body = decode_damaged(&answer.body, content_type(answer));
    let Ok(Object(hello)) = serde_json::from_str::<Object<HelloResponse>>(&body) else {
        return probing.remark(format!("{HELLO} is answered with HTTP 200 and not with the documented JSON"));
    };
    // In the sandbox the login ends in "-test", and which of the two names is shown is not
    // documented.
    let plain = |name: &str| name.strip_suffix("-test").unwrap_or(name).to_ascii_lowercase();
    if let Some(named) = hello.username.filter(|named| !named.is_empty() && plain(named) != plain(username)) {
        let (named, username) = (mask.text(&named), mask.text(username));
        probing.remark(format!("{HELLO} names the account \"{named}\", and username is \"{username}\""));
    }
}

fn is_list(answer: &HttpResponse) -> bool {
    let body = decode_damaged(&answer.body, content_type(answer));
    serde_json::from_str::<Object<ListOrdersResponse<'_>>>(&body).is_ok()
}

impl Said {
    fn read(answer: &HttpResponse, mask: &Redactor) -> Said {
        let text = decode_damaged(&answer.body, content_type(answer));
        let body = ErrorBody::read(&text, mask);
        let said = match &body {
            Some(words) => format!("HTTP {}: {words}", answer.status),
            None => format!("HTTP {}", answer.status),
        };
        let is_about_login = || body.as_ref().is_none_or(|words| words.contains("Failed authentication"));
        match answer.status {
            200 => Said::Yes,
            401 => Said::Refused(said),
            403 if is_about_login() => Said::Refused(said),
            403 => Said::NotAllowed(said),
            _ => Said::Nothing(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures::{self, Unpaced};
    use crate::providers::testing::scripted_server::{Script, ScriptedServer};

    const LIST: &str = "{\"orders\":[],\"totalCount\":0,\"from\":0,\"to\":0}";
    const GREETING: &str = "{\"serverName\":\"s\",\"motd\":\"m\",\"username\":\"demo\",\"serverTime\":\"now\"}";
    const FORBIDDEN: &str = "{\"message\":\"Permission Denied\",\"details\":\"Failed authentication\"}";
    const DENIED: &str = "{\"message\":\"Permission Denied\",\"details\":null}";

    /// Findings are `!` for a failure and `.` for a remark.
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
    async fn both_answers_together_mean_one_thing(
        #[case] hello: (u16, &str),
        #[case] orders: (u16, &str),
        #[case] credentials: Credentials,
        #[case] found: &str,
    ) {
        let peer = ScriptedServer::start(Script::Close).await;
        let mut probing = Probing::of(&fixtures::http_of(&peer));
        let [hello, orders] = [hello, orders].map(|(status, body)| fixtures::answer(status, &[], body.as_bytes()));
        note(
            &mut probing,
            Some(&hello),
            Some(&orders),
            "demo-test",
            &Redactor::new("demo", &SecretString::from("x-token")),
        );
        let report = probing.end();
        let marks = report.findings.iter().map(|finding| if finding.breaks_refunds { '!' } else { '.' });
        assert_eq!((report.credentials, marks.collect::<String>().as_str()), (credentials, found), "{report:?}");
    }

    #[tokio::test]
    async fn two_reads_and_no_more() {
        let answer = "HTTP/1.1 401 No\r\nContent-Length: 36\r\n\r\n{\"message\":\"demo-token is no token\"}";
        let peer = ScriptedServer::start(Script::Say(answer)).await;
        let login = ProviderSettings::Namecom {
            username: "demo-test".to_owned(),
            token: SecretString::from("demo-token"),
            key_lifetime: std::time::Duration::from_secs(3_000),
        };
        let report = fixtures::account(&peer, login).adapter.probe(&Unpaced).await;
        let lines: Vec<String> =
            peer.requests().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
        assert_eq!(lines, ["GET /core/v1/hello HTTP/1.1", "GET /core/v1/orders?perPage=1 HTTP/1.1"]);
        assert_eq!(report.credentials, Credentials::Refused);
        let sentences: Vec<&str> = report.findings.iter().map(|finding| finding.sentence.as_str()).collect();
        assert_eq!(sentences, ["the provider refuses username or token (HTTP 401: *** is no token)"]);
    }

    #[rstest]
    #[case::byte_order_mark("application/json", |text: &str| format!("\u{FEFF}{text}").into_bytes())]
    #[case::utf_16("application/json; charset=utf-16le", |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect())]
    #[tokio::test]
    async fn answers_are_read_in_every_charset(#[case] content: &'static str, #[case] bytes: fn(&str) -> Vec<u8>) {
        let peer = ScriptedServer::start(Script::Close).await;
        let mut probing = Probing::of(&fixtures::http_of(&peer));
        let [hello, orders] =
            [GREETING, LIST].map(|text| fixtures::answer(200, &[("content-type", content)], &bytes(text)));
        let mask = Redactor::new("demo", &SecretString::from("x-token"));
        note(&mut probing, Some(&hello), Some(&orders), "demo", &mask);
        let report = probing.end();
        assert_eq!((report.credentials, report.findings.len()), (Credentials::Accepted, 0), "{report:?}");
    }
}
