//! The oracle: the books, the wire, the ledger and the callers' history must tell one story. Each
//! line of it has its name.
//!
//! Asked at each send ([`judge_send`]), when an absence is recorded ([`judge_absence`]), whenever
//! somebody lists ([`judge_views`]), and at rest ([`judge`]).

use std::collections::{BTreeMap, BTreeSet};

use recoup::domain::event::EventKind;
use recoup::domain::history::EventRecord;
use recoup::domain::outcome::ItemState;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::state::State;
use recoup::domain::target::Target;
use recoup::engine::{Engine, EngineError};
use recoup::ledger::{Ledger, LedgerAdmin as _, LedgerError, ListQuery};

use crate::history::Told;
use crate::plan::{TargetPlan, Who};
use crate::run::{KEY_LIFETIME, settle_time};
use crate::sim::{Sim, lock, micros};
use crate::world::{self, Entry, PASSWORD, Sent, World};

/// What the gateway's own bookkeeping may take between a decision and the wire, in microseconds.
pub(crate) const SLACK: i64 = 150_000_000;
/// How long name.com really remembers a key.
const PROVIDERS_KEY_LIFE: i64 = 3_600_000_000;

/// Which target of the plan a refund is about.
pub(crate) fn target_of(intent: &Intent) -> Option<u8> {
    let who = match intent.target {
        Target::Sectigo(_) => Who::Sectigo,
        Target::Namecom(_) => Who::Namecom,
        Target::Debitsuccess(_) => Who::Debitsuccess,
    };
    intent.target.references().first().and_then(|named| world::target_of(who, named))
}

/// Whose doing a line of the books is; none where it was somebody else.
pub(crate) fn owner<'a>(world: &'a World, entry: &'a Entry) -> Option<&'a str> {
    if entry.foreign {
        return None;
    }
    let sender = entry.sent.and_then(|sent| world.wire[sent].refund.as_deref());
    let named = entry.effect.identifier.as_deref();
    match entry.who {
        // A request may bring to light what has become of another debit meanwhile.
        Who::Debitsuccess => named.or(sender),
        Who::Sectigo | Who::Namecom => sender.or(named),
    }
}

/// What stands in the books of a refund and was not taken back.
pub(crate) fn net_effects<'a>(world: &'a World, id: &str, intent: &Intent) -> Vec<&'a Entry> {
    let is_ours = |entry: &&Entry| {
        // Whoever sent it: with the same identifier, account and amount it is the same refund to
        // everybody.
        let same = match &intent.target {
            Target::Debitsuccess(target) => {
                entry.who == Who::Debitsuccess
                    && entry.effect.identifier.as_deref() == Some(id)
                    && Some(entry.effect.target.as_str()) == target.account_reference_no()
                    && entry.effect.amount_minor == Some(target.amount().minor_units)
            }
            Target::Sectigo(_) | Target::Namecom(_) => false,
        };
        same || owner(world, entry) == Some(id)
    };
    let mut net: Vec<&Entry> = Vec::new();
    for entry in world.books.iter().filter(is_ours) {
        if entry.effect.kind == "refund" {
            net.push(entry);
        } else {
            net.retain(|taken_back| taken_back.effect.reference != entry.effect.reference);
        }
    }
    net
}

/// Asked as a call that may move money leaves.
pub(crate) fn judge_send(sim: &Sim, wire: &[Sent], sent: &Sent, refund: Option<&Refund>) {
    let Some(refund) = refund.filter(|refund| refund.state == State::Dispatching && refund.attempt_count > 0) else {
        return sim.wrong(
            "intent before send",
            format_args!("a call about target {:?} left, and no attempt of it is on the disk", sent.target),
        );
    };
    let id = refund.id().as_str();
    if target_of(&refund.intent) != sent.target {
        sim.wrong("intent before send", format_args!("the call of {id} is about target {:?}", sent.target));
    }
    let before: Vec<&Sent> = wire.iter().filter(|one| one.moving && one.refund.as_deref() == Some(id)).collect();
    if before.iter().any(|one| one.attempt == sent.attempt) {
        sim.wrong("one attempt is one wire request", format_args!("attempt {} of {id} left twice", sent.attempt));
    }
    // The login is part of the request.
    let here = before.iter().filter(|one| one.spot.login == sent.spot.login);
    if here.into_iter().any(|one| one.bytes != sent.bytes) {
        sim.wrong("the same key and the same bytes", format_args!("attempt {} of {id} differs", sent.attempt));
    }
    let unanswered: Vec<&&Sent> = before.iter().filter(|one| !one.not_processed).collect();
    let history = lock(&sim.history);
    let by_a_person = history.sent_by_a_person.iter().filter(|of| *of == id).count();
    match sent.who {
        Who::Sectigo => {
            if unanswered.len() > by_a_person {
                sim.wrong("Sectigo is sent once", format_args!("{id} left again, and no person had it sent"));
            }
        }
        Who::Namecom => {
            // How old a key is cannot be told after the clock was set back and the process, which
            // would know, has ended.
            let is_known = !(sim.plan.sets_clock_back() && sim.ended() > 0);
            let is_asked = by_a_person == 0 && is_known;
            let Some(first) = unanswered.first().filter(|_| is_asked) else { return };
            if unanswered.last().is_some_and(|last| was_proven_absent(wire, last, sent)) {
                return;
            }
            let theirs = sent.at - first.at;
            let ours = theirs + (sent.ahead[0] - first.ahead[1]).max(0);
            let outlives = theirs >= PROVIDERS_KEY_LIFE && !sim.plan.sets_clock_back();
            if ours > micros(KEY_LIFETIME) + SLACK || outlives {
                sim.wrong("within the key's life", format_args!("{id} left again after {} s", theirs / 1_000_000));
            }
        }
        Who::Debitsuccess => {
            let Some(last) = unanswered.last().filter(|_| by_a_person == 0) else { return };
            let is_here = |one: &&Sent| one.target == sent.target && one.spot == sent.spot;
            let looks = wire.iter().filter(is_here).filter(|one| !one.moving && one.at >= last.at);
            let looks: Vec<[i64; 2]> = looks.map(|one| one.forward.map(|forward| one.at + forward)).collect();
            let [first, last] =
                [looks.iter().map(|[least, _]| *least).min(), looks.iter().map(|[_, most]| *most).max()];
            let apart = last.zip(first).map_or(0, |(last, first)| last - first);
            if looks.len() < 2 || apart < micros(settle_time(Who::Debitsuccess)) - SLACK {
                let seconds = apart / 1_000_000;
                sim.wrong(
                    "two looks before a resend",
                    format_args!("{id} left again after {} looks, {seconds} s apart", looks.len()),
                );
            }
        }
    }
}

/// Whether a lookup at least a settle time after `last` has also read a domain: only then may a key
/// be used that has died.
pub(crate) fn was_proven_absent(wire: &[Sent], last: &Sent, sent: &Sent) -> bool {
    let settled = last.at + last.forward[0] + micros(settle_time(Who::Namecom)) - SLACK;
    wire.iter().any(|one| {
        one.operation == "GetDomain"
            && (one.who, one.target, one.spot.host, one.spot.login)
                == (sent.who, sent.target, sent.spot.host, sent.spot.login)
            && one.at + one.forward[1] >= settled
    })
}

/// Asked when it has been recorded that a look showed no trace of a refund: that says nothing about
/// an attempt that left after the look did.
pub(crate) fn judge_absence(sim: &Sim, wire: &[Sent], refund: &Refund) {
    let id = refund.id().as_str();
    let target = target_of(&refund.intent);
    let Some(last) = wire.iter().rev().find(|one| one.moving && one.refund.as_deref() == Some(id)) else { return };
    if !wire.iter().any(|one| !one.moving && one.target == target && one.at >= last.at) {
        sim.wrong(
            "a look is of its own time",
            format_args!("{id} was not there, says a look that left before attempt {}", last.attempt),
        );
    }
}

/// Asked whenever somebody lists: doubt is visible, and counted alike everywhere.
pub(crate) async fn judge_views(sim: &Sim, engine: &Engine) {
    let whole = ListQuery { limit: 1_000, ..ListQuery::default() };
    let (Ok(all), Some(ledger)) = (engine.list(whole).await, sim.ledger()) else { return };
    let Ok(events) = ledger.events_after(0, 100_000).await else { return };
    let mut last: BTreeMap<&str, &EventRecord> = BTreeMap::new();
    for event in &events {
        last.insert(event.refund.as_str(), event);
    }
    if all.len() != last.len() {
        sim.wrong("counted alike", format_args!("{} are listed, and {} have a history", all.len(), last.len()));
    }
    for listed in &all {
        let refund = &listed.refund;
        let id = refund.id().as_str();
        if !last.get(id).is_some_and(|event| event.to == refund.state && event.revision == refund.revision) {
            sim.wrong(
                "counted alike",
                format_args!("{id} is listed as {}, and its history ends otherwise", refund.state),
            );
        }
        if engine.get(refund.id()).await.as_ref() != Ok(refund) {
            sim.wrong("counted alike", format_args!("{id} is not what it is listed as"));
        }
        if refund.doubt.is_some() != matches!(refund.state, State::InDoubt | State::NeedsReview) {
            sim.wrong("doubt visible", format_args!("{id} is {}, and its doubt is {:?}", refund.state, refund.doubt));
        }
    }
    for state in State::ALL {
        let query = ListQuery { states: vec![state], limit: 1_000, ..ListQuery::default() };
        let Ok(listed) = engine.list(query).await else { return };
        let by_state: Vec<u64> = listed.iter().map(|one| one.ordinal).collect();
        let expected: Vec<u64> = all.iter().filter(|one| one.refund.state == state).map(|one| one.ordinal).collect();
        if by_state != expected {
            sim.wrong(
                "counted alike",
                format_args!("{} are {state}, and {} are listed so", expected.len(), by_state.len()),
            );
        }
    }
    sim.trace(format_args!("listed {} refunds, {} events", all.len(), events.len()));
}

/// Asked at rest.
pub(crate) async fn judge(sim: &Sim, refunds: Vec<Refund>) {
    let Some(ledger) = sim.ledger() else { return };
    let events = match ledger.events_after(0, 1_000_000).await {
        Ok(events) => events,
        Err(error) => return sim.wrong("the chain verifies", format_args!("{error}")),
    };
    match ledger.verify().await {
        Ok(lines) if lines == events.len() as u64 => {}
        other => sim.wrong("the chain verifies", format_args!("{other:?} of {} events", events.len())),
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
        attempts(sim, &world, refund, &events);
    }
    told(sim, &history, &refunds, &events);
    if !history.feed.iter().eq(events.iter()) {
        sim.wrong("streams resume", format_args!("the feed has {} of {} events", history.feed.len(), events.len()));
    }
    secrets(sim, &history, &refunds, &events);
    figures(sim, &world, &refunds, &events);
}

/// The sequence without gaps, each step from where the last one led, and terminal states for ever.
fn histories(sim: &Sim, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let mut stands: BTreeMap<&str, (u64, State)> = BTreeMap::new();
    for (sequence, event) in (1..).zip(events) {
        let id = event.refund.as_str();
        if event.sequence != sequence {
            sim.wrong("sequence without gaps", format_args!("event {sequence} is numbered {}", event.sequence));
        }
        let before = stands.insert(id, (event.revision, event.to));
        match before {
            None if event.from.is_none() && event.revision == 1 => {}
            Some((revision, state)) if Some(state) == event.from && revision + 1 == event.revision => {
                // Only a refund that failed and is followed is heard of again, and stays as it is.
                let is_heard = state == State::Failed && event.to == state;
                let is_followed = is_heard && matches!(event.kind, EventKind::Checked | EventKind::Corrected);
                if state.is_terminal() && !is_followed {
                    sim.wrong("terminal states never change", format_args!("{id} went from {state} to {}", event.to));
                }
            }
            _ => sim.wrong("each step follows the last", format_args!("{id} at revision {}", event.revision)),
        }
    }
    for (id, refund) in refunds {
        if stands.get(id) != Some(&(refund.revision, refund.state)) {
            sim.wrong("the history is the refund's", format_args!("{id} is {} at {}", refund.state, refund.revision));
        }
    }
}

/// A target of a provider, in the books behind one login or in all of them, for an identifier or a
/// refund.
type Counted<'a> = (Who, Option<(u8, &'a str)>, &'a str, Option<&'a str>);

/// At most one effect of ours for one target of the same books, or for one identifier, and for one
/// refund over all books.
///
/// The gateway knows that two logins have the same books only where a person said so; then the
/// target is reserved.
fn at_most_once(sim: &Sim, world: &World, refunds: &BTreeMap<&str, &Refund>) {
    let mut effects: BTreeMap<Counted<'_>, i32> = BTreeMap::new();
    for entry in &world.books {
        let Some(id) = owner(world, entry) else { continue };
        let identifier = entry.effect.identifier.as_deref().filter(|_| entry.who == Who::Debitsuccess);
        let target = entry.effect.target.as_str();
        let net = match entry.effect.kind.as_str() {
            "refund" => 1,
            // Not paid after all; it may be paid later.
            "refund_rejected" => -1,
            other => {
                sim.wrong("nothing but refunds", format_args!("{other} of {target}"));
                continue;
            }
        };
        let login = refunds.get(id).map_or("", |refund| refund.place.login.as_str());
        *effects.entry((entry.who, Some((entry.books, login)), target, identifier)).or_default() += net;
        *effects.entry((entry.who, None, target, Some(id))).or_default() += net;
        if net < 0 {
            continue;
        }
        let Some(refund) = refunds.get(id) else {
            sim.wrong("every effect known", format_args!("the books know {id}, and the ledger does not"));
            continue;
        };
        let first = refund.dispatch_time.map(|at| at.as_micros());
        let latest = entry.at + sim.plan.set_forward_s() * 1_000_000;
        if first.is_none_or(|first| first > latest) {
            sim.wrong("every effect known", format_args!("the effect of {id} is older than its first attempt"));
        }
        if let Target::Debitsuccess(target) = &refund.intent.target
            && entry.effect.amount_minor != Some(target.amount().minor_units)
        {
            sim.wrong(
                "money equal",
                format_args!("{id} asked for {}, and {:?} moved", target.amount(), entry.effect.amount_minor),
            );
        }
    }
    for ((_, _, target, identifier), count) in effects.into_iter().filter(|(_, count)| *count > 1) {
        sim.wrong(
            "at most one effect",
            format_args!("{target} {} was refunded {count} times", identifier.unwrap_or("")),
        );
    }
}

/// What a refund says of itself is what the books say.
fn outcome(sim: &Sim, world: &World, refund: &Refund, by_a_person: bool) {
    let id = refund.id().as_str();
    let Some(target) = target_of(&refund.intent) else { return };
    let net = net_effects(world, id, &refund.intent);
    let planned = &sim.plan.targets[usize::from(target)];
    match refund.state {
        State::Submitted if stays_submitted(planned) => {}
        State::Pending | State::Dispatching | State::Submitted | State::InDoubt | State::NeedsReview => {
            let liar = sim.plan.habits.liar && refund.state == State::Submitted;
            if !liar {
                sim.wrong("comes to rest", format_args!("{id} is {} at rest: {:?}", refund.state, refund.doubt));
            }
        }
        _ => {}
    }
    if sim.plan.habits.liar {
        return;
    }
    match refund.state {
        // A lookup finds it as long as one is made.
        State::Failed if refund.corrected_time.is_some() || (is_corrected(&net) && !is_followed(sim, refund)) => {}
        State::Failed | State::Cancelled if !net.is_empty() => {
            sim.wrong(
                "no false failure",
                format_args!("{id} is {}, and the books have {:?}", refund.state, net[0].effect),
            );
        }
        State::Succeeded | State::PartiallySucceeded => success(sim, world, refund, &net, by_a_person),
        _ => {}
    }
}

fn is_corrected(net: &[&Entry]) -> bool {
    !net.is_empty() && net.iter().all(|entry| entry.corrects)
}

/// Whether a lookup now would be made, and recorded.
fn is_followed(sim: &Sim, refund: &Refund) -> bool {
    let now = sim.gateway_now();
    let is_configured = crate::places::is_configured(sim, refund);
    refund.is_followed(now) && is_configured
}

/// name.com never tells that what it had begun came to nothing.
fn stays_submitted(planned: &TargetPlan) -> bool {
    use crate::plan::ItemFate::{Canceled, Failed, Initialized, NotEligible, RegistryDown, WindowOver};
    let TargetPlan::Items { items } = planned else { return false };
    let any = |fates: &[crate::plan::ItemFate]| items.iter().any(|item| fates.contains(&item.fate));
    any(&[Initialized]) && any(&[Initialized, Canceled, Failed, NotEligible, RegistryDown, WindowOver])
}

fn success(sim: &Sim, world: &World, refund: &Refund, net: &[&Entry], by_a_person: bool) {
    let id = refund.id().as_str();
    let books = crate::places::books_of(sim, refund);
    let refunds_of = |target: &str| {
        let is_of = |entry: &&Entry| Some(entry.books) == books && entry.effect.target == target;
        world.books.iter().filter(is_of).rfind(|entry| entry.effect.kind == "refund")
    };
    // Refunded by whom soever: that is what the provider shows, and what it is asked for.
    let anybodys = |target: &str| refunds_of(target).is_some();
    let is_there = match &refund.intent.target {
        Target::Sectigo(target) => anybodys(target.order_number()),
        Target::Namecom(target) => {
            let mut items = target.order_item_ids().iter().map(|item| anybodys(&item.to_string()));
            if refund.state == State::PartiallySucceeded { items.any(|is| is) } else { items.all(|is| is) }
        }
        Target::Debitsuccess(_) => !net.is_empty(),
    };
    if !is_there {
        sim.wrong(
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
            sim.wrong("no false success", format_args!("{id} says of item {}: {}", item.item_id, item.state.as_str()));
        }
        if let Some(told) = item.refunded_amount
            && Some(told.minor_units) != moved
        {
            sim.wrong("money equal", format_args!("{id} says {told} of item {}, the books {moved:?}", item.item_id));
        }
    }
    let Some(told) = refund.refunded_amount.map(|amount| amount.minor_units) else { return };
    let of_items: i64 = refund
        .items
        .iter()
        .filter(|item| item.state == ItemState::Succeeded)
        .filter_map(|item| amount_of(&item.item_id))
        .sum();
    let ours: i64 = net.iter().filter_map(|entry| entry.effect.amount_minor).sum();
    let is_namecom = matches!(refund.intent.target, Target::Namecom(_));
    let moved = if is_namecom { of_items } else { ours };
    // A person says what the books say, of the items or of all that went with them.
    if told != moved && !(by_a_person && told == ours) {
        sim.wrong("money equal", format_args!("{id} says {told}, and the books {moved}"));
    }
}

/// Attempts and wire requests are one to one, but for what a process did not live to send.
fn attempts(sim: &Sim, world: &World, refund: &Refund, events: &[EventRecord]) {
    let id = refund.id().as_str();
    let of_refund = || events.iter().filter(|event| event.refund.as_str() == id);
    let begun = of_refund().filter(|event| event.to == State::Dispatching).count();
    if begun != usize::try_from(refund.attempt_count).unwrap_or(0) {
        sim.wrong("attempts are events", format_args!("{id} has {} attempts, and {begun} began", refund.attempt_count));
    }
    let sent = world.wire.iter().filter(|sent| sent.moving && sent.refund.as_deref() == Some(id)).count();
    let interrupted = of_refund().filter(|event| event.kind == EventKind::Interrupted).count();
    let given_up = of_refund().filter(|event| event.note.contains("this one was not sent")).count();
    if sent > begun || begun - sent > interrupted + given_up {
        let told =
            format_args!("{id}: {begun} attempts, {sent} requests, {interrupted} interrupted, {given_up} given up")
                .to_string();
        sim.wrong("attempts are wire requests", format_args!("{told}"));
    }
}

/// What callers were told is true, and stays true.
fn told(sim: &Sim, history: &crate::history::History, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let stood = |id: &str, revision: u64| {
        events.iter().find(|event| event.refund.as_str() == id && event.revision == revision).map(|event| event.to)
    };
    for (id, revision, state) in &history.recorded {
        if stood(id, *revision) != Some(*state) {
            sim.wrong("acknowledged = durable", format_args!("{id} was recorded as {state} at {revision}"));
        }
    }
    let mut maybe: BTreeSet<&str> = BTreeSet::new();
    for call in &history.calls {
        match &call.told {
            Told::Refund(refund) => {
                maybe.insert(&call.id);
                if stood(&call.id, refund.revision) != Some(refund.state) {
                    let what = call.what;
                    sim.wrong(
                        "acknowledged = durable",
                        format_args!("{what} {} said {} at {}", call.id, refund.state, refund.revision),
                    );
                }
                let same = refunds.get(call.id.as_str()).is_some_and(|kept| Some(&kept.intent) == call.asked.as_ref());
                if call.asked.is_some() && !same {
                    sim.wrong("acknowledged = durable", format_args!("{} was created with other content", call.id));
                }
            }
            Told::Nothing => {
                maybe.insert(&call.id);
            }
            Told::Error(error) => {
                if !promises_nothing_recorded(error) {
                    maybe.insert(&call.id);
                }
                let kept = refunds.get(call.id.as_str());
                if let (EngineError::Ledger(LedgerError::RefundIdReused { .. }), Some(asked)) = (error, &call.asked)
                    && kept.is_none_or(|kept| kept.intent == *asked)
                {
                    sim.wrong("the same again is the same", format_args!("{} was refused as other content", call.id));
                }
            }
        }
    }
    for id in refunds.keys().filter(|id| !maybe.contains(*id)) {
        sim.wrong(
            "an error means nothing recorded",
            format_args!("{id} is there, and every caller was told that it is not"),
        );
    }
}

/// An error that the port would answer with an ErrorInfo.
fn promises_nothing_recorded(error: &EngineError) -> bool {
    !matches!(error, EngineError::Panicked | EngineError::Ledger(LedgerError::CommitFailed(_) | LedgerError::Cancelled))
}

/// The password, plain or inside HTTP Basic at whatever place it begins there.
pub(crate) fn tells_a_secret(text: &str) -> bool {
    [PASSWORD, "c4nary", "YzRuYXJ5", "M0bmFyeS", "NG5hcnkt"].iter().any(|secret| text.contains(secret))
}

fn secrets(sim: &Sim, history: &crate::history::History, refunds: &BTreeMap<&str, &Refund>, events: &[EventRecord]) {
    let told = history.calls.iter().filter_map(|call| match &call.told {
        Told::Error(error) => Some(error.to_string()),
        Told::Refund(..) | Told::Nothing => None,
    });
    let texts =
        refunds.values().map(|refund| format!("{refund:?}")).chain(events.iter().map(|event| event.note.clone()));
    if let Some(text) = texts.chain(told).find(|text| tells_a_secret(text)) {
        sim.wrong("no secret anywhere", format_args!("{text}"));
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
