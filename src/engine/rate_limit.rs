//! The rate limiter of one account: when its next request may be sent.
//!
//! Two limits apply at once: requests are evenly spaced within a second, and any 60 minutes hold at
//! most a given number of them. Waiting requests are served in the order of their arrival. A
//! request that is dropped while it waits uses up no turn.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::providers::Turns;
use crate::telemetry::metrics::AccountMeter;

const HOUR: Duration = Duration::from_secs(3_600);

/// The limits of one account and the turns taken so far.
pub(super) struct RateLimiter {
    /// Between two requests. Zero: no limit.
    apart: Duration,
    /// In any hour. Zero: no limit.
    per_hour: usize,
    /// Held by the request that waits for the next turn; the others queue for the lock in order.
    line: tokio::sync::Mutex<()>,
    taken: Mutex<Taken>,
    meter: AccountMeter,
}

/// The turns that were taken.
struct Taken {
    /// The earliest time of the next turn, by the limit per second.
    next: Instant,
    /// The times of the last `per_hour` turns, oldest first.
    hour: VecDeque<Instant>,
}

impl RateLimiter {
    /// 0: no bound.
    pub(super) fn new(per_second: u32, per_hour: u32, meter: AccountMeter) -> Self {
        let apart = if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second };
        let per_hour = usize::try_from(per_hour).unwrap_or(usize::MAX);
        let taken = Mutex::new(Taken { next: Instant::now(), hour: VecDeque::new() });
        Self { apart, per_hour, line: tokio::sync::Mutex::default(), taken, meter }
    }

    /// Takes a turn if one is free now and no request waits for it.
    pub(super) fn try_acquire(&self) -> bool {
        if !self.holds_back() {
            return true;
        }
        let is_free = self.line.try_lock().is_ok_and(|_first| self.take().is_ok());
        if is_free {
            self.meter.paced(Duration::ZERO);
        }
        is_free
    }

    /// Waits for a turn and takes it.
    pub(super) async fn acquire(&self) {
        if !self.holds_back() {
            return;
        }
        let start = Instant::now();
        let _first = self.line.lock().await;
        while let Err(free_at) = self.take() {
            tokio::time::sleep_until(free_at).await;
        }
        self.meter.paced(start.elapsed());
    }

    fn holds_back(&self) -> bool {
        !self.apart.is_zero() || self.per_hour > 0
    }

    /// Takes the turn that is free now, or says when the next one is.
    fn take(&self) -> Result<(), Instant> {
        let (mut taken, now) = (self.taken(), Instant::now());
        // Without an hourly limit no times are kept, so none holds a request back.
        let is_full = taken.hour.len() >= self.per_hour;
        let by_the_hour = taken.hour.front().filter(|_| is_full).map(|oldest| *oldest + HOUR);
        let free_at = by_the_hour.map_or(taken.next, |at| at.max(taken.next));
        if free_at > now {
            return Err(free_at);
        }
        taken.next = now + self.apart;
        if self.per_hour > 0 {
            if is_full {
                taken.hour.pop_front();
            }
            taken.hour.push_back(now);
        }
        Ok(())
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Turns for RateLimiter {
    async fn turn(&self) {
        self.acquire().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::domain::ids::{AccountName, Provider};
    use crate::telemetry::metrics::{Metrics, Standing};

    fn limiter(per_second: u32, per_hour: u32) -> RateLimiter {
        RateLimiter::new(per_second, per_hour, AccountMeter::off())
    }

    /// When each of so many turns came, in milliseconds.
    async fn turns(limiter: &RateLimiter, count: usize) -> Vec<u128> {
        let start = Instant::now();
        let mut moments = Vec::new();
        for _ in 0..count {
            limiter.acquire().await;
            moments.push(start.elapsed().as_millis());
        }
        moments
    }

    #[rstest]
    #[case::by_the_second(4, 0, &[0, 250, 500, 750, 1_000])]
    #[case::by_the_hour(0, 2, &[0, 0, 3_600_000, 3_600_000, 7_200_000])]
    #[case::by_both(1, 3, &[0, 1_000, 2_000, 3_600_000, 3_601_000])]
    #[case::by_neither(0, 0, &[0, 0, 0, 0, 0])]
    #[tokio::test(start_paused = true)]
    async fn turns_come_when_both_bounds_allow(#[case] second: u32, #[case] hour: u32, #[case] expected: &[u128]) {
        assert_eq!(turns(&limiter(second, hour), expected.len()).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_nothing_up() {
        let limiter = limiter(10, 0);
        turns(&limiter, 3).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(turns(&limiter, 3).await, [0, 100, 200]);
    }

    #[rstest]
    #[case(1, 0, Duration::from_secs(1))]
    #[case(0, 1, HOUR)]
    #[tokio::test(start_paused = true)]
    async fn a_turn_is_free_or_it_is_not(#[case] second: u32, #[case] hour: u32, #[case] apart: Duration) {
        let limiter = limiter(second, hour);
        assert!(limiter.try_acquire());
        assert!(!limiter.try_acquire());
        tokio::time::advance(apart - Duration::from_millis(1)).await;
        assert!(!limiter.try_acquire());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(limiter.try_acquire());
    }

    #[tokio::test(start_paused = true)]
    async fn none_passes_one_that_waits_and_one_that_gives_up_takes_no_turn() {
        let limiter = limiter(1, 0);
        limiter.acquire().await;
        let mut first = Box::pin(limiter.acquire());
        let mut second = Box::pin(limiter.acquire());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!limiter.try_acquire(), "two stand in line");
        drop(first);
        let start = Instant::now();
        second.await;
        assert_eq!(start.elapsed(), Duration::ZERO, "the turn of the one that gave up is free");
    }

    /// The memory of an account is bounded, however long it is in use.
    #[rstest]
    #[case::by_the_second(4, 0, 0)]
    #[case::by_the_hour(0, 3, 3)]
    #[tokio::test(start_paused = true)]
    async fn no_more_times_are_kept_than_an_hour_holds(#[case] second: u32, #[case] hour: u32, #[case] kept: usize) {
        let limiter = limiter(second, hour);
        turns(&limiter, 8).await;
        assert_eq!(limiter.taken().hour.len(), kept);
    }

    /// A provider's further requests of one lookup are under the limits too.
    #[tokio::test(start_paused = true)]
    async fn a_providers_own_requests_wait_for_their_turns() {
        let limiter = limiter(1, 0);
        let (start, turns): (Instant, &dyn Turns) = (Instant::now(), &limiter);
        turns.turn().await;
        turns.turn().await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    /// Where there is no limit nothing waits, so the metric has no series for the account.
    #[rstest]
    #[case::no_limit(0, 0, false)]
    #[case::by_the_second(1, 0, true)]
    #[case::by_the_hour(0, 9, true)]
    #[tokio::test(start_paused = true)]
    async fn only_an_account_with_a_limit_is_measured(
        #[case] second: u32,
        #[case] hour: u32,
        #[case] is_measured: bool,
    ) {
        let metrics = Metrics::on().unwrap();
        let meter =
            metrics.of_account(&AccountName::parse("main").unwrap(), Provider::Sectigo, "provider.example", 443);
        let limiter = RateLimiter::new(second, hour, meter);
        assert!(limiter.try_acquire());
        limiter.acquire().await;
        let text = metrics.scraped(Standing::default()).unwrap();
        let count = text.lines().find(|line| line.starts_with("recoup_pacing_wait_duration_seconds_count"));
        assert_eq!(count.map(|line| line.ends_with(" 2")), is_measured.then_some(true), "{count:?}");
    }

    proptest! {
        #[test]
        fn no_hour_and_no_second_holds_more(
            second in 0..4_u32, hour in 0..6_u32, pauses in proptest::collection::vec(0..4_000_000_u64, 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let limiter = limiter(second, hour);
                let mut taken: Vec<Instant> = Vec::new();
                for pause in pauses {
                    limiter.acquire().await;
                    taken.push(Instant::now());
                    // Most pauses are short, so that the bounds are met.
                    tokio::time::advance(Duration::from_millis(if pause % 3 == 0 { pause } else { pause % 400 })).await;
                }
                for (length, bound) in [(Duration::from_secs(1), second), (HOUR, hour)] {
                    let bound = usize::try_from(bound).unwrap();
                    let holds_more = |window: &[Instant]| window[bound] - window[0] < length - Duration::from_millis(5);
                    prop_assert!(bound == 0 || !taken.windows(bound + 1).any(holds_more), "{taken:?}");
                }
                Ok(())
            })?;
        }
    }
}
