//! What other ways in cost, on kept connections and in alternating turns: refunds created through
//! a listener with a certificate, by a caller with a token, beside the same on plaintext loopback;
//! and through the JSON endpoint beside gRPC, both with a token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use recoup::access::token::Token;
use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::Stage;
use crate::callers::{Gate, Way, saturate};
use crate::processes::{Gateway, free_address};
use crate::report::{Reach, Row, micros};

/// As many callers as a busy service has.
const CALLERS: usize = 16;

/// CPU per refund through TLS with a token, and through the JSON endpoint.
pub(crate) async fn beside_plaintext(stage: &mut Stage) -> Vec<Row> {
    let secured = Secured::start(stage).await;
    let (mut tls, mut plaintext, mut json, mut grpc) = (vec![], vec![], vec![], vec![]);
    for round in 0..=stage.extent.rounds {
        let mut turn = async |entrance: Entrance| {
            let requests = stage.targets.requests(&stage.providers, Way::Fresh, stage.extent.refunds).await;
            let refunds = requests.len();
            let gateway = if entrance == Entrance::Plaintext { &stage.small } else { &secured.gateway };
            let before = gateway.usage().cpu;
            match entrance {
                Entrance::Plaintext => stage.gate.create(requests, CALLERS).await,
                Entrance::Tls => secured.tls.create(requests, CALLERS).await,
                Entrance::Token => secured.plaintext.create(requests, CALLERS).await,
                Entrance::Json => secured.json.create(requests).await,
            };
            micros(gateway.usage().cpu - before) / refunds as f64
        };
        for (one, other, ones, others) in [
            (Entrance::Tls, Entrance::Plaintext, &mut tls, &mut plaintext),
            (Entrance::Json, Entrance::Token, &mut json, &mut grpc),
        ] {
            // In alternating order; the first round warms up.
            let (of_one, of_other) = if round % 2 == 0 {
                let of_one = turn(one).await;
                (of_one, turn(other).await)
            } else {
                let of_other = turn(other).await;
                (turn(one).await, of_other)
            };
            if round > 0 {
                ones.push(of_one);
                others.push(of_other);
            }
        }
    }
    let what = |way: &str| format!("CPU per refund, {CALLERS} callers, {way}");
    let rows = vec![
        Row::paired(what("TLS and a token"), "us", &tls, "plaintext loopback", &plaintext, Reach::AtMost(1.1)),
        Row::paired(what("JSON endpoint and a token"), "us", &json, "gRPC and a token", &grpc, Reach::AtMost(1.3)),
    ];
    secured.gateway.stop();
    rows
}

/// Where a turn's refunds come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// gRPC on loopback, where callers are not told apart.
    Plaintext,
    /// gRPC with TLS and a token.
    Tls,
    /// gRPC on loopback with a token.
    Token,
    /// The JSON endpoint on loopback with a token.
    Json,
}

/// Kept connections of HTTP/1.1 to the JSON endpoint, one for each caller.
struct JsonCallers {
    connections: Arc<Vec<Mutex<SendRequest<Full<Bytes>>>>>,
    address: SocketAddr,
    authorization: String,
}

impl JsonCallers {
    async fn open(address: SocketAddr, authorization: String) -> JsonCallers {
        let mut connections = Vec::new();
        for _ in 0..CALLERS {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            connections.push(Mutex::new(sender));
        }
        JsonCallers { connections: Arc::new(connections), address, authorization }
    }

    async fn create(&self, requests: Vec<proto::CreateRefundRequest>) -> Duration {
        let (connections, requests) = (self.connections.clone(), Arc::new(requests));
        let (host, authorization) = (self.address.to_string(), self.authorization.clone());
        saturate(requests.len(), CALLERS, move |caller, index| {
            let (connections, body) = (connections.clone(), json_of(&requests[index]));
            let request = Request::post("/recoup.v1.RefundService/CreateRefund")
                .header("host", &host)
                .header("authorization", &authorization)
                .header("content-type", "application/json")
                .body(Full::new(body))
                .unwrap();
            async move {
                let mut connection = connections[caller].lock().await;
                connection.ready().await.unwrap();
                let response = connection.send_request(request).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let answer: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(answer["refund"]["state"], "STATE_SUCCEEDED", "{answer}");
            }
        })
        .await
    }
}

/// A name.com refund in its JSON form.
fn json_of(request: &proto::CreateRefundRequest) -> Bytes {
    let Some(Target::Namecom(target)) = &request.target else { unreachable!("every turn is name.com's") };
    let items = &target.order_item_ids;
    let namecom = json!({"orderId": target.order_id, "orderItemIds": items});
    json!({"refundId": request.refund_id, "account": request.account, "namecom": namecom}).to_string().into()
}

/// A gateway with a certificate, the JSON endpoint and callers, and connections to it.
struct Secured {
    gateway: Gateway,
    tls: Gate,
    plaintext: Gate,
    json: JsonCallers,
}

impl Secured {
    async fn start(stage: &Stage) -> Secured {
        let folder = &stage.folder;
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let token = Token::generate().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            write_private(&path, text);
            path.display().to_string()
        };
        let certificate = write("tls.crt", &cert.pem());
        let key = write("tls.key", &signing_key.serialize_pem());
        let sha256 = token.hash().hex();
        let access = write(
            "access.toml",
            &format!(
                "[callers.bench]\nscopes = [\"refunds:create\", \"refunds:read\"]\naccounts = [\"*\"]\n\
                 tokens = [{{ id = \"bench\", sha256 = \"{sha256}\" }}]\n\
                 rate = {{ calls_per_second = 100000, burst = 100000, calls_at_once = 1000, waits = 1000 }}\n"
            ),
        );
        let (address, loopback, http) = (free_address(), free_address(), free_address());
        let settings = format!(
            "access.file = \"{access}\"\nhttp.listen = \"{http}\"\n\
             listeners.loopback.address = \"{loopback}\"\nlisteners.tls.address = \"{address}\"\n\
             listeners.tls.certificate_file = \"{certificate}\"\nlisteners.tls.key_file = \"{key}\"\n"
        );
        let (gateway, _) = Gateway::start_with(folder, "secured", &stage.providers, &settings, None).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connect = async || tls_channel(address, connector.clone()).await;
        let authorization = format!("Bearer {}", token.expose_secret());
        let header: MetadataValue<Ascii> = authorization.parse().unwrap();
        let tls = Gate::open_with(connect, Some(header.clone())).await;
        let connect = async || Channel::from_shared(format!("http://{loopback}")).unwrap().connect().await.unwrap();
        let plaintext = Gate::open_with(connect, Some(header)).await;
        let json = JsonCallers::open(http, authorization).await;
        Secured { gateway, tls, plaintext, json }
    }
}

async fn tls_channel(address: std::net::SocketAddr, connector: TlsConnector) -> Channel {
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    // The connector speaks TLS; the scheme says that the transport need not.
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap()
}

/// A file that others may not write, as the gateway demands.
fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
