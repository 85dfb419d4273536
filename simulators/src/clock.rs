//! The clock of a world: it runs with the system's clock, is paused, or jumps forward. The only
//! file of this crate that reads the system clock.
//!
//! Everything that depends on time (refund periods, AGP windows, key lifetimes, settlement, late
//! commits, stale lookups, rate limits, journal times) takes `now` as an argument, and that `now`
//! comes from here. Only a fault's delay is a real wait.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// The maximum by which a clock can be ahead of the system's: within a hundred years every date can
/// be printed.
pub const MAX_AHEAD: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A clock that runs with the system's or is paused, and can be moved forward. In JSON it is the
/// time that it shows, from which it continues when it is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(into = "ClockJson", try_from = "ClockJson")]
pub struct Clock {
    timing: Timing,
}

/// What a clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct ClockStatus {
    /// The world's time, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub now: OffsetDateTime,
    /// Whether it runs. If not, it is paused.
    pub running: bool,
    /// How far it is ahead of the system's clock, in whole seconds. A paused clock can fall behind:
    /// then this is negative.
    pub offset_seconds: i64,
}

/// Why a clock cannot be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClockError {
    /// Time does not run backwards.
    #[error("the clock only moves forward")]
    Backward,
    /// Beyond [`MAX_AHEAD`].
    #[error("the clock moves at most {} s ahead of the system's", MAX_AHEAD.as_secs())]
    TooFar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    Running { ahead: time::Duration },
    Paused { at: OffsetDateTime },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct ClockJson {
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    now: OffsetDateTime,
    running: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { timing: Timing::Running { ahead: time::Duration::ZERO } }
    }
}

impl Clock {
    /// The world's time.
    pub fn now(&self) -> OffsetDateTime {
        match self.timing {
            Timing::Running { ahead } => {
                let system = system_now();
                system.checked_add(ahead).unwrap_or(system)
            }
            Timing::Paused { at } => at,
        }
    }

    /// The time and how it passes.
    pub fn read(&self) -> ClockStatus {
        let offset_seconds = match self.timing {
            Timing::Running { ahead } => ahead.whole_seconds(),
            Timing::Paused { at } => (at - system_now()).whole_seconds(),
        };
        ClockStatus { now: self.now(), running: matches!(self.timing, Timing::Running { .. }), offset_seconds }
    }

    /// Moves it forward and returns the new status.
    ///
    /// # Errors
    /// It would be more than [`MAX_AHEAD`] ahead. Then it is not moved.
    pub fn advance(&mut self, by: Duration) -> Result<ClockStatus, ClockError> {
        let by = time::Duration::try_from(by).map_err(|_| ClockError::TooFar)?;
        let moved = match self.timing {
            Timing::Running { ahead } => ahead.checked_add(by).map(|ahead| Timing::Running { ahead }),
            Timing::Paused { at } => at.checked_add(by).map(|at| Timing::Paused { at }),
        };
        self.set_timing(moved.ok_or(ClockError::TooFar)?)
    }

    /// Moves it forward to a time and returns the new status. A paused clock stays paused.
    ///
    /// # Errors
    /// The time is past, or more than [`MAX_AHEAD`] ahead. Then it is not moved.
    pub fn set(&mut self, to: OffsetDateTime) -> Result<ClockStatus, ClockError> {
        if to < self.now() {
            return Err(ClockError::Backward);
        }
        self.set_timing(match self.timing {
            Timing::Running { .. } => Timing::Running { ahead: to - system_now() },
            Timing::Paused { .. } => Timing::Paused { at: to },
        })
    }

    fn set_timing(&mut self, timing: Timing) -> Result<ClockStatus, ClockError> {
        let ahead = match timing {
            Timing::Running { ahead } => ahead,
            Timing::Paused { at } => at - system_now(),
        };
        if ahead > MAX_AHEAD {
            return Err(ClockError::TooFar);
        }
        self.timing = timing;
        Ok(self.read())
    }

    /// Pauses it.
    pub fn stop(&mut self) {
        self.timing = Timing::Paused { at: self.now() };
    }

    /// Lets it run from the time that it shows.
    pub fn run(&mut self) {
        if let Timing::Paused { at } = self.timing {
            self.timing = Timing::Running { ahead: at - system_now() };
        }
    }
}

impl From<Clock> for ClockJson {
    fn from(clock: Clock) -> ClockJson {
        ClockJson { now: clock.now(), running: matches!(clock.timing, Timing::Running { .. }) }
    }
}

impl TryFrom<ClockJson> for Clock {
    type Error = ClockError;

    fn try_from(ClockJson { now, running }: ClockJson) -> Result<Clock, ClockError> {
        let ahead = now - system_now();
        if ahead > MAX_AHEAD {
            return Err(ClockError::TooFar);
        }
        Ok(Clock { timing: if running { Timing::Running { ahead } } else { Timing::Paused { at: now } } })
    }
}

/// The system's time.
#[expect(clippy::disallowed_methods, reason = "the one place where the simulators read the system clock")]
pub(crate) fn system_now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn it_moves_forward_at_most_a_hundred_years() {
        let mut clock = Clock::default();
        let before = clock.now();
        let reading = clock.advance(DAY).unwrap();
        assert!(reading.offset_seconds == 86_400 && reading.running);
        assert!(clock.now() - before >= DAY);
        assert_eq!(clock.advance(MAX_AHEAD), Err(ClockError::TooFar));
        assert_eq!(clock.advance(Duration::MAX), Err(ClockError::TooFar));
        assert_eq!(clock.set(before), Err(ClockError::Backward));
    }

    #[test]
    fn a_paused_clock_can_jump_and_runs_on_from_there() {
        let mut clock = Clock::default();
        clock.stop();
        let at = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), at);
        assert_eq!(clock.advance(DAY).unwrap().now, at + DAY);
        let again: Clock = serde_json::from_value(serde_json::to_value(clock).unwrap()).unwrap();
        assert_eq!(again, clock);
        clock.run();
        assert!(clock.now() >= at + DAY && clock.read().running);
    }
}
