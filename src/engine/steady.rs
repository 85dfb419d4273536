//! Time that never runs backwards and never slower than it really passes.
//!
//! A wall clock that is set back would make an idempotency key look younger than it is, and put off what is due. So the engine's time is
//! the wall clock's, or what has passed since the last look at it, whichever is later. What a stopped process cannot see is bridged by the
//! ledger's last event.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::domain::clock::{Clock, Timestamp};

/// A clock over another one.
pub(super) struct SteadyClock {
    wall: Arc<dyn Clock>,
    /// When the steady time was last ahead of everything, and what it was then.
    anchor: Mutex<(Instant, Timestamp)>,
}

impl SteadyClock {
    /// Begins at the wall clock's time, but not before `least`.
    pub(super) fn new(wall: Arc<dyn Clock>, least: Timestamp) -> Self {
        let anchor = Mutex::new((Instant::now(), wall.now().max(least)));
        Self { wall, anchor }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, instant) = (self.wall.now(), Instant::now());
        let passed = anchor.1.plus(instant.duration_since(anchor.0));
        if wall > passed {
            *anchor = (instant, wall);
        }
        wall.max(passed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::clock::ManualClock;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    struct Set(Mutex<Timestamp>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_holds_nothing_up_and_makes_nothing_young() {
        let wall = Arc::new(Set(Mutex::new(START)));
        let steady = SteadyClock::new(wall.clone(), START);
        *wall.0.lock().unwrap() = START.minus(Duration::from_secs(4_000));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(steady.now(), START.plus(Duration::from_secs(60)));
        *wall.0.lock().unwrap() = START.plus(Duration::from_secs(3_600));
        assert_eq!(steady.now(), START.plus(Duration::from_secs(3_600)), "forward it is followed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_process_does_not_fall_behind_the_ledger() {
        let wall = Arc::new(ManualClock::new(START));
        let last_event = START.plus(Duration::from_secs(500));
        assert_eq!(SteadyClock::new(wall, last_event).now(), last_event);
    }
}
