//! Debitsuccess as the rest of the simulators sees it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Condition, Settings, State, soap::ParsedEnvelope, state::MAGIC_CODES};
use crate::{
    providers::emulated::{AmountLookup, DryRun, EmulatedProvider, ForgedAnswer, MagicTarget, RecordedAnswer},
    record::masking::BodyFormat,
    request::{Deduplication, Effect, Handled, Request, RequestInfo, Response},
    seeded_rng::SeededRng,
};

/// The emulated Debitsuccess.
pub(crate) enum Debitsuccess {}

/// `User.Username` and `User.Password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(deny_unknown_fields)]
pub struct DebitsuccessLogin {
    /// `User.Username`.
    pub username: String,
    /// `User.Password`. Not part of `Debug`.
    #[schemars(description = "`User.Password`.")]
    pub password: String,
}

impl EmulatedProvider for Debitsuccess {
    type State = State;
    type Settings = Settings;
    type Login = DebitsuccessLogin;
    type Parsed = ParsedEnvelope;

    const NAME: &'static str = "debitsuccess";
    const DISPLAY_NAME: &'static str = "Debitsuccess";
    const SERVICE_PATH: &'static str = super::SERVICE_PATH;
    const OPERATIONS: &'static [&'static str] = &["InitiateRefund", "GetRefundStatus"];
    const FORGED_ANSWERS: &'static [(&'static str, ForgedAnswer)] =
        &[("success", ForgedAnswer::Success), ("14143", ForgedAnswer::IdentifierExists)];
    const BODY_FORMAT: BodyFormat = BodyFormat::Xml;
    const SEVERAL_REFUNDS_PER_TARGET: bool = true;

    fn demo_state(now: OffsetDateTime) -> State {
        State::demo(now)
    }

    fn empty_state(_: OffsetDateTime) -> State {
        State::empty()
    }

    fn reseed(state: &mut State, seed: u64) {
        state.reseed_guids(seed);
    }

    fn inspect(request: &Request) -> (RequestInfo, ParsedEnvelope) {
        let envelope = ParsedEnvelope::parse(&request.body);
        (super::inspect_parsed(request, &envelope), envelope)
    }

    fn handle(
        state: &mut State,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &ParsedEnvelope,
    ) -> Handled {
        super::handle_parsed(state, settings, now, request, parsed)
    }

    /// Moves refunds on in their review.
    fn advance(state: &mut State, settings: &Settings, now: OffsetDateTime) -> Vec<(OffsetDateTime, Effect)> {
        state.advance(settings, now)
    }

    fn forge(answer: ForgedAnswer, mut run: DryRun<'_, Self>) -> Response {
        match answer {
            ForgedAnswer::IdentifierExists | ForgedAnswer::AlreadyRefunded => {
                run.settings.deduplication = Deduplication::On;
                run.second_response()
            }
            _ => run.response(),
        }
    }

    fn time_out(mut run: DryRun<'_, Self>) -> Response {
        let target = run.info.target.as_deref();
        let is_meant = |reference: Option<&str>| target.is_some() && reference == target;
        let accounts = run.state.accounts().into_iter().filter(|account| {
            is_meant(Some(&account.account_reference_no)) || is_meant(account.external_account_reference_no.as_deref())
        });
        let accounts: Vec<_> = accounts.cloned().collect();
        for mut account in accounts {
            account.condition = Condition::TimedOut;
            // An existing account can always be put again.
            drop(run.state.put_account(account));
        }
        run.response()
    }

    fn main_login(state: &State) -> DebitsuccessLogin {
        let (username, password) = state.main();
        DebitsuccessLogin { username: username.to_owned(), password: password.to_owned() }
    }

    fn generate_login(world: &str, rng: &mut SeededRng) -> DebitsuccessLogin {
        DebitsuccessLogin { username: format!("{world}-{}", rng.text(8)), password: rng.text(24) }
    }

    fn usernames(state: &State) -> Vec<String> {
        state.logins().into_iter().map(|login| login.username).collect()
    }

    fn rename(state: &mut State, main: &DebitsuccessLogin, other: &dyn Fn(&str) -> String) {
        state.rename((main.username.clone(), main.password.clone()), other);
    }

    fn replace_login(request: &mut Request, old: &DebitsuccessLogin, new: &DebitsuccessLogin) {
        let element = |text: &str| format!(">{}<", quick_xml::escape::escape(text));
        let body = String::from_utf8_lossy(&request.body);
        let body = body.replace(&element(&old.username), &element(&new.username));
        let body = body.replace(&element(&old.password), &element(&new.password));
        request.body = body.into();
    }

    fn amounts_paid(state: &State) -> AmountLookup<'_> {
        Box::new(|reference| Some(state.account(reference)?.collected_minor))
    }

    /// A caller may know an account by its external reference only.
    fn canonical_target(state: &State, target: &str) -> String {
        if state.account(target).is_some() {
            return target.to_owned();
        }
        let mut accounts = state.accounts().into_iter();
        let found = accounts.find(|account| account.external_account_reference_no.as_deref() == Some(target));
        found.map_or_else(|| target.to_owned(), |account| account.account_reference_no.clone())
    }

    fn confirms_refund(answer: &RecordedAnswer<'_>, effect: &Effect) -> bool {
        answer.operation == "InitiateRefund" && has_number(answer.text, effect)
    }

    fn shows_refund(_: &Settings, answer: &RecordedAnswer<'_>, effect: &Effect) -> bool {
        match answer.operation {
            "InitiateRefund" => answer.text.contains(">14143<"),
            "GetRefundStatus" => has_number(answer.text, effect),
            _ => false,
        }
    }

    fn magic_targets() -> Vec<MagicTarget> {
        let refused = MAGIC_CODES.map(|code| MagicTarget::refused(format!("DSCODE{code}"), code));
        let late = [
            MagicTarget::new("DSSETTLES", "is Submitted, and Completed 60 seconds later"),
            MagicTarget::new("DSREJECTS", "is Submitted, and Rejected 60 seconds later"),
        ];
        refused.into_iter().chain(late).collect()
    }

    fn magic_wire_target(_: u32, name: &str) -> String {
        format!("DS{name}")
    }

    /// The external reference.
    fn magic_wire_alias(target: &str) -> Option<String> {
        Some(format!("EXT-{target}"))
    }
}

/// Whether an answer contains the RefundRequestNumber of a refund.
fn has_number(text: &str, effect: &Effect) -> bool {
    let number = effect.reference.as_ref();
    number.is_some_and(|number| text.contains(&format!("RefundRequestNumber>{number}<")))
}

impl fmt::Debug for DebitsuccessLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebitsuccessLogin").field("username", &self.username).finish_non_exhaustive()
    }
}
