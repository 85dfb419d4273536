//! Time that never runs backwards and never slower than it really passes.
//!
//! A wall clock that is set back would make an idempotency key look younger than it is, and put off what is due. So where it falls behind the
//! monotonic clock, the engine's time does not follow; where it is set forward it does, and a machine that slept (which the monotonic
//! clock does not count) is seen by the wall clock even after that was set back. What a stopped process cannot see is bridged by the
//! ledger's last event.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::{Clock, Timestamp};

/// A clock over another one.
pub(super) struct SteadyClock {
    wall: Arc<dyn Clock>,
    last: Mutex<Look>,
}

/// What the clocks showed at one moment.
struct Look {
    instant: Instant,
    wall: Timestamp,
    steady: Timestamp,
    /// How far the wall clock has been set back in all.
    ahead: Duration,
}

/// Two clocks that are read one after the other differ by a little, and a daemon corrects the wall clock by a little.
const TOLERANCE: Duration = Duration::from_millis(100);

impl SteadyClock {
    /// Begins at the wall clock's time, but not before `least`.
    pub(super) fn new(wall: Arc<dyn Clock>, least: Timestamp) -> Self {
        let now = wall.now();
        let begin = Look { instant: Instant::now(), wall: now, steady: now.max(least), ahead: least.since(now) };
        Self { wall, last: Mutex::new(begin) }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (instant, wall) = (Instant::now(), self.wall.now());
        let set_back = last.wall.plus(instant.duration_since(last.instant)).since(wall);
        let ahead = if set_back > TOLERANCE { last.ahead.saturating_add(set_back) } else { last.ahead };
        *last = Look { instant, wall, steady: last.steady.max(wall.plus(ahead)), ahead };
        last.steady
    }
}

#[cfg(test)]
mod tests {
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
        // The machine slept for an hour: only the wall clock has seen it.
        *wall.0.lock().unwrap() = START.minus(Duration::from_secs(400));
        assert_eq!(steady.now(), START.plus(Duration::from_secs(3_660)), "forward it is followed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_process_does_not_fall_behind_the_ledger() {
        let wall = Arc::new(ManualClock::new(START));
        let last_event = START.plus(Duration::from_secs(500));
        assert_eq!(SteadyClock::new(wall, last_event).now(), last_event);
    }
}
