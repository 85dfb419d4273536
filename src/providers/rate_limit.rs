//! The rate limiter of one account: when its next request may be sent. There is one for refunds and
//! their lookups, and one for validation statuses.
//!
//! Two limits apply together: requests are evenly spaced within a second, and any 60 minutes hold
//! at most a given number of them. Waiting requests are served in the order of their arrival. A
//! request that is dropped while it waits does not count.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::providers::RequestLimiter;
use crate::telemetry::metrics::AccountMeter;

const HOUR: Duration = Duration::from_secs(3_600);

/// The limits of one account and the requests sent so far.
pub struct RateLimiter {
    /// The least time between two requests. Zero: no limit.
    interval: Duration,
    /// Requests in any hour. Zero: no limit.
    per_hour: usize,
    /// Held by the first waiting request; the others wait for the lock in the order of their
    /// arrival.
    queue: tokio::sync::Mutex<()>,
    usage: Mutex<Usage>,
    meter: AccountMeter,
}

/// What the limits are applied to.
struct Usage {
    /// The earliest time of the next request, by the limit per second.
    next: Instant,
    /// The times of the last `per_hour` requests, oldest first.
    hour: VecDeque<Instant>,
}

impl RateLimiter {
    /// 0: no limit.
    pub fn new(per_second: u32, per_hour: u32, meter: AccountMeter) -> Self {
        let interval = if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second };
        let per_hour = usize::try_from(per_hour).unwrap_or(usize::MAX);
        let usage = Mutex::new(Usage { next: Instant::now(), hour: VecDeque::new() });
        Self { interval, per_hour, queue: tokio::sync::Mutex::default(), usage, meter }
    }

    /// Permits a request now, unless a limit forbids it or another request waits.
    pub fn try_acquire(&self) -> bool {
        if !self.is_enabled() {
            return true;
        }
        let is_free = self.queue.try_lock().is_ok_and(|_first| self.try_take().is_ok());
        if is_free {
            self.meter.record_pacing(Duration::ZERO);
        }
        is_free
    }

    /// Waits until the request may be sent.
    pub async fn acquire(&self) {
        if !self.is_enabled() {
            return;
        }
        let start = Instant::now();
        let _first = self.queue.lock().await;
        while let Err(free_at) = self.try_take() {
            tokio::time::sleep_until(free_at).await;
        }
        self.meter.record_pacing(start.elapsed());
    }

    fn is_enabled(&self) -> bool {
        !self.interval.is_zero() || self.per_hour > 0
    }

    /// Counts a request that is sent now.
    ///
    /// # Errors
    /// The time at which the next request may be sent, if that is later.
    fn try_take(&self) -> Result<(), Instant> {
        let (mut usage, now) = (self.usage(), Instant::now());
        // Without an hourly limit no times are kept, so none delays a request.
        let is_full = usage.hour.len() >= self.per_hour;
        let by_hour = usage.hour.front().filter(|_| is_full).map(|oldest| *oldest + HOUR);
        let free_at = by_hour.map_or(usage.next, |at| at.max(usage.next));
        if free_at > now {
            return Err(free_at);
        }
        usage.next = now + self.interval;
        if self.per_hour > 0 {
            if is_full {
                usage.hour.pop_front();
            }
            usage.hour.push_back(now);
        }
        Ok(())
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RequestLimiter for RateLimiter {
    async fn acquire(&self) {
        self.acquire().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::domain::ids::{AccountName, ProviderKind};
    use crate::telemetry::metrics::{GaugeSnapshot, Metrics};

    fn limiter(per_second: u32, per_hour: u32) -> RateLimiter {
        RateLimiter::new(per_second, per_hour, AccountMeter::off())
    }

    /// The times at which `count` requests were permitted, in milliseconds.
    async fn permitted_at(limiter: &RateLimiter, count: usize) -> Vec<u128> {
        let start = Instant::now();
        let mut times = Vec::new();
        for _ in 0..count {
            limiter.acquire().await;
            times.push(start.elapsed().as_millis());
        }
        times
    }

    #[rstest]
    #[case::per_second(4, 0, &[0, 250, 500, 750, 1_000])]
    #[case::per_hour(0, 2, &[0, 0, 3_600_000, 3_600_000, 7_200_000])]
    #[case::both(1, 3, &[0, 1_000, 2_000, 3_600_000, 3_601_000])]
    #[case::neither(0, 0, &[0, 0, 0, 0, 0])]
    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_both_limits(#[case] second: u32, #[case] hour: u32, #[case] expected: &[u128]) {
        assert_eq!(permitted_at(&limiter(second, hour), expected.len()).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_time_permits_no_burst() {
        let limiter = limiter(10, 0);
        permitted_at(&limiter, 3).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(permitted_at(&limiter, 3).await, [0, 100, 200]);
    }

    #[rstest]
    #[case(1, 0, Duration::from_secs(1))]
    #[case(0, 1, HOUR)]
    #[tokio::test(start_paused = true)]
    async fn try_acquire_permits_a_request_only_within_the_limits(
        #[case] second: u32,
        #[case] hour: u32,
        #[case] interval: Duration,
    ) {
        let limiter = limiter(second, hour);
        assert!(limiter.try_acquire());
        assert!(!limiter.try_acquire());
        tokio::time::advance(interval - Duration::from_millis(1)).await;
        assert!(!limiter.try_acquire());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(limiter.try_acquire());
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_overtakes_a_waiting_one_and_a_dropped_one_does_not_count() {
        let limiter = limiter(1, 0);
        limiter.acquire().await;
        let mut first = Box::pin(limiter.acquire());
        let mut second = Box::pin(limiter.acquire());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!limiter.try_acquire(), "two requests wait");
        drop(first);
        let start = Instant::now();
        second.await;
        assert_eq!(start.elapsed(), Duration::ZERO, "the dropped request did not count");
    }

    /// The memory of an account is bounded, however long it is in use.
    #[rstest]
    #[case::by_the_second(4, 0, 0)]
    #[case::by_the_hour(0, 3, 3)]
    #[tokio::test(start_paused = true)]
    async fn no_more_times_are_kept_than_an_hour_holds(#[case] second: u32, #[case] hour: u32, #[case] kept: usize) {
        let limiter = limiter(second, hour);
        permitted_at(&limiter, 8).await;
        assert_eq!(limiter.usage().hour.len(), kept);
    }

    /// The further requests of one lookup are under the limits, too.
    #[tokio::test(start_paused = true)]
    async fn further_requests_of_an_adapter_wait_for_both_limits() {
        let limiter = limiter(1, 0);
        let (start, adapters_limiter): (Instant, &dyn RequestLimiter) = (Instant::now(), &limiter);
        adapters_limiter.acquire().await;
        adapters_limiter.acquire().await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    /// Without a limit nothing waits, so the metric has no series for the account.
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
            metrics.for_account(&AccountName::parse("main").unwrap(), ProviderKind::Sectigo, "provider.example", 443);
        let limiter = RateLimiter::new(second, hour, meter);
        assert!(limiter.try_acquire());
        limiter.acquire().await;
        let text = metrics.render(GaugeSnapshot::default()).unwrap();
        let count = text.lines().find(|line| line.starts_with("recoup_pacing_wait_duration_seconds_count"));
        assert_eq!(count.map(|line| line.ends_with(" 2")), is_measured.then_some(true), "{count:?}");
    }

    proptest! {
        #[test]
        fn neither_limit_is_ever_exceeded(
            second in 0..4_u32, hour in 0..6_u32, pauses in proptest::collection::vec(0..4_000_000_u64, 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let limiter = limiter(second, hour);
                let mut permitted: Vec<Instant> = Vec::new();
                for pause in pauses {
                    limiter.acquire().await;
                    permitted.push(Instant::now());
                    // Most pauses are short, so that the limits are reached.
                    tokio::time::advance(Duration::from_millis(if pause % 3 == 0 { pause } else { pause % 400 })).await;
                }
                for (length, bound) in [(Duration::from_secs(1), second), (HOUR, hour)] {
                    let bound = usize::try_from(bound).unwrap();
                    let holds_more = |window: &[Instant]| window[bound] - window[0] < length - Duration::from_millis(5);
                    prop_assert!(bound == 0 || !permitted.windows(bound + 1).any(holds_more), "{permitted:?}");
                }
                Ok(())
            })?;
        }
    }
}
