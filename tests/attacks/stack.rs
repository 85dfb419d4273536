//! The gateway as a process, at simulators in this process.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recoup::access::scope::Scope;
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::tls::{ClientTlsSettings, client_config};
use secrecy::ExposeSecret as _;
use simulators::faults::Point;
use simulators::faults::gates::{Gate, GateHandle};
use simulators::request::Provider;
use simulators::{Config, Simulators};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::bystander::{Route, ShownToken};
use crate::support::demo_accounts::{AccountSection, SECRETS};
use crate::support::process::Gateway;

pub(crate) struct Stack {
    pub(crate) gateway: Gateway,
    /// The bystander's.
    pub(crate) route: Route,
    /// The attacker's token, or empty.
    pub(crate) attacker: String,
    warnings: Arc<Mutex<Warnings>>,
    simulators: Simulators,
    _dir: TempDir,
}

/// What a gateway is started with.
pub(crate) struct Setup<'a> {
    pub(crate) open_files: Option<usize>,
    /// The attacker's rate, as in the access file. None: there is no access file.
    pub(crate) attacker_rate: Option<&'a str>,
    /// The port has a certificate.
    pub(crate) has_tls: bool,
}

/// Warnings in a log: how many of each message.
pub(crate) type Warnings = BTreeMap<String, usize>;

/// Refunds on disk at the beginning, which fill several pages.
const REFUNDS: usize = 200;

impl Stack {
    /// With refunds to list.
    pub(crate) async fn start(setup: Setup<'_>) -> Stack {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { ca_file: Some(dir.path().join("ca.pem")), ..Config::free_ports() };
        let simulators = Simulators::start(config).await.unwrap();
        let file = dir.path().join("recoup.toml");
        let mut settings = configuration(&simulators, dir.path());
        let (mut token, mut attacker) = (ShownToken::default(), String::new());
        if let Some(rate) = setup.attacker_rate {
            let access = dir.path().join("access.toml");
            let (own, text) = caller("bystander", "rate = { calls_per_second = 10000, burst = 10000 }");
            let (theirs, more) = caller("attacker", rate);
            std::fs::write(&access, text + &more).unwrap();
            settings = format!("access.file = \"{}\"\n{settings}", access.display());
            (token, attacker) = (ShownToken::new(&own), theirs);
        }
        let (listener, tls) = if setup.has_tls { with_tls(dir.path()) } else { (SHORT_FORM.to_owned(), None) };
        std::fs::write(&file, listener + &settings).unwrap();
        let binary = env!("CARGO_BIN_EXE_recoup");
        let limit = setup.open_files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
        let mut serve = Command::new("sh");
        serve.arg("-c").arg(format!("{limit}exec {binary} serve --config {}", file.display())).envs(SECRETS);
        let warnings = Arc::new(Mutex::new(Warnings::new()));
        let counted = warnings.clone();
        let on_line = move |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            if event["level"] == "WARN" {
                let message = event["message"].as_str().unwrap_or_default().to_owned();
                *counted.lock().unwrap().entry(message).or_default() += 1;
            }
        };
        let gateway = Gateway::launch(serve, on_line).unwrap_or_else(|log| panic!("the gateway ended: {log:?}"));
        let route = Route { to: gateway.addr, token, tls };
        let stack = Stack { gateway, route, attacker, warnings, simulators, _dir: dir };
        let mut refunds = RefundServiceClient::new(stack.route.channel().await.unwrap());
        for number in 0..REFUNDS {
            let mut create = debitsuccess(&format!("seed-{number}"));
            create.labels = (0..16).map(|label| (format!("label-{label}"), "v".repeat(256))).collect();
            create.wait = Some(prost_types::Duration::default());
            refunds.create_refund(create).await.unwrap();
        }
        stack
    }

    /// The warnings since the start.
    pub(crate) fn warnings(&self) -> Warnings {
        self.warnings.lock().unwrap().clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.addr
    }

    /// Debitsuccess no longer answers, and one refund waits for it: `refunds/silent`.
    pub(crate) async fn silence(&self) -> GateHandle {
        let gate = self.simulators.gate(Gate::new(Provider::Debitsuccess, Point::AfterEffect)).unwrap();
        let mut create = debitsuccess("silent");
        create.wait = Some(prost_types::Duration::default());
        let mut refunds = RefundServiceClient::new(self.route.channel().await.unwrap());
        refunds.create_refund(create).await.unwrap();
        gate
    }

    /// Processor time of the gateway until now.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.gateway.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        // The kernel counts in hundredths of a second.
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Resident memory of the gateway in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

const SHORT_FORM: &str = "listen = \"127.0.0.1:0\"\n";

/// A listener with a certificate of its own, and what trusts it.
fn with_tls(dir: &Path) -> (String, Option<TlsConnector>) {
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let listener = format!(
        "listeners.public = {{ address = \"127.0.0.1:0\", certificate_file = \"{}\", key_file = \"{}\" }}\n",
        certificate.display(),
        key.display()
    );
    let trusted = ClientTlsSettings { gateway_certificate_file: Some(certificate), ..ClientTlsSettings::default() };
    (listener, Some(TlsConnector::from(Arc::new(client_config(&trusted).unwrap()))))
}

/// A caller with every scope at every account: its token, and its lines of the access file.
fn caller(name: &str, rate: &str) -> (String, String) {
    let token = Token::generate().ok().unwrap();
    let scopes: Vec<&str> = Scope::ALL.into_iter().map(Scope::as_str).collect();
    let hash = token.hash().hex();
    let text = format!(
        "[callers.{name}]\ntokens = [{{ id = \"{name}-1\", sha256 = \"{hash}\" }}]\nscopes = {scopes:?}\n\
         accounts = [\"*\"]\n{rate}\n"
    );
    (token.expose_secret().to_owned(), text)
}

/// A refund that is similar to no other: its amount follows from its id.
pub(crate) fn debitsuccess(id: &str) -> proto::CreateRefundRequest {
    let amount = Some(proto::Money { currency_code: "AUD".to_owned(), minor_units: amount_of(id) });
    let target = Target::Debitsuccess(proto::DebitsuccessTarget {
        account_reference_no: "DS000001".to_owned(),
        amount,
        description: "Charged twice".to_owned(),
        ..Default::default()
    });
    let (refund_id, account) = (id.to_owned(), "debitsuccess".to_owned());
    proto::CreateRefundRequest { refund_id, account, target: Some(target), ..Default::default() }
}

fn amount_of(id: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    i64::from(u32::try_from(hasher.finish() >> 36).unwrap()) + 1
}

fn configuration(simulators: &Simulators, dir: &Path) -> String {
    let ca_file = dir.join("ca.pem");
    let accounts = [
        (Provider::Sectigo, simulators.sectigo_addr()),
        (Provider::Namecom, simulators.namecom_plaintext_addr()),
        (Provider::Debitsuccess, simulators.debitsuccess_plaintext_addr()),
    ]
    .map(|(provider, address)| AccountSection::new(provider, address, &ca_file).to_toml());
    let ledger = dir.join("recoup.db");
    format!("ledger.path = \"{}\"\n{}", ledger.display(), accounts.concat())
}
