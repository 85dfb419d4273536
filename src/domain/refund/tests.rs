//! The state machine as a whole: every pair of state and event, and the invariants of any sequence
//! of events.

mod approved;
mod ended;
mod table;

use proptest::prelude::*;
use proptest::sample::Index;
use rstest::rstest;

use super::*;
use crate::domain::event::ItemResolution;
use crate::domain::event::Observation;
use crate::domain::money::Currency;
use crate::domain::outcome::Acceptance;
use crate::domain::target::{NamecomTarget, SectigoTarget};

fn place() -> Place {
    Place { endpoint: "https://provider.example".into(), login: "login".into(), currency: Currency::USD }
}

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
        expected_amount: None,
    };
    Refund::new(intent, place(), Timestamp::from_seconds(1_000))
}

/// A refund that two owners other than the shop's must approve.
fn awaiting() -> Refund {
    refund().awaiting(Some(Approval {
        rule: "large".into(),
        needed: 2,
        expire_time: Timestamp::from_seconds(100_000),
        creator_owner: "shop".into(),
        decisions: Vec::new(),
    }))
}

fn approved(owner: &str, is_last: bool) -> Event {
    let by = Approver { caller: format!("{owner}-1"), owner: owner.into() };
    Event::Approved { by, comment: "seen".into(), is_last }
}

fn held(refund: &Refund) -> Vec<String> {
    refund.reservations().into_iter().map(|one| one.key).collect()
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
        Event::Dispatched { credential: None },
        Event::NotSent { error: error(0), retry_at: Timestamp::from_seconds(2_000) },
        Event::Refunded(Confirmation::default()),
        Event::Refunded(Confirmation { items: partial, ..Confirmation::default() }),
        Event::Accepted(Acceptance::default()),
        Event::Refused { error: error(200), items: Vec::new(), follow_until: None },
        Event::Doubted {
            reason: DoubtReason::Timeout,
            evidence: "no answer".into(),
            error: None,
            not_processed: false,
        },
        Event::Interrupted,
        Event::Checked(Observation::new("nothing", RecordSeen::Absent)),
        Event::Escalated { evidence: "not known".into(), foreign_record: false },
        Event::Cancelled,
        Event::Expired,
        Event::Resolved(Decided::new(Resolution::Refunded { amount: None, items: Vec::new() }, "ticket 7")),
        Event::Resolved(Decided::new(Resolution::NotRefunded, "ticket 7")),
        Event::Resolved(Decided::new(Resolution::SendAgain, "ticket 7")),
        Event::Resolved(Decided {
            take_over: true,
            follow_until: Some(Timestamp::from_seconds(9_000)),
            ..Decided::new(Resolution::NotRefunded, "ticket 7")
        }),
        Event::Reassigned {
            account: AccountName::parse("other").unwrap(),
            place: Place { login: "another".into(), ..place() },
            evidence: "ticket 7".into(),
        },
        Event::Corrected {
            confirmation: Confirmation { status: Some("Completed".into()), ..Confirmation::default() },
            caution_until: Timestamp::from_seconds(9_000),
        },
        approved("finance", false),
        approved("audit", true),
        Event::Rejected {
            by: Approver { caller: "finance-1".into(), owner: "finance".into() },
            comment: "no such order".into(),
        },
    ]
}

/// All transitions; every other one must be refused.
#[rstest]
#[case(State::Pending, &[
    ("dispatched", State::Dispatching), ("cancelled", State::Cancelled), ("expired", State::Failed),
    ("reassigned", State::Pending),
])]
#[case(State::Dispatching, &[
    ("not_sent", State::Pending), ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded),
    ("accepted", State::Submitted), ("refused", State::Failed), ("doubted", State::InDoubt), ("interrupted", State::InDoubt),
])]
#[case(State::Submitted, &[
    ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded), ("accepted", State::Submitted),
    ("refused", State::Failed), ("checked", State::Submitted), ("escalated", State::NeedsReview),
    ("resolved", State::Failed), ("reassigned", State::Submitted),
])]
#[case(State::InDoubt, &[
    ("dispatched", State::Dispatching), ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded),
    ("accepted", State::Submitted), ("refused", State::Failed), ("checked", State::InDoubt), ("escalated", State::NeedsReview),
    ("resolved", State::Failed), ("reassigned", State::InDoubt),
])]
#[case(State::NeedsReview, &[
    ("refunded", State::Succeeded), ("refunded", State::PartiallySucceeded), ("refused", State::Failed),
    ("checked", State::NeedsReview), ("resolved", State::Succeeded), ("resolved", State::Failed), ("resolved", State::Dispatching),
    ("resolved", State::Failed), ("reassigned", State::NeedsReview),
])]
#[case(State::Succeeded, &[])]
#[case(State::PartiallySucceeded, &[])]
#[case(State::Failed, &[("checked", State::Failed), ("corrected", State::Failed)])]
#[case(State::Cancelled, &[])]
#[case(State::AwaitingApproval, &[
    ("cancelled", State::Cancelled), ("expired", State::Failed), ("reassigned", State::AwaitingApproval),
    ("approved", State::AwaitingApproval), ("approved", State::Pending), ("rejected", State::Cancelled),
])]
fn the_table_contains_exactly_these_transitions(#[case] from: State, #[case] moves: &[(&str, State)]) {
    let found: Vec<(&str, State)> = events()
        .iter()
        .filter_map(|event| Some((event.kind().as_str(), state::transition(from, event).ok()?)))
        .collect();
    assert_eq!(found, moves);
}

#[test]
fn only_proof_that_no_byte_left_clears_the_dispatch_time() {
    let dispatched = refund().apply(&Event::Dispatched { credential: None }, Timestamp::from_seconds(1_001)).unwrap();
    let after = |http_status| {
        let event = Event::NotSent { error: error(http_status), retry_at: Timestamp::from_seconds(1_003) };
        dispatched.apply(&event, Timestamp::from_seconds(1_002)).unwrap().dispatch_time
    };
    assert_eq!(after(0), None);
    assert_eq!(after(429), Some(Timestamp::from_seconds(1_001)));
}

#[test]
fn a_partial_success_frees_the_refused_items() {
    let refund = of(Target::Namecom(NamecomTarget::new(9, &[1, 2]).unwrap()));
    assert_eq!(held(&refund), ["item:1", "item:2"]);
    let items = vec![
        item("1", ItemState::Succeeded, true),
        item("2", ItemState::Failed, true),
        item("3", ItemState::Succeeded, false),
    ];
    let now = Timestamp::from_seconds(1_001);
    let partial = Event::Refunded(Confirmation { items, ..Confirmation::default() });
    let refund = refund.apply(&Event::Dispatched { credential: None }, now).unwrap().apply(&partial, now).unwrap();
    assert_eq!(held(&refund), ["item:1"]);
}

#[test]
fn fields_that_the_provider_leaves_out_keep_their_last_value() {
    let now = Timestamp::from_seconds(1_001);
    let amount = Some(Money { currency: Currency::USD, minor_units: 5 });
    let first =
        Acceptance { reference: Some("7".into()), status: Some("Submitted".into()), amount, ..Acceptance::default() };
    let refund = refund()
        .apply(&Event::Dispatched { credential: None }, now)
        .unwrap()
        .apply(&Event::Accepted(first), now)
        .unwrap();
    let refund = refund.apply(&Event::Refunded(Confirmation::default()), now).unwrap();
    assert_eq!((refund.provider_reference.as_deref(), refund.refunded_amount), (Some("7"), amount));
}

/// All events; lookups that show the refund or nothing occur more often than the others.
fn events_with_lookups() -> Vec<Event> {
    let checked = |record| Event::Checked(Observation::new("looked up", record));
    let lookups = [RecordSeen::Absent, RecordSeen::Present, RecordSeen::Unanswered].into_iter().cycle().take(9);
    events().into_iter().chain(lookups.map(checked)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(
        picks in proptest::collection::vec((any::<Index>(), proptest::bool::weighted(0.2), -5_i64..50), 0..40),
        needs_approval in any::<bool>(),
    ) {
        let events = events_with_lookups();
        let mut refund = if needs_approval { awaiting() } else { refund() };
        let mut now = Timestamp::from_seconds(1_000);
        for (pick, whatever, seconds) in picks {
            now = Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
            let possible: Vec<&Event> =
                events.iter().filter(|event| whatever || state::transition(refund.state, event).is_ok()).collect();
            let event = if possible.is_empty() { pick.get(&events) } else { *pick.get(&possible) };
            let Ok(next) = refund.apply(event, now) else {
                let refused_no = refund.state == State::Dispatching && refund.unanswered_attempts > 0;
                let not_followed = refund.caution_until.is_none() || refund.corrected_time.is_some();
                let is_over = refund.state == State::Failed && not_followed;
                let is_unfit = matches!(event, Event::Approved { .. });
                prop_assert!(state::transition(refund.state, event).is_err() || refused_no || is_over || is_unfit);
                continue;
            };
            prop_assert_eq!(next.revision, refund.revision + 1);
            prop_assert!(next.update_time >= refund.update_time, "history never runs backwards");
            prop_assert!(!refund.state.is_terminal() || next.state == refund.state, "a terminal state is never left");
            prop_assert_eq!(next.doubt.is_some(), matches!(next.state, State::InDoubt | State::NeedsReview));
            prop_assert_eq!(next.complete_time.is_some(), next.state.is_terminal());
            if refund.state.is_terminal() {
                prop_assert_eq!(next.complete_time, refund.complete_time, "it was complete before");
            }
            prop_assert!(next.not_before.is_none() || next.state == State::Pending);
            let holds_nothing = matches!(next.state, State::Failed | State::Cancelled);
            prop_assert_eq!(held(&next).is_empty(), holds_nothing && next.corrected_time.is_none());
            prop_assert!(next.corrected_time.is_none() || next.state == State::Failed);
            if next.state == State::Failed && matches!(event, Event::Refused { .. }) {
                prop_assert!(next.provider_error.is_some());
            }
            match event {
                Event::Checked(Observation { record: RecordSeen::Absent, .. }) => {
                    prop_assert_eq!(next.absent_since, refund.absent_since.or(Some(next.update_time)));
                }
                Event::Checked(Observation { record: RecordSeen::Unanswered, .. }) => {
                    prop_assert_eq!(next.absent_since, refund.absent_since, "nothing was learnt");
                }
                _ => prop_assert_eq!(next.absent_since, None, "absence counts in a row, up to this event"),
            }
            if next.state == State::Pending || next.state == State::Cancelled {
                prop_assert_eq!(next.unanswered_attempts, 0, "what may have happened is never withdrawn");
            }
            // An attempt at another host or login is remembered for ever.
            let moved = next.place != refund.place && !refund.state.is_unsent();
            prop_assert_eq!(next.attempted_elsewhere, refund.attempted_elsewhere || moved);
            prop_assert!(!event.note(&next).is_empty());
            if let Some(approval) = &next.approval {
                let owners: std::collections::BTreeSet<&str> =
                    approval.decisions.iter().map(|decision| decision.by.owner.as_str()).collect();
                prop_assert!(next.attempt_count == 0 || (owners.len() >= 2 && !owners.contains("shop")));
                prop_assert!(next.pending_since() >= refund.pending_since());
                let is_expired = event.kind() == crate::domain::event::EventKind::Expired;
                prop_assert!(!is_expired || event.note(&next).contains("approved in time") != approval.is_complete());
            }
            prop_assert_eq!(next.assumed_amount, refund.assumed_amount);
            prop_assert!(next.is_counted() || matches!(next.state, State::Cancelled | State::Failed));
            prop_assert!(!next.is_counted() || next.state != State::Cancelled);
            refund = next;
        }
    }
}

/// A record shown in between was there: only consecutive absences count.
#[test]
fn a_record_that_is_shown_again_ends_the_absence() {
    let at = |seconds: i64| Timestamp::from_seconds(1_000 + seconds);
    let dispatched = refund().apply(&Event::Dispatched { credential: None }, at(1)).unwrap();
    let submitted = dispatched.apply(&Event::Accepted(Acceptance::default()), at(2)).unwrap();
    let lookups = [
        (3, RecordSeen::Absent, Some(3)),
        (4, RecordSeen::Unanswered, Some(3)),
        (5, RecordSeen::Absent, Some(3)),
        (6, RecordSeen::Present, None),
        (7, RecordSeen::Absent, Some(7)),
    ];
    lookups.into_iter().fold(submitted, |refund, (seconds, record, since)| {
        let next = refund.apply(&Event::Checked(Observation::new("looked up", record)), at(seconds)).unwrap();
        assert_eq!(next.absent_since, since.map(at), "after {seconds} s");
        next
    });
}

/// The operator may be right today while the request is still queued at the provider.
#[test]
fn a_target_resolved_as_not_refunded_stays_reserved_for_a_time() {
    let now = Timestamp::from_seconds(1_001);
    let until = Timestamp::from_seconds(1_601);
    let refund = of(Target::Namecom(NamecomTarget::new(9, &[1, 2]).unwrap()));
    let doubt = Event::Interrupted;
    let refund = refund.apply(&Event::Dispatched { credential: None }, now).unwrap().apply(&doubt, now).unwrap();
    let decided =
        |resolution| Decided { take_over: true, reserve_until: Some(until), ..Decided::new(resolution, "ticket") };
    let reservations = |resolution| {
        let after = refund.apply(&Event::Resolved(decided(resolution)), now).unwrap();
        after.reservations().into_iter().map(|one| (one.key, one.until)).collect::<Vec<_>>()
    };
    let timed = |item: &str| (format!("item:{item}"), Some(until));
    assert_eq!(reservations(Resolution::NotRefunded), [timed("1"), timed("2")]);
    let items = [("1", true), ("2", false)]
        .map(|(id, refunded)| ItemResolution { item_id: id.into(), refunded, amount: None })
        .to_vec();
    let partly = Resolution::Refunded { amount: None, items };
    assert_eq!(reservations(partly), [("item:1".to_owned(), None), timed("2")]);
}

/// `provider_status` is the provider's name of the present state; that of an earlier state would be
/// wrong.
#[rstest]
#[case(ErrorCategory::RejectedOnReview, "Rejected", Some("Rejected"))]
#[case(ErrorCategory::Other, "-18", None)]
fn a_refusal_clears_the_status_of_an_earlier_state(
    #[case] category: ErrorCategory,
    #[case] code: &str,
    #[case] status: Option<&str>,
) {
    let now = Timestamp::from_seconds(1_001);
    let taken = Event::Accepted(Acceptance { status: Some("Submitted".to_owned()), ..Acceptance::default() });
    let submitted = refund().apply(&Event::Dispatched { credential: None }, now).unwrap().apply(&taken, now).unwrap();
    let error = ProviderError { category, code: code.to_owned(), ..error(200) };
    let failed = submitted.apply(&Event::Refused { error, items: Vec::new(), follow_until: None }, now).unwrap();
    assert_eq!(failed.provider_status.as_deref(), status);
}

/// The refusal of each item is kept, also if all items are refused.
#[test]
fn a_refusal_keeps_the_result_of_each_item() {
    let now = Timestamp::from_seconds(1_001);
    let refund = of(Target::Namecom(NamecomTarget::new(9, &[1, 2]).unwrap()));
    let items = vec![item("1", ItemState::Failed, true), item("2", ItemState::Failed, true)];
    let refused = Event::Refused { error: error(400), items: items.clone(), follow_until: None };
    let failed = refund.apply(&Event::Dispatched { credential: None }, now).unwrap().apply(&refused, now).unwrap();
    assert_eq!((failed.state, failed.items), (State::Failed, items));
}
