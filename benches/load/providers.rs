//! The simulators in a process of their own, without delays and limits, and their targets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use recoup::domain::clock::SystemClock;
use recoup::providers::Account;
use recoup::telemetry::metrics::Metrics;
use reqwest::Client;
use serde_json::{Value, json};
use simulators::request::Provider;
use simulators::{Config, Settings, Simulators};

use crate::callers::Way;
use crate::demo_accounts::{AccountSection, SECRETS, account_name};
use crate::processes::{Role, Server};

/// Concurrent requests that put targets.
const CONCURRENT_PUTS: usize = 4;

pub(crate) struct Providers {
    server: Server,
    folder: PathBuf,
    control: Client,
}

/// The role of the simulators: serves, and returns the addresses.
pub(crate) async fn serve(folder: &Path) -> Value {
    let mut settings = Settings::default();
    settings.namecom.requests_per_second = 0;
    settings.namecom.requests_per_hour = 0;
    let config = Config { settings, ca_file: Some(ca_file(folder)), ..Config::free_ports() };
    let simulators = Simulators::start(config).await.unwrap();
    let addresses = json!({
        "control": simulators.control_addr(),
        "sectigo": simulators.sectigo_addr(),
        "namecom": simulators.namecom_plaintext_addr(),
    });
    // The simulators run as long as this process.
    std::mem::forget(simulators);
    addresses
}

/// The file of the authority of Sectigo's certificate.
pub(crate) fn ca_file(folder: &Path) -> PathBuf {
    folder.join("ca.pem")
}

impl Providers {
    pub(crate) fn start(folder: &Path) -> Providers {
        let server = Server::start(Role::Simulators, folder, &[]);
        Providers { server, folder: folder.to_owned(), control: Client::new() }
    }

    pub(crate) fn addresses_text(&self) -> String {
        self.server.addresses_text()
    }

    pub(crate) fn namecom(&self) -> SocketAddr {
        self.server.address("namecom")
    }

    /// The gateway's account for this way, built from the same configuration.
    pub(crate) fn account(&self, way: Way) -> Account {
        let file = self.folder.join("accounts.toml");
        let unused = SocketAddr::from(([127, 0, 0, 1], 0));
        std::fs::write(&file, self.configuration(unused, &self.folder.join("unused.db"))).unwrap();
        let environment = SECRETS.map(|(name, value)| (name.into(), value.into()));
        let settings = recoup::config::Settings::load(Some(&file), environment).unwrap();
        let of_way = settings.accounts.into_iter().find(|account| account.name.as_str() == way.account()).unwrap();
        Account::connect(of_way, Arc::new(SystemClock), &Metrics::off()).unwrap()
    }

    /// A gateway's configuration: the defaults, but without rate limits and with many slots, which
    /// should not limit the measurement.
    pub(crate) fn configuration(&self, listen: SocketAddr, ledger: &Path) -> String {
        let ca_file = ca_file(&self.folder);
        let section = |way: Way| {
            let (provider, reuse) = match way {
                Way::Fresh => (Provider::Namecom, "reuse_connections = false\n"),
                Way::Pooled => (Provider::Namecom, "reuse_connections = true\n"),
                Way::Tls => (Provider::Sectigo, ""),
            };
            let address = self.server.address(account_name(provider));
            let account =
                AccountSection { name: way.account().to_owned(), ..AccountSection::new(provider, address, &ca_file) };
            format!("{}requests_per_second = 0\nrequests_per_hour = 0\nmax_in_flight = 256\n{reuse}", account.to_toml())
        };
        let accounts = [Way::Fresh, Way::Pooled, Way::Tls].map(section).concat();
        format!("listen = \"{listen}\"\nledger.path = \"{}\"\n{accounts}", ledger.display())
    }

    /// Puts an order for each number, with one item of the same number.
    pub(crate) async fn put(&self, way: Way, numbers: impl Iterator<Item = i32>) {
        let puts = numbers.map(|number| match way {
            Way::Tls => (format!("sectigo/orders/{number}"), json!({ "account": "demo", "price_minor": 9900 })),
            Way::Fresh | Way::Pooled => {
                let item = json!({ "id": number, "name": "a.example", "price_minor": 1299 });
                (format!("namecom/orders/{number}"), json!({ "account": "demo-test", "items": [item] }))
            }
        });
        let put = |(path, body): (String, Value)| async move {
            let call = self.control.put(self.control_url(&path)).header("content-type", "application/json");
            let answer = call.body(body.to_string()).send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        };
        stream::iter(puts).for_each_concurrent(CONCURRENT_PUTS, put).await;
    }

    /// How many requests of one operation arrived for one target.
    pub(crate) async fn requests(&self, operation: &str, target: &str) -> usize {
        let url = self.control_url(&format!("journal?operation={operation}&target={target}&limit=10000"));
        let answer = self.control.get(url).send().await.unwrap().text().await.unwrap();
        let journal: Value = serde_json::from_str(&answer).unwrap();
        journal["entries"].as_array().unwrap().len()
    }

    fn control_url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.server.address("control"))
    }
}
