//! Fault rules at exact coordinates: a rule says where something goes wrong, and what.
//!
//! ```text
//! where: provider, operation, target, attempt, ordinal     each but the first may be left open
//! when:  connect | before it is read | before the effect | after the effect
//!        | during the answer, after n bytes
//! what:  refuse (the port is closed), delay, never answer, close, reset the peer, limit the data,
//!        corrupt, slice, answer this instead, forge an answer, commit late, stop half-way,
//!        answer from a stale state
//! how often: once | n times | standing | flapping
//! ```
//!
//! Rules are tried in the order in which they were armed. At one point a delay, a slicer, a
//! corruption or a half-way refund is followed by the next rule; any other effect ends the point. A
//! rule that never fired is listed as such.

mod checks;
pub mod gates;
pub mod magic_targets;
mod random;
pub(crate) mod stale_state;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, collections::HashMap, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    checks::RuleError,
    random::{Random, RandomFault},
};
pub use crate::providers::ForgedAnswer;
use crate::{
    http::connection::Disconnect,
    request::{Provider, RequestInfo, Response},
};

/// The maximum number of armed rules.
pub const MAX_RULES: usize = 1_000;
/// The maximum delay.
pub const MAX_DELAY: Duration = Duration::from_secs(600);
/// The maximum body of an answer that a rule gives, in bytes.
pub const MAX_ANSWER_BODY_BYTES: usize = 16 * 1024 * 1024;
/// The maximum wait between two slices of an answer.
pub const MAX_SLICE_DELAY: Duration = Duration::from_secs(60);
/// The maximum time by which an effect can be late or a lookup stale, in seconds: as far as a clock
/// can be moved.
pub const MAX_AHEAD_SECONDS: u64 = crate::clock::MAX_AHEAD.as_secs();
/// The id in the journal of a fault that the random mode drew.
pub const DRAWN: RuleId = RuleId(0);
/// The maximum number of (provider, operation, target) whose attempts are counted. Requests for
/// further ones count as first attempts.
const MAX_COUNTED: usize = 100_000;

/// A fault rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Fault")]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The provider.
    pub provider: Provider,
    /// The call, by the provider's own name (`!AutoRefund`, `ProcessRefund`, `InitiateRefund`); any
    /// if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The order or account reference, as in the request; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The number of the request among those for its operation and target, counted from 1 since the
    /// start or the last reset; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<u64>,
    /// Only for the points [`Point::Connect`] and [`Point::BeforeRead`]: the number of the
    /// connection to this provider, counted from 1 since the start or the last reset; any if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connection: Option<u64>,
    /// The number of the request on its connection, so that 2 is the first one on a reused
    /// connection; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ordinal: Option<u64>,
    /// The point in the request's way.
    pub point: Point,
    /// What goes wrong.
    pub effect: FaultEffect,
    /// How often it fires.
    #[serde(default)]
    pub repeat: Repeat,
    /// Whether the list of rules that never fired is an error if it contains this rule.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
}

/// A point in a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Point {
    /// The connection has been accepted. Nothing has been read, and TLS has not begun.
    Connect,
    /// The connection and its TLS session are established, and nothing of the request has been
    /// read. On a reused connection the request's first bytes have arrived.
    BeforeRead,
    /// The request has been read. Nothing has been done.
    BeforeEffect,
    /// The effects have happened and are in the books. Nothing has been answered.
    AfterEffect,
    /// The head of the answer and this many bytes of its body have been sent, or all of a shorter
    /// body.
    DuringAnswer {
        /// The number of bytes of the body.
        #[serde(default)]
        after_bytes: usize,
    },
}

/// The effect of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultEffect {
    /// Closes the provider's ports while the rule is armed, so that the system refuses clients
    /// (`ECONNREFUSED`). Such clients are neither counted nor in the journal.
    /// [`FaultEffect::ResetPeer`] at [`Point::Connect`] can be counted: it accepts the connection
    /// and resets it before anything is read.
    Refuse,
    /// Refuses the TLS handshake with the alert `handshake_failure`.
    RefuseTls,
    /// Delays this request in real time, then continues.
    Delay {
        /// The delay; at most ten minutes.
        #[schemars(range(max = 600_000))]
        milliseconds: u64,
    },
    /// Sends nothing (more), and keeps the connection open until the client closes it.
    NeverAnswer,
    /// Closes the connection in an orderly way (FIN; with TLS after a `close_notify`). Before the
    /// effect, the request is never handled.
    Close,
    /// Resets the connection (RST, below TLS). Before the effect, the request is never handled.
    ResetPeer,
    /// Sends this many further bytes of the body, then closes the connection (FIN, without
    /// `close_notify`).
    LimitData {
        /// The number of bytes of the body that are still sent.
        #[serde(default)]
        after_bytes: usize,
    },
    /// Inverts bytes of the body, beginning at the point.
    Corrupt {
        /// The number of bytes.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        bytes: usize,
    },
    /// Sends the body in slices, beginning at the point.
    Slicer {
        /// The size of a slice, in bytes.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        bytes: usize,
        /// The wait before each slice, in real time; at most a minute.
        #[schemars(range(min = 1, max = 60_000))]
        every_milliseconds: u64,
    },
    /// Answers this instead. Before the effect, the request is never handled.
    Answer {
        /// The HTTP status, 200 to 599.
        #[schemars(range(min = 200, max = 599))]
        status: u16,
        /// The body; empty if left out.
        #[serde(default)]
        body: String,
        /// Headers; `content-type: text/plain` if left out.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// Answers the provider's time-out, and handles the request later, in the world's time.
    CommitLate {
        /// How much later.
        #[schemars(range(min = 1, max = 3_162_240_000u64))]
        seconds: u64,
    },
    /// name.com: stops a refund half-way. The domain of each requested registration is deleted,
    /// nothing is refunded, and the answer is that of the setting `half_way_answer`, unless a later
    /// rule of the point replaces it. Each refund is then pending.
    HalfWay,
    /// Answers lookups from a stale state, for a time in the world's time. On a request that moves
    /// money: lookups of its target (and lists) show the state before it. On a lookup: it shows the
    /// state when the rule was armed.
    Stale {
        /// How long.
        #[schemars(range(min = 1, max = 3_162_240_000u64))]
        seconds: u64,
    },
    /// Gives a false answer. Before the effect, the request is never handled.
    ForgedAnswer(ForgedAnswer),
}

/// How often a rule fires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Repeat {
    /// Once, then never again.
    #[default]
    Once,
    /// This many times.
    Times(#[schemars(range(min = 1))] u64),
    /// Every time, while it is armed.
    Standing,
    /// While it is armed, `down` times in a row, then not for `up` requests, and again.
    Flap {
        /// The number of requests it fires on.
        #[serde(default = "one_time")]
        #[schemars(range(min = 1))]
        down: u64,
        /// The number of requests it then lets pass.
        #[serde(default = "one_time")]
        #[schemars(range(min = 1))]
        up: u64,
    },
}

/// The number of an armed rule, counted from 1 since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct RuleId(pub u64);

/// The current state of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ArmedFault")]
#[serde(deny_unknown_fields)]
pub struct ArmedRule {
    /// Its number.
    pub id: RuleId,
    /// The rule as armed.
    pub rule: Rule,
    /// How often it has fired. Always 1 for [`FaultEffect::Refuse`], which closes the port once.
    pub fired: u64,
    /// How often it will still fire; none if without limit.
    pub remaining: Option<u64>,
    /// The number of requests it matched while it could still fire, including those that a flapping
    /// rule let pass.
    pub matched: u64,
}

/// The rules that fired at a point and their actions in order, each with the number of bytes of the
/// body after which it begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct FiredRules {
    pub(crate) rules: Vec<RuleId>,
    pub(crate) actions: Vec<(usize, FaultAction)>,
}

/// A rule's effect, ready to be applied.
#[derive(Debug, Clone)]
pub(crate) enum FaultAction {
    RefuseTls,
    Disconnect(Disconnect),
    /// Closes the connection after this many bytes of the body.
    LimitData {
        after_bytes: usize,
    },
    Delay(Duration),
    Corrupt(usize),
    Slice {
        bytes: usize,
        every: Duration,
    },
    Answer(Response),
    CommitLate {
        seconds: u64,
    },
    HalfWay,
    Stale {
        rule: RuleId,
        seconds: u64,
    },
    Forge(ForgedAnswer),
}

/// The kinds of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointKind {
    Connect,
    BeforeRead,
    BeforeEffect,
    AfterEffect,
    DuringAnswer,
}

/// The coordinates of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coordinates {
    pub(crate) provider: Provider,
    pub(crate) operation: String,
    pub(crate) target: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) ordinal: u64,
    pub(crate) moves_money: bool,
}

/// The coordinates of a connection before its next request is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionCoordinates {
    pub(crate) provider: Provider,
    pub(crate) tls: bool,
    /// The number of the connection to this provider.
    pub(crate) connection: u64,
    /// The number of its next request.
    pub(crate) ordinal: u64,
}

/// The armed rules, the random mode, and the counters of requests and connections.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    armed: Vec<ArmedRule>,
    last: u64,
    random: Option<Random>,
    #[serde(with = "counted")]
    attempts: HashMap<(Provider, String, Option<String>), u64>,
    connections: BTreeMap<Provider, u64>,
}

impl Rule {
    /// A rule for any request at a provider, once.
    pub fn new(provider: Provider, point: Point, effect: FaultEffect) -> Self {
        Self {
            provider,
            operation: None,
            target: None,
            attempt: None,
            connection: None,
            ordinal: None,
            point,
            effect,
            repeat: Repeat::Once,
            strict: false,
        }
    }

    /// Checks it.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), RuleError> {
        checks::rule(self)
    }

    /// Whether it is about connections: it acts before anything is read that could identify a
    /// world.
    pub fn is_for_ports(&self) -> bool {
        matches!(self.point, Point::Connect | Point::BeforeRead)
    }
}

impl Faults {
    /// Arms a rule, after those that are already armed.
    ///
    /// # Errors
    /// What is wrong with it. Then it is not armed.
    pub fn arm(&mut self, rule: Rule) -> Result<RuleId, RuleError> {
        rule.check()?;
        if self.armed.len() >= MAX_RULES {
            return Err(RuleError::TooMany);
        }
        self.last += 1;
        let id = RuleId(self.last);
        let remaining = match rule.repeat {
            Repeat::Once => Some(1),
            Repeat::Times(times) => Some(times),
            Repeat::Standing | Repeat::Flap { .. } => None,
        };
        // The port is closed as soon as the world is unlocked.
        let fired = u64::from(rule.effect == FaultEffect::Refuse);
        self.armed.push(ArmedRule { id, rule, fired, remaining, matched: 0 });
        Ok(id)
    }

    /// All rules that were not deleted, spent ones too.
    pub fn list(&self) -> &[ArmedRule] {
        &self.armed
    }

    /// The rules that have never fired.
    pub fn unfired(&self) -> impl Iterator<Item = &ArmedRule> {
        self.armed.iter().filter(|armed| armed.fired == 0)
    }

    /// The state of one rule.
    pub fn get(&self, id: RuleId) -> Option<&ArmedRule> {
        self.armed.iter().find(|armed| armed.id == id)
    }

    /// Deletes a rule and returns its last state.
    pub fn disarm(&mut self, id: RuleId) -> Option<ArmedRule> {
        let index = self.armed.iter().position(|armed| armed.id == id)?;
        Some(self.armed.remove(index))
    }

    /// The providers whose ports are closed.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Provider> {
        let refusing = self.armed.iter().filter(|armed| armed.rule.effect == FaultEffect::Refuse);
        refusing.map(|armed| armed.rule.provider)
    }

    /// Checks rules that were restored instead of armed.
    pub(crate) fn check(&self) -> Result<(), (RuleId, RuleError)> {
        if self.armed.len() > MAX_RULES {
            return Err((RuleId(self.last), RuleError::TooMany));
        }
        let mut before = RuleId(0);
        for ArmedRule { id, rule, remaining, .. } in &self.armed {
            rule.check().map_err(|error| (*id, error))?;
            let can_remain = match rule.repeat {
                Repeat::Once => remaining.is_some_and(|remaining| remaining <= 1),
                Repeat::Times(times) => remaining.is_some_and(|remaining| remaining <= times),
                Repeat::Standing | Repeat::Flap { .. } => remaining.is_none(),
            };
            if !can_remain {
                return Err((*id, RuleError::Remaining));
            }
            if *id <= before || id.0 > self.last {
                return Err((*id, RuleError::Number));
            }
            before = *id;
        }
        self.random.as_ref().map_or(Ok(()), |random| random.check().map_err(|error| (DRAWN, error)))
    }

    /// The random mode, if it is on.
    pub fn random(&self) -> Option<&Random> {
        self.random.as_ref()
    }

    /// Sets the random mode, or turns it off.
    ///
    /// # Errors
    /// What is wrong with it. Then nothing changes.
    pub fn set_random(&mut self, random: Option<Random>) -> Result<(), RuleError> {
        if let Some(random) = &random {
            random.check()?;
        }
        self.random = random;
        Ok(())
    }

    /// Counts a request and returns its coordinates.
    pub(crate) fn locate(&mut self, provider: Provider, ordinal: u64, info: &RequestInfo) -> Coordinates {
        let (operation, target) = (info.operation.clone(), info.target.clone());
        let key = (provider, operation.clone(), target.clone());
        let mut not_counted = 0;
        let count = if self.attempts.len() < MAX_COUNTED {
            self.attempts.entry(key).or_default()
        } else {
            self.attempts.get_mut(&key).unwrap_or(&mut not_counted)
        };
        *count += 1;
        let attempt = *count;
        Coordinates { provider, operation, target, attempt, ordinal, moves_money: info.moves_money }
    }

    /// Counts a connection to a provider and returns its number.
    pub(crate) fn count_connection(&mut self, provider: Provider) -> u64 {
        let count = self.connections.entry(provider).or_default();
        *count += 1;
        *count
    }

    /// Fires the rules for a request at a point.
    pub(crate) fn fire(&mut self, at: &Coordinates, kind: PointKind) -> FiredRules {
        let mut fired = self.fire_where(kind, |rule| rule.matches(at));
        if let Some(draw) = self.random.as_ref().and_then(|random| random.draw(at))
            && draw.point.kind() == kind
        {
            fired.rules.push(DRAWN);
            fired.actions.push(action(DRAWN, draw.point, &draw.effect));
        }
        fired
    }

    /// The action of a magic target at a point.
    pub(crate) fn magic(point: Point, effect: &FaultEffect, kind: PointKind) -> FiredRules {
        let actions = if point.kind() == kind { vec![action(DRAWN, point, effect)] } else { Vec::new() };
        FiredRules { rules: Vec::new(), actions }
    }

    /// Fires the rules for a connection before anything is read.
    pub(crate) fn fire_for_connection(&mut self, at: &ConnectionCoordinates, kind: PointKind) -> FiredRules {
        self.fire_where(kind, |rule| rule.matches_connection(at))
    }

    /// Whether an armed rule can still fire at this point.
    pub(crate) fn awaits(&self, kind: PointKind) -> bool {
        self.armed.iter().any(|armed| armed.remaining != Some(0) && armed.rule.point.kind() == kind)
    }

    /// Whether there is neither a rule nor the random mode.
    pub(crate) fn is_empty(&self) -> bool {
        self.armed.is_empty() && self.random.is_none()
    }

    /// Whether a rule after the effect may need the state before it.
    pub(crate) fn needs_snapshot(&self, at: &Coordinates) -> bool {
        let wants = |effect: &FaultEffect| matches!(effect, FaultEffect::Stale { .. } | FaultEffect::ForgedAnswer(_));
        let matches =
            |armed: &ArmedRule| armed.remaining != Some(0) && wants(&armed.rule.effect) && armed.rule.matches(at);
        self.armed.iter().any(matches)
            || self.random.as_ref().is_some_and(|random| random.effects.iter().any(|draw| wants(&draw.effect)))
    }

    fn fire_where(&mut self, kind: PointKind, matches: impl Fn(&Rule) -> bool) -> FiredRules {
        let mut fired = FiredRules::default();
        for armed in &mut self.armed {
            if armed.remaining == Some(0) || armed.rule.point.kind() != kind || !matches(&armed.rule) {
                continue;
            }
            armed.matched += 1;
            if let Repeat::Flap { down, up } = armed.rule.repeat
                && (armed.matched - 1).checked_rem(down.saturating_add(up)).is_none_or(|position| position >= down)
            {
                continue;
            }
            armed.fired += 1;
            armed.remaining = armed.remaining.map(|remaining| remaining - 1);
            let (after, action) = action(armed.id, armed.rule.point, &armed.rule.effect);
            let ends = action.ends_point();
            fired.rules.push(armed.id);
            fired.actions.push((after, action));
            if ends {
                break;
            }
        }
        fired
    }
}

impl Rule {
    fn matches(&self, at: &Coordinates) -> bool {
        self.provider == at.provider
            && self.operation.as_ref().is_none_or(|operation| *operation == at.operation)
            && self.target.as_ref().is_none_or(|target| at.target.as_ref() == Some(target))
            && self.attempt.is_none_or(|attempt| attempt == at.attempt)
            && self.ordinal.is_none_or(|ordinal| ordinal == at.ordinal)
            && (at.moves_money || !self.effect.needs_money())
    }

    fn matches_connection(&self, at: &ConnectionCoordinates) -> bool {
        self.provider == at.provider
            && self.connection.is_none_or(|connection| connection == at.connection)
            && self.ordinal.is_none_or(|ordinal| ordinal == at.ordinal)
            && (at.tls || self.effect != FaultEffect::RefuseTls)
            // Connections accepted before the port was closed are not affected.
            && self.effect != FaultEffect::Refuse
    }
}

impl Point {
    pub(crate) fn kind(self) -> PointKind {
        match self {
            Point::Connect => PointKind::Connect,
            Point::BeforeRead => PointKind::BeforeRead,
            Point::BeforeEffect => PointKind::BeforeEffect,
            Point::AfterEffect => PointKind::AfterEffect,
            Point::DuringAnswer { .. } => PointKind::DuringAnswer,
        }
    }

    /// The number of bytes of the body before it.
    pub(crate) fn after_bytes(self) -> usize {
        match self {
            Point::DuringAnswer { after_bytes } => after_bytes,
            _ => 0,
        }
    }
}

impl FaultEffect {
    /// Whether it can only happen to a call that moves money.
    fn needs_money(&self) -> bool {
        matches!(self, FaultEffect::CommitLate { .. } | FaultEffect::HalfWay | FaultEffect::ForgedAnswer(_))
    }
}

impl FaultAction {
    /// Whether no later action of the same point can matter.
    fn ends_point(&self) -> bool {
        match self {
            FaultAction::RefuseTls
            | FaultAction::Disconnect(_)
            | FaultAction::LimitData { .. }
            | FaultAction::Answer(_)
            | FaultAction::CommitLate { .. }
            | FaultAction::Forge(_) => true,
            FaultAction::Delay(_)
            | FaultAction::Corrupt(_)
            | FaultAction::Slice { .. }
            | FaultAction::HalfWay
            | FaultAction::Stale { .. } => false,
        }
    }
}

fn action(rule: RuleId, point: Point, effect: &FaultEffect) -> (usize, FaultAction) {
    let at = point.after_bytes();
    let action = match effect {
        FaultEffect::Refuse | FaultEffect::ResetPeer => FaultAction::Disconnect(Disconnect::Reset),
        FaultEffect::RefuseTls => FaultAction::RefuseTls,
        FaultEffect::Delay { milliseconds } => FaultAction::Delay(Duration::from_millis(*milliseconds)),
        FaultEffect::NeverAnswer => FaultAction::Disconnect(Disconnect::Hang),
        FaultEffect::Close => FaultAction::Disconnect(Disconnect::Fin),
        FaultEffect::LimitData { after_bytes } => {
            let after_bytes = at.saturating_add(*after_bytes);
            return (after_bytes, FaultAction::LimitData { after_bytes });
        }
        FaultEffect::Corrupt { bytes } => FaultAction::Corrupt(*bytes),
        FaultEffect::Slicer { bytes, every_milliseconds } => {
            FaultAction::Slice { bytes: *bytes, every: Duration::from_millis(*every_milliseconds) }
        }
        FaultEffect::Answer { status, body, headers } => FaultAction::Answer(Response {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: checks::header_map(headers).unwrap_or_default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }),
        FaultEffect::CommitLate { seconds } => FaultAction::CommitLate { seconds: *seconds },
        FaultEffect::HalfWay => FaultAction::HalfWay,
        FaultEffect::Stale { seconds } => FaultAction::Stale { rule, seconds: *seconds },
        FaultEffect::ForgedAnswer(answer) => FaultAction::Forge(*answer),
    };
    (at, action)
}

/// Counters with keys of several parts, as a list, because JSON has no such keys.
mod counted {
    use std::collections::HashMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::request::Provider;

    type Key = (Provider, String, Option<String>);

    pub(super) fn serialize<S: Serializer>(counted: &HashMap<Key, u64>, to: S) -> Result<S::Ok, S::Error> {
        let mut list: Vec<_> = counted.iter().collect();
        list.sort();
        list.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HashMap<Key, u64>, D::Error> {
        Ok(Vec::<(Key, u64)>::deserialize(from)?.into_iter().collect())
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn one() -> usize {
    1
}

fn one_time() -> u64 {
    1
}
