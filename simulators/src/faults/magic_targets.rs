//! Magic values, as payment sandboxes have them: order numbers and account references of the demo
//! data that go wrong by themselves, for people who only have the wire.
//!
//! What a provider can do by itself (a code, a refund that settles late) is data of the order or
//! account; what happens on the wire is a rule without a number, that fires on each refund of that
//! target unless an armed rule does.

use std::{collections::HashMap, sync::LazyLock};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    faults::{FaultEffect, Point},
    request::Provider,
};

/// One magic value, as the control port lists it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Magic {
    /// At which provider.
    pub provider: Provider,
    /// The order number, order id or account reference.
    pub target: String,
    /// name.com's item in that order.
    pub item: Option<i32>,
    /// What a refund of it does.
    pub does: String,
}

/// Sectigo orders 7000000 + n answer a refund with code -n.
pub(crate) const SECTIGO_CODES: [u32; 11] = [1, 2, 3, 4, 14, 16, 17, 18, 20, 42, 76];
/// name.com orders 400000 + n answer a refund with HTTP status n.
pub(crate) const NAMECOM_STATUSES: [u16; 12] = [400, 401, 403, 404, 409, 415, 423, 429, 500, 502, 503, 504];
/// Debitsuccess accounts DSCODE... answer a refund with that code.
pub(crate) const DEBITSUCCESS_CODES: [&str; 17] = [
    "01", "02", "05", "06", "07", "08", "09", "10", "11", "100", "12016", "12017", "13012", "13040", "13203", "13204",
    "14143",
];
/// Where a refund settles late by itself, after so many seconds of the world's time.
pub(crate) const LATE_SECONDS: u32 = 60;

/// What happens on the wire: the same at every provider, in this order of numbers from 1.
const ON_THE_WIRE: [(&str, &str); 7] = [
    ("SILENT", "is never answered, and nothing is done"),
    ("SILENTDONE", "is done, and never answered"),
    ("CLOSED", "closes the connection (FIN) without an answer, and nothing is done"),
    ("CLOSEDDONE", "is done, and the connection is closed (FIN) without an answer"),
    ("RESETDONE", "is done, and the connection is reset (RST) without an answer"),
    ("CUTDONE", "is done, and the answer breaks off in front of its body"),
    ("LATE", "is answered with a time-out, and done 60 seconds later"),
];

fn on_the_wire(name: &str) -> (Point, FaultEffect) {
    match name {
        "SILENT" => (Point::BeforeEffect, FaultEffect::NeverAnswer),
        "SILENTDONE" => (Point::AfterEffect, FaultEffect::NeverAnswer),
        "CLOSED" => (Point::BeforeEffect, FaultEffect::Close),
        "CLOSEDDONE" => (Point::AfterEffect, FaultEffect::Close),
        "RESETDONE" => (Point::AfterEffect, FaultEffect::Reset),
        "CUTDONE" => (Point::AfterEffect, FaultEffect::Truncate { after_bytes: 0 }),
        _ => (Point::BeforeEffect, FaultEffect::CommitLate { seconds: u64::from(LATE_SECONDS) }),
    }
}

/// The Sectigo orders, name.com orders or Debitsuccess accounts of what happens on the wire.
pub(crate) fn wire_targets(provider: Provider) -> impl Iterator<Item = String> {
    (1..).zip(ON_THE_WIRE).map(move |(number, (name, _))| match provider {
        Provider::Sectigo => (7_000_100 + number).to_string(),
        Provider::Namecom => (410_100 + number).to_string(),
        Provider::Debitsuccess => format!("DS{name}"),
    })
}

/// What happens on the wire to a refund of this target, where it is a magic one.
pub(crate) fn rule_for(provider: Provider, target: &str) -> Option<&'static (Point, FaultEffect)> {
    static RULES: LazyLock<HashMap<(Provider, String), (Point, FaultEffect)>> = LazyLock::new(|| {
        let providers = [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess];
        let rules = providers.into_iter().flat_map(|provider| {
            wire_targets(provider).zip(ON_THE_WIRE).flat_map(move |(target, (name, _))| {
                // An account goes by its external reference as well.
                let external = (provider == Provider::Debitsuccess).then(|| format!("EXT-{target}"));
                std::iter::once(target).chain(external).map(move |target| ((provider, target), on_the_wire(name)))
            })
        });
        rules.collect()
    });
    RULES.get(&(provider, target.to_owned()))
}

/// Every magic value.
pub fn all() -> Vec<Magic> {
    let magic = |provider, target: String, does: String| {
        let item = if provider == Provider::Namecom { target.parse::<i32>().ok() } else { None };
        Magic { provider, target, item: item.map(|order| order + 3_000_000), does }
    };
    let answers = |code: &dyn std::fmt::Display| format!("is answered with {code}, and nothing is done");
    let mut all = Vec::new();
    for code in SECTIGO_CODES {
        all.push(magic(Provider::Sectigo, (7_000_000 + code).to_string(), answers(&format!("-{code}"))));
    }
    for status in NAMECOM_STATUSES {
        all.push(magic(Provider::Namecom, (400_000 + i32::from(status)).to_string(), answers(&status)));
    }
    for code in DEBITSUCCESS_CODES {
        all.push(magic(Provider::Debitsuccess, format!("DSCODE{code}"), answers(&code)));
    }
    for provider in [Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess] {
        let wire = wire_targets(provider).zip(ON_THE_WIRE);
        all.extend(wire.map(|(target, (_, does))| magic(provider, target, does.to_owned())));
    }
    let late = [
        (Provider::Sectigo, "7000201", "is done, and orderStatus shows it 60 seconds later"),
        (Provider::Namecom, "410201", "is answered `initialized`, and paid out 60 seconds later"),
        (Provider::Namecom, "410202", "is answered `initialized`, and waits until it is settled by hand"),
        (Provider::Namecom, "410203", "is answered 409 with the item `failed`, and nothing is done"),
        (Provider::Namecom, "410204", "is answered 409 with the item `canceled`, and nothing is done"),
        (
            Provider::Namecom,
            "410205",
            "has its domain deleted and is answered 502; the refund waits to be settled by hand",
        ),
        (Provider::Debitsuccess, "DSSETTLES", "is Submitted, and Completed 60 seconds later"),
        (Provider::Debitsuccess, "DSREJECTS", "is Submitted, and Rejected 60 seconds later"),
    ];
    all.extend(late.into_iter().map(|(provider, target, does)| magic(provider, target.to_owned(), does.to_owned())));
    all
}
