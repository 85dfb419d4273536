//! What name.com knows: accounts, orders and their items, and why an item cannot be refunded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::Settings;
use super::keys::Keys;
use super::places::Places;
use super::refusals::Refusal;
use crate::exchange::{Deduplication, Effect, Provider};
use crate::magic;
use crate::shelf::{Shelf, Shelved};

/// Everything name.com remembers. Grows with what is put and what is refunded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Whose the orders are that name no account.
    main: String,
    /// When the orders were placed that say no time.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    accounts: BTreeMap<String, Account>,
    orders: Shelf<Order>,
    #[serde(skip)]
    places: Places,
    /// By account.
    keys: BTreeMap<String, Keys>,
    /// By account.
    rates: BTreeMap<String, RateWindow>,
    /// Refunds that are paid out by themselves: when, and the item in its order; the first one first.
    settling: Vec<Settling>,
}

/// An account: credentials, standing, and how often it has deleted within the grace period.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The username of HTTP Basic.
    pub username: String,
    /// The API token, the password of HTTP Basic. A secret: not part of `Debug`.
    pub token: String,
    /// Whether the refund endpoint is open to the account; if not it answers 403. Default true.
    #[serde(default = "yes")]
    pub approved_reseller: bool,
    /// Whether every call of the account is answered 503 for maintenance. Default false.
    #[serde(default)]
    pub maintenance: bool,
    /// Registrations deleted within the grace period so far.
    #[serde(default)]
    pub agp_deletes: u32,
    /// At how many such deletions further ones are refused with 409; none is no limit.
    #[serde(default)]
    pub agp_delete_threshold: Option<u32>,
    /// The same, for single TLDs (without a dot, lower case), as ICANN's AGP limits are per TLD.
    #[serde(default)]
    pub tlds: BTreeMap<String, TldDeletes>,
}

/// Deletions within the grace period, in one TLD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TldDeletes {
    /// Registrations deleted so far.
    pub deletes: u32,
    /// At how many further ones are refused with 409; none is no limit.
    pub threshold: Option<u32>,
}

/// An order, in US dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The order's number, above 0.
    pub id: i32,
    /// Whose order it is; if none is put, the world's first account's.
    #[serde(default)]
    pub account: Option<String>,
    /// When it was placed, which is when its domains were registered (RFC 3339); if none is put, now. Demo orders were placed when the
    /// world began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub created: Option<OffsetDateTime>,
    /// What List Orders filters by. Default `success`; no item of another order can be refunded.
    #[serde(default)]
    pub status: OrderStatus,
    /// The registrar. Default `name.com`.
    #[serde(default = "registrar")]
    pub registrar: String,
    /// At least one.
    pub items: Vec<Item>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The item's number, above 0; no two items share one.
    pub id: i32,
    /// `registration` (the default), `whois_privacy`, `renewal`, `transfer`, ... Only the first two can be refunded.
    #[serde(default = "registration", rename = "type")]
    pub kind: String,
    /// The domain name.
    #[serde(default)]
    pub name: Option<String>,
    /// The TLD without its dot; if none is put, what follows the first dot of `name`.
    #[serde(default)]
    pub tld: Option<String>,
    /// What was paid, in US cents.
    pub price_minor: i64,
    /// The price before discounts, in US cents; if none is put, `price_minor`.
    #[serde(default)]
    pub original_price_minor: Option<i64>,
    /// The tax that came on top, in US cents. It is refunded with the price (inferred).
    #[serde(default)]
    pub tax_minor: Option<i64>,
    /// How many intervals. Default 1.
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
    /// When its grace period ends (RFC 3339); if none is put, so many days after the order as the settings say.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub agp_expires: Option<OffsetDateTime>,
    /// How an attempt to refund it will turn out. Default `refunded`.
    #[serde(default)]
    pub refund_outcome: Outcome,
    /// The message of that result, over the usual one.
    #[serde(default)]
    pub refund_message: Option<String>,
    /// The HTTP status that its refund is answered with, nothing being done: 400, 401, 403, 404, 409, 415, 423, 429, 500, 502, 503 or 504.
    /// Default none.
    #[serde(default)]
    pub refund_answer: Option<u16>,
    /// After how many seconds a refund that was answered `initialized` is paid out by itself. Default none: by hand only.
    #[serde(default)]
    pub settles_after_seconds: Option<u64>,
    /// Whether its registry answers when the domain is to be deleted. Default `reachable`.
    #[serde(default)]
    pub registry: Registry,
    /// A refund that was answered `initialized` and is not decided.
    #[serde(default)]
    pub pending: Option<Pending>,
}

/// The status of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// How an attempt to refund an item turns out, given that nothing stands against it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Deleted and refunded.
    #[default]
    Refunded,
    /// The deletion fails; nothing changes.
    Failed,
    /// Taken on; decided later by putting the order or settling the item.
    Initialized,
    /// Called off; nothing changes.
    Canceled,
}

/// What a registry does when a domain is to be deleted. All but the first end the whole call, after the items before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// It answers.
    #[default]
    Reachable,
    /// 500 `Internal Server Error`.
    Broken,
    /// 502 `Registry Connection Unavailable`.
    Unreachable,
    /// 504 `The upstream server is taking too long to respond.`
    Slow,
}

/// A refund that was answered `initialized`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// The idempotency key it was asked under.
    #[serde(default)]
    pub identifier: Option<String>,
}

/// Why an order was not put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum NotPut {
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

/// Why an item was not settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum NotSettled {
    #[error("there is no item {item} in an order {order}")]
    NoSuchItem { order: i32, item: i32 },
    #[error("item {item} of order {order} has no refund that waits to be decided")]
    NotPending { order: i32, item: i32 },
}

/// Why an item cannot be refunded now, the first to be told first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    AlreadyRefunded,
    WrongType,
    NotBought,
    InProgress,
    WindowOver { domain: String, days: u32 },
    OverThreshold,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settling {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    order: i32,
    item: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateWindow {
    second: i64,
    requests: u32,
    hour: i64,
    of_hour: u32,
}

/// Beyond any price, and small enough that no order's total can overflow.
const MAX_AMOUNT_MINOR: i64 = 99_999_999_999;

/// The account of the demo data.
const DEMO_ACCOUNT: &str = "demo-test";
/// A TLD in which the demo account has used up its deletions, so that only order 300003 meets the threshold.
const DEMO_TLD_AT_THRESHOLD: &str = "limited";

impl Default for State {
    fn default() -> Self {
        Self {
            main: DEMO_ACCOUNT.to_owned(),
            since: OffsetDateTime::UNIX_EPOCH,
            accounts: BTreeMap::new(),
            orders: Shelf::default(),
            places: Places::default(),
            keys: BTreeMap::new(),
            rates: BTreeMap::new(),
            settling: Vec::new(),
        }
    }
}

impl Shelved for Order {
    type Key = i32;

    fn demo() -> &'static BTreeMap<i32, Order> {
        static DEMO: LazyLock<BTreeMap<i32, Order>> = LazyLock::new(|| {
            let example = |id, kind, price| Item::new(id, kind, "example.com".to_owned(), price);
            let pair = vec![example(987_654, "registration", 1099), example(987_655, "whois_privacy", 499)];
            let singles = (200_001..=200_999).map(|id| demo_order(id, "registration", format!("demo-{id}.com")));
            let special = [
                Order { account: None, ..Order::new(123_456, DEMO_ACCOUNT, pair) },
                demo_order(300_001, "renewal", "demo-300001.com".to_owned()),
                demo_order(300_003, "registration", format!("demo-300003.{DEMO_TLD_AT_THRESHOLD}")),
            ];
            let magic_order = |id: i32, change: &dyn Fn(&mut Item)| {
                let mut order = demo_order(id, "registration", format!("demo-{id}.com"));
                order.items.iter_mut().for_each(change);
                order
            };
            let refused = magic::NAMECOM_STATUSES
                .map(|status| magic_order(400_000 + i32::from(status), &|item| item.refund_answer = Some(status)));
            let on_the_wire = magic::wire_targets(Provider::Namecom).filter_map(|order| order.parse().ok());
            let on_the_wire = on_the_wire.map(|id| magic_order(id, &|_| {}));
            let turns_out = |id, outcome| magic_order(id, &move |item| item.refund_outcome = outcome);
            let late = magic_order(410_201, &|item| {
                item.refund_outcome = Outcome::Initialized;
                item.settles_after_seconds = Some(u64::from(magic::LATE_SECONDS));
            });
            let turned_out = [
                late,
                turns_out(410_202, Outcome::Initialized),
                turns_out(410_203, Outcome::Failed),
                turns_out(410_204, Outcome::Canceled),
            ];
            let orders = singles.chain(special).chain(refused).chain(on_the_wire).chain(turned_out);
            orders.map(|order| (order.id, order)).collect()
        });
        &DEMO
    }
}

impl State {
    /// The demo data: account `demo-test` / `demo-token` and its orders, all placed `now`.
    ///
    /// 123456 with items 987654 (registration of example.com, 10.99) and 987655 (its privacy, 4.99); 200001 to 200999, one
    /// registration at 12.99 each; 300001 a renewal; 300002 placed ten days ago, so that its grace period is over; 300003 under
    /// a TLD (`limited`) in which the account is at its threshold of deletions. The one item of each of these has the number
    /// order + 3000000.
    pub fn demo(now: OffsetDateTime) -> Self {
        let threshold = TldDeletes { deletes: 50, threshold: Some(50) };
        let account = Account {
            tlds: BTreeMap::from([(DEMO_TLD_AT_THRESHOLD.to_owned(), threshold)]),
            ..Account::new(DEMO_ACCOUNT, "demo-token")
        };
        let late = Order {
            created: Some(now - Duration::days(10)),
            ..demo_order(300_002, "registration", "demo-300002.com".to_owned())
        };
        Self {
            since: now,
            accounts: BTreeMap::from([(account.username.clone(), account)]),
            orders: Shelf::demo([(late.id, late)]),
            ..Self::default()
        }
    }

    /// Nothing but the account that orders belong to.
    pub(crate) fn empty(now: OffsetDateTime) -> Self {
        let account = Account::new(DEMO_ACCOUNT, "demo-token");
        Self { since: now, accounts: BTreeMap::from([(account.username.clone(), account)]), ..Self::default() }
    }

    /// The username that orders belong to which name none, and its token.
    pub(crate) fn main(&self) -> (&str, &str) {
        (&self.main, self.accounts.get(&self.main).map(|account| account.token.as_str()).unwrap_or_default())
    }

    /// Gives the first account another name and token, and each other one another name.
    pub(crate) fn rename(&mut self, main: (String, String), other: impl Fn(&str) -> String) {
        let old_main = std::mem::replace(&mut self.main, main.0.clone());
        let renamed = |old: &str| if old == old_main { main.0.clone() } else { other(old) };
        for order in self.orders.own_mut() {
            order.account = order.account.as_deref().filter(|account| *account != old_main).map(&renamed);
        }
        self.keys = std::mem::take(&mut self.keys).into_iter().map(|(name, keys)| (renamed(&name), keys)).collect();
        self.rates = std::mem::take(&mut self.rates).into_iter().map(|(name, rate)| (renamed(&name), rate)).collect();
        let accounts = std::mem::take(&mut self.accounts).into_values().map(|account| {
            let token = if account.username == old_main { main.1.clone() } else { account.token };
            Account { username: renamed(&account.username), token, ..account }
        });
        self.accounts = accounts.map(|account| (account.username.clone(), account)).collect();
    }

    /// Adds an account, or replaces the one of this username.
    pub fn put_account(&mut self, account: Account) {
        self.accounts.insert(account.username.clone(), account);
    }

    /// All accounts, by username. They hold their tokens.
    pub fn accounts(&self) -> Vec<&Account> {
        self.accounts.values().collect()
    }

    /// Adds an order, or replaces the one of this number.
    ///
    /// An item whose refund was `initialized` and that is put as `refunded` was paid out by that: such effects are returned.
    pub fn put_order(&mut self, mut order: Order, now: OffsetDateTime) -> Result<Vec<Effect>, NotPut> {
        let account = order.account.take().unwrap_or_else(|| self.main.clone());
        self.check(&order, &account)?;
        order.created.get_or_insert(now);
        order.account = Some(account).filter(|account| *account != self.main);
        let completed: Vec<(i32, Pending)> = order
            .items
            .iter()
            .filter(|item| item.status == ItemStatus::Refunded)
            .filter_map(|item| Some((item.id, self.item(order.id, item.id)?.pending.clone()?)))
            .collect();
        let id = order.id;
        self.places.put(&order, &self.orders);
        self.orders.insert(id, order);
        Ok(completed.into_iter().filter_map(|(item, pending)| self.refund_item(id, item, pending.identifier)).collect())
    }

    /// All orders, by number.
    pub fn orders(&self) -> Vec<Order> {
        self.orders.values().map(|order| self.whole(order)).collect()
    }

    /// One order, with its account and its time.
    pub fn order(&self, id: i32) -> Option<Order> {
        self.orders.get(&id).map(|order| self.whole(order))
    }

    /// Decides a refund that was answered `initialized`: `Refunded` pays it out, `Failed` and `Canceled` leave the item as it
    /// was before, `Initialized` changes nothing.
    pub fn settle_item(&mut self, order: i32, item: i32, outcome: Outcome) -> Result<Vec<Effect>, NotSettled> {
        let found = self.item_mut(order, item).ok_or(NotSettled::NoSuchItem { order, item })?;
        let pending = found.pending.clone().ok_or(NotSettled::NotPending { order, item })?;
        match outcome {
            Outcome::Initialized => Ok(Vec::new()),
            Outcome::Failed | Outcome::Canceled => {
                found.pending = None;
                Ok(Vec::new())
            }
            Outcome::Refunded => Ok(self.refund_item(order, item, pending.identifier).into_iter().collect()),
        }
    }

    /// Has a refund that was answered `initialized` paid out by itself; not, where there is no time for it.
    pub(super) fn settle_at(&mut self, due: Option<OffsetDateTime>, order: i32, item: i32) {
        if let Some(at) = due {
            let place = self.settling.partition_point(|settling| settling.at <= at);
            self.settling.insert(place, Settling { at, order, item });
        }
    }

    /// Pays out what is due, each at its own time.
    #[must_use = "what is paid out belongs in the books"]
    pub(crate) fn advance(&mut self, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        let mut paid = Vec::new();
        while self.settling.first().is_some_and(|settling| settling.at <= now) {
            let Settling { at, order, item } = self.settling.remove(0);
            // One that was settled by hand meanwhile needs no second settling.
            let effects = self.settle_item(order, item, Outcome::Refunded).unwrap_or_default();
            paid.extend(effects.into_iter().map(|effect| (at, effect)));
        }
        paid
    }

    fn check(&mut self, order: &Order, account: &str) -> Result<(), NotPut> {
        if order.id <= 0 || order.items.iter().any(|item| item.id <= 0) {
            return Err(NotPut::IdNotPositive { order: order.id });
        }
        if order.items.is_empty() {
            return Err(NotPut::NoItems { order: order.id });
        }
        if account != self.main && !self.accounts.contains_key(account) {
            return Err(NotPut::NoSuchAccount { order: order.id, account: account.to_owned() });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = order.items.iter().find(|item| !seen.insert(item.id)) {
            return Err(NotPut::ItemTaken { item: twice.id });
        }
        let orders = &self.orders;
        let mut is_taken = |item: &&Item| self.places.order_of(item.id, orders).is_some_and(|other| other != order.id);
        if let Some(taken) = order.items.iter().find(&mut is_taken) {
            return Err(NotPut::ItemTaken { item: taken.id });
        }
        if let Some(item) = order
            .items
            .iter()
            .find(|item| item.refund_answer.is_some_and(|status| !magic::NAMECOM_STATUSES.contains(&status)))
        {
            return Err(NotPut::Answer { item: item.id });
        }
        let in_range = |amount: i64| (0..=MAX_AMOUNT_MINOR).contains(&amount);
        let amounts = |item: &Item| [Some(item.price_minor), item.original_price_minor, item.tax_minor];
        match order.items.iter().find(|item| !amounts(item).into_iter().flatten().all(in_range)) {
            Some(item) => Err(NotPut::AmountOutOfRange { item: item.id }),
            None => Ok(()),
        }
    }

    // For the calls.

    pub(super) fn authenticated(&self, username: &str, token: &str) -> Option<&Account> {
        self.accounts.get(username).filter(|account| account.token == token)
    }

    pub(super) fn account(&self, username: &str) -> Option<&Account> {
        self.accounts.get(username)
    }

    /// The order, if it is this account's.
    pub(super) fn order_of(&self, username: &str, id: i32) -> Option<&Order> {
        self.orders.get(&id).filter(|order| self.owner(order) == username)
    }

    pub(super) fn orders_of<'a>(&'a self, username: &'a str) -> impl Iterator<Item = &'a Order> {
        self.orders.values().filter(move |order| self.owner(order) == username)
    }

    /// When the orders were placed that say no time.
    pub(super) fn since(&self) -> OffsetDateTime {
        self.since
    }

    fn owner<'a>(&'a self, order: &'a Order) -> &'a str {
        order.account.as_deref().unwrap_or(&self.main)
    }

    fn whole(&self, order: &Order) -> Order {
        Order {
            account: Some(self.owner(order).to_owned()),
            created: order.created.or(Some(self.since)),
            ..order.clone()
        }
    }

    pub(super) fn item(&self, order: i32, item: i32) -> Option<&Item> {
        self.orders.get(&order)?.items.iter().find(|candidate| candidate.id == item)
    }

    pub(super) fn item_mut(&mut self, order: i32, item: i32) -> Option<&mut Item> {
        self.orders.get_mut(&order)?.items.iter_mut().find(|candidate| candidate.id == item)
    }

    /// What was paid for each item.
    pub(crate) fn paid_for_items(&self) -> BTreeMap<i32, i64> {
        self.orders.values().flat_map(|order| &order.items).map(|item| (item.id, item.paid_minor())).collect()
    }

    pub(super) fn keys_of(&mut self, username: &str) -> &mut Keys {
        self.keys.entry(username.to_owned()).or_default()
    }

    /// Counts one request of an authenticated account within the second and the hour of the clock.
    pub(super) fn count_request(
        &mut self,
        username: &str,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let second = now.unix_timestamp();
        let hour = second - second.rem_euclid(3600);
        let window = self.rates.entry(username.to_owned()).or_default();
        if window.hour != hour {
            (window.hour, window.of_hour) = (hour, 0);
        }
        if window.second != second {
            (window.second, window.requests) = (second, 0);
        }
        window.requests = window.requests.saturating_add(1);
        window.of_hour = window.of_hour.saturating_add(1);
        let is_over = |requests: u32, limit: u32| limit > 0 && requests > limit;
        let (per_second, per_hour) = (settings.requests_per_second, settings.requests_per_hour);
        if is_over(window.of_hour, per_hour) {
            Err(Refusal::RateLimited { reset: hour + 3600, limit: per_hour, window: "hour" })
        } else if is_over(window.requests, per_second) {
            Err(Refusal::RateLimited { reset: second + 1, limit: per_second, window: "second" })
        } else {
            Ok(())
        }
    }

    /// Gives an item's money back and counts the deletion. The one place where money moves.
    pub(super) fn refund_item(&mut self, order: i32, item: i32, identifier: Option<String>) -> Option<Effect> {
        let owner = self.owner(self.orders.get(&order)?).to_owned();
        let item = self.item_mut(order, item)?;
        item.status = ItemStatus::Refunded;
        item.pending = None;
        let effect = Effect {
            kind: "refund".to_owned(),
            target: item.id.to_string(),
            amount_minor: Some(item.paid_minor()),
            currency: Some("USD".to_owned()),
            identifier,
            reference: None,
            account: Some(owner.clone()),
            fee_minor: None,
        };
        let deleted_tld = (item.kind == "registration").then(|| item.tld().unwrap_or_default());
        if let (Some(tld), Some(account)) = (deleted_tld, self.accounts.get_mut(&owner)) {
            account.agp_deletes = account.agp_deletes.saturating_add(1);
            if let Some(counted) = account.tlds.get_mut(&tld) {
                counted.deletes = counted.deletes.saturating_add(1);
            }
        }
        Some(effect)
    }
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
        }
    }

    /// Whether one more registration of this TLD may not be deleted.
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
            .finish()
    }
}

impl Order {
    /// A successful order, placed when it is put.
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

    /// What was captured for it, and what of that was given back, in cents.
    pub(super) fn totals_minor(&self) -> (i64, i64) {
        let sum = |wanted: &[ItemStatus]| {
            let counted = self.items.iter().filter(|item| wanted.contains(&item.status));
            counted.map(Item::paid_minor).fold(0, i64::saturating_add)
        };
        (sum(&[ItemStatus::Success, ItemStatus::Refunded]), sum(&[ItemStatus::Refunded]))
    }

    /// The privacy items that go with this registration: same domain, still there.
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

    /// Why one of its items cannot be refunded now; none where it can. The one rule behind `isRefundable` and the refusals.
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
    /// One bought item at this price in cents, for one year.
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
            registry: Registry::Reachable,
            pending: None,
        }
    }

    /// Price and tax, in cents.
    pub(super) fn paid_minor(&self) -> i64 {
        self.price_minor.saturating_add(self.tax_minor.unwrap_or(0))
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

fn demo_order(id: i32, kind: &str, name: String) -> Order {
    Order { account: None, ..Order::new(id, DEMO_ACCOUNT, vec![Item::new(id + 3_000_000, kind, name, 1299)]) }
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
