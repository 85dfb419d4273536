//! Who may approve, and what an approval changes.

use rstest::rstest;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_000 + seconds)
}

#[test]
fn the_last_approval_makes_it_pending_and_its_time_to_be_sent_begins_there() {
    let refund = awaiting();
    assert_eq!((refund.state, held(&refund)), (State::AwaitingApproval, vec!["order:1000001".to_owned()]));
    assert_eq!(refund.pending_since(), at(0));
    let refund = refund.apply(&approved("finance", false), at(10)).unwrap();
    assert_eq!((refund.state, refund.pending_since()), (State::AwaitingApproval, at(0)));
    let event = approved("audit", true);
    let refund = refund.apply(&event, at(20)).unwrap();
    assert_eq!((refund.state, refund.pending_since()), (State::Pending, at(20)));
    assert_eq!(event.note(&refund), "audit-1 approved it, 2 of 2: seen.");
    // A move gives it another time at its new account.
    let account = AccountName::parse("other").unwrap();
    let moved = Event::Reassigned { account, place: place(), evidence: "x".into() };
    assert_eq!(refund.apply(&moved, at(30)).unwrap().pending_since(), at(30));
}

/// The caller is another one, the owner is not: it is one person.
#[rstest]
#[case::the_creator(approved("shop", false))]
#[case::an_approver_again(approved("finance", true))]
#[case::one_too_early(approved("audit", false))]
fn an_approval_that_does_not_count_is_refused(#[case] event: Event) {
    let refund = awaiting().apply(&approved("finance", false), at(1)).unwrap();
    let refusal = IllegalTransition { from: State::AwaitingApproval, event: "approved" };
    assert_eq!(refund.apply(&event, at(2)), Err(refusal));
}

#[test]
fn the_last_approval_cannot_come_first() {
    assert!(awaiting().apply(&approved("finance", true), at(1)).is_err());
}

/// Only what never left is given back.
#[rstest]
#[case::rejected(&[Event::Rejected { by: Approver { caller: "a".into(), owner: "a".into() }, comment: "no".into() }], false)]
#[case::cancelled(&[Event::Cancelled], false)]
#[case::not_approved_in_time(&[Event::Expired], false)]
#[case::sent(&[approved("a", false), approved("b", true), Event::Dispatched { credential: None }], true)]
#[case::expired_unsent(&[approved("a", false), approved("b", true), Event::Expired], false)]
#[case::refused(&[
    approved("a", false), approved("b", true), Event::Dispatched { credential: None },
    Event::Refused { error: error(400), items: Vec::new(), follow_until: None },
], true)]
#[case::expired_after_a_temporary_refusal(&[
    approved("a", false), approved("b", true), Event::Dispatched { credential: None },
    Event::NotSent { error: error(429), retry_at: at(9) }, Event::Expired,
], true)]
#[case::expired_after_no_byte_left(&[
    approved("a", false), approved("b", true), Event::Dispatched { credential: None },
    Event::NotSent { error: error(0), retry_at: at(9) }, Event::Expired,
], false)]
fn what_never_left_is_given_back(#[case] events: &[Event], #[case] is_counted: bool) {
    let refund = (1..).zip(events).fold(awaiting(), |refund, (second, event)| refund.apply(event, at(second)).unwrap());
    assert_eq!(refund.is_counted(), is_counted);
}
