//! Accounts that change between two starts of the gateway, and refunds that were recorded before.

use std::path::Path;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::resolve_refund_request::Resolution;
use simulators::Simulators;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::debitsuccess::Login;
use simulators::providers::namecom::Account as NamecomAccount;
use simulators::providers::sectigo::Account as SectigoAccount;
use simulators::request::Provider;
use tonic::Status;

use crate::support::demo_accounts::login;
use crate::support::{
    FAST_LOOKUPS, LIMIT, Stack, debitsuccess, namecom, reason, sectigo, with_settings, with_settle_time, without_wait,
};

/// No lookup happens by itself, and a suspended account stays suspended.
pub(crate) const SLOW_LOOKUPS: &str = "engine.lookups_after_ms = \"3600000\"\n\
                       engine.circuit_pause_min_ms = 3600000\nengine.circuit_pause_max_ms = 3600000\n";
/// A request, and the names of its target in the simulators' books and in their journal.
pub(crate) struct RequestedRefund {
    pub(crate) request: proto::CreateRefundRequest,
    pub(crate) target: String,
    pub(crate) in_journal: String,
}

/// A refund of target `number` of the demo data.
pub(crate) fn refund_of(provider: Provider, id: &str, number: i32) -> RequestedRefund {
    let (request, target, in_journal) = match provider {
        Provider::Sectigo => {
            let order = (1_000_000 + number).to_string();
            (sectigo(id, &order), order.clone(), order)
        }
        Provider::Namecom => {
            let (order, item) = (200_000 + number, 3_200_000 + number);
            (namecom(id, order, &[item]), item.to_string(), order.to_string())
        }
        Provider::Debitsuccess => {
            let account = format!("DS{number:06}");
            (debitsuccess(id, &account, 1250), account.clone(), account)
        }
    };
    RequestedRefund { request, target, in_journal }
}

pub(crate) fn addr_of(provider: Provider, simulators: &Simulators) -> String {
    let addr = match provider {
        Provider::Sectigo => simulators.sectigo_addr(),
        Provider::Namecom => simulators.namecom_plaintext_addr(),
        Provider::Debitsuccess => simulators.debitsuccess_plaintext_addr(),
    };
    addr.to_string()
}

/// The state of a refund that the provider has accepted.
pub(crate) fn accepted(provider: Provider) -> State {
    match provider {
        Provider::Sectigo | Provider::Namecom => State::Succeeded,
        Provider::Debitsuccess => State::Submitted,
    }
}

pub(crate) fn slow_lookups(configuration: &str, circuit_failures: u32) -> String {
    with_settings(configuration, &format!("{SLOW_LOOKUPS}engine.circuit_failures = {circuit_failures}"))
}

/// Fast lookups, and this settle time at every account.
pub(crate) fn fast_lookups(configuration: &str, settle_s: u32, circuit_failures: u32) -> String {
    with_settings(
        &with_settle_time(configuration, settle_s),
        &format!("{FAST_LOOKUPS}engine.circuit_failures = {circuit_failures}"),
    )
}

/// The configuration with a changed section of one account. An empty section removes it.
pub(crate) fn section(configuration: &str, account: &str, change: impl FnOnce(&str) -> String) -> String {
    let begin = configuration.find(&format!("[accounts.{account}]\n")).unwrap();
    let (before, rest) = configuration.split_at(begin);
    let end = rest.match_indices("[accounts.").nth(1).map_or(rest.len(), |(at, _)| at);
    let (section, after) = rest.split_at(end);
    format!("{before}{}{after}", change(section))
}

/// The configuration with a changed copy of an account under another name.
pub(crate) fn copied(configuration: &str, account: &str, name: &str, change: impl FnOnce(&str) -> String) -> String {
    section(configuration, account, |section| format!("{section}{}", renamed(&change(section), account, name)))
}

pub(crate) fn renamed(section: &str, from: &str, to: &str) -> String {
    section.replace(&format!("[accounts.{from}]"), &format!("[accounts.{to}]"))
}

/// The same simulators at another endpoint: the host has another name.
pub(crate) fn other_host(section: &str) -> String {
    section.replace("127.0.0.1", "localhost")
}

pub(crate) fn other_login(section: &str) -> String {
    section.replace("\"demo\"", "\"demo-2\"").replace("\"demo-test\"", "\"demo-2-test\"")
}

pub(crate) fn former(section: &str, places: &str) -> String {
    format!("{section}former = [{places}]\n")
}

/// Moves the orders of the first targets to the other login. Debitsuccess shows its accounts under
/// both logins.
pub(crate) fn move_login(simulators: &Simulators) {
    simulators.with_world(|world| {
        let now = world.now();
        let account =
            SectigoAccount { login_name: "demo-2".to_owned(), password: "demo-password".to_owned(), locked: false };
        world.providers.sectigo.put_account(account).unwrap();
        let account =
            NamecomAccount { username: "demo-2-test".to_owned(), ..world.providers.namecom.accounts()[0].clone() };
        world.providers.namecom.put_account(account);
        let login = Login { username: "demo-2".to_owned(), password: "demo-password".to_owned() };
        world.providers.debitsuccess.put_login(login);
        for number in 1..=9 {
            let mut order = world.providers.sectigo.order(&(1_000_000 + number).to_string()).unwrap();
            order.account = Some("demo-2".to_owned());
            world.providers.sectigo.put_order(order, now).unwrap();
            let mut order = world.providers.namecom.order(200_000 + number).unwrap();
            order.account = Some("demo-2-test".to_owned());
            world.providers.namecom.put_order(order, now).unwrap();
        }
    });
}

pub(crate) async fn resolve(
    stack: &Stack,
    id: &str,
    resolution: Resolution,
    take_over: bool,
) -> Result<proto::Refund, Status> {
    loop {
        let request = proto::ResolveRefundRequest {
            name: format!("refunds/{id}"),
            etag: stack.get(id).await.etag,
            resolution: resolution.into(),
            evidence: "ticket 7".to_owned(),
            take_over,
            ..Default::default()
        };
        match stack.refunds.clone().resolve_refund(request).await {
            Ok(answer) => return Ok(answer.into_inner().refund.unwrap()),
            // A lookup was recorded in between.
            Err(refusal) if reason(&refusal) == "ETAG_MISMATCH" => {}
            Err(refusal) => return Err(refusal),
        }
    }
}

pub(crate) fn reassigning(refund: &proto::Refund, account: &str) -> proto::ReassignRefundRequest {
    proto::ReassignRefundRequest {
        name: refund.name.clone(),
        etag: refund.etag.clone(),
        account: account.to_owned(),
        evidence: "ticket 8".to_owned(),
    }
}

pub(crate) async fn reassign(stack: &Stack, request: proto::ReassignRefundRequest) -> Result<proto::Refund, Status> {
    Ok(stack.refunds.clone().reassign_refund(request).await?.into_inner().refund.unwrap())
}

pub(crate) async fn reassign_to(stack: &Stack, id: &str, account: &str) -> Result<proto::Refund, Status> {
    loop {
        let refund = stack.get(id).await;
        match reassign(stack, reassigning(&refund, account)).await {
            Err(refusal) if reason(&refusal) == "ETAG_MISMATCH" => {}
            answer => return answer,
        }
    }
}

pub(crate) fn is_reason(refusal: &Status, expected: &str) {
    assert_eq!(reason(refusal), expected, "{refusal:?}");
}

/// Makes every lookup due, as if much time had passed between two starts.
pub(crate) fn make_lookups_due(dir: &Path) {
    let ledger = rusqlite::Connection::open(dir.join("recoup.db")).unwrap();
    ledger.execute("UPDATE refunds SET next_check = create_time WHERE next_check IS NOT NULL", []).unwrap();
}

/// A gateway with a refund in review: none of its requests arrived.
pub(crate) async fn stack_with_review(provider: Provider, review: &RequestedRefund) -> Stack {
    let stack = Stack::start_as(|configuration| fast_lookups(&configuration, 0, 1_000)).await;
    let rule = stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Standing);
    stack.create(review.request.clone()).await.unwrap();
    let id = &review.request.refund_id;
    stack.until(id, |refund| refund.state() == State::NeedsReview).await;
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    let stack = stack.restart_as(|configuration| slow_lookups(&configuration, 1_000)).await;
    // Waits until the lookup at the start is over: the next one is a day later.
    let is_later = |refund: &proto::Refund| {
        let next_check = refund.doubt.as_ref().unwrap().next_check_time.unwrap();
        next_check.seconds > refund.update_time.unwrap().seconds + 3_600
    };
    let wait = async {
        while !is_later(&stack.get(id).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
    stack
}

/// A provider whose account stays as it is, and neither that provider nor [`becomes`].
pub(crate) fn witness_of(provider: Provider) -> Provider {
    match provider {
        Provider::Sectigo => Provider::Debitsuccess,
        Provider::Namecom | Provider::Debitsuccess => Provider::Sectigo,
    }
}

pub(crate) async fn moves_of(stack: &Stack, id: &str) -> Vec<proto::RefundEvent> {
    stack.events(id).await.into_iter().filter(|event| event.kind() == Kind::Reassigned).collect()
}

/// Loses a request or its answer, so that the refund is in doubt.
pub(crate) async fn lose(stack: &Stack, provider: Provider, refund: &RequestedRefund, point: Point) {
    stack.arm(provider, point, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(refund.request.clone()).await.state(), State::InDoubt);
}

/// What of an account's place changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Moved {
    Host,
    Login,
    Both,
}

/// The section of the account at its new place, with or without the setting `former`.
pub(crate) fn moved(
    section: &str,
    provider: Provider,
    moved: Moved,
    simulators: &Simulators,
    with_former: bool,
) -> String {
    let scheme = if provider == Provider::Sectigo { "https" } else { "http" };
    let endpoint = format!("endpoint = \"{scheme}://{}\"", addr_of(provider, simulators));
    let login = format!("login = \"{}\"", login(provider));
    let (section, places) = match moved {
        Moved::Host => (other_host(section), format!("{{ {endpoint} }}")),
        Moved::Login => (other_login(section), format!("{{ {login} }}")),
        Moved::Both => (other_host(&other_login(section)), format!("{{ {endpoint}, {login} }}")),
    };
    if with_former { former(&section, &places) } else { section }
}

/// A gateway with two refunds in doubt and one that was never sent, at a suspended account.
pub(crate) async fn stack_with_open_refunds(provider: Provider, [lost, gone, pending]: [&RequestedRefund; 3]) -> Stack {
    let stack = Stack::start_as(|text| slow_lookups(&text, 2)).await;
    lose(&stack, provider, lost, Point::AfterEffect).await;
    lose(&stack, provider, gone, Point::BeforeEffect).await;
    assert_eq!(stack.refund(without_wait(pending.request.clone())).await.state(), State::Pending);
    stack
}

/// The configuration with a second account in another currency at the same place, except at
/// name.com.
pub(crate) fn with_other_currency(text: &str, provider: Provider) -> String {
    match provider {
        Provider::Namecom => text.to_owned(),
        Provider::Sectigo => {
            copied(text, "sectigo", "other-currency", |section| format!("{section}currency = \"EUR\"\n"))
        }
        Provider::Debitsuccess => {
            copied(text, "debitsuccess", "other-currency", |section| section.replace("\"AUD\"", "\"NZD\""))
        }
    }
}

/// The refund as it is shown while it waits for its account, with nothing recorded since.
pub(crate) fn waiting(before: &proto::Refund) -> proto::Refund {
    let mut refund = before.clone();
    refund.set_waiting_for(WaitingFor::Account);
    if let Some(doubt) = refund.doubt.as_mut() {
        doubt.next_check_time = None;
        doubt.resend_safe = false;
    }
    refund
}
