//! The ports: TLS and plaintext, limits, masked secrets, start and stop.

use reqwest::Method;
use rstest::rstest;
use simulators::{Config, Ending, Provider, Simulators, StartError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{PROVIDERS, TestBench, client};

#[tokio::test]
async fn sectigo_answers_over_tls_for_every_name_of_its_certificate() {
    let bench = TestBench::start().await;
    let port = bench.simulators.sectigo_addr().port();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}/products/!AutoRefund");
        let response = bench.client.get(url).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(response.text().await.unwrap(), "-17\nRequest used GET rather than POST!");
    }
    assert!(bench.simulators.journal().iter().all(|entry| entry.tls));
}

#[rstest]
#[case(Method::GET, "/")]
#[case(Method::POST, "/products/!AutoRefund")]
#[case(Method::DELETE, "/products/!AutoReject")]
#[tokio::test]
async fn sectigos_plaintext_port_answers_minus_one_to_everything(#[case] method: Method, #[case] path: &str) {
    let bench = TestBench::start().await;
    let url = format!("http://{}{path}", bench.simulators.sectigo_plaintext_addr());
    let response = bench.client.request(method, url).body("loginName=demo").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "-1\nRequest was not made over HTTPS!");
}

#[tokio::test]
async fn a_refund_at_each_provider_is_answered_and_in_the_books() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        assert_eq!(bench.refund(provider).await.unwrap().0, 200, "{provider:?}");
    }
    let books: Vec<_> = bench
        .simulators
        .books()
        .into_iter()
        .map(|entry| (entry.id, entry.journal_id, entry.provider, entry.effect.kind, entry.effect.amount_minor))
        .collect();
    let refund = || "refund".to_owned();
    let expected = [
        (1, Some(1), Provider::Sectigo, refund(), Some(9900)),
        (2, Some(2), Provider::Namecom, refund(), Some(1299)),
        (3, Some(3), Provider::Debitsuccess, refund(), Some(1234)),
    ];
    assert_eq!(books, expected);
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let bench = TestBench::start().await;
    for provider in PROVIDERS {
        bench.refund(provider).await.unwrap();
    }
    let (_, journal) = bench.control(Method::GET, "/v1/journal", "").await;
    let mut shown = journal.to_string();
    for path in ["sectigo/accounts", "namecom/accounts", "debitsuccess/logins"] {
        shown += &bench.control(Method::GET, &format!("/v1/{path}"), "").await.1.to_string();
    }
    shown += &bench.simulators.with_world(|world| format!("{world:?}"));
    for secret in ["demo-password", "demo-token", "ZGVtby10ZXN0OmRlbW8tdG9rZW4", "somebody-elses-password"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    assert!(shown.contains("***"));
}

#[tokio::test]
async fn the_trap_is_marked_in_the_journal() {
    let bench = TestBench::start().await;
    let url = format!("https://{}/products/!AutoReject", bench.simulators.sectigo_addr());
    let form = [("loginName", "demo"), ("loginPassword", "demo-password"), ("orderNumber", "1000001")];
    assert_eq!(bench.client.post(url).form(&form).send().await.unwrap().text().await.unwrap(), "0");
    let entry = bench.simulators.journal().pop().unwrap();
    assert!(entry.destructive && !entry.moves_money);
    assert_eq!(entry.operation, "!AutoReject");
    assert_eq!(bench.simulators.books().pop().unwrap().effect.kind, "order_rejected");
}

#[tokio::test]
async fn a_connection_is_closed_after_a_request_with_connection_close() {
    let bench = TestBench::start().await;
    let mut stream = TcpStream::connect(bench.simulators.namecom_plaintext_addr()).await.unwrap();
    let request = b"GET /core/v1/orders/1 HTTP/1.1\r\nhost: x\r\n\r\nGET /core/v1/orders/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 401").count(), 2);
    let endings: Vec<_> =
        bench.simulators.journal().iter().map(|entry| (entry.connection, entry.ordinal, entry.ending)).collect();
    assert_eq!(endings, [(1, 1, Ending::KeptAlive), (1, 2, Ending::ClosedAfterAnswer)]);
}

#[rstest]
#[case::garbage(b"\x16\x03\x01garbage\r\n\r\n".to_vec(), "HTTP/1.1 400")]
#[case::large_declared(b"POST /core/v1/refund HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n".to_vec(), "HTTP/1.1 413")]
#[case::large_sent([b"POST /core/v1/refund HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n200000\r\n".to_vec(), vec![b'x'; 0x20_0000]].concat(), "HTTP/1.1 413")]
#[tokio::test]
async fn an_invalid_request_is_refused_and_the_next_one_is_served(#[case] sent: Vec<u8>, #[case] answer: &str) {
    let bench = TestBench::start().await;
    let stream = TcpStream::connect(bench.simulators.namecom_plaintext_addr()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    // The server may close the connection before it has read everything.
    let writing = tokio::spawn(async move { drop(writing.write_all(&sent).await) });
    let mut answered = vec![0; 12];
    reading.read_exact(&mut answered).await.unwrap();
    assert_eq!(String::from_utf8(answered).unwrap(), answer);
    writing.abort();
    assert_eq!(bench.refund(Provider::Namecom).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = Simulators::start(Config::free_ports()).await.unwrap();
    let config = Config { sectigo: first.sectigo_addr(), ..Config::free_ports() };
    let error = Simulators::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::Taken { .. }));
    let message = error.to_string();
    assert!(message.starts_with(&format!("port {} (--sectigo) is taken: ", first.sectigo_addr().port())), "{message}");
}

#[tokio::test]
async fn the_certificate_of_the_authority_is_written_to_the_given_path() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::free_ports().with_ca_in(directory.path());
    let path = config.ca_file.clone().unwrap();
    let simulators = Simulators::start(config).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), simulators.ca_pem());
    // The certificate and its key, and no partial file.
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    drop(simulators);
    let config = Config::free_ports().with_ca_in(directory.path());
    let again = Simulators::start(config).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), again.ca_pem());
}

#[tokio::test]
async fn stopped_simulators_free_their_ports_despite_an_idle_connection() {
    let bench = TestBench::start().await;
    let idle = client(&bench.simulators, 1);
    bench.refund_by(&idle, Provider::Sectigo).await.unwrap();
    let silent = TcpStream::connect(bench.simulators.namecom_plaintext_addr()).await.unwrap();
    let address = bench.simulators.sectigo_addr();
    bench.simulators.stop().await;
    let again = Simulators::start(Config { sectigo: address, ..Config::free_ports() }).await;
    assert!(again.is_ok(), "{again:?}");
    drop(silent);
}

#[tokio::test]
async fn each_provider_listens_over_tls_and_in_plaintext_with_one_authority() {
    let bench = TestBench::start().await;
    let simulators = &bench.simulators;
    let url = format!("http://{}/v1/ca.pem", simulators.control_addr());
    let answer = bench.client.get(url).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-pem-file");
    let ca = answer.text().await.unwrap();
    assert_eq!(ca, simulators.ca_pem());
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----") && !ca.contains("KEY"));
    let hello = async |origin: String| {
        let request = bench.client.get(format!("{origin}/core/v1/hello")).basic_auth("demo-test", Some("demo-token"));
        request.send().await.unwrap().text().await.unwrap()
    };
    for (secure, plain) in [
        (simulators.namecom_addr(), simulators.namecom_plaintext_addr()),
        (simulators.debitsuccess_addr(), simulators.debitsuccess_plaintext_addr()),
    ] {
        assert_eq!(
            hello(format!("https://{secure}")).await.is_empty(),
            hello(format!("http://{plain}")).await.is_empty()
        );
        // The TLS port does not answer plain HTTP.
        let request = bench.client.get(format!("http://{secure}/core/v1/hello"));
        assert!(request.send().await.is_err());
    }
    let tls: Vec<_> = simulators.journal().iter().map(|entry| (entry.provider, entry.tls)).collect();
    let (namecom, debitsuccess) = (Provider::Namecom, Provider::Debitsuccess);
    assert_eq!(tls, [(namecom, true), (namecom, false), (debitsuccess, true), (debitsuccess, false)]);
    assert!(hello(format!("https://{}", simulators.namecom_addr())).await.contains("demo-test"));
}

#[tokio::test]
async fn all_tls_ports_use_the_given_certificate() {
    let folder = tempfile::tempdir().unwrap();
    // Any certificate works; this one comes from the authority of other simulators.
    let first = Simulators::start(Config::free_ports().with_ca_in(folder.path())).await.unwrap();
    let (certificate, key) = (folder.path().join("sectigo-ca.pem"), folder.path().join("sectigo-ca.pem.key"));
    let config = Config {
        tls_certificate: Some(certificate.clone()),
        tls_key: Some(key.clone()),
        ca_file: Some(folder.path().join("never.pem")),
        ..Config::free_ports()
    };
    let given = Simulators::start(config).await.unwrap();
    let same = |pem: &str| pem.split_whitespace().collect::<String>();
    assert_eq!(same(given.ca_pem()), same(first.ca_pem()));
    assert!(!folder.path().join("never.pem").exists());
    let half = Config { tls_key: Some(key), ..Config::free_ports() };
    let refused = Simulators::start(half).await.unwrap_err().to_string();
    assert!(refused.contains("belong together"), "{refused}");
}
