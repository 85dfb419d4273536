//! The oracle about places: what the configuration of each start means for refunds that were
//! recorded under another configuration.
//!
//! It judges each send and each lookup, each batch of recorded events, and the whole run at
//! quiescence.

use std::collections::{BTreeMap, BTreeSet};

use recoup::domain::authority::GATEWAY;
use recoup::domain::event::{Event, EventKind, Observation, RecordSeen};
use recoup::domain::history::EventRecord;
use recoup::domain::place::Destination;
use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::ledger::sqlite::SqliteLedger;
use recoup::ledger::{Ledger, ListQuery};

use crate::oracle::{SLACK, was_proven_absent};
use crate::people;
use crate::plan::{PROVIDERS, ProviderKind};
use crate::run::{PENDING_LIMIT, settle_time};
use crate::setups::{ConfiguredAccount, Site};
use crate::sim::{Sim, lock, micros};
use crate::world::{SentRequest, World};

/// One start of the gateway.
pub(crate) struct Start {
    at: i64,
    configured: Vec<ConfiguredAccount>,
    /// Every refund when it began, by its id.
    refunds: BTreeMap<String, RefundAtStart>,
    /// The number of events when it began.
    events: u64,
    /// Whether the gateway got ready to take calls.
    started: bool,
}

/// A refund when a process started.
struct RefundAtStart {
    at: Destination,
    state: State,
}

/// Where one refund belonged over time, in the order of the events.
type Route<'a> = Vec<Stop<'a>>;

/// Where a refund belonged from an event on.
struct Stop<'a> {
    from_sequence: u64,
    at: &'a Destination,
}

impl Start {
    fn account(&self, at: &Destination) -> Option<&ConfiguredAccount> {
        self.configured.iter().find(|one| one.at == *at)
    }
}

/// Records a start, before the gateway writes anything.
pub(crate) async fn note_start(sim: &Sim, ledger: &SqliteLedger, configured: &[ConfiguredAccount]) {
    let all = ledger.list(ListQuery { limit: 1_000, ..ListQuery::default() }).await.unwrap_or_default();
    let refunds = all.into_iter().map(|listed| listed.refund).map(|refund| {
        (refund.id().as_str().to_owned(), RefundAtStart { at: refund.destination(), state: refund.state })
    });
    let start = Start {
        at: sim.now(),
        configured: configured.to_vec(),
        refunds: refunds.collect(),
        events: *ledger.committed().borrow(),
        started: false,
    };
    for one in configured {
        let former: Vec<Site> = one.former.iter().map(|former| former.site).collect();
        sim.trace(format_args!("account {} is at {:?}, former {former:?}", one.at.account, one.site));
    }
    let mut starts = lock(&sim.starts);
    let places = |start: &Start| start.configured.iter().map(|one| (one.at.clone(), one.site)).collect::<Vec<_>>();
    if starts.last().is_some_and(|last| places(last) != places(&start)) {
        sim.count(|figures| figures.changes += 1);
    }
    starts.push(start);
}

/// Records that the gateway takes calls.
pub(crate) fn note_started(sim: &Sim) {
    if let Some(start) = lock(&sim.starts).last_mut() {
        start.started = true;
    }
}

/// Records that a refund waits to be sent from now on, at its present account.
pub(crate) fn note_wait(sim: &Sim, refund: &Refund) {
    lock(&sim.history).pending_since.insert(refund.id().as_str().to_owned(), sim.now());
}

/// Judges a request that may move money, as it is sent to `at`.
pub(crate) fn judge_place(
    sim: &Sim,
    wire: &[SentRequest],
    sent: &SentRequest,
    refund: Option<&Refund>,
    at: &Destination,
) {
    let Some(refund) = refund else { return };
    let id = refund.id().as_str();
    if refund.destination() != *at {
        sim.violation(
            "sent where it belongs",
            format_args!("{id} belongs to {:?} and was sent to {at:?}", refund.destination()),
        );
    }
    let by_operator = lock(&sim.history).resends_by_operator.iter().filter(|of| *of == id).count();
    let unanswered =
        wire.iter().filter(|one| one.moves_money && one.refund.as_deref() == Some(id) && !one.not_processed);
    let is_here = |one: &&SentRequest| (one.site.host, one.site.login) == (sent.site.host, sent.site.login);
    let (here, elsewhere): (Vec<&SentRequest>, Vec<&SentRequest>) = unanswered.partition(is_here);
    if !elsewhere.is_empty() && by_operator == 0 {
        sim.violation(
            "never again after a move",
            format_args!("{id} was sent to {:?}, and before that to {:?}", sent.site, elsewhere[0].site),
        );
    }
    let renewed = here.iter().rev().find(|one| one.site.token != sent.site.token);
    if let Some(renewed) = renewed
        && by_operator == 0
        && !was_proven_absent(wire, renewed, sent)
    {
        sim.violation("a key expires with its token", format_args!("{id} was sent again under another token"));
    }
}

/// Judges events once they are on the disk.
pub(crate) fn judge_events(sim: &Sim, before: &Refund, after: &Refund, events: &[Event]) {
    let id = after.id().as_str();
    for event in events {
        match event {
            Event::Expired if before.state == State::AwaitingApproval => people::judge_expiry(sim, after),
            Event::Expired => judge_expiry(sim, after),
            Event::Approved { .. } => people::note_approval(sim, after),
            Event::Corrected { .. } => judge_correction(sim, after),
            Event::Dispatched { .. } if before.state == State::InDoubt => judge_absences(sim, after, "sent again"),
            Event::Escalated { .. } if before.state == State::Submitted && shows_nothing(sim, after) => {
                judge_absences(sim, after, "left to the operator");
            }
            _ => {}
        }
        let mut history = lock(&sim.history);
        match event {
            Event::Checked(Observation { record: RecordSeen::Absent, .. }) => {
                history.absent_since.entry(id.to_owned()).or_insert(sim.now());
            }
            Event::Checked(Observation { record: RecordSeen::Unanswered, .. }) => {}
            _ => {
                history.absent_since.remove(id);
            }
        }
        // Not processed without an error of the provider: the attempt was never sent.
        if matches!(event, Event::Doubted { not_processed: true, error: None, .. }) {
            *history.abandoned_attempts.entry(id.to_owned()).or_default() += 1;
        }
        if matches!(event, Event::NotSent { .. }) {
            history.pending_since.entry(id.to_owned()).or_insert(sim.now());
        }
    }
}

/// A refund that waits for its account does not expire, and that time does not count.
fn judge_expiry(sim: &Sim, refund: &Refund) {
    let id = refund.id().as_str();
    let at = refund.destination();
    let starts = lock(&sim.starts);
    if starts.last().is_none_or(|start| start.account(&at).is_none()) {
        sim.violation("a refund that waits for its account does not expire", format_args!("{id} is at {at:?}"));
    }
    let Some(since) = lock(&sim.history).pending_since.get(id).copied() else { return };
    let mut waited = 0;
    let mut is_configured = true;
    let ends = starts.iter().skip(1).map(|start| start.at).chain([sim.now()]);
    for (start, end) in starts.iter().zip(ends) {
        if start.started {
            is_configured = start.account(&at).is_some();
        }
        if is_configured {
            waited += (end - start.at.max(since)).max(0);
        }
    }
    if waited + sim.set_forward().max + SLACK < micros(PENDING_LIMIT) {
        sim.violation(
            "a refund that waits for its account does not expire",
            format_args!("{id} had waited for only {} s while its account was configured", waited / 1_000_000),
        );
    }
}

/// The books that a corrected refund belongs to show the refund.
fn judge_correction(sim: &Sim, refund: &Refund) {
    let world = lock(&sim.world);
    let books = books_of(sim, refund);
    let provider = refund.provider();
    let mut targets = refund.intent.target.item_ids();
    targets.extend(refund.intent.target.references());
    let is_there = world.books.iter().any(|entry| {
        entry.provider == provider
            && Some(entry.books) == books
            && entry.effect.kind == "refund"
            && targets.contains(&entry.effect.target)
    });
    if !is_there {
        sim.violation("no false correction", format_args!("the books show nothing of {}", refund.id().as_str()));
    }
}

/// Two lookups at least a settle time apart showed no record, and none between them showed one.
fn judge_absences(sim: &Sim, refund: &Refund, what: &str) {
    if refund.provider() != ProviderKind::Debitsuccess {
        return;
    }
    let since = lock(&sim.history).absent_since.get(refund.id().as_str()).copied();
    let apart = since.map_or(0, |since| sim.now() - since + sim.plan.set_forward_s() * 1_000_000);
    if apart < micros(settle_time(ProviderKind::Debitsuccess)) - SLACK {
        sim.violation(
            "absent twice in a row",
            format_args!("{} was {what}, and had been absent for {} s", refund.id().as_str(), apart / 1_000_000),
        );
    }
}

/// Whether the last lookup that was answered showed no record.
fn shows_nothing(sim: &Sim, refund: &Refund) -> bool {
    let target = crate::oracle::target_of(&refund.intent);
    let world = lock(&sim.world);
    let lookups =
        world.wire.iter().filter(|one| !one.moves_money && one.provider == refund.provider() && one.target == target);
    lookups.filter(|one| one.answered > 0).max_by_key(|one| one.answered).is_some_and(|one| one.shows_nothing)
}

/// The books that a refund belongs to.
pub(crate) fn books_of(sim: &Sim, refund: &Refund) -> Option<u8> {
    Site::of(refund.provider(), &refund.place).map(|site| sim.plan.shared_books.books(site))
}

/// Whether the account that a refund belongs to is configured now.
pub(crate) fn is_configured(sim: &Sim, refund: &Refund) -> bool {
    lock(&sim.starts).last().is_some_and(|start| start.account(&refund.destination()).is_some())
}

/// The configured accounts that a refund may be reassigned to: those with the same books.
pub(crate) fn same_books(sim: &Sim, refund: &Refund) -> Vec<Destination> {
    let starts = lock(&sim.starts);
    let configured = starts.last().map(|start| start.configured.as_slice()).unwrap_or_default();
    let is_same = |one: &&ConfiguredAccount| {
        let books = sim.plan.shared_books.books(one.site);
        one.site.provider == refund.provider()
            && Some(books) == books_of(sim, refund)
            && one.at.place.currency == refund.place.currency
    };
    configured.iter().filter(is_same).map(|one| one.at.clone()).collect()
}

/// Judges the whole run at quiescence.
pub(crate) async fn judge(sim: &Sim, refunds: &[Refund]) {
    let Some(ledger) = sim.ledger() else { return };
    let Ok(events) = ledger.events_after(0, 1_000_000).await else { return };
    let starts = lock(&sim.starts);
    let routes: BTreeMap<&str, Route<'_>> = refunds.iter().map(|refund| (refund.id().as_str(), Route::new())).collect();
    let finals: BTreeMap<&str, Destination> =
        refunds.iter().map(|refund| (refund.id().as_str(), refund.destination())).collect();
    let routes = routes_of(sim, &starts, &events, refunds, &finals, routes);
    moves(sim, &starts, &events, &finals);
    reservations(sim, &starts, &events, refunds, &routes);
    effects(sim, &lock(&sim.world), refunds);
    let waited = |id: &str| {
        let waits = |start: &Start| {
            start.refunds.get(id).is_some_and(|one| !one.state.is_terminal() && start.account(&one.at).is_none())
        };
        starts.iter().any(waits)
    };
    sim.count(|figures| {
        figures.waits += refunds.iter().filter(|refund| waited(refund.id().as_str())).count() as u64;
        figures.moves += events.iter().filter(|event| event.kind == EventKind::Reassigned).count() as u64;
        figures.corrections += events.iter().filter(|event| event.kind == EventKind::Corrected).count() as u64;
    });
}

/// The start during which an event was recorded, and the next one.
fn start_of<'a>(starts: &'a [Start], event: &EventRecord) -> Option<(&'a Start, Option<&'a Start>)> {
    let number = starts.iter().rposition(|start| start.events < event.sequence)?;
    Some((&starts[number], starts.get(number + 1)))
}

fn routes_of<'a>(
    sim: &Sim,
    starts: &'a [Start],
    events: &'a [EventRecord],
    refunds: &'a [Refund],
    finals: &'a BTreeMap<&str, Destination>,
    mut routes: BTreeMap<&'a str, Route<'a>>,
) -> BTreeMap<&'a str, Route<'a>> {
    for event in events.iter().filter(|event| [EventKind::Created, EventKind::Reassigned].contains(&event.kind)) {
        let id = event.refund.as_str();
        let Some((start, next)) = start_of(starts, event) else { continue };
        let Some(refund) = refunds.iter().find(|refund| refund.id() == &event.refund) else { continue };
        let at = match event.kind {
            EventKind::Created => {
                start.configured.iter().find(|one| one.at.account == refund.intent.account).map(|one| &one.at)
            }
            _ => next.map_or_else(|| finals.get(id), |next| next.refunds.get(id).map(|one| &one.at)),
        };
        match (at, routes.get_mut(id)) {
            (Some(at), Some(route)) => route.push(Stop { from_sequence: event.sequence, at }),
            _ => sim.violation("recorded where it belongs", format_args!("{id} was recorded at no configured account")),
        }
    }
    routes
}

/// A refund moves only by an event of its own, one for each move, and only where both places have
/// the same books.
fn moves(sim: &Sim, starts: &[Start], events: &[EventRecord], finals: &BTreeMap<&str, Destination>) {
    for (number, start) in starts.iter().enumerate() {
        let next = starts.get(number + 1);
        let last = next.map_or(u64::MAX, |next| next.events);
        let after = |id: &str| match next {
            Some(next) => next.refunds.get(id).map(|one| &one.at),
            None => finals.get(id),
        };
        for (id, RefundAtStart { at: before, state }) in &start.refunds {
            let Some(after) = after(id) else { continue };
            let moves: Vec<&EventRecord> = events
                .iter()
                .filter(|event| event.kind == EventKind::Reassigned && event.refund.as_str() == id)
                .filter(|event| (start.events + 1..=last).contains(&event.sequence))
                .collect();
            if moves.len() != usize::from(before != after) {
                sim.violation(
                    "one event for each move",
                    format_args!("{id} went from {before:?} to {after:?} with {} events", moves.len()),
                );
            }
            let Some(event) = moves.first() else { continue };
            if state.is_terminal() {
                sim.violation("one event for each move", format_args!("{id} was {state}, and moved"));
            }
            let account = start.account(after);
            let both = PROVIDERS.iter().find_map(|provider| Some((Site::of(*provider, &before.place)?, account?.site)));
            let Some((from, to)) = both else {
                sim.violation("moved to where its account is", format_args!("{id} went from {before:?} to {after:?}"));
                continue;
            };
            let is_same =
                from.provider == to.provider && sim.plan.shared_books.books(from) == sim.plan.shared_books.books(to);
            let is_former = account.is_some_and(|account| {
                let is_from = |site: &Site| (site.host, site.login) == (from.host, from.login);
                account.at.account == before.account && account.former.iter().any(|former| is_from(&former.site))
            });
            if !is_same || (event.actor.name == GATEWAY && !is_former) {
                sim.violation(
                    "moved only where the operator said so",
                    format_args!("{} moved {id} from {from:?} to {to:?}", event.actor.name),
                );
            }
        }
    }
}

/// While a refund of an order or item may have an effect, there is no other refund of it under any
/// login that is known to have the same books.
fn reservations(
    sim: &Sim,
    starts: &[Start],
    events: &[EventRecord],
    refunds: &[Refund],
    routes: &BTreeMap<&str, Route<'_>>,
) {
    let by_id: BTreeMap<&str, &Refund> = refunds.iter().map(|refund| (refund.id().as_str(), refund)).collect();
    let mut states: BTreeMap<&str, State> = BTreeMap::new();
    let mut corrected: BTreeSet<&str> = BTreeSet::new();
    let mut links: Vec<(&str, &str)> = Vec::new();
    for event in events {
        let id = event.refund.as_str();
        let (Some(refund), Some(route)) = (by_id.get(id), routes.get(id)) else { continue };
        if matches!(event.kind, EventKind::Created | EventKind::Reassigned)
            && let Some(Stop { at, .. }) = route.iter().rev().find(|stop| stop.from_sequence <= event.sequence)
        {
            let mut logins: BTreeSet<&str> = BTreeSet::from([at.place.login.as_str()]);
            let account = start_of(starts, event).and_then(|(start, _)| start.account(at));
            let former: Vec<String> = account
                .map(|account| account.former.iter().map(|former| former.site.place().login).collect())
                .unwrap_or_default();
            logins.extend(former.iter().map(String::as_str));
            loop {
                let linked = links.iter().filter(|(one, _)| logins.contains(one)).map(|(_, other)| *other);
                let more: Vec<&str> = linked.filter(|other| !logins.contains(other)).collect();
                if more.is_empty() {
                    break;
                }
                logins.extend(more);
            }
            let wanted = refund.intent.target.reservation_keys();
            for (other, state) in states.iter().filter(|(other, _)| **other != id) {
                let (Some(holder), Some(stops)) = (by_id.get(other), routes.get(other)) else { continue };
                let was_at = stops
                    .iter()
                    .any(|stop| stop.from_sequence <= event.sequence && logins.contains(stop.at.place.login.as_str()));
                let held = held_keys(holder, *state, corrected.contains(other), event);
                if was_at && held.iter().any(|key| wanted.contains(key)) {
                    sim.violation(
                        "reserved",
                        format_args!("{id} was {} while {other} held the same target", event.kind.as_str()),
                    );
                }
            }
            let before = route.iter().rev().find(|stop| stop.from_sequence < event.sequence);
            if let Some(Stop { at: before, .. }) = before {
                links.push((&before.place.login, &at.place.login));
                links.push((&at.place.login, &before.place.login));
            }
        }
        if event.kind == EventKind::Corrected {
            corrected.insert(id);
        }
        states.insert(id, event.to);
    }
}

/// The keys that a refund reserved when `event` was recorded. What happened to single items is in
/// the refund itself: a terminal state has not changed since.
fn held_keys(holder: &Refund, state: State, is_corrected: bool, event: &EventRecord) -> Vec<String> {
    match state {
        State::PartiallySucceeded | State::Failed => {
            let kept = holder.reservations().into_iter();
            let is_kept = |until: Option<_>| match until {
                None => state == State::PartiallySucceeded || is_corrected,
                Some(until) => until > event.time,
            };
            kept.filter(|kept| is_kept(kept.until)).map(|kept| kept.key).collect()
        }
        state if state.holds_target() => holder.intent.target.reservation_keys(),
        _ => Vec::new(),
    }
}

/// Every effect is in the books that its refund belongs to.
fn effects(sim: &Sim, world: &World, refunds: &[Refund]) {
    for entry in &world.books {
        let Some(id) = crate::oracle::owner(world, entry) else { continue };
        let Some(refund) = refunds.iter().find(|refund| refund.id().as_str() == id) else { continue };
        if books_of(sim, refund) != Some(entry.books) {
            sim.violation(
                "every effect where it belongs",
                format_args!("{id} belongs to {:?}, and its effect is in books {}", refund.place, entry.books),
            );
        }
    }
}
