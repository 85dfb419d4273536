//! What TLS and a token cost: refunds created through a listener with a certificate, by a caller
//! with a token, beside the same on plaintext loopback. Both on kept connections, in alternating
//! turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use recoup::access::token::Token;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::Stage;
use crate::callers::{Gate, Way};
use crate::processes::{Gateway, free_address};
use crate::report::{Reach, Row, micros};

/// As many callers as a busy service has.
const CALLERS: usize = 16;

/// CPU per refund through TLS with a token.
pub(crate) async fn beside_plaintext(stage: &mut Stage) -> Vec<Row> {
    let secured = Secured::start(stage).await;
    let (mut plain, mut with_tls, mut refunds) = (Duration::ZERO, Duration::ZERO, 0);
    for round in 0..=stage.extent.rounds {
        let mut turn = async |is_secured: bool| {
            let requests = stage.targets.requests(&stage.providers, Way::Fresh, stage.extent.refunds).await;
            let (gate, gateway) =
                if is_secured { (&secured.gate, &secured.gateway) } else { (&stage.gate, &stage.small) };
            let before = gateway.usage().cpu;
            gate.create(requests, CALLERS).await;
            gateway.usage().cpu - before
        };
        // In alternating order; the first round warms up.
        let first = round % 2 == 0;
        let (one, other) = (turn(first).await, turn(!first).await);
        if round > 0 {
            let (secured_cpu, plain_cpu) = if first { (one, other) } else { (other, one) };
            with_tls += secured_cpu;
            plain += plain_cpu;
            refunds += stage.extent.refunds;
        }
    }
    let each = |cpu: Duration| micros(cpu) / refunds as f64;
    let what = format!("CPU per refund, {CALLERS} callers, TLS and a token");
    let row = Row::paired(what, "us", &[each(with_tls)], "plaintext loopback", &[each(plain)], Reach::AtMost(1.1));
    secured.gateway.stop();
    vec![row]
}

/// A gateway with a certificate and callers, and connections to it.
struct Secured {
    gateway: Gateway,
    gate: Gate,
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
        let address = free_address();
        let settings = format!(
            "access.file = \"{access}\"\nlisteners.tls.address = \"{address}\"\n\
             listeners.tls.certificate_file = \"{certificate}\"\nlisteners.tls.key_file = \"{key}\"\n"
        );
        let (gateway, _) = Gateway::start_with(folder, "secured", &stage.providers, &settings, None).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connect = async || tls_channel(address, connector.clone()).await;
        let gate = Gate::open_with(connect, Some(format!("Bearer {}", token.expose_secret()).parse().unwrap())).await;
        Secured { gateway, gate }
    }
}

async fn tls_channel(address: std::net::SocketAddr, connector: TlsConnector) -> Channel {
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(hyper_util::rt::TokioIo::new)
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
