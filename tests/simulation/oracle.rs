//! The oracle: the books, the wire, the ledger and the callers' history must agree. Each promise
//! that it checks has a name.
//!
//! It judges each send ([`judge_send`]), each recorded absence ([`judge_absence`]), each list
//! ([`judge_views`]), and the whole run at quiescence ([`judge`]).

use std::collections::{BTreeMap, BTreeSet};

use recoup::domain::event::EventKind;
use recoup::domain::history::EventRecord;
use recoup::domain::outcome::ItemState;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::domain::target::Target;
use recoup::engine::{Engine, EngineError};
use recoup::ledger::{Ledger, LedgerAdmin as _, LedgerError, ListQuery};

use crate::history::{CallResult, History, Recorded};
use crate::people;
use crate::plan::{ProviderKind, TargetPlan};
use crate::run::{KEY_LIFETIME, settle_time};
use crate::sim::{MicrosRange, Sim, lock, micros};
use crate::wire::TOTAL_TIMEOUT;
use crate::world::{self, BookEntry, PASSWORD, SentRequest, World};

/// The longest time between a decision of the gateway and the send, in microseconds.
pub(crate) const SLACK: i64 = 150_000_000;
/// How long name.com really remembers a key, in microseconds.
const NAMECOM_KEY_LIFETIME: i64 = 3_600_000_000;

/// The target of the plan that a refund is about.
pub(crate) fn target_of(intent: &Intent) -> Option<u8> {
    let provider = intent.target.provider();
    intent.target.references().first().and_then(|named| world::target_of(provider, named))
}

/// The refund that caused an entry of the books; none where another client caused it.
pub(crate) fn owner<'a>(world: &'a World, entry: &'a BookEntry) -> Option<&'a str> {
    if entry.foreign {
        return None;
    }
    let sender = entry.sent.and_then(|sent| world.wire[sent].refund.as_deref());
    let named = entry.effect.identifier.as_deref();
    match entry.provider {
        // A request may also complete another debit.
        ProviderKind::Debitsuccess => named.or(sender),
        ProviderKind::Sectigo | ProviderKind::Namecom => sender.or(named),
    }
}

/// The effects of a refund in the books that were not taken back.
pub(crate) fn net_effects<'a>(world: &'a World, id: &str, intent: &Intent) -> Vec<&'a BookEntry> {
    let is_ours = |entry: &&BookEntry| {
        // With the same identifier, account and amount it is the same refund, even if another
        // client sent it.
        let same = match &intent.target {
            Target::Debitsuccess(target) => {
                entry.provider == ProviderKind::Debitsuccess
                    && entry.effect.identifier.as_deref() == Some(id)
                    && Some(entry.effect.target.as_str()) == target.account_reference_no()
                    && entry.effect.amount_minor == Some(target.amount().minor_units)
            }
            Target::Sectigo(_) | Target::Namecom(_) => false,
        };
        same || owner(world, entry) == Some(id)
    };
    let mut net: Vec<&BookEntry> = Vec::new();
    for entry in world.books.iter().filter(is_ours) {
        if entry.effect.kind == "refund" {
            net.push(entry);
        } else {
            net.retain(|taken_back| taken_back.effect.reference != entry.effect.reference);
        }
    }
    net
}

/// Judges a request that may move money, as it is sent.
pub(crate) fn judge_send(sim: &Sim, wire: &[SentRequest], sent: &SentRequest, refund: Option<&Refund>) {
    let Some(refund) = refund.filter(|refund| refund.state == State::Dispatching && refund.attempt_count > 0) else {
        return sim.violation(
            "intent before send",
            format_args!("a request about target {:?} was sent, and no attempt for it is on the disk", sent.target),
        );
    };
    let id = refund.id().as_str();
    if target_of(&refund.intent) != sent.target {
        sim.violation("intent before send", format_args!("the request of {id} is about target {:?}", sent.target));
    }
    let before: Vec<&SentRequest> =
        wire.iter().filter(|one| one.moves_money && one.refund.as_deref() == Some(id)).collect();
    if before.iter().any(|one| one.attempt == sent.attempt) {
        sim.violation(
            "one attempt is one wire request",
            format_args!("attempt {} of {id} was sent twice", sent.attempt),
        );
    }
    // A request contains the login, so only requests under the same login are equal.
    let here = before.iter().filter(|one| one.site.login == sent.site.login);
    if here.into_iter().any(|one| one.bytes != sent.bytes) {
        sim.violation("the same key and the same bytes", format_args!("attempt {} of {id} differs", sent.attempt));
    }
    let unanswered: Vec<&&SentRequest> = before.iter().filter(|one| !one.not_processed).collect();
    let history = lock(&sim.history);
    let by_operator = history.resends_by_operator.iter().filter(|of| *of == id).count();
    match sent.provider {
        ProviderKind::Sectigo => {
            if unanswered.len() > by_operator {
                sim.violation(
                    "Sectigo is sent once",
                    format_args!("{id} was sent again, and the operator did not order it"),
                );
            }
        }
        ProviderKind::Namecom => {
            // After the clock was set back and the process has ended, no one can know how old a key
            // is.
            let is_known = !(sim.plan.sets_clock_back() && sim.ended_processes() > 0);
            let is_asked = by_operator == 0 && is_known;
            let interrupted = before.last().filter(|last| !last.has_outcome && by_operator == 0);
            if let Some((first, again)) = interrupted.and_then(|last| last.recorded.zip(sent.recorded))
                && again.saturating_duration_since(first) < TOTAL_TIMEOUT
            {
                let after = again.saturating_duration_since(first).as_secs();
                sim.violation(
                    "not during an interrupted request",
                    format_args!("{id} was sent again {after} s after an attempt that a crash interrupted"),
                );
            }
            let Some(first) = unanswered.first().filter(|_| is_asked) else { return };
            if unanswered.last().is_some_and(|last| was_proven_absent(wire, last, sent)) {
                return;
            }
            let theirs = sent.at - first.at;
            let ours = theirs + (sent.ahead.min - first.ahead.max).max(0);
            let outlives = theirs >= NAMECOM_KEY_LIFETIME && !sim.plan.sets_clock_back();
            if ours > micros(KEY_LIFETIME) + SLACK || outlives {
                sim.violation(
                    "within the key's lifetime",
                    format_args!("{id} was sent again after {} s", theirs / 1_000_000),
                );
            }
        }
        ProviderKind::Debitsuccess => {
            let Some(last) = unanswered.last().filter(|_| by_operator == 0) else { return };
            let is_here = |one: &&SentRequest| one.target == sent.target && one.site == sent.site;
            let lookups = wire.iter().filter(is_here).filter(|one| !one.moves_money && one.at >= last.at);
            let lookups: Vec<MicrosRange> = lookups.map(time_seen).collect();
            let first = lookups.iter().map(|time| time.min).min();
            let last = lookups.iter().map(|time| time.max).max();
            let apart = last.zip(first).map_or(0, |(last, first)| last - first);
            if lookups.len() < 2 || apart < micros(settle_time(ProviderKind::Debitsuccess)) - SLACK {
                let seconds = apart / 1_000_000;
                sim.violation(
                    "two lookups before a resend",
                    format_args!("{id} was sent again after {} lookups, {seconds} s apart", lookups.len()),
                );
            }
        }
    }
}

/// When a request was sent, by the time that the gateway has seen pass.
fn time_seen(sent: &SentRequest) -> MicrosRange {
    MicrosRange { min: sent.at + sent.set_forward.min, max: sent.at + sent.set_forward.max }
}

/// Whether a lookup at least a settle time after `last` has also read a domain: only then may an
/// expired key be used.
pub(crate) fn was_proven_absent(wire: &[SentRequest], last: &SentRequest, sent: &SentRequest) -> bool {
    let settled = time_seen(last).min + micros(settle_time(ProviderKind::Namecom)) - SLACK;
    wire.iter().any(|one| {
        one.operation == "GetDomain"
            && (one.provider, one.target, one.site.host, one.site.login)
                == (sent.provider, sent.target, sent.site.host, sent.site.login)
            && time_seen(one).max >= settled
    })
}

/// Judges a recorded lookup that showed no record of a refund: it says nothing about an attempt
/// that was sent after the lookup.
pub(crate) fn judge_absence(sim: &Sim, wire: &[SentRequest], refund: &Refund) {
    let id = refund.id().as_str();
    let target = target_of(&refund.intent);
    let Some(last) = wire.iter().rev().find(|one| one.moves_money && one.refund.as_deref() == Some(id)) else { return };
    if !wire.iter().any(|one| !one.moves_money && one.target == target && one.at >= last.at) {
        sim.violation(
            "a lookup counts only for its own time",
            format_args!("{id} is recorded as absent by a lookup from before attempt {}", last.attempt),
        );
    }
}

/// Judges a list: doubt is visible, and every view counts it alike.
pub(crate) async fn judge_views(sim: &Sim, engine: &Engine) {
    let whole = ListQuery { limit: 1_000, ..ListQuery::default() };
    let (Ok(all), Some(ledger)) = (engine.list(whole).await, sim.ledger()) else { return };
    let Ok(events) = ledger.events_after(0, 100_000).await else { return };
    let mut last: BTreeMap<&str, &EventRecord> = BTreeMap::new();
    for event in &events {
        last.insert(event.refund.as_str(), event);
    }
    if all.len() != last.len() {
        sim.violation("counted alike", format_args!("{} are listed, and {} have a history", all.len(), last.len()));
    }
    for listed in &all {
        let refund = &listed.refund;
        let id = refund.id().as_str();
        if !last.get(id).is_some_and(|event| event.to == refund.state && event.revision == refund.revision) {
            sim.violation(
                "counted alike",
                format_args!("{id} is listed as {}, and its history ends otherwise", refund.state),
            );
        }
        if engine.get(refund.id()).await.as_ref() != Ok(refund) {
            sim.violation("counted alike", format_args!("{id} is not what it is listed as"));
        }
        if refund.doubt.is_some() != matches!(refund.state, State::InDoubt | State::NeedsReview) {
            sim.violation(
                "doubt visible",
                format_args!("{id} is {}, and its doubt is {:?}", refund.state, refund.doubt),
            );
        }
    }
    for state in State::ALL {
        let query = ListQuery { states: vec![state], limit: 1_000, ..ListQuery::default() };
        let Ok(listed) = engine.list(query).await else { return };
        let by_state: Vec<u64> = listed.iter().map(|one| one.ordinal).collect();
        let expected: Vec<u64> = all.iter().filter(|one| one.refund.state == state).map(|one| one.ordinal).collect();
        if by_state != expected {
            sim.violation(
                "counted alike",
                format_args!("{} are {state}, and {} are listed so", expected.len(), by_state.len()),
            );
        }
    }
    sim.trace(format_args!("listed {} refunds, {} events", all.len(), events.len()));
}

/// Judges the whole run at quiescence.
pub(crate) async fn judge(sim: &Sim, refunds: Vec<Refund>) {
    let Some(ledger) = sim.ledger() else { return };
    let events = match ledger.events_after(0, 1_000_000).await {
        Ok(events) => events,
        Err(error) => return sim.violation("the chain verifies", format_args!("{error}")),
    };
    match ledger.verify().await {
        Ok(lines) if lines == events.len() as u64 => {}
        other => sim.violation("the chain verifies", format_args!("{other:?} of {} events", events.len())),
    }
    let world = lock(&sim.world);
    let history = lock(&sim.history);
    let refunds: BTreeMap<&str, &Refund> = refunds.iter().map(|refund| (refund.id().as_str(), refund)).collect();
    histories(sim, &refunds, &events);
    at_most_once(sim, &world, &refunds);
    let resolved: BTreeSet<&str> = events
        .iter()
        .filter(|event| event.kind == EventKind::Resolved && event.to.is_terminal())
        .map(|event| event.refund.as_str())
        .collect();
    for refund in refunds.values() {
        outcome(sim, &world, refund, resolved.contains(refund.id().as_str()));
        attempts(sim, &world, &history, refund, &events);
    }
    people::judge(sim, &refunds, &events);
    pauses(sim, &history, &refunds, &events);
    call_results(sim, &history, &refunds, &events);
    if !history.streamed.iter().eq(events.iter()) {
        sim.violation(
            "streams resume",
            format_args!("the stream has {} of {} events", history.streamed.len(), events.len()),
        );
    }
    secrets(sim, &history, &refunds, &events);
    figures(sim, &world, &refunds, &events);
}

/// The sequence has no gaps, each step begins where the previous one ended, and terminal states
/// never change.
fn histories(sim: &Sim, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let mut stands: BTreeMap<&str, (u64, State)> = BTreeMap::new();
    for (sequence, event) in (1..).zip(events) {
        let id = event.refund.as_str();
        if event.sequence != sequence {
            sim.violation("sequence without gaps", format_args!("event {sequence} is numbered {}", event.sequence));
        }
        let before = stands.insert(id, (event.revision, event.to));
        match before {
            None if event.from.is_none() && event.revision == 1 => {}
            Some((revision, state)) if Some(state) == event.from && revision + 1 == event.revision => {
                // Only a failed refund that is followed has later events, and its state stays.
                let stays_failed = state == State::Failed && event.to == state;
                let is_followed = stays_failed && matches!(event.kind, EventKind::Checked | EventKind::Corrected);
                if state.is_terminal() && !is_followed {
                    sim.violation(
                        "terminal states never change",
                        format_args!("{id} went from {state} to {}", event.to),
                    );
                }
            }
            _ => sim.violation("each step follows the last", format_args!("{id} at revision {}", event.revision)),
        }
    }
    for (id, refund) in refunds {
        if stands.get(id) != Some(&(refund.revision, refund.state)) {
            sim.violation(
                "the history is the refund's",
                format_args!("{id} is {} at {}", refund.state, refund.revision),
            );
        }
    }
}

/// No attempt of an account begins while the operator knows that it is paused.
fn pauses(sim: &Sim, history: &History, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    for (account, after, until) in &history.pauses {
        let is_within = |event: &&EventRecord| event.sequence > *after && until.is_none_or(|end| event.sequence <= end);
        for event in events.iter().filter(is_within).filter(|event| event.to == State::Dispatching) {
            // Whose attempt it was is not in the event, so a refund that was moved says nothing.
            let refund = refunds.get(event.refund.as_str());
            if refund.is_some_and(|refund| refund.account == *account && refund.placed_time.is_none()) {
                sim.violation(
                    "a paused account sends nothing",
                    format_args!(
                        "attempt {} of {} began while {account} was paused",
                        event.attempt,
                        event.refund.as_str()
                    ),
                );
            }
        }
    }
}

/// What may have at most one effect of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Counted<'a> {
    /// A target in the books behind one login, for one identifier where the provider has one.
    InBooks { provider: ProviderKind, books: u8, login: &'a str, target: &'a str, identifier: Option<&'a str> },
    /// A target of one refund, over all books.
    OfRefund { provider: ProviderKind, target: &'a str, refund: &'a str },
}

/// At most one effect of ours for one target of the same books, or for one identifier, and for one
/// refund over all books.
///
/// The gateway knows that two logins have the same books only where a person has said so; then the
/// target is reserved.
fn at_most_once(sim: &Sim, world: &World, refunds: &BTreeMap<&str, &Refund>) {
    let mut effects: BTreeMap<Counted<'_>, i32> = BTreeMap::new();
    for entry in &world.books {
        let Some(id) = owner(world, entry) else { continue };
        let identifier = entry.effect.identifier.as_deref().filter(|_| entry.provider == ProviderKind::Debitsuccess);
        let target = entry.effect.target.as_str();
        let net = match entry.effect.kind.as_str() {
            "refund" => 1,
            // Not paid after all; it may be paid later.
            "refund_rejected" => -1,
            other => {
                sim.violation("nothing but refunds", format_args!("{other} of {target}"));
                continue;
            }
        };
        let login = refunds.get(id).map_or("", |refund| refund.place.login.as_str());
        let (provider, books) = (entry.provider, entry.books);
        *effects.entry(Counted::InBooks { provider, books, login, target, identifier }).or_default() += net;
        *effects.entry(Counted::OfRefund { provider, target, refund: id }).or_default() += net;
        if net < 0 {
            continue;
        }
        let Some(refund) = refunds.get(id) else {
            sim.violation("every effect known", format_args!("the books know {id}, and the ledger does not"));
            continue;
        };
        let first = refund.dispatch_time.map(|at| at.as_micros());
        let latest = entry.at + sim.plan.set_forward_s() * 1_000_000;
        if first.is_none_or(|first| first > latest) {
            sim.violation("every effect known", format_args!("the effect of {id} is older than its first attempt"));
        }
        if let Target::Debitsuccess(target) = &refund.intent.target
            && entry.effect.amount_minor != Some(target.amount().minor_units)
        {
            sim.violation(
                "money equal",
                format_args!("{id} is about {}, and {:?} moved", target.amount(), entry.effect.amount_minor),
            );
        }
    }
    for (counted, count) in effects.into_iter().filter(|(_, count)| *count > 1) {
        sim.violation("at most one effect", format_args!("{counted:?} was refunded {count} times"));
    }
}

/// The outcome of a refund agrees with the books.
fn outcome(sim: &Sim, world: &World, refund: &Refund, by_operator: bool) {
    let id = refund.id().as_str();
    let Some(target) = target_of(&refund.intent) else { return };
    let net = net_effects(world, id, &refund.intent);
    let planned = &sim.plan.targets[usize::from(target)];
    match refund.state {
        State::Submitted if stays_submitted(planned) => {}
        State::AwaitingApproval
        | State::Pending
        | State::Dispatching
        | State::Submitted
        | State::InDoubt
        | State::NeedsReview => {
            let liar = sim.plan.behaviour.liar && refund.state == State::Submitted;
            if !liar {
                sim.violation("comes to rest", format_args!("{id} is {} at the end: {:?}", refund.state, refund.doubt));
            }
        }
        _ => {}
    }
    if sim.plan.behaviour.liar {
        return;
    }
    match refund.state {
        // A correction is found while the refund is followed.
        State::Failed if refund.corrected_time.is_some() || (is_corrected(&net) && !is_followed(sim, refund)) => {}
        State::Failed | State::Cancelled if !net.is_empty() => {
            sim.violation(
                "no false failure",
                format_args!("{id} is {}, and the books have {:?}", refund.state, net[0].effect),
            );
        }
        State::Succeeded | State::PartiallySucceeded => success(sim, world, refund, &net, by_operator),
        _ => {}
    }
}

fn is_corrected(net: &[&BookEntry]) -> bool {
    !net.is_empty() && net.iter().all(|entry| entry.corrects)
}

/// Whether a lookup now would be made, and recorded.
fn is_followed(sim: &Sim, refund: &Refund) -> bool {
    let now = sim.gateway_now();
    let is_configured = crate::places::is_configured(sim, refund);
    refund.is_followed(now) && is_configured
}

/// name.com never reports that a refund it had begun has failed.
fn stays_submitted(planned: &TargetPlan) -> bool {
    use crate::plan::ItemFate::{Canceled, Failed, Initialized, NotEligible, RegistryDown, WindowOver};
    let TargetPlan::Items { items } = planned else { return false };
    let any = |fates: &[crate::plan::ItemFate]| items.iter().any(|item| fates.contains(&item.fate));
    any(&[Initialized]) && any(&[Initialized, Canceled, Failed, NotEligible, RegistryDown, WindowOver])
}

fn success(sim: &Sim, world: &World, refund: &Refund, net: &[&BookEntry], by_operator: bool) {
    let id = refund.id().as_str();
    let books = crate::places::books_of(sim, refund);
    let refunds_of = |target: &str| {
        let is_of = |entry: &&BookEntry| Some(entry.books) == books && entry.effect.target == target;
        world.books.iter().filter(is_of).rfind(|entry| entry.effect.kind == "refund")
    };
    // Refunded by any client: the provider shows only that the target is refunded.
    let is_refunded = |target: &str| refunds_of(target).is_some();
    let is_there = match &refund.intent.target {
        Target::Sectigo(target) => is_refunded(target.order_number()),
        Target::Namecom(target) => {
            let mut items = target.order_item_ids().iter().map(|item| is_refunded(&item.to_string()));
            if refund.state == State::PartiallySucceeded { items.any(|is| is) } else { items.all(|is| is) }
        }
        Target::Debitsuccess(_) => !net.is_empty(),
    };
    if !is_there {
        sim.violation(
            "no false success",
            format_args!("{id} is {}, and the books have {} effects", refund.state, net.len()),
        );
    }
    let amount_of = |target: &str| refunds_of(target).and_then(|entry| entry.effect.amount_minor);
    let ours = |target: &str| net.iter().any(|entry| entry.effect.target == target);
    for item in &refund.items {
        let moved = amount_of(&item.item_id);
        let is_true = if item.state == ItemState::Succeeded { moved.is_some() } else { !ours(&item.item_id) };
        if !is_true {
            sim.violation(
                "no false success",
                format_args!("{id} has item {} as {}", item.item_id, item.state.as_str()),
            );
        }
        if let Some(recorded) = item.refunded_amount
            && Some(recorded.minor_units) != moved
        {
            sim.violation(
                "money equal",
                format_args!("{id} has {recorded} for item {}, the books have {moved:?}", item.item_id),
            );
        }
    }
    let Some(recorded) = refund.refunded_amount.map(|amount| amount.minor_units) else { return };
    let of_items: i64 = refund
        .items
        .iter()
        .filter(|item| item.state == ItemState::Succeeded)
        .filter_map(|item| amount_of(&item.item_id))
        .sum();
    let ours: i64 = net.iter().filter_map(|entry| entry.effect.amount_minor).sum();
    let is_namecom = matches!(refund.intent.target, Target::Namecom(_));
    let moved = if is_namecom { of_items } else { ours };
    let requested: i64 = refund.intent.target.item_ids().iter().filter_map(|item| amount_of(item)).sum();
    // The operator copies the books: the requested items, or everything refunded with them.
    if recorded != moved && !(by_operator && (recorded == ours || (is_namecom && recorded == requested))) {
        sim.violation("money equal", format_args!("{id} has {recorded}, and the books have {moved}"));
    }
}

/// Attempts and wire requests are one to one, except for attempts that were interrupted or
/// abandoned before they were sent.
fn attempts(sim: &Sim, world: &World, history: &History, refund: &Refund, events: &[EventRecord]) {
    let id = refund.id().as_str();
    let of_refund = || events.iter().filter(|event| event.refund.as_str() == id);
    let begun = of_refund().filter(|event| event.to == State::Dispatching).count();
    if begun != usize::try_from(refund.attempt_count).unwrap_or(0) {
        sim.violation(
            "attempts are events",
            format_args!("{id} has {} attempts, and {begun} began", refund.attempt_count),
        );
    }
    let sent = world.wire.iter().filter(|sent| sent.moves_money && sent.refund.as_deref() == Some(id)).count();
    let interrupted = of_refund().filter(|event| event.kind == EventKind::Interrupted).count();
    let abandoned = history.abandoned_attempts.get(id).copied().unwrap_or(0);
    if sent > begun || begun - sent > interrupted + abandoned {
        sim.violation(
            "attempts are wire requests",
            format_args!("{id}: {begun} attempts, {sent} requests, {interrupted} interrupted, {abandoned} abandoned"),
        );
    }
}

/// Every answer to a caller is true, and stays true.
fn call_results(sim: &Sim, history: &History, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let state_at = |id: &str, revision: u64| {
        events.iter().find(|event| event.refund.as_str() == id && event.revision == revision).map(|event| event.to)
    };
    for Recorded { id, revision, state } in &history.recorded {
        if state_at(id, *revision) != Some(*state) {
            sim.violation("acknowledged = durable", format_args!("{id} was recorded as {state} at {revision}"));
        }
    }
    let mut may_exist: BTreeSet<&str> = BTreeSet::new();
    for call in &history.calls {
        match &call.result {
            CallResult::Refund(refund) => {
                may_exist.insert(&call.id);
                if state_at(&call.id, refund.revision) != Some(refund.state) {
                    let what = call.what;
                    sim.violation(
                        "acknowledged = durable",
                        format_args!("{what} {} was answered with {} at {}", call.id, refund.state, refund.revision),
                    );
                }
                let same =
                    refunds.get(call.id.as_str()).is_some_and(|kept| Some(&kept.intent) == call.requested.as_ref());
                if call.requested.is_some() && !same {
                    sim.violation("acknowledged = durable", format_args!("{} was created with other content", call.id));
                }
            }
            CallResult::Unknown => {
                may_exist.insert(&call.id);
            }
            CallResult::Error(error) => {
                if !promises_nothing_recorded(error) {
                    may_exist.insert(&call.id);
                }
                let kept = refunds.get(call.id.as_str());
                if let (EngineError::Ledger(LedgerError::RefundIdReused { .. }), Some(requested)) =
                    (error, &call.requested)
                    && kept.is_none_or(|kept| kept.intent == *requested)
                {
                    sim.violation(
                        "the same again is the same",
                        format_args!("{} was refused as other content", call.id),
                    );
                }
            }
        }
    }
    for id in refunds.keys().filter(|id| !may_exist.contains(*id)) {
        sim.violation(
            "an error means nothing recorded",
            format_args!("{id} is recorded, and every caller got an error that says it is not"),
        );
    }
}

/// Whether the gRPC API answers this error with an ErrorInfo.
fn promises_nothing_recorded(error: &EngineError) -> bool {
    !matches!(error, EngineError::Panicked | EngineError::Ledger(LedgerError::CommitFailed(_) | LedgerError::Cancelled))
}

/// Whether the password is in the text, plain or anywhere inside the Base64 of HTTP Basic.
pub(crate) fn contains_secret(text: &str) -> bool {
    [PASSWORD, "c4nary", "YzRuYXJ5", "M0bmFyeS", "NG5hcnkt"].iter().any(|secret| text.contains(secret))
}

fn secrets(sim: &Sim, history: &History, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let errors = history.calls.iter().filter_map(|call| match &call.result {
        CallResult::Error(error) => Some(error.to_string()),
        CallResult::Refund(..) | CallResult::Unknown => None,
    });
    let texts =
        refunds.values().map(|refund| format!("{refund:?}")).chain(events.iter().map(|event| event.note.clone()));
    if let Some(text) = texts.chain(errors).find(|text| contains_secret(text)) {
        sim.violation("no secret anywhere", format_args!("{text}"));
    }
}

fn figures(sim: &Sim, world: &World, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let mut doubted: BTreeMap<&str, i64> = BTreeMap::new();
    let mut lasted = Vec::new();
    let mut reviews = 0;
    for event in events {
        let id = event.refund.as_str();
        match event.to {
            State::InDoubt => {
                doubted.entry(id).or_insert(event.time.as_micros());
            }
            State::NeedsReview if event.from != Some(State::NeedsReview) => reviews += 1,
            State::Succeeded | State::PartiallySucceeded | State::Failed | State::Submitted => {
                if let Some(since) = doubted.get(id).filter(|_| event.from != Some(State::Submitted)) {
                    lasted.push(u64::try_from((event.time.as_micros() - since) / 1_000_000).unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    sim.count(|figures| {
        figures.refunds += refunds.len() as u64;
        figures.attempts += refunds.values().map(|refund| u64::from(refund.attempt_count)).sum::<u64>();
        figures.effects +=
            world.books.iter().filter(|entry| !entry.foreign && entry.effect.kind == "refund").count() as u64;
        figures.doubts += doubted.len() as u64;
        figures.reviews += reviews;
        figures.doubt_s.extend(lasted);
        for refund in refunds.values() {
            *figures.ends.entry(refund.state.as_str()).or_default() += 1;
        }
    });
}
