//! The state table as a whole: where it leads, whatever happens.

use proptest::sample::select;

use super::*;

fn all() -> Vec<(State, Event)> {
    State::ALL.into_iter().flat_map(|from| events().into_iter().map(move |event| (from, event))).collect()
}

/// From where the money may have moved there is no way to a state that says that it did not, but a
/// definite word.
#[test]
fn doubt_ends_by_a_word_alone() {
    for (from, event) in all() {
        let Ok(to) = state::transition(from, &event) else { continue };
        if from.is_in_question() && matches!(to, State::Failed | State::Pending | State::Cancelled) {
            let is_word = matches!(event, Event::Refused { .. } | Event::Resolved(_));
            assert!(to == State::Failed && is_word, "{from} -> {to} by {event:?}");
        }
    }
}

/// Bytes leave only in one state, and only what is recorded leads there.
#[test]
fn an_attempt_begins_in_three_ways() {
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

/// No refund is stuck: from each state that is not terminal a lookup, an answer or a person leads
/// on.
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
fn a_state_is_read_as_it_is_written() {
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
    fn what_is_refused_is_named(from in select(State::ALL.to_vec()), event in select(events())) {
        if let Err(refusal) = state::transition(from, &event) {
            prop_assert_eq!(refusal, IllegalTransition { from, event: event.kind().as_str() });
        }
    }
}
