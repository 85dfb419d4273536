//! The connections of one port: so many and no more. Where there is no room for another one, the
//! oldest that has asked for nothing yet goes, so that whoever only opens connections, or never
//! ends a head, keeps nobody else out.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::{AbortHandle, JoinSet};

/// Whether anything was heard of a connection that gives it a right to stay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stays(Arc<AtomicBool>);

/// The connections that stand.
#[derive(Debug)]
pub(crate) struct Crowd {
    most: usize,
    all: JoinSet<()>,
    /// Those that have asked for nothing, the oldest first; and others, until somebody looks.
    idle: VecDeque<(AbortHandle, Stays)>,
}

/// So many that have ended or asked are not worth looking for.
const FEW: usize = 64;

impl Stays {
    /// From now on it is not sent away.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Crowd {
    pub(crate) fn new(most: usize) -> Crowd {
        Crowd { most, all: JoinSet::new(), idle: VecDeque::new() }
    }

    /// Serves one more; it says by itself when it has asked for something.
    pub(crate) fn welcome<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(Stays) -> F) {
        let stays = Stays::default();
        // In a box, so that what is left of one that has ended, for as long as its handle is here,
        // is next to nothing.
        let handle = self.all.spawn(Box::pin(serve(stays.clone())));
        self.idle.push_back((handle, stays));
    }

    /// Whether there is room for one more, be it that somebody goes for it.
    pub(crate) fn has_room(&mut self) -> bool {
        while self.all.try_join_next().is_some() {}
        if self.idle.len() > 2 * self.all.len() + FEW {
            self.idle.retain(|(handle, stays)| !handle.is_finished() && !stays.get());
        }
        self.all.len() < self.most || self.send_one_away()
    }

    /// Ends the oldest connection that has asked for nothing; false where there is none.
    pub(crate) fn send_one_away(&mut self) -> bool {
        while let Some((handle, stays)) = self.idle.pop_front() {
            if !handle.is_finished() && !stays.get() {
                handle.abort();
                return true;
            }
        }
        false
    }

    /// Waits until one has ended; false where there is none.
    pub(crate) async fn one_ended(&mut self) -> bool {
        self.all.join_next().await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_oldest_that_has_asked_for_nothing_goes() {
        let mut crowd = Crowd::new(2);
        crowd.welcome(|stays| async move {
            stays.set();
            pending().await
        });
        crowd.welcome(|_| pending());
        tokio::task::yield_now().await;
        assert!(crowd.has_room(), "the second one goes");
        assert!(crowd.one_ended().await);
        crowd.welcome(|stays| {
            stays.set();
            pending()
        });
        assert!(!crowd.has_room(), "both have asked");
        assert!(!crowd.send_one_away());
    }

    #[tokio::test]
    async fn nothing_is_left_of_those_that_have_ended() {
        let mut crowd = Crowd::new(10);
        for _ in 0..1_000 {
            assert!(crowd.has_room());
            crowd.welcome(|_| async {});
            assert!(crowd.one_ended().await);
        }
        assert!(crowd.idle.len() <= FEW + 1, "{}", crowd.idle.len());
    }
}
