//! The task that signs and appends checkpoints. Nothing else waits for it: a disk that is full or
//! hangs delays no refund.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::history::{CheckpointError, LedgerHistory, chain_hash_at};
use super::note::{Checkpoint, SignedCheckpoint};
use crate::domain::clock::Clock;
use crate::ledger::{Ledger, LedgerAdmin};

/// The newest checkpoint, for callers.
#[derive(Debug, Clone)]
pub struct Checkpoints(Option<watch::Receiver<Arc<SignedCheckpoint>>>);

/// The running task.
#[derive(Debug)]
pub struct CheckpointTask {
    checkpoints: Checkpoints,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

struct CheckpointWriter {
    history: LedgerHistory,
    ledger: Arc<dyn Ledger>,
    admin: Arc<dyn LedgerAdmin>,
    clock: Arc<dyn Clock>,
}

/// How long a stop waits for the last checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl Checkpoints {
    /// No checkpoints are signed.
    pub fn off() -> Self {
        Self(None)
    }

    /// None: no checkpoints are signed.
    pub fn newest(&self) -> Option<Arc<SignedCheckpoint>> {
        Some(self.0.as_ref()?.borrow().clone())
    }
}

impl CheckpointTask {
    /// Writes a checkpoint now if the newest one does not cover the ledger's last event, and then
    /// again each time that `every` has passed.
    ///
    /// # Errors
    /// [`CheckpointError`] if the first one cannot be written.
    pub async fn start(
        history: LedgerHistory,
        every: Duration,
        ledger: Arc<dyn Ledger>,
        admin: Arc<dyn LedgerAdmin>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CheckpointError> {
        let verifier_key = history.keys.verifier(&history.origin);
        let file = history.file.path().display().to_string();
        let after_any = history.lost.is_some();
        let writer = CheckpointWriter { history, ledger, admin, clock };
        let last = *writer.ledger.committed().borrow();
        let newest = match &writer.history.newest {
            Some(newest) if newest.checkpoint.sequence == last => newest.clone(),
            _ => writer.write(last, after_any).await?,
        };
        if !writer.history.has_checkpoints {
            // After the note: a crash between the two must not lead to a ledger that misses one.
            writer.admin.remember_checkpoints().await?;
        }
        info!(file, %verifier_key, sequence = newest.checkpoint.sequence, "checkpoints are signed");
        let (sender, receiver) = watch::channel(Arc::new(newest));
        let closing = CancellationToken::new();
        let task = tokio::spawn(writer.run(every, sender, closing.clone()));
        Ok(Self { checkpoints: Checkpoints(Some(receiver)), closing, task })
    }

    /// The newest checkpoint, for callers.
    pub fn checkpoints(&self) -> Checkpoints {
        self.checkpoints.clone()
    }

    /// Writes a last checkpoint. The ledger must still be open.
    pub async fn stop(self) {
        self.closing.cancel();
        let mut task = self.task;
        if tokio::time::timeout(STOP_TIMEOUT, &mut task).await.is_err() {
            warn!("could not write the last checkpoint in time");
            task.abort();
        }
    }
}

impl CheckpointWriter {
    async fn run(self, every: Duration, newest: watch::Sender<Arc<SignedCheckpoint>>, closing: CancellationToken) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, and that checkpoint is written.
        ticks.tick().await;
        loop {
            let is_last = tokio::select! {
                _ = ticks.tick() => false,
                () = closing.cancelled() => true,
            };
            let last = *self.ledger.committed().borrow();
            if last > newest.borrow().checkpoint.sequence {
                match self.write(last, false).await {
                    Ok(signed) => {
                        newest.send_replace(Arc::new(signed));
                    }
                    Err(error) => warn!(%error, "could not write a checkpoint"),
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Signs the history up to event `sequence`. Returns the checkpoint once it is on disk.
    async fn write(&self, sequence: u64, after_any: bool) -> Result<SignedCheckpoint, CheckpointError> {
        let chain_hash = chain_hash_at(&*self.ledger, sequence).await?;
        let (origin, time) = (self.history.origin.clone(), self.clock.now());
        let checkpoint = Checkpoint { origin, sequence, chain_hash, time };
        let signed = SignedCheckpoint::sign(checkpoint, self.history.keys.signing());
        let file = self.history.file.clone();
        let written = tokio::task::spawn_blocking(move || file.append(&signed, after_any).map(|()| signed)).await;
        Ok(written.map_err(|_| CheckpointError::Aborted)??)
    }
}
