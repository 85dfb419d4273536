//! What makes sense as a rule: each that does not is refused with a sentence, and never armed for
//! nothing.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use thiserror::Error;

use super::{
    FaultEffect, MAX_AHEAD_SECONDS, MAX_BODY, MAX_DELAY, MAX_DRIP, MAX_RULES, Moment, Point, Pretence, Repeat, Rule,
};
use crate::request::Provider;

/// Why a rule cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// Attempts, connections and ordinals are counted from 1.
    #[error("`{0}` is counted from 1")]
    CountedFromOne(&'static str),
    /// A rule that never fires.
    #[error("`repeat.{0}` is at least 1")]
    Repeat(&'static str),
    /// Too long a wait.
    #[error("`effect.delay.milliseconds` is at most {}", MAX_DELAY.as_millis())]
    Delay,
    /// Too slow a drip, or one of nothing.
    #[error("`effect.slicer`: `bytes` is at least 1, and `every_milliseconds` 1 to {}", MAX_DRIP.as_millis())]
    Drip,
    /// A corruption of nothing.
    #[error("`effect.corrupt.bytes` is at least 1")]
    Corrupt,
    /// Not a time that can be reached.
    #[error("`effect.{0}.seconds` is 1 to {MAX_AHEAD_SECONDS}")]
    Seconds(&'static str),
    /// Not a final HTTP status.
    #[error("`effect.answer.status` is 200 to 599")]
    Status,
    /// Not a header.
    #[error("`effect.answer.headers`: `{0}` and its value do not make an HTTP header")]
    Header(String),
    /// A header that the server itself writes.
    #[error("`effect.answer.headers`: `{0}` is written by the server itself")]
    OwnHeader(String),
    /// Too much to answer.
    #[error("`effect.answer.body` is at most {MAX_BODY} bytes")]
    Body,
    /// The provider has no such call.
    #[error("`operation`: {provider} has no `{operation}`, only {}", known.join(", "))]
    Operation {
        /// The provider.
        provider: &'static str,
        /// What was asked for.
        operation: String,
        /// What there is.
        known: &'static [&'static str],
    },
    /// An effect that has no meaning at that point.
    #[error("`point`: `{effect}` cannot happen at `{point}`, only at {}", possible.join(", "))]
    Point {
        /// The effect.
        effect: &'static str,
        /// Where it was wanted.
        point: &'static str,
        /// Where it can be.
        possible: Vec<&'static str>,
    },
    /// A coordinate that nobody can know yet at that point, or no longer.
    #[error("`{field}` says nothing at `{point}`: {why}")]
    Unknowable {
        /// The coordinate.
        field: &'static str,
        /// The point.
        point: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A lie that is not the provider's.
    #[error("`effect.forged_answer`: {provider} never says that, only {}", known.join(", "))]
    Pretence {
        /// The provider.
        provider: &'static str,
        /// What it can say.
        known: Vec<&'static str>,
    },
    /// A refund in two halves, at a provider that has none.
    #[error(
        "`effect`: `half_way` is for namecom, which deletes the domain before it refunds, and {0} has no such halves"
    )]
    HalfWay(&'static str),
    /// An effect of refunds, for a call that refunds nothing.
    #[error("`operation`: `{effect}` is for calls that move money, and `{operation}` moves none")]
    MovesNothing {
        /// The effect.
        effect: &'static str,
        /// The call.
        operation: String,
    },
    /// Not a share.
    #[error("`share` is a number from 0 to 1")]
    Share,
    /// Nothing to draw from.
    #[error("`effects` lists 1 to 100 of them")]
    Effects,
    /// Drawn rules know their request.
    #[error("`effects`: `{0}` is a point of connections; drawn are effects on requests")]
    DrawnPoint(&'static str),
    /// A rule about connections, in a world that none belong to.
    #[error(
        "`point`: a rule at `{0}` is about connections, and this world has no ports of its own: make one with `own_ports`, or arm it in the demo world, at /v1/faults"
    )]
    NoPorts(&'static str),
    /// A count of what nobody sees.
    #[error(
        "`repeat` of `refuse` is `standing`: the port is shut until the rule is deleted, and nobody counts whom the system turns away; `reset_peer` at `connect` can be counted"
    )]
    NotCounted,
    /// A rule of a snapshot with more or less left to do than it ever had.
    #[error("`remaining` does not fit its `repeat`")]
    Remaining,
    /// Rules of a snapshot are numbered in their order.
    #[error("`id` is not behind that of the rule before it, or above `last`")]
    Number,
    /// Too many rules.
    #[error("{MAX_RULES} rules are armed already: delete some")]
    TooMany,
}

pub(super) fn rule(rule: &Rule) -> Result<(), RuleError> {
    let (provider, known) = operations(rule.provider);
    if let Some(operation) = &rule.operation {
        if !known.contains(&operation.as_str()) {
            return Err(RuleError::Operation { provider, operation: operation.clone(), known });
        }
        if rule.effect.needs_money() && known.first() != Some(&operation.as_str()) {
            return Err(RuleError::MovesNothing { effect: rule.effect.word(), operation: operation.clone() });
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

/// What can be known of a request at the rule's point.
fn coordinates(rule: &Rule) -> Result<(), RuleError> {
    let counted = [("attempt", rule.attempt), ("connection", rule.connection), ("ordinal", rule.ordinal)];
    if let Some((field, _)) = counted.into_iter().find(|(_, number)| *number == Some(0)) {
        return Err(RuleError::CountedFromOne(field));
    }
    let point = rule.point.word();
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
                "a port that is shut counts nobody; `reset_peer` at `connect` can be for one connection",
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

/// Whether an effect has a meaning at a point.
pub(super) fn at_point(point: Point, effect: &FaultEffect) -> Result<(), RuleError> {
    let possible = effect.moments();
    if possible.contains(&point.moment()) {
        return Ok(());
    }
    let possible = possible.iter().map(|moment| moment.word()).collect();
    Err(RuleError::Point { effect: effect.word(), point: point.word(), possible })
}

/// Whether an effect is this provider's: a lie, or a refund that stops half-way.
pub(super) fn of_provider(provider: Provider, effect: &FaultEffect) -> Result<(), RuleError> {
    if *effect == FaultEffect::HalfWay && provider != Provider::Namecom {
        return Err(RuleError::HalfWay(operations(provider).0));
    }
    let FaultEffect::Pretend(pretence) = effect else { return Ok(()) };
    let known = pretences(provider);
    if known.iter().any(|(_, known)| known == pretence) {
        return Ok(());
    }
    let known = known.iter().map(|(word, _)| *word).collect();
    Err(RuleError::Pretence { provider: operations(provider).0, known })
}

/// The numbers in an effect.
pub(super) fn amounts(effect: &FaultEffect) -> Result<(), RuleError> {
    let is_reachable = |seconds: &u64| (1..=MAX_AHEAD_SECONDS).contains(seconds);
    match effect {
        FaultEffect::Delay { milliseconds } if u128::from(*milliseconds) > MAX_DELAY.as_millis() => {
            Err(RuleError::Delay)
        }
        FaultEffect::Drip { bytes, every_milliseconds }
            if *bytes == 0 || *every_milliseconds == 0 || u128::from(*every_milliseconds) > MAX_DRIP.as_millis() =>
        {
            Err(RuleError::Drip)
        }
        FaultEffect::Corrupt { bytes: 0 } => Err(RuleError::Corrupt),
        FaultEffect::CommitLate { seconds } | FaultEffect::Stale { seconds } if !is_reachable(seconds) => {
            Err(RuleError::Seconds(effect.word()))
        }
        FaultEffect::Answer { status, .. } if !(200..=599).contains(status) => Err(RuleError::Status),
        FaultEffect::Answer { body, .. } if body.len() > MAX_BODY => Err(RuleError::Body),
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

/// A provider's name and its calls by name, the one that moves money first, so that a rule for a
/// call that does not exist is refused.
pub(crate) fn operations(provider: Provider) -> (&'static str, &'static [&'static str]) {
    match provider {
        Provider::Sectigo => ("sectigo", &["!AutoRefund", "!getPostPaymentStatus", "!AutoReject"]),
        Provider::Namecom => ("namecom", &["ProcessRefund", "GetOrder", "ListOrders", "GetDomain", "Hello"]),
        Provider::Debitsuccess => ("debitsuccess", &["InitiateRefund", "GetRefundStatus"]),
    }
}

fn pretences(provider: Provider) -> &'static [(&'static str, Pretence)] {
    match provider {
        Provider::Sectigo => &[("success", Pretence::Success), ("already_refunded", Pretence::AlreadyRefunded)],
        Provider::Namecom => &[
            ("success", Pretence::Success),
            ("already_refunded", Pretence::AlreadyRefunded),
            ("replay", Pretence::Replay),
            ("initialized", Pretence::Initialized),
        ],
        Provider::Debitsuccess => &[("success", Pretence::Success), ("14143", Pretence::IdentifierExists)],
    }
}

impl Point {
    /// Its word in JSON.
    pub(crate) fn word(self) -> &'static str {
        self.moment().word()
    }
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Moment::Connect => "connect",
            Moment::BeforeRead => "before_read",
            Moment::BeforeEffect => "before_effect",
            Moment::AfterEffect => "after_effect",
            Moment::DuringAnswer => "during_answer",
        }
    }
}

impl FaultEffect {
    /// Its word in JSON.
    fn word(&self) -> &'static str {
        match self {
            FaultEffect::Refuse => "refuse",
            FaultEffect::RefuseTls => "refuse_tls",
            FaultEffect::Delay { .. } => "delay",
            FaultEffect::NeverAnswer => "never_answer",
            FaultEffect::Close => "close",
            FaultEffect::Reset => "reset_peer",
            FaultEffect::Truncate { .. } => "limit_data",
            FaultEffect::Corrupt { .. } => "corrupt",
            FaultEffect::Drip { .. } => "slicer",
            FaultEffect::Answer { .. } => "answer",
            FaultEffect::CommitLate { .. } => "commit_late",
            FaultEffect::HalfWay => "half_way",
            FaultEffect::Stale { .. } => "stale",
            FaultEffect::Pretend(_) => "forged_answer",
        }
    }

    /// Where it can happen: before a request is read there is no answer to do anything to, and in
    /// the middle of one no other can begin.
    fn moments(&self) -> &'static [Moment] {
        use Moment::{AfterEffect, BeforeEffect, BeforeRead, Connect, DuringAnswer};
        match self {
            FaultEffect::Refuse | FaultEffect::RefuseTls => &[Connect],
            FaultEffect::Delay { .. } | FaultEffect::NeverAnswer | FaultEffect::Close | FaultEffect::Reset => {
                &[Connect, BeforeRead, BeforeEffect, AfterEffect, DuringAnswer]
            }
            FaultEffect::Truncate { .. } | FaultEffect::Corrupt { .. } | FaultEffect::Drip { .. } => {
                &[BeforeEffect, AfterEffect, DuringAnswer]
            }
            FaultEffect::Answer { .. } | FaultEffect::Stale { .. } | FaultEffect::Pretend(_) => {
                &[BeforeEffect, AfterEffect]
            }
            FaultEffect::CommitLate { .. } | FaultEffect::HalfWay => &[BeforeEffect],
        }
    }
}
