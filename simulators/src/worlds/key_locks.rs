//! Locks on idempotency keys: while the first request under a key is in progress, the next one
//! waits or is refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::request::Provider;

/// The keys of one world's requests in progress, by provider, account and key.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<AccountKey, Arc<AsyncMutex<()>>>>);

type AccountKey = (Provider, String, String);

/// Held by a request until it is answered.
#[derive(Debug)]
pub(crate) struct KeyGuard(#[expect(dead_code, reason = "dropping it unlocks the key")] OwnedMutexGuard<()>);

/// The number of keys from which unlocked ones are removed.
const MAX_UNLOCKED: usize = 1_000;

impl KeyLocks {
    /// Locks a key. None if it is locked already.
    pub(crate) fn try_lock(&self, provider: Provider, account: &str, key: &str) -> Option<KeyGuard> {
        self.mutex(provider, account, key).try_lock_owned().ok().map(KeyGuard)
    }

    /// Locks a key when all earlier requests have been answered.
    pub(crate) async fn lock(&self, provider: Provider, account: &str, key: &str) -> KeyGuard {
        let mutex = self.mutex(provider, account, key);
        KeyGuard(mutex.lock_owned().await)
    }

    /// Whether a request holds a key or waits for it.
    pub(crate) fn is_locked(&self, provider: Provider, account: &str, key: &str) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mutex = keys.get(&(provider, account.to_owned(), key.to_owned()));
        mutex.is_some_and(|mutex| Arc::strong_count(mutex) > 1)
    }

    fn mutex(&self, provider: Provider, account: &str, key: &str) -> Arc<AsyncMutex<()>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_UNLOCKED {
            keys.retain(|_, mutex| Arc::strong_count(mutex) > 1);
        }
        keys.entry((provider, account.to_owned(), key.to_owned())).or_default().clone()
    }
}
