//! Running simulators, and a refund at each provider as a client would send it.

use std::time::Duration;

use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::Value;
use simulators::{Config, Credentials, JournalEntry, Provider, Rule, Simulators, WorldHandle};

/// Simulators on free ports, and a client that opens a connection for each request.
pub(crate) struct Bench {
    pub(crate) simulators: Simulators,
    pub(crate) client: Client,
}

/// What the client of a world logs in with, at each provider: a name and a secret.
pub(crate) struct Account {
    pub(crate) sectigo: (String, String),
    pub(crate) namecom: (String, String),
    pub(crate) debitsuccess: (String, String),
}

impl Account {
    /// That of the demo data.
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

/// Long enough for a loaded machine, and no wait where all is well.
const AT_LAST: Duration = Duration::from_secs(20);

impl Bench {
    pub(crate) async fn start() -> Bench {
        Bench::start_as(Config::free_ports()).await
    }

    pub(crate) async fn start_as(config: Config) -> Bench {
        let simulators = Simulators::start(config).await.unwrap();
        let client = client(&simulators, 0);
        Bench { simulators, client }
    }

    /// Asks for a refund, always of the same thing, and tells status and body; the error where
    /// there was no answer.
    pub(crate) async fn refund(&self, provider: Provider) -> Result<(StatusCode, String), reqwest::Error> {
        self.refund_by(&self.client, provider).await
    }

    pub(crate) async fn refund_by(
        &self,
        client: &Client,
        provider: Provider,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        let request = match provider {
            Provider::Sectigo => {
                let form = [
                    ("loginName", "demo"),
                    ("loginPassword", "demo-password"),
                    ("orderNumber", "1000007"),
                    ("refundReasonCode", "11"),
                ];
                client.post(format!("https://{}/products/!AutoRefund", self.simulators.sectigo_addr())).form(&form)
            }
            Provider::Namecom => client
                .post(format!("http://{}/core/v1/refund", self.simulators.namecom_plaintext_addr()))
                .basic_auth("demo-test", Some("demo-token"))
                .header("content-type", "application/json")
                .body(r#"{"orderId":200007,"orderItemIds":[3200007]}"#),
            Provider::Debitsuccess => client
                .post(format!("http://{}/DSWebService/DSServices.svc", self.simulators.debitsuccess_plaintext_addr()))
                .header("content-type", "text/xml; charset=utf-8")
                .header("soapaction", "\"http://tempuri.org/IDSServices/InitiateRefund\"")
                .body(INITIATE_REFUND),
        };
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Asks for the refund of the nth demo order or account, as the client of a world; the
    /// Debitsuccess identifier is `id-n`.
    pub(crate) async fn refund_as(&self, account: &Account, provider: Provider, n: u32) -> (StatusCode, String) {
        let target = match provider {
            Provider::Sectigo => (1_000_000 + n).to_string(),
            Provider::Namecom => (200_000 + n).to_string(),
            Provider::Debitsuccess => format!("DS{n:06}"),
        };
        self.refund_of(account, provider, &target, &format!("id-{n}")).await.unwrap()
    }

    /// Asks for the refund of a target as the client of a world: at name.com without a key, at
    /// Debitsuccess under an identifier.
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

    /// Waits until a world's journal satisfies a condition.
    pub(crate) async fn settled(&self, world: &WorldHandle, condition: impl Fn(&[JournalEntry]) -> bool) {
        let asked = async {
            while !condition(&world.journal()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(AT_LAST, asked).await.expect("the journal never came to that");
    }

    pub(crate) fn request_for(
        &self,
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
                self.client.post(format!("https://{}/products/!AutoRefund", self.simulators.sectigo_addr())).form(&form)
            }
            Provider::Namecom => {
                let order: i32 = target.parse().unwrap();
                self.client
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
                self.client
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

    /// The journal, once it satisfies a condition.
    pub(crate) async fn journal_once(&self, condition: impl Fn(&[JournalEntry]) -> bool) -> Vec<JournalEntry> {
        let asked = async {
            loop {
                let journal = self.simulators.journal();
                if condition(&journal) {
                    return journal;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(AT_LAST, asked).await.expect("the journal never came to that")
    }
}

/// A client that trusts the TLS port and keeps so many idle connections.
pub(crate) fn client(simulators: &Simulators, idle: usize) -> Client {
    // The first test installs it, the others find it there.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ca = Certificate::from_pem(simulators.ca_pem().as_bytes()).unwrap();
    Client::builder().tls_certs_only([ca]).pool_max_idle_per_host(idle).no_proxy().build().unwrap()
}

/// The word for a provider in JSON.
pub(crate) fn word(provider: Provider) -> Value {
    serde_json::to_value(provider).unwrap()
}

const INITIATE_REFUND: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
<InitiateRefund xmlns="http://tempuri.org/"><request xmlns:d="http://schemas.datacontract.org/2004/07/DSWebService">
<d:User><d:Password>demo-password</d:Password><d:Username>demo</d:Username></d:User>
<d:AccountReferenceNo>DS000007</d:AccountReferenceNo><d:Amount>12.34</d:Amount><d:Description>overpaid</d:Description>
<d:ExternalRefundIdentifier>recoup-7</d:ExternalRefundIdentifier></request></InitiateRefund></s:Body></s:Envelope>"#;
