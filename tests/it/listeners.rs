//! Listeners with certificates and unix sockets: who gets through the handshake, and that new
//! certificates cost no call.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use recoup::app::App;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use recoup::tls::{ClientTlsSettings, client_config};
use rstest::rstest;
use simulators::Simulators;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1;

use crate::support::process::{Gateway, run};
use crate::support::{LIMIT, SECRETS, configuration, reason, settings_of, simulators_in, wait_until};
use crate::telemetry::{scrape, value};

const CLIENT: &str = "spiffe://acme.example/shop";
const ACCESS: &str = "[callers.shop]\nscopes = [\"refunds:read\", \"events:read\"]\naccounts = [\"*\"]\n\
                      certificates = [{ spiffe = \"spiffe://acme.example/shop\" }]\n";

/// A day in which tests run.
fn today() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(recoup_now()).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "certificates are judged by the machine's clock")]
fn recoup_now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// An authority of a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key as PEM, for a time in days from now.
    fn issue(&self, name: &str, serial: u64, days: (i64, i64)) -> (String, String) {
        self.issue_for(name, serial, (today() + Duration::days(days.0), today() + Duration::days(days.1)))
    }

    fn issue_for(&self, name: &str, serial: u64, validity: (OffsetDateTime, OffsetDateTime)) -> (String, String) {
        let mut params = CertificateParams::default();
        let uri = |name: &str| rcgen::SanType::URI(name.try_into().unwrap());
        params.subject_alt_names = match name.parse() {
            Ok(address) => vec![rcgen::SanType::IpAddress(address)],
            Err(_) => vec![uri(name)],
        };
        params.serial_number = Some(SerialNumber::from(serial));
        (params.not_before, params.not_after) = validity;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn revoke(&self, serial: u64, days: (i64, i64)) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: today() - Duration::days(1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: today() + Duration::days(days.0),
            next_update: today() + Duration::days(days.1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Files of a gateway with a TLS port and a unix socket, and of its callers.
struct Setup {
    dir: TempDir,
    servers: Authority,
    clients: Authority,
    _simulators: Simulators,
    config: PathBuf,
    text: String,
}

const REVOKED: u64 = 66;
const MONTH: (i64, i64) = (-1, 30);

impl Setup {
    async fn new(listener: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let simulators = simulators_in(dir.path()).await;
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let listeners = format!(
            "access.file = \"{}\"\n[listeners.public]\naddress = \"127.0.0.1:0\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n{}\n\
             [listeners.local]\nunix = \"{}\"\n",
            path("access.toml"),
            path("tls.crt"),
            path("tls.key"),
            listener.replace("DIR", &dir.path().display().to_string()),
            path("recoup.sock")
        );
        let text = configuration(&simulators, dir.path(), "").replace("listen = \"127.0.0.1:0\"\n", "").replacen(
            "[accounts",
            &format!("{listeners}[accounts"),
            1,
        );
        let config = dir.path().join("recoup.toml");
        std::fs::write(&config, &text).unwrap();
        let setup = Self { dir, servers, clients, _simulators: simulators, config, text };
        setup.write("access.toml", ACCESS);
        setup.write("servers.pem", &setup.servers.pem);
        setup.write("clients.pem", &setup.clients.pem);
        setup.write("clients.crl", &setup.clients.revoke(REVOKED, (-2, 30)));
        setup.renew(1);
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Another certificate and key of the server.
    fn renew(&self, serial: u64) {
        let (certificate, key) = self.servers.issue("127.0.0.1", serial, MONTH);
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
    }

    /// What a client trusts, with a certificate of its own.
    fn client(&self, own: Option<(String, String)>) -> ClientTlsSettings {
        let certificate = own.map(|(certificate, key)| {
            self.write("own.pem", &certificate);
            self.write("own.key", &key);
            (self.path("own.pem"), self.path("own.key"))
        });
        let ca_file = Some(self.path("servers.pem"));
        ClientTlsSettings { ca_file, certificate, ..ClientTlsSettings::default() }
    }

    async fn start(&self) -> App {
        App::start(settings_of(&self.text, self.dir.path())).await.unwrap()
    }

    /// The real process, with its log.
    fn launch(&self) -> (Gateway, Arc<Mutex<Vec<String>>>) {
        let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_recoup"));
        serve.args(["serve", "--config"]).arg(&self.config).envs(SECRETS);
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let gateway = Gateway::launch(serve, move |line| lines.lock().unwrap().push(line.to_owned()));
        (gateway.unwrap_or_else(|log| panic!("{log:?}")), log)
    }
}

async fn channel(addr: SocketAddr, tls: &ClientTlsSettings) -> Result<Channel, String> {
    channel_by(addr, TlsConnector::from(Arc::new(client_config(tls).unwrap()))).await
}

async fn channel_by(addr: SocketAddr, connector: TlsConnector) -> Result<Channel, String> {
    let connect = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(addr.ip().into(), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect_with_connector(connect).await.map_err(|error| format!("{error:?}"))
}

/// One call on a connection of its own.
async fn check(addr: SocketAddr, tls: &ClientTlsSettings) -> Result<(), String> {
    let mut health = HealthClient::new(channel(addr, tls).await?);
    health.check(HealthCheckRequest::default()).await.map(drop).map_err(|status| format!("{status:?}"))
}

#[rstest]
#[case::valid("required", "clients", 2, MONTH, true)]
#[case::another_authority("required", "others", 2, MONTH, false)]
#[case::expired("required", "clients", 2, (-30, -1), false)]
#[case::not_yet_valid("required", "clients", 2, (1, 30), false)]
#[case::revoked("required", "clients", REVOKED, MONTH, false)]
#[case::none("required", "none", 2, MONTH, false)]
#[case::optional("optional", "none", 2, MONTH, true)]
#[case::optional_but_revoked("optional", "clients", REVOKED, MONTH, false)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_valid_certificate_of_a_client_authority_passes_the_handshake(
    #[case] needed: &str,
    #[case] authority: &str,
    #[case] serial: u64,
    #[case] days: (i64, i64),
    #[case] passes: bool,
) {
    let listener = format!(
        "client_ca_file = \"DIR/clients.pem\"\nclient_crl_file = \"DIR/clients.crl\"\nclient_certificates = \"{needed}\""
    );
    let setup = Setup::new(&listener).await;
    let app = setup.start().await;
    let own = match authority {
        "clients" => Some(setup.clients.issue(CLIENT, serial, days)),
        "others" => Some(Authority::new("clients").issue(CLIENT, serial, days)),
        _ => None,
    };
    let checked = check(app.addr(), &setup.client(own)).await;
    assert_eq!(checked.is_ok(), passes, "{checked:?}");
    app.stop().await;
}

/// A list that should have been replaced still revokes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_revocation_list_goes_on_counting() {
    let mut setup = Setup::new("client_ca_file = \"DIR/clients.pem\"\nclient_crl_file = \"DIR/clients.crl\"").await;
    setup.text = format!("metrics.listen = \"127.0.0.1:0\"\n{}", setup.text);
    setup.write("clients.crl", &setup.clients.revoke(REVOKED, (-10, -5)));
    let app = setup.start().await;
    check(app.addr(), &setup.client(Some(setup.clients.issue(CLIENT, 2, MONTH)))).await.unwrap();
    check(app.addr(), &setup.client(Some(setup.clients.issue(CLIENT, REVOKED, MONTH)))).await.unwrap_err();
    let text = scrape(app.metrics_addr().unwrap()).await;
    let of = |name: &str| value(&text, name, &[("listener", "public")]).unwrap();
    assert!((of("recoup_tls_certificate_remaining_seconds") / 86_400.0 - 30.0).abs() < 0.1);
    assert!((of("recoup_tls_crl_remaining_seconds") / 86_400.0 + 5.0).abs() < 0.1);
    assert_eq!(of("recoup_tls_certificate_outdated"), 0.0);
    // A client that was refused tries again.
    assert!(of("recoup_tls_handshakes_failed_total") >= 1.0);
    app.stop().await;
}

/// Connections that do not finish their handshake hold up no other, and neither does plaintext.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_hold_up_no_other() {
    let setup = Setup::new("").await;
    let app = setup.start().await;
    let mut slow = Vec::new();
    for number in 0..150 {
        let mut stream = TcpStream::connect(app.addr()).await.unwrap();
        // Nothing, the begin of a handshake, and no TLS.
        let first: &[u8] = [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\n"][number % 3];
        let _closed = stream.write_all(first).await;
        slow.push(stream);
    }
    for _ in 0..5 {
        tokio::time::timeout(LIMIT, check(app.addr(), &setup.client(None))).await.unwrap().unwrap();
    }
    app.stop().await;
}

/// New connections all the time, while certificate and key are replaced again and again.
#[rstest]
#[case::short(20, 4)]
#[ignore = "takes half a minute"]
#[case::during_a_hundred_reloads(100, 100)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_certificates_are_replaced(#[case] reloads: u64, #[case] calls_each: usize) {
    let setup = Setup::new("").await;
    let (gateway, log) = setup.launch();
    let (tls, addr) = (setup.client(None), gateway.addr);
    let (ends, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let calling = tokio::spawn({
        let (ends, calls) = (ends.clone(), calls.clone());
        async move {
            let connector = TlsConnector::from(Arc::new(client_config(&tls).unwrap()));
            let lasting = channel_by(addr, connector.clone()).await.unwrap();
            while !ends.load(Ordering::SeqCst) {
                for channel in [&lasting, &channel_by(addr, connector.clone()).await.unwrap()] {
                    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    let changes = || log.lock().unwrap().iter().filter(|line| line.contains("certificates changed")).count();
    for reload in 1..=reloads {
        let before = calls.load(Ordering::SeqCst);
        setup.renew(reload + 1);
        gateway.signal("HUP");
        // A certificate without its key is not taken; the next signal or ten seconds later is.
        wait_until(|| {
            changes() as u64 >= reload && calls.load(Ordering::SeqCst) >= before + calls_each || calling.is_finished()
        })
        .await;
    }
    ends.store(true, Ordering::SeqCst);
    calling.await.unwrap();
    let made = calls.load(Ordering::SeqCst);
    println!("{made} calls, half of them on new connections, during {reloads} reloads: 0 failed");
    assert!(changes() as u64 >= reloads);
    assert!(gateway.terminate().success());
}

/// Why a certificate is accepted no more while its connection is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Revoked,
    AuthorityRemoved,
    Expired,
}

/// Without a signal: the files are read every 10 s.
#[rstest]
#[case::revoked(Ending::Revoked)]
#[case::authority_removed(Ending::AuthorityRemoved)]
#[case::expired(Ending::Expired)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_accepted_no_more_is_refused_on_its_open_connection(#[case] ending: Ending) {
    let lists = if ending == Ending::Revoked { "client_crl_file = \"DIR/clients.crl\"" } else { "" };
    let setup = Setup::new(&format!("client_ca_file = \"DIR/clients.pem\"\n{lists}")).await;
    let others = Authority::new("others");
    let revoked = |serial| [setup.clients.revoke(serial, (-2, 30)), others.revoke(REVOKED, (-2, 30))].concat();
    setup.write("clients.crl", &revoked(REVOKED));
    setup.write("clients.pem", &[setup.clients.pem.as_str(), &others.pem].concat());
    let app = setup.start().await;

    let lifetime = if ending == Ending::Expired { Duration::seconds(6) } else { Duration::days(30) };
    let own = setup.clients.issue_for(CLIENT, 2, (today() - Duration::days(1), today() + lifetime));
    let lasting = RefundServiceClient::new(channel(app.addr(), &setup.client(Some(own))).await.unwrap());
    let other = setup.client(Some(others.issue(CLIENT, 2, MONTH)));
    let bystander = RefundServiceClient::new(channel(app.addr(), &other).await.unwrap());
    let list = |client: &RefundServiceClient<Channel>| {
        let mut client = client.clone();
        async move { client.list_refunds(proto::ListRefundsRequest::default()).await }
    };
    let follow = proto::StreamRefundEventsRequest::default;
    let mut events = lasting.clone().stream_refund_events(follow()).await.unwrap().into_inner();
    let mut others_events = bystander.clone().stream_refund_events(follow()).await.unwrap().into_inner();
    list(&lasting).await.unwrap();

    match ending {
        Ending::Revoked => setup.write("clients.crl", &revoked(2)),
        Ending::AuthorityRemoved => setup.write("clients.pem", &others.pem),
        Ending::Expired => {}
    }
    let began = tokio::time::Instant::now();
    let refused = async {
        loop {
            match list(&lasting).await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                Err(refused) => return refused,
            }
        }
    };
    let refused = tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    let end = tokio::time::timeout(LIMIT, events.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());

    list(&bystander).await.unwrap();
    let open = tokio::time::timeout(std::time::Duration::from_millis(100), others_events.message()).await;
    assert!(open.is_err(), "{open:?}");
    app.stop().await;
}

/// Who sees the services: the code of the answer, with a certificate and without one.
#[rstest]
#[case::off("off", Code::Unimplemented, Code::Unauthenticated)]
#[case::callers("callers", Code::Ok, Code::Unauthenticated)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_is_for_callers_or_off(#[case] reflection: &str, #[case] of_caller: Code, #[case] of_anybody: Code) {
    let listener = format!(
        "client_ca_file = \"DIR/clients.pem\"\nclient_certificates = \"optional\"\nreflection = \"{reflection}\""
    );
    let setup = Setup::new(&listener).await;
    let app = setup.start().await;
    for (own, expected) in [(Some(setup.clients.issue(CLIENT, 2, MONTH)), of_caller), (None, of_anybody)] {
        let ask = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let channel = channel(app.addr(), &setup.client(own)).await.unwrap();
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
        let code = match client.server_reflection_info(tokio_stream::once(ask)).await {
            Ok(answers) => match answers.into_inner().message().await {
                Ok(answer) => answer.map_or(Code::Unknown, |_| Code::Ok),
                Err(status) => status.code(),
            },
            Err(status) => status.code(),
        };
        assert_eq!(code, expected);
    }
    app.stop().await;
}

/// The metrics over TLS, with the certificate's own expiry among them; and nothing without TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_port_has_a_certificate_of_its_own() {
    let mut setup = Setup::new("").await;
    let (certificate, key) = setup.servers.issue("127.0.0.1", 3, MONTH);
    setup.write("metrics.crt", &certificate);
    setup.write("metrics.key", &key);
    let path = |name: &str| setup.path(name).display().to_string();
    setup.text = format!(
        "metrics.listen = \"127.0.0.1:0\"\nmetrics.certificate_file = \"{}\"\nmetrics.key_file = \"{}\"\n{}",
        path("metrics.crt"),
        path("metrics.key"),
        setup.text
    );
    let app = setup.start().await;
    let addr = app.metrics_addr().unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut tls = client_config(&setup.client(None)).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(addr).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(addr.ip().into(), stream).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let remaining = value(&answer, "recoup_tls_certificate_remaining_seconds", &[("listener", "metrics")]).unwrap();
    assert!((remaining / 86_400.0 - 30.0).abs() < 0.1);

    let mut plaintext = TcpStream::connect(addr).await.unwrap();
    plaintext.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // The port may reset the connection.
    let _end = plaintext.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    app.stop().await;
}

/// Each content is one WARN, however often it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cannot_be_used_change_nothing() {
    let setup = Setup::new("").await;
    let (gateway, log) = setup.launch();
    let tls = setup.client(None);
    let count = |text: &str| log.lock().unwrap().iter().filter(|line| line.contains(text)).count();
    let (foreign, _) = setup.servers.issue("127.0.0.1", 7, MONTH);
    let (expired, _) = setup.servers.issue("127.0.0.1", 8, (-30, -1));
    let broken = ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &foreign, &expired];
    for (number, content) in (1..).zip(broken) {
        setup.write("tls.crt", content);
        for reload in 1..=2 {
            gateway.signal("HUP");
            let reloads = 2 * (number - 1) + reload;
            wait_until(|| {
                count("configuration reloaded") >= reloads && count("could not use the new certificates") >= number
            })
            .await;
        }
        check(gateway.addr, &tls).await.unwrap();
        assert_eq!(count("could not use the new certificates"), number, "{content}");
    }
    std::fs::remove_file(setup.path("tls.crt")).unwrap();
    gateway.signal("HUP");
    wait_until(|| count("could not use the new certificates") == broken.len() + 1).await;
    check(gateway.addr, &tls).await.unwrap();
    setup.renew(9);
    gateway.signal("HUP");
    wait_until(|| count("certificates changed") == 1).await;
    check(gateway.addr, &tls).await.unwrap();
}

fn health(config: &Path) -> (bool, String) {
    let output = run(&["health", "--config", config.to_str().unwrap()]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unix_socket_is_its_users_alone_and_survives_a_kill() {
    let setup = Setup::new("").await;
    let (gateway, _) = setup.launch();
    let socket = setup.path("recoup.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (is_healthy, text) = health(&setup.config);
    assert!(is_healthy && text.contains("unix:"), "{text}");
    gateway.kill();
    assert!(socket.exists() && !health(&setup.config).0);

    let (gateway, _) = setup.launch();
    assert!(health(&setup.config).0);
    assert!(gateway.terminate().success());
    assert!(!socket.exists());
}

/// The probe of a gateway whose only listener has a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_asks_a_tls_port_by_the_certificate_of_the_configuration() {
    let setup = Setup::new("").await;
    let (gateway, _) = setup.launch();
    let only_tls = setup.text.replace("127.0.0.1:0\"\ncertificate", &format!("{}\"\ncertificate", gateway.addr));
    let begin = only_tls.find("[listeners.local]").unwrap();
    let end = begin + only_tls[begin..].find("[accounts").unwrap();
    let config = setup.path("tls-only.toml");
    std::fs::write(&config, format!("{}{}", &only_tls[..begin], &only_tls[end..])).unwrap();
    let (is_healthy, text) = health(&config);
    assert!(is_healthy && text.contains("https://"), "{text}");
    // Another certificate is not the gateway's.
    setup.renew(5);
    let (is_healthy, text) = health(&config);
    assert!(!is_healthy, "{text}");
}

/// Others could replace the access file or a key: no start.
#[tokio::test]
async fn files_that_others_may_write_keep_a_listener_from_starting() {
    let setup = Setup::new("").await;
    for name in ["recoup.toml", "access.toml", "tls.key"] {
        let path = setup.path(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let checked = run(&["check", "--config", setup.config.to_str().unwrap()]);
        let text = String::from_utf8(checked.stderr).unwrap();
        assert_eq!(checked.status.code(), Some(2), "{name}: {text}");
        assert!(text.contains("may be written by every user"), "{name}: {text}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(run(&["check", "--config", setup.config.to_str().unwrap()]).status.success());
}
