//! The log of a run, at every level: it must not contain a secret.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::sim::lock;

/// Collects the log of this thread.
pub(crate) struct Logs {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

/// The log is checked for one seed in this many: it takes longer.
const SEEDS_PER_LOG: u64 = 64;

impl Logs {
    /// None where the log of this seed is not checked.
    pub(crate) fn of(seed: u64) -> Option<Logs> {
        seed.is_multiple_of(SEEDS_PER_LOG).then(|| {
            let lines = Lines::default();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(lines.clone())
                .with_ansi(false)
                .without_time()
                .with_max_level(tracing::Level::TRACE)
                .finish();
            Logs { lines, _guard: tracing::subscriber::set_default(subscriber) }
        })
    }

    /// The first line with a secret.
    pub(crate) fn find(&self, is_secret: impl Fn(&str) -> bool) -> Option<String> {
        let lines = lock(&self.lines.0);
        String::from_utf8_lossy(&lines).lines().find(|line| is_secret(line)).map(str::to_owned)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}
