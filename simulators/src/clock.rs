//! The clock of a world: the system's time, moved forward on demand. The only file of this crate that asks the system for the time.
//!
//! Everything that depends on time (refund periods, AGP windows, key lifetimes, settlement, rate limits, journal times) takes
//! `now` as an argument, and that `now` comes from here. Only a fault's delay is a real wait.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

/// The furthest that a clock can be moved in total: a hundred years keep every date printable.
pub const FURTHEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A clock that runs with the system's and can be moved forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    offset: Duration,
}

/// What a clock shows, as the control port tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// The world's time, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// How far it is ahead of the system's clock, in seconds.
    pub offset_seconds: u64,
}

impl Clock {
    /// The world's time.
    pub fn now(&self) -> OffsetDateTime {
        system_now() + self.offset
    }

    /// What it shows.
    pub fn read(&self) -> Reading {
        Reading { now: self.now(), offset_seconds: self.offset.as_secs() }
    }

    /// Moves it forward, and tells the new reading; none, and nothing moved, where that would lead beyond [`FURTHEST`].
    pub fn advance(&mut self, by: Duration) -> Option<Reading> {
        let offset = self.offset.checked_add(by).filter(|offset| *offset <= FURTHEST)?;
        self.offset = offset;
        Some(self.read())
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

    #[test]
    fn it_moves_forward_and_no_further_than_a_hundred_years() {
        let mut clock = Clock::default();
        let before = clock.now();
        assert_eq!(clock.advance(Duration::from_secs(86_400)).unwrap().offset_seconds, 86_400);
        assert!(clock.now() - before >= time::Duration::DAY);
        assert_eq!(clock.advance(FURTHEST), None);
        assert_eq!(clock.advance(Duration::MAX), None);
        assert_eq!(clock.read().offset_seconds, 86_400);
    }
}
