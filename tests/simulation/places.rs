//! The oracle about places: what the configuration of each start means for refunds that were
//! recorded under another one.
//!
//! Asked at each send and each lookup, whenever events are on the disk, and at rest.

use std::collections::{BTreeMap, BTreeSet};

use recoup::domain::event::{Event, EventKind, Observation, RecordSeen};
use recoup::domain::history::EventRecord;
use recoup::domain::place::Destination;
use recoup::domain::refund::Refund;
use recoup::domain::state::State;
use recoup::ledger::sqlite::SqliteLedger;
use recoup::ledger::{GATEWAY, Ledger, ListQuery};

use crate::oracle::{SLACK, was_proven_absent};
use crate::plan::Who;
use crate::run::{PENDING_LIMIT, settle_time};
use crate::setups::{Configured, Spot};
use crate::sim::{Sim, lock, micros};
use crate::world::{Sent, World};

/// One start of the gateway.
pub(crate) struct Start {
    at: i64,
    configured: Vec<Configured>,
    /// Where refunds belonged when it began.
    stood: BTreeMap<String, (Destination, State)>,
    /// How long the history was then.
    events: u64,
    /// It came to take calls.
    started: bool,
}

/// Where one refund belonged, from which event on.
type Course<'a> = Vec<(u64, &'a Destination)>;

impl Start {
    fn account(&self, at: &Destination) -> Option<&Configured> {
        self.configured.iter().find(|one| one.at == *at)
    }
}

/// Before anything is written.
pub(crate) async fn note_start(sim: &Sim, ledger: &SqliteLedger, configured: &[Configured]) {
    let all = ledger.list(ListQuery { limit: 1_000, ..ListQuery::default() }).await.unwrap_or_default();
    let stood = all.into_iter().map(|listed| listed.refund);
    let stood = stood.map(|refund| (refund.id().as_str().to_owned(), (refund.destination(), refund.state)));
    let start = Start {
        at: sim.now(),
        configured: configured.to_vec(),
        stood: stood.collect(),
        events: *ledger.committed().borrow(),
        started: false,
    };
    for one in configured {
        let former: Vec<Spot> = one.former.iter().map(|(_, spot)| *spot).collect();
        sim.trace(format_args!("account {} is at {:?}, former {former:?}", one.at.account, one.spot));
    }
    let mut starts = lock(&sim.starts);
    let places = |start: &Start| start.configured.iter().map(|one| (one.at.clone(), one.spot)).collect::<Vec<_>>();
    if starts.last().is_some_and(|last| places(last) != places(&start)) {
        sim.count(|figures| figures.changes += 1);
    }
    starts.push(start);
}

/// It takes calls.
pub(crate) fn note_started(sim: &Sim) {
    if let Some(start) = lock(&sim.starts).last_mut() {
        start.started = true;
    }
}

/// From now on it waits to be sent, where it is.
pub(crate) fn note_wait(sim: &Sim, refund: &Refund) {
    lock(&sim.history).pending_since.insert(refund.id().as_str().to_owned(), sim.now());
}

/// Asked as a call that may move money leaves for `at`.
pub(crate) fn judge_place(sim: &Sim, wire: &[Sent], sent: &Sent, refund: Option<&Refund>, at: &Destination) {
    let Some(refund) = refund else { return };
    let id = refund.id().as_str();
    if refund.destination() != *at {
        sim.wrong(
            "sent where it belongs",
            format_args!("{id} belongs to {:?} and left for {at:?}", refund.destination()),
        );
    }
    let by_a_person = lock(&sim.history).sent_by_a_person.iter().filter(|of| *of == id).count();
    let unanswered = wire.iter().filter(|one| one.moving && one.refund.as_deref() == Some(id) && !one.not_processed);
    let is_here = |one: &&Sent| (one.spot.host, one.spot.login) == (sent.spot.host, sent.spot.login);
    let (here, elsewhere): (Vec<&Sent>, Vec<&Sent>) = unanswered.partition(is_here);
    if !elsewhere.is_empty() && by_a_person == 0 {
        sim.wrong(
            "never again after a move",
            format_args!("{id} left for {:?}, and before for {:?}", sent.spot, elsewhere[0].spot),
        );
    }
    let renewed = here.iter().rev().find(|one| one.spot.token != sent.spot.token);
    if let Some(renewed) = renewed
        && by_a_person == 0
        && !was_proven_absent(wire, renewed, sent)
    {
        sim.wrong("a key dies with its token", format_args!("{id} left again under another token"));
    }
}

/// Asked when events are on the disk.
pub(crate) fn judge_events(sim: &Sim, before: &Refund, after: &Refund, events: &[Event]) {
    let id = after.id().as_str();
    for event in events {
        match event {
            Event::Expired => judge_expiry(sim, after),
            Event::Corrected { .. } => judge_correction(sim, after),
            Event::Dispatched { .. } if before.state == State::InDoubt => judge_absences(sim, after, "sent again"),
            Event::Escalated { .. } if before.state == State::Submitted && shows_nothing(sim, after) => {
                judge_absences(sim, after, "left to a person");
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
        if matches!(event, Event::NotSent { .. }) {
            history.pending_since.entry(id.to_owned()).or_insert(sim.now());
        }
    }
}

/// What waits for its account is not given up, and the time that it has waited so does not count.
fn judge_expiry(sim: &Sim, refund: &Refund) {
    let id = refund.id().as_str();
    let at = refund.destination();
    let starts = lock(&sim.starts);
    if starts.last().is_none_or(|start| start.account(&at).is_none()) {
        sim.wrong("what waits for its account does not expire", format_args!("{id} is at {at:?}"));
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
    if waited + sim.forward()[1] + SLACK < micros(PENDING_LIMIT) {
        sim.wrong(
            "what waits for its account does not expire",
            format_args!("{id} had waited for {} s of its account's own time", waited / 1_000_000),
        );
    }
}

/// What is corrected stands in the books that it belongs to.
fn judge_correction(sim: &Sim, refund: &Refund) {
    let world = lock(&sim.world);
    let books = books_of(sim, refund);
    let who = who_of(refund);
    let mut targets = refund.intent.target.item_ids();
    targets.extend(refund.intent.target.references());
    let is_there = world.books.iter().any(|entry| {
        entry.who == who
            && Some(entry.books) == books
            && entry.effect.kind == "refund"
            && targets.contains(&entry.effect.target)
    });
    if !is_there {
        sim.wrong("no false correction", format_args!("the books show nothing of {}", refund.id().as_str()));
    }
}

/// Two lookups a settle time apart, and none between them that showed the refund.
fn judge_absences(sim: &Sim, refund: &Refund, what: &str) {
    if who_of(refund) != Who::Debitsuccess {
        return;
    }
    let since = lock(&sim.history).absent_since.get(refund.id().as_str()).copied();
    let apart = since.map_or(0, |since| sim.now() - since + sim.plan.set_forward_s() * 1_000_000);
    if apart < micros(settle_time(Who::Debitsuccess)) - SLACK {
        sim.wrong(
            "absent twice in a row",
            format_args!("{} was {what}, and had been absent for {} s", refund.id().as_str(), apart / 1_000_000),
        );
    }
}

/// Whether the last lookup that was answered showed no record.
fn shows_nothing(sim: &Sim, refund: &Refund) -> bool {
    let target = crate::oracle::target_of(&refund.intent);
    let world = lock(&sim.world);
    let looks = world.wire.iter().filter(|one| !one.moving && one.who == who_of(refund) && one.target == target);
    looks.filter(|one| one.answered > 0).max_by_key(|one| one.answered).is_some_and(|one| one.shows_nothing)
}

fn who_of(refund: &Refund) -> Who {
    Who::ALL[Who::ALL.iter().position(|who| who.provider() == refund.provider()).unwrap()]
}

/// The books that a refund belongs to.
pub(crate) fn books_of(sim: &Sim, refund: &Refund) -> Option<u8> {
    Spot::of(who_of(refund), &refund.place).map(|spot| sim.plan.behind.books(spot))
}

/// Whether the account that a refund belongs to is configured now.
pub(crate) fn is_configured(sim: &Sim, refund: &Refund) -> bool {
    lock(&sim.starts).last().is_some_and(|start| start.account(&refund.destination()).is_some())
}

/// The configured accounts where a refund may honestly go on: the same books.
pub(crate) fn same_books(sim: &Sim, refund: &Refund) -> Vec<Destination> {
    let starts = lock(&sim.starts);
    let configured = starts.last().map(|start| start.configured.as_slice()).unwrap_or_default();
    let is_same = |one: &&Configured| {
        let books = sim.plan.behind.books(one.spot);
        one.spot.who == who_of(refund)
            && Some(books) == books_of(sim, refund)
            && one.at.place.currency == refund.place.currency
    };
    configured.iter().filter(is_same).map(|one| one.at.clone()).collect()
}

/// Asked at rest.
pub(crate) async fn judge(sim: &Sim, refunds: &[Refund]) {
    let Some(ledger) = sim.ledger() else { return };
    let Ok(events) = ledger.events_after(0, 1_000_000).await else { return };
    let starts = lock(&sim.starts);
    let courses: BTreeMap<&str, Course<'_>> =
        refunds.iter().map(|refund| (refund.id().as_str(), Course::new())).collect();
    let finals: BTreeMap<&str, Destination> =
        refunds.iter().map(|refund| (refund.id().as_str(), refund.destination())).collect();
    let courses = courses_of(sim, &starts, &events, refunds, &finals, courses);
    moves(sim, &starts, &events, &finals);
    reservations(sim, &starts, &events, refunds, &courses);
    effects(sim, &lock(&sim.world), refunds);
    let waited = |id: &str| {
        let waits = |start: &Start| {
            start.stood.get(id).is_some_and(|(at, state)| !state.is_terminal() && start.account(at).is_none())
        };
        starts.iter().any(waits)
    };
    sim.count(|figures| {
        figures.waits += refunds.iter().filter(|refund| waited(refund.id().as_str())).count() as u64;
        figures.moves += events.iter().filter(|event| event.kind == EventKind::Reassigned).count() as u64;
        figures.corrections += events.iter().filter(|event| event.kind == EventKind::Corrected).count() as u64;
    });
}

/// During which start an event was recorded.
fn start_of<'a>(starts: &'a [Start], event: &EventRecord) -> Option<(&'a Start, Option<&'a Start>)> {
    let number = starts.iter().rposition(|start| start.events < event.sequence)?;
    Some((&starts[number], starts.get(number + 1)))
}

fn courses_of<'a>(
    sim: &Sim,
    starts: &'a [Start],
    events: &'a [EventRecord],
    refunds: &'a [Refund],
    finals: &'a BTreeMap<&str, Destination>,
    mut courses: BTreeMap<&'a str, Course<'a>>,
) -> BTreeMap<&'a str, Course<'a>> {
    for event in events.iter().filter(|event| [EventKind::Created, EventKind::Reassigned].contains(&event.kind)) {
        let id = event.refund.as_str();
        let Some((start, next)) = start_of(starts, event) else { continue };
        let Some(refund) = refunds.iter().find(|refund| refund.id() == &event.refund) else { continue };
        let at = match event.kind {
            EventKind::Created => {
                start.configured.iter().find(|one| one.at.account == refund.intent.account).map(|one| &one.at)
            }
            _ => next.map_or_else(|| finals.get(id), |next| next.stood.get(id).map(|(at, _)| at)),
        };
        match (at, courses.get_mut(id)) {
            (Some(at), Some(course)) => course.push((event.sequence, at)),
            _ => sim.wrong("recorded where it belongs", format_args!("{id} was recorded at no configured account")),
        }
    }
    courses
}

/// A refund goes on elsewhere only by its own event, once for each move, and only where both places
/// have the same books.
fn moves(sim: &Sim, starts: &[Start], events: &[EventRecord], finals: &BTreeMap<&str, Destination>) {
    for (number, start) in starts.iter().enumerate() {
        let next = starts.get(number + 1);
        let last = next.map_or(u64::MAX, |next| next.events);
        let after = |id: &str| match next {
            Some(next) => next.stood.get(id).map(|(at, _)| at),
            None => finals.get(id),
        };
        for (id, (before, state)) in &start.stood {
            let Some(after) = after(id) else { continue };
            let told: Vec<&EventRecord> = events
                .iter()
                .filter(|event| event.kind == EventKind::Reassigned && event.refund.as_str() == id)
                .filter(|event| (start.events + 1..=last).contains(&event.sequence))
                .collect();
            if told.len() != usize::from(before != after) {
                sim.wrong(
                    "one event for each move",
                    format_args!("{id} went from {before:?} to {after:?} with {} events", told.len()),
                );
            }
            let Some(event) = told.first() else { continue };
            if state.is_terminal() {
                sim.wrong("one event for each move", format_args!("{id} was {state}, and went on elsewhere"));
            }
            let account = start.account(after);
            let spots = Who::ALL.iter().find_map(|who| Some((Spot::of(*who, &before.place)?, account?.spot)));
            let Some((from, to)) = spots else {
                sim.wrong("moved to where its account is", format_args!("{id} went from {before:?} to {after:?}"));
                continue;
            };
            let is_same = from.who == to.who && sim.plan.behind.books(from) == sim.plan.behind.books(to);
            let is_former = account.is_some_and(|account| {
                let is_from = |spot: &Spot| (spot.host, spot.login) == (from.host, from.login);
                account.at.account == before.account && account.former.iter().any(|(_, spot)| is_from(spot))
            });
            if !is_same || (event.actor == GATEWAY && !is_former) {
                sim.wrong(
                    "moved only where somebody said so",
                    format_args!("{} moved {id} from {from:?} to {to:?}", event.actor),
                );
            }
        }
    }
}

/// While one refund of an order or item may have an effect, there is no other, under whichever
/// login that is known to have the same books.
fn reservations(
    sim: &Sim,
    starts: &[Start],
    events: &[EventRecord],
    refunds: &[Refund],
    courses: &BTreeMap<&str, Course<'_>>,
) {
    let by_id: BTreeMap<&str, &Refund> = refunds.iter().map(|refund| (refund.id().as_str(), refund)).collect();
    let mut states: BTreeMap<&str, State> = BTreeMap::new();
    let mut corrected: BTreeSet<&str> = BTreeSet::new();
    let mut links: Vec<(&str, &str)> = Vec::new();
    for event in events {
        let id = event.refund.as_str();
        let (Some(refund), Some(course)) = (by_id.get(id), courses.get(id)) else { continue };
        if matches!(event.kind, EventKind::Created | EventKind::Reassigned)
            && let Some((_, at)) = course.iter().rev().find(|(sequence, _)| *sequence <= event.sequence)
        {
            let mut logins: BTreeSet<&str> = BTreeSet::from([at.place.login.as_str()]);
            let account = start_of(starts, event).and_then(|(start, _)| start.account(at));
            let former: Vec<String> = account
                .map(|account| account.former.iter().map(|(_, spot)| spot.place().login).collect())
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
                let (Some(holder), Some(places)) = (by_id.get(other), courses.get(other)) else { continue };
                let was_at = places.iter().any(|(sequence, place)| {
                    *sequence <= event.sequence && logins.contains(place.place.login.as_str())
                });
                let held = held_keys(holder, *state, corrected.contains(other), event);
                if was_at && held.iter().any(|key| wanted.contains(key)) {
                    sim.wrong(
                        "reserved",
                        format_args!("{id} was {} while {other} held the same target", event.kind.as_str()),
                    );
                }
            }
            let before = course.iter().rev().find(|(sequence, _)| *sequence < event.sequence);
            if let Some((_, before)) = before {
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

/// What a refund keeps from all others, as it stood when `event` was recorded. The refund itself
/// tells what became of single items: a terminal state has not changed since.
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

/// Each effect is in the books that its refund belongs to.
fn effects(sim: &Sim, world: &World, refunds: &[Refund]) {
    for entry in &world.books {
        let Some(id) = crate::oracle::owner(world, entry) else { continue };
        let Some(refund) = refunds.iter().find(|refund| refund.id().as_str() == id) else { continue };
        if books_of(sim, refund) != Some(entry.books) {
            sim.wrong(
                "every effect where it belongs",
                format_args!("{id} belongs to {:?}, and its effect is in books {}", refund.place, entry.books),
            );
        }
    }
}
