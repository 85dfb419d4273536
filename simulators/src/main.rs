//! The simulators as a process. Flags win over a file, which wins over defaults. The process runs
//! until a signal. `--health` checks a running process instead.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, error::ErrorKind};
use mimalloc::MiMalloc;
use simulators::{
    Config, Provider, Simulators,
    config::{CA_FILE_NAME, PortFlags},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A request makes many small allocations on two threads, for which the system's allocator is slow.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The number of threads that answer requests. Two keep one slow request from delaying the next.
/// More would cost memory without a use: the simulators are rarely the bottleneck.
const WORKERS: usize = 2;

const LONG_ABOUT: &str = "\
Sectigo, name.com and Debitsuccess emulated on this machine, with state: for tests and staging without an account.

Each call changes what the next one answers, and every documented error follows from the request and the state.
A control port for scripts and people shows what really happened (the books) and every request (the journal),
creates separate worlds for parallel tests, arms faults at exact points, audits, and moves the clock. All state is in
memory and lost when the process ends.";

const AFTER_HELP: &str = "\
Examples:
  simulators                                     the ports above, and a page for people on http://127.0.0.1:7100/
  simulators --config simulators.toml --seed 7   settings from a file, another seed
  simulators --world-file world.json             start as a saved world: curl localhost:7100/v1/worlds/demo/snapshot >world.json
  simulators --control 127.0.0.1:0 --sectigo 127.0.0.1:0 --sectigo-plaintext 127.0.0.1:0 --namecom 127.0.0.1:0 \\
    --namecom-plaintext 127.0.0.1:0 --debitsuccess 127.0.0.1:0 --debitsuccess-plaintext 127.0.0.1:0
                                                 any free ports: the lines before `ready` show which

A configuration file has a key for each flag (control, sectigo, sectigo_plaintext, namecom,
namecom_plaintext, debitsuccess, debitsuccess_plaintext, ca_file, tls_certificate, tls_key, tls_names, control_hosts, seed,
world_file) and the settings for what the providers' documentation leaves open:
  namecom = \"127.0.0.1:8102\"
  [settings.sectigo]
  refund_period_days = 14

Demo data, at every start:
  Sectigo       demo / demo-password    orders 1000001..1000999, 2000001..2000005, 3000001, 3000002
  name.com      demo-test / demo-token  orders 123456, 200001..200999, 300001..300003
  Debitsuccess  demo / demo-password    accounts DS000001..DS000999

A first refund, and what really happened:
  curl --cacert sectigo-ca.pem 'https://localhost:7101/products/!AutoRefund' \\
    -d loginName=demo -d loginPassword=demo-password -d orderNumber=1000001 -d refundReasonCode=11
  curl http://localhost:7100/v1/books

The same, but the answer is lost after the money has moved:
  curl http://localhost:7100/v1/faults -d '{\"provider\":\"sectigo\",\"target\":\"1000002\",\"point\":\"after_effect\",\"effect\":\"close\"}'

It prints one line per port, then `ready`. SIGTERM and Ctrl-C end it.
Exit status: 0 ended by a signal; 1 could not start (the last line on stderr says why); 2 invalid command line.
With --health: 0 the simulators at that control port answer; 1 they do not.
RUST_LOG=simulators=debug shows every request on stderr. Every control call: http://localhost:7100/openapi.json, simulators/README.md.";

/// Sectigo, name.com and Debitsuccess emulated on this machine, with state: for tests and staging
/// without an account
#[derive(Debug, Parser)]
#[command(version, long_about = LONG_ABOUT, after_long_help = AFTER_HELP, max_term_width = 120)]
struct Arguments {
    /// A TOML file with any of the following options, and the settings; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start nothing: check whether the simulators at the control port answer, and exit
    #[arg(long)]
    health: bool,
    /// The seed of generated credentials, GUIDs and random faults: the same seed and calls give the
    /// same results [default: 0]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// A snapshot of a world, JSON, to start with instead of the demo data
    #[arg(long, value_name = "FILE")]
    world_file: Option<PathBuf>,
    /// The control port: JSON and a page for people, no password. Keep it on loopback
    /// [default: 127.0.0.1:7100]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    control: Option<SocketAddr>,
    /// A further name that requests to the control port may have in `Host`, besides those of
    /// loopback; can be repeated
    #[arg(long = "control-host", value_name = "NAME", help_heading = "Ports (0 takes any free one)")]
    control_hosts: Vec<String>,
    #[command(flatten)]
    ports: PortFlags,
    /// The file with the authority that clients of the TLS ports have to trust; its key is in
    /// FILE.key. Reused if it exists, else created [default: sectigo-ca.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    ca_file: Option<PathBuf>,
    /// A certificate for the TLS ports, PEM, followed by its chain, instead of one issued by that
    /// authority; needs --tls-key
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_key: Option<PathBuf>,
    /// A further name or address in the issued certificate, besides 127.0.0.1, ::1 and localhost;
    /// can be repeated
    #[arg(long = "tls-name", value_name = "NAME", help_heading = "TLS")]
    tls_names: Vec<String>,
}

/// The timeout of the health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// How the response of healthy simulators begins.
const HEALTHY: &[u8] = b"HTTP/1.1 200 ";

/// The exit status of an invalid command line.
const INVALID_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) if matches!(asked.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => asked.exit(),
        Err(wrong) => {
            drop(writeln!(io::stderr(), "simulators: {}", in_a_sentence(&wrong)));
            return ExitCode::from(INVALID_ARGUMENTS);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The messages contain their causes. Stderr may be closed.
            drop(writeln!(io::stderr(), "simulators: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The error in the command line, and a second line with a hint.
fn in_a_sentence(wrong: &clap::Error) -> String {
    let said = wrong.to_string();
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let sentence = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = lines.find_map(|line| line.strip_prefix("tip: ")).map(|tip| format!("{tip}; ")).unwrap_or_default();
    format!("{sentence}\n  {hint}--help shows every flag")
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let checks_health = arguments.health;
    let config = arguments.into_config()?;
    if checks_health {
        return check_health(config.control);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(serve(config))
}

/// Checks that the control port answers its health call.
fn check_health(control: SocketAddr) -> anyhow::Result<()> {
    // An unspecified address is reached by loopback.
    let here = match control.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    let control = SocketAddr::new(here, control.port());
    let request = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&control, HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
        write!(stream, "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; HEALTHY.len()];
        stream.read_exact(&mut head)?;
        Ok(head.to_vec())
    };
    match request() {
        Ok(head) if head == HEALTHY => {
            // Stdout may be closed.
            drop(writeln!(io::stdout(), "the simulators answer at http://{control}"));
            Ok(())
        }
        Ok(_) => anyhow::bail!("the server at http://{control} is not healthy simulators"),
        Err(error) => anyhow::bail!("no simulators answer at http://{control}: {error}"),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Registered before the start, so that an early signal is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let ca_file = config.tls_certificate.clone().or_else(|| config.ca_file.clone()).unwrap_or_default();
    let simulators = Simulators::start(config).await?;
    // A closed stdout is no reason to stop.
    drop(announce(&simulators, &ca_file));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulators.stop().await;
    Ok(())
}

impl Arguments {
    /// The configuration from the file, if there is one, and the flags.
    fn into_config(self) -> anyhow::Result<Config> {
        let mut file = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        self.ports.apply_to(&mut file);
        Ok(Config {
            control: self.control.unwrap_or(file.control),
            control_hosts: if self.control_hosts.is_empty() { file.control_hosts } else { self.control_hosts },
            ca_file: self.ca_file.or(file.ca_file).or_else(|| Some(CA_FILE_NAME.into())),
            tls_certificate: self.tls_certificate.or(file.tls_certificate),
            tls_key: self.tls_key.or(file.tls_key),
            tls_names: if self.tls_names.is_empty() { file.tls_names } else { self.tls_names },
            seed: self.seed.unwrap_or(file.seed),
            world_file: self.world_file.or(file.world_file),
            ..file
        })
    }
}

fn announce(simulators: &Simulators, ca_file: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:<24}http://{}", "control", simulators.control_addr())?;
    let trust = format!("  (trust {})", ca_file.display());
    let ports = simulators.ports();
    for (index, provider) in Provider::ALL.into_iter().enumerate() {
        let (name, path) = (provider.display_name(), provider.service_path());
        let trust = if index == 0 { trust.as_str() } else { "" };
        writeln!(out, "{name:<24}https://{}{path}{trust}", ports.get(provider, true))?;
        let plaintext = format!("{name} plaintext");
        writeln!(out, "{plaintext:<24}http://{}{path}", ports.get(provider, false))?;
    }
    writeln!(out, "ready")?;
    out.flush()
}
