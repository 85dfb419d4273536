//! How the accounts are configured at each start, and which books are behind the hosts.
//!
//! ```text
//! the usual address  \  one set of books: two names of the same provider
//! a relay to it      /
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
use crate::rng::SeededRng;
use crate::run::{ACCOUNT_SETTINGS, PROVIDERS};
use crate::support::demo_accounts::{self, SECRETS, endpoint};

/// The host of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Usual,
    Relay,
    /// Other books.
    Other,
}

/// The configuration of one account at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setup {
    host: Host,
    /// Debitsuccess: under its new name.
    renamed: bool,
    /// The setting `former` names the earlier places with the same books.
    former: bool,
    /// The configuration does not have the account.
    removed: bool,
}

/// All hosts, and how the accounts are configured at present.
pub(crate) struct Places {
    /// The books behind [`Host::Other`].
    pub(crate) other: Providers,
    relays: [SocketAddr; 3],
    setups: [Setup; 3],
    /// Which of the two tokens name.com takes.
    token: usize,
    /// Starts with another configuration than the start before.
    pub(crate) changes: u64,
    /// Some start did not have every account.
    pub(crate) account_was_removed: bool,
    _relaying: Runtime,
}

const USUAL: Setup = Setup { host: Host::Usual, renamed: false, former: false, removed: false };
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
        Places {
            other,
            relays,
            setups: [USUAL; 3],
            token: 0,
            changes: 0,
            account_was_removed: false,
            _relaying: relaying,
        }
    }

    /// Draws the configuration of the next start; it often stays the same.
    pub(crate) fn draw(&mut self, rng: &mut SeededRng, providers: &Providers) {
        if rng.percent(45) {
            return;
        }
        let before = (self.setups, self.token);
        for (provider, setup) in PROVIDERS.into_iter().zip(&mut self.setups) {
            let host = rng.weighted(&[(55, Host::Usual), (25, Host::Relay), (20, Host::Other)]);
            let is_renamable = provider == Provider::Debitsuccess && host != Host::Other;
            *setup = Setup {
                host,
                renamed: rng.percent(40) && is_renamable,
                // Without it the gateway cannot know that the other login has the same payees.
                former: rng.percent(75) || provider == Provider::Debitsuccess,
                removed: rng.percent(8),
            };
        }
        if rng.percent(30) {
            self.renew_token(providers);
        }
        self.account_was_removed |= self.setups.iter().any(|setup| setup.removed);
        self.changes += u64::from(before != (self.setups, self.token));
    }

    /// Configures all accounts at one of the two sets of books.
    pub(crate) fn move_all_to(&mut self, other: bool) {
        let host = if other { Host::Other } else { Host::Usual };
        self.setups = [Setup { host, former: true, ..USUAL }; 3];
    }

    /// Whether the account at this provider is configured at present.
    pub(crate) fn is_configured(&self, provider: Provider) -> bool {
        PROVIDERS.into_iter().zip(self.setups).any(|(one, setup)| one == provider && !setup.removed)
    }

    /// The endpoints of the other set of books.
    pub(crate) fn endpoints_of_other(&self) -> Vec<String> {
        PROVIDERS.map(|provider| endpoint(provider, self.other.address(provider))).into()
    }

    fn renew_token(&mut self, providers: &Providers) {
        self.token = 1 - self.token;
        let account = || namecom::Account::new(demo_accounts::login(Provider::Namecom), SECRETS[1 + self.token].1);
        for world in [providers.world(), self.other.world()] {
            world.with_world(|world| world.providers.namecom.put_account(account()));
        }
    }

    /// The accounts' part of the configuration.
    pub(crate) fn settings(&self, providers: &Providers) -> String {
        let accounts = PROVIDERS.into_iter().zip(self.setups).filter(|(_, setup)| !setup.removed);
        accounts.map(|(provider, setup)| self.account(providers, provider, setup)).collect()
    }

    fn account(&self, providers: &Providers, provider: Provider, setup: Setup) -> String {
        let address = |host: Host| match host {
            Host::Usual => providers.address(provider),
            Host::Relay => self.relays[PROVIDERS.iter().position(|one| *one == provider).unwrap()],
            Host::Other => self.other.address(provider),
        };
        let endpoint_at = |host: Host| endpoint(provider, address(host));
        let login = if setup.renamed { NEW_LOGIN } else { demo_accounts::login(provider) };
        let mut section = if setup.host == Host::Other { &self.other } else { providers }.account(provider);
        section.endpoint = endpoint_at(setup.host);
        section.login = login;
        if provider == Provider::Namecom {
            section.secret = SECRETS[1 + self.token].0;
        }
        let mut text = section.to_toml();
        let mut line = |line: String| writeln!(text, "{line}").unwrap();
        if provider == Provider::Namecom {
            // Some doubts outlive the key.
            line("key_lifetime_s = 8".to_owned());
        }
        if setup.former && setup.host != Host::Other {
            let usual = demo_accounts::login(provider);
            let logins: &[&str] = if provider == Provider::Debitsuccess { &[usual, NEW_LOGIN] } else { &[usual] };
            let places =
                [Host::Usual, Host::Relay].into_iter().flat_map(|host| logins.iter().map(move |one| (host, *one)));
            let earlier = places.filter(|place| *place != (setup.host, login)).map(|(host, one)| {
                let login = if logins.len() > 1 { format!(", login = \"{one}\"") } else { String::new() };
                format!("{{ endpoint = \"{}\"{login} }}", endpoint_at(host))
            });
            line(format!("former = [{}]", earlier.collect::<Vec<_>>().join(", ")));
        }
        format!("{text}{ACCOUNT_SETTINGS}")
    }
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
                // Without a listener behind it, the connection closes, which leads to doubt.
                if let Ok(mut onward) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut from, &mut onward).await;
                }
            });
        }
    });
    address
}
