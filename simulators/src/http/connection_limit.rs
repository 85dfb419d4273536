//! The limit on the connections of one port. If there is no room for another one, the oldest idle
//! connection is closed, so that a client that only opens connections, or never ends a request
//! head, does not block others.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::{AbortHandle, JoinSet};

/// Whether a connection has had a request, so that it is not closed to make room.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActiveFlag(Arc<AtomicBool>);

/// The open connections.
#[derive(Debug)]
pub(crate) struct ConnectionSet {
    max: usize,
    all: JoinSet<()>,
    /// The idle connections, oldest first. May contain others, which are removed later.
    idle: VecDeque<(AbortHandle, ActiveFlag)>,
}

/// The number of handles of ended or active connections that is tolerated.
const MAX_STALE_HANDLES: usize = 64;

impl ActiveFlag {
    /// Protects the connection from being closed to make room.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ConnectionSet {
    pub(crate) fn new(max: usize) -> ConnectionSet {
        ConnectionSet { max, all: JoinSet::new(), idle: VecDeque::new() }
    }

    /// Serves a connection. The task sets the flag when the connection has a request.
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(ActiveFlag) -> F) {
        let active = ActiveFlag::default();
        // Boxed, so that an ended task takes up little memory while its handle exists.
        let handle = self.all.spawn(Box::pin(serve(active.clone())));
        self.idle.push_back((handle, active));
    }

    /// Whether there is room for another connection, if necessary by closing an idle one.
    pub(crate) fn make_room(&mut self) -> bool {
        while self.all.try_join_next().is_some() {}
        if self.idle.len() > 2 * self.all.len() + MAX_STALE_HANDLES {
            self.idle.retain(|(handle, active)| !handle.is_finished() && !active.get());
        }
        self.all.len() < self.max || self.evict_idle()
    }

    /// Closes the oldest idle connection. False if there is none.
    pub(crate) fn evict_idle(&mut self) -> bool {
        while let Some((handle, active)) = self.idle.pop_front() {
            if !handle.is_finished() && !active.get() {
                handle.abort();
                return true;
            }
        }
        false
    }

    /// Waits until a connection has ended. False if there is none.
    pub(crate) async fn join_next(&mut self) -> bool {
        self.all.join_next().await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_connection_is_closed() {
        let mut connections = ConnectionSet::new(2);
        connections.spawn(|active| async move {
            active.set();
            pending().await
        });
        connections.spawn(|_| pending());
        tokio::task::yield_now().await;
        assert!(connections.make_room(), "the idle one is closed");
        assert!(connections.join_next().await);
        connections.spawn(|active| {
            active.set();
            pending()
        });
        assert!(!connections.make_room(), "both are active");
        assert!(!connections.evict_idle());
    }

    #[tokio::test]
    async fn ended_connections_leave_no_handles() {
        let mut connections = ConnectionSet::new(10);
        for _ in 0..1_000 {
            assert!(connections.make_room());
            connections.spawn(|_| async {});
            assert!(connections.join_next().await);
        }
        assert!(connections.idle.len() <= MAX_STALE_HANDLES + 1, "{}", connections.idle.len());
    }
}
