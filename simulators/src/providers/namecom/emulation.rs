//! name.com as the rest of the simulators sees it.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Item, KeyInFlight, Obstacles, Outcome, RegistryCondition, Settings, State, keys,
    refund::ParsedBody,
    refusals::Refusal,
    state::{MAGIC_ITEM_OFFSET, MAGIC_STATUSES},
};
use crate::{
    providers::emulated::{
        AmountLookup, DryRun, EmulatedProvider, ForgedAnswer, KeyInProgress, MagicTarget, RecordedAnswer,
    },
    record::masking::BodyFormat,
    request::{Deduplication, Effect, Handled, Request, RequestInfo, Response},
    seeded_rng::SeededRng,
};

/// The emulated name.com.
pub(crate) enum Namecom {}

/// HTTP Basic.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct NamecomLogin {
    /// The username.
    pub username: String,
    /// The API token. Not part of `Debug`.
    #[schemars(description = "The API token.")]
    pub token: String,
}

impl EmulatedProvider for Namecom {
    type State = State;
    type Settings = Settings;
    type Login = NamecomLogin;
    type Parsed = ParsedBody;

    const NAME: &'static str = "namecom";
    const DISPLAY_NAME: &'static str = "name.com";
    const OPERATIONS: &'static [&'static str] = &["ProcessRefund", "GetOrder", "ListOrders", "GetDomain", "Hello"];
    const FORGED_ANSWERS: &'static [(&'static str, ForgedAnswer)] = &[
        ("success", ForgedAnswer::Success),
        ("already_refunded", ForgedAnswer::AlreadyRefunded),
        ("replay", ForgedAnswer::Replay),
        ("initialized", ForgedAnswer::Initialized),
    ];
    const BODY_FORMAT: BodyFormat = BodyFormat::WithoutCredentials;
    const STOPS_HALF_WAY: bool = true;

    fn demo_state(now: OffsetDateTime) -> State {
        State::demo(now)
    }

    fn empty_state(now: OffsetDateTime) -> State {
        State::empty(now)
    }

    fn inspect(request: &Request) -> (RequestInfo, ParsedBody) {
        let body = ParsedBody::parse(&request.body);
        (super::inspect_parsed(request, &body), body)
    }

    fn handle(
        state: &mut State,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &ParsedBody,
    ) -> Handled {
        super::handle_parsed(state, settings, now, request, parsed, false)
    }

    fn handle_half_way(
        state: &mut State,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &ParsedBody,
    ) -> Handled {
        super::handle_parsed(state, settings, now, request, parsed, true)
    }

    /// Pays out the refunds whose time has come.
    fn advance(state: &mut State, _: &Settings, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        state.advance(now)
    }

    fn key_in_progress(settings: &Settings, info: &RequestInfo) -> Option<KeyInProgress> {
        let has_key = info.moves_money && info.identifier.is_some() && settings.idempotency_keys;
        has_key.then(|| match settings.key_in_flight {
            KeyInFlight::Hold => KeyInProgress::Waits,
            KeyInFlight::Refuse => KeyInProgress::Refused(Refusal::KeyInFlight.answer(settings)),
        })
    }

    fn forge(answer: ForgedAnswer, mut run: DryRun<'_, Self>) -> Response {
        match answer {
            ForgedAnswer::Success => run.response(),
            ForgedAnswer::Replay => {
                let mut answer = run.response();
                keys::mark_replay(&mut answer);
                answer
            }
            ForgedAnswer::Initialized => {
                change_items(&mut run, |item| item.refund_outcome = Outcome::Initialized);
                run.response()
            }
            ForgedAnswer::AlreadyRefunded | ForgedAnswer::IdentifierExists => {
                run.settings.deduplication = Deduplication::On;
                run.settings.obstacles = Obstacles::RefuseRequest;
                keys::remove_key(&mut run.request.to_mut().headers);
                run.second_response()
            }
        }
    }

    fn time_out(mut run: DryRun<'_, Self>) -> Response {
        change_items(&mut run, |item| item.registry = RegistryCondition::Slow);
        run.response()
    }

    fn main_login(state: &State) -> NamecomLogin {
        let (username, token) = state.main();
        NamecomLogin { username: username.to_owned(), token: token.to_owned() }
    }

    fn generate_login(world: &str, rng: &mut SeededRng) -> NamecomLogin {
        NamecomLogin { username: format!("{world}-{}-test", rng.text(8)), token: rng.text(40) }
    }

    fn usernames(state: &State) -> Vec<String> {
        state.accounts().into_iter().map(|account| account.username.clone()).collect()
    }

    fn rename(state: &mut State, main: &NamecomLogin, other: &dyn Fn(&str) -> String) {
        state.rename((main.username.clone(), main.token.clone()), other);
    }

    fn replace_login(request: &mut Request, old: &NamecomLogin, new: &NamecomLogin) {
        let basic = |login: &NamecomLogin| {
            let encoded = BASE64_STANDARD.encode(format!("{}:{}", login.username, login.token));
            HeaderValue::from_str(&format!("Basic {encoded}")).ok()
        };
        if let (Some(sent), Some(new)) = (request.headers.get_mut(header::AUTHORIZATION), basic(new))
            && Some(&*sent) == basic(old).as_ref()
        {
            *sent = new;
        }
    }

    fn amounts_paid(state: &State) -> AmountLookup<'_> {
        let by_item = state.amounts_paid_by_item();
        Box::new(move |item| by_item.get(&item.parse().ok()?).copied())
    }

    fn confirms_refund(answer: &RecordedAnswer<'_>, _: &Effect) -> bool {
        answer.operation == "ProcessRefund" && has_refunded_item(answer.text)
    }

    fn shows_refund(_: &Settings, answer: &RecordedAnswer<'_>, effect: &Effect) -> bool {
        let (text, target) = (answer.text, effect.target.as_str());
        match answer.operation {
            "ProcessRefund" => {
                text.contains(&format!("Order item {target} has already been refunded"))
                    || (!answer.has_effects && has_refunded_item(text))
            }
            "GetOrder" | "ListOrders" => text.contains(&format!("\"id\":{target},\"status\":\"refunded\"")),
            _ => false,
        }
    }

    fn is_list(operation: &str) -> bool {
        operation == "ListOrders"
    }

    fn magic_targets() -> Vec<MagicTarget> {
        let refused = MAGIC_STATUSES
            .map(|status| MagicTarget::refused((400_000 + i32::from(status)).to_string(), format_args!("{status}")));
        let settled = [
            ("410201", "is answered `initialized`, and paid out 60 seconds later"),
            ("410202", "is answered `initialized`, and waits until it is settled by hand"),
            ("410203", "is answered 409 with the item `failed`, and nothing is done"),
            ("410204", "is answered 409 with the item `canceled`, and nothing is done"),
            ("410205", "has its domain deleted and is answered 502; the refund waits to be settled by hand"),
        ];
        refused.into_iter().chain(settled.map(|(target, outcome)| MagicTarget::new(target, outcome))).collect()
    }

    fn magic_wire_target(number: u32, _: &str) -> String {
        (410_100 + number).to_string()
    }

    fn magic_item(target: &str) -> Option<i32> {
        target.parse::<i32>().ok()?.checked_add(MAGIC_ITEM_OFFSET)
    }
}

fn has_refunded_item(text: &str) -> bool {
    text.contains("\"orderItemStatus\":\"refunded\"")
}

/// Changes each item of the order that a request is about.
fn change_items(run: &mut DryRun<'_, Namecom>, change: impl Fn(&mut Item)) {
    let target = run.info.target.as_deref().and_then(|target| target.parse().ok());
    if let Some(mut order) = target.and_then(|id| run.state.order(id)) {
        order.items.iter_mut().for_each(change);
        // An existing order with the same ids can always be put again.
        drop(run.state.put_order(order, run.now));
    }
}

impl fmt::Debug for NamecomLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamecomLogin").field("username", &self.username).finish_non_exhaustive()
    }
}
