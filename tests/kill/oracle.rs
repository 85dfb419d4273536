//! The oracle: the providers' books and journal, the ledger, and what the callers were told, side
//! by side. Each check is a line of the promise.
//!
//! ```text
//! books    what really happened         \
//! journal  what came over the wire       |  one story, or a violation
//! ledger   what the gateway has on disk  |
//! history  what the callers were told   /
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{MoneyVerdict, State};
use simulators::request::Provider;
use simulators::{BookEntry, JournalEntry};

use crate::history::{Answer, Call, Entry};
use crate::plans::Plan;
use crate::providers::ProviderRecords;
use crate::quiescence::Quiescent;
use crate::rows::{Attempt, Event, Rows};
use crate::run::Figures;
use crate::support::SECRETS;

/// Everything that anybody knows at the end of a run.
#[derive(Clone)]
pub(crate) struct Evidence {
    pub(crate) plans: Vec<Plan>,
    pub(crate) history: Vec<Entry>,
    pub(crate) followed: Vec<proto::RefundEvent>,
    pub(crate) quiescent: Quiescent,
    pub(crate) truth: ProviderRecords,
    pub(crate) ledger: Rows,
    /// How many events the ledger's own check of its chain went over.
    pub(crate) verified: Result<u64, String>,
    /// The providers' clock showed the system's time throughout.
    pub(crate) clock_is_true: bool,
    /// What came over the wire to each set of books.
    pub(crate) by_books: [Vec<JournalEntry>; 2],
    /// Where the second set of books is.
    pub(crate) origins_of_other: Vec<String>,
    /// Some start had an account less.
    pub(crate) account_was_removed: bool,
}

/// The evidence, ordered for the questions; and what was found wrong.
struct Checker<'a> {
    evidence: &'a Evidence,
    plans: HashMap<&'a str, &'a Plan>,
    refunds: HashMap<&'a str, &'a proto::Refund>,
    /// Requests that could move money, by refund; at Sectigo, where nothing in them names it, by
    /// order.
    requests: HashMap<&'a str, Vec<&'a JournalEntry>>,
    violations: Vec<String>,
}

/// Asks every question, and counts.
pub(crate) fn judge(evidence: &Evidence, figures: &mut Figures) {
    figures.violations.extend(violations(evidence));
    count(evidence, figures);
}

/// Asks every question.
pub(crate) fn violations(evidence: &Evidence) -> Vec<String> {
    let mut checker = Checker::over(evidence);
    checker.the_books_are_whole();
    checker.at_most_one_effect_per_target();
    checker.no_false_word_and_money_is_equal();
    checker.every_effect_is_known();
    checker.acknowledged_is_durable();
    checker.an_error_info_means_nothing_was_recorded();
    checker.what_was_seen_is_in_the_history();
    checker.the_followed_stream_has_no_gap();
    checker.intent_before_send();
    checker.what_is_sent_again_is_the_same();
    checker.every_request_is_where_it_belongs();
    checker.what_moved_is_not_sent_again();
    checker.doubt_is_visible_and_counted_alike();
    checker.nothing_is_under_way();
    checker.the_chain_verifies();
    checker.violations
}

/// Targets, and identifiers, of more than one refund.
pub(crate) fn twice_refunded(books: &[BookEntry]) -> Vec<String> {
    let mut by_target: BTreeMap<(Provider, &str), i64> = BTreeMap::new();
    let mut by_identifier: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for BookEntry { provider, effect, .. } in books {
        *by_target.entry((*provider, &effect.target)).or_default() += match effect.kind.as_str() {
            "refund" => 1,
            // Not paid after all: it may be asked for again.
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

/// Secrets in files where none may be, and panics in a log.
pub(crate) fn secrets_in(folder: &Path, files: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let Ok(bytes) = fs::read(file) else { continue };
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let shown = file.strip_prefix(folder).unwrap_or(file).display();
        for (name, secret) in SECRETS {
            if has(secret) {
                found.push(format!("no secret anywhere: {name} is in {shown}"));
            }
        }
        if has("panicked") {
            found.push(format!("no panic: there is one in {shown}"));
        }
    }
    found
}

/// Writes the evidence down for a person.
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
    let Evidence { history, ledger, truth, quiescent, .. } = evidence;
    let doubted = ledger.events.iter().filter(|event| event.to == "IN_DOUBT").map(|event| event.refund.as_str());
    figures.calls = history.len();
    figures.unknown_calls = history.iter().filter(|entry| matches!(entry.answer, Answer::Unknown(_))).count();
    figures.refunds = ledger.refunds.len();
    figures.attempts = ledger.attempts.values().map(Vec::len).sum();
    figures.requests = truth.journal.iter().filter(|entry| entry.moves_money).count();
    figures.effects = truth.books.iter().filter(|entry| entry.effect.kind == "refund").count();
    figures.doubts = doubted.collect::<HashSet<_>>().len();
    figures.resolved = history
        .iter()
        .filter(|entry| matches!((&entry.call, &entry.answer), (Call::Resolve { .. }, Answer::Ok(_))))
        .count();
    figures.moves = ledger.events.iter().filter(|event| event.kind == "reassigned").count();
    figures.open = quiescent.listed_doubts.len();
    figures.sent_again = Checker::over(evidence).requests.values().filter(|requests| requests.len() > 1).count();
    for (state, _) in ledger.refunds.values() {
        *figures.states.entry(state.clone()).or_default() += 1;
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

    fn violation(&mut self, line: &str, what: impl Into<String>) {
        self.violations.push(format!("{line}: {}", what.into()));
    }

    /// What was asked for under this id.
    fn plan(&mut self, id: &str) -> Option<&'a Plan> {
        let plan = self.plans.get(id).copied();
        if plan.is_none() {
            self.violation("every refund was asked for", format!("nobody asked for {id}"));
        }
        plan
    }

    /// How often something happened to a part of a target, under a refund's own identifier where
    /// the provider knows it.
    fn effects(&self, kind: &str, provider: Provider, part: &str, id: Option<&str>) -> usize {
        let fits = |effect: &simulators::request::Effect| {
            effect.kind == kind && effect.target == part && id.is_none_or(|id| effect.identifier.as_deref() == Some(id))
        };
        let books = self.evidence.records.books.iter();
        books.filter(|entry| entry.provider == provider && fits(&entry.effect)).count()
    }

    fn the_books_are_whole(&mut self) {
        let dropped = self.evidence.records.dropped;
        if dropped > 0 {
            self.violation(
                "the evidence is whole",
                format!("{dropped} entries of books or journal are gone: shorter runs"),
            );
        }
        let odd: Vec<_> = self.evidence.records.journal.iter().filter(|entry| entry.destructive).collect();
        if !odd.is_empty() {
            self.violation("nothing is destroyed", format!("{odd:?}"));
        }
    }

    fn at_most_one_effect_per_target(&mut self) {
        self.violations.extend(twice_refunded(&self.evidence.records.books));
    }

    /// No false failure, no false success, and the same cents.
    fn no_false_word_and_money_is_equal(&mut self) {
        // Where no identifier is on the wire, all refunds of a target are judged together.
        let mut together: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for refund in &self.evidence.quiescent.refunds {
            let Some(plan) = self.plan(&refund.refund_id) else { continue };
            let mut given_back = 0;
            for (part, minor) in plan.parts() {
                let (least, most) = expected(refund, &part);
                if plan.provider == Provider::Sectigo {
                    let sum = together.entry(part).or_default();
                    *sum = (sum.0 + least, sum.1 + most);
                    continue;
                }
                let id = Some(refund.refund_id.as_str());
                let times = self.effects("refund", plan.provider, &part, id);
                let net = times.saturating_sub(self.effects("refund_rejected", plan.provider, &part, id));
                if net < least {
                    self.violation("no false success", format!("{part} has {net} effects: {refund:?}"));
                }
                if net > most {
                    self.violation("no false failure", format!("{part} has {net} effects: {refund:?}"));
                }
                if net > 0 {
                    given_back += minor.unwrap_or_default();
                    self.money_of(refund, plan, &part, minor);
                }
            }
            let says = refund.refunded_amount.as_ref().map(|money| money.minor_units);
            let is_settled = matches!(refund.state(), State::Succeeded | State::PartiallySucceeded);
            if let (true, Some(says)) = (is_settled && plan.provider != Provider::Sectigo, says)
                && says != given_back
            {
                self.violation("money is equal", format!("{given_back} was given back: {refund:?}"));
            }
        }
        for (order, (least, most)) in together {
            let times = self.effects("refund", Provider::Sectigo, &order, None);
            if times < least {
                self.violation("no false success", format!("order {order} has {times} effects, the ledger {least}"));
            }
            if times > most {
                self.violation("no false failure", format!("order {order} has {times} effects, the ledger at most {most}"));
            }
        }
    }

    fn money_of(&mut self, refund: &proto::Refund, plan: &Plan, part: &str, minor: Option<i64>) {
        let entries = self.evidence.records.books.iter().filter(|entry| {
            entry.provider == plan.provider && entry.effect.target == part && entry.effect.kind == "refund"
        });
        let amounts: Vec<Option<i64>> = entries.map(|entry| entry.effect.amount_minor).collect();
        if amounts.iter().any(|amount| *amount != minor) {
            self.violation("money is equal", format!("{part} got {amounts:?}: {refund:?}"));
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
                self.violation("acknowledged is durable", format!("{id} is gone, and was seen: {:?}", all.first()));
                continue;
            };
            let mut newest_that_ended: Option<(&Entry, i64)> = None;
            for (entry, seen) in &all {
                if seen.revision > refund.revision || seen.created != refund.create_time {
                    self.violation("acknowledged is durable", format!("{entry:?} was told, and now it is {refund:?}"));
                }
                // Entries stand in the order of their ends.
                if let Some((before, revision)) = newest_that_ended
                    && before.ended < entry.began
                    && seen.revision < revision
                {
                    self.violation("nothing goes back", format!("{before:?} and then {entry:?}"));
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
                    let odd = ["INVALID_REQUEST", "ACCOUNT_NOT_FOUND", "ACCOUNT_MISMATCH", "INTERNAL", "NOT_OFFERED"];
                    let is_gone = reason == "ACCOUNT_NOT_FOUND" && self.evidence.account_was_removed;
                    if odd.contains(&reason.as_str()) && !is_gone {
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
                    format!("every call was refused, and there is {refund:?}"),
                );
            }
        }
    }

    /// Each state that anybody saw stands in the history at that revision.
    fn what_was_seen_is_in_the_history(&mut self) {
        let events: HashMap<(&str, i64), &Event> =
            self.evidence.ledger.events.iter().map(|event| ((event.refund.as_str(), event.revision), event)).collect();
        for entry in &self.evidence.history {
            for seen in entry.answer.seen() {
                let recorded = events.get(&(seen.id.as_str(), seen.revision)).map(|event| event.to.as_str());
                if recorded != Some(word(seen.state)) {
                    self.violation("the outcome is recorded before it is told", format!("{recorded:?} in {entry:?}"));
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
        for (place, event) in followed.iter().enumerate() {
            let recorded = self.evidence.ledger.events.get(place);
            let is_the_same = recorded.is_some_and(|recorded| {
                recorded.sequence == event.sequence
                    && recorded.revision == event.revision
                    && event.refund.strip_prefix("refunds/") == Some(&recorded.refund)
                    && recorded.to == word(event.to_state())
                    && recorded.chain_hash == event.chain_hash
            });
            if !is_the_same {
                let what = format!("event {place} was told as {event:?} and is {recorded:?}");
                self.violation("the stream is the ledger", what);
                return;
            }
        }
    }

    /// No request without an attempt on disk, none for an attempt that is said never to have left.
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
            if !numbers.iter().copied().eq(1..) && !numbers.iter().zip(1..).all(|(number, place)| *number == place) {
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
            let left_nothing =
                |attempt: &&&Attempt| attempt.outcome.as_deref() == Some("not_sent") && attempt.http_status.is_none();
            let nothing_left = attempts.iter().filter(left_nothing).count();
            if requests.len() > attempts.len() - nothing_left {
                let what = format!(
                    "{name}: {} requests, and of {} attempts {nothing_left} are said not to have left: {attempts:?}",
                    requests.len(),
                    attempts.len()
                );
                self.violation("what is said not to have left did not", what);
            }
            if self.evidence.clock_is_true {
                for (request, attempt) in requests.iter().zip(&attempts) {
                    let read_micros = request.time.unix_timestamp_nanos() / 1000;
                    if read_micros < i128::from(attempt.dispatched_micros) {
                        self.violation("intent before send", format!("{request:?} came before {attempt:?}"));
                    }
                }
            }
        }
        self.requests = requests;
    }

    /// One key and the same bytes; and at Sectigo nothing a second time but what was not processed
    /// or a person ordered.
    fn what_is_sent_again_is_the_same(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        for (name, all) in &requests {
            let Some((first, again)) = all.split_first() else { continue };
            for request in again {
                // The login is part of a request, and may have been renamed.
                let is_same_login = request.username == first.username;
                let is_same = request.parameters.get() == first.parameters.get() || !is_same_login;
                if !is_same || request.path != first.path {
                    // Two refunds of one order, the first of which was refused, may give two
                    // reasons.
                    self.violation("what is sent again is the same", format!("{first:?} and {request:?}"));
                }
            }
            if first.provider == Provider::Sectigo && !again.is_empty() {
                self.sent_again_at_sectigo(name, all.len());
            }
        }
        self.requests = requests;
    }

    /// A request about a refund reaches the books that the refund belongs to, and no others.
    fn every_request_is_where_it_belongs(&mut self) {
        let Evidence { by_books, origins_of_other, ledger, .. } = self.evidence;
        let mut of_order: HashMap<&str, Vec<&str>> = HashMap::new();
        for (id, endpoint) in &ledger.endpoints {
            let Some(plan) = self.plans.get(id.as_str()) else { continue };
            let name = match &plan.target {
                crate::plans::Target::Order(number) => number.as_str(),
                _ => id,
            };
            of_order.entry(name).or_default().push(endpoint);
        }
        let mut strays = Vec::new();
        for (books, journal) in by_books.iter().enumerate() {
            for entry in journal {
                let name = if entry.provider == Provider::Sectigo { &entry.target } else { &entry.identifier };
                let Some(endpoints) = name.as_deref().and_then(|name| of_order.get(name)) else { continue };
                let is_here = |endpoint: &&&str| origins_of_other.iter().any(|one| one == **endpoint) == (books == 1);
                if !endpoints.iter().any(|endpoint| is_here(&endpoint)) {
                    strays.push(format!("{entry:?} came to books {books}, and belongs to {endpoints:?}"));
                }
            }
        }
        for stray in strays {
            self.violation("every request is where it belongs", stray);
        }
    }

    /// After its place has changed, only a person sends again what may have had an effect.
    fn what_moved_is_not_sent_again(&mut self) {
        let mut moved: HashSet<&str> = HashSet::new();
        let mut again = Vec::new();
        for event in &self.evidence.ledger.events {
            match event.kind.as_str() {
                "reassigned" if event.to != "PENDING" => {
                    moved.insert(&event.refund);
                }
                "dispatched" if moved.contains(event.refund.as_str()) => again.push(event.refund.clone()),
                // From here on it is a person's attempt, and no longer only one made elsewhere.
                "not_sent" => {
                    moved.remove(event.refund.as_str());
                }
                _ => {}
            }
        }
        for id in again {
            self.violation("what moved is not sent again", id);
        }
    }

    fn sent_again_at_sectigo(&mut self, order: &str, requests: usize) {
        let ledger = &self.evidence.ledger;
        let of_order = |id: &str| self.plans.get(id).is_some_and(|plan| plan.parts()[0].0 == order);
        let refunds: Vec<&str> = ledger.refunds.keys().map(String::as_str).filter(|id| of_order(id)).collect();
        let unprocessed = refunds.iter().flat_map(|id| ledger.attempts.get(*id).into_iter().flatten());
        let unprocessed = unprocessed
            .filter(|attempt| attempt.outcome.as_deref() == Some("not_sent") && attempt.http_status.is_some())
            .count();
        let ordered = self.evidence.history.iter().filter(
            |entry| matches!(&entry.call, Call::Resolve { id, word: "send again" } if refunds.contains(&id.as_str())),
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
                State::Pending | State::Failed | State::Cancelled => MoneyVerdict::NotMoved,
                State::Succeeded | State::PartiallySucceeded => MoneyVerdict::Moved,
                State::Dispatching | State::Submitted | State::InDoubt | State::NeedsReview => {
                    MoneyVerdict::MayHaveMoved
                }
            };
            if in_doubt(refund.state()) != refund.doubt.is_some() || refund.money_verdict() != verdict {
                self.violation("doubt is visible", format!("{refund:?}"));
            }
            let row = self.evidence.ledger.refunds.get(&refund.refund_id);
            if row.is_none_or(|(state, _)| state != word(refund.state())) {
                self.violation("the port and the file say the same", format!("{row:?} and {refund:?}"));
            }
        }
        let of_all = self.evidence.quiescent.refunds.iter().filter(|refund| in_doubt(refund.state())).count();
        let listed = self.evidence.quiescent.listed_doubts.len();
        let states = self.evidence.ledger.refunds.values().map(|(state, _)| state.as_str());
        let rows = states.filter(|state| ["IN_DOUBT", "NEEDS_REVIEW"].contains(state)).count();
        if of_all != listed || rows != listed {
            let what = format!("{listed} are listed, {of_all} are among all, {rows} on disk");
            self.violation("doubt is counted alike everywhere", what);
        }
        if self.evidence.quiescent.refunds.len() != self.evidence.ledger.refunds.len() {
            let what = format!("{} and {}", self.evidence.quiescent.refunds.len(), self.evidence.ledger.refunds.len());
            self.violation("the port and the file say the same", what);
        }
    }

    fn nothing_is_under_way(&mut self) {
        let ledger = &self.evidence.ledger;
        let under_way = ledger.refunds.iter().filter(|(_, (state, _))| ["PENDING", "DISPATCHING"].contains(&&**state));
        let under_way: Vec<_> = under_way.map(|(id, _)| id).collect();
        let open = ledger.attempts.iter().filter(|(_, attempts)| attempts.iter().any(|attempt| !attempt.ended));
        let open: Vec<_> = open.map(|(id, _)| id).collect();
        if !under_way.is_empty() {
            self.violation("at rest nothing is under way", format!("{under_way:?}"));
        }
        if !open.is_empty() {
            self.violation("at rest every attempt has ended", format!("{open:?}"));
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
        let odd: Vec<_> = self
            .evidence
            .ledger
            .refunds
            .iter()
            .filter(|(id, (_, revision))| revisions.get(id.as_str()) != Some(revision))
            .map(|(id, _)| id.clone())
            .collect();
        if !odd.is_empty() {
            self.violation("a refund is its history", format!("{odd:?}"));
        }
    }
}

/// How many effects a part of a target may have, at least and at most, by what the ledger says.
fn expected(refund: &proto::Refund, part: &str) -> (usize, usize) {
    match refund.state() {
        State::Succeeded | State::Submitted => (1, 1),
        State::PartiallySucceeded => {
            let item = refund.items.iter().find(|item| item.item_id == part);
            match item.map(proto::ItemResult::state) {
                Some(proto::item_result::State::Succeeded) => (1, 1),
                _ => (0, 0),
            }
        }
        State::InDoubt | State::NeedsReview | State::Dispatching => (0, 1),
        State::Failed | State::Cancelled | State::Pending | State::Unspecified => (0, 0),
    }
}

/// A state as the ledger writes it.
fn word(state: State) -> &'static str {
    state.as_str_name().trim_start_matches("STATE_")
}
