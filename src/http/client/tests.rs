use std::process::Command;

use rstest::rstest;

use super::*;
use crate::http::testing::scripted_server::{Script, ScriptedServer};

fn client(endpoint: &str, reuse_connections: bool) -> HttpClient {
    HttpClient::new(&HttpSettings {
        endpoint: &endpoint.parse().unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_millis(400),
        total_timeout: Duration::from_millis(800),
        reuse_connections,
    })
    .map_err(|error| error.to_string())
    .unwrap()
}

fn post() -> HttpRequest {
    HttpRequest {
        method: Method::POST,
        path: "/pay".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"amount=1"),
    }
}

/// One word for a table of expectations.
fn ending(outcome: &HttpOutcome) -> String {
    match outcome {
        HttpOutcome::Answered(answer) => format!("answered {} {}", answer.status, answer.body.len()),
        HttpOutcome::NotSent { .. } => "not_sent".to_owned(),
        HttpOutcome::Unknown { reason, .. } => reason.as_str().to_owned(),
    }
}

#[rstest]
#[case::whole(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0"), "answered 200 1")]
#[case::until_close(Script::Send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0"), "answered 200 1")]
#[case::chunked(
    Script::Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\n\r\n"),
    "answered 200 1"
)]
#[case::closed(Script::Close, "connection_lost")]
#[case::half_a_head(Script::Send("HTTP/1.1 200 OK\r\nContent-Le"), "connection_lost")]
#[case::half_a_body(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0"), "connection_lost")]
#[case::half_a_chunk(Script::Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0"), "connection_lost")]
#[case::not_http(Script::Send("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "connection_lost")]
#[case::silent(Script::Hang, "timeout")]
#[case::silent_within_the_body(Script::SendAndHold("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0"), "timeout")]
#[case::redirect(
    Script::Send("HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
    "answered 307 0"
)]
#[case::ten_mebibytes(Script::Flood { claim_length: true }, "unreadable_reply")]
#[case::ten_mebibytes_unannounced(Script::Flood { claim_length: false }, "unreadable_reply")]
#[case::compressed_is_left_alone(
    Script::Send("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab"),
    "answered 200 2"
)]
#[tokio::test]
async fn a_request_ends_in_every_possible_way(#[case] script: Script, #[case] expected: &str) {
    let server = ScriptedServer::start(script).await;
    let outcome = client(&server.endpoint(), false).send_once(post()).await;
    assert_eq!(ending(&outcome), expected, "{outcome:?}");
    assert_eq!(server.requests().len(), 1, "one request on the wire");
}

#[tokio::test]
async fn a_refused_connection_proves_that_nothing_left() {
    let endpoint = ScriptedServer::start(Script::Close).await.stopped().await;
    let outcome = client(&endpoint, false).send_once(post()).await;
    assert_eq!(ending(&outcome), "not_sent", "{outcome:?}");
}

#[rstest]
#[case::garbage(Script::Send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))]
#[case::closed(Script::Close)]
#[case::silent(Script::Hang)]
#[tokio::test]
async fn a_failed_tls_handshake_proves_that_nothing_left(#[case] script: Script) {
    let server = ScriptedServer::start_raw(script).await;
    let endpoint = server.endpoint().replace("http://", "https://");
    let outcome = HttpClient::new(&HttpSettings {
        endpoint: &endpoint.parse().unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_millis(200),
        total_timeout: Duration::from_secs(5),
        reuse_connections: true,
    })
    .map_err(|error| error.to_string())
    .unwrap()
    .send_once(post())
    .await;
    assert_eq!(ending(&outcome), "not_sent", "{outcome:?}");
}

#[tokio::test]
async fn an_unknown_host_proves_that_nothing_left() {
    // RFC 6761: "invalid" never resolves.
    let outcome = client("https://provider.invalid", false).send_once(post()).await;
    assert_eq!(ending(&outcome), "not_sent", "{outcome:?}");
}

#[rstest]
#[case(false, 3)]
#[case(true, 1)]
#[tokio::test]
async fn a_refund_request_uses_a_fresh_connection(#[case] reuse: bool, #[case] connections: usize) {
    let server = ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")).await;
    let client = client(&server.endpoint(), reuse);
    for _ in 0..3 {
        assert_eq!(ending(&client.send_once(post()).await), "answered 200 1");
    }
    assert_eq!(server.connections(), connections);
}

#[tokio::test]
async fn reads_share_a_connection() {
    let server = ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")).await;
    let client = client(&server.endpoint(), false);
    for _ in 0..3 {
        assert_eq!(ending(&client.read(post(), MAX_STATUS_REPLY_BYTES).await), "answered 200 1");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_read_is_bounded_by_the_readers_limit() {
    let server = ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0123")).await;
    let client = client(&server.endpoint(), false);
    assert_eq!(ending(&client.read(post(), 4).await), "answered 200 4");
    assert_eq!(ending(&client.read(post(), 3).await), "unreadable_reply");
}

/// Runs itself again in a process whose environment names a proxy, because the client library reads
/// the variables once per process.
#[test]
fn a_proxy_in_the_environment_is_ignored() {
    const MARKER: &str = "RECOUP_TEST_BEHIND_A_PROXY";
    #[expect(clippy::disallowed_methods, reason = "distinguishes the inner run from the outer one")]
    let inside = std::env::var_os(MARKER).is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if inside {
        runtime.block_on(async {
            let server = ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0")).await;
            let outcome = client(&server.endpoint(), false).send_once(post()).await;
            assert_eq!(ending(&outcome), "answered 200 1");
        });
        return;
    }
    let proxy = runtime.block_on(ScriptedServer::start(Script::Close));
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "http::client::tests::a_proxy_in_the_environment_is_ignored"]).env(MARKER, "1");
    for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        again.env(variable, proxy.endpoint());
    }
    again.env_remove("no_proxy").env_remove("NO_PROXY");
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(proxy.connections(), 0);
}

#[rstest]
#[case("https://api.name.com", "")]
#[case("http://127.0.0.1:7102", "")]
#[case("http://127.9.9.9:7102", "")]
#[case("http://[::1]:7102", "")]
#[case("http://localhost:7102", "")]
#[case("http://api.name.com", "endpoint http://api.name.com must be https: plain http is allowed to loopback only")]
#[case("http://localhost.example.com", "must be https")]
#[case("http://192.168.0.1", "must be https")]
#[case("ftp://127.0.0.1", "must be an https URL")]
#[case("https://demo:hunter2@api.name.com", "endpoint https://api.name.com must contain no user")]
#[case("https://api.name.com/core", "no path")]
#[case("https://api.name.com/?a=b", "no path, no query")]
fn credentials_go_only_to_https_or_loopback(#[case] endpoint: &str, #[case] refusal: &str) {
    let result = HttpClient::new(&HttpSettings {
        endpoint: &endpoint.parse().unwrap(),
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(60),
        reuse_connections: false,
    });
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(if refusal.is_empty() { message.is_empty() } else { message.contains(refusal) }, "{message}");
    assert!(!message.contains("hunter2"));
}

#[rstest]
#[case::absent(None, "No such file")]
#[case::empty(Some(""), "no PEM certificate")]
#[case::garbage(Some("hello"), "no PEM certificate")]
#[case::broken(Some("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), "")]
fn an_invalid_ca_file_is_named(#[case] content: Option<&str>, #[case] problem: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authorities.pem");
    if let Some(content) = content {
        fs::write(&path, content).unwrap();
    }
    let result = HttpClient::new(&HttpSettings {
        endpoint: &"https://127.0.0.1:1".parse().unwrap(),
        ca_file: Some(&path),
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(60),
        reuse_connections: false,
    });
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("authorities.pem") && message.contains(problem), "{message}");
}
