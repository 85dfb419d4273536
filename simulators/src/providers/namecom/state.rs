//! name.com's state: accounts, orders, keys, and refunds that are paid out later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::Settings;
use super::item_index::ItemIndex;
use super::keys::Keys;
use super::orders::{Account, Item, ItemStatus, Order, Outcome, Pending, PutError, SettleError, TldDeletes};
use super::refusals::Refusal;
use crate::providers::emulated::{MAGIC_DELAY_SECONDS, MAGIC_WIRE_NAMES};
use crate::providers::overlay::{Overlay, Seeded};
use crate::request::{Effect, PaidTo};

/// Orders 400000 + n answer a refund with HTTP status n.
pub(super) const MAGIC_STATUSES: [u16; 12] = [400, 401, 403, 404, 409, 415, 423, 429, 500, 502, 503, 504];
/// The id of a demo order's one item is the order's id plus this.
pub(super) const MAGIC_ITEM_OFFSET: i32 = 3_000_000;

/// Everything name.com remembers. Grows with what is put and refunded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// The account of orders that name none.
    main: String,
    /// The time of orders that have none.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    accounts: BTreeMap<String, Account>,
    orders: Overlay<Order>,
    #[serde(skip)]
    item_index: ItemIndex,
    /// By account.
    keys: BTreeMap<String, Keys>,
    /// By account.
    rates: BTreeMap<String, RateWindow>,
    /// Refunds with a time at which they are paid out, in order of that time.
    settling: Vec<Settling>,
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
/// A TLD in which the demo account has used up its deletions, so that only order 300003 reaches the
/// threshold.
const DEMO_TLD_AT_THRESHOLD: &str = "limited";

impl Default for State {
    fn default() -> Self {
        Self {
            main: DEMO_ACCOUNT.to_owned(),
            since: OffsetDateTime::UNIX_EPOCH,
            accounts: BTreeMap::new(),
            orders: Overlay::default(),
            item_index: ItemIndex::default(),
            keys: BTreeMap::new(),
            rates: BTreeMap::new(),
            settling: Vec::new(),
        }
    }
}

impl Seeded for Order {
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
            let refused = MAGIC_STATUSES
                .map(|status| magic_order(400_000 + i32::from(status), &|item| item.refund_answer = Some(status)));
            let on_the_wire = (410_101..).take(MAGIC_WIRE_NAMES.len()).map(|id| magic_order(id, &|_| {}));
            let turns_out = |id, outcome| magic_order(id, &move |item| item.refund_outcome = outcome);
            let late = magic_order(410_201, &|item| {
                item.refund_outcome = Outcome::Initialized;
                item.settles_after_seconds = Some(u64::from(MAGIC_DELAY_SECONDS));
            });
            let turned_out = [
                late,
                turns_out(410_202, Outcome::Initialized),
                turns_out(410_203, Outcome::Failed),
                turns_out(410_204, Outcome::Canceled),
                turns_out(410_205, Outcome::Deleted),
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
    /// 123456 with items 987654 (registration of example.com, 10.99) and 987655 (its privacy,
    /// 4.99); 200001 to 200999, one registration at 12.99 each; 300001 a renewal; 300002 placed ten
    /// days ago, so that its grace period is over; 300003 under a TLD (`limited`) in which the
    /// account is at its threshold of deletions. The one item of each of these has the number order
    /// + 3000000.
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
            orders: Overlay::demo([(late.id, late)]),
            ..Self::default()
        }
    }

    /// Nothing but the main account.
    pub(crate) fn empty(now: OffsetDateTime) -> Self {
        let account = Account::new(DEMO_ACCOUNT, "demo-token");
        Self { since: now, accounts: BTreeMap::from([(account.username.clone(), account)]), ..Self::default() }
    }

    /// The main account's username and token.
    pub(crate) fn main(&self) -> (&str, &str) {
        (&self.main, self.accounts.get(&self.main).map(|account| account.token.as_str()).unwrap_or_default())
    }

    /// Gives the main account another name and token, and every other account another name.
    pub(crate) fn rename(&mut self, main: (String, String), other: impl Fn(&str) -> String) {
        let old_main = std::mem::replace(&mut self.main, main.0.clone());
        let renamed = |old: &str| if old == old_main { main.0.clone() } else { other(old) };
        for order in self.orders.own_mut() {
            let account = order.account.take().filter(|account| *account != old_main);
            order.account = account.as_deref().map(&renamed);
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
    /// Putting an item as `refunded` whose refund is pending pays it out. Returns these effects.
    ///
    /// # Errors
    /// What is wrong with the order.
    pub fn put_order(&mut self, mut order: Order, now: OffsetDateTime) -> Result<Vec<Effect>, PutError> {
        let account = order.account.take().unwrap_or_else(|| self.main.clone());
        self.check(&order, &account)?;
        order.created.get_or_insert(now);
        order.account = Some(account).filter(|account| *account != self.main);
        let completed: Vec<(i32, Pending)> = order
            .items
            .iter()
            .filter(|item| item.status == ItemStatus::Refunded)
            .filter_map(|item| Some((item.id, self.item(order.id, item.id)?.pending?)))
            .collect();
        let id = order.id;
        self.item_index.put(&order, &self.orders);
        self.orders.insert(id, order);
        Ok(completed.into_iter().filter_map(|(item, pending)| self.pay_out(id, item, pending)).collect())
    }

    /// All orders, by number.
    pub fn orders(&self) -> Vec<Order> {
        self.orders.values().map(|order| self.with_defaults(order.clone())).collect()
    }

    /// One order, with its account and its time.
    pub fn order(&self, id: i32) -> Option<Order> {
        self.orders.get(&id).map(|order| self.with_defaults(order.clone()))
    }

    /// Settles a pending refund (answered `initialized`, or stopped half-way): `Refunded` pays it
    /// out, `Failed` and `Canceled` drop it (a deleted domain stays deleted), `Deleted` deletes the
    /// domain, and `Initialized` changes nothing.
    ///
    /// # Errors
    /// There is no such item, or its refund is not pending.
    pub fn settle_item(&mut self, order: i32, item: i32, outcome: Outcome) -> Result<Vec<Effect>, SettleError> {
        let found = self.item(order, item).ok_or(SettleError::NoSuchItem { order, item })?;
        let pending = found.pending.ok_or(SettleError::NotPending { order, item })?;
        match outcome {
            Outcome::Initialized => Ok(Vec::new()),
            Outcome::Deleted => Ok(self.delete_domain(order, item, pending).into_iter().collect()),
            Outcome::Failed | Outcome::Canceled => {
                self.change_item(order, item, |item| item.pending = None);
                Ok(Vec::new())
            }
            Outcome::Refunded => Ok(self.pay_out(order, item, pending).into_iter().collect()),
        }
    }

    /// Schedules the payout of a pending refund, if it has a time.
    pub(super) fn settle_at(&mut self, due: Option<OffsetDateTime>, order: i32, item: i32) {
        if let Some(at) = due {
            let index = self.settling.partition_point(|settling| settling.at <= at);
            self.settling.insert(index, Settling { at, order, item });
        }
    }

    /// Pays out the refunds that are due. Returns each effect with its time.
    #[must_use = "the effects belong in the books"]
    pub(crate) fn advance(&mut self, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        let mut paid = Vec::new();
        while self.settling.first().is_some_and(|settling| settling.at <= now) {
            let Settling { at, order, item } = self.settling.remove(0);
            // An item that was settled by hand meanwhile is not settled again.
            let effects = self.settle_item(order, item, Outcome::Refunded).unwrap_or_default();
            paid.extend(effects.into_iter().map(|effect| (at, effect)));
        }
        paid
    }

    fn check(&mut self, order: &Order, account: &str) -> Result<(), PutError> {
        if order.id <= 0 || order.items.iter().any(|item| item.id <= 0) {
            return Err(PutError::IdNotPositive { order: order.id });
        }
        if order.items.is_empty() {
            return Err(PutError::NoItems { order: order.id });
        }
        if account != self.main && !self.accounts.contains_key(account) {
            return Err(PutError::NoSuchAccount { order: order.id, account: account.to_owned() });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = order.items.iter().find(|item| !seen.insert(item.id)) {
            return Err(PutError::ItemTaken { item: twice.id });
        }
        let orders = &self.orders;
        let mut is_taken =
            |item: &&Item| self.item_index.order_of(item.id, orders).is_some_and(|other| other != order.id);
        if let Some(taken) = order.items.iter().find(&mut is_taken) {
            return Err(PutError::ItemTaken { item: taken.id });
        }
        if let Some(item) =
            order.items.iter().find(|item| item.refund_answer.is_some_and(|status| !MAGIC_STATUSES.contains(&status)))
        {
            return Err(PutError::Answer { item: item.id });
        }
        let in_range = |amount: i64| (0..=MAX_AMOUNT_MINOR).contains(&amount);
        let amounts = |item: &Item| [Some(item.price_minor), item.original_price_minor, item.tax_minor];
        match order.items.iter().find(|item| !amounts(item).into_iter().flatten().all(in_range)) {
            Some(item) => Err(PutError::AmountOutOfRange { item: item.id }),
            None => Ok(()),
        }
    }

    pub(super) fn authenticated(&self, username: &str, token: &str) -> Option<&Account> {
        self.accounts.get(username).filter(|account| account.token == token)
    }

    pub(super) fn account(&self, username: &str) -> Option<&Account> {
        self.accounts.get(username)
    }

    /// The order, if it is this account's.
    pub(super) fn order_of(&self, username: &str, id: i32) -> Option<Order> {
        self.orders.get(&id).filter(|order| self.owner(order) == username).cloned()
    }

    pub(super) fn orders_of(&self, username: &str) -> impl Iterator<Item = Order> {
        self.orders.values().filter(move |order| self.owner(order) == username).cloned()
    }

    /// The time of orders that have none.
    pub(super) fn since(&self) -> OffsetDateTime {
        self.since
    }

    fn owner<'a>(&'a self, order: &'a Order) -> &'a str {
        order.account.as_deref().unwrap_or(&self.main)
    }

    fn with_defaults(&self, order: Order) -> Order {
        Order { account: Some(self.owner(&order).to_owned()), created: order.created.or(Some(self.since)), ..order }
    }

    pub(super) fn item(&self, order: i32, item: i32) -> Option<Item> {
        self.orders.get(&order)?.items.iter().find(|candidate| candidate.id == item).cloned()
    }

    pub(super) fn change_item<T>(&mut self, order: i32, item: i32, change: impl FnOnce(&mut Item) -> T) -> Option<T> {
        let order = self.orders.get_mut(&order)?;
        order.items.iter_mut().find(|candidate| candidate.id == item).map(change)
    }

    /// The amount paid for each item, in cents.
    pub(super) fn amounts_paid_by_item(&self) -> BTreeMap<i32, i64> {
        let items = self.orders.values().flat_map(|order| &order.items);
        items.map(|item| (item.id, item.paid_minor())).collect()
    }

    pub(super) fn keys_of(&mut self, username: &str) -> &mut Keys {
        self.keys.entry(username.to_owned()).or_default()
    }

    /// Counts one request of an authenticated account against the limits per second and per hour.
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
            Err(Refusal::RateLimited {
                reset: hour + 3600,
                wait: hour + 3600 - second,
                limit: per_hour,
                window: "hour",
            })
        } else if is_over(window.requests, per_second) {
            Err(Refusal::RateLimited { reset: second + 1, wait: 1, limit: per_second, window: "second" })
        } else {
            Ok(())
        }
    }

    /// Pays out a pending refund.
    fn pay_out(&mut self, order: i32, item: i32, pending: Pending) -> Option<Effect> {
        let amount_minor = pending.amount_minor.or_else(|| Some(self.item(order, item)?.paid_minor()))?;
        let paid_to = self.item(order, item)?.refund_to.unwrap_or_default();
        self.refund_item(order, item, amount_minor, paid_to, pending.identifier)
    }

    /// The first half of a refund: deletes the domain. The refund stays pending.
    pub(super) fn delete_domain(&mut self, order: i32, id: i32, pending: Pending) -> Option<Effect> {
        let (identifier, was_deleted) = (pending.identifier.clone(), self.item(order, id)?.domain_deleted);
        self.change_item(order, id, |item| {
            item.domain_deleted = true;
            item.pending = Some(pending);
        })?;
        if was_deleted {
            return None;
        }
        let owner = self.count_deletion(order, id)?;
        Some(Effect {
            kind: "domain_deleted".to_owned(),
            target: id.to_string(),
            amount_minor: None,
            currency: None,
            identifier,
            reference: None,
            account: Some(owner),
            fee_minor: None,
            paid_to: None,
        })
    }

    /// Counts the deletion of an item's domain at its account. Returns the account's name.
    fn count_deletion(&mut self, order: i32, id: i32) -> Option<String> {
        let order = self.orders.get(&order)?;
        let owner = self.owner(order).to_owned();
        let item = order.items.iter().find(|item| item.id == id)?;
        let deleted_tld = (item.kind == "registration").then(|| item.tld().unwrap_or_default());
        if let (Some(tld), Some(account)) = (deleted_tld, self.accounts.get_mut(&owner)) {
            account.agp_deletes = account.agp_deletes.saturating_add(1);
            if let Some(counted) = account.tlds.get_mut(&tld) {
                counted.deletes = counted.deletes.saturating_add(1);
            }
        }
        Some(owner)
    }

    /// Refunds an item and counts the deletion of its domain. The only place where money moves.
    pub(super) fn refund_item(
        &mut self,
        order: i32,
        id: i32,
        amount_minor: i64,
        paid_to: PaidTo,
        identifier: Option<String>,
    ) -> Option<Effect> {
        let is_deleted_now = self.change_item(order, id, |item| {
            item.status = ItemStatus::Refunded;
            item.pending = None;
            !item.domain_deleted
        })?;
        let owner = self.owner(self.orders.get(&order)?).to_owned();
        if is_deleted_now {
            self.count_deletion(order, id)?;
        }
        if let (PaidTo::AccountBalance, Some(account)) = (paid_to, self.accounts.get_mut(&owner)) {
            account.balance_minor = account.balance_minor.saturating_add(amount_minor);
        }
        Some(Effect {
            kind: "refund".to_owned(),
            target: id.to_string(),
            amount_minor: Some(amount_minor),
            currency: Some("USD".to_owned()),
            identifier,
            reference: None,
            account: Some(owner),
            fee_minor: None,
            paid_to: Some(paid_to),
        })
    }
}

fn demo_order(id: i32, kind: &str, name: String) -> Order {
    Order { account: None, ..Order::new(id, DEMO_ACCOUNT, vec![Item::new(id + MAGIC_ITEM_OFFSET, kind, name, 1299)]) }
}
