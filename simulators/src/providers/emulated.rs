//! [`EmulatedProvider`]: everything that the rest of the simulators needs from one provider.
//!
//! Each provider implements it in its own folder. [`super`] chooses the implementation.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    record::masking::BodyFormat,
    request::{Effect, Handled, Request, RequestInfo, Response},
    seeded_rng::SeededRng,
};

/// Finds the amount paid for a target, in hundredths.
pub(crate) type AmountLookup<'a> = Box<dyn Fn(&str) -> Option<i64> + 'a>;

/// One emulated provider.
pub(crate) trait EmulatedProvider: Sized {
    /// Everything the provider remembers.
    type State: Clone;
    /// The choices that its documentation leaves open.
    type Settings: Clone;
    /// What a client logs in with.
    type Login;
    /// What [`Self::inspect`] parses of a request and [`Self::handle`] uses again.
    type Parsed;

    /// The name in JSON.
    const NAME: &'static str;
    /// The name for people.
    const DISPLAY_NAME: &'static str;
    /// The path of its service, if it has only one.
    const SERVICE_PATH: &'static str = "";
    /// Its calls by the provider's own names. The first one moves money.
    const OPERATIONS: &'static [&'static str];
    /// The forged answers that it can give, with their names in JSON.
    const FORGED_ANSWERS: &'static [(&'static str, ForgedAnswer)];
    /// The format of request bodies, which decides how secrets in them are masked.
    const BODY_FORMAT: BodyFormat;
    /// Whether one target can be refunded several times, each time under another identifier. If
    /// not, a target is refunded once.
    const SEVERAL_REFUNDS_PER_TARGET: bool = false;
    /// Whether [`Self::handle_half_way`] is implemented.
    const STOPS_HALF_WAY: bool = false;

    /// The demo data. Times in it are relative to `now`.
    fn demo_state(now: OffsetDateTime) -> Self::State;

    /// Nothing but the main account.
    fn empty_state(now: OffsetDateTime) -> Self::State;

    /// Makes generated identifiers depend on `seed`.
    fn reseed(_state: &mut Self::State, _seed: u64) {}

    /// Reads what a request says about itself. Never fails and changes nothing; secrets are masked.
    fn inspect(request: &Request) -> (RequestInfo, Self::Parsed);

    /// Answers a request and changes the state as the real provider would. `parsed` comes from
    /// [`Self::inspect`] of a request with the same body.
    fn handle(
        state: &mut Self::State,
        settings: &Self::Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &Self::Parsed,
    ) -> Handled;

    /// As [`Self::handle`], but a refund stops half-way.
    fn handle_half_way(
        state: &mut Self::State,
        settings: &Self::Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &Self::Parsed,
    ) -> Handled {
        Self::handle(state, settings, now, request, parsed)
    }

    /// Does what has become due by `now` without a request. Returns each effect with its time.
    fn advance(
        _state: &mut Self::State,
        _settings: &Self::Settings,
        _now: OffsetDateTime,
    ) -> Vec<(OffsetDateTime, Effect)> {
        Vec::new()
    }

    /// What happens to a request while another one with its idempotency key is in progress; none if
    /// the request has no such key.
    fn key_in_progress(_settings: &Self::Settings, _info: &RequestInfo) -> Option<KeyInProgress> {
        None
    }

    /// A false answer, produced by the provider itself on a copy of its state.
    fn forge(answer: ForgedAnswer, run: DryRun<'_, Self>) -> Response;

    /// The provider's answer when it runs out of time.
    fn time_out(run: DryRun<'_, Self>) -> Response;

    /// The login of the main account.
    fn main_login(state: &Self::State) -> Self::Login;

    /// A new login. Usernames begin with the id of their world.
    fn generate_login(world: &str, rng: &mut SeededRng) -> Self::Login;

    /// Every username that a request could carry.
    fn usernames(state: &Self::State) -> Vec<String>;

    /// Gives the main account a new login, and every other account a new name.
    fn rename(state: &mut Self::State, main: &Self::Login, other: &dyn Fn(&str) -> String);

    /// Replaces the old login in a stored request.
    fn replace_login(request: &mut Request, old: &Self::Login, new: &Self::Login);

    /// A lookup of what was paid for a target, in hundredths.
    fn amounts_paid(state: &Self::State) -> AmountLookup<'_>;

    /// The target as the books name it. A caller may know it by another name.
    fn canonical_target(_state: &Self::State, target: &str) -> String {
        target.to_owned()
    }

    /// Whether the answer to a refund says that the refund was done. A replaced answer does not.
    fn confirms_refund(answer: &RecordedAnswer<'_>, effect: &Effect) -> bool;

    /// Whether the answer to a later request shows that the refund had been done.
    fn shows_refund(settings: &Self::Settings, answer: &RecordedAnswer<'_>, effect: &Effect) -> bool;

    /// Whether a call lists many targets, so that its answer can show any refund.
    fn is_list(_operation: &str) -> bool {
        false
    }

    /// The answer's text without secrets.
    fn mask_answer(text: &str) -> Cow<'_, str> {
        text.into()
    }

    /// The magic targets whose refund the provider itself answers unusually.
    fn magic_targets() -> Vec<MagicTarget>;

    /// The magic target of a fault on the wire, by its number (from 1) and name.
    fn magic_wire_target(number: u32, name: &str) -> String;

    /// A second name of such a target, if it has one.
    fn magic_wire_alias(_target: &str) -> Option<String> {
        None
    }

    /// The item of a magic target, at providers that refund items.
    fn magic_item(_target: &str) -> Option<i32> {
        None
    }
}

/// A false answer that a client can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ForgedAnswer {
    /// Any provider: the answer to a refund that was done.
    #[serde(rename = "success")]
    Success,
    /// Sectigo: `-18`, the order has already been refunded. name.com: the 400 that says so of the
    /// first item.
    #[serde(rename = "already_refunded")]
    AlreadyRefunded,
    /// name.com: the answer to an earlier request with this key, marked as a replay.
    #[serde(rename = "replay")]
    Replay,
    /// name.com: every item's refund is `initialized`.
    #[serde(rename = "initialized")]
    Initialized,
    /// Debitsuccess: the identifier is already used for this account.
    #[serde(rename = "14143")]
    IdentifierExists,
}

/// What happens to a second request with an idempotency key while the first one is in progress.
#[derive(Debug)]
pub(crate) enum KeyInProgress {
    /// It waits for the first one's answer.
    Waits,
    /// It is refused with this answer.
    Refused(Response),
}

/// A request that is answered on a copy of the provider's state.
pub(crate) struct DryRun<'a, P: EmulatedProvider> {
    pub(crate) state: P::State,
    pub(crate) settings: P::Settings,
    pub(crate) now: OffsetDateTime,
    pub(crate) request: Cow<'a, Request>,
    pub(crate) parsed: &'a P::Parsed,
    pub(crate) info: &'a RequestInfo,
}

impl<P: EmulatedProvider> DryRun<'_, P> {
    /// The answer to the request.
    pub(crate) fn response(&mut self) -> Response {
        P::handle(&mut self.state, &self.settings, self.now, &self.request, self.parsed).response
    }

    /// The answer to the request when it comes a second time.
    pub(crate) fn second_response(&mut self) -> Response {
        drop(self.response());
        self.response()
    }
}

/// The answer of a journal entry, as the audit reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordedAnswer<'a> {
    pub(crate) operation: &'a str,
    pub(crate) text: &'a str,
    pub(crate) has_effects: bool,
}

/// A target whose refund goes wrong without a fault rule.
#[derive(Debug)]
pub(crate) struct MagicTarget {
    pub(crate) target: String,
    /// What a refund of it does, as a predicate: `is answered with -18, and nothing is done`.
    pub(crate) outcome: String,
}

impl MagicTarget {
    pub(crate) fn new(target: impl Into<String>, outcome: impl Into<String>) -> MagicTarget {
        MagicTarget { target: target.into(), outcome: outcome.into() }
    }

    /// A target whose refund is answered with a code.
    pub(crate) fn refused(target: impl Into<String>, code: impl std::fmt::Display) -> MagicTarget {
        MagicTarget::new(target, format!("is answered with {code}, and nothing is done"))
    }
}

/// The names of the magic targets of faults on the wire, in the order of their numbers from 1.
pub(crate) const MAGIC_WIRE_NAMES: [&str; 7] =
    ["SILENT", "SILENTDONE", "CLOSED", "CLOSEDDONE", "RESETDONE", "CUTDONE", "LATE"];

/// The delay after which a late magic target is settled, in seconds of the world's time.
pub(crate) const MAGIC_DELAY_SECONDS: u32 = 60;
