//! The emulated providers. [`emulated`] says what each of them implements; this file is the
//! registry that chooses an implementation, and the only one that lists the providers.
//!
//! To add a provider: a variant in [`Provider`], its folder here with an implementation of
//! `EmulatedProvider`, one entry in each list below, and its ports in [`crate::config`].

pub mod debitsuccess;
pub(crate) mod emulated;
pub mod namecom;
pub(crate) mod overlay;
pub mod sectigo;
pub(crate) mod setting_values;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::emulated::ForgedAnswer;
use self::{
    debitsuccess::Debitsuccess,
    emulated::{AmountLookup, DryRun, EmulatedProvider, KeyInProgress, MagicTarget, RecordedAnswer},
    namecom::Namecom,
    sectigo::Sectigo,
};
use crate::{
    record::masking::BodyFormat,
    request::{Effect, Handled, Provider, Request, RequestInfo, Response},
    seeded_rng::SeededRng,
};

/// What the providers of one world remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderStates {
    /// Sectigo's state.
    pub sectigo: sectigo::State,
    /// name.com's state.
    pub namecom: namecom::State,
    /// Debitsuccess' state.
    pub debitsuccess: debitsuccess::State,
}

/// The choices that the providers' documentation leaves open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Sectigo's settings.
    pub sectigo: sectigo::Settings,
    /// name.com's settings.
    pub namecom: namecom::Settings,
    /// Debitsuccess' settings.
    pub debitsuccess: debitsuccess::Settings,
}

/// What a client of one world logs in with, at each provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// For Sectigo.
    pub sectigo: sectigo::SectigoLogin,
    /// For name.com.
    pub namecom: namecom::NamecomLogin,
    /// For Debitsuccess.
    pub debitsuccess: debitsuccess::DebitsuccessLogin,
}

/// What one provider knew at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProviderSnapshot {
    Sectigo(Box<sectigo::State>),
    Namecom(Box<namecom::State>),
    Debitsuccess(Box<debitsuccess::State>),
}

/// What a provider parsed of a request.
pub(crate) enum Parsed {
    Sectigo(<Sectigo as EmulatedProvider>::Parsed),
    Namecom(<Namecom as EmulatedProvider>::Parsed),
    Debitsuccess(<Debitsuccess as EmulatedProvider>::Parsed),
}

/// Finds the parts that belong to a provider.
trait Registered: EmulatedProvider {
    fn state(states: &ProviderStates) -> &Self::State;
    fn state_mut(states: &mut ProviderStates) -> &mut Self::State;
    fn settings(all: &Settings) -> &Self::Settings;
    fn login(all: &Credentials) -> &Self::Login;
    fn snapshot(state: Self::State) -> ProviderSnapshot;
    fn parsed(parsed: Self::Parsed) -> Parsed;
}

macro_rules! registered {
    ($($provider:ident in $field:ident),*) => {
        $(impl Registered for $provider {
            fn state(states: &ProviderStates) -> &Self::State {
                &states.$field
            }

            fn state_mut(states: &mut ProviderStates) -> &mut Self::State {
                &mut states.$field
            }

            fn settings(all: &Settings) -> &Self::Settings {
                &all.$field
            }

            fn login(all: &Credentials) -> &Self::Login {
                &all.$field
            }

            fn snapshot(state: Self::State) -> ProviderSnapshot {
                ProviderSnapshot::$provider(Box::new(state))
            }

            fn parsed(parsed: Self::Parsed) -> Parsed {
                Parsed::$provider(parsed)
            }
        })*
    };
}

registered!(Sectigo in sectigo, Namecom in namecom, Debitsuccess in debitsuccess);

/// Evaluates an expression with `$P` as the provider's implementation.
macro_rules! dispatch {
    ($provider:expr, $P:ident => $body:expr) => {
        match $provider {
            Provider::Sectigo => {
                type $P = Sectigo;
                $body
            }
            Provider::Namecom => {
                type $P = Namecom;
                $body
            }
            Provider::Debitsuccess => {
                type $P = Debitsuccess;
                $body
            }
        }
    };
}

/// Evaluates an expression with `$P` as the implementation that parsed the request, and `$inner` as
/// what it parsed.
macro_rules! dispatch_parsed {
    ($parsed:expr, $P:ident, $inner:ident => $body:expr) => {
        match $parsed {
            Parsed::Sectigo($inner) => {
                type $P = Sectigo;
                $body
            }
            Parsed::Namecom($inner) => {
                type $P = Namecom;
                $body
            }
            Parsed::Debitsuccess($inner) => {
                type $P = Debitsuccess;
                $body
            }
        }
    };
}

/// A request as its provider reads it.
pub(crate) struct Inspected {
    pub(crate) info: RequestInfo,
    pub(crate) parsed: Parsed,
}

impl Provider {
    /// The name in JSON.
    pub(crate) fn name(self) -> &'static str {
        dispatch!(self, P => P::NAME)
    }

    /// The name for people.
    pub fn display_name(self) -> &'static str {
        dispatch!(self, P => P::DISPLAY_NAME)
    }

    /// The path of the provider's service, if it has only one.
    pub fn service_path(self) -> &'static str {
        dispatch!(self, P => P::SERVICE_PATH)
    }

    /// The provider's calls. The first one moves money.
    pub(crate) fn operations(self) -> &'static [&'static str] {
        dispatch!(self, P => P::OPERATIONS)
    }

    /// The forged answers that the provider can give, with their names in JSON.
    pub(crate) fn forged_answers(self) -> &'static [(&'static str, ForgedAnswer)] {
        dispatch!(self, P => P::FORGED_ANSWERS)
    }

    pub(crate) fn body_format(self) -> BodyFormat {
        dispatch!(self, P => P::BODY_FORMAT)
    }

    /// Whether one target can be refunded several times, each time under another identifier.
    pub(crate) fn has_several_refunds_per_target(self) -> bool {
        dispatch!(self, P => P::SEVERAL_REFUNDS_PER_TARGET)
    }

    /// Whether a refund can stop half-way.
    pub(crate) fn stops_half_way(self) -> bool {
        dispatch!(self, P => P::STOPS_HALF_WAY)
    }

    pub(crate) fn inspect(self, request: &Request) -> Inspected {
        dispatch!(self, P => {
            let (info, parsed) = P::inspect(request);
            Inspected { info, parsed: P::parsed(parsed) }
        })
    }

    pub(crate) fn key_in_progress(self, settings: &Settings, info: &RequestInfo) -> Option<KeyInProgress> {
        dispatch!(self, P => P::key_in_progress(P::settings(settings), info))
    }

    pub(crate) fn confirms_refund(self, answer: &RecordedAnswer<'_>, effect: &Effect) -> bool {
        dispatch!(self, P => P::confirms_refund(answer, effect))
    }

    pub(crate) fn shows_refund(self, settings: &Settings, answer: &RecordedAnswer<'_>, effect: &Effect) -> bool {
        dispatch!(self, P => P::shows_refund(P::settings(settings), answer, effect))
    }

    pub(crate) fn is_list(self, operation: &str) -> bool {
        dispatch!(self, P => P::is_list(operation))
    }

    pub(crate) fn mask_answer(self, text: &str) -> Cow<'_, str> {
        dispatch!(self, P => P::mask_answer(text))
    }

    pub(crate) fn magic_targets(self) -> Vec<MagicTarget> {
        dispatch!(self, P => P::magic_targets())
    }

    pub(crate) fn magic_wire_target(self, number: u32, name: &str) -> String {
        dispatch!(self, P => P::magic_wire_target(number, name))
    }

    pub(crate) fn magic_wire_alias(self, target: &str) -> Option<String> {
        dispatch!(self, P => P::magic_wire_alias(target))
    }

    pub(crate) fn magic_item(self, target: &str) -> Option<i32> {
        dispatch!(self, P => P::magic_item(target))
    }
}

impl ProviderStates {
    /// The demo data. Times in it are relative to `now`.
    pub(crate) fn demo(now: OffsetDateTime) -> Self {
        Self {
            sectigo: Sectigo::demo_state(now),
            namecom: Namecom::demo_state(now),
            debitsuccess: Debitsuccess::demo_state(now),
        }
    }

    /// Nothing but the main accounts.
    pub(crate) fn empty(now: OffsetDateTime) -> Self {
        Self {
            sectigo: Sectigo::empty_state(now),
            namecom: Namecom::empty_state(now),
            debitsuccess: Debitsuccess::empty_state(now),
        }
    }

    /// Makes generated identifiers depend on `seed`.
    pub(crate) fn reseed(&mut self, seed: u64) {
        for provider in Provider::ALL {
            dispatch!(provider, P => P::reseed(P::state_mut(self), seed));
        }
    }

    /// Has the provider that parsed a request handle it.
    pub(crate) fn handle(
        &mut self,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &Parsed,
    ) -> Handled {
        dispatch_parsed!(parsed, P, parsed => P::handle(P::state_mut(self), P::settings(settings), now, request, parsed))
    }

    /// As [`Self::handle`], but a refund stops half-way.
    pub(crate) fn handle_half_way(
        &mut self,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        parsed: &Parsed,
    ) -> Handled {
        dispatch_parsed!(parsed, P, parsed => {
            P::handle_half_way(P::state_mut(self), P::settings(settings), now, request, parsed)
        })
    }

    /// Does what has become due by `now` at any provider. Returns the effects in order of time.
    pub(crate) fn advance(
        &mut self,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Vec<(OffsetDateTime, Provider, Effect)> {
        let mut done = Vec::new();
        for provider in Provider::ALL {
            let effects = dispatch!(provider, P => P::advance(P::state_mut(self), P::settings(settings), now));
            done.extend(effects.into_iter().map(|(at, effect)| (at, provider, effect)));
        }
        done.sort_by_key(|(at, ..)| *at);
        done
    }

    /// A copy of one provider's state.
    pub(crate) fn snapshot(&self, provider: Provider) -> ProviderSnapshot {
        dispatch!(provider, P => P::snapshot(P::state(self).clone()))
    }

    /// The logins of the main accounts.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            sectigo: Sectigo::main_login(&self.sectigo),
            namecom: Namecom::main_login(&self.namecom),
            debitsuccess: Debitsuccess::main_login(&self.debitsuccess),
        }
    }

    /// Every username that a request could carry.
    pub(crate) fn usernames(&self) -> Vec<(Provider, String)> {
        let usernames = Provider::ALL.into_iter().flat_map(|provider| {
            let names = dispatch!(provider, P => P::usernames(P::state(self)));
            names.into_iter().map(move |name| (provider, name))
        });
        usernames.collect()
    }

    /// Gives the main accounts new logins, and every other account a new name.
    pub(crate) fn rename(&mut self, main: &Credentials, other: &dyn Fn(&str) -> String) {
        for provider in Provider::ALL {
            dispatch!(provider, P => P::rename(P::state_mut(self), P::login(main), other));
        }
    }

    /// A lookup of what was paid for a target, in hundredths.
    pub(crate) fn amounts_paid(&self, provider: Provider) -> AmountLookup<'_> {
        dispatch!(provider, P => P::amounts_paid(P::state(self)))
    }

    /// The target as the books name it.
    pub(crate) fn canonical_target(&self, provider: Provider, target: &str) -> String {
        dispatch!(provider, P => P::canonical_target(P::state(self), target))
    }
}

impl Credentials {
    /// New logins for a world.
    pub(crate) fn generate(world: &str, rng: &mut SeededRng) -> Self {
        Self {
            sectigo: Sectigo::generate_login(world, rng),
            namecom: Namecom::generate_login(world, rng),
            debitsuccess: Debitsuccess::generate_login(world, rng),
        }
    }

    /// Replaces the old login in a stored request.
    pub(crate) fn replace_in(&self, provider: Provider, request: &mut Request, old: &Credentials) {
        dispatch!(provider, P => P::replace_login(request, P::login(old), P::login(self)));
    }
}

impl ProviderSnapshot {
    pub(crate) fn provider(&self) -> Provider {
        match self {
            ProviderSnapshot::Sectigo(_) => Provider::Sectigo,
            ProviderSnapshot::Namecom(_) => Provider::Namecom,
            ProviderSnapshot::Debitsuccess(_) => Provider::Debitsuccess,
        }
    }

    /// As [`ProviderStates::rename`].
    pub(crate) fn rename(&mut self, main: &Credentials, other: &dyn Fn(&str) -> String) {
        match self {
            ProviderSnapshot::Sectigo(state) => Sectigo::rename(state, &main.sectigo, other),
            ProviderSnapshot::Namecom(state) => Namecom::rename(state, &main.namecom, other),
            ProviderSnapshot::Debitsuccess(state) => Debitsuccess::rename(state, &main.debitsuccess, other),
        }
    }

    /// The provider's answer at that moment. None if another provider parsed the request.
    pub(crate) fn dry_run(
        &self,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        inspected: &Inspected,
    ) -> Option<Response> {
        self.run(settings, now, request, inspected, DryRunKind::Plain)
    }

    /// A false answer of the provider. None if another provider parsed the request.
    pub(crate) fn forge(
        &self,
        answer: ForgedAnswer,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        inspected: &Inspected,
    ) -> Option<Response> {
        self.run(settings, now, request, inspected, DryRunKind::Forged(answer))
    }

    /// The provider's answer when it runs out of time. None if another provider parsed the request.
    pub(crate) fn time_out(
        &self,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        inspected: &Inspected,
    ) -> Option<Response> {
        self.run(settings, now, request, inspected, DryRunKind::TimedOut)
    }

    fn run(
        &self,
        settings: &Settings,
        now: OffsetDateTime,
        request: &Request,
        inspected: &Inspected,
        kind: DryRunKind,
    ) -> Option<Response> {
        let info = &inspected.info;
        Some(match (self, &inspected.parsed) {
            (ProviderSnapshot::Sectigo(state), Parsed::Sectigo(parsed)) => {
                kind.run(dry_run_of::<Sectigo>(state, settings, now, request, parsed, info))
            }
            (ProviderSnapshot::Namecom(state), Parsed::Namecom(parsed)) => {
                kind.run(dry_run_of::<Namecom>(state, settings, now, request, parsed, info))
            }
            (ProviderSnapshot::Debitsuccess(state), Parsed::Debitsuccess(parsed)) => {
                kind.run(dry_run_of::<Debitsuccess>(state, settings, now, request, parsed, info))
            }
            _ => return None,
        })
    }
}

#[derive(Clone, Copy)]
enum DryRunKind {
    Plain,
    Forged(ForgedAnswer),
    TimedOut,
}

impl DryRunKind {
    fn run<P: EmulatedProvider>(self, mut run: DryRun<'_, P>) -> Response {
        match self {
            DryRunKind::Plain => run.response(),
            DryRunKind::Forged(answer) => P::forge(answer, run),
            DryRunKind::TimedOut => P::time_out(run),
        }
    }
}

fn dry_run_of<'a, P: Registered>(
    state: &P::State,
    settings: &Settings,
    now: OffsetDateTime,
    request: &'a Request,
    parsed: &'a P::Parsed,
    info: &'a RequestInfo,
) -> DryRun<'a, P> {
    let settings = P::settings(settings).clone();
    DryRun { state: state.clone(), settings, now, request: Cow::Borrowed(request), parsed, info }
}
