//! The gateway as a process, at simulators in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use simulators::faults::Point;
use simulators::faults::gates::{Gate, GateHandle};
use simulators::request::Provider;
use simulators::{Config, Simulators};
use tempfile::TempDir;

use crate::bystander;
use crate::support::demo_accounts::{AccountSection, SECRETS};
use crate::support::process::Gateway;

pub(crate) struct Stack {
    pub(crate) gateway: Gateway,
    simulators: Simulators,
    _dir: TempDir,
}

/// Refunds on disk at the beginning, which fill several pages.
const REFUNDS: usize = 200;

impl Stack {
    /// With refunds to list, and at most this many open files.
    pub(crate) async fn start(open_files: Option<usize>) -> Stack {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { ca_file: Some(dir.path().join("ca.pem")), ..Config::free_ports() };
        let simulators = Simulators::start(config).await.unwrap();
        let file = dir.path().join("recoup.toml");
        std::fs::write(&file, configuration(&simulators, dir.path())).unwrap();
        let binary = env!("CARGO_BIN_EXE_recoup");
        let limit = open_files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
        let mut serve = Command::new("sh");
        serve.arg("-c").arg(format!("{limit}exec {binary} serve --config {}", file.display())).envs(SECRETS);
        let gateway = Gateway::launch(serve, |_| {}).unwrap_or_else(|log| panic!("the gateway ended: {log:?}"));
        let stack = Stack { gateway, simulators, _dir: dir };
        let mut refunds = RefundServiceClient::new(bystander::channel(stack.address()).await.unwrap());
        for number in 0..REFUNDS {
            let mut create = debitsuccess(&format!("seed-{number}"));
            create.allow_similar = true;
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
        create.allow_similar = true;
        create.wait = Some(prost_types::Duration::default());
        let mut refunds = RefundServiceClient::new(bystander::channel(self.address()).await.unwrap());
        refunds.create_refund(create).await.unwrap();
        gate
    }

    /// Resident memory of the gateway in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

/// A refund of a payment of 1.25 AUD.
pub(crate) fn debitsuccess(id: &str) -> proto::CreateRefundRequest {
    let amount = Some(proto::Money { currency_code: "AUD".to_owned(), minor_units: 125 });
    let target = Target::Debitsuccess(proto::DebitsuccessTarget {
        account_reference_no: "DS000001".to_owned(),
        amount,
        description: "Charged twice".to_owned(),
        ..Default::default()
    });
    let (refund_id, account) = (id.to_owned(), "debitsuccess".to_owned());
    proto::CreateRefundRequest { refund_id, account, target: Some(target), ..Default::default() }
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
