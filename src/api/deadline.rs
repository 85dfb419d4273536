//! The caller's deadline, answered just before it passes.
//!
//! Left to itself, the transport answers a passed deadline with CANCELLED and drops the handler; a
//! caller could not tell it from a lost connection. So every handler answers a little earlier.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::api::status;

/// When a call must be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

/// For callers that give no deadline: no read takes so long, and no commit.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(60);
/// A timeout of thousands of hours is no timeout.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);
/// The answer's way out of the process.
const MIN_MARGIN: Duration = Duration::from_millis(10);

impl Deadline {
    /// Reads `grpc-timeout`; without a readable one, a minute.
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        Self::within(given_in(metadata).unwrap_or(WITHOUT_DEADLINE))
    }

    /// The same for a stream, which without a deadline goes on for as long as its reader stays.
    pub(super) fn of_stream(metadata: &MetadataMap) -> Self {
        Self::within(given_in(metadata).unwrap_or(FAR))
    }

    fn within(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(FAR))
    }

    /// The moment to answer at.
    pub(super) fn instant(self) -> Instant {
        self.0
    }

    /// The end of a wait that the caller asked for, within the deadline and the server's own limit.
    /// None: as long as these allow.
    pub(super) fn wait(self, asked: Option<Duration>, limit: Duration) -> Instant {
        (Instant::now() + asked.unwrap_or(limit).min(limit)).min(self.0)
    }

    /// Runs work that records nothing, and answers `DEADLINE_EXCEEDED` where it takes too long.
    pub(super) async fn bound<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        timeout_at(self.0, work).await.unwrap_or_else(|_| Err(status::deadline()))
    }
}

/// What the caller allows, less the margin.
fn given_in(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = metadata.get("grpc-timeout")?.to_str().ok().and_then(timeout_of)?;
    Some(timeout.saturating_sub(MIN_MARGIN.max(timeout / 20)))
}

/// The wire form: at most eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("5S", Some(5_000))]
    #[case("250m", Some(250))]
    #[case("99999999H", Some(99_999_999 * 3_600_000))]
    #[case("1000000u", Some(1_000))]
    #[case("123456789S", None)]
    #[case("S", None)]
    #[case("", None)]
    #[case("5s", None)]
    #[case("-5S", None)]
    #[case("5é", None)]
    fn the_wire_form_is_read(#[case] text: &str, #[case] millis: Option<u64>) {
        assert_eq!(timeout_of(text), millis.map(Duration::from_millis));
    }
}
