//! name.com: items of one order are refunded by Process Refund, which deletes the domain first; Get Order shows what became of them.
//!
//! The idempotency key is the refund's own id and the body depends on the target alone, so every send of one refund is the same request:
//! within the key's life the provider repeats its first answer and does nothing more.
//!
//! Specification v1.27.1 and v1.33.2; HTTP Basic with the account's name and token.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};

use crate::domain::clock::Clock;
use crate::domain::ids::RefundId;
use crate::domain::outcome::{Lookup, Outcome};
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{NamecomTarget, Target};
use crate::providers::Provider;
use crate::providers::http::{Call, ConnectError, Exchange, HttpClient, STATUS_REPLY_BYTES, never_left};
use crate::providers::mask::Mask;

mod listing;
mod order;
mod rows;
pub mod wire;

const REFUND_PATH: &str = "/core/v1/refund";
const ORDERS_PATH: &str = "/core/v1/orders";

/// One name.com account.
pub struct Namecom {
    http: HttpClient,
    authorization: HeaderValue,
    mask: Mask,
    clock: Arc<dyn Clock>,
}

impl Namecom {
    /// An account named `username`.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] where the name could not be told from the token.
    pub fn new(
        http: HttpClient,
        username: &str,
        token: &SecretString,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        if username.contains(':') {
            return Err(ConnectError::Setting { setting: "username", fault: "must hold no \":\" (HTTP Basic)" });
        }
        let basic = STANDARD.encode(format!("{username}:{}", token.expose_secret()));
        let mut authorization = HeaderValue::from_str(&format!("Basic {basic}"))
            .map_err(|_| ConnectError::Setting { setting: "token", fault: "does not fit into a header" })?;
        authorization.set_sensitive(true);
        Ok(Self { http, authorization, mask: Mask::new(username, token), clock })
    }

    async fn send_refund(&self, id: &RefundId, target: &NamecomTarget) -> Exchange {
        let Ok(key) = HeaderValue::from_str(id.as_str()) else {
            // A refund id is letters, digits and "-"; without its key the request must not leave.
            return Exchange::NotSent { why: "the refund's id does not fit into a header".to_owned() };
        };
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, self.authorization.clone()),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (wire::IDEMPOTENCY_KEY, key),
        ]);
        let body = Bytes::from(wire::refund_body(target));
        self.http.send_once(Call { method: Method::POST, path: REFUND_PATH.to_owned(), headers, body }).await
    }

    async fn get_order(&self, order_id: i32) -> Exchange {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization.clone())]);
        let path = format!("{ORDERS_PATH}/{order_id}");
        // An order may have hundreds of items.
        self.http.read(Call { method: Method::GET, path, headers, body: Bytes::new() }, STATUS_REPLY_BYTES).await
    }
}

#[async_trait]
impl Provider for Namecom {
    async fn refund(&self, intent: &Intent) -> Outcome {
        let Target::Namecom(target) = &intent.target else {
            return never_left("the account is one at name.com, and the target is not");
        };
        let exchange = self.send_refund(&intent.id, target).await;
        let now = self.clock.now();
        exchange.into_outcome(|answer| wire::read_refund(answer, intent.id.as_str(), target, now, &self.mask))
    }

    async fn lookup(&self, refund: &Refund) -> Lookup {
        let Target::Namecom(target) = &refund.intent.target else {
            return Lookup::unavailable("the account is one at name.com, and the target is not");
        };
        let exchange = self.get_order(target.order_id()).await;
        exchange.into_lookup(|answer| order::read_order(answer, target, &refund.items, &self.mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::DoubtReason;
    use crate::providers::Login;
    use crate::providers::peer::{Peer, Script};
    use crate::providers::samples::{self, outcome_word};

    fn target() -> Target {
        Target::Namecom(NamecomTarget::new(123_456, &[987_655, 987_654]).unwrap())
    }

    fn login() -> Login {
        Login::Namecom {
            username: "demo-test".to_owned(),
            token: SecretString::from("demo-token"),
            key_lifetime: std::time::Duration::from_secs(3_000),
        }
    }

    #[tokio::test]
    async fn the_refund_request_is_these_bytes_every_time() {
        let peer = Peer::start(Script::Say("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")).await;
        let account = samples::account(&peer, login());
        for _ in 0..2 {
            let outcome = account.adapter.refund(&samples::intent("r-1", target())).await;
            assert_eq!(outcome_word(&outcome), "unknown provider_server_error");
        }
        let request = format!(
            "POST /core/v1/refund HTTP/1.1\r\nauthorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n\
             content-type: application/json\r\nx-idempotency-key: r-1\r\naccept: */*\r\nuser-agent: recoup/{}\r\n\
             host: {}\r\ncontent-length: 49\r\n\r\n{{\"orderId\":123456,\"orderItemIds\":[987654,987655]}}",
            env!("CARGO_PKG_VERSION"),
            peer.endpoint().trim_start_matches("http://"),
        );
        assert_eq!(peer.requests(), [request.clone(), request]);
        assert_eq!(peer.connections(), 2, "each on a connection of its own");
    }

    #[tokio::test]
    async fn the_lookup_request_is_these_bytes() {
        let peer = Peer::start(Script::Say("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")).await;
        let lookup = samples::account(&peer, login()).adapter.lookup(&samples::refund("r-1", target())).await;
        assert_eq!(lookup, Lookup::unavailable("HTTP 404 and not the order"));
        let request = peer.requests().remove(0);
        let head = "GET /core/v1/orders/123456 HTTP/1.1\r\nauthorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n";
        assert!(request.starts_with(head), "{request}");
    }

    #[tokio::test]
    async fn a_redirect_takes_no_credentials_elsewhere() {
        let peer = Peer::start(Script::Say(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /core/v1/refund\r\nContent-Length: 0\r\n\r\n",
        ))
        .await;
        let outcome = samples::account(&peer, login()).adapter.refund(&samples::intent("r-1", target())).await;
        assert_eq!(outcome_word(&outcome), "unknown unreadable_reply");
        assert_eq!(peer.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_body_cut_off_is_doubt() {
        let peer = Peer::start(Script::Say("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"results\":[")).await;
        let outcome = samples::account(&peer, login()).adapter.refund(&samples::intent("r-1", target())).await;
        assert!(matches!(&outcome, Outcome::Unknown { reason: DoubtReason::ConnectionLost, .. }), "{outcome:?}");
    }
}
