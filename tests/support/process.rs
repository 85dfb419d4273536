//! The real binary as a process, which can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::support::demo_accounts::SECRETS;

const LOG_FORMAT: &str = "RECOUP_LOG__FORMAT";

/// A running `recoup serve`; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Gateway {
    /// Starts it with the configuration at `config` and waits until it logs its address.
    pub(crate) fn start(config: &Path) -> Gateway {
        Gateway::launch(serve(config), |_| {}).unwrap_or_else(|log| panic!("the gateway ended: {log:?}"))
    }

    /// Runs a command that becomes a gateway and waits until it logs its address. Each line of the
    /// log is passed to `on_line`. The log is JSON, unless the command's environment says
    /// otherwise.
    ///
    /// # Errors
    /// The log, where the process ended before that.
    pub(crate) fn launch(
        mut serve: Command,
        mut on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Gateway, Vec<String>> {
        if !serve.get_envs().any(|(name, _)| name == LOG_FORMAT) {
            serve.env(LOG_FORMAT, "json");
        }
        let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let addr = loop {
            let Some(line) = lines.next() else {
                child.wait().unwrap();
                return Err(log);
            };
            let line = line.unwrap();
            on_line(&line);
            if let Some(addr) = address_in(&line) {
                break addr;
            }
            log.push(line);
        };
        // Keeps reading, so that a full pipe never blocks the gateway.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| on_line(&line)));
        Ok(Gateway { child, addr })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, without waiting.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`: nothing is flushed. Returns how the process ended, which may have been before.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// SIGTERM. Returns how the process ended.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.signal("TERM");
        self.end()
    }

    /// Waits for the end of the process. Returns how it ended.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in a line of the log, as JSON or as text.
fn address_in(line: &str) -> Option<SocketAddr> {
    let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let in_text = || line.split_whitespace().find_map(|word| word.strip_prefix("addr="));
    event["addr"].as_str().or_else(in_text).map(|addr| addr.parse().unwrap())
}

/// `recoup serve` with the configuration at `config`.
pub(crate) fn serve(config: &Path) -> Command {
    let mut serve = command(&["serve", "--config"]);
    serve.arg(config);
    serve
}

/// Runs the binary until it ends.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recoup"));
    command.args(arguments).envs(SECRETS);
    command
}
