//! Magic targets, as in payment sandboxes: order numbers and account references of the demo data
//! that go wrong without a rule, for people who only have the wire.
//!
//! What a provider can do itself (a code, a refund that settles late) is data of the order or
//! account. A fault on the wire is a rule without a number: it fires on each refund of its target
//! unless an armed rule does.

use std::{collections::HashMap, sync::LazyLock};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    faults::{FaultEffect, Point},
    providers::emulated::{MAGIC_DELAY_SECONDS, MAGIC_WIRE_NAMES, MagicTarget},
    request::Provider,
};

/// One magic target, as the control port lists it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Magic {
    /// The provider.
    pub provider: Provider,
    /// The order number, order id or account reference.
    pub target: String,
    /// name.com's item in that order.
    pub item: Option<i32>,
    /// What a refund of it does.
    pub does: String,
}

/// The fault of each name in [`MAGIC_WIRE_NAMES`], and what it does.
fn on_the_wire(name: &str) -> (Point, FaultEffect, &'static str) {
    match name {
        "SILENT" => (Point::BeforeEffect, FaultEffect::NeverAnswer, "is never answered, and nothing is done"),
        "SILENTDONE" => (Point::AfterEffect, FaultEffect::NeverAnswer, "is done, and never answered"),
        "CLOSED" => (
            Point::BeforeEffect,
            FaultEffect::Close,
            "closes the connection (FIN) without an answer, and nothing is done",
        ),
        "CLOSEDDONE" => {
            (Point::AfterEffect, FaultEffect::Close, "is done, and the connection is closed (FIN) without an answer")
        }
        "RESETDONE" => {
            (Point::AfterEffect, FaultEffect::ResetPeer, "is done, and the connection is reset (RST) without an answer")
        }
        "CUTDONE" => (
            Point::AfterEffect,
            FaultEffect::LimitData { after_bytes: 0 },
            "is done, and the answer breaks off before its body",
        ),
        _ => (
            Point::BeforeEffect,
            FaultEffect::CommitLate { seconds: u64::from(MAGIC_DELAY_SECONDS) },
            "is answered with a time-out, and done 60 seconds later",
        ),
    }
}

/// The fault on the wire of a target, if it is a magic one.
pub(crate) fn rule_for(provider: Provider, target: &str) -> Option<&'static (Point, FaultEffect)> {
    static RULES: LazyLock<HashMap<(Provider, String), (Point, FaultEffect)>> = LazyLock::new(|| {
        let mut rules = HashMap::new();
        for provider in Provider::ALL {
            for (number, name) in (1..).zip(MAGIC_WIRE_NAMES) {
                let (point, effect, _) = on_the_wire(name);
                let target = provider.magic_wire_target(number, name);
                if let Some(alias) = provider.magic_wire_alias(&target) {
                    rules.insert((provider, alias), (point, effect.clone()));
                }
                rules.insert((provider, target), (point, effect));
            }
        }
        rules
    });
    RULES.get(&(provider, target.to_owned()))
}

/// Every magic target.
pub fn all() -> Vec<Magic> {
    let all = Provider::ALL.into_iter().flat_map(|provider| {
        let wire = (1..)
            .zip(MAGIC_WIRE_NAMES)
            .map(move |(number, name)| MagicTarget::new(provider.magic_wire_target(number, name), on_the_wire(name).2));
        provider.magic_targets().into_iter().chain(wire).map(move |MagicTarget { target, outcome }| Magic {
            provider,
            item: provider.magic_item(&target),
            target,
            does: outcome,
        })
    });
    all.collect()
}
