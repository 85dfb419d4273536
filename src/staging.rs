//! The gateway and the simulators of all three providers in one process: a place to try everything
//! without an account anywhere.
//!
//! Only in builds with the feature `staging`. It takes the road that a real deployment takes: a
//! configuration file, secrets in files, a ledger on disk, TLS to each provider with the
//! simulators' own certificate authority.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use simulators::{Config as SimulatorsConfig, Simulators};

use crate::app::{App, StartError};
use crate::config::{ConfigErrors, Settings};
use crate::telemetry::traces::Exporting;
use crate::telemetry::{self, TelemetryError};

/// What can be chosen on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct StagingOptions {
    /// Where the gateway listens; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Where the ledger and the configuration are kept; remove it to begin anew.
    #[arg(long, value_name = "FOLDER", default_value = ".recoup")]
    pub dir: PathBuf,
    /// Let the simulators take any free ports instead of 7100 to 7103 and 7111 to 7113.
    #[arg(long)]
    pub free_ports: bool,
}

/// Everything that runs.
pub struct Staging {
    app: App,
    simulators: Simulators,
    exporting: Exporting,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The folder cannot be used.
    #[error("cannot write {}: {source}", path.display())]
    Folder {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The simulators do not start.
    #[error("the simulators do not start: {0}")]
    Simulators(#[from] simulators::StartError),
    /// The configuration written here, with the environment over it, is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// No logs.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The gateway does not start.
    #[error(transparent)]
    Gateway(#[from] StartError),
}

/// The simulators' demo credentials, as the files that the configuration names.
const SECRETS: [(&str, &str); 3] = [
    ("sectigo-password", "demo-password"),
    ("namecom-token", "demo-token"),
    ("debitsuccess-password", "demo-password"),
];

impl Staging {
    /// Starts the simulators, writes a configuration for them, and starts the gateway on it.
    ///
    /// # Errors
    /// [`StagingError`]: one sentence each.
    pub async fn start(options: &StagingOptions) -> Result<Staging, StagingError> {
        let folder = |path: &Path| {
            let path = path.to_owned();
            move |source| StagingError::Folder { path, source }
        };
        std::fs::create_dir_all(&options.dir).map_err(folder(&options.dir))?;
        let ca_file = options.dir.join("sectigo-ca.pem");
        let ports = if options.free_ports { SimulatorsConfig::free_ports() } else { SimulatorsConfig::default() };
        let simulators = Simulators::start(SimulatorsConfig { ca_file: Some(ca_file.clone()), ..ports }).await?;
        for (name, secret) in SECRETS {
            let path = options.dir.join(name);
            write_private(&path, secret).map_err(folder(&path))?;
        }
        let config = options.dir.join("recoup.toml");
        write_private(&config, &configuration(options, &simulators, &ca_file)).map_err(folder(&config))?;
        let settings = Settings::from_process(Some(&config))?;
        let telemetry =
            telemetry::init(settings.log.format, &settings.log.filter, settings.traces_endpoint.as_deref())?;
        let app = App::start(settings).await?;
        Ok(Staging { app, simulators, exporting: telemetry.exporting })
    }

    /// What to do first.
    pub fn welcome(&self) -> String {
        let (gateway, control) = (self.app.addr(), self.simulators.control_addr());
        let refund = r#"{"refund_id":"first-refund","account":"sectigo","sectigo":{"order_number":"1000001","reason":"SECTIGO_REFUND_REASON_OTHER"}}"#;
        format!(
            "recoup is ready on {gateway}, with accounts sectigo, namecom and debitsuccess at simulators.\n\
             What the simulated providers really did: curl http://{control}/v1/books\n\
             \n\
             A first refund, with grpcurl:\n  \
             grpcurl -plaintext -d '{refund}' {gateway} recoup.v1.RefundService/CreateRefund\n\
             or with buf:\n  \
             buf curl --protocol grpc --http2-prior-knowledge -d '{refund}' http://{gateway}/recoup.v1.RefundService/CreateRefund\n\
             \n\
             Ctrl-C ends it."
        )
    }

    /// Where the gRPC port is.
    pub fn addr(&self) -> SocketAddr {
        self.app.addr()
    }

    /// Returns when the gateway has ended by itself: why, in a sentence.
    pub async fn ended(&mut self) -> String {
        self.app.ended().await
    }

    /// The gateway first, so that its last answers still find their providers.
    pub async fn stop(self) {
        self.app.stop().await;
        self.simulators.stop().await;
        self.exporting.end().await;
    }
}

fn configuration(options: &StagingOptions, simulators: &Simulators, ca_file: &Path) -> String {
    let path = |name: &str| toml::Value::String(options.dir.join(name).display().to_string());
    let ca_file = toml::Value::String(ca_file.display().to_string());
    format!(
        "# Written at every start of `recoup staging`.\n\
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

/// Readable by its owner alone, from its first moment.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
