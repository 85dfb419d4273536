//! How long the binary takes to its `ready`, and how much memory it needs: at the start, and when journal and books have long been full of
//! requests.
//!
//! ```text
//! cargo bench -p simulators --bench start
//! ```
//!
//! A start is the time from the process' creation to the line `ready`, all ports open and all demo data there. It ends with failure
//! where the median is above 20 ms or the memory above 20 MiB, then or later.
//!
//! The requests are refunds of the demo data, each under a key or identifier of its own, half of them at name.com and half at Debitsuccess: those that
//! are done, and, since a thing is refunded once, many more that are refused. What a refund changes is kept for as long as its world.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark says what is wrong by failing there")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use tokio::time::Instant;

/// Starts; odd, so that the median is one of them.
const STARTS: usize = 31;
/// Requests before the memory is looked at again: many times what the journal keeps.
const REQUESTS: u32 = 50_000;
/// Refunds are asked for so many orders and accounts in turn: all that the demo data has.
const TARGETS: u32 = 999;
const MOST_MILLISECONDS: f64 = 20.0;
const MOST_MIB: f64 = 20.0;

/// A running simulator.
struct Running {
    process: Child,
    took: Duration,
    namecom: String,
    debitsuccess: String,
}

fn main() -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    let mut took: Vec<f64> = (0..STARTS).map(|_| Running::start(folder.path()).took.as_secs_f64() * 1_000.0).collect();
    took.sort_by(f64::total_cmp);
    let median = took[STARTS / 2];
    println!("start    {median:6.1} ms median of {STARTS} ({:.1} to {:.1})", took[0], took[STARTS - 1]);

    let running = Running::start(folder.path());
    let Some(at_start) = running.mebibytes() else {
        println!("memory   not measured: there is no /proc here");
        return status(median <= MOST_MILLISECONDS);
    };
    println!("memory   {at_start:6.1} MiB at the start");
    refund(&running.namecom, namecom_refund);
    refund(&running.debitsuccess, debitsuccess_refund);
    let after = running.mebibytes().unwrap();
    println!("memory   {after:6.1} MiB after {REQUESTS} answered refund requests");
    status(median <= MOST_MILLISECONDS && at_start.max(after) <= MOST_MIB)
}

fn status(is_good: bool) -> ExitCode {
    if is_good {
        return ExitCode::SUCCESS;
    }
    println!("more than {MOST_MILLISECONDS} ms or {MOST_MIB} MiB");
    ExitCode::FAILURE
}

impl Running {
    fn start(folder: &Path) -> Running {
        let ports = ["--control", "--sectigo", "--sectigo-plaintext", "--namecom", "--debitsuccess"];
        let began = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_simulators"))
            .args(ports.iter().flat_map(|port| [*port, "127.0.0.1:0"]))
            .arg("--ca-file")
            .arg(folder.join("ca.pem"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let lines: Vec<String> = lines.take_while(|line| line != "ready").collect();
        let took = began.elapsed();
        let address = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_start_matches("http://").split('/').next().unwrap().to_owned()
        };
        Running { process, took, namecom: address("name.com"), debitsuccess: address("Debitsuccess") }
    }

    /// What the system counts as resident.
    fn mebibytes(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
    }
}

/// Asks for half of the refunds on one connection, each answer read to its end.
fn refund(address: &str, request: impl Fn(u32) -> String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for number in 0..REQUESTS / 2 {
        stream.write_all(request(number).as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        answers.read_exact(&mut vec![0; length]).unwrap();
    }
}

fn namecom_refund(number: u32) -> String {
    let order = 200_001 + number % TARGETS;
    let item = order + 3_000_000;
    let headers = format!(
        "authorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\ncontent-type: application/json\r\nx-idempotency-key: key-{number}\r\n"
    );
    post("/core/v1/refund", &headers, &format!(r#"{{"orderId":{order},"orderItemIds":[{item}]}}"#))
}

/// All that was collected, so that an account is refunded once.
fn debitsuccess_refund(number: u32) -> String {
    let headers = "content-type: text/xml; charset=utf-8\r\n\
                   soapaction: \"http://tempuri.org/IDSServices/InitiateRefund\"\r\n";
    let account = 1 + number % TARGETS;
    let body = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
         <InitiateRefund xmlns=\"http://tempuri.org/\"><request>\
         <User><Password>demo-password</Password><Username>demo</Username></User>\
         <AccountReferenceNo>DS{account:06}</AccountReferenceNo><Amount>500.00</Amount><Description>overpaid</Description>\
         <ExternalRefundIdentifier>id-{number}</ExternalRefundIdentifier></request></InitiateRefund></s:Body></s:Envelope>"
    );
    post("/DSWebService/DSServices.svc", headers, &body)
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
