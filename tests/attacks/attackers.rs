//! The attackers: each a child process of this test at nice 19, which attacks until it is killed.
//! Counts go to its output, a line each time they change.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::iter::Sum;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::tls::{ClientTlsSettings, client_config};
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use crate::bystander::ShownToken;
use crate::callers;
use crate::floods;
use crate::frames::{self, DATA, END_HEADERS, HEADERS, call, call_headers, connect, frame};

/// The argument that makes this binary an attacker.
pub(crate) const MODE: &str = "--attacker";

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const WAIT: &str = "/recoup.v1.RefundService/WaitRefund";
const CREATE: &str = "/recoup.v1.RefundService/CreateRefund";
const LIST: &str = "/recoup.v1.RefundService/ListRefunds";
/// Calls of one connection, below what the server allows.
const STREAMS: usize = 64;

/// A running attacker; killed when dropped.
pub(crate) struct Attacker {
    child: Child,
    counts: Arc<Mutex<AttackCounts>>,
}

/// What an attacker has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AttackCounts {
    /// Connections or calls.
    pub(crate) made: usize,
    /// Of these, what the gateway has ended or refused.
    pub(crate) ended: usize,
    /// Of these, refusals without the reason that they should have.
    pub(crate) odd: usize,
}

impl Attacker {
    pub(crate) fn start(name: &str, address: SocketAddr, size: usize, token: &str) -> Attacker {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().unwrap());
        command.args([MODE, name, &address.to_string(), &size.to_string(), token]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let counts = Arc::new(Mutex::new(AttackCounts::default()));
        let shared = counts.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let numbers: Vec<usize> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
                if let [made, ended, odd] = numbers[..] {
                    *shared.lock().unwrap() = AttackCounts { made, ended, odd };
                }
            }
        });
        Attacker { child, counts }
    }

    pub(crate) fn counts(&self) -> AttackCounts {
        *self.counts.lock().unwrap()
    }
}

impl Sum for AttackCounts {
    fn sum<I: Iterator<Item = AttackCounts>>(all: I) -> AttackCounts {
        all.fold(AttackCounts::default(), |sum, next| AttackCounts {
            made: sum.made + next.made,
            ended: sum.ended + next.ended,
            odd: sum.odd + next.odd,
        })
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an attacker has opened, and what the gateway has ended of it.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) made: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    pub(crate) odd: AtomicUsize,
}

/// One of the attackers' addresses: as many as it takes to have at most 50 connections each.
pub(crate) fn source(number: usize) -> Ipv4Addr {
    let source = u16::try_from(number / 50 % 60_000).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 1, source[0], source[1].max(1))
}

/// Attacks until the process is killed.
pub(crate) async fn run(name: &str, to: SocketAddr, size: usize, token: &str) {
    let counts = Arc::new(Counts::default());
    let reported = counts.clone();
    tokio::spawn(async move {
        loop {
            let [made, ended, odd] =
                [&reported.made, &reported.ended, &reported.odd].map(|count| count.load(Ordering::Relaxed));
            println!("{made} {ended} {odd}");
            sleep(Duration::from_millis(100)).await;
        }
    });
    match name {
        "unfinished_messages" => each(size, |number| unfinished_messages(number, to, counts.clone())).await,
        "unread_lists" => each(size, |number| unread_lists(number, to, counts.clone())).await,
        "idle_connections" => each(size, |number| idle_connection(number, to, counts.clone())).await,
        "silent_connections" => each(size, |number| silent_connection(number, to, counts.clone())).await,
        "half_open_handshakes" => {
            let hello = client_hello(to);
            each(size, |number| half_open_handshake(number, to, hello.clone(), counts.clone())).await;
        }
        "waits" | "headers_only" | "creates" => {
            each(size.div_ceil(STREAMS), |number| calls_that_wait(name.to_owned(), number, to, counts.clone())).await;
        }
        name if callers::ATTACKS.contains(&name) => {
            let token = ShownToken::new(token);
            each(size, |number| callers::run(name.to_owned(), number, to, token.clone(), counts.clone())).await;
        }
        flood => each(size, |number| floods::run(flood.to_owned(), source(number * 50), to, counts.clone())).await,
    }
    std::future::pending::<()>().await;
}

/// Runs as many attacks side by side, a few begun at a time.
async fn each<F: Future<Output = ()> + Send + 'static>(size: usize, attack: impl Fn(usize) -> F) {
    for number in 0..size {
        tokio::spawn(attack(number));
        if number % 50 == 49 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// 200 messages that say they have 4 MiB, sent until the gateway ends the stream.
async fn unfinished_messages(number: usize, to: SocketAddr, counts: Arc<Counts>) {
    let Ok((mut reader, mut writer)) = connect(source(number), to, None).await else { return };
    let all = counts.clone();
    let reading = tokio::spawn(async move {
        let mut ended = HashSet::new();
        while let Ok(frame) = reader.next().await {
            if frame.ends_stream() && ended.insert(frame.stream) {
                all.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        ended.len()
    });
    let path = if number.is_multiple_of(2) { HEALTH } else { REFLECTION };
    let mut begin = vec![0, 0, 64, 0, 0];
    begin.extend([b'x'; 1024]);
    let mut made = 0_usize;
    for stream in (1..400).step_by(2) {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
        bytes.extend(frame(DATA, 0, stream, &begin));
        if writer.write(&bytes).await.is_err() {
            break;
        }
        made += 1;
        counts.made.fetch_add(1, Ordering::Relaxed);
    }
    for stream in (1..400).step_by(2).cycle() {
        if writer.write(&frame(DATA, 0, stream, &[b'x'; 1024])).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    // With its connection, each of its streams has ended.
    let ended = reading.await.unwrap_or_default();
    counts.ended.fetch_add(made.saturating_sub(ended), Ordering::Relaxed);
}

/// 100 lists whose answers are not taken; PINGs are answered.
async fn unread_lists(number: usize, to: SocketAddr, counts: Arc<Counts>) {
    // Some take nothing at all, some have room for a single byte or for the beginning.
    let window = [0, 1, 16_384, 65_535][number % 4];
    let Ok((mut reader, mut writer)) = connect(source(number), to, Some(window)).await else { return };
    let list = proto::ListRefundsRequest { page_size: 1_000, ..Default::default() };
    let mut made = 0;
    for stream in (1..200).step_by(2) {
        if writer.write(&call(stream, LIST, &list)).await.is_err() {
            break;
        }
        made += 1;
        counts.made.fetch_add(1, Ordering::Relaxed);
    }
    let mut ended = HashSet::new();
    while let Ok(frame) = reader.next().await {
        if frame.ends_stream() && ended.insert(frame.stream) {
            counts.ended.fetch_add(1, Ordering::Relaxed);
        }
        let _ = writer.keep_alive(&frame).await;
    }
    counts.ended.fetch_add(made - ended.len(), Ordering::Relaxed);
}

/// Answers PINGs, and does nothing else.
async fn idle_connection(number: usize, to: SocketAddr, counts: Arc<Counts>) {
    let Ok((mut reader, mut writer)) = connect(source(number), to, None).await else { return };
    counts.made.fetch_add(1, Ordering::Relaxed);
    while let Ok(frame) = reader.next().await {
        let _ = writer.keep_alive(&frame).await;
    }
    counts.ended.fetch_add(1, Ordering::Relaxed);
}

/// Sends nothing, and comes back as soon as it is closed.
async fn silent_connection(number: usize, to: SocketAddr, counts: Arc<Counts>) {
    loop {
        if let Ok(mut stream) = frames::connect_silently(source(number), to).await {
            counts.made.fetch_add(1, Ordering::Relaxed);
            let mut bytes = [0; 64];
            while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            counts.ended.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Begins a TLS handshake and goes no further: a ClientHello, or the begin of one. It comes back
/// five seconds after it is closed.
async fn half_open_handshake(number: usize, to: SocketAddr, hello: Arc<[u8]>, counts: Arc<Counts>) {
    let begin = if number.is_multiple_of(2) { &hello[..] } else { &hello[..hello.len() / 2] };
    loop {
        if let Ok(mut stream) = frames::connect_silently(source(number), to).await {
            counts.made.fetch_add(1, Ordering::Relaxed);
            let mut bytes = [0; 64];
            if stream.write_all(begin).await.is_ok() {
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            }
            counts.ended.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_secs(5)).await;
    }
}

/// The first message of a TLS client.
fn client_hello(to: SocketAddr) -> Arc<[u8]> {
    let config = Arc::new(client_config(&ClientTlsSettings::default()).unwrap());
    let mut client = ClientConnection::new(config, to.ip().into()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello.into()
}

/// Calls that wait as long as the gateway lets them, and are made again.
async fn calls_that_wait(name: String, number: usize, to: SocketAddr, counts: Arc<Counts>) {
    let Ok((mut reader, mut writer)) = connect(source(number * 10), to, None).await else { return };
    let mut ended = HashSet::new();
    let mut next = 1;
    let mut open = 0;
    loop {
        while open < STREAMS {
            let id = format!("attack-{number}-{next}");
            let bytes = match name.as_str() {
                "waits" => {
                    let name = "refunds/silent".to_owned();
                    call(next, WAIT, &proto::WaitRefundRequest { name, after_revision: 1_000, ..Default::default() })
                }
                "creates" => call(next, CREATE, &crate::stack::debitsuccess(&id)),
                _ => frame(HEADERS, END_HEADERS, next, &call_headers(CREATE)),
            };
            if writer.write(&bytes).await.is_err() {
                return;
            }
            counts.made.fetch_add(1, Ordering::Relaxed);
            next += 2;
            open += 1;
        }
        let Ok(frame) = reader.next().await else { return };
        if frame.ends_stream() && ended.insert(frame.stream) {
            counts.ended.fetch_add(1, Ordering::Relaxed);
            open -= 1;
        }
        let _ = writer.keep_alive(&frame).await;
    }
}
