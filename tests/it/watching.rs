//! Watches of orders through the real gRPC API: one poll for all watchers of an order, only changes
//! are sent, and watchers that leave leave nothing behind.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join, join_all};
use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::ValidationStatus;
use recoup::proto::v1::validation_status::OrderState;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use rstest::rstest;
use simulators::Simulators;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::request::Provider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::process::Gateway;
use crate::support::{self, LIMIT, SECRETS, Stack, channel, reason, simulators_in, wait_until, wrong_fields};

/// Short enough for a test, long enough to be measured.
const QUICK: &str = "validation.watch_interval_min_ms = 50";
const INTERVAL: Duration = Duration::from_millis(100);

struct Watch(Streaming<proto::WatchValidationStatusResponse>);

impl Watch {
    async fn next(&mut self) -> Result<ValidationStatus, Status> {
        let message = tokio::time::timeout(LIMIT, self.0.message()).await.unwrap()?;
        Ok(message.expect("a watch ends with a status of its own").validation_status.unwrap())
    }

    async fn state(&mut self) -> OrderState {
        self.next().await.unwrap().order_state()
    }

    /// The error at the end of the watch.
    async fn end(&mut self) -> (Code, String) {
        loop {
            if let Err(end) = self.next().await {
                return (end.code(), reason(&end));
            }
        }
    }
}

fn request(order_number: &str) -> proto::WatchValidationStatusRequest {
    proto::WatchValidationStatusRequest {
        account: "sectigo".to_owned(),
        order_number: order_number.to_owned(),
        after_fingerprint: String::new(),
        interval: Some(INTERVAL.try_into().unwrap()),
    }
}

fn after(status: &ValidationStatus) -> proto::WatchValidationStatusRequest {
    proto::WatchValidationStatusRequest {
        after_fingerprint: status.fingerprint.clone(),
        ..request(&status.order_number)
    }
}

async fn open(
    channel: &Channel,
    request: impl tonic::IntoRequest<proto::WatchValidationStatusRequest>,
) -> Result<Watch, Status> {
    let mut client = ValidationStatusServiceClient::new(channel.clone());
    Ok(Watch(client.watch_validation_status(request).await?.into_inner()))
}

impl Stack {
    async fn channel(&self) -> Channel {
        channel(self.app.addr()).await
    }

    async fn watch(&self, request: proto::WatchValidationStatusRequest) -> Watch {
        open(&self.channel().await, request).await.unwrap()
    }
}

/// Sets the state of an order at the provider.
fn set_state(simulators: &Simulators, order_number: &str, state: &str) {
    simulators.with_world(|world| {
        let now = world.now();
        let mut order = world.providers.sectigo.order(order_number).unwrap();
        order.validation.order_status = Some(state.to_owned());
        world.providers.sectigo.put_order(order, now).unwrap();
    });
}

/// The times of the polls of an order at the provider.
fn polls(simulators: &Simulators, order_number: &str) -> Vec<time::OffsetDateTime> {
    let journal = simulators.journal();
    let of_order = journal.iter().filter(|entry| entry.target.as_deref() == Some(order_number));
    of_order.filter(|entry| entry.operation == "!getPostPaymentStatus").map(|entry| entry.time).collect()
}

/// Waits for this many more polls of an order.
async fn until_polls(simulators: &Simulators, order_number: &str, more: usize) {
    let wanted = polls(simulators, order_number).len() + more;
    wait_until(|| polls(simulators, order_number).len() >= wanted).await;
}

/// Tries until the gateway accepts another watch.
async fn until_open<F: Future<Output = Result<Watch, Status>>>(mut open: impl FnMut() -> F) -> Watch {
    let wait = async {
        loop {
            match open().await {
                Ok(watch) => return watch,
                Err(refusal) => assert_eq!(reason(&refusal), "OVERLOADED"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap()
}

#[tokio::test]
async fn a_watch_sends_the_present_status_and_then_every_change() {
    let stack = Stack::start_with(QUICK).await;
    let mut watch = stack.watch(request("3000002")).await;
    let first = watch.next().await.unwrap();
    assert_eq!((first.order_state(), first.upload_document_token.as_str()), (OrderState::Pending, ""));
    let get = proto::GetValidationStatusRequest {
        account: "sectigo".to_owned(),
        order_number: "3000002".to_owned(),
        ..Default::default()
    };
    let got =
        stack.validation().await.get_validation_status(get).await.unwrap().into_inner().validation_status.unwrap();
    assert_eq!(ValidationStatus { fetch_time: first.fetch_time, ..got }, first);
    // No state is final: a rejected order may be processed again.
    for (text, state) in [
        ("Awaiting Authorization", OrderState::AwaitingAuthorization),
        ("Rejected", OrderState::Rejected),
        ("Pending", OrderState::Pending),
        ("Processed", OrderState::Processed),
        ("Refunded", OrderState::Refunded),
        ("A future status", OrderState::Unrecognized),
    ] {
        until_polls(&stack.simulators, "3000002", 2).await;
        set_state(&stack.simulators, "3000002", text);
        let status = watch.next().await.unwrap();
        assert_eq!((status.order_state(), status.order_status_text.as_str()), (state, text));
        assert_eq!(status.upload_document_token, "");
    }
}

#[tokio::test]
async fn a_refund_of_a_watched_order_is_sent() {
    let stack = Stack::start_with(QUICK).await;
    let mut watch = stack.watch(request("1000001")).await;
    assert_eq!(watch.state().await, OrderState::Processed);
    stack.refund(support::sectigo("r", "1000001")).await;
    assert_eq!(watch.state().await, OrderState::Refunded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_watchers_share_one_poll_of_the_provider() {
    let stack = Stack::start_with(QUICK).await;
    let channels = join_all((0..5).map(|_| stack.channel())).await;
    let mut watches = Vec::new();
    for number in 0..50_usize {
        watches.push(open(&channels[number % 5], request("1000002")).await.unwrap());
    }
    for state in join_all(watches.iter_mut().map(Watch::state)).await {
        assert_eq!(state, OrderState::Processed);
    }
    until_polls(&stack.simulators, "1000002", 6).await;
    set_state(&stack.simulators, "1000002", "Pending");
    // Nothing is sent between the first status and the change.
    for state in join_all(watches.iter_mut().map(Watch::state)).await {
        assert_eq!(state, OrderState::Pending);
    }
    let times = polls(&stack.simulators, "1000002");
    assert!(times.len() >= 7);
    for two in times.windows(2) {
        assert!(two[1] - two[0] >= INTERVAL, "{times:?}");
    }
}

#[tokio::test]
async fn a_watcher_that_resumes_with_its_fingerprint_gets_only_the_changes_it_missed() {
    let stack = Stack::start_with(QUICK).await;
    let mut watch = stack.watch(request("1000003")).await;
    let seen = watch.next().await.unwrap();
    drop(watch);

    let mut nothing_missed = stack.watch(after(&seen)).await;
    until_polls(&stack.simulators, "1000003", 4).await;
    set_state(&stack.simulators, "1000003", "Pending");
    let change = nothing_missed.next().await.unwrap();
    assert_eq!(change.order_state(), OrderState::Pending, "and nothing before it");

    drop(nothing_missed);
    set_state(&stack.simulators, "1000003", "Rejected");
    assert_eq!(stack.watch(after(&change)).await.state().await, OrderState::Rejected);
}

#[tokio::test]
async fn the_provider_is_polled_at_most_at_the_minimum_interval() {
    let stack = Stack::start_with("validation.watch_interval_min_ms = 120").await;
    let mut watches = Vec::new();
    for millis in [1, 50, 3_600_000] {
        let interval = Some(Duration::from_millis(millis).try_into().unwrap());
        watches.push(stack.watch(proto::WatchValidationStatusRequest { interval, ..request("1000004") }).await);
    }
    until_polls(&stack.simulators, "1000004", 5).await;
    for two in polls(&stack.simulators, "1000004").windows(2) {
        assert!(two[1] - two[0] >= Duration::from_millis(120), "{two:?}");
    }
}

#[rstest]
#[case::down(FaultEffect::Answer { status: 503, body: String::new(), headers: Default::default() })]
#[case::closed(FaultEffect::Close)]
#[case::a_notice(FaultEffect::Answer { status: 200, body: "<html>Maintenance</html>".into(), headers: Default::default() })]
#[tokio::test]
async fn a_temporary_failure_of_the_provider_does_not_end_a_watch(#[case] effect: FaultEffect) {
    let stack = Stack::start_with(QUICK).await;
    let mut there_before = stack.watch(request("1000005")).await;
    assert_eq!(there_before.state().await, OrderState::Processed);
    let rule = Rule { repeat: Repeat::Times(3), ..Rule::new(Provider::Sectigo, Point::BeforeEffect, effect) };
    stack.simulators.arm(rule).unwrap();
    let mut comes_amid = stack.watch(request("1000006")).await;
    wait_until(|| stack.simulators.journal().iter().filter(|entry| !entry.rules.is_empty()).count() == 3).await;
    assert_eq!(comes_amid.state().await, OrderState::Processed);
    set_state(&stack.simulators, "1000005", "Rejected");
    assert_eq!(there_before.state().await, OrderState::Rejected);
}

#[tokio::test]
async fn five_unreadable_pages_in_a_row_end_the_watch() {
    let stack = Stack::start_with(QUICK).await;
    let mut watch = stack.watch(request("1000005")).await;
    assert_eq!(watch.state().await, OrderState::Processed);
    let before = polls(&stack.simulators, "1000005").len();
    let notice = FaultEffect::Answer { status: 200, body: "<html>New page</html>".into(), headers: Default::default() };
    let rule = Rule::new(Provider::Sectigo, Point::BeforeEffect, notice);
    stack.simulators.arm(Rule { repeat: Repeat::Standing, ..rule }).unwrap();
    assert_eq!(watch.end().await, (Code::Internal, "PROVIDER_PROTOCOL".to_owned()));
    let after = polls(&stack.simulators, "1000005").len();
    // One poll may have been on the wire when the page changed.
    assert!((before + 5..=before + 6).contains(&after), "{before} {after}");
}

#[tokio::test]
async fn a_permanent_error_ends_the_watch_with_the_reason_of_a_single_request() {
    let stack = Stack::start_with(QUICK).await;
    let channel = stack.channel().await;
    let mut unknown = stack.watch(request("7777777")).await;
    assert_eq!(unknown.end().await, (Code::NotFound, "ORDER_NOT_FOUND".to_owned()));

    let mut watches = join_all((0..3).map(|_| stack.watch(request("1000007")))).await;
    for watch in &mut watches {
        assert_eq!(watch.state().await, OrderState::Processed);
    }
    let lock = |locked| {
        stack.simulators.with_world(|world| {
            let mut account =
                world.providers.sectigo.accounts().into_iter().find(|one| one.login_name == "demo").unwrap().clone();
            account.locked = locked;
            world.providers.sectigo.put_account(account).unwrap();
        });
    };
    lock(true);
    for watch in &mut watches {
        assert_eq!(watch.end().await, (Code::FailedPrecondition, "PROVIDER_CREDENTIALS_REFUSED".to_owned()));
    }
    lock(false);
    assert_eq!(stack.watch(request("1000007")).await.state().await, OrderState::Processed);

    for (account, code, expected) in
        [("unknown", Code::NotFound, "ACCOUNT_NOT_FOUND"), ("namecom", Code::FailedPrecondition, "ACCOUNT_MISMATCH")]
    {
        let request = proto::WatchValidationStatusRequest { account: account.to_owned(), ..request("1000007") };
        let refusal = open(&channel, request).await.err().unwrap();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, expected));
    }
    let request = proto::WatchValidationStatusRequest {
        order_number: "x".repeat(65),
        after_fingerprint: "none".to_owned(),
        interval: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..Default::default()
    };
    let refusal = open(&channel, request).await.err().unwrap();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert_eq!(wrong_fields(&refusal), ["account", "after_fingerprint", "interval", "order_number"]);
}

#[tokio::test]
async fn a_watcher_above_the_limit_is_refused_and_a_watcher_that_leaves_frees_its_place() {
    let stack = Stack::start_with(&format!("{QUICK}\nvalidation.max_watches = 2")).await;
    let (first, second) = (stack.channel().await, stack.channel().await);
    let cancelled = open(&first, request("1000008")).await.unwrap();
    let disconnected = open(&second, request("1000009")).await.unwrap();
    let refusal = open(&first, request("1000010")).await.err().unwrap();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::Unavailable, "OVERLOADED"));
    assert!(refusal.get_error_details().retry_info().is_some());

    drop(cancelled);
    let _third = until_open(|| open(&first, request("1000010"))).await;
    drop(disconnected);
    drop(second);
    let _fourth = until_open(|| open(&first, request("1000011"))).await;
    // A poll that was on the wire when they left may still arrive; then their orders are polled no
    // more.
    let left = ["1000008", "1000009"];
    until_polls(&stack.simulators, "1000010", 2).await;
    let before = left.map(|order| polls(&stack.simulators, order).len());
    until_polls(&stack.simulators, "1000010", 5).await;
    assert_eq!(left.map(|order| polls(&stack.simulators, order).len()), before);
}

#[tokio::test]
async fn a_deadline_ends_the_watch_on_time_and_frees_its_place() {
    let stack = Stack::start_with(&format!("{QUICK}\nvalidation.max_watches = 1")).await;
    let channel = stack.channel().await;
    let mut bounded = tonic::Request::new(request("1000012"));
    bounded.set_timeout(Duration::from_secs(1));
    let mut watch = open(&channel, bounded).await.unwrap();
    assert_eq!(watch.end().await, (Code::DeadlineExceeded, "DEADLINE".to_owned()));
    let mut next = until_open(|| open(&channel, request("1000013"))).await;
    assert_eq!(next.state().await, OrderState::Processed);
}

#[tokio::test]
async fn a_shutdown_ends_the_watches_with_a_reason() {
    let stack = Stack::start_with(QUICK).await;
    let mut idle = stack.watch(request("1000014")).await;
    assert_eq!(idle.state().await, OrderState::Processed);
    let Stack { app, simulators: _simulators, .. } = stack;
    let (end, ()) = tokio::time::timeout(LIMIT, join(idle.end(), app.stop())).await.unwrap();
    assert_eq!(end, (Code::Unavailable, "DRAINING".to_owned()));
}

/// A fixed address in front of a server that stops and starts again, and the number of connections
/// that found no server.
async fn front_of(behind: watch::Receiver<Option<SocketAddr>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let turned_away = Arc::new(AtomicUsize::new(0));
    let count = turned_away.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut behind = behind.clone();
            let Some(addr) = *behind.borrow_and_update() else {
                count.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(addr).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = behind.changed() => {}
                }
            });
        }
    });
    (addr, turned_away)
}

#[tokio::test]
async fn a_watch_survives_an_outage_of_the_provider() {
    let dir = tempfile::tempdir().unwrap();
    let (old_dir, new_dir) = (dir.path().join("old"), dir.path().join("new"));
    for dir in [&old_dir, &new_dir] {
        std::fs::create_dir(dir).unwrap();
    }
    let (old, new) = (simulators_in(&old_dir).await, simulators_in(&new_dir).await);
    let authorities = [&old_dir, &new_dir].map(|dir| std::fs::read_to_string(dir.join("ca.pem")).unwrap());
    std::fs::write(dir.path().join("ca.pem"), authorities.concat()).unwrap();
    let behind = watch::Sender::new(Some(old.sectigo_addr()));
    let (front, turned_away) = front_of(behind.subscribe()).await;
    let configuration = support::configuration_at(
        front,
        old.namecom_plaintext_addr(),
        old.debitsuccess_plaintext_addr(),
        dir.path(),
        QUICK,
    );
    let app = App::start(support::settings_of(&configuration, dir.path())).await.unwrap();
    let channel = channel(app.addr()).await;

    let mut watch = open(&channel, request("1000015")).await.unwrap();
    let seen = watch.next().await.unwrap();
    behind.send_replace(None);
    old.stop().await;
    let mut comes_amid = open(&channel, request("1000016")).await.unwrap();
    wait_until(|| turned_away.load(Ordering::SeqCst) >= 4).await;
    // The status is the same as before, so the outage alone sends nothing.
    behind.send_replace(Some(new.sectigo_addr()));
    assert_eq!(comes_amid.state().await, OrderState::Processed);
    until_polls(&new, "1000015", 2).await;
    set_state(&new, "1000015", "Pending");
    let status = watch.next().await.unwrap();
    assert_eq!(status.order_state(), OrderState::Pending);
    assert_ne!(status.fingerprint, seen.fingerprint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_contains_neither_people_from_the_page_nor_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let path = dir.path().join("recoup.toml");
    std::fs::write(&path, support::configuration(&simulators, dir.path(), QUICK)).unwrap();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_recoup"));
    serve.args(["serve", "--config"]).arg(&path).envs(HashMap::from(SECRETS)).env("RECOUP_LOG__FILTER", "trace");
    let log = Arc::new(Mutex::new(String::new()));
    let collected = log.clone();
    let gateway = Gateway::launch(serve, move |line| collected.lock().unwrap().push_str(line)).unwrap();
    let mut watch = open(&channel(gateway.addr).await, request("3000002")).await.unwrap();
    let shown = watch.next().await.unwrap();
    set_state(&simulators, "3000002", "Rejected");
    assert_eq!(watch.state().await, OrderState::Rejected);
    drop(watch);
    wait_until(|| log.lock().unwrap().contains("stopped watching order")).await;
    let token = simulators
        .with_world(|world| world.providers.sectigo.order("3000002").unwrap().validation.upload_document_token.clone());
    let phone = shown.callback.unwrap().phone_number;
    let email = shown.agreement.unwrap().click_through_email_address;
    let log = log.lock().unwrap();
    for secret in [token.unwrap(), phone, email, "demo-password".to_owned()] {
        assert!(secret.len() > 5 && !log.contains(&secret), "{secret}");
    }
}
