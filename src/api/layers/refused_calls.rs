//! Counts calls that are refused before their handler, logs them at most once a second, and tells
//! which sources make too many of them without a valid credential.
//!
//! A refused call is no event of the ledger: everyone who can connect could fill it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::access::credentials::InvalidCredential;
use crate::api::connection::{ConnectionHandle, PeerTransport};
use crate::telemetry::metrics::Metrics;

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum RefusalReason {
    Missing,
    Invalid(InvalidCredential),
    Scope,
    Quota,
}

pub(in crate::api) struct RefusedCalls {
    state: Mutex<RefusedState>,
    metrics: Metrics,
}

#[derive(Default)]
struct RefusedState {
    sources: HashMap<String, Failures>,
    last_line: Option<Instant>,
    /// Refused since the last line.
    unreported: u64,
}

/// The calls of one source without a valid credential.
struct Failures {
    count: u32,
    /// When the minute of the count began.
    since: Instant,
    slowed_until: Option<Instant>,
}

/// Calls of one source within [`WINDOW`] without a valid credential after which it is slowed down.
const MAX_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
const SLOW_TIME: Duration = Duration::from_secs(60);
/// Above it, sources whose time is over are forgotten, and then new ones are not counted.
const MAX_SOURCES: usize = 10_000;
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// All of [`RefusalReason::as_str`].
const REASONS: [&str; 4] = ["credentials_missing", "credentials_invalid", "scope_missing", "quota_exceeded"];

impl RefusalReason {
    /// As metrics name it.
    const fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Missing => "credentials_missing",
            RefusalReason::Invalid(_) => "credentials_invalid",
            RefusalReason::Scope => "scope_missing",
            RefusalReason::Quota => "quota_exceeded",
        }
    }

    /// As the log names it.
    const fn detail(self) -> &'static str {
        match self {
            RefusalReason::Invalid(invalid) => invalid.as_str(),
            other => other.as_str(),
        }
    }
}

impl RefusedCalls {
    pub(in crate::api) fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), metrics }
    }

    /// Makes the listener's series appear before its first refused call, so that `rate()` sees it.
    pub(in crate::api) fn declare(&self, listener: &str) {
        REASONS.iter().for_each(|reason| self.metrics.record_refused_calls(listener, reason, 0));
    }

    /// Counts a refused call. True where its source is to be slowed down.
    pub(in crate::api) fn record(&self, connection: Option<&ConnectionHandle>, reason: RefusalReason) -> bool {
        let listener = connection.map_or("listen", |connection| &connection.peer().listener);
        self.metrics.record_refused_calls(listener, reason.as_str(), 1);
        let source = source_of(connection);
        let mut state = self.lock();
        let now = Instant::now();
        let is_counted =
            matches!(reason, RefusalReason::Missing | RefusalReason::Invalid(_)) && is_own_source(connection);
        let is_slowed = is_counted && state.count(&source, now);
        if state.last_line.is_some_and(|last| now.duration_since(last) < LINE_INTERVAL) {
            state.unreported = state.unreported.saturating_add(1);
            return is_slowed;
        }
        state.last_line = Some(now);
        let unreported = std::mem::take(&mut state.unreported);
        drop(state);
        warn!(listener, source, reason = reason.detail(), unreported, "call refused");
        is_slowed
    }

    fn lock(&self) -> MutexGuard<'_, RefusedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusedState {
    /// True where the source is slowed down.
    fn count(&mut self, source: &str, now: Instant) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(source) {
            self.sources.retain(|_, failures| failures.is_current(now));
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let failures = self.sources.entry(source.to_owned()).or_insert(Failures::new(now));
        if !failures.is_current(now) {
            *failures = Failures::new(now);
        }
        failures.count = failures.count.saturating_add(1);
        if failures.count >= MAX_FAILURES {
            failures.slowed_until = Some(now + SLOW_TIME);
        }
        failures.count > MAX_FAILURES
    }
}

impl Failures {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now, slowed_until: None }
    }

    fn is_current(&self, now: Instant) -> bool {
        match self.slowed_until {
            Some(until) => now < until,
            None => now.duration_since(self.since) < WINDOW,
        }
    }
}

/// Behind a proxy one caller's failures would slow down all others.
fn is_own_source(connection: Option<&ConnectionHandle>) -> bool {
    connection.is_none_or(|connection| connection.peer().is_own_source)
}

/// Whose failures are counted together: an address, an IPv6 network of 64 bits, a user.
fn source_of(connection: Option<&ConnectionHandle>) -> String {
    let address = match connection.map(|connection| &connection.peer().transport) {
        Some(PeerTransport::Plaintext { address } | PeerTransport::Tls { address, .. }) => address.ip().to_canonical(),
        Some(PeerTransport::Unix { user, .. }) => return format!("uid:{user}"),
        None => return "unknown".to_owned(),
    };
    match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => {
            let [one, two, three, four, ..] = address.segments();
            format!("{one:x}:{two:x}:{three:x}:{four:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// How many of these calls are slowed down.
    fn slowed(refused: &RefusedCalls, reason: RefusalReason, times: usize) -> usize {
        (0..times).filter(|_| refused.record(None, reason)).count()
    }

    #[rstest]
    #[case::unknown(RefusalReason::Invalid(InvalidCredential::Unknown))]
    #[case::none(RefusalReason::Missing)]
    #[tokio::test(start_paused = true)]
    async fn ten_calls_within_a_minute_without_a_valid_credential_slow_their_source_down(
        #[case] reason: RefusalReason,
    ) {
        let refused = RefusedCalls::new(Metrics::off());
        assert_eq!(slowed(&refused, reason, 9), 0);
        tokio::time::advance(WINDOW).await;
        assert_eq!(slowed(&refused, reason, 10), 0, "the minute began anew");
        assert_eq!(slowed(&refused, reason, 3), 3);
        tokio::time::advance(SLOW_TIME - Duration::from_millis(1)).await;
        assert_eq!(slowed(&refused, reason, 1), 1);
        tokio::time::advance(SLOW_TIME).await;
        assert_eq!(slowed(&refused, reason, 10), 0, "it starts with none");
    }

    #[tokio::test(start_paused = true)]
    async fn other_refusals_slow_no_source_down() {
        let refused = RefusedCalls::new(Metrics::off());
        for reason in [RefusalReason::Scope, RefusalReason::Quota] {
            assert_eq!(slowed(&refused, reason, 100), 0);
        }
        assert_eq!(slowed(&refused, RefusalReason::Missing, 1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_for_sources_is_bounded() {
        let mut state = RefusedState::default();
        let now = Instant::now();
        for number in 0..MAX_SOURCES + 10 {
            state.count(&number.to_string(), now);
        }
        assert_eq!(state.sources.len(), MAX_SOURCES);
        state.count("one more", now + WINDOW);
        assert_eq!(state.sources.len(), 1);
    }
}
