//! The circuit breaker of one account: whether refunds may be sent. No I/O, and no clock is read.
//!
//! ```text
//!            credentials refused, or failures in a row
//!   CLOSED --------------------------------------------> OPEN        nothing is sent; after a
//!     ^                                                  |  ^        pause, a probe is due
//!     |                          a lookup was answered   |  | the refund failed: double the pause
//!     | the refund was answered                          v  |
//!     +----------------------------------------------- HALF OPEN   one refund is sent, as a trial
//! ```
//!
//! Results of attempts that were sent before the breaker last opened change nothing, however late
//! they arrive.
//!
//! Only a lookup tests an account while the breaker is open: it moves no money and causes no doubt.
//!
//! An account whose lookups are answered and whose refunds are refused stays CREDENTIALS_REFUSED
//! until a refund is not refused. Lookups in between do not shorten the pause before the next
//! trial.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::outcome::AccountSignal;

/// When the breaker opens, and how long it stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakerSettings {
    /// Consecutive attempts without a usable answer before the breaker opens. At least 1.
    pub failure_threshold: u32,
    /// Consecutive distinct targets reported as not this account's before its credentials are
    /// doubted. At least 1.
    pub foreign_target_threshold: usize,
    /// The pause before the first probe.
    pub open_min: Duration,
    /// The longest pause between two probes.
    pub open_max: Duration,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            foreign_target_threshold: 5,
            open_min: Duration::from_secs(5),
            open_max: Duration::from_secs(300),
        }
    }
}

/// Whether an account takes refunds, by its last answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountHealth {
    /// It does.
    Serving,
    /// The provider gives no usable answer: refunds stay PENDING.
    Suspended,
    /// The provider refuses the credentials: refunds stay PENDING.
    CredentialsRefused,
}

/// What the breaker allows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Any number of refunds may be sent.
    All,
    /// One refund may be sent, as a trial.
    One,
    /// The trial refund is on its way, and nothing else may be sent.
    None,
    /// Nothing may be sent; a probe is due.
    ProbeDue,
    /// Nothing may be sent; a probe is due then.
    Until(Instant),
}

/// The circuit breaker of one account.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    settings: CircuitBreakerSettings,
    state: BreakerState,
    generation: Generation,
}

/// Increments each time the breaker opens. Results of attempts sent in an earlier generation are
/// ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

#[derive(Debug)]
enum BreakerState {
    Closed {
        /// Consecutive failures.
        failures: u32,
        /// The distinct targets of consecutive foreign-target answers.
        foreign_targets: Vec<String>,
    },
    HalfOpen {
        /// The last pause.
        pause: Duration,
        trial_under_way: bool,
        is_read_only: bool,
    },
    Open {
        why: AccountHealth,
        pause: Duration,
        /// When a probe is due.
        until: Instant,
        is_read_only: bool,
    },
}

impl CircuitBreaker {
    pub(super) fn new(settings: CircuitBreakerSettings) -> Self {
        let state = BreakerState::Closed { failures: 0, foreign_targets: Vec::new() };
        Self { settings, state, generation: Generation(0) }
    }

    pub(super) fn health(&self) -> AccountHealth {
        match self.state {
            BreakerState::HalfOpen { is_read_only: true, .. } => AccountHealth::CredentialsRefused,
            BreakerState::Closed { .. } | BreakerState::HalfOpen { .. } => AccountHealth::Serving,
            BreakerState::Open { why, .. } => why,
        }
    }

    /// By its last answers, the provider accepts the login for lookups and refuses it for refunds.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(
            self.state,
            BreakerState::HalfOpen { is_read_only: true, .. } | BreakerState::Open { is_read_only: true, .. }
        )
    }

    /// The state's label in the metrics.
    pub(super) fn state_label(&self, now: Instant) -> &'static str {
        match self.permission(now) {
            Permission::All => "closed",
            // The trials of a read-only account are expected to fail, so it is shown as open
            // throughout.
            Permission::One | Permission::None if !self.is_read_only() => "half_open",
            _ => "open",
        }
    }

    pub(super) fn permission(&self, now: Instant) -> Permission {
        match self.state {
            BreakerState::Closed { .. } => Permission::All,
            BreakerState::HalfOpen { trial_under_way: false, .. } => Permission::One,
            BreakerState::HalfOpen { trial_under_way: true, .. } => Permission::None,
            BreakerState::Open { until, .. } if until <= now => Permission::ProbeDue,
            BreakerState::Open { until, .. } => Permission::Until(until),
        }
    }

    /// The present generation, to be kept with each attempt that is sent in it.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Permits one attempt, which is about to be recorded. In HALF OPEN it becomes the trial. None
    /// if no attempt is allowed.
    pub(super) fn try_acquire(&mut self) -> Option<Generation> {
        let is_allowed = match &mut self.state {
            BreakerState::Closed { .. } => true,
            BreakerState::HalfOpen { trial_under_way, .. } => !std::mem::replace(trial_under_way, true),
            BreakerState::Open { .. } => false,
        };
        is_allowed.then_some(self.generation)
    }

    /// The attempt that was permitted in `generation` was not sent after all.
    pub(super) fn release(&mut self, generation: Generation) {
        if let BreakerState::HalfOpen { trial_under_way, .. } = &mut self.state
            && generation == self.generation
        {
            *trial_under_way = false;
        }
    }

    /// Records what the answer to an attempt says: one for `target`, sent in `generation`.
    pub(super) fn record_result(&mut self, generation: Generation, signal: AccountSignal, target: &str, now: Instant) {
        if generation != self.generation {
            return;
        }
        let CircuitBreakerSettings { failure_threshold, foreign_target_threshold, open_min, .. } = self.settings;
        match &mut self.state {
            BreakerState::Open { .. } => {}
            BreakerState::HalfOpen { pause, .. } => {
                let pause = *pause;
                let next_pause = self.next_pause(pause);
                match signal {
                    AccountSignal::Healthy | AccountSignal::ForeignTarget => self.close(),
                    // HALF OPEN follows an answered lookup, so only refunds are refused.
                    AccountSignal::CredentialsRefused => {
                        self.open(AccountHealth::CredentialsRefused, next_pause, now);
                        if let BreakerState::Open { is_read_only, .. } = &mut self.state {
                            *is_read_only = true;
                        }
                    }
                    AccountSignal::Failure => self.open(AccountHealth::Suspended, next_pause, now),
                }
            }
            BreakerState::Closed { failures, foreign_targets } => match signal {
                AccountSignal::Healthy => self.close(),
                AccountSignal::CredentialsRefused => self.open(AccountHealth::CredentialsRefused, open_min, now),
                AccountSignal::ForeignTarget => {
                    *failures = 0;
                    if !foreign_targets.iter().any(|known| known == target) {
                        foreign_targets.push(target.to_owned());
                    }
                    // One caller's wrong order number, however often it is sent, must not stop the
                    // refunds of all other callers.
                    if foreign_targets.len() >= foreign_target_threshold {
                        self.open(AccountHealth::CredentialsRefused, open_min, now);
                    }
                }
                AccountSignal::Failure => {
                    *failures = failures.saturating_add(1);
                    if *failures >= failure_threshold {
                        self.open(AccountHealth::Suspended, open_min, now);
                    }
                }
            },
        }
    }

    /// Records what the answer to a lookup says. `is_probe`: the lookup was made because the
    /// breaker is open.
    ///
    /// An answer allows one trial refund. A probe without one is repeated after a longer pause.
    pub(super) fn record_lookup(&mut self, signal: AccountSignal, is_probe: bool, now: Instant) {
        let BreakerState::Open { why, pause, is_read_only, .. } = self.state else { return };
        if is_read_only && !is_probe {
            return;
        }
        let is_answered = match signal {
            AccountSignal::Healthy => true,
            // The provider answers again. Whether it accepts the login, this answer does not show.
            AccountSignal::ForeignTarget => why == AccountHealth::Suspended,
            AccountSignal::CredentialsRefused | AccountSignal::Failure => false,
        };
        if is_answered {
            self.state = BreakerState::HalfOpen { pause, trial_under_way: false, is_read_only };
        } else if is_probe {
            self.wait(why, self.next_pause(pause), now);
            if let BreakerState::Open { is_read_only: kept, .. } = &mut self.state {
                *kept = is_read_only;
            }
        }
    }

    /// The refused secret is no longer used: a probe is due now to test the new one, and the pauses
    /// start over.
    pub(super) fn credentials_changed(&mut self, now: Instant) {
        if let BreakerState::Open { why: AccountHealth::CredentialsRefused, pause, until, is_read_only } =
            &mut self.state
        {
            (*pause, *until, *is_read_only) = (self.settings.open_min, now, false);
        }
    }

    fn next_pause(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).min(self.settings.open_max)
    }

    fn close(&mut self) {
        self.state = BreakerState::Closed { failures: 0, foreign_targets: Vec::new() };
    }

    fn open(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.generation.0 += 1;
        self.wait(why, pause, now);
    }

    fn wait(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.state = BreakerState::Open { why, pause, until: now + pause, is_read_only: false };
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SETTINGS: CircuitBreakerSettings = CircuitBreakerSettings {
        failure_threshold: 3,
        foreign_target_threshold: 2,
        open_min: Duration::from_secs(5),
        open_max: Duration::from_secs(20),
    };

    /// The target of an attempt where it does not matter.
    const ANY: &str = "any";

    #[rstest]
    #[case::one_refused_login(vec![(AccountSignal::CredentialsRefused, ANY)], AccountHealth::CredentialsRefused)]
    #[case::consecutive_failures(vec![(AccountSignal::Failure, ANY); 3], AccountHealth::Suspended)]
    #[case::interrupted_failures(
        vec![
            (AccountSignal::Failure, ANY),
            (AccountSignal::Failure, ANY),
            (AccountSignal::Healthy, ANY),
            (AccountSignal::Failure, ANY),
        ],
        AccountHealth::Serving
    )]
    #[case::one_foreign_order_again_and_again(vec![(AccountSignal::ForeignTarget, "1"); 50], AccountHealth::Serving)]
    #[case::distinct_foreign_orders(
        vec![
            (AccountSignal::ForeignTarget, "1"),
            (AccountSignal::ForeignTarget, "1"),
            (AccountSignal::ForeignTarget, "2"),
        ],
        AccountHealth::CredentialsRefused
    )]
    #[case::foreign_orders_with_a_success_between(
        vec![(AccountSignal::ForeignTarget, "1"), (AccountSignal::Healthy, ANY), (AccountSignal::ForeignTarget, "2")],
        AccountHealth::Serving
    )]
    fn the_breaker_opens_after(#[case] results: Vec<(AccountSignal, &str)>, #[case] health: AccountHealth) {
        let mut breaker = CircuitBreaker::new(SETTINGS);
        for (signal, target) in results {
            breaker.record_result(breaker.generation(), signal, target, Instant::now());
        }
        assert_eq!(breaker.health(), health);
        assert_eq!(breaker.try_acquire().is_some(), health == AccountHealth::Serving);
    }

    #[test]
    fn an_answered_lookup_allows_one_refund_whose_answer_decides() {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        breaker.record_result(breaker.generation(), AccountSignal::CredentialsRefused, ANY, begin);
        assert_eq!(breaker.permission(begin), Permission::Until(begin + Duration::from_secs(5)));
        assert_eq!(breaker.permission(begin + Duration::from_secs(5)), Permission::ProbeDue);
        breaker.record_lookup(AccountSignal::Healthy, false, begin);
        assert_eq!(breaker.permission(begin), Permission::One);
        let trial = breaker.try_acquire().unwrap();
        assert_eq!(breaker.try_acquire(), None, "only one");
        assert_eq!(breaker.permission(begin), Permission::None);
        breaker.record_result(trial, AccountSignal::Failure, ANY, begin);
        assert_eq!(
            breaker.permission(begin),
            Permission::Until(begin + Duration::from_secs(10)),
            "the pause is doubled"
        );
        breaker.record_lookup(AccountSignal::Healthy, false, begin);
        let trial = breaker.try_acquire().unwrap();
        breaker.release(trial);
        let trial = breaker.try_acquire().unwrap();
        breaker.record_result(trial, AccountSignal::Healthy, ANY, begin);
        assert_eq!(breaker.permission(begin), Permission::All);
    }

    /// Many attempts stall together, and time out one after the other, long after the first of them
    /// have opened the breaker.
    #[rstest]
    fn results_of_an_earlier_generation_are_ignored(
        #[values(AccountSignal::Failure, AccountSignal::Healthy)] late: AccountSignal,
    ) {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        let before = breaker.try_acquire().unwrap();
        for _ in 0..SETTINGS.failure_threshold {
            breaker.record_result(before, AccountSignal::Failure, ANY, begin);
        }
        breaker.record_lookup(AccountSignal::Healthy, true, begin);
        breaker.record_result(before, late, ANY, begin);
        assert_eq!(breaker.permission(begin), Permission::One);
        let trial = breaker.try_acquire().unwrap();
        breaker.record_result(before, late, ANY, begin);
        breaker.release(before);
        assert_eq!(breaker.permission(begin), Permission::None);
        breaker.record_result(trial, AccountSignal::Healthy, ANY, begin);
        for _ in 0..SETTINGS.failure_threshold {
            breaker.record_result(before, AccountSignal::Failure, ANY, begin);
        }
        assert_eq!(breaker.permission(begin), Permission::All);
    }

    /// Otherwise wrong order numbers at the head of the queue would block all other refunds.
    #[rstest]
    #[case::after_an_outage(AccountSignal::Failure, Permission::One)]
    #[case::while_the_login_is_doubted(AccountSignal::CredentialsRefused, Permission::Until(Instant::now()))]
    fn a_foreign_target_shows_that_the_provider_answers_again(
        #[case] opened_by: AccountSignal,
        #[case] expected: Permission,
    ) {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        for _ in 0..SETTINGS.failure_threshold {
            breaker.record_result(Generation(0), opened_by, ANY, begin);
        }
        breaker.record_lookup(AccountSignal::ForeignTarget, true, begin);
        assert_eq!(breaker.permission(begin) == Permission::One, expected == Permission::One);
    }

    #[rstest]
    #[case::refused(AccountSignal::CredentialsRefused, Permission::ProbeDue, 10)]
    #[case::suspended(AccountSignal::Failure, Permission::Until(Instant::now()), 20)]
    fn a_new_secret_is_probed_immediately_if_the_previous_one_was_refused(
        #[case] opened_by: AccountSignal,
        #[case] expected: Permission,
        #[case] then_seconds: u64,
    ) {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        breaker.credentials_changed(begin);
        assert_eq!(breaker.permission(begin), Permission::All);
        for _ in 0..SETTINGS.failure_threshold {
            breaker.record_result(breaker.generation(), opened_by, ANY, begin);
        }
        breaker.record_lookup(AccountSignal::Failure, true, begin);
        breaker.credentials_changed(begin);
        assert_eq!(std::mem::discriminant(&breaker.permission(begin)), std::mem::discriminant(&expected));
        breaker.record_lookup(AccountSignal::Failure, true, begin);
        assert_eq!(breaker.permission(begin), Permission::Until(begin + Duration::from_secs(then_seconds)));
    }

    /// Observed at name.com: a token that may read orders and not refund them.
    #[test]
    fn a_read_only_account_does_not_flap() {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        breaker.record_result(breaker.generation(), AccountSignal::CredentialsRefused, ANY, begin);
        breaker.record_lookup(AccountSignal::Healthy, false, begin);
        let trial = breaker.try_acquire().unwrap();
        breaker.record_result(trial, AccountSignal::CredentialsRefused, ANY, begin);
        let mut now = begin;
        for pause in [10, 20, 20, 20] {
            for _ in 0..5 {
                breaker.record_lookup(AccountSignal::Healthy, false, now);
                assert_eq!(
                    breaker.permission(now),
                    Permission::Until(now + Duration::from_secs(pause)),
                    "lookups that are not probes change nothing"
                );
            }
            now += Duration::from_secs(pause);
            breaker.record_lookup(AccountSignal::Healthy, true, now);
            assert_eq!(breaker.permission(now), Permission::One);
            assert_eq!((breaker.health(), breaker.state_label(now)), (AccountHealth::CredentialsRefused, "open"));
            let trial = breaker.try_acquire().unwrap();
            breaker.record_result(trial, AccountSignal::CredentialsRefused, ANY, now);
        }
        breaker.record_lookup(AccountSignal::Healthy, true, now + Duration::from_secs(20));
        let trial = breaker.try_acquire().unwrap();
        breaker.record_result(trial, AccountSignal::Healthy, ANY, now);
        assert_eq!((breaker.health(), breaker.permission(now)), (AccountHealth::Serving, Permission::All));
    }

    #[test]
    fn failed_probes_become_rarer_and_never_end() {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        breaker.record_result(breaker.generation(), AccountSignal::CredentialsRefused, ANY, begin);
        for seconds in [10, 20, 20] {
            breaker.record_lookup(AccountSignal::Failure, true, begin);
            assert_eq!(breaker.permission(begin), Permission::Until(begin + Duration::from_secs(seconds)));
        }
        breaker.record_lookup(AccountSignal::Failure, false, begin + Duration::from_secs(1));
        assert_eq!(
            breaker.permission(begin),
            Permission::Until(begin + Duration::from_secs(20)),
            "only a probe changes the pause"
        );
        assert_eq!(breaker.health(), AccountHealth::CredentialsRefused);
    }

    /// What the metrics show. A read-only account answers lookups and refuses refunds.
    #[test]
    fn the_state_label_follows_a_suspended_account_until_it_recovers() {
        let (mut breaker, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        let shown = |breaker: &CircuitBreaker| (breaker.state_label(begin), breaker.is_read_only());
        assert_eq!(shown(&breaker), ("closed", false));
        for _ in 0..SETTINGS.failure_threshold {
            breaker.record_result(breaker.generation(), AccountSignal::Failure, ANY, begin);
        }
        assert_eq!(shown(&breaker), ("open", false));
        breaker.record_lookup(AccountSignal::Healthy, true, begin);
        assert_eq!(shown(&breaker), ("half_open", false));
        let trial = breaker.try_acquire().unwrap();
        assert_eq!(shown(&breaker), ("half_open", false), "the trial is under way");
        breaker.record_result(trial, AccountSignal::CredentialsRefused, ANY, begin);
        assert_eq!(shown(&breaker), ("open", true));
    }
}
