//! Time that never runs backwards and never slower than it really passes.
//!
//! A wall clock that is set back would make an idempotency key look younger than it is, and put off
//! what is due. So where it falls behind the monotonic clock, the engine's time does not follow;
//! where it is set forward it does, and a machine that slept (which the monotonic clock does not
//! count) is seen by the wall clock even after that was set back. What a stopped process cannot see
//! is bridged by the ledger's last event.
//!
//! The cost: a wall clock that jumps ahead and back leaves the engine's time ahead. Expiry is
//! final, so it uses [`MonotonicClock::confirmed_now`], which undoes such a jump.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::domain::clock::{Clock, Timestamp};

/// A clock over another one.
pub(super) struct MonotonicClock {
    wall: Arc<dyn Clock>,
    last: Mutex<Reading>,
}

/// What the clocks showed at one moment.
struct Reading {
    instant: Instant,
    wall: Timestamp,
    steady: Timestamp,
    /// How far the wall clock has been set back in all.
    ahead: Duration,
    /// The part of `ahead` that undid an earlier jump ahead of the wall clock.
    phantom: Duration,
    /// A jump ahead that may still be taken back.
    jump: Option<Jump>,
}

/// How far the wall clock jumped ahead of the monotonic one, and when.
#[derive(Clone, Copy)]
struct Jump {
    by: Duration,
    at: Instant,
}

/// Two clocks that are read one after the other differ by a little, and a daemon corrects the wall
/// clock by a little.
const TOLERANCE: Duration = Duration::from_millis(100);
/// After a jump this large the machine has slept or the clock is wrong; only time shows which.
const LARGE_JUMP: Duration = Duration::from_secs(3_600);
/// How long a jump must last before anything expires by it.
const CONFIRMATION: Duration = Duration::from_secs(60);
/// An error is logged once the ledger's times are this far ahead of the wall clock.
const WORTH_AN_ERROR: Duration = Duration::from_secs(60);

impl MonotonicClock {
    /// Begins at the wall clock's time, but not before `least`, the ledger's last event.
    pub(super) fn new(wall: Arc<dyn Clock>, least: Timestamp) -> Self {
        let now = wall.now();
        let ahead = least.saturating_duration_since(now);
        report_ahead(Duration::ZERO, ahead);
        let begin = Reading {
            instant: Instant::now(),
            wall: now,
            steady: now.max(least),
            ahead,
            // Either clock may have been wrong, so nothing expires because of the difference.
            phantom: ahead,
            jump: None,
        };
        Self { wall, last: Mutex::new(begin) }
    }

    /// How far this clock is ahead of the wall clock.
    pub(super) fn ahead(&self) -> Duration {
        let steady = self.now();
        steady.saturating_duration_since(self.wall.now())
    }

    /// The present time without jumps of the wall clock that were undone. None while a large jump
    /// is younger than a minute.
    pub(super) fn confirmed_now(&self) -> Option<Timestamp> {
        let mut last = self.read();
        if let Some(jump) = last.jump {
            if last.instant.duration_since(jump.at) < CONFIRMATION {
                return None;
            }
            last.jump = None;
        }
        Some(last.steady.saturating_sub(last.phantom))
    }

    fn read(&self) -> std::sync::MutexGuard<'_, Reading> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (instant, wall) = (Instant::now(), self.wall.now());
        let expected = last.wall.saturating_add(instant.duration_since(last.instant));
        let (set_back, jumped) = (expected.saturating_duration_since(wall), wall.saturating_duration_since(expected));
        if jumped > LARGE_JUMP {
            let by = last.jump.map_or(jumped, |before| before.by.saturating_add(jumped));
            last.jump = Some(Jump { by, at: instant });
        }
        if set_back > TOLERANCE {
            let before = last.ahead;
            last.ahead = last.ahead.saturating_add(set_back);
            let undone = last.jump.map_or(Duration::ZERO, |jump| jump.by.min(set_back));
            last.phantom = last.phantom.saturating_add(undone);
            last.jump = last.jump.map(|jump| Jump { by: jump.by.saturating_sub(undone), ..jump });
            report_ahead(before, last.ahead);
        }
        last.instant = instant;
        last.wall = wall;
        last.steady = last.steady.max(wall.saturating_add(last.ahead));
        last
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        self.read().steady
    }
}

/// Logged once for each time that the wall clock is set back so far.
fn report_ahead(before: Duration, ahead: Duration) {
    if ahead.saturating_sub(before) > WORTH_AN_ERROR {
        error!(
            ahead_s = ahead.as_secs(),
            "the machine's clock is behind the ledger's times: it was set back, or was ahead before. Times in the ledger \
             stay ahead of it while this process runs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    struct Set(Mutex<Timestamp>);

    impl Set {
        fn to(&self, at: Timestamp) {
            *self.0.lock().unwrap() = at;
        }
    }

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn set() -> (Arc<Set>, MonotonicClock) {
        let wall = Arc::new(Set(Mutex::new(START)));
        let steady = MonotonicClock::new(wall.clone(), START);
        (wall, steady)
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_holds_nothing_up_and_makes_nothing_young() {
        let (wall, steady) = set();
        wall.to(START.saturating_sub(Duration::from_secs(4_000)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(steady.now(), START.saturating_add(Duration::from_secs(60)));
        // The machine slept for an hour: only the wall clock has seen it.
        wall.to(START.saturating_sub(Duration::from_secs(400)));
        assert_eq!(steady.now(), START.saturating_add(Duration::from_secs(3_660)), "forward it is followed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_process_does_not_fall_behind_the_ledger() {
        let wall = Arc::new(ManualClock::new(START));
        let last_event = START.saturating_add(Duration::from_secs(500));
        let steady = MonotonicClock::new(wall, last_event);
        assert_eq!(steady.now(), last_event);
        assert_eq!(steady.ahead(), Duration::from_secs(500));
        assert_eq!(steady.confirmed_now(), Some(START), "nothing is given up because an earlier clock was ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_that_is_taken_back_gives_nothing_up() {
        let (wall, steady) = set();
        wall.to(START.saturating_add(Duration::from_secs(48 * 3_600)));
        assert_eq!(steady.confirmed_now(), None, "not by a clock that has just jumped");
        tokio::time::advance(Duration::from_secs(30)).await;
        wall.to(START.saturating_add(Duration::from_secs(30)));
        assert_eq!(steady.confirmed_now(), None);
        assert!(steady.now() >= START.saturating_add(Duration::from_secs(48 * 3_600)), "the engine's time stays ahead");
        tokio::time::advance(Duration::from_secs(60)).await;
        wall.to(START.saturating_add(Duration::from_secs(90)));
        assert_eq!(steady.confirmed_now(), Some(START.saturating_add(Duration::from_secs(90))));
        assert_eq!(steady.ahead(), Duration::from_secs(48 * 3_600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_is_believed_after_a_minute() {
        let (wall, steady) = set();
        wall.to(START.saturating_add(Duration::from_secs(7_200)));
        assert_eq!(steady.confirmed_now(), None);
        tokio::time::advance(Duration::from_secs(61)).await;
        wall.to(START.saturating_add(Duration::from_secs(7_261)));
        assert_eq!(steady.confirmed_now(), Some(START.saturating_add(Duration::from_secs(7_261))));
        assert_eq!(steady.ahead(), Duration::ZERO);
    }
}
