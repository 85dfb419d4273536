//! The gateway as a process, at simulators in this process.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use recoup::access::scope::Scope;
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use secrecy::ExposeSecret as _;
use simulators::faults::Point;
use simulators::faults::gates::{Gate, GateHandle};
use simulators::request::Provider;
use simulators::{Config, Simulators};
use tempfile::TempDir;

use crate::bystander::{self, ShownToken};
use crate::support::demo_accounts::{AccountSection, SECRETS};
use crate::support::process::Gateway;

pub(crate) struct Stack {
    pub(crate) gateway: Gateway,
    /// The bystander's.
    pub(crate) token: ShownToken,
    /// The attacker's, or empty.
    pub(crate) attacker: String,
    /// Warnings in the gateway's log.
    pub(crate) lines: Arc<AtomicUsize>,
    simulators: Simulators,
    _dir: TempDir,
}

/// Refunds on disk at the beginning, which fill several pages.
const REFUNDS: usize = 200;

impl Stack {
    /// With refunds to list, at most this many open files, and callers that are told apart or not.
    pub(crate) async fn start(open_files: Option<usize>, attacker_rate: Option<&str>) -> Stack {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { ca_file: Some(dir.path().join("ca.pem")), ..Config::free_ports() };
        let simulators = Simulators::start(config).await.unwrap();
        let file = dir.path().join("recoup.toml");
        let mut settings = configuration(&simulators, dir.path());
        let (mut token, mut attacker) = (ShownToken::default(), String::new());
        if let Some(rate) = attacker_rate {
            let access = dir.path().join("access.toml");
            let (own, text) = caller("bystander", "rate = { calls_per_second = 10000, burst = 10000 }");
            let (theirs, more) = caller("attacker", rate);
            std::fs::write(&access, text + &more).unwrap();
            settings = format!("access.file = \"{}\"\n{settings}", access.display());
            (token, attacker) = (ShownToken::new(&own), theirs);
        }
        std::fs::write(&file, settings).unwrap();
        let binary = env!("CARGO_BIN_EXE_recoup");
        let limit = open_files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
        let mut serve = Command::new("sh");
        serve.arg("-c").arg(format!("{limit}exec {binary} serve --config {}", file.display())).envs(SECRETS);
        let lines = Arc::new(AtomicUsize::new(0));
        let counted = lines.clone();
        let on_line = move |line: &str| {
            let is_warning = line.contains("\"WARN\"");
            counted.fetch_add(usize::from(is_warning), Ordering::Relaxed);
        };
        let gateway = Gateway::launch(serve, on_line).unwrap_or_else(|log| panic!("the gateway ended: {log:?}"));
        let stack = Stack { gateway, token, attacker, lines, simulators, _dir: dir };
        let mut refunds = RefundServiceClient::new(bystander::channel(stack.address(), &stack.token).await.unwrap());
        for number in 0..REFUNDS {
            let mut create = debitsuccess(&format!("seed-{number}"));
            create.labels = (0..16).map(|label| (format!("label-{label}"), "v".repeat(256))).collect();
            create.wait = Some(prost_types::Duration::default());
            refunds.create_refund(create).await.unwrap();
        }
        stack
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.addr
    }

    /// Debitsuccess no longer answers, and one refund waits for it: `refunds/silent`.
    pub(crate) async fn silence(&self) -> GateHandle {
        let gate = self.simulators.gate(Gate::new(Provider::Debitsuccess, Point::AfterEffect)).unwrap();
        let mut create = debitsuccess("silent");
        create.wait = Some(prost_types::Duration::default());
        let mut refunds = RefundServiceClient::new(bystander::channel(self.address(), &self.token).await.unwrap());
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
    format!("listen = \"127.0.0.1:0\"\nledger.path = \"{}\"\n{}", ledger.display(), accounts.concat())
}
