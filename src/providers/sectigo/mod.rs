//! Sectigo: `!AutoRefund` refunds a whole certificate order, and `!getPostPaymentStatus` shows the
//! order's state.
//!
//! Sectigo has neither an idempotency key nor a refund identifier: only the gateway prevents a
//! second refund. A lost answer is recovered only if the order has become `Refunded`; every other
//! state proves nothing.
//!
//! Credentials are form fields of every request and never part of a URL.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use secrecy::ExposeSecret;

use crate::domain::outcome::{AttemptReport, Lookup};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{SectigoTarget, Target};
use crate::http::client::{HttpClient, HttpOutcome, HttpRequest, MAX_STATUS_REPLY_BYTES};
use crate::providers::defaults::ProviderDefaults;
use crate::providers::http_outcome::not_sent;
use crate::providers::redact::Redactor;
use crate::providers::secret::Secret;
use crate::providers::sectigo::status_wire::PageReader;
use crate::providers::{RefundProvider, RequestLimiter};

mod json;
mod probe;
mod status;
mod status_wire;
pub mod wire;

/// What an account has where its configuration does not say otherwise.
pub(super) const DEFAULTS: ProviderDefaults = ProviderDefaults {
    endpoint: Some("https://secure.trust-provider.com"),
    requests_per_second: 0,
    requests_per_hour: 0,
    // Sectigo does not document how long its order status lags.
    settle_time: Duration::from_secs(24 * 3_600),
};

/// Fixed, because a sibling of this endpoint destroys orders: the document that names this call
/// once printed that endpoint's address.
const REFUND_PATH: &str = "/products/!AutoRefund";
const STATUS_PATH: &str = "/products/!getPostPaymentStatus";

pub struct Sectigo {
    http: HttpClient,
    login_name: String,
    login_password: Secret,
    redactor: Redactor,
    pages: PageReader,
}

impl Sectigo {
    pub fn new(http: HttpClient, login_name: String, login_password: Secret) -> Self {
        let new_redactor = || Redactor::of(&login_name, login_password.clone());
        let (redactor, pages) = (new_redactor(), PageReader::new(new_redactor()));
        Self { http, login_name, login_password, redactor, pages }
    }

    /// Requests `!getPostPaymentStatus` for one order. Moves nothing.
    async fn request_status(&self, order_number: &str, certificate_id: Option<&str>) -> HttpOutcome {
        let mut fields = vec![("orderNumber", order_number)];
        fields.extend(certificate_id.map(|id| ("CertificateID", id)));
        self.http.read(self.form(STATUS_PATH, &fields), MAX_STATUS_REPLY_BYTES).await
    }

    async fn send_refund(&self, target: &SectigoTarget) -> HttpOutcome {
        let reason = target.reason_code().to_string();
        // Sectigo answers undocumented arguments with -2, so send only these two and the login.
        let fields = [("orderNumber", target.order_number()), ("refundReasonCode", reason.as_str())];
        self.http.send_once(self.form(REFUND_PATH, &fields)).await
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> HttpRequest {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("loginName", &self.login_name);
        form.append_pair("loginPassword", self.login_password.current().expose_secret());
        for (name, value) in fields {
            form.append_pair(name, value);
        }
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
        HttpRequest { method: Method::POST, path: path.to_owned(), headers, body: Bytes::from(form.finish()) }
    }
}

#[async_trait]
impl RefundProvider for Sectigo {
    async fn refund(&self, intent: &Intent, _: Option<&str>) -> AttemptReport {
        let Target::Sectigo(target) = &intent.target else {
            return not_sent("this is a Sectigo account, and the target is not one of Sectigo").into();
        };
        let outcome = self.send_refund(target).await.into_outcome(|answer| wire::read_refund(answer, &self.redactor));
        AttemptReport { signal: wire::account_signal(&outcome), outcome }
    }

    async fn lookup(&self, refund: &Refund, _: &dyn RequestLimiter) -> Lookup {
        let Target::Sectigo(target) = &refund.intent.target else {
            return Lookup::unavailable("this is a Sectigo account, and the target is not one of Sectigo");
        };
        let number = target.order_number();
        let outcome = self.request_status(number, None).await;
        outcome.into_lookup(|answer| wire::read_order_status(answer, number, &self.pages))
    }

    async fn probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        self.run_probe(limiter).await
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::domain::ids::ProviderKind;
    use crate::domain::outcome::{Confirmation, DoubtReason, Outcome};
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::testing::fixtures::{self, Unpaced};

    fn target() -> Target {
        Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap())
    }

    fn login() -> crate::providers::ProviderSettings {
        crate::providers::ProviderSettings::Sectigo {
            login_name: "demo".to_owned(),
            login_password: SecretString::from("p&ss word!"),
        }
    }

    #[tokio::test]
    async fn the_refund_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")).await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert!(matches!(outcome, Outcome::Refunded(_)), "{outcome:?}");
        assert_eq!(
            server.requests(),
            [format!(
                "POST /products/!AutoRefund HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                 accept: */*\r\nuser-agent: recoup/{}\r\nhost: {}\r\ncontent-length: 83\r\n\r\n\
                 loginName=demo&loginPassword=p%26ss+word%21&orderNumber=1000001&refundReasonCode=11",
                env!("CARGO_PKG_VERSION"),
                server.endpoint().trim_start_matches("http://"),
            )]
        );
    }

    #[tokio::test]
    async fn the_lookup_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")).await;
        let lookup =
            fixtures::account(&server, login()).refunds.lookup(&fixtures::refund("r-1", target()), &Unpaced).await;
        assert_eq!(lookup, Lookup::unavailable("HTTP 503 without an order's status"));
        let request = server.requests().remove(0);
        assert!(request.starts_with("POST /products/!getPostPaymentStatus HTTP/1.1\r\n"), "{request}");
        assert!(
            request.ends_with("\r\n\r\nloginName=demo&loginPassword=p%26ss+word%21&orderNumber=1000001"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn a_lookup_finds_a_refunded_order() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 79\r\n\r\n\
                      {\"errorCode\":0,\"data\":{\"orderNumber\":\"1000001\",\"orderStatus\":\"Refunded\"}}      ";
        let server = ScriptedServer::start(Script::Send(answer)).await;
        let account = fixtures::account(&server, login());
        assert_eq!(account.provider, ProviderKind::Sectigo);
        let found = account.refunds.lookup(&fixtures::refund("r-1", target()), &Unpaced).await;
        let yes = Confirmation { status: Some("Refunded".to_owned()), ..Confirmation::default() };
        assert_eq!(found, Lookup::Found(Outcome::Refunded(yes)));
    }

    #[tokio::test]
    async fn a_closed_connection_is_doubt() {
        let server = ScriptedServer::start(Script::Close).await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert!(
            matches!(&outcome, Outcome::Unknown { reason: DoubtReason::ConnectionLost, evidence } if !evidence.contains("word")),
            "{outcome:?}"
        );
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn the_target_of_another_provider_is_never_sent() {
        let server = ScriptedServer::start(Script::Close).await;
        let target = Target::Namecom(crate::domain::target::NamecomTarget::new(1, &[2]).unwrap());
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target), None).await.outcome;
        assert!(matches!(outcome, Outcome::NotSent { .. }), "{outcome:?}");
        assert_eq!(server.connections(), 0);
    }
}
