//! Running simulators, and refund requests to each provider as a client would send them.

use std::time::Duration;

use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::Value;
use simulators::{Config, Credentials, JournalEntry, Provider, Rule, Simulators, WorldHandle};

/// Simulators on free ports, and a client that opens a connection for each request.
pub(crate) struct TestBench {
    pub(crate) simulators: Simulators,
    pub(crate) client: Client,
}

/// The credentials of a world for each provider: a name and a secret.
pub(crate) struct Account {
    pub(crate) sectigo: (String, String),
    pub(crate) namecom: (String, String),
    pub(crate) debitsuccess: (String, String),
}

impl Account {
    /// The credentials of the demo data.
    pub(crate) fn demo() -> Account {
        let [sectigo, namecom, debitsuccess] =
            [("demo", "demo-password"), ("demo-test", "demo-token"), ("demo", "demo-password")]
                .map(|(name, secret)| (name.to_owned(), secret.to_owned()));
        Account { sectigo, namecom, debitsuccess }
    }

    pub(crate) fn of(credentials: &Credentials) -> Account {
        let Credentials { sectigo, namecom, debitsuccess } = credentials.clone();
        Account {
            sectigo: (sectigo.login_name, sectigo.login_password),
            namecom: (namecom.username, namecom.token),
            debitsuccess: (debitsuccess.username, debitsuccess.password),
        }
    }
}

pub(crate) const PROVIDERS: [Provider; 3] = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];

/// Long enough for a loaded machine; a passing test does not wait for it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

impl TestBench {
    pub(crate) async fn start() -> TestBench {
        TestBench::start_as(Config::free_ports()).await
    }

    pub(crate) async fn start_as(config: Config) -> TestBench {
        let simulators = Simulators::start(config).await.unwrap();
        let client = client(&simulators, 0);
        TestBench { simulators, client }
    }

    /// Requests the refund of demo order or account 7 and returns status and body; an error if
    /// there was no answer.
    pub(crate) async fn refund(&self, provider: Provider) -> Result<(StatusCode, String), reqwest::Error> {
        self.refund_by(&self.client, provider).await
    }

    pub(crate) async fn refund_by(
        &self,
        client: &Client,
        provider: Provider,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        let request = self.request_by(client, &Account::demo(), provider, &demo_target(provider, 7), "recoup-7");
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Requests the refund of demo order or account `n` with the credentials of a world; the
    /// Debitsuccess identifier is `id-n`.
    pub(crate) async fn refund_as(&self, account: &Account, provider: Provider, n: u32) -> (StatusCode, String) {
        self.refund_of(account, provider, &demo_target(provider, n), &format!("id-{n}")).await.unwrap()
    }

    /// Requests the refund of a target with the credentials of a world: at name.com without a key,
    /// at Debitsuccess with an identifier.
    pub(crate) async fn refund_of(
        &self,
        account: &Account,
        provider: Provider,
        target: &str,
        identifier: &str,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        let response = self.request_for(account, provider, target, identifier).send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Waits until the journal of a world satisfies a condition.
    pub(crate) async fn journal_of_world_once(&self, world: &WorldHandle, condition: impl Fn(&[JournalEntry]) -> bool) {
        let wait = async {
            while !condition(&world.journal()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.expect("the journal did not satisfy the condition in time");
    }

    pub(crate) fn request_for(
        &self,
        account: &Account,
        provider: Provider,
        target: &str,
        identifier: &str,
    ) -> reqwest::RequestBuilder {
        self.request_by(&self.client, account, provider, target, identifier)
    }

    fn request_by(
        &self,
        client: &Client,
        account: &Account,
        provider: Provider,
        target: &str,
        identifier: &str,
    ) -> reqwest::RequestBuilder {
        let (username, secret) = match provider {
            Provider::Sectigo => &account.sectigo,
            Provider::Namecom => &account.namecom,
            Provider::Debitsuccess => &account.debitsuccess,
        };
        match provider {
            Provider::Sectigo => {
                let form = [
                    ("loginName", username.as_str()),
                    ("loginPassword", secret),
                    ("orderNumber", target),
                    ("refundReasonCode", "11"),
                ];
                client.post(format!("https://{}/products/!AutoRefund", self.simulators.sectigo_addr())).form(&form)
            }
            Provider::Namecom => {
                let order: i32 = target.parse().unwrap();
                client
                    .post(format!("http://{}/core/v1/refund", self.simulators.namecom_plaintext_addr()))
                    .basic_auth(username, Some(secret))
                    .header("content-type", "application/json")
                    .body(format!(r#"{{"orderId":{order},"orderItemIds":[{}]}}"#, order + 3_000_000))
            }
            Provider::Debitsuccess => {
                let body = INITIATE_REFUND
                    .replace("demo-password", secret)
                    .replace(">demo<", &format!(">{username}<"))
                    .replace("DS000007", target)
                    .replace("recoup-7", identifier);
                client
                    .post(format!(
                        "http://{}/DSWebService/DSServices.svc",
                        self.simulators.debitsuccess_plaintext_addr()
                    ))
                    .header("content-type", "text/xml; charset=utf-8")
                    .header("soapaction", "\"http://tempuri.org/IDSServices/InitiateRefund\"")
                    .body(body)
            }
        }
    }

    /// One control call: status and JSON.
    pub(crate) async fn control(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.simulators.control_addr());
        let response = self.client.request(method, url).body(body.to_owned()).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
    }

    pub(crate) fn arm(&self, rule: Value) -> simulators::faults::RuleId {
        let rule: Rule = serde_json::from_value(rule).unwrap();
        self.simulators.arm(rule).unwrap()
    }

    /// Waits until the journal of the demo world satisfies a condition, and returns it.
    pub(crate) async fn journal_once(&self, condition: impl Fn(&[JournalEntry]) -> bool) -> Vec<JournalEntry> {
        let wait = async {
            loop {
                let journal = self.simulators.journal();
                if condition(&journal) {
                    return journal;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.expect("the journal did not satisfy the condition in time")
    }
}

/// A client that trusts the TLS ports and keeps `idle` idle connections.
pub(crate) fn client(simulators: &Simulators, idle: usize) -> Client {
    // Only the first test installs the provider; the error of the others is ignored.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ca = Certificate::from_pem(simulators.ca_pem().as_bytes()).unwrap();
    Client::builder().tls_certs_only([ca]).pool_max_idle_per_host(idle).no_proxy().build().unwrap()
}

/// The order number, order id or account reference of demo order or account `n`, 1 to 999.
pub(crate) fn demo_target(provider: Provider, n: u32) -> String {
    match provider {
        Provider::Sectigo => (1_000_000 + n).to_string(),
        Provider::Namecom => (200_000 + n).to_string(),
        Provider::Debitsuccess => format!("DS{n:06}"),
    }
}

/// Whether a path is an instance of a path template of the OpenAPI document.
pub(crate) fn matches_template(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(template).all(|(part, expected)| expected.starts_with('{') || *part == expected)
}

/// A provider in JSON.
pub(crate) fn word(provider: Provider) -> Value {
    serde_json::to_value(provider).unwrap()
}

const INITIATE_REFUND: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
<InitiateRefund xmlns="http://tempuri.org/"><request xmlns:d="http://schemas.datacontract.org/2004/07/DSWebService">
<d:User><d:Password>demo-password</d:Password><d:Username>demo</d:Username></d:User>
<d:AccountReferenceNo>DS000007</d:AccountReferenceNo><d:Amount>12.34</d:Amount><d:Description>overpaid</d:Description>
<d:ExternalRefundIdentifier>recoup-7</d:ExternalRefundIdentifier></request></InitiateRefund></s:Body></s:Envelope>"#;
