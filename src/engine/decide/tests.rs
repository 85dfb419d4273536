//! What follows from which answer, row by row.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::domain::ids::AccountName;
use crate::domain::refund::Intent;
use crate::domain::target::{SectigoTarget, Target};

const BACKOFF: Backoff = Backoff { shortest: Duration::from_secs(1), longest: Duration::from_secs(300) };

static SCHEDULE: LazyLock<Schedule> = LazyLock::new(|| Schedule {
    first: [10, 30, 120, 600, 3_600].map(Duration::from_secs).to_vec(),
    then_every: Duration::from_secs(86_400),
});

fn rules(contract: &RetryContract) -> Rules<'_> {
    Rules { contract, schedule: &SCHEDULE, backoff: BACKOFF }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_000_000)
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
    Refund::new(intent, now()).apply(&Event::Dispatched, now()).unwrap()
}

/// As after a resend out of doubt: an earlier attempt is unanswered.
fn dispatching_again() -> Refund {
    let doubted = dispatching().apply(&Event::Interrupted, now()).unwrap();
    doubted.apply(&Event::Dispatched, now()).unwrap()
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
            doubted.apply(&Event::Escalated { evidence: "nobody knows".into() }, now()).unwrap()
        }
        other => panic!("no way to {other}"),
    };
    assert_eq!(refund.state, state);
    refund
}

fn error(category: ErrorCategory) -> ProviderError {
    ProviderError { code: "-18".into(), message: "no".into(), http_status: 200, category }
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
fn an_answer_is_read_against_our_own_attempts(
    #[case] outcome: Outcome,
    #[case] on_first_send: State,
    #[case] with_an_unanswered_attempt: State,
) {
    let contract = contract(Deduplication::None);
    for (refund, expected) in [(dispatching(), on_first_send), (dispatching_again(), with_an_unanswered_attempt)] {
        let events = after_attempt(&refund, outcome.clone(), rules(&contract), now()).events;
        assert_eq!(end(&refund, &events), expected);
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
#[case::found_done(Lookup::Found(Outcome::Refunded(Confirmation::default())), State::Succeeded, State::Succeeded)]
#[case::found_taken(Lookup::Found(accepted("Approved")), State::Submitted, State::Submitted)]
#[case::found_refused(Lookup::Found(refused(ErrorCategory::RejectedOnReview)), State::Failed, State::Failed)]
#[case::found_other(Lookup::Found(unknown(DoubtReason::Contradiction)), State::NeedsReview, State::NeedsReview)]
#[case::found_unreadable(Lookup::Found(unknown(DoubtReason::UnreadableReply)), State::InDoubt, State::Submitted)]
#[case::no_trace(Lookup::NotFound { proof: false, evidence: "Processed".into() }, State::InDoubt, State::Submitted)]
#[case::no_answer(Lookup::Unavailable { evidence: "refused".into() }, State::InDoubt, State::Submitted)]
fn a_look_settles_what_it_shows_and_nothing_else(
    #[case] lookup: Lookup,
    #[case] in_doubt: State,
    #[case] submitted: State,
) {
    for (from, expected) in
        [(State::InDoubt, in_doubt), (State::Submitted, submitted), (State::NeedsReview, State::NeedsReview)]
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
