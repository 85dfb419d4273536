//! The last answer of each order, bounded in number, in bytes and in age; the oldest goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Key;
use crate::domain::clock::Timestamp;
use crate::domain::validation::ValidationStatus;

/// However old an answer a caller would take: what was true a day ago is no status.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// An ordinary answer takes a few KiB, the largest that is accepted some MiB: without this bound a
/// few hundred of those would fill the memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Answers by order, and by the turn in which they came.
pub(super) struct Cache {
    most_entries: usize,
    most_bytes: usize,
    bytes: usize,
    next_turn: u64,
    entries: HashMap<Key, (u64, Arc<ValidationStatus>)>,
    turns: BTreeMap<u64, Key>,
}

impl Cache {
    /// Of at most so many orders.
    pub(super) fn new(most_entries: usize) -> Self {
        Self::bounded(most_entries, MAX_BYTES)
    }

    fn bounded(most_entries: usize, most_bytes: usize) -> Self {
        Self { most_entries, most_bytes, bytes: 0, next_turn: 0, entries: HashMap::new(), turns: BTreeMap::new() }
    }

    /// An answer that is no older than `max_age`, nor than a day.
    pub(super) fn get(&self, key: &Key, max_age: Duration, now: Timestamp) -> Option<Arc<ValidationStatus>> {
        let (_, status) = self.entries.get(key)?;
        let age = age_of(status, now)?;
        (!max_age.is_zero() && age <= max_age.min(MAX_AGE)).then(|| status.clone())
    }

    /// Takes an answer, and drops what is too old or too much.
    pub(super) fn insert(&mut self, key: Key, status: Arc<ValidationStatus>, now: Timestamp) {
        if let Some((turn, replaced)) = self.entries.remove(&key) {
            self.turns.remove(&turn);
            self.bytes -= replaced.approximate_bytes();
        }
        self.bytes += status.approximate_bytes();
        self.turns.insert(self.next_turn, key.clone());
        self.entries.insert(key, (self.next_turn, status));
        self.next_turn += 1;
        while self.is_too_full(now) {
            self.drop_oldest();
        }
    }

    fn is_too_full(&self, now: Timestamp) -> bool {
        let oldest = self.turns.first_key_value().and_then(|(_, key)| self.entries.get(key));
        let too_old = |status| age_of(status, now).is_none_or(|age| age > MAX_AGE);
        self.entries.len() > self.most_entries
            || self.bytes > self.most_bytes
            || oldest.is_some_and(|(_, status)| too_old(status))
    }

    fn drop_oldest(&mut self) {
        let oldest = self.turns.pop_first().and_then(|(_, key)| self.entries.remove(&key));
        if let Some((_, status)) = oldest {
            self.bytes -= status.approximate_bytes();
        }
    }
}

/// None where the clock was set back: nobody knows then how old the answer is.
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

    fn key(order_number: &str) -> Key {
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
    fn an_answer_is_as_old_as_the_caller_allows(#[case] max_age: u64, #[case] now: i64, #[case] found: bool) {
        let mut cache = Cache::new(10);
        cache.insert(key("1"), status(0, 0), at(0));
        assert_eq!(cache.get(&key("1"), Duration::from_secs(max_age), at(now)).is_some(), found);
        assert!(cache.get(&key("2"), Duration::from_secs(max_age), at(now)).is_none());
    }

    fn kept(cache: &Cache, now: i64) -> Vec<&'static str> {
        ["1", "2", "3", "4"].into_iter().filter(|order| cache.get(&key(order), MAX_AGE, at(now)).is_some()).collect()
    }

    #[test]
    fn beyond_its_bound_the_oldest_goes() {
        let mut cache = Cache::new(3);
        for order in ["1", "2", "3"] {
            cache.insert(key(order), status(0, 0), at(0));
        }
        // Asked for again: it is the youngest now.
        cache.insert(key("1"), status(1, 0), at(1));
        cache.insert(key("4"), status(2, 0), at(2));
        assert_eq!(kept(&cache, 2), ["1", "3", "4"]);
        assert_eq!((cache.entries.len(), cache.turns.len()), (3, 3));
    }

    #[test]
    fn bytes_count_too() {
        let each = status(0, 100_000).approximate_bytes();
        let mut cache = Cache::bounded(100, each * 2 + 1);
        for order in ["1", "2", "3"] {
            cache.insert(key(order), status(0, 100_000), at(0));
        }
        assert_eq!(kept(&cache, 0), ["2", "3"]);
        assert_eq!(cache.bytes, each * 2);
        cache.insert(key("4"), status(0, 1_000_000), at(0));
        assert_eq!(kept(&cache, 0), [""; 0]);
        assert_eq!((cache.bytes, cache.entries.len(), cache.turns.len()), (0, 0, 0));
    }

    #[test]
    fn what_nobody_may_have_any_more_is_dropped() {
        let mut cache = Cache::new(10);
        cache.insert(key("1"), status(0, 0), at(0));
        cache.insert(key("2"), status(25 * 3600, 0), at(25 * 3600));
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let mut cache = Cache::new(0);
        cache.insert(key("1"), status(0, 0), at(0));
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }
}
