//! Is the oracle awake? Each lie is told into a copy of the evidence, and it must be heard.

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::request::Provider;
use simulators::{BookEntry, JournalEntry};

use crate::history::{Answer, Call};
use crate::oracle::{self, Evidence};

/// Changes the evidence so that a promise is broken; false where the run had nothing that the lie
/// could be about.
type Lie = fn(&mut Evidence) -> bool;

/// Each with the line of the promise that it breaks.
const LIES: [(&str, &str, Lie); 16] = [
    ("a refund is done twice", "at most one effect per target", |evidence| {
        let again = evidence.truth.books.iter().find(|entry| is_refund(entry)).cloned();
        evidence.truth.books.extend(again.clone());
        again.is_some()
    }),
    ("an effect that the ledger calls done never happened", "no false success", |evidence| {
        let done = one_that_succeeded(evidence);
        forget(evidence, &done)
    }),
    ("a refund is called failed that happened", "no false failure", |evidence| {
        let done = one_that_succeeded(evidence);
        restate(evidence, &done, State::Failed)
    }),
    ("nobody in the ledger knows of an effect", "every effect is known", |evidence| {
        let mut strange = evidence.truth.books.iter().find(|entry| is_refund(entry)).cloned();
        strange.iter_mut().for_each(|entry| "1".clone_into(&mut entry.effect.target));
        evidence.truth.books.extend(strange.clone());
        strange.is_some()
    }),
    ("another amount is given back", "money is equal", |evidence| {
        let done: Vec<String> = succeeded(evidence).collect();
        let effects = evidence.truth.books.iter_mut().map(|entry| &mut entry.effect);
        let known = |identifier: &Option<String>| identifier.as_ref().is_some_and(|id| done.contains(id));
        let amount = effects.filter(|effect| known(&effect.identifier)).find_map(|effect| effect.amount_minor.as_mut());
        amount.map(|amount| *amount += 1).is_some()
    }),
    ("an acknowledged refund is gone", "acknowledged is durable", |evidence| {
        let Some(refund) = evidence.at_rest.refunds.pop() else { return false };
        evidence.ledger.refunds.remove(&refund.refund_id);
        evidence.history.iter().any(|entry| entry.answer.seen().iter().any(|seen| seen.id == refund.refund_id))
    }),
    ("a state was told that nobody recorded", "the outcome is recorded before it is told", |evidence| {
        let seen = evidence.history.iter_mut().find_map(|entry| match &mut entry.answer {
            Answer::Ok(seen) => seen.first_mut(),
            _ => None,
        });
        seen.map(|seen| seen.state = State::Unspecified).is_some()
    }),
    ("a request left without an attempt on disk", "intent before send", |evidence| {
        let request = evidence.truth.journal.iter().find(|entry| entry.moves_money).cloned();
        // As often as it takes to outnumber the attempts.
        evidence.truth.journal.extend(std::iter::repeat_n(request.clone(), 20).flatten());
        request.is_some()
    }),
    ("a request is sent again with other content", "what is sent again is the same", |evidence| {
        let mut request = evidence.truth.journal.iter().find(|entry| entry.moves_money).cloned();
        request.iter_mut().for_each(|request| request.parameters = serde_json::value::RawValue::NULL.to_owned());
        evidence.truth.journal.extend(request.clone());
        request.is_some()
    }),
    ("a refused refund is there", "an error with an ErrorInfo", |evidence| {
        let Some(refund) = evidence.at_rest.refunds.first().cloned() else { return false };
        let about = |call: &Call| call.creates() && call.id() == Some(&refund.refund_id);
        for entry in evidence.history.iter_mut().filter(|entry| about(&entry.call)) {
            entry.answer = Answer::Refused { reason: "OVERLOADED".to_owned(), conflicting: None };
        }
        evidence.history.iter().any(|entry| about(&entry.call))
    }),
    ("the stream left an event out", "the stream is the ledger", |evidence| {
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
    ("an attempt never ended", "at rest every attempt has ended", |evidence| {
        let attempt = evidence.ledger.attempts.values_mut().flatten().next();
        attempt.map(|attempt| attempt.ended = false).is_some()
    }),
    ("a request went to other books", "every request is where it belongs", |evidence| {
        let of_usual = |entry: &JournalEntry| entry.moves_money && entry.provider != Provider::Sectigo;
        let request = evidence.by_books[0].iter().find(|entry| of_usual(entry)).cloned();
        evidence.by_books[1].extend(request.clone());
        request.is_some()
    }),
    ("what moved was sent again", "what moved is not sent again", |evidence| {
        let dispatched = evidence.ledger.events.iter().position(|event| event.kind == "dispatched");
        let Some(place) = dispatched else { return false };
        let mut event = evidence.ledger.events[place].clone();
        (event.kind, event.to) = ("reassigned".to_owned(), "IN_DOUBT".to_owned());
        evidence.ledger.events.insert(place, event);
        true
    }),
    ("an event is missing from the chain", "the chain verifies", |evidence| evidence.ledger.events.pop().is_some()),
];

/// The lies that the oracle did not hear.
pub(crate) fn asleep(evidence: &Evidence) -> Vec<String> {
    let about = |evidence: &Evidence, line: &str| {
        oracle::violations(evidence).iter().filter(|violation| violation.starts_with(line)).count()
    };
    let unheard = LIES.iter().filter(|(_, line, lie)| {
        let mut told = evidence.clone();
        lie(&mut told) && about(&told, line) <= about(evidence, line)
    });
    unheard.map(|(what, ..)| format!("the oracle is awake: it did not see that {what}")).collect()
}

fn is_refund(entry: &BookEntry) -> bool {
    entry.effect.kind == "refund"
}

/// The refunds that were given back as asked.
fn succeeded(evidence: &Evidence) -> impl Iterator<Item = String> {
    let refunds = evidence.at_rest.refunds.iter();
    refunds.filter(|refund| refund.state() == State::Succeeded).map(|refund| refund.refund_id.clone())
}

/// One of them.
fn one_that_succeeded(evidence: &Evidence) -> String {
    succeeded(evidence).next().unwrap_or_default()
}

fn forget(evidence: &mut Evidence, id: &str) -> bool {
    let Some(plan) = evidence.plans.iter().find(|plan| plan.id == id) else { return false };
    let part = plan.parts()[0].0.clone();
    evidence.truth.books.retain(|entry| entry.effect.target != part);
    true
}

fn restate(evidence: &mut Evidence, id: &str, state: State) -> bool {
    let found: Option<&mut proto::Refund> = evidence.at_rest.refunds.iter_mut().find(|refund| refund.refund_id == id);
    found.map(|refund| refund.set_state(state)).is_some()
}
