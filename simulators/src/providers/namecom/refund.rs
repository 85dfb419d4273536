//! Process Refund: everything is checked first and refused as a whole; then items are deleted and
//! refunded one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use http::{HeaderMap, StatusCode, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::orders::{ItemStatus, Obstacle, Order, Outcome, Pending, RegistryCondition};
use super::reads::Usd;
use super::refusals::{Refusal, THRESHOLD_DETAILS, json_answer};
use super::state::State;
use super::{AllItemsRefused, CachedAnswers, HalfWayAnswer, Obstacles, RepeatedItem, Settings, UnknownMembers, keys};
use crate::{
    record::parameters::Parameters,
    request::{Deduplication, Effect, Handled, Request},
};

/// Answers `POST /core/v1/refund`. With `half_way` the domain of each requested registration is
/// deleted, and nothing is refunded.
pub(super) fn process(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    (request, body): (&Request, &ParsedBody),
    half_way: bool,
) -> Result<Handled, Refusal> {
    if !state.account(username).is_some_and(|account| account.approved_reseller) {
        return Err(Refusal::PermissionDenied);
    }
    if !is_json(&request.headers) {
        return Err(Refusal::WrongContentType);
    }
    let parsed = ParsedRequest::read(body, settings)?;
    let key = keys::key_in(&request.headers, settings.empty_key).filter(|_| settings.idempotency_keys);
    if let Some(key) = &key
        && let Some(mut answer) = state.keys_of(username).replay(key, &request.body, settings, now)?
    {
        keys::echo(&mut answer, &request.headers);
        return Ok(Handled { response: answer, effects: Vec::new() });
    }

    let mut run = RefundRun {
        now,
        key,
        half_way,
        failing: BTreeMap::new(),
        begun: BTreeSet::new(),
        results: Vec::new(),
        effects: Vec::new(),
    };
    let done = check(state, settings, now, username, &parsed).and_then(|(mut order, failing)| {
        run.failing = failing;
        run.refund_all(state, username, &parsed, &mut order, settings)
    });
    let mut answer = match done {
        Ok(()) => json_answer(run.status(settings), &run.body()),
        Err(refusal) => refusal.answer(settings),
    };
    if let Some(key) = &run.key
        && (answer.status.is_success() || settings.cached_answers == CachedAnswers::All)
    {
        state.keys_of(username).remember(key, &request.body, &answer, now);
    }
    keys::echo(&mut answer, &request.headers);
    Ok(Handled { response: answer, effects: run.effects })
}

/// The JSON in the body of a request.
pub(crate) enum ParsedBody {
    /// An object, with its members in order. Of several members with one name the last one counts.
    Object(Vec<(String, Value)>),
    /// Another JSON value.
    Other,
    /// No JSON.
    Invalid,
}

/// The members of an object in order, which a map would lose.
struct ObjectMembers(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for ObjectMembers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = ObjectMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ObjectMembers, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(ObjectMembers(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl ParsedBody {
    pub(super) fn parse(body: &[u8]) -> ParsedBody {
        match serde_json::from_slice(body) {
            Ok(ObjectMembers(members)) => ParsedBody::Object(members),
            Err(_) => match serde_json::from_slice(body) {
                Ok(IgnoredAny) => ParsedBody::Other,
                Err(_) => ParsedBody::Invalid,
            },
        }
    }
}

fn member<'a>(members: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    members.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The order's id and the two known members, for the journal, however wrong the body is.
pub(super) fn outline(body: &ParsedBody, body_bytes: usize) -> (Option<String>, Parameters) {
    let ParsedBody::Object(members) = body else {
        return (None, json!({ "unreadable_bytes": body_bytes }).into());
    };
    let target = match member(members, "orderId") {
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let known = members.iter().filter(|(name, _)| KNOWN.contains(&name.as_str()));
    (target, known.cloned().collect())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The members of a request.
const KNOWN: [&str; 2] = ["orderId", "orderItemIds"];
/// The maximum length of an unknown member's name in a refusal, in characters.
const MAX_NAME_CHARS: usize = 64;

/// A request in the documented form.
struct ParsedRequest {
    order: i32,
    items: Vec<i32>,
}

impl ParsedRequest {
    /// Only the message for an empty array is documented; the others follow its style.
    fn read(body: &ParsedBody, settings: &Settings) -> Result<Self, Refusal> {
        let refuse = |details: &str| Err(Refusal::Malformed(details.to_owned()));
        let members = match body {
            ParsedBody::Object(members) => members,
            ParsedBody::Other => return refuse("The request body must be a JSON object."),
            ParsedBody::Invalid => return refuse("The request body is not valid JSON."),
        };
        let mut names = members.iter().map(|(name, _)| name);
        let unknown = names.find(|name| !KNOWN.contains(&name.as_str()));
        if let (Some(unknown), UnknownMembers::Refused) = (unknown, settings.unknown_members) {
            let said: String = unknown.chars().take(MAX_NAME_CHARS).collect();
            return Err(Refusal::Malformed(format!("'{said}' is not a known field")));
        }
        let present = |name| member(members, name).filter(|value| !value.is_null());
        let Some(order) = present("orderId") else { return refuse("'orderId' cannot be null") };
        let order = int32(order, "orderId")?;
        let items = match present("orderItemIds") {
            None => return refuse("'orderItemIds' cannot be null"),
            Some(Value::Array(items)) if items.is_empty() => {
                // Documented.
                let details = "orderItemIds array must contain at least one item.";
                return Err(Refusal::BadRequest(details.to_owned()));
            }
            Some(Value::Array(items)) => items,
            Some(_) => return refuse("orderItemIds must be an array of 32-bit integers."),
        };
        let items = items.iter().map(|item| int32(item, "orderItemIds")).collect::<Result<Vec<i32>, _>>()?;
        let mut seen = BTreeSet::new();
        let (once, repeated): (Vec<i32>, Vec<i32>) = items.iter().partition(|item| seen.insert(**item));
        match (repeated.first(), settings.repeated_item) {
            (Some(twice), RepeatedItem::Refused) => {
                Err(Refusal::Malformed(format!("orderItemIds must not contain {twice} more than once.")))
            }
            (_, RepeatedItem::Once) => Ok(Self { order, items: once }),
            _ => Ok(Self { order, items }),
        }
    }
}

fn int32(value: &Value, name: &str) -> Result<i32, Refusal> {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| Refusal::Malformed(format!("{name} must be a 32-bit integer.")))
}

/// Refuses the whole request for the gravest obstacle among its items: unknown before refused
/// before locked. If the settings let single items fail instead, returns those with their messages.
/// Also returns the order.
fn check(
    state: &State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    parsed: &ParsedRequest,
) -> Result<(Order, BTreeMap<i32, String>), Refusal> {
    let account = state.account(username).ok_or(Refusal::Unauthorized)?;
    let order = state.order_of(username, parsed.order).ok_or(Refusal::NoSuchOrder(parsed.order))?;
    let mut found: Vec<(Obstacle, i32)> = Vec::new();
    for &id in &parsed.items {
        let item = order.items.iter().find(|item| item.id == id);
        let item = item.ok_or(Refusal::NoSuchItem { order: order.id, item: id })?;
        if let Some(status) = item.refund_answer {
            return Err(Refusal::of_status(status, order.id, item, now).unwrap_or(Refusal::Internal));
        }
        found.extend(order.obstacle(item, account, settings, state.since(), now).map(|obstacle| (obstacle, id)));
    }
    if settings.obstacles == Obstacles::FailItems {
        let message = |obstacle, item| refused(obstacle, item).details().unwrap_or_default();
        let failing = found.into_iter().map(|(obstacle, item)| (item, message(obstacle, item))).collect();
        return Ok((order, failing));
    }
    // Of equally grave ones, the first requested.
    match found.into_iter().min_by(|(one, _), (other, _)| one.cmp(other)) {
        None => Ok((order, BTreeMap::new())),
        Some((obstacle, item)) => Err(refused(obstacle, item)),
    }
}

fn refused(obstacle: Obstacle, item: i32) -> Refusal {
    match obstacle {
        Obstacle::AlreadyRefunded => Refusal::BadRequest(format!("Order item {item} has already been refunded.")),
        Obstacle::WrongType => Refusal::BadRequest(format!(
            "Order item {item} is not eligible for refund. Only 'registration' and 'whois_privacy' product types are supported."
        )),
        // Not documented: the message follows the one above.
        Obstacle::NotBought => Refusal::BadRequest(format!("Order item {item} is not eligible for refund.")),
        Obstacle::InProgress => Refusal::BadRequest(format!("Order item {item} already has a refund in progress.")),
        Obstacle::DomainDeleted => Refusal::BadRequest(format!("The domain of order item {item} has been deleted.")),
        Obstacle::WindowOver { domain, days } => Refusal::WindowExpired { domain, days },
        Obstacle::OverThreshold => Refusal::ThresholdExceeded,
    }
}

/// The processing of one request. What it has done stays done, even if a later item ends the call
/// with an error.
struct RefundRun {
    now: OffsetDateTime,
    key: Option<String>,
    /// Whether it stops after the deletion of the domains.
    half_way: bool,
    /// The items that were begun.
    begun: BTreeSet<i32>,
    /// The items that fail, with their messages.
    failing: BTreeMap<i32, String>,
    results: Vec<ResultRow>,
    effects: Vec<Effect>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultRow {
    order_id: i32,
    order_item_id: i32,
    order_item_status: &'static str,
    refund_amount: Usd,
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    results: &'a [ResultRow],
    total_refund_amount: Usd,
}

impl RefundRun {
    /// Refunds the items in the order requested. A registration includes its privacy item.
    fn refund_all(
        &mut self,
        state: &mut State,
        username: &str,
        parsed: &ParsedRequest,
        order: &mut Order,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        let mut stopped = Ok(());
        for &id in &parsed.items {
            let outcome = match self.refund_one(state, username, order, id, settings) {
                // All domains are deleted before the call ends.
                Err(refusal) if self.half_way => {
                    stopped = Err(refusal);
                    continue;
                }
                done => done?,
            };
            if outcome != Outcome::Refunded {
                continue;
            }
            let attached = match order.items.iter().find(|item| item.id == id) {
                Some(item) if item.kind == "registration" => order.privacy_of(item),
                _ => Vec::new(),
            };
            for privacy in attached.into_iter().filter(|privacy| !parsed.items.contains(privacy)) {
                self.refund_one(state, username, order, privacy, settings)?;
                if !settings.cascade_rows {
                    self.results.pop();
                }
            }
        }
        stopped
    }

    /// The message for an item that was refunded, or whose refund was begun, earlier in this call.
    fn repeated(&mut self, order: &Order, id: i32, settings: &Settings) -> Option<String> {
        if self.begun.insert(id) || settings.deduplication == Deduplication::Off {
            return None;
        }
        let item = order.items.iter().find(|item| item.id == id)?;
        let obstacle = match (item.status, &item.pending) {
            (ItemStatus::Refunded, _) => Obstacle::AlreadyRefunded,
            (_, Some(_)) => Obstacle::InProgress,
            _ => return None,
        };
        refused(obstacle, id).details()
    }

    fn refund_one(
        &mut self,
        state: &mut State,
        username: &str,
        order: &mut Order,
        id: i32,
        settings: &Settings,
    ) -> Result<Outcome, Refusal> {
        let over_threshold = |kind: &str, tld: Option<String>| {
            let account = state.account(username);
            kind == "registration" && account.is_some_and(|account| account.is_over_threshold(&tld.unwrap_or_default()))
        };
        let repeated = self.repeated(order, id, settings);
        if let Some(message) = self.failing.get(&id).cloned().or(repeated) {
            self.row(order.id, id, Outcome::Failed, Usd(0), message);
            return Ok(Outcome::Failed);
        }
        let item = order.items.iter_mut().find(|item| item.id == id);
        let item = item.ok_or(Refusal::NoSuchItem { order: order.id, item: id })?;
        match item.registry {
            RegistryCondition::Reachable => {}
            RegistryCondition::Broken => return Err(Refusal::Internal),
            RegistryCondition::Unreachable => return Err(Refusal::RegistryUnavailable),
            RegistryCondition::Slow => return Err(Refusal::UpstreamTimeout),
        }
        // An earlier item of this call may have used up the last deletion.
        let wanted = match item.kind.as_str() {
            "registration" if self.half_way => Outcome::Deleted,
            _ if self.half_way => Outcome::Failed,
            _ => item.refund_outcome,
        };
        let (outcome, usual) = match wanted {
            Outcome::Refunded if over_threshold(&item.kind, item.tld()) => (Outcome::Failed, THRESHOLD_DETAILS),
            Outcome::Refunded if item.kind == "registration" => {
                (Outcome::Refunded, "Domain successfully deleted and refund processed.")
            }
            Outcome::Refunded => (Outcome::Refunded, "Whois privacy successfully deleted and refund processed."),
            Outcome::Failed => (Outcome::Failed, "The domain could not be deleted. No refund was processed."),
            Outcome::Initialized => (Outcome::Initialized, "The refund has been initialized."),
            Outcome::Canceled => (Outcome::Canceled, "The refund was canceled."),
            Outcome::Deleted => (Outcome::Deleted, "The domain was deleted. No refund was processed."),
        };
        let message = item.refund_message.clone().unwrap_or_else(|| usual.to_owned());
        let mut refunded = Usd(0);
        match outcome {
            Outcome::Refunded => {
                let amount_minor = item.refunded_minor(settings.tax_refunded);
                refunded = Usd(amount_minor);
                let paid_to = item.refund_to.unwrap_or(settings.refund_to);
                self.effects.extend(state.refund_item(order.id, id, amount_minor, paid_to, self.key.clone()));
                item.status = ItemStatus::Refunded;
            }
            Outcome::Initialized | Outcome::Deleted => {
                let pending = Pending {
                    since: self.now,
                    identifier: self.key.clone(),
                    amount_minor: Some(item.refunded_minor(settings.tax_refunded)),
                };
                let due = item.settles_after_seconds.and_then(|after| later(self.now, after));
                state.settle_at(due, order.id, id);
                let refund_to = item.refund_to.or(Some(settings.refund_to));
                item.pending = Some(pending.clone());
                state.change_item(order.id, id, |item| {
                    item.refund_to = refund_to;
                    item.pending = Some(pending.clone());
                });
                if outcome == Outcome::Deleted {
                    self.effects.extend(state.delete_domain(order.id, id, pending));
                    match settings.half_way_answer {
                        HalfWayAnswer::Broken => return Err(Refusal::Internal),
                        HalfWayAnswer::Unreachable => return Err(Refusal::RegistryUnavailable),
                        HalfWayAnswer::Slow => return Err(Refusal::UpstreamTimeout),
                        HalfWayAnswer::Failed => {}
                    }
                }
            }
            Outcome::Failed | Outcome::Canceled => {}
        }
        self.row(order.id, id, outcome, refunded, message);
        Ok(outcome)
    }

    fn row(&mut self, order: i32, item: i32, outcome: Outcome, refund_amount: Usd, message: String) {
        self.results.push(ResultRow {
            order_id: order,
            order_item_id: item,
            order_item_status: outcome.word(),
            refund_amount,
            message: Some(message),
        });
    }

    /// 200, unless all items were refused and the settings choose another status.
    fn status(&self, settings: &Settings) -> StatusCode {
        let is_refusal = |row: &ResultRow| ["failed", "canceled"].contains(&row.order_item_status);
        let all_refused = !self.results.is_empty() && self.results.iter().all(is_refusal);
        match settings.all_items_refused {
            AllItemsRefused::Conflict if all_refused => StatusCode::CONFLICT,
            _ => StatusCode::OK,
        }
    }

    fn body(&self) -> Body<'_> {
        // From the effects, so that a privacy item counts in the total even if it has no row.
        let total = self.effects.iter().filter_map(|effect| effect.amount_minor).fold(0, i64::saturating_add);
        Body { results: &self.results, total_refund_amount: Usd(total) }
    }
}

fn later(now: OffsetDateTime, seconds: u64) -> Option<OffsetDateTime> {
    now.checked_add(time::Duration::seconds(i64::try_from(seconds).ok()?))
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Refunded => "refunded",
            // The row does not say what happened to the domain.
            Self::Failed | Self::Deleted => "failed",
            Self::Initialized => "initialized",
            Self::Canceled => "canceled",
        }
    }
}
