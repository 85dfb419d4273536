//! Checkpoints: an old copy of the ledger does not start by itself, a restored one sends nothing,
//! and a changed history is found elsewhere.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use recoup::app::{App, StartError};
use recoup::checkpoint::{KeyFile, VerifierKey};
use recoup::config::Settings;
use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use recoup::proto::v1::audit_service_client::AuditServiceClient;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use rstest::rstest;
use simulators::Simulators;
use tempfile::TempDir;
use tonic::Code;

use crate::support::process::{Gateway, run, serve};
use crate::support::{
    Stack, channel, configuration, effects, namecom, reason, sectigo, settings_of, simulators_in, wait_until,
    without_wait,
};

struct Bench {
    dir: TempDir,
    simulators: Simulators,
    configuration: String,
}

impl Bench {
    /// With checkpoints on, and none by the clock within the test unless it says so.
    async fn new() -> Self {
        Self::every(3_600).await
    }

    async fn every(seconds: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let simulators = simulators_in(dir.path()).await;
        KeyFile::create(&dir.path().join("key")).unwrap();
        let shown = dir.path().display();
        let settings = format!(
            "checkpoint.file = \"{shown}/checkpoints\"\ncheckpoint.key_file = \"{shown}/key\"\ncheckpoint.every_s = {seconds}\n"
        );
        let configuration = configuration(&simulators, dir.path(), &settings);
        Self { dir, simulators, configuration }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn settings(&self) -> Settings {
        settings_of(&self.configuration, self.dir.path())
    }

    async fn start(&self) -> Result<App, StartError> {
        App::start(self.settings()).await
    }

    async fn start_accepting(&self) -> App {
        App::start(Settings { accept_lost_history: true, ..self.settings() }).await.unwrap()
    }

    /// A whole run of the gateway with one refund.
    async fn run_with(&self, id: &str, order: &str) {
        let app = self.start().await.unwrap();
        let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
        let created = refunds.create_refund(sectigo(id, order)).await.unwrap().into_inner();
        assert_eq!(created.refund.unwrap().state(), State::Succeeded);
        app.stop().await;
    }

    /// As `cp` and `mv` do it.
    fn put_back(&self, copy: &str) {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(self.path(&format!("recoup.db{suffix}")));
        }
        std::fs::copy(self.path(copy), self.path("recoup.db")).unwrap();
    }

    fn verifier_key(&self) -> String {
        let output = run(&["audit", "verifier-key", "--key", &self.text("key"), "--ledger", &self.text("recoup.db")]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn check(&self, events: &str, key: &str) -> (String, Option<i32>) {
        let output =
            run(&["audit", "check", &self.text(events), "--key", key, "--checkpoints", &self.text("checkpoints")]);
        (String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    fn sent(&self) -> usize {
        self.simulators.journal().iter().filter(|entry| entry.moves_money).count()
    }
}

async fn health_of(app: &App) -> Vec<(String, Health)> {
    let mut accounts = AccountServiceClient::new(channel(app.addr()).await);
    let listed = accounts.list_accounts(proto::ListAccountsRequest {}).await.unwrap().into_inner().accounts;
    listed.into_iter().map(|account| (account.account.clone(), account.health())).collect()
}

async fn resume_all(app: &App) {
    let mut accounts = AccountServiceClient::new(channel(app.addr()).await);
    for (account, _) in health_of(app).await {
        accounts.resume_account(proto::ResumeAccountRequest { account }).await.unwrap();
    }
}

async fn are_paused(app: &App) -> bool {
    health_of(app).await.iter().all(|(_, health)| *health == Health::Paused)
}

/// The story of the manual: a nightly `cp`, a lost disk, and the copy in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_is_refused_and_sends_nothing_where_it_is_accepted() {
    let bench = Bench::new().await;
    bench.run_with("before", "1000001").await;
    std::fs::copy(bench.path("recoup.db"), bench.path("old.db")).unwrap();
    bench.run_with("since", "1000002").await;
    assert_eq!(bench.sent(), 2);

    bench.put_back("old.db");
    for _ in 0..2 {
        let refused = bench.start().await.err().unwrap();
        assert!(matches!(refused, StartError::LostHistory(_)), "{refused}");
        let sentence = refused.to_string();
        assert!(sentence.contains("this is an old copy") && !sentence.contains('\n'), "{sentence}");
    }

    // Crashes right after the start do not forget the pauses either.
    for accepted in [true, false, false] {
        let app = if accepted { bench.start_accepting().await } else { bench.start().await.unwrap() };
        assert!(are_paused(&app).await, "{:?}", health_of(&app).await);
        let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
        // The caller asks again for what the copy has forgotten.
        let created = refunds.create_refund(without_wait(sectigo("since", "1000002"))).await.unwrap().into_inner();
        assert_eq!(created.refund.unwrap().state(), State::Pending);
        assert_eq!(created.replayed, !accepted);
        let known = refunds.create_refund(sectigo("before", "1000001")).await.unwrap().into_inner();
        assert!(known.replayed);
        app.stop().await;
    }
    assert_eq!(bench.sent(), 2);
    for order in ["1000001", "1000002"] {
        assert_eq!(effects(&bench.simulators, order), 1, "{order}");
    }
    // The checkpoints tell of it elsewhere.
    let output = run(&["audit", "export", &bench.text("recoup.db")]);
    std::fs::write(bench.path("events.jsonl"), output.stdout).unwrap();
    let (text, code) = bench.check("events.jsonl", &bench.verifier_key());
    assert!(text.contains("the ledger was put back"), "{text}");
    assert_eq!(code, Some(1));
}

/// A copy that has gone on has as many events, and others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_written_to_without_checkpoints_is_refused() {
    let bench = Bench::new().await;
    bench.run_with("before", "1000001").await;
    std::fs::copy(bench.path("recoup.db"), bench.path("old.db")).unwrap();
    bench.run_with("since", "1000002").await;
    bench.put_back("old.db");
    let off =
        bench.configuration.lines().filter(|line| !line.starts_with("checkpoint.")).collect::<Vec<_>>().join("\n");
    let app = App::start(settings_of(&off, bench.dir.path())).await.unwrap();
    let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
    for (id, order) in [("another", "1000003"), ("one-more", "1000004")] {
        refunds.create_refund(sectigo(id, order)).await.unwrap();
    }
    app.stop().await;
    let refused = bench.start().await.err().unwrap().to_string();
    assert!(refused.contains("is not the one that the newest checkpoint in"), "{refused}");
}

#[rstest]
#[case::the_file_is_missing(|bench: &Bench| std::fs::remove_file(bench.path("checkpoints")).unwrap(), "had checkpoints before")]
#[case::the_file_is_empty(|bench: &Bench| std::fs::write(bench.path("checkpoints"), "").unwrap(), "had checkpoints before")]
#[case::the_note_was_changed(|bench: &Bench| change(&bench.path("checkpoints"), "\n3\n", "\n2\n"), "has no right signature")]
#[case::another_key(|bench: &Bench| {
    std::fs::remove_file(bench.path("key")).unwrap();
    KeyFile::create(&bench.path("key")).unwrap();
}, "has no right signature")]
#[case::another_ledger(|bench: &Bench| {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let _ = std::fs::remove_file(bench.path(&format!("recoup.db{suffix}")));
    }
}, "is of the ledger recoup/ledger/")]
#[case::another_file(|bench: &Bench| std::fs::write(bench.path("checkpoints"), "text").unwrap(), "is no file of checkpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_in_one_sentence(#[case] change: fn(&Bench), #[case] words: &str) {
    let bench = Bench::new().await;
    bench.run_with("before", "1000001").await;
    change(&bench);
    let refused = bench.start().await.err().unwrap();
    let sentence = refused.to_string();
    assert!(sentence.contains(words) && !sentence.contains('\n'), "{sentence}");
    if matches!(refused, StartError::LostHistory(_)) {
        let app = bench.start_accepting().await;
        assert!(are_paused(&app).await);
        app.stop().await;
        bench.start().await.unwrap().stop().await;
    }
}

fn change(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let at = text.rfind(from).unwrap_or_else(|| panic!("no {from:?} in {text}"));
    std::fs::write(path, format!("{}{to}{}", &text[..at], &text[at + from.len()..])).unwrap();
}

/// Half of a note, which is what a crash leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_of_an_append_is_tolerated() {
    let bench = Bench::new().await;
    bench.run_with("before", "1000001").await;
    let whole = std::fs::read_to_string(bench.path("checkpoints")).unwrap();
    let half = format!("{whole}\n{}", &whole[..100]);
    std::fs::write(bench.path("checkpoints"), half).unwrap();
    bench.run_with("since", "1000002").await;
    let text = std::fs::read_to_string(bench.path("checkpoints")).unwrap();
    assert!(text.starts_with(&format!("{whole}\nrecoup/ledger/")), "{text}");
    assert_eq!(text.matches('\u{2014}').count(), whole.matches('\u{2014}').count() + 1, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_starts_paused_with_the_accounts_that_come_later() {
    let Stack { simulators, app, dir, mut refunds } = Stack::start().await;
    refunds.create_refund(sectigo("known", "1000001")).await.unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let copied = run(&["backup", &path("recoup.db"), &path("copy.db")]);
    assert!(copied.status.success(), "{copied:?}");
    refunds.create_refund(sectigo("since", "1000002")).await.unwrap();
    app.stop().await;

    let whole = configuration(&simulators, dir.path(), "").replace("recoup.db", "copy.db");
    let (before, sectigo_account) = whole.split_at(whole.find("[accounts.sectigo]").unwrap());
    let (sectigo_account, others) = sectigo_account.split_at(sectigo_account.find("[accounts.namecom]").unwrap());
    let renamed = format!("{before}{}{others}", sectigo_account.replace("accounts.sectigo", "accounts.renamed"));
    let without = format!("{before}{others}");

    let app = App::start(settings_of(&without, dir.path())).await.unwrap();
    assert!(are_paused(&app).await, "{:?}", health_of(&app).await);
    app.stop().await;
    // The account is put back under another name, under which the caller asks again.
    let app = App::start(settings_of(&renamed, dir.path())).await.unwrap();
    assert!(are_paused(&app).await, "{:?}", health_of(&app).await);
    let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
    let again = proto::CreateRefundRequest { account: "renamed".to_owned(), ..sectigo("since", "1000002") };
    let created = refunds.create_refund(without_wait(again)).await.unwrap().into_inner();
    assert_eq!(created.refund.unwrap().state(), State::Pending);
    let cancel = proto::CancelRefundRequest { name: "refunds/since".to_owned(), ..Default::default() };
    refunds.cancel_refund(cancel).await.unwrap();
    resume_all(&app).await;
    app.stop().await;

    // It is over: nothing is paused any more, not even an account that was never seen.
    let app = App::start(settings_of(&whole, dir.path())).await.unwrap();
    assert!(health_of(&app).await.iter().all(|(_, health)| *health == Health::Serving), "{:?}", health_of(&app).await);
    let mut refunds = RefundServiceClient::new(channel(app.addr()).await);
    let other = refunds.create_refund(namecom("other", 200_001, &[3_200_001])).await.unwrap().into_inner();
    assert_eq!(other.refund.unwrap().state(), State::Succeeded);
    app.stop().await;
    for target in ["1000001", "1000002", "3200001"] {
        assert_eq!(effects(&simulators, target), 1, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_get_the_newest_checkpoint() {
    let bench = Bench::every(1).await;
    let app = bench.start().await.unwrap();
    let channel = channel(app.addr()).await;
    let mut audit = AuditServiceClient::new(channel.clone());
    let first = audit.get_checkpoint(proto::GetCheckpointRequest {}).await.unwrap().into_inner();
    assert_eq!((first.sequence, first.chain_hash.to_vec()), (0, vec![0; 32]));
    RefundServiceClient::new(channel).create_refund(sectigo("one", "1000001")).await.unwrap();
    // The task writes it by itself.
    let file = bench.path("checkpoints");
    wait_until(|| std::fs::read_to_string(&file).unwrap().contains("\n3\n")).await;
    let key = VerifierKey::parse(&bench.verifier_key()).unwrap();
    let newest = loop {
        let newest = audit.get_checkpoint(proto::GetCheckpointRequest {}).await.unwrap().into_inner();
        if newest.sequence > 0 {
            break newest;
        }
        tokio::task::yield_now().await;
    };
    assert!(std::fs::read_to_string(&file).unwrap().ends_with(&newest.signed_note));
    assert!(newest.signed_note.starts_with(&format!("{}\n3\n", key.name())), "{}", newest.signed_note);
    let events = run(&["audit", "export", &bench.text("recoup.db"), "--after", "2"]).stdout;
    std::fs::write(bench.path("events.jsonl"), &events).unwrap();
    assert_eq!(String::from_utf8(events).unwrap().lines().count(), 1);
    let (text, code) = bench.check("events.jsonl", &key.to_string());
    assert!(text.ends_with("no problems found\n"), "{text}");
    assert_eq!(code, Some(0));
    app.stop().await;

    let without = Stack::start().await;
    let mut audit = AuditServiceClient::new(crate::support::channel(without.app.addr()).await);
    let refused = audit.get_checkpoint(proto::GetCheckpointRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unimplemented, "NOT_OFFERED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_history_is_found_elsewhere() {
    let bench = Bench::new().await;
    bench.run_with("one", "1000001").await;
    bench.run_with("two", "1000002").await;
    let exported = String::from_utf8(run(&["audit", "export", &bench.text("recoup.db")]).stdout).unwrap();
    let key = bench.verifier_key();
    std::fs::write(bench.path("events.jsonl"), &exported).unwrap();
    let (text, code) = bench.check("events.jsonl", &key);
    assert!(text.contains("6 events, from 1 to 6") && text.ends_with("no problems found\n"), "{text}");
    assert_eq!(code, Some(0));

    let lines: Vec<&str> = exported.lines().collect();
    let edited = exported.replacen("\"refund\":\"two\"", "\"refund\":\"owt\"", 1);
    let without_the_last = lines[..5].join("\n");
    let without_one = [&lines[..3], &lines[4..]].concat().join("\n");
    let of_another_ledger = {
        let other = Bench::new().await;
        other.run_with("one", "1000001").await;
        other.run_with("two", "1000003").await;
        String::from_utf8(run(&["audit", "export", &other.text("recoup.db")]).stdout).unwrap()
    };
    for (changed, words) in [
        (edited.as_str(), "event 4: its chain_hash does not follow from its fields"),
        (without_the_last.as_str(), "but the exported history ends at 5"),
        (without_one.as_str(), "event 5: follows 3: events are missing"),
        (of_another_ledger.as_str(), "the history was rewritten"),
        ("{}\n", "line 1: chain_hash is missing"),
    ] {
        std::fs::write(bench.path("changed.jsonl"), changed).unwrap();
        let (text, code) = bench.check("changed.jsonl", &key);
        assert!(text.contains(words), "{words}: {text}");
        assert_eq!(code, Some(1));
    }
    change(&bench.path("checkpoints"), "\n6\n", "\n5\n");
    let (text, code) = bench.check("events.jsonl", &key);
    assert!(text.contains("has no right signature of this key"), "{text}");
    assert_eq!(code, Some(1));
    let (text, code) = bench.check("events.jsonl", "no key");
    assert!(text.contains("--key is no verifier key"), "{text}");
    assert_eq!(code, Some(2));
}

/// The log has the verifier key and never the private one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_key_is_nowhere_in_the_log() {
    let bench = Bench::new().await;
    let config = bench.path("recoup.toml");
    std::fs::write(&config, format!("log.filter = \"trace\"\n{}", bench.configuration)).unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let lines = log.clone();
    let gateway = Gateway::launch(serve(&config), move |line| lines.lock().unwrap().push_str(line)).unwrap();
    let mut audit = AuditServiceClient::new(channel(gateway.addr).await);
    let answer = audit.get_checkpoint(proto::GetCheckpointRequest {}).await.unwrap().into_inner();
    assert!(gateway.terminate().success());
    let log = log.lock().unwrap().clone();
    assert!(log.contains(&bench.verifier_key()));
    let line = std::fs::read_to_string(bench.path("key")).unwrap();
    let secret = line.trim().rsplit(':').next().unwrap();
    assert!(!log.contains(secret) && !answer.signed_note.contains(secret));
    // A key that cannot be read is named by its file alone.
    std::fs::write(bench.path("key"), secret).unwrap();
    let log = Gateway::launch(serve(&config), |_| {}).err().unwrap().concat();
    assert!(log.contains("is no private key of `recoup audit keygen`") && !log.contains(secret), "{log}");
}

#[test]
fn keygen_makes_a_private_file_and_replaces_none() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key").display().to_string();
    let made = run(&["audit", "keygen", "--key", &key]);
    assert!(made.status.success(), "{made:?}");
    let line = std::fs::read_to_string(&key).unwrap();
    let secret = line.trim().rsplit(':').next().unwrap();
    assert!(!String::from_utf8(made.stdout).unwrap().contains(secret));
    let again = run(&["audit", "keygen", "--key", &key]);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&key).unwrap(), line);
}
