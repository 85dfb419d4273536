//! The processes: the gateway as it is shipped, and this program again in another role. `/proc`
//! tells what each uses.

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

use crate::providers::{self, Providers};
use crate::{streaming, yardsticks};

/// What this program can be besides the benchmark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Simulators,
    Yardsticks,
    Readers,
}

/// This program in another role; ends with its parent.
pub(crate) struct Server {
    child: Child,
    /// Closed when the parent ends, however it ends: that is the word to go.
    _leash: ChildStdin,
    said: Value,
}

/// A running `recoup serve`; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) ledger: PathBuf,
}

/// What a process has used and uses.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// User and system.
    pub(crate) cpu: Duration,
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
}

/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// `/proc` counts in hundredths of a second, on every machine that Linux still runs on.
const TICK: Duration = Duration::from_millis(10);

impl Role {
    const ALL: [(Role, &str); 3] =
        [(Role::Simulators, "--simulators"), (Role::Yardsticks, "--yardsticks"), (Role::Readers, "--readers")];

    pub(crate) fn of(arguments: &[String]) -> Option<Role> {
        let first = arguments.first()?;
        Role::ALL.into_iter().find(|(_, flag)| flag == first).map(|(role, _)| role)
    }

    fn flag(self) -> &'static str {
        Role::ALL.into_iter().find(|(role, _)| *role == self).unwrap().1
    }

    /// Plays it until the parent is gone. The folder and whatever the role needs stand behind its
    /// flag.
    pub(crate) async fn play(self) {
        let arguments: Vec<String> = std::env::args().skip(2).collect();
        let folder = PathBuf::from(&arguments[0]);
        let said = match self {
            Role::Simulators => providers::serve(&folder).await,
            Role::Yardsticks => yardsticks::serve(&folder, &arguments[1]).await,
            Role::Readers => streaming::read_all(&arguments[1]).await,
        };
        println!("{said}");
        let gone = || drop(std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::task::spawn_blocking(gone).await.unwrap();
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
        Server { _leash: child.stdin.take().unwrap(), child, said: serde_json::from_str(&line).unwrap() }
    }

    /// Of one of its ports.
    pub(crate) fn address(&self, port: &str) -> SocketAddr {
        self.said[port].as_str().unwrap().parse().unwrap()
    }

    /// All of them, as it said them.
    pub(crate) fn said(&self) -> String {
        self.said.to_string()
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
    /// Starts it on `<name>.db` in `folder`, and tells how long it took until a call was answered.
    pub(crate) async fn start(folder: &Path, name: &str, providers: &Providers) -> (Gateway, Duration) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ledger = folder.join(format!("{name}.db"));
        let config = folder.join(format!("{name}.toml"));
        fs::write(&config, providers.configuration(address, &ledger)).unwrap();
        let log = File::create(folder.join(format!("{name}.log"))).unwrap();
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_recoup"))
            .args(["serve", "--config"])
            .arg(&config)
            .envs(providers::SECRETS)
            .stderr(log)
            .spawn()
            .unwrap();
        let gateway = Gateway { child, address, ledger };
        while !gateway.answers().await {
            assert!(began.elapsed() < LIMIT, "the gateway does not start: {name}.log says why");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (gateway, began.elapsed())
    }

    async fn answers(&self) -> bool {
        let Ok(mut accounts) = AccountServiceClient::connect(format!("http://{}", self.address)).await else {
            return false;
        };
        accounts.list_accounts(ListAccountsRequest::default()).await.is_ok()
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(told.success() && self.child.wait().unwrap().success(), "the gateway did not end in order");
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
        // The name of the program stands in brackets and may hold anything.
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

/// `recoup verify`, which must find nothing.
pub(crate) fn verify(ledger: &Path) {
    let verified = Command::new(env!("CARGO_BIN_EXE_recoup")).arg("verify").arg(ledger).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
