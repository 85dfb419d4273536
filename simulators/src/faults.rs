//! Faults as coordinates, not dice: a rule says exactly where something goes wrong, and what.
//!
//! ```text
//! where: provider, operation, target, attempt      each but the first may be left open
//! when:  before the effect | after the effect
//! what:  close without an answer | delay, then go on | answer this instead
//! how often: once | n times | standing
//! ```
//!
//! Rules are tried in the order in which they were armed. At one point a delay lets the next rule have its say; the first close
//! or answer ends it. A rule that never fired says so in the list.

use std::{collections::BTreeMap, collections::HashMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::exchange::{Answer, Identified, Provider};

/// How many rules may be armed at once.
pub const MOST_RULES: usize = 1_000;
/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(600);
/// The longest body of an answer that a rule gives.
pub const LONGEST_BODY: usize = 16 * 1024 * 1024;
/// For how many different (provider, operation, target) attempts are counted; what comes beyond counts as a first attempt.
const MOST_COUNTED: usize = 100_000;

/// Where something goes wrong, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// At which provider.
    pub provider: Provider,
    /// At which of its calls, by the provider's own name (`!AutoRefund`, `ProcessRefund`, `InitiateRefund`); left out: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// For which order or account reference, as it stands in the request; left out: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Only on the nth request for one operation and target, counted from 1 since the start or the last reset; left out: on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// When.
    pub point: Point,
    /// What.
    pub effect: FaultEffect,
    /// How often.
    #[serde(default)]
    pub repeat: Repeat,
}

/// A point in a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// The request has been read; nothing has been done.
    BeforeEffect,
    /// What there was to do has been done and stands in the books; nothing has been answered.
    AfterEffect,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultEffect {
    /// Closes the connection without an answer. Before the effect: nothing is ever done.
    Close,
    /// Waits in real time, holding nothing up but this request, then goes on.
    Delay {
        /// For how long; at most ten minutes.
        milliseconds: u64,
    },
    /// Answers this instead. Before the effect: nothing is ever done.
    Answer {
        /// The HTTP status, 200 to 599.
        status: u16,
        /// The body; empty if left out.
        #[serde(default)]
        body: String,
        /// Headers; `content-type: text/plain` if left out.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
}

/// How often a rule fires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Once, then never again.
    #[default]
    Once,
    /// So many times.
    Times(u64),
    /// As long as it is armed.
    Standing,
}

/// The number of an armed rule, counted from 1 since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub u64);

/// A rule as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmedRule {
    /// Its number.
    pub id: RuleId,
    /// What was armed.
    pub rule: Rule,
    /// How often it has fired.
    pub fired: u64,
    /// How often it will still fire; none for a standing rule.
    pub remaining: Option<u64>,
}

/// Why a rule cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// Attempts are counted from 1.
    #[error("`attempt` is counted from 1")]
    Attempt,
    /// A rule that never fires.
    #[error("`repeat.times` is at least 1")]
    Times,
    /// Too long a wait.
    #[error("`effect.delay.milliseconds` is at most {}", LONGEST_DELAY.as_millis())]
    Delay,
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
    #[error("`effect.answer.body` is at most {LONGEST_BODY} bytes")]
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
    /// Too many rules.
    #[error("{MOST_RULES} rules are armed already: delete some")]
    TooMany,
}

/// What to do at a point, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fired {
    pub(crate) rules: Vec<RuleId>,
    pub(crate) steps: Vec<Step>,
}

/// A rule's effect, ready to be done.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Close,
    Delay(Duration),
    Answer(Answer),
}

/// Where a request stands among the coordinates of rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Coordinates {
    provider: Provider,
    operation: String,
    target: Option<String>,
    attempt: u64,
}

/// The armed rules, and how often what was asked.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    armed: Vec<ArmedRule>,
    last: u64,
    attempts: HashMap<(Provider, String, Option<String>), u64>,
}

impl Faults {
    /// Arms a rule, behind those that are armed already.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is armed.
    pub fn arm(&mut self, rule: Rule) -> Result<RuleId, RuleError> {
        check(&rule)?;
        if self.armed.len() >= MOST_RULES {
            return Err(RuleError::TooMany);
        }
        self.last += 1;
        let id = RuleId(self.last);
        let remaining = match rule.repeat {
            Repeat::Once => Some(1),
            Repeat::Times(times) => Some(times),
            Repeat::Standing => None,
        };
        self.armed.push(ArmedRule { id, rule, fired: 0, remaining });
        Ok(id)
    }

    /// All rules, spent ones too, until they are deleted.
    pub fn list(&self) -> &[ArmedRule] {
        &self.armed
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

    /// Counts a request in and tells where it stands.
    pub(crate) fn locate(&mut self, provider: Provider, identified: &Identified) -> Coordinates {
        let (operation, target) = (identified.operation.clone(), identified.target.clone());
        let key = (provider, operation.clone(), target.clone());
        let attempt = match self.attempts.get_mut(&key) {
            Some(count) => {
                *count += 1;
                *count
            }
            None => {
                if self.attempts.len() < MOST_COUNTED {
                    self.attempts.insert(key, 1);
                }
                1
            }
        };
        Coordinates { provider, operation, target, attempt }
    }

    /// Fires what is armed for this request at this point.
    pub(crate) fn fire(&mut self, coordinates: &Coordinates, point: Point) -> Fired {
        let mut fired = Fired::default();
        for armed in &mut self.armed {
            if armed.remaining == Some(0) || armed.rule.point != point || !matches(&armed.rule, coordinates) {
                continue;
            }
            armed.fired += 1;
            armed.remaining = armed.remaining.map(|remaining| remaining - 1);
            let step = step(&armed.rule.effect);
            let ends = !matches!(step, Step::Delay(_));
            fired.rules.push(armed.id);
            fired.steps.push(step);
            if ends {
                break;
            }
        }
        fired
    }
}

impl Coordinates {
    pub(crate) fn attempt(&self) -> u64 {
        self.attempt
    }
}

fn matches(rule: &Rule, at: &Coordinates) -> bool {
    rule.provider == at.provider
        && rule.operation.as_ref().is_none_or(|operation| *operation == at.operation)
        && rule.target.as_ref().is_none_or(|target| at.target.as_ref() == Some(target))
        && rule.attempt.is_none_or(|attempt| attempt == at.attempt)
}

fn step(effect: &FaultEffect) -> Step {
    match effect {
        FaultEffect::Close => Step::Close,
        FaultEffect::Delay { milliseconds } => Step::Delay(Duration::from_millis(*milliseconds)),
        FaultEffect::Answer { status, body, headers } => Step::Answer(Answer {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: header_map(headers).unwrap_or_default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }),
    }
}

fn check(rule: &Rule) -> Result<(), RuleError> {
    if let Some(operation) = &rule.operation {
        let (provider, known) = operations(rule.provider);
        if !known.contains(&operation.as_str()) {
            return Err(RuleError::Operation { provider, operation: operation.clone(), known });
        }
    }
    if rule.attempt == Some(0) {
        return Err(RuleError::Attempt);
    }
    if rule.repeat == Repeat::Times(0) {
        return Err(RuleError::Times);
    }
    match &rule.effect {
        FaultEffect::Close => Ok(()),
        FaultEffect::Delay { milliseconds } if u128::from(*milliseconds) > LONGEST_DELAY.as_millis() => {
            Err(RuleError::Delay)
        }
        FaultEffect::Delay { .. } => Ok(()),
        FaultEffect::Answer { status, .. } if !(200..=599).contains(status) => Err(RuleError::Status),
        FaultEffect::Answer { body, .. } if body.len() > LONGEST_BODY => Err(RuleError::Body),
        FaultEffect::Answer { headers, .. } => header_map(headers).map(drop),
    }
}

fn header_map(headers: &BTreeMap<String, String>) -> Result<HeaderMap, RuleError> {
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

/// A provider's name and its calls by name, so that a rule for a call that does not exist is refused and not armed for nothing.
fn operations(provider: Provider) -> (&'static str, &'static [&'static str]) {
    match provider {
        Provider::Sectigo => ("sectigo", &["!AutoRefund", "!getPostPaymentStatus", "!AutoReject"]),
        Provider::Namecom => ("namecom", &["ProcessRefund", "GetOrder", "ListOrders"]),
        Provider::Debitsuccess => ("debitsuccess", &["InitiateRefund", "GetRefundStatus"]),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn rule(rule: Value) -> Rule {
        serde_json::from_value(rule).unwrap()
    }

    fn request(operation: &str, target: Option<&str>) -> Identified {
        Identified { operation: operation.to_owned(), target: target.map(str::to_owned), ..Identified::default() }
    }

    /// Which of so many requests for one order a rule fires on.
    fn fires_on(armed: Value, requests: usize) -> Vec<usize> {
        let mut faults = Faults::default();
        faults.arm(rule(armed)).unwrap();
        let fires = |_: &usize| {
            let at = faults.locate(Provider::Sectigo, &request("!AutoRefund", Some("7")));
            !faults.fire(&at, Point::AfterEffect).rules.is_empty()
        };
        (1..=requests).filter(fires).collect()
    }

    #[rstest]
    #[case::once(json!({}), vec![1])]
    #[case::once_said(json!({"repeat": "once"}), vec![1])]
    #[case::twice(json!({"repeat": {"times": 2}}), vec![1, 2])]
    #[case::standing(json!({"repeat": "standing"}), vec![1, 2, 3, 4])]
    #[case::third_attempt(json!({"attempt": 3, "repeat": "standing"}), vec![3])]
    #[case::this_target(json!({"target": "7"}), vec![1])]
    #[case::other_target(json!({"target": "8"}), vec![])]
    #[case::this_operation(json!({"operation": "!AutoRefund"}), vec![1])]
    #[case::other_operation(json!({"operation": "!getPostPaymentStatus"}), vec![])]
    #[case::other_provider(json!({"provider": "namecom"}), vec![])]
    #[case::other_point(json!({"point": "before_effect"}), vec![])]
    fn a_rule_fires_where_it_says(#[case] more: Value, #[case] on: Vec<usize>) {
        let mut armed = json!({"provider": "sectigo", "point": "after_effect", "effect": "close"});
        armed.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(fires_on(armed, 4), on);
    }

    #[test]
    fn attempts_are_counted_per_operation_and_target() {
        let mut faults = Faults::default();
        let mut attempt = |operation, target| faults.locate(Provider::Sectigo, &request(operation, target)).attempt();
        assert_eq!(attempt("!AutoRefund", Some("7")), 1);
        assert_eq!(attempt("!AutoRefund", Some("8")), 1);
        assert_eq!(attempt("!getPostPaymentStatus", Some("7")), 1);
        assert_eq!(attempt("!AutoRefund", Some("7")), 2);
        assert_eq!(attempt("!AutoRefund", None), 1);
    }

    #[test]
    fn a_delay_lets_the_next_rule_have_its_say_and_a_close_ends_it() {
        let mut faults = Faults::default();
        for effect in [json!({"delay": {"milliseconds": 5}}), json!("close"), json!({"answer": {"status": 503}})] {
            let armed = json!({"provider": "sectigo", "point": "after_effect", "effect": effect, "repeat": "standing"});
            faults.arm(rule(armed)).unwrap();
        }
        let at = faults.locate(Provider::Sectigo, &request("!AutoRefund", None));
        let fired = faults.fire(&at, Point::AfterEffect);
        assert_eq!(fired.rules, [RuleId(1), RuleId(2)]);
        assert!(matches!(fired.steps.as_slice(), [Step::Delay(_), Step::Close]));
        let counts: Vec<u64> = faults.list().iter().map(|armed| armed.fired).collect();
        assert_eq!(counts, [1, 1, 0]);
        assert_eq!(faults.disarm(RuleId(2)).unwrap().fired, 1);
        assert_eq!(faults.disarm(RuleId(2)), None);
    }

    #[rstest]
    #[case::attempt(json!({"attempt": 0}), "`attempt` is counted from 1")]
    #[case::times(json!({"repeat": {"times": 0}}), "`repeat.times` is at least 1")]
    #[case::status(json!({"effect": {"answer": {"status": 199}}}), "`effect.answer.status` is 200 to 599")]
    #[case::delay(json!({"effect": {"delay": {"milliseconds": 600_001}}}), "`effect.delay.milliseconds` is at most 600000")]
    #[case::header(json!({"effect": {"answer": {"status": 200, "headers": {"a b": "c"}}}}), "`effect.answer.headers`: `a b` and its value do not make an HTTP header")]
    #[case::own_header(json!({"effect": {"answer": {"status": 200, "headers": {"Content-Length": "7"}}}}), "`effect.answer.headers`: `Content-Length` is written by the server itself")]
    #[case::operation(json!({"operation": "AutoRefund"}), "`operation`: sectigo has no `AutoRefund`, only !AutoRefund, !getPostPaymentStatus, !AutoReject")]
    fn a_rule_that_makes_no_sense_is_not_armed(#[case] more: Value, #[case] why: &str) {
        let mut armed = json!({"provider": "sectigo", "point": "after_effect", "effect": "close"});
        armed.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut faults = Faults::default();
        assert_eq!(faults.arm(rule(armed)).unwrap_err().to_string(), why);
        assert_eq!(faults.list(), []);
    }

    #[rstest]
    #[case(json!({"provider": "sectigo", "point": "after_effect", "effect": "close", "targets": "7"}), "targets")]
    #[case(json!({"provider": "sectigo", "point": "after_effect", "effect": {"delay": {"ms": 7}}}), "ms")]
    #[case(json!({"provider": "sectigo", "point": "after_effect", "effect": "explode"}), "explode")]
    #[case(json!({"provider": "sectigo", "point": "during", "effect": "close"}), "during")]
    #[case(json!({"provider": "paypal", "point": "after_effect", "effect": "close"}), "paypal")]
    fn unknown_words_are_named(#[case] armed: Value, #[case] word: &str) {
        let refused = serde_json::from_value::<Rule>(armed).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }

    #[test]
    fn rules_have_a_bound() {
        let mut faults = Faults::default();
        let armed = rule(json!({"provider": "sectigo", "point": "after_effect", "effect": "close"}));
        for _ in 0..MOST_RULES {
            faults.arm(armed.clone()).unwrap();
        }
        assert_eq!(faults.arm(armed), Err(RuleError::TooMany));
    }
}
