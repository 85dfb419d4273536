//! The clock of a world: it runs with the system's, stands still, or jumps forward. The only file
//! of this crate that asks the system for the time.
//!
//! Everything that depends on time (refund periods, AGP windows, key lifetimes, settlement, late
//! commits, stale lookups, rate limits, journal times) takes `now` as an argument, and that `now`
//! comes from here. Only a fault's delay is a real wait.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// The furthest that a clock can be ahead of the system's: a hundred years keep every date
/// printable.
pub const MAX_AHEAD: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A clock that runs with the system's or stands still, and can be moved forward. In JSON it is
/// what it shows: taken up again it goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(into = "Shown", try_from = "Shown")]
pub struct Clock {
    state: State,
}

/// What a clock shows, as the control port tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Reading {
    /// The world's time, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub now: OffsetDateTime,
    /// Whether it runs; if not, it stands still until it is moved or runs again.
    pub running: bool,
    /// How far it is ahead of the system's clock, in whole seconds; below zero where it stands and
    /// time goes by.
    pub offset_seconds: i64,
}

/// Why a clock was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotMoved {
    /// Time does not run backwards: what has happened has happened.
    #[error("the clock only moves forward")]
    Backward,
    /// Beyond [`MAX_AHEAD`].
    #[error("the clock moves at most {} s ahead of the system's", MAX_AHEAD.as_secs())]
    TooFar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs { ahead: time::Duration },
    Stands { at: OffsetDateTime },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
struct Shown {
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    now: OffsetDateTime,
    running: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { state: State::Runs { ahead: time::Duration::ZERO } }
    }
}

impl Clock {
    /// The world's time.
    pub fn now(&self) -> OffsetDateTime {
        match self.state {
            State::Runs { ahead } => {
                let system = system_now();
                system.checked_add(ahead).unwrap_or(system)
            }
            State::Stands { at } => at,
        }
    }

    /// What it shows.
    pub fn read(&self) -> Reading {
        let offset_seconds = match self.state {
            State::Runs { ahead } => ahead.whole_seconds(),
            State::Stands { at } => (at - system_now()).whole_seconds(),
        };
        Reading { now: self.now(), running: matches!(self.state, State::Runs { .. }), offset_seconds }
    }

    /// Moves it forward, and tells the new reading.
    ///
    /// # Errors
    /// It would lead beyond [`MAX_AHEAD`]; then nothing moved.
    pub fn advance(&mut self, by: Duration) -> Result<Reading, NotMoved> {
        let by = time::Duration::try_from(by).map_err(|_| NotMoved::TooFar)?;
        let moved = match self.state {
            State::Runs { ahead } => ahead.checked_add(by).map(|ahead| State::Runs { ahead }),
            State::Stands { at } => at.checked_add(by).map(|at| State::Stands { at }),
        };
        self.take(moved.ok_or(NotMoved::TooFar)?)
    }

    /// Moves it forward to a time, and tells the new reading; a clock that stands stands there.
    ///
    /// # Errors
    /// The time is past, or beyond [`MAX_AHEAD`]; then nothing moved.
    pub fn set(&mut self, to: OffsetDateTime) -> Result<Reading, NotMoved> {
        if to < self.now() {
            return Err(NotMoved::Backward);
        }
        self.take(match self.state {
            State::Runs { .. } => State::Runs { ahead: to - system_now() },
            State::Stands { .. } => State::Stands { at: to },
        })
    }

    fn take(&mut self, state: State) -> Result<Reading, NotMoved> {
        let ahead = match state {
            State::Runs { ahead } => ahead,
            State::Stands { at } => at - system_now(),
        };
        if ahead > MAX_AHEAD {
            return Err(NotMoved::TooFar);
        }
        self.state = state;
        Ok(self.read())
    }

    /// Lets it stand still where it is.
    pub fn stop(&mut self) {
        self.state = State::Stands { at: self.now() };
    }

    /// Lets it run on from what it shows.
    pub fn run(&mut self) {
        if let State::Stands { at } = self.state {
            self.state = State::Runs { ahead: at - system_now() };
        }
    }
}

impl From<Clock> for Shown {
    fn from(clock: Clock) -> Shown {
        Shown { now: clock.now(), running: matches!(clock.state, State::Runs { .. }) }
    }
}

impl TryFrom<Shown> for Clock {
    type Error = NotMoved;

    fn try_from(Shown { now, running }: Shown) -> Result<Clock, NotMoved> {
        let ahead = now - system_now();
        if ahead > MAX_AHEAD {
            return Err(NotMoved::TooFar);
        }
        Ok(Clock { state: if running { State::Runs { ahead } } else { State::Stands { at: now } } })
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
    fn it_moves_forward_and_no_further_than_a_hundred_years() {
        let mut clock = Clock::default();
        let before = clock.now();
        let reading = clock.advance(DAY).unwrap();
        assert!(reading.offset_seconds == 86_400 && reading.running);
        assert!(clock.now() - before >= DAY);
        assert_eq!(clock.advance(MAX_AHEAD), Err(NotMoved::TooFar));
        assert_eq!(clock.advance(Duration::MAX), Err(NotMoved::TooFar));
        assert_eq!(clock.set(before), Err(NotMoved::Backward));
    }

    #[test]
    fn it_stands_still_jumps_standing_and_runs_on_from_there() {
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
