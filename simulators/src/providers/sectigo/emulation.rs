//! Sectigo as the rest of the simulators sees it.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Settings, State, orders};
use crate::{
    providers::emulated::{AmountLookup, DryRun, EmulatedProvider, ForgedAnswer, MagicTarget, RecordedAnswer},
    record::masking::BodyFormat,
    request::{Deduplication, Effect, Handled, Request, RequestInfo, Response},
    seeded_rng::SeededRng,
};

/// The emulated Sectigo.
pub(crate) enum Sectigo {}

/// `loginName` and `loginPassword`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct SectigoLogin {
    /// `loginName`.
    pub login_name: String,
    /// `loginPassword`. Not part of `Debug`.
    #[schemars(description = "`loginPassword`.")]
    pub login_password: String,
}

impl EmulatedProvider for Sectigo {
    type State = State;
    type Settings = Settings;
    type Login = SectigoLogin;
    /// Which arguments a form has depends on the settings of its world, so nothing is parsed before
    /// the world is known.
    type Parsed = ();

    const NAME: &'static str = "sectigo";
    const DISPLAY_NAME: &'static str = "Sectigo";
    const OPERATIONS: &'static [&'static str] = &["!AutoRefund", "!getPostPaymentStatus", "!AutoReject"];
    const FORGED_ANSWERS: &'static [(&'static str, ForgedAnswer)] =
        &[("success", ForgedAnswer::Success), ("already_refunded", ForgedAnswer::AlreadyRefunded)];
    const BODY_FORMAT: BodyFormat = BodyFormat::Form;

    fn demo_state(now: OffsetDateTime) -> State {
        State::demo(now)
    }

    fn empty_state(now: OffsetDateTime) -> State {
        State::empty(now)
    }

    fn inspect(request: &Request) -> (RequestInfo, ()) {
        (super::inspect(request), ())
    }

    fn handle(state: &mut State, settings: &Settings, now: OffsetDateTime, request: &Request, (): &()) -> Handled {
        super::handle(state, settings, now, request)
    }

    fn forge(answer: ForgedAnswer, mut run: DryRun<'_, Self>) -> Response {
        match answer {
            ForgedAnswer::AlreadyRefunded => {
                run.settings.deduplication = Deduplication::On;
                run.second_response()
            }
            _ => run.response(),
        }
    }

    /// No answer of this kind is documented: a proxy in front of the server gives it.
    fn time_out(_: DryRun<'_, Self>) -> Response {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
        Response { status: StatusCode::GATEWAY_TIMEOUT, headers, body: Bytes::from_static(b"Gateway Timeout") }
    }

    fn main_login(state: &State) -> SectigoLogin {
        let (login_name, login_password) = state.main();
        SectigoLogin { login_name: login_name.to_owned(), login_password: login_password.to_owned() }
    }

    fn generate_login(world: &str, rng: &mut SeededRng) -> SectigoLogin {
        SectigoLogin { login_name: format!("{world}-{}", rng.text(8)), login_password: rng.text(24) }
    }

    fn usernames(state: &State) -> Vec<String> {
        state.accounts().into_iter().map(|account| account.login_name.clone()).collect()
    }

    fn rename(state: &mut State, main: &SectigoLogin, other: &dyn Fn(&str) -> String) {
        state.rename((main.login_name.clone(), main.login_password.clone()), other);
    }

    fn replace_login(request: &mut Request, old: &SectigoLogin, new: &SectigoLogin) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(&request.body) {
            let value = match name.as_ref() {
                "loginName" if value == old.login_name => new.login_name.as_str().into(),
                "loginPassword" if value == old.login_password => new.login_password.as_str().into(),
                _ => value,
            };
            form.append_pair(&name, &value);
        }
        request.body = form.finish().into();
    }

    fn amounts_paid(state: &State) -> AmountLookup<'_> {
        Box::new(|order_number| Some(state.order(order_number)?.price_minor))
    }

    fn confirms_refund(answer: &RecordedAnswer<'_>, _: &Effect) -> bool {
        answer.operation == "!AutoRefund" && code_and_message(answer.text).0 == "0"
    }

    fn shows_refund(settings: &Settings, answer: &RecordedAnswer<'_>, _: &Effect) -> bool {
        match answer.operation {
            "!AutoRefund" => {
                let (code, message) = code_and_message(answer.text);
                code == "-20" || (code == "-18" && message == settings.already_refunded_text)
            }
            "!getPostPaymentStatus" => answer.text.contains("\"orderStatus\":\"Refunded\""),
            _ => false,
        }
    }

    /// Masks the token for uploads, which the status call hands to the client.
    fn mask_answer(text: &str) -> Cow<'_, str> {
        const BEFORE: &str = "\"uploadDocumentToken\":\"";
        let Some((before, token)) = text.split_once(BEFORE) else { return text.into() };
        // A token in Base64 contains no quotes. If one contains an escaped quote, too much is
        // removed rather than too little.
        let after = token.split_once("\",").or_else(|| token.split_once("\"}")).map_or("", |(_, after)| after);
        format!("{before}{BEFORE}***\",{after}").into()
    }

    fn magic_targets() -> Vec<MagicTarget> {
        let refused = orders::MAGIC_CODES
            .map(|code| MagicTarget::refused((7_000_000 + code).to_string(), format_args!("-{code}")));
        let late = MagicTarget::new("7000201", "is done, and orderStatus shows it 60 seconds later");
        refused.into_iter().chain([late]).collect()
    }

    fn magic_wire_target(number: u32, _: &str) -> String {
        (7_000_100 + number).to_string()
    }
}

/// Code and message of an answer to `!AutoRefund`, in lines or, if the settings allow the client to
/// ask for them, in pairs.
fn code_and_message(text: &str) -> (String, String) {
    let pairs = text.strip_prefix("errorCode=").map(|_| form_urlencoded::parse(text.as_bytes()));
    match pairs {
        Some(mut pairs) => {
            let mut next = || pairs.next().map(|(_, value)| value.into_owned()).unwrap_or_default();
            (next(), next())
        }
        None => {
            let mut lines = text.lines().map(str::to_owned);
            (lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
        }
    }
}

impl fmt::Debug for SectigoLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectigoLogin").field("login_name", &self.login_name).finish_non_exhaustive()
    }
}
