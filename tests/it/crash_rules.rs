//! `kill -9` of a gateway with an access file: an approval, a pause and a limit hold over it, and
//! what was approved is sent once.
//!
//! Each test ends with a look at the simulators' books and journal.

use std::path::PathBuf;

use recoup::access::scope::Scope;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use simulators::Simulators;
use simulators::faults::{FaultEffect, Point, Rule};
use simulators::request::Provider;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::caller_access::{AccessText, Bearer, bearer};
use crate::support::process::Gateway;
use crate::support::{
    FAST_LOOKUPS, LIMIT, channel, configuration, debitsuccess, effects, reason, sectigo, simulators_in, wait_until,
    with_settle_time, without_wait,
};

type Client = RefundServiceClient<Bearer>;

const TARGET: &str = "DS000001";
/// From here on a second person is needed.
const LARGE: i64 = 1_000;
const SMALL: i64 = 999;

/// A gateway that is killed and started again. The shop and its till have one owner, finance
/// another one, and operations a third.
struct Killed {
    simulators: Simulators,
    config: PathBuf,
    shop: String,
    till: String,
    finance: String,
    operations: String,
    gateway: Option<Gateway>,
    _access: AccessText,
    _dir: TempDir,
}

impl Killed {
    /// Everything fresh, with these limits of the shop.
    async fn started(limits: &str) -> Killed {
        let mut access = AccessText::new();
        let mut caller = |name: &str, owner: &str, scopes: &[Scope], more: &str| {
            let scopes: Vec<String> = scopes.iter().map(|scope| format!("{:?}", scope.as_str())).collect();
            let scopes = scopes.join(", ");
            let rate = "rate = { calls_per_second = 10000, burst = 10000 }";
            access
                .caller(name, &format!("owner = \"{owner}\"\nscopes = [{scopes}]\naccounts = [\"*\"]\n{rate}\n{more}"))
        };
        let approves = [Scope::RefundsApprove, Scope::RefundsRead];
        let shop = caller("shop", "team", &[Scope::RefundsCreate, Scope::RefundsRead, Scope::RefundsApprove], limits);
        let till = caller("till", "team", &approves, "");
        let finance = caller("finance", "money", &approves, "");
        let operations = caller("operations", "pager", &[Scope::AccountsOperate, Scope::AccountsRead], "");
        access.text += "[approvals.large]\naccounts = [\"debitsuccess\"]\nat_least = { AUD = \"10.00\" }\n";

        let dir = tempfile::tempdir().unwrap();
        let simulators = simulators_in(dir.path()).await;
        let settings = format!("{}{FAST_LOOKUPS}", access.setting());
        // A doubt that a kill leaves behind is settled soon.
        let configuration = with_settle_time(&configuration(&simulators, dir.path(), &settings), 1)
            .replace("username =", "total_timeout_ms = 2000\nusername =");
        let config = dir.path().join("recoup.toml");
        std::fs::write(&config, configuration).unwrap();
        let gateway = Some(Gateway::start(&config));
        Killed { simulators, config, shop, till, finance, operations, gateway, _access: access, _dir: dir }
    }

    fn kill(&mut self) {
        self.gateway.take().unwrap().kill();
    }

    fn restart(&mut self) {
        self.gateway = Some(Gateway::start(&self.config));
    }

    async fn connection(&self, token: &str) -> Bearer {
        bearer(channel(self.gateway.as_ref().unwrap().addr).await, &[&format!("Bearer {token}")])
    }

    async fn client(&self, token: &str) -> Client {
        RefundServiceClient::new(self.connection(token).await)
    }

    async fn accounts(&self) -> AccountServiceClient<Bearer> {
        AccountServiceClient::new(self.connection(&self.operations).await)
    }

    async fn health(&self) -> Health {
        let listed = self.accounts().await.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner();
        listed.accounts.iter().find(|one| one.account == "debitsuccess").unwrap().health()
    }

    async fn get(&self, id: &str) -> proto::Refund {
        get(&mut self.client(&self.shop).await, id).await
    }

    /// Follows a refund until the provider has taken it.
    async fn until_submitted(&self, id: &str) -> proto::Refund {
        let mut shop = self.client(&self.shop).await;
        let follow = async {
            let mut refund = get(&mut shop, id).await;
            while refund.state() != State::Submitted {
                let request = proto::WaitRefundRequest {
                    name: refund.name.clone(),
                    after_revision: refund.revision,
                    timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
                };
                refund = shop.wait_refund(request).await.unwrap().into_inner().refund.unwrap();
            }
            refund
        };
        match tokio::time::timeout(LIMIT, follow).await {
            Ok(refund) => refund,
            Err(_) => panic!("{:?}", get(&mut shop, id).await),
        }
    }

    /// How often a refund was approved, by its history.
    async fn approvals(&self, id: &str) -> usize {
        let request = proto::ListRefundEventsRequest { name: format!("refunds/{id}"), ..Default::default() };
        let events = self.client(&self.shop).await.list_refund_events(request).await.unwrap().into_inner().events;
        events.iter().filter(|event| event.kind() == Kind::Approved).count()
    }

    /// How many requests arrived that could move money of `target`, and how often it moved.
    fn sent(&self, target: &str) -> (usize, usize) {
        let journal = self.simulators.journal();
        let of_target = journal.iter().filter(|entry| entry.moves_money && entry.target.as_deref() == Some(target));
        (of_target.count(), effects(&self.simulators, target))
    }
}

async fn create(client: &mut Client, request: proto::CreateRefundRequest) -> Result<proto::Refund, Status> {
    Ok(client.create_refund(request).await?.into_inner().refund.unwrap())
}

async fn get(client: &mut Client, id: &str) -> proto::Refund {
    let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
    client.get_refund(request).await.unwrap().into_inner().refund.unwrap()
}

async fn approve(client: &mut Client, refund: &proto::Refund) -> Result<proto::Refund, Status> {
    let (name, etag) = (refund.name.clone(), refund.etag.clone());
    let request = proto::ApproveRefundRequest { name, etag, comment: "as agreed".to_owned() };
    Ok(client.approve_refund(request).await?.into_inner().refund.unwrap())
}

/// `kill -9` at once after the answer, and with the request on the wire.
#[rstest]
#[case::at_once(false)]
#[case::with_the_request_on_the_wire(true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_asked_for_and_holds_over_kills_and_the_refund_is_sent_once(#[case] on_the_wire: bool) {
    let mut killed = Killed::started("").await;
    let mut shop = killed.client(&killed.shop).await;
    let refund = create(&mut shop, debitsuccess("large", TARGET, LARGE)).await.unwrap();
    assert_eq!((refund.state(), refund.waiting_for()), (State::AwaitingApproval, WaitingFor::Approval));
    killed.kill();

    killed.restart();
    assert_eq!(killed.get("large").await, refund, "it waits as before, with the same etag");
    let mut shop = killed.client(&killed.shop).await;
    assert_eq!(create(&mut shop, debitsuccess("large", TARGET, LARGE)).await.unwrap(), refund);
    let mut till = killed.client(&killed.till).await;
    for own in [&mut shop, &mut till] {
        let refused = approve(own, &refund).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OWN_REFUND"));
    }
    assert_eq!((killed.get("large").await, killed.sent(TARGET)), (refund.clone(), (0, 0)));

    if on_the_wire {
        let effect = FaultEffect::Delay { milliseconds: 60_000 };
        let operation = Some("InitiateRefund".to_owned());
        let rule = Rule { operation, ..Rule::new(Provider::Debitsuccess, Point::AfterEffect, effect) };
        killed.simulators.arm(rule).unwrap();
    }
    let approved = approve(&mut killed.client(&killed.finance).await, &refund).await.unwrap();
    assert_ne!(approved.state(), State::AwaitingApproval);
    if on_the_wire {
        wait_until(|| effects(&killed.simulators, TARGET) == 1).await;
    }
    killed.kill();

    killed.restart();
    assert_ne!(killed.get("large").await.state(), State::AwaitingApproval, "the approval was acknowledged");
    let sent = killed.until_submitted("large").await;
    let decisions = sent.approval.unwrap().decisions;
    assert_eq!(decisions.iter().map(|one| one.caller.as_str()).collect::<Vec<_>>(), ["finance"]);
    assert_eq!(killed.approvals("large").await, 1);
    assert_eq!(killed.sent(TARGET), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_whose_answer_is_lost_is_repeated_with_the_old_etag_and_has_one_effect() {
    const REFUNDS: usize = 16;
    let mut killed = Killed::started("").await;
    let mut shop = killed.client(&killed.shop).await;
    let target = |index: usize| format!("DS{:06}", index + 1);
    let mut waiting = Vec::new();
    for index in 0..REFUNDS {
        let request = debitsuccess(&format!("large-{index}"), &target(index), LARGE);
        waiting.push(create(&mut shop, request).await.unwrap());
    }
    let mut calls = JoinSet::new();
    for refund in waiting.clone() {
        let mut finance = killed.client(&killed.finance).await;
        calls.spawn(async move { approve(&mut finance, &refund).await.is_ok() });
    }
    // The others are on their way: recorded or not, their callers never learn it.
    assert!(calls.join_next().await.unwrap().unwrap());
    killed.kill();
    calls.abort_all();

    killed.restart();
    let mut finance = killed.client(&killed.finance).await;
    for refund in &waiting {
        let stands = approve(&mut finance, refund).await.unwrap();
        assert_ne!(stands.state(), State::AwaitingApproval);
        let repeated = approve(&mut finance, refund).await.unwrap();
        assert!(repeated.revision >= stands.revision, "{repeated:?}");
        assert_eq!(repeated.approval, stands.approval);
    }
    for (index, refund) in waiting.iter().enumerate() {
        killed.until_submitted(&refund.refund_id).await;
        assert_eq!(killed.approvals(&refund.refund_id).await, 1);
        assert_eq!(killed.sent(&target(index)), (1, 1), "{}", target(index));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_over_kills_and_what_waited_is_sent_once_after_it() {
    let mut killed = Killed::started("").await;
    let mut shop = killed.client(&killed.shop).await;
    let large = create(&mut shop, debitsuccess("large", "DS000002", LARGE)).await.unwrap();
    let request = proto::PauseAccountRequest { account: "debitsuccess".to_owned(), reason: "wrong prices".to_owned() };
    killed.accounts().await.pause_account(request).await.unwrap();
    killed.kill();

    killed.restart();
    assert_eq!(killed.health().await, Health::Paused);
    let mut shop = killed.client(&killed.shop).await;
    let small = create(&mut shop, debitsuccess("small", TARGET, SMALL)).await.unwrap();
    let approved = approve(&mut killed.client(&killed.finance).await, &large).await.unwrap();
    for refund in [&small, &approved] {
        assert_eq!((refund.state(), refund.waiting_for()), (State::Pending, WaitingFor::Resume));
    }
    killed.kill();

    killed.restart();
    assert_eq!(killed.health().await, Health::Paused);
    // Another account sends meanwhile.
    let mut shop = killed.client(&killed.shop).await;
    assert_eq!(create(&mut shop, sectigo("other", "1000001")).await.unwrap().state(), State::Succeeded);
    for id in ["small", "large"] {
        let refund = killed.get(id).await;
        assert_eq!((refund.state(), refund.waiting_for()), (State::Pending, WaitingFor::Resume));
    }
    assert_eq!((killed.sent(TARGET), killed.sent("DS000002")), ((0, 0), (0, 0)));

    let resume = proto::ResumeAccountRequest { account: "debitsuccess".to_owned() };
    let since = killed.simulators.with_world(|world| world.clock.now());
    killed.accounts().await.resume_account(resume).await.unwrap();
    killed.kill();

    killed.restart();
    assert_eq!(killed.health().await, Health::Serving);
    for id in ["small", "large"] {
        killed.until_submitted(id).await;
    }
    assert_eq!((killed.sent(TARGET), killed.sent("DS000002")), ((1, 1), (1, 1)));
    let journal = killed.simulators.journal();
    let of_account = journal.iter().filter(|entry| entry.moves_money && entry.provider == Provider::Debitsuccess);
    for entry in of_account {
        assert!(entry.time >= since, "sent before the resume: {entry:?}");
    }
}

/// Callers that create refunds at the same time, each its own share, until `enough` were recorded.
async fn race(killed: &Killed, refunds: usize, enough: usize) -> Vec<Status> {
    let mut calls = JoinSet::new();
    for index in 0..refunds {
        let mut shop = killed.client(&killed.shop).await;
        let request = without_wait(debitsuccess(&format!("r-{index}"), &format!("DS{:06}", index + 1), SMALL));
        calls.spawn(async move { create(&mut shop, request).await });
    }
    let (mut recorded, mut refused) = (0, Vec::new());
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(_) => recorded += 1,
            Err(status) => refused.push(status),
        }
        if recorded >= enough {
            break;
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daily_limit_holds_over_kills_in_the_middle_of_racing_creates() {
    const REFUNDS: usize = 24;
    const FITTING: usize = 6;
    let mut killed = Killed::started("[callers.shop.limits]\ndaily_max = { AUD = \"60.00\" }\n").await;
    for enough in [1, 2, 4] {
        race(&killed, REFUNDS, enough).await;
        killed.kill();
        killed.restart();
        let recorded = recorded(&killed).await;
        assert!(recorded.len() <= FITTING, "{} refunds of 9.99 are recorded", recorded.len());
    }
    let refused = race(&killed, REFUNDS, usize::MAX).await;
    assert_eq!(refused.len(), REFUNDS - FITTING);
    for status in &refused {
        assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    }
    let recorded = recorded(&killed).await;
    assert_eq!(recorded.len(), FITTING, "there is room for six");
    for refund in &recorded {
        killed.until_submitted(&refund.refund_id).await;
    }
    let (requests, effects): (Vec<_>, Vec<_>) =
        (1..=REFUNDS).map(|number| killed.sent(&format!("DS{number:06}"))).unzip();
    assert_eq!((requests.iter().sum::<usize>(), effects.iter().sum::<usize>()), (FITTING, FITTING));
    assert!(effects.iter().all(|times| *times <= 1), "{effects:?}");
}

/// All refunds that are recorded.
async fn recorded(killed: &Killed) -> Vec<proto::Refund> {
    let request = proto::ListRefundsRequest { page_size: 1000, ..Default::default() };
    killed.client(&killed.shop).await.list_refunds(request).await.unwrap().into_inner().refunds
}
