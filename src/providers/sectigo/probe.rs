//! The probe of a Sectigo account: a GET of the refund endpoint, which is documented to be answered
//! with -17 and names no login and no order, and the status of an order that cannot exist.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::status_wire::{OrderStatusReply, PageReader};
use super::{REFUND_PATH, Sectigo};
use crate::domain::probe::{Credentials, ProbeReport};
use crate::http::client::{HttpRequest, HttpResponse, MAX_REFUND_REPLY_BYTES};
use crate::providers::RequestLimiter;
use crate::providers::probe_run::ProbeRun;
use crate::providers::redact::Redactor;
use crate::providers::text::{content_type, decode_damaged};

/// Well-formed, so that Sectigo checks the login, and far above every number that it has assigned.
const NONEXISTENT_ORDER: &str = "999999999999";
const NOT_HTTPS: i32 = -1;
const NOT_POST: i32 = -17;

impl Sectigo {
    pub(super) async fn run_probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        let mut probe = ProbeRun::of(&self.http);
        limiter.acquire().await;
        let get = HttpRequest {
            method: Method::GET,
            path: REFUND_PATH.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let outcome = self.http.read(get, MAX_REFUND_REPLY_BYTES).await;
        if let Some(answer) = probe.required_answer("a GET of !AutoRefund", outcome) {
            check_refund_endpoint(&mut probe, &answer, &self.redactor);
        }
        if probe.should_stop() {
            return probe.into_report();
        }
        limiter.acquire().await;
        let outcome = self.request_status(NONEXISTENT_ORDER, None).await;
        if let Some(answer) = probe.required_answer("!getPostPaymentStatus", outcome) {
            check_login(&mut probe, &answer, &self.pages, &self.redactor);
        }
        probe.into_report()
    }
}

/// Checks that !AutoRefund answers the GET.
fn check_refund_endpoint(probe: &mut ProbeRun, answer: &HttpResponse, redactor: &Redactor) {
    let text = decode_damaged(&answer.body, content_type(answer));
    let text = text.trim();
    let first = text.lines().next().unwrap_or_default().trim();
    let quote = redactor.text(&text.chars().take(160).collect::<String>());
    match (answer.status, first.parse::<i32>()) {
        (_, Ok(NOT_POST)) => {}
        (200, Ok(NOT_HTTPS)) => probe.failure(format!("the provider accepts no request without TLS: \"{quote}\"")),
        // Another documented refusal: the provider does not check the method first.
        (200, Ok(..0)) => {
            probe.remark(format!("the refund endpoint answers a GET with \"{quote}\" instead of -17"));
        }
        (status, _) => probe.failure(format!(
            "the refund endpoint answers a GET with HTTP {status} \"{quote}\" instead of -17: is endpoint right?"
        )),
    }
}

fn check_login(probe: &mut ProbeRun, answer: &HttpResponse, pages: &PageReader, redactor: &Redactor) {
    if answer.status != 200 {
        let status = answer.status;
        return probe.failure(format!("!getPostPaymentStatus is answered with HTTP {status}: is endpoint right?"));
    }
    match pages.read(answer) {
        Err(problem) => probe.failure(format!("the answer to !getPostPaymentStatus cannot be read: {problem}")),
        // Only an accepted login learns that the order does not exist.
        Ok(OrderStatusReply::Error { code: -4, .. }) => probe.credentials = Credentials::Accepted,
        Ok(OrderStatusReply::Error { code: -16, message }) => {
            probe.credentials = Credentials::Refused;
            probe.failure(format!(
                "the provider refuses login_name, login_password or the address that it is asked from (-16: {})",
                redactor.text(&message)
            ));
        }
        Ok(OrderStatusReply::Error { code, message }) => {
            let message = redactor.text(&message);
            probe.failure(format!("!getPostPaymentStatus is answered with {code} ({message}): ask again later"));
        }
        Ok(OrderStatusReply::Page(_)) => {
            probe.credentials = Credentials::Accepted;
            probe.failure(format!("!getPostPaymentStatus shows an order {NONEXISTENT_ORDER}, which cannot exist"));
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::domain::probe::ProbeFinding;
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures::{self, Unpaced};

    fn redactor() -> Redactor {
        Redactor::new("demo", &SecretString::from("c4nary-secret"))
    }

    fn login() -> ProviderSettings {
        ProviderSettings::Sectigo { login_name: "demo".to_owned(), login_password: SecretString::from("c4nary-secret") }
    }

    async fn new_probe() -> ProbeRun {
        let server = ScriptedServer::start(Script::Close).await;
        ProbeRun::of(&fixtures::http_of(&server))
    }

    /// Expected finding: 0 none, 1 a remark, 2 a failure.
    #[rstest]
    #[case::documented(200, "-17\nRequest used GET rather than POST!", 0)]
    #[case::documented_with_another_status(405, "-17\r\nRequest used GET rather than POST!\r\n", 0)]
    #[case::arguments_first(200, "-3\nThe 'loginName' argument is missing!", 1)]
    #[case::without_tls(200, "-1\nRequest was not made over HTTPS!", 2)]
    #[case::a_refund(200, "0", 2)]
    #[case::another_service(404, "Not Found", 2)]
    #[case::a_page(200, "<html>", 2)]
    #[case::a_proxy(403, "", 2)]
    #[tokio::test]
    async fn the_refund_endpoint_is_recognised_by_its_refusal(
        #[case] status: u16,
        #[case] body: &str,
        #[case] found: u8,
    ) {
        let mut probe = new_probe().await;
        check_refund_endpoint(&mut probe, &fixtures::answer(status, &[], body.as_bytes()), &redactor());
        let findings = probe.into_report().findings;
        let severity = findings.first().map_or(0, |finding| if finding.breaks_refunds { 2 } else { 1 });
        assert_eq!((severity, findings.len() <= 1), (found, true), "{findings:?}");
    }

    #[rstest]
    #[case::no_such_order("{\"errorCode\":-4,\"errorMessage\":\"x\"}", Credentials::Accepted, 0)]
    #[case::refused("{\"errorCode\":-16,\"errorMessage\":\"c4nary-secret is wrong\"}", Credentials::Refused, 1)]
    #[case::not_now("{\"errorCode\":-42,\"errorMessage\":\"x\"}", Credentials::Unknown, 1)]
    #[case::an_order("{\"errorCode\":0,\"data\":{\"orderNumber\":\"999999999999\"}}", Credentials::Accepted, 1)]
    #[case::a_page("<html>", Credentials::Unknown, 1)]
    #[tokio::test]
    async fn the_status_call_shows_whether_the_login_is_accepted(
        #[case] body: &str,
        #[case] credentials: Credentials,
        #[case] found: usize,
    ) {
        let mut probe = new_probe().await;
        check_login(
            &mut probe,
            &fixtures::answer(200, &[], body.as_bytes()),
            &PageReader::new(redactor()),
            &redactor(),
        );
        let report = probe.into_report();
        assert_eq!((report.credentials, report.findings.len()), (credentials, found), "{report:?}");
        assert!(!format!("{report:?}").contains("c4nary"), "{report:?}");
    }

    #[tokio::test]
    async fn the_refund_endpoint_receives_neither_login_nor_order() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n-17\nRequest used GET rather than POST!";
        let server = ScriptedServer::start(Script::Send(answer)).await;
        fixtures::account(&server, login()).refunds.probe(&Unpaced).await;
        let requests = server.requests();
        let (get, status) = (requests.first().unwrap(), requests.get(1).unwrap());
        assert!(get.starts_with("GET /products/!AutoRefund HTTP/1.1\r\n") && get.ends_with("\r\n\r\n"), "{get}");
        assert!(!get.contains("demo") && !get.contains("c4nary"), "{get}");
        assert!(status.starts_with("POST /products/!getPostPaymentStatus HTTP/1.1\r\n"), "{status}");
        assert!(status.ends_with("\r\n\r\nloginName=demo&loginPassword=c4nary-secret&orderNumber=999999999999"));
        assert_eq!(requests.len(), 2);
    }

    #[tokio::test]
    async fn an_address_that_refuses_connections_is_tried_once() {
        let server = ScriptedServer::start(Script::Close).await;
        let account = fixtures::account(&server, login());
        let origin = server.stopped().await;
        let report = account.refunds.probe(&Unpaced).await;
        let [ProbeFinding { sentence, breaks_refunds: true }] = report.findings.as_slice() else {
            panic!("{report:?}")
        };
        assert!(
            sentence.starts_with(&format!("{origin} cannot be reached: it refuses the connection (")),
            "{report:?}"
        );
        assert!(!report.reached);
    }

    #[rstest]
    #[case::byte_order_mark("text/plain", |text: &str| format!("\u{FEFF}{text}").into_bytes())]
    #[case::utf_16("text/plain; charset=utf-16le", |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect())]
    #[tokio::test]
    async fn the_refusal_is_recognised_in_every_charset(
        #[case] content: &'static str,
        #[case] bytes: fn(&str) -> Vec<u8>,
    ) {
        let mut probe = new_probe().await;
        let body = bytes("-17\nRequest used GET rather than POST!");
        check_refund_endpoint(&mut probe, &fixtures::answer(200, &[("content-type", content)], &body), &redactor());
        assert_eq!(probe.into_report().findings, []);
    }
}
