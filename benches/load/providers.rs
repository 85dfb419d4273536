//! The other side: simulators in a process of their own, at zero delay and without limits, and the
//! targets that are put there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream};
use reqwest::Client;
use serde_json::{Value, json};
use simulators::{Config, Settings, Simulators};

use crate::callers::Way;
use crate::processes::{Role, Server};

/// The demo world's, by the variables that the configuration names.
pub(crate) const SECRETS: [(&str, &str); 2] = [("DEMO_PASSWORD", "demo-password"), ("DEMO_TOKEN", "demo-token")];
/// Targets are put over so many connections.
const PUTTING: usize = 4;

pub(crate) struct Providers {
    server: Server,
    folder: PathBuf,
    control: Client,
}

/// The role: serves, and says where.
pub(crate) async fn serve(folder: &Path) -> Value {
    let mut settings = Settings::default();
    settings.namecom.requests_per_second = 0;
    settings.namecom.requests_per_hour = 0;
    let config = Config { settings, ca_file: Some(ca_file(folder)), ..Config::free_ports() };
    let simulators = Simulators::start(config).await.unwrap();
    let said = json!({
        "control": simulators.control_addr(),
        "sectigo": simulators.sectigo_addr(),
        "namecom": simulators.namecom_plaintext_addr(),
    });
    // They live as long as this process.
    std::mem::forget(simulators);
    said
}

/// Where the authority of Sectigo's certificate is written to.
pub(crate) fn ca_file(folder: &Path) -> PathBuf {
    folder.join("ca.pem")
}

impl Providers {
    pub(crate) fn start(folder: &Path) -> Providers {
        let server = Server::start(Role::Simulators, folder, &[]);
        Providers { server, folder: folder.to_owned(), control: Client::new() }
    }

    pub(crate) fn addresses_text(&self) -> String {
        self.server.said()
    }

    pub(crate) fn namecom(&self) -> SocketAddr {
        self.server.address("namecom")
    }

    /// A gateway's: every default, but for the pace and the slots, which are not to be what is
    /// measured.
    pub(crate) fn configuration(&self, listen: SocketAddr, ledger: &Path) -> String {
        let (sectigo, namecom) = (self.server.address("sectigo"), self.namecom());
        let ca = ca_file(&self.folder);
        let namecom_account = |name: &str, reuse: bool| {
            format!(
                "[accounts.{name}]\nprovider = \"namecom\"\nendpoint = \"http://{namecom}\"\nusername = \"demo-test\"\n\
                 token_env = \"DEMO_TOKEN\"\nrequests_per_second = 0\nrequests_per_hour = 0\nmax_in_flight = 256\nreuse_connections = {reuse}\n"
            )
        };
        format!(
            "listen = \"{listen}\"\nledger.path = \"{}\"\n{}{}[accounts.{}]\nprovider = \"sectigo\"\n\
             endpoint = \"https://{sectigo}\"\nca_file = \"{}\"\nlogin_name = \"demo\"\n\
             login_password_env = \"DEMO_PASSWORD\"\nrequests_per_second = 0\nrequests_per_hour = 0\nmax_in_flight = 256\n",
            ledger.display(),
            namecom_account(Way::Fresh.account(), false),
            namecom_account(Way::Pooled.account(), true),
            Way::Tls.account(),
            ca.display(),
        )
    }

    /// Puts an order, with one item of the same number, for each.
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
        stream::iter(puts).for_each_concurrent(PUTTING, put).await;
    }

    /// How many requests of one kind came in for one target.
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
