//! How long the binary takes to its `ready`, and how much memory it needs: at the start, and after refunds at every provider's worth.
//!
//! ```text
//! cargo bench -p simulators --bench start
//! ```
//!
//! A start is the time from the process' creation to the line `ready`, all ports open and all demo data there. It ends with failure
//! where the median is above 20 ms or the memory at the start above 20 MiB.

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
/// Refunds before the memory is looked at again: more than the journal keeps.
const REFUNDS: u32 = 20_000;
const MOST_MILLISECONDS: f64 = 20.0;
const MOST_MIB: f64 = 20.0;

/// A running simulator.
struct Running {
    process: Child,
    took: Duration,
    namecom: String,
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
    running.refund();
    if let Some(after) = running.mebibytes() {
        println!("memory   {after:6.1} MiB after {REFUNDS} answered refund requests");
    }
    status(median <= MOST_MILLISECONDS && at_start <= MOST_MIB)
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
        let namecom = lines.iter().find_map(|line| line.strip_prefix("name.com")).unwrap();
        Running { process, took, namecom: namecom.trim().trim_start_matches("http://").to_owned() }
    }

    /// What the system counts as resident.
    fn mebibytes(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
    }

    /// Asks for refunds on one connection, each answer read to its end.
    fn refund(&self) {
        let mut stream = TcpStream::connect(&self.namecom).unwrap();
        stream.set_nodelay(true).unwrap();
        let body = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;
        let request = format!(
            "POST /core/v1/refund HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic ZGVtby10ZXN0OmRlbW8tdG9rZW4=\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..REFUNDS {
            stream.write_all(request.as_bytes()).unwrap();
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
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
