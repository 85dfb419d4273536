//! A failing ledger under the real gateway: a full disk, writes and syncs that fail, corrupt pages,
//! files that vanish.
//!
//! Each scene runs the same way. One refund is done; another is on the wire: its money has moved,
//! and its answer is held back at a gate. Then the ledger fails. From then on nothing may be sent
//! to a provider, health shows NOT_SERVING, and callers get the reason. The held answer reaches a
//! gateway that can no longer record it. The ledger is repaired, the gateway started again, and the
//! refund on the wire is in doubt until it has been looked up. At the end the simulators' books
//! contain nothing that the ledger does not know, and the ledger verifies.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use simulators::Simulators;
use simulators::faults::Point;
use simulators::faults::gates::{Gate, GateHandle};
use simulators::request::Provider;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::support::process::{Gateway, run};
use crate::support::{LIMIT, SECRETS, channel, configuration, effects, reason, sectigo, simulators_in, without_wait};

/// Simulators, and a folder for a ledger.
struct Scene {
    simulators: Simulators,
    dir: TempDir,
}

/// The refund on the wire, whose answer a gate holds back.
struct Flying {
    gate: GateHandle,
    refunds: RefundServiceClient<Channel>,
}

const DONE: &str = "1000001";
const FLYING: &str = "1000002";

impl Scene {
    async fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ledger")).unwrap();
        let simulators = simulators_in(dir.path()).await;
        let scene = Scene { simulators, dir };
        scene.configure(&scene.ledger());
        scene
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger/recoup.db")
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("recoup.toml")
    }

    /// Without lookups by itself, and with a short drain.
    fn configure(&self, ledger: &Path) {
        let settings = "engine.lookups_after_ms = \"3600000\"\nserver.drain_ms = 3000";
        let usual = format!("{}/recoup.db", self.dir.path().display());
        let text = configuration(&self.simulators, self.dir.path(), settings);
        std::fs::write(self.config(), text.replace(&usual, &ledger.display().to_string())).unwrap();
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.config())
    }

    /// Starts the gateway through a shell that runs `before` first.
    fn start_after(&self, before: &str) -> Result<Gateway, Vec<String>> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$0\" serve --config \"$1\""), env!("CARGO_BIN_EXE_recoup")]);
        shell.arg(self.config()).envs(SECRETS);
        Gateway::launch(shell, |_| {})
    }

    /// One refund that is done, and one on the wire.
    async fn begin(&self, gateway: &Gateway) -> Flying {
        let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
        let done = refunds.create_refund(sectigo("done", DONE)).await.unwrap().into_inner().refund.unwrap();
        assert_eq!(done.state(), State::Succeeded);
        self.fly(refunds).await
    }

    async fn fly(&self, mut refunds: RefundServiceClient<Channel>) -> Flying {
        let gate = Gate { target: Some(FLYING.to_owned()), ..Gate::new(Provider::Sectigo, Point::AfterEffect) };
        let gate = self.simulators.gate(gate).unwrap();
        refunds.create_refund(without_wait(sectigo("flying", FLYING))).await.unwrap();
        gate.wait_for(1).await.unwrap();
        Flying { gate, refunds }
    }

    fn wire_requests(&self) -> usize {
        self.simulators.journal().iter().filter(|entry| entry.moves_money).count()
    }

    /// Health shows NOT_SERVING, callers get the reason, and nothing is sent any more, not even
    /// after the held answer has arrived.
    async fn has_stopped(&self, gateway: Gateway, flying: Flying, code: Code, why: &str) {
        not_serving(&gateway).await;
        let before = self.wire_requests();
        for number in 0..3 {
            let request = sectigo(&format!("after-{number}"), &format!("{}", 1_000_900 + number));
            let status = flying.refunds.clone().create_refund(request).await.unwrap_err();
            assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
        }
        // A recorded refund is still returned, unless the ledger is corrupt.
        let again = flying.refunds.clone().create_refund(sectigo("done", DONE)).await;
        match code {
            Code::DataLoss => assert_eq!(again.unwrap_err().code(), code),
            _ => assert!(again.unwrap().into_inner().replayed),
        }
        assert_eq!(flying.gate.release_all().len(), 1);
        // The drain waits for the attempt on the wire, so the answer has arrived when this returns.
        assert!(gateway.terminate().success(), "it stops cleanly");
        assert_eq!(self.wire_requests(), before, "a request was sent after the ledger had failed");
    }

    /// After the repair: the refund on the wire is in doubt, and at the end the books contain
    /// nothing that the ledger does not know.
    async fn recovers(&self, acknowledged: &[String]) {
        let gateway = self.start();
        let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
        // The first lookup may have ended the doubt by now; the history shows it.
        let request = proto::ListRefundEventsRequest { name: "refunds/flying".to_owned(), ..Default::default() };
        let history = refunds.list_refund_events(request).await.unwrap().into_inner().events;
        assert!(history.len() > 2 && history[2].to_state() == State::InDoubt, "{history:#?}");
        assert_eq!(history[2].kind(), Kind::Interrupted, "{history:#?}");
        for id in acknowledged {
            get(&mut refunds, id).await;
        }
        let request = proto::ListRefundsRequest { page_size: 1000, ..Default::default() };
        let all = refunds.list_refunds(request).await.unwrap().into_inner().refunds;
        let mut known = 0;
        for refund in all {
            let refund = reconciled(&mut refunds, refund).await;
            let Some(proto::refund::Target::Sectigo(target)) = &refund.target else { panic!("{refund:?}") };
            let times = effects(&self.simulators, &target.order_number);
            known += times;
            match refund.state() {
                State::Succeeded => assert_eq!(times, 1, "{refund:?}"),
                // It was recorded, and never sent.
                State::InDoubt => assert_eq!(times, 0, "{refund:?}"),
                other => panic!("{other:?} is not expected: {refund:?}"),
            }
        }
        assert_eq!(known, self.simulators.books().len(), "money moved that the ledger does not know");
        assert_eq!(get(&mut refunds, "flying").await.state(), State::Succeeded);
        assert!(gateway.terminate().success());
        assert_eq!(self.verify(), Some(0));
    }

    fn verify(&self) -> Option<i32> {
        let config = std::fs::read_to_string(self.config()).unwrap();
        let ledger = config.lines().find_map(|line| line.strip_prefix("ledger.path = ")).unwrap().trim_matches('"');
        let output = run(&["verify", ledger]);
        eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        output.status.code()
    }
}

async fn get(refunds: &mut RefundServiceClient<Channel>, id: &str) -> proto::Refund {
    let request = proto::GetRefundRequest { name: format!("refunds/{id}") };
    refunds.get_refund(request).await.unwrap().into_inner().refund.unwrap()
}

/// The refund after ReconcileRefund, or after the gateway's own lookup where that came first.
async fn reconciled(refunds: &mut RefundServiceClient<Channel>, refund: proto::Refund) -> proto::Refund {
    if refund.state() != State::InDoubt {
        return refund;
    }
    let request = proto::ReconcileRefundRequest { name: refund.name.clone() };
    match refunds.reconcile_refund(request).await {
        Ok(answer) => answer.into_inner().refund.unwrap(),
        Err(status) => {
            assert_eq!(reason(&status), "NOT_IN_DOUBT", "{status:?}");
            get(refunds, &refund.refund_id).await
        }
    }
}

async fn not_serving(gateway: &Gateway) {
    let mut health = HealthClient::new(channel(gateway.addr).await);
    let follow = async {
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    };
    tokio::time::timeout(LIMIT, follow).await.expect("health never showed NOT_SERVING");
}

/// Creates refunds until one fails. Returns the acknowledged ones, and the error.
async fn until_it_fails(refunds: &mut RefundServiceClient<Channel>) -> (Vec<String>, Status) {
    let mut acknowledged = Vec::new();
    for number in 0..800 {
        let id = format!("until-{number}");
        match refunds.create_refund(sectigo(&id, &format!("{}", 1_000_100 + number))).await {
            Ok(_) => acknowledged.push(id),
            Err(status) => return (acknowledged, status),
        }
    }
    panic!("800 refunds were recorded, and none failed");
}

/// A write that failed before its commit reports that nothing was recorded; one that failed in the
/// commit reports that this is not known.
fn assert_failed_write(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    if status.get_error_details().error_info().is_some() {
        assert_eq!(reason(status), "LEDGER_UNAVAILABLE");
    } else {
        assert!(status.message().contains("it is unknown whether"), "{status:?}");
    }
}

/// A file system of one megabyte, in a mount namespace of the gateway that ends with it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_gateway() {
    let scene = Scene::new().await;
    let small = scene.ledger().parent().unwrap().to_owned();
    let mut unshare = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o size=1m none {}", small.display());
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    let possible = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount])
        .stderr(Stdio::null())
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: this system does not allow mounting a small file system in a namespace (unshare --user --mount)"
        );
        return;
    }
    unshare.arg(format!("{mount} && exec \"$0\" serve --config \"$1\"")).arg(env!("CARGO_BIN_EXE_recoup"));
    unshare.arg(scene.config()).envs(SECRETS);
    let gateway = Gateway::launch(unshare, |_| {}).unwrap();

    let mut flying = scene.begin(&gateway).await;
    let (acknowledged, status) = until_it_fails(&mut flying.refunds).await;
    assert_failed_write(&status);
    assert!(!acknowledged.is_empty(), "the disk was full from the beginning");
    // The files on the full disk are visible through the process; they move to a larger disk.
    not_serving(&gateway).await;
    let inside = format!("/proc/{}/root{}", gateway.id(), small.display());
    let larger = scene.dir.path().join("larger");
    std::fs::create_dir(&larger).unwrap();
    for name in ["recoup.db", "recoup.db-wal"] {
        std::fs::copy(format!("{inside}/{name}"), larger.join(name)).unwrap();
    }
    scene.has_stopped(gateway, flying, Code::Unavailable, "LEDGER_UNAVAILABLE").await;
    scene.configure(&larger.join("recoup.db"));
    scene.recovers(&acknowledged).await;
}

/// A limit on the size of files makes the next write fail with EFBIG, like a failing disk.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_the_gateway() {
    let scene = Scene::new().await;
    // The signal that comes with the error would end the process.
    let gateway = scene.start_after("trap '' XFSZ").unwrap();
    let mut flying = scene.begin(&gateway).await;
    let log = scene.ledger().with_file_name("recoup.db-wal").metadata().unwrap().len();
    let limited = Command::new("prlimit")
        .args(["--pid", &gateway.id().to_string(), &format!("--fsize={}", log + 100_000)])
        .status();
    if !limited.is_ok_and(|status| status.success()) {
        eprintln!("skipped: prlimit(1) is not installed, so writes cannot be made to fail");
        return;
    }
    let (acknowledged, status) = until_it_fails(&mut flying.refunds).await;
    assert_failed_write(&status);
    assert!(!acknowledged.is_empty(), "no write succeeded");
    scene.has_stopped(gateway, flying, Code::Unavailable, "LEDGER_UNAVAILABLE").await;
    scene.recovers(&acknowledged).await;
}

/// A preloaded library makes syncs fail.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_gateway() {
    let scene = Scene::new().await;
    let library = scene.dir.path().join("failing_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/failing_ledger/failing_sync.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(made.unwrap().success(), "the C compiler that Rust links with compiles it");
    let trigger = scene.dir.path().join("now");
    let gateway = scene
        .start_after(&format!("export LD_PRELOAD={} FAIL_SYNC_WHEN={}", library.display(), trigger.display()))
        .unwrap();
    let mut flying = scene.begin(&gateway).await;
    let sent = scene.wire_requests();
    std::fs::write(&trigger, "").unwrap();
    let (acknowledged, status) = until_it_fails(&mut flying.refunds).await;
    assert_failed_write(&status);
    assert_eq!((acknowledged.len(), scene.wire_requests()), (0, sent), "the first sync that failed was the last write");
    scene.has_stopped(gateway, flying, Code::Unavailable, "LEDGER_UNAVAILABLE").await;
    scene.recovers(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_pages_stop_the_gateway() {
    let scene = Scene::new().await;
    // What was written before the last start is not in the cache.
    let gateway = scene.start();
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(sectigo("done", DONE)).await.unwrap();
    let mut acknowledged = vec!["done".to_owned()];
    for number in 0..60 {
        let id = format!("old-{number}");
        refunds.create_refund(sectigo(&id, &format!("{}", 1_000_200 + number))).await.unwrap();
        acknowledged.push(id);
    }
    drop(refunds);
    assert!(gateway.terminate().success());
    let gateway = scene.start();
    let flying = scene.fly(RefundServiceClient::new(channel(gateway.addr).await)).await;
    let intact = std::fs::read(scene.ledger()).unwrap();
    let mut corrupt = intact.clone();
    corrupt[4096..].fill(0xA5);
    overwrite(&scene.ledger(), &corrupt);

    // The first read fails, of a caller or of the engine.
    let mut refunds = flying.refunds.clone();
    let request = proto::ListRefundsRequest { page_size: 1000, ..Default::default() };
    let status = refunds.list_refunds(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DataLoss, "LEDGER_CORRUPT"), "{status:?}");
    scene.has_stopped(gateway, flying, Code::DataLoss, "LEDGER_CORRUPT").await;
    assert_eq!(scene.verify(), Some(1));

    // Nothing is sent from a corrupt ledger after a start, either.
    let before = scene.wire_requests();
    match scene.start_after(":") {
        Err(log) => assert!(log.iter().any(|line| line.contains("recoup.db")), "{log:?}"),
        Ok(gateway) => not_serving(&gateway).await,
    }
    assert_eq!(scene.wire_requests(), before);
    overwrite(&scene.ledger(), &intact);
    scene.recovers(&acknowledged).await;
}

/// Overwrites in place, so that the file stays open.
fn overwrite(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Removed,
    Renamed,
    Replaced,
}

#[rstest::rstest]
#[case::removed(Loss::Removed)]
#[case::renamed(Loss::Renamed)]
#[case::replaced(Loss::Replaced)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_ledger_file_stops_the_gateway(#[case] loss: Loss) {
    let scene = Scene::new().await;
    let gateway = scene.start();
    let flying = scene.begin(&gateway).await;
    let mut refunds = flying.refunds.clone();
    let from_the_beginning = proto::StreamRefundEventsRequest { after_sequence: 0 };
    let mut history = refunds.stream_refund_events(from_the_beginning).await.unwrap().into_inner();
    let timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let wait = proto::WaitRefundRequest { name: "refunds/flying".to_owned(), after_revision: 2, timeout };
    let waiting = tokio::spawn(async move { refunds.wait_refund(wait).await.unwrap().into_inner().refund.unwrap() });
    let (ledger, kept) = (scene.ledger(), scene.dir.path().join("kept.db"));
    match loss {
        Loss::Removed => {
            std::fs::hard_link(&ledger, &kept).unwrap();
            std::fs::remove_file(&ledger).unwrap();
        }
        Loss::Renamed => std::fs::rename(&ledger, &kept).unwrap(),
        Loss::Replaced => {
            std::fs::rename(&ledger, &kept).unwrap();
            std::fs::copy(&kept, &ledger).unwrap();
        }
    }
    // The loss is noticed without a write: the event stream ends with the reason, and a wait
    // returns the present state.
    let last = tokio::time::timeout(LIMIT, async {
        loop {
            match history.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    });
    assert_eq!(reason(&last.await.unwrap().unwrap_err()), "LEDGER_UNAVAILABLE");
    // Far below the requested minute.
    let as_it_is = tokio::time::timeout(LIMIT / 2, waiting).await.unwrap().unwrap();
    assert_eq!(as_it_is.state(), State::Dispatching);
    scene.has_stopped(gateway, flying, Code::Unavailable, "LEDGER_UNAVAILABLE").await;
    if loss != Loss::Replaced {
        let output = run(&["serve", "--config", scene.config().to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("is gone") && output.status.code() == Some(1), "no new ledger is created: {error}");
        assert!(!ledger.exists());
    }
    std::fs::rename(&kept, &ledger).unwrap();
    scene.recovers(&["done".to_owned()]).await;
}
