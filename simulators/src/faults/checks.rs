//! Checks of fault rules. A rule that could never fire is refused with a sentence.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use thiserror::Error;

use super::{
    FaultEffect, MAX_AHEAD_SECONDS, MAX_ANSWER_BODY_BYTES, MAX_DELAY, MAX_RULES, MAX_SLICE_DELAY, Point, PointKind,
    Repeat, Rule,
};
use crate::request::Provider;

/// Why a rule cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// A count that begins at 0 instead of 1.
    #[error("`{0}` is counted from 1")]
    CountedFromOne(&'static str),
    /// A rule that never fires.
    #[error("`repeat.{0}` is at least 1")]
    Repeat(&'static str),
    /// The delay is too long.
    #[error("`effect.delay.milliseconds` is at most {}", MAX_DELAY.as_millis())]
    Delay,
    /// Slices of nothing, or too long a wait between them.
    #[error("`effect.slicer`: `bytes` is at least 1, and `every_milliseconds` 1 to {}", MAX_SLICE_DELAY.as_millis())]
    Slicer,
    /// No bytes to corrupt.
    #[error("`effect.corrupt.bytes` is at least 1")]
    Corrupt,
    /// A time that cannot be reached.
    #[error("`effect.{0}.seconds` is 1 to {MAX_AHEAD_SECONDS}")]
    Seconds(&'static str),
    /// No final HTTP status.
    #[error("`effect.answer.status` is 200 to 599")]
    Status,
    /// No HTTP header.
    #[error("`effect.answer.headers`: `{0}` and its value do not make an HTTP header")]
    Header(String),
    /// A header that the server sets itself.
    #[error("`effect.answer.headers`: `{0}` is set by the server itself")]
    OwnHeader(String),
    /// The body is too large.
    #[error("`effect.answer.body` is at most {MAX_ANSWER_BODY_BYTES} bytes")]
    Body,
    /// The provider has no such call.
    #[error("`operation`: {provider} has no `{operation}`, only {}", known.join(", "))]
    Operation {
        /// The provider.
        provider: &'static str,
        /// The unknown call.
        operation: String,
        /// The calls that exist.
        known: &'static [&'static str],
    },
    /// An effect that cannot happen at the point.
    #[error("`point`: `{effect}` cannot happen at `{point}`, only at {}", possible.join(", "))]
    Point {
        /// The effect.
        effect: &'static str,
        /// The point of the rule.
        point: &'static str,
        /// The points at which it can happen.
        possible: Vec<&'static str>,
    },
    /// A coordinate that is not known at the point.
    #[error("`{field}` is not known at `{point}`: {why}")]
    Unknowable {
        /// The coordinate.
        field: &'static str,
        /// The point.
        point: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A forged answer that the provider does not have.
    #[error("`effect.forged_answer`: {provider} has no such answer, only {}", known.join(", "))]
    ForgedAnswer {
        /// The provider.
        provider: &'static str,
        /// The answers that it has.
        known: Vec<&'static str>,
    },
    /// A half-way refund at a provider without such halves.
    #[error(
        "`effect`: `half_way` is for namecom, which deletes the domain before it refunds, and {0} has no such halves"
    )]
    HalfWay(&'static str),
    /// An effect on refunds, for a call that refunds nothing.
    #[error("`operation`: `{effect}` is for calls that move money, and `{operation}` moves none")]
    MovesNothing {
        /// The effect.
        effect: &'static str,
        /// The call.
        operation: String,
    },
    /// No share.
    #[error("`share` is a number from 0 to 1")]
    Share,
    /// Too few or too many effects to draw from.
    #[error("`effects` lists 1 to 100 of them")]
    Effects,
    /// A random fault at a point of connections.
    #[error("`effects`: `{0}` is a point of connections; random faults happen to requests")]
    DrawnPoint(&'static str),
    /// A rule about connections, in a world without ports of its own.
    #[error(
        "`point`: a rule at `{0}` is about connections, and this world has no ports of its own: make one with `own_ports`, or arm it in the demo world, at /v1/faults"
    )]
    NoPorts(&'static str),
    /// A counted rule that cannot be counted.
    #[error(
        "`repeat` of `refuse` is `standing`: the port is closed until the rule is deleted, and refused clients cannot be counted; `reset_peer` at `connect` can be counted"
    )]
    NotCounted,
    /// A restored rule whose `remaining` contradicts its `repeat`.
    #[error("`remaining` does not fit its `repeat`")]
    Remaining,
    /// A restored rule whose number is out of order.
    #[error("`id` is not above that of the rule before it, or is above `last`")]
    Number,
    /// Too many rules.
    #[error("{MAX_RULES} rules are already armed: delete some")]
    TooMany,
}

pub(super) fn rule(rule: &Rule) -> Result<(), RuleError> {
    let (provider, known) = (rule.provider.name(), rule.provider.operations());
    if let Some(operation) = &rule.operation {
        if !known.contains(&operation.as_str()) {
            return Err(RuleError::Operation { provider, operation: operation.clone(), known });
        }
        if rule.effect.needs_money() && known.first() != Some(&operation.as_str()) {
            return Err(RuleError::MovesNothing { effect: rule.effect.name(), operation: operation.clone() });
        }
    }
    coordinates(rule)?;
    match rule.repeat {
        Repeat::Times(0) => return Err(RuleError::Repeat("times")),
        Repeat::Flap { down: 0, .. } => return Err(RuleError::Repeat("flap.down")),
        Repeat::Flap { up: 0, .. } => return Err(RuleError::Repeat("flap.up")),
        repeat if rule.effect == FaultEffect::Refuse && repeat != Repeat::Standing => {
            return Err(RuleError::NotCounted);
        }
        _ => {}
    }
    of_provider(rule.provider, &rule.effect)?;
    at_point(rule.point, &rule.effect)?;
    amounts(&rule.effect)
}

/// Checks that the coordinates are known at the rule's point.
fn coordinates(rule: &Rule) -> Result<(), RuleError> {
    let counted = [("attempt", rule.attempt), ("connection", rule.connection), ("ordinal", rule.ordinal)];
    if let Some((field, _)) = counted.into_iter().find(|(_, number)| *number == Some(0)) {
        return Err(RuleError::CountedFromOne(field));
    }
    let point = rule.point.name();
    let unknowable = |field, why| Err(RuleError::Unknowable { field, point, why });
    if rule.is_for_ports() {
        const UNREAD: &str = "nothing has been read of the request yet";
        let named = [
            ("operation", rule.operation.is_some()),
            ("target", rule.target.is_some()),
            ("attempt", rule.attempt.is_some()),
        ];
        if let Some((field, _)) = named.into_iter().find(|(_, is_named)| *is_named) {
            return unknowable(field, UNREAD);
        }
        if rule.effect == FaultEffect::Refuse && rule.connection.is_some() {
            return unknowable(
                "connection",
                "a closed port counts no connections; `reset_peer` at `connect` can be for one connection",
            );
        }
        if rule.point == Point::Connect && rule.ordinal.is_some() {
            return unknowable("ordinal", "a new connection has had no request yet");
        }
    } else if rule.connection.is_some() {
        return unknowable(
            "connection",
            "it counts connections, at `connect` and `before_read`; `ordinal` is for requests",
        );
    }
    Ok(())
}

/// Checks that an effect can happen at a point.
pub(super) fn at_point(point: Point, effect: &FaultEffect) -> Result<(), RuleError> {
    let possible = effect.points();
    if possible.contains(&point.kind()) {
        return Ok(());
    }
    let possible = possible.iter().map(|kind| kind.name()).collect();
    Err(RuleError::Point { effect: effect.name(), point: point.name(), possible })
}

/// Checks that a provider has the effect: a forged answer, or a refund that stops half-way.
pub(super) fn of_provider(provider: Provider, effect: &FaultEffect) -> Result<(), RuleError> {
    if *effect == FaultEffect::HalfWay && !provider.stops_half_way() {
        return Err(RuleError::HalfWay(provider.name()));
    }
    let FaultEffect::ForgedAnswer(answer) = effect else { return Ok(()) };
    let known = provider.forged_answers();
    if known.iter().any(|(_, known)| known == answer) {
        return Ok(());
    }
    let known = known.iter().map(|(name, _)| *name).collect();
    Err(RuleError::ForgedAnswer { provider: provider.name(), known })
}

/// Checks the numbers in an effect.
pub(super) fn amounts(effect: &FaultEffect) -> Result<(), RuleError> {
    let is_reachable = |seconds: &u64| (1..=MAX_AHEAD_SECONDS).contains(seconds);
    match effect {
        FaultEffect::Delay { milliseconds } if u128::from(*milliseconds) > MAX_DELAY.as_millis() => {
            Err(RuleError::Delay)
        }
        FaultEffect::Slicer { bytes, every_milliseconds }
            if *bytes == 0
                || *every_milliseconds == 0
                || u128::from(*every_milliseconds) > MAX_SLICE_DELAY.as_millis() =>
        {
            Err(RuleError::Slicer)
        }
        FaultEffect::Corrupt { bytes: 0 } => Err(RuleError::Corrupt),
        FaultEffect::CommitLate { seconds } | FaultEffect::Stale { seconds } if !is_reachable(seconds) => {
            Err(RuleError::Seconds(effect.name()))
        }
        FaultEffect::Answer { status, .. } if !(200..=599).contains(status) => Err(RuleError::Status),
        FaultEffect::Answer { body, .. } if body.len() > MAX_ANSWER_BODY_BYTES => Err(RuleError::Body),
        FaultEffect::Answer { headers, .. } => header_map(headers).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn header_map(headers: &BTreeMap<String, String>) -> Result<HeaderMap, RuleError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || RuleError::Header(name.clone());
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(&parsed) {
            return Err(RuleError::OwnHeader(name.clone()));
        }
        map.insert(parsed, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    map.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    Ok(map)
}

impl Point {
    /// The name in JSON.
    pub(crate) fn name(self) -> &'static str {
        self.kind().name()
    }
}

impl PointKind {
    fn name(self) -> &'static str {
        match self {
            PointKind::Connect => "connect",
            PointKind::BeforeRead => "before_read",
            PointKind::BeforeEffect => "before_effect",
            PointKind::AfterEffect => "after_effect",
            PointKind::DuringAnswer => "during_answer",
        }
    }
}

impl FaultEffect {
    /// The name in JSON.
    fn name(&self) -> &'static str {
        match self {
            FaultEffect::Refuse => "refuse",
            FaultEffect::RefuseTls => "refuse_tls",
            FaultEffect::Delay { .. } => "delay",
            FaultEffect::NeverAnswer => "never_answer",
            FaultEffect::Close => "close",
            FaultEffect::ResetPeer => "reset_peer",
            FaultEffect::LimitData { .. } => "limit_data",
            FaultEffect::Corrupt { .. } => "corrupt",
            FaultEffect::Slicer { .. } => "slicer",
            FaultEffect::Answer { .. } => "answer",
            FaultEffect::CommitLate { .. } => "commit_late",
            FaultEffect::HalfWay => "half_way",
            FaultEffect::Stale { .. } => "stale",
            FaultEffect::ForgedAnswer(_) => "forged_answer",
        }
    }

    /// The points at which it can happen: before a request is read there is no answer to change,
    /// and within an answer no other can begin.
    fn points(&self) -> &'static [PointKind] {
        use PointKind::{AfterEffect, BeforeEffect, BeforeRead, Connect, DuringAnswer};
        match self {
            FaultEffect::Refuse | FaultEffect::RefuseTls => &[Connect],
            FaultEffect::Delay { .. } | FaultEffect::NeverAnswer | FaultEffect::Close | FaultEffect::ResetPeer => {
                &[Connect, BeforeRead, BeforeEffect, AfterEffect, DuringAnswer]
            }
            FaultEffect::LimitData { .. } | FaultEffect::Corrupt { .. } | FaultEffect::Slicer { .. } => {
                &[BeforeEffect, AfterEffect, DuringAnswer]
            }
            FaultEffect::Answer { .. } | FaultEffect::Stale { .. } | FaultEffect::ForgedAnswer(_) => {
                &[BeforeEffect, AfterEffect]
            }
            FaultEffect::CommitLate { .. } | FaultEffect::HalfWay => &[BeforeEffect],
        }
    }
}
