//! What a run says in its log, at every level: no secret may be in it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::sim::lock;

/// Listens to the log of this thread.
pub(crate) struct Logs {
    lines: Lines,
    _listening: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

/// Every so many seeds are listened to: it takes longer.
const EVERY: u64 = 64;

impl Logs {
    /// None where this seed is not one of those.
    pub(crate) fn of(seed: u64) -> Option<Logs> {
        seed.is_multiple_of(EVERY).then(|| {
            let lines = Lines::default();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(lines.clone())
                .with_ansi(false)
                .without_time()
                .with_max_level(tracing::Level::TRACE)
                .finish();
            Logs { lines, _listening: tracing::subscriber::set_default(subscriber) }
        })
    }

    /// The first line that tells a secret.
    pub(crate) fn told(&self, is_secret: impl Fn(&str) -> bool) -> Option<String> {
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
