//! Marked secrets on every road through the gateway, looked for afterwards in everything that it wrote: log, spans, metrics, errors, answers, ledger,
//! command line. Each mark holds the word `canary`, and nothing else does.
//!
//! The providers here are one hostile server: it repeats whatever it is sent, in every form in which a provider could, or breaks off.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;
use recoup::telemetry::{self, LogFormat};
use simulators::exchange::Provider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::process::run;
use crate::support::{channel, configuration_at, debitsuccess, namecom, sectigo};
use crate::telemetry::{Collector, Log, launch, scrape};

const MARK: &str = "canary";
/// Of whom the providers speak: callers are told so, and the ledger keeps it, but no log, span or metric does.
const PERSON: &str = "Lovelace";
/// With what every encoding on the way changes: of forms, of XML, of JSON, of Base64.
const PASSWORD: &str = "canary pass&w<rd>\"+%41";
const TOKEN: &str = "canary-token&<\"+";
const PAGE: &str = include_str!("../../src/providers/sectigo/testdata/every_section.json");

/// What the hostile server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Repeats it as a refusal, as Sectigo writes one.
    Coded(i32),
    /// Repeats it as JSON, with this status.
    Json(u16),
    /// Repeats it as a SOAP fault, with this status.
    Fault(u16),
    /// Repeats it as it came, with this status and in a header too.
    Bare(u16),
    /// Repeats it as something that is no HTTP.
    Garbage,
    /// Promises more than it says.
    Short,
    /// Says nothing.
    Silent,
    /// Hangs up.
    Gone,
}

const MOODS: [Mood; 15] = [
    Mood::Coded(-16),
    Mood::Coded(-1),
    Mood::Coded(-3),
    Mood::Coded(-42),
    Mood::Json(200),
    Mood::Json(400),
    Mood::Json(404),
    Mood::Fault(200),
    Mood::Fault(500),
    Mood::Bare(200),
    Mood::Bare(429),
    Mood::Bare(503),
    Mood::Garbage,
    Mood::Short,
    Mood::Gone,
];
/// These take long or shut the account, and come last.
const LAST_MOODS: [Mood; 3] = [Mood::Silent, Mood::Json(401), Mood::Coded(-15)];

#[derive(Clone)]
struct Hostile {
    mood: Arc<Mutex<Mood>>,
    heard: Arc<Mutex<String>>,
}

impl Hostile {
    async fn start() -> (Hostile, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hostile = Hostile { mood: Arc::new(Mutex::new(Mood::Gone)), heard: Arc::default() };
        let server = hostile.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.answer(stream).await });
            }
        });
        (hostile, addr)
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let request = whole_request(&mut stream).await?;
        self.heard.lock().unwrap().push_str(&request);
        let mood = *self.mood.lock().unwrap();
        if request.contains("getPostPaymentStatus") && request.contains("3000002") {
            let page = PAGE.replace("registrant@example.com", "canary-person@example.com");
            return stream.write_all(&http(200, "application/json", &page)).await.ok();
        }
        // A form as it came, and as whoever read it would write it.
        let read = form_urlencoded::parse(request.rsplit("\r\n").next()?.as_bytes());
        let said = format!(
            "{PERSON} has had it already. {request} {}",
            read.map(|(key, value)| format!("{key}={value}\n")).collect::<String>()
        );
        let answer = match mood {
            Mood::Coded(code) => http(200, "text/plain", &format!("{code}\n{said}")),
            Mood::Json(status) => {
                let message = serde_json::to_string(&said).unwrap();
                let text = format!(
                    "{{\"errorCode\":-16,\"errorMessage\":{message},\"message\":{message},\"details\":{message}}}"
                );
                http(status, "application/json", &text)
            }
            Mood::Fault(status) => http(status, "text/xml", &fault(&said)),
            Mood::Bare(status) => http(status, "text/plain", &said),
            Mood::Garbage => format!("{said}\0\x01").into_bytes(),
            Mood::Short => format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{said}").into_bytes(),
            Mood::Silent => {
                // Until the gateway gives up.
                let mut rest = Vec::new();
                return stream.read_to_end(&mut rest).await.ok().map(drop);
            }
            Mood::Gone => Vec::new(),
        };
        stream.write_all(&answer).await.ok()
    }
}

fn http(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let echo = body.lines().find(|line| line.to_lowercase().starts_with("authorization")).unwrap_or(PASSWORD);
    let length = body.len();
    format!("HTTP/1.1 {status} Said\r\ncontent-type: {kind}\r\nx-said: {echo}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn fault(said: &str) -> String {
    let escaped = said.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>s:Client</faultcode>\
         <faultstring>{escaped}</faultstring></s:Fault></s:Body></s:Envelope>"
    )
}

async fn whole_request(stream: &mut TcpStream) -> Option<String> {
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut heard).await.ok()? == 0 {
            return None;
        }
    }
}

/// What the gateway wrote, each with where.
#[derive(Default)]
struct Written(Vec<(String, String)>);

impl Written {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn add_output(&mut self, place: &str, output: &Output) {
        self.add(place, String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()));
    }

    /// Nothing holds the mark, nor a login with it in Base64.
    fn is_clean(&self) {
        // Whole groups of three bytes, so that what stands behind them changes nothing.
        let encoded: Vec<String> = [
            STANDARD.encode("demo-test:canary-token"),
            STANDARD.encode("demo-test:canary-t"),
            STANDARD.encode(MARK),
            STANDARD.encode(PASSWORD),
        ]
        .iter()
        .map(|text| text.trim_end_matches('=').to_owned())
        .map(|text| text[..text.len() - text.len() % 4].to_owned())
        .collect();
        for (place, text) in &self.0 {
            let lower = text.to_lowercase();
            assert!(!lower.contains(MARK), "{place} holds a secret: {}", around(&lower, MARK));
            for form in &encoded {
                assert!(!text.contains(form), "{place} holds a secret in Base64");
            }
        }
    }
}

/// Where in a long text something is.
fn around(text: &str, what: &str) -> String {
    let (before, after) = text.split_once(what).unwrap();
    let before: Vec<char> = before.chars().rev().take(300).collect();
    format!("...{}{what}{}...", before.iter().rev().collect::<String>(), after.chars().take(60).collect::<String>())
}

fn hostile_configuration(hostile: SocketAddr, collector: SocketAddr, dir: &Path) -> String {
    let settings = format!(
        "traces.endpoint = \"http://{collector}\"\nmetrics.listen = \"127.0.0.1:0\"\nlog.filter = \"trace\"\n\
         engine.lookups_after_ms = \"40 80\"\nengine.lookups_every_ms = 5000\nengine.circuit_failures = 1000000\n\
         engine.circuit_strangers = 10000\nengine.circuit_pause_min_ms = 20\nengine.circuit_pause_max_ms = 40"
    );
    let text = configuration_at(hostile, hostile, hostile, dir, &settings).replace("https://", "http://");
    let lines = text.lines().filter(|line| !line.starts_with("ca_file"));
    lines
        .map(|line| match line.starts_with("provider =") {
            true => format!("{line}\ntotal_timeout_ms = 300\nmax_in_flight = 64\nrequests_per_second = 0\n"),
            false => format!("{line}\n"),
        })
        .collect()
}

fn request(provider: Provider, number: u32) -> proto::CreateRefundRequest {
    let id = format!("r-{provider:?}-{number}").to_lowercase();
    let mut request = match provider {
        Provider::Sectigo => sectigo(&id, &format!("{}", 1_000_000 + number)),
        Provider::Namecom => {
            namecom(&id, i32::try_from(200_000 + number).unwrap(), &[i32::try_from(3_200_000 + number).unwrap()])
        }
        Provider::Debitsuccess => debitsuccess(&id, &format!("DS{number:06}"), 1250),
    };
    request.wait = Some(prost_types::Duration { seconds: 0, nanos: 700_000_000 });
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (hostile, addr) = Hostile::start().await;
    let (collector, collecting) = Collector::start().await;
    let configuration = hostile_configuration(addr, collecting, dir.path());
    let secrets = [("DEMO_PASSWORD", PASSWORD), ("DEMO_TOKEN", TOKEN)];
    let (gateway, log) = launch(&configuration, dir.path(), &secrets);
    let connection = channel(gateway.addr).await;
    let mut written = Written::default();
    let mut answers = Vec::new();

    // Refunds and looks, all providers, all moods.
    let mut number = 0;
    for mood in MOODS.into_iter().chain(LAST_MOODS) {
        hostile.becomes(mood);
        number += 1;
        for provider in [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess] {
            let mut refunds = RefundServiceClient::new(connection.clone());
            let asked = request(provider, number);
            let name = format!("refunds/{}", asked.refund_id);
            match refunds.create_refund(asked).await {
                Ok(answer) => answers.push(answer.into_inner().refund.unwrap()),
                Err(status) => written.add(format!("the error of {name} while {mood:?}"), format!("{status:?}")),
            }
            match refunds.reconcile_refund(proto::ReconcileRefundRequest { name: name.clone() }).await {
                Ok(answer) => answers.push(answer.into_inner().refund.unwrap()),
                Err(status) => written.add(format!("a look at {name} while {mood:?}"), format!("{status:?}")),
            }
        }
        // Validation statuses that are refused, garbled, late.
        let mut validation = ValidationStatusServiceClient::new(connection.clone());
        let order_number = format!("{}", 3_000_100 + number);
        let ask =
            proto::GetValidationStatusRequest { account: "sectigo".to_owned(), order_number, ..Default::default() };
        let refusal = validation.get_validation_status(ask).await.unwrap_err();
        written.add(
            format!("a status while {mood:?}"),
            format!("{refusal:?} {}", String::from_utf8_lossy(refusal.details())),
        );
    }
    // A status with a person in it, and the token when it is asked for: for the caller alone.
    let mut validation = ValidationStatusServiceClient::new(connection.clone());
    for include_upload_token in [false, true] {
        let order_number = "3000002".to_owned();
        let ask = proto::GetValidationStatusRequest {
            account: "sectigo".to_owned(),
            order_number,
            include_upload_token,
            ..Default::default()
        };
        let shown = format!("{:?}", validation.get_validation_status(ask).await.unwrap().into_inner());
        assert!(shown.contains("canary-person@example.com"));
        assert_eq!(shown.contains("canary-upload-token"), include_upload_token);
    }
    // Requests that are wrong in every field.
    let mut refunds = RefundServiceClient::new(connection.clone());
    let wrong = proto::CreateRefundRequest { refund_id: "a b".to_owned(), ..Default::default() };
    written.add("a wrong request", format!("{:?}", refunds.create_refund(wrong).await.unwrap_err()));

    for refund in &answers {
        written.add(format!("the answer of {}", refund.name), format!("{refund:?}"));
    }
    assert!(answers.iter().any(|refund| refund.state() == State::InDoubt));
    assert!(answers.iter().any(|refund| refund.state() == State::Failed));
    assert!(
        answers.iter().any(|refund| format!("{refund:?}").contains("***")),
        "nothing was masked: was anything repeated?"
    );

    // What an operator sees.
    let server = format!("http://{}", gateway.addr);
    written.add_output("recoup refunds list", &run(&["refunds", "--server", &server, "list", "--json"]));
    // Debitsuccess's first refunds, say, have as much to show as any.
    for refund in answers.iter().step_by(9) {
        let id = refund.name.trim_start_matches("refunds/");
        written.add_output("recoup refunds show", &run(&["refunds", "--server", &server, "show", id]));
    }
    let metrics = scrape(metrics_addr(&log)).await;
    assert!(metrics.contains("recoup_attempt_duration_seconds_count"));
    add_ledger(&mut written, dir.path());
    assert!(gateway.terminate().success());
    add_ledger(&mut written, dir.path());
    let spans = collector.spans(|spans| spans.iter().any(|span| span.name == "POST")).await;
    let spans = format!("{spans:?}");
    let text = log.text();
    assert!(text.contains("\"level\":\"TRACE\""), "the log is not what it should be");
    for (place, text) in [("the spans", &spans), ("the log", &text), ("the metrics", &metrics)] {
        assert!(!text.contains(PERSON), "{place}: {}", around(text, PERSON));
        written.add(place, text.clone());
    }
    assert!(answers.iter().any(|refund| format!("{refund:?}").contains(PERSON)), "no provider spoke of anybody");
    let config = dir.path().join("recoup.toml");
    let verified = run(&["verify", dir.path().join("recoup.db").to_str().unwrap()]);
    written.add_output("recoup verify", &verified);
    let check = Command::new(env!("CARGO_BIN_EXE_recoup"))
        .args(["check", "--config"])
        .arg(&config)
        .envs(secrets)
        .output()
        .unwrap();
    assert!(check.status.success());
    written.add_output("recoup check", &check);

    // The providers were told, so there was something to be found.
    let heard = hostile.heard.lock().unwrap().clone();
    assert!(heard.contains("canary") && heard.contains(&STANDARD.encode(format!("demo-test:{TOKEN}"))));
    written.is_clean();
}

fn metrics_addr(log: &Log) -> SocketAddr {
    let said = log.text();
    let line = said.lines().find(|line| line.contains("\"metrics_addr\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["metrics_addr"].as_str().unwrap().parse().unwrap()
}

/// All its files as they are: what SQLite has deleted may stand in them too.
fn add_ledger(written: &mut Written, dir: &Path) {
    for file in std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("recoup.db") {
            written.add(format!("{}", file.display()), String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
        }
    }
}

/// Every way to put a secret where it does not belong in a configuration, and what the command line says of it.
#[test]
fn no_fault_of_a_configuration_repeats_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let account = "[accounts.namecom]\nprovider = \"namecom\"\nusername = \"demo-test\"\n";
    let texts = [
        format!("{account}token = \"canary\"\n"),
        format!("{account}token_env = \"canary\"\n"),
        format!("{account}token_file = \"/canary\"\n"),
        format!("{account}token_env = \"DEMO_TOKEN\"\nendpoint = \"https://demo:canary@example.com\"\n"),
        format!("{account}token_env = \"DEMO_TOKEN\"\nendpoint = \"canary\"\n"),
        format!("{account}token = canary\n"),
        format!("{account}token = \"canary\n"),
        format!("traces.endpoint = \"http://demo:canary@127.0.0.1:4317\"\n{account}token_env = \"DEMO_TOKEN\"\n"),
        format!("log.filter = \"canary=canary=canary\"\n{account}token_env = \"DEMO_TOKEN\"\n"),
        format!("{account}token_env = \"TOO_LONG\"\n"),
    ];
    let mut written = Written::default();
    for (number, text) in texts.iter().enumerate() {
        let config = dir.path().join("wrong.toml");
        std::fs::write(&config, text).unwrap();
        for command in ["check", "serve"] {
            let output = Command::new(env!("CARGO_BIN_EXE_recoup"))
                .args([command, "--config"])
                .arg(&config)
                .env("DEMO_TOKEN", TOKEN)
                .env("TOO_LONG", "canary".repeat(100))
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{number}: {output:?}");
            written.add_output(&format!("recoup {command} of text {number}"), &output);
        }
    }
    written.is_clean();
}

/// Set where [`a_process_that_panics`] is to do so.
const PANICS: &str = "PANICS_WITH_A_SECRET";

#[test]
fn a_panic_tells_its_place_and_not_its_message() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canary::a_process_that_panics", "--nocapture"])
        .env(PANICS, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("a task panicked") && said.contains("canary.rs"), "{said}");
    assert!(!said.replace("canary.rs", "").contains(MARK), "{said}");
}

/// The other half of the test above; by itself it does nothing.
#[test]
fn a_process_that_panics() {
    if std::env::vars_os().any(|(name, _)| name == PANICS) {
        telemetry::init(LogFormat::Json, "trace", None).unwrap();
        let task = std::thread::Builder::new().name("task".to_owned()).spawn(|| panic!("the password is {PASSWORD}"));
        task.unwrap().join().unwrap_err();
    }
}
