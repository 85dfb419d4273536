//! Sectigo's state: logins and orders, and why an order cannot be refunded.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::LazyLock,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{AlreadyRefunded, Settings, StatusAfterRefund, validation::PostPaymentData};
use crate::{
    providers::{
        emulated::{MAGIC_DELAY_SECONDS, MAGIC_WIRE_NAMES},
        overlay::{Overlay, Seeded},
    },
    request::{Deduplication, Effect},
};

/// Orders 7000000 + n answer a refund with code -n.
pub(super) const MAGIC_CODES: [u32; 11] = [1, 2, 3, 4, 14, 16, 17, 18, 20, 42, 76];

/// Everything Sectigo remembers. Grows with the orders that are put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// The account of orders that name none.
    main: String,
    /// The purchase time of orders that have none.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    accounts: BTreeMap<String, Account>,
    orders: Overlay<Order>,
    /// The times of each account's calls within the last minute; counted only if there is a limit.
    calls: BTreeMap<String, VecDeque<i64>>,
}

/// A login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SectigoAccount")]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// `loginName`, at most 64 characters.
    #[schemars(length(min = 1, max = 64), extend("x-optional" = true))]
    pub login_name: String,
    /// `loginPassword`, at most 128 characters. A secret: not part of `Debug`.
    #[schemars(extend("writeOnly" = true), description = "Accepted and never returned; where it is left out, a known account keeps its own.")]
    pub password: String,
    /// Whether the account is locked: then every call is answered as a wrong password is. Default
    /// false.
    #[serde(default)]
    pub locked: bool,
}

/// An order: its price, how a refund of it goes, and what its Validation Manager page shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SectigoOrder")]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its number, 1 to 128 characters.
    #[schemars(length(min = 1, max = 128), extend("x-optional" = true))]
    pub order_number: String,
    /// The login name of its account; the world's main account if left out.
    #[serde(default)]
    pub account: Option<String>,
    /// The purchase time (RFC 3339); now if left out. Demo orders were bought when the world began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub purchased_at: Option<OffsetDateTime>,
    /// Whether it is a multi-domain certificate, which `!AutoRefund` does not refund. Default
    /// false.
    #[serde(default)]
    pub multi_domain: bool,
    /// The price paid, in hundredths. No answer contains it; the books do. Default 9900.
    #[serde(default = "demo_price")]
    #[schemars(range(min = 0))]
    pub price_minor: i64,
    /// ISO 4217. Default `USD`.
    #[serde(default = "demo_currency")]
    pub currency: String,
    /// How the processing of a refund goes. Default `works`.
    #[serde(default)]
    pub processing: Processing,
    /// The code with which an otherwise possible refund is refused: -1 to -99. Default none.
    #[serde(default)]
    #[schemars(range(min = -99, max = -1))]
    pub refund_answer: Option<i32>,
    /// How long after a refund `orderStatus` still shows its old value, in seconds. Overrides the
    /// setting `status_lag_seconds`. Default none.
    #[serde(default)]
    pub status_lag_seconds: Option<u32>,
    /// Whether `!getPostPaymentStatus` is answered -14. Default false.
    #[serde(default)]
    pub status_fails: bool,
    /// The time of its refund, which also cancelled it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub refunded_at: Option<OffsetDateTime>,
    /// The `orderStatus` before the refund, shown for `status_lag_seconds`.
    #[serde(default)]
    pub status_before_refund: Option<String>,
    /// The `data` of `!getPostPaymentStatus` without its `orderNumber`, named as on the wire.
    #[serde(default = "example_data")]
    pub validation: PostPaymentData,
}

/// How the processing of a possible refund goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub enum Processing {
    /// It succeeds.
    #[default]
    Works,
    /// It fails with -14, and nothing is refunded.
    FailsBeforeRefund,
    /// It fails with -14 after the order has been refunded.
    FailsAfterRefund,
}

/// Why an order or account cannot be put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum PutError {
    #[error("`order_number` is 1 to 128 characters")]
    OrderNumber,
    #[error("there is no Sectigo account `{account}`: put it first")]
    NoSuchAccount { account: String },
    #[error("`refund_answer` is from -99 to -1")]
    Answer,
    #[error("`price_minor` is 0 or more")]
    Price,
    #[error("`currency` is three capital letters")]
    Currency,
    #[error("`login_name` is 1 to 64 characters and `password` 1 to 128")]
    Login,
}

/// The `data` of one answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusData<'a> {
    order_number: &'a str,
    #[serde(flatten)]
    data: PostPaymentData,
}

const DEMO_LOGIN: &str = "demo";
const OTHER_LOGIN: &str = "somebody-else";
/// The description of -20 on the SiteLock page.
pub(super) const CANCELED: &str = "The order has already been canceled";
const REFUNDED: &str = "Refunded";
const REJECTED: &str = "Rejected";

impl Default for State {
    fn default() -> Self {
        Self {
            main: DEMO_LOGIN.to_owned(),
            since: OffsetDateTime::UNIX_EPOCH,
            accounts: BTreeMap::new(),
            orders: Overlay::default(),
            calls: BTreeMap::new(),
        }
    }
}

impl Seeded for Order {
    type Key = String;

    fn demo() -> &'static BTreeMap<String, Order> {
        static DEMO: LazyLock<BTreeMap<String, Order>> = LazyLock::new(|| {
            let special = [
                Order {
                    multi_domain: true,
                    validation: PostPaymentData::processed_multi_domain(),
                    ..demo_order(2_000_001)
                },
                Order { processing: Processing::FailsBeforeRefund, ..demo_order(2_000_004) },
                Order { processing: Processing::FailsAfterRefund, ..demo_order(2_000_005) },
                Order { validation: PostPaymentData::vmc_sample(), ..demo_order(3_000_001) },
                Order { validation: PostPaymentData::everything(), ..demo_order(3_000_002) },
            ];
            let refused = MAGIC_CODES.map(|code| {
                let refund_answer = i32::try_from(code).ok().map(|code| -code);
                Order { refund_answer, ..demo_order(7_000_000 + code) }
            });
            let on_the_wire = (7_000_101..).take(MAGIC_WIRE_NAMES.len()).map(demo_order);
            let late = Order { status_lag_seconds: Some(MAGIC_DELAY_SECONDS), ..demo_order(7_000_201) };
            let orders = (1_000_001..=1_000_999).map(demo_order).chain(special).chain(refused);
            let orders = orders.chain(on_the_wire).chain([late]);
            orders.map(|order| (order.order_number.clone(), order)).collect()
        });
        &DEMO
    }
}

impl State {
    /// The demo data: login `demo` / `demo-password`, and another one with an order of its own.
    ///
    /// 1000001 to 1000999 single-domain SSL, Processed, bought `now`; 2000001 multi-domain; 2000002
    /// bought too long ago; 2000003 refunded already; 2000004 and 2000005 fail with -14, before and
    /// after the refund; 3000001 the documented VMC sample, field for field; 3000002 every
    /// documented field; 9000001 of another account.
    pub fn demo(now: OffsetDateTime) -> Self {
        let account = |name: &str, password: &str| Account {
            login_name: name.to_owned(),
            password: password.to_owned(),
            locked: false,
        };
        let accounts = [account(DEMO_LOGIN, "demo-password"), account(OTHER_LOGIN, "somebody-elses-password")];
        let mut refunded = Order { refunded_at: Some(now - Duration::DAY), ..demo_order(2_000_003) };
        refunded.status_before_refund = refunded.set_status(REFUNDED);
        let dated = [
            Order { purchased_at: Some(now - Duration::days(400)), ..demo_order(2_000_002) },
            refunded,
            Order { account: Some(OTHER_LOGIN.to_owned()), ..demo_order(9_000_001) },
        ];
        Self {
            since: now,
            accounts: accounts.into_iter().map(|account| (account.login_name.clone(), account)).collect(),
            orders: Overlay::demo(dated.map(|order| (order.order_number.clone(), order))),
            ..Self::default()
        }
    }

    /// Nothing but the main account.
    pub(crate) fn empty(now: OffsetDateTime) -> Self {
        let account =
            Account { login_name: DEMO_LOGIN.to_owned(), password: "demo-password".to_owned(), locked: false };
        Self { since: now, accounts: BTreeMap::from([(account.login_name.clone(), account)]), ..Self::default() }
    }

    /// The main account's login name and password.
    pub(crate) fn main(&self) -> (&str, &str) {
        let password = self.accounts.get(&self.main).map(|account| account.password.as_str());
        (&self.main, password.unwrap_or_default())
    }

    /// Gives the main account another name and password, and every other account another name.
    pub(crate) fn rename(&mut self, main: (String, String), other: impl Fn(&str) -> String) {
        let old_main = std::mem::replace(&mut self.main, main.0.clone());
        let renamed = |old: &str| if old == old_main { main.0.clone() } else { other(old) };
        for order in self.orders.own_mut() {
            let account = order.account.take().filter(|account| *account != old_main);
            order.account = account.as_deref().map(&renamed);
        }
        self.calls = std::mem::take(&mut self.calls).into_iter().map(|(name, calls)| (renamed(&name), calls)).collect();
        let accounts = std::mem::take(&mut self.accounts).into_values().map(|account| {
            let is_main = account.login_name == old_main;
            let password = if is_main { main.1.clone() } else { account.password };
            Account { login_name: renamed(&account.login_name), password, ..account }
        });
        self.accounts = accounts.map(|account| (account.login_name.clone(), account)).collect();
    }

    /// Adds an account, or replaces the one of this name.
    ///
    /// # Errors
    /// A name or password that no request could carry.
    pub fn put_account(&mut self, account: Account) -> Result<(), PutError> {
        let fits = |text: &str, max| (1..=max).contains(&text.chars().count());
        if !fits(&account.login_name, 64) || !fits(&account.password, 128) {
            return Err(PutError::Login);
        }
        self.accounts.insert(account.login_name.clone(), account);
        Ok(())
    }

    /// All accounts, by name. They hold their passwords.
    pub fn accounts(&self) -> Vec<&Account> {
        self.accounts.values().collect()
    }

    /// Adds an order, or replaces the one of this number.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn put_order(&mut self, mut order: Order, now: OffsetDateTime) -> Result<(), PutError> {
        if !(1..=128).contains(&order.order_number.chars().count()) {
            return Err(PutError::OrderNumber);
        }
        order.account = order.account.filter(|account| *account != self.main);
        if let Some(account) = order.account.as_ref().filter(|account| !self.accounts.contains_key(*account)) {
            return Err(PutError::NoSuchAccount { account: account.clone() });
        }
        if order.refund_answer.is_some_and(|code| !(-99..=-1).contains(&code)) {
            return Err(PutError::Answer);
        }
        if order.price_minor < 0 {
            return Err(PutError::Price);
        }
        if order.currency.len() != 3 || !order.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(PutError::Currency);
        }
        order.purchased_at.get_or_insert(now);
        self.orders.insert(order.order_number.clone(), order);
        Ok(())
    }

    /// All orders, by number.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        self.orders.values().map(|order| self.with_defaults(order.clone()))
    }

    /// One order, with its account and its time.
    pub fn order(&self, order_number: &str) -> Option<Order> {
        self.orders.get(order_number).map(|order| self.with_defaults(order.clone()))
    }

    /// The order, if it is this account's.
    pub(super) fn order_of(&self, order_number: &str, login_name: &str) -> Option<Order> {
        let order = self.orders.get(order_number);
        order.filter(|order| order.account.as_deref().unwrap_or(&self.main) == login_name).cloned()
    }

    pub(super) fn change_order<T>(&mut self, order_number: &str, change: impl FnOnce(&mut Order) -> T) -> Option<T> {
        self.orders.get_mut(&order_number.to_owned()).map(change)
    }

    /// The purchase time of orders that have none.
    pub(super) fn since(&self) -> OffsetDateTime {
        self.since
    }

    fn with_defaults(&self, order: Order) -> Order {
        Order {
            account: order.account.or_else(|| Some(self.main.clone())),
            purchased_at: order.purchased_at.or(Some(self.since)),
            ..order
        }
    }

    pub(super) fn knows(&self, login_name: &str, password: &str) -> bool {
        self.accounts.get(login_name).is_some_and(|account| !account.locked && account.password == password)
    }

    /// Counts a call. False if the limit is reached.
    pub(super) fn count_call(&mut self, login_name: &str, settings: &Settings, now: OffsetDateTime) -> bool {
        let Some(limit) = settings.calls_per_minute else { return true };
        let calls = self.calls.entry(login_name.to_owned()).or_default();
        let now = now.unix_timestamp();
        while calls.front().is_some_and(|call| now - call >= 60) {
            calls.pop_front();
        }
        let allowed = calls.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        if allowed {
            calls.push_back(now);
        }
        allowed
    }
}

impl Order {
    /// A single-domain SSL order of the world's first account, bought when it is put.
    pub fn new(order_number: impl Into<String>) -> Self {
        Self {
            order_number: order_number.into(),
            account: None,
            purchased_at: None,
            multi_domain: false,
            price_minor: demo_price(),
            currency: demo_currency(),
            processing: Processing::Works,
            refund_answer: None,
            status_lag_seconds: None,
            status_fails: false,
            refunded_at: None,
            status_before_refund: None,
            validation: example_data(),
        }
    }

    /// The code and message for which it cannot be refunded now; none if it can.
    pub(super) fn obstacle<'s>(
        &self,
        settings: &'s Settings,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Option<(i32, &'s str)> {
        let period = Duration::days(i64::from(settings.refund_period_days));
        if self.is(REFUNDED) || self.refunded_at.is_some() {
            match settings.deduplication {
                Deduplication::Off => None,
                Deduplication::On => Some(settings.already_refunded.code_and_message(&settings.already_refunded_text)),
            }
        } else if self.is(REJECTED) {
            Some(settings.rejected_order.code_and_message(&settings.rejected_text))
        } else if self.multi_domain {
            Some((-18, &settings.multi_domain_text))
        } else if now - self.purchased_at.unwrap_or(since) > period {
            Some((-18, &settings.period_over_text))
        } else {
            None
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is(REFUNDED) || self.is(REJECTED) || self.refunded_at.is_some()
    }

    /// Gives the money back and cancels the order.
    pub(super) fn refund(&mut self, settings: &Settings, now: OffsetDateTime) -> Effect {
        let status = match settings.status_after_refund {
            StatusAfterRefund::Refunded => Some(REFUNDED),
            StatusAfterRefund::Rejected => Some(REJECTED),
            StatusAfterRefund::Unchanged => None,
        };
        // A second refund, if the settings allow it, does not change the status page.
        if let Some(status) = status.filter(|status| !self.is(status)) {
            self.status_before_refund = self.set_status(status);
        }
        self.refunded_at.get_or_insert(now);
        self.effect("refund", Some((self.price_minor, self.currency.clone())))
    }

    /// What `!AutoReject` does: the order is closed.
    pub(super) fn reject(&mut self) -> Effect {
        self.set_status(REJECTED);
        self.effect("order_rejected", None)
    }

    /// Sets `orderStatus` and returns the old one.
    fn set_status(&mut self, status: &str) -> Option<String> {
        self.validation.order_status.replace(status.to_owned())
    }

    /// The answer of the status call for it.
    pub(super) fn status_data(&self, settings: &Settings, now: OffsetDateTime) -> StatusData<'_> {
        let mut data = self.validation.clone();
        let lag = Duration::seconds(i64::from(self.status_lag_seconds.unwrap_or(settings.status_lag_seconds)));
        let lags = self.is_closed() && self.refunded_at.is_some_and(|refunded_at| now - refunded_at < lag);
        if let (true, Some(before)) = (lags, &self.status_before_refund) {
            data.order_status = Some(before.clone());
        }
        // The errors are documented for this one status only, whatever was put.
        if let Some(section) = &mut data.caa_check_status
            && section.status.as_deref() != Some("ActionRequired")
        {
            section.latest_caa_check_errors = None;
        }
        StatusData { order_number: &self.order_number, data }
    }

    fn is(&self, status: &str) -> bool {
        self.validation.order_status.as_deref() == Some(status)
    }

    fn effect(&self, kind: &str, money: Option<(i64, String)>) -> Effect {
        let (amount_minor, currency) = money.unzip();
        Effect {
            kind: kind.to_owned(),
            target: self.order_number.clone(),
            amount_minor,
            currency,
            identifier: None,
            reference: None,
            account: None,
            fee_minor: None,
            paid_to: None,
        }
    }
}

impl AlreadyRefunded {
    /// The code with its message. The message of -20 is documented.
    fn code_and_message(self, sentence: &str) -> (i32, &str) {
        match self {
            Self::Refused => (-18, sentence),
            Self::Canceled => (-20, CANCELED),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("login_name", &self.login_name)
            .field("password", &"***")
            .field("locked", &self.locked)
            .finish()
    }
}

fn demo_order(number: u32) -> Order {
    let validation = PostPaymentData::processed_ssl_for(&format!("order-{number}.example.com"));
    Order { validation, ..Order::new(number.to_string()) }
}

fn example_data() -> PostPaymentData {
    PostPaymentData::processed_ssl_for("example.com")
}

fn demo_price() -> i64 {
    9900
}

fn demo_currency() -> String {
    "USD".to_owned()
}
