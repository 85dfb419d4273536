//! The last answer of each order, bounded by number, bytes and age; the oldest is evicted first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::AccountOrder;
use crate::domain::clock::Timestamp;
use crate::domain::validation::ValidationStatus;

/// Maximum age of a cached answer, whatever the caller accepts: a status of yesterday is not a
/// status.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Maximum size of the cache. A usual answer takes a few KiB, but the largest one takes some MiB,
/// and a few hundred of those would exhaust the memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Answers by order, and in the sequence of their insertion.
pub(super) struct Cache {
    max_entries: usize,
    max_bytes: usize,
    bytes: usize,
    next_sequence: u64,
    entries: HashMap<AccountOrder, (u64, Arc<ValidationStatus>)>,
    insertion_order: BTreeMap<u64, AccountOrder>,
}

impl Cache {
    pub(super) fn new(max_entries: usize) -> Self {
        Self::bounded(max_entries, MAX_BYTES)
    }

    fn bounded(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            max_entries,
            max_bytes,
            bytes: 0,
            next_sequence: 0,
            entries: HashMap::new(),
            insertion_order: BTreeMap::new(),
        }
    }

    /// An answer no older than `max_age` and no older than a day.
    pub(super) fn get(&self, key: &AccountOrder, max_age: Duration, now: Timestamp) -> Option<Arc<ValidationStatus>> {
        let (_, status) = self.entries.get(key)?;
        let age = age_of(status, now)?;
        (!max_age.is_zero() && age <= max_age.min(MAX_AGE)).then(|| status.clone())
    }

    /// Inserts an answer and evicts what is too old or too much.
    pub(super) fn insert(&mut self, key: AccountOrder, status: Arc<ValidationStatus>, now: Timestamp) {
        if let Some((sequence, replaced)) = self.entries.remove(&key) {
            self.insertion_order.remove(&sequence);
            self.bytes -= replaced.approximate_bytes();
        }
        self.bytes += status.approximate_bytes();
        self.insertion_order.insert(self.next_sequence, key.clone());
        self.entries.insert(key, (self.next_sequence, status));
        self.next_sequence += 1;
        while self.must_evict(now) {
            self.evict_oldest();
        }
    }

    fn must_evict(&self, now: Timestamp) -> bool {
        let oldest = self.insertion_order.first_key_value().and_then(|(_, key)| self.entries.get(key));
        let too_old = |status| age_of(status, now).is_none_or(|age| age > MAX_AGE);
        self.entries.len() > self.max_entries
            || self.bytes > self.max_bytes
            || oldest.is_some_and(|(_, status)| too_old(status))
    }

    fn evict_oldest(&mut self) {
        let oldest = self.insertion_order.pop_first().and_then(|(_, key)| self.entries.remove(&key));
        if let Some((_, status)) = oldest {
            self.bytes -= status.approximate_bytes();
        }
    }
}

/// None if the clock was set back: then the age is unknown.
fn age_of(status: &ValidationStatus, now: Timestamp) -> Option<Duration> {
    (now >= status.fetch_time()).then(|| now.saturating_duration_since(status.fetch_time()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::domain::ids::AccountName;
    use crate::domain::validation::{OrderKey, StatusAnswer, ValidationPage};

    const FETCHED: i64 = 1_000_000;

    fn key(order_number: &str) -> AccountOrder {
        (AccountName::parse("sectigo").unwrap(), OrderKey::new(order_number, 0, "").unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(FETCHED + seconds)
    }

    fn status(fetched: i64, bytes: usize) -> Arc<ValidationStatus> {
        let page = ValidationPage { product_name: "x".repeat(bytes), ..ValidationPage::default() };
        Arc::new(ValidationStatus::new(StatusAnswer { page, upload_document_token: None }, at(fetched)))
    }

    #[rstest]
    #[case::fresh(60, 0, true)]
    #[case::just_young_enough(60, 60, true)]
    #[case::too_old(60, 61, false)]
    #[case::none_allowed(0, 0, false)]
    #[case::a_day(1_000_000, 24 * 3600, true)]
    #[case::more_than_a_day(1_000_000, 24 * 3600 + 1, false)]
    #[case::clock_set_back(60, -1, false)]
    fn an_answer_is_no_older_than_the_caller_accepts(#[case] max_age: u64, #[case] now: i64, #[case] found: bool) {
        let mut cache = Cache::new(10);
        cache.insert(key("1"), status(0, 0), at(0));
        assert_eq!(cache.get(&key("1"), Duration::from_secs(max_age), at(now)).is_some(), found);
        assert!(cache.get(&key("2"), Duration::from_secs(max_age), at(now)).is_none());
    }

    fn kept(cache: &Cache, now: i64) -> Vec<&'static str> {
        ["1", "2", "3", "4"].into_iter().filter(|order| cache.get(&key(order), MAX_AGE, at(now)).is_some()).collect()
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_evicted() {
        let mut cache = Cache::new(3);
        for order in ["1", "2", "3"] {
            cache.insert(key(order), status(0, 0), at(0));
        }
        // Read again, so it is the youngest now.
        cache.insert(key("1"), status(1, 0), at(1));
        cache.insert(key("4"), status(2, 0), at(2));
        assert_eq!(kept(&cache, 2), ["1", "3", "4"]);
        assert_eq!((cache.entries.len(), cache.insertion_order.len()), (3, 3));
    }

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let each = status(0, 100_000).approximate_bytes();
        let mut cache = Cache::bounded(100, each * 2 + 1);
        for order in ["1", "2", "3"] {
            cache.insert(key(order), status(0, 100_000), at(0));
        }
        assert_eq!(kept(&cache, 0), ["2", "3"]);
        assert_eq!(cache.bytes, each * 2);
        cache.insert(key("4"), status(0, 1_000_000), at(0));
        assert_eq!(kept(&cache, 0), [""; 0]);
        assert_eq!((cache.bytes, cache.entries.len(), cache.insertion_order.len()), (0, 0, 0));
    }

    #[test]
    fn an_answer_too_old_for_every_caller_is_evicted() {
        let mut cache = Cache::new(10);
        cache.insert(key("1"), status(0, 0), at(0));
        cache.insert(key("2"), status(25 * 3600, 0), at(25 * 3600));
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn a_cache_without_entries_keeps_nothing() {
        let mut cache = Cache::new(0);
        cache.insert(key("1"), status(0, 0), at(0));
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }
}
