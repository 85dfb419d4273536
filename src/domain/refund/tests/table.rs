//! The state table as a whole.

use proptest::sample::select;

use super::*;

fn all() -> Vec<(State, Event)> {
    State::ALL.into_iter().flat_map(|from| events().into_iter().map(move |event| (from, event))).collect()
}

/// Where the money may have moved, only a definite refusal or an operator leads to a state that
/// says that it did not.
#[test]
fn doubt_ends_in_failure_only_by_a_refusal_or_an_operator() {
    for (from, event) in all() {
        let Ok(to) = state::transition(from, &event) else { continue };
        if from.is_in_question() && matches!(to, State::Failed | State::Pending | State::Cancelled) {
            let is_word = matches!(event, Event::Refused { .. } | Event::Resolved(_));
            assert!(to == State::Failed && is_word, "{from} -> {to} by {event:?}");
        }
    }
}

/// Bytes leave in one state only, and only recorded events lead there.
#[test]
fn an_attempt_begins_in_exactly_three_ways() {
    let ways: Vec<(State, &str)> = all()
        .into_iter()
        .filter(|(from, event)| state::transition(*from, event) == Ok(State::Dispatching))
        .map(|(from, event)| (from, event.kind().as_str()))
        .collect();
    let expected = [(State::Pending, "dispatched"), (State::InDoubt, "dispatched"), (State::NeedsReview, "resolved")];
    assert_eq!(ways, expected);
}

#[test]
fn a_terminal_state_is_never_left() {
    for (from, event) in all() {
        let after = state::transition(from, &event);
        assert!(!from.is_terminal() || after.is_err() || after == Ok(from), "{from} by {event:?}");
    }
}

/// No refund is stuck: from each open state a lookup, an answer or an operator leads on.
#[test]
fn every_open_state_has_a_way_out() {
    for from in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        let mut reached = vec![from];
        let mut open = vec![from];
        while let Some(state) = open.pop() {
            for to in events().iter().filter_map(|event| state::transition(state, event).ok()) {
                if !reached.contains(&to) {
                    reached.push(to);
                    open.push(to);
                }
            }
        }
        assert!(reached.contains(&State::Succeeded) && reached.contains(&State::Failed), "{from}: {reached:?}");
    }
}

#[test]
fn every_state_parses_from_its_name() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(state));
        assert_eq!(state.to_string(), state.as_str());
        assert!(!(state.is_terminal() && state.is_in_question()));
        assert_eq!(state.holds_target(), !matches!(state, State::Failed | State::Cancelled));
    }
    assert_eq!(State::parse("pending"), None);
}

proptest! {
    #[test]
    fn a_rejected_transition_names_state_and_event(from in select(State::ALL.to_vec()), event in select(events())) {
        if let Err(refusal) = state::transition(from, &event) {
            prop_assert_eq!(refusal, IllegalTransition { from, event: event.kind().as_str() });
        }
    }
}
