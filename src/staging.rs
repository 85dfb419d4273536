//! Runs the gateway and simulators of all three providers in one process, to try everything without
//! a provider account.
//!
//! Only in builds with the feature `staging`. It is set up like a real deployment: a configuration
//! file, secrets in files, a ledger on disk, TLS to each provider with the simulators' own
//! certificate authority, and an access file with one caller, whose token is kept. The gateway
//! listens in plaintext, with TLS, and with the JSON endpoint.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use secrecy::ExposeSecret as _;
use simulators::{Config as SimulatorsConfig, Simulators};

use crate::access::scope::Scope;
use crate::access::token::{Token, TokenError};
use crate::api::ListenerSettings;
use crate::app::{App, StartError};
use crate::config::{ConfigErrors, Settings};
use crate::telemetry::traces::TraceExporter;
use crate::telemetry::{self, TelemetryError};

/// Options of `recoup staging`.
#[derive(Debug, Clone, clap::Args)]
pub struct StagingOptions {
    /// Address of the gateway; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of the gateway with TLS, whose certificate is for localhost.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub tls: SocketAddr,
    /// Address of the JSON endpoint; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Directory for the ledger and the configuration; remove it to start over.
    #[arg(long, value_name = "FOLDER", default_value = ".recoup")]
    pub dir: PathBuf,
    /// Let the simulators use any free ports instead of 7100 to 7103 and 7111 to 7113. The ports of
    /// the gateway are named above; 0 is any free one.
    #[arg(long)]
    pub free_ports: bool,
}

/// A running gateway with its simulators.
pub struct Staging {
    app: App,
    dir: PathBuf,
    simulators: Simulators,
    exporter: TraceExporter,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file or directory cannot be written.
    #[error("could not write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// There is no certificate for the gateway's port with TLS.
    #[error("could not make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// There is no token for the caller.
    #[error("could not make a token: {0}")]
    Token(#[from] TokenError),
    /// The simulators do not start.
    #[error("could not start the simulators: {0}")]
    Simulators(#[from] simulators::StartError),
    /// The generated configuration, overridden by the environment, has errors.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Logs or traces cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The gateway does not start.
    #[error(transparent)]
    Gateway(#[from] StartError),
}

const TOKEN_FILE: &str = "token";
const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "server.pem";
const KEY_FILE: &str = "server.key";

/// The simulators' demo credentials, by the file that the configuration names.
const SECRETS: [(&str, &str); 3] = [
    ("sectigo-password", "demo-password"),
    ("namecom-token", "demo-token"),
    ("debitsuccess-password", "demo-password"),
];

impl Staging {
    /// Starts the simulators, writes a configuration for them, and starts the gateway on it.
    ///
    /// # Errors
    /// [`StagingError`]
    pub async fn start(options: &StagingOptions) -> Result<Staging, StagingError> {
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| StagingError::Write { path, source }
        };
        std::fs::create_dir_all(&options.dir).map_err(write_error(&options.dir))?;
        let ca_file = options.dir.join("sectigo-ca.pem");
        let ports = if options.free_ports { SimulatorsConfig::free_ports() } else { SimulatorsConfig::default() };
        let simulators = Simulators::start(SimulatorsConfig { ca_file: Some(ca_file.clone()), ..ports }).await?;
        for (name, secret) in SECRETS {
            let path = options.dir.join(name);
            write_private(&path, secret).map_err(write_error(&path))?;
        }
        for (name, text) in PortCertificate::make()?.files() {
            let path = options.dir.join(name);
            write_private(&path, &text).map_err(write_error(&path))?;
        }
        let token = options.dir.join(TOKEN_FILE);
        let hash = kept_token(&token)?.map_err(write_error(&token))?;
        let access = options.dir.join("access.toml");
        write_private(&access, &access_file(&hash)).map_err(write_error(&access))?;
        let config = options.dir.join("recoup.toml");
        write_private(&config, &configuration(options, &simulators, &ca_file)).map_err(write_error(&config))?;
        let settings = Settings::from_process(Some(&config))?;
        let telemetry = telemetry::init(&settings.telemetry)?;
        let app = App::start(settings).await?;
        Ok(Staging { app, dir: options.dir.clone(), simulators, exporter: telemetry.exporter })
    }

    /// The text to print after the start: how to send a first refund.
    pub fn welcome(&self) -> String {
        let (gateway, control) = (self.app.addr(), self.simulators.control_addr());
        let port = |name| self.app.listener_addr(name).map_or(0, |address| address.port());
        let (tls, http) = (port("tls"), port(ListenerSettings::HTTP));
        let (token, ca) = (self.dir.join(TOKEN_FILE), self.dir.join(CA_FILE));
        let (token, ca) = (token.display(), ca.display());
        let refund = r#"{"refund_id":"first-refund","account":"sectigo","sectigo":{"order_number":"1000001","reason":"SECTIGO_REFUND_REASON_OTHER"}}"#;
        let bearer = format!("authorization: Bearer $(cat {token})");
        format!(
            "recoup is ready on {gateway}, with simulated accounts sectigo, namecom and debitsuccess.\n\
             token: {token}\n\
             with TLS: localhost:{tls}, CA: {ca}\n\
             JSON endpoint: http://127.0.0.1:{http}\n\
             What the simulated providers did: curl http://{control}/v1/books\n\
             \n\
             A first refund, with curl:\n  \
             curl -H \"{bearer}\" -H 'content-type: application/json' -d '{refund}' \
             http://127.0.0.1:{http}/recoup.v1.RefundService/CreateRefund\n\
             with grpcurl:\n  \
             grpcurl -plaintext -H \"{bearer}\" -d '{refund}' {gateway} recoup.v1.RefundService/CreateRefund\n\
             or with buf:\n  \
             buf curl --protocol grpc --http2-prior-knowledge -H \"{bearer}\" -d '{refund}' \
             http://{gateway}/recoup.v1.RefundService/CreateRefund\n\
             \n\
             Press Ctrl-C to stop."
        )
    }

    /// The address of the gRPC server.
    pub fn addr(&self) -> SocketAddr {
        self.app.addr()
    }

    /// [`App::wait`]
    pub async fn wait(&mut self) -> String {
        self.app.wait().await
    }

    /// Stops the gateway before the simulators, so that its last requests still get answers.
    pub async fn stop(self) {
        self.app.stop().await;
        self.simulators.stop().await;
        self.exporter.shutdown().await;
    }
}

fn configuration(options: &StagingOptions, simulators: &Simulators, ca_file: &Path) -> String {
    let path = |name: &str| toml::Value::String(options.dir.join(name).display().to_string());
    let ca_file = toml::Value::String(ca_file.display().to_string());
    format!(
        "# Generated at every start of `recoup staging`.\n\
         listen = \"{listen}\"\n\
         ledger.path = {ledger}\n\
         \n\
         [listeners.tls]\n\
         address = \"{tls}\"\n\
         certificate_file = {certificate}\n\
         key_file = {key}\n\
         reflection = \"callers\"\n\
         \n\
         [http]\n\
         listen = \"{http}\"\n\
         \n\
         [access]\n\
         file = {access}\n\
         \n\
         [accounts.sectigo]\n\
         provider = \"sectigo\"\n\
         endpoint = \"https://{sectigo}\"\n\
         ca_file = {ca_file}\n\
         login_name = \"demo\"\n\
         login_password_file = {sectigo_password}\n\
         \n\
         [accounts.namecom]\n\
         provider = \"namecom\"\n\
         endpoint = \"https://{namecom}\"\n\
         ca_file = {ca_file}\n\
         username = \"demo-test\"\n\
         token_file = {namecom_token}\n\
         \n\
         [accounts.debitsuccess]\n\
         provider = \"debitsuccess\"\n\
         endpoint = \"https://{debitsuccess}\"\n\
         ca_file = {ca_file}\n\
         currency = \"AUD\"\n\
         username = \"demo\"\n\
         password_file = {debitsuccess_password}\n",
        listen = options.listen,
        tls = options.tls,
        http = options.http,
        certificate = path(CERTIFICATE_FILE),
        key = path(KEY_FILE),
        access = path("access.toml"),
        ledger = path("recoup.db"),
        sectigo = simulators.sectigo_addr(),
        sectigo_password = path("sectigo-password"),
        namecom = simulators.namecom_addr(),
        namecom_token = path("namecom-token"),
        debitsuccess = simulators.debitsuccess_addr(),
        debitsuccess_password = path("debitsuccess-password"),
    )
}

/// The certificate of the port with TLS. The key of its authority is thrown away, so that nothing
/// else can be signed with it.
struct PortCertificate {
    ca: String,
    certificate: String,
    key: String,
}

impl PortCertificate {
    fn make() -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "recoup staging CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let ca = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        Ok(Self { ca, certificate, key: key.serialize_pem() })
    }

    fn files(self) -> [(&'static str, String); 3] {
        [(CA_FILE, self.ca), (CERTIFICATE_FILE, self.certificate), (KEY_FILE, self.key)]
    }
}

/// The hash of the token in the file, which is made if there is none.
fn kept_token(path: &Path) -> Result<std::io::Result<String>, TokenError> {
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(token) = Token::parse(text.trim())
    {
        return Ok(Ok(token.hash().hex()));
    }
    let token = Token::generate()?;
    Ok(write_private(path, token.expose_secret()).map(|()| token.hash().hex()))
}

/// One caller, who may do everything.
fn access_file(hash: &str) -> String {
    let scopes = Scope::ALL.map(|scope| format!("\"{scope}\"")).join(", ");
    format!(
        "# Generated at every start of `recoup staging`.\n\
         [callers.staging]\n\
         scopes = [{scopes}]\n\
         accounts = [\"*\"]\n\
         tokens = [{{ id = \"staging\", sha256 = \"{hash}\" }}]\n"
    )
}

/// Creates the file with mode 0600, so that it is never readable by others.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
