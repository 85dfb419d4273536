//! The caller's deadline. Every handler answers just before it passes.
//!
//! Otherwise the transport would answer CANCELLED and drop the handler, which a caller could not
//! distinguish from a lost connection.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::api::status;
use crate::engine::EngineError;

/// When a call must be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

/// For calls without a deadline: longer than any read or commit takes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Upper bound, which keeps `Instant` from overflowing.
const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3600);
/// Time for the answer to leave the process.
const MIN_MARGIN: Duration = Duration::from_millis(10);

impl Deadline {
    /// From `grpc-timeout`; a minute if it is missing or invalid.
    pub(super) fn from_metadata(metadata: &MetadataMap) -> Self {
        Self::after(timeout_in(metadata).unwrap_or(DEFAULT_TIMEOUT))
    }

    /// The same for a stream, which without a deadline lasts until its reader leaves.
    pub(super) fn for_stream(metadata: &MetadataMap) -> Self {
        Self::after(timeout_in(metadata).unwrap_or(MAX_TIMEOUT))
    }

    fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(MAX_TIMEOUT))
    }

    /// When to answer.
    pub(super) fn instant(self) -> Instant {
        self.0
    }

    /// The end of a wait of the requested length, at most the deadline and the server's own limit.
    /// None: as long as these allow.
    pub(super) fn wait(self, requested: Option<Duration>, limit: Duration) -> Instant {
        (Instant::now() + requested.unwrap_or(limit).min(limit)).min(self.0)
    }

    /// Runs work that goes on without its caller. Answers DEADLINE_EXCEEDED without a guarantee if
    /// it takes too long.
    pub(super) async fn recorded<T>(self, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, Status> {
        match timeout_at(self.0, work).await {
            Ok(result) => result.map_err(status::from_engine),
            Err(_) => Err(status::outcome_unknown(Code::DeadlineExceeded, "the deadline passed")),
        }
    }

    /// Runs work that records nothing. Answers `DEADLINE_EXCEEDED` if it takes too long.
    pub(super) async fn bound<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        timeout_at(self.0, work).await.unwrap_or_else(|_| Err(status::deadline()))
    }
}

/// The caller's timeout, less a margin.
fn timeout_in(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = metadata.get("grpc-timeout")?.to_str().ok().and_then(parse_timeout)?;
    Some(timeout.saturating_sub(MIN_MARGIN.max(timeout / 20)))
}

/// The wire format: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
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
    fn the_wire_format_is_parsed(#[case] text: &str, #[case] millis: Option<u64>) {
        assert_eq!(parse_timeout(text), millis.map(Duration::from_millis));
    }
}
