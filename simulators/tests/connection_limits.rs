//! Ten thousand clients open a connection to each port and never finish a request head: other
//! clients are still served, and memory is bounded. This is a test binary of its own, so that it
//! does not run beside tests that measure silence.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what is wrong by failing there")]

#[path = "it/process.rs"]
mod process;

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use self::process::{SimulatorsProcess, command};

/// The maximum of a port; for a further connection the oldest without a request is closed.
const MAX_CONNECTIONS: usize = 10_000;
/// Descriptors of a process that are not connections.
const OTHER_DESCRIPTORS: usize = 200;
/// For ten thousand connections, each with the first bytes of a head.
const MAX_MEMORY_KIB: u64 = 400 * 1024;
/// Long enough for a loaded machine; a passing test does not wait for it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The limit of open descriptors of this process, and of the one that it starts.
fn descriptor_limit() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

#[tokio::test]
async fn ten_thousand_unfinished_heads_keep_no_other_client_out_of_any_port() {
    let possible = descriptor_limit().saturating_sub(OTHER_DESCRIPTORS);
    // One more than the maximum, where the system allows that many descriptors.
    let wanted = (MAX_CONNECTIONS + 1).min(possible);
    if wanted <= MAX_CONNECTIONS {
        println!("REDUCED: {wanted} connections at a time, because of the limit of descriptors (ulimit -n)");
    }
    let folder = tempfile::tempdir().unwrap();
    let running = SimulatorsProcess::spawn(command(folder.path(), &[]).stderr(Stdio::null()));
    let memory_kib = || running.memory_kib().unwrap();
    let at_start = memory_kib();
    // The other two TLS ports work like Sectigo's.
    let chosen = running.ports().iter().filter(|(name, _)| !["name.com", "Debitsuccess"].contains(&name.as_str()));
    for (name, address) in chosen.cloned() {
        let mut idle = Vec::with_capacity(wanted);
        while idle.len() < wanted {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The beginning of a request head or, over TLS, of a handshake, and nothing after it.
            let begun: &[u8] = if name == "Sectigo" { b"\x16\x03\x01" } else { b"GET / HTTP/1.1\r\nhost:" };
            stream.write_all(begun).await.unwrap();
            idle.push(stream);
        }
        // Another port serves clients meanwhile.
        let other = if name == "control" { running.address("name.com plaintext") } else { running.address("control") };
        assert!(answers(other).await, "while {name} is full");
        let memory = memory_kib();
        println!("{name}: {wanted} connections, {memory} KiB, {at_start} KiB at the start");
        assert!(memory < MAX_MEMORY_KIB, "{name}: {memory} KiB");
        // This port serves them too: for each, the oldest idle connection is closed.
        if wanted > MAX_CONNECTIONS && name != "Sectigo" {
            for _ in 0..3 {
                assert!(answers(address).await, "{name} keeps others out");
            }
            let oldest = idle.first_mut().unwrap();
            assert!(!matches!(timeout(TIMEOUT, oldest.read(&mut [0; 1])).await.unwrap(), Ok(1)), "{name}");
        }
        drop(idle);
        if name != "Sectigo" {
            assert!(answers(address).await, "{name}, afterwards");
        }
    }
    // The memory of closed connections is freed or reused.
    let memory = memory_kib();
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB at the end");
}

/// Whether a complete request gets an answer.
async fn answers(address: SocketAddr) -> bool {
    let answered = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        answer.starts_with(b"HTTP/1.1 ").then_some(())
    };
    timeout(TIMEOUT, answered).await.is_ok_and(|answer| answer.is_some())
}
