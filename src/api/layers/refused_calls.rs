//! Counts calls that are refused before their handler, logs them at most once a second, and blocks
//! a source with too many wrong credentials for a while.
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
    /// Not looked at: its source has shown too many wrong credentials.
    Blocked,
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

/// The wrong credentials of one source.
struct Failures {
    count: u32,
    /// When the minute of the count began.
    since: Instant,
    blocked_until: Option<Instant>,
}

/// Wrong credentials of one source within [`WINDOW`] after which it is blocked.
const MAX_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
const BLOCK_TIME: Duration = Duration::from_secs(60);
/// Above it, sources whose time is over are forgotten, and then new ones are not counted.
const MAX_SOURCES: usize = 10_000;
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// All of [`RefusalReason::as_str`].
const REASONS: [&str; 5] = ["credentials_missing", "credentials_invalid", "blocked", "scope_missing", "quota_exceeded"];

impl RefusalReason {
    /// As metrics name it.
    const fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Missing => "credentials_missing",
            RefusalReason::Invalid(_) => "credentials_invalid",
            RefusalReason::Blocked => "blocked",
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

    /// Whether wrong credentials of this connection's source are not looked at.
    pub(in crate::api) fn is_blocked(&self, connection: Option<&ConnectionHandle>) -> bool {
        let state = self.lock();
        // The usual case, before a name is made.
        if state.sources.is_empty() || !is_own_source(connection) {
            return false;
        }
        let failures = state.sources.get(&source_of(connection));
        failures.and_then(|failures| failures.blocked_until).is_some_and(|until| Instant::now() < until)
    }

    pub(in crate::api) fn record(&self, connection: Option<&ConnectionHandle>, reason: RefusalReason) {
        let listener = connection.map_or("listen", |connection| &connection.peer().listener);
        self.metrics.record_refused_calls(listener, reason.as_str(), 1);
        let source = source_of(connection);
        let mut state = self.lock();
        let now = Instant::now();
        if matches!(reason, RefusalReason::Invalid(_)) && is_own_source(connection) {
            state.count(&source, now);
        }
        if state.last_line.is_some_and(|last| now.duration_since(last) < LINE_INTERVAL) {
            state.unreported = state.unreported.saturating_add(1);
            return;
        }
        state.last_line = Some(now);
        let unreported = std::mem::take(&mut state.unreported);
        drop(state);
        warn!(listener, source, reason = reason.detail(), unreported, "call refused");
    }

    fn lock(&self) -> MutexGuard<'_, RefusedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusedState {
    fn count(&mut self, source: &str, now: Instant) {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(source) {
            self.sources.retain(|_, failures| failures.is_current(now));
            if self.sources.len() >= MAX_SOURCES {
                return;
            }
        }
        let failures = self.sources.entry(source.to_owned()).or_insert(Failures::new(now));
        if !failures.is_current(now) {
            *failures = Failures::new(now);
        }
        failures.count = failures.count.saturating_add(1);
        if failures.count >= MAX_FAILURES {
            failures.blocked_until = Some(now + BLOCK_TIME);
        }
    }
}

impl Failures {
    fn new(now: Instant) -> Self {
        Self { count: 0, since: now, blocked_until: None }
    }

    fn is_current(&self, now: Instant) -> bool {
        match self.blocked_until {
            Some(until) => now < until,
            None => now.duration_since(self.since) < WINDOW,
        }
    }
}

/// Behind a proxy one caller's failures would block all others.
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
    use super::*;

    fn wrong(refused: &RefusedCalls, times: usize) {
        for _ in 0..times {
            refused.record(None, RefusalReason::Invalid(InvalidCredential::Unknown));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_credentials_within_a_minute_block_their_source_for_a_minute() {
        let refused = RefusedCalls::new(Metrics::off());
        wrong(&refused, 9);
        assert!(!refused.is_blocked(None));
        tokio::time::advance(WINDOW).await;
        wrong(&refused, 9);
        assert!(!refused.is_blocked(None), "the minute began anew");
        wrong(&refused, 1);
        assert!(refused.is_blocked(None));
        tokio::time::advance(BLOCK_TIME - Duration::from_millis(1)).await;
        assert!(refused.is_blocked(None));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!refused.is_blocked(None));
        wrong(&refused, 1);
        assert!(!refused.is_blocked(None), "it starts with none");
    }

    #[tokio::test(start_paused = true)]
    async fn other_refusals_block_no_source() {
        let refused = RefusedCalls::new(Metrics::off());
        for reason in [RefusalReason::Missing, RefusalReason::Scope, RefusalReason::Quota, RefusalReason::Blocked] {
            (0..100).for_each(|_| refused.record(None, reason));
        }
        assert!(!refused.is_blocked(None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_for_sources_is_bounded() {
        let mut state = RefusedState::default();
        let now = Instant::now();
        (0..MAX_SOURCES + 10).for_each(|number| state.count(&number.to_string(), now));
        assert_eq!(state.sources.len(), MAX_SOURCES);
        state.count("one more", now + WINDOW);
        assert_eq!(state.sources.len(), 1);
    }
}
