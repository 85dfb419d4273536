//! Process Refund: everything is checked first and refused as a whole; then items are deleted and
//! refunded one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
};

use http::{HeaderMap, StatusCode, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::orders::{ItemStatus, Obstacle, Order, Outcome, Pending, Registry};
use super::reads::Usd;
use super::refusals::{Refusal, THRESHOLD_DETAILS, json_answer};
use super::state::State;
use super::{AllItemsRefused, CachedAnswers, HalfWayAnswer, Obstacles, RepeatedItem, Settings, UnknownMembers, keys};
use crate::{
    record::parameters::Parameters,
    request::{Deduplication, Effect, Performed, Request},
};

/// Answers `POST /core/v1/refund`. Half-way, each requested registration loses its domain, and
/// nothing is refunded.
pub(super) fn process(
    state: &mut State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    request: &Request,
    half_way: bool,
) -> Result<Performed, Refusal> {
    if !state.account(username).is_some_and(|account| account.approved_reseller) {
        return Err(Refusal::PermissionDenied);
    }
    if !is_json(&request.headers) {
        return Err(Refusal::WrongContentType);
    }
    let asked = Asked::read(request, settings)?;
    let key = keys::key_in(&request.headers, settings.empty_key).filter(|_| settings.idempotency_keys);
    if let Some(key) = &key
        && let Some(mut answer) = state.keys_of(username).replay(key, &request.body, settings, now)?
    {
        keys::echo(&mut answer, &request.headers);
        return Ok(Performed { answer, effects: Vec::new() });
    }

    let mut work = Work {
        now,
        key,
        half_way,
        failing: BTreeMap::new(),
        begun: BTreeSet::new(),
        results: Vec::new(),
        effects: Vec::new(),
    };
    let done = check(state, settings, now, username, &asked).and_then(|(mut order, failing)| {
        work.failing = failing;
        work.refund_all(state, username, &asked, &mut order, settings)
    });
    let mut answer = match done {
        Ok(()) => json_answer(work.status(settings), &work.body()),
        Err(refusal) => refusal.answer(settings),
    };
    if let Some(key) = &work.key
        && (answer.status.is_success() || settings.cached_answers == CachedAnswers::All)
    {
        state.keys_of(username).remember(key, &request.body, &answer, now);
    }
    keys::echo(&mut answer, &request.headers);
    Ok(Performed { answer, effects: work.effects })
}

/// What a body is, read when it is first asked for.
#[derive(Clone, Default)]
pub(crate) struct Json(OnceLock<Option<Whole>>);

/// A whole JSON text.
#[derive(Clone)]
enum Whole {
    /// An object, its members in their order; the last one of a name counts.
    Members(Vec<(String, Value)>),
    /// Anything else.
    Other,
}

impl Whole {
    fn get(&self, name: &str) -> Option<&Value> {
        let Whole::Members(members) = self else { return None };
        members.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// The members of an object in their order, which a map would lose.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Json {
    /// The value that these bytes are; none where they are no JSON.
    fn open(&self, body: &[u8]) -> Option<&Whole> {
        let read = || match serde_json::from_slice(body) {
            Ok(Members(members)) => Some(Whole::Members(members)),
            Err(_) => serde_json::from_slice(body).ok().map(|IgnoredAny| Whole::Other),
        };
        self.0.get_or_init(read).as_ref()
    }
}

/// The order's number and the two known members, for the journal, whatever else the body holds.
pub(super) fn outline(request: &Request) -> (Option<String>, Parameters) {
    let Some(Whole::Members(members)) = request.json.open(&request.body) else {
        return (None, json!({ "unreadable_bytes": request.body.len() }).into());
    };
    let whole = |name: &str| members.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value);
    let target = match whole("orderId") {
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
/// How much of an unknown member's name is said back.
const NAME_SAID: usize = 64;

/// A request that has the documented form.
struct Asked {
    order: i32,
    items: Vec<i32>,
}

impl Asked {
    /// Only the sentence for an empty array is documented; the others follow its style.
    fn read(request: &Request, settings: &Settings) -> Result<Self, Refusal> {
        let refuse = |details: &str| Err(Refusal::Malformed(details.to_owned()));
        let members = match request.json.open(&request.body) {
            Some(whole @ Whole::Members(_)) => whole,
            Some(Whole::Other) => return refuse("The request body must be a JSON object."),
            None => return refuse("The request body is not valid JSON."),
        };
        let names = match members {
            Whole::Members(members) => members.iter().map(|(name, _)| name).collect(),
            Whole::Other => Vec::new(),
        };
        let unknown = names.into_iter().find(|name| !KNOWN.contains(&name.as_str()));
        if let (Some(unknown), UnknownMembers::Refused) = (unknown, settings.unknown_members) {
            let said: String = unknown.chars().take(NAME_SAID).collect();
            return Err(Refusal::Malformed(format!("'{said}' is not a known field")));
        }
        let present = |name| members.get(name).filter(|value| !value.is_null());
        let Some(order) = present("orderId") else { return refuse("'orderId' cannot be null") };
        let order = int32(order, "orderId")?;
        let items = match present("orderItemIds") {
            None => return refuse("'orderItemIds' cannot be null"),
            Some(Value::Array(items)) if items.is_empty() => {
                // This one is documented.
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

/// Refuses the whole request for the gravest obstacle among its items: unknown ones before refused
/// ones before locked ones. Where the settings have single items fail instead, tells which, and
/// with what message. And the order, which was found for that.
fn check(
    state: &State,
    settings: &Settings,
    now: OffsetDateTime,
    username: &str,
    asked: &Asked,
) -> Result<(Order, BTreeMap<i32, String>), Refusal> {
    let account = state.account(username).ok_or(Refusal::Unauthorized)?;
    let order = state.order_of(username, asked.order).ok_or(Refusal::NoSuchOrder(asked.order))?;
    let mut found: Vec<(Obstacle, i32)> = Vec::new();
    for &id in &asked.items {
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
    // The first one asked for, among those that are equally grave.
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
        // Not documented: the sentence follows the one above.
        Obstacle::NotBought => Refusal::BadRequest(format!("Order item {item} is not eligible for refund.")),
        Obstacle::InProgress => Refusal::BadRequest(format!("Order item {item} already has a refund in progress.")),
        Obstacle::DomainDeleted => Refusal::BadRequest(format!("The domain of order item {item} has been deleted.")),
        Obstacle::WindowOver { domain, days } => Refusal::WindowExpired { domain, days },
        Obstacle::OverThreshold => Refusal::ThresholdExceeded,
    }
}

/// One call at work: what it has done so far stays done, even if a later item ends the call with an
/// error.
struct Work {
    now: OffsetDateTime,
    key: Option<String>,
    /// Whether it stops behind the deletion of the domains.
    half_way: bool,
    /// The items that this call has had its turn with.
    begun: BTreeSet<i32>,
    /// The items that fail, each with its message.
    failing: BTreeMap<i32, String>,
    results: Vec<Row>,
    effects: Vec<Effect>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    order_id: i32,
    order_item_id: i32,
    order_item_status: &'static str,
    refund_amount: Usd,
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    results: &'a [Row],
    total_refund_amount: Usd,
}

impl Work {
    /// Refunds the items in the order asked for; a registration takes its privacy item along.
    fn refund_all(
        &mut self,
        state: &mut State,
        username: &str,
        asked: &Asked,
        order: &mut Order,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        let mut stopped = Ok(());
        for &id in &asked.items {
            let outcome = match self.refund_one(state, username, order, id, settings) {
                // All domains go first.
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
            for privacy in attached.into_iter().filter(|privacy| !asked.items.contains(privacy)) {
                self.refund_one(state, username, order, privacy, settings)?;
                if !settings.cascade_rows {
                    self.results.pop();
                }
            }
        }
        stopped
    }

    /// Whether the item was refunded, or its refund begun, earlier in this call, and what is said
    /// to that.
    fn done_already(&mut self, order: &Order, id: i32, settings: &Settings) -> Option<String> {
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
        let done_already = self.done_already(order, id, settings);
        if let Some(message) = self.failing.get(&id).cloned().or(done_already) {
            self.row(order.id, id, Outcome::Failed, Usd(0), message);
            return Ok(Outcome::Failed);
        }
        let item = order.items.iter_mut().find(|item| item.id == id);
        let item = item.ok_or(Refusal::NoSuchItem { order: order.id, item: id })?;
        match item.registry {
            Registry::Reachable => {}
            Registry::Broken => return Err(Refusal::Internal),
            Registry::Unreachable => return Err(Refusal::RegistryUnavailable),
            Registry::Slow => return Err(Refusal::UpstreamTimeout),
        }
        // An earlier item of this very call may have used up the last deletion.
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
        self.results.push(Row {
            order_id: order,
            order_item_id: item,
            order_item_status: outcome.word(),
            refund_amount,
            message: Some(message),
        });
    }

    /// 200, unless each item was refused and the settings have that answered otherwise.
    fn status(&self, settings: &Settings) -> StatusCode {
        let is_refusal = |row: &Row| ["failed", "canceled"].contains(&row.order_item_status);
        let all_refused = !self.results.is_empty() && self.results.iter().all(is_refusal);
        match settings.all_items_refused {
            AllItemsRefused::Conflict if all_refused => StatusCode::CONFLICT,
            _ => StatusCode::OK,
        }
    }

    fn body(&self) -> Body<'_> {
        // From the effects, so that a cascaded item counts in the total even where it has no row.
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
            // What became of the domain, the row does not say.
            Self::Failed | Self::Deleted => "failed",
            Self::Initialized => "initialized",
            Self::Canceled => "canceled",
        }
    }
}
