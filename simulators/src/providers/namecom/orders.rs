//! Accounts, orders and their items, and why an item cannot be refunded.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::Settings;
use crate::request::{Deduplication, PaidTo};

/// An account: credentials, permissions, and its deletions within the grace period (AGP).
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamecomAccount")]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The username of HTTP Basic.
    #[schemars(extend("x-optional" = true))]
    pub username: String,
    /// The API token, the password of HTTP Basic. A secret: not part of `Debug`.
    #[schemars(extend("writeOnly" = true), description = "Accepted and never returned; where it is left out, a known account keeps its own.")]
    pub token: String,
    /// Whether the account may use the refund endpoint; if not, it answers 403. Default true.
    #[serde(default = "yes")]
    pub approved_reseller: bool,
    /// Whether every call of the account is answered 503 for maintenance. Default false.
    #[serde(default)]
    pub maintenance: bool,
    /// The number of registrations deleted within the grace period.
    #[serde(default)]
    pub agp_deletes: u32,
    /// The number of such deletions from which further ones are refused with 409; none for no
    /// limit.
    #[serde(default)]
    pub agp_delete_threshold: Option<u32>,
    /// The same per TLD (without a dot, lower case), because ICANN's AGP limits are per TLD.
    #[serde(default)]
    pub tlds: BTreeMap<String, TldDeletes>,
    /// The sum of refunds credited to the account's balance, in US cents.
    #[serde(default)]
    pub balance_minor: i64,
}

/// Deletions within the grace period, in one TLD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(default, deny_unknown_fields)]
pub struct TldDeletes {
    /// The number of registrations deleted.
    pub deletes: u32,
    /// The number from which further deletions are refused with 409; none for no limit.
    pub threshold: Option<u32>,
}

/// An order, in US dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamecomOrder")]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The order's id, above 0.
    #[schemars(range(min = 1), extend("x-optional" = true))]
    pub id: i32,
    /// The username of its account; the world's main account if left out.
    #[serde(default)]
    pub account: Option<String>,
    /// When it was placed (RFC 3339), which is also when its domains were registered unless their
    /// items say otherwise; now if left out. Demo orders were placed when the world began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub created: Option<OffsetDateTime>,
    /// The order status, a filter of List Orders. Default `success`; items of orders with another
    /// status cannot be refunded.
    #[serde(default)]
    pub status: OrderStatus,
    /// The registrar. Default `name.com`.
    #[serde(default = "registrar")]
    pub registrar: String,
    /// The items; at least one.
    pub items: Vec<Item>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamecomItem")]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The item's id, above 0 and unique in the world.
    #[schemars(range(min = 1), extend("x-optional" = true))]
    pub id: i32,
    /// `registration` (the default), `whois_privacy`, `renewal`, `transfer`, ... Only the first two
    /// can be refunded.
    #[serde(default = "registration", rename = "type")]
    pub kind: String,
    /// The domain name.
    #[serde(default)]
    pub name: Option<String>,
    /// The TLD without its dot; the part of `name` behind its first dot if left out.
    #[serde(default)]
    pub tld: Option<String>,
    /// The price paid, in US cents.
    #[schemars(range(min = 0))]
    pub price_minor: i64,
    /// The price before discounts, in US cents; `price_minor` if left out.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub original_price_minor: Option<i64>,
    /// The tax on top of the price, in US cents.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub tax_minor: Option<i64>,
    /// The number of intervals. Default 1.
    #[serde(default = "one")]
    pub duration: i32,
    /// `year` (the default) or `month`.
    #[serde(default = "year")]
    pub interval: Option<String>,
    /// Default 1.
    #[serde(default = "one")]
    pub quantity: i32,
    /// Default `success`.
    #[serde(default)]
    pub status: ItemStatus,
    /// The end of its grace period (RFC 3339); if left out, computed from the order's time and the
    /// settings.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub agp_expires: Option<OffsetDateTime>,
    /// The outcome of a refund of it. Default `refunded`.
    #[serde(default)]
    pub refund_outcome: Outcome,
    /// The message of that outcome, instead of the usual one.
    #[serde(default)]
    pub refund_message: Option<String>,
    /// The HTTP status with which its refund is refused: 400, 401, 403, 404, 409, 415, 423, 429,
    /// 500, 502, 503 or 504. Default none.
    #[serde(default)]
    pub refund_answer: Option<u16>,
    /// The time in seconds after which a refund that was answered `initialized` is paid out.
    /// Default none: it waits to be settled by hand.
    #[serde(default)]
    pub settles_after_seconds: Option<u64>,
    /// How its registry reacts to the deletion of the domain. Default `reachable`.
    #[serde(default)]
    pub registry: RegistryCondition,
    /// A refund that was answered `initialized` or stopped half-way, and is not settled.
    #[serde(default)]
    pub pending: Option<Pending>,
    /// When its domain was registered, as the domain call shows it (RFC 3339); the order's time if
    /// left out.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub domain_created: Option<OffsetDateTime>,
    /// Whether its domain is deleted although the item is not refunded: a refund stopped half-way.
    /// Default false.
    #[serde(default)]
    pub domain_deleted: bool,
    /// Where a refund of it goes; if none is put, as the settings say.
    #[serde(default)]
    pub refund_to: Option<PaidTo>,
}

/// The status of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the documented words, which nothing documents further")]
pub enum OrderStatus {
    #[default]
    Success,
    Failed,
    Initialized,
    Review,
    Started,
}

/// The status of an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// Bought.
    #[default]
    Success,
    /// Never bought: it counts in no total.
    Failed,
    /// Given back.
    Refunded,
}

/// The outcome of a refund that nothing else prevents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Deleted and refunded.
    #[default]
    Refunded,
    /// The deletion fails; nothing changes.
    Failed,
    /// Accepted; settled later by putting the order or settling the item.
    Initialized,
    /// Canceled; nothing changes.
    Canceled,
    /// Half-way: the domain is deleted and nothing is refunded. Settled later like `initialized`;
    /// the settings choose the answer.
    Deleted,
}

/// How a registry reacts to the deletion of a domain. All but the first end the whole call; earlier
/// items stay refunded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub enum RegistryCondition {
    /// It answers.
    #[default]
    Reachable,
    /// 500 `Internal Server Error`.
    Broken,
    /// 502 `RegistryCondition Connection Unavailable`.
    Unreachable,
    /// 504 `The upstream server is taking too long to respond.`
    Slow,
}

/// A refund that was answered `initialized`, or that stopped half-way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// When it was requested.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: OffsetDateTime,
    /// The idempotency key of the request.
    #[serde(default)]
    pub identifier: Option<String>,
    /// The amount to pay out, in US cents; price and tax if left out.
    #[serde(default)]
    pub amount_minor: Option<i64>,
}

/// Why an order cannot be put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum PutError {
    #[error("order {order}: order and item ids must be above 0")]
    IdNotPositive { order: i32 },
    #[error("order {order} has no items")]
    NoItems { order: i32 },
    #[error("item {item} is given twice, or is an item of another order")]
    ItemTaken { item: i32 },
    #[error("item {item}: amounts must be from 0 to 99999999999 cents")]
    AmountOutOfRange { item: i32 },
    #[error("item {item}: `refund_answer` is none of the documented statuses")]
    Answer { item: i32 },
    #[error("order {order}: there is no account `{account}`")]
    NoSuchAccount { order: i32, account: String },
}

/// Why an item cannot be settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum SettleError {
    #[error("there is no item {item} in an order {order}")]
    NoSuchItem { order: i32, item: i32 },
    #[error("item {item} of order {order} has no pending refund")]
    NotPending { order: i32, item: i32 },
}

/// Why an item cannot be refunded now, the gravest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    AlreadyRefunded,
    WrongType,
    NotBought,
    InProgress,
    DomainDeleted,
    WindowOver { domain: String, days: u32 },
    OverThreshold,
}

impl Account {
    /// An approved reseller without limits.
    pub fn new(username: &str, token: &str) -> Self {
        Self {
            username: username.to_owned(),
            token: token.to_owned(),
            approved_reseller: true,
            maintenance: false,
            agp_deletes: 0,
            agp_delete_threshold: None,
            tlds: BTreeMap::new(),
            balance_minor: 0,
        }
    }

    /// Whether no further registration of this TLD may be deleted.
    pub(super) fn is_over_threshold(&self, tld: &str) -> bool {
        let reached = |deletes: u32, threshold: Option<u32>| threshold.is_some_and(|threshold| deletes >= threshold);
        reached(self.agp_deletes, self.agp_delete_threshold)
            || self.tlds.get(tld).is_some_and(|counted| reached(counted.deletes, counted.threshold))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("username", &self.username)
            .field("token", &"***")
            .field("approved_reseller", &self.approved_reseller)
            .field("maintenance", &self.maintenance)
            .field("agp_deletes", &self.agp_deletes)
            .field("agp_delete_threshold", &self.agp_delete_threshold)
            .field("tlds", &self.tlds)
            .field("balance_minor", &self.balance_minor)
            .finish()
    }
}

impl Order {
    /// A successful order. Its time is the time at which it is put.
    pub fn new(id: i32, account: &str, items: Vec<Item>) -> Self {
        Self {
            id,
            account: Some(account.to_owned()),
            created: None,
            status: OrderStatus::Success,
            registrar: registrar(),
            items,
        }
    }

    /// When it was placed.
    pub(super) fn created(&self, since: OffsetDateTime) -> OffsetDateTime {
        self.created.unwrap_or(since)
    }

    /// The amounts captured and refunded, in cents.
    pub(super) fn totals_minor(&self, tax_refunded: bool) -> (i64, i64) {
        let bought = self.items.iter().filter(|item| item.status != ItemStatus::Failed);
        let captured = bought.map(Item::paid_minor).fold(0, i64::saturating_add);
        let refunded = self.items.iter().filter(|item| item.status == ItemStatus::Refunded);
        let refunded = refunded.map(|item| item.refunded_minor(tax_refunded)).fold(0, i64::saturating_add);
        (captured, refunded)
    }

    /// The refundable privacy items of a registration: those with the same domain.
    pub(super) fn privacy_of(&self, registration: &Item) -> Vec<i32> {
        let same_domain = |item: &&Item| match (&item.name, &registration.name) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            _ => false,
        };
        let attached = self.items.iter().filter(|item| item.kind == "whois_privacy").filter(same_domain);
        attached
            .filter(|item| item.status == ItemStatus::Success && item.pending.is_none())
            .map(|item| item.id)
            .collect()
    }

    /// Why one of its items cannot be refunded now; none if it can. Decides both `isRefundable` and
    /// the refusals.
    pub(super) fn obstacle(
        &self,
        item: &Item,
        account: &Account,
        settings: &Settings,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Option<Obstacle> {
        let tld = item.tld().unwrap_or_default();
        let days = settings.agp_days_by_tld.get(&tld).copied().unwrap_or(settings.agp_days);
        let expires = item.agp_expires.or_else(|| self.created(since).checked_add(Duration::days(i64::from(days))));
        let refuses_again = settings.deduplication == Deduplication::On;
        if item.status == ItemStatus::Refunded && refuses_again {
            Some(Obstacle::AlreadyRefunded)
        } else if !matches!(item.kind.as_str(), "registration" | "whois_privacy") {
            Some(Obstacle::WrongType)
        } else if item.status == ItemStatus::Failed || self.status != OrderStatus::Success {
            Some(Obstacle::NotBought)
        } else if item.pending.is_some() && refuses_again {
            Some(Obstacle::InProgress)
        } else if item.domain_deleted && refuses_again {
            Some(Obstacle::DomainDeleted)
        } else if expires.is_some_and(|expires| now >= expires) {
            Some(Obstacle::WindowOver { domain: item.name.clone().unwrap_or_default(), days })
        } else if item.kind == "registration" && account.is_over_threshold(&tld) {
            Some(Obstacle::OverThreshold)
        } else {
            None
        }
    }
}

impl Item {
    /// A bought item at this price in cents, for one year.
    pub fn new(id: i32, kind: &str, name: String, price_minor: i64) -> Self {
        Self {
            id,
            kind: kind.to_owned(),
            name: Some(name),
            tld: None,
            price_minor,
            original_price_minor: None,
            tax_minor: None,
            duration: 1,
            interval: year(),
            quantity: 1,
            status: ItemStatus::Success,
            agp_expires: None,
            refund_outcome: Outcome::Refunded,
            refund_message: None,
            refund_answer: None,
            settles_after_seconds: None,
            registry: RegistryCondition::Reachable,
            pending: None,
            domain_created: None,
            domain_deleted: false,
            refund_to: None,
        }
    }

    /// Price and tax, in cents.
    pub(super) fn paid_minor(&self) -> i64 {
        self.price_minor.saturating_add(self.tax_minor.unwrap_or(0))
    }

    /// The amount of its refund, in cents.
    pub(super) fn refunded_minor(&self, with_tax: bool) -> i64 {
        if with_tax { self.paid_minor() } else { self.price_minor }
    }

    /// The TLD, lower case.
    pub(super) fn tld(&self) -> Option<String> {
        let tld = match (&self.tld, &self.name) {
            (Some(tld), _) => tld.as_str(),
            (None, Some(name)) => name.split_once('.')?.1,
            (None, None) => return None,
        };
        Some(tld.to_ascii_lowercase())
    }
}

fn yes() -> bool {
    true
}

fn one() -> i32 {
    1
}

fn registration() -> String {
    "registration".to_owned()
}

fn registrar() -> String {
    "name.com".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "a serde default has the field's type")]
fn year() -> Option<String> {
    Some("year".to_owned())
}
