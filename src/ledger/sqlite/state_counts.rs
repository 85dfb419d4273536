//! Refunds counted by account and state, for metrics.
//!
//! They are counted once at the start, while writes go on, and then from the transitions of each
//! transaction, so that a metric over a million refunds costs nothing. The counts include a commit
//! before its callers get their replies.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::telemetry::metrics::Metrics;

/// The account and state of one refund before and after one job.
#[derive(Debug)]
pub(super) struct Transition {
    /// None: the refund is new.
    pub(super) from: Option<(AccountName, State)>,
    pub(super) to: (AccountName, State),
}

/// The counts, and the metrics that commits are reported to.
#[derive(Debug)]
pub(super) struct StateCounts {
    pub(super) metrics: Metrics,
    state: Mutex<CountState>,
}

#[derive(Debug)]
enum CountState {
    /// The transitions since the start, each commit's with its last event.
    Counting(Vec<(u64, Vec<Transition>)>),
    Counted(Counts),
    Failed,
}

/// How many refunds of an account are in a state.
pub(super) type Counts = BTreeMap<(AccountName, State), u64>;

impl StateCounts {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, state: Mutex::new(CountState::Counting(Vec::new())) }
    }

    /// Sets the counts as of the event `sequence`, and adds the transitions after it.
    pub(super) fn begin(&self, mut counts: Counts, sequence: u64) {
        let mut state = self.lock();
        if let CountState::Counting(commits) = &mut *state {
            let later = std::mem::take(commits).into_iter().filter(|(at, _)| *at > sequence);
            later.for_each(|(_, transitions)| add(&mut counts, transitions));
            *state = CountState::Counted(counts);
        }
    }

    /// Adds the transitions of a commit whose last event is `sequence`.
    pub(super) fn record(&self, sequence: u64, transitions: Vec<Transition>) {
        match &mut *self.lock() {
            CountState::Counting(commits) => commits.push((sequence, transitions)),
            CountState::Counted(counts) => add(counts, transitions),
            CountState::Failed => {}
        }
    }

    /// The count has failed: drops the transitions kept for it.
    pub(super) fn give_up(&self) {
        *self.lock() = CountState::Failed;
    }

    /// None: not counted yet, or the count has failed.
    pub(super) fn counts(&self) -> Option<Counts> {
        match &*self.lock() {
            CountState::Counting(_) | CountState::Failed => None,
            CountState::Counted(counts) => Some(counts.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, CountState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut Counts, transitions: Vec<Transition>) {
    for Transition { from, to } in transitions {
        if let Some(count) = from.and_then(|from| counts.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        let count = counts.entry(to).or_default();
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_during_the_count_counts_once() {
        let account = AccountName::parse("main").unwrap();
        let at = |state| (account.clone(), state);
        let transition = |from: Option<State>, to| vec![Transition { from: from.map(at), to: at(to) }];
        let counts = StateCounts::new(Metrics::off());
        counts.record(2, transition(None, State::Dispatching));
        counts.record(3, transition(Some(State::Dispatching), State::Succeeded));
        assert_eq!(counts.counts(), None);
        // The snapshot was taken between the two.
        counts.begin(Counts::from([((account.clone(), State::Dispatching), 1)]), 2);
        counts.record(4, transition(None, State::Pending));
        let counts = counts.counts().unwrap();
        let of = |state| counts.get(&(account.clone(), state)).copied();
        assert_eq!((of(State::Dispatching), of(State::Succeeded), of(State::Pending)), (Some(0), Some(1), Some(1)));
    }
}
