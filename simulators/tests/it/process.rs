//! The simulators as a process of its own, on free ports.

#![allow(dead_code, reason = "each test binary and benchmark uses a part")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// The flags that take the address of a port.
const PORT_FLAGS: [&str; 7] = [
    "--control",
    "--sectigo",
    "--sectigo-plaintext",
    "--namecom",
    "--namecom-plaintext",
    "--debitsuccess",
    "--debitsuccess-plaintext",
];

/// A process that runs until it is dropped.
pub(crate) struct SimulatorsProcess {
    child: Child,
    ports: Vec<(String, SocketAddr)>,
    schemes: Vec<String>,
}

/// Starts in `folder`, where the certificate is written; ports that the arguments do not name are
/// free ones.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulators"));
    let free_ports = PORT_FLAGS.iter().filter(|flag| !arguments.contains(*flag));
    command.current_dir(folder).args(arguments).args(free_ports.flat_map(|flag| [*flag, "127.0.0.1:0"]));
    command
}

impl SimulatorsProcess {
    /// Starts the process and waits until it is ready.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> SimulatorsProcess {
        SimulatorsProcess::spawn(&mut command(folder, arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> SimulatorsProcess {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let ports = lines.take_while(|line| line != "ready").map(|line| {
            let (name, url) = line.split_once("  ").unwrap();
            let (scheme, rest) = url.trim().split_once("://").unwrap();
            let address = rest.split(['/', ' ']).next().unwrap();
            ((name.trim().to_owned(), address.parse().unwrap()), scheme.to_owned())
        });
        let (ports, schemes) = ports.unzip();
        SimulatorsProcess { ports, schemes, child }
    }

    /// The names of the ports, as the process prints them, and their addresses.
    pub(crate) fn ports(&self) -> &[(String, SocketAddr)] {
        &self.ports
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        self.ports.iter().find(|(known, _)| known == name).unwrap().1
    }

    /// Scheme, host and port, such as `https://127.0.0.1:7102`.
    pub(crate) fn origin(&self, name: &str) -> String {
        let index = self.ports.iter().position(|(known, _)| known == name).unwrap();
        format!("{}://{}", self.schemes[index], self.ports[index].1)
    }

    /// Resident memory in KiB; none where there is no `/proc`.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse().unwrap())
    }

    /// Kills the process and returns what it wrote to standard error, if that is piped.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        let stderr = self.child.stderr.take().map(|stderr| std::io::read_to_string(stderr).unwrap());
        stderr.unwrap_or_default()
    }
}

impl Drop for SimulatorsProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
