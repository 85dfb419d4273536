//! Settings for what name.com's documentation leaves open.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    providers::setting_values,
    request::{Deduplication, PaidTo},
};

/// The choices and numbers of name.com's documentation.
///
/// Each setting is marked: *documented* (and where), *observed* (in a public client's source or a
/// public report), *inferred* (from documents), *unknown* (a guess that a client must not rely on).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamecomSettings")]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long an idempotency key is remembered, in seconds. Default 3600. *Documented*: 1 hour in
    /// v1.33.2; 12 hours (43200) in v1.27.1 and the older page.
    pub key_life_seconds: u64,
    /// What makes two requests under one key "different". Default `parsed_json`. *Unknown*.
    pub key_comparison: KeyComparison,
    /// Which answers are remembered under a key. Default `success`. *Unknown*: the replay header is
    /// documented on 200 only.
    pub cached_answers: CachedAnswers,
    /// Length of the Add Grace Period in days. Default 5. *Documented*: "typically 5 days".
    pub agp_days: u32,
    /// Length of the Add Grace Period for single TLDs (without a dot, lower case), instead of
    /// `agp_days`. Default none. *Documented* that it varies by TLD; the numbers are *unknown*.
    pub agp_days_by_tld: BTreeMap<String, u32>,
    /// Authenticated requests per account within one second of the clock; 0 for no limit. Default
    /// 20. *Documented*; that the window is the second of the clock is *inferred* from
    /// `x-ratelimit-reset` being in whole seconds.
    pub requests_per_second: u32,
    /// Whether a privacy item that is refunded with its registration has a row of its own in
    /// `results`. Default true. *Inferred*: that it is refunded is documented, the row is not.
    pub cascade_rows: bool,
    /// Whether an order's `finalAmount` is a JSON string (`"12.99"`). Default false. *Documented*:
    /// a number in Core v1, a string in the legacy v4 pages.
    pub final_amount_as_text: bool,
    /// How the `Link` header of List Orders is written. Default `as_documented`. *Documented* by
    /// one example, which is not the form of RFC 8288.
    pub link_header: LinkHeader,
    /// Whether an item that was refunded, or whose refund is pending, is refused a second refund.
    /// Default on. *Documented*; off helps to find mistakes. A key that is remembered is replayed
    /// either way.
    pub deduplication: Deduplication,
    /// Whether `X-Idempotency-Key` is honoured at all. Default true. *Documented*; without it every
    /// request is a new one.
    pub idempotency_keys: bool,
    /// What happens to a second request under a key while the first one is in progress. Default
    /// `hold`. *Unknown*.
    pub key_in_flight: KeyInFlight,
    /// Authenticated requests per account within one hour of the clock; 0 is no limit. Default
    /// 3000. *Documented* in the changelog of 2026; that the window is the hour of the clock is
    /// *inferred*.
    pub requests_per_hour: u32,
    /// How the body of a refusal without details is written. Default `left_out`. *Unknown*:
    /// documented as string or null.
    pub no_details: NoDetails,
    /// Members of a request's body that its schema does not name. Default `ignored`. *Inferred*:
    /// the schema does not forbid them.
    pub unknown_members: UnknownMembers,
    /// Whether path and method are checked before the credentials, or after them. Default
    /// `path`. *Inferred*.
    pub first_check: FirstCheck,
    /// What happens to a request if one of its items cannot be refunded. Default `refuse_request`.
    /// *Inferred* from the error table.
    pub obstacles: Obstacles,
    /// Whether the tax is refunded with the price. Default true. *Inferred*.
    pub tax_refunded: bool,
    /// The `details` of 429; none for a sentence with the limit. Default none. *Inferred*:
    /// documented to be there, without a text.
    #[serde(deserialize_with = "setting_values::maybe_sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub rate_limit_details: Option<String>,
    /// The `details` of 400 for a body or a query that violates the schema; none for a sentence
    /// per case. Default none. *Inferred*, but for the documented one about an empty
    /// `orderItemIds`.
    #[serde(deserialize_with = "setting_values::maybe_sentence")]
    #[schemars(length(min = 1, max = 500))]
    pub malformed_details: Option<String>,
    /// Whether 429 has a `Retry-After`, too. Default false. *Unknown*: `x-ratelimit-reset` is
    /// documented.
    pub retry_after: bool,
    /// An `X-Idempotency-Key` without a value. Default `no_key`. *Unknown*.
    pub empty_key: EmptyKey,
    /// An item that is requested twice in one request. Default `second_fails`. *Observed*.
    pub repeated_item: RepeatedItem,
    /// A `perPage` of List Orders above 1000. Default `cut`. *Inferred*: 1000 is the documented
    /// default.
    pub too_large_page: TooLargePage,
    /// An invalid parameter of List Orders. Default `refused`. *Inferred*.
    pub unreadable_query: UnreadableQuery,
    /// The HTTP status if all items of a request were refused. Default `409`: the rows, and no
    /// `message`. *Observed*.
    pub all_items_refused: AllItemsRefused,
    /// The answer to a refund that deleted the domain and then stopped. Default `502`.
    /// *Inferred*: 500, 502 and 504 are documented without what they leave behind.
    pub half_way_answer: HalfWayAnswer,
    /// Where the money goes if the item does not say so. Default `payment_method`. *Documented*: to
    /// the original payment method, or else to the account's credit.
    pub refund_to: PaidTo,
    /// The answer of Get Domain for a deleted domain. Default `404`. *Inferred*.
    pub deleted_domain: DeletedDomain,
    /// Whether the day or second of `createDateEnd` is included. Default
    /// `exclusive`. *Observed*.
    pub create_date_end: CreateDateEnd,
    /// An unknown `orderStatus` of List Orders. Default `ignored`. *Observed*.
    pub unknown_order_status: UnknownOrderStatus,
    /// The number of orders on a page of List Orders without `perPage`: 1 to 1000. Default
    /// 500. *Observed* since June 2026; 1000 is documented.
    #[serde(deserialize_with = "setting_values::page_size")]
    #[schemars(range(min = 1, max = 1000))]
    pub orders_per_page: u32,
    /// How far the times of orders lag behind UTC, although marked Z, in minutes: 0 to 840. Default
    /// 0. *Observed* without a number.
    #[serde(deserialize_with = "setting_values::lag_minutes")]
    #[schemars(range(max = 840))]
    pub order_times_behind_minutes: u16,
    /// Whether Get Order wraps the order in an object `order`. Default false. *Documented*: the
    /// changelog of Core 1.15.2 takes it back.
    pub wrapped_order: bool,
    /// Whether 429 has a `message`. Default true. *Documented* as optional since Core 1.3.0;
    /// without it the details are empty (*observed*).
    pub rate_limit_message: bool,
}

/// The HTTP status if all items of a request were refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AllItemsRefused {
    /// 409, with the rows and without a `message`.
    #[default]
    #[serde(rename = "409")]
    Conflict,
    /// 200.
    #[serde(rename = "200")]
    Ok,
}

/// The answer to a refund that deleted the domain and then stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum HalfWayAnswer {
    /// 500 `Internal Server Error`.
    #[serde(rename = "500")]
    Broken,
    /// 502 `Registry Connection Unavailable`.
    #[default]
    #[serde(rename = "502")]
    Unreachable,
    /// 504 `The upstream server is taking too long to respond.`
    #[serde(rename = "504")]
    Slow,
    /// The item's row is `failed`.
    #[serde(rename = "failed")]
    Failed,
}

/// The answer of Get Domain for a deleted domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DeletedDomain {
    /// 404.
    #[default]
    #[serde(rename = "404")]
    NotFound,
    /// The domain as it was.
    #[serde(rename = "shown")]
    Shown,
}

/// Whether the day or second of `createDateEnd` is included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum CreateDateEnd {
    /// No: the list ends at the midnight at which the day begins.
    #[default]
    Exclusive,
    /// Yes.
    Inclusive,
}

/// An unknown `orderStatus` of List Orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum UnknownOrderStatus {
    /// It is ignored.
    #[default]
    Ignored,
    /// 400.
    Refused,
}

/// An `X-Idempotency-Key` without a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum EmptyKey {
    /// It is no key.
    #[default]
    NoKey,
    /// It is a key.
    Key,
}

/// An item that is requested twice in one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum RepeatedItem {
    /// The first one is refunded, and the second one's row is `failed`.
    #[default]
    SecondFails,
    /// 400.
    Refused,
    /// It is refunded once, and has one row.
    Once,
}

/// A `perPage` of List Orders above 1000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum TooLargePage {
    /// 1000 are used.
    #[default]
    Cut,
    /// 400.
    Refused,
}

/// An invalid parameter of List Orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum UnreadableQuery {
    /// 400.
    #[default]
    Refused,
    /// It is ignored.
    Ignored,
}

/// Members of a request's body that its schema does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum UnknownMembers {
    /// They are ignored.
    #[default]
    Ignored,
    /// 400.
    Refused,
}

/// What is checked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum FirstCheck {
    /// 404 and 405 before 401.
    #[default]
    Path,
    /// 401 (and 429, 503) before 404 and 405.
    Credentials,
}

/// What happens to a request if one of its items cannot be refunded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Obstacles {
    /// It is refused as a whole, with the gravest reason.
    #[default]
    RefuseRequest,
    /// 200: that item is `failed` with the sentence as its message; the others are refunded.
    FailItems,
}

/// What happens to a second request under a key while the first one is in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum KeyInFlight {
    /// It waits for the first one's answer.
    #[default]
    Hold,
    /// 409 `Conflict`.
    Refuse,
}

/// How the body of a refusal without details is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum NoDetails {
    /// Without the property.
    #[default]
    LeftOut,
    /// With `"details": null`.
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_life_seconds: 3600,
            key_comparison: KeyComparison::default(),
            cached_answers: CachedAnswers::default(),
            agp_days: 5,
            agp_days_by_tld: BTreeMap::new(),
            requests_per_second: 20,
            cascade_rows: true,
            final_amount_as_text: false,
            link_header: LinkHeader::default(),
            deduplication: Deduplication::default(),
            idempotency_keys: true,
            key_in_flight: KeyInFlight::default(),
            requests_per_hour: 3000,
            no_details: NoDetails::default(),
            unknown_members: UnknownMembers::default(),
            first_check: FirstCheck::default(),
            obstacles: Obstacles::default(),
            tax_refunded: true,
            rate_limit_details: None,
            malformed_details: None,
            retry_after: false,
            empty_key: EmptyKey::default(),
            repeated_item: RepeatedItem::default(),
            too_large_page: TooLargePage::default(),
            unreadable_query: UnreadableQuery::default(),
            all_items_refused: AllItemsRefused::default(),
            half_way_answer: HalfWayAnswer::default(),
            refund_to: PaidTo::default(),
            deleted_domain: DeletedDomain::default(),
            create_date_end: CreateDateEnd::default(),
            unknown_order_status: UnknownOrderStatus::default(),
            orders_per_page: 500,
            order_times_behind_minutes: 0,
            wrapped_order: false,
            rate_limit_message: true,
        }
    }
}

/// What makes two requests under one key "different".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum KeyComparison {
    /// A different JSON value; white space and the order of members do not matter.
    #[default]
    ParsedJson,
    /// A different byte in the body.
    Bytes,
}

/// Which answers of Process Refund are remembered under a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum CachedAnswers {
    /// Only 2xx: a refused request can be sent again under its key.
    #[default]
    Success,
    /// Every answer to a request with a valid body, including refusals and server errors.
    All,
}

/// How the `Link` header of List Orders is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum LinkHeader {
    /// `<https://host/path?page=3; rel="next">,<...>`: the relation inside the brackets, as in the
    /// documented example.
    #[default]
    AsDocumented,
    /// `<https://host/path?page=3>; rel="next", <...>; ...`, which stock parsers read.
    Rfc8288,
}
