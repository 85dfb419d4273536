//! A refund belongs to one provider, host, login and currency. Where the account of its name is at
//! another place after a restart, it waits; `former` and ReassignRefund let it go on.
//!
//! Each test ends by asking the simulators' books.

use std::path::Path;
use std::time::Duration;

use recoup::config::Settings;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::Simulators;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::providers::debitsuccess::{Login, RefundStatus};
use simulators::providers::namecom::Account as NamecomAccount;
use simulators::providers::sectigo::Account as SectigoAccount;
use simulators::request::Provider;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::support::{
    LIMIT, SECRETS, Stack, channel, configuration, debitsuccess, effects, metadata, namecom, reason, sectigo,
    simulators_in, wrong_fields,
};
use crate::telemetry::launch;

/// Doubt stays as it is while a test prepares it, and an account that is suspended stays so.
const PATIENT: &str = "engine.lookups_after_ms = \"3600000\"\n\
                       engine.circuit_pause_min_ms = 3600000\nengine.circuit_pause_max_ms = 3600000\n";
/// What is due is asked for at once and again.
const BRISK: &str = "engine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 100\n\
                     engine.circuit_pause_min_ms = 40\nengine.circuit_pause_max_ms = 100\n";

/// How the account of a name is another one after a restart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Endpoint,
    Login,
    Currency,
    Provider,
    Gone,
}

/// One refund as it is asked for, and how the simulators name its target in the books and in the
/// journal.
struct Asked {
    request: proto::CreateRefundRequest,
    target: String,
    in_journal: String,
}

/// A refund of the demo data's target `number`.
fn asked(provider: Provider, id: &str, number: i32) -> Asked {
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
    Asked { request, target, in_journal }
}

/// The provider's account in the configuration of the tests.
fn name_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Sectigo => "sectigo",
        Provider::Namecom => "namecom",
        Provider::Debitsuccess => "debitsuccess",
    }
}

fn login_of(provider: Provider) -> &'static str {
    match provider {
        Provider::Namecom => "demo-test",
        Provider::Sectigo | Provider::Debitsuccess => "demo",
    }
}

fn addr_of(provider: Provider, simulators: &Simulators) -> String {
    let addr = match provider {
        Provider::Sectigo => simulators.sectigo_addr(),
        Provider::Namecom => simulators.namecom_plaintext_addr(),
        Provider::Debitsuccess => simulators.debitsuccess_plaintext_addr(),
    };
    addr.to_string()
}

/// The state in which a refund ends that the provider takes.
fn taken(provider: Provider) -> State {
    match provider {
        Provider::Sectigo | Provider::Namecom => State::Succeeded,
        Provider::Debitsuccess => State::Submitted,
    }
}

/// Settings before the accounts.
fn with(configuration: &str, settings: &str) -> String {
    configuration.replacen("[accounts", &format!("{settings}\n[accounts"), 1)
}

fn patient(configuration: &str, circuit_failures: u32) -> String {
    with(configuration, &format!("{PATIENT}engine.circuit_failures = {circuit_failures}"))
}

/// Absence means something after `settle_s` seconds, at every account.
fn fast_lookups(configuration: &str, settle_s: u32, circuit_failures: u32) -> String {
    let settled = configuration
        .replace("login_name =", &format!("settle_time_s = {settle_s}\nlogin_name ="))
        .replace("username =", &format!("settle_time_s = {settle_s}\nusername ="));
    with(&settled, &format!("{BRISK}engine.circuit_failures = {circuit_failures}"))
}

/// The configuration with the section of one account changed; an empty one takes it away.
fn section(configuration: &str, account: &str, change: impl FnOnce(&str) -> String) -> String {
    let begin = configuration.find(&format!("[accounts.{account}]\n")).unwrap();
    let (before, rest) = configuration.split_at(begin);
    let end = rest.match_indices("[accounts.").nth(1).map_or(rest.len(), |(at, _)| at);
    let (section, after) = rest.split_at(end);
    format!("{before}{}{after}", change(section))
}

/// Adds the account once more under another name, changed.
fn copied(configuration: &str, account: &str, name: &str, change: impl FnOnce(&str) -> String) -> String {
    section(configuration, account, |section| format!("{section}{}", renamed(&change(section), account, name)))
}

fn renamed(section: &str, from: &str, to: &str) -> String {
    section.replace(&format!("[accounts.{from}]"), &format!("[accounts.{to}]"))
}

/// The same simulators under another origin: the host has another name.
fn other_host(section: &str) -> String {
    section.replace("127.0.0.1", "localhost")
}

fn other_login(section: &str) -> String {
    section.replace("\"demo\"", "\"demo-2\"").replace("\"demo-test\"", "\"demo-2-test\"")
}

fn former(section: &str, places: &str) -> String {
    format!("{section}former = [{places}]\n")
}

/// The orders of the first targets are seen under the other login, and Debitsuccess's accounts
/// under both.
fn move_login(simulators: &Simulators) {
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

fn at_once(request: proto::CreateRefundRequest) -> proto::CreateRefundRequest {
    proto::CreateRefundRequest { wait: Some(prost_types::Duration::default()), ..request }
}

fn is_settled(refund: &proto::Refund) -> bool {
    !matches!(refund.state(), State::Pending | State::Dispatching | State::InDoubt)
}

fn micros(time: prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

async fn events_of(stack: &Stack, id: &str) -> Vec<proto::RefundEvent> {
    let request = proto::ListRefundEventsRequest { name: format!("refunds/{id}"), ..Default::default() };
    stack.refunds.clone().list_refund_events(request).await.unwrap().into_inner().events
}

async fn moves_of(stack: &Stack, id: &str) -> Vec<proto::RefundEvent> {
    events_of(stack, id).await.into_iter().filter(|event| event.kind() == Kind::Reassigned).collect()
}

async fn health_of(stack: &Stack, account: &str) -> Health {
    let accounts = stack.accounts().await.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner();
    accounts.accounts.iter().find(|one| one.account == account).unwrap().health()
}

async fn resolve(stack: &Stack, id: &str, resolution: Resolution, take_over: bool) -> Result<proto::Refund, Status> {
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

fn reassigning(refund: &proto::Refund, account: &str) -> proto::ReassignRefundRequest {
    proto::ReassignRefundRequest {
        name: refund.name.clone(),
        etag: refund.etag.clone(),
        account: account.to_owned(),
        evidence: "ticket 8".to_owned(),
    }
}

async fn reassign(stack: &Stack, request: proto::ReassignRefundRequest) -> Result<proto::Refund, Status> {
    Ok(stack.refunds.clone().reassign_refund(request).await?.into_inner().refund.unwrap())
}

async fn reassign_to(stack: &Stack, id: &str, account: &str) -> Result<proto::Refund, Status> {
    loop {
        let refund = stack.get(id).await;
        match reassign(stack, reassigning(&refund, account)).await {
            Err(refusal) if reason(&refusal) == "ETAG_MISMATCH" => {}
            answer => return answer,
        }
    }
}

fn is_reason(refusal: &Status, expected: &str) {
    assert_eq!(reason(refusal), expected, "{refusal:?}");
}

/// Loses a request, or the answer to it: the refund stays in doubt.
async fn lose(stack: &Stack, provider: Provider, asked: &Asked, point: Point) {
    stack.arm(provider, point, FaultEffect::Close, Repeat::Once);
    assert_eq!(stack.refund(asked.request.clone()).await.state(), State::InDoubt);
}

/// So much time passes between two starts that everything in doubt is to be looked up.
fn let_time_pass(dir: &Path) {
    let ledger = rusqlite::Connection::open(dir.join("recoup.db")).unwrap();
    ledger.execute("UPDATE refunds SET next_check = create_time WHERE next_check IS NOT NULL", []).unwrap();
}

/// A gateway with a refund that only a person can settle: none of its requests arrived.
async fn with_review(provider: Provider, review: &Asked) -> Stack {
    let stack = Stack::start_as(|configuration| fast_lookups(&configuration, 0, 1_000)).await;
    let rule = stack.arm(provider, Point::BeforeEffect, FaultEffect::Close, Repeat::Standing);
    stack.create(review.request.clone()).await.unwrap();
    let id = &review.request.refund_id;
    stack.until(id, |refund| refund.state() == State::NeedsReview).await;
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    let stack = stack.restart_as(|configuration| patient(&configuration, 1_000)).await;
    // The lookup that is due at the start is over: the next one is a day later.
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

/// The configuration after `change` to the provider's account; `other` is another instance of the
/// simulators.
fn changed(configuration: &str, provider: Provider, change: Change, other: &(Simulators, TempDir)) -> String {
    let name = name_of(provider);
    match change {
        Change::Endpoint => section(configuration, name, |section| {
            let (simulators, dir) = other;
            let lines = section.lines().map(|line| match line.split_once(" = ") {
                Some(("endpoint", url)) => {
                    let (scheme, _) = url.trim_matches('"').split_once("://").unwrap();
                    format!("endpoint = \"{scheme}://{}\"\n", addr_of(provider, simulators))
                }
                Some(("ca_file", _)) => format!("ca_file = \"{}/ca.pem\"\n", dir.path().display()),
                _ => format!("{line}\n"),
            });
            lines.collect()
        }),
        Change::Login => section(configuration, name, other_login),
        Change::Currency => section(configuration, name, |section| match provider {
            Provider::Debitsuccess => section.replace("\"AUD\"", "\"NZD\""),
            Provider::Sectigo | Provider::Namecom => format!("{section}currency = \"EUR\"\n"),
        }),
        Change::Provider => {
            let other = name_of(becomes(provider));
            let gone = section(configuration, name, |_| String::new());
            copied(&gone, other, name, str::to_owned)
        }
        Change::Gone => section(configuration, name, |_| String::new()),
    }
}

/// Of which provider the account is after [`Change::Provider`].
fn becomes(provider: Provider) -> Provider {
    match provider {
        Provider::Namecom => Provider::Debitsuccess,
        Provider::Sectigo | Provider::Debitsuccess => Provider::Namecom,
    }
}

/// A provider whose account stays as it is, and neither that provider nor [`becomes`].
fn witness_of(provider: Provider) -> Provider {
    match provider {
        Provider::Sectigo => Provider::Debitsuccess,
        Provider::Namecom | Provider::Debitsuccess => Provider::Sectigo,
    }
}

/// The same refund, waiting for its account, with nothing recorded since.
fn waiting(before: &proto::Refund) -> proto::Refund {
    let mut refund = before.clone();
    refund.set_waiting_for(WaitingFor::Account);
    if let Some(doubt) = refund.doubt.as_mut() {
        doubt.next_check_time = None;
        doubt.resend_safe = false;
    }
    refund
}

#[rstest]
#[case(Provider::Sectigo, Change::Endpoint, "endpoint")]
#[case(Provider::Sectigo, Change::Login, "login")]
#[case(Provider::Sectigo, Change::Currency, "currency")]
#[case(Provider::Sectigo, Change::Provider, "provider,endpoint,login")]
#[case(Provider::Sectigo, Change::Gone, "account")]
#[case(Provider::Namecom, Change::Endpoint, "endpoint")]
#[case(Provider::Namecom, Change::Login, "login")]
#[case(Provider::Namecom, Change::Provider, "provider,endpoint,login,currency")]
#[case(Provider::Namecom, Change::Gone, "account")]
#[case(Provider::Debitsuccess, Change::Endpoint, "endpoint")]
#[case(Provider::Debitsuccess, Change::Login, "login")]
#[case(Provider::Debitsuccess, Change::Currency, "currency")]
#[case(Provider::Debitsuccess, Change::Provider, "provider,endpoint,login,currency")]
#[case(Provider::Debitsuccess, Change::Gone, "account")]
#[tokio::test]
async fn what_was_recorded_for_another_account_waits(
    #[case] provider: Provider,
    #[case] change: Change,
    #[case] differing: &str,
) {
    let (name, witness_provider) = (name_of(provider), witness_of(provider));
    let [review, lost, pending] =
        [("review", 1), ("lost", 2), ("pending", 3)].map(|(id, number)| asked(provider, id, number));
    let stack = with_review(provider, &review).await.restart_as(|text| patient(&text, 1)).await;
    let witness = asked(witness_provider, "witness", 1);
    lose(&stack, witness_provider, &witness, Point::BeforeEffect).await;
    // One failure suspends the account, so the next refund is recorded and not sent.
    lose(&stack, provider, &lost, Point::AfterEffect).await;
    assert_eq!(stack.refund(at_once(pending.request.clone())).await.state(), State::Pending);
    let mut before = Vec::new();
    for id in ["review", "lost", "pending"] {
        before.push((stack.get(id).await, events_of(&stack, id).await));
    }
    // Of all providers but the witness's, and of the refunds' own.
    let requests = |stack: &Stack| {
        let journal = stack.simulators.journal();
        let of_others = journal.iter().filter(|entry| entry.provider != witness_provider).count();
        (of_others, journal.iter().filter(|entry| entry.provider == provider).count())
    };
    let sent = requests(&stack);

    let other_dir = tempfile::tempdir().unwrap();
    let other = (simulators_in(other_dir.path()).await, other_dir);
    if change == Change::Login {
        move_login(&stack.simulators);
    }
    let dir = stack.dir.path().to_owned();
    let stack = stack
        .restart_as(|text| {
            let_time_pass(&dir);
            let text = changed(&text, provider, change, &other);
            let text = fast_lookups(&text, 0, 1);
            section(&text, name_of(witness_provider), |section| {
                section.replace("settle_time_s = 0", "settle_time_s = 600")
            })
        })
        .await;
    // Meanwhile the others would have been looked up as often, and sent.
    stack.until("witness", |refund| refund.doubt.as_ref().is_some_and(|doubt| doubt.check_count >= 4)).await;

    for (refund, events) in &before {
        let id = refund.refund_id.as_str();
        assert_eq!(stack.get(id).await, waiting(refund));
        assert_eq!(events_of(&stack, id).await, *events);
        let refusal = stack.reconcile(id).await.unwrap_err();
        if id == "pending" {
            is_reason(&refusal, "NOT_IN_DOUBT");
        } else {
            is_reason(&refusal, "ACCOUNT_CHANGED");
            assert_eq!(
                (refusal.code(), metadata(&refusal, "differing_fields").as_str()),
                (Code::FailedPrecondition, differing)
            );
        }
    }
    for Asked { request, .. } in [&review, &lost, &pending] {
        let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = proto::CreateRefundRequest { wait, ..request.clone() };
        let answer = tokio::time::timeout(LIMIT / 3, stack.create(request)).await.unwrap().unwrap();
        assert!(answer.replayed);
        assert_eq!(answer.refund.unwrap().waiting_for(), WaitingFor::Account);
    }
    let refusal = resolve(&stack, "review", Resolution::SendAgain, false).await.unwrap_err();
    is_reason(&refusal, "ACCOUNT_CHANGED");
    assert_eq!(metadata(&refusal, "differing_fields"), differing);
    for (refund, _) in &before {
        assert_eq!(stack.get(&refund.refund_id).await, waiting(refund), "a refused call changes nothing");
    }
    assert_eq!(requests(&stack), sent, "nothing was sent or looked up");
    if change == Change::Provider {
        // They are no failures of the account that has the name now.
        assert_eq!(health_of(&stack, name).await, Health::Serving);
        let new = asked(becomes(provider), "new", 7);
        let request = proto::CreateRefundRequest { account: name.to_owned(), ..new.request };
        assert_eq!(stack.refund(request).await.state(), taken(becomes(provider)));
        assert_eq!((stack.effects(&new.target), stack.attempts(&new.in_journal)), (1, 1));
    }

    // A person's word needs no account.
    let (of_review, of_lost) = match change {
        Change::Gone | Change::Login => (Resolution::Refunded, Resolution::NotRefunded),
        _ => (Resolution::NotRefunded, Resolution::Refunded),
    };
    let ends = |word| if word == Resolution::Refunded { State::Succeeded } else { State::Failed };
    assert_eq!(resolve(&stack, "review", of_review, false).await.unwrap().state(), ends(of_review));
    assert_eq!(resolve(&stack, "lost", of_lost, true).await.unwrap().state(), ends(of_lost));
    let request = proto::CancelRefundRequest { name: "refunds/pending".to_owned(), ..Default::default() };
    let cancelled = stack.refunds.clone().cancel_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((cancelled.state(), cancelled.waiting_for()), (State::Cancelled, WaitingFor::Unspecified));

    assert_eq!(requests(&stack).1, sent.1, "a person's word asks for nothing");
    assert!(other.0.journal().is_empty() && other.0.books().is_empty());
    assert_eq!([&review, &lost, &pending].map(|one| stack.effects(&one.target)), [0, 1, 0]);
    assert_eq!((stack.attempts(&lost.in_journal), stack.attempts(&pending.in_journal)), (1, 0));
}

/// How an account moves, and what its `former` says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moved {
    Host,
    Login,
    Both,
}

/// The account at its new place; with `former`, the configuration says where it was.
fn moved(section: &str, provider: Provider, moved: Moved, simulators: &Simulators, is_said: bool) -> String {
    let scheme = if provider == Provider::Sectigo { "https" } else { "http" };
    let endpoint = format!("endpoint = \"{scheme}://{}\"", addr_of(provider, simulators));
    let login = format!("login = \"{}\"", login_of(provider));
    let (section, places) = match moved {
        Moved::Host => (other_host(section), format!("{{ {endpoint} }}")),
        Moved::Login => (other_login(section), format!("{{ {login} }}")),
        Moved::Both => (other_host(&other_login(section)), format!("{{ {endpoint}, {login} }}")),
    };
    if is_said { former(&section, &places) } else { section }
}

/// Two refunds in doubt and one that was never sent, at an account that is suspended.
async fn with_three_open(provider: Provider, [lost, gone, pending]: [&Asked; 3]) -> Stack {
    let stack = Stack::start_as(|text| patient(&text, 2)).await;
    lose(&stack, provider, lost, Point::AfterEffect).await;
    lose(&stack, provider, gone, Point::BeforeEffect).await;
    assert_eq!(stack.refund(at_once(pending.request.clone())).await.state(), State::Pending);
    stack
}

#[rstest]
#[tokio::test]
async fn what_the_configuration_says_has_moved_goes_on(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(Moved::Host, Moved::Login, Moved::Both)] how: Moved,
) {
    let all = [("lost", 1), ("gone", 2), ("pending", 3)].map(|(id, number)| asked(provider, id, number));
    let [lost, gone, pending] = &all;
    let stack = with_three_open(provider, [lost, gone, pending]).await;
    if how != Moved::Host {
        move_login(&stack.simulators);
    }
    let simulators = &stack.simulators;
    let base = configuration(simulators, stack.dir.path(), "");
    let text = section(&base, name_of(provider), |section| moved(section, provider, how, simulators, true));
    let text = fast_lookups(&text, 1, 1_000);
    let stack = stack.restart_as(|_| text.clone()).await;

    for id in ["lost", "gone", "pending"] {
        let moves = moves_of(&stack, id).await;
        let [event] = moves.as_slice() else { panic!("{moves:?}") };
        assert_eq!((event.actor.as_str(), event.from_state, event.attempt), ("gateway", event.to_state, 0));
    }
    // An attempt from before is only looked up: what is found is settled, and what is absent goes
    // to a person.
    assert_eq!(stack.until("lost", is_settled).await.state(), taken(provider));
    let sent = stack.until("pending", is_settled).await;
    assert_eq!((sent.state(), sent.attempt_count), (taken(provider), 1));
    let review = stack.until("gone", is_settled).await;
    assert_eq!((review.state(), review.attempt_count), (State::NeedsReview, 1));
    assert!(!review.doubt.as_ref().unwrap().resend_safe);
    let begin = micros(moves_of(&stack, "gone").await[0].event_time.unwrap());
    assert!(micros(review.update_time.unwrap()) >= begin + 1_000_000, "the settle time begins anew");

    let stack = stack.restart_as(|_| text).await;
    for id in ["lost", "gone", "pending"] {
        assert_eq!(moves_of(&stack, id).await.len(), 1, "it moves once");
    }
    assert_eq!([lost, gone, pending].map(|one| stack.effects(&one.target)), [1, 0, 1]);
    assert_eq!([lost, gone, pending].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
}

/// A part that is left out is the present one: half of a place is another place.
#[rstest]
#[case::host_alone(Moved::Host)]
#[case::login_alone(Moved::Login)]
#[tokio::test]
async fn a_former_place_that_fits_in_part_moves_nothing(#[case] said: Moved) {
    let stack = Stack::start_as(|text| patient(&text, 1_000)).await;
    let lost = asked(Provider::Sectigo, "lost", 1);
    lose(&stack, Provider::Sectigo, &lost, Point::AfterEffect).await;
    let before = stack.get("lost").await;
    let addr = addr_of(Provider::Sectigo, &stack.simulators);
    let place = match said {
        Moved::Login => "{ login = \"demo\" }".to_owned(),
        _ => format!("{{ endpoint = \"https://{addr}\" }}"),
    };
    let stack = stack
        .restart_as(|text| section(&text, "sectigo", |section| former(&other_host(&other_login(section)), &place)))
        .await;
    assert_eq!(stack.get("lost").await, waiting(&before));
    assert_eq!((stack.effects(&lost.target), stack.simulators.journal().len()), (1, 1));
}

#[rstest]
#[case::whole("{ endpoint = \"https://ADDR\", login = \"demo-2\" }", Some("accounts.sectigo.former"))]
#[case::its_login_alone("{ login = \"demo-2\" }", Some("accounts.sectigo.former"))]
#[case::another_login("{ login = \"demo-3\" }", None)]
#[case::another_host("{ endpoint = \"https://localhost:1\", login = \"demo-2\" }", None)]
#[case::its_own("{ login = \"demo\" }", None)]
#[tokio::test]
async fn a_former_place_is_no_present_one_of_another_account(#[case] places: &str, #[case] fault: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let places = places.replace("ADDR", &addr_of(Provider::Sectigo, &simulators));
    let text = copied(&configuration(&simulators, dir.path(), ""), "sectigo", "other", other_login);
    let text = section(&text, "sectigo", |section| former(section, &places));
    let path = dir.path().join("recoup.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = Settings::load(Some(&path), SECRETS.map(|(name, value)| (name.into(), value.into())));
    let said = loaded.err().map(|faults| faults.to_string()).unwrap_or_default();
    assert_eq!(!said.is_empty(), fault.is_some(), "{said}");
    assert!(said.contains(fault.unwrap_or_default()), "{said}");
    assert!(fault.is_none() || said.contains("\"other\""), "{said}");
    assert!(simulators.journal().is_empty());
}

/// A second currency at the same place as the account, and no account in it at name.com.
fn foreign(text: &str, provider: Provider) -> String {
    match provider {
        Provider::Namecom => text.to_owned(),
        Provider::Sectigo => copied(text, "sectigo", "foreign", |section| format!("{section}currency = \"EUR\"\n")),
        Provider::Debitsuccess => {
            copied(text, "debitsuccess", "foreign", |section| section.replace("\"AUD\"", "\"NZD\""))
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_person_lets_refunds_go_on_at_another_account(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
) {
    let name = name_of(provider);
    let [review, lost, pending, done] =
        [("review", 1), ("lost", 2), ("pending", 3), ("done", 4)].map(|(id, number)| asked(provider, id, number));
    let stack = with_review(provider, &review).await.restart_as(|text| patient(&text, 1)).await;
    assert_eq!(stack.refund(done.request.clone()).await.state(), taken(provider));
    lose(&stack, provider, &lost, Point::AfterEffect).await;
    stack.refund(at_once(pending.request.clone())).await;
    let witness = asked(witness_of(provider), "witness", 1);
    lose(&stack, witness_of(provider), &witness, Point::AfterEffect).await;
    let attempts = stack.attempts(&review.in_journal);

    let stack = stack
        .restart_as(|text| {
            let text = foreign(&text, provider);
            let text = section(&text, name, |section| other_host(&renamed(section, name, "other")));
            section(&fast_lookups(&text, 1, 1_000), name_of(witness_of(provider)), |section| {
                section.replace("settle_time_s = 1\n", "settle_time_s = 600\n")
            })
        })
        .await;
    let mut open = vec!["review", "lost", "pending"];
    if provider == Provider::Debitsuccess {
        open.push("done");
    } else {
        let done = stack.get("done").await;
        let refusal = reassign(&stack, reassigning(&done, "other")).await.unwrap_err();
        assert_eq!(
            (reason(&refusal).as_str(), metadata(&refusal, "state").as_str()),
            ("NOT_REASSIGNABLE", "SUCCEEDED")
        );
    }
    // Its account is where it was.
    let refusal = reassign_to(&stack, "witness", name_of(witness_of(provider))).await.unwrap_err();
    is_reason(&refusal, "NOT_REASSIGNABLE");
    for id in &open {
        let before = stack.get(id).await;
        assert_eq!(before.waiting_for(), WaitingFor::Account);
        let right = reassigning(&before, "other");
        let refused = |request: proto::ReassignRefundRequest| {
            let stack = &stack;
            async move { reassign(stack, request).await.unwrap_err() }
        };
        let nothing = refused(proto::ReassignRefundRequest { name: before.name.clone(), ..Default::default() }).await;
        assert_eq!(wrong_fields(&nothing), ["account", "etag", "evidence"]);
        let blank = refused(proto::ReassignRefundRequest { evidence: " \u{200b}".to_owned(), ..right.clone() }).await;
        assert_eq!(wrong_fields(&blank), ["evidence"]);
        let stale = refused(proto::ReassignRefundRequest { etag: "1-1".to_owned(), ..right.clone() }).await;
        assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
        assert_eq!(metadata(&stale, "etag"), before.etag);
        is_reason(&refused(reassigning(&before, "nobody")).await, "ACCOUNT_NOT_FOUND");
        // The account that it was recorded for is gone too.
        is_reason(&refused(reassigning(&before, name)).await, "ACCOUNT_NOT_FOUND");
        is_reason(&refused(reassigning(&before, name_of(witness_of(provider)))).await, "ACCOUNT_MISMATCH");
        if provider != Provider::Namecom {
            assert_eq!(wrong_fields(&refused(reassigning(&before, "foreign")).await), ["account"]);
        }
        assert_eq!(stack.get(id).await, before, "a refused call changes nothing");

        let gone_on = reassign(&stack, right.clone()).await.unwrap();
        assert_eq!((gone_on.account.as_str(), gone_on.revision), ("other", before.revision + 1));
        assert_ne!(gone_on.waiting_for(), WaitingFor::Account);
        let moves = moves_of(&stack, id).await;
        assert_eq!((moves.len(), moves[0].actor.as_str(), moves[0].from_state), (1, "caller", moves[0].to_state));
        assert!(moves[0].note.contains("ticket 8"), "{}", moves[0].note);
        is_reason(&reassign(&stack, right).await.unwrap_err(), "ETAG_MISMATCH");
        is_reason(&reassign_to(&stack, id, "other").await.unwrap_err(), "NOT_REASSIGNABLE");
    }
    assert_eq!(stack.until("lost", is_settled).await.state(), taken(provider));
    let sent = stack.until("pending", is_settled).await;
    assert_eq!((sent.state(), sent.attempt_count), (taken(provider), 1));
    if provider == Provider::Debitsuccess {
        let number = stack.get("done").await.provider_reference;
        stack.simulators.with_world(|world| {
            world.providers.debitsuccess.set_refund_status(&number, RefundStatus::Completed, None).unwrap();
        });
        assert_eq!(stack.until("done", |refund| refund.complete_time.is_some()).await.state(), State::Succeeded);
    }

    // It is compared with the account that was first given, though that is gone.
    for one in [&review, &lost, &pending, &done] {
        let again = stack.create(one.request.clone()).await.unwrap();
        assert!(again.replayed);
        let is_moved = open.contains(&one.request.refund_id.as_str());
        assert_eq!(again.refund.unwrap().account, if is_moved { "other" } else { name });
        let elsewhere = proto::CreateRefundRequest { account: "other".to_owned(), ..one.request.clone() };
        let refusal = stack.create(elsewhere).await.unwrap_err();
        assert_eq!(
            (reason(&refusal).as_str(), metadata(&refusal, "differing_fields").as_str()),
            ("REFUND_ID_REUSED", "account")
        );
    }
    assert_eq!(stack.get("review").await.state(), State::NeedsReview);
    assert_eq!([&review, &lost, &pending, &done].map(|one| stack.effects(&one.target)), [0, 1, 1, 1]);
    assert_eq!([&lost, &pending, &done].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
    assert_eq!(stack.attempts(&review.in_journal), attempts, "what was attempted elsewhere is only looked up");

    // Where a person says so, it is sent once, from the account where it goes on.
    stack.until("review", |refund| refund.waiting_for() == WaitingFor::Unspecified).await;
    resolve(&stack, "review", Resolution::SendAgain, false).await.unwrap();
    let sent = stack.until("review", |refund| is_settled(refund) && refund.state() != State::NeedsReview).await;
    assert_eq!((sent.state(), stack.effects(&review.target)), (taken(provider), 1));
}

/// Two accounts that nothing says are the same books may each refund one target, until a refund is
/// to move.
#[rstest]
#[case(Provider::Sectigo, "TARGET_HAS_REFUND")]
#[case(Provider::Namecom, "TARGET_HAS_REFUND")]
#[case(Provider::Debitsuccess, "SIMILAR_REFUND")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refund_moves_to_where_another_one_stands_in_its_way(#[case] provider: Provider, #[case] why: &str) {
    let name = name_of(provider);
    let [lost, gone, pending] =
        [("lost", 1), ("gone", 2), ("pending", 3)].map(|(id, number)| asked(provider, id, number));
    let stack = with_three_open(provider, [&lost, &gone, &pending]).await;
    move_login(&stack.simulators);
    let elsewhere = |text: &str| section(text, name, |section| other_login(&renamed(section, name, "other")));
    let stack = stack.restart_as(|text| fast_lookups(&elsewhere(&text), 1, 1_000)).await;
    let rival = |one: &Asked, id: &str| proto::CreateRefundRequest {
        refund_id: id.to_owned(),
        account: "other".to_owned(),
        ..one.request.clone()
    };
    assert_eq!(stack.refund(rival(&pending, "rival")).await.state(), taken(provider));
    let before = stack.get("pending").await;
    let refusal = reassign(&stack, reassigning(&before, "other")).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, why));
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/rival");
    assert_eq!(stack.get("pending").await, before);

    // Once one of them has moved, both logins are the same books: what ended under the first one
    // counts too.
    let ended = asked(provider, "ended", 2);
    let free = proto::CreateRefundRequest { validate_only: true, ..rival(&ended, "late") };
    stack.create(free.clone()).await.unwrap();
    assert_eq!(resolve(&stack, "gone", Resolution::Refunded, true).await.unwrap().state(), State::Succeeded);
    stack.create(free).await.unwrap();
    assert_eq!(reassign_to(&stack, "lost", "other").await.unwrap().account, "other");
    let refusal = stack.create(rival(&ended, "late")).await.unwrap_err();
    is_reason(&refusal, why);
    assert_eq!(metadata(&refusal, "conflicting_refund"), "refunds/gone");
    assert_eq!(stack.until("lost", is_settled).await.state(), taken(provider));

    // The configuration says the same of the first account: what is in the way of the one that is
    // to be sent stays there.
    let Stack { simulators, app, dir, refunds } = stack;
    drop(refunds);
    app.stop().await;
    let base = configuration(&simulators, dir.path(), "");
    let login = login_of(provider);
    let text = copied(&base, name, "other", other_login);
    let text = section(&text, name, |section| former(&other_login(section), &format!("{{ login = \"{login}\" }}")));
    let (gateway, log) = launch(&fast_lookups(&text, 1, 1_000), dir.path(), &[]);
    let mut client = RefundServiceClient::new(channel(gateway.addr).await);
    let request = proto::GetRefundRequest { name: "refunds/pending".to_owned() };
    let left = client.get_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(left, before, "it goes on waiting");
    let named = |line: &serde_json::Value| {
        line["level"] == "WARN" && line["refund"] == "pending" && line.to_string().contains("goes on waiting")
    };
    assert_eq!(log.lines().iter().filter(|line| named(line)).count(), 1, "{}", log.text());
    assert_eq!(
        log.count("refunds of an account that is gone or has changed are neither sent nor looked up"),
        1,
        "{}",
        log.text()
    );
    assert!(gateway.terminate().success());
    assert_eq!(effects(&simulators, &pending.target), 1, "the other one's");
    assert_eq!(effects(&simulators, &lost.target), 1);
    assert_eq!(effects(&simulators, &gone.target), 0);
}

/// The host is no part of who holds a target: a moved one frees nothing, open or ended.
#[rstest]
#[tokio::test]
async fn what_was_refunded_before_a_move_is_refunded_after_it(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(Moved::Host, Moved::Login)] how: Moved,
    #[values(false, true)] is_renamed: bool,
) {
    let (name, why) = match provider {
        Provider::Sectigo | Provider::Namecom => (name_of(provider), "TARGET_HAS_REFUND"),
        Provider::Debitsuccess => (name_of(provider), "SIMILAR_REFUND"),
    };
    let [done, open, free] = [("done", 1), ("open", 2), ("free", 3)].map(|(id, number)| asked(provider, id, number));
    let stack = Stack::start_as(|text| patient(&text, 1_000)).await;
    let refund = stack.refund(done.request.clone()).await;
    if provider == Provider::Debitsuccess {
        let number = refund.provider_reference;
        stack.simulators.with_world(|world| {
            world.providers.debitsuccess.set_refund_status(&number, RefundStatus::Completed, None).unwrap();
        });
        assert_eq!(stack.reconcile("done").await.unwrap().state(), State::Succeeded);
    }
    lose(&stack, provider, &open, Point::BeforeEffect).await;
    if how != Moved::Host {
        move_login(&stack.simulators);
    }
    // By its login alone the account knows its own, where it has another name; else `former` says
    // whose books they are.
    let is_said = is_renamed && how != Moved::Host;
    let new_name = if is_renamed { "other" } else { name };
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, name, |section| {
        renamed(&moved(section, provider, how, &stack.simulators, is_said), name, new_name)
    });
    let stack = stack.restart_as(|_| text).await;
    let again = |one: &Asked, id: &str| proto::CreateRefundRequest {
        refund_id: id.to_owned(),
        account: new_name.to_owned(),
        ..one.request.clone()
    };
    for (one, of) in [(&done, "refunds/done"), (&open, "refunds/open")] {
        for validate_only in [true, false] {
            let request = proto::CreateRefundRequest { validate_only, ..again(one, "again") };
            let refusal = stack.create(request).await.unwrap_err();
            is_reason(&refusal, why);
            assert_eq!(metadata(&refusal, "conflicting_refund"), of);
        }
    }
    assert_eq!(stack.refund(again(&free, "free")).await.state(), taken(provider));
    assert_eq!([&done, &open, &free].map(|one| stack.effects(&one.target)), [1, 0, 1]);
    assert_eq!([&done, &open, &free].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
}

/// A refund whose account is away does not grow old; one whose provider is, does.
#[tokio::test]
async fn expiry_stands_still_while_a_refund_waits_for_its_account() {
    const LIMIT_S: &str = "pending_limit_s = 3\n";
    let hasty = |section: &str| format!("{section}{LIMIT_S}");
    let stack = Stack::start_as(|text| patient(&text, 1)).await;
    let (provider, other) = (Provider::Namecom, Provider::Debitsuccess);
    let [lost, waits] = [("lost", 1), ("waits", 2)].map(|(id, number)| asked(provider, id, number));
    lose(&stack, provider, &lost, Point::BeforeEffect).await;
    stack.refund(at_once(waits.request.clone())).await;
    let away = |text: &str| {
        let text = section(text, "namecom", |section| hasty(&other_login(section)));
        patient(&section(&text, "debitsuccess", hasty), 1)
    };
    let stack = stack.restart_as(|text| away(&text)).await;
    let [unheard, expires] = [("unheard", 1), ("expires", 2)].map(|(id, number)| asked(other, id, number));
    lose(&stack, other, &unheard, Point::BeforeEffect).await;
    stack.refund(at_once(expires.request.clone())).await;
    let failed = stack.until("expires", |refund| refund.state() == State::Failed).await;
    assert!(failed.dispatch_time.is_none(), "never sent");
    let before = stack.get("waits").await;
    assert_eq!((before.state(), before.waiting_for()), (State::Pending, WaitingFor::Account));
    // By the wall clock it is too old by now.
    assert!(micros(failed.update_time.unwrap()) - micros(before.create_time.unwrap()) > 3_000_000);
    let stack = stack.restart_as(|text| fast_lookups(&section(&text, "namecom", hasty), 600, 1_000)).await;
    assert_eq!(stack.until("waits", is_settled).await.state(), State::Succeeded);
    assert_eq!((stack.effects(&waits.target), stack.effects(&expires.target)), (1, 0));
    assert_eq!((stack.attempts(&waits.in_journal), stack.attempts(&expires.in_journal)), (1, 0));
}

/// The provider keeps a key for each token: under a new one, the request with an old key would be a
/// first one.
#[rstest]
#[case::the_same(false, State::Succeeded, 2, 1)]
#[case::another(true, State::NeedsReview, 1, 0)]
#[tokio::test]
async fn a_key_dies_with_the_token_that_it_was_sent_with(
    #[case] is_new: bool,
    #[case] end: State,
    #[case] attempts: usize,
    #[case] effects: usize,
) {
    let stack = Stack::start_as(|text| patient(&text, 1_000)).await;
    // An item that is no registration: its lookup proves no absence.
    let lost = proto::CreateRefundRequest { refund_id: "lost".to_owned(), ..namecom("lost", 123_456, &[987_655]) };
    let lost = Asked { request: lost, target: "987655".to_owned(), in_journal: "123456".to_owned() };
    lose(&stack, Provider::Namecom, &lost, Point::BeforeEffect).await;
    let file = stack.dir.path().join("token");
    let token = if is_new { "token-2" } else { "demo-token" };
    std::fs::write(&file, token).unwrap();
    stack.simulators.with_world(|world| {
        let account = world.providers.namecom.accounts()[0].clone();
        world.providers.namecom.put_account(NamecomAccount { token: token.to_owned(), ..account });
    });
    let dir = stack.dir.path().to_owned();
    let stack = stack
        .restart_as(|text| {
            let_time_pass(&dir);
            let text = text.replace("token_env = \"DEMO_TOKEN\"", &format!("token_file = \"{}\"", file.display()));
            fast_lookups(&text, 1, 1_000)
        })
        .await;
    assert_eq!(stack.until("lost", is_settled).await.state(), end);
    assert_eq!((stack.attempts(&lost.in_journal), stack.effects(&lost.target)), (attempts, effects));
    assert!(stack.get("lost").await.doubt.is_none_or(|doubt| !doubt.resend_safe));
}

/// What is only looked up pays nothing twice: no similar refund stands in its way.
#[tokio::test]
async fn a_doubt_moves_past_a_similar_refund_that_may_still_have_an_effect() {
    let provider = Provider::Debitsuccess;
    let stack = Stack::start_as(|text| patient(&text, 1_000)).await;
    let [first, second] = ["first", "second"].map(|id| asked(provider, id, 1));
    lose(&stack, provider, &first, Point::BeforeEffect).await;
    let request = proto::CreateRefundRequest { allow_similar: true, ..second.request.clone() };
    lose(&stack, provider, &Asked { request, ..second }, Point::AfterEffect).await;
    assert_eq!(resolve(&stack, "first", Resolution::NotRefunded, true).await.unwrap().state(), State::Failed);
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, "debitsuccess", |text| moved(text, provider, Moved::Host, &stack.simulators, true));
    let stack = stack.restart_as(|_| fast_lookups(&text, 600, 1_000)).await;
    assert_eq!(stack.until("second", is_settled).await.state(), State::Submitted);
    // To be sent is another matter.
    let third = asked(provider, "third", 1).request;
    let refusal = stack.create(proto::CreateRefundRequest { allow_similar: true, ..third }).await.unwrap_err();
    is_reason(&refusal, "SIMILAR_REFUND");
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 2));
}

/// What a caller has allowed once is not asked for again at a new place.
#[rstest]
#[tokio::test]
async fn a_refund_moves_past_a_similar_one_that_its_caller_knew_of(
    #[values(false, true)] by_a_person: bool,
    #[values(Moved::Host, Moved::Login)] how: Moved,
) {
    let provider = Provider::Debitsuccess;
    let stack = Stack::start_as(|text| patient(&text, 1)).await;
    let [first, lost, second] = [("first", 1), ("lost", 2), ("second", 1)].map(|(id, n)| asked(provider, id, n));
    assert_eq!(stack.refund(first.request.clone()).await.state(), State::Submitted);
    lose(&stack, provider, &lost, Point::BeforeEffect).await;
    let request = at_once(second.request.clone());
    is_reason(&stack.create(request.clone()).await.unwrap_err(), "SIMILAR_REFUND");
    let request = proto::CreateRefundRequest { allow_similar: true, ..request };
    assert_eq!(stack.refund(request).await.state(), State::Pending);
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, "debitsuccess", |text| match by_a_person {
        true => renamed(&moved(text, provider, how, &stack.simulators, false), "debitsuccess", "other"),
        false => moved(text, provider, how, &stack.simulators, true),
    });
    move_login(&stack.simulators);
    let stack = stack.restart_as(|_| fast_lookups(&text, 600, 1_000)).await;
    if by_a_person {
        reassign_to(&stack, "second", "other").await.unwrap();
    }
    assert_eq!(stack.until("second", is_settled).await.state(), State::Submitted);
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (2, 2));
}
