//! Operations besides refunds: the health command, backups of the ledger, and restoring one.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;

use crate::support::process::{Gateway, run};
use crate::support::{Stack, channel, configuration, namecom, reason, sectigo, settings_of, simulators_in};

/// The output of a command on stdout and stderr, and its exit status.
fn output_of(arguments: &[&str]) -> (String, Option<i32>) {
    let output = run(arguments);
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.code())
}

/// `recoup backup`: its JSON, and its exit status.
fn backup(ledger: &Path, to: &Path) -> (serde_json::Value, Option<i32>) {
    let output = run(&["backup", "--json", ledger.to_str().unwrap(), to.to_str().unwrap()]);
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (serde_json::from_slice(&text).unwrap(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_prints_one_sentence_and_sets_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let config = dir.path().join("recoup.toml");
    std::fs::write(&config, configuration(&simulators, dir.path(), "")).unwrap();
    let gateway = Gateway::start(&config);
    let server = format!("http://{}", gateway.addr);

    let (text, code) = output_of(&["health", "--server", &server]);
    assert_eq!((text, code), (format!("the gateway at {server} is SERVING\n"), Some(0)));
    let (text, code) = output_of(&["health", "--server", &server, "--service", "recoup.v1.RefundService"]);
    assert_eq!((text, code), (format!("recoup.v1.RefundService at {server} is SERVING\n"), Some(0)));
    let (text, code) = output_of(&["health", "--server", &server, "--service", "recoup.v1.Nothing"]);
    assert_eq!((text, code), (format!("recoup: the gateway at {server} has no service recoup.v1.Nothing\n"), Some(1)));

    // A supervisor must see that the ledger's file is lost.
    std::fs::remove_file(dir.path().join("recoup.db")).unwrap();
    let not_serving = format!("recoup: the gateway at {server} is NOT_SERVING\n");
    let seen = tokio::time::timeout(crate::support::LIMIT, async {
        loop {
            let (text, code) = output_of(&["health", "--server", &server]);
            if code != Some(0) {
                return (text, code);
            }
            // The commands block this task: without a yield the time limit would never be checked.
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(seen.await.unwrap(), (not_serving, Some(1)));
    gateway.kill();
    let (text, code) = output_of(&["health", "--server", &server]);
    assert!(text.contains("no gateway answers at"), "{text}");
    assert_eq!(code, Some(1));
}

/// Another program listens on the port.
#[test]
fn health_reports_that_the_server_is_not_a_gateway() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let (text, code) = output_of(&["health", "--server", &server]);
    let expected = format!("recoup: {server} does not answer a health check (");
    assert!(text.starts_with(&expected) && text.ends_with("; is it the gateway's port?\n"), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn health_uses_the_configured_address_and_reads_no_secret() {
    // A listener that never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("recoup.toml");
    let account = "[accounts.n]\nprovider = \"namecom\"\nusername = \"u\"\ntoken_file = \"/nowhere/token\"\n";
    std::fs::write(&config, format!("listen = \"{addr}\"\n{account}")).unwrap();
    let config = config.to_str().unwrap();
    let (text, code) = output_of(&["health", "--config", config, "--timeout-ms", "200"]);
    assert_eq!((text, code), (format!("recoup: no answer from http://{addr} within 200 ms\n"), Some(1)));

    std::fs::write(config, "listen = \"0.0.0.0:1\"\n").unwrap();
    let (text, code) = output_of(&["health", "--config", config]);
    assert!(text.contains("listen"), "{text}");
    assert_eq!(code, Some(2));
    std::fs::write(config, "listen = \"127.0.0.1:0\"\n").unwrap();
    let (text, code) = output_of(&["health", "--config", config]);
    assert!(text.contains("--server"), "{text}");
    assert_eq!(code, Some(2));
    assert_eq!(output_of(&["health", "--server", "not an address"]).1, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ledger_is_backed_up_while_it_is_written_to() {
    let stack = Stack::start().await;
    stack.refund(sectigo("before", "1000001")).await;
    let ledger = stack.dir.path().join("recoup.db");
    let (written, is_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let writing = async {
        for order in 100..900 {
            if is_done.load(Ordering::SeqCst) {
                return;
            }
            let refund = stack.refund(sectigo(&format!("r-{order}"), &format!("1000{order}"))).await;
            assert_eq!(refund.state(), State::Succeeded);
            written.fetch_add(1, Ordering::SeqCst);
        }
        panic!("the backups did not end within {} refunds", written.load(Ordering::SeqCst));
    };
    let backups = async {
        let mut sequences = Vec::new();
        for number in 0..5 {
            let before = written.load(Ordering::SeqCst);
            while written.load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (ledger, to) = (ledger.clone(), stack.dir.path().join(format!("copy-{number}")));
            let (report, code) = tokio::task::spawn_blocking(move || backup(&ledger, &to)).await.unwrap();
            assert_eq!((&report["clean"], code), (&true.into(), Some(0)), "{report}");
            sequences.push(report["lastSequence"].as_u64().unwrap());
        }
        is_done.store(true, Ordering::SeqCst);
        sequences
    };
    let ((), sequences) = tokio::join!(writing, backups);
    assert!(sequences[0] >= 3 && sequences.is_sorted_by(|one, next| one < next), "{sequences:?}");

    let to = stack.dir.path().join("copy-0");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&to.metadata().unwrap()) & 0o777, 0o600);
    let beside: Vec<_> = std::fs::read_dir(stack.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| !name.to_string_lossy().contains("unfinished")), "{beside:?}");

    // A backup overwrites nothing, and only a ledger is backed up.
    let (report, code) = backup(&ledger, &to);
    assert!(
        report["error"]["message"].as_str().unwrap().ends_with("exists: choose a new name for the copy"),
        "{report}"
    );
    assert_eq!(code, Some(2));
    let (report, code) = backup(&stack.dir.path().join("ca.pem"), &stack.dir.path().join("copy-of-another-file"));
    assert!(report["error"]["message"].as_str().unwrap().contains("is not a ledger"), "{report}");
    assert_eq!(code, Some(2));
    assert!(!stack.dir.path().join("copy-of-another-file").exists());

    // The gateway is not affected.
    assert_eq!(stack.refund(sectigo("after", "1000002")).await.state(), State::Succeeded);
    assert_eq!((stack.effects("1000002"), stack.attempts("1000002")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_a_ledger_and_an_account_that_is_left_out_sends_nothing() {
    let Stack { simulators, app, dir, mut refunds } = Stack::start().await;
    refunds.create_refund(sectigo("known", "1000001")).await.unwrap();
    let copy = dir.path().join("copy.db");
    assert_eq!(backup(&dir.path().join("recoup.db"), &copy).1, Some(0));
    // This refund is done after the backup, so the copy does not know it.
    refunds.create_refund(sectigo("since", "1000002")).await.unwrap();
    app.stop().await;

    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&copy, restored.path().join("recoup.db")).unwrap();
    let whole = configuration(&simulators, dir.path(), "");
    let of_copy = whole
        .replace(&format!("{}/recoup.db", dir.path().display()), &format!("{}/recoup.db", restored.path().display()));
    let (before, after) = of_copy.split_once("[accounts.sectigo]").unwrap();
    let without = format!("{before}{}", &after[after.find("[accounts.namecom]").unwrap()..]);
    let app = App::start(settings_of(&without, restored.path())).await.unwrap();
    let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
    // A refund in the copy is returned, and one that is missing in it cannot be sent a second time.
    let known = refunds.create_refund(sectigo("known", "1000001")).await.unwrap().into_inner();
    assert!(known.replayed);
    let refused = refunds.create_refund(sectigo("since", "1000002")).await.unwrap_err();
    assert_eq!(reason(&refused), "ACCOUNT_NOT_FOUND");
    // The other accounts are paused too, and work once they are resumed.
    let mut accounts = AccountServiceClient::new(channel(app.addr()).await);
    accounts.resume_account(proto::ResumeAccountRequest { account: "namecom".to_owned() }).await.unwrap();
    let other = refunds.create_refund(namecom("other", 200_001, &[3_200_001])).await.unwrap().into_inner();
    assert_eq!(other.refund.unwrap().state(), State::Succeeded);
    app.stop().await;
    let sent: Vec<_> = simulators.journal().into_iter().map(|entry| entry.target.unwrap()).collect();
    assert_eq!(sent, ["1000001", "1000002", "200001"], "each once");
    for target in ["1000001", "1000002", "3200001"] {
        assert_eq!(crate::support::effects(&simulators, target), 1, "{target}");
    }
}
