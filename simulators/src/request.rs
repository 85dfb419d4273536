//! The request and response types between the sockets and an emulated provider.
//!
//! ```text
//! socket -> Request -> inspect (reads only)                      -> fault point: before the effect
//!                   -> handle  (may change state, lists effects) -> fault point: after the effect
//!        <- Response
//! ```
//!
//! A provider consists of plain functions over these types and its own state. It does no I/O, reads
//! no clock and knows no fault: so a fault can fall exactly between an effect and its answer.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::parameters::Parameters;

/// An emulated provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Certificates: `!AutoRefund`, `!getPostPaymentStatus`.
    Sectigo,
    /// Domains: `/core/v1/refund`, `/core/v1/orders`, `/core/v1/domains`.
    Namecom,
    /// Direct debit: `InitiateRefund`, `GetRefundStatus`.
    Debitsuccess,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Provider; 3] = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];
}

/// One whole HTTP request. It holds credentials: its `Debug` shows neither headers, query nor body.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The HTTP method.
    #[serde(with = "json_parts::method")]
    pub method: Method,
    /// The path without the query, percent-encoding as sent.
    pub path: String,
    /// The query as sent, without `?`.
    pub query: Option<String>,
    /// All headers, as sent.
    #[serde(with = "json_parts::headers")]
    pub headers: HeaderMap,
    /// The whole body.
    #[serde(with = "json_parts::bytes")]
    pub body: Bytes,
    /// Whether it came over TLS.
    pub tls: bool,
}

/// What a request says about itself before it is handled: for fault rules, the journal and the
/// choice of the world.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RequestInfo {
    /// The provider's own name for the call: `!AutoRefund`, `ProcessRefund`, `InitiateRefund`.
    /// Empty if the request is none of its calls.
    pub operation: String,
    /// The target of the call: a Sectigo order number, a name.com order id, a Debitsuccess account
    /// reference as sent.
    pub target: Option<String>,
    /// The account name in the request, read from where the provider expects it.
    pub username: Option<String>,
    /// The idempotency key or refund identifier that the caller chose.
    pub identifier: Option<String>,
    /// The parsed parameters in the order sent, for the journal. Secrets are masked.
    pub parameters: Parameters,
    /// Whether a successful call of this kind moves money.
    pub moves_money: bool,
    /// Whether no refund client should ever make this call.
    pub destructive: bool,
}

/// The result of handling a request.
#[derive(Debug, Clone)]
pub struct Handled {
    /// The response.
    pub response: Response,
    /// What really happened, in order. Empty for a read, a refusal or a replay.
    pub effects: Vec<Effect>,
}

/// One HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// Headers besides `content-length`, `date` and `connection`, which the server writes.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Whether a provider refuses a second refund of the same thing. With `off` the second refund is
/// carried out and recorded in the books, so that the audit finds a client's mistake that the
/// provider would otherwise hide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Deduplication {
    /// A second refund is refused, as by the real provider.
    #[default]
    On,
    /// A second refund is carried out.
    Off,
}

/// One thing that really happened at the provider: an entry of the books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// What happened: `refund`, `order_rejected`, `refund_rejected`, `domain_deleted`.
    pub kind: String,
    /// What it happened to: a Sectigo order number, a name.com order item id, a Debitsuccess
    /// account reference.
    pub target: String,
    /// The amount moved, in hundredths of the currency; none if the provider does not say.
    pub amount_minor: Option<i64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// The idempotency key or refund identifier of the request.
    pub identifier: Option<String>,
    /// The provider's own number for the refund (RefundRequestNumber).
    pub reference: Option<String>,
    /// The account: a Sectigo login, a name.com username, a Debitsuccess account reference.
    #[serde(default)]
    pub account: Option<String>,
    /// The provider's fee, in hundredths of the currency; none if it charges nothing.
    #[serde(default)]
    pub fee_minor: Option<i64>,
    /// Where the money went, at name.com; none at the other providers.
    #[serde(default)]
    pub paid_to: Option<PaidTo>,
}

/// Where the money of a name.com refund goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum PaidTo {
    /// Back to the payment method of the order.
    #[default]
    PaymentMethod,
    /// To the credit balance of the account.
    AccountBalance,
}

/// The JSON form of the parts of a request.
mod json_parts {
    /// The method as text.
    pub(super) mod method {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub(in super::super) fn serialize<S: Serializer>(method: &http::Method, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(method.as_str())
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<http::Method, D::Error> {
            String::deserialize(from)?.parse().map_err(D::Error::custom)
        }
    }

    /// Headers as pairs of name and Base64 value, in order.
    pub(super) mod headers {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        use http::{HeaderMap, HeaderName, HeaderValue};
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub(in super::super) fn serialize<S: Serializer>(headers: &HeaderMap, to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(
                headers.iter().map(|(name, value)| (name.as_str(), BASE64_STANDARD.encode(value.as_bytes()))),
            )
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
            let mut headers = HeaderMap::new();
            for (name, value) in Vec::<(String, String)>::deserialize(from)? {
                let value = BASE64_STANDARD.decode(value).map_err(D::Error::custom)?;
                let value = HeaderValue::from_bytes(&value).map_err(D::Error::custom)?;
                headers.append(name.parse::<HeaderName>().map_err(D::Error::custom)?, value);
            }
            Ok(headers)
        }
    }

    /// Bytes in Base64.
    pub(super) mod bytes {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub(in super::super) fn serialize<S: Serializer>(bytes: &bytes::Bytes, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(&BASE64_STANDARD.encode(bytes))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<bytes::Bytes, D::Error> {
            BASE64_STANDARD.decode(String::deserialize(from)?).map(Into::into).map_err(D::Error::custom)
        }
    }
}

impl Request {
    /// A request without a query, for clients in the same process.
    pub fn new(method: Method, path: impl Into<String>, headers: HeaderMap, body: Bytes, tls: bool) -> Self {
        Self { method, path: path.into(), query: None, headers, body, tls }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("tls", &self.tls)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
