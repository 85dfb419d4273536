//! One request and its answer, between the socket and an emulated provider.
//!
//! ```text
//! socket -> Request -> identify (reads only)  -> fault point: before the effect
//!                   -> perform  (may change state, lists its effects) -> fault point: after the effect -> Answer -> socket
//! ```
//!
//! A provider is two plain functions over these types and its own state. It does no I/O, reads no
//! clock and knows no fault: that is what lets a fault fall exactly between an effect and its
//! answer.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{providers::debitsuccess::Envelope, providers::namecom::Json, record::parameters::Parameters};

/// Which emulated provider a request came to.
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
    pub(crate) const ALL: [Provider; 3] = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];
}

/// One HTTP request, read whole. It holds credentials: its `Debug` shows neither headers, query nor
/// body.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The HTTP method.
    #[serde(with = "written::method")]
    pub method: Method,
    /// The path without the query, percent-encoding as sent.
    pub path: String,
    /// What stood after `?`, as sent.
    pub query: Option<String>,
    /// All headers.
    #[serde(with = "written::headers")]
    pub headers: HeaderMap,
    /// The whole body.
    #[serde(with = "written::bytes")]
    pub body: Bytes,
    /// Whether it came over TLS.
    pub tls: bool,
    /// What Debitsuccess makes of the body, read when it is first asked for: once to see whose it
    /// is and to answer it.
    #[serde(skip)]
    pub(crate) envelope: Envelope,
    /// What name.com makes of it, likewise.
    #[serde(skip)]
    pub(crate) json: Json,
}

/// What can be told of a request before anything is done: for faults, the journal and the choice of
/// the world.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Identified {
    /// The provider's own name for the call: `!AutoRefund`, `ProcessRefund`, `InitiateRefund`.
    /// Empty where there is none.
    pub operation: String,
    /// What the call is about: a Sectigo order number, a name.com order id, a Debitsuccess account
    /// reference as sent.
    pub target: Option<String>,
    /// The account name in the request, in whatever place the provider takes it from.
    pub username: Option<String>,
    /// The idempotency key or refund identifier that the caller chose.
    pub identifier: Option<String>,
    /// The parsed parameters in their order, for the journal: every secret already masked.
    pub parameters: Parameters,
    /// Whether an answered call would move money.
    pub moves_money: bool,
    /// Whether this is a trap: a call that no refund client should ever make.
    pub destructive: bool,
}

/// What a provider answered, and what it did to get there.
#[derive(Debug, Clone)]
pub struct Performed {
    /// The answer, whole.
    pub answer: Answer,
    /// What really happened, in order. Empty for a read, a refusal or a replay.
    pub effects: Vec<Effect>,
}

/// One HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// Headers besides `content-length`, `date` and `connection`, which the server writes.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Whether a provider refuses to do once more what it has done already. Off, its kindness hides no
/// mistake of a client: a second refund is carried out, stands in the books, and is found by the
/// audit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Deduplication {
    /// As the real one does.
    #[default]
    On,
    /// It does it again.
    Off,
}

/// One thing that really happened at the provider: a line of its books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// What happened: `refund`, `order_rejected`, `refund_rejected`, `domain_deleted`.
    pub kind: String,
    /// What it happened to, as finely as money is counted: a Sectigo order number, a name.com order
    /// item id, the Debitsuccess account reference.
    pub target: String,
    /// How much money moved, in hundredths of the currency; none where the provider does not say.
    pub amount_minor: Option<i64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// The idempotency key or refund identifier that it was done under.
    pub identifier: Option<String>,
    /// The provider's own number for it (RefundRequestNumber).
    pub reference: Option<String>,
    /// Whose it was: a Sectigo login, a name.com username, a Debitsuccess account reference.
    #[serde(default)]
    pub account: Option<String>,
    /// What the provider charged for doing it, in hundredths of the currency; none where it charges
    /// nothing.
    #[serde(default)]
    pub fee_minor: Option<i64>,
    /// Where the money went, at name.com; none at the others, which say nothing of it.
    #[serde(default)]
    pub paid_to: Option<PaidTo>,
}

/// Where the money of a name.com refund goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum PaidTo {
    /// Back to what the order was paid with.
    #[default]
    PaymentMethod,
    /// Onto the credit balance of the account.
    AccountBalance,
}

impl PaidTo {
    pub(crate) const ALL: [PaidTo; 2] = [PaidTo::PaymentMethod, PaidTo::AccountBalance];
}

/// How the parts of a request are written in JSON.
mod written {
    /// As its word.
    pub(super) mod method {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub(in super::super) fn serialize<S: Serializer>(method: &http::Method, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(method.as_str())
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<http::Method, D::Error> {
            String::deserialize(from)?.parse().map_err(D::Error::custom)
        }
    }

    /// As pairs of name and Base64, in their order.
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

    /// In Base64.
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
    /// A request without a query, as a client in the same process makes it.
    pub fn new(method: Method, path: impl Into<String>, headers: HeaderMap, body: Bytes, tls: bool) -> Self {
        Self {
            method,
            path: path.into(),
            query: None,
            headers,
            body,
            tls,
            envelope: Envelope::default(),
            json: Json::default(),
        }
    }

    /// Has it say something else: what was made of the old body is forgotten with it.
    pub(crate) fn replace_body(&mut self, body: Bytes) {
        self.body = body;
        self.envelope = Envelope::default();
        self.json = Json::default();
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
