//! More connections than the gateway keeps: who loses one, and that new callers always get in.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::faults::Point;
use simulators::faults::gates::Gate;
use simulators::request::Provider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::process::Gateway;
use crate::support::{LIMIT, SECRETS, Stack, channel, configuration, sectigo, simulators_in};

/// Above all places of the gateway.
const SOURCES: u8 = 22;
const CONNECTIONS_EACH: usize = 60;
/// An HTTP/2 preface with empty settings: a connection that could call, and does not.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Connections from another address of this machine, each with these first bytes.
async fn connections(from: Ipv4Addr, to: SocketAddr, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let opened = (0..count).map(|_| async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        // It may have been closed already.
        let _sent = stream.write_all(first).await;
        stream
    });
    join_all(opened).await
}

/// Waits until the gateway has closed it.
async fn until_closed(stream: &mut TcpStream) {
    let closed = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(LIMIT, closed).await.unwrap();
}

/// Silent ones, and ones that could call: a call in progress is answered on its connection, and a
/// new caller gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_keep_no_caller_out() {
    let stack = Stack::start().await;
    let gate = stack.simulators.gate(Gate::new(Provider::Sectigo, Point::AfterEffect)).unwrap();
    let mut client = stack.refunds.clone();
    let call = tokio::spawn(async move { client.create_refund(sectigo("waits", "1000001")).await });
    gate.wait_for(1).await.unwrap();

    let mut many = Vec::new();
    for number in 1..=SOURCES {
        let first = if number % 2 == 0 { PREFACE } else { &[] };
        let from = Ipv4Addr::new(127, 0, 7, number);
        many.extend(connections(from, stack.app.addr(), CONNECTIONS_EACH, first).await);
        let mut newcomer = HealthClient::new(channel(stack.app.addr()).await);
        newcomer.check(HealthCheckRequest::default()).await.unwrap();
    }
    // The first were silent, and older than all others.
    until_closed(&mut many[0]).await;

    gate.release_all();
    let answered = call.await.unwrap().unwrap().into_inner().refund.unwrap();
    assert_eq!((answered.state(), stack.effects("1000001")), (State::Succeeded, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_too_many_connections_loses_its_own() {
    let stack = Stack::start().await;
    let mut other = connections(Ipv4Addr::new(127, 0, 8, 1), stack.app.addr(), 1, PREFACE).await;
    let mut own = connections(Ipv4Addr::new(127, 0, 8, 2), stack.app.addr(), 65, PREFACE).await;
    let mut closed = futures_util::stream::FuturesUnordered::new();
    closed.extend(own.iter_mut().map(until_closed));
    tokio::time::timeout(LIMIT, futures_util::StreamExt::next(&mut closed)).await.unwrap();
    drop(closed);
    // The server's settings, and no end after them.
    let mut bytes = [0; 9];
    other[0].read_exact(&mut bytes).await.unwrap();
    stack.refunds.clone().list_refunds(proto::ListRefundsRequest::default()).await.unwrap();
    while other[0].try_read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    assert_eq!(other[0].try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// Its core dumps would hold secrets, and callers must leave refunds enough files to open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_may_open_few_files_keeps_fewer_connections() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let path = dir.path().join("recoup.toml");
    std::fs::write(&path, configuration(&simulators, dir.path(), "")).unwrap();
    let mut serve = std::process::Command::new("sh");
    serve.args(["-c", "ulimit -n 512; exec \"$0\" serve --config \"$1\"", env!("CARGO_BIN_EXE_recoup")]).arg(&path);
    serve.envs(SECRETS);
    let log = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let lines = log.clone();
    let gateway = Gateway::launch(serve, move |line| lines.lock().unwrap().push_str(line)).unwrap();
    let log = log.lock().unwrap().clone();
    assert!(log.contains("the process may open too few files"), "{log}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");

    let mut many = Vec::new();
    for number in 1..=10 {
        many.extend(connections(Ipv4Addr::new(127, 0, 9, number), gateway.addr, CONNECTIONS_EACH, PREFACE).await);
    }
    until_closed(&mut many[0]).await;
    let mut refunds = proto::refund_service_client::RefundServiceClient::new(channel(gateway.addr).await);
    let refund = refunds.create_refund(sectigo("sent", "1000001")).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::Succeeded);
    assert!(gateway.terminate().success());
}
