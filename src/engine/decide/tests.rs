//! What follows from which answer, row by row.

mod absent;
mod bounds;
mod followed;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use rstest::rstest;

use super::{after_lookup as after_look_of, *};
use crate::domain::event::{Decided, Resolution};
use crate::domain::ids::AccountName;
use crate::domain::money::Currency;
use crate::domain::place::Place;
use crate::domain::refund::Intent;
use crate::domain::target::{SectigoTarget, Target};

const BACKOFF: Backoff = Backoff { shortest: Duration::from_secs(1), longest: Duration::from_secs(300) };

const FOLLOW_UP: Duration = Duration::from_secs(7 * 86_400);

static SCHEDULE: LazyLock<Schedule> = LazyLock::new(|| Schedule {
    first: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
    then_every: Duration::from_secs(86_400),
});

fn rules(contract: &RetryContract) -> Rules<'_> {
    Rules { contract, schedule: &SCHEDULE, backoff: BACKOFF, key_is_bound: true, follow_up: FOLLOW_UP }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_000_000)
}

/// A look that was answered as soon as it was asked for.
fn after_lookup(refund: &Refund, lookup: Lookup, rules: Rules<'_>, at: Timestamp) -> Decision {
    after_look_of(refund, lookup, may_take_too_long(refund, at).then_some(now()), rules, at, at)
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
    };
    let endpoint = "https://provider.example".to_owned();
    let place = Place { endpoint, login: "login".to_owned(), currency: Currency::USD };
    Refund::new(intent, place, now()).apply(&Event::Dispatched { credential: None }, now()).unwrap()
}

/// As after a resend out of doubt: an earlier attempt is unanswered.
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
            doubted.apply(&Event::Escalated { evidence: "nobody knows".into(), foreign_record: false }, now()).unwrap()
        }
        other => panic!("no way to {other}"),
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

/// Where a refund stands after these events.
fn end(refund: &Refund, events: &[Event]) -> State {
    events.iter().fold(refund.clone(), |refund, event| refund.apply(event, now()).unwrap()).state
}

const REPLAYED: fn() -> Outcome = || Outcome::Refunded(Confirmation { replayed: true, ..Confirmation::default() });

#[rstest]
#[case::yes(Outcome::Refunded(Confirmation::default()), State::Succeeded, State::Succeeded)]
#[case::taken(accepted("Submitted"), State::Submitted, State::Submitted)]
#[case::no(refused(ErrorCategory::NotEligible), State::Failed, State::InDoubt)]
#[case::already_refunded(refused(ErrorCategory::AlreadyRefunded), State::Failed, State::InDoubt)]
#[case::not_processed(not_sent(), State::Pending, State::InDoubt)]
#[case::unknown(unknown(DoubtReason::Timeout), State::InDoubt, State::InDoubt)]
#[case::replay(REPLAYED(), State::InDoubt, State::Succeeded)]
#[case::replay_of_a_taken_one(
    Outcome::Accepted(Acceptance { replayed: true, ..Acceptance::default() }),
    State::InDoubt,
    State::Submitted
)]
fn an_answer_is_read_against_our_own_attempts(
    #[case] outcome: Outcome,
    #[case] on_first_send: State,
    #[case] with_an_unanswered_attempt: State,
    #[values(Deduplication::None, Deduplication::Replay { key_lifetime: Duration::from_secs(3000) })]
    deduplication: Deduplication,
) {
    let contract = contract(deduplication);
    for (refund, expected) in [(dispatching(), on_first_send), (dispatching_again(), with_an_unanswered_attempt)] {
        let events = after_attempt(&refund, outcome.clone(), rules(&contract), now()).events;
        assert_eq!(end(&refund, &events), expected);
    }
}

/// Sent again, its second replay would pass for the answer to our own first attempt.
#[test]
fn after_a_replay_of_what_was_never_sent_only_the_order_is_asked() {
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
fn an_identifier_that_somebody_else_used(#[case] deduplication: Deduplication, #[case] expected: State) {
    let refund = dispatching();
    let outcome = refused(ErrorCategory::IdentifierInUse);
    let events = after_attempt(&refund, outcome, rules(&contract(deduplication)), now()).events;
    assert_eq!(end(&refund, &events), expected);
}

#[rstest]
#[case::found_done(
    Lookup::Found(Outcome::Refunded(Confirmation::default())),
    State::Succeeded,
    State::Succeeded,
    State::Succeeded
)]
#[case::found_taken(Lookup::Found(accepted("Approved")), State::Submitted, State::Submitted, State::NeedsReview)]
#[case::found_refused(
    Lookup::Found(refused(ErrorCategory::RejectedOnReview)),
    State::Failed,
    State::Failed,
    State::Failed
)]
#[case::found_other(
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
fn a_look_settles_what_it_shows_and_nothing_else(
    #[case] lookup: Lookup,
    #[case] in_doubt: State,
    #[case] submitted: State,
    #[case] in_review: State,
) {
    for (from, expected) in [(State::InDoubt, in_doubt), (State::Submitted, submitted), (State::NeedsReview, in_review)]
    {
        let refund = in_state(from);
        let events = after_lookup(&refund, lookup.clone(), rules(&contract(Deduplication::Reject)), now()).events;
        assert_eq!(end(&refund, &events), expected, "from {from}");
    }
}

#[test]
fn a_provider_that_names_a_time_is_heard() {
    let refund = dispatching();
    let retry_at = now().plus(Duration::from_secs(30));
    let outcome = Outcome::NotSent { error: error(ErrorCategory::LimitReached), retry_at: Some(retry_at) };
    let events = after_attempt(&refund, outcome, rules(&contract(Deduplication::None)), now()).events;
    assert!(matches!(events.as_slice(), [Event::NotSent { retry_at: at, .. }] if *at == retry_at));
}

proptest! {
    #[test]
    fn the_backoff_grows_within_its_bounds(attempt in 1_u32..10_000, name in "[a-z0-9-]{1,50}") {
        let id = RefundId::parse(&name).unwrap();
        let wait = BACKOFF.after(attempt, &id);
        prop_assert!(wait <= BACKOFF.longest);
        prop_assert!(wait >= BACKOFF.shortest * 3 / 4);
        prop_assert_eq!(wait, BACKOFF.after(attempt, &id), "the same for the same refund and attempt");
    }
}

const KEY_LIFE: Duration = Duration::from_secs(3_000);
const SETTLE: Duration = Duration::from_secs(600);

fn sectigo() -> RetryContract {
    RetryContract { deduplication: Deduplication::None, lookup: LookupKind::TargetState, settle_time: SETTLE }
}

fn namecom() -> RetryContract {
    let deduplication = Deduplication::Replay { key_lifetime: KEY_LIFE };
    RetryContract { deduplication, lookup: LookupKind::TargetState, settle_time: SETTLE }
}

fn debitsuccess() -> RetryContract {
    RetryContract { deduplication: Deduplication::Reject, lookup: LookupKind::Refund, settle_time: SETTLE }
}

fn later(seconds: u64) -> Timestamp {
    now().plus(Duration::from_secs(seconds))
}

fn doubted_by(error: Option<ProviderError>) -> Refund {
    let doubted =
        Event::Doubted { reason: DoubtReason::Timeout, evidence: "no answer".into(), error, not_processed: false };
    dispatching().apply(&doubted, now()).unwrap()
}

fn nothing_there() -> Lookup {
    Lookup::not_found("no record")
}

#[rstest]
#[case::sectigo_is_never_sent_again(sectigo(), 10, Step::LookUp)]
#[case::the_key_lives(namecom(), 10, Step::Resend)]
#[case::the_key_lives_for_a_moment(namecom(), 2_999, Step::Resend)]
#[case::the_key_is_dead(namecom(), 3_000, Step::LookUp)]
#[case::only_a_look_can_show_that_it_is_safe(debitsuccess(), 10, Step::LookUp)]
fn doubt_goes_on_as_the_contract_says(#[case] contract: RetryContract, #[case] seconds: u64, #[case] step: Step) {
    assert_eq!(next_step(&doubted_by(None), rules(&contract), later(seconds)), step);
}

#[rstest]
#[case::it_said_no(ErrorCategory::AlreadyRefunded, Step::LookUp)]
#[case::not_now(ErrorCategory::LimitReached, Step::Resend)]
#[case::not_with_this_password(ErrorCategory::CredentialsRefused, Step::Resend)]
#[case::the_first_is_still_worked_on(ErrorCategory::IdentifierInUse, Step::Resend)]
fn a_no_is_not_asked_for_twice(#[case] category: ErrorCategory, #[case] step: Step) {
    assert_eq!(next_step(&doubted_by(Some(error(category))), rules(&namecom()), later(10)), step);
}

#[test]
fn what_the_provider_has_taken_is_only_asked_for() {
    assert_eq!(next_step(&in_state(State::Submitted), rules(&namecom()), later(10)), Step::LookUp);
}

#[rstest]
#[case::sectigo_before_its_settle_time(sectigo(), 599, State::InDoubt)]
#[case::sectigo_after_it(sectigo(), 600, State::NeedsReview)]
#[case::namecom_while_the_key_lives(namecom(), 2_999, State::InDoubt)]
#[case::namecom_after_it(namecom(), 3_000, State::NeedsReview)]
fn an_orders_silence_ends_in_review(#[case] contract: RetryContract, #[case] seconds: u64, #[case] expected: State) {
    let refund = doubted_by(None);
    let Decision { events, resend, .. } = after_lookup(&refund, nothing_there(), rules(&contract), later(seconds));
    assert_eq!((end(&refund, &events), resend), (expected, false));
}

/// The key may live on, but nothing will be sent under it any more.
#[rstest]
#[case::one_more_may_help(4, 600, State::InDoubt)]
#[case::the_order_may_still_show_it(5, 599, State::InDoubt)]
#[case::enough(5, 600, State::NeedsReview)]
fn too_many_unanswered_attempts_are_for_a_person(#[case] attempts: u32, #[case] seconds: u64, #[case] expected: State) {
    let contract = namecom();
    let again = |refund: Refund, _| {
        let sent = refund.apply(&Event::Dispatched { credential: None }, now()).unwrap();
        sent.apply(&Event::Interrupted, now()).unwrap()
    };
    let refund = (1..attempts).fold(doubted_by(None), again);
    let Decision { events, resend, .. } = after_lookup(&refund, nothing_there(), rules(&contract), later(seconds));
    assert_eq!((end(&refund, &events), resend), (expected, false));
}

#[test]
fn no_answer_is_no_evidence() {
    let unavailable = Lookup::unavailable("no connection");
    for contract in [sectigo(), namecom(), debitsuccess()] {
        let refund = doubted_by(None);
        let Decision { events, resend, next_check } =
            after_lookup(&refund, unavailable.clone(), rules(&contract), later(2 * 86_400));
        assert_eq!((end(&refund, &events), resend), (State::InDoubt, false));
        assert!(next_check.is_some_and(|at| at > later(2 * 86_400)), "asked again");
        let events = after_lookup(&refund, unavailable.clone(), rules(&contract), later(3 * 86_400)).events;
        assert_eq!(end(&refund, &events), State::NeedsReview, "three days of silence are for a person");
    }
}

/// Two looks that show no record, a settle time apart, and only then.
#[rstest]
#[case(599, false)]
#[case(600, true)]
fn debitsuccess_is_sent_again_after_two_looks(#[case] apart: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let refund = doubted_by(None);
    let first = after_lookup(&refund, nothing_there(), rules(&contract), later(10));
    assert!(!first.resend, "one look proves nothing");
    let refund = first.events.iter().fold(refund, |refund, event| refund.apply(event, later(10)).unwrap());
    let second = after_lookup(&refund, nothing_there(), rules(&contract), later(10 + apart));
    assert_eq!(second.resend, resend);
    assert_eq!(end(&refund, &second.events), State::InDoubt);
    // A new attempt begins a new doubt: what was absent before it counts no more.
    assert_eq!(refund.apply(&Event::Dispatched { credential: None }, later(700)).unwrap().absent_since, None);
}

/// What a slow answer does not show was not there when it was asked for.
#[rstest]
#[case(609, false)]
#[case(610, true)]
fn a_look_counts_from_when_it_was_asked_for(#[case] asked: u64, #[case] resend: bool) {
    let contract = debitsuccess();
    let first = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let refund = doubted_by(None).apply(&first, later(10)).unwrap();
    let second = after_look_of(&refund, nothing_there(), None, rules(&contract), later(asked), later(700));
    assert_eq!(second.resend, resend);
}

#[test]
fn an_identifier_that_is_refused_and_not_on_record_is_for_a_person() {
    let contract = debitsuccess();
    let refund = doubted_by(Some(error(ErrorCategory::IdentifierInUse)));
    let refund = refund.apply(&Event::Checked(Observation::new("no record", RecordSeen::Absent)), later(10)).unwrap();
    let Decision { events, resend, .. } = after_lookup(&refund, nothing_there(), rules(&contract), later(610));
    assert_eq!((end(&refund, &events), resend), (State::NeedsReview, false));
}

#[test]
fn a_submitted_refund_that_the_provider_forgot_is_for_a_person() {
    let contract = debitsuccess();
    let refund = in_state(State::Submitted);
    let refund = refund.apply(&Event::Checked(Observation::new("no record", RecordSeen::Absent)), later(10)).unwrap();
    let decision = after_lookup(&refund, nothing_there(), rules(&contract), later(610));
    assert_eq!(end(&refund, &decision.events), State::NeedsReview);
    // The state of an order lags behind: it says nothing of a refund that the provider has taken.
    let decision = after_lookup(&in_state(State::Submitted), nothing_there(), rules(&namecom()), later(86_400));
    assert!(matches!(decision.events.as_slice(), [Event::Checked(_)]));
}

/// A "no" against an attempt of ours that nobody answered is looked into at once.
#[test]
fn a_contradiction_is_asked_about_at_once() {
    let contract = debitsuccess();
    let outcome = refused(ErrorCategory::IdentifierInUse);
    let decision = after_attempt(&dispatching_again(), outcome, rules(&contract), now());
    assert_eq!(decision.next_check, None);
    assert!(matches!(decision.events.as_slice(), [Event::Doubted { reason: DoubtReason::Contradiction, .. }]));
}

/// "In use" under our own key, and "too many", are asked again in their time, and not until all attempts are used up.
#[rstest]
#[case(ErrorCategory::IdentifierInUse)]
#[case(ErrorCategory::LimitReached)]
fn what_may_be_asked_again_has_its_schedule(#[case] category: ErrorCategory) {
    let decision = after_attempt(&dispatching_again(), refused(category), rules(&namecom()), now());
    assert_eq!(decision.next_check, Some(later(30)));
}

/// An outage of most of an hour: attempts that provably never left are not the ones that nobody answered, and the last is made in time.
#[test]
fn what_never_left_uses_no_attempt_up() {
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
        tried.push(at.since(now()).as_secs());
        if next_step(&refund, rules(&contract), at) == Step::LookUp {
            break;
        }
    }
    assert_eq!(tried, [10, 30, 120, 600, 2_700, 3_600], "and then the key is dead");
}

/// As a person leaves it who had it sent again after the provider had taken it once.
fn sent_again_by_a_person() -> Refund {
    let forgotten = in_state(State::Submitted)
        .apply(&Event::Escalated { evidence: "gone".into(), foreign_record: false }, now())
        .unwrap();
    let again = Event::Resolved(Decided::new(Resolution::SendAgain, "looked"));
    forgotten.apply(&again, later(40 * 86_400)).unwrap()
}

/// The first attempt may have paid after all: no "no" to the second is definite. Nor is it withdrawn as if nothing had been sent.
#[rstest]
#[case::already_refunded(refused(ErrorCategory::AlreadyRefunded))]
#[case::in_use(refused(ErrorCategory::IdentifierInUse))]
#[case::not_processed(not_sent())]
fn what_was_taken_once_is_never_called_failed(#[case] outcome: Outcome) {
    for contract in [namecom(), debitsuccess()] {
        let refund = sent_again_by_a_person();
        let events = after_attempt(&refund, outcome.clone(), rules(&contract), now()).events;
        assert_eq!(end(&refund, &events), State::InDoubt);
    }
}

/// The thirty days are those since the provider took it, not since the very first attempt.
#[test]
fn what_was_sent_again_late_is_followed_anew() {
    let at = later(40 * 86_400);
    let taken = Acceptance { status: Some("Submitted".into()), ..Acceptance::default() };
    let refund = sent_again_by_a_person().apply(&Event::Accepted(taken), at).unwrap();
    let look = || Lookup::Found(accepted("Submitted"));
    assert!(may_take_too_long(&refund, at), "its history is asked");
    let events = after_look_of(&refund, look(), Some(at), rules(&debitsuccess()), at, at).events;
    assert_eq!(end(&refund, &events), State::Submitted);
    let after = at.plus(Duration::from_secs(30 * 86_400));
    let events = after_look_of(&refund, look(), Some(at), rules(&debitsuccess()), after, after).events;
    assert_eq!(end(&refund, &events), State::NeedsReview);
}

/// Two looks without a record, an attempt that is not processed, and again: for some days, and then it is for a person.
#[test]
fn attempts_that_are_never_processed_come_to_an_end() {
    let contract = debitsuccess();
    let (mut refund, mut at) = (doubted_by(None), now());
    let mut attempts = 0;
    while refund.state == State::InDoubt {
        at = at.plus(SETTLE);
        assert!(at.since(now()) < Duration::from_secs(4 * 86_400), "it never ends");
        let looked = after_lookup(&refund, nothing_there(), rules(&contract), at);
        refund = looked.events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap());
        if looked.resend {
            attempts += 1;
            refund = refund.apply(&Event::Dispatched { credential: None }, at).unwrap();
            let events = after_attempt(&refund, not_sent(), rules(&contract), at).events;
            refund = events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap());
        }
    }
    assert_eq!((refund.state, refund.unanswered_attempts), (State::NeedsReview, 1));
    assert!(attempts > 5, "more than may be left without an answer");
}

/// Whatever the looks say, as long as it is no end.
#[rstest]
#[case::nothing(nothing_there())]
#[case::still_taken(Lookup::Found(accepted("Submitted")))]
#[case::no_answer(Lookup::unavailable("no connection"))]
fn what_the_provider_took_and_never_finishes_is_for_a_person(#[case] lookup: Lookup) {
    let refund = in_state(State::Submitted);
    for (days, expected) in [(29, State::Submitted), (30, State::NeedsReview)] {
        let events = after_lookup(&refund, lookup.clone(), rules(&namecom()), later(days * 86_400)).events;
        assert_eq!(end(&refund, &events), expected, "after {days} days");
    }
    let done = Lookup::Found(Outcome::Refunded(Confirmation::default()));
    let events = after_lookup(&refund, done, rules(&namecom()), later(31 * 86_400)).events;
    assert_eq!(end(&refund, &events), State::Succeeded);
}

/// Where the contract gives an order more time to show a refund, silence is borne for as long.
#[test]
fn silence_is_not_judged_before_the_settle_time_is_over() {
    let contract = RetryContract { settle_time: Duration::from_secs(7 * 86_400), ..sectigo() };
    let silence = || Lookup::unavailable("no connection");
    for (days, expected) in [(6, State::InDoubt), (7, State::NeedsReview)] {
        let refund = doubted_by(None);
        let events = after_lookup(&refund, silence(), rules(&contract), later(days * 86_400)).events;
        assert_eq!(end(&refund, &events), expected, "after {days} days");
    }
}

#[rstest]
#[case::first(0, 0, 10)]
#[case::second(0, 10, 30)]
#[case::each_unanswered_attempt_makes_it_rarer(1, 0, 30)]
#[case::however_many_there_were(99, 0, 3_600)]
#[case::last_of_the_first(0, 3_599, 3_600)]
#[case::daily(0, 3_600, 3_600 + 86_400)]
#[case::after_a_long_sleep(0, 10 * 86_400, 3_600 + 10 * 86_400)]
fn looks_become_rarer(#[case] skipped: u32, #[case] elapsed: u64, #[case] expected: u64) {
    assert_eq!(SCHEDULE.next(now(), skipped, later(elapsed)), later(expected));
}

#[test]
fn the_moment_at_which_silence_means_more_is_not_slept_through() {
    let contract = sectigo();
    let outcome = unknown(DoubtReason::Timeout);
    let refund = dispatching();
    let decision = after_attempt(&refund, outcome, rules(&contract), now());
    assert_eq!(decision.next_check, Some(later(10)));
    let refund = doubted_by(None);
    let decision = after_lookup(&refund, nothing_there(), rules(&contract), later(130));
    assert_eq!(decision.next_check, Some(later(600)), "the settle time, and not 10 minutes later");
}

proptest! {
    #[test]
    fn the_next_look_always_lies_ahead(skipped in 0_u32..30, elapsed in 0_u64..400 * 86_400) {
        let next = SCHEDULE.next(now(), skipped, later(elapsed));
        prop_assert!(next > later(elapsed));
        prop_assert!(next <= later(elapsed).plus(SCHEDULE.then_every.max(Duration::from_secs(3_600))));
    }
}
