//! How the accounts are configured from one start to the next: at which host, under which login,
//! with which token, in which currency and under which name; and which of these places have the
//! same books behind them.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use recoup::domain::ids::{AccountName, ProviderKind};
use recoup::domain::money::Currency;
use recoup::domain::place::{Destination, Place};
use recoup::providers::{FormerPlace, Url, place_of};
use simulators::request::{Request, Response};

use crate::plan::{Harm, Op, Plan, Step, Who, WireHarm};
use crate::rng::Dice;
use crate::world::{self, PASSWORD};

/// One login at one host of a provider, with one token, in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) who: Who,
    /// 0 or 1.
    pub(crate) host: u8,
    /// 0 or 1.
    pub(crate) login: u8,
    /// name.com: 0 or 1.
    pub(crate) token: u8,
    /// Debitsuccess: in NZD, and not in AUD.
    pub(crate) other_currency: bool,
}

/// From this start on the accounts of one provider are so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) from_start: u64,
    pub(crate) spot: Spot,
    pub(crate) named: Named,
    /// The operator names the earlier places of the same books.
    pub(crate) former: bool,
}

/// Under which names a provider's accounts are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// The usual one.
    Usual,
    /// Another one; the usual one is gone.
    Second,
    /// None.
    Gone,
    /// The usual one, and another one at another host.
    WithAnotherHost,
    /// The usual one, and another one under another login.
    WithAnotherLogin,
    /// Another one, and the usual one is an account of another provider.
    Lent,
}

/// What is behind the places, and who knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    /// By provider: both hosts have the same books, one of them is no sandbox.
    pub(crate) one_behind_hosts: [bool; 3],
    /// By provider: both logins are one business, under its old name and its new one.
    pub(crate) one_behind_logins: [bool; 3],
    /// name.com knows a key only under the login and the token that it was sent with.
    pub(crate) keys_are_bound: bool,
}

/// One configured account.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    pub(crate) spot: Spot,
    pub(crate) at: Destination,
    pub(crate) former: Vec<(FormerPlace, Spot)>,
}

/// Behind every key that a provider tells from the same key under another login or token.
const BOUND: char = '.';

impl Behind {
    /// Every place has books of its own.
    pub(crate) const EACH_ITS_OWN: Behind =
        Behind { one_behind_hosts: [false; 3], one_behind_logins: [false; 3], keys_are_bound: false };

    /// Which books are behind a place.
    pub(crate) fn books(&self, spot: Spot) -> u8 {
        let host = if self.one_behind_hosts[spot.who as usize] { 0 } else { spot.host };
        let login = if self.one_behind_logins[spot.who as usize] { 0 } else { spot.login };
        host + 2 * login
    }
}

impl Spot {
    /// Where a provider's account is as long as nothing changes.
    pub(crate) fn usual(who: Who) -> Spot {
        Spot { who, host: 0, login: 0, token: 0, other_currency: false }
    }

    pub(crate) fn endpoint(self) -> Url {
        format!("https://{}/", self.who.hosts()[usize::from(self.host)]).parse().unwrap()
    }

    pub(crate) fn login_name(self) -> &'static str {
        self.who.login_names()[usize::from(self.login)]
    }

    /// The password, or the token.
    pub(crate) fn password(self) -> String {
        if self.token == 0 { PASSWORD.to_owned() } else { format!("{PASSWORD}-renewed") }
    }

    pub(crate) fn currency(self) -> Currency {
        let code = match (self.who, self.other_currency) {
            (Who::Debitsuccess, true) => "NZD",
            (Who::Debitsuccess, false) => "AUD",
            _ => "USD",
        };
        Currency::parse(code).unwrap()
    }

    /// As the ledger keeps it.
    pub(crate) fn place(self) -> Place {
        place_of(self.who.provider(), &self.endpoint(), self.login_name(), self.currency())
    }

    fn is_same_place(self, other: Spot) -> bool {
        (self.who, self.host, self.login) == (other.who, other.host, other.login)
    }

    /// The place that the ledger has so.
    pub(crate) fn of(who: Who, place: &Place) -> Option<Spot> {
        let spots = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, login)| Spot { host, login, ..Spot::usual(who) });
        let all = spots.into_iter().flat_map(|spot| [spot, Spot { other_currency: true, ..spot }]);
        all.into_iter().find(|spot| spot.place() == *place)
    }

    /// The request as the books behind the place read it: they have one login, and one token.
    pub(crate) fn as_booked(self, behind: &Behind, request: &Request) -> Request {
        let usual = Spot::usual(self.who);
        let with_body = |body: String| {
            let Request { method, path, headers, .. } = request.clone();
            let mut booked = Request::new(method, path, headers, body.into(), request.tls);
            booked.query.clone_from(&request.query);
            booked
        };
        let text = || String::from_utf8_lossy(&request.body).into_owned();
        match self.who {
            _ if self.login == 0 && self.token == 0 => request.clone(),
            Who::Sectigo => {
                let name = |spot: Spot| format!("loginName={}", spot.login_name());
                with_body(text().replace(&name(self), &name(usual)))
            }
            Who::Debitsuccess => {
                let name = |spot: Spot| format!(">{}<", spot.login_name());
                with_body(text().replace(&name(self), &name(usual)))
            }
            Who::Namecom => {
                let mut booked = request.clone();
                let sent = booked.headers.get(AUTHORIZATION).map(|sent| sent.as_bytes() == self.basic().as_bytes());
                if sent == Some(true) {
                    booked.headers.insert(AUTHORIZATION, HeaderValue::from_str(&usual.basic()).unwrap());
                }
                if let Some(key) = booked.headers.get_mut("x-idempotency-key").filter(|_| behind.keys_are_bound) {
                    let bound = format!("{}{BOUND}{}{}", key.to_str().unwrap(), self.login, self.token);
                    *key = HeaderValue::from_str(&bound).unwrap();
                }
                booked
            }
        }
    }

    fn basic(self) -> String {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.login_name(), self.password());
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
    }
}

/// A key as it was sent.
pub(crate) fn unbound(key: &str) -> &str {
    key.split(BOUND).next().unwrap_or(key)
}

/// The answer with the key as it was sent.
pub(crate) fn with_key_as_sent(mut answer: Response) -> Response {
    if let Some(key) = answer.headers.get_mut("x-idempotency-key") {
        *key = HeaderValue::from_str(unbound(key.to_str().unwrap())).unwrap();
    }
    answer
}

impl From<Spot> for Setup {
    /// From the second start on, with the earlier places named.
    fn from(spot: Spot) -> Setup {
        Setup { from_start: 1, spot, named: Named::Usual, former: true }
    }
}

impl Setup {
    /// As it is where nothing is changed.
    fn usual(who: Who) -> Setup {
        Setup { from_start: 0, spot: Spot::usual(who), named: Named::Usual, former: false }
    }
}

/// All accounts of one start.
pub(crate) fn accounts(plan: &Plan, start: u64, came_back: bool) -> Vec<Configured> {
    let of = |who: Who| {
        let mut changes = plan.setups.iter().filter(|setup| setup.spot.who == who && setup.from_start <= start);
        changes.next_back().filter(|_| !came_back).copied().unwrap_or_else(|| Setup::usual(who))
    };
    let mut accounts: Vec<(AccountName, Spot, bool)> = Vec::new();
    for who in Who::ALL {
        let Setup { spot, named, former, .. } = of(who);
        let [usual, second] = [who.account_name(), who.second_account()];
        match named {
            Named::Usual => accounts.push((usual, spot, former)),
            Named::Second => accounts.push((second, spot, former)),
            Named::Gone => {}
            Named::WithAnotherHost => {
                accounts.push((usual, spot, former));
                accounts.push((second, Spot { host: 1 - spot.host, ..spot }, former));
            }
            Named::WithAnotherLogin => {
                accounts.push((usual, spot, former));
                accounts.push((second, Spot { login: 1 - spot.login, ..spot }, former));
            }
            Named::Lent => {
                accounts.push((second, spot, former));
                let borrower = Who::ALL[(who as usize + 1) % 3];
                accounts.push((usual, of(borrower).spot, false));
            }
        }
    }
    let places: Vec<Spot> = accounts.iter().map(|(_, spot, _)| *spot).collect();
    let configured = accounts.into_iter().map(|(account, spot, former)| {
        let earlier = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, login)| Spot { host, login, ..spot });
        // The same books, and no place of a present account: all else would be refused, or a lie.
        let earlier = earlier.into_iter().filter(|one| {
            let is_taken = places.iter().any(|place| place.is_same_place(*one));
            former && !is_taken && plan.behind.books(*one) == plan.behind.books(spot)
        });
        let former = |one: Spot| {
            let login = (one.login != spot.login).then(|| one.login_name().to_owned());
            (FormerPlace { endpoint: (one.host != spot.host).then(|| one.endpoint()), login }, one)
        };
        Configured { spot, at: Destination { account, place: spot.place() }, former: earlier.map(former).collect() }
    });
    configured.collect()
}

/// Has the configuration change from start to start; some people know of it, and some do not.
pub(crate) fn change(dice: &mut Dice, plan: &mut Plan) {
    let three = |dice: &mut Dice| [dice.percent(50), dice.percent(50), dice.percent(50)];
    plan.behind =
        Behind { one_behind_hosts: three(dice), one_behind_logins: three(dice), keys_are_bound: dice.percent(50) };
    plan.at_second_account = if dice.percent(40) { dice.next() as u8 } else { 0 };
    plan.comes_back = dice.percent(35);
    for from_start in 0..dice.between(2, 7) {
        if dice.percent(if from_start == 0 { 30 } else { 75 }) {
            for who in Who::ALL {
                if dice.percent(60) {
                    plan.setups.push(setup(dice, from_start, who));
                }
            }
        }
    }
    // What is open when the next start comes: else there is nothing that a change could do harm to.
    for target in 0..plan.targets.len() as u8 {
        let timeout = dice.percent(50);
        let harm = dice.weighted(&[
            (3, None),
            (2, Some(Harm::NotSent)),
            (2, Some(Harm::LostBefore { timeout })),
            (3, Some(Harm::LostAfter { timeout })),
            (1, Some(Harm::Late { after_s: 400 })),
        ]);
        plan.harms.extend(harm.map(|harm| WireHarm { target, moving: true, nth: 0, harm }));
    }
    let refunds = 1 + plan.steps.iter().filter_map(|step| step.op.refund()).max().unwrap_or(0);
    for _ in 0..dice.between(1, 4) {
        let down_s = dice.weighted(&[(60, 1), (30, 700), (10, 90_000)]);
        let op = match dice.percent(50) {
            true => Op::Restart { drain_s: dice.between(0, 30), down_s },
            false => Op::Crash { down_s },
        };
        insert(dice, plan, op);
    }
    for _ in 0..dice.between(0, 8) {
        let refund = dice.place(usize::from(refunds)) as u8;
        let op = match dice.between(0, 9) {
            0..=4 => Op::Reassign { refund, second: dice.percent(50), stale_etag: dice.percent(15) },
            5..=6 => Op::Resolve { refund, send_again: dice.percent(30), take_over: dice.percent(80) },
            7 => Op::Cancel { refund, old_etag: dice.percent(50), leaves_ms: None },
            8 => Op::Reconcile { refund, leaves_ms: None },
            _ => Op::Leap { minutes: dice.weighted(&[(50, 11), (50, 1_500)]) },
        };
        insert(dice, plan, op);
    }
}

fn insert(dice: &mut Dice, plan: &mut Plan, op: Op) {
    // Rather late than early.
    let last = plan.steps.len() as u64;
    let place = dice.between(0, last).max(dice.between(0, last)) as usize;
    let after_ms = dice.weighted(&[(50, 100), (30, 5_000), (20, 60_000)]);
    plan.steps.insert(place, Step { after_ms, op });
}

fn setup(dice: &mut Dice, from_start: u64, who: Who) -> Setup {
    let is_other = |dice: &mut Dice| u8::from(dice.percent(40));
    let spot = Spot {
        who,
        host: is_other(dice),
        login: is_other(dice),
        token: if who == Who::Namecom { is_other(dice) } else { 0 },
        other_currency: who == Who::Debitsuccess && dice.percent(15),
    };
    let named = dice.weighted(&[
        (50, Named::Usual),
        (14, Named::Second),
        (12, Named::Gone),
        (8, Named::WithAnotherHost),
        (8, Named::WithAnotherLogin),
        (8, Named::Lent),
    ]);
    Setup { from_start, spot, named, former: dice.percent(65) }
}

impl Who {
    /// Where the provider is: at the usual host, and at another one.
    pub(crate) fn hosts(self) -> [&'static str; 2] {
        match self {
            Who::Sectigo => ["secure.sectigo.example", "other.sectigo.example"],
            Who::Namecom => ["api.name.example", "api.other-name.example"],
            Who::Debitsuccess => ["ws.debitsuccess.example", "ws.other-debitsuccess.example"],
        }
    }

    /// The usual login, and another one.
    pub(crate) fn login_names(self) -> [&'static str; 2] {
        match self {
            Who::Sectigo => [world::SECTIGO_LOGIN, "renamed"],
            Who::Namecom => [world::NAMECOM_LOGIN, "renamed"],
            Who::Debitsuccess => [world::DEBITSUCCESS_LOGIN, "renamed"],
        }
    }

    pub(crate) fn provider(self) -> ProviderKind {
        match self {
            Who::Sectigo => ProviderKind::Sectigo,
            Who::Namecom => ProviderKind::Namecom,
            Who::Debitsuccess => ProviderKind::Debitsuccess,
        }
    }

    pub(crate) fn account_name(self) -> AccountName {
        AccountName::parse(self.account()).unwrap()
    }

    /// What its account is called where it is not called as usual.
    pub(crate) fn second_account(self) -> AccountName {
        AccountName::parse(&format!("{}-2", self.account())).unwrap()
    }
}
