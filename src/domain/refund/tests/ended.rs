//! What an operator resolution, a reassignment and a late correction change, field by field.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_000 + seconds)
}

fn usd(minor_units: i64) -> Money {
    Money { currency: Currency::USD, minor_units }
}

fn given(id: &str, cents: Option<i64>) -> ItemResolution {
    ItemResolution { item_id: id.into(), refunded: true, amount: cents.map(usd) }
}

fn not_refunded(id: &str) -> ItemResolution {
    ItemResolution { item_id: id.into(), refunded: false, amount: None }
}

fn apply_all(refund: Refund, events: &[Event]) -> Refund {
    (1..).zip(events).fold(refund, |refund, (second, event)| refund.apply(event, at(second)).unwrap())
}

/// Two items of one order; a lookup has seen the first refunded.
fn half_seen() -> Refund {
    let first =
        ItemResult { refunded_amount: Some(usd(700)), message: "done".into(), ..item("1", ItemState::Succeeded, true) };
    let attached = item("3", ItemState::Succeeded, false);
    let observation =
        Observation { items: vec![first, attached], ..Observation::new("one of two", RecordSeen::Absent) };
    let refund = of(Target::Namecom(NamecomTarget::new(9, &[1, 2]).unwrap()));
    apply_all(refund, &[Event::Dispatched { credential: None }, Event::Interrupted, Event::Checked(observation)])
}

fn in_doubt() -> Refund {
    apply_all(refund(), &[Event::Dispatched { credential: None }, Event::Interrupted])
}

fn in_review() -> Refund {
    in_doubt().apply(&Event::Escalated { evidence: "not known".into(), foreign_record: false }, at(3)).unwrap()
}

fn decided(resolution: Resolution) -> Event {
    Event::Resolved(Decided { take_over: true, ..Decided::new(resolution, "ticket 7") })
}

fn shown(refund: &Refund) -> Vec<(&str, ItemState, Option<i64>)> {
    let amount = |item: &ItemResult| item.refunded_amount.map(|amount| amount.minor_units);
    refund.items.iter().map(|item| (item.item_id.as_str(), item.state, amount(item))).collect()
}

const GIVEN: ItemState = ItemState::Succeeded;
const KEPT: ItemState = ItemState::Failed;
/// Only the provider can report on an item that was refunded along with the others.
const ATTACHED: (&str, ItemState, Option<i64>) = ("3", GIVEN, None);

#[rstest]
#[case::one_of_two(
    None, vec![given("1", None), not_refunded("2")], State::PartiallySucceeded,
    vec![("1", GIVEN, Some(700)), ATTACHED, ("2", KEPT, None)], None, &["item:1"]
)]
#[case::the_other_one(
    None, vec![not_refunded("1"), given("2", Some(300))], State::PartiallySucceeded,
    vec![("1", KEPT, None), ATTACHED, ("2", GIVEN, Some(300))], Some(300), &["item:2"]
)]
#[case::both_with_amounts(
    None, vec![given("1", Some(650)), given("2", Some(300))], State::Succeeded,
    vec![("1", GIVEN, Some(650)), ATTACHED, ("2", GIVEN, Some(300))], Some(950), &["item:1", "item:2"]
)]
#[case::the_whole_says_more_than_its_parts(
    Some(999), vec![given("1", None), not_refunded("2")], State::PartiallySucceeded,
    vec![("1", GIVEN, Some(700)), ATTACHED, ("2", KEPT, None)], Some(999), &["item:1"]
)]
#[case::beyond_all_bounds(
    None, vec![given("1", Some(i64::MAX)), given("2", Some(1))], State::Succeeded,
    vec![("1", GIVEN, Some(i64::MAX)), ATTACHED, ("2", GIVEN, Some(1))], None, &["item:1", "item:2"]
)]
#[case::no_value_of_items_is_all_of_them(
    Some(1_000), vec![], State::Succeeded,
    vec![("1", GIVEN, Some(700)), ATTACHED, ("2", GIVEN, None)], Some(1_000), &["item:1", "item:2"]
)]
fn a_resolution_sets_the_result_of_each_item(
    #[case] amount: Option<i64>,
    #[case] items: Vec<ItemResolution>,
    #[case] state: State,
    #[case] expected: Vec<(&str, ItemState, Option<i64>)>,
    #[case] total: Option<i64>,
    #[case] holds: &[&str],
) {
    let event = decided(Resolution::Refunded { amount: amount.map(usd), items });
    let after = half_seen().apply(&event, at(9)).unwrap();
    assert_eq!((after.state, after.complete_time, &after.doubt), (state, Some(at(9)), &None));
    assert_eq!(shown(&after), expected);
    assert_eq!(after.refunded_amount.map(|amount| amount.minor_units), total);
    assert_eq!(held(&after), holds);
    let note = event.note(&after);
    assert_eq!(note.contains("only the items"), state == State::PartiallySucceeded, "{note}");
}

#[test]
fn a_refund_resolved_as_not_refunded_has_no_refunded_item() {
    let event = Event::Resolved(Decided {
        take_over: true,
        reserve_until: Some(at(600)),
        follow_until: Some(at(900)),
        ..Decided::new(Resolution::NotRefunded, "ticket 7")
    });
    let after = half_seen().apply(&event, at(9)).unwrap();
    assert_eq!((after.state, shown(&after)), (State::Failed, vec![("1", KEPT, None), ATTACHED, ("2", KEPT, None)]));
    assert_eq!((after.reserved_until, after.caution_until), (Some(at(600)), Some(at(900))));
    let window = after.similarity_window();
    assert_eq!((window.until, window.firm_until), (at(900), Some(at(600))));
    for (seconds, is_followed) in [(899, true), (900, false)] {
        assert_eq!(after.is_followed(at(seconds)), is_followed);
    }
}

/// An operator with proof resolves before the gateway has finished, but nothing is sent meanwhile.
#[rstest]
#[case(Resolution::Refunded { amount: None, items: Vec::new() }, Some(State::Succeeded))]
#[case(Resolution::NotRefunded, Some(State::Failed))]
#[case(Resolution::SendAgain, None)]
fn an_early_resolution_needs_take_over(#[case] resolution: Resolution, #[case] taken_over: Option<State>) {
    let in_time = Event::Resolved(Decided::new(resolution.clone(), "ticket 7"));
    let submitted =
        apply_all(refund(), &[Event::Dispatched { credential: None }, Event::Accepted(Acceptance::default())]);
    for refund in [in_doubt(), submitted] {
        assert!(refund.apply(&in_time, at(9)).is_err(), "not without take_over");
        let after = refund.apply(&decided(resolution.clone()), at(9)).map(|after| after.state);
        assert_eq!(after.ok(), taken_over);
    }
    assert!(in_review().apply(&in_time, at(9)).is_ok());
    for open in [refund(), refund().apply(&Event::Dispatched { credential: None }, at(1)).unwrap()] {
        assert!(open.apply(&decided(resolution.clone()), at(9)).is_err(), "{}", open.state);
    }
}

/// The first attempt may have paid after all, so its outcome is in doubt again.
#[test]
fn a_resolution_to_send_again_resets_the_outcome() {
    let forgotten = apply_all(
        refund(),
        &[
            Event::Dispatched { credential: Some("old".into()) },
            Event::Accepted(Acceptance::default()),
            Event::Checked(Observation::new("no record", RecordSeen::Absent)),
            Event::Escalated { evidence: "gone".into(), foreign_record: false },
        ],
    );
    assert_eq!((forgotten.unanswered_attempts, forgotten.absent_since), (0, None));
    let again = Decided { credential: Some("new".into()), ..Decided::new(Resolution::SendAgain, "ticket 7") };
    let after = forgotten.apply(&Event::Resolved(again), at(9)).unwrap();
    assert_eq!((after.state, after.attempt_count, after.unanswered_attempts), (State::Dispatching, 2, 1));
    assert_eq!((after.dispatch_time, after.last_dispatch_time), (Some(at(1)), Some(at(9))));
    assert_eq!(after.credential.as_deref(), Some("new"));
}

#[rstest]
#[case::another_host("https://other.example", "login", true)]
#[case::another_login("https://provider.example", "another", true)]
#[case::another_name("https://provider.example", "login", false)]
fn a_reassignment_records_whether_an_attempt_was_made_elsewhere(
    #[case] endpoint: &str,
    #[case] login: &str,
    #[case] is_elsewhere: bool,
) {
    let to = Place { endpoint: endpoint.into(), login: login.into(), ..place() };
    let account = AccountName::parse("other").unwrap();
    let moved = Event::Reassigned { account: account.clone(), place: to.clone(), evidence: "same account".into() };
    let absent = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let not_sent = Event::NotSent { error: error(429), retry_at: at(500) };
    let submitted = [Event::Dispatched { credential: None }, Event::Accepted(Acceptance::default())];
    let submitted = apply_all(refund(), &submitted);
    for (before, was_attempted) in [
        (refund(), false),
        // Proof that nothing was processed: it is sent as a first attempt.
        (apply_all(refund(), &[Event::Dispatched { credential: None }, not_sent]), false),
        (in_doubt().apply(&absent, at(5)).unwrap(), true),
        (submitted.apply(&absent, at(5)).unwrap(), true),
        (in_review(), true),
    ] {
        let after = before.apply(&moved, at(100)).unwrap();
        assert_eq!((after.state, &after.doubt), (before.state, &before.doubt));
        assert_eq!((&after.account, &after.place, &after.intent), (&account, &to, &before.intent));
        assert_eq!((after.placed_time, after.pending_since()), (Some(at(100)), at(100)));
        assert_eq!((after.absent_since, after.next_check, after.not_before), (None, None, None));
        assert_eq!(after.attempted_elsewhere, is_elsewhere && was_attempted, "from {}", before.state);
        let since = if after.attempted_elsewhere { Some(at(100)) } else { before.last_dispatch_time };
        assert_eq!(after.settling_since(), since);
        // Moved back: no provider documents that a key counts again.
        let back = Event::Reassigned { account: account.clone(), place: place(), evidence: "back".into() };
        let back = after.apply(&back, at(200)).unwrap();
        assert_eq!(back.attempted_elsewhere, after.attempted_elsewhere);
        assert_eq!(back.has_same_attempt(&after), back.place == after.place);
    }
}

#[test]
fn a_correction_changes_the_amount_and_not_the_state() {
    let no = Event::Resolved(Decided {
        take_over: true,
        reserve_until: Some(at(600)),
        follow_until: Some(at(900)),
        ..Decided::new(Resolution::NotRefunded, "ticket 7")
    });
    let failed = half_seen().apply(&no, at(9)).unwrap();
    let confirmation = Confirmation {
        reference: Some("77".into()),
        status: Some("refunded".into()),
        amount: Some(usd(700)),
        items: vec![item("1", GIVEN, true), item("2", KEPT, true)],
        ..Confirmation::default()
    };
    let event = Event::Corrected { confirmation, caution_until: at(2_000) };
    let after = failed.apply(&event, at(1_000)).unwrap();
    assert_eq!((after.state, after.complete_time), (State::Failed, failed.complete_time));
    assert_eq!((after.corrected_time, after.caution_until), (Some(at(1_000)), Some(at(2_000))));
    assert_eq!((after.provider_status.as_deref(), after.refunded_amount), (Some("refunded"), Some(usd(700))));
    assert_eq!(shown(&after), [("1", GIVEN, None), ("2", KEPT, None)]);
    // It reserves its whole target again for good. In part or not, callers see FAILED.
    assert!(after.reservations().iter().any(|one| one.key == "item:1" && one.until.is_none()));
    assert_eq!(after.similarity_window().until, at(2_000));
    assert!(!after.is_followed(at(1_001)), "no further lookups");
    assert!(after.apply(&event, at(1_100)).is_err(), "once");
    assert!(event.note(&after).contains("after all"));
}

/// A refund that was never followed is final: no late answer changes it.
#[test]
fn a_refund_that_is_not_followed_takes_no_correction() {
    let refused = Event::Refused { error: error(200), items: Vec::new(), follow_until: None };
    let failed = [
        apply_all(refund(), &[Event::Expired]),
        apply_all(refund(), &[Event::Dispatched { credential: None }, refused]),
        in_review().apply(&decided(Resolution::NotRefunded), at(9)).unwrap(),
    ];
    let yes = Event::Corrected { confirmation: Confirmation::default(), caution_until: at(2_000) };
    for refund in failed {
        assert_eq!(refund.state, State::Failed);
        assert!(!refund.is_followed(at(10)));
        assert!(refund.apply(&yes, at(10)).is_err());
        assert!(refund.apply(&Event::Checked(Observation::new("unusual", RecordSeen::Present)), at(10)).is_err());
    }
}

/// For a day; a failed refund only as long as it may still have an effect.
#[rstest]
#[case(&[], 86_400)]
#[case(&[Event::Dispatched { credential: None }, Event::Interrupted], 86_400)]
#[case(&[Event::Cancelled], 0)]
#[case(&[Event::Expired], 0)]
#[case(&[Event::Dispatched { credential: None }, Event::Refunded(Confirmation::default())], 86_400)]
#[case(
    &[
        Event::Dispatched { credential: None },
        Event::Refused { error: error(200), items: Vec::new(), follow_until: Some(at(5_000)) },
    ],
    5_000
)]
fn a_refund_has_similar_refunds_for_a_time(#[case] events: &[Event], #[case] seconds: i64) {
    let window = apply_all(refund(), events).similarity_window();
    assert_eq!((window.until, window.firm_until), (at(seconds), None));
}

#[test]
fn an_empty_remark_is_none() {
    let submitted = |note: &str| {
        let taken =
            Acceptance { status: Some("Submitted".into()), status_note: Some(note.into()), ..Acceptance::default() };
        apply_all(refund(), &[Event::Dispatched { credential: None }, Event::Accepted(taken)])
    };
    assert_eq!(submitted("soon").provider_status_note.as_deref(), Some("soon"));
    assert_eq!(submitted("").provider_status_note, None);
    let observation = Observation {
        status: Some("Odd".into()),
        status_note: Some(String::new()),
        ..Observation::new("unusual", RecordSeen::Present)
    };
    assert_eq!(submitted("soon").apply(&Event::Checked(observation), at(9)).unwrap().provider_status_note, None);
}

/// An operator resolves exactly the version that they have seen.
#[test]
fn every_event_changes_the_etag() {
    let absent = Event::Checked(Observation::new("no record", RecordSeen::Absent));
    let mut etags: Vec<String> = [refund(), in_doubt(), in_review()].iter().map(Refund::etag).collect();
    etags.push(in_review().apply(&absent, at(5)).unwrap().etag());
    etags.push(Refund::new(refund().intent, place(), at(1)).etag());
    assert_eq!(etags, ["3b9aca00-1", "3b9aca00-3", "3b9aca00-4", "3b9aca00-5", "3baa0c40-1"]);
}

/// The schedule is not part of the state: what is lost with it is found again.
#[test]
fn an_unanswered_lookup_is_remembered_until_the_next_event() {
    let checked = |record| Event::Checked(Observation::new("looked up", record));
    let unheard = in_doubt().apply(&checked(RecordSeen::Unanswered), at(5)).unwrap();
    assert!(unheard.unheard);
    assert!(!unheard.apply(&checked(RecordSeen::Absent), at(6)).unwrap().unheard);
}
