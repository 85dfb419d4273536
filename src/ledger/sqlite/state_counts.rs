//! Refunds counted by account and state, and commits timed: for an operator, and only where
//! somebody measures.
//!
//! CountState once at the start, sibling the work, and then from what each transaction has moved,
//! so that a look at a million refunds costs nothing. From then on it is right the moment a commit
//! has returned, and before any caller hears of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::telemetry::metrics::Metrics;

/// One refund's way through one job, whatever lay between.
#[derive(Debug)]
pub(super) struct Transition {
    /// None: it is new.
    pub(super) from: Option<(AccountName, State)>,
    pub(super) to: (AccountName, State),
}

/// The counts, and what times the commits.
#[derive(Debug)]
pub(super) struct StateCounts {
    pub(super) metrics: Metrics,
    counted: Mutex<CountState>,
}

#[derive(Debug)]
enum CountState {
    /// What has moved in the meantime, each with the last event of its commit.
    NotYet(Vec<(u64, Vec<Transition>)>),
    Whole(Counts),
    /// The counting has failed, and nothing is kept for it any more.
    Never,
}

/// How many refunds of an account are in a state.
pub(super) type Counts = BTreeMap<(AccountName, State), u64>;

impl StateCounts {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, counted: Mutex::new(CountState::NotYet(Vec::new())) }
    }

    /// So it was when the history ended at `sequence`.
    pub(super) fn begin(&self, mut counts: Counts, sequence: u64) {
        let mut counted = self.lock();
        if let CountState::NotYet(moved) = &mut *counted {
            let later = std::mem::take(moved).into_iter().filter(|(at, _)| *at > sequence);
            later.for_each(|(_, moves)| add(&mut counts, moves));
            *counted = CountState::Whole(counts);
        }
    }

    /// These moves are on disk, in a commit whose last event is `sequence`.
    pub(super) fn note(&self, sequence: u64, moves: Vec<Transition>) {
        match &mut *self.lock() {
            CountState::NotYet(moved) => moved.push((sequence, moves)),
            CountState::Whole(counts) => add(counts, moves),
            CountState::Never => {}
        }
    }

    /// They cannot be counted: what has moved meanwhile is kept for nothing.
    pub(super) fn give_up(&self) {
        *self.lock() = CountState::Never;
    }

    /// None: they are still being counted, or cannot be.
    pub(super) fn counts(&self) -> Option<Counts> {
        match &*self.lock() {
            CountState::NotYet(_) | CountState::Never => None,
            CountState::Whole(counts) => Some(counts.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, CountState> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut Counts, moves: Vec<Transition>) {
    for Transition { from, to } in moves {
        if let Some(left) = from.and_then(|from| counts.get_mut(&from)) {
            *left = left.saturating_sub(1);
        }
        let reached = counts.entry(to).or_default();
        *reached = reached.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_while_it_is_counted_counts_once() {
        let account = AccountName::parse("main").unwrap();
        let at = |state| (account.clone(), state);
        let moved = |from: Option<State>, to| vec![Transition { from: from.map(at), to: at(to) }];
        let tally = StateCounts::new(Metrics::off());
        tally.note(2, moved(None, State::Dispatching));
        tally.note(3, moved(Some(State::Dispatching), State::Succeeded));
        assert_eq!(tally.counts(), None);
        // The snapshot was taken between the two.
        tally.begin(Counts::from([((account.clone(), State::Dispatching), 1)]), 2);
        tally.note(4, moved(None, State::Pending));
        let counts = tally.counts().unwrap();
        let of = |state| counts.get(&(account.clone(), state)).copied();
        assert_eq!((of(State::Dispatching), of(State::Succeeded), of(State::Pending)), (Some(0), Some(1), Some(1)));
    }
}
