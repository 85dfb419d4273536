//! The oracle compares the providers' books and journal, the ledger, and the answers to the
//! callers. Each check is one promise.
//!
//! ```text
//! books    what really happened         \
//! journal  what arrived over the wire    |  they agree, or a promise is broken
//! ledger   what the gateway has on disk  |
//! history  the answers to the callers   /
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use recoup::domain::event::EventKind;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{MoneyVerdict, State};
use recoup::proto::v1::resolve_refund_request::Resolution;
use simulators::request::Provider;
use simulators::{BookEntry, JournalEntry};

use crate::access::{self, Pause, Person};
use crate::callers::QUOTA_EXCEEDED;
use crate::history::{Answer, Call, Entry};
use crate::plans::Plan;
use crate::providers::ProviderRecords;
use crate::quiescence::Quiescent;
use crate::rows::{Attempt, Event, RefundRow, Rows, Unsent};
use crate::run::Figures;
use crate::support::demo_accounts::SECRETS;

/// Everything that is recorded at the end of a run.
#[derive(Clone)]
pub(crate) struct Evidence {
    pub(crate) plans: Vec<Plan>,
    pub(crate) history: Vec<Entry>,
    pub(crate) followed: Vec<proto::RefundEvent>,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) quiescent: Quiescent,
    pub(crate) records: ProviderRecords,
    pub(crate) ledger: Rows,
    /// How many events the ledger's own check of its chain has verified.
    pub(crate) verified: Result<u64, String>,
    /// The providers' clock showed the system's time throughout.
    pub(crate) clock_is_true: bool,
    /// The journal of each set of books.
    pub(crate) by_books: [Vec<JournalEntry>; 2],
    /// The endpoints of the second set of books.
    pub(crate) endpoints_of_other: Vec<String>,
    /// Some start did not have every account.
    pub(crate) account_was_removed: bool,
}

/// The evidence, indexed for the checks, and the violations found so far.
struct Checker<'a> {
    evidence: &'a Evidence,
    plans: HashMap<&'a str, &'a Plan>,
    refunds: HashMap<&'a str, &'a proto::Refund>,
    /// Requests that could move money, by refund; at Sectigo, where no request names its refund, by
    /// order.
    requests: HashMap<&'a str, Vec<&'a JournalEntry>>,
    violations: Vec<String>,
}

/// Makes every check, and counts.
pub(crate) fn judge(evidence: &Evidence, figures: &mut Figures) {
    figures.violations.extend(violations(evidence));
    count(evidence, figures);
}

/// Makes every check.
pub(crate) fn violations(evidence: &Evidence) -> Vec<String> {
    let mut checker = Checker::over(evidence);
    checker.the_evidence_is_complete();
    checker.at_most_one_effect_per_target();
    checker.outcomes_agree_with_the_books();
    checker.every_effect_is_known();
    checker.acknowledged_is_durable();
    checker.an_error_info_means_nothing_was_recorded();
    checker.answers_are_in_the_ledger();
    checker.the_followed_stream_has_no_gap();
    checker.intent_before_send();
    checker.resends_are_identical();
    checker.every_request_is_where_it_belongs();
    checker.moved_refunds_are_not_sent_again();
    checker.a_large_refund_has_a_second_owner();
    checker.the_daily_limit_holds();
    checker.a_paused_account_sends_nothing();
    checker.doubt_is_visible_and_counted_alike();
    checker.no_refund_is_in_progress();
    checker.the_chain_verifies();
    checker.violations
}

/// Targets and identifiers with more than one refund.
pub(crate) fn twice_refunded(books: &[BookEntry]) -> Vec<String> {
    let mut by_target: BTreeMap<(Provider, &str), i64> = BTreeMap::new();
    let mut by_identifier: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for BookEntry { provider, effect, .. } in books {
        *by_target.entry((*provider, &effect.target)).or_default() += match effect.kind.as_str() {
            "refund" => 1,
            // Not paid after all: it may be refunded again.
            "refund_rejected" => -1,
            _ => 0,
        };
        if let (Some(identifier), "refund") = (&effect.identifier, effect.kind.as_str()) {
            *by_identifier.entry((&effect.target, identifier)).or_default() += 1;
        }
    }
    let twice = by_target.into_iter().filter(|(_, times)| *times > 1);
    let twice = twice.map(|((provider, target), times)| format!("{provider:?} {target} was refunded {times} times"));
    let under_one = by_identifier.into_iter().filter(|(_, times)| *times > 1);
    let under_one =
        under_one.map(|((target, name), times)| format!("{target} was refunded {times} times under {name}"));
    twice.chain(under_one).map(|what| format!("at most one effect per target: {what}")).collect()
}

/// Secrets in files that must not contain any, and panics in a log.
pub(crate) fn secrets_in(folder: &Path, files: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let Ok(bytes) = fs::read(file) else { continue };
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let path = file.strip_prefix(folder).unwrap_or(file).display();
        for (name, secret) in SECRETS {
            if has(secret) {
                found.push(format!("no secret anywhere: {name} is in {path}"));
            }
        }
        if has("panicked") {
            found.push(format!("no panic: there is one in {path}"));
        }
    }
    found
}

/// Writes the evidence to files.
pub(crate) fn keep(evidence: &Evidence, folder: &Path) {
    let lines = |entries: &[&dyn Debug]| entries.iter().map(|entry| format!("{entry:?}\n")).collect::<String>();
    let books: Vec<&dyn Debug> = evidence.records.books.iter().map(|entry| entry as &dyn Debug).collect();
    let journal: Vec<&dyn Debug> = evidence.records.journal.iter().map(|entry| entry as &dyn Debug).collect();
    let refunds: Vec<&dyn Debug> = evidence.quiescent.refunds.iter().map(|refund| refund as &dyn Debug).collect();
    let plans: Vec<&dyn Debug> = evidence.plans.iter().map(|plan| plan as &dyn Debug).collect();
    for (name, entries) in [("books", books), ("journal", journal), ("refunds", refunds), ("plans", plans)] {
        fs::write(folder.join(format!("{name}.txt")), lines(&entries)).unwrap();
    }
}

fn count(evidence: &Evidence, figures: &mut Figures) {
    let Evidence { history, ledger, records, quiescent, .. } = evidence;
    let doubted = ledger.events.iter().filter(|event| event.to == State::InDoubt).map(|event| event.refund.as_str());
    figures.calls = history.len();
    figures.unknown_calls = history.iter().filter(|entry| matches!(entry.answer, Answer::Unknown(_))).count();
    figures.refunds = ledger.refunds.len();
    figures.attempts = ledger.attempts.values().map(Vec::len).sum();
    figures.requests = records.journal.iter().filter(|entry| entry.moves_money).count();
    figures.effects = records.books.iter().filter(|entry| entry.effect.kind == "refund").count();
    figures.doubts = doubted.collect::<HashSet<_>>().len();
    figures.resolved = history
        .iter()
        .filter(|entry| matches!((&entry.call, &entry.answer), (Call::Resolve { .. }, Answer::Ok(_))))
        .count();
    figures.moves = ledger.events.iter().filter(|event| event.kind == EventKind::Reassigned).count();
    let of_kind = |kind: EventKind| ledger.events.iter().filter(|event| event.kind == kind).count();
    (figures.approved, figures.rejected) = (of_kind(EventKind::Approved), of_kind(EventKind::Rejected));
    let is_over = |entry: &&Entry| matches!(&entry.answer, Answer::Refused { reason, .. } if reason == QUOTA_EXCEEDED);
    figures.over_the_limit = history.iter().filter(is_over).count();
    figures.pauses = evidence.pauses.len();
    figures.open = quiescent.listed_doubts.len();
    figures.sent_again = Checker::over(evidence).requests.values().filter(|requests| requests.len() > 1).count();
    for refund in ledger.refunds.values() {
        *figures.states.entry(name_of(refund.state).to_owned()).or_default() += 1;
    }
}

impl<'a> Checker<'a> {
    fn over(evidence: &'a Evidence) -> Checker<'a> {
        let plans: HashMap<&str, &Plan> = evidence.plans.iter().map(|plan| (plan.id.as_str(), plan)).collect();
        let refunds = evidence.quiescent.refunds.iter().map(|refund| (refund.refund_id.as_str(), refund)).collect();
        let mut requests: HashMap<&str, Vec<&JournalEntry>> = HashMap::new();
        for entry in evidence.records.journal.iter().filter(|entry| entry.moves_money) {
            let name = if entry.provider == Provider::Sectigo { &entry.target } else { &entry.identifier };
            requests.entry(name.as_deref().unwrap_or_default()).or_default().push(entry);
        }
        Checker { evidence, plans, refunds, requests, violations: Vec::new() }
    }

    fn violation(&mut self, promise: &str, what: impl Into<String>) {
        self.violations.push(format!("{promise}: {}", what.into()));
    }

    /// What was requested under this id.
    fn plan(&mut self, id: &str) -> Option<&'a Plan> {
        let plan = self.plans.get(id).copied();
        if plan.is_none() {
            self.violation("every refund was requested", format!("no caller requested {id}"));
        }
        plan
    }

    /// How often an effect of this kind happened to a part of a target, under the refund's
    /// identifier where the provider knows one.
    fn effects(&self, kind: &str, provider: Provider, part: &str, id: Option<&str>) -> usize {
        let fits = |effect: &simulators::request::Effect| {
            effect.kind == kind && effect.target == part && id.is_none_or(|id| effect.identifier.as_deref() == Some(id))
        };
        let books = self.evidence.records.books.iter();
        books.filter(|entry| entry.provider == provider && fits(&entry.effect)).count()
    }

    fn the_evidence_is_complete(&mut self) {
        let dropped = self.evidence.records.dropped;
        if dropped > 0 {
            self.violation(
                "the evidence is complete",
                format!("{dropped} entries of books or journal were dropped: shorten the runs"),
            );
        }
        let unexpected: Vec<_> = self.evidence.records.journal.iter().filter(|entry| entry.destructive).collect();
        if !unexpected.is_empty() {
            self.violation("nothing is destroyed", format!("{unexpected:?}"));
        }
    }

    fn at_most_one_effect_per_target(&mut self) {
        self.violations.extend(twice_refunded(&self.evidence.records.books));
    }

    /// No false failure, no false success, and equal amounts.
    fn outcomes_agree_with_the_books(&mut self) {
        // Without an identifier on the wire, all refunds of a target are judged together.
        let mut together: BTreeMap<String, EffectCount> = BTreeMap::new();
        for refund in &self.evidence.quiescent.refunds {
            let Some(plan) = self.plan(&refund.refund_id) else { continue };
            let mut refunded = 0;
            for (part, minor) in plan.parts() {
                let expected = expected_effects(refund, &part);
                if plan.provider == Provider::Sectigo {
                    let sum = together.entry(part).or_default();
                    sum.min += expected.min;
                    sum.max += expected.max;
                    continue;
                }
                let id = Some(refund.refund_id.as_str());
                let times = self.effects("refund", plan.provider, &part, id);
                let net = times.saturating_sub(self.effects("refund_rejected", plan.provider, &part, id));
                if net < expected.min {
                    self.violation("no false success", format!("{part} has {net} effects: {refund:?}"));
                }
                if net > expected.max {
                    self.violation("no false failure", format!("{part} has {net} effects: {refund:?}"));
                }
                if net > 0 {
                    refunded += minor.unwrap_or_default();
                    self.money_of(refund, plan, &part, minor);
                }
            }
            let recorded = refund.refunded_amount.as_ref().map(|money| money.minor_units);
            let is_done = matches!(refund.state(), State::Succeeded | State::PartiallySucceeded);
            if let (true, Some(recorded)) = (is_done && plan.provider != Provider::Sectigo, recorded)
                && recorded != refunded
            {
                self.violation("amounts are equal", format!("{refunded} was refunded: {refund:?}"));
            }
        }
        for (order, EffectCount { min, max }) in together {
            let times = self.effects("refund", Provider::Sectigo, &order, None);
            if times < min {
                self.violation("no false success", format!("order {order} has {times} effects, the ledger has {min}"));
            }
            if times > max {
                self.violation(
                    "no false failure",
                    format!("order {order} has {times} effects, the ledger has at most {max}"),
                );
            }
        }
    }

    fn money_of(&mut self, refund: &proto::Refund, plan: &Plan, part: &str, minor: Option<i64>) {
        let entries = self.evidence.records.books.iter().filter(|entry| {
            entry.provider == plan.provider && entry.effect.target == part && entry.effect.kind == "refund"
        });
        let amounts: Vec<Option<i64>> = entries.map(|entry| entry.effect.amount_minor).collect();
        if amounts.iter().any(|amount| *amount != minor) {
            self.violation("amounts are equal", format!("{part} got {amounts:?}: {refund:?}"));
        }
    }

    fn every_effect_is_known(&mut self) {
        let mut known: HashSet<(Provider, String)> = HashSet::new();
        for refund in &self.evidence.quiescent.refunds {
            let Some(plan) = self.plans.get(refund.refund_id.as_str()) else { continue };
            if refund.attempt_count > 0 {
                known.extend(plan.parts().into_iter().map(|(part, _)| (plan.provider, part)));
            }
        }
        for entry in &self.evidence.records.books {
            if !known.contains(&(entry.provider, entry.effect.target.clone())) {
                self.violation("every effect is known", format!("no refund in the ledger explains {entry:?}"));
            }
        }
    }

    fn acknowledged_is_durable(&mut self) {
        let mut latest: HashMap<&str, Vec<(&Entry, &crate::history::Seen)>> = HashMap::new();
        for entry in &self.evidence.history {
            for seen in entry.answer.seen() {
                latest.entry(&seen.id).or_default().push((entry, seen));
            }
        }
        for (id, all) in latest {
            let Some(refund) = self.refunds.get(id).copied() else {
                self.violation(
                    "acknowledged is durable",
                    format!("{id} is gone, and a caller saw it: {:?}", all.first()),
                );
                continue;
            };
            let mut newest_that_ended: Option<(&Entry, i64)> = None;
            for (entry, seen) in &all {
                if seen.revision > refund.revision || seen.created != refund.create_time {
                    self.violation(
                        "acknowledged is durable",
                        format!("{entry:?} was answered, and now it is {refund:?}"),
                    );
                }
                // Entries are in the order in which the calls ended.
                if let Some((before, revision)) = newest_that_ended
                    && before.ended < entry.began
                    && seen.revision < revision
                {
                    self.violation("revisions never go back", format!("{before:?} and then {entry:?}"));
                }
                if newest_that_ended.is_none_or(|(_, revision)| revision < seen.revision) {
                    newest_that_ended = Some((entry, seen.revision));
                }
                let acknowledged_before = all.iter().any(|(other, _)| other.ended < entry.began);
                if matches!(&entry.call, Call::Create(_)) && acknowledged_before && !seen.replayed {
                    self.violation("a known refund is replayed", format!("{entry:?}"));
                }
            }
        }
    }

    fn an_error_info_means_nothing_was_recorded(&mut self) {
        let mut all_refused: BTreeMap<&str, bool> = BTreeMap::new();
        for entry in &self.evidence.history {
            let Some(id) = entry.call.id() else { continue };
            match (&entry.call, &entry.answer) {
                (Call::Validate(_), _) => {
                    all_refused.insert(id, true);
                }
                (call, Answer::Refused { reason, conflicting }) if call.creates() => {
                    all_refused.entry(id).or_insert(true);
                    let conflicting = conflicting.as_deref().and_then(|name| name.strip_prefix("refunds/"));
                    if conflicting.is_some_and(|other| !self.refunds.contains_key(other)) {
                        self.violation("a refusal is true", format!("there is no {conflicting:?}: {entry:?}"));
                    }
                    let unexpected =
                        ["INVALID_REQUEST", "ACCOUNT_NOT_FOUND", "ACCOUNT_MISMATCH", "INTERNAL", "NOT_OFFERED"];
                    let is_removed = reason == "ACCOUNT_NOT_FOUND" && self.evidence.account_was_removed;
                    if unexpected.contains(&reason.as_str()) && !is_removed {
                        self.violation("a refusal is true", format!("nothing is wrong with the request: {entry:?}"));
                    }
                }
                (Call::Change(_), Answer::Ok(_)) => {
                    self.violation("other content is refused", format!("{entry:?}"));
                }
                (call, _) if call.creates() => {
                    all_refused.insert(id, false);
                }
                _ => {}
            }
        }
        for (id, _) in all_refused.into_iter().filter(|(_, refused)| *refused) {
            if let Some(refund) = self.refunds.get(id) {
                self.violation(
                    "an error with an ErrorInfo means that nothing was recorded",
                    format!("every call was refused, and {refund:?} is recorded"),
                );
            }
        }
    }

    /// Each state in an answer is in the history at that revision.
    fn answers_are_in_the_ledger(&mut self) {
        let events: HashMap<(&str, i64), &Event> =
            self.evidence.ledger.events.iter().map(|event| ((event.refund.as_str(), event.revision), event)).collect();
        for entry in &self.evidence.history {
            for seen in entry.answer.seen() {
                let recorded = events.get(&(seen.id.as_str(), seen.revision)).map(|event| event.to);
                if recorded != Some(seen.state) {
                    self.violation(
                        "an outcome is recorded before it is returned",
                        format!("{recorded:?} in {entry:?}"),
                    );
                }
                let should = matches!(seen.state, State::InDoubt | State::NeedsReview);
                if seen.has_doubt != should {
                    self.violation("doubt is visible", format!("{entry:?}"));
                }
            }
        }
    }

    fn the_followed_stream_has_no_gap(&mut self) {
        let followed = &self.evidence.followed;
        for (index, event) in followed.iter().enumerate() {
            let recorded = self.evidence.ledger.events.get(index);
            let is_the_same = recorded.is_some_and(|recorded| {
                recorded.sequence == event.sequence
                    && recorded.revision == event.revision
                    && event.refund.strip_prefix("refunds/") == Some(&recorded.refund)
                    && recorded.to == event.to_state()
                    && recorded.chain_hash == event.chain_hash
            });
            if !is_the_same {
                let what = format!("event {index} was streamed as {event:?} and is {recorded:?}");
                self.violation("the stream is the ledger", what);
                return;
            }
        }
    }

    /// No request without an attempt on disk, and none for an attempt that is recorded as not sent.
    fn intent_before_send(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
        let ledger = &self.evidence.ledger;
        for (id, attempts) in &ledger.attempts {
            let Some(plan) = self.plan(id) else { continue };
            let name = match &plan.target {
                crate::plans::Target::Order(number) => number.as_str(),
                _ => id,
            };
            by_name.entry(name).or_default().extend(attempts);
            let numbers: Vec<i64> = attempts.iter().map(|attempt| attempt.number).collect();
            if !numbers.iter().copied().eq(1..)
                && !numbers.iter().zip(1..).all(|(number, expected)| *number == expected)
            {
                self.violation("attempts are numbered", format!("{id}: {numbers:?}"));
            }
        }
        let requests = std::mem::take(&mut self.requests);
        for (name, requests) in &requests {
            let mut attempts = by_name.remove(name).unwrap_or_default();
            attempts.sort_by_key(|attempt| attempt.dispatched_micros);
            if requests.len() > attempts.len() {
                let what = format!("{name}: {} requests and {} attempts", requests.len(), attempts.len());
                self.violation("intent before send", what);
            }
            let unsent = attempts.iter().filter(|attempt| attempt.unsent == Unsent::NotSent).count();
            if requests.len() > attempts.len() - unsent {
                let what = format!(
                    "{name}: {} requests, and of {} attempts {unsent} are recorded as not sent: {attempts:?}",
                    requests.len(),
                    attempts.len()
                );
                self.violation("an attempt recorded as not sent was not sent", what);
            }
            if self.evidence.clock_is_true {
                for (request, attempt) in requests.iter().zip(&attempts) {
                    let arrived_micros = request.time.unix_timestamp_nanos() / 1000;
                    if arrived_micros < i128::from(attempt.dispatched_micros) {
                        self.violation("intent before send", format!("{request:?} arrived before {attempt:?}"));
                    }
                }
            }
        }
        self.requests = requests;
    }

    /// A resend has the same key and the same bytes. At Sectigo only what was not processed, or
    /// what the operator ordered, is sent again.
    fn resends_are_identical(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        for (name, all) in &requests {
            let Some((first, again)) = all.split_first() else { continue };
            for request in again {
                // The request contains the login, which may have been renamed.
                let is_same_login = request.username == first.username;
                let is_same = request.parameters.get() == first.parameters.get() || !is_same_login;
                if !is_same || request.path != first.path {
                    // Two refunds of one order may have two reasons, where the first was refused.
                    self.violation("a resend is identical", format!("{first:?} and {request:?}"));
                }
            }
            if first.provider == Provider::Sectigo && !again.is_empty() {
                self.sent_again_at_sectigo(name, all.len());
            }
        }
        self.requests = requests;
    }

    /// A request about a refund reaches only the books that the refund belongs to.
    fn every_request_is_where_it_belongs(&mut self) {
        let Evidence { by_books, endpoints_of_other, ledger, .. } = self.evidence;
        let mut of_order: HashMap<&str, Vec<&str>> = HashMap::new();
        for (id, endpoint) in &ledger.endpoints {
            let Some(plan) = self.plans.get(id.as_str()) else { continue };
            let name = match &plan.target {
                crate::plans::Target::Order(number) => number.as_str(),
                _ => id,
            };
            of_order.entry(name).or_default().push(endpoint);
        }
        let mut misplaced = Vec::new();
        for (books, journal) in by_books.iter().enumerate() {
            for entry in journal {
                let name = if entry.provider == Provider::Sectigo { &entry.target } else { &entry.identifier };
                let Some(endpoints) = name.as_deref().and_then(|name| of_order.get(name)) else { continue };
                let is_here = |endpoint: &&&str| endpoints_of_other.iter().any(|one| one == **endpoint) == (books == 1);
                if !endpoints.iter().any(|endpoint| is_here(&endpoint)) {
                    misplaced.push(format!("{entry:?} reached books {books}, and belongs to {endpoints:?}"));
                }
            }
        }
        for request in misplaced {
            self.violation("every request is where it belongs", request);
        }
    }

    /// After a refund that may have had an effect has moved, only the operator has it sent again.
    fn moved_refunds_are_not_sent_again(&mut self) {
        let mut moved: HashSet<&str> = HashSet::new();
        let mut again = Vec::new();
        for event in &self.evidence.ledger.events {
            match event.kind {
                EventKind::Reassigned if ![State::AwaitingApproval, State::Pending].contains(&event.to) => {
                    moved.insert(&event.refund);
                }
                EventKind::Dispatched if moved.contains(event.refund.as_str()) => again.push(event.refund.clone()),
                // Now it has an attempt that the operator ordered, and not only those at the
                // earlier place.
                EventKind::NotSent => {
                    moved.remove(event.refund.as_str());
                }
                _ => {}
            }
        }
        for id in again {
            self.violation("a refund that moved is not sent again", id);
        }
    }

    /// A large refund waits from the beginning, and is not attempted, nor does it have an effect,
    /// before another owner has approved it.
    fn a_large_refund_has_a_second_owner(&mut self) {
        let mut lacking: HashMap<&str, Person> = HashMap::new();
        let mut found = Vec::new();
        for event in &self.evidence.ledger.events {
            let id = event.refund.as_str();
            let person = event.actor.as_deref().and_then(Person::named);
            match event.kind {
                // The callers have other names where there is no access file.
                EventKind::Created => {
                    let is_large = self.plans.get(id).is_some_and(|plan| access::is_large(plan));
                    let Some(creator) = person.filter(|_| is_large) else { continue };
                    lacking.insert(id, creator);
                    if event.to != State::AwaitingApproval {
                        found.push(format!("{id} did not wait: {event:?}"));
                    }
                }
                EventKind::Approved => {
                    let is_other = |creator: &Person| person.is_some_and(|person| person.owner() != creator.owner());
                    if lacking.get(id).is_some_and(is_other) {
                        lacking.remove(id);
                    }
                }
                EventKind::Dispatched if lacking.contains_key(id) => {
                    found.push(format!("{id} was attempted: {event:?}"))
                }
                _ => {}
            }
        }
        for id in lacking.into_keys() {
            let Some(plan) = self.plans.get(id) else { continue };
            let times = |(part, _): &(String, _)| self.effects("refund", plan.provider, part, Some(id));
            if plan.parts().iter().map(times).sum::<usize>() > 0 {
                found.push(format!("{id} has an effect"));
            }
        }
        for what in found {
            self.violation("a large refund has a second owner", what);
        }
    }

    /// What the till has created and what neither failed nor was cancelled, at each creation.
    fn the_daily_limit_holds(&mut self) {
        let mut counted: HashMap<&str, i64> = HashMap::new();
        let mut over = None;
        for event in &self.evidence.ledger.events {
            let id = event.refund.as_str();
            if event.kind == EventKind::Created && event.actor.as_deref() == Some(Person::Till.name()) {
                counted.insert(id, self.plans.get(id).map_or(0, |plan| access::amount(plan)));
                let sum: i64 = counted.values().sum();
                if sum > access::DAILY_MAX_MINOR_UNITS {
                    over = over.or(Some(format!("with {id} it is {sum}")));
                }
            }
            if matches!(event.to, State::Failed | State::Cancelled) {
                counted.remove(id);
            }
        }
        if let Some(what) = over {
            self.violation("the daily limit holds", what);
        }
    }

    /// No attempt is recorded between the answer to PauseAccount and ResumeAccount.
    fn a_paused_account_sends_nothing(&mut self) {
        let mut found = Vec::new();
        for pause in &self.evidence.pauses {
            for (id, attempts) in &self.evidence.ledger.attempts {
                let is_there = self.plans.get(id.as_str()).is_some_and(|plan| plan.provider == pause.provider);
                let during = pause.after_micros + 1..pause.until_micros;
                let is_during = |attempt: &&Attempt| is_there && during.contains(&attempt.dispatched_micros);
                found
                    .extend(attempts.iter().filter(is_during).map(|attempt| format!("{id}: {attempt:?} in {pause:?}")));
            }
        }
        for what in found {
            self.violation("a paused account sends nothing", what);
        }
    }

    fn sent_again_at_sectigo(&mut self, order: &str, requests: usize) {
        let ledger = &self.evidence.ledger;
        let of_order = |id: &str| self.plans.get(id).is_some_and(|plan| plan.parts()[0].0 == order);
        let refunds: Vec<&str> = ledger.refunds.keys().map(String::as_str).filter(|id| of_order(id)).collect();
        let unprocessed = refunds.iter().flat_map(|id| ledger.attempts.get(*id).into_iter().flatten());
        let unprocessed = unprocessed.filter(|attempt| attempt.unsent == Unsent::NotProcessed).count();
        let ordered = self.evidence.history.iter().filter(
            |entry| matches!(&entry.call, Call::Resolve { id, resolution: Resolution::SendAgain } if refunds.contains(&id.as_str())),
        );
        let allowed = refunds.len() + unprocessed + ordered.count();
        if requests > allowed {
            let what = format!("order {order}: {requests} requests, {allowed} allowed for {refunds:?}");
            self.violation("Sectigo is never sent again", what);
        }
    }

    fn doubt_is_visible_and_counted_alike(&mut self) {
        let in_doubt = |state: State| matches!(state, State::InDoubt | State::NeedsReview);
        for refund in &self.evidence.quiescent.refunds {
            let verdict = match refund.state() {
                State::Unspecified => MoneyVerdict::Unspecified,
                State::AwaitingApproval | State::Pending | State::Failed | State::Cancelled => MoneyVerdict::NotMoved,
                State::Succeeded | State::PartiallySucceeded => MoneyVerdict::Moved,
                State::Dispatching | State::Submitted | State::InDoubt | State::NeedsReview => {
                    MoneyVerdict::MayHaveMoved
                }
            };
            if in_doubt(refund.state()) != refund.doubt.is_some() || refund.money_verdict() != verdict {
                self.violation("doubt is visible", format!("{refund:?}"));
            }
            let row = self.evidence.ledger.refunds.get(&refund.refund_id);
            if row.is_none_or(|row| row.state != refund.state()) {
                self.violation("the API and the file agree", format!("{row:?} and {refund:?}"));
            }
        }
        let of_all = self.evidence.quiescent.refunds.iter().filter(|refund| in_doubt(refund.state())).count();
        let listed = self.evidence.quiescent.listed_doubts.len();
        let rows = self.evidence.ledger.refunds.values().filter(|row| in_doubt(row.state)).count();
        if of_all != listed || rows != listed {
            let what = format!("{listed} are listed, {of_all} are among all, {rows} on disk");
            self.violation("doubt is counted alike everywhere", what);
        }
        if self.evidence.quiescent.refunds.len() != self.evidence.ledger.refunds.len() {
            let what = format!("{} and {}", self.evidence.quiescent.refunds.len(), self.evidence.ledger.refunds.len());
            self.violation("the API and the file agree", what);
        }
    }

    fn no_refund_is_in_progress(&mut self) {
        let ledger = &self.evidence.ledger;
        let in_progress = |row: &RefundRow| matches!(row.state, State::Pending | State::Dispatching);
        let in_progress: Vec<_> = ledger.refunds.iter().filter(|(_, row)| in_progress(row)).map(|(id, _)| id).collect();
        let open = ledger.attempts.iter().filter(|(_, attempts)| attempts.iter().any(|attempt| !attempt.ended));
        let open: Vec<_> = open.map(|(id, _)| id).collect();
        if !in_progress.is_empty() {
            self.violation("no refund is in progress", format!("{in_progress:?}"));
        }
        if !open.is_empty() {
            self.violation("every attempt has ended", format!("{open:?}"));
        }
    }

    fn the_chain_verifies(&mut self) {
        let events = self.evidence.ledger.events.len() as u64;
        if self.evidence.verified.as_ref() != Ok(&events) {
            let what = format!("{:?}, and the table has {events} events", self.evidence.verified);
            self.violation("the chain verifies", what);
        }
        let mut revisions: HashMap<&str, i64> = HashMap::new();
        for event in &self.evidence.ledger.events {
            *revisions.entry(&event.refund).or_default() = event.revision;
        }
        let unexpected: Vec<_> = self
            .evidence
            .ledger
            .refunds
            .iter()
            .filter(|(id, row)| revisions.get(id.as_str()) != Some(&row.revision))
            .map(|(id, _)| id.clone())
            .collect();
        if !unexpected.is_empty() {
            self.violation("a refund agrees with its history", format!("{unexpected:?}"));
        }
    }
}

/// How many effects a part of a target may have.
#[derive(Debug, Clone, Copy, Default)]
struct EffectCount {
    min: usize,
    max: usize,
}

/// How many effects a part of a target may have, by the state of its refund.
fn expected_effects(refund: &proto::Refund, part: &str) -> EffectCount {
    let (min, max) = match refund.state() {
        State::Succeeded | State::Submitted => (1, 1),
        State::PartiallySucceeded => {
            let item = refund.items.iter().find(|item| item.item_id == part);
            match item.map(proto::ItemResult::state) {
                Some(proto::item_result::State::Succeeded) => (1, 1),
                _ => (0, 0),
            }
        }
        State::InDoubt | State::NeedsReview | State::Dispatching => (0, 1),
        State::AwaitingApproval | State::Failed | State::Cancelled | State::Pending | State::Unspecified => (0, 0),
    };
    EffectCount { min, max }
}

/// A state's name in the ledger.
fn name_of(state: State) -> &'static str {
    state.as_str_name().trim_start_matches("STATE_")
}
