//! name.com: Process Refund refunds items of one order and deletes the domain first; Get Order
//! shows what became of the items.
//!
//! The idempotency key is the refund's id and the body depends only on the target, so every send of
//! one refund is the same request: within the key's lifetime the provider replays its first answer
//! and does nothing more.
//!
//! Specification v1.27.1 and v1.33.2; HTTP Basic with the account's name and token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use crate::domain::clock::Clock;
use crate::domain::ids::RefundId;
use crate::domain::outcome::{AttemptReport, Lookup};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{NamecomTarget, Target};
use crate::http::client::{HttpClient, HttpOutcome, HttpRequest, MAX_REFUND_REPLY_BYTES, MAX_STATUS_REPLY_BYTES};
use crate::providers::defaults::ProviderDefaults;
use crate::providers::http_outcome::not_sent;
use crate::providers::namecom::domains::DomainState;
use crate::providers::namecom::order::{OrderReading, UnrefundedOrder};
use crate::providers::redact::Redactor;
use crate::providers::secret::Secret;
use crate::providers::{ConnectError, RefundProvider, RequestLimiter};

mod domains;
mod fields;
mod listing;
mod order;
mod probe;
mod rows;
pub mod wire;

/// What an account has where its configuration does not say otherwise.
pub(super) const DEFAULTS: ProviderDefaults = ProviderDefaults {
    endpoint: Some("https://api.name.com"),
    requests_per_second: 20,
    requests_per_hour: 3_000,
    settle_time: Duration::from_secs(600),
};

const REFUND_PATH: &str = "/core/v1/refund";
const ORDERS_PATH: &str = "/core/v1/orders";
const DOMAINS_PATH: &str = "/core/v1/domains";

/// How long one lookup may spend on reading domains, waiting for permits included. An order may
/// have 200 of them.
const MAX_DOMAIN_READS_TIME: Duration = Duration::from_secs(120);

pub struct Namecom {
    http: HttpClient,
    username: String,
    token: Secret,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
}

impl Namecom {
    /// # Errors
    /// [`ConnectError::Setting`] if the name contains the separator of name and token.
    pub fn new(http: HttpClient, username: String, token: Secret, clock: Arc<dyn Clock>) -> Result<Self, ConnectError> {
        if username.contains(':') {
            return Err(ConnectError::Setting { setting: "username", problem: "must contain no \":\" (HTTP Basic)" });
        }
        let redactor = Redactor::of(&username, token.clone());
        Ok(Self { http, username, token, redactor, clock })
    }

    /// The header for the current token.
    fn authorization(&self) -> Result<HeaderValue, &'static str> {
        self.authorization_with(&self.token.current())
    }

    fn authorization_with(&self, token: &SecretString) -> Result<HeaderValue, &'static str> {
        let basic = STANDARD.encode(format!("{}:{}", self.username, token.expose_secret()));
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {basic}")).map_err(|_| "the token is not a valid header value")?;
        authorization.set_sensitive(true);
        Ok(authorization)
    }

    async fn send_refund(&self, id: &RefundId, target: &NamecomTarget, credential: Option<&str>) -> HttpOutcome {
        let Ok(key) = HeaderValue::from_str(id.as_str()) else {
            // A refund id is letters, digits and "-". Without its key the request must not leave.
            return HttpOutcome::NotSent { evidence: "the refund's id is not a valid header value".to_owned() };
        };
        // Compares and sends the same token: it may be replaced at any time.
        let token = self.token.current();
        if credential.is_some_and(|recorded| recorded != digest_of(&token, id)) {
            return HttpOutcome::NotSent { evidence: "the token changed after the attempt was recorded".to_owned() };
        }
        let authorization = match self.authorization_with(&token) {
            Ok(authorization) => authorization,
            Err(why) => return HttpOutcome::NotSent { evidence: why.to_owned() },
        };
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, authorization),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (wire::IDEMPOTENCY_KEY, key),
        ]);
        let body = Bytes::from(wire::refund_body(target));
        self.http.send_once(HttpRequest { method: Method::POST, path: REFUND_PATH.to_owned(), headers, body }).await
    }

    async fn get_order(&self, order_id: i32) -> HttpOutcome {
        // An order may have hundreds of items.
        self.get(format!("{ORDERS_PATH}/{order_id}"), MAX_STATUS_REPLY_BYTES).await
    }

    /// Reads the domains of an order. Stops at the first one without an answer.
    async fn domains_of(&self, order: &UnrefundedOrder, limiter: &dyn RequestLimiter) -> Vec<(String, DomainState)> {
        let deadline = Instant::now() + MAX_DOMAIN_READS_TIME;
        let mut known: Vec<(String, DomainState)> = Vec::new();
        let names = order.registrations.iter().map(|registration| &registration.domain);
        for name in names.filter(|name| domains::is_name(name)) {
            if known.iter().any(|(read, _)| read.eq_ignore_ascii_case(name)) {
                continue;
            }
            let read = async {
                limiter.acquire().await;
                self.get(format!("{DOMAINS_PATH}/{name}"), MAX_REFUND_REPLY_BYTES).await
            };
            let domain = match timeout_at(deadline, read).await {
                Ok(HttpOutcome::Answered(answer)) => domains::read_domain(&answer, name, &self.redactor),
                Ok(HttpOutcome::NotSent { evidence } | HttpOutcome::Unknown { evidence, .. }) => {
                    DomainState::Unanswered(evidence)
                }
                Err(_) => DomainState::Unanswered("no permit within the time limit".to_owned()),
            };
            let is_unanswered = matches!(domain, DomainState::Unanswered(_));
            known.push((name.clone(), domain));
            if is_unanswered {
                break;
            }
        }
        known
    }

    async fn get(&self, path: String, max_bytes: usize) -> HttpOutcome {
        let headers = match self.authorization() {
            Ok(authorization) => HeaderMap::from_iter([(AUTHORIZATION, authorization)]),
            Err(why) => return HttpOutcome::NotSent { evidence: why.to_owned() },
        };
        self.http.read(HttpRequest { method: Method::GET, path, headers, body: Bytes::new() }, max_bytes).await
    }
}

#[async_trait]
impl RefundProvider for Namecom {
    async fn refund(&self, intent: &Intent, credential: Option<&str>) -> AttemptReport {
        let Target::Namecom(target) = &intent.target else {
            return not_sent("this is a name.com account, and the target is not one of name.com").into();
        };
        let outcome = self.send_refund(&intent.id, target, credential).await;
        let now = self.clock.now();
        outcome.into_outcome(|answer| wire::read_refund(answer, intent.id.as_str(), target, now, &self.redactor)).into()
    }

    fn credential(&self, refund: &RefundId) -> Option<String> {
        Some(digest_of(&self.token.current(), refund))
    }

    async fn lookup(&self, refund: &Refund, limiter: &dyn RequestLimiter) -> Lookup {
        let Target::Namecom(target) = &refund.intent.target else {
            return Lookup::unavailable("this is a name.com account, and the target is not one of name.com");
        };
        let answer = match self.get_order(target.order_id()).await {
            HttpOutcome::Answered(answer) => answer,
            HttpOutcome::NotSent { evidence } | HttpOutcome::Unknown { evidence, .. } => {
                return Lookup::unavailable(evidence);
            }
        };
        match order::read_order(&answer, target, &refund.items, &self.redactor) {
            OrderReading::Conclusive(lookup) => lookup,
            OrderReading::Unrefunded(order) => {
                let known = self.domains_of(&order, limiter).await;
                domains::conclude(order, &known, &self.redactor)
            }
        }
    }

    async fn probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        self.run_probe(limiter).await
    }
}

/// A digest of the refund's id, keyed by the token, so that equal tokens do not show as equal in
/// the ledger.
fn digest_of(token: &SecretString, refund: &RefundId) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.expose_secret().as_bytes());
    let tag = hmac::sign(&key, refund.as_str().as_bytes());
    tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::domain::outcome::{DoubtReason, Outcome};
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures::{self, Unpaced, outcome_summary};

    fn target() -> Target {
        Target::Namecom(NamecomTarget::new(123_456, &[987_655, 987_654]).unwrap())
    }

    fn login() -> ProviderSettings {
        ProviderSettings::Namecom {
            username: "demo-test".to_owned(),
            token: SecretString::from("demo-token"),
            key_lifetime: std::time::Duration::from_secs(3_000),
        }
    }

    #[tokio::test]
    async fn every_refund_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")).await;
        let account = fixtures::account(&server, login());
        for _ in 0..2 {
            let outcome = account.refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
            assert_eq!(outcome_summary(&outcome), "unknown provider_server_error");
        }
        let request = format!(
            "POST /core/v1/refund HTTP/1.1\r\nauthorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n\
             content-type: application/json\r\nx-idempotency-key: r-1\r\naccept: */*\r\nuser-agent: recoup/{}\r\n\
             host: {}\r\ncontent-length: 49\r\n\r\n{{\"orderId\":123456,\"orderItemIds\":[987654,987655]}}",
            env!("CARGO_PKG_VERSION"),
            server.endpoint().trim_start_matches("http://"),
        );
        assert_eq!(server.requests(), [request.clone(), request]);
        assert_eq!(server.connections(), 2, "each on a fresh connection");
    }

    /// A key is valid only with the token that it was first sent with.
    #[tokio::test]
    async fn an_attempt_recorded_with_another_token_is_not_sent() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")).await;
        let account = fixtures::account(&server, login());
        let intent = fixtures::intent("r-1", target());
        let recorded = account.refunds.credential(&intent.id).unwrap();
        let refund = || account.refunds.refund(&intent, Some(&recorded));
        assert_eq!(outcome_summary(&refund().await.outcome), "unknown provider_server_error");
        account.secret.replace("another-token".into());
        assert_eq!(outcome_summary(&refund().await.outcome), "not_sent  other");
        assert_eq!(server.requests().len(), 1);
        assert_ne!(account.refunds.credential(&intent.id), Some(recorded));
    }

    #[tokio::test]
    async fn the_lookup_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")).await;
        let lookup =
            fixtures::account(&server, login()).refunds.lookup(&fixtures::refund("r-1", target()), &Unpaced).await;
        assert_eq!(lookup, Lookup::unavailable("HTTP 404 without the order"));
        let request = server.requests().remove(0);
        let head = "GET /core/v1/orders/123456 HTTP/1.1\r\nauthorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n";
        assert!(request.starts_with(head), "{request}");
    }

    /// Counts the permits.
    #[derive(Default)]
    struct CountingLimiter(std::sync::atomic::AtomicUsize);

    #[async_trait]
    impl RequestLimiter for CountingLimiter {
        async fn acquire(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    const ORDER: &str = r#"{"id":123456,"createDate":"2026-03-04T05:06:40Z","orderItems":[
        {"id":987654,"name":"Example.com","type":"registration","status":"success","isRefundable":true},
        {"id":987655,"name":"example.net","type":"registration","status":"success","isRefundable":true}]}"#;
    const COM: &str = r#"{"domainName":"example.com","createDate":"2026-03-04T05:06:40Z"}"#;
    const NET: &str = r#"{"domainName":"example.net","createDate":"2026-03-04T05:06:40Z"}"#;
    const NO_DOMAIN: &str = r#"{"message":"Not Found","details":"Domain example.net does not exist."}"#;

    /// A response for a script, leaked because scripts need `'static`.
    fn http(status: u16, body: &str) -> &'static str {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak()
    }

    #[tokio::test]
    async fn a_lookup_reads_each_domain_with_a_permit_of_its_own() {
        use crate::domain::outcome::Absence;

        for (com, net, expected, domain_reads) in [
            (http(200, COM), http(200, NET), Absence::Untouched, 2),
            (http(200, COM), http(404, NO_DOMAIN), Absence::HalfDone, 2),
            (http(404, NO_DOMAIN), http(200, NET), Absence::HalfDone, 2),
            (http(429, "{}"), http(200, NET), Absence::Unproven, 1),
            ("", http(200, NET), Absence::Unproven, 1),
        ] {
            let answers = vec![
                ("GET /core/v1/orders/123456 ", http(200, ORDER)),
                ("GET /core/v1/domains/Example.com ", com),
                ("GET /core/v1/domains/example.net ", net),
            ];
            let server = ScriptedServer::start(Script::ByPath(answers.leak())).await;
            let limiter = CountingLimiter::default();
            let lookup =
                fixtures::account(&server, login()).refunds.lookup(&fixtures::refund("r-1", target()), &limiter).await;
            let Lookup::NotFound { absence, items, .. } = lookup else { panic!("{lookup:?}") };
            assert_eq!((absence, items.len()), (expected, 2));
            assert_eq!(limiter.0.into_inner(), domain_reads, "the caller acquired the permit of the order");
            assert_eq!(server.requests().len(), 1 + domain_reads);
            let authorized =
                |request: &String| request.contains("authorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n");
            assert!(server.requests().iter().all(authorized));
        }
    }

    /// A permit that never comes ends the lookup without a proof, instead of blocking it for ever.
    #[tokio::test(start_paused = true)]
    async fn a_lookup_waits_a_limited_time_for_permits() {
        struct Never;

        #[async_trait]
        impl RequestLimiter for Never {
            async fn acquire(&self) {
                std::future::pending().await
            }
        }

        let order = UnrefundedOrder {
            evidence: String::new(),
            items: Vec::new(),
            created: None,
            registrations: vec![order::Registration { item: 1, domain: "example.com".to_owned(), is_refundable: true }],
            may_be_untouched: true,
        };
        let url = "http://127.0.0.1:9/".parse().unwrap();
        let http = HttpClient::with_transport(std::sync::Arc::new(NoTransport), &url).unwrap();
        let clock = Arc::new(crate::domain::clock::ManualClock::new(fixtures::NOW));
        let namecom = Namecom::new(http, "demo".to_owned(), Secret::new(SecretString::from("x")), clock).unwrap();
        let start = Instant::now();
        let known = namecom.domains_of(&order, &Never).await;
        assert_eq!(start.elapsed(), MAX_DOMAIN_READS_TIME);
        assert!(matches!(known.as_slice(), [(_, DomainState::Unanswered(_))]), "{known:?}");
    }

    struct NoTransport;

    #[async_trait]
    impl crate::http::client::Transport for NoTransport {
        async fn exchange(
            &self,
            _: crate::providers::Url,
            _: HttpRequest,
            _: crate::http::client::RequestKind,
            _: usize,
        ) -> HttpOutcome {
            unreachable!("no permit was given")
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let server = ScriptedServer::start(Script::Send(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /core/v1/refund\r\nContent-Length: 0\r\n\r\n",
        ))
        .await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert_eq!(outcome_summary(&outcome), "unknown unreadable_reply");
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_truncated_body_is_doubt() {
        let server =
            ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"results\":[")).await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert!(matches!(&outcome, Outcome::Unknown { reason: DoubtReason::ConnectionLost, .. }), "{outcome:?}");
    }
}
