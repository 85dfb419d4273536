//! What the operator sets for the engine.

use std::time::Duration;

use crate::engine::circuit_breaker::CircuitBreakerSettings;
use crate::engine::decide::{Backoff, Schedule};

/// The engine's settings. The defaults are those of a gateway in production.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// How refunds that were provably not processed are spread over time.
    pub backoff: Backoff,
    /// When refunds in doubt are looked up at their provider.
    pub schedule: Schedule,
    /// How long a rejection is looked up once a day, since the provider may correct it. Zero: not
    /// at all.
    pub rejection_follow_up: Duration,
    /// When an account is suspended, and when it is probed.
    pub circuit: CircuitBreakerSettings,
    /// How long a lookup answers callers who ask for another one. Zero: not at all.
    pub reconcile_interval: Duration,
    /// The number of event streams that may be open at the same time.
    pub max_event_streams: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) },
            schedule: Schedule {
                first: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
                then_every: Duration::from_secs(24 * 3_600),
            },
            rejection_follow_up: Duration::from_secs(7 * 24 * 3_600),
            circuit: CircuitBreakerSettings::default(),
            reconcile_interval: Duration::from_secs(5),
            max_event_streams: 128,
        }
    }
}
