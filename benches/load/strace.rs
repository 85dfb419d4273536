//! The system calls of a process, by strace.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use recoup::domain::clock::{Clock as _, SystemClock, Timestamp};
use tokio::time::Instant;

/// Where strace writes the calls of one process.
pub(crate) struct Trace(PathBuf);

/// A span of time.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    from: Timestamp,
    to: Timestamp,
}

/// The calls in a window.
#[derive(Clone, Copy, Default)]
pub(crate) struct Calls {
    pub(crate) count: f64,
    /// Written to files in the benchmark's folder: the ledger, its write-ahead log, the log.
    pub(crate) bytes_to_files: f64,
}

/// Reached only where something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// The calls that write to files.
const WRITES: [&str; 5] = ["write", "pwrite64", "writev", "pwritev", "pwritev2"];

impl Trace {
    /// `None` where strace is missing or may not trace.
    pub(crate) fn to(path: PathBuf) -> Option<Trace> {
        let mut probe = Trace(path.with_extension("probe")).command("true");
        let probed = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
        probed.is_ok_and(|status| status.success()).then_some(Trace(path))
    }

    /// A command that runs a program under strace. With `-D` the program is the child, and strace
    /// its grandchild, so that signals reach the program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-y", "-ttt", "-s", "0", "-o"]).arg(&self.0).arg(program);
        command
    }

    /// The lines of strace, once the program has ended.
    pub(crate) async fn read(&self, process: u32) -> String {
        let (began, last) = (Instant::now(), format!("{process} "));
        loop {
            let text = fs::read_to_string(&self.0).unwrap();
            let has_ended = |line: &str| line.starts_with(&last) && line.contains(" +++ ");
            if text.lines().rev().take(100).any(has_ended) {
                return text;
            }
            assert!(began.elapsed() < LIMIT, "strace did not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Window {
    /// The window in which this runs.
    pub(crate) async fn of(work: impl Future<Output = ()>) -> Window {
        let from = SystemClock.now();
        work.await;
        Window { from, to: SystemClock.now() }
    }

    fn contains(self, micros: i64) -> bool {
        (self.from.as_micros()..self.to.as_micros()).contains(&micros)
    }

    fn seconds(self) -> f64 {
        (self.to.as_micros() - self.from.as_micros()) as f64 / 1e6
    }
}

impl Calls {
    /// The calls in a window, from strace's lines. A call that another thread interrupts takes two
    /// lines; it counts at its begin, and what it wrote stands in the second.
    pub(crate) fn within(window: Window, lines: &str, folder: &Path) -> Calls {
        let mut calls = Calls::default();
        let mut unfinished: HashMap<&str, bool> = HashMap::new();
        for line in lines.lines() {
            // Several blanks follow the number of a thread below 10000.
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
            let micros = (time.parse::<f64>().unwrap_or_default() * 1e6) as i64;
            if !window.contains(micros) || call.starts_with("+++") || call.starts_with("---") {
                continue;
            }
            let is_resumed = call.starts_with("<...");
            let is_to_file = if is_resumed {
                unfinished.remove(thread).unwrap_or(false)
            } else {
                calls.count += 1.0;
                writes_to(call, folder)
            };
            if call.contains("<unfinished ...>") {
                unfinished.insert(thread, is_to_file);
            } else if is_to_file && let Some((_, written)) = call.rsplit_once(" = ") {
                calls.bytes_to_files += written.trim().parse::<f64>().unwrap_or_default();
            }
        }
        calls
    }

    /// What each of `count` pieces of work took beyond what the idle process does in the same time.
    pub(crate) fn each(self, window: Window, idle: Calls, idle_window: Window, count: usize) -> Calls {
        let share = window.seconds() / idle_window.seconds();
        let each = |busy: f64, idle: f64| (busy - idle * share) / count as f64;
        Calls { count: each(self.count, idle.count), bytes_to_files: each(self.bytes_to_files, idle.bytes_to_files) }
    }
}

fn writes_to(call: &str, folder: &Path) -> bool {
    let Some((name, arguments)) = call.split_once('(') else { return false };
    // `-y` writes the path of a descriptor after its number: `pwrite64(9</folder/small.db-wal>, `.
    let path = arguments.split_once('<').map_or("", |(_, path)| path);
    WRITES.contains(&name) && folder.to_str().is_some_and(|folder| path.starts_with(folder))
}
