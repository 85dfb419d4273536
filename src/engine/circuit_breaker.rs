//! Whether an account is sent refunds at all. It does no I/O and reads no clock.
//!
//! ```text
//!            credentials refused, or a streak of failures
//!   CLOSED ---------------------------------------------------> OPEN    nothing is sent; after a pause, a look
//!     ^                                                          |  ^
//!     | it was answered                  a look was answered     |  | it failed; the pause is doubled
//!     |                                                          v  |
//!     +------------------------------------------------------- HALF OPEN   one refund is sent
//! ```
//!
//! What was sent before the account was last shut decides nothing, however late it is answered.
//!
//! Only a lookup tests an account in OPEN: it moves no money, and leaves no doubt.
//!
//! An account whose lookups are answered and whose refunds are refused stays CREDENTIALS_REFUSED
//! until a refund is not refused. Lookups in between do not shorten the pause before the next
//! trial.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::AccountHealth;

/// When an account is shut, and when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakerSettings {
    /// So many attempts on end of which nothing was heard, and the account is shut. At least 1.
    pub failures: u32,
    /// So many different targets on end that the provider says are not this account's, and its
    /// credentials are doubted. At least 1.
    pub strangers: usize,
    /// Until it is tried for the first time.
    pub shortest_pause: Duration,
    /// However often it was tried in vain.
    pub longest_pause: Duration,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            strangers: 5,
            shortest_pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// What an answer tells of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// The provider has looked at the request itself.
    Healthy,
    /// It does not know the login, or not from here.
    CredentialsRefused,
    /// It says that the target is not this account's: a wrong target, or a wrong login.
    ForeignTarget(String),
    /// Nothing was heard, or nothing that can be believed.
    Failure,
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Everything.
    All,
    /// One refund may be sent.
    One,
    /// One refund is on its way, and its answer decides.
    None,
    /// Nothing may be sent; a look is due.
    ProbeDue,
    /// Nothing at all until then.
    Until(Instant),
}

/// One account's circuit.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    settings: CircuitBreakerSettings,
    position: BreakerState,
    era: Generation,
}

/// Between one shutting of the account and the next. What was on its way when it was shut says
/// nothing new, however late it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

#[derive(Debug)]
enum BreakerState {
    Closed { failures: u32, strangers: Vec<String> },
    HalfOpen { pause: Duration, under_way: bool, is_read_only: bool },
    Open { why: AccountHealth, pause: Duration, until: Instant, is_read_only: bool },
}

impl CircuitBreaker {
    pub(super) fn new(settings: CircuitBreakerSettings) -> Self {
        Self { settings, position: BreakerState::Closed { failures: 0, strangers: Vec::new() }, era: Generation(0) }
    }

    pub(super) fn health(&self) -> AccountHealth {
        match self.position {
            BreakerState::HalfOpen { is_read_only: true, .. } => AccountHealth::CredentialsRefused,
            BreakerState::Closed { .. } | BreakerState::HalfOpen { .. } => AccountHealth::Serving,
            BreakerState::Open { why, .. } => why,
        }
    }

    /// By its last answers, the provider accepts the login for lookups and refuses it for refunds.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(
            self.position,
            BreakerState::HalfOpen { is_read_only: true, .. } | BreakerState::Open { is_read_only: true, .. }
        )
    }

    /// The label used in the metrics.
    pub(super) fn position(&self, now: Instant) -> &'static str {
        match self.stance(now) {
            Permission::All => "closed",
            // The trials of a read-only account are expected to fail, so it is shown as open
            // throughout.
            Permission::One | Permission::None if !self.is_read_only() => "half_open",
            _ => "open",
        }
    }

    pub(super) fn stance(&self, now: Instant) -> Permission {
        match self.position {
            BreakerState::Closed { .. } => Permission::All,
            BreakerState::HalfOpen { under_way: false, .. } => Permission::One,
            BreakerState::HalfOpen { under_way: true, .. } => Permission::None,
            BreakerState::Open { until, .. } if until <= now => Permission::ProbeDue,
            BreakerState::Open { until, .. } => Permission::Until(until),
        }
    }

    /// The present one, to be noted with what is sent in it.
    pub(super) fn era(&self) -> Generation {
        self.era
    }

    /// A refund is about to be recorded as sent. Where only one may be, this one is it; none where
    /// none may be.
    pub(super) fn try_acquire_probe(&mut self) -> Option<Generation> {
        let has_turn = match &mut self.position {
            BreakerState::Closed { .. } => true,
            BreakerState::HalfOpen { under_way, .. } => !std::mem::replace(under_way, true),
            BreakerState::Open { .. } => false,
        };
        has_turn.then_some(self.era)
    }

    /// The refund that took its turn in `era` was not sent after all.
    pub(super) fn release(&mut self, era: Generation) {
        if let BreakerState::HalfOpen { under_way, .. } = &mut self.position
            && era == self.era
        {
            *under_way = false;
        }
    }

    /// What the answer to an attempt that was sent in `era` told.
    pub(super) fn note(&mut self, era: Generation, sign: Signal, now: Instant) {
        if era != self.era {
            return;
        }
        let CircuitBreakerSettings { failures: most_failures, strangers: most_strangers, shortest_pause, .. } =
            self.settings;
        match &mut self.position {
            BreakerState::Open { .. } => {}
            BreakerState::HalfOpen { pause, .. } => {
                let pause = *pause;
                let longer = self.longer(pause);
                match sign {
                    Signal::Healthy | Signal::ForeignTarget(_) => self.close(),
                    // HALF OPEN follows an answered lookup, so only refunds are refused.
                    Signal::CredentialsRefused => {
                        self.open(AccountHealth::CredentialsRefused, longer, now);
                        if let BreakerState::Open { is_read_only, .. } = &mut self.position {
                            *is_read_only = true;
                        }
                    }
                    Signal::Failure => self.open(AccountHealth::Suspended, longer, now),
                }
            }
            BreakerState::Closed { failures, strangers } => match sign {
                Signal::Healthy => self.close(),
                Signal::CredentialsRefused => self.open(AccountHealth::CredentialsRefused, shortest_pause, now),
                Signal::ForeignTarget(target) => {
                    *failures = 0;
                    if !strangers.contains(&target) {
                        strangers.push(target);
                    }
                    // One caller's wrong order number, however often it is sent, must not shut
                    // everybody out.
                    if strangers.len() >= most_strangers {
                        self.open(AccountHealth::CredentialsRefused, shortest_pause, now);
                    }
                }
                Signal::Failure => {
                    *failures = failures.saturating_add(1);
                    if *failures >= most_failures {
                        self.open(AccountHealth::Suspended, shortest_pause, now);
                    }
                }
            },
        }
    }

    /// What a look at the provider told. Where it answers, one refund may try whether more is
    /// possible; the look that was due, and was in vain, is made again later.
    pub(super) fn record_probe(&mut self, sign: &Signal, is_due: bool, now: Instant) {
        let BreakerState::Open { why, pause, is_read_only, .. } = self.position else { return };
        if is_read_only && !is_due {
            return;
        }
        let answers = match sign {
            Signal::Healthy => true,
            // It is there again. Whether it takes the login is what this answer does not tell.
            Signal::ForeignTarget(_) => why == AccountHealth::Suspended,
            Signal::CredentialsRefused | Signal::Failure => false,
        };
        if answers {
            self.position = BreakerState::HalfOpen { pause, under_way: false, is_read_only };
        } else if is_due {
            self.wait(why, self.longer(pause), now);
            if let BreakerState::Open { is_read_only: kept, .. } = &mut self.position {
                *kept = is_read_only;
            }
        }
    }

    /// The refused secret is no longer used: a lookup is due now to test the new one, and the
    /// pauses start over.
    pub(super) fn credentials_changed(&mut self, now: Instant) {
        if let BreakerState::Open { why: AccountHealth::CredentialsRefused, pause, until, is_read_only } =
            &mut self.position
        {
            (*pause, *until, *is_read_only) = (self.settings.shortest_pause, now, false);
        }
    }

    fn longer(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).min(self.settings.longest_pause)
    }

    fn close(&mut self) {
        self.position = BreakerState::Closed { failures: 0, strangers: Vec::new() };
    }

    fn open(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.era.0 += 1;
        self.wait(why, pause, now);
    }

    fn wait(&mut self, why: AccountHealth, pause: Duration, now: Instant) {
        self.position = BreakerState::Open { why, pause, until: now + pause, is_read_only: false };
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SETTINGS: CircuitBreakerSettings = CircuitBreakerSettings {
        failures: 3,
        strangers: 2,
        shortest_pause: Duration::from_secs(5),
        longest_pause: Duration::from_secs(20),
    };

    fn foreign_target(target: &str) -> Signal {
        Signal::ForeignTarget(target.to_owned())
    }

    #[rstest]
    #[case::a_refused_login_at_once(vec![Signal::CredentialsRefused], AccountHealth::CredentialsRefused)]
    #[case::a_streak(vec![Signal::Failure, Signal::Failure, Signal::Failure], AccountHealth::Suspended)]
    #[case::a_streak_broken(vec![Signal::Failure, Signal::Failure, Signal::Healthy, Signal::Failure], AccountHealth::Serving)]
    #[case::one_wrong_order_for_ever(vec![foreign_target("1"); 50], AccountHealth::Serving)]
    #[case::different_wrong_orders(vec![foreign_target("1"), foreign_target("1"), foreign_target("2")], AccountHealth::CredentialsRefused)]
    #[case::a_success_between(vec![foreign_target("1"), Signal::Healthy, foreign_target("2")], AccountHealth::Serving)]
    fn it_is_shut_by(#[case] signs: Vec<Signal>, #[case] health: AccountHealth) {
        let mut circuit = CircuitBreaker::new(SETTINGS);
        for sign in signs {
            circuit.note(circuit.era(), sign, Instant::now());
        }
        assert_eq!(circuit.health(), health);
        assert_eq!(circuit.try_acquire_probe().is_some(), health == AccountHealth::Serving);
    }

    #[test]
    fn a_look_opens_it_for_one_refund_and_that_one_decides() {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Signal::CredentialsRefused, begin);
        assert_eq!(circuit.stance(begin), Permission::Until(begin + Duration::from_secs(5)));
        assert_eq!(circuit.stance(begin + Duration::from_secs(5)), Permission::ProbeDue);
        circuit.record_probe(&Signal::Healthy, false, begin);
        assert_eq!(circuit.stance(begin), Permission::One);
        let trial = circuit.try_acquire_probe().unwrap();
        assert_eq!(circuit.try_acquire_probe(), None, "one, and no more");
        assert_eq!(circuit.stance(begin), Permission::None);
        circuit.note(trial, Signal::Failure, begin);
        assert_eq!(circuit.stance(begin), Permission::Until(begin + Duration::from_secs(10)), "for longer");
        circuit.record_probe(&Signal::Healthy, false, begin);
        let trial = circuit.try_acquire_probe().unwrap();
        circuit.release(trial);
        let trial = circuit.try_acquire_probe().unwrap();
        circuit.note(trial, Signal::Healthy, begin);
        assert_eq!(circuit.stance(begin), Permission::All);
    }

    /// Many attempts stall together, and are given up one after the other, long after the first of
    /// them have shut the account.
    #[rstest]
    fn what_was_sent_before_it_was_shut_decides_nothing(#[values(Signal::Failure, Signal::Healthy)] late: Signal) {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        let before = circuit.try_acquire_probe().unwrap();
        for _ in 0..SETTINGS.failures {
            circuit.note(before, Signal::Failure, begin);
        }
        circuit.record_probe(&Signal::Healthy, true, begin);
        circuit.note(before, late.clone(), begin);
        assert_eq!(circuit.stance(begin), Permission::One);
        let trial = circuit.try_acquire_probe().unwrap();
        circuit.note(before, late, begin);
        circuit.release(before);
        assert_eq!(circuit.stance(begin), Permission::None);
        circuit.note(trial, Signal::Healthy, begin);
        for _ in 0..SETTINGS.failures {
            circuit.note(before, Signal::Failure, begin);
        }
        assert_eq!(circuit.stance(begin), Permission::All);
    }

    /// With wrong order numbers first in the queue nothing else would ever be sent again.
    #[rstest]
    #[case::after_an_outage(Signal::Failure, Permission::One)]
    #[case::while_the_login_is_in_doubt(Signal::CredentialsRefused, Permission::Until(Instant::now()))]
    fn an_answer_about_somebody_elses_order_shows_that_the_provider_is_there(
        #[case] shut_by: Signal,
        #[case] expected: Permission,
    ) {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        for _ in 0..SETTINGS.failures {
            circuit.note(Generation(0), shut_by.clone(), begin);
        }
        circuit.record_probe(&foreign_target("1"), true, begin);
        assert_eq!(circuit.stance(begin) == Permission::One, expected == Permission::One);
    }

    #[rstest]
    #[case::refused(Signal::CredentialsRefused, Permission::ProbeDue, 10)]
    #[case::suspended(Signal::Failure, Permission::Until(Instant::now()), 20)]
    fn a_new_secret_is_tried_at_once_where_the_one_before_was_refused(
        #[case] shut_by: Signal,
        #[case] expected: Permission,
        #[case] then_seconds: u64,
    ) {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        circuit.credentials_changed(begin);
        assert_eq!(circuit.stance(begin), Permission::All);
        for _ in 0..SETTINGS.failures {
            circuit.note(circuit.era(), shut_by.clone(), begin);
        }
        circuit.record_probe(&Signal::Failure, true, begin);
        circuit.credentials_changed(begin);
        assert_eq!(std::mem::discriminant(&circuit.stance(begin)), std::mem::discriminant(&expected));
        circuit.record_probe(&Signal::Failure, true, begin);
        assert_eq!(circuit.stance(begin), Permission::Until(begin + Duration::from_secs(then_seconds)));
    }

    /// Observed at name.com: a token that may read orders and not refund them.
    #[test]
    fn a_read_only_account_does_not_flap() {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Signal::CredentialsRefused, begin);
        circuit.record_probe(&Signal::Healthy, false, begin);
        let trial = circuit.try_acquire_probe().unwrap();
        circuit.note(trial, Signal::CredentialsRefused, begin);
        let mut now = begin;
        for pause in [10, 20, 20, 20] {
            for _ in 0..5 {
                circuit.record_probe(&Signal::Healthy, false, now);
                assert_eq!(
                    circuit.stance(now),
                    Permission::Until(now + Duration::from_secs(pause)),
                    "other lookups say nothing"
                );
            }
            now += Duration::from_secs(pause);
            circuit.record_probe(&Signal::Healthy, true, now);
            assert_eq!(circuit.stance(now), Permission::One);
            assert_eq!((circuit.health(), circuit.position(now)), (AccountHealth::CredentialsRefused, "open"));
            let trial = circuit.try_acquire_probe().unwrap();
            circuit.note(trial, Signal::CredentialsRefused, now);
        }
        circuit.record_probe(&Signal::Healthy, true, now + Duration::from_secs(20));
        let trial = circuit.try_acquire_probe().unwrap();
        circuit.note(trial, Signal::Healthy, now);
        assert_eq!((circuit.health(), circuit.stance(now)), (AccountHealth::Serving, Permission::All));
    }

    #[test]
    fn looks_in_vain_become_rarer_and_never_end() {
        let (mut circuit, begin) = (CircuitBreaker::new(SETTINGS), Instant::now());
        circuit.note(circuit.era(), Signal::CredentialsRefused, begin);
        for seconds in [10, 20, 20] {
            circuit.record_probe(&Signal::Failure, true, begin);
            assert_eq!(circuit.stance(begin), Permission::Until(begin + Duration::from_secs(seconds)));
        }
        circuit.record_probe(&Signal::Failure, false, begin + Duration::from_secs(1));
        assert_eq!(
            circuit.stance(begin),
            Permission::Until(begin + Duration::from_secs(20)),
            "not the look that was due"
        );
        assert_eq!(circuit.health(), AccountHealth::CredentialsRefused);
    }
}
