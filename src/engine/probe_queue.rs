//! Which callers share the next probe of an account: all that ask before it begins.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared as Joined;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::probe::ProbeReport;

/// The least time between the starts of two probes of one account.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// The requested probes of one account.
#[derive(Default)]
pub(super) struct ProbeQueue(Mutex<QueuedProbe>);

#[derive(Default)]
struct QueuedProbe {
    /// When the last probe began.
    begun: Option<Instant>,
    /// The probe that has not begun; every caller until then shares it.
    next: Option<Joined<oneshot::Receiver<ProbeReport>>>,
}

impl ProbeQueue {
    /// Joins the probe that begins next. If there is none, calls `start` with the sender of its
    /// report.
    pub(super) fn join_or_start(
        &self,
        start: impl FnOnce(oneshot::Sender<ProbeReport>),
    ) -> Joined<oneshot::Receiver<ProbeReport>> {
        let mut queue = self.lock();
        if let Some(next) = &queue.next {
            return next.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let next = receiver.shared();
        queue.next = Some(next.clone());
        start(sender);
        next
    }

    /// The earliest time at which the next probe may begin.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.lock().begun.map(|begun| begun + MIN_INTERVAL)
    }

    /// A probe begins. Later callers get a later one: this one may predate the change that they ask
    /// about.
    pub(super) fn begin(&self) {
        *self.lock() = QueuedProbe { begun: Some(Instant::now()), next: None };
    }

    fn lock(&self) -> MutexGuard<'_, QueuedProbe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
