//! Ten thousand clients that open a connection and never finish a head, at every port: nobody else
//! is kept out for good, and memory has an end. In a process of its own, so that tests that measure
//! silence need not be tested beside it.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing there")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How many connections a port holds; for a further one the oldest goes that has asked for nothing.
const MAX_CONNECTIONS: usize = 10_000;
/// What else has a descriptor in a process.
const OTHERS: usize = 200;
/// What ten thousand connections may take up, in KiB, with the first bytes of a head each.
const MAX_MEMORY_KIB: u64 = 400 * 1024;
/// Long enough for a loaded machine, and no wait where all is well.
const AT_LAST: Duration = Duration::from_secs(60);

/// The simulators in a process of their own, so that its memory can be told, and its descriptors
/// are its own.
struct Running {
    process: Child,
    ports: Vec<(String, SocketAddr)>,
    _folder: TempDir,
}

impl Running {
    fn start() -> Running {
        let folder = tempfile::tempdir().unwrap();
        let flags = [
            "--control",
            "--sectigo",
            "--sectigo-plaintext",
            "--namecom",
            "--namecom-plaintext",
            "--debitsuccess",
            "--debitsuccess-plaintext",
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
        command.current_dir(folder.path()).args(flags.iter().flat_map(|flag| [flag, "127.0.0.1:0"]));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let ports = lines.take_while(|line| line != "ready").map(|line| {
            let (name, rest) = line.split_once("  ").unwrap();
            let address = rest.split("://").nth(1).unwrap().split(['/', ' ']).next().unwrap();
            (name.trim().to_owned(), address.parse().unwrap())
        });
        Running { ports: ports.collect(), process, _folder: folder }
    }

    /// Resident memory, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn port(&self, name: &str) -> SocketAddr {
        self.ports.iter().find(|(known, _)| known == name).unwrap().1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// How many descriptors this process may have, and so may the one that it starts.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

#[tokio::test]
async fn ten_thousand_slow_heads_at_every_port() {
    let possible = descriptors().saturating_sub(OTHERS);
    // One more than there is room for, where the system has so many descriptors.
    let wanted = (MAX_CONNECTIONS + 1).min(possible);
    if wanted <= MAX_CONNECTIONS {
        println!("REDUCED: {wanted} connections at a time, for want of descriptors (ulimit -n)");
    }
    let running = Running::start();
    let at_start = running.memory();
    // The other two TLS ports are as Sectigo's is.
    let chosen = running.ports.iter().filter(|(name, _)| !["name.com", "Debitsuccess"].contains(&name.as_str()));
    for (name, address) in chosen.cloned() {
        let mut crowd = Vec::with_capacity(wanted);
        while crowd.len() < wanted {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The head of a request, or, over TLS, what could become a handshake; and no more of
            // it.
            let begun: &[u8] = if name == "Sectigo" { b"\x16\x03\x01" } else { b"GET / HTTP/1.1\r\nhost:" };
            stream.write_all(begun).await.unwrap();
            crowd.push(stream);
        }
        // Whoever comes to another port is served meanwhile.
        let other = if name == "control" { running.port("name.com plaintext") } else { running.port("control") };
        assert!(answers(other).await, "beside {name}");
        let memory = running.memory();
        println!("{name}: {wanted} connections, {memory} KiB, {at_start} KiB at the start");
        assert!(memory < MAX_MEMORY_KIB, "{name}: {memory} KiB");
        // Whoever comes to this one is served too: for each the oldest of the crowd goes.
        if wanted > MAX_CONNECTIONS && name != "Sectigo" {
            for _ in 0..3 {
                assert!(answers(address).await, "{name} keeps others out");
            }
            let oldest = crowd.first_mut().unwrap();
            assert!(!matches!(timeout(AT_LAST, oldest.read(&mut [0; 1])).await.unwrap(), Ok(1)), "{name}");
        }
        drop(crowd);
        if name != "Sectigo" {
            assert!(answers(address).await, "{name}, afterwards");
        }
    }
    // Ten thousand more of each kind would not take up more: what they took has been given back, or
    // is used again.
    let memory = running.memory();
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB at the end");
}

/// Whether a whole request gets an answer there.
async fn answers(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        answer.starts_with(b"HTTP/1.1 ").then_some(())
    };
    timeout(AT_LAST, asked).await.is_ok_and(|answer| answer.is_some())
}
