//! The simulators as a process of their own: flags over a file over defaults, then until a signal.
//! `--health` asks such a process instead.

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
use simulators::{Config, Simulators, config::CA_FILE_NAME};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A request is many small allocations on two threads; the system's allocator would spend a good
/// part of its time on them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Threads that answer requests. Each has memory of its own, so that a machine with many cores
/// would need more for nothing: a test double is rarely the bottleneck, and two keep one slow
/// request from holding up the next.
const WORKERS: usize = 2;

const LONG_ABOUT: &str = "\
Sectigo, name.com and Debitsuccess on this machine, wire for wire and with memory: for tests and staging without an account.

What one call does changes what the next one answers; every documented error arises from what is asked and what was done before.
A control port, for scripts and for people, shows what really happened (the books) and what went over the wire (the journal),
makes worlds of their own for tests side by side, arms faults at exact points, audits, and moves the clock. Everything is in
memory and gone at the end.";

const AFTER_HELP: &str = "\
Examples:
  simulators                                     the ports above, and a page for people on http://127.0.0.1:7100/
  simulators --config simulators.toml --seed 7   settings from a file, another seed
  simulators --world-file world.json             start as a saved world: curl localhost:7100/v1/worlds/demo/snapshot >world.json
  simulators --control 127.0.0.1:0 --sectigo 127.0.0.1:0 --sectigo-plaintext 127.0.0.1:0 --namecom 127.0.0.1:0 \\
    --namecom-plaintext 127.0.0.1:0 --debitsuccess 127.0.0.1:0 --debitsuccess-plaintext 127.0.0.1:0
                                                 any free ports: the lines before `ready` tell which

A configuration file has a key for each flag (control, sectigo, sectigo_plaintext, namecom,
namecom_plaintext, debitsuccess, debitsuccess_plaintext, ca_file, tls_certificate, tls_key, tls_names, control_hosts, seed,
world_file) and the settings for what the providers' documents leave open:
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

It prints where it listens, one line each, then `ready`. SIGTERM and Ctrl-C end it.
Exit status: 0 ended by a signal; 1 could not start (the last line on stderr says why); 2 a wrong command line.
With --health: 0 the simulators at that control port answer; 1 they do not.
RUST_LOG=simulators=debug shows every request on stderr. Every control call: http://localhost:7100/openapi.json, simulators/README.md.";

/// Sectigo, name.com and Debitsuccess on this machine, wire for wire and with memory: for tests and
/// staging without an account
#[derive(Debug, Parser)]
#[command(version, long_about = LONG_ABOUT, after_long_help = AFTER_HELP, max_term_width = 120)]
struct Arguments {
    /// A TOML file with any of what follows, and the settings; a flag wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start nothing: ask the simulators that run at the control port whether they answer, and end
    #[arg(long)]
    health: bool,
    /// What generated credentials, GUIDs and random faults are computed from: the same seed and
    /// calls give the same [default: 0]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// A world's snapshot, JSON, to start with instead of the demo data
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
    /// Sectigo over TLS [default: 127.0.0.1:7101]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    sectigo: Option<SocketAddr>,
    /// Sectigo in plaintext, which answers -1 to everything [default: 127.0.0.1:7111]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    sectigo_plaintext: Option<SocketAddr>,
    /// name.com over TLS [default: 127.0.0.1:7102]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    namecom: Option<SocketAddr>,
    /// name.com in plaintext: the same without TLS [default: 127.0.0.1:7112]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    namecom_plaintext: Option<SocketAddr>,
    /// Debitsuccess over TLS [default: 127.0.0.1:7103]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    debitsuccess: Option<SocketAddr>,
    /// Debitsuccess in plaintext: the same without TLS [default: 127.0.0.1:7113]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ports (0 takes any free one)")]
    debitsuccess_plaintext: Option<SocketAddr>,
    /// Where the authority that clients of the TLS ports have to trust is kept, its key beside it
    /// as FILE.key: reused if it is there, else made [default: sectigo-ca.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    ca_file: Option<PathBuf>,
    /// A certificate for the TLS ports, PEM, its chain behind it, instead of one of that authority;
    /// needs --tls-key
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_key: Option<PathBuf>,
    /// A further name or address for that authority's certificate, besides 127.0.0.1, ::1 and
    /// localhost; can be repeated
    #[arg(long = "tls-name", value_name = "NAME", help_heading = "TLS")]
    tls_names: Vec<String>,
}

/// Simulators on this machine answer at once or not at all.
const HEALTH_TIME: Duration = Duration::from_secs(2);

/// How the answer begins that is a yes.
const HEALTHY: &[u8] = b"HTTP/1.1 200 ";

/// The exit status of a wrong command line.
const WRONG_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) if matches!(asked.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => asked.exit(),
        Err(wrong) => {
            drop(writeln!(io::stderr(), "simulators: {}", in_a_sentence(&wrong)));
            return ExitCode::from(WRONG_ARGUMENTS);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The sentences name their causes themselves. Nobody may be there to read this one.
            drop(writeln!(io::stderr(), "simulators: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the command line, and a second line with a hint.
fn in_a_sentence(wrong: &clap::Error) -> String {
    let said = wrong.to_string();
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let sentence = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = lines.find_map(|line| line.strip_prefix("tip: ")).map(|tip| format!("{tip}; ")).unwrap_or_default();
    format!("{sentence}\n  {hint}--help shows every flag")
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let asks = arguments.health;
    let config = arguments.over_file()?;
    if asks {
        return healthy(config.control);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(serve(config))
}

/// Whether the control port at `control` answers its health call.
fn healthy(control: SocketAddr) -> anyhow::Result<()> {
    // What listens everywhere is asked for here.
    let here = match control.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    let control = SocketAddr::new(here, control.port());
    let asked = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&control, HEALTH_TIME)?;
        stream.set_read_timeout(Some(HEALTH_TIME))?;
        stream.set_write_timeout(Some(HEALTH_TIME))?;
        write!(stream, "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; HEALTHY.len()];
        stream.read_exact(&mut head)?;
        Ok(head.to_vec())
    };
    match asked() {
        Ok(head) if head == HEALTHY => {
            // Nobody may be there to read it.
            drop(writeln!(io::stdout(), "the simulators answer at http://{control}"));
            Ok(())
        }
        Ok(_) => anyhow::bail!("what answers at http://{control} are no healthy simulators"),
        Err(error) => anyhow::bail!("no simulators answer at http://{control}: {error}"),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before the start, so that one that comes right after it is no sudden death.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let ca_file = config.tls_certificate.clone().or_else(|| config.ca_file.clone()).unwrap_or_default();
    let simulators = Simulators::start(config).await?;
    // Whoever started us may not read what we say: that is no reason to stop.
    drop(announce(&simulators, &ca_file));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulators.stop().await;
    Ok(())
}

impl Arguments {
    /// The file, if one is named, with the flags over it.
    fn over_file(self) -> anyhow::Result<Config> {
        let file = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        Ok(Config {
            control: self.control.unwrap_or(file.control),
            control_hosts: if self.control_hosts.is_empty() { file.control_hosts } else { self.control_hosts },
            sectigo: self.sectigo.unwrap_or(file.sectigo),
            sectigo_plaintext: self.sectigo_plaintext.unwrap_or(file.sectigo_plaintext),
            namecom: self.namecom.unwrap_or(file.namecom),
            namecom_plaintext: self.namecom_plaintext.unwrap_or(file.namecom_plaintext),
            debitsuccess: self.debitsuccess.unwrap_or(file.debitsuccess),
            debitsuccess_plaintext: self.debitsuccess_plaintext.unwrap_or(file.debitsuccess_plaintext),
            ca_file: self.ca_file.or(file.ca_file).or_else(|| Some(CA_FILE_NAME.into())),
            tls_certificate: self.tls_certificate.or(file.tls_certificate),
            tls_key: self.tls_key.or(file.tls_key),
            tls_names: if self.tls_names.is_empty() { file.tls_names } else { self.tls_names },
            seed: self.seed.unwrap_or(file.seed),
            world_file: self.world_file.or(file.world_file),
            settings: file.settings,
        })
    }
}

fn announce(simulators: &Simulators, ca_file: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let service = "/DSWebService/DSServices.svc";
    let trust = format!("  (trust {})", ca_file.display());
    let lines = [
        ("control", "http", simulators.control_addr(), ""),
        ("Sectigo", "https", simulators.sectigo_addr(), trust.as_str()),
        ("Sectigo plaintext", "http", simulators.sectigo_plaintext_addr(), ""),
        ("name.com", "https", simulators.namecom_addr(), ""),
        ("name.com plaintext", "http", simulators.namecom_plaintext_addr(), ""),
        ("Debitsuccess", "https", simulators.debitsuccess_addr(), service),
        ("Debitsuccess plaintext", "http", simulators.debitsuccess_plaintext_addr(), service),
    ];
    for (name, scheme, address, more) in lines {
        writeln!(out, "{name:<24}{scheme}://{address}{more}")?;
    }
    writeln!(out, "ready")?;
    out.flush()
}
