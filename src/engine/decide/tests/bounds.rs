//! Limits: how many attempts, how long a provider may take, and what counts as new.

use std::collections::BTreeSet;

use super::*;

/// A refund in doubt after this many unanswered attempts.
fn after_unanswered(unanswered_attempts: u32) -> Refund {
    Refund { unanswered_attempts, attempt_count: unanswered_attempts.max(1), ..in_doubt(None) }
}

#[rstest]
#[case::none_is_unanswered(0, Step::LookUp)]
#[case::one(1, Step::Resend)]
#[case::four(4, Step::Resend)]
#[case::enough(5, Step::LookUp)]
fn a_key_is_sent_again_for_a_few_unanswered_attempts(#[case] unanswered: u32, #[case] expected: Step) {
    assert_eq!(next_step(&after_unanswered(unanswered), rules(&namecom()), later(10)), expected);
}

#[rstest]
#[case::one_more_may_help(4, State::InDoubt, true)]
#[case::enough(5, State::NeedsReview, false)]
fn a_proven_absence_allows_a_limited_number_of_attempts(
    #[case] unanswered: u32,
    #[case] expected: State,
    #[case] resend: bool,
) {
    let contract = debitsuccess();
    let refund = Refund { absent_since: Some(later(10)), ..after_unanswered(unanswered) };
    let decision = after_lookup(&refund, no_trace(), rules(&contract), later(610));
    assert_eq!((state_after(&refund, &decision.events), decision.resend), (expected, resend));
}

/// If nothing is ever sent again, a lookup immediately shows what an unreadable answer means.
#[rstest]
#[case::answered(sectigo(), DoubtReason::UnreadableReply, None)]
#[case::no_answer(sectigo(), DoubtReason::Timeout, Some(later(10)))]
#[case::sent_again_later(namecom(), DoubtReason::UnreadableReply, Some(later(10)))]
fn an_unreadable_answer_leads_to_a_lookup_at_once_if_nothing_is_sent_again(
    #[case] contract: RetryContract,
    #[case] reason: DoubtReason,
    #[case] next_check: Option<Timestamp>,
) {
    assert_eq!(after_attempt(&dispatching(), unknown(reason), rules(&contract), now()).next_check, next_check);
}

#[rstest]
#[case::not_yet(State::Submitted, 30 * 86_400 - 1, false)]
#[case::thirty_days(State::Submitted, 30 * 86_400, true)]
#[case::in_doubt(State::InDoubt, 31 * 86_400, false)]
#[case::in_review(State::NeedsReview, 31 * 86_400, false)]
fn only_an_accepted_refund_may_take_too_long(#[case] state: State, #[case] seconds: u64, #[case] expected: bool) {
    assert_eq!(may_take_too_long(&in_state(state), later(seconds)), expected);
}

/// Everything that a provider may report of an accepted refund.
fn full_acceptance() -> Acceptance {
    Acceptance {
        reference: Some("77".into()),
        status: Some("Submitted".into()),
        status_note: Some("queued".into()),
        items: vec![ItemResult {
            item_id: "1".into(),
            state: ItemState::Submitted,
            refunded_amount: None,
            message: String::new(),
            requested: true,
        }],
        ..Acceptance::default()
    }
}

/// A lookup that repeats what is known is only noted; what is new is kept with the refund.
#[rstest]
#[case::all_the_same(full_acceptance(), false)]
#[case::nothing_reported(Acceptance::default(), false)]
#[case::no_reference(Acceptance { reference: None, ..full_acceptance() }, false)]
#[case::no_status(Acceptance { status: None, ..full_acceptance() }, false)]
#[case::no_note(Acceptance { status_note: None, ..full_acceptance() }, false)]
#[case::no_items(Acceptance { items: Vec::new(), ..full_acceptance() }, false)]
#[case::another_reference(Acceptance { reference: Some("78".into()), ..full_acceptance() }, true)]
#[case::another_status(Acceptance { status: Some("Approved".into()), ..full_acceptance() }, true)]
#[case::another_note(Acceptance { status_note: Some("by hand".into()), ..full_acceptance() }, true)]
#[case::other_items(
    Acceptance { items: vec![ItemResult { message: "soon".into(), ..full_acceptance().items.remove(0) }], ..full_acceptance() },
    true
)]
fn new_facts_about_an_accepted_refund_are_kept(#[case] acceptance: Acceptance, #[case] is_new: bool) {
    let accepted = dispatching().apply(&Event::Accepted(full_acceptance()), now()).unwrap();
    let decision =
        after_lookup(&accepted, Lookup::Found(Outcome::Accepted(acceptance.clone())), rules(&namecom()), later(10));
    match decision.events.as_slice() {
        [Event::Accepted(kept)] => assert!(is_new && *kept == acceptance, "{kept:?}"),
        [Event::Checked(seen)] => assert!(!is_new && seen.record == RecordSeen::Present, "{seen:?}"),
        other => panic!("{other:?}"),
    }
}

/// Whatever it reports or leaves out, the provider has the refund: the doubt is over.
#[test]
fn an_accepted_refund_is_in_doubt_no_longer() {
    for acceptance in [full_acceptance(), Acceptance::default()] {
        let refund = in_doubt(None);
        let decision =
            after_lookup(&refund, Lookup::Found(Outcome::Accepted(acceptance)), rules(&namecom()), later(10));
        assert_eq!(state_after(&refund, &decision.events), State::Submitted);
    }
}

/// The pauses differ by up to a quarter, so that refunds are not sent again all together.
#[test]
fn refunds_that_back_off_together_return_at_different_times() {
    let waits: BTreeSet<Duration> =
        (0..1_000).map(|number| BACKOFF.after(3, &RefundId::parse(&format!("refund-{number}")).unwrap())).collect();
    let full = BACKOFF.min * 4;
    let (least, most) = (*waits.first().unwrap(), *waits.last().unwrap());
    assert!(least < full * 77 / 100 && most > full * 99 / 100, "{least:?} to {most:?}");
    assert!(waits.len() > 500, "{} different pauses", waits.len());
}
