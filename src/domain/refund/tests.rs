//! The state machine as a whole: every pair of state and event, and what no sequence of events can break.

use proptest::prelude::*;
use proptest::sample::Index;
use rstest::rstest;

use super::*;
use crate::domain::money::Currency;
use crate::domain::target::{NamecomTarget, SectigoTarget};

fn refund() -> Refund {
    let target = Target::Sectigo(SectigoTarget::new("1000001", 11).unwrap());
    of(target)
}

fn of(target: Target) -> Refund {
    let intent = Intent {
        id: RefundId::parse("one").unwrap(),
        account: AccountName::parse("account").unwrap(),
        target,
        labels: BTreeMap::new(),
    };
    Refund::new(intent, Timestamp::from_seconds(1_000))
}

fn error(http_status: u16) -> ProviderError {
    ProviderError { code: "-18".into(), message: "no".into(), http_status, category: ErrorCategory::Other }
}

fn item(id: &str, state: ItemState, requested: bool) -> ItemResult {
    ItemResult { item_id: id.into(), state, refunded_amount: None, message: String::new(), requested }
}

fn events() -> Vec<Event> {
    let partial = vec![item("1", ItemState::Succeeded, true), item("2", ItemState::Failed, true)];
    vec![
        Event::Dispatched,
        Event::NotSent { error: error(0), retry_at: Timestamp::from_seconds(2_000) },
        Event::Refunded(Confirmation::default()),
        Event::Refunded(Confirmation { items: partial, ..Confirmation::default() }),
        Event::Accepted(Acceptance::default()),
        Event::Refused { error: error(200), items: Vec::new() },
        Event::Doubted {
            reason: DoubtReason::Timeout,
            evidence: "no answer".into(),
            error: None,
            not_processed: false,
        },
        Event::Interrupted,
        Event::Checked { evidence: "nothing".into(), absent: true },
        Event::Escalated { evidence: "nobody knows".into() },
        Event::Cancelled,
        Event::Expired,
        Event::Resolved { resolution: Resolution::Refunded { amount: None }, evidence: "ticket 7".into() },
        Event::Resolved { resolution: Resolution::NotRefunded, evidence: "ticket 7".into() },
        Event::Resolved { resolution: Resolution::SendAgain, evidence: "ticket 7".into() },
    ]
}

/// Every move there is; whatever is not listed must be refused.
#[rstest]
#[case(State::Pending, &[
    ("dispatched", State::Dispatching), ("cancelled", State::Cancelled), ("expired", State::Failed),
])]
#[case(State::Dispatching, &[
    ("not_sent", State::Pending), ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded),
    ("accepted", State::Submitted), ("refused", State::Failed), ("doubted", State::InDoubt), ("interrupted", State::InDoubt),
])]
#[case(State::Submitted, &[
    ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded), ("accepted", State::Submitted),
    ("refused", State::Failed), ("checked", State::Submitted), ("escalated", State::NeedsReview),
])]
#[case(State::InDoubt, &[
    ("dispatched", State::Dispatching), ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded),
    ("accepted", State::Submitted), ("refused", State::Failed), ("checked", State::InDoubt), ("escalated", State::NeedsReview),
])]
#[case(State::NeedsReview, &[
    ("checked", State::NeedsReview), ("resolved", State::Succeeded), ("resolved", State::Failed), ("resolved", State::Dispatching),
])]
#[case(State::Succeeded, &[])]
#[case(State::PartiallySucceeded, &[])]
#[case(State::Failed, &[])]
#[case(State::Cancelled, &[])]
fn the_table_holds_these_moves_and_no_other(#[case] from: State, #[case] moves: &[(&str, State)]) {
    let found: Vec<(&str, State)> =
        events().iter().filter_map(|event| Some((event.name(), state::next(from, event).ok()?))).collect();
    assert_eq!(found, moves);
}

#[test]
fn only_proof_that_no_byte_left_forgets_the_dispatch() {
    let dispatched = refund().apply(&Event::Dispatched, Timestamp::from_seconds(1_001)).unwrap();
    let after = |http_status| {
        let event = Event::NotSent { error: error(http_status), retry_at: Timestamp::from_seconds(1_003) };
        dispatched.apply(&event, Timestamp::from_seconds(1_002)).unwrap().dispatch_time
    };
    assert_eq!(after(0), None);
    assert_eq!(after(429), Some(Timestamp::from_seconds(1_001)));
}

#[test]
fn a_partial_success_gives_the_refused_items_free() {
    let refund = of(Target::Namecom(NamecomTarget::new(9, &[1, 2]).unwrap()));
    assert_eq!(refund.held_keys(), ["item:1", "item:2"]);
    let items = vec![
        item("1", ItemState::Succeeded, true),
        item("2", ItemState::Failed, true),
        item("3", ItemState::Succeeded, false),
    ];
    let now = Timestamp::from_seconds(1_001);
    let partial = Event::Refunded(Confirmation { items, ..Confirmation::default() });
    let refund = refund.apply(&Event::Dispatched, now).unwrap().apply(&partial, now).unwrap();
    assert_eq!(refund.held_keys(), ["item:1"]);
}

#[test]
fn what_the_provider_leaves_out_keeps_its_last_word() {
    let now = Timestamp::from_seconds(1_001);
    let amount = Some(Money { currency: Currency::USD, minor_units: 5 });
    let first =
        Acceptance { reference: Some("7".into()), status: Some("Submitted".into()), amount, ..Acceptance::default() };
    let refund = refund().apply(&Event::Dispatched, now).unwrap().apply(&Event::Accepted(first), now).unwrap();
    let refund = refund.apply(&Event::Refunded(Confirmation::default()), now).unwrap();
    assert_eq!((refund.provider_reference.as_deref(), refund.refunded_amount), (Some("7"), amount));
}

/// All events, and lookups that show the refund, or nothing, more often than the others.
fn events_with_lookups() -> Vec<Event> {
    let checked = |absent| Event::Checked { evidence: "looked".into(), absent };
    let lookups = [true, false].into_iter().cycle().take(8).map(checked);
    events().into_iter().chain(lookups).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn no_sequence_of_events_breaks_what_must_hold(
        picks in proptest::collection::vec((any::<Index>(), proptest::bool::weighted(0.2), -5_i64..50), 0..40),
    ) {
        let events = events_with_lookups();
        let mut refund = refund();
        let mut now = Timestamp::from_seconds(1_000);
        for (pick, whatever, seconds) in picks {
            now = Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
            let possible: Vec<&Event> =
                events.iter().filter(|event| whatever || state::next(refund.state, event).is_ok()).collect();
            let event = if possible.is_empty() { pick.get(&events) } else { *pick.get(&possible) };
            let Ok(next) = refund.apply(event, now) else {
                let refused_no = refund.state == State::Dispatching && refund.unanswered_attempts > 0;
                prop_assert!(state::next(refund.state, event).is_err() || refused_no);
                continue;
            };
            prop_assert_eq!(next.revision, refund.revision + 1);
            prop_assert!(next.update_time >= refund.update_time, "history never runs backwards");
            prop_assert!(!refund.state.is_terminal(), "a terminal state is never left");
            prop_assert_eq!(next.doubt.is_some(), matches!(next.state, State::InDoubt | State::NeedsReview));
            prop_assert_eq!(next.complete_time.is_some(), next.state.is_terminal());
            prop_assert_eq!(next.not_before.is_some(), next.state == State::Pending);
            prop_assert_eq!(next.held_keys().is_empty(), matches!(next.state, State::Failed | State::Cancelled));
            if next.state == State::Failed && matches!(event, Event::Refused { .. }) {
                prop_assert!(next.provider_error.is_some());
            }
            match event {
                Event::Checked { absent: true, .. } => {
                    prop_assert_eq!(next.absent_since, refund.absent_since.or(Some(next.update_time)));
                }
                // In doubt a lookup that shows no absence shows nothing at all: a record would end the doubt.
                Event::Checked { .. } if refund.state != State::Submitted => {
                    prop_assert!(next.absent_since.is_none() || next.absent_since == refund.absent_since);
                }
                _ => prop_assert_eq!(next.absent_since, None, "absence counts in a row, up to this event"),
            }
            if next.state == State::Pending || next.state == State::Cancelled {
                prop_assert_eq!(next.unanswered_attempts, 0, "nobody may withdraw what may have happened");
            }
            prop_assert!(!event.note(&next).is_empty());
            refund = next;
        }
    }
}

/// A record that is shown in between was there: two absences count only in a row.
#[test]
fn a_record_that_is_shown_again_ends_its_absence() {
    let at = |seconds: i64| Timestamp::from_seconds(1_000 + seconds);
    let dispatched = refund().apply(&Event::Dispatched, at(1)).unwrap();
    let submitted = dispatched.apply(&Event::Accepted(Acceptance::default()), at(2)).unwrap();
    let lookups = [(3, true, Some(3)), (4, true, Some(3)), (5, false, None), (6, true, Some(6))];
    lookups.into_iter().fold(submitted, |refund, (seconds, absent, since)| {
        let next = refund.apply(&Event::Checked { evidence: "looked".into(), absent }, at(seconds)).unwrap();
        assert_eq!(next.absent_since, since.map(at), "after {seconds} s");
        next
    });
}

/// `provider_status` is the provider's word for the present state: one for a state that is over would be untrue.
#[rstest]
#[case(ErrorCategory::RejectedOnReview, "Rejected", Some("Rejected"))]
#[case(ErrorCategory::Other, "-18", None)]
fn a_refusal_leaves_no_earlier_word_standing(
    #[case] category: ErrorCategory,
    #[case] code: &str,
    #[case] status: Option<&str>,
) {
    let now = Timestamp::from_seconds(1_001);
    let taken = Event::Accepted(Acceptance { status: Some("Submitted".to_owned()), ..Acceptance::default() });
    let submitted = refund().apply(&Event::Dispatched, now).unwrap().apply(&taken, now).unwrap();
    let error = ProviderError { category, code: code.to_owned(), ..error(200) };
    let failed = submitted.apply(&Event::Refused { error, items: Vec::new() }, now).unwrap();
    assert_eq!(failed.provider_status.as_deref(), status);
}
