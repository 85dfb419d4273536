//! The random mode: for each request it draws whether something goes wrong, and what, from a seed
//! and the request's own coordinates.
//!
//! Never from the order in which requests arrive: a run in which a hundred clients interleave
//! otherwise meets the same faults again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Coordinates, FaultEffect, Point, RuleError, checks};
use crate::request::Provider;

/// The most that can be drawn from.
const MAX_EFFECTS: usize = 100;

/// The random mode's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// The same seed draws the same.
    #[schemars(extend("x-optional" = true))]
    pub seed: u64,
    /// Which share of the requests something happens to, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// What is drawn from, each as likely as the others.
    #[serde(default = "usual")]
    #[schemars(length(min = 1, max = 100))]
    pub effects: Vec<Draw>,
    /// Only at this provider; left out: at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// Only at this call; left out: at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// One thing that can be drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// When.
    pub point: Point,
    /// What.
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
        for Draw { point, effect } in &self.effects {
            if matches!(point, Point::Connect | Point::BeforeRead) {
                return Err(RuleError::DrawnPoint(point.word()));
            }
            checks::at_point(*point, effect)?;
            checks::amounts(effect)?;
            if let Some(provider) = self.provider {
                checks::of_provider(provider, effect)?;
            }
        }
        let Some(operation) = &self.operation else { return Ok(()) };
        let providers = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];
        let mut asked = providers.into_iter().filter(|provider| self.provider.is_none_or(|only| only == *provider));
        let known = |provider: Provider| checks::operations(provider).1.contains(&operation.as_str());
        if asked.clone().any(known) {
            return Ok(());
        }
        let (provider, known) = checks::operations(asked.next().unwrap_or(Provider::Sectigo));
        Err(RuleError::Operation { provider, operation: operation.clone(), known })
    }

    /// What happens to a request, if anything does.
    pub(crate) fn draw(&self, at: &Coordinates) -> Option<&Draw> {
        let fits = self.provider.is_none_or(|provider| provider == at.provider)
            && self.operation.as_ref().is_none_or(|operation| *operation == at.operation);
        if !fits || at.operation.is_empty() {
            return None;
        }
        let drawn = number(self.seed, at);
        if share(drawn) >= self.share {
            return None;
        }
        // Another number than the one that chose the request, or only some of the effects would
        // ever be drawn.
        let index = mix(drawn).checked_rem(self.effects.len() as u64)?;
        let draw = self.effects.get(usize::try_from(index).ok()?)?;
        let is_possible =
            (at.moves_money || !draw.effect.needs_money()) && checks::of_provider(at.provider, &draw.effect).is_ok();
        is_possible.then_some(draw)
    }
}

fn usual() -> Vec<Draw> {
    let draw = |point, effect| Draw { point, effect };
    vec![
        draw(Point::BeforeEffect, FaultEffect::Reset),
        draw(Point::BeforeEffect, FaultEffect::Close),
        draw(Point::AfterEffect, FaultEffect::Reset),
        draw(Point::AfterEffect, FaultEffect::Close),
        draw(Point::AfterEffect, FaultEffect::Delay { milliseconds: 50 }),
        draw(Point::DuringAnswer { after_bytes: 1 }, FaultEffect::Truncate { after_bytes: 0 }),
    ]
}

/// A number that depends on the seed and the coordinates and on nothing else, the same on every
/// machine: FNV-1a over them, well mixed.
fn number(seed: u64, at: &Coordinates) -> u64 {
    let (provider, _) = checks::operations(at.provider);
    let target = at.target.as_deref().unwrap_or_default();
    let attempt = at.attempt.to_le_bytes();
    let parts: [&[u8]; 4] = [provider.as_bytes(), at.operation.as_bytes(), target.as_bytes(), &attempt];
    let bytes = parts.into_iter().flat_map(|part| part.iter().copied().chain([0xff]));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// SplitMix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// From 0 to just below 1.
fn share(number: u64) -> f64 {
    // 53 bits are what such a number holds exactly.
    (number >> 11) as f64 / (1_u64 << 53) as f64
}
