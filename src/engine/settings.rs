//! What the operator sets for the engine.

use std::time::Duration;

use crate::engine::circuit_breaker::CircuitBreakerSettings;
use crate::engine::decide::{Backoff, Schedule};

/// What the operator sets for the engine.
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
    /// The number of event streams that may be open at the same time.
    pub max_event_streams: usize,
}
