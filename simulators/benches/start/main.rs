//! The time until the binary prints `ready`, and its memory: at the start, with a full journal, and
//! after many refunds.
//!
//! ```text
//! cargo bench -p simulators --bench start
//! ```
//!
//! A start is the time from the creation of the process to the line `ready`, when all ports are
//! open and all demo data exists. The benchmark fails if the median is above 20 ms, or if the
//! memory is above 64 MiB at the start, with a full journal, or after 20,000 refunds.
//!
//! 1. The first process gets refunds of the demo data, each with its own key or identifier, half at
//!    name.com and half at Debitsuccess. Most are refused, because a target is refunded once.
//! 2. The second process carries out 20,000 refunds of the demo data, a third at each provider,
//!    with Sectigo over TLS and deduplication off. The books confirm them. The world keeps their
//!    effects.
//! 3. The third process also gets an order or account for each refund. What is put has no bound
//!    here.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark says what is wrong by failing there")]

#[path = "../../tests/it/process.rs"]
mod process;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::time::Instant;

use self::process::SimulatorsProcess;

/// The number of starts; odd, so that the median is one of them.
const STARTS: usize = 31;
/// The number of requests to the first process: many times what the journal keeps.
const REQUESTS: u32 = 50_000;
/// The number of refundable orders and accounts in the demo data.
const TARGETS: u32 = 999;
/// The number of refunds that are really done at each provider: 20,000 in all.
const DONE_EACH: u32 = 6_667;
/// The first numbers of orders and items that are put, far from the demo data.
const FIRST_ORDER: u32 = 50_000_000;
const FIRST_ITEM: u32 = 60_000_000;
const MAX_MILLISECONDS: f64 = 20.0;
const MAX_MIB: f64 = 64.0;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    let mut took: Vec<f64> = (0..STARTS).map(|_| start(folder.path()).1.as_secs_f64() * 1_000.0).collect();
    took.sort_by(f64::total_cmp);
    let median = took[STARTS / 2];
    println!("start    {median:6.1} ms median of {STARTS} ({:.1} to {:.1})", took[0], took[STARTS - 1]);

    let (running, _) = start(folder.path());
    let Some(at_start) = mebibytes(&running) else {
        println!("memory   not measured: there is no /proc here");
        return status(median <= MAX_MILLISECONDS);
    };
    println!("memory   {at_start:6.1} MiB at the start");
    let half = 0..REQUESTS / 2;
    ask(connect(running.address("name.com plaintext")), half.clone().map(demo_namecom_refund), "");
    ask(connect(running.address("Debitsuccess plaintext")), half.map(demo_debitsuccess_refund), "");
    let after = mebibytes(&running).unwrap();
    println!("memory   {after:6.1} MiB after {REQUESTS} answered refund requests for the demo data");

    let (running, _) = start(folder.path());
    change_settings(&running, r#"{"sectigo":{"deduplication":"off"},"namecom":{"deduplication":"off"}}"#);
    refund_all(&running, folder.path(), DEMO);
    let done = mebibytes(&running).unwrap();
    println!("memory   {done:6.1} MiB after {} refunds that were carried out", 3 * DONE_EACH);

    let (running, _) = start(folder.path());
    put_all(&running);
    let put = mebibytes(&running).unwrap();
    println!("memory   {put:6.1} MiB with {} orders and accounts put", 3 * DONE_EACH);
    refund_all(&running, folder.path(), OWN);
    let own = mebibytes(&running).unwrap();
    println!("memory   {own:6.1} MiB after the refund of each of them");
    let most = [at_start, after, done].into_iter().fold(0.0, f64::max);
    status(median <= MAX_MILLISECONDS && most <= MAX_MIB)
}

/// The targets of refunds.
#[derive(Clone, Copy)]
struct Targets {
    /// The number of targets per provider.
    many: u32,
    sectigo_order: u32,
    namecom_order: u32,
    namecom_item: u32,
    account: &'static str,
}

const DEMO: Targets =
    Targets { many: TARGETS, sectigo_order: 1_000_001, namecom_order: 200_001, namecom_item: 3_200_001, account: "DS" };
const OWN: Targets = Targets {
    many: DONE_EACH,
    sectigo_order: FIRST_ORDER,
    namecom_order: FIRST_ORDER,
    namecom_item: FIRST_ITEM,
    account: "OWN",
};

fn change_settings(running: &SimulatorsProcess, settings: &str) {
    let change = request("PATCH", "/v1/settings", "content-type: application/json\r\n", settings);
    ask(connect(running.address("control")), [change], "requests_per_second");
}

/// Puts an order or account for each refund.
fn put_all(running: &SimulatorsProcess) {
    let control = || connect(running.address("control"));
    let call =
        |method: &str, path: String, body: String| request(method, &path, "content-type: application/json\r\n", &body);
    ask(
        control(),
        (0..DONE_EACH).map(|n| call("PUT", format!("/v1/sectigo/orders/{}", FIRST_ORDER + n), "{}".to_owned())),
        "order_number",
    );
    let order =
        |n: u32| format!(r#"{{"items":[{{"id":{},"name":"shop-{n}.com","price_minor":1299}}]}}"#, FIRST_ITEM + n);
    ask(
        control(),
        (0..DONE_EACH).map(|n| call("PUT", format!("/v1/namecom/orders/{}", FIRST_ORDER + n), order(n))),
        "registrar",
    );
    let account = |n: u32| format!(r#"{{"external_account_reference_no":"CUSTOMER-{n}"}}"#);
    ask(
        control(),
        (0..DONE_EACH).map(|n| call("PUT", format!("/v1/debitsuccess/accounts/OWN{:06}", n + 1), account(n))),
        "collected_minor",
    );
}

fn refund_all(running: &SimulatorsProcess, folder: &Path, of: Targets) {
    // With name.com's documented limits, 20 requests a second and 3,000 an hour, it would take
    // hours.
    change_settings(running, r#"{"namecom":{"requests_per_second":0,"requests_per_hour":0}}"#);
    let place = |n: u32| n % of.many;
    let sectigo = (0..DONE_EACH).map(|n| sectigo_refund(of.sectigo_order + place(n)));
    ask(tls(running.address("Sectigo"), &folder.join("sectigo-ca.pem")), sectigo, "\r\n\r\n0");
    let namecom =
        (0..DONE_EACH).map(|n| namecom_refund(of.namecom_order + place(n), of.namecom_item + place(n), &long_key(n)));
    ask(connect(running.address("name.com plaintext")), namecom, "\"refunded\"");
    let debitsuccess = (0..DONE_EACH)
        .map(|n| debitsuccess_refund(&format!("{}{:06}", of.account, place(n) + 1), "12.34", &long_key(n)));
    ask(connect(running.address("Debitsuccess plaintext")), debitsuccess, ">Succeed<");
    let books = request("GET", "/v1/books?limit=1", "", "");
    ask(connect(running.address("control")), [books], &format!("\"next_after\":{}", 3 * DONE_EACH));
}

/// A key as long as a UUID.
fn long_key(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-{number:012x}")
}

fn status(is_good: bool) -> ExitCode {
    if is_good {
        return ExitCode::SUCCESS;
    }
    println!("more than {MAX_MILLISECONDS} ms or {MAX_MIB} MiB");
    ExitCode::FAILURE
}

/// Starts the simulators; returns also the time until they were ready.
fn start(folder: &Path) -> (SimulatorsProcess, Duration) {
    let began = Instant::now();
    let running = SimulatorsProcess::start(folder, &[]);
    (running, began.elapsed())
}

/// Resident memory.
fn mebibytes(running: &SimulatorsProcess) -> Option<f64> {
    running.memory_kib().map(|kib| kib as f64 / 1024.0)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn tls(address: SocketAddr, ca_file: &Path) -> impl Read + Write {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(address))
}

/// Sends requests on one connection, one after the other. Every answer has to contain this text.
fn ask(mut stream: impl Read + Write, requests: impl IntoIterator<Item = String>, wanted: &str) {
    for request in requests {
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut part = [0; 16 * 1024];
            let read = stream.read(&mut part).unwrap();
            assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(wanted), "{request}\n\n{answer}");
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let lines = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = lines.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
    answer.len() >= head + 4 + length.trim().parse::<usize>().unwrap()
}

fn demo_namecom_refund(number: u32) -> String {
    let order = 200_001 + number % TARGETS;
    namecom_refund(order, order + 3_000_000, &format!("key-{number}"))
}

fn demo_debitsuccess_refund(number: u32) -> String {
    // The whole collected sum, so that an account is refunded once.
    debitsuccess_refund(&format!("DS{:06}", 1 + number % TARGETS), "500.00", &format!("id-{number}"))
}

fn sectigo_refund(order: u32) -> String {
    let body = format!("loginName=demo&loginPassword=demo-password&orderNumber={order}&refundReasonCode=11");
    request("POST", "/products/!AutoRefund", "content-type: application/x-www-form-urlencoded\r\n", &body)
}

fn namecom_refund(order: u32, item: u32, key: &str) -> String {
    let headers = format!(
        "authorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\ncontent-type: application/json\r\nx-idempotency-key: {key}\r\n"
    );
    request("POST", "/core/v1/refund", &headers, &format!(r#"{{"orderId":{order},"orderItemIds":[{item}]}}"#))
}

fn debitsuccess_refund(account: &str, amount: &str, identifier: &str) -> String {
    let headers = "content-type: text/xml; charset=utf-8\r\n\
                   soapaction: \"http://tempuri.org/IDSServices/InitiateRefund\"\r\n";
    let body = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <InitiateRefund xmlns=\"http://tempuri.org/\"><request>\
         <User><Password>demo-password</Password><Username>demo</Username></User>\
         <AccountReferenceNo>{account}</AccountReferenceNo><Amount>{amount}</Amount><Description>overpaid</Description>\
         <ExternalRefundIdentifier>{identifier}</ExternalRefundIdentifier></request></InitiateRefund></s:Body></s:Envelope>"
    );
    request("POST", "/DSWebService/DSServices.svc", headers, &body)
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}
