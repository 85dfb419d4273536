//! Idempotency keys in flight: while the first request under a key is not answered, the next one
//! waits, or is told so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

/// The keys of one world's requests that are under way, by account and key.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<AccountAndKey, Arc<Turns<()>>>>);

type AccountAndKey = (String, String);

/// Held by a request from its beginning to its answer.
#[derive(Debug)]
pub(crate) struct InFlight(#[expect(dead_code, reason = "only its end matters")] OwnedMutexGuard<()>);

/// How many keys are kept before those are forgotten that nobody holds.
const KEPT: usize = 1_000;

impl Flights {
    /// The turn of a key, in the order of arrival.
    pub(crate) fn turn(&self, account: &str, key: &str) -> Arc<Turns<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= KEPT {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry((account.to_owned(), key.to_owned())).or_default().clone()
    }

    /// Whether anybody is in flight under a key, or waits for it.
    pub(crate) fn holds(&self, account: &str, key: &str) -> bool {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.get(&(account.to_owned(), key.to_owned()));
        turn.is_some_and(|turn| Arc::strong_count(turn) > 1)
    }
}

impl InFlight {
    /// If nobody is in flight under the key.
    pub(crate) fn now(turn: Arc<Turns<()>>) -> Option<InFlight> {
        turn.try_lock_owned().ok().map(InFlight)
    }

    /// When all earlier ones have been answered.
    pub(crate) async fn when_free(turn: Arc<Turns<()>>) -> InFlight {
        InFlight(turn.lock_owned().await)
    }
}
