//! The random mode: it draws for each request whether something goes wrong, and what, from a seed
//! and the request's coordinates.
//!
//! The draw does not depend on the order of arrival, so that a run with a hundred clients meets the
//! same faults again even if they interleave differently.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Coordinates, FaultEffect, Point, RuleError, checks};
use crate::{
    request::Provider,
    seeded_rng::{SPLITMIX64_GAMMA, splitmix64_finalize},
};

/// The maximum number of effects to draw from.
const MAX_EFFECTS: usize = 100;

/// The random mode's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// The seed. The same seed draws the same faults.
    #[schemars(extend("x-optional" = true))]
    pub seed: u64,
    /// The share of requests that a fault happens to, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// The faults to draw from, all equally likely.
    #[serde(default = "default_effects")]
    #[schemars(length(min = 1, max = 100))]
    pub effects: Vec<RandomFault>,
    /// The provider; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The call; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// A fault that can be drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct RandomFault {
    /// The point.
    pub point: Point,
    /// The effect.
    pub effect: FaultEffect,
}

impl Random {
    pub(super) fn check(&self) -> Result<(), RuleError> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(RuleError::Share);
        }
        if !(1..=MAX_EFFECTS).contains(&self.effects.len()) {
            return Err(RuleError::Effects);
        }
        for RandomFault { point, effect } in &self.effects {
            if matches!(point, Point::Connect | Point::BeforeRead) {
                return Err(RuleError::DrawnPoint(point.name()));
            }
            checks::at_point(*point, effect)?;
            checks::amounts(effect)?;
            if let Some(provider) = self.provider {
                checks::of_provider(provider, effect)?;
            }
        }
        let Some(operation) = &self.operation else { return Ok(()) };
        let mut providers =
            Provider::ALL.into_iter().filter(|provider| self.provider.is_none_or(|only| only == *provider));
        let Some(first) = providers.clone().next() else { return Ok(()) };
        if providers.any(|provider| provider.operations().contains(&operation.as_str())) {
            return Ok(());
        }
        let (provider, known) = (first.name(), first.operations());
        Err(RuleError::Operation { provider, operation: operation.clone(), known })
    }

    /// The fault of a request, if one is drawn.
    pub(crate) fn draw(&self, at: &Coordinates) -> Option<&RandomFault> {
        let fits = self.provider.is_none_or(|provider| provider == at.provider)
            && self.operation.as_ref().is_none_or(|operation| *operation == at.operation);
        if !fits || at.operation.is_empty() {
            return None;
        }
        let drawn = number(self.seed, at);
        if share(drawn) >= self.share {
            return None;
        }
        // Not the number that chose the request, or only some of the effects would ever be drawn.
        let index = mix(drawn).checked_rem(self.effects.len() as u64)?;
        let draw = self.effects.get(usize::try_from(index).ok()?)?;
        let is_possible =
            (at.moves_money || !draw.effect.needs_money()) && checks::of_provider(at.provider, &draw.effect).is_ok();
        is_possible.then_some(draw)
    }
}

fn default_effects() -> Vec<RandomFault> {
    let draw = |point, effect| RandomFault { point, effect };
    vec![
        draw(Point::BeforeEffect, FaultEffect::ResetPeer),
        draw(Point::BeforeEffect, FaultEffect::Close),
        draw(Point::AfterEffect, FaultEffect::ResetPeer),
        draw(Point::AfterEffect, FaultEffect::Close),
        draw(Point::AfterEffect, FaultEffect::Delay { milliseconds: 50 }),
        draw(Point::DuringAnswer { after_bytes: 1 }, FaultEffect::LimitData { after_bytes: 0 }),
    ]
}

/// A number that depends only on the seed and the coordinates, the same on every machine: a mixed
/// FNV-1a hash.
fn number(seed: u64, at: &Coordinates) -> u64 {
    let provider = at.provider.name();
    let target = at.target.as_deref().unwrap_or_default();
    let attempt = at.attempt.to_le_bytes();
    let parts: [&[u8]; 4] = [provider.as_bytes(), at.operation.as_bytes(), target.as_bytes(), &attempt];
    let bytes = parts.into_iter().flat_map(|part| part.iter().copied().chain([0xff]));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// One step of SplitMix64.
fn mix(number: u64) -> u64 {
    splitmix64_finalize(number.wrapping_add(SPLITMIX64_GAMMA))
}

/// From 0 to just below 1.
fn share(number: u64) -> f64 {
    // An `f64` holds 53 bits exactly.
    (number >> 11) as f64 / (1_u64 << 53) as f64
}
