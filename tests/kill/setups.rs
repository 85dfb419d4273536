//! How the accounts are configured from one start to the next, and what is behind the places.
//!
//! ```text
//! the usual address  \  one set of books: the host is another name of the same provider
//! a relay before it  /
//! another world         books of its own: a sandbox, or another business
//! ```

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use simulators::providers::debitsuccess::Login;
use simulators::providers::namecom;
use simulators::request::{Deduplication, Provider};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio::runtime::Runtime;

use crate::providers::{self, Providers};
use crate::rng::Dice;
use crate::run::{OF_EACH_ACCOUNT, PROVIDERS, word};
use crate::support::SECRETS;

/// Where an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Usual,
    Relay,
    /// Other books.
    Other,
}

/// One account, as a start has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setup {
    host: Host,
    /// Debitsuccess: under its new name.
    renamed: bool,
    /// The configuration names the earlier places of the same books.
    former: bool,
    gone: bool,
}

/// All places, and how the accounts are configured at present.
pub(crate) struct Places {
    /// The books behind [`Host::Other`].
    pub(crate) other: Providers,
    relays: [SocketAddr; 3],
    setups: [Setup; 3],
    /// Which of the two tokens name.com takes.
    token: usize,
    /// Starts with another configuration than the one before.
    pub(crate) changes: u64,
    /// Some start had an account less.
    pub(crate) was_one_gone: bool,
    _relaying: Runtime,
}

const USUAL: Setup = Setup { host: Host::Usual, renamed: false, former: false, gone: false };
const LOGIN: &str = "demo";
const NEW_LOGIN: &str = "renamed";

impl Places {
    pub(crate) fn new(folder: &Path, providers: &Providers, deduplication: Deduplication) -> Places {
        let folder = folder.join("other");
        std::fs::create_dir_all(&folder).unwrap();
        let other = Providers::start(&folder, providers::settings(deduplication));
        let relaying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let relays = PROVIDERS.map(|provider| relay(&relaying, providers.address(provider)));
        let password = SECRETS[0].1.to_owned();
        let renamed = Login { username: NEW_LOGIN.to_owned(), password };
        providers.world().with_world(|world| world.providers.debitsuccess.put_login(renamed));
        Places { other, relays, setups: [USUAL; 3], token: 0, changes: 0, was_one_gone: false, _relaying: relaying }
    }

    /// Draws the next start's configuration; mostly it stays as it is.
    pub(crate) fn draw(&mut self, dice: &mut Dice, providers: &Providers) {
        if dice.percent(45) {
            return;
        }
        let before = (self.setups, self.token);
        for (provider, setup) in PROVIDERS.into_iter().zip(&mut self.setups) {
            let host = dice.weighted(&[(55, Host::Usual), (25, Host::Relay), (20, Host::Other)]);
            let is_renamable = provider == Provider::Debitsuccess && host != Host::Other;
            *setup = Setup {
                host,
                renamed: dice.percent(40) && is_renamable,
                // Without it, nothing is known of the same payees under the other login.
                former: dice.percent(75) || provider == Provider::Debitsuccess,
                gone: dice.percent(8),
            };
        }
        if dice.percent(30) {
            self.renew_token(providers);
        }
        self.was_one_gone |= self.setups.iter().any(|setup| setup.gone);
        self.changes += u64::from(before != (self.setups, self.token));
    }

    /// Everything at one of the two sets of books: at last all refunds have their account.
    pub(crate) fn gather_at(&mut self, other: bool) {
        let host = if other { Host::Other } else { Host::Usual };
        self.setups = [Setup { host, former: true, ..USUAL }; 3];
    }

    /// The origins that have books of their own behind them.
    pub(crate) fn origins_of_other(&self) -> Vec<String> {
        PROVIDERS.map(|provider| origin(provider, self.other.address(provider))).into()
    }

    fn renew_token(&mut self, providers: &Providers) {
        self.token = 1 - self.token;
        let account = || namecom::Account::new("demo-test", SECRETS[1 + self.token].1);
        for world in [providers.world(), self.other.world()] {
            world.with_world(|world| world.providers.namecom.put_account(account()));
        }
    }

    /// The accounts' part of the configuration.
    pub(crate) fn settings(&self, providers: &Providers) -> String {
        let accounts = PROVIDERS.into_iter().zip(self.setups).filter(|(_, setup)| !setup.gone);
        accounts.map(|(provider, setup)| self.account(providers, provider, setup)).collect()
    }

    fn account(&self, providers: &Providers, provider: Provider, setup: Setup) -> String {
        let address = |host: Host| match host {
            Host::Usual => providers.address(provider),
            Host::Relay => self.relays[PROVIDERS.iter().position(|one| *one == provider).unwrap()],
            Host::Other => self.other.address(provider),
        };
        let endpoint = |host: Host| origin(provider, address(host));
        let word = word(provider);
        let mut text = format!("[accounts.{word}]\nprovider = \"{word}\"\nendpoint = \"{}\"\n", endpoint(setup.host));
        let login = if setup.renamed { NEW_LOGIN } else { LOGIN };
        let mut line = |line: String| writeln!(text, "{line}").unwrap();
        match provider {
            Provider::Sectigo => {
                let at = if setup.host == Host::Other { &self.other } else { providers };
                line(format!("ca_file = \"{}\"", at.ca_file().display()));
                line(format!("login_name = \"{LOGIN}\"\nlogin_password_env = \"{}\"", SECRETS[0].0));
            }
            Provider::Namecom => {
                line(format!("username = \"demo-test\"\ntoken_env = \"{}\"", SECRETS[1 + self.token].0));
                // Some doubts outlive the key.
                line("key_lifetime_s = 8".to_owned());
            }
            Provider::Debitsuccess => {
                line(format!("currency = \"AUD\"\nusername = \"{login}\"\npassword_env = \"{}\"", SECRETS[0].0));
            }
        }
        if setup.former && setup.host != Host::Other {
            let logins: &[&str] = if provider == Provider::Debitsuccess { &[LOGIN, NEW_LOGIN] } else { &[LOGIN] };
            let places =
                [Host::Usual, Host::Relay].into_iter().flat_map(|host| logins.iter().map(move |one| (host, *one)));
            let earlier = places.filter(|place| *place != (setup.host, login)).map(|(host, one)| {
                let login = if logins.len() > 1 { format!(", login = \"{one}\"") } else { String::new() };
                format!("{{ endpoint = \"{}\"{login} }}", endpoint(host))
            });
            line(format!("former = [{}]", earlier.collect::<Vec<_>>().join(", ")));
        }
        format!("{text}{OF_EACH_ACCOUNT}")
    }
}

/// As the ledger has it.
fn origin(provider: Provider, address: SocketAddr) -> String {
    let scheme = if provider == Provider::Sectigo { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Another address of the same provider.
fn relay(runtime: &Runtime, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let listener = Listener::from_std(listener).unwrap();
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Where nothing listens behind it, the connection closes: that is doubt.
                if let Ok(mut onward) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut from, &mut onward).await;
                }
            });
        }
    });
    address
}
