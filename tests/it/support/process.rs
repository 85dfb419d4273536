//! The real binary, so that it can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::SECRETS;

/// A running `recoup serve`; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Gateway {
    /// Starts it on the configuration at `config` and waits until it says where it listens.
    pub(crate) fn start(config: &Path) -> Gateway {
        let mut child = command(&["serve", "--config"])
            .arg(config)
            .env("RECOUP_LOG__FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let addr = loop {
            let Some(line) = lines.next() else { panic!("the gateway ended: {said:?}") };
            let line = line.unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(addr) = event["addr"].as_str() {
                break addr.parse().unwrap();
            }
            said.push(line);
        };
        // The rest is read away, so that a full pipe never stops the gateway.
        std::thread::spawn(move || lines.for_each(drop));
        Gateway { child, addr }
    }

    /// `kill -9`: nothing is flushed, nothing said.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
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
