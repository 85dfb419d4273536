//! The real binary, so that it can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::support::SECRETS;

/// A running `recoup serve`; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Gateway {
    /// Starts it on the configuration at `config` and waits until it says where it listens.
    pub(crate) fn start(config: &Path) -> Gateway {
        let mut serve = command(&["serve", "--config"]);
        serve.arg(config);
        Gateway::launch(serve, |_| {}).unwrap_or_else(|said| panic!("the gateway ended: {said:?}"))
    }

    /// Runs a command that becomes a gateway and waits until it says where it listens. Each line of
    /// its log goes to `heard`.
    ///
    /// # Errors
    /// It ended before; what it said.
    pub(crate) fn launch(
        mut serve: Command,
        mut heard: impl FnMut(&str) + Send + 'static,
    ) -> Result<Gateway, Vec<String>> {
        let mut child = serve.env("RECOUP_LOG__FORMAT", "json").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let addr = loop {
            let Some(line) = lines.next() else {
                child.wait().unwrap();
                return Err(said);
            };
            let line = line.unwrap();
            heard(&line);
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(addr) = event["addr"].as_str() {
                break addr.parse().unwrap();
            }
            said.push(line);
        };
        // The rest is read away, so that a full pipe never stops the gateway.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| heard(&line)));
        Ok(Gateway { child, addr })
    }

    /// Its process id.
    #[allow(dead_code, reason = "two test binaries share this file, and each has its own needs")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by its name, and waits for nothing.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`: nothing is flushed, nothing said. How it ended: by that, unless it had ended
    /// before.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.signal("TERM");
        self.end()
    }

    /// Waits for its end, and tells how it ended.
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

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recoup"));
    command.args(arguments).envs(SECRETS);
    command
}
