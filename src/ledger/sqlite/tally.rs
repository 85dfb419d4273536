//! Refunds counted by account and state, and commits timed: for an operator, and only where somebody measures.
//!
//! Counted once at the start and then from what each transaction has moved, so that a look at a million refunds costs nothing. It is right
//! the moment a commit has returned, and before any caller hears of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::AccountName;
use crate::domain::state::State;
use crate::telemetry::metrics::Metrics;

/// One refund's way through one job, whatever lay between.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) account: AccountName,
    /// None: it is new.
    pub(super) from: Option<State>,
    pub(super) to: State,
}

/// The counts, and what times the commits.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) metrics: Metrics,
    counts: Mutex<Counts>,
}

/// How many refunds of an account are in a state.
pub(super) type Counts = BTreeMap<(AccountName, State), u64>;

impl Tally {
    pub(super) fn new(metrics: Metrics, counts: Counts) -> Self {
        Self { metrics, counts: Mutex::new(counts) }
    }

    /// These moves are on disk.
    pub(super) fn note(&self, moves: Vec<Move>) {
        let mut counts = self.lock();
        for Move { account, from, to } in moves {
            if let Some(left) = from.and_then(|from| counts.get_mut(&(account.clone(), from))) {
                *left = left.saturating_sub(1);
            }
            let reached = counts.entry((account, to)).or_default();
            *reached = reached.saturating_add(1);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
