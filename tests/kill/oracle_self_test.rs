//! A test of the oracle itself: it must detect each tampering with a copy of the evidence.

use recoup::domain::event::EventKind;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::request::Provider;
use simulators::{BookEntry, JournalEntry};

use crate::access::{self, Pause, Person};
use crate::history::{Answer, Call};
use crate::oracle::{self, Evidence};
use crate::run::PROVIDERS;

/// Changes the evidence so that it breaks a promise. False where the run has nothing to tamper
/// with.
type Tampering = fn(&mut Evidence) -> bool;

/// Each tampering, with the promise that it breaks.
const TAMPERINGS: [(&str, &str, Tampering); 19] = [
    ("a refund was done twice", "at most one effect per target", |evidence| {
        let again = evidence.records.books.iter().find(|entry| is_refund(entry)).cloned();
        evidence.records.books.extend(again.clone());
        again.is_some()
    }),
    ("a refund that is recorded as succeeded was never done", "no false success", |evidence| {
        let done = one_that_succeeded(evidence);
        forget(evidence, &done)
    }),
    ("a refund that was done is recorded as failed", "no false failure", |evidence| {
        let done = one_that_succeeded(evidence);
        restate(evidence, &done, State::Failed)
    }),
    ("no refund of the ledger explains an effect", "every effect is known", |evidence| {
        let mut unknown = evidence.records.books.iter().find(|entry| is_refund(entry)).cloned();
        unknown.iter_mut().for_each(|entry| "1".clone_into(&mut entry.effect.target));
        evidence.records.books.extend(unknown.clone());
        unknown.is_some()
    }),
    ("another amount was refunded", "amounts are equal", |evidence| {
        let done: Vec<String> = succeeded(evidence).collect();
        let effects = evidence.records.books.iter_mut().map(|entry| &mut entry.effect);
        let known = |identifier: &Option<String>| identifier.as_ref().is_some_and(|id| done.contains(id));
        let amount = effects.filter(|effect| known(&effect.identifier)).find_map(|effect| effect.amount_minor.as_mut());
        amount.map(|amount| *amount += 1).is_some()
    }),
    ("an acknowledged refund is gone", "acknowledged is durable", |evidence| {
        let Some(refund) = evidence.quiescent.refunds.pop() else { return false };
        evidence.ledger.refunds.remove(&refund.refund_id);
        evidence.history.iter().any(|entry| entry.answer.seen().iter().any(|seen| seen.id == refund.refund_id))
    }),
    ("a caller saw a state that is not recorded", "an outcome is recorded before it is returned", |evidence| {
        let seen = evidence.history.iter_mut().find_map(|entry| match &mut entry.answer {
            Answer::Ok(seen) => seen.first_mut(),
            _ => None,
        });
        seen.map(|seen| seen.state = State::Unspecified).is_some()
    }),
    ("a request left without an attempt on disk", "intent before send", |evidence| {
        let request = evidence.records.journal.iter().find(|entry| entry.moves_money).cloned();
        // Often enough to outnumber the attempts.
        evidence.records.journal.extend(std::iter::repeat_n(request.clone(), 20).flatten());
        request.is_some()
    }),
    ("a request is sent again with other content", "a resend is identical", |evidence| {
        let mut request = evidence.records.journal.iter().find(|entry| entry.moves_money).cloned();
        request.iter_mut().for_each(|request| request.parameters = serde_json::value::RawValue::NULL.to_owned());
        evidence.records.journal.extend(request.clone());
        request.is_some()
    }),
    ("a refused refund is recorded", "an error with an ErrorInfo", |evidence| {
        let Some(refund) = evidence.quiescent.refunds.first().cloned() else { return false };
        let about = |call: &Call| call.creates() && call.id() == Some(&refund.refund_id);
        for entry in evidence.history.iter_mut().filter(|entry| about(&entry.call)) {
            entry.answer = Answer::Refused { reason: "OVERLOADED".to_owned(), conflicting: None };
        }
        evidence.history.iter().any(|entry| about(&entry.call))
    }),
    ("the stream left out an event", "the stream is the ledger", |evidence| {
        let has_events = evidence.followed.len() > 1;
        if has_events {
            evidence.followed.remove(0);
        }
        has_events
    }),
    ("a doubt is not listed", "doubt is counted alike everywhere", |evidence| {
        let done = one_that_succeeded(evidence);
        restate(evidence, &done, State::InDoubt)
    }),
    ("an attempt never ended", "every attempt has ended", |evidence| {
        let attempt = evidence.ledger.attempts.values_mut().flatten().next();
        attempt.map(|attempt| attempt.ended = false).is_some()
    }),
    ("a request went to other books", "every request is where it belongs", |evidence| {
        let of_usual = |entry: &JournalEntry| entry.moves_money && entry.provider != Provider::Sectigo;
        let request = evidence.by_books[0].iter().find(|entry| of_usual(entry)).cloned();
        evidence.by_books[1].extend(request.clone());
        request.is_some()
    }),
    ("a refund that moved was sent again", "a refund that moved is not sent again", |evidence| {
        let dispatched = evidence.ledger.events.iter().position(|event| event.kind == EventKind::Dispatched);
        let Some(index) = dispatched else { return false };
        let mut event = evidence.ledger.events[index].clone();
        (event.kind, event.to) = (EventKind::Reassigned, State::InDoubt);
        evidence.ledger.events.insert(index, event);
        true
    }),
    ("the creator's owner approved", "a large refund has a second owner", |evidence| {
        let events = &mut evidence.ledger.events;
        let dispatched = events.iter().filter(|event| event.kind == EventKind::Dispatched);
        let dispatched: Vec<String> = dispatched.map(|event| event.refund.clone()).collect();
        let approvals = events.iter_mut().filter(|event| event.kind == EventKind::Approved);
        let approval = approvals.into_iter().find(|event| dispatched.contains(&event.refund));
        approval.map(|event| event.actor = Some(Person::Colleague.name().to_owned())).is_some()
    }),
    ("the limited caller created all refunds", "the daily limit holds", |evidence| {
        let succeeded: Vec<String> = succeeded(evidence).collect();
        let plans = evidence.plans.iter().filter(|plan| succeeded.contains(&plan.id));
        let sum: i64 = plans.map(access::amount).sum();
        for event in evidence.ledger.events.iter_mut().filter(|event| event.kind == EventKind::Created) {
            event.actor = Some(Person::Till.name().to_owned());
        }
        sum > access::DAILY_MAX_MINOR_UNITS
    }),
    ("an attempt began during a pause", "a paused account sends nothing", |evidence| {
        let pauses = PROVIDERS.map(|provider| Pause { provider, after_micros: 0, until_micros: i64::MAX });
        evidence.pauses.extend(pauses);
        evidence.ledger.attempts.values().flatten().next().is_some()
    }),
    ("an event is missing from the chain", "the chain verifies", |evidence| evidence.ledger.events.pop().is_some()),
];

/// The tamperings that the oracle did not detect.
pub(crate) fn undetected(evidence: &Evidence) -> Vec<String> {
    let count = |evidence: &Evidence, promise: &str| {
        oracle::violations(evidence).iter().filter(|violation| violation.starts_with(promise)).count()
    };
    let undetected = TAMPERINGS.iter().filter(|(_, promise, tamper)| {
        let mut tampered = evidence.clone();
        tamper(&mut tampered) && count(&tampered, promise) <= count(evidence, promise)
    });
    undetected.map(|(what, ..)| format!("the oracle detects tampering: it did not see that {what}")).collect()
}

fn is_refund(entry: &BookEntry) -> bool {
    entry.effect.kind == "refund"
}

/// The refunds that succeeded.
fn succeeded(evidence: &Evidence) -> impl Iterator<Item = String> {
    let refunds = evidence.quiescent.refunds.iter();
    refunds.filter(|refund| refund.state() == State::Succeeded).map(|refund| refund.refund_id.clone())
}

fn one_that_succeeded(evidence: &Evidence) -> String {
    succeeded(evidence).next().unwrap_or_default()
}

fn forget(evidence: &mut Evidence, id: &str) -> bool {
    let Some(plan) = evidence.plans.iter().find(|plan| plan.id == id) else { return false };
    let part = plan.parts()[0].0.clone();
    evidence.records.books.retain(|entry| entry.effect.target != part);
    true
}

fn restate(evidence: &mut Evidence, id: &str, state: State) -> bool {
    let found: Option<&mut proto::Refund> = evidence.quiescent.refunds.iter_mut().find(|refund| refund.refund_id == id);
    found.map(|refund| refund.set_state(state)).is_some()
}
