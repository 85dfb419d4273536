//! A whole gateway on free ports: real simulators, a real ledger in a folder of its own, the real
//! gRPC API.
//!
//! Tests never sleep for a guessed time: they wait for a condition, with a limit that only a bug
//! reaches.

pub(crate) mod account_changes;
#[allow(dead_code, reason = "the test binaries share this file, and each uses a part of it")]
#[path = "../../support/demo_accounts.rs"]
pub(crate) mod demo_accounts;
#[allow(dead_code, reason = "the test binaries share this file, and each uses a part of it")]
#[path = "../../support/process.rs"]
pub(crate) mod process;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use recoup::app::App;
use recoup::config::Settings;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::Resolution;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use simulators::faults::{FaultEffect, Point, Repeat, Rule, RuleId};
use simulators::request::Provider;
use simulators::{Config as SimulatorsConfig, Simulators};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use self::demo_accounts::AccountSection;
pub(crate) use self::demo_accounts::SECRETS;

/// Reached only where something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Simulators, a gateway, and a client.
pub(crate) struct Stack {
    pub(crate) simulators: Simulators,
    pub(crate) app: App,
    pub(crate) refunds: RefundServiceClient<Channel>,
    pub(crate) dir: TempDir,
}

impl Stack {
    /// Everything fresh, with the three accounts of the demo.
    pub(crate) async fn start() -> Stack {
        Self::start_with("").await
    }

    /// Everything fresh, with more settings: top-level TOML before the accounts.
    pub(crate) async fn start_with(settings: &str) -> Stack {
        Self::start_as(|configuration| with_settings(&configuration, settings)).await
    }

    /// Everything fresh, with a changed configuration.
    pub(crate) async fn start_as(change: impl FnOnce(String) -> String) -> Stack {
        let dir = tempfile::tempdir().unwrap();
        let simulators = simulators_in(dir.path()).await;
        let configuration = change(configuration(&simulators, dir.path(), ""));
        let app = App::start(settings_of(&configuration, dir.path())).await.unwrap();
        let refunds = RefundServiceClient::new(channel(app.addr()).await);
        Stack { simulators, app, refunds, dir }
    }

    /// Stops the gateway cleanly and starts another one on the same ledger.
    pub(crate) async fn restart(self) -> Stack {
        self.restart_as(|configuration| configuration).await
    }

    /// As [`Stack::restart`], with a changed configuration.
    pub(crate) async fn restart_as(self, change: impl FnOnce(String) -> String) -> Stack {
        let Stack { simulators, app, dir, refunds } = self;
        drop(refunds);
        app.stop().await;
        let configuration = change(configuration(&simulators, dir.path(), ""));
        let app = App::start(settings_of(&configuration, dir.path())).await.unwrap();
        let refunds = RefundServiceClient::new(channel(app.addr()).await);
        Stack { simulators, app, refunds, dir }
    }

    pub(crate) async fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(channel(self.app.addr()).await)
    }

    pub(crate) async fn validation(&self) -> ValidationStatusServiceClient<Channel> {
        ValidationStatusServiceClient::new(channel(self.app.addr()).await)
    }

    pub(crate) async fn create(
        &self,
        request: proto::CreateRefundRequest,
    ) -> Result<proto::CreateRefundResponse, Status> {
        self.refunds.clone().create_refund(request).await.map(tonic::Response::into_inner)
    }

    /// Creates a refund that must be accepted, and returns it as it is at the end of the wait.
    pub(crate) async fn refund(&self, request: proto::CreateRefundRequest) -> proto::Refund {
        self.create(request).await.unwrap().refund.unwrap()
    }

    pub(crate) async fn get(&self, id: &str) -> proto::Refund {
        let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
        self.refunds.clone().get_refund(request).await.unwrap().into_inner().refund.unwrap()
    }

    /// None where the refund is not recorded.
    pub(crate) async fn find(&self, id: &str) -> Option<proto::Refund> {
        let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
        self.refunds.clone().get_refund(request).await.ok().and_then(|answer| answer.into_inner().refund)
    }

    pub(crate) async fn reconcile(&self, id: &str) -> Result<proto::Refund, Status> {
        let request = proto::ReconcileRefundRequest { name: format!("refunds/{id}") };
        let answer = self.refunds.clone().reconcile_refund(request).await?;
        Ok(answer.into_inner().refund.unwrap())
    }

    /// Resolves a refund at its present etag.
    pub(crate) async fn resolve(&self, id: &str, resolution: Resolution) -> Result<proto::Refund, Status> {
        self.resolve_as(id, |request| request.resolution = resolution.into()).await
    }

    /// As [`Stack::resolve`], with a changed request.
    pub(crate) async fn resolve_as(
        &self,
        id: &str,
        change: impl FnOnce(&mut proto::ResolveRefundRequest),
    ) -> Result<proto::Refund, Status> {
        let mut request = proto::ResolveRefundRequest {
            name: format!("refunds/{id}"),
            etag: self.get(id).await.etag,
            evidence: "ticket 7".to_owned(),
            ..Default::default()
        };
        change(&mut request);
        Ok(self.refunds.clone().resolve_refund(request).await?.into_inner().refund.unwrap())
    }

    /// The health of an account, as ListAccounts returns it.
    pub(crate) async fn health_of(&self, account: &str) -> Health {
        let listed = self.accounts().await.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner();
        listed.accounts.iter().find(|one| one.account == account).unwrap().health()
    }

    /// The history of a refund, oldest first.
    pub(crate) async fn events(&self, id: &str) -> Vec<proto::RefundEvent> {
        let request = proto::ListRefundEventsRequest { name: format!("refunds/{id}"), ..Default::default() };
        self.refunds.clone().list_refund_events(request).await.unwrap().into_inner().events
    }

    /// Polls a refund until `done` holds, also for changes that are no event.
    pub(crate) async fn polled_until(&self, id: &str, done: impl Fn(&proto::Refund) -> bool) -> proto::Refund {
        let poll = async {
            loop {
                let refund = self.get(id).await;
                if done(&refund) {
                    return refund;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, poll).await.unwrap()
    }

    /// Follows a refund with WaitRefund until `done` holds.
    pub(crate) async fn until(&self, id: &str, done: impl Fn(&proto::Refund) -> bool) -> proto::Refund {
        let follow = async {
            let mut refund = self.get(id).await;
            while !done(&refund) {
                let request = proto::WaitRefundRequest {
                    name: refund.name.clone(),
                    after_revision: refund.revision,
                    timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
                };
                refund = self.refunds.clone().wait_refund(request).await.unwrap().into_inner().refund.unwrap();
            }
            refund
        };
        tokio::time::timeout(LIMIT, follow).await.unwrap()
    }

    /// Arms a fault at every request to `provider` that moves money.
    pub(crate) fn arm(&self, provider: Provider, point: Point, effect: FaultEffect, repeat: Repeat) -> RuleId {
        let operation = match provider {
            Provider::Sectigo => "!AutoRefund",
            Provider::Namecom => "ProcessRefund",
            Provider::Debitsuccess => "InitiateRefund",
        };
        let rule = Rule { operation: Some(operation.to_owned()), repeat, ..Rule::new(provider, point, effect) };
        self.simulators.arm(rule).unwrap()
    }

    /// Makes lookups of DS000001 stale, so that they show no refund: all lookups, or only this one.
    pub(crate) fn make_lookups_stale(&self, attempt: Option<u64>) -> RuleId {
        let rule = Rule {
            operation: Some("GetRefundStatus".to_owned()),
            target: Some("DS000001".to_owned()),
            attempt,
            repeat: Repeat::Standing,
            ..Rule::new(Provider::Debitsuccess, Point::BeforeEffect, FaultEffect::Stale { seconds: 3_600 })
        };
        self.simulators.arm(rule).unwrap()
    }

    /// How often money really moved for `target`, by the simulators' books.
    pub(crate) fn effects(&self, target: &str) -> usize {
        effects(&self.simulators, target)
    }

    /// How many requests arrived that could move money of `target`.
    pub(crate) fn attempts(&self, target: &str) -> usize {
        let journal = self.simulators.journal();
        journal.iter().filter(|entry| entry.moves_money && entry.target.as_deref() == Some(target)).count()
    }
}

/// How often money really moved for `target`, by the simulators' books.
pub(crate) fn effects(simulators: &Simulators, target: &str) -> usize {
    simulators.books().iter().filter(|entry| entry.effect.kind == "refund" && entry.effect.target == target).count()
}

/// Simulators on free ports, with their certificate authority in `dir`.
pub(crate) async fn simulators_in(dir: &Path) -> Simulators {
    let config = SimulatorsConfig { ca_file: Some(dir.join("ca.pem")), ..SimulatorsConfig::free_ports() };
    Simulators::start(config).await.unwrap()
}

/// A configuration with the three accounts of the demo, and `settings` before them.
pub(crate) fn configuration(simulators: &Simulators, dir: &Path, settings: &str) -> String {
    let (sectigo, namecom, debitsuccess) =
        (simulators.sectigo_addr(), simulators.namecom_plaintext_addr(), simulators.debitsuccess_plaintext_addr());
    configuration_at(sectigo, namecom, debitsuccess, dir, settings)
}

/// The same, for providers at these addresses.
pub(crate) fn configuration_at(
    sectigo: SocketAddr,
    namecom: SocketAddr,
    debitsuccess: SocketAddr,
    dir: &Path,
    settings: &str,
) -> String {
    let ca_file = dir.join("ca.pem");
    let accounts = [(Provider::Sectigo, sectigo), (Provider::Namecom, namecom), (Provider::Debitsuccess, debitsuccess)]
        .map(|(provider, address)| AccountSection::new(provider, address, &ca_file).to_toml());
    format!(
        "listen = \"127.0.0.1:0\"\nledger.path = \"{}/recoup.db\"\nengine.retry_backoff_min_ms = 20\n\
         engine.reconcile_interval_ms = 0\n{settings}\n{}",
        dir.display(),
        accounts.concat()
    )
}

/// The same configuration with the first lookup after an hour and a settle time of `settle_s`
/// seconds.
pub(crate) fn without_lookups(configuration: &str, settle_s: u32) -> String {
    with_settings(&with_settle_time(configuration, settle_s), "engine.lookups_after_ms = \"3600000\"")
}

/// Lookups follow each other quickly, and an account is tried again soon after its breaker opened.
pub(crate) const FAST_LOOKUPS: &str = "engine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 100\n\
                                       engine.circuit_pause_min_ms = 40\nengine.circuit_pause_max_ms = 100\n";

/// The configuration with more settings: top-level TOML before the accounts.
pub(crate) fn with_settings(configuration: &str, settings: &str) -> String {
    configuration.replacen("[accounts", &format!("{settings}\n[accounts"), 1)
}

/// The configuration with this settle time at every account.
pub(crate) fn with_settle_time(configuration: &str, settle_s: u32) -> String {
    configuration
        .replace("login_name =", &format!("settle_time_s = {settle_s}\nlogin_name ="))
        .replace("username =", &format!("settle_time_s = {settle_s}\nusername ="))
}

/// Reads a configuration as the gateway would.
pub(crate) fn settings_of(configuration: &str, dir: &Path) -> Settings {
    let path = dir.join("recoup.toml");
    std::fs::write(&path, configuration).unwrap();
    let environment = SECRETS.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Settings::load(Some(&path), environment).unwrap()
}

pub(crate) async fn channel(addr: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

pub(crate) fn sectigo(id: &str, order_number: &str) -> proto::CreateRefundRequest {
    let reason = proto::SectigoRefundReason::Other.into();
    let target = Target::Sectigo(proto::SectigoTarget { order_number: order_number.to_owned(), reason });
    request(id, "sectigo", target)
}

pub(crate) fn namecom(id: &str, order_id: i32, items: &[i32]) -> proto::CreateRefundRequest {
    let target = Target::Namecom(proto::NamecomTarget { order_id, order_item_ids: items.to_vec() });
    request(id, "namecom", target)
}

pub(crate) fn debitsuccess(id: &str, account: &str, minor_units: i64) -> proto::CreateRefundRequest {
    let amount = Some(proto::Money { currency_code: "AUD".to_owned(), minor_units });
    let target = Target::Debitsuccess(proto::DebitsuccessTarget {
        account_reference_no: account.to_owned(),
        amount,
        description: "Charged twice".to_owned(),
        ..Default::default()
    });
    request(id, "debitsuccess", target)
}

/// A refund that the demo data allows: the request, and its target in the simulators' books and in
/// their journal.
pub(crate) fn sample_request(provider: Provider, id: &str) -> (proto::CreateRefundRequest, &'static str, &'static str) {
    match provider {
        Provider::Sectigo => (sectigo(id, "1000001"), "1000001", "1000001"),
        Provider::Namecom => (namecom(id, 200_001, &[3_200_001]), "3200001", "200001"),
        Provider::Debitsuccess => (debitsuccess(id, "DS000001", 1250), "DS000001", "DS000001"),
    }
}

fn request(id: &str, account: &str, target: Target) -> proto::CreateRefundRequest {
    proto::CreateRefundRequest {
        refund_id: id.to_owned(),
        account: account.to_owned(),
        target: Some(target),
        ..Default::default()
    }
}

/// The request, answered without waiting for the outcome.
pub(crate) fn without_wait(request: proto::CreateRefundRequest) -> proto::CreateRefundRequest {
    proto::CreateRefundRequest { wait: Some(prost_types::Duration::default()), ..request }
}

/// Whether a refund is neither PENDING, DISPATCHING nor IN_DOUBT.
pub(crate) fn is_processed(refund: &proto::Refund) -> bool {
    !matches!(refund.state(), State::Pending | State::Dispatching | State::InDoubt)
}

/// Polls a condition outside of the gateway until it holds.
pub(crate) async fn wait_until(holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.unwrap();
}

/// Microseconds since 1970.
pub(crate) fn micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

/// The reason in a status's ErrorInfo, whose domain must be ours.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "recoup.v1");
    info.reason.clone()
}

/// One entry of the metadata in a status's ErrorInfo.
pub(crate) fn metadata(status: &Status, key: &str) -> String {
    status.get_error_details().error_info().unwrap().metadata.get(key).cloned().unwrap_or_default()
}

/// The fields with violations in a status, sorted.
pub(crate) fn wrong_fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap_or_else(|| panic!("no BadRequest in {status:?}")).field_violations;
    let mut fields: Vec<String> = violations.iter().map(|violation| violation.field.clone()).collect();
    fields.sort();
    fields
}
