//! The simulators as a process of their own.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Parser;
use simulators::{Config, Simulators, config::CA_FILE_NAME};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Sectigo, name.com and Debitsuccess on this machine, wire for wire and with memory.
///
/// What one call does changes what the next one answers; every documented error arises from what is asked and what was done
/// before. The control port shows what really happened (the books) and what went over the wire (the journal), puts orders and
/// accounts, arms faults at exact points, and moves the clock. Everything is in memory and gone at the end.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Demo data, at every start:
  Sectigo       demo / demo-password    orders 1000001..1000999, 2000001..2000005, 3000001, 3000002
  name.com      demo-test / demo-token  orders 123456, 200001..200999, 300001..300003
  Debitsuccess  demo / demo-password    accounts DS000001..DS000999

A first refund:
  curl --cacert sectigo-ca.pem 'https://localhost:7101/products/!AutoRefund' \\
    -d loginName=demo -d loginPassword=demo-password -d orderNumber=1000001 -d refundReasonCode=11
  curl http://localhost:7100/v1/books

Every control call: curl http://localhost:7100/openapi.json, or simulators/README.md.
RUST_LOG=simulators=debug shows every request."
)]
struct Arguments {
    /// The control port: JSON, no password. Keep it on loopback
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7100")]
    control: SocketAddr,
    /// Sectigo over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7101")]
    sectigo: SocketAddr,
    /// Sectigo in plaintext, which answers -1 to everything
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7111")]
    sectigo_plaintext: SocketAddr,
    /// name.com
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7102")]
    namecom: SocketAddr,
    /// Debitsuccess
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7103")]
    debitsuccess: SocketAddr,
    /// Where to write the certificate that clients of the TLS port have to trust; made anew at every start
    #[arg(long, value_name = "FILE", default_value = CA_FILE_NAME)]
    ca_file: PathBuf,
    /// A further name or address for the TLS port's certificate, besides 127.0.0.1, ::1 and localhost; can be repeated
    #[arg(long = "tls-name", value_name = "NAME")]
    tls_names: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;

    let ca_file = arguments.ca_file.clone();
    let simulators = Simulators::start(arguments.into()).await?;
    // Whoever started us may not read what we say: that is no reason to stop.
    drop(announce(&simulators, &ca_file));

    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for Ctrl-C")?,
    }
    simulators.stop().await;
    Ok(())
}

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Config {
        Config {
            control: arguments.control,
            sectigo: arguments.sectigo,
            sectigo_plaintext: arguments.sectigo_plaintext,
            namecom: arguments.namecom,
            debitsuccess: arguments.debitsuccess,
            ca_file: Some(arguments.ca_file),
            tls_names: arguments.tls_names,
            ..Config::default()
        }
    }
}

fn announce(simulators: &Simulators, ca_file: &std::path::Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "control            http://{}", simulators.control_addr())?;
    writeln!(out, "Sectigo            https://{}  (trust {})", simulators.sectigo_addr(), ca_file.display())?;
    writeln!(out, "Sectigo plaintext  http://{}", simulators.sectigo_plaintext_addr())?;
    writeln!(out, "name.com           http://{}", simulators.namecom_addr())?;
    writeln!(out, "Debitsuccess       http://{}/DSWebService/DSServices.svc", simulators.debitsuccess_addr())?;
    writeln!(out, "ready")?;
    out.flush()
}
