//! Faults as coordinates, not dice: a rule says exactly where something goes wrong, and what.
//!
//! ```text
//! where: provider, operation, target, attempt, ordinal     each but the first may be left open
//! when:  connect | before it is read | before the effect | after the effect | during the answer, after n bytes
//! what:  refuse (the port is shut), delay, never answer, close, reset, truncate, corrupt, drip, answer this instead, pretend, commit late,
//!        half-way, stale
//! how often: once | n times | standing | flapping
//! ```
//!
//! Rules are tried in the order in which they were armed. At one point a delay, a drip, a
//! corruption or a half-way refund lets the next rule have its say; what leaves nothing more to say
//! ends it. A rule that never fired says so when asked.

mod checks;
pub(crate) mod forged_answers;
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
    random::{Draw, Random},
};
use crate::{
    http::connection::Cut,
    request::{Answer, Identified, Provider},
};

/// How many rules may be armed at once.
pub const MAX_RULES: usize = 1_000;
/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(600);
/// The longest body of an answer that a rule gives.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// The longest wait between two pieces of an answer that drips.
pub const MAX_DRIP: Duration = Duration::from_secs(60);
/// The furthest that an effect can be put off, or a lookup look back: a hundred years, as far as a
/// clock can be moved.
pub const MAX_AHEAD_SECONDS: u64 = crate::clock::MAX_AHEAD.as_secs();
/// What the journal calls a rule that the random mode drew.
pub const DRAWN: RuleId = RuleId(0);
/// For how many different (provider, operation, target) attempts are counted; what comes beyond
/// counts as a first attempt.
const MAX_COUNTED: usize = 100_000;

/// Where something goes wrong, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Fault")]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// At which provider.
    pub provider: Provider,
    /// At which of its calls, by the provider's own name (`!AutoRefund`, `ProcessRefund`,
    /// `InitiateRefund`); left out: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// For which order or account reference, as it stands in the request; left out: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Only on the nth request for one operation and target, counted from 1 since the start or the
    /// last reset; left out: on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<u64>,
    /// At the points [`Point::Connect`] and [`Point::BeforeRead`] only: on the nth connection to
    /// this provider, counted from 1 since the start or the last reset; left out: on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connection: Option<u64>,
    /// Only on the nth request of its connection, so that 2 is the first one on a reused
    /// connection; left out: on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ordinal: Option<u64>,
    /// When.
    pub point: Point,
    /// What.
    pub effect: FaultEffect,
    /// How often.
    #[serde(default)]
    pub repeat: Repeat,
    /// Whether it is an error that it never fires, for whoever asks for the rules that did not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
}

/// A point in a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Point {
    /// The connection has just been accepted: nothing is read, and TLS has not begun.
    Connect,
    /// The connection stands, TLS too, and nothing of the request has been read. On a connection
    /// that is reused, the request's first bytes are there and nobody takes them.
    BeforeRead,
    /// The request has been read; nothing has been done.
    BeforeEffect,
    /// What there was to do has been done and stands in the books; nothing has been answered.
    AfterEffect,
    /// All is done; the head of the answer and so many bytes of its body have gone out. Where the
    /// body is shorter: all of it has.
    DuringAnswer {
        /// After how many bytes of the body.
        #[serde(default)]
        after_bytes: usize,
    },
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultEffect {
    /// Shuts the provider's ports for as long as the rule is armed, so that the system turns
    /// clients away (`ECONNREFUSED`). Nobody sees them: nothing is counted, and nothing stands in
    /// the journal. What can be counted is [`FaultEffect::Reset`] at [`Point::Connect`]: accepted,
    /// and reset before anything is read.
    Refuse,
    /// Turns the TLS handshake away with the alert `handshake_failure`.
    RefuseTls,
    /// Waits in real time, holding nothing up but this request, then goes on.
    Delay {
        /// For how long; at most ten minutes.
        #[schemars(range(max = 600_000))]
        milliseconds: u64,
    },
    /// Says nothing (more), and keeps the connection open for as long as the client stays.
    NeverAnswer,
    /// Closes the connection in an orderly way (FIN, on TLS behind a `close_notify`). Before the
    /// effect: nothing is ever done.
    Close,
    /// Resets the connection (RST, below TLS). Before the effect: nothing is ever done.
    #[serde(rename = "reset_peer")]
    Reset,
    /// Lets so many bytes of the body go out, counted from the point, and breaks off there (FIN,
    /// and no `close_notify`).
    #[serde(rename = "limit_data")]
    Truncate {
        /// How many bytes of the body still go out.
        #[serde(default)]
        after_bytes: usize,
    },
    /// Turns bytes of the body into others (each is inverted), beginning at the point.
    Corrupt {
        /// How many.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        bytes: usize,
    },
    /// Lets the body go out in pieces, beginning at the point.
    #[serde(rename = "slicer")]
    Drip {
        /// How many bytes at a time.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        bytes: usize,
        /// How long to wait before each piece, in real time; at most a minute.
        #[schemars(range(min = 1, max = 60_000))]
        every_milliseconds: u64,
    },
    /// Answers this instead. Before the effect: nothing is ever done.
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
    /// Answers a time-out in the provider's words, and does what was asked so much later, in the
    /// world's time.
    CommitLate {
        /// How much later.
        #[schemars(range(min = 1, max = 3_162_240_000u64))]
        seconds: u64,
    },
    /// name.com: has a refund stop half-way. The domain of each requested registration is deleted,
    /// nothing is refunded, and the answer is the one of the setting `half_way_answer`, unless a
    /// later rule of the point has another or none. Each refund then waits to be decided.
    HalfWay,
    /// Has lookups answered from the past, for so long in the world's time. On a request that moves
    /// money: lookups of its target (and lists) show what was true before it. On a lookup: it shows
    /// what was true when the rule was armed.
    Stale {
        /// For how long.
        #[schemars(range(min = 1, max = 3_162_240_000u64))]
        seconds: u64,
    },
    /// Tells the client something that is not so. Before the effect: nothing is ever done.
    #[serde(rename = "forged_answer")]
    Pretend(Pretence),
}

/// What a client is told although it is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Pretence {
    /// At any provider: the answer of a refund that was done.
    #[serde(rename = "success")]
    Success,
    /// Sectigo: `-18`, the order has already been refunded. name.com: the 400 that says so of the
    /// first item.
    #[serde(rename = "already_refunded")]
    AlreadyRefunded,
    /// name.com: the answer of an earlier request under this key, marked as a replay.
    #[serde(rename = "replay")]
    Replay,
    /// name.com: every item's refund has been initialized.
    #[serde(rename = "initialized")]
    Initialized,
    /// Debitsuccess: the identifier is known for this account.
    #[serde(rename = "14143")]
    IdentifierExists,
}

/// How often a rule fires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Repeat {
    /// Once, then never again.
    #[default]
    Once,
    /// So many times.
    Times(#[schemars(range(min = 1))] u64),
    /// As long as it is armed.
    Standing,
    /// As long as it is armed, so many times in a row, then not for so many, and again from the
    /// start.
    Flap {
        /// How many requests it fires on.
        #[serde(default = "one_time")]
        #[schemars(range(min = 1))]
        down: u64,
        /// How many it then lets by.
        #[serde(default = "one_time")]
        #[schemars(range(min = 1))]
        up: u64,
    },
}

/// The number of an armed rule, counted from 1 since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct RuleId(pub u64);

/// A rule as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ArmedFault")]
#[serde(deny_unknown_fields)]
pub struct ArmedRule {
    /// Its number.
    pub id: RuleId,
    /// What was armed.
    pub rule: Rule,
    /// How often it has fired. 1 for [`FaultEffect::Refuse`], which has shut the port: whom that
    /// turned away nobody knows.
    pub fired: u64,
    /// How often it will still fire; none for a standing rule.
    pub remaining: Option<u64>,
    /// How many requests it fitted while it had something left to do, whether it fired on them or,
    /// flapping, let them by.
    pub met: u64,
}

/// What to do at a point, in order, each with the number of bytes of the body after which it
/// begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fired {
    pub(crate) rules: Vec<RuleId>,
    pub(crate) steps: Vec<(usize, Step)>,
}

/// A rule's effect, ready to be done.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    RefuseTls,
    Cut(Cut),
    /// Breaks off after so many bytes of the body.
    Truncate {
        after_bytes: usize,
    },
    Delay(Duration),
    Corrupt(usize),
    Drip {
        bytes: usize,
        every: Duration,
    },
    Answer(Answer),
    CommitLate {
        seconds: u64,
    },
    HalfWay,
    Stale {
        rule: RuleId,
        seconds: u64,
    },
    Pretend(Pretence),
}

/// The points without their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Connect,
    BeforeRead,
    BeforeEffect,
    AfterEffect,
    DuringAnswer,
}

/// Where a request stands among the coordinates of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coordinates {
    pub(crate) provider: Provider,
    pub(crate) operation: String,
    pub(crate) target: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) ordinal: u64,
    pub(crate) moves_money: bool,
}

/// Where a connection stands among them, of which nothing has been read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Door {
    pub(crate) provider: Provider,
    pub(crate) tls: bool,
    /// Which connection to this provider.
    pub(crate) connection: u64,
    /// Which request on it comes next.
    pub(crate) ordinal: u64,
}

/// The armed rules, the random mode, and how often what was asked.
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

    /// Says what is wrong with it, if anything is.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<(), RuleError> {
        checks::rule(self)
    }

    /// Whether it belongs to a provider's ports and no world: it acts before anything is read that
    /// could name one.
    pub fn is_for_ports(&self) -> bool {
        matches!(self.point, Point::Connect | Point::BeforeRead)
    }
}

impl Faults {
    /// Arms a rule, behind those that are armed already.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is armed.
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
        // The port is shut as soon as the world is let go.
        let fired = u64::from(rule.effect == FaultEffect::Refuse);
        self.armed.push(ArmedRule { id, rule, fired, remaining, met: 0 });
        Ok(id)
    }

    /// All rules, spent ones too, until they are deleted.
    pub fn list(&self) -> &[ArmedRule] {
        &self.armed
    }

    /// The rules that have never fired.
    pub fn unfired(&self) -> impl Iterator<Item = &ArmedRule> {
        self.armed.iter().filter(|armed| armed.fired == 0)
    }

    /// One rule as it stands.
    pub fn get(&self, id: RuleId) -> Option<&ArmedRule> {
        self.armed.iter().find(|armed| armed.id == id)
    }

    /// Takes a rule away and tells how it stood.
    pub fn disarm(&mut self, id: RuleId) -> Option<ArmedRule> {
        let index = self.armed.iter().position(|armed| armed.id == id)?;
        Some(self.armed.remove(index))
    }

    /// The providers at which clients are turned away before they are connected.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Provider> {
        let refusing = self.armed.iter().filter(|armed| armed.rule.effect == FaultEffect::Refuse);
        refusing.map(|armed| armed.rule.provider)
    }

    /// Says what is wrong with rules that were not armed here, if anything is.
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

    /// The random mode, where it is on.
    pub fn random(&self) -> Option<&Random> {
        self.random.as_ref()
    }

    /// Switches the random mode on, off, or to other draws.
    ///
    /// # Errors
    /// What is wrong with it; then nothing changes.
    pub fn set_random(&mut self, random: Option<Random>) -> Result<(), RuleError> {
        if let Some(random) = &random {
            random.check()?;
        }
        self.random = random;
        Ok(())
    }

    /// Counts a request in and tells where it stands.
    pub(crate) fn locate(&mut self, provider: Provider, ordinal: u64, identified: &Identified) -> Coordinates {
        let (operation, target) = (identified.operation.clone(), identified.target.clone());
        let key = (provider, operation.clone(), target.clone());
        let mut not_counted = 0;
        let count = if self.attempts.len() < MAX_COUNTED {
            self.attempts.entry(key).or_default()
        } else {
            self.attempts.get_mut(&key).unwrap_or(&mut not_counted)
        };
        *count += 1;
        let attempt = *count;
        Coordinates { provider, operation, target, attempt, ordinal, moves_money: identified.moves_money }
    }

    /// Counts a connection in and tells which one it is at its provider.
    pub(crate) fn count_connection(&mut self, provider: Provider) -> u64 {
        let count = self.connections.entry(provider).or_default();
        *count += 1;
        *count
    }

    /// Fires what is armed for this request at this point.
    pub(crate) fn fire(&mut self, at: &Coordinates, moment: Moment) -> Fired {
        let mut fired = self.fire_where(moment, |rule| rule.fits(at));
        if let Some(draw) = self.random.as_ref().and_then(|random| random.draw(at))
            && draw.point.moment() == moment
        {
            fired.rules.push(DRAWN);
            fired.steps.push(step(DRAWN, draw.point, &draw.effect));
        }
        fired
    }

    /// What a rule without a number does at this point.
    pub(crate) fn unarmed(point: Point, effect: &FaultEffect, moment: Moment) -> Fired {
        let steps = if point.moment() == moment { vec![step(DRAWN, point, effect)] } else { Vec::new() };
        Fired { rules: Vec::new(), steps }
    }

    /// Fires what is armed for this connection before anything is read.
    pub(crate) fn fire_at_door(&mut self, door: &Door, moment: Moment) -> Fired {
        self.fire_where(moment, |rule| rule.fits_door(door))
    }

    /// Whether a rule is armed for this point and not spent.
    pub(crate) fn awaits(&self, moment: Moment) -> bool {
        self.armed.iter().any(|armed| armed.remaining != Some(0) && armed.rule.point.moment() == moment)
    }

    /// Whether there is neither a rule, spent or not, nor the random mode.
    pub(crate) fn is_empty(&self) -> bool {
        self.armed.is_empty() && self.random.is_none()
    }

    /// Whether a rule could want to know, behind the effect, what was before it.
    pub(crate) fn wants_what_was(&self, at: &Coordinates) -> bool {
        let wants = |effect: &FaultEffect| matches!(effect, FaultEffect::Stale { .. } | FaultEffect::Pretend(_));
        let fits = |armed: &ArmedRule| armed.remaining != Some(0) && wants(&armed.rule.effect) && armed.rule.fits(at);
        self.armed.iter().any(fits)
            || self.random.as_ref().is_some_and(|random| random.effects.iter().any(|draw| wants(&draw.effect)))
    }

    fn fire_where(&mut self, moment: Moment, fits: impl Fn(&Rule) -> bool) -> Fired {
        let mut fired = Fired::default();
        for armed in &mut self.armed {
            if armed.remaining == Some(0) || armed.rule.point.moment() != moment || !fits(&armed.rule) {
                continue;
            }
            armed.met += 1;
            if let Repeat::Flap { down, up } = armed.rule.repeat
                && (armed.met - 1).checked_rem(down.saturating_add(up)).is_none_or(|place| place >= down)
            {
                continue;
            }
            armed.fired += 1;
            armed.remaining = armed.remaining.map(|remaining| remaining - 1);
            let (after, step) = step(armed.id, armed.rule.point, &armed.rule.effect);
            let ends = step.ends();
            fired.rules.push(armed.id);
            fired.steps.push((after, step));
            if ends {
                break;
            }
        }
        fired
    }
}

impl Rule {
    fn fits(&self, at: &Coordinates) -> bool {
        self.provider == at.provider
            && self.operation.as_ref().is_none_or(|operation| *operation == at.operation)
            && self.target.as_ref().is_none_or(|target| at.target.as_ref() == Some(target))
            && self.attempt.is_none_or(|attempt| attempt == at.attempt)
            && self.ordinal.is_none_or(|ordinal| ordinal == at.ordinal)
            && (at.moves_money || !self.effect.needs_money())
    }

    fn fits_door(&self, door: &Door) -> bool {
        self.provider == door.provider
            && self.connection.is_none_or(|connection| connection == door.connection)
            && self.ordinal.is_none_or(|ordinal| ordinal == door.ordinal)
            && (door.tls || self.effect != FaultEffect::RefuseTls)
            // Whoever came in before the port was shut has come in.
            && self.effect != FaultEffect::Refuse
    }
}

impl Point {
    pub(crate) fn moment(self) -> Moment {
        match self {
            Point::Connect => Moment::Connect,
            Point::BeforeRead => Moment::BeforeRead,
            Point::BeforeEffect => Moment::BeforeEffect,
            Point::AfterEffect => Moment::AfterEffect,
            Point::DuringAnswer { .. } => Moment::DuringAnswer,
        }
    }

    /// After how many bytes of the body it is.
    pub(crate) fn after_bytes(self) -> usize {
        match self {
            Point::DuringAnswer { after_bytes } => after_bytes,
            _ => 0,
        }
    }
}

impl FaultEffect {
    /// Whether it is about a refund and nothing else.
    fn needs_money(&self) -> bool {
        matches!(self, FaultEffect::CommitLate { .. } | FaultEffect::HalfWay | FaultEffect::Pretend(_))
    }
}

impl Step {
    /// Whether nothing that comes behind it at the same point could matter.
    fn ends(&self) -> bool {
        match self {
            Step::RefuseTls
            | Step::Cut(_)
            | Step::Truncate { .. }
            | Step::Answer(_)
            | Step::CommitLate { .. }
            | Step::Pretend(_) => true,
            Step::Delay(_) | Step::Corrupt(_) | Step::Drip { .. } | Step::HalfWay | Step::Stale { .. } => false,
        }
    }
}

fn step(rule: RuleId, point: Point, effect: &FaultEffect) -> (usize, Step) {
    let at = point.after_bytes();
    let step = match effect {
        FaultEffect::Refuse | FaultEffect::Reset => Step::Cut(Cut::Reset),
        FaultEffect::RefuseTls => Step::RefuseTls,
        FaultEffect::Delay { milliseconds } => Step::Delay(Duration::from_millis(*milliseconds)),
        FaultEffect::NeverAnswer => Step::Cut(Cut::Silence),
        FaultEffect::Close => Step::Cut(Cut::Close),
        FaultEffect::Truncate { after_bytes } => {
            let after_bytes = at.saturating_add(*after_bytes);
            return (after_bytes, Step::Truncate { after_bytes });
        }
        FaultEffect::Corrupt { bytes } => Step::Corrupt(*bytes),
        FaultEffect::Drip { bytes, every_milliseconds } => {
            Step::Drip { bytes: *bytes, every: Duration::from_millis(*every_milliseconds) }
        }
        FaultEffect::Answer { status, body, headers } => Step::Answer(Answer {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: checks::header_map(headers).unwrap_or_default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }),
        FaultEffect::CommitLate { seconds } => Step::CommitLate { seconds: *seconds },
        FaultEffect::HalfWay => Step::HalfWay,
        FaultEffect::Stale { seconds } => Step::Stale { rule, seconds: *seconds },
        FaultEffect::Pretend(pretence) => Step::Pretend(*pretence),
    };
    (at, step)
}

/// Counters by what they count, as a list: JSON has no keys of several parts.
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
