//! How the accounts are configured at each start (host, login, token, currency and name), and which
//! of these sites have the same books.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use recoup::domain::ids::AccountName;
use recoup::domain::money::Currency;
use recoup::domain::place::{Destination, Place};
use recoup::providers::{FormerPlace, Url, place_of};
use simulators::request::{Request, Response};

use crate::plan::{Fault, Op, PROVIDERS, Plan, ProviderKind, Step, WireFault};
use crate::rng::SeededRng;
use crate::world::{self, PASSWORD};

/// One login at one host of a provider, with one token and in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) provider: ProviderKind,
    /// 0 or 1.
    pub(crate) host: u8,
    /// 0 or 1.
    pub(crate) login: u8,
    /// name.com: 0 or 1.
    pub(crate) token: u8,
    /// Debitsuccess: NZD instead of AUD.
    pub(crate) other_currency: bool,
}

/// How the accounts of one provider are configured from one start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccountSetup {
    pub(crate) from_start: u64,
    pub(crate) site: Site,
    pub(crate) naming: AccountNaming,
    /// The setting `former` names the earlier sites with the same books.
    pub(crate) former: bool,
}

/// Under which names a provider's accounts are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountNaming {
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
    /// Another one; the usual one belongs to an account of another provider.
    Lent,
}

/// Which sites of a provider have the same books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedBooks {
    /// Both hosts have the same books: neither of them is a sandbox.
    pub(crate) across_hosts: PerProvider,
    /// Both logins belong to one business, under its old and its new name.
    pub(crate) across_logins: PerProvider,
    /// name.com knows a key only under the login and the token that the key was sent with.
    pub(crate) keys_bound_to_credentials: bool,
}

/// One answer for each provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerProvider {
    pub(crate) sectigo: bool,
    pub(crate) namecom: bool,
    pub(crate) debitsuccess: bool,
}

/// One configured account.
#[derive(Debug, Clone)]
pub(crate) struct ConfiguredAccount {
    pub(crate) site: Site,
    pub(crate) at: Destination,
    pub(crate) former: Vec<FormerSite>,
}

/// An earlier site of an account, as the configuration names it and as the plan does.
#[derive(Debug, Clone)]
pub(crate) struct FormerSite {
    pub(crate) place: FormerPlace,
    pub(crate) site: Site,
}

/// Follows a key that the provider tells apart from the same key under another login or token.
const KEY_BINDING: char = '.';

impl PerProvider {
    pub(crate) const fn all(value: bool) -> PerProvider {
        PerProvider { sectigo: value, namecom: value, debitsuccess: value }
    }

    fn of(self, provider: ProviderKind) -> bool {
        match provider {
            ProviderKind::Sectigo => self.sectigo,
            ProviderKind::Namecom => self.namecom,
            ProviderKind::Debitsuccess => self.debitsuccess,
        }
    }
}

impl SharedBooks {
    /// Every site has books of its own.
    pub(crate) const NONE: SharedBooks = SharedBooks {
        across_hosts: PerProvider::all(false),
        across_logins: PerProvider::all(false),
        keys_bound_to_credentials: false,
    };

    /// The number of the books of a site.
    pub(crate) fn books(&self, site: Site) -> u8 {
        let host = if self.across_hosts.of(site.provider) { 0 } else { site.host };
        let login = if self.across_logins.of(site.provider) { 0 } else { site.login };
        host + 2 * login
    }
}

impl Site {
    /// The site of a provider's account while nothing has changed.
    pub(crate) fn usual(provider: ProviderKind) -> Site {
        Site { provider, host: 0, login: 0, token: 0, other_currency: false }
    }

    pub(crate) fn endpoint(self) -> Url {
        format!("https://{}/", self.provider.hosts()[usize::from(self.host)]).parse().unwrap()
    }

    pub(crate) fn login_name(self) -> &'static str {
        self.provider.login_names()[usize::from(self.login)]
    }

    /// The password, or the token.
    pub(crate) fn password(self) -> String {
        if self.token == 0 { PASSWORD.to_owned() } else { format!("{PASSWORD}-renewed") }
    }

    pub(crate) fn currency(self) -> Currency {
        let code = match (self.provider, self.other_currency) {
            (ProviderKind::Debitsuccess, true) => "NZD",
            (ProviderKind::Debitsuccess, false) => "AUD",
            _ => "USD",
        };
        Currency::parse(code).unwrap()
    }

    /// The place in the ledger.
    pub(crate) fn place(self) -> Place {
        place_of(self.provider, &self.endpoint(), self.login_name(), self.currency())
    }

    fn is_same_place(self, other: Site) -> bool {
        (self.provider, self.host, self.login) == (other.provider, other.host, other.login)
    }

    /// The site with this place in the ledger.
    pub(crate) fn of(provider: ProviderKind, place: &Place) -> Option<Site> {
        let sites = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, login)| Site { host, login, ..Site::usual(provider) });
        let all = sites.into_iter().flat_map(|site| [site, Site { other_currency: true, ..site }]);
        all.into_iter().find(|site| site.place() == *place)
    }

    /// The request as the books of the site read it: the books have one login and one token.
    pub(crate) fn as_booked(self, shared_books: &SharedBooks, request: &Request) -> Request {
        let usual = Site::usual(self.provider);
        let with_body = |body: String| {
            let Request { method, path, headers, .. } = request.clone();
            let mut booked = Request::new(method, path, headers, body.into(), request.tls);
            booked.query.clone_from(&request.query);
            booked
        };
        let text = || String::from_utf8_lossy(&request.body).into_owned();
        match self.provider {
            _ if self.login == 0 && self.token == 0 => request.clone(),
            ProviderKind::Sectigo => {
                let name = |site: Site| format!("loginName={}", site.login_name());
                with_body(text().replace(&name(self), &name(usual)))
            }
            ProviderKind::Debitsuccess => {
                let name = |site: Site| format!(">{}<", site.login_name());
                with_body(text().replace(&name(self), &name(usual)))
            }
            ProviderKind::Namecom => {
                let mut booked = request.clone();
                let sent = booked.headers.get(AUTHORIZATION).map(|sent| sent.as_bytes() == self.basic().as_bytes());
                if sent == Some(true) {
                    booked.headers.insert(AUTHORIZATION, HeaderValue::from_str(&usual.basic()).unwrap());
                }
                if let Some(key) =
                    booked.headers.get_mut("x-idempotency-key").filter(|_| shared_books.keys_bound_to_credentials)
                {
                    let bound = format!("{}{KEY_BINDING}{}{}", key.to_str().unwrap(), self.login, self.token);
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

/// The key as it was sent.
pub(crate) fn unbound_key(key: &str) -> &str {
    key.split(KEY_BINDING).next().unwrap_or(key)
}

/// The answer, echoing the key as it was sent.
pub(crate) fn with_key_as_sent(mut answer: Response) -> Response {
    if let Some(key) = answer.headers.get_mut("x-idempotency-key") {
        *key = HeaderValue::from_str(unbound_key(key.to_str().unwrap())).unwrap();
    }
    answer
}

impl From<Site> for AccountSetup {
    /// From the second start on, with `former` naming the earlier sites.
    fn from(site: Site) -> AccountSetup {
        AccountSetup { from_start: 1, site, naming: AccountNaming::Usual, former: true }
    }
}

impl AccountSetup {
    /// While nothing has changed.
    fn usual(provider: ProviderKind) -> AccountSetup {
        AccountSetup { from_start: 0, site: Site::usual(provider), naming: AccountNaming::Usual, former: false }
    }
}

/// All accounts of one start.
pub(crate) fn accounts(plan: &Plan, start: u64, accounts_restored: bool) -> Vec<ConfiguredAccount> {
    let of = |provider: ProviderKind| {
        let mut changes =
            plan.setups.iter().filter(|setup| setup.site.provider == provider && setup.from_start <= start);
        changes.next_back().filter(|_| !accounts_restored).copied().unwrap_or_else(|| AccountSetup::usual(provider))
    };
    let mut accounts: Vec<(AccountName, Site, bool)> = Vec::new();
    for provider in PROVIDERS {
        let AccountSetup { site, naming, former, .. } = of(provider);
        let [usual, second] = [provider.account_name(), provider.second_account()];
        match naming {
            AccountNaming::Usual => accounts.push((usual, site, former)),
            AccountNaming::Second => accounts.push((second, site, former)),
            AccountNaming::Gone => {}
            AccountNaming::WithAnotherHost => {
                accounts.push((usual, site, former));
                accounts.push((second, Site { host: 1 - site.host, ..site }, former));
            }
            AccountNaming::WithAnotherLogin => {
                accounts.push((usual, site, former));
                accounts.push((second, Site { login: 1 - site.login, ..site }, former));
            }
            AccountNaming::Lent => {
                accounts.push((second, site, former));
                let borrower = PROVIDERS[(provider as usize + 1) % PROVIDERS.len()];
                accounts.push((usual, of(borrower).site, false));
            }
        }
    }
    let sites: Vec<Site> = accounts.iter().map(|(_, site, _)| *site).collect();
    let configured = accounts.into_iter().map(|(account, site, former)| {
        let earlier = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, login)| Site { host, login, ..site });
        // Only sites with the same books that are no site of a present account: the gateway would
        // refuse anything else, or it would not be true.
        let earlier = earlier.into_iter().filter(|one| {
            let is_taken = sites.iter().any(|taken| taken.is_same_place(*one));
            former && !is_taken && plan.shared_books.books(*one) == plan.shared_books.books(site)
        });
        let former = |one: Site| {
            let login = (one.login != site.login).then(|| one.login_name().to_owned());
            FormerSite {
                place: FormerPlace { endpoint: (one.host != site.host).then(|| one.endpoint()), login },
                site: one,
            }
        };
        ConfiguredAccount {
            site,
            at: Destination { account, place: site.place() },
            former: earlier.map(former).collect(),
        }
    });
    configured.collect()
}

/// Changes the configuration from start to start; the operator says so in some runs only.
pub(crate) fn change(rng: &mut SeededRng, plan: &mut Plan) {
    let per_provider = |rng: &mut SeededRng| PerProvider {
        sectigo: rng.percent(50),
        namecom: rng.percent(50),
        debitsuccess: rng.percent(50),
    };
    plan.shared_books = SharedBooks {
        across_hosts: per_provider(rng),
        across_logins: per_provider(rng),
        keys_bound_to_credentials: rng.percent(50),
    };
    plan.at_second_account = if rng.percent(40) { rng.next() as u8 } else { 0 };
    plan.restores_accounts = rng.percent(35);
    for from_start in 0..rng.between(2, 7) {
        if rng.percent(if from_start == 0 { 30 } else { 75 }) {
            for provider in PROVIDERS {
                if rng.percent(60) {
                    plan.setups.push(setup(rng, from_start, provider));
                }
            }
        }
    }
    // Leaves refunds open at the next start: otherwise no change could do any harm.
    for target in 0..plan.targets.len() as u8 {
        let timeout = rng.percent(50);
        let fault = rng.weighted(&[
            (3, None),
            (2, Some(Fault::NotSent)),
            (2, Some(Fault::LostBefore { timeout })),
            (3, Some(Fault::LostAfter { timeout })),
            (1, Some(Fault::LateCommit { after_s: 400 })),
        ]);
        plan.wire_faults.extend(fault.map(|fault| WireFault { target, moves_money: true, nth: 0, fault }));
    }
    let refunds = 1 + plan.steps.iter().filter_map(|step| step.op.refund()).max().unwrap_or(0);
    for _ in 0..rng.between(1, 4) {
        let down_s = rng.weighted(&[(60, 1), (30, 700), (10, 90_000)]);
        let op = match rng.percent(50) {
            true => Op::Restart { drain_s: rng.between(0, 30), down_s },
            false => Op::Crash { down_s },
        };
        insert(rng, plan, op);
    }
    for _ in 0..rng.between(0, 8) {
        let refund = rng.index(usize::from(refunds)) as u8;
        let op = match rng.between(0, 9) {
            0..=4 => Op::Reassign { refund, second: rng.percent(50), stale_etag: rng.percent(15) },
            5..=6 => Op::Resolve { refund, send_again: rng.percent(30), take_over: rng.percent(80) },
            7 => Op::Cancel { refund, old_etag: rng.percent(50), gives_up_after_ms: None },
            8 => Op::Reconcile { refund, gives_up_after_ms: None },
            _ => Op::AdvanceClock { minutes: rng.weighted(&[(50, 11), (50, 1_500)]) },
        };
        insert(rng, plan, op);
    }
}

fn insert(rng: &mut SeededRng, plan: &mut Plan, op: Op) {
    // Late steps are likelier than early ones.
    let last = plan.steps.len() as u64;
    let place = rng.between(0, last).max(rng.between(0, last)) as usize;
    let after_ms = rng.weighted(&[(50, 100), (30, 5_000), (20, 60_000)]);
    plan.steps.insert(place, Step { after_ms, op });
}

fn setup(rng: &mut SeededRng, from_start: u64, provider: ProviderKind) -> AccountSetup {
    let is_other = |rng: &mut SeededRng| u8::from(rng.percent(40));
    let site = Site {
        provider,
        host: is_other(rng),
        login: is_other(rng),
        token: if provider == ProviderKind::Namecom { is_other(rng) } else { 0 },
        other_currency: provider == ProviderKind::Debitsuccess && rng.percent(15),
    };
    let naming = rng.weighted(&[
        (50, AccountNaming::Usual),
        (14, AccountNaming::Second),
        (12, AccountNaming::Gone),
        (8, AccountNaming::WithAnotherHost),
        (8, AccountNaming::WithAnotherLogin),
        (8, AccountNaming::Lent),
    ]);
    AccountSetup { from_start, site, naming, former: rng.percent(65) }
}

/// What the simulation knows about a provider besides its kind.
pub(crate) trait SimulatedProvider {
    /// The usual host, and another one.
    fn hosts(self) -> [&'static str; 2];
    /// The usual login, and another one.
    fn login_names(self) -> [&'static str; 2];
    /// The usual name of its account.
    fn account_name(self) -> AccountName;
    /// The name of its second account.
    fn second_account(self) -> AccountName;
}

impl SimulatedProvider for ProviderKind {
    fn hosts(self) -> [&'static str; 2] {
        match self {
            ProviderKind::Sectigo => ["secure.sectigo.example", "other.sectigo.example"],
            ProviderKind::Namecom => ["api.name.example", "api.other-name.example"],
            ProviderKind::Debitsuccess => ["ws.debitsuccess.example", "ws.other-debitsuccess.example"],
        }
    }

    fn login_names(self) -> [&'static str; 2] {
        match self {
            ProviderKind::Sectigo => [world::SECTIGO_LOGIN, "renamed"],
            ProviderKind::Namecom => [world::NAMECOM_LOGIN, "renamed"],
            ProviderKind::Debitsuccess => [world::DEBITSUCCESS_LOGIN, "renamed"],
        }
    }

    fn account_name(self) -> AccountName {
        AccountName::parse(self.as_str()).unwrap()
    }

    fn second_account(self) -> AccountName {
        AccountName::parse(&format!("{}-2", self.as_str())).unwrap()
    }
}
