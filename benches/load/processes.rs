//! The processes: the gateway's binary, and this program in other roles. `/proc` shows what each
//! one uses.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use recoup::proto::v1::ListAccountsRequest;
use recoup::proto::v1::account_service_client::AccountServiceClient;
use serde_json::Value;
use tokio::time::Instant;
use tonic::Code;

use crate::demo_accounts::SECRETS;
use crate::providers::{self, Providers};
use crate::strace::Trace;
use crate::{one_table, streaming, yardsticks};

/// Another role of this program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Simulators,
    Yardsticks,
    OneTable,
    Readers,
}

/// This program in another role. It ends with its parent.
pub(crate) struct Server {
    child: Child,
    /// Closed when the parent ends, for whatever reason: then the child ends, too.
    _parent_alive: ChildStdin,
    addresses: Value,
}

/// A running `recoup serve`; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) ledger: PathBuf,
    pub(crate) log: PathBuf,
}

/// The resources of a process.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
}

/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// `/proc` counts in hundredths of a second on every current Linux.
const TICK: Duration = Duration::from_millis(10);

impl Role {
    const ALL: [(Role, &str); 4] = [
        (Role::Simulators, "--simulators"),
        (Role::Yardsticks, "--yardsticks"),
        (Role::OneTable, "--one-table"),
        (Role::Readers, "--readers"),
    ];

    pub(crate) fn of(arguments: &[String]) -> Option<Role> {
        let first = arguments.first()?;
        Role::ALL.into_iter().find(|(_, flag)| flag == first).map(|(role, _)| role)
    }

    fn flag(self) -> &'static str {
        Role::ALL.into_iter().find(|(role, _)| *role == self).unwrap().1
    }

    /// Runs the role until the parent ends. The folder and the role's other arguments follow its
    /// flag.
    pub(crate) async fn run(self) {
        let arguments: Vec<String> = std::env::args().skip(2).collect();
        let folder = PathBuf::from(&arguments[0]);
        let addresses = match self {
            Role::Simulators => providers::serve(&folder).await,
            Role::Yardsticks => yardsticks::serve(&folder, &arguments[1]).await,
            Role::OneTable => one_table::serve(&folder, &arguments[1]).await,
            Role::Readers => streaming::read_all(&arguments[1]).await,
        };
        println!("{addresses}");
        let parent_has_ended = || drop(std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::task::spawn_blocking(parent_has_ended).await.unwrap();
        std::process::exit(0);
    }
}

impl Server {
    pub(crate) fn start(role: Role, folder: &Path, arguments: &[String]) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(role.flag()).arg(folder).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { _parent_alive: child.stdin.take().unwrap(), child, addresses: serde_json::from_str(&line).unwrap() }
    }

    /// The address of one of its ports.
    pub(crate) fn address(&self, port: &str) -> SocketAddr {
        self.addresses[port].as_str().unwrap().parse().unwrap()
    }

    /// All its addresses, as JSON.
    pub(crate) fn addresses_text(&self) -> String {
        self.addresses.to_string()
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Gateway {
    /// Starts it on `<name>.db` in `folder`. Returns how long it took until a call was answered.
    pub(crate) async fn start(folder: &Path, name: &str, providers: &Providers) -> (Gateway, Duration) {
        Gateway::start_with(folder, name, providers, "", None).await
    }

    /// The same with further lines of its configuration, and with its system calls traced.
    pub(crate) async fn start_with(
        folder: &Path,
        name: &str,
        providers: &Providers,
        settings: &str,
        trace: Option<&Trace>,
    ) -> (Gateway, Duration) {
        let address = free_address();
        let ledger = folder.join(format!("{name}.db"));
        let config = folder.join(format!("{name}.toml"));
        fs::write(&config, format!("{settings}{}", providers.configuration(address, &ledger))).unwrap();
        let log_path = ledger.with_extension("log");
        let log = File::create(&log_path).unwrap();
        let began = Instant::now();
        let program = env!("CARGO_BIN_EXE_recoup");
        let mut command = trace.map_or_else(|| Command::new(program), |trace| trace.command(program));
        let child = command.args(["serve", "--config"]).arg(&config).envs(SECRETS).stderr(log).spawn().unwrap();
        let gateway = Gateway { child, address, ledger, log: log_path };
        while !gateway.answers().await {
            assert!(began.elapsed() < LIMIT, "the gateway did not start: see {name}.log");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (gateway, began.elapsed())
    }

    async fn answers(&self) -> bool {
        let Ok(mut accounts) = AccountServiceClient::connect(format!("http://{}", self.address)).await else {
            return false;
        };
        // Callers that the port asks for a credential have an answer, too.
        accounts
            .list_accounts(ListAccountsRequest::default())
            .await
            .err()
            .is_none_or(|status| status.code() == Code::Unauthenticated)
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.process())
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(signalled.success() && self.child.wait().unwrap().success(), "the gateway did not stop cleanly");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Usage {
    fn of(process: u32) -> Usage {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // The name of the program is in brackets and may contain anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u32 = fields[11..13].iter().map(|field| field.parse::<u32>().unwrap()).sum();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
        };
        Usage { cpu: TICK * ticks, resident_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") }
    }
}

/// An address that a server may take.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Runs `recoup verify`, which must find nothing wrong.
pub(crate) fn verify(ledger: &Path) {
    let verified = Command::new(env!("CARGO_BIN_EXE_recoup")).arg("verify").arg(ledger).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
