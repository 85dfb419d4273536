//! Runs the gateway and simulators of all three providers in one process, to try everything without
//! a provider account.
//!
//! Only in builds with the feature `staging`. It is set up like a real deployment: a configuration
//! file, secrets in files, a ledger on disk, and TLS to each provider with the simulators' own
//! certificate authority.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use simulators::{Config as SimulatorsConfig, Simulators};

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
    /// Directory for the ledger and the configuration; remove it to start over.
    #[arg(long, value_name = "FOLDER", default_value = ".recoup")]
    pub dir: PathBuf,
    /// Let the simulators use any free ports instead of 7100 to 7103 and 7111 to 7113.
    #[arg(long)]
    pub free_ports: bool,
}

/// A running gateway with its simulators.
pub struct Staging {
    app: App,
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
        let config = options.dir.join("recoup.toml");
        write_private(&config, &configuration(options, &simulators, &ca_file)).map_err(write_error(&config))?;
        let settings = Settings::from_process(Some(&config))?;
        let telemetry = telemetry::init(&settings.telemetry)?;
        let app = App::start(settings).await?;
        Ok(Staging { app, simulators, exporter: telemetry.exporter })
    }

    /// The text to print after the start: how to send a first refund.
    pub fn welcome(&self) -> String {
        let (gateway, control) = (self.app.addr(), self.simulators.control_addr());
        let refund = r#"{"refund_id":"first-refund","account":"sectigo","sectigo":{"order_number":"1000001","reason":"SECTIGO_REFUND_REASON_OTHER"}}"#;
        format!(
            "recoup is ready on {gateway}, with simulated accounts sectigo, namecom and debitsuccess.\n\
             What the simulated providers did: curl http://{control}/v1/books\n\
             \n\
             A first refund, with grpcurl:\n  \
             grpcurl -plaintext -d '{refund}' {gateway} recoup.v1.RefundService/CreateRefund\n\
             or with buf:\n  \
             buf curl --protocol grpc --http2-prior-knowledge -d '{refund}' http://{gateway}/recoup.v1.RefundService/CreateRefund\n\
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
        ledger = path("recoup.db"),
        sectigo = simulators.sectigo_addr(),
        sectigo_password = path("sectigo-password"),
        namecom = simulators.namecom_addr(),
        namecom_token = path("namecom-token"),
        debitsuccess = simulators.debitsuccess_addr(),
        debitsuccess_password = path("debitsuccess-password"),
    )
}

/// Creates the file with mode 0600, so that it is never readable by others.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
