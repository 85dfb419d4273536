//! The engine's clock: it never runs backwards, and never slower than time really passes.
//!
//! A wall clock that is set back would make an idempotency key look younger than it is, and delay
//! what is due. So the engine's time does not follow a wall clock that falls behind the operating
//! system's monotonic clock. It does follow one that is set forward: the time that a machine slept,
//! which the monotonic clock does not count, shows only in the wall clock, even one that was set
//! back before. Across a restart, the ledger's last event is the lower bound.
//!
//! The cost: a wall clock that jumps forward and back leaves the engine's time ahead. Expiry is
//! final, so it uses [`MonotonicClock::confirmed_now`], which undoes such a jump.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::domain::clock::{Clock, Timestamp};

/// The engine's clock, made from a wall clock.
pub(super) struct MonotonicClock {
    wall: Arc<dyn Clock>,
    last: Mutex<Reading>,
}

/// What the clocks showed when they were last read.
struct Reading {
    instant: Instant,
    wall: Timestamp,
    engine_time: Timestamp,
    /// How far the wall clock has been set back in total.
    ahead: Duration,
    /// The part of `ahead` that undid an earlier jump of the wall clock.
    phantom: Duration,
    /// A jump forward that may still be undone.
    jump: Option<Jump>,
    /// How far the wall clock has jumped forward in total.
    jumped: Duration,
}

/// How far the wall clock jumped ahead of the monotonic one, and when.
#[derive(Clone, Copy)]
struct Jump {
    by: Duration,
    at: Instant,
}

/// Smaller differences are ignored: two clocks that are read one after the other differ a little,
/// and a daemon corrects the wall clock a little.
const TOLERANCE: Duration = Duration::from_millis(100);
/// After a jump this large the machine has slept or the clock is wrong; only time shows which.
const LARGE_JUMP: Duration = Duration::from_secs(3_600);
/// How long a jump must last before a refund expires because of it.
const CONFIRMATION: Duration = Duration::from_secs(60);
/// An error is logged when the wall clock is set back by more than this.
const MAX_UNREPORTED_SET_BACK: Duration = Duration::from_secs(60);

impl MonotonicClock {
    /// Begins at the wall clock's time, but not before `last_event`, the time of the ledger's last
    /// event.
    pub(super) fn new(wall: Arc<dyn Clock>, last_event: Timestamp) -> Self {
        let now = wall.now();
        let ahead = last_event.saturating_duration_since(now);
        report_ahead(Duration::ZERO, ahead);
        let begin = Reading {
            instant: Instant::now(),
            wall: now,
            engine_time: now.max(last_event),
            ahead,
            // Either clock may have been wrong, so nothing expires because of the difference.
            phantom: ahead,
            jump: None,
            jumped: Duration::ZERO,
        };
        Self { wall, last: Mutex::new(begin) }
    }

    /// How far this clock is ahead of the wall clock.
    pub(super) fn ahead(&self) -> Duration {
        let engine_time = self.now();
        engine_time.saturating_duration_since(self.wall.now())
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
        Some(last.engine_time.saturating_sub(last.phantom))
    }

    /// The present time without any jump forward since the start. Time that the machine slept is
    /// missing too: what waits by this clock waits long enough in any case.
    pub(super) fn jumpless_now(&self) -> Timestamp {
        let last = self.read();
        last.engine_time.saturating_sub(last.jumped)
    }

    fn read(&self) -> std::sync::MutexGuard<'_, Reading> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (instant, wall) = (Instant::now(), self.wall.now());
        let expected = last.wall.saturating_add(instant.duration_since(last.instant));
        let (set_back, jumped) = (expected.saturating_duration_since(wall), wall.saturating_duration_since(expected));
        if jumped > TOLERANCE {
            last.jumped = last.jumped.saturating_add(jumped);
        }
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
        last.engine_time = last.engine_time.max(wall.saturating_add(last.ahead));
        last
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        self.read().engine_time
    }
}

/// Logs each time that the wall clock is set back far.
fn report_ahead(before: Duration, ahead: Duration) {
    if ahead.saturating_sub(before) > MAX_UNREPORTED_SET_BACK {
        error!(
            ahead_s = ahead.as_secs(),
            "the machine's clock is behind the ledger's times: it was set back, or it was ahead before. Times in the \
             ledger stay ahead of it while this process runs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    struct SettableClock(Mutex<Timestamp>);

    impl SettableClock {
        fn set(&self, at: Timestamp) {
            *self.0.lock().unwrap() = at;
        }
    }

    impl Clock for SettableClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn clocks() -> (Arc<SettableClock>, MonotonicClock) {
        let wall = Arc::new(SettableClock(Mutex::new(START)));
        let clock = MonotonicClock::new(wall.clone(), START);
        (wall, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_back_does_not_slow_the_engine_down() {
        let (wall, clock) = clocks();
        wall.set(START.saturating_sub(Duration::from_secs(4_000)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.now(), START.saturating_add(Duration::from_secs(60)));
        // The machine slept for an hour, which only the wall clock shows.
        wall.set(START.saturating_sub(Duration::from_secs(400)));
        assert_eq!(clock.now(), START.saturating_add(Duration::from_secs(3_660)), "a jump forward is followed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_process_does_not_start_behind_the_ledger() {
        let wall = Arc::new(ManualClock::new(START));
        let last_event = START.saturating_add(Duration::from_secs(500));
        let clock = MonotonicClock::new(wall, last_event);
        assert_eq!(clock.now(), last_event);
        assert_eq!(clock.ahead(), Duration::from_secs(500));
        assert_eq!(clock.confirmed_now(), Some(START), "nothing expires because an earlier clock was ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_that_is_undone_expires_nothing() {
        let (wall, clock) = clocks();
        wall.set(START.saturating_add(Duration::from_secs(48 * 3_600)));
        assert_eq!(clock.confirmed_now(), None, "the clock has just jumped");
        tokio::time::advance(Duration::from_secs(30)).await;
        wall.set(START.saturating_add(Duration::from_secs(30)));
        assert_eq!(clock.confirmed_now(), None);
        assert!(clock.now() >= START.saturating_add(Duration::from_secs(48 * 3_600)), "the engine's time stays ahead");
        tokio::time::advance(Duration::from_secs(60)).await;
        wall.set(START.saturating_add(Duration::from_secs(90)));
        assert_eq!(clock.confirmed_now(), Some(START.saturating_add(Duration::from_secs(90))));
        assert_eq!(clock.ahead(), Duration::from_secs(48 * 3_600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_is_confirmed_after_a_minute() {
        let (wall, clock) = clocks();
        wall.set(START.saturating_add(Duration::from_secs(7_200)));
        assert_eq!(clock.confirmed_now(), None);
        tokio::time::advance(Duration::from_secs(61)).await;
        wall.set(START.saturating_add(Duration::from_secs(7_261)));
        assert_eq!(clock.confirmed_now(), Some(START.saturating_add(Duration::from_secs(7_261))));
        assert_eq!(clock.ahead(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_forward_makes_nothing_older_by_the_jumpless_clock() {
        let (wall, clock) = clocks();
        for (elapsed, wall_shows) in [(10, 10), (20, 3_000), (30, 3_010), (40, 40), (50, 9_000)] {
            tokio::time::advance(Duration::from_secs(10)).await;
            wall.set(START.saturating_add(Duration::from_secs(wall_shows)));
            assert_eq!(clock.jumpless_now(), START.saturating_add(Duration::from_secs(elapsed)), "at {wall_shows}");
        }
        assert!(clock.now() > START.saturating_add(Duration::from_secs(9_000)), "the engine's clock follows a jump");
    }
}
