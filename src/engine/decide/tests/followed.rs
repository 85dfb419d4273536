//! Refunds that are looked up although nothing more is sent for them: reviews, and rejections that
//! may be corrected.

use proptest::sample::select;

use super::*;
use crate::domain::outcome::ItemState;
use crate::domain::target::NamecomTarget;

fn in_review(evidence: &str, foreign_record: bool) -> Refund {
    let doubted = in_state(State::InDoubt);
    doubted.apply(&Event::Escalated { evidence: evidence.to_owned(), foreign_record }, now()).unwrap()
}

/// Failed by the provider's rejection or an operator's decision, and followed.
fn failed(by_an_operator: bool) -> Refund {
    let refund = in_state(State::Submitted);
    let follow_until = Some(now().saturating_add(FOLLOW_UP));
    let rejection = if by_an_operator {
        let decided = Decided { take_over: true, follow_until, ..Decided::new(Resolution::NotRefunded, "ticket") };
        Event::Resolved(decided)
    } else {
        let error = ProviderError { code: "Rejected".into(), ..error(ErrorCategory::RejectedOnReview) };
        Event::Refused { error, items: Vec::new(), follow_until }
    };
    refund.apply(&rejection, now()).unwrap()
}

fn item(id: &str, state: ItemState, cents: Option<i64>) -> ItemResult {
    let refunded_amount = cents.map(|minor_units| Money { currency: Currency::USD, minor_units });
    ItemResult { item_id: id.into(), state, refunded_amount, message: String::new(), requested: true }
}

fn items_seen(items: Vec<ItemResult>) -> Lookup {
    Lookup::NotFound { evidence: "the order shows its items".into(), items, absence: Absence::Unproven }
}

fn completed() -> Confirmation {
    Confirmation { status: Some("Completed".into()), ..Confirmation::default() }
}

fn apply_all(refund: Refund, events: &[Event], at: Timestamp) -> Refund {
    events.iter().fold(refund, |refund, event| refund.apply(event, at).unwrap())
}

/// And not by a record that may be another caller's.
#[rstest]
#[case::completed(Lookup::Found(Outcome::Refunded(completed())), State::Succeeded)]
#[case::rejected(Lookup::Found(refused(ErrorCategory::RejectedOnReview)), State::Failed)]
#[case::another_status(Lookup::Found(accepted("Approved")), State::NeedsReview)]
#[case::a_contradiction(Lookup::Found(unknown(DoubtReason::Contradiction)), State::NeedsReview)]
#[case::no_trace(no_trace(), State::NeedsReview)]
#[case::no_answer(Lookup::unavailable("no connection"), State::NeedsReview)]
fn only_a_record_under_our_own_identifier_ends_a_review(#[case] lookup: Lookup, #[case] by_our_record: State) {
    for (contract, foreign_record, expected) in [
        (debitsuccess(), false, by_our_record),
        (debitsuccess(), true, State::NeedsReview),
        (sectigo(), false, State::NeedsReview),
        (namecom(), false, State::NeedsReview),
    ] {
        let refund = in_review("outcome unknown", foreign_record);
        let decision = after_lookup(&refund, lookup.clone(), rules(&contract), later(86_400));
        assert_eq!(state_after(&refund, &decision.events), expected, "{contract:?}, foreign: {foreign_record}");
        assert!(!decision.resend, "never resent");
        if expected == State::NeedsReview {
            assert_eq!(decision.next_check, Some(later(2 * 86_400)), "once a day");
        }
    }
}

/// An etag that an operator holds stays valid while nothing new is seen.
#[rstest]
#[case::as_the_review_began("no record; and that proves nothing", no_trace(), false)]
#[case::the_same_evidence("no record", no_trace(), false)]
#[case::evidence_that_only_begins_alike("no record of it", no_trace(), true)]
#[case::other_evidence("timeout", no_trace(), true)]
#[case::no_answer("timeout", Lookup::unavailable("no connection"), false)]
#[case::another_status("the provider has the refund: Odd", Lookup::Found(accepted("Odd")), true)]
#[case::items("the order shows its items", items_seen(vec![item("1", ItemState::Succeeded, None)]), true)]
fn a_review_records_only_what_is_new(#[case] known: &str, #[case] lookup: Lookup, #[case] is_new: bool) {
    let refund = in_review(known, false);
    let contract = debitsuccess();
    let decision = after_lookup(&refund, lookup.clone(), rules(&contract), later(10));
    assert_eq!(!decision.events.is_empty(), is_new, "{:?}", decision.events);
    let refund = apply_all(refund, &decision.events, later(10));
    let again = after_lookup(&refund, lookup, rules(&contract), later(20));
    assert_eq!(again.events, [], "the same again is not new");
    assert_eq!(again.next_check, Some(later(20 + 86_400)));
}

#[rstest]
fn a_failed_refund_is_corrected_by_a_lookup_that_shows_it(#[values(true, false)] by_an_operator: bool) {
    let refund = failed(by_an_operator);
    let found = Lookup::Found(Outcome::Refunded(completed()));
    let decision = after_lookup(&refund, found.clone(), rules(&debitsuccess()), later(86_400));
    let caution_until = later(86_400).saturating_add(FOLLOW_UP);
    assert_eq!(decision.events, [Event::Corrected { confirmation: completed(), caution_until }]);
    assert_eq!((decision.next_check, decision.resend), (None, false));
    let corrected = apply_all(refund, &decision.events, later(86_400));
    assert_eq!(corrected.state, State::Failed);
    // Only once: a corrected refund accepts no further event.
    let again = after_lookup(&corrected, found, rules(&debitsuccess()), later(2 * 86_400));
    assert!(corrected.apply(&again.events[0], later(2 * 86_400)).is_err());
}

#[rstest]
#[case::with_amounts(&[Some(500), Some(250)], Some(750))]
#[case::one_without(&[Some(500), None], None)]
#[case::beyond_all_bounds(&[Some(i64::MAX), Some(1)], None)]
fn refunded_items_correct_a_failed_refund(#[case] cents: &[Option<i64>], #[case] sum: Option<i64>) {
    let mut items: Vec<ItemResult> =
        (1..).zip(cents).map(|(id, cents)| item(&format!("{id}"), ItemState::Succeeded, *cents)).collect();
    items.push(item("9", ItemState::Failed, None));
    let decision = after_lookup(&failed(true), items_seen(items.clone()), rules(&namecom()), later(10));
    let [Event::Corrected { confirmation, .. }] = decision.events.as_slice() else { panic!("{decision:?}") };
    assert_eq!(confirmation.amount.map(|amount| amount.minor_units), sum);
    assert_eq!((confirmation.status.as_deref(), &confirmation.items), (Some("refunded"), &items));
}

/// Once a day, with an event only for a new status.
#[rstest]
#[case::no_trace(no_trace(), 0)]
#[case::failed_items(items_seen(vec![item("1", ItemState::Failed, None)]), 0)]
#[case::no_answer(Lookup::unavailable("no connection"), 0)]
#[case::the_same_refusal(Lookup::Found(refused(ErrorCategory::RejectedOnReview)), 0)]
#[case::another_status(Lookup::Found(accepted("Approved")), 1)]
fn a_failed_refund_is_followed_for_a_time(#[case] lookup: Lookup, #[case] events: usize) {
    for by_an_operator in [true, false] {
        let mut refund = failed(by_an_operator);
        for (day, next) in (1..=6).map(|day| (day, Some(day + 1).filter(|next| *next < 7))).chain([(9, None)]) {
            let decision = after_lookup(&refund, lookup.clone(), rules(&debitsuccess()), later(day * 86_400));
            assert_eq!(decision.events.len(), if day == 1 { events } else { 0 }, "on day {day}");
            assert_eq!(decision.next_check, next.map(|day| later(day * 86_400)), "on day {day}");
            refund = apply_all(refund, &decision.events, later(day * 86_400));
            assert_eq!((refund.state, refund.corrected_time), (State::Failed, None));
        }
    }
}

#[rstest]
#[case::a_rejection(ErrorCategory::RejectedOnReview, FOLLOW_UP, true)]
#[case::switched_off(ErrorCategory::RejectedOnReview, Duration::ZERO, false)]
#[case::another_refusal(ErrorCategory::NotEligible, FOLLOW_UP, false)]
fn only_a_rejection_on_review_is_followed(
    #[case] category: ErrorCategory,
    #[case] follow_up: Duration,
    #[case] is_followed: bool,
) {
    let contract = debitsuccess();
    let rules = RetryRules { follow_up, ..rules(&contract) };
    for refund in [in_state(State::InDoubt), in_state(State::Submitted), in_review("outcome unknown", false)] {
        let decision = after_lookup(&refund, Lookup::Found(refused(category)), rules, later(10));
        let after = apply_all(refund, &decision.events, later(10));
        assert_eq!((after.state, after.is_followed(later(11))), (State::Failed, is_followed));
        assert_eq!(after.caution_until, is_followed.then(|| later(10).saturating_add(follow_up)));
        assert_eq!(decision.next_check, is_followed.then(|| later(10 + 86_400)));
    }
    // The refusal of an attempt is not a review that could be corrected.
    let decision = after_attempt(&dispatching(), refused(category), rules, now());
    assert!(matches!(decision.events.as_slice(), [Event::Refused { follow_until: None, .. }]));
}

/// If the identifier was in use before the first attempt, the record may be another caller's, even
/// after an operator had the refund sent again.
#[test]
fn a_foreign_record_never_decides() {
    let contract = debitsuccess();
    let first = after_attempt(&dispatching(), refused(ErrorCategory::IdentifierInUse), rules(&contract), now());
    let refund = apply_all(dispatching(), &first.events, now());
    assert_eq!((refund.state, refund.foreign_record), (State::NeedsReview, true));
    let again = refund.apply(&Event::Resolved(Decided::new(Resolution::SendAgain, "looked")), later(10)).unwrap();
    let second = after_attempt(&again, refused(ErrorCategory::IdentifierInUse), rules(&contract), later(11));
    assert_eq!(second.next_check, None, "looked up immediately");
    let refund = apply_all(again, &second.events, later(11));
    for found in [Outcome::Refunded(completed()), accepted("Approved"), refused(ErrorCategory::RejectedOnReview)] {
        let decision = after_lookup(&refund, Lookup::Found(found), rules(&contract), later(12));
        assert_eq!((state_after(&refund, &decision.events), decision.resend), (State::NeedsReview, false));
    }
}

/// A partial success in a review does not end it, but the refund shows it.
#[test]
fn items_seen_during_a_review_are_kept() {
    let mut refund = in_review("outcome unknown", false);
    refund.intent.target = Target::Namecom(NamecomTarget::new(7, &[1, 2]).unwrap());
    let items = vec![item("1", ItemState::Succeeded, Some(500)), item("2", ItemState::Failed, None)];
    let confirmation = Confirmation { items: items.clone(), ..completed() };
    let seen = Lookup::Found(Outcome::Refunded(confirmation));
    let decision = after_lookup(&refund, seen, rules(&namecom()), later(10));
    let after = apply_all(refund, &decision.events, later(10));
    assert_eq!((after.state, after.items), (State::NeedsReview, items));
    let evidence = after.doubt.unwrap().last_evidence;
    assert_eq!(evidence, "the provider says that the money was refunded");
}

proptest! {
    #[test]
    fn a_lookup_in_review_or_after_a_failure_leads_to_no_attempt(
        lookup in select(vec![
            no_trace(),
            Lookup::NotFound { evidence: "untouched".into(), items: Vec::new(), absence: Absence::Untouched },
            Lookup::unavailable("no connection"),
            Lookup::Found(accepted("Approved")),
            Lookup::Found(not_sent()),
            Lookup::Found(unknown(DoubtReason::UnreadableReply)),
        ]),
        contract in select(vec![sectigo(), namecom(), debitsuccess()]),
        seconds in 0_u64..40 * 86_400,
        key_is_bound in any::<bool>(),
    ) {
        for refund in [in_review("outcome unknown", false), failed(true), failed(false)] {
            let rules = RetryRules { key_is_bound, ..rules(&contract) };
            let decision = after_lookup(&refund, lookup.clone(), rules, later(seconds));
            prop_assert!(!decision.resend);
            prop_assert_eq!(apply_all(refund.clone(), &decision.events, later(seconds)).state, refund.state);
        }
    }
}
