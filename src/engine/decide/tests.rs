//! What follows from each kind of answer.

mod absent;
mod bounds;
mod followed;
mod interrupted;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use rstest::rstest;

use super::{after_lookup as after_lookup_between, *};
use crate::domain::event::{Decided, Resolution};
use crate::domain::ids::AccountName;
use crate::domain::money::Currency;
use crate::domain::place::Place;
use crate::domain::refund::Intent;
use crate::domain::target::{SectigoTarget, Target};

const BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(300) };

const FOLLOW_UP: Duration = Duration::from_secs(7 * 86_400);

static SCHEDULE: LazyLock<Schedule> = LazyLock::new(|| Schedule {
    first: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
    then_every: Duration::from_secs(86_400),
});

fn rules(contract: &RetryContract) -> RetryRules<'_> {
    RetryRules {
        contract,
        schedule: &SCHEDULE,
        backoff: BACKOFF,
        key_is_bound: true,
        follow_up: FOLLOW_UP,
        total_timeout: Duration::from_secs(60),
        // Long after every request has ended.
        jumpless_now: Timestamp::MAX,
    }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_000_000)
}

/// A lookup that was answered immediately.
fn after_lookup(refund: &Refund, lookup: Lookup, rules: RetryRules<'_>, at: Timestamp) -> Decision {
    after_lookup_between(refund, lookup, may_take_too_long(refund, at).then_some(now()), rules, at, at)
}

fn contract(deduplication: Deduplication) -> RetryContract {
    RetryContract { deduplication, lookup: LookupKind::Refund, settle_time: Duration::from_secs(600) }
}

fn dispatching() -> Refund {
    let intent = Intent {
        id: RefundId::parse("one").unwrap(),
        account: AccountName::parse("account").unwrap(),
        target: Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap()),
        labels: BTreeMap::new(),
        expected_amount: None,
    };
    let endpoint = "https://provider.example".to_owned();
    let place = Place { endpoint, login: "login".to_owned(), currency: Currency::USD };
    Refund::new(intent, place, now()).apply(&Event::Dispatched { credential: None }, now()).unwrap()
}

/// As after a resend: an earlier attempt is unanswered.
fn dispatching_again() -> Refund {
    let doubted = dispatching().apply(&Event::Interrupted, now()).unwrap();
    doubted.apply(&Event::Dispatched { credential: None }, now()).unwrap()
}

fn in_state(state: State) -> Refund {
    let refund = dispatching();
    let refund = match state {
        State::Submitted => {
            let accepted = Acceptance { status: Some("Submitted".into()), ..Acceptance::default() };
            refund.apply(&Event::Accepted(accepted), now()).unwrap()
        }
        State::InDoubt => refund.apply(&Event::Interrupted, now()).unwrap(),
        State::NeedsReview => {
            let doubted = refund.apply(&Event::Interrupted, now()).unwrap();
            doubted
                .apply(&Event::Escalated { evidence: "outcome unknown".into(), foreign_record: false }, now())
                .unwrap()
        }
        other => panic!("this function does not lead to {other}"),
    };
    assert_eq!(refund.state, state);
    refund
}

fn error(category: ErrorCategory) -> ProviderError {
    ProviderError { code: "-18".into(), message: "no".into(), http_status: 200, category }
}

fn no_connection() -> ProviderError {
    ProviderError { code: String::new(), http_status: 0, ..error(ErrorCategory::Other) }
}

fn refused(category: ErrorCategory) -> Outcome {
    Outcome::Refused { error: error(category), items: Vec::new() }
}

fn accepted(status: &str) -> Outcome {
    Outcome::Accepted(Acceptance { status: Some(status.into()), ..Acceptance::default() })
}

fn not_sent() -> Outcome {
    Outcome::NotSent { error: error(ErrorCategory::LimitReached), retry_at: None }
}

fn unknown(reason: DoubtReason) -> Outcome {
    Outcome::Unknown { reason, evidence: "odd".into() }
}

/// The state of a refund after these events.
fn state_after(refund: &Refund, events: &[Event]) -> State {
    events.iter().fold(refund.clone(), |refund, event| refund.apply(event, now()).unwrap()).state
}

const REPLAYED: fn() -> Outcome = || Outcome::Refunded(Confirmation { replayed: true, ..Confirmation::default() });

#[rstest]
#[case::refunded(Outcome::Refunded(Confirmation::default()), State::Succeeded, State::Succeeded)]
#[case::accepted(accepted("Submitted"), State::Submitted, State::Submitted)]
#[case::refused(refused(ErrorCategory::NotEligible), State::Failed, State::InDoubt)]
#[case::already_refunded(refused(ErrorCategory::AlreadyRefunded), State::Failed, State::InDoubt)]
#[case::not_processed(not_sent(), State::Pending, State::InDoubt)]
#[case::unknown(unknown(DoubtReason::Timeout), State::InDoubt, State::InDoubt)]
#[case::replay(REPLAYED(), State::InDoubt, State::Succeeded)]
#[case::replay_of_an_accepted_one(
    Outcome::Accepted(Acceptance { replayed: true, ..Acceptance::default() }),
    State::InDoubt,
    State::Submitted
)]
fn an_answer_means_less_while_an_attempt_is_unanswered(
    #[case] outcome: Outcome,
    #[case] on_first_send: State,
    #[case] with_an_unanswered_attempt: State,
    #[values(Deduplication::None, Deduplication::Replay { key_lifetime: Duration::from_secs(3000) })]
    deduplication: Deduplication,
) {
    let contract = contract(deduplication);
    for (refund, expected) in [(dispatching(), on_first_send), (dispatching_again(), with_an_unanswered_attempt)] {
        let events = after_attempt(&refund, outcome.clone(), rules(&contract), now()).events;
        assert_eq!(state_after(&refund, &events), expected);
    }
}

/// Sent again, the second replay would look like the answer to our own first attempt.
#[test]
fn after_a_replay_of_an_unsent_refund_only_lookups_follow() {
    let contract = contract(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) });
    for (outcome, expected) in [(REPLAYED(), Step::LookUp), (unknown(DoubtReason::Timeout), Step::Resend)] {
        let events = after_attempt(&dispatching(), outcome, rules(&contract), now()).events;
        let refund = events.iter().fold(dispatching(), |refund, event| refund.apply(event, now()).unwrap());
        assert_eq!(next_step(&refund, rules(&contract), now()), expected);
    }
}

#[rstest]
#[case(Deduplication::Reject, State::NeedsReview)]
#[case(Deduplication::Replay { key_lifetime: Duration::from_secs(3000) }, State::Failed)]
fn an_identifier_that_another_refund_used(#[case] deduplication: Deduplication, #[case] expected: State) {
    let refund = dispatching();
    let outcome = refused(ErrorCategory::IdentifierInUse);
    let events = after_attempt(&refund, outcome, rules(&contract(deduplication)), now()).events;
    assert_eq!(state_after(&refund, &events), expected);
}

#[rstest]
#[case::found_done(
    Lookup::Found(Outcome::Refunded(Confirmation::default())),
    State::Succeeded,
    State::Succeeded,
    State::Succeeded
)]
#[case::found_accepted(Lookup::Found(accepted("Approved")), State::Submitted, State::Submitted, State::NeedsReview)]
#[case::found_refused(
    Lookup::Found(refused(ErrorCategory::RejectedOnReview)),
    State::Failed,
    State::Failed,
    State::Failed
)]
#[case::found_contradiction(
    Lookup::Found(unknown(DoubtReason::Contradiction)),
    State::NeedsReview,
    State::NeedsReview,
    State::NeedsReview
)]
#[case::found_unreadable(
    Lookup::Found(unknown(DoubtReason::UnreadableReply)),
    State::InDoubt,
    State::Submitted,
    State::NeedsReview
)]
#[case::no_trace(Lookup::not_found("Processed"), State::InDoubt, State::Submitted, State::NeedsReview)]
#[case::no_answer(Lookup::unavailable("refused"), State::InDoubt, State::Submitted, State::NeedsReview)]
fn a_lookup_decides_only_what_it_shows(
    #[case] lookup: Lookup,
    #[case] in_doubt: State,
    #[case] submitted: State,
    #[case] in_review: State,
) {
    for (from, expected) in [(State::InDoubt, in_doubt), (State::Submitted, submitted), (State::NeedsReview, in_review)]
    {
        let refund = in_state(from);
        let events = after_lookup(&refund, lookup.clone(), rules(&contract(Deduplication::Reject)), now()).events;
        assert_eq!(state_after(&refund, &events), expected, "from {from}");
    }
}

#[test]
fn the_providers_retry_time_is_used() {
    let refund = dispatching();
    let retry_at = now().saturating_add(Duration::from_secs(30));
    let outcome = Outcome::NotSent { error: error(ErrorCategory::LimitReached), retry_at: Some(retry_at) };
    let events = after_attempt(&refund, outcome, rules(&contract(Deduplication::None)), now()).events;
    assert!(matches!(events.as_slice(), [Event::NotSent { retry_at: at, .. }] if *at == retry_at));
}

proptest! {
    #[test]
    fn the_backoff_grows_within_its_bounds(attempt in 1_u32..10_000, name in "[a-z0-9-]{1,50}") {
        let id = RefundId::parse(&name).unwrap();
        let wait = BACKOFF.after(attempt, &id);
        prop_assert!(wait <= BACKOFF.max);
        prop_assert!(wait >= BACKOFF.min * 3 / 4);
        prop_assert_eq!(wait, BACKOFF.after(attempt, &id), "the same for the same refund and attempt");
    }
}

const KEY_LIFETIME: Duration = Duration::from_secs(3_000);
const SETTLE_TIME: Duration = Duration::from_secs(600);

fn sectigo() -> RetryContract {
    RetryContract { deduplication: Deduplication::None, lookup: LookupKind::TargetState, settle_time: SETTLE_TIME }
}

fn namecom() -> RetryContract {
    let deduplication = Deduplication::Replay { key_lifetime: KEY_LIFETIME };
    RetryContract { deduplication, lookup: LookupKind::TargetState, settle_time: SETTLE_TIME }
}

fn debitsuccess() -> RetryContract {
    RetryContract { deduplication: Deduplication::Reject, lookup: LookupKind::Refund, settle_time: SETTLE_TIME }
}

fn later(seconds: u64) -> Timestamp {
    now().saturating_add(Duration::from_secs(seconds))
}

fn in_doubt(error: Option<ProviderError>) -> Refund {
    let doubted =
        Event::Doubted { reason: DoubtReason::Timeout, evidence: "no answer".into(), error, not_processed: false };
    dispatching().apply(&doubted, now()).unwrap()
}

fn no_trace() -> Lookup {
    Lookup::not_found("no record")
}

#[rstest]
#[case::sectigo_is_never_sent_again(sectigo(), 10, Step::LookUp)]
#[case::key_valid(namecom(), 10, Step::Resend)]
#[case::key_about_to_expire(namecom(), 2_999, Step::Resend)]
#[case::key_expired(namecom(), 3_000, Step::LookUp)]
#[case::debitsuccess_only_after_a_lookup(debitsuccess(), 10, Step::LookUp)]
fn the_contract_decides_between_lookup_and_resend(
    #[case] contract: RetryContract,
    #[case] seconds: u64,
    #[case] step: Step,
) {
    assert_eq!(next_step(&in_doubt(None), rules(&contract), later(seconds)), step);
}

#[rstest]
#[case::final_refusal(ErrorCategory::AlreadyRefunded, Step::LookUp)]
#[case::limit_reached(ErrorCategory::LimitReached, Step::Resend)]
#[case::credentials_refused(ErrorCategory::CredentialsRefused, Step::Resend)]
#[case::first_request_still_processed(ErrorCategory::IdentifierInUse, Step::Resend)]
fn a_finally_refused_refund_is_not_sent_again(#[case] category: ErrorCategory, #[case] step: Step) {
    assert_eq!(next_step(&in_doubt(Some(error(category))), rules(&namecom()), later(10)), step);
}

#[test]
fn an_accepted_refund_is_only_looked_up() {
    assert_eq!(next_step(&in_state(State::Submitted), rules(&namecom()), later(10)), Step::LookUp);
}

#[rstest]
#[case::sectigo_before_the_settle_time(sectigo(), 599, State::InDoubt)]
#[case::sectigo_after_the_settle_time(sectigo(), 600, State::NeedsReview)]
#[case::namecom_with_a_valid_key(namecom(), 2_999, State::InDoubt)]
#[case::namecom_with_an_expired_key(namecom(), 3_000, State::NeedsReview)]
fn an_order_that_shows_no_refund_ends_in_review(
    #[case] contract: RetryContract,
    #[case] seconds: u64,
    #[case] expected: State,
) {
    let refund = in_doubt(None);
    let Decision { events, resend, .. } = after_lookup(&refund, no_trace(), rules(&contract), later(seconds));
    assert_eq!((state_after(&refund, &events), resend), (expected, false));
}

/// Although the key may still be valid.
#[rstest]
#[case::one_more_allowed(4, 600, State::InDoubt)]
#[case::too_many_before_the_settle_time(5, 599, State::InDoubt)]
#[case::too_many(5, 600, State::NeedsReview)]
fn too_many_unanswered_attempts_need_a_review(#[case] attempts: u32, #[case] seconds: u64, #[case] expected: State) {
    let contract = namecom();
    let again = |refund: Refund, _| {
        let sent = refund.apply(&Event::Dispatched { credential: None }, now()).unwrap();
        sent.apply(&Event::Interrupted, now()).unwrap()
    };
    let refund = (1..attempts).fold(in_doubt(None), again);
    let Decision { events, resend, .. } = after_lookup(&refund, no_trace(), rules(&contract), later(seconds));
    assert_eq!((state_after(&refund, &events), resend), (expected, false));
}

#[test]
fn an_unanswered_lookup_proves_nothing_and_ends_in_review_after_days() {
    let unavailable = Lookup::unavailable("no connection");
    for contract in [sectigo(), namecom(), debitsuccess()] {
        let refund = in_doubt(None);
        let Decision { events, resend, next_check } =
            after_lookup(&refund, unavailable.clone(), rules(&contract), later(2 * 86_400));
        assert_eq!((state_after(&refund, &events), resend), (State::InDoubt, false));
        assert!(next_check.is_some_and(|at| at > later(2 * 86_400)), "looked up again");
        let events = after_lookup(&refund, unavailable.clone(), rules(&contract), later(3 * 86_400)).events;
        assert_eq!(state_after(&refund, &events), State::NeedsReview, "after three days without an answer");
    }
}

/// Only after two lookups without a record, a settle time apart.
#[rstest]
#[case(599, false)]
#[case(600, true)]
fn debitsuccess_is_sent_again_after_two_lookups(#[case] apart: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let refund = in_doubt(None);
    let first = after_lookup(&refund, no_trace(), rules(&contract), later(10));
    assert!(!first.resend, "one lookup proves nothing");
    let refund = first.events.iter().fold(refund, |refund, event| refund.apply(event, later(10)).unwrap());
    let second = after_lookup(&refund, no_trace(), rules(&contract), later(10 + apart));
    assert_eq!(second.resend, resend);
    assert_eq!(state_after(&refund, &second.events), State::InDoubt);
    // A new attempt begins a new doubt: an earlier absence no longer counts.
    assert_eq!(refund.apply(&Event::Dispatched { credential: None }, later(700)).unwrap().absent_since, None);
}

/// What a slow answer does not show was not there when the lookup was sent.
#[rstest]
#[case(609, false)]
#[case(610, true)]
fn a_lookup_counts_from_when_it_was_sent(#[case] asked: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let first = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let refund = in_doubt(None).apply(&first, later(10)).unwrap();
    let second = after_lookup_between(&refund, no_trace(), None, rules(&contract), later(asked), later(700));
    assert_eq!(second.resend, resend);
}

#[test]
fn a_refused_identifier_without_a_record_needs_a_review() {
    let contract = debitsuccess();
    let refund = in_doubt(Some(error(ErrorCategory::IdentifierInUse)));
    let refund = refund.apply(&Event::Checked(Observation::new("no record", RecordSeen::Absent)), later(10)).unwrap();
    let Decision { events, resend, .. } = after_lookup(&refund, no_trace(), rules(&contract), later(610));
    assert_eq!((state_after(&refund, &events), resend), (State::NeedsReview, false));
}

#[test]
fn a_submitted_refund_without_a_record_needs_a_review() {
    let contract = debitsuccess();
    let refund = in_state(State::Submitted);
    let refund = refund.apply(&Event::Checked(Observation::new("no record", RecordSeen::Absent)), later(10)).unwrap();
    let decision = after_lookup(&refund, no_trace(), rules(&contract), later(610));
    assert_eq!(state_after(&refund, &decision.events), State::NeedsReview);
    // The state of an order lags behind, so it proves nothing about an accepted refund.
    let decision = after_lookup(&in_state(State::Submitted), no_trace(), rules(&namecom()), later(86_400));
    assert!(matches!(decision.events.as_slice(), [Event::Checked(_)]));
}

#[test]
fn a_final_refusal_while_an_attempt_is_unanswered_is_looked_up_immediately() {
    let contract = debitsuccess();
    let outcome = refused(ErrorCategory::IdentifierInUse);
    let decision = after_attempt(&dispatching_again(), outcome, rules(&contract), now());
    assert_eq!(decision.next_check, None);
    assert!(matches!(decision.events.as_slice(), [Event::Doubted { reason: DoubtReason::Contradiction, .. }]));
}

/// "In use" under our own key and "limit reached" are not final: trying again immediately would use
/// up the attempts.
#[rstest]
#[case(ErrorCategory::IdentifierInUse)]
#[case(ErrorCategory::LimitReached)]
fn a_refusal_that_is_not_final_follows_the_schedule(#[case] category: ErrorCategory) {
    let decision = after_attempt(&dispatching_again(), refused(category), rules(&namecom()), now());
    assert_eq!(decision.next_check, Some(later(30)));
}

/// An outage of most of an hour: attempts that provably never left do not count as unanswered, and
/// the last one is made while the key is valid.
#[test]
fn an_attempt_that_never_left_does_not_count_as_unanswered() {
    let (contract, refused) = (namecom(), Outcome::NotSent { error: no_connection(), retry_at: None });
    let mut refund = dispatching().apply(&Event::Interrupted, now()).unwrap();
    let mut tried = Vec::new();
    let mut at = now();
    for _ in 0..6 {
        refund = refund.apply(&Event::Dispatched { credential: None }, at).unwrap();
        let decision = after_attempt(&refund, refused.clone(), rules(&contract), at);
        refund = decision.events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap());
        assert_eq!((refund.state, refund.unanswered_attempts), (State::InDoubt, 1));
        at = decision.next_check.unwrap();
        tried.push(at.saturating_duration_since(now()).as_secs());
        if next_step(&refund, rules(&contract), at) == Step::LookUp {
            break;
        }
    }
    assert_eq!(tried, [10, 30, 120, 600, 2_700, 3_600], "until the key has expired");
}

/// A refund that the provider had accepted, and that an operator had sent again.
fn sent_again_by_an_operator() -> Refund {
    let forgotten = in_state(State::Submitted)
        .apply(&Event::Escalated { evidence: "gone".into(), foreign_record: false }, now())
        .unwrap();
    let again = Event::Resolved(Decided::new(Resolution::SendAgain, "looked"));
    forgotten.apply(&again, later(40 * 86_400)).unwrap()
}

/// The first attempt may have paid nevertheless: no refusal of the second is definite, and the
/// refund cannot be cancelled as if nothing had been sent.
#[rstest]
#[case::already_refunded(refused(ErrorCategory::AlreadyRefunded))]
#[case::in_use(refused(ErrorCategory::IdentifierInUse))]
#[case::not_processed(not_sent())]
fn a_refund_that_was_accepted_once_does_not_become_failed(#[case] outcome: Outcome) {
    for contract in [namecom(), debitsuccess()] {
        let refund = sent_again_by_an_operator();
        let events = after_attempt(&refund, outcome.clone(), rules(&contract), now()).events;
        assert_eq!(state_after(&refund, &events), State::InDoubt);
    }
}

/// The thirty days count from the time at which the provider accepted it, not from the first
/// attempt.
#[test]
fn a_refund_that_was_sent_again_has_thirty_days_again() {
    let at = later(40 * 86_400);
    let acceptance = Acceptance { status: Some("Submitted".into()), ..Acceptance::default() };
    let refund = sent_again_by_an_operator().apply(&Event::Accepted(acceptance), at).unwrap();
    let lookup = || Lookup::Found(accepted("Submitted"));
    assert!(may_take_too_long(&refund, at), "the time of the acceptance is needed");
    let events = after_lookup_between(&refund, lookup(), Some(at), rules(&debitsuccess()), at, at).events;
    assert_eq!(state_after(&refund, &events), State::Submitted);
    let after = at.saturating_add(Duration::from_secs(30 * 86_400));
    let events = after_lookup_between(&refund, lookup(), Some(at), rules(&debitsuccess()), after, after).events;
    assert_eq!(state_after(&refund, &events), State::NeedsReview);
}

/// Two lookups without a record, an attempt that is not processed, and so on: after some days the
/// refund needs a review.
#[test]
fn attempts_that_are_never_processed_end_in_review() {
    let contract = debitsuccess();
    let (mut refund, mut at) = (in_doubt(None), now());
    let mut attempts = 0;
    while refund.state == State::InDoubt {
        at = at.saturating_add(SETTLE_TIME);
        assert!(at.saturating_duration_since(now()) < Duration::from_secs(4 * 86_400), "it never ends");
        let decision = after_lookup(&refund, no_trace(), rules(&contract), at);
        refund = decision.events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap());
        if decision.resend {
            attempts += 1;
            refund = refund.apply(&Event::Dispatched { credential: None }, at).unwrap();
            let events = after_attempt(&refund, not_sent(), rules(&contract), at).events;
            refund = events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap());
        }
    }
    assert_eq!((refund.state, refund.unanswered_attempts), (State::NeedsReview, 1));
    assert!(attempts > 5, "more than the limit of unanswered ones");
}

#[rstest]
#[case::no_trace(no_trace())]
#[case::still_accepted(Lookup::Found(accepted("Submitted")))]
#[case::no_answer(Lookup::unavailable("no connection"))]
fn an_accepted_refund_that_does_not_finish_needs_a_review(#[case] lookup: Lookup) {
    let refund = in_state(State::Submitted);
    for (days, expected) in [(29, State::Submitted), (30, State::NeedsReview)] {
        let events = after_lookup(&refund, lookup.clone(), rules(&namecom()), later(days * 86_400)).events;
        assert_eq!(state_after(&refund, &events), expected, "after {days} days");
    }
    let done = Lookup::Found(Outcome::Refunded(Confirmation::default()));
    let events = after_lookup(&refund, done, rules(&namecom()), later(31 * 86_400)).events;
    assert_eq!(state_after(&refund, &events), State::Succeeded);
}

/// A settle time that is longer than three days extends the time for unanswered lookups.
#[test]
fn unanswered_lookups_end_in_review_not_before_the_settle_time() {
    let contract = RetryContract { settle_time: Duration::from_secs(7 * 86_400), ..sectigo() };
    let unanswered = || Lookup::unavailable("no connection");
    for (days, expected) in [(6, State::InDoubt), (7, State::NeedsReview)] {
        let refund = in_doubt(None);
        let events = after_lookup(&refund, unanswered(), rules(&contract), later(days * 86_400)).events;
        assert_eq!(state_after(&refund, &events), expected, "after {days} days");
    }
}

#[rstest]
#[case::first(0, 0, 10)]
#[case::second(0, 10, 30)]
#[case::each_unanswered_attempt_makes_it_rarer(1, 0, 30)]
#[case::however_many_there_were(99, 0, 3_600)]
#[case::last_of_the_first_times(0, 3_599, 3_600)]
#[case::daily(0, 3_600, 3_600 + 86_400)]
#[case::after_a_long_sleep(0, 10 * 86_400, 3_600 + 10 * 86_400)]
fn lookups_become_rarer(#[case] skipped: u32, #[case] elapsed: u64, #[case] expected: u64) {
    assert_eq!(SCHEDULE.next(now(), skipped, later(elapsed)), later(expected));
}

#[test]
fn a_lookup_is_due_when_the_settle_time_is_over() {
    let contract = sectigo();
    let outcome = unknown(DoubtReason::Timeout);
    let refund = dispatching();
    let decision = after_attempt(&refund, outcome, rules(&contract), now());
    assert_eq!(decision.next_check, Some(later(10)));
    let refund = in_doubt(None);
    let decision = after_lookup(&refund, no_trace(), rules(&contract), later(130));
    assert_eq!(decision.next_check, Some(later(600)), "the settle time, and not 10 minutes later");
}

proptest! {
    #[test]
    fn the_next_lookup_is_always_in_the_future(skipped in 0_u32..30, elapsed in 0_u64..400 * 86_400) {
        let next = SCHEDULE.next(now(), skipped, later(elapsed));
        prop_assert!(next > later(elapsed));
        prop_assert!(next <= later(elapsed).saturating_add(SCHEDULE.then_every.max(Duration::from_secs(3_600))));
    }
}
