//! The signal by which the simulators stop.

use tokio::sync::watch;

/// Waits until a stop is requested. A dropped sender counts as a request.
pub(crate) async fn requested(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}
