//! At the edges: how many attempts, how long a provider may take, and what counts as news.

use std::collections::BTreeSet;

use super::*;

/// In doubt after so many attempts without an answer.
fn doubted_times(unanswered_attempts: u32) -> Refund {
    Refund { unanswered_attempts, attempt_count: unanswered_attempts.max(1), ..doubted_by(None) }
}

#[rstest]
#[case::none_is_unanswered(0, Step::LookUp)]
#[case::one(1, Step::Resend)]
#[case::four(4, Step::Resend)]
#[case::enough(5, Step::LookUp)]
fn a_key_is_used_again_for_a_few_unanswered_attempts(#[case] unanswered: u32, #[case] expected: Step) {
    assert_eq!(next_step(&doubted_times(unanswered), rules(&namecom()), later(10)), expected);
}

#[rstest]
#[case::one_more_may_help(4, State::InDoubt, true)]
#[case::enough(5, State::NeedsReview, false)]
fn absence_is_not_followed_by_attempts_without_end(
    #[case] unanswered: u32,
    #[case] expected: State,
    #[case] resend: bool,
) {
    let contract = debitsuccess();
    let refund = Refund { absent_since: Some(later(10)), ..doubted_times(unanswered) };
    let decision = after_lookup(&refund, nothing_there(), rules(&contract), later(610));
    assert_eq!((end(&refund, &decision.events), decision.resend), (expected, resend));
}

/// A lookup shows at once what an unreadable answer means, where nothing is ever sent again.
#[rstest]
#[case::answered(sectigo(), DoubtReason::UnreadableReply, None)]
#[case::no_answer(sectigo(), DoubtReason::Timeout, Some(later(10)))]
#[case::sent_again_in_its_time(namecom(), DoubtReason::UnreadableReply, Some(later(10)))]
fn an_unreadable_answer_is_looked_into_at_once(
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
fn only_what_the_provider_took_may_take_too_long(#[case] state: State, #[case] seconds: u64, #[case] expected: bool) {
    assert_eq!(may_take_too_long(&in_state(state), later(seconds)), expected);
}

/// What a provider that has taken a refund may say of it, and what it then left out.
fn taken() -> Acceptance {
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

/// What a lookup repeats is one line of the history, and what it says anew stands with the refund.
#[rstest]
#[case::all_the_same(taken(), false)]
#[case::nothing_said(Acceptance::default(), false)]
#[case::no_reference(Acceptance { reference: None, ..taken() }, false)]
#[case::no_status(Acceptance { status: None, ..taken() }, false)]
#[case::no_remark(Acceptance { status_note: None, ..taken() }, false)]
#[case::no_items(Acceptance { items: Vec::new(), ..taken() }, false)]
#[case::another_reference(Acceptance { reference: Some("78".into()), ..taken() }, true)]
#[case::another_status(Acceptance { status: Some("Approved".into()), ..taken() }, true)]
#[case::another_remark(Acceptance { status_note: Some("by hand".into()), ..taken() }, true)]
#[case::other_items(
    Acceptance { items: vec![ItemResult { message: "soon".into(), ..taken().items.remove(0) }], ..taken() },
    true
)]
fn what_a_provider_says_anew_of_a_refund_is_taken_over(#[case] said: Acceptance, #[case] is_new: bool) {
    let accepted = dispatching().apply(&Event::Accepted(taken()), now()).unwrap();
    let decision =
        after_lookup(&accepted, Lookup::Found(Outcome::Accepted(said.clone())), rules(&namecom()), later(10));
    match decision.events.as_slice() {
        [Event::Accepted(acceptance)] => assert!(is_new && *acceptance == said, "{acceptance:?}"),
        [Event::Checked(seen)] => assert!(!is_new && seen.record == RecordSeen::Present, "{seen:?}"),
        other => panic!("{other:?}"),
    }
}

/// Whatever it says or leaves out, it has the refund: the doubt is over.
#[test]
fn a_taken_refund_is_doubted_no_more() {
    for said in [taken(), Acceptance::default()] {
        let refund = doubted_by(None);
        let decision = after_lookup(&refund, Lookup::Found(Outcome::Accepted(said)), rules(&namecom()), later(10));
        assert_eq!(end(&refund, &decision.events), State::Submitted);
    }
}

/// A crowd that was turned away together comes back over a quarter of the pause.
#[test]
fn refunds_that_were_put_off_together_come_back_apart() {
    let waits: BTreeSet<Duration> =
        (0..1_000).map(|number| BACKOFF.after(3, &RefundId::parse(&format!("refund-{number}")).unwrap())).collect();
    let full = BACKOFF.shortest * 4;
    let (shortest, longest) = (*waits.first().unwrap(), *waits.last().unwrap());
    assert!(shortest < full * 77 / 100 && longest > full * 99 / 100, "{shortest:?} to {longest:?}");
    assert!(waits.len() > 500, "{} moments", waits.len());
}
